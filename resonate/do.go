package resonate

import (
	"errors"
	"strings"
	"time"
	"unicode/utf8"

	"resonatebridge/resonate/internal/contain"
	"resonatebridge/resonate/internal/session"
	"resonatebridge/resonate/internal/supervisor"
	"resonatebridge/resonate/protocol"
)

// reply answers a command, exactly once.
type reply func(Result, *CommandError)

// wish is what was asked of a player that is just reconnecting: the newest
// volume and mute, kept until it is back or wishFor has passed.
type wish struct {
	volume  *int
	mute    *bool
	replies []reply // who waits for it, with what was asked
	expiry  *time.Timer
}

// wishFor keeps the answer within the 10 s that callers wait (design: 4.3).
const wishFor = 9500 * time.Millisecond

// maxGroupName is how long names may be, in characters.
const maxName = 60

// do carries out one command on the loop.
func (m *model) do(cmd Command, answer reply) {
	ok := func(data map[string]any, err *CommandError) {
		if err != nil {
			answer(Result{}, err)
			return
		}
		answer(Result{Data: data}, nil)
	}
	switch cmd := cmd.(type) {
	case SetPlayer:
		m.setPlayer(cmd, answer)
	case SetGroup:
		ok(m.setGroup(cmd))
	case AddGroup:
		ok(m.addGroup(cmd))
	case RemoveGroup:
		ok(m.removeGroup(cmd))
	case RemovePlayer:
		ok(m.removePlayer(cmd))
	case Pair:
		ok(m.pair(cmd))
	case CancelPairing:
		ok(m.cancelPairing(cmd))
	case Approve:
		ok(m.approve(cmd))
	case AddEndpoint:
		ok(m.addEndpoint(cmd))
	case PlayMedia:
		m.playMedia(cmd, answer)
	case Transport:
		m.control(cmd, answer)
	case Announce:
		m.announce(cmd, answer)
	case StopAll:
		for _, g := range m.sortedGroups() {
			m.act(g, Transport{Action: ActionStop}, func(Result, *CommandError) {})
		}
		ok(map[string]any{}, nil)
	case Scan:
		m.conns.NudgeAll(supervisor.WhyAnnounced)
		if err := contain.Call(m.log, func() error { m.opts.Rescan(); return nil }); err != nil {
			ok(nil, Errorf(CodeInternal, "discovery was not asked: %v", err))
			return
		}
		ok(map[string]any{}, nil)
	default:
		ok(nil, Errorf(CodeUnknownCommand, "command %T is not known", cmd))
	}
}

// findPlayer finds a player by PID.
func (m *model) findPlayer(pid string) (*client, *CommandError) {
	c := m.clients[pid]
	if c == nil || !c.player {
		return nil, Errorf(CodeUnknownDevice, "no speaker has the id %.80q; bridge/devices lists them", pid)
	}
	return c, nil
}

func (m *model) findGroup(id string) (*group, *CommandError) {
	g := m.groups[id]
	if g == nil {
		return nil, Errorf(CodeUnknownGroup, "no group has the id %.80q; bridge/groups lists them", id)
	}
	return g, nil
}

// findTarget finds the group that a command means.
func (m *model) findTarget(t Target) (*group, *CommandError) {
	if t.GroupID != "" {
		return m.findGroup(t.GroupID)
	}
	c, err := m.findPlayer(t.PID)
	if err != nil {
		return nil, err
	}
	return c.group, nil
}

// --- players ---

