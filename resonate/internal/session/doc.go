// Package session is the server's side of one connection, from an open
// WebSocket to its end.
//
//	socket open ── Greet: first frame, dialect, hello ──► greeted
//	greeted ── Run: server/hello written, first client/state seen ──► live (up is called)
//	live ── goodbye, error, silence, overflow, Kill, context ──► ended (Run returns the cause)
//
// A Session is one value for one connection: it is created once, ends once,
// whoever asks, and its first cause is the one reported. Nothing in it is set
// to nil when it ends, so a late caller meets ErrGone and never a successor.
//
// Goroutines of a running session, both started and awaited by Run:
//
//	reader  owns the read side and the read deadline; may block on the socket and in Options.Handle
//	writer  owns the write side; may block on the socket, at most WriteTimeout
//
// What waits for the writer: the newest state of each kind, messages up to
// Options.Queue bytes (more end the session with ErrSlow), 64 answers to
// client/time (more are dropped and logged), the newest picture of each channel,
// audio and frames of a visualizer until their time comes.
package session
