package supervisor

import (
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"
)

func TestBackoffCeiling(t *testing.T) {
	b := backoff{base: time.Second, highest: time.Minute, long: 5 * time.Minute, after: time.Hour}
	for _, tc := range []struct {
		name     string
		failures int
		down     time.Duration
		want     time.Duration
	}{
		{"first", 0, 0, time.Second},
		{"doubles", 3, 0, 8 * time.Second},
		{"cap", 6, 0, time.Minute},
		{"no overflow", 1 << 20, 59 * time.Minute, time.Minute},
		{"long", 1 << 20, time.Hour, 5 * time.Minute},
		{"long, but few failures", 2, 2 * time.Hour, 4 * time.Second},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if got := b.ceiling(tc.failures, tc.down); got != tc.want {
				t.Errorf("got %v, want %v", got, tc.want)
			}
		})
	}
}

// TestNeverGivesUp also shows the long ceiling: a speaker that is away for a
// day is dialled at least every 5 minutes, and found within 5 minutes.
// The first attempts of a start are spread, later ones are not (races: B26).
func TestSpread(t *testing.T) {
	const spread = 2 * time.Second
	inBubble(t, func(o *Options[string, *fakeSession]) { o.Spread = spread }, func(b *bench) {
		announce := func(from, to int) {
			for i := from; i < to; i++ {
				a := fmt.Sprint(i)
				b.net.put(a, &device{id: "id" + a})
				b.ensure(Key("k"+a), a)
			}
		}
		announce(0, 100)
		b.pass(spread / 2)
		announce(100, 200)
		b.pass(spread/2 + time.Millisecond)
		dials := b.net.dialed()
		if len(dials) != 200 || b.see.ups("") != 200 {
			t.Fatalf("after %v: %d dials, %d up; want 200 of each", spread, len(dials), b.see.ups(""))
		}
		start := dials[0].at
		for _, d := range dials {
			if n := count(dials, func(x dialRecord) bool { return x.at.Sub(d.at).Abs() < spread/20 }); n > 80 { // 10 to 30 are expected
				t.Fatalf("%d of 200 dials within %v of %v, want them spread", n, spread/10, d.at.Sub(start))
			}
		}
		announce(200, 250)
		b.pass(0)
		if got := len(b.net.dialed()); got != 250 {
			t.Errorf("%d dials at once after the start, want 50", got-200)
		}
	})
}

func TestNeverGivesUp(t *testing.T) {
	inBubble(t, nil, func(b *bench) {
		d := b.net.put("a", &device{id: "A", down: true})
		b.ensure("k", "a")
		b.pass(24 * time.Hour)
		all := b.net.dialed()
		for i := 1; i < len(all); i++ {
			gap := all[i].at.Sub(all[i-1].at)
			if gap < 500*time.Millisecond || gap > 5*time.Minute+time.Second {
				t.Fatalf("gap %d: got %v, want 500ms to 5m", i, gap)
			}
			if all[i].at.Sub(all[0].at) < time.Hour && gap > time.Minute+time.Second {
				t.Fatalf("gap %d, in the first hour: got %v, want at most 1m", i, gap)
			}
		}
		b.net.change(func() { d.down = false })
		b.pass(5 * time.Minute)
		b.session("k")
	})
}

