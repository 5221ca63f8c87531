package client

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"resonatebridge/resonate/protocol"
	"resonatebridge/tests/pipe"
	"resonatebridge/timesync"

	"github.com/gorilla/websocket"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// fakeServer is the server's end of one connection in dialect S4, written from
// the protocol's text and not with our own translator.
type fakeServer struct {
	id, name, reason string
	link             *pipe.Conn // either end: faults act on both directions
	conn             *websocket.Conn
	clock            func() timesync.Micros

	writing  sync.Mutex
	mu       sync.Mutex
	got      []string // frames other than hello and time, as "type payload"
	hello    string
	times    int
	closed   error         // why reading ended
	ended    chan struct{} // closed when reading ended
	mute     bool          // don't answer hello
	silence  bool          // don't answer time
	holdTime []string      // unanswered client/time while silence
}

// house is a server's listener that players dial.
type house struct {
	*pipe.Listener
	mu     sync.Mutex
	conns  []*fakeServer
	setup  func(*fakeServer)
	refuse bool
	srv    *http.Server
	wg     sync.WaitGroup
}

func serverClock(start time.Time) func() timesync.Micros {
	return func() timesync.Micros { return 5_000_000 + timesync.Micros(time.Since(start)/time.Microsecond) }
}

// newHouse starts an http.Server over pipes; it stops with the test.
func newHouse(t *testing.T, setup func(*fakeServer)) *house {
	t.Helper()
	h := &house{Listener: pipe.NewListener(), setup: setup}
	clock := serverClock(time.Now())
	var up websocket.Upgrader
	h.srv = &http.Server{ReadHeaderTimeout: time.Second, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h.mu.Lock()
		refuse := h.refuse
		h.mu.Unlock()
		if refuse {
			http.Error(w, "no", http.StatusServiceUnavailable)
			return
		}
		c, err := up.Upgrade(w, r, nil)
		if err != nil {
			t.Error(err)
			return
		}
		f := &fakeServer{id: "srv", name: "House", reason: "discovery", conn: c, clock: clock, ended: make(chan struct{})}
		if p, ok := c.NetConn().(*pipe.Conn); ok {
			f.link = p
		}
		if h.setup != nil {
			h.setup(f)
		}
		h.mu.Lock()
		h.conns = append(h.conns, f)
		h.mu.Unlock()
		f.read()
	})}
	h.wg.Go(func() { _ = h.srv.Serve(h.Listener) })
	t.Cleanup(func() {
		_ = h.srv.Close()
		h.mu.Lock()
		conns := slices.Clone(h.conns)
		h.mu.Unlock()
		for _, f := range conns {
			_ = f.conn.Close()
			<-f.ended
		}
		h.wg.Wait()
	})
	return h
}

// options are session options that dial the house.
func (h *house) options() Options {
	return Options{
		Hello: protocol.ClientHello{
			ClientID: "p1", Name: "One", Version: 1, Roles: []protocol.Role{protocol.RolePlayer},
			Player: &protocol.PlayerSupport{
				Formats:        []protocol.Format{{Codec: "pcm", Channels: 2, SampleRate: 48000, BitDepth: 16}},
				BufferCapacity: 1_000_000,
				Commands:       []protocol.PlayerCommandName{protocol.CommandVolume, protocol.CommandMute},
			},
		},
		NetDial: h.DialContext,
	}
}

// conn is the i-th connection, nil if there is none yet.
func (h *house) conn(i int) *fakeServer {
	h.mu.Lock()
	defer h.mu.Unlock()
	if i >= len(h.conns) {
		return nil
	}
	return h.conns[i]
}

func (h *house) count() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return len(h.conns)
}

// visit dials a player that listens, as a server called id does.
func visit(t *testing.T, l *pipe.Listener, id, reason string) *fakeServer {
	t.Helper()
	d := websocket.Dialer{NetDialContext: l.DialContext, HandshakeTimeout: time.Second}
	c, resp, err := d.DialContext(t.Context(), "ws://player/sendspin", nil)
	if err != nil {
		t.Fatal(err)
	}
	_ = resp.Body.Close()
	f := &fakeServer{id: id, name: strings.ToUpper(id), reason: reason, conn: c, clock: serverClock(time.Now()), ended: make(chan struct{})}
	if p, ok := c.NetConn().(*pipe.Conn); ok {
		f.link = p
	}
	go f.read()
	t.Cleanup(func() {
		_ = c.Close()
		<-f.ended
	})
	return f
}

