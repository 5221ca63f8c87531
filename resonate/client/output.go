package client

import (
	"context"
	"log/slog"
	"sync/atomic"
	"time"

	"resonatebridge/resonate/protocol"
	"resonatebridge/timesync"
)

// AudioCounts say what became of the audio chunks since the player was made:
// Received is the sum of the others and of what is buffered now.
type AudioCounts struct {
	Received  uint64
	Bytes     uint64 // audio data received
	Played    uint64 // reached their time, and the recording if there is one
	Cleared   uint64 // dropped because the server cleared or ended the stream, or went away
	Late      uint64 // wholly past when their turn came
	Overflow  uint64 // did not fit into the buffer
	Unwanted  uint64 // outside a stream, or while unavailable
	Undecoded uint64 // in a codec that this player can't decode
	Buffered  uint64 // wait for their time
}

// counters are AudioCounts as several goroutines write and read them.
type counters struct {
	received, bytes, played, cleared, late, overflow, unwanted, undecoded, buffered atomic.Uint64
}

func (c *counters) load() AudioCounts {
	return AudioCounts{
		Received: c.received.Load(), Bytes: c.bytes.Load(), Played: c.played.Load(), Cleared: c.cleared.Load(),
		Late: c.late.Load(), Overflow: c.overflow.Load(), Unwanted: c.unwanted.Load(),
		Undecoded: c.undecoded.Load(), Buffered: c.buffered.Load(),
	}
}

// output plays: it holds each chunk until its time has come on our clock, then
// hands it to the recorder. One goroutine, run, owns everything but in.
type output struct {
	in       chan any // outputStart, outputChunk, outputDrop, outputLevel
	clock    *timesync.Clock
	log      *slog.Logger
	counts   *counters
	changed  func() // tells that counts changed; must return at once
	clocked  <-chan struct{}
	capacity int // bytes

	queue []outputChunk
	held  int // bytes in queue
	model func() *timesync.Model
	gain  float64
	delay timesync.Micros
	rec   *recorder // nil: nothing is recorded
}

// outputStart begins a stream, or changes its format when one is running.
type outputStart struct {
	fresh bool
	model func() *timesync.Model
}

// outputChunk is a chunk in the format that was in force when it came.
type outputChunk struct {
	protocol.AudioChunk
	format protocol.Format
}

// outputDrop forgets what is buffered.
type outputDrop struct{}

// outputLevel sets how loud and how early to play from now on.
type outputLevel struct {
	gain  float64
	delay timesync.Micros
}

func newOutput(p *Player) *output {
	o := &output{
		in:       make(chan any, 64),
		clock:    p.opts.Clock,
		log:      p.opts.Log,
		counts:   &p.counts,
		changed:  p.touch,
		clocked:  p.clocked,
		capacity: p.opts.BufferCapacity,
		model:    func() *timesync.Model { return nil },
	}
	if p.opts.Out != nil {
		o.rec = &recorder{w: p.opts.Out, log: p.opts.Log}
	}
	return o
}

// run plays until ctx ends and returns the first error of the recording.
func (o *output) run(ctx context.Context) error {
	next := time.NewTimer(time.Hour)
	defer next.Stop()
	for {
		if wait, ok := o.play(); ok {
			next.Reset(wait)
		} else {
			next.Stop()
		}
		select {
		case <-ctx.Done():
			o.drop()
			if o.rec != nil {
				return o.rec.finish()
			}
			return nil
		case m := <-o.in:
			o.take(m)
		case <-next.C:
		case <-o.clocked: // what waits for the first model can go on
		}
	}
}

func (o *output) take(m any) {
	switch m := m.(type) {
	case outputStart:
		o.model = m.model
		if m.fresh && o.rec != nil {
			o.rec.rebase()
		}
	case outputChunk:
		size := frameSize(m.format)
		switch {
		case m.format.Codec != "pcm" || size == 0 || len(m.Data)%size != 0:
			o.counts.undecoded.Add(1)
		case o.held+len(m.Data) > o.capacity:
			o.counts.overflow.Add(1)
		default:
			o.queue = append(o.queue, m)
			o.held += len(m.Data)
			o.counts.buffered.Store(uint64(len(o.queue)))
		}
		o.changed()
	case outputDrop:
		o.drop()
	case outputLevel:
		o.gain, o.delay = m.gain, m.delay
	}
}

func (o *output) drop() {
	o.counts.cleared.Add(uint64(len(o.queue)))
	o.counts.buffered.Store(0)
	o.queue, o.held = nil, 0
	o.changed()
}

// timerLate is how late Go's timers may be in a process that has nothing else to
// do: on Linux they count whole milliseconds. Two rooms would differ by that.
const timerLate = 1500 * time.Microsecond

// play takes what is due off the queue and returns the time until the next
// chunk is, if that can be told.
func (o *output) play() (wait time.Duration, ok bool) {
	m := o.model()
	if m == nil {
		return 0, false
	}
	for len(o.queue) > 0 {
		c := o.queue[0]
		due, now := m.Client(c.Timestamp)-o.delay, o.clock.Now()
		if due > now {
			wait := time.Duration(due-now) * time.Microsecond
			if wait > timerLate {
				return wait - timerLate, true
			}
			nap(min(wait, timerLate/10))
			if o.clock.Now() == now { // time is virtual, and its timers are exact
				return wait, true
			}
			continue
		}
		o.queue[0] = outputChunk{}
		o.queue = o.queue[1:]
		o.held -= len(c.Data)
		if due+duration(c.format, len(c.Data)) < now {
			o.counts.late.Add(1)
		} else {
			o.record(c)
			o.counts.played.Add(1)
		}
		o.counts.buffered.Store(uint64(len(o.queue)))
		o.changed()
	}
	return 0, false
}

func (o *output) record(c outputChunk) {
	if o.rec == nil || o.rec.err != nil {
		return
	}
	gain(c.Data, c.format.BitDepth, o.gain)
	if !o.rec.write(c.format, c.Timestamp, c.Data) {
		o.log.Error("recording failed, audio is no longer written", slog.Any("err", o.rec.err))
	}
}

// frameSize is the bytes of one PCM frame, 0 if the format makes no sense.
func frameSize(f protocol.Format) int {
	switch f.BitDepth {
	case 16, 24, 32:
		return max(0, f.Channels) * f.BitDepth / 8
	}
	return 0
}

// duration is how long so many bytes of PCM sound.
func duration(f protocol.Format, size int) timesync.Micros {
	return timesync.Micros(int64(size/frameSize(f)) * second / int64(max(1, f.SampleRate)))
}
