package chaos

import (
	"context"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"resonatebridge/resonate"
)

// TestStressOneSpeaker has 1,000 callers announce, withdraw, release, take,
// forget and nudge one speaker at once, round after round. There is never more
// than one socket to it, its ups and downs alternate, and the last word counts.
func TestStressOneSpeaker(t *testing.T) {
	n := stress(t)
	s := newStand(t)
	b := s.box("kitchen")
	const callers = 1000
	rounds, calls := 0, 0
	spread := []time.Duration{2 * time.Millisecond, 2 * time.Millisecond, 3 * time.Second, 3 * time.Second} // of a round
	began := time.Now()
	for ; rounds < 2 || time.Since(began) < howLong(0); rounds++ {
		start := make(chan struct{})
		var wg sync.WaitGroup
		for i := range callers {
			wg.Go(func() {
				<-start
				time.Sleep(rand.N(spread[rounds%len(spread)]))
				switch i % 8 {
				case 0, 1, 2:
					b.announce(i%3 == 0)
				case 3:
					b.withdraw()
				case 4:
					b.custody(resonate.CustodyObserve)
				case 5:
					b.custody(resonate.CustodyHold)
				case 6:
					s.do(resonate.RemovePlayer{PID: b.id})
				case 7:
					b.drop()
				}
			})
		}
		close(start)
		wg.Wait()
		calls += callers
		if rounds%2 == 0 {
			b.announce(true)
			b.custody(resonate.CustodyHold) // does nothing if it was forgotten: then it is new, and held
			until(t, "connected after the last word, "+s.rivals(), func() bool {
				return s.connection(b.id) == resonate.Connected && b.live() == 1
			})
			continue
		}
		b.withdraw()
		s.do(resonate.RemovePlayer{PID: b.id})
		before := s.dials.Load()
		until(t, "not connected after the last word", func() bool { return s.connection(b.id) != resonate.Connected && b.live() == 0 })
		time.Sleep(600 * time.Millisecond) // longer than the floor
		if got := s.dials.Load(); got != before || b.live() != 0 {
			t.Errorf("round %d: %d dials after it was removed", rounds, got-before)
		}
	}
	elapsed := time.Since(began)
	s.stop()
	b.want()
	const floor = 500 * time.Millisecond
	if most := int64(elapsed/floor) + 1; s.dials.Load() > most {
		t.Errorf("%d dials in %v, want %d at most", s.dials.Load(), elapsed, most)
	}
	n.Add("calls to announce, withdraw, release, take, forget or cut one speaker, 1,000 at once", calls, "")
	n.Add("dials", s.dials.Load(), "one in 500 ms")
	n.Add("sockets to it at once", b.dialled, "1")
	n.Add("its ups", s.edges.ups(b.id), "as many downs, in turn")
}

// TestStressBothDirections has speakers and server dial each other at the same
// moment, over and over. Each time one connection stays.
func TestStressBothDirections(t *testing.T) {
	n := stress(t)
	s := newStand(t)
	speakers := 8
	if *long {
		speakers = 40
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var wg sync.WaitGroup
	defer wg.Wait()
	boxes := make([]*box, speakers)
	for i := range boxes {
		boxes[i] = s.box("speaker-" + string(rune('a'+i%26)) + string(rune('a'+i/26)))
	}
	rounds := 0
	var took []time.Duration
	for began := time.Now(); rounds < 3 || time.Since(began) < howLong(0); rounds++ {
		start := make(chan struct{})
		for _, b := range boxes {
			wg.Go(func() {
				<-start
				time.Sleep(rand.N(3 * time.Millisecond))
				b.announce(true)
			})
			for range 3 { // a firmware that does not wait for its first attempt
				wg.Go(func() {
					<-start
					time.Sleep(rand.N(3 * time.Millisecond))
					_ = b.dialIn(ctx) // turned away, or served until the next round
				})
			}
		}
		at := time.Now()
		close(start)
		for _, b := range boxes {
			until(t, b.id+": one connection", func() bool { return s.connection(b.id) == resonate.Connected && b.live() == 1 })
		}
		took = append(took, time.Since(at))
		for _, b := range boxes {
			b.drop()
		}
	}
	for _, b := range boxes {
		b.custody(resonate.CustodyIgnore)
		b.drop()
	}
	cancel()
	s.stop()
	inbound := s.edges.ups("")
	for _, b := range boxes {
		b.want()
	}
	n.Add("rounds in which the server and speakers dial each other at once: all connected", took, "")
	n.Add("sessions", inbound, "one at a time per speaker")
}
