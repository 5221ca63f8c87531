package resonate

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"resonatebridge/discovery"
	"resonatebridge/resonate/audio"
	"resonatebridge/resonate/audio/fetch"
	"resonatebridge/resonate/internal/dialect"
	"resonatebridge/resonate/internal/secretfile"
	"resonatebridge/resonate/internal/session"
	"resonatebridge/resonate/internal/supervisor"
	"resonatebridge/resonate/pairing"
	"resonatebridge/resonate/protocol"
	"resonatebridge/timesync"
)

// ErrClosed is returned for calls to a server that does not run.
var ErrClosed = errors.New("resonate: the server is not running")

// errGone is the end of a connection that nobody needs to hear of.
var errGone = session.ErrGone

// Options are the settings of a [Server]. The zero value of a field means its default.
type Options struct {
	Name    string          // shown to clients; default "Resonate Bridge"
	DataDir string          // records and identity; "" keeps nothing
	Clock   *timesync.Clock // default: a new one
	Log     *slog.Logger    // nil is silent
	Path    string          // where clients dial in, besides /resonate; default /sendspin

	RefusePlaintext   bool                // speakers must speak encrypted
	Custody           Custody             // of players that nobody chose for; default auto
	MaxVolume         int                 // likewise, 1 to 100; default 100
	Overrides         map[string]Override // by client id; a choice made by hand later wins
	AvailabilityGrace time.Duration       // a lost player stays available so long; default 15 s
	MembershipGrace   time.Duration       // and keeps its group so long; default 180 s

	// DialContext opens the connection to a player; default net.Dialer. If it
	// panics the attempt fails, as with an error.
	DialContext func(ctx context.Context, network, addr string) (net.Conn, error)
	// OpenMedia opens what a URL names; default audio.Open.
	OpenMedia func(ctx context.Context, url string) (audio.Source, error)
	// FetchPicture returns what is at a URL, at most limit bytes; default
	// fetch.Client.All. If it panics there is no picture, as with an error.
	FetchPicture func(ctx context.Context, url string, limit int64) ([]byte, error)
	// Speak turns text into a URL of speech; nil: there is no such service.
	Speak         func(ctx context.Context, text string) (url string, err error)
	Announcements Announcements
	// Rescan asks discovery for a round now; nil does nothing. It must not wait.
	Rescan func()
	// Wall reads the wall clock; default time.Now. Only its jumps against the
	// monotonic clock are looked at.
	Wall func() time.Time

	// DialSpread is the time over which the first dials after the start are
	// spread when more players are known than may be dialled at once, so that a
	// bridge that comes back does not storm its network; default 2 s, negative
	// none. A few players are dialled as soon as they are heard.
	DialSpread time.Duration

	// Limits, lifted in stress tests.
	DialsInFlight int     // default 32
	DialRate      float64 // dials started per second on average; default 20
	DialBurst     int     // default 256

	replaceFile func(path string, data []byte) error // for tests: a disk that is full
}

// Override is a default for one client, from the configuration.
type Override struct {
	Name      string
	Custody   Custody
	MaxVolume int
	Dialect   string // forces a dialect, e.g. "R1"; "" detects it
}

