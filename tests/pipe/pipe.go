// Package pipe has in-memory network connections for tests: buffered as TCP is
// (a net.Pipe is not, so two sides that write at once deadlock on it), with
// the faults that TCP has: a link that stalls, one that is cut, a reset.
//
// Everything blocks on channels and timers only, so a whole client and server
// run over it inside a testing/synctest bubble.
package pipe

import (
	"io"
	"net"
	"os"
	"sync"
	"syscall"
	"time"
)

// DefaultCapacity is how many bytes [New] holds per direction, a small socket
// buffer.
const DefaultCapacity = 64 << 10

// New returns the two ends of a connection that holds [DefaultCapacity] bytes
// in each direction.
func New() (a, b *Conn) { return NewSize(DefaultCapacity) }

// NewSize is [New] with room for capacity bytes in each direction, at least 1.
func NewSize(capacity int) (a, b *Conn) {
	l := &link{capacity: max(1, capacity), changed: make(chan struct{})}
	// Addresses of a block reserved for documentation (RFC 5737), so that code
	// which parses a peer's address works and nothing real is meant.
	l.end[0].addr = &net.TCPAddr{IP: net.IPv4(192, 0, 2, 1), Port: 1}
	l.end[1].addr = &net.TCPAddr{IP: net.IPv4(192, 0, 2, 2), Port: 2}
	return &Conn{l: l, me: 0}, &Conn{l: l, me: 1}
}

// link is both directions of one connection.
type link struct {
	capacity int

	mu      sync.Mutex
	changed chan struct{} // closed and replaced whenever something below changes
	cut     bool
	reset   bool
	end     [2]end
}

// end is one side: what it wrote and the other has not read, and its state.
type end struct {
	addr          net.Addr
	out           []byte
	held          bool // what it sends stays in out until Thaw
	closed        bool
	written       uint64
	readDeadline  time.Time
	writeDeadline time.Time
}

// Conn is one end of a connection. Its methods are safe for concurrent use;
// the faults act on the connection, whichever end they are called on.
type Conn struct {
	l  *link
	me int
}

var _ net.Conn = (*Conn)(nil)

// wake tells everyone who waits to look again. The caller holds mu.
func (l *link) wake() {
	close(l.changed)
	l.changed = make(chan struct{})
}

// do changes the link and wakes those who wait for it.
func (l *link) do(change func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	change()
	l.wake()
}

// await runs try under the lock until it reports done, the deadline that
// deadline reads has passed, or this end is closed.
func (c *Conn) await(op string, deadline func() time.Time, try func() (done bool, err error)) error {
	for {
		c.l.mu.Lock()
		if c.l.end[c.me].closed {
			c.l.mu.Unlock()
			return c.fail(op, net.ErrClosed)
		}
		if c.l.reset {
			c.l.mu.Unlock()
			return c.fail(op, syscall.ECONNRESET)
		}
		until := deadline()
		if !until.IsZero() && !time.Now().Before(until) {
			c.l.mu.Unlock()
			return c.fail(op, os.ErrDeadlineExceeded)
		}
		done, err := try()
		changed := c.l.changed
		c.l.mu.Unlock()
		switch {
		case err == io.EOF: //nolint:errorlint // io.Reader's contract is the bare value.
			return err
		case err != nil:
			return c.fail(op, err)
		case done:
			return nil
		}
		if until.IsZero() {
			<-changed
			continue
		}
		t := time.NewTimer(time.Until(until))
		select {
		case <-changed:
		case <-t.C:
		}
		t.Stop()
	}
}

func (c *Conn) fail(op string, err error) error {
	return &net.OpError{Op: op, Net: "tcp", Source: c.LocalAddr(), Addr: c.RemoteAddr(), Err: err}
}

