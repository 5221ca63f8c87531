package session

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"resonatebridge/resonate/internal/dialect"
	"resonatebridge/resonate/internal/noise"
	"resonatebridge/resonate/pairing"
	"resonatebridge/resonate/protocol"

	"github.com/gorilla/websocket"
)

// Sealing is what a server brings to encrypted connections.
type Sealing struct {
	Identity pairing.Identity
	// Choose picks the key for a client that has named itself, which proves
	// nothing yet. It is called before any expensive work. An error turns the
	// client away without a word.
	Choose func(client pairing.PublicKey) (pairing.Credential, error)
	// Activate is the first activation of a session.
	Activate func(*Session) protocol.ServerActivate
	// Rekeyed tells, from the reader goroutine and in order with
	// Options.Handle, that a re-handshake is complete and which key it used.
	// May be nil.
	Rekeyed func(*Session, pairing.Credential)
	// After is how many frames one key serves, either way, before a
	// re-handshake replaces it; default [noise.RekeyAfter].
	After uint64
}

// ErrText: a message in the clear where all has to be encrypted.
var ErrText = errors.New("session: a message in the clear on an encrypted connection")

// sealed is the encrypted part of a session. A key change is a step in the
// writer's queue: message 1 is the last frame under the old key, the writer
// then waits for the reader to bring the next channel, and goes on under the
// new one. So no frame is ever sealed with a key that is not its own.
type sealed struct {
	sealing Sealing
	now     atomic.Pointer[noise.Channel] // for what does not change of it; stored by the reader

	// The writer's own.
	out     *noise.Channel
	used    pairing.Credential
	last    protocol.ServerActivate // newest that was written, its roles complete
	playing bool                    // a player stream is active
	message []byte                  // reused
	part    []byte                  // reused, for fragments

	// The reader's own.
	in      *noise.Opener
	parts   noise.Assembler
	greeted bool          // the client said hello under these keys, or need not
	opened  atomic.Uint64 // frames under the current key

	mu        sync.Mutex
	handshake *rekeying // waits for the client's answer; set by the writer, taken by the reader

	next    chan *noise.Channel // one-slot: the reader has the new keys
	rehello chan struct{}       // one-slot: a client of the old generation said hello again
}

// rekeying is a re-handshake under way.
type rekeying struct {
	initiator  *noise.HandshakeInitiator
	credential pairing.Credential
}

// rekey is a step of the writer: new keys, then an activation.
type rekey struct {
	credential pairing.Credential
	activation protocol.ServerActivate
}

// head is what tells messages apart before a dialect is known.
type head struct {
	Type    string `json:"type"`
	Payload struct {
		Reason protocol.GoodbyeReason `json:"reason"`
	} `json:"payload"`
}

func headOf(text []byte) head {
	var h head
	_ = json.Unmarshal(text, &h) // what is no JSON has no type
	return h
}

// encryptedFirst reports whether a first frame begins an encrypted connection.
func encryptedFirst(kind int, data []byte) bool {
	return kind == websocket.TextMessage && bytes.Contains(data, []byte("client/init")) && headOf(data).Type == "client/init"
}

// greetSealed runs the handshake that first begins, says hello and reads the
// client's.
func greetSealed(ws *websocket.Conn, first []byte, o Options) (*sealed, *dialect.ServerWire, protocol.ClientHello, error) {
	s := &sealed{
		sealing: *o.Sealing,
		greeted: true,
		next:    make(chan *noise.Channel, 1),
		rehello: make(chan struct{}, 1),
		parts:   noise.Assembler{Limit: helloLimit, Old: true},
	}
	none := protocol.ClientHello{}
	if err := s.shake(ws, first, o); err != nil {
		return nil, nil, none, err
	}
	hello := dialect.EncryptedHello(o.Hello(none))
	s.message = hello.AppendMessage(s.message[:0])
	if err := s.write(ws, o.WriteTimeout, s.message, false); err != nil {
		return nil, nil, none, err
	}
	message, err := s.firstMessage(ws, o)
	if err != nil {
		return nil, nil, none, err
	}
	frame := dialect.FrameOf(message)
	if h := headOf(frame.Data); !frame.Binary && h.Type == "client/goodbye" {
		return nil, nil, none, &GoodbyeError{Reason: h.Payload.Reason}
	}
	wire, h, err := dialect.AcceptEncrypted(frame, s.out.Peer.ID())
	if err != nil {
		return nil, nil, none, err
	}
	s.parts.Old, s.parts.Limit = wire.OldFragments(), messageLimit
	return s, wire, h, nil
}

