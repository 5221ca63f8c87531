package session

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
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gorilla/websocket"
	"go.uber.org/goleak"

	"resonatebridge/resonate/protocol"
	"resonatebridge/tests/pipe"
	"resonatebridge/timesync"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// What a speaker says first, written from the protocol's text.
const (
	hello = `{"type":"client/hello","payload":{"client_id":"p1","name":"One","version":1,` +
		`"supported_roles":["player@v1","controller@v1","metadata@v1"],` +
		`"player@v1_support":{"supported_formats":[{"codec":"pcm","channels":2,"sample_rate":48000,"bit_depth":16}],` +
		`"buffer_capacity":1000000,"supported_commands":["volume","mute"]}}}`
	remote  = `{"type":"client/hello","payload":{"client_id":"c1","name":"Remote","version":1,"supported_roles":["controller@v1"]}}`
	state   = `{"type":"client/state","payload":{"state":"synchronized","player":{"volume":40,"muted":false}}}`
	goodbye = `{"type":"client/goodbye","payload":{"reason":"restart"}}`
)

// peer is the client's end of one connection: a plain WebSocket that notes
// what it gets. It reads nothing before listen is called.
type peer struct {
	ws   *websocket.Conn
	link *pipe.Conn // its end; faults act on the connection

	writing sync.Mutex
	mu      sync.Mutex
	got     []string // frames as "type payload", binary ones as "binary"
	err     error    // why reading ended
	onFrame func(n int)
	ended   chan struct{} // closed when reading ended; nil before listen
}

// hijacked lets an Upgrader take over a connection without an http.Server.
type hijacked struct {
	http.ResponseWriter
	conn net.Conn
	rw   *bufio.ReadWriter
}

func (h hijacked) Hijack() (net.Conn, *bufio.ReadWriter, error) { return h.conn, h.rw, nil }

// connect returns the two ends of an open WebSocket whose link holds capacity
// bytes in each direction.
func connect(t *testing.T, capacity int) (ours *websocket.Conn, theirs *peer) {
	t.Helper()
	a, b := pipe.NewSize(capacity)
	upgraded := make(chan *websocket.Conn, 1)
	go func() {
		br := bufio.NewReader(b)
		req, err := http.ReadRequest(br)
		if err != nil {
			t.Error(err)
			return
		}
		var u websocket.Upgrader
		ws, err := u.Upgrade(hijacked{conn: b, rw: bufio.NewReadWriter(br, bufio.NewWriter(b))}, req, nil)
		if err != nil {
			t.Error(err)
			return
		}
		upgraded <- ws
	}()
	d := websocket.Dialer{NetDialContext: func(context.Context, string, string) (net.Conn, error) { return Cork(a), nil }}
	ours, resp, err := d.DialContext(t.Context(), "ws://player/sendspin", nil)
	if err != nil {
		t.Fatal(err)
	}
	_ = resp.Body.Close()
	p := &peer{ws: <-upgraded, link: b}
	t.Cleanup(func() {
		_ = ours.Close()
		_ = p.ws.Close()
		if p.ended != nil {
			<-p.ended
		}
	})
	return ours, p
}

func (p *peer) send(frame string) { p.write(websocket.TextMessage, []byte(frame)) }

func (p *peer) write(kind int, data []byte) {
	p.writing.Lock()
	defer p.writing.Unlock()
	_ = p.ws.SetWriteDeadline(time.Now().Add(time.Minute)) // a session that ended takes nothing
	_ = p.ws.WriteMessage(kind, data)
}

// listen starts reading, which also answers pings.
func (p *peer) listen() *peer {
	p.ended = make(chan struct{})
	go func() { // ends with the connection
		defer close(p.ended)
		for n := 1; ; n++ {
			kind, data, err := p.ws.ReadMessage()
			p.mu.Lock()
			if err != nil {
				p.err = err
				p.mu.Unlock()
				return
			}
			var e struct {
				Type    string
				Payload json.RawMessage
			}
			switch {
			case kind == websocket.BinaryMessage:
				e.Type = "binary"
			case json.Unmarshal(data, &e) != nil:
				e.Type = fmt.Sprintf("malformed %q", data)
			}
			p.got = append(p.got, e.Type+" "+string(e.Payload))
			f := p.onFrame
			p.mu.Unlock()
			if f != nil {
				f(n)
			}
		}
	}()
	return p
}

