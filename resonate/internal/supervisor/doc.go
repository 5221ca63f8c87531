// Package supervisor is the keyed singleflight map of supervised connections:
// one entry per key, one goroutine per entry, one connection per goroutine. It
// keeps the idea of singleflight, join instead of duplicate, and adds what a
// resource that lives for days needs: identity, cancel, wait, and successor.
// It knows no protocol.
//
//	               slot            socket open          Session calls up
//	 Ensure ─► Waiting ──► Dialing ───────────► Greeting ───────────► Up
//	             ▲  ▲         │ error,            │ bad hello,        │ │ Remove, Close,
//	             │  │         │ timeout           │ other id          │ │ failed probe
//	             │  └─────────┴───────────────────┘       ended by    │ ▼
//	timer, nudge │                                        itself      │ Draining
//	             │   by verdict                                       │ │
//	  Waiting ◄──┴──────────────────────────────────────────────────┬─┴─┘
//	  Parked  ◄─────────────────────────────────────────────────────┤
//	  Gone    ◄─────────────────────────────────────────────────────┘
//	          Remove, Close; also: alias of another key, inbound and nothing to dial
//
// # What holds
//
//   - In the map means "may still hold a socket": an entry leaves it only by
//     its own goroutine's last act, compared by pointer, when its session has
//     ended. So there is at most one live session per key, and a successor
//     starts after its predecessor is gone.
//   - Up and its end alternate strictly per key and per client id, and
//     generations rise, over the whole map and without reset, so also from one
//     entry to the next and from one key to the other.
//   - A session that comes up after its entry was removed is closed by the
//     same code that would have served it, and nobody hears of it. No Up is
//     published after Remove has returned; a Notify call that was under way
//     then may still arrive, and its end follows it.
//   - At most one entry is bound to a client id. A second key that turns out
//     to be the same player becomes an alias: its session is killed, its entry
//     is Gone with ErrAlias without ever having been Up, and its endpoint
//     becomes a candidate of the holder, who is nudged with WhyEndpoint. Ensure,
//     Nudge, Remove and Status of the alias then concern that candidate. When
//     the holder is gone for good, every alias that nobody removed gets an
//     entry of its own again.
//   - A key that is bound to an id keeps it as long as its entry lives and the
//     id has no other way. When another device answers, the session is killed.
//     An alias that led there is released; from the entry's own endpoint the
//     aliases are, and take the id with them. Without any, the key waits 30 to
//     300 s. Then only an attempt caused by WhyUser, WhyConfig or WhyReannounced
//     may bind the key to the new id, or make it an alias of the entry that has
//     that id.
//     An entry that Adopt made never changes its id.
//   - An entry that has nothing to dial, no session, and nobody waiting leaves
//     the map; its last status carries cause and verdict.
//   - A withdrawn advertisement never ends a session that answers a probe, and
//     an answer revokes it. It ends the waiting for a dead one, once every
//     candidate was withdrawn.
//
// # Goroutines
//
//	actor   one per entry; started by Ensure, Adopt or a predecessor's exit; ends with Remove,
//	        Close or by its own decision; blocks on its wake token, timers, and results below,
//	        and in Judge and Notify, which must not block
//	dial    one per attempt, at most DialsInFlight; awaited by its actor; blocks in Options.Dial
//	run     one per session; awaited by its actor; blocks in Session.Run
//	probe   at most one per session; awaited by its actor; blocks in Session.Probe, at most ProbeTimeout
//
// One mutex guards the map and a few fields of each entry. It is never held
// across I/O, a wait, or a call into the user's code except Options.Equal.
// Queues: one wake token and one set of bits per entry, one waiting inbound
// session per entry (the newest; the others are killed). Nothing is dropped
// silently: nudges coalesce by class, statuses are levels.
package supervisor
