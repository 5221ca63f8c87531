package bench

import (
	"context"
	"fmt"
	"runtime"
	"sync"
	"testing"
	"time"

	"resonatebridge/resonate"
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
			value("resident memory, 50 idle players, "+name, fmt.Sprintf("%.1f MB", float64(most)/megabyte),
				fmt.Sprintf("< %d MB", bound/megabyte), most >= bound)
		})
	}
}

// TestBenchCycles connects and disconnects players 10,000 times and compares
// goroutines and heap.
func TestBenchCycles(t *testing.T) {
	measures(t)
	const (
		warm   = 1_000
		cycles = 10_000
	)
	server := startServer(t)
	addr := serve(t, server)
	cycle(t, addr, warm)
	before := settled(t, server)
	cycle(t, addr, cycles)
	after := settled(t, server)
	value(fmt.Sprintf("goroutines after %d and %d connects and disconnects", warm, warm+cycles),
		fmt.Sprintf("%d, %d", before.goroutines, after.goroutines), "no growth", after.goroutines > before.goroutines)
	const slack = megabyte / 2 // the heap is a little different after each collection
	value(fmt.Sprintf("heap after %d and %d connects and disconnects", warm, warm+cycles),
		fmt.Sprintf("%.2f, %.2f MB", float64(before.heap)/megabyte, float64(after.heap)/megabyte), "< 0.5 MB growth", after.heap > before.heap+slack)
}

// cycle connects n times, eight at a time, as 50 players in turn; half leave in
// order, half are cut.
func cycle(t *testing.T, addr string, n int) {
	t.Helper()
	const workers, players = 8, 50
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
	defer cancel()
	next := make(chan int)
	var wg sync.WaitGroup
	for range workers {
		wg.Go(func() { // ends when next is closed
			for i := range next {
				c, err := raw(ctx, addr, speakerID(i%players))
				if err != nil {
					t.Errorf("connect %d: %v", i, err)
					continue
				}
				if i/players%2 == 0 {
					goodbye(c)
				}
				_ = c.Close()
			}
		})
	}
	for i := range n {
		next <- i
	}
	close(next)
	wg.Wait()
}

func goodbye(c *websocket.Conn) {
	_ = c.WriteMessage(websocket.TextMessage, []byte(`{"type":"client/goodbye","payload":{"reason":"restart"}}`))
	_ = c.WriteControl(websocket.CloseMessage, websocket.FormatCloseMessage(websocket.CloseNormalClosure, ""), time.Now().Add(time.Second))
}

type usage struct {
	goroutines int
	heap       uint64
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
	return usage{runtime.NumGoroutine(), m.HeapAlloc}
}

func somebody(s *resonate.Server) bool {
	for _, p := range s.Snapshot().Players {
		if p.Connection == resonate.Connected {
			return true
		}
	}
	return false
}
