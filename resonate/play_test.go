package resonate

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"resonatebridge/resonate/audio"
	"resonatebridge/resonate/protocol"
)

// ramp is a source whose 16-bit samples count, from first on.
type ramp struct {
	next, frames int64
	rate         int
	tags         audio.Tags
	picture      []byte
	live         bool
}

func (r *ramp) Info() audio.Info {
	return audio.Info{Rate: r.rate, Frames: r.frames, Seekable: !r.live, Live: r.live, Tags: r.tags, Picture: r.picture}
}

func (r *ramp) Read(dst []int32) (int, error) {
	n := int(min(int64(len(dst)/2), r.frames-r.next))
	if n == 0 {
		return 0, io.EOF
	}
	for i := range n {
		dst[2*i] = sample(r.next)
		dst[2*i+1] = -dst[2*i]
		r.next++
	}
	return n, nil
}

func (r *ramp) SeekFrame(f int64) error { r.next = min(f, r.frames); return nil }
func (r *ramp) Close() error            { return nil }

// sample is what frame n of a ramp holds in its left channel.
func sample(n int64) int32 { return int32(n%30_011) << 16 }

// library serves ramps by URL: "http://x/NAME?seconds".
func library(items map[string]*ramp) func(*Options) {
	return func(o *Options) {
		o.OpenMedia = func(_ context.Context, url string) (audio.Source, error) {
			if r, ok := items[url]; ok {
				c := *r
				return &c, nil
			}
			return nil, fmt.Errorf("%w: there is no %s", audio.ErrUnreachable, url)
		}
	}
}

// frames are the left samples of the audio that a line got, and the time stamp
// of each frame.
func (l *line) frames(t *testing.T) (left []int16, stamps []int64) {
	t.Helper()
	l.s.mu.Lock()
	defer l.s.mu.Unlock()
	for _, f := range l.audio {
		if f[0] >= 8 && f[0] < 12 {
			continue // a picture
		}
		if f[0] != 4 {
			t.Fatalf("a binary frame begins with %d, want 4", f[0])
		}
		stamps = append(stamps, int64(binary.BigEndian.Uint64(f[1:])))
		for b := f[9:]; len(b) > 0; b = b[4:] {
			left = append(left, int16(binary.LittleEndian.Uint16(b)))
		}
	}
	return left, stamps
}

func wantRamp(t *testing.T, left []int16, first, n int64) {
	t.Helper()
	if int64(len(left)) != n {
		t.Fatalf("got %d frames, want %d", len(left), n)
	}
	for i, v := range left {
		if want := int16(sample(first+int64(i)) >> 16); v != want {
			t.Fatalf("frame %d: got %d, want %d", i, v, want)
		}
	}
}

func playURL(pid, url string) PlayMedia {
	return PlayMedia{Target: Target{PID: pid}, Items: []MediaItem{{URL: url}}}
}

func act(pid string, a Action) Transport { return Transport{Target: Target{PID: pid}, Action: a} }

func TestPlayToAGroup(t *testing.T) {
	bubble(t, func(t *testing.T) {
		h := newHouse(t, library(map[string]*ramp{"http://x/a": {
			frames: 480_000, rate: 48_000, tags: audio.Tags{Title: "One", Artist: "Two", Album: "Three"},
		}}))
		a, b := h.online("a"), h.online("b")
		h.must(SetPlayer{PID: "b", Group: &GroupTarget{With: "a"}})
		h.must(playURL("a", "http://x/a"))
		g := h.group("b")
		if g.Playback != Playing || g.Media == nil || g.Media.Title != "One" || g.Media.Duration != 10*time.Second {
			t.Errorf("while it plays: got %s, %+v", g.Playback, g.Media)
		}
		if got := a.line(-1).last("group/update"); !strings.Contains(got, `"playing"`) {
			t.Errorf("the speaker was told %s", got)
		}
		pass(12 * time.Second)
		left, stamps := a.line(-1).frames(t)
		wantRamp(t, left, 0, 480_000)
		left, other := b.line(-1).frames(t)
		wantRamp(t, left, 0, 480_000)
		if !slices.Equal(stamps, other) {
			t.Error("the time stamps of the two differ")
		}
		for i := 1; i < len(stamps); i++ {
			if stamps[i]-stamps[i-1] != 96_000 {
				t.Errorf("time stamp %d is %d us after the one before", i, stamps[i]-stamps[i-1])
			}
		}
		got := strings.Join(kinds(a.line(-1)), " ")
		if want := "stream/start audio stream/end"; got != want {
			t.Errorf("got %s, want %s", got, want)
		}
		if g := h.group("a"); g.Playback != Idle || g.Media != nil {
			t.Errorf("afterwards: got %s, %+v", g.Playback, g.Media)
		}
	})
}

