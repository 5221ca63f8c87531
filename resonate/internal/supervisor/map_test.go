package supervisor

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

func count[T any](s []T, f func(T) bool) (n int) {
	for _, v := range s {
		if f(v) {
			n++
		}
	}
	return n
}

// 1.
func TestEnsureThousandOneDial(t *testing.T) {
	inBubble(t, nil, func(b *bench) {
		b.net.put("a", &device{id: "A", latency: time.Second})
		var wg sync.WaitGroup
		var mu sync.Mutex
		created := 0
		for range 1000 {
			wg.Go(func() {
				c, err := b.m.Ensure("k", "a")
				if err != nil {
					t.Error(err)
				}
				if c {
					mu.Lock()
					created++
					mu.Unlock()
				}
			})
		}
		wg.Wait()
		b.pass(time.Minute)
		if got := len(b.net.dialed()); got != 1 || created != 1 {
			t.Errorf("got %d dials, %d created; want 1 and 1", got, created)
		}
	})
}

// 2.
func TestRemoveEnsureFlapPeakOne(t *testing.T) {
	for _, tc := range []struct {
		name string
		gap  time.Duration
	}{{"in one tick", 0}, {"10 ms apart", 10 * time.Millisecond}, {"a second apart", time.Second}} {
		t.Run(tc.name, func(t *testing.T) {
			inBubble(t, nil, func(b *bench) {
				b.net.put("a", &device{id: "A", latency: 5 * time.Millisecond, closing: 50 * time.Millisecond})
				b.ensure("k", "a")
				b.pass(time.Second)
				for range 1000 {
					b.m.Remove("k")
					b.ensure("k", "a")
					if tc.gap > 0 {
						b.pass(tc.gap)
					}
				}
				b.pass(time.Minute)
				if live, peak := b.net.liveOf("A"); live != 1 || peak != 1 {
					t.Errorf("got %d live, peak %d; want 1 and 1", live, peak)
				}
			})
		})
	}
}

// 3.
func TestRemovedStaysRemoved(t *testing.T) {
	for _, tc := range []struct {
		name string
		do   func(b *bench)
	}{
		{"remove", func(b *bench) { b.m.Remove("k") }},
		{"remove twice", func(b *bench) { b.m.Remove("k"); b.m.Remove("k") }},
		{"remove, ensure, remove", func(b *bench) { b.m.Remove("k"); b.ensure("k", "a"); b.m.Remove("k") }},
		{"remove, nudge", func(b *bench) { b.m.Remove("k"); b.m.Nudge("k", WhyUser) }},
		{"remove, adopt, remove", func(b *bench) {
			b.m.Remove("k")
			b.adopt(b.net.devices["a"])
			b.m.Remove("k")
		}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			inBubble(t, nil, func(b *bench) {
				b.net.put("a", &device{id: "A", closing: 50 * time.Millisecond})
				b.ensure("k", "a")
				b.pass(time.Second)
				tc.do(b)
				<-b.m.Remove("k")
				b.pass(10 * time.Minute)
				if live, _ := b.net.liveOf("A"); live != 0 || len(b.m.Snapshot()) != 0 || len(b.net.dialed()) != 1 {
					t.Errorf("got %d live, %d entries, %d dials; want 0, 0, 1", live, len(b.m.Snapshot()), len(b.net.dialed()))
				}
			})
		})
	}
}

// 4.
func TestRemoveWhileDialSucceeds(t *testing.T) {
	inBubble(t, nil, func(b *bench) {
		gate := make(chan struct{})
		b.net.put("a", &device{id: "A", gate: gate})
		b.ensure("k", "a")
		b.pass(time.Second)
		gone := b.m.Remove("k")
		b.pass(time.Second)
		select {
		case <-gone:
			t.Error("gone before the dial returned")
		default:
		}
		close(gate) // the dial succeeds now
		<-gone
		if b.net.total != 1 {
			t.Fatalf("sessions opened: got %d, want 1", b.net.total)
		}
		if live, _ := b.net.liveOf("A"); live != 0 {
			t.Errorf("got %d live, want 0", live)
		}
		if got := b.see.pattern("k"); got != "" {
			t.Errorf("edges: got %q, want none", got)
		}
		last := b.see.log[len(b.see.log)-1]
		if last.State != Gone || !errors.Is(last.Cause, ErrRemoved) {
			t.Errorf("last status: got %v %v, want gone, ErrRemoved", last.State, last.Cause)
		}
	})
}

