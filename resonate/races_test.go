package resonate

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"resonatebridge/resonate/protocol"
)

// RC-1: a connection that comes up after nobody wants it any more is closed,
// and nobody hears of it. The guards are the calls of conns.Remove in
// onDiscovery, setCustody and removePlayer; without one of them the speaker is
// connected though it was removed. What the map does then is tested in package
// supervisor.
func TestRC1RemovedDuringDial(t *testing.T) {
	for _, tc := range []struct {
		name  string
		known bool // the speaker was connected before
		unask func(*house, *speaker)
		left  int // players afterwards
	}{
		{"withdrawn, never met", false, func(_ *house, s *speaker) { s.withdraw() }, 0},
		{"custody observe", true, func(h *house, s *speaker) { h.must(setCustody(s.id, CustodyObserve)) }, 1},
		{"forgotten", true, func(h *house, s *speaker) { h.must(RemovePlayer{PID: s.id}) }, 0},
	} {
		for _, stage := range []string{"dial", "hello"} {
			t.Run(tc.name+", during "+stage, func(t *testing.T) {
				bubble(t, func(t *testing.T) {
					h := newHouse(t)
					s := h.speaker("kitchen")
					hello := s.hello
					before := 0
					if tc.known {
						s.announce()
						synctest.Wait()
						h.want("kitchen", Connected, true)
						before = 1
					}
					gate := make(chan struct{})
					s.set(func() {
						if stage == "dial" {
							s.gate = gate
						} else {
							s.hello = ""
						}
					})
					if tc.known {
						s.reset()
						pass(2 * time.Second) // the shortest backoff is at most 1 s
					} else {
						s.announce()
						synctest.Wait()
					}
					if got := h.dialsTo(s.addr); got != before+1 {
						t.Fatalf("%d dials, want %d, the last one under way", got, before+1)
					}
					tc.unask(h, s)
					synctest.Wait()
					if stage == "dial" {
						close(gate) // it succeeds, too late
						synctest.Wait()
					} else if l := s.line(-1); !l.isOver() {
						l.send(hello)
						synctest.Wait()
					}
					pass(10 * time.Minute)
					if live, peak, _ := s.counts(); live != 0 || peak > 1 {
						t.Errorf("%d connections are open, %d were at once; want 0 and at most 1", live, peak)
					}
					if got := h.dialsTo(s.addr); got != before+1 {
						t.Errorf("%d dials, want none after it was removed", got-before-1)
					}
					if got := len(h.pids()); got != tc.left {
						t.Errorf("players %v, want %d", h.pids(), tc.left)
					}
					want := ""
					if tc.known {
						want = "up1 down1"
					}
					if got := h.edges("kitchen"); got != want {
						t.Errorf("edges %q, want %q", got, want)
					}
				})
			})
		}
	}
}

// RC-7: the old connection of a speaker is half open when it connects again.
// The ends come in order, at most one is up, and it stays in its group. The
// guard is that membership belongs to the client and not to its link: in lost
// it ends by a timer; if it ended there the speaker would be back alone.
func TestRC7HalfOpenAndBack(t *testing.T) {
	for _, tc := range []struct {
		name    string
		inbound bool // the first connection was opened by the speaker
	}{
		{"they dial, they dial", true},
		{"we dial, they dial", false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				h := newHouse(t)
				h.online("bath")
				s := h.speaker("kitchen")
				if tc.inbound {
					s.dialIn()
				} else {
					s.announce()
				}
				synctest.Wait()
				h.must(AddGroup{Name: "All", Members: []string{"bath", "kitchen"}})
				h.must(SetPlayer{PID: "bath", Group: &GroupTarget{Solo: true}})
				h.must(join("kitchen", "bath")) // an ad-hoc group: nothing brings it back into that
				group := h.group("kitchen")
				pass(time.Minute)

				s.line(0).link.Cut()
				s.set(func() { s.off = true }) // behind another address now
				start := time.Now()
				l := s.dialIn()
				for h.edges("kitchen") != "up1 down1 up2" && time.Since(start) < 10*time.Second {
					pass(100 * time.Millisecond)
				}
				if took := time.Since(start); took > 3*time.Second {
					t.Errorf("it took %v until the new connection counted, want 3 s at most", took)
				}
				if got := h.edges("kitchen"); got != "up1 down1 up2" {
					t.Errorf("edges %q, want up1 down1 up2", got)
				}
				h.want("kitchen", Connected, true)
				if got := h.group("kitchen"); got.ID != group.ID || !slices.Equal(got.Members, group.Members) {
					t.Errorf("group %s %v, want %s %v", got.ID, got.Members, group.ID, group.Members)
				}
				h.must(setVolume("kitchen", 33))
				if got := l.messages("server/command"); len(got) != 1 {
					t.Errorf("the new connection got %v, want one command", got)
				}
				pass(10 * time.Minute)
				if got := h.edges("kitchen"); got != "up1 down1 up2" || l.isOver() {
					t.Errorf("edges %q later, want no more", got)
				}
			})
		})
	}
}

