package interop

import (
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"
)

// network is a veth pair: one end here, with a name and address of its own,
// the other in a namespace where the speakers live. mDNS stays on it.
type network struct {
	link string // our end
	addr string // our address on it
	ns   string
}

func newNetwork(t *testing.T) network {
	t.Helper()
	needs(t, "ip")
	if os.Geteuid() != 0 {
		row("dialled over mDNS", "SKIPPED: network namespaces need root")
		t.Skip("network namespaces need root")
	}
	tag := fmt.Sprintf("%04x", time.Now().UnixNano()&0xffff)
	n := network{link: "rb" + tag + "a", addr: "10.231.87.1", ns: "rb" + tag}
	far := "rb" + tag + "b"
	run := func(argv ...string) error {
		out, err := exec.Command("ip", argv...).CombinedOutput()
		if err != nil {
			return fmt.Errorf("ip %s: %w: %s", strings.Join(argv, " "), err, out)
		}
		return nil
	}
	t.Cleanup(func() { _ = run("netns", "del", n.ns) }) // takes the pair along
	for _, argv := range [][]string{
		{"netns", "add", n.ns},
		{"link", "add", n.link, "type", "veth", "peer", "name", far, "netns", n.ns},
		{"addr", "add", n.addr + "/24", "dev", n.link},
		{"link", "set", n.link, "up"},
		{"-n", n.ns, "addr", "add", "10.231.87.2/24", "dev", far},
		{"-n", n.ns, "link", "set", far, "up"},
		{"-n", n.ns, "link", "set", "lo", "up"},
		{"-n", n.ns, "route", "add", "default", "via", n.addr},
	} {
		if err := run(argv...); err != nil {
			row("dialled over mDNS", "SKIPPED: network namespaces do not work here")
			t.Skipf("network namespaces do not work here: %v", err)
		}
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
			b := startBridge(t, m.url(), net.addr, "RESONATE_DISCOVERY_INTERFACES="+net.link)
			h.is("resonate/bridge/state", "online", 10*time.Second)

			port := map[string]int{"speaker-a": 8928, "speaker-b": 8930}
			spawn := func(id, name string) *peer {
				return startPeer(t, id, "ip", "netns", "exec", net.ns, python, "peers/player.py", "listen",
					fmt.Sprint(port[id]), id, name, "10.231.87.2")
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
