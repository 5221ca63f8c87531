package supervisor

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"strings"
	"time"
)

// Key names one supervised connection: the discovery key, which does not
// change with the address. Keys that begin with "in:" belong to the map.
type Key string

// inboundPrefix marks the keys of clients that dialled us and are not bound
// to a key of Ensure.
const inboundPrefix = "in:"

// Why is a bit set of reasons to retry now.
type Why uint32

// The reasons.
const (
	WhyAnnounced   Why = 1 << iota // discovery heard it, nothing changed
	WhyReannounced                 // announced after a goodbye or expiry: probably rebooted
	WhyEndpoint                    // its address changed
	WhyUser                        // a person asked
	WhyPlayback                    // playback wants it
	WhyConfig                      // configuration or pairing changed
	WhyWithdrawn                   // its advertisement was withdrawn: ends waiting for a dead one, probes a live one
	WhySuspect                     // something hints that it may be dead, e.g. a clock gap after suspend: probe

	whyArrival // an inbound session waits for the actor
	whyRecheck // the candidates became fewer

	whyPublic = whyArrival - 1
	whyDemand = WhyReannounced | WhyEndpoint | WhyUser | WhyPlayback | WhyConfig // each also starts the backoff anew
)

// String names the reasons, joined by "|".
func (w Why) String() string {
	var s []string
	for i, name := range [...]string{"announced", "reannounced", "endpoint", "user", "playback", "config", "withdrawn", "suspect"} {
		if w&(1<<i) != 0 {
			s = append(s, name)
		}
	}
	return strings.Join(s, "|")
}

// State is where a connection stands; the diagram is in the package comment.
type State uint8

// The states.
const (
	Dialing  State = iota + 1 // an attempt has its slot: socket and upgrade
	Greeting                  // the socket is open: hello and, for players, the first state
	Up                        // live
	Draining                  // being ended by us
	Waiting                   // for its retry time, a slot, or a nudge; also the state before the first attempt
	Parked                    // until a nudge of a class in Verdict.Leaves, or an inbound session
	Gone                      // has left the map
)

// String returns the name in lower case.
func (s State) String() string {
	names := [...]string{"none", "dialing", "greeting", "up", "draining", "waiting", "parked", "gone"}
	if int(s) < len(names) {
		return names[s]
	}
	return fmt.Sprintf("state(%d)", uint8(s))
}

// Session is one handshaken connection, made by Options.Dial or handed to
// Adopt. It is run once and ends once. A Session that also has the method
// Delivered() bool says with it whether an application frame came after up;
// only then does it count as success, see Options.StableAfter. One with the
// method Proven() bool that reports true has proven that its ID is its own, and
// when it is adopted it replaces a live session at once.
type Session interface {
	// ID is the client id that the peer's hello claimed.
	ID() string
	// Run serves until the session ends and returns the first cause: its own,
	// that of Kill, or that of ctx. It calls up exactly once, from any
	// goroutine, when the session is live. up returns when the Up status was
	// delivered or the session is being ended; so a frame that is dispatched
	// after up is never seen before Up. No lock that Options.Notify needs may
	// be held around it. Nothing is left running when Run has returned.
	Run(ctx context.Context, up func()) error
	// Probe pings and waits for any frame; nil: it lives. It returns soon
	// after ctx ends. It is called only while Run runs, one call at a time.
	Probe(ctx context.Context) error
	// Kill closes the raw connection at once (linger 0). It never blocks and
	// may be called any number of times; Run returns soon after. It is also
	// legal when Run was never called and then releases the connection.
	Kill(cause error)
}

// Attempt is one try to connect, handed to Options.Dial.
type Attempt[E any] struct {
	Key       Key
	Endpoints []E    // candidates, best first: the key's own, then those of its aliases; a copy
	Why       Why    // classes that caused it; 0: its own schedule
	Number    int    // failures in a row before it
	ExpectID  string // the client id that this key is bound to; "" if never met
	Greeting  func() // to be called when the socket is open and upgraded
}

// Action is what follows the end of a session or of an attempt.
type Action uint8

// The actions.
const (
	Retry       Action = iota // with backoff
	RetryAtOnce               // with the shortest backoff, as after the first failure
	RetrySlow                 // after uniform 30 to 300 s; not a failure
	Park                      // only a nudge of a class in Leaves, or an inbound session, ends it
)

// Verdict says what to do after a session or an attempt ended.
type Verdict struct {
	Action Action
	// Leaves are the classes that end Parked, or that cut Waiting short. 0
	// means with Retry and RetryAtOnce every class, with RetrySlow all but
	// WhyAnnounced and WhySuspect, with Park none.
	Leaves Why
	Reason string // for people and programs, e.g. "another_server"
}

// ReasonWithdrawn and the others are the reasons of the map's own verdicts.
const (
	ReasonWithdrawn     = "withdrawn"      // parked: nobody advertises it and it does not answer
	ReasonAddressReused = "address_reused" // waits: another device answers at its address
	ReasonSuperseded    = "superseded"     // a newer session of the same client took over
)

// Status is one immutable state of one key.
//
// Up(Gen) is followed by exactly one status of the same Gen in Waiting, Parked
// or Gone, which is its Down and carries Cause and Verdict; a status in
// Draining may come between.
type Status[S Session] struct {
	Key     Key
	Gen     uint64 // rises with each entry, attempt and session, over all keys of the map; never 0
	State   State
	ID      string // client id this key is bound to; "" if never met
	Session S      // zero unless Up
	Since   time.Time
	Cause   error     // why it is not up; nil before the first end
	Verdict Verdict   // what follows from Cause
	Attempt int       // failures in a row
	RetryAt time.Time // in Waiting: when the next attempt is due, before floor and slot; else zero
	Inbound bool      // the session of Gen was opened by the peer
	Aliases []Key     // other keys that turned out to be the same player, sorted
}