// TestVerdicts is the part of the goodbye table that is this package's: which
// nudges end which wait.
func TestVerdicts(t *testing.T) {
	all := []Why{WhyAnnounced, WhyReannounced, WhyEndpoint, WhyUser, WhyPlayback, WhyConfig, WhySuspect}
	for _, tc := range []struct {
		name  string
		v     Verdict
		state State
		wakes Why
	}{
		{"retry", Verdict{Action: Retry}, Waiting, whyPublic},
		{"retry, some", Verdict{Action: Retry, Leaves: WhyUser}, Waiting, WhyUser},
		{"retry at once", Verdict{Action: RetryAtOnce}, Waiting, whyPublic},
		{"slow", Verdict{Action: RetrySlow}, Waiting, whyDemand},
		{"slow, some", Verdict{Action: RetrySlow, Leaves: WhyPlayback | WhyAnnounced}, Waiting, WhyPlayback | WhyAnnounced},
		{"another_server", Verdict{Action: Park, Leaves: WhyUser | WhyPlayback | WhyReannounced}, Parked, WhyUser | WhyPlayback | WhyReannounced},
		{"unpaired", Verdict{Action: Park, Leaves: WhyConfig}, Parked, WhyConfig},
		{"for ever", Verdict{Action: Park}, Parked, 0},
	} {
		for _, why := range all {
			t.Run(tc.name+"/"+why.String(), func(t *testing.T) {
				inBubble(t, func(o *Options[string, *fakeSession]) {
					o.BackoffBase, o.BackoffCap = 1000*time.Hour, 1000*time.Hour
					o.SlowMin, o.SlowMax = time.Hour, time.Hour
				}, func(b *bench) {
					tc.v.Reason = tc.name
					d := b.net.put("a", &device{id: "A", dropErr: &verdictError{tc.v}, dropIn: time.Second})
					b.ensure("k", "a")
					b.pass(40 * time.Second) // beyond the floor of announcements
					st := b.status("k")
					if st.State != tc.state || st.Verdict != tc.v || st.Cause == nil {
						t.Fatalf("after the end: got %v %+v, want %v %+v", st.State, st.Verdict, tc.state, tc.v)
					}
					b.net.change(func() { d.dropErr = nil })
					b.m.Nudge("k", why)
					b.pass(50 * time.Second)
					if got, want := b.status("k").State == Up, tc.wakes&why != 0; got != want {
						t.Errorf("nudge(%v): up is %v, want %v", why, got, want)
					}
					if tc.wakes&why != 0 {
						if all := b.net.dialed(); len(all) != 2 || all[1].why != why {
							t.Errorf("dials: got %+v, want a second one for %v", all, why)
						}
					}
				})
			})
		}
	}
}

func TestRetrySlowIsNoFailure(t *testing.T) {
	inBubble(t, nil, func(b *bench) {
		b.net.put("a", &device{id: "A", dropErr: &verdictError{Verdict{Action: RetrySlow}}})
		b.ensure("k", "a")
		b.pass(2 * time.Hour)
		all := b.net.dialed()
		if len(all) < 20 {
			t.Fatalf("dials: got %d, want 24 or more", len(all))
		}
		for i := 1; i < len(all); i++ {
			if gap := all[i].at.Sub(all[i-1].at); gap < 30*time.Second || gap > 301*time.Second || all[i].num != 0 {
				t.Errorf("attempt %d: got %v after the one before, number %d; want 30 to 300 s, 0", i, gap, all[i].num)
			}
		}
	})
}

