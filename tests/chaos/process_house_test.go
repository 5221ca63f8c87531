//go:build linux

package chaos

import (
	"bufio"
	"encoding/hex"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"resonatebridge/tests/internal/scene"
)

// household is a bridge, a broker and two speakers, each a process of its own.
// All are at an address of 127.0.0.0/8 that is theirs alone, so that ports stay
// free while nobody listens.
type household struct {
	*testing.T
	host               string
	broker, bridge     *scene.Process
	listens, dials     *scene.Process // the speakers
	dir                string         // the bridge's records
	watch              *scene.Watcher
	listensID, dialsID string
	baseline           map[string]string // see remember
	waits              bool              // the speaker that listens said that it is switched off: it is dialled after minutes
}

const (
	brokerPort  = "1883"
	bridgePort  = "8927"
	healthPort  = "8780"
	speakerPort = "8928"
)

// newHousehold starts everybody and waits until all is well. env is on top of
// the bridge's settings.
func newHousehold(t *testing.T, env ...string) *household {
	t.Helper()
	h := furnish(t, env...)
	h.begin()
	return h
}

// furnish starts nobody yet.
func furnish(t *testing.T, env ...string) *household {
	t.Helper()
	h := &household{T: t, host: fmt.Sprintf("127.%d.%d.%d", 1+rand.N(254), rand.N(256), 1+rand.N(254)), dir: t.TempDir()}
	program := program(t)
	h.broker = newBroker(t, h.host)
	h.bridge = scene.NewProcess(t, "bridge", append([]string{
		asProgram + "=1",
		"RESONATE_MQTT_URL=mqtt://" + h.at(brokerPort),
		"RESONATE_DATA_DIR=" + h.dir,
		"RESONATE_SERVER_LISTEN=" + h.at(bridgePort),
		"RESONATE_HTTP_LISTEN=" + h.at(healthPort),
		"RESONATE_DISCOVERY_ENABLED=false",
		"RESONATE_DISCOVERY_PLAYERS=ws://" + h.at(speakerPort) + "/sendspin",
		"RESONATE_LOG_LEVEL=debug",
	}, env...), program, "run")
	h.listens = scene.NewProcess(t, "speaker that listens", []string{asProgram + "=1"}, program, "player", "--name", "Listens", "--listen", h.at(speakerPort))
	h.dials = scene.NewProcess(t, "speaker that dials", []string{asProgram + "=1"}, program, "player", "--name", "Dials", "--server", "ws://"+h.at(bridgePort)+"/sendspin")
	return h
}

// begin starts everybody and waits until all is well.
func (h *household) begin() {
	h.Helper()
	h.broker.Start()
	h.listening(brokerPort)
	h.watch = scene.Watch(h, "mqtt://"+h.at(brokerPort), nil)
	for _, p := range []*scene.Process{h.listens, h.bridge, h.dials} {
		p.Start()
	}
	h.watch.Until("both speakers are connected", func(topics scene.Topics) bool {
		h.listensID, h.dialsID = "", ""
		for _, id := range topics.Speakers() {
			switch topics.Object(topic(id, "state"))["name"] {
			case "Listens":
				h.listensID = id
			case "Dials":
				h.dialsID = id
			}
		}
		return h.listensID != "" && h.dialsID != "" && h.well(topics)
	})
}

// remember keeps what is retained, once no document is due any more, for
// converges to compare with.
func (h *household) remember() {
	h.Helper()
	h.silent(4 * time.Second) // documents of a device keep 3 s between them
	h.baseline = scene.Retained(h, "mqtt://"+h.at(brokerPort))
}

// silent waits until no document was published for so long.
func (h *household) silent(long time.Duration) {
	h.Helper()
	for last := time.Now(); time.Since(last) < long; {
		mark := h.watch.Mark()
		time.Sleep(100 * time.Millisecond)
		for _, m := range h.watch.Since(mark) {
			if strings.HasPrefix(m, "homeassistant/") {
				last = time.Now()
			}
		}
	}
}

