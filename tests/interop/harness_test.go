package interop

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"maps"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	paho "github.com/eclipse/paho.mqtt.golang"
	"go.uber.org/goleak"
)

var interop = flag.Bool("interop", false, "drive the real peers that tests/interop/setup.sh installs")

// program is the bridge, built once.
var program string

func TestMain(m *testing.M) {
	flag.Parse()
	if !*interop {
		fmt.Println("real peers are not driven: run make interop-setup interop")
		os.Exit(m.Run())
	}
	dir, err := os.MkdirTemp("", "interop")
	if err != nil {
		panic(err)
	}
	program = filepath.Join(dir, "bridge")
	build := exec.Command("go", "build", "-o", program, "resonatebridge/cmd/bridge")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		panic(fmt.Sprintf("build: %v\n%s", err, out))
	}
	goleak.VerifyTestMain(m, goleak.Cleanup(func(code int) {
		printTable()
		os.RemoveAll(dir)
		os.Exit(code)
	}))
}

// needs skips loudly when a peer is not installed. With INTEROP=1 a missing
// peer is a failure.
func needs(t *testing.T, paths ...string) {
	t.Helper()
	if !*interop {
		t.Skip("real peers are driven by make interop")
	}
	for _, p := range paths {
		_, err := os.Stat(p)
		if err != nil && !strings.Contains(p, "/") {
			_, err = exec.LookPath(p)
		}
		if err == nil {
			continue
		}
		row(t.Name(), "NOT INSTALLED: "+filepath.Base(p))
		if os.Getenv("INTEROP") == "1" {
			t.Fatalf("%s is not installed and INTEROP=1: run make interop-setup", p)
		}
		fmt.Printf("WARNING: %s skipped, %s is not installed: run make interop-setup\n", t.Name(), p)
		t.Skipf("%s is not installed: run make interop-setup", p)
	}
}

// installed is a path below the folder that setup.sh fills.
func installed(parts ...string) string {
	wd, err := os.Getwd()
	if err != nil {
		panic(err)
	}
	return filepath.Join(append([]string{wd, "..", "..", ".interop"}, parts...)...)
}

// --- the table of results ---

var results struct {
	sync.Mutex
	rows []string
}

// row notes one measured fact for the table that ends the run.
func row(who, what string) {
	results.Lock()
	defer results.Unlock()
	results.rows = append(results.rows, fmt.Sprintf("| %s | %s |", who, what))
}

func printTable() {
	fmt.Println("\n| peer | measured |\n|---|---|")
	for _, r := range results.rows {
		fmt.Println(r)
	}
}

// --- processes ---

// output keeps what a process prints, for failure messages.
type output struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	s := o.buf.String()
	if len(s) > 6000 {
		s = "..." + s[len(s)-6000:]
	}
	return s
}

// process is a child that ends with the test.
type process struct {
	t    *testing.T
	name string
	cmd  *exec.Cmd
	in   io.WriteCloser
	err  output
	done chan struct{}
}

func start(t *testing.T, name string, env []string, stdout io.Writer, argv ...string) *process {
	t.Helper()
	p := &process{t: t, name: name, done: make(chan struct{})}
	p.cmd = exec.Command(argv[0], argv[1:]...)
	p.cmd.Env = append(os.Environ(), env...)
	p.cmd.Stdout, p.cmd.Stderr = stdout, &p.err
	if stdout == nil {
		p.cmd.Stdout = &p.err
	}
	// Its own group, killed as a whole, and never outliving the test.
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	p.cmd.WaitDelay = 2 * time.Second
	var err error
	if p.in, err = p.cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	if err := p.cmd.Start(); err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	go func() { _ = p.cmd.Wait(); close(p.done) }()
	t.Cleanup(func() {
		p.kill(syscall.SIGKILL)
		<-p.done
		if t.Failed() {
			t.Logf("%s printed:\n%s", name, p.err.String())
		}
	})
	return p
}

// kill signals the whole group of the process.
func (p *process) kill(sig syscall.Signal) { _ = syscall.Kill(-p.cmd.Process.Pid, sig) }

// stop ends the process in order and says how long it took.
func (p *process) stop() time.Duration {
	p.t.Helper()
	began := time.Now()
	p.kill(syscall.SIGTERM)
	select {
	case <-p.done:
	case <-time.After(10 * time.Second):
		p.t.Errorf("%s did not end within 10 s of SIGTERM", p.name)
		p.kill(syscall.SIGKILL)
		<-p.done
	}
	return time.Since(began)
}

