package pairing

import (
	"crypto/ecdh"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"
)

// KeySize is the length of an X25519 key in bytes.
const KeySize = 32

// idLength is the length of an id: base64url of a key, without padding.
const idLength = 43

// PublicKey is a peer's X25519 public key; its text form is the peer's id.
type PublicKey [KeySize]byte

// ParseID reads a client or server id. Of the texts that stand for one key only
// the canonical one is accepted, so that equal keys have equal ids.
func ParseID(id string) (PublicKey, error) {
	var k PublicKey
	if len(id) != idLength {
		return k, fmt.Errorf("id: got %d characters, want %d", len(id), idLength)
	}
	raw, err := base64.RawURLEncoding.Strict().DecodeString(id)
	if err != nil || len(raw) != KeySize { // the decoder skips line ends
		return k, errors.New("id: not base64url of 32 bytes")
	}
	copy(k[:], raw)
	return k, nil
}

// ID is the key as 43 characters of base64url.
func (k PublicKey) ID() string { return base64.RawURLEncoding.EncodeToString(k[:]) }

// String is the ID.
func (k PublicKey) String() string { return k.ID() }

// MarshalText is the ID.
func (k PublicKey) MarshalText() ([]byte, error) { return []byte(k.ID()), nil }

// UnmarshalText is [ParseID].
func (k *PublicKey) UnmarshalText(text []byte) (err error) {
	*k, err = ParseID(string(text))
	return err
}

// Identity is the key pair that a client or server is known by. Printed, logged
// or marshalled it is its public id.
type Identity struct {
	private hidden[ecdh.PrivateKey]
	public  PublicKey
}

// NewIdentity draws a key pair. random must be a CSPRNG, such as
// crypto/rand.Reader.
func NewIdentity(random io.Reader) (Identity, error) {
	var seed [KeySize]byte
	defer clear(seed[:])
	if _, err := io.ReadFull(random, seed[:]); err != nil {
		return Identity{}, fmt.Errorf("identity: %w", err)
	}
	return IdentityFromKey(seed[:])
}

// IdentityFromKey makes an identity of an X25519 private key.
func IdentityFromKey(private []byte) (Identity, error) {
	key, err := ecdh.X25519().NewPrivateKey(private)
	if err != nil {
		return Identity{}, fmt.Errorf("identity: got %d bytes, want %d", len(private), KeySize)
	}
	return Identity{private: hide(key), public: PublicKey(key.PublicKey().Bytes())}, nil
}

// ParseIdentity reads what [Identity.EncodePrivate] wrote: the content of the
// identity file. The error does not show it.
func ParseIdentity(file []byte) (Identity, error) {
	raw, err := base64.RawURLEncoding.DecodeString(strings.TrimSpace(string(file)))
	defer clear(raw)
	if err != nil {
		return Identity{}, errors.New("identity: not base64url")
	}
	return IdentityFromKey(raw)
}

// EncodePrivate is the content of the identity file: the private key. It is
// the caller's to keep secret.
func (i Identity) EncodePrivate() []byte {
	raw := i.PrivateKey()
	defer clear(raw)
	return append(base64.RawURLEncoding.AppendEncode(nil, raw), '\n')
}

// PrivateKey is a copy of the private key, nil for the zero value. The caller
// clears it after use.
func (i Identity) PrivateKey() []byte {
	if key := i.private.get(); key != nil {
		return key.Bytes()
	}
	return nil
}

// Public is the public key.
func (i Identity) Public() PublicKey { return i.public }

// ID is the public key as an id.
func (i Identity) ID() string { return i.public.ID() }

// String is the ID.
func (i Identity) String() string { return i.ID() }

// Format writes the ID for every verb.
func (i Identity) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, i.ID()) }

// LogValue is the ID.
func (i Identity) LogValue() slog.Value { return slog.StringValue(i.ID()) }

// MarshalText is the ID.
func (i Identity) MarshalText() ([]byte, error) { return []byte(i.ID()), nil }
