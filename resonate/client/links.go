package client

import (
	"crypto/rand"
	"log/slog"
	"slices"
	"time"

	"resonatebridge/resonate/pairing"
	"resonatebridge/resonate/protocol"
)

// link is what the owner knows of an encrypted session. It is provisional until
// its first activation is admitted, then it is the holder's.
type link struct {
	session   *Session
	channel   Channel
	name      string
	pairing   *pairing.Client
	activated bool            // there was an activation that was not refused
	dismissed bool            // it was sent away: what it still says is void
	roles     []protocol.Role // active
	claim     claim
	reported  bool // the state, since the roles grew
}

// holdMessage tells a person at the server why an attempt waits.
const holdMessage = "Confirm it at the speaker."

// keyed takes a session's first keys, or new ones.
func (c *core) keyed(s *Session, ch Channel) {
	if l := c.links[s]; l != nil {
		l.channel = ch
		l.pairing.Rekeyed(ch.Channel)
	} else {
		c.links[s] = &link{
			session: s, channel: ch, claim: claim{serverID: ch.Server.ID()},
			pairing: pairing.NewClient(&c.memory.device, ch.Channel, holdMessage, rand.Reader),
		}
	}
	if ch.Category == pairing.LongTerm {
		c.memory.book.Touch(ch.Server, time.Now())
		c.kept(c.memory.saveBook())
	}
}

// gone forgets a session that has ended.
func (c *core) gone(s *Session) {
	if l := c.links[s]; l != nil {
		l.pairing.Closed()
		delete(c.links, s)
	}
}

// heard takes a message of an encrypted session.
func (c *core) heard(l *link, m protocol.ServerMessage) {
	if l.dismissed {
		return
	}
	switch m := m.(type) {
	case protocol.ServerHello:
		l.name = m.Name
	case protocol.ServerActivate:
		c.activate(l, m)
	// What counts for longer than the session counts also at its end.
	case protocol.ServerUnpair:
		c.unpair(l)
	case protocol.ServerPairInit, protocol.ServerPairAuth, protocol.ServerPairConfirm, protocol.ServerPairFinalize, protocol.PairAbort:
		c.pair(l, m)
	case protocol.StreamStart, protocol.StreamClear, protocol.AudioChunk, protocol.ServerCommand:
		if l.session == c.holder && slices.Contains(l.roles, protocol.RolePlayer) {
			c.message(m)
		}
	default:
		if l.session == c.holder {
			c.message(m)
		}
	}
}

// activate takes an activation in the order of the protocol: whether it may be,
// whether this server gets the player, what changes.
func (c *core) activate(l *link, m protocol.ServerActivate) {
	if l.session.Err() != nil {
		return
	}
	switch c.memory.device.Judge(l.channel.Channel, c.p.opts.Unpaired, m) {
	case pairing.PairingRequired:
		c.refuse(l, protocol.GoodbyePairingRequired)
		return
	case pairing.Unauthorized:
		c.refuse(l, protocol.GoodbyeUnauthorized)
		return
	case pairing.Admitted, pairing.MethodNotSupported: // of the latter, pairing tells the server
	}
	l.claim.rank = rankOf(m)
	if !l.activated {
		l.activated = true
		if !c.takes(l) {
			return
		}
	}
	c.setRoles(l, m)
	c.state.Paired = l.channel.Category.Paired()
	c.state.Reason = protocol.ReasonDiscovery
	if m.Has(protocol.ActivityPlayback) {
		c.state.Reason = protocol.ReasonPlayback
		c.lastPlayed(l.claim.serverID)
	}
	out, err := l.pairing.Activated(time.Now(), m)
	c.paired(l, out, err)
	c.settle()
}

// rankOf is what an activation counts when servers compete.
func rankOf(m protocol.ServerActivate) int {
	switch {
	case m.Has(protocol.ActivityPlayback):
		return rankPlayback
	case m.Has(protocol.ActivityPairing):
		return rankPairing
	}
	return rankNone
}

// takes decides whether a server gets the player, and sends the loser away.
func (c *core) takes(l *link) bool {
	if !c.decide(l.claim, func(reason protocol.GoodbyeReason) { c.dismiss(l, reason) }) {
		return false
	}
	c.hold(l.session, l.claim.serverID, l.name)
	return true
}

// dismiss sends a server away; one that came to pair hears it in the words of
// pairing.
func (c *core) dismiss(l *link, reason protocol.GoodbyeReason) {
	if l.claim.rank == rankPairing {
		c.send(l, l.pairing.Displace())
		reason = ""
	}
	c.refuse(l, reason)
}

func (c *core) refuse(l *link, reason protocol.GoodbyeReason) {
	l.dismissed = true
	l.session.Close(reason)
}

