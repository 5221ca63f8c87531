package stream

import (
	"context"
	"errors"
	"log/slog"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"resonatebridge/resonate/protocol"
	"resonatebridge/timesync"
)

// spare is how much more than the send-ahead is on its way to the players. The
// protocol would like full buffers; this much outlasts a hiccup of the network
// and lets an announcement come in softly, without clearing what was sent,
// while the doorbell still matters.
const spare = 1500 * 1000 // micros

// burst is how much of spare may be missing before it is made, all at once: each
// time costs every player a wake-up and a packet.
const burst = 500 * 1000 // micros

// slack is added to the lead of what begins: chunks for the last of many
// members leave a little after those for the first.
const slack = 100 * 1000 // micros

// patience is how long the first samples of something new are awaited; callers
// want an answer within 10 s (design: 4.5, play_url).
const patience = 9 * second

// Ends of what was asked for.
var (
	ErrClosed     = errors.New("stream: the group has stopped playing")
	ErrSuperseded = errors.New("stream: something else was asked for meanwhile")
	ErrNothing    = errors.New("stream: nothing is loaded")
	ErrLive       = errors.New("stream: a live source can't be sought")
	ErrEdge       = errors.New("stream: the queue has no such item")
	ErrTimeout    = errors.New("stream: no audio came in time")
	ErrEmpty      = errors.New("stream: it holds no audio")
)

// Options are the parts of an engine; all but Count and Log are required.
type Options struct {
	Clock *timesync.Clock
	// Open opens an item. It may block until ctx ends, which also is what frees
	// a Read that waits.
	Open func(ctx context.Context, i Item) (Source, error)
	// Convert makes a converter between two sample rates.
	Convert func(from, to int) (Converter, error)
	// Encode makes an encoder for a player's format, with so many frames in a packet
	// if the codec leaves the choice.
	Encode func(f protocol.Format, frames int) (Encoder, error)
	// Changed is told that Status is new. It must not block.
	Changed func()
	// Count is told how many packets were encoded and how many chunks were missed
	// since its last call; it must not block. nil: nobody counts.
	Count func(encoded, missed uint64)
	Log   *slog.Logger
}

// State is what a group does.
type State uint8

// The states.
const (
	Idle State = iota // nothing is loaded
	Playing
	Paused
)

// Status is one immutable view of an engine.
type Status struct {
	State   State
	Loading bool // the first samples of something else are awaited
	Items   []Item
	Current int   // index of the item that sounds; -1: none
	Info    *Info // of it; nil: none
	// Position in the item at server time At; it advances while Playing.
	Position time.Duration
	At       timesync.Micros
	Repeat   protocol.Repeat
	Shuffle  bool
	Next     bool    // Next has somewhere to go
	Previous bool    // likewise
	Speaking bool    // an announcement is on the timeline
	Coming   *Coming // what sounds next; nil while that is not on the timeline

	Err     error  // why the last item that failed did; nil once another one plays
	Encoded uint64 // packets that were encoded
	Missed  uint64 // chunks that were too late for a member
}

// Coming is what follows on the timeline: another item, or something new about
// this one.
type Coming struct {
	Item     Item
	Info     *Info
	Position time.Duration   // in the item, where it begins
	At       timesync.Micros // server time at which it begins to sound
}

// Engine plays to one group. Its methods are safe for concurrent use and never
// wait; what they ask for is done in order by Run.
type Engine struct {
	o   Options
	log *slog.Logger
	ctx context.Context //nolint:containedctx // the life of Run, which every deck ends with

	mu     sync.Mutex // guards ops and closed
	ops    []op
	closed bool
	wake   chan struct{} // one-slot
	status atomic.Pointer[Status]
	rates  atomic.Pointer[[]int] // of the members' formats, for decks
	decks  sync.WaitGroup

	// Of Run.
	rnd     *rand.Rand
	members []*member
	viewers []*viewer
	scope   *scope // looks at what plays for the viewers; nil: there are none
	queue   queue
	state   State
	err     error
	encoded uint64
	missed  uint64 // of members that left

	playing []*deck  // what is decoded: the item on the timeline, and the one after it
	jump    *jump    // what takes over once it has samples
	held    []int32  // what a pause kept, not heard yet
	staged  []int32  // less than a block
	blocks  []block  // on the timeline and not yet heard
	marks   []mark   // which item begins where
	tl      timeline // valid if running
	front   int64    // position after the last block
	resume  int64    // Paused: the position that was heard last
	running bool     // the timeline goes on
	fresh   bool     // but nothing is on this stretch of it: when it begins is open
	ended   bool     // everything is on the timeline
	voice   *voice   // the announcement on the timeline
	answers []func() // to what was asked since the last status
	waiting []Announcement
	outputs []*rendition
}

