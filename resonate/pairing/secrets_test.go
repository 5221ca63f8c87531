package pairing

import (
	"bytes"
	"crypto/rand"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"go/ast"
	"go/parser"
	"go/printer"
	"go/token"
	"log/slog"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"resonatebridge/resonate/protocol"
)

// numbers is how fmt shows bytes.
func numbers(b []byte) string { return strings.Trim(fmt.Sprintf("%v", b), "[]") }

// TestSecretsDoNotShow prints, logs and marshals every type that holds a secret
// and looks for the secret in every spelling.
func TestSecretsDoNotShow(t *testing.T) {
	key := make([]byte, 32)
	if _, err := rand.Read(key); err != nil {
		t.Fatal(err)
	}
	psk := pskOf(t, key)
	id, err := IdentityFromKey(key)
	if err != nil {
		t.Fatal(err)
	}
	token := Token{Client: PublicKey(run(0, 32)), PSK: psk}
	static, err := ParseStaticCode("83917264")
	if err != nil {
		t.Fatal(err)
	}
	qr := newCode(key[:24], true)
	book := new(Book)
	if err := book.Put(Record{Peer: PublicKey(run(0, 32)), PSK: psk, Paired: time.Unix(1, 0)}, nil); err != nil {
		t.Fatal(err)
	}
	device := &Device{PairingKey: psk, Static: static, Dynamic: &protocol.DynamicCode{}}

	// Both sides in the middle of an attempt, with everything that they hold.
	p := newPair(t, staticChoice)
	p.device.Static = static
	p.device.Gesture(p.now)
	p.activate(staticChoice)
	p.pump()
	agreed := &agreement{isk: append(key, key...)}
	*p.server.x.get() = serverExchange{psk: psk, code: static, agreed: agreed, nonceA: arr32(key)}
	*p.client.x.get() = clientExchange{code: qr, agreed: agreed, nonceB: arr32(key), result: psk}
	p.server.result, p.client.st.Code = psk, static

	secrets := map[string]string{
		"hex": hex.EncodeToString(key), "base64url": base64.RawURLEncoding.EncodeToString(key),
		"base64": base64.StdEncoding.EncodeToString(key), "decimal bytes": numbers(key),
		"Go bytes": strings.TrimSuffix(strings.TrimPrefix(fmt.Sprintf("%#v", key), "[]byte{"), "}"), "raw": string(key),
		"token": token.Reveal(), "token body": token.Reveal()[60:100], "qr": qr.Reveal(), "code": "83917264", "grouped code": "8391-7264",
		"code bytes": numbers([]byte("83917264")), "half of the bytes": numbers(key[:16]),
		"half of the hex": hex.EncodeToString(key[:16]),
	}
	type holder struct {
		Public any
		hidden any
	}
	values := map[string]any{
		"PSK": psk, "Credential": Credential{PSK: psk, Category: PairingKey}, "Identity": id, "*Identity": &id, "Token": token, "*Token": &token,
		"Code": static, "qr Code": qr, "Record": Record{PSK: psk}, "Book": book, "Book value": *book, "Device": device, "Device value": *device,
		"Server": p.server, "Server value": *p.server, "Client": p.client, "Client value": *p.client,
		"Status": p.client.Status(), "ClientPairFinalize": protocol.ClientPairFinalize{LongTerm: psk},
		"slice": []protocol.PSK{psk}, "map": map[string]Code{"code": static}, "unexported field": holder{hidden: token},
		"struct with an identity": struct{ id Identity }{id}, "struct with a psk": struct{ psk protocol.PSK }{psk},
		"struct with a code": struct{ c Code }{static},
	}
	for name, v := range values {
		shown := map[string]string{"Sprint": fmt.Sprint(v)}
		for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "%d", "%b", "%o", "%t", "%T"} {
			shown[verb] = fmt.Sprintf(verb, v)
			shown["&"+verb] = fmt.Sprintf(verb, &v)
		}
		if data, err := json.Marshal(v); err == nil {
			shown["json"] = string(data)
		} else {
			shown["json error"] = err.Error()
		}
		for kind, handler := range map[string]func(*bytes.Buffer) slog.Handler{
			"slog text": func(b *bytes.Buffer) slog.Handler { return slog.NewTextHandler(b, nil) },
			"slog json": func(b *bytes.Buffer) slog.Handler { return slog.NewJSONHandler(b, nil) },
		} {
			var b bytes.Buffer
			slog.New(handler(&b)).Info("message", slog.Any("value", v), slog.Group("group", slog.Any("value", v)))
			shown[kind] = b.String()
		}
		for how, text := range shown {
			for spelling, secret := range secrets {
				if strings.Contains(strings.ToLower(text), strings.ToLower(secret)) {
					t.Errorf("%s with %s shows the secret as %s: %.200q", name, how, spelling, text)
				}
			}
		}
	}
	// The test sees what it should: revealing is possible, on purpose.
	if !strings.Contains(secrets["hex"], hex.EncodeToString(psk.Bytes())) || token.Reveal() != secrets["token"] || static.Reveal() != secrets["grouped code"] {
		t.Error("the secrets that are looked for are not those that are held")
	}
}

