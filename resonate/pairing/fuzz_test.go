package pairing

import (
	"bytes"
	"errors"
	"strings"
	"testing"

	"resonatebridge/resonate/protocol"
)

func FuzzParseToken(f *testing.F) {
	f.Add("SP:0AAAQEAYEAUDAOCAJBIFQYDIOB4IBCEQTCQKRMFYYDENBWHA5DYP6BYPC4PSOLZXH5DU6V97M5XXO74HR6LZ7J5PW674PT6X37T6757Y")
	f.Add("sp:14DQ6FY7E4XTOP9HJ5LV6Z3PO57YPD4XT6T97N5Y")
	f.Add(" 0\n")
	f.Fuzz(func(t *testing.T, text string) {
		token, err := ParseToken(text)
		var bad *InputError
		if err != nil {
			if !errors.As(err, &bad) || len(bad.Problem) > 200 {
				t.Fatalf("got %#v", err)
			}
		} else if again, err := ParseToken(token.Reveal()); err != nil || again.Client != token.Client || !again.PSK.Equal(token.PSK) {
			t.Fatalf("%q: does not come back: %v", text, err)
		}
		for _, choice := range []protocol.PairingChoice{digitsChoice, qrChoice, staticChoice, tokenChoice} {
			c, err := ParseCode(choice, text)
			if err != nil {
				if !errors.As(err, &bad) || !c.IsZero() {
					t.Fatalf("got %v, %#v", c, err)
				}
				continue
			}
			if again, err := ParseCode(choice, c.Reveal()); err != nil || !again.equal(c) {
				t.Fatalf("%q: the code does not come back: %v", text, err)
			}
		}
	})
}

func FuzzParseID(f *testing.F) {
	f.Add("B6N8vBQgk8i3VdwbEOhstCY3StFqqFPtC9_AsrhtHHw")
	f.Add(strings.Repeat("\n", 43))
	f.Fuzz(func(t *testing.T, id string) {
		if k, err := ParseID(id); err == nil && k.ID() != id {
			t.Fatalf("%q and %q are one key", id, k.ID())
		}
	})
}

func FuzzParseBook(f *testing.F) {
	b := new(Book)
	for i := range 3 {
		if err := b.Put(record(i, 100, 200), nil); err != nil {
			f.Fatal(err)
		}
	}
	data, err := b.EncodeSecret()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(data)
	f.Add([]byte(`{"version":1,"records":[{}]}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		b, err := ParseBook(data)
		if err != nil {
			return
		}
		first, err := b.EncodeSecret()
		if err != nil {
			t.Fatal(err)
		}
		again, err := ParseBook(first)
		if err != nil {
			t.Fatalf("what was written is not read: %v", err)
		}
		if second, err := again.EncodeSecret(); err != nil || !bytes.Equal(first, second) {
			t.Fatalf("it changes when it is written again: %v", err)
		}
	})
}
