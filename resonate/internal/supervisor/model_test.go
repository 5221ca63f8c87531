package supervisor

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"
)

// step is one operation of a schedule.
type step struct {
	op   string
	key  int
	dev  int
	why  Why
	long time.Duration
	hard bool
}

func (s step) String() string {
	return fmt.Sprintf("%s(k%d d%d %v %v %v)", s.op, s.key, s.dev, s.why, s.long, s.hard)
}

// The model's world: each key leads to one device, by one of two addresses;
// two keys lead to device 0.
func keyDevice(key int) int { return max(key-1, 0) } // k0 k1 -> d0, k2 -> d1, k3 -> d2

const modelKeys, modelDevices = 4, 3

// TestUpDownAlternateGenerations (7) runs random schedules and compares the
// map with a model: the set of wanted keys. The witness checks all along that
// ups and downs alternate, that generations rise, and that no removed key
// comes up; after each schedule the world is healed, and then a device is
// connected exactly once if a key of it is wanted, else not at all.
func TestUpDownAlternateGenerations(t *testing.T) {
	ops := []string{"ensure", "ensure", "ensure", "remove", "remove", "flap", "nudge", "nudgeall", "drop", "drop", "adopt", "power", "mute", "slow", "pass", "pass"}
	steps := rapid.Custom(func(rt *rapid.T) step {
		return step{
			op:   rapid.SampledFrom(ops).Draw(rt, "op"),
			key:  rapid.IntRange(0, modelKeys-1).Draw(rt, "key"),
			dev:  rapid.IntRange(0, modelDevices-1).Draw(rt, "dev"),
			why:  1 << rapid.IntRange(0, 7).Draw(rt, "why"),
			long: rapid.SampledFrom([]time.Duration{0, time.Millisecond, 100 * time.Millisecond, time.Second, 4 * time.Second, time.Minute}).Draw(rt, "long"),
			hard: rapid.Bool().Draw(rt, "hard"),
		}
	})
	rapid.Check(t, func(rt *rapid.T) {
		schedule := rapid.SliceOfN(steps, 1, 60).Draw(rt, "schedule")
		seed := rapid.Uint64().Draw(rt, "seed")
		if bad := runModel(t, schedule, seed); len(bad) > 0 {
			rt.Fatalf("%v\nafter %v", bad[0], schedule)
		}
	})
}

// runModel runs one schedule in a bubble of its own and returns what is wrong.
func runModel(t *testing.T, schedule []step, seed uint64) []string {
	t.Helper()
	var mu sync.Mutex
	var bad []string
	complain := func(format string, args ...any) {
		mu.Lock()
		defer mu.Unlock()
		bad = append(bad, fmt.Sprintf(format, args...))
	}
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, func(o *Options[string, *fakeSession]) { o.Rand = rand.New(rand.NewPCG(seed, 0)) })
		b.errorf, b.see.errorf = complain, complain
		w := modelWorld{b: b, wanted: map[Key]string{}, complain: complain}
		for i := range modelDevices {
			d := &device{id: fmt.Sprint("id", i), latency: 20 * time.Millisecond}
			w.devices = append(w.devices, d)
			b.net.put(fmt.Sprintf("d%d-a", i), d)
			b.net.put(fmt.Sprintf("d%d-b", i), d)
		}
		b.see.hook = w.check
		for _, s := range schedule {
			w.do(s)
			w.invariants()
		}
		w.heal()
		b.close()
	})
	return bad
}

type modelWorld struct {
	b        *bench
	complain func(string, ...any)
	devices  []*device
	adopted  []*fakeSession
	mu       sync.Mutex
	wanted   map[Key]string
}

// check is told every status: nobody comes up whom nobody wants.
func (w *modelWorld) check(st Status[*fakeSession]) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if _, ok := w.wanted[st.Key]; st.State == Up && !ok && st.Key[:3] != "in:" {
		w.complain("up of key %s, which nobody wants", st.Key)
	}
}

func (w *modelWorld) want(key Key, addr string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if addr == "" {
		delete(w.wanted, key)
		return
	}
	w.wanted[key] = addr
}