// Read waits for data, the end of the stream, the read deadline or a reset.
func (c *Conn) Read(p []byte) (n int, err error) {
	if len(p) == 0 {
		return 0, nil
	}
	me, peer := &c.l.end[c.me], &c.l.end[1-c.me]
	err = c.await("read", func() time.Time { return me.readDeadline }, func() (bool, error) {
		if c.l.cut || peer.held {
			return false, nil
		}
		if len(peer.out) > 0 {
			n = copy(p, peer.out)
			peer.out = peer.out[n:]
			c.l.wake()
			return true, nil
		}
		if peer.closed {
			return false, io.EOF
		}
		return false, nil
	})
	return n, err
}

// Write returns when all of p is in the buffer; the write deadline and a full
// buffer can cut it short.
func (c *Conn) Write(p []byte) (n int, err error) {
	me, peer := &c.l.end[c.me], &c.l.end[1-c.me]
	err = c.await("write", func() time.Time { return me.writeDeadline }, func() (bool, error) {
		if peer.closed && !c.l.cut && !me.held {
			return false, syscall.EPIPE
		}
		if room := min(c.l.capacity-len(me.out), len(p)-n); room > 0 {
			me.out = append(me.out, p[n:n+room]...)
			me.written += uint64(room)
			n += room
			c.l.wake()
		}
		return n == len(p), nil
	})
	return n, err
}

// Close ends this side: its own calls fail with net.ErrClosed, the other side
// reads what is on the way and then io.EOF. A second Close does nothing.
func (c *Conn) Close() error {
	c.l.do(func() { c.l.end[c.me].closed = true })
	return nil
}

// Freeze stalls the link in both directions, as a stopped process or a lost
// radio does: both sides can write until the buffers are full, nobody receives
// anything, not even a close. [Conn.Thaw] delivers all of it.
func (c *Conn) Freeze() {
	c.l.do(func() { c.l.end[0].held, c.l.end[1].held = true, true })
}

// FreezeOut stalls only what this end sends.
func (c *Conn) FreezeOut() { c.l.do(func() { c.l.end[c.me].held = true }) }

// Thaw ends [Conn.Freeze] and [Conn.FreezeOut] of either end.
func (c *Conn) Thaw() {
	c.l.do(func() { c.l.end[0].held, c.l.end[1].held = false, false })
}

// Cut ends the link for good and tells nobody, as a pulled plug does: reads
// wait for their deadline, writes fill the buffer and then wait, and a Close
// of one side never reaches the other.
func (c *Conn) Cut() { c.l.do(func() { c.l.cut = true }) }

// Reset ends the connection as a TCP RST does: both sides fail at once with
// ECONNRESET and what was on the way is lost.
func (c *Conn) Reset() { c.l.do(func() { c.l.reset = true }) }

// Written counts the bytes that this end has written.
func (c *Conn) Written() uint64 {
	c.l.mu.Lock()
	defer c.l.mu.Unlock()
	return c.l.end[c.me].written
}

// IsClosed reports whether this end was closed by its owner.
func (c *Conn) IsClosed() bool {
	c.l.mu.Lock()
	defer c.l.mu.Unlock()
	return c.l.end[c.me].closed
}

// Peer is the other end.
func (c *Conn) Peer() *Conn { return &Conn{l: c.l, me: 1 - c.me} }

// LocalAddr is a made-up TCP address.
func (c *Conn) LocalAddr() net.Addr { return c.l.end[c.me].addr }

// RemoteAddr is the made-up TCP address of the other end.
func (c *Conn) RemoteAddr() net.Addr { return c.l.end[1-c.me].addr }

// SetDeadline sets both deadlines; see net.Conn.
func (c *Conn) SetDeadline(t time.Time) error {
	c.l.do(func() {
		c.l.end[c.me].readDeadline = t
		c.l.end[c.me].writeDeadline = t
	})
	return nil
}

// SetReadDeadline also moves the deadline of a Read that waits; see net.Conn.
func (c *Conn) SetReadDeadline(t time.Time) error {
	c.l.do(func() { c.l.end[c.me].readDeadline = t })
	return nil
}

// SetWriteDeadline also moves the deadline of a Write that waits; see net.Conn.
func (c *Conn) SetWriteDeadline(t time.Time) error {
	c.l.do(func() { c.l.end[c.me].writeDeadline = t })
	return nil
}
