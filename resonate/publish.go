package resonate

import (
	"cmp"
	"slices"
	"time"

	"resonatebridge/resonate/protocol"
)

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
		m.cast(g)
		m.paint(g)
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

// settle is how long a client that has just come is told only what holds already.
const settle = 100_000 // micros

// inform tells a live client what changed for it.
func (m *model) inform(c *client) {
	if c.link == nil {
		return
	}
	m.declare(c)
	g := c.group
	var st protocol.ServerState
	up := protocol.GroupUpdate{PlaybackState: wirePlayback(g.playback), GroupID: g.id, GroupName: g.label()}
	if up != c.told.group {
		c.told.group, st.Group = up, &up
	}
	if c.link.HasRole(protocol.RoleMetadata) {
		now := m.opts.Clock.Now()
		first := c.told.metadata == nil
		if first {
			// The first one that it gets must hold at once (spec: server/state), and
			// one that waits to be sent is replaced by the next.
			c.told.settled = now + settle
			if g.stage != nil {
				c.told.settled = max(c.told.settled, g.stage.status.At)
			}
			m.after(time.Duration(c.told.settled-now)*time.Microsecond, func() { m.dirty = true })
		}
		md := g.metadata(now, now >= c.told.settled)
		if first || !sameMetadata(*c.told.metadata, md) {
			c.told.metadata, st.Metadata = &md, &md
		}
	}
	if c.link.HasRole(protocol.RoleController) {
		if now := m.controllerState(g); c.told.controller == nil || !sameController(*c.told.controller, now) {
			c.told.controller, st.Controller = &now, &now
		}
	}
	if c.link.HasRole(protocol.RoleColor) {
		now := m.opts.Clock.Now()
		if colors, of := g.colors(now); !c.told.colored || c.told.tint != of {
			if !c.told.colored { // the first ones hold at once (spec: server/state)
				colors.Timestamp = min(colors.Timestamp, now)
			}
			c.told.colored, c.told.tint, st.Color = true, of, &colors
		}
	}
	if st != (protocol.ServerState{}) {
		c.link.Show(st)
	}
	if c.link.HasRole(protocol.RoleArtwork) {
		c.link.ShowArtwork(c.artwork(m.opts.Clock.Now()))
	}
}

// controllerState lists what a controller of g may ask for, and nothing that
// would have no effect.
func (m *model) controllerState(g *group) protocol.ControllerState {
	var st protocol.ControllerState
	st.Commands, st.Repeat, st.Shuffle, st.SeekMaxMs = g.controls()
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
			rec := *c.rec
			if solo := m.groups[soloPrefix+rec.PID]; solo != nil && solo.loaded != nil {
				rec.Media = solo.loaded
			}
			r.Players = append(r.Players, rec)
		}
	}
	for _, g := range m.sortedGroups() {
		if g.kind == SoloGroup {
			continue
		}
		rec := groupRecord{Media: g.loaded, ID: g.id, Name: g.name, Kind: g.kind, Remembered: slices.Clone(g.remembered), Created: g.created, Members: []string{}}
		for _, c := range g.players() {
			rec.Members = append(rec.Members, c.rec.PID)
		}
		r.Groups = append(r.Groups, rec)
	}
	m.store.save(r)
}
