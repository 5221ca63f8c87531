package session

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"resonatebridge/resonate/internal/contain"
	"resonatebridge/resonate/internal/dialect"
	"resonatebridge/resonate/internal/noise"
	"resonatebridge/resonate/protocol"
	"resonatebridge/timesync"

	"github.com/gorilla/websocket"
)

// Ends of a session that callers tell apart.
var (
	// ErrGone: the session has ended; nothing was sent.
	ErrGone = errors.New("session: the connection has ended")
	// ErrSlow: the peer does not read; its queue was full, so the session failed.
	ErrSlow = errors.New("session: the peer reads too slowly, its queue is full")
	// ErrTurnedAway: Sealing.Choose wraps it to turn a client away.
	ErrTurnedAway = errors.New("session: turned away before the handshake")
	// ErrMalformed: too many bad messages in a row.
	ErrMalformed = errors.New("session: too many malformed messages in a row")
)

// GoodbyeError is the end of a session by client/goodbye.
type GoodbyeError struct{ Reason protocol.GoodbyeReason }

// Error names the reason; it is the peer's text, cut and quoted.
func (e *GoodbyeError) Error() string {
	return fmt.Sprintf("session: the peer said goodbye: %.64q", string(e.Reason))
}

// Options are the parts and limits of a session. The zero value of a duration
// or a number means its default.
type Options struct {
	Clock *timesync.Clock // required: the server's timeline
	Log   *slog.Logger    // nil is silent
	// Hello is the server's: identity, name and reason. In plaintext it answers
	// the client's, and its ActiveRoles are filled in by the session; encrypted
	// it is said before, to an empty one.
	Hello func(protocol.ClientHello) protocol.ServerHello
	// Override forces a dialect for a client id; "" detects it. May be nil.
	Override func(clientID string) dialect.Name
	// Refuse may refuse a client after its hello, for instance because it has
	// to speak encrypted. May be nil.
	Refuse func(protocol.ClientHello) *dialect.RefusedError
	// Handle gets every message but client/time and goodbye, in order, from
	// the reader goroutine, and not before up has returned. It may block; the
	// peer is not read meanwhile. It should give up when Done closes.
	Handle func(*Session, protocol.ClientMessage)
	// Malformed is told of every message that was dropped. May be nil.
	Malformed func(error)
	// Sealing serves encrypted connections; nil: they are refused.
	Sealing *Sealing

	HelloTimeout time.Duration // wait for the first frame; default 10 s
	StateTimeout time.Duration // wait for the first client/state; default 5 s
	PingEvery    time.Duration // default 10 s
	DeadAfter    time.Duration // silence that ends the session; default 25 s
	WriteTimeout time.Duration // for one frame; default 10 s
	Queue        int           // bytes that may wait to be sent, beside the newest state; default 256 KiB (races: B8)
}

// Limits that no setting changes.
const (
	helloLimit    = 64 << 10 // bytes (dialects: section 6.3)
	messageLimit  = 1 << 20  // bytes, any later frame (races: B28)
	malformedMax  = 10       // bad messages in a row (races: B28)
	notesMax      = 16       // deviations logged per socket (dialects: section 6.1)
	closeDeadline = 200 * time.Millisecond
	sendBuffer    = 32 << 10               // bytes the kernel may hold; 4 MiB by default hides a stalled reader for 20 s
	earlyMax      = 64                     // messages kept until the session is live
	timeQueue     = 64                     // client/time answers that may wait
	probeSettle   = 300 * time.Millisecond // from a frame that is no pong to "it lives"
)