func TestWithdrawn(t *testing.T) {
	withdrawn := func(b *bench) {
		b.t.Helper()
		if st := b.status("k"); st.State != Parked || st.Verdict.Reason != ReasonWithdrawn {
			b.t.Fatalf("got %v %q, want parked, withdrawn", st.State, st.Verdict.Reason)
		}
		n := len(b.net.dialed())
		b.pass(24 * time.Hour)
		if got := len(b.net.dialed()); got != n {
			b.t.Fatalf("dials while withdrawn: got %d, want 0", got-n)
		}
	}
	for _, tc := range []struct {
		name string
		do   func(b *bench, d *device)
	}{
		{"a dead one is parked, until it is announced again", func(b *bench, d *device) {
			b.m.Nudge("k", WhyWithdrawn)
			b.pass(time.Second)
			withdrawn(b)
			b.net.change(func() { d.down = false })
			b.m.Nudge("k", WhyReannounced)
			b.pass(time.Second)
			b.session("k")
		}},
		{"an announcement without a change is enough", func(b *bench, d *device) {
			b.m.Nudge("k", WhyWithdrawn)
			b.pass(time.Minute)
			withdrawn(b)
			b.net.change(func() { d.down = false })
			b.m.Nudge("k", WhyAnnounced)
			b.pass(time.Second)
			b.session("k")
		}},
		{"a person's attempt that fails leaves it parked", func(b *bench, _ *device) {
			b.m.Nudge("k", WhyWithdrawn)
			b.pass(time.Second)
			n := len(b.net.dialed())
			b.m.Nudge("k", WhyUser)
			b.pass(time.Second)
			if got := len(b.net.dialed()); got != n+1 {
				b.t.Errorf("dials: got %d, want one more than %d", got, n)
			}
			withdrawn(b)
		}},
		{"announced, then withdrawn, before the actor looked", func(b *bench, _ *device) {
			b.m.Nudge("k", WhyReannounced)
			b.m.Nudge("k", WhyWithdrawn)
			b.pass(time.Second)
			withdrawn(b)
		}},
		{"withdrawn, then announced, before the actor looked", func(b *bench, d *device) {
			b.net.change(func() { d.down = false })
			b.m.Nudge("k", WhyWithdrawn)
			b.m.Nudge("k", WhyReannounced)
			b.pass(time.Second)
			b.session("k")
		}},
		{"a live one is probed and stays, and is dialled when it drops later", func(b *bench, d *device) {
			b.net.change(func() { d.down = false })
			b.m.Nudge("k", WhyUser)
			b.pass(time.Second)
			s := b.session("k")
			b.m.Nudge("k", WhyWithdrawn)
			b.pass(3 * time.Second)
			if b.session("k") != s || s.prob.Load() != 1 {
				b.t.Errorf("probes: got %d, want 1 and the same session", s.prob.Load())
			}
			s.fail(errPeer)
			b.pass(2 * time.Minute)
			b.session("k")
		}},
		{"a live one that does not answer ends, and is parked", func(b *bench, d *device) {
			b.net.change(func() { d.down = false })
			b.m.Nudge("k", WhyUser)
			b.pass(time.Second)
			b.session("k")
			b.net.change(func() { d.down = true })
			b.m.Nudge("k", WhyWithdrawn)
			b.pass(10 * time.Second)
			withdrawn(b)
		}},
		{"one of two addresses withdrawn is none", func(b *bench, d *device) {
			b.net.change(func() { d.down = false; b.net.devices["a2"] = d })
			b.m.Nudge("k", WhyUser)
			b.pass(time.Second)
			b.ensure("k2", "a2")
			b.pass(time.Second)
			b.net.change(func() { d.down = true })
			b.session("k").fail(errPeer)
			b.m.Nudge("k2", WhyWithdrawn)
			b.pass(time.Minute)
			if got := b.status("k").State; got != Waiting {
				b.t.Fatalf("got %v, want waiting", got)
			}
			b.m.Nudge("k", WhyWithdrawn)
			b.pass(time.Second)
			withdrawn(b)
		}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			inBubble(t, nil, func(b *bench) {
				d := b.net.put("a", &device{id: "A", down: true})
				b.ensure("k", "a")
				b.pass(time.Minute)
				tc.do(b, d)
			})
		})
	}
}

func TestEndpointChange(t *testing.T) {
	for _, tc := range []struct {
		name string
		old  device
		warm time.Duration // before the change
		mute bool          // the old one, at the change
		want int           // dials
		up   int           // ups
		in   time.Duration // up on the new one; 0: stays on the old one
	}{
		{"waiting", device{id: "A", down: true}, 20 * time.Minute, false, -1, 1, time.Second},
		{"dialing", device{id: "A", latency: 10 * time.Second}, time.Second, false, 2, 1, time.Second},
		{"dialing, floor", device{id: "A", latency: 10 * time.Second}, 100 * time.Millisecond, false, 2, 1, 500 * time.Millisecond},
		{"up and answering", device{id: "A"}, time.Minute, false, 1, 1, 0},
		{"up and silent", device{id: "A", stuck: true}, time.Minute, true, 2, 2, 3 * time.Second},
		{"greeting and silent", device{id: "A", noUp: true}, time.Minute, true, 2, 1, 500 * time.Millisecond},
	} {
		t.Run(tc.name, func(t *testing.T) {
			inBubble(t, func(o *Options[string, *fakeSession]) { o.BackoffBase, o.BackoffCap = time.Hour, time.Hour }, func(b *bench) {
				old := b.net.put("old", &tc.old)
				b.net.put("new", &device{id: "A"})
				b.ensure("k", "old")
				b.pass(tc.warm)
				before := len(b.net.dialed())
				b.net.change(func() { old.mute = tc.mute })
				b.ensure("k", "new")
				if tc.in > 0 {
					b.pass(tc.in)
				} else {
					b.pass(10 * time.Second)
				}
				if got := len(b.net.dialed()); tc.want >= 0 && got != tc.want {
					t.Errorf("dials: got %d, want %d", got, tc.want)
				}
				if got := b.see.ups("k"); got != tc.up {
					t.Errorf("ups: got %d, want %d", got, tc.up)
				}
				if tc.in > 0 {
					d := b.net.dialed()[before]
					if d.num != 0 && tc.want != 2 || d.eps[0] != "new" || d.why&WhyEndpoint == 0 {
						t.Errorf("dial: got %+v, want the new address, number 0, for endpoint", d)
					}
				}
				n := len(b.net.dialed())
				b.ensure("k", "new") // equal: nothing
				b.pass(time.Minute)
				if got := len(b.net.dialed()); got != n {
					t.Errorf("dials for an equal endpoint: got %d, want 0", got-n)
				}
			})
		})
	}
}

