package pairing

import (
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"

	"resonatebridge/resonate/protocol"
)

// Category says what a pre-shared key is used as; it stands in the first Noise
// message. The value is the code on the wire.
type Category string

// The categories. Only a session keyed by a long-term key is a paired one.
const (
	LongTerm   Category = "lt" // made by pairing, for one client and one server
	PairingKey Category = "pr" // of the client, handed over as a token
	SentinelID Category = "sn" // a public constant: no authentication
)

// Valid reports whether c is one of the categories.
func (c Category) Valid() bool { return c == LongTerm || c == PairingKey || c == SentinelID }

// Paired reports whether a session keyed by a key of this category is paired.
func (c Category) Paired() bool { return c == LongTerm }

// Credential is a key and what it is used as.
type Credential struct {
	PSK      protocol.PSK
	Category Category
}

// ID is the credential's psk_id, see [PSKID].
func (c Credential) ID() string { return PSKID(c.PSK) }

// Sentinel is the public key that stands in whenever there is no other.
func Sentinel() Credential {
	key := sha256.Sum256([]byte("sendspin-sentinel-psk-v1"))
	psk, err := protocol.NewPSK(key[:])
	if err != nil {
		panic(err) // a hash has 32 bytes
	}
	return Credential{PSK: psk, Category: SentinelID}
}

// PSKID is the public name of a key: 43 characters that tell nothing else
// about it.
func PSKID(psk protocol.PSK) string {
	key := psk.Bytes()
	defer clear(key)
	sum := sha256.New()
	sum.Write([]byte("sendspin-psk-id-v1"))
	sum.Write(key)
	return base64.RawURLEncoding.EncodeToString(sum.Sum(nil))
}

// Is reports whether id is the psk_id of the credential, in constant time.
func (c Credential) Is(id string) bool {
	return !c.PSK.IsZero() && subtle.ConstantTimeCompare([]byte(c.ID()), []byte(id)) == 1
}
