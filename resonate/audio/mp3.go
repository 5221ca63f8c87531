package audio

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	mp3 "github.com/hajimehoshi/go-mp3"

	"resonatebridge/resonate/protocol"
)

// mp3Header is what the four bytes before an MPEG audio frame say.
type mp3Header struct {
	lsf      bool // MPEG-2: half the rates, half the frames
	layer    int
	rate     int
	channels int
	kbits    int // per second
	size     int // bytes, with the header
	side     int // bytes of side information after the header
}

// parseMP3Header knows MPEG-1 and MPEG-2, layers II and III. Free bit rates and
// MPEG 2.5 are nothing that is decoded here.
func parseMP3Header(b []byte) (h mp3Header, ok bool) {
	if len(b) < 4 || b[0] != 0xff || b[1]&0xf0 != 0xf0 {
		return h, false
	}
	h.lsf = b[1]&8 == 0
	h.layer = 4 - int(b[1]>>1&3)
	index, rate, padding := b[2]>>4, b[2]>>2&3, int(b[2]>>1&1)
	if h.layer != 2 && h.layer != 3 || index == 0 || index == 15 || rate == 3 || b[3]&3 == 2 {
		return h, false
	}
	rates := [...]int{44100, 48000, 32000}
	switch {
	case h.lsf:
		h.kbits = [...]int{0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160}[index]
	case h.layer == 3:
		h.kbits = [...]int{0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320}[index]
	default:
		h.kbits = [...]int{0, 32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384}[index]
	}
	h.rate, h.channels = rates[rate], 2
	per := 144
	if h.lsf {
		h.rate /= 2
		if h.layer == 3 {
			per = 72
		}
	}
	h.size = per*h.kbits*1000/h.rate + padding
	mono := b[3]>>6 == 3
	if mono {
		h.channels = 1
	}
	switch {
	case !h.lsf && !mono:
		h.side = 32
	case h.lsf && mono:
		h.side = 9
	default:
		h.side = 17
	}
	return h, true
}

// like reports whether both can belong to one stream.
func (h mp3Header) like(g mp3Header) bool {
	return h.lsf == g.lsf && h.layer == g.layer && h.rate == g.rate && h.channels == g.channels
}

func (h mp3Header) frames() int {
	if h.lsf {
		return 576
	}
	return 1152
}

const (
	// mp3Delay is by how many frames the decoder lags.
	mp3Delay = 529
	// mp3Reservoir is how many frames of an MP3 stream may lean on those before:
	// 511 bytes at the lowest bit rate, and one whose second half overlaps.
	mp3Reservoir = 12
	mp3Channels  = 2 // of the library, whatever the stream has
)

// mp3Decoder decodes MPEG layer III. It finds the frames and hands them to the
// library, which gives up at the first thing that is none.
type mp3Decoder struct {
	media  *stream
	p      props
	first  mp3Header
	start  int64 // offset of the first frame with sound
	lead   int64 // frames that the library returns before the sound
	synced bool  // the last frame ended where the next one begins

	next   int64   // number of the MPEG frame that comes next
	index  []int64 // offsets of the frames 0, stride, 2*stride, ...
	stride int64

	dec   *mp3.Decoder // nil: to be made
	frame []byte       // what the library has not read of the last frame
	fed   int64        // frames of sound handed to dec
	got   int64        // frames of sound that came out of it
	drop  int64        // frames of sound to leave out
	left  int64        // frames of sound until the end; negative: not known
	buf   []byte
}

// maxIndex bounds the memory that positions in a long file take.
const maxIndex = 4096