// TestMovedAttemptIsThrownAway: an attempt that was cancelled because the
// address changed, and succeeds all the same, must not be served. Guard: the
// look at the context after the dial.
func TestMovedAttemptIsThrownAway(t *testing.T) {
	inBubble(t, nil, func(b *bench) {
		gate := make(chan struct{})
		b.net.put("old", &device{id: "A", gate: gate})
		b.net.put("new", &device{id: "A"})
		b.ensure("k", "old")
		b.pass(time.Second)
		b.ensure("k", "new")
		b.pass(time.Second)
		close(gate)
		b.pass(time.Second)
		if all := b.net.dialed(); len(all) != 2 || all[1].eps[0] != "new" || b.net.total != 2 || b.see.ups("k") != 1 {
			t.Errorf("got %d dials, %d sessions, %d ups; want 2, 2, 1", len(all), b.net.total, b.see.ups("k"))
		}
		if live, peak := b.net.liveOf("A"); live != 1 || peak != 1 {
			t.Errorf("got %d live, peak %d; want 1 and 1", live, peak)
		}
	})
}

// TestFlappingAddressCannotStarve: an address that changes faster than a
// handshake takes must not keep a speaker away.
func TestFlappingAddressCannotStarve(t *testing.T) {
	inBubble(t, nil, func(b *bench) {
		d := &device{id: "A", latency: 2 * time.Second}
		b.net.put("a", d)
		b.net.put("b", d)
		for i := range 100 {
			b.ensure("k", [...]string{"a", "b"}[i%2])
			b.pass(700 * time.Millisecond)
		}
		if got := b.see.ups("k"); got != 1 {
			t.Fatalf("ups: got %d, want 1", got)
		}
		first := b.see.edges("k")[0].st.Since.Sub(b.net.dialed()[0].at)
		if first > 10*time.Second {
			t.Errorf("up after %v, want less than 10s", first)
		}
	})
}

func TestAddressReused(t *testing.T) {
	inBubble(t, nil, func(b *bench) {
		b.net.put("a", &device{id: "A"})
		b.ensure("k", "a")
		b.pass(time.Minute)
		s := b.session("k")
		b.net.put("a", &device{id: "B"})
		s.fail(errPeer)
		b.pass(5 * time.Second)
		if st := b.status("k"); st.State != Waiting || !errors.Is(st.Cause, ErrAddressReused) || st.Verdict.Reason != ReasonAddressReused || st.ID != "A" {
			t.Fatalf("got %v %v %+v, want waiting for A", st.State, st.Cause, st.Verdict)
		}
		if all := b.net.dialed(); all[len(all)-1].id != "A" {
			t.Errorf("expected id: got %q, want A", all[len(all)-1].id)
		}
		b.m.Nudge("k", WhyAnnounced)
		b.pass(10 * time.Minute)
		if live, _ := b.net.liveOf("B"); live != 0 || b.see.pattern("k") != "UD" {
			t.Fatalf("got %d live of B, edges %s; want none", live, b.see.pattern("k"))
		}
		b.net.put("a2", &device{id: "A"}) // A got a new address
		b.ensure("k", "a2")
		b.pass(5 * time.Second)
		b.session("k")

		b.net.put("a2", &device{id: "B"}) // A was set up anew, with another id
		b.session("k").fail(errPeer)
		b.pass(5 * time.Second)
		b.m.Nudge("k", WhyReannounced)
		b.pass(5 * time.Second)
		if got := b.session("k").ID(); got != "B" {
			t.Errorf("id: got %q, want B", got)
		}
		if key, ok := b.m.KeyOf("A"); ok {
			t.Errorf("key of A: got %q, want none", key)
		}
	})
}

