package session

import (
	"bufio"
	"context"
	"net"
	"net/http"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gorilla/websocket"

	"resonatebridge/resonate/internal/noise"
	"resonatebridge/resonate/internal/sealtest"
	"resonatebridge/resonate/internal/stream"
	"resonatebridge/tests/pipe"
)

// hole is a connection that takes everything once it is open.
type hole struct {
	net.Conn
	open atomic.Bool
}

func (h *hole) Write(p []byte) (int, error) {
	if h.open.Load() {
		return len(p), nil
	}
	return h.Conn.Write(p)
}

// SetWriteDeadline sets a timer in a pipe, which a socket has in the kernel.
func (h *hole) SetWriteDeadline(at time.Time) error {
	if h.open.Load() {
		return nil
	}
	return h.Conn.SetWriteDeadline(at)
}

// sockets are the two ends of a WebSocket, that of the server in a hole.
// inbound: the client opened it.
func sockets(t testing.TB, inbound bool) (ours, theirs *websocket.Conn, h *hole) {
	t.Helper()
	var dials, listens net.Conn = pipe.New()
	h = new(hole)
	if inbound {
		h.Conn, listens = listens, h
	} else {
		h.Conn, dials = dials, h
	}
	upgraded := make(chan *websocket.Conn, 1)
	go func() {
		br := bufio.NewReader(listens)
		req, err := http.ReadRequest(br)
		if err != nil {
			t.Error(err)
			return
		}
		var u websocket.Upgrader
		ws, err := u.Upgrade(hijacked{conn: listens, rw: bufio.NewReadWriter(br, bufio.NewWriter(listens))}, req, nil)
		if err != nil {
			t.Error(err)
			return
		}
		upgraded <- ws
	}()
	d := websocket.Dialer{NetDialContext: func(context.Context, string, string) (net.Conn, error) { return dials, nil }}
	dialled, resp, err := d.DialContext(t.Context(), "ws://x/sendspin", nil)
	if err != nil {
		t.Fatal(err)
	}
	_ = resp.Body.Close()
	if inbound {
		return <-upgraded, dialled, h
	}
	return dialled, <-upgraded, h
}

// sealedHole is a greeted session that does not run, to a speaker that hears
// nothing more. A step with a chunk is all that is done for it.
func sealedHole(t testing.TB, suite noise.Suite, inbound bool) *Session {
	t.Helper()
	ours, theirs, h := sockets(t, inbound)
	x := sealtest.New("a")
	x.Suite = suite
	c := x.Connect(theirs)
	ended := make(chan struct{})
	go func() { defer close(ended); _ = c.Run() }()
	t.Cleanup(func() { _ = ours.Close(); _ = theirs.Close(); <-ended })
	s, err := Greet(t.Context(), ours, "", sealing(t))
	if err != nil {
		t.Fatal(err)
	}
	h.open.Store(true)
	s.sealed.last.ActiveRoles = s.Offered()
	s.sealed.playing = true
	return s
}

// flac is about a chunk of 20 ms of FLAC 48/16/2, due in an hour.
func flac(s *Session) streamStep {
	return streamStep{chunk: &stream.Chunk{Timestamp: s.opts.Clock.Now() + 3_600_000_000, Data: make([]byte, 2400)}}
}

// A chunk for an encrypted player costs no memory where the player dialled us.
// Where we dialled, the WebSocket library makes a writer for each message.
func TestSealedAudioAllocations(t *testing.T) {
	for _, suite := range noise.Suites() {
		for inbound, want := range map[bool]float64{true: 0, false: 1} {
			s := sealedHole(t, suite, inbound)
			x := flac(s)
			if got := testing.AllocsPerRun(200, func() {
				if err := s.step(x); err != nil {
					t.Fatal(err)
				}
			}); got > want {
				t.Errorf("%s, inbound %v: %v allocations for a chunk, want at most %v", suite, inbound, got, want)
			}
		}
	}
}

// BenchmarkAudio is what one chunk costs for one player of a group, after the
// first one in plaintext, whose frame the others share.
func BenchmarkAudio(b *testing.B) {
	for _, bench := range []struct {
		name string
		make func(b *testing.B) *Session
	}{
		{"plain/dialled", func(b *testing.B) *Session { return plainHole(b, false) }},
		{"plain/inbound", func(b *testing.B) *Session { return plainHole(b, true) }},
		{"AESGCM/dialled", func(b *testing.B) *Session { return sealedHole(b, noise.AESGCM, false) }},
		{"AESGCM/inbound", func(b *testing.B) *Session { return sealedHole(b, noise.AESGCM, true) }},
		{"ChaChaPoly/dialled", func(b *testing.B) *Session { return sealedHole(b, noise.ChaChaPoly, false) }},
		{"ChaChaPoly/inbound", func(b *testing.B) *Session { return sealedHole(b, noise.ChaChaPoly, true) }},
	} {
		b.Run(bench.name, func(b *testing.B) {
			s := bench.make(b)
			x := flac(s)
			b.SetBytes(int64(len(x.chunk.Data)))
			b.ReportAllocs()
			for b.Loop() {
				if err := s.step(x); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// plainHole is as sealedHole, in plaintext.
func plainHole(t testing.TB, inbound bool) *Session {
	t.Helper()
	ours, theirs, h := sockets(t, inbound)
	t.Cleanup(func() { _ = ours.Close(); _ = theirs.Close() })
	if err := theirs.WriteMessage(websocket.TextMessage, []byte(hello)); err != nil {
		t.Fatal(err)
	}
	s, err := Greet(t.Context(), ours, "", sealing(t))
	if err != nil {
		t.Fatal(err)
	}
	h.open.Store(true)
	return s
}