// Two groups play two sources, and what is done in one is not heard in the other.
func TestTwoGroupsPlayTwoSources(t *testing.T) {
	bubble(t, func(t *testing.T) {
		const second, other = 48_000, 10_000 // frames; the two begin with different samples
		h := newHouse(t, library(map[string]*ramp{
			"http://x/one": {frames: 20 * second, rate: second},
			"http://x/two": {next: other, frames: 100 * second, rate: second},
		}))
		line := map[string]*line{}
		for _, id := range []string{"a", "b", "c", "d"} {
			line[id] = h.online(id).line(-1)
		}
		h.must(SetPlayer{PID: "b", Group: &GroupTarget{With: "a"}})
		h.must(SetPlayer{PID: "d", Group: &GroupTarget{With: "c"}})
		h.must(playURL("a", "http://x/one"))
		pass(time.Second)
		h.must(playURL("c", "http://x/two"))
		pass(2 * time.Second)
		both := func(want int64) { // c and d go on with this sample of theirs
			t.Helper()
			for _, id := range []string{"c", "d"} {
				left, _ := line[id].frames(t)
				wantRamp(t, left, want, int64(len(left)))
				if len(left) < second {
					t.Errorf("%s has got %d frames of it", id, len(left))
				}
				line[id].s.set(func() { line[id].audio = nil })
			}
		}
		both(other)
		h.must(act("c", ActionPause))
		paused := h.group("c").Media.Position
		pass(2 * time.Second)
		h.must(act("c", ActionPlay))
		pass(2 * time.Second)
		both(other + int64(paused*second/time.Second))
		h.must(Transport{Target: Target{PID: "d"}, Action: ActionSeek, Position: 50 * time.Second})
		pass(2 * time.Second)
		both(50 * second)
		h.must(act("d", ActionStop))
		if g := h.group("a"); g.Playback != Playing || h.group("c").Playback != Stopped {
			t.Errorf("a stop in one group: the other is %s, itself %s", g.Playback, h.group("c").Playback)
		}
		pass(20 * time.Second)
		for _, id := range []string{"a", "b"} {
			left, stamps := line[id].frames(t)
			wantRamp(t, left, 0, 20*second)
			for i := 1; i < len(stamps); i++ {
				if stamps[i]-stamps[i-1] != 96_000 {
					t.Errorf("%s: chunk %d is %d us after the one before", id, i, stamps[i]-stamps[i-1])
				}
			}
			if got := kinds(line[id]); !slices.Equal(got, []string{"stream/start", "audio", "stream/end"}) {
				t.Errorf("%s was told %v", id, got)
			}
		}
	})
}

// Thirty players of four formats cost four encoders, which a counter shows.
func TestEncodedOncePerFormatIsCounted(t *testing.T) {
	bubble(t, func(t *testing.T) {
		h := newHouse(t, library(map[string]*ramp{"http://x/a": {frames: 96 * 480, rate: 48_000}}))
		first := ""
		for i := range 30 {
			s := h.speaker(fmt.Sprintf("s%02d", i))
			s.hello = strings.Replace(s.hello, `"codec":"pcm","channels":2,"sample_rate":48000,"bit_depth":16`, []string{
				`"codec":"pcm","channels":2,"sample_rate":48000,"bit_depth":16`,
				`"codec":"pcm","channels":2,"sample_rate":48000,"bit_depth":24`,
				`"codec":"flac","channels":2,"sample_rate":48000,"bit_depth":16`,
				`"codec":"flac","channels":2,"sample_rate":48000,"bit_depth":24`,
			}[i%4], 1)
			s.announce()
			synctest.Wait()
			if first == "" {
				first = s.id
				continue
			}
			h.must(SetPlayer{PID: s.id, Group: &GroupTarget{With: first}})
		}
		h.must(playURL(first, "http://x/a"))
		pass(5 * time.Second)
		if got := h.Counters(); got.Encoded != 40 || got.Missed != 0 {
			t.Errorf("10 chunks for 30 players of four formats: encoded %d times, %d missed; want 40 and none", got.Encoded, got.Missed)
		}
	})
}

// kinds are the kinds of the frames around a stream, runs as one.
func kinds(l *line) (out []string) {
	l.s.mu.Lock()
	defer l.s.mu.Unlock()
	for _, m := range l.got {
		typ, _, _ := strings.Cut(m, " ")
		if (strings.HasPrefix(typ, "stream/") || typ == "audio") && (len(out) == 0 || out[len(out)-1] != typ) {
			out = append(out, typ)
		}
	}
	return out
}

