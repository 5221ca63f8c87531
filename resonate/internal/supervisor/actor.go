package supervisor

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"
)

// actor is the goroutine of one entry and what it alone owns.
type actor[E any, S Session] struct {
	m         *Map[E, S]
	e         *entry[E, S]
	gen       uint64
	inbound   bool      // of gen
	failures  int       // in a row
	good      time.Time // last success, or the start
	pending   Why       // heard and not acted upon yet
	why       Why       // what causes the next attempt
	tried     []E       // by the attempt under way
	moves     int       // attempts in a row that a changed endpoint cancelled
	lastProbe time.Time
}

// maxMoves bounds how often in a row a changed endpoint cancels an attempt, so
// that an address that flaps faster than a handshake takes can't keep a
// speaker away for ever.
const maxMoves = 3

// run is the life of the entry.
func (a *actor[E, S]) run(ctx context.Context) {
	defer a.m.exit(a.e)
	var cause error
	var verdict Verdict
	told := true                // cause was published
	for again := true; again; { // pause looks at ctx: a cancellation can't be swallowed
		cause = a.connect(ctx)
		verdict = a.judge(cause)
		again, told = a.pause(ctx, cause, verdict)
	}
	if ctx.Err() != nil {
		verdict = Verdict{}
		if told {
			cause = context.Cause(ctx)
		}
	}
	a.publish(Gone, func(st *Status[S]) { st.Cause, st.Verdict = cause, verdict })
}

// connect takes the session that waits, or dials one, and serves it to its
// end. It returns why it ended, never nil.
func (a *actor[E, S]) connect(ctx context.Context) error {
	for {
		if in := a.takeArrival(); in != nil {
			a.gen, a.inbound = a.nextGen(), true
			return a.serve(ctx, in.session)
		}
		s, err := a.dial(ctx)
		if err == nil {
			err = a.serve(ctx, s)
		}
		switch {
		case errors.Is(err, errMoved):
			a.failures = 0
		case errors.Is(err, errStopping):
			return context.Cause(ctx)
		case !errors.Is(err, errOvertaken):
			return err
		}
	}
}

// dial makes one attempt.
func (a *actor[E, S]) dial(ctx context.Context) (S, error) {
	var none S
	if err := a.turn(ctx); err != nil {
		return none, err
	}
	defer func() { <-a.m.slots }()

	at, err := a.begin()
	if err != nil {
		return none, err
	}
	greeting := make(chan struct{})
	at.Greeting = sync.OnceFunc(func() { close(greeting) })
	a.publish(Dialing, nil)

	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	type result struct {
		s   S
		err error
	}
	results := make(chan result, 1)
	a.tried = slices.Clone(at.Endpoints)
	go func() { // owner: dial, which takes its result; may block in Options.Dial
		s, err := a.m.o.Dial(ctx, at)
		results <- result{s, err}
	}()

	deadline := newTimer(a.m.o.DialTimeout)
	defer deadline.Stop()
	for {
		select {
		case r := <-results:
			// RC-1: the context is looked at after the dial returned. A
			// session that came up too late ends here and nobody hears of it.
			cause := context.Cause(ctx)
			if r.err != nil && !errors.Is(cause, errMoved) {
				a.moves = 0
			}
			if cause != nil {
				if errors.Is(cause, errMoved) {
					a.why |= at.Why // goes on in the next one
				}
				if r.err == nil {
					r.s.Kill(cause)
				} else if errors.Is(cause, ErrTimeout) {
					return none, fmt.Errorf("%w: %w", cause, r.err)
				}
				return none, cause
			}
			if r.err != nil {
				return none, r.err
			}
			id := r.s.ID()
			err := a.m.bind(a.e, id, at.Why)
			if at.ExpectID != "" && at.ExpectID != id {
				a.m.o.Log.Warn("another client answers at this endpoint", slog.String("endpoint", string(a.e.key)),
					slog.String("was", at.ExpectID), slog.String("is", id), slog.Any("err", err))
			}
			if err != nil {
				r.s.Kill(err)
				return none, err
			}
			a.renumber()
			return r.s, nil
		case <-greeting:
			greeting = nil
			a.publish(Greeting, nil)
			resetTimer(deadline, a.m.o.GreetTimeout)
		case <-deadline.C:
			cancel(ErrTimeout)
		case <-a.e.wake:
			a.hear()
			if cause := a.overtaken(); cause != nil {
				cancel(cause) // the first cause counts
			}
		}
	}
}

