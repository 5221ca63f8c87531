package races

import (
	"bufio"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"time"

	"github.com/gorilla/websocket"

	"resonatebridge/discovery"
	"resonatebridge/tests/pipe"
)

// mode is how a speaker treats who dials it.
type mode string

const (
	open   mode = "open"
	shy    mode = "shy"    // never reports its state
	refuse mode = "refuse" // nothing listens
	dark   mode = "dark"   // no answer of any kind
	silent mode = "silent" // takes the connection and says nothing, not even HTTP
	mute   mode = "mute"   // says no hello
	rude   mode = "rude"   // hangs up on the server's hello
	busy   mode = "busy"   // says goodbye to it, for speaker.reason
)

// speaker is one device, written from the protocol's text. All but w and id is
// guarded by world.mu.
type speaker struct {
	w      *world
	id     string
	at     int // its address
	mode   mode
	reason string // of mode busy
	volume int
	muted  bool
	lines  []*line   // connections that it takes for open
	dialed time.Time // somebody last tried to reach it
	stale  int       // retained commands that reached it
	truth
}

// line is one connection of a speaker. What changes is guarded by world.mu.
type line struct {
	s        *speaker
	conn     *pipe.Conn // the speaker's end; faults act on both directions
	ws       *websocket.Conn
	out      chan string
	closed   chan struct{}
	slow     chan struct{} // while it is not nil nothing is read
	hello    time.Time     // the server's; zero: it has not admitted us
	sick     bool          // the link stalls or is cut, or nobody reads
	dead     bool          // it is cut
	reported bool          // it said how it stands
	dialedIn bool
	bye      *string // the last goodbye
}

// lineQueue is how many frames of a speaker wait for a link that stalls.
const lineQueue = 256

func addrOf(at int) string {
	return netip.AddrPortFrom(netip.AddrFrom4([4]byte{198, 51, 100, byte(at + 1)}), 8928).String()
}

// keyName is the mDNS instance of one of a speaker's advertisements.
func (s *speaker) keyName(k int) string { return fmt.Sprintf("%s-%d._sendspin._tcp.local.", s.id, k) }

func (s *speaker) endpoint(k int) discovery.Endpoint {
	return discovery.Endpoint{
		Key: s.keyName(k), Name: s.id, Path: "/sendspin", Service: "_sendspin._tcp",
		Addrs: []netip.AddrPort{netip.MustParseAddrPort(addrOf(s.keys[k].at))},
	}
}

// takeover lets an Upgrader have a connection that no http.Server accepted.
type takeover struct {
	http.ResponseWriter
	conn net.Conn
	in   *bufio.Reader
}

func (h takeover) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	return h.conn, bufio.NewReadWriter(h.in, bufio.NewWriter(h.conn)), nil
}

// accept is the speaker's end of a dial.
func (s *speaker) accept(c *pipe.Conn) {
	in := bufio.NewReader(c)
	req, err := http.ReadRequest(in)
	if err != nil {
		_ = c.Close()
		return
	}
	ws, err := new(websocket.Upgrader).Upgrade(takeover{conn: c, in: in}, req, nil)
	if err != nil {
		_ = c.Close()
		return
	}
	s.talk(ws, c, false)
}

// dialIn connects to the bridge, if it listens.
func (s *speaker) dialIn(c *pipe.Conn) {
	const within = 10 * time.Second
	d := websocket.Dialer{NetDial: func(string, string) (net.Conn, error) { return c, nil }, HandshakeTimeout: within}
	ws, resp, err := d.Dial("ws://bridge/sendspin", nil)
	if err != nil {
		_ = c.Close()
		return
	}
	_ = resp.Body.Close()
	s.talk(ws, c, true)
}

