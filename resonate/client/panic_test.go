package client

import (
	"context"
	"errors"
	"net"
	"runtime"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"resonatebridge/resonate/protocol"
	"resonatebridge/tests/pipe"
)

// spoilt are the ways in which a callback does not return.
func spoilt() map[string]func() {
	return map[string]func(){"panics": func() { panic("oh no") }, "ends its goroutine": runtime.Goexit}
}

// A callback that does not return ends the session that called it, in the
// order that any end has, and no other one. The guards are the calls of
// contain.Run in run; without them the process ends, or the session lives on
// without its reader.
func TestPanicEndsItsSession(t *testing.T) {
	for how, spoil := range spoilt() {
		for _, tc := range []struct {
			name string
			set  func(*Options, func())
			act  func(*fakeServer)
		}{
			{"OnMessage, the hello", func(o *Options, f func()) {
				o.OnMessage = func(*Session, protocol.ServerMessage) { f() }
			}, func(*fakeServer) {}},
			{"OnMessage, a command", func(o *Options, f func()) {
				o.OnMessage = func(_ *Session, m protocol.ServerMessage) {
					if _, ok := m.(protocol.ServerCommand); ok {
						f()
					}
				}
			}, func(s *fakeServer) { s.volume(20) }},
			{"OnMessage, after its own Close", func(o *Options, f func()) {
				o.OnMessage = func(s *Session, m protocol.ServerMessage) {
					if _, ok := m.(protocol.ServerCommand); ok {
						s.Close(protocol.GoodbyeRestart)
						f()
					}
				}
			}, func(s *fakeServer) { s.volume(20) }},
			{"OnClock", func(o *Options, f func()) { o.OnClock = func(*Session) { f() } }, func(*fakeServer) { pass(5 * time.Second) }},
		} {
			t.Run(tc.name+" "+how, func(t *testing.T) {
				bubble(t, func(t *testing.T) {
					h := newHouse(t, nil)
					other := h.dial(t, h.options())
					o := h.options()
					tc.set(&o, spoil)
					s := h.dial(t, o)
					synctest.Wait()
					tc.act(h.conn(1))
					synctest.Wait()
					pass(linger)
					select {
					case <-s.Done():
					default:
						t.Fatal("the session is not done")
					}
					want := ErrPanic
					if strings.Contains(tc.name, "after its own Close") {
						want = ErrClosed // the first cause stays
					}
					if !errors.Is(s.Err(), want) || !h.conn(1).isClosed() {
						t.Errorf("got %v, the socket closed: %v; want %v and true", s.Err(), h.conn(1).isClosed(), want)
					}
					h.conn(0).volume(30)
					synctest.Wait()
					if other.Err() != nil {
						t.Errorf("the other session ended: %v", other.Err())
					}
				})
			})
		}
	}
}

// What fails an attempt when it returns an error fails it, too, when it panics.
func TestPanicFailsTheAttempt(t *testing.T) {
	bubble(t, func(t *testing.T) {
		h := newHouse(t, nil)
		o := h.options()
		o.NetDial = func(context.Context, string, string) (net.Conn, error) { panic("oh no") }
		if s, err := Dial(t.Context(), "ws://house/sendspin", o); s != nil || !errors.Is(err, ErrPanic) {
			t.Errorf("got %v, %v; want ErrPanic", s, err)
		}
		fails := 3
		p := newPlayer(t, PlayerOptions{Server: "ws://house/sendspin", NetDial: func(ctx context.Context, network, addr string) (net.Conn, error) {
			if fails--; fails >= 0 {
				panic("oh no")
			}
			return h.DialContext(ctx, network, addr)
		}})
		start(t, p)
		pass(time.Minute)
		if st := p.Snapshot(); !st.Connected || st.Sessions != 1 {
			t.Errorf("after %d attempts: got %+v, want it connected", 3-fails, st)
		}
	})
}

// What ends the player with an error, or the recording, does so when it panics.
func TestPanicInWhatAPlayerRuns(t *testing.T) {
	t.Run("Advertise", func(t *testing.T) {
		bubble(t, func(t *testing.T) {
			for how, spoil := range spoilt() {
				l := pipe.NewListener()
				p := newPlayer(t, PlayerOptions{Listener: l, Advertise: func(context.Context, Advert) error { spoil(); return nil }})
				if err := p.Run(t.Context()); !errors.Is(err, ErrPanic) {
					t.Errorf("%s: Run: got %v, want ErrPanic", how, err)
				}
			}
		})
	})
	t.Run("Out", func(t *testing.T) {
		bubble(t, func(t *testing.T) {
			p, l, stop := listening(t, PlayerOptions{Out: badWriter{}})
			f := visit(t, l, "srv", "playback")
			pass(5 * time.Second)
			f.stream()
			f.chunk(f.clock()+500_000, 960, 1)
			pass(time.Second)
			f.volume(20)
			synctest.Wait()
			if st := p.Snapshot(); st.Volume != 20 || !st.Connected {
				t.Errorf("after the panic: got %+v, want it to obey", st)
			}
			if err := stop(); !errors.Is(err, ErrPanic) {
				t.Errorf("Run: got %v, want ErrPanic", err)
			}
		})
	})
}

type badWriter struct{}

func (badWriter) Write([]byte) (int, error) { panic("oh no") }
