package discovery

import (
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/miekg/dns"
)

// Limits of the table. A home has some tens of instances; beyond the limits
// what is incomplete is forgotten first.
const (
	maxInstances = 256
	maxHosts     = 512
	maxAddrs     = 32  // remembered per host
	maxPerEntry  = 8   // handed out per endpoint
	maxLinks     = 16  // remembered per instance
	maxRecords   = 512 // looked at per packet
	maxAsks      = 30  // direct questions per second
)

// Times of the table.
const (
	goodbyeGrace = time.Second            // (RFC 6762 10.1: a record with TTL 0 lives for one more second)
	flushGrace   = time.Second            // (RFC 6762 10.2: newer than this is the same announcement)
	quietTime    = 500 * time.Millisecond // least distance of two changes of one endpoint
	askFirst     = 200 * time.Millisecond // for the rest of a split announcement to arrive
	askAgain     = 2 * time.Second        // doubled each time while incomplete
	askMax       = 30 * time.Second
	partialLife  = 30 * time.Second // of an instance that was hinted at, never heard as PTR or SRV
	missedRounds = 3
)

// table assembles mDNS records into endpoints. It does no I/O and reads no
// clock: one goroutine feeds it packets and the time, and collects events and
// questions. Everything that comes in is a stranger's word.
type table struct {
	services map[string]string // lower-case "_x._tcp.local." to the type as configured
	ignore   map[string]bool   // lower-case instance names
	log      *slog.Logger
	emit     func(Event)

	insts map[string]*instance // by lower-case DNS name, in presentation form
	hosts map[string][]address // by lower-case host name
	gone  map[string]time.Time // withdrawn, by Endpoint.Key; so that Again can be told
	full  bool                 // logged

	askWindow time.Time
	asksLeft  int
	stats     Stats
}

// instance is one advertised service as far as it is known.
type instance struct {
	dnsName string // presentation form, as it was last heard
	label   string // for people, clean
	key     string
	service string

	on       map[string]presence // by interface name
	port     uint16              // 0: no SRV yet
	host     string              // SRV target, lower case
	srv      life
	txt      txtRecord
	hasTXT   bool
	noPath   bool // logged
	born     time.Time
	heard    time.Time
	round    bool // heard since the round began
	missed   int  // rounds
	asks     int  // direct questions since it was last heard of
	askAfter time.Time

	dirty      bool // to be compared with sent
	live       bool // sent stands
	again      bool // a goodbye came between
	sent       Endpoint
	quietUntil time.Time
}

// presence says until when an instance was advertised on one interface.
type presence struct {
	ptr, srv life
	bye      time.Time // a goodbye takes effect, zero if none
}

// life is how long a record holds.
type life struct{ from, until time.Time }

func newLife(now time.Time, ttl uint32) life {
	return life{now, now.Add(time.Duration(ttl) * time.Second)}
}

func (l life) known() bool { return !l.until.IsZero() }

// stale is when to ask again: after 80 % (RFC 6762 5.2).
func (l life) stale() time.Time { return l.from.Add(l.until.Sub(l.from) / 5 * 4) }

// address is one A or AAAA record.
type address struct {
	addr   netip.Addr
	link   string
	onLink bool // inside a subnet of that interface
	life
}

func newTable(services, ignore []string, log *slog.Logger, emit func(Event)) *table {
	t := &table{
		services: make(map[string]string), ignore: make(map[string]bool), log: log, emit: emit,
		insts: make(map[string]*instance), hosts: make(map[string][]address), gone: make(map[string]time.Time),
	}
	for _, s := range services {
		t.services[strings.ToLower(s)+".local."] = s
	}
	for _, n := range ignore {
		t.ignore[strings.ToLower(n)] = true
	}
	return t
}

// hear takes in the records of one response that arrived on l.
func (t *table) hear(now time.Time, msg *dns.Msg, l link) {
	t.stats.Responses++
	var rrs []dns.RR
	for _, section := range [][]dns.RR{msg.Answer, msg.Ns, msg.Extra} {
		for _, rr := range section {
			if len(rrs) < maxRecords && rr.Header().Class&0x7fff == dns.ClassINET { // the top bit says cache-flush
				rrs = append(rrs, rr)
			}
		}
	}
	// Goodbyes first: one packet may take back the old and bring the new.
	for _, rr := range rrs {
		if rr.Header().Ttl <= 1 {
			t.goodbye(now, rr, l)
		}
	}
	hosts := make(map[string]bool)
	for _, rr := range rrs {
		if rr.Header().Ttl > 1 {
			t.record(now, rr, l, hosts)
		}
	}
	for host, changed := range hosts {
		if t.flush(now, host, l) || changed {
			t.touch(host)
		}
	}
	t.settle(now)
}

