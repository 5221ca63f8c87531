package stream

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"resonatebridge/resonate/protocol"
)

func TestPlaysToTheEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRoom(t)
		r.source("a", 1, 48_000, 10*time.Second+1*time.Millisecond)
		a, b := r.player("a"), r.player("b", func(p *Player) { p.Formats[0].SampleRate = 44_100 })
		r.play("a")
		start := r.clock.Now()
		pass(15 * time.Second)
		for name, e := range map[string]*ear{"a": a, "b": b} {
			if got := e.messages(); !slices.Equal(got, []string{"start", "sound", "end"}) {
				t.Errorf("%s: got %v, want start, sound, end", name, got)
			}
			for i, s := range e.sounds() {
				if s.at-s.sent < 500_000 {
					t.Errorf("%s: chunk %d was sent %d us ahead, want 500 ms", name, i, s.at-s.sent)
				}
			}
			if at := e.sounds()[0].at; at != start+500_000 {
				t.Errorf("%s: it begins %d us after the command, want 500 ms", name, at-start)
			}
		}
		wantRun(t, heard(t, a), 1, 0, 480_048)
		if n := len(heard(t, b)); n < 441_044 || n > 441_045 {
			t.Errorf("at 44.1 kHz: got %d frames, want 441044", n)
		}
		if st := r.Status(); st.State != Idle || st.Encoded != uint64(len(a.sounds())+len(b.sounds())) {
			t.Errorf("got state %d, %d encoded", st.State, st.Encoded)
		}
	})
}

// Chunks last a whole number of microseconds at the usual rates, so their time
// stamps step by exactly that.
func TestChunksStepExactly(t *testing.T) {
	for _, rate := range []int{32_000, 44_100, 48_000, 88_200, 96_000, 176_400, 192_000} {
		n := ChunkFrames(rate)
		if us := n * second; us%rate != 0 || us/rate < 15_000 || us/rate > 150_000 {
			t.Errorf("%d Hz: a chunk of %d frames lasts %g us", rate, n, float64(us)/float64(rate))
		}
		tl := timeline{rate: rate, pos: 77, at: 1234}
		for i := range int64(100_000) {
			if got := tl.time(77+(i+1)*int64(n)) - tl.time(77+i*int64(n)); got != micros(n*second/rate) {
				t.Fatalf("%d Hz: chunk %d lasts %d us", rate, i, got)
			}
		}
	}
}

func TestTimeline(t *testing.T) {
	tl := timeline{rate: 44_100, pos: 1000, at: 5_000_000}
	for _, p := range []int64{0, 999, 1000, 1001, 45_100, 1 << 40} {
		if got := tl.position(tl.time(p)); got != p {
			t.Errorf("position of the time of %d: got %d", p, got)
		}
	}
}

func TestLateJoiner(t *testing.T) {
	for _, format := range []protocol.Format{
		pcm48,
		{Codec: "pcm", Channels: 2, SampleRate: 44_100, BitDepth: 16},
		{Codec: "opus", Channels: 2, SampleRate: 48_000, BitDepth: 16},
	} {
		synctest.Test(t, func(t *testing.T) {
			r := newRoom(t)
			r.source("a", 1, 48_000, 20*time.Second)
			a := r.player("a")
			r.play("a")
			begin := a.sounds()[0].at
			pass(3210 * time.Millisecond)
			joined := r.clock.Now()
			b := r.player("b", func(p *Player) { p.Formats = []protocol.Format{format} })
			pass(20 * time.Second)
			first := b.sounds()[0]
			if first.at < joined+500_000 || first.at > joined+2_000_000 {
				t.Errorf("it begins %d us after it joined, want 0.5 to 2 s", first.at-joined)
			}
			// Its first sample is the one that sounds then.
			frame := int64(first.at-begin) * 48_000 / second
			if got := int64(first.pcm[0] & 0xffffff); got < frame-1 || got > frame+1 {
				t.Errorf("at %d us it plays frame %d, want %d", first.at-begin, got, frame)
			}
			if format == pcm48 {
				pcm := heard(t, b)
				wantRun(t, pcm, 1, 960_000-len(pcm), len(pcm))
			}
			wantRun(t, heard(t, a), 1, 0, 960_000)
		})
	}
}

