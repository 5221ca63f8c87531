package client

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"resonatebridge/resonate/protocol"
	"resonatebridge/tests/pipe"
	"resonatebridge/timesync"

	"github.com/gorilla/websocket"
)

func TestNewPlayerChecksItsOptions(t *testing.T) {
	over := 101
	for _, tc := range []struct {
		name string
		opts PlayerOptions
		want string // part of the error
	}{
		{"no way to connect", PlayerOptions{ClientID: "p"}, "exactly one"},
		{"two ways", PlayerOptions{ClientID: "p", Listen: ":0", Server: "ws://h/"}, "exactly one"},
		{"no id", PlayerOptions{Listen: ":0"}, "ClientID"},
		{"long id", PlayerOptions{ClientID: strings.Repeat("x", 129), Listen: ":0"}, "ClientID"},
		{"http URL", PlayerOptions{ClientID: "p", Server: "http://h/"}, "ws://"},
		{"loud", PlayerOptions{ClientID: "p", Listen: ":0", Volume: &over}, "Volume"},
		{"long delay", PlayerOptions{ClientID: "p", Listen: ":0", OutputDelay: time.Minute}, "OutputDelay"},
		{"unknown dialect", PlayerOptions{ClientID: "p", Listen: ":0", Dialect: "X"}, "dialect"},
		{"encrypted without a memory", PlayerOptions{ClientID: "p", Listen: ":0", Dialect: "G2"}, "needs Memory"},
		{"memory in plaintext", PlayerOptions{ClientID: "p", Listen: ":0", Memory: new(Memory)}, "needs Memory"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if _, err := NewPlayer(tc.opts); err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("got %v, want an error with %q", err, tc.want)
			}
		})
	}
}

// listening starts a player that servers dial.
func listening(t *testing.T, o PlayerOptions) (*Player, *pipe.Listener, func() error) {
	t.Helper()
	l := pipe.NewListener()
	o.Listener = l
	p := newPlayer(t, o)
	return p, l, start(t, p)
}

func TestPlayerTellsTheTruthAtOnce(t *testing.T) {
	bubble(t, func(t *testing.T) {
		v := 40
		p, l, stop := listening(t, PlayerOptions{Volume: &v, OutputDelay: 120 * time.Millisecond})
		f := visit(t, l, "srv", "discovery")
		synctest.Wait()
		if !strings.Contains(f.hello, `"client_id":"p1"`) {
			t.Errorf("hello: got %s", f.hello)
		}
		for _, step := range []struct {
			name string
			do   func() error
			want []string // parts of the newest client/state
		}{
			{"first report", func() error { return nil }, []string{`"volume":40`, `"muted":false`, `"static_delay_ms":120`, `"state":"synchronized"`}},
			{"volume command", func() error { f.volume(25); return nil }, []string{`"volume":25`}},
			{"mute command", func() error {
				f.send(`{"type":"server/command","payload":{"player":{"command":"mute","mute":true}}}`)
				return nil
			}, []string{`"volume":25`, `"muted":true`}},
			{"delay command", func() error {
				f.send(`{"type":"server/command","payload":{"player":{"command":"set_static_delay","static_delay_ms":300}}}`)
				return nil
			}, []string{`"static_delay_ms":300`}},
			{"volume knob keeps mute", func() error { return p.SetVolume(t.Context(), 60) }, []string{`"volume":60`, `"muted":true`}},
			{"mute button", func() error { return p.SetMute(t.Context(), false) }, []string{`"muted":false`}},
			{"taken by something else", func() error { return p.SetAvailable(t.Context(), false) }, []string{`"state":"external_source"`}},
			{"free again", func() error { return p.SetAvailable(t.Context(), true) }, []string{`"state":"synchronized"`}},
		} {
			if err := step.do(); err != nil {
				t.Errorf("%s: %v", step.name, err)
			}
			synctest.Wait()
			for _, want := range step.want {
				if got := f.last("client/state"); !strings.Contains(got, want) {
					t.Errorf("%s: got %s, want %s", step.name, got, want)
				}
			}
		}
		f.send(`{"type":"group/update","payload":{"playback_state":"playing","group_id":"g1","group_name":"Kitchen"}}`)
		if _, err := p.WaitFor(t.Context(), func(s State) bool { return s.Group.GroupName == "Kitchen" }); err != nil {
			t.Error(err)
		}
		if s := p.Snapshot(); !s.Connected || s.ServerName != "SRV" || s.Volume != 60 || s.Commands != 3 || s.Sessions != 1 {
			t.Errorf("state: got %+v", s)
		}
		begun := time.Now()
		if err := stop(); err != nil {
			t.Errorf("Run: got %v, want nil", err)
		}
		if got := time.Since(begun); got > linger {
			t.Errorf("the end took %v, want at most %v", got, linger)
		}
		synctest.Wait()
		if got := f.messages("client/goodbye"); len(got) != 1 || !strings.Contains(got[0], "shutdown") {
			t.Errorf("goodbye: got %q, want one shutdown", got)
		}
		if p.Snapshot().Connected {
			t.Error("connected after Run: got true, want false")
		}
		if err := p.SetVolume(t.Context(), 1); !errors.Is(err, ErrEnded) {
			t.Errorf("after the end: got %v, want ErrEnded", err)
		}
	})
}

