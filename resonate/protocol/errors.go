package protocol

import "fmt"

// DecodeError says where in which message a value was wrong. Got is quoted and
// cut by the decoder, so it is safe to log.
type DecodeError struct {
	Msg  string // message type, e.g. "client/state"
	At   string // path in the payload, e.g. "player.volume"
	Got  string // what was there
	Want string // what is allowed
}

// Error reads like `client/state: player.volume: got "loud", want a number from 0 to 100`.
func (e *DecodeError) Error() string {
	return fmt.Sprintf("%s: %s: got %s, want %s", e.Msg, e.At, e.Got, e.Want)
}