// RC-7, the other way round: as long as the old connection answers, whoever
// claims its id is sent away, as often as he tries (races: B29). The guard is
// that the supervisor's map hands a second session of an id to the entry that
// has it (e := m.ids[id] in adopt), which probes its own first; without it the
// newcomer stays.
func TestRC7ImpostorIsSentAway(t *testing.T) {
	bubble(t, func(t *testing.T) {
		h := newHouse(t)
		s := h.online("kitchen")
		thief := h.speaker("kitchen")
		for range 60 {
			l := thief.dialIn()
			pass(time.Second)
			if !l.isOver() {
				t.Fatal("the newcomer was kept")
			}
		}
		if got := h.edges("kitchen"); got != "up1" || s.line(0).isOver() {
			t.Errorf("edges %q, want up1 and nothing else", got)
		}
		if got := h.pids(); len(got) != 1 {
			t.Errorf("players %v, want one", got)
		}
	})
}

// RC-7: what comes from a connection that is not the live one any more, changes
// nothing. The guard is the comparison of links in onMessage; without it the
// volume below is that of a connection that is gone.
func TestRC7LateMessage(t *testing.T) {
	bubble(t, func(t *testing.T) {
		h := newHouse(t)
		s := h.online("kitchen")
		var old *link
		onLoop(h, func(m *model) { old = m.clients["kitchen"].link })
		s.reset()
		pass(5 * time.Second)
		h.want("kitchen", Connected, true)
		onLoop(h, func(m *model) {
			m.onMessage(old, protocol.ClientState{Player: &protocol.PlayerState{Volume: ptr(99)}})
		})
		if got := h.volume("kitchen"); got != 40 {
			t.Errorf("volume %d, want 40 as the live connection says", got)
		}
	})
}

// RC-7: a loop that was too slow to see the end of a connection closes its books
// before it opens those of the next one. The guard is the call of lost before
// up in onStatus; without it the log and the counts read up, up.
func TestRC7SkippedEnd(t *testing.T) {
	bubble(t, func(t *testing.T) {
		h := newHouse(t)
		s := h.online("kitchen")
		busy := make(chan struct{})
		h.post(nil, func() { <-busy })
		synctest.Wait()
		s.reset()
		pass(5 * time.Second) // it is back, and nobody has seen it go
		if _, _, total := s.counts(); total != 2 {
			t.Fatalf("%d connections in all, want 2", total)
		}
		close(busy)
		if got := h.edges("kitchen"); got != "up1 down1 up2" {
			t.Errorf("edges %q, want up1 down1 up2", got)
		}
		var gens []uint64
		for _, e := range h.log.entries() {
			if e.Player == "kitchen" && (e.Msg == "connected" || e.Msg == "disconnected") {
				gens = append(gens, e.Gen)
			}
			if e.Msg == "disconnected" && !strings.Contains(e.Err, "connection reset") {
				t.Errorf("the end is told with %q, want its cause", e.Err)
			}
		}
		if len(gens) != 3 || gens[0] != gens[1] || gens[1] >= gens[2] {
			t.Errorf("generations %v, want the end to have that of its beginning", gens)
		}
		h.must(setVolume("kitchen", 8))
		if got := h.volume("kitchen"); got != 8 {
			t.Errorf("volume %d over the second connection, want 8", got)
		}
	})
}

