package session

import (
	"crypto/rand"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gorilla/websocket"

	"resonatebridge/resonate/internal/noise"
	"resonatebridge/resonate/internal/sealtest"
	"resonatebridge/resonate/pairing"
	"resonatebridge/resonate/protocol"
	"resonatebridge/tests/pipe"
	"resonatebridge/timesync"
)

// key is the server's identity in these tests.
func key(t testing.TB) pairing.Identity {
	t.Helper()
	id, err := pairing.NewIdentity(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return id
}

// sealing lets everybody in, with all roles.
func sealing(t testing.TB) Options {
	t.Helper()
	return Options{
		Clock: timesync.NewClock(),
		Hello: func(protocol.ClientHello) protocol.ServerHello {
			return protocol.ServerHello{ServerID: "srv", Name: "House", Version: 1}
		},
		Handle: func(*Session, protocol.ClientMessage) {},
		Sealing: &Sealing{
			Identity: key(t),
			Choose:   func(pairing.PublicKey) (pairing.Credential, error) { return pairing.Sentinel(), nil },
			Activate: func(s *Session) protocol.ServerActivate {
				return protocol.ServerActivate{ActiveRoles: s.Offered()}
			},
		},
	}
}

// sealedLive is a session with a speaker that is up.
func sealedLive(t *testing.T, change func(*Options, *sealtest.Conn)) (*running, *sealtest.Conn, *peer) {
	t.Helper()
	o := sealing(t)
	ours, p := connect(t, pipe.DefaultCapacity)
	c := sealtest.New("a").Connect(p.ws)
	if change != nil {
		change(&o, c)
	}
	p.ended = make(chan struct{})
	go func() { defer close(p.ended); _ = c.Run() }()
	s, err := Greet(t.Context(), ours, "", o)
	if err != nil {
		t.Fatal(err)
	}
	r := run(t, s)
	synctest.Wait()
	if r.wentUp() != 1 {
		t.Fatalf("it did not go up: %v", c.Ended())
	}
	return r, c, p
}

func TestSealedSession(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r, c, _ := sealedLive(t, nil)
		if !r.Encrypted() || !r.Proven() || r.Category() != pairing.SentinelID || r.Mismatch() || r.ID() != c.ID() {
			t.Errorf("encrypted %v, category %q, mismatch %v, id %s", r.Encrypted(), r.Category(), r.Mismatch(), r.ID())
		}
		if h, ok := sealtest.Last[protocol.ServerHello](c); !ok || h.Name != "House" {
			t.Errorf("hello: %+v", h)
		}
		at := r.opts.Clock.Now()
		pass(time.Second)
		must(t, "time", c.Send(protocol.ClientTime{ClientTransmitted: 77}), nil)
		synctest.Wait()
		if x, ok := sealtest.Last[protocol.ServerTime](c); !ok || x.ClientTransmitted != 77 || x.ServerReceived != at+1_000_000 || x.ServerTransmitted < x.ServerReceived {
			t.Errorf("time: %+v, %v", x, ok)
		}
		// What does not fit into a frame comes in fragments, whole.
		name := strings.Repeat("long ", 40_000)
		must(t, "send", r.Send(says("g", name)), nil)
		synctest.Wait()
		if x, _ := sealtest.Last[protocol.GroupUpdate](c); x.GroupName != name {
			t.Errorf("a name of %d bytes came as one of %d", len(name), len(x.GroupName))
		}
		must(t, "goodbye", c.Send(protocol.ClientGoodbye{Reason: "restart"}), nil)
		var bye *GoodbyeError
		if err := r.result(); !errors.As(err, &bye) || bye.Reason != "restart" {
			t.Errorf("got %v", err)
		}
	})
}

