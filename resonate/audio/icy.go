package audio

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"unicode/utf8"
)

// maxTitles is how many titles may wait for their moment; a reader is never so
// far ahead.
const maxTitles = 16

// station is what a radio station says about itself and what it plays.
type station struct {
	name string

	mu     sync.Mutex
	titles []titleAt // the first one holds
}

// titleAt are the tags from an offset of the sound on.
type titleAt struct {
	offset int64
	tags   Tags
}

// newStation reads the headers of a response; nil if it is no radio station's.
func newStation(h http.Header) *station {
	radio := strings.Contains(strings.ToLower(h.Get("Server")), "icecast")
	for key := range h {
		radio = radio || strings.HasPrefix(key, "Icy-")
	}
	if !radio {
		return nil
	}
	name := cleanText(toUTF8([]byte(h.Get("Icy-Name"))))
	return &station{name: name, titles: []titleAt{{0, Tags{Title: name}}}}
}

// tags hold at an offset of the sound.
func (s *station) tags(offset int64) Tags {
	s.mu.Lock()
	defer s.mu.Unlock()
	for len(s.titles) > 1 && s.titles[1].offset <= offset {
		s.titles = s.titles[1:]
	}
	return s.titles[0].tags
}

// say takes a block of metadata that stands at an offset of the sound.
func (s *station) say(offset int64, block []byte) {
	title, artwork, ok := parseICY(block)
	if !ok {
		return
	}
	t := Tags{Title: title, Album: s.name, ArtworkURL: artwork}
	if artist, rest, ok := strings.Cut(title, " - "); ok {
		t.Artist, t.Title = strings.TrimSpace(artist), strings.TrimSpace(rest)
	}
	if title == "" {
		t = Tags{Title: s.name}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.titles) == maxTitles {
		s.titles = s.titles[1:]
	}
	s.titles = append(s.titles, titleAt{offset, t})
}

// parseICY reads "StreamTitle='Artist - Title';StreamUrl='...';". Titles have
// apostrophes that nothing marks.
func parseICY(block []byte) (title, artwork string, ok bool) {
	text := toUTF8(bytes.TrimRight(block, "\x00"))
	value := func(key string) (string, bool) {
		_, v, ok := strings.Cut(text, key+"='")
		if !ok {
			return "", false
		}
		if before, _, ended := strings.Cut(v, "';"); ended {
			return cleanText(before), true
		}
		return cleanText(strings.TrimSuffix(v, "'")), true
	}
	title, ok = value("StreamTitle")
	if u, _ := value("StreamUrl"); strings.HasPrefix(u, "http") {
		path, _, _ := strings.Cut(strings.ToLower(u), "?")
		for _, ext := range []string{".jpg", ".jpeg", ".png", ".webp"} {
			if strings.HasSuffix(path, ext) { // else it is the station's page
				artwork = u
			}
		}
	}
	return title, artwork, ok
}

// toUTF8 takes text that is UTF-8, or else what stations sent before it.
func toUTF8(b []byte) string {
	if utf8.Valid(b) {
		return string(b)
	}
	return latin1(b)
}

// icyReader takes the metadata out of a station's stream: after each so many
// bytes of sound there is a byte that counts 16 bytes of text, and the text.
type icyReader struct {
	io.ReadCloser
	station *station
	every   int
	left    int // bytes of sound until the next metadata
	offset  int64
}

// maxICY bounds the distance between metadata; stations have 8 or 16 KiB.
const maxICY = 16 << 20

func newICYReader(body io.ReadCloser, s *station, interval string) (io.ReadCloser, error) {
	if interval == "" {
		return body, nil
	}
	every, err := strconv.Atoi(interval)
	if err != nil || every < 0 || every > maxICY {
		return nil, fmt.Errorf("%w: icy-metaint %.20q", ErrUnsupported, interval)
	}
	if every == 0 {
		return body, nil
	}
	return &icyReader{ReadCloser: body, station: s, every: every, left: every}, nil
}

func (r *icyReader) Read(p []byte) (int, error) {
	if r.left == 0 {
		var size [1]byte
		if _, err := io.ReadFull(r.ReadCloser, size[:]); err != nil {
			return 0, err
		}
		block := make([]byte, 16*int(size[0]))
		if _, err := io.ReadFull(r.ReadCloser, block); err != nil {
			return 0, err
		}
		r.station.say(r.offset, block)
		r.left = r.every
	}
	n, err := r.ReadCloser.Read(p[:min(len(p), r.left)])
	r.left -= n
	r.offset += int64(n)
	return n, err
}
