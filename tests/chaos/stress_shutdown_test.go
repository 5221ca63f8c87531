package chaos

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"sync"
	"testing"
	"time"

	"resonatebridge/discovery"
	"resonatebridge/resonate"
	"resonatebridge/resonate/client"
	"resonatebridge/tests/internal/facts"
	"resonatebridge/tests/internal/scene"
	"resonatebridge/tests/pipe"

	"github.com/gorilla/websocket"
)

// stage is a point of a connection at which a peer stops.
type stage struct {
	name string
	// request and answer are what of the upgrade it says, in the direction that
	// it is in charge of; "": all of it, and then come further.
	request, answer string
	further         func(p *stopped)
}

const (
	halfRequest = "GET /sendspin HTTP/1.1\r\nHost: bridge\r\nUpgr"
	halfAnswer  = "HTTP/1.1 101 Switching Protocols\r\nUpgr"
	silent      = " " // instead of anything
)

// stopped is a peer that has stopped at its stage.
type stopped struct {
	t    *testing.T
	conn net.Conn        // its socket
	ws   *websocket.Conn // nil before the upgrade
}

// say sends a whole text frame.
func (p *stopped) say(text string) {
	if err := p.ws.WriteMessage(websocket.TextMessage, []byte(text)); err != nil {
		p.t.Error(err)
	}
}

// mumble sends the first half of a text frame.
func (p *stopped) mumble(text string, masked bool) {
	f := pipe.Frame(websocket.TextMessage, []byte(text), masked)
	if _, err := p.conn.Write(f[:len(f)/2]); err != nil {
		p.t.Error(err)
	}
}

// hear reads the next text frame.
func (p *stopped) hear() {
	_ = p.ws.SetReadDeadline(time.Now().Add(patience))
	if _, _, err := p.ws.ReadMessage(); err != nil {
		p.t.Error(err)
	}
}

// ends waits until the other side has closed the socket.
func (p *stopped) ends() {
	_ = p.conn.SetReadDeadline(time.Now().Add(patience))
	if _, err := io.Copy(io.Discard, p.conn); errors.Is(err, os.ErrDeadlineExceeded) {
		p.t.Errorf("the socket is still open after %v", patience)
	}
	_ = p.conn.Close()
}

// connect dials addr and goes as far as the stage says.
func (st stage) connect(t *testing.T, addr string) *stopped {
	t.Helper()
	p := &stopped{t: t}
	if st.request == "" {
		ws, resp, err := websocket.DefaultDialer.DialContext(t.Context(), "ws://"+addr+"/sendspin", nil)
		if err != nil {
			t.Fatal(err)
		}
		_ = resp.Body.Close()
		p.ws, p.conn = ws, ws.NetConn()
		st.further(p)
		return p
	}
	var err error
	if p.conn, err = net.Dial("tcp", addr); err != nil {
		t.Fatal(err)
	}
	if st.request != silent {
		_, _ = io.WriteString(p.conn, st.request)
	}
	return p
}

// hijacked lets an Upgrader take over a connection without an http.Server.
type hijacked struct {
	http.ResponseWriter
	conn net.Conn
	in   *bufio.Reader
}

func (h hijacked) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	return h.conn, bufio.NewReadWriter(h.in, bufio.NewWriter(h.conn)), nil
}

// listen waits to be dialled and goes as far as the stage says; the peer comes
// over the channel when it has.
func (st stage) listen(t *testing.T) (ln net.Listener, reached <-chan *stopped) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ch := make(chan *stopped, 1)
	var wg sync.WaitGroup
	wg.Go(func() { // ends when it was dialled, or with the listener
		defer close(ch)
		c, err := ln.Accept()
		if err != nil {
			return
		}
		p := &stopped{t: t, conn: c}
		if st.answer != silent {
			in := bufio.NewReader(c)
			req, err := http.ReadRequest(in)
			if err != nil {
				t.Error(err)
				return
			}
			if st.answer != "" {
				_, _ = io.WriteString(c, st.answer)
			} else {
				var up websocket.Upgrader
				if p.ws, err = up.Upgrade(hijacked{conn: c, in: in}, req, nil); err != nil {
					t.Error(err)
					return
				}
				st.further(p)
			}
		}
		ch <- p
	})
	t.Cleanup(func() { _ = ln.Close(); wg.Wait() })
	return ln, ch
}

