package chaos

import (
	"context"
	"flag"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"resonatebridge/cmd/bridge/app"
	"resonatebridge/discovery"
	"resonatebridge/resonate"
	"resonatebridge/tests/internal/facts"
	"resonatebridge/tests/internal/scene"

	"github.com/gorilla/websocket"
	"golang.org/x/sys/unix"
)

var stressTime = flag.Duration("stress", time.Minute, "with -chaos: how long each stress goes on")

// stress begins a stress test. In the long part it has the machine for itself;
// a short one goes on beside others, most of which wait.
func stress(t *testing.T) *facts.Notes {
	t.Helper()
	if !*long {
		t.Parallel()
	}
	return facts.Begin(t, "Stress on real sockets")
}

// howLong is how long a stress goes on: a moment in every test run.
func howLong(moment time.Duration) time.Duration {
	if *long {
		return *stressTime
	}
	return moment
}

// patience is how long anything may take before a test gives up.
const patience = 30 * time.Second

// stand is a server on loopback.
type stand struct {
	*resonate.Server
	t     *testing.T
	addr  string // where speakers dial in
	edges *edges
	dials atomic.Int64                // that somebody wanted when they began
	stop  func() (took time.Duration) // again it does nothing
}

// newStand starts a server whose limits are out of the way, but for the floor
// of 500 ms between two dials of a speaker. It ends with the test.
func newStand(t *testing.T) *stand {
	t.Helper()
	s := &stand{t: t, edges: newEdges()}
	var err error
	s.Server, err = resonate.New(resonate.Options{
		Log: slog.New(s.edges), DialsInFlight: 256, DialRate: 1e6, DialBurst: 1e6,
		DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
			if ctx.Err() == nil {
				s.dials.Add(1)
			}
			return (&net.Dialer{}).DialContext(ctx, network, addr)
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s.addr = ln.Addr().String()
	web := &http.Server{Handler: s.Server, ReadHeaderTimeout: patience}
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() { _ = web.Serve(ln) }) // ends with Close
	wg.Go(func() {                      // ends with ctx
		if err := s.Run(ctx); err != nil {
			t.Errorf("server: %v", err)
		}
		_ = web.Close()
	})
	var once sync.Once
	s.stop = func() (took time.Duration) {
		once.Do(func() {
			began := time.Now()
			cancel()
			wg.Wait()
			took = time.Since(began)
			s.edges.report(t)
		})
		return took
	}
	t.Cleanup(func() { s.stop() })
	return s
}

// newBridgeStand is a whole bridge with its broker, its limits as they ship.
func newBridgeStand(t *testing.T) (*stand, *scene.Broker) {
	t.Helper()
	s := &stand{t: t, edges: newEdges()}
	broker := scene.StartBroker(t)
	bridge := scene.StartBridge(t, app.RunOptions{Config: scene.Config(t, broker), Build: app.Build{Version: "test"}, Log: slog.New(s.edges)})
	s.Server, s.addr = bridge.Server, bridge.Listen.String()
	var once sync.Once
	s.stop = func() (took time.Duration) {
		once.Do(func() {
			took = bridge.Stop()
			s.edges.report(t)
		})
		return took
	}
	t.Cleanup(func() { s.stop() })
	return s, broker
}

// do carries a command out; one for an unknown speaker does nothing.
func (s *stand) do(c resonate.Command) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	_, _ = s.Do(ctx, c)
}

// until waits for what no event tells.
func until(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not within %v: %s", patience, what)
		}
	}
}

// connection is how the server says that a speaker stands; "" if it does not
// know it.
func (s *stand) connection(id string) resonate.Connection {
	if p := s.Snapshot().Player(id); p != nil {
		return p.Connection
	}
	return ""
}

// edges is a log that follows the ups and downs of speakers: they alternate,
// and generations rise.
type edges struct {
	mu  sync.Mutex
	of  map[string]*tally
	bad []string
}

type tally struct {
	up    bool
	gen   uint64
	ups   int
	downs int
}

func newEdges() *edges { return &edges{of: map[string]*tally{}} }

