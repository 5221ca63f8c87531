// Package entities shows players, groups and the bridge as MQTT topics and
// Home Assistant devices, and turns command messages into [resonate.Command].
//
//	state     resonate.Server -Snapshot-> document.go -topics-> Broker.Set
//	commands  Broker.Messages -> command.go -Command-> Server.Do -> result topic
//	events    two snapshots -> event.go -> Broker.Publish
//
// What is published is a function of the newest snapshot ([Render]), never of
// its history: a reader that skipped versions shows the same topics. table.go
// has one row for each entity; TOPICS.md is written from it.
//
// # Trust
//
// A speaker's pairing is in its state, with a sentence for people; what a
// person enters goes to set/pair and is shown nowhere, not even in errors.
// PRESS there begins to pair, so that the button Pair and the text Pairing code
// share the topic. The entities of trustRows come and go with what applies: a
// speaker that was always paired has no Pair, one that speaks unencrypted has
// none of them. Since nobody remembers over a restart which were there, those
// that are not are announced as removed.
//
// # Concurrency
//
// [Run] is one goroutine that owns every map and timer here. It starts one
// goroutine for each command that is being carried out, at most one for each
// player and group, and waits for all of them before it returns. Nothing
// blocks it: Broker methods only enqueue, and Server.Do runs elsewhere.
//
// Left out here: pacing of discovery documents, replay after a reconnect and
// at the birth of Home Assistant, QoS and retain flags; the Broker does these.
package entities
