//go:build linux

package chaos

import (
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"resonatebridge/resonate/client"
	"resonatebridge/tests/internal/scene"
)

// TestSecretsDoNotLeave has a bridge with a password and a paired speaker, and
// looks for what is secret wherever something comes out: in the log of all levels,
// in every topic, in what status and doctor print, which people paste into
// reports, and in the stacks that a crash prints.
func TestSecretsDoNotLeave(t *testing.T) {
	t.Parallel()
	const password = "correct-horse-7391"
	h := furnish(t, "RESONATE_MQTT_USERNAME=somebody", "RESONATE_MQTT_PASSWORD="+password, "GOTRACEBACK=system")
	memory, err := client.OpenMemory("")
	if err != nil {
		t.Fatal(err)
	}
	scene.StartSpeaker(t, client.PlayerOptions{Name: "Sealed", Dialect: "G2", Memory: memory, Listen: h.at(speakerPort)})
	h.broker.Start()
	h.listening(brokerPort)
	h.watch = scene.Watch(t, "mqtt://"+h.at(brokerPort), nil)
	h.bridge.Start()
	id := ""
	h.watch.Until("the speaker is known", func(topics scene.Topics) bool {
		if ids := topics.Speakers(); len(ids) == 1 && topics.Is(topic(ids[0], "trust"), "unapproved") {
			id = ids[0]
		}
		return id != ""
	})
	token := memory.Token().Reveal()
	h.watch.Send(topic(id, "set/pair"), token)
	h.watch.Is(topic(id, "trust"), "paired")

	var all strings.Builder
	for _, m := range h.watch.Since(0) {
		if !strings.Contains(m, "/set/pair") { // our own
			all.WriteString(m + "\n")
		}
	}
	for _, args := range [][]string{{"status"}, {"status", "--json"}, {"doctor"}} {
		p := scene.NewProcess(t, args[0], h.bridge.Env, append([]string{program(t)}, args...)...)
		p.Start()
		if _, err := p.Wait(patience); p.Printed() == "" {
			t.Errorf("%v printed nothing: %v", args, err)
		}
		all.WriteString(p.Printed())
	}
	h.bridge.Signal(syscall.SIGQUIT)
	if _, err := h.bridge.Wait(end + slack); err == nil {
		t.Error("the bridge ended without an error")
	}
	all.WriteString(h.bridge.Printed())
	for _, want := range []string{"goroutine ", "somebody", "Sealed", "resonate/bridge/info"} { // it is searched for in the right places
		if !strings.Contains(all.String(), want) {
			t.Errorf("%q is nowhere", want)
		}
	}

	secrets := map[string]string{"the password": password, "the token": token}
	for name, key := range kept(t, h.dir) {
		for how, text := range map[string]string{
			"base64url": base64.RawURLEncoding.EncodeToString(key), "base64": base64.RawStdEncoding.EncodeToString(key),
			"hex": hex.EncodeToString(key), "decimal": strings.Trim(fmt.Sprintf("%d", key), "[]"), "words": words(key),
		} {
			secrets[name+" in "+how] = text
		}
	}
	for name, secret := range secrets {
		if at := strings.Index(all.String(), secret); at >= 0 {
			t.Errorf("%s is shown: ...%.60q", name, all.String()[max(0, at-60):at])
		}
	}
}

// kept are the keys in a data directory.
func kept(t *testing.T, dir string) map[string][]byte {
	t.Helper()
	keys := map[string][]byte{}
	key, err := os.ReadFile(filepath.Join(dir, "identity.key"))
	if err != nil {
		t.Fatal(err)
	}
	var book struct{ Records []struct{ PSK string } }
	data, err := os.ReadFile(filepath.Join(dir, "pairings.json"))
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(data, &book); err != nil || len(book.Records) != 1 {
		t.Fatalf("%d records, %v; want one", len(book.Records), err)
	}
	for name, text := range map[string]string{"the identity": strings.TrimSpace(string(key)), "the record": book.Records[0].PSK} {
		raw, err := base64.RawURLEncoding.DecodeString(text)
		if err != nil || len(raw) != 32 {
			t.Fatalf("%s: %d bytes, %v", name, len(raw), err)
		}
		keys[name] = raw
	}
	return keys
}

// words is how a stack shows a key that is passed by value: its first 8 bytes, as
// a number.
func words(key []byte) string {
	b := slices.Clone(key[:8])
	slices.Reverse(b)
	return "0x" + strings.TrimLeft(hex.EncodeToString(b), "0")
}