func (m *model) setPlayer(cmd SetPlayer, answer reply) {
	c, err := m.findPlayer(cmd.PID)
	if err == nil {
		err = m.checkPlayer(c, cmd)
	}
	if err != nil {
		answer(Result{}, err)
		return
	}
	data := map[string]any{}
	if cmd.Name != nil {
		c.rec.GivenName = *cmd.Name
		m.touchGroup(c.group)
		m.unsaved = true
		data["name"] = c.name()
	}
	if cmd.Custody != nil {
		m.setCustody(c, *cmd.Custody)
		data["custody"] = string(*cmd.Custody)
	}
	if cmd.AnnounceVolume != nil {
		update(&c.rec.Announce, cmd.AnnounceVolume)
		m.touch(c)
		m.unsaved = true
		data["announce_volume"] = *cmd.AnnounceVolume
	}
	if cmd.MaxVolume != nil {
		c.rec.MaxVolume = *cmd.MaxVolume
		m.touch(c)
		m.unsaved = true
		c.clampedAt = time.Time{}
		m.enforceMaximum(c)
		data["max_volume"] = *cmd.MaxVolume
	}
	if cmd.DelayMs != nil {
		if err := c.link.Send(protocol.ServerCommand{Command: protocol.CommandSetOutputDelay, OutputDelayMs: *cmd.DelayMs}); err != nil {
			answer(Result{}, sendFailed(c, err))
			return
		}
		data["delay"] = *cmd.DelayMs
	}
	if cmd.Group != nil {
		m.target(c, *cmd.Group)
		data["group"] = c.group.id
	}
	if cmd.Reconnect { // then volume and mute wait for its return
		m.reconnect(c)
		data["reconnect"] = true
	}
	if cmd.Mute == nil && cmd.Volume == nil {
		answer(Result{Data: data}, nil)
		return
	}
	if c.link == nil || cmd.Reconnect {
		m.wish(c, cmd, data, answer)
		return
	}
	m.sound(c, cmd, data, answer)
}

// checkPlayer finds what is wrong with a command before any of it is done.
func (m *model) checkPlayer(c *client, cmd SetPlayer) *CommandError {
	if cmd.Custody != nil {
		switch *cmd.Custody {
		case CustodyAuto, CustodyHold, CustodyObserve, CustodyIgnore:
		case CustodyBorrow:
			return Errorf(CodeNotSupported, "custody borrow comes with a later version; use auto, hold, observe or ignore")
		default:
			return Errorf(CodeInvalidValue, "custody %.40q is not known; use auto, hold, observe or ignore", string(*cmd.Custody))
		}
	}
	if err := inRange("max_volume", cmd.MaxVolume, 1, 100); err != nil {
		return err
	}
	if err := inRange("announce_volume", cmd.AnnounceVolume, 0, 100); err != nil {
		return err
	}
	if err := inRange("delay", cmd.DelayMs, 0, 5000); err != nil {
		return err
	}
	if v := cmd.Volume; v != nil {
		low := 0
		if v.Relative {
			low = -100
		}
		if err := inRange("volume", &v.Value, low, 100); err != nil {
			return err
		}
	}
	if cmd.Name != nil {
		if err := checkName(*cmd.Name, true); err != nil {
			return err
		}
	}
	custody := m.custody(c)
	if cmd.Custody != nil {
		custody = *cmd.Custody
	}
	if cmd.Group != nil {
		if err := m.checkTarget(*cmd.Group); err != nil {
			return err
		}
	}
	if !managed(custody) && (cmd.Volume != nil || cmd.Mute != nil || cmd.DelayMs != nil || cmd.Group != nil || cmd.Reconnect) {
		return Errorf(CodeNotManaged, "custody of %s is %s, so the bridge leaves it alone; set custody to auto or hold first", c.name(), custody)
	}
	if cmd.Reconnect && c.link == nil && len(c.endpoints(m)) == 0 {
		return Errorf(CodeNotConnected, "%s is not announced on the network, so it can't be dialled; switch it on", c.name())
	}
	return m.checkReach(c, cmd)
}

// checkReach says whether volume, mute and delay can reach the player.
func (m *model) checkReach(c *client, cmd SetPlayer) *CommandError {
	if cmd.Volume == nil && cmd.Mute == nil && cmd.DelayMs == nil {
		return nil
	}
	if c.link == nil {
		now := m.connection(c)
		if now == HeldByOtherServer {
			return Errorf(CodeHeldByOtherServer, "%s is in use by %s; set custody to hold (again, if it is) to take it", c.name(), m.holder())
		}
		if now == PairingRequired || now == ApprovalRequired {
			return Errorf(CodePairingRequired, "%s wants to be paired first", c.name())
		}
		if !c.present || cmd.DelayMs != nil {
			return Errorf(CodeNotConnected, "%s is not connected; switch it on and try again", c.name())
		}
		return nil // it was here a moment ago: the wish waits for it
	}
	if !m.granted(c) {
		return Errorf(CodePairingRequired, "%s", wanting(c, m.connection(c)))
	}
	for _, x := range []struct {
		asked   bool
		command protocol.PlayerCommandName
		field   string
	}{
		{cmd.Volume != nil, protocol.CommandVolume, "volume"},
		{cmd.Mute != nil, protocol.CommandMute, "mute"},
		{cmd.DelayMs != nil, protocol.CommandSetOutputDelay, "delay"},
	} {
		if x.asked && !c.accepts(x.command) {
			return Errorf(CodeNotSupported, "%s has no %s that can be set from here", c.name(), x.field)
		}
	}
	return nil
}

