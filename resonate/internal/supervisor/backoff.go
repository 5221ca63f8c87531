package supervisor

import (
	"math/rand/v2"
	"sync"
	"time"
)

// backoff is the retry policy as a value. It never gives up: a speaker that
// was off over lunch comes back.
type backoff struct {
	base, highest time.Duration // ceiling of the first delay; ceiling of all
	long, after   time.Duration // ceiling of all once there was no success for after
}

// ceiling is the longest delay after failures in a row; down is the time since
// the last success.
func (b backoff) ceiling(failures int, down time.Duration) time.Duration {
	limit := b.highest
	if down >= b.after {
		limit = max(b.long, b.highest)
	}
	d := b.base
	for range failures {
		if d >= limit {
			break
		}
		d *= 2
	}
	return min(d, limit)
}

// dice draws jitter; it may be used by all actors at once.
type dice struct {
	mu  sync.Mutex
	rnd *rand.Rand // nil: the process's generator
}

// upTo draws uniformly from [0, limit].
func (d *dice) upTo(limit time.Duration) time.Duration {
	if limit <= 0 {
		return 0
	}
	if d.rnd == nil {
		return time.Duration(rand.Int64N(int64(limit) + 1))
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	return time.Duration(d.rnd.Int64N(int64(limit) + 1))
}
