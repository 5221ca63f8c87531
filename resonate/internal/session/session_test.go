package session

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gorilla/websocket"

	"resonatebridge/resonate/internal/contain"
	"resonatebridge/resonate/internal/dialect"
	"resonatebridge/resonate/protocol"
	"resonatebridge/tests/pipe"
	"resonatebridge/timesync"
)

func at(t int64) string {
	return fmt.Sprintf(`{"type":"client/time","payload":{"client_transmitted":%d}}`, t)
}

// Nothing comes before server/hello (races: G4), whatever was queued and asked
// before it, and a client that asks for the time before it says its state gets
// an answer.
func TestHelloIsFirst(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s, p := begin(t)
		for i := range 3 {
			if err := s.Send(says("", fmt.Sprint(i))); err != nil {
				t.Fatal(err)
			}
		}
		p.send(at(7))
		p.listen()
		r := run(t, s)
		synctest.Wait()
		got := p.types()
		if len(got) == 0 || got[0] != "server/hello" {
			t.Errorf("frames %v, want server/hello first", got)
		}
		if n := len(p.messages("server/time")); n != 1 || r.wentUp() != 0 {
			t.Errorf("%d answers to client/time before the first state, up %d times; want 1 and 0", n, r.wentUp())
		}
		var h struct {
			ServerID string   `json:"server_id"`
			Roles    []string `json:"active_roles"`
			Reason   string   `json:"connection_reason"`
		}
		if err := json.Unmarshal([]byte(p.messages("server/hello")[0]), &h); err != nil {
			t.Fatal(err)
		}
		if want := []string{"player@v1", "controller@v1", "metadata@v1"}; h.ServerID != "srv" || h.Reason != "discovery" || !slices.Equal(h.Roles, want) {
			t.Errorf("server/hello: got %+v, want srv, discovery and %v", h, want)
		}
	})
}

// server_received is when the frame was there, server_transmitted when the
// answer is about to be written: an answer that waits behind a slow write
// says so, else the client's clock would be off by half of it.
func TestTimeStamps(t *testing.T) {
	bubble(t, func(t *testing.T) {
		var clock *timesync.Clock
		r, p := live(t, func(u *setup) { clock = u.Clock })
		clog(t, r)
		p.send(at(42))
		received := clock.Now()
		pass(2 * time.Second)
		transmitted := clock.Now()
		p.listen()
		synctest.Wait()
		want := fmt.Sprintf(`{"client_transmitted":42,"server_received":%d,"server_transmitted":%d}`, received, transmitted)
		if got := p.messages("server/time"); len(got) != 1 || got[0] != want {
			t.Errorf("answers: got %v, want one, %s", got, want)
		}
	})
}

// Answers to client/time overtake what is queued, since they age.
func TestTimeGoesFirst(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r, p := live(t)
		clog(t, r)
		for range 5 {
			_ = r.Send(says("later", ""))
		}
		p.send(at(1))
		synctest.Wait()
		p.listen()
		synctest.Wait()
		got := p.types()
		want := []string{"server/hello", "group/update", "server/time", "group/update"}
		if len(got) < len(want) || !slices.Equal(got[:len(want)], want) {
			t.Errorf("frames %v, want them to begin with %v", got, want)
		}
	})
}

// A client that floods client/time loses the surplus and nothing else.
func TestTimeFloodIsBounded(t *testing.T) {
	bubble(t, func(t *testing.T) {
		log := new(journal)
		r, p := live(t, func(u *setup) { u.Log = log.logger() })
		clog(t, r) // nothing is answered meanwhile
		for i := range 10_000 {
			p.send(at(int64(i)))
		}
		synctest.Wait()
		if got := len(r.times); got != timeQueue {
			t.Errorf("%d answers wait, want %d", got, timeQueue)
		}
		p.listen()
		synctest.Wait()
		if got := len(p.messages("server/time")); got != timeQueue || r.isOver() {
			t.Errorf("%d answers, over %v; want %d, false", got, r.isOver(), timeQueue)
		}
		if got := strings.Count(log.String(), "client/time flood"); got < 1 || got > notesMax {
			t.Errorf("the flood was logged %d times, want 1 to %d", got, notesMax)
		}
		p.send(at(-1))
		synctest.Wait()
		if got := len(p.messages("server/time")); got != timeQueue+1 {
			t.Errorf("%d answers after the flood, want one more than %d", got, timeQueue)
		}
	})
}

