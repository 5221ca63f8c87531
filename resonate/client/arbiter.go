package client

// Ranks of what a server wants (spec: Multiple servers).
const (
	rankNone = iota
	rankPairing
	rankPlayback
)

// claim is what arbitration knows of a server. In plaintext dialects the reason
// of the connection stands for the activities.
type claim struct {
	serverID string
	rank     int
	attempt  bool // to pair goes on, which nobody else may break
}

// wins reports whether incoming takes the player over from holder. lastPlayed
// is the id of the server that played last.
//
// A server that wants more, or as much, takes over, except that of servers that
// want nothing the one that played last gets its player back from another. A
// server that connects again replaces its own connection, which is probably
// dead: a server has no use for two.
func wins(holder, incoming claim, lastPlayed string) bool {
	switch {
	case incoming.serverID == holder.serverID:
		return true
	case holder.attempt && incoming.rank > rankNone:
		return false
	case holder.rank == rankNone && incoming.rank == rankNone:
		return incoming.serverID == lastPlayed && holder.serverID != lastPlayed
	}
	return incoming.rank >= holder.rank
}
