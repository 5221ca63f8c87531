package resonate

import (
	"log/slog"
	"math"
	"slices"
	"strings"

	"resonatebridge/discovery"
	"resonatebridge/resonate/internal/supervisor"
	"resonatebridge/resonate/protocol"
)

func (m *model) checkTarget(t GroupTarget) *CommandError {
	switch {
	case t.Solo:
		return nil
	case t.GroupID != "":
		g, err := m.findGroup(t.GroupID)
		if err == nil && g.kind == SoloGroup && len(g.players()) == 0 {
			return Errorf(CodeUnknownGroup, "group %.80q has no speaker", t.GroupID)
		}
		return err
	case t.With != "":
		o, err := m.findPlayer(t.With)
		if err == nil && !managed(m.custody(o)) {
			return Errorf(CodeNotManaged, "custody of %s is %s, so it can't be grouped; set it to auto or hold first", o.name(), m.custody(o))
		}
		return err
	}
	return Errorf(CodeInvalidValue, "no group was named; use solo, a group or another speaker")
}

// target moves a player where a person wants it. Asking for where it is
// changes nothing.
func (m *model) target(c *client, t GroupTarget) {
	switch {
	case t.Solo:
		m.leave(c)
	case t.GroupID != "":
		g := m.groups[t.GroupID]
		if g.kind == SoloGroup && g != c.group {
			g = m.together(g.players()[0])
		}
		if g.kind == SoloGroup { // its own
			m.leave(c)
			return
		}
		m.enter(c, g)
	default:
		o := m.clients[t.With]
		switch {
		case o == c, o.group == c.group:
		default:
			m.enter(c, m.together(o))
		}
	}
}

func (m *model) setGroup(cmd SetGroup) (map[string]any, *CommandError) {
	g, err := m.findGroup(cmd.ID)
	if err != nil {
		return nil, err
	}
	members, err := m.wantedMembers(g, cmd)
	if err != nil {
		return nil, err
	}
	if err := m.checkGroup(g, cmd); err != nil {
		return nil, err
	}
	if g.kind == SoloGroup && members != nil && (len(g.players()) == 0 || !slices.Contains(members, g.players()[0])) {
		return nil, Errorf(CodeInvalidValue, "%s is the group of one speaker, which has to stay in it; use a named group, or join the others", g.label())
	}
	data := map[string]any{}
	if cmd.Name != nil {
		g.name = *cmd.Name
		m.touchGroup(g)
		m.unsaved = true
		data["name"] = g.name
	}
	switch {
	case cmd.Release:
		m.release(g)
	case members != nil:
		g = m.setMembers(g, members)
		m.forgetAbsent(g, cmd, members)
		data["id"] = g.id
	}
	if cmd.Release || members != nil {
		data["members"] = g.snapshot().Members
	}
	if cmd.Mute != nil {
		on := cmd.Mute.On
		if cmd.Mute.Toggle {
			now, _ := g.muted()
			on = !now
		}
		m.setGroupMute(g, on)
		data["mute"] = on
	}
	if cmd.Volume != nil {
		v := cmd.Volume.Value
		if cmd.Volume.Relative {
			v = min(max(m.expectedVolume(g)+v, 0), 100)
		}
		m.setGroupVolume(g, v)
		data["volume"] = v
	}
	return data, nil
}

// release sends everyone home; the group remembers them, also those that are
// away, and none comes back by itself.
func (m *model) release(g *group) {
	for _, c := range g.players() {
		m.park(c)
	}
	for _, pid := range g.remembered {
		if c := m.clients[pid]; c != nil && c.group.kind == SoloGroup {
			c.rec.Parked, c.rec.Previous = true, g.id
			m.unsaved = true
		}
	}
}

// forgetAbsent takes players that are away out of a named group's memory, when
// they were removed or are not on the list that it was given.
func (m *model) forgetAbsent(g *group, cmd SetGroup, members []*client) {
	if g.kind != NamedGroup {
		return
	}
	before := len(g.remembered)
	g.remembered = slices.DeleteFunc(g.remembered, func(pid string) bool {
		return slices.Contains(cmd.Remove, pid) || (cmd.Members != nil && !slices.Contains(members, m.clients[pid]))
	})
	if len(g.remembered) != before {
		m.touchGroup(g)
		m.unsaved = true
	}
}

