package stream

import (
	"context"
	"errors"
	"io"
	"math"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"resonatebridge/resonate/protocol"
	"resonatebridge/timesync"
)

// tone is a source of 1 kHz at full scale, or of clicks.
type tone struct {
	count
	clicks bool // twice a second, from the beginning
}

func (s *tone) Read(dst []int32) (int, error) {
	n := int(min(int64(len(dst)/Channels), s.frames-s.next))
	for i := range n {
		f := s.next + int64(i)
		v := int32(math.MaxInt32 * math.Sin(2*math.Pi*float64(f)/48))
		if s.clicks && f%24_000 >= 480 {
			v = 0
		}
		dst[2*i], dst[2*i+1] = v, v
	}
	s.next += int64(n)
	if s.next == s.frames {
		return n, io.EOF
	}
	return n, nil
}

func (r *room) tone(name string, d time.Duration, clicks bool) {
	r.sources[name] = func(context.Context) (Source, error) {
		return &tone{count{frames: int64(d) * 48_000 / int64(time.Second), info: &Info{Rate: 48_000, Duration: d, Seekable: true}}, clicks}, nil
	}
}

// eye is a visualizer that notes what it gets.
type eye struct {
	mu      sync.Mutex
	clock   *timesync.Clock
	got     []any // protocol messages and frames
	full    bool
	gone    bool
	most    int // bytes that it had to hold
	holding []sentFrame
}

func (e *eye) Stream(m protocol.ServerMessage) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.gone {
		return errors.New("gone")
	}
	switch m.(type) {
	case protocol.StreamClear, protocol.StreamEnd:
		e.holding = nil
	}
	e.got = append(e.got, m)
	return nil
}

func (e *eye) Visual(f protocol.VisualizerFrame) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.full || e.gone {
		return false
	}
	now := e.clock.Now()
	e.holding = slices.DeleteFunc(e.holding, func(s sentFrame) bool { return s.at <= now })
	size := 9 + map[protocol.VisualizerType]int{
		protocol.VisualizerLoudness: 2, protocol.VisualizerBeat: 1, protocol.VisualizerFPeak: 4,
		protocol.VisualizerSpectrum: 2 * len(f.Bins), protocol.VisualizerPeak: 1,
	}[f.Type]
	e.holding = append(e.holding, sentFrame{f.Timestamp, size})
	bytes := 0
	for _, s := range e.holding {
		bytes += s.size
	}
	e.most = max(e.most, bytes)
	e.got = append(e.got, f)
	return true
}

// frames are those of a type.
func (e *eye) frames(typ protocol.VisualizerType) (out []protocol.VisualizerFrame) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, m := range e.got {
		if f, ok := m.(protocol.VisualizerFrame); ok && f.Type == typ {
			out = append(out, f)
		}
	}
	return out
}

// messages are what came beside frames, runs of these as one "frames".
func (e *eye) messages() []string {
	e.mu.Lock()
	defer e.mu.Unlock()
	return kinds(e.got, "frames")
}

func wish(types ...protocol.VisualizerType) *protocol.VisualizerSupport {
	return &protocol.VisualizerSupport{
		Types: types, BufferCapacity: 100_000, RateMax: 30,
		Spectrum: &protocol.SpectrumConfig{Bins: 16, Scale: "lin", FMin: 0, FMax: 8000},
	}
}

func (r *room) eye() *eye { return &eye{clock: r.clock} }

