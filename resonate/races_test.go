package resonate

import (
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// RC-1: a connection that comes up after nobody wants it any more is closed,
// and nobody hears of it.
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
// The ends come in order, at most one is up, and it stays in its group.
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
// claims its id is sent away, as often as he tries (races: B29).
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

// RC-9: however many say at once that a speaker is there, it is dialled once.
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
// connections, and the last word holds.
func TestRC10CustodyFlaps(t *testing.T) {
	for _, tc := range []struct {
		name string
		gap  time.Duration
		last Custody
		live int
	}{
		{"in one tick, then left alone", 0, CustodyObserve, 0},
		{"in one tick, then kept", 0, CustodyAuto, 1},
		{"every 50 ms, then left alone", 50 * time.Millisecond, CustodyIgnore, 0},
		{"every 50 ms, then kept", 50 * time.Millisecond, CustodyHold, 1},
	} {
		t.Run(tc.name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				h := newHouse(t)
				s := h.online("kitchen")
				other := h.online("bath")
				for range 100 {
					h.must(setCustody("kitchen", CustodyObserve))
					pass(tc.gap)
					h.must(setCustody("kitchen", CustodyAuto))
					pass(tc.gap)
				}
				h.must(setCustody("kitchen", tc.last))
				for range 10 {
					pass(time.Minute)
					if live, peak, total := s.counts(); live != tc.live || peak != 1 || total > 102 {
						t.Fatalf("%d connections now, %d at once, %d in all; want %d, 1, at most 102", live, peak, total, tc.live)
					}
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
