package noise

import (
	"bytes"
	"errors"
	"fmt"
	"testing"

	"pgregory.net/rapid"
)

// TestFragmentLayout is the example of the specification: a body of 65,519
// bytes is one too many.
func TestFragmentLayout(t *testing.T) {
	type part struct {
		head string
		data int
	}
	for _, tc := range []struct {
		name string
		body int
		old  bool
		want []part
	}{
		{"fits", 65_518, false, []part{{"00", 65_518}}},
		{"one too many", 65_519, false, []part{{"010200", 65_516}, {"0101", 3}}},
		{"two full ones", 65_516 + 65_517, false, []part{{"010200", 65_516}, {"0101", 65_517}}},
		{"three", 65_516 + 65_517 + 1, false, []part{{"010200", 65_516}, {"0100", 65_517}, {"0101", 1}}},
		{"old: fits", 65_518, true, []part{{"00", 65_518}}},
		{"old: one too many", 65_519, true, []part{{"0200", 65_517}, {"03", 2}}},
		{"old: two full ones", 65_517 + 65_518, true, []part{{"0200", 65_517}, {"03", 65_518}}},
		{"old: three", 65_517 + 65_518 + 1, true, []part{{"0200", 65_517}, {"02", 65_518}, {"03", 1}}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			message := make([]byte, 1+tc.body)
			for i := range message[1:] {
				message[1+i] = byte(i * 31)
			}
			a := Assembler{Old: tc.old}
			var got []byte
			i, at := 0, 1
			for p := range Fragments(nil, message, tc.old) {
				if i >= len(tc.want) {
					t.Fatalf("more than %d parts", len(tc.want))
				}
				head := unhex(t, tc.want[i].head)
				if !bytes.HasPrefix(p, head) || len(p) != len(head)+tc.want[i].data || len(p) > MaxMessage {
					t.Fatalf("part %d: got %x... of %d bytes, want %+v", i, p[:3], len(p), tc.want[i])
				}
				if !bytes.Equal(p[len(head):], message[at:at+tc.want[i].data]) {
					t.Fatalf("part %d: other data", i)
				}
				at += tc.want[i].data
				whole, err := a.Feed(p)
				if err != nil || (whole != nil) != (i == len(tc.want)-1) || a.InFlight() == (whole != nil) {
					t.Fatalf("part %d: got a message: %v, %v", i, whole != nil, err)
				}
				got = bytes.Clone(whole)
				i++
			}
			if i != len(tc.want) || !bytes.Equal(got, message) {
				t.Errorf("got %d parts and %d bytes, want %d and %d", i, len(got), len(tc.want), len(message))
			}
		})
	}
}

func TestFragmentsRoundTrip(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		old := rapid.Bool().Draw(rt, "old")
		a := Assembler{Old: old || rapid.Bool().Draw(rt, "unknown yet"), Limit: 1 << 20}
		s, o := ends(t, AESGCM, 1)
		buf := make([]byte, 0, MaxMessage)
		for range rapid.IntRange(1, 4).Draw(rt, "messages") {
			id := rapid.SampledFrom([]byte{0, 4, 8, 16, 200}).Draw(rt, "id")
			message := bytes.Repeat([]byte{rapid.Byte().Draw(rt, "fill")}, rapid.IntRange(1, 400_000).Draw(rt, "size"))
			message[0] = id
			var got []byte
			for part := range Fragments(buf, message, old) {
				frame, err := s.Seal(nil, part)
				if err != nil {
					rt.Fatal(err)
				}
				plain, err := o.Open(nil, frame)
				if err != nil {
					rt.Fatal(err)
				}
				if got != nil {
					rt.Fatal("a message before its last part")
				}
				if got, err = a.Feed(plain); err != nil {
					rt.Fatal(err)
				}
			}
			if !bytes.Equal(got, message) {
				rt.Fatalf("got %d bytes, want %d", len(got), len(message))
			}
		}
	})
}

