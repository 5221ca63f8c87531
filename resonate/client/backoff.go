package client

import (
	"math/rand/v2"
	"time"
)

const (
	backoffBase  = time.Second
	backoffCap   = time.Minute
	backoffFloor = 500 * time.Millisecond
	// steady is how long a session must have lasted to count as a success: a
	// server that accepts and drops must not be hammered.
	steady = 10 * time.Second
)

// backoff returns the wait before the next attempt after so many failures in a
// row: full jitter over a doubling range, so that speakers that lost the same
// server do not come back in step.
func backoff(failures int) time.Duration {
	span := backoffCap
	if failures < 6 {
		span = backoffBase << failures
	}
	return max(backoffFloor, rand.N(span))
}