func freePort(t *testing.T) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}

// --- Mosquitto ---

type mosquitto struct {
	*process
	t    *testing.T
	port int
	conf string
}

// startMosquitto runs the real broker, as users of Home Assistant have it,
// without persistence: a restart loses every retained message.
func startMosquitto(t *testing.T) *mosquitto {
	t.Helper()
	needs(t, "mosquitto")
	m := &mosquitto{t: t, port: freePort(t), conf: filepath.Join(t.TempDir(), "mosquitto.conf")}
	text := fmt.Sprintf("listener %d 127.0.0.1\nallow_anonymous true\npersistence false\nallow_duplicate_messages true\nmax_packet_size 2000000\n", m.port)
	if err := os.WriteFile(m.conf, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	m.run()
	return m
}

func (m *mosquitto) run() {
	m.t.Helper()
	m.process = start(m.t, "mosquitto", nil, nil, "mosquitto", "-c", m.conf)
	eventually(m.t, 5*time.Second, "mosquitto listens", func() bool {
		c, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", m.port))
		if err == nil {
			c.Close()
		}
		return err == nil
	})
}

func (m *mosquitto) url() string { return fmt.Sprintf("mqtt://127.0.0.1:%d", m.port) }

// --- the bridge ---

type bridge struct {
	*process
	t      *testing.T
	env    []string
	listen string // host:port where players dial in
	broker string
}

// startBridge runs the built program on loopback. extra are RESONATE_
// variables that come on top.
func startBridge(t *testing.T, brokerURL, host string, extra ...string) *bridge {
	t.Helper()
	b := &bridge{t: t, listen: fmt.Sprintf("%s:%d", host, freePort(t)), broker: brokerURL}
	b.env = append([]string{
		"RESONATE_MQTT_URL=" + brokerURL,
		"RESONATE_DATA_DIR=" + t.TempDir(),
		"RESONATE_SERVER_LISTEN=" + b.listen,
		fmt.Sprintf("RESONATE_HTTP_LISTEN=127.0.0.1:%d", freePort(t)),
		"RESONATE_LOG_LEVEL=debug",
		"RESONATE_PLAYERS_AVAILABILITY_GRACE=2s",
	}, extra...)
	b.run()
	return b
}

func (b *bridge) run() {
	b.t.Helper()
	b.process = start(b.t, "bridge", b.env, nil, program, "run")
	eventually(b.t, 10*time.Second, "the bridge listens", func() bool {
		c, err := net.Dial("tcp", b.listen)
		if err == nil {
			c.Close()
		}
		return err == nil
	})
}

// --- MQTT as a user sees it ---

// house is an MQTT client that keeps what it sees.
type house struct {
	t      *testing.T
	client paho.Client
	mu     sync.Mutex
	cond   chan struct{} // replaced and closed at each message
	topics map[string]string
	log    []string // every message in order, "topic payload"
}

func watch(t *testing.T, brokerURL string) *house {
	t.Helper()
	h := &house{t: t, cond: make(chan struct{}), topics: map[string]string{}}
	o := paho.NewClientOptions().AddBroker(strings.Replace(brokerURL, "mqtt://", "tcp://", 1)).
		SetClientID(fmt.Sprintf("house-%d", time.Now().UnixNano()%1e9)).
		SetAutoReconnect(true).SetMaxReconnectInterval(time.Second).SetConnectRetry(true).SetConnectRetryInterval(200 * time.Millisecond)
	o.SetOnConnectHandler(func(c paho.Client) {
		c.SubscribeMultiple(map[string]byte{"resonate/#": 1, "homeassistant/#": 1}, func(_ paho.Client, m paho.Message) {
			h.mu.Lock()
			defer h.mu.Unlock()
			h.topics[m.Topic()] = string(m.Payload())
			if len(m.Payload()) == 0 {
				delete(h.topics, m.Topic())
			}
			h.log = append(h.log, m.Topic()+" "+string(m.Payload()))
			close(h.cond)
			h.cond = make(chan struct{})
		})
	})
	h.client = paho.NewClient(o)
	if tok := h.client.Connect(); !tok.WaitTimeout(10*time.Second) || tok.Error() != nil {
		t.Fatalf("watch %s: %v", brokerURL, tok.Error())
	}
	t.Cleanup(func() { h.client.Disconnect(100) })
	return h
}

func (h *house) get(topic string) string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.topics[topic]
}

