package stream

import (
	"slices"
	"testing"
	"testing/synctest"
	"time"
)

// say is a clip of n frames at 48 kHz that are all v.
func say(v int32, d time.Duration) Clip {
	pcm := make([]int32, int(d*48_000/time.Second)*Channels)
	for i := range pcm {
		pcm[i] = v
	}
	return Clip{Rate: 48_000, PCM: pcm}
}

func only(ids ...string) map[string]bool {
	m := map[string]bool{}
	for _, id := range ids {
		m[id] = true
	}
	return m
}

// at is the sample that e plays at server time t, of the last stretch.
func at(t *testing.T, e *ear, when micros) int32 {
	t.Helper()
	for _, s := range slices.Backward(e.sounds()) {
		if s.at <= when && when < s.end {
			return s.pcm[int64(when-s.at)*48_000/second]
		}
	}
	t.Fatalf("nothing sounds at %d", when)
	return 0
}

func TestAnnouncementOverMusic(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRoom(t)
		r.source("a", 1, 48_000, 30*time.Second)
		a, b := r.player("a"), r.player("b")
		r.play("a")
		begin := a.sounds()[0].at
		pass(5 * time.Second)
		when := r.clock.Now() + 3*second
		done := time.Time{}
		const word = 1 << 27
		r.Announce(Announcement{
			Clip: say(word, 2*time.Second), Players: only("a"), At: when, Duck: 0.25, Ramp: 300_000,
			Done: func() { done = time.Now() },
		})
		started := time.Now()
		pass(40 * time.Second)
		music := func(t micros) int32 { return 1<<24 + int32(int64(t-begin)*48_000/second) }
		for _, c := range []struct {
			when micros
			want int32
		}{
			{when - 300_001, music(when - 300_001)},
			{when - 150_000, clip(float64(music(when-150_000)) * 0.625)},
			{when - 20, clip(float64(music(when-20)) * 0.25005)},
			{when, word + clip(float64(music(when))*0.25)},
			{when + 2*second - 30, word + clip(float64(music(when+2*second-30))*0.25)},
			{when + 2*second, clip(float64(music(when+2*second)) * 0.25)},
			{when + 2*second + 300_000, music(when + 2*second + 300_000)},
		} {
			if got := at(t, a, c.when); got < c.want-2000 || got > c.want+2000 {
				t.Errorf("at %+d us it plays %d, want %d", c.when-when, got, c.want)
			}
		}
		wantRun(t, heard(t, b), 1, 0, 1_440_000) // who is not meant hears nothing of it
		pcm := heard(t, a)
		if len(pcm) != 1_440_000 {
			t.Errorf("got %d frames, want 1440000", len(pcm))
		}
		head := int(int64(when-begin-300_000) * 48_000 / second)
		wantRun(t, pcm[:head], 1, 0, head)
		tail := int(int64(when-begin+2_300_000) * 48_000 / second)
		wantRun(t, pcm[tail:], 1, tail, len(pcm)-tail)
		if d := done.Sub(started); d != 5300*time.Millisecond {
			t.Errorf("it was done after %v, want 5.3 s", d)
		}
		if got := a.messages(); !slices.Equal(got, []string{"start", "sound", "end"}) {
			t.Errorf("got %v, want no clear and no second start", got)
		}
	})
}

// An announcement that comes too late for its whole ramp makes it shorter: the
// music never drops from one sample to the next.
func TestAnnouncementThatComesLateHasAShorterRamp(t *testing.T) {
	shorter := 0
	for d := 1400; d < 2100; d += 50 {
		synctest.Test(t, func(t *testing.T) {
			r := newRoom(t)
			r.source("a", 1, 48_000, 30*time.Second)
			a := r.player("a")
			r.play("a")
			pass(5 * time.Second)
			const word = 1 << 29
			when := r.clock.Now() + micros(d)*1000
			r.Announce(Announcement{Clip: say(word, time.Second), Players: only("a"), At: when, Duck: 0.25, Ramp: 300_000, Done: func() {}})
			pass(10 * time.Second)
			before, down := 1.0, 0
			for i, v := range heard(t, a) {
				if v > word/2 {
					break
				}
				gain := float64(v) / float64(1<<24+i)
				if gain < before-0.02 {
					t.Errorf("announced %d ms ahead: at %v the gain goes from %.3f to %.3f at once", d, time.Duration(i)*time.Second/48_000, before, gain)
				}
				if gain < 0.9999 {
					down++
				}
				before = gain
			}
			if got := time.Duration(down) * time.Second / 48_000; got > 300*time.Millisecond {
				t.Errorf("announced %d ms ahead: the ramp takes %v", d, got)
			} else if got < 290*time.Millisecond {
				shorter++
			}
		})
	}
	if shorter == 0 {
		t.Error("none of them had a shorter ramp, so nothing was shown")
	}
}

