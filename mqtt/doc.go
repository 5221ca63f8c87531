// Package mqtt keeps a set of retained messages true at an MQTT 3.1.1 broker.
//
// The caller says what should be retained (Client.Set); the client makes it so,
// at once while connected and completely after each new connection. What is not
// level but an occurrence (an event, a command's result) goes out by
// Client.Publish or is dropped and counted; nothing is ever queued for a broker
// that is not there.
//
//	Set ──► wanted set ──► one loop ──► connection (one per generation) ──► broker
//	Publish ──► queue ─────┘  ▲ acks                     │
//	Messages ◄── queue ◄──────┼──── handler, never waits ◄┘
//
// After each connect:
//
//  1. get the lease (see lease), or stand by
//  2. subscribe, wait for the grant
//  3. publish the self-test nonce, then Online on the will's topic
//  4. discovery documents (paced), availability, states, in the order in which
//     the topics were first set
//
// Each connection is a new paho client that never reconnects by itself and has
// no store: paho keeps undelivered messages of a lost connection and sends them
// beside the fresh ones (measured with v1.5.1), and the wanted set makes that
// memory needless.
//
// Goroutines: Run is the only one of this package that lasts; paho's live and
// end with their connection. The wanted set and the queue of events sit behind
// one mutex that is never held across I/O. All exported methods may be called
// from any goroutine and none waits for the broker, except Run, Sweep, Collect
// and Request.
//
// Left out: MQTT 5, persistent sessions, QoS 2.
package mqtt