// block is a piece of the timeline.
type block struct {
	pos   int64
	music []int32
	mixed []int32 // music with the announcement; the same where there is none
}

// mark says what sounds from a position on.
type mark struct {
	pos   int64
	queue queue
	info  *Info
	at    time.Duration // position in the item
}

// jump is something else to play that waits for its first samples.
type jump struct {
	deck   *deck
	pause  bool // do not play, only be there
	until  micros
	step   func(queue) (queue, bool)
	reply  func(error)
	failed error
}

// New makes an engine. It starts nothing.
func New(o Options) *Engine {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	e := &Engine{
		o: o, log: o.Log, wake: make(chan struct{}, 1),
		rnd:   rand.New(rand.NewPCG(rand.Uint64(), rand.Uint64())),
		queue: queue{repeat: protocol.RepeatOff},
	}
	e.rates.Store(new([]int))
	e.publish(o.Clock.Now())
	return e
}

// Status is the newest view. It never blocks.
func (e *Engine) Status() *Status { return e.status.Load() }

// Run plays until ctx ends, then ends the members' streams. Nothing is left
// running.
func (e *Engine) Run(ctx context.Context) error {
	e.ctx = ctx
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		wake := e.step()
		timer.Stop()
		if wake > 0 {
			timer.Reset(time.Duration(max(wake-e.o.Clock.Now(), 0)) * time.Microsecond)
		}
		select {
		case <-e.wake:
		case <-timer.C:
		case <-ctx.Done():
			e.stop()
			return nil
		}
	}
}

// stop ends what is under way.
func (e *Engine) stop() {
	e.mu.Lock()
	e.closed = true
	ops := e.ops
	e.ops = nil
	e.mu.Unlock()
	for _, o := range ops {
		if o.refuse != nil {
			o.refuse()
		}
	}
	e.leave(ErrClosed)
	for _, a := range e.waiting {
		a.Done()
	}
	if e.voice != nil {
		e.voice.Done()
	}
	e.waiting, e.voice = nil, nil
	e.silence()
	e.unload()
	e.state = Idle
	e.decks.Wait()
	e.publish(e.o.Clock.Now())
}

// op is something for Run to do.
type op struct {
	do     func()
	refuse func() // instead, when Run has ended; may be nil
}

// do leaves an operation for Run.
func (e *Engine) do(do, refuse func()) {
	e.mu.Lock()
	closed := e.closed
	if !closed {
		e.ops = append(e.ops, op{do, refuse})
	}
	e.mu.Unlock()
	if !closed {
		e.nudge()
	} else if refuse != nil {
		refuse()
	}
}

// ask is do for what is answered, as soon as the status shows what came of it.
func (e *Engine) ask(reply func(error), do func(reply func(error))) {
	e.do(func() {
		do(func(err error) { e.answers = append(e.answers, func() { reply(err) }) })
	}, func() { reply(ErrClosed) })
}

func (e *Engine) nudge() {
	select {
	case e.wake <- struct{}{}:
	default:
	}
}

// step does everything that can be done now and says when to come back, 0 for
// only when woken.
func (e *Engine) step() (wake micros) {
	e.mu.Lock()
	ops := e.ops
	e.ops = nil
	e.mu.Unlock()
	for _, o := range ops {
		o.do()
	}
	now := e.o.Clock.Now()
	e.land(now)
	wake = e.produce(now)
	for _, m := range e.members {
		if at := m.push(now); at > 0 && (wake == 0 || at < wake) {
			wake = at
		}
	}
	if at := e.watch(now); at > 0 && (wake == 0 || at < wake) {
		wake = at
	}
	if at := e.finish(now); at > 0 && (wake == 0 || at < wake) {
		wake = at
	}
	if e.jump != nil && (wake == 0 || e.jump.until < wake) {
		wake = e.jump.until
	}
	e.tidy(now)
	if k, at := e.coming(); k != nil && (wake == 0 || at < wake) {
		wake = at
	}
	e.publish(now)
	return wake
}

