package discovery

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/miekg/dns"
)

// fakeNet is a network under a test's control. Its ears hear what say says.
type fakeNet struct {
	mu     sync.Mutex
	links  []link
	fails  error // of open
	ears   []*fakeEar
	rounds []time.Duration // since the start
	start  time.Time
	names  []string // what a round's library sees
}

type fakeEar struct {
	net    *fakeNet
	said   chan packet
	closed chan struct{}
	once   sync.Once
	asked  []dns.Question
}

func (n *fakeNet) open([]link) (listener, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.fails != nil {
		return nil, n.fails
	}
	e := &fakeEar{net: n, said: make(chan packet), closed: make(chan struct{})}
	n.ears = append(n.ears, e)
	return e, nil
}

func (n *fakeNet) set(change func()) {
	n.mu.Lock()
	defer n.mu.Unlock()
	change()
}

func (e *fakeEar) listen(heard func(packet)) {
	for {
		select {
		case p := <-e.said:
			heard(p)
		case <-e.closed:
			return
		}
	}
}

func (e *fakeEar) ask(qs []dns.Question) error {
	e.net.set(func() { e.asked = append(e.asked, qs...) })
	return nil
}

func (e *fakeEar) round(ctx context.Context, _ string, d time.Duration) (names []string, _ error) {
	e.net.set(func() {
		e.net.rounds = append(e.net.rounds, time.Since(e.net.start))
		names = e.net.names
	})
	select {
	case <-time.After(d):
		return names, nil
	case <-ctx.Done():
		return names, ctx.Err()
	}
}

func (e *fakeEar) close() { e.once.Do(func() { close(e.closed) }) }

func (e *fakeEar) say(t *testing.T, rrs ...string) {
	t.Helper()
	msg := new(dns.Msg)
	for _, text := range rrs {
		rr, err := dns.NewRR(text)
		if err != nil {
			t.Fatal(err)
		}
		msg.Answer = append(msg.Answer, rr)
	}
	e.said <- packet{msg, eth0()}
	synctest.Wait()
}

// browseFake runs a Browser on n in a bubble.
func browseFake(t *testing.T, n *fakeNet, log *slog.Logger) (*Browser, <-chan Event) {
	t.Helper()
	n.start = time.Now()
	b := NewMDNS(MDNSOptions{Services: []string{testService}, Log: log})
	b.net = network{
		links: func() ([]link, error) { n.mu.Lock(); defer n.mu.Unlock(); return slices.Clone(n.links), nil },
		open:  n.open,
	}
	events := listenTo(t, b)
	synctest.Wait()
	return b, events
}

func TestBrowserHears(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := &fakeNet{links: []link{eth0()}}
		_, events := browseFake(t, n, nil)
		time.Sleep(10 * time.Second)
		n.ears[0].say(t, kit()...)
		if len(events) != 1 {
			t.Fatalf("%d events at the announcement, want 1", len(events))
		}
		if ev := <-events; ev.Kind != Announced || ev.Endpoint.Key != "kit._t._tcp" {
			t.Errorf("got %+v, want kit announced", ev)
		}
		n.ears[0].say(t, kitBye)
		time.Sleep(goodbyeGrace)
		synctest.Wait()
		if len(events) != 1 {
			t.Fatalf("%d events a second after the goodbye, want 1", len(events))
		}
		if ev := <-events; ev.Kind != Withdrawn {
			t.Errorf("got %+v, want withdrawn", ev)
		}
	})
}

func TestBrowserRounds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := &fakeNet{links: []link{eth0()}}
		b, _ := browseFake(t, n, nil)
		time.Sleep(10 * time.Minute)
		synctest.Wait()
		for i, at := range n.rounds {
			switch want := time.Duration(i) * roundFirst; {
			case i < 12 && at != want:
				t.Errorf("round %d: got %v, want %v", i, at, want)
			case i >= 13 && (at-n.rounds[i-1] < roundLater || at-n.rounds[i-1] > roundLater+roundMore):
				t.Errorf("round %d: got %v after the one before, want 20 s to 30 s", i, at-n.rounds[i-1])
			}
		}
		if got := len(n.rounds); got < 12+540/30 {
			t.Errorf("%d rounds in 10 minutes, want at least 30", got)
		}
		if got := b.Stats().Rounds; got == 0 {
			t.Error("no round counted")
		}
	})
}