func TestTransportCommands(t *testing.T) {
	bubble(t, func(t *testing.T) {
		items := map[string]*ramp{}
		for _, n := range []string{"a", "b", "c"} {
			items["http://x/"+n] = &ramp{frames: 48_000 * 60, rate: 48_000, tags: audio.Tags{Title: n}}
		}
		items["http://x/empty"] = &ramp{rate: 48_000}
		h := newHouse(t, library(items))
		s := h.online("a")
		h.mustFail(act("a", ActionPlay), CodeNotSupported) // nothing was ever loaded
		h.mustFail(playURL("a", "http://x/none"), CodeMediaUnreachable)
		h.mustFail(playURL("a", "http://x/empty"), CodeMediaUnsupported)
		if g := h.group("a"); g.Playback != Idle {
			t.Errorf("after a failure: got %s", g.Playback)
		}
		h.must(PlayMedia{Target: Target{PID: "a"}, Items: []MediaItem{{URL: "http://x/a"}, {URL: "http://x/b", Title: "given"}, {URL: "http://x/c"}}})
		pass(5 * time.Second)
		title := func() string { return h.group("a").Media.Title }
		h.must(act("a", ActionNext))
		if got := title(); got != "given" {
			t.Errorf("next: got %q, want the title that was given", got)
		}
		h.must(act("a", ActionPrevious))
		if got := title(); got != "a" {
			t.Errorf("previous: got %q, want a", got)
		}
		h.must(Transport{Target: Target{PID: "a"}, Action: ActionSeek, Position: 30 * time.Second})
		h.must(act("a", ActionPause))
		if g := h.group("a"); g.Playback != Paused || g.Media.Speed != 0 {
			t.Errorf("pause: got %s, %+v", g.Playback, g.Media)
		}
		h.must(act("a", ActionPlay))
		pass(2 * time.Second)
		if g := h.group("a"); g.Playback != Playing || g.Media.Position.Round(time.Second) != 30*time.Second {
			t.Errorf("after seek, pause and play: got %s at %v, want playing at 30 s", g.Playback, g.Media.Position)
		}
		h.must(Transport{Target: Target{PID: "a"}, Action: ActionRepeat, Repeat: protocol.RepeatAll})
		h.must(Transport{Target: Target{PID: "a"}, Action: ActionShuffle, Shuffle: true})
		if m := h.group("a"); m.Repeat != protocol.RepeatAll || !m.Shuffle {
			t.Errorf("got repeat %s, shuffle %v", m.Repeat, m.Shuffle)
		}
		h.mustFail(playURL("a", "http://x/none"), CodeMediaUnreachable)
		if g := h.group("a"); g.Playback != Playing || g.Media.Title != "a" {
			t.Errorf("a failure while something plays: got %s, %+v", g.Playback, g.Media)
		}
		h.must(act("a", ActionStop))
		if g := h.group("a"); g.Playback != Stopped {
			t.Errorf("stop: got %s", g.Playback)
		}
		if got := kinds(s.line(-1)); got[len(got)-1] != "stream/end" {
			t.Errorf("stop: the speaker was told %v", got)
		}
	})
}

func TestMediaIsRememberedOverRestarts(t *testing.T) {
	bubble(t, func(t *testing.T) {
		dir := t.TempDir()
		lib := library(map[string]*ramp{"http://x/a": {frames: 480_000, rate: 48_000}})
		h := newHouse(t, lib, func(o *Options) { o.DataDir = dir })
		h.online("a")
		h.must(playURL("a", "http://x/a"))
		pass(2 * time.Second)
		h.stop()
		h = newHouse(t, lib, func(o *Options) { o.DataDir = dir })
		h.online("a")
		// Its modes can be chosen while nothing plays, and are kept too.
		h.must(Transport{Target: Target{PID: "a"}, Action: ActionRepeat, Repeat: protocol.RepeatAll})
		if got := h.group("a").Repeat; got != protocol.RepeatAll {
			t.Errorf("repeat while nothing plays: got %q, want all", got)
		}
		h.stop()
		h = newHouse(t, lib, func(o *Options) { o.DataDir = dir })
		s := h.online("a")
		if got := h.group("a").Repeat; got != protocol.RepeatAll {
			t.Errorf("repeat after a restart: got %q, want all", got)
		}
		h.must(Transport{Target: Target{PID: "a"}, Action: ActionRepeat, Repeat: protocol.RepeatOff})
		h.must(act("a", ActionPlay))
		pass(12 * time.Second)
		left, _ := s.line(-1).frames(t)
		wantRamp(t, left, 0, 480_000)
	})
}

