package discovery

import (
	"context"
	"crypto/rand"
	"fmt"
	"log/slog"
	"net"
	"regexp"
	"strings"
	"time"

	"github.com/grandcat/zeroconf"
)

// announceTime is how long the library's announcing goroutine lives, which
// Shutdown does not end: two pauses of up to 250 ms, then 1 s and 2 s (source:
// grandcat/zeroconf server.go, probe).
const announceTime = 3600 * time.Millisecond

// AdvertiseOptions say what to advertise, and where.
type AdvertiseOptions struct {
	Instance   string       // unique on the network; any text, cut to 63 bytes
	Service    string       // such as "_sendspin-server._tcp"
	Port       uint16       // of the WebSocket
	Path       string       // TXT path, begins with "/"
	Name       string       // TXT name, for people; may be empty
	Interfaces []string     // as in MDNSOptions
	Host       string       // label of the host name under .local; empty: one of our own, random per call
	Log        *slog.Logger // nil: silent
}

// Advertise announces a service over mDNS and answers questions about it until
// ctx ends; then it says goodbye, at once, and returns nil. When interfaces or
// addresses change it announces anew. No network is no error: it waits for one.
// An error means that an option is wrong, or names an interface that does not
// exist.
//
// Each interface is told its own addresses. The host name is not the machine's,
// so that the system's responder, which owns that one, is not contradicted.
//
// Interfaces limits where it announces, not who may ask: on Linux the library's
// sockets also hear questions on interfaces that another process has joined, and
// answer there (measured: a service on lo was given to the network as
// 127.0.0.1). What must stay on this machine takes a service type of its own.
//
// If ctx ends in the first 3.6 s after an announcement, the goodbye still goes
// out at once, but the return waits for the rest of that time: the library
// can't stop its announcing goroutine any earlier.
func Advertise(ctx context.Context, opts AdvertiseOptions) error {
	if opts.Log == nil {
		opts.Log = slog.New(slog.DiscardHandler)
	}
	a, err := newAdvert(opts)
	if err != nil {
		return err
	}
	all, err := systemLinks()
	if err != nil {
		return err
	}
	if err := checkNames(all, opts.Interfaces); err != nil {
		return err
	}
	defer a.end()
	look := time.NewTicker(lookAround)
	defer look.Stop()
	for {
		if links := choose(all, opts.Interfaces); !sameLinks(links, a.links) || len(a.servers) == 0 {
			a.announce(links)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-look.C:
		}
		if now, err := systemLinks(); err == nil {
			all = now
		}
	}
}

// advert is one service that is advertised.
type advert struct {
	opts     AdvertiseOptions
	instance string // in presentation form
	txt      []string
	links    []link
	servers  []*zeroconf.Server
	settled  time.Time // when the library's announcing goroutines have ended
	mute     string    // the last trouble that was logged
}

func newAdvert(opts AdvertiseOptions) (*advert, error) {
	instance, err := escapeLabel(opts.Instance)
	if err != nil {
		return nil, fmt.Errorf("discovery: advertise: %w", err)
	}
	if err := checkService(opts.Service); err != nil {
		return nil, fmt.Errorf("advertise: %w", err)
	}
	if opts.Port == 0 {
		return nil, fmt.Errorf("discovery: advertise %s: port 0: want the port that is listened on", opts.Service)
	}
	if !isPath(opts.Path) || len(opts.Path) > maxString-len("path=") {
		return nil, fmt.Errorf(`discovery: advertise %s: path %q: want one that begins with "/", at most %d bytes`,
			opts.Service, opts.Path, maxString-len("path="))
	}
	if opts.Host == "" {
		opts.Host = "resonate-" + strings.ToLower(rand.Text()[:10])
	}
	if ok, err := regexp.MatchString(`^[A-Za-z0-9-]{1,63}$`, opts.Host); err != nil || !ok {
		return nil, fmt.Errorf("discovery: advertise %s: host %q: want one label of letters, digits and hyphens", opts.Service, opts.Host)
	}
	txt := []string{escapeString("path", opts.Path)}
	if name := cleanName(opts.Name); name != "" {
		txt = append(txt, escapeString("name", name))
	}
	return &advert{opts: opts, instance: instance, txt: txt}, nil
}

// announce replaces what is advertised by the same on links.
func (a *advert) announce(links []link) {
	a.shutdown()
	a.links = links
	if len(links) == 0 {
		a.trouble(fmt.Errorf("no suitable network interface, waiting for one"))
		return
	}
	// Without addresses the library answers on each interface with those that
	// the interface has at that moment, except for loopback ones: these have to
	// be given, to a server of their own.
	var loopback, rest []link
	var ips []string
	for _, l := range links {
		if l.flags&net.FlagLoopback == 0 {
			rest = append(rest, l)
			continue
		}
		loopback = append(loopback, l)
		for _, p := range l.prefixes {
			if p.Addr().Is4() && p.Addr().IsLoopback() {
				ips = append(ips, p.Addr().String())
			}
		}
	}
	var err error
	if len(rest) > 0 {
		err = a.register(nil, rest)
	}
	if len(ips) > 0 {
		if e := a.register(ips, loopback); e != nil {
			err = e
		}
	}
	if err != nil {
		a.shutdown() // all or nothing: the next look around tries again
		a.trouble(err)
		return
	}
	a.mute = ""
	a.opts.Log.Info("advertised", slog.String("service", a.opts.Service), slog.String("instance", a.opts.Instance),
		slog.Int("port", int(a.opts.Port)), slog.String("path", a.opts.Path))
}

func (a *advert) register(ips []string, links []link) error {
	s, err := zeroconf.RegisterProxy(a.instance, a.opts.Service, "local.", int(a.opts.Port), a.opts.Host, ips, a.txt, interfaces(links))
	if err != nil {
		return fmt.Errorf("discovery: advertise %s: %w", a.opts.Service, err)
	}
	a.servers = append(a.servers, s)
	a.settled = time.Now().Add(announceTime)
	return nil
}

// shutdown says goodbye.
func (a *advert) shutdown() {
	for _, s := range a.servers {
		s.Shutdown()
	}
	a.servers = nil
}

// end says goodbye and waits until nothing runs any more.
func (a *advert) end() {
	a.shutdown()
	<-time.After(time.Until(a.settled))
}

func (a *advert) trouble(err error) {
	if text := err.Error(); text != a.mute {
		a.mute = text
		a.opts.Log.Warn("not advertised", slog.String("service", a.opts.Service), slog.Any("err", err))
	}
}