func (o Options) withDefaults() Options {
	if o.Name == "" {
		o.Name = "Resonate Bridge"
	}
	if o.Path == "" {
		o.Path = "/sendspin"
	}
	if o.Clock == nil {
		o.Clock = timesync.NewClock()
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Custody == "" {
		o.Custody = CustodyAuto
	}
	if o.MaxVolume == 0 {
		o.MaxVolume = 100
	}
	if o.AvailabilityGrace == 0 {
		o.AvailabilityGrace = 15 * time.Second
	}
	if o.MembershipGrace == 0 {
		o.MembershipGrace = 180 * time.Second
	}
	if o.DialSpread == 0 {
		o.DialSpread = 2 * time.Second
	}
	if o.DialsInFlight == 0 {
		o.DialsInFlight = 32
	}
	if o.replaceFile == nil {
		o.replaceFile = secretfile.Replace
	}
	if o.DialContext == nil {
		o.DialContext = (&net.Dialer{}).DialContext
	}
	o.Announcements = o.Announcements.withDefaults()
	if o.OpenMedia == nil {
		o.OpenMedia = func(ctx context.Context, url string) (audio.Source, error) {
			return audio.Open(ctx, url, audio.Options{Log: o.Log})
		}
	}
	if o.FetchPicture == nil {
		client := fetch.New(fetch.Options{Log: o.Log})
		o.FetchPicture = func(ctx context.Context, url string, limit int64) ([]byte, error) {
			data, _, err := client.All(ctx, url, limit)
			return data, err
		}
	}
	if o.Rescan == nil {
		o.Rescan = func() {}
	}
	if o.Wall == nil {
		o.Wall = time.Now
	}
	return o
}

// Validate names the field that is out of range.
func (o Options) Validate() error {
	if o.MaxVolume < 0 || o.MaxVolume > 100 {
		return fmt.Errorf("resonate: Options.MaxVolume: got %d, want 1 to 100", o.MaxVolume)
	}
	if o.AvailabilityGrace < 0 || o.MembershipGrace < 0 {
		return errors.New("resonate: Options: a grace can't be negative")
	}
	return nil
}

// Server keeps connections to players and says what is true. Its methods are
// safe for concurrent use and never wait for a player.
type Server struct {
	opts      Options
	log       *slog.Logger
	identity  Identity
	key       pairing.Identity // what identity stands for
	keys      keys
	store     *store
	conns     *supervisor.Map[endpt, *link]
	waiting   provisional
	strangers strangers

	model    *model // owned by the loop
	inbox    chan func()
	answers  []func() // of the loop: given after the next publish, so that Snapshot has what was done
	statuses mailbox
	stages   bell           // what plays has something to say
	engines  sync.WaitGroup // of groups
	easel    chan struct{}  // holds one while a picture is made
	writes   sync.WaitGroup // of pairing records
	snap     atomic.Pointer[Snapshot]
	changed  chan struct{}
	closed   chan struct{} // closed when the loop has ended
	counters counters
}

type counters struct {
	dials, sessions, malformed, slow, refused, prints, encoded, missed atomic.Uint64
}

const (
	closeWithin = 4 * time.Second // sessions drain 3 s; the whole process has 5
	inboxSize   = 128
	burst       = 256 // inbox entries handled before a snapshot is published
)

// New makes a server from its records. It starts nothing and opens no socket.
// The error names what can't be read and what to do.
func New(o Options) (*Server, error) {
	if err := o.Validate(); err != nil {
		return nil, err
	}
	o = o.withDefaults()
	st, recs, err := openStore(o.DataDir, o.Log)
	if err != nil {
		return nil, err
	}
	st.replace = o.replaceFile
	id, err := st.identity()
	if err != nil {
		return nil, err
	}
	book, damaged, err := st.pairings()
	if err != nil {
		return nil, err
	}
	s := &Server{
		opts: o, log: o.Log, store: st,
		identity: Identity{ID: id.ID(), Name: o.Name},
		key:      id,
		keys:     keys{store: st, book: book, writing: make(chan struct{}, 1)},
		inbox:    make(chan func(), inboxSize),
		statuses: mailbox{wake: make(chan struct{}, 1)},
		stages:   make(bell, 1),
		easel:    make(chan struct{}, 1),
		changed:  make(chan struct{}, 1),
		closed:   make(chan struct{}),
	}
	spread := time.Duration(0)
	if len(recs.Players) > o.DialsInFlight {
		spread = o.DialSpread
	}
	s.conns = supervisor.New(supervisor.Options[endpt, *link]{
		Equal:         endpt.Equal,
		Dial:          s.dial,
		Judge:         judge,
		Notify:        s.statuses.put,
		Rand:          rand.New(rand.NewPCG(rand.Uint64(), rand.Uint64())),
		DialsInFlight: o.DialsInFlight,
		DialRate:      o.DialRate,
		DialBurst:     o.DialBurst,
		Spread:        spread,
		Log:           o.Log,
	})
	s.model = newModel(s, recs)
	s.model.setProblem("pairings", damaged)
	s.publish()
	return s, nil
}

// Identity is how the server names itself.
func (s *Server) Identity() Identity { return s.identity }

// Snapshot returns the newest published state. It never blocks.
func (s *Server) Snapshot() *Snapshot { return s.snap.Load() }

// Counters returns what was counted until now. It never blocks.
func (s *Server) Counters() Counters {
	c := &s.counters
	return Counters{
		Dials: c.dials.Load(), Sessions: c.sessions.Load(), Malformed: c.malformed.Load(),
		SlowConsumers: c.slow.Load(), Refused: c.refused.Load(),
		Encoded: c.encoded.Load(), Missed: c.missed.Load(),
	}
}

// Changed is a one-slot wake-up for a single reader: after it fires, Snapshot
// is newer than before.
func (s *Server) Changed() <-chan struct{} { return s.changed }

// Run serves until ctx ends, then closes every connection, at most 4 s, and
// returns. Nothing is left running. It may be called once.
func (s *Server) Run(ctx context.Context) error {
	var wg sync.WaitGroup
	saving, stopSaving := context.WithCancel(context.WithoutCancel(ctx))
	defer wg.Wait()
	defer stopSaving()
	s.store.failed = func(err error) { s.SetProblem("data_dir", problemText(err)) }
	wg.Go(func() { s.store.run(saving) }) // owner: Run; blocks on the disk
	wg.Go(func() { s.watchSleep(ctx) })   // owner: Run; blocks on its ticker
	defer func() {
		s.writes.Wait() // what post can't deliver any more is dropped
		if err := s.keys.close(); err != nil {
			s.log.Error("pairing records not saved", slog.Any("err", err))
		}
	}()
	defer s.waiting.wait() // hijacked sockets end with ctx
	defer close(s.closed)  // from here on calls are refused

	s.model.start()
	s.publish()
	for ctx.Err() == nil {
		s.step(ctx.Done())
	}
	s.waiting.closeAll() // here and not beside the loop: who enters later would outlive Run
	s.hush()
	return s.stop()
}

// hush ends what plays while the loop goes on, since engines answer over it.
func (s *Server) hush() {
	over := make(chan struct{})
	s.model.hush()
	go func() { s.engines.Wait(); close(over) }() // owner: hush; awaited below
	for {
		select {
		case <-over:
			return
		default:
			s.step(over)
		}
	}
}

// stop closes the connections while the loop goes on, so that every end is
// seen and remembered.
func (s *Server) stop() error {
	ctx, cancel := context.WithTimeout(context.Background(), closeWithin)
	defer cancel()
	ended := make(chan error, 1)
	go func() { ended <- s.conns.Close(ctx) }() // owner: stop; awaited below
	over := make(chan struct{})
	var err error
	go func() { err = <-ended; close(over) }() // owner: stop; turns the value into a wake-up
	for {
		select {
		case <-over:
			for s.statuses.pending() {
				s.step(nil)
			}
			s.model.stop()
			return err
		default:
			s.step(over)
		}
	}
}

// step handles what is there, at least one thing, then publishes.
func (s *Server) step(done <-chan struct{}) {
	select {
	case f := <-s.inbox:
		f()
	case <-s.statuses.wake:
		s.takeStatuses()
	case <-s.stages:
		s.model.onStages()
	case <-done:
		return
	}
	for range burst {
		select {
		case f := <-s.inbox:
			f()
			continue
		case <-s.statuses.wake:
			s.takeStatuses()
			continue
		case <-s.stages:
			s.model.onStages()
			continue
		default:
		}
		break
	}
	s.publish()
	for _, answer := range s.answers {
		answer()
	}
	s.answers = s.answers[:0]
}

func (s *Server) takeStatuses() {
	for _, st := range s.statuses.take() {
		s.model.onStatus(st)
	}
}

// post gives f to the loop. It reports false if the loop has ended or stop
// closed first; f is then never run.
func (s *Server) post(stop <-chan struct{}, f func()) bool {
	select {
	case s.inbox <- f:
		return true
	case <-s.closed:
		return false
	case <-stop:
		return false
	}
}

// Discover takes over what discovery learned. It returns when the loop has
// accepted it.
func (s *Server) Discover(ev discovery.Event) {
	s.post(nil, func() { s.model.onDiscovery(ev) })
}

// SetOtherServers tells which other servers are on the network.
func (s *Server) SetOtherServers(others []OtherServer) {
	s.post(nil, func() { s.model.setOthers(others) })
}

// SetProblem shows a sentence about something that is wrong, by key; an empty
// sentence says that it is mended.
func (s *Server) SetProblem(key, text string) {
	s.post(nil, func() { s.model.setProblem(key, text) })
}

// Do carries out a command; what it changed at once is in Snapshot when it
// returns. The error is a *CommandError; CodeTimeout when ctx ended first. A
// command for a player that is just reconnecting waits for it.
func (s *Server) Do(ctx context.Context, c Command) (Result, error) {
	type answer struct {
		r   Result
		err *CommandError
	}
	reply := make(chan answer, 1)
	accepted := s.post(ctx.Done(), func() {
		s.model.do(c, func(r Result, err *CommandError) {
			s.answers = append(s.answers, func() { reply <- answer{r, err} })
		})
	})
	if !accepted {
		if ctx.Err() != nil {
			return Result{}, Errorf(CodeTimeout, "the bridge did not take the command in time; try again")
		}
		return Result{}, Errorf(CodeInternal, "the bridge is shutting down")
	}
	select {
	case a := <-reply:
		if a.err != nil {
			return Result{}, a.err
		}
		return a.r, nil
	case <-ctx.Done():
		return Result{}, Errorf(CodeTimeout, "no answer in time; the speaker may still do it")
	case <-s.closed:
		return Result{}, Errorf(CodeInternal, "the bridge is shutting down")
	}
}

// watchSleep notices that the machine slept or its clock was set: the monotonic
// clock then stood still, or the wall clock jumped. Which of them it was can't be
// told, so every connection is probed, since the peers may have given up, and
// what they said about their clocks is not believed any more (races: B23).
// Nothing else depends on the wall clock.
func (s *Server) watchSleep(ctx context.Context) {
	const every, gap = 5 * time.Second, 10 * time.Second
	tick := time.NewTicker(every)
	defer tick.Stop()
	wall, mono := s.opts.Wall().Round(0), time.Now()
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
		nowWall, nowMono := s.opts.Wall().Round(0), time.Now()
		if d := nowWall.Sub(wall) - nowMono.Sub(mono); d > gap || d < -gap {
			s.log.Info("wall clock and monotonic clock disagree, probing every connection", slog.Duration("by", d))
			s.post(ctx.Done(), s.model.clocksJumped)
		}
		wall, mono = nowWall, nowMono
	}
}

