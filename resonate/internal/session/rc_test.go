package session

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"resonatebridge/resonate/protocol"
	"resonatebridge/tests/pipe"
)

var (
	errKill = errors.New("test: killed")
	errStop = errors.New("test: stopped")
)

// RC-2: teardown runs once, and the first cause is the one reported. The guard
// is s.once.Do in fail; without it a later cause overwrites the first.
func TestRC2FirstCauseWins(t *testing.T) {
	for _, tc := range []struct {
		name  string
		first func(*running, *peer)
		is    func(error) bool
	}{
		{
			"the reader first", func(_ *running, p *peer) { p.send(goodbye) },
			func(err error) bool {
				var bye *GoodbyeError
				return errors.As(err, &bye) && bye.Reason == protocol.GoodbyeRestart
			},
		},
		{
			"the writer first", func(*running, *peer) { pass(10 * time.Second) },
			func(err error) bool { return strings.Contains(err.Error(), "session: write: ") },
		},
		{
			"the queue first", func(r *running, _ *peer) {
				for r.Send(says("", "")) == nil { //nolint:revive // until it is full
				}
			},
			func(err error) bool { return errors.Is(err, ErrSlow) },
		},
		{
			"kill first", func(r *running, _ *peer) { r.Kill(errKill) },
			func(err error) bool { return errors.Is(err, errKill) },
		},
		{
			"context first", func(r *running, _ *peer) { r.cancel(errStop) },
			func(err error) bool { return errors.Is(err, errStop) },
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				r, p := live(t)
				clog(t, r) // the writer stands: the end takes a while
				tc.first(r, p)
				synctest.Wait()
				var wg sync.WaitGroup
				for i := range 16 {
					wg.Go(func() { r.Kill(fmt.Errorf("late %d", i)) })
				}
				wg.Go(func() { r.cancel(errors.New("late")) })
				wg.Go(p.link.Reset)
				wg.Wait()
				if err := r.result(); err == nil || !tc.is(err) {
					t.Errorf("got %v, want the first cause", err)
				}
				if got := r.wentUp(); got != 1 {
					t.Errorf("up was called %d times, want once", got)
				}
				must(t, "send after the end", r.Send(says("", "")), ErrGone)
			})
		})
	}
}

// RC-2, all at once: 16 killers, the context, a goodbye and a reset meet. One
// of them is the cause.
func TestRC2AllAtOnce(t *testing.T) {
	bubble(t, func(t *testing.T) {
		for range 100 {
			r, p := live(t)
			p.listen()
			var wg sync.WaitGroup
			for range 16 {
				wg.Go(func() { r.Kill(errKill) })
			}
			wg.Go(func() { r.cancel(errStop) })
			wg.Go(func() { p.send(goodbye) })
			wg.Go(p.link.Reset)
			err := r.result()
			wg.Wait()
			var bye *GoodbyeError
			if !errors.Is(err, errKill) && !errors.Is(err, errStop) && !errors.Is(err, syscall.ECONNRESET) && !errors.As(err, &bye) {
				t.Fatalf("got %v, want one of the four causes", err)
			}
			must(t, "the cause that is kept", r.cause, err)
		}
	})
}

// RC-2: a session that is ended before Run, and one that ends before it is
// live, never call up.
func TestRC2NoUpAfterTheEnd(t *testing.T) {
	for _, tc := range []struct {
		name string
		end  func(*testing.T, *Session, *peer) error
	}{
		{"killed before run", func(t *testing.T, s *Session, p *peer) error {
			s.Kill(errKill)
			p.send(state)
			return s.Run(t.Context(), func() { t.Error("up was called") })
		}},
		{"context over before run", func(t *testing.T, s *Session, p *peer) error {
			ctx, cancel := context.WithCancelCause(t.Context())
			cancel(errKill)
			time.AfterFunc(time.Second, func() { p.send(state) })
			return s.Run(ctx, func() { t.Error("up was called") })
		}},
		{"killed before the first state", func(t *testing.T, s *Session, p *peer) error {
			time.AfterFunc(time.Second, func() { s.Kill(errKill); p.send(state) })
			return s.Run(t.Context(), func() { t.Error("up was called") })
		}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				s, p := begin(t)
				p.listen()
				must(t, "run", tc.end(t, s, p), errKill)
			})
		})
	}
}

// RC-3: what Handle is told comes after up and in order; Handle may call
// anything, also Kill on its own session. The guard is the wait for opened in
// deliver; without it the first message comes before up, and its receiver does
// not know the session.
func TestRC3HandleAfterUpInOrder(t *testing.T) {
	bubble(t, func(t *testing.T) {
		var got []int
		var isUp atomic.Bool
		s, p := begin(t, func(u *setup) {
			u.Handle = func(_ *Session, m protocol.ClientMessage) {
				if !isUp.Load() {
					t.Errorf("%T came before up had returned", m)
				}
				switch m := m.(type) {
				case protocol.ClientCommand:
					got = append(got, m.Volume)
				case protocol.ClientState:
					got = append(got, *m.Player.Volume)
				}
			}
		})
		p.listen()
		p.send(command(1))
		p.send(command(2))
		p.send(state) // volume 40
		p.send(command(3))
		admit := make(chan struct{})
		var wg sync.WaitGroup
		wg.Go(func() {
			_ = s.Run(t.Context(), func() { <-admit; isUp.Store(true) })
		})
		pass(time.Second)
		if len(got) != 0 {
			t.Errorf("%v came while up had not returned", got)
		}
		close(admit)
		synctest.Wait()
		if want := []int{1, 2, 40, 3}; fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("order: got %v, want %v", got, want)
		}
		s.Kill(errKill)
		wg.Wait()
	})
}

