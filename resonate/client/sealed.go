package client

import (
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"resonatebridge/resonate/internal/dialect"
	"resonatebridge/resonate/internal/noise"
	"resonatebridge/resonate/pairing"
	"resonatebridge/resonate/protocol"

	"github.com/gorilla/websocket"
)

// activateTimeout is how long a server may take from the handshake to its first
// activation, and from a change of keys to the next (spec: Multiple servers).
const activateTimeout = 30 * time.Second

// Errors that end an encrypted session, without a word.
var (
	// ErrClear: the server sent in the clear what has to be encrypted.
	ErrClear = errors.New("a message in the clear on an encrypted connection")
	// ErrOrder: the server sent something before the activation that has to
	// come first.
	ErrOrder = errors.New("a message before its activation")
	// ErrIdle: the server did not say in time what the connection is for.
	ErrIdle = fmt.Errorf("no activation within %v", activateTimeout)
)

// Sealing is what the encrypted dialects need besides. Its callbacks are those
// of the goroutine that calls [Options.OnMessage], in order with it; before
// there is a session, s is nil.
type Sealing struct {
	// Identity is who the client is; [protocol.ClientHello.ClientID] is not
	// sent.
	Identity pairing.Identity
	// Keys returns the keys that the server may refer to in the handshake that
	// comes now.
	Keys func(s *Session) Keys
	// OnKeys is told of each handshake, of the first one before the server's
	// hello; may be nil.
	OnKeys func(*Session, Channel)
	// AESGCM chooses the suite 25519_AESGCM_SHA256 instead of
	// 25519_ChaChaPoly_SHA256: cheaper where the processor has AES.
	AESGCM bool
}

// Keys finds a key of a category by its psk_id. server is whose a long-term key
// is. The Sentinel needs no search.
type Keys func(category pairing.Category, pskID string) (psk protocol.PSK, server pairing.PublicKey, ok bool)

// Channel is what the keys of a session stand for.
type Channel struct {
	pairing.Channel
	Server pairing.PublicKey // proven
	// Mismatch says that the server referred to a key that is not here and that
	// the Sentinel took its place (spec: Sentinel Fallback).
	Mismatch bool
}

// sealed is the encryption of a session. Reader and writer have an end each. A
// change of keys is a step of the writer, for which the reader waits: so the
// frame of message 2 is the last one under the old key, by construction.
type sealed struct {
	Sealing
	old bool // the dialect is G1

	// The reader's own.
	in      *noise.Opener
	parts   noise.Assembler
	waits   bool // for an activation; nothing else may come
	greeted bool // the server has said hello under these keys

	// The writer's own.
	out     *noise.Channel
	quiet   bool // until the activation
	first   bool // no activation yet: a goodbye may be said
	paused  bool // G1: no questions for the time while the server pairs
	message []byte
	part    []byte
}

// greetSealed runs the handshake and exchanges hellos.
func greetSealed(conn *websocket.Conn, wire *dialect.ClientWire, opts Options) (*sealed, protocol.ServerHello, error) {
	x := &sealed{Sealing: *opts.Sealing, old: opts.Dialect == string(dialect.G1), waits: true, greeted: true, quiet: true, first: true}
	x.parts.Old = x.old
	none := protocol.ServerHello{}
	conn.SetReadLimit(noise.MaxFrame)
	if err := x.shake(conn); err != nil {
		return nil, none, fmt.Errorf("handshake: %w", err)
	}
	for {
		k, data, err := conn.ReadMessage()
		if err != nil {
			return nil, none, fmt.Errorf("wait for server/hello: %w", err)
		}
		message, err := x.open(k == websocket.BinaryMessage, data)
		if err != nil {
			return nil, none, fmt.Errorf("wait for server/hello: %w", err)
		}
		if message == nil {
			continue
		}
		m, err := wire.Decode(dialect.FrameOf(message))
		hello, ok := m.(protocol.ServerHello)
		if err != nil || !ok {
			return nil, none, fmt.Errorf("wait for server/hello: %w", errors.Join(ErrOrder, err))
		}
		hello.ServerID = x.out.Peer.ID()
		if err := x.write(conn, wire.Hello(opts.Hello), writeTimeout); err != nil {
			return nil, none, fmt.Errorf("send client/hello: %w", err)
		}
		return x, hello, nil
	}
}

// shake is the Noise handshake, whose responder the client is.
func (x *sealed) shake(conn *websocket.Conn) error {
	suite := noise.ChaChaPoly
	if x.AESGCM {
		suite = noise.AESGCM
	}
	h, text := noise.NewHandshakeResponder(noise.ClientConfig{Identity: x.Identity, Suite: suite, Keys: lookup(x.Keys(nil)), Old: x.old})
	for step := (noise.Step{Send: [][]byte{text}}); ; {
		for _, m := range step.Send {
			if err := conn.SetWriteDeadline(time.Now().Add(writeTimeout)); err != nil {
				return err
			}
			if err := conn.WriteMessage(websocket.TextMessage, m); err != nil {
				return err
			}
		}
		if step.Channel != nil {
			x.out, x.in = step.Channel, step.Channel.Receive
			return nil
		}
		k, data, err := conn.ReadMessage()
		if err != nil {
			return err
		}
		if step, err = h.Feed(k == websocket.BinaryMessage, data); err != nil {
			return err
		}
	}
}