func TestPlayerEndsThoughTheServerHangs(t *testing.T) {
	for _, tc := range []struct {
		name  string
		fault func(*pipe.Conn)
	}{
		{"cut", (*pipe.Conn).Cut},
		{"frozen", (*pipe.Conn).Freeze},
	} {
		t.Run(tc.name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				_, l, stop := listening(t, PlayerOptions{})
				f := visit(t, l, "srv", "discovery")
				synctest.Wait()
				tc.fault(f.link)
				begun := time.Now()
				if err := stop(); err != nil {
					t.Errorf("Run: got %v, want nil", err)
				}
				if got := time.Since(begun); got > linger {
					t.Errorf("it took %v, want at most %v", got, linger)
				}
			})
		})
	}
}

func TestWins(t *testing.T) {
	const none, pair, play = rankNone, rankPairing, rankPlayback
	for _, tc := range []struct {
		name             string
		holder, incoming claim
		lastPlayed       string
		want             bool
	}{
		{"idle against idle", claim{"a", none, false}, claim{"b", none, false}, "", false},
		{"playback against idle", claim{"a", none, false}, claim{"b", play, false}, "", true},
		{"playback against playback", claim{"a", play, false}, claim{"b", play, false}, "a", true},
		{"idle against playback", claim{"a", play, false}, claim{"b", none, false}, "a", false},
		{"idle against playback, though it played before", claim{"a", play, false}, claim{"b", none, false}, "b", false},
		{"last player against idle", claim{"a", none, false}, claim{"b", none, false}, "b", true},
		{"idle against last player", claim{"a", none, false}, claim{"b", none, false}, "a", false},
		{"the same server again", claim{"a", play, false}, claim{"a", none, false}, "a", true},
		{"the same server again while it pairs", claim{"a", pair, true}, claim{"a", none, false}, "a", true},
		{"pairing against idle", claim{"a", none, false}, claim{"b", pair, false}, "a", true},
		{"pairing against playback", claim{"a", play, false}, claim{"b", pair, false}, "b", false},
		{"pairing against pairing", claim{"a", pair, false}, claim{"b", pair, false}, "", true},
		{"pairing against an attempt", claim{"a", pair, true}, claim{"b", pair, false}, "", false},
		{"playback against an attempt", claim{"a", pair, true}, claim{"b", play, false}, "b", false},
		{"idle against an attempt", claim{"a", pair, true}, claim{"b", none, false}, "b", false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if got := wins(tc.holder, tc.incoming, tc.lastPlayed); got != tc.want {
				t.Errorf("got %v, want %v", got, tc.want)
			}
		})
	}
}

// Two servers and one player: the loser is told why, the winner keeps it.
func TestPlayerArbitrates(t *testing.T) {
	for _, tc := range []struct {
		name                      string
		reason                    string // of the second server
		id                        string
		firstGoodbye, lastGoodbye string
	}{
		{"playback displaces", "playback", "b", "another_server", ""},
		{"discovery is turned away", "discovery", "b", "", "another_server"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				p, l, _ := listening(t, PlayerOptions{})
				first := visit(t, l, "a", "discovery")
				synctest.Wait()
				second := visit(t, l, tc.id, tc.reason)
				pass(time.Second)
				for _, end := range []struct {
					name string
					f    *fakeServer
					want string
				}{{"first", first, tc.firstGoodbye}, {"second", second, tc.lastGoodbye}} {
					got := end.f.last("client/goodbye")
					if end.want == "" && (got != "" || end.f.isClosed()) {
						t.Errorf("%s: got %q, closed %v; want it connected", end.name, got, end.f.isClosed())
					}
					if end.want != "" && (!strings.Contains(got, end.want) || !end.f.isClosed()) {
						t.Errorf("%s: got %q, closed %v; want goodbye %s", end.name, got, end.f.isClosed(), end.want)
					}
				}
				if !p.Snapshot().Connected {
					t.Error("connected: got false, want true")
				}
			})
		})
	}
}

