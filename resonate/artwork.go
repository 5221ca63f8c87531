package resonate

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"resonatebridge/resonate/audio/fetch"
	"resonatebridge/resonate/audio/picture"
	"resonatebridge/resonate/internal/contain"
	"resonatebridge/resonate/internal/session"
	"resonatebridge/resonate/internal/stream"
	"resonatebridge/resonate/protocol"
	"resonatebridge/timesync"
)

// Limits of pictures.
const (
	pictureWithin = 15 * time.Second // for fetching one
	mqttSide      = 512              // pixels of Media.Art
	mqttBytes     = 128 << 10        // of Media.Art
	maxPrints     = 16               // sizes and formats of one picture at a time
	sideUnsaid    = 512              // pixels, for displays that do not say their size (dialect R1)

	// showAhead is how long before its time a picture or a title is sent: enough for
	// a slow display, and not too early on one that shows whatever comes.
	showAhead = 500 * time.Millisecond
)

// cover says where the picture of an item comes from; comparable.
type cover struct {
	url      string
	embedded *embedded
}

// coverOf finds the picture of an item: the one that was named with the
// command, else the file's own, else the one that its tags name.
func coverOf(i stream.Item, info *stream.Info) cover {
	if given, _ := i.Given.(MediaItem); given.ArtworkURL != "" {
		return cover{url: given.ArtworkURL}
	}
	if info == nil {
		return cover{}
	}
	d, _ := info.Details.(details)
	if d.picture != nil {
		return cover{embedded: d.picture}
	}
	return cover{url: d.ArtworkURL}
}

// portrait is a picture that was read, and what was made of it. The loop owns
// prints; the rest is immutable.
type portrait struct {
	*picture.Picture
	hash   string
	jpeg   []byte
	colors protocol.Colors
	prints map[protocol.ArtworkChannel]*print
}

// print is a portrait in one size and format.
type print struct {
	data   []byte // nil: being made, or it can't be
	cancel context.CancelFunc
}

// art is the picture of an item of a stage. While it is being loaded, the
// former one is shown: a display that turns black for a moment is not nice.
type art struct {
	of     cover
	at     timesync.Micros // when the item begins to sound
	loaded bool
	err    *CommandError
	cancel context.CancelFunc

	shown *portrait       // nil: none
	since timesync.Micros // when shown is, or will be
}

// illustrate finds the pictures of what s plays and of what comes, if those are
// not the ones that it has.
func (m *model) illustrate(s *stage) {
	st := s.status
	now, next := cover{}, cover{}
	if st.Current >= 0 && st.Current < len(st.Items) {
		now = coverOf(st.Items[st.Current], st.Info)
	}
	if st.Coming != nil {
		next = coverOf(st.Coming.Item, st.Coming.Info)
	}
	switch {
	case s.art != nil && s.art.of == now:
	case s.next != nil && s.next.of == now: // it has come
		before := s.art
		s.art, s.next = s.next, nil
		s.dismiss(before)
	default:
		before := s.art
		s.art = m.load(s, now, max(st.At, m.opts.Clock.Now()), before) // At: when it begins, if it has not yet
		s.dismiss(before)
	}
	switch {
	case st.Coming == nil || next == now:
		before := s.next
		s.next = nil
		s.dismiss(before)
	case s.next == nil || s.next.of != next:
		before := s.next
		s.next = m.load(s, next, st.Coming.At, s.art)
		s.dismiss(before)
	case s.next.at != st.Coming.At: // what plays has stalled
		if s.next.since == s.next.at {
			s.next.since = st.Coming.At
		}
		s.next.at = st.Coming.At
	}
	m.foretell(s)
}

// foretell has what comes told to clients when it is time for that.
func (m *model) foretell(s *stage) {
	s.soon.Stop()
	if c := s.status.Coming; c != nil {
		wait := time.Duration(c.At-m.opts.Clock.Now())*time.Microsecond - showAhead
		s.soon = m.after(max(wait, 0), func() { m.touchStage(s) })
	}
}

// visible is the picture that clients are told of now, ahead of its time or not.
func (s *stage) visible(now timesync.Micros) *art {
	if n := s.next; n != nil && n.loaded && n.at-now <= timesync.Micros(showAhead/time.Microsecond) {
		return n
	}
	return s.art
}

// load begins to read a picture; before is what is shown until it is there.
func (m *model) load(s *stage, of cover, at timesync.Micros, before *art) *art {
	ctx, cancel := context.WithCancel(s.ctx)
	a := &art{of: of, at: at, cancel: cancel, since: at}
	var known *portrait
	if before != nil {
		a.shown, a.since, known = before.shown, before.since, before.shown
	}
	if of == (cover{}) {
		a.take(nil, nil)
		return a
	}
	m.engines.Go(func() { // owner: the server; ends with ctx or pictureWithin, but for one picture's arithmetic
		var p *portrait
		contain.Run(m.log, func() (err error) { p, err = m.readPortrait(ctx, of, known); return err }, func(err error) {
			m.post(nil, func() {
				if ctx.Err() == nil && (s.art == a || s.next == a) {
					m.onPortrait(s, a, p, err)
				}
			})
		})
	})
	return a
}

