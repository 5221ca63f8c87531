package audio

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"resonatebridge/resonate/audio/fetch"
	"resonatebridge/resonate/protocol"
)

// Options say where sources may come from, and what decodes them.
type Options struct {
	Fetch *fetch.Client // nil: one with the default options
	// Roots are the directories whose files may be played, with all below
	// them; symbolic links don't lead out of them. None: no files.
	Roots []string
	// FFmpeg decodes what nothing here does: "auto" or empty for the program of
	// that name if there is one, "off", or its path.
	FFmpeg string
	Log    *slog.Logger // nil: silent
}

func (o Options) withDefaults() Options {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Fetch == nil {
		o.Fetch = fetch.New(fetch.Options{Log: o.Log})
	}
	return o
}

// Open opens what text names:
//
//	http://..., https://...    a file, a radio station, a playlist (M3U, PLS, HLS)
//	/path, file:///path        a file or a playlist below one of the Roots
//	pipe:///path?sampleformat=48000:16:2   raw PCM from a FIFO below one of the Roots
//	tcp://host:port?sampleformat=48000:16:2   raw PCM from a server
//	tone:?frequency=440&seconds=5   a test tone
//
// Raw PCM is little-endian; 48000:16:2 is what is taken without a sampleformat
// (rate, bits, channels, as Snapcast writes it). Of a playlist the first entry that
// can be opened is, and Info.Next has those after it.
//
// ctx bounds the opening alone. The error is one of this package's, or the
// cause of ctx.
func Open(ctx context.Context, text string, o Options) (Source, error) {
	src, err := o.withDefaults().open(ctx, strings.TrimSpace(text), 0)
	if err != nil && ctx.Err() != nil {
		err = context.Cause(ctx) // whatever it broke
	}
	return src, err
}

// open opens what an entry in a playlist names, nested so deep.
func (o Options) open(ctx context.Context, text string, depth int) (Source, error) {
	if filepath.IsAbs(text) {
		return o.openFile(ctx, text, depth)
	}
	scheme, _, _ := strings.Cut(text, ":")
	switch strings.ToLower(scheme) {
	case "file", "pipe", "tcp", "tone":
	default:
		return o.openHTTP(ctx, text, depth)
	}
	u, err := url.Parse(text)
	if err != nil {
		return nil, fmt.Errorf("%w: it is no URL", ErrRefused)
	}
	switch u.Scheme {
	case "tcp":
		return o.openTCP(ctx, u)
	case "tone":
		return openTone(u.Query())
	}
	if u.Host != "" && u.Host != "localhost" {
		return nil, fmt.Errorf("%w: files of the host %.80q", ErrRefused, u.Host)
	}
	if u.Scheme == "pipe" {
		return o.openPipe(u)
	}
	return o.openFile(ctx, filepath.FromSlash(u.Path), depth)
}

// medium is encoded sound that was found.
type medium struct {
	*stream
	self      string              // its URL; empty if it is a file
	name      string              // the path of the URL, or that of the file
	mediaType string              // as the server says
	resolve   func(string) string // of entries, if it is a playlist
	station   *station            // nil: no radio station
	depth     int
}

func (o Options) openHTTP(ctx context.Context, text string, depth int) (Source, error) {
	m, err := o.get(ctx, text, depth)
	if err != nil {
		return nil, err
	}
	src, err := o.openMedium(ctx, m)
	if err != nil || m.station == nil || src.Info().Next != nil {
		return src, err
	}
	return newLive(src, o.Log, func(ctx context.Context) (Source, error) {
		m, err := o.get(ctx, text, depth)
		if err != nil {
			return nil, err
		}
		return o.openMedium(ctx, m)
	}), nil
}

// get asks for a URL.
func (o Options) get(ctx context.Context, text string, depth int) (*medium, error) {
	b, err := o.Fetch.Get(ctx, text, http.Header{"Icy-Metadata": {"1"}})
	if err != nil {
		return nil, err
	}
	m := &medium{
		self: b.URL.String(), name: b.URL.Path, mediaType: b.Header.Get("Content-Type"), resolve: networkEntry(b.URL),
		station: newStation(b.Header), depth: depth,
	}
	if m.station == nil {
		m.stream = newStream(b, b.Size, b.Seekable())
		return m, nil
	}
	r, err := newICYReader(b, m.station, b.Header.Get("Icy-Metaint"))
	if err != nil {
		b.Close()
		return nil, err
	}
	m.stream = newStream(notSeekable{r}, -1, false)
	return m, nil
}

// openFile opens path, absolute, if it is below one of the roots.
func (o Options) openFile(ctx context.Context, path string, depth int) (Source, error) {
	f, info, err := o.openPath(path, os.O_RDONLY)
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		f.Close()
		return nil, fmt.Errorf("%w: %.200q is not a file", ErrRefused, path)
	}
	return o.openMedium(ctx, &medium{
		stream: newStream(f, info.Size(), true), name: path, resolve: fileEntry(filepath.Dir(path)), depth: depth,
	})
}