// A server that lost its connection and is back replaces the half-open one,
// without a goodbye that would tell it to stay away.
func TestPlayerReplacesHalfOpenConnection(t *testing.T) {
	bubble(t, func(t *testing.T) {
		p, l, _ := listening(t, PlayerOptions{})
		old := visit(t, l, "a", "discovery")
		synctest.Wait()
		old.link.Freeze()
		old.volume(99) // late news of the old connection
		back := visit(t, l, "a", "discovery")
		pass(time.Second)
		if back.isClosed() || back.last("client/state") == "" {
			t.Error("the server that came back was not let in")
		}
		old.link.Thaw()
		pass(time.Second)
		if got := old.messages("client/goodbye"); len(got) != 0 {
			t.Errorf("goodbyes on the old connection: got %q, want none", got)
		}
		back.volume(7)
		pass(time.Minute)
		if s := p.Snapshot(); !s.Connected || s.Volume != 7 || s.Sessions != 2 {
			t.Errorf("got %+v, want it connected at volume 7 in its second session", s)
		}
	})
}

func TestPlayerDialsAgain(t *testing.T) {
	for _, tc := range []struct {
		name string
		end  func(*testing.T, *Player, *fakeServer) error
		want int // connections a minute later
	}{
		{"server closes", func(_ *testing.T, _ *Player, f *fakeServer) error { return f.conn.Close() }, 2},
		{"reset", func(_ *testing.T, _ *Player, f *fakeServer) error { f.link.Reset(); return nil }, 2},
		{"cut", func(_ *testing.T, _ *Player, f *fakeServer) error { f.link.Cut(); return nil }, 2},
		{"drop", func(t *testing.T, p *Player, _ *fakeServer) error { return p.Drop(t.Context()) }, 2},
		{"goodbye restart", func(t *testing.T, p *Player, _ *fakeServer) error { return p.Goodbye(t.Context(), "restart") }, 2},
		{"goodbye user_request", func(t *testing.T, p *Player, _ *fakeServer) error { return p.Goodbye(t.Context(), "user_request") }, 1},
	} {
		t.Run(tc.name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				h := newHouse(t, nil)
				p := newPlayer(t, PlayerOptions{Server: "ws://house/sendspin", NetDial: h.DialContext})
				start(t, p)
				pass(time.Minute)
				if err := tc.end(t, p, h.conn(0)); err != nil {
					t.Fatal(err)
				}
				pass(time.Minute)
				if got := h.count(); got != tc.want {
					t.Fatalf("connections: got %d, want %d", got, tc.want)
				}
				if s := p.Snapshot(); s.DialPaused != (tc.want == 1) || s.Connected != (tc.want == 2) {
					t.Errorf("got %+v", s)
				}
				if tc.want == 2 {
					return
				}
				pass(time.Hour)
				if err := p.Connect(t.Context()); err != nil {
					t.Fatal(err)
				}
				if _, err := p.WaitFor(t.Context(), func(s State) bool { return s.Connected }); err != nil {
					t.Error(err)
				}
			})
		})
	}
}

// A server that is away is asked ever less often, and found again.
func TestPlayerBacksOff(t *testing.T) {
	bubble(t, func(t *testing.T) {
		h := newHouse(t, nil)
		h.refuse = true
		var dials atomic.Int64
		o := h.options()
		p := newPlayer(t, PlayerOptions{Server: "ws://house/sendspin", NetDial: o.NetDial})
		p.opts.NetDial = func(ctx context.Context, network, addr string) (net.Conn, error) {
			dials.Add(1)
			return h.DialContext(ctx, network, addr)
		}
		start(t, p)
		pass(time.Hour)
		// Full jitter with a mean of 30 s: about 120, and never a storm.
		if n := dials.Load(); n < 60 || n > 400 {
			t.Errorf("attempts in an hour: got %d, want 60 to 400", n)
		}
		if s := p.Snapshot(); s.Connected || !strings.Contains(s.LastError, "503") {
			t.Errorf("got %+v, want the refusal as last error", s)
		}
		h.mu.Lock()
		h.refuse = false
		h.mu.Unlock()
		pass(backoffCap)
		if !p.Snapshot().Connected {
			t.Error("connected a minute after the server is back: got false, want true")
		}
	})
}

