//go:build linux

package chaos

import (
	"errors"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"resonatebridge/tests/internal/facts"
	"resonatebridge/tests/internal/scene"
)

// TestCrashLeavesNoGhost kills the bridge at twenty moments of its first second,
// while it publishes what it finds, and starts it again without one of the
// speakers and without its records: nothing of that speaker stays.
func TestCrashLeavesNoGhost(t *testing.T) {
	takes(t, "three minutes")
	t.Parallel()
	notes := facts.Begin(t, processSection)
	h := newHousehold(t)
	both := h.bridge.Env
	one := append(slices.Clone(both), "RESONATE_DISCOVERY_PLAYERS=")
	h.ends(h.bridge, syscall.SIGKILL)
	var took []time.Duration
	ghosts := 0
	for range 20 {
		h.ends(h.dials, syscall.SIGKILL) // a new one begins without a back-off
		h.dials.Start()
		h.forget()
		h.bridge.Env = both
		h.bridge.Start()
		time.Sleep(rand.N(time.Second))
		h.ends(h.bridge, syscall.SIGKILL)
		if len(h.of(h.listensID)) > 0 {
			ghosts++
		}
		h.forget()
		h.bridge.Env = one
		h.bridge.Start()
		began := time.Now()
		h.until("nothing is retained of a speaker that is not there", func() bool { return len(h.of(h.listensID)) == 0 })
		took = append(took, time.Since(began))
		h.nagging(topic(h.dialsID, "set/volume"), "41", func(t scene.Topics) bool { return t.Is(topic(h.dialsID, "volume"), "41") })
		if left := h.of(h.listensID); len(left) > 0 {
			t.Fatalf("got %v, want nothing of a speaker that is not there", left)
		}
		h.ends(h.bridge, syscall.SIGKILL)
	}
	if ghosts < 5 {
		t.Errorf("only %d of 20 crashes left something behind", ghosts)
	}
	notes.Add("ghost of a crash removed by the next start", took, "20 s")
}

// forget takes the bridge's records of speakers away, not its identity.
func (h *household) forget() {
	h.Helper()
	for _, name := range []string{"players.json", "groups.json"} {
		if err := os.Remove(filepath.Join(h.dir, name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			h.Fatal(err)
		}
	}
}

// of is what the broker retains of a speaker.
func (h *household) of(id string) (topics []string) {
	h.Helper()
	for t := range scene.Retained(h, "mqtt://"+h.at(brokerPort)) {
		if strings.Contains(t, id) {
			topics = append(topics, t)
		}
	}
	return topics
}
