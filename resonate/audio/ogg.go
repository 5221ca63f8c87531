package audio

import (
	"bytes"
	"errors"
	"fmt"
	"io"

	"github.com/thesyncim/gopus/container/ogg"

	"resonatebridge/resonate/protocol"
)

// Limits of an Ogg stream.
const (
	oggPageHeader = 27
	maxGarbage    = 1 << 20 // bytes between what belongs to a medium
	maxBad        = 50      // packets in a row that can't be decoded
)

// errChained ends an Ogg stream whose next part has another format. A radio
// station is asked again then, a file is damaged.
var errChained = errors.New("its format changes in the middle")

// packetDecoder decodes the packets of one logical Ogg stream.
type packetDecoder interface {
	// header takes the next of the packets that come before the sound, and
	// reports whether it was the last.
	header(packet []byte) (done bool, err error)
	// format is known after the headers.
	format() (f protocol.Format, speakers string)
	// tags likewise.
	tags() (Tags, []byte)
	// decode appends the frames of a packet.
	decode(dst []int32, packet []byte) ([]int32, error)
	// prime takes the packet before a place where decoding goes on, nil at the
	// beginning.
	prime(packet []byte)
	// skip is how many frames of the stream come before the sound, and warmup
	// how many before a place have to be decoded for it to sound right.
	skip() int64
	warmup() int64
}

// newPacketDecoder knows a logical stream by its first packet; nil if it is none
// of ours.
func newPacketDecoder(packet []byte) packetDecoder {
	switch {
	case bytes.HasPrefix(packet, []byte("OpusHead")):
		return &opusDecoder{}
	case bytes.HasPrefix(packet, []byte("\x01vorbis")):
		return &vorbisDecoder{}
	case bytes.HasPrefix(packet, []byte("\x7fFLAC")):
		return &oggFLACDecoder{}
	}
	return nil
}

// oggDecoder decodes Ogg: Opus, Vorbis and FLAC, also several streams one after
// the other, as radio stations send them. What is multiplexed with the sound is
// passed over.
type oggDecoder struct {
	media *stream
	dec   packetDecoder
	p     props

	serial uint32
	start  int64  // offset of the first page with sound
	at     int64  // offset of the last page read
	part   []byte // of a packet that goes on with the next page
	torn   bool   // a page was lost, so part is of no use
	bad    int    // packets in a row that could not be decoded

	out      []int32 // decoded, not read yet, from outAt on
	outAt    int
	anchored bool  // pos is known
	pos      int64 // granule position at the end of out
	origin   int64 // granule position of the first frame that sounds
	want     int64 // granule position of the next frame to return; -1: that of origin, to be found
	ended    bool  // the logical stream
}

func openOgg(media *stream) (decoder, error) {
	d := &oggDecoder{media: media}
	if err := d.headers(nil); err != nil {
		return nil, media.cause("ogg", err)
	}
	d.p.native, d.p.speakers = d.dec.format()
	if err := checkFormat(d.p.native); err != nil {
		return nil, err
	}
	d.p.tags, d.p.picture = d.dec.tags()
	var last int64
	if media.seekable {
		last = d.lastPosition()
		if _, err := media.Seek(d.start, io.SeekStart); err != nil {
			return nil, media.cause("ogg", err)
		}
	}
	if err := d.fill(); err != nil && !errors.Is(err, io.EOF) {
		return nil, media.cause("ogg", err)
	}
	if last > d.origin {
		d.p.frames, d.p.seekable = last-d.origin, true
	}
	return d, nil
}

// page reads the next page, passing over what is none.
func (d *oggDecoder) page() (*ogg.Page, error) {
	for garbage := range maxGarbage {
		head, err := d.media.Peek(oggPageHeader)
		if err != nil {
			if errors.Is(err, io.EOF) && len(head) > 0 && garbage == 0 {
				err = io.ErrUnexpectedEOF
			}
			return nil, err
		}
		if string(head[:4]) == "OggS" {
			p, n, err := d.peekPage(int(head[26]))
			if err == nil {
				d.at = d.media.offset()
				_, err = d.media.Discard(n)
				return p, err
			}
			if !errors.Is(err, ogg.ErrBadCRC) {
				return nil, err
			}
		}
		d.torn = true
		_, _ = d.media.Discard(1)
	}
	return nil, fmt.Errorf("%w: no Ogg page in %d bytes", ErrDamaged, maxGarbage)
}

