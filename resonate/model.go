package resonate

import (
	"cmp"
	"crypto/rand"
	"encoding/hex"
	"log/slog"
	"slices"
	"strings"
	"time"

	"resonatebridge/discovery"
	"resonatebridge/resonate/internal/supervisor"
	"resonatebridge/resonate/protocol"
)

// maxClients bounds what a hostile network can make us remember.
const maxClients = 4096

// model is everything that the loop owns. Its methods run on the loop only.
type model struct {
	*Server
	started   time.Time
	clients   map[string]*client // by PID
	byID      map[string]*client // by client id
	byKey     map[supervisor.Key]*client
	groups    map[string]*group
	endpoints map[supervisor.Key]known
	unmet     map[supervisor.Key]status // heard of, never handshaken
	others    []OtherServer
	spoken    []*announcement // that wait or sound
	problems  map[string]string
	version   uint64
	dirty     bool        // the snapshot is older than the model
	unsaved   bool        // the records are older than the model
	resave    *time.Timer // of pairing records that the disk did not take
}

// known is an endpoint as discovery last described it.
type known struct {
	endpt
	advertised bool
	added      bool // by a person, not by the configuration
}

func newModel(s *Server, r records) *model {
	m := &model{
		Server:    s,
		clients:   make(map[string]*client),
		byID:      make(map[string]*client),
		byKey:     make(map[supervisor.Key]*client),
		groups:    make(map[string]*group),
		endpoints: make(map[supervisor.Key]known),
		unmet:     make(map[supervisor.Key]status),
		problems:  make(map[string]string),
		resave:    stoppedTimer(),
		dirty:     true,
	}
	for _, rec := range r.Players {
		for _, url := range rec.Added {
			if e, err := discovery.ParseStatic(url); err == nil {
				m.endpoints[supervisor.Key(e.Key)] = known{endpt: e, added: true}
			}
		}
		m.addClient(&rec, true)
	}
	for _, rec := range r.Groups {
		g := &group{id: rec.ID, name: rec.Name, kind: rec.Kind, created: rec.Created, remembered: rec.Remembered, playback: Idle, loaded: rec.Media}
		m.groups[g.id] = g
		for _, pid := range rec.Members {
			if c := m.clients[pid]; c != nil && c.group.kind == SoloGroup {
				parked := c.rec.Parked
				m.place(c, g)
				c.rec.Parked = parked
			}
		}
		m.settle(g)
	}
	m.unsaved = false
	return m
}

// now is the time of graces and records.
func (m *model) now() time.Time { return time.Now() }

// start begins the graces of players that are remembered from the last run.
func (m *model) start() {
	m.started = m.now()
	for _, e := range m.endpoints {
		m.onDiscovery(discovery.Event{Kind: discovery.Announced, Endpoint: e.endpt})
	}
	for _, c := range m.clients {
		m.touch(c) // "offline" becomes "searching"
		if c.group.kind != SoloGroup {
			c.member = m.after(m.opts.MembershipGrace, func() { m.memberGraceOver(c) })
		}
	}
	m.after(m.opts.AvailabilityGrace, func() { // "searching" becomes "offline"
		for _, c := range m.clients {
			m.touch(c)
		}
	})
	m.dirty = true
	m.unsaved = true // the first save tells whether the disk takes it
}

// stop ends what the model started. Every connection has ended before: nobody
// is available through a bridge that is gone.
func (m *model) stop() {
	m.resave.Stop()
	for _, c := range m.clients {
		c.grace.Stop()
		c.member.Stop()
		c.clamp.Stop()
		c.present = false
		m.touchBoth(c)
		m.endWish(c, Errorf(CodeInternal, "the bridge is shutting down"))
	}
	m.publish()
}

// hush ends everything that plays, while the speakers can still be told.
func (m *model) hush() {
	for _, g := range m.groups {
		if g.stage != nil {
			g.stage.cancel()
		}
	}
}

// after runs f on the loop, later. The timer is never nil.
func (m *model) after(d time.Duration, f func()) *time.Timer {
	return time.AfterFunc(d, func() { m.post(nil, f) })
}

// stoppedTimer stands in where no grace runs.
func stoppedTimer() *time.Timer {
	t := time.NewTimer(time.Hour)
	t.Stop()
	return t
}

func (m *model) touch(c *client) { c.view, m.dirty = nil, true }

// touchGroup marks g and, since they show it, its members as changed.
func (m *model) touchGroup(g *group) {
	g.view, m.dirty = nil, true
	for _, c := range g.members {
		c.view = nil
	}
}

// touchBoth marks a player and the group whose mean it is part of.
func (m *model) touchBoth(c *client) {
	m.touch(c)
	c.group.view = nil
}

// custody is the choice made by hand, else the configuration's.
func (m *model) custody(c *client) Custody {
	if c.rec.Custody != "" {
		return c.rec.Custody
	}
	if c.over.Custody != "" {
		return c.over.Custody
	}
	return m.opts.Custody
}

