package interop

import (
	"encoding/json"
	"fmt"
	"strings"
	"syscall"
	"testing"
	"time"
)

// kind is one published client and how to run it.
type kind struct {
	name  string
	needs []string
	// spawn starts a speaker of this kind; url is where the bridge listens.
	spawn func(t *testing.T, url, id, name string) *peer
	// reasons are the goodbyes that it can say.
	goodbye string
	// remote reports whether it obeys volume and mute: R1 clients have no
	// message for it, the server turns the volume itself.
	remote bool
}

func js() kind {
	dir := installed()
	return kind{
		name: "@sendspin/sendspin-js 3.2.1", needs: []string{"node", installed("node_modules", "@sendspin", "sendspin-js", "dist", "index.js")},
		goodbye: "restart", remote: true,
		spawn: func(t *testing.T, url, id, name string) *peer {
			t.Helper()
			return startPeer(t, id, "node", "--import", "./peers/resolve.mjs", "peers/player.mjs", dir, strings.Replace(url, "ws://", "http://", 1), id, name)
		},
	}
}

func py(pkg, version, path string, remote bool) kind {
	python := installed(pkg+"-"+version, "bin", "python")
	return kind{
		name: pkg + " " + version, needs: []string{python}, goodbye: "restart", remote: remote,
		spawn: func(t *testing.T, url, id, name string) *peer {
			t.Helper()
			return startPeer(t, id, python, "peers/player.py", "dial", url+path, id, name)
		},
	}
}

func TestDialIn(t *testing.T) {
	for _, k := range []kind{
		js(),
		py("aiosendspin", "6.1.1", "/sendspin", true),
		py("aiosendspin", "2.0.1", "/sendspin", true),
		py("aioresonate", "0.13.2", "/resonate", false),
	} {
		t.Run(k.name, func(t *testing.T) {
			needs(t, k.needs...)
			m := startMosquitto(t)
			h := watch(t, m.url())
			b := startBridge(t, m.url(), "127.0.0.1", "RESONATE_DISCOVERY_ENABLED=false")
			drive(t, h, k.name, k.remote, k.goodbye, func(id, name string) *peer {
				return k.spawn(t, "ws://"+b.listen, id, name)
			})
			took := b.stop()
			h.is("resonate/bridge/state", "offline", 3*time.Second)
			row(k.name, fmt.Sprintf("bridge stopped in %v with speakers connected", took.Round(10*time.Millisecond)))
		})
	}
}

