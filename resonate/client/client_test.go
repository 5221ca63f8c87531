package client

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"resonatebridge/resonate/protocol"
	"resonatebridge/tests/pipe"
	"resonatebridge/timesync"
)

// RC-1: a disconnect ordered before the connection is complete wins.
// Guard: greet's `if !stop()`. Without it the server's answer, which is already
// in the socket, makes a session that lives after its owner gave up.
func TestRC1ClientCancelledDialHasNoSession(t *testing.T) {
	bubble(t, func(t *testing.T) {
		h := newHouse(t, func(f *fakeServer) { f.mute = true })
		ctx, cancel := context.WithCancel(t.Context())
		o := h.options()
		started := false
		o.OnMessage = func(*Session, protocol.ServerMessage) { started = true }
		// The owner gives up in the instant in which the answer is read.
		o.NetDial = func(ctx context.Context, network, addr string) (net.Conn, error) {
			c, err := h.DialContext(ctx, network, addr)
			return &tapped{Conn: c, after: func(got string) {
				if strings.Contains(got, "server/hello") {
					cancel()
				}
			}}, err
		}
		var s *Session
		var err error
		var wg sync.WaitGroup
		wg.Go(func() { s, err = Dial(ctx, "ws://house/sendspin", o) })
		synctest.Wait()
		f := h.conn(0)
		f.send(`{"type":"server/hello","payload":{"server_id":"srv","name":"H","version":1,"active_roles":["player@v1"],"connection_reason":"discovery"}}`)
		wg.Wait()
		if s != nil || !errors.Is(err, context.Canceled) {
			t.Errorf("dial: got %v, %v; want no session, context canceled", s, err)
		}
		synctest.Wait()
		if !f.isClosed() {
			t.Error("the socket stayed open after the dial was cancelled")
		}
		if started {
			t.Error("a message was handed over, want none")
		}
		if s != nil {
			s.Abort()
			<-s.Done()
		}
	})
}

// tapped calls after with everything that is read.
type tapped struct {
	net.Conn
	after func(string)
}

func (c *tapped) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	c.after(string(b[:n]))
	return n, err
}

// RC-2: one teardown, with the first cause, and none of it reaches a successor.
// Guard: the cause of context.WithCancelCause, which only the first call sets,
// and that run is the only place which cleans up.
func TestRC2ClientManyClosesOneEnd(t *testing.T) {
	bubble(t, func(t *testing.T) {
		h := newHouse(t, nil)
		s := h.dial(t, h.options())
		first := h.conn(0)
		reasons := []protocol.GoodbyeReason{protocol.GoodbyeRestart, protocol.GoodbyeShutdown, protocol.GoodbyeUserRequest}
		var wg sync.WaitGroup
		for i := range 15 {
			wg.Go(func() { s.Close(reasons[i%3]) })
		}
		wg.Wait()
		cause := s.Err()
		next := h.dial(t, h.options()) // while the old one drains
		<-s.Done()
		s.Abort()
		s.Close(protocol.GoodbyeUnpaired)
		if got := s.Err(); !errors.Is(got, ErrClosed) || !errors.Is(got, cause) {
			t.Errorf("cause: got %v, want what it was first: %v", got, cause)
		}
		synctest.Wait()
		if got := first.messages("client/goodbye"); len(got) != 1 {
			t.Errorf("goodbyes: got %q, want exactly one", got)
		}
		pass(time.Minute)
		if err := next.Err(); err != nil {
			t.Errorf("the successor ended: %v", err)
		}
	})
}

// RC-2 again: a server that does not answer the close can't hold up the end.
// Guard: run's timer of 200 ms.
func TestRC2ClientCloseIsBounded(t *testing.T) {
	for _, tc := range []struct {
		name  string
		fault func(*pipe.Conn)
		close func(*Session)
		want  time.Duration
	}{
		{"goodbye, healthy", func(*pipe.Conn) {}, func(s *Session) { s.Close("restart") }, 0},
		{"goodbye, frozen", (*pipe.Conn).Freeze, func(s *Session) { s.Close("restart") }, linger},
		{"goodbye, cut", (*pipe.Conn).Cut, func(s *Session) { s.Close("restart") }, linger},
		{"abort, frozen", (*pipe.Conn).Freeze, (*Session).Abort, 0},
	} {
		t.Run(tc.name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				h := newHouse(t, nil)
				s := h.dial(t, h.options())
				synctest.Wait()
				tc.fault(h.conn(0).link)
				begun := time.Now()
				tc.close(s)
				<-s.Done()
				if got := time.Since(begun); got != tc.want {
					t.Errorf("it took %v, want %v", got, tc.want)
				}
			})
		})
	}
}