// 5.
func TestStaleTeardownSparesSuccessor(t *testing.T) {
	inBubble(t, nil, func(b *bench) {
		b.net.put("a", &device{id: "A", closing: 10 * time.Second})
		b.ensure("k", "a")
		b.pass(time.Second)
		start := time.Now()
		gone := b.m.Remove("k")
		b.ensure("k", "a")
		<-gone
		if got := time.Since(start); got > 3*time.Second {
			t.Errorf("old one gone after %v, want 3s", got)
		}
		b.pass(30 * time.Second)
		if got, want := b.see.pattern("k"), "UDU"; got != want {
			t.Errorf("edges: got %s, want %s", got, want)
		}
		if live, peak := b.net.liveOf("A"); live != 1 || peak != 1 {
			t.Errorf("got %d live, peak %d; want 1 and 1", live, peak)
		}
	})
}

// 6.
func TestFailOnceFirstCauseWins(t *testing.T) {
	inBubble(t, nil, func(b *bench) {
		b.net.put("a", &device{id: "A"})
		b.ensure("k", "a")
		for round := range 50 {
			b.pass(2 * time.Minute)
			s := b.session("k")
			causes := make([]error, 16)
			var wg sync.WaitGroup
			for i := range causes {
				causes[i] = fmt.Errorf("cause %d", i)
				wg.Go(func() { s.Kill(causes[i]) })
			}
			wg.Wait()
			synctest.Wait()
			downs := slices.DeleteFunc(b.see.edges("k"), func(e edge) bool { return e.up })
			if len(downs) != round+1 {
				t.Fatalf("round %d: got %d downs, want %d", round, len(downs), round+1)
			}
			if got := downs[round].st.Cause; !errors.Is(got, s.why) || !slices.Contains(causes, s.why) {
				t.Fatalf("round %d: got cause %v, want %v", round, got, s.why)
			}
		}
	})
}

// 9.
func TestReentrantCallsFromEvents(t *testing.T) {
	inBubble(t, nil, func(b *bench) {
		d := b.net.put("a", &device{id: "A"})
		calls := map[State]int{}
		b.see.hook = func(st Status[*fakeSession]) {
			calls[st.State]++
			_, _ = b.m.Ensure(st.Key, "a")
			b.m.Nudge(st.Key, WhyAnnounced)
			b.m.NudgeAll(WhyConfig)
			b.m.Snapshot()
			b.m.Status(st.Key)
			b.m.KeyOf("A")
			if st.State == Up && calls[Up] < 3 {
				b.m.Remove(st.Key)
				_, _ = b.m.Ensure(st.Key, "a")
				s := b.net.open(d)
				if _, err := b.m.Adopt(s); err != nil {
					t.Error(err)
				}
			}
		}
		b.ensure("k", "a")
		b.pass(time.Minute)
		b.see.mu.Lock()
		b.see.hook = nil
		b.see.mu.Unlock()
		if calls[Up] < 3 || calls[Gone] < 2 {
			t.Errorf("events: got %v, want 3 ups and 2 gones", calls)
		}
		if live, _ := b.net.liveOf("A"); live != 1 {
			t.Errorf("got %d live, want 1", live)
		}
	})
}