func command(volume int) string {
	return fmt.Sprintf(`{"type":"client/command","payload":{"controller":{"command":"volume","volume":%d}}}`, volume)
}

func TestRC3HandleReenters(t *testing.T) {
	for _, tc := range []struct {
		name string
		do   func(*Session) error // in Handle
		want error
	}{
		{"kill", func(s *Session) error { s.Kill(errKill); return nil }, errKill},
		{"send, then kill, then send", func(s *Session) error {
			if err := s.Send(says("", "")); err != nil {
				return err
			}
			s.Kill(errKill)
			if err := s.Send(says("", "")); !errors.Is(err, ErrGone) {
				return fmt.Errorf("send after kill: got %w, want ErrGone", err)
			}
			return nil
		}, errKill},
		{"probe, which can't be answered meanwhile", func(s *Session) error {
			ctx, cancel := context.WithTimeoutCause(context.Background(), 2*time.Second, errStop)
			defer cancel()
			err := s.Probe(ctx)
			s.Kill(errKill)
			if !errors.Is(err, errStop) {
				return fmt.Errorf("probe: got %w, want its context's cause", err)
			}
			return nil
		}, errKill},
		{"wait until it is ended by another", func(s *Session) error {
			time.AfterFunc(time.Minute, func() { s.Kill(errStop) })
			<-s.Done()
			return nil
		}, errStop},
	} {
		t.Run(tc.name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				calls := 0
				var failed error
				r, p := live(t, func(u *setup) {
					u.hello = remote
					u.Handle = func(s *Session, _ protocol.ClientMessage) {
						calls++
						failed = errors.Join(failed, tc.do(s))
					}
				})
				p.listen()
				p.send(command(1))
				must(t, "run", r.result(), tc.want)
				if failed != nil || calls != 1 {
					t.Errorf("Handle was called %d times and met %v; want once, nil", calls, failed)
				}
			})
		})
	}
}

// RC-4: a send after the end is refused, however the session ended, also while
// its writer still stands. The guard is the first select of Send; without it
// the message lies in a queue that nobody drains, and Send says that all is
// well.
func TestRC4SendAfterEnd(t *testing.T) {
	for _, tc := range []struct {
		name string
		end  func(*running, *peer)
	}{
		{"killed", func(r *running, _ *peer) { r.Kill(errKill) }},
		{"context", func(r *running, _ *peer) { r.cancel(errStop) }},
		{"goodbye", func(_ *running, p *peer) { p.send(goodbye) }},
		{"closed by the peer", func(_ *running, p *peer) { _ = p.ws.Close() }},
		{"reset", func(_ *running, p *peer) { p.link.Reset() }},
		{"silence", func(_ *running, p *peer) { p.link.Cut(); pass(25 * time.Second) }},
	} {
		for _, stands := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, writer stands %v", tc.name, stands), func(t *testing.T) {
				bubble(t, func(t *testing.T) {
					r, p := live(t)
					if stands {
						clog(t, r)
					}
					tc.end(r, p)
					synctest.Wait()
					must(t, "send", r.Send(says("", "")), ErrGone)
					if err := r.result(); errors.Is(err, ErrGone) {
						t.Errorf("run: got %v, want the cause", err)
					}
				})
			})
		}
	}
}

