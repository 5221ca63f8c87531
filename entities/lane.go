package entities

import (
	"context"
	"maps"
	"slices"
	"time"

	"resonatebridge/resonate"
)

// job is one command on its way to an answer.
type job struct {
	call     *call
	since    time.Time // it arrived
	begun    time.Time // zero: it waits
	answered bool
	cancel   context.CancelFunc // once started
}

func (j *job) deadline() time.Time { return j.since.Add(answerWithin) }

// lane carries out the commands for one player or group, or the bridge, one
// after the other; media that takes its time is not waited for. It exists while it
// has something to do.
type lane struct {
	queue    []*job // at most laneSize
	active   *job   // that the next one waits for; nil: none
	volumeAt time.Time
}

// wake is when pump has something to do.
func (ln *lane) wake() time.Time {
	at := ln.volumeAt // then the next volume may go, or the lane is over
	switch {
	case ln.active != nil && ln.active.answered:
		at = time.Time{} // only its end matters now
	case ln.active != nil && ln.active.call.slow():
		at = ln.active.begun.Add(holdUp)
	case ln.active != nil:
		at = ln.active.deadline().Add(answerGrace)
	}
	if len(ln.queue) > 0 {
		if end := ln.queue[0].deadline(); at.IsZero() || end.Before(at) {
			at = end
		}
	}
	return at
}

// outcome is how a started job ended.
type outcome struct {
	lane string
	job  *job
	r    resonate.Result
	err  error
}

// enqueue puts a job into its lane, where a volume takes the place of one that
// still waits.
func (l *loop) enqueue(ctx context.Context, j *job) {
	if j.call.local != "" && l.local(j) {
		return
	}
	ln := l.lanes[j.call.lane]
	if ln == nil {
		ln = &lane{}
		l.lanes[j.call.lane] = ln
	}
	if j.call.only {
		ln.supersede(l, j)
	}
	if len(ln.queue) >= laneSize {
		l.busy++
		l.answer(j, resonate.Result{}, resonate.Errorf(resonate.CodeBusy, "%d commands already wait for %s; send fewer, or wait for their results", laneSize, j.call.lane))
		return
	}
	ln.queue = append(ln.queue, j)
	l.pump(ctx, j.call.lane, ln)
}

// supersede answers a waiting volume command that j makes pointless. An absolute
// volume replaces any; a step is added to the last waiting command if that is a
// step the same way. Other steps can't be added up without knowing the limits.
func (ln *lane) supersede(l *loop, j *job) {
	v := j.call.volume
	if !v.Relative {
		ln.queue = slices.DeleteFunc(ln.queue, func(old *job) bool {
			if old.call.only {
				l.answer(old, resonate.Result{Superseded: true}, nil)
			}
			return old.call.only
		})
		return
	}
	if len(ln.queue) == 0 {
		return
	}
	old := ln.queue[len(ln.queue)-1]
	if !old.call.only || !old.call.volume.Relative || (old.call.volume.Value < 0) != (v.Value < 0) {
		return
	}
	ln.queue = ln.queue[:len(ln.queue)-1]
	l.answer(old, resonate.Result{Superseded: true}, nil)
	sum := resonate.VolumeChange{Value: min(100, max(-100, old.call.volume.Value+v.Value)), Relative: true}
	j.call.volume = &sum
	switch c := j.call.command.(type) {
	case resonate.SetPlayer:
		c.Volume = &sum
		j.call.command = c
	case resonate.SetGroup:
		c.Volume = &sum
		j.call.command = c
	}
}

// pump starts the next job of a lane when it may, answers those that are too
// late, and drops the lane when nothing is left.
func (l *loop) pump(ctx context.Context, name string, ln *lane) {
	now := time.Now()
	if a := ln.active; a != nil && a.call.slow() && !now.Before(a.begun.Add(holdUp)) {
		ln.active = nil
	}
	if a := ln.active; a != nil && !a.answered && !now.Before(a.deadline().Add(answerGrace)) {
		l.answer(a, resonate.Result{}, context.DeadlineExceeded)
	}
	for len(ln.queue) > 0 {
		j := ln.queue[0]
		switch {
		case !now.Before(j.deadline()):
			ln.queue = ln.queue[1:]
			l.answer(j, resonate.Result{}, resonate.Errorf(resonate.CodeTimeout, "the commands before it took too long; it was not carried out"))
			continue
		case ln.active != nil, j.call.volume != nil && now.Before(ln.volumeAt):
			return
		}
		ln.queue = ln.queue[1:]
		if j.call.volume != nil {
			ln.volumeAt = now.Add(volumeEvery)
			l.holdBack(name, j.call.volume, now)
		}
		l.start(ctx, name, ln, j)
	}
	if ln.active == nil && !now.Before(ln.volumeAt) {
		delete(l.lanes, name)
	}
}

// start carries out a job in a goroutine of its own, which ends with the job and
// hands its outcome to the loop; the loop takes outcomes until all have come.
func (l *loop) start(ctx context.Context, name string, ln *lane, j *job) {
	ctx, j.cancel = context.WithDeadline(ctx, j.deadline())
	j.begun, ln.active = time.Now(), j
	l.started++
	go func() {
		out := outcome{lane: name, job: j}
		if j.call.command != nil {
			out.r, out.err = l.perform(ctx, j.call)
		} else {
			out.r, out.err = l.cleanup(ctx)
		}
		l.done <- out
	}()
}

