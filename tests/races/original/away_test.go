package original

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"resonatebridge/discovery"
	"resonatebridge/resonate"
	"resonatebridge/resonate/client"
	"resonatebridge/tests/pipe"
)

// away measures M12 for ours: a quarter of an hour in virtual time, with the
// server and a software player as they ship, over connections in memory.
func away(t *testing.T, got *result, announced bool) {
	took := returns(t, 1, announced)
	got.set("back", took[0].Seconds())
}

// returns connects n players, cuts them all off for a quarter of an hour, and
// says how long after their return each was connected again.
func returns(t *testing.T, n int, announced bool) (took []time.Duration) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		var off atomic.Bool
		doors := map[string]*pipe.Listener{}
		server, err := resonate.New(resonate.Options{DialContext: func(ctx context.Context, _, addr string) (net.Conn, error) {
			if off.Load() {
				return nil, &net.OpError{Op: "dial", Net: "tcp", Err: syscall.ECONNREFUSED}
			}
			return doors[addr].DialContext(ctx, "tcp", addr)
		}})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(context.Background())
		var wg sync.WaitGroup
		defer wg.Wait()
		defer cancel()
		wg.Go(func() { // ends with ctx
			if err := server.Run(ctx); err != nil {
				t.Error(err)
			}
		})
		var players []*client.Player
		var events []discovery.Event
		for i := range n {
			addr := netip.AddrPortFrom(netip.AddrFrom4([4]byte{198, 51, 100, byte(i)}), 8928)
			door := pipe.NewListener()
			doors[addr.String()] = door
			p, err := client.NewPlayer(client.PlayerOptions{ClientID: fmt.Sprintf("speaker-%d", i), Listener: door})
			if err != nil {
				t.Fatal(err)
			}
			players = append(players, p)
			wg.Go(func() { _ = p.Run(ctx) }) // ends with ctx
			events = append(events, discovery.Event{Kind: discovery.Announced, Endpoint: discovery.Endpoint{
				Key: addr.String(), Addrs: []netip.AddrPort{addr}, Path: "/sendspin", Service: discovery.ServicePlayer,
			}})
		}
		// connected waits until so many are, and notes when each came.
		connected := func(since time.Time, want int) map[string]time.Duration {
			seen := map[string]time.Duration{}
			for {
				for _, p := range server.Snapshot().Players {
					if _, ok := seen[p.PID]; !ok && p.Connection == resonate.Connected {
						seen[p.PID] = time.Since(since)
					}
				}
				if len(seen) == want {
					return seen
				}
				select {
				case <-server.Changed():
				case <-time.After(time.Hour):
					t.Fatalf("%d of %d players are connected an hour later", len(seen), want)
				}
			}
		}
		for _, ev := range events {
			server.Discover(ev)
		}
		connected(time.Now(), n)
		time.Sleep(time.Minute)
		off.Store(true)
		for _, p := range players {
			if err := p.Drop(ctx); err != nil {
				t.Fatal(err)
			}
		}
		time.Sleep(awayFor)
		off.Store(false)
		back := time.Now()
		if announced {
			for _, ev := range events {
				ev.Again = true
				server.Discover(ev)
			}
		}
		for _, d := range connected(back, n) {
			took = append(took, d)
		}
	})
	return took
}
