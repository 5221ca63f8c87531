package audio

import (
	"errors"
	"io"
	"math"
	"sync/atomic"

	"resonatebridge/resonate/protocol"
)

// decoder turns encoded bytes into frames in the layout of the medium.
type decoder interface {
	// props describe what is decoded, as Source.Info does.
	props() *props
	// read fills dst with whole frames of props().native.Channels samples, as
	// Source.Read.
	read(dst []int32) (frames int, err error)
	// seek goes on at the frame; it is called only if props().seekable.
	seek(frame int64) error
	// close ends what the decoder itself started, not the stream that it reads.
	// It may be called while read waits.
	close()
}

// props are the facts about a medium that its decoder finds.
type props struct {
	native   protocol.Format
	speakers string // see channelOrder; empty if there are two
	detached bool   // it reads the stream in a goroutine of its own
	frames   int64  // in all; 0: not known
	seekable bool
	tags     Tags
	picture  []byte
}

// The most that is taken: what no recording has is a lie or a mistake.
const (
	minRate, maxRate = 1_000, 768_000 // Hz
	maxChannels      = 8
)

// decoded is the Source over a decoder.
type decoded struct {
	dec    decoder
	media  *stream
	mix    *downmix // nil if the medium is stereo
	live   bool
	radio  *station // nil: no radio station
	closed atomic.Bool
	err    error // of the last Read
}

func newDecoded(dec decoder, media *stream) *decoded {
	d := &decoded{dec: dec, media: media}
	if p := dec.props(); p.native.Channels != Channels {
		d.mix = newDownmix(p.speakers)
	}
	return d
}

func (d *decoded) Info() Info {
	p := d.dec.props()
	i := Info{
		Native: p.native, Rate: p.native.SampleRate, Frames: p.frames, Seekable: p.seekable,
		Tags: p.tags, Picture: p.picture, Live: d.live,
	}
	if d.radio != nil {
		at := int64(math.MaxInt64)
		if !p.detached {
			at = d.media.offset()
		}
		if i.Tags == (Tags{}) { // Ogg stations send comments
			i.Tags = d.radio.tags(at)
		}
	}
	return i
}

func (d *decoded) Read(dst []int32) (frames int, err error) {
	switch {
	case d.closed.Load():
		return 0, ErrClosed
	case d.err != nil:
		return 0, d.err
	case len(dst) < Channels:
		return 0, nil
	}
	if d.mix != nil {
		frames, err = d.mix.read(d.dec, dst)
	} else {
		frames, err = d.dec.read(dst)
	}
	if err != nil {
		err = d.media.cause(d.dec.props().native.Codec, err)
		if d.closed.Load() {
			return 0, ErrClosed
		}
		d.err = err
		if frames > 0 {
			err = nil
		}
	}
	return frames, err
}

func (d *decoded) SeekFrame(frame int64) error {
	p := d.dec.props()
	if !p.seekable {
		return ErrNotSeekable
	}
	frame = max(frame, 0)
	if p.frames > 0 {
		frame = min(frame, p.frames)
	}
	d.media.forget()
	d.err = nil
	if err := d.dec.seek(frame); err != nil {
		if err = d.media.cause(p.native.Codec, err); !errors.Is(err, io.EOF) {
			d.err = err
			return err
		}
		d.err = io.EOF
	}
	return nil
}

func (d *decoded) Close() error {
	if d.closed.Swap(true) {
		return nil
	}
	err := d.media.Close()
	d.dec.close()
	return err
}

// channelOrder tells how a medium orders more than two channels. Each letter is
// a speaker: left and right, centre, the woofer, rear or side pairs in small
// letters, and the back.
type channelOrder [maxChannels + 1]string

// orderWAV is that of WAV and FLAC.
func orderWAV() channelOrder {
	return channelOrder{1: "C", 2: "LR", 3: "LRC", 4: "LRlr", 5: "LRClr", 6: "LRCWlr", 7: "LRCWBlr", 8: "LRCWlrlr"}
}

// orderVorbis is that of Vorbis and Opus (RFC 7845 section 5.1.1.2).
func orderVorbis() channelOrder {
	return channelOrder{1: "C", 2: "LR", 3: "LCR", 4: "LRlr", 5: "LCRlr", 6: "LCRlrW", 7: "LCRlrBW", 8: "LCRlrlrW"}
}

// downmix makes two channels of one, or of more than two.
type downmix struct {
	gains [][Channels]int64 // of each channel to left and right, Q30
	buf   []int32
}

// newDownmix mixes centre and rear in at -3 dB and leaves the woofer out (ITU-R
// BS.775), and turns all of it down so that nothing can clip. One channel goes
// to both sides as it is.
func newDownmix(speakers string) *downmix {
	const half = math.Sqrt2 / 2
	var sum float64 // of what goes to the left; the right gets as much
	gains := make([][Channels]float64, len(speakers))
	for i, s := range speakers {
		switch s {
		case 'L':
			gains[i] = [Channels]float64{1, 0}
		case 'R':
			gains[i] = [Channels]float64{0, 1}
		case 'C':
			gains[i] = [Channels]float64{half, half}
		case 'l':
			gains[i] = [Channels]float64{half, 0}
		case 'r':
			gains[i] = [Channels]float64{0, half}
		case 'B':
			gains[i] = [Channels]float64{0.5, 0.5}
		}
		sum += gains[i][0]
	}
	m := &downmix{gains: make([][Channels]int64, len(speakers))}
	for i, g := range gains {
		for side := range g {
			m.gains[i][side] = int64(math.Floor(g[side] / sum * (1 << 30)))
		}
	}
	return m
}

func (m *downmix) read(dec decoder, dst []int32) (int, error) {
	channels := len(m.gains)
	want := len(dst) / Channels * channels
	if cap(m.buf) < want {
		m.buf = make([]int32, want)
	}
	n, err := dec.read(m.buf[:want])
	for i := range n {
		var left, right int64
		for c, v := range m.buf[i*channels : (i+1)*channels] {
			left += int64(v) * m.gains[c][0]
			right += int64(v) * m.gains[c][1]
		}
		dst[2*i], dst[2*i+1] = int32((left+1<<29)>>30), int32((right+1<<29)>>30)
	}
	return n, err
}