func (f *fakeServer) read() {
	defer close(f.ended)
	for {
		_, data, err := f.conn.ReadMessage()
		if err != nil {
			f.mu.Lock()
			f.closed = err
			f.mu.Unlock()
			return
		}
		received := f.clock()
		var e struct {
			Type    string
			Payload json.RawMessage
		}
		if err := json.Unmarshal(data, &e); err != nil {
			e.Type = fmt.Sprintf("malformed %q", data)
		}
		f.mu.Lock()
		mute, silence := f.mute, f.silence
		switch e.Type {
		case "client/hello":
			f.hello = string(e.Payload)
		case "client/time":
			f.times++
			if silence {
				f.holdTime = append(f.holdTime, string(e.Payload))
			}
		default:
			f.got = append(f.got, e.Type+" "+string(e.Payload))
		}
		f.mu.Unlock()
		switch {
		case e.Type == "client/hello" && !mute:
			f.send(`{"type":"server/hello","payload":{"server_id":%q,"name":%q,"version":1,"active_roles":["player@v1"],"connection_reason":%q}}`, f.id, f.name, f.reason)
		case e.Type == "client/time" && !silence:
			f.answerTime(string(e.Payload), received)
		}
	}
}

func (f *fakeServer) answerTime(payload string, received timesync.Micros) {
	var p struct {
		T int64 `json:"client_transmitted"`
	}
	_ = json.Unmarshal([]byte(payload), &p)
	f.send(`{"type":"server/time","payload":{"client_transmitted":%d,"server_received":%d,"server_transmitted":%d}}`, p.T, received, f.clock())
}

func (f *fakeServer) send(format string, args ...any) {
	f.writing.Lock()
	defer f.writing.Unlock()
	_ = f.conn.SetWriteDeadline(time.Now().Add(10 * time.Second))
	_ = f.conn.WriteMessage(websocket.TextMessage, fmt.Appendf(nil, format, args...))
}

func (f *fakeServer) volume(v int) {
	f.send(`{"type":"server/command","payload":{"player":{"command":"volume","volume":%d}}}`, v)
}

// stream starts a stream of 48 kHz 16 bit stereo PCM.
func (f *fakeServer) stream() {
	f.send(`{"type":"stream/start","payload":{"player":{"codec":"pcm","sample_rate":48000,"channels":2,"bit_depth":16}}}`)
}

// chunk sends frames that all have the value v in both channels.
func (f *fakeServer) chunk(at timesync.Micros, frames int, v int16) {
	b := binary.BigEndian.AppendUint64([]byte{4}, uint64(at))
	for range 2 * frames {
		b = binary.LittleEndian.AppendUint16(b, uint16(v))
	}
	f.writing.Lock()
	defer f.writing.Unlock()
	_ = f.conn.WriteMessage(websocket.BinaryMessage, b)
}

// messages are the frames received so far whose type begins with prefix.
func (f *fakeServer) messages(prefix string) []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	var out []string
	for _, m := range f.got {
		if strings.HasPrefix(m, prefix) {
			out = append(out, m)
		}
	}
	return out
}

func (f *fakeServer) last(prefix string) string {
	m := f.messages(prefix)
	if len(m) == 0 {
		return ""
	}
	return m[len(m)-1]
}

func (f *fakeServer) isClosed() bool {
	select {
	case <-f.ended:
		return true
	default:
		return false
	}
}

// closeText is the reason of the close frame, "cut" without one.
func (f *fakeServer) closeText() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	var e *websocket.CloseError
	if errors.As(f.closed, &e) && e.Code == websocket.CloseNormalClosure {
		return e.Text
	}
	return "cut"
}

// dial makes a session and fails the test if it can't.
func (h *house) dial(t *testing.T, o Options) *Session {
	t.Helper()
	s, err := Dial(t.Context(), "ws://house/sendspin", o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Abort(); <-s.Done() })
	return s
}

// bubble runs f in virtual time.
func bubble(t *testing.T, f func(t *testing.T)) {
	t.Helper()
	synctest.Test(t, f)
}

// pass lets virtual time go by.
func pass(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

// start runs a player until the test ends or stop is called; stop returns what
// Run returned.
func start(t *testing.T, p *Player) (stop func() error) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	var err error
	var wg sync.WaitGroup
	wg.Go(func() { err = p.Run(ctx) })
	stop = func() error { cancel(); wg.Wait(); return err }
	t.Cleanup(func() { _ = stop() })
	return stop
}

func newPlayer(t *testing.T, o PlayerOptions) *Player {
	t.Helper()
	if o.ClientID == "" {
		o.ClientID = "p1"
	}
	p, err := NewPlayer(o)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

var _ net.Listener = (*house)(nil)
