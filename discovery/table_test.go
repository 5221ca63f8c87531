package discovery

import (
	"bytes"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/miekg/dns"
)

const testService = "_t._tcp"

func eth0() link {
	return link{name: "eth0", index: 2, flags: net.FlagUp | net.FlagMulticast, prefixes: []netip.Prefix{
		netip.MustParsePrefix("192.168.1.2/24"), netip.MustParsePrefix("fd00::2/64"), netip.MustParsePrefix("fe80::2/64"),
	}}
}

func wlan0() link {
	return link{name: "wlan0", index: 3, flags: net.FlagUp | net.FlagMulticast, prefixes: []netip.Prefix{
		netip.MustParsePrefix("192.168.1.3/24"), netip.MustParsePrefix("fe80::3/64"),
	}}
}

// script drives a table through virtual time.
type script struct {
	t      testing.TB
	now    time.Time
	table  *table
	events []string
	asked  []string
	log    bytes.Buffer
}

func newScript(t testing.TB, ignore ...string) *script {
	t.Helper()
	s := &script{t: t, now: time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)}
	log := slog.New(slog.NewTextHandler(&s.log, nil))
	s.table = newTable([]string{testService}, ignore, log, func(ev Event) {
		what := "announced"
		switch {
		case ev.Kind == Withdrawn:
			what = "withdrawn"
		case ev.Again:
			what = "again"
		}
		s.events = append(s.events, fmt.Sprintf("%s %s %q %v %s", what, ev.Endpoint.Key, ev.Endpoint.Name, ev.Endpoint.Addrs, ev.Endpoint.Path))
	})
	return s
}

// hear feeds records, in zone file form, as one packet on eth0.
func (s *script) hear(rrs ...string) { s.t.Helper(); s.hearOn(eth0(), rrs...) }

func (s *script) hearOn(l link, rrs ...string) {
	s.t.Helper()
	msg := new(dns.Msg)
	msg.Response = true
	for _, text := range rrs {
		rr, err := dns.NewRR(text)
		if err != nil {
			s.t.Fatalf("record %q: %v", text, err)
		}
		msg.Answer = append(msg.Answer, rr)
	}
	b, err := msg.Pack()
	if err != nil {
		s.t.Fatal(err)
	}
	s.packet(b, mdnsPort, l)
}

// packet feeds bytes, as they come from a socket.
func (s *script) packet(b []byte, port int, l link) {
	if msg, ok := parseResponse(b, port); ok {
		s.table.hear(s.now, msg, l)
	}
}

// wait lets virtual time pass, doing all that falls due.
func (s *script) wait(d time.Duration) {
	s.t.Helper()
	end := s.now.Add(d)
	for {
		next := s.table.next(s.now)
		if next.After(end) {
			s.now = end
			return
		}
		if next.After(s.now) {
			s.now = next
		}
		s.table.settle(s.now)
		for _, q := range s.table.asks(s.now) {
			s.asked = append(s.asked, strings.TrimPrefix(q.String(), ";"))
		}
		if again := s.table.next(s.now); !again.After(s.now) {
			s.t.Fatalf("the table makes no progress: still due %v ago", s.now.Sub(again))
		}
	}
}

func (s *script) round() {
	s.table.roundStarts()
	s.wait(roundTime)
	s.table.roundEnds(s.now)
}

// want compares the events since the last call.
func (s *script) want(events ...string) {
	s.t.Helper()
	if diff := cmp.Diff(events, s.events); diff != "" {
		s.t.Errorf("events (-want +got):\n%s", diff)
	}
	s.events = nil
}

// The records of a speaker called "kit".
const (
	kitPTR = `_t._tcp.local. 4500 IN PTR kit._t._tcp.local.`
	kitSRV = `kit._t._tcp.local. 120 IN SRV 0 0 8928 kit.local.`
	kitTXT = `kit._t._tcp.local. 4500 IN TXT "path=/sendspin" "name=Kitchen"`
	kitA   = `kit.local. 120 IN A 192.168.1.5`
	kitBye = `_t._tcp.local. 0 IN PTR kit._t._tcp.local.`

	kitIs = `kit._t._tcp "Kitchen" [192.168.1.5:8928] /sendspin`
)