// Who begins gets its first chunks at once, so that each of many has them before one
// gets the rest, which is early enough all the same.
func TestFirstChunksFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRoom(t)
		r.source("a", 1, 48_000, time.Minute)
		a := r.player("a")
		r.play("a")
		pass(3 * time.Second)
		joined := r.clock.Now()
		b := r.player("b")
		pass(time.Minute)
		for _, e := range []*ear{a, b} {
			got := e.sounds()
			for i, s := range got {
				if early := s.at - s.sent; early < r.ahead() {
					t.Errorf("chunk %d is sent %v before it sounds, want %v", i, time.Duration(early)*time.Microsecond, time.Duration(r.ahead())*time.Microsecond)
				}
			}
			begun := got[0].sent
			if got[rush-1].sent != begun || got[rush].sent != begun+slack || got[rush+5].sent != begun+slack {
				t.Errorf("chunks were sent %v, %v and %v after the first", got[rush-1].sent-begun, got[rush].sent-begun, got[rush+5].sent-begun)
			}
		}
		if first := b.sounds()[0].sent; first != joined {
			t.Errorf("the first chunk came %v after it joined", time.Duration(first-joined)*time.Microsecond)
		}
		pcm := heard(t, b)
		wantRun(t, pcm, 1, 48_000*60-len(pcm), len(pcm))
	})
}

// dribble gives a third of a block at a time, and takes its time for each.
type dribble struct{ *count }

func (d dribble) Read(dst []int32) (int, error) {
	time.Sleep(30 * time.Millisecond)
	return d.count.Read(dst[:min(len(dst), 1600*Channels)])
}

// The first chunk is heard however long its parts took to come, and a player that
// joins before it came hears it too.
func TestBeginsWithTheFirstSample(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRoom(t)
		r.source("a", 1, 48_000, time.Second)
		open := r.sources["a"]
		r.sources["a"] = func(ctx context.Context) (Source, error) {
			src, err := open(ctx)
			return dribble{src.(*count)}, err
		}
		a := r.player("a")
		r.play("a")
		pass(40 * time.Millisecond)
		b := r.player("b")
		pass(10 * time.Second)
		for name, e := range map[string]*ear{"a": a, "b": b} {
			wantRun(t, heard(t, e), 1, 0, 48_000)
			if s := e.sounds()[0]; s.at-s.sent != 500_000 {
				t.Errorf("%s: the first chunk was sent %d us ahead, want 500 ms", name, s.at-s.sent)
			}
		}
	})
}

// A joiner that wants its audio earlier than the timeline is laid gets the first
// chunk that its own send-ahead allows, and not those before it.
func TestLateJoinerWithALongLead(t *testing.T) {
	for _, format := range []protocol.Format{
		pcm48,
		{Codec: "pcm", Channels: 2, SampleRate: 44_100, BitDepth: 16},
		{Codec: "opus", Channels: 2, SampleRate: 48_000, BitDepth: 16},
	} {
		synctest.Test(t, func(t *testing.T) {
			r := newRoom(t)
			r.source("a", 1, 48_000, 20*time.Second)
			a := r.player("a")
			r.play("a")
			begin := a.sounds()[0].at
			pass(3210 * time.Millisecond)
			joined := r.clock.Now()
			b := r.player("b", func(p *Player) { p.Formats, p.RequiredLeadMs = []protocol.Format{format}, 5000 })
			pass(5 * time.Second)
			r.without("b") // and comes again, now that the timeline is laid far ahead
			again := r.clock.Now()
			c := r.player("b", func(p *Player) { p.Formats, p.RequiredLeadMs = []protocol.Format{format}, 5000 })
			pass(20 * time.Second)
			for _, x := range []struct {
				e  *ear
				at micros
			}{{b, joined}, {c, again}} {
				first := x.e.sounds()[0]
				if ahead := first.at - x.at; ahead < 5_000_000 || ahead > 5_300_000 {
					t.Errorf("%v: it begins %d us after it joined, want its lead of 5 s", format, ahead)
				}
				frame := int64(first.at-begin) * 48_000 / second
				if got := int64(first.pcm[0] & 0xffffff); got < frame-1 || got > frame+1 {
					t.Errorf("%v: at %d us it plays frame %d, want %d", format, first.at-begin, got, frame)
				}
				for _, s := range x.e.sounds() {
					if s.at-s.sent < 5_000_000 {
						t.Errorf("%v: a chunk was sent %d us ahead, want 5 s", format, s.at-s.sent)
					}
				}
			}
			if pcm := heard(t, c); format == pcm48 {
				wantRun(t, pcm, 1, 960_000-len(pcm), len(pcm))
			}
			wantRun(t, heard(t, a), 1, 0, 960_000)
		})
	}
}