// turn waits until the next attempt may start, and takes a slot: the spread of
// the start, the key's floor, then the map's attempts in flight, then its rate.
func (a *actor[E, S]) turn(ctx context.Context) error {
	m := a.m
	m.mu.Lock()
	earliest, known := a.e.notBefore, len(a.e.candidates) > 0
	if last := a.e.lastDial; !last.IsZero() && last.Add(m.o.Floor).After(earliest) {
		earliest = last.Add(m.o.Floor)
	}
	m.mu.Unlock()
	if !known {
		return errNoEndpoint
	}
	if wait := time.Until(earliest); wait > 0 {
		if err := a.sleep(ctx, wait); err != nil {
			return err
		}
	}
	for taken := false; !taken; {
		select {
		case m.slots <- struct{}{}:
			taken = true
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-a.e.wake:
			if a.hear()&whyArrival != 0 {
				return errOvertaken
			}
		}
	}
	token := m.limiter.Reserve()
	if err := a.sleep(ctx, token.Delay()); err != nil {
		token.Cancel()
		<-m.slots
		return err
	}
	return nil
}

// sleep waits for d, unless an inbound session comes or ctx ends.
func (a *actor[E, S]) sleep(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(max(d, 0))
	defer timer.Stop()
	for {
		select {
		case <-timer.C:
			return nil
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-a.e.wake:
			if a.hear()&whyArrival != 0 {
				return errOvertaken
			}
		}
	}
}

// begin gives the attempt its generation and takes what was heard so far.
func (a *actor[E, S]) begin() (Attempt[E], error) {
	a.hear()
	a.m.mu.Lock()
	defer a.m.mu.Unlock()
	switch {
	case a.e.stopping:
		return Attempt[E]{}, errStopping
	case a.e.arrival != nil:
		return Attempt[E]{}, errOvertaken
	case len(a.e.candidates) == 0:
		return Attempt[E]{}, errNoEndpoint
	}
	a.m.gen++
	a.gen, a.inbound = a.m.gen, false
	at := Attempt[E]{Key: a.e.key, Why: a.why | a.pending, Number: a.failures, ExpectID: a.e.id}
	for _, c := range a.e.candidates {
		at.Endpoints = append(at.Endpoints, c.ep)
	}
	now := time.Now()
	if a.e.lastAnnounce.IsZero() || at.Why&WhyAnnounced != 0 {
		a.e.lastAnnounce = now // the Ensure that made the entry was a hint, too
	}
	a.e.lastDial = now
	a.why, a.pending = 0, 0
	return at, nil
}

// overtaken says why the attempt under way has lost its point.
func (a *actor[E, S]) overtaken() error {
	a.m.mu.Lock()
	defer a.m.mu.Unlock()
	switch n := len(a.e.candidates); {
	case a.e.arrival != nil:
		return errOvertaken
	case n == len(a.tried) && !a.lostLocked(), n > 0 && a.moves >= maxMoves:
		return nil
	}
	a.moves++
	return errMoved
}

// moved is overtaken for an attempt that has met its peer: a further candidate
// does not matter any more, the loss of one that was tried does.
func (a *actor[E, S]) moved() bool {
	a.m.mu.Lock()
	defer a.m.mu.Unlock()
	if a.moves >= maxMoves || !a.lostLocked() {
		return false
	}
	a.moves++
	return true
}

// lostLocked reports whether an endpoint that was tried is no candidate now.
func (a *actor[E, S]) lostLocked() bool {
	return slices.ContainsFunc(a.tried, func(tried E) bool {
		return !slices.ContainsFunc(a.e.candidates, func(c candidate[E]) bool { return a.m.o.Equal(tried, c.ep) })
	})
}

// hear takes what Nudge and the others left. The actor is the only reader.
func (a *actor[E, S]) hear() Why {
	bits := Why(a.e.bits.Swap(0))
	a.pending |= bits & whyPublic
	return bits
}

