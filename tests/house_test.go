// Package tests drives a whole house, in one process and on loopback: a broker,
// thirty software speakers and the bridge.
package tests

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"resonatebridge/cmd/bridge/app"
	"resonatebridge/resonate/client"
	"resonatebridge/resonate/protocol"
	"resonatebridge/tests/internal/scene"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// speakers is how many live in the house. The even ones listen and are dialled
// by the bridge, the odd ones dial in.
const speakers = 30

// house is what the steps of TestHouse work on.
type house struct {
	*testing.T
	broker   *scene.Broker
	bridge   *scene.Bridge
	watch    *scene.Watcher
	speakers []*scene.Speaker
	options  app.RunOptions // of the bridge, for its restart
	left     string         // topic of a group that is no more
}

func pid(i int) string                { return fmt.Sprintf("speaker-%02d", i) }
func topic(pid, leaf string) string   { return "resonate/player/" + pid + "/" + leaf }
func document(objectID string) string { return "homeassistant/device/resonate_" + objectID + "/config" }

// listener opens the port of a speaker before the bridge is told of it.
func listener(t *testing.T) net.Listener {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func newHouse(t *testing.T) *house {
	t.Helper()
	h := &house{T: t, broker: scene.StartBroker(t)}
	h.watch = scene.Watch(t, h.broker.URL(), nil)
	config := scene.Config(t, h.broker)
	listeners := make([]net.Listener, speakers)
	for i := 0; i < speakers; i += 2 {
		listeners[i] = listener(t)
		config.Discovery.Players = append(config.Discovery.Players, fmt.Sprintf("ws://%s/sendspin", listeners[i].Addr()))
	}
	h.options = app.RunOptions{Config: config, Build: app.Build{Version: "test"}}
	h.bridge = scene.StartBridge(t, h.options)
	h.options.Config.Server.Listen = h.bridge.Listen.String() // a restart finds its port again
	for i := range speakers {
		h.speakers = append(h.speakers, h.speaker(i, listeners[i]))
	}
	return h
}

// speaker starts speaker i, listening if l is not nil.
func (h *house) speaker(i int, l net.Listener) *scene.Speaker {
	h.Helper()
	volume := 20 + i
	o := client.PlayerOptions{
		ClientID: pid(i), Name: fmt.Sprintf("Room %d", i), Volume: &volume, Listener: l,
		Device: protocol.DeviceInfo{ProductName: "One", Manufacturer: "Acme"},
	}
	if l == nil {
		o.Server = "ws://" + h.bridge.Listen.String() + "/sendspin"
	}
	return scene.StartSpeaker(h.T, o)
}

// everybodyIsOnline waits until all speakers are connected, and no other is
// there.
func (h *house) everybodyIsOnline() scene.Topics {
	h.Helper()
	want := make([]string, speakers)
	for i := range want {
		want[i] = pid(i)
	}
	all := h.watch.Until("all speakers are connected", func(t scene.Topics) bool {
		for _, id := range want {
			if !t.Is(topic(id, "availability"), "online") || !t.Is(topic(id, "connection"), "connected") {
				return false
			}
		}
		return t.Is("resonate/bridge/state", "online")
	})
	if got := all.Speakers(); !slices.Equal(got, want) {
		h.Errorf("speakers: got %v, want %v", got, want)
	}
	return all
}

// group is the group of a speaker as its state tells it.
func group(t scene.Topics, id string) map[string]any {
	g, _ := t.Object(topic(id, "state"))["group"].(map[string]any)
	return g
}

// TestHouse goes through a day in the house. Each step begins where the one
// before ended.
func TestHouse(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	for _, step := range []struct {
		name string
		run  func(*house)
	}{
		{"all appear", (*house).appear},
		{"volume and mute by MQTT", (*house).volumeByMQTT},
		{"a knob is turned", (*house).knob},
		{"two are grouped", (*house).adHocGroup},
		{"a named group", (*house).namedGroup},
		{"names and choices", (*house).choices},
		{"speakers are cut off and return", (*house).cut},
		{"a speaker is switched off and on", (*house).offAndOn},
		{"the broker restarts", (*house).brokerRestarts},
		{"the bridge restarts", (*house).bridgeRestarts},
		{"speakers are removed", (*house).remove},
		{"the bridge ends", (*house).end},
	} {
		began := time.Now()
		step.run(h)
		if t.Failed() {
			t.Fatalf("%s: failed", step.name)
		}
		t.Logf("%s: %v", step.name, time.Since(began).Round(time.Millisecond))
	}
}

func (h *house) appear() {
	h.everybodyIsOnline()
	h.watch.Until("all discovery documents and volumes", func(t scene.Topics) bool {
		for i := range speakers {
			if t[document(pid(i))].Payload == "" || !t.Is(topic(pid(i), "mute"), "OFF") {
				return false
			}
		}
		return t[document("bridge")].Payload != ""
	})
	// What late subscribers get, Home Assistant after its restart for one.
	retained := h.broker.Retained()
	for i := range speakers {
		id := pid(i)
		var doc struct {
			Device struct {
				Name, Manufacturer, Model string
			}
			Components map[string]struct {
				UniqueID string `json:"unique_id"`
			}
		}
		if err := json.Unmarshal([]byte(retained[document(id)]), &doc); err != nil {
			h.Fatalf("document of %s: got %q: %v", id, retained[document(id)], err)
		}
		if d := doc.Device; d.Name != fmt.Sprintf("Room %d", i) || d.Manufacturer != "Acme" || d.Model != "One" {
			h.Errorf("document of %s: got the device %+v, want Room %d, Acme, One", id, d, i)
		}
		for _, key := range []string{"volume", "mute", "group", "connection"} {
			if got, want := doc.Components[key].UniqueID, "resonate_"+id+"_"+key; got != want {
				h.Errorf("document of %s: got the unique id %q of %s, want %q", id, got, key, want)
			}
		}
		for leaf, want := range map[string]string{
			"availability": "online", "connection": "connected", "volume": fmt.Sprint(20 + i), "mute": "OFF", "group": "Solo",
		} {
			if got := retained[topic(id, leaf)]; got != want {
				h.Errorf("%s of %s: got %q retained, want %q", leaf, id, got, want)
			}
		}
	}
}

func (h *house) volumeByMQTT() {
	for _, i := range []int{0, 1} { // one of each direction
		s := h.speakers[i]
		h.watch.Send(topic(s.ID, "set/volume"), "37")
		s.Until("volume 37", func(st client.State) bool { return st.Volume == 37 })
		h.watch.Is(topic(s.ID, "volume"), "37")
		h.watch.Ask(topic(s.ID, "set"), topic(s.ID, "result"), map[string]any{"volume": 12, "mute": true})
		s.Until("volume 12, muted", func(st client.State) bool { return st.Volume == 12 && st.Muted })
		h.watch.Until("volume 12, muted, in the state of "+s.ID, func(t scene.Topics) bool {
			st := t.Object(topic(s.ID, "state"))
			return st["volume"] == 12.0 && st["mute"] == true
		})
		h.watch.Send(topic(s.ID, "set/mute"), "TOGGLE")
		s.Until("not muted", func(st client.State) bool { return !st.Muted })
		h.watch.Is(topic(s.ID, "mute"), "OFF")
	}
}

func (h *house) knob() {
	for _, i := range []int{2, 3} {
		s := h.speakers[i]
		s.Act("knob", func(ctx context.Context) error { return s.SetVolume(ctx, 61) })
		h.watch.Is(topic(s.ID, "volume"), "61")
		if got := h.broker.Retained()[topic(s.ID, "volume")]; got != "61" {
			h.Errorf("volume of %s: got %q retained, want 61", s.ID, got)
		}
	}
}

func (h *house) adHocGroup() {
	a, b := pid(4), pid(5)
	h.watch.Send(topic(a, "set/join"), b)
	all := h.watch.Until("both are in one group", func(t scene.Topics) bool {
		return group(t, a)["kind"] == "adhoc" && group(t, a)["id"] == group(t, b)["id"] && t.Is(topic(a, "group"), "With Room 5")
	})
	gid := group(all, a)["id"].(string)
	for _, id := range []string{a, b} {
		h.speakers[index(id)].Until("the group "+gid, func(st client.State) bool { return st.Group.GroupID == gid })
	}
	h.watch.Is("resonate/group/"+gid+"/availability", "online")
	h.watch.Send(topic(a, "set/unjoin"), "x")
	h.watch.Until("both are alone", func(t scene.Topics) bool {
		return group(t, a)["kind"] == "solo" && group(t, b)["kind"] == "solo"
	})
	h.left = "resonate/group/" + gid + "/state" // cleared 2 s later
}

func index(id string) (i int) {
	if _, err := fmt.Sscanf(id, "speaker-%02d", &i); err != nil {
		panic(err)
	}
	return i
}

// downstairs are the members of the named group: both directions.
func downstairs() []string { return []string{pid(6), pid(7), pid(8), pid(9), pid(10)} }

func (h *house) namedGroup() {
	data := h.watch.Ask("resonate/bridge/request/group/add", "resonate/bridge/response/group/add",
		map[string]any{"name": "Downstairs", "members": downstairs()})
	if data["id"] != "downstairs" {
		h.Fatalf("group/add: got %v, want the id downstairs", data)
	}
	h.watch.Until("the group's document and its members' states", func(t scene.Topics) bool {
		for _, id := range downstairs() {
			if group(t, id)["id"] != "downstairs" || !t.Is(topic(id, "group"), "Downstairs") {
				return false
			}
		}
		device, _ := t.Object(document("group_downstairs"))["device"].(map[string]any)
		return device["name"] == "Downstairs" && t.Is("resonate/group/downstairs/availability", "online")
	})
	// The mean of 26 to 30 is 28; 50 moves everybody by 22.
	h.watch.Ask("resonate/group/downstairs/set", "resonate/group/downstairs/result", map[string]any{"volume": 50})
	h.watch.Is("resonate/group/downstairs/volume", "50")
	for _, id := range downstairs() {
		s := h.speakers[index(id)]
		s.Until("its part of the group's volume", func(st client.State) bool { return st.Volume == 20+index(id)+22 })
	}
}

func (h *house) choices() {
	h.watch.Ask("resonate/bridge/request/device/rename", "resonate/bridge/response/device/rename",
		map[string]any{"id": pid(10), "name": "Kitchen"})
	h.watch.Ask(topic(pid(11), "set"), topic(pid(11), "result"), map[string]any{"max_volume": 40, "custody": "hold"})
	h.watch.Until("the new name and choices, and nothing of the group that is no more", func(t scene.Topics) bool {
		st := t.Object(topic(pid(11), "state"))
		options, _ := st["options"].(map[string]any)
		device, _ := t.Object(document(pid(10)))["device"].(map[string]any)
		return t.Object(topic(pid(10), "state"))["name"] == "Kitchen" && device["name"] == "Kitchen" &&
			st["custody"] == "hold" && options["max_volume"] == 40.0 && t[h.left].Payload == "" &&
			!slices.ContainsFunc(h.speakers, func(s *scene.Speaker) bool { return strings.Contains(t[document(s.ID)].Payload, "With Room 10") })
	})
}

func (h *house) cut() {
	mark := h.watch.Mark()
	cut := h.speakers[12:24]
	before := make([]uint64, len(cut))
	for i, s := range cut {
		before[i] = s.Snapshot().Sessions
		s.Act("cut", s.Drop)
	}
	for i, s := range cut {
		s.Until("connected again", func(st client.State) bool { return st.Connected && st.Sessions == before[i]+1 })
	}
	h.everybodyIsOnline()
	// Back within the grace: nobody is to notice.
	for _, m := range h.watch.Since(mark) {
		if strings.HasSuffix(m, "/availability offline") {
			h.Errorf("during the cut: got %q, want nobody unavailable", m)
		}
	}
}

func (h *house) offAndOn() {
	s := h.speakers[13]
	s.Stop()
	h.watch.Until("switched off: unavailable at once", func(t scene.Topics) bool {
		return t.Is(topic(s.ID, "availability"), "offline") && t.Is(topic(s.ID, "connection"), "offline")
	})
	h.speakers[13] = h.speaker(13, nil)
	h.everybodyIsOnline()
}

func (h *house) brokerRestarts() {
	want := h.broker.Retained()
	h.broker.Stop()
	// What changes meanwhile is not lost.
	s := h.speakers[14]
	s.Act("knob", func(ctx context.Context) error { return s.SetVolume(ctx, 3) })
	h.broker.Start()
	h.watch.Is(topic(s.ID, "volume"), "3")
	s.Act("knob", func(ctx context.Context) error { return s.SetVolume(ctx, 20+14) })
	h.watch.Settles(want)

	h.watch.Send(topic(pid(1), "set/volume"), "44")
	h.speakers[1].Until("volume 44", func(st client.State) bool { return st.Volume == 44 })
	h.watch.Is(topic(pid(1), "volume"), "44")
}

// stop ends the bridge and checks what it leaves.
func (h *house) stop() {
	h.Helper()
	if took := h.bridge.Stop(); took > 5*time.Second {
		h.Errorf("the bridge took %v to stop, want at most 5s", took)
	}
	retained := h.broker.Retained()
	if got := retained["resonate/bridge/state"]; got != "offline" {
		h.Errorf("after the stop: got the bridge %q, want offline", got)
	}
	for t, payload := range retained {
		if strings.HasSuffix(t, "/availability") && payload != "offline" {
			h.Errorf("after the stop: got %q on %s, want offline", payload, t)
		}
	}
	for _, s := range h.speakers {
		s.Until("no connection", func(st client.State) bool { return !st.Connected })
	}
}

func (h *house) bridgeRestarts() {
	want := h.broker.Retained()
	h.stop()
	mark := h.watch.Mark()
	h.bridge = scene.StartBridge(h.T, h.options)
	for _, s := range h.speakers {
		s.Act("dial", s.Connect) // instead of waiting for its back-off
	}
	h.everybodyIsOnline()
	h.watch.Settles(want)
	// Home Assistant forgets no control of a speaker that is not back yet.
	for _, m := range h.watch.Since(mark) {
		if strings.HasPrefix(m, "homeassistant/device/resonate_speaker-") && !strings.Contains(m, `"volume":{"platform":"number"`) {
			h.Errorf("after the restart: got the document %.90s... without a volume", m)
		}
	}
}

func (h *house) remove() {
	off, on := h.speakers[15], h.speakers[16] // one that is gone, and a connected one
	off.Stop()
	h.watch.Is(topic(off.ID, "availability"), "offline")
	mentions := func(t string, id string) bool {
		return strings.HasPrefix(t, "resonate/player/"+id+"/") || t == document(id)
	}
	for _, s := range []*scene.Speaker{off, on} {
		h.watch.Ask("resonate/bridge/request/device/remove", "resonate/bridge/response/device/remove", map[string]any{"id": s.ID})
	}
	h.watch.Until("nothing is left of the removed speakers", func(t scene.Topics) bool {
		for name := range t {
			// Answers and events are not retained, the watcher has seen them live.
			retained := !strings.HasSuffix(name, "/result") && !strings.HasSuffix(name, "/event") && !strings.Contains(name, "/set")
			if retained && (mentions(name, off.ID) || mentions(name, on.ID)) {
				return false
			}
		}
		return true
	})
	on.Until("no connection", func(st client.State) bool { return !st.Connected })
	for name, payload := range h.broker.Retained() {
		if mentions(name, off.ID) || mentions(name, on.ID) {
			h.Errorf("after the removal: got %q retained on %s, want nothing", payload, name)
		}
	}
	if got := len(h.bridge.Server.Snapshot().Players); got != speakers-2 {
		h.Errorf("after the removal: got %d speakers, want %d", got, speakers-2)
	}
	h.speakers = slices.DeleteFunc(h.speakers, func(s *scene.Speaker) bool { return s == off || s == on })
}

func (h *house) end() { h.stop() }
