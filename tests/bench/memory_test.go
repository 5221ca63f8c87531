package bench

import (
	"context"
	"crypto/rand"
	"fmt"
	"net"
	"os"
	"runtime"
	"slices"
	"sync"
	"testing"
	"time"

	"resonatebridge/resonate"
	"resonatebridge/resonate/client"
	"resonatebridge/resonate/pairing"
	"resonatebridge/resonate/protocol"
	"resonatebridge/tests/internal/facts"
	"resonatebridge/tests/internal/scene"

	"github.com/gorilla/websocket"
)

const megabyte = 1_000_000

// TestBenchMemory reads the resident memory of the bridge's process while 50
// players are connected and idle.
func TestBenchMemory(t *testing.T) {
	measures(t)
	for _, embedded := range []bool{false, true} {
		name, bound := "a broker elsewhere", int64(40*megabyte)
		if embedded {
			name = "the embedded broker"
		}
		t.Run(name, func(t *testing.T) {
			var bridge *process
			var url string
			if embedded {
				addr := freeAddr(t)
				url, bridge = "mqtt://"+addr, startProcess(t, "", addr)
			} else {
				broker := scene.StartBroker(t)
				url, bridge = broker.URL(), startProcess(t, broker.URL(), "")
			}
			w := scene.Watch(t, url, nil)
			const players, samples = 50, 20
			dialIn(t, bridge.listen, players)
			online(w, players)
			var most int64
			tick := time.NewTicker(time.Second)
			defer tick.Stop()
			for range samples {
				<-tick.C
				now, ok := bridge.resident(t)
				if !ok {
					t.Skip("no /proc here, so no resident memory")
				}
				most = max(most, now)
			}
			table.Value("resident memory, 50 idle players, "+name, fmt.Sprintf("%.1f MB", float64(most)/megabyte),
				fmt.Sprintf("< %d MB", bound/megabyte), most >= bound)
		})
	}
}

// TestBenchCycles connects and disconnects players 10,000 times, in plaintext
// and encrypted, and compares goroutines, timers, descriptors and heap.
func TestBenchCycles(t *testing.T) {
	measures(t)
	runtime.MemProfileRate = 1 // every object, to count timers
	for name, connect := range map[string]connect{"in plaintext": plainly, "encrypted": sealed(t)} {
		t.Run(name, func(t *testing.T) {
			n := facts.Begin(t, "Leaks")
			const (
				warm   = 5_000
				cycles = 10_000
				timers = 3*players + 20 // a player keeps up to three, and makes each when its end first calls for it; and the server's own
			)
			server := startServer(t)
			addr := serve(t, server)
			cycle(t, addr, connect, warm)
			before := settled(t, server)
			cycle(t, addr, connect, cycles)
			after := settled(t, server)
			const slack = megabyte / 2 // the heap is a little different after each collection
			for _, x := range []struct {
				what, got, bound string
				missed           bool
			}{
				{"goroutines", fmt.Sprintf("%d, %d", before.goroutines, after.goroutines), "no growth", after.goroutines > before.goroutines},
				{"timers", fmt.Sprintf("%d, %d", before.timers, after.timers), fmt.Sprintf("<= %d, three per player", timers), after.timers > timers},
				{"descriptors", fmt.Sprintf("%d, %d", before.descriptors, after.descriptors), "no growth", after.descriptors > before.descriptors},
				{
					"heap", fmt.Sprintf("%.2f, %.2f MB", float64(before.heap)/megabyte, float64(after.heap)/megabyte),
					"< 0.5 MB growth", after.heap > before.heap+slack,
				},
			} {
				what := fmt.Sprintf("%s after %d and %d connects and disconnects %s", x.what, warm, warm+cycles, name)
				table.Value(what, x.got, x.bound, x.missed)
				n.Add(what, x.got, x.bound)
				if x.missed {
					t.Errorf("%s: got %s, want %s", what, x.got, x.bound)
				}
			}
		})
	}
}

// players is how many take turns.
const players = 50

// connect makes a connection of a player; leave ends it, in order or by a cut.
type connect func(ctx context.Context, addr string, player int) (leave func(inOrder bool), err error)

