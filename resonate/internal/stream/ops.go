package stream

import (
	"time"

	"resonatebridge/resonate/protocol"
)

// Play loads items and plays from the one with index start. What plays now goes
// on until the first samples are there, and altogether if there are none. reply
// is called once, from Run's goroutine, and must not block.
func (e *Engine) Play(items []Item, start int, reply func(error)) {
	e.ask(reply, func(reply func(error)) {
		if len(items) == 0 {
			reply(ErrNothing)
			return
		}
		q := newQueue(items, start, e.queue.repeat, e.queue.shuffle, e.rnd)
		e.leap(q, 0, false, func(q queue) (queue, bool) { return q.next(true) }, reply)
	})
}

// Add puts items behind the current one, or at the end of the queue.
func (e *Engine) Add(items []Item, next bool, reply func(error)) {
	e.ask(reply, func(reply func(error)) {
		if e.state == Idle {
			reply(ErrNothing)
			return
		}
		q := e.decoding()
		e.adopt(q.with(items, next))
		reply(nil)
	})
}

// Next and Previous jump in the queue. Previous restarts an item that has
// played for more than 3 s, or that has none before it.
func (e *Engine) Next(reply func(error)) {
	e.skip(func(q queue) (queue, bool) { return q.next(false) }, reply)
}

// Previous is described with Next.
func (e *Engine) Previous(reply func(error)) {
	const restartAfter = 3 * time.Second
	e.ask(reply, func(reply func(error)) {
		at, k, ok := e.heard()
		q := k.queue
		q.repeat = e.queue.repeat
		if _, more := q.previous(); ok && e.jump == nil && k.info.Seekable && (at > restartAfter || !more) {
			e.leap(k.queue, 0, e.state == Paused, none, reply)
			return
		}
		e.skipNow(func(q queue) (queue, bool) { return q.previous() }, reply)
	})
}

func (e *Engine) skip(step func(queue) (queue, bool), reply func(error)) {
	e.ask(reply, func(reply func(error)) { e.skipNow(step, reply) })
}

func (e *Engine) skipNow(step func(queue) (queue, bool), reply func(error)) {
	if e.state == Idle && e.jump == nil {
		reply(ErrNothing)
		return
	}
	base := e.queue
	if e.jump != nil { // twice in quick succession: two items on
		base = e.jump.deck.queue
	} else if _, k, ok := e.heard(); ok {
		base = k.queue
	}
	base.repeat = e.queue.repeat
	q, ok := step(base)
	if !ok {
		reply(ErrEdge)
		return
	}
	e.leap(q, 0, e.state == Paused, step, reply)
}

// Seek moves in the item that sounds.
func (e *Engine) Seek(to time.Duration, reply func(error)) {
	e.ask(reply, func(reply func(error)) {
		if _, k, ok := e.heard(); !ok {
			reply(ErrNothing)
		} else {
			e.seek(k, to, reply)
		}
	})
}

// SeekBy moves by a distance, at most to the ends of the item.
func (e *Engine) SeekBy(by time.Duration, reply func(error)) {
	e.ask(reply, func(reply func(error)) {
		at, k, ok := e.heard()
		if !ok {
			reply(ErrNothing)
			return
		}
		to := max(at+by, 0)
		if k.info.Duration > 0 {
			to = min(to, k.info.Duration)
		}
		e.seek(k, to, reply)
	})
}

func (e *Engine) seek(k mark, to time.Duration, reply func(error)) {
	if !k.info.Seekable {
		reply(ErrLive)
		return
	}
	e.leap(k.queue, to, e.state == Paused, none, reply)
}

// none is a step to nowhere.
func none(q queue) (queue, bool) { return q, false }

// leap opens something else to play; it takes over when it has samples.
func (e *Engine) leap(q queue, from time.Duration, pause bool, step func(queue) (queue, bool), reply func(error)) {
	e.leave(ErrSuperseded)
	e.jump = &jump{deck: e.openDeck(q, from, e.pick), pause: pause, until: e.o.Clock.Now() + patience, step: limit(step), reply: reply}
}