func TestEncodedOncePerFormat(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRoom(t)
		r.source("a", 1, 48_000, 9600*time.Millisecond)
		formats := []protocol.Format{
			pcm48,
			{Codec: "pcm", Channels: 2, SampleRate: 48_000, BitDepth: 16},
			{Codec: "flac", Channels: 2, SampleRate: 48_000, BitDepth: 24},
			{Codec: "flac", Channels: 2, SampleRate: 48_000, BitDepth: 16},
		}
		for i := range 30 {
			r.player(string(rune('a'+i)), func(p *Player) { p.Formats = []protocol.Format{formats[i%4]} })
		}
		r.play("a")
		pass(15 * time.Second)
		if got := r.Status().Encoded; got != 400 {
			t.Errorf("100 chunks for 30 players of four formats: encoded %d times, want 400", got)
		}
	})
}

// Chunks are made several at a time, and each is early enough all the same.
func TestBursts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRoom(t)
		r.source("a", 1, 48_000, time.Minute)
		e := r.player("a")
		r.play("a")
		pass(30 * time.Second)
		times, chunks := 0, 0
		var last micros
		for _, s := range e.sounds() {
			if s.sent != last {
				times++
			}
			last = s.sent
			chunks++
			if early := s.at - s.sent; early < r.ahead()+spare-burst-96_000 && times > 2 { // what begins comes in two parts
				t.Errorf("the chunk for %v is sent %v before it sounds", time.Duration(s.at)*time.Microsecond, time.Duration(early)*time.Microsecond)
			}
		}
		if perTime := float64(chunks) / float64(times); perTime < 5 || perTime > 7 {
			t.Errorf("%d chunks were sent at %d times, want 5 to 7 each", chunks, times)
		}
	})
}

func TestGapless(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRoom(t)
		r.source("a", 1, 48_000, 3333*time.Millisecond)
		r.source("b", 2, 48_000, 2777*time.Millisecond)
		e := r.player("a")
		r.play("a", "b")
		pass(3 * time.Second)
		if st := r.Status(); st.Current != 0 {
			t.Errorf("after 3 s the item is %d, want 0", st.Current)
		}
		pass(time.Second)
		if st := r.Status(); st.Current != 1 || st.PositionAt(r.clock.Now()) < 100*time.Millisecond || st.PositionAt(r.clock.Now()) > 200*time.Millisecond {
			t.Errorf("after 4 s it plays item %d at %v, want 1 at 167 ms", st.Current, st.PositionAt(r.clock.Now()))
		}
		pass(10 * time.Second)
		if got := e.messages(); !slices.Equal(got, []string{"start", "sound", "end"}) {
			t.Errorf("got %v, want start, sound, end", got)
		}
		pcm := heard(t, e)
		wantRun(t, pcm[:159_984], 1, 0, 159_984)
		wantRun(t, pcm[159_984:], 2, 0, 133_296)
	})
}

