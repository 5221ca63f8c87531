package discovery

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"runtime"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/grandcat/zeroconf"
	"github.com/miekg/dns"
	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"
)

// mdnsPort is where all of mDNS happens (RFC 6762 2).
const mdnsPort = 5353

// maxPacket is the largest packet read. mDNS allows 9000 bytes (RFC 6762 17);
// longer ones are cut and then refused as damaged.
const maxPacket = 16 << 10

func group4() net.IP { return net.IPv4(224, 0, 0, 251) }
func group6() net.IP { return net.ParseIP("ff02::fb") }

// link is one network interface as it was a moment ago.
type link struct {
	name     string
	index    int
	flags    net.Flags
	prefixes []netip.Prefix // its own addresses with their subnets
}

// admits reports whether a player heard on l may live at addr, and whether that
// is in one of l's subnets. Other subnets are admitted as long as they are
// private, since mDNS reflectors between the networks of one home are common.
// Public addresses elsewhere are not, so that a stranger's packet can't make us
// dial across the internet; nor is loopback, except on the loopback interface.
func (l link) admits(addr netip.Addr) (onLink, ok bool) {
	if addr.IsUnspecified() || addr.IsMulticast() || addr == netip.AddrFrom4([4]byte{255, 255, 255, 255}) {
		return false, false
	}
	if addr.IsLoopback() {
		loopback := l.flags&net.FlagLoopback != 0
		return loopback, loopback
	}
	for _, p := range l.prefixes {
		if p.Contains(addr) {
			return true, true
		}
	}
	return false, addr.IsPrivate() || addr.IsLinkLocalUnicast()
}

// systemLinks lists the interfaces of this machine.
func systemLinks() ([]link, error) {
	ifs, err := net.Interfaces()
	if err != nil {
		return nil, fmt.Errorf("discovery: list network interfaces: %w", err)
	}
	links := make([]link, 0, len(ifs))
	for _, i := range ifs {
		l := link{name: i.Name, index: i.Index, flags: i.Flags}
		addrs, err := i.Addrs()
		if err != nil {
			continue // it went away meanwhile
		}
		for _, a := range addrs {
			if p, err := netip.ParsePrefix(a.String()); err == nil {
				l.prefixes = append(l.prefixes, p)
			}
		}
		slices.SortFunc(l.prefixes, netip.Prefix.Compare)
		links = append(links, l)
	}
	return links, nil
}

// choose picks the interfaces to use: those named, as far as they are there
// and up, or by default those where a home's devices can be.
func choose(all []link, names []string) []link {
	return slices.DeleteFunc(slices.Clone(all), func(l link) bool {
		if len(names) > 0 {
			return l.flags&net.FlagUp == 0 || !slices.Contains(names, l.name)
		}
		return !l.isHome()
	})
}

// isHome reports whether l is used by default: up, multicast, and neither
// loopback nor a tunnel nor a network of containers.
func (l link) isHome() bool {
	const want, never = net.FlagUp | net.FlagMulticast, net.FlagLoopback | net.FlagPointToPoint
	if l.flags&want != want || l.flags&never != 0 {
		return false
	}
	for _, prefix := range []string{
		"docker", "br-", "veth", "virbr", "cni", "flannel", "cali", "hassio", "podman", "lxdbr",
		"tun", "tap", "tailscale", "wg", "zt",
	} {
		if strings.HasPrefix(l.name, prefix) {
			return false
		}
	}
	return true
}

// checkNames returns an error if a configured interface does not exist.
func checkNames(all []link, names []string) error {
	var have []string
	for _, l := range all {
		have = append(have, l.name)
	}
	for _, n := range names {
		if !slices.Contains(have, n) {
			return fmt.Errorf("discovery: interface %q does not exist: this machine has %s", n, strings.Join(have, ", "))
		}
	}
	return nil
}

// sameLinks reports whether nothing about the interfaces changed.
func sameLinks(a, b []link) bool {
	return slices.EqualFunc(a, b, func(a, b link) bool {
		return a.name == b.name && a.index == b.index && a.flags == b.flags && slices.Equal(a.prefixes, b.prefixes)
	})
}

