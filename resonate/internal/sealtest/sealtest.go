// Package sealtest is an encrypted speaker for tests: the client's halves of
// packages noise, dialect and pairing on a WebSocket.
package sealtest

import (
	"cmp"
	"crypto/rand"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/gorilla/websocket"

	"resonatebridge/resonate/internal/dialect"
	"resonatebridge/resonate/internal/noise"
	"resonatebridge/resonate/pairing"
	"resonatebridge/resonate/protocol"
)

// Speaker is a speaker over all its connections. Its fields are set before the
// first one, or with [Speaker.Set].
type Speaker struct {
	Identity pairing.Identity
	Suite    noise.Suite
	Dialect  dialect.Name
	Name     string
	Device   pairing.Device
	Book     pairing.Book // of servers
	Unpaired bool         // its unpaired access is on
	Hold     string       // what it waits for when it holds an attempt back
	Volume   int
	Mute     bool
	Silent   bool   // it never says how it is
	Codec    string // of the only format that it takes; empty: pcm
	Display  []protocol.ArtworkChannel

	mu sync.Mutex
}

// New makes a speaker with an identity and a pairing key of its own. It lets
// servers in unpaired and offers no code.
func New(name string) *Speaker {
	id, err := pairing.NewIdentity(rand.Reader)
	key, err2 := protocol.GeneratePSK(rand.Reader)
	if err := errors.Join(err, err2); err != nil {
		panic(err) // the CSPRNG never fails
	}
	return &Speaker{
		Identity: id, Name: name, Suite: noise.ChaChaPoly, Dialect: dialect.G2, Unpaired: true, Volume: 40,
		Device: pairing.Device{PairingKey: key},
	}
}

// ID is its client id.
func (s *Speaker) ID() string { return s.Identity.ID() }

// Token is its pairing token, as a person enters it.
func (s *Speaker) Token() string { return s.Device.Token(s.Identity.Public()).Reveal() }

// Set changes it while it is connected.
func (s *Speaker) Set(f func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f()
}

func (s *Speaker) hello() protocol.ClientHello {
	h := protocol.ClientHello{
		ClientID: s.ID(), Name: s.Name, Version: 1,
		Roles: []protocol.Role{protocol.RolePlayer, protocol.RoleController, protocol.RoleMetadata},
		Player: &protocol.PlayerSupport{
			Formats:        []protocol.Format{{Codec: cmp.Or(s.Codec, "pcm"), Channels: 2, SampleRate: 48000, BitDepth: 16}},
			BufferCapacity: 1_000_000, Commands: []protocol.PlayerCommandName{protocol.CommandVolume, protocol.CommandMute},
		},
		Trust: &protocol.ClientTrust{Methods: *s.Device.Methods(), Unpaired: s.Unpaired},
	}
	if s.Display != nil {
		h.Roles = append(h.Roles, protocol.RoleArtwork)
	}
	return h
}

// Conn is one connection of a speaker.
type Conn struct {
	*Speaker
	// Tamper, if not nil, replaces a frame that it sends by others, none at all
	// included. It is set before Run.
	Tamper func(frame []byte) [][]byte
	// Busy, if not nil, is called before it answers a re-handshake, and may say
	// something first.
	Busy func(say func(...protocol.ClientMessage) error)
	// Ignore: it answers no re-handshake.
	Ignore bool
	// Forgets: it keeps nothing of what it hears.
	Forgets bool
	// Hello, if not nil, is run in place of its hello.
	Hello func()

	ws   *websocket.Conn
	wire *dialect.ClientWire

	// Guarded by mu of the speaker.
	ch      *noise.Channel
	parts   noise.Assembler
	pair    *pairing.Client
	got     []protocol.ServerMessage
	art     [][]byte // messages of the artwork role
	closed  error    // why reading ended
	rekeyed []int    // how much it had got at each re-handshake
	roles   []protocol.Role
}

// Connect makes a connection of an open socket.
func (s *Speaker) Connect(ws *websocket.Conn) *Conn { return &Conn{Speaker: s, ws: ws} }

// Run is the life of the connection. It returns why it ended.
func (c *Conn) Run() error {
	defer c.ws.Close()
	err := c.run()
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closed = err
	if c.pair != nil {
		c.pair.Closed()
	}
	return err
}