// record takes in one record that says that something is there. In hosts it
// notes the hosts whose addresses were told, and whether there are new ones.
func (t *table) record(now time.Time, rr dns.RR, l link, hosts map[string]bool) {
	h := rr.Header()
	switch rr := rr.(type) {
	case *dns.PTR:
		if _, ok := t.services[strings.ToLower(h.Name)]; !ok {
			return
		}
		if in := t.instance(now, rr.Ptr); in != nil {
			in.advertised(now, l, func(p *presence) { p.ptr = newLife(now, h.Ttl) })
		}
	case *dns.SRV:
		if rr.Port == 0 || rr.Target == "." || rr.Target == "" {
			t.stats.Refused++
			return
		}
		if in := t.instance(now, h.Name); in != nil {
			in.srv = newLife(now, h.Ttl)
			in.port, in.host = rr.Port, strings.ToLower(rr.Target)
			in.advertised(now, l, func(p *presence) { p.srv = in.srv })
		}
	case *dns.TXT:
		in := t.instance(now, h.Name)
		if in == nil {
			return
		}
		rec, err := parseTXT(rr.Txt)
		in.txt, in.hasTXT, in.dirty = rec, true, true
		if err != nil {
			t.stats.NoPath++
			if !in.noPath {
				in.noPath = true
				t.log.Warn("endpoint ignored", slog.String("endpoint", in.key), slog.Any("err", err))
			}
		}
	case *dns.A:
		t.address(now, h, rr.A, l, hosts)
	case *dns.AAAA:
		t.address(now, h, rr.AAAA, l, hosts)
	}
}

// advertised notes that in is there on l. It takes back a goodbye that has not
// yet taken effect: the device restarted, or registered anew.
func (in *instance) advertised(now time.Time, l link, set func(*presence)) {
	in.heard, in.round, in.missed, in.dirty = now, true, 0, true
	for name, p := range in.on {
		if !p.bye.IsZero() {
			in.again = true
			p.bye = time.Time{}
			in.on[name] = p
		}
	}
	p, ok := in.on[l.name]
	if !ok && len(in.on) >= maxLinks {
		return
	}
	set(&p)
	in.on[l.name] = p
}

// goodbye takes in one record that says that something is about to go.
func (t *table) goodbye(now time.Time, rr dns.RR, l link) {
	switch rr := rr.(type) {
	case *dns.PTR:
		if _, ok := t.services[strings.ToLower(rr.Hdr.Name)]; ok {
			t.insts[strings.ToLower(rr.Ptr)].leaves(now, l)
		}
	case *dns.SRV:
		// One that is not current only clears caches of an old port.
		if in := t.insts[strings.ToLower(rr.Hdr.Name)]; in != nil && rr.Port == in.port && strings.EqualFold(rr.Target, in.host) {
			in.leaves(now, l)
		}
	case *dns.A:
		t.addressLeaves(now, rr.Hdr.Name, rr.A, l)
	case *dns.AAAA:
		t.addressLeaves(now, rr.Hdr.Name, rr.AAAA, l)
	}
}

func (in *instance) leaves(now time.Time, l link) {
	if in == nil {
		return
	}
	if p, ok := in.on[l.name]; ok && p.bye.IsZero() {
		p.bye = now.Add(goodbyeGrace)
		in.on[l.name] = p
	}
}

func (t *table) addressLeaves(now time.Time, host string, ip []byte, l link) {
	addr, ok := netip.AddrFromSlice(ip)
	if !ok {
		return
	}
	addrs := t.hosts[strings.ToLower(host)]
	for i, a := range addrs {
		if end := now.Add(goodbyeGrace); a.link == l.name && a.addr.WithZone("") == addr.Unmap() && a.until.After(end) {
			addrs[i].until = end
		}
	}
}

