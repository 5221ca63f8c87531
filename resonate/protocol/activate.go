package protocol

import (
	"math"

	"resonatebridge/timesync"
)

// ClientTrust is what a client's hello says of pairing.
type ClientTrust struct {
	Methods PairMethods
	// Unpaired says that the client lets a server without a pairing record play.
	Unpaired bool
}

// SendAhead is [AudioChunk.SendAhead] of a chunk that is sent now. 0 is also
// what is late, the largest value what is further ahead than that; neither is
// a measurement.
func SendAhead(timestamp, now timesync.Micros) uint32 {
	return uint32(min(max(timestamp-now, 0), math.MaxUint32))
}

// Activity is a purpose that a server declares for a connection.
type Activity string

// The activities, of which a server declares the fewest that are true.
const (
	ActivityPlayback Activity = "playback"
	ActivityPairing  Activity = "pairing"
)

// ServerActivate declares what a connection is for. The first one opens it;
// later ones change it.
type ServerActivate struct {
	Activities  []Activity     // unordered, without repetitions, may be empty
	ActiveRoles []Role         // nil: unchanged, on the first one none
	Pairing     *PairingChoice // with ActivityPairing, else nil
}

// Has reports whether a is declared.
func (m ServerActivate) Has(a Activity) bool {
	for _, have := range m.Activities {
		if have == a {
			return true
		}
	}
	return false
}

// ServerUnpair drops the server's pairing record from the client.
type ServerUnpair struct{}

func (ServerActivate) serverMessage() {}
func (ServerUnpair) serverMessage()   {}
