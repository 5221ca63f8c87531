// Package noise is the encryption of Sendspin: the opening exchange in the
// clear, the Noise KKpsk2 handshake, the sealed frames after it and the
// fragments of what is larger than a frame (spec: Encryption, Fragmentation).
// It does no I/O and reads no clock; bytes go in and bytes come out.
//
//	client                        server
//	client/init          ->
//	                     <-       server/init, or server/error and close
//	                     <-       noise/handshake, message 1
//	noise/handshake      ->       message 2
//	            both have a [Channel]
//
// The server is the Noise initiator whoever opened the socket.
// [HandshakeInitiator] and [HandshakeResponder] are fed each message of the
// peer and return what is to be sent, or an error. Of the errors only an
// [*InitError] is answered; after any other one the socket is closed without a
// word (spec: Failure Handling).
//
// A Channel has one [Sealer] and one [Opener]. Both are plain values with an
// owner each, usually the goroutines that write and read the socket. The order
// of keys and data is the order of calls: a re-handshake ([Channel.Rehandshake]
// on the server, [Channel.Answer] on the client) seals its message as the last
// one of the old Sealer, which refuses everything afterwards, and leads to a
// new Channel with its own.
package noise
