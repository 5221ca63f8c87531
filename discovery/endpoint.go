// Package discovery finds players and servers: by mDNS, from configuration,
// and merged into one Endpoint per player. What it says are hints: whether a
// player is there is known only to its connection (races.md B3).
package discovery

import (
	"net/netip"
	"slices"
)

// Endpoint says where one player can be reached. It is a value: never changed
// after it was handed out.
type Endpoint struct {
	Key     string           // stable identity: the mDNS instance name with its service type, or the URL of a static endpoint
	Name    string           // for people: TXT name, else the instance name; at most 256 bytes of valid UTF-8
	Host    string           // for static endpoints whose host is a name, else empty
	Port    uint16           // with Host
	Addrs   []netip.AddrPort // candidates, best first; IPv6 link-local ones carry a zone
	Path    string           // begins with "/"
	Service string           // "_sendspin._tcp", "_resonate._tcp", or "static"
}

// Equal reports whether e and o are reached the same way.
func (e Endpoint) Equal(o Endpoint) bool {
	return e.Key == o.Key && e.Host == o.Host && e.Port == o.Port && e.Path == o.Path && slices.Equal(e.Addrs, o.Addrs)
}

// Kind tells what discovery learned about an endpoint.
type Kind uint8

// The kinds of events.
const (
	// Announced: new, changed in any way, or heard again after Withdrawn. A
	// record that merely repeats makes no event.
	Announced Kind = iota + 1
	// Withdrawn: a goodbye was heard, the record expired, or it was missing
	// from three rounds. A hint: a live connection outlives it.
	Withdrawn
)

// Event is one thing that discovery learned.
type Event struct {
	Kind     Kind
	Endpoint Endpoint // with Withdrawn: the last known one
	Again    bool     // with Announced: after a goodbye or expiry, so the device probably restarted
}

// Server is another server of the protocol, as its advertisement says.
type Server struct {
	Key  string // mDNS instance name with its service type
	Name string // for people
	URL  string // ws://host:port/path
}
