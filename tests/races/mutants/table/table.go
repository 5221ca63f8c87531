package table

import "slices"

// Where the guards and their tests are.
const (
	supervisor = "resonate/internal/supervisor"
	session    = "resonate/internal/session"
	contain    = "resonate/internal/contain"
	sound      = "resonate/internal/stream"
	dial       = "resonate/internal/dial"
	server     = "resonate"
	client     = "resonate/client"
	pairs      = "resonate/pairing"
	sealing    = "resonate/internal/noise"
	model      = "resonate/protocol"
	clock      = "timesync"
	browser    = "discovery"
	broker     = "mqtt"
	entities   = "entities"
	process    = "cmd/bridge/app"
)

// All are the mutants, in the order of the catalogue.
func All() []Mutant {
	return slices.Concat(claims(), defects(), hazards(), attacks(), found(), trust())
}

// at is the one edit that most mutants have.
func at(file, old, without string) []Edit { return []Edit{{file, old, without}} }

// killedBy names tests of a package.
func killedBy(pkg, run string) Test { return Test{Package: pkg, Run: run} }

// seenByRace names tests that fail only under the race detector.
func seenByRace(pkg, run string) Test { return Test{Package: pkg, Run: run, Race: true} }
