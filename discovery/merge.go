package discovery

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
)

// Merge makes one Source of several. Where two of them know the same key, the
// one that announced it first speaks for it until it withdraws it; then the
// other does. The first error of any of them ends all.
//
// A static endpoint and an advertised one of the same player have different
// keys: only the handshake can tell that they are one.
func Merge(sources ...Source) Source { return merged(sources) }

type merged []Source

// claim is what one source says about a key.
type claim struct {
	source int
	ep     Endpoint
}

// Run runs every source and passes on what they say, one event at a time.
func (m merged) Run(parent context.Context, emit func(Event)) error {
	type said struct {
		source int
		ev     Event
	}
	ctx, cancel := context.WithCancel(parent)
	defer cancel()
	var (
		heard = make(chan said) // unbuffered: each source waits its turn or for ctx
		ended = make(chan error, len(m))
		wg    sync.WaitGroup
	)
	for i, src := range m {
		// Owner: this call. Ends with ctx. Blocks only on heard or ctx.
		wg.Go(func() {
			err := src.Run(ctx, func(ev Event) {
				select {
				case heard <- said{i, ev}:
				case <-ctx.Done():
				}
			})
			if err == nil && ctx.Err() == nil {
				err = fmt.Errorf("discovery: source %d ended by itself", i)
			}
			ended <- err
		})
	}

	var errs []error
	claims := make(map[string][]claim)
loop:
	for {
		select {
		case s := <-heard:
			if ev, ok := decide(claims, s.source, s.ev); ok {
				emit(ev)
			}
		case err := <-ended:
			errs = append(errs, err)
			break loop
		case <-ctx.Done():
			break loop
		}
	}
	cancel()
	wg.Wait()
	close(ended)
	for err := range ended {
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// decide takes what a source said into claims and returns what the listener
// should hear, if anything. The first claim of a key is the one that counts.
func decide(claims map[string][]claim, source int, ev Event) (Event, bool) {
	key := ev.Endpoint.Key
	cs := claims[key]
	at := slices.IndexFunc(cs, func(c claim) bool { return c.source == source })
	if ev.Kind == Announced {
		if at < 0 {
			claims[key] = append(cs, claim{source, ev.Endpoint})
			return ev, len(cs) == 0
		}
		cs[at].ep = ev.Endpoint
		return ev, at == 0
	}
	if at < 0 {
		return ev, false
	}
	cs = slices.Delete(cs, at, at+1)
	if len(cs) == 0 {
		delete(claims, key)
		return ev, true
	}
	claims[key] = cs
	next := Event{Kind: Announced, Endpoint: cs[0].ep}
	return next, at == 0 && !same(next.Endpoint, ev.Endpoint)
}

// same reports whether nothing at all differs.
func same(a, b Endpoint) bool { return a.Equal(b) && a.Name == b.Name && a.Service == b.Service }