// openMP3 finds the first frame. The error is ErrUnsupported if there is none.
func openMP3(media *stream, tags Tags, picture []byte) (decoder, error) {
	d := &mp3Decoder{media: media, stride: 1, left: -1}
	d.p.tags, d.p.picture = tags, picture
	head, err := d.find()
	if err != nil {
		if errors.Is(err, io.EOF) {
			err = fmt.Errorf("%w: there is no MP3 frame in it", ErrUnsupported)
		}
		return nil, media.cause("mp3", err)
	}
	d.first, _ = parseMP3Header(head)
	d.p.native = protocol.Format{Codec: "mp3", Channels: mp3Channels, SampleRate: d.first.rate, BitDepth: 16}
	if d.first.layer != 3 {
		return nil, fmt.Errorf("%w: MPEG layer %d", ErrUnsupported, d.first.layer)
	}
	total := int64(-1)
	if count, delay, padding, ok := parseLAME(head, d.first); ok {
		if _, err := media.Discard(len(head)); err != nil {
			return nil, media.cause("mp3", err)
		}
		if d.lead = delay + mp3Delay; delay == 0 && padding == 0 {
			d.lead = 0 // it does not say
		}
		if count > 0 {
			total = max(0, count*int64(d.first.frames())-delay-padding)
		}
	}
	d.start = media.offset()
	if media.size >= 0 && total >= 0 {
		d.p.frames = total
	}
	if media.seekable {
		d.p.seekable = true
		if total < 0 {
			d.p.frames = (media.size - d.start) * int64(d.first.rate) / int64(d.first.kbits*1000/8)
		}
	}
	d.left, d.drop, d.synced = total, d.lead, true
	return d, nil
}

// parseLAME reads the frame in which encoders say how many follow, and how much
// of their sound is none. What it does not say is 0.
func parseLAME(b []byte, h mp3Header) (count, delay, padding int64, ok bool) {
	be := binary.BigEndian
	at := 4 + h.side
	if len(b) < at+8 {
		return 0, 0, 0, false
	}
	if len(b) >= 36+26 && string(b[36:40]) == "VBRI" { // always there
		return int64(be.Uint32(b[36+14:])), 0, 0, true
	}
	if mark := string(b[at : at+4]); mark != "Xing" && mark != "Info" {
		return 0, 0, 0, false
	}
	flags := be.Uint32(b[at+4:])
	at += 8
	for i, size := range [...]int{4, 4, 100, 4} { // frames, bytes, places, quality
		if flags>>i&1 == 0 {
			continue
		}
		if len(b) < at+size {
			return count, 0, 0, true
		}
		if i == 0 {
			count = int64(be.Uint32(b[at:]))
		}
		at += size
	}
	const delays = 21 // after the encoder's name and more
	if len(b) >= at+delays+3 && (string(b[at:at+4]) == "LAME" || string(b[at:at+3]) == "Lav") {
		v := int64(be.Uint32(b[at+delays-1:]) & (1<<24 - 1))
		delay, padding = v>>12, v&0xfff
	}
	return count, delay, padding, true
}

// find goes to the next frame and returns it without taking it.
func (d *mp3Decoder) find() ([]byte, error) {
	for range maxGarbage {
		head, err := d.media.Peek(10)
		if len(head) < 4 {
			if err == nil || errors.Is(err, io.EOF) {
				err = io.EOF
			}
			return nil, err
		}
		if h, ok := parseMP3Header(head); ok && (d.first.rate == 0 || h.like(d.first)) {
			b, _ := d.media.Peek(h.size + 4)
			after, follows := parseMP3Header(b[min(len(b), h.size):])
			switch {
			case len(b) < h.size && d.synced: // the last one is cut
				return nil, io.EOF
			case len(b) >= h.size && (d.synced || len(b) == h.size || follows && after.like(h)):
				return b[:h.size], nil
			}
		} else if size := id3Size(head); size > 0 {
			if err := d.media.skip(size); err != nil {
				return nil, err
			}
			continue
		}
		d.synced = false
		if _, err := d.media.Discard(1); err != nil {
			return nil, err
		}
	}
	return nil, fmt.Errorf("%w: no MP3 frame in %d bytes", ErrDamaged, maxGarbage)
}

