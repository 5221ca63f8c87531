package pairing

import (
	"crypto/subtle"
	"io"
	"time"

	"resonatebridge/resonate/protocol"
)

// Client is the client's side of pairing on one connection. [NewClient] makes
// it; a re-handshake is told by [Client.Rekeyed], the end of the connection by
// [Client.Closed]. Time-outs, and attempts that were held back, need
// [Client.Tick].
//
// Each method returns the messages that are to be sent, in order. An error is
// a [*ProtocolError].
type Client struct {
	device *Device
	ch     Channel
	random io.Reader
	// hold is what is sent while an attempt waits for a gesture.
	hold string

	index uint32 // pairing activations since the handshake, also refused ones
	st    Status
	limit deadline
	// aborted says that the server may not know yet that the attempt is over.
	aborted bool

	x hidden[clientExchange]
}

// clientExchange is what a client holds during an attempt.
type clientExchange struct {
	nonceA  [protocol.NonceSize]byte
	nonceB  [protocol.NonceSize]byte
	code    Code // of this attempt, wiped after it
	inRound bool // server/pair-init of the round came
	agreed  *agreement
	result  protocol.PSK
}

func (x *clientExchange) wipe() {
	x.code.wipe()
	x.agreed.wipe()
	*x = clientExchange{}
}

// NewClient returns the client's side on a connection. hold tells a person at
// the server what an attempt waits for that is held back, in at most
// [protocol.PairMessageMax] characters. random must be a CSPRNG, such as
// crypto/rand.Reader.
func NewClient(d *Device, ch Channel, hold string, random io.Reader) *Client {
	return &Client{device: d, ch: ch, hold: hold, random: random, x: hide(new(clientExchange))}
}

// Rekeyed says that a re-handshake has replaced the keys.
func (c *Client) Rekeyed(ch Channel) {
	c.leave()
	c.ch, c.index, c.aborted = ch, 0, false
}

// Closed says that the connection has ended, and with it a window of its own.
func (c *Client) Closed() {
	c.leave()
	if c.device.window.owner == c {
		c.device.closeWindow()
	}
}

// Status is where the latest attempt stands, with the code that is to be shown.
func (c *Client) Status() Status { return c.st }

// InProgress reports whether an attempt goes on that another connection must
// not displace; one that is held back is none.
func (c *Client) InProgress() bool { return c.st.Phase.live() && c.st.Phase != PhasePending }

// Deadline is when [Client.Tick] has something to do, zero for never.
func (c *Client) Deadline() time.Time {
	if !c.InProgress() {
		return time.Time{}
	}
	return c.limit.at
}

// Result is the new long-term key in [PhaseDone], which the caller stores at
// once: the next activation forgets it. Else there is none.
func (c *Client) Result() protocol.PSK {
	x := c.x.get()
	if c.st.Phase != PhaseDone {
		return protocol.PSK{}
	}
	return x.result
}

// Activated takes each server/activate that the client admits otherwise. It
// ends any attempt, and begins one if m declares pairing.
func (c *Client) Activated(now time.Time, m protocol.ServerActivate) ([]protocol.ClientMessage, error) {
	c.leave()
	c.aborted = false
	if !m.Has(protocol.ActivityPairing) {
		return nil, nil
	}
	c.index++
	c.st = Status{Phase: PhaseWaiting}
	if m.Pairing != nil {
		c.st.Choice = *m.Pairing
	}
	if !c.device.Methods().Offers(c.st.Choice) || !c.ch.supports(c.st.Choice.Method) {
		return c.abort(protocol.AbortMethodNotSupported), nil
	}
	if !c.device.admits(c, c.st.Choice.Method, now) {
		c.st.Phase = PhasePending
		return []protocol.ClientMessage{protocol.ClientPairPending{Index: c.index, Message: c.hold}}, nil
	}
	return c.begin(now)
}

