package pipe

import (
	"math/rand/v2"
	"net"
	"time"
)

// Jitter returns a connection to the other end of c over a worse network: what
// is written at one end is read at the other up to most later, by chance, and in
// order. The same seed gives the same delays. Closing it closes c.
func Jitter(c net.Conn, most time.Duration, seed uint64) net.Conn {
	far, near := New()
	go carry(c, far, most, rand.New(rand.NewPCG(seed, 0))) //nolint:gosec // ends when either is closed; chance, no secret
	go carry(far, c, most, rand.New(rand.NewPCG(seed, 1))) //nolint:gosec // the same
	return near
}

// carry moves what it reads from src to dst until either ends, then closes both.
func carry(src, dst net.Conn, most time.Duration, chance *rand.Rand) {
	type piece struct {
		due  time.Time
		data []byte
	}
	way := make(chan piece, 256)
	go func() { // ends with src
		defer close(way)
		var last time.Time
		for {
			buf := make([]byte, 32<<10)
			n, err := src.Read(buf)
			if n > 0 {
				due := time.Now().Add(time.Duration(chance.Int64N(int64(most) + 1)))
				if due.Before(last) {
					due = last
				}
				last = due
				way <- piece{due, buf[:n]}
			}
			if err != nil {
				return
			}
		}
	}()
	for p := range way {
		time.Sleep(time.Until(p.due)) // a link has no other way out: it delivers, however late
		if _, err := dst.Write(p.data); err != nil {
			break
		}
	}
	_, _ = src.Close(), dst.Close()
	for range way { // lets the reader end
	}
}
