package noise

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io"

	"resonatebridge/resonate/pairing"
	"resonatebridge/resonate/protocol"

	"github.com/flynn/noise"
)

// Step is what a message of the peer leads to.
type Step struct {
	Send    [][]byte // text messages, to be sent in this order
	Channel *Channel // not nil when the handshake is complete
}

// Channel is an encrypted connection under one set of keys. Its fields do not
// change; Send and Receive have an owner each.
type Channel struct {
	Peer     pairing.PublicKey
	Suite    Suite
	Category pairing.Category // of the key that both sides used
	// Mismatch says that the server referred to a key that the client does not
	// have, and that the Sentinel took its place. It is authenticated, but no
	// reason to drop a record. The server activates no roles while its own
	// record exists (spec: Sentinel Fallback).
	Mismatch bool
	Hash     [32]byte // of the handshake
	Send     *Sealer
	Receive  *Opener

	own    pairing.Identity
	random io.Reader
	old    bool // the peer is known to be of the generation before 1.0.0-rc1
}

// Pairing is what pairing needs to know of the channel. old says that the peer
// is of the generation before 1.0.0-rc1.
func (c *Channel) Pairing(old bool) pairing.Channel {
	return pairing.Channel{Hash: c.Hash, Category: c.Category, AEAD: c.Suite.AEAD, Old: old}
}

// state is a handshake under way. Its keys are behind a pointer, so that fmt
// does not reach them from what holds a state.
type state struct {
	hs   *noise.HandshakeState
	keys *struct{ static []byte } // our private key, which hs refers to
	base Channel
}

// begin starts a handshake for the channel that is to be. Own identity, peer and
// suite are known on both sides; the prologue binds what was said before.
func begin(base Channel, prologue []byte, initiator bool) (*state, error) {
	if base.random == nil {
		base.random = rand.Reader
	}
	static, public := base.own.PrivateKey(), base.own.Public()
	if static == nil {
		return nil, errors.New("noise: no identity")
	}
	hs, err := noise.NewHandshakeState(noise.Config{
		CipherSuite:           base.Suite.noise(),
		Random:                base.random,
		Pattern:               noise.HandshakeKK,
		Initiator:             initiator,
		Prologue:              prologue,
		PresharedKeyPlacement: 2,
		StaticKeypair:         noise.DHKey{Private: static, Public: public[:]},
		PeerStatic:            base.Peer[:],
	})
	if err != nil {
		clear(static)
		return nil, fmt.Errorf("noise: %w", err)
	}
	return &state{hs: hs, keys: &struct{ static []byte }{static}, base: base}, nil
}

// use sets the key of message 2.
func (s *state) use(psk protocol.PSK) error {
	key := psk.Bytes()
	defer clear(key)
	if err := s.hs.SetPresharedKey(key); err != nil {
		return fmt.Errorf("noise: %w", err)
	}
	return nil
}

// end makes the channel of the ciphers that the handshake has split into:
// server to client, client to server. server says which side this is.
func (s *state) end(down, up *noise.CipherState, category pairing.Category, mismatch, server bool) (*Channel, error) {
	defer s.wipe()
	toClient, err := newDirection(s.base.Suite, down.UnsafeKey())
	if err != nil {
		return nil, fmt.Errorf("noise: %w", err)
	}
	toServer, err := newDirection(s.base.Suite, up.UnsafeKey())
	if err != nil {
		return nil, fmt.Errorf("noise: %w", err)
	}
	c := s.base
	c.Category, c.Mismatch, c.Hash = category, mismatch, [32]byte(s.hs.ChannelBinding())
	c.Send, c.Receive = &Sealer{direction: toServer}, &Opener{toClient}
	if server {
		c.Send, c.Receive = &Sealer{direction: toClient}, &Opener{toServer}
	}
	return &c, nil
}

// wipe overwrites the private keys of the handshake.
func (s *state) wipe() {
	clear(s.keys.static)
	clear(s.hs.LocalEphemeral().Private)
}