// newBroker is Mosquitto, which keeps its messages over a restart and may lose
// the last second of them when it is killed, or where it is not installed the
// embedded broker of another bridge, which loses everything.
func newBroker(t *testing.T, host string) *scene.Process {
	t.Helper()
	mosquitto, err := exec.LookPath("mosquitto")
	if err != nil {
		t.Log("mosquitto is not installed: the broker is the embedded one, in a process of its own")
		return scene.NewProcess(t, "embedded broker", []string{
			asProgram + "=1",
			"RESONATE_DATA_DIR=" + t.TempDir(), "RESONATE_MQTT_BASE_TOPIC=other", "RESONATE_HOMEASSISTANT_ENABLED=false",
			"RESONATE_MQTT_EMBEDDED_LISTEN=" + net.JoinHostPort(host, brokerPort),
			"RESONATE_SERVER_LISTEN=" + net.JoinHostPort(host, "0"), "RESONATE_HTTP_LISTEN=" + net.JoinHostPort(host, "0"),
			"RESONATE_DISCOVERY_ENABLED=false",
		}, program(t), "run")
	}
	conf := filepath.Join(t.TempDir(), "mosquitto.conf")
	text := fmt.Sprintf("listener %s %s\nallow_anonymous true\npersistence true\npersistence_location %s/\nautosave_interval 1\nmax_packet_size 2000000\nlog_dest stderr\nlog_type error\nlog_type warning\n",
		brokerPort, host, t.TempDir())
	if os.Geteuid() == 0 {
		text += "user root\n" // else it may not write where the test may
	}
	if err := os.WriteFile(conf, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return scene.NewProcess(t, "mosquitto", nil, mosquitto, "-c", conf)
}

func (h *household) at(port string) string { return net.JoinHostPort(h.host, port) }

func (h *household) until(what string, ok func() bool) {
	h.Helper()
	within(h, h.patience(), what, ok)
}

func (h *household) patience() time.Duration {
	if h.watch == nil {
		return 20 * time.Second
	}
	return h.watch.Patience
}

// listening waits until somebody listens on a port.
func (h *household) listening(port string) {
	h.Helper()
	h.until("somebody listens on port "+port, func() bool {
		c, err := net.Dial("tcp", h.at(port))
		if err == nil {
			_ = c.Close()
		}
		return err == nil
	})
}

// well reports whether the broker has both speakers, online, and nobody else.
func (h *household) well(topics scene.Topics) bool {
	for _, id := range []string{h.listensID, h.dialsID} {
		if !topics.Is(topic(id, "availability"), "online") || !topics.Is(topic(id, "connection"), "connected") || topics[document(id)].Payload == "" {
			return false
		}
	}
	return topics.Is("resonate/bridge/state", "online") && slices.Equal(topics.Speakers(), slices.Sorted(slices.Values([]string{h.listensID, h.dialsID})))
}

// converges waits until all is well: each speaker connected once, which obeys;
// and, if that was remembered, the same topics with the same payloads.
func (h *household) converges() {
	h.Helper()
	if h.waits { // else it is looked for every few minutes only
		h.nagging(topic(h.listensID, "set/reconnect"), "PRESS", func(t scene.Topics) bool {
			return t.Is(topic(h.listensID, "connection"), "connected") && h.connections(speakerPort) > 0
		})
	}
	h.watch.Until("both speakers are connected again", h.well)
	if h.baseline != nil {
		h.watch.Settles(h.baseline)
	}
	for _, port := range []string{speakerPort, bridgePort} {
		h.until("one connection to port "+port, func() bool { return h.connections(port) == 1 })
	}
	h.obey()
}

// obey shows that both speakers can be commanded.
func (h *household) obey() {
	h.Helper()
	for _, id := range []string{h.listensID, h.dialsID} {
		h.nagging(topic(id, "set/volume"), "37", func(t scene.Topics) bool { return t.Is(topic(id, "volume"), "37") })
	}
}

// answer has a speaker's volume changed, and says how long it took until the
// broker had the new one.
func (h *household) answer(id string, volume int) time.Duration {
	h.Helper()
	began := time.Now()
	h.watch.Send(topic(id, "set/volume"), fmt.Sprint(volume))
	h.watch.Is(topic(id, "volume"), fmt.Sprint(volume))
	return time.Since(began)
}

// nagging sends a command again and again until ok: the bridge may not be back
// yet, while what is retained is still of its life before.
func (h *household) nagging(topic, payload string, ok func(scene.Topics) bool) {
	h.Helper()
	var last time.Time
	h.until(topic+" "+payload+" does what it should", func() bool {
		done := false
		h.watch.Look(func(t scene.Topics) { done = ok(t) })
		if !done && time.Since(last) > time.Second {
			last = time.Now()
			h.watch.Post(topic, payload)
		}
		return done
	})
}

// connections counts the established TCP connections to one of our ports.
func (h *household) connections(port string) (n int) {
	h.Helper()
	f, err := os.Open("/proc/net/tcp")
	if err != nil {
		h.Fatal(err)
	}
	defer f.Close()
	ip := net.ParseIP(h.host).To4()
	slices.Reverse(ip) // the kernel's order of bytes, on what we run on
	var number int
	if _, err := fmt.Sscan(port, &number); err != nil {
		h.Fatal(err)
	}
	local := fmt.Sprintf("%s:%04X", strings.ToUpper(hex.EncodeToString(ip)), number)
	const established = "01"
	for lines := bufio.NewScanner(f); lines.Scan(); {
		if fields := strings.Fields(lines.Text()); len(fields) > 3 && fields[1] == local && fields[3] == established {
			n++
		}
	}
	return n
}

// ends signals a process to end and waits for it. In order it takes at most 5 s
// and tells no failure.
func (h *household) ends(p *scene.Process, sig syscall.Signal) {
	h.Helper()
	p.Signal(sig)
	h.waits = h.waits || p == h.listens && sig == syscall.SIGTERM
	const most = 5 * time.Second
	took, err := p.Wait(most + slack)
	if sig == syscall.SIGTERM && err != nil && p.Name != "mosquitto" {
		h.Errorf("%s: ended by SIGTERM with %v", p.Name, err)
	}
	if took > most {
		h.Errorf("%s: took %v to end, want at most %v", p.Name, took, most)
	}
}

// printed reports whether a process said something.
func (h *household) printed(p *scene.Process, what string) bool {
	return strings.Contains(p.Printed(), what)
}
