package bench

import (
	"context"
	"crypto/rand"
	"fmt"
	"net"
	"strings"
	"syscall"
	"testing"
	"time"

	"resonatebridge/cmd/bridge/app"
	"resonatebridge/resonate/client"
	"resonatebridge/tests/internal/facts"
	"resonatebridge/tests/internal/scene"

	"github.com/miekg/dns"
	"golang.org/x/net/ipv4"
	"golang.org/x/sys/unix"
)

// TestBenchAnnounce measures the way of a speaker from its mDNS announcement to
// the retained "online" at the broker: one at a time, and 200 at once. The
// packets are real and stay on loopback; the service type is this test's own.
func TestBenchAnnounce(t *testing.T) {
	measures(t)
	const alone, crowd = 20, 200
	out := newAnnouncer(t)
	broker := scene.StartBroker(t)
	came := make(chan seen, 16*crowd)
	scene.Watch(t, broker.URL(), func(topic, payload string, at time.Time) {
		if id, ok := strings.CutPrefix(topic, "resonate/player/"); ok && payload == "online" {
			if id, ok := strings.CutSuffix(id, "/availability"); ok {
				came <- seen{id, at}
			}
		}
	})
	config := scene.Config(t, broker)
	config.Discovery.Enabled, config.Discovery.Advertise = true, false
	config.Discovery.Interfaces = []string{out.link.Name}
	scene.StartBridge(t, app.RunOptions{Config: config, Services: app.Services{
		Players: []string{out.service}, Servers: []string{"_s" + out.service[1:]},
	}})

	measure(t, out, came, 0, 1) // the bridge may not listen yet when it says that it has started
	var ds []time.Duration
	for i := range alone {
		ds = append(ds, measure(t, out, came, 1+i, 1)...)
	}
	table.Times("announcement to retained online, 1 speaker", ds, facts.OfMax, 500*time.Millisecond)
	ds = measure(t, out, came, 1+alone, crowd)
	table.Times("announcement to retained online, 200 speakers at once", ds, facts.OfMax, 5*time.Second)
}

// seen is a speaker that has become available.
type seen struct {
	id string
	at time.Time
}

// measure announces n speakers at once, the first of them number from, and
// returns for each how long it took.
func measure(t *testing.T, out *announcer, came <-chan seen, from, n int) []time.Duration {
	t.Helper()
	packets := make([][]byte, n)
	for i := range packets {
		l := listen(t)
		s := scene.StartSpeaker(t, client.PlayerOptions{ClientID: speakerID(from + i), Listener: l})
		packets[i] = out.packet(t, s.ID, l.Addr().(*net.TCPAddr).Port)
	}
	sent := make(map[string]time.Time, n)
	for i, p := range packets {
		sent[speakerID(from+i)] = time.Now()
		out.send(t, p)
	}
	// A responder announces twice, a second apart (RFC 6762 8.3).
	again := time.NewTimer(time.Second)
	defer again.Stop()
	late := time.NewTimer(patience)
	defer late.Stop()
	var ds []time.Duration
	for len(ds) < n {
		select {
		case s := <-came:
			if at, ok := sent[s.id]; ok {
				delete(sent, s.id)
				ds = append(ds, s.at.Sub(at))
			}
		case <-again.C:
			for _, p := range packets {
				out.send(t, p)
			}
		case <-late.C:
			t.Fatalf("%d of %d speakers were not online within %v", n-len(ds), n, patience)
		}
	}
	return ds
}

// announcer sends what an mDNS responder sends when a device has started.
type announcer struct {
	conn    net.PacketConn
	link    *net.Interface
	service string
}

func newAnnouncer(t *testing.T) *announcer {
	t.Helper()
	links, err := net.Interfaces()
	if err != nil {
		t.Fatal(err)
	}
	a := &announcer{service: "_b" + strings.ToLower(rand.Text()[:10]) + "._tcp"}
	for _, l := range links {
		if l.Flags&net.FlagLoopback != 0 && l.Flags&net.FlagUp != 0 {
			a.link = &l
			break
		}
	}
	if a.link == nil {
		t.Skip("no loopback interface here")
	}
	// Only what comes from port 5353 counts (RFC 6762 6), and others use it too.
	lc := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) (err error) {
		control := c.Control(func(fd uintptr) {
			for _, o := range []int{unix.SO_REUSEADDR, unix.SO_REUSEPORT} {
				if err == nil {
					err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, o, 1)
				}
			}
		})
		if err == nil {
			err = control
		}
		return err
	}}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	a.conn, err = lc.ListenPacket(ctx, "udp4", "127.0.0.1:5353")
	if err != nil {
		t.Skipf("no mDNS here: %v", err)
	}
	t.Cleanup(func() { _ = a.conn.Close() })
	p := ipv4.NewPacketConn(a.conn)
	for _, err := range []error{p.SetMulticastInterface(a.link), p.SetMulticastTTL(255), p.SetMulticastLoopback(true)} {
		if err != nil {
			t.Skipf("no multicast on loopback here: %v", err)
		}
	}
	return a
}

// packet is the announcement of one speaker.
func (a *announcer) packet(t *testing.T, instance string, port int) []byte {
	t.Helper()
	service := a.service + ".local."
	name, host := instance+"."+service, instance+".local."
	header := func(name string, kind uint16) dns.RR_Header {
		class := uint16(dns.ClassINET)
		if kind != dns.TypePTR {
			class |= 1 << 15 // the only one of this name (RFC 6762 10.2)
		}
		return dns.RR_Header{Name: name, Rrtype: kind, Class: class, Ttl: 120}
	}
	msg := dns.Msg{MsgHdr: dns.MsgHdr{Response: true, Authoritative: true}, Answer: []dns.RR{
		&dns.PTR{Hdr: header(service, dns.TypePTR), Ptr: name},
		&dns.SRV{Hdr: header(name, dns.TypeSRV), Port: uint16(port), Target: host},
		&dns.TXT{Hdr: header(name, dns.TypeTXT), Txt: []string{"path=/sendspin", fmt.Sprintf("name=Room %s", instance)}},
		&dns.A{Hdr: header(host, dns.TypeA), A: net.IPv4(127, 0, 0, 1)},
	}}
	packed, err := msg.Pack()
	if err != nil {
		t.Fatal(err)
	}
	return packed
}

func (a *announcer) send(t *testing.T, packet []byte) {
	t.Helper()
	if _, err := a.conn.WriteTo(packet, &net.UDPAddr{IP: net.IPv4(224, 0, 0, 251), Port: 5353}); err != nil {
		t.Fatal(err)
	}
}
