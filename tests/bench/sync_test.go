package bench

import (
	"context"
	"flag"
	"fmt"
	"net"
	"net/http"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"resonatebridge/resonate"
	"resonatebridge/resonate/client"
	"resonatebridge/resonate/protocol"
	"resonatebridge/tests/pipe"
	"resonatebridge/timesync"
)

var syncFor = flag.Duration("bench-sync", 20*time.Second, "how long TestBenchSync plays, a minute after its players came")

const (
	syncJitter = 5 * time.Millisecond
	syncBound  = time.Millisecond
	syncShare  = 0.999
)

// ear is what a software player plays into. It notes when each chunk sounds,
// on the server's clock, and which frame of the sound is its first.
type ear struct {
	clock *timesync.Clock

	mu     sync.Mutex
	at     []timesync.Micros
	frames []int64 // the first of each chunk
	next   int64
	header bool // was seen
}

func (e *ear) Write(wav []byte) (int, error) {
	now := e.clock.Now()
	e.mu.Lock()
	defer e.mu.Unlock()
	if !e.header {
		e.header = true
		return len(wav), nil
	}
	e.at, e.frames = append(e.at, now), append(e.frames, e.next)
	e.next += int64(len(wav) / 4)
	return len(wav), nil
}

// heard is how far from its time each chunk sounded.
type heard struct{ off [][]time.Duration }

// within is the share of the chunks that were at most bound from their time.
func (h heard) within(bound time.Duration) float64 {
	good, all := 0, 0
	for _, off := range h.off {
		for _, d := range off {
			if d.Abs() <= bound {
				good++
			}
		}
		all += len(off)
	}
	return float64(good) / float64(max(1, all))
}

// worst is the largest distance, and apart the largest between the players for
// the same chunk.
func (h heard) worst() (worst, apart time.Duration) {
	for i, d := range h.off[0] {
		if i < len(h.off[1]) {
			apart = max(apart, (d - h.off[1][i]).Abs())
		}
	}
	for _, d := range slices.Concat(h.off...) {
		worst = max(worst, d.Abs())
	}
	return worst, apart
}

