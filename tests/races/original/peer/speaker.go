package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/gorilla/websocket"
)

// The first frames of a player: in R1, the dialect of aioresonate 0.9 to
// 0.13.2, and in S4, the last plaintext one of Sendspin.
var scripts = map[string][2]string{
	"R1": {
		`{"type":"client/hello","payload":{"client_id":%q,"name":%q,"version":1,"supported_roles":["player"],` +
			`"player_support":{"support_codecs":["pcm"],"support_channels":[2],"support_sample_rates":[48000],"support_bit_depth":[16],"buffer_capacity":1000000}}}`,
		`{"type":"player/update","payload":{"state":"idle","volume":50,"muted":false}}`,
	},
	"S4": {
		`{"type":"client/hello","payload":{"client_id":%q,"name":%q,"version":1,"supported_roles":["player@v1"],` +
			`"player@v1_support":{"supported_formats":[{"codec":"pcm","channels":2,"sample_rate":48000,"bit_depth":16}],` +
			`"buffer_capacity":1000000,"supported_commands":["volume","mute"]}}}`,
		`{"type":"client/state","payload":{"state":"synchronized","player":{"volume":50,"muted":false}}}`,
	},
}

const openWithin = 10 * time.Second // a socket and its upgrade

// speaker is one port on which a player waits to be dialled.
type speaker struct {
	p       *peer
	id      string
	dialect string
	addr    string

	mu     sync.Mutex
	faults faults        // of lines to come
	hold   chan struct{} // upgrades wait for it; nil: none does
	web    *http.Server  // nil: the port is closed
}

func (s *speaker) url() string { return "ws://" + s.addr + "/sendspin" }

// open listens.
func (s *speaker) open() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.web != nil {
		return errors.New("the port is open")
	}
	l, err := net.Listen("tcp", s.addr)
	if err != nil {
		return err
	}
	s.addr = l.Addr().String()
	s.web = &http.Server{Handler: s, ReadHeaderTimeout: openWithin}
	web := s.web
	s.p.wg.Go(func() { _ = web.Serve(door{l, s}) }) // ends with shut
	return nil
}

// shut closes the port. Lines stay.
func (s *speaker) shut() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.web != nil {
		_ = s.web.Close() // knows nothing of upgraded connections
		s.web = nil
	}
}

// door enters what is accepted in the ledger.
type door struct {
	net.Listener
	s *speaker
}

func (d door) Accept() (net.Conn, error) {
	c, err := d.Listener.Accept()
	if err != nil {
		return nil, err
	}
	d.s.mu.Lock()
	f := d.s.faults
	d.s.mu.Unlock()
	return d.s.p.ledger.open(c, d.s.url(), f), nil
}

// ServeHTTP upgrades a server that dials and plays the script.
func (s *speaker) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	hold := s.hold
	s.mu.Unlock()
	if hold != nil {
		select {
		case <-hold:
		case <-r.Context().Done():
			return
		}
	}
	ws, err := (&websocket.Upgrader{}).Upgrade(w, r, nil)
	if err != nil {
		return
	}
	if n, ok := ws.NetConn().(*line); ok {
		n.play(ws, s.id, s.dialect)
	}
}

// dialIn opens one line to a server, as the player id.
func (p *peer) dialIn(url, id, dialect string) (*line, error) {
	var n *line
	d := websocket.Dialer{HandshakeTimeout: openWithin, NetDial: func(network, addr string) (net.Conn, error) {
		c, err := net.DialTimeout(network, addr, openWithin)
		if err != nil {
			return nil, err
		}
		n = p.ledger.open(c, id, faults{})
		return n, nil
	}}
	ws, resp, err := d.Dial(url, nil)
	if resp != nil {
		_ = resp.Body.Close()
	}
	if err != nil {
		return nil, err
	}
	p.wg.Go(func() { n.play(ws, id, dialect) }) // ends with the line
	return n, nil
}

// play says hello and reads until the line ends.
func (n *line) play(ws *websocket.Conn, id, dialect string) {
	defer n.Close()
	n.ws.Store(ws)
	ws.SetPingHandler(func(data string) error {
		if n.mute.Load() {
			return nil
		}
		_ = ws.WriteControl(websocket.PongMessage, []byte(data), time.Now().Add(time.Second))
		return nil
	})
	ws.SetCloseHandler(func(code int, _ string) error {
		if !n.ignoreClose.Load() && !n.mute.Load() {
			_ = ws.WriteControl(websocket.CloseMessage, websocket.FormatCloseMessage(code, ""), time.Now().Add(time.Second))
		}
		return nil
	})
	script := scripts[dialect]
	for i, f := range []string{fmt.Sprintf(script[0], id, id), script[1]} {
		if i == 1 && n.mute.Load() {
			break
		}
		if ws.WriteMessage(websocket.TextMessage, []byte(f)) != nil {
			return
		}
	}
	for {
		kind, frame, err := ws.ReadMessage()
		var over *websocket.CloseError
		if errors.As(err, &over) && (n.ignoreClose.Load() || n.mute.Load()) {
			_, _ = io.Copy(io.Discard, n) // the other end waits for the answer, then goes
			return
		}
		if err != nil {
			return
		}
		n.note(name(kind, frame))
	}
}

// name is the type of a frame.
func name(kind int, frame []byte) string {
	if kind == websocket.BinaryMessage {
		return "audio"
	}
	var m struct{ Type string }
	if json.Unmarshal(frame, &m) != nil {
		return "unreadable"
	}
	return m.Type
}