// Who is answered sees what came of it.
func TestAnswerFollowsTheStatus(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRoom(t)
		r.source("a", 1, 48_000, 10*time.Second)
		r.player("a")
		r.play("a")
		pass(2 * time.Second)
		for _, x := range []struct {
			name string
			do   func(reply func(error))
			want State
		}{{"pause", r.Pause, Paused}, {"resume", r.Resume, Playing}, {"stop", r.Stop, Idle}} {
			var got State
			r.ok(func(reply func(error)) {
				x.do(func(err error) { got = r.Status().State; reply(err) })
			})
			if got != x.want {
				t.Errorf("when %s is answered, the state is %d, want %d", x.name, got, x.want)
			}
		}
	})
}

func TestPauseLosesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRoom(t)
		r.source("a", 1, 48_000, 8*time.Second)
		e := r.player("a")
		r.play("a")
		pass(3500 * time.Millisecond)
		r.ok(r.Pause)
		if st := r.Status(); st.State != Paused || st.Position != 3*time.Second {
			t.Errorf("got %d at %v, want paused at 3 s", st.State, st.Position)
		}
		pass(time.Hour)
		if st := r.Status(); st.Position != 3*time.Second {
			t.Errorf("after an hour of pause the position is %v", st.Position)
		}
		first := len(e.sounds())
		resumed := r.clock.Now()
		r.ok(r.Resume)
		pass(time.Millisecond)
		if st := r.Status(); st.Position != 3*time.Second || st.At != resumed+500_000 {
			t.Errorf("until it sounds again it is at %v as of %d us, want 3 s as of 500 ms", st.Position, st.At-resumed)
		}
		pass(10 * time.Second)
		again := e.sounds()[first:]
		if again[0].at != resumed+500_000 {
			t.Errorf("it sounds %d us after resume, want 500 ms", again[0].at-resumed)
		}
		var pcm []int32
		for _, s := range again {
			pcm = append(pcm, s.pcm...)
		}
		wantRun(t, pcm, 1, 144_000, 240_000)
		if got := e.messages(); !slices.Equal(got, []string{"start", "sound", "end", "start", "sound", "end"}) {
			t.Errorf("got %v", got)
		}
	})
}

func TestSeekClears(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRoom(t)
		r.source("a", 1, 48_000, 60*time.Second)
		e := r.player("a")
		r.play("a")
		pass(2 * time.Second)
		n := len(e.sounds())
		at := r.clock.Now()
		r.ok(func(reply func(error)) { r.Seek(30*time.Second, reply) })
		pass(time.Second)
		s := e.sounds()[n]
		if got := s.pcm[0]; got != 1<<24+1_440_000 {
			t.Errorf("after a seek to 30 s it plays frame %d", got&0xffffff)
		}
		if s.at != at+500_000 {
			t.Errorf("it sounds %d us after the command, want 500 ms", s.at-at)
		}
		if got := e.messages(); !slices.Equal(got, []string{"start", "sound", "clear", "sound"}) {
			t.Errorf("got %v", got)
		}
		if at := r.Status().PositionAt(r.clock.Now()); (at - 30500*time.Millisecond).Abs() > time.Millisecond {
			t.Errorf("position is %v, want 30.5 s", at)
		}
		r.ok(func(reply func(error)) { r.SeekBy(-time.Hour, reply) })
		pass(time.Second)
		if at := r.Status().PositionAt(r.clock.Now()); (at - 500*time.Millisecond).Abs() > time.Millisecond {
			t.Errorf("position is %v, want 0.5 s", at)
		}
	})
}