func (e *edges) Enabled(_ context.Context, l slog.Level) bool { return l >= slog.LevelInfo }
func (e *edges) WithAttrs([]slog.Attr) slog.Handler           { return e }
func (e *edges) WithGroup(string) slog.Handler                { return e }

func (e *edges) Handle(_ context.Context, r slog.Record) error {
	up := r.Message == "connected"
	if !up && r.Message != "disconnected" && r.Message != "forgotten" {
		return nil
	}
	var id string
	var gen uint64
	was := true // it was connected
	r.Attrs(func(a slog.Attr) bool {
		switch a.Key {
		case "player":
			id = a.Value.String()
		case "gen":
			gen = a.Value.Uint64()
		case "connected":
			was = a.Value.Bool()
		}
		return true
	})
	if !was {
		return nil
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	x := e.of[id]
	if x == nil {
		x = &tally{}
		e.of[id] = x
	}
	if x.up == up || (up && gen <= x.gen) {
		e.bad = append(e.bad, fmt.Sprintf("%s: %s of generation %d, after %+v", id, r.Message, gen, *x))
	}
	x.up = up
	if up {
		x.ups++
		x.gen = gen
	} else {
		x.downs++
	}
	return nil
}

// ups are the sessions of a speaker so far; of all for "".
func (e *edges) ups(id string) (n int) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for k, x := range e.of {
		if id == "" || k == id {
			n += x.ups
		}
	}
	return n
}

// report is for when the server has ended: what was wrong, and who is still up.
func (e *edges) report(t *testing.T) {
	t.Helper()
	e.mu.Lock()
	defer e.mu.Unlock()
	bad := slices.Clone(e.bad)
	for id, x := range e.of {
		if x.up || x.ups != x.downs {
			bad = append(bad, fmt.Sprintf("%s: %d ups and %d downs", id, x.ups, x.downs))
		}
	}
	for _, line := range bad[:min(len(bad), 20)] {
		t.Error(line)
	}
}

// box is a speaker that counts its sockets. A socket counts for as long as the
// kernel has it established, which does not depend on who runs when: the other
// side's close is there before its next connection.
type box struct {
	id    string
	stand *stand
	ln    net.Listener
	web   *http.Server
	wg    sync.WaitGroup

	mu      sync.Mutex
	sockets map[*websocket.Conn]*net.TCPConn // that were told server/hello, and the kernel's
	accepts map[*net.TCPConn]bool            // that came to ln
	peak    int                              // of sockets, at once
	dialled int                              // peak of accepts
}

// box adds a speaker that listens. It does nothing until it is announced.
func (s *stand) box(id string) *box {
	s.t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		s.t.Fatal(err)
	}
	b := &box{id: id, stand: s, ln: ln, sockets: map[*websocket.Conn]*net.TCPConn{}, accepts: map[*net.TCPConn]bool{}}
	var up websocket.Upgrader
	b.web = &http.Server{ReadHeaderTimeout: patience, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if ws, err := up.Upgrade(w, r, nil); err == nil {
			b.talk(ws)
		}
	})}
	b.wg.Go(func() { _ = b.web.Serve(counted{ln, b}) }) // ends with Close
	s.t.Cleanup(b.close)
	return b
}

// close ends it with all its sockets.
func (b *box) close() {
	_ = b.web.Close()
	b.drop()
	b.wg.Wait()
}

// counted counts what comes in before anybody reads it.
type counted struct {
	net.Listener
	b *box
}

func (l counted) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if tcp, ok := c.(*net.TCPConn); ok && err == nil {
		b := l.b
		b.mu.Lock()
		b.accepts[tcp] = true
		for old := range b.accepts {
			if !established(old) {
				delete(b.accepts, old)
			}
		}
		b.dialled = max(b.dialled, len(b.accepts))
		b.mu.Unlock()
	}
	return c, err
}

// established asks the kernel whether a connection is open at both ends.
func established(c *net.TCPConn) (is bool) {
	raw, err := c.SyscallConn()
	if err != nil {
		return false
	}
	_ = raw.Control(func(fd uintptr) { // fails once it is closed
		info, err := unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO)
		const tcpEstablished = 1
		is = err == nil && info.State == tcpEstablished
	})
	return is
}

