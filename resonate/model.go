package resonate

import (
	"cmp"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"time"

	"resonatebridge/discovery"
	"resonatebridge/resonate/internal/session"
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
	problems  map[string]string
	version   uint64
	dirty     bool // the snapshot is older than the model
	unsaved   bool // the records are older than the model
}

// known is an endpoint as discovery last described it.
type known struct {
	endpt
	advertised bool
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
		dirty:     true,
	}
	for _, rec := range r.Players {
		if m.clients[rec.PID] == nil && rec.PID != "" {
			m.addClient(&rec, true)
		}
	}
	for _, rec := range r.Groups {
		if rec.ID == "" || m.groups[rec.ID] != nil || (rec.Kind != NamedGroup && rec.Kind != AdHocGroup) {
			continue
		}
		g := &group{id: rec.ID, name: rec.Name, kind: rec.Kind, created: rec.Created, remembered: rec.Remembered, playback: Idle}
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
}

// stop ends what the model started. Every connection has ended before: nobody
// is available through a bridge that is gone.
func (m *model) stop() {
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
	c.rec.Keys = nil
	for _, k := range c.keys {
		if !strings.HasPrefix(string(k), inboundPrefix) {
			c.rec.Keys = append(c.rec.Keys, string(k))
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
	m.endpoints[key] = known{endpt: ev.Endpoint, advertised: ev.Kind == discovery.Announced}
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

// --- what connections say ---

// onStatus takes over the newest status of a key. Statuses in between may
// have been skipped: what counts is which link is live now.
func (m *model) onStatus(st status) {
	m.dirty = true
	if st.Session != nil && st.State == supervisor.Up {
		c := m.meet(st.Key, st.Session.Hello())
		if c == nil {
			st.Session.Kill(fmt.Errorf("resonate: %d clients are known, no more are taken", maxClients))
			return
		}
		if c.player && !managed(m.custody(c)) { // chosen while its hello was under way
			st.Session.Kill(errNotManaged)
			m.conns.Remove(st.Key)
			return
		}
		for _, k := range st.Aliases { // found before it was up; later ones come below
			if other := m.byKey[k]; other == nil || other.rec.ClientID == "" {
				m.bind(c, k)
			}
		}
		if c.link != st.Session {
			m.lost(c, st) // the old one, if its end was skipped
			m.up(c, st)
		}
		c.status = st
		return
	}
	if errors.Is(st.Cause, supervisor.ErrAlias) { // a second key of a player that is there
		if holder, ok := m.conns.Status(st.Key); ok && m.byID[holder.ID] != nil {
			m.bind(m.byID[holder.ID], st.Key)
		}
	}
	c := m.byKey[st.Key]
	if c == nil {
		m.onUnmet(st)
		return
	}
	if c.key != st.Key && c.link != nil {
		return // another way to a player that is connected
	}
	m.lost(c, st)
	c.key, c.status = st.Key, st
	if st.State == supervisor.Waiting || st.State == supervisor.Parked {
		c.verdict = st.Verdict
		c.lastErr = sentence(c, st.Verdict, st.Cause)
	}
	m.touch(c)
}

func (m *model) onUnmet(st status) {
	if _, ok := m.endpoints[st.Key]; !ok || st.State == supervisor.Gone {
		delete(m.unmet, st.Key)
		return
	}
	m.unmet[st.Key] = st
}

// up takes a new link in: the player is connected.
func (m *model) up(c *client, st status) {
	l, h := st.Session, st.Session.Hello()
	c.grace.Stop()
	c.member.Stop()
	c.link, c.key, c.present = l, st.Key, true
	c.sessions++
	c.lastErr, c.verdict = "", supervisor.Verdict{}
	c.told = told{}
	c.available, c.sync = true, ""
	c.player = c.player || l.HasRole(protocol.RolePlayer)
	m.wireTold(c)
	if l.url != "" {
		c.url = l.url
	}
	m.describe(c, h)
	c.rec.LastSeen = m.now()
	c.rec.Roles = nil
	for _, r := range l.Roles() {
		c.rec.Roles = append(c.rec.Roles, string(r))
	}
	if c.gain() { // this server turns the volume; nobody else knows it
		if c.volume == nil {
			full := 100
			c.volume = &full
		}
		if c.mute == nil {
			c.mute = new(bool)
		}
	}
	m.unsaved = true
	m.rejoin(c)
	m.touchGroup(c.group)
	close(l.admitted)
	m.log.Info("connected", slog.String("player", c.rec.PID), slog.String("name", c.name()),
		slog.Uint64("gen", st.Gen), slog.String("dialect", c.rec.Dialect), slog.String("from", l.RemoteAddr().String()))
	m.grantWish(c)
}

// lost takes the end of a player's link in, if it has one.
func (m *model) lost(c *client, st status) {
	if c.link == nil {
		return
	}
	c.link, c.sync = nil, ""
	c.lostAt = m.now()
	c.rec.LastSeen = c.lostAt
	c.verdict = st.Verdict
	c.lastErr = sentence(c, st.Verdict, st.Cause)
	if errors.Is(st.Cause, session.ErrSlow) {
		m.counters.slow.Add(1)
	}
	m.unsaved = true
	m.log.Info("disconnected", slog.String("player", c.rec.PID), slog.String("name", c.name()),
		slog.Uint64("gen", st.Gen), slog.String("reason", st.Verdict.Reason), slog.Any("err", st.Cause))
	switch reason := st.Verdict.Reason; {
	case reason == string(protocol.GoodbyeShutdown), reason == string(protocol.GoodbyeUserRequest),
		reason == string(protocol.GoodbyePairingRequired), reason == string(protocol.GoodbyeUnpaired):
		c.present = false // it said so itself: no grace
	case !managed(m.custody(c)):
		c.present = false // a person said so
	default:
		c.grace = m.after(m.opts.AvailabilityGrace, func() {
			if c.link == nil {
				c.present = false
				m.touchBoth(c)
				if !c.player {
					m.drop(c)
				}
			}
		})
	}
	c.member = m.after(m.opts.MembershipGrace, func() { m.memberGraceOver(c) })
	m.touchGroup(c.group)
}

func (m *model) memberGraceOver(c *client) {
	switch {
	case c.link != nil || m.clients[c.rec.PID] != c:
	case !c.player:
		m.drop(c)
	default:
		m.expire(c)
	}
}

// onMessage takes a client's message in. One of a link that is not the live
// one any more changes nothing.
func (m *model) onMessage(l *link, msg protocol.ClientMessage) {
	c := m.byID[l.ID()]
	if c == nil || c.link != l {
		return
	}
	switch msg := msg.(type) {
	case protocol.ClientState:
		m.onState(c, msg)
	case protocol.ClientCommand:
		if l.HasRole(protocol.RoleController) {
			m.onControl(c, msg)
		}
	case protocol.ClientLeave:
		m.park(c)
	case protocol.JoinGroup:
		m.onJoin(c, msg)
	case protocol.ListGroups:
		m.onListGroups(c)
	case protocol.RequestFormat: // nothing plays: there is no stream to change
	}
}

// wireTold takes over what the wire has learned about the client, and reports
// whether that is news: both may grow with its first state report.
func (m *model) wireTold(c *client) bool {
	name, commands := string(c.link.Wire().Name()), c.link.Wire().Commands()
	if name == c.rec.Dialect && slices.Equal(commands, c.rec.Commands) {
		return false
	}
	// Kept over restarts: a speaker that is away keeps its controls.
	c.rec.Dialect, c.rec.Commands = name, commands
	m.unsaved = true
	return true
}

func (m *model) onState(c *client, st protocol.ClientState) {
	if !c.link.HasRole(protocol.RolePlayer) {
		st.Player = nil
	}
	told := m.wireTold(c)
	if !c.merge(st) && !told {
		return
	}
	if !c.available {
		m.park(c)
	}
	if c.asked.volume != nil && c.volume != nil && *c.asked.volume == *c.volume {
		c.asked = asked{} // it is where it was sent
	}
	if update(&c.rec.Volume, c.volume) || told {
		m.unsaved = true
	}
	if update(&c.rec.Mute, c.mute) {
		m.unsaved = true
	}
	if update(&c.rec.DelayMs, c.delay) {
		m.unsaved = true
	}
	m.touchBoth(c)
	m.enforceMaximum(c)
}

// enforceMaximum turns a player down that was turned up beyond its maximum at
// its own knob; at most once a second, so that no fight begins.
func (m *model) enforceMaximum(c *client) {
	limit := c.maxVolume()
	if c.link == nil || c.volume == nil || *c.volume <= limit || !c.accepts(protocol.CommandVolume) {
		return
	}
	now := m.now()
	if rest := time.Second - now.Sub(c.clampedAt); rest > 0 {
		c.clamp.Stop()
		c.clamp = m.after(rest, func() { m.enforceMaximum(c) })
		return
	}
	c.clampedAt = now
	_ = m.sendVolume(c, limit) // a link that has ended needs none
}

// onControl carries out a controller's command on its group.
func (m *model) onControl(c *client, cmd protocol.ClientCommand) {
	switch cmd.Command {
	case protocol.ControlVolume:
		m.setGroupVolume(c.group, cmd.Volume)
	case protocol.ControlMute:
		m.setGroupMute(c.group, cmd.Mute)
	case protocol.ControlSwitch:
		m.switchGroup(c)
	default: // not in supported_commands: ignored (spec: controller)
	}
}

// onJoin serves dialect R1's group/join and group/unjoin.
func (m *model) onJoin(c *client, j protocol.JoinGroup) {
	if j.GroupID == "" {
		m.leave(c)
		return
	}
	g := m.groups[j.GroupID]
	switch {
	case g == nil || g == c.group:
	case g.kind == SoloGroup && len(g.players()) > 0 && c.player:
		m.enter(c, m.together(g.players()[0]))
	default:
		m.enter(c, g)
	}
}

func (m *model) onListGroups(c *client) {
	var list protocol.GroupList
	for _, g := range m.sortedGroups() {
		list.Groups = append(list.Groups, protocol.GroupListEntry{
			GroupID: g.id, Name: g.label(), State: wirePlayback(g.playback), MemberCount: len(g.players()),
		})
	}
	_ = c.link.tell(list) // a link that has ended needs none
}

// --- publishing ---

// publish stores a new snapshot if anything changed, tells clients what
// concerns them and hands the records to the store.
func (s *Server) publish() { s.model.publish() }

func (m *model) publish() {
	if !m.dirty && m.snap.Load() != nil {
		return
	}
	m.dirty = false
	m.version++
	snap := &Snapshot{Version: m.version, Server: m.identity, OtherServers: m.others}
	for _, g := range m.sortedGroups() {
		if len(g.players()) > 0 || g.kind == NamedGroup {
			snap.Groups = append(snap.Groups, g.snapshot())
		}
	}
	for _, c := range m.sortedClients() {
		if c.player {
			snap.Players = append(snap.Players, c.snapshot(m))
		}
		m.inform(c)
	}
	snap.Unmet = m.unmetEndpoints()
	for _, text := range m.problems {
		snap.Problems = append(snap.Problems, text)
	}
	slices.Sort(snap.Problems)
	snap.Counters = Counters{
		Dials: m.counters.dials.Load(), Sessions: m.counters.sessions.Load(), Malformed: m.counters.malformed.Load(),
		SlowConsumers: m.counters.slow.Load(), Refused: m.counters.refused.Load(),
	}
	m.snap.Store(snap)
	select {
	case m.changed <- struct{}{}:
	default:
	}
	m.save()
}

func (m *model) sortedClients() []*client {
	out := make([]*client, 0, len(m.clients))
	for _, c := range m.clients {
		out = append(out, c)
	}
	slices.SortFunc(out, func(a, b *client) int { return cmp.Compare(a.rec.PID, b.rec.PID) })
	return out
}

func (m *model) unmetEndpoints() []UnmetEndpoint {
	var out []UnmetEndpoint
	for k, st := range m.unmet {
		e := m.endpoints[k]
		u := UnmetEndpoint{Key: string(k), Name: e.Name, URL: firstURL(e.endpt), Connection: Connecting}
		if st.Cause != nil {
			u.Connection, u.Error = ConnectionProblem, st.Cause.Error()
		}
		out = append(out, u)
	}
	slices.SortFunc(out, func(a, b UnmetEndpoint) int { return cmp.Compare(a.Key, b.Key) })
	return out
}

// inform tells a live client what changed for it.
func (m *model) inform(c *client) {
	if c.link == nil {
		return
	}
	g := c.group
	up := protocol.GroupUpdate{PlaybackState: wirePlayback(g.playback), GroupID: g.id, GroupName: g.label()}
	if up != c.told.group {
		c.told.group = up
		m.tell(c, up)
	}
	var st protocol.ServerState
	if c.link.HasRole(protocol.RoleMetadata) && !c.told.metadata {
		c.told.metadata = true
		st.Metadata = &protocol.Metadata{Timestamp: m.opts.Clock.Now(), Repeat: protocol.RepeatOff}
	}
	if c.link.HasRole(protocol.RoleController) {
		if now := m.controllerState(g); c.told.controller == nil || !sameController(*c.told.controller, now) {
			c.told.controller, st.Controller = &now, &now
		}
	}
	if st.Metadata != nil || st.Controller != nil {
		m.tell(c, st)
	}
}

func (m *model) tell(c *client, msg protocol.ServerMessage) {
	if err := c.link.tell(msg); err != nil {
		m.log.Debug("message not sent", slog.String("player", c.rec.PID), slog.Any("err", err))
	}
}

// controllerState lists what a controller of g may ask for, and nothing that
// would have no effect.
func (m *model) controllerState(g *group) protocol.ControllerState {
	st := protocol.ControllerState{Repeat: protocol.RepeatOff}
	var ok bool
	if st.Volume, ok = g.volume(); ok {
		st.Commands = append(st.Commands, protocol.ControlVolume)
	}
	if st.Muted, ok = g.muted(); ok {
		st.Commands = append(st.Commands, protocol.ControlMute)
	}
	st.Commands = append(st.Commands, protocol.ControlSwitch)
	for _, c := range g.players() {
		st.Members = append(st.Members, protocol.GroupMember{ClientID: c.rec.ClientID, Name: c.name()})
	}
	return st
}

func sameController(a, b protocol.ControllerState) bool {
	return slices.Equal(a.Commands, b.Commands) && a.Volume == b.Volume && a.Muted == b.Muted &&
		a.Repeat == b.Repeat && a.Shuffle == b.Shuffle && a.SeekMaxMs == b.SeekMaxMs && slices.Equal(a.Members, b.Members)
}

// wirePlayback is the protocol's word; "paused" is left to the dialects.
func wirePlayback(p Playback) protocol.PlaybackState {
	switch p {
	case Playing:
		return protocol.PlaybackPlaying
	case Paused:
		return protocol.PlaybackPaused
	case Stopped, Idle:
	}
	return protocol.PlaybackStopped
}

// save hands the records to the store if they changed.
func (m *model) save() {
	if !m.unsaved {
		return
	}
	m.unsaved = false
	r := &records{}
	for _, c := range m.sortedClients() {
		if c.player {
			r.Players = append(r.Players, *c.rec)
		}
	}
	for _, g := range m.sortedGroups() {
		if g.kind == SoloGroup {
			continue
		}
		rec := groupRecord{ID: g.id, Name: g.name, Kind: g.kind, Remembered: slices.Clone(g.remembered), Created: g.created, Members: []string{}}
		for _, c := range g.players() {
			rec.Members = append(rec.Members, c.rec.PID)
		}
		r.Groups = append(r.Groups, rec)
	}
	m.store.save(r)
}
