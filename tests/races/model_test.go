package races

import (
	"flag"
	"fmt"
	"os"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"resonatebridge/resonate"
	"resonatebridge/tests/internal/facts"
)

var steps = flag.Int("steps", 0, "TestModel: at least so many steps, others each time; 0: 5,000, the same each time")

const modelSpeakers = 4

// brokerCalm is after how long a fault of the broker or its link is over: 45 s
// until a dead link is noticed, 30 s until the next attempt, and some to catch up.
const brokerCalm = 90 * time.Second

// op is one kind of step.
type op struct {
	name   string
	weight int
	do     func(*world, step)
}

// step is one operation and what chooses its details.
type step struct {
	op     op
	a, b   int
	long   time.Duration
	settle bool // all that follows at once has happened before the next step
}

func (s step) String() string {
	return fmt.Sprintf("%s(%d %d %v)", s.op.name, s.a, s.b, s.long)
}

func (s step) flip() bool { return s.b%2 == 0 }

// TestModel takes the whole bridge through random days and compares it with the
// reference model: after every step what must never be otherwise, now and then
// that everybody is where he belongs, also at the broker, and at the end that
// nothing is left.
func TestModel(t *testing.T) {
	notes := facts.Begin(t, "The whole bridge against a model of it")
	table := ops()
	var weighted []op
	for _, o := range table {
		for range o.weight {
			weighted = append(weighted, o)
		}
	}
	times := []time.Duration{
		time.Millisecond, 30 * time.Millisecond, 300 * time.Millisecond, time.Second, 3 * time.Second, 3 * time.Second,
		10 * time.Second, 10 * time.Second, 20 * time.Second, 65 * time.Second, 200 * time.Second,
	}
	// rapid's own integers are mostly small; operations are to be as frequent as
	// they are weighted.
	uniform := func(rt *rapid.T, n int) (i int) {
		const bits = 10
		for range bits {
			i *= 2
			if rapid.Bool().Draw(rt, "bit") {
				i++
			}
		}
		return i * n >> bits
	}
	random := rapid.Custom(func(rt *rapid.T) step {
		return step{
			op: weighted[uniform(rt, len(weighted))],
			a:  uniform(rt, 1<<10), b: uniform(rt, 1<<10),
			long:   times[uniform(rt, len(times))],
			settle: uniform(rt, 10) >= 3,
		}
	})
	want := *steps
	if want == 0 {
		want = 5000
		if err := flag.Set("rapid.seed", "1"); err != nil {
			t.Fatal(err)
		}
	}
	total, runs, virtual := 0, 0, time.Duration(0)
	for total < want && !t.Failed() {
		rapid.Check(t, func(rt *rapid.T) {
			schedule := rapid.SliceOfN(random, 30, 80).Draw(rt, "schedule")
			wrong, took := play(t, schedule)
			total += len(schedule)
			runs++
			virtual += took
			if wrong != "" {
				rt.Fatal(wrong)
			}
		})
	}
	notes.Add("random steps of the whole bridge, each compared with the reference model", total, fmt.Sprint(want, " at least"))
	notes.Add("days that began and ended with them", runs, "")
	notes.Add("virtual time", virtual.Round(time.Minute), "")
}

// memoryDir is a directory in memory where there is one: records are synced to
// the disk, which is slow and not what is tested here.
func memoryDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "races-") //nolint:usetesting // TempDir is on the disk
	if err != nil {
		return t.TempDir()
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

// play runs one schedule in a bubble and says what went wrong, and how much
// time passed in it.
func play(t *testing.T, schedule []step) (wrong string, took time.Duration) {
	t.Helper()
	dir := memoryDir(t)
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		w := newWorld(t, dir, modelSpeakers)
		for _, s := range w.speakers[1:] { // one has to find its own way
			w.announce(s, 0, false)
		}
		for i, s := range schedule {
			w.run(i, s)
			if len(w.wrong) > 0 {
				break
			}
		}
		if len(w.wrong) == 0 {
			w.end()
		}
		w.close()
		if len(w.wrong) > 0 {
			wrong = strings.Join(append(w.wrong, w.scene), "\n")
		}
		took = time.Since(began)
	})
	return wrong, took
}

func (w *world) run(i int, s step) {
	mark := "~"
	if s.settle {
		mark = " "
	}
	w.do(func() {
		w.trace = append(w.trace, fmt.Sprintf("%s %3d%s %v", time.Now().Format("15:04:05.000"), i, mark, s))
	})
	w.step = i
	s.op.do(w, s)
	if s.settle {
		synctest.Wait()
		w.collect()
		w.check()
	}
	w.do(func() { w.blurred = !s.settle })
}

// end heals the world, and then everybody is connected; then takes all away,
// and then nothing is left.
func (w *world) end() {
	w.do(func() {
		for _, c := range w.bridge.wires {
			c.Thaw()
		}
		for _, s := range w.speakers {
			s.mode = open
			for _, l := range s.lines {
				l.conn.Thaw()
				l.resume()
				l.sick = l.dead
			}
			s.disturbed()
		}
	})
	time.Sleep(2 * brokerCalm)
	synctest.Wait()
	w.blurred = true
	w.collect()
	for _, s := range w.speakers {
		if w.bridge.Server.Snapshot().Player(s.id) != nil {
			w.ask(topic(s, "set"), map[string]any{"custody": "auto"}, func() { s.choose("auto", s.parks) }, nil)
		}
		w.announce(s, 0, true)
	}
	time.Sleep(time.Second)
	synctest.Wait()
	w.collect()
	for _, s := range w.speakers {
		if w.bridge.Server.Snapshot().Player(s.id) != nil {
			w.ask(topic(s, "set"), map[string]any{"reconnect": true}, func() { s.nudge("user") }, nil)
		}
	}
	time.Sleep(6 * time.Minute)
	synctest.Wait()
	w.blurred = false
	w.collect()
	w.check()
	w.quiet()
	for _, s := range w.speakers {
		if p := w.bridge.Server.Snapshot().Player(s.id); p == nil || p.Connection != resonate.Connected {
			w.complain("%s: got %+v, want it connected in a world that is well: %v", s.id, p, s)
		}
	}
	if len(w.wrong) > 0 {
		return
	}

	for _, s := range w.speakers {
		w.do(func() { s.mode = refuse })
		w.withdraw(s, 0)
		w.withdraw(s, 1)
		w.ask("resonate/bridge/request/device/remove", map[string]any{"id": s.id}, s.forgotten, nil)
	}
	for name := range w.named {
		w.ask("resonate/bridge/request/group/remove", map[string]any{"id": name}, func() { w.group(name).become(false, true) }, nil)
	}
	time.Sleep(time.Minute)
	synctest.Wait()
	w.collect()
	w.check()
	for topic, payload := range ours(w.broker.Retained()) {
		if topic != "homeassistant/device/resonate_bridge/config" {
			w.complain("%s is left over: %q", topic, payload)
		}
	}
	w.halt()
	if got := w.broker.Retained()["resonate/bridge/state"]; got != "offline" {
		w.complain("after its end the bridge is %q at the broker, want offline", got)
	}
	records := len(w.journal.last)
	time.Sleep(time.Hour) // no timer is left
	synctest.Wait()
	if n := len(w.journal.last) - records; n > 0 {
		w.complain("%d log records after the end", n)
	}
}