// RC-4 under a storm: 64 senders, one socket, a peer that resets somewhere.
// No panic (two writers of one gorilla connection would panic), each sender's
// messages arrive in order and without gap, and after the end every send is
// ErrGone. The guard is that only the writer goroutine touches the socket:
// Send only leaves it in the queue.
func TestRC4SendStorm(t *testing.T) {
	const senders, messages = 64, 100
	for _, tc := range []struct {
		name    string
		queue   int // messages, about
		resetAt int // frames that the peer takes; 0: all
		slow    bool
	}{
		{"all arrive", senders * messages, 0, false},
		{"reset at once", senders * messages, 2, false},
		{"reset in the middle", senders * messages, senders * messages / 2, false},
		{"reset near the end", senders * messages, senders*messages - 5, false},
		{"a small queue", 8, 0, true},
		{"a small queue and a reset", 8, 20, true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				r, p := live(t, func(u *setup) { u.Queue = tc.queue << 8 })
				p.onFrame = func(n int) {
					if n == tc.resetAt {
						p.link.Reset()
					}
				}
				p.listen()
				var wg sync.WaitGroup
				for i := range senders {
					wg.Go(func() {
						var first error
						for j := range messages {
							err := r.Send(says(strconv.Itoa(i), strconv.Itoa(j)))
							switch {
							case err == nil && first != nil:
								t.Errorf("sender %d: message %d was taken after %v", i, j, first)
							case first != nil && !errors.Is(err, ErrGone):
								t.Errorf("sender %d: got %v after %v, want ErrGone", i, err, first)
							case err != nil && !errors.Is(err, ErrGone) && (!tc.slow || !errors.Is(err, ErrSlow)):
								t.Errorf("sender %d: got %v", i, err)
							}
							if first == nil {
								first = err
							}
						}
					})
				}
				wg.Wait()
				synctest.Wait()
				next := make([]int, senders)
				total := 0
				for _, body := range p.messages("group/update") {
					var m struct {
						Who  string `json:"group_id"`
						What string `json:"group_name"`
					}
					if err := json.Unmarshal([]byte(body), &m); err != nil {
						t.Fatal(err)
					}
					i, _ := strconv.Atoi(m.Who)
					j, _ := strconv.Atoi(m.What)
					if j != next[i] {
						t.Fatalf("sender %d: message %d came where %d was due", i, j, next[i])
					}
					next[i]++
					total++
				}
				switch {
				case tc.resetAt == 0 && !tc.slow:
					if total != senders*messages || r.isOver() {
						t.Errorf("%d messages came and the session is over: %v; want all %d and false", total, r.isOver(), senders*messages)
					}
				default:
					if err := r.result(); !errors.Is(err, syscall.ECONNRESET) && (!tc.slow || !errors.Is(err, ErrSlow)) {
						t.Errorf("run: got %v", err)
					}
				}
			})
		})
	}
}

// RC-5: a send names its session. One that is over never reaches its
// successor, though client and server are the same. The guard is that a
// session's socket is a field that is set once, before anyone has the session,
// and the first select of Send; without that select the send below says nil.
func TestRC5StaleSocket(t *testing.T) {
	bubble(t, func(t *testing.T) {
		one, p1 := live(t)
		p1.listen()
		two, p2 := live(t) // the same client id, before the first has ended
		p2.listen()
		synctest.Wait()
		if one.ID() != two.ID() {
			t.Fatalf("ids %q and %q, want the same", one.ID(), two.ID())
		}
		one.Kill(errKill)
		must(t, "run of the first", one.result(), errKill)
		before := corkOf(two.ws).Conn.(*pipe.Conn).Written()
		for range 1000 {
			must(t, "send on the first", one.Send(says("one", "")), ErrGone)
		}
		one.Kill(errStop) // late, once more
		pass(time.Second)
		after := corkOf(two.ws).Conn.(*pipe.Conn).Written()
		if after != before {
			t.Errorf("the second session wrote %d bytes that were sent to the first, want 0", after-before)
		}
		if err := two.Send(says("two", "")); err != nil || two.isOver() {
			t.Errorf("the second session: send %v, over %v; want nil, false", err, two.isOver())
		}
		synctest.Wait()
		if got := p2.messages("group/update"); len(got) != 1 {
			t.Errorf("the second peer got %v, want one message", got)
		}
	})
}

// RC-8: reader and writer each take the other with them, whichever ends first,
// and Run outlives both. The guards are the Close after write in Run, which
// frees the reader, and the done case in write, which frees the writer; without
// the one the reader outlives the writer by 200 ms, without the other the
// writer the reader by 5 s. A writer that stands gets 200 ms: without the timer
// in Run it would be 10 s, for which a speaker that said goodbye would be shown
// as connected.
func TestRC8ReaderAndWriterEndTogether(t *testing.T) {
	for _, tc := range []struct {
		name string
		end  func(*testing.T, *running, *peer)
		took time.Duration // from the first error to the end
		want string
	}{
		{"reader first", func(_ *testing.T, _ *running, p *peer) {
			p.link.FreezeOut() // only what comes; our writes go on
			pass(25 * time.Second)
		}, 0, "nothing heard for 25s"},
		{"writer first", func(t *testing.T, r *running, p *peer) {
			clog(t, r)
			for range 9 { // it lives, as far as the reader can see
				pass(time.Second)
				p.send(state)
			}
			pass(time.Second)
		}, 0, "session: write: "},
		{"both in one tick", func(t *testing.T, r *running, p *peer) {
			clog(t, r)
			p.link.Reset()
		}, 0, "connection reset"},
		{"reader first, writer stands", func(t *testing.T, r *running, p *peer) {
			clog(t, r)
			p.send(goodbye)
		}, 200 * time.Millisecond, "said goodbye"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				r, p := live(t)
				tc.end(t, r, p)
				start := time.Now()
				<-r.Done()
				err := r.result()
				if !strings.Contains(err.Error(), tc.want) {
					t.Errorf("run: got %v, want %q in it", err, tc.want)
				}
				if got := time.Since(start); got > tc.took {
					t.Errorf("it took %v until both had ended, want at most %v", got, tc.took)
				}
				if got := r.wentUp(); got != 1 {
					t.Errorf("up was called %d times, want once", got)
				}
			})
		})
	}
}