// checkGroup finds what else is wrong with a group command.
func (m *model) checkGroup(g *group, cmd SetGroup) *CommandError {
	if cmd.Name != nil {
		if g.kind != NamedGroup {
			return Errorf(CodeNotSupported, "%s is not a named group, so it can't be renamed; make one with bridge/request/group/add", g.label())
		}
		if err := checkName(*cmd.Name, false); err != nil {
			return err
		}
		if err := m.checkGroupName(*cmd.Name, g); err != nil {
			return err
		}
	}
	if (cmd.Gather || cmd.Release) && g.kind != NamedGroup {
		return Errorf(CodeNotSupported, "%s is not a named group and remembers nobody", g.label())
	}
	if v := cmd.Volume; v != nil {
		low := 0
		if v.Relative {
			low = -100
		}
		if err := inRange("volume", &v.Value, low, 100); err != nil {
			return err
		}
		if _, ok := g.volume(); !ok {
			return m.noMember(g, "volume")
		}
	}
	if cmd.Mute != nil {
		if _, ok := g.muted(); !ok {
			return m.noMember(g, "mute")
		}
	}
	return nil
}

func (m *model) noMember(g *group, what string) *CommandError {
	if g.snapshot().Online == 0 {
		return Errorf(CodeNotConnected, "no speaker of %s is connected", g.label())
	}
	return Errorf(CodeNotSupported, "no speaker of %s has a %s that can be set from here", g.label(), what)
}

func (m *model) checkGroupName(name string, except *group) *CommandError {
	// These are options of every speaker's Group select.
	if low := strings.ToLower(name); low == "solo" || low == "hosting" || strings.HasPrefix(low, "with ") {
		return Errorf(CodeInvalidValue, "a group can't be called %q: Solo, Hosting and With ... mean something else", name)
	}
	for _, g := range m.groups {
		if g != except && g.kind == NamedGroup && strings.EqualFold(g.name, name) {
			return Errorf(CodeInvalidValue, "a group %q exists already (%s)", g.name, g.id)
		}
	}
	return nil
}

// wantedMembers is the member list that a command asks for, in joining order;
// nil if it asks for no change.
func (m *model) wantedMembers(g *group, cmd SetGroup) ([]*client, *CommandError) {
	if cmd.Members == nil && cmd.Add == nil && cmd.Remove == nil && !cmd.Gather {
		return nil, nil
	}
	var pids []string
	if cmd.Members != nil {
		pids = *cmd.Members
	} else {
		for _, c := range g.players() {
			pids = append(pids, c.rec.PID)
		}
	}
	pids = append(slices.Clone(pids), cmd.Add...)
	if cmd.Gather {
		for _, pid := range g.remembered {
			if m.clients[pid] != nil {
				pids = append(pids, pid)
			}
		}
	}
	for _, pid := range cmd.Remove {
		if _, err := m.findPlayer(pid); err != nil {
			return nil, err
		}
	}
	out := []*client{}
	for _, pid := range pids {
		c, err := m.findPlayer(pid)
		if err != nil {
			return nil, err
		}
		if stays := g != nil && c.group == g; !stays && !managed(m.custody(c)) && !cmd.Gather && !slices.Contains(cmd.Remove, pid) {
			return nil, Errorf(CodeNotManaged, "custody of %s is %s, so it can't be grouped; set it to auto or hold first", c.name(), m.custody(c))
		}
		if !slices.Contains(out, c) && !slices.Contains(cmd.Remove, pid) {
			out = append(out, c)
		}
	}
	return out, nil
}

// setMembers makes exactly members the players of g, as one change, and
// returns the group that they are in now.
func (m *model) setMembers(g *group, members []*client) *group {
	if g.kind == SoloGroup && len(members) > 1 {
		g = m.together(g.players()[0])
	}
	for _, c := range g.players() {
		if !slices.Contains(members, c) {
			m.leave(c)
		}
	}
	for _, c := range members {
		if m.groups[g.id] != g { // an ad-hoc group ends with its last pair
			if len(members) == 1 {
				m.leave(c)
				return c.group
			}
			m.leave(members[0]) // of whatever group it is in now
			g = m.together(members[0])
		}
		if g.kind != SoloGroup {
			m.enter(c, g)
		}
	}
	return g
}

