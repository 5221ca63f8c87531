package pairing

import (
	"crypto/sha256"
	"crypto/subtle"
	"fmt"
	"io"
	"log/slog"
	"strings"

	"resonatebridge/resonate/protocol"
)

// Lengths of codes.
const (
	DynamicDigits = 6
	StaticDigits  = 8
	qrSize        = 24 // bytes
)

// Code is a pairing code: what is shown or printed on one side and entered on
// the other. It is a secret; only [Code.Reveal] shows it. The zero value is no
// code. Copies share the code.
type Code struct{ c hidden[code] }

type code struct {
	prs []byte // what goes into the PAKE: ASCII digits, or the bytes of the QR code
	qr  bool
}

// ParseCode reads the code that a person entered for an attempt. Digits may be
// grouped with spaces and hyphens; a QR code's content is a token. The error is
// an [*InputError].
func ParseCode(choice protocol.PairingChoice, input string) (Code, error) {
	switch choice.Method {
	case protocol.PairByStaticCode:
		return parseDigits(input, StaticDigits)
	case protocol.PairByDynamicCode:
		if choice.Format == protocol.CodeQR {
			payload, err := parseToken(input, tokenOfCode, qrSize)
			if err != nil {
				return Code{}, err
			}
			defer clear(payload)
			return newCode(payload[:qrSize], true), nil
		}
		return parseDigits(input, DynamicDigits)
	case protocol.PairByPSK:
	}
	return Code{}, &InputError{"this way of pairing has no code"}
}

// ParseStaticCode reads the 8 digits of a client's label.
func ParseStaticCode(input string) (Code, error) { return parseDigits(input, StaticDigits) }

func parseDigits(input string, n int) (Code, error) {
	digits := make([]byte, 0, n)
	for _, r := range strings.TrimSpace(input) {
		switch {
		case r == ' ' || r == '-':
		case r < '0' || r > '9':
			clear(digits)
			return Code{}, &InputError{fmt.Sprintf("the code has %d digits and nothing else", n)}
		case len(digits) == n:
			clear(digits)
			return Code{}, &InputError{fmt.Sprintf("the code has %d digits, this is more", n)}
		default:
			digits = append(digits, byte(r))
		}
	}
	if len(digits) < n {
		clear(digits)
		return Code{}, &InputError{fmt.Sprintf("the code has %d digits, this is %d", n, len(digits))}
	}
	return Code{hide(&code{prs: digits})}, nil
}

// GenerateStaticCode draws a client's 8 digits evenly. random must be a CSPRNG.
func GenerateStaticCode(random io.Reader) (Code, error) {
	digits := make([]byte, 0, StaticDigits)
	for len(digits) < StaticDigits {
		var b [1]byte
		if _, err := io.ReadFull(random, b[:]); err != nil {
			return Code{}, fmt.Errorf("pairing code: %w", err)
		}
		if b[0] < 250 { // 250 is the largest multiple of ten in a byte
			digits = append(digits, '0'+b[0]%10)
		}
	}
	return Code{hide(&code{prs: digits})}, nil
}

func newCode(prs []byte, qr bool) Code {
	return Code{hide(&code{prs: append([]byte(nil), prs...), qr: qr})}
}

// deriveCode makes the dynamic code of an attempt from the handshake hash and
// both nonces (spec: Dynamic Pairing Code Flow).
func deriveCode(format protocol.CodeFormat, h [32]byte, nonceA, nonceB [protocol.NonceSize]byte) Code {
	sum := sha256.New()
	sum.Write([]byte("sendspin-pairing-code-derive-v1"))
	sum.Write(h[:])
	sum.Write(nonceA[:])
	sum.Write(nonceB[:])
	digest := sum.Sum(nil)
	defer clear(digest)
	if format == protocol.CodeQR {
		return newCode(digest[:qrSize], true)
	}
	n := uint32(0)
	for _, b := range digest { // the digest as one big-endian number, modulo 10^6
		n = (n<<8 | uint32(b)) % 1_000_000
	}
	return newCode(fmt.Appendf(nil, "%06d", n), false)
}

// commitment binds a client to its nonce before it knows the server's.
func commitment(nonceB [protocol.NonceSize]byte) [protocol.CommitmentSize]byte {
	sum := sha256.New()
	sum.Write([]byte("sendspin-pair-commit-v1"))
	sum.Write(nonceB[:])
	return [protocol.CommitmentSize]byte(sum.Sum(nil))
}

// IsZero reports whether c is no code.
func (c Code) IsZero() bool { return c.c.get() == nil }

// Reveal is the code as it is shown: 123-456, 1234-5678, or what a QR code
// holds. It is empty for no code.
func (c Code) Reveal() string {
	v := c.c.get()
	switch {
	case v == nil:
		return ""
	case v.qr:
		return formatToken(tokenOfCode, v.prs)
	}
	half := len(v.prs) / 2
	return string(v.prs[:half]) + "-" + string(v.prs[half:])
}

// equal compares in constant time; no code equals nothing.
func (c Code) equal(d Code) bool {
	a, b := c.c.get(), d.c.get()
	return a != nil && b != nil && a.qr == b.qr && subtle.ConstantTimeCompare(a.prs, b.prs) == 1
}

// clone is a copy that [Code.wipe] of c does not reach.
func (c Code) clone() Code {
	v := c.c.get()
	return newCode(v.prs, v.qr)
}

// wipe overwrites the code, also in all copies of c.
func (c Code) wipe() {
	if v := c.c.get(); v != nil {
		clear(v.prs)
	}
}

// String is "[secret]".
func (Code) String() string { return "[secret]" }

// Format writes "[secret]" for every verb.
func (Code) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, "[secret]") }

// LogValue is "[secret]".
func (Code) LogValue() slog.Value { return slog.StringValue("[secret]") }

// MarshalText is "[secret]".
func (Code) MarshalText() ([]byte, error) { return []byte("[secret]"), nil }