func kit() []string { return []string{kitPTR, kitSRV, kitTXT, kitA} }

func TestTable(t *testing.T) {
	for _, tc := range []struct {
		name string
		run  func(*script)
	}{
		{"one packet", func(s *script) {
			s.hear(kit()...)
			s.want("announced " + kitIs)
		}},
		{"any order in one packet", func(s *script) {
			s.hear(kitA, kitTXT, kitSRV, kitPTR)
			s.want("announced " + kitIs)
		}},
		{"four packets", func(s *script) {
			for _, rr := range kit() {
				s.want()
				s.hear(rr)
			}
			s.want("announced " + kitIs)
			if len(s.asked) > 0 {
				s.t.Errorf("asked %v, want nothing", s.asked)
			}
		}},
		{"four packets, address first", func(s *script) {
			for _, rr := range []string{kitA, kitTXT, kitSRV} {
				s.want()
				s.hear(rr)
				s.wait(50 * time.Millisecond)
			}
			s.want("announced " + kitIs)
			s.hear(kitPTR)
			s.want()
		}},
		{"PTR alone is asked about within 2 s", func(s *script) {
			s.hear(kitPTR)
			s.wait(2 * time.Second)
			s.want()
			want := []string{"kit._t._tcp.local.\tIN\t SRV", "kit._t._tcp.local.\tIN\t TXT"}
			if diff := cmp.Diff(want, s.asked); diff != "" {
				s.t.Errorf("questions (-want +got):\n%s", diff)
			}
		}},
		{"PTR that nobody explains is asked about ever less", func(s *script) {
			s.hear(kitPTR)
			s.wait(10 * time.Minute)
			s.want()
			if n := len(s.asked); n < 20 || n > 80 {
				s.t.Errorf("asked %d questions in 10 minutes, want 20 to 80", n)
			}
		}},
		{"missing address is asked for", func(s *script) {
			s.hear(kitPTR, kitSRV, kitTXT)
			s.wait(time.Second)
			if !slices.Contains(s.asked, "kit.local.\tIN\t A") {
				s.t.Errorf("asked %q, want the address of kit.local.", s.asked)
			}
			s.hear(kitA)
			s.want("announced " + kitIs)
		}},
		{"repeated every second for an hour", func(s *script) {
			s.hear(kit()...)
			s.want("announced " + kitIs)
			for range 3600 {
				s.wait(time.Second)
				s.hear(kit()...)
			}
			s.want()
			if len(s.asked) > 0 {
				s.t.Errorf("asked %d questions, want none", len(s.asked))
			}
		}},
		{"goodbye", func(s *script) {
			s.hear(kit()...)
			s.want("announced " + kitIs)
			s.hear(kitBye)
			s.wait(900 * time.Millisecond)
			s.want()
			s.wait(100 * time.Millisecond)
			s.want("withdrawn " + kitIs)
			s.wait(time.Hour)
			s.want()
		}},
		{"goodbye with TTL 1", func(s *script) {
			s.hear(kit()...)
			s.hear(strings.Replace(kitBye, " 0 IN", " 1 IN", 1))
			s.wait(time.Second)
			s.want("announced "+kitIs, "withdrawn "+kitIs)
		}},
		{"goodbye by SRV", func(s *script) {
			s.hear(kit()...)
			s.hear(strings.Replace(kitSRV, "120", "0", 1))
			s.wait(time.Second)
			s.want("announced "+kitIs, "withdrawn "+kitIs)
		}},
		{"goodbye of the old port beside the new port", func(s *script) {
			s.hear(kit()...)
			s.wait(time.Minute)
			s.hear(strings.Replace(kitSRV, "8928", "9000", 1), strings.Replace(kitSRV, "120", "0", 1))
			s.wait(10 * time.Second)
			s.want("announced "+kitIs, `again kit._t._tcp "Kitchen" [192.168.1.5:9000] /sendspin`)
		}},
		{"goodbye of a stranger", func(s *script) {
			s.hear(kit()...)
			s.hear(`_t._tcp.local. 0 IN PTR den._t._tcp.local.`, `_x._tcp.local. 0 IN PTR kit._t._tcp.local.`)
			s.wait(time.Minute)
			s.want("announced " + kitIs)
		}},
		{"back after goodbye", func(s *script) {
			s.hear(kit()...)
			s.hear(kitBye)
			s.wait(5 * time.Second)
			s.hear(kit()...)
			s.want("announced "+kitIs, "withdrawn "+kitIs, "again "+kitIs)
			s.wait(time.Minute)
			s.hear(kit()...)
			s.want()
		}},
		{"back within the grace, as after a quick restart", func(s *script) {
			s.hear(kit()...)
			s.wait(time.Minute)
			s.hear(kitBye)
			s.wait(300 * time.Millisecond)
			s.hear(kit()...)
			s.wait(30 * time.Second)
			s.want("announced "+kitIs, "again "+kitIs)
		}},
		{"letter case", func(s *script) {
			s.hear(kit()...)
			s.wait(time.Minute)
			for _, rr := range kit() {
				s.hear(strings.NewReplacer("_t._tcp.local", "_T._TCP.LOCAL", "kit", "KIT").Replace(rr))
			}
			s.want("announced " + kitIs)
			s.hear(strings.ToUpper(kitBye))
			s.wait(time.Second)
			s.want("withdrawn " + kitIs)
		}},
		{"port changes", func(s *script) {
			s.hear(kit()...)
			s.wait(time.Minute)
			s.hear(strings.Replace(kitSRV, "8928", "9000", 1))
			s.want("announced "+kitIs, `announced kit._t._tcp "Kitchen" [192.168.1.5:9000] /sendspin`)
		}},
		{"address changes", func(s *script) {
			s.hear(kit()...)
			s.wait(time.Minute)
			s.hear(strings.Replace(kitA, ".5", ".9", 1))
			s.want("announced "+kitIs, `announced kit._t._tcp "Kitchen" [192.168.1.9:8928] /sendspin`)
		}},
		{"name and path change", func(s *script) {
			s.hear(kit()...)
			s.wait(time.Minute)
			s.hear(`kit._t._tcp.local. 4500 IN TXT "path=/new" "name=Den"`)
			s.want("announced "+kitIs, `announced kit._t._tcp "Den" [192.168.1.5:8928] /new`)
		}},
		{"host changes", func(s *script) {
			s.hear(kit()...)
			s.wait(time.Minute)
			s.hear(strings.Replace(kitSRV, "kit.local.", "new.local.", 1), `new.local. 120 IN A 192.168.1.9`)
			s.want("announced "+kitIs, `announced kit._t._tcp "Kitchen" [192.168.1.9:8928] /sendspin`)
		}},
		{"flapping port makes at most two events per second", func(s *script) {
			s.hear(kit()...)
			for i := range 1000 {
				s.wait(10 * time.Millisecond)
				s.hear(strings.Replace(kitSRV, "8928", fmt.Sprint(9000+i), 1))
			}
			s.wait(time.Second)
			if n := len(s.events); n < 15 || n > 22 {
				s.t.Errorf("%d events in 11 s, want 15 to 22", n)
			}
			if last := s.events[len(s.events)-1]; !strings.Contains(last, ":9999]") {
				s.t.Errorf("last: got %s, want port 9999", last)
			}
		}},
		{"silence through three rounds", func(s *script) {
			s.hear(kit()...)
			s.round()
			s.round()
			s.want("announced " + kitIs)
			s.round()
			s.want("withdrawn " + kitIs)
			s.hear(kit()...)
			s.want("again " + kitIs)
		}},
		{"an answer to a direct question counts", func(s *script) {
			s.hear(kit()...)
			for range 10 {
				s.round()
				if slices.Contains(s.asked, "kit._t._tcp.local.\tIN\t SRV") {
					s.hear(kitSRV, kitA)
				}
				s.asked = nil
				s.wait(100 * time.Millisecond)
			}
			s.want("announced " + kitIs)
		}},
		{"expiry", func(s *script) {
			s.hear(kit()...)
			s.wait(119 * time.Second)
			s.want("announced " + kitIs)
			if !slices.Contains(s.asked, "kit._t._tcp.local.\tIN\t SRV") || !slices.Contains(s.asked, "kit.local.\tIN\t A") {
				s.t.Errorf("asked %q, want SRV and A before they expire", s.asked)
			}
			s.wait(time.Second)
			s.want("withdrawn " + kitIs)
		}},
		{"a refreshed record does not expire", func(s *script) {
			s.hear(kit()...)
			for range 100 {
				s.wait(100 * time.Second)
				s.hear(kitSRV, kitA)
				s.hear(kitPTR)
			}
			s.want("announced " + kitIs)
		}},
		{"two interfaces make one endpoint", func(s *script) {
			s.hear(kit()...)
			s.hearOn(wlan0(), kit()...)
			s.wait(time.Second)
			s.want("announced " + kitIs)
			s.hear(kitBye) // only there
			s.wait(10 * time.Second)
			s.want()
			s.hearOn(wlan0(), kitBye)
			s.wait(time.Second)
			s.want("withdrawn " + kitIs)
		}},
		{"IPv6, link-local with its zone and last", func(s *script) {
			s.hear(kitPTR, kitSRV, kitTXT, "kit.local. 120 IN AAAA fe80::5", "kit.local. 120 IN AAAA fd00::5", kitA)
			s.want(`announced kit._t._tcp "Kitchen" [192.168.1.5:8928 [fd00::5]:8928 [fe80::5%eth0]:8928] /sendspin`)
		}},
		{"addresses nobody should dial", func(s *script) {
			s.hear(kitPTR, kitSRV, kitTXT,
				"kit.local. 120 IN A 127.0.0.1", "kit.local. 120 IN A 0.0.0.0", "kit.local. 120 IN A 224.0.0.251",
				"kit.local. 120 IN A 255.255.255.255", "kit.local. 120 IN A 8.8.8.8", "kit.local. 120 IN AAAA ::1",
				"kit.local. 120 IN AAAA 2606:4700::1111")
			s.want()
			if got := s.table.stats.Refused; got != 7 {
				s.t.Errorf("refused %d, want 7", got)
			}
		}},
		{"another network of the home, behind a reflector", func(s *script) {
			s.hear(kitPTR, kitSRV, kitTXT, "kit.local. 120 IN A 10.9.9.9", kitA)
			s.want(`announced kit._t._tcp "Kitchen" [192.168.1.5:8928 10.9.9.9:8928] /sendspin`)
		}},
		{"name with escapes and emoji", func(s *script) {
			s.hear(`_t._tcp.local. 4500 IN PTR K\195\188che\ \(1\)\.\240\159\142\181._t._tcp.local.`,
				`K\195\188che\ \(1\)\.\240\159\142\181._t._tcp.local. 120 IN SRV 0 0 8928 kit.local.`,
				`K\195\188che\ \(1\)\.\240\159\142\181._t._tcp.local. 120 IN TXT "path=/sendspin"`, kitA)
			s.want(`announced küche (1).🎵._t._tcp "Küche (1).🎵" [192.168.1.5:8928] /sendspin`)
		}},
		{"name that is not UTF-8", func(s *script) {
			s.hear(`a\255\007._t._tcp.local. 120 IN SRV 0 0 8928 kit.local.`, `a\255\007._t._tcp.local. 120 IN TXT "path=/x"`, kitA)
			s.want("announced " + `a\255\007._t._tcp` + ` "a` + "\uFFFD" + `" [192.168.1.5:8928] /x`)
		}},
		{"TXT of 10 kB", func(s *script) {
			txt := `kit._t._tcp.local. 4500 IN TXT "path=/sendspin" "name=Kitchen"` + strings.Repeat(` "`+strings.Repeat("x", 250)+`"`, 40)
			s.hear(kitPTR, kitSRV, txt, kitA)
			s.want("announced " + kitIs)
		}},
		{"no path: ignored, counted, logged once", func(s *script) {
			for _, txt := range []string{"name=Kitchen", "path=", "path=sendspin", "path"} {
				s.hear(kitPTR, kitSRV, fmt.Sprintf(`kit._t._tcp.local. 4500 IN TXT "%s"`, txt), kitA)
				s.wait(10 * time.Second)
			}
			s.want()
			if got := s.table.stats.NoPath; got != 4 {
				s.t.Errorf("counted %d, want 4", got)
			}
			if got := strings.Count(s.log.String(), "endpoint ignored"); got != 1 {
				s.t.Errorf("logged %d times, want once:\n%s", got, s.log.String())
			}
			s.hear(kitTXT)
			s.want("announced " + kitIs)
		}},
		{"our own", func(s *script) {
			s.table.ignore["kit"] = true
			s.hear(kit()...)
			s.want()
		}},
		{"other services, and ours one label deeper", func(s *script) {
			s.hear(`_other._tcp.local. 4500 IN PTR kit._other._tcp.local.`, `_t._tcp.local. 4500 IN PTR a.kit._t._tcp.local.`,
				`a.kit._t._tcp.local. 120 IN SRV 0 0 1 kit.local.`, `_t._tcp.local. 4500 IN PTR _t._tcp.local.`, kitA)
			s.wait(time.Minute)
			s.want()
			if len(s.table.insts) > 0 || len(s.asked) > 0 {
				s.t.Errorf("got %d instances, asked %q; want none", len(s.table.insts), s.asked)
			}
		}},
		{"port 0 and no host", func(s *script) {
			s.hear(kitPTR, strings.Replace(kitSRV, "8928", "0", 1), strings.Replace(kitSRV, "kit.local.", ".", 1), kitTXT, kitA)
			s.want()
		}},
		{"what only the library saw is asked about, then forgotten", func(s *script) {
			s.table.hint(s.now, "kit._t._tcp.local.")
			s.wait(time.Second)
			if len(s.asked) == 0 {
				s.t.Error("asked nothing, want SRV and TXT")
			}
			s.wait(time.Minute)
			if len(s.table.insts) > 0 {
				s.t.Errorf("%d instances left, want none", len(s.table.insts))
			}
			s.want()
		}},
	} {
		t.Run(tc.name, func(t *testing.T) { tc.run(newScript(t)) })
	}
}