func TestViewersSeeWhatIsHeard(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRoom(t)
		r.tone("a", 10*time.Second, false)
		a := r.player("a")
		all := wish(protocol.VisualizerLoudness, protocol.VisualizerFPeak, protocol.VisualizerSpectrum, protocol.VisualizerBeat)
		v, slow, w := r.eye(), r.eye(), *wish(protocol.VisualizerLoudness)
		w.RateMax = 5
		r.SetViewers([]Viewer{{v, all, true}, {slow, &w, true}})
		r.play("a")
		pass(15 * time.Second)
		if got := v.messages(); !slices.Equal(got, []string{"start", "frames", "end"}) {
			t.Errorf("got %v", got)
		}
		start, ok := v.got[0].(protocol.StreamStart)
		if s := start.Visualizer; !ok || !slices.Equal(s.Types, all.Types) || s.RateMax != 30 || s.Spectrum != all.Spectrum {
			t.Errorf("got %+v, want what was asked for", start.Visualizer)
		}
		begin := a.sounds()[0].at
		loud := v.frames(protocol.VisualizerLoudness)
		if n := len(loud); n < 297 || n > 300 {
			t.Errorf("got %d frames in 10 s, want 30 a second", n)
		}
		if n := len(slow.frames(protocol.VisualizerLoudness)); n < 49 || n > 50 {
			t.Errorf("got %d frames in 10 s, want 5 a second", n)
		}
		last := timesync.Micros(0)
		for i, f := range loud {
			if at := f.Timestamp - begin; at < 0 || at > 10_000_000 || at%10_000 != 0 || f.Timestamp < last {
				t.Errorf("frame %d is of %d us, after %d", i, at, last-begin)
			}
			last = f.Timestamp
			if i > 2 && f.Level < 65_300 {
				t.Errorf("frame %d: the level is %d, want full scale", i, f.Level)
			}
		}
		for _, f := range v.frames(protocol.VisualizerFPeak)[3:] {
			if f.Frequency < 998 || f.Frequency > 1002 || f.Level < 65_300 {
				t.Errorf("got %+v, want 1 kHz", f)
			}
		}
		for _, f := range v.frames(protocol.VisualizerSpectrum)[3:] {
			if len(f.Bins) != 16 || slices.Index(f.Bins, slices.Max(f.Bins)) > 2 || f.Bins[8] > 10_000 {
				t.Errorf("got %v, want a peak at 1 kHz", f.Bins)
			}
		}
		if n := len(v.frames(protocol.VisualizerBeat)); n > 0 {
			t.Errorf("a tone has %d beats", n)
		}
	})
}

// Beats and peaks fall on the clicks, by the time at which these sound.
func TestViewersSeeTheBeat(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRoom(t)
		r.tone("a", 20*time.Second, true)
		a, v := r.player("a"), r.eye()
		r.SetViewers([]Viewer{{v, wish(protocol.VisualizerPeak, protocol.VisualizerBeat), true}})
		r.play("a")
		pass(25 * time.Second)
		begin := a.sounds()[0].at
		peaks, beats := v.frames(protocol.VisualizerPeak), v.frames(protocol.VisualizerBeat)
		if len(peaks) < 39 || len(peaks) > 40 || len(beats) < 20 {
			t.Errorf("40 clicks: got %d peaks and %d beats", len(peaks), len(beats))
		}
		off := func(f protocol.VisualizerFrame) timesync.Micros { return (f.Timestamp-begin+250_000)%500_000 - 250_000 }
		for _, f := range peaks {
			if off(f) < -21_000 || off(f) > 21_000 {
				t.Errorf("a peak is %d us from a click", off(f))
			}
		}
		beside := 0 // while it is being found
		for _, f := range beats {
			if off(f) < -35_000 || off(f) > 35_000 {
				beside++
			}
		}
		if beside > 2 {
			t.Errorf("%d of %d beats are beside the clicks", beside, len(beats))
		}
	})
}

