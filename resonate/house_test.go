package resonate

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gorilla/websocket"
	"go.uber.org/goleak"

	"resonatebridge/discovery"
	"resonatebridge/resonate/internal/sealtest"
	"resonatebridge/tests/pipe"
)

func TestMain(m *testing.M) {
	if task := os.Getenv(herdOf); task != "" {
		if err := beHerd(task); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	goleak.VerifyTestMain(m)
}

// house is a running server, the network around it and the speakers on it, in
// virtual time.
type house struct {
	*Server
	t     *testing.T
	front *pipe.Listener // where speakers dial the server
	web   *http.Server
	log   journal
	stop  func() // ends the server and checks that nothing of it is left

	mu    sync.Mutex
	doors map[string]*speaker // by address
	dials []dialled
	ours  []*pipe.Conn // the server's end of every connection there was
	lines sync.WaitGroup
}

type dialled struct {
	addr string
	at   time.Time
}

// newHouse starts a server. It ends with the test, or with stop.
func newHouse(t *testing.T, set ...func(*Options)) *house {
	t.Helper()
	h := &house{t: t, front: pipe.NewListener(), doors: map[string]*speaker{}}
	o := Options{Name: "Bridge", Log: slog.New(slog.NewJSONHandler(&h.log, nil)), DialContext: h.dial}
	for _, f := range set {
		f(&o)
	}
	var err error
	if h.Server, err = New(o); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	ended := make(chan error, 1)
	go func() { ended <- h.Run(ctx) }()
	h.web = &http.Server{Handler: h.Server, ReadHeaderTimeout: time.Second}
	var web sync.WaitGroup
	web.Go(func() { _ = h.web.Serve(doorman{h.front, h}) })
	h.stop = sync.OnceFunc(func() {
		start := time.Now()
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("Run: got %v, want nil", err)
		}
		if took := time.Since(start); took > 5*time.Second {
			t.Errorf("Run returned %v after its context ended, want 5 s at most", took)
		}
		h.mu.Lock()
		for i, c := range h.ours {
			if !c.IsClosed() {
				t.Errorf("connection %d of %d is still open after Run", i+1, len(h.ours))
			}
		}
		for _, c := range h.ours {
			c.Reset() // frees speakers that were cut off
		}
		h.mu.Unlock()
		_ = h.web.Close()
		web.Wait()
		h.lines.Wait()
	})
	t.Cleanup(h.stop)
	synctest.Wait()
	return h
}

// doorman notes the server's end of what comes in.
type doorman struct {
	*pipe.Listener
	h *house
}

func (d doorman) Accept() (net.Conn, error) {
	c, err := d.Listener.Accept()
	if p, ok := c.(*pipe.Conn); ok && err == nil {
		d.h.mu.Lock()
		d.h.ours = append(d.h.ours, p)
		d.h.mu.Unlock()
	}
	return c, err
}

// dial is the server's way to the speakers.
func (h *house) dial(ctx context.Context, _, addr string) (net.Conn, error) {
	h.mu.Lock()
	if ctx.Err() != nil { // given up before it began
		h.mu.Unlock()
		return nil, ctx.Err()
	}
	h.dials = append(h.dials, dialled{addr, time.Now()})
	s := h.doors[addr]
	h.mu.Unlock()
	if s == nil {
		return nil, &net.OpError{Op: "dial", Net: "tcp", Err: syscall.ECONNREFUSED}
	}
	if gate := s.gated(); gate != nil {
		<-gate // whatever ctx says: such dials succeed when nobody wants them any more
	} else if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	if s.isOff() {
		return nil, &net.OpError{Op: "dial", Net: "tcp", Err: syscall.ECONNREFUSED}
	}
	a, b := pipe.NewSize(s.dialled())
	h.mu.Lock()
	h.ours = append(h.ours, a)
	h.mu.Unlock()
	s.set(func() {
		s.sockets = slices.DeleteFunc(s.sockets, (*pipe.Conn).IsClosed)
		s.sockets = append(s.sockets, a)
		s.most = max(s.most, len(s.sockets))
	})
	h.lines.Go(func() { s.accept(b) })
	return a, nil
}

