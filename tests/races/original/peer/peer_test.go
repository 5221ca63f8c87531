package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/gorilla/websocket"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const patience = time.Minute

// start is a peer that ends with the test.
func start(t *testing.T) *peer {
	t.Helper()
	p := newPeer("127.0.0.1")
	t.Cleanup(p.close)
	return p
}

// do carries out a verb as it comes over the wire.
func do[R any](t *testing.T, p *peer, verb, args string) (r R) {
	t.Helper()
	result, err := p.verbs()[verb](json.RawMessage(args))
	if err != nil {
		t.Fatalf("%s %s: %v", verb, args, err)
	}
	raw, err := json.Marshal(result)
	if err == nil {
		err = json.Unmarshal(raw, &r)
	}
	if err != nil {
		t.Fatalf("%s: %v", verb, err)
	}
	return r
}

// until waits for a count.
func until(t *testing.T, p *peer, what string, ok func(count) bool) count {
	t.Helper()
	for end := time.Now().Add(patience); ; time.Sleep(time.Millisecond) {
		c := p.ledger.count()
		if ok(c) {
			return c
		}
		if time.Now().After(end) {
			t.Fatalf("%s: got %+v", what, c)
		}
	}
}

// dialSpeaker dials a speaker as a server does and returns its first frames.
func dialSpeaker(t *testing.T, url string, frames int) (*websocket.Conn, []string) {
	t.Helper()
	ws, resp, err := websocket.DefaultDialer.Dial(url, nil)
	if err != nil {
		t.Fatal(err)
	}
	_ = resp.Body.Close()
	t.Cleanup(func() { _ = ws.Close() })
	_ = ws.SetReadDeadline(time.Now().Add(patience))
	var got []string
	for range frames {
		_, frame, err := ws.ReadMessage()
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, name(websocket.TextMessage, frame))
	}
	return ws, got
}

func TestSpeakerSaysHello(t *testing.T) {
	p := start(t)
	for dialect, state := range map[string]string{"R1": "player/update", "S4": "client/state"} {
		u := do[urls](t, p, "listen", `{"id":"x","n":2,"dialect":"`+dialect+`"}`)
		_, got := dialSpeaker(t, u.URLs[1], 2)
		if want := "client/hello " + state; strings.Join(got, " ") != want {
			t.Errorf("%s: got %v, want %s", dialect, got, want)
		}
	}
	if _, err := p.verbs()["listen"](json.RawMessage(`{"dialect":"R9"}`)); err == nil {
		t.Error("an unknown dialect was taken")
	}
}

func TestCounts(t *testing.T) {
	p := start(t)
	url := do[urls](t, p, "listen", `{"id":"x","dialect":"S4"}`).URLs[0]
	first, _ := dialSpeaker(t, url, 1)
	second, _ := dialSpeaker(t, url, 1)
	for i, frame := range []string{`{"type":"server/hello"}`, `{"type":"stream/start"}`} {
		if err := first.WriteMessage(websocket.TextMessage, []byte(frame)); err != nil {
			t.Fatal(i, err)
		}
	}
	if err := second.WriteMessage(websocket.BinaryMessage, []byte{4, 0}); err != nil {
		t.Fatal(err)
	}
	until(t, p, "frames", func(c count) bool { return c.Open == 2 && c.Lines[0].Stream && c.Lines[1].Frames == 1 })
	_ = first.Close()
	_ = second.Close()
	c := until(t, p, "ends", func(c count) bool { return c.Open == 0 })
	if want := (tally{Open: 0, Peak: 2, Total: 2}); c.tally != want || c.Keys[url] != want {
		t.Errorf("got %+v and %+v, want %+v", c.tally, c.Keys[url], want)
	}
	if a, b := c.Lines[0], c.Lines[1]; a.First != "server/hello" || !a.Hello || b.First != "audio" || b.Hello || b.Stream || a.Bytes == 0 {
		t.Errorf("got %+v and %+v", a, b)
	}
}

// One socket after another is one at a time, however late the peer reads the
// end of the first.
func TestPeakIsTheKernels(t *testing.T) {
	p := start(t)
	url := do[urls](t, p, "listen", `{"id":"x","dialect":"S4"}`).URLs[0]
	if !abandonedIsKnown(t) {
		t.Skip("this system does not tell the state of a socket")
	}
	for i := range 20 {
		ws, _ := dialSpeaker(t, url, 1)
		do[moment](t, p, "set", fmt.Sprintf(`{"line":%d,"deaf":true}`, i+1)) // the end is not read at all
		_ = ws.Close()
	}
	if c := p.ledger.count(); c.Peak != 1 || c.Total != 20 {
		t.Errorf("got %+v, want peak 1 of 20", c.tally)
	}
}

func abandonedIsKnown(t *testing.T) bool {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	c, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	a, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	if abandoned(c) {
		t.Error("an open socket counts as abandoned")
	}
	_ = a.Close()
	return abandoned(c)
}