// instance returns the instance of that DNS name, a new one if need be, or nil
// if it is none of ours or there is no room.
func (t *table) instance(now time.Time, name string) *instance {
	id := asciiLower(name)
	if in := t.insts[id]; in != nil {
		in.dnsName = name
		return in
	}
	// One label (RFC 6763 4.1.1), then a service type of ours.
	at, end := dns.NextLabel(id, 0)
	if end || at == 0 {
		return nil
	}
	service, ok := t.services[id[at:]]
	if !ok {
		return nil
	}
	label := unescape(name[:at-1])
	if t.ignore[strings.ToLower(label)] {
		return nil
	}
	if len(t.insts) >= maxInstances && !t.makeRoom() {
		t.stats.Refused++
		if !t.full {
			t.full = true
			t.log.Warn("too many services on the network, further ones are ignored", slog.Int("limit", maxInstances))
		}
		return nil
	}
	readable := asciiLower(label)
	if !utf8.ValidString(label) { // against RFC 6763 4.1.1, yet it has to be called something
		readable = id[:at-1]
	}
	in := &instance{
		dnsName: name, label: cleanName(label), key: readable + "." + service, service: service,
		on: make(map[string]presence), born: now, heard: now, askAfter: now.Add(askFirst),
	}
	t.insts[id] = in
	return in
}

// makeRoom forgets the incomplete instance that was silent longest.
func (t *table) makeRoom() bool {
	oldest := ""
	for id, in := range t.insts {
		if !in.live && (oldest == "" || in.heard.Before(t.insts[oldest].heard)) {
			oldest = id
		}
	}
	delete(t.insts, oldest)
	return oldest != ""
}

// asciiLower lowers only what DNS treats as equal (RFC 6762 16).
func asciiLower(s string) string {
	b := []byte(s)
	for i, c := range b {
		if 'A' <= c && c <= 'Z' {
			b[i] = c + 'a' - 'A'
		}
	}
	return string(b)
}

// address takes in one address of a host.
func (t *table) address(now time.Time, h *dns.RR_Header, ip []byte, l link, hosts map[string]bool) {
	addr, ok := netip.AddrFromSlice(ip)
	if !ok {
		t.stats.Refused++
		return
	}
	addr = addr.Unmap()
	onLink, ok := l.admits(addr)
	if !ok {
		t.stats.Refused++
		return
	}
	if addr.Is6() && addr.IsLinkLocalUnicast() {
		addr = addr.WithZone(l.name)
	}
	host := strings.ToLower(h.Name)
	addrs, known := t.hosts[host]
	if !known && len(t.hosts) >= maxHosts && !t.forgetHost() {
		t.stats.Refused++
		return
	}
	isNew := false
	fresh := address{addr: addr, link: l.name, onLink: onLink, life: newLife(now, h.Ttl)}
	at := slices.IndexFunc(addrs, func(a address) bool { return a.addr == addr && a.link == l.name })
	switch {
	case at >= 0:
		addrs[at] = fresh
	case len(addrs) < maxAddrs:
		addrs, isNew = append(addrs, fresh), true
	default:
		t.stats.Refused++
	}
	t.hosts[host] = addrs
	hosts[host] = hosts[host] || isNew
}

// flush drops the addresses of host that this announcement no longer has, and
// reports whether there were any. That is right with the cache-flush bit (RFC
// 6762 10.2); without it, too, since a responder answers with all the addresses
// it has on that interface, and many small ones never set the bit.
func (t *table) flush(now time.Time, host string, l link) bool {
	var v4, v6 bool
	addrs := t.hosts[host]
	for _, a := range addrs {
		if a.link == l.name && a.from.Equal(now) {
			v4, v6 = v4 || a.addr.Is4(), v6 || a.addr.Is6()
		}
	}
	kept := slices.DeleteFunc(addrs, func(a address) bool {
		return a.link == l.name && now.Sub(a.from) > flushGrace && (v4 && a.addr.Is4() || v6 && a.addr.Is6())
	})
	t.hosts[host] = kept
	return len(kept) < len(addrs)
}

// touch marks the instances on host for comparison.
func (t *table) touch(host string) {
	for _, in := range t.insts {
		if in.host == host {
			in.dirty = true
		}
	}
}

// forgetHost makes room for a host: it forgets the oldest that no instance
// points to.
func (t *table) forgetHost() bool {
	used := make(map[string]bool, len(t.insts))
	for _, in := range t.insts {
		used[in.host] = true
	}
	oldest, at := "", time.Time{}
	for host, addrs := range t.hosts {
		if used[host] {
			continue
		}
		last := time.Time{}
		for _, a := range addrs {
			if a.from.After(last) {
				last = a.from
			}
		}
		if oldest == "" || last.Before(at) {
			oldest, at = host, last
		}
	}
	delete(t.hosts, oldest)
	return oldest != ""
}

