package protocol

import (
	"crypto/subtle"
	"fmt"
	"io"
	"log/slog"
)

// PSKSize is the length of a pre-shared key in bytes.
const PSKSize = 32

// masked stands wherever a secret would be shown.
const masked = "[secret]"

// PSK is a pre-shared key. Whatever prints, logs or marshals it, or a value
// that holds it, shows "[secret]" or an address; only [PSK.Bytes] reveals it.
// The zero value holds no key. Copies share the key.
type PSK struct{ box *pskBox }

// pskBox is there since fmt looks into unexported fields and, for a verb that
// does not fit, follows one pointer, but not two.
type pskBox struct{ key *[PSKSize]byte }

// NewPSK copies a key. The error does not show it.
func NewPSK(key []byte) (PSK, error) {
	if len(key) != PSKSize {
		return PSK{}, fmt.Errorf("pre-shared key: got %d bytes, want %d", len(key), PSKSize)
	}
	return PSK{&pskBox{(*[PSKSize]byte)(append([]byte(nil), key...))}}, nil
}

// GeneratePSK draws a key. random must be a CSPRNG, such as crypto/rand.Reader.
func GeneratePSK(random io.Reader) (PSK, error) {
	p := PSK{&pskBox{new([PSKSize]byte)}}
	if _, err := io.ReadFull(random, p.box.key[:]); err != nil {
		return PSK{}, fmt.Errorf("pre-shared key: %w", err)
	}
	return p, nil
}

// IsZero reports whether p holds no key.
func (p PSK) IsZero() bool { return p.box == nil }

// Bytes returns a copy of the key, nil for the zero value. The caller clears it
// after use.
func (p PSK) Bytes() []byte {
	if p.box == nil {
		return nil
	}
	return append([]byte(nil), p.box.key[:]...)
}

// Equal compares in constant time. The zero value equals nothing.
func (p PSK) Equal(q PSK) bool {
	return p.box != nil && q.box != nil && subtle.ConstantTimeCompare(p.box.key[:], q.box.key[:]) == 1
}

// Wipe overwrites the key, also in all copies of p.
func (p PSK) Wipe() {
	if p.box != nil {
		clear(p.box.key[:])
	}
}

// String is "[secret]".
func (PSK) String() string { return masked }

// Format writes "[secret]" for every verb.
func (PSK) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, masked) }

// LogValue is "[secret]".
func (PSK) LogValue() slog.Value { return slog.StringValue(masked) }

// MarshalText is "[secret]": a key that is to be stored is stored on purpose.
func (PSK) MarshalText() ([]byte, error) { return []byte(masked), nil }