func TestBufferCapacity(t *testing.T) {
	for _, c := range []struct {
		format   protocol.Format
		capacity int // bytes
		frames   int // of a chunk
	}{
		{pcm48, 120_000, 4608}, // three chunks of 36,877 bytes
		{pcm48, 40_000, 2304},  // one, so they are halved
		{pcm48, 20_000, 1152},
		{protocol.Format{Codec: "pcm", Channels: 2, SampleRate: 44_100, BitDepth: 32}, 20_000, 882},
	} {
		synctest.Test(t, func(t *testing.T) {
			r := newRoom(t)
			r.source("a", 1, c.format.SampleRate, 20*time.Second)
			e := r.player("a", func(p *Player) {
				p.Formats, p.Capacity, p.OutputDelayMs = []protocol.Format{c.format}, c.capacity, 40
			})
			r.play("a")
			pass(30 * time.Second)
			wantRun(t, heard(t, e), 1, 0, 20*c.format.SampleRate)
			all := e.sounds()
			if got := len(all[0].pcm); got != c.frames {
				t.Errorf("%d bytes: chunks have %d frames, want %d", c.capacity, got, c.frames)
			}
			for i, s := range all {
				held := 0
				for _, o := range all[:i+1] {
					if o.end-40_000 > s.sent {
						held += header + len(o.pcm)*8
					}
				}
				if held > c.capacity {
					t.Fatalf("chunk %d: %d bytes are outstanding, want %d at most", i, held, c.capacity)
				}
			}
		})
	}
	// Where not even the shortest chunk fits, nothing is sent, and it is counted.
	synctest.Test(t, func(t *testing.T) {
		r := newRoom(t)
		r.source("a", 1, 48_000, 5*time.Second)
		e := r.player("a", func(p *Player) { p.Capacity = 1000 })
		other := r.player("b")
		r.play("a")
		pass(10 * time.Second)
		if got := e.messages(); len(got) != 0 || r.Status().Missed == 0 {
			t.Errorf("a buffer of 1000 bytes: got %v, missed %d chunks", got, r.Status().Missed)
		}
		wantRun(t, heard(t, other), 1, 0, 240_000)
	})
}

func TestSlowReaderLosesItsOwnAudio(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRoom(t)
		r.source("a", 1, 48_000, 20*time.Second)
		good := r.player("good")
		bad := r.player("bad")
		r.play("a")
		pass(2 * time.Second)
		bad.mu.Lock()
		bad.slow, bad.full = true, true
		bad.mu.Unlock()
		pass(10 * time.Second)
		bad.mu.Lock()
		bad.slow, bad.full, bad.written = false, false, bad.taken
		bad.mu.Unlock()
		pass(20 * time.Second)
		wantRun(t, heard(t, good), 1, 0, 960_000)
		for _, s := range bad.sounds() {
			if s.at < s.sent {
				t.Errorf("a chunk was sent %d us after its time", s.sent-s.at)
			}
		}
		if got := r.Status().Missed; got < 60 || got > 110 {
			t.Errorf("missed %d chunks of 96 ms in 10 s, want about 85", got)
		}
	})
}

func TestReconnectResumesInPlace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRoom(t)
		r.source("a", 1, 48_000, 20*time.Second)
		a := r.player("a")
		r.player("b")
		r.play("a")
		begin := a.sounds()[0].at
		pass(5 * time.Second)
		r.without("b")
		pass(3 * time.Second)
		b := r.player("b")
		pass(time.Second)
		if got := b.messages(); !slices.Equal(got, []string{"start", "sound"}) {
			t.Fatalf("got %v, want start, sound", got)
		}
		s := b.sounds()[0]
		if want := int32(1<<24 + int64(s.at-begin)*48_000/second); s.pcm[0] != want {
			t.Errorf("it plays frame %d, want %d", s.pcm[0]&0xffffff, want&0xffffff)
		}
	})
}

func TestFormatChangeInPlace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRoom(t)
		r.source("a", 1, 48_000, 20*time.Second)
		a := r.player("a")
		r.player("b")
		r.play("a")
		pass(5050 * time.Millisecond)
		r.players[0].Formats = []protocol.Format{{Codec: "opus", Channels: 2, SampleRate: 48_000, BitDepth: 16}}
		r.SetPlayers(slices.Clone(r.players))
		pass(5 * time.Second)
		r.players[0].Formats = []protocol.Format{pcm48}
		r.SetPlayers(slices.Clone(r.players))
		pass(20 * time.Second)
		if got := a.messages(); !slices.Equal(got, []string{"start", "sound", "start", "sound", "start", "sound", "end"}) {
			t.Errorf("got %v", got)
		}
		wantRun(t, heard(t, a), 1, 0, 960_000)
		wantRun(t, heard(t, r.ears["b"]), 1, 0, 960_000)
	})
}