// --- the timeline ---

// land lets a jump take over once it has samples.
func (e *Engine) land(now micros) {
	j := e.jump
	if j == nil {
		return
	}
	p := j.deck.peek()
	switch {
	case p == nil && !j.deck.over && now < j.until:
		return
	case p == nil && !j.deck.over:
		e.leave(ErrTimeout)
		return
	case p == nil || p.err != nil:
		err := ErrEmpty
		if p != nil {
			err = p.err
		}
		e.fail(j.deck, err)
		j.deck.close()
		if j.failed == nil {
			j.failed = err
		}
		if q, ok := j.step(j.deck.queue); ok && q.current() != j.deck.queue.current() {
			j.deck = e.openDeck(q, 0, e.pick)
			j.step = limit(j.step)
			return
		}
		e.jump = nil
		j.reply(j.failed)
		return
	}
	e.jump = nil
	e.unload()
	e.queue = j.deck.queue
	e.restart(now)
	e.playing = []*deck{j.deck}
	e.err, e.state = nil, Playing
	if j.pause {
		e.state, e.front, e.resume = Paused, 0, 0
		e.tl = timeline{rate: p.rate}
		e.note(j.deck, p)
	}
	j.reply(nil)
}

// limit lets a jump skip items that fail, but only so many.
func limit(step func(queue) (queue, bool)) func(queue) (queue, bool) {
	n := 0
	return func(q queue) (queue, bool) {
		if n++; n > len(q.items) {
			return q, false
		}
		return step(q)
	}
}

// pick chooses the rate of a timeline: the source's own if a member can have
// that, so that its samples stay as they are; else that of the first member.
func (e *Engine) pick(native int) int {
	rates := *e.rates.Load()
	if len(rates) == 0 || slices.Contains(rates, native) {
		return native
	}
	return rates[0]
}

// restart drops what is on its way to the players; what comes next starts a new
// stretch of the timeline, with the full lead.
func (e *Engine) restart(now micros) {
	if v := e.voice; v != nil && e.running {
		// It goes on where it was heard last, on the new stretch.
		if heard := e.tl.position(now) - v.start; heard > 0 {
			skip := min(heard*Channels, int64(len(v.pcm)))
			v.pcm = v.pcm[skip:]
		} else {
			v.At = e.tl.time(v.start)
		}
		v.start = -1
	}
	for _, m := range e.members {
		m.clear()
	}
	for _, v := range e.viewers {
		v.clear()
	}
	e.scope = nil
	e.outputs, e.blocks, e.staged, e.held, e.marks = nil, nil, nil, nil, nil
	e.running, e.ended = false, false
}

// begin starts a stretch at position pos.
func (e *Engine) begin(now micros, rate int, pos int64) {
	e.tl, e.front, e.running, e.fresh = timeline{rate: rate, pos: pos}, pos, true, true
	e.date(now)
}

// date sets when a fresh stretch begins: as early as the members allow. What takes
// its time to the first whole block is dated once more when that is there, for
// it shall have all of its lead.
func (e *Engine) date(now micros) {
	e.tl.at = now + e.ahead() + slack
	if v := e.voice; v != nil && e.state != Playing {
		e.tl.at = max(e.tl.at, v.At)
	}
	e.placeVoice()
}

// ahead is the group's send-ahead.
func (e *Engine) ahead() (ahead micros) {
	live := e.live()
	for _, m := range e.members {
		ahead = max(ahead, m.ahead(live))
	}
	return ahead
}

// live reports whether what is put on the timeline comes in real time.
func (e *Engine) live() bool {
	if n := len(e.marks); n > 0 {
		return e.marks[n-1].info.Live
	}
	if len(e.playing) > 0 {
		if p := e.playing[0].peek(); p != nil && p.info != nil {
			return p.info.Live
		}
	}
	return false
}