// RC-3: a listener may do anything from inside its own call, and after its
// Close no call begins. Guard: dispatch's look at closing. Without it the
// second of two messages that are both in the socket is handed over.
func TestRC3ClientCloseInsideCallback(t *testing.T) {
	bubble(t, func(t *testing.T) {
		h := newHouse(t, nil)
		o := h.options()
		var calls []string
		var inner *Session
		o.OnMessage = func(s *Session, m protocol.ServerMessage) {
			calls = append(calls, fmt.Sprintf("%T", m))
			if _, ok := m.(protocol.GroupUpdate); !ok {
				return
			}
			_ = s.Send(protocol.ClientState{})
			_, _, _ = s.Server(), s.Model(), s.Err()
			s.Close(protocol.GoodbyeUserRequest)
			s.Close(protocol.GoodbyeRestart)
			if err := s.Send(protocol.ClientState{}); !errors.Is(err, ErrGone) {
				t.Errorf("send after close: got %v, want ErrGone", err)
			}
			var err error
			if inner, err = Dial(t.Context(), "ws://house/sendspin", h.options()); err != nil {
				t.Error(err)
			}
		}
		s := h.dial(t, o)
		for range 5 {
			h.conn(0).send(`{"type":"group/update","payload":{"playback_state":"stopped","group_id":"g","group_name":"G"}}`)
		}
		<-s.Done()
		if got := fmt.Sprint(calls); got != "[protocol.ServerHello protocol.GroupUpdate]" {
			t.Errorf("calls: got %s, want the hello and one update", got)
		}
		if inner == nil || inner.Err() != nil {
			t.Fatal("a session made inside the callback does not live")
		}
		inner.Abort()
		<-inner.Done()
	})
}

// RC-4: a send that waits while the session ends gets ErrGone, never a panic
// and never another session. Guard: there is no connection to become nil; out
// is never closed; Send's look at closing. Without that look a send to a dead
// session reports success.
func TestRC4ClientSendAfterEnd(t *testing.T) {
	for _, tc := range []struct {
		name string
		end  func(*Session, *fakeServer)
	}{
		{"goodbye", func(s *Session, _ *fakeServer) { s.Close("restart") }},
		{"abort", func(s *Session, _ *fakeServer) { s.Abort() }},
		{"reset", func(_ *Session, f *fakeServer) { f.link.Reset() }},
		{"server closes", func(_ *Session, f *fakeServer) { _ = f.conn.Close() }},
	} {
		t.Run(tc.name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				h := newHouse(t, nil)
				s := h.dial(t, h.options())
				next := h.dial(t, h.options())
				synctest.Wait()
				tc.end(s, h.conn(0))
				synctest.Wait()
				if err := s.Send(protocol.ClientState{}); !errors.Is(err, ErrGone) {
					t.Errorf("got %v, want ErrGone", err)
				}
				<-s.Done()
				if got := h.conn(1).messages("client/"); len(got) != 0 {
					t.Errorf("the other session sent %q, want nothing", got)
				}
				if next.Err() != nil {
					t.Errorf("the other session ended: %v", next.Err())
				}
			})
		})
	}
}

