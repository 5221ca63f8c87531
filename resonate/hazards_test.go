package resonate

import (
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// B8: a speaker that reads nothing any more costs itself only: it ends once, by
// the bytes that wait for it, and 49 others get every command at once.
func TestB8SlowSpeakerHoldsNobodyUp(t *testing.T) {
	bubble(t, func(t *testing.T) {
		h := newHouse(t)
		slow := h.speaker("slow")
		slow.capacity = 1 << 10
		slow.announce()
		var others []*speaker
		for i := range 49 {
			others = append(others, h.online(fmt.Sprintf("s%02d", i)))
		}
		h.want("slow", Connected, true)
		slow.line(0).link.Freeze()
		refused := 0
		for n := range 5000 {
			if _, err := h.Do(t.Context(), setVolume("slow", n%100)); err != nil {
				refused++
				slow.set(func() { slow.off = true })
			}
			if n%100 != 0 {
				continue
			}
			start := time.Now()
			for _, s := range others {
				h.must(setVolume(s.id, n/100))
			}
			if took := time.Since(start); took != 0 {
				t.Fatalf("the others waited %v for one that does not read", took)
			}
		}
		pass(time.Second)
		if refused == 0 {
			t.Error("nothing was refused: the queue has no end")
		}
		for _, s := range others {
			if got := len(s.commands()); got != 50 {
				t.Errorf("%s got %d commands, want 50", s.id, got)
			}
			if got := h.edges(s.id); got != "up1" {
				t.Errorf("%s: edges %q, want up1", s.id, got)
			}
		}
		if got := h.edges("slow"); got != "up1 down1" {
			t.Errorf("edges %q, want one end", got)
		}
		if got := h.Counters().SlowConsumers; got != 1 {
			t.Errorf("%d slow consumers are counted, want 1", got)
		}
	})
}

// B8: who only listens, as a display does, is never too slow: of what changes
// while it stands it gets the newest.
func TestB8SlowDisplayGetsTheNewest(t *testing.T) {
	bubble(t, func(t *testing.T) {
		h := newHouse(t)
		a := h.online("a")
		r := h.speaker("remote")
		r.hello = `{"type":"client/hello","payload":{"client_id":"remote","name":"Remote","version":1,"supported_roles":["controller@v1"]}}`
		r.state = nil
		l := r.dialIn()
		synctest.Wait()
		h.must(AddGroup{Name: "Room", Members: []string{"a"}})
		gid := h.group("a").ID
		onLoop(h, func(m *model) { m.enter(m.byID["remote"], m.groups[gid]) })
		l.link.Freeze()
		for n := range 2000 {
			a.turn(n % 100)
		}
		l.link.Thaw()
		synctest.Wait()
		if got := l.last("server/state"); !strings.Contains(got, `"volume":99`) {
			t.Errorf("the last state is %s, want volume 99", got)
		}
		if live, _, total := r.counts(); live != 1 || total != 1 {
			t.Errorf("%d connections are open of %d there were, want 1 of 1", live, total)
		}
	})
}

// A command to a connection that has just ended is not answered with "ok".
func TestDelayToALinkThatEnded(t *testing.T) {
	bubble(t, func(t *testing.T) {
		h := newHouse(t)
		s := h.speaker("kitchen")
		s.hello = strings.Replace(s.hello, `["volume","mute"]`, `["volume","mute","set_static_delay"]`, 1)
		s.announce()
		synctest.Wait()
		var got *CommandError
		onLoop(h, func(m *model) {
			m.clients["kitchen"].link.Kill(errReconnect)
			m.do(SetPlayer{PID: "kitchen", DelayMs: ptr(20)}, func(_ Result, err *CommandError) { got = err })
		})
		if got == nil || got.Code != CodeNotConnected {
			t.Errorf("got %v, want %s", got, CodeNotConnected)
		}
	})
}

// B23: the wall clock jumps by an hour, as after suspend or when NTP comes up.
// Every connection is probed once, and nothing else happens: no dial, no end. What
// the speakers said about their clocks counts no more. The guard is that only
// watchSleep reads the wall clock.
func TestB23ClockJump(t *testing.T) {
	for _, by := range []time.Duration{time.Hour, -time.Hour, 11 * time.Second} {
		t.Run(by.String(), func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				var offset atomic.Int64
				h := newHouse(t, func(o *Options) {
					o.Wall = func() time.Time { return time.Now().Round(0).Add(time.Duration(offset.Load())) }
				})
				a := h.online("a")
				b := h.speaker("b")
				b.dialIn()
				synctest.Wait()
				pass(time.Minute + time.Second) // no regular ping is due for 9 s
				pings := map[*speaker]*atomic.Int64{}
				for _, s := range []*speaker{a, b} {
					n := new(atomic.Int64)
					pings[s] = n
					s.line(0).countPings(n)
				}
				h.must(setVolume("a", 50)) // each says its state
				if got := h.player("a").SyncState; got != "synchronized" {
					t.Fatalf("sync %q, want synchronized", got)
				}
				offset.Store(int64(by))
				pass(6 * time.Second)
				for s, n := range pings {
					if got := n.Load(); got != 1 {
						t.Errorf("%s was pinged %d times, want once", s.id, got)
					}
				}
				if got := h.player("a").SyncState; got != "" {
					t.Errorf("sync %q after the jump, want unknown", got)
				}
				a.turn(33)
				if got := h.player("a").SyncState; got != "synchronized" {
					t.Errorf("sync %q after it reported, want synchronized", got)
				}
				pass(2 * time.Hour)
				for _, s := range []*speaker{a, b} {
					h.want(s.id, Connected, true)
					if got := h.edges(s.id); got != "up1" {
						t.Errorf("%s: edges %q, want up1", s.id, got)
					}
					if _, _, total := s.counts(); total != 1 {
						t.Errorf("%s: %d connections, want 1", s.id, total)
					}
				}
				if got := strings.Count(h.log.String(), "disagree"); got != 1 {
					t.Errorf("%d jumps were noticed, want 1", got)
				}
			})
		})
	}
}

