package noise

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"slices"
	"testing"

	"resonatebridge/resonate/pairing"
	"resonatebridge/resonate/protocol"
)

// The KKpsk2 values are the published ones of the Noise test suites, the
// handshakes were computed from the specification by an independent program
// that reproduces them.

func unhex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// run is 32 bytes that count up from first.
func run(first int) []byte {
	b := make([]byte, 32)
	for i := range b {
		b[i] = byte(first + i)
	}
	return b
}

func identity(t testing.TB, private []byte) pairing.Identity {
	t.Helper()
	id, err := pairing.IdentityFromKey(private)
	if err != nil {
		t.Fatal(err)
	}
	return id
}

func pskOf(t testing.TB, key []byte) protocol.PSK {
	t.Helper()
	p, err := protocol.NewPSK(key)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func wantHex(t *testing.T, what string, got []byte, want string) {
	t.Helper()
	if hex.EncodeToString(got) != want {
		t.Errorf("%s: got %x, want %s", what, got, want)
	}
}

func TestNoiseVectors(t *testing.T) {
	const (
		prologue   = "4a6f686e2047616c74"
		psk        = "54686973206973206d7920417573747269616e20706572737065637469766521"
		initStatic = "e61ef9919cde45dd5f82166404bd08e38bceb5dfdfded0a34c8df7ed542214d1"
		initPublic = "6bc3822a2aa7f4e6981d6538692b3cdf3e6df9eea6ed269eb41d93c22757b75a"
		initEph    = "893e28b9dc6ca8d611ab664754b8ceb7bac5117349a4439a6b0569da977c464a"
		respStatic = "4a3acbfdb163dec651dfa3194dece676d437029c62a408b4c5ea9114246e4893"
		respPublic = "31e0303fd6418d2f8c0e78b91f22e8caed0fbe48656dcf4767e4834f701b8f62"
		respEph    = "bbdb4cdbd309f1a1f2e1456967fe288cadd6f712d65dc7b7793d5e63da6b375b"
	)
	payloads := []string{
		"4c756477696720766f6e204d69736573", "4d757272617920526f746862617264", "462e20412e20486179656b",
		"4361726c204d656e676572", "4a65616e2d426170746973746520536179", "457567656e2042f6686d20766f6e2042617765726b",
	}
	for _, tc := range []struct {
		suite    Suite
		hash     string
		messages []string
	}{
		{ChaChaPoly, "7f3c5fdcdd3767e2835473a2683971490339f5bbeee82c3690bc606e14db70ed", []string{
			"ca35def5ae56cec33dc2036731ab14896bc4c75dbb07a61f879f8e3afa4c7944babf6443250c604872e33233c3b9a29df5c6d334ae2d53f1bd7f0b265a716b37",
			"95ebc60d2b1fa672c1f46a8aa265ef51bfe38e7ccb39ec5be34069f14480884366a1f5f0d79fe93ae476bd1897a7a8ae92764898aa5d49e07b5849f35865ba",
			"2eb2686b8814a7c0178fe18bfeeafe3e07312d69486d45e6572546",
			"eea5791a890cd573a5c2e2345a8f98b0d1f0727acd24584fcddde5",
			"ab2e1a411abaaa3df9cb497dffe4cfb70af6c71f0815b3c33b35e22329dee72f3e",
			"ed22a0392c6afbfd6a6adea92b1faf13c4df24072f7060a20b1500609621c6957ac86d82f9",
		}},
		{AESGCM, "1d2be5b73c43962fa87db816e6b5a73a0d67053e29b3d89fcee6ae299b5a5c1f", []string{
			"ca35def5ae56cec33dc2036731ab14896bc4c75dbb07a61f879f8e3afa4c794483cf298f1bfed916ea20d8f528bd30670670c7245e236a68f021b5a521d8bf31",
			"95ebc60d2b1fa672c1f46a8aa265ef51bfe38e7ccb39ec5be34069f14480884332b32e0f483ae58a9c36e93390a9c2238918bda6ae0ebfe48a400b8f565f5f",
			"f7cf1f47885fa5ff7cefecf3db3066f89b996834069b8f1517c55a",
			"ce7de28a6b54b559d3db2f7482f1be3264a62165f12a73e377ebde",
			"da4173c5aa84756d0eab64adfbe81f10538b099966897771a071502ee2899e2fbd",
			"1a1e3408acea689f5cced09b246e13e68e1ce146e8f1b3478482593b988587be99ba7595d2",
		}},
	} {
		t.Run(tc.suite.String(), func(t *testing.T) {
			side := func(own, peer, eph string, initiator bool) *state {
				base := Channel{
					Suite: tc.suite, own: identity(t, unhex(t, own)), Peer: pairing.PublicKey(unhex(t, peer)),
					random: bytes.NewReader(unhex(t, eph)),
				}
				s, err := begin(base, unhex(t, prologue), initiator)
				if err == nil {
					err = s.use(pskOf(t, unhex(t, psk)))
				}
				if err != nil {
					t.Fatal(err)
				}
				return s
			}
			server, client := side(initStatic, respPublic, initEph, true), side(respStatic, initPublic, respEph, false)
			payload := func(i int) []byte { return unhex(t, payloads[i]) }

			m, _, _, err := server.hs.WriteMessage(nil, payload(0))
			if err != nil {
				t.Fatal(err)
			}
			wantHex(t, "message 1", m, tc.messages[0])
			if got, _, _, err := client.hs.ReadMessage(nil, m); err != nil || !bytes.Equal(got, payload(0)) {
				t.Fatalf("message 1: got %x, %v", got, err)
			}
			m, down, up, err := client.hs.WriteMessage(nil, payload(1))
			if err != nil {
				t.Fatal(err)
			}
			wantHex(t, "message 2", m, tc.messages[1])
			clientEnd, err := client.end(down, up, pairing.LongTerm, false, false)
			if err != nil {
				t.Fatal(err)
			}
			got, down, up, err := server.hs.ReadMessage(nil, m)
			if err != nil || !bytes.Equal(got, payload(1)) {
				t.Fatalf("message 2: got %x, %v", got, err)
			}
			serverEnd, err := server.end(down, up, pairing.LongTerm, false, true)
			if err != nil {
				t.Fatal(err)
			}
			wantHex(t, "hash of the server", serverEnd.Hash[:], tc.hash)
			wantHex(t, "hash of the client", clientEnd.Hash[:], tc.hash)

			// The rest through our own ciphers, from either side in turn.
			for i := 2; i < 6; i++ {
				from, to := serverEnd, clientEnd
				if i%2 == 1 {
					from, to = clientEnd, serverEnd
				}
				frame, err := from.Send.Seal(nil, payload(i))
				if err != nil {
					t.Fatal(err)
				}
				wantHex(t, fmt.Sprintf("message %d", i+1), frame, tc.messages[i])
				if got, err := to.Receive.Open(nil, frame); err != nil || !bytes.Equal(got, payload(i)) {
					t.Fatalf("message %d: got %x, %v", i+1, got, err)
				}
			}
		})
	}
}

// sendspin are the handshakes of section 24.3 of the reference in one suite.
type sendspin struct {
	suite                      Suite
	clientInit                 string
	prologue                   string // SHA-256
	msg1, msg2, hash           string
	hello, helloAgain, up      string // sealed
	reMsg1, reMsg2, reHash     string
	reDown, reUp               string // keys
	fallbackMsg2, fallbackHash string
	oldMsg2, oldHash           string // the generation before
}

func sendspins() []sendspin {
	return []sendspin{
		{
			suite:        ChaChaPoly,
			clientInit:   `{"type":"client/init","payload":{"client_id":"B6N8vBQgk8i3VdwbEOhstCY3StFqqFPtC9_AsrhtHHw","version":1,"suite":"25519_ChaChaPoly_SHA256"}}`,
			prologue:     "11ba11bd1f236f4313f973ac1938cfe5cd5fda97c80c3375b78355505835ab40",
			msg1:         "244fe3b963e899dd295baffce248d3530f3a9a7479ba063002680ebfe7adad49ef18399c61e15c21405c68f1c8ed034a204be1459469b9b1a623c78f797a44ef992ceec263b71b14beab339adbcc74cd568e94f8d00e0ccb2699ba6f9ee10ae56d8b2bb175fbd5201b358bb6e6dde4d15b573532119f4057221b8422",
			msg2:         "64b101b1d0be5a8704bd078f9895001fc03e8e9f9522f188dd128d9846d48466cbc5b377ef7179b92ff19caf2d3ade92589e",
			hash:         "7e9631cfaca026bdd4cd4e8f22d3413a37cf8e184575f3bd3cd9d9329af25b33",
			hello:        "1d8be2dc1c58672e6183a1a82b24f64105ed759a64830d9a533d0ca71be90a6be5cddf698812bfe15b6b352b5229218903d79c2b9b0ee4a68c2d77924640a0",
			helloAgain:   "a96fb7898d1043b3ef8fe75c7a5f50edc2687afe9925bad7f911e320a564a620ef09be5716ede1388c5a41b220fb165eda313fc30d1949efba8c492359f5a1",
			up:           "ceca79568ab6c25849ac80bd81cdaa751456ec",
			reMsg1:       "ad438bfae31f6c093d61d4339255ea798092c9fadd07b97827f4b0ae9dee7c1c9216bac78e42b714a034e2a2b8f32c0fbf4e9e6fca4f41046dedce698d56eb01cf59687fd1ffe3cd9a31519abdd32fd603dfe274c93e5dcc4e744bc29a5603ed643ea4ee204ea61ed6e49ee92e8ce4beac6f486a04817eb2d730574a",
			reMsg2:       "883186b800b41d5cf0429695da9b3cc4f328ebcd184a6e482fa578c103f06c775c02e95075cb1646c9a3824f0e6fee061a10",
			reHash:       "305f5420edaf30ca9b2c0b97ecf0b8efe83c7eb9d8e1cdbfc62818f26046635f",
			reDown:       "04990a46fc95d6afe53291c86551df7eed424047f90518809a558ffa284616a9",
			reUp:         "371b3247dbcb2a2a2a8a4bee72dbf793fc333e895493f0f2b1a79a126d5450af",
			fallbackMsg2: "64b101b1d0be5a8704bd078f9895001fc03e8e9f9522f188dd128d9846d48466cbc54dc2740b31aea97a442ad54d6da6552e",
			fallbackHash: "66fa58894efa70a240b6a8150e245aebb6274760b740140a5c27e5395e4cf563",
			oldMsg2:      "64b101b1d0be5a8704bd078f9895001fc03e8e9f9522f188dd128d9846d48466cbc5a25cb576c6aa46691ba388e98ce2206d",
			oldHash:      "4303e5dfe73ec7ca9e5e1a708fa9aee005807246192a8145056920266e7efbb7",
		},
		{
			suite:        AESGCM,
			clientInit:   `{"type":"client/init","payload":{"client_id":"B6N8vBQgk8i3VdwbEOhstCY3StFqqFPtC9_AsrhtHHw","version":1,"suite":"25519_AESGCM_SHA256"}}`,
			prologue:     "5289f6b65ea458abbc28dbb4828af46a02d597fbba59555a07dc19f643193914",
			msg1:         "244fe3b963e899dd295baffce248d3530f3a9a7479ba063002680ebfe7adad490be387b5e5d1713f629d5e3820fadbf2fec8e7025d887ae78754db38fea34ba2ece4a8f017f48e518acaec4919251b8f11844f84250c9b60da441ddf605afae3da6e735f82e04cf39498eab06bdc8f2087a46d5ff83e7b7020ff7933",
			msg2:         "64b101b1d0be5a8704bd078f9895001fc03e8e9f9522f188dd128d9846d4846663ae3d1f7870c0302f81c329554dad7f46ee",
			hash:         "bb35960cd88b6061f1ddc13261f6fb3063d0fb1b16964d8d76630d8dd2eb81e7",
			hello:        "c4f6bafc44fd218313bac0b52c201ab6cf4b8ab60c55f685d08cabe8a88f79b3bee4a28cc25ed238ac187bd47d7abb8a97c7b147db47a6697310811c778988",
			helloAgain:   "b1fb4ffe8311c184461ee833725ba9df06599bc6c12641f8ba4f60b0eca7519202090eb689ed8a32d71ec3baf09093fc8387353b1e33e4acca90eb5966eb89",
			up:           "ec6f3eab3ef1970a3e43edc6aad938e6bf54a3",
			reMsg1:       "ad438bfae31f6c093d61d4339255ea798092c9fadd07b97827f4b0ae9dee7c1c5dbe4ecf0574e6de1d13470cc6724d00a3ddc323fc9b3533cdee076b43b3613eb8148e34eb47c2d123502214d5a50137171cf38b2542122e0654ddbc8c707879148a7fad442c39fc8f7f0b96233c907d610c9923240d74f0e017ad38",
			reMsg2:       "883186b800b41d5cf0429695da9b3cc4f328ebcd184a6e482fa578c103f06c775dc52ccf64c13095a9202ca80e677e17c372",
			reHash:       "18a79d75b9ce91207a40fea58826a66586628311eb97e01d777974aa8757c145",
			reDown:       "5e5c3c014bb3eca6084505f7adfa843012009c370434e874d27dd72cf6edae0b",
			reUp:         "faefcf99396d8172e7e75b4050229308a83e8e77c725f1b41ee15215cda20c35",
			fallbackMsg2: "64b101b1d0be5a8704bd078f9895001fc03e8e9f9522f188dd128d9846d4846663aeff8bd94a9f722875464ba11b72d9d2b7",
			fallbackHash: "81dc630ee694ea3b00778591d27cf8f93b51a8adab62eebf54930b29aa6a026b",
		},
	}
}

const vectorServerInit = `{"type":"server/init","payload":{"server_id":"WGmv9FBUlzLLqu1eXfmzCm2jHLDldCutWtShp2jxpns","version":1}}`

// vectorSides are both sides of the computed handshakes. What they draw is
// fixed: first for the handshake, then for a re-handshake.
func vectorSides(t *testing.T, v sendspin, used pairing.Credential, keys Lookup) (*HandshakeInitiator, *HandshakeResponder, []byte) {
	t.Helper()
	server := NewHandshakeInitiator(ServerConfig{
		Identity: identity(t, run(0x21)), Random: bytes.NewReader(slices.Concat(run(0x61), run(0xa1))),
		Choose: func(client pairing.PublicKey) (pairing.Credential, error) {
			if client.ID() != "B6N8vBQgk8i3VdwbEOhstCY3StFqqFPtC9_AsrhtHHw" {
				return pairing.Credential{}, io.ErrUnexpectedEOF
			}
			return used, nil
		},
	})
	client, init := NewHandshakeResponder(ClientConfig{
		Identity: identity(t, run(0x01)), Suite: v.suite, Keys: keys,
		Random: bytes.NewReader(slices.Concat(run(0x41), run(0x81))),
	})
	return server, client, init
}

// shake lets both sides talk until they have channels, and returns those and
// the two Noise messages.
func shake(t testing.TB, server *HandshakeInitiator, client *HandshakeResponder, init []byte) (s, c *Channel, msg1, msg2 []byte) {
	t.Helper()
	must := func(step Step, err error) Step {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return step
	}
	noiseOf := func(text []byte) []byte {
		t.Helper()
		m, err := parseHandshake(text)
		if err != nil {
			t.Fatal(err)
		}
		return m
	}
	opening := must(server.Feed(false, init))
	if len(opening.Send) != 2 || opening.Channel != nil {
		t.Fatalf("got %d messages, want server/init and message 1", len(opening.Send))
	}
	if step := must(client.Feed(false, opening.Send[0])); step.Send != nil || step.Channel != nil {
		t.Fatal("the client answers server/init")
	}
	answer := must(client.Feed(false, opening.Send[1]))
	end := must(server.Feed(false, answer.Send[0]))
	if end.Channel == nil || answer.Channel == nil || end.Send != nil {
		t.Fatal("got no channel")
	}
	return end.Channel, answer.Channel, noiseOf(opening.Send[1]), noiseOf(answer.Send[0])
}

func TestSendspinHandshakeVectors(t *testing.T) {
	for _, v := range sendspins() {
		t.Run(v.suite.String(), func(t *testing.T) {
			lt := pairing.Credential{PSK: pskOf(t, run(0xc0)), Category: pairing.LongTerm}
			server, client, init := vectorSides(t, v, pairing.Sentinel(), nil)
			if string(init) != v.clientInit {
				t.Fatalf("client/init: got %s", init)
			}
			if got := formatServerInit(identity(t, run(0x21)).Public()); string(got) != vectorServerInit {
				t.Fatalf("server/init: got %s", got)
			}
			sum := sha256.Sum256([]byte(v.clientInit + vectorServerInit))
			wantHex(t, "prologue", sum[:], v.prologue)

			s, c, msg1, msg2 := shake(t, server, client, init)
			wantHex(t, "message 1", msg1, v.msg1)
			wantHex(t, "message 2", msg2, v.msg2)
			for _, end := range []*Channel{s, c} {
				wantHex(t, "hash", end.Hash[:], v.hash)
				if end.Category != pairing.SentinelID || end.Mismatch || end.Suite != v.suite {
					t.Errorf("got %+v", end)
				}
			}
			hello := append([]byte{JSONID}, `{"type":"server/hello","payload":{"name":"x"}}`...)
			for i, want := range []string{v.hello, v.helloAgain} {
				frame, err := s.Send.Seal(nil, hello)
				if err != nil {
					t.Fatal(err)
				}
				wantHex(t, fmt.Sprintf("frame %d", i), frame, want)
				if got, err := c.Receive.Open(nil, frame); err != nil || !bytes.Equal(got, hello) {
					t.Fatalf("got %q, %v", got, err)
				}
			}
			frame, err := c.Send.Seal(nil, []byte("\x00{}"))
			if err != nil {
				t.Fatal(err)
			}
			wantHex(t, "frame of the client", frame, v.up)
			if _, err := s.Receive.Open(nil, frame); err != nil {
				t.Fatal(err)
			}

			// The same connection is re-handshaken to a long-term key.
			sealed, next, err := s.Rehandshake(nil, lt)
			if err != nil {
				t.Fatal(err)
			}
			text, err := c.Receive.Open(nil, sealed)
			if err != nil {
				t.Fatal(err)
			}
			text, ok := HandshakeText(text)
			if !ok {
				t.Fatalf("%q is no handshake", text)
			}
			message, err := parseHandshake(text)
			if err != nil {
				t.Fatal(err)
			}
			wantHex(t, "message 1 of the re-handshake", message, v.reMsg1)
			keys := func(category pairing.Category, id string) (Match, bool) {
				return Match{PSK: lt.PSK, Server: s.own.Public()}, category == pairing.LongTerm && id == lt.ID()
			}
			sealed, c2, err := c.Answer(nil, text, keys)
			if err != nil {
				t.Fatal(err)
			}
			text, err = s.Receive.Open(nil, sealed)
			if err != nil {
				t.Fatal(err)
			}
			if message, err = parseHandshake(text[1:]); err != nil {
				t.Fatal(err)
			}
			wantHex(t, "message 2 of the re-handshake", message, v.reMsg2)
			step, err := next.Feed(false, text[1:])
			if err != nil {
				t.Fatal(err)
			}
			s2 := step.Channel
			wantHex(t, "hash of the re-handshake", s2.Hash[:], v.reHash)
			if c2.Hash != s2.Hash || s2.Category != pairing.LongTerm || c2.Category != pairing.LongTerm {
				t.Errorf("got %+v and %+v", s2, c2)
			}
			down, err := newDirection(v.suite, [32]byte(unhex(t, v.reDown)))
			if err != nil {
				t.Fatal(err)
			}
			up, err := newDirection(v.suite, [32]byte(unhex(t, v.reUp)))
			if err != nil {
				t.Fatal(err)
			}
			for name, pair := range map[string][2]*Sealer{"server": {s2.Send, {direction: down}}, "client": {c2.Send, {direction: up}}} {
				got, err := pair[0].Seal(nil, hello)
				if err != nil {
					t.Fatal(err)
				}
				want, err := pair[1].Seal(nil, hello)
				if err != nil {
					t.Fatal(err)
				}
				if !bytes.Equal(got, want) {
					t.Errorf("%s: seals with another key than the published one", name)
				}
			}
		})
	}
}

func TestSentinelFallbackVectors(t *testing.T) {
	for _, v := range sendspins() {
		t.Run(v.suite.String(), func(t *testing.T) {
			lt := pairing.Credential{PSK: pskOf(t, run(0xc0)), Category: pairing.LongTerm}
			server, client, init := vectorSides(t, v, lt, func(pairing.Category, string) (Match, bool) { return Match{}, false })
			s, c, _, msg2 := shake(t, server, client, init)
			wantHex(t, "message 2", msg2, v.fallbackMsg2)
			wantHex(t, "hash", s.Hash[:], v.fallbackHash)
			for _, end := range []*Channel{s, c} {
				if end.Category != pairing.SentinelID || !end.Mismatch {
					t.Errorf("got %+v, want a mismatch", end)
				}
			}
			talk(t, s, c)
		})
	}
}

// TestOldHandshakeVector is the generation before: another order of members,
// and no category.
func TestOldHandshakeVector(t *testing.T) {
	v := sendspins()[0]
	const (
		clientInit = `{"payload":{"client_id":"B6N8vBQgk8i3VdwbEOhstCY3StFqqFPtC9_AsrhtHHw","version":1,"suite":"25519_ChaChaPoly_SHA256"},"type":"client/init"}`
		serverInit = `{"payload":{"server_id":"WGmv9FBUlzLLqu1eXfmzCm2jHLDldCutWtShp2jxpns","version":1},"type":"server/init"}`
	)
	server := Channel{Suite: v.suite, own: identity(t, run(0x21)), Peer: identity(t, run(0x01)).Public(), random: bytes.NewReader(run(0x61))}
	s, err := begin(server, []byte(clientInit+serverInit), true)
	if err != nil {
		t.Fatal(err)
	}
	m, _, _, err := s.hs.WriteMessage(nil, []byte(`{"psk_id":"GFsV9tLaSQm9HcFWpKsgYQOr7wFTvNUtkmFwuVz3zoo"}`))
	if err != nil {
		t.Fatal(err)
	}
	for name, old := range map[string]bool{"a client of then": true, "a client of today": false} {
		t.Run(name, func(t *testing.T) {
			client := Channel{Suite: v.suite, own: identity(t, run(0x01)), Peer: identity(t, run(0x21)).Public(), random: bytes.NewReader(run(0x41)), old: old}
			answer, c, err := respond(client, []byte(clientInit+serverInit), formatHandshake(m), nil, !old)
			if !old {
				if err == nil {
					t.Error("got no error, want one: the category is missing")
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			msg2, err := parseHandshake(answer)
			if err != nil {
				t.Fatal(err)
			}
			wantHex(t, "message 2", msg2, v.oldMsg2)
			wantHex(t, "hash", c.Hash[:], v.oldHash)
			frame, err := c.Send.Seal(nil, []byte("\x00{}"))
			if err != nil {
				t.Fatal(err)
			}
			wantHex(t, "frame", frame, v.up) // the prologue has no part in the keys
		})
	}
}

// talk sends a message each way and checks that it arrives.
func talk(t testing.TB, a, b *Channel) {
	t.Helper()
	for _, ends := range [][2]*Channel{{a, b}, {b, a}} {
		frame, err := ends[0].Send.Seal(nil, []byte("\x00{}"))
		if err != nil {
			t.Fatal(err)
		}
		if got, err := ends[1].Receive.Open(nil, frame); err != nil || string(got) != "\x00{}" {
			t.Fatalf("got %q, %v", got, err)
		}
	}
}
