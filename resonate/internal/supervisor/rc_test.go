package supervisor

import (
	"errors"
	"fmt"
	"runtime"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// The failures of the analysis of the Python reference library that this
// package is about, by their numbers there. Each comment names the guard; each
// test was seen to fail with that guard taken out.

// RC-1: being up is a property of one published value, and a disconnect that
// is ordered before it wins. Guard: publish refuses Up under the mutex once the
// entry is stopping. Without it an Up of a removed key is told.
// (TestRemoveWhileDialSucceeds is about the guard after the dial.)
func TestRC1NoUpAfterRemove(t *testing.T) {
	inBubble(t, nil, func(b *bench) {
		for i := range 100 {
			key, addr, gate := Key(fmt.Sprint("k", i)), fmt.Sprint(i), make(chan struct{})
			b.net.put(addr, &device{id: "id" + addr, upHook: func() { <-gate }})
			b.ensure(key, addr)
			b.pass(time.Second)
			// The session calls up, and its actor wants to publish that, while
			// somebody else holds the mutex: whose first act is to remove it.
			b.m.mu.Lock()
			close(gate)
			for range 1000 {
				runtime.Gosched()
			}
			e := b.m.entries[key]
			e.stopping = true
			e.cancel(ErrRemoved)
			b.m.mu.Unlock()
			<-e.done
		}
		if got := b.see.ups(""); got != 0 {
			t.Errorf("ups of removed keys: got %d, want 0", got)
		}
		if got := b.net.total; got != 100 {
			t.Errorf("sessions: got %d, want 100", got)
		}
		if got := b.net.liveAll(); got != 0 {
			t.Errorf("got %d live, want 0", got)
		}
	})
}

// RC-2: teardown runs once per session and is over before the next one begins.
// Guard: serve returns only with the result of Run. Returning when patience is
// over instead gives two sockets to one speaker.
func TestRC2NextSessionWaitsForTeardown(t *testing.T) {
	inBubble(t, nil, func(b *bench) {
		d := b.net.put("a", &device{id: "A", deaf: 20 * time.Second})
		b.ensure("k", "a")
		b.pass(time.Second)
		b.net.change(func() { d.mute = true })
		b.m.Nudge("k", WhyUser) // the probe fails, the session is killed, and does not end
		b.pass(10 * time.Second)
		if got := len(b.net.dialed()); got != 1 || b.status("k").State != Draining {
			t.Errorf("while it ends: got %d dials, state %v; want 1, draining", got, b.status("k").State)
		}
		b.net.change(func() { d.mute, d.deaf = false, 0 })
		b.pass(15 * time.Second)
		if live, peak := b.net.liveOf("A"); live != 1 || peak != 1 {
			t.Errorf("got %d live, peak %d; want 1 and 1", live, peak)
		}
		e := b.see.edges("k")
		if b.see.pattern("k") != "UDU" || !errors.Is(e[1].st.Cause, ErrHalfOpen) {
			t.Errorf("edges: got %s, cause %v; want UDU, ErrHalfOpen", b.see.pattern("k"), e[1].st.Cause)
		}
	})
}

// RC-7: the same client connects again while its old socket is half open, and
// many disconnects come at once. Guard: adopt looks up the entry that the id is
// bound to, under the mutex, and the newcomer waits there. Without it two
// entries have one player, and the old one's end comes after the new one's Up.
func TestRC7SecondSocketOfOneClient(t *testing.T) {
	inBubble(t, nil, func(b *bench) {
		for round := range 50 {
			old := &device{id: "A", deaf: time.Duration(round%7) * time.Second}
			b.adopt(old)
			b.pass(time.Second)
			b.net.change(func() { old.mute = true })
			b.adopt(&device{id: "A"})
			b.pass(time.Duration(round) * 200 * time.Millisecond)

			b.pass(20 * time.Second)
			if all := b.m.Snapshot(); len(all) != 1 || all[0].State != Up {
				t.Fatalf("round %d: got %+v, want one entry that is up", round, all)
			}
			var wg sync.WaitGroup
			for range 5 {
				wg.Go(func() { <-b.m.Remove("in:A") })
			}
			wg.Wait()
		}
		e := b.see.edges("in:A")
		if len(e) != 200 || len(b.see.edges("")) != 200 {
			t.Fatalf("edges: got %d, of all keys %d; want 200 and 200", len(e), len(b.see.edges("")))
		}
		for i, x := range e {
			if x.up != (i%2 == 0) || (i > 0 && x.gen < e[i-1].gen) {
				t.Fatalf("edge %d: got up=%v gen %d after gen %d", i, x.up, x.gen, e[max(i-1, 0)].gen)
			}
		}
	})
}

// RC-8: a reference that becomes None between check and use. Guard: a status is
// one value, stored whole under the mutex; Session is set if and only if it is
// Up. Storing it without the mutex is seen by the race detector and as an Up
// without its session.
func TestRC8SessionIsThereWhenUp(t *testing.T) {
	inBubble(t, nil, func(b *bench) {
		b.net.put("a", &device{id: "A", dropErr: errPeer, dropIn: time.Millisecond})
		b.ensure("k", "a")
		stop := make(chan struct{})
		var wg sync.WaitGroup
		for range 4 {
			wg.Go(func() {
				tick := time.NewTicker(100 * time.Microsecond)
				defer tick.Stop()
				for {
					for _, st := range b.m.Snapshot() {
						if (st.State == Up) != (st.Session != nil) {
							t.Errorf("state %v with session %v", st.State, st.Session)
						}
						if st.State == Up {
							_ = st.Session.Send() // refused or sent, never a panic
						}
					}
					select {
					case <-tick.C:
					case <-stop:
						return
					}
				}
			})
		}
		for range 100 {
			b.m.Nudge("k", WhyUser)
			b.pass(50 * time.Millisecond)
		}
		close(stop)
		wg.Wait()
		if got := b.see.ups("k"); got < 5 {
			t.Errorf("ups: got %d, want several", got)
		}
	})
}

// RC-9: check, then create. Guard: Ensure checks, enters the map and starts the
// actor in one critical section. Entering the map in the actor instead makes
// several actors for one key.
func TestRC9ConcurrentEnsureOneEntry(t *testing.T) {
	inBubble(t, nil, func(b *bench) {
		const keys = 50
		for i := range keys {
			b.net.put(fmt.Sprint(i), &device{id: fmt.Sprint("id", i), latency: time.Millisecond})
		}
		var wg sync.WaitGroup
		start := make(chan struct{})
		for range 32 {
			wg.Go(func() {
				<-start
				for i := range keys {
					b.ensure(Key(fmt.Sprint("k", i)), fmt.Sprint(i))
				}
			})
		}
		synctest.Wait()
		close(start)
		wg.Wait()
		b.pass(time.Minute)
		if got := len(b.net.dialed()); got != keys {
			t.Errorf("dials: got %d, want %d", got, keys)
		}
		if got := b.see.ups(""); got != keys {
			t.Errorf("ups: got %d, want %d", got, keys)
		}
	})
}

// RC-10: cleanup by key takes the successor down, or leaves a connection that
// no call reaches. Guards: Ensure sets next while the old entry is stopping
// (starting at once instead gives two sockets, and then the pointer comparison
// in exit is what keeps the successor in the map), exit starts it, and Remove
// clears it (else the last Remove leaves a device alive).
func TestRC10SuccessorSurvivesPredecessor(t *testing.T) {
	inBubble(t, nil, func(b *bench) {
		b.net.put("a", &device{id: "A", closing: time.Second})
		b.ensure("k", "a")
		b.pass(time.Second)
		for round := range 20 {
			old := b.m.Remove("k")
			b.ensure("k", "a")
			<-old
			b.pass(10 * time.Second)
			s := b.session("k") // it is there and can be reached
			if live, peak := b.net.liveOf("A"); live != 1 || peak != 1 {
				t.Fatalf("round %d: got %d live, peak %d; want 1 and 1", round, live, peak)
			}
			if round%2 == 1 {
				s.fail(errPeer)
				b.pass(time.Minute)
			}
		}
		b.m.Remove("k")
		b.ensure("k", "a")
		<-b.m.Remove("k")
		b.pass(10 * time.Minute)
		if live, _ := b.net.liveOf("A"); live != 0 {
			t.Errorf("after the last remove: got %d live, want 0", live)
		}
	})
}

// RC-2, of the actor: what ended the session first is its cause, whoever ends
// it again while it drains. Guard: the first look of end. Without it the Down
// of a half-open connection says that somebody removed it.
func TestRC2ActorsFirstCauseWins(t *testing.T) {
	inBubble(t, nil, func(b *bench) {
		d := b.net.put("a", &device{id: "A", deaf: 10 * time.Second})
		b.ensure("k", "a")
		b.pass(time.Second)
		b.net.change(func() { d.mute = true })
		b.m.Nudge("k", WhyUser)
		b.pass(3 * time.Second) // the probe has failed, the session drains
		<-b.m.Remove("k")
		e := b.see.edges("k")
		if b.see.pattern("k") != "UD" || !errors.Is(e[1].st.Cause, ErrHalfOpen) {
			t.Errorf("edges: got %s, the last %+v; want UD, ErrHalfOpen", b.see.pattern("k"), e[len(e)-1].st)
		}
		if got := count(b.see.log, func(st Status[*fakeSession]) bool { return st.State == Draining }); got != 1 {
			t.Errorf("told %d times that it drains, want once", got)
		}
	})
}

// G3: an end that nobody gave a reason for is an end like any other. Guard:
// parted makes ErrEnded of it.
func TestEndWithoutACauseIsRetried(t *testing.T) {
	inBubble(t, nil, func(b *bench) {
		b.net.put("a", &device{id: "A"})
		b.ensure("k", "a")
		b.pass(time.Second)
		b.session("k").fail(nil)
		b.pass(5 * time.Second)
		e := b.see.edges("k")
		if b.see.pattern("k") != "UDU" || !errors.Is(e[1].st.Cause, ErrEnded) {
			t.Errorf("edges: got %s, want UDU, the down with ErrEnded", b.see.pattern("k"))
		}
	})
}

// G7: a client is back in the very moment in which its old entry leaves: that
// has decided to go and is still in the map. Guard: the stopping case of adopt.
// Without it the entry takes the newcomer with it.
func TestNewcomerMeetsTheLeaving(t *testing.T) {
	inBubble(t, nil, func(b *bench) {
		var next *fakeSession
		b.see.hook = func(st Status[*fakeSession]) {
			if st.State == Gone && next == nil {
				next = b.adopt(&device{id: "A"})
			}
		}
		first := b.adopt(&device{id: "A"})
		b.pass(time.Second)
		first.fail(errPeer)
		b.pass(time.Second)
		if st := b.status("in:A"); st.State != Up || st.Session != next {
			t.Errorf("got %v (%v), want up with the newcomer", st.State, st.Cause)
		}
		if _, peak := b.net.liveOf("A"); peak != 1 {
			t.Errorf("peak: got %d, want 1", peak)
		}
	})
}

// B5: what is announced again and again without a change is no reason to dial.
// Guard: offerLocked wakes only for another endpoint.
func TestEqualEnsureIsNoNudge(t *testing.T) {
	inBubble(t, func(o *Options[string, *fakeSession]) {
		o.BackoffBase, o.BackoffCap = 1000*time.Hour, 1000*time.Hour
	}, func(b *bench) {
		b.ensure("dead", "nowhere")
		b.pass(time.Second)
		for range 10_000 { // in 60 s
			b.ensure("dead", "nowhere")
			b.pass(6 * time.Millisecond)
		}
		if got := len(b.net.dialed()); got != 1 {
			t.Errorf("dials: got %d, want its first", got)
		}
	})
}

// B22: what waits for its turn ends at once, whoever holds the turn. Guards:
// the contexts in turn and in sleep.
func TestRemoveWhileWaitingForItsTurn(t *testing.T) {
	for _, tc := range []struct {
		name string
		set  func(*Options[string, *fakeSession])
	}{
		{"for a slot", func(o *Options[string, *fakeSession]) { o.DialsInFlight = 1 }},
		{"for the rate", func(o *Options[string, *fakeSession]) { o.DialBurst, o.DialRate = 1, 0.01 }},
	} {
		t.Run(tc.name, func(t *testing.T) {
			inBubble(t, tc.set, func(b *bench) {
				b.net.put("slow", &device{id: "S", latency: 10 * time.Second})
				b.ensure("slow", "slow")
				b.pass(time.Second)
				b.ensure("k", "a")
				b.pass(time.Second)
				start := time.Now()
				<-b.m.Remove("k")
				if took := time.Since(start); took != 0 || len(b.net.dialed()) != 1 {
					t.Errorf("gone after %v and %d dials; want at once, and one of the other", took, len(b.net.dialed()))
				}
			})
		})
	}
}

// RC-7, over two keys: while the device is dialled it connects by itself, and
// that connection ends before the dialled one is up. Its generation is the
// newer one all the same. Guard: renumber. Without it the Up of generation 2
// follows that of 4, and who drops what is older than what was drops the truth.
func TestRC7GenerationsRisePerClient(t *testing.T) {
	inBubble(t, nil, func(b *bench) {
		gate := make(chan struct{})
		b.net.put("a", &device{id: "A", gate: gate})
		b.ensure("k", "a")
		b.pass(time.Second)
		b.adopt(&device{id: "A", dropErr: errPeer, dropIn: time.Second})
		b.pass(5 * time.Second)
		close(gate)
		b.pass(time.Second)
		edges := b.see.edges("")
		if len(edges) != 3 || !edges[0].up || edges[1].up || !edges[2].up || edges[2].st.Key != "k" {
			t.Fatalf("edges: got %+v, want up and down of in:A, then up of k", edges)
		}
		if edges[2].gen <= edges[1].gen {
			t.Errorf("the later session has generation %d, the one before it %d", edges[2].gen, edges[1].gen)
		}
	})
}
