package pairing

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/ecdh"
	"encoding/binary"
	"encoding/hex"
	"strings"
	"testing"

	"resonatebridge/resonate/protocol"

	"golang.org/x/crypto/chacha20poly1305"
)

// The numbers here are published by the specification, by
// draft-irtf-cfrg-cpace-21 and by the test suites of other implementations
// (sendspin-js, sendspin-dotnet, SendSpinDroid), or were computed from the
// specification by an independent program that reproduces all of those.

func unhex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(strings.ReplaceAll(s, " ", ""))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// run is n bytes that count up from first.
func run(first, n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(first + i)
	}
	return b
}

func arr32(b []byte) [32]byte { return [32]byte(b) }

func pskOf(t testing.TB, key []byte) protocol.PSK {
	t.Helper()
	p, err := protocol.NewPSK(key)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func chacha(key []byte) (cipher.AEAD, error) { return chacha20poly1305.New(key) }

func aesGCM(key []byte) (cipher.AEAD, error) {
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	return cipher.NewGCM(block)
}

func TestSentinelVector(t *testing.T) {
	s := Sentinel()
	if got, want := hex.EncodeToString(s.PSK.Bytes()), "1b5e24dbc1aed95fc2a5a338a90c05df44bd10f5ec1f4cd66cbf86272767b9d3"; got != want {
		t.Errorf("key: got %s, want %s", got, want)
	}
	for _, tc := range []struct {
		name string
		psk  protocol.PSK
		want string
	}{
		{"Sentinel", s.PSK, "GFsV9tLaSQm9HcFWpKsgYQOr7wFTvNUtkmFwuVz3zoo"},
		{"e0..ff", pskOf(t, run(0xe0, 32)), "6JvkxqvATBX2x3WV9YLaVi79xjAQxo9YDSmygNm12QY"},
		{"c0..df", pskOf(t, run(0xc0, 32)), "wymtKFMpfgQxaF1omMVheVNQM1Hl0Q2FhNdYWzQS_5U"},
	} {
		if got := PSKID(tc.psk); got != tc.want {
			t.Errorf("%s: psk_id: got %s, want %s", tc.name, got, tc.want)
		}
		if c := (Credential{PSK: tc.psk}); !c.Is(tc.want) || c.Is(tc.want[1:]+"A") {
			t.Errorf("%s: Is is wrong about its psk_id", tc.name)
		}
	}
}

func TestTokenVectors(t *testing.T) {
	for _, tc := range []struct{ name, text, psk string }{
		{
			"psk e0..ff", "SP:0AAAQEAYEAUDAOCAJBIFQYDIOB4IBCEQTCQKRMFYYDENBWHA5DYP6BYPC4PSOLZXH5DU6V97M5XXO74HR6LZ7J5PW674PT6X37T6757Y",
			hex.EncodeToString(run(0xe0, 32)),
		},
		{
			"psk 20..3f", "SP:0AAAQEAYEAUDAOCAJBIFQYDIOB4IBCEQTCQKRMFYYDENBWHA5DYPSAIJCEMSCKJRHFAUSUKZMFUXC6MBRGIZTINJWG44DSOR3HQ6T4PY",
			hex.EncodeToString(run(0x20, 32)),
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			want := Token{Client: PublicKey(run(0, 32)), PSK: pskOf(t, unhex(t, tc.psk))}
			if got := want.Reveal(); got != tc.text {
				t.Errorf("got %s, want %s", got, tc.text)
			}
			for _, spelling := range []string{
				tc.text, strings.ToLower(tc.text), " \t" + tc.text + "\r\n", strings.TrimPrefix(tc.text, "SP:"),
				"sp:" + tc.text[3:], tc.text[:4] + strings.ReplaceAll(tc.text[4:], "9", "2"), tc.text + "AAAAAAAA",
			} {
				got, err := ParseToken(spelling)
				if err != nil {
					t.Fatalf("%q: %v", spelling, err)
				}
				if got.Client != want.Client || !got.PSK.Equal(want.PSK) {
					t.Errorf("%q: got another token", spelling)
				}
			}
		})
	}
	choice := protocol.PairingChoice{Method: protocol.PairByDynamicCode, Format: protocol.CodeQR}
	c := newCode(run(0xe0, 24), true)
	if got, want := c.Reveal(), "SP:14DQ6FY7E4XTOP9HJ5LV6Z3PO57YPD4XT6T97N5Y"; got != want {
		t.Errorf("code: got %s, want %s", got, want)
	}
	if got, err := ParseCode(choice, c.Reveal()); err != nil || !got.equal(c) {
		t.Errorf("code: got %v, want the one that was written", err)
	}
}

