package noise

import (
	"bytes"
	"errors"
	"fmt"
	"math"
	"slices"
	"testing"

	"pgregory.net/rapid"
)

// ends are both ends of one direction.
func ends(t testing.TB, s Suite, key byte) (*Sealer, *Opener) {
	t.Helper()
	k := [32]byte(bytes.Repeat([]byte{key}, 32))
	d, err := newDirection(s, k)
	if err != nil {
		t.Fatal(err)
	}
	return &Sealer{direction: d}, &Opener{d}
}

func TestFrames(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		s, o := ends(t, rapid.SampledFrom(Suites()).Draw(rt, "suite"), 1)
		for i := range rapid.IntRange(1, 20).Draw(rt, "frames") {
			message := append([]byte{4}, rapid.SliceOfN(rapid.Byte(), 0, 300).Draw(rt, "body")...)
			prefix := rapid.SliceOfN(rapid.Byte(), 0, 5).Draw(rt, "dst")
			frame, err := s.Seal(slices.Clone(prefix), message)
			if err != nil || !bytes.HasPrefix(frame, prefix) || len(frame) != len(prefix)+len(message)+Overhead {
				rt.Fatalf("got %d bytes, %v", len(frame), err)
			}
			got, err := o.Open(slices.Clone(prefix), frame[len(prefix):])
			if err != nil || !bytes.Equal(got, append(prefix, message...)) {
				rt.Fatalf("got %x, %v, want %x", got, err, message)
			}
			if n := uint64(i + 1); s.Frames() != n || o.Frames() != n {
				rt.Fatalf("counted %d and %d frames, want %d", s.Frames(), o.Frames(), n)
			}
		}
	})
}

func TestInPlace(t *testing.T) {
	for _, suite := range Suites() {
		s, o := ends(t, suite, 1)
		buf := append(make([]byte, 0, 100), "\x04sound"...)
		frame, err := s.Seal(buf[:0], buf)
		if err != nil || &frame[0] != &buf[:1][0] {
			t.Fatalf("seal: %v, or in another place", err)
		}
		if got, err := o.Open(frame[:0], frame); err != nil || string(got) != "\x04sound" {
			t.Fatalf("open: got %q, %v", got, err)
		}
	}
}

// TestAttacks on the sequence of frames: whatever is not the next frame of the
// peer, as it was sent, ends the direction.
func TestAttacks(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		suite := rapid.SampledFrom(Suites()).Draw(rt, "suite")
		s, o := ends(t, suite, 1)
		n := rapid.IntRange(2, 6).Draw(rt, "frames")
		var frames [][]byte
		for i := range n {
			f, err := s.Seal(nil, []byte{4, byte(i), 1, 2, 3})
			if err != nil {
				rt.Fatal(err)
			}
			frames = append(frames, f)
		}
		at := rapid.IntRange(0, n-1).Draw(rt, "at")
		bit := rapid.IntRange(0, 8*len(frames[0])-1).Draw(rt, "bit")
		evil := slices.Clone(frames[at])
		attack := rapid.SampledFrom([]string{"flip", "cut", "lengthen", "replay", "skip", "other key", "other suite", "other direction", "empty", "tag only"}).Draw(rt, "attack")
		switch attack {
		case "flip":
			evil[bit/8] ^= 1 << (bit % 8)
		case "cut":
			evil = evil[:bit/8]
		case "lengthen":
			evil = append(evil, byte(bit))
		case "replay":
			if at == 0 {
				return
			}
			evil = frames[rapid.IntRange(0, at-1).Draw(rt, "older")]
		case "skip":
			if at == n-1 {
				return
			}
			evil = frames[rapid.IntRange(at+1, n-1).Draw(rt, "later")]
		case "other key", "other direction":
			other, _ := ends(t, suite, 2)
			other.n = uint64(at)
			evil, _ = other.Seal(nil, []byte{4, 1})
		case "other suite":
			other, _ := ends(t, ChaChaPoly+AESGCM-suite, 1)
			other.n = uint64(at)
			evil, _ = other.Seal(nil, []byte{4, 1})
		case "empty":
			evil = nil
		case "tag only":
			evil = evil[:Overhead]
		}
		for i := range at {
			if _, err := o.Open(nil, frames[i]); err != nil {
				rt.Fatal(err)
			}
		}
		if got, err := o.Open(nil, evil); !errors.Is(err, ErrAuthentication) || len(got) != 0 {
			rt.Fatalf("%s: got %x, %v, want %v", attack, got, err, ErrAuthentication)
		}
		if got, err := o.Open(nil, frames[at]); !errors.Is(err, ErrAuthentication) || len(got) != 0 {
			rt.Fatalf("%s: the right frame afterwards: got %x, %v, want the end", attack, got, err)
		}
		if o.Frames() != uint64(at) {
			rt.Fatalf("%s: counted %d frames, want %d", attack, o.Frames(), at)
		}
	})
}