// Keys change again and again while both sides talk: nothing is lost, doubled
// or out of order, and nothing but the answer passes between the messages of a
// change.
func TestRekeyUnderTraffic(t *testing.T) {
	for _, suite := range noise.Suites() {
		t.Run(suite.String(), func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				var mu sync.Mutex
				var heard []int
				r, c, _ := sealedLive(t, func(o *Options, c *sealtest.Conn) {
					c.Suite = suite
					o.Sealing.After = 40
					o.Handle = func(_ *Session, m protocol.ClientMessage) {
						if x, ok := m.(protocol.ClientCommand); ok {
							mu.Lock()
							defer mu.Unlock()
							heard = append(heard, x.Volume)
						}
					}
				})
				must(t, "stream", r.Stream(start), nil)
				var sent []timesync.Micros
				for i := range 400 {
					x := sound(r)
					if !r.Audio(x) {
						t.Fatal("no room for a chunk")
					}
					sent = append(sent, x.Timestamp)
					must(t, "send", r.Send(says("g", fmt.Sprint(i))), nil)
					must(t, "command", c.Send(protocol.ClientCommand{Command: protocol.ControlVolume, Volume: i % 100}), nil)
					must(t, "time", c.Send(protocol.ClientTime{ClientTransmitted: timesync.Micros(i)}), nil)
					pass(10 * time.Millisecond)
				}
				if len(c.Rekeyed()) < 10 || c.Ended() != nil || r.isOver() {
					t.Fatalf("%d changes of keys; ended: %v, %v", len(c.Rekeyed()), c.Ended(), r.isOver())
				}
				var got []timesync.Micros
				for _, x := range sealtest.All[protocol.AudioChunk](c) {
					got = append(got, x.Timestamp)
				}
				if !slices.Equal(got, sent) {
					t.Errorf("%d chunks came of %d, or in another order", len(got), len(sent))
				}
				for i, x := range sealtest.All[protocol.GroupUpdate](c) {
					if x.GroupName != fmt.Sprint(i) {
						t.Fatalf("message %d is %s", i, x.GroupName)
					}
				}
				if n := len(sealtest.All[protocol.ServerTime](c)); n != 400 {
					t.Errorf("%d answers to 400 requests", n)
				}
				mu.Lock()
				defer mu.Unlock()
				for i := range 400 {
					if len(heard) != 400 || heard[i] != i%100 {
						t.Fatalf("%d commands came: %v", len(heard), heard)
					}
				}
			})
		})
	}
}

var start = protocol.StreamStart{Player: &protocol.StreamPlayer{Format: protocol.Format{Codec: "pcm", Channels: 2, SampleRate: 48000, BitDepth: 16}}}

