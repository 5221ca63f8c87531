package audio

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"strings"

	"resonatebridge/resonate/protocol"
)

// maxChunk bounds what of a WAV file's texts is read into memory.
const maxChunk = 64 << 10

// wavDecoder reads RIFF WAVE and RF64: integer PCM of 8 to 32 bits and floats
// of 32 and 64. A length that is not known, as recorders that write to a pipe
// leave it, means "to the end".
type wavDecoder struct {
	pcm
	float bool
}

// pcm reads packed samples off a stream.
type pcm struct {
	media *stream
	p     props
	start int64 // offset of the first sample
	left  int64 // bytes; negative: to the end of the stream
	size  int   // bytes of a sample
	u8    bool  // 8-bit samples are unsigned
	buf   []byte
	rest  []byte // the part of a frame that has come
}

// openWAV reads the header. The stream begins with RIFF or RF64.
func openWAV(media *stream) (decoder, error) {
	var head [12]byte
	if _, err := io.ReadFull(media, head[:]); err != nil {
		return nil, media.cause("wav", io.ErrUnexpectedEOF)
	}
	w := &wavDecoder{pcm: pcm{media: media}}
	var long int64 // the length of the data in RF64
	for {
		var chunk [8]byte
		if _, err := io.ReadFull(media, chunk[:]); err != nil {
			return nil, media.cause("wav", io.ErrUnexpectedEOF)
		}
		id, size := string(chunk[:4]), int64(binary.LittleEndian.Uint32(chunk[4:]))
		if id == "data" {
			if w.size == 0 {
				return nil, fmt.Errorf("%w: the WAV file says nothing about its format", ErrDamaged)
			}
			if string(head[:4]) == "RF64" && size == math.MaxUint32 {
				size = long
			}
			w.begin(size)
			return w, nil
		}
		var body []byte
		if id == "fmt " || id == "ds64" || id == "LIST" && size <= maxChunk {
			if size > maxChunk {
				return nil, fmt.Errorf("%w: a WAV chunk %q of %d bytes", ErrDamaged, id, size)
			}
			body = make([]byte, size)
			if _, err := io.ReadFull(media, body); err != nil {
				return nil, media.cause("wav", io.ErrUnexpectedEOF)
			}
		} else if err := media.skip(size); err != nil {
			return nil, media.cause("wav", io.ErrUnexpectedEOF)
		}
		if size%2 == 1 { // chunks are padded to an even length
			_, _ = media.Discard(1)
		}
		switch id {
		case "fmt ":
			if err := w.format(body); err != nil {
				return nil, err
			}
		case "ds64":
			if len(body) >= 16 {
				long = int64(binary.LittleEndian.Uint64(body[8:]))
			}
		case "LIST":
			w.list(body)
		}
	}
}

func (w *wavDecoder) format(b []byte) error {
	const integer, float, extensible = 1, 3, 0xfffe
	if len(b) < 16 {
		return fmt.Errorf("%w: the WAV file's format has %d bytes", ErrDamaged, len(b))
	}
	le := binary.LittleEndian
	tag := le.Uint16(b)
	if tag == extensible && len(b) >= 26 {
		tag = le.Uint16(b[24:]) // the first two bytes of the GUID
	}
	f := protocol.Format{
		Codec: "wav", Channels: int(le.Uint16(b[2:])), SampleRate: int(le.Uint32(b[4:])), BitDepth: int(le.Uint16(b[14:])),
	}
	w.float = tag == float
	switch {
	case tag == integer && f.BitDepth >= 8 && f.BitDepth <= 32 && f.BitDepth%8 == 0:
	case tag == float && (f.BitDepth == 32 || f.BitDepth == 64):
	default:
		return fmt.Errorf("%w: WAV with format tag %#x and %d bits", ErrUnsupported, tag, f.BitDepth)
	}
	w.u8 = f.BitDepth == 8
	return w.set(f)
}

// set takes the format of the samples.
func (d *pcm) set(f protocol.Format) error {
	if err := checkFormat(f); err != nil {
		return err
	}
	d.p.native, d.size = f, f.BitDepth/8
	d.p.speakers = orderWAV()[f.Channels]
	return nil
}

// checkFormat refuses what no recording has.
func checkFormat(f protocol.Format) error {
	if f.Channels < 1 || f.Channels > maxChannels || f.SampleRate < minRate || f.SampleRate > maxRate {
		return fmt.Errorf("%w: %s with %d channels at %d Hz", ErrUnsupported, f.Codec, f.Channels, f.SampleRate)
	}
	return nil
}