// A dead peer is noticed 25 s after the last frame, exactly (races: B9, B10).
func TestHalfOpen(t *testing.T) {
	for _, tc := range []struct {
		name string
		die  func(*pipe.Conn)
		at   time.Duration // after going live
		want time.Duration // of the end; pings are answered every 10 s until then
	}{
		{"a stopped process at once", (*pipe.Conn).Freeze, 0, 25 * time.Second},
		{"a stopped process before a ping", (*pipe.Conn).Freeze, 9 * time.Second, 25 * time.Second},
		{"a stopped process after a ping", (*pipe.Conn).Freeze, 11 * time.Second, 35 * time.Second},
		{"a power cut after an hour", (*pipe.Conn).Cut, time.Hour + time.Second, time.Hour + 25*time.Second},
		{"only its own direction is dead", (*pipe.Conn).FreezeOut, 31 * time.Second, 55 * time.Second},
	} {
		t.Run(tc.name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				r, p := live(t)
				p.listen()
				start := time.Now()
				pass(tc.at)
				if r.isOver() {
					t.Fatalf("over after %v: %v", time.Since(start), r.result())
				}
				tc.die(p.link)
				err := r.result()
				if got := r.endAt.Sub(start); got != tc.want {
					t.Errorf("noticed after %v, want %v", got, tc.want)
				}
				if !strings.Contains(err.Error(), "nothing heard for 25s") {
					t.Errorf("run: got %v, want what was not heard", err)
				}
			})
		})
	}
}

// A peer that is sent to all the time and stopped is noticed no later.
func TestStoppedPeerUnderTraffic(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r, p := live(t)
		p.listen()
		p.link.Freeze()
		start := time.Now()
		for !r.isOver() {
			_ = r.Send(says("", strings.Repeat("x", 8<<10)))
			pass(100 * time.Millisecond)
		}
		if got := r.endAt.Sub(start); got > 25*time.Second {
			t.Errorf("noticed after %v, want 25 s at most: %v", got, r.result())
		}
	})
}

// What counts as life: any frame, a pong alone or client/time alone, and a
// pause of less than 25 s.
func TestStaysUp(t *testing.T) {
	for _, tc := range []struct {
		name string
		hour func(*running, *peer)
	}{
		{"pongs alone", func(*running, *peer) { pass(time.Hour) }},
		{"client/time alone", func(_ *running, p *peer) {
			for range 3600 / 24 {
				p.send(at(1))
				pass(24 * time.Second)
			}
		}},
		{"stopped for 24 s, again and again", func(_ *running, p *peer) {
			for range 3600 / 24 {
				p.link.Freeze()
				pass(24*time.Second - time.Nanosecond)
				p.link.Thaw()
				p.send(state)
				synctest.Wait()
			}
		}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				r, p := live(t)
				if tc.name != "pongs alone" {
					p.ws.SetPingHandler(func(string) error { return nil })
				}
				p.listen()
				tc.hour(r, p)
				if r.isOver() {
					t.Errorf("it ended: %v", r.result())
				}
			})
		})
	}
}

// A peer that does not read is cut off, once, when what waits for it reaches its
// bytes, of whatever size the messages are (races: B8, X3).
func TestSlowConsumer(t *testing.T) {
	for _, size := range []int{0, 1 << 10, 64 << 10} {
		t.Run(fmt.Sprint(size), func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				r, _ := live(t)
				clog(t, r)
				taken, slow, most := 0, 0, 0
				for range 10_000 {
					switch err := r.Send(says("", strings.Repeat("x", size))); {
					case err == nil:
						taken++
					case errors.Is(err, ErrSlow):
						slow++
					case !errors.Is(err, ErrGone):
						t.Errorf("send: got %v", err)
					}
					most = max(most, r.waiting())
				}
				if slow != 1 {
					t.Errorf("%d messages were refused as too slow, want 1", slow)
				}
				if least := 256<<10 - size - 1024; most > 256<<10 || most < least {
					t.Errorf("%d bytes waited in %d messages, want %d to %d", most, taken, least, 256<<10)
				}
				must(t, "run", r.result(), ErrSlow)
			})
		})
	}
}

