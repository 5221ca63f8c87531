package stream

import (
	"context"
	"errors"
	"io"
	"time"
)

// Info is what is known of a source. It is immutable.
type Info struct {
	Rate     int           // frames per second
	Duration time.Duration // 0: unknown or endless
	Live     bool          // comes in real time: it can't be sought, and waiting makes it fall behind
	Seekable bool
	Next     []Item // what follows it in the playlist that was opened
	Details  any    // for the caller, who made it: titles, pictures
}

// Source is PCM in stereo. One goroutine uses it.
type Source interface {
	// Info is the same pointer until something changes, for instance the title
	// of a radio programme.
	Info() *Info
	// Read fills dst with interleaved samples and returns how many frames came.
	// The error is io.EOF after the last. It may block until the context that
	// it was opened with ends.
	Read(dst []int32) (frames int, err error)
	// Seek moves to a position, and says where it really is.
	Seek(to time.Duration) (time.Duration, error)
	Close() error
}

// deckBlocks is how many blocks a deck reads ahead: about 4 s.
const deckBlocks = 40

// deck plays one item, from its opening to its end.
type deck struct {
	queue  queue // as it is when this item plays
	cancel context.CancelFunc
	out    chan piece // closed at the end
	done   chan struct{}

	// Of the engine.
	head   *piece // taken from out, not used up
	marked bool   // the beginning was put on the timeline
	over   bool   // out was closed and is empty
}

// piece is what a deck hands over: PCM, and what is known at its first sample.
type piece struct {
	pcm  []int32
	rate int
	info *Info
	at   time.Duration // position in the item
	err  error         // the deck failed here; nothing follows
}

// openDeck starts a deck. rate picks the rate of the timeline from the source's.
func (e *Engine) openDeck(q queue, from time.Duration, rate func(native int) int) *deck {
	ctx, cancel := context.WithCancel(e.ctx)
	d := &deck{queue: q, cancel: cancel, out: make(chan piece, deckBlocks), done: make(chan struct{})}
	item := q.items[q.current()]
	e.decks.Go(func() { // owner: the engine, which cancels and awaits it; blocks on the source and on out
		defer close(d.done)
		defer e.nudge()
		defer close(d.out)
		if err := e.play(ctx, d, item, from, rate); err != nil && ctx.Err() == nil {
			select {
			case d.out <- piece{err: err}:
			case <-ctx.Done():
			}
		}
	})
	return d
}

func (e *Engine) play(ctx context.Context, d *deck, item Item, from time.Duration, pick func(int) int) error {
	src, err := e.o.Open(ctx, item)
	if err != nil {
		return err
	}
	defer src.Close()
	at := time.Duration(0)
	if from > 0 {
		if at, err = src.Seek(from); err != nil {
			return err
		}
	}
	native := src.Info().Rate
	rate := pick(native)
	var conv Converter
	if rate != native {
		if conv, err = e.o.Convert(native, rate); err != nil {
			return err
		}
	}
	frames := int64(0)
	send := func(pcm []int32) bool {
		p := piece{pcm: pcm, rate: rate, info: src.Info(), at: at + time.Duration(frames*int64(time.Second)/int64(rate))}
		frames += int64(len(pcm) / Channels)
		select {
		case d.out <- p:
			e.nudge()
			return true
		case <-ctx.Done():
			return false
		}
	}
	size := ChunkFrames(native) * Channels
	for {
		buf := make([]int32, size) // it becomes part of the timeline, which keeps it
		n, err := src.Read(buf)
		buf = buf[:n*Channels]
		if conv != nil {
			buf = conv.Convert(nil, buf)
			if errors.Is(err, io.EOF) {
				buf = conv.Flush(buf)
			}
		}
		if len(buf) > 0 && !send(buf) {
			return nil
		}
		switch {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return err
		}
	}
}

// peek returns what comes next; nil if nothing is there yet or any more.
func (d *deck) peek() *piece {
	if d.head == nil && !d.over {
		select {
		case p, open := <-d.out:
			if !open {
				d.over = true
			} else {
				d.head = &p
			}
		default:
		}
	}
	return d.head
}

// take returns up to n frames of what comes next.
func (d *deck) take(n int) []int32 {
	p := d.head
	n = min(n*Channels, len(p.pcm))
	out := p.pcm[:n]
	p.pcm = p.pcm[n:]
	if len(p.pcm) == 0 {
		d.head = nil
	}
	return out
}

// close ends the deck; it is gone soon after.
func (d *deck) close() {
	if d != nil {
		d.cancel()
	}
}