func TestTableRefusesPackets(t *testing.T) {
	pack := func(change func(*dns.Msg)) []byte {
		msg := new(dns.Msg)
		msg.Response = true
		for _, text := range kit() {
			rr, err := dns.NewRR(text)
			if err != nil {
				t.Fatal(err)
			}
			msg.Answer = append(msg.Answer, rr)
		}
		change(msg)
		b, err := msg.Pack()
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	for _, tc := range []struct {
		name string
		b    []byte
		port int
		want int
	}{
		{"a response", pack(func(*dns.Msg) {}), mdnsPort, 1},
		{"known answers in a query", pack(func(m *dns.Msg) { m.Response = false }), mdnsPort, 0},
		{"from a high port", pack(func(*dns.Msg) {}), 40000, 0},
		{"an error", pack(func(m *dns.Msg) { m.Rcode = dns.RcodeNameError }), mdnsPort, 0},
		{"another opcode", pack(func(m *dns.Msg) { m.Opcode = dns.OpcodeUpdate }), mdnsPort, 0},
		{"another class", pack(func(m *dns.Msg) {
			for _, rr := range m.Answer {
				rr.Header().Class = dns.ClassCHAOS
			}
		}), mdnsPort, 0},
		{"with cache-flush bits", pack(func(m *dns.Msg) {
			for _, rr := range m.Answer {
				rr.Header().Class |= 1 << 15
			}
		}), mdnsPort, 1},
		{"cut off", pack(func(*dns.Msg) {})[:60], mdnsPort, 0},
		{"empty", nil, mdnsPort, 0},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s := newScript(t)
			s.packet(tc.b, tc.port, eth0())
			if got := len(s.events); got != tc.want {
				t.Errorf("got %d events, want %d: %v", got, tc.want, s.events)
			}
		})
	}
}