// The first message under new keys is an activation, and a stream ends in front
// of a change that takes its role away.
func TestRekeyOrder(t *testing.T) {
	bubble(t, func(t *testing.T) {
		psk, err := protocol.GeneratePSK(rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		var told []pairing.Category
		r, c, _ := sealedLive(t, func(o *Options, x *sealtest.Conn) {
			must(t, "record", x.Book.Put(pairing.Record{Peer: o.Sealing.Identity.Public(), PSK: psk}, nil), nil)
			o.Sealing.Rekeyed = func(s *Session, _ pairing.Credential) { told = append(told, s.Category()) }
			x.Busy = func(say func(...protocol.ClientMessage) error) { // before it heard of the change
				must(t, "busy", say(protocol.ClientTime{ClientTransmitted: 5}), nil)
			}
		})
		must(t, "stream", r.Stream(start), nil)
		synctest.Wait()
		before := len(c.Got())
		r.Show(protocol.ServerState{Controller: &protocol.ControllerState{Volume: 1}})
		must(t, "rekey", r.Rekey(pairing.Credential{PSK: psk, Category: pairing.LongTerm}, protocol.ServerActivate{ActiveRoles: []protocol.Role{}}), nil)
		r.Show(protocol.ServerState{Controller: &protocol.ControllerState{Volume: 2}})
		if r.Audio(sound(r)); r.HasRole(protocol.RolePlayer) {
			t.Error("the role is active still")
		}
		must(t, "send", r.Send(says("g", "after")), nil)
		synctest.Wait()
		var got []string
		for _, m := range c.Got()[before:] {
			got = append(got, fmt.Sprintf("%T", m))
		}
		want := []string{"protocol.StreamEnd", "protocol.ServerActivate", "protocol.ServerTime", "protocol.GroupUpdate"}
		if !slices.Equal(got, want) {
			t.Errorf("got %v, want %v", got, want)
		}
		if at := c.Rekeyed(); !slices.Equal(at, []int{before + 1}) {
			t.Errorf("the keys changed after message %v, want %d: the end of the stream comes first", at, before+1)
		}
		if !slices.Equal(told, []pairing.Category{pairing.LongTerm}) || c.Category() != pairing.LongTerm {
			t.Errorf("told %v; the client has %s", told, c.Category())
		}
		must(t, "activate", r.Activate(protocol.ServerActivate{ActiveRoles: r.Offered()}), nil)
		r.Show(protocol.ServerState{Controller: &protocol.ControllerState{Volume: 3}})
		synctest.Wait()
		last := c.Got()[len(c.Got())-2:]
		if _, ok := last[0].(protocol.ServerActivate); !ok || fmt.Sprintf("%T", last[1]) != "protocol.ServerState" {
			t.Errorf("a state that is shown with its role: %T, then %T", last[0], last[1])
		}
	})
}

// A peer that does not answer a change of keys loses the session.
func TestRekeyUnanswered(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r, _, _ := sealedLive(t, func(_ *Options, c *sealtest.Conn) {
			c.Ignore = true
		})
		must(t, "rekey", r.Rekey(pairing.Sentinel(), protocol.ServerActivate{}), nil)
		pass(11 * time.Second)
		if !r.isOver() {
			t.Fatal("it waits still")
		}
		if err := r.result(); !strings.Contains(err.Error(), "re-handshake") {
			t.Errorf("got %v", err)
		}
	})
}

// One frame that is not the next one of the peer ends the session, and nobody
// says a word about it.
func TestTamperedFramesEndItSilently(t *testing.T) {
	flip := func(at int) func([]byte) [][]byte {
		return func(f []byte) [][]byte {
			f = slices.Clone(f)
			f[(at+len(f))%len(f)] ^= 1
			return [][]byte{f}
		}
	}
	message := func(m ...byte) func(*sealtest.Conn) error {
		return func(c *sealtest.Conn) error { return c.SendMessage(m) }
	}
	var held []byte
	for _, tc := range []struct {
		name   string
		tamper func([]byte) [][]byte
		say    func(*sealtest.Conn) error
		want   error
	}{
		{"first bit", flip(0), nil, noise.ErrAuthentication},
		{"last bit", flip(-1), nil, noise.ErrAuthentication},
		{"cut", func(f []byte) [][]byte { return [][]byte{f[:len(f)-1]} }, nil, noise.ErrAuthentication},
		{"longer", func(f []byte) [][]byte { return [][]byte{append(slices.Clone(f), 0)} }, nil, noise.ErrAuthentication},
		{"nothing", func([]byte) [][]byte { return [][]byte{{}} }, nil, noise.ErrAuthentication},
		{"twice", func(f []byte) [][]byte { return [][]byte{f, f} }, nil, noise.ErrAuthentication},
		{"missing", func(f []byte) [][]byte {
			if held == nil {
				held = f
				return nil
			}
			return [][]byte{f}
		}, nil, noise.ErrAuthentication},
		{"swapped", func(f []byte) [][]byte {
			if held == nil {
				held = f
				return nil
			}
			return [][]byte{f, held}
		}, nil, noise.ErrAuthentication},
		{"in the clear", nil, func(c *sealtest.Conn) error {
			return c.Raw(websocket.TextMessage, []byte(`{"type":"client/time","payload":{"client_transmitted":1}}`))
		}, ErrText},
		{"a plaintext hello", nil, func(c *sealtest.Conn) error { return c.Raw(websocket.TextMessage, []byte(hello)) }, ErrText},
		{"larger than a frame", nil, func(c *sealtest.Conn) error {
			return c.Raw(websocket.BinaryMessage, make([]byte, noise.MaxFrame+1))
		}, websocket.ErrReadLimit},
		{"a handshake nobody asked for", nil, message(append([]byte{0}, `{"type":"noise/handshake","payload":{"data":"AAAA"}}`...)...), noise.ErrTurn},
		{"reserved flags", nil, message(1, 6, 0), noise.ErrFragment},
		{"fragments of fragments", nil, message(1, 3, 1), noise.ErrFragment},
		{"fragments without an end", nil, func(c *sealtest.Conn) error {
			if err := c.SendMessage(append([]byte{1, 2, 0}, make([]byte, 60_000)...)); err != nil {
				return err
			}
			for range 100 {
				_ = c.SendMessage(append([]byte{1, 0}, make([]byte, 60_000)...)) // it ends meanwhile
			}
			return nil
		}, noise.ErrFragment},
	} {
		t.Run(tc.name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				held = nil
				r, c, _ := sealedLive(t, nil)
				before := len(c.Got())
				c.SetTamper(tc.tamper)
				if tc.say != nil {
					_ = tc.say(c) // it may end under our hands
				} else {
					for range 2 {
						_ = c.Send(protocol.ClientCommand{Command: protocol.ControlPlay})
					}
				}
				synctest.Wait()
				if !r.isOver() {
					t.Fatal("it goes on")
				}
				must(t, "run", r.result(), tc.want)
				if after := len(c.Got()); after != before {
					t.Errorf("%d messages came: %v", after-before, c.Got()[before:])
				}
			})
		})
	}
}