// TestNamesSwapped: two devices exchange their advertised names.
func TestNamesSwapped(t *testing.T) {
	inBubble(t, nil, func(b *bench) {
		da, db := b.net.put("a", &device{id: "A"}), b.net.put("b", &device{id: "B"})
		b.ensure("k1", "a")
		b.ensure("k2", "b")
		b.pass(time.Minute)
		s1, s2 := b.session("k1"), b.session("k2")
		b.net.change(func() { da.down, db.down = true, true })
		s1.fail(errPeer)
		s2.fail(errPeer)
		b.pass(time.Minute)
		b.net.change(func() { da.down, db.down = false, false })
		b.ensure("k1", "b")
		b.m.Nudge("k1", WhyReannounced)
		b.ensure("k2", "a")
		b.m.Nudge("k2", WhyReannounced)
		b.pass(20 * time.Second)
		for _, id := range []string{"A", "B"} {
			if live, _ := b.net.liveOf(id); live != 1 {
				t.Errorf("%s: got %d live, want 1; %+v", id, live, b.m.Snapshot())
			}
		}
	})
}

// TestMisledAliasIsReleased: an alias's address leads to another device by
// now, and the holder is dead.
func TestMisledAliasIsReleased(t *testing.T) {
	for _, tc := range []struct {
		name  string
		first func(b *bench, d *device)
	}{
		{"holder of Ensure", func(b *bench, _ *device) { b.ensure("k1", "a") }},
		{"holder of Adopt", func(b *bench, d *device) { b.adopt(d) }},
	} {
		t.Run(tc.name, func(t *testing.T) {
			inBubble(t, nil, func(b *bench) {
				d := b.net.put("a", &device{id: "A"})
				tc.first(b, d)
				b.pass(time.Second)
				b.net.put("a2", d)
				b.ensure("k2", "a2")
				b.pass(time.Second)
				if got := b.status("k2").Key; got == "k2" {
					t.Fatalf("holder of k2: got itself, want the first entry")
				}
				b.net.put("a2", &device{id: "B"})
				b.net.change(func() { delete(b.net.devices, "a") })
				key, _ := b.m.KeyOf("A")
				b.session(key).fail(errPeer)
				b.pass(15 * time.Minute)
				if got := b.session("k2").ID(); got != "B" {
					t.Errorf("id of k2: got %q, want B", got)
				}
			})
		})
	}
}

// An alias whose address leads to another device by now is that one's, also
// when the holder is found elsewhere and stays up.
func TestMisledAliasLeavesLiveHolder(t *testing.T) {
	inBubble(t, nil, func(b *bench) {
		d := &device{id: "A"}
		b.adopt(d)
		for key, addr := range map[Key]string{"k1": "a1", "k2": "a2"} {
			b.net.put(addr, d)
			b.ensure(key, addr)
			b.pass(time.Second)
		}
		b.net.put("a1", &device{id: "B"})
		b.net.put("a2", &device{id: "C"})
		b.net.put("a3", d)
		b.ensure("k3", "a3")
		b.pass(time.Second)
		if got := b.status("k3").Key; got != "in:A" {
			t.Fatalf("holder of k3: got %s, want in:A", got)
		}
		b.session("in:A").fail(errPeer)
		b.pass(time.Minute)
		for key, id := range map[Key]string{"in:A": "A", "k1": "B", "k2": "C"} {
			if got := b.session(key).ID(); got != id {
				t.Errorf("id of %s: got %q, want %q", key, got, id)
			}
		}
	})
}