// take makes the next frame d.frame.
func (d *mp3Decoder) take() error {
	b, err := d.find()
	if err != nil {
		return err
	}
	if d.next == int64(len(d.index))*d.stride && d.p.seekable {
		if len(d.index) == maxIndex { // every other one will do
			for i := range maxIndex / 2 {
				d.index[i] = d.index[2*i]
			}
			d.index = d.index[:maxIndex/2]
			d.stride *= 2
		}
		if d.next == int64(len(d.index))*d.stride {
			d.index = append(d.index, d.media.offset())
		}
	}
	d.next++
	d.synced = true
	d.frame = append(d.frame[:0], b...)
	_, err = d.media.Discard(len(b))
	return err
}

// mp3Frames is the decoder's frames as the library reads them.
type mp3Frames struct{ d *mp3Decoder }

func (r mp3Frames) Read(p []byte) (int, error) {
	d := r.d
	if len(d.frame) == 0 {
		if err := d.take(); err != nil {
			return 0, err
		}
		d.fed += int64(d.first.frames())
	}
	n := copy(p, d.frame)
	d.frame = d.frame[n:]
	return n, nil
}

func (d *mp3Decoder) props() *props { return &d.p }
func (d *mp3Decoder) close()        {}

func (d *mp3Decoder) read(dst []int32) (int, error) {
	for {
		if d.left == 0 {
			return 0, io.EOF
		}
		n, err := d.decode(len(dst) / mp3Channels)
		if err != nil {
			return 0, err
		}
		b := d.buf[:4*n]
		skip := int(min(int64(n), d.drop))
		d.drop -= int64(skip)
		b = b[4*skip:]
		if n = len(b) / 4; d.left >= 0 {
			n = int(min(int64(n), d.left))
			d.left -= int64(n)
		}
		if n > 0 {
			unpack(dst, b[:4*n], 2)
			return n, nil
		}
	}
}

// decode fills d.buf with at most so many frames of sound. Frames that the
// library can't decode are silence.
func (d *mp3Decoder) decode(want int) (n int, err error) {
	want = min(want, d.first.frames())
	if len(d.buf) < 4*want {
		d.buf = make([]byte, 4*want)
	}
	if d.dec == nil {
		err = d.begin()
	}
	if err == nil {
		n, err = d.pull(d.buf[:4*want])
		d.got += int64(n / 4)
		if n > 0 {
			return n / 4, nil
		}
	}
	lost := int(min(d.fed-d.got, int64(want)))
	if errors.Is(err, io.EOF) || d.media.failure() != nil || lost <= 0 {
		if errors.Is(err, io.EOF) && d.left > 0 {
			err = d.short()
		}
		return 0, err
	}
	clear(d.buf[:4*lost])
	if d.got += int64(lost); d.got == d.fed {
		d.dec, d.frame = nil, d.frame[:0]
	}
	return lost, nil
}

// short is the end of the stream before what its header says. The decoder's
// lag alone is no damage, and neither is what was cut off by a player's crash
// of less than a frame.
func (d *mp3Decoder) short() error {
	if d.left <= int64(d.first.frames()) {
		return io.EOF
	}
	return io.ErrUnexpectedEOF
}

func (d *mp3Decoder) begin() (err error) {
	defer recovered(&err)
	d.fed, d.got = 0, 0
	d.dec, err = mp3.NewDecoder(mp3Frames{d})
	return err
}

func (d *mp3Decoder) pull(b []byte) (n int, err error) {
	defer recovered(&err)
	return d.dec.Read(b)
}

func (d *mp3Decoder) seek(target int64) error {
	per := int64(d.first.frames())
	at := max(0, (target+d.lead)/per-mp3Reservoir)
	// From the last place that is known before it, frame by frame.
	known := min(at/d.stride, int64(len(d.index)-1))
	offset := d.start
	if known >= 0 {
		offset = d.index[known]
	}
	if _, err := d.media.Seek(offset, io.SeekStart); err != nil {
		return err
	}
	d.next, d.synced = max(0, known)*d.stride, true
	d.dec, d.frame = nil, nil
	for d.next < at {
		if err := d.take(); err != nil {
			return err
		}
	}
	d.frame = d.frame[:0]
	d.drop = target + d.lead - at*per
	if d.left >= 0 {
		d.left = d.p.frames - target
	}
	return nil
}