func TestLimits(t *testing.T) {
	for _, suite := range Suites() {
		s, o := ends(t, suite, 1)
		frame, err := s.Seal(nil, make([]byte, MaxMessage))
		if err != nil || len(frame) != MaxFrame {
			t.Fatalf("got %d bytes, %v, want %d", len(frame), err, MaxFrame)
		}
		if got, err := o.Open(nil, frame); err != nil || len(got) != MaxMessage {
			t.Fatalf("got %d bytes, %v", len(got), err)
		}
		for name, tc := range map[string]struct {
			message []byte
			want    error
		}{"empty": {nil, ErrEmpty}, "too long": {make([]byte, MaxMessage+1), ErrTooLong}} {
			if got, err := s.Seal([]byte{1}, tc.message); !errors.Is(err, tc.want) || len(got) != 1 {
				t.Errorf("%s: got %x, %v, want %v", name, got, err, tc.want)
			}
		}
		if s.Frames() != 1 {
			t.Errorf("what was refused was counted: %d", s.Frames())
		}

		s, o = ends(t, suite, 1)
		empty := s.key.aead.Seal(nil, s.nonce[:], nil, nil) // authentic, but without an id
		if _, err := o.Open(nil, empty); !errors.Is(err, ErrEmpty) {
			t.Errorf("an empty message: got %v, want %v", err, ErrEmpty)
		}
		_, o = ends(t, suite, 1)
		if _, err := o.Open(nil, make([]byte, MaxFrame+1)); !errors.Is(err, ErrTooLong) {
			t.Errorf("an overlong frame: got %v, want %v", err, ErrTooLong)
		}

		s, o = ends(t, suite, 1)
		s.n, o.n = math.MaxUint64-1, math.MaxUint64-1
		frame, err = s.Seal(nil, []byte{4})
		if err != nil {
			t.Fatalf("the last counter: %v", err)
		}
		if _, err := o.Open(nil, frame); err != nil {
			t.Fatalf("the last counter: %v", err)
		}
		if _, err := s.Seal(nil, []byte{4}); !errors.Is(err, ErrExhausted) {
			t.Errorf("after the last counter: got %v, want %v", err, ErrExhausted)
		}
		if _, err := o.Open(nil, frame); !errors.Is(err, ErrExhausted) {
			t.Errorf("after the last counter: got %v, want %v", err, ErrExhausted)
		}
	}
}

// TestNoncesDoNotRepeat looks at the first nonces of each suite.
func TestNoncesDoNotRepeat(t *testing.T) {
	for suite, want := range map[Suite]string{ChaChaPoly: "000000000100000000000000", AESGCM: "000000000000000000000001"} {
		s, _ := ends(t, suite, 1)
		if _, err := s.Seal(nil, []byte{4}); err != nil {
			t.Fatal(err)
		}
		nonce, err := s.next()
		if err != nil || fmt.Sprintf("%x", nonce) != want {
			t.Errorf("%s: nonce 1: got %x, %v, want %s", suite, nonce, err, want)
		}
	}
}

// TestAllocations: a frame costs none, with memory of the caller's.
func TestAllocations(t *testing.T) {
	for _, suite := range Suites() {
		s, o := ends(t, suite, 1)
		message := append([]byte{4}, make([]byte, 4000)...)
		frame, plain := make([]byte, 0, MaxFrame), make([]byte, 0, MaxFrame)
		got := testing.AllocsPerRun(200, func() {
			var err error
			if frame, err = s.Seal(frame[:0], message); err == nil {
				plain, err = o.Open(plain[:0], frame)
			}
			if err != nil {
				t.Fatal(err)
			}
		})
		if got != 0 {
			t.Errorf("%s: got %v allocations for seal and open, want 0", suite, got)
		}
	}
	var a Assembler
	message := []byte("\x04sound")
	if got := testing.AllocsPerRun(100, func() {
		if m, err := a.Feed(message); err != nil || len(m) != len(message) {
			t.Fatal(err)
		}
	}); got != 0 {
		t.Errorf("Feed of a whole message: got %v allocations, want 0", got)
	}
}

// flacFrame is about what a chunk of 20 ms of FLAC 48/16/2 has, in bytes.
const flacFrame = 13 + 2400

func BenchmarkSeal(b *testing.B) {
	for _, suite := range Suites() {
		b.Run("suite="+suite.String(), func(b *testing.B) {
			s, _ := ends(b, suite, 1)
			message := make([]byte, flacFrame)
			message[0] = 4
			frame := make([]byte, 0, flacFrame+Overhead)
			b.SetBytes(flacFrame)
			b.ReportAllocs()
			for b.Loop() {
				var err error
				if frame, err = s.Seal(frame[:0], message); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkOpen(b *testing.B) {
	for _, suite := range Suites() {
		b.Run("suite="+suite.String(), func(b *testing.B) {
			s, o := ends(b, suite, 1)
			message := make([]byte, flacFrame)
			message[0] = 4
			frame, err := s.Seal(nil, message)
			if err != nil {
				b.Fatal(err)
			}
			b.SetBytes(flacFrame)
			b.ReportAllocs()
			for b.Loop() {
				o.n = 0 // the same frame again
				if message, err = o.Open(message[:0], frame); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// BenchmarkServerHandshake is the server's part of a handshake.
func BenchmarkServerHandshake(b *testing.B) {
	for _, suite := range Suites() {
		b.Run("suite="+suite.String(), func(b *testing.B) {
			p := newParty(b)
			b.ReportAllocs()
			for b.Loop() {
				b.StopTimer()
				client, init := p.responder(suite)
				b.StartTimer()
				server := p.initiator(p.lt())
				step, err := server.Feed(false, init)
				if err != nil {
					b.Fatal(err)
				}
				b.StopTimer()
				if _, err = client.Feed(false, step.Send[0]); err != nil {
					b.Fatal(err)
				}
				answer, err := client.Feed(false, step.Send[1])
				if err != nil {
					b.Fatal(err)
				}
				b.StartTimer()
				if step, err = server.Feed(false, answer.Send[0]); err != nil || step.Channel == nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// BenchmarkClientInit is what a stranger's first message costs.
func BenchmarkClientInit(b *testing.B) {
	p := newParty(b)
	_, init := p.responder(AESGCM)
	for b.Loop() {
		if _, err := p.initiator(p.lt()).Feed(false, init); err != nil {
			b.Fatal(err)
		}
	}
}