// produce puts as much on the timeline as is there and wanted.
func (e *Engine) produce(now micros) (wake micros) {
	for making := false; ; making = true {
		if !e.running && !e.ready() {
			return 0
		}
		if !e.running {
			e.begin(now, e.nextRate(), e.resumeAt())
		}
		full := e.ahead() + spare
		if left := e.tl.time(e.front) - now; left >= full || !making && left >= full-burst {
			return now + left - full + burst + 1
		}
		size := ChunkFrames(e.tl.rate)
		music, whole := e.music(size)
		if !whole {
			return 0 // a deck wakes us
		}
		if len(music) == 0 {
			if !e.ended {
				e.ended = true
				for _, r := range e.outputs {
					e.check(r.flush())
				}
			}
			return 0
		}
		late := now + e.ahead() + slack - e.tl.time(e.front)
		switch v := e.voice; {
		case e.fresh:
			e.date(now)
		case late > 0 && e.state != Playing && v != nil && v.start >= e.front:
			e.delay(late) // nobody misses the silence before its first word
			e.placeVoice()
		case late > 0 && e.tl.time(e.front) < now+e.floor():
			e.delay(late)
		}
		e.lay(now, music)
	}
}

// floor is how close the front may come before the stream is moved on: the
// source has stalled, and what follows must have its lead again.
func (e *Engine) floor() micros { return min(e.ahead(), 50_000) }

// delay moves everything that is not on the timeline yet. Nothing is lost; the
// players are silent meanwhile.
func (e *Engine) delay(by micros) {
	if e.state == Playing { // else it is a pause between two announcements
		e.log.Info("the source stalled, playing on later", slog.Duration("by", time.Duration(by)*time.Microsecond))
	}
	e.tl = timeline{rate: e.tl.rate, pos: e.front, at: e.tl.time(e.front) + by}
	for _, r := range e.outputs {
		r.tl = timeline{rate: r.tl.rate, pos: r.next, at: r.tl.time(r.next) + by}
	}
}

// ready reports whether something could be put on the timeline.
func (e *Engine) ready() bool {
	if e.voice != nil {
		return true
	}
	return e.state == Playing && (len(e.held) > 0 || len(e.playing) > 0 && (e.playing[0].peek() != nil || e.playing[0].over))
}

// nextRate is the rate of the stretch that begins.
func (e *Engine) nextRate() int {
	if e.tl.rate != 0 && (len(e.held) > 0 || e.state == Paused) {
		return e.tl.rate
	}
	if e.state == Playing && len(e.playing) > 0 {
		if p := e.playing[0].peek(); p != nil && p.err == nil {
			return p.rate
		}
	}
	return e.pick(e.voice.Clip.Rate)
}

// resumeAt is the position of the first frame of the stretch that begins.
func (e *Engine) resumeAt() int64 {
	if len(e.held) > 0 || e.state == Paused {
		return e.resume
	}
	return 0
}

// music returns the next frames, at most n, and less only where everything
// ends. whole is false if they are not there yet.
func (e *Engine) music(n int) (pcm []int32, whole bool) {
	for e.state == Playing && len(e.staged) < n*Channels {
		if len(e.held) > 0 {
			k := min(n*Channels-len(e.staged), len(e.held))
			e.staged = append(e.staged, e.held[:k]...)
			e.held = e.held[k:]
			continue
		}
		if len(e.playing) == 0 {
			break // the last block, which may be short
		}
		d := e.playing[0]
		p := d.peek()
		switch {
		case p == nil && !d.over:
			return nil, false
		case p == nil || p.err != nil: // it ended, or failed half-way
			if p != nil {
				e.fail(d, p.err)
				e.playing = e.playing[1:]
				d.close()
			} else {
				e.playing = e.playing[1:]
			}
			if len(e.playing) == 0 {
				e.follow(d)
			}
			continue
		}
		e.note(d, p)
		e.staged = append(e.staged, d.take(n-len(e.staged)/Channels)...)
		if len(e.playing) == 1 && d.over {
			e.follow(d)
		}
	}
	pcm, e.staged = e.staged, nil
	if rest := n*Channels - len(pcm); rest > 0 && e.voice != nil && !e.voice.over(e.front) {
		pcm = append(pcm, make([]int32, rest)...) // silence, for somebody speaks
	}
	return pcm, true
}