// first sends first frames and returns what the server answers, and its error.
func first(t *testing.T, o Options, frames ...string) (answers []string, err error) {
	t.Helper()
	ours, p := connect(t, pipe.DefaultCapacity)
	p.listen()
	for _, f := range frames {
		p.send(f)
	}
	s, err := Greet(t.Context(), ours, "", o)
	if err == nil {
		s.Kill(nil)
		t.Fatal("it was let in")
	}
	<-p.ended
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.got, err
}

func TestInitFailuresAreAnswered(t *testing.T) {
	id := sealtest.New("a").ID()
	body := func(version, suite, id string) string {
		return fmt.Sprintf(`{"type":"client/init","payload":{"version":%s,"suite":%q,"client_id":%q}}`, version, suite, id)
	}
	good := noise.AESGCM.String()
	for _, tc := range []struct{ name, text, reason string }{
		{"version", body("2", good, id), "unsupported_version"},
		{"version before all else", body("2", "none", "none"), "unsupported_version"},
		{"suite", body("1", "25519_AESGCM_BLAKE2s", id), "unsupported_suite"},
		{"id", body("1", good, id[1:]), "malformed"},
		{"no payload", `{"type":"client/init"}`, "malformed"},
		{"fractional version", body("1.5", good, id), "malformed"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				got, err := first(t, sealing(t), tc.text)
				want := `server/error {"reason":"` + tc.reason + `"}`
				if !slices.Equal(got, []string{want}) {
					t.Errorf("answered %q, want %q", got, want)
				}
				var init *noise.InitError
				if !errors.As(err, &init) || string(init.Reason) != tc.reason {
					t.Errorf("error: %v", err)
				}
			})
		})
	}
}