// waiting is how many bytes wait for the writer.
func (s *Session) waiting() int {
	s.queue.mu.Lock()
	defer s.queue.mu.Unlock()
	return s.queue.bytes
}

// A message that is larger than the queue is sent when nothing else waits.
func TestLargeMessage(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r, p := live(t)
		must(t, "send", r.Send(says("large", strings.Repeat("x", 300<<10))), nil)
		p.listen()
		synctest.Wait()
		must(t, "send", r.Send(says("next", "")), nil)
		synctest.Wait()
		if got := len(p.messages("group/update")); got != 2 || r.waiting() != 0 {
			t.Errorf("%d messages came and %d bytes wait, want 2 and 0", got, r.waiting())
		}
	})
}

// States are levels: a peer that stands gets the newest of each kind, whatever
// was shown meanwhile, and never fails over them.
func TestShowKeepsTheNewest(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r, p := live(t)
		clog(t, r)
		must(t, "send", r.Send(protocol.ServerCommand{Command: protocol.CommandVolume, Volume: 7}), nil)
		for i := range 10_000 {
			r.Show(protocol.ServerState{Group: &protocol.GroupUpdate{PlaybackState: protocol.PlaybackStopped, GroupID: "g", GroupName: strconv.Itoa(i)}})
			r.Show(protocol.ServerState{Controller: &protocol.ControllerState{Volume: i % 100}})
		}
		r.Show(protocol.ServerState{Metadata: &protocol.Metadata{Title: "song"}})
		synctest.Wait()
		if r.isOver() {
			t.Fatalf("it ended: %v", r.result())
		}
		p.listen()
		synctest.Wait()
		want := []string{"server/hello", "group/update", "group/update", "server/state", "server/command"}
		if got := p.types(); !slices.Equal(got, want) { // the first group/update clogs
			t.Errorf("frames %v, want %v", got, want)
		}
		if got := p.messages("group/update"); !strings.Contains(got[len(got)-1], `"9999"`) {
			t.Errorf("group %s, want the newest", got[len(got)-1])
		}
		if got := p.messages("server/state")[0]; !strings.Contains(got, `"volume":99`) || !strings.Contains(got, "song") {
			t.Errorf("state %s, want the newest of both", got)
		}
		r.Kill(errKill)
		r.Show(protocol.ServerState{Group: &protocol.GroupUpdate{}}) // after the end it does nothing
	})
}

// The phases before the session is live have deadlines (races: B11).
func TestHelloTimeout(t *testing.T) {
	for _, tc := range []struct {
		name string
		peer func(*peer)
	}{
		{"silent", func(*peer) {}},
		{"one byte a second", func(p *peer) { // a deadline for each read would never pass
			frame := append([]byte{0x81, 0x7e, 0x0f, 0xff}, strings.Repeat("x", 100)...)
			for _, b := range frame {
				if _, err := p.link.Write([]byte{b}); err != nil {
					return
				}
				pass(time.Second)
			}
		}},
		{"pings alone", func(p *peer) {
			for range 20 {
				_ = p.ws.WriteControl(websocket.PingMessage, nil, time.Now().Add(time.Second))
				pass(time.Second)
			}
		}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				ours, p := connect(t, pipe.DefaultCapacity)
				start := time.Now()
				go tc.peer(p)
				_, err := Greet(t.Context(), ours, "", Options{Clock: timesync.NewClock()})
				var timeout interface{ Timeout() bool }
				if !errors.As(err, &timeout) || !timeout.Timeout() {
					t.Errorf("greet: got %v, want a timeout", err)
				}
				if got := time.Since(start); got != 10*time.Second {
					t.Errorf("it took %v, want 10 s", got)
				}
				pass(2 * time.Minute) // the peer's own goroutine ends
			})
		})
	}
}