// holder names who else may have a player.
func (m *model) holder() string {
	if len(m.others) == 1 {
		return m.others[0].Name
	}
	return "another server"
}

func inRange(field string, v *int, low, high int) *CommandError {
	if v == nil || (*v >= low && *v <= high) {
		return nil
	}
	return Errorf(CodeInvalidValue, "%s: got %d, want %d to %d", field, *v, low, high)
}

// checkName refuses names that would confuse people or Home Assistant.
func checkName(name string, emptyAllowed bool) *CommandError {
	switch {
	case name == "" && emptyAllowed:
		return nil
	case strings.TrimSpace(name) == "":
		return Errorf(CodeInvalidValue, "a name can't be empty")
	case !utf8.ValidString(name):
		return Errorf(CodeInvalidValue, "a name must be valid UTF-8, got %.80q", name)
	case utf8.RuneCountInString(name) > maxName:
		return Errorf(CodeInvalidValue, "a name has at most %d characters, got %d", maxName, utf8.RuneCountInString(name))
	case strings.EqualFold(name, "none"):
		return Errorf(CodeInvalidValue, "the name %q can't be used: Home Assistant reads it as unknown", name)
	}
	for _, r := range name {
		if r < ' ' || r == 0x7f {
			return Errorf(CodeInvalidValue, "a name can't hold control characters, got %.80q", name)
		}
	}
	return nil
}

// sound sends volume and mute to a connected player.
func (m *model) sound(c *client, cmd SetPlayer, data map[string]any, answer reply) {
	volume := 0
	if cmd.Volume != nil { // before anything is done: it may not be known
		v, err := m.absolute(c, *cmd.Volume)
		if err != nil {
			answer(Result{}, err)
			return
		}
		volume = v
	}
	if cmd.Mute != nil {
		on := m.muteTarget(c, *cmd.Mute)
		if err := m.sendMute(c, on); err != nil {
			answer(Result{}, sendFailed(c, err))
			return
		}
		data["mute"] = on
	}
	if cmd.Volume != nil {
		if err := m.sendVolume(c, volume); err != nil {
			answer(Result{}, sendFailed(c, err))
			return
		}
		data["volume"] = volume
	}
	answer(Result{Data: data}, nil)
}

// muteTarget is what a change of mute means now.
func (m *model) muteTarget(c *client, change MuteChange) bool {
	if !change.Toggle {
		return change.On
	}
	now := c.mute
	if c.wanted.mute != nil {
		now = c.wanted.mute
	}
	return now == nil || !*now
}

// absolute is the volume that a change means, not above the maximum.
func (m *model) absolute(c *client, v VolumeChange) (int, *CommandError) {
	value := v.Value
	if v.Relative {
		base := c.expected(m.now()) // an answer may be under way: steps add up
		if c.wanted.volume != nil {
			base = c.wanted.volume
		}
		if base == nil {
			return 0, Errorf(CodeNotSupported, "the volume of %s is not known yet, so it can't be changed by %+d; set a value", c.name(), value)
		}
		value = min(max(*base+value, 0), 100)
	}
	return min(value, c.maxVolume()), nil
}

func sendFailed(c *client, err error) *CommandError {
	if errors.Is(err, session.ErrSlow) {
		return Errorf(CodeBusy, "%s does not take commands fast enough; it is being reconnected", c.name())
	}
	return Errorf(CodeNotConnected, "%s has just gone; try again", c.name())
}

// sendVolume sets the volume of a connected player; the maximum holds for
// everyone who asks.
func (m *model) sendVolume(c *client, v int) error {
	v = min(v, c.maxVolume())
	c.asked = asked{volume: &v, at: m.now()}
	if c.gain() {
		m.ownGain(c, &v, nil)
		return nil
	}
	return c.link.Send(protocol.ServerCommand{Command: protocol.CommandVolume, Volume: v})
}

