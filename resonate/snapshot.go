package resonate

import (
	"time"

	"resonatebridge/resonate/protocol"
)

// Connection says how a player stands, in the words that users see
// (design: 4.5 "connection").
type Connection string

// The values of [Connection].
const (
	Searching         Connection = "searching"
	Connecting        Connection = "connecting"
	Connected         Connection = "connected"
	Offline           Connection = "offline"
	PairingRequired   Connection = "pairing_required"
	ApprovalRequired  Connection = "approval_required"
	HeldByOtherServer Connection = "held_by_other_server"
	NotManaged        Connection = "not_managed"
	ConnectionProblem Connection = "error"
)

// Custody says who holds a player (design: section 6).
type Custody string

// The values of [Custody].
const (
	CustodyAuto    Custody = "auto"
	CustodyHold    Custody = "hold"
	CustodyBorrow  Custody = "borrow"
	CustodyObserve Custody = "observe"
	CustodyIgnore  Custody = "ignore"
)

// Playback is what a group does, in the words that users see.
type Playback string

// The values of [Playback].
const (
	Playing Playback = "playing"
	Paused  Playback = "paused"
	Stopped Playback = "stopped"
	Idle    Playback = "idle"
)

// GroupKind tells the three kinds of groups apart.
type GroupKind string

// The values of [GroupKind].
const (
	SoloGroup  GroupKind = "solo"
	AdHocGroup GroupKind = "adhoc"
	NamedGroup GroupKind = "named"
)

// Snapshot is one consistent view of everything. It is immutable: readers keep
// it as long as they like. A Player or Group pointer that is the same in two
// snapshots did not change between them.
type Snapshot struct {
	Version      uint64          // grows with every change
	Server       Identity        // who we are on the wire
	Players      []*Player       // known players, by PID
	Groups       []*Group        // every group with at least one member, and every named group, by ID
	Unmet        []UnmetEndpoint // heard of, never handshaken, by Key
	Problems     []string        // sentences for people; empty when all is well
	OtherServers []OtherServer   // other servers heard over mDNS, by name
}

// Player finds a player by PID; nil if there is none.
func (s *Snapshot) Player(pid string) *Player {
	for _, p := range s.Players {
		if p.PID == pid {
			return p
		}
	}
	return nil
}

// Group finds a group by ID; nil if there is none.
func (s *Snapshot) Group(id string) *Group {
	for _, g := range s.Groups {
		if g.ID == id {
			return g
		}
	}
	return nil
}

// Identity is how a server names itself in hello and mDNS.
type Identity struct {
	ID   string
	Name string
}

// Player is one known player, connected or not.
type Player struct {
	PID                                       string // topic-safe id, stable for ever
	ClientID                                  string // as in its hello; empty if it never said hello
	Name                                      string // given by the user, else from hello, else from mDNS
	Roles                                     []string
	Manufacturer, Model, SoftwareVersion, MAC string // from hello; may be empty

	Connection Connection
	Available  bool // what `availability` shows: connected, or within the grace, or held by another server
	Custody    Custody
	HeldBy     string    // who holds it, empty if nobody else or unknown
	URL        string    // where it is or was reached, empty if it dialled us and never advertised
	Dialect    string    // wire dialect of the live session, else the last one
	LastError  string    // a sentence; empty when all is well
	LastSeen   time.Time // zero: never; set when a session ends or is up at start
	FirstSeen  time.Time // when it became known; kept over restarts
	Reconnects uint64    // sessions after the first, since the start

	Encrypted   bool                  // the live session is, else the last one was
	Trust       Trust                 // what protects the connection
	PairMethods []protocol.PairMethod // what it offers; empty: it can't be paired, or nobody asked it yet
	Pairing     *Pairing              // the attempt that goes on, else the last one's end; nil: there was none since the start

	HasVolume, HasMute, HasDelay bool             // which commands it accepts
	Volume                       *int             // 0 to 100; nil: unknown
	Mute                         *bool            // nil: unknown
	DelayMs                      *int             // output delay; nil: unknown
	MaxVolume                    int              // 1 to 100, enforced at the last hop
	AnnounceVolume               *int             // 0 to 100; nil: not set
	SyncState                    string           // "synchronized", "error", "external_source"; empty: unknown
	GroupID                      string           // never empty
	Stream                       *protocol.Format // what it gets while something plays; nil: nothing
}

// Group is one group and what it does.
type Group struct {
	ID         string
	Name       string
	Kind       GroupKind
	Members    []string // PIDs in joining order; the first is the anchor
	Remembered []string // named groups: PIDs that belong to it, present or not, by PID
	Playback   Playback
	Media      *Media          // what it plays; nil while nothing is loaded
	Repeat     protocol.Repeat // of what plays, or will on "play"; empty if nothing ever did
	Shuffle    bool            // likewise
	Announcing bool            // somebody speaks over it
	MediaError string          // why the last item that failed did; empty once another plays
	Volume     int             // mean of the members that have a volume, 0 to 100; 100 if none has
	HasVolume  bool            // at least one connected member has a volume
	Mute       bool            // all members that can be muted are
	HasMute    bool
	Online     int       // members that are connected
	Created    time.Time // kept over restarts, except of solo groups
}

// UnmetEndpoint is an address that was announced but never handshaken.
type UnmetEndpoint struct {
	Key        string
	Name       string
	URL        string
	Connection Connection
	Error      string // why the last attempt failed; empty: none yet
}

// OtherServer is another server of the protocol on the network.
type OtherServer struct {
	Name string
	URL  string
}

// Counters are totals since the start.
type Counters struct {
	Dials, Sessions, Malformed, SlowConsumers, Refused uint64

	Encoded uint64 // chunks of audio that were encoded: one for each format of a group
	Missed  uint64 // chunks that a player did not get, because it was too slow
}

// GoverningGroup returns the group that player p is in; never nil for a
// player of this snapshot.
func (s *Snapshot) GoverningGroup(p *Player) *Group { return s.Group(p.GroupID) }