func (h *house) dialsTo(addr string) (n int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, d := range h.dials {
		if d.addr == addr {
			n++
		}
	}
	return n
}

// speaker is a client written from the protocol's text, not with our own.
type speaker struct {
	h    *house
	id   string // client id
	key  string // discovery key
	addr string // where it listens

	mu          sync.Mutex
	hello       string // its first frame; "" says nothing
	state       func() string
	volume      int
	muted       bool
	deaf        bool          // carries commands out without a word about it
	off         bool          // refuses connections
	gate        chan struct{} // dials wait for it
	live, peak  int
	connections []*line
	capacity    int               // of links that the server dials, if not 0
	raw         func(*pipe.Conn)  // has its connections past their upgrade, if not nil, instead of talk
	sockets     []*pipe.Conn      // the server's open ends of them
	most        int               // of sockets, at once
	sealed      *sealtest.Speaker // nil: it speaks plaintext
}

// line is one connection of a speaker.
type line struct {
	s       *speaker
	ws      *websocket.Conn
	link    *pipe.Conn // the speaker's end; faults act on both directions
	ended   chan struct{}
	seal    *sealtest.Conn // nil: it is plaintext
	writing sync.Mutex

	// Guarded by s.mu.
	got    []string // frames as "type payload"
	audio  [][]byte // binary frames
	reason string   // of server/hello
	err    error
}

const playerHello = `{"type":"client/hello","payload":{"client_id":%s,"name":%s,"version":1,"supported_roles":["player@v1"],` +
	`"player@v1_support":{"supported_formats":[{"codec":"pcm","channels":2,"sample_rate":48000,"bit_depth":16}],` +
	`"buffer_capacity":1000000,"supported_commands":["volume","mute"]}}}`

func quoted(s string) string {
	b, _ := json.Marshal(s) // a text never fails
	return string(b)
}

// speaker adds a player to the network. It listens, and does nothing else.
func (h *house) speaker(id string) *speaker {
	h.mu.Lock()
	defer h.mu.Unlock()
	n := len(h.doors) + 1
	same := 1 // speakers of this id: the first one has the same key in every house
	for _, d := range h.doors {
		if d.id == id {
			same++
		}
	}
	s := &speaker{
		h: h, id: id, volume: 40, key: fmt.Sprintf("%x-%d._sendspin._tcp.local.", id, same),
		addr:  netip.AddrPortFrom(netip.AddrFrom4([4]byte{198, 51, byte(100 + n/250), byte(1 + n%250)}), 8928).String(),
		hello: fmt.Sprintf(playerHello, quoted(id), quoted(id)),
	}
	s.state = func() string {
		return fmt.Sprintf(`{"type":"client/state","payload":{"state":"synchronized","player":{"volume":%d,"muted":%v}}}`, s.volume, s.muted)
	}
	h.doors[s.addr] = s
	return s
}

// online adds a player, announces it and waits until it is connected.
func (h *house) online(id string) *speaker {
	h.t.Helper()
	s := h.speaker(id)
	s.announce()
	synctest.Wait()
	h.want(id, Connected, true)
	return s
}

func (s *speaker) endpoint() discovery.Endpoint {
	return discovery.Endpoint{
		Key: s.key, Name: s.id, Path: "/sendspin", Service: "_sendspin._tcp",
		Addrs: []netip.AddrPort{netip.MustParseAddrPort(s.addr)},
	}
}

func (s *speaker) announce() {
	s.h.Discover(discovery.Event{Kind: discovery.Announced, Endpoint: s.endpoint()})
}

func (s *speaker) reannounce() {
	s.h.Discover(discovery.Event{Kind: discovery.Announced, Endpoint: s.endpoint(), Again: true})
}

func (s *speaker) withdraw() {
	s.h.Discover(discovery.Event{Kind: discovery.Withdrawn, Endpoint: s.endpoint()})
}

func (s *speaker) set(f func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f()
}