func TestControllerPlays(t *testing.T) {
	bubble(t, func(t *testing.T) {
		h := newHouse(t, library(map[string]*ramp{"http://x/a": {frames: 4_800_000, rate: 48_000}}))
		s := h.speaker("a")
		s.hello = strings.Replace(s.hello, `["player@v1"]`, `["player@v1","controller@v1","metadata@v1"]`, 1)
		s.announce()
		synctest.Wait()
		l := s.line(-1)
		offers := func(cmd string) bool {
			var c struct {
				Controller struct {
					Commands []string `json:"supported_commands"`
				}
			}
			for _, m := range l.messages("server/state") {
				if strings.Contains(m, `"controller"`) {
					_ = json.Unmarshal([]byte(m), &c)
				}
			}
			return slices.Contains(c.Controller.Commands, cmd)
		}
		if offers("play") || offers("pause") {
			t.Error("play and pause are offered while nothing is loaded")
		}
		h.must(playURL("a", "http://x/a"))
		if !offers("pause") || offers("next") {
			t.Error("with one item: pause is not offered, or next is")
		}
		press := func(cmd string) {
			l.send(`{"type":"client/command","payload":{"controller":{"command":"` + cmd + `"}}}`)
			synctest.Wait()
		}
		press("pause")
		if g := h.group("a"); g.Playback != Paused {
			t.Errorf("the button pause: got %s", g.Playback)
		}
		press("play")
		if g := h.group("a"); g.Playback != Playing {
			t.Errorf("the button play: got %s", g.Playback)
		}
		press("stop")
		if g := h.group("a"); g.Playback != Stopped {
			t.Errorf("the button stop: got %s", g.Playback)
		}
	})
}

// All buttons of a controller do what they say.
func TestControllerButtons(t *testing.T) {
	bubble(t, func(t *testing.T) {
		h := newHouse(t, library(map[string]*ramp{
			"http://x/a": {frames: 48_000 * 60, rate: 48_000}, "http://x/b": {frames: 48_000 * 60, rate: 48_000},
		}))
		s := h.speaker("a")
		s.hello = strings.Replace(s.hello, `["player@v1"]`, `["player@v1","controller@v1"]`, 1)
		s.announce()
		synctest.Wait()
		h.must(PlayMedia{Target: Target{PID: "a"}, Items: []MediaItem{{URL: "http://x/a"}, {URL: "http://x/b"}}})
		pass(time.Second)
		for _, c := range []struct {
			press string
			ok    func(m *groupMedia, at time.Duration) bool
		}{
			{`"next"`, func(m *groupMedia, _ time.Duration) bool { return m.Index == 1 }},
			{`"previous"`, func(m *groupMedia, _ time.Duration) bool { return m.Index == 0 }},
			{`"seek","position_ms":30000`, func(_ *groupMedia, at time.Duration) bool { return at.Round(time.Second) == 30*time.Second }},
			{`"seek_relative","offset_ms":-10000`, func(_ *groupMedia, at time.Duration) bool { return at.Round(2*time.Second) == 20*time.Second }},
			{`"seek","position_ms":90000`, func(_ *groupMedia, at time.Duration) bool { return at < 30*time.Second }}, // beyond the end: ignored
			{`"repeat_one"`, func(m *groupMedia, _ time.Duration) bool { return m.Repeat == protocol.RepeatOne }},
			{`"repeat_all"`, func(m *groupMedia, _ time.Duration) bool { return m.Repeat == protocol.RepeatAll }},
			{`"repeat_off"`, func(m *groupMedia, _ time.Duration) bool { return m.Repeat == protocol.RepeatOff }},
			{`"shuffle"`, func(m *groupMedia, _ time.Duration) bool { return m.Shuffle }},
			{`"unshuffle"`, func(m *groupMedia, _ time.Duration) bool { return !m.Shuffle }},
		} {
			s.line(-1).send(`{"type":"client/command","payload":{"controller":{"command":` + c.press + `}}}`)
			pass(100 * time.Millisecond)
			g := h.group("a")
			m := &groupMedia{g.Media, g.Repeat, g.Shuffle}
			if at := m.Position + max(time.Since(m.At), 0); !c.ok(m, at) {
				t.Errorf("%s: got item %d at %v, repeat %s, shuffle %v", c.press, m.Index, at, m.Repeat, m.Shuffle)
			}
		}
	})
}

