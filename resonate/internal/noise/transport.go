package noise

import (
	"crypto/cipher"
	"encoding/binary"
	"errors"
	"math"
)

// Sizes of a frame, one Noise transport message, in bytes.
const (
	MaxFrame   = 65_535
	Overhead   = 16 // the tag at its end
	MaxMessage = MaxFrame - Overhead
)

// RekeyAfter is how many frames one key seals at the most before it should be
// replaced by a re-handshake: the bound that RFC 8446, section 5.5, gives for
// AES-GCM with records of full size, to the next lower power of two. At 50
// frames a second it is reached after almost four days.
const RekeyAfter = 1 << 24

// Errors of the transport. Each ends the connection, without a message.
var (
	ErrRetired        = errors.New("noise: these keys are replaced")
	ErrExhausted      = errors.New("noise: the counter of frames is used up")
	ErrEmpty          = errors.New("noise: an empty message")
	ErrTooLong        = errors.New("noise: a message longer than a frame")
	ErrInterleaved    = errors.New("noise: a message within a fragmented one")
	ErrAuthentication = errors.New("noise: a frame that is not the next one of the peer: forged, damaged, doubled or out of order")
)

// direction is what both ends of one direction have in common.
type direction struct {
	suite Suite
	// key is behind two pointers, as fmt follows one.
	key   *struct{ aead cipher.AEAD }
	nonce [12]byte
	n     uint64
	err   error // why it is at its end
}

func newDirection(suite Suite, key [32]byte) (direction, error) {
	aead, err := suite.AEAD(key[:])
	return direction{suite: suite, key: &struct{ aead cipher.AEAD }{aead}}, err
}

// next is the nonce of the next frame: four zero bytes and the counter. It is
// reused, so that a frame costs no allocation.
func (d *direction) next() ([]byte, error) {
	switch {
	case d.err != nil:
		return nil, d.err
	case d.n == math.MaxUint64: // reserved by Noise
		d.err = ErrExhausted
		return nil, d.err
	case d.suite == AESGCM:
		binary.BigEndian.PutUint64(d.nonce[4:], d.n)
	default:
		binary.LittleEndian.PutUint64(d.nonce[4:], d.n)
	}
	return d.nonce[:], nil
}

// Frames counts the frames that were sealed or opened with this key.
func (d *direction) Frames() uint64 { return d.n }

// retire ends the use of the key.
func (d *direction) retire() {
	if d.err == nil {
		d.err = ErrRetired
	}
}

// Sealer seals the frames of one direction under one key. It is not safe for
// concurrent use: whoever writes the socket owns it, and frames are written in
// the order in which they were sealed.
type Sealer struct {
	direction
	open bool // a fragmented message is in flight
}

// Seal appends a frame to dst: message, an id byte and a body of together at
// most [MaxMessage] bytes, and [Overhead] bytes more. It does not allocate if
// dst has room. dst and message may be the same memory from its beginning on,
// else they must not overlap.
//
// A part of a fragmented message is taken only where it has its place, and
// nothing else is taken before the last one. After an error nothing was sealed.
func (s *Sealer) Seal(dst, message []byte) ([]byte, error) {
	if s.err != nil {
		return dst, s.err
	}
	switch {
	case len(message) == 0:
		return dst, ErrEmpty
	case len(message) > MaxMessage:
		return dst, ErrTooLong
	}
	open, ok := inFlight(s.open, message)
	if !ok {
		return dst, ErrInterleaved
	}
	nonce, err := s.next()
	if err != nil {
		return dst, err
	}
	dst = s.key.aead.Seal(dst, nonce, message, nil)
	s.n++
	s.open = open
	return dst, nil
}

// sealLast seals the last message under this key.
func (s *Sealer) sealLast(dst, message []byte) ([]byte, error) {
	dst, err := s.Seal(dst, message)
	if err == nil {
		s.retire()
	}
	return dst, err
}

// Opener opens the frames of one direction under one key. It is not safe for
// concurrent use: whoever reads the socket owns it.
type Opener struct{ direction }

// Open appends the message of a frame to dst; its first byte is the id. It does
// not allocate if dst has room. dst and frame may be the same memory from its
// beginning on, else they must not overlap.
//
// After an error every call fails: the connection is over.
func (o *Opener) Open(dst, frame []byte) ([]byte, error) {
	nonce, err := o.next()
	if err != nil {
		return dst, err
	}
	if len(frame) > MaxFrame {
		o.err = ErrTooLong
		return dst, o.err
	}
	message, err := o.key.aead.Open(dst, nonce, frame, nil)
	if err != nil {
		o.err = ErrAuthentication
		return dst, o.err
	}
	if len(message) == len(dst) {
		o.err = ErrEmpty
		return dst, o.err
	}
	o.n++
	return message, nil
}