// messages are the frames so far whose type is typ, payloads only.
func (p *peer) messages(typ string) []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	var out []string
	for _, m := range p.got {
		if body, ok := strings.CutPrefix(m, typ+" "); ok {
			out = append(out, body)
		}
	}
	return out
}

// types are the types of all frames so far, in order.
func (p *peer) types() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	var out []string
	for _, m := range p.got {
		typ, _, _ := strings.Cut(m, " ")
		out = append(out, typ)
	}
	return out
}

// closeCode is the code of the close frame, 0 without one.
func (p *peer) closeCode() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	var e *websocket.CloseError
	if errors.As(p.err, &e) && e.Code != websocket.CloseAbnormalClosure {
		return e.Code
	}
	return 0
}

// journal is a log that tests read.
type journal struct {
	mu  sync.Mutex
	buf bytes.Buffer
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

func (j *journal) logger() *slog.Logger { return slog.New(slog.NewTextHandler(j, nil)) }

// setup is how a test departs from the usual session.
type setup struct {
	Options
	capacity int    // of the link; default pipe.DefaultCapacity
	hello    string // default hello
}

// begin opens a connection whose client has said hello.
func begin(t *testing.T, set ...func(*setup)) (*Session, *peer) {
	t.Helper()
	u := setup{capacity: pipe.DefaultCapacity, hello: hello, Options: Options{
		Clock: timesync.NewClock(),
		Hello: func(protocol.ClientHello) protocol.ServerHello {
			return protocol.ServerHello{ServerID: "srv", Name: "House", Version: 1, Reason: protocol.ReasonDiscovery}
		},
		Handle: func(*Session, protocol.ClientMessage) {},
	}}
	for _, f := range set {
		f(&u)
	}
	ours, p := connect(t, u.capacity)
	p.send(u.hello)
	s, err := Greet(t.Context(), ours, "", u.Options)
	if err != nil {
		t.Fatal(err)
	}
	return s, p
}

// running is a session under Run.
type running struct {
	*Session
	cancel context.CancelCauseFunc

	mu    sync.Mutex
	ups   int
	upAt  time.Time
	err   error
	ended chan struct{} // closed when Run has returned
	endAt time.Time
}

// run runs s until it ends, at the latest with the test.
func run(t *testing.T, s *Session) *running {
	t.Helper()
	ctx, cancel := context.WithCancelCause(context.WithoutCancel(t.Context()))
	r := &running{Session: s, cancel: cancel, ended: make(chan struct{})}
	go func() {
		err := s.Run(ctx, func() {
			r.mu.Lock()
			defer r.mu.Unlock()
			r.ups++
			r.upAt = time.Now()
		})
		r.mu.Lock()
		r.err, r.endAt = err, time.Now()
		r.mu.Unlock()
		close(r.ended)
	}()
	t.Cleanup(func() { cancel(context.Canceled); <-r.ended })
	return r
}

// live returns a session that is up, and its peer, which does not read yet.
func live(t *testing.T, set ...func(*setup)) (*running, *peer) {
	t.Helper()
	s, p := begin(t, set...)
	r := run(t, s)
	if s.needsState() {
		p.send(state)
	}
	synctest.Wait()
	if got := r.wentUp(); got != 1 {
		t.Fatalf("up was called %d times, want once", got)
	}
	return r, p
}

func (r *running) wentUp() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.ups
}

// isOver reports whether Run has returned.
func (r *running) isOver() bool {
	select {
	case <-r.ended:
		return true
	default:
		return false
	}
}

// result waits for Run and returns what it returned.
func (r *running) result() error {
	<-r.ended
	return r.err
}

// says is a message that carries a text, so that tests can follow it.
func says(who, what string) protocol.ServerMessage {
	return protocol.GroupUpdate{PlaybackState: protocol.PlaybackStopped, GroupID: who, GroupName: what}
}

// clog fills the link to a peer that does not read, until the writer stands.
func clog(t *testing.T, r *running) {
	t.Helper()
	if err := r.Send(says("clog", strings.Repeat("x", 2*pipe.DefaultCapacity))); err != nil {
		t.Fatal(err)
	}
	synctest.Wait()
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

// must fails the test unless err is target.
func must(t *testing.T, what string, err, target error) {
	t.Helper()
	if !errors.Is(err, target) {
		t.Errorf("%s: got %v, want %v", what, err, target)
	}
}
