package chaos

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"resonatebridge/resonate"
	"resonatebridge/tests/internal/facts"
	"resonatebridge/tests/internal/scene"
)

// TestStressFlapping has every speaker come and go ten times a second, half of
// them dialling in, half of them dialled and announced and withdrawn as often.
// One is calm and keeps its session and its answers. Then all of them stay: each
// is connected once, and the broker says so.
func TestStressFlapping(t *testing.T) {
	n := stress(t)
	s, broker := newBridgeStand(t)
	speakers := 20
	if *long {
		speakers = 200
	}
	lasts := howLong(2 * time.Second)
	ctx, cancel := context.WithCancel(t.Context())
	var staying sync.WaitGroup
	defer staying.Wait()
	defer cancel()

	calm := s.box("calm")
	stay := func(b *box) { // until the test ends; turned away while its old connection is not known to be dead
		staying.Go(func() {
			for ctx.Err() == nil {
				_ = b.dialIn(ctx)
				time.Sleep(50 * time.Millisecond)
			}
		})
	}
	stay(calm)
	until(t, "the calm one is connected", func() bool { return s.connection(calm.id) == resonate.Connected })

	boxes := make([]*box, speakers)
	for i := range boxes {
		boxes[i] = s.box(fmt.Sprintf("speaker-%03d", i))
	}
	flapping, end := context.WithTimeout(ctx, lasts)
	defer end()
	var wg sync.WaitGroup
	var flaps, failed atomic.Int64
	began := time.Now()
	for i, b := range boxes {
		wg.Go(func() {
			tick := time.NewTicker(100 * time.Millisecond)
			defer tick.Stop()
			for k := i; flapping.Err() == nil; k++ {
				if i%2 == 0 {
					if err := b.flap(flapping, k%20 == 0); err != nil && flapping.Err() == nil {
						failed.Add(1)
					}
				} else {
					b.drop()
					b.withdraw()
					b.announce(true)
				}
				flaps.Add(1)
				select {
				case <-tick.C:
				case <-flapping.Done():
				}
			}
		})
	}
	var answers []time.Duration
	for volume := 0; flapping.Err() == nil; volume = (volume + 1) % 100 {
		began := time.Now()
		s.do(resonate.SetPlayer{PID: calm.id, Volume: &resonate.VolumeChange{Value: volume}})
		answers = append(answers, time.Since(began))
		time.Sleep(20 * time.Millisecond)
	}
	wg.Wait()
	elapsed := time.Since(began)

	began = time.Now()
	for i, b := range boxes {
		if i%2 == 0 {
			stay(b)
		} else {
			b.announce(true)
		}
	}
	boxes = append(boxes, calm)
	for _, b := range boxes {
		until(t, b.id+": connected once", func() bool { return s.connection(b.id) == resonate.Connected && b.live() == 1 })
	}
	settled := time.Since(began)
	until(t, "the broker has everybody online, and nobody else", func() bool {
		lies := disagreement(broker, boxes)
		if len(lies) > 0 {
			t.Log(strings.Join(lies[:min(len(lies), 5)], "\n"))
		}
		return len(lies) == 0
	})
	leaked(t, n)
	sessions := s.edges.ups("")
	if got := s.edges.ups(calm.id); got != 1 {
		t.Errorf("the calm speaker: got %d sessions, want one", got)
	}
	cancel()
	took := s.stop()
	if took > 5*time.Second {
		t.Errorf("the bridge took %v to stop, want 5 s at most", took)
	}
	for _, b := range boxes {
		b.want()
	}
	n.Add(fmt.Sprintf("comings and goings of %d speakers in %s, of 10 a second each", speakers, facts.Time(elapsed)), flaps.Load(), "")
	n.Add("of them turned away: the session before was not known to be dead yet", failed.Load(), "")
	n.Add("sessions that were up", sessions, "ups and downs in turn, one socket at a time")
	n.Add("commands to a calm speaker meanwhile: accepted after", answers, "")
	n.Add("all of them connected, once each, after the last", settled, "30 s")
	n.Add("the bridge stops after that", took, "5 s")
}

// disagreement is what the broker retains otherwise than that these speakers,
// and nobody else, are online.
func disagreement(broker *scene.Broker, boxes []*box) (lies []string) {
	retained := broker.Retained()
	known := map[string]bool{"bridge": true}
	for _, b := range boxes {
		known[b.id] = true
		for leaf, want := range map[string]string{"availability": "online", "connection": "connected", "volume": ""} {
			if got := retained[topic(b.id, leaf)]; got == "" || (want != "" && got != want) {
				lies = append(lies, fmt.Sprintf("%s of %s: got %q, want %q", leaf, b.id, got, want))
			}
		}
		if !json.Valid([]byte(retained[document(b.id)])) {
			lies = append(lies, b.id+": no discovery document")
		}
	}
	for name := range retained {
		id, ok := strings.CutPrefix(name, "resonate/player/")
		if !ok {
			id, ok = strings.CutPrefix(name, "homeassistant/device/resonate_")
		}
		if id, _, _ = strings.Cut(id, "/"); ok && !known[id] {
			lies = append(lies, name+": retained of nobody")
		}
	}
	return lies
}
