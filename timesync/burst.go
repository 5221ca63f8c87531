package timesync

import "time"

const (
	// burstSize is the number of exchanges of a burst, and burstInterval the
	// time from the start of one to the start of the next (spec: Clock
	// Synchronization; time-filter: Recommended Usage).
	burstSize     = 8
	burstInterval = 10 * time.Second
	// settleInterval takes its place while the filter settles: drift and
	// Converged need the second sample, and users wait for it; on a link with
	// jitter the drift that the first few suggest is off by so much that sound
	// leaves its millisecond for the next minutes. A filter has settled with
	// settleLeast samples and an error of settledError, or with settleMost.
	settleInterval = time.Second
	settleLeast    = 5
	settleMost     = 30
	settledError   = 150 * time.Microsecond
	// probeTimeout is the time after which a probe is given up.
	probeTimeout = 2 * time.Second
)

// Burst decides when a client asks for the server's time and which of the
// answers its filter gets to see.
//
// Messages on one ordered connection delay each other, so the samples of eight
// quick exchanges are not independent. Of each burst only the one with the
// lowest [Sample.MaxError] is fed. At most one probe is in flight; a reply
// that does not echo it is dropped.
//
// Burst has no goroutine, no timer and no clock. One goroutine drives it:
//
//	for {
//		now := clock.Now()
//		send, wait := burst.Next(now)
//		if send {
//			// client/time with client_transmitted = now
//		}
//		select {
//		case s := <-replies: // server/time, stamped on arrival
//			burst.Reply(s)
//		case <-time.After(wait):
//		case <-ctx.Done():
//			return
//		}
//	}
//
// Like its filter it serves one session: a new session makes a new one.
type Burst struct {
	filter  *Filter
	settled bool

	start Micros // of the burst that runs or ran last
	next  Micros // when the next one starts; 0, at once, before the first
	left  int    // exchanges not yet over; 0 between bursts

	inFlight bool
	sent     Micros // stamp of the probe in flight
	deadline Micros // when it is given up

	found bool
	best  Sample // lowest MaxError of this burst, if found
}

// NewBurst returns the strategy that feeds f. Its first burst is due at once.
func NewBurst(f *Filter) *Burst { return &Burst{filter: f} }

// Next brings the strategy to now, a reading of the client's clock (above 0).
// If send, the caller sends a probe stamped now, and lets nothing that can wait
// come between the reading and the write. In any case it calls Next again after
// wait, which is above 0, or as soon as Reply was called, whichever comes first.
// A burst whose last probe is given up feeds the filter here.
func (b *Burst) Next(now Micros) (send bool, wait time.Duration) {
	if b.inFlight && now >= b.deadline {
		b.end()
	}
	switch {
	case b.inFlight:
		return false, duration(b.deadline - now)
	case b.left == 0 && now < b.next:
		return false, duration(b.next - now)
	case b.left == 0:
		b.start, b.left = now, burstSize
	}
	b.inFlight, b.sent, b.deadline = true, now, now+micros(probeTimeout)
	return true, probeTimeout
}

// Reply takes the exchange that a server/time completes and reports whether it
// answers the probe in flight. The reply that ends a burst feeds the filter.
func (b *Burst) Reply(s Sample) bool {
	if !b.inFlight || s.ClientTransmitted != b.sent {
		return false
	}
	// A server that claims to have held the probe longer than it was away has a
	// broken clock, and its sample would win every burst.
	if e := s.MaxError(); e >= 0 && (!b.found || e < b.best.MaxError()) {
		b.found, b.best = true, s
	}
	b.end()
	return true
}

// end ends the exchange in flight, answered or given up, and with the last
// one the burst.
func (b *Burst) end() {
	b.inFlight = false
	b.left--
	if b.left > 0 {
		return
	}
	if b.found {
		b.filter.Update(b.best.Offset(), b.best.MaxError(), b.best.ClientReceived)
	}
	b.found = false
	if m := b.filter.Model(); m != nil {
		b.settled = b.settled || m.Samples() >= settleMost || m.Samples() >= settleLeast && m.Error() <= settledError
	}
	b.next = b.start + micros(settleInterval)
	if b.settled {
		b.next = b.start + micros(burstInterval)
	}
}

func micros(d time.Duration) Micros   { return Micros(d / time.Microsecond) }
func duration(m Micros) time.Duration { return time.Duration(m) * time.Microsecond }