// Options configure a Map. Dial and Equal are required; zero means the stated
// default; a negative Floor, AnnounceFloor, DialTimeout or GreetTimeout means none.
type Options[E any, S Session] struct {
	// Equal reports whether two endpoints are reached the same way.
	Equal func(a, b E) bool
	// Dial opens a connection: socket, upgrade, and the peer's hello. It must
	// return soon after ctx ends and must not keep Endpoints.
	Dial func(ctx context.Context, a Attempt[E]) (S, error)
	// Judge says what follows err. nil: always Retry. It must not block.
	Judge func(err error) Verdict
	// Notify is told each change of state, in order per key, by the key's own
	// goroutine and under no lock. It must not block. It may call any method
	// of the Map; but see Remove and Close about waiting in it.
	Notify func(Status[S])
	// Rand draws the jitter; the map serialises its use. nil: the process's
	// own generator.
	Rand *rand.Rand
	Log  *slog.Logger // nil: silent

	DialsInFlight int           // attempts at the same time, until their hello; 32
	DialRate      float64       // attempts per second in the long run; 20
	DialBurst     int           // attempts that may start at once after a quiet time; 256
	Spread        time.Duration // first attempts of entries that Ensure makes within it of the first one are spread over it; none
	Floor         time.Duration // between two attempts of one key, also across Remove and Ensure, and between two probes; 500 ms
	AnnounceFloor time.Duration // between two attempts, or two probes, of one key that WhyAnnounced alone caused; 30 s
	DialTimeout   time.Duration // socket and upgrade, until Attempt.Greeting; 15 s
	GreetTimeout  time.Duration // from there to the hello; 15 s
	ProbeTimeout  time.Duration // 2 s
	DrainTimeout  time.Duration // for an orderly end before Kill; 3 s

	BackoffBase time.Duration // ceiling of the first delay, doubled with each failure; 1 s
	BackoffCap  time.Duration // highest ceiling; 60 s
	LongCap     time.Duration // highest ceiling after LongAfter without success; 300 s
	LongAfter   time.Duration // 1 h
	SlowMin     time.Duration // of RetrySlow; 30 s
	SlowMax     time.Duration // of RetrySlow; 300 s
	StableAfter time.Duration // a session that was up this long, and delivered, was a success; 10 s

	// MaxProvisional bounds the inbound sessions of unbound clients that are
	// not up yet. When it is reached the oldest goes if it is older than 2 s,
	// else the newcomer; 1024.
	MaxProvisional int
}

func (o Options[E, S]) withDefaults() Options[E, S] {
	if o.Judge == nil {
		o.Judge = func(error) Verdict { return Verdict{} }
	}
	if o.Notify == nil {
		o.Notify = func(Status[S]) {}
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	for _, d := range []struct {
		v   *time.Duration
		def time.Duration
	}{
		{&o.Floor, 500 * time.Millisecond},
		{&o.AnnounceFloor, 30 * time.Second},
		{&o.DialTimeout, 15 * time.Second},
		{&o.GreetTimeout, 15 * time.Second},
		{&o.ProbeTimeout, 2 * time.Second},
		{&o.DrainTimeout, 3 * time.Second},
		{&o.BackoffBase, time.Second},
		{&o.BackoffCap, time.Minute},
		{&o.LongCap, 5 * time.Minute},
		{&o.LongAfter, time.Hour},
		{&o.SlowMin, 30 * time.Second},
		{&o.SlowMax, 5 * time.Minute},
		{&o.StableAfter, 10 * time.Second},
	} {
		if *d.v == 0 {
			*d.v = d.def
		}
	}
	if o.DialsInFlight <= 0 {
		o.DialsInFlight = 32
	}
	if o.DialRate <= 0 {
		o.DialRate = 20
	}
	if o.DialBurst <= 0 {
		o.DialBurst = 256
	}
	if o.MaxProvisional <= 0 {
		o.MaxProvisional = 1024
	}
	return o
}

// The causes that the map itself gives; each is met with errors.Is in
// Status.Cause or in Session.Kill.
var (
	ErrClosed        = errors.New("supervisor: closed")
	ErrRemoved       = errors.New("supervisor: removed")
	ErrDuplicate     = errors.New("supervisor: a session of this client is live")
	ErrSuperseded    = errors.New("supervisor: superseded by a newer session of the same client")
	ErrHalfOpen      = errors.New("supervisor: no answer to a probe")
	ErrAlias         = errors.New("supervisor: another key leads to the same client")
	ErrAddressReused = errors.New("supervisor: another device answers at this address")
	ErrTimeout       = errors.New("supervisor: attempt timed out")
	ErrEnded         = errors.New("supervisor: session ended without a cause")
	ErrFull          = errors.New("supervisor: too many inbound sessions are not up yet")
	ErrNoID          = errors.New("supervisor: the peer claims no client id")
	ErrKey           = errors.New(`supervisor: a key must not be empty or begin with "in:"`)
)

// Reasons to go round the actor's loop that are nobody else's business.
var (
	errOvertaken  = errors.New("supervisor: an inbound session came first")
	errMoved      = errors.New("supervisor: the endpoint changed")
	errNoEndpoint = errors.New("supervisor: no endpoint is known")
	errStopping   = errors.New("supervisor: the entry is stopping") // its context has the cause
)