func (c *Conn) run() error {
	var err error
	if c.wire, err = dialect.NewClient(c.Dialect); err != nil {
		return err
	}
	h, first := noise.NewHandshakeResponder(noise.ClientConfig{Identity: c.Identity, Suite: c.Suite, Keys: c.lookup, Old: c.Dialect == dialect.G1})
	if err := c.text(first); err != nil {
		return err
	}
	for c.channel() == nil {
		kind, data, err := c.ws.ReadMessage()
		if err != nil {
			return err
		}
		c.mu.Lock()
		step, err := h.Feed(kind == websocket.BinaryMessage, data)
		if err == nil && step.Channel != nil {
			c.ch = step.Channel
			c.pair = pairing.NewClient(&c.Device, c.ch.Pairing(c.Dialect == dialect.G1), c.Hold, rand.Reader)
		}
		c.mu.Unlock()
		if err != nil {
			return err
		}
		for _, m := range step.Send {
			if err := c.text(m); err != nil {
				return err
			}
		}
	}
	for {
		kind, data, err := c.ws.ReadMessage()
		if err != nil {
			return err
		}
		c.mu.Lock()
		err = c.frame(kind, data)
		c.mu.Unlock()
		if err != nil {
			return err
		}
	}
}

func (c *Conn) channel() *noise.Channel {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.ch
}

func (c *Conn) text(m []byte) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.ws.WriteMessage(websocket.TextMessage, m)
}

// lookup finds a key; the caller holds mu.
func (c *Conn) lookup(category pairing.Category, id string) (noise.Match, bool) {
	if category == pairing.PairingKey {
		own := pairing.Credential{PSK: c.Device.PairingKey, Category: category}
		return noise.Match{PSK: own.PSK}, own.Is(id)
	}
	r, ok := c.Book.Find(id)
	return noise.Match{PSK: r.PSK, Server: r.Peer}, ok
}

// frame takes one frame; the caller holds mu, as for all below.
func (c *Conn) frame(kind int, data []byte) error {
	if kind != websocket.BinaryMessage {
		return errors.New("a message in the clear")
	}
	message, err := c.ch.Receive.Open(data[:0], data)
	if err != nil {
		return err
	}
	if message, err = c.parts.Feed(message); message == nil {
		return err
	}
	if text, ok := noise.HandshakeText(message); ok {
		return c.rehandshake(text)
	}
	if id := message[0]; id >= 8 && id < 12 {
		c.art = append(c.art, append([]byte(nil), message...))
		return nil
	}
	m, err := c.wire.Decode(dialect.FrameOf(message))
	if err != nil {
		return err
	}
	if c.Forgets {
		return c.take(m)
	}
	if a, ok := m.(protocol.AudioChunk); ok { // its data is of the frame
		a.Data = append([]byte(nil), a.Data...)
		m = a
	}
	c.got = append(c.got, m)
	return c.take(m)
}

func (c *Conn) rehandshake(text []byte) error {
	if c.Ignore {
		return nil
	}
	if c.Busy != nil {
		c.Busy(c.send)
	}
	frame, next, err := c.ch.Answer(nil, text, c.lookup)
	if err != nil {
		return err
	}
	c.ch = next
	c.rekeyed = append(c.rekeyed, len(c.got))
	c.pair.Rekeyed(next.Pairing(c.Dialect == dialect.G1))
	return c.ws.WriteMessage(websocket.BinaryMessage, frame)
}

func (c *Conn) take(m protocol.ServerMessage) error {
	switch m := m.(type) {
	case protocol.ServerHello:
		if c.Hello != nil {
			go c.Hello() // owner: the test that gave it
			return nil
		}
		return c.seal(c.wire.Hello(c.hello()))
	case protocol.ServerActivate:
		return c.activated(m)
	case protocol.ServerCommand:
		switch m.Command {
		case protocol.CommandVolume:
			c.Volume = m.Volume
		case protocol.CommandMute:
			c.Mute = m.Mute
		case protocol.CommandSetOutputDelay:
		}
		return c.report()
	case protocol.ServerUnpair:
		if !c.ch.Category.Paired() {
			return nil
		}
		c.Book.Remove(c.ch.Peer)
		_ = c.send(protocol.ClientGoodbye{Reason: protocol.GoodbyeUnpaired})
		return errors.New("unpaired")
	case protocol.ServerPairInit, protocol.ServerPairAuth, protocol.ServerPairConfirm, protocol.ServerPairFinalize, protocol.PairAbort:
		out, err := c.pair.Receive(m)
		if err != nil {
			return err
		}
		if psk := c.pair.Result(); !psk.IsZero() {
			if err := c.Book.Put(pairing.Record{Peer: c.ch.Peer, PSK: psk, Paired: time.Now()}, nil); err != nil {
				return err
			}
		}
		return c.send(out...)
	}
	return nil
}

