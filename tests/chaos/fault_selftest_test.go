package chaos

import (
	"errors"
	"io"
	"net"
	"os"
	"syscall"
	"testing"
	"time"
)

// echo is a server that says everything back.
func echo(t *testing.T) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = ln.Close() })
	go func() { // ends with the listener
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			go func() { // ends with the connection
				_, _ = io.Copy(c, c)
				_ = c.Close()
			}()
		}
	}()
	return ln.Addr().String()
}

// TestProxy shows that each fault is what it is called: a fault that did
// nothing would let every test of it pass.
func TestProxy(t *testing.T) {
	p := newProxy(t, echo(t))
	const short = 100 * time.Millisecond
	dial := func() net.Conn {
		c, err := net.Dial("tcp", p.addr())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = c.Close() })
		return c
	}
	say := func(c net.Conn, text string) {
		if _, err := io.WriteString(c, text); err != nil {
			t.Fatal(err)
		}
	}
	// hear reads n bytes, in how many pieces they came and how long that took.
	hear := func(c net.Conn, n int) (pieces int, took time.Duration) {
		t.Helper()
		began := time.Now()
		buf := make([]byte, 1<<10)
		for n > 0 {
			_ = c.SetReadDeadline(time.Now().Add(10 * time.Second))
			k, err := c.Read(buf[:n])
			if err != nil {
				t.Fatalf("after %d pieces: %v", pieces, err)
			}
			pieces, n = pieces+1, n-k
		}
		return pieces, time.Since(began)
	}
	// nothing is heard for a while, and the connection does not end either.
	nothing := func(c net.Conn) {
		t.Helper()
		_ = c.SetReadDeadline(time.Now().Add(short))
		if n, err := c.Read(make([]byte, 1)); n != 0 || !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("got %d bytes, %v; want silence", n, err)
		}
	}
	ends := func(c net.Conn, want error) {
		t.Helper()
		_ = c.SetReadDeadline(time.Now().Add(10 * time.Second))
		if _, err := io.Copy(io.Discard, c); !errors.Is(err, want) {
			t.Errorf("got the end %v, want %v", err, want)
		}
	}

	c := dial()
	say(c, "good")
	hear(c, 4)
	for _, x := range []struct {
		name string
		fault
		ways []way
		want time.Duration // that 20 bytes and back take at least
	}{
		{"latency", fault{latency: short}, []way{forth, back}, 2 * short},
		{"latency of one direction", fault{latency: short}, []way{back}, short},
		{"bandwidth", fault{rate: 100}, []way{forth}, short}, // 200 ms, less what the last piece waits for afterwards
	} {
		p.set(x.fault, x.ways...)
		say(c, "0123456789")
		say(c, "0123456789")
		if _, took := hear(c, 20); took < x.want {
			t.Errorf("%s: took %v, want at least %v", x.name, took, x.want)
		}
		p.heal()
	}
	p.set(fault{piece: 1, rate: 1000}, back)
	say(c, "0123456789")
	if pieces, _ := hear(c, 10); pieces < 5 { // two may meet in the kernel
		t.Errorf("byte by byte: got 10 bytes in %d pieces", pieces)
	}
	for _, w := range []way{forth, back} {
		p.set(fault{silent: true}, w)
		say(c, "wait")
		nothing(c)
		p.heal()
		hear(c, 4)
	}
	for _, w := range []way{forth, back} {
		c := dial()
		say(c, "good")
		hear(c, 4)
		p.truncate(w, 3)
		say(c, "12345")
		got, _ := io.ReadAll(c)
		if want := map[way]int{forth: 0, back: 3}[w]; len(got) > 3 || len(got) < want {
			t.Errorf("cut short after 3: got %q", got)
		}
	}
	before := p.open()
	p.abandon()
	if after := p.open(); before == 0 || after != 0 {
		t.Errorf("%d connections before all were abandoned, %d then", before, after)
	}
	say(c, "anybody?")
	nothing(c)
	c = dial()
	say(c, "good")
	hear(c, 4)
	p.reset()
	ends(c, syscall.ECONNRESET)
}