// peekPage parses the page of so many segments that comes next.
func (d *oggDecoder) peekPage(segments int) (*ogg.Page, int, error) {
	head, err := d.media.Peek(oggPageHeader + segments)
	size := len(head)
	if err == nil {
		for _, n := range head[oggPageHeader:] {
			size += int(n)
		}
		head, err = d.media.Peek(size)
	}
	if errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	if err != nil {
		return nil, 0, err
	}
	return ogg.ParsePage(head)
}

// packets calls f with each packet that ends on p.
func (d *oggDecoder) packets(p *ogg.Page, f func([]byte) error) error {
	if d.torn || !p.IsContinuation() {
		d.part = d.part[:0]
	}
	whole := !p.IsContinuation() || len(d.part) > 0 // its beginning is there
	d.torn = false
	at, end := 0, 0
	for _, n := range p.Segments {
		end += int(n)
		if n == 255 {
			continue
		}
		packet := p.Payload[at:end]
		at = end
		if len(d.part) > 0 {
			d.part = append(d.part, packet...)
			packet = d.part
		}
		if whole && len(packet) > 0 {
			if err := f(packet); err != nil {
				return err
			}
		}
		d.part, whole = d.part[:0], true
	}
	if len(d.part)+end-at > maxTags {
		return fmt.Errorf("%w: an Ogg packet of more than %d bytes", ErrDamaged, maxTags)
	}
	if whole {
		d.part = append(d.part, p.Payload[at:end]...)
	}
	return nil
}

// headers finds a logical stream that can be decoded, and reads its headers.
// The first page may have been read already.
func (d *oggDecoder) headers(p *ogg.Page) (err error) {
	d.dec = nil
	for done := false; !done; p = nil {
		if p == nil {
			if p, err = d.page(); errors.Is(err, io.EOF) {
				return io.ErrUnexpectedEOF
			} else if err != nil {
				return err
			}
		}
		switch {
		case d.dec == nil && p.IsBOS():
			if d.dec = newPacketDecoder(p.Payload); d.dec == nil {
				continue // the picture of a film, perhaps
			}
			d.serial = p.SerialNumber
		case d.dec == nil:
			return fmt.Errorf("%w: Ogg without Opus, Vorbis or FLAC", ErrUnsupported)
		case p.SerialNumber != d.serial:
			continue
		}
		err = d.packets(p, func(packet []byte) error {
			if done {
				return errors.New("sound on the page of the headers")
			}
			done, err = d.dec.header(packet)
			return err
		})
		if err != nil {
			return err
		}
	}
	d.start, d.want = d.media.offset(), -1
	d.restart()
	return nil
}

// restart forgets what was decoded.
func (d *oggDecoder) restart() {
	d.out, d.outAt, d.part = d.out[:0], 0, d.part[:0]
	d.anchored, d.ended, d.torn, d.bad = false, false, false, 0
}

func (d *oggDecoder) props() *props { return &d.p }
func (d *oggDecoder) close()        {}

func (d *oggDecoder) read(dst []int32) (int, error) {
	if err := d.fill(); err != nil {
		return 0, err
	}
	channels := d.p.native.Channels
	n := copy(dst[:len(dst)/channels*channels], d.out[d.outAt:])
	d.outAt += n
	return n / channels, nil
}

// fill decodes pages until something can be returned.
func (d *oggDecoder) fill() error {
	for d.outAt == len(d.out) || !d.anchored {
		if d.anchored {
			d.out, d.outAt = d.out[:0], 0
		}
		if err := d.more(); err != nil {
			return err
		}
	}
	return nil
}

// more decodes the next page.
func (d *oggDecoder) more() error {
	p, err := d.page()
	switch {
	case errors.Is(err, io.EOF) && !d.ended && d.media.size >= 0:
		return io.ErrUnexpectedEOF // the last page of a file says that it is the last
	case err != nil:
		return err
	case p.IsBOS() && (d.ended || p.SerialNumber != d.serial):
		return d.chain(p)
	case p.SerialNumber != d.serial || d.ended:
		return nil
	}
	err = d.packets(p, func(packet []byte) error {
		out, err := d.dec.decode(d.out, packet)
		if d.bad++; err == nil {
			d.out, d.bad = out, 0
		}
		if d.bad == maxBad {
			return err
		}
		return nil // place makes up for it with silence
	})
	if err != nil {
		return err
	}
	d.place(int64(p.GranulePos), p.IsEOS())
	d.ended = p.IsEOS()
	return nil
}

