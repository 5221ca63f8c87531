package audio

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"strconv"
	"strings"
	"time"

	"resonatebridge/resonate/audio/fetch"
)

// How a live HLS stream is followed (RFC 8216 section 6.3).
const (
	hlsBehind  = 3           // segments before the newest where it begins
	hlsLongest = time.Minute // of a segment
	hlsFails   = 5           // in a row, of segments and playlists
)

// isHLS tells an HLS playlist from a list of files.
func isHLS(text []byte) bool { return bytes.Contains(text, []byte("#EXT-X-")) }

// hlsPlaylist is what a playlist says.
type hlsPlaylist struct {
	variants []hlsVariant
	audio    map[string]string // URI of each group's rendition
	segments []string
	first    int64 // number of the first segment
	target   time.Duration
	ended    bool
	init     string // what has to be read before the segments; empty: nothing
}

type hlsVariant struct {
	uri, group string
	bandwidth  int
	video      bool
}

// parseHLS reads a master or a media playlist. URIs stay as they are.
func parseHLS(text []byte) (*hlsPlaylist, error) {
	p := &hlsPlaylist{audio: map[string]string{}, target: 5 * time.Second}
	var variant *hlsVariant
	for line := range strings.Lines(string(text)) {
		line = strings.TrimSpace(line)
		tag, value, _ := strings.Cut(line, ":")
		attr := func(key string) string { return hlsAttribute(value, key) }
		number, _ := strconv.ParseInt(value, 10, 64)
		switch tag {
		case "#EXT-X-STREAM-INF":
			bandwidth, _ := strconv.Atoi(attr("BANDWIDTH"))
			codecs := attr("CODECS")
			variant = &hlsVariant{
				group: attr("AUDIO"), bandwidth: bandwidth,
				video: attr("RESOLUTION") != "" || strings.Contains(codecs, "avc1") || strings.Contains(codecs, "hvc1"),
			}
		case "#EXT-X-MEDIA":
			if id := attr("GROUP-ID"); attr("TYPE") == "AUDIO" && attr("URI") != "" && (p.audio[id] == "" || attr("DEFAULT") == "YES") {
				p.audio[id] = attr("URI")
			}
		case "#EXT-X-TARGETDURATION":
			p.target = min(max(time.Duration(number)*time.Second, time.Second), hlsLongest)
		case "#EXT-X-MEDIA-SEQUENCE":
			p.first = max(0, number)
		case "#EXT-X-ENDLIST":
			p.ended = true
		case "#EXT-X-MAP":
			p.init = attr("URI")
			if attr("BYTERANGE") != "" {
				return nil, fmt.Errorf("%w: HLS with byte ranges", ErrUnsupported)
			}
		case "#EXT-X-BYTERANGE":
			return nil, fmt.Errorf("%w: HLS with byte ranges", ErrUnsupported)
		case "#EXT-X-KEY":
			if m := attr("METHOD"); m != "NONE" {
				return nil, fmt.Errorf("%w: encrypted HLS (%.20s)", ErrUnsupported, m)
			}
		default:
			if line == "" || line[0] == '#' {
				continue
			}
			if variant != nil {
				variant.uri = line
				p.variants = append(p.variants, *variant)
				variant = nil
			} else if p.segments = append(p.segments, line); len(p.segments) > 100*maxEntries {
				return nil, fmt.Errorf("%w: an HLS playlist of more than %d segments", ErrUnsupported, 100*maxEntries)
			}
		}
	}
	return p, nil
}

// hlsAttribute finds KEY=value or KEY="value" in a list of them.
func hlsAttribute(list, key string) string {
	for list != "" {
		name, rest, _ := strings.Cut(list, "=")
		var value string
		if quoted, ok := strings.CutPrefix(rest, `"`); ok {
			value, rest, _ = strings.Cut(quoted, `"`)
			_, list, _ = strings.Cut(rest, ",")
		} else {
			value, list, _ = strings.Cut(rest, ",")
		}
		if strings.TrimSpace(name) == key {
			return value
		}
	}
	return ""
}

// sound is the playlist to play of a master: the best without pictures, else
// the sound of one that has it apart, else the least of all.
func (p *hlsPlaylist) sound() string {
	var best *hlsVariant
	for i := range p.variants {
		v := &p.variants[i]
		switch {
		case best == nil,
			best.video && !v.video,
			best.video == v.video && v.video && v.bandwidth < best.bandwidth,
			best.video == v.video && !v.video && v.bandwidth > best.bandwidth:
			best = v
		}
	}
	if uri := p.audio[best.group]; best.video && uri != "" {
		return uri
	}
	return best.uri
}