// dialectOf is the forced dialect of a client id.
func (s *Server) dialectOf(clientID string) dialect.Name {
	return dialect.Name(s.opts.Overrides[clientID].Dialect)
}

// refuse turns clients away that must not be served in plaintext or at all.
// Whom we dialled we wanted; whether that still holds is asked when it is up.
func (s *Server) refuse(h protocol.ClientHello, dialled bool) *dialect.RefusedError {
	if h.Trust == nil { // plaintext
		if _, paired := s.keys.get(h.ClientID); paired {
			s.post(nil, func() { s.model.onDowngrade(h.ClientID) })
			return &dialect.RefusedError{
				Code: 1008, Text: "encryption required",
				Detail: "this speaker was paired and now speaks unencrypted: forget it, or update it",
			}
		}
		if s.opts.RefusePlaintext {
			return &dialect.RefusedError{
				Code: 1008, Text: "encryption required",
				Detail: fmt.Sprintf("client %q speaks plaintext, which server.plaintext forbids", h.ClientID),
			}
		}
	}
	if custody := s.custodyOf(h); !dialled && !managed(custody) {
		return &dialect.RefusedError{
			Code: 1008, Text: "not managed",
			Detail: fmt.Sprintf("custody of %q is %s; set it to auto or hold to serve it", h.ClientID, custody),
		}
	}
	return nil
}

