package discovery

import "context"

// Source is a place that endpoints come from.
type Source interface {
	// Run reports what it learns to emit until ctx ends, then returns nil and
	// leaves no goroutine behind. Any other return is an error that waiting
	// does not heal, such as a configured interface that does not exist.
	//
	// emit is never called concurrently and never after Run returned. It must
	// be quick, since the source hears nothing meanwhile.
	Run(ctx context.Context, emit func(Event)) error
}

// The service types of the protocol. The old ones are those of Resonate, as
// the protocol was called until December 2025.
const (
	ServicePlayer    = "_sendspin._tcp"
	ServicePlayerOld = "_resonate._tcp"
	ServiceServer    = "_sendspin-server._tcp"
	ServiceServerOld = "_resonate-server._tcp"
	ServiceStatic    = "static" // not on the wire: an endpoint from configuration
)

// IsServer reports whether e advertises a server rather than a player.
func (e Endpoint) IsServer() bool {
	return e.Service == ServiceServer || e.Service == ServiceServerOld
}

// URLs returns where e can be dialled, best first: one ws:// URL per address,
// or the one with its host name.
func (e Endpoint) URLs() []string {
	if e.Host != "" {
		return []string{wsURL(hostPort(e.Host, e.Port), e.Path)}
	}
	urls := make([]string, 0, len(e.Addrs))
	for _, a := range e.Addrs {
		urls = append(urls, wsURL(hostPort(a.Addr().String(), a.Port()), e.Path))
	}
	return urls
}

// ServerOf turns the endpoint of a server into a Server, with the best URL.
func ServerOf(e Endpoint) Server {
	s := Server{Key: e.Key, Name: e.Name}
	if urls := e.URLs(); len(urls) > 0 {
		s.URL = urls[0]
	}
	return s
}
