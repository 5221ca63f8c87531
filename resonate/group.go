package resonate

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"time"

	"resonatebridge/resonate/internal/stream"
	"resonatebridge/resonate/protocol"
)

// Prefixes of the ids of groups that no person named.
const (
	soloPrefix  = "solo-"
	adHocPrefix = "adhoc-"
)

// group is one group as the loop owns it. Every client is in exactly one.
type group struct {
	id, name   string
	kind       GroupKind
	created    time.Time
	members    []*client // in joining order; displays and controllers too
	remembered []string  // named groups: PIDs that belong to it
	playback   Playback
	speaking   int          // announcements that it hears
	stage      *stage       // what plays to it; nil until something did
	loaded     *mediaRecord // what played last; nil if nothing ever did
	view       *Group       // nil: changed since it was published
}

// players are the members that are speakers, in joining order.
func (g *group) players() []*client {
	var out []*client
	for _, c := range g.members {
		if c.player {
			out = append(out, c)
		}
	}
	return out
}

// eligible are the connected players that accept command, which is what group
// volume and group mute count (spec: group volume).
func (g *group) eligible(command protocol.PlayerCommandName) []*client {
	var out []*client
	for _, c := range g.members {
		if c.player && c.link != nil && c.accepts(command) {
			out = append(out, c)
		}
	}
	return out
}

// volume is the mean of the members that have one; 100 and false if none has.
func (g *group) volume() (int, bool) {
	var vs []int
	for _, c := range g.eligible(protocol.CommandVolume) {
		if c.volume != nil {
			vs = append(vs, *c.volume)
		}
	}
	if len(vs) == 0 {
		return 100, false
	}
	return int(math.Round(mean(vs))), true
}

// muted reports whether all members that can be muted are, and whether there
// is one.
func (g *group) muted() (muted, ok bool) {
	muted = true
	for _, c := range g.eligible(protocol.CommandMute) {
		ok = true
		muted = muted && c.mute != nil && *c.mute
	}
	return muted && ok, ok
}

// label is the name that people and clients see.
func (g *group) label() string {
	if g.kind == NamedGroup {
		return g.name
	}
	players := g.players()
	switch len(players) {
	case 0:
		return g.name
	case 1:
		return players[0].name()
	case 2:
		return players[0].name() + " + " + players[1].name()
	}
	return fmt.Sprintf("%s + %d", players[0].name(), len(players)-1)
}

// snapshot returns the published form of g; the same pointer while nothing changed.
func (g *group) snapshot() *Group {
	if g.view != nil {
		return g.view
	}
	v := &Group{Media: g.media(), Announcing: g.speaking > 0, ID: g.id, Name: g.label(), Kind: g.kind, Members: []string{}, Playback: g.playback, Created: g.created}
	for _, c := range g.players() {
		v.Members = append(v.Members, c.rec.PID)
		if c.link != nil {
			v.Online++
		}
	}
	if g.stage != nil && g.stage.status.Err != nil {
		v.MediaError = g.stage.status.Err.Error()
	}
	v.Remembered = slices.Sorted(slices.Values(g.remembered))
	v.Volume, v.HasVolume = g.volume()
	v.Mute, v.HasMute = g.muted()
	v.Repeat, v.Shuffle = g.modes()
	g.view = v
	return v
}

// media is what g plays; nil while nothing is loaded.
func (g *group) media() *Media {
	if g.stage == nil || g.stage.status.State == stream.Idle {
		return nil
	}
	st := g.stage.status
	x := mediaOf(st)
	// A position is told with the wall time at which it was true.
	x.Position = st.Position
	x.At = g.stage.wall
	if a := g.stage.art; a != nil && a.loaded {
		x.ArtError = a.err
		if a.shown != nil {
			x.Art, x.ArtHash = a.shown.jpeg, a.shown.hash
		}
	}
	if st.State == stream.Playing {
		x.Speed = 1
	}
	return &x
}

// --- changes; every one goes through place ---

// place moves c to g and settles the group that it leaves. Both change as one:
// nothing is published in between.
func (m *model) place(c *client, g *group) {
	old := c.group
	if old == g {
		return
	}
	if old != nil {
		old.members = slices.DeleteFunc(old.members, func(x *client) bool { return x == c })
		m.touchGroup(old)
	}
	g.members = append(g.members, c)
	c.group = g
	if old != nil { // else it is only being remembered
		c.rec.Parked = false
	}
	m.touchGroup(g)
	if old != nil {
		m.settle(old)
	}
	m.unsaved = true
}

// settle removes a group that has no reason to exist any more.
func (m *model) settle(g *group) {
	players := g.players()
	switch {
	case g.kind == NamedGroup:
		if len(players) == 0 {
			m.silence(g)
		}
		return
	case g.kind == AdHocGroup && len(players) >= 2:
		return
	case g.kind == SoloGroup && len(players) == 1 && g.id == soloPrefix+players[0].rec.PID:
		return
	}
	delete(m.groups, g.id)
	if len(players) != 1 {
		m.silence(g)
		for _, c := range slices.Clone(g.members) {
			m.place(c, m.soloOf(c))
		}
		return
	}
	last := m.soloOf(players[0])
	m.handOver(g, last) // it goes on where it is heard last
	for _, c := range slices.Clone(g.members) {
		if c != players[0] {
			m.place(c, last) // displays and controllers stay with it
		}
	}
	m.place(players[0], last)
}