func TestBrowserKick(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := &fakeNet{links: []link{eth0()}}
		b, events := browseFake(t, n, nil)
		time.Sleep(2 * time.Minute)
		synctest.Wait()
		n.ears[0].say(t, kit()...)
		<-events
		time.Sleep(40 * time.Second) // beyond the current round
		synctest.Wait()
		for len(events) > 0 {
			<-events
		}
		before := len(n.rounds)
		for range 1000 {
			b.Kick()
		}
		time.Sleep(10 * time.Second)
		synctest.Wait()
		if got := len(n.rounds) - before; got < 1 || got > 4 {
			t.Errorf("%d rounds after 1000 kicks, want 1 to 4", got)
		}
		for i := 1; i < len(n.rounds); i++ {
			if gap := n.rounds[i] - n.rounds[i-1]; gap < roundGap {
				t.Errorf("round %d came %v after the one before, want at least %v", i, gap, roundGap)
			}
		}
	})
}

func TestBrowserKickedRoundsTakeNothingAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := &fakeNet{links: []link{eth0()}}
		b, events := browseFake(t, n, nil)
		time.Sleep(2 * time.Minute)
		n.ears[0].say(t, kit()...)
		for range 5 {
			b.Kick()
			time.Sleep(roundTime + time.Second)
		}
		synctest.Wait()
		if len(events) != 1 {
			t.Errorf("%d events after five kicks without an answer, want the announcement alone", len(events))
		}
	})
}

func TestBrowserAsksAboutHints(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := &fakeNet{links: []link{eth0()}, names: []string{"kit._t._tcp.local."}}
		browseFake(t, n, nil)
		time.Sleep(roundTime + askFirst)
		synctest.Wait()
		if len(n.ears[0].asked) != 2 || n.ears[0].asked[0].Name != "kit._t._tcp.local." {
			t.Errorf("asked %v, want SRV and TXT of kit", n.ears[0].asked)
		}
	})
}

func TestBrowserFollowsInterfaces(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := &fakeNet{}
		var log bytes.Buffer
		_, events := browseFake(t, n, slog.New(slog.NewTextHandler(&log, nil)))
		time.Sleep(time.Minute)
		synctest.Wait()
		if got := strings.Count(log.String(), "no network interface"); got != 1 || len(n.ears) > 0 {
			t.Errorf("without interfaces: logged %d times, %d ears; want 1, 0\n%s", got, len(n.ears), log.String())
		}
		n.set(func() { n.links, n.fails = []link{eth0()}, errors.New("port taken") })
		time.Sleep(time.Minute)
		synctest.Wait()
		if got := strings.Count(log.String(), "port taken"); got != 1 {
			t.Errorf("with a port that is taken: logged %d times, want 1\n%s", got, log.String())
		}
		n.set(func() { n.fails = nil })
		time.Sleep(lookAround)
		synctest.Wait()
		if len(n.ears) != 1 || len(n.rounds) != 1 {
			t.Fatalf("with an interface: %d ears, %d rounds; want 1, 1", len(n.ears), len(n.rounds))
		}
		n.ears[0].say(t, kit()...)
		if len(events) != 1 {
			t.Errorf("%d events, want 1", len(events))
		}
		n.set(func() { n.links = []link{eth0(), wlan0()} })
		time.Sleep(lookAround)
		synctest.Wait()
		if len(n.ears) != 2 {
			t.Fatalf("with another interface: %d ears, want 2", len(n.ears))
		}
		select {
		case <-n.ears[0].closed:
		default:
			t.Error("the old ear is still open")
		}
		n.ears[1].close() // its socket fails
		time.Sleep(lookAround)
		synctest.Wait()
		if len(n.ears) != 3 {
			t.Errorf("after a failure: %d ears, want 3", len(n.ears))
		}
	})
}

// flood hears packets without a pause, and has many in hand when it is closed.
type flood struct{ *fakeEar }

func (f flood) listen(heard func(packet)) {
	for open := true; open; {
		heard(packet{new(dns.Msg), eth0()})
		select {
		case <-f.closed:
			open = false
		default:
		}
	}
	for range 1000 {
		heard(packet{new(dns.Msg), eth0()})
	}
}

// A browser ends though its queue is full and nobody will ever read it again
// (races: B3). The guard is that the ear gives up when it is closed, or on ctx.
func TestBrowserEndsWithAFullQueue(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := &fakeNet{links: []link{eth0()}, start: time.Now()}
		b := NewMDNS(MDNSOptions{Services: []string{testService}})
		b.net = network{
			links: func() ([]link, error) { return n.links, nil },
			open: func([]link) (listener, error) {
				return flood{&fakeEar{net: n, closed: make(chan struct{})}}, nil
			},
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- b.Run(ctx, func(Event) {}) }()
		for b.Stats().Responses < 1000 { // it is in full flood
			runtime.Gosched()
		}
		cancel()
		if err := <-done; err != nil {
			t.Errorf("run: got %v, want nil", err)
		}
	})
}