// ServerConfig is what a server brings to a handshake.
type ServerConfig struct {
	Identity pairing.Identity
	// Choose picks the key for a client that has named itself, which proves
	// nothing yet. An error ends the handshake without a word.
	Choose func(client pairing.PublicKey) (pairing.Credential, error)
	Random io.Reader // a CSPRNG; nil means crypto/rand.Reader
}

// HandshakeInitiator is the server's side of a handshake.
type HandshakeInitiator struct {
	cfg      ServerConfig // of a first handshake
	state    *state       // after message 1
	used     pairing.Credential
	replaces *Channel // of a re-handshake
	over     bool
}

// NewHandshakeInitiator returns the server's side of a new connection, which
// waits for client/init.
func NewHandshakeInitiator(cfg ServerConfig) *HandshakeInitiator {
	return &HandshakeInitiator{cfg: cfg}
}

// Feed takes the next message of the client: client/init, then message 2. In a
// re-handshake it takes message 2, see [HandshakeText]. binary says that the
// WebSocket message is no text. After an error, or with a channel, it is over.
func (h *HandshakeInitiator) Feed(binary bool, text []byte) (Step, error) {
	if h.over {
		return Step{}, ErrTurn
	}
	var step Step
	var err error
	if h.state == nil {
		step, err = h.open(binary, text)
	} else {
		step, err = h.finish(binary, text)
	}
	if h.over = err != nil || step.Channel != nil; h.over && h.state != nil {
		h.state.wipe()
	}
	return step, err
}

// open answers client/init with server/init and message 1.
func (h *HandshakeInitiator) open(binary bool, text []byte) (Step, error) {
	init, err := parseClientInit(binary, text)
	if err != nil {
		return Step{}, err
	}
	credential, err := h.cfg.Choose(init.client)
	if err != nil {
		return Step{}, fmt.Errorf("noise: client %s: %w", init.client, err)
	}
	answer := formatServerInit(h.cfg.Identity.Public())
	base := Channel{Peer: init.client, Suite: init.suite, own: h.cfg.Identity, random: h.cfg.Random}
	message, err := h.begin(base, append(append([]byte(nil), text...), answer...), credential)
	if err != nil {
		return Step{}, err
	}
	return Step{Send: [][]byte{answer, message}}, nil
}

// begin makes message 1.
func (h *HandshakeInitiator) begin(base Channel, prologue []byte, c pairing.Credential) ([]byte, error) {
	if c.PSK.IsZero() || !c.Category.Valid() {
		return nil, fmt.Errorf("%w: no credential", ErrUnknownPSK)
	}
	s, err := begin(base, prologue, true)
	if err != nil {
		return nil, err
	}
	message, _, _, err := s.hs.WriteMessage(nil, formatReference(c))
	if err != nil { // a client id of low order, for instance
		s.wipe()
		return nil, fmt.Errorf("%w: message 1: %w", ErrHandshake, err)
	}
	h.state, h.used = s, c
	return formatHandshake(message), nil
}

// finish takes message 2. It is read with the key that message 1 referred to;
// in a first handshake, if that fails, with the Sentinel: then the client, and
// nobody else, says that it does not have the key.
func (h *HandshakeInitiator) finish(binary bool, text []byte) (Step, error) {
	if binary {
		return Step{}, malformed("a binary message in the handshake")
	}
	message, err := parseHandshake(text)
	if err != nil {
		return Step{}, err
	}
	payload, down, up, err := h.read(message, h.used)
	mismatch := false
	if err != nil && h.replaces == nil && h.used.Category != pairing.SentinelID {
		h.used, mismatch = pairing.Sentinel(), true
		payload, down, up, err = h.read(message, h.used)
	}
	if err != nil {
		return Step{}, fmt.Errorf("%w: message 2", ErrHandshake)
	}
	if _, ok := parseObject(payload); !ok {
		return Step{}, malformed("the payload of Noise message 2 is no JSON object")
	}
	c, err := h.state.end(down, up, h.used.Category, mismatch, true)
	if err != nil {
		return Step{}, err
	}
	if h.replaces != nil {
		h.replaces.Receive.retire() // message 2 is the client's last one under the old keys
	}
	return Step{Channel: c}, nil
}