// speakerStages are those of a speaker called id that stops.
func speakerStages(id string, masked bool) []stage {
	return []stage{
		{name: "connected", request: silent, answer: silent},
		{name: "in the upgrade", request: halfRequest, answer: halfAnswer},
		{name: "before its hello", further: func(*stopped) {}},
		{name: "in its hello", further: func(p *stopped) { p.mumble(scene.WireHello(id), masked) }},
		{name: "before its state", further: func(p *stopped) { p.say(scene.WireHello(id)); p.hear() }},
		{name: "live", further: func(p *stopped) { p.say(scene.WireHello(id)); p.hear(); p.say(scene.WireState) }},
	}
}

// more are what happens to a live speaker before the server ends.
func more() map[string]func(s *stand, id string) {
	return map[string]func(s *stand, id string){
		"":                 func(*stand, string) {},
		", and told a lot": flood,
		", and forgotten":  func(s *stand, id string) { flood(s, id); s.do(resonate.RemovePlayer{PID: id}) },
		", and doubted": func(s *stand, id string) {
			flood(s, id)
			s.do(resonate.SetPlayer{PID: id, Reconnect: true})
		},
	}
}

// flood says so much to a speaker that reads nothing that the writer stands.
func flood(s *stand, id string) {
	for i := range 2000 {
		s.Do(context.Background(), resonate.SetPlayer{PID: id, Volume: &resonate.VolumeChange{Value: i % 100}}) //nolint:errcheck // refused when its queue is full
	}
}

// TestShutdownInEveryStage ends a server whose speaker has stopped at some point
// of the handshake or after it: within 5 s the socket is closed and nothing of
// it is left, whoever had dialled.
func TestShutdownInEveryStage(t *testing.T) {
	t.Parallel()
	n := facts.Begin(t, "Shutdown")
	var mu sync.Mutex
	var times []time.Duration
	t.Run("stages", func(t *testing.T) {
		for _, dials := range []bool{true, false} {
			const id = "kitchen"
			for _, st := range speakerStages(id, dials) {
				for what, then := range more() {
					if st.name != "live" && what != "" {
						continue
					}
					name := fmt.Sprintf("%s%s, %s", st.name, what, map[bool]string{true: "dials", false: "is dialled"}[dials])
					t.Run(name, func(t *testing.T) {
						t.Parallel()
						s := newStand(t)
						p := meet(t, s, st, dials)
						if st.name == "live" {
							until(t, "it is connected", func() bool { return s.connection(id) == resonate.Connected })
							then(s, id)
						}
						took := s.stop()
						if took > 5*time.Second {
							t.Errorf("the server took %v to end, want 5 s at most", took)
						}
						p.ends()
						mu.Lock()
						defer mu.Unlock()
						times = append(times, took)
					})
				}
			}
		}
	})
	n.Add("the server ends with a speaker at each point of the handshake and after it, in both directions", times, "5 s")
}

// meet brings a speaker to its stage with the server.
func meet(t *testing.T, s *stand, st stage, dials bool) *stopped {
	t.Helper()
	if dials {
		return st.connect(t, s.addr)
	}
	ln, reached := st.listen(t)
	e, err := discovery.ParseStatic("ws://" + ln.Addr().String() + "/sendspin")
	if err != nil {
		t.Fatal(err)
	}
	s.Discover(discovery.Event{Kind: discovery.Announced, Endpoint: e})
	p := <-reached
	if p == nil {
		t.Fatal("it was not dialled")
	}
	return p
}

