package audio

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"github.com/mewkiz/flac/frame"

	"resonatebridge/resonate/protocol"
)

// Types of FLAC metadata blocks (RFC 9639 section 8.1).
const (
	flacStreamInfo = 0
	flacComments   = 4
	flacPicture    = 6
	flacInfoSize   = 34
)

// flacInfo is what the metadata of a FLAC stream says.
type flacInfo struct {
	format  protocol.Format
	block   int64 // frames of each block, if they are all alike
	total   int64 // frames in all; 0: not known
	comment Tags
	picture []byte
	cover   int // type of picture
}

// block takes a metadata block.
func (f *flacInfo) take(kind byte, b []byte) error {
	switch kind {
	case flacStreamInfo:
		if len(b) < flacInfoSize {
			return errors.New("a short STREAMINFO")
		}
		bits := binary.BigEndian.Uint64(b[10:])
		f.format = protocol.Format{
			Codec: "flac", SampleRate: int(bits >> 44), Channels: int(bits>>41&7) + 1, BitDepth: int(bits>>36&31) + 1,
		}
		f.block = int64(binary.BigEndian.Uint16(b[2:]))
		f.total = int64(bits & (1<<36 - 1))
		return checkFormat(f.format)
	case flacComments:
		f.comment, _ = parseComments(b)
	case flacPicture:
		if f.picture == nil {
			f.cover = -1
		}
		f.picture, f.cover = betterPicture(f.picture, f.cover, b)
	}
	return nil
}

// appendFLAC appends the frame's samples to dst, interleaved.
func appendFLAC(dst []int32, f *frame.Frame, want protocol.Format) ([]int32, error) {
	if len(f.Subframes) != want.Channels || f.BitsPerSample != 0 && int(f.BitsPerSample) != want.BitDepth {
		return dst, errors.New("a frame of another format")
	}
	n, at := f.Subframes[0].NSamples, len(dst)
	for range n * want.Channels {
		dst = append(dst, 0)
	}
	for c, sub := range f.Subframes {
		for i, v := range sub.Samples[:n] {
			dst[at+i*want.Channels+c] = v << (32 - want.BitDepth)
		}
	}
	return dst, nil
}

// flacDecoder decodes native FLAC.
type flacDecoder struct {
	media *stream
	info  flacInfo
	p     props
	start int64 // offset of the first frame
	out   []int32
	outAt int
	pos   int64 // number of the frame behind out
}

// openFLAC reads the metadata. The stream begins with fLaC.
func openFLAC(media *stream) (decoder, error) {
	d := &flacDecoder{media: media}
	if err := d.metadata(); err != nil {
		return nil, media.cause("flac", err)
	}
	d.start = media.offset()
	d.p = props{
		native: d.info.format, speakers: orderWAV()[d.info.format.Channels], frames: d.info.total,
		seekable: media.seekable && d.info.total > 0, tags: d.info.comment, picture: d.info.picture,
	}
	return d, nil
}

func (d *flacDecoder) metadata() error {
	if _, err := d.media.Discard(len("fLaC")); err != nil {
		return err
	}
	for last := false; !last; {
		head, err := d.media.take(4)
		if err != nil {
			return err
		}
		kind, size := head[0]&0x7f, int64(binary.BigEndian.Uint32(head)&(1<<24-1))
		last = head[0]&0x80 != 0
		if kind != flacStreamInfo && kind != flacComments && kind != flacPicture {
			if err := d.media.skip(size); err != nil {
				return err
			}
			continue
		}
		b, err := d.media.take(size)
		if err != nil {
			return err
		}
		if err := d.info.take(kind, b); err != nil {
			return err
		}
	}
	if d.info.format.SampleRate == 0 {
		return errors.New("no STREAMINFO")
	}
	return nil
}

func (d *flacDecoder) props() *props { return &d.p }
func (d *flacDecoder) close()        {}

func (d *flacDecoder) read(dst []int32) (int, error) {
	channels := d.p.native.Channels
	for d.outAt == len(d.out) {
		d.out, d.outAt = d.out[:0], 0
		if err := d.more(); err != nil {
			return 0, err
		}
	}
	n := copy(dst[:len(dst)/channels*channels], d.out[d.outAt:])
	d.outAt += n
	return n / channels, nil
}

