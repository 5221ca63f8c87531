package resonate

import (
	"context"
	"errors"
	"io"
	"time"

	"resonatebridge/resonate/audio"
	"resonatebridge/resonate/internal/stream"
	"resonatebridge/resonate/protocol"
)

// Media is what a group plays, as it is known now. Empty and 0 are unknown.
type Media struct {
	Title, Artist, AlbumArtist, Album string
	Year, Track                       int
	Duration                          time.Duration // 0: unknown or live
	URL                               string
	ArtworkURL                        string
	Art                               []byte        // JPEG, at most 512 pixels wide and high; nil: none, or not there yet
	ArtHash                           string        // of the picture; changes with Art
	ArtError                          *CommandError // why a picture that was named can't be shown; nil: none was, or it can
	Index, Count                      int           // of the queue; Index is -1 while nothing is loaded
	Live, Seekable                    bool

	// Position at wall time At; it advances by Speed, 0 or 1.
	Position time.Duration
	At       time.Time
	Speed    int
}

// MediaItem is one thing to play. What is given with it goes before what it
// says itself.
type MediaItem struct {
	URL        string `json:"url"`
	Title      string `json:"title,omitempty"`
	Artist     string `json:"artist,omitempty"`
	Album      string `json:"album,omitempty"`
	ArtworkURL string `json:"artwork_url,omitempty"`
}

// mediaRecord is what a group played last, kept over restarts.
type mediaRecord struct {
	Items   []MediaItem     `json:"items"`
	Index   int             `json:"index"`
	Repeat  protocol.Repeat `json:"repeat"`
	Shuffle bool            `json:"shuffle,omitempty"`
}

func (r *mediaRecord) items() []stream.Item { return newItems(r.Items) }

func newItems(items []MediaItem) []stream.Item {
	out := make([]stream.Item, len(items))
	for i, x := range items {
		out[i] = stream.Item{URL: x.URL, Given: x}
	}
	return out
}

// remember keeps what plays in g for the next start.
func (m *model) remember(g *group, st *stream.Status) {
	r := &mediaRecord{Index: max(st.Current, 0), Repeat: st.Repeat, Shuffle: st.Shuffle}
	for _, i := range st.Items {
		if x, ok := i.Given.(MediaItem); ok {
			r.Items = append(r.Items, x)
		}
	}
	g.loaded, m.unsaved = r, true
}

// mediaOf is what plays, by what is known of it.
func mediaOf(st *stream.Status) Media {
	item := stream.Item{}
	if st.Current >= 0 && st.Current < len(st.Items) {
		item = st.Items[st.Current]
	}
	x := describe(item, st.Info)
	x.Index, x.Count = st.Current, len(st.Items)
	return x
}

// describe joins what the source says with what was given with the command.
func describe(item stream.Item, i *stream.Info) Media {
	x := Media{}
	if i != nil {
		x.Duration, x.Live, x.Seekable = i.Duration, i.Live, i.Seekable
		if d, ok := i.Details.(details); ok {
			x.Title, x.Artist, x.AlbumArtist, x.Album = d.Title, d.Artist, d.AlbumArtist, d.Album
			x.Year, x.Track, x.ArtworkURL = d.Year, d.Track, d.ArtworkURL
		}
	}
	given, _ := item.Given.(MediaItem)
	x.URL = given.URL
	for _, f := range []struct{ to, from *string }{
		{&x.Title, &given.Title}, {&x.Artist, &given.Artist}, {&x.Album, &given.Album}, {&x.ArtworkURL, &given.ArtworkURL},
	} {
		if *f.from != "" {
			*f.to = *f.from
		}
	}
	return x
}

// details are what a [stream.Info] carries for us. They are comparable.
type details struct {
	audio.Tags
	picture *embedded // nil: none
}

// embedded is a picture in a file. It is the same pointer as long as it is the
// same picture.
type embedded struct{ data []byte }

