package mqtt

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/gorilla/websocket"
)

// wire is the TCP connection below TLS and WebSocket. It gives every write a
// deadline (paho gives one to publishes only, so a broker that stops reading
// would hold acknowledgements and pings for ever), and it can be cut from
// outside in a way that paho notices: paho ignores the error of a connection
// that was closed locally.
type wire struct {
	net.Conn
	writeTimeout time.Duration
	cause        atomic.Pointer[error] // set before the connection is cut
	orderly      atomic.Bool           // it ends by a DISCONNECT
}

// partingTime bounds the wait for the broker's end of a connection that was ended
// by a DISCONNECT.
const partingTime = 200 * time.Millisecond

// Close ends the connection. After a DISCONNECT it lets the broker close first: a
// socket that is closed with unread data resets the connection, the broker may
// then never read the DISCONNECT, and publishes the will.
func (w *wire) Close() error {
	if w.orderly.Load() && w.SetReadDeadline(time.Now().Add(partingTime)) == nil {
		_, _ = io.Copy(io.Discard, w.Conn) // until its end or ours, whatever it is
	}
	return w.Conn.Close()
}

func (w *wire) Read(p []byte) (int, error) {
	n, err := w.Conn.Read(p)
	return n, w.explain(err)
}

func (w *wire) Write(p []byte) (int, error) {
	if err := w.Conn.SetWriteDeadline(time.Now().Add(w.writeTimeout)); err != nil {
		return 0, w.explain(err)
	}
	n, err := w.Conn.Write(p)
	return n, w.explain(err)
}

// SetWriteDeadline does nothing: Write sets its own.
func (w *wire) SetWriteDeadline(time.Time) error { return nil }

// SetDeadline sets the read deadline: Write sets its own.
func (w *wire) SetDeadline(t time.Time) error { return w.SetReadDeadline(t) }

func (w *wire) explain(err error) error {
	if cause := w.cause.Load(); err != nil && cause != nil {
		return *cause
	}
	return err
}

// cut ends the connection at once; reads and writes then fail with cause.
func (w *wire) cut(cause error) {
	w.cause.CompareAndSwap(nil, &cause)
	_ = w.Close() // the cause is the news, not a failing close
}

// dial opens the connection to the broker, up to where MQTT begins, and hands
// each TCP connection to opened as soon as it stands.
func (b *broker) dial(ctx context.Context, tm timing, opened func(*wire)) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, tm.connect)
	defer cancel()
	dialWire := func(ctx context.Context, network, addr string) (net.Conn, error) {
		conn, err := b.DialContext(ctx, network, addr)
		if err != nil {
			return nil, err
		}
		w := &wire{Conn: conn, writeTimeout: tm.write}
		opened(w)
		return w, nil
	}
	switch b.url.Scheme {
	case "ws", "wss":
		d := websocket.Dialer{NetDialContext: dialWire, TLSClientConfig: b.tls, Subprotocols: []string{"mqtt"}}
		ws, resp, err := d.DialContext(ctx, b.url.String(), nil)
		if err != nil {
			if resp != nil {
				_ = resp.Body.Close()
				err = errors.New("the server answered " + resp.Status + ": it speaks HTTP, but no MQTT on this path")
			}
			return nil, err
		}
		return &webConn{Conn: ws}, nil
	default:
		conn, err := dialWire(ctx, "tcp", b.url.Host)
		if err != nil || b.tls == nil {
			return conn, err
		}
		secure := tls.Client(conn, b.tls)
		if err := secure.HandshakeContext(ctx); err != nil {
			_ = conn.Close()
			return nil, err
		}
		return secure, nil
	}
}

// webConn reads and writes the bytes of binary WebSocket messages. MQTT packets
// need not align with them (MQTT 3.1.1, 6.0).
type webConn struct {
	*websocket.Conn
	message io.Reader  // the rest of the current message; only Read touches it
	writing sync.Mutex // gorilla allows one writer at a time; paho pings beside its writer
}

func (c *webConn) Read(p []byte) (int, error) {
	for {
		if c.message == nil {
			_, r, err := c.NextReader()
			if err != nil {
				return 0, err
			}
			c.message = r
		}
		n, err := c.message.Read(p)
		if errors.Is(err, io.EOF) {
			c.message, err = nil, nil
			if n == 0 {
				continue
			}
		}
		return n, err
	}
}

func (c *webConn) Write(p []byte) (int, error) {
	c.writing.Lock()
	defer c.writing.Unlock()
	if err := c.WriteMessage(websocket.BinaryMessage, p); err != nil {
		return 0, err
	}
	return len(p), nil
}

func (c *webConn) SetDeadline(t time.Time) error { return c.SetReadDeadline(t) }