// leave gives a jump up that has not landed.
func (e *Engine) leave(why error) {
	if e.jump == nil {
		return
	}
	e.jump.deck.close()
	e.jump.reply(why)
	e.jump = nil
}

// heard is what sounds now, and where in it.
func (e *Engine) heard() (at time.Duration, k mark, ok bool) {
	if len(e.marks) == 0 || e.state == Idle {
		return 0, mark{}, false
	}
	now := e.o.Clock.Now()
	pos := e.resume
	if e.running && e.state == Playing {
		pos = e.tl.position(now)
	}
	k = e.marks[0]
	for _, m := range e.marks[1:] {
		if m.pos <= pos {
			k = m
		}
	}
	return k.at + time.Duration(max(pos-k.pos, 0)*int64(time.Second)/int64(e.tl.rate)), k, true
}

// decoding is the queue as of the item that is decoded now, with the modes that
// hold.
func (e *Engine) decoding() queue {
	q := e.queue
	switch {
	case len(e.playing) > 0:
		q = e.playing[0].queue
	case len(e.marks) > 0:
		q = e.marks[len(e.marks)-1].queue
	}
	q.repeat = e.queue.repeat
	return q
}

// adopt makes q what follows the item that is decoded now.
func (e *Engine) adopt(q queue) {
	e.queue = q
	for i := range e.marks { // what sounds has other neighbours now
		e.marks[i].queue = q.on(e.marks[i].queue.current())
	}
	if len(e.playing) == 0 {
		return
	}
	for _, d := range e.playing[1:] {
		d.close()
	}
	d := e.playing[0]
	d.queue, e.playing = q, e.playing[:1]
	if d.over {
		e.follow(d)
	}
}

// SetRepeat says what follows the end of an item.
func (e *Engine) SetRepeat(r protocol.Repeat, reply func(error)) {
	e.ask(reply, func(reply func(error)) {
		q := e.decoding()
		q.repeat = r
		e.adopt(q)
		reply(nil)
	})
}

// SetShuffle says whether the rest of the queue comes in random order.
func (e *Engine) SetShuffle(on bool, reply func(error)) {
	e.ask(reply, func(reply func(error)) {
		e.adopt(e.decoding().shuffled(on, e.rnd))
		reply(nil)
	})
}

// Pause holds the position. A live source is left, since its time goes on.
func (e *Engine) Pause(reply func(error)) {
	e.ask(reply, func(reply func(error)) {
		switch {
		case e.jump != nil:
			e.jump.pause = true
		case e.state == Idle:
			reply(ErrNothing)
			return
		}
		if e.state == Playing {
			e.pause()
		}
		reply(nil)
	})
}

func (e *Engine) pause() {
	now := e.o.Clock.Now()
	if e.running {
		e.resume = min(max(e.tl.position(now), e.tl.pos), e.front)
		for len(e.marks) > 1 && e.marks[1].pos <= e.resume {
			e.marks = e.marks[1:]
		}
	}
	var held []int32
	for _, b := range e.blocks {
		if skip := e.resume - b.pos; skip < b.frames() {
			held = append(held, b.music[max(skip, 0)*Channels:]...)
		}
	}
	held = append(append(held, e.staged...), e.held...)
	marks, decks := e.marks, e.playing
	e.halt(now)
	e.marks, e.playing, e.held = marks, decks, held
	e.state, e.front = Paused, e.resume
	if e.live() {
		for _, d := range e.playing {
			d.close()
		}
		e.playing, e.held = nil, nil
	}
}

// halt ends the stretch of the timeline that is under way. An announcement on
// it goes on, on the next one.
func (e *Engine) halt(now micros) {
	if e.voice != nil {
		e.restart(now)
		return
	}
	e.silence()
	e.marks = nil
}