// B23: whoever did not live through the sleep of the machine is noticed by the
// probe, not after 25 s.
func TestB23DeadAfterSuspend(t *testing.T) {
	bubble(t, func(t *testing.T) {
		var offset atomic.Int64
		h := newHouse(t, func(o *Options) {
			o.Wall = func() time.Time { return time.Now().Round(0).Add(time.Duration(offset.Load())) }
		})
		s := h.online("kitchen")
		pass(time.Minute)
		s.line(0).link.Cut() // it gave us up meanwhile
		offset.Store(int64(8 * time.Hour))
		pass(10 * time.Second) // until the watch looks, then 2 s
		h.want("kitchen", Connected, true)
		if got := h.edges("kitchen"); got != "up1 down1 up2" {
			t.Errorf("edges %q, want up1 down1 up2", got)
		}
	})
}

// B23: neither a slow clock nor one that NTP steers is a jump.
func TestB23DriftIsNoJump(t *testing.T) {
	bubble(t, func(t *testing.T) {
		start := time.Now()
		h := newHouse(t, func(o *Options) {
			o.Wall = func() time.Time { return time.Now().Round(0).Add(time.Since(start) / 2) } // 50 %
		})
		h.online("kitchen")
		pass(time.Hour)
		if strings.Contains(h.log.String(), "disagree") {
			t.Error("a clock that is fast was taken for a jump")
		}
	})
}

// countPings counts the pings that come from here on.
func (l *line) countPings(n *atomic.Int64) {
	pong := l.ws.PingHandler()
	l.ws.SetPingHandler(func(data string) error {
		n.Add(1)
		return pong(data)
	})
}

// B26: a bridge that comes back to many speakers spreads its first dials over 2 s;
// one that knows a few dials each as soon as it hears it.
func TestB26FirstDialsAreSpread(t *testing.T) {
	for _, tc := range []struct {
		known  int
		spread time.Duration // option
		min    time.Duration // from the first dial to the last
		max    time.Duration
		most   int // dials in 100 ms
	}{
		{32, 0, 0, 0, 32},
		{64, 0, time.Second, 2 * time.Second, 20},
		{64, 4 * time.Second, 2 * time.Second, 4 * time.Second, 14},
		{64, -1, 0, 0, 64},
	} {
		t.Run(fmt.Sprint(tc.known, tc.spread), func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				dir := t.TempDir()
				data := func(o *Options) { o.DataDir, o.DialSpread = dir, tc.spread }
				all := func(h *house) {
					for i := range tc.known {
						h.speaker(fmt.Sprintf("s%03d", i)).announce()
					}
				}
				h := newHouse(t, data)
				all(h)
				pass(10 * time.Second)
				h.stop()
				h = newHouse(t, data)
				all(h)
				pass(10 * time.Second)
				first, last := h.dials[0].at, h.dials[len(h.dials)-1].at
				if len(h.dials) != tc.known {
					t.Errorf("%d dials, want %d", len(h.dials), tc.known)
				}
				if took := last.Sub(first); took < tc.min || took > tc.max {
					t.Errorf("the dials took %v, want %v to %v", took, tc.min, tc.max)
				}
				for _, d := range h.dials {
					n := 0
					for _, x := range h.dials {
						if since := x.at.Sub(d.at); since >= 0 && since < 100*time.Millisecond {
							n++
						}
					}
					if n > tc.most {
						t.Fatalf("%d dials within 100 ms, want %d at most", n, tc.most)
					}
				}
				for _, p := range h.Snapshot().Players {
					if p.Connection != Connected {
						t.Errorf("%s is %s", p.PID, p.Connection)
					}
				}
			})
		})
	}
}
