package stream

import (
	"slices"

	"resonatebridge/resonate/audio/analysis"
	"resonatebridge/resonate/protocol"
)

// Screen is the way to one visualizer: its session. Both calls keep the order in
// which they are made, and neither waits.
type Screen interface {
	// Stream queues stream/start, stream/clear or stream/end of the visualizer
	// role. A clear or an end drops the frames that wait in front of it. An error
	// means that the session has ended.
	Stream(m protocol.ServerMessage) error
	// Visual queues a frame, at most until its time has come. false: there is no
	// room, or the session has ended.
	Visual(f protocol.VisualizerFrame) bool
}

// Viewer is a visualizer of a group. It is comparable; two with the same Screen
// are the same session.
type Viewer struct {
	Screen    Screen
	Wish      *protocol.VisualizerSupport // what it asks for; immutable
	Available bool
}

// Limits of visualizers.
const (
	foresight   = 2 * second // how far ahead music is looked at
	visualLead  = 20_000     // micros: what is later than this is not sent any more
	visualRate  = 60         // frames per second of a periodic type, at most
	frameHeader = 9          // bytes: type and time stamp
)

// scope looks at a stretch of the timeline for all viewers of the group.
type scope struct {
	analyzer *analysis.Analyzer
	tl       timeline // where the analyzer's frame 0 is tl.pos
	pos      int64    // of the first frame that it has not seen
	moments  []moment // that have not sounded, oldest first
	first    uint64   // number of moments[0]
}

type moment struct {
	analysis.Moment
	at micros
}

// viewer is a visualizer in a group that plays.
type viewer struct {
	Viewer
	scope *scope          // that next counts in
	bands *analysis.Bands // of its spectra; nil: none
	next  uint64          // number of the moment that it gets next
	due   micros          // when periodic types are next due
	wait  []protocol.VisualizerFrame
	sent  []sentFrame // whose time has not come
	bytes int         // of them
	begun bool        // its stream has started, with the wish that it has
}

type sentFrame struct {
	at   micros
	size int
}

// SetViewers says which visualizers are in the group. It may be called as often
// as anything about them changes.
func (e *Engine) SetViewers(viewers []Viewer) {
	e.do(func() {
		var now []*viewer
		for _, w := range viewers {
			i := slices.IndexFunc(e.viewers, func(v *viewer) bool { return v.Screen == w.Screen })
			if i < 0 {
				now = append(now, &viewer{Viewer: w})
				continue
			}
			v := e.viewers[i]
			e.viewers = slices.Delete(e.viewers, i, i+1)
			changed := v.Wish != w.Wish
			v.Viewer = w
			switch {
			case changed && len(v.types()) == 0:
				v.end()
			case changed: // what it has is in the old shape
				v.clear()
				v.begun = false
			}
			now = append(now, v)
		}
		for _, left := range e.viewers {
			left.end()
		}
		e.viewers = now
	}, nil)
}

// watch looks at what is on the timeline and not too far ahead, and hands it to
// the viewers. It comes after the audio, which never waits for it.
func (e *Engine) watch(now micros) (wake micros) {
	if len(e.viewers) == 0 || !e.running {
		e.scope = nil
		return 0
	}
	for _, b := range e.blocks {
		at := e.tl.time(b.pos)
		if at >= now+foresight {
			wake = at - foresight + 1
			break
		}
		if s := e.scope; s == nil || s.pos < b.pos || s.tl.rate != e.tl.rate {
			e.scope = &scope{analyzer: analysis.New(e.tl.rate), tl: timeline{rate: e.tl.rate, pos: b.pos, at: at}, pos: b.pos}
		}
		if e.scope.pos == b.pos {
			e.scope.look(b, at)
		}
	}
	if e.scope == nil {
		return wake
	}
	for _, v := range e.viewers {
		if at := v.push(now, e.scope); at > 0 && (wake == 0 || at < wake) {
			wake = at
		}
	}
	e.scope.forget(now)
	return wake
}

// look takes the next block, which sounds at a time.
func (s *scope) look(b block, at micros) {
	tl := timeline{rate: s.tl.rate, pos: b.pos - s.tl.pos, at: at}
	for _, m := range s.analyzer.Write(b.mixed) {
		s.moments = append(s.moments, moment{m, tl.time(m.Frame)})
	}
	s.pos = b.pos + b.frames()
}

// forget lets go of moments that are of no use to anybody.
func (s *scope) forget(now micros) {
	n := 0
	for n < len(s.moments) && s.moments[n].at <= now+visualLead {
		s.analyzer.Recycle(s.moments[n].Moment)
		n++
	}
	s.moments = append(s.moments[:0], s.moments[n:]...)
	s.first += uint64(n)
}

