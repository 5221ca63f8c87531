// Package resonate is the server side of Sendspin (until December 2025:
// Resonate): it keeps one supervised connection to every player that it hears
// of, groups players and says at any time what is true.
//
//	discovery ─Event─► Server ─Ensure(key)─► supervisor ─► session ◄─► player
//	                     │ ▲                                  │
//	  Snapshot, Changed ◄┘ └────── messages, Up and Down ─────┘
//	  Do(Command) ───────►
//
// State is level, not edge: [Server.Snapshot] is the truth and
// [Server.Changed] a one-slot wake-up, so a slow reader skips versions and
// never misses what is.
//
// # Goroutines and queues
//
//	loop        one, in Run: owns players, groups, records; blocks on nothing but its inbox
//	inbox       128 closures; senders block until the loop takes them or ends
//	actors      one per key, in the supervisor; they leave their newest status in a mailbox
//	sessions    a reader and a writer each (internal/session)
//	saver       one, in Run: writes records to disk, newest version only
//	watch       one, in Run: notices that the machine slept
package resonate