// TestErrorsDoNotQuote gives secrets in wrong shapes to every parser.
func TestErrorsDoNotQuote(t *testing.T) {
	const secret = "QJ7ZK3MPAW5XSECRET"
	for name, parse := range map[string]func() error{
		"identity":    func() error { _, err := ParseIdentity([]byte(secret)); return err },
		"bad base64":  func() error { _, err := ParseIdentity([]byte(secret + "!")); return err },
		"token":       func() error { _, err := ParseToken("SP:0" + secret); return err },
		"other token": func() error { _, err := ParseToken("SP:7" + secret); return err },
		"bad token":   func() error { _, err := ParseToken("SP:0" + secret + "!!"); return err },
		"code":        func() error { _, err := ParseCode(digitsChoice, secret); return err },
		"qr":          func() error { _, err := ParseCode(qrChoice, "SP:1"+secret); return err },
		"book": func() error {
			_, err := ParseBook([]byte(`{"version":1,"records":[{"psk":"` + secret + `"}]}`))
			return err
		},
		"damaged book": func() error {
			_, err := ParseBook([]byte(`{"version":1,"records":[{"psk":"` + secret + `"`))
			return err
		},
		"book of another shape": func() error { _, err := ParseBook([]byte(`{"version":1,"records":"` + secret + `"}`)); return err },
		"id in a book": func() error {
			_, err := ParseBook([]byte(`{"version":1,"records":[{"peer_id":"` + secret + `"}]}`))
			return err
		},
	} {
		err := parse()
		if err == nil {
			t.Errorf("%s: got no error, want one", name)
		} else if strings.Contains(err.Error(), secret[:6]) {
			t.Errorf("%s: the error quotes the input: %v", name, err)
		}
	}
}

// TestWiped looks at the memory of an attempt after its end.
func TestWiped(t *testing.T) {
	p := newPair(t, digitsChoice)
	p.activate(digitsChoice)
	p.pump()
	p.enter(wrong(p.client.Status().Code.Reveal()))
	code := p.client.x.get().code
	shown := p.client.Status().Code.Reveal()
	p.fromServer(p.server.Enter(shown))
	entered := p.server.x.get().code
	p.pump()
	p.stored()
	p.wantPaired()
	for name, c := range map[string]Code{"shown": code, "entered": entered} {
		if !bytes.Equal(c.c.get().prs, make([]byte, DynamicDigits)) {
			t.Errorf("the %s code is still there", name)
		}
	}
	var zero [32]byte
	if x := p.server.x.get(); x.nonceA != zero || x.run != nil || x.agreed != nil || !x.code.IsZero() {
		t.Error("values of the exchange are still there")
	}
	if x := p.client.x.get(); x.nonceB != zero || x.agreed != nil || !x.code.IsZero() {
		t.Error("values of the exchange are still there")
	}
	key := p.server.Result()
	key.Wipe()
	if !bytes.Equal(p.server.Result().Bytes(), zero[:]) {
		t.Error("wiping a copy of a key does not wipe the key")
	}
}

// TestSecretsAreComparedInConstantTime looks at the sources of what holds secrets:
// nothing compares bytes in a way that stops at the first that differ, other than
// what is public.
func TestSecretsAreComparedInConstantTime(t *testing.T) {
	public := map[string]bool{`wire.go: bytes.Equal(p["version"], ...)`: true, `record.go: slices.Compare(a[:], ...)`: true} // the latter sorts public keys
	secret := []string{"Tag", "serverT", "clientT", "isk", "prs", "key", "nonceA", "nonceB", "commit", "PSK", "psk"}
	constant := 0
	for _, pattern := range []string{"*.go", "../protocol/secret.go", "../internal/noise/*.go"} {
		files, err := filepath.Glob(filepath.FromSlash(pattern))
		if err != nil || len(files) == 0 {
			t.Fatalf("%s: %v, %d files", pattern, err, len(files))
		}
		for _, file := range files {
			if strings.HasSuffix(file, "_test.go") {
				continue
			}
			fset := token.NewFileSet()
			f, err := parser.ParseFile(fset, file, nil, parser.SkipObjectResolution)
			if err != nil {
				t.Fatal(err)
			}
			name := func(e ast.Expr) string { // the last name in an expression
				switch e := e.(type) {
				case *ast.SelectorExpr:
					return e.Sel.Name
				case *ast.Ident:
					return e.Name
				}
				return ""
			}
			ast.Inspect(f, func(n ast.Node) bool {
				switch n := n.(type) {
				case *ast.BinaryExpr:
					for _, e := range []ast.Expr{n.X, n.Y} {
						if (n.Op == token.EQL || n.Op == token.NEQ) && slices.Contains(secret, name(e)) && name(n.X) != "nil" && name(n.Y) != "nil" {
							t.Errorf("%s: %s is compared with %s", fset.Position(n.Pos()), name(e), n.Op)
						}
					}
				case *ast.CallExpr:
					call, _ := n.Fun.(*ast.SelectorExpr)
					if call == nil {
						return true
					}
					switch what := name(call.X) + "." + call.Sel.Name; what {
					case "subtle.ConstantTimeCompare":
						constant++
					case "bytes.Equal", "bytes.Compare", "slices.Equal", "slices.Compare", "strings.Compare", "strings.EqualFold", "reflect.DeepEqual":
						var arg strings.Builder
						_ = printer.Fprint(&arg, fset, n.Args[0])
						if at := fmt.Sprintf("%s: %s(%s, ...)", filepath.Base(file), what, arg.String()); !public[at] {
							t.Errorf("%s: %s", fset.Position(n.Pos()), at)
						}
					}
				}
				return true
			})
		}
	}
	if constant < 6 {
		t.Errorf("%d comparisons in constant time, want at least 6: keys, key ids, codes, commitments and both proofs", constant)
	}
}