// find lists topics with a prefix and a suffix.
func (h *house) find(prefix, suffix string) []string {
	h.mu.Lock()
	defer h.mu.Unlock()
	var out []string
	for _, k := range slices.Sorted(maps.Keys(h.topics)) {
		if strings.HasPrefix(k, prefix) && strings.HasSuffix(k, suffix) {
			out = append(out, k)
		}
	}
	return out
}

// forget drops what was seen: whatever comes now is told anew.
func (h *house) forget() {
	h.mu.Lock()
	defer h.mu.Unlock()
	clear(h.topics)
}

// is waits until topic holds want and says how long that took.
func (h *house) is(topic, want string, within time.Duration) time.Duration {
	h.t.Helper()
	return h.until(within, topic+" is "+want, func(topics map[string]string) bool { return topics[topic] == want })
}

func (h *house) until(within time.Duration, what string, ok func(map[string]string) bool) time.Duration {
	h.t.Helper()
	began, deadline := time.Now(), time.After(within)
	for {
		h.mu.Lock()
		yes, cond := ok(h.topics), h.cond
		h.mu.Unlock()
		if yes {
			return time.Since(began)
		}
		select {
		case <-cond:
		case <-deadline:
			h.mu.Lock()
			tail := slices.Clone(h.log[max(0, len(h.log)-15):])
			h.mu.Unlock()
			for i, l := range tail {
				if len(l) > 300 {
					tail[i] = l[:300]
				}
			}
			h.t.Fatalf("not within %v: %s; the last messages:\n%s", within, what, strings.Join(tail, "\n"))
		}
	}
}

func (h *house) send(topic, payload string) {
	h.t.Helper()
	if tok := h.client.Publish(topic, 1, false, payload); !tok.WaitTimeout(5*time.Second) || tok.Error() != nil {
		h.t.Fatalf("publish %s: %v", topic, tok.Error())
	}
}

// state is a player's state document.
func (h *house) state(pid string) map[string]any {
	h.t.Helper()
	var doc map[string]any
	if err := json.Unmarshal([]byte(h.get("resonate/player/"+pid+"/state")), &doc); err != nil {
		h.t.Fatalf("state of %s: %v", pid, err)
	}
	return doc
}

// --- real peers ---

// peer is a real client that obeys lines on stdin and reports lines on stdout.
type peer struct {
	*process
	id     string
	mu     sync.Mutex
	cond   chan struct{}
	events []map[string]any
}

func startPeer(t *testing.T, id string, argv ...string) *peer {
	t.Helper()
	r, w := io.Pipe()
	p := &peer{id: id, cond: make(chan struct{})}
	p.process = start(t, id, nil, w, argv...)
	go func() { <-p.done; w.Close() }()
	go func() {
		for lines := bufio.NewScanner(r); lines.Scan(); {
			var ev map[string]any
			if json.Unmarshal(lines.Bytes(), &ev) != nil {
				fmt.Fprintf(&p.err, "%s\n", lines.Text())
				continue
			}
			p.mu.Lock()
			p.events = append(p.events, ev)
			close(p.cond)
			p.cond = make(chan struct{})
			p.mu.Unlock()
		}
	}()
	return p
}

func (p *peer) do(what string, value any) {
	p.t.Helper()
	line, err := json.Marshal(map[string]any{"do": what, "value": value})
	if err != nil {
		p.t.Fatal(err)
	}
	if _, err := p.in.Write(append(line, '\n')); err != nil {
		p.t.Fatalf("%s: %v", p.id, err)
	}
}

// heard waits for an event that ok accepts, among those after mark.
func (p *peer) heard(mark int, within time.Duration, what string, ok func(map[string]any) bool) {
	p.t.Helper()
	deadline := time.After(within)
	for {
		p.mu.Lock()
		found := slices.ContainsFunc(p.events[mark:], ok)
		cond := p.cond
		p.mu.Unlock()
		if found {
			return
		}
		select {
		case <-cond:
		case <-deadline:
			p.mu.Lock()
			defer p.mu.Unlock()
			p.t.Fatalf("%s: not within %v: %s; events: %v", p.id, within, what, p.events[max(0, len(p.events)-10):])
		}
	}
}

func (p *peer) mark() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.events)
}

// eventually polls what no event tells.
func eventually(t *testing.T, within time.Duration, what string, ok func() bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), within)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatalf("not within %v: %s", within, what)
		}
	}
}