func TestCommitmentVectors(t *testing.T) {
	for _, tc := range []struct {
		nonce []byte
		want  string
	}{
		{bytes.Repeat([]byte{0x22}, 32), "3d099bc43aaf47e5853f2f466a4a3ff1a517ee100eda45671946518b67382205"},
		{bytes.Repeat([]byte{0xbb}, 32), "c31ebe8c0282c9f764f4d67046eabdec64fccc2015bb9d2041ccf6501f35962e"},
		{run(0, 32), "ea08c0aee3c421ace702f31591b3d213e8c371a8a8e3b0be3fd405ed841755a3"},
	} {
		if got := commitment(arr32(tc.nonce)); hex.EncodeToString(got[:]) != tc.want {
			t.Errorf("nonce %x: got %x, want %s", tc.nonce, got, tc.want)
		}
	}
}

func TestCodeVectors(t *testing.T) {
	var zeros [32]byte
	for _, tc := range []struct {
		name   string
		h      [32]byte
		nonceA [32]byte
		nonceB []byte
		want   string
	}{
		{"digits", zeros, arr32(run(0, 32)), run(0x20, 32), "697-742"},
		{"leading zero", zeros, arr32(run(0, 32)), unhex(t, "8855508aade16ec573d21e6a485dfd0a7624085c1a14b5ecdd6485de0c6839a4"), "030-310"},
		{"the label of G1 gives 988793", arr32(run(0, 32)), arr32(bytes.Repeat([]byte{0x11}, 32)), bytes.Repeat([]byte{0x22}, 32), "287-352"},
	} {
		if got := deriveCode(protocol.CodeDigits, tc.h, tc.nonceA, arr32(tc.nonceB)).Reveal(); got != tc.want {
			t.Errorf("%s: got %s, want %s", tc.name, got, tc.want)
		}
	}
	qr := deriveCode(protocol.CodeQR, zeros, arr32(run(0, 32)), arr32(run(0x20, 32)))
	if got, want := hex.EncodeToString(qr.c.get().prs), "960b1b8edc2662d0bedd5f0521313a1c5ceff12168ead500"; got != want {
		t.Errorf("qr: got %s, want %s", got, want)
	}
}

func TestLengthValueVectors(t *testing.T) {
	if got := appendLV(nil, nil); hex.EncodeToString(got) != "00" {
		t.Errorf("empty: got %x", got)
	}
	if got := appendLV(nil, []byte("1234")); hex.EncodeToString(got) != "0431323334" {
		t.Errorf("1234: got %x", got)
	}
	if got := appendLV(nil, make([]byte, 128)); hex.EncodeToString(got[:2]) != "8001" || len(got) != 130 {
		t.Errorf("128 bytes: got a prefix of %x and %d bytes", got[:2], len(got))
	}
}

func TestElligatorVectors(t *testing.T) {
	for r, want := range map[string]string{
		"01" + strings.Repeat("00", 31):                                  "9cdb525555555555555555555555555555555555555555555555555555555555",
		"02" + strings.Repeat("00", 31):                                  "b349328ee3388ee3388ee3388ee3388ee3388ee3388ee3388ee3388ee3388e63",
		"05" + strings.Repeat("00", 31):                                  "e967a8afafafafafafafafafafafafafafafafafafafafafafafafafafafaf2f",
		"efcdab9078563412" + strings.Repeat("00", 24):                    "25f03fedeb07906bed8a8c5e79c739e37eddcd0b186b511f8ee71a8ff2dc6141",
		"11" + strings.Repeat("00", 24) + "01" + strings.Repeat("00", 6): "ea11b91ab7aac2eb10dc78fd0585763d8dd33236944e5c42ccc6d438c1788575",
	} {
		if got := hex.EncodeToString(elligator(unhex(t, r))); got != want {
			t.Errorf("r = %s: got %s, want %s", r, got, want)
		}
	}
}