func plainly(ctx context.Context, addr string, player int) (leave func(bool), err error) {
	c, err := scene.WireDial(ctx, addr, speakerID(player))
	return func(inOrder bool) {
		if inOrder {
			_ = c.WriteMessage(websocket.TextMessage, []byte(scene.WireGoodbye("restart")))
			_ = c.WriteControl(websocket.CloseMessage, websocket.FormatCloseMessage(websocket.CloseNormalClosure, ""), time.Now().Add(time.Second))
		}
		_ = c.Close()
	}, err
}

// sealed connects strangers, each from an address of its own, since an address
// may not begin that many handshakes.
func sealed(t *testing.T) connect {
	t.Helper()
	var who [players]pairing.Identity
	for i := range who {
		var err error
		if who[i], err = pairing.NewIdentity(rand.Reader); err != nil {
			t.Fatal(err)
		}
	}
	return func(ctx context.Context, addr string, player int) (leave func(bool), err error) {
		s, err := client.Dial(ctx, "ws://"+addr+"/sendspin", client.Options{
			Dialect: "G2",
			Hello: protocol.ClientHello{
				Name: speakerID(player), Version: 1, Roles: []protocol.Role{protocol.RolePlayer},
				Player: &protocol.PlayerSupport{
					Formats:        []protocol.Format{{Codec: "pcm", Channels: 2, SampleRate: 48000, BitDepth: 16}},
					BufferCapacity: 1_000_000,
				},
				Trust: &protocol.ClientTrust{Unpaired: true},
			},
			Sealing: &client.Sealing{Identity: who[player], Keys: func(*client.Session) client.Keys { return nil }},
			NetDial: (&net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 1, byte(1+player))}}).DialContext,
		})
		return func(inOrder bool) {
			if inOrder {
				s.Close(protocol.GoodbyeRestart)
			} else {
				s.Abort()
			}
			<-s.Done()
		}, err
	}
}

// cycle connects n times, eight at a time; half leave in order, half are cut.
func cycle(t *testing.T, addr string, connect connect, n int) {
	t.Helper()
	const workers = 8
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
	defer cancel()
	next := make(chan int)
	var wg sync.WaitGroup
	for range workers {
		wg.Go(func() { // ends when next is closed
			for i := range next {
				leave, err := connect(ctx, addr, i%players)
				if err != nil {
					t.Errorf("connect %d: %v", i, err)
					continue
				}
				leave(i/players%2 == 0)
			}
		})
	}
	for i := range n {
		next <- i
	}
	close(next)
	wg.Wait()
}

type usage struct {
	goroutines  int
	timers      int64 // that are in the heap, whether they run or not
	descriptors int   // 0 where there is no /proc
	heap        uint64
}

// timers counts them where the runtime makes them, by the heap profile as of
// the last collection: nothing else tells their number.
func timers() (n int64) {
	var records []runtime.MemProfileRecord
	for have, ok := runtime.MemProfile(nil, false); !ok; {
		records = make([]runtime.MemProfileRecord, have+50)
		have, ok = runtime.MemProfile(records, false)
		if ok {
			records = records[:have]
		}
	}
	for _, r := range records {
		for frames := runtime.CallersFrames(r.Stack()); ; {
			frame, more := frames.Next()
			if frame.Function == "time.newTimer" {
				n += r.InUseObjects()
				break
			}
			if !more {
				break
			}
		}
	}
	return n
}

// settled is what is used when everybody is gone and nothing ends any more.
func settled(t *testing.T, s *resonate.Server) usage {
	t.Helper()
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	late := time.After(patience)
	for still, last := 0, 0; still < 20; {
		select {
		case <-tick.C:
		case <-late:
			t.Fatalf("not settled within %v: %d goroutines", patience, last)
		}
		now := runtime.NumGoroutine()
		if still++; now != last || somebody(s) {
			still = 0
		}
		last = now
	}
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	descriptors, _ := os.ReadDir("/proc/self/fd")
	return usage{runtime.NumGoroutine(), timers(), len(descriptors), m.HeapAlloc}
}

func somebody(s *resonate.Server) bool {
	return slices.ContainsFunc(s.Snapshot().Players, func(p *resonate.Player) bool {
		return p.Connection == resonate.Connected || p.Connection == resonate.ApprovalRequired
	})
}