// read tries a key on message 2. The library takes back what a failed try has
// mixed in, so another key may follow.
func (h *HandshakeInitiator) read(message []byte, c pairing.Credential) ([]byte, *noise.CipherState, *noise.CipherState, error) {
	if err := h.state.use(c.PSK); err != nil {
		return nil, nil, nil, err
	}
	return h.state.hs.ReadMessage(nil, message)
}

// Rehandshake begins to replace the keys of a server's channel by such that
// credential protects. It appends the frame with message 1 to dst, which is the
// last one of c.Send: the writer calls it, after any stream/end that the next
// activation needs, and has nothing more to send until the next channel is
// there. c.Receive goes on until Feed of the result, called by the reader with
// the client's answer, returns that channel. Its first message is
// server/activate.
//
// The error says that nothing was sealed; c stays as it is.
func (c *Channel) Rehandshake(dst []byte, credential pairing.Credential) (frame []byte, h *HandshakeInitiator, err error) {
	h = &HandshakeInitiator{replaces: c}
	message, err := h.begin(c.base(), c.Hash[:], credential)
	if err != nil {
		return dst, nil, err
	}
	frame, err = c.Send.sealLast(dst, append([]byte{JSONID}, message...))
	if err != nil {
		h.state.wipe()
		return dst, nil, err
	}
	return frame, h, nil
}

// base is what a re-handshake keeps.
func (c *Channel) base() Channel {
	return Channel{Peer: c.Peer, Suite: c.Suite, own: c.own, random: c.random, old: c.old}
}

// Match is a key of a client.
type Match struct {
	PSK    protocol.PSK
	Server pairing.PublicKey // with [pairing.LongTerm]: whose it is
}

// Lookup finds the key of a category by its psk_id. A client's pairing key is
// always among them; the Sentinel needs no lookup.
type Lookup func(category pairing.Category, pskID string) (Match, bool)

// ClientConfig is what a client brings to a handshake.
type ClientConfig struct {
	Identity pairing.Identity
	Suite    Suite
	Keys     Lookup
	Random   io.Reader // a CSPRNG; nil means crypto/rand.Reader
	// Old makes a client of the generation before 1.0.0-rc1: keys have no
	// categories, and there is no Sentinel in place of an unknown key.
	Old bool
}

// HandshakeResponder is the client's side of a handshake.
type HandshakeResponder struct {
	cfg    ClientConfig
	init   []byte // client/init, as it was sent
	server []byte // server/init, as it came
	peer   pairing.PublicKey
	over   bool
}

// NewHandshakeResponder returns the client's side of a new connection and the
// client/init, which is sent first.
func NewHandshakeResponder(cfg ClientConfig) (h *HandshakeResponder, clientInit []byte) {
	h = &HandshakeResponder{cfg: cfg, init: formatClientInit(cfg.Identity.Public(), cfg.Suite)}
	return h, append([]byte(nil), h.init...)
}

// Feed takes the next message of the server: server/init, then message 1. After
// an error, or with a channel, it is over. The error is a [*RefusedError] if
// the server has said why it refuses.
func (h *HandshakeResponder) Feed(binary bool, text []byte) (Step, error) {
	if h.over {
		return Step{}, ErrTurn
	}
	step, err := h.feed(binary, text)
	h.over = err != nil || step.Channel != nil
	return step, err
}