func TestCloseFromNotifyEndsWithItsContext(t *testing.T) {
	inBubble(t, nil, func(b *bench) {
		b.net.put("a", &device{id: "A"})
		var got error
		b.see.hook = func(st Status[*fakeSession]) {
			if st.State == Up {
				ctx, cancel := context.WithTimeout(context.Background(), time.Second)
				defer cancel()
				got = b.m.Close(ctx)
			}
		}
		b.ensure("k", "a")
		b.pass(2 * time.Second)
		if !errors.Is(got, context.DeadlineExceeded) || fmt.Sprint(got) != `supervisor: close: still ending ["k"]: context deadline exceeded` {
			t.Errorf("got %v, want the deadline and the key", got)
		}
	})
}

// 10.
func TestSendNamesItsSession(t *testing.T) {
	inBubble(t, nil, func(b *bench) {
		b.net.put("a", &device{id: "A"})
		b.ensure("k", "a")
		b.pass(time.Second)
		first := b.status("k")
		first.Session.fail(errPeer)
		b.pass(time.Minute)
		second := b.session("k")
		if second == first.Session {
			t.Fatal("a session was used twice")
		}
		if err := first.Session.Send(); !errors.Is(err, errGone) {
			t.Errorf("send to the old session: got %v, want errGone", err)
		}
		if got := second.sent.Load(); got != 0 {
			t.Errorf("frames on the new session: got %d, want 0", got)
		}
	})
}

// 14.
func TestSameIDTwoEndpoints(t *testing.T) {
	inBubble(t, nil, func(b *bench) {
		d := &device{id: "A", latency: 10 * time.Millisecond}
		b.net.put("v4", d)
		b.net.put("v6", d)
		b.ensure("k1", "v4")
		b.ensure("k2", "v6")
		b.pass(2 * time.Second)
		if live, _ := b.net.liveOf("A"); live != 1 || b.see.ups("") != 1 {
			t.Fatalf("got %d live, %d ups; want 1 and 1", live, b.see.ups(""))
		}
		all := b.m.Snapshot()
		if len(all) != 1 || len(all[0].Aliases) != 1 || all[0].ID != "A" {
			t.Fatalf("snapshot: got %+v, want one entry with one alias", all)
		}
		holder, alias := all[0].Key, all[0].Aliases[0]
		if key, ok := b.m.KeyOf("A"); key != holder || !ok {
			t.Errorf("key of A: got %q, want %q", key, holder)
		}
		if st := b.status(alias); st.Key != holder {
			t.Errorf("status of the alias: got key %q, want %q", st.Key, holder)
		}
		last := b.see.log[slices.IndexFunc(b.see.log, func(st Status[*fakeSession]) bool { return st.State == Gone })]
		if last.Key != alias || !errors.Is(last.Cause, ErrAlias) {
			t.Errorf("gone: got %q %v, want the alias and ErrAlias", last.Key, last.Cause)
		}

		// The holder dials all candidates: the alias's new address is enough.
		b.net.change(func() { delete(b.net.devices, "v4"); delete(b.net.devices, "v6"); b.net.devices["new"] = d })
		b.session(holder).fail(errPeer)
		b.pass(5 * time.Minute)
		b.ensure(alias, "new")
		b.pass(time.Second)
		b.session(holder)

		// Remove of the holder: the alias is still wanted and lives on.
		<-b.m.Remove(holder)
		b.pass(10 * time.Second)
		b.session(alias)
		if live, _ := b.net.liveOf("A"); live != 1 {
			t.Errorf("after the holder left: got %d live, want 1", live)
		}
		<-b.m.Remove(alias)
		b.pass(10 * time.Minute)
		if live, _ := b.net.liveOf("A"); live != 0 {
			t.Errorf("after both left: got %d live, want 0", live)
		}
	})
}

func TestRemovedAliasStaysRemoved(t *testing.T) {
	inBubble(t, nil, func(b *bench) {
		d := &device{id: "A"}
		b.net.put("v4", d)
		b.net.put("v6", d)
		b.ensure("k1", "v4")
		b.pass(time.Second)
		b.ensure("k2", "v6")
		b.pass(time.Second)
		<-b.m.Remove("k2")
		if got := b.status("k1").Aliases; len(got) != 0 {
			t.Errorf("aliases: got %v, want none", got)
		}
		b.session("k1")
		<-b.m.Remove("k1")
		b.pass(10 * time.Minute)
		if live, _ := b.net.liveOf("A"); live != 0 || len(b.m.Snapshot()) != 0 {
			t.Errorf("got %d live, %d entries; want none", live, len(b.m.Snapshot()))
		}
	})
}