// chain goes on with the next logical stream, which p begins.
func (d *oggDecoder) chain(p *ogg.Page) error {
	d.part = d.part[:0]
	if err := d.headers(p); err != nil {
		return err
	}
	if f, _ := d.dec.format(); f != d.p.native {
		return errChained
	}
	d.p.tags, d.p.picture = d.dec.tags()
	return nil
}

// place puts what was decoded of a page at its position, which is that of the
// end of its last packet; last says that the page is the last. So the sound is
// trimmed at both ends, and a hole is silence of the right length.
func (d *oggDecoder) place(granule int64, last bool) {
	channels := d.p.native.Channels
	n := int64(len(d.out) / channels)
	longest := int64(d.p.native.SampleRate) * 10 // of a hole, and of what waits for a position
	switch {
	case granule < 0: // no packet ends on this page
		if d.pos += n; !d.anchored && n < longest {
			d.pos = 0
			return
		}
	case !d.anchored:
		d.pos = granule
		if last {
			d.pos = max(d.pos, n) // where it begins can't be told: at 0
		}
	case last:
		d.pos += n
	default:
		if hole := granule - d.pos - n; hole > 0 && hole <= longest {
			d.out = append(make([]int32, hole*int64(channels)), d.out...)
			n += hole
		}
		d.pos = granule
	}
	d.anchored = true
	begin := d.pos - n
	if d.want < 0 {
		d.origin = max(begin, 0) + d.dec.skip()
		d.want = d.origin
	}
	if over := d.pos - granule; last && granule >= 0 && over > 0 {
		n = max(0, n-over)
		d.out = d.out[:n*int64(channels)]
	}
	d.outAt = int(min(n, max(0, d.want-begin))) * channels
}

// lastPosition returns the granule position at the end of the file; 0 if
// another logical stream ends it.
func (d *oggDecoder) lastPosition() (last int64) {
	if _, err := d.media.Seek(max(d.start, d.media.size-ahead), io.SeekStart); err != nil {
		return 0
	}
	for {
		p, err := d.page()
		switch {
		case err != nil:
			return last
		case p.SerialNumber != d.serial:
			return 0
		case int64(p.GranulePos) > 0:
			last = int64(p.GranulePos)
		}
	}
}

func (d *oggDecoder) seek(frame int64) error {
	d.want = d.origin + frame
	target := d.want - d.dec.warmup()
	// next finds the first page with a position at or after the offset.
	next := func(offset int64) (*ogg.Page, error) {
		if _, err := d.media.Seek(offset, io.SeekStart); err != nil {
			return nil, err
		}
		for {
			p, err := d.page()
			if err != nil || p.SerialNumber == d.serial && int64(p.GranulePos) >= 0 {
				return p, err
			}
		}
	}
	from, err := bisect(d.start, d.media.size, func(offset int64) (int64, bool, error) {
		p, err := next(offset)
		if err != nil {
			return 0, false, err
		}
		return d.at, int64(p.GranulePos) <= target, nil
	})
	if err != nil {
		return err
	}
	// Page by page from there, to the last one that ends before the target.
	before := int64(-1)
	for offset := from; ; offset = d.media.offset() {
		p, err := next(offset)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return err
		}
		if int64(p.GranulePos) > target {
			break
		}
		before = d.at
	}
	d.restart()
	if before < 0 {
		d.dec.prime(nil)
		_, err := d.media.Seek(d.start, io.SeekStart)
		return err
	}
	p, err := next(before)
	if err != nil {
		return err
	}
	var packet []byte
	d.torn = true
	err = d.packets(p, func(b []byte) error {
		packet = bytes.Clone(b)
		return nil
	})
	d.dec.prime(packet)
	d.pos, d.anchored, d.ended = int64(p.GranulePos), true, p.IsEOS()
	return err
}

// bisect narrows down where in a file, between two offsets, something is. found
// looks at the first unit at or after an offset, and returns where that begins
// and whether what is looked for comes after it. The result is the beginning of
// such a unit, not far before it, or lo.
func bisect(lo, hi int64, found func(offset int64) (at int64, after bool, err error)) (int64, error) {
	for hi-lo > ahead {
		mid := lo + (hi-lo)/2
		at, after, err := found(mid)
		switch {
		case errors.Is(err, io.EOF), err == nil && !after, err == nil && at >= hi:
			hi = mid
		case err != nil:
			return lo, err
		default:
			lo = at
		}
	}
	return lo, nil
}