// more decodes the next frame. One that is damaged is silence.
func (d *flacDecoder) more() error {
	for {
		at, err := d.sync()
		if err != nil {
			if errors.Is(err, io.EOF) && d.pos < d.info.total {
				err = io.ErrUnexpectedEOF
			}
			return err
		}
		f, err := parseFLAC(d.media)
		if err != nil {
			if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || d.media.failure() != nil {
				return io.ErrUnexpectedEOF
			}
			continue // sync finds the next one
		}
		channels := d.p.native.Channels
		if hole := at - d.pos; hole > 0 && hole < 10*int64(d.p.native.SampleRate) {
			d.out = append(d.out, make([]int32, hole*int64(channels))...)
		}
		if d.out, err = appendFLAC(d.out, f, d.p.native); err != nil {
			return err
		}
		d.pos = at + int64(f.Subframes[0].NSamples)
		return nil
	}
}

// parseFLAC decodes a frame.
func parseFLAC(r io.Reader) (f *frame.Frame, err error) {
	defer recovered(&err)
	return frame.Parse(r)
}

// sync goes to the next header of a frame and returns the number of its first
// sample.
func (d *flacDecoder) sync() (int64, error) {
	const longest = 16 // bytes of a header
	for range maxGarbage {
		head, err := d.media.Peek(longest)
		if len(head) < 6 {
			if err == nil || errors.Is(err, io.EOF) {
				err = io.EOF
			}
			return 0, err
		}
		if head[0] == 0xff && head[1]&0xfe == 0xf8 {
			if f, err := frame.New(bytes.NewReader(head)); err == nil && f.Channels.Count() == d.p.native.Channels {
				at := int64(f.Num)
				if f.HasFixedBlockSize {
					at *= d.info.block
				}
				return at, nil
			}
		}
		_, _ = d.media.Discard(1)
	}
	return 0, fmt.Errorf("%w: no FLAC frame in %d bytes", ErrDamaged, maxGarbage)
}

func (d *flacDecoder) seek(target int64) error {
	d.out, d.outAt = d.out[:0], 0
	from, err := bisect(d.start, d.media.size, func(offset int64) (int64, bool, error) {
		if _, err := d.media.Seek(offset, io.SeekStart); err != nil {
			return 0, false, err
		}
		at, err := d.sync()
		return d.media.offset(), at <= target, err
	})
	if err == nil {
		_, err = d.media.Seek(from, io.SeekStart)
	}
	if err != nil {
		return err
	}
	if d.pos, err = d.sync(); err != nil {
		return err
	}
	for d.pos <= target {
		d.out = d.out[:0]
		begin := d.pos
		if err := d.more(); err != nil {
			return err
		}
		if d.pos > target {
			d.outAt = int(target-begin) * d.p.native.Channels
		}
	}
	return nil
}

// oggFLACDecoder decodes the packets of FLAC in Ogg (RFC 9639 section 10.1).
type oggFLACDecoder struct {
	info    flacInfo
	started bool
}

func (d *oggFLACDecoder) header(packet []byte) (done bool, err error) {
	const before = 9 // bytes of the mapping in the first packet
	if !d.started {
		d.started = true
		if len(packet) < before+4+4+flacInfoSize {
			return false, errors.New("a short first packet")
		}
		packet = packet[before+4:]
	}
	if len(packet) < 4 {
		return false, errors.New("a short metadata block")
	}
	return packet[0]&0x80 != 0, d.info.take(packet[0]&0x7f, packet[4:])
}

func (d *oggFLACDecoder) format() (protocol.Format, string) {
	return d.info.format, orderWAV()[d.info.format.Channels]
}

func (d *oggFLACDecoder) tags() (Tags, []byte) { return d.info.comment, d.info.picture }

func (d *oggFLACDecoder) decode(dst []int32, packet []byte) ([]int32, error) {
	f, err := parseFLAC(bytes.NewReader(packet))
	if err != nil {
		return dst, err
	}
	return appendFLAC(dst, f, d.info.format)
}

func (*oggFLACDecoder) prime([]byte)  {}
func (*oggFLACDecoder) skip() int64   { return 0 }
func (*oggFLACDecoder) warmup() int64 { return 0 }
