package stream

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"resonatebridge/resonate/protocol"
)

// Whatever happens, what every player gets is the timeline: in each stretch
// between two clears or ends all players of one rate play the same frame at the
// same time, none gets a frame twice or misses one unless it was too slow, and each
// stretch begins as far ahead as its player asks.
func TestEveryPlayerHearsTheTimeline(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		steps := rapid.SliceOfN(rapid.Custom(drawStep), 5, 40).Draw(rt, "steps") // before the bubble: rapid ends a draw by a panic
		var problem error
		synctest.Test(t, func(t *testing.T) { problem = perform(t, steps) })
		if problem != nil {
			rt.Fatal(problem)
		}
	})
}

// step is one thing that happens, and how much time goes by after it.
type step struct {
	Op, Player, Format, Capacity, Lead, Value int
	After                                     time.Duration
}

func drawStep(rt *rapid.T) step {
	return step{
		Op: rapid.IntRange(0, 9).Draw(rt, "op"), Player: rapid.IntRange(0, 3).Draw(rt, "player"),
		Format: rapid.IntRange(0, 1).Draw(rt, "format"), Capacity: rapid.SampledFrom([]int{90_000, 1 << 20, 4 << 20}).Draw(rt, "capacity"),
		Lead:  rapid.SampledFrom([]int{0, 400, 3000}).Draw(rt, "lead"),
		Value: rapid.IntRange(0, 7000).Draw(rt, "value"), After: time.Duration(rapid.IntRange(1, 4000).Draw(rt, "ms")) * time.Millisecond,
	}
}

func perform(t *testing.T, steps []step) error {
	r := newRoom(t)
	for i, name := range []string{"a", "b", "c"} {
		r.source(name, int32(i+1), 48_000, time.Duration(7+3*i)*time.Second)
		open := r.sources[name]
		r.sources[name] = func(ctx context.Context) (Source, error) {
			time.Sleep(time.Microsecond) // what was due before a jump is sent before it
			return open(ctx)
		}
	}
	formats := []protocol.Format{pcm48, {Codec: "opus", Channels: 2, SampleRate: 48_000, BitDepth: 16}}
	var everyone []*ear
	here, slow, lead := map[string]bool{}, map[*ear]bool{}, map[*ear]micros{}
	var restarts []micros
	for _, s := range steps {
		pass(1137 * time.Microsecond) // never at the same microsecond as a chunk
		restart := r.clock.Now()
		if s.Op == 4 || s.Op == 7 || s.Op == 8 {
			restart++ // the source has to be opened
		}
		restarts = append(restarts, restart)
		id := string(rune('k' + s.Player))
		switch s.Op {
		case 0, 1:
			if !here[id] {
				everyone = append(everyone, r.player(id, func(p *Player) {
					p.Formats, p.Capacity, p.RequiredLeadMs = formats[s.Format:][:1], s.Capacity, s.Lead
				}))
				here[id] = true
				lead[r.ears[id]] = micros(max(s.Lead, 200)) * 1000 // or its least buffer
			}
		case 2:
			r.without(id)
			here[id] = false
		case 3:
			for i := range r.players {
				if r.players[i].ID == id {
					r.players[i].Formats = formats[s.Format:][:1]
				}
			}
			r.SetPlayers(slices.Clone(r.players))
		case 4:
			r.ok(func(reply func(error)) { r.Play([]Item{{URL: "a"}, {URL: "b"}, {URL: "c"}}, s.Value%3, reply) })
		case 5:
			_ = r.do1(r.Pause) // nothing may be loaded; likewise below
		case 6:
			_ = r.do1(r.Resume)
		case 7:
			_ = r.do1(func(reply func(error)) { r.Seek(time.Duration(s.Value)*time.Millisecond, reply) })
		case 8:
			_ = r.do1(r.Next)
		case 9:
			if e := r.ears[id]; e != nil && here[id] {
				e.mu.Lock()
				e.full = !e.full
				e.mu.Unlock()
				slow[e] = true
			}
		}
		pass(s.After)
	}
	pass(time.Minute)
	return checkTimeline(everyone, restarts, slow, lead)
}

// stretch is what was sent from one restart of the timeline to the next.
type stretch struct {
	number int
	item   int32
}

func checkTimeline(everyone []*ear, restarts []micros, slow map[*ear]bool, lead map[*ear]micros) error {
	anchors := map[stretch]int64{} // frame minus time, the same for all who play the item
	for n, e := range everyone {
		var last *sound
		open := false
		for _, m := range e.got {
			switch m := m.(type) {
			case protocol.StreamStart:
				open = true
			case protocol.StreamClear, protocol.StreamEnd:
				if !open {
					return fmt.Errorf("player %d: %T without a stream", n, m)
				}
				last = nil
				_, ended := m.(protocol.StreamEnd)
				open = !ended
			case sound:
				switch {
				case !open:
					return fmt.Errorf("player %d: audio without a stream", n)
				case m.sent > m.at:
					return fmt.Errorf("player %d: a chunk was sent %d us after its time", n, m.sent-m.at)
				case last == nil && m.at-m.sent < lead[e] && !slow[e]:
					return fmt.Errorf("player %d: its stream begins %d us ahead, want %d", n, m.at-m.sent, lead[e])
				case last != nil && m.at != last.end && (m.at < last.end || !slow[e]):
					return fmt.Errorf("player %d: chunk at %d follows one that ended at %d", n, m.at, last.end)
				}
				number, _ := slices.BinarySearch(restarts, m.sent+1)
				for i, v := range m.pcm {
					if v == 0 {
						continue // padding of a codec
					}
					key := stretch{number, v >> 24}
					anchor := int64(v&0xffffff) - (int64(m.at)*48+500)/1000 - int64(i)
					if was, ok := anchors[key]; ok && (anchor-was > 1 || was-anchor > 1) {
						return fmt.Errorf("player %d: at %d it plays item %d frame %d, others play frame %d then", n, m.at, v>>24, v&0xffffff, int64(v&0xffffff)+was-anchor)
					} else if !ok {
						anchors[key] = anchor
					}
				}
				last = &m
			}
		}
	}
	return nil
}