func TestStall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRoom(t)
		gate := make(chan struct{}, 1000)
		for range 30 {
			gate <- struct{}{}
		}
		r.source("a", 1, 48_000, 9600*time.Millisecond, func(c *count) { c.gate = gate })
		e := r.player("a")
		r.play("a")
		pass(10 * time.Second)
		close(gate)
		resumed := r.clock.Now()
		pass(15 * time.Second)
		all := e.sounds()
		var pcm []int32
		for _, s := range all {
			pcm = append(pcm, s.pcm...)
		}
		wantRun(t, pcm, 1, 0, 460_800)
		if got := all[30].at; got != resumed+500_000 {
			t.Errorf("after the stall it goes on %d us later, want 500 ms", got-resumed)
		}
	})
}

func TestLiveSourceKeepsItsDistance(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRoom(t)
		r.source("a", 1, 48_000, 20*time.Second, func(c *count) {
			c.live = r.clock
			c.info = &Info{Rate: 48_000, Live: true}
		})
		e := r.player("a", func(p *Player) { p.OutputDelayMs = 100 })
		r.play("a")
		pass(30 * time.Second)
		wantRun(t, heard(t, e), 1, 0, 960_000)
		all := e.sounds()
		for i, s := range all[:len(all)-1] { // the last one is short, and early
			if ahead := s.at - s.sent; ahead < 400_000 || ahead > 401_000 {
				t.Errorf("chunk %d was sent %d us ahead, want min_buffer and delay, 400 ms", i, ahead)
			}
		}
	})
}

func TestFailedPlayDisturbsNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRoom(t)
		r.source("a", 1, 48_000, 10*time.Second)
		r.source("empty", 2, 48_000, 0)
		e := r.player("a")
		r.play("a")
		pass(2 * time.Second)
		for _, url := range []string{"nowhere", "empty"} {
			if err := r.do1(func(reply func(error)) { r.Play([]Item{{URL: url}}, 0, reply) }); err == nil {
				t.Errorf("%s: got no error", url)
			}
		}
		pass(15 * time.Second)
		wantRun(t, heard(t, e), 1, 0, 480_000)
	})
}

func TestQueue(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRoom(t)
		for i, name := range []string{"a", "b", "c"} {
			r.source(name, int32(i+1), 48_000, 5*time.Second)
		}
		r.player("p")
		r.play("a", "nowhere", "c")
		pass(time.Second)
		r.ok(r.Next) // over the one that fails
		pass(time.Second)
		if got := r.Status().Current; got != 2 {
			t.Fatalf("next over an item that fails: got %d, want 2", got)
		}
		if err := r.do1(r.Next); !errors.Is(err, ErrEdge) {
			t.Errorf("next at the end: got %v, want %v", err, ErrEdge)
		}
		r.ok(func(reply func(error)) { r.SetRepeat(protocol.RepeatAll, reply) })
		r.ok(r.Next)
		pass(time.Second)
		if got := r.Status().Current; got != 0 {
			t.Errorf("next at the end with repeat_all: got %d, want 0", got)
		}
		r.ok(func(reply func(error)) { r.SetRepeat(protocol.RepeatOne, reply) })
		pass(11 * time.Second)
		if st := r.Status(); st.Current != 0 || st.State != Playing {
			t.Errorf("repeat_one: got item %d, state %d", st.Current, st.State)
		}
		r.ok(func(reply func(error)) { r.SetRepeat(protocol.RepeatOff, reply) })
		pass(30 * time.Second)
		if st := r.Status(); st.State != Idle {
			t.Errorf("repeat_off: got state %d", st.State)
		}
		r.ok(r.Resume) // what was loaded last
		pass(time.Second)
		if st := r.Status(); st.State != Playing {
			t.Errorf("play after the end: got state %d", st.State)
		}
		r.ok(r.Stop)
		if st := r.Status(); st.State != Idle {
			t.Errorf("stop: got state %d", st.State)
		}
	})
}

