package mqtt

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	mochi "github.com/mochi-mqtt/server/v2"
	"github.com/mochi-mqtt/server/v2/packets"

	"resonatebridge/tests/pipe"
)

// town is a broker with several clients of one base topic, in virtual time.
type town struct {
	*testing.T
	broker *Embedded
	door   *pipe.Listener // replaced under mu
	stop   func()
	gate   chan struct{} // nobody reaches the broker before it is closed; nil: at any time

	mu   sync.Mutex
	said []said // by everybody, in the broker's order
}

type said struct {
	client  string // MQTT client id
	topic   string
	payload string
}

// newTown starts a broker. Its log of what was said begins empty.
func newTown(t *testing.T) *town {
	w := &town{T: t, door: pipe.NewListener()}
	w.broker = newEmbedded(w.door, slog.New(slog.DiscardHandler))
	if err := w.broker.server.AddHook(&ear{town: w}, nil); err != nil {
		t.Fatal(err)
	}
	w.stop = start(w.T, w.broker.Run)
	synctest.Wait()
	return w
}

// ear notes what is published.
type ear struct {
	mochi.HookBase
	*town
}

func (*ear) ID() string           { return "ear" }
func (*ear) Provides(b byte) bool { return b == mochi.OnPublished || b == mochi.OnWillSent }
func (e *ear) OnPublished(cl *mochi.Client, pk packets.Packet) {
	e.note(cl.ID, pk)
}
func (e *ear) OnWillSent(cl *mochi.Client, pk packets.Packet) { e.note("will of "+cl.ID, pk) }

func (w *town) note(client string, pk packets.Packet) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.said = append(w.said, said{client, pk.TopicName, string(pk.Payload)})
}

// bridge is one client of the town.
type bridge struct {
	*Client
	w    *town
	link func() *pipe.Conn // its newest connection
	end  func()            // in order
	kill func()            // kill -9: the kernel closes its sockets
}

// bridge starts a client. It wants its own name on one topic.
func (w *town) bridge(name string) *bridge {
	w.Helper()
	b := &bridge{w: w}
	var mu sync.Mutex
	var conns []*pipe.Conn
	dead := false
	b.link = func() *pipe.Conn {
		mu.Lock()
		defer mu.Unlock()
		return conns[len(conns)-1]
	}
	o := options("mqtt://broker")
	o.ClientID, o.Holder, o.LeaseTopic = name, "bridge "+name, "base/lease"
	o.DialContext = func(ctx context.Context, _, _ string) (net.Conn, error) {
		if w.gate != nil {
			<-w.gate
		}
		mu.Lock()
		defer mu.Unlock()
		if dead {
			return nil, net.ErrClosed
		}
		w.mu.Lock()
		door := w.door
		w.mu.Unlock()
		c, err := door.Dial(ctx)
		if err != nil {
			return nil, err
		}
		conns = append(conns, c)
		return c, nil
	}
	b.Client = newTest(w.T, o, defaultTiming())
	b.instance = name
	b.Set("base/who", []byte(name), ClassState)
	b.end = start(w.T, b.Run)
	b.kill = func() {
		mu.Lock()
		dead = true
		for _, c := range conns {
			_ = c.Close()
		}
		mu.Unlock()
		synctest.Wait()
		b.end()
	}
	synctest.Wait()
	return b
}

// pass lets virtual time go by.
func pass(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

// publishers are those who said anything that is not about the lease since the
// last call, wills and questions aside.
func (w *town) publishers() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	who := map[string]bool{}
	for _, s := range w.said {
		if s.topic != "base/lease" {
			who[s.client] = true
		}
	}
	w.said = nil
	return slices.Sorted(maps.Keys(who))
}

// retained is what the broker keeps of a topic.
func (w *town) retained(topic string) string {
	pk, _ := w.broker.server.Topics.Retained.Get(topic)
	return string(pk.Payload)
}