type groupMedia struct {
	*Media
	Repeat  protocol.Repeat
	Shuffle bool
}

// The music goes with the speakers: into a group that grows, and to the last
// one that is left.
func TestMusicMovesWithItsGroup(t *testing.T) {
	bubble(t, func(t *testing.T) {
		h := newHouse(t, library(map[string]*ramp{"http://x/a": {frames: 48_000 * 60, rate: 48_000}}))
		a, b := h.online("a"), h.online("b")
		h.must(playURL("a", "http://x/a"))
		pass(2 * time.Second)
		h.must(SetPlayer{PID: "b", Group: &GroupTarget{With: "a"}})
		pass(4 * time.Second)
		if got := kinds(a.line(-1)); !slices.Equal(got, []string{"stream/start", "audio"}) {
			t.Errorf("a was disturbed: %v", got)
		}
		left, stamps := b.line(-1).frames(t)
		_, first := a.line(-1).frames(t)
		frame := (stamps[0] - first[0]) * 48 / 1000
		wantRamp(t, left, frame, int64(len(left)))
		h.must(SetPlayer{PID: "a", Group: &GroupTarget{Solo: true}})
		pass(2 * time.Second)
		if g := h.group("b"); g.Playback != Playing {
			t.Errorf("the one that stays: got %s", g.Playback)
		}
		if g := h.group("a"); g.Playback != Idle {
			t.Errorf("the one that left: got %s", g.Playback)
		}
		if got := kinds(a.line(-1)); got[len(got)-1] != "stream/end" {
			t.Errorf("the one that left was told %v", got)
		}
		// A drop of a few seconds: it goes on in place.
		b.reset()
		pass(5 * time.Second)
		h.want("b", Connected, true)
		again, stamps := b.line(-1).frames(t)
		frame = (stamps[0] - first[0]) * 48 / 1000
		wantRamp(t, again, frame, int64(len(again)))
		if got := kinds(b.line(-1)); !slices.Equal(got, []string{"stream/start", "audio"}) {
			t.Errorf("after the drop: got %v", got)
		}
	})
}

func TestUnavailableStopsItsStream(t *testing.T) {
	bubble(t, func(t *testing.T) {
		h := newHouse(t, library(map[string]*ramp{"http://x/a": {frames: 48_000 * 60, rate: 48_000}}))
		s := h.online("a")
		h.must(playURL("a", "http://x/a"))
		pass(2 * time.Second)
		s.line(-1).send(`{"type":"client/state","payload":{"state":"external_source","player":{"volume":40,"muted":false}}}`)
		pass(2 * time.Second)
		if got := kinds(s.line(-1)); got[len(got)-1] != "stream/end" {
			t.Errorf("got %v, want an end", got)
		}
		if g := h.group("a"); g.Playback == Playing {
			t.Error("its solo group plays on")
		}
	})
}

// stalled gives a second of sound and then nothing until it is closed.
type stalled struct {
	ramp
	closed chan struct{}
	once   sync.Once
}

func (s *stalled) Read(dst []int32) (int, error) {
	if s.next == s.frames {
		<-s.closed
		return 0, audio.ErrClosed
	}
	return s.ramp.Read(dst)
}

func (s *stalled) Close() error {
	s.once.Do(func() { close(s.closed) })
	return nil
}

// A source that stalls is let go of at once, by a stop, by something else to play
// and by the end of the server.
func TestStalledSourceIsLetGoOf(t *testing.T) {
	for name, leave := range map[string]func(h *house){
		"stop":     func(h *house) { h.must(act("a", ActionStop)) },
		"play_url": func(h *house) { h.must(playURL("a", "http://x/a")) },
		"the end":  func(h *house) { h.stop() },
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				src := &stalled{ramp: ramp{frames: 48_000, rate: 48_000, live: true}, closed: make(chan struct{})}
				h := newHouse(t, library(map[string]*ramp{"http://x/a": {frames: 48_000, rate: 48_000}}), func(o *Options) {
					others := o.OpenMedia
					o.OpenMedia = func(ctx context.Context, url string) (audio.Source, error) {
						if url == "http://x/stalls" {
							return src, nil
						}
						return others(ctx, url)
					}
				})
				h.online("a")
				h.must(playURL("a", "http://x/stalls"))
				pass(5 * time.Second)
				began := time.Now()
				leave(h)
				if took := time.Since(began); took > time.Second {
					t.Errorf("took %v", took)
				}
				select {
				case <-src.closed:
				case <-time.After(time.Second):
					t.Error("the source is still read")
				}
			})
		})
	}
}