// onPortrait takes a picture in that was read, or could not be.
func (m *model) onPortrait(s *stage, a *art, p *portrait, err error) {
	var why *CommandError
	if err != nil {
		why = pictureError(err)
		m.log.Warn("no picture", slog.String("url", a.of.url), slog.String("code", string(why.Code)), slog.String("err", why.Message))
	}
	if p != nil && s.art != nil && s.art.shown != nil && s.art.shown.hash == p.hash {
		p = s.art.shown // two loads of the same one
	}
	before := a.shown
	a.take(p, why)
	s.release(before)
	m.touchStage(s)
}

// take ends the loading.
func (a *art) take(p *portrait, err *CommandError) {
	a.loaded, a.err = true, err
	if p != a.shown {
		a.shown, a.since = p, a.at
	}
}

// dismiss ends what is made for a picture that nothing needs any more.
func (s *stage) dismiss(a *art) {
	if a != nil {
		a.cancel()
		s.release(a.shown)
	}
}

// release gives the prints of p up, unless it is shown.
func (s *stage) release(p *portrait) {
	if p == nil || s.art != nil && s.art.shown == p || s.next != nil && s.next.shown == p {
		return
	}
	for _, x := range p.prints {
		x.cancel()
	}
	clear(p.prints)
}

// touchStage marks the group that s plays to as changed.
func (m *model) touchStage(s *stage) {
	for _, g := range m.groups {
		if g.stage == s {
			m.touchGroup(g)
		}
	}
}