// push hands over as many frames as the viewer may hold. wake is when that may
// be more, 0 if only new moments change it.
func (v *viewer) push(now micros, s *scope) (wake micros) {
	if v.scope != s {
		if v.scope = s; !v.Available || !v.fit(s.analyzer) {
			v.scope = nil
			return 0
		}
		v.next, v.due = s.first, 0
	}
	n := 0
	for n < len(v.sent) && v.sent[n].at <= now {
		v.bytes -= v.sent[n].size
		n++
	}
	v.sent = append(v.sent[:0], v.sent[n:]...)
	for {
		for len(v.wait) == 0 {
			v.next = max(v.next, s.first)
			if v.next >= s.first+uint64(len(s.moments)) {
				return 0
			}
			v.shape(s.moments[v.next-s.first])
			v.next++
		}
		f := v.wait[0]
		size := frameHeader + payload(f)
		switch {
		case f.Timestamp <= now+visualLead, size > v.Wish.BufferCapacity: // late, or never
			v.wait = v.wait[1:]
			continue
		case v.bytes+size > v.Wish.BufferCapacity:
			return v.sent[0].at
		}
		if !v.begin() {
			return 0
		}
		if !v.Screen.Visual(f) {
			return now + retry
		}
		v.sent = append(v.sent, sentFrame{f.Timestamp, size})
		v.bytes += size
		v.wait = v.wait[1:]
	}
}

// fit prepares for the spectra of an analyzer. It reports whether there is
// anything to show.
func (v *viewer) fit(a *analysis.Analyzer) bool {
	v.bands = nil
	if v.wants(protocol.VisualizerSpectrum) {
		w := v.Wish.Spectrum
		bands, err := a.NewBands(w.Bins, w.Scale, float64(w.FMin), float64(w.FMax))
		if err == nil {
			v.bands = bands
		}
	}
	return len(v.types()) > 0
}

// types are those that the viewer gets: as it asks, but no spectrum that is too
// fine, since a start has to repeat its wish (spec: visualizer role).
func (v *viewer) types() (types []protocol.VisualizerType) {
	for _, t := range v.Wish.Types {
		if v.wants(t) {
			types = append(types, t)
		}
	}
	return types
}

func (v *viewer) wants(t protocol.VisualizerType) bool {
	w := v.Wish
	if t == protocol.VisualizerSpectrum && (w.Spectrum == nil || w.Spectrum.Bins > protocol.SpectrumBinsMax) {
		return false
	}
	return w.RateMax > 0 && w.BufferCapacity > 0 && slices.Contains(w.Types, t)
}

func (v *viewer) rate() int { return min(v.Wish.RateMax, visualRate) }

// begin sends stream/start before the first frame. It reports false if there is
// nobody to send to.
func (v *viewer) begin() bool {
	if v.begun {
		return true
	}
	s := &protocol.StreamVisualizer{Types: v.types(), RateMax: v.rate()}
	if v.wants(protocol.VisualizerSpectrum) {
		s.Spectrum = v.Wish.Spectrum
	}
	if v.Screen.Stream(protocol.StreamStart{Visualizer: s}) != nil {
		return false
	}
	v.begun = true
	return true
}

// shape makes the frames of a moment that the viewer asked for.
func (v *viewer) shape(m moment) {
	frame := func(t protocol.VisualizerType) *protocol.VisualizerFrame {
		v.wait = append(v.wait, protocol.VisualizerFrame{Type: t, Timestamp: m.at})
		return &v.wait[len(v.wait)-1]
	}
	if m.Beat && v.wants(protocol.VisualizerBeat) {
		frame(protocol.VisualizerBeat)
	}
	if m.Onset > 0 && v.wants(protocol.VisualizerPeak) {
		frame(protocol.VisualizerPeak).Strength = uint8(m.Onset*254) + 1
	}
	if m.at < v.due {
		return
	}
	every := micros(second / v.rate())
	v.due = max(v.due+every, m.at+every-second/analysis.Rate+1) // the rate on average, and moments are where they are
	if v.wants(protocol.VisualizerLoudness) {
		frame(protocol.VisualizerLoudness).Level = analysis.Level(m.Loudness)
	}
	if v.wants(protocol.VisualizerFPeak) {
		f := frame(protocol.VisualizerFPeak)
		if m.Peak.Frequency > 0 {
			f.Frequency, f.Level = uint16(min(m.Peak.Frequency, 65_535)), analysis.Level(m.Peak.Level)
		}
	}
	if v.bands != nil {
		frame(protocol.VisualizerSpectrum).Bins = v.bands.Levels(m.Spectrum)
	}
}

// payload is how many bytes a frame has after its header (spec: visualizer role).
func payload(f protocol.VisualizerFrame) int {
	switch f.Type {
	case protocol.VisualizerFPeak:
		return 4
	case protocol.VisualizerLoudness:
		return 2
	case protocol.VisualizerSpectrum:
		return 2 * len(f.Bins)
	case protocol.VisualizerBeat, protocol.VisualizerPeak:
	}
	return 1
}

// clear drops what the viewer has buffered; the stream stays.
func (v *viewer) clear() {
	if v.begun {
		_ = v.Screen.Stream(protocol.StreamClear{Roles: []protocol.Role{protocol.RoleVisualizer}}) // a session that ended needs none
	}
	v.drop()
}

// end ends the stream, if there is one.
func (v *viewer) end() {
	if v.begun {
		_ = v.Screen.Stream(protocol.StreamEnd{Roles: []protocol.Role{protocol.RoleVisualizer}}) // likewise
	}
	v.begun = false
	v.drop()
}

func (v *viewer) drop() {
	v.scope, v.wait, v.sent, v.bytes = nil, nil, nil, 0
}
