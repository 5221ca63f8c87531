package chaos

import (
	"fmt"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"resonatebridge/cmd/bridge/app"
	"resonatebridge/discovery"
	"resonatebridge/resonate"
	"resonatebridge/resonate/client"
	"resonatebridge/resonate/protocol"
	"resonatebridge/tests/internal/scene"
)

// house is a bridge whose links can be made bad, and those who live with it.
type house struct {
	*testing.T
	broker *scene.Broker
	line   *proxy // between the bridge and the broker
	bridge *scene.Bridge
	watch  *scene.Watcher
	places []*place

	mu    sync.Mutex
	edges map[string][]edge // by topic: each change of what it holds
}

// edge is a change of a topic.
type edge struct {
	payload string
	at      time.Time
}

// place is a speaker whose link to the bridge can be made bad.
type place struct {
	*scene.Speaker
	link *proxy
	in   way  // of the link, towards the bridge
	off  bool // switched off
}

func topic(pid, leaf string) string   { return "resonate/player/" + pid + "/" + leaf }
func document(objectID string) string { return "homeassistant/device/resonate_" + objectID + "/config" }

func newHouse(t *testing.T) *house {
	t.Helper()
	h := &house{T: t, broker: scene.StartBroker(t), edges: map[string][]edge{}}
	h.line = newProxy(t, strings.TrimPrefix(h.broker.URL(), "mqtt://"))
	h.watch = scene.Watch(t, h.broker.URL(), func(topic, payload string, at time.Time) {
		h.mu.Lock()
		defer h.mu.Unlock()
		if e := h.edges[topic]; len(e) == 0 || e[len(e)-1].payload != payload {
			h.edges[topic] = append(e, edge{payload, at})
		}
	})
	config := scene.Config(t, h.broker)
	config.MQTT.URL = "mqtt://" + h.line.addr()
	h.bridge = scene.StartBridge(t, app.RunOptions{Config: config, Build: app.Build{Version: "test"}})
	return h
}

// left is when topic first held something else than payload after since; false:
// it never did.
func (h *house) left(topic, payload string, since time.Time) (time.Time, bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, e := range h.edges[topic] {
		if e.payload != payload && !e.at.Before(since) {
			return e.at, true
		}
	}
	return time.Time{}, false
}

// first is when topic first held payload after since; false: not so far.
func (h *house) first(topic, payload string, since time.Time) (time.Time, bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, e := range h.edges[topic] {
		if e.payload == payload && !e.at.Before(since) {
			return e.at, true
		}
	}
	return time.Time{}, false
}

// speaker adds a speaker: one that dials the bridge, or one that the bridge is
// told of and dials.
func (h *house) speaker(id string, dials bool) *place {
	h.Helper()
	volume := 20
	o := client.PlayerOptions{ClientID: id, Name: id, Volume: &volume, Device: protocol.DeviceInfo{ProductName: "One", Manufacturer: "Acme"}}
	p := &place{}
	if dials {
		p.link, p.in = newProxy(h.T, h.bridge.Listen.String()), forth
		o.Server = "ws://" + p.link.addr() + "/sendspin"
		p.Speaker = scene.StartSpeaker(h.T, o)
	} else {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			h.Fatal(err)
		}
		p.link, p.in = newProxy(h.T, l.Addr().String()), back
		o.Listener = l
		p.Speaker = scene.StartSpeaker(h.T, o)
		h.announce(p)
	}
	h.places = append(h.places, p)
	return p
}

// announce tells the bridge where a speaker listens, as discovery does.
func (h *house) announce(p *place) {
	h.Helper()
	ep, err := discovery.ParseStatic("ws://" + p.link.addr() + "/sendspin")
	if err != nil {
		h.Fatal(err)
	}
	h.bridge.Server.Discover(discovery.Event{Kind: discovery.Announced, Endpoint: ep})
}

// online waits until every speaker is connected in the broker.
func (h *house) online() {
	h.Helper()
	for _, p := range h.places {
		if p.off {
			continue
		}
		h.watch.Until(p.ID+" is connected", func(t scene.Topics) bool {
			return t.Is(topic(p.ID, "availability"), "online") && t.Is(topic(p.ID, "connection"), "connected") && t[document(p.ID)].Payload != ""
		})
	}
	h.watch.Is("resonate/bridge/state", "online")
}