func TestGreetEndsWithItsContext(t *testing.T) {
	bubble(t, func(t *testing.T) {
		ours, p := connect(t, pipe.DefaultCapacity)
		ctx, cancel := context.WithCancelCause(t.Context())
		start := time.Now()
		time.AfterFunc(time.Second, func() { cancel(errStop) })
		_, err := Greet(ctx, ours, "", Options{Clock: timesync.NewClock()})
		must(t, "greet", err, errStop)
		if got := time.Since(start); got != time.Second {
			t.Errorf("it took %v, want 1 s", got)
		}
		if p.listen(); p.link.IsClosed() {
			t.Error("the peer closed, want us to")
		}
	})
}

// A player that does not say its state goes live with defaults, and what it
// said meanwhile is not lost.
func TestStateTimeout(t *testing.T) {
	bubble(t, func(t *testing.T) {
		log := new(journal)
		var got []protocol.ClientMessage
		s, p := begin(t, func(u *setup) {
			u.Log = log.logger()
			u.Handle = func(_ *Session, m protocol.ClientMessage) { got = append(got, m) }
		})
		p.send(command(1))
		start := time.Now()
		r := run(t, s)
		pass(5*time.Second - time.Nanosecond)
		if got := r.wentUp(); got != 0 {
			t.Errorf("up was called %d times before 5 s", got)
		}
		pass(time.Nanosecond)
		if r.wentUp() != 1 || r.upAt.Sub(start) != 5*time.Second {
			t.Errorf("up %d times, at %v; want once, at 5 s", r.wentUp(), r.upAt.Sub(start))
		}
		if !strings.Contains(log.String(), "no client/state in time") {
			t.Errorf("log: got %q, want the missing state named", log)
		}
		p.send(command(2))
		p.send(state)
		synctest.Wait()
		var order []string
		for _, m := range got {
			order = append(order, fmt.Sprintf("%T", m))
		}
		if want := []string{"protocol.ClientCommand", "protocol.ClientCommand", "protocol.ClientState"}; !slices.Equal(order, want) {
			t.Errorf("delivered %v, want %v", order, want)
		}
		if got := r.wentUp(); got != 1 {
			t.Errorf("up %d times after a late state, want once", got)
		}
	})
}

// Only a player owes a state; a remote control is live at once.
func TestOnlyPlayersOweAState(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s, _ := begin(t, func(u *setup) { u.hello = remote })
		start := time.Now()
		r := run(t, s)
		synctest.Wait()
		if r.wentUp() != 1 || !r.upAt.Equal(start) {
			t.Errorf("up %d times, after %v; want once, at once", r.wentUp(), r.upAt.Sub(start))
		}
	})
}

// A client that talks and never says its state can't fill our memory.
func TestEarlyMessagesAreBounded(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s, p := begin(t)
		p.listen()
		r := run(t, s)
		for i := range earlyMax {
			p.send(command(i % 100))
		}
		synctest.Wait()
		if r.isOver() {
			t.Fatalf("over after %d messages: %v", earlyMax, r.result())
		}
		p.send(command(1))
		if err := r.result(); !strings.Contains(err.Error(), "64 messages before the first client/state") {
			t.Errorf("run: got %v, want how many messages came too early", err)
		}
		if got := r.wentUp(); got != 0 {
			t.Errorf("up was called %d times, want never", got)
		}
	})
}