func (o Options) withDefaults() Options {
	def := func(d *time.Duration, v time.Duration) {
		if *d == 0 {
			*d = v
		}
	}
	def(&o.HelloTimeout, 10*time.Second)
	def(&o.StateTimeout, 5*time.Second)
	def(&o.PingEvery, 10*time.Second)
	def(&o.DeadAfter, 25*time.Second)
	def(&o.WriteTimeout, 10*time.Second)
	if o.Queue == 0 {
		o.Queue = 256 << 10
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Malformed == nil {
		o.Malformed = func(error) {}
	}
	if o.Sealing != nil && o.Sealing.After == 0 {
		x := *o.Sealing
		x.After = noise.RekeyAfter
		o.Sealing = &x
	}
	return o
}

// Session is one handshaken connection. All methods are safe for concurrent
// use; Run is called at most once.
type Session struct {
	ws      *websocket.Conn
	opts    Options
	hello   protocol.ClientHello
	offered []protocol.Role
	roles   atomic.Pointer[[]protocol.Role] // active
	wire    *dialect.ServerWire
	sealed  *sealed // nil: plaintext
	log     *slog.Logger

	queue   queue            // emptied by the writer only
	streams streams          // of audio, likewise
	visuals streams          // of a visualizer, likewise
	watched bool             // of the writer: the visualizer's stream has begun
	artwork artwork          // likewise
	times   chan timeRequest // drained by the writer only
	pings   chan struct{}    // one-slot: the writer pings at once
	heard   chan struct{}    // one-slot: the reader read a frame
	ponged  chan uint64      // one-slot: a pong, with the number of its probe
	probe   atomic.Uint64    // number of the newest probe
	ready   chan struct{}    // closed by the reader: first client/state seen
	opened  chan struct{}    // closed by Run: up has returned

	delivered atomic.Bool // a frame was read after the session went live

	once  sync.Once
	done  chan struct{} // closed once, when the session ends
	cause error         // why; written before done closes
}

type timeRequest struct{ transmitted, received timesync.Micros }

// Greet reads the first frame of a client and tells its dialect. path is the
// HTTP path that an inbound client asked for, "" if we dialled. On error the
// socket is closed, with the close code that the error carries.
func Greet(ctx context.Context, ws *websocket.Conn, path string, o Options) (*Session, error) {
	o = o.withDefaults()
	stop := context.AfterFunc(ctx, func() { _ = ws.Close() })
	defer stop()
	ws.SetReadLimit(helloLimit)
	if t := tcpOf(ws); t != nil {
		_ = t.SetWriteBuffer(sendBuffer) // best effort: only latency suffers
	}
	var s *Session
	err := contain.Call(o.Log, func() (err error) { s, err = greet(ws, path, o); return err })
	if err != nil {
		refuse(ws, err)
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		return nil, fmt.Errorf("session: hello: %w", err)
	}
	return s, nil
}

func greet(ws *websocket.Conn, path string, o Options) (*Session, error) {
	if err := ws.SetReadDeadline(time.Now().Add(o.HelloTimeout)); err != nil {
		return nil, err
	}
	kind, data, err := ws.ReadMessage()
	if err != nil {
		return nil, err
	}
	var (
		wire  *dialect.ServerWire
		hello protocol.ClientHello
		seal  *sealed
	)
	if o.Sealing != nil && encryptedFirst(kind, data) {
		seal, wire, hello, err = greetSealed(ws, data, o)
	} else {
		wire, hello, err = dialect.Accept(dialect.Frame{Binary: kind == websocket.BinaryMessage, Data: data}, path, o.Override)
	}
	if err != nil {
		return nil, err
	}
	if o.Refuse != nil {
		if r := o.Refuse(hello); r != nil {
			return nil, r
		}
	}
	roles := usableRoles(hello)
	if len(roles) == 0 {
		return nil, &dialect.RefusedError{
			Code: websocket.ClosePolicyViolation, Text: "no usable role",
			Detail: fmt.Sprintf("no usable role: it offers %q; this server serves player, controller and metadata, a player with at least one format and a buffer", hello.Roles),
		}
	}
	s := &Session{
		ws: ws, opts: o, hello: hello, offered: roles, wire: wire, sealed: seal,
		log: o.Log.With(
			slog.String("player", hello.ClientID),
			slog.String("dialect", string(wire.Name())),
		),
		queue:   queue{wake: make(chan struct{}, 1)},
		streams: streams{queue: make(chan streamStep, streamQueue)},
		visuals: streams{queue: make(chan streamStep, streamQueue)},
		artwork: artwork{wake: make(chan struct{}, 1)},
		times:   make(chan timeRequest, timeQueue),
		pings:   make(chan struct{}, 1),
		heard:   make(chan struct{}, 1),
		ponged:  make(chan uint64, 1),
		ready:   make(chan struct{}),
		opened:  make(chan struct{}),
		done:    make(chan struct{}),
	}
	s.setRoles(roles)
	return s, nil
}

// usableRoles are the roles that can be active, in the client's order.
func usableRoles(h protocol.ClientHello) []protocol.Role {
	var roles []protocol.Role
	for _, r := range h.Roles {
		switch r {
		case protocol.RolePlayer:
			if h.Player != nil && len(h.Player.Formats) > 0 && h.Player.BufferCapacity > 0 {
				roles = append(roles, r)
			}
		case protocol.RoleController, protocol.RoleMetadata, protocol.RoleColor:
			roles = append(roles, r)
		case protocol.RoleArtwork:
			if h.Trust != nil || h.Artwork != nil && len(h.Artwork.Channels) > 0 { // encrypted clients say later what they show
				roles = append(roles, r)
			}
		case protocol.RoleVisualizer:
			if h.Visual != nil {
				roles = append(roles, r)
			}
		}
	}
	return roles
}

// refuse closes a socket that was not accepted, saying why where a close code
// exists for it.
func refuse(ws *websocket.Conn, err error) {
	var r *dialect.RefusedError
	var init *noise.InitError
	code, text := websocket.CloseProtocolError, "bad first message"
	switch {
	case errors.As(err, &init):
		_ = writeMessage(ws, closeDeadline, websocket.TextMessage, init.Answer())
		code, text = websocket.CloseNormalClosure, ""
	case silent(err):
		_ = ws.Close()
		return
	case errors.As(err, &r):
		code, text = r.Code, r.Text
	case errors.Is(err, websocket.ErrReadLimit):
		code, text = websocket.CloseMessageTooBig, "hello too large"
	}
	_ = ws.WriteControl(websocket.CloseMessage, websocket.FormatCloseMessage(code, text), time.Now().Add(closeDeadline))
	_ = ws.Close()
}

// silent reports whether a failure is not to be answered (spec: failure
// handling).
func silent(err error) bool {
	var bye *GoodbyeError
	for _, is := range []error{
		noise.ErrMalformed, noise.ErrTurn, noise.ErrHandshake, noise.ErrUnknownPSK, noise.ErrFragment, noise.ErrAuthentication,
		noise.ErrEmpty, noise.ErrTooLong, ErrText, ErrTurnedAway,
	} {
		if errors.Is(err, is) {
			return true
		}
	}
	return errors.As(err, &bye)
}

// ID is the client id of the hello.
func (s *Session) ID() string { return s.hello.ClientID }

// Hello is the client's hello.
func (s *Session) Hello() protocol.ClientHello { return s.hello }

// Offered are the roles that this server can activate, in the client's order.
func (s *Session) Offered() []protocol.Role { return s.offered }

// Roles are the active roles. In plaintext they are those of [Session.Offered].
func (s *Session) Roles() []protocol.Role { return *s.roles.Load() }

// HasRole reports whether role r is active.
func (s *Session) HasRole(r protocol.Role) bool { return slices.Contains(s.Roles(), r) }

func (s *Session) setRoles(roles []protocol.Role) { s.roles.Store(&roles) }

// Wire is the translator of this connection.
func (s *Session) Wire() *dialect.ServerWire { return s.wire }

// RemoteAddr is the peer's network address.
func (s *Session) RemoteAddr() net.Addr { return s.ws.RemoteAddr() }

// Done is closed when the session has ended.
func (s *Session) Done() <-chan struct{} { return s.done }

// Err is nil while the session lives, then why it ended: the first cause.
func (s *Session) Err() error {
	select {
	case <-s.done:
		return s.cause
	default:
		return nil
	}
}

// Delivered reports whether the peer sent anything after it went live.
func (s *Session) Delivered() bool { return s.delivered.Load() }

// Probe pings the peer and waits for the answer. It returns nil if the peer
// lives, else ErrGone or the cause of ctx. Not every device answers pings, so
// any other frame counts too, but not at once: what arrives now may have been
// sent before the peer went, and then its end is right behind it.
func (s *Session) Probe(ctx context.Context) error {
	select { // forget what was heard before
	case <-s.heard:
	default:
	}
	s.probe.Add(1)
	nudge(s.pings)
	heard := s.heard
	var settled <-chan time.Time
	for {
		select {
		case id := <-s.ponged:
			if id == s.probe.Load() {
				return nil
			}
		case <-heard:
			heard = nil
			timer := time.NewTimer(probeSettle)
			defer timer.Stop()
			settled = timer.C
		case <-settled:
			return nil
		case <-s.done:
			return ErrGone
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// Kill ends the session at once with cause: no close frame, unsent data is
// thrown away. It never blocks and may be called any number of times, also
// when Run never was.
func (s *Session) Kill(cause error) {
	s.fail(cause)
	if t := tcpOf(s.ws); t != nil {
		_ = t.SetLinger(0)
	}
	_ = s.ws.Close()
}

// fail records the first cause and ends the session. The writer says the close
// frame and closes the socket, which frees the reader.
func (s *Session) fail(cause error) {
	s.once.Do(func() { // RC-2: first cause wins, teardown runs once
		s.cause = cause
		close(s.done)
	})
}

// Run serves the session until it ends and returns why. It calls up once, when
// the hello is answered and the first client/state was seen (or did not come
// within StateTimeout); never after the session has ended.
func (s *Session) Run(ctx context.Context, up func()) error {
	stop := context.AfterFunc(ctx, func() { s.fail(context.Cause(ctx)) })
	defer stop()

	first := protocol.ServerActivate{ActiveRoles: s.offered}
	if s.sealed != nil {
		first = s.sealed.sealing.Activate(s)
		s.setRoles(first.ActiveRoles)
	}
	var wg sync.WaitGroup
	wg.Go(func() { contain.Run(s.log, s.read, s.fail) }) // ends when the socket is closed
	wg.Go(func() {                                       // ends with done, at most closeDeadline later
		contain.Run(s.log, func() error { return s.write(first) }, func(err error) {
			s.fail(err)
			_ = s.ws.Close() // frees the reader, whose error is then not the first
		})
	})
	if s.awaitState() {
		up()
		close(s.opened)
	}
	<-s.done
	// A writer that stands, because the peer does not read, gets no more time
	// than the close frame would have.
	late := time.AfterFunc(closeDeadline, func() { _ = s.ws.Close() })
	defer late.Stop()
	wg.Wait()
	return s.cause
}

// awaitState waits for the first client/state and reports whether the session
// still lives.
func (s *Session) awaitState() bool {
	late := time.NewTimer(s.opts.StateTimeout)
	defer late.Stop()
	select {
	case <-s.ready:
	case <-s.done:
	case <-late.C:
		s.log.Warn("no client/state in time, going on with defaults", slog.Duration("waited", s.opts.StateTimeout))
	}
	select {
	case <-s.done:
		return false
	default:
		return true
	}
}
