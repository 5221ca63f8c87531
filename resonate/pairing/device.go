package pairing

import (
	"time"

	"resonatebridge/resonate/protocol"
)

// Limits of a client (spec: Rounds, Pairing Window, Entering and leaving
// pairing).
const (
	// RoundLimit is how many rounds a client runs without seeing the right
	// code, over all its connections, before it wants a [Device.Gesture].
	RoundLimit = 20

	windowLifetime = 5 * time.Minute
	windowFailures = 5               // wrong static codes that close the window
	attemptTimeout = 2 * time.Minute // from client/pair-init on
)

// Device is what all connections of one client share of pairing: its secrets
// and the limits on guessing. It is not safe for concurrent use, together with
// the [Client] values that use it.
type Device struct {
	// PairingKey lets a server pair by token. Every client has one, made once
	// from a CSPRNG and kept.
	PairingKey protocol.PSK
	// Static is the code on the label; the zero value offers no static code.
	Static Code
	// Dynamic is what a dynamic code can be shown with; nil offers none. It
	// excludes Static.
	Dynamic *protocol.DynamicCode
	// Rounds counts since the last right code. A client keeps it over a
	// restart, which would otherwise be a fresh start for guessing.
	Rounds int

	window struct {
		until    time.Time // zero: closed
		owner    *Client   // whose first attempt it admitted
		failures int
	}
}

// Methods is what the client offers in its hello.
func (d *Device) Methods() *protocol.PairMethods {
	m := &protocol.PairMethods{PSK: &protocol.FixedSecret{Locations: []protocol.SecretLocation{protocol.LocationDevice}}}
	switch {
	case d.Dynamic != nil:
		m.Dynamic = d.Dynamic
	case !d.Static.IsZero():
		m.Static = &protocol.FixedSecret{Locations: []protocol.SecretLocation{protocol.LocationDevice}}
	}
	return m
}

// Token is the token of the client with this key.
func (d *Device) Token(client PublicKey) Token { return Token{Client: client, PSK: d.PairingKey} }

// Gesture is a person's deliberate act at the device: it opens the window for
// attempts with the static code, and admits attempts with dynamic codes again.
// [Client.Tick] of the clients that hold one back begins it.
func (d *Device) Gesture(now time.Time) {
	d.Rounds = 0
	d.closeWindow()
	d.window.until = now.Add(windowLifetime)
}

func (d *Device) closeWindow() {
	d.window.until = time.Time{}
	d.window.owner = nil
	d.window.failures = 0
}

// admits reports whether c may begin an attempt now, and makes the window c's.
func (d *Device) admits(c *Client, method protocol.PairMethod, now time.Time) bool {
	switch method {
	case protocol.PairByDynamicCode:
		return d.Rounds < RoundLimit
	case protocol.PairByStaticCode:
		w := &d.window
		if !w.until.IsZero() && !now.Before(w.until) {
			d.closeWindow()
		}
		if w.until.IsZero() || w.owner != nil && w.owner != c {
			return false
		}
		w.owner = c
	case protocol.PairByPSK:
	}
	return true
}

// wrongStaticCode counts against the window.
func (d *Device) wrongStaticCode() {
	if d.window.failures++; d.window.failures >= windowFailures {
		d.closeWindow()
	}
}
