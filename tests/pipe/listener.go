package pipe

import (
	"context"
	"net"
	"sync"
	"syscall"
)

// backlog is how many connections wait for Accept before Dial blocks.
const backlog = 128

// Listener accepts the connections that are made with its Dial methods, so
// that an http.Server serves over pipes.
type Listener struct {
	queue  chan *Conn
	closed chan struct{}
	once   sync.Once
}

var _ net.Listener = (*Listener)(nil)

// NewListener returns a listener that is ready to be dialled.
func NewListener() *Listener {
	return &Listener{queue: make(chan *Conn, backlog), closed: make(chan struct{})}
}

// Dial connects to the listener. After Close it fails with ECONNREFUSED.
func (l *Listener) Dial(ctx context.Context) (*Conn, error) { return l.DialFrom(ctx, nil) }

// DialFrom is Dial from an address; nil: the same for all.
func (l *Listener) DialFrom(ctx context.Context, from net.Addr) (*Conn, error) {
	ours, theirs := New()
	if from != nil {
		ours.l.end[ours.me].addr = from
	}
	select {
	case <-l.closed:
		return nil, ours.fail("dial", syscall.ECONNREFUSED)
	default:
	}
	select {
	case l.queue <- theirs:
		return ours, nil
	case <-l.closed:
		return nil, ours.fail("dial", syscall.ECONNREFUSED)
	case <-ctx.Done():
		return nil, ours.fail("dial", context.Cause(ctx))
	}
}

// DialContext is Dial in the shape of net.Dialer's method, for
// http.Transport.DialContext and websocket.Dialer.NetDialContext. Network and
// address don't matter.
func (l *Listener) DialContext(ctx context.Context, _, _ string) (net.Conn, error) {
	c, err := l.Dial(ctx)
	if err != nil {
		return nil, err
	}
	return c, nil
}

// Accept waits for the next connection; after Close it fails with
// net.ErrClosed.
func (l *Listener) Accept() (net.Conn, error) {
	select {
	case <-l.closed:
		return nil, l.closedError()
	default:
	}
	select {
	case c := <-l.queue:
		return c, nil
	case <-l.closed:
		return nil, l.closedError()
	}
}

func (l *Listener) closedError() error {
	return &net.OpError{Op: "accept", Net: "tcp", Addr: l.Addr(), Err: net.ErrClosed}
}

// Close ends Accept and resets the connections that nobody accepted. A second
// Close does nothing.
func (l *Listener) Close() error {
	l.once.Do(func() {
		close(l.closed)
		for {
			select {
			case c := <-l.queue:
				c.Reset()
				_ = c.Close()
			default:
				return
			}
		}
	})
	return nil
}

// Addr is a made-up TCP address.
func (l *Listener) Addr() net.Addr {
	return &net.TCPAddr{IP: net.IPv4(192, 0, 2, 2), Port: 2}
}
