package client

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"time"

	"resonatebridge/resonate/internal/contain"
	"resonatebridge/resonate/internal/dial"
	"resonatebridge/resonate/internal/dialect"
	"resonatebridge/resonate/protocol"
	"resonatebridge/timesync"

	"github.com/gorilla/websocket"
)

const (
	dialTimeout  = 10 * time.Second // TCP and upgrade, 5 s each at most in practice
	helloTimeout = 10 * time.Second
	writeTimeout = 10 * time.Second
	pingEvery    = 10 * time.Second
	// silence is how long a peer may send no frame at all, two pings and some:
	// a pulled plug sends no FIN.
	silence = 25 * time.Second
	// linger is how long a goodbye may take. The socket is read on meanwhile:
	// closing one with unread data makes the kernel send a reset, which can
	// overtake the goodbye.
	linger = 200 * time.Millisecond

	// driftSignificance is 3, not the reference's 2: with 5 ms of jitter one
	// update in twenty believed a drift that was not there, and carried the
	// sound out of its millisecond until the next burst.
	driftSignificance = 3

	readLimit    = 4 << 20 // bytes per message
	queueSize    = 64      // messages; a client sends a few per second
	maxMalformed = 10      // in a row, then the peer speaks something else
	maxEarly     = 16      // messages other than server/hello before it
)

var (
	// ErrGone is returned by [Session.Send] after the session ended.
	ErrGone = errors.New("the session is over")
	// ErrSlow ends a session whose peer takes nothing, when the queue is full.
	// To drop a message instead would leave the server with an old state.
	ErrSlow = errors.New("the server does not take what is sent")
	// ErrClosed is the cause of a session that this side ended.
	ErrClosed = errors.New("closed by this side")
	// ErrPanic is the cause of a session one of whose callbacks panicked, or
	// ended its goroutine. Other sessions go on; the stack is in the log.
	ErrPanic = contain.ErrPanic
	// ErrSilent is the cause of a session whose server sent nothing, not even
	// a pong, for 25 s.
	ErrSilent = errors.New("the server is silent")
)

// Options say who connects and where the messages go.
type Options struct {
	Hello   protocol.ClientHello
	Dialect string // "R1", "R2", "S1" to "S4"; encrypted "G1", "G2"; empty: "S4"
	// Sealing is required by an encrypted dialect and ignored by the others.
	Sealing *Sealing

	// OnMessage gets every message of the server in order, the first is its
	// protocol.ServerHello; server/time is kept. The session's reader calls
	// it, one call at a time, so it holds up this session only, for as long as
	// it takes. It may send, close this session and make others; it must not
	// wait for this session to be done. After [Session.Close] no call begins.
	// If it panics the session ends with ErrPanic.
	OnMessage func(*Session, protocol.ServerMessage)
	// OnClock, if set, is called after each change of [Session.Model]. The
	// session's writer calls it: it must return at once. If it panics the
	// session ends with ErrPanic.
	OnClock func(*Session)

	Clock *timesync.Clock // nil: a new one
	Log   *slog.Logger    // nil: silent
	// NetDial opens the connection of [Dial]; nil: TCP. If it panics the
	// attempt fails with ErrPanic.
	NetDial func(ctx context.Context, network, addr string) (net.Conn, error)
}