// The same with the holder's own address: the aliases take the client with them,
// and the key finds out whose it is.
func TestMisledHolderMakesRoom(t *testing.T) {
	inBubble(t, nil, func(b *bench) {
		d := b.net.put("a1", &device{id: "A"})
		b.net.put("a2", d)
		b.ensure("k1", "a1")
		b.pass(time.Second)
		b.ensure("k2", "a2")
		b.pass(time.Second)
		if got := b.status("k2").Key; got != "k1" {
			t.Fatalf("holder of k2: got %s, want k1", got)
		}
		b.net.put("a1", &device{id: "B"})
		b.session("k1").fail(errPeer)
		b.pass(time.Minute)
		for key, id := range map[Key]string{"k1": "B", "k2": "A"} {
			if got := b.session(key).ID(); got != id {
				t.Errorf("id of %s: got %q, want %q", key, got, id)
			}
		}
	})
}

func TestAdopt(t *testing.T) {
	park := &verdictError{Verdict{Action: Park, Leaves: WhyUser, Reason: "another_server"}}
	for _, tc := range []struct {
		name string
		do   func(b *bench)
	}{
		{"unknown id", func(b *bench) {
			s := b.adopt(&device{id: "A"})
			b.pass(time.Second)
			st := b.status("in:A")
			if st.State != Up || st.Session != s || !st.Inbound || st.ID != "A" {
				b.t.Fatalf("got %+v, want up, inbound", st)
			}
			s.fail(park)
			b.pass(time.Second)
			last := b.see.log[len(b.see.log)-1]
			if last.State != Gone || last.Verdict != park.v || !errors.Is(last.Cause, park) || last.Gen != st.Gen {
				b.t.Errorf("end: got %+v, want gone with cause and verdict", last)
			}
			if _, ok := b.m.KeyOf("A"); ok {
				b.t.Error("the id is still bound")
			}
			b.adopt(&device{id: "A"})
			b.pass(time.Second)
			if got := b.status("in:A").Gen; got <= st.Gen {
				b.t.Errorf("gen: got %d, want more than %d", got, st.Gen)
			}
		}},
		{"into waiting", func(b *bench) {
			d := b.net.put("a", &device{id: "A"})
			b.ensure("k", "a")
			b.pass(time.Second)
			b.net.change(func() { d.down = true })
			b.session("k").fail(errPeer)
			b.pass(time.Minute)
			s := b.adopt(&device{id: "A"})
			synctest.Wait()
			if b.session("k") != s {
				b.t.Error("the newcomer is not the session")
			}
		}},
		{"into parked", func(b *bench) {
			b.net.put("a", &device{id: "A"})
			b.ensure("k", "a")
			b.pass(time.Second)
			b.session("k").fail(park)
			b.pass(time.Minute)
			s := b.adopt(&device{id: "A"})
			synctest.Wait()
			if b.session("k") != s {
				b.t.Error("the newcomer is not the session")
			}
		}},
		{"into dialing", func(b *bench) {
			d := b.net.put("a", &device{id: "A"})
			b.ensure("k", "a")
			b.pass(time.Second)
			b.net.change(func() { d.latency = 5 * time.Second })
			b.session("k").fail(errPeer)
			b.pass(3 * time.Second)
			if got := b.status("k").State; got != Dialing {
				b.t.Fatalf("got %v, want dialing", got)
			}
			s := b.adopt(&device{id: "A"})
			b.pass(time.Minute)
			if b.session("k") != s || b.net.total != 2 {
				b.t.Errorf("sessions: got %d, want 2, the second the newcomer", b.net.total)
			}
		}},
		{"into a queue for a slot", func(b *bench) {
			for i := range 32 {
				a := fmt.Sprint("slow", i)
				b.net.put(a, &device{id: a, latency: 10 * time.Second})
			}
			d := b.net.put("a", &device{id: "A"})
			b.ensure("k", "a")
			b.pass(time.Second)
			b.net.change(func() { d.down = true })
			for i := range 32 {
				a := fmt.Sprint("slow", i)
				b.ensure(Key(a), a)
			}
			b.session("k").fail(errPeer)
			b.pass(3 * time.Second)
			s := b.adopt(&device{id: "A"})
			synctest.Wait()
			if b.session("k") != s {
				b.t.Error("the newcomer is not the session")
			}
		}},
		{"newest of many wins", func(b *bench) {
			d := &device{id: "A", stuck: true}
			b.adopt(d)
			b.pass(time.Second)
			b.net.change(func() { d.mute = true })
			var all []*fakeSession
			for range 5 {
				all = append(all, b.adopt(&device{id: "A"}))
				b.pass(300 * time.Millisecond)
			}
			b.pass(5 * time.Second)
			if b.session("in:A") != all[4] {
				b.t.Error("the newest is not the session")
			}
			for i, s := range all[:4] {
				if !errors.Is(s.why, ErrDuplicate) {
					b.t.Errorf("newcomer %d: got %v, want ErrDuplicate", i, s.why)
				}
			}
		}},
		{"removed while it waits", func(b *bench) {
			d := &device{id: "A", stuck: true}
			b.adopt(d)
			b.pass(time.Second)
			b.net.change(func() { d.mute = true })
			s := b.adopt(&device{id: "A"})
			<-b.m.Remove("in:A")
			if !errors.Is(s.why, ErrRemoved) || s.runs.Load() != 0 {
				b.t.Errorf("newcomer: got %v, ran %d times; want ErrRemoved, never", s.why, s.runs.Load())
			}
		}},
		{"during removal", func(b *bench) {
			b.adopt(&device{id: "A", stuck: true})
			b.pass(time.Second)
			b.m.Remove("in:A")
			s := b.adopt(&device{id: "A"})
			b.pass(5 * time.Second)
			if _, peak := b.net.liveOf("A"); b.session("in:A") != s || b.see.pattern("in:A") != "UDU" || peak != 2 {
				b.t.Errorf("edges: got %s, want UDU", b.see.pattern("in:A"))
			}
		}},
		{"during removal of a key of Ensure", func(b *bench) {
			b.net.put("a", &device{id: "A", stuck: true})
			b.ensure("k", "a")
			b.pass(time.Second)
			b.m.Remove("k")
			s := b.net.open(&device{id: "A"})
			if key, err := b.m.Adopt(s); key != "in:A" || err != nil {
				b.t.Errorf("adopt: got %q %v, want in:A", key, err)
			}
			b.pass(5 * time.Second)
			if got := b.see.pattern("k"); b.session("in:A") != s || got != "UD" {
				b.t.Errorf("edges of k: got %s, want UD", got)
			}
		}},
		{"during removal, then wanted again", func(b *bench) {
			b.net.put("a", &device{id: "A", stuck: true})
			b.ensure("k", "a")
			b.pass(time.Second)
			b.m.Remove("k")
			s := b.adopt(&device{id: "A"})
			b.ensure("k", "a")
			b.pass(5 * time.Second)
			if got := b.see.pattern("k"); b.session("k") != s || got != "UDU" || len(b.net.dialed()) != 1 {
				b.t.Errorf("edges of k: got %s, want UDU", got)
			}
		}},
		{"then dialled by a key of its own", func(b *bench) {
			d := b.net.put("a", &device{id: "A"})
			s := b.adopt(d)
			b.pass(time.Second)
			b.ensure("k", "a")
			b.pass(5 * time.Second)
			if b.session("in:A") != s || b.status("k").Key != "in:A" {
				b.t.Errorf("got %+v, want k as an alias", b.m.Snapshot())
			}
			s.fail(errPeer)
			b.pass(5 * time.Second)
			if st := b.status("k"); st.State != Up || st.Inbound {
				b.t.Errorf("after its end: got %+v, want up by dialling", st)
			}
			<-b.m.Remove("k") // we dialled to an endpoint that nobody wants any more
			b.pass(time.Minute)
			if live, _ := b.net.liveOf("A"); live != 0 || len(b.m.Snapshot()) != 0 {
				b.t.Errorf("after remove: got %d live, %+v; want none", live, b.m.Snapshot())
			}
		}},
		{"without an id", func(b *bench) {
			s := b.net.open(&device{})
			if _, err := b.m.Adopt(s); !errors.Is(err, ErrNoID) || !errors.Is(s.why, ErrNoID) {
				b.t.Errorf("got %v, session %v; want ErrNoID", err, s.why)
			}
		}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			inBubble(t, nil, tc.do)
		})
	}
}