// follow opens what comes after d, as soon as d has read everything.
func (e *Engine) follow(d *deck) {
	q, ok := e.after(d)
	if !ok {
		return
	}
	rate := e.tl.rate
	e.playing = append(e.playing, e.openDeck(q, 0, func(int) int { return rate }))
}

// after is the queue after d's item; the modes are those that hold now.
func (e *Engine) after(d *deck) (queue, bool) {
	q := d.queue
	q.repeat = e.queue.repeat
	if !d.marked && q.repeat == protocol.RepeatOne {
		return q, false // it gave nothing: not again and again
	}
	return q.next(true)
}

// note marks where an item begins, and where what is known of it changes.
func (e *Engine) note(d *deck, p *piece) {
	if d.marked && len(e.marks) > 0 && e.marks[len(e.marks)-1].info == p.info {
		return
	}
	if q, more := d.queue.expand(p.info.Next); more && !d.marked {
		e.adopt(q)
	}
	d.marked = true
	e.marks = append(e.marks, mark{pos: e.front + int64(len(e.staged)/Channels), queue: d.queue, info: p.info, at: p.at})
}

// fail notes why an item gave up.
func (e *Engine) fail(d *deck, err error) {
	e.err = err
	e.log.Warn("media failed", slog.Int("item", d.queue.current()), slog.Any("err", err))
}

// lay puts a block on the timeline and through every format.
func (e *Engine) lay(now micros, music []int32) {
	b := block{pos: e.front, music: music, mixed: music}
	if e.voice != nil {
		b.mixed = e.voice.mix(music, b.pos)
	}
	e.arrange(now)
	e.fresh = false
	e.blocks = append(e.blocks, b)
	e.front += b.frames()
	for _, r := range e.outputs {
		e.check(r.feed(b.of(r.mode)))
	}
}

func (b block) frames() int64 { return int64(len(b.music) / Channels) }

func (b block) of(m mode) []int32 {
	if m.mixed {
		return b.mixed
	}
	return b.music
}

func (e *Engine) check(err error) {
	if err != nil { // our own fault, and never seen: an encoder takes every sample
		e.log.Error("not encoded", slog.Any("err", err))
	}
}

// PositionAt is the position at server time now.
func (s *Status) PositionAt(now timesync.Micros) time.Duration {
	if s.State != Playing || s.Info == nil {
		return s.Position
	}
	return s.Position + time.Duration(max(now-s.At, 0))*time.Microsecond
}

// --- members ---

// SetPlayers says who is in the group, in what state. It may be called as often
// as anything about them changes.
func (e *Engine) SetPlayers(players []Player) {
	e.do(func() {
		var members []*member
		var rates []int
		for _, p := range players {
			if len(p.Formats) == 0 {
				continue
			}
			m := e.take(p)
			members = append(members, m)
			rates = append(rates, p.Formats[0].SampleRate)
		}
		for _, left := range e.members {
			left.end()
			e.missed += left.missed
		}
		e.members = members
		e.rates.Store(&rates)
		if e.running && !e.fresh {
			e.arrange(e.o.Clock.Now())
		}
	}, nil)
}

// take finds the member of p and brings it up to date, or makes it.
func (e *Engine) take(p Player) *member {
	for i, m := range e.members {
		if m.ID != p.ID {
			continue
		}
		e.members = slices.Delete(e.members, i, i+1)
		if m.Sink != p.Sink { // another session: it knows nothing yet
			e.missed += m.missed
			return &member{Player: p, taken: p.Sink.Written()}
		}
		m.Player = p
		return m
	}
	return &member{Player: p, taken: p.Sink.Written()}
}

// want is the mode that m should hear.
func (e *Engine) want(m *member) mode {
	return mode{format: m.Formats[0], frames: m.chunkFrames(), gain: m.Gain, mixed: e.voice != nil && e.voice.Players[m.ID]}
}

// arrange gives every member the rendition that it should hear.
func (e *Engine) arrange(now micros) {
	for _, m := range e.members {
		want := e.want(m)
		switch {
		case m.r == nil:
			e.join(now, m, want)
		case m.r.mode == want, m.then != nil && m.then.mode == want:
		case m.stream == nil: // it has got nothing yet
			e.join(now, m, want)
		default:
			e.change(m, want)
		}
	}
	e.outputs = slices.DeleteFunc(e.outputs, func(r *rendition) bool {
		return !slices.ContainsFunc(e.members, func(m *member) bool { return m.r == r || m.then == r })
	})
}