// RC-4 under load: many senders, one writer. Guard: only write calls
// WriteMessage. With a WriteMessage in Send, gorilla panics ("concurrent write
// to websocket connection").
func TestRC4ClientSingleWriterUnderStorm(t *testing.T) {
	bubble(t, func(t *testing.T) {
		h := newHouse(t, nil)
		s := h.dial(t, h.options())
		f := h.conn(0)
		const senders, each = 16, 200
		var sent [senders]int
		var wg sync.WaitGroup
		for i := range senders {
			wg.Go(func() {
				for n := range each {
					v := i*1000 + n
					if err := s.Send(protocol.ClientState{Player: &protocol.PlayerState{OutputDelayMs: &v}}); err != nil {
						if !errors.Is(err, ErrGone) && !errors.Is(err, ErrSlow) {
							t.Errorf("got %v, want ErrGone or ErrSlow", err)
						}
						return
					}
					sent[i]++
					time.Sleep(time.Millisecond)
				}
			})
		}
		pass(100 * time.Millisecond)
		f.link.Reset()
		wg.Wait()
		<-s.Done()
		next := [senders]int{}
		for _, m := range f.messages("client/state") {
			var v int
			_, field, _ := strings.Cut(m, `"static_delay_ms":`)
			if _, err := fmt.Sscanf(field, "%d", &v); err != nil {
				t.Fatalf("%s: %v", m, err)
			}
			if i := v / 1000; v%1000 != next[i] {
				t.Fatalf("sender %d: got message %d, want %d", i, v%1000, next[i])
			}
			next[v/1000]++
		}
		if next[0] == 0 {
			t.Error("nothing arrived before the reset")
		}
	})
}

// RC-4: a server that reads nothing ends the session once, with ErrSlow.
func TestRC4ClientSlowServer(t *testing.T) {
	bubble(t, func(t *testing.T) {
		h := newHouse(t, nil)
		s := h.dial(t, h.options())
		synctest.Wait()
		h.conn(0).link.Freeze()
		var err error
		for n := 0; err == nil && n < 1_000_000; n++ {
			err = s.Send(protocol.ClientState{})
			synctest.Wait()
		}
		if !errors.Is(err, ErrSlow) || !errors.Is(s.Err(), ErrSlow) {
			t.Errorf("send: got %v, cause %v; want ErrSlow", err, s.Err())
		}
		<-s.Done()
		if err := s.Send(protocol.ClientState{}); !errors.Is(err, ErrGone) {
			t.Errorf("send: got %v, want ErrGone", err)
		}
	})
}

// RC-5: the time request is a write like any other: it does not look at
// anything before it that could change. Guard: ask runs in write, the owner of
// the socket. The end in the middle of a burst is quiet.
func TestRC5ClientEndInTheMiddleOfABurst(t *testing.T) {
	bubble(t, func(t *testing.T) {
		h := newHouse(t, func(f *fakeServer) { f.silence = true })
		s := h.dial(t, h.options())
		f := h.conn(0)
		pass(time.Second)
		f.mu.Lock()
		asked := f.times
		f.mu.Unlock()
		if asked != 1 {
			t.Fatalf("client/time: got %d in flight, want 1", asked)
		}
		s.Close(protocol.GoodbyeUserRequest)
		<-s.Done()
		synctest.Wait()
		f.mu.Lock()
		defer f.mu.Unlock()
		if f.times != 1 {
			t.Errorf("client/time: got %d, want none after the end", f.times-1)
		}
		if got := fmt.Sprint(f.got); got != `[client/goodbye {"reason":"user_request"}]` {
			t.Errorf("got %s, want the goodbye alone", got)
		}
	})
}

// RC-6: a model is of one session and one update. Guard: the filter is made
// with the session and Burst drops what does not echo the question in flight.
// Without the comparison in Burst.Reply the forged answers below count.
func TestRC6ClientStaleRepliesChangeNothing(t *testing.T) {
	bubble(t, func(t *testing.T) {
		h := newHouse(t, func(f *fakeServer) { f.silence = true })
		o := h.options()
		o.Clock = timesync.NewClock() // as in a player, for all its sessions
		old := h.dial(t, o)
		pass(time.Second)
		old.Abort()
		<-old.Done()
		s := h.dial(t, o)
		pass(time.Second)
		f := h.conn(1)
		if got := len(h.conn(0).holdTime); got != 1 {
			t.Fatalf("questions of the old session: got %d, want 1", got)
		}
		for n := range 20 { // a burst is 8
			f.answerTime(h.conn(0).holdTime[0], f.clock())
			synctest.Wait()
			f.answerTime(fmt.Sprintf(`{"client_transmitted":%d}`, n), f.clock())
			synctest.Wait()
		}
		if m := s.Model(); m != nil {
			t.Errorf("model: got %+v from answers to nobody's question, want none", m)
		}
		if old.Model() != nil {
			t.Error("the old session got a model after its end")
		}
		if s.Err() != nil {
			t.Errorf("the session ended: %v", s.Err())
		}
	})
}