func TestMalformedFragments(t *testing.T) {
	for _, tc := range []struct {
		name  string
		old   bool
		parts []string // in hex; the last one is malformed
	}{
		{"no flags", false, []string{"01"}},
		{"a reserved flag", false, []string{"010600"}},
		{"all flags", false, []string{"01ff00"}},
		{"a reserved flag later", false, []string{"010200aa", "0104aa"}},
		{"no id", false, []string{"0102"}},
		{"no id in a single one", false, []string{"0103"}},
		{"fragments in fragments", false, []string{"01020102"}},
		{"continues nothing", false, []string{"0100aa"}},
		{"ends nothing", false, []string{"0101aa"}},
		{"ends twice", false, []string{"010200aa", "0101aa", "0101aa"}},
		{"begins twice", false, []string{"010200aa", "010200aa"}},
		{"begins twice with a whole one", false, []string{"010200aa", "010300aa"}},
		{"JSON in between", false, []string{"010204aa", "007b7d"}},
		{"sound in between", false, []string{"010200aa", "04aa"}},
		{"an unknown id in between", false, []string{"010200aa", "c8aa"}},
		{"an old one in between", false, []string{"010200aa", "02aa"}},
		{"old: ends nothing", true, []string{"03aa"}},
		{"old: no id", true, []string{"02"}},
		{"old: fragments in fragments", true, []string{"0202aa"}},
		{"old: fragments in fragments, 3", true, []string{"0203aa"}},
		{"old: new fragments in fragments", true, []string{"0201aa"}},
		{"old: JSON in between", true, []string{"0200aa", "007b7d"}},
		{"old: continued in the new style", true, []string{"0200aa", "0101aa"}},
		{"old: begun again in the new style", true, []string{"0200aa", "010200aa"}},
		{"new: continued in the old style", true, []string{"010200aa", "02aa"}},
		{"new: ended in the old style", true, []string{"010200aa", "03aa"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			a := Assembler{Old: tc.old}
			for i, part := range tc.parts {
				m, err := a.Feed(unhex(t, part))
				if last := i == len(tc.parts)-1; last != (err != nil) || err != nil && !errors.Is(err, ErrFragment) {
					t.Fatalf("part %d: got %x, %v, want an error: %v", i, m, err, last)
				}
			}
		})
	}
	if _, err := new(Assembler).Feed(nil); !errors.Is(err, ErrEmpty) {
		t.Errorf("an empty message: got %v, want %v", err, ErrEmpty)
	}
}

func TestLegalFragments(t *testing.T) {
	for _, tc := range []struct {
		name  string
		a     Assembler
		parts []string
		want  string
	}{
		{"a single one", Assembler{}, []string{"010304aabb"}, "04aabb"},
		{"an empty body", Assembler{}, []string{"010300"}, "00"},
		{"empty parts", Assembler{}, []string{"010204", "0100", "0100aa", "0101"}, "04aa"},
		{"an id that is not implemented", Assembler{Keep: func(id byte) bool { return id < 4 }}, []string{"0102c8aa", "0101aa"}, ""},
		{"ids 2 and 3 are none of the transport's", Assembler{}, []string{"0200aa"}, "0200aa"},
		{"id 3 either", Assembler{}, []string{"03aa"}, "03aa"},
		{"old: an id that is not implemented", Assembler{Old: true, Keep: func(id byte) bool { return id < 4 }}, []string{"02c8aa", "03aa"}, ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			for i, part := range tc.parts {
				m, err := tc.a.Feed(unhex(t, part))
				if err != nil {
					t.Fatal(err)
				}
				want := ""
				if i == len(tc.parts)-1 {
					want = tc.want
				}
				if got := fmt.Sprintf("%x", m); got != want {
					t.Errorf("part %d: got %s, want %s", i, got, want)
				}
			}
			if tc.a.InFlight() {
				t.Error("a message is still in flight")
			}
		})
	}
}

// TestNeverEndingFragments: memory and patience are bounded.
func TestNeverEndingFragments(t *testing.T) {
	full := append([]byte{fragmentID, 0}, make([]byte, MaxMessage-2)...)
	for _, tc := range []struct {
		name string
		a    *Assembler
		next []byte
		most int // parts
	}{
		{"full ones", &Assembler{}, full, DefaultLimit/len(full) + 1},
		{"full ones, small limit", &Assembler{Limit: 100}, full, 1},
		{"empty ones", &Assembler{}, []byte{fragmentID, 0}, fragmentsMax},
		{"of one byte", &Assembler{}, []byte{fragmentID, 0, 1}, fragmentsMax},
		{"of an id that is not implemented", &Assembler{Keep: func(byte) bool { return false }}, full, fragmentsMax},
		{"old ones", &Assembler{Old: true}, []byte{oldMoreID}, fragmentsMax},
	} {
		t.Run(tc.name, func(t *testing.T) {
			first := []byte{fragmentID, fragmentFirst, JSONID}
			if tc.a.Old {
				first = []byte{oldMoreID, JSONID}
			}
			if _, err := tc.a.Feed(first); err != nil {
				t.Fatal(err)
			}
			var err error
			parts := 0
			for ; err == nil && parts <= tc.most; parts++ {
				_, err = tc.a.Feed(tc.next)
			}
			if !errors.Is(err, ErrFragment) {
				t.Fatalf("after %d parts: got %v, want %v", parts, err, ErrFragment)
			}
			if limit := max(tc.a.Limit, DefaultLimit); cap(tc.a.buf) > 2*limit {
				t.Errorf("keeps %d bytes, the limit is %d", cap(tc.a.buf), limit)
			}
		})
	}
	a := Assembler{Limit: 10}
	if m, err := a.Feed([]byte("\x01\x03\x04123456789")); err != nil || len(m) != 10 {
		t.Errorf("just the limit: got %x, %v", m, err)
	}
	if _, err := a.Feed([]byte("\x01\x03\x041234567890")); err == nil {
		t.Error("one more than the limit: got no error")
	}
}