func (a *actor[E, S]) takeArrival() *arrival[S] {
	a.m.mu.Lock()
	defer a.m.mu.Unlock()
	if a.e.stopping {
		return nil // exit kills it
	}
	in := a.e.arrival
	a.e.arrival = nil
	return in
}

// arrived reports whether an inbound session waits.
func (a *actor[E, S]) arrived() bool {
	a.m.mu.Lock()
	defer a.m.mu.Unlock()
	return a.e.arrival != nil && !a.e.stopping
}

func (a *actor[E, S]) nextGen() uint64 {
	a.m.mu.Lock()
	defer a.m.mu.Unlock()
	a.m.gen++
	return a.m.gen
}

// renumber makes the generation of a session that was just bound to its client
// the newest one: while it was dialled the same client may have come and gone
// under another key.
func (a *actor[E, S]) renumber() {
	a.m.mu.Lock()
	defer a.m.mu.Unlock()
	if a.gen != a.m.gen {
		a.m.gen++
		a.gen = a.m.gen
	}
}

// judge says what follows cause.
func (a *actor[E, S]) judge(cause error) Verdict {
	switch {
	case errors.Is(cause, ErrAddressReused):
		v := Verdict{Action: RetrySlow, Leaves: whyDemand, Reason: ReasonAddressReused}
		if a.misled() {
			v.Action = RetryAtOnce
		} // else dialling on would disturb the other device again and again
		return v
	case errors.Is(cause, ErrSuperseded):
		return Verdict{Reason: ReasonSuperseded}
	case errors.Is(cause, ErrAlias), errors.Is(cause, errNoEndpoint), errors.Is(cause, ErrRemoved), errors.Is(cause, ErrClosed):
		return Verdict{}
	}
	return a.m.o.Judge(cause)
}

// misled learns from an attempt that met another device. The address that was
// tried first is taken for that one's, and whose it is has to be found out anew,
// or nobody would once this entry is up elsewhere: an alias is let go, and from
// the entry's own the aliases take the client with them. It reports whether
// there is something to try at once.
func (a *actor[E, S]) misled() (retry bool) {
	m, e := a.m, a.e
	m.mu.Lock()
	defer m.mu.Unlock()
	switch c := e.candidates; {
	case len(c) == 0:
		return false
	case c[0].key != e.key:
		m.partLocked(e, c[0])
		return len(c) > 1
	case len(c) == 1:
		return false
	}
	m.forgetLocked(e)
	return true
}

// pause publishes the end of a session or attempt and waits until the next one
// is due. again is false when the entry's life is over; then told reports
// whether cause was published.
func (a *actor[E, S]) pause(ctx context.Context, cause error, v Verdict) (again, told bool) {
	var shown Status[S]
	show := func(state State, v Verdict, at time.Time) {
		if shown.State == state && shown.Verdict == v && shown.RetryAt.Equal(at) {
			return
		}
		shown = a.publish(state, func(st *Status[S]) { st.Cause, st.Verdict, st.RetryAt = cause, v, at })
	}
	var retryAt time.Time // drawn once, also if the entry is parked and comes back meanwhile
	timer := newTimer(-1)
	defer timer.Stop()
	for {
		a.hear()
		if ctx.Err() != nil {
			return false, shown.State != 0
		}
		n := a.next()
		switch {
		case n.leave:
			return false, false // the end of life is published with its cause
		case n.arrival:
			show(Waiting, v, time.Time{})
			return true, true
		}
		now := time.Now()
		if retryAt.IsZero() {
			retryAt = a.schedule(v, now)
		}

		verdict := v
		if n.withdrawn && v.Action != Park {
			verdict = Verdict{Action: Park, Leaves: whyDemand | WhyAnnounced, Reason: ReasonWithdrawn}
		}
		a.pending &= verdict.accepts()
		if n.withdrawn {
			a.pending &^= WhyAnnounced | WhyReannounced // said before it was withdrawn
		}
		hintAt := a.hintAt()
		hinted := a.pending&WhyAnnounced != 0
		if a.pending&^WhyAnnounced != 0 || (hinted && hintAt <= 0) {
			if a.pending&whyDemand != 0 || verdict.Action == Park {
				a.failures = 0
			}
			a.why, a.pending = a.pending, 0
			show(Waiting, v, now)
			return true, true
		}

		wait := hintAt
		if verdict.Action == Park {
			show(Parked, verdict, time.Time{})
			if !hinted {
				wait = -1
			}
		} else {
			show(Waiting, verdict, retryAt)
			due := max(retryAt.Sub(now), 0)
			if !hinted || due <= hintAt {
				wait = due
			}
		}
		resetTimer(timer, wait)
		select {
		case <-timer.C:
			if verdict.Action != Park && !time.Now().Before(retryAt) {
				return true, true
			}
		case <-a.e.wake:
		case <-ctx.Done():
		}
	}
}

