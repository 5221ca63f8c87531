package resonate

import (
	"context"
	"encoding/json"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"resonatebridge/resonate/audio"
	"resonatebridge/timesync"
)

// station is a radio station whose programme changes after 4 s.
type station struct{ ramp }

func (s *station) Info() audio.Info {
	i := s.ramp.Info()
	if i.Tags.Title = "Morning"; s.next >= 4*48_000 {
		i.Tags.Title = "Noon"
	}
	return i
}

// titled is a speaker that shows what plays.
func (h *house) titled(id string) *speaker {
	s := h.speaker(id)
	s.hello = strings.Replace(s.hello, `["player@v1"]`, `["player@v1","metadata@v1"]`, 1)
	s.announce()
	pass(time.Second)
	return s
}

// toldMetadata is metadata as it is on the wire.
type toldMetadata struct {
	Timestamp timesync.Micros
	Title     string
	Progress  *struct {
		Position int `json:"track_progress"`
		Speed    int `json:"playback_speed"`
	}
}

// metadata is what a line was told, in order.
func (l *line) metadata(t *testing.T) (out []toldMetadata) {
	t.Helper()
	for _, m := range l.messages("server/state") {
		var st struct{ Metadata *toldMetadata }
		if err := json.Unmarshal([]byte(m), &st); err != nil {
			t.Fatal(err)
		}
		if st.Metadata != nil {
			out = append(out, *st.Metadata)
		}
	}
	return out
}

// What plays is told with the time at which it is heard, ahead of it where it is
// known ahead, and shown to people when it is.
func TestMetadataComesWithItsSound(t *testing.T) {
	for name, urls := range map[string][]string{
		"queue": {"http://x/Morning", "http://x/Noon"},
		"radio": {"http://x/radio"},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				h := newHouse(t, library(map[string]*ramp{
					"http://x/Morning": {frames: 4 * 48_000, rate: 48_000, tags: audio.Tags{Title: "Morning"}},
					"http://x/Noon":    {frames: 60 * 48_000, rate: 48_000, tags: audio.Tags{Title: "Noon"}},
				}), func(o *Options) {
					others := o.OpenMedia
					o.OpenMedia = func(ctx context.Context, url string) (audio.Source, error) {
						if url == "http://x/radio" {
							return &station{ramp{frames: 60 * 48_000, rate: 48_000}}, nil
						}
						return others(ctx, url)
					}
				})
				s := h.titled("a")
				l := s.line(-1)
				cmd := PlayMedia{Target: Target{PID: "a"}}
				for _, u := range urls {
					cmd.Items = append(cmd.Items, MediaItem{URL: u})
				}
				h.must(cmd)
				synctest.Wait()
				_, stamps := l.frames(t)
				begin := timesync.Micros(stamps[0])
				got := l.metadata(t)
				if n := len(got); n != 2 || got[0].Title != "" || got[1].Title != "Morning" || got[1].Timestamp != begin || got[1].Progress.Position != 0 || got[1].Progress.Speed != 1000 {
					t.Fatalf("as it begins: got %+v, want nothing, and then Morning as of %d", got, begin)
				}
				turn := begin + 4_000_000
				until := func(at timesync.Micros) {
					pass(time.Duration(at-h.opts.Clock.Now()) * time.Microsecond)
				}
				until(turn - 600_000)
				if n := len(l.metadata(t)); n != 2 {
					t.Errorf("600 ms before the turn it was told %d times, want 2: titles of that time are no news yet", n)
				}
				until(turn - 400_000)
				got = l.metadata(t)
				at := 0 // position of what comes: in a new item, or in the same one
				if name == "radio" {
					at = 3936 // the block in which the title changes
				}
				if x := got[len(got)-1]; len(got) != 3 || x.Title != "Noon" || x.Timestamp < turn-96_000 || x.Timestamp > turn || x.Progress.Position != at {
					t.Fatalf("400 ms before the turn: got %+v, want Noon from %d on, at %d ms", got, turn, at)
				}
				heard := got[2].Timestamp
				until(heard - 1000)
				if got := h.group("a").Media.Title; got != "Morning" {
					t.Errorf("before the turn people see %q", got)
				}
				until(heard + 1000)
				if got := h.group("a").Media.Title; got != "Noon" {
					t.Errorf("after the turn people see %q", got)
				}
				// Who joins is told at once, in words that hold already.
				b := h.titled("b")
				h.must(SetPlayer{PID: "b", Group: &GroupTarget{With: "a"}})
				pass(time.Second)
				now := h.opts.Clock.Now()
				got = b.line(-1).metadata(t)
				x := got[len(got)-1]
				if pos := x.Progress.Position + int(now-x.Timestamp)/1000; got[0].Timestamp > now || x.Title != "Noon" || pos < at+2000 || pos > at+2100 {
					t.Errorf("who joins: got %+v, which is %d ms now, want %d", got, pos, at+2001)
				}
				if n := len(l.metadata(t)); n != 3 {
					t.Errorf("the first one was told %d times, want 3", n)
				}
			})
		})
	}
}

