package supervisor

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"
)

// serve runs s from its hello to its end and returns why it ended. When it
// returns, nothing of s is running; the code after Run is the only cleanup.
func (a *actor[E, S]) serve(ctx context.Context, s S) error {
	if a.status().State != Greeting || a.status().Gen != a.gen {
		a.publish(Greeting, nil)
	}
	if ctx.Err() != nil { // removed between its hello and here
		cause := context.Cause(ctx)
		s.Kill(cause)
		return cause
	}
	run, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	v := &visit[E, S]{
		actor:  a,
		s:      s,
		run:    run,
		cancel: cancel,
		probed: make(chan error, 1),
		drain:  newTimer(-1),
		again:  newTimer(-1),
	}
	defer v.drain.Stop()
	defer v.again.Stop()

	live, told := make(chan struct{}), make(chan struct{})
	var once sync.Once
	up := func() {
		once.Do(func() { close(live) })
		select {
		case <-told:
		case <-run.Done():
		}
	}
	ended := make(chan error, 1)
	go func() { ended <- s.Run(run, up) }() // owner: serve, which takes its result; may block in the session

	done := ctx.Done()
	for {
		select {
		case err := <-ended:
			if v.probing {
				cancel(ErrEnded)
				<-v.probed //nolint:errcheck // the session has ended, whatever its probe says
			}
			return v.parted(err)
		case <-live:
			live = nil
			if v.came() {
				close(told)
			}
		case <-done:
			done = nil
			v.end(context.Cause(ctx), false)
		case <-a.e.wake:
			v.heard(a.hear())
		case <-v.again.C:
			v.probe()
		case err := <-v.probed:
			v.answered(err)
		case <-v.drain.C:
			v.late()
		}
	}
}

// status is the last one that was published.
func (a *actor[E, S]) status() Status[S] {
	a.m.mu.Lock()
	defer a.m.mu.Unlock()
	return a.e.status
}

// visit is what serve knows of one session. The actor alone touches it.
type visit[E any, S Session] struct {
	*actor[E, S]
	s      S
	run    context.Context //nolint:containedctx // the life of this very session, which the visit is
	cancel context.CancelCauseFunc
	upAt   time.Time // zero until Up
	ending error     // first cause that we gave; nil while it may live
	killed bool
	drain  *time.Timer // while ending: when patience is over

	want    Why // reasons to probe that no probe has answered
	asked   Why // reasons of the probe under way
	probing bool
	probed  chan error  // capacity 1
	again   *time.Timer // when the floor lets the next probe start
}

// came publishes Up, unless the session is being ended.
func (v *visit[E, S]) came() bool {
	if v.ending != nil {
		return false
	}
	// Under the mutex the publication is refused once the entry is stopping:
	// no Up is ordered after Remove.
	if st := v.publish(Up, func(st *Status[S]) { st.Session = v.s }); st.State != Up {
		return false
	}
	v.upAt, v.moves = time.Now(), 0
	v.alive()
	v.pending = 0 // what was asked for is there
	return true
}

// heard turns nudges into reasons to probe.
func (v *visit[E, S]) heard(bits Why) {
	if v.ending != nil {
		return
	}
	if bits&whyRecheck != 0 && !v.inbound && v.unwanted() {
		v.end(ErrRemoved, false)
		return
	}
	if bits&whyArrival != 0 && v.provenArrival() {
		v.end(ErrSuperseded, true)
		return
	}
	v.want |= bits & whyArrival
	if v.upAt.IsZero() {
		if bits&WhyEndpoint != 0 && !v.inbound && v.moved() {
			v.end(errMoved, true)
			return
		}
	} else {
		if time.Since(v.lastProbe) < v.m.o.AnnounceFloor {
			v.pending &^= WhyAnnounced
		}
		v.want |= v.pending
		v.pending = 0
	}
	v.probe()
}

// provenArrival reports whether the session that waits has proven its identity.
func (v *visit[E, S]) provenArrival() bool {
	v.m.mu.Lock()
	defer v.m.mu.Unlock()
	if v.e.arrival == nil || v.e.stopping {
		return false
	}
	p, ok := any(v.e.arrival.session).(interface{ Proven() bool })
	return ok && p.Proven()
}

// unwanted reports whether every endpoint was removed.
func (v *visit[E, S]) unwanted() bool {
	v.m.mu.Lock()
	defer v.m.mu.Unlock()
	return len(v.e.candidates) == 0
}

// probe starts a probe if there is a reason, none is under way, and the last
// one was long enough ago.
func (v *visit[E, S]) probe() {
	if v.want == 0 || v.probing || v.ending != nil {
		return
	}
	if wait := time.Until(v.lastProbe.Add(v.m.o.Floor)); wait > 0 {
		v.again.Reset(wait)
		return
	}
	v.asked, v.want = v.want, 0
	v.probing, v.lastProbe = true, time.Now()
	go func() { // owner: serve, which takes its result; blocks in the session, at most ProbeTimeout
		ctx, cancel := context.WithTimeout(v.run, v.m.o.ProbeTimeout)
		defer cancel()
		v.probed <- v.s.Probe(ctx)
	}()
}

// answered takes the result of a probe.
func (v *visit[E, S]) answered(err error) {
	v.probing = false
	asked := v.asked
	v.asked = 0
	if v.ending != nil {
		return
	}
	if err == nil {
		v.alive()
		v.want &^= whyArrival
		if in := v.takeArrival(); in != nil {
			in.session.Kill(ErrDuplicate) // a live session is never evicted
		}
		v.probe()
		return
	}
	cause := ErrHalfOpen
	if v.arrived() {
		cause = ErrSuperseded
	}
	v.pending |= (asked | v.want) & whyPublic // they still want a connection
	v.end(fmt.Errorf("%w: %w", cause, err), true)
}

// end ends the session once: in order, or hard when it is known to be dead.
func (v *visit[E, S]) end(cause error, hard bool) {
	if v.ending != nil {
		return
	}
	v.ending = cause // first cause wins
	v.cancel(cause)
	v.publish(Draining, func(st *Status[S]) { st.Cause = cause })
	if hard {
		v.kill()
	}
	v.drain.Reset(max(v.m.o.DrainTimeout, 0))
}

func (v *visit[E, S]) kill() {
	v.killed = true
	v.s.Kill(v.ending)
}

// late is called when a session that was told to end has not.
func (v *visit[E, S]) late() {
	if !v.killed {
		v.kill()
		v.drain.Reset(max(v.m.o.DrainTimeout, 0))
		return
	}
	// Nothing is left to try. The key stays taken: better no connection than two.
	v.m.o.Log.Error("session does not end after its socket was closed; its key stays taken until it does",
		slog.String("endpoint", string(v.e.key)), slog.Uint64("gen", v.gen), slog.Any("err", v.ending))
}

// parted closes the books on a session that has ended with err.
func (v *visit[E, S]) parted(err error) error {
	if !v.upAt.IsZero() && time.Since(v.upAt) >= v.m.o.StableAfter {
		d, ok := any(v.s).(interface{ Delivered() bool })
		if !ok || d.Delivered() {
			v.failures, v.good = 0, time.Now()
		}
	}
	v.pending |= (v.want | v.asked) & whyPublic // asked for, and not answered
	switch {
	case v.ending == nil && err == nil:
		return ErrEnded
	case v.ending == nil:
		return err
	case err == nil, errors.Is(err, v.ending), errors.Is(v.ending, err), errors.Is(err, context.Canceled):
		return v.ending
	}
	return fmt.Errorf("%w (%w)", v.ending, err) // the session had a cause of its own first
}