// What is refused, and the close code that says why (dialects: section 6.3).
func TestGreetRefuses(t *testing.T) {
	long := func(n int) string { return strings.Replace(hello, `"One"`, `"`+strings.Repeat("x", n)+`"`, 1) }
	for _, tc := range []struct {
		name   string
		kind   int
		first  string
		refuse *dialect.RefusedError
		code   int
		text   string // in the error
	}{
		{"nonsense", websocket.TextMessage, "GET / HTTP/1.1", nil, websocket.CloseProtocolError, `got "GET / HTTP/1.1"`},
		{"empty", websocket.TextMessage, "", nil, websocket.CloseProtocolError, "envelope"},
		{"binary", websocket.BinaryMessage, hello, nil, websocket.CloseProtocolError, "binary"},
		{"another message", websocket.TextMessage, state, nil, websocket.CloseProtocolError, "client/state"},
		{"goodbye", websocket.TextMessage, goodbye, nil, websocket.CloseProtocolError, "client/goodbye"},
		{"encrypted only", websocket.TextMessage, `{"type":"client/init","payload":{}}`, nil, websocket.CloseProtocolError, "insists on encryption"},
		{"version 2", websocket.TextMessage, strings.Replace(hello, `"version":1`, `"version":2`, 1), nil, websocket.CloseProtocolError, "got 2"},
		{"no id", websocket.TextMessage, strings.Replace(hello, `"p1"`, `""`, 1), nil, websocket.ClosePolicyViolation, "client_id"},
		{"id of 10 kB", websocket.TextMessage, strings.Replace(hello, `"p1"`, `"`+strings.Repeat("x", 10_000)+`"`, 1), nil, websocket.ClosePolicyViolation, "1 to 128 bytes"},
		{"no role that we serve", websocket.TextMessage, strings.Replace(remote, "controller@v1", "artwork@v1", 1), nil, websocket.ClosePolicyViolation, "no usable role"},
		{"a player without format", websocket.TextMessage, strings.NewReplacer(`"codec":"pcm"`, `"codec":"mp3"`, `,"controller@v1","metadata@v1"`, "").Replace(hello), nil, websocket.ClosePolicyViolation, "at least one format"},
		{"65,537 bytes", websocket.TextMessage, long(64<<10 + 1 - len(hello) + len("One")), nil, websocket.CloseMessageTooBig, "read limit"},
		{"refused by the server", websocket.TextMessage, hello, &dialect.RefusedError{Code: websocket.ClosePolicyViolation, Text: "no", Detail: "not you"}, websocket.ClosePolicyViolation, "not you"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				ours, p := connect(t, 1<<20)
				p.write(tc.kind, []byte(tc.first))
				p.listen()
				s, err := Greet(t.Context(), ours, "", Options{
					Clock:  timesync.NewClock(),
					Refuse: func(protocol.ClientHello) *dialect.RefusedError { return tc.refuse },
				})
				if s != nil || err == nil || !strings.Contains(err.Error(), tc.text) {
					t.Fatalf("greet: got %v, %v; want an error with %q", s, err, tc.text)
				}
				if got := len(err.Error()); got > 600 {
					t.Errorf("the error has %d bytes, want the peer's text cut", got)
				}
				<-p.ended // we closed
				if got := p.closeCode(); got != tc.code {
					t.Errorf("close code %d, want %d", got, tc.code)
				}
				if got := p.types(); len(got) != 0 {
					t.Errorf("frames %v, want none but the close frame", got)
				}
			})
		})
	}
}

// A hello may have 64 KiB, a later frame 1 MiB; one byte more ends the session
// with the code for it (races: B28).
func TestFrameLimits(t *testing.T) {
	bubble(t, func(t *testing.T) {
		pad := func(frame string, n int) string { return frame + strings.Repeat(" ", n-len(frame)) }
		r, p := live(t, func(u *setup) { u.hello, u.capacity = pad(hello, helloLimit), 4<<20 })
		p.listen()
		p.send(pad(at(1), messageLimit))
		synctest.Wait()
		if r.isOver() || len(p.messages("server/time")) != 1 {
			t.Fatalf("a frame of 1 MiB: over %v, %d answers; want false, 1", r.isOver(), len(p.messages("server/time")))
		}
		p.send(pad(at(2), messageLimit+1))
		must(t, "run", r.result(), websocket.ErrReadLimit)
		<-p.ended
		if got := p.closeCode(); got != websocket.CloseMessageTooBig {
			t.Errorf("close code %d, want %d", got, websocket.CloseMessageTooBig)
		}
	})
}

