package session

import (
	"slices"
	"sync"
	"time"

	"resonatebridge/resonate/internal/dialect"
	"resonatebridge/resonate/protocol"
)

// Artwork is what a display shows. It is a level, as states are: of what waits
// for the writer only the newest goes. It is immutable.
type Artwork struct {
	Channels []protocol.ArtworkChannel
	// Images are by channel; one without data clears it, nil leaves what it has.
	Images []*protocol.ArtworkImage
}

// artwork is the way of pictures through a session: what is wanted, and what
// the client has. A slow display costs the references of one picture for each
// channel, and audio waits for one frame of one at most.
type artwork struct {
	wake chan struct{} // one-slot: want is new

	mu   sync.Mutex // guards want
	want *Artwork   // nil: no stream

	// Of the writer.
	have  *Artwork                  // of the last stream/start; nil: no stream
	shown [4]*protocol.ArtworkImage // since then, by channel; nil: nothing
	rest  []dialect.Frame           // of the message that is being written
}

// ShowArtwork says what the client's display should show; nil: nothing. It
// never blocks; to a session that has ended it does nothing.
func (s *Session) ShowArtwork(a *Artwork) {
	s.artwork.mu.Lock()
	same := a.equal(s.artwork.want)
	s.artwork.want = a
	s.artwork.mu.Unlock()
	if !same {
		nudge(s.artwork.wake)
	}
}

func (a *Artwork) equal(b *Artwork) bool {
	if a == nil || b == nil {
		return a == b
	}
	return slices.Equal(a.Channels, b.Channels) && slices.EqualFunc(a.Images, b.Images, sameImage)
}

// sameImage tells pictures by identity: they are made once.
func sameImage(a, b *protocol.ArtworkImage) bool {
	switch {
	case blank(a) || blank(b):
		return (a == nil) == (b == nil) && blank(a) == blank(b)
	}
	return &a.Data[0] == &b.Data[0] && a.Timestamp == b.Timestamp
}

func blank(i *protocol.ArtworkImage) bool { return i == nil || len(i.Data) == 0 }

// picture writes one frame that takes the display nearer to what is wanted. What
// waits beside it has its turn before the next.
func (s *Session) picture() error {
	a := &s.artwork
	if !s.sealed.has(protocol.RoleArtwork) {
		return nil // it is wanted again when the role is back
	}
	if len(a.rest) == 0 {
		a.mu.Lock()
		m := a.next()
		a.mu.Unlock()
		if m == nil {
			return nil
		}
		a.rest = s.spell(m)
	}
	nudge(a.wake)         // perhaps there is more
	if len(a.rest) == 0 { // the dialect has no words for it
		return nil
	}
	f := a.rest[0]
	a.rest = a.rest[1:]
	return s.frame(f)
}

// next is the message that is missing; nil if none is. want is locked.
func (a *artwork) next() protocol.ServerMessage {
	if a.want == nil {
		// First the pictures, for clients that would not understand the end.
		if m := a.clear(func(int) bool { return true }); m != nil || a.have == nil {
			return m
		}
		a.have = nil
		return protocol.StreamEnd{Roles: []protocol.Role{protocol.RoleArtwork}}
	}
	if a.have == nil || !slices.Equal(a.have.Channels, a.want.Channels) {
		none := func(i int) bool { return i >= len(a.want.Channels) || a.want.Channels[i].Source == "none" }
		if m := a.clear(none); m != nil {
			return m
		}
		for i := range a.shown {
			if a.have == nil || i < len(a.have.Channels) && i < len(a.want.Channels) && a.have.Channels[i] != a.want.Channels[i] {
				a.shown[i] = nil // in its new form it comes again
			}
		}
		a.have = a.want
		return protocol.StreamStart{Artwork: &protocol.StreamArtwork{Channels: a.want.Channels}}
	}
	for i, image := range a.want.Images {
		if image == nil || sameImage(image, a.shown[i]) || blank(image) && a.shown[i] == nil {
			continue
		}
		a.shown[i] = image
		return *image
	}
	return nil
}

// clear empties the first of the channels that shows something.
func (a *artwork) clear(which func(channel int) bool) protocol.ServerMessage {
	for i, shown := range a.shown {
		if !blank(shown) && which(i) {
			a.shown[i] = nil
			return protocol.ArtworkImage{Channel: i}
		}
	}
	return nil
}

// rehang is how long after such an end pictures come again: if nothing is to be
// shown any more, that is known by then.
const rehang = 100 * time.Millisecond

// artworkEnded notes that the client has dropped its pictures with the audio,
// since its dialect can't end one without the other.
func (s *Session) artworkEnded() {
	s.artwork.have = nil
	clear(s.artwork.shown[:])
	time.AfterFunc(rehang, func() { nudge(s.artwork.wake) })
}
