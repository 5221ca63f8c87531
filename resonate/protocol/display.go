package protocol

import "resonatebridge/timesync"

// VisualizerType names one thing that a visualizer shows.
type VisualizerType string

// The types of the visualizer role.
const (
	VisualizerLoudness VisualizerType = "loudness"
	VisualizerBeat     VisualizerType = "beat"
	VisualizerFPeak    VisualizerType = "f_peak"
	VisualizerSpectrum VisualizerType = "spectrum"
	VisualizerPeak     VisualizerType = "peak"
)

// VisualizerSupport is what a visualizer wants.
type VisualizerSupport struct {
	Types          []VisualizerType
	BufferCapacity int // bytes
	RateMax        int // frames per second of each periodic type
	Spectrum       *SpectrumConfig
}

// SpectrumConfig says how a spectrum is divided.
type SpectrumConfig struct {
	Bins  int    // 1 to [SpectrumBinsMax]
	Scale string // "mel", "log", "lin"
	FMin  int    // Hz
	FMax  int    // Hz
}

// SpectrumBinsMax is the most bins that are served.
const SpectrumBinsMax = 256

// StreamArtwork is the artwork part of a [StreamStart]: one entry per channel of
// the client's.
type StreamArtwork struct{ Channels []ArtworkChannel }

// StreamVisualizer is the visualizer part of a [StreamStart].
type StreamVisualizer struct {
	Types    []VisualizerType
	RateMax  int
	Spectrum *SpectrumConfig
}

// ArtworkImage is a picture for one channel; without data it clears the channel.
type ArtworkImage struct {
	Channel   int // 0 to 3
	Timestamp timesync.Micros
	Data      []byte // as the channel's format wants it
}

// VisualizerFrame is one moment of a visualizer. Which fields count depends on
// the type. Levels are A-weighted: 0 is -60 dB or less, 65535 is 0 dB.
type VisualizerFrame struct {
	Type      VisualizerType
	Timestamp timesync.Micros
	Level     uint16   // of loudness and f_peak
	Frequency uint16   // of f_peak, in Hz; 0: none
	Strength  uint8    // of a peak
	Bins      []uint16 // of a spectrum, low to high
}

// Color is red, green and blue.
type Color [3]uint8

// Colors are taken from what plays, for displays and lights; nil: unknown. On
// contrast see the protocol's color role.
type Colors struct {
	Timestamp                                                         timesync.Micros
	BackgroundDark, BackgroundLight, Primary, Accent, OnDark, OnLight *Color
}

// RequestArtwork asks for other pictures on a channel (older dialects). Fields
// that are empty stay as they are.
type RequestArtwork struct {
	Channel int
	Config  ArtworkChannel
}

// RequestVisualizer asks for something else to be visualized (older dialects).
// Fields that are empty stay as they are.
type RequestVisualizer struct{ Config VisualizerSupport }

func (RequestArtwork) clientMessage()    {}
func (RequestVisualizer) clientMessage() {}
func (ArtworkImage) serverMessage()      {}
func (VisualizerFrame) serverMessage()   {}
