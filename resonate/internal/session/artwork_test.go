package session

import (
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"resonatebridge/resonate/protocol"
)

func display(u *setup) {
	u.hello = strings.Replace(strings.Replace(hello, `"player@v1",`, `"player@v1","artwork@v1",`, 1), `"player@v1_support"`,
		`"artwork@v1_support":{"channels":[{"source":"album","format":"jpeg","media_width":9,"media_height":9}]},"player@v1_support"`, 1)
}

func hung(s *Session, data ...byte) *Artwork {
	return &Artwork{Channels: s.Hello().Artwork.Channels, Images: []*protocol.ArtworkImage{{Timestamp: 1, Data: data}}}
}

// A display that reads nothing costs the newest picture, not all of them, and
// the same picture goes once.
func TestOnlyTheNewestPictureGoes(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r, p := live(t, display)
		clog(t, r)
		for i := range byte(100) {
			r.ShowArtwork(hung(r.Session, i))
		}
		last := hung(r.Session, 7)
		for range 3 {
			r.ShowArtwork(last)
		}
		p.listen()
		synctest.Wait()
		for range 3 {
			r.ShowArtwork(last)
		}
		synctest.Wait()
		if got := p.types()[2:]; !slices.Equal(got, []string{"stream/start", "binary"}) {
			t.Errorf("got %v, want a start and one picture", got)
		}
		r.ShowArtwork(nil)
		synctest.Wait()
		if got := p.types()[4:]; !slices.Equal(got, []string{"binary", "stream/end"}) {
			t.Errorf("got %v, want an empty picture and the end", got)
		}
		if r.isOver() {
			t.Error("the session is over")
		}
	})
}

// The end of the audio takes the picture along where it can't be named; it
// comes again, unless nothing is to be shown any more.
func TestPictureOutlivesTheAudio(t *testing.T) {
	for _, old := range []bool{false, true} {
		bubble(t, func(t *testing.T) {
			r, p := live(t, display, func(u *setup) {
				if old {
					u.hello = strings.Replace(u.hello, `"artwork@v1_support"`, `"artwork_support"`, 1)
				}
			})
			p.listen()
			r.ShowArtwork(hung(r.Session, 1))
			synctest.Wait()
			must(t, "end", r.Stream(protocol.StreamEnd{Roles: []protocol.Role{protocol.RolePlayer}}), nil)
			pass(time.Second)
			want := []string{"stream/start", "binary", "stream/end"}
			if old {
				want = append(want, "stream/start", "binary")
			}
			if got := p.types()[1:]; !slices.Equal(got, want) {
				t.Errorf("old keys %v: got %v, want %v", old, got, want)
			}
			must(t, "end", r.Stream(protocol.StreamEnd{Roles: []protocol.Role{protocol.RolePlayer}}), nil)
			r.ShowArtwork(nil)
			pass(time.Second)
			if got := p.types(); got[len(got)-1] != "stream/end" {
				t.Errorf("old keys %v: after the last end came %v", old, got)
			}
		})
	}
}