// override is what the configuration says of c: by its client id, its PID, or
// the instance name of its advertisement, which is all that is known of a
// speaker that was never connected to.
func (m *model) override(c *client) Override {
	names := []string{c.rec.ClientID, c.rec.PID}
	for _, k := range c.keys {
		names = append(names, instanceName(string(k)))
	}
	for _, n := range names {
		if o, ok := m.opts.Overrides[n]; ok && n != "" {
			return o
		}
	}
	return Override{}
}

// --- clients ---

func (m *model) addClient(rec *playerRecord, player bool) *client {
	c := &client{
		rec: rec, player: player, available: true,
		volume: rec.Volume, mute: rec.Mute, delay: rec.DelayMs,
		grace: stoppedTimer(), member: stoppedTimer(), clamp: stoppedTimer(),
		limit: m.opts.MaxVolume,
	}
	m.clients[rec.PID] = c
	if rec.ClientID != "" {
		m.byID[rec.ClientID] = c
	}
	for _, k := range rec.Keys {
		m.bind(c, supervisor.Key(k))
	}
	c.over = m.override(c)
	m.place(c, m.soloOf(c))
	m.touch(c)
	return c
}

// maxKeys bounds the discovery keys of one client: some firmware makes a new
// instance name with each boot.
const maxKeys = 8

// bind notes that key leads to c.
func (m *model) bind(c *client, key supervisor.Key) {
	old := m.byKey[key]
	switch {
	case old == c:
		return
	case old != nil && old.rec.ClientID == "": // it was only advertised, and is c
		known, ok := m.endpoints[key]
		m.drop(old)
		if ok {
			m.endpoints[key] = known
		}
	case old != nil: // the address changed hands
		if old.key == key {
			m.lost(old, status{Key: key}) // if its end was skipped
		}
		m.unbind(old, key)
		m.touch(old)
	}
	m.byKey[key] = c
	delete(m.unmet, key)
	c.keys = append(c.keys, key)
	if len(c.keys) > maxKeys {
		for _, k := range c.keys[:len(c.keys)-1] { // the oldest that is not advertised
			if !m.endpoints[k].advertised && k != c.key {
				m.unbind(c, k)
				delete(m.byKey, k)
				break
			}
		}
	}
	c.over = m.override(c)
	m.rememberKeys(c)
}

func (m *model) unbind(c *client, key supervisor.Key) {
	c.keys = slices.DeleteFunc(c.keys, func(k supervisor.Key) bool { return k == key })
	m.rememberKeys(c)
}

// inboundPrefix marks keys of clients that dialled us; they lead nowhere.
const inboundPrefix = "in:"

func (m *model) rememberKeys(c *client) {
	c.rec.Keys, c.rec.Added = nil, nil
	for _, k := range c.keys {
		if !strings.HasPrefix(string(k), inboundPrefix) {
			c.rec.Keys = append(c.rec.Keys, string(k))
		}
		if m.endpoints[k].added {
			c.rec.Added = append(c.rec.Added, string(k))
		}
	}
	m.unsaved = true
}

// meet finds the client of a hello, or makes it.
func (m *model) meet(key supervisor.Key, h protocol.ClientHello) *client {
	c := m.byID[h.ClientID]
	if c == nil {
		// A speaker that was only advertised so far keeps its id.
		if a := m.byKey[key]; a != nil && a.rec.ClientID == "" {
			c = a
			c.rec.ClientID = h.ClientID
			c.over = m.override(c)
			m.byID[h.ClientID] = c
		}
	}
	if c == nil {
		if len(m.clients) >= maxClients && !m.evict() {
			return nil
		}
		pid := playerID(h.ClientID, m.takenPID)
		c = m.addClient(&playerRecord{PID: pid, ClientID: h.ClientID, FirstSeen: m.now()}, h.HasRole(protocol.RolePlayer))
	}
	m.bind(c, key)
	return c
}

// introduce takes note of a player that was dialled and said hello, before it
// is live: a speaker that another server holds never is, and has to be shown.
func (m *model) introduce(key supervisor.Key, l *link) {
	h := l.Hello()
	if old := m.byKey[key]; old != nil && old.rec.ClientID != "" && old.rec.ClientID != h.ClientID {
		return // the address may have changed hands; that is the supervisor's to decide
	}
	if _, wanted := m.endpoints[key]; !wanted || !h.HasRole(protocol.RolePlayer) {
		return // it was forgotten while it was dialled
	}
	c := m.meet(key, h)
	if c == nil || c.link != nil {
		return
	}
	m.describe(c, h)
	if c.rec.Commands == nil { // else Home Assistant would first see it without a volume
		c.rec.Dialect, c.rec.Commands = string(l.Wire().Name()), l.Wire().Commands()
	}
	if e, ok := m.endpoints[key]; ok {
		c.url = firstURL(e.endpt)
	}
	m.touchGroup(c.group)
	if st, ok := m.conns.Status(key); ok && st.State != supervisor.Up {
		m.onStatus(st) // what was told before it had a name
	}
}

