package noise

import (
	"crypto/aes"
	"crypto/cipher"
	"fmt"

	"github.com/flynn/noise"
	"golang.org/x/crypto/chacha20poly1305"
)

// Suite is a cipher suite. The client chooses it; a server has both.
type Suite uint8

// The suites.
const (
	ChaChaPoly Suite = iota + 1
	AESGCM
)

// Suites are all suites.
func Suites() []Suite { return []Suite{ChaChaPoly, AESGCM} }

// ParseSuite reads a suite's id on the wire.
func ParseSuite(id string) (Suite, bool) {
	for _, s := range Suites() {
		if id == s.String() {
			return s, true
		}
	}
	return 0, false
}

// String is the suite's id on the wire.
func (s Suite) String() string {
	switch s {
	case ChaChaPoly:
		return "25519_ChaChaPoly_SHA256"
	case AESGCM:
		return "25519_AESGCM_SHA256"
	}
	return fmt.Sprintf("suite %d", uint8(s))
}

// AEAD is the suite's cipher with a key of 32 bytes.
func (s Suite) AEAD(key []byte) (cipher.AEAD, error) {
	if s != AESGCM {
		return chacha20poly1305.New(key)
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	return cipher.NewGCM(block)
}

func (s Suite) noise() noise.CipherSuite {
	c := noise.CipherChaChaPoly
	if s == AESGCM {
		c = noise.CipherAESGCM
	}
	return noise.NewCipherSuite(noise.DH25519, c, noise.HashSHA256)
}
