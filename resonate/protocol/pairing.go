package protocol

// PairMethod names a way to pair.
type PairMethod string

// The methods of pairing. A client offers [PairByPSK] and at most one of the
// two with a code.
const (
	PairByPSK         PairMethod = "pairing_psk"
	PairByDynamicCode PairMethod = "dynamic_pairing_code"
	PairByStaticCode  PairMethod = "static_pairing_code"
)

// CodeFormat says how a client shows a dynamic code.
type CodeFormat string

// The formats of a dynamic code.
const (
	CodeDigits CodeFormat = "digits"
	CodeQR     CodeFormat = "qr_code"
)

// CodeChannel says where a client shows a dynamic code.
type CodeChannel string

// The channels of a dynamic code.
const (
	ChannelDisplay CodeChannel = "display"
	ChannelSpeaker CodeChannel = "speaker"
)

// SecretLocation says where a person finds a fixed secret; informational.
type SecretLocation string

// The locations of a fixed secret.
const (
	LocationDevice   SecretLocation = "device"
	LocationLeaflet  SecretLocation = "leaflet"
	LocationOperator SecretLocation = "operator"
)

// PairMethods are the methods that a client offers. A nil one is not offered.
type PairMethods struct {
	PSK     *FixedSecret
	Static  *FixedSecret
	Dynamic *DynamicCode
}

// FixedSecret describes a method whose secret does not change.
type FixedSecret struct{ Locations []SecretLocation }

// DynamicCode describes the method with a code per attempt. Neither list is
// empty.
type DynamicCode struct {
	Channels []CodeChannel
	Formats  []CodeFormat
}

// Offers reports whether a client offers what a server chose.
func (p *PairMethods) Offers(c PairingChoice) bool {
	if p == nil {
		return false
	}
	switch c.Method {
	case PairByPSK:
		return p.PSK != nil
	case PairByStaticCode:
		return p.Static != nil
	case PairByDynamicCode:
		if p.Dynamic == nil {
			return false
		}
		for _, f := range p.Dynamic.Formats {
			if f == c.Format {
				return true
			}
		}
	}
	return false
}

// PairingChoice is the method that a server picked for an attempt.
type PairingChoice struct {
	Method PairMethod
	Format CodeFormat // with [PairByDynamicCode], else empty
}

// Sizes of pairing's binary values in bytes.
const (
	CommitmentSize = 32 // SHA-256
	NonceSize      = 32
	ShareSize      = 32 // a CPace public share, X25519
	TagSize        = 64 // a CPace confirmation, HMAC-SHA-512
	WrappedSize    = 48 // 32 bytes sealed with a 16-byte tag
)

// PairMessageMax is the most characters of [ClientPairPending]'s message.
const PairMessageMax = 200

// ClientPairPending says that the client holds an attempt back.
type ClientPairPending struct {
	Index   uint32 // of the activation that it belongs to
	Message string // what it waits for, from an unauthenticated peer: plain text, cut to [PairMessageMax]
}

// ClientPairInit starts an attempt.
type ClientPairInit struct {
	Index      uint32
	Commitment *[CommitmentSize]byte // dynamic code only
}

// ServerPairInit begins a round with a dynamic code.
type ServerPairInit struct {
	Nonce *[NonceSize]byte // first round only
}

// ServerPairAuth carries the server's CPace share.
type ServerPairAuth struct{ Share [ShareSize]byte }

// ClientPairAuth carries the client's CPace share.
type ClientPairAuth struct{ Share [ShareSize]byte }

// ServerPairConfirm proves that the server knows the code.
type ServerPairConfirm struct{ Tag [TagSize]byte }

// ClientPairRetry asks for another round: the code was wrong.
type ClientPairRetry struct{}

// ClientPairConfirm proves that the client knows the code.
type ClientPairConfirm struct {
	Tag          [TagSize]byte
	WrappedNonce *[WrappedSize]byte // dynamic code only
}

// ClientPairFinalize delivers the new long-term key; exactly one is set.
type ClientPairFinalize struct {
	LongTerm PSK                // pairing by pre-shared key
	Wrapped  *[WrappedSize]byte // pairing by code: sealed
}

// ServerPairFinalize says that the server has stored the record.
type ServerPairFinalize struct{}

// AbortReason says why an attempt ended. Unknown texts are kept as they came.
type AbortReason string

// The reasons of an abort. Only the client gives the first three.
const (
	AbortTimeout            AbortReason = "attempt_timeout"
	AbortConcurrent         AbortReason = "concurrent_attempt" // its sender closes the connection
	AbortMethodNotSupported AbortReason = "method_not_supported"
	AbortCodeMismatch       AbortReason = "pairing_code_mismatch"
	AbortUserCancelled      AbortReason = "user_cancelled"
)

// PairAbort ends an attempt, started or not.
type PairAbort struct{ Reason AbortReason }

func (ClientPairPending) clientMessage()  {}
func (ClientPairInit) clientMessage()     {}
func (ClientPairAuth) clientMessage()     {}
func (ClientPairRetry) clientMessage()    {}
func (ClientPairConfirm) clientMessage()  {}
func (ClientPairFinalize) clientMessage() {}
func (PairAbort) clientMessage()          {}

func (ServerPairInit) serverMessage()     {}
func (ServerPairAuth) serverMessage()     {}
func (ServerPairConfirm) serverMessage()  {}
func (ServerPairFinalize) serverMessage() {}
func (PairAbort) serverMessage()          {}