// want checks who may publish and what stands at the broker.
func (w *town) want(holder *bridge, others ...*bridge) {
	w.Helper()
	synctest.Wait()
	name := holder.broker.ClientID
	if st := holder.Status(); !st.Connected || st.HeldBy != "" {
		w.Errorf("%s: %+v, want it connected", name, st)
	}
	var l lease
	if err := json.Unmarshal([]byte(w.retained("base/lease")), &l); err != nil || l.Instance != holder.instance {
		w.Errorf("lease %s, %v; want that of %s", w.retained("base/lease"), err, name)
	}
	if state, who := w.retained("base/state"), w.retained("base/who"); state != "online" || who != name {
		w.Errorf("state %q, who %q; want online and %s", state, who, name)
	}
	for _, b := range others {
		if st := b.Status(); st.Connected || st.HeldBy != "bridge "+name || !strings.Contains(st.Problem, "bridge "+name) {
			w.Errorf("%s: %+v, want it to stand by for %s", b.broker.ClientID, st, name)
		}
		if b.Publish("base/event", nil, 0) {
			w.Errorf("%s may publish events", b.broker.ClientID)
		}
	}
}

func lonely(t *testing.T, f func(w *town)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) { f(newTown(t)) })
}

// B27: two bridges with one base topic: exactly one publishes, the other says who
// does.
func TestLeaseTwoBridges(t *testing.T) {
	for _, names := range [][2]string{{"a", "b"}, {"b", "a"}} {
		t.Run(names[0], func(t *testing.T) {
			lonely(t, func(w *town) {
				first := w.bridge(names[0])
				w.want(first)
				second := w.bridge(names[1])
				w.want(first, second)
				w.publishers()
				for range 60 {
					second.Set("base/who", []byte(time.Now().String()), ClassState)
					second.Birth()
					pass(time.Minute)
				}
				w.want(first, second)
				if got := w.publishers(); len(got) != 0 {
					t.Errorf("%v published, want nobody: nothing changed", got)
				}
			})
		})
	}
}

// B27: of three that start in one tick one publishes in the end, and what it says
// stands. This broker delivers claims to everybody in an order of its own, so two
// may both come first for themselves; then they must not talk for ever.
func TestLeaseStartTogether(t *testing.T) {
	for n := range 20 {
		lonely(t, func(w *town) {
			var all []*bridge
			w.gate = make(chan struct{})
			for _, name := range []string{"a", "b", "c"} {
				all = append(all, w.bridge(name))
			}
			close(w.gate)
			pass(time.Minute)
			i := slices.IndexFunc(all, func(b *bridge) bool { return b.Status().Connected })
			if i < 0 {
				t.Fatalf("round %d: nobody publishes", n)
			}
			w.want(all[i], slices.Delete(slices.Clone(all), i, i+1)...)
			w.mu.Lock()
			if got := len(w.said); got > 100 { // two that stand by ask and are answered 12 times each
				t.Errorf("round %d: %d messages within a minute", n, got)
			}
			w.mu.Unlock()
			w.publishers()
			pass(time.Minute)
			if got := w.publishers(); len(got) != 0 {
				t.Errorf("round %d: %v still publish", n, got)
			}
		})
	}
}

// B27: a bridge alone is online at once: at its first start, after its orderly
// end, after a crash, after the broker lost everything.
func TestLeaseAloneIsOnlineAtOnce(t *testing.T) {
	lonely(t, func(w *town) {
		start := time.Now()
		a := w.bridge("a")
		w.want(a)
		a.end()
		if got := w.retained("base/lease"); got != "" {
			t.Errorf("lease %s after the orderly end, want none", got)
		}
		if got := w.retained("base/state"); got != "offline" {
			t.Errorf("state %q after the orderly end, want offline", got)
		}
		b := w.bridge("b")
		w.want(b)
		b.kill() // the broker sees the connection end and publishes the will
		if got := w.retained("base/lease"); got == "" {
			t.Error("a crash released the lease")
		}
		c := w.bridge("c")
		w.want(c)
		c.end()
		if took := time.Since(start); took != 0 {
			t.Errorf("three starts took %v, want no waiting", took)
		}
	})
}

