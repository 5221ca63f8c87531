package bench

import (
	"bytes"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"

	"resonatebridge/tests/internal/scene"
)

func listen(t *testing.T) net.Listener {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// freeAddr is a loopback address that was free a moment ago.
func freeAddr(t *testing.T) string {
	t.Helper()
	l := listen(t)
	defer l.Close()
	return l.Addr().String()
}

// process is the bridge as a process of its own.
type process struct {
	cmd    *exec.Cmd
	listen string // where players dial in
}

// startProcess runs the built bridge until the test ends. brokerURL empty: with
// the embedded broker, at brokerAddr.
func startProcess(t *testing.T, brokerURL, brokerAddr string) *process {
	t.Helper()
	p := &process{listen: freeAddr(t)}
	health := freeAddr(t)
	var out bytes.Buffer
	p.cmd = exec.Command(scene.Program(t), "run")
	p.cmd.Dir = t.TempDir()
	p.cmd.Stdout, p.cmd.Stderr = &out, &out
	p.cmd.Env = []string{
		"RESONATE_DATA_DIR=" + t.TempDir(), "RESONATE_MQTT_URL=" + brokerURL, "RESONATE_MQTT_EMBEDDED_LISTEN=" + brokerAddr,
		"RESONATE_SERVER_LISTEN=" + p.listen, "RESONATE_HTTP_LISTEN=" + health, "RESONATE_DISCOVERY_ENABLED=false",
	}
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- p.cmd.Wait() }() // ends with the process
	t.Cleanup(func() {
		_ = p.cmd.Process.Signal(os.Interrupt)
		select {
		case err := <-ended:
			if err != nil {
				t.Errorf("bridge: %v\n%s", err, out.String())
			}
		case <-time.After(patience):
			_ = p.cmd.Process.Kill()
			t.Errorf("bridge: it did not end within %v of SIGINT: %v", patience, <-ended)
		}
	})
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for late := time.After(patience); ; {
		resp, err := http.Get("http://" + health + "/readyz")
		if err == nil {
			_ = resp.Body.Close()
			if resp.StatusCode == http.StatusOK {
				http.DefaultClient.CloseIdleConnections()
				return p
			}
		}
		select {
		case <-tick.C:
		case <-late:
			t.Fatalf("bridge: not ready within %v", patience)
		}
	}
}

// resident is the resident memory of the process in bytes; false where there is
// no /proc.
func (p *process) resident(t *testing.T) (bytes int64, ok bool) {
	t.Helper()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.cmd.Process.Pid))
	if err != nil {
		return 0, false
	}
	for line := range strings.Lines(string(status)) {
		if rest, ok := strings.CutPrefix(line, "VmRSS:"); ok {
			kb, err := strconv.ParseInt(strings.TrimSpace(strings.TrimSuffix(strings.TrimSpace(rest), "kB")), 10, 64)
			if err != nil {
				t.Fatalf("/proc/PID/status: got %q: %v", line, err)
			}
			return kb << 10, true
		}
	}
	return 0, false
}
