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