// talk is the life of a connection at the speaker's end.
func (s *speaker) talk(ws *websocket.Conn, c *pipe.Conn, dialedIn bool) {
	l := &line{s: s, conn: c, ws: ws, out: make(chan string, lineQueue), closed: make(chan struct{}), dialedIn: dialedIn}
	s.w.do(func() { s.lines = append(s.lines, l) })
	s.w.lines.Go(l.write)
	if s.w.modeOf(s) != mute || dialedIn {
		if !dialedIn {
			s.w.do(s.introduced)
		}
		l.introduce()
	}
	for {
		_, data, err := ws.ReadMessage()
		if err != nil {
			break
		}
		var slow chan struct{}
		s.w.do(func() { slow = l.slow })
		if slow != nil {
			<-slow
		}
		l.take(data)
	}
	close(l.closed)
	_ = c.Close()
	s.w.do(func() { s.lines = slices.DeleteFunc(s.lines, func(x *line) bool { return x == l }) })
}

// introduce says hello.
func (l *line) introduce() {
	l.say("client/hello", fmt.Sprintf(`"client_id":%q,"name":"Room %s","version":1,"supported_roles":["player@v1"],`+
		`"player@v1_support":{"supported_formats":[{"codec":"pcm","channels":2,"sample_rate":48000,"bit_depth":16}],`+
		`"buffer_capacity":1000000,"supported_commands":["volume","mute"]}`, l.s.id, l.s.id))
}

func (l *line) write() {
	for {
		select {
		case frame := <-l.out:
			_ = l.ws.WriteMessage(websocket.TextMessage, []byte(frame)) // a link that ended takes nothing
		case <-l.closed:
			return
		}
	}
}

// say queues a frame; what a stalled link has no room for is lost.
func (l *line) say(kind, payload string) {
	select {
	case l.out <- fmt.Sprintf(`{"type":%q,"payload":{%s}}`, kind, payload):
	default:
	}
}

// report says how the speaker stands. world.mu is held.
func (l *line) report() {
	l.reported = true
	l.say("client/state", fmt.Sprintf(`"state":"synchronized","player":{"volume":%d,"muted":%v}`, l.s.volume, l.s.muted))
}

func (l *line) goodbye(reason string) {
	l.bye = &reason
	payload := ""
	if reason != "" {
		payload = fmt.Sprintf(`"reason":%q`, reason)
	}
	l.say("client/goodbye", payload)
}

// take handles a frame of the server.
func (l *line) take(data []byte) {
	s, w := l.s, l.s.w
	var f struct {
		Type    string
		Payload struct {
			Player struct {
				Volume *int
				Mute   *bool
			}
		}
	}
	if err := json.Unmarshal(data, &f); err != nil {
		w.complain("%s: got the frame %.100q: %v", s.id, data, err)
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	switch f.Type {
	case "server/hello":
		w.admitted(l)
	case "server/command":
		if v := f.Payload.Player.Volume; v != nil {
			s.volume = *v
			if *v == staleVolume {
				s.stale++
			}
		}
		if m := f.Payload.Player.Mute; m != nil {
			s.muted = *m
		}
		for _, to := range s.lines {
			if !to.hello.IsZero() {
				to.report()
			}
		}
	}
}

// live is the connection over which the bridge serves the speaker: admitted, and
// not closed at the bridge's end. world.mu is held.
func (s *speaker) live() *line {
	for _, l := range s.lines {
		if !l.hello.IsZero() && !l.conn.Peer().IsClosed() {
			return l
		}
	}
	return nil
}

// dangling reports whether the bridge may take a connection for live on which
// its hello can't arrive. world.mu is held.
func (s *speaker) dangling() bool {
	return slices.ContainsFunc(s.lines, func(l *line) bool { return l.sick && !l.conn.Peer().IsClosed() })
}

// cut takes the line away, and tells nobody.
func (l *line) cut() {
	l.conn.Cut()
	l.sick, l.dead = true, true
}

// resume lets a slow speaker read again.
func (l *line) resume() {
	if l.slow != nil {
		close(l.slow)
		l.slow = nil
	}
}
