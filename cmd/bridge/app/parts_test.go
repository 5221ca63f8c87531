package app

import (
	"context"
	"fmt"
	"log/slog"
	"testing"
	"testing/synctest"
	"time"
)

// The parts end in the reverse order of their start, each one after the last one
// has ended (races: X4): else discovery would find speakers for a server that
// is gone, and the broker would hear nothing of the speakers' end.
func TestPartsStopInReverse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newParts(slog.New(slog.DiscardHandler))
		start := time.Now()
		var told []string
		for _, name := range []string{"broker", "server", "discovery"} {
			p.start(name, func(ctx context.Context) error {
				<-ctx.Done()
				told = append(told, fmt.Sprintf("%s at %v", name, time.Since(start)))
				time.Sleep(time.Second) // it takes a while
				return nil
			})
		}
		synctest.Wait()
		if err := p.stop(); err != nil {
			t.Errorf("stop: got %v, want nil", err)
		}
		if got, want := fmt.Sprint(told), "[discovery at 0s server at 1s broker at 2s]"; got != want {
			t.Errorf("told to stop: got %s, want %s", got, want)
		}
	})
}