// hint takes in the DNS name of an instance that only the library's round has
// seen: a reason to ask, no more.
func (t *table) hint(now time.Time, name string) { t.instance(now, name) }

// roundStarts begins to note who is heard.
func (t *table) roundStarts() {
	for _, in := range t.insts {
		in.round = false
	}
}

// roundEnds counts those who were not heard since roundStarts.
func (t *table) roundEnds(now time.Time) {
	t.stats.Rounds++
	for id, in := range t.insts {
		if in.round || len(in.on) == 0 {
			continue
		}
		if in.missed++; in.missed >= missedRounds {
			t.remove(now, id)
			continue
		}
		in.askAfter = now // a question to it alone, before it is given up
	}
	t.settle(now)
}

// settle does what is due: goodbyes and expiry, then events.
func (t *table) settle(now time.Time) {
	for host, addrs := range t.hosts {
		n := len(addrs)
		addrs = slices.DeleteFunc(addrs, func(a address) bool { return !now.Before(a.until) })
		if len(addrs) == n {
			continue
		}
		if t.hosts[host] = addrs; len(addrs) == 0 {
			delete(t.hosts, host)
		}
		t.touch(host)
	}
	for id, in := range t.insts {
		was := len(in.on)
		for name, p := range in.on {
			if !now.Before(p.end()) {
				delete(in.on, name)
			}
		}
		switch {
		case len(in.on) > 0:
			t.compare(now, in)
		case was > 0 || !now.Before(in.born.Add(partialLife)):
			t.remove(now, id)
		}
	}
}

// end is when the presence ends: at the goodbye or when a record expires.
func (p presence) end() time.Time {
	end := p.bye
	for _, l := range []life{p.ptr, p.srv} {
		if l.known() && (end.IsZero() || l.until.Before(end)) {
			end = l.until
		}
	}
	return end
}

// compare tells the listener how in differs from what it was told last.
func (t *table) compare(now time.Time, in *instance) {
	if !in.dirty {
		return
	}
	ep, ok := t.endpoint(in)
	if ok {
		in.asks = 0
	}
	switch {
	case ok && in.live && !in.again && same(ep, in.sent), !ok && !in.live:
		in.dirty = false
	case !ok:
		in.dirty = false
		t.withdraw(now, in)
	case now.Before(in.quietUntil):
		// Stays dirty until then.
	default:
		_, wasGone := t.gone[in.key]
		delete(t.gone, in.key)
		ev := Event{Kind: Announced, Endpoint: ep, Again: wasGone || in.live && in.again}
		in.dirty, in.again, in.live, in.sent, in.quietUntil = false, false, true, ep, now.Add(quietTime)
		t.log.Debug("endpoint announced", slog.String("endpoint", ep.Key), slog.Any("addrs", ep.Addrs),
			slog.String("path", ep.Path), slog.Bool("again", ev.Again))
		t.emit(ev)
	}
}

// remove forgets an instance and withdraws its endpoint.
func (t *table) remove(now time.Time, id string) {
	in := t.insts[id]
	delete(t.insts, id)
	t.full = false
	if in.live {
		t.withdraw(now, in)
	}
}

func (t *table) withdraw(now time.Time, in *instance) {
	in.live, in.again = false, false
	if len(t.gone) >= maxInstances {
		oldest := ""
		for key, at := range t.gone {
			if oldest == "" || at.Before(t.gone[oldest]) {
				oldest = key
			}
		}
		delete(t.gone, oldest)
	}
	t.gone[in.key] = now
	t.log.Debug("endpoint withdrawn", slog.String("endpoint", in.key))
	t.emit(Event{Kind: Withdrawn, Endpoint: in.sent})
}

// complete reports whether what is known of in suffices to reach it.
func (t *table) complete(in *instance) bool {
	return in.port != 0 && in.txt.path != "" && len(t.hosts[in.host]) > 0
}