// hintAt is how long WhyAnnounced must still wait.
func (a *actor[E, S]) hintAt() time.Duration {
	a.m.mu.Lock()
	defer a.m.mu.Unlock()
	return max(time.Until(a.e.lastAnnounce.Add(a.m.o.AnnounceFloor)), 0)
}

// schedule draws the time of the next attempt and counts the failure.
func (a *actor[E, S]) schedule(v Verdict, now time.Time) time.Time {
	switch v.Action {
	case RetrySlow:
		return now.Add(a.m.o.SlowMin + a.m.dice.upTo(a.m.o.SlowMax-a.m.o.SlowMin))
	case Park:
		return now // looked at only after a nudge
	case RetryAtOnce:
		a.failures = 0
	case Retry:
	}
	d := a.m.dice.upTo(a.m.backoff.ceiling(a.failures, now.Sub(a.good)))
	a.failures++
	return now.Add(d)
}

// accepts are the classes that end the wait of v.
func (v Verdict) accepts() Why {
	switch {
	case v.Leaves != 0 || v.Action == Park:
		return v.Leaves &^ WhyWithdrawn
	case v.Action == RetrySlow:
		return whyDemand
	}
	return whyPublic &^ WhyWithdrawn
}

// outlook is what the map knows and the actor needs to decide.
type outlook struct {
	arrival   bool // an inbound session waits
	leave     bool // nothing to dial and nobody waits: the entry is stopping now
	withdrawn bool // no candidate is advertised any more
}

func (a *actor[E, S]) next() outlook {
	a.m.mu.Lock()
	defer a.m.mu.Unlock()
	e := a.e
	n := outlook{arrival: e.arrival != nil && !e.stopping}
	if !n.arrival && len(e.candidates) == 0 {
		// From here on Ensure and Adopt ask for a successor.
		e.stopping, n.leave = true, true
	}
	n.withdrawn = len(e.candidates) > 0
	for _, c := range e.candidates {
		n.withdrawn = n.withdrawn && c.withdrawn
	}
	return n
}

// alive forgets withdrawals: the device has proved that it is there.
func (a *actor[E, S]) alive() {
	a.m.mu.Lock()
	defer a.m.mu.Unlock()
	for i := range a.e.candidates {
		a.e.candidates[i].withdrawn = false
	}
}

// publish stores the new status and tells it. Dialing, Greeting and Up are not
// published, and zero is returned, once the entry is stopping: what was asked
// for after Remove never follows it.
func (a *actor[E, S]) publish(state State, set func(*Status[S])) Status[S] {
	st := Status[S]{Key: a.e.key, Gen: a.gen, State: state, Since: time.Now(), Attempt: a.failures, Inbound: a.inbound}
	if set != nil {
		set(&st)
	}
	a.m.mu.Lock()
	if a.e.stopping && state <= Up {
		a.m.mu.Unlock()
		return Status[S]{}
	}
	if state == Up {
		a.m.settledLocked(a.e)
	}
	a.e.status = st
	st = a.e.statusLocked()
	a.m.mu.Unlock()
	a.m.o.Log.Debug("connection state", slog.String("endpoint", string(st.Key)), slog.Uint64("gen", st.Gen),
		slog.String("state", state.String()), slog.Any("err", st.Cause))
	a.m.o.Notify(st)
	return st
}

// newTimer and resetTimer take a negative duration for never.
func newTimer(d time.Duration) *time.Timer {
	t := time.NewTimer(max(d, 0))
	if d < 0 {
		t.Stop()
	}
	return t
}

func resetTimer(t *time.Timer, d time.Duration) {
	if d < 0 {
		t.Stop()
		return
	}
	t.Reset(d)
}