// B27: after a power cut nobody tells the broker that the bridge is gone. It waits
// for an answer, not for the broker's patience.
func TestLeaseAfterPowerCut(t *testing.T) {
	lonely(t, func(w *town) {
		a := w.bridge("a")
		pass(time.Minute)
		a.link().Cut()
		start := time.Now()
		b := w.bridge("b")
		for !b.Status().Connected && time.Since(start) < time.Minute {
			pass(100 * time.Millisecond)
		}
		if took := time.Since(start); took > 4*time.Second {
			t.Errorf("online %v after the start, want 4 s at most", took)
		}
		a.kill()
		pass(2 * time.Minute) // meanwhile the broker publishes the will of a
		w.want(b)
		w.mu.Lock()
		defer w.mu.Unlock()
		if !slices.ContainsFunc(w.said, func(s said) bool { return s.client == "will of a" }) {
			t.Error("the test saw no late will")
		}
	})
}

// B27: the one that stands by takes over from one that is gone, whichever way, and
// only then.
func TestLeaseTakeover(t *testing.T) {
	for _, tc := range []struct {
		name string
		end  func(a *bridge)
		max  time.Duration
	}{
		{"in order", func(a *bridge) { a.end() }, 21 * time.Second},
		{"crash", func(a *bridge) { a.kill() }, 21 * time.Second},
		{"power cut", func(a *bridge) { a.link().Cut(); a.kill() }, 24 * time.Second},
	} {
		t.Run(tc.name, func(t *testing.T) {
			lonely(t, func(w *town) {
				a, b := w.bridge("a"), w.bridge("b")
				pass(time.Hour)
				w.want(a, b)
				start := time.Now()
				tc.end(a)
				for !b.Status().Connected && time.Since(start) < time.Minute {
					pass(100 * time.Millisecond)
				}
				if took := time.Since(start); took < 9*time.Second || took > tc.max {
					t.Errorf("taken over after %v, want 9 s to %v", took, tc.max)
				}
				w.want(b)
				c := w.bridge("c")
				w.want(b, c)
			})
		})
	}
}

// B27: a bridge that reconnects within 10 s keeps its place, and so does one that
// starts again.
func TestLeaseBlip(t *testing.T) {
	lonely(t, func(w *town) {
		a, b := w.bridge("a"), w.bridge("b")
		for range 5 {
			pass(time.Minute)
			a.link().Reset()
			pass(5 * time.Second)
			w.want(a, b)
		}
		a.kill()
		pass(5 * time.Second)
		a = w.bridge("a2")
		w.want(a)
		pass(time.Minute)
		w.want(a, b)
	})
}

// B27: a holder that was stopped for a while finds that another one took over. One
// of the two gives way; what it said too late is said again by the other.
func TestLeaseStoppedHolder(t *testing.T) {
	for _, names := range [][2]string{{"a", "b"}, {"b", "a"}} {
		t.Run(names[0], func(t *testing.T) {
			lonely(t, func(w *town) {
				old, next := w.bridge(names[0]), w.bridge(names[1])
				pass(time.Minute)
				w.want(old, next)
				old.link().Freeze()
				old.Set("base/who", []byte(names[0]), ClassState)
				pass(25 * time.Second)
				w.want(next) // and the old one does not know yet
				old.link().Thaw()
				pass(10 * time.Second)
				if names[0] == "a" {
					w.want(old, next)
				} else {
					w.want(next, old)
				}
			})
		})
	}
}

// B27: a lease that comes back from a broker that was restored, with nobody there.
func TestLeaseOfNobody(t *testing.T) {
	for _, payload := range []string{
		`{"instance":"gone","holder":"an old one","time":"2031-01-01T00:00:00Z"}`,
		`{"instance":"`, `[]`, `{}`, "\xff", `{"instance":"\u0000","time":"never"}`,
	} {
		t.Run(fmt.Sprintf("%.20q", payload), func(t *testing.T) {
			lonely(t, func(w *town) {
				p := w.peer()
				p.publish("base/lease", payload, true)
				p.publish("base/state", "online", true)
				a := w.bridge("a")
				pass(4 * time.Second)
				w.want(a)
				p.publish("base/lease", "", true) // somebody tidies up
				pass(5 * time.Second)
				w.want(a)
				p.publish("base/state", "offline", true)
				synctest.Wait()
				w.want(a)
				p.link.close()
			})
		})
	}
}

