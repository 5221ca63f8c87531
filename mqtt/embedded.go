package mqtt

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"syscall"

	mochi "github.com/mochi-mqtt/server/v2"
	"github.com/mochi-mqtt/server/v2/listeners"
)

const (
	// embeddedPacket is the largest packet in bytes, that of Mosquitto 2.1.
	embeddedPacket = 2_000_000
	// embeddedPending is how many messages wait for a slow client before its QoS 0
	// messages are dropped.
	embeddedPending = 8192
	// embeddedSession is how long in seconds a persistent session outlives its client.
	embeddedSession = 24 * 60 * 60
)

// Embedded is a broker in this process, for those who have none. It keeps
// retained messages in memory, as long as it runs, and lets everybody in.
type Embedded struct {
	log    *slog.Logger
	ln     *listener
	server *mochi.Server
}

// NewEmbedded listens on addr ("127.0.0.1:1883"; port 0: any). Nobody is served
// before Run, which also releases the port. Outside loopback it warns, since it
// asks for no password. log may be nil.
func NewEmbedded(addr string, log *slog.Logger) (*Embedded, error) {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	ln, err := net.Listen("tcp", addr)
	if errors.Is(err, syscall.EADDRINUSE) {
		return nil, fmt.Errorf("mqtt: embedded broker: %s is taken, probably by another MQTT broker: "+
			"set mqtt.url to use that one, or mqtt.embedded.listen to another address: %w", addr, err)
	}
	if err != nil {
		return nil, fmt.Errorf("mqtt: embedded broker: %w: set mqtt.embedded.listen to an address of this machine, or mqtt.url to use another broker", err)
	}
	if a, ok := ln.Addr().(*net.TCPAddr); !ok || !a.IP.IsLoopback() {
		log.Warn("the embedded broker can be reached from other machines and asks for no password", slog.String("addr", ln.Addr().String()))
	}
	return newEmbedded(ln, log), nil
}

func newEmbedded(ln net.Listener, log *slog.Logger) *Embedded {
	limits := mochi.NewDefaultServerCapabilities()
	limits.MaximumMessageExpiryInterval = 0 // else retained messages vanish after a day
	limits.MaximumPacketSize = embeddedPacket
	limits.MaximumClientWritesPending = embeddedPending
	limits.MaximumSessionExpiryInterval = embeddedSession
	return &Embedded{
		log: log,
		ln:  &listener{Listener: ln, conns: make(map[net.Conn]struct{})},
		server: mochi.New(&mochi.Options{
			Capabilities:           limits,
			Logger:                 slog.New(quieter{log.Handler()}),
			SysTopicResendInterval: 60,
		}),
	}
}

// Addr is the address it listens on, with the port in use.
func (e *Embedded) Addr() string { return e.ln.Addr().String() }

// Run serves until ctx ends, then cuts all clients. It can be called once.
func (e *Embedded) Run(ctx context.Context) error {
	defer e.ln.end()
	if err := e.server.AddHook(newHook(e.server), nil); err != nil {
		return fmt.Errorf("mqtt: embedded broker: %w", err)
	}
	if err := e.server.AddListener(listeners.NewNet("embedded", e.ln)); err != nil {
		return fmt.Errorf("mqtt: embedded broker: %w", err)
	}
	if err := e.server.Serve(); err != nil {
		return fmt.Errorf("mqtt: embedded broker: %w", err)
	}
	e.log.Info("embedded broker listens", slog.String("addr", e.Addr()))
	<-ctx.Done()
	// First the sockets: the server waits for each of them, up to 15 s for one
	// that never said who it is. A second Close would panic.
	e.ln.end()
	if err := e.server.Close(); err != nil {
		return fmt.Errorf("mqtt: embedded broker: %w", err)
	}
	return nil
}

// listener knows its connections, to end them all.
type listener struct {
	net.Listener
	mu    sync.Mutex
	conns map[net.Conn]struct{} // nil after end
}

func (l *listener) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	c := &served{Conn: conn, listener: l}
	l.mu.Lock()
	ended := l.conns == nil
	if !ended {
		l.conns[c] = struct{}{}
	}
	l.mu.Unlock()
	if ended {
		_ = conn.Close()
		return nil, net.ErrClosed
	}
	return c, nil
}

// end closes the listener and every connection. It may be called again.
func (l *listener) end() {
	_ = l.Close()
	l.mu.Lock()
	conns := l.conns
	l.conns = nil
	l.mu.Unlock()
	for c := range conns {
		_ = c.Close()
	}
}

type served struct {
	net.Conn
	listener *listener
}

func (c *served) Close() error {
	c.listener.mu.Lock()
	delete(c.listener.conns, c)
	c.listener.mu.Unlock()
	return c.Conn.Close()
}

// quieter logs as Debug what is not an error: the server warns about each client
// that leaves.
type quieter struct{ slog.Handler }

func (q quieter) Enabled(ctx context.Context, level slog.Level) bool {
	return q.Handler.Enabled(ctx, q.level(level))
}

func (q quieter) Handle(ctx context.Context, r slog.Record) error {
	r.Level = q.level(r.Level)
	return q.Handler.Handle(ctx, r)
}

func (q quieter) WithAttrs(attrs []slog.Attr) slog.Handler {
	return quieter{q.Handler.WithAttrs(attrs)}
}

func (q quieter) WithGroup(name string) slog.Handler { return quieter{q.Handler.WithGroup(name)} }

func (quieter) level(level slog.Level) slog.Level {
	if level >= slog.LevelError {
		return level
	}
	return slog.LevelDebug
}