// shake runs the Noise handshake as its initiator.
func (s *sealed) shake(ws *websocket.Conn, first []byte, o Options) error {
	h := noise.NewHandshakeInitiator(noise.ServerConfig{
		Identity: s.sealing.Identity,
		Choose: func(client pairing.PublicKey) (c pairing.Credential, err error) {
			s.used, err = s.sealing.Choose(client)
			return s.used, err
		},
	})
	step, err := h.Feed(false, first)
	for {
		if err != nil {
			return err
		}
		if step.Channel != nil {
			break
		}
		for _, m := range step.Send {
			if err := writeMessage(ws, o.WriteTimeout, websocket.TextMessage, m); err != nil {
				return err
			}
		}
		if err := ws.SetReadDeadline(time.Now().Add(o.HelloTimeout)); err != nil {
			return err
		}
		kind, data, readErr := ws.ReadMessage()
		if readErr != nil {
			return readErr
		}
		step, err = h.Feed(kind == websocket.BinaryMessage, data)
	}
	if step.Channel.Mismatch {
		s.used = pairing.Sentinel()
	}
	s.out, s.in = step.Channel, step.Channel.Receive
	s.now.Store(step.Channel)
	return nil
}

// firstMessage reads the client's first message within one HelloTimeout,
// however many fragments it has.
func (s *sealed) firstMessage(ws *websocket.Conn, o Options) ([]byte, error) {
	if err := ws.SetReadDeadline(time.Now().Add(o.HelloTimeout)); err != nil {
		return nil, err
	}
	for {
		kind, frame, err := ws.ReadMessage()
		if err != nil {
			return nil, err
		}
		message, err := s.open(kind == websocket.BinaryMessage, frame)
		if message != nil || err != nil {
			return message, err
		}
	}
}

// open turns a frame into the message that it completes; nil if it completes
// none. An error ends the session. The frame is overwritten.
func (s *sealed) open(binary bool, frame []byte) ([]byte, error) {
	if !binary {
		return nil, ErrText
	}
	message, err := s.in.Open(frame[:0], frame)
	if err != nil {
		return nil, err
	}
	s.opened.Add(1)
	return s.parts.Feed(message)
}

// write seals a message, in fragments if it is large, and writes it. message
// is overwritten, and grown if it is s.message.
func (s *sealed) write(ws *websocket.Conn, timeout time.Duration, message []byte, old bool) error {
	if len(message) <= noise.MaxMessage {
		frame, err := s.out.Send.Seal(message[:0], message)
		if err != nil {
			return err
		}
		s.message = frame
		return writeMessage(ws, timeout, websocket.BinaryMessage, frame)
	}
	if s.part == nil {
		s.part = make([]byte, 0, noise.MaxFrame)
	}
	for part := range noise.Fragments(s.part, message, old) {
		frame, err := s.out.Send.Seal(part[:0], part)
		if err != nil {
			return err
		}
		if err := writeMessage(ws, timeout, websocket.BinaryMessage, frame); err != nil {
			return err
		}
	}
	return nil
}

// --- for callers ---

// Encrypted reports whether the session is encrypted.
func (s *Session) Encrypted() bool { return s.sealed != nil }

// Proven reports whether the peer has proven that its id is its own.
func (s *Session) Proven() bool { return s.sealed != nil }

