package resonate

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"resonatebridge/discovery"
	"resonatebridge/resonate/internal/dialect"
	"resonatebridge/resonate/internal/supervisor"
	"resonatebridge/resonate/protocol"
	"resonatebridge/timesync"
)

type (
	status = supervisor.Status[*link]
	endpt  = discovery.Endpoint
)

// client is one known client as the loop owns it: a player, or a controller or
// display, which is not shown to people and not remembered.
type client struct {
	rec    *playerRecord
	over   Override // what the configuration says of it
	limit  int      // maximum volume of every player, from the configuration
	player bool
	key    supervisor.Key // where its newest session or attempt is; "" if never tried
	keys   []supervisor.Key
	link   *link // the live session, nil while there is none
	status status

	verdict  supervisor.Verdict // of the last session that ended
	lastErr  string
	lostAt   time.Time // when link became nil; zero: never had one in this run
	grace    *time.Timer
	member   *time.Timer
	clamp    *time.Timer // until the maximum may be enforced again
	present  bool        // availability: live, or within the grace
	sessions uint64      // in this run

	available bool // by its own word
	sync      string
	volume    *int
	mute      *bool
	delay     *int
	lead      *int                        // required lead time in ms; nil: never said
	buffer    *int                        // minimum buffer in ms; nil: never said
	format    *protocol.Format            // that it would like best; nil: none
	art       []protocol.ArtworkChannel   // what its display shows where; replaced, never changed
	visual    *protocol.VisualizerSupport // what its visualizer wants; replaced, never changed
	clampedAt time.Time

	downgraded bool // it has a record here and was last heard unencrypted
	mismatch   bool // it has a record here that it does not know
	pairing    *Pairing
	attempt    *attempt // nil: none goes on

	asked  asked  // the last volume that was sent
	wanted wish   // asked for while it reconnects
	told   told   // what the live session was told
	group  *group // never nil once it is known
	url    string
	view   *Player // nil: changed since it was published
}

// asked is a volume on its way to the speaker.
type asked struct {
	volume *int
	at     time.Time
}

// told is what the live session was last told, so that only changes are sent.
type told struct {
	group      protocol.GroupUpdate
	controller *protocol.ControllerState
	metadata   *protocol.Metadata
	settled    timesync.Micros // from when on metadata is told ahead of its time
	colored    bool
	tint       tint
}

// name is what people call it.
func (c *client) name() string {
	for _, n := range []string{c.rec.GivenName, c.over.Name, c.rec.Name, c.rec.ClientID} {
		if n != "" {
			return n
		}
	}
	return c.rec.PID
}

// gain reports whether this server turns the volume itself, because the
// dialect has no message for it (dialects: R1).
func (c *client) gain() bool { return c.rec.Dialect == string(dialect.R1) }

// accepts reports whether a command can be given to c, by wire or by gain.
func (c *client) accepts(cmd protocol.PlayerCommandName) bool {
	if c.gain() {
		return cmd == protocol.CommandVolume || cmd == protocol.CommandMute
	}
	return slices.Contains(c.rec.Commands, cmd)
}

func (c *client) maxVolume() int {
	for _, v := range []int{c.rec.MaxVolume, c.over.MaxVolume} {
		if v != 0 {
			return v
		}
	}
	return c.limit
}

// managed reports whether we may connect to c at all.
func managed(custody Custody) bool { return custody != CustodyObserve && custody != CustodyIgnore }

// connection says in one word how c stands.
func (m *model) connection(c *client) Connection {
	switch {
	case c.link != nil && m.trust(c) == TrustMismatch:
		return PairingRequired
	case c.link != nil && m.trust(c) == TrustUnapproved:
		if !c.link.Hello().Trust.Unpaired {
			return PairingRequired
		}
		return ApprovalRequired
	case c.link != nil:
		return Connected
	case !managed(m.custody(c)):
		return NotManaged
	}
	if held(c.verdict) && !c.withdrawn(m) {
		return HeldByOtherServer
	}
	switch c.verdict.Reason {
	case string(protocol.GoodbyePairingRequired), string(protocol.GoodbyeUnpaired):
		return PairingRequired
	case string(protocol.GoodbyeUnauthorized), reasonRefused, supervisor.ReasonAddressReused:
		return ConnectionProblem
	case string(protocol.GoodbyeShutdown), string(protocol.GoodbyeUserRequest), supervisor.ReasonWithdrawn:
		return Offline
	}
	switch {
	case !c.present && (!c.lostAt.IsZero() || m.now().Sub(m.started) >= m.opts.AvailabilityGrace):
		return Offline // still tried in the background; the word does not flicker with each attempt
	case c.status.State == supervisor.Dialing || c.status.State == supervisor.Greeting:
		return Connecting
	case len(c.endpoints(m)) > 0:
		return Connecting
	default:
		return Searching
	}
}

// withdrawn reports whether c was advertised once and is no more: whoever had
// it, it is switched off now.
func (c *client) withdrawn(m *model) bool {
	known := false
	for _, k := range c.keys {
		e, ok := m.endpoints[k]
		if e.advertised {
			return false
		}
		known = known || ok
	}
	return known
}

// absent ends its availability, whatever grace it had.
func (c *client) absent() {
	c.grace.Stop()
	c.present = false
}

