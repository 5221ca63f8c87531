package audio

import (
	"encoding/binary"
	"errors"
	"fmt"

	"resonatebridge/resonate/protocol"
)

// Encoder makes chunks for players of one wire format. The same samples always
// give the same chunks.
type Encoder interface {
	// Format is what was asked for.
	Format() protocol.Format
	// Header is the codec header for stream/start; nil if the codec has none.
	Header() []byte
	// Frames is the length of a chunk. Opus takes no other; of the others the
	// last before a Reset may be shorter.
	Frames() int
	// Delay is by how many frames what comes out of a player's decoder lags
	// behind what was encoded.
	Delay() int
	// Encode appends the chunk for these frames, stereo, to dst. Nothing of pcm
	// is kept.
	Encode(dst []byte, pcm []int32) ([]byte, error)
	// Reset forgets what was encoded, for a new stream.
	Reset()
}

// CanEncode reports whether NewEncoder can make f.
func CanEncode(f protocol.Format) bool { return encodable(f) == nil }

func encodable(f protocol.Format) error {
	ok := f.Channels >= 1 && f.Channels <= Channels && f.SampleRate >= minRate && f.SampleRate <= maxRate
	switch f.Codec {
	case "pcm":
		ok = ok && (f.BitDepth == 16 || f.BitDepth == 24 || f.BitDepth == 32)
	case "flac":
		ok = ok && (f.BitDepth == 16 || f.BitDepth == 24) && f.SampleRate <= flacMaxRate
	case "opus":
		switch f.SampleRate {
		case 8000, 12000, 16000, 24000, 48000:
		default:
			ok = false
		}
	default:
		ok = false
	}
	if !ok {
		return fmt.Errorf("%w: nothing here encodes %.20q with %d channels of %d bits at %d Hz",
			ErrUnsupported, f.Codec, f.Channels, f.BitDepth, f.SampleRate)
	}
	return nil
}

// NewEncoder returns an encoder of f, which takes stereo frames at f's sample
// rate and makes one chunk of each so many, 16 to 65535; those of
// Opus have 20, 40 or 60 ms. The error is ErrUnsupported.
func NewEncoder(f protocol.Format, frames int) (Encoder, error) {
	if err := encodable(f); err != nil {
		return nil, err
	}
	if frames < 16 || frames > 1<<16-1 { // what FLAC's blocks may have
		return nil, fmt.Errorf("%w: chunks of %d frames", ErrUnsupported, frames)
	}
	switch f.Codec {
	case "flac":
		return newFLACEncoder(f, frames), nil
	case "opus":
		return newOpusEncoder(f, frames)
	}
	return &pcmEncoder{chunker{f, frames}}, nil
}

// errChunk is a mistake of the caller.
var errChunk = errors.New("audio: a chunk of the wrong length")

// chunker is what all encoders have in common.
type chunker struct {
	format protocol.Format
	frames int
}

func (c *chunker) Format() protocol.Format { return c.format }
func (c *chunker) Frames() int             { return c.frames }

// check returns the number of frames in pcm.
func (c *chunker) check(pcm []int32) (int, error) {
	n := len(pcm) / Channels
	if n == 0 || n > c.frames || len(pcm)%Channels != 0 {
		return 0, fmt.Errorf("%w: %d samples, want at most %d", errChunk, len(pcm), c.frames*Channels)
	}
	return n, nil
}

// pcmEncoder packs: signed, little-endian.
type pcmEncoder struct{ chunker }

func (*pcmEncoder) Header() []byte { return nil }
func (*pcmEncoder) Delay() int     { return 0 }
func (*pcmEncoder) Reset()         {}

func (e *pcmEncoder) Encode(dst []byte, pcm []int32) ([]byte, error) {
	if _, err := e.check(pcm); err != nil {
		return dst, err
	}
	mono, bits := e.format.Channels == 1, e.format.BitDepth
	for i := 0; i < len(pcm); i++ {
		v := pcm[i]
		if mono {
			v = middle(v, pcm[i+1])
			i++
		}
		switch v = narrow(v, bits); bits {
		case 16:
			dst = binary.LittleEndian.AppendUint16(dst, uint16(v))
		case 24:
			dst = append(dst, byte(v), byte(v>>8), byte(v>>16))
		default:
			dst = binary.LittleEndian.AppendUint32(dst, uint32(v))
		}
	}
	return dst, nil
}

// middle is the one channel that two make.
func middle(left, right int32) int32 { return int32((int64(left) + int64(right)) >> 1) }

// narrow rounds a full-scale sample to so many bits.
func narrow(v int32, bits int) int32 {
	drop := 32 - bits
	if drop == 0 {
		return v
	}
	return int32(min((int64(v)+1<<(drop-1))>>drop, 1<<(bits-1)-1))
}