// A playlist brings what follows into the queue, once.
// What was added is a neighbour at once, also of what sounds.
func TestNeighbours(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRoom(t)
		for i, name := range []string{"a", "b", "c"} {
			r.source(name, int32(i), 48_000, 10*time.Second)
		}
		r.source("live", 9, 48_000, 10*time.Second, func(c *count) { c.info = &Info{Rate: 48_000} })
		r.player("x")
		want := func(when string, current int, next, previous bool) {
			t.Helper()
			pass(time.Second)
			if st := r.Status(); st.Current != current || st.Next != next || st.Previous != previous {
				t.Errorf("%s: got item %d, next %v, previous %v; want %d, %v, %v", when, st.Current, st.Next, st.Previous, current, next, previous)
			}
			before := r.Status().Current
			for name, x := range map[string]struct {
				do     func(func(error))
				offers bool
			}{"next": {r.Next, next}, "previous": {r.Previous, previous}} {
				if err := r.do1(x.do); (err == nil) != x.offers {
					t.Errorf("%s: %s: got %v, offered: %v", when, name, err, x.offers)
				}
				r.ok(func(reply func(error)) { r.leapTo(before, reply) })
			}
			pass(time.Second)
		}
		r.play("live")
		want("one that can't be sought", 0, false, false)
		r.play("a")
		want("one alone", 0, false, true)
		r.ok(func(reply func(error)) { r.Add([]Item{{URL: "b"}, {URL: "c"}}, false, reply) })
		want("with others added", 0, true, true)
		r.ok(r.Next)
		pass(time.Second)
		r.ok(r.Next)
		want("at the last one", 2, false, true)
		r.ok(func(reply func(error)) { r.SetRepeat(protocol.RepeatAll, reply) })
		want("at the last one, again and again", 2, true, true)
	})
}

func TestPlaylist(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRoom(t)
		r.source("list", 1, 48_000, 2*time.Second, func(c *count) {
			c.info = &Info{Rate: 48_000, Duration: 2 * time.Second, Next: []Item{{URL: "b"}, {URL: "c"}}}
		})
		r.source("b", 2, 48_000, 2*time.Second)
		r.source("c", 3, 48_000, 2*time.Second)
		r.source("d", 4, 48_000, 2*time.Second)
		e := r.player("p")
		r.play("list", "d")
		r.ok(func(reply func(error)) { r.SetRepeat(protocol.RepeatAll, reply) })
		pass(18 * time.Second)
		var order []int32
		for _, s := range e.sounds() {
			for _, v := range s.pcm {
				if item := v >> 24; len(order) == 0 || order[len(order)-1] != item {
					order = append(order, item)
				}
			}
		}
		if want := []int32{1, 2, 3, 4, 1, 2, 3, 4, 1}; !slices.Equal(order[:min(len(order), 9)], want) {
			t.Errorf("played %v, want %v", order, want)
		}
		if n := len(r.Status().Items); n != 4 {
			t.Errorf("the queue has %d items, want 4", n)
		}
	})
}

// A volume that the server turns does not click: it is reached step by step.
func TestGainIsReachedSoftly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRoom(t)
		r.source("a", 0, 48_000, 10*time.Second)
		e := r.player("a")
		other := r.player("b")
		r.play("a")
		pass(3 * time.Second)
		r.players[0].Gain = 0.5
		r.SetPlayers(slices.Clone(r.players))
		pass(20 * time.Second)
		pcm := heard(t, e)
		if len(pcm) != 480_000 {
			t.Fatalf("got %d frames, want 480000", len(pcm))
		}
		ramp := 0
		for i, v := range pcm[1:] {
			switch got := float64(v) / float64(i+1); {
			case got > 0.999 || i < 1000:
			case got < 0.501:
			default:
				ramp++
			}
		}
		if ramp < 900 || ramp > 1000 {
			t.Errorf("%d frames are between the volumes, want 20 ms, 960", ramp)
		}
		if last := pcm[len(pcm)-1]; last != 240_000 {
			t.Errorf("the last frame is %d, want half of 479999", last)
		}
		wantRun(t, heard(t, other), 0, 0, 480_000)
	})
}