// RC-6, the reading side: whoever converts gets offset, drift and base of one
// update. Guard: the immutable model behind one atomic pointer.
func TestRC6ClientModelIsNeverTorn(t *testing.T) {
	bubble(t, func(t *testing.T) {
		h := newHouse(t, nil)
		s := h.dial(t, h.options())
		var stop atomic.Bool
		var wg sync.WaitGroup
		for range 4 {
			wg.Go(func() {
				for !stop.Load() {
					if m := s.Model(); m != nil {
						if got := m.Client(m.Server(7_000_000)); got < 6_999_999 || got > 7_000_001 {
							t.Errorf("there and back: got %d, want 7000000", got)
							return
						}
					}
					time.Sleep(time.Millisecond)
				}
			})
		}
		pass(40 * time.Second)
		stop.Store(true)
		wg.Wait()
		m := s.Model()
		if m == nil || !m.Converged() {
			t.Fatalf("model: got %+v, want a converged one", m)
		}
		now := s.opts.Clock.Now()
		if got, want := m.Server(now), h.conn(0).clock(); got != want {
			t.Errorf("server time: got %d, want %d", got, want)
		}
	})
}

// A server that vanished without a FIN is noticed within 25 s.
func TestDeadServerIsNoticed(t *testing.T) {
	for _, tc := range []struct {
		name  string
		fault func(*pipe.Conn)
	}{
		{"cut", (*pipe.Conn).Cut},
		{"frozen", (*pipe.Conn).Freeze},
	} {
		t.Run(tc.name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				h := newHouse(t, nil)
				s := h.dial(t, h.options())
				pass(time.Hour)
				if s.Err() != nil {
					t.Fatalf("the idle session ended: %v", s.Err())
				}
				tc.fault(h.conn(0).link)
				begun := time.Now()
				<-s.Done()
				if got := time.Since(begun); got > silence {
					t.Errorf("noticed after %v, want at most %v", got, silence)
				}
				if !errors.Is(s.Err(), ErrSilent) {
					t.Errorf("cause: got %v, want ErrSilent", s.Err())
				}
			})
		})
	}
}

func TestDialFails(t *testing.T) {
	for _, tc := range []struct {
		name  string
		setup func(*fakeServer)
		want  time.Duration
	}{
		{"mute server", func(f *fakeServer) { f.mute = true }, helloTimeout},
		{"server closes before hello", func(f *fakeServer) { _ = f.conn.Close() }, 0},
	} {
		t.Run(tc.name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				h := newHouse(t, tc.setup)
				begun := time.Now()
				s, err := Dial(t.Context(), "ws://house/sendspin", h.options())
				if s != nil || err == nil {
					t.Fatalf("got %v, %v; want an error", s, err)
				}
				if got := time.Since(begun); got != tc.want {
					t.Errorf("it took %v, want %v", got, tc.want)
				}
			})
		})
	}
}

func TestMalformedMessages(t *testing.T) {
	bubble(t, func(t *testing.T) {
		h := newHouse(t, nil)
		s := h.dial(t, h.options())
		f := h.conn(0)
		for range 3 {
			for range maxMalformed - 1 {
				f.send(`{"type":`)
			}
			f.send(`{"type":"group/update","payload":{"playback_state":"stopped","group_id":"g","group_name":"G"}}`)
		}
		synctest.Wait()
		if s.Err() != nil {
			t.Fatalf("the session ended though never ten in a row were bad: %v", s.Err())
		}
		for range maxMalformed {
			f.send(`{"type":`)
		}
		<-s.Done()
		if s.Err() == nil {
			t.Error("cause: got nil, want the malformed message")
		}
	})
}

func TestUnknownDialect(t *testing.T) {
	o := Options{Dialect: "S9", NetDial: func(context.Context, string, string) (net.Conn, error) {
		t.Error("dialled before the options were checked")
		return nil, net.ErrClosed
	}}
	if _, err := Dial(t.Context(), "ws://house/sendspin", o); err == nil || !strings.Contains(err.Error(), "S4") {
		t.Errorf("got %v, want an error that names the dialects", err)
	}
}