// RC-9: however many say at once that a speaker is there, it is dialled once. The
// guard is that Ensure looks and creates under one mutex, the entry before its
// goroutine; without the look every announcement has an entry of its own.
func TestRC9ThousandDiscoveries(t *testing.T) {
	bubble(t, func(t *testing.T) {
		h := newHouse(t)
		s := h.speaker("kitchen")
		var wg sync.WaitGroup
		for range 1000 {
			wg.Go(s.announce)
		}
		wg.Wait()
		synctest.Wait()
		h.want("kitchen", Connected, true)
		for range 1000 { // and again while it is connected
			wg.Go(s.reannounce)
		}
		wg.Wait()
		pass(time.Hour)
		live, peak, total := s.counts()
		if live != 1 || peak != 1 || total != 1 || h.dialsTo(s.addr) != 1 {
			t.Errorf("%d connections now, %d at once, %d in all, %d dials; want 1 each", live, peak, total, h.dialsTo(s.addr))
		}
		if got := h.edges("kitchen"); got != "up1" {
			t.Errorf("edges %q, want up1", got)
		}
	})
}

// RC-10: let go and taken again a hundred times, a speaker never has two
// connections, and the last word holds, also when letting go takes a while. The
// guards are in the supervisor's map: the stopping case of Ensure (without it a
// second connection is opened beside the one that is ending), and clearing next
// in remove (without it a speaker that nobody wants comes back).
func TestRC10CustodyFlaps(t *testing.T) {
	for _, tc := range []struct {
		name string
		gap  time.Duration
		clog bool // letting go takes 200 ms
		last Custody
		live int
	}{
		{"in one tick, then left alone", 0, false, CustodyObserve, 0},
		{"in one tick, then kept", 0, false, CustodyAuto, 1},
		{"in one tick, slowly, then left alone", 0, true, CustodyObserve, 0},
		{"in one tick, slowly, then kept", 0, true, CustodyAuto, 1},
		{"every 50 ms, then left alone", 50 * time.Millisecond, false, CustodyIgnore, 0},
		{"every 50 ms, then kept", 50 * time.Millisecond, false, CustodyHold, 1},
		{"every 50 ms, slowly, then left alone", 50 * time.Millisecond, true, CustodyIgnore, 0},
		{"every 50 ms, slowly, then kept", 50 * time.Millisecond, true, CustodyHold, 1},
	} {
		t.Run(tc.name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				h := newHouse(t)
				s := h.speaker("kitchen")
				s.capacity = 2 << 10
				s.announce()
				other := h.online("bath")
				pass(time.Minute)
				if tc.clog {
					s.clog()
				}
				custody := func(c Custody) {
					if _, err := h.Do(t.Context(), setCustody("kitchen", c)); err != nil {
						t.Fatal(err)
					}
					if tc.gap > 0 {
						pass(tc.gap)
					}
				}
				for range 100 {
					custody(CustodyObserve)
					custody(CustodyAuto)
				}
				custody(tc.last)
				dials := h.dialsTo(s.addr)
				for range 10 {
					pass(time.Minute)
					live, _, total := s.counts()
					if tc.clog {
						live-- // it has not heard the end of the first one
					}
					if live != tc.live || s.most != 1 || total > 102 {
						t.Fatalf("%d connections now, %d at once, %d in all; want %d, 1, at most 102", live, s.most, total, tc.live)
					}
				}
				if got := h.dialsTo(s.addr); tc.live == 0 && got != dials {
					t.Errorf("%d dials after the last word, want none", got-dials)
				}
				h.edges("kitchen") // alternate
				if got := h.edges("bath"); got != "up1" || other.line(0).isOver() {
					t.Errorf("the other speaker: edges %q, want up1", got)
				}
				if tc.live == 0 {
					h.want("kitchen", NotManaged, false)
				} else {
					h.want("kitchen", Connected, true)
				}
			})
		})
	}
}

// RC-10: forgotten and announced again, a hundred times, with choices made in
// between: the last announcement has one connection and none of the choices.
func TestRC10ForgetFlaps(t *testing.T) {
	bubble(t, func(t *testing.T) {
		h := newHouse(t)
		s := h.online("kitchen")
		for range 100 {
			h.must(SetPlayer{PID: "kitchen", MaxVolume: ptr(50), Name: ptr("Küche")})
			h.must(RemovePlayer{PID: "kitchen"})
			s.announce()
			pass(time.Second)
		}
		live, peak, _ := s.counts()
		if live != 1 || peak != 1 {
			t.Errorf("%d connections now, %d at once; want 1 each", live, peak)
		}
		if p := h.player("kitchen"); p.MaxVolume != 100 || p.Name != "kitchen" || p.Reconnects != 0 {
			t.Errorf("got maximum %d, name %q, %d reconnects; want a new player", p.MaxVolume, p.Name, p.Reconnects)
		}
		h.must(RemovePlayer{PID: "kitchen"})
		pass(10 * time.Minute)
		if live, _, _ := s.counts(); live != 0 || len(h.pids()) != 0 {
			t.Errorf("%d connections and players %v after it was forgotten, want none", live, h.pids())
		}
	})
}

