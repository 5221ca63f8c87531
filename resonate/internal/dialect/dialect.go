// Package dialect translates between the wire dialects of Resonate and
// Sendspin and the model in package protocol. It does no I/O and holds no
// clock. A difference between dialects lives here and nowhere else.
package dialect

import "fmt"

// Name names a revision family of the wire, as in `bridge player --dialect`.
type Name string

// The plaintext dialects (dialects.md section 2) in order of age.
const (
	R1 Name = "R1"
	R2 Name = "R2"
	S1 Name = "S1"
	S2 Name = "S2"
	S3 Name = "S3"
	S4 Name = "S4"
)

// The encrypted dialects: the current one, 1.0.0-rc1, and the one before.
const (
	G1 Name = "G1"
	G2 Name = "G2"
)

// Encrypted lists the encrypted dialects by age.
func Encrypted() []Name { return []Name{G1, G2} }

// Names lists the dialects that both sides of this package speak, by age.
func Names() []Name { return []Name{R1, R2, S1, S2, S3, S4} }

// Service returns the mDNS service types under which clients and servers of
// the dialect advertise, and the usual HTTP path. All are empty for a name
// that is none of [Names].
func (n Name) Service() (client, server, path string) {
	switch n {
	case R1, R2:
		return "_resonate._tcp", "_resonate-server._tcp", "/resonate"
	case S1, S2, S3, S4, G1, G2:
		return "_sendspin._tcp", "_sendspin-server._tcp", "/sendspin"
	default:
		return "", "", ""
	}
}

// sendspin reports whether n is of the family that uses Sendspin's messages.
func (n Name) sendspin() bool { return n == S1 || n == S2 || n == S3 || n == S4 || n.encrypted() }

func (n Name) encrypted() bool { return n == G1 || n == G2 }

// audioType is the first byte of an audio frame. A client drops every chunk
// with another one, without complaint.
func (n Name) audioType() byte {
	switch n {
	case R1:
		return 1
	case R2:
		return 0
	default:
		return 4
	}
}

// audioHeader is the length of type and time stamp before the audio.
const audioHeader = 9

// Frame is one WebSocket message.
type Frame struct {
	Binary bool
	Data   []byte
}

// RefusedError says that a peer can't be served on this connection. Code is
// the WebSocket close code and Text its reason (dialects.md section 6.3).
type RefusedError struct {
	Code   int
	Text   string
	Detail string // for the log: what was seen and what to do
	Redial bool   // whether dialling again may help
}

// Error is the detail.
func (e *RefusedError) Error() string {
	return fmt.Sprintf("refused (%d %s): %s", e.Code, e.Text, e.Detail)
}

// Close codes of refusals (RFC 6455, section 7.4.1).
const (
	closeProtocolError = 1002
	closePolicy        = 1008
	closeTooBig        = 1009
)