// expected is the volume that c will have: what was asked of it a moment ago,
// else what it reported.
func (c *client) expected(now time.Time) *int {
	if c.asked.volume != nil && now.Sub(c.asked.at) < time.Second {
		return c.asked.volume
	}
	return c.volume
}

// endpoints are the advertised addresses of c.
func (c *client) endpoints(m *model) []endpt {
	var out []endpt
	for _, k := range c.keys {
		if e, ok := m.endpoints[k]; ok && e.advertised {
			out = append(out, e.endpt)
		}
	}
	return out
}

// snapshot returns the published form of c; the same pointer while nothing changed.
func (c *client) snapshot(m *model) *Player {
	if c.view != nil {
		return c.view
	}
	conn := m.connection(c)
	p := &Player{
		PID: c.rec.PID, ClientID: c.rec.ClientID, Name: c.name(), Roles: c.rec.Roles,
		Manufacturer: c.rec.Maker, Model: c.rec.Model, SoftwareVersion: c.rec.Software, MAC: c.rec.MAC,
		Connection: conn,
		Available:  c.present || conn == HeldByOtherServer,
		Custody:    m.custody(c),
		URL:        c.url, Dialect: c.rec.Dialect, LastError: c.lastErr, LastSeen: c.rec.LastSeen, FirstSeen: c.rec.FirstSeen,
		HasVolume: c.accepts(protocol.CommandVolume), HasMute: c.accepts(protocol.CommandMute),
		HasDelay: c.accepts(protocol.CommandSetOutputDelay),
		Volume:   c.volume, Mute: c.mute, DelayMs: c.delay,
		MaxVolume: c.maxVolume(), AnnounceVolume: c.rec.Announce,
		Encrypted: c.encrypted(), Trust: m.trust(c), PairMethods: c.rec.Methods, Pairing: c.pairing,
		SyncState: c.sync, GroupID: c.group.id, Stream: c.playing(),
	}
	if c.link != nil && conn != Connected {
		p.LastError = wanting(c, conn)
	}
	if c.sessions > 1 {
		p.Reconnects = c.sessions - 1
	}
	if conn == HeldByOtherServer && len(m.others) == 1 {
		p.HeldBy = m.others[0].Name // the only other one there is
	}
	c.view = p
	return p
}

// merge takes over what a state report says and reports whether anything
// changed. A field that is absent is unchanged.
func (c *client) merge(st protocol.ClientState) bool {
	changed := false
	if st.Available != nil && *st.Available != c.available {
		c.available, changed = *st.Available, true
	}
	sync := c.sync
	switch {
	case !c.available:
		sync = "external_source"
	case st.SyncError != nil && *st.SyncError:
		sync = "error"
	case st.SyncError != nil || sync == "" || sync == "external_source":
		sync = "synchronized"
	}
	if sync != c.sync {
		c.sync, changed = sync, true
	}
	p := st.Player
	if p == nil {
		return changed
	}
	if !c.gain() {
		changed = update(&c.volume, p.Volume) || changed
		changed = update(&c.mute, p.Muted) || changed
	}
	changed = update(&c.delay, p.OutputDelayMs) || changed
	changed = update(&c.lead, p.RequiredLeadMs) || changed
	changed = update(&c.buffer, p.MinBufferMs) || changed
	return update(&c.format, p.Format) || changed
}

// update sets *dst to a copy of src if that is a change. Published snapshots
// share the old value, so it is never written through.
func update[T comparable](dst **T, src *T) bool {
	if src == nil || (*dst != nil && **dst == *src) {
		return false
	}
	v := *src
	*dst = &v
	return true
}

// sentence turns the end of a session into words for people; "" when all is well.
func sentence(c *client, v supervisor.Verdict, cause error) string {
	name := c.name()
	switch v.Reason {
	case "", reasonLost, string(protocol.GoodbyeRestart):
	case string(protocol.GoodbyeAnotherServer), string(protocol.GoodbyeConcurrentAttempt):
		return name + " is in use by another server; set custody to hold (again, if it is) to take it"
	case string(protocol.GoodbyeShutdown):
		if v.Action == supervisor.RetrySlow {
			return name + " was switched off; it is looked for at its address every few minutes"
		}
		return name + " was switched off; it comes back when it announces itself"
	case string(protocol.GoodbyeUserRequest):
		return name + " was disconnected at the speaker; press Reconnect to get it back"
	case string(protocol.GoodbyePairingRequired), string(protocol.GoodbyeUnpaired):
		return name + " wants to be paired: press Pair, or run bridge pair"
	case string(protocol.GoodbyeUnauthorized):
		return name + " does not permit this server; allow it at the speaker, then press Reconnect"
	case supervisor.ReasonWithdrawn:
		return ""
	case supervisor.ReasonAddressReused:
		return "another speaker answers at the address of " + name + "; it is looked for elsewhere"
	}
	if held(v) { // whatever else its connection ended with
		return fmt.Sprintf("%s said goodbye with the reason %q, which is not known here; it is tried again in some minutes", name, v.Reason)
	}
	for _, wanted := range []error{errGone, errReconnect, supervisor.ErrRemoved, supervisor.ErrClosed} {
		if errors.Is(cause, wanted) {
			return ""
		}
	}
	if cause == nil {
		return ""
	}
	return cause.Error()
}
