package session

import (
	"bufio"
	"fmt"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/gorilla/websocket"
)

// corkLimit is how many steps of a stream leave together at most: those that the
// engine makes at once, and as much of what waits as may be written before a
// command or an answer to client/time gets its turn.
const corkLimit = 8

// corked is a connection that can hold what is written back, to write it at once:
// with hundreds of players, system calls and packets are what a chunk costs.
type corked struct {
	net.Conn
	turn     chan struct{} // one-slot: full while somebody writes
	held     *[]byte       // nil: nothing is held back
	deadline time.Time     // of what is held back
}

// corkBuffers is shared, for of all sessions few write at a time.
var corkBuffers = sync.Pool{New: func() any { return new([]byte) }} //nolint:gochecknoglobals // a cache: nobody sees what is in it

// Cork returns a connection on whose WebSocket a session writes what is due at
// the same time at once. It is optional.
func Cork(c net.Conn) net.Conn { return &corked{Conn: c, turn: make(chan struct{}, 1)} }

// CorkUpgrade does the same for a connection that is about to be upgraded.
func CorkUpgrade(w http.ResponseWriter) http.ResponseWriter { return corkHijack{w} }

type corkHijack struct{ http.ResponseWriter }

func (h corkHijack) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	c, rw, err := http.NewResponseController(h.ResponseWriter).Hijack()
	if err != nil {
		return nil, nil, err
	}
	return Cork(c), rw, nil
}

// corkOf is the corked connection of ws, or nil.
func corkOf(ws *websocket.Conn) *corked {
	c, _ := ws.NetConn().(*corked)
	return c
}

// tcpOf is the TCP connection of ws, or nil.
func tcpOf(ws *websocket.Conn) *net.TCPConn {
	c := ws.NetConn()
	if k, ok := c.(*corked); ok {
		c = k.Conn
	}
	t, _ := c.(*net.TCPConn)
	return t
}

// hold begins to hold back. The writer alone calls it, and release after it.
func (c *corked) hold() {
	if c == nil {
		return
	}
	c.turn <- struct{}{}
	defer func() { <-c.turn }()
	c.deadline = time.Time{}
	c.held, _ = corkBuffers.Get().(*[]byte)
}

// full reports whether what is held back should leave: it fills the kernel's buffer,
// or there is nothing to hold it back with.
func (c *corked) full() bool {
	if c == nil {
		return true
	}
	c.turn <- struct{}{}
	defer func() { <-c.turn }()
	return len(*c.held) >= sendBuffer
}

// release writes what was held back.
func (c *corked) release() error {
	if c == nil {
		return nil
	}
	c.turn <- struct{}{}
	defer func() { <-c.turn }()
	held := c.held
	c.held = nil
	defer func() {
		*held = (*held)[:0]
		corkBuffers.Put(held)
	}()
	if len(*held) == 0 {
		return nil
	}
	if err := c.Conn.SetWriteDeadline(c.deadline); err != nil {
		return fmt.Errorf("session: write: %w", err)
	}
	if _, err := c.Conn.Write(*held); err != nil {
		return fmt.Errorf("session: write: %w", err)
	}
	return nil
}

// Write is net.Conn's. What is written by others, such as a pong, keeps its place.
func (c *corked) Write(p []byte) (int, error) {
	c.turn <- struct{}{}
	defer func() { <-c.turn }()
	if c.held == nil {
		return c.Conn.Write(p)
	}
	*c.held = append(*c.held, p...)
	return len(p), nil
}

// SetWriteDeadline is net.Conn's.
func (c *corked) SetWriteDeadline(t time.Time) error {
	c.turn <- struct{}{}
	defer func() { <-c.turn }()
	if c.held == nil {
		return c.Conn.SetWriteDeadline(t)
	}
	if t.After(c.deadline) { // a pong's is short
		c.deadline = t
	}
	return nil
}