// endpoint builds what is known of in, if that suffices to reach it. The
// result shares nothing with the table.
func (t *table) endpoint(in *instance) (Endpoint, bool) {
	if !t.complete(in) {
		return Endpoint{}, false
	}
	sorted := slices.Clone(t.hosts[in.host])
	slices.SortFunc(sorted, func(a, b address) int {
		if ra, rb := a.rank(), b.rank(); ra != rb {
			return ra - rb
		}
		return a.addr.Compare(b.addr)
	})
	ep := Endpoint{Key: in.key, Name: in.txt.name, Path: in.txt.path, Service: in.service}
	if ep.Name == "" {
		ep.Name = in.label
	}
	for _, a := range sorted {
		ap := netip.AddrPortFrom(a.addr, in.port)
		if len(ep.Addrs) < maxPerEntry && !slices.Contains(ep.Addrs, ap) {
			ep.Addrs = append(ep.Addrs, ap)
		}
	}
	return ep, true
}

// rank orders addresses by how likely a dial succeeds: our own subnets first,
// IPv4 first (more devices have it working), link-local last.
func (a address) rank() int {
	switch {
	case a.addr.IsLinkLocalUnicast() && a.addr.Is4():
		return 5
	case a.addr.IsLinkLocalUnicast():
		return 4
	case a.onLink && a.addr.Is4():
		return 0
	case a.onLink:
		return 1
	case a.addr.Is4():
		return 2
	default:
		return 3
	}
}

// nextAsk is when to put a direct question about in.
func (t *table) nextAsk(in *instance, now time.Time) time.Time {
	if in.hasTXT && in.txt.path == "" {
		return now.Add(time.Hour) // nothing to gain
	}
	if !t.complete(in) || in.missed > 0 {
		return in.askAfter
	}
	at := in.srv.stale()
	for _, s := range [...]time.Time{in.ptrStale(), t.hostStale(in.host)} {
		if !s.IsZero() && s.Before(at) {
			at = s
		}
	}
	if at.Before(in.askAfter) {
		return in.askAfter
	}
	return at
}

// ptrStale is when the newest PTR record of in gets old, zero if there is none.
func (in *instance) ptrStale() time.Time {
	var newest time.Time
	for _, p := range in.on {
		if p.ptr.known() && p.ptr.stale().After(newest) {
			newest = p.ptr.stale()
		}
	}
	return newest
}

// hostStale is when the newest address of host gets old, zero if it has none.
func (t *table) hostStale(host string) time.Time {
	var newest time.Time
	for _, a := range t.hosts[host] {
		if a.stale().After(newest) {
			newest = a.stale()
		}
	}
	return newest
}

// asks returns the questions that are due. While an instance does not answer,
// they get rarer.
func (t *table) asks(now time.Time) []dns.Question {
	if now.Sub(t.askWindow) >= time.Second {
		t.askWindow, t.asksLeft = now, maxAsks
	}
	var qs []dns.Question
	ask := func(name string, types ...uint16) {
		for _, typ := range types {
			qs = append(qs, dns.Question{Name: name, Qtype: typ, Qclass: dns.ClassINET})
		}
		t.asksLeft -= len(types)
	}
	for _, in := range t.insts {
		if t.asksLeft <= 0 {
			break
		}
		if now.Before(t.nextAsk(in, now)) {
			continue
		}
		ask(in.dnsName, dns.TypeSRV, dns.TypeTXT)
		if ptr := in.ptrStale(); !ptr.IsZero() && !now.Before(ptr) {
			ask(in.service+".local.", dns.TypePTR)
		}
		if in.host != "" {
			ask(in.host, dns.TypeA, dns.TypeAAAA)
		}
		in.askAfter = now.Add(min(askAgain<<min(in.asks, 8), askMax))
		in.asks++
	}
	return qs
}

// next is when settle or asks has something to do, at most an hour from now.
func (t *table) next(now time.Time) time.Time {
	next := now.Add(time.Hour)
	sooner := func(at time.Time) {
		if at.Before(next) {
			next = at
		}
	}
	for _, addrs := range t.hosts {
		for _, a := range addrs {
			sooner(a.until)
		}
	}
	for _, in := range t.insts {
		for _, p := range in.on {
			sooner(p.end())
		}
		if len(in.on) == 0 {
			sooner(in.born.Add(partialLife))
		}
		if in.dirty && len(in.on) > 0 {
			sooner(in.quietUntil)
		}
		ask := t.nextAsk(in, now)
		if t.asksLeft <= 0 && ask.Before(t.askWindow.Add(time.Second)) {
			ask = t.askWindow.Add(time.Second)
		}
		sooner(ask)
	}
	return next
}