func TestFaults(t *testing.T) {
	p := start(t)
	url := do[urls](t, p, "listen", `{"id":"x","dialect":"S4"}`).URLs[0]
	answered := func(ws *websocket.Conn) bool {
		t.Helper()
		ponged := false
		ws.SetPongHandler(func(string) error { ponged = true; return nil })
		bye := websocket.FormatCloseMessage(websocket.CloseNormalClosure, "")
		if ws.WriteControl(websocket.PingMessage, nil, time.Now().Add(time.Second)) != nil ||
			ws.WriteControl(websocket.CloseMessage, bye, time.Now().Add(time.Second)) != nil {
			t.Fatal("could not write")
		}
		_ = ws.SetReadDeadline(time.Now().Add(100 * time.Millisecond))
		for {
			if _, _, err := ws.ReadMessage(); err != nil {
				closed := websocket.IsCloseError(err, websocket.CloseNormalClosure)
				if closed != ponged {
					t.Errorf("answers to a ping: %v, to a close: %v", ponged, closed)
				}
				return closed
			}
		}
	}
	ws, _ := dialSpeaker(t, url, 2)
	if !answered(ws) {
		t.Error("a healthy speaker answered nothing")
	}
	_ = ws.Close()
	until(t, p, "the healthy line's end", func(c count) bool { return c.Open == 0 })
	ws, _ = dialSpeaker(t, url, 2)
	do[moment](t, p, "set", `{"mute":true}`)
	if answered(ws) {
		t.Error("a mute speaker answered")
	}
	if c := p.ledger.count(); c.Open != 1 {
		t.Errorf("a mute line counts as %+v before its other end goes, want open", c.tally)
	}
	_ = ws.Close()
	until(t, p, "the mute line's end", func(c count) bool { return c.Open == 0 })
}

func TestCutAndPort(t *testing.T) {
	p := start(t)
	url := do[urls](t, p, "listen", `{"id":"x","dialect":"S4"}`).URLs[0]
	for how, want := range map[string]string{"close": "close 1000", "fin": "close 1006", "rst": "reset"} {
		ws, _ := dialSpeaker(t, url, 2)
		if m := do[moment](t, p, "cut", `{"how":"`+how+`"}`); time.Since(time.Unix(0, m.At)).Abs() > time.Minute {
			t.Errorf("%s was done at %d", how, m.At)
		}
		if _, _, err := ws.ReadMessage(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, want %s", how, err, want)
		}
		until(t, p, how, func(c count) bool { return c.Open == 0 })
	}
	do[moment](t, p, "port", `{"open":false}`)
	if ws, resp, err := websocket.DefaultDialer.Dial(url, nil); err == nil {
		_ = resp.Body.Close()
		_ = ws.Close()
		t.Error("a closed port took a connection")
	}
	do[moment](t, p, "port", `{"open":true}`)
	dialSpeaker(t, url, 1)
}

// TestDialAndRelay dials in through a relay.
func TestDialAndRelay(t *testing.T) {
	p := start(t)
	hello := make(chan string, 10)
	server := &http.Server{ReadHeaderTimeout: patience, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		ws, err := (&websocket.Upgrader{}).Upgrade(w, r, nil)
		if err != nil {
			return
		}
		defer ws.Close()
		for {
			kind, frame, err := ws.ReadMessage()
			if err != nil {
				return
			}
			hello <- name(kind, frame)
		}
	})}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	go func() { _ = server.Serve(l) }()
	t.Cleanup(func() { _ = server.Close() })
	type addr struct{ Addr string }
	relay := do[addr](t, p, "relay", `{"to":"`+l.Addr().String()+`"}`).Addr

	do[moment](t, p, "hold", `{"on":true}`)
	type lines struct{ Lines []int }
	dialled := make(chan lines, 1)
	go func() {
		dialled <- do[lines](t, p, "dial", `{"url":"ws://`+relay+`/sendspin","id":"me","n":2,"dialect":"S4"}`)
	}()
	until(t, p, "two at the relay and their other ends", func(c count) bool { return c.Keys[relay].Open == 2 && c.Open == 4 })
	select {
	case got := <-hello:
		t.Errorf("%s came through a held relay", got)
	case <-time.After(20 * time.Millisecond):
	}
	do[moment](t, p, "hold", `{"on":false}`)
	if got := <-dialled; len(got.Lines) != 2 || got.Lines[0] == 0 || got.Lines[1] == 0 {
		t.Errorf("dialled %+v", got)
	}
	for range 4 {
		<-hello
	}
	do[moment](t, p, "cut", `{"how":"fin"}`)
	until(t, p, "all cut", func(c count) bool { return c.Open == 0 })

	// One that cuts gives the answer to the upgrade, then the end.
	relay = do[addr](t, p, "relay", `{"to":"`+l.Addr().String()+`","cut":true}`).Addr
	ws, _ := dialSpeaker(t, "ws://"+relay+"/sendspin", 0)
	if _, _, err := ws.ReadMessage(); !websocket.IsUnexpectedCloseError(err) && !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("behind a cut: got %v, want the end", err)
	}
}

// What could be heard outside is not sent.
func TestAnnounceStaysHome(t *testing.T) {
	interfaces, err := net.Interfaces()
	if err != nil {
		t.Fatal(err)
	}
	for _, i := range interfaces {
		if i.Flags&net.FlagUp != 0 && i.Flags&net.FlagLoopback == 0 {
			if _, err := start(t).verbs()["announce"](json.RawMessage(`{"port":1,"times":1}`)); err == nil {
				t.Error("it announced on a machine with a network")
			}
			return
		}
	}
	t.Skip("this machine has no network to keep out of")
}