// Category is that of the key that protects the session; empty in plaintext.
func (s *Session) Category() pairing.Category {
	if s.sealed == nil {
		return ""
	}
	return s.sealed.now.Load().Category
}

// Mismatch reports that the client does not have the key that this server has
// for it; see [noise.Channel]. A re-handshake mends it.
func (s *Session) Mismatch() bool { return s.sealed != nil && s.sealed.now.Load().Mismatch }

// Pairing is what pairing needs to know of the current keys; only for encrypted
// sessions.
func (s *Session) Pairing() pairing.Channel {
	return s.sealed.now.Load().Pairing(s.wire.OldPairing())
}

// Activate declares what the connection is for. Its roles, if it names any set,
// are active from here on; a stream of a role that it takes away is ended
// before. It never blocks; the error is that of [Session.Send].
func (s *Session) Activate(a protocol.ServerActivate) error {
	if a.ActiveRoles != nil {
		s.setRoles(a.ActiveRoles)
	}
	return s.push(func() item { return item{activation: &a} })
}

// Rekey replaces the keys by such that c protects, then activates. Everything
// that is queued later waits for it. It never blocks; the error is that of
// [Session.Send].
func (s *Session) Rekey(c pairing.Credential, a protocol.ServerActivate) error {
	if a.ActiveRoles != nil {
		s.setRoles(a.ActiveRoles)
	}
	return s.push(func() item { return item{rekey: &rekey{credential: c, activation: a}} })
}

// --- the writer's side ---

// activate writes an activation, after the end of a stream that it takes away.
func (s *Session) activate(a protocol.ServerActivate) error {
	if err := s.endRemoved(a); err != nil {
		return err
	}
	if a.ActiveRoles == nil {
		a.ActiveRoles = s.sealed.last.ActiveRoles
	}
	s.sealed.last = a
	return s.encode(a)
}

// endRemoved ends the streams whose roles are not in a.
func (s *Session) endRemoved(a protocol.ServerActivate) error {
	if a.ActiveRoles == nil {
		return nil
	}
	var ended []protocol.Role
	if s.sealed.playing && !slices.Contains(a.ActiveRoles, protocol.RolePlayer) {
		ended, s.sealed.playing = append(ended, protocol.RolePlayer), false
	}
	if s.artwork.have != nil && !slices.Contains(a.ActiveRoles, protocol.RoleArtwork) {
		ended = append(ended, protocol.RoleArtwork)
		s.artwork.have, s.artwork.rest = nil, nil
		clear(s.artwork.shown[:])
	}
	if s.watched && !slices.Contains(a.ActiveRoles, protocol.RoleVisualizer) {
		ended, s.watched = append(ended, protocol.RoleVisualizer), false
	}
	if len(ended) == 0 {
		return nil
	}
	return s.encode(protocol.StreamEnd{Roles: ended})
}

// has reports whether role r is active for the client by now, which may be
// later than [Session.HasRole].
func (x *sealed) has(r protocol.Role) bool {
	return x == nil || slices.Contains(x.last.ActiveRoles, r)
}

// permitted is the part of a level that is for active roles.
func (s *Session) permitted(st protocol.ServerState) protocol.ServerState {
	if x := s.sealed; x != nil {
		if !x.has(protocol.RoleMetadata) {
			st.Metadata = nil
		}
		if !x.has(protocol.RoleController) {
			st.Controller = nil
		}
		if !x.has(protocol.RoleColor) {
			st.Color = nil
		}
	}
	return st
}

// encode spells a message and writes it at once.
func (s *Session) encode(m protocol.ServerMessage) error {
	s.queue.mu.Lock()
	frames := s.encodeLocked(m)
	s.queue.mu.Unlock()
	return s.frames(frames)
}

