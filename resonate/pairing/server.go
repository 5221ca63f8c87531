package pairing

import (
	"crypto/subtle"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"
	"unicode"

	"resonatebridge/resonate/protocol"
)

// Time-outs of the server. Those for an attempt are longer than the client's
// two minutes, so that the client's abort, which gives a reason, comes first.
const (
	serverFirstTimeout   = 60 * time.Second  // for the client's first message
	serverPendingTimeout = 360 * time.Second // after it said that it holds back
	serverAttemptTimeout = 180 * time.Second // for all the rest
)

// ErrOutdated says that a client's way of pairing by code is not served.
var ErrOutdated = errors.New("pairing: this speaker's way of pairing by code is older than 1.0.0-rc1: update the speaker, or pair by its token")

// ErrChoice says that a method can't be used on this connection.
var ErrChoice = errors.New("pairing: this method can't be used on this connection")

// Server is the server's side of pairing on one connection. [NewServer] makes
// it; a re-handshake is told by [Server.Rekeyed]. Time-outs need [Server.Tick].
//
// Each method returns the messages that are to be sent, in order. An error is
// a [*ProtocolError] unless it says otherwise.
type Server struct {
	ch     Channel
	offers *protocol.PairMethods
	random io.Reader

	index uint32 // pairing activations since the handshake
	// stale says that messages of an attempt that has ended may still arrive.
	stale bool
	st    Status
	limit deadline

	x      hidden[serverExchange]
	result protocol.PSK
}

// serverExchange is what a server holds during an attempt.
type serverExchange struct {
	psk    protocol.PSK // the client's pairing key, with PairByPSK
	code   Code         // as entered
	nonceA [protocol.NonceSize]byte
	commit [protocol.CommitmentSize]byte
	run    *exchange
	agreed *agreement
	proven bool // the client's confirmation was right
}

func (x *serverExchange) wipe() {
	x.code.wipe()
	x.agreed.wipe()
	*x = serverExchange{}
}

// NewServer returns the server's side for a client with these methods. random
// must be a CSPRNG, such as crypto/rand.Reader.
func NewServer(ch Channel, offers *protocol.PairMethods, random io.Reader) *Server {
	return &Server{ch: ch, offers: offers, random: random, x: hide(new(serverExchange))}
}

// Rekeyed says that a re-handshake has replaced the keys. Any attempt is over;
// the next activation is the first one again.
func (s *Server) Rekeyed(ch Channel) {
	if s.st.Phase.live() {
		s.end(EndLeft)
	}
	s.ch, s.index, s.stale = ch, 0, false
}

// Status is where the latest attempt stands.
func (s *Server) Status() Status { return s.st }

// Deadline is when [Server.Tick] has something to do, zero for never.
func (s *Server) Deadline() time.Time {
	if !s.st.Phase.live() {
		return time.Time{}
	}
	return s.limit.at
}

// Activate begins an attempt, which supersedes any other. The caller sends the
// server/activate that holds choice right after. psk is the client's pairing
// key with [protocol.PairByPSK], whose handshake it has keyed.
//
// The error is [ErrChoice] if the connection's key or the client's offer does
// not permit the choice, or [ErrOutdated]; nothing has begun then.
func (s *Server) Activate(now time.Time, choice protocol.PairingChoice, psk protocol.PSK) error {
	byPSK := choice.Method == protocol.PairByPSK
	switch {
	case !s.offers.Offers(choice):
		return fmt.Errorf("%w: the client does not offer it", ErrChoice)
	case s.ch.Old && !byPSK:
		return ErrOutdated
	case !s.ch.supports(choice.Method) || byPSK && psk.IsZero():
		return fmt.Errorf("%w: a token needs a connection keyed by it, a code one that is keyed by nothing", ErrChoice)
	}
	if s.st.Phase.live() {
		s.end(EndSuperseded)
	}
	s.result = protocol.PSK{}
	s.index++
	s.x.get().psk = psk
	s.st = Status{Phase: PhaseWaiting, Choice: choice}
	s.limit.set(now, serverFirstTimeout)
	return nil
}

