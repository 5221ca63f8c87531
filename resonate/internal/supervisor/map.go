package supervisor

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"
)

// Map keeps one supervised connection per key. Its methods are safe for
// concurrent use, also from Options.Notify, and none but Close waits.
type Map[E any, S Session] struct {
	o       Options[E, S]
	backoff backoff
	dice    dice
	slots   chan struct{} // one token per attempt in flight
	limiter *rate.Limiter
	closed  chan struct{} // closed from the start: what Remove hands back when nothing is to wait for
	idle    chan struct{} // closed when the map is shut and empty

	mu          sync.Mutex // never held across I/O, a wait, or a call into the user's code except Equal
	entries     map[Key]*entry[E, S]
	aliases     map[Key]*entry[E, S]    // key -> holder of the id it turned out to have
	ids         map[string]*entry[E, S] // client id -> entry that is bound to it
	left        map[Key]time.Time       // last attempt of keys that left the map, for the floor
	leftMost    int                     // when left is cleared of what is older than the floor
	gen         uint64
	provisional int
	spreadUntil time.Time // see Options.Spread; zero before the first entry
	shut        bool
}

// entry is one life of one key, from startLocked to exit. Identity is the
// pointer, never the key: whoever cleans up compares before it deletes.
type entry[E any, S Session] struct {
	key     Key
	inbound bool // made by Adopt: its key contains its id, which never changes
	born    time.Time
	cancel  context.CancelCauseFunc
	done    chan struct{} // closed when the entry has left the map

	// Retry-now. The bit is set before the token is sent, and the actor takes
	// the token before it swaps the bits: a class may be seen early, never
	// lost. The channel is made before the goroutine and never replaced.
	wake chan struct{} // capacity 1
	bits atomic.Uint32 // a Why

	// Guarded by Map.mu.
	stopping     bool           // on its way out: Remove, Close, or its own decision
	next         *birth[E, S]   // successor, started by exit
	candidates   []candidate[E] // where to dial, best first
	id           string         // bound client id, "" if never met
	arrival      *arrival[S]    // newest inbound session that waits for the actor
	provisional  bool           // counted in Map.provisional
	status       Status[S]
	notBefore    time.Time // of the first attempt
	lastDial     time.Time // floors hold across successors
	lastAnnounce time.Time
}

// candidate is one endpoint and the key that it was Ensured under.
type candidate[E any] struct {
	key       Key
	ep        E
	withdrawn bool // its advertisement was withdrawn and nothing was heard since
}

// birth is what a successor starts with.
type birth[E any, S Session] struct {
	ep        *E
	withdrawn bool // of ep
	in        *arrival[S]
}

// arrival is an inbound session on its way to an actor.
type arrival[S Session] struct {
	session S
	id      string // asked for once, outside the mutex
}

// New makes an empty map. It starts nothing.
func New[E any, S Session](o Options[E, S]) *Map[E, S] {
	o = o.withDefaults()
	m := &Map[E, S]{
		o:       o,
		backoff: backoff{base: o.BackoffBase, highest: o.BackoffCap, long: o.LongCap, after: o.LongAfter},
		dice:    dice{rnd: o.Rand},
		slots:   make(chan struct{}, o.DialsInFlight),
		limiter: rate.NewLimiter(rate.Limit(o.DialRate), o.DialBurst),
		closed:  make(chan struct{}),
		idle:    make(chan struct{}),
		entries: make(map[Key]*entry[E, S]),
		aliases: make(map[Key]*entry[E, S]),
		ids:     make(map[string]*entry[E, S]),
		left:    make(map[Key]time.Time),
	}
	close(m.closed)
	return m
}

