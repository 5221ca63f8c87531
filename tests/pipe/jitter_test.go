package pipe

import (
	"errors"
	"io"
	"net"
	"testing"
	"testing/synctest"
	"time"
)

func TestJitter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := New()
		worse := Jitter(b, 5*time.Millisecond, 1)
		var least, most time.Duration = time.Hour, 0
		for i := range byte(200) {
			began := time.Now()
			if _, err := a.Write([]byte{i}); err != nil {
				t.Fatal(err)
			}
			var got [1]byte
			if _, err := io.ReadFull(worse, got[:]); err != nil || got[0] != i {
				t.Fatalf("byte %d: got %d, %v", i, got[0], err)
			}
			took := time.Since(began)
			least, most = min(least, took), max(most, took)
		}
		if least > time.Millisecond || most < 4*time.Millisecond || most > 5*time.Millisecond {
			t.Errorf("delays from %v to %v, want them all over 0 to 5 ms", least, most)
		}
		// What is written last arrives before the end does.
		if _, err := worse.Write([]byte("bye")); err != nil {
			t.Fatal(err)
		}
		_ = worse.Close()
		if got, err := io.ReadAll(a); string(got) != "bye" || err != nil {
			t.Errorf("got %q, %v, want bye", got, err)
		}
		time.Sleep(time.Second)
		if _, err := b.Write([]byte{1}); !errors.Is(err, net.ErrClosed) {
			t.Errorf("the other end: got %v, want it closed", err)
		}
	})
}