// perform carries out the commands of a call, one after the other, up to the
// first that fails.
func (l *loop) perform(ctx context.Context, c *call) (resonate.Result, error) {
	r, err := l.server.Do(ctx, c.command)
	for _, next := range c.then {
		if err != nil {
			break
		}
		var more resonate.Result
		more, err = l.server.Do(ctx, next)
		if r.Data == nil {
			r.Data = map[string]any{}
		}
		maps.Copy(r.Data, more.Data)
	}
	return r, err
}

// cleanup clears stale topics.
func (l *loop) cleanup(ctx context.Context) (resonate.Result, error) {
	cleared, err := l.o.Cleanup(ctx)
	return resonate.Result{Data: map[string]any{"cleared": list(cleared)}}, err
}

// finish takes the outcome of a job.
func (l *loop) finish(ctx context.Context, out outcome) {
	l.started--
	out.job.cancel()
	if out.err != nil {
		if sh := l.at(out.lane); sh != nil && sh.hold != nil && out.job.call.volume != nil {
			sh.hold.until = time.Time{} // nothing will be confirmed
			l.flush(sh, time.Now())
		}
	}
	l.answer(out.job, out.r, out.err)
	if pair, ok := out.job.call.command.(resonate.Pair); ok && out.err != nil {
		l.tellRefused(pair.PID, commandError(out.err))
	}
	if ln := l.lanes[out.lane]; ln != nil {
		if ln.active == out.job {
			ln.active = nil
		}
		l.pump(ctx, out.lane, ln)
	}
}

// stop waits for what was started, whose context has ended, and answers
// everything.
func (l *loop) stop() {
	for l.started > 0 {
		out := <-l.done
		l.started--
		out.job.cancel()
		l.answer(out.job, out.r, out.err)
	}
	for _, ln := range l.lanes {
		for _, j := range ln.queue {
			l.answer(j, resonate.Result{}, context.Canceled)
		}
	}
}

// local carries out what the bridge does itself. It reports false when the job
// has to wait in a lane.
func (l *loop) local(j *job) bool {
	unable := func(what string) bool {
		l.answer(j, resonate.Result{}, resonate.Errorf(resonate.CodeNotSupported, "%s: this bridge was started without a way to %s", j.call.local, what))
		return true
	}
	done := func(data map[string]any) bool {
		l.answer(j, resonate.Result{Data: data}, nil)
		return true
	}
	switch j.call.local {
	case localHealth:
		return done(l.health())
	case localOptions:
		if l.o.SetLogLevel == nil {
			return unable("change the log level")
		}
		if err := l.o.SetLogLevel(j.call.level); err != nil {
			l.answer(j, resonate.Result{}, resonate.Errorf(resonate.CodeInvalidValue, "log_level: got %s: %v", quote(j.call.level), err))
			return true
		}
		bridge := l.shown[place{kind: bridgeKind}]
		bridge.state.dirty = true
		l.flush(bridge, time.Now())
		return done(map[string]any{"log_level": j.call.level})
	case localRepublish:
		l.broker.Birth()
		return done(nil)
	case localRestart:
		if l.o.Restart == nil {
			return unable("restart it")
		}
		done(nil)
		l.o.Restart()
		return true
	case localCleanup:
		if l.o.Cleanup == nil {
			return unable("clear stale topics")
		}
	}
	return false
}

// hold keeps the volume of a device back while a slider moves: until the
// speaker confirms the newest value, or gives one that nobody asked for, or
// holdFor has passed.
type hold struct {
	until  time.Time
	target int
	stale  []int // what was true or asked for before: late echoes
	mean   bool  // of a group, whose mean passes through values that nobody asked for
}

func (h *hold) ends(volume *int) bool {
	return volume == nil || *volume == h.target || !h.mean && !slices.Contains(h.stale, *volume)
}

// volume is the volume that would be published; nil: unknown.
func (sh *shown) volume() *int {
	switch {
	case sh.kind == playerKind:
		return sh.player.Volume
	case sh.kind == groupKind && sh.group.HasVolume:
		return &sh.group.Volume
	}
	return nil
}

// holdBack begins or prolongs the hold of the device that a volume goes to.
func (l *loop) holdBack(name string, v *resonate.VolumeChange, now time.Time) {
	sh := l.at(name)
	if sh == nil {
		return
	}
	current := sh.volume()
	if current == nil {
		return
	}
	h := sh.hold
	if h == nil {
		h = &hold{target: *current, mean: sh.kind == groupKind}
	}
	h.stale = append(h.stale, h.target)
	h.until = now.Add(holdFor)
	if v.Relative {
		h.target = max(0, min(100, h.target+v.Value))
	} else {
		h.target = v.Value
	}
	if sh.kind == playerKind {
		h.target = min(h.target, sh.player.MaxVolume)
	}
	if h.target == *current {
		return // nothing will change, or a confirmation is here already
	}
	sh.hold = h
}