func TestPlayerStall(t *testing.T) {
	bubble(t, func(t *testing.T) {
		p, l, _ := listening(t, PlayerOptions{})
		f := visit(t, l, "srv", "discovery")
		synctest.Wait()
		p.Stall(true)
		f.volume(11)
		f.volume(12)
		pass(2 * silence) // the peer's silence is not what the stall made of it
		if got := p.Snapshot().Volume; got != 100 {
			t.Errorf("volume while stalled: got %d, want 100", got)
		}
		p.Stall(false)
		pass(time.Second)
		if s := p.Snapshot(); s.Volume != 12 || !s.Connected {
			t.Errorf("after the stall: got %+v, want it connected at volume 12", s)
		}
	})
}

// samples are the left channel of a recording.
func samples(t *testing.T, wav []byte) []int16 {
	t.Helper()
	if len(wav) < wavHeaderSize || string(wav[:4]) != "RIFF" || string(wav[36:40]) != "data" {
		t.Fatalf("not a WAV file: %.60q", wav)
	}
	var out []int16
	for b := wav[wavHeaderSize:]; len(b) >= 4; b = b[4:] {
		out = append(out, int16(binary.LittleEndian.Uint16(b)))
	}
	return out
}

// runs shortens samples to pairs of value and length.
func runs(s []int16) [][2]int {
	var out [][2]int
	for _, v := range s {
		if n := len(out); n > 0 && out[n-1][0] == int(v) {
			out[n-1][1]++
			continue
		}
		out = append(out, [2]int{int(v), 1})
	}
	return out
}

