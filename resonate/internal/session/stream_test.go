package session

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"resonatebridge/resonate/internal/stream"
	"resonatebridge/resonate/protocol"
)

// sound is a chunk that is due in a minute.
func sound(r *running) *stream.Chunk {
	return &stream.Chunk{Timestamp: r.opts.Clock.Now() + 60_000_000, Data: make([]byte, 64)}
}

// A player that reads nothing loses audio and no more: what waits for it is
// bounded, nobody waits for it, and what says where a stream begins and ends
// still finds its place (races: X3, B8).
func TestAudioIsBounded(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r, p := live(t)
		clog(t, r)
		taken := 0
		for range 10 * streamQueue {
			if r.Audio(sound(r)) {
				taken++
			}
		}
		if want := streamQueue - streamSpare; taken != want || r.isOver() {
			t.Errorf("%d chunks were taken, over: %v; want %d, false", taken, r.isOver(), want)
		}
		for range streamSpare {
			must(t, "stream", r.Stream(protocol.StreamStart{}), nil)
		}
		must(t, "one message too many", r.Stream(protocol.StreamStart{}), ErrSlow)
		must(t, "run", r.result(), ErrSlow)
		if r.Audio(sound(r)) || !errors.Is(r.Stream(protocol.StreamStart{}), ErrGone) {
			t.Error("something was taken after the end")
		}
		_ = p
	})
}

// Audio that waits in front of a clear or an end is dropped, what comes behind
// it is not, and the order of the two stays (races: G9). A chunk of the old
// stream after it would be played in the new one.
func TestClearDropsWhatWaits(t *testing.T) {
	player := []protocol.Role{protocol.RolePlayer}
	for _, tc := range []struct {
		name string
		m    protocol.ServerMessage
		typ  string
	}{
		{"clear", protocol.StreamClear{Roles: player}, "stream/clear"},
		{"end", protocol.StreamEnd{Roles: player}, "stream/end"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				r, p := live(t)
				clog(t, r)
				for range 5 {
					if !r.Audio(sound(r)) {
						t.Fatal("no room for a chunk")
					}
				}
				must(t, "stream", r.Stream(tc.m), nil)
				for range 2 {
					if !r.Audio(sound(r)) {
						t.Fatal("no room for a chunk")
					}
				}
				must(t, "send", r.Send(says("", "command")), nil) // goes before all of it
				p.listen()
				synctest.Wait()
				got := p.types()[2:] // after the hello and what clogged
				if want := []string{"group/update", tc.typ, "binary", "binary"}; !slices.Equal(got, want) {
					t.Errorf("frames %v, want %v", got, want)
				}
				if got := r.Written(); got != 7 {
					t.Errorf("%d chunks count as written, want 7: what was dropped waits for nothing", got)
				}
			})
		})
	}
}

// A chunk whose time has come while it waited is dropped: it would only delay
// what follows.
func TestLateAudioIsDropped(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r, p := live(t)
		clog(t, r)
		late, good := sound(r), sound(r)
		late.Timestamp = r.opts.Clock.Now() + 1_000_000
		for _, c := range []*stream.Chunk{late, good} {
			if !r.Audio(c) {
				t.Fatal("no room for a chunk")
			}
		}
		pass(2 * time.Second)
		p.listen()
		synctest.Wait()
		if got := strings.Count(fmt.Sprint(p.types()), "binary"); got != 1 || r.Written() != 2 {
			t.Errorf("%d chunks came, %d count as written; want 1 and 2", got, r.Written())
		}
	})
}

// What a visualizer shows has a queue of its own: it is bounded, dropped with a
// clear or when its time has come, and takes no room from audio.
func TestVisualsStandBesideAudio(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r, p := live(t)
		clog(t, r)
		frame := func(in time.Duration) protocol.VisualizerFrame {
			return protocol.VisualizerFrame{Type: protocol.VisualizerLoudness, Timestamp: r.opts.Clock.Now() + micros(in.Microseconds())}
		}
		must(t, "start", r.Stream(protocol.StreamStart{Visualizer: &protocol.StreamVisualizer{}}), nil)
		taken := 1
		for range 10 * streamQueue {
			if r.Visual(frame(time.Minute)) {
				taken++
			}
		}
		if want := streamQueue - streamSpare; taken != want || r.isOver() {
			t.Errorf("%d frames were taken, over: %v; want %d, false", taken, r.isOver(), want)
		}
		if !r.Audio(sound(r)) {
			t.Error("there is no room for audio")
		}
		must(t, "clear", r.Stream(protocol.StreamClear{Roles: []protocol.Role{protocol.RoleVisualizer}}), nil)
		p.listen()
		synctest.Wait()
		clear := slices.Index(p.types(), "stream/clear")
		if got := strings.Count(fmt.Sprint(p.types()), "binary"); got != 1 || clear < 0 {
			t.Errorf("got %v, want the chunk and the clear", p.types())
		}
		p.link.Freeze()
		for _, f := range []protocol.VisualizerFrame{frame(0), frame(time.Minute)} {
			if !r.Visual(f) {
				t.Error("there is no room for a frame")
			}
		}
		p.link.Thaw()
		synctest.Wait()
		if got := strings.Count(fmt.Sprint(p.types()), "binary"); got != 2 {
			t.Errorf("%d binary frames came, want the chunk and the frame that was not late", got)
		}
	})
}
