package noise

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"log/slog"
	"strings"
	"testing"

	"resonatebridge/resonate/pairing"
)

// TestSecretsDoNotShow prints, logs and marshals what holds a key, in each state
// of a handshake, and looks for the keys.
func TestSecretsDoNotShow(t *testing.T) {
	p := newParty(t)
	for _, suite := range Suites() {
		client, init := p.responder(suite)
		server := p.initiator(p.lt())
		waiting := *server
		step, err := server.Feed(false, init)
		if err != nil {
			t.Fatal(err)
		}
		ephemeral := bytes.Clone(server.state.hs.LocalEphemeral().Private)
		underWay := *server
		keys := map[string][]byte{
			"server": p.server.PrivateKey(), "client": p.client.PrivateKey(),
			"record": p.record.Bytes(), "token": p.token.Bytes(), "ephemeral": ephemeral,
		}
		wantHidden(t, keys, map[string]any{
			"a handshake that waits": waiting, "its pointer": &waiting, "a handshake under way": underWay, "pointer to it": server,
			"client's handshake": client, "its value": *client, "configuration": server.cfg, "of the client": client.cfg,
			"match": Match{PSK: p.record}, "step": step,
		})

		if _, err = client.Feed(false, step.Send[0]); err != nil {
			t.Fatal(err)
		}
		answer, err := client.Feed(false, step.Send[1])
		if err != nil {
			t.Fatal(err)
		}
		end, err := server.Feed(false, answer.Send[0])
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(server.state.keys.static, make([]byte, 32)) || !bytes.Equal(server.state.hs.LocalEphemeral().Private, make([]byte, 32)) {
			t.Error("private keys are still there after the handshake")
		}
		// Transport keys with a known value, as the handshake's are out of reach.
		key := bytes.Repeat([]byte{0xa7}, 32)
		keys["transport"] = key
		c := end.Channel
		d, err := newDirection(suite, [32]byte(key))
		if err != nil {
			t.Fatal(err)
		}
		c.Send, c.Receive = &Sealer{direction: d}, &Opener{d}
		wantHidden(t, keys, map[string]any{
			"channel": c, "channel's value": *c, "sealer": c.Send, "sealer's value": *c.Send, "opener": c.Receive, "opener's value": *c.Receive,
			"step with a channel": end, "in a struct": struct{ c *Channel }{c}, "pairing": c.Pairing(false),
		})
	}
}

func wantHidden(t *testing.T, keys map[string][]byte, values map[string]any) {
	t.Helper()
	spellings := map[string]string{}
	for name, key := range keys {
		numbers := strings.Trim(fmt.Sprintf("%v", key), "[]")
		spellings[name+" in hex"] = hex.EncodeToString(key[:16])
		spellings[name+" in base64"] = base64.StdEncoding.EncodeToString(key[:15])
		spellings[name+" in base64url"] = base64.RawURLEncoding.EncodeToString(key[:15])
		spellings[name+" in numbers"] = numbers[:len(numbers)/2]
		spellings[name+" raw"] = string(key)
		spellings[name+" in Go"] = strings.TrimSuffix(strings.TrimPrefix(fmt.Sprintf("%#v", key[:8]), "[]byte{"), "}")
	}
	for what, v := range values {
		shown := map[string]string{}
		for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%d", "%t"} {
			shown[verb] = fmt.Sprintf(verb, v)
		}
		if data, err := json.Marshal(v); err == nil {
			shown["json"] = string(data)
		}
		var b bytes.Buffer
		slog.New(slog.NewTextHandler(&b, nil)).Info("m", slog.Any("v", v))
		slog.New(slog.NewJSONHandler(&b, nil)).Info("m", slog.Any("v", v))
		shown["slog"] = b.String()
		for how, text := range shown {
			for spelling, secret := range spellings {
				if strings.Contains(strings.ToLower(text), strings.ToLower(secret)) {
					t.Errorf("%s with %s shows the key %s: %.300q", what, how, spelling, text)
				}
			}
		}
	}
}

// TestErrorsDoNotShowKeys: errors of a handshake that fails late.
func TestErrorsDoNotShowKeys(t *testing.T) {
	p := newParty(t)
	server, client := p.connect(t, AESGCM, pairing.Sentinel())
	_, _, err := rehandshake(t, server, client, p.lt(), nil)
	if err == nil {
		t.Fatal("got no error")
	}
	if text := err.Error(); strings.Contains(text, p.lt().ID()) || strings.Contains(text, hex.EncodeToString(p.record.Bytes())) {
		t.Errorf("got %s", text)
	}
}