// What a viewer holds is bounded as it says, and it loses nothing by that; a
// frame that can never fit is left out.
func TestViewersBuffer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRoom(t)
		r.tone("a", 5*time.Second, false)
		r.player("a")
		small, tiny := *wish(protocol.VisualizerLoudness, protocol.VisualizerSpectrum), *wish(protocol.VisualizerLoudness, protocol.VisualizerSpectrum)
		small.BufferCapacity, tiny.BufferCapacity = 150, 40
		v, w := r.eye(), r.eye()
		r.SetViewers([]Viewer{{v, &small, true}, {w, &tiny, true}})
		r.play("a")
		pass(10 * time.Second)
		if v.most > 150 || v.most < 100 || w.most > 40 {
			t.Errorf("they had to hold %d and %d bytes", v.most, w.most)
		}
		if l, s := len(v.frames(protocol.VisualizerLoudness)), len(v.frames(protocol.VisualizerSpectrum)); l < 145 || s < 145 {
			t.Errorf("got %d and %d frames of 5 s", l, s)
		}
		if l, s := len(w.frames(protocol.VisualizerLoudness)), len(w.frames(protocol.VisualizerSpectrum)); l < 145 || s != 0 {
			t.Errorf("with 40 bytes: got %d and %d frames", l, s)
		}
	})
}

// A jump clears, another wish starts anew, a pause ends, and who comes late sees
// what is heard then. None of it, and no viewer that takes nothing, changes what
// the players get.
func TestViewersComeAndGo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRoom(t)
		r.source("a", 1, 48_000, 30*time.Second)
		a := r.player("a")
		v, stuck := r.eye(), r.eye()
		stuck.full = true
		first := wish(protocol.VisualizerLoudness)
		crowd := []Viewer{{stuck, first, true}, {v, first, true}}
		r.play("a")
		pass(2 * time.Second)
		r.SetViewers(crowd)
		synctest.Wait()
		joined := v.frames(protocol.VisualizerLoudness)
		if len(joined) == 0 || joined[0].Timestamp > r.clock.Now()+100_000 {
			t.Errorf("who comes late got %d frames", len(joined))
		}
		crowd[1].Wish = wish(protocol.VisualizerSpectrum)
		r.SetViewers(crowd)
		pass(2 * time.Second)
		crowd[1].Wish = wish()
		r.SetViewers(crowd)
		pass(2 * time.Second)
		if got, want := v.messages(), []string{"start", "frames", "clear", "start", "frames", "end"}; !slices.Equal(got, want) {
			t.Errorf("another wish: got %v, want %v", got, want)
		}
		crowd[1].Wish = first
		r.SetViewers(crowd)
		pass(2 * time.Second)
		r.ok(func(reply func(error)) { r.Seek(time.Second, reply) })
		pass(2 * time.Second)
		r.ok(r.Pause)
		pass(2 * time.Second)
		r.ok(r.Resume)
		pass(2 * time.Second)
		r.SetViewers(nil)
		pass(2 * time.Second)
		want := []string{"start", "frames", "clear", "frames", "end", "start", "frames", "end"}
		if got := v.messages()[6:]; !slices.Equal(got, want) {
			t.Errorf("jump, pause, leaving: got %v, want %v", got, want)
		}
		last := timesync.Micros(0)
		for _, m := range v.got {
			switch m := m.(type) {
			case protocol.VisualizerFrame:
				if m.Timestamp < last {
					t.Errorf("a frame of %d comes after one of %d", m.Timestamp, last)
				}
				last = m.Timestamp
			case protocol.StreamClear, protocol.StreamEnd:
				last = 0
			}
		}
		if got := stuck.messages(); !slices.Contains(got, "start") || slices.Contains(got, "frames") {
			t.Errorf("who takes nothing got %v", got)
		}
		heard(t, a) // without a gap
		if st := r.Status(); st.Missed != 0 {
			t.Errorf("%d chunks were missed", st.Missed)
		}
	})
}

// Nobody looks: nothing is computed.
func TestNoViewersNoAnalysis(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRoom(t)
		r.source("a", 1, 48_000, 5*time.Second)
		r.player("a")
		r.play("a")
		looked := make(chan bool, 1)
		r.do(func() { looked <- r.scope != nil }, nil)
		if <-looked {
			t.Error("somebody looks at the music")
		}
	})
}