func (m *model) sendMute(c *client, on bool) error {
	if c.gain() {
		m.ownGain(c, nil, &on)
		return nil
	}
	return c.link.Send(protocol.ServerCommand{Command: protocol.CommandMute, Mute: on})
}

// ownGain keeps the volume of a player that can't be told (dialects: R1).
func (m *model) ownGain(c *client, volume *int, mute *bool) {
	update(&c.volume, volume)
	update(&c.mute, mute)
	update(&c.rec.Volume, volume)
	update(&c.rec.Mute, mute)
	m.unsaved = true
	m.touchBoth(c)
}

// wish keeps volume and mute for a player that is just reconnecting. The
// newest value counts; everyone gets one answer.
func (m *model) wish(c *client, cmd SetPlayer, data map[string]any, answer reply) {
	if cmd.Volume != nil {
		v, err := m.absolute(c, *cmd.Volume)
		if err != nil {
			answer(Result{}, err)
			return
		}
		c.wanted.volume = &v
		data["volume"] = v
	}
	if cmd.Mute != nil {
		on := m.muteTarget(c, *cmd.Mute)
		c.wanted.mute = &on
		data["mute"] = on
	}
	if c.wanted.expiry == nil {
		c.wanted.expiry = m.after(wishFor, func() {
			m.endWish(c, Errorf(CodeNotConnected, "%s did not come back in time; nothing was changed", c.name()))
		})
	}
	c.wanted.replies = append(c.wanted.replies, func(_ Result, err *CommandError) {
		if err != nil {
			answer(Result{}, err)
			return
		}
		answer(Result{Data: data}, nil)
	})
}

// grantWish sends what was asked for while the player was away.
func (m *model) grantWish(c *client) {
	w := c.wanted
	if len(w.replies) == 0 {
		return
	}
	var failed *CommandError
	if w.mute != nil {
		if !c.accepts(protocol.CommandMute) {
			failed = Errorf(CodeNotSupported, "%s has no mute that can be set from here", c.name())
		} else if err := m.sendMute(c, *w.mute); err != nil {
			failed = sendFailed(c, err)
		}
	}
	if w.volume != nil && failed == nil {
		if !c.accepts(protocol.CommandVolume) {
			failed = Errorf(CodeNotSupported, "%s has no volume that can be set from here", c.name())
		} else if err := m.sendVolume(c, *w.volume); err != nil {
			failed = sendFailed(c, err)
		}
	}
	m.endWish(c, failed)
}

// endWish answers everyone who waits; err nil is success.
func (m *model) endWish(c *client, err *CommandError) {
	w := c.wanted
	c.wanted = wish{}
	if w.expiry != nil {
		w.expiry.Stop()
	}
	for _, answer := range w.replies {
		answer(Result{}, err)
	}
}

func (m *model) setCustody(c *client, custody Custody) {
	reclaim := custody == CustodyHold && c.link == nil && m.connection(c) == HeldByOtherServer
	was := m.custody(c)
	c.rec.Custody = custody
	m.unsaved = true
	m.touch(c)
	switch {
	case !managed(custody):
		m.endWish(c, Errorf(CodeNotManaged, "custody of %s was set to %s", c.name(), custody))
		c.verdict, c.lastErr = supervisor.Verdict{}, ""
		if c.link == nil { // else its end will do it
			c.absent()
		}
		for _, k := range c.keys {
			m.conns.Remove(k)
		}
	case !managed(was):
		for _, k := range c.keys {
			if e := m.endpoints[k]; e.advertised {
				m.ensure(k)
			}
		}
	case reclaim: // taking it is what the user just asked for
		m.nudge(c, supervisor.WhyPlayback)
	default:
		m.nudge(c, supervisor.WhyConfig)
	}
}

func (m *model) nudge(c *client, why supervisor.Why) {
	for _, k := range c.keys {
		m.conns.Nudge(k, why)
	}
}

// reconnect drops a live connection, or tries again at once.
func (m *model) reconnect(c *client) {
	if c.link != nil {
		c.link.Kill(errReconnect)
	}
	for _, k := range c.keys {
		if e := m.endpoints[k]; e.advertised {
			m.ensure(k)
		}
	}
	m.nudge(c, supervisor.WhyUser)
}

var (
	errReconnect  = errors.New("resonate: a reconnect was asked for")
	errNotManaged = errors.New("resonate: its custody says to leave it alone")
)
