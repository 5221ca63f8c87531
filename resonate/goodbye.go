package resonate

import (
	"errors"

	"resonatebridge/resonate/internal/dialect"
	"resonatebridge/resonate/internal/session"
	"resonatebridge/resonate/internal/supervisor"
	"resonatebridge/resonate/protocol"
)

// Reasons of verdicts beside those of client/goodbye.
const (
	reasonLost    = "lost"    // the connection broke or never came up
	reasonRefused = "refused" // the peer can't be served as it is
)

// judge says what follows the end of a session or an attempt (spec: messaging,
// client/goodbye; races: C.5). Who was switched off, or can't be served as it
// is, waits for its announcement; where none can come, it is tried now and then.
func judge(err error) supervisor.Verdict {
	v := verdict(err)
	var u unannounced
	if errors.As(err, &u) && v.Action == supervisor.Park && (v.Reason == string(protocol.GoodbyeShutdown) || v.Reason == reasonRefused) {
		v.Action = supervisor.RetrySlow
	}
	return v
}

func verdict(err error) supervisor.Verdict {
	var bye *session.GoodbyeError
	if errors.As(err, &bye) {
		return goodbyeVerdict(bye.Reason)
	}
	var refused *dialect.RefusedError
	if errors.As(err, &refused) {
		v := supervisor.Verdict{Action: supervisor.Retry, Reason: reasonRefused}
		if !refused.Redial && !errors.Is(err, session.ErrMalformed) && refused.Text != "bad first message" {
			// A bad first message may be a firmware that is still booting: it
			// is dialled again; everything else stays wrong until it changes.
			v.Action = supervisor.Park
			v.Leaves = supervisor.WhyReannounced | supervisor.WhyEndpoint | supervisor.WhyUser | supervisor.WhyConfig
		}
		return v
	}
	return supervisor.Verdict{Action: supervisor.Retry, Reason: reasonLost}
}

func goodbyeVerdict(r protocol.GoodbyeReason) supervisor.Verdict {
	const (
		user     = supervisor.WhyUser
		playback = supervisor.WhyPlayback
		again    = supervisor.WhyReannounced
		moved    = supervisor.WhyEndpoint
		config   = supervisor.WhyConfig
	)
	park := func(leaves supervisor.Why) supervisor.Verdict {
		return supervisor.Verdict{Action: supervisor.Park, Leaves: leaves, Reason: string(r)}
	}
	switch r {
	case protocol.GoodbyeRestart, "": // no reason given: assume restart (spec: client/goodbye)
		return supervisor.Verdict{Action: supervisor.RetryAtOnce, Reason: string(protocol.GoodbyeRestart)}
	case protocol.GoodbyeAnotherServer:
		return park(user | playback | again)
	case protocol.GoodbyeShutdown:
		return park(user | playback | again | moved)
	case protocol.GoodbyeUserRequest:
		return park(user | playback | again)
	case protocol.GoodbyeUnauthorized, protocol.GoodbyePairingRequired, protocol.GoodbyeUnpaired:
		return park(user | config)
	case protocol.GoodbyeConcurrentAttempt:
		return supervisor.Verdict{Action: supervisor.RetrySlow, Reason: string(r)}
	default: // newer firmware: as concurrent_attempt, which disturbs nobody
		return supervisor.Verdict{Action: supervisor.RetrySlow, Reason: string(r)}
	}
}

// declined reports whether a verdict means that the player itself said that it
// is not to be had (races: C.5, offline at once).
func declined(v supervisor.Verdict) bool {
	switch v.Reason {
	case string(protocol.GoodbyeShutdown), string(protocol.GoodbyeUserRequest),
		string(protocol.GoodbyePairingRequired), string(protocol.GoodbyeUnpaired):
		return true
	}
	return false
}

// spoken reports whether a verdict is the player's own word, not what we made of
// a connection that broke or never came up.
func spoken(v supervisor.Verdict) bool {
	return held(v) || declined(v) || v.Reason == string(protocol.GoodbyeUnauthorized)
}

// held reports whether a verdict means that another server has the player.
func held(v supervisor.Verdict) bool {
	switch v.Reason {
	case string(protocol.GoodbyeAnotherServer), string(protocol.GoodbyeConcurrentAttempt):
		return true
	case "", reasonLost, reasonRefused,
		string(protocol.GoodbyeRestart), string(protocol.GoodbyeShutdown), string(protocol.GoodbyeUserRequest),
		string(protocol.GoodbyeUnauthorized), string(protocol.GoodbyePairingRequired), string(protocol.GoodbyeUnpaired),
		supervisor.ReasonWithdrawn, supervisor.ReasonAddressReused, supervisor.ReasonSuperseded:
		return false
	}
	return true // unknown reasons are shown as standby
}
