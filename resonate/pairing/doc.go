// Package pairing holds who trusts whom: identities, pre-shared keys, pairing
// records and the three methods of pairing, for the server and for the client
// (spec: Pairing).
//
// A method runs over a connection that is keyed by the pairing key or by the
// public Sentinel key, and ends with a fresh long-term key that the client
// made and both sides store. [Server] and [Client] are one side of one
// connection each: plain values that take messages, a person's input and the
// time, and return messages. Neither does I/O, reads a clock or starts a
// goroutine, and neither is safe for concurrent use.
//
//	token         server knows the client's pairing key; no code
//	dynamic code  client shows 6 digits or a QR code, bound to the connection
//	static code   8 digits on a label, admitted for a while after a gesture
//
// Codes are checked with CPACE-X25519-SHA512, so one try is one guess. Limits
// on tries are part of [Device].
//
// No secret is ever printed, logged or marshalled by the types here; what
// reveals one says so in its name or comment. Secrets are overwritten after
// use where Go allows it; keys inside the standard library's types are not
// within reach.
package pairing