// soloOf is the group in which c is alone.
func (m *model) soloOf(c *client) *group {
	id := soloPrefix + c.rec.PID
	g := m.groups[id]
	if g == nil {
		g = &group{id: id, name: c.name(), kind: SoloGroup, playback: Idle, created: m.now(), loaded: c.rec.Media}
		m.groups[id] = g
	}
	return g
}

// together returns the group of c, made ad hoc if c is alone.
func (m *model) together(c *client) *group {
	if c.group.kind != SoloGroup {
		return c.group
	}
	g := &group{id: m.adHocID(), kind: AdHocGroup, playback: Idle, created: m.now()}
	m.groups[g.id] = g
	m.handOver(c.group, g)
	followers := slices.Clone(c.group.members) // displays that watch c come along
	m.place(c, g)
	for _, f := range followers {
		m.place(f, g)
	}
	return g
}

// enter moves a player into g by a person's wish: membership in named groups
// is remembered, and only the last one is.
func (m *model) enter(c *client, g *group) {
	m.forgetMembership(c, g)
	if g.kind == NamedGroup && c.player && !slices.Contains(g.remembered, c.rec.PID) {
		g.remembered = append(g.remembered, c.rec.PID)
		m.touchGroup(g)
		m.unsaved = true
	}
	c.rec.Previous = ""
	m.place(c, g)
	if c.link == nil { // it may join while it is away, and has the usual time to come back
		c.member.Stop()
		c.member = m.after(m.opts.MembershipGrace, func() { m.memberGraceOver(c) })
	}
}

// leave moves a player out by a person's wish: nothing is remembered.
func (m *model) leave(c *client) {
	m.forgetMembership(c, nil)
	c.rec.Previous = ""
	m.place(c, m.soloOf(c))
}

// forgetMembership removes c from the memory of every named group but keep.
func (m *model) forgetMembership(c *client, keep *group) {
	for _, g := range m.groups {
		if g != keep && slices.Contains(g.remembered, c.rec.PID) {
			g.remembered = slices.DeleteFunc(g.remembered, func(pid string) bool { return pid == c.rec.PID })
			m.touchGroup(g)
			m.unsaved = true
		}
	}
}

// park moves a client that became unavailable, or left, into its solo group
// and remembers where it was; only switch or a person brings it back (spec:
// availability).
func (m *model) park(c *client) {
	if c.group.kind != SoloGroup {
		c.rec.Previous = c.group.id
		m.place(c, m.soloOf(c))
		c.rec.Parked = true
	}
}

// yield ends what plays on a client that became unavailable or left: alone it
// stops, in a group it goes and the others play on (spec: availability).
func (m *model) yield(c *client) {
	if c.group.kind == SoloGroup {
		m.act(c.group, Transport{Action: ActionStop}, func(Result, *CommandError) {})
		return
	}
	m.park(c)
}

// expire ends the membership of a player that was gone too long. A named
// group keeps it in memory; it comes back with the player.
func (m *model) expire(c *client) {
	if c.group.kind != SoloGroup {
		c.rec.Previous = c.group.id
		m.place(c, m.soloOf(c))
	}
}

// rejoin brings a returning player back into the named group that remembers it,
// unless it is parked.
func (m *model) rejoin(c *client) {
	if c.group.kind != SoloGroup || c.rec.Parked {
		return
	}
	for _, g := range m.sortedGroups() {
		if slices.Contains(g.remembered, c.rec.PID) {
			m.place(c, g)
			return
		}
	}
}

// switchGroup moves c to the next group of the cycle (spec: switch): first the
// group it was parked from, then playing groups of several players, then
// players that play alone, then, for a player, its own solo group.
func (m *model) switchGroup(c *client) {
	if c.rec.Parked {
		if g := m.groups[c.rec.Previous]; g != nil {
			c.rec.Previous = ""
			m.place(c, g)
			return
		}
	}
	cycle := m.cycle(c)
	if len(cycle) == 0 {
		return
	}
	at := slices.Index(cycle, c.group) // -1: it starts from the beginning
	switch next := cycle[(at+1)%len(cycle)]; {
	case next == nil:
		m.place(c, m.soloOf(c))
	case next == c.group:
	case next.kind == SoloGroup && c.player && next.id != soloPrefix+c.rec.PID:
		m.place(c, m.together(next.players()[0]))
	default:
		m.place(c, next)
	}
}

// cycle lists where switch leads, in its fixed order: groups of several other
// players by id, then players that play alone by id, then the own solo group;
// nil stands for that while it does not exist. c itself is not counted, so the
// order does not change as c moves through it.
func (m *model) cycle(c *client) []*group {
	var several, alone []*group
	first := map[*group]string{}
	for _, g := range m.sortedGroups() {
		others := slices.DeleteFunc(g.players(), func(x *client) bool { return x == c })
		switch {
		case g.playback != Playing || len(others) == 0:
		case len(others) == 1:
			alone = append(alone, g)
			first[g] = others[0].rec.PID
		default:
			several = append(several, g)
		}
	}
	slices.SortFunc(alone, func(a, b *group) int { return cmp.Compare(first[a], first[b]) })
	cycle := slices.Concat(several, alone)
	if c.player {
		cycle = append(cycle, m.groups[soloPrefix+c.rec.PID])
	}
	return cycle
}

func (m *model) sortedGroups() []*group {
	out := make([]*group, 0, len(m.groups))
	for _, g := range m.groups {
		out = append(out, g)
	}
	slices.SortFunc(out, func(a, b *group) int { return cmp.Compare(a.id, b.id) })
	return out
}