// TestLargeMessageIsNotKept: the memory of one large message is not held for
// ever.
func TestLargeMessageIsNotKept(t *testing.T) {
	var a Assembler
	for part := range Fragments(nil, make([]byte, DefaultLimit), false) {
		if _, err := a.Feed(part); err != nil {
			t.Fatal(err)
		}
	}
	if cap(a.buf) != 0 {
		t.Errorf("holds %d bytes", cap(a.buf))
	}
}

// TestSealerKeepsFragmentsTogether: the Sealer refuses what its peer would have
// to refuse.
func TestSealerKeepsFragmentsTogether(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		s, o := ends(t, ChaChaPoly, 1)
		a := Assembler{}
		for range rapid.IntRange(1, 30).Draw(rt, "messages") {
			message := rapid.SampledFrom([]string{"\x00{}", "\x04a", "\x01\x02\x00a", "\x01\x00a", "\x01\x01a", "\x01\x03\x00a", "\x01"}).Draw(rt, "message")
			frame, err := s.Seal(nil, []byte(message))
			if err != nil {
				if !errors.Is(err, ErrInterleaved) {
					rt.Fatal(err)
				}
				continue
			}
			plain, err := o.Open(nil, frame)
			if err == nil {
				_, err = a.Feed(plain)
			}
			if err != nil {
				rt.Fatalf("%q was sealed, and refused: %v", message, err)
			}
		}
	})
}

func FuzzAssembler(f *testing.F) {
	f.Add([]byte("\x03\x01\x02\x00\x02\x01\x00\x03\x01\x01a"), true)
	f.Add([]byte("\x02\x02\x04\x01\x03"), true)
	f.Add([]byte("\x01\x00"), false)
	f.Fuzz(func(t *testing.T, data []byte, old bool) {
		a := Assembler{Limit: 64, Old: old}
		for len(data) > 0 { // parts with their length before them
			n := min(int(data[0]), len(data)-1)
			part := data[1 : 1+n]
			data = data[1+n:]
			before := bytes.Clone(part)
			was := a.InFlight()
			m, err := a.Feed(part)
			if !bytes.Equal(part, before) {
				t.Fatal("the part was written to")
			}
			if err != nil {
				if m != nil {
					t.Fatal("a message and an error")
				}
				return
			}
			transport := part[0] == fragmentID || old && (part[0] == oldMoreID || part[0] == oldLastID)
			switch {
			case m != nil && (len(m) == 0 || a.InFlight()):
				t.Fatalf("got %x, in flight: %v", m, a.InFlight())
			case !transport && (was || !bytes.Equal(m, part)):
				t.Fatalf("%x came as %x", part, m)
			case transport && (len(m) > 64 || m != nil && m[0] == fragmentID):
				t.Fatalf("%d bytes of id %d", len(m), m[0])
			}
		}
	})
}

// FuzzOpen gives an opener arbitrary frames.
func FuzzOpen(f *testing.F) {
	s, _ := ends(f, AESGCM, 1)
	frame, err := s.Seal(nil, []byte("\x00{}"))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(frame, true)
	f.Add(frame[:16], false)
	f.Fuzz(func(t *testing.T, data []byte, aes bool) {
		suite := ChaChaPoly
		if aes {
			suite = AESGCM
		}
		_, o := ends(t, suite, 1)
		m, err := o.Open(nil, data)
		if (err == nil) != (aes && bytes.Equal(data, frame)) {
			t.Fatalf("%x: got %x, %v", data, m, err)
		}
	})
}