// prepare fills in the defaults and makes the translator of one connection.
func (o Options) prepare() (Options, *dialect.ClientWire, error) {
	if o.Dialect == "" {
		o.Dialect = string(dialect.S4)
	}
	if o.OnMessage == nil {
		o.OnMessage = func(*Session, protocol.ServerMessage) {}
	}
	if o.OnClock == nil {
		o.OnClock = func(*Session) {}
	}
	if o.Clock == nil {
		o.Clock = timesync.NewClock()
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.NetDial == nil {
		o.NetDial = (&net.Dialer{Timeout: dialTimeout / 2}).DialContext
	}
	w, err := dialect.NewClient(dialect.Name(o.Dialect))
	if err == nil && w.Encrypted() {
		if o.Sealing == nil || o.Sealing.Keys == nil {
			err = fmt.Errorf("dialect %s needs an identity and keys", o.Dialect)
		}
	} else {
		o.Sealing = nil
	}
	return o, w, err
}

// Session is one connection to a server after the exchange of hellos. All its
// methods may be called from anywhere, at any time, as often as one likes.
type Session struct {
	opts   Options
	conn   *websocket.Conn
	hello  protocol.ServerHello
	wire   *dialect.ClientWire
	sealed *sealed // nil: plaintext

	turns    chan turn                   // from read to write
	out      chan protocol.ClientMessage // never closed; only write receives
	replies  chan timesync.Sample        // from read to write, which drives the clock's bursts
	filter   *timesync.Filter            // fed by write alone (RC-6)
	closing  <-chan struct{}
	cause    func() error
	end      context.CancelCauseFunc // the first call decides the cause
	readDone chan struct{}
	done     chan struct{}
}

// Dial connects to a server at a ws:// URL and exchanges hellos. ctx governs
// the attempt, not the session: when it ends before Dial has returned there is
// no session. The caller ends the session with [Session.Close].
func Dial(ctx context.Context, url string, opts Options) (*Session, error) {
	opts, wire, err := opts.prepare()
	if err != nil {
		return nil, err
	}
	d := websocket.Dialer{HandshakeTimeout: dialTimeout, NetDialContext: func(ctx context.Context, network, addr string) (c net.Conn, err error) {
		err = contain.Call(opts.Log, func() (err error) { c, err = opts.NetDial(ctx, network, addr); return err })
		return c, err
	}}
	conn, answer, err := dial.WebSocket(ctx, d, url)
	if answer != "" {
		err = fmt.Errorf("%s: %w", answer, err)
	}
	if err != nil {
		return nil, fmt.Errorf("dial %s: %w", url, err)
	}
	s, err := greet(ctx, conn, wire, opts)
	if err != nil {
		return nil, fmt.Errorf("dial %s: %w", url, err)
	}
	return s, nil
}

// Accept makes a session of a request by a server that dials us. As in [Dial]
// the client speaks first and the request's context governs the exchange of
// hellos only. On an error the request was answered.
func Accept(w http.ResponseWriter, r *http.Request, opts Options) (*Session, error) {
	opts, wire, err := opts.prepare()
	if err != nil {
		http.Error(w, "misconfigured", http.StatusInternalServerError)
		return nil, err
	}
	up := websocket.Upgrader{HandshakeTimeout: dialTimeout / 2}
	conn, err := up.Upgrade(w, r, nil)
	if err != nil {
		return nil, fmt.Errorf("accept %s: %w", r.RemoteAddr, err)
	}
	s, err := greet(r.Context(), conn, wire, opts)
	if err != nil {
		return nil, fmt.Errorf("accept %s: %w", r.RemoteAddr, err)
	}
	return s, nil
}

// greet exchanges hellos on conn, which it owns, and starts the session.
func greet(ctx context.Context, conn *websocket.Conn, wire *dialect.ClientWire, opts Options) (*Session, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, helloTimeout, fmt.Errorf("no server/hello within %v", helloTimeout))
	defer cancel()
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })

	var hello protocol.ServerHello
	var seal *sealed
	err := contain.Call(opts.Log, func() (err error) {
		if opts.Sealing != nil {
			seal, hello, err = greetSealed(conn, wire, opts)
		} else {
			hello, err = hellos(conn, wire, opts.Hello)
		}
		return err
	})
	// Who gave up while the peer was still answering must not get a live
	// session (RC-1): stop reports whether ctx was alive until now.
	if !stop() {
		_ = conn.Close()
		return nil, context.Cause(ctx)
	}
	if err != nil {
		_ = conn.Close()
		return nil, err
	}

	life, end := context.WithCancelCause(context.WithoutCancel(ctx))
	s := &Session{
		opts:     opts,
		conn:     conn,
		hello:    hello,
		wire:     wire,
		sealed:   seal,
		turns:    make(chan turn),
		out:      make(chan protocol.ClientMessage, queueSize),
		replies:  make(chan timesync.Sample, 1),
		filter:   timesync.NewFilter(timesync.Config{DriftSignificance: driftSignificance}),
		closing:  life.Done(),
		cause:    func() error { return context.Cause(life) },
		end:      end,
		readDone: make(chan struct{}),
		done:     make(chan struct{}),
	}
	go s.run()
	return s, nil
}