// playInTime plays for span to two software players whose links have jitter.
// Their clocks are not the server's. web is how they reach it.
func playInTime(t *testing.T, web net.Listener, dial func(context.Context, string, string) (net.Conn, error), span time.Duration) heard {
	t.Helper()
	clock := timesync.NewClock()
	server, err := resonate.New(resonate.Options{Clock: clock})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	defer func() {
		cancel()
		wg.Wait()
		pause(t, 2*syncJitter) // the links deliver what is on the way
	}()
	run := func(what string, f func(context.Context) error) {
		wg.Go(func() {
			if err := f(ctx); err != nil {
				t.Errorf("%s: %v", what, err)
			}
		})
	}
	run("server", server.Run)
	front := &http.Server{Handler: server, ReadHeaderTimeout: patience}
	wg.Go(func() { _ = front.Serve(web) }) // ends with Close
	defer front.Close()
	do := func(c resonate.Command) {
		t.Helper()
		if _, err := server.Do(ctx, c); err != nil {
			t.Fatalf("%#v: %v", c, err)
		}
	}

	ears := []*ear{{clock: clock}, {clock: clock}}
	var players []*client.Player
	for i, e := range ears {
		pause(t, 123456789) // so that no clock agrees with another
		seed := uint64(0)
		p, err := client.NewPlayer(client.PlayerOptions{
			ClientID: speakerID(i), Server: "ws://bridge/sendspin", Out: e,
			RequiredLead: 500 * time.Millisecond, MinBuffer: 500 * time.Millisecond,
			NetDial: func(ctx context.Context, network, addr string) (net.Conn, error) {
				c, err := dial(ctx, network, addr)
				if err != nil {
					return nil, err
				}
				seed += 1 + uint64(i)
				return pipe.Jitter(c, syncJitter, seed), nil
			},
		})
		if err != nil {
			t.Fatal(err)
		}
		run(speakerID(i), p.Run)
		players = append(players, p)
	}
	// Another one only says when the sound begins on the timeline.
	first := make(chan timesync.Micros, 1)
	watcher, err := client.Dial(ctx, "ws://bridge/sendspin", client.Options{
		NetDial: dial,
		Hello: protocol.ClientHello{
			ClientID: speakerID(2), Name: "Watcher", Version: 1, Roles: []protocol.Role{protocol.RolePlayer},
			Player: &protocol.PlayerSupport{
				Formats:        []protocol.Format{{Codec: "pcm", Channels: 2, SampleRate: 48000, BitDepth: 16}},
				BufferCapacity: 1_000_000,
			},
		},
		OnMessage: func(_ *client.Session, m protocol.ServerMessage) {
			if c, ok := m.(protocol.AudioChunk); ok {
				select {
				case first <- c.Timestamp:
				default:
				}
			}
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { watcher.Abort(); <-watcher.Done() }()
	if err := watcher.Send(state(100)); err != nil {
		t.Fatal(err)
	}
	for _, p := range players {
		if _, err := p.WaitFor(ctx, func(s client.State) bool { return s.Connected && s.Clock != nil && s.Clock.Converged() }); err != nil {
			t.Fatal(err)
		}
	}
	pause(t, time.Minute) // a speaker is on before it plays
	for i := 1; i <= 2; i++ {
		do(resonate.SetPlayer{PID: speakerID(i), Group: &resonate.GroupTarget{With: speakerID(0)}})
	}
	do(resonate.PlayMedia{Target: resonate.Target{PID: speakerID(0)}, Items: []resonate.MediaItem{{URL: "tone:?frequency=440"}}})
	pause(t, span)

	var h heard
	start := <-first
	for i, p := range players {
		a := p.Snapshot().Audio
		if lost := a.Late + a.Overflow + a.Unwanted + a.Undecoded + a.Cleared; lost > 0 {
			t.Errorf("%s: of its chunks %d were not played: %+v", speakerID(i), lost, a)
		}
		e := ears[i]
		e.mu.Lock()
		var off []time.Duration
		for j, at := range e.at {
			due := start + timesync.Micros(e.frames[j]*1_000_000/48_000)
			off = append(off, time.Duration(at-due)*time.Microsecond)
		}
		e.mu.Unlock()
		if want := int(span / (150 * time.Millisecond)); len(off) < want-10 {
			t.Errorf("%s: played %d chunks in %v", speakerID(i), len(off), span)
		}
		h.off = append(h.off, off)
	}
	return h
}

// TestSync plays three minutes of virtual time: what is left is what the clocks
// get wrong.
func TestSync(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		door := pipe.NewListener()
		h := playInTime(t, door, door.DialContext, 3*time.Minute)
		worst, apart := h.worst()
		got := fmt.Sprintf("%.2f %% of %d chunks within %v, worst %v, players at most %v apart", 100*h.within(syncBound), len(h.off[0])+len(h.off[1]), syncBound, worst, apart)
		if h.within(syncBound) < syncShare {
			t.Errorf("%s; want %.1f %%", got, 100*syncShare)
		}
		t.Log(got)
	})
}

// TestBenchSync is the same in real time, where a chunk is also late by what
// the machine needs to wake up the player.
func TestBenchSync(t *testing.T) {
	measures(t)
	l := listen(t)
	var d net.Dialer
	dial := func(ctx context.Context, network, _ string) (net.Conn, error) {
		return d.DialContext(ctx, network, l.Addr().String())
	}
	h := playInTime(t, l, dial, *syncFor)
	worst, apart := h.worst()
	table.Value(fmt.Sprintf("two players over %v with %v of jitter: chunks within %v of the source's timeline", *syncFor, syncJitter, syncBound),
		fmt.Sprintf("%.2f %% of %d", 100*h.within(syncBound), len(h.off[0])+len(h.off[1])), ">= 99.9 %", h.within(syncBound) < syncShare)
	table.Value("the worst of them; the two players from each other", fmt.Sprintf("%v; %v", worst, apart), "", false)
}