// A title that was told ahead is taken back if something comes between.
func TestMetadataIsTakenBack(t *testing.T) {
	bubble(t, func(t *testing.T) {
		h := newHouse(t, library(map[string]*ramp{
			"http://x/a": {frames: 4 * 48_000, rate: 48_000, tags: audio.Tags{Title: "a"}},
			"http://x/b": {frames: 4 * 48_000, rate: 48_000, tags: audio.Tags{Title: "b"}},
		}))
		l := h.titled("a").line(-1)
		h.must(PlayMedia{Target: Target{PID: "a"}, Items: []MediaItem{{URL: "http://x/a"}, {URL: "http://x/b"}}})
		_, stamps := l.frames(t)
		pass(time.Duration(timesync.Micros(stamps[0])+3_700_000-h.opts.Clock.Now()) * time.Microsecond)
		if got := l.metadata(t); got[len(got)-1].Title != "b" {
			t.Fatalf("got %+v, want b told ahead", got)
		}
		h.must(act("a", ActionPause))
		pass(time.Second)
		got := l.metadata(t)
		if x := got[len(got)-1]; x.Title != "a" || x.Timestamp > h.opts.Clock.Now() || x.Progress.Speed != 0 || x.Progress.Position < 3600 || x.Progress.Position > 3700 {
			t.Errorf("after the pause: got %+v, want a at 3.7 s", got)
		}
	})
}

// A client that comes while something begins is told what holds now, and then
// when it sounds.
func TestMetadataOfWhoComesEarly(t *testing.T) {
	bubble(t, func(t *testing.T) {
		h := newHouse(t, library(map[string]*ramp{"http://x/a": {frames: 10 * 48_000, rate: 48_000, tags: audio.Tags{Title: "a"}}}))
		s := h.speaker("a")
		s.hello = strings.Replace(s.hello, `["player@v1"]`, `["player@v1","metadata@v1"]`, 1)
		s.state = func() string {
			return `{"type":"client/state","payload":{"state":"synchronized","player":{"volume":40,"muted":false,"required_lead_time_ms":8000,"min_buffer_ms":500}}}`
		}
		s.announce()
		synctest.Wait()
		h.must(playURL("a", "http://x/a"))
		pass(time.Second)
		s.reset()
		pass(3 * time.Second)
		l := s.line(-1)
		got := l.metadata(t)
		if len(got) != 1 || got[0].Title != "a" || got[0].Timestamp > h.opts.Clock.Now() || got[0].Progress.Speed != 0 || got[0].Progress.Position != 0 {
			t.Fatalf("before it sounds: got %+v, want a, which stands at 0", got)
		}
		pass(6 * time.Second)
		_, stamps := s.line(0).frames(t)
		got = l.metadata(t)
		if x := got[len(got)-1]; len(got) != 2 || x.Progress.Speed != 1000 || x.Progress.Position > 1 || x.Timestamp < timesync.Micros(stamps[0]) || x.Timestamp > timesync.Micros(stamps[0])+1000 {
			t.Errorf("when it sounds: got %+v, want that it plays from %d on", got, stamps[0])
		}
	})
}
