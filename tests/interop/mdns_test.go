package interop

import (
	"fmt"
	"strings"
	"syscall"
	"testing"
	"time"

	"resonatebridge/tests/internal/scene"
)

// newNetwork is a network of its own, where the speakers live.
func newNetwork(t *testing.T) *scene.Network {
	t.Helper()
	needs(t, "ip")
	n, err := scene.NewNetwork(t)
	if err != nil {
		row("dialled over mDNS", fmt.Sprintf("SKIPPED: %v", err))
		t.Skip(err)
	}
	return n
}

// TestFoundByMDNS drives clients that wait to be dialled: the bridge hears of
// them over real multicast DNS and dials.
func TestFoundByMDNS(t *testing.T) {
	for _, version := range []string{"6.1.1"} {
		t.Run("aiosendspin "+version, func(t *testing.T) {
			python := installed("aiosendspin-"+version, "bin", "python")
			needs(t, python)
			who := "aiosendspin " + version + ", dialled over mDNS"
			net := newNetwork(t)
			m := startMosquitto(t)
			h := watch(t, m.url())
			b := startBridge(t, m.url(), net.Addr, "RESONATE_DISCOVERY_INTERFACES="+net.Link)
			h.is("resonate/bridge/state", "online", 10*time.Second)

			port := map[string]int{"speaker-a": 8928, "speaker-b": 8930}
			spawn := func(id, name string) *peer {
				return startPeer(t, id, net.Inside(python, "peers/player.py", "listen", fmt.Sprint(port[id]), id, name, net.Far)...)
			}
			a := spawn("speaker-a", "Kitchen")
			a.heard(0, 15*time.Second, "it listens", func(ev map[string]any) bool { return ev["event"] == "listening" })
			row(who, fmt.Sprintf("advertised to retained online: %v", h.is("resonate/player/speaker-a/availability", "online", 10*time.Second).Round(time.Millisecond)))
			row(who, "dialect "+dialectOf(h, "speaker-a"))

			// Volume both ways on a dialled connection.
			h.send("resonate/player/speaker-a/set/volume", "31")
			h.is("resonate/player/speaker-a/volume", "31", 3*time.Second)
			a.do("volume", 64)
			h.is("resonate/player/speaker-a/volume", "64", 3*time.Second)
			a.do("mute", true)
			h.is("resonate/player/speaker-a/mute", "ON", 3*time.Second)
			h.send("resonate/player/speaker-a/set/mute", "OFF")
			h.is("resonate/player/speaker-a/mute", "OFF", 3*time.Second)

			// Grouping of two.
			spawn("speaker-b", "Bath")
			h.is("resonate/player/speaker-b/availability", "online", 20*time.Second)
			h.send("resonate/player/speaker-b/set/join", "Kitchen")
			h.until(3*time.Second, "both are in one group", func(topics map[string]string) bool {
				return strings.Contains(topics["resonate/player/speaker-a/state"], `"members":["speaker-a","speaker-b"]`)
			})
			row(who, "volume and mute both ways, two grouped")

			// Goodbye restart: the server dials again by itself.
			mark := a.mark()
			a.do("goodbye", "restart")
			a.heard(mark, 15*time.Second, "dialled again", func(ev map[string]any) bool { return ev["event"] == "open" })
			h.is("resonate/player/speaker-a/connection", "connected", 5*time.Second)

			// Goodbye another_server: it stays away until the user asks.
			mark = a.mark()
			a.do("goodbye", "another_server")
			h.is("resonate/player/speaker-a/connection", "held_by_other_server", 5*time.Second)
			if got := h.get("resonate/player/speaker-a/availability"); got != "online" {
				t.Errorf("availability %q while held by another server, want online", got)
			}
			h.send("resonate/player/speaker-a/set/reconnect", "PRESS")
			a.heard(mark, 10*time.Second, "dialled again", func(ev map[string]any) bool { return ev["event"] == "open" })
			h.is("resonate/player/speaker-a/connection", "connected", 5*time.Second)
			row(who, "goodbye restart redialled; another_server parked until Reconnect")

			// kill -9 and return at the same address.
			a.kill(syscall.SIGKILL)
			h.is("resonate/player/speaker-a/availability", "offline", 10*time.Second)
			a = spawn("speaker-a", "Kitchen")
			took := h.is("resonate/player/speaker-a/availability", "online", 30*time.Second)
			row(who, fmt.Sprintf("kill -9, started again to retained online: %v (start of Python included)", took.Round(10*time.Millisecond)))
			if got := h.find("resonate/player/speaker-", "/state"); len(got) != 2 {
				t.Errorf("player states %v, want two", got)
			}

			// Orderly end: mDNS goodbye, offline, and no ghost, no removal.
			a.do("stop", nil)
			h.is("resonate/player/speaker-a/availability", "offline", 10*time.Second)
			if got := h.find("homeassistant/device/resonate_speaker-a", "/config"); len(got) != 1 {
				t.Errorf("discovery documents %v, want one: offline is not removal", got)
			}
			took = b.stop()
			row(who, fmt.Sprintf("bridge stopped in %v", took.Round(10*time.Millisecond)))
		})
	}
}
