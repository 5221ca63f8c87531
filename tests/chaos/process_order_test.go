//go:build linux

package chaos

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"resonatebridge/tests/internal/facts"
	"resonatebridge/tests/internal/scene"
)

// orders are all orders of all non-empty choices of what.
func orders(what []string) (out [][]string) {
	for i, first := range what {
		rest := append(append([]string{}, what[:i]...), what[i+1:]...)
		out = append(out, []string{first})
		for _, o := range orders(rest) {
			out = append(out, append([]string{first}, o...))
		}
	}
	return out
}

const processSection = "Faults of processes"

var signals = map[syscall.Signal]string{syscall.SIGKILL: "SIGKILL", syscall.SIGTERM: "SIGTERM"}

// TestProcessesInEveryOrder ends bridge, broker and speakers, one, two or all
// of them, in every order, and starts them again in every order.
func TestProcessesInEveryOrder(t *testing.T) {
	takes(t, "ten minutes")
	const bound = time.Minute
	notes := facts.Begin(t, processSection)
	var mu sync.Mutex
	took := map[syscall.Signal][]time.Duration{}
	t.Cleanup(func() { // when the last of them has ended
		for sig, name := range signals {
			notes.Add("orders of ending by "+name+" and starting again, until all was well", took[sig], bound.String())
		}
	})
	all := orders([]string{"bridge", "broker", "speakers"})
	for sig, name := range signals {
		for _, stop := range all {
			for _, start := range all {
				if !same(stop, start) {
					continue
				}
				t.Run(fmt.Sprintf("%s %s start %s", name, strings.Join(stop, " "), strings.Join(start, " ")), func(t *testing.T) {
					t.Parallel()
					h := newHousehold(t)
					h.watch.Patience = bound
					h.remember()
					d := h.restart(sig, stop, start)
					mu.Lock()
					defer mu.Unlock()
					took[sig] = append(took[sig], d)
				})
			}
		}
	}
}

// same reports whether a and b are the same choice.
func same(a, b []string) bool {
	if len(a) != len(b) {
		return false
	}
	for _, x := range a {
		if !strings.Contains(" "+strings.Join(b, " ")+" ", " "+x+" ") {
			return false
		}
	}
	return true
}

func (h *household) processes(name string) []*scene.Process {
	return map[string][]*scene.Process{"bridge": {h.bridge}, "broker": {h.broker}, "speakers": {h.listens, h.dials}}[name]
}

// restart ends and starts what is named, and says how long everything took to
// come right.
func (h *household) restart(sig syscall.Signal, stop, start []string) time.Duration {
	h.Helper()
	for _, name := range stop {
		for _, p := range h.processes(name) {
			h.ends(p, sig)
		}
	}
	stopped := time.Now()
	for _, name := range start {
		for _, p := range h.processes(name) {
			p.Start()
		}
	}
	began := time.Now()
	if slices.Contains(stop, "broker") {
		h.watch.Reconnected(stopped)
	}
	h.converges()
	return time.Since(began)
}

// TestProcessesKilled kills everybody once.
func TestProcessesKilled(t *testing.T) {
	t.Parallel()
	h := newHousehold(t)
	order := []string{"broker", "bridge", "speakers"}
	t.Logf("all is well again after %v", h.restart(syscall.SIGKILL, order, order))
}