// A malformed message costs itself; ten in a row cost the session (races: B28).
func TestMalformed(t *testing.T) {
	bad := []string{
		"nonsense", "", "null", "[]", `{"type":7}`, `{"type":"client/state","payload":[]}`,
		`{"type":"client/state","payload":{"player":{"volume":{}}}}`, `{"type":"client/time","payload":{}}`,
		`{"type":"client/command","payload":{"controller":{"command":"volume"}}}`, "\xff\xfe",
	}
	bubble(t, func(t *testing.T) {
		log := new(journal)
		told := 0
		r, p := live(t, func(u *setup) {
			u.Log = log.logger()
			u.Malformed = func(error) { told++ }
		})
		p.listen()
		for range 3 { // nine and a good one, as often as one likes
			for _, frame := range bad[:malformedMax-1] {
				p.send(frame)
			}
			p.send(at(1))
			synctest.Wait()
		}
		if r.isOver() || len(p.messages("server/time")) != 3 {
			t.Fatalf("after nine bad ones and a good one: over %v, %d answers; want false, 3", r.isOver(), len(p.messages("server/time")))
		}
		for _, frame := range bad {
			p.send(frame)
		}
		err := r.result()
		must(t, "run", err, ErrMalformed)
		var where *protocol.DecodeError
		if !errors.As(err, &where) || where.At != "encoding" {
			t.Errorf("run: got %v, want the last bad message in it", err)
		}
		if want := 3*(malformedMax-1) + malformedMax; told != want {
			t.Errorf("%d bad messages were counted, want %d", told, want)
		}
		if !strings.Contains(log.String(), `client/state: player.volume: got an object, want a number from 0 to 100`) {
			t.Errorf("log: got %s, want the value named", log)
		}
	})
}

// A second hello and unknown messages are ignored and logged once each.
func TestIgnored(t *testing.T) {
	for _, tc := range []struct {
		name, frame string
		kind        int
		note        string
	}{
		{"a second hello", strings.Replace(hello, `"p1"`, `"p2"`, 1), websocket.TextMessage, "a second one"},
		{"a message of the future", `{"type":"client/teleport","payload":{"to":"moon"}}`, websocket.TextMessage, "client/teleport"},
		{"binary", "\x00\x01\x02", websocket.BinaryMessage, "no client sends any"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				log := new(journal)
				r, p := live(t, func(u *setup) {
					u.Log = log.logger()
					u.Handle = func(_ *Session, m protocol.ClientMessage) {
						if _, ok := m.(protocol.ClientState); !ok {
							t.Errorf("delivered %#v, want nothing", m)
						}
					}
				})
				p.listen()
				for range 100 {
					p.write(tc.kind, []byte(tc.frame))
				}
				p.send(at(1))
				synctest.Wait()
				if r.isOver() || len(p.messages("server/time")) != 1 || r.ID() != "p1" {
					t.Errorf("over %v, %d answers, id %q; want false, 1, p1", r.isOver(), len(p.messages("server/time")), r.ID())
				}
				if got := strings.Count(log.String(), tc.note); got != 1 {
					t.Errorf("logged %d times, want once: %s", got, log)
				}
			})
		})
	}
}