func hellos(conn *websocket.Conn, wire *dialect.ClientWire, ours protocol.ClientHello) (protocol.ServerHello, error) {
	conn.SetReadLimit(readLimit)
	f := wire.Hello(ours)
	if err := writeFrame(conn, kind(f), f.Data, writeTimeout); err != nil {
		return protocol.ServerHello{}, fmt.Errorf("send client/hello: %w", err)
	}
	for range maxEarly {
		k, data, err := conn.ReadMessage()
		if err != nil {
			return protocol.ServerHello{}, fmt.Errorf("wait for server/hello: %w", err)
		}
		m, err := wire.Decode(dialect.Frame{Binary: k == websocket.BinaryMessage, Data: data})
		if err != nil {
			return protocol.ServerHello{}, fmt.Errorf("wait for server/hello: %w", err)
		}
		if hello, ok := m.(protocol.ServerHello); ok {
			return hello, nil
		}
	}
	return protocol.ServerHello{}, fmt.Errorf("no server/hello among the first %d messages", maxEarly)
}

func writeFrame(conn *websocket.Conn, kind int, data []byte, limit time.Duration) error {
	if err := conn.SetWriteDeadline(time.Now().Add(limit)); err != nil {
		return err
	}
	return conn.WriteMessage(kind, data)
}

func kind(f dialect.Frame) int {
	if f.Binary {
		return websocket.BinaryMessage
	}
	return websocket.TextMessage
}

// Server is what the server said about itself.
func (s *Session) Server() protocol.ServerHello { return s.hello }

// Remote is the server's network address.
func (s *Session) Remote() string { return s.conn.RemoteAddr().String() }

// Model converts between our clock and the server's; nil before the first
// measurement. It stays usable after the session.
func (s *Session) Model() *timesync.Model { return s.filter.Model() }

// Closing is closed when the session begins to end.
func (s *Session) Closing() <-chan struct{} { return s.closing }

// Done is closed when the session has ended and left nothing behind.
func (s *Session) Done() <-chan struct{} { return s.done }

// Err is nil while the session lives, then why it ended: the first cause.
func (s *Session) Err() error { return s.cause() }

// Send queues m and does not wait. It returns nil, [ErrGone] after the session
// began to end, or [ErrSlow], which also ends it. A message that the dialect
// has no words for is dropped.
func (s *Session) Send(m protocol.ClientMessage) error {
	select {
	case <-s.closing:
		return ErrGone
	default:
	}
	select {
	case s.out <- m:
		return nil
	default:
		s.end(ErrSlow)
		return ErrSlow
	}
}

// Close ends the session in good order: what was sent, a client/goodbye with
// the reason (none if it is empty), a close frame. It does not wait; the
// session is done within 200 ms.
func (s *Session) Close(reason protocol.GoodbyeReason) { s.end(&leaveError{reason}) }

// Abort cuts the connection without a word.
func (s *Session) Abort() { s.end(ErrClosed) }

// leaveError is the cause of a session that was closed in good order.
type leaveError struct{ reason protocol.GoodbyeReason }

func (e *leaveError) Error() string {
	if e.reason == "" {
		return ErrClosed.Error()
	}
	return fmt.Sprintf("%v: goodbye %s", ErrClosed, e.reason)
}

