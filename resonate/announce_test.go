package resonate

import (
	"context"
	"fmt"
	"io"
	"os"
	"slices"
	"testing"
	"time"

	"resonatebridge/resonate/audio"
)

// word is a second of one loud sample, which no ramp has.
const word = 32_000

type words struct{ left int64 }

func (w *words) Info() audio.Info {
	return audio.Info{Rate: 48_000, Frames: 48_000}
}

func (w *words) Read(dst []int32) (int, error) {
	n := int(min(int64(len(dst)/2), w.left))
	if n == 0 {
		return 0, io.EOF
	}
	for i := range n * 2 {
		dst[i] = word << 16
	}
	w.left -= int64(n)
	return n, nil
}
func (w *words) SeekFrame(int64) error { return audio.ErrNotSeekable }
func (w *words) Close() error          { return nil }

func speech(o *Options) {
	music := o.OpenMedia
	o.OpenMedia = func(ctx context.Context, url string) (audio.Source, error) {
		if url == "http://x/say" {
			return &words{48_000}, nil
		}
		if music == nil {
			return nil, fmt.Errorf("%w: there is no %s", audio.ErrUnreachable, url)
		}
		return music(ctx, url)
	}
}

// spokenAt is the server time of the first sample of an announcement.
func (l *line) spokenAt(t *testing.T) int64 {
	t.Helper()
	left, stamps := l.frames(t)
	at := 0
	for _, stamp := range stamps {
		n := 4608
		for i := at; i < min(at+n, len(left)); i++ {
			if left[i] > 31_000 {
				return stamp + int64(i-at)*1000/48
			}
		}
		at += n
	}
	t.Fatal("nothing was said")
	return 0
}

func TestAnnouncementInTheHouse(t *testing.T) {
	bubble(t, func(t *testing.T) {
		h := newHouse(t, library(map[string]*ramp{"http://x/a": {frames: 48_000 * 60, rate: 48_000}}), speech)
		var s []*speaker
		for _, id := range []string{"a", "b", "c", "d"} {
			s = append(s, h.online(id))
		}
		h.must(SetPlayer{PID: "b", Group: &GroupTarget{With: "a"}})
		h.must(playURL("a", "http://x/a"))
		h.must(SetPlayer{PID: "c", AnnounceVolume: new(70)})
		pass(3 * time.Second)
		// b of the playing group, c and d that play nothing; a is not meant.
		r := h.must(Announce{Targets: []Target{{PID: "b"}, {PID: "c"}, {PID: "d"}}, URL: "http://x/say"})
		if got := r.Data["players"]; !slices.Equal(got.([]string), []string{"b", "c", "d"}) {
			t.Errorf("got %v", r.Data)
		}
		if !h.group("c").Announcing {
			t.Error("it does not say that it announces")
		}
		pass(10 * time.Second)
		at := s[1].line(-1).spokenAt(t)
		for _, x := range s[2:] {
			if d := x.line(-1).spokenAt(t) - at; d < -21 || d > 21 {
				t.Errorf("%s begins %d us after b, want within a sample", x.id, d)
			}
		}
		left, _ := s[0].line(-1).frames(t)
		wantRamp(t, left, 0, int64(len(left)))
		if got := s[2].commands(); !slices.Equal(got, []string{"volume=70", "volume=40"}) {
			t.Errorf("c was told %v, want its announcement volume and then its own", got)
		}
		if got := s[1].commands(); len(got) != 0 {
			t.Errorf("b was told %v, want nothing", got)
		}
		if g := h.group("c"); g.Announcing || g.Playback != Idle {
			t.Errorf("afterwards c is %s, announcing %v", g.Playback, g.Announcing)
		}
		if g := h.group("a"); g.Playback != Playing {
			t.Errorf("afterwards a is %s", g.Playback)
		}
	})
}

func TestAnnouncementVolumeComesBack(t *testing.T) {
	for _, c := range []struct {
		name string
		do   func(h *house, s *speaker)
		want int
	}{
		{"after it", func(*house, *speaker) {}, 40},
		{"after a drop", func(_ *house, s *speaker) { s.powerOff(); pass(8 * time.Second); s.powerOn() }, 40},
		{"unless somebody set another", func(h *house, _ *speaker) { h.must(setVolume("a", 55)) }, 55},
		{"after a stop", func(h *house, _ *speaker) { h.must(act("a", ActionStop)) }, 40},
	} {
		t.Run(c.name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				h := newHouse(t, speech)
				s := h.online("a")
				h.must(Announce{Targets: []Target{{PID: "a"}}, URL: "http://x/say", Volume: new(80)})
				pass(1500 * time.Millisecond)
				if got := h.volume("a"); got != 80 {
					t.Fatalf("while it speaks the volume is %d, want 80", got)
				}
				c.do(h, s)
				pass(time.Minute)
				if got := h.volume("a"); got != c.want {
					t.Errorf("afterwards the volume is %d, want %d", got, c.want)
				}
			})
		})
	}
}

func TestAnnouncementVolumeComesBackAfterARestart(t *testing.T) {
	bubble(t, func(t *testing.T) {
		dir, crashed := t.TempDir(), t.TempDir()
		h := newHouse(t, speech, func(o *Options) { o.DataDir = dir })
		s := h.online("a")
		h.must(Announce{Targets: []Target{{PID: "a"}}, URL: "http://x/say", Volume: new(80)})
		pass(1500 * time.Millisecond)
		if err := os.CopyFS(crashed, os.DirFS(dir)); err != nil {
			t.Fatal(err)
		}
		h.stop()
		if s.volume != 40 {
			t.Errorf("an orderly end leaves the speaker at %d, want 40", s.volume)
		}
		h = newHouse(t, speech, func(o *Options) { o.DataDir = crashed })
		s = h.speaker("a")
		s.volume = 80
		s.announce()
		pass(time.Second)
		if got := h.volume("a"); got != 40 {
			t.Errorf("after a crash: got %d, want 40", got)
		}
	})
}