func (c *Conn) activated(m protocol.ServerActivate) error {
	switch c.Device.Judge(c.ch.Pairing(false), c.Unpaired, m) {
	case pairing.PairingRequired:
		_ = c.send(protocol.ClientGoodbye{Reason: protocol.GoodbyePairingRequired})
		return errors.New("pairing required")
	case pairing.Unauthorized:
		_ = c.send(protocol.ClientGoodbye{Reason: protocol.GoodbyeUnauthorized})
		return fmt.Errorf("unauthorized: %+v", m)
	case pairing.Admitted, pairing.MethodNotSupported:
	}
	out, err := c.pair.Activated(time.Now(), m)
	if err != nil {
		return err
	}
	if m.ActiveRoles != nil {
		c.roles = m.ActiveRoles
	}
	if len(c.roles) > 0 && !c.Silent {
		if err := c.report(); err != nil {
			return err
		}
	}
	return c.send(out...)
}

func (c *Conn) report() error {
	volume, mute := c.Volume, c.Mute
	var display *protocol.ArtworkSupport
	if c.Display != nil {
		display = &protocol.ArtworkSupport{Channels: c.Display}
	}
	return c.send(protocol.ClientState{
		Artwork:   display,
		Available: new(true),
		Player: &protocol.PlayerState{
			Volume: &volume, Muted: &mute, Commands: []protocol.PlayerCommandName{protocol.CommandVolume, protocol.CommandMute},
		},
	})
}

func (c *Conn) send(out ...protocol.ClientMessage) error {
	for _, m := range out {
		for _, f := range c.wire.Encode(m) {
			if err := c.seal(f); err != nil {
				return err
			}
		}
	}
	return nil
}

func (c *Conn) seal(f dialect.Frame) error {
	for part := range noise.Fragments(nil, f.AppendMessage(nil), c.Dialect == dialect.G1) {
		frame, err := c.ch.Send.Seal(nil, part)
		if err != nil {
			return err
		}
		frames := [][]byte{frame}
		if c.Tamper != nil {
			frames = c.Tamper(frame)
		}
		for _, x := range frames {
			if err := c.ws.WriteMessage(websocket.BinaryMessage, x); err != nil {
				return err
			}
		}
	}
	return nil
}

// --- for tests ---

// Send says messages.
func (c *Conn) Send(m ...protocol.ClientMessage) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.send(m...)
}

// SendMessage says a message as it is: an id and a body.
func (c *Conn) SendMessage(m []byte) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.seal(dialect.FrameOf(m))
}

// SetTamper changes Tamper while it runs.
func (c *Conn) SetTamper(f func(frame []byte) [][]byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.Tamper = f
}

// Raw writes a WebSocket message past the encryption.
func (c *Conn) Raw(kind int, data []byte) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.ws.WriteMessage(kind, data)
}

// Gesture is a person's act at the device, see [pairing.Device.Gesture].
func (c *Conn) Gesture() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.Device.Gesture(time.Now())
	out, err := c.pair.Tick(time.Now())
	if err != nil {
		return err
	}
	return c.send(out...)
}

// Cancel is a person's wish at the device.
func (c *Conn) Cancel() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.send(c.pair.Cancel()...)
}

// Code is the code that it shows.
func (c *Conn) Code() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.pair.Status().Code.Reveal()
}

// Category is that of its current key; empty before the handshake.
func (c *Conn) Category() pairing.Category {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.ch == nil {
		return ""
	}
	return c.ch.Category
}

// Rekeyed is how many messages it had got at each of its re-handshakes.
func (c *Conn) Rekeyed() []int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return append([]int(nil), c.rekeyed...)
}

// Got is what the server said so far.
func (c *Conn) Got() []protocol.ServerMessage {
	c.mu.Lock()
	defer c.mu.Unlock()
	return append([]protocol.ServerMessage(nil), c.got...)
}

// Ended is why the connection ended; nil while it lives.
func (c *Conn) Ended() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.closed
}

// Art are the messages of the artwork role so far, without their encryption.
func (c *Conn) Art() [][]byte {
	c.mu.Lock()
	defer c.mu.Unlock()
	return append([][]byte(nil), c.art...)
}

// Last is the newest message of a kind that the server said.
func Last[M protocol.ServerMessage](c *Conn) (m M, ok bool) {
	for _, x := range c.Got() {
		if y, is := x.(M); is {
			m, ok = y, true
		}
	}
	return m, ok
}

// All are the messages of a kind that the server said.
func All[M protocol.ServerMessage](c *Conn) (all []M) {
	for _, x := range c.Got() {
		if y, is := x.(M); is {
			all = append(all, y)
		}
	}
	return all
}