func (w *modelWorld) do(s step) {
	b, key, d := w.b, Key(fmt.Sprint("key", s.key)), w.devices[s.dev]
	settle := true
	switch s.op {
	case "ensure":
		addr := fmt.Sprintf("d%d-%s", keyDevice(s.key), map[bool]string{true: "a", false: "b"}[s.hard])
		w.want(key, addr)
		b.ensure(key, addr)
		settle = s.long > 0
	case "remove":
		w.want(key, "")
		b.m.Remove(key)
		settle = s.long > 0
	case "flap": // removed, wanted, and perhaps not wanted after all, all in one tick
		addr := fmt.Sprintf("d%d-a", keyDevice(s.key))
		b.m.Remove(key)
		w.want(key, addr)
		b.ensure(key, addr)
		if s.hard {
			w.want(key, "")
			b.m.Remove(key)
		}
		settle = s.long > 0
	case "nudge":
		b.m.Nudge(key, s.why)
	case "nudgeall":
		b.m.NudgeAll(s.why)
	case "drop":
		err := errPeer
		if s.hard {
			err = &verdictError{Verdict{Action: Action(s.key), Leaves: WhyUser | s.why, Reason: "drop"}}
		}
		for _, st := range b.m.Snapshot() {
			if st.State == Up && st.ID == d.id {
				st.Session.fail(err)
			}
		}
	case "adopt":
		w.adopted = append(w.adopted, b.adopt(d))
	case "power":
		b.net.change(func() { d.down = !d.down })
	case "mute":
		b.net.change(func() { d.mute = !d.mute })
	case "slow":
		b.net.change(func() { d.latency, d.closing, d.stuck = s.long, s.long, s.hard })
	case "pass":
		time.Sleep(s.long)
	}
	if settle {
		synctest.Wait()
	}
}

func (w *modelWorld) invariants() {
	all := w.b.m.Snapshot()
	ids := map[string]Key{}
	for i, st := range all {
		if i > 0 && all[i-1].Key >= st.Key {
			w.complain("snapshot is not sorted: %s before %s", all[i-1].Key, st.Key)
		}
		if st.State != Up {
			continue
		}
		if other, ok := ids[st.ID]; ok {
			w.complain("%s is up twice: %s and %s", st.ID, other, st.Key)
		}
		ids[st.ID] = st.Key
	}
}

// heal makes every device well, ends what was opened to us, asks for
// everything, and compares.
func (w *modelWorld) heal() {
	b := w.b
	b.net.change(func() {
		for _, d := range w.devices {
			*d = device{id: d.id, latency: 20 * time.Millisecond}
		}
	})
	time.Sleep(10 * time.Second)
	synctest.Wait()
	for _, s := range w.adopted {
		s.fail(errPeer)
	}
	for range 3 {
		b.m.NudgeAll(WhyUser)
		time.Sleep(10 * time.Second)
		synctest.Wait()
	}
	time.Sleep(10 * time.Minute)
	synctest.Wait()
	for i, d := range w.devices {
		want := 0
		for key := range modelKeys {
			if _, ok := w.wanted[Key(fmt.Sprint("key", key))]; ok && keyDevice(key) == i {
				want = 1
			}
		}
		if live, _ := b.net.liveOf(d.id); live != want {
			w.complain("%s: got %d live, want %d; wanted %v; %+v", d.id, live, want, w.wanted, b.m.Snapshot())
		}
		if key, ok := b.m.KeyOf(d.id); ok != (want == 1) || (ok && b.status(key).State != Up) {
			w.complain("%s: bound to %q %v, want bound and up: %v", d.id, key, ok, want == 1)
		}
	}
	for key := range w.wanted {
		if st, ok := b.m.Status(key); !ok || (st.Key != key && !slices.Contains(st.Aliases, key)) {
			w.complain("wanted key %s is neither an entry nor an alias: %+v", key, b.m.Snapshot())
		}
	}
}

// FuzzSchedule lets bytes choose the operations.
func FuzzSchedule(f *testing.F) {
	f.Add([]byte{0, 0, 0, 3, 0, 0, 0, 0, 0}, uint64(1))
	f.Add([]byte{0, 1, 4, 9, 0, 2, 12, 3, 8, 3, 1, 255}, uint64(2))
	ops := []string{"ensure", "remove", "nudge", "nudgeall", "drop", "adopt", "power", "mute", "slow", "pass"}
	f.Fuzz(func(t *testing.T, data []byte, seed uint64) {
		var schedule []step
		for i := 0; i+2 < len(data) && len(schedule) < 100; i += 3 {
			a, c, e := int(data[i]), int(data[i+1]), int(data[i+2])
			schedule = append(schedule, step{
				op: ops[a%len(ops)], key: c % modelKeys, dev: c / modelKeys % modelDevices, why: 1 << (e % 8),
				long: []time.Duration{0, time.Millisecond, time.Second, 4 * time.Second}[e/8%4], hard: e >= 128,
			})
		}
		for _, bad := range runModel(t, schedule, seed) {
			t.Error(bad)
		}
	})
}