// source is an opened piece of media as an engine wants it.
type source struct {
	audio.Source
	unwatch func() bool
	info    *stream.Info
	last    details
}

// openMedia opens an item.
func (s *Server) openMedia(ctx context.Context, i stream.Item) (stream.Source, error) {
	src, err := s.opts.OpenMedia(ctx, i.URL)
	if err != nil {
		return nil, err
	}
	// Whoever reads waits for as long as a source stalls, and does not look at ctx.
	x := &source{Source: src, unwatch: context.AfterFunc(ctx, func() { _ = src.Close() })}
	x.learn()
	return x, nil
}

func (s *source) Close() error {
	s.unwatch()
	return s.Source.Close()
}

// learn renews the info if the tags have changed.
func (s *source) learn() {
	i := s.Source.Info()
	d := details{i.Tags, s.last.picture}
	switch {
	case len(i.Picture) == 0:
		d.picture = nil
	case d.picture == nil || len(d.picture.data) != len(i.Picture) || &d.picture.data[0] != &i.Picture[0]:
		d.picture = &embedded{i.Picture}
	}
	if s.info != nil && s.last == d {
		return
	}
	s.last = d
	s.info = &stream.Info{
		Next: following(i.Next), Rate: i.Rate, Live: i.Live, Seekable: i.Seekable, Details: d,
		Duration: duration(i.Frames, i.Rate),
	}
}

// following are the entries of a playlist as items.
func following(entries []audio.Entry) []stream.Item {
	items := make([]MediaItem, len(entries))
	for i, e := range entries {
		items[i] = MediaItem{URL: e.URL, Title: e.Title}
	}
	return newItems(items)
}

// duration is how long so many frames last.
func duration(frames int64, rate int) time.Duration {
	r := int64(max(rate, 1))
	return time.Duration(frames/r)*time.Second + time.Duration(frames%r)*time.Second/time.Duration(r)
}

func (s *source) Info() *stream.Info { return s.info }

// Read passes a damaged end on as the end: what can be heard of it was heard.
func (s *source) Read(dst []int32) (int, error) {
	n, err := s.Source.Read(dst)
	s.learn()
	if errors.Is(err, audio.ErrDamaged) && n > 0 {
		return n, io.EOF
	}
	return n, err
}

func (s *source) Seek(to time.Duration) (time.Duration, error) {
	rate := int64(s.info.Rate)
	frame := int64(to/time.Second)*rate + int64(to%time.Second)*rate/int64(time.Second)
	if err := s.SeekFrame(frame); err != nil {
		if errors.Is(err, audio.ErrNotSeekable) {
			return 0, stream.ErrLive
		}
		return 0, err
	}
	return duration(frame, s.info.Rate), nil
}

// encoder is an audio.Encoder as an engine wants it.
type encoder struct {
	audio.Encoder
	fixed int
}

// opusFrames is how much an Opus packet holds: 60 ms, the longest that needs no
// packing of several.
func opusFrames(rate int) int { return rate / 1000 * 60 }

func encode(f protocol.Format, frames int) (stream.Encoder, error) {
	fixed := 0
	if f.Codec == "opus" {
		frames = opusFrames(f.SampleRate)
		fixed = frames
	}
	e, err := audio.NewEncoder(f, frames)
	if err != nil {
		return nil, err
	}
	return encoder{e, fixed}, nil
}

func (e encoder) Frames() int                        { return e.fixed }
func (e encoder) Encode(pcm []int32) ([]byte, error) { return e.Encoder.Encode(nil, pcm) }

// converter is an audio.Resampler as an engine wants it.
type converter struct{ *audio.Resampler }

func convert(from, to int) (stream.Converter, error) {
	r, err := audio.NewResampler(from, to)
	if err != nil {
		return nil, err
	}
	return converter{r}, nil
}

func (c converter) Convert(dst, src []int32) []int32 { return c.Append(dst, src) }
func (c converter) Fork() stream.Converter           { return converter{c.Clone()} }