// Ensure wants a connection to ep under key. It starts an entry if there is
// none; tells the entry if ep changed; does nothing if it is equal. While the
// key's last entry is ending, it asks for one successor, which starts when
// that entry is gone. A key that turned out to be an alias gets an entry of its
// own again when ep changed: another player may be there. It stays a candidate
// of the holder, with its new endpoint, if the holder has no other way to go.
//
// created reports whether this call asked for a new entry. The error is
// ErrClosed or ErrKey.
func (m *Map[E, S]) Ensure(key Key, ep E) (created bool, err error) {
	if key == "" || strings.HasPrefix(string(key), inboundPrefix) {
		return false, ErrKey
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.shut {
		return false, ErrClosed
	}
	if holder := m.aliases[key]; holder != nil {
		if c := holder.candidate(key); !m.o.Equal(c.ep, ep) && holder.spares(key) {
			m.partLocked(holder, candidate[E]{key: key, ep: ep})
			return true, nil
		}
		m.offerLocked(holder, key, ep)
		return false, nil
	}
	e := m.entries[key]
	switch {
	case e == nil: // RC-9: in the map before its goroutine exists, under one mutex
		first := ep
		m.startLocked(key, birth[E, S]{ep: &first}, m.left[key], time.Time{})
		return true, nil
	case e.stopping: // RC-10: never beside the old one
		created = e.next == nil
		if created {
			e.next = &birth[E, S]{}
		}
		latest := ep
		e.next.ep, e.next.withdrawn = &latest, false
		return created, nil
	default:
		m.offerLocked(e, key, ep)
		return false, nil
	}
}

// offerLocked makes ep the endpoint of key in e and wakes e if that changed
// something.
func (m *Map[E, S]) offerLocked(e *entry[E, S], key Key, ep E) {
	for i := range e.candidates {
		c := &e.candidates[i]
		if c.key != key {
			continue
		}
		if !m.o.Equal(c.ep, ep) {
			c.ep, c.withdrawn = ep, false
			e.poke(WhyEndpoint)
		}
		return
	}
	c := candidate[E]{key: key, ep: ep}
	if key == e.key {
		e.candidates = slices.Insert(e.candidates, 0, c)
	} else {
		e.candidates = append(e.candidates, c)
	}
	e.poke(WhyEndpoint)
}

// Adopt hands over an inbound session whose hello was read. It goes to the key
// that its client id is bound to; if there is none, to a new entry with the
// key "in:" + id, which leaves the map when its session has ended, no other
// one waits, and no endpoint became known meanwhile. Generations go on rising,
// so a later Adopt of the same id continues after it.
//
// If that entry is not connected, the session becomes its next one and ends
// an attempt under way. If it has a session, that one is probed first: when it
// answers, the newcomer is killed with ErrDuplicate, so that nobody evicts a
// live player by claiming its id; when it does not, or the newcomer has proven
// its id, it takes over after the old one is gone. At most one newcomer waits per entry; a newer one
// kills it.
//
// While that entry is ending, the session waits for it to be gone and then
// starts the successor that Ensure asked for, or an "in:" entry.
//
// With an error (ErrClosed, ErrNoID, ErrFull) the session was killed.
func (m *Map[E, S]) Adopt(s S) (Key, error) {
	key, loser, err := m.adopt(&arrival[S]{session: s, id: s.ID()})
	if err != nil {
		s.Kill(err)
		return "", err
	}
	if loser != nil {
		loser.session.Kill(ErrDuplicate)
	}
	return key, nil
}

func (m *Map[E, S]) adopt(in *arrival[S]) (key Key, loser *arrival[S], err error) {
	id := in.id
	if id == "" {
		return "", nil, ErrNoID
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.shut {
		return "", nil, ErrClosed
	}
	e := m.ids[id]
	switch {
	case e == nil:
		if m.provisional >= m.o.MaxProvisional && !m.evictLocked() {
			return "", nil, ErrFull
		}
		key = inboundPrefix + Key(id)
		m.startLocked(key, birth[E, S]{in: in}, time.Time{}, time.Time{})
		return key, nil, nil
	case e.stopping:
		if e.next == nil {
			e.next = &birth[E, S]{}
		}
		loser, e.next.in = e.next.in, in
		if e.next.ep == nil {
			return inboundPrefix + Key(id), loser, nil
		}
		return e.key, loser, nil
	default:
		loser, e.arrival = e.arrival, in
		e.poke(whyArrival)
		return e.key, loser, nil
	}
}

// provisionalAge is how long an unbound inbound session may hold its place
// against a newcomer when there is no other.
const provisionalAge = 2 * time.Second

// evictLocked ends the oldest provisional entry, if it is old enough.
func (m *Map[E, S]) evictLocked() bool {
	var oldest *entry[E, S]
	for _, e := range m.entries {
		if e.provisional && (oldest == nil || e.born.Before(oldest.born)) {
			oldest = e
		}
	}
	if oldest == nil || time.Since(oldest.born) <= provisionalAge {
		return false
	}
	m.settledLocked(oldest)
	oldest.stopping = true
	oldest.cancel(ErrFull)
	return true
}

// settledLocked ends an entry's being provisional.
func (m *Map[E, S]) settledLocked(e *entry[E, S]) {
	if e.provisional {
		e.provisional = false
		m.provisional--
	}
}

// candidate is the one that is known under key, which is one of e's.
func (e *entry[E, S]) candidate(key Key) candidate[E] {
	return e.candidates[slices.IndexFunc(e.candidates, func(c candidate[E]) bool { return c.key == key })]
}

// spares reports whether e can do without the candidate of an alias.
func (e *entry[E, S]) spares(key Key) bool {
	live := e.status.State == Up && e.status.Inbound
	return !e.stopping && (live || slices.ContainsFunc(e.candidates, func(c candidate[E]) bool { return c.key != key }))
}

// Nudge says "retry now" and why. It can't be lost: a nudge during an attempt
// that fails ends the wait after it. WhyAnnounced alone causes an attempt at
// most every AnnounceFloor. A live session is probed, not replaced. The result
// reports whether the key is known; of an alias the holder is nudged, and with
// WhyReannounced it is found out anew whether it still is one.
func (m *Map[E, S]) Nudge(key Key, why Why) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	e := m.aliases[key]
	if e == nil {
		e = m.entries[key]
	}
	if e == nil {
		return false
	}
	for i := range e.candidates {
		if e.candidates[i].key == key {
			e.candidates[i].heard(why)
		}
	}
	if m.aliases[key] == e && why&WhyReannounced != 0 && e.spares(key) {
		m.partLocked(e, e.candidate(key))
	}
	e.poke(why & whyPublic)
	return true
}

// NudgeAll nudges every entry.
func (m *Map[E, S]) NudgeAll(why Why) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, e := range m.entries {
		for i := range e.candidates {
			e.candidates[i].heard(why)
		}
		e.poke(why & whyPublic)
	}
}