func (h *HandshakeResponder) feed(binary bool, text []byte) (Step, error) {
	if binary {
		return Step{}, malformed("a binary message in the handshake")
	}
	if h.server == nil {
		peer, err := parseServerInit(text)
		if err != nil {
			return Step{}, err
		}
		h.peer, h.server = peer, append([]byte(nil), text...)
		return Step{}, nil
	}
	base := Channel{Peer: h.peer, Suite: h.cfg.Suite, own: h.cfg.Identity, random: h.cfg.Random, old: h.cfg.Old}
	answer, c, err := respond(base, append(h.init, h.server...), text, h.cfg.Keys, !h.cfg.Old)
	if err != nil {
		return Step{}, err
	}
	return Step{Send: [][]byte{answer}, Channel: c}, nil
}

// respond reads message 1 and makes message 2. sentinel says that the Sentinel
// may stand in for a key that is not here.
func respond(base Channel, prologue, text []byte, keys Lookup, sentinel bool) ([]byte, *Channel, error) {
	message, err := parseHandshake(text)
	if err != nil {
		return nil, nil, err
	}
	s, err := begin(base, prologue, false)
	if err != nil {
		return nil, nil, err
	}
	defer s.wipe()
	payload, _, _, err := s.hs.ReadMessage(nil, message)
	if err != nil {
		return nil, nil, fmt.Errorf("%w: message 1", ErrHandshake)
	}
	ref, err := parseReference(payload)
	if err != nil {
		return nil, nil, err
	}
	used, found, err := find(ref, base, keys)
	if err != nil {
		return nil, nil, err
	}
	if !found {
		if !sentinel {
			return nil, nil, ErrUnknownPSK
		}
		used = pairing.Sentinel()
	}
	if err := s.use(used.PSK); err != nil {
		return nil, nil, err
	}
	answer, down, up, err := s.hs.WriteMessage(nil, []byte("{}"))
	if err != nil {
		return nil, nil, fmt.Errorf("%w: message 2: %w", ErrHandshake, err)
	}
	c, err := s.end(down, up, used.Category, !found, false)
	if err != nil {
		return nil, nil, err
	}
	return formatHandshake(answer), c, nil
}

// find is the key that the server refers to. A key of another server is an
// error, never a miss (spec: Sentinel Fallback).
func find(ref reference, base Channel, keys Lookup) (pairing.Credential, bool, error) {
	categories := []pairing.Category{ref.category}
	if base.old {
		categories = []pairing.Category{pairing.LongTerm, pairing.PairingKey, pairing.SentinelID}
	} else if ref.category == "" {
		return pairing.Credential{}, false, malformed("the payload of Noise message 1 has no psk_category")
	}
	for _, category := range categories {
		if category == pairing.SentinelID {
			if s := pairing.Sentinel(); s.Is(ref.id) {
				return s, true, nil
			}
			continue
		}
		if keys == nil {
			continue
		}
		m, ok := keys(category, ref.id)
		if !ok {
			continue
		}
		if category == pairing.LongTerm && m.Server != base.Peer {
			return pairing.Credential{}, false, ErrMisbound
		}
		return pairing.Credential{PSK: m.PSK, Category: category}, true, nil
	}
	return pairing.Credential{}, false, nil
}

// Answer replaces the keys of a client's channel as the server wishes: text is
// its message 1, see [HandshakeText]. It appends the frame with message 2 to
// dst, which is the last one of c.Send, and returns the next channel, whose
// Receive opens all that the server sends from now on. Nothing but the frame
// is to be sent before the next server/activate.
//
// Keys are looked up as in the first handshake, but the Sentinel stands in for
// none. The reader opens nothing meanwhile. An error ends the connection,
// without a word.
func (c *Channel) Answer(dst, text []byte, keys Lookup) (frame []byte, next *Channel, err error) {
	answer, next, err := respond(c.base(), c.Hash[:], text, keys, false)
	if err != nil {
		return dst, nil, err
	}
	frame, err = c.Send.sealLast(dst, append([]byte{JSONID}, answer...))
	if err != nil {
		return dst, nil, err
	}
	c.Receive.retire()
	return frame, next, nil
}