// openPath opens what is at path, if that is below one of the roots.
func (o Options) openPath(path string, flag int) (*os.File, fs.FileInfo, error) {
	if len(o.Roots) == 0 {
		return nil, nil, fmt.Errorf("%w: no directory for local files is configured", ErrRefused)
	}
	path = filepath.Clean(path)
	for _, dir := range o.Roots {
		name, err := filepath.Rel(dir, path)
		if err != nil || !filepath.IsLocal(name) {
			continue
		}
		f, info, err := openIn(dir, name, flag)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			return nil, nil, fmt.Errorf("%w: there is no file %.200q", ErrUnreachable, path)
		case err != nil:
			var detail *fs.PathError
			if errors.As(err, &detail) {
				err = detail.Err
			}
			return nil, nil, fmt.Errorf("%w: %.200q: %w", ErrUnreachable, path, err)
		}
		return f, info, nil
	}
	return nil, nil, fmt.Errorf("%w: %.200q is not below %s", ErrRefused, path, strings.Join(o.Roots, ", "))
}

func openIn(dir, name string, flag int) (*os.File, fs.FileInfo, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, nil, err
	}
	defer root.Close()
	// Without O_NONBLOCK the opening of a FIFO waits for its other end.
	f, err := root.OpenFile(name, flag|nonBlock, 0)
	if err != nil {
		return nil, nil, err
	}
	info, err := f.Stat()
	if err != nil {
		f.Close()
	}
	return f, info, err
}

// openMedium finds out what m is, and closes it if it can't be played or is only
// a playlist.
func (o Options) openMedium(ctx context.Context, m *medium) (Source, error) {
	// What waits for the first bytes ends with ctx.
	stop := context.AfterFunc(ctx, func() { m.Close() })
	src, err := o.identify(ctx, m)
	if !stop() && err == nil {
		src.Close()
		err = context.Cause(ctx)
	}
	if err != nil {
		m.Close()
		return nil, err
	}
	return src, nil
}

func (o Options) identify(ctx context.Context, m *medium) (Source, error) {
	head, _ := m.Peek(sniffed) // it may be shorter
	if err := m.failure(); err != nil {
		return nil, err
	}
	if len(head) == 0 {
		return nil, fmt.Errorf("%w: it is empty", ErrUnsupported)
	}
	if isPlaylist(head, m.name, m.mediaType) {
		return o.openPlaylist(ctx, m)
	}
	dec, err := o.openDecoder(ctx, m.stream, m.mediaType)
	if err != nil {
		return nil, err
	}
	d := newDecoded(dec, m.stream)
	d.radio, d.live = m.station, m.station != nil
	return d, nil
}

// openPlaylist opens the first entry of a playlist that can be.
func (o Options) openPlaylist(ctx context.Context, m *medium) (Source, error) {
	defer m.Close()
	text, err := m.rest(maxPlaylist)
	if err != nil {
		return nil, err
	}
	if m.depth == maxNesting {
		return nil, fmt.Errorf("%w: playlists in playlists in playlists", ErrUnsupported)
	}
	if isHLS(text) {
		return o.openHLS(ctx, text, m)
	}
	entries := parsePlaylist(text, m.resolve)
	err = fmt.Errorf("%w: the playlist has no entry that may be played", ErrUnsupported)
	for i, e := range entries[:min(len(entries), maxTries)] {
		var src Source
		if src, err = o.open(ctx, e.URL, m.depth+1); err == nil {
			return &listed{src, e, entries[i+1:]}, nil
		}
		if ctx.Err() != nil {
			break
		}
	}
	return nil, err
}

// listed is an entry of a playlist.
type listed struct {
	Source
	entry Entry
	next  []Entry
}

func (l *listed) Info() Info {
	i := l.Source.Info()
	if i.Next == nil { // else the entry is a playlist itself
		i.Next = l.next
	}
	if i.Tags.Title == "" {
		i.Tags.Title = l.entry.Title
	}
	return i
}

// openDecoder finds the decoder for what media has.
func (o Options) openDecoder(ctx context.Context, media *stream, mediaType string) (decoder, error) {
	tags, picture, err := media.skipID3()
	if err != nil {
		return nil, media.cause("id3", err)
	}
	head, _ := media.Peek(sniffed)
	what := kind(head, mediaType)
	var dec decoder
	switch what {
	case "wav":
		dec, err = openWAV(media)
	case "flac":
		dec, err = openFLAC(media)
	case "ogg":
		dec, err = openOgg(media)
	case "mp3":
		if tags == (Tags{}) {
			tags = media.readID3v1()
		}
		dec, err = openMP3(media, tags, picture)
	case "html":
		return nil, fmt.Errorf("%w: it is a web page, not sound", ErrUnsupported)
	case "":
		return nil, fmt.Errorf("%w: it is no sound that is known here", ErrUnsupported)
	default:
		return o.openFFmpeg(ctx, media, what)
	}
	if errors.Is(err, ErrUnsupported) && media.seekable && o.FFmpeg != "off" {
		if _, again := media.Seek(0, 0); again == nil {
			if other, err := o.openFFmpeg(ctx, media, what); err == nil {
				return other, nil
			}
		}
	}
	return dec, err
}

// sniffed is how many bytes decide what a medium is.
const sniffed = 1024

