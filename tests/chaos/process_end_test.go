//go:build linux

package chaos

import (
	"errors"
	"os/exec"
	"slices"
	"syscall"
	"testing"
	"time"

	"resonatebridge/tests/internal/facts"
	"resonatebridge/tests/internal/scene"
)

// end is how long a bridge that is told to end may take.
const end = 5 * time.Second

// TestBridgeEndsOffline ends the bridge in order and by force: it says that it
// is offline, or the broker does.
func TestBridgeEndsOffline(t *testing.T) {
	for sig, name := range signals {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			notes := facts.Begin(t, processSection)
			h := newHousehold(t)
			began := time.Now()
			h.bridge.Signal(sig)
			h.watch.Is("resonate/bridge/state", "offline")
			notes.Add("bridge ended by "+name+", offline in the broker", time.Since(began), end.String())
			if took := time.Since(began); took > end {
				t.Errorf("offline after %v, want %v", took, end)
			}
			if got := scene.Retained(t, "mqtt://"+h.at(brokerPort))["resonate/bridge/state"]; got != "offline" {
				t.Errorf("got %q retained, want offline", got)
			}
			if _, err := h.bridge.Wait(end); sig == syscall.SIGTERM && err != nil {
				t.Errorf("ended by %s with %v", name, err)
			}
		})
	}
}

// TestSecondSignal tells a bridge to end twice, while a broker that hangs keeps
// it from ending in order: the second time it ends at once.
func TestSecondSignal(t *testing.T) {
	t.Parallel()
	h := newHousehold(t)
	h.broker.Signal(syscall.SIGSTOP)
	h.bridge.Signal(syscall.SIGTERM)
	h.until("the bridge has heard the first signal", func() bool { return h.printed(h.bridge, "bridge stopping") })
	h.bridge.Signal(syscall.SIGTERM)
	took, err := h.bridge.Wait(end)
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.Sys().(syscall.WaitStatus).Signal() != syscall.SIGTERM {
		t.Errorf("got the end %v, want that of the second signal", err)
	}
	if took > time.Second {
		t.Errorf("took %v after the second signal, want at once", took)
	}
}

// TestBridgeEndsWhateverHangs tells a bridge to end while others hang or are no
// more.
func TestBridgeEndsWhateverHangs(t *testing.T) {
	takes(t, "ten seconds")
	t.Parallel()
	notes := facts.Begin(t, processSection)
	var took []time.Duration
	for _, c := range []struct {
		sig  syscall.Signal
		whom []string
	}{
		{syscall.SIGSTOP, []string{"broker"}},
		{syscall.SIGSTOP, []string{"speakers"}},
		{syscall.SIGSTOP, []string{"broker", "speakers"}},
		{syscall.SIGKILL, []string{"broker"}},
		{syscall.SIGKILL, []string{"broker", "speakers"}},
	} {
		h := newHousehold(t)
		for _, name := range c.whom {
			for _, p := range h.processes(name) {
				p.Signal(c.sig)
			}
		}
		began := time.Now()
		h.ends(h.bridge, syscall.SIGTERM)
		took = append(took, time.Since(began))
	}
	notes.Add("bridge told to end while broker, speakers or both hang or are dead", took, end.String())
}

// TestStopped freezes the speakers, the bridge or the broker for half a minute:
// the kernel goes on acknowledging what they are sent.
func TestStopped(t *testing.T) {
	takes(t, "two minutes")
	t.Parallel()
	notes := facts.Begin(t, processSection)
	const frozen = 30 * time.Second
	names := []string{"speakers", "bridge", "broker"}
	var houses []*household
	for range names {
		h := newHousehold(t)
		h.watch.Patience = blind + slack
		h.remember()
		houses = append(houses, h)
	}
	began := time.Now()
	for i, name := range names {
		for _, p := range houses[i].processes(name) {
			p.Signal(syscall.SIGSTOP)
		}
	}
	var noticed []time.Duration
	speakers := houses[0]
	speakers.watch.Patience = notice + slack
	for _, id := range []string{speakers.listensID, speakers.dialsID} {
		speakers.watch.Until("it is seen that "+id+" is frozen", func(t scene.Topics) bool { return !t.Is(topic(id, "connection"), "connected") })
		noticed = append(noticed, time.Since(began))
	}
	speakers.watch.Patience = blind + slack
	notes.Add("frozen speaker noticed", noticed, notice.String())
	time.Sleep(frozen - time.Since(began))
	woken := time.Now()
	for i, name := range names {
		for _, p := range houses[i].processes(name) {
			p.Signal(syscall.SIGCONT)
		}
	}
	for i, name := range names {
		h := houses[i]
		if name == "broker" {
			if slices.Contains(h.watch.Since(0), "resonate/bridge/state offline") {
				t.Error("the bridge was given up for a broker that was frozen for less than the keep-alive")
			}
		}
		h.converges()
		notes.Add(name+" frozen for "+frozen.String()+", then until all was well", time.Since(woken), blind.String())
	}
}