func TestTableSurvivesGarbage(t *testing.T) {
	s := newScript(t)
	s.hear(kit()...)
	rng := rand.New(rand.NewPCG(1, 2))
	msg := new(dns.Msg)
	msg.Response = true
	for _, text := range kit() {
		rr, err := dns.NewRR(text)
		if err != nil {
			t.Fatal(err)
		}
		msg.Answer = append(msg.Answer, rr)
	}
	good, err := msg.Pack()
	if err != nil {
		t.Fatal(err)
	}
	for i := range 2000 {
		b := make([]byte, rng.IntN(600))
		for j := range b {
			b[j] = byte(rng.Uint32())
		}
		if i%2 == 0 && len(b) > 12 { // at least the header is that of a response
			copy(b, good[:12])
		}
		s.packet(b, mdnsPort, eth0())
		s.wait(time.Millisecond)
	}
	s.want("announced " + kitIs)
}

func TestTableIsBounded(t *testing.T) {
	s := newScript(t)
	s.hear(kit()...)
	for i := range 1000 {
		s.hear(fmt.Sprintf("_t._tcp.local. 4500 IN PTR p%d._t._tcp.local.", i), fmt.Sprintf("h%d.local. 120 IN A 192.168.1.7", i))
	}
	s.wait(time.Second)
	if n := len(s.asked); n > 2*maxAsks+4 {
		t.Errorf("asked %d questions in a second, want at most %d", n, 2*maxAsks+4)
	}
	// What is complete takes the place of what is not.
	for i := range 1000 {
		s.hear(fmt.Sprintf("c%d._t._tcp.local. 120 IN SRV 0 0 1 kit.local.", i), fmt.Sprintf(`c%d._t._tcp.local. 120 IN TXT "path=/"`, i))
	}
	for i := range 100 {
		s.hear(fmt.Sprintf("h.local. 120 IN A 192.168.1.%d", i+100))
	}
	if got := len(s.table.insts); got != maxInstances {
		t.Errorf("%d instances, want %d", got, maxInstances)
	}
	if got := len(s.table.hosts); got > maxHosts {
		t.Errorf("%d hosts, want at most %d", got, maxHosts)
	}
	if got := len(s.table.hosts["h.local."]); got > maxAddrs {
		t.Errorf("%d addresses, want at most %d", got, maxAddrs)
	}
	if got := strings.Count(s.log.String(), "too many services"); got != 1 {
		t.Errorf("logged %d times, want once", got)
	}
	if got := len(s.events); got != maxInstances {
		t.Errorf("%d events, want %d", got, maxInstances)
	}
	s.events = nil
	s.wait(2 * time.Hour)
	if got := len(s.events); got != maxInstances {
		t.Errorf("%d withdrawn, want %d", got, maxInstances)
	}
	if in, hosts, gone := len(s.table.insts), len(s.table.hosts), len(s.table.gone); in != 0 || hosts != 0 || gone > maxInstances {
		t.Errorf("left: %d instances, %d hosts, %d gone; want 0, 0, at most %d", in, hosts, gone, maxInstances)
	}
	s.hear(kit()...)
	if len(s.table.insts) != 1 {
		t.Error("no room after all are gone")
	}
}