// drive goes through the life of two speakers and checks at each step what a
// user sees in MQTT.
func drive(t *testing.T, h *house, who string, remote bool, goodbye string, spawn func(id, name string) *peer) {
	t.Helper()
	topic := func(id, leaf string) string { return "resonate/player/" + id + "/" + leaf }
	note := func(what string, took time.Duration) {
		row(who, fmt.Sprintf("%s: %v", what, took.Round(time.Millisecond)))
	}
	h.is("resonate/bridge/state", "online", 10*time.Second)

	// It appears once, with its name and roles.
	a := spawn("speaker-a", "Kitchen")
	h.is(topic("speaker-a", "availability"), "online", 15*time.Second)
	h.is(topic("speaker-a", "connection"), "connected", time.Second)
	st := h.state("speaker-a")
	if st["name"] != "Kitchen" {
		t.Errorf("name %v, want Kitchen", st["name"])
	}
	h.until(3*time.Second, "the speaker is listed once with its roles", func(topics map[string]string) bool {
		var devices []map[string]any
		if json.Unmarshal([]byte(topics["resonate/bridge/devices"]), &devices) != nil || len(devices) != 1 {
			return false
		}
		roles := fmt.Sprint(devices[0]["roles"])
		return strings.Contains(roles, "player@v1") && strings.Contains(roles, "controller@v1") && strings.Contains(roles, "metadata@v1")
	})
	if got := h.find("homeassistant/device/resonate_speaker-a", "/config"); len(got) != 1 {
		t.Errorf("discovery documents %v, want one", got)
	}
	row(who, "appears once, right name and roles, dialect "+dialectOf(h, "speaker-a"))

	// Volume and mute, both ways.
	mark := a.mark()
	began := time.Now()
	h.send(topic("speaker-a", "set/volume"), "31")
	h.is(topic("speaker-a", "volume"), "31", 3*time.Second)
	note("volume command to retained state", time.Since(began))
	if remote {
		a.heard(mark, 3*time.Second, "volume 31 at the speaker", func(ev map[string]any) bool { return ev["volume"] == 31.0 })
	}
	h.send(topic("speaker-a", "set"), `{"mute": true, "transaction": "t1"}`)
	h.until(3*time.Second, "an ok result for t1", func(topics map[string]string) bool {
		r := topics[topic("speaker-a", "result")]
		return strings.Contains(r, `"t1"`) && strings.Contains(r, `"ok"`)
	})
	h.is(topic("speaker-a", "mute"), "ON", 3*time.Second)
	h.send(topic("speaker-a", "set/mute"), "TOGGLE")
	h.is(topic("speaker-a", "mute"), "OFF", 3*time.Second)
	if remote {
		a.do("volume", 64)
		note("knob to retained state", h.is(topic("speaker-a", "volume"), "64", 3*time.Second))
		a.do("mute", true)
		h.is(topic("speaker-a", "mute"), "ON", 3*time.Second)
		a.do("mute", false)
		h.is(topic("speaker-a", "mute"), "OFF", 3*time.Second)
		row(who, "volume and mute both ways")
	} else {
		row(who, "volume and mute by the server's own gain (the dialect has no message for it)")
	}

	// Grouping of two.
	spawn("speaker-b", "Bath")
	h.is(topic("speaker-b", "availability"), "online", 15*time.Second)
	h.send(topic("speaker-b", "set/join"), "speaker-a")
	h.until(3*time.Second, "both are in one group", func(topics map[string]string) bool {
		both := `"members":["speaker-a","speaker-b"]`
		return strings.Contains(topics[topic("speaker-a", "state")], both) && strings.Contains(topics[topic("speaker-b", "state")], both)
	})
	gid := fmt.Sprint(h.state("speaker-b")["group"].(map[string]any)["id"])
	h.send(topic("speaker-a", "set/volume"), "20")
	h.is(topic("speaker-a", "volume"), "20", 3*time.Second)
	h.send(topic("speaker-b", "set/volume"), "40")
	h.is(topic("speaker-b", "volume"), "40", 3*time.Second)
	h.send("resonate/group/"+gid+"/set/volume", "50")
	h.is(topic("speaker-a", "volume"), "40", 3*time.Second)
	h.is(topic("speaker-b", "volume"), "60", 3*time.Second)
	h.is("resonate/group/"+gid+"/volume", "50", 3*time.Second)
	h.send(topic("speaker-b", "set/unjoin"), "1")
	h.until(3*time.Second, "both are alone again", func(topics map[string]string) bool {
		return strings.Contains(topics[topic("speaker-a", "state")], `"kind":"solo"`) &&
			strings.Contains(topics[topic("speaker-b", "state")], `"kind":"solo"`)
	})
	row(who, "two grouped, group volume 50 over 20 and 40 gives 40 and 60, ungrouped")

	// Goodbye and return.
	a.do("goodbye", goodbye)
	note("goodbye to connection state", h.until(3*time.Second, "speaker-a is not connected", func(topics map[string]string) bool {
		return topics[topic("speaker-a", "connection")] != "connected"
	}))
	a.do("connect", nil)
	h.is(topic("speaker-a", "connection"), "connected", 10*time.Second)
	h.is(topic("speaker-a", "availability"), "online", 3*time.Second)

	// kill -9 and return: offline after the grace of 2 s, never earlier.
	a.kill(syscall.SIGKILL)
	h.until(5*time.Second, "speaker-a is not connected", func(topics map[string]string) bool {
		return topics[topic("speaker-a", "connection")] != "connected"
	})
	if got := h.get(topic("speaker-a", "availability")); got != "online" {
		t.Errorf("availability %q right after kill -9, want online within the grace", got)
	}
	note("kill -9 to offline, with 2 s of grace", h.is(topic("speaker-a", "availability"), "offline", 5*time.Second))
	spawn("speaker-a", "Kitchen")
	h.is(topic("speaker-a", "availability"), "online", 15*time.Second)

	// No duplicate, no ghost.
	if got := h.find("resonate/player/", "/state"); len(got) != 2 {
		t.Errorf("player states %v, want two", got)
	}
	if got := h.find("homeassistant/device/resonate_speaker", "/config"); len(got) != 2 {
		t.Errorf("discovery documents %v, want two", got)
	}
	row(who, "goodbye and return, kill -9 and return, no duplicate, no ghost")
}

