package interop

import (
	"fmt"
	"io"
	"net/http"
	"os/exec"
	"regexp"
	"strings"
	"testing"
	"time"
)

// sealedSpeaker is our own software speaker, encrypted, on an address that the
// bridge is told.
type sealedSpeaker struct {
	*process
	url string
}

func startSealed(t *testing.T, name string, flags ...string) *sealedSpeaker {
	t.Helper()
	addr := fmt.Sprintf("127.0.0.1:%d", freePort(t))
	argv := append([]string{program, "player", "--name", name, "--listen", addr, "--dialect", "G2", "--state-dir", t.TempDir()}, flags...)
	s := &sealedSpeaker{url: "ws://" + addr + "/sendspin"}
	s.process = start(t, name, nil, nil, argv...)
	return s
}

// printed waits until the speaker has printed what matches, and returns the
// newest group of it.
func (s *sealedSpeaker) printed(match string) string {
	s.t.Helper()
	var found [][]string
	eventually(s.t, 10*time.Second, s.name+" prints "+match, func() bool {
		found = regexp.MustCompile(match).FindAllStringSubmatch(s.err.String(), -1)
		return len(found) > 0
	})
	return found[len(found)-1][1]
}

// starts waits until an entity's state begins with text.
func (h *homeAssistant) starts(entity, text string) {
	h.t.Helper()
	eventually(h.t, 15*time.Second, entity+" says "+text, func() bool {
		out, _ := h.call("GET", "/api/states/"+entity, nil)
		return strings.HasPrefix(fmt.Sprint(out["state"]), text)
	})
}

// there waits until Home Assistant knows an entity, or does not any more.
func (h *homeAssistant) there(entity string, want bool) {
	h.t.Helper()
	eventually(h.t, 15*time.Second, fmt.Sprintf("%s is there: %v", entity, want), func() bool {
		out, code := h.call("GET", "/api/states/"+entity, nil)
		return want && code == http.StatusOK && out["state"] != "unavailable" || !want && code == http.StatusNotFound
	})
}

func (h *homeAssistant) press(entity string) {
	h.t.Helper()
	h.there(entity, true) // it may just be coming
	h.act("button/press", map[string]any{"entity_id": entity})
}

// TestHomeAssistantPairs pairs speakers that refuse everybody else: one from a
// real Home Assistant by the code that it shows, one from a shell by the code on
// its label, one over MQTT by its token; and approves one.
func TestHomeAssistantPairs(t *testing.T) {
	m := startMosquitto(t)
	ha := startHomeAssistant(t, m)
	who := "Home Assistant " + haVersion
	h := watch(t, m.url())
	porch := startSealed(t, "Porch", "--unpaired-access=false")
	hall := startSealed(t, "Hall", "--unpaired-access=false", "--pairing-code=12345678")
	attic := startSealed(t, "Attic", "--unpaired-access=false", "--pairing-code=none", "--show-token")
	bath := startSealed(t, "Bath")
	token := attic.printed(`Pairing token: (SP:0\w+)`)
	b := startBridge(t, m.url(), "127.0.0.1", "RESONATE_DISCOVERY_ENABLED=false",
		"RESONATE_DISCOVERY_PLAYERS="+strings.Join([]string{porch.url, hall.url, attic.url, bath.url}, ","))

	ha.is("sensor.porch_trust", "unapproved", 20*time.Second)
	ha.is("sensor.porch_connection", "pairing_required", 5*time.Second)
	ha.starts("sensor.porch_pairing", "Porch wants to be paired")
	ha.press("button.porch_pair")
	ha.starts("sensor.porch_pairing", "enter the 6 digits that Porch shows")
	code := porch.printed(`Pairing code (\d+-\d+)`)
	wrong := "000-000"
	if code == wrong {
		wrong = "000-001"
	}
	began := time.Now()
	enter := func(text string) {
		ha.act("text/set_value", map[string]any{"entity_id": "text.porch_pairing_code", "value": text})
	}
	enter(wrong)
	ha.starts("sensor.porch_pairing", "the code was wrong")
	enter(code)
	ha.is("sensor.porch_trust", "paired", 5*time.Second)
	ha.is("sensor.porch_connection", "connected", 5*time.Second)
	row(who, fmt.Sprintf("pairs by the code that a speaker shows, after a wrong one: %v", time.Since(began).Round(time.Millisecond)))
	ha.is("number.porch_volume", "100", 15*time.Second)
	ha.there("text.porch_pairing_code", false)
	ha.there("button.porch_pair", false)
	ha.there("button.porch_forget", true)

	// From a shell, at last by pressing the button of the speaker.
	shell := exec.Command(program, "pair", "Hall", "--code", "1234-5678")
	shell.Env = append(shell.Environ(), "RESONATE_MQTT_URL="+m.url())
	var out output
	shell.Stdout, shell.Stderr = &out, &out
	if err := shell.Start(); err != nil {
		t.Fatal(err)
	}
	hall.printed(`(press Enter)`)
	if _, err := io.WriteString(hall.in, "\n"); err != nil {
		t.Fatal(err)
	}
	if err := shell.Wait(); err != nil || !strings.HasSuffix(out.String(), "Hall is paired\n") {
		t.Fatalf("bridge pair Hall: %v\n%s", err, out.String())
	}
	ha.is("sensor.hall_trust", "paired", 5*time.Second)
	row("bridge pair", "pairs by the code on a label, once the speaker admits it")

	h.send("resonate/bridge/request/device/pair", fmt.Sprintf(`{"id": "Attic", "code": %q}`, token))
	ha.is("sensor.attic_trust", "paired", 5*time.Second)
	row("MQTT", "pairs by token")

	ha.is("sensor.bath_connection", "approval_required", 5*time.Second)
	ha.press("button.bath_approve")
	ha.is("sensor.bath_connection", "connected", 5*time.Second)
	ha.is("sensor.bath_trust", "approved", 5*time.Second)
	ha.there("button.bath_approve", false)
	ha.press("button.bath_withdraw_approval")
	ha.is("sensor.bath_connection", "approval_required", 5*time.Second)
	ha.press("button.bath_approve")
	ha.is("sensor.bath_connection", "connected", 5*time.Second)
	row(who, "approves a speaker, takes it back, and approves it again")

	// It all outlasts a restart of the bridge.
	b.stop()
	ha.is("sensor.porch_trust", "unavailable", 10*time.Second)
	b.run()
	for _, speaker := range []struct{ name, trust string }{{"porch", "paired"}, {"hall", "paired"}, {"attic", "paired"}, {"bath", "approved"}} {
		ha.is("sensor."+speaker.name+"_connection", "connected", 20*time.Second)
		ha.is("sensor."+speaker.name+"_trust", speaker.trust, 5*time.Second)
	}
	row(who, "the bridge's restart: pairings and approval are kept")

	ha.press("button.porch_forget")
	ha.there("sensor.porch_trust", false)
	row(who, "forgets a paired speaker")

	h.mu.Lock()
	for _, message := range h.log {
		topic, payload, _ := strings.Cut(message, " ")
		sent := strings.HasSuffix(topic, "/set/pair") || strings.HasSuffix(topic, "/request/device/pair")
		for _, secret := range []string{code, strings.ReplaceAll(code, "-", ""), token, "12345678", "1234-5678"} {
			if strings.Contains(payload, secret) && !sent {
				t.Errorf("%s shows a secret: %s", topic, payload)
			}
		}
	}
	h.mu.Unlock()
	ha.clean()
	row(who, "no warning of its MQTT integration about pairing")
}
