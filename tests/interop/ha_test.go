package interop

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

const haVersion = "2025.2.5" // of those that run on Python 3.13.0

// homeAssistant is a real Home Assistant with nothing but MQTT in it.
type homeAssistant struct {
	*process
	t      *testing.T
	bin    string
	config string
	base   string
	token  string
}

func startHomeAssistant(t *testing.T, broker *mosquitto) *homeAssistant {
	t.Helper()
	h := &homeAssistant{t: t, bin: installed("homeassistant-"+haVersion, "bin", "hass"), config: t.TempDir()}
	needs(t, h.bin)
	port := freePort(t)
	h.base = fmt.Sprintf("http://127.0.0.1:%d", port)
	text := fmt.Sprintf("homeassistant: {name: Test, time_zone: UTC}\nhttp: {server_host: 127.0.0.1, server_port: %d}\n"+
		"api:\nconfig:\nwebsocket_api:\nlogger: {default: warning}\n", port)
	if err := os.WriteFile(filepath.Join(h.config, "configuration.yaml"), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command(h.bin, "--script", "auth", "-c", h.config, "add", "admin", "secret").CombinedOutput(); err != nil {
		t.Fatalf("hass: add user: %v\n%s", err, out)
	}
	h.run()
	h.login()
	h.connect(broker)
	return h
}

// run starts it and waits until it answers. The first start installs what the
// integrations need.
func (h *homeAssistant) run() {
	h.t.Helper()
	h.process = start(h.t, "home assistant", nil, nil, h.bin, "-c", h.config)
	eventually(h.t, 4*time.Minute, "Home Assistant answers", func() bool {
		resp, err := http.Get(h.base + "/api/")
		if err != nil {
			return false
		}
		resp.Body.Close()
		return resp.StatusCode == http.StatusUnauthorized
	})
}

// call makes a request and returns the decoded answer.
func (h *homeAssistant) call(method, path string, body any) (map[string]any, int) {
	h.t.Helper()
	var in io.Reader
	kind := "application/json"
	switch b := body.(type) {
	case nil:
	case url.Values:
		in, kind = strings.NewReader(b.Encode()), "application/x-www-form-urlencoded"
	default:
		data, err := json.Marshal(b)
		if err != nil {
			h.t.Fatal(err)
		}
		in = bytes.NewReader(data)
	}
	req, err := http.NewRequest(method, h.base+path, in)
	if err != nil {
		h.t.Fatal(err)
	}
	req.Header.Set("Content-Type", kind)
	if h.token != "" {
		req.Header.Set("Authorization", "Bearer "+h.token)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, 0
	}
	defer resp.Body.Close()
	var out map[string]any
	_ = json.NewDecoder(resp.Body).Decode(&out)
	return out, resp.StatusCode
}

// must is call for what has to work.
func (h *homeAssistant) must(method, path string, body any) map[string]any {
	h.t.Helper()
	out, code := h.call(method, path, body)
	if code >= 300 || code == 0 {
		h.t.Fatalf("home assistant: %s %s: %d %v", method, path, code, out)
	}
	return out
}

func (h *homeAssistant) login() {
	h.t.Helper()
	client := h.base + "/"
	flow := h.must("POST", "/auth/login_flow", map[string]any{"client_id": client, "redirect_uri": client, "handler": []any{"homeassistant", nil}})
	done := h.must("POST", "/auth/login_flow/"+fmt.Sprint(flow["flow_id"]), map[string]any{"client_id": client, "username": "admin", "password": "secret"})
	token := h.must("POST", "/auth/token", url.Values{"grant_type": {"authorization_code"}, "code": {fmt.Sprint(done["result"])}, "client_id": {client}})
	h.token = fmt.Sprint(token["access_token"])
}

// connect makes the MQTT entry as the user interface does.
func (h *homeAssistant) connect(m *mosquitto) {
	h.t.Helper()
	flow := h.must("POST", "/api/config/config_entries/flow", map[string]any{"handler": "mqtt"})
	for range 4 {
		switch flow["type"] {
		case "create_entry":
			return
		case "menu", "form":
		default:
			h.t.Fatalf("home assistant: mqtt flow: %v", flow)
		}
		flow = h.must("POST", "/api/config/config_entries/flow/"+fmt.Sprint(flow["flow_id"]), map[string]any{"broker": "127.0.0.1", "port": m.port})
	}
	h.t.Fatalf("home assistant: mqtt flow does not end: %v", flow)
}

// is waits until an entity has a state.
func (h *homeAssistant) is(entity, want string, within time.Duration) time.Duration {
	h.t.Helper()
	began := time.Now()
	var got string
	deadline := time.Now().Add(within)
	for time.Now().Before(deadline) {
		out, _ := h.call("GET", "/api/states/"+entity, nil)
		if got = fmt.Sprint(out["state"]); got == want {
			return time.Since(began)
		}
		<-time.After(20 * time.Millisecond)
	}
	h.t.Fatalf("home assistant: %s is %q after %v, want %q", entity, got, within, want)
	return 0
}

// offers waits until a select has an option: new names come with a new
// discovery document, of which each device gets one in 3 s at most.
func (h *homeAssistant) offers(entity, option string) {
	h.t.Helper()
	eventually(h.t, 15*time.Second, entity+" offers "+option, func() bool {
		out, _ := h.call("GET", "/api/states/"+entity, nil)
		attributes, _ := out["attributes"].(map[string]any)
		return strings.Contains(fmt.Sprint(attributes["options"]), option)
	})
}

func (h *homeAssistant) act(service string, data map[string]any) {
	h.t.Helper()
	h.must("POST", "/api/services/"+service, data)
}

// TestHomeAssistant drives a real Home Assistant: what the bridge announces
// becomes entities, commands arrive, restarts heal, and its log stays clean.
func TestHomeAssistant(t *testing.T) {
	k := js()
	needs(t, append(k.needs, installed("aiosendspin-"+current, "bin", "python"))...)
	m := startMosquitto(t)
	ha := startHomeAssistant(t, m)
	who := "Home Assistant " + haVersion
	h := watch(t, m.url())
	b := startBridge(t, m.url(), "127.0.0.1", "RESONATE_DISCOVERY_ENABLED=false")
	spawn := func(id, name string) *peer { return k.spawn(t, "ws://"+b.listen, id, name) }
	a := spawn("speaker-a", "Kitchen")
	spawn("speaker-b", "Bath")
	h.is("resonate/player/speaker-b/availability", "online", 15*time.Second)

	ha.is("number.kitchen_volume", "100", 20*time.Second)
	ha.is("sensor.kitchen", "idle", 5*time.Second)
	ha.is("switch.kitchen_mute", "off", 5*time.Second)
	ha.is("select.kitchen_group", "Solo", 5*time.Second)
	ha.is("sensor.kitchen_connection", "connected", 5*time.Second)
	ha.is("binary_sensor.resonate_bridge_connection_state", "on", 5*time.Second)
	row(who, "speakers and bridge become devices with their entities")

	mark := a.mark()
	ha.act("number/set_value", map[string]any{"entity_id": "number.kitchen_volume", "value": 42})
	a.heard(mark, 3*time.Second, "volume 42 at the speaker", func(ev map[string]any) bool { return ev["volume"] == 42.0 })
	row(who, fmt.Sprintf("slider to the speaker and back: %v", ha.is("number.kitchen_volume", "42", 3*time.Second).Round(time.Millisecond)))
	ha.act("switch/turn_on", map[string]any{"entity_id": "switch.kitchen_mute"})
	ha.is("switch.kitchen_mute", "on", 3*time.Second)
	a.do("mute", false)
	ha.is("switch.kitchen_mute", "off", 3*time.Second)
	ha.offers("select.bath_group", "With Kitchen")
	ha.act("select/select_option", map[string]any{"entity_id": "select.bath_group", "option": "With Kitchen"})
	ha.is("select.bath_group", "With Kitchen", 3*time.Second)
	ha.is("select.kitchen_group", "Hosting", 3*time.Second)
	ha.act("select/select_option", map[string]any{"entity_id": "select.bath_group", "option": "Solo"})
	ha.is("select.kitchen_group", "Solo", 3*time.Second)
	row(who, "volume, mute and group both ways")

	h.send("resonate/bridge/request/group/add", `{"name": "Downstairs", "members": ["Kitchen", "Bath"]}`)
	ha.is("select.kitchen_group", "Downstairs", 15*time.Second)
	ha.is("number.downstairs_volume", "71", 10*time.Second)
	h.send("resonate/bridge/request/group/remove", `{"id": "downstairs"}`)
	ha.is("select.kitchen_group", "Solo", 10*time.Second)
	eventually(t, 10*time.Second, "the group's device is gone", func() bool {
		_, code := ha.call("GET", "/api/states/number.downstairs_volume", nil)
		return code == http.StatusNotFound
	})
	row(who, "a named group comes and goes as a device")

	study := pairInHomeAssistant(t, ha, h, b, who)

	// Its own restart: everything is there again, with states.
	ha.stop()
	ha.run()
	row(who, fmt.Sprintf("its restart: entities with states %v after it answers", ha.is("number.kitchen_volume", "42", 30*time.Second).Round(10*time.Millisecond)))
	// The bridge dies: unavailable. It comes back: available.
	b.kill(9)
	<-b.done
	ha.is("number.kitchen_volume", "unavailable", 60*time.Second)
	b.run()
	ha.is("number.kitchen_volume", "42", 30*time.Second)
	row(who, "bridge killed: unavailable; restarted: back")
	mark = study.mark()
	study.do("connect", nil)
	study.admitted(mark, "long_term")
	ha.is("sensor.study_trust", "paired", 10*time.Second)
	row(who, "after both restarts the speaker is paired as before")

	ha.clean()
	row(who, "no warning of its MQTT integration about us")
}

// clean fails the test for what its MQTT integration warned of.
func (h *homeAssistant) clean() {
	h.t.Helper()
	log, err := os.ReadFile(filepath.Join(h.config, "home-assistant.log"))
	if err != nil {
		h.t.Fatal(err)
	}
	for line := range strings.Lines(string(log)) {
		if strings.Contains(line, "mqtt") && (strings.Contains(line, " WARNING ") || strings.Contains(line, " ERROR ")) && !harmless(line) {
			h.t.Errorf("home assistant's log: %s", line)
		}
	}
}

// pairInHomeAssistant pairs a speaker that refuses plaintext with the buttons
// and the text entity that a person has, and plays to it.
func pairInHomeAssistant(t *testing.T, ha *homeAssistant, h *house, b *bridge, who string) *sealed {
	t.Helper()
	s := appear(t, ways()[0], b, h, who, "Study", "SPEAKER_OFFER=digits")
	ha.is("sensor.study_trust", "unapproved", 20*time.Second)
	mark := s.mark()
	ha.press("button.study_pair")
	code := fmt.Sprint(s.next(mark, "code", func(e map[string]any) bool { return e["code"] != nil })["grouped"])
	ha.there("text.study_pairing_code", true)
	ha.starts("sensor.study_pairing", "enter the 6 digits that Study shows")
	ha.act("text/set_value", map[string]any{"entity_id": "text.study_pairing_code", "value": code})
	ha.is("sensor.study_trust", "paired", 10*time.Second)
	s.admitted(mark, "long_term")
	ha.there("text.study_pairing_code", false)
	row(who, "paired a speaker of aiosendspin "+current+", which refuses plaintext: Pair pressed, the code entered")

	wav, pcm := noise(3)
	web := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		http.ServeContent(w, r, "noise.wav", time.Time{}, bytes.NewReader(wav))
	}))
	defer web.Close()
	mark = s.mark()
	ha.act("mqtt/publish", map[string]any{"topic": s.topic("set/play_url"), "payload": web.URL + "/noise.wav"})
	ha.is("sensor.study", "playing", 5*time.Second)
	s.next(mark, "stream_end", nil)
	got, err := os.ReadFile(s.record)
	if err != nil {
		t.Fatal(err)
	}
	if sum(got) != sum(pcm) {
		t.Errorf("Study got %d bytes with SHA-256 %s..., want %d with %s...", len(got), sum(got), len(pcm), sum(pcm))
	}
	ha.is("sensor.study", "idle", 5*time.Second)
	row(who, "its mqtt.publish plays to that speaker, what it got is the file")
	return s
}

// harmless lines are about Home Assistant's own installation, or about the
// empty documents that it sends itself for each entity of a device that is
// removed.
func harmless(line string) bool {
	return strings.Contains(line, "No device components to cleanup") ||
		strings.Contains(line, "Disconnected from MQTT") || strings.Contains(line, "homeassistant.util.package")
}
