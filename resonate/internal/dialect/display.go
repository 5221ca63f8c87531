package dialect

import (
	"encoding/binary"

	"resonatebridge/resonate/protocol"
)

// The binary types of displays (dialects.md section 2.0).
const (
	artR1, artR2, artSendspin = 2, 4, 8
	visualizerLoudness        = 16 // and the others after it, in the order below
)

// artType is the binary type of a picture on a channel.
func (n Name) artType(channel int) byte {
	switch n {
	case R1:
		return artR1
	case R2:
		return byte(artR2 + channel) //nolint:gosec // 0 to 3
	default:
		return byte(artSendspin + channel) //nolint:gosec // 0 to 3
	}
}

// wireVisualizer is the configuration of a visualizer, in both directions.
type wireVisualizer struct {
	Types          []protocol.VisualizerType `json:"types"`
	RateMax        int                       `json:"rate_max"`
	TracksDownbeat *bool                     `json:"tracks_downbeats,omitempty"`
	Spectrum       *wireSpectrum             `json:"spectrum,omitempty"`
}

type wireSpectrum struct {
	Bins  int    `json:"n_disp_bins"`
	Scale string `json:"scale"`
	FMin  int    `json:"f_min"`
	FMax  int    `json:"f_max"`
}

// decodeVisualizer reads what a visualizer wants. What is wrong is left out.
func decodeVisualizer(o object) (v protocol.VisualizerSupport) {
	types, err := o.texts("types")
	if err != nil {
		o.note("types", "type", "%v: ignored", err)
	}
	for _, t := range types {
		switch p := protocol.VisualizerType(t); p {
		case protocol.VisualizerLoudness, protocol.VisualizerBeat, protocol.VisualizerFPeak, protocol.VisualizerSpectrum, protocol.VisualizerPeak:
			v.Types = append(v.Types, p)
		default:
			o.note("types", "unknown", "got %q: skipped", cut(t, maxQuoted))
		}
	}
	if n, err := o.number("buffer_capacity", 0, 1<<30); err == nil && n != nil {
		v.BufferCapacity = *n
	}
	if n, err := o.number("rate_max", 1, 1000); err == nil && n != nil {
		v.RateMax = *n
	}
	if s, ok, err := o.object("spectrum"); err == nil && ok {
		c := protocol.SpectrumConfig{}
		c.Scale, _ = s.text("scale")
		for _, f := range []struct {
			key    string
			lo, hi int
			dst    *int
		}{{"n_disp_bins", 1, 1 << 16, &c.Bins}, {"f_min", 0, 1 << 16, &c.FMin}, {"f_max", 1, 1 << 16, &c.FMax}} {
			if n, err := s.number(f.key, f.lo, f.hi); err == nil && n != nil {
				*f.dst = *n
			}
		}
		if c.Bins > 0 && c.FMax > c.FMin && (c.Scale == "mel" || c.Scale == "log" || c.Scale == "lin") {
			v.Spectrum = &c
		}
	}
	return v
}

// encodeArtworkStart and encodeVisualizerStart are starts of one role each: a
// client that rejects a part of a message loses nothing else.
func (w *ServerWire) encodeArtworkStart(a protocol.StreamArtwork) []Frame {
	if w.class == R1 { // its artwork is a part of the metadata
		if len(a.Channels) == 0 {
			return nil
		}
		typ := "stream/start"
		if w.stream != nil {
			typ = "stream/update" // R1's start is not for running streams
		}
		return one(text(typ, map[string]any{"metadata": map[string]any{"art_format": a.Channels[0].Format}}))
	}
	channels := []map[string]any{} // four fields each, also for none: clients need them
	for _, c := range a.Channels {
		format := c.Format
		if format == "" {
			format = "jpeg"
		}
		channels = append(channels, map[string]any{"source": c.Source, "format": format, "width": c.Width, "height": c.Height})
	}
	return one(text("stream/start", map[string]any{"artwork": map[string]any{"channels": channels}}))
}

func (w *ServerWire) encodeVisualizerStart(v protocol.StreamVisualizer) []Frame {
	if !w.class.sendspin() {
		return nil
	}
	return one(text("stream/start", map[string]any{"visualizer": newVisualizer(v)}))
}