// painting is held while pictures are decoded or made, one at a time: they are
// large, and audio has the other processors.
func (s *Server) painting(ctx context.Context, do func() error) error {
	select {
	case s.easel <- struct{}{}:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	defer func() { <-s.easel }()
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return do()
}

// readPortrait reads a picture. If it is the same as known, it returns that.
func (s *Server) readPortrait(ctx context.Context, of cover, known *portrait) (*portrait, error) {
	var data []byte
	if of.embedded != nil {
		data = of.embedded.data
	} else {
		ctx, cancel := context.WithTimeout(ctx, pictureWithin)
		defer cancel()
		var err error
		if data, err = s.opts.FetchPicture(ctx, of.url, picture.MaxBytes); err != nil {
			return nil, err
		}
	}
	sum := sha256.Sum256(data)
	p := &portrait{hash: hex.EncodeToString(sum[:8]), prints: map[protocol.ArtworkChannel]*print{}}
	if known != nil && known.hash == p.hash {
		return known, nil
	}
	err := s.painting(ctx, func() (err error) {
		if p.Picture, err = picture.Decode(data); err != nil {
			return err
		}
		p.colors = wireColors(p.Colors())
		p.jpeg, err = p.JPEG(mqttSide, mqttBytes)
		return err
	})
	if err != nil {
		return nil, err
	}
	return p, nil
}

func pictureError(err error) *CommandError {
	if errors.Is(err, picture.ErrUnsupported) || errors.Is(err, fetch.ErrTooLarge) {
		return Errorf(CodeMediaUnsupported, "%v", err)
	}
	return Errorf(mediaCode(err), "%v", err)
}

func wireColors(c picture.Colors) protocol.Colors {
	of := func(c picture.RGB) *protocol.Color { return new(protocol.Color(c)) }
	return protocol.Colors{
		BackgroundDark: of(c.BackgroundDark), BackgroundLight: of(c.BackgroundLight),
		Primary: of(c.Primary), Accent: of(c.Accent), OnDark: of(c.OnDark), OnLight: of(c.OnLight),
	}
}

// paint has the pictures of g made in every form that its displays ask for,
// once each, and gives up those that none asks for any more.
func (m *model) paint(g *group) {
	if g.stage == nil {
		return
	}
	wanted := map[protocol.ArtworkChannel]bool{}
	for _, c := range g.members {
		if c.displays() {
			for _, ch := range c.art {
				wanted[form(ch)] = true
			}
		}
	}
	delete(wanted, protocol.ArtworkChannel{})
	for _, a := range []*art{g.stage.art, g.stage.next} {
		if a == nil || a.shown == nil || !a.loaded {
			continue
		}
		p := a.shown
		for f, x := range p.prints {
			if !wanted[f] {
				x.cancel()
				delete(p.prints, f)
			}
		}
		for _, f := range sortedForms(wanted) {
			if p.prints[f] == nil && len(p.prints) < maxPrints {
				m.print(g.stage, p, f)
			}
		}
	}
}

// print makes p in one form.
func (m *model) print(s *stage, p *portrait, f protocol.ArtworkChannel) {
	ctx, cancel := context.WithCancel(s.ctx)
	x := &print{cancel: cancel}
	p.prints[f] = x
	m.engines.Go(func() { // owner: the server; ends with ctx, but for one picture's arithmetic
		var data []byte
		contain.Run(m.log, func() error {
			return m.painting(ctx, func() (err error) {
				m.counters.prints.Add(1)
				data, err = p.Encode(f.Format, f.Width, f.Height)
				return err
			})
		}, func(err error) {
			m.post(nil, func() {
				switch {
				case ctx.Err() != nil: // nobody wants it any more
				case err != nil:
					m.log.Warn("a picture can't be made", slog.String("form", fmt.Sprintf("%+v", f)), slog.Any("err", err))
				default:
					x.data = data
					m.touchStage(s)
				}
			})
		})
	})
}

// form is what a channel asks for; zero if it is nothing that there is: pictures
// of artists are not known.
func form(ch protocol.ArtworkChannel) protocol.ArtworkChannel {
	if ch.Source != "album" || max(ch.Width, ch.Height) > picture.MaxSize {
		return protocol.ArtworkChannel{}
	}
	ch.Width, ch.Height = cmp.Or(ch.Width, ch.Height, sideUnsaid), cmp.Or(ch.Height, ch.Width, sideUnsaid)
	return ch
}

func sortedForms(set map[protocol.ArtworkChannel]bool) []protocol.ArtworkChannel {
	var out []protocol.ArtworkChannel
	for f := range set {
		out = append(out, f)
	}
	slices.SortFunc(out, func(a, b protocol.ArtworkChannel) int { // small ones are made first
		return cmp.Or(cmp.Compare(a.Width*a.Height, b.Width*b.Height), cmp.Compare(a.Width, b.Width), cmp.Compare(a.Format, b.Format))
	})
	return out
}

// displays reports whether c can be shown pictures.
func (c *client) displays() bool {
	return c.link != nil && c.available && len(c.art) > 0 && c.link.HasRole(protocol.RoleArtwork)
}

// artwork is what the display of c shows; nil: nothing.
func (c *client) artwork(now timesync.Micros) *session.Artwork {
	s := c.group.stage
	if s == nil || s.art == nil || s.status.State == stream.Idle || !c.displays() {
		return nil
	}
	out := &session.Artwork{Channels: c.art, Images: s.art.images(c.art)}
	if a := s.visible(now); a != s.art {
		if ahead := a.images(c.art); !slices.Contains(ahead, nil) {
			out.Images = ahead
		}
	}
	return out
}

// images are those of a for some channels; nil where one is not made yet.
func (a *art) images(channels []protocol.ArtworkChannel) []*protocol.ArtworkImage {
	out := make([]*protocol.ArtworkImage, len(channels))
	for i, ch := range channels {
		f := form(ch)
		switch {
		case a.shown == nil || f == protocol.ArtworkChannel{}:
			out[i] = &protocol.ArtworkImage{Channel: i, Timestamp: a.since}
		case a.shown.prints[f] != nil && a.shown.prints[f].data != nil:
			out[i] = &protocol.ArtworkImage{Channel: i, Timestamp: a.since, Data: a.shown.prints[f].data}
		}
	}
	return out
}

// colors are those of what g plays, and whose they are.
func (g *group) colors(now timesync.Micros) (protocol.Colors, tint) {
	s := g.stage
	if s == nil || s.art == nil || s.status.State == stream.Idle {
		return protocol.Colors{Timestamp: now}, tint{}
	}
	a, colors := s.visible(now), protocol.Colors{}
	if a.shown != nil {
		colors = a.shown.colors
	}
	colors.Timestamp = max(a.since, 0)
	return colors, tint{a.shown, a.since}
}

// tint says which colors a client was told.
type tint struct {
	of    *portrait
	since timesync.Micros
}

// onRequestArtwork changes what one channel of a display shows.
func (m *model) onRequestArtwork(c *client, r protocol.RequestArtwork) {
	if r.Channel < 0 || r.Channel >= len(c.art) {
		return
	}
	ch := c.art[r.Channel]
	ch.Source, ch.Format = cmp.Or(r.Config.Source, ch.Source), cmp.Or(r.Config.Format, ch.Format)
	ch.Width, ch.Height = cmp.Or(r.Config.Width, ch.Width), cmp.Or(r.Config.Height, ch.Height)
	known := slices.Contains([]string{"album", "artist", "none"}, ch.Source) && slices.Contains([]string{"jpeg", "png", "bmp"}, ch.Format)
	if !known && ch.Source != "none" || ch == c.art[r.Channel] {
		return
	}
	c.art = slices.Clone(c.art) // the session has the old one
	c.art[r.Channel] = ch
	m.dirty = true
}
