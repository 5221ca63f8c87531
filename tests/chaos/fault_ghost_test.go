package chaos

import (
	"strings"
	"testing"
)

// TestBrokerRestoredFromAnOldCopy gives a broker that restarts what it retained
// of a speaker that was removed since, as one does that lost its last minutes in
// a power cut: the speaker haunts nobody.
func TestBrokerRestoredFromAnOldCopy(t *testing.T) {
	t.Parallel() // it waits more than it works
	h := newHouse(t)
	h.speaker("stays", true)
	h.online()
	h.truth()
	old := map[string]string{}
	for topic, payload := range h.broker.Retained() {
		if strings.Contains(topic, "stays") {
			old[strings.ReplaceAll(topic, "stays", "gone")] = strings.ReplaceAll(payload, "stays", "gone")
		}
	}
	if len(old) < 10 {
		t.Fatalf("only %d topics of a speaker: %v", len(old), old)
	}
	for range 2 { // the first time it may be what it looks for at its start
		h.line.set(fault{silent: true}, forth, back) // the bridge hears of it when all is there
		h.broker.Stop()
		h.broker.Start()
		for topic, payload := range old {
			h.watch.Retain(topic, payload)
		}
		h.line.heal()
		h.truth()
	}
}
