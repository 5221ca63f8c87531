package audio

import (
	"io"
	"math"
	"sync/atomic"

	"resonatebridge/resonate/protocol"
)

// Tone is a sine tone, the same on both channels.
type Tone struct {
	Frequency float64 // Hz; 0 is silence
	Level     float64 // amplitude, full scale is 1; 0 means 0.25
	Rate      int     // Hz; 0 means 48000
	Frames    int64   // length; 0 is endless
}

// Source returns the tone from its beginning. Each frame depends on its number
// alone, and has 24 bits.
func (t Tone) Source() Source {
	if t.Level == 0 {
		t.Level = 0.25
	}
	if t.Rate == 0 {
		t.Rate = 48000
	}
	return &toneSource{Tone: t}
}

type toneSource struct {
	Tone
	next   int64
	closed atomic.Bool
}

func (t *toneSource) Info() Info {
	return Info{
		Native: protocol.Format{Codec: "tone", Channels: Channels, SampleRate: t.Rate, BitDepth: 24},
		Rate:   t.Rate, Frames: t.Frames, Seekable: true,
		Tags: Tags{Title: "Test tone"},
	}
}

func (t *toneSource) Read(dst []int32) (int, error) {
	if t.closed.Load() {
		return 0, ErrClosed
	}
	n := len(dst) / Channels
	if t.Frames > 0 {
		n = int(min(int64(n), t.Frames-t.next))
		if n == 0 {
			return 0, io.EOF
		}
	}
	for i := range n {
		// The fraction of the turn first, so that hours cost no accuracy.
		_, turn := math.Modf(float64(t.next) * (t.Frequency / float64(t.Rate)))
		v := int32(math.Round(t.Level*(1<<23-1)*math.Sin(2*math.Pi*turn))) << 8
		dst[2*i], dst[2*i+1] = v, v
		t.next++
	}
	return n, nil
}

func (t *toneSource) SeekFrame(frame int64) error {
	t.next = max(frame, 0)
	if t.Frames > 0 {
		t.next = min(t.next, t.Frames)
	}
	return nil
}

func (t *toneSource) Close() error {
	t.closed.Store(true)
	return nil
}