func (e *leaveError) Unwrap() error { return ErrClosed }

// leaving returns how the session says goodbye, nil if it doesn't.
func (s *Session) leaving() *leaveError {
	var e *leaveError
	if errors.As(s.cause(), &e) {
		return e
	}
	return nil
}

// run is the whole life of the session: all cleanup is the end of this
// function, so it happens once and touches nothing but s (RC-2).
func (s *Session) run() {
	var wg sync.WaitGroup
	wg.Go(func() {
		defer close(s.readDone)
		contain.Run(s.opts.Log, s.read, s.end)
		s.drain()
	})
	wg.Go(func() { contain.Run(s.opts.Log, s.write, s.end) })
	<-s.closing
	if s.leaving() != nil {
		t := time.NewTimer(linger)
		select {
		case <-s.readDone: // the peer answered our close
		case <-t.C:
		}
		t.Stop()
	}
	_ = s.conn.Close() // frees both, whatever they wait for
	wg.Wait()
	close(s.done)
}

// drain reads on while a goodbye is on its way, also if what comes can't be
// understood any more.
func (s *Session) drain() {
	for s.leaving() != nil {
		if _, _, err := s.conn.NextReader(); err != nil {
			return
		}
	}
}

// read owns the socket's read side and the calls of OnMessage. It returns why
// nothing more is read.
func (s *Session) read() error {
	alive := func() error { return s.conn.SetReadDeadline(time.Now().Add(silence)) }
	s.conn.SetPongHandler(func(string) error { return alive() })
	s.conn.SetPingHandler(func(data string) error {
		// A pong that can't be written is the writer's trouble, not ours.
		_ = s.conn.WriteControl(websocket.PongMessage, []byte(data), time.Now().Add(time.Second))
		return alive()
	})
	if s.sealed != nil {
		s.tellKeys(s.sealed.out) // the writer changes it at the reader's wish only
	}
	s.opts.OnMessage(s, s.hello)
	malformed := 0
	for {
		// Afresh for every message: the time that OnMessage took is not the
		// peer's silence.
		if err := alive(); err != nil {
			return fmt.Errorf("read: %w", err)
		}
		k, data, err := s.conn.ReadMessage()
		if err != nil {
			return readError(err)
		}
		f := dialect.Frame{Binary: k == websocket.BinaryMessage, Data: data}
		if s.sealed != nil {
			var ok bool
			if f, ok, err = s.unseal(f.Binary, f.Data); err != nil {
				return fmt.Errorf("read: %w", err)
			}
			if !ok {
				continue
			}
		}
		received := s.opts.Clock.Now()
		m, err := s.wire.Decode(f)
		if s.sealed != nil {
			ok, end := s.admit(m, err)
			if end != nil {
				return fmt.Errorf("read: %w", end)
			}
			if !ok && err == nil {
				continue
			}
		}
		if err != nil {
			malformed++
			s.opts.Log.Warn("malformed message dropped", slog.String("server", s.hello.ServerID), slog.Any("err", err))
			if malformed == maxMalformed {
				return fmt.Errorf("read: %d malformed messages in a row, last: %w", malformed, err)
			}
			continue
		}
		malformed = 0
		s.dispatch(m, received)
	}
}

// dispatch hands m on, unless the session is ending: then the socket is only
// read to let the goodbye through (RC-3).
func (s *Session) dispatch(m protocol.ServerMessage, received timesync.Micros) {
	select {
	case <-s.closing:
		return
	default:
	}
	switch m := m.(type) {
	case nil: // nothing that concerns us
	case protocol.ServerTime:
		sample := timesync.Sample{
			ClientTransmitted: m.ClientTransmitted,
			ServerReceived:    m.ServerReceived,
			ServerTransmitted: m.ServerTransmitted,
			ClientReceived:    received,
		}
		select {
		case s.replies <- sample:
		default: // one question is in flight: what is more was not asked for
		}
	default:
		s.opts.OnMessage(s, m)
	}
}