// dialectOf reads the dialect that the bridge tells about a player.
func dialectOf(h *house, pid string) string {
	h.t.Helper()
	dialect := ""
	h.until(3*time.Second, pid+" is listed", func(topics map[string]string) bool {
		var devices []map[string]any
		_ = json.Unmarshal([]byte(topics["resonate/bridge/devices"]), &devices)
		for _, d := range devices {
			if d["id"] == pid && d["connection"] == "connected" {
				dialect = fmt.Sprint(d["dialect"])
			}
		}
		return dialect != ""
	})
	return dialect
}

func TestBrokerComesAndGoes(t *testing.T) {
	k := js()
	needs(t, k.needs...)
	m := startMosquitto(t)
	h := watch(t, m.url())
	b := startBridge(t, m.url(), "127.0.0.1", "RESONATE_DISCOVERY_ENABLED=false")
	a := k.spawn(t, "ws://"+b.listen, "speaker-a", "Kitchen")
	h.is("resonate/player/speaker-a/availability", "online", 15*time.Second)
	h.is("resonate/bridge/state", "online", time.Second)

	for _, how := range []struct {
		name string
		end  func()
	}{
		{"restarted", func() { m.stop() }},
		{"killed with -9", func() { m.kill(syscall.SIGKILL); <-m.done }},
	} {
		how.end()
		a.do("volume", 17) // changes while the broker is away
		h.forget()
		a.do("volume", 23)
		m.run()
		began := time.Now()
		h.is("resonate/bridge/state", "online", 40*time.Second)
		h.is("resonate/player/speaker-a/volume", "23", 5*time.Second)
		h.is("resonate/player/speaker-a/availability", "online", 5*time.Second)
		h.until(5*time.Second, "the discovery document is back", func(topics map[string]string) bool {
			return topics["homeassistant/device/resonate_speaker-a/config"] != ""
		})
		row("Mosquitto 2", fmt.Sprintf("%s without persistence: everything is back after %v", how.name, time.Since(began).Round(10*time.Millisecond)))
		h.send("resonate/player/speaker-a/set/volume", "55")
		h.is("resonate/player/speaker-a/volume", "55", 5*time.Second)
	}

	t.Cleanup(func() { h.client.Disconnect(100) }) // before the broker ends, which was started after it

	// The bridge dies: the broker says so. It comes back: no ghost, no change.
	b.kill(syscall.SIGKILL)
	<-b.done
	h.is("resonate/bridge/state", "offline", 50*time.Second)
	h.forget()
	b.run()
	h.is("resonate/bridge/state", "online", 20*time.Second)
	h.is("resonate/player/speaker-a/connection", "connected", 20*time.Second)
	if got := h.find("resonate/player/", "/state"); len(got) != 1 {
		t.Errorf("player states %v, want one", got)
	}
	row("Mosquitto 2", "bridge killed with -9: last will seen; back after restart, no ghost")

	// A retained command is ignored and answered.
	h.client.Publish("resonate/player/speaker-a/set/volume", 1, true, "99").WaitTimeout(time.Second)
	h.is("resonate/player/speaker-a/volume", "99", 3*time.Second) // live, it counts (MQTT 3.1.1: the flag is cleared for subscribers)
	h.send("resonate/player/speaker-a/set/volume", "12")
	h.is("resonate/player/speaker-a/volume", "12", 3*time.Second)
	b.stop()
	h.forget()
	b.run()
	h.is("resonate/player/speaker-a/connection", "connected", 20*time.Second)
	h.until(5*time.Second, "the stored command is answered with retained_ignored", func(topics map[string]string) bool {
		return strings.Contains(topics["resonate/player/speaker-a/result"], "retained_ignored")
	})
	if got := h.get("resonate/player/speaker-a/volume"); got != "12" {
		t.Errorf("volume %s after a restart with a retained command of 99, want 12", got)
	}
	row("Mosquitto 2", "a retained command is ignored after a restart and answered with retained_ignored")
}
