package pairing

import (
	"bytes"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"resonatebridge/resonate/protocol"
)

func TestIdentity(t *testing.T) {
	// The key pairs of the published handshake.
	for first, want := range map[int]string{
		0x01: "B6N8vBQgk8i3VdwbEOhstCY3StFqqFPtC9_AsrhtHHw",
		0x21: "WGmv9FBUlzLLqu1eXfmzCm2jHLDldCutWtShp2jxpns",
	} {
		id, err := IdentityFromKey(run(first, 32))
		if err != nil {
			t.Fatal(err)
		}
		if id.ID() != want || id.Public().ID() != want || fmt.Sprint(id) != want {
			t.Errorf("got %s, want %s", id.ID(), want)
		}
		file := id.EncodePrivate()
		back, err := ParseIdentity(file)
		if err != nil || back.ID() != want || !bytes.Equal(back.PrivateKey(), run(first, 32)) {
			t.Errorf("the file does not bring it back: %v", err)
		}
		public, err := ParseID(want)
		if err != nil || public != id.Public() {
			t.Errorf("ParseID: got %v, %v", public, err)
		}
	}
	a, err := NewIdentity(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	b, err := NewIdentity(rand.Reader)
	if err != nil || a.ID() == b.ID() {
		t.Errorf("two identities are one: %v", err)
	}
	if _, err := NewIdentity(strings.NewReader("short")); err == nil {
		t.Error("a source that ends: got no error")
	}
	if _, err := IdentityFromKey(run(1, 31)); err == nil {
		t.Error("31 bytes: got no error")
	}
	if (Identity{}).PrivateKey() != nil {
		t.Error("the zero value has a key")
	}
}

func TestOneIDPerKey(t *testing.T) {
	const id = "B6N8vBQgk8i3VdwbEOhstCY3StFqqFPtC9_AsrhtHHw"
	for name, bad := range map[string]string{
		"trailing bits": id[:42] + "x", "padding": id + "=", "line end": id[:20] + "\n" + id[21:], "a line end more": id + "\n",
		"standard alphabet": strings.ReplaceAll(id, "_", "/"), "short": id[:42], "empty": "", "space": " " + id[1:],
	} {
		if _, err := ParseID(bad); err == nil {
			t.Errorf("%s: got no error, want one", name)
		}
	}
	var k PublicKey
	if err := k.UnmarshalText([]byte(id)); err != nil || k.String() != id {
		t.Errorf("got %v, %v", k, err)
	}
}

func TestTokenInput(t *testing.T) {
	token := Token{Client: PublicKey(run(0, 32)), PSK: pskOf(t, run(0xe0, 32))}
	good := token.Reveal()
	for name, tc := range map[string]struct{ in, want string }{
		"empty":                                {"", "begins with SP:0"},
		"prefix alone":                         {"SP:", "begins with SP:0"},
		"unknown version":                      {"SP:2" + good[4:], "newer"},
		"a dynamic code":                       {newCode(run(0, 24), true).Reveal(), "a code that a speaker shows"},
		"cut":                                  {good[:60], "complete"},
		"a digit that is none":                 {good[:50] + "8" + good[51:], "character"},
		"a space in it":                        {good[:50] + " " + good[50:], "character"},
		"a line end in it":                     {good[:50] + "\n" + good[50:], "character"},
		"a letter that upper case makes ASCII": {good[:50] + "ſ" + good[51:], "character"},
		"an impossible length":                 {good[:len(good)-1] + "AAA", "character"},
		"endless":                              {"SP:0" + strings.Repeat("A", 5000), "too long"},
		"prefix twice":                         {"SP:" + good, "newer"},
	} {
		_, err := ParseToken(tc.in)
		var bad *InputError
		if !errors.As(err, &bad) || !strings.Contains(bad.Problem, tc.want) {
			t.Errorf("%s: got %v, want an input error with %q", name, err, tc.want)
		}
	}
	if _, err := ParseCode(qrChoice, good); err == nil || !strings.Contains(err.Error(), "wanted is the code") {
		t.Errorf("a token for a code: got %v", err)
	}
	if err := token.For(token.Client); err != nil {
		t.Errorf("its own client: %v", err)
	}
	if err := token.For(PublicKey(run(1, 32))); err == nil || !strings.Contains(err.Error(), token.Client.ID()) {
		t.Errorf("another client: got %v, want an error that names the right one", err)
	}
	if c := token.Credential(); c.Category != PairingKey || !c.PSK.Equal(token.PSK) {
		t.Errorf("credential: got %v", c)
	}
}

func TestCodes(t *testing.T) {
	for _, tc := range []struct {
		choice protocol.PairingChoice
		in     string
		want   string // "" for an error
	}{
		{digitsChoice, "123456", "123-456"},
		{digitsChoice, " 123 456\n", "123-456"},
		{digitsChoice, "1-2-3-4-5-6", "123-456"},
		{digitsChoice, "1234567", ""},
		{digitsChoice, "12345", ""},
		{digitsChoice, "12345a", ""},
		{digitsChoice, "12\t3456", ""},
		{staticChoice, "1234 5678", "1234-5678"},
		{staticChoice, "123456", ""},
		{tokenChoice, "123456", ""},
		{protocol.PairingChoice{}, "123456", ""},
	} {
		got, err := ParseCode(tc.choice, tc.in)
		if (err != nil) != (tc.want == "") || got.Reveal() != tc.want {
			t.Errorf("%v %q: got %q, %v, want %q", tc.choice, tc.in, got.Reveal(), err, tc.want)
		}
	}
	var seen [10]int
	for range 200 {
		c, err := GenerateStaticCode(rand.Reader)
		if err != nil || len(c.c.get().prs) != StaticDigits {
			t.Fatal(err)
		}
		for _, d := range c.c.get().prs {
			seen[d-'0']++
		}
	}
	for d, n := range seen { // 160 expected each; 7 sigma
		if n < 75 || n > 245 {
			t.Errorf("digit %d: %d times of 1600", d, n)
		}
	}
	if c, err := GenerateStaticCode(bytes.NewReader([]byte{255, 250, 249, 0, 11, 22, 33, 44, 55, 66})); err != nil || c.Reveal() != "9012-3456" {
		t.Errorf("got %v, %v: bytes from 250 on must not count", c.Reveal(), err)
	}
	if _, err := GenerateStaticCode(strings.NewReader("")); err == nil {
		t.Error("a source that ends: got no error")
	}
	if (Code{}).equal(Code{}) || (Code{}).Reveal() != "" {
		t.Error("no code equals something or shows something")
	}
}

func record(n int, paired, used int64) Record {
	psk, err := protocol.NewPSK(run(n, 32))
	if err != nil {
		panic(err)
	}
	r := Record{Peer: PublicKey(run(100+n, 32)), PSK: psk, Method: protocol.PairByPSK, Paired: time.Unix(paired, 0).UTC()}
	if used > 0 {
		r.Used = time.Unix(used, 0).UTC()
	}
	return r
}

func TestBook(t *testing.T) {
	b := &Book{Capacity: LeastCapacity}
	for i := range LeastCapacity {
		if err := b.Put(record(i, int64(100+i), 0), nil); err != nil {
			t.Fatal(err)
		}
	}
	b.Touch(record(0, 0, 0).Peer, time.Unix(500, 0))
	if r, ok := b.Find(PSKID(record(3, 0, 0).PSK)); !ok || r.Peer != record(3, 0, 0).Peer {
		t.Error("Find: got another record")
	}
	if _, ok := b.Find(PSKID(record(50, 0, 0).PSK)); ok {
		t.Error("Find: got a record for an unknown key")
	}

	// The same peer again replaces its record and needs no room.
	again := record(2, 300, 0)
	again.PSK = pskOf(t, run(77, 32))
	if err := b.Put(again, func(PublicKey) bool { return true }); err != nil {
		t.Fatal(err)
	}
	if r, _ := b.Get(again.Peer); !r.PSK.Equal(again.PSK) || b.Len() != LeastCapacity {
		t.Error("the new record is not in place of the old one")
	}
	// The one that was unused for longest and is not in use makes room.
	one := record(1, 0, 0).Peer
	if err := b.Put(record(20, 400, 0), func(p PublicKey) bool { return p == one }); err != nil {
		t.Fatal(err)
	}
	if _, ok := b.Get(one); !ok {
		t.Error("a record in use was put aside")
	}
	if _, ok := b.Get(record(3, 0, 0).Peer); ok {
		t.Error("the oldest record is still there")
	}
	if err := b.Put(record(21, 400, 0), func(PublicKey) bool { return true }); !errors.Is(err, ErrFull) {
		t.Errorf("got %v, want %v", err, ErrFull)
	}
	if !b.Remove(one) || b.Remove(one) {
		t.Error("Remove does not say what was there")
	}
}

func TestBookFile(t *testing.T) {
	b := new(Book)
	for i := range 7 {
		if err := b.Put(record(i, int64(100+i), int64(i)*1000), nil); err != nil {
			t.Fatal(err)
		}
	}
	data, err := b.EncodeSecret()
	if err != nil {
		t.Fatal(err)
	}
	back, err := ParseBook(data)
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(back.Peers(), b.Peers()) || back.Len() != 7 {
		t.Fatalf("got %v, want %v", back.Peers(), b.Peers())
	}
	for _, p := range b.Peers() {
		x, _ := b.Get(p)
		y, _ := back.Get(p)
		if !x.PSK.Equal(y.PSK) || x.Method != y.Method || !x.Paired.Equal(y.Paired) || !x.Used.Equal(y.Used) {
			t.Errorf("%s: got %+v, want %+v", p, y, x)
		}
	}
	if again, err := back.EncodeSecret(); err != nil || !bytes.Equal(again, data) {
		t.Errorf("written again it differs: %v", err)
	}
	if empty, err := new(Book).EncodeSecret(); err != nil || !strings.Contains(string(empty), `"records": []`) {
		t.Errorf("empty: got %s, %v", empty, err)
	}
	key := base64.RawURLEncoding.EncodeToString(run(1, 32))
	peer := PublicKey(run(0, 32)).ID()
	for name, bad := range map[string]string{
		"no JSON": "{", "another version": `{"version":2,"records":[]}`, "no version": `{"records":[]}`,
		"short key": `{"version":1,"records":[{"peer_id":"` + peer + `","psk":"AAAA"}]}`,
		"bad key":   `{"version":1,"records":[{"peer_id":"` + peer + `","psk":"` + key[:42] + `!"}]}`,
		"bad peer":  `{"version":1,"records":[{"peer_id":"x","psk":"` + key + `"}]}`,
		"twice":     `{"version":1,"records":[{"peer_id":"` + peer + `","psk":"` + key + `"},{"peer_id":"` + peer + `","psk":"` + key + `"}]}`,
		"masked":    `{"version":1,"records":[{"peer_id":"` + peer + `","psk":"[secret]"}]}`,
	} {
		if _, err := ParseBook([]byte(bad)); err == nil {
			t.Errorf("%s: got no error, want one", name)
		}
	}
}

// TestJudge has the table of the specification and its worked examples.
func TestJudge(t *testing.T) {
	const pb, pr = protocol.ActivityPlayback, protocol.ActivityPairing
	player := []protocol.Role{protocol.RolePlayer}
	type acts = []protocol.Activity
	for _, tc := range []struct {
		name     string
		category Category
		unpaired bool
		acts     acts
		roles    []protocol.Role
		choice   *protocol.PairingChoice
		want     Verdict
	}{
		{"paired, idle", LongTerm, false, nil, nil, nil, Admitted},
		{"paired, idle with roles", LongTerm, false, nil, player, nil, Admitted},
		{"paired, playback", LongTerm, false, acts{pb}, player, nil, Admitted},
		{"paired, pairing", LongTerm, true, acts{pr}, nil, &digitsChoice, Unauthorized},
		{"open, idle", SentinelID, false, nil, nil, nil, Admitted},
		{"open, roles", SentinelID, false, nil, player, nil, PairingRequired},
		{"open, roles, access on", SentinelID, true, nil, player, nil, Admitted},
		{"open, playback", SentinelID, false, acts{pb}, player, nil, PairingRequired},
		{"open, playback, access on", SentinelID, true, acts{pb}, player, nil, Admitted},
		{"open, pairing", SentinelID, false, acts{pr}, nil, &digitsChoice, Admitted},
		{"open, both", SentinelID, false, acts{pb, pr}, nil, &digitsChoice, PairingRequired},
		{"open, both, access on", SentinelID, true, acts{pr, pb}, player, &qrChoice, Admitted},
		{"open, both, by token", SentinelID, false, acts{pb, pr}, nil, &tokenChoice, Unauthorized},
		{"open, by token", SentinelID, false, acts{pr}, nil, &tokenChoice, MethodNotSupported},
		{"open, roles beside pairing", SentinelID, false, acts{pr}, player, &digitsChoice, PairingRequired},
		{"open, no method", SentinelID, false, acts{pr}, nil, nil, MethodNotSupported},
		{"open, method not offered", SentinelID, true, acts{pr}, nil, &staticChoice, MethodNotSupported},
		{"token, by token", PairingKey, false, acts{pr}, nil, &tokenChoice, Admitted},
		{"token, by code", PairingKey, false, acts{pr}, nil, &digitsChoice, MethodNotSupported},
		{"token, playback", PairingKey, false, acts{pb}, nil, nil, PairingRequired},
		{"an activity that nobody knows", LongTerm, true, acts{"management"}, nil, nil, Unauthorized},
	} {
		t.Run(tc.name, func(t *testing.T) {
			ch := Channel{Category: tc.category, AEAD: chacha}
			m := protocol.ServerActivate{Activities: tc.acts, ActiveRoles: tc.roles, Pairing: tc.choice}
			if got := newDevice(t, digitsChoice).Judge(ch, tc.unpaired, m); got != tc.want {
				t.Errorf("got %d, want %d", got, tc.want)
			}
		})
	}
	// The generation before keeps pairing and all else apart.
	for _, tc := range []struct {
		category Category
		acts     acts
		roles    []protocol.Role
		want     Verdict
	}{
		{PairingKey, acts{pr}, nil, Admitted},
		{PairingKey, nil, nil, Unauthorized},
		{PairingKey, acts{pr, pb}, nil, Unauthorized},
		{PairingKey, acts{pr}, player, Unauthorized},
		{PairingKey, acts{pb}, player, Unauthorized},
		{SentinelID, acts{pb}, player, Admitted},
		{LongTerm, acts{pb}, player, Admitted},
	} {
		ch := Channel{Category: tc.category, AEAD: chacha, Old: true}
		m := protocol.ServerActivate{Activities: tc.acts, ActiveRoles: tc.roles, Pairing: &tokenChoice}
		if got := newDevice(t, tokenChoice).Judge(ch, true, m); got != tc.want {
			t.Errorf("old, %s, %v, %v: got %d, want %d", tc.category, tc.acts, tc.roles, got, tc.want)
		}
	}
	if !PlaybackCapable(SentinelID, true, pr) || PlaybackCapable(LongTerm, true, pr) || PlaybackCapable(PairingKey, false) {
		t.Error("PlaybackCapable is wrong")
	}
}