func readError(err error) error {
	var timeout net.Error
	if errors.As(err, &timeout) && timeout.Timeout() {
		return fmt.Errorf("%w: no frame for %v", ErrSilent, silence)
	}
	return fmt.Errorf("read: %w", err)
}

// write owns the socket's write side and the clock's bursts. It returns why
// nothing more is written.
func (s *Session) write() error {
	ping := time.NewTicker(pingEvery)
	defer ping.Stop()
	burst := timesync.NewBurst(s.filter)
	ask := time.NewTimer(0)
	defer ask.Stop()
	late := time.NewTimer(activateTimeout)
	defer late.Stop()
	model := s.filter.Model()
	for {
		if now := s.filter.Model(); now != model { // a burst ends with a reply, or with a probe that timed out
			model = now
			s.opts.OnClock(s)
		}
		var err error
		out := s.out
		if s.silenced() {
			out = nil
		}
		select {
		case <-s.closing:
			s.farewell()
			return s.cause()
		case t := <-s.turns:
			err = t.do()
			t.done <- err
			late.Reset(activateTimeout)
			ask.Reset(0)
		case <-late.C:
			if s.silenced() {
				err = ErrIdle
			}
		case m := <-out:
			err = s.writeMessage(m, writeTimeout)
		case <-ping.C:
			err = s.conn.WriteControl(websocket.PingMessage, nil, time.Now().Add(writeTimeout))
		case sample := <-s.replies:
			burst.Reply(sample)
			err = s.ask(burst, ask)
		case <-ask.C:
			err = s.ask(burst, ask)
		}
		if err != nil {
			return fmt.Errorf("write: %w", err)
		}
	}
}

// ask sends a client/time if one is due and sets the timer for the next look.
// Nothing comes between the stamp and the write.
func (s *Session) ask(burst *timesync.Burst, again *time.Timer) error {
	if s.silenced() || s.sealed != nil && s.sealed.paused { // the end of that asks again
		return nil
	}
	now := s.opts.Clock.Now()
	due, wait := burst.Next(now)
	again.Reset(wait)
	if !due {
		return nil
	}
	return s.writeOut(dialect.Frame{Data: s.wire.AppendTime(nil, protocol.ClientTime{ClientTransmitted: now})}, writeTimeout)
}

// silenced reports whether nothing may be sent before an activation.
func (s *Session) silenced() bool { return s.sealed != nil && s.sealed.quiet }

func (s *Session) writeOut(f dialect.Frame, limit time.Duration) error {
	if s.sealed != nil {
		return s.sealed.write(s.conn, f, limit)
	}
	return writeFrame(s.conn, kind(f), f.Data, limit)
}

func (s *Session) writeMessage(m protocol.ClientMessage, limit time.Duration) error {
	for _, f := range s.wire.Encode(m) {
		if err := s.writeOut(f, limit); err != nil {
			return err
		}
	}
	return nil
}

// farewell writes what is queued, the goodbye and the close frame, if that is
// how the session ends. The time for it is limited by run; errors change
// nothing any more.
func (s *Session) farewell() {
	leave := s.leaving()
	if leave == nil {
		return
	}
	for !s.silenced() {
		select {
		case m := <-s.out:
			if s.writeMessage(m, linger) != nil {
				return
			}
			continue
		default:
		}
		break
	}
	if leave.reason != "" && (!s.silenced() || s.sealed.first) { // not between two keys
		if s.writeMessage(protocol.ClientGoodbye{Reason: leave.reason}, linger) != nil {
			return
		}
	}
	bye := websocket.FormatCloseMessage(websocket.CloseNormalClosure, string(leave.reason))
	_ = s.conn.WriteControl(websocket.CloseMessage, bye, time.Now().Add(linger))
}
