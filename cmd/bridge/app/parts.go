package app

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"
)

// parts are the running parts of a process, stopped in reverse order of their
// start, each one waited for before the next is told to stop.
type parts struct {
	log     *slog.Logger
	running []part
	failed  chan error // what the first part that ended by itself said
}

type part struct {
	name string
	stop context.CancelFunc
	done chan struct{} // closed when it has ended
	err  *error        // valid after done
}

func newParts(log *slog.Logger) *parts { return &parts{log: log, failed: make(chan error, 1)} }

// start runs a part until stop. A part that ends by itself ends the process.
func (p *parts) start(name string, run func(context.Context) error) {
	ctx, cancel := context.WithCancel(context.Background())
	x := part{name: name, stop: cancel, done: make(chan struct{}), err: new(error)}
	p.running = append(p.running, x)
	go func() { // owner: p; waited for in stop
		defer close(x.done)
		*x.err = run(ctx)
		if ctx.Err() != nil {
			return
		}
		err := *x.err
		if err == nil {
			err = errors.New("ended unexpectedly")
		}
		select {
		case p.failed <- fmt.Errorf("%s: %w", name, err):
			*x.err = nil // wait tells it
		default: // the first one ends the process, stop tells of this one
		}
	}()
}

// wait returns nil when ctx ends, else why a part ended by itself.
func (p *parts) wait(ctx context.Context) error {
	select {
	case err := <-p.failed:
		return err
	case <-ctx.Done():
		return nil
	}
}

// stop ends every part.
func (p *parts) stop() error {
	var errs []error
	for i := len(p.running) - 1; i >= 0; i-- {
		x, began := p.running[i], time.Now()
		x.stop()
		<-x.done
		p.log.Debug("part stopped", slog.String("part", x.name), slog.Duration("took", time.Since(began)))
		if *x.err != nil && !errors.Is(*x.err, context.Canceled) {
			errs = append(errs, fmt.Errorf("%s: %w", x.name, *x.err))
		}
	}
	p.running = nil
	return errors.Join(errs...)
}