func lookup(keys Keys) noise.Lookup {
	return func(c pairing.Category, id string) (m noise.Match, ok bool) {
		if keys == nil {
			return m, false
		}
		m.PSK, m.Server, ok = keys(c, id)
		return m, ok
	}
}

// open turns a frame into the message that it completes; nil if it completes
// none. The frame is overwritten.
func (x *sealed) open(binary bool, frame []byte) ([]byte, error) {
	if !binary {
		return nil, ErrClear
	}
	message, err := x.in.Open(frame[:0], frame)
	if err != nil {
		return nil, err
	}
	return x.parts.Feed(message)
}

// write seals a message and writes it, in fragments if it is large.
func (x *sealed) write(conn *websocket.Conn, f dialect.Frame, limit time.Duration) error {
	if x.part == nil {
		x.part = make([]byte, 0, noise.MaxFrame)
	}
	x.message = f.AppendMessage(x.message[:0])
	for part := range noise.Fragments(x.part, x.message, x.old) {
		frame, err := x.out.Send.Seal(x.part[:0], part)
		if err == nil {
			err = writeFrame(conn, websocket.BinaryMessage, frame, limit)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// turn is what the reader wants the writer to do.
type turn struct {
	do   func() error
	done chan error
}

// byWriter runs do on the writer's goroutine, between two messages, and waits
// for it. An error ends the session.
func (s *Session) byWriter(do func() error) error {
	t := turn{do, make(chan error, 1)}
	select {
	case s.turns <- t:
	case <-s.closing:
		return s.cause()
	}
	select {
	case err := <-t.done:
		return err
	case <-s.closing: // what it did meanwhile is nobody's any more
		return s.cause()
	}
}

// unseal opens a frame, and keeps what belongs to the encryption. ok is false
// if nothing is left for the dialect.
func (s *Session) unseal(binary bool, data []byte) (f dialect.Frame, ok bool, err error) {
	message, err := s.sealed.open(binary, data)
	if message == nil || err != nil {
		return f, false, err
	}
	if text, ok := noise.HandshakeText(message); ok {
		return f, false, s.rekey(text)
	}
	return dialect.FrameOf(message), true, nil
}

// rekey answers a server that changes the keys. Nothing else is sent from here
// to the activation.
func (s *Session) rekey(text []byte) error {
	x := s.sealed
	if x.waits {
		return ErrOrder
	}
	keys := lookup(x.Keys(s))
	var next *noise.Channel
	err := s.byWriter(func() error {
		frame, ch, err := x.out.Answer(x.message[:0], text, keys)
		if err != nil {
			return err
		}
		next, x.out, x.message, x.quiet = ch, ch, frame, true
		return writeFrame(s.conn, websocket.BinaryMessage, frame, writeTimeout)
	})
	if err != nil {
		return fmt.Errorf("change of keys: %w", err)
	}
	x.in, x.waits, x.greeted = next.Receive, true, !x.old
	s.tellKeys(next)
	return nil
}

func (s *Session) tellKeys(ch *noise.Channel) {
	if ch.Mismatch {
		s.opts.Log.Info("the server has a key that is not here", slog.String("server", s.hello.ServerID))
	}
	if s.sealed.OnKeys != nil {
		s.sealed.OnKeys(s, Channel{Channel: ch.Pairing(s.sealed.old), Server: ch.Peer, Mismatch: ch.Mismatch})
	}
}

// admit looks at a message of the dialect before anybody else does. ok is false
// if it is none for others; the error ends the session.
func (s *Session) admit(m protocol.ServerMessage, malformed error) (ok bool, err error) {
	x := s.sealed
	var bad *protocol.DecodeError
	if errors.As(malformed, &bad) && (x.waits || strings.HasPrefix(bad.Msg, "server/pair-") || bad.Msg == "server/activate") {
		return false, malformed // these have no second try
	}
	_, hello := m.(protocol.ServerHello)
	activation, activated := m.(protocol.ServerActivate)
	switch {
	case hello && !x.greeted: // the generation before 1.0.0-rc1 says hello again
		x.greeted = true
		return false, s.byWriter(func() error { return x.write(s.conn, s.wire.Hello(s.opts.Hello), writeTimeout) })
	case hello && !x.waits:
		return false, nil
	case activated && x.greeted:
		x.waits = false
		return true, s.byWriter(func() error {
			x.quiet, x.first = false, false
			// Its servers take what crosses their change of keys for an error.
			x.paused = x.old && activation.Has(protocol.ActivityPairing)
			return nil
		})
	case x.waits:
		return false, fmt.Errorf("%w: %T", ErrOrder, m)
	}
	return true, nil
}
