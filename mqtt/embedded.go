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
	ln, err := new(net.ListenConfig).Listen(context.Background(), "tcp", addr) // at once: there is nothing to wait for
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
		ln:  newListener(ln),
		server: mochi.New(&mochi.Options{
			Capabilities:           limits,
			Logger:                 slog.New(quieter{log.Handler()}),
			SysTopicResendInterval: 60,
		}),
	}
}

// Addr is the address it listens on, with the port in use.
func (e *Embedded) Addr() string { return e.ln.Address() }

// Run serves until ctx ends, then cuts all clients. It can be called once.
func (e *Embedded) Run(ctx context.Context) error {
	defer e.ln.end()
	if err := e.server.AddHook(newHook(e.server), nil); err != nil {
		return fmt.Errorf("mqtt: embedded broker: %w", err)
	}
	if err := e.server.AddListener(e.ln); err != nil {
		return fmt.Errorf("mqtt: embedded broker: %w", err)
	}
	if err := e.server.Serve(); err != nil {
		return fmt.Errorf("mqtt: embedded broker: %w", err)
	}
	e.log.Info("embedded broker listens", slog.String("addr", e.Addr()))
	<-ctx.Done()
	// A second Close would panic.
	if err := e.server.Close(); err != nil {
		return fmt.Errorf("mqtt: embedded broker: %w", err)
	}
	return nil
}

// listener serves the connections of one net.Listener. It takes the place of
// listeners.Net, whose Close may end in a deadlock with a client that leaves
// (mochi-mqtt v2.7.9: Clients.GetByListener takes its lock twice) and waits up to
// 15 s for a client that never said who it is.
type listener struct {
	net.Listener
	serving sync.WaitGroup

	mu    sync.Mutex
	ended bool
	conns map[net.Conn]struct{}
}

func newListener(ln net.Listener) *listener {
	return &listener{Listener: ln, conns: make(map[net.Conn]struct{})}
}

// ID names the listener.
func (*listener) ID() string { return "embedded" }

// Protocol is the listener's network.
func (l *listener) Protocol() string { return l.Listener.Addr().Network() }

// Address is where it listens.
func (l *listener) Address() string { return l.Listener.Addr().String() }

// Init has nothing to do.
func (*listener) Init(*slog.Logger) error { return nil }

// Serve hands each connection to establish, on a goroutine that ends with it.
func (l *listener) Serve(establish listeners.EstablishFn) {
	for {
		conn, err := l.Accept()
		if err != nil {
			return
		}
		if !l.admit(conn) {
			_ = conn.Close()
			return
		}
		go func() {
			defer l.dismiss(conn)
			_ = establish(l.ID(), conn) // the server logs it
		}()
	}
}

func (l *listener) admit(conn net.Conn) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.ended {
		l.conns[conn] = struct{}{}
		l.serving.Add(1)
	}
	return !l.ended
}

func (l *listener) dismiss(conn net.Conn) {
	l.mu.Lock()
	delete(l.conns, conn)
	l.mu.Unlock()
	l.serving.Done()
}

// Close closes the listener and every connection, and waits for their ends.
func (l *listener) Close(listeners.CloseFn) { l.end() }

// end may be called again.
func (l *listener) end() {
	_ = l.Listener.Close()
	l.mu.Lock()
	l.ended = true
	for c := range l.conns {
		_ = c.Close()
	}
	l.mu.Unlock()
	l.serving.Wait()
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
