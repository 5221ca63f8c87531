package audio

import (
	"errors"
	"fmt"
	"math/bits"
	"slices"

	"github.com/jfreymuth/vorbis"

	"resonatebridge/resonate/protocol"
)

// vorbisDecoder decodes the packets of Ogg Vorbis.
type vorbisDecoder struct {
	dec     vorbis.Decoder
	headers int
	comment Tags
	picture []byte
	buf     []float32
}

func (d *vorbisDecoder) header(packet []byte) (done bool, err error) {
	defer recovered(&err)
	if !vorbis.IsHeader(packet) || packet[0] != byte(2*d.headers+1) {
		return false, errors.New("a header is missing")
	}
	switch d.headers++; d.headers {
	case 1:
		if err = d.dec.ReadHeader(packet); err != nil {
			return false, err
		}
		// The block sizes are powers of two from 64 to 8192, in order.
		if s := packet[28]; s&15 < 6 || s>>4 > 13 || s&15 > s>>4 || d.dec.Channels() < 1 {
			return false, errors.New("block sizes that can't be")
		}
		if d.dec.Channels() > maxChannels {
			return false, fmt.Errorf("%w: Vorbis with %d channels", ErrUnsupported, d.dec.Channels())
		}
	case 2:
		d.comment, d.picture = parseComments(packet[7:])
	case 3:
		if err = checkSetup(packet[7:]); err != nil {
			return false, err
		}
		if err = d.dec.ReadHeader(packet); err != nil {
			return false, err
		}
		d.buf = make([]float32, d.dec.BufferSize())
	}
	return d.headers == 3, nil
}

func (d *vorbisDecoder) format() (protocol.Format, string) {
	n := d.dec.Channels()
	return protocol.Format{Codec: "vorbis", Channels: n, SampleRate: d.dec.SampleRate(), BitDepth: 24}, orderVorbis()[n]
}

func (d *vorbisDecoder) tags() (Tags, []byte) { return d.comment, d.picture }

func (d *vorbisDecoder) decode(dst []int32, packet []byte) (out []int32, err error) {
	defer recovered(&err)
	pcm, err := d.dec.DecodeInto(packet, d.buf)
	if err != nil {
		return dst, err
	}
	for _, v := range pcm {
		dst = append(dst, fromFloat(float64(v)))
	}
	return dst, nil
}

func (d *vorbisDecoder) prime(packet []byte) {
	d.dec.Clear()
	if packet != nil {
		_, _ = d.decode(nil, packet)
	}
}

func (*vorbisDecoder) skip() int64     { return 0 }
func (d *vorbisDecoder) warmup() int64 { return 0 }

// recovered makes an error of a panic, of which the libraries that decode have
// some for broken input.
func recovered(err *error) {
	if r := recover(); r != nil {
		*err = fmt.Errorf("can't be decoded: %v", r)
	}
}

// errSetup is a setup header of which the library would make tables of any size,
// or which it would never get to the end of.
var errSetup = errors.New("a setup that can't be")

// maxCodebook is the most values in a codebook; encoders use some thousand.
const maxCodebook = 1 << 20

// checkSetup reads a Vorbis setup header (Vorbis I section 4.2.4) as far as the
// library believes without a check what it finds there.
func checkSetup(b []byte) error {
	r := &lsbReader{b: b}
	for range r.read(8) + 1 {
		if err := checkCodebook(r); err != nil {
			return err
		}
	}
	for range r.read(6) + 1 { // time domain transforms: none
		r.read(16)
	}
	for range r.read(6) + 1 {
		if err := checkFloor(r); err != nil {
			return err
		}
	}
	for range r.read(6) + 1 {
		r.read(16)
		begin, end := r.read(24), r.read(24)
		if begin > end || r.over {
			return errSetup
		}
		r.read(24)
		var books int
		classes := r.read(6) + 1
		r.read(8)
		for range classes {
			cascade := r.read(3)
			if r.read(1) == 1 {
				cascade |= r.read(5) << 3
			}
			books += bits.OnesCount32(cascade)
		}
		for range books {
			r.read(8)
		}
	}
	if r.over {
		return errSetup
	}
	return nil
}

func checkFloor(r *lsbReader) error {
	if r.read(16) == 0 {
		for _, width := range [...]int{8, 16, 16, 6, 8} {
			r.read(width)
		}
		for range r.read(4) + 1 {
			r.read(8)
		}
		return nil
	}
	partitions := make([]uint32, r.read(5))
	if len(partitions) == 0 {
		return fmt.Errorf("%w: Vorbis with an empty floor, such as a woofer's", ErrUnsupported)
	}
	for i := range partitions {
		partitions[i] = r.read(4)
	}
	var dimensions [16]uint32
	for class := range slices.Max(partitions) + 1 {
		dimensions[class] = r.read(3) + 1
		subclasses := int(r.read(2))
		if subclasses > 0 {
			r.read(8)
		}
		for range 1 << subclasses {
			r.read(8)
		}
	}
	r.read(2)
	width := int(r.read(4))
	for _, class := range partitions {
		for range dimensions[class] {
			r.read(width)
		}
	}
	return nil
}

func checkCodebook(r *lsbReader) error {
	sync, dimensions, entries := r.read(24), r.read(16), r.read(24)
	values := uint64(dimensions) * uint64(entries)
	if sync != 0x564342 || dimensions == 0 || entries < 2 || values > maxCodebook {
		return errSetup
	}
	used := false
	if ordered := r.read(1) == 1; ordered {
		r.read(5)
		for at := uint32(0); at < entries && !r.over; {
			n := r.read(bits.Len32(entries - at))
			if at += n; at > entries {
				return errSetup
			}
			used = used || n > 0
		}
	} else {
		sparse := r.read(1) == 1
		for range entries {
			if !sparse || r.read(1) == 1 {
				r.read(5)
				used = true
			}
		}
	}
	if lookup := r.read(4); lookup > 0 {
		r.read(32)
		r.read(32)
		width := int(r.read(4)) + 1
		r.read(1)
		if lookup == 1 {
			values = uint64(lookupValues(int(entries), int(dimensions)))
		}
		for range values {
			r.read(width)
		}
	}
	if r.over || !used {
		return errSetup
	}
	return nil
}

// lookupValues is the greatest integer whose power of dimensions is at most entries.
func lookupValues(entries, dimensions int) int {
	fits := func(n int) bool {
		p := 1
		for range dimensions {
			if p *= n; p > entries {
				return false
			}
		}
		return true
	}
	n := 1
	for fits(n + 1) {
		n++
	}
	return n
}

// lsbReader reads numbers off bytes, lowest bit first.
type lsbReader struct {
	b    []byte
	at   int  // bits
	over bool // there were not enough
}

func (r *lsbReader) read(n int) uint32 {
	if r.at+n > 8*len(r.b) {
		r.over = true
		return 0
	}
	var v uint64
	for i, shift := r.at/8, -(r.at % 8); shift < n; i, shift = i+1, shift+8 {
		if shift < 0 {
			v = uint64(r.b[i]) >> -shift
		} else {
			v |= uint64(r.b[i]) << shift
		}
	}
	r.at += n
	return uint32(v & (1<<n - 1))
}
