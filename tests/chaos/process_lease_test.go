//go:build linux

package chaos

import (
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"resonatebridge/tests/internal/facts"
	"resonatebridge/tests/internal/scene"
)

// copied is another bridge with the records and the settings of the first, on
// ports of its own.
func (h *household) copied(name, httpPort string) *scene.Process {
	h.Helper()
	dir := h.TempDir()
	if err := os.CopyFS(dir, os.DirFS(h.dir)); err != nil {
		h.Fatal(err)
	}
	if err := os.Remove(filepath.Join(dir, "bridge.lock")); err != nil {
		h.Fatal(err)
	}
	return scene.NewProcess(h, name, []string{
		asProgram + "=1",
		"RESONATE_MQTT_URL=mqtt://" + h.at(brokerPort),
		"RESONATE_DATA_DIR=" + dir,
		"RESONATE_SERVER_LISTEN=" + h.at("0"),
		"RESONATE_HTTP_LISTEN=" + h.at(httpPort),
		"RESONATE_DISCOVERY_ENABLED=false",
	}, program(h.T), "run")
}

// ready is the status and the text of a bridge's /readyz.
func (h *household) ready(httpPort string) (status int, text string) {
	resp, err := http.Get("http://" + h.at(httpPort) + "/readyz")
	if err != nil {
		return 0, err.Error()
	}
	defer resp.Body.Close()
	body, _ := io.ReadAll(resp.Body)
	return resp.StatusCode, string(body)
}

func (h *household) standsBy(p *scene.Process, httpPort string) {
	h.Helper()
	h.until(p.Name+" stands by", func() bool {
		status, text := h.ready(httpPort)
		return status == http.StatusServiceUnavailable && strings.Contains(text, "publishes under this base topic already") &&
			h.printed(p, "another client publishes here, this one stands by")
	})
}

// TestTwoBridgesOneBaseTopic starts a copy of the bridge beside it: the copy
// publishes nothing, says who does, and ends in order without a word to anybody
// else.
func TestTwoBridgesOneBaseTopic(t *testing.T) {
	t.Parallel()
	h := newHousehold(t)
	second := h.copied("second bridge", "8781")
	h.watch.Until("the bridge has both speakers", h.well)
	h.obey()
	h.silent(12 * time.Second) // a document that changed goes out again after 10 s
	mark := h.watch.Mark()
	second.Start()
	h.standsBy(second, "8781")
	h.obey()
	h.ends(second, syscall.SIGTERM)
	for _, m := range h.watch.Since(mark) {
		if strings.HasPrefix(m, "resonate/bridge/state") || strings.HasPrefix(m, "homeassistant/") || strings.HasPrefix(m, "resonate/bridge/info") {
			t.Errorf("published while the second bridge was there: %s", m)
		}
	}
	h.converges()
}

// TestBridgeTakesOver kills the bridge while a copy stands by: the copy takes
// over within half a minute, and the first, started again, stands by.
func TestBridgeTakesOver(t *testing.T) {
	takes(t, "one minute")
	t.Parallel()
	const bound = 30 * time.Second
	notes := facts.Begin(t, processSection)
	h := newHousehold(t)
	h.watch.Patience = bound
	second := h.copied("second bridge", "8781")
	second.Start()
	h.standsBy(second, "8781")

	h.ends(h.bridge, syscall.SIGKILL)
	began := time.Now()
	isReady := func(port string) func() bool {
		return func() bool { status, _ := h.ready(port); return status == http.StatusOK }
	}
	h.until("the second bridge has taken over", isReady("8781"))
	h.watch.Is("resonate/bridge/state", "online")
	notes.Add("bridge killed, until the one that stood by published", time.Since(began), bound.String())

	h.bridge.Start()
	h.standsBy(h.bridge, healthPort)
	if status, text := h.ready("8781"); status != http.StatusOK {
		t.Errorf("the second bridge after the return of the first: %d %s", status, text)
	}
	h.ends(second, syscall.SIGTERM)
	began = time.Now()
	h.until("the first bridge has taken over again", isReady(healthPort))
	notes.Add("bridge ended in order, until the one that stood by published", time.Since(began), bound.String())
	h.converges()
}