func TestProvisionalBound(t *testing.T) {
	inBubble(t, func(o *Options[string, *fakeSession]) { o.MaxProvisional = 10 }, func(b *bench) {
		adopt := func(i int, noUp bool) (*fakeSession, error) {
			s := b.net.open(&device{id: fmt.Sprint("x", i), noUp: noUp})
			_, err := b.m.Adopt(s)
			b.pass(time.Millisecond)
			return s, err
		}
		first, _ := adopt(0, true)
		for i := 1; i < 10; i++ {
			if _, err := adopt(i, true); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := adopt(10, true); !errors.Is(err, ErrFull) {
			t.Errorf("one too many, all young: got %v, want ErrFull", err)
		}
		b.pass(3 * time.Second)
		if _, err := adopt(11, false); err != nil {
			t.Errorf("one too many, all old: got %v, want nil", err)
		}
		if !errors.Is(first.why, ErrFull) {
			t.Errorf("the oldest: got %v, want ErrFull", first.why)
		}
		for i := 12; i < 40; i++ { // those that come up take no place
			if _, err := adopt(i, false); err != nil {
				t.Fatal(err)
			}
		}
	})
}

func TestDialTimeout(t *testing.T) {
	inBubble(t, nil, func(b *bench) {
		b.net.put("a", &device{id: "A", latency: time.Hour})
		b.ensure("k", "a")
		b.pass(14 * time.Second)
		if got := b.status("k").State; got != Dialing {
			t.Fatalf("after 14 s: got %v, want dialing", got)
		}
		b.pass(1 * time.Second)
		if st := b.status("k"); st.State != Waiting || !errors.Is(st.Cause, ErrTimeout) {
			t.Errorf("after 15 s: got %v %v, want waiting, ErrTimeout", st.State, st.Cause)
		}
	})
}

func TestKeysAreChecked(t *testing.T) {
	inBubble(t, nil, func(b *bench) {
		for _, key := range []Key{"", "in:A"} {
			if _, err := b.m.Ensure(key, "a"); !errors.Is(err, ErrKey) {
				t.Errorf("ensure %q: got %v, want ErrKey", key, err)
			}
		}
		if b.m.Nudge("x", WhyUser) {
			t.Error("nudge of an unknown key: got true")
		}
		<-b.m.Remove("x") // closed
	})
}

func TestNames(t *testing.T) {
	if got, want := (WhyUser | WhyEndpoint).String(), "endpoint|user"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	for s, want := range map[State]string{0: "none", Dialing: "dialing", Gone: "gone", 99: "state(99)"} {
		if got := s.String(); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}

// An advertisement that comes and goes does not make dials more frequent than
// the floor, also when nothing of the key was left in between; and nothing is
// remembered for good. Guard: leaveLocked. Without it each coming is a dial at
// once, and one flapping advertisement uses up the rate of all.
func TestFloorOutlivesTheEntry(t *testing.T) {
	inBubble(t, nil, func(b *bench) {
		b.net.put("a", &device{id: "A"})
		for range 200 {
			b.ensure("k", "a")
			b.pass(25 * time.Millisecond)
			<-b.m.Remove("k")
			b.pass(25 * time.Millisecond)
		}
		dials := b.net.dialed()
		if len(dials) < 5 {
			t.Errorf("dials within 10 s: got %d, want some", len(dials))
		}
		for i := 1; i < len(dials); i++ {
			if got := dials[i].at.Sub(dials[i-1].at); got < b.m.o.Floor {
				t.Errorf("dial %d came %v after the one before, want at least %v", i, got, b.m.o.Floor)
			}
		}
		b.pass(time.Minute)
		b.ensure("k", "a")
		b.pass(time.Millisecond) // long gone: at once
		if got := len(b.net.dialed()); got != len(dials)+1 {
			t.Errorf("a minute later: got %d dials, want 1", got-len(dials))
		}
		for i := range 1000 {
			key := Key(fmt.Sprint("x", i))
			b.ensure(key, "a")
			b.pass(10 * time.Millisecond)
			<-b.m.Remove(key)
		}
		if got := len(b.m.left); got > 250 { // 50 leave within the floor
			t.Errorf("got %d keys remembered, want only the latest", got)
		}
	})
}