// 15.
func TestHalfOpenReplacedAfterProbe(t *testing.T) {
	inBubble(t, nil, func(b *bench) {
		d := b.net.put("a", &device{id: "A", stuck: true})
		b.ensure("k", "a")
		b.pass(time.Minute)
		old := b.session("k")
		twin := &device{id: "A"} // the same player after a blip: its old socket is silent
		b.net.change(func() { d.mute = true })
		start := time.Now()
		s := b.net.open(twin)
		if key, err := b.m.Adopt(s); key != "k" || err != nil {
			t.Fatalf("adopt: got %q %v, want k", key, err)
		}
		for b.status("k").Session != s && time.Since(start) < time.Minute {
			b.pass(100 * time.Millisecond)
		}
		if got := time.Since(start); got > 3*time.Second {
			t.Errorf("up 2 after %v, want at most 3s", got)
		}
		e := b.see.edges("k")
		if b.see.pattern("k") != "UDU" || e[0].session != old || e[2].session != s || !errors.Is(e[1].st.Cause, ErrSuperseded) {
			t.Errorf("edges: got %s, cause %v; want UDU, ErrSuperseded", b.see.pattern("k"), e[1].st.Cause)
		}
		if live, _ := b.net.liveOf("A"); live != 1 {
			t.Errorf("got %d live, want 1", live)
		}
	})
}

// 16.
func TestImpostorCannotEvict(t *testing.T) {
	inBubble(t, nil, func(b *bench) {
		b.net.put("a", &device{id: "A"})
		b.ensure("k", "a")
		b.pass(time.Second)
		real := b.session("k")
		var all []*fakeSession
		for range 600 { // for 60 s
			all = append(all, b.adopt(&device{id: "A"}))
			b.pass(100 * time.Millisecond)
		}
		b.pass(3 * time.Second)
		for i, s := range all {
			if !errors.Is(s.why, ErrDuplicate) {
				t.Fatalf("newcomer %d: got %v, want ErrDuplicate", i, s.why)
			}
		}
		if b.session("k") != real || b.see.pattern("k") != "U" {
			t.Errorf("edges: got %s, want U", b.see.pattern("k"))
		}
		if got := real.prob.Load(); got > 130 {
			t.Errorf("probes: got %d in 63 s, want at most one per 500 ms", got)
		}
	})
}

// 17.
func TestNudgeNeverLost(t *testing.T) {
	for _, why := range []Why{WhyReannounced, WhyUser, WhyPlayback, WhyConfig, WhySuspect} {
		t.Run(why.String(), func(t *testing.T) {
			inBubble(t, func(o *Options[string, *fakeSession]) {
				o.BackoffBase, o.BackoffCap = 10*time.Minute, 10*time.Minute
			}, func(b *bench) {
				d := b.net.put("a", &device{id: "A", down: true, latency: 4 * time.Second})
				b.ensure("k", "a")
				b.pass(2 * time.Second) // the dial to the dead host is in flight
				b.m.Nudge("k", why)
				b.pass(time.Second)
				if got := len(b.net.dialed()); got != 1 {
					t.Fatalf("dials: got %d, want 1: a nudge does not disturb a dial", got)
				}
				b.pass(1500 * time.Millisecond) // it has failed
				b.net.change(func() { d.down = false })
				b.pass(4 * time.Second)
				b.session("k")
				if got := b.net.dialed(); len(got) != 2 || got[1].why != why {
					t.Errorf("dials: got %+v, want 2, the second for %v", got, why)
				}
			})
		})
	}
}