// openHLS plays the HLS playlist in text, which m was.
func (o Options) openHLS(ctx context.Context, text []byte, m *medium) (Source, error) {
	p, err := parseHLS(text)
	if err != nil {
		return nil, err
	}
	resolve, self := m.resolve, m.self
	if len(p.variants) > 0 {
		self = resolve(p.sound())
		if self == "" {
			return nil, fmt.Errorf("%w: an HLS playlist that leads away from the network", ErrRefused)
		}
		if p, resolve, err = loadHLS(ctx, o.Fetch, self); err != nil {
			return nil, err
		}
	}
	switch {
	case self == "":
		return nil, fmt.Errorf("%w: HLS from a file", ErrUnsupported)
	case len(p.segments) == 0 && p.ended:
		return nil, fmt.Errorf("%w: an HLS playlist without segments", ErrUnsupported)
	}
	life, end := context.WithCancelCause(context.WithoutCancel(ctx))
	r := &hlsReader{client: o.Fetch, log: o.Log, life: life, end: end, self: self, list: p, resolve: resolve, next: p.first, loaded: time.Now()}
	if !p.ended {
		r.next += int64(max(0, len(p.segments)-hlsBehind))
	}
	live := !p.ended
	media := &medium{stream: newStream(notSeekable{r}, -1, false), depth: maxNesting}
	src, err := o.openMedium(ctx, media)
	if d, ok := src.(*decoded); ok {
		d.live = live
	}
	return src, err
}

// loadHLS fetches a media playlist.
func loadHLS(ctx context.Context, c *fetch.Client, uri string) (*hlsPlaylist, func(string) string, error) {
	b, err := c.Get(ctx, uri, nil)
	if err != nil {
		return nil, nil, err
	}
	defer b.Close()
	text, err := newStream(b, b.Size, false).rest(maxPlaylist)
	if err != nil {
		return nil, nil, err
	}
	p, err := parseHLS(text)
	if err == nil && len(p.variants) > 0 {
		err = fmt.Errorf("%w: an HLS master in a master", ErrUnsupported)
	}
	return p, networkEntry(b.URL), err
}

// hlsReader is the segments of an HLS stream, one after the other.
type hlsReader struct {
	client  *fetch.Client
	log     *slog.Logger
	life    context.Context //nolint:containedctx // of the reader, which makes requests until it is closed
	end     context.CancelCauseFunc
	self    string
	list    *hlsPlaylist
	resolve func(string) string
	loaded  time.Time
	next    int64         // number of the next segment
	init    string        // that was read last
	fails   int           // in a row
	stale   int           // reloads in a row that brought nothing
	body    io.ReadCloser // nil: the next segment is to be opened
	unwatch func() bool   // ends the watch that closes body with the reader
}

func (r *hlsReader) Read(p []byte) (int, error) {
	for {
		if r.life.Err() != nil {
			return 0, ErrClosed
		}
		if r.body == nil {
			if err := r.open(); err != nil {
				return 0, err
			}
			continue
		}
		n, err := r.body.Read(p)
		if n > 0 {
			r.fails = 0
			return n, nil
		}
		if err == nil {
			continue
		}
		r.unwatch()
		r.body.Close()
		r.body = nil
		if !errors.Is(err, io.EOF) {
			if err := r.fail(err); err != nil {
				return 0, err
			}
		}
	}
}

// open opens the next segment, waiting for it to be listed.
func (r *hlsReader) open() error {
	at := r.next - r.list.first
	if at < 0 { // it came too late
		r.next, at = r.list.first, 0
	}
	if at >= int64(len(r.list.segments)) {
		if r.list.ended {
			return io.EOF
		}
		return r.reload()
	}
	uri := r.list.segments[at]
	if r.list.init != r.init {
		r.init, uri = r.list.init, r.list.init
	} else {
		r.next++
	}
	if uri = r.resolve(uri); uri == "" {
		return fmt.Errorf("%w: an HLS segment that is not on the network", ErrRefused)
	}
	b, err := r.client.Get(r.life, uri, http.Header{})
	if err != nil {
		return r.fail(err)
	}
	r.body, r.unwatch = b, context.AfterFunc(r.life, func() { b.Close() })
	return nil
}

// fail counts a failure, the last of which is returned. The others are a hole in
// the sound.
func (r *hlsReader) fail(err error) error {
	if r.life.Err() != nil {
		return ErrClosed
	}
	if r.fails++; r.fails >= hlsFails || errors.Is(err, ErrRefused) {
		return err
	}
	r.log.LogAttrs(r.life, slog.LevelDebug, "HLS segment or playlist failed", slog.Any("err", err))
	return nil
}

// reload waits until the playlist may have changed and fetches it again.
func (r *hlsReader) reload() error {
	// Half a segment after the last try, so that no new one waits for long.
	t := time.NewTimer(time.Until(r.loaded.Add(r.list.target / 2)))
	defer t.Stop()
	select {
	case <-t.C:
	case <-r.life.Done():
		return ErrClosed
	}
	r.loaded = time.Now()
	p, resolve, err := loadHLS(r.life, r.client, r.self)
	if err != nil {
		return r.fail(err)
	}
	if p.first+int64(len(p.segments)) < r.next { // the station began anew
		r.next = p.first + int64(max(0, len(p.segments)-hlsBehind))
	}
	if p.first+int64(len(p.segments)) == r.next && !p.ended {
		if r.stale++; time.Duration(r.stale)*r.list.target/2 > livePatience {
			return fmt.Errorf("%w: the HLS playlist does not grow any more", ErrUnreachable)
		}
	} else {
		r.stale = 0
	}
	r.list, r.resolve = p, resolve
	return nil
}

func (r *hlsReader) Close() error {
	r.end(ErrClosed)
	return nil
}
