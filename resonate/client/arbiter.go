package client

import "resonatebridge/resonate/protocol"

// claim is what arbitration knows of a server.
type claim struct {
	serverID string
	reason   protocol.ConnectionReason
}

// wins reports whether incoming takes the player over from holder. lastPlayed
// is the id of the server that played last.
//
// This is the protocol's rule for several servers with the connection reason
// of plaintext dialects in the place of activities: a server that comes to
// play beats any other, one that is just there beats nobody, except that the
// last one that played gets its player back from one that is just there too.
// A server that connects again replaces its own connection, which is probably
// dead: a server has no use for two.
func wins(holder, incoming claim, lastPlayed string) bool {
	switch {
	case incoming.serverID == holder.serverID:
		return true
	case incoming.reason == protocol.ReasonPlayback:
		return true
	case holder.reason == protocol.ReasonPlayback:
		return false
	}
	return incoming.serverID == lastPlayed && holder.serverID != lastPlayed
}