func TestAnnouncementsWait(t *testing.T) {
	bubble(t, func(t *testing.T) {
		h := newHouse(t, speech)
		s := h.online("a")
		h.online("b")
		say := func(pid string, priority int, timeout time.Duration) map[string]any {
			return h.must(Announce{Targets: []Target{{PID: pid}}, URL: "http://x/say", Priority: priority, Timeout: timeout}).Data
		}
		if got := say("a", 0, 0)["starts_in_ms"]; got == nil {
			t.Error("the first one does not begin")
		}
		if got := say("a", 5, time.Second); got["queued"] != true || got["timeout_s"] != 1.0 {
			t.Errorf("one that waits is answered at once: got %v", got)
		}
		say("a", 0, 10*time.Second)
		if got := say("b", 0, 0)["starts_in_ms"]; got == nil {
			t.Error("who has nobody to wait for waits")
		}
		if n := h.announcements(); n != 4 {
			t.Errorf("%d are known, want 4", n)
		}
		pass(1010 * time.Millisecond) // the first one takes longer
		if n := h.announcements(); n != 3 {
			t.Errorf("after its time-out %d are known, want 3", n)
		}
		pass(time.Minute)
		left, _ := s.line(-1).frames(t)
		if n := said(left); n != 2 {
			t.Errorf("it heard %d announcements, want 2", n)
		}
		if h.group("a").Announcing {
			t.Error("it still announces")
		}
	})
}

// announcements is how many wait or sound.
func (h *house) announcements() int {
	n := make(chan int)
	h.post(nil, func() { n <- len(h.model.spoken) })
	return <-n
}

// said counts the announcements among samples: each is a second.
func said(left []int16) (n int) {
	for _, v := range left {
		if v > 31_000 {
			n++
		}
	}
	return n / 48_000
}

// There is an end to what waits, and who waits may be gone when its turn comes.
func TestAnnouncementsThatWaitAreBounded(t *testing.T) {
	bubble(t, func(t *testing.T) {
		h := newHouse(t, speech)
		a, b := h.online("a"), h.online("b")
		cmd := Announce{Targets: []Target{{PID: "a"}, {PID: "b"}}, URL: "http://x/say", Timeout: time.Hour}
		for range maxSpoken {
			h.must(cmd)
		}
		h.mustFail(cmd, CodeBusy)
		b.powerOff()
		h.must(RemovePlayer{PID: "b"})
		pass(2 * time.Minute)
		left, _ := a.line(-1).frames(t)
		if n := said(left); n != maxSpoken {
			t.Errorf("a heard %d announcements, want %d", n, maxSpoken)
		}
		h.must(Announce{Targets: []Target{{PID: "a"}}, URL: "http://x/say"})
		h.must(Announce{Targets: []Target{{PID: "a"}}, URL: "http://x/say"})
		a.powerOff()
		h.must(RemovePlayer{PID: "a"})
		pass(time.Minute)
		if n := h.announcements(); n != 0 {
			t.Errorf("%d wait for a speaker that was forgotten", n)
		}
	})
}

func TestAnnouncementRefused(t *testing.T) {
	bubble(t, func(t *testing.T) {
		h := newHouse(t, speech)
		s := h.online("a")
		a := []Target{{PID: "a"}}
		h.mustFail(Announce{Targets: a}, CodeInvalidValue)
		h.mustFail(Announce{Targets: a, URL: "http://x/none"}, CodeMediaUnreachable)
		h.mustFail(Announce{Targets: a, Text: "hello"}, CodeNotSupported)
		h.mustFail(Announce{Targets: []Target{{PID: "nobody"}}, URL: "http://x/say"}, CodeUnknownDevice)
		h.mustFail(Announce{Targets: a, URL: "http://x/say", Volume: new(101)}, CodeInvalidValue)
		s.powerOff()
		pass(time.Minute)
		h.mustFail(Announce{Targets: a, URL: "http://x/say"}, CodeNotConnected)
		if got := s.commands(); len(got) != 0 {
			t.Errorf("the speaker was told %v", got)
		}
	})
}

func TestQuietHours(t *testing.T) {
	night := QuietHours{From: 22 * time.Hour, To: 7 * time.Hour, Volume: 20}
	noon := QuietHours{From: 12 * time.Hour, To: 14 * time.Hour}
	day := time.Date(2026, 11, 2, 0, 0, 0, 0, time.Local)
	for _, c := range []struct {
		q    QuietHours
		at   time.Duration
		want bool
	}{
		{night, 21*time.Hour + 59*time.Minute, false},
		{night, 22 * time.Hour, true},
		{night, 3 * time.Hour, true},
		{night, 7 * time.Hour, false},
		{noon, 12 * time.Hour, true},
		{noon, 14 * time.Hour, false},
		{noon, 3 * time.Hour, false},
	} {
		if got := c.q.covers(day.Add(c.at)); got != c.want {
			t.Errorf("%v at %v: got %v", c.q, c.at, got)
		}
	}
	bubble(t, func(t *testing.T) {
		h := newHouse(t, speech, func(o *Options) {
			o.Announcements.Quiet = []QuietHours{{From: 0, To: 24 * time.Hour, Volume: 20}}
		})
		s := h.online("a")
		h.must(Announce{Targets: []Target{{PID: "a"}}, URL: "http://x/say", Volume: new(90)})
		pass(10 * time.Second)
		if got := s.commands(); !slices.Equal(got, []string{"volume=20", "volume=40"}) {
			t.Errorf("got %v, want 20 in quiet hours", got)
		}
	})
}