func TestBrowserRefusesServices(t *testing.T) {
	for _, s := range []string{"", "sendspin", "_a", "_a._b", "_a._tcp.", "_a._tcp.local.", "_a,_b._tcp", "_" + strings.Repeat("a", 63) + "._tcp"} {
		if err := NewMDNS(MDNSOptions{Services: []string{s}}).Run(t.Context(), nil); err == nil || !strings.Contains(err.Error(), "service type") {
			t.Errorf("%q: got %v, want an error", s, err)
		}
	}
}

func TestAdvertiseRefuses(t *testing.T) {
	good := AdvertiseOptions{Instance: "a", Service: ServiceServer, Port: 1, Path: "/"}
	for _, tc := range []struct {
		name   string
		change func(*AdvertiseOptions)
		want   string
	}{
		{"no instance", func(o *AdvertiseOptions) { o.Instance = "" }, "instance name"},
		{"no service", func(o *AdvertiseOptions) { o.Service = "" }, "service type"},
		{"no port", func(o *AdvertiseOptions) { o.Port = 0 }, "port 0"},
		{"no path", func(o *AdvertiseOptions) { o.Path = "sendspin" }, "path"},
		{"long path", func(o *AdvertiseOptions) { o.Path = "/" + strings.Repeat("x", 250) }, "path"},
		{"host with a dot", func(o *AdvertiseOptions) { o.Host = "a.local" }, "host"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			opts := good
			tc.change(&opts)
			if err := Advertise(t.Context(), opts); err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("got %v, want an error about %s", err, tc.want)
			}
		})
	}
}

func TestChoose(t *testing.T) {
	const up = net.FlagUp | net.FlagMulticast
	all := []link{
		{name: "lo", flags: net.FlagUp | net.FlagLoopback},
		{name: "eth0", flags: up},
		{name: "eth1", flags: net.FlagMulticast},
		{name: "wlan0", flags: up},
		{name: "ppp0", flags: up | net.FlagPointToPoint},
		{name: "sit0", flags: net.FlagUp},
		{name: "br0", flags: up},
	}
	for _, name := range []string{
		"docker0", "br-1234", "veth12", "virbr0", "cni0", "flannel.1", "cali1", "hassio", "tun0", "tap0", "tailscale0", "wg0", "ztabc",
	} {
		all = append(all, link{name: name, flags: up})
	}
	for _, tc := range []struct {
		name  string
		names []string
		want  []string
	}{
		{"default", nil, []string{"eth0", "wlan0", "br0"}},
		{"named are taken as they are", []string{"lo", "docker0", "sit0"}, []string{"lo", "sit0", "docker0"}},
		{"unless down or not there", []string{"eth1", "eth9"}, nil},
	} {
		var got []string
		for _, l := range choose(all, tc.names) {
			got = append(got, l.name)
		}
		if !slices.Equal(got, tc.want) {
			t.Errorf("%s: got %q, want %q", tc.name, got, tc.want)
		}
	}
}

func TestAdmits(t *testing.T) {
	lo := link{flags: net.FlagLoopback}
	public := link{prefixes: []netip.Prefix{netip.MustParsePrefix("203.0.113.7/24"), netip.MustParsePrefix("2001:db8::1/64")}}
	for _, tc := range []struct {
		name, addr string
		on         link
		onLink, ok bool
	}{
		{"own subnet", "192.168.1.77", eth0(), true, true},
		{"another private one", "10.1.2.3", eth0(), false, true},
		{"unique local", "fd12::1", eth0(), false, true},
		{"link-local", "fe80::1", lo, false, true},
		{"public", "198.51.100.1", eth0(), false, false},
		{"public, our own subnet", "203.0.113.9", public, true, true},
		{"public IPv6, our own subnet", "2001:db8::9", public, true, true},
		{"loopback on loopback", "127.0.0.1", lo, true, true},
		{"loopback elsewhere", "127.0.0.1", eth0(), false, false},
		{"multicast", "224.0.0.251", eth0(), false, false},
		{"nowhere", "::", eth0(), false, false},
	} {
		if onLink, ok := tc.on.admits(netip.MustParseAddr(tc.addr)); onLink != tc.onLink || ok != tc.ok {
			t.Errorf("%s: got %v, %v; want %v, %v", tc.name, onLink, ok, tc.onLink, tc.ok)
		}
	}
}

func TestServerOf(t *testing.T) {
	ep := Endpoint{
		Key: "k", Name: "Music", Path: "/sendspin", Service: ServiceServer,
		Addrs: []netip.AddrPort{netip.MustParseAddrPort("[fe80::1%eth0]:8927"), netip.MustParseAddrPort("10.0.0.1:8927")},
	}
	want := Server{Key: "k", Name: "Music", URL: "ws://[fe80::1%25eth0]:8927/sendspin"}
	if got := ServerOf(ep); got != want || !ep.IsServer() {
		t.Errorf("got %+v, want %+v", got, want)
	}
}