// heard keeps the last word about the advertisement.
func (c *candidate[E]) heard(why Why) {
	switch {
	case why&(WhyAnnounced|WhyReannounced|WhyEndpoint) != 0:
		c.withdrawn = false
	case why&WhyWithdrawn != 0:
		c.withdrawn = true
	}
}

// poke sets the bits, then leaves the token. It never waits, so it is legal
// under the mutex.
func (e *entry[E, S]) poke(why Why) {
	if why == 0 {
		return
	}
	e.bits.Or(uint32(why))
	select {
	case e.wake <- struct{}{}:
	default: // a token is there already; its reader will see the bits
	}
}

// Remove wants no connection under key. The channel closes when the entry is
// gone and its session ended; it is closed already if there is no entry. A
// successor that was asked for is not started. Remove does not wait; inside
// Options.Notify do not wait for the channel of the very key that is being
// told about, since its goroutine is the one that would have to end.
//
// Of an alias it drops the candidate endpoint; the holder stays. When the
// holder is removed, aliases that are still wanted start entries of their own
// once it is gone.
func (m *Map[E, S]) Remove(key Key) <-chan struct{} {
	gone, loser := m.remove(key)
	if loser != nil {
		loser.session.Kill(ErrRemoved)
	}
	return gone
}

func (m *Map[E, S]) remove(key Key) (gone <-chan struct{}, loser *arrival[S]) {
	m.mu.Lock()
	defer m.mu.Unlock()
	e := m.entries[key]
	if holder := m.aliases[key]; holder != nil {
		delete(m.aliases, key)
		holder.candidates = slices.DeleteFunc(holder.candidates, func(c candidate[E]) bool { return c.key == key })
		holder.poke(whyRecheck)
	} else if e != nil && !e.stopping {
		e.stopping = true
		e.cancel(ErrRemoved)
	}
	if e == nil {
		return m.closed, nil
	}
	if e.next != nil { // else Remove, Ensure, Remove would leave a device alive
		loser, e.next = e.next.in, nil
	}
	return e.done, loser
}