// interfaces is links in the library's terms.
func interfaces(links []link) []net.Interface {
	ifs := make([]net.Interface, 0, len(links))
	for _, l := range links {
		ifs = append(ifs, net.Interface{Index: l.index, Name: l.name, Flags: l.flags})
	}
	return ifs
}

// packet is one mDNS response and where it was heard.
type packet struct {
	msg *dns.Msg
	on  link
}

// ear listens to the multicast groups on some interfaces.
type ear struct {
	links []link
	v4    *ipv4.PacketConn // nil where not available
	v6    *ipv6.PacketConn // nil where not available
}

// readBuffer in bytes is asked of the kernel, which grants what its limit allows.
// Linux counts 1,280 for an announcement: its default of 212,992 holds 166, so
// that of 200 speakers that get their power back at once 34 were not heard
// (measured on loopback); even under the default limit asking doubles it.
const readBuffer = 1 << 20

// openEar joins the groups on links. It succeeds if one join does.
func openEar(links []link) (*ear, error) {
	e := &ear{links: links}
	var errs []error
	// The group's network as local address makes Go bind the wildcard address
	// and share the port with other mDNS stacks.
	if c, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(224, 0, 0, 0), Port: mdnsPort}); err != nil {
		errs = append(errs, err)
	} else {
		_ = c.SetReadBuffer(readBuffer) // the default works too
		e.v4 = ipv4.NewPacketConn(c)
		err := e.v4.SetControlMessage(ipv4.FlagInterface|ipv4.FlagDst, true)
		joined := err == nil || runtime.GOOS == "windows" // which has no control messages
		if joined {
			joined, err = join(links, group4(), e.v4.JoinGroup)
		}
		if !joined {
			errs = append(errs, err)
			c.Close()
			e.v4 = nil
		} else if err := e.v4.SetMulticastTTL(255); err != nil { // (RFC 6762 11)
			errs = append(errs, err)
		}
	}
	if c, err := net.ListenUDP("udp6", &net.UDPAddr{IP: net.ParseIP("ff02::"), Port: mdnsPort}); err != nil {
		errs = append(errs, err)
	} else {
		_ = c.SetReadBuffer(readBuffer)
		e.v6 = ipv6.NewPacketConn(c)
		err := e.v6.SetControlMessage(ipv6.FlagInterface|ipv6.FlagDst, true)
		joined := err == nil || runtime.GOOS == "windows"
		if joined {
			joined, err = join(links, group6(), e.v6.JoinGroup)
		}
		if !joined {
			errs = append(errs, err)
			c.Close()
			e.v6 = nil
		} else if err := e.v6.SetMulticastHopLimit(255); err != nil {
			errs = append(errs, err)
		}
	}
	if e.v4 == nil && e.v6 == nil {
		return nil, fmt.Errorf("discovery: listen for mDNS: %w", errors.Join(errs...))
	}
	return e, nil
}

// join joins group on each of links and reports whether one of them worked.
func join(links []link, group net.IP, joinGroup func(*net.Interface, net.Addr) error) (ok bool, err error) {
	var errs []error
	for _, i := range interfaces(links) {
		if err := joinGroup(&i, &net.UDPAddr{IP: group}); err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", i.Name, err))
		}
	}
	return len(errs) < len(links), errors.Join(errs...)
}

// close ends listen.
func (e *ear) close() {
	if e.v4 != nil {
		e.v4.Close()
	}
	if e.v6 != nil {
		e.v6.Close()
	}
}

// listen passes on what is heard until the ear is closed or a socket fails; it
// returns when nothing is heard any more. heard may be called concurrently.
func (e *ear) listen(heard func(packet)) {
	var wg sync.WaitGroup
	if e.v4 != nil {
		// Owner: this call. Ends when the socket is closed. Blocks on the socket and heard.
		wg.Go(func() {
			e.receive(heard, func(b []byte) (n, index int, dst net.IP, src net.Addr, err error) {
				n, cm, src, err := e.v4.ReadFrom(b)
				if cm != nil {
					index, dst = cm.IfIndex, cm.Dst
				}
				return n, index, dst, src, err
			})
		})
	}
	if e.v6 != nil {
		// As above.
		wg.Go(func() {
			e.receive(heard, func(b []byte) (n, index int, dst net.IP, src net.Addr, err error) {
				n, cm, src, err := e.v6.ReadFrom(b)
				if cm != nil {
					index, dst = cm.IfIndex, cm.Dst
				}
				return n, index, dst, src, err
			})
		})
	}
	wg.Wait()
}