// What comes is told before it sounds, with the time at which it does, and is
// what sounds exactly then.
func TestWhatComes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRoom(t)
		r.source("a", 1, 48_000, 5*time.Second)
		r.source("b", 2, 48_000, time.Second) // all of it is on the timeline before it sounds
		e := r.player("a")
		r.play("a", "b")
		turn := e.sounds()[0].at + 5_000_000
		if c := r.Status().Coming; c != nil {
			t.Errorf("at the beginning %s comes", c.Item.URL)
		}
		pass(time.Duration(turn-r.clock.Now())*time.Microsecond - time.Second)
		if c := r.Status().Coming; c == nil || c.Item.URL != "b" || c.At != turn || c.Info.Duration != time.Second {
			t.Fatalf("a second before: got %+v, want b at %d", c, turn)
		}
		pass(time.Duration(turn-r.clock.Now())*time.Microsecond - time.Microsecond)
		if st := r.Status(); st.Current != 0 || st.Coming == nil {
			t.Errorf("just before: got item %d, %+v", st.Current, st.Coming)
		}
		pass(time.Microsecond)
		if st := r.Status(); st.Current != 1 || st.Coming != nil || st.PositionAt(r.clock.Now()) != 0 {
			t.Errorf("at the turn: got item %d at %v, %+v", st.Current, st.Position, st.Coming)
		}
	})
}

// forgetful is a player that keeps nothing.
type forgetful struct{ taken atomic.Uint64 }

func (*forgetful) Stream(protocol.ServerMessage) error { return nil }
func (f *forgetful) Audio(*Chunk) bool                 { f.taken.Add(1); return true }
func (f *forgetful) Written() uint64                   { return f.taken.Load() }

// What a group holds does not depend on how long it plays, or how long what it
// plays is.
func TestMemoryDoesNotGrowWithTheLength(t *testing.T) {
	held := func(length, at time.Duration) (pieces int, heap uint64) {
		synctest.Test(t, func(t *testing.T) {
			r := newRoom(t)
			const rate = 8_000 // less to make
			r.source("a", 0, rate, length)
			for _, bits := range []int{16, 32} {
				r.players = append(r.players, Player{
					ID: fmt.Sprint(bits), Sink: &forgetful{}, Gain: 1, Capacity: 1 << 20, MinBufferMs: 200, RequiredLeadMs: 400, Available: true,
					Formats: []protocol.Format{{Codec: "pcm", Channels: 2, SampleRate: rate, BitDepth: bits}},
				})
			}
			r.SetPlayers(r.players)
			r.play("a")
			pass(at)
			// Nothing runs now, so what Run owns may be read.
			pieces = len(r.blocks) + len(r.marks)
			for _, o := range r.outputs {
				pieces += len(o.chunks)
			}
			for _, m := range r.members {
				pieces += len(m.out.sent)
			}
			for _, d := range r.playing {
				pieces += len(d.out)
			}
			var mem runtime.MemStats
			runtime.GC()
			runtime.ReadMemStats(&mem)
			heap = mem.HeapAlloc
		})
		return pieces, heap
	}
	few, before := held(10*time.Second, 5*time.Second)
	many, after := held(2*time.Hour, 2*time.Hour-5*time.Second)
	if few < 50 || many > few+2 {
		t.Errorf("5 s into 10 s it holds %d pieces, near the end of 2 h %d", few, many)
	}
	if grown := int64(after) - int64(before); grown > 1<<20 { // two hours are 460 MB
		t.Errorf("the heap has grown by %d bytes", grown)
	}
}
