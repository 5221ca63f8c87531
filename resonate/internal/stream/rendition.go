package stream

import (
	"fmt"

	"resonatebridge/resonate/audio"
	"resonatebridge/resonate/protocol"
)

// Chunk is one encoded piece of audio, shared by every member that plays its
// format. It is immutable.
type Chunk struct {
	Timestamp micros // server time at which its first sample sounds
	End       micros // and at which its last one has sounded
	Data      []byte // what the codec made, without the header of a frame

	framed framed
}

// Encoder turns PCM into the frames of one codec. The engine alone calls it.
type Encoder interface {
	// Frames is how many frames one packet holds; 0: any number.
	Frames() int
	// Header is the decoder's setup, nil if the codec needs none.
	Header() []byte
	// Delay is how many frames the decoder's output lags behind the input.
	Delay() int
	// Encode returns the packet for pcm, interleaved, in new memory. Only the
	// last packet of a stream may be shorter than Frames.
	Encode(pcm []int32) ([]byte, error)
}

// Converter changes the sample rate of a stream of PCM. A fork of it goes on
// independently from where it is.
type Converter interface {
	// Convert appends what comes of src to dst.
	Convert(dst, src []int32) []int32
	// Flush appends what is still inside.
	Flush(dst []int32) []int32
	Fork() Converter
}

// mode is what makes one rendition differ from another.
type mode struct {
	format protocol.Format
	frames int     // of a chunk, if the codec leaves the choice
	gain   float64 // for players whose dialect has no volume; else 1
	mixed  bool    // with the announcement
}

// rendition is the timeline in one wire format. It starts somewhere, and from
// there on every frame of the timeline goes through it once.
type rendition struct {
	mode
	enc    Encoder
	header []byte
	turn   audio.Gain // towards mode.gain
	conv   Converter  // nil: the timeline has its rate already
	tl     timeline   // in frames of its own rate
	size   int        // frames of a chunk

	skip    int     // frames of the timeline that it does not take
	next    int64   // position of the first frame that is not in a chunk
	pending []int32 // frames from next on
	chunks  []*Chunk
	first   uint64 // number of chunks[0]

	encoded func() // counts
}

// feed takes the next block of the timeline.
func (r *rendition) feed(pcm []int32) error {
	if r.skip > 0 {
		n := min(r.skip, len(pcm)/Channels)
		r.skip -= n
		pcm = pcm[n*Channels:]
	}
	at := len(r.pending)
	if r.conv != nil {
		r.pending = r.conv.Convert(r.pending, pcm)
	} else {
		r.pending = append(r.pending, pcm...)
	}
	r.turn.Apply(r.pending[at:])
	return r.encode(false)
}

// flush makes chunks of everything that is left.
func (r *rendition) flush() error {
	if r.conv != nil {
		at := len(r.pending)
		r.pending = r.conv.Flush(r.pending)
		r.turn.Apply(r.pending[at:])
	}
	return r.encode(true)
}

func (r *rendition) encode(all bool) error {
	used := 0
	for {
		rest := r.pending[used:]
		n := r.size
		if have := len(rest) / Channels; have < n {
			if !all || have == 0 {
				break
			}
			n = have
			if fixed := r.enc.Frames(); fixed != 0 && fixed == r.size { // the codec knows no shorter one
				rest = append(rest, make([]int32, (fixed-have)*Channels)...)
				n = fixed
			}
		}
		data, err := r.enc.Encode(rest[:n*Channels])
		if err != nil {
			return fmt.Errorf("stream: encode %s: %w", r.format.Codec, err)
		}
		r.encoded()
		lag := int64(r.enc.Delay())
		r.chunks = append(r.chunks, &Chunk{Timestamp: r.tl.time(r.next - lag), End: r.tl.time(r.next + int64(n) - lag), Data: data})
		r.next += int64(n)
		used = min(used+n*Channels, len(r.pending))
	}
	r.pending = append(r.pending[:0], r.pending[used:]...)
	return nil
}

// forget lets go of chunks that have sounded, but for those from number keep on.
func (r *rendition) forget(now micros, keep uint64) {
	n := 0
	for n < len(r.chunks) && r.chunks[n].End <= now && r.first+uint64(n) < keep {
		n++
	}
	clear(r.chunks[:n])
	r.chunks = r.chunks[n:]
	r.first += uint64(n)
}

// end is the number after the last chunk.
func (r *rendition) end() uint64 { return r.first + uint64(len(r.chunks)) }

// chunk returns one by number; nil if it is not made yet.
func (r *rendition) chunk(number uint64) *Chunk {
	if number < r.first || number >= r.end() {
		return nil
	}
	return r.chunks[number-r.first]
}

// when is the time of a chunk that is there or is to come.
func (r *rendition) when(number uint64) micros {
	if c := r.chunk(number); c != nil {
		return c.Timestamp
	}
	after := int64(number) - int64(r.end())
	return r.tl.time(r.next - int64(r.enc.Delay()) + after*int64(r.size))
}

// from is the number of the first chunk, there or to come, that sounds at or after t.
func (r *rendition) from(t micros) uint64 {
	for i, c := range r.chunks {
		if c.Timestamp >= t {
			return r.first + uint64(i)
		}
	}
	short := r.tl.position(t) - (r.next - int64(r.enc.Delay())) // frames
	size := int64(r.size)
	return r.end() + uint64(max(short+size-1, 0)/size)
}

// gainRamp is how long a new volume takes to be reached, so that it does not click.
const gainRamp = 20_000 // micros

// fork is a rendition in another mode of the same format that goes on where r
// is: for members that leave the announcement or get another gain. Chunks that
// are made are shared, those to come are not.
func (r *rendition) fork(m mode, enc Encoder) *rendition {
	f := *r
	if m.gain != r.gain {
		f.turn.Ramp(m.gain, r.tl.rate*gainRamp/second)
	}
	f.mode, f.enc, f.header = m, enc, enc.Header()
	f.pending = append([]int32(nil), r.pending...)
	f.chunks = append([]*Chunk(nil), r.chunks...)
	if r.conv != nil {
		f.conv = r.conv.Fork()
	}
	return &f
}