// begin notes that the samples start here, and how many bytes there are.
func (d *pcm) begin(size int64) {
	frame := int64(d.frameSize())
	d.start, d.left = d.media.offset(), -1
	if rest := d.media.size - d.start; d.media.size >= 0 && (size <= 0 || size >= math.MaxUint32-maxChunk) {
		size = rest // the writer did not know
	}
	if size > 0 && size < math.MaxUint32-maxChunk || d.media.size >= 0 {
		d.left = max(0, size-size%frame)
		d.p.frames = d.left / frame
	}
	d.p.seekable = d.media.seekable && d.left >= 0
}

func (d *pcm) frameSize() int { return d.size * d.p.native.Channels }

// list takes the texts of a LIST INFO chunk.
func (w *wavDecoder) list(b []byte) {
	if len(b) < 4 || string(b[:4]) != "INFO" {
		return
	}
	for b = b[4:]; len(b) >= 8; {
		size := int64(binary.LittleEndian.Uint32(b[4:]))
		if size > int64(len(b)-8) {
			return
		}
		text := cleanText(strings.TrimRight(string(b[8:8+size]), "\x00"))
		switch string(b[:4]) {
		case "INAM":
			w.p.tags.Title = text
		case "IART":
			w.p.tags.Artist = text
		case "IPRD":
			w.p.tags.Album = text
		case "ICRD":
			w.p.tags.Year = leadingInt(text)
		case "ITRK", "IPRT":
			w.p.tags.Track = leadingInt(text)
		}
		b = b[min(int64(len(b)), 8+size+size%2):]
	}
}

func (d *pcm) props() *props { return &d.p }
func (d *pcm) close()        {}

// fetch reads the bytes of at most so many frames: of one at least, and what
// else has come already.
func (d *pcm) fetch(frames int) ([]byte, error) {
	frame := d.frameSize()
	want := min(frames, ahead/frame) * frame
	if d.left >= 0 {
		want = int(min(int64(want), d.left))
	}
	if want == 0 {
		return nil, io.EOF
	}
	if d.buf == nil {
		d.buf = make([]byte, ahead)
	}
	held := copy(d.buf, d.rest)
	n, err := io.ReadAtLeast(d.media, d.buf[held:want], frame-held)
	n += held
	whole := n - n%frame
	d.rest = append(d.rest[:0], d.buf[whole:n]...)
	if d.left >= 0 {
		d.left -= int64(whole)
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF // there should have been more
		}
	} else if errors.Is(err, io.ErrUnexpectedEOF) {
		err = io.EOF // a part of a frame at the end of a recording
	}
	return d.buf[:whole], err
}

func (d *pcm) read(dst []int32) (int, error) {
	b, err := d.fetch(len(dst) / d.p.native.Channels)
	unpack(dst, b, d.size)
	if d.u8 {
		for i := range len(b) {
			dst[i] ^= math.MinInt32
		}
	}
	return len(b) / d.frameSize(), err
}

func (w *wavDecoder) read(dst []int32) (int, error) {
	if !w.float {
		return w.pcm.read(dst)
	}
	b, err := w.fetch(len(dst) / w.p.native.Channels)
	for i := range len(b) / w.size {
		if w.size == 4 {
			dst[i] = fromFloat(float64(math.Float32frombits(binary.LittleEndian.Uint32(b[4*i:]))))
		} else {
			dst[i] = fromFloat(math.Float64frombits(binary.LittleEndian.Uint64(b[8*i:])))
		}
	}
	return len(b) / w.frameSize(), err
}

func (d *pcm) seek(frame int64) error {
	at := frame * int64(d.frameSize())
	if _, err := d.media.Seek(d.start+at, io.SeekStart); err != nil {
		return err
	}
	d.rest = d.rest[:0]
	d.left = d.p.frames*int64(d.frameSize()) - at
	return nil
}

// unpack makes samples of little-endian ones of so many bytes each.
func unpack(dst []int32, b []byte, size int) {
	switch size {
	case 1:
		for i, v := range b {
			dst[i] = int32(v) << 24
		}
	case 2:
		for i := range len(b) / 2 {
			dst[i] = int32(b[2*i])<<16 | int32(b[2*i+1])<<24
		}
	case 3:
		for i := range len(b) / 3 {
			dst[i] = int32(b[3*i])<<8 | int32(b[3*i+1])<<16 | int32(b[3*i+2])<<24
		}
	case 4:
		for i := range len(b) / 4 {
			dst[i] = int32(binary.LittleEndian.Uint32(b[4*i:]))
		}
	}
}

// fromFloat makes a sample of one whose full scale is 1. What is louder is
// clipped, and no number is silence.
func fromFloat(v float64) int32 {
	v = math.RoundToEven(v * (1 << 31))
	switch {
	case v >= math.MaxInt32:
		return math.MaxInt32
	case v >= math.MinInt32:
		return int32(v)
	case v < math.MinInt32:
		return math.MinInt32
	}
	return 0
}
