//go:build linux

package chaos

import (
	"testing"
	"time"

	"resonatebridge/tests/internal/facts"
	"resonatebridge/tests/internal/scene"
)

// newVillage is a household whose speaker that listens is found over mDNS on a
// network of its own. The other one dials the bridge from here.
func newVillage(t *testing.T) (*household, *scene.Network) {
	t.Helper()
	n, err := scene.NewNetwork(t)
	if err != nil {
		t.Skip(err)
	}
	at := n.Addr + ":" + bridgePort
	h := furnish(t, "RESONATE_DISCOVERY_ENABLED=true", "RESONATE_DISCOVERY_INTERFACES="+n.Link, "RESONATE_DISCOVERY_PLAYERS=",
		"RESONATE_SERVER_LISTEN="+at)
	h.listens.Args = n.Inside(program(t), "player", "--name", "Listens", "--listen", "0.0.0.0:"+speakerPort)
	h.dials.Args = []string{program(t), "player", "--name", "Dials", "--server", "ws://" + at + "/sendspin"}
	h.begin()
	h.watch.Patience = blind + slack
	return h, n
}

// disturbs measures the speaker that dials while something is done to the
// other's network, until that one is seen to be gone, and for a while after.
func (h *household) disturbs(began time.Time, atLeast time.Duration) (noticed time.Duration, answers []time.Duration) {
	h.Helper()
	for volume := 10; noticed == 0 || time.Since(began) < atLeast; volume = 10 + (volume-9)%80 {
		answers = append(answers, h.answer(h.dialsID, volume))
		h.watch.Look(func(t scene.Topics) {
			if noticed == 0 && !t.Is(topic(h.listensID, "connection"), "connected") {
				noticed = time.Since(began)
			}
		})
		if noticed == 0 && time.Since(began) > blind {
			h.Fatalf("after %v nobody has noticed", time.Since(began))
		}
		time.Sleep(50 * time.Millisecond)
	}
	return noticed, answers
}

// TestPowerCut pulls the plug of a speaker's network, and puts it in again.
func TestPowerCut(t *testing.T) {
	takes(t, "two minutes")
	t.Parallel()
	notes := facts.Begin(t, linkSection)
	h, n := newVillage(t)
	n.Plug(false)
	noticed, answers := h.disturbs(time.Now(), outage)
	notes.Add("power cut noticed", noticed, notice.String())
	if noticed > notice+slack {
		t.Errorf("noticed after %v, want within %v", noticed, notice)
	}
	notes.Add("volume change of another speaker meanwhile", answers, calmest.String())
	h.watch.Is(topic(h.listensID, "availability"), "offline")
	n.Plug(true)
	began := time.Now()
	h.watch.Until("both speakers are connected again", h.well)
	notes.Add("power back, found over mDNS", time.Since(began), blind.String())
	h.obey()
}

// TestNewAddress gives a speaker another address, which its mDNS record tells.
func TestNewAddress(t *testing.T) {
	takes(t, "a minute")
	t.Parallel()
	notes := facts.Begin(t, linkSection)
	h, n := newVillage(t)
	old := n.Far
	began := time.Now()
	n.Readdress()
	h.watch.Until("the speaker is connected at its new address", func(topics scene.Topics) bool {
		return topics.Is(topic(h.listensID, "connection"), "connected") &&
			topics.Object(topic(h.listensID, "state"))["url"] == "ws://"+n.Far+":"+speakerPort+"/sendspin"
	})
	notes.Add("speaker with a new address by DHCP, connected there", time.Since(began), blind.String())
	t.Logf("it was at %s, it is at %s", old, n.Far)
	h.watch.Until("both speakers are connected", h.well)
	h.obey()
}
