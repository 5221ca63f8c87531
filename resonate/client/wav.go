package client

import (
	"encoding/binary"
	"fmt"
	"io"
	"log/slog"
	"math"

	"resonatebridge/resonate/internal/contain"
	"resonatebridge/resonate/protocol"
	"resonatebridge/timesync"
)

const (
	wavHeaderSize = 44
	// maxSilence limits what a gap in the time stamps adds to a recording.
	// After a longer one the recording goes on as if there had been none.
	maxSilence = 10 * second
	second     = 1_000_000 // µs
	// slack in frames is what rounding of time stamps to whole microseconds
	// may shift a chunk without being a gap.
	slack = 2
)

// recorder writes PCM chunks to a WAV stream, each at the place of its time
// stamp. The format is that of the first chunk. A writer that can seek gets
// the true lengths in finish; any other keeps the largest ones, which players
// take for "until the end".
type recorder struct {
	w        io.Writer
	log      *slog.Logger
	format   protocol.Format // zero until the first chunk
	anchored bool            // base is set
	base     timesync.Micros // server time of frame 0
	frames   int64           // written
	err      error           // the first error; nothing is written after it
}

func (r *recorder) frameSize() int { return r.format.Channels * r.format.BitDepth / 8 }

// rebase forgets the timeline: the next chunk follows the last one directly.
func (r *recorder) rebase() { r.anchored = false }

// write appends data, whole frames of format f that sound at server time at.
// It reports false if it could not take it.
func (r *recorder) write(f protocol.Format, at timesync.Micros, data []byte) bool {
	if r.format == (protocol.Format{}) {
		r.format = f
		r.put(r.header(math.MaxUint32 - wavHeaderSize))
	}
	if f != r.format && r.err == nil {
		r.err = fmt.Errorf("a recording has one format: it is %v and the stream is %v now", r.format, f)
	}
	if r.err != nil {
		return false
	}
	if !r.anchored {
		r.anchor(at)
	}
	// Where the chunk belongs, against where the recording stands.
	place := int64(math.Round(float64(at-r.base) * float64(f.SampleRate) / second))
	switch gap := place - r.frames; {
	case gap > maxSilence/second*int64(f.SampleRate):
		r.anchor(at)
	case gap > slack:
		r.silence(gap)
	case gap < -slack:
		data = data[min(len(data), int(-gap)*r.frameSize()):]
	}
	r.put(data)
	r.frames += int64(len(data) / r.frameSize())
	return r.err == nil
}

// anchor makes at the time of the next frame.
func (r *recorder) anchor(at timesync.Micros) {
	r.base = at - timesync.Micros(math.Round(float64(r.frames)*second/float64(r.format.SampleRate)))
	r.anchored = true
}

func (r *recorder) silence(frames int64) {
	var zeros [4096]byte
	for left := frames * int64(r.frameSize()); left > 0 && r.err == nil; {
		n := min(left, int64(len(zeros)))
		r.put(zeros[:n])
		left -= n
	}
	r.frames += frames
}

func (r *recorder) put(b []byte) {
	if r.err == nil {
		r.err = contain.Call(r.log, func() error {
			_, err := r.w.Write(b)
			return err
		})
	}
}

// header is the RIFF header for so many bytes of samples.
func (r *recorder) header(size uint32) []byte {
	le := binary.LittleEndian
	b := append(make([]byte, 0, wavHeaderSize), "RIFF"...)
	b = le.AppendUint32(b, size+wavHeaderSize-8)
	b = append(b, "WAVEfmt "...)
	b = le.AppendUint32(b, 16)
	b = le.AppendUint16(b, 1) // PCM
	b = le.AppendUint16(b, uint16(r.format.Channels))
	b = le.AppendUint32(b, uint32(r.format.SampleRate))
	b = le.AppendUint32(b, uint32(r.format.SampleRate*r.frameSize()))
	b = le.AppendUint16(b, uint16(r.frameSize()))
	b = le.AppendUint16(b, uint16(r.format.BitDepth))
	b = append(b, "data"...)
	return le.AppendUint32(b, size)
}

// finish writes the true lengths, if the writer can seek, and returns the
// first error.
func (r *recorder) finish() error {
	seeker, ok := r.w.(io.Seeker)
	if !ok || r.err != nil || r.format == (protocol.Format{}) {
		return r.err
	}
	size := min(r.frames*int64(r.frameSize()), math.MaxUint32-wavHeaderSize)
	if _, err := seeker.Seek(0, io.SeekStart); err != nil {
		// A pipe or a terminal is an *os.File too; it keeps the open length.
		return nil //nolint:nilerr // see above
	}
	r.put(r.header(uint32(size)))
	if r.err == nil {
		_, r.err = seeker.Seek(0, io.SeekEnd)
	}
	return r.err
}

// gain scales signed little-endian samples in place, for the bit depths 16, 24
// and 32.
func gain(data []byte, bitDepth int, g float64) {
	if g == 1 {
		return
	}
	if g == 0 {
		clear(data)
		return
	}
	n := bitDepth / 8
	for i := 0; i+n <= len(data); i += n {
		v := int64(int8(data[i+n-1])) // the top byte has the sign
		for k := n - 2; k >= 0; k-- {
			v = v<<8 | int64(data[i+k])
		}
		v = int64(math.Round(float64(v) * g))
		for k := range n {
			data[i+k] = byte(v >> (8 * k))
		}
	}
}

// amplitude is the factor for a volume of 0 to 100, perceived loudness (spec:
// player role, volume to gain).
func amplitude(volume int, muted bool) float64 {
	if muted {
		return 0
	}
	return math.Pow(float64(volume)/100, 1.5)
}
