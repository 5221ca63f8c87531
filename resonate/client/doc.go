// Package client is the client side of the protocol: one [Session] per
// connection, whoever opened it, and [Player], a speaker without a speaker.
//
//	Dial ──┐                       ┌─ reader: decodes, calls OnMessage
//	       ├─ hello exchange ─ Session
//	Accept ┘                       └─ writer: the queue of Send, pings, the clock's bursts
//
// A session is made after the hello exchange and ends once. Nothing of it is
// used again: who wants to be connected once more makes another session. So
// there is no connection to be nil, no flag beside it to disagree with it, and
// no late cleanup that could hit a successor.
//
// In an encrypted dialect the handshake comes before the hellos, and each end of
// the encryption has one owner: the reader opens frames, the writer seals them.
// When the server changes the keys, the reader has the writer send the answer
// and waits; from that frame on the writer is silent until the activation. So
// the order of keys and data is the order of steps, and no flag can be late.
// What a server may do, and which of several gets the player, is decided by the
// player's owner, which also runs the pairing; see [Memory] for what is kept.
//
// Goroutines of a session: run owns the socket's end and waits for the two
// others; read blocks on the socket and in OnMessage; write blocks on the
// socket and on its queue. All end when the session is closed, at the latest
// 200 ms after a goodbye and at once otherwise, provided OnMessage returns. A
// panic in a callback ends the session that called it and nothing else.
package client