func (e *ear) receive(heard func(packet), read func([]byte) (n, index int, dst net.IP, src net.Addr, err error)) {
	buf := make([]byte, maxPacket)
	for {
		n, index, dst, src, err := read(buf)
		if err != nil {
			return
		}
		from, ok := src.(*net.UDPAddr)
		if !ok || dst != nil && !dst.Equal(group4()) && !dst.Equal(group6()) {
			continue // unicast: we never ask for that, and it may come from anywhere
		}
		at := slices.IndexFunc(e.links, func(l link) bool { return l.index == index })
		if at < 0 {
			// The kernel hands every socket what any process joined.
			if index != 0 || len(e.links) != 1 {
				continue
			}
			at = 0
		}
		if msg, ok := parseResponse(buf[:n], from.Port); ok {
			heard(packet{msg, e.links[at]})
		}
	}
}

// parseResponse decodes a packet, if it is a response that was sent by a full
// mDNS responder: from port 5353 (RFC 6762 6), response bit set (the answers
// in a query are what the asker believes), opcode and code 0 (RFC 6762 18).
func parseResponse(b []byte, port int) (*dns.Msg, bool) {
	const header, response = 12, 0x80
	if port != mdnsPort || len(b) < header || b[2]&response == 0 {
		return nil, false
	}
	msg := new(dns.Msg)
	if err := msg.Unpack(b); err != nil || msg.Opcode != dns.OpcodeQuery || msg.Rcode != dns.RcodeSuccess {
		return nil, false
	}
	return msg, true
}

// ask sends questions to all, a few per packet so that each fits its frame.
func (e *ear) ask(qs []dns.Question) error {
	const perPacket = 4
	var errs []error
	for some := range slices.Chunk(qs, perPacket) {
		msg := dns.Msg{Question: some}
		b, err := msg.Pack()
		if err != nil {
			errs = append(errs, err) // a name that a stranger made up
			continue
		}
		for _, l := range e.links {
			if e.v4 != nil {
				if _, err := e.v4.WriteTo(b, &ipv4.ControlMessage{IfIndex: l.index}, &net.UDPAddr{IP: group4(), Port: mdnsPort}); err != nil {
					errs = append(errs, err)
				}
			}
			if e.v6 != nil {
				if _, err := e.v6.WriteTo(b, &ipv6.ControlMessage{IfIndex: l.index}, &net.UDPAddr{IP: group6(), Port: mdnsPort}); err != nil {
					errs = append(errs, err)
				}
			}
		}
	}
	return errors.Join(errs...)
}

// round asks for service on the ear's interfaces and waits d for answers. It
// returns the DNS names of the instances that the library saw. These are no
// more than hints, since the library also takes records from queries and from
// any port; what counts is what the ear hears meanwhile.
//
// Each round has a Resolver of its own, since one can be used only once, and
// drains it to the end, since otherwise it never ends.
func (e *ear) round(parent context.Context, service string, d time.Duration) ([]string, error) {
	traffic := zeroconf.IPType(zeroconf.IPv4AndIPv6)
	switch {
	case e.v6 == nil:
		traffic = zeroconf.IPv4
	case e.v4 == nil:
		traffic = zeroconf.IPv6
	}
	r, err := zeroconf.NewResolver(zeroconf.SelectIfaces(interfaces(e.links)), zeroconf.SelectIPTraffic(traffic))
	if err != nil {
		return nil, fmt.Errorf("discovery: round for %s: %w", service, err)
	}
	ctx, cancel := context.WithTimeout(parent, d)
	defer cancel()
	entries := make(chan *zeroconf.ServiceEntry, 64)
	if err := r.Browse(ctx, service, "local.", entries); err != nil {
		cancel()
		for range entries { // closed by the library, also after an error
		}
		return nil, fmt.Errorf("discovery: round for %s: %w", service, err)
	}
	var names []string
	for entry := range entries {
		if len(names) < maxInstances {
			names = append(names, entry.Instance+"."+service+".local.")
		}
	}
	return names, parent.Err()
}
