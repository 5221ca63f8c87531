package pairing

import (
	"slices"

	"resonatebridge/resonate/protocol"
)

// Permits reports whether a server may declare these activities on a session
// keyed by a key of this category. unpaired says that the client has its
// unpaired access on (spec: server/activate).
func Permits(c Category, unpaired bool, activities ...protocol.Activity) bool {
	for _, a := range activities {
		switch a {
		case protocol.ActivityPlayback:
			if !c.Paired() && !unpaired {
				return false
			}
		case protocol.ActivityPairing:
			if c.Paired() {
				return false
			}
		default:
			return false
		}
	}
	return true
}

// PlaybackCapable reports whether roles may be active beside these activities,
// even if playback is none of them.
func PlaybackCapable(c Category, unpaired bool, activities ...protocol.Activity) bool {
	return Permits(c, unpaired, append(slices.Clone(activities), protocol.ActivityPlayback)...)
}

// Verdict is how a client takes an activation.
type Verdict int

// The verdicts, and how a client acts on those that refuse.
const (
	Admitted           Verdict = iota
	PairingRequired            // goodbye pairing_required, close
	Unauthorized               // goodbye unauthorized, close
	MethodNotSupported         // pair/abort method_not_supported, the connection stays
)

// Judge decides on an activation of a connection. unpaired says whether the
// client's unpaired access is on. The first that applies counts:
//
//  1. with unpaired access on all would be well: pairing required
//  2. the key does not permit the activities, or roles beside them: unauthorized
//  3. the way of pairing is not offered or not for this key: not supported
func (d *Device) Judge(ch Channel, unpaired bool, m protocol.ServerActivate) Verdict {
	verdict := d.judge(ch, unpaired, m)
	if verdict != Admitted && !ch.Category.Paired() && !unpaired && d.judge(ch, true, m) == Admitted {
		return PairingRequired
	}
	return verdict
}

func (d *Device) judge(ch Channel, unpaired bool, m protocol.ServerActivate) Verdict {
	switch {
	case ch.Old && !apart(ch.Category, m),
		!Permits(ch.Category, unpaired, m.Activities...),
		len(m.ActiveRoles) > 0 && !PlaybackCapable(ch.Category, unpaired, m.Activities...):
		return Unauthorized
	case m.Has(protocol.ActivityPairing) &&
		(m.Pairing == nil || !d.Methods().Offers(*m.Pairing) || !ch.supports(m.Pairing.Method)):
		return MethodNotSupported
	}
	return Admitted
}

// apart reports whether an activation keeps pairing and all else apart, as the
// generation before 1.0.0-rc1 wants it: its pairing key is for an attempt alone,
// and nothing goes on beside one (aiosendspin 9.1.1, client/connection.py).
func apart(c Category, m protocol.ServerActivate) bool {
	if m.Has(protocol.ActivityPairing) {
		return len(m.Activities) == 1 && len(m.ActiveRoles) == 0
	}
	return c != PairingKey
}
