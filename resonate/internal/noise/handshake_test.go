package noise

import (
	"bytes"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"

	"resonatebridge/resonate/pairing"
	"resonatebridge/resonate/protocol"

	"pgregory.net/rapid"
)

// party is what both sides bring to handshakes.
type party struct {
	server, client pairing.Identity
	record         protocol.PSK // long-term key of the two
	token          protocol.PSK // pairing key of the client
}

func newParty(t testing.TB) *party {
	t.Helper()
	fresh := func() pairing.Identity {
		id, err := pairing.NewIdentity(rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		return id
	}
	return &party{server: fresh(), client: fresh(), record: pskOf(t, run(0xc0)), token: pskOf(t, run(0xe0))}
}

// keys are those of the client.
func (p *party) keys(category pairing.Category, id string) (Match, bool) {
	for _, c := range []pairing.Credential{p.lt(), p.pr()} {
		if c.Category == category && c.Is(id) {
			return Match{PSK: c.PSK, Server: p.server.Public()}, true
		}
	}
	return Match{}, false
}

func (p *party) lt() pairing.Credential {
	return pairing.Credential{PSK: p.record, Category: pairing.LongTerm}
}

func (p *party) pr() pairing.Credential {
	return pairing.Credential{PSK: p.token, Category: pairing.PairingKey}
}

func (p *party) initiator(used pairing.Credential) *HandshakeInitiator {
	return NewHandshakeInitiator(ServerConfig{
		Identity: p.server, Choose: func(pairing.PublicKey) (pairing.Credential, error) { return used, nil },
	})
}

func (p *party) responder(s Suite) (*HandshakeResponder, []byte) {
	return NewHandshakeResponder(ClientConfig{Identity: p.client, Suite: s, Keys: p.keys})
}

// connect makes a connection whose server uses a key.
func (p *party) connect(t testing.TB, s Suite, used pairing.Credential) (server, client *Channel) {
	t.Helper()
	c, init := p.responder(s)
	server, client, _, _ = shake(t, p.initiator(used), c, init)
	return server, client
}

// rehandshake replaces the keys of a connection.
func rehandshake(t testing.TB, server, client *Channel, used pairing.Credential, keys Lookup) (nextServer, nextClient *Channel, err error) {
	t.Helper()
	frame, h, err := server.Rehandshake(nil, used)
	if err != nil {
		return nil, nil, err
	}
	text := openHandshake(t, client, frame)
	frame, nextClient, err = client.Answer(nil, text, keys)
	if err != nil {
		return nil, nil, err
	}
	step, err := h.Feed(false, openHandshake(t, server, frame))
	return step.Channel, nextClient, err
}

func openHandshake(t testing.TB, c *Channel, frame []byte) []byte {
	t.Helper()
	message, err := c.Receive.Open(nil, frame)
	if err != nil {
		t.Fatal(err)
	}
	text, ok := HandshakeText(message)
	if !ok {
		t.Fatalf("%q is no handshake", message)
	}
	return text
}

func TestKeyCategories(t *testing.T) {
	p := newParty(t)
	other := pairing.Credential{PSK: pskOf(t, run(0x50)), Category: pairing.LongTerm}
	for _, s := range Suites() {
		for _, tc := range []struct {
			name     string
			used     pairing.Credential
			category pairing.Category
			mismatch bool
		}{
			{"record", p.lt(), pairing.LongTerm, false},
			{"token", p.pr(), pairing.PairingKey, false},
			{"nothing", pairing.Sentinel(), pairing.SentinelID, false},
			{"a record that the client lost", other, pairing.SentinelID, true},
			{"a token as a record", pairing.Credential{PSK: p.token, Category: pairing.LongTerm}, pairing.SentinelID, true},
			{"a record as a token", pairing.Credential{PSK: p.record, Category: pairing.PairingKey}, pairing.SentinelID, true},
		} {
			t.Run(s.String()+" "+tc.name, func(t *testing.T) {
				server, client := p.connect(t, s, tc.used)
				for _, end := range []*Channel{server, client} {
					if end.Category != tc.category || end.Mismatch != tc.mismatch {
						t.Errorf("got %q, mismatch %v, want %q, %v", end.Category, end.Mismatch, tc.category, tc.mismatch)
					}
				}
				if server.Hash != client.Hash || server.Peer != p.client.Public() || client.Peer != p.server.Public() {
					t.Error("the sides disagree on the hash or on each other")
				}
				talk(t, server, client)
			})
		}
	}
}

// TestOldClient is the client of the generation before against our server.
func TestOldClient(t *testing.T) {
	p := newParty(t)
	old := func() (*HandshakeResponder, []byte) {
		return NewHandshakeResponder(ClientConfig{Identity: p.client, Suite: AESGCM, Keys: p.keys, Old: true})
	}
	for _, used := range []pairing.Credential{p.lt(), p.pr(), pairing.Sentinel()} {
		c, init := old()
		server, client, _, _ := shake(t, p.initiator(used), c, init)
		if client.Category != used.Category || server.Category != used.Category {
			t.Errorf("got %q and %q, want %q", client.Category, server.Category, used.Category)
		}
		talk(t, server, client)
		nextServer, nextClient, err := rehandshake(t, server, client, p.lt(), p.keys)
		if err != nil {
			t.Fatal(err)
		}
		talk(t, nextServer, nextClient)
	}
	c, init := old()
	step, err := p.initiator(pairing.Credential{PSK: pskOf(t, run(0x50)), Category: pairing.LongTerm}).Feed(false, init)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Feed(false, step.Send[0]); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Feed(false, step.Send[1]); !errors.Is(err, ErrUnknownPSK) {
		t.Errorf("an unknown key: got %v, want %v: it knew no Sentinel in its place", err, ErrUnknownPSK)
	}
}

func TestClientInitRefused(t *testing.T) {
	p := newParty(t)
	id := p.client.ID()
	good := fmt.Sprintf(`{"type":"client/init","payload":{"client_id":%q,"version":1,"suite":"25519_AESGCM_SHA256"}}`, id)
	with := func(old, new string) string {
		if !strings.Contains(good, old) {
			t.Fatalf("%q is not in %s", old, good)
		}
		return strings.Replace(good, old, new, 1)
	}
	for name, tc := range map[string]struct {
		text string
		want InitReason
	}{
		"good":                             {good, ""},
		"members in another order":         {fmt.Sprintf(`{"payload":{"suite":"25519_AESGCM_SHA256","version":1,"client_id":%q},"type":"client/init"}`, id), ""},
		"members that nobody knows":        {with(`"version":1`, `"version":1,"later":[1,2]`), ""},
		"spaces":                           {"\n" + with(`"version":1`, `"version" : 1 `), ""},
		"nothing":                          {"", ReasonMalformed},
		"no JSON":                          {"GET / HTTP/1.1", ReasonMalformed},
		"more after it":                    {good + "{}", ReasonMalformed},
		"no UTF-8":                         {with("client_id", "client_\xff"), ReasonMalformed},
		"a list":                           {"[" + good + "]", ReasonMalformed},
		"null":                             {"null", ReasonMalformed},
		"a client of the plaintext family": {`{"type":"client/hello","payload":{"client_id":"x","name":"x","version":1,"supported_roles":[]}}`, ReasonMalformed},
		"type in another case":             {with(`"type"`, `"Type"`), ReasonMalformed},
		"no payload":                       {`{"type":"client/init"}`, ReasonMalformed},
		"payload is null":                  {`{"type":"client/init","payload":null}`, ReasonMalformed},
		"no version":                       {with(`"version":1,`, ``), ReasonMalformed},
		"version is a text":                {with(`:1,`, `:"1",`), ReasonMalformed},
		"version is true":                  {with(`:1,`, `:true,`), ReasonMalformed},
		"version is no integer":            {with(`:1,`, `:1.5,`), ReasonMalformed},
		"version in another spelling":      {with(`:1,`, `:1e0,`), ReasonMalformed},
		"version 2":                        {with(`:1,`, `:2,`), ReasonUnsupportedVersion},
		"version 0":                        {with(`:1,`, `:0,`), ReasonUnsupportedVersion},
		"version -1":                       {with(`:1,`, `:-1,`), ReasonUnsupportedVersion},
		"version of 40 digits":             {with(`:1,`, `:`+strings.Repeat("9", 40)+`,`), ReasonUnsupportedVersion},
		"version 2 and all else wrong":     {`{"type":"client/init","payload":{"version":2,"client_id":7}}`, ReasonUnsupportedVersion},
		"no suite":                         {with(`,"suite":"25519_AESGCM_SHA256"`, ``), ReasonMalformed},
		"suite is a number":                {with(`"25519_AESGCM_SHA256"`, `1`), ReasonMalformed},
		"another suite":                    {with(`AESGCM`, `AESOCB`), ReasonUnsupportedSuite},
		"another suite and no id":          {`{"type":"client/init","payload":{"version":1,"suite":"x"}}`, ReasonUnsupportedSuite},
		"the whole name of the suite":      {with(`"25519_`, `"Noise_KKpsk2_25519_`), ReasonUnsupportedSuite},
		"no id":                            {with(`"client_id"`, `"id"`), ReasonMalformed},
		"id is short":                      {with(id, id[:42]), ReasonMalformed},
		"id in another alphabet":           {with(id, "!"+id[1:]), ReasonMalformed},
		"too long":                         {good + strings.Repeat(" ", maxText), ReasonMalformed},
	} {
		t.Run(name, func(t *testing.T) {
			step, err := p.initiator(pairing.Sentinel()).Feed(false, []byte(tc.text))
			if tc.want == "" {
				if err != nil || len(step.Send) != 2 {
					t.Fatalf("got %v", err)
				}
				return
			}
			var refused *InitError
			if !errors.As(err, &refused) || refused.Reason != tc.want {
				t.Fatalf("got %v, want it refused as %s", err, tc.want)
			}
			want := `{"type":"server/error","payload":{"reason":"` + string(tc.want) + `"}}`
			if got := string(refused.Answer()); got != want || !json.Valid([]byte(got)) {
				t.Errorf("answer: got %s, want %s", got, want)
			}
			if len(err.Error()) > 300 {
				t.Errorf("the error has %d bytes", len(err.Error()))
			}
			if step.Send != nil || step.Channel != nil {
				t.Error("there is an answer beside the error")
			}
			// The client shows why, as a hint.
			client, _ := p.responder(AESGCM)
			var told *RefusedError
			if _, err := client.Feed(false, refused.Answer()); !errors.As(err, &told) || told.Reason != tc.want {
				t.Errorf("client: got %v", err)
			}
		})
	}
	var refused *InitError
	if _, err := p.initiator(pairing.Sentinel()).Feed(true, []byte(good)); !errors.As(err, &refused) || refused.Reason != ReasonMalformed {
		t.Errorf("a binary message: got %v", err)
	}
}

// wantSilent checks that an error is none that is answered.
func wantSilent(t testing.TB, err, want error) {
	t.Helper()
	var answered *InitError
	if err == nil || errors.As(err, &answered) || want != nil && !errors.Is(err, want) {
		t.Fatalf("got %v, want a silent %v", err, want)
	}
}

func TestServerFailures(t *testing.T) {
	p := newParty(t)
	opened := func(t *testing.T) (*HandshakeInitiator, []byte) { // and the right answer
		t.Helper()
		client, init := p.responder(ChaChaPoly)
		h := p.initiator(p.lt())
		step, err := h.Feed(false, init)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := client.Feed(false, step.Send[0]); err != nil {
			t.Fatal(err)
		}
		answer, err := client.Feed(false, step.Send[1])
		if err != nil {
			t.Fatal(err)
		}
		return h, answer.Send[0]
	}
	for name, tc := range map[string]struct {
		change func(text []byte) []byte
		binary bool
		want   error
	}{
		"binary":               {func(b []byte) []byte { return b }, true, ErrMalformed},
		"no JSON":              {func([]byte) []byte { return []byte("x") }, false, ErrMalformed},
		"another type":         {func(b []byte) []byte { return bytes.Replace(b, []byte("noise/handshake"), []byte("client/hello"), 1) }, false, ErrMalformed},
		"client/init again":    {func([]byte) []byte { return formatClientInit(p.client.Public(), ChaChaPoly) }, false, ErrMalformed},
		"no data":              {func([]byte) []byte { return []byte(`{"type":"noise/handshake","payload":{}}`) }, false, ErrMalformed},
		"data with a line end": {func([]byte) []byte { return []byte(`{"type":"noise/handshake","payload":{"data":"AA\nAA"}}`) }, false, ErrMalformed},
		"data with padding":    {func([]byte) []byte { return []byte(`{"type":"noise/handshake","payload":{"data":"AA=="}}`) }, false, ErrMalformed},
		"empty data":           {func([]byte) []byte { return formatHandshake(nil) }, false, ErrHandshake},
		"short data":           {func([]byte) []byte { return formatHandshake(run(1)) }, false, ErrHandshake},
		"a low-order key":      {func([]byte) []byte { return formatHandshake(make([]byte, 50)) }, false, ErrHandshake},
		"longer data": {func(b []byte) []byte {
			m, _ := parseHandshake(b)
			return formatHandshake(append(m, 0))
		}, false, ErrHandshake},
		"far too long": {func(b []byte) []byte { return append(b, bytes.Repeat([]byte(" "), maxText)...) }, false, ErrMalformed},
	} {
		t.Run(name, func(t *testing.T) {
			h, good := opened(t)
			_, err := h.Feed(tc.binary, tc.change(bytes.Clone(good)))
			wantSilent(t, err, tc.want)
			_, err = h.Feed(false, good) // there is no second try
			wantSilent(t, err, ErrTurn)
		})
	}
	h, good := opened(t)
	if step, err := h.Feed(false, good); err != nil || step.Channel == nil {
		t.Fatalf("the right answer: %v", err)
	}
	_, err := h.Feed(false, good)
	wantSilent(t, err, ErrTurn)
}

func TestServerDoesNotChoose(t *testing.T) {
	p := newParty(t)
	boom := errors.New("another client was expected here")
	_, init := p.responder(ChaChaPoly)
	for name, tc := range map[string]struct {
		choose func(pairing.PublicKey) (pairing.Credential, error)
		init   []byte
		want   error
	}{
		"an error":         {func(pairing.PublicKey) (pairing.Credential, error) { return pairing.Credential{}, boom }, init, boom},
		"no key":           {func(pairing.PublicKey) (pairing.Credential, error) { return pairing.Credential{}, nil }, init, ErrUnknownPSK},
		"a low-order id":   {func(pairing.PublicKey) (pairing.Credential, error) { return p.lt(), nil }, formatClientInit(pairing.PublicKey{}, AESGCM), ErrHandshake},
		"a low-order id 2": {func(pairing.PublicKey) (pairing.Credential, error) { return p.lt(), nil }, formatClientInit(pairing.PublicKey{1}, AESGCM), ErrHandshake},
	} {
		t.Run(name, func(t *testing.T) {
			step, err := NewHandshakeInitiator(ServerConfig{Identity: p.server, Choose: tc.choose}).Feed(false, tc.init)
			wantSilent(t, err, tc.want)
			if step.Send != nil {
				t.Error("something would be sent")
			}
		})
	}
	_, err := NewHandshakeInitiator(ServerConfig{Choose: func(pairing.PublicKey) (pairing.Credential, error) { return p.lt(), nil }}).Feed(false, init)
	wantSilent(t, err, nil)
}

func TestClientFailures(t *testing.T) {
	p := newParty(t)
	serverInit := string(formatServerInit(p.server.Public()))
	for name, tc := range map[string]struct {
		text   string
		binary bool
		want   error
	}{
		"binary":       {serverInit, true, ErrMalformed},
		"no JSON":      {"x", false, ErrMalformed},
		"another type": {strings.Replace(serverInit, "server/init", "server/hello", 1), false, ErrMalformed},
		"version 2":    {strings.Replace(serverInit, ":1", ":2", 1), false, ErrVersion},
		"version 1.0":  {strings.Replace(serverInit, ":1", ":1.0", 1), false, ErrVersion},
		"bad id":       {strings.Replace(serverInit, p.server.ID(), "x", 1), false, ErrMalformed},
		"a refusal":    {`{"type":"server/error","payload":{"reason":"malformed"}}`, false, nil},
		"an odd one":   {`{"type":"server/error","payload":{"reason":7}}`, false, nil},
	} {
		t.Run(name, func(t *testing.T) {
			h, _ := p.responder(AESGCM)
			_, err := h.Feed(tc.binary, []byte(tc.text))
			wantSilent(t, err, tc.want)
			_, err = h.Feed(false, []byte(serverInit))
			wantSilent(t, err, ErrTurn)
		})
	}

	// Message 1 with each payload, correctly encrypted.
	for name, tc := range map[string]struct {
		payload string
		want    error
	}{
		"no JSON":             {"x", ErrMalformed},
		"empty":               {"", ErrMalformed},
		"a list":              {"[]", ErrMalformed},
		"no id":               {`{"psk_category":"lt"}`, ErrMalformed},
		"id is a number":      {`{"psk_id":1,"psk_category":"lt"}`, ErrMalformed},
		"no category":         {`{"psk_id":"` + p.lt().ID() + `"}`, ErrMalformed},
		"category is null":    {`{"psk_id":"` + p.lt().ID() + `","psk_category":null}`, ErrMalformed},
		"an unknown category": {`{"psk_id":"` + p.lt().ID() + `","psk_category":"zz"}`, ErrMalformed},
		"no UTF-8":            {"{\"psk_id\":\"\xff\",\"psk_category\":\"lt\"}", ErrMalformed},
		"good":                {string(formatReference(p.lt())), nil},
		"with more members":   {`{"later":1,"psk_category":"lt","psk_id":"` + p.lt().ID() + `"}`, nil},
	} {
		t.Run("payload: "+name, func(t *testing.T) {
			h, init := p.responder(AESGCM)
			s, err := begin(Channel{Suite: AESGCM, own: p.server, Peer: p.client.Public()}, append(init, serverInit...), true)
			if err != nil {
				t.Fatal(err)
			}
			m, _, _, err := s.hs.WriteMessage(nil, []byte(tc.payload))
			if err != nil {
				t.Fatal(err)
			}
			if _, err := h.Feed(false, []byte(serverInit)); err != nil {
				t.Fatal(err)
			}
			step, err := h.Feed(false, formatHandshake(m))
			if tc.want == nil {
				if err != nil || step.Channel == nil || step.Channel.Category != pairing.LongTerm {
					t.Fatalf("got %v, %v", step.Channel, err)
				}
				return
			}
			wantSilent(t, err, tc.want)
			if step.Send != nil || step.Channel != nil {
				t.Error("something would be sent")
			}
		})
	}
}

// TestMisbinding: a key of another server is no miss, so the Sentinel does not
// stand in for it.
func TestMisbinding(t *testing.T) {
	p := newParty(t)
	for _, old := range []bool{false, true} {
		client, init := NewHandshakeResponder(ClientConfig{
			Identity: p.client, Suite: ChaChaPoly, Old: old,
			Keys: func(category pairing.Category, id string) (Match, bool) {
				return Match{PSK: p.record, Server: p.client.Public()}, category == pairing.LongTerm && p.lt().Is(id)
			},
		})
		step, err := p.initiator(p.lt()).Feed(false, init)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := client.Feed(false, step.Send[0]); err != nil {
			t.Fatal(err)
		}
		_, err = client.Feed(false, step.Send[1])
		wantSilent(t, err, ErrMisbound)
	}
}

// TestTamperedHandshake flips a bit of what either side sends, in the clear or
// not. No tampering leads to a channel.
func TestTamperedHandshake(t *testing.T) {
	p := newParty(t)
	rapid.Check(t, func(rt *rapid.T) {
		suite := rapid.SampledFrom(Suites()).Draw(rt, "suite")
		used := rapid.SampledFrom([]pairing.Credential{p.lt(), p.pr(), pairing.Sentinel()}).Draw(rt, "key")
		victim := rapid.IntRange(0, 3).Draw(rt, "message")
		at := rapid.IntRange(0, 1<<16).Draw(rt, "bit")
		n := 0
		on := func(text []byte) []byte {
			text = bytes.Clone(text)
			if n == victim {
				if m, err := parseHandshake(text); err == nil { // the Noise message, not its spelling
					m[at/8%len(m)] ^= 1 << (at % 8)
					text = formatHandshake(m)
				} else {
					text[at/8%len(text)] ^= 1 << (at % 8)
				}
			}
			n++
			return text
		}
		server := p.initiator(used)
		client, init := p.responder(suite)
		step, err := server.Feed(false, on(init))
		if err != nil {
			return
		}
		if _, err := client.Feed(false, on(step.Send[0])); err != nil {
			return
		}
		answer, err := client.Feed(false, on(step.Send[1]))
		if err != nil {
			return
		}
		end, err := server.Feed(false, on(answer.Send[0]))
		if err == nil && end.Channel != nil {
			rt.Fatalf("a channel in spite of a changed bit in message %d", victim)
		}
	})
}

// TestHandshakeBindsEveryByte changes what both sides have sent in the clear so that
// it says the same. Without those bytes in the prologue they would go on.
func TestHandshakeBindsEveryByte(t *testing.T) {
	p := newParty(t)
	for victim, name := range []string{"nothing", "client/init", "server/init"} {
		server := p.initiator(p.lt())
		client, init := p.responder(AESGCM)
		on := func(n int, text []byte) []byte {
			if n == victim {
				return bytes.Replace(text, []byte(`"version":1`), []byte(`"version": 1`), 1)
			}
			return text
		}
		step, err := server.Feed(false, on(1, init))
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if _, err := client.Feed(false, on(2, step.Send[0])); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		answer, err := client.Feed(false, step.Send[1])
		if err == nil {
			_, err = server.Feed(false, answer.Send[0])
		}
		if want := victim != 0; errors.Is(err, ErrHandshake) != want || err != nil != want {
			t.Errorf("%s is spelt in another way: got %v", name, err)
		}
	}
}

// TestAnotherIdentity: whoever does not hold the private key of an id gets no
// channel in its name.
func TestAnotherIdentity(t *testing.T) {
	p, mallory := newParty(t), newParty(t)
	client, init := NewHandshakeResponder(ClientConfig{Identity: mallory.client, Suite: AESGCM, Keys: p.keys})
	init = bytes.Replace(init, []byte(mallory.client.ID()), []byte(p.client.ID()), 1)
	client.init = init // he claims the id of another
	step, err := p.initiator(pairing.Sentinel()).Feed(false, init)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := client.Feed(false, step.Send[0]); err != nil {
		t.Fatal(err)
	}
	_, err = client.Feed(false, step.Send[1])
	wantSilent(t, err, ErrHandshake)
}

func TestRehandshake(t *testing.T) {
	p := newParty(t)
	for _, s := range Suites() {
		for _, used := range []pairing.Credential{p.lt(), p.pr(), pairing.Sentinel()} {
			t.Run(s.String()+" to "+string(used.Category), func(t *testing.T) {
				server, client := p.connect(t, s, pairing.Sentinel())
				talk(t, server, client)
				first := server.Hash
				for range 3 {
					nextServer, nextClient, err := rehandshake(t, server, client, used, p.keys)
					if err != nil {
						t.Fatal(err)
					}
					// The old keys are of no use any more.
					for _, old := range []*Channel{server, client} {
						if _, err := old.Send.Seal(nil, []byte("\x00{}")); !errors.Is(err, ErrRetired) {
							t.Errorf("seal with an old key: got %v, want %v", err, ErrRetired)
						}
						if _, err := old.Receive.Open(nil, make([]byte, 20)); !errors.Is(err, ErrRetired) {
							t.Errorf("open with an old key: got %v, want %v", err, ErrRetired)
						}
					}
					if _, _, err := server.Rehandshake(nil, used); !errors.Is(err, ErrRetired) {
						t.Errorf("re-handshake of an old channel: got %v, want %v", err, ErrRetired)
					}
					server, client = nextServer, nextClient
					if server.Hash != client.Hash || server.Hash == first || server.Category != used.Category || server.Peer != p.client.Public() {
						t.Fatalf("got %+v and %+v", server, client)
					}
					if server.Send.Frames() != 0 || client.Send.Frames() != 0 {
						t.Error("the counters did not start again")
					}
					talk(t, server, client)
				}
			})
		}
	}
}

// TestMessagesAroundARehandshake: what the client sent before it knew arrives
// under the old keys, what comes after under the new ones.
func TestMessagesAroundARehandshake(t *testing.T) {
	p := newParty(t)
	server, client := p.connect(t, ChaChaPoly, pairing.Sentinel())
	var early [][]byte
	for i := range 3 {
		frame, err := client.Send.Seal(nil, []byte{JSONID, '{', '}', ' ', byte('0' + i)})
		if err != nil {
			t.Fatal(err)
		}
		early = append(early, frame)
	}
	frame, h, err := server.Rehandshake(nil, p.lt())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := server.Send.Seal(nil, []byte("\x00{}")); !errors.Is(err, ErrRetired) {
		t.Fatalf("the server after message 1: got %v, want %v", err, ErrRetired)
	}
	answer, nextClient, err := client.Answer(nil, openHandshake(t, client, frame), p.keys)
	if err != nil {
		t.Fatal(err)
	}
	first, err := nextClient.Send.Seal(nil, []byte("\x00{}"))
	if err != nil {
		t.Fatal(err)
	}
	for i, frame := range early {
		got, err := server.Receive.Open(nil, frame)
		if err != nil || got[4] != byte('0'+i) {
			t.Fatalf("old message %d: got %q, %v", i, got, err)
		}
		if _, ok := HandshakeText(got); ok {
			t.Errorf("%q is taken for a handshake", got)
		}
	}
	step, err := h.Feed(false, openHandshake(t, server, answer))
	if err != nil {
		t.Fatal(err)
	}
	if got, err := step.Channel.Receive.Open(nil, first); err != nil || string(got) != "\x00{}" {
		t.Fatalf("the first message under the new keys: got %q, %v", got, err)
	}
}

func TestRehandshakeFailures(t *testing.T) {
	p := newParty(t)
	unknown := pairing.Credential{PSK: pskOf(t, run(0x50)), Category: pairing.LongTerm}
	server, client := p.connect(t, AESGCM, pairing.Sentinel())
	_, _, err := rehandshake(t, server, client, unknown, p.keys)
	wantSilent(t, err, ErrUnknownPSK) // no Sentinel here

	server, client = p.connect(t, AESGCM, pairing.Sentinel())
	_, _, err = rehandshake(t, server, client, p.lt(), func(pairing.Category, string) (Match, bool) {
		return Match{PSK: p.record, Server: p.client.Public()}, true
	})
	wantSilent(t, err, ErrMisbound)

	server, client = p.connect(t, AESGCM, pairing.Sentinel())
	_, _, err = rehandshake(t, server, client, p.lt(), func(pairing.Category, string) (Match, bool) {
		return Match{PSK: unknown.PSK, Server: p.server.Public()}, true // a client with another key under the id
	})
	wantSilent(t, err, ErrHandshake)

	// A client that falls back to the Sentinel all the same.
	server, client = p.connect(t, AESGCM, pairing.Sentinel())
	frame, h, err := server.Rehandshake(nil, unknown)
	if err != nil {
		t.Fatal(err)
	}
	answer, _, err := respond(client.base(), client.Hash[:], openHandshake(t, client, frame), p.keys, true)
	if err != nil {
		t.Fatal(err)
	}
	_, err = h.Feed(false, answer)
	wantSilent(t, err, ErrHandshake)

	server, _ = p.connect(t, AESGCM, pairing.Sentinel())
	if _, _, err := server.Rehandshake(nil, pairing.Credential{}); err == nil {
		t.Error("no credential: got no error")
	} else if _, err := server.Send.Seal(nil, []byte("\x00{}")); err != nil {
		t.Errorf("a re-handshake that did not begin: the old keys are gone: %v", err)
	}

	// A re-handshake while a message is in flight would tear it apart.
	server, _ = p.connect(t, AESGCM, pairing.Sentinel())
	for part := range Fragments(nil, make([]byte, MaxMessage+1), false) {
		if _, err := server.Send.Seal(nil, part); err != nil {
			t.Fatal(err)
		}
		break
	}
	if _, _, err := server.Rehandshake(nil, p.lt()); !errors.Is(err, ErrInterleaved) {
		t.Errorf("within a fragmented message: got %v, want %v", err, ErrInterleaved)
	}

	// Message 1 of another connection, and of this one a second time.
	server, client = p.connect(t, AESGCM, pairing.Sentinel())
	other, otherClient := p.connect(t, AESGCM, pairing.Sentinel())
	frame, _, err = other.Rehandshake(nil, p.lt())
	if err != nil {
		t.Fatal(err)
	}
	_, _, err = client.Answer(nil, openHandshake(t, otherClient, frame), p.keys)
	wantSilent(t, err, ErrHandshake)
	frame, _, err = server.Rehandshake(nil, p.lt())
	if err != nil {
		t.Fatal(err)
	}
	text := openHandshake(t, client, frame)
	_, next, err := client.Answer(nil, text, p.keys)
	if err != nil {
		t.Fatal(err)
	}
	_, _, err = next.Answer(nil, text, p.keys)
	wantSilent(t, err, ErrHandshake)
}

func TestHandshakeText(t *testing.T) {
	for text, want := range map[string]bool{
		"\x00" + `{"type":"noise/handshake","payload":{"data":"AA"}}`:            true,
		"\x00" + `{"payload":{"data":"AA"}, "type" : "noise\/handshake"}`:        true,
		"\x00" + `{"type":"server/state","payload":{"title":"noise/handshake"}}`: false,
		"\x00" + `{"type":"noise/handshake"`:                                     false,
		"\x04" + `{"type":"noise/handshake","payload":{"data":"AA"}}`:            false,
		"\x00": false,
		"":     false,
	} {
		if _, ok := HandshakeText([]byte(text)); ok != want {
			t.Errorf("%q: got %v, want %v", text, ok, want)
		}
	}
}

// FuzzServerFeed gives a server arbitrary messages in either turn.
func FuzzServerFeed(f *testing.F) {
	p := newParty(f)
	_, init := p.responder(AESGCM)
	f.Add(false, init, []byte(`{"type":"noise/handshake","payload":{"data":"AA"}}`))
	f.Add(true, []byte{0}, []byte{})
	f.Add(false, init, formatHandshake(run(9)))
	f.Fuzz(func(t *testing.T, binary bool, first, second []byte) {
		h := p.initiator(p.lt())
		step, err := h.Feed(binary, first)
		var refused *InitError
		if err != nil {
			if step.Send != nil || step.Channel != nil {
				t.Fatal("an error and an answer")
			}
			if errors.As(err, &refused) && !json.Valid(refused.Answer()) {
				t.Fatalf("answer: %q", refused.Answer())
			}
			return
		}
		if step, err = h.Feed(binary, second); err == nil || step.Channel != nil {
			t.Fatal("a channel with a stranger")
		} else if errors.As(err, &refused) {
			t.Fatalf("message 2: %v is answered", err)
		}
	})
}

// FuzzClientFeed gives a client arbitrary messages in either turn.
func FuzzClientFeed(f *testing.F) {
	p := newParty(f)
	init := formatServerInit(p.server.Public())
	f.Add(false, init, formatHandshake(run(9)))
	f.Add(false, []byte(`{"type":"server/error","payload":{"reason":"malformed"}}`), []byte{})
	f.Fuzz(func(t *testing.T, binary bool, first, second []byte) {
		h, _ := p.responder(ChaChaPoly)
		step, err := h.Feed(binary, first)
		if step.Send != nil || step.Channel != nil {
			t.Fatal("server/init is answered")
		}
		if err != nil {
			return
		}
		if step, err = h.Feed(binary, second); err == nil || step.Channel != nil || step.Send != nil {
			t.Fatal("a channel with a stranger")
		}
	})
}