// peer is a client without a lease, closed by the test.
func (w *town) peer() *peer {
	w.Helper()
	b, err := newBroker(Options{URL: "mqtt://broker", DialContext: w.door.DialContext})
	if err != nil {
		w.Fatal(err)
	}
	p := &peer{TB: w.T, in: make(chan Message, 1000)}
	if p.link, err = b.connect(w.Context(), b.ClientID, defaultTiming(), func(m Message) { p.in <- m }); err != nil {
		w.Fatal(err)
	}
	return p
}

// Where an access list swallows the lease, the bridge works without and says so.
func TestLeaseForbidden(t *testing.T) {
	lonely(t, func(w *town) {
		if err := w.broker.server.AddHook(&deafness{topic: "base/lease"}, nil); err != nil {
			t.Fatal(err)
		}
		a := w.bridge("a")
		pass(5 * time.Second)
		st := a.Status()
		if !st.Connected || !strings.Contains(st.Problem, "base/lease") || w.retained("base/who") != "a" {
			t.Errorf("status %+v, who %q; want it to work and to say what is missing", st, w.retained("base/who"))
		}
		a.end()
		if got := w.retained("base/state"); got != "offline" {
			t.Errorf("state %q, want offline", got)
		}
	})
}

// deafness swallows what is published on a topic.
type deafness struct {
	mochi.HookBase
	topic string
}

func (*deafness) ID() string           { return "deafness" }
func (*deafness) Provides(b byte) bool { return b == mochi.OnPublish }
func (d *deafness) OnPublish(_ *mochi.Client, pk packets.Packet) (packets.Packet, error) {
	if pk.TopicName == d.topic {
		return pk, packets.ErrRejectPacket
	}
	return pk, nil
}

// Who stands by has no will, hears no command, and leaves at once.
func TestLeaseStandingBy(t *testing.T) {
	lonely(t, func(w *town) {
		a, b := w.bridge("a"), w.bridge("b")
		pass(time.Minute)
		p := w.peer()
		p.publish("base/set/volume", "7", false)
		synctest.Wait()
		p.link.close()
		if len(a.Messages()) != 1 || len(b.Messages()) != 0 {
			t.Errorf("%d commands came to the one that publishes, %d to the other; want 1 and 0", len(a.Messages()), len(b.Messages()))
		}
		start := time.Now()
		b.end()
		if took := time.Since(start); took > time.Second {
			t.Errorf("its end took %v", took)
		}
		c := w.bridge("c")
		pass(time.Second)
		c.kill()
		pass(time.Second)
		w.want(a)
		w.mu.Lock()
		defer w.mu.Unlock()
		for _, s := range w.said {
			if strings.HasPrefix(s.client, "will of") {
				t.Errorf("%s was published: %+v", s.client, s)
			}
		}
	})
}

// B27: the broker goes and comes back without its memory: whoever held the lease
// holds it again, although the other is back first.
func TestLeaseBrokerRestarts(t *testing.T) {
	for n := range 10 {
		lonely(t, func(w *town) {
			a, b := w.bridge("b"), w.bridge("a")
			pass(time.Duration(n+1) * time.Minute)
			w.stop()
			w.mu.Lock()
			w.door = pipe.NewListener()
			w.mu.Unlock()
			pass(3 * time.Second)
			w.broker = newEmbedded(w.door, slog.New(slog.DiscardHandler))
			w.stop = start(w.T, w.broker.Run)
			pass(2 * time.Minute)
			w.want(a, b)
		})
	}
}

func TestLeaseEncoding(t *testing.T) {
	l := lease{Instance: "i", Holder: "a \x00 \U0001F3B5", Time: time.Date(2026, 11, 1, 2, 3, 4, 0, time.UTC)}
	got := decode(Message{Payload: l.encode()})
	if got == nil || got.Instance != "i" || !got.Time.Equal(l.Time) || got.Question {
		t.Errorf("got %+v, want %+v", got, l)
	}
	var held *heldError
	if err := fmt.Errorf("x: %w", &heldError{*got}); !errors.As(err, &held) || held.by.Instance != "i" {
		t.Errorf("got %v", err)
	}
}
