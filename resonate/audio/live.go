package audio

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"
)

// How a live source that broke off is taken up again.
const (
	liveFirst    = 250 * time.Millisecond // pause after the second failure, then doubled
	liveLongest  = 8 * time.Second
	livePatience = time.Minute // without sound, then it is given up
	liveProven   = 10          // seconds of sound after which a failure is a new one
)

// live is a source without end that is opened again when it ends.
type live struct {
	open  func(context.Context) (Source, error)
	log   *slog.Logger
	life  context.Context //nolint:containedctx // that of the source, which opens others until it is closed
	end   context.CancelFunc
	rate  int
	heard int64     // frames since it was opened last
	since time.Time // of the first failure; zero: none
	pause time.Duration

	mu     sync.Mutex // guards cur, which Read replaces and Close closes
	cur    Source
	closed bool
}

func newLive(src Source, log *slog.Logger, open func(context.Context) (Source, error)) *live {
	life, end := context.WithCancel(context.Background())
	return &live{open: open, log: log, life: life, end: end, rate: src.Info().Rate, cur: src}
}

func (l *live) Info() Info { return l.source().Info() }

func (l *live) source() Source {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.cur
}

func (l *live) Read(dst []int32) (int, error) {
	for {
		n, err := l.source().Read(dst)
		if n > 0 {
			if l.heard += int64(n); l.heard >= liveProven*int64(l.rate) {
				l.since, l.pause = time.Time{}, 0
			}
			return n, nil
		}
		switch {
		case err == nil:
			return 0, nil
		case l.life.Err() != nil:
			return 0, ErrClosed
		case errors.Is(err, ErrUnsupported):
			return 0, err
		}
		if err := l.reopen(err); err != nil {
			return 0, err
		}
	}
}

// reopen opens the source again, after it ended with cause.
func (l *live) reopen(cause error) error {
	l.heard = 0
	if l.since.IsZero() {
		l.since = time.Now()
	}
	for {
		if gone := time.Since(l.since); gone > livePatience {
			return fmt.Errorf("%w: gone for %v: %w", ErrUnreachable, gone.Round(time.Second), cause)
		}
		l.log.LogAttrs(l.life, slog.LevelDebug, "live source broke off, opened again",
			slog.Duration("after", l.pause), slog.Any("err", cause))
		t := time.NewTimer(l.pause)
		select {
		case <-t.C:
		case <-l.life.Done():
			t.Stop()
			return ErrClosed
		}
		l.pause = min(max(2*l.pause, liveFirst), liveLongest)
		ctx, cancel := context.WithTimeout(l.life, livePatience)
		src, err := l.open(ctx)
		cancel()
		if err == nil {
			if same, e := Resample(src, l.rate); e == nil {
				return l.replace(same)
			}
			src.Close()
		}
		if l.life.Err() != nil {
			return ErrClosed
		}
		if cause = err; errors.Is(err, ErrRefused) || errors.Is(err, ErrUnsupported) {
			return err
		}
	}
}

func (l *live) replace(src Source) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		src.Close()
		return ErrClosed
	}
	l.cur.Close()
	l.cur = src
	return nil
}

func (*live) SeekFrame(int64) error { return ErrNotSeekable }

func (l *live) Close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return nil
	}
	l.closed = true
	l.end()
	return l.cur.Close()
}