// oneRun replays a CPace run with given scalars on both sides.
func oneRun(t *testing.T, prs, ci, sid, ya, yb []byte) (g, shareA, shareB, k []byte) {
	t.Helper()
	scalar := func(b []byte) *ecdh.PrivateKey {
		s, err := ecdh.X25519().NewPrivateKey(b)
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	must := func(b []byte, err error) []byte {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	g = generator(prs, ci, sid)
	shareA = must(multiply(scalar(ya), g))
	shareB = must(multiply(scalar(yb), g))
	k = must(multiply(scalar(ya), shareB))
	if other := must(multiply(scalar(yb), shareA)); !bytes.Equal(k, other) {
		t.Fatalf("the sides differ: %x and %x", k, other)
	}
	return g, shareA, shareB, k
}

func TestDraftVector(t *testing.T) {
	sid := unhex(t, "7e4b4791d6a8ef019b936c79fb7f2c57")
	g, ya, yb, k := oneRun(t, []byte("Password"), unhex(t, "0b415f696e69746961746f720b425f726573706f6e646572"), sid,
		unhex(t, "21b4f4bd9e64ed355c3eb676a28ebedaf6d8f17bdc365995b319097153044080"),
		unhex(t, "848b0779ff415f0af4ea14df9dd1d3c29ac41d836c7808896c4eba19c51ac40a"))
	a := newAgreement(sid, k, ya, []byte("ADa"), yb, []byte("ADb"))
	check(t, []row{
		{"g", g, "d04bf6d41f6a289632a2e929fa29bebd51092512a7829fdde7d314b62f05a73f"},
		{"Ya", ya, "1d13c89278cdadd826f6d8d7f887701430f8380ddc17611cdd6dc989ce0c9f32"},
		{"Yb", yb, "248cccf6d5cdc3646f0ad593f9e6cef4e69d4945f8372e623512ecea32185623"},
		{"ISK", a.isk, "6e19b875f7a561d6b3ca3dbb9ef42ac55de3e717881018204b8922b4d5e53bb2aa82c300bea7b65d2b671da71922ddf6472301b79bc270adfa8bf413285f2263"},
	})
}

type row struct {
	name string
	got  []byte
	want string
}

func check(t *testing.T, rows []row) {
	t.Helper()
	for _, r := range rows {
		if got := hex.EncodeToString(r.got); got != r.want {
			t.Errorf("%s: got %s, want %s", r.name, got, r.want)
		}
	}
}

func TestLowOrderShares(t *testing.T) {
	for _, share := range []string{
		strings.Repeat("00", 32),
		"01" + strings.Repeat("00", 31),
		"e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800",
		"5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157",
		"ec" + strings.Repeat("ff", 30) + "7f",
		"ed" + strings.Repeat("ff", 30) + "7f",
		"ee" + strings.Repeat("ff", 30) + "7f",
	} {
		run, err := newExchange(bytes.NewReader(bytes.Repeat([]byte{3}, 32)), newCode([]byte("123456"), false), sessionID([32]byte{}, 1, 1))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := run.agree(arr32(unhex(t, share)), true); err == nil {
			t.Errorf("%s: got no error, want one for a low order", share)
		}
	}
}

// TestOldRunVector is a whole run of the generation before, whose session id
// has no round; everything else of it is as it is today.
func TestOldRunVector(t *testing.T) {
	sid := binary.BigEndian.AppendUint32(append([]byte("sendspin-pair-pake-v1"), run(0, 32)...), 1)
	g, ya, yb, k := oneRun(t, []byte("12345678"), nil, sid, bytes.Repeat([]byte{3}, 32), bytes.Repeat([]byte{5}, 32))
	a := newAgreement(sid, k, ya, []byte("server"), yb, []byte("client"))
	check(t, []row{
		{"g", g, "79c9392c93ec0f7ae71b5b9c82a7d987a6c77b7769e77f4563bcbb069e31d64f"},
		{"Ya", ya, "5aecc9cf88b52dfaf89e006b944a60a959069570fd2d1693caa0fe316c618e7f"},
		{"Yb", yb, "a75d2ab95f216f8203290778a3976f3bc6808c9fed2791e36f56216f06fcf842"},
		{"ISK", a.isk, "2fd740a770f32ed3b3c375a26fe6fb86164b19cdb4f4f7b20efa2fe88864baeba4f67b42fc43d412f99c73aca9ff84cd20e94e5f2dd0186aa91aef671da5d62e"},
		{"Ta", a.serverT[:], "79413d5e2703fb0aa3f8b293ce683636a47a4b7ff040246e206fc55caa5322f876b76dc8d063a061d1901e6fc47a86abbc62c7d1197018ecfbb87244f40b31af"},
		{"Tb", a.clientT[:], "f38a9bf6113c505a76a566fb4a05eef0d37c45d03cc687a29db84f7bb96575f22dedf92682c806de638885cdba630c09b27e2d7db7059dae70b4a8201ceedf46"},
	})
	a.isk = run(0, 64) // the wrapping of the same suite has a key of its own
	wrapped, err := a.wrap(Channel{AEAD: chacha}, wrapPSK, bytes.Repeat([]byte{0xab}, 32))
	if err != nil {
		t.Fatal(err)
	}
	check(t, []row{{"wrapped_psk", wrapped[:], "37c286ca969e1a761517c726b671a16faf2d4f5aad4a449c8105533e1592e1505a359fa49a1cc9120bd8913cc3f00b35"}})
}

// TestRunVectors are complete runs under the current rules, each value of them.
func TestRunVectors(t *testing.T) {
	var (
		h      = arr32(run(0x10, 32))
		nonceA = arr32(run(0x80, 32))
		nonceB = arr32(run(0xa0, 32))
		s1, s2 = run(0x01, 32), run(0x31, 32)
		key    = run(0xc0, 32)
	)
	commit := commitment(nonceB)
	digits := deriveCode(protocol.CodeDigits, h, nonceA, nonceB)
	qr := deriveCode(protocol.CodeQR, h, nonceA, nonceB)
	check(t, []row{
		{"commit_B", commit[:], "d5ef42da0a58127d2fb3f8be50726049b041ca7e368969c91371f4cfb7a075cd"},
		{"digits", digits.c.get().prs, hex.EncodeToString([]byte("603359"))},
		{"qr code", qr.c.get().prs, "fbcaebaab1a949f240ec4c3403391a0af778c00cad35b9d8"},
	})
	if got, want := qr.Reveal(), "SP:17PFOXKVRVFE7EQHMJQ9AGOI9BL3XRQAMVU93TWA"; got != want {
		t.Errorf("token: got %s, want %s", got, want)
	}

	for _, tc := range []struct {
		name         string
		h            [32]byte
		index, round uint32
		prs          []byte
		ya, yb       []byte
		want         map[string]string
	}{
		{"A digits", h, 1, 1, digits.c.get().prs, s1, s2, map[string]string{
			"sid":          "73656e647370696e2d706169722d70616b652d7631101112131415161718191a1b1c1d1e1f202122232425262728292a2b2c2d2e2f0000000100000001",
			"g":            "addc6062e51675e4fb318c6aeb10266d8449a9c627916d2a6c2521b57c3ce93e",
			"Ya":           "36ab9e380ff0a24f1663ad6fd8a6bdc2d090dae733f8da507ae9d628059e476f",
			"Yb":           "d4074501eef9c81a12e06a0f41a59251faafef91d36ea6f822370a694fcb653a",
			"K":            "a4f0f7906f823718233003cbe37d7beaa003dfee8cbe1bddf9c9e0fcf310df00",
			"ISK":          "a3b576d8232fe9e8acc3866465eb51bbe994fe2c9a7e2917453d04724c0a0868914c7178336e619a4444adbe100fd3bfa0004d990b53b451ddb1c94feaed01c2",
			"Ta":           "85b44e6bb1a8836abfaa128fcf028bf6174bfe7fe274360d8639fba414f4bfe83db56b787c9ddd21aee830de5a3e5ea4073b6df8ca54179db98f596683bf2df1",
			"Tb":           "6238d1880051a6f1c2093ee4991f954c61c6c99a779aa32f634cb1b8e6afe2b6769bbd826ee519bf2bdf58ecab08a1580c9fe00058060fcd66e94f68c1a05425",
			"psk chacha":   "337698c41e226a6e8bb12d0579643e6a32c07f6d9f5c543ed98b5c7037e7a24ba8ba7de94764d1dd8950bf6c149f31e1",
			"psk aesgcm":   "ef738bbaf447915859e74ce81105e1b45ee6bee2bd387d3975e0a16fb696b5636048d3f0aeff34ce6c6064b117d15835",
			"nonce chacha": "806041da27e0cababd3937d66d1c15b1e8484421b6cffb75e3eda812013f8dff4b692bb8755d6d987e25d03cf32dd2af",
			"nonce aesgcm": "862bb85fccdf67f926b399bc03930433a95ce90b8be9a9d2aec30fff6a48b73b1a517e069722e27395513ccf9402c3e4",
		}},
		{"B qr_code, third activation, second round", h, 3, 2, qr.c.get().prs, s1, s2, map[string]string{
			"sid":          "73656e647370696e2d706169722d70616b652d7631101112131415161718191a1b1c1d1e1f202122232425262728292a2b2c2d2e2f0000000300000002",
			"g":            "278e9a3586f010fe860f3eeda795460691648a7efc422d01d0329d8caca5650e",
			"Ya":           "afa8a0ef25f06ac4287d09c0cf96153b31367dd3b5b6eac8e9734c8951241475",
			"Yb":           "a5d6c3613cb5237099d5da7b4603df9b5f26365b33157b545f181ce5d304915e",
			"ISK":          "1431dc5e5b7ce4858702565a3b9e6d0668b05fa96f762baf06f1a68e679377516e046c9075682b36e651ec302a08adb056f570184c3fada4db69e28811cbd542",
			"Ta":           "8ac9b5bdde0df7482dbe8dbef540859597f7461e84a45c61c87973cfdf2c5148fe2936dcbee0a6b0568db993db77239bc36e3d3b358756a5376d57b556eeb398",
			"Tb":           "134e781488d846f54ab8ab52f43f9351daa18746fd570e98f0e10af3b8855e98fe673202f0b93990d078e500fd74d4bcba834fb7d0ecab9743c750adb3ff7ebe",
			"psk chacha":   "14b4ce8b54c069b7b950917fe1548e2b75d6c9611a675bf184ee289b4fa50ab12deb760c70b211f303bbabb94934f13c",
			"nonce chacha": "d3729290a7c1ba6ae6e1657c75ea545c0a48a485834ba4ddfe2f1927853708ed56be9cc46984ffe0659e2f55123fc806",
		}},
		{"C static", [32]byte{}, 1, 1, []byte("12345678"), s2, s1, map[string]string{
			"g":          "5f77c0331c118721d476f31084f109aeea1e515cf7fe34482ad8acc65d078065",
			"Ya":         "57994d6024157973c79fa551c57cee0d1e815d84ba644dc7cf820930a4ef9d6a",
			"Yb":         "4c61c97742192d98a59dea02c530a476e7e68731999e7cd915217f14aad9cc7d",
			"ISK":        "cb546b3c0254e30d94c5c6dbfb208dc85f878dc164bc9b5f373ee58c1d34a94ac0a67a69481c6680e641fec54b757728ac83aa58ec85f590bd679a4d223d04dd",
			"Ta":         "4da7d6bcacdf14a82c2d954229776e0ad92a63fa9f2f10c95e74596f8627356d10cbaf6076871d204c4789bc5f900d5f983900042bde222605081521aab3676e",
			"Tb":         "d8ea701c9284791328abd1b9e447a126c66fbdf08ffb106bb0e82f399505e18692dd1b19aab834a45f0b41f3396c6e7213f98bd52fe8059de0d0aa5dfa49d6b5",
			"psk chacha": "949b6956b7b0805632ad9c943527247e166c1ca1c76911a11ac3c7be573a7a6c37590bc7fddba8bf32d6649cdbb0308a",
			"psk aesgcm": "e45c99aff7ac86f73e064c94666ba5bc8c52ef2e4a2dc1eb2168ecfb9f061de5d689c93b4fe3d683d479bb85e9960579",
		}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			sid := sessionID(tc.h, tc.index, tc.round)
			g, ya, yb, k := oneRun(t, tc.prs, nil, sid, tc.ya, tc.yb)
			a := newAgreement(sid, k, ya, []byte("server"), yb, []byte("client"))
			wrapped := func(aead func([]byte) (cipher.AEAD, error), label string, secret []byte) []byte {
				w, err := a.wrap(Channel{AEAD: aead}, label, secret)
				if err != nil {
					t.Fatal(err)
				}
				back, err := a.unwrap(Channel{AEAD: aead}, label, w)
				if err != nil || !bytes.Equal(back, secret) {
					t.Fatalf("%s: does not come back: %v", label, err)
				}
				return w[:]
			}
			got := map[string][]byte{
				"sid": sid, "g": g, "Ya": ya, "Yb": yb, "K": k, "ISK": a.isk, "Ta": a.serverT[:], "Tb": a.clientT[:],
				"psk chacha": wrapped(chacha, wrapPSK, key), "psk aesgcm": wrapped(aesGCM, wrapPSK, key),
				"nonce chacha": wrapped(chacha, wrapNonce, nonceB[:]), "nonce aesgcm": wrapped(aesGCM, wrapNonce, nonceB[:]),
			}
			for name, want := range tc.want {
				if hex.EncodeToString(got[name]) != want {
					t.Errorf("%s: got %x, want %s", name, got[name], want)
				}
			}
		})
	}
}