// Leave ends an attempt, since the server declares something else now. What
// the client still sends of it is discarded.
func (s *Server) Leave() {
	if s.st.Phase.live() {
		s.end(EndLeft)
	}
}

// Cancel ends an attempt as a person wishes. The caller sends an activation
// without pairing after the message, if there is one.
func (s *Server) Cancel() []protocol.ServerMessage {
	if !s.st.Phase.live() {
		return nil
	}
	s.end(End(protocol.AbortUserCancelled))
	return []protocol.ServerMessage{protocol.PairAbort{Reason: protocol.AbortUserCancelled}}
}

// Tick ends an attempt whose time is up and reports whether it did. There is no
// message for that: the caller sends an activation without pairing.
func (s *Server) Tick(now time.Time) bool {
	if !s.st.Phase.live() || !s.limit.passed(now) {
		return false
	}
	s.end(EndNoAnswer)
	return true
}

// Enter takes the code that a person entered. With a static code it may come
// before the client has begun. The error is [ErrNoCode], or an [*InputError]
// after which the person tries again; neither ends the attempt.
func (s *Server) Enter(input string) ([]protocol.ServerMessage, error) {
	x := s.x.get()
	early := s.st.Choice.Method == protocol.PairByStaticCode && (s.st.Phase == PhaseWaiting || s.st.Phase == PhasePending)
	if s.st.Phase != PhaseCode && !early {
		return nil, ErrNoCode
	}
	c, err := ParseCode(s.st.Choice, input)
	if err != nil {
		return nil, err
	}
	x.code.wipe()
	x.code = c
	if early {
		return nil, nil
	}
	return s.authenticate()
}

// authenticate begins the PAKE of a round: the code is there.
func (s *Server) authenticate() ([]protocol.ServerMessage, error) {
	x := s.x.get()
	run, err := newExchange(s.random, x.code, sessionID(s.ch.Hash, s.index, s.st.Round))
	if err != nil {
		return nil, s.fail(&ProtocolError{Problem: "key exchange", Err: err})
	}
	x.run = run
	s.st.Phase = PhaseChecking
	return []protocol.ServerMessage{protocol.ServerPairAuth{Share: run.share}}, nil
}

// Receive takes a pairing message of the client; others are none of its
// business. In [PhaseStoring] the caller stores the key of [Server.Result] and
// calls [Server.Stored].
func (s *Server) Receive(now time.Time, m protocol.ClientMessage) ([]protocol.ServerMessage, error) {
	if s.index == 0 {
		return nil, protocolError("%T, and no pairing was asked for", m)
	}
	switch m := m.(type) {
	case protocol.ClientPairPending:
		return s.pending(now, m)
	case protocol.ClientPairInit:
		return s.init(now, m)
	case protocol.PairAbort:
		if s.st.Phase.live() {
			s.end(End(m.Reason))
		}
		return nil, nil
	}
	// The rest carries no index. Before the client has begun, and when the
	// attempt is over, it belongs to an attempt that has ended.
	switch s.st.Phase {
	case PhaseWaiting, PhasePending:
		if f, ok := m.(protocol.ClientPairFinalize); ok && s.ch.Old && !f.LongTerm.IsZero() {
			return s.finalize(f) // it knows no pair-init
		}
		if s.stale {
			return nil, nil
		}
		return nil, s.fail(outOfSequence(m, s.st.Phase))
	case PhaseNone, PhaseEnded:
		return nil, nil
	default:
	}
	switch m := m.(type) {
	case protocol.ClientPairAuth:
		return s.share(m)
	case protocol.ClientPairRetry:
		return s.retry(m)
	case protocol.ClientPairConfirm:
		return s.confirm(m)
	case protocol.ClientPairFinalize:
		return s.finalize(m)
	}
	return nil, s.fail(outOfSequence(m, s.st.Phase))
}

