package pairing

import (
	"crypto/cipher"
	"crypto/ecdh"
	"crypto/hmac"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/binary"
	"errors"
	"io"

	"resonatebridge/resonate/protocol"

	"filippo.io/edwards25519/field"
)

// CPACE-X25519-SHA512 of draft-irtf-cfrg-cpace-21, initiator-responder with
// explicit mutual confirmation. The server is A, the client B.

// sessionID binds a run to the handshake, the attempt and the round.
func sessionID(h [32]byte, index, round uint32) []byte {
	sid := append([]byte("sendspin-pair-pake-v1"), h[:]...)
	sid = binary.BigEndian.AppendUint32(sid, index)
	return binary.BigEndian.AppendUint32(sid, round)
}

// appendLV appends a part with its length before it, in LEB128, to dst.
func appendLV(dst, part []byte) []byte {
	return append(binary.AppendUvarint(dst, uint64(len(part))), part...)
}

// generator hashes a code to the base point of a run, a u-coordinate.
func generator(prs, ci, sid []byte) []byte {
	const block = 128 // bytes of SHA-512's input block
	s := appendLV(nil, []byte("CPace255"))
	s = appendLV(s, prs)
	s = appendLV(s, make([]byte, max(0, block-1-len(s)))) // the code ends with the first block
	s = appendLV(s, ci)
	s = appendLV(s, sid)
	sum := sha512.Sum512(s)
	clear(s)
	defer clear(sum[:])
	return elligator(sum[:32])
}

// elligator maps 32 bytes to the u-coordinate of a point on Curve25519 by
// Elligator 2 with Z = 2, without a branch on the input. With 1 + 2r² never 0
// and u³ + Au² + u never 0 there are no special cases.
func elligator(r32 []byte) []byte {
	one := new(field.Element).One()
	a := new(field.Element).Mult32(one, 486662)
	r, err := new(field.Element).SetBytes(r32) // drops the top bit
	if err != nil {
		panic(err) // 32 bytes
	}
	v := new(field.Element).Square(r)
	v.Add(v, v).Add(v, one).Invert(v)
	v.Multiply(v, a).Negate(v) // -A / (1 + 2r²)
	w := new(field.Element).Add(v, a)
	w.Multiply(w, v).Add(w, one).Multiply(w, v) // ((v + A)v + 1)v
	_, square := new(field.Element).SqrtRatio(w, one)
	u := new(field.Element).Add(v, a)
	u.Negate(u)
	return u.Select(v, u, square).Bytes()
}

// errShare says that a peer's share is none that an honest peer makes.
var errShare = errors.New("a share of low order")

// exchange is one side of a run before the peer's share came.
type exchange struct {
	sid    []byte
	scalar *ecdh.PrivateKey // used once
	share  [protocol.ShareSize]byte
}

func newExchange(random io.Reader, c Code, sid []byte) (*exchange, error) {
	var seed [KeySize]byte
	defer clear(seed[:])
	if _, err := io.ReadFull(random, seed[:]); err != nil {
		return nil, err
	}
	scalar, err := ecdh.X25519().NewPrivateKey(seed[:])
	if err != nil {
		return nil, err
	}
	g := generator(c.c.get().prs, nil, sid)
	defer clear(g)
	share, err := multiply(scalar, g)
	if err != nil {
		return nil, err
	}
	return &exchange{sid: sid, scalar: scalar, share: [protocol.ShareSize]byte(share)}, nil
}

// multiply fails if the result is zero, that is for points of low order.
func multiply(scalar *ecdh.PrivateKey, u []byte) ([]byte, error) {
	point, err := ecdh.X25519().NewPublicKey(u)
	if err != nil {
		return nil, err
	}
	product, err := scalar.ECDH(point)
	if err != nil {
		return nil, errShare
	}
	return product, nil
}

// agreement is what both sides have in common after a run, if they entered the
// same code.
type agreement struct {
	sid     []byte
	isk     []byte // intermediate session key
	serverT [protocol.TagSize]byte
	clientT [protocol.TagSize]byte
}

// agree ends the run with the peer's share. server says which side e is.
func (e *exchange) agree(peer [protocol.ShareSize]byte, server bool) (*agreement, error) {
	k, err := multiply(e.scalar, peer[:])
	e.scalar = nil
	if err != nil {
		return nil, err
	}
	defer clear(k)
	ya, yb := peer, e.share
	if server {
		ya, yb = yb, ya
	}
	return newAgreement(e.sid, k, ya[:], []byte("server"), yb[:], []byte("client")), nil
}

func newAgreement(sid, k, ya, ada, yb, adb []byte) *agreement {
	s := appendLV(nil, []byte("CPace255_ISK"))
	for _, part := range [][]byte{sid, k, ya, ada, yb, adb} {
		s = appendLV(s, part)
	}
	isk := sha512.Sum512(s)
	clear(s)
	s = append([]byte("CPaceMac"), sid...)
	s = append(s, isk[:]...)
	mac := sha512.Sum512(s)
	clear(s)
	defer clear(mac[:])
	return &agreement{
		sid: sid, isk: isk[:],
		serverT: confirmation(mac[:], ya, ada),
		clientT: confirmation(mac[:], yb, adb),
	}
}

func confirmation(key, share, ad []byte) [protocol.TagSize]byte {
	mac := hmac.New(sha512.New, key)
	mac.Write(appendLV(appendLV(nil, share), ad))
	return [protocol.TagSize]byte(mac.Sum(nil))
}

func (a *agreement) wipe() {
	if a != nil {
		clear(a.isk)
		clear(a.serverT[:])
		clear(a.clientT[:])
	}
}

// Labels of what is wrapped.
const (
	wrapPSK   = "sendspin-pair-psk-wrap-v1"
	wrapNonce = "sendspin-pair-nonce-wrap-v1"
)

// aead is the cipher for the one value with this label. Its nonce is zero,
// which is safe since each key seals once (spec: Wrapping).
func (a *agreement) aead(ch Channel, label string) (cipher.AEAD, []byte, error) {
	s := append([]byte(label), a.sid...)
	s = append(s, a.isk...)
	key := sha256.Sum256(s)
	clear(s)
	defer clear(key[:])
	c, err := ch.AEAD(key[:])
	if err != nil {
		return nil, nil, err
	}
	return c, make([]byte, c.NonceSize()), nil
}

func (a *agreement) wrap(ch Channel, label string, secret []byte) (*[protocol.WrappedSize]byte, error) {
	c, nonce, err := a.aead(ch, label)
	if err != nil {
		return nil, err
	}
	return (*[protocol.WrappedSize]byte)(c.Seal(nil, nonce, secret, nil)), nil
}

// unwrap returns the 32 bytes of a value; the caller clears them.
func (a *agreement) unwrap(ch Channel, label string, wrapped *[protocol.WrappedSize]byte) ([]byte, error) {
	c, nonce, err := a.aead(ch, label)
	if err != nil {
		return nil, err
	}
	return c.Open(nil, nonce, wrapped[:], nil)
}
