package discovery

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
)

// scripted is a Source that says what a test sends it.
type scripted chan Event

func (s scripted) Run(ctx context.Context, emit func(Event)) error {
	for {
		select {
		case ev := <-s:
			emit(ev)
		case <-ctx.Done():
			return nil
		}
	}
}

type failing struct{ err error }

func (f failing) Run(context.Context, func(Event)) error { return f.err }

func TestMerge(t *testing.T) {
	type step struct {
		source int
		kind   Kind
		path   string
		again  bool
	}
	for _, tc := range []struct {
		name  string
		steps []step
		want  []string
	}{
		{
			"one source",
			[]step{{0, Announced, "/a", false}, {0, Announced, "/b", true}, {0, Withdrawn, "/b", false}},
			[]string{"1 /a false", "1 /b true", "2 /b false"},
		},
		{"the second says the same", []step{{0, Announced, "/a", false}, {1, Announced, "/a", false}}, []string{"1 /a false"}},
		{
			"the first speaks",
			[]step{{0, Announced, "/a", false}, {1, Announced, "/b", false}, {1, Announced, "/c", false}},
			[]string{"1 /a false"},
		},
		{
			"the second leaves",
			[]step{{0, Announced, "/a", false}, {1, Announced, "/b", false}, {1, Withdrawn, "/b", false}},
			[]string{"1 /a false"},
		},
		{
			"the first leaves",
			[]step{{0, Announced, "/a", false}, {1, Announced, "/b", false}, {0, Withdrawn, "/a", false}},
			[]string{"1 /a false", "1 /b false"},
		},
		{
			"the first leaves, no difference",
			[]step{{0, Announced, "/a", false}, {1, Announced, "/a", false}, {0, Withdrawn, "/a", false}},
			[]string{"1 /a false"},
		},
		{
			"both leave",
			[]step{{0, Announced, "/a", false}, {1, Announced, "/a", false}, {0, Withdrawn, "/a", false}, {1, Withdrawn, "/a", false}},
			[]string{"1 /a false", "2 /a false"},
		},
		{"a stranger leaves", []step{{1, Withdrawn, "/a", false}}, nil},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				sources := []scripted{make(scripted), make(scripted)}
				events := listenTo(t, Merge(sources[0], sources[1]))
				for _, s := range tc.steps {
					sources[s.source] <- Event{Kind: s.kind, Again: s.again, Endpoint: Endpoint{Key: "k", Path: s.path}}
					synctest.Wait()
				}
				var got []string
				for len(events) > 0 {
					ev := <-events
					got = append(got, fmt.Sprintf("%d %s %v", ev.Kind, ev.Endpoint.Path, ev.Again))
				}
				if !slices.Equal(got, tc.want) {
					t.Errorf("got %q, want %q", got, tc.want)
				}
			})
		})
	}
}

func TestMergeEnds(t *testing.T) {
	boom := errors.New("boom")
	t.Run("an error ends all", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			err := Merge(make(scripted), failing{boom}, make(scripted)).Run(t.Context(), func(Event) {})
			if !errors.Is(err, boom) {
				t.Errorf("got %v, want boom", err)
			}
		})
	})
	t.Run("a source that ends by itself is an error", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			if err := Merge(make(scripted), failing{}).Run(t.Context(), func(Event) {}); err == nil {
				t.Error("got nil, want an error")
			}
		})
	})
	t.Run("no sources wait for the end", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			ctx, cancel := context.WithCancel(t.Context())
			cancel()
			if err := Merge().Run(ctx, func(Event) {}); err != nil {
				t.Errorf("got %v, want nil", err)
			}
		})
	})
}