// join starts m at the first chunk that its send-ahead allows, also if that is
// yet to be made.
func (e *Engine) join(now micros, m *member, want mode) {
	first := now + m.ahead(e.live()) + slack
	for _, r := range e.outputs {
		if r.mode == want {
			m.r, m.next = r, r.from(first)
			return
		}
	}
	pos := e.front
	if i := slices.IndexFunc(e.blocks, func(b block) bool { return e.tl.time(b.pos) >= first }); i >= 0 {
		pos = e.blocks[i].pos
	}
	for e.tl.time(pos) < first {
		pos += int64(ChunkFrames(e.tl.rate))
	}
	r, err := e.rendition(want, e.tl.time(pos))
	if err != nil {
		e.check(err)
		return
	}
	e.enter(r, pos)
	m.r, m.next = r, r.first
}

// enter adds a rendition that takes the timeline from pos on; it gets at once what
// is there of that.
func (e *Engine) enter(r *rendition, pos int64) {
	begin := e.front
	if len(e.blocks) > 0 {
		begin = e.blocks[0].pos
	}
	r.skip = int(max(pos-begin, 0))
	for _, b := range e.blocks {
		e.check(r.feed(b.of(r.mode)))
	}
	if e.ended {
		e.check(r.flush())
	}
	e.outputs = append(e.outputs, r)
}

// change moves m to another rendition without a gap or an overlap.
func (e *Engine) change(m *member, want mode) {
	if m.then != nil {
		return // one change at a time; the next block asks again
	}
	if want.format == m.r.format {
		at := m.r.when(m.next)
		for _, r := range e.outputs {
			if n := r.from(at); r.mode == want && r.when(n) == at && len(r.pending) == len(m.r.pending) {
				m.r, m.next = r, n
				return
			}
		}
		enc, err := e.o.Encode(want.format, want.frames)
		if err != nil {
			e.check(err)
			return
		}
		m.r = m.r.fork(want, enc)
		e.outputs = append(e.outputs, m.r)
		return
	}
	// The new format begins where the next chunk of the old one would.
	at := m.r.when(m.r.end())
	r, err := e.rendition(want, at)
	if err != nil {
		e.check(err)
		return
	}
	if lag := r.enc.Delay(); lag > 0 { // what the decoder says first is no sound of ours
		r.tl.at += micros(lag) * second / micros(r.tl.rate)
	}
	e.enter(r, e.tl.position(r.tl.at))
	m.then, m.until = r, m.r.end()
}

// rendition makes one whose first frame sounds at a time.
func (e *Engine) rendition(m mode, at micros) (*rendition, error) {
	enc, err := e.o.Encode(m.format, m.frames)
	if err != nil {
		return nil, err
	}
	r := &rendition{
		mode: m, enc: enc, header: enc.Header(), tl: timeline{rate: m.format.SampleRate, at: at},
		size: enc.Frames(), encoded: func() { e.encoded++ },
	}
	r.turn.Set(m.gain)
	if r.size == 0 {
		r.size = m.frames
	}
	if m.format.SampleRate != e.tl.rate {
		if r.conv, err = e.o.Convert(e.tl.rate, m.format.SampleRate); err != nil {
			return nil, err
		}
	}
	return r, nil
}

// --- ends ---

// finish ends what has sounded: the announcement, and everything.
func (e *Engine) finish(now micros) (wake micros) {
	if v := e.voice; v != nil && e.running {
		if end := e.tl.time(v.end() + v.ramp); end > now {
			wake = end
		} else {
			e.spoken()
		}
	}
	if !e.ended || e.voice != nil {
		return wake
	}
	end := e.tl.time(e.front)
	for _, m := range e.members {
		end = max(end, e.tl.time(e.front)+m.delay())
	}
	if end > now {
		return end
	}
	e.silence()
	if e.state == Playing { // else it only was interrupted to speak
		e.unload()
		e.state = Idle
	}
	return 0
}

// unload forgets what was loaded.
func (e *Engine) unload() {
	for _, d := range e.playing {
		d.close()
	}
	e.playing, e.held, e.staged, e.marks = nil, nil, nil, nil
}

