package audio

import (
	"errors"
	"fmt"

	"github.com/thesyncim/gopus"
	"github.com/thesyncim/gopus/container/ogg"

	"resonatebridge/resonate/protocol"
)

const (
	opusRate      = 48000
	opusMaxFrames = opusRate * 120 / 1000 // of a packet
	opusWarmup    = opusRate * 80 / 1000  // frames until a decoder has converged (RFC 7845 section 4.6)
)

// opusDecoder decodes the packets of Ogg Opus (RFC 7845).
type opusDecoder struct {
	head *ogg.OpusHead
	dec  interface {
		DecodeInt24(data []byte, pcm []int32) (int, error)
		Reset()
	}
	gain    float64
	comment Tags
	picture []byte
	buf     []int32
}

func (d *opusDecoder) header(packet []byte) (done bool, err error) {
	if d.head != nil {
		if len(packet) < 8 || string(packet[:8]) != "OpusTags" {
			return false, errors.New("the comments are missing")
		}
		d.comment, d.picture = parseComments(packet[8:])
		return true, nil
	}
	if d.head, err = ogg.ParseOpusHead(packet); err != nil {
		return false, err
	}
	channels := int(d.head.Channels)
	switch {
	case d.head.MappingFamily == 0:
		d.dec, err = gopus.NewDecoder(gopus.DefaultDecoderConfig(opusRate, channels))
	case d.head.MappingFamily == 1 && channels <= maxChannels:
		d.dec, err = gopus.NewMultistreamDecoder(opusRate, channels,
			int(d.head.StreamCount), int(d.head.CoupledCount), d.head.ChannelMapping)
	default:
		err = fmt.Errorf("%w: Opus with %d channels of mapping family %d", ErrUnsupported, channels, d.head.MappingFamily)
	}
	d.gain = Decibels(float64(d.head.OutputGain) / 256)
	d.buf = make([]int32, opusMaxFrames*channels)
	return false, err
}

func (d *opusDecoder) format() (protocol.Format, string) {
	n := int(d.head.Channels)
	return protocol.Format{Codec: "opus", Channels: n, SampleRate: opusRate, BitDepth: 24}, orderVorbis()[n]
}

func (d *opusDecoder) tags() (Tags, []byte) { return d.comment, d.picture }

func (d *opusDecoder) decode(dst []int32, packet []byte) ([]int32, error) {
	n, err := d.dec.DecodeInt24(packet, d.buf)
	if err != nil {
		return dst, err
	}
	for _, v := range d.buf[:n*int(d.head.Channels)] {
		// The library's 24 bits are the highest of ours.
		if d.gain != 1 {
			dst = append(dst, scale(v<<8, d.gain))
		} else {
			dst = append(dst, v<<8)
		}
	}
	return dst, nil
}

func (d *opusDecoder) prime(packet []byte) {
	d.dec.Reset()
	if packet != nil {
		_, _ = d.dec.DecodeInt24(packet, d.buf)
	}
}

func (d *opusDecoder) skip() int64 { return int64(d.head.PreSkip) }
func (*opusDecoder) warmup() int64 { return opusWarmup }

// What our encoder takes of a network and a processor.
const (
	opusBitsPerChannel = 80_000 // per second; stereo is transparent for most ears
	opusComplexity     = 5      // of 0 to 10; 10 takes half as much again
)

// opusEncoder makes a packet of 20, 40 or 60 ms of each chunk.
type opusEncoder struct {
	chunker
	enc *gopus.Encoder
	pcm []float32
	buf []byte
}

// opusFrames reports whether a packet can have so many frames.
func opusFrames(rate, frames int) bool {
	return frames*50%rate == 0 && frames*50/rate >= 1 && frames*50/rate <= 3
}

func newOpusEncoder(f protocol.Format, frames int) (Encoder, error) {
	if !opusFrames(f.SampleRate, frames) {
		return nil, fmt.Errorf("%w: Opus packets of %d frames", ErrUnsupported, frames)
	}
	enc, err := gopus.NewEncoder(gopus.EncoderConfig{
		SampleRate: f.SampleRate, Channels: f.Channels, Application: gopus.ApplicationAudio,
	})
	if err == nil {
		err = errors.Join(enc.SetFrameSize(frames), enc.SetBitrate(opusBitsPerChannel*f.Channels), enc.SetComplexity(opusComplexity))
	}
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrUnsupported, err)
	}
	return &opusEncoder{
		chunker: chunker{f, frames}, enc: enc,
		pcm: make([]float32, frames*f.Channels),
		buf: make([]byte, 3*1275), // of the longest packet
	}, nil
}

func (*opusEncoder) Header() []byte { return nil }
func (e *opusEncoder) Delay() int   { return e.enc.Lookahead() }
func (e *opusEncoder) Reset()       { e.enc.Reset() }

func (e *opusEncoder) Encode(dst []byte, pcm []int32) ([]byte, error) {
	n, err := e.check(pcm)
	if err != nil {
		return dst, err
	}
	if n != e.frames {
		return dst, fmt.Errorf("%w: %d frames, Opus takes %d", errChunk, n, e.frames)
	}
	const full = 1 << 31
	if e.format.Channels == 1 {
		for i := range e.pcm {
			e.pcm[i] = float32(middle(pcm[2*i], pcm[2*i+1])) / full
		}
	} else {
		for i, v := range pcm {
			e.pcm[i] = float32(v) / full
		}
	}
	size, err := e.enc.Encode(e.pcm, e.buf)
	if err != nil {
		return dst, fmt.Errorf("audio: opus: %w", err)
	}
	return append(dst, e.buf[:size]...), nil
}