// setRoles takes the roles of an activation. What belongs to a role that goes
// is dropped. A server that may not play any more has none (spec: Applying an
// activation).
func (c *core) setRoles(l *link, m protocol.ServerActivate) {
	before := l.roles
	if m.ActiveRoles != nil {
		l.roles = m.ActiveRoles
	}
	if !pairing.PlaybackCapable(l.channel.Category, c.p.opts.Unpaired, m.Activities...) {
		l.roles = nil
	}
	for _, r := range before {
		if slices.Contains(l.roles, r) {
			continue
		}
		switch r {
		case protocol.RolePlayer:
			c.state.Stream = nil
			c.play(outputDrop{})
		case protocol.RoleMetadata:
			c.state.Metadata, c.coming = nil, nil
		case protocol.RoleController:
			c.state.Controller = nil
		default:
		}
	}
	for _, r := range l.roles {
		if !slices.Contains(before, r) {
			l.reported = false
		}
	}
}

// settle reports to a server for the first time, and when roles have come. A
// player is available only once it knows the server's clock (spec:
// client/state), and to call it unavailable before would take it out of its
// group.
func (c *core) settle() {
	l := c.links[c.holder]
	if l == nil || l.reported || len(l.roles) == 0 {
		return
	}
	if m := l.session.Model(); slices.Contains(l.roles, protocol.RolePlayer) && (m == nil || m.Samples() < 2) {
		return
	}
	l.reported = true
	c.tell()
}

// pair hands a message of the server to the attempt.
func (c *core) pair(l *link, m protocol.ServerMessage) {
	out, err := l.pairing.Receive(m)
	c.paired(l, out, err)
	if l.pairing.Status().Phase != pairing.PhaseDone {
		return
	}
	psk := l.pairing.Result()
	if psk.IsZero() {
		return
	}
	r := pairing.Record{Peer: l.channel.Server, PSK: psk, Method: l.pairing.Status().Choice.Method, Paired: time.Now()}
	err = c.memory.book.Put(r, func(server pairing.PublicKey) bool {
		for _, other := range c.links {
			if other.channel.Server == server {
				return true
			}
		}
		return false
	})
	if err == nil {
		err = c.memory.saveBook()
	}
	c.kept(err)
	c.p.opts.Log.Info("paired", slog.String("server", l.channel.Server.ID()), slog.String("method", string(r.Method)))
}

// paired sends what an attempt has to say and shows where it stands. A
// violation of its rules ends the session without a word.
func (c *core) paired(l *link, out []protocol.ClientMessage, err error) {
	c.send(l, out)
	if err != nil {
		c.p.opts.Log.Warn("pairing failed", slog.String("server", l.channel.Server.ID()), slog.Any("err", err))
		l.session.Abort()
	}
	if c.rounds != c.memory.device.Rounds { // kept, or a restart would allow as many again
		c.rounds = c.memory.device.Rounds
		c.kept(c.memory.save())
	}
	if l.session == c.holder {
		c.state.Pairing = l.pairing.Status()
	}
}

func (c *core) send(l *link, out []protocol.ClientMessage) {
	for _, m := range out {
		if err := l.session.Send(m); err != nil {
			c.p.opts.Log.Debug("pairing message not sent", slog.Any("err", err))
		}
	}
}

// tick is for attempts whose time is up, or that may go on, for knobs that are
// to be kept, and for metadata that take effect.
func (c *core) tick() {
	if c.coming != nil && !time.Now().Before(c.comes) {
		c.state.Metadata, c.coming = c.coming, nil
	}
	if l := c.links[c.holder]; l != nil {
		out, err := l.pairing.Tick(time.Now())
		c.paired(l, out, err)
	}
	if !c.turned.IsZero() && !time.Now().Before(c.turned) {
		c.keepKnobs()
	}
}

// deadline is when tick is due: zero for never.
func (c *core) deadline() time.Time {
	at := c.turned
	sooner := func(d time.Time) {
		if at.IsZero() || !d.IsZero() && d.Before(at) {
			at = d
		}
	}
	if c.coming != nil {
		sooner(c.comes)
	}
	if l := c.links[c.holder]; l != nil {
		sooner(l.pairing.Deadline())
	}
	return at
}

// knobDelay is how long a knob has to rest before it is kept.
const knobDelay = time.Second

// turn notes that a knob was turned.
func (c *core) turn() {
	if c.memory != nil {
		c.turned = time.Now().Add(knobDelay)
	}
}

// keepKnobs keeps what was turned.
func (c *core) keepKnobs() {
	if c.turned.IsZero() {
		return
	}
	c.turned = time.Time{}
	volume := c.state.Volume
	c.memory.knobs = knobs{Volume: &volume, Muted: c.state.Muted, DelayMs: int(c.state.OutputDelay / time.Millisecond)}
	c.kept(c.memory.save())
}

// unpair drops the record that keys a session, as the server wishes.
func (c *core) unpair(l *link) {
	if !l.channel.Category.Paired() {
		return
	}
	c.memory.book.Remove(l.channel.Server)
	c.kept(c.memory.saveBook())
	c.refuse(l, protocol.GoodbyeUnpaired)
}

// lastPlayed remembers who played last.
func (c *core) lastPlayed(serverID string) {
	c.state.LastPlayed = serverID
	if c.memory.played != serverID {
		c.memory.played = serverID
		c.kept(c.memory.save())
	}
}

// kept notes that something could not be kept. It counts until the end of the
// program.
func (c *core) kept(err error) {
	if err != nil {
		c.p.opts.Log.Error("not kept, and lost with the next start", slog.Any("err", err))
	}
}