// current checks the index of a message that begins an attempt.
func (s *Server) current(m protocol.ClientMessage, index uint32) (bool, error) {
	switch {
	case index > s.index:
		return false, s.fail(protocolError("pairing_index: got %d, and there were %d activations", index, s.index))
	case index < s.index || !s.st.Phase.live():
		return false, nil // of an attempt that is over
	case s.st.Phase != PhaseWaiting && s.st.Phase != PhasePending:
		return false, s.fail(outOfSequence(m, s.st.Phase))
	}
	return true, nil
}

func (s *Server) pending(now time.Time, m protocol.ClientPairPending) ([]protocol.ServerMessage, error) {
	if ok, err := s.current(m, m.Index); !ok {
		return nil, err
	}
	if s.st.Choice.Method == protocol.PairByPSK {
		return nil, s.fail(outOfSequence(m, s.st.Phase))
	}
	if s.st.Phase == PhaseWaiting { // a client that repeats itself gains no time
		s.limit.set(now, serverPendingTimeout)
	}
	s.st.Phase, s.st.Message = PhasePending, plain(m.Message)
	return nil, nil
}

// plain makes a peer's text safe to show: no control characters, not too long.
func plain(text string) string {
	n := 0
	return strings.TrimSpace(strings.Map(func(r rune) rune {
		if unicode.IsControl(r) || unicode.Is(unicode.Cf, r) || n >= protocol.PairMessageMax {
			return -1
		}
		n++
		return r
	}, text))
}

func (s *Server) init(now time.Time, m protocol.ClientPairInit) ([]protocol.ServerMessage, error) {
	x := s.x.get()
	if ok, err := s.current(m, m.Index); !ok {
		return nil, err
	}
	dynamic := s.st.Choice.Method == protocol.PairByDynamicCode
	if dynamic != (m.Commitment != nil) {
		return nil, s.fail(protocolError("client/pair-init: commit_B belongs to a dynamic code and to nothing else"))
	}
	s.limit.set(now, serverAttemptTimeout)
	s.st.Message = ""
	s.stale = false
	switch {
	case s.st.Choice.Method == protocol.PairByPSK:
		s.st.Phase = PhaseChecking
		return nil, nil
	case dynamic:
		x.commit = *m.Commitment
		if _, err := io.ReadFull(s.random, x.nonceA[:]); err != nil {
			return nil, s.fail(&ProtocolError{Problem: "nonce", Err: err})
		}
		s.st.Phase, s.st.Round = PhaseCode, 1
		nonce := x.nonceA
		return []protocol.ServerMessage{protocol.ServerPairInit{Nonce: &nonce}}, nil
	}
	s.st.Phase, s.st.Round = PhaseCode, 1
	if x.code.IsZero() {
		return nil, nil
	}
	return s.authenticate()
}

func (s *Server) share(m protocol.ClientPairAuth) ([]protocol.ServerMessage, error) {
	x := s.x.get()
	if s.st.Phase != PhaseChecking || x.run == nil {
		return nil, s.fail(outOfSequence(m, s.st.Phase))
	}
	agreed, err := x.run.agree(m.Share, true)
	x.run = nil
	if err != nil {
		return nil, s.fail(&ProtocolError{Problem: "client/pair-auth", Err: err})
	}
	x.agreed = agreed
	return []protocol.ServerMessage{protocol.ServerPairConfirm{Tag: agreed.serverT}}, nil
}

// retry begins another round: the client found the code wrong.
func (s *Server) retry(m protocol.ClientPairRetry) ([]protocol.ServerMessage, error) {
	x := s.x.get()
	if x.agreed == nil || x.proven || s.st.Choice.Method != protocol.PairByDynamicCode {
		return nil, s.fail(outOfSequence(m, s.st.Phase))
	}
	x.agreed.wipe()
	x.agreed = nil
	x.code.wipe()
	x.code = Code{}
	s.st.Phase = PhaseCode
	s.st.Round++
	return []protocol.ServerMessage{protocol.ServerPairInit{}}, nil
}