func TestProbe(t *testing.T) {
	probe := func(r *running) (time.Duration, error) {
		ctx, cancel := context.WithTimeoutCause(context.Background(), 2*time.Second, errStop)
		defer cancel()
		start := time.Now()
		err := r.Probe(ctx)
		return time.Since(start), err
	}
	for _, tc := range []struct {
		name string
		with func(*running, *peer)
		want error
		took time.Duration
	}{
		{"it answers", func(_ *running, p *peer) { p.listen() }, nil, 0},
		{"it is stopped", func(_ *running, p *peer) { p.listen(); p.link.Freeze() }, errStop, 2 * time.Second},
		{"it spoke just before and is stopped now", func(_ *running, p *peer) {
			p.listen()
			p.send(state)
			synctest.Wait()
			p.link.Freeze()
		}, errStop, 2 * time.Second},
		{"it answers no ping and speaks", func(_ *running, p *peer) {
			p.ws.SetPingHandler(func(string) error { return nil })
			p.listen()
			time.AfterFunc(time.Second, func() { p.send(state) })
		}, nil, time.Second + probeSettle},
		{"its last words arrive, then its end", func(_ *running, p *peer) {
			p.ws.SetPingHandler(func(string) error { return nil })
			p.listen()
			time.AfterFunc(time.Second, func() { p.send(state) })
			time.AfterFunc(time.Second+probeSettle/2, func() { p.link.Reset() })
		}, ErrGone, time.Second + probeSettle/2},
		{"it has ended", func(r *running, _ *peer) { r.Kill(errKill) }, ErrGone, 0},
		{"it ends meanwhile", func(r *running, p *peer) {
			p.link.Cut()
			time.AfterFunc(time.Second, func() { r.Kill(errKill) })
		}, ErrGone, time.Second},
		{"its writer stands", func(r *running, p *peer) {
			if err := r.Send(says("", strings.Repeat("x", 2*pipe.DefaultCapacity))); err != nil {
				p.send(err.Error())
			}
		}, errStop, 2 * time.Second},
	} {
		t.Run(tc.name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				r, p := live(t)
				tc.with(r, p)
				took, err := probe(r)
				must(t, "probe", err, tc.want)
				if took != tc.took {
					t.Errorf("it took %v, want %v", took, tc.took)
				}
			})
		})
	}
}

// Delivered tells a session that was of use from one that only connected.
func TestDelivered(t *testing.T) {
	for _, tc := range []struct {
		name string
		send []string
		want bool
	}{
		{"pongs alone", nil, false},
		{"a state", []string{state}, true},
		{"a clock question", []string{at(1)}, true},
		{"nonsense", []string{"nonsense"}, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				r, p := live(t, func(u *setup) { u.hello = remote })
				p.listen()
				for _, frame := range tc.send {
					p.send(frame)
				}
				pass(time.Minute)
				if got := r.Delivered(); got != tc.want {
					t.Errorf("got %v, want %v", got, tc.want)
				}
			})
		})
	}
}

// An orderly end says the close frame after what was sent before.
func TestContextEndsInOrder(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r, p := live(t)
		p.listen()
		synctest.Wait()
		start := time.Now()
		r.cancel(errStop)
		must(t, "run", r.result(), errStop)
		<-p.ended
		if got := p.closeCode(); got != websocket.CloseGoingAway {
			t.Errorf("close code %d, want %d", got, websocket.CloseGoingAway)
		}
		if got := time.Since(start); got != 0 {
			t.Errorf("it took %v, want no time at all", got)
		}
	})
}

// A kill of a session that never ran releases its socket.
func TestKillWithoutRun(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s, p := begin(t)
		p.listen()
		s.Kill(errKill)
		<-p.ended
		must(t, "send", s.Send(says("", "")), ErrGone)
	})
}

// A panic over what a peer sent, or in what the session calls, ends this
// session and nothing else. The guards are the calls of contain in Greet and
// Run; without them one speaker can end the process, and again after each start.
func TestPanicEndsItsSession(t *testing.T) {
	bubble(t, func(t *testing.T) {
		other, _ := live(t)
		spoilt := func(u *setup) {
			u.Handle = func(*Session, protocol.ClientMessage) { panic("oh no") }
		}
		r, p := begin(t, spoilt)
		p.listen()
		run := run(t, r)
		p.send(state)
		must(t, "the reader", run.result(), contain.ErrPanic)

		r, p = begin(t, func(u *setup) {
			u.Hello = func(protocol.ClientHello) protocol.ServerHello { panic("oh no") }
		})
		p.listen()
		must(t, "the writer", r.Run(t.Context(), func() { t.Error("up was called") }), contain.ErrPanic)
		<-p.ended

		ours, p := connect(t, pipe.DefaultCapacity)
		p.send(hello)
		p.listen()
		_, err := Greet(t.Context(), ours, "", Options{Override: func(string) dialect.Name { panic("oh no") }})
		must(t, "the hello", err, contain.ErrPanic)
		<-p.ended // it is closed

		if other.isOver() {
			t.Errorf("another session ended, too: %v", other.result())
		}
	})
}