// TestShutdownAmongAllStages ends a whole bridge that has a speaker at every one
// of these points at once.
func TestShutdownAmongAllStages(t *testing.T) {
	t.Parallel()
	n := facts.Begin(t, "Shutdown")
	s, broker := newBridgeStand(t)
	var peers []*stopped
	for _, dials := range []bool{true, false} {
		for i, name := range speakerStages("", dials) {
			id := fmt.Sprintf("speaker-%d-%v", i, dials)
			st := speakerStages(id, dials)[i]
			peers = append(peers, meet(t, s, st, dials))
			if name.name == "live" {
				until(t, id+" is connected", func() bool { return s.connection(id) == resonate.Connected })
				flood(s, id)
			}
		}
	}
	took := s.stop()
	if took > 5*time.Second {
		t.Errorf("the bridge took %v to end, want 5 s at most", took)
	}
	for _, p := range peers {
		p.ends()
	}
	if got := broker.Retained()["resonate/bridge/state"]; got != "offline" {
		t.Errorf("after the end: got the bridge %q, want offline", got)
	}
	n.Add("a whole bridge ends with a speaker at each of these points at once", took, "5 s")
}

// serverStages are those of a server that stops, as a speaker sees it.
func serverStages(masked bool) []stage {
	const hello = `{"type":"server/hello","payload":{"server_id":"s","name":"S","version":1,"active_roles":["player@v1"],"connection_reason":"playback"}}`
	greet := func(p *stopped) { p.hear(); p.say(hello) }
	return []stage{
		{name: "connected", request: silent, answer: silent},
		{name: "in the upgrade", request: halfRequest, answer: halfAnswer},
		{name: "before the client's hello is read", further: func(*stopped) {}},
		{name: "before its hello", further: (*stopped).hear},
		{name: "in its hello", further: func(p *stopped) { p.hear(); p.mumble(hello, masked) }},
		{name: "live", further: greet},
		{name: "in a stream", further: func(p *stopped) {
			greet(p)
			p.say(`{"type":"stream/start","payload":{"player":{"codec":"pcm","sample_rate":48000,"channels":2,"bit_depth":16}}}`)
			for range 100 {
				if err := p.ws.WriteMessage(websocket.BinaryMessage, make([]byte, 9+3840)); err != nil {
					p.t.Error(err)
				}
			}
		}},
	}
}

// TestPlayerEndsInEveryStage ends a software speaker whose server has stopped at
// some point: within 5 s, whoever had dialled.
func TestPlayerEndsInEveryStage(t *testing.T) {
	t.Parallel()
	n := facts.Begin(t, "Shutdown")
	var mu sync.Mutex
	var times []time.Duration
	t.Run("stages", func(t *testing.T) {
		for _, dials := range []bool{true, false} { // the server
			for _, st := range serverStages(dials) {
				t.Run(fmt.Sprintf("%s, %s", st.name, map[bool]string{true: "dials", false: "is dialled"}[dials]), func(t *testing.T) {
					t.Parallel()
					o := client.PlayerOptions{ClientID: "kitchen"}
					var ln net.Listener
					var reached <-chan *stopped
					var err error
					if dials {
						if ln, err = net.Listen("tcp", "127.0.0.1:0"); err != nil {
							t.Fatal(err)
						}
						o.Listener = ln
					} else {
						ln, reached = st.listen(t)
						o.Server = "ws://" + ln.Addr().String() + "/sendspin"
					}
					speaker := scene.StartSpeaker(t, o)
					var p *stopped
					if dials {
						p = st.connect(t, ln.Addr().String())
					} else {
						p = <-reached
					}
					if st.name == "live" || st.name == "in a stream" {
						speaker.Until("connected", func(s client.State) bool { return s.Connected })
					}
					began := time.Now()
					speaker.Stop()
					took := time.Since(began)
					if took > 5*time.Second {
						t.Errorf("the speaker took %v to end, want 5 s at most", took)
					}
					p.ends()
					mu.Lock()
					defer mu.Unlock()
					times = append(times, took)
				})
			}
		}
	})
	n.Add("a software speaker ends with its server at each point, in both directions", times, "5 s")
}