func (s *speaker) isOff() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.off
}

func (s *speaker) gated() chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.gate
}

// dialled is how much the link of a dial holds.
func (s *speaker) dialled() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.capacity != 0 {
		return s.capacity
	}
	return pipe.DefaultCapacity
}

// clog stops it, and gives the server so much to say that its writer stands:
// letting go of it takes a while.
func (s *speaker) clog() {
	l := s.line(-1)
	l.link.Freeze()
	for i := range 100 {
		if _, err := s.h.Do(s.h.t.Context(), setVolume(s.id, i)); err != nil {
			s.h.t.Fatal(err)
		}
	}
	synctest.Wait()
}

// powerOff ends its connections without a word and refuses new ones.
func (s *speaker) powerOff() {
	s.set(func() { s.off = true })
	s.reset()
}

func (s *speaker) powerOn() { s.set(func() { s.off = false }) }

// reset breaks its connections.
func (s *speaker) reset() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, l := range s.connections {
		l.link.Reset()
	}
}

// counts are the connections that are open now, that were open at once, and
// that there ever were.
func (s *speaker) counts() (live, peak, total int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.live, s.peak, len(s.connections)
}

// hijacked lets an Upgrader take over a connection without an http.Server.
type hijacked struct {
	http.ResponseWriter
	conn net.Conn
	rw   *bufio.ReadWriter
}

func (h hijacked) Hijack() (net.Conn, *bufio.ReadWriter, error) { return h.conn, h.rw, nil }

// accept is the speaker's end of a dial of the server.
func (s *speaker) accept(c *pipe.Conn) {
	br := bufio.NewReader(c)
	req, err := http.ReadRequest(br)
	if err != nil {
		_ = c.Close()
		return
	}
	var u websocket.Upgrader
	ws, err := u.Upgrade(hijacked{conn: c, rw: bufio.NewReadWriter(br, bufio.NewWriter(c))}, req, nil)
	if err != nil {
		_ = c.Close()
		return
	}
	if s.raw != nil {
		s.raw(c)
		return
	}
	s.open(ws, c).talk()
}

// dialIn connects to the server. An encrypted connection can be changed before.
func (s *speaker) dialIn(set ...func(*sealtest.Conn)) *line {
	s.h.t.Helper()
	c, err := s.h.front.Dial(s.h.t.Context())
	if err != nil {
		s.h.t.Fatal(err)
	}
	d := websocket.Dialer{NetDialContext: func(context.Context, string, string) (net.Conn, error) { return c, nil }}
	ws, resp, err := d.DialContext(s.h.t.Context(), "ws://bridge/sendspin", nil)
	if err != nil {
		s.h.t.Fatal(err)
	}
	_ = resp.Body.Close()
	l := s.open(ws, c)
	for _, f := range set {
		f(l.seal)
	}
	s.h.lines.Go(l.talk)
	return l
}

func (s *speaker) open(ws *websocket.Conn, c *pipe.Conn) *line {
	s.mu.Lock()
	defer s.mu.Unlock()
	l := &line{s: s, ws: ws, link: c, ended: make(chan struct{})}
	if s.sealed != nil {
		l.seal = s.sealed.Connect(ws)
	}
	s.connections = append(s.connections, l)
	s.live++
	s.peak = max(s.peak, s.live)
	return l
}

// talk is the life of a connection at the speaker's end.
func (l *line) talk() {
	s := l.s
	defer close(l.ended)
	defer l.ws.Close()
	if l.seal != nil {
		err := l.seal.Run()
		s.set(func() { l.err = err; s.live-- })
		return
	}
	s.mu.Lock()
	hello := s.hello
	s.mu.Unlock()
	if hello != "" {
		l.send(hello)
	}
	for {
		kind, data, err := l.ws.ReadMessage()
		s.mu.Lock()
		if err != nil {
			l.err = err
			s.live--
			s.mu.Unlock()
			return
		}
		answer := ""
		if kind == websocket.BinaryMessage {
			l.audio = append(l.audio, slices.Clone(data))
			l.got = append(l.got, "audio ")
		} else {
			answer = l.take(data)
		}
		s.mu.Unlock()
		if answer != "" {
			l.send(answer)
		}
	}
}

