package resonate

import (
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"resonatebridge/resonate/internal/session"
	"resonatebridge/resonate/internal/supervisor"
	"resonatebridge/resonate/protocol"
)

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
	if c.key != st.Key {
		switch {
		case c.link != nil:
			return // another way to a player that is connected
		case spoken(c.verdict) && c.status.State != supervisor.Gone && !spoken(st.Verdict):
			return // it said why it stays away; that it isn't found here is no news
		}
	}
	m.lost(c, st)
	c.key, c.status = st.Key, st
	if st.State == supervisor.Waiting || st.State == supervisor.Parked {
		c.verdict = st.Verdict
		c.lastErr = sentence(c, st.Verdict, st.Cause)
		if declined(st.Verdict) { // also when it was never live
			c.absent()
			m.touchBoth(c)
		}
	}
	m.touch(c)
}

func (m *model) onUnmet(st status) {
	if _, ok := m.endpoints[st.Key]; !ok {
		delete(m.unmet, st.Key)
		return
	}
	if st.State == supervisor.Gone { // it was withdrawn and is back, or it will turn out to be a player's
		return
	}
	if st.Cause == nil { // it is tried again, which does not undo why it failed
		st.Cause = m.unmet[st.Key].Cause
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
	c.lead, c.buffer, c.format = nil, nil, nil // it says so again
	c.available, c.sync = true, ""
	c.art, c.visual = nil, h.Visual
	if a := h.Artwork; a != nil {
		c.art = a.Channels
	}
	c.player = c.player || slices.Contains(l.Offered(), protocol.RolePlayer)
	m.trusted(c)
	m.wireTold(c)
	if l.url != "" {
		c.url = l.url
	}
	m.describe(c, h)
	c.rec.LastSeen = m.now()
	c.rec.Roles = nil
	for _, r := range l.Offered() {
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
	if !l.Encrypted() { // else it has to say how it is first, see onState
		m.mayCommand(c)
	}
	m.resumePairing(c)
}

// mayCommand sends what waited for a player that takes commands now.
func (m *model) mayCommand(c *client) {
	if !m.announcing(c) {
		m.restoreVolume(c)
	}
	m.grantWish(c)
}

// lost takes the end of a player's link in, if it has one.
func (m *model) lost(c *client, st status) {
	if c.link == nil {
		return
	}
	l := c.link
	if st.Gen != c.status.Gen { // its end was skipped: st tells of a later one
		st.Gen, st.Cause = c.status.Gen, l.Err()
		st.Verdict = judge(st.Cause)
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
	m.pairingLost(c, l)
	switch {
	case declined(st.Verdict):
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
	case protocol.ClientPairPending, protocol.ClientPairInit, protocol.ClientPairAuth, protocol.ClientPairRetry,
		protocol.ClientPairConfirm, protocol.ClientPairFinalize, protocol.PairAbort:
		m.onPairing(c, msg)
		return
	}
	if !m.granted(c) {
		return // a stranger has no say, whatever it says
	}
	switch msg := msg.(type) {
	case protocol.ClientState:
		m.onState(c, msg)
	case protocol.ClientCommand:
		if l.HasRole(protocol.RoleController) {
			m.onControl(c, msg)
		}
	case protocol.ClientLeave:
		m.yield(c)
	case protocol.JoinGroup:
		m.onJoin(c, msg)
	case protocol.ListGroups:
		m.onListGroups(c)
	case protocol.RequestArtwork:
		m.onRequestArtwork(c, msg)
	case protocol.ClientPairPending, protocol.ClientPairInit, protocol.ClientPairAuth, protocol.ClientPairRetry,
		protocol.ClientPairConfirm, protocol.ClientPairFinalize, protocol.PairAbort:
		m.onPairing(c, msg)
	case protocol.RequestVisualizer:
		m.onRequestVisualizer(c, msg.Config)
	case protocol.RequestFormat:
		if update(&c.format, &msg.Format) {
			m.touchGroup(c.group)
		}
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
	if a := st.Artwork; a != nil && !slices.Equal(c.art, a.Channels) {
		c.art, m.dirty = a.Channels, true
	}
	if v := st.Visual; v != nil && c.visual != nil {
		v.BufferCapacity = c.visual.BufferCapacity // stands in the hello
		m.wishVisual(c, *v)
	}
	told := m.wireTold(c)
	if st.Player != nil && !c.link.stated {
		c.link.stated, told = true, true
		if c.link.Encrypted() {
			defer m.mayCommand(c)
		}
	}
	if !c.merge(st) && !told {
		return
	}
	if !c.available {
		m.yield(c)
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
	case protocol.ControlPlay, protocol.ControlPause, protocol.ControlStop, protocol.ControlNext, protocol.ControlPrevious,
		protocol.ControlSeek, protocol.ControlSeekRelative,
		protocol.ControlRepeatOff, protocol.ControlRepeatOne, protocol.ControlRepeatAll, protocol.ControlShuffle, protocol.ControlUnshuffle:
		m.onTransport(c, cmd)
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
	_ = c.link.Send(list) // a link that has ended needs none
}