func TestPlayerPlaysInTime(t *testing.T) {
	const ms = timesync.Micros(1000)
	for _, tc := range []struct {
		name string
		play func(t *testing.T, p *Player, f *fakeServer)
		want [][2]int // value, frames
		aud  AudioCounts
	}{
		{"chunks in a row", func(_ *testing.T, _ *Player, f *fakeServer) {
			t0 := f.clock() + 500*ms
			f.stream()
			f.chunk(t0, 960, 1)
			f.chunk(t0+20*ms, 960, 2)
		}, [][2]int{{1, 960}, {2, 960}}, AudioCounts{Received: 2, Bytes: 7680, Played: 2}},
		{"a gap is silence", func(_ *testing.T, _ *Player, f *fakeServer) {
			t0 := f.clock() + 500*ms
			f.stream()
			f.chunk(t0, 960, 1)
			f.chunk(t0+60*ms, 960, 2)
		}, [][2]int{{1, 960}, {0, 1920}, {2, 960}}, AudioCounts{Received: 2, Bytes: 7680, Played: 2}},
		{"an overlap is cut", func(_ *testing.T, _ *Player, f *fakeServer) {
			t0 := f.clock() + 500*ms
			f.stream()
			f.chunk(t0, 960, 1)
			f.chunk(t0+10*ms, 960, 2)
		}, [][2]int{{1, 960}, {2, 480}}, AudioCounts{Received: 2, Bytes: 7680, Played: 2}},
		{"what is past is dropped", func(_ *testing.T, _ *Player, f *fakeServer) {
			t0 := f.clock() + 500*ms
			f.stream()
			f.chunk(f.clock()-1_000_000, 960, 9)
			f.chunk(t0, 960, 1)
		}, [][2]int{{1, 960}}, AudioCounts{Received: 2, Bytes: 7680, Played: 1, Late: 1}},
		{"clear drops what waits", func(_ *testing.T, _ *Player, f *fakeServer) {
			t0 := f.clock() + 500*ms
			f.stream()
			f.chunk(t0, 960, 1)
			f.chunk(t0+1_000_000, 960, 2)
			pass(600 * time.Millisecond)
			f.send(`{"type":"stream/clear","payload":{"roles":["player"]}}`)
		}, [][2]int{{1, 960}}, AudioCounts{Received: 2, Bytes: 7680, Played: 1, Cleared: 1}},
		{"audio outside a stream", func(_ *testing.T, _ *Player, f *fakeServer) {
			f.chunk(f.clock()+500*ms, 960, 9)
			f.stream()
			f.chunk(f.clock()+500*ms, 960, 1)
			f.send(`{"type":"stream/end","payload":{"roles":["player"]}}`)
			f.chunk(f.clock()+500*ms, 960, 9)
		}, nil, AudioCounts{Received: 3, Bytes: 3 * 3840, Cleared: 1, Unwanted: 2}},
		{"volume and mute are heard", func(t *testing.T, p *Player, f *fakeServer) {
			t0 := f.clock() + 500*ms
			f.stream()
			f.chunk(t0, 960, 1000)
			f.chunk(t0+20*ms, 960, 1000)
			f.chunk(t0+40*ms, 960, -1000)
			pass(510 * time.Millisecond)
			if err := p.SetMute(t.Context(), true); err != nil {
				t.Error(err)
			}
			pass(20 * time.Millisecond)
			f.volume(25)
			f.send(`{"type":"server/command","payload":{"player":{"command":"mute","mute":false}}}`)
		}, [][2]int{{1000, 960}, {0, 960}, {-125, 960}}, AudioCounts{Received: 3, Bytes: 3 * 3840, Played: 3}},
		{"another codec is counted", func(_ *testing.T, _ *Player, f *fakeServer) {
			f.send(`{"type":"stream/start","payload":{"player":{"codec":"opus","sample_rate":48000,"channels":2,"bit_depth":16}}}`)
			f.chunk(f.clock()+500*ms, 960, 9)
		}, nil, AudioCounts{Received: 1, Bytes: 3840, Undecoded: 1}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				var rec bytes.Buffer
				p, l, stop := listening(t, PlayerOptions{Out: &rec})
				f := visit(t, l, "srv", "playback")
				pass(5 * time.Second) // the clock converges
				tc.play(t, p, f)
				pass(3 * time.Second)
				if got := p.Snapshot().Audio; got != tc.aud {
					t.Errorf("counts: got %+v, want %+v", got, tc.aud)
				}
				if err := stop(); err != nil {
					t.Errorf("Run: got %v, want nil", err)
				}
				if tc.want == nil {
					if rec.Len() != 0 {
						t.Errorf("recording: got %d bytes, want none", rec.Len())
					}
					return
				}
				got := runs(samples(t, rec.Bytes()))
				if len(got) != len(tc.want) {
					t.Fatalf("got %v, want %v", got, tc.want)
				}
				for i := range got {
					if got[i] != tc.want[i] {
						t.Fatalf("got %v, want %v", got, tc.want)
					}
				}
			})
		})
	}
}

// The format changes in the middle of a stream (races: G9): each chunk is of the
// format that was in force when it came, whatever waits and whatever comes next.
// The guards are one queue for all that a session says, and the format that goes
// with the chunk.
func TestPlayerChangesFormatInOrder(t *testing.T) {
	bubble(t, func(t *testing.T) {
		p, l, _ := listening(t, PlayerOptions{})
		f := visit(t, l, "srv", "playback")
		pass(5 * time.Second) // the clock converges
		t0 := f.clock() + 500_000
		f.stream()
		f.chunk(t0, 960, 1)
		const frames, size = 961, 6 // of 24 bit stereo; no whole number of frames of 16 bit
		f.send(`{"type":"stream/start","payload":{"player":{"codec":"pcm","sample_rate":48000,"channels":2,"bit_depth":24}}}`)
		f.writing.Lock()
		err := f.conn.WriteMessage(websocket.BinaryMessage,
			append(binary.BigEndian.AppendUint64([]byte{4}, uint64(t0+20_000)), make([]byte, frames*size)...))
		f.writing.Unlock()
		if err != nil {
			t.Fatal(err)
		}
		pass(3 * time.Second)
		if got, want := p.Snapshot().Audio, (AudioCounts{Received: 2, Bytes: 960*4 + frames*size, Played: 2}); got != want {
			t.Errorf("counts: got %+v, want %+v", got, want)
		}
	})
}