// TestNudgeOutlivesItsProbe: the session ends while the probe that the nudge
// caused has no answer yet; the nudge still wants a connection.
func TestNudgeOutlivesItsProbe(t *testing.T) {
	inBubble(t, func(o *Options[string, *fakeSession]) {
		o.BackoffBase, o.BackoffCap = 1000*time.Hour, 1000*time.Hour
	}, func(b *bench) {
		d := b.net.put("a", &device{id: "A"})
		b.ensure("k", "a")
		b.pass(time.Minute)
		b.net.change(func() { d.mute = true })
		b.m.Nudge("k", WhyPlayback)
		b.pass(time.Second)
		b.session("k").fail(errPeer)
		b.pass(time.Second)
		b.session("k")
	})
}

// 18.
func TestAnnounceStormRateBound(t *testing.T) {
	inBubble(t, func(o *Options[string, *fakeSession]) {
		o.BackoffBase, o.BackoffCap = time.Hour, time.Hour // no attempt of its own
	}, func(b *bench) {
		b.ensure("dead", "nowhere")
		b.net.put("a", &device{id: "A"})
		b.ensure("up", "a")
		b.pass(time.Second)
		for range 10000 { // in 60 s
			b.m.Nudge("dead", WhyAnnounced)
			b.m.Nudge("up", WhyAnnounced)
			b.pass(6 * time.Millisecond)
		}
		dead := count(b.net.dialed(), func(d dialRecord) bool { return d.key == "dead" })
		if dead < 2 || dead > 4 {
			t.Errorf("dials of the dead one: got %d, want its first, one per 30 s, at most one of its own", dead)
		}
		if got := b.session("up").prob.Load(); got < 1 || got > 3 {
			t.Errorf("probes of the live one: got %d, want 1 to 3", got)
		}
		if got := b.see.pattern("up"); got != "U" {
			t.Errorf("edges of the live one: got %s, want U", got)
		}
	})
}

// 20.
func TestBackoffResetRule(t *testing.T) {
	for _, tc := range []struct {
		name string
		dev  device
		grow bool
	}{
		{"accepts and drops", device{id: "A", dropErr: errPeer, dropIn: 100 * time.Millisecond}, true},
		{"up for 9 s", device{id: "A", dropErr: errPeer, dropIn: 9 * time.Second}, true},
		{"up for 11 s without a frame", device{id: "A", dropErr: errPeer, dropIn: 11 * time.Second, silent: true}, true},
		{"up for 11 s", device{id: "A", dropErr: errPeer, dropIn: 11 * time.Second}, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			inBubble(t, nil, func(b *bench) {
				b.net.put("a", &tc.dev)
				b.ensure("k", "a")
				b.pass(20 * time.Minute)
				all := b.net.dialed()
				highest := 0
				for _, d := range all {
					highest = max(highest, d.num)
				}
				if tc.grow && highest < 7 {
					t.Errorf("failures in a row: got %d, want 7 or more", highest)
				}
				if !tc.grow && highest > 1 {
					t.Errorf("failures in a row: got %d, want 1", highest)
				}
			})
		})
	}
}

// 21.
func TestHerd400(t *testing.T) {
	inBubble(t, func(o *Options[string, *fakeSession]) { o.DialsInFlight = 8 }, func(b *bench) {
		for i := range 400 {
			a := fmt.Sprint(i)
			b.net.put(a, &device{id: "id" + a, latency: 100 * time.Millisecond})
			b.ensure(Key("k"+a), a)
		}
		b.pass(15 * time.Second)
		if got := b.see.ups(""); got != 400 {
			t.Errorf("ups: got %d, want 400", got)
		}
		if b.net.maxFly > 8 {
			t.Errorf("dials in flight: got %d, want at most 8", b.net.maxFly)
		}
		all := b.net.dialed()
		start := all[0].at
		for _, d := range all { // token bucket: 256, then 20/s
			n := count(all, func(x dialRecord) bool { return !x.at.After(d.at) })
			if limit := 256 + 20*d.at.Sub(start).Seconds() + 1; float64(n) > limit {
				t.Fatalf("dials in %v: got %d, want at most %.0f", d.at.Sub(start), n, limit)
			}
		}
	})
}