// Status returns the newest status of key, or of its holder if key is an alias.
func (m *Map[E, S]) Status(key Key) (Status[S], bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	e := m.aliases[key]
	if e == nil {
		e = m.entries[key]
	}
	if e == nil {
		return Status[S]{}, false
	}
	return e.statusLocked(), true
}

// KeyOf returns the key that a client id is bound to.
func (m *Map[E, S]) KeyOf(id string) (Key, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	e := m.ids[id]
	if e == nil {
		return "", false
	}
	return e.key, true
}

// Snapshot returns the newest status of every entry, sorted by key: one
// consistent cut of the map. The caller owns it.
func (m *Map[E, S]) Snapshot() []Status[S] {
	m.mu.Lock()
	all := make([]Status[S], 0, len(m.entries))
	for _, e := range m.entries {
		all = append(all, e.statusLocked())
	}
	m.mu.Unlock()
	slices.SortFunc(all, func(a, b Status[S]) int { return strings.Compare(string(a.Key), string(b.Key)) })
	return all
}

func (e *entry[E, S]) statusLocked() Status[S] {
	st := e.status
	st.ID = e.id
	for _, c := range e.candidates {
		if c.key != e.key {
			st.Aliases = append(st.Aliases, c.key)
		}
	}
	slices.Sort(st.Aliases)
	return st
}