// kind says what begins with head: the codec or the container, "html", or "" if
// it is nothing known.
func kind(head []byte, mediaType string) string {
	s := string(head)
	for _, k := range [...]struct {
		at   int
		mark string
		kind string
	}{
		{0, "RIFF", "wav"},
		{0, "RF64", "wav"},
		{0, "fLaC", "flac"},
		{0, "OggS", "ogg"},
		{4, "ftyp", "mp4"},
		{4, "moov", "mp4"},
		{4, "styp", "mp4"},
		{4, "moof", "mp4"},
		{0, "\x30\x26\xb2\x75", "wma"},
		{0, "\x1a\x45\xdf\xa3", "matroska"},
		{0, "FORM", "aiff"},
		{0, "MAC ", "ape"},
		{0, "wvpk", "wavpack"},
		{0, "caff", "caf"},
		{0, "\x0b\x77", "ac3"},
		{0, "ADIF", "aac"},
	} {
		if len(s) > k.at && strings.HasPrefix(s[k.at:], k.mark) {
			return k.kind
		}
	}
	const tsPacket = 188
	if len(s) > 2*tsPacket && s[0] == 'G' && s[tsPacket] == 'G' && s[2*tsPacket] == 'G' {
		return "mpegts"
	}
	text := strings.ToLower(strings.TrimSpace(s[:min(len(s), 100)]))
	if strings.HasPrefix(text, "<!doctype") || strings.HasPrefix(text, "<html") || strings.HasPrefix(text, "<?xml") {
		return "html"
	}
	mediaType, _, _ = strings.Cut(strings.ToLower(mediaType), ";")
	for i := range len(head) - 4 {
		if _, ok := parseMP3Header(head[i:]); ok && mediaType != "audio/aac" && mediaType != "audio/aacp" {
			return "mp3"
		}
		if head[i] == 0xff && head[i+1]&0xf6 == 0xf0 && head[i+2]>>2&15 < 13 {
			return "aac"
		}
	}
	switch mediaType {
	case "audio/mpeg", "audio/mp3":
		return "mp3"
	case "audio/aac", "audio/aacp":
		return "aac"
	case "text/html":
		return "html"
	}
	return ""
}

func openTone(q url.Values) (Source, error) {
	number := func(key string, otherwise float64) (float64, error) {
		if !q.Has(key) {
			return otherwise, nil
		}
		v, err := strconv.ParseFloat(q.Get(key), 64)
		if err != nil || !(v >= 0 && v <= 1e6) {
			return 0, fmt.Errorf("%w: %s=%.20q of a tone", ErrRefused, key, q.Get(key))
		}
		return v, nil
	}
	t := Tone{Rate: 48000}
	var err error
	if t.Frequency, err = number("frequency", 440); err != nil {
		return nil, err
	}
	seconds, err := number("seconds", 0)
	if err != nil {
		return nil, err
	}
	t.Frames = int64(seconds * float64(t.Rate))
	return t.Source(), nil
}

// openPipe reads raw PCM from a FIFO. It waits for writers, however many come
// and go.
func (o Options) openPipe(u *url.URL) (Source, error) {
	f, err := sampleFormat(u)
	if err != nil {
		return nil, err
	}
	// Both ways, so that there is always a writer and so no end.
	file, info, err := o.openPath(filepath.FromSlash(u.Path), os.O_RDWR)
	if err != nil {
		return nil, err
	}
	if info.Mode()&fs.ModeNamedPipe == 0 {
		file.Close()
		return nil, fmt.Errorf("%w: %.200q is no FIFO", ErrRefused, u.Path)
	}
	return openRaw(file, f)
}

// openTCP reads raw PCM from a server, which is connected to again when it
// hangs up.
func (o Options) openTCP(ctx context.Context, u *url.URL) (Source, error) {
	f, err := sampleFormat(u)
	if err != nil {
		return nil, err
	}
	connect := func(ctx context.Context) (Source, error) {
		conn, err := o.Fetch.Dial(ctx, u.Host)
		if err != nil {
			return nil, err
		}
		return openRaw(notSeekable{conn}, f)
	}
	src, err := connect(ctx)
	if err != nil {
		return nil, err
	}
	return newLive(src, o.Log, connect), nil
}

// sampleFormat reads "rate:bits:channels".
func sampleFormat(u *url.URL) (protocol.Format, error) {
	f := protocol.Format{Codec: "pcm", SampleRate: 48000, BitDepth: 16, Channels: 2}
	text := u.Query().Get("sampleformat")
	if text == "" {
		return f, nil
	}
	parts := strings.Split(text, ":")
	ok := len(parts) == 3
	for i, n := range []*int{&f.SampleRate, &f.BitDepth, &f.Channels} {
		if ok {
			var err error
			*n, err = strconv.Atoi(parts[i])
			ok = err == nil
		}
	}
	if !ok || checkFormat(f) != nil || f.BitDepth%8 != 0 || f.BitDepth < 8 || f.BitDepth > 32 {
		return f, fmt.Errorf("%w: sampleformat=%.40q, want e.g. 48000:16:2", ErrRefused, text)
	}
	return f, nil
}
