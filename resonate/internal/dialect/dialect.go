// Package dialect translates between the wire dialects of Resonate and
// Sendspin and the model in package protocol. It does no I/O and holds no
// clock. A difference between dialects lives here and nowhere else.
package dialect

import (
	"fmt"

	"resonatebridge/resonate/protocol"
)

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

var _ protocol.ServerMessage = protocol.ServerHello{}