func newVisualizer(v protocol.StreamVisualizer) *wireVisualizer {
	x := &wireVisualizer{Types: v.Types, RateMax: v.RateMax}
	for _, t := range v.Types {
		if t == protocol.VisualizerBeat {
			x.TracksDownbeat = new(false)
		}
	}
	if s := v.Spectrum; s != nil {
		x.Spectrum = &wireSpectrum{Bins: s.Bins, Scale: s.Scale, FMin: s.FMin, FMax: s.FMax}
	}
	return x
}

// encodeImage is a picture: type, time stamp, the file.
func (w *ServerWire) encodeImage(m protocol.ArtworkImage) []Frame {
	if m.Channel < 0 || m.Channel > 3 || w.class == R1 && m.Channel > 0 {
		return nil
	}
	data := append(make([]byte, 0, audioHeader+len(m.Data)), w.class.artType(m.Channel))
	data = binary.BigEndian.AppendUint64(data, uint64(m.Timestamp))
	return one(Frame{Binary: true, Data: append(data, m.Data...)})
}

// encodeVisual is one moment of a visualizer@v1; the drafts before it are not
// served.
func (w *ServerWire) encodeVisual(m protocol.VisualizerFrame) []Frame {
	if !w.class.sendspin() {
		return nil
	}
	kind := map[protocol.VisualizerType]byte{
		protocol.VisualizerLoudness: visualizerLoudness, protocol.VisualizerBeat: visualizerLoudness + 1, protocol.VisualizerFPeak: visualizerLoudness + 2,
		protocol.VisualizerSpectrum: visualizerLoudness + 3, protocol.VisualizerPeak: visualizerLoudness + 4,
	}[m.Type]
	data := binary.BigEndian.AppendUint64([]byte{kind}, uint64(m.Timestamp))
	switch m.Type {
	case protocol.VisualizerLoudness:
		data = binary.BigEndian.AppendUint16(data, m.Level)
	case protocol.VisualizerBeat:
		data = append(data, 0)
	case protocol.VisualizerFPeak:
		data = binary.BigEndian.AppendUint16(binary.BigEndian.AppendUint16(data, m.Frequency), m.Level)
	case protocol.VisualizerSpectrum:
		for _, b := range m.Bins {
			data = binary.BigEndian.AppendUint16(data, b)
		}
	case protocol.VisualizerPeak:
		data = append(data, m.Strength)
	default:
		return nil
	}
	return one(Frame{Binary: true, Data: data})
}

// wireColors has null for what is unknown.
type wireColors struct {
	Timestamp       int64           `json:"timestamp"`
	BackgroundDark  *protocol.Color `json:"background_dark"`
	BackgroundLight *protocol.Color `json:"background_light"`
	Primary         *protocol.Color `json:"primary"`
	Accent          *protocol.Color `json:"accent"`
	OnDark          *protocol.Color `json:"on_dark"`
	OnLight         *protocol.Color `json:"on_light"`
}

func newColors(c protocol.Colors) *wireColors {
	return &wireColors{
		Timestamp: int64(c.Timestamp), BackgroundDark: c.BackgroundDark, BackgroundLight: c.BackgroundLight,
		Primary: c.Primary, Accent: c.Accent, OnDark: c.OnDark, OnLight: c.OnLight,
	}
}

// decodeArtworkRequest reads a wish for other pictures.
func decodeArtworkRequest(o object) (protocol.ClientMessage, error) {
	channel, err := o.number("channel", 0, 1<<15)
	if err != nil {
		return nil, err
	}
	if channel != nil && *channel >= maxChannels {
		o.note("channel", "range", "there is no channel %d: ignored", *channel)
		return nil, nil
	}
	if channel == nil {
		channel = new(int)
	}
	r := protocol.RequestArtwork{Channel: *channel}
	r.Config.Source, _ = o.text("source")
	r.Config.Format, _ = o.text("format")
	for _, f := range []struct {
		keys []string
		dst  *int
	}{{[]string{"media_width", "width"}, &r.Config.Width}, {[]string{"media_height", "height"}, &r.Config.Height}} {
		for _, key := range f.keys {
			if n, err := o.number(key, 0, 1<<15); err == nil && n != nil {
				*f.dst = *n
			}
		}
	}
	return r, nil
}