// talk is what a speaker says over a connection, and when it is one.
func (b *box) talk(ws *websocket.Conn) {
	b.wg.Add(1)
	defer b.wg.Done()
	defer b.forget(ws)
	_ = ws.SetReadDeadline(time.Now().Add(patience))
	if ws.WriteMessage(websocket.TextMessage, []byte(scene.WireHello(b.id))) != nil {
		return
	}
	if _, _, err := ws.ReadMessage(); err != nil {
		return
	}
	b.served(ws)
	if ws.WriteMessage(websocket.TextMessage, []byte(scene.WireState)) != nil {
		return
	}
	_ = ws.SetReadDeadline(time.Time{})
	for {
		if _, _, err := ws.ReadMessage(); err != nil {
			return
		}
	}
}

// served counts a socket that the server took.
func (b *box) served(ws *websocket.Conn) {
	tcp, ok := ws.NetConn().(*net.TCPConn)
	if !ok {
		panic("no TCP connection")
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.sockets[ws] = tcp
	n := 0
	for _, old := range b.sockets {
		if established(old) {
			n++
		}
	}
	b.peak = max(b.peak, n)
}

// live is how many sockets are served now.
func (b *box) live() (n int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, c := range b.sockets {
		if established(c) {
			n++
		}
	}
	return n
}

// drop breaks all its connections, as a crash does.
func (b *box) drop() {
	b.mu.Lock()
	defer b.mu.Unlock()
	for ws, c := range b.sockets {
		_ = c.SetLinger(0)
		_ = ws.Close()
	}
}

// flap connects to the server and leaves again: mostly as a crash does, else in
// order. An orderly end costs the machine a port for a minute, which it has only
// 28,000 of.
func (b *box) flap(ctx context.Context, orderly bool) error {
	ws, err := scene.WireDial(ctx, b.stand.addr, b.id)
	if err != nil {
		return err
	}
	b.served(ws)
	defer b.forget(ws)
	if orderly {
		return ws.WriteMessage(websocket.TextMessage, []byte(scene.WireGoodbye("restart")))
	}
	return ws.NetConn().(*net.TCPConn).SetLinger(0)
}

// forget closes a socket and counts it no more.
func (b *box) forget(ws *websocket.Conn) {
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.sockets, ws)
	_ = ws.Close()
}

// dialIn connects to the server and talks until the connection ends.
func (b *box) dialIn(ctx context.Context) error {
	ws, resp, err := websocket.DefaultDialer.DialContext(ctx, "ws://"+b.stand.addr+"/sendspin", nil)
	if err != nil {
		return err
	}
	_ = resp.Body.Close()
	b.talk(ws)
	return nil
}

func (b *box) endpoint() discovery.Endpoint {
	return discovery.Endpoint{
		Key: b.id + "._sendspin._tcp.local.", Name: b.id, Path: "/sendspin", Service: discovery.ServicePlayer,
		Addrs: []netip.AddrPort{netip.MustParseAddrPort(b.ln.Addr().String())},
	}
}

func (b *box) announce(again bool) {
	b.stand.Discover(discovery.Event{Kind: discovery.Announced, Endpoint: b.endpoint(), Again: again})
}

func (b *box) withdraw() {
	b.stand.Discover(discovery.Event{Kind: discovery.Withdrawn, Endpoint: b.endpoint()})
}

// custody is the user's choice.
func (b *box) custody(c resonate.Custody) {
	b.stand.do(resonate.SetPlayer{PID: b.id, Custody: &c})
}

// want checks the peaks: one socket to the speaker, ever.
func (b *box) want() {
	b.stand.t.Helper()
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.dialled > 1 || b.peak > 1 {
		b.stand.t.Errorf("%s: %d sockets of dials, %d served at once; want 1 at most", b.id, b.dialled, b.peak)
	}
}

// rivals are the endpoints that the server lists besides speakers.
func (s *stand) rivals() string {
	var out []string
	for _, u := range s.Snapshot().Unmet {
		out = append(out, u.Key+" "+u.Error)
	}
	return strings.Join(out, ", ")
}