// Close ends every session, refuses new ones, and waits until all are gone or
// ctx ends. Every caller waits for the same end. If ctx ends first, the error
// wraps its cause and names the keys that were late; they go on ending.
//
// Inside Options.Notify call it from a goroutine of your own: it would wait
// there for the goroutine that is calling it, until ctx ends.
func (m *Map[E, S]) Close(ctx context.Context) error {
	m.mu.Lock()
	if !m.shut {
		m.shut = true
		for _, e := range m.entries {
			e.stopping = true
			e.cancel(ErrClosed)
		}
		if len(m.entries) == 0 {
			close(m.idle)
		}
	}
	m.mu.Unlock()
	select {
	case <-m.idle:
		return nil
	case <-ctx.Done():
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if len(m.entries) == 0 {
		return nil
	}
	late := make([]Key, 0, len(m.entries))
	for key := range m.entries {
		late = append(late, key)
	}
	slices.Sort(late)
	return fmt.Errorf("supervisor: close: still ending %q: %w", late, context.Cause(ctx))
}

// startLocked puts a new entry into the map and starts its actor. The times
// are those of the predecessor's last attempts.
func (m *Map[E, S]) startLocked(key Key, b birth[E, S], lastDial, lastAnnounce time.Time) {
	ctx, cancel := context.WithCancelCause(context.Background())
	now := time.Now()
	m.gen++ // so that no status of this entry, even Gone before the first attempt, looks older than its predecessor's
	e := &entry[E, S]{
		key:          key,
		inbound:      strings.HasPrefix(string(key), inboundPrefix),
		born:         now,
		cancel:       cancel,
		done:         make(chan struct{}),
		wake:         make(chan struct{}, 1),
		arrival:      b.in,
		status:       Status[S]{Key: key, Gen: m.gen, State: Waiting, Since: now},
		lastDial:     lastDial,
		lastAnnounce: lastAnnounce,
	}
	if b.ep != nil {
		e.candidates = []candidate[E]{{key: key, ep: *b.ep, withdrawn: b.withdrawn}}
		if m.spreadUntil.IsZero() {
			m.spreadUntil = now.Add(m.o.Spread)
		}
		e.notBefore = now.Add(m.dice.upTo(m.spreadUntil.Sub(now)))
	}
	if b.in != nil {
		e.id = b.in.id
		m.ids[e.id] = e
	}
	if e.inbound {
		e.provisional = true
		m.provisional++
	}
	m.entries[key] = e
	a := &actor[E, S]{m: m, e: e, gen: m.gen, good: now}
	go a.run(ctx) // owner: the map; ends with the entry's context or by its own decision, Close waits for it
}

// exit is the only way out of the map. The entry's own actor calls it, last.
func (m *Map[E, S]) exit(e *entry[E, S]) {
	for {
		m.mu.Lock()
		var losers []S
		if e.arrival != nil {
			losers, e.arrival = append(losers, e.arrival.session), nil
		}
		if m.shut && e.next != nil {
			if e.next.in != nil {
				losers = append(losers, e.next.in.session)
			}
			e.next = nil
		}
		if len(losers) == 0 {
			break
		}
		m.mu.Unlock()
		for _, s := range losers {
			s.Kill(ErrRemoved)
		}
	}
	defer m.mu.Unlock()
	m.settledLocked(e)
	if m.ids[e.id] == e {
		delete(m.ids, e.id)
	}
	if m.entries[e.key] == e { // RC-10: by identity, not by key
		delete(m.entries, e.key)
		m.leaveLocked(e)
		if e.next != nil {
			key := e.key
			if e.next.ep == nil { // a key of Ensure is never live unless it is wanted
				key = inboundPrefix + Key(e.next.in.id)
			}
			m.startLocked(key, *e.next, e.lastDial, e.lastAnnounce)
		}
	}
	m.releaseLocked(e)
	e.cancel(nil)
	close(e.done)
	if m.shut && len(m.entries) == 0 {
		close(m.idle)
	}
}

// leaveLocked remembers when a key that leaves the map was dialled, for as long
// as the floor: an advertisement that flaps dials no more often than one that
// stays.
func (m *Map[E, S]) leaveLocked(e *entry[E, S]) {
	if m.o.Floor <= 0 || e.lastDial.IsZero() {
		return
	}
	m.left[e.key] = e.lastDial
	if len(m.left) > m.leftMost {
		now := time.Now()
		maps.DeleteFunc(m.left, func(_ Key, at time.Time) bool { return now.Sub(at) >= m.o.Floor })
		m.leftMost = 2*len(m.left) + 64
	}
}

// releaseLocked lets go of the aliases of e. Each is still wanted, else Remove
// had dropped it: it lives on as an entry of its own, or as successor of its
// first one, which may still be closing its session.
func (m *Map[E, S]) releaseLocked(e *entry[E, S]) {
	own := e.candidates[:0:0]
	for _, c := range e.candidates {
		if c.key == e.key {
			own = append(own, c)
			continue
		}
		m.partLocked(e, c)
	}
	e.candidates = own
}

// partLocked makes an alias of e a key of its own.
func (m *Map[E, S]) partLocked(e *entry[E, S], c candidate[E]) {
	e.candidates = slices.DeleteFunc(slices.Clone(e.candidates), func(x candidate[E]) bool { return x.key == c.key })
	delete(m.aliases, c.key)
	b := birth[E, S]{ep: &c.ep, withdrawn: c.withdrawn}
	switch old := m.entries[c.key]; {
	case m.shut:
	case old != nil:
		old.next = &b
	default:
		m.startLocked(c.key, b, e.lastDial, e.lastAnnounce)
	}
}

// forgetLocked has e belong to nobody: its aliases were the old one's.
func (m *Map[E, S]) forgetLocked(e *entry[E, S]) {
	if m.ids[e.id] == e {
		delete(m.ids, e.id)
	}
	e.id = ""
	m.releaseLocked(e)
}

// bind ties the entry to the client id of a hello that it dialled to. ErrAlias
// means that the id is another entry's, which now has this one's endpoints.
func (m *Map[E, S]) bind(e *entry[E, S], id string, why Why) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	holder := m.ids[id]
	switch {
	case e.stopping:
		return errStopping
	case id == "":
		return ErrNoID
	case holder == e:
		return nil
	case e.id != "":
		// The address belongs to another device now, unless somebody with
		// better knowledge caused this attempt: a person, or the device's own
		// fresh announcement under this key. Then the key has a new owner.
		if e.inbound || e.arrival != nil || why&(WhyUser|WhyConfig|WhyReannounced) == 0 {
			return fmt.Errorf("%w: got client %q, want %q", ErrAddressReused, id, e.id)
		}
		m.forgetLocked(e)
	}
	if holder != nil {
		e.stopping = true
		for _, c := range e.candidates {
			m.aliases[c.key] = holder
			m.offerLocked(holder, c.key, c.ep)
		}
		e.candidates = nil
		return fmt.Errorf("%w: client %q has key %q", ErrAlias, id, holder.key)
	}
	m.ids[id] = e
	e.id = id
	return nil
}