// begin starts the attempt.
func (c *Client) begin(now time.Time) ([]protocol.ClientMessage, error) {
	x := c.x.get()
	c.limit.set(now, attemptTimeout)
	start := protocol.ClientPairInit{Index: c.index}
	switch c.st.Choice.Method {
	case protocol.PairByPSK:
		psk, err := protocol.GeneratePSK(c.random)
		if err != nil {
			return nil, c.fail(&ProtocolError{Problem: "key", Err: err})
		}
		x.result = psk
		c.st.Phase = PhaseStoring
		out := []protocol.ClientMessage{start, protocol.ClientPairFinalize{LongTerm: psk}}
		if c.ch.Old {
			out = out[1:]
		}
		return out, nil
	case protocol.PairByDynamicCode:
		if _, err := io.ReadFull(c.random, x.nonceB[:]); err != nil {
			return nil, c.fail(&ProtocolError{Problem: "nonce", Err: err})
		}
		commit := commitment(x.nonceB)
		start.Commitment = &commit
		c.st.Phase = PhaseWaiting
	case protocol.PairByStaticCode:
		x.code = c.device.Static.clone()
		x.inRound = true
		c.st.Phase, c.st.Round = PhaseCode, 1
	}
	return []protocol.ClientMessage{start}, nil
}

// Tick ends an attempt whose time is up, and begins one that was held back and
// is no longer.
func (c *Client) Tick(now time.Time) ([]protocol.ClientMessage, error) {
	switch {
	case c.st.Phase == PhasePending:
		if c.device.admits(c, c.st.Choice.Method, now) {
			return c.begin(now)
		}
	case c.InProgress() && c.limit.passed(now):
		return c.abort(protocol.AbortTimeout), nil
	}
	return nil, nil
}

// Cancel ends an attempt as a person at the device wishes; it closes the window.
func (c *Client) Cancel() []protocol.ClientMessage {
	if c.device.window.owner == c {
		c.device.closeWindow()
	}
	if !c.st.Phase.live() {
		return nil
	}
	return c.abort(protocol.AbortUserCancelled)
}

// Displace ends an attempt since the client gives up the connection for
// another one, which it closes after the message.
func (c *Client) Displace() []protocol.ClientMessage { return c.abort(protocol.AbortConcurrent) }

func (c *Client) abort(why protocol.AbortReason) []protocol.ClientMessage {
	c.end(End(why))
	c.aborted = true
	return []protocol.ClientMessage{protocol.PairAbort{Reason: why}}
}

// Receive takes a pairing message of the server; others are none of its
// business.
func (c *Client) Receive(m protocol.ServerMessage) ([]protocol.ClientMessage, error) {
	if a, ok := m.(protocol.PairAbort); ok {
		if c.st.Phase.live() {
			c.end(End(a.Reason))
		}
		return nil, nil
	}
	if c.aborted {
		return nil, nil // until the next activation
	}
	switch m := m.(type) {
	case protocol.ServerPairInit:
		return c.round(m)
	case protocol.ServerPairAuth:
		return c.share(m)
	case protocol.ServerPairConfirm:
		return c.confirm(m)
	case protocol.ServerPairFinalize:
		return c.finalize(m)
	}
	return nil, c.fail(outOfSequence(m, c.st.Phase))
}

// round begins a round: the code is shown, in the first one made.
func (c *Client) round(m protocol.ServerPairInit) ([]protocol.ClientMessage, error) {
	x := c.x.get()
	if c.st.Choice.Method != protocol.PairByDynamicCode || c.st.Phase != PhaseWaiting {
		return nil, c.fail(outOfSequence(m, c.st.Phase))
	}
	if (c.st.Round == 0) != (m.Nonce != nil) {
		return nil, c.fail(protocolError("server/pair-init: nonce_A belongs to the first round and to no other"))
	}
	if m.Nonce != nil {
		x.nonceA = *m.Nonce
		x.code = deriveCode(c.st.Choice.Format, c.ch.Hash, x.nonceA, x.nonceB)
		c.st.Code = x.code.clone() // people see it: never wiped under their hands
	}
	c.device.Rounds++ // counts once the code is shown, whatever comes of it
	c.st.Round++
	c.st.Phase = PhaseCode
	x.inRound = true
	return nil, nil
}