// take notes a frame and returns what the speaker says to it. s.mu is held.
func (l *line) take(data []byte) (answer string) {
	s := l.s
	var e struct {
		Type    string
		Payload json.RawMessage
	}
	if err := json.Unmarshal(data, &e); err != nil {
		l.got = append(l.got, fmt.Sprintf("malformed %q", data))
		return ""
	}
	l.got = append(l.got, e.Type+" "+string(e.Payload))
	switch e.Type {
	case "server/hello":
		var h struct {
			Reason string `json:"connection_reason"`
		}
		_ = json.Unmarshal(e.Payload, &h)
		l.reason = h.Reason
	case "server/command":
		var c struct {
			Player struct {
				Volume *int
				Mute   *bool
			}
		}
		_ = json.Unmarshal(e.Payload, &c)
		if c.Player.Volume != nil {
			s.volume = *c.Player.Volume
		}
		if c.Player.Mute != nil {
			s.muted = *c.Player.Mute
		}
		if s.deaf {
			return ""
		}
	default:
		return ""
	}
	if s.state == nil {
		return ""
	}
	return s.state()
}

func (l *line) send(frame string) { l.write(websocket.TextMessage, []byte(frame)) }

func (l *line) write(kind int, data []byte) {
	l.writing.Lock()
	defer l.writing.Unlock()
	_ = l.ws.SetWriteDeadline(time.Now().Add(time.Minute)) // a connection that ended takes nothing
	_ = l.ws.WriteMessage(kind, data)
}

func (l *line) goodbye(reason string) {
	l.send(fmt.Sprintf(`{"type":"client/goodbye","payload":{"reason":%q}}`, reason))
}

// turn is a hand on the speaker's own knob.
func (s *speaker) turn(volume int) {
	s.mu.Lock()
	s.volume = volume
	frame := s.state()
	l := s.connections[len(s.connections)-1]
	s.mu.Unlock()
	l.send(frame)
	synctest.Wait()
}

// line is its n-th connection, from 0; negative from the last.
func (s *speaker) line(n int) *line {
	s.h.t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	if n < 0 {
		n += len(s.connections)
	}
	if n < 0 || n >= len(s.connections) {
		s.h.t.Fatalf("%s has %d connections, want more than %d", s.id, len(s.connections), n)
	}
	return s.connections[n]
}

// messages are the payloads of the frames of one type so far.
func (l *line) messages(typ string) []string {
	l.s.mu.Lock()
	defer l.s.mu.Unlock()
	var out []string
	for _, m := range l.got {
		if body, ok := strings.CutPrefix(m, typ+" "); ok {
			out = append(out, body)
		}
	}
	return out
}

// last is the newest payload of a type, "" if there is none.
func (l *line) last(typ string) string {
	m := l.messages(typ)
	if len(m) == 0 {
		return ""
	}
	return m[len(m)-1]
}

// commands are the volumes and mutes that the speaker was told, over all its
// connections.
func (s *speaker) commands() []string {
	s.mu.Lock()
	all := append([]*line(nil), s.connections...)
	s.mu.Unlock()
	var out []string
	for _, l := range all {
		for _, body := range l.messages("server/command") {
			var c struct{ Player map[string]any }
			_ = json.Unmarshal([]byte(body), &c)
			name, _ := c.Player["command"].(string)
			out = append(out, fmt.Sprintf("%s=%v", name, c.Player[name]))
		}
	}
	return out
}

func (l *line) why() string {
	l.s.mu.Lock()
	defer l.s.mu.Unlock()
	return l.reason
}

// closeCode is the code of the close frame, 0 without one.
func (l *line) closeCode() int {
	l.s.mu.Lock()
	defer l.s.mu.Unlock()
	var e *websocket.CloseError
	if errors.As(l.err, &e) && e.Code != websocket.CloseAbnormalClosure {
		return e.Code
	}
	return 0
}