// The output delay makes the player early by as much.
func TestPlayerObeysOutputDelay(t *testing.T) {
	bubble(t, func(t *testing.T) {
		p, l, _ := listening(t, PlayerOptions{OutputDelay: 200 * time.Millisecond})
		f := visit(t, l, "srv", "playback")
		pass(5 * time.Second)
		f.stream()
		f.chunk(f.clock()+500_000, 960, 1)
		pass(299 * time.Millisecond)
		if got := p.Snapshot().Audio.Played; got != 0 {
			t.Errorf("played after 299 ms: got %d, want 0", got)
		}
		pass(2 * time.Millisecond)
		if got := p.Snapshot().Audio.Played; got != 1 {
			t.Errorf("played after 301 ms: got %d, want 1", got)
		}
	})
}

func TestPlayerBufferIsBounded(t *testing.T) {
	bubble(t, func(t *testing.T) {
		p, l, _ := listening(t, PlayerOptions{BufferCapacity: 10_000})
		f := visit(t, l, "srv", "playback")
		pass(5 * time.Second)
		f.stream()
		for i := range 5 {
			f.chunk(f.clock()+timesync.Micros(500_000+20_000*i), 960, 1)
		}
		pass(3 * time.Second)
		if got, want := p.Snapshot().Audio, (AudioCounts{Received: 5, Bytes: 5 * 3840, Played: 2, Overflow: 3}); got != want {
			t.Errorf("got %+v, want %+v", got, want)
		}
	})
}

// A file gets its true lengths at the end.
func TestRecordingToFile(t *testing.T) {
	name := filepath.Join(t.TempDir(), "out.wav")
	file, err := os.Create(name)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	r := recorder{w: file}
	f := protocol.Format{Codec: "pcm", Channels: 1, SampleRate: 44100, BitDepth: 24}
	for i := range 3 {
		if !r.write(f, timesync.Micros(i*10_000), make([]byte, 441*3)) {
			t.Fatal(r.err)
		}
	}
	if err := r.finish(); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	le := binary.LittleEndian
	if got, want := le.Uint32(b[40:]), uint32(3*441*3); got != want || len(b) != wavHeaderSize+int(want) {
		t.Errorf("data: got %d in the header and %d bytes, want %d", got, len(b)-wavHeaderSize, want)
	}
	if got, want := le.Uint32(b[4:]), uint32(len(b)-8); got != want {
		t.Errorf("RIFF size: got %d, want %d", got, want)
	}
	if r.write(protocol.Format{Codec: "pcm", Channels: 2, SampleRate: 44100, BitDepth: 16}, 0, make([]byte, 4)) {
		t.Error("a second format was taken, want it refused")
	}
}

// A recording that can't be written ends Run with the reason.
func TestRecordingFails(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r, w := io.Pipe()
		_ = r.CloseWithError(errors.New("disk full"))
		_, l, stop := listening(t, PlayerOptions{Out: w})
		f := visit(t, l, "srv", "playback")
		pass(5 * time.Second)
		f.stream()
		f.chunk(f.clock()+500_000, 960, 1)
		pass(time.Second)
		if err := stop(); err == nil || !strings.Contains(err.Error(), "disk full") {
			t.Errorf("Run: got %v, want the reason", err)
		}
	})
}

func TestGain(t *testing.T) {
	for _, tc := range []struct {
		name     string
		depth    int
		in, want []byte
		g        float64
	}{
		{"16 bit", 16, []byte{0xe8, 0x03, 0x18, 0xfc}, []byte{0xf4, 0x01, 0x0c, 0xfe}, 0.5},
		{"24 bit", 24, []byte{0x00, 0x00, 0x80}, []byte{0x00, 0x00, 0xc0}, 0.5},
		{"32 bit", 32, []byte{0, 0, 0, 0x40}, []byte{0, 0, 0, 0x20}, 0.5},
		{"mute", 16, []byte{1, 2, 3, 4}, []byte{0, 0, 0, 0}, 0},
		{"full", 16, []byte{1, 2, 3, 4}, []byte{1, 2, 3, 4}, 1},
	} {
		t.Run(tc.name, func(t *testing.T) {
			got := bytes.Clone(tc.in)
			gain(got, tc.depth, tc.g)
			if !bytes.Equal(got, tc.want) {
				t.Errorf("got %x, want %x", got, tc.want)
			}
		})
	}
}