// custodyOf is what holds for a client that says hello. Clients that are no
// players belong to nobody and are always served.
func (s *Server) custodyOf(h protocol.ClientHello) Custody {
	if !h.HasRole(protocol.RolePlayer) {
		return CustodyAuto
	}
	for _, p := range s.Snapshot().Players {
		if p.ClientID == h.ClientID {
			return p.Custody
		}
	}
	if o := s.opts.Overrides[h.ClientID]; o.Custody != "" {
		return o.Custody
	}
	return s.opts.Custody
}

// bell is a one-slot wake-up.
type bell chan struct{}

func (b bell) put() {
	select {
	case b <- struct{}{}:
	default: // it rings already
	}
}

// mailbox keeps the newest status of every key until the loop takes them: a
// slow loop costs intermediate states, never memory or an actor's progress.
type mailbox struct {
	mu    sync.Mutex
	dirty map[supervisor.Key]status
	order []supervisor.Key
	wake  chan struct{} // one-slot
}

func (b *mailbox) put(st status) {
	b.mu.Lock()
	if b.dirty == nil {
		b.dirty = make(map[supervisor.Key]status)
	}
	if _, ok := b.dirty[st.Key]; !ok {
		b.order = append(b.order, st.Key)
	}
	b.dirty[st.Key] = st
	b.mu.Unlock()
	select {
	case b.wake <- struct{}{}:
	default:
	}
}

func (b *mailbox) take() []status {
	b.mu.Lock()
	defer b.mu.Unlock()
	out := make([]status, len(b.order))
	for i, k := range b.order {
		out[i] = b.dirty[k]
	}
	b.dirty, b.order = nil, nil
	return out
}

func (b *mailbox) pending() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return len(b.order) > 0
}

func problemText(err error) string {
	if err == nil {
		return ""
	}
	return "choices can't be saved: " + err.Error()
}

// Dialects lists the wire dialects that are served, oldest first.
func Dialects() []string {
	var out []string
	for _, n := range dialect.Names() {
		out = append(out, string(n))
	}
	return out
}