// The listener's picture, built from events alone, is the table's.
func TestTableEventsMatchState(t *testing.T) {
	for seed := range uint64(20) {
		rng := rand.New(rand.NewPCG(seed, 1))
		s := newScript(t)
		known := make(map[string]Endpoint)
		s.table.emit = func(ev Event) {
			was, ok := known[ev.Endpoint.Key]
			switch {
			case ev.Kind == Announced && ok && same(was, ev.Endpoint) && !ev.Again:
				t.Fatalf("seed %d: announced twice: %+v", seed, ev)
			case ev.Kind == Withdrawn && (!ok || !same(was, ev.Endpoint)):
				t.Fatalf("seed %d: withdrawn %+v, known was %+v", seed, ev, was)
			case ev.Kind == Announced:
				known[ev.Endpoint.Key] = ev.Endpoint
			default:
				delete(known, ev.Endpoint.Key)
			}
		}
		for range 300 {
			name := string(rune('a' + rng.IntN(3)))
			ttl := []int{0, 1, 2, 10, 120}[rng.IntN(5)]
			all := []string{
				fmt.Sprintf("_t._tcp.local. %d IN PTR %s._t._tcp.local.", ttl, name),
				fmt.Sprintf("%s._t._tcp.local. %d IN SRV 0 0 %d h%d.local.", name, ttl, 1+rng.IntN(2), rng.IntN(2)),
				fmt.Sprintf(`%s._t._tcp.local. %d IN TXT "path=%s"`, name, ttl, []string{"/a", "/b", "c"}[rng.IntN(3)]),
				fmt.Sprintf("h%d.local. %d IN A 192.168.1.%d", rng.IntN(2), ttl, 1+rng.IntN(3)),
				fmt.Sprintf("h%d.local. %d IN AAAA fe80::%d", rng.IntN(2), ttl, 1+rng.IntN(3)),
			}
			rng.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
			s.hearOn([]link{eth0(), wlan0()}[rng.IntN(2)], all[:1+rng.IntN(len(all))]...)
			if rng.IntN(20) == 0 {
				s.round()
			}
			s.wait(time.Duration(rng.IntN(3000)) * time.Millisecond)
		}
		s.wait(600 * time.Millisecond)
		live := make(map[string]Endpoint)
		for _, in := range s.table.insts {
			if ep, ok := s.table.endpoint(in); ok && len(in.on) > 0 {
				live[ep.Key] = ep
			}
		}
		if diff := cmp.Diff(live, known, cmp.Comparer(func(a, b netip.AddrPort) bool { return a == b })); diff != "" {
			t.Fatalf("seed %d (-table +events):\n%s", seed, diff)
		}
	}
}