// Two groups, one that plays and one that does not, begin on the same sample.
func TestAnnouncementBeginsEverywhereAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, s := newRoom(t), newRoom(t)
		r.source("a", 1, 48_000, 30*time.Second)
		a := r.player("a")
		r.play("a")
		b := s.player("b", func(p *Player) { p.OutputDelayMs = 70 })
		pass(1234 * time.Millisecond)
		when := r.clock.Now() + 3*second
		offset := s.clock.Now() - r.clock.Now()
		x := Announcement{Clip: say(7, time.Second), Players: only("a", "b"), At: when, Done: func() {}}
		r.Announce(x)
		x.At += offset
		s.Announce(x)
		pass(10 * time.Second)
		if got := b.sounds()[0].at - offset; got != when {
			t.Errorf("the idle group begins %d us after the moment", got-when)
		}
		if got := b.messages(); !slices.Equal(got, []string{"start", "sound", "end"}) {
			t.Errorf("got %v", got)
		}
		if before, after := at(t, a, when-22), at(t, a, when+21); before == 7 || after != 7 {
			t.Errorf("the playing group plays %d before and %d at the moment, want 7 at it", before, after)
		}
		if st := s.Status(); st.State != Idle || st.Speaking {
			t.Errorf("afterwards the idle group is %+v", st)
		}
	})
}

func TestAnnouncementInAPause(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRoom(t)
		r.source("a", 1, 48_000, 10*time.Second)
		e := r.player("a")
		r.play("a")
		pass(2500 * time.Millisecond)
		r.ok(r.Pause)
		n := 0
		x := Announcement{Clip: say(7, time.Second), Players: only("a"), Done: func() { n++ }}
		r.Announce(x)
		r.Announce(x) // waits for the first
		pass(10 * time.Second)
		if n != 2 {
			t.Errorf("%d announcements are done, want 2", n)
		}
		if st := r.Status(); st.State != Paused || st.Position != 2*time.Second {
			t.Errorf("afterwards it is %d at %v, want paused at 2 s", st.State, st.Position)
		}
		before := len(e.sounds())
		r.ok(r.Resume)
		pass(20 * time.Second)
		var pcm []int32
		for _, s := range e.sounds()[before:] {
			pcm = append(pcm, s.pcm...)
		}
		wantRun(t, pcm, 1, 96_000, 384_000)
	})
}

func TestAnnouncementSurvivesAJumpAndAnEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRoom(t)
		r.source("a", 0, 48_000, 3*time.Second)
		r.source("b", 0, 48_000, 3*time.Second)
		e := r.player("a")
		r.play("a")
		done := false
		r.Announce(Announcement{Clip: say(1<<28, 6*time.Second), Players: only("a"), Duck: 0, Done: func() { done = true }})
		pass(1500 * time.Millisecond)
		r.play("b") // while it speaks
		pass(20 * time.Second)
		if !done {
			t.Error("it is not done")
		}
		spoken := 0
		var last micros
		for _, s := range e.sounds() {
			last = s.end
			for _, v := range s.pcm {
				if v >= 1<<28 {
					spoken++
				}
			}
		}
		// What was on its way at the jump is said again.
		if spoken < 288_000 {
			t.Errorf("%d frames of it were sent, want all 288000", spoken)
		}
		if got := e.messages(); got[len(got)-1] != "end" {
			t.Errorf("got %v, want an end at %d", got, last)
		}
		if st := r.Status(); st.State != Idle {
			t.Errorf("got state %d", st.State)
		}
	})
}

// Each of several announcements over nothing has its whole lead, wherever in a
// chunk the one before it ended.
func TestAnnouncementsInSilenceHaveTheirLead(t *testing.T) {
	for ms := 300; ms < 400; ms += 16 {
		synctest.Test(t, func(t *testing.T) {
			r := newRoom(t)
			e := r.player("a")
			length := time.Duration(ms) * time.Millisecond
			for v := range int32(3) {
				r.Announce(Announcement{Clip: say(v+1, length), Players: only("a"), Ramp: 300_000, Done: func() {}})
			}
			pass(8 * time.Second)
			said := map[int32]time.Duration{}
			for i, s := range e.sounds() {
				if ahead := s.at - s.sent; ahead < 400_000 {
					t.Errorf("of %v each: chunk %d was sent %d us ahead, want 400 ms", length, i, ahead)
				}
				for _, v := range s.pcm {
					said[v] += time.Second
				}
			}
			for v := range int32(3) {
				if got := said[v+1] / 48_000; got != length {
					t.Errorf("%v of announcement %d was heard, want %v", got, v+1, length)
				}
			}
		})
	}
}
