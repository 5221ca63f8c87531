package main

import (
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/gorilla/websocket"
)

// ledger counts sockets, all and by key: the URL that was dialled, or the id
// with which the peer dialled in.
type ledger struct {
	mu    sync.Mutex
	all   tally
	keys  map[string]*tally
	lines []*line
}

// tally is how many sockets there are, were at most at once, and were in all.
type tally struct {
	Open  int `json:"open"`
	Peak  int `json:"peak"`
	Total int `json:"total"`
}

func (t *tally) add() {
	t.Total++
	t.Open++
	t.Peak = max(t.Peak, t.Open)
}

// entry is what the ledger knows of one socket.
type entry struct {
	N      int    `json:"n"` // from 1, in the order of opening
	Key    string `json:"key"`
	Opened int64  `json:"opened"` // Unix time in ns
	Closed int64  `json:"closed"` // 0: open
	First  string `json:"first"`  // type of the first frame: a message's, or "audio"; "" none came
	Hello  bool   `json:"hello"`  // server/hello came
	Stream bool   `json:"stream"` // stream/start came
	Frames int    `json:"frames"`
	Bytes  int64  `json:"bytes"` // read, all layers above TCP
}

// faults are what a line does wrong.
type faults struct {
	Mute        bool `json:"mute"`         // answers no ping and forwards nothing
	Deaf        bool `json:"deaf"`         // does not read at all
	IgnoreClose bool `json:"ignore_close"` // answers no close frame
}

// line is one socket. It is open until its other end has closed it, as far as
// the peer reads, or the peer has.
type line struct {
	net.Conn
	l *ledger

	mute, ignoreClose atomic.Bool
	gate              atomic.Pointer[chan struct{}]  // reads wait for it; nil: open
	ws                atomic.Pointer[websocket.Conn] // set when it is upgraded

	gone  chan struct{} // closed with the entry
	entry entry         // guarded by l.mu
}

func newLedger() *ledger { return &ledger{keys: map[string]*tally{}} }

// open enters a socket. What the other end closed before it opened this one is
// not open any more, whether the peer has read so far or not.
func (l *ledger) open(c net.Conn, key string, f faults) *line {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, n := range l.lines {
		if n.entry.Closed == 0 && n.entry.Key == key && abandoned(n.Conn) {
			n.closedLocked()
		}
	}
	n := &line{Conn: c, l: l, gone: make(chan struct{})}
	n.entry = entry{N: len(l.lines) + 1, Key: key, Opened: time.Now().UnixNano()}
	n.set(f)
	l.lines = append(l.lines, n)
	if l.keys[key] == nil {
		l.keys[key] = &tally{}
	}
	l.all.add()
	l.keys[key].add()
	return n
}

// closed notes the end of a socket, once.
func (n *line) closed() {
	n.l.mu.Lock()
	defer n.l.mu.Unlock()
	n.closedLocked()
}

func (n *line) closedLocked() {
	if n.entry.Closed != 0 {
		return
	}
	n.entry.Closed = time.Now().UnixNano()
	n.l.all.Open--
	n.l.keys[n.entry.Key].Open--
	close(n.gone)
}

func (n *line) set(f faults) {
	n.mute.Store(f.Mute)
	n.ignoreClose.Store(f.IgnoreClose)
	var gate *chan struct{}
	if f.Deaf {
		g := make(chan struct{})
		gate = &g
	}
	if old := n.gate.Swap(gate); old != nil {
		close(*old)
	}
}

// Read reads when the line may.
func (n *line) Read(b []byte) (int, error) {
	if gate := n.gate.Load(); gate != nil {
		select {
		case <-*gate:
		case <-n.gone:
		}
	}
	got, err := n.Conn.Read(b)
	n.l.mu.Lock()
	n.entry.Bytes += int64(got)
	n.l.mu.Unlock()
	if err != nil && !os.IsTimeout(err) {
		n.closed()
	}
	return got, err
}

// Close closes the socket.
func (n *line) Close() error {
	err := n.Conn.Close()
	n.closed()
	return err
}

// reset closes the socket with an RST.
func (n *line) reset() {
	if t, ok := n.Conn.(*net.TCPConn); ok {
		_ = t.SetLinger(0)
	}
	_ = n.Close()
}

// note records a frame.
func (n *line) note(kind string) {
	n.l.mu.Lock()
	defer n.l.mu.Unlock()
	e := &n.entry
	e.Frames++
	if e.First == "" {
		e.First = kind
	}
	e.Hello = e.Hello || kind == "server/hello"
	e.Stream = e.Stream || kind == "stream/start"
}

// pick returns the open lines that an argument means: one by number, or all.
func (l *ledger) pick(number int) []*line {
	l.mu.Lock()
	defer l.mu.Unlock()
	var out []*line
	for _, n := range l.lines {
		if n.entry.Closed == 0 && (number == 0 || n.entry.N == number) {
			out = append(out, n)
		}
	}
	return out
}

// count is what the peer tells.
type count struct {
	tally
	Keys  map[string]tally `json:"keys"`
	Lines []entry          `json:"lines"`
}

func (l *ledger) count() count {
	l.mu.Lock()
	defer l.mu.Unlock()
	c := count{tally: l.all, Keys: map[string]tally{}}
	for k, t := range l.keys {
		c.Keys[k] = *t
	}
	for _, n := range l.lines {
		c.Lines = append(c.Lines, n.entry)
	}
	return c
}