func (l *line) isOver() bool {
	select {
	case <-l.ended:
		return true
	default:
		return false
	}
}

// --- looking at the server ---

func (h *house) player(pid string) *Player {
	h.t.Helper()
	synctest.Wait()
	p := h.Snapshot().Player(pid)
	if p == nil {
		h.t.Fatalf("no player %q; there are %v", pid, h.pids())
	}
	return p
}

func (h *house) pids() []string {
	pids := []string{}
	for _, p := range h.Snapshot().Players {
		pids = append(pids, p.PID)
	}
	return pids
}

// want checks how a player stands.
func (h *house) want(pid string, c Connection, available bool) {
	h.t.Helper()
	if p := h.player(pid); p.Connection != c || p.Available != available {
		h.t.Errorf("%s: got %s, available %v; want %s, %v (%s)", pid, p.Connection, p.Available, c, available, p.LastError)
	}
}

func (h *house) group(pid string) *Group {
	h.t.Helper()
	return h.Snapshot().GoverningGroup(h.player(pid))
}

// must carries a command out; mustFail wants it refused.
func (h *house) must(c Command) Result {
	h.t.Helper()
	ctx, cancel := context.WithTimeout(h.t.Context(), 10*time.Second)
	defer cancel()
	r, err := h.Do(ctx, c)
	if err != nil {
		h.t.Fatalf("%#v: %v", c, err)
	}
	synctest.Wait()
	return r
}

func (h *house) mustFail(c Command, code Code) {
	h.t.Helper()
	ctx, cancel := context.WithTimeout(h.t.Context(), 10*time.Second)
	defer cancel()
	_, err := h.Do(ctx, c)
	var ce *CommandError
	if !errors.As(err, &ce) || ce.Code != code {
		h.t.Errorf("%#v: got %v, want code %s", c, err, code)
	}
}

func setVolume(pid string, v int) SetPlayer {
	return SetPlayer{PID: pid, Volume: &VolumeChange{Value: v}}
}

func setCustody(pid string, c Custody) SetPlayer { return SetPlayer{PID: pid, Custody: &c} }

// volume is what the server holds for a player's volume, -1 for nothing.
func (h *house) volume(pid string) int {
	h.t.Helper()
	if p := h.player(pid); p.Volume != nil {
		return *p.Volume
	}
	return -1
}

// edges are a player's ups and downs as the log tells them, numbered by
// generation from 1: "up1 down1 up2". It checks that they alternate.
func (h *house) edges(pid string) string {
	h.t.Helper()
	synctest.Wait()
	var out []string
	var gens []uint64
	for _, e := range h.log.entries() {
		if e.Player != pid || (e.Msg != "connected" && e.Msg != "disconnected") {
			continue
		}
		isUp := e.Msg == "connected"
		if len(gens) > 0 && isUp && e.Gen <= gens[len(gens)-1] {
			h.t.Errorf("%s: generation %d came after %d", pid, e.Gen, gens[len(gens)-1])
		}
		if isUp {
			gens = append(gens, e.Gen)
			out = append(out, fmt.Sprintf("up%d", len(gens)))
			continue
		}
		out = append(out, fmt.Sprintf("down%d", len(gens)))
	}
	return strings.Join(out, " ")
}

// journal is a log that tests read.
type journal struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

type entry struct {
	Msg, Player string
	Gen         uint64
	Err         string
	Deviation   string
}

func (j *journal) Write(p []byte) (int, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.buf.Write(p)
}

func (j *journal) String() string {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.buf.String()
}

func (j *journal) entries() []entry {
	var out []entry
	d := json.NewDecoder(strings.NewReader(j.String()))
	for {
		var e entry
		if err := d.Decode(&e); err != nil {
			return out
		}
		out = append(out, e)
	}
}

// pass lets virtual time go by.
func pass(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

// bubble runs f in virtual time.
func bubble(t *testing.T, f func(t *testing.T)) {
	t.Helper()
	synctest.Test(t, f)
}
