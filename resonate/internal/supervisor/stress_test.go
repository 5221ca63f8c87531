package supervisor

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// echoer is a device on a loopback socket: it says its id and then every byte
// back, until the connection ends.
func echoer(t *testing.T, id string) (addr string) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() { // ends with the listener
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			wg.Go(func() { // ends with the connection
				defer c.Close()
				if _, err := fmt.Fprintln(c, id); err == nil {
					_, _ = io.Copy(c, c)
				}
			})
		}
	})
	t.Cleanup(func() { _ = ln.Close(); wg.Wait() })
	return ln.Addr().String()
}

// sockets counts what is open: from before a dial until after the close.
type sockets struct{ open, peak, total atomic.Int64 }

func (n *sockets) enter() {
	n.total.Add(1)
	now := n.open.Add(1)
	for old := n.peak.Load(); now > old && !n.peak.CompareAndSwap(old, now); old = n.peak.Load() { //nolint:revive // until it is the peak
	}
}

// wired is a session over a real socket.
type wired struct {
	id    string
	conn  net.Conn
	in    *bufio.Reader
	count *sockets
	once  sync.Once
	cause error
}

func (n *sockets) dial(ctx context.Context, a Attempt[string]) (*wired, error) {
	n.enter()
	c, err := (&net.Dialer{}).DialContext(ctx, "tcp", a.Endpoints[0])
	if err != nil {
		n.open.Add(-1)
		return nil, err
	}
	a.Greeting()
	s := &wired{conn: c, in: bufio.NewReader(c), count: n}
	stop := context.AfterFunc(ctx, func() { s.Kill(context.Cause(ctx)) })
	defer stop()
	s.id, err = s.in.ReadString('\n')
	s.id = strings.TrimSpace(s.id)
	if err != nil {
		s.Kill(err)
		return nil, err
	}
	return s, nil
}

func (s *wired) ID() string { return s.id }

func (s *wired) Kill(cause error) {
	s.once.Do(func() {
		s.cause = cause
		_ = s.conn.Close()
		s.count.open.Add(-1)
	})
}

func (s *wired) Run(ctx context.Context, up func()) error {
	stop := context.AfterFunc(ctx, func() { s.Kill(context.Cause(ctx)) })
	defer stop()
	up()
	_, err := io.Copy(io.Discard, s.in)
	if err == nil {
		err = io.EOF
	}
	s.Kill(err)
	return s.cause
}

func (s *wired) Probe(context.Context) error {
	_, err := s.conn.Write([]byte{'.'})
	return err
}

// TestStressLoopback has 1,000 callers ensure, remove and nudge one key at once,
// over real sockets, and Notify call back into the map. Sockets are counted
// where they are opened and closed: there is never more than one, and the last
// word counts.
func TestStressLoopback(t *testing.T) {
	const callers, rounds = 1000, 3
	addr := echoer(t, "A")
	var count sockets
	var m *Map[string, *wired]
	var up bool
	var gen, ups uint64
	m = New(Options[string, *wired]{
		Equal: func(a, b string) bool { return a == b },
		Dial:  count.dial,
		Floor: -1, DialRate: 1e9, DialBurst: 1 << 30, BackoffBase: time.Millisecond, BackoffCap: time.Millisecond,
		Notify: func(st Status[*wired]) { // of one key: one call at a time, each after the one before
			switch st.State {
			case Up:
				if up || st.Gen <= gen {
					t.Errorf("up(%d) after gen %d, up %v", st.Gen, gen, up)
				}
				up, gen = true, st.Gen
				ups++
			case Waiting, Parked, Gone:
				up = false
			default:
			}
			switch rand.N(8) {
			case 0:
				m.Remove(st.Key)
			case 1:
				_, _ = m.Ensure(st.Key, addr)
			case 2:
				m.Nudge(st.Key, WhyUser)
			case 3:
				m.Snapshot()
			}
		},
	})
	for round := range rounds {
		start := make(chan struct{})
		var wg sync.WaitGroup
		for i := range callers {
			wg.Go(func() {
				<-start
				time.Sleep(rand.N(20 * time.Millisecond))
				switch i % 4 {
				case 0, 1:
					if _, err := m.Ensure("k", addr); err != nil {
						t.Error(err)
					}
				case 2:
					m.Remove("k")
				case 3:
					m.Nudge("k", WhyUser)
				}
			})
		}
		close(start)
		wg.Wait()
		if round%2 == 0 {
			waitFor(t, "up after the last word", func() bool {
				_, _ = m.Ensure("k", addr) // Notify may have removed it since
				st, ok := m.Status("k")
				return ok && st.State == Up && count.open.Load() == 1
			})
			continue
		}
		waitFor(t, "gone after the last word", func() bool {
			<-m.Remove("k") // Notify may have asked for it again
			_, ok := m.Status("k")
			return !ok && count.open.Load() == 0
		})
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if err := m.Close(ctx); err != nil {
		t.Error(err)
	}
	if got := count.open.Load(); got != 0 || up {
		t.Errorf("after Close: got %d sockets, up %v; want none", got, up)
	}
	if got := count.peak.Load(); got != 1 {
		t.Errorf("sockets at once: got %d, want 1", got)
	}
	t.Logf("%d sockets, %d ups", count.total.Load(), ups)
}

// waitFor polls, in real time.
func waitFor(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for late := time.Now().Add(10 * time.Second); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(late) {
			t.Fatalf("not within 10 s: %s", what)
		}
	}
}
