package discovery

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"unicode"
)

// The defaults of a static URL (spec: Discovery, recommended port and path of
// a player).
const (
	defaultPort = 8928
	defaultPath = "/sendspin"
)

// static announces endpoints from configuration.
type static []Endpoint

// NewStatic makes a Source of players at fixed places: ws://host:port/path,
// where a missing port is 8928 and a missing path, or just /, is /sendspin. A repeated URL
// counts once. Names are not resolved here: whoever dials does, each time. The
// error names every URL that is wrong.
func NewStatic(urls []string) (Source, error) {
	var (
		eps  static
		errs []error
		seen = make(map[string]bool)
	)
	for _, raw := range urls {
		ep, err := ParseStatic(raw)
		if err != nil {
			errs = append(errs, fmt.Errorf("discovery: static player %q: %w", raw, err))
			continue
		}
		if !seen[ep.Key] {
			seen[ep.Key] = true
			eps = append(eps, ep)
		}
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	return eps, nil
}

// Run announces every endpoint once and waits for ctx.
func (s static) Run(ctx context.Context, emit func(Event)) error {
	for _, ep := range s {
		emit(Event{Kind: Announced, Endpoint: ep})
	}
	<-ctx.Done()
	return nil
}

// ParseStatic reads one URL, see [NewStatic]. The error does not name the URL.
func ParseStatic(raw string) (Endpoint, error) {
	u, err := url.Parse(strings.TrimSpace(raw))
	if err != nil {
		if inner := (*url.Error)(nil); errors.As(err, &inner) {
			err = inner.Err // the URL is named by the caller
		}
		return Endpoint{}, err
	}
	switch {
	case !strings.EqualFold(u.Scheme, "ws"):
		return Endpoint{}, fmt.Errorf("scheme %q: want ws, as in ws://192.168.1.20:%d%s", u.Scheme, defaultPort, defaultPath)
	case u.Hostname() == "":
		return Endpoint{}, errors.New("the host is missing")
	case u.User != nil:
		return Endpoint{}, errors.New("user and password are not part of the protocol: leave them out")
	case u.Fragment != "":
		return Endpoint{}, fmt.Errorf("fragment %q: leave it out", u.Fragment)
	}
	port := uint64(defaultPort)
	if p := u.Port(); p != "" {
		if port, err = strconv.ParseUint(p, 10, 16); err != nil || port == 0 {
			return Endpoint{}, fmt.Errorf("port %q: want 1 to 65535", p)
		}
	}
	path := u.EscapedPath()
	if path == "" || path == "/" {
		path = defaultPath
	}
	if u.RawQuery != "" {
		path += "?" + u.RawQuery
	}
	if !isPath(path) {
		return Endpoint{}, fmt.Errorf("path %q: want at most %d bytes without white space", path, maxPath)
	}
	host := strings.ToLower(u.Hostname())
	ep := Endpoint{Name: cleanName(host), Path: path, Service: ServiceStatic}
	if addr, err := netip.ParseAddr(u.Hostname()); err == nil { // not lowered: a zone is an interface name
		addr = addr.Unmap()
		host = addr.String()
		ep.Name = host
		ep.Addrs = []netip.AddrPort{netip.AddrPortFrom(addr, uint16(port))}
	} else if !isHostName(host) {
		return Endpoint{}, fmt.Errorf("host %q: want a name or an address, IPv6 in brackets", host)
	} else {
		ep.Host, ep.Port = host, uint16(port)
	}
	ep.Key = wsURL(hostPort(host, uint16(port)), path)
	return ep, nil
}

// isHostName reports whether s may be a name to resolve. Letters of any script
// are left to the resolver.
func isHostName(s string) bool {
	const maxHostName = 253 // bytes (RFC 1035 2.3.4)
	return len(s) <= maxHostName && !strings.ContainsFunc(s, func(r rune) bool {
		return !unicode.In(r, unicode.Letter, unicode.Mark, unicode.Digit) && !strings.ContainsRune("-._", r)
	})
}

func wsURL(hostPort, path string) string { return "ws://" + hostPort + path }

// hostPort joins host and port for a URL, where the % of a zone is written %25
// (RFC 6874).
func hostPort(host string, port uint16) string {
	return net.JoinHostPort(strings.Replace(host, "%", "%25", 1), strconv.Itoa(int(port)))
}