// silence ends the streams of all members at once.
func (e *Engine) silence() {
	for _, m := range e.members {
		m.end()
	}
	for _, v := range e.viewers {
		v.end()
	}
	e.scope = nil
	e.outputs, e.blocks, e.staged = nil, nil, nil
	e.running, e.ended = false, false
}

// tidy forgets what has sounded.
func (e *Engine) tidy(now micros) {
	n := 0
	for n < len(e.blocks) && e.running && e.tl.time(e.blocks[n].pos+e.blocks[n].frames()) <= now {
		n++
	}
	clear(e.blocks[:n])
	e.blocks = e.blocks[n:]
	for _, r := range e.outputs {
		keep := r.end()
		for _, m := range e.members {
			switch r {
			case m.r:
				keep = min(keep, m.next)
			case m.then:
				keep = r.first
			}
		}
		r.forget(now, max(keep, r.from(now)))
	}
	if e.running {
		for len(e.marks) > 1 && e.tl.time(e.marks[1].pos) <= now {
			e.marks = e.marks[1:]
		}
	}
}

// coming is the mark after the one that sounds, and its time; nil: none.
func (e *Engine) coming() (k *mark, at micros) {
	if !e.running || e.state != Playing || len(e.marks) < 2 {
		return nil, 0
	}
	return &e.marks[1], e.tl.time(e.marks[1].pos)
}

// publish stores what is true now.
func (e *Engine) publish(now micros) {
	st := &Status{
		State: e.state, Loading: e.jump != nil, Current: -1, At: now,
		Repeat: e.queue.repeat, Shuffle: e.queue.shuffle, Speaking: e.voice != nil,
		Err: e.err, Encoded: e.encoded, Missed: e.missed,
	}
	for _, m := range e.members {
		st.Missed += m.missed
	}
	if e.state != Idle {
		st.Items, st.Current = e.queue.items, e.queue.current()
		if k, at := e.coming(); k != nil {
			st.Coming = &Coming{Item: k.queue.items[k.queue.current()], Info: k.info, Position: k.at, At: at}
		}
		if len(e.marks) > 0 {
			k := e.marks[0]
			st.Current, st.Info, st.Position = k.queue.current(), k.info, k.at
			q := k.queue
			q.repeat = e.queue.repeat
			_, st.Next = q.next(false)
			_, st.Previous = q.previous()
			st.Previous = st.Previous || k.info.Seekable
			if e.running && e.state == Playing {
				st.At = max(now, e.tl.at) // until then it stands
				st.Position += time.Duration(max(st.At-e.tl.time(k.pos), 0)) * time.Microsecond
			} else if e.state == Paused {
				st.Position += time.Duration(max(e.resume-k.pos, 0) * int64(time.Second) / int64(e.tl.rate))
			}
		}
	}
	old := e.status.Swap(st)
	if e.o.Count != nil && old != nil && (st.Encoded != old.Encoded || st.Missed != old.Missed) {
		e.o.Count(st.Encoded-old.Encoded, st.Missed-old.Missed)
	}
	if e.o.Changed != nil && (old == nil || st.Differs(old) || st.Coming.Differs(old.Coming)) {
		e.o.Changed()
	}
	for _, answer := range e.answers {
		answer()
	}
	e.answers = nil
}

// Differs reports whether there is something to tell since b: not that time
// went by, nor what comes.
func (s *Status) Differs(b *Status) bool {
	a := s
	drift := b.Position - a.Position
	if a.State == Playing && b.State == Playing {
		drift -= time.Duration(b.At-a.At) * time.Microsecond
	}
	return a.State != b.State || a.Loading != b.Loading || a.Current != b.Current || a.Info != b.Info ||
		a.Repeat != b.Repeat || a.Shuffle != b.Shuffle || a.Next != b.Next || a.Previous != b.Previous || a.Speaking != b.Speaking || a.Err != b.Err || //nolint:errorlint // another value is news
		len(a.Items) != len(b.Items) || drift.Abs() > 100*time.Millisecond
}

// Differs reports whether something else comes, or at another time.
func (c *Coming) Differs(o *Coming) bool {
	if c == nil || o == nil {
		return c != o
	}
	return c.Info != o.Info || c.At != o.At
}