// answer has a speaker's volume changed over MQTT, and says how long it took
// until the broker had the new one.
func (h *house) answer(p *place) time.Duration {
	h.Helper()
	volume := fmt.Sprint(20 + (p.Snapshot().Volume+1)%60)
	began := time.Now()
	h.watch.Send(topic(p.ID, "set/volume"), volume)
	h.watch.Is(topic(p.ID, "volume"), volume)
	return time.Since(began)
}

// switchOff ends a speaker in order.
func (p *place) switchOff() {
	p.Stop()
	p.off = true
}

// truth waits until the broker retains what the bridge says and the bridge says
// what the speakers are: each of them once, connected over one link if it is
// on, and nothing of anybody else.
func (h *house) truth() {
	h.Helper()
	deadline := time.Now().Add(h.watch.Patience)
	for {
		lies := h.lies(h.broker.Retained(), h.bridge.Server.Snapshot())
		if len(lies) == 0 {
			return
		}
		if time.Now().After(deadline) {
			h.Fatalf("not within %v: the broker tells the truth; it lies:\n%s", h.watch.Patience, strings.Join(lies, "\n"))
		}
		time.Sleep(100 * time.Millisecond)
	}
}

func (h *house) lies(retained map[string]string, snap *resonate.Snapshot) (lies []string) {
	lie := func(format string, args ...any) { lies = append(lies, fmt.Sprintf(format, args...)) }
	is := func(topic string, want any) {
		if got := retained[topic]; got != fmt.Sprint(want) {
			lie("%s: got %q retained, want %v", topic, got, want)
		}
	}
	is("resonate/bridge/state", "online")
	var want []string
	for _, p := range h.places {
		want = append(want, p.ID)
		st, known := p.Snapshot(), snap.Player(p.ID)
		if known == nil {
			lie("%s: the bridge does not know it", p.ID)
			continue
		}
		connection, availability, links := resonate.Connected, "online", 1
		if p.off {
			connection, availability, links = resonate.Offline, "offline", 0
		}
		if st.Connected == p.off || known.Connection != connection || known.Available == p.off {
			lie("%s: it says connected: %v, the bridge says %q", p.ID, st.Connected, known.Connection)
		}
		if n := p.link.open(); n != links {
			lie("%s: %d connections, want %d", p.ID, n, links)
		}
		if known.Volume == nil || *known.Volume != st.Volume || known.Mute == nil || *known.Mute != st.Muted {
			lie("%s: got the volume %v, %v, want %d, %v", p.ID, known.Volume, known.Mute, st.Volume, st.Muted)
		}
		if !p.off && st.Group.GroupID != known.GroupID {
			lie("%s: it was told the group %q, it is in %q", p.ID, st.Group.GroupID, known.GroupID)
		}
		is(topic(p.ID, "availability"), availability)
		is(topic(p.ID, "connection"), connection)
		is(topic(p.ID, "volume"), st.Volume)
		is(topic(p.ID, "mute"), map[bool]string{true: "ON", false: "OFF"}[st.Muted])
		if retained[document(p.ID)] == "" {
			lie("%s: no discovery document", p.ID)
		}
	}
	slices.Sort(want)
	var seen, documents []string
	for _, p := range snap.Players {
		seen = append(seen, p.PID)
	}
	if !slices.Equal(seen, want) {
		lie("the bridge knows %v, want %v", seen, want)
	}
	for t := range retained {
		id, ok := strings.CutPrefix(t, "resonate/player/")
		id, _, _ = strings.Cut(id, "/")
		if ok && !slices.Contains(want, id) {
			lie("%s: retained of nobody", t)
		}
		if id, ok := strings.CutPrefix(t, "homeassistant/device/resonate_"); ok {
			documents = append(documents, strings.TrimSuffix(id, "/config"))
		}
	}
	slices.Sort(documents)
	if all := slices.Sorted(slices.Values(append(want, "bridge"))); !slices.Equal(documents, all) {
		lie("discovery documents: got %v, want %v", documents, all)
	}
	return lies
}

// within polls for what no event tells.
func within(tb testing.TB, most time.Duration, what string, ok func() bool) {
	tb.Helper()
	for deadline := time.Now().Add(most); !ok(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			tb.Fatalf("not within %v: %s", most, what)
		}
	}
}

func (h *house) until(what string, ok func() bool) {
	h.Helper()
	within(h, h.watch.Patience, what, ok)
}