func (c *Client) share(m protocol.ServerPairAuth) ([]protocol.ClientMessage, error) {
	x := c.x.get()
	if c.st.Phase != PhaseCode || !x.inRound {
		return nil, c.fail(outOfSequence(m, c.st.Phase))
	}
	x.inRound = false
	run, err := newExchange(c.random, x.code, sessionID(c.ch.Hash, c.index, c.st.Round))
	if err != nil {
		return nil, c.fail(&ProtocolError{Problem: "key exchange", Err: err})
	}
	share := run.share
	if x.agreed, err = run.agree(m.Share, false); err != nil {
		return nil, c.fail(&ProtocolError{Problem: "server/pair-auth", Err: err})
	}
	c.st.Phase = PhaseChecking
	return []protocol.ClientMessage{protocol.ClientPairAuth{Share: share}}, nil
}

func (c *Client) confirm(m protocol.ServerPairConfirm) ([]protocol.ClientMessage, error) {
	x := c.x.get()
	if c.st.Phase != PhaseChecking || x.agreed == nil {
		return nil, c.fail(outOfSequence(m, c.st.Phase))
	}
	dynamic := c.st.Choice.Method == protocol.PairByDynamicCode
	if subtle.ConstantTimeCompare(m.Tag[:], x.agreed.serverT[:]) != 1 {
		return c.wrongCode(dynamic), nil
	}
	c.device.Rounds = 0
	defer x.agreed.wipe()
	psk, err := protocol.GeneratePSK(c.random)
	if err != nil {
		return nil, c.fail(&ProtocolError{Problem: "key", Err: err})
	}
	proof := protocol.ClientPairConfirm{Tag: x.agreed.clientT}
	if dynamic {
		if proof.WrappedNonce, err = x.agreed.wrap(c.ch, wrapNonce, x.nonceB[:]); err != nil {
			return nil, c.fail(&ProtocolError{Problem: "wrapped_nonce_B", Err: err})
		}
	}
	key := psk.Bytes()
	defer clear(key)
	wrapped, err := x.agreed.wrap(c.ch, wrapPSK, key)
	if err != nil {
		return nil, c.fail(&ProtocolError{Problem: "wrapped_psk", Err: err})
	}
	x.result = psk
	x.agreed = nil
	c.st.Phase = PhaseStoring
	c.st.Code = Code{} // shown no longer
	return []protocol.ClientMessage{proof, protocol.ClientPairFinalize{Wrapped: wrapped}}, nil
}

// wrongCode asks for another round or ends the attempt.
func (c *Client) wrongCode(dynamic bool) []protocol.ClientMessage {
	x := c.x.get()
	x.agreed.wipe()
	x.agreed = nil
	switch {
	case !dynamic:
		c.device.wrongStaticCode()
	case c.device.Rounds < RoundLimit:
		c.st.Phase = PhaseWaiting
		return []protocol.ClientMessage{protocol.ClientPairRetry{}}
	}
	return c.abort(protocol.AbortCodeMismatch)
}

func (c *Client) finalize(m protocol.ServerPairFinalize) ([]protocol.ClientMessage, error) {
	x := c.x.get()
	if c.st.Phase != PhaseStoring {
		return nil, c.fail(outOfSequence(m, c.st.Phase))
	}
	result := x.result
	x.wipe()
	x.result = result
	c.st.Phase = PhaseDone
	if c.device.window.owner == c {
		c.device.closeWindow()
	}
	return nil, nil
}

// leave ends an attempt as the server wishes; nothing is kept of it.
func (c *Client) leave() {
	x := c.x.get()
	if c.st.Phase.live() {
		c.end(EndLeft)
	}
	x.result = protocol.PSK{}
}

func (c *Client) fail(err error) error {
	c.end(EndProtocol)
	return err
}

func (c *Client) end(why End) {
	c.x.get().wipe()
	c.st = Status{Phase: PhaseEnded, Choice: c.st.Choice, Round: c.st.Round, Ended: why}
}