// rekey carries out a re-handshake. Nothing else is written meanwhile.
func (s *Session) rekey(r rekey) error {
	if err := s.endRemoved(r.activation); err != nil {
		return err
	}
	x := s.sealed
	frame, h, err := x.out.Rehandshake(x.message[:0], r.credential)
	if err != nil {
		return err
	}
	x.mu.Lock() // before the client can answer
	x.handshake = &rekeying{initiator: h, credential: r.credential}
	x.mu.Unlock()
	if err := writeMessage(s.ws, s.opts.WriteTimeout, websocket.BinaryMessage, frame); err != nil {
		return err
	}
	late := time.NewTimer(s.opts.HelloTimeout)
	defer late.Stop()
	select {
	case x.out = <-x.next:
		x.used = r.credential
	case <-late.C:
		return fmt.Errorf("session: no answer to a re-handshake within %v", s.opts.HelloTimeout)
	case <-s.done:
		return ErrGone
	}
	if s.wire.Old() { // both say hello again (sendspin.md section 23.2)
		if err := s.encode(s.opts.Hello(s.hello)); err != nil {
			return err
		}
		select {
		case <-x.rehello:
		case <-late.C:
			return fmt.Errorf("session: no hello after a re-handshake within %v", s.opts.HelloTimeout)
		case <-s.done:
			return ErrGone
		}
	}
	return s.activate(r.activation)
}

// wornOut reports whether the keys have served long enough. An attempt to pair
// would not survive new ones.
func (s *Session) wornOut() bool {
	x := s.sealed
	return x != nil && (x.out.Send.Frames() >= x.sealing.After || x.opened.Load() >= x.sealing.After) &&
		!x.last.Has(protocol.ActivityPairing)
}

// streamStep reports whether a step of a stream has its place: a stream ends
// with its role, but the engine may not know that yet.
func (x *sealed) streamStep(m protocol.ServerMessage) (protocol.ServerMessage, bool) {
	player := x.has(protocol.RolePlayer)
	forPlayer := func(roles []protocol.Role) bool {
		return roles == nil || slices.Contains(roles, protocol.RolePlayer)
	}
	switch m := m.(type) {
	case protocol.StreamStart:
		if m.Player != nil {
			x.playing = player
			if !player {
				m.Player = nil
			}
		}
		return m, m.Player != nil || m.Artwork != nil || m.Visualizer != nil
	case protocol.StreamClear:
		return m, x.playing || !forPlayer(m.Roles)
	case protocol.StreamEnd:
		if !forPlayer(m.Roles) {
			return m, true
		}
		was := x.playing
		x.playing = false
		return m, was
	}
	return m, true
}

// --- the reader's side ---

// unsealed opens a frame and keeps what belongs to the transport. nil: there is
// nothing for the dialect.
func (s *Session) unsealed(binary bool, frame []byte) ([]byte, error) {
	x := s.sealed
	message, err := x.open(binary, frame)
	if message == nil || err != nil {
		return nil, err
	}
	if text, ok := noise.HandshakeText(message); ok {
		return nil, s.rekeyed(text)
	}
	if !x.greeted && message[0] == noise.JSONID && headOf(message[1:]).Type == "client/hello" {
		x.greeted = true
		x.rehello <- struct{}{} // one per re-handshake, which the writer waits for
		return nil, nil
	}
	return message, nil
}

// rekeyed takes the client's answer to a re-handshake.
func (s *Session) rekeyed(text []byte) error {
	x := s.sealed
	x.mu.Lock()
	r := x.handshake
	x.handshake = nil
	x.mu.Unlock()
	if r == nil {
		return noise.ErrTurn
	}
	step, err := r.initiator.Feed(false, text)
	if err != nil {
		return err
	}
	x.in = step.Channel.Receive
	x.opened.Store(0)
	x.greeted = !s.wire.Old()
	x.now.Store(step.Channel)
	x.next <- step.Channel // the writer waits for it, or has ended
	if x.sealing.Rekeyed != nil {
		x.sealing.Rekeyed(s, r.credential)
	}
	return nil
}
