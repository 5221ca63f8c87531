// Package timesync has the server's timeline and the client's estimate of it.
//
// The server reads its own monotonic clock ([Clock]). A client learns the
// distance of its clock from the server's by exchanging time stamps
// ([Sample]), keeps the best of each burst ([Burst]) and feeds it to a
// two-state Kalman filter ([Filter]). Readers convert through an immutable
// [Model], which one goroutine publishes and any goroutine may read.
package timesync

import "time"

// Micros is a point on a monotonic timeline in microseconds. Its zero is
// arbitrary; it is never wall time.
type Micros int64

// clockEpoch keeps readings positive, which the time filter relies on.
const clockEpoch = Micros(1_000_000)

// Clock reads one process-wide monotonic timeline. Build one and hand it down.
// It is safe for concurrent use.
type Clock struct{ start time.Time }

// NewClock returns a clock whose first reading is about one second.
func NewClock() *Clock { return &Clock{start: time.Now()} }

// Now returns the current reading; it never goes back, whatever the wall
// clock does.
func (c *Clock) Now() Micros {
	return clockEpoch + Micros(time.Since(c.start)/time.Microsecond)
}