func FuzzPacket(f *testing.F) {
	seed := func(rrs ...string) {
		msg := new(dns.Msg)
		msg.Response = true
		for _, text := range rrs {
			rr, err := dns.NewRR(text)
			if err != nil {
				f.Fatal(err)
			}
			msg.Answer = append(msg.Answer, rr)
		}
		for _, compress := range []bool{false, true} {
			msg.Compress = compress
			b, err := msg.Pack()
			if err != nil {
				f.Fatal(err)
			}
			f.Add(b)
		}
	}
	seed(kit()...)
	seed(kitBye)
	seed(`K\195\188che\ \(1\)._t._tcp.local. 120 IN SRV 0 0 8928 kit.local.`, kitA)
	f.Fuzz(func(t *testing.T, b []byte) {
		s := newScript(t)
		s.hear(kit()...)
		s.packet(b, mdnsPort, eth0())
		s.wait(time.Minute)
		s.packet(b, mdnsPort, wlan0())
		s.wait(time.Hour)
		s.wait(time.Hour)
	})
}

func BenchmarkHear(b *testing.B) {
	s := newScript(b)
	for i := range maxInstances - 1 {
		s.hear(fmt.Sprintf("c%d._t._tcp.local. 120 IN SRV 0 0 1 kit.local.", i), fmt.Sprintf(`c%d._t._tcp.local. 120 IN TXT "path=/"`, i))
	}
	msg := new(dns.Msg)
	for _, text := range kit() {
		rr, err := dns.NewRR(text)
		if err != nil {
			b.Fatal(err)
		}
		msg.Answer = append(msg.Answer, rr)
	}
	b.ReportAllocs()
	for b.Loop() {
		s.table.hear(s.now, msg, eth0())
		s.table.next(s.now)
	}
}