// Resume goes on after a pause, or plays again what was loaded last.
func (e *Engine) Resume(reply func(error)) {
	e.ask(reply, func(reply func(error)) {
		switch {
		case e.jump != nil:
			e.jump.pause = false
			reply(nil)
		case e.state == Playing:
			reply(nil)
		case e.state == Paused && (len(e.playing) > 0 || len(e.held) > 0):
			now := e.o.Clock.Now()
			held, marks := e.held, e.marks
			e.halt(now)
			e.held, e.marks = held, marks
			e.state, e.front = Playing, e.resume
			reply(nil)
		case len(e.queue.items) > 0:
			q := e.queue
			if len(e.marks) > 0 {
				q = e.marks[0].queue
			}
			e.leap(q, 0, false, func(q queue) (queue, bool) { return q.next(true) }, reply)
		default:
			reply(ErrNothing)
		}
	})
}

// Stop ends what plays and forgets the position. The queue stays, for Resume.
func (e *Engine) Stop(reply func(error)) {
	e.ask(reply, func(reply func(error)) {
		e.leave(ErrSuperseded)
		if len(e.marks) > 0 {
			q := e.marks[0].queue
			q.repeat = e.queue.repeat
			e.queue = q
		}
		e.unload()
		if e.state != Idle {
			e.halt(e.o.Clock.Now())
		}
		e.state = Idle
		reply(nil)
	})
}

// Load sets what Resume plays, without playing it: what a group played before a
// restart.
func (e *Engine) Load(items []Item, start int, repeat protocol.Repeat, shuffle bool) {
	e.do(func() {
		if e.state == Idle && e.jump == nil {
			e.queue = newQueue(items, start, repeat, shuffle, e.rnd)
		}
	}, nil)
}

// Announce speaks over what plays, or into silence. Announcements wait for each
// other, in the order in which they came.
func (e *Engine) Announce(a Announcement) { e.do(func() { e.announce(a) }, a.Done) }

func (e *Engine) announce(a Announcement) {
	if e.voice != nil {
		e.waiting = append(e.waiting, a)
		return
	}
	e.voice = &voice{Announcement: a, start: -1}
	if e.running {
		e.placeVoice()
	}
}

// Hush gives the announcements up, the one that sounds too.
func (e *Engine) Hush() {
	e.do(func() {
		for _, a := range e.waiting {
			a.Done()
		}
		e.waiting = nil
		if e.voice == nil {
			return
		}
		now := e.o.Clock.Now()
		if e.running && e.state == Playing {
			// The music comes back with what is not on its way yet.
			v := e.voice
			v.pcm = v.pcm[:min(max(e.front-v.start, 0)*Channels, int64(len(v.pcm)))]
			return
		}
		e.spoken()
		if e.state != Playing {
			front := e.resume
			held, marks, decks := e.held, e.marks, e.playing
			e.halt(now)
			e.held, e.marks, e.playing, e.front = held, marks, decks, front
		}
	}, nil)
}

// placeVoice puts the announcement on the stretch that runs.
func (e *Engine) placeVoice() {
	v := e.voice
	if v == nil {
		return
	}
	if v.pcm == nil {
		v.pcm = v.Clip.PCM
	}
	if v.Clip.Rate != e.tl.rate {
		if conv, err := e.o.Convert(v.Clip.Rate, e.tl.rate); err != nil {
			e.check(err)
			v.pcm = []int32{}
		} else {
			v.pcm = conv.Flush(conv.Convert(make([]int32, 0, len(v.pcm)), v.pcm))
		}
		v.Clip.Rate = e.tl.rate
	}
	v.ramp = int64(v.Ramp) * int64(e.tl.rate) / second
	v.start = max(e.front, e.tl.position(v.At))
	v.down = min(v.ramp, v.start-e.front) // what is laid already stays as it is
	e.ended = false                       // there is more to come
}

// spoken ends the announcement that sounded, and begins the next.
func (e *Engine) spoken() {
	e.voice.Done()
	e.voice = nil
	if len(e.waiting) > 0 {
		next := e.waiting[0]
		e.waiting = e.waiting[1:]
		e.announce(next)
		e.nudge()
	}
}