// describe takes over what a hello says about the device.
func (m *model) describe(c *client, h protocol.ClientHello) {
	c.rec.Name = h.Name
	c.rec.Maker, c.rec.Model = h.Device.Manufacturer, h.Device.ProductName
	c.rec.Software, c.rec.MAC = h.Device.SoftwareVersion, h.Device.MACAddress
	m.unsaved = true
}

// evict forgets the client that is gone longest and that nobody ever named,
// grouped or chose anything for. It reports whether there was one.
func (m *model) evict() bool {
	var oldest *client
	for _, c := range m.clients {
		idle := c.link == nil && c.rec.GivenName == "" && c.rec.Custody == "" && c.group.kind == SoloGroup && len(c.endpoints(m)) == 0
		if idle && (oldest == nil || c.rec.LastSeen.Before(oldest.rec.LastSeen)) {
			oldest = c
		}
	}
	if oldest == nil {
		return false
	}
	m.drop(oldest)
	return true
}

func (m *model) takenPID(pid string) bool { return m.clients[pid] != nil }

func (m *model) adHocID() string {
	for {
		var b [4]byte
		_, _ = rand.Read(b[:]) // never fails
		if id := adHocPrefix + hex.EncodeToString(b[:]); m.groups[id] == nil {
			return id
		}
	}
}

// drop forgets a client.
func (m *model) drop(c *client) {
	c.grace.Stop()
	c.member.Stop()
	c.clamp.Stop()
	m.forgetMembership(c, nil)
	g := c.group
	g.members = slices.DeleteFunc(g.members, func(x *client) bool { return x == c })
	m.touchGroup(g)
	m.settle(g)
	delete(m.groups, soloPrefix+c.rec.PID)
	delete(m.clients, c.rec.PID)
	delete(m.byID, c.rec.ClientID)
	for _, k := range c.keys {
		delete(m.byKey, k)
		delete(m.endpoints, k)
	}
	m.dirty, m.unsaved = true, true
}

// --- what discovery says ---

func (m *model) onDiscovery(ev discovery.Event) {
	key := supervisor.Key(ev.Endpoint.Key)
	m.endpoints[key] = known{endpt: ev.Endpoint, advertised: ev.Kind == discovery.Announced, added: m.endpoints[key].added}
	c := m.byKey[key]
	if c != nil {
		m.touch(c)
	}
	if ev.Kind == discovery.Withdrawn {
		m.conns.Nudge(key, supervisor.WhyWithdrawn)
		if c == nil { // never met: nothing to remember
			m.conns.Remove(key)
			delete(m.unmet, key)
			delete(m.endpoints, key)
			m.dirty = true
		}
		return
	}
	if c == nil && !managed(m.opts.Custody) {
		// Never connected to by default, so its id comes from its advertisement.
		name := instanceName(ev.Endpoint.Key)
		c = m.addClient(&playerRecord{PID: playerID(name, m.takenPID), Name: ev.Endpoint.Name, FirstSeen: m.now()}, true)
		m.bind(c, key)
	}
	if c != nil {
		c.url = firstURL(ev.Endpoint)
		if c.rec.Name == "" {
			c.rec.Name = ev.Endpoint.Name
		}
		if !managed(m.custody(c)) {
			return
		}
	} else if _, ok := m.unmet[key]; !ok { // shown from now on, though its first dial may have to wait
		m.unmet[key] = status{Key: key}
		m.dirty = true
	}
	m.ensure(key)
	if ev.Again {
		m.conns.Nudge(key, supervisor.WhyReannounced)
	}
}

// ensure asks for a connection to a known endpoint.
func (m *model) ensure(key supervisor.Key) {
	e, ok := m.endpoints[key]
	if !ok {
		return
	}
	if _, err := m.conns.Ensure(key, e.endpt); err != nil {
		m.log.Debug("endpoint not taken", slog.String("endpoint", string(key)), slog.Any("err", err))
	}
}

func instanceName(key string) string {
	if i := strings.Index(key, "._"); i > 0 {
		return key[:i]
	}
	return key
}

func firstURL(e endpt) string {
	if urls := e.URLs(); len(urls) > 0 {
		return urls[0]
	}
	return ""
}

func (m *model) setOthers(others []OtherServer) {
	m.others = slices.SortedFunc(slices.Values(others), func(a, b OtherServer) int { return cmp.Compare(a.Name, b.Name) })
	for _, c := range m.clients {
		m.touch(c)
	}
	m.dirty = true
}

// clocksJumped doubts every connection and the clock at its other end.
func (m *model) clocksJumped() {
	for _, c := range m.clients {
		if c.link != nil && c.sync != "" {
			c.sync = "" // unknown, until the speaker says it again
			m.touch(c)
		}
	}
	m.conns.NudgeAll(supervisor.WhySuspect)
}

func (m *model) setProblem(key, text string) {
	if m.problems[key] == text {
		return
	}
	if text == "" {
		delete(m.problems, key)
	} else {
		m.problems[key] = text
	}
	m.dirty = true
}