func TestHandshakeFailuresAreSilent(t *testing.T) {
	init := `{"type":"client/init","payload":{"version":1,"suite":"25519_AESGCM_SHA256","client_id":"` + sealtest.New("a").ID() + `"}}`
	for _, tc := range []struct {
		name, second string
		want         error
	}{
		{"random", `{"type":"noise/handshake","payload":{"data":"` + strings.Repeat("A", 67) + `"}}`, noise.ErrHandshake},
		{"no base64url", `{"type":"noise/handshake","payload":{"data":"AB+/"}}`, noise.ErrMalformed},
		{"another message", state, noise.ErrMalformed},
		{"no JSON", `{`, noise.ErrMalformed},
	} {
		t.Run(tc.name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				got, err := first(t, sealing(t), init, tc.second)
				if len(got) != 2 || !strings.HasPrefix(got[0], "server/init ") || !strings.HasPrefix(got[1], "noise/handshake ") {
					t.Errorf("answered %q, want no more than server/init and message 1", got)
				}
				must(t, "greet", err, tc.want)
			})
		})
	}
	t.Run("turned away", func(t *testing.T) {
		bubble(t, func(t *testing.T) {
			o := sealing(t)
			o.Sealing.Choose = func(pairing.PublicKey) (pairing.Credential, error) {
				return pairing.Credential{}, fmt.Errorf("%w: too many", ErrTurnedAway)
			}
			got, err := first(t, o, init)
			if len(got) != 0 {
				t.Errorf("answered %q", got)
			}
			must(t, "greet", err, ErrTurnedAway)
		})
	})
	t.Run("nothing more", func(t *testing.T) {
		bubble(t, func(t *testing.T) {
			at := time.Now()
			if _, err := first(t, sealing(t), init); err == nil || time.Since(at) != 10*time.Second {
				t.Errorf("after %v: %v", time.Since(at), err)
			}
		})
	})
	t.Run("fragments in place of a hello", func(t *testing.T) {
		bubble(t, func(t *testing.T) {
			ours, p := connect(t, pipe.DefaultCapacity)
			c := sealtest.New("a").Connect(p.ws)
			c.Hello = func() { // slowly, and without an end
				if c.SendMessage([]byte{1, 2, 0}) != nil {
					return
				}
				for range 100 {
					time.Sleep(time.Second)
					if c.SendMessage([]byte{1, 0, 'x'}) != nil {
						return
					}
				}
			}
			p.ended = make(chan struct{})
			go func() { defer close(p.ended); _ = c.Run() }()
			at := time.Now()
			_, err := Greet(t.Context(), ours, "", sealing(t))
			if err == nil || time.Since(at) != 10*time.Second {
				t.Errorf("after %v: %v", time.Since(at), err)
			}
			pass(2 * time.Second) // it sees the end, too
		})
	})
}

// A goodbye may come in place of a hello.
func TestGoodbyeInPlaceOfHello(t *testing.T) {
	bubble(t, func(t *testing.T) {
		ours, p := connect(t, pipe.DefaultCapacity)
		c := sealtest.New("a").Connect(p.ws)
		c.Hello = func() {
			_ = c.SendMessage([]byte("\x00" + `{"type":"client/goodbye","payload":{"reason":"another_server"}}`))
		}
		p.ended = make(chan struct{})
		go func() { defer close(p.ended); _ = c.Run() }()
		_, err := Greet(t.Context(), ours, "", sealing(t))
		var bye *GoodbyeError
		if !errors.As(err, &bye) || bye.Reason != protocol.GoodbyeAnotherServer {
			t.Errorf("got %v", err)
		}
	})
}

// A malformed pairing message ends the session; any other costs itself.
func TestMalformedPairingEndsIt(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r, c, _ := sealedLive(t, nil)
		must(t, "say", c.SendMessage([]byte("\x00"+`{"type":"client/state","payload":{"available":7}}`)), nil)
		synctest.Wait()
		if r.isOver() {
			t.Fatal("a bad state ended it")
		}
		must(t, "say", c.SendMessage([]byte("\x00"+`{"type":"client/pair-init","payload":{"pairing_index":-1}}`)), nil)
		synctest.Wait()
		var bad *protocol.DecodeError
		if !r.isOver() || !errors.As(r.result(), &bad) {
			t.Errorf("over %v", r.isOver())
		}
	})
}