// Two announcements that lead to one speaker make one connection, whichever
// way they come (races: B1), and it survives the loss of one of them.
func TestOneSpeakerTwoEndpoints(t *testing.T) {
	bubble(t, func(t *testing.T) {
		h := newHouse(t)
		a, b := h.speaker("kitchen"), h.speaker("kitchen") // two addresses, one client id
		a.announce()
		b.announce()
		pass(time.Minute)
		liveA, _, _ := a.counts()
		liveB, _, _ := b.counts()
		if liveA+liveB != 1 || len(h.pids()) != 1 {
			t.Fatalf("%d connections, players %v; want one of each", liveA+liveB, h.pids())
		}
		if got := h.edges("kitchen"); got != "up1" {
			t.Errorf("edges %q, want up1", got)
		}
		winner, other := a, b
		if liveB == 1 {
			winner, other = b, a
		}
		winner.powerOff() // its address is dead, the other one is not
		winner.withdraw()
		pass(10 * time.Second)
		h.want("kitchen", Connected, true)
		if live, _, _ := other.counts(); live != 1 {
			t.Errorf("%d connections over the other address, want 1", live)
		}
		if got := h.edges("kitchen"); got != "up1 down1 up2" {
			t.Errorf("edges %q, want up1 down1 up2", got)
		}
	})
}

// A second way to a speaker that is connected takes nothing from it, also when
// both ways are remembered as its own. The guard is the comparison of keys in
// onStatus; without it the attempt over the second way reads as a loss.
func TestSecondWayIsNoLoss(t *testing.T) {
	bubble(t, func(t *testing.T) {
		dir := t.TempDir()
		data := func(o *Options) { o.DataDir = dir }
		h := newHouse(t, data)
		a := h.online("kitchen")
		h.stop()
		h = newHouse(t, data)
		a2, b := h.speaker("kitchen"), h.speaker("kitchen")
		if a2.key != a.key || b.key == a.key {
			t.Fatalf("keys %s, %s and %s, want the first two the same", a.key, a2.key, b.key)
		}
		b.announce() // a way that is new
		synctest.Wait()
		h.want("kitchen", Connected, true)
		a2.announce() // the one that is remembered
		pass(time.Minute)
		h.want("kitchen", Connected, true)
		if got := h.edges("kitchen"); got != "up1" {
			t.Errorf("edges %q, want up1", got)
		}
	})
}

// We dial and they dial: one connection, in whatever order.
func TestBothDirections(t *testing.T) {
	for _, tc := range []struct {
		name string
		meet func(*speaker)
	}{
		{"they first", func(s *speaker) { s.dialIn(); synctest.Wait(); s.announce() }},
		{"we first", func(s *speaker) { s.announce(); synctest.Wait(); s.dialIn() }},
		{"in one tick", func(s *speaker) { s.announce(); s.dialIn() }},
		{"they, while we wait for their hello", func(s *speaker) {
			hello := s.hello
			s.set(func() { s.hello = "" })
			s.announce()
			pass(time.Second)
			s.set(func() { s.hello = hello })
			s.dialIn()
			pass(time.Second)
			s.line(0).send(hello)
		}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				h := newHouse(t)
				s := h.speaker("kitchen")
				tc.meet(s)
				pass(10 * time.Minute)
				if live, _, total := s.counts(); live != 1 || total > 3 {
					t.Errorf("%d connections now, %d in all; want 1 and at most 3", live, total)
				}
				h.want("kitchen", Connected, true)
				if got := h.pids(); len(got) != 1 {
					t.Errorf("players %v, want one", got)
				}
				if got := h.edges("kitchen"); got != "up1" {
					t.Errorf("edges %q, want up1", got)
				}
				h.must(setVolume("kitchen", 21))
				if got := s.commands(); fmt.Sprint(got) != "[volume=21]" {
					t.Errorf("commands %v, want the volume once", got)
				}
			})
		})
	}
}
