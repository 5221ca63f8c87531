package audio

import (
	"bytes"
	"encoding/base64"
	"encoding/binary"
	"io"
	"strings"

	"github.com/dhowden/tag"
)

// Limits of what is read into memory for a medium's texts and its picture; what
// is larger is left out.
const (
	maxTags    = 16 << 20 // bytes, of all tags together with the picture
	maxPicture = 8 << 20  // bytes
	frontCover = 3        // picture type of ID3 and FLAC
)

// parseComments reads Vorbis comments (Vorbis I section 5), which FLAC and Opus
// use, too. What comes after a mistake is left out.
func parseComments(b []byte) (tags Tags, picture []byte) {
	field := func() ([]byte, bool) {
		if len(b) < 4 {
			return nil, false
		}
		n := binary.LittleEndian.Uint32(b)
		b = b[4:]
		if uint64(n) > uint64(len(b)) {
			return nil, false
		}
		f := b[:n]
		b = b[n:]
		return f, true
	}
	if _, ok := field(); !ok || len(b) < 4 { // the vendor
		return tags, nil
	}
	b = b[4:] // the count: it ends where it ends
	var artists []string
	cover := -1 // type of the picture so far
	for {
		f, ok := field()
		if !ok {
			break
		}
		key, value, ok := strings.Cut(string(f), "=")
		if !ok {
			continue
		}
		switch strings.ToUpper(key) {
		case "TITLE":
			tags.Title = cleanText(value)
		case "ARTIST":
			artists = append(artists, value)
		case "ALBUMARTIST", "ALBUM ARTIST":
			tags.AlbumArtist = cleanText(value)
		case "ALBUM":
			tags.Album = cleanText(value)
		case "DATE", "YEAR":
			tags.Year = leadingInt(value)
		case "TRACKNUMBER":
			tags.Track = leadingInt(value)
		case "METADATA_BLOCK_PICTURE":
			if block, err := base64.StdEncoding.DecodeString(value); err == nil {
				picture, cover = betterPicture(picture, cover, block)
			}
		}
	}
	tags.Artist = cleanText(strings.Join(artists, ", "))
	return tags, picture
}

// betterPicture returns the picture of a FLAC picture block (RFC 9639 section
// 8.8) if it is a front cover, or the first of all, else the one there is.
func betterPicture(have []byte, cover int, block []byte) (picture []byte, kind int) {
	be := binary.BigEndian
	b := block
	if len(b) < 8 {
		return have, cover
	}
	kind = int(be.Uint32(b))
	b = b[4:]
	for range 2 { // media type, description
		if len(b) < 4 || uint64(be.Uint32(b)) > uint64(len(b)-4) {
			return have, cover
		}
		b = b[4+be.Uint32(b):]
	}
	const numbers = 16 // width, height, depth, colours: the data knows better
	if len(b) < numbers+4 {
		return have, cover
	}
	n := be.Uint32(b[numbers:])
	b = b[numbers+4:]
	if n == 0 || n > maxPicture || uint64(n) > uint64(len(b)) || have != nil && kind != frontCover {
		return have, cover
	}
	return b[:n], kind
}

// readTags reads ID3v2 tags, or those of an MP4 file. Anything may be in it; what
// can't be read is left out.
func readTags(r io.ReadSeeker) (tags Tags, picture []byte) {
	defer func() {
		if recover() != nil { // of the library
			tags, picture = Tags{}, nil
		}
	}()
	m, err := tag.ReadFrom(r)
	if err != nil {
		return Tags{}, nil
	}
	track, _ := m.Track()
	tags = Tags{
		Title: cleanText(m.Title()), Artist: cleanText(m.Artist()),
		AlbumArtist: cleanText(m.AlbumArtist()), Album: cleanText(m.Album()),
	}
	if y := m.Year(); y > 0 && y <= 9999 {
		tags.Year = y
	}
	if track > 0 && track <= 9999 {
		tags.Track = track
	}
	if p := m.Picture(); p != nil && len(p.Data) > 0 && len(p.Data) <= maxPicture {
		picture = p.Data
	}
	return tags, picture
}

// id3Size is the length of the ID3v2 tag that b begins with, 0 if there is none.
func id3Size(b []byte) int64 {
	if len(b) < 10 || string(b[:3]) != "ID3" || b[3] == 0xff || (b[6]|b[7]|b[8]|b[9])&0x80 != 0 {
		return 0
	}
	n := 10 + (int64(b[6])<<21 | int64(b[7])<<14 | int64(b[8])<<7 | int64(b[9]))
	if b[5]&0x10 != 0 { // a footer
		n += 10
	}
	return n
}

// skipID3 goes past the ID3v2 tags at the beginning of a file and returns what
// the first of them says.
func (s *stream) skipID3() (tags Tags, picture []byte, err error) {
	for first := true; ; first = false {
		head, _ := s.Peek(10)
		size := id3Size(head)
		if size == 0 {
			return tags, picture, nil
		}
		if !first || size > maxTags {
			if err := s.skip(size); err != nil {
				return tags, picture, err
			}
			continue
		}
		b, err := s.take(size)
		if err != nil {
			return tags, picture, err
		}
		tags, picture = readTags(bytes.NewReader(b))
	}
}

// readID3v1 reads the old tag in the last 128 bytes of a file, and comes back.
func (s *stream) readID3v1() (tags Tags) {
	const size = 128
	if !s.seekable || s.size < size {
		return Tags{}
	}
	back := s.offset()
	if _, err := s.Seek(-size, 2); err == nil {
		if b, err := s.take(size); err == nil && string(b[:3]) == "TAG" {
			text := func(b []byte) string {
				b, _, _ = bytes.Cut(b, []byte{0})
				return cleanText(latin1(b))
			}
			tags = Tags{Title: text(b[3:33]), Artist: text(b[33:63]), Album: text(b[63:93]), Year: leadingInt(string(b[93:97]))}
			if b[125] == 0 {
				tags.Track = int(b[126])
			}
		}
	}
	_, _ = s.Seek(back, 0) // the next read has the error
	return tags
}

// latin1 reads text of ISO 8859-1.
func latin1(b []byte) string {
	r := make([]rune, len(b))
	for i, c := range b {
		r[i] = rune(c)
	}
	return string(r)
}
