package pairing

import (
	"crypto/subtle"
	"encoding/base32"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"

	"resonatebridge/resonate/protocol"
)

// Token is what a server needs for pairing without a code: whom to expect and
// the client's pairing key. Printed, logged or marshalled, it shows the client
// only.
type Token struct {
	Client PublicKey
	PSK    protocol.PSK
}

// InputError says in a sentence for people what is wrong with their input. It
// never shows the input, which may be a secret.
type InputError struct{ Problem string }

// Error is the sentence.
func (e *InputError) Error() string { return e.Problem }

// Versions and payloads of tokens.
const (
	tokenPrefix  = "SP:"
	tokenOfPSK   = '0' // client's public key, then its pairing key
	tokenOfCode  = '1' // a dynamic code
	tokenMax     = 4096
	pskTokenSize = KeySize + protocol.PSKSize
)

// ParseToken reads a pairing token as a person enters it or a QR code holds it:
// in any case, with or without "SP:", with spaces around it. The error is an
// [*InputError].
func ParseToken(text string) (Token, error) {
	payload, err := parseToken(text, tokenOfPSK, pskTokenSize)
	defer clear(payload)
	if err != nil {
		return Token{}, err
	}
	psk, err := protocol.NewPSK(payload[KeySize:pskTokenSize])
	if err != nil {
		return Token{}, err
	}
	return Token{Client: PublicKey(payload[:KeySize]), PSK: psk}, nil
}

// Reveal is the token's text, which is also what its QR code holds: a secret.
func (t Token) Reveal() string {
	payload := append(t.Client[:], t.PSK.Bytes()...)
	defer clear(payload)
	return formatToken(tokenOfPSK, payload)
}

// For checks that the token belongs to a client. A server asks before pairing
// by it (spec: Pairing PSK Flow). The error is an [*InputError].
func (t Token) For(client PublicKey) error {
	if subtle.ConstantTimeCompare(t.Client[:], client[:]) != 1 {
		return &InputError{fmt.Sprintf("the token belongs to another speaker (%s): take the one of %s", t.Client, client)}
	}
	return nil
}

// Credential is the pairing key as a credential.
func (t Token) Credential() Credential { return Credential{PSK: t.PSK, Category: PairingKey} }

// String shows the client only.
func (t Token) String() string { return "pairing token of " + t.Client.ID() }

// Format writes the String for every verb.
func (t Token) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, t.String()) }

// LogValue is the String.
func (t Token) LogValue() slog.Value { return slog.StringValue(t.String()) }

// MarshalText is the String.
func (t Token) MarshalText() ([]byte, error) { return []byte(t.String()), nil }

// formatToken spells a payload: base32 without padding and without the digit 2.
func formatToken(version byte, payload []byte) string {
	body := base32.StdEncoding.WithPadding(base32.NoPadding).EncodeToString(payload)
	return tokenPrefix + string(version) + strings.ReplaceAll(body, "2", "9")
}

// parseToken undoes formatToken and returns the first size bytes of the payload
// at least; more of them are a later revision's.
func parseToken(text string, version byte, size int) ([]byte, error) {
	text = strings.TrimSpace(text)
	if len(text) > tokenMax {
		return nil, &InputError{"this is too long for a pairing token"}
	}
	upper := make([]byte, len(text)) // not strings.ToUpper: it makes ASCII of some other letters
	for i := range len(text) {
		c := text[i]
		if c >= 'a' && c <= 'z' {
			c -= 'a' - 'A'
		}
		upper[i] = c
	}
	defer clear(upper)
	rest := strings.TrimPrefix(string(upper), tokenPrefix)
	if rest == "" {
		return nil, &InputError{"this is no pairing token: it begins with SP:0 or SP:1"}
	}
	switch rest[0] {
	case version:
	case tokenOfPSK:
		return nil, &InputError{"this is a pairing token, wanted is the code that the speaker shows now"}
	case tokenOfCode:
		return nil, &InputError{"this is a code that a speaker shows, wanted is its pairing token (SP:0...)"}
	default:
		return nil, &InputError{"this is no pairing token, or one of a newer revision: it begins with SP:0 or SP:1"}
	}
	body := strings.ReplaceAll(rest[1:], "9", "2")
	switch left := len(body) % 8; { // the decoder skips line ends and takes any length
	case strings.ContainsAny(body, "\r\n"), left == 1, left == 3, left == 6:
		return nil, errTokenBody()
	}
	payload, err := base32.StdEncoding.WithPadding(base32.NoPadding).DecodeString(body)
	switch {
	case err != nil:
		clear(payload)
		return nil, errTokenBody()
	case len(payload) < size:
		clear(payload)
		return nil, &InputError{"the pairing token is not complete"}
	}
	return payload, nil
}

func errTokenBody() error {
	return &InputError{"the pairing token has a character that no token has, or one is missing"}
}

// ErrNoCode says that a code was entered where none is wanted: too early, too
// late, or for a method without one.
var ErrNoCode = errors.New("pairing: no code is wanted now")
