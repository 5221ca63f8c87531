// Package protocol is the model of Sendspin's messages, in the current
// protocol's names. It knows no dialect, no transport and no encryption:
// internal/dialect translates each wire dialect into these types and back.
//
// Every client message implements [ClientMessage], every server message
// [ServerMessage]. Pointer and nil-able fields mean "absent: unchanged or
// unknown", never zero (dialects.md section 0, rule 6).
package protocol