func (s *Server) confirm(m protocol.ClientPairConfirm) ([]protocol.ServerMessage, error) {
	x := s.x.get()
	if x.agreed == nil || x.proven {
		return nil, s.fail(outOfSequence(m, s.st.Phase))
	}
	dynamic := s.st.Choice.Method == protocol.PairByDynamicCode
	if dynamic != (m.WrappedNonce != nil) {
		return nil, s.fail(protocolError("client/pair-confirm: wrapped_nonce_B belongs to a dynamic code and to nothing else"))
	}
	if subtle.ConstantTimeCompare(m.Tag[:], x.agreed.clientT[:]) != 1 {
		s.end(End(protocol.AbortCodeMismatch))
		return []protocol.ServerMessage{protocol.PairAbort{Reason: protocol.AbortCodeMismatch}}, nil
	}
	if dynamic {
		if err := s.open(m.WrappedNonce); err != nil {
			return nil, s.fail(err)
		}
	}
	x.proven = true
	return nil, nil
}

// open checks the client's nonce against its commitment, and the entered code
// against the handshake.
func (s *Server) open(wrapped *[protocol.WrappedSize]byte) *ProtocolError {
	x := s.x.get()
	raw, err := x.agreed.unwrap(s.ch, wrapNonce, wrapped)
	if err != nil {
		return &ProtocolError{Problem: "wrapped_nonce_B", Err: err}
	}
	defer clear(raw)
	nonceB := [protocol.NonceSize]byte(raw)
	defer clear(nonceB[:])
	if commit := commitment(nonceB); subtle.ConstantTimeCompare(commit[:], x.commit[:]) != 1 {
		return protocolError("the nonce is not the one that was committed to")
	}
	derived := deriveCode(s.st.Choice.Format, s.ch.Hash, x.nonceA, nonceB)
	defer derived.wipe()
	if !derived.equal(x.code) {
		return &ProtocolError{Problem: "the code does not belong to this connection", Err: ErrRelayed}
	}
	return nil
}

func (s *Server) finalize(m protocol.ClientPairFinalize) ([]protocol.ServerMessage, error) {
	x := s.x.get()
	byPSK := s.st.Choice.Method == protocol.PairByPSK
	if s.st.Phase == PhaseStoring || s.st.Phase == PhaseDone || !byPSK && !x.proven {
		return nil, s.fail(outOfSequence(m, s.st.Phase))
	}
	if byPSK != !m.LongTerm.IsZero() || byPSK != (m.Wrapped == nil) {
		return nil, s.fail(protocolError("client/pair-finalize: the key is not given as this method gives it"))
	}
	key := m.LongTerm.Bytes()
	if !byPSK {
		var err error
		if key, err = x.agreed.unwrap(s.ch, wrapPSK, m.Wrapped); err != nil {
			return nil, s.fail(&ProtocolError{Problem: "wrapped_psk", Err: err})
		}
	}
	defer clear(key)
	psk, err := longTermKey(key, x.psk)
	if err != nil {
		return nil, s.fail(err)
	}
	x.wipe()
	s.result = psk
	s.st.Phase = PhaseStoring
	return nil, nil
}

// Result is the new long-term key in [PhaseStoring] and [PhaseDone], else none.
func (s *Server) Result() protocol.PSK { return s.result }

// Stored says that the caller has stored the record. After the message it
// re-handshakes to the new key and activates.
func (s *Server) Stored() []protocol.ServerMessage {
	if s.st.Phase != PhaseStoring {
		return nil
	}
	s.st.Phase = PhaseDone
	return []protocol.ServerMessage{protocol.ServerPairFinalize{}}
}

// fail ends the attempt for a protocol error.
func (s *Server) fail(err error) error {
	s.end(EndProtocol)
	return err
}

func (s *Server) end(why End) {
	s.x.get().wipe()
	s.result = protocol.PSK{} // what was received is discarded
	s.st = Status{Phase: PhaseEnded, Choice: s.st.Choice, Round: s.st.Round, Ended: why}
	s.stale = true
}
