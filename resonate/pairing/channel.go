package pairing

import (
	"crypto/cipher"
	"errors"
	"fmt"
	"time"

	"resonatebridge/resonate/protocol"
)

// Channel is what pairing needs to know of a connection's current keys.
type Channel struct {
	Hash     [32]byte // of the Noise handshake
	Category Category // of the key that the handshake matched
	// AEAD makes the cipher of the connection's suite from a 32-byte key.
	AEAD func(key []byte) (cipher.AEAD, error)
	// Old says that the peer is of the generation before 1.0.0-rc1, which
	// pairs by token only, and without [protocol.ClientPairInit].
	Old bool
}

// supports reports whether the method belongs to the key of the connection.
func (ch Channel) supports(m protocol.PairMethod) bool {
	if m == protocol.PairByPSK {
		return ch.Category == PairingKey
	}
	return ch.Category == SentinelID && !ch.Old
}

// ProtocolError is a condition that no conformant peer produces. The connection
// is closed without another message, and nothing is stored.
type ProtocolError struct {
	Problem string
	Err     error // may be nil
}

// Error says what was wrong.
func (e *ProtocolError) Error() string {
	if e.Err != nil {
		return fmt.Sprintf("pairing: protocol error: %s: %v", e.Problem, e.Err)
	}
	return "pairing: protocol error: " + e.Problem
}

// Unwrap is the cause.
func (e *ProtocolError) Unwrap() error { return e.Err }

// ErrRelayed is the cause of a [ProtocolError] that only a man in the middle
// brings about: he knows the code of one connection and uses it on another.
var ErrRelayed = errors.New("the code is of another connection; someone sits between the two")

func protocolError(format string, args ...any) *ProtocolError {
	return &ProtocolError{Problem: fmt.Sprintf(format, args...)}
}

func outOfSequence(m any, p Phase) *ProtocolError {
	return protocolError("%T while %s", m, p)
}

// Phase is where one side's attempt stands.
type Phase int

// The phases. Those from [PhaseWaiting] to [PhaseStoring] are an attempt that
// goes on.
const (
	PhaseNone     Phase = iota // no attempt yet
	PhaseWaiting               // for the client to begin
	PhasePending               // the client holds the attempt back
	PhaseCode                  // for the code to be entered on the server
	PhaseChecking              // the code is being checked
	PhaseStoring               // the new key is there and to be stored by the server
	PhaseDone                  // the new key is valid on both sides
	PhaseEnded                 // without success, see [Status.Ended]
)

// String names the phase in words for a log.
func (p Phase) String() string {
	switch p {
	case PhaseNone:
		return "no attempt"
	case PhaseWaiting:
		return "waiting for the client"
	case PhasePending:
		return "held back by the client"
	case PhaseCode:
		return "waiting for the code"
	case PhaseChecking:
		return "checking the code"
	case PhaseStoring:
		return "storing the key"
	case PhaseDone:
		return "paired"
	case PhaseEnded:
		return "ended"
	}
	return fmt.Sprintf("phase %d", int(p))
}

// live reports whether an attempt goes on.
func (p Phase) live() bool { return p >= PhaseWaiting && p <= PhaseStoring }

// End says why an attempt ended: one of [protocol.AbortReason]'s texts or of
// these.
type End string

// Ends that no message carries.
const (
	EndNoAnswer   End = "no_answer"  // the server waited too long for the client
	EndLeft       End = "left"       // the server declared something else
	EndSuperseded End = "superseded" // another attempt took its place
	EndProtocol   End = "protocol_error"
)

// Status is where an attempt stands, for people.
type Status struct {
	Phase  Phase
	Choice protocol.PairingChoice
	// Round counts the codes that were asked for. From 2 on the one before was
	// wrong.
	Round uint32
	// Message is what a client that holds the attempt back waits for, in its
	// own words: untrusted plain text of at most [protocol.PairMessageMax]
	// characters. Server only.
	Message string
	// Code is what the client is to show in [PhaseCode] and [PhaseChecking].
	// Client only, and only with a dynamic code.
	Code  Code
	Ended End // in PhaseEnded
}

// longTermKey checks a key that a client made. Keys that others know are none.
func longTermKey(key []byte, known ...protocol.PSK) (protocol.PSK, error) {
	psk, err := protocol.NewPSK(key)
	if err != nil {
		return psk, protocolError("%v", err)
	}
	for _, k := range append(known, Sentinel().PSK) {
		if psk.Equal(k) {
			return protocol.PSK{}, protocolError("the new key is one that others know")
		}
	}
	return psk, nil
}

// deadline is a time limit of an attempt; the zero value has none.
type deadline struct{ at time.Time }

func (d *deadline) set(now time.Time, after time.Duration) { d.at = now.Add(after) }
func (d deadline) passed(now time.Time) bool               { return !d.at.IsZero() && !now.Before(d.at) }
