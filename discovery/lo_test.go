package discovery

import (
	"context"
	"crypto/rand"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/miekg/dns"
	"go.uber.org/goleak"
	"golang.org/x/net/ipv4"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// randomService is a service type that no other test, or process, uses.
func randomService() string { return "_t" + strings.ToLower(rand.Text()[:10]) + "._tcp" }

// loopback returns the name of the loopback interface. It skips the test where
// multicast does not work there.
func loopback(t *testing.T) string {
	t.Helper()
	all, err := systemLinks()
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range all {
		if l.flags&(net.FlagLoopback|net.FlagUp) != net.FlagLoopback|net.FlagUp {
			continue
		}
		e, err := openEar([]link{l})
		if err != nil {
			t.Skipf("no multicast on loopback here: %v", err)
		}
		e.close()
		return l.name
	}
	t.Skip("no loopback interface here")
	return ""
}

// listenTo runs src until the test ends and returns its events.
func listenTo(t *testing.T, src Source) <-chan Event {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	events, done := make(chan Event, 100), make(chan error, 1)
	go func() { done <- src.Run(ctx, func(ev Event) { events <- ev }) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("run: got %v, want nil", err)
		}
	})
	return events
}

func within(t *testing.T, d time.Duration, events <-chan Event) Event {
	t.Helper()
	select {
	case ev := <-events:
		return ev
	case <-time.After(d):
		t.Fatalf("no event within %v", d)
		return Event{}
	}
}

func TestLoopback(t *testing.T) {
	t.Parallel()
	lo, service := loopback(t), randomService()
	b := NewMDNS(MDNSOptions{Services: []string{service}, Interfaces: []string{lo}, Ignore: []string{"me"}})
	events := listenTo(t, b)

	advertise := func(opts AdvertiseOptions) (stop func()) {
		opts.Service, opts.Interfaces = service, []string{lo}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- Advertise(ctx, opts) }()
		return func() {
			cancel()
			if err := <-done; err != nil {
				t.Errorf("advertise: got %v, want nil", err)
			}
		}
	}
	defer advertise(AdvertiseOptions{Instance: "me", Port: 1, Path: "/"})()
	opts := AdvertiseOptions{Instance: "Küche (1). v2.", Port: 8928, Path: "/sendspin", Name: `Küche \ "🎵"`}
	stop := advertise(opts)

	ev := within(t, 2*time.Second, events)
	want := Endpoint{
		Key: "küche (1). v2." + "." + service, Name: opts.Name, Path: "/sendspin", Service: service,
		Addrs: []netip.AddrPort{netip.MustParseAddrPort("127.0.0.1:8928")},
	}
	if ev.Kind != Announced || ev.Again || !same(ev.Endpoint, want) {
		t.Errorf("announced: got %+v, want %+v", ev, want)
	}
	stop()
	ev = within(t, 2*time.Second, events)
	if ev.Kind != Withdrawn || !same(ev.Endpoint, want) {
		t.Errorf("goodbye: got %+v, want withdrawn %+v", ev, want)
	}
	opts.Port = 8929
	defer advertise(opts)()
	ev = within(t, 2*time.Second, events)
	if ev.Kind != Announced || !ev.Again || len(ev.Endpoint.Addrs) != 1 || ev.Endpoint.Addrs[0].Port() != 8929 {
		t.Errorf("back: got %+v, want announced again with port 8929", ev)
	}
	for len(events) > 0 {
		t.Errorf("unexpected: %+v", <-events)
	}
}

// loopbackEar is an open ear on the loopback interface, until the test ends.
func loopbackEar(t *testing.T) *ear {
	t.Helper()
	all, err := systemLinks()
	if err != nil {
		t.Fatal(err)
	}
	e, err := openEar(choose(all, []string{loopback(t)}))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(e.close)
	return e
}

func TestRoundsLeaveNothing(t *testing.T) {
	t.Parallel()
	e := loopbackEar(t)
	for range 30 {
		if _, err := e.round(t.Context(), randomService(), 20*time.Millisecond); err != nil {
			t.Fatal(err)
		}
	}
	// TestMain checks for what is left.
}

// The library hands out what it finds on a channel, and stands for ever, also
// after the round is over, when nobody takes it (races: B3). The guard is that a
// round takes every entry to the end.
func TestRoundTakesEveryEntry(t *testing.T) {
	t.Parallel()
	e := loopbackEar(t)
	const speakers = 100 // more than the channel holds
	service := randomService()
	var announcements [][]byte
	for i := range speakers {
		msg := new(dns.Msg)
		msg.Response = true
		name := fmt.Sprintf("s%d.%s.local.", i, service)
		for _, text := range []string{
			fmt.Sprintf("%s.local. 120 IN PTR %s", service, name),
			fmt.Sprintf("%s 120 IN SRV 0 0 8928 kit.local.", name),
			fmt.Sprintf(`%s 120 IN TXT "path=/sendspin"`, name),
			"kit.local. 120 IN A 127.0.0.1",
		} {
			rr, err := dns.NewRR(text)
			if err != nil {
				t.Fatal(err)
			}
			msg.Answer = append(msg.Answer, rr)
		}
		b, err := msg.Pack()
		if err != nil {
			t.Fatal(err)
		}
		announcements = append(announcements, b)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	var talking sync.WaitGroup
	talking.Go(func() { // as responders do: again and again, in case one was lost
		for ctx.Err() == nil {
			for _, b := range announcements {
				_, _ = e.v4.WriteTo(b, &ipv4.ControlMessage{IfIndex: e.links[0].index}, &net.UDPAddr{IP: group4(), Port: mdnsPort})
				select {
				case <-time.After(time.Millisecond):
				case <-ctx.Done():
				}
			}
		}
	})
	heard := map[string]bool{}
	for len(heard) < speakers && ctx.Err() == nil { // a second round, should the kernel have lost some
		found, err := e.round(ctx, service, time.Second)
		if err != nil {
			t.Error(err)
		}
		clear(heard)
		for _, name := range found {
			heard[name] = true
		}
	}
	cancel()
	talking.Wait()
	if len(heard) != speakers {
		t.Errorf("the last round took %d of %d entries", len(heard), speakers)
	}
	// TestMain checks for what is left.
}

func TestUnknownInterface(t *testing.T) {
	for name, run := range map[string]func() error{
		"browse": func() error {
			return NewMDNS(MDNSOptions{Interfaces: []string{"nosuch0"}}).Run(t.Context(), func(Event) {})
		},
		"advertise": func() error {
			return Advertise(t.Context(), AdvertiseOptions{
				Instance: "x", Service: "_x._tcp", Port: 1, Path: "/", Interfaces: []string{"nosuch0"},
			})
		},
	} {
		t.Run(name, func(t *testing.T) {
			if err := run(); err == nil || !strings.Contains(err.Error(), `"nosuch0" does not exist`) {
				t.Errorf("got %v, want an error that names the interface", err)
			}
		})
	}
}
