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
// Goroutines of a session: run owns the socket's end and waits for the two
// others; read blocks on the socket and in OnMessage; write blocks on the
// socket and on its queue. All end when the session is closed, at the latest
// 200 ms after a goodbye and at once otherwise, provided OnMessage returns.
package client