// 22.
func TestCloseBoundedInEveryState(t *testing.T) {
	for _, tc := range []struct {
		name  string
		state State
		dev   *device
		do    func(b *bench)
	}{
		{"waiting", Waiting, &device{id: "A", down: true}, nil},
		{"dialing", Dialing, &device{id: "A", latency: time.Hour}, nil},
		{"greeting", Greeting, &device{id: "A", noUp: true}, nil},
		{"up", Up, &device{id: "A"}, nil},
		{"up, ends never by itself", Up, &device{id: "A", stuck: true}, nil},
		{"draining", Draining, &device{id: "A", stuck: true}, func(b *bench) { b.m.Remove("k"); b.ensure("k", "a") }},
		{"parked", Parked, &device{id: "A", dropErr: &verdictError{Verdict{Action: Park, Reason: "x"}}}, nil},
		{"waiting for its share of the spread", Waiting, &device{id: "A"}, func(b *bench) {
			<-b.m.Remove("k")
			b.m.o.Spread, b.m.spreadUntil = time.Hour, time.Time{}
			b.ensure("k", "a")
		}},
		{"newcomer waits for a probe", Up, &device{id: "A", mute: true}, func(b *bench) { b.adopt(&device{id: "A"}) }},
		{"newcomer waits for a successor", Draining, &device{id: "A", stuck: true}, func(b *bench) { b.m.Remove("k"); b.adopt(&device{id: "A"}) }},
	} {
		t.Run(tc.name, func(t *testing.T) {
			inBubble(t, func(o *Options[string, *fakeSession]) {
				o.BackoffBase, o.BackoffCap = time.Hour, time.Hour
				o.DialTimeout = -1
			}, func(b *bench) {
				b.net.put("a", tc.dev)
				b.ensure("k", "a")
				b.pass(time.Second)
				if tc.do != nil {
					tc.do(b)
					synctest.Wait()
				}
				if got := b.status("k").State; got != tc.state {
					t.Fatalf("state: got %v, want %v", got, tc.state)
				}
				start := time.Now()
				var wg sync.WaitGroup
				for range 3 { // all callers wait for the same end
					wg.Go(func() {
						if err := b.m.Close(b.t.Context()); err != nil {
							t.Error(err)
						}
						if got := b.net.liveAll(); got != 0 {
							t.Errorf("live when close returned: got %d, want 0", got)
						}
					})
				}
				wg.Wait()
				if got := time.Since(start); got > 5*time.Second {
					t.Errorf("close took %v, want at most 5s", got)
				}
				if _, err := b.m.Ensure("k", "a"); !errors.Is(err, ErrClosed) {
					t.Errorf("ensure after close: got %v, want ErrClosed", err)
				}
				s := b.net.open(tc.dev)
				if _, err := b.m.Adopt(s); !errors.Is(err, ErrClosed) || !errors.Is(s.why, ErrClosed) {
					t.Errorf("adopt after close: got %v, session %v; want ErrClosed", err, s.why)
				}
			})
		})
	}
}

func TestCloseNamesTheLate(t *testing.T) {
	inBubble(t, nil, func(b *bench) {
		gate := make(chan struct{})
		b.net.put("a", &device{id: "A", gate: gate})
		b.net.put("b", &device{id: "B"})
		b.ensure("deaf", "a")
		b.ensure("good", "b")
		b.pass(time.Second)
		ctx, cancel := context.WithTimeout(b.t.Context(), 5*time.Second)
		defer cancel()
		err := b.m.Close(ctx)
		if got, want := fmt.Sprint(err), `supervisor: close: still ending ["deaf"]: context deadline exceeded`; got != want {
			t.Errorf("got %q, want %q", got, want)
		}
		close(gate)
	})
}
