package app

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"slices"
	"sync"

	"resonatebridge/discovery"
	"resonatebridge/resonate"
)

// finder finds players for the server, and tells it of other servers.
type finder struct {
	sources []discovery.Source
	players *discovery.Browser // nil: mDNS is off
	options RunOptions
	log     *slog.Logger
}

func newFinder(cfg Config, o RunOptions, log *slog.Logger) (*finder, error) {
	f := &finder{options: o, log: log}
	static, err := discovery.NewStatic(cfg.Discovery.Players)
	if err != nil {
		return nil, fmt.Errorf("discovery.players: %w", err)
	}
	f.sources = append(f.sources, static)
	if cfg.Discovery.Enabled {
		f.players = discovery.NewMDNS(discovery.MDNSOptions{Services: o.Services.Players, Interfaces: cfg.Discovery.Interfaces, Log: log})
		f.sources = append(f.sources, f.players)
	}
	return f, nil
}

// Kick asks for a round of mDNS now.
func (f *finder) Kick() {
	if f.players != nil {
		f.players.Kick()
	}
}

// run tells s what is found until ctx ends.
func (f *finder) run(ctx context.Context, s *resonate.Server) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var wg sync.WaitGroup
	defer wg.Wait()
	if f.players != nil {
		wg.Go(func() { // owner: run; ends with ctx
			if err := f.watchServers(ctx, s); err != nil {
				f.log.Warn("other servers are not looked for", slog.Any("err", err))
			}
		})
	}
	return discovery.Merge(f.sources...).Run(ctx, func(ev discovery.Event) {
		if f.options.Admit == nil || f.options.Admit(ev.Endpoint) {
			s.Discover(ev)
		}
	})
}

// watchServers keeps the list of other servers that s shows.
func (f *finder) watchServers(ctx context.Context, s *resonate.Server) error {
	found := map[string]discovery.Server{}
	browser := discovery.NewMDNS(discovery.MDNSOptions{
		Services: f.options.Services.Servers, Interfaces: f.options.Config.Discovery.Interfaces,
		Ignore: []string{s.Identity().ID}, Log: f.log,
	})
	return browser.Run(ctx, func(ev discovery.Event) {
		if ev.Kind == discovery.Withdrawn {
			delete(found, ev.Endpoint.Key)
		} else {
			found[ev.Endpoint.Key] = discovery.ServerOf(ev.Endpoint)
		}
		var others []resonate.OtherServer
		for _, key := range slices.Sorted(maps.Keys(found)) {
			other := resonate.OtherServer{Name: found[key].Name, URL: found[key].URL}
			// One server often advertises under the old and the new type.
			if !slices.Contains(others, other) {
				others = append(others, other)
			}
		}
		s.SetOtherServers(others)
	})
}

// advertised are our own advertisements, one for each service type.
func (f *finder) advertised(cfg Config, id resonate.Identity, listen net.Addr) []discovery.AdvertiseOptions {
	tcp, ok := listen.(*net.TCPAddr)
	if !cfg.Discovery.Enabled || !cfg.Discovery.Advertise || !ok {
		return nil
	}
	var out []discovery.AdvertiseOptions
	for _, service := range f.options.Services.Servers {
		path := cfg.Server.Path
		if service == discovery.ServiceServerOld {
			path = "/resonate"
		}
		out = append(out, discovery.AdvertiseOptions{
			Instance: id.ID, Service: service, Port: uint16(tcp.Port), Path: path, Name: id.Name, //nolint:gosec // a TCP port
			Interfaces: cfg.Discovery.Interfaces, Log: f.log,
		})
	}
	return out
}