func (m *model) addGroup(cmd AddGroup) (map[string]any, *CommandError) {
	if err := checkName(cmd.Name, false); err != nil {
		return nil, err
	}
	if err := m.checkGroupName(cmd.Name, nil); err != nil {
		return nil, err
	}
	members, err := m.wantedMembers(nil, SetGroup{Members: &cmd.Members})
	if err != nil {
		return nil, err
	}
	g := &group{
		id:   groupID(cmd.Name, func(id string) bool { return m.groups[id] != nil }),
		name: cmd.Name, kind: NamedGroup, playback: Idle, created: m.now(),
	}
	m.groups[g.id] = g
	m.dirty, m.unsaved = true, true
	for _, c := range members {
		m.enter(c, g)
	}
	return map[string]any{"id": g.id, "name": g.name}, nil
}

func (m *model) removeGroup(cmd RemoveGroup) (map[string]any, *CommandError) {
	g, err := m.findGroup(cmd.ID)
	if err != nil {
		return nil, err
	}
	if g.kind != NamedGroup {
		return nil, Errorf(CodeNotSupported, "%s is not a named group; it ends when its speakers leave", g.label())
	}
	g.remembered = nil
	g.kind = AdHocGroup // it no longer outlives its members
	for _, c := range slices.Clone(g.members) {
		m.place(c, m.soloOf(c))
	}
	delete(m.groups, g.id)
	m.dirty, m.unsaved = true, true
	return map[string]any{"id": g.id}, nil
}

// setGroupVolume brings the mean of a group to v (spec: group volume).
func (m *model) setGroupVolume(g *group, v int) {
	var who []*client
	var volumes []int
	for _, c := range g.eligible(protocol.CommandVolume) {
		if v := c.expected(m.now()); v != nil {
			who, volumes = append(who, c), append(volumes, *v)
		}
	}
	for i, target := range distribute(volumes, v) {
		if target != volumes[i] {
			_ = m.sendVolume(who[i], target) // a link that has ended is left out
		}
	}
}

// expectedVolume is the mean that g will have once all answers are in.
func (m *model) expectedVolume(g *group) int {
	var volumes []int
	for _, c := range g.eligible(protocol.CommandVolume) {
		if v := c.expected(m.now()); v != nil {
			volumes = append(volumes, *v)
		}
	}
	if len(volumes) == 0 {
		return 100
	}
	return int(math.Round(mean(volumes)))
}

// setGroupMute mutes every member that can be; volume is not touched.
func (m *model) setGroupMute(g *group, on bool) {
	for _, c := range g.eligible(protocol.CommandMute) {
		_ = m.sendMute(c, on) // a link that has ended is left out
	}
}

// --- endpoints ---

func (m *model) removePlayer(cmd RemovePlayer) (map[string]any, *CommandError) {
	c, err := m.findPlayer(cmd.PID)
	if err != nil {
		return nil, err
	}
	m.endWish(c, Errorf(CodeUnknownDevice, "%s was forgotten", c.name()))
	m.unpair(c)
	for _, k := range c.keys {
		m.conns.Remove(k)
	}
	m.drop(c)
	m.log.Info("forgotten", slog.String("player", c.rec.PID), slog.String("name", c.name()), slog.Bool("connected", c.link != nil))
	return map[string]any{"id": c.rec.PID}, nil
}

func (m *model) addEndpoint(cmd AddEndpoint) (map[string]any, *CommandError) {
	e, err := discovery.ParseStatic(cmd.URL)
	if err != nil {
		return nil, Errorf(CodeInvalidValue, "url %.200q: %v", cmd.URL, err)
	}
	key := supervisor.Key(e.Key)
	m.endpoints[key] = known{endpt: e, added: true}
	if c := m.byKey[key]; c != nil {
		m.rememberKeys(c)
	}
	m.onDiscovery(discovery.Event{Kind: discovery.Announced, Endpoint: e})
	return map[string]any{"url": firstURL(e)}, nil
}
