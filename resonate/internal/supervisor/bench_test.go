package supervisor

import (
	"context"
	"fmt"
	"sync/atomic"
	"testing"
	"time"
)

// still is a session that comes up at once and ends when told.
type still struct {
	id   string
	open *atomic.Int64
	done chan struct{}
	dead atomic.Bool
	ran  atomic.Bool
}

func (s *still) ID() string { return s.id }

func (s *still) Run(ctx context.Context, up func()) error {
	s.ran.Store(true)
	defer s.open.Add(-1)
	up()
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-s.done:
		return errPeer
	}
}

func (s *still) Probe(context.Context) error { return nil }

func (s *still) Kill(error) {
	if !s.dead.Swap(true) {
		close(s.done)
		if !s.ran.Load() { // the map never kills and runs at the same time
			s.open.Add(-1)
		}
	}
}

// newStill is a map of sessions that cost nothing, so that the benchmarks
// measure the map. Floors and rates are out of the way.
func newStill(b *testing.B, notify func(Status[*still])) (m *Map[string, *still], peak *atomic.Int64) {
	b.Helper()
	var open atomic.Int64
	peak = new(atomic.Int64)
	m = New(Options[string, *still]{
		Equal: func(a, b string) bool { return a == b },
		Dial: func(_ context.Context, a Attempt[string]) (*still, error) {
			if n := open.Add(1); n > peak.Load() {
				peak.Store(n)
			}
			return &still{id: a.Endpoints[0], open: &open, done: make(chan struct{})}, nil
		},
		Notify: notify,
		Floor:  -1, DialRate: 1e9, DialBurst: 1 << 30,
	})
	b.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		if err := m.Close(ctx); err != nil {
			b.Error(err)
		}
		if n := open.Load(); n != 0 {
			b.Errorf("sessions left: got %d, want 0", n)
		}
	})
	return m, peak
}

// BenchmarkFlap is one Remove and Ensure of one key, waited for until it is up
// again: the whole life of a connection without its network.
func BenchmarkFlap(b *testing.B) {
	up := make(chan struct{}, 1)
	m, peak := newStill(b, func(st Status[*still]) {
		if st.State == Up {
			up <- struct{}{}
		}
	})
	if _, err := m.Ensure("k", "a"); err != nil {
		b.Fatal(err)
	}
	<-up
	b.ReportAllocs()
	for b.Loop() {
		m.Remove("k")
		if _, err := m.Ensure("k", "a"); err != nil {
			b.Fatal(err)
		}
		<-up
	}
	if got := peak.Load(); got != 1 {
		b.Errorf("peak: got %d sessions, want 1", got)
	}
}

// BenchmarkChurn is Ensure and Remove of many keys from all processors, never
// waited for: a storm of discovery events.
func BenchmarkChurn(b *testing.B) {
	for _, keys := range []int{1, 200} {
		b.Run(fmt.Sprintf("keys=%d", keys), func(b *testing.B) {
			m, peak := newStill(b, nil)
			var next atomic.Int64
			b.ReportAllocs()
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					n := int(next.Add(1))
					key := Key(fmt.Sprint("k", n%keys))
					if n/keys%2 == 0 {
						_, _ = m.Ensure(key, string(key))
					} else {
						m.Remove(key)
					}
				}
			})
			if got := peak.Load(); got > int64(keys) {
				b.Errorf("peak: got %d sessions, want at most %d", got, keys)
			}
		})
	}
}

// BenchmarkEnsureEqual and BenchmarkSnapshot are what discovery and the server
// do all the time with a house of 200 speakers.
func BenchmarkEnsureEqual(b *testing.B) {
	m, _ := newStill(b, nil)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := m.Ensure("k", "a"); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkSnapshot(b *testing.B) {
	m, _ := newStill(b, nil)
	for i := range 200 {
		if _, err := m.Ensure(Key(fmt.Sprint("k", i)), fmt.Sprint(i)); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportAllocs()
	for b.Loop() {
		if got := len(m.Snapshot()); got != 200 {
			b.Fatalf("entries: got %d, want 200", got)
		}
	}
}
