package supervisor

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	// The model takes 0.1 ms a schedule, and rapid's 100 are too few for it to
	// bite: of seven guards that were taken out they noticed none, 5,000 six.
	if err := flag.Set("rapid.checks", "5000"); err != nil { // before the command line is read, which may ask for more
		panic(err)
	}
	goleak.VerifyTestMain(m)
}

var (
	errPeer = errors.New("peer: connection reset")
	errDead = errors.New("peer: no route to host")
	errGone = errors.New("session: gone")
)

// fakeNet is the world outside: devices by address, and what they count.
type fakeNet struct {
	mu       sync.Mutex
	devices  map[string]*device
	dials    []dialRecord
	flying   int
	maxFly   int
	live     map[string]int // open sessions per client id
	peak     map[string]int
	total    int
	held     map[Key]int // open sessions that were dialled, per key
	peakHeld int
}

type dialRecord struct {
	at  time.Time
	key Key
	why Why
	num int
	id  string // expected
	eps []string
}

// device answers at one address.
type device struct {
	id      string
	down    bool
	latency time.Duration
	gate    chan struct{} // if not nil, a dial waits for it, whatever its context says
	mute    bool          // sessions do not answer probes
	closing time.Duration // how long a session takes to end in order
	stuck   bool          // it does not end in order at all
	upAfter time.Duration
	noUp    bool
	upHook  func()        // called just before up
	deaf    time.Duration // how long a session goes on after its end, whatever happens
	silent  bool          // delivers no application frame
	dropIn  time.Duration
	dropErr error
}

func newNet() *fakeNet {
	return &fakeNet{devices: map[string]*device{}, live: map[string]int{}, peak: map[string]int{}, held: map[Key]int{}}
}

func (n *fakeNet) put(addr string, d *device) *device {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.devices[addr] = d
	return d
}

// change alters devices under the lock.
func (n *fakeNet) change(f func()) {
	n.mu.Lock()
	defer n.mu.Unlock()
	f()
}

func (n *fakeNet) dialed() []dialRecord {
	n.mu.Lock()
	defer n.mu.Unlock()
	return slices.Clone(n.dials)
}

func (n *fakeNet) liveOf(id string) (live, peak int) {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.live[id], n.peak[id]
}

func (n *fakeNet) liveAll() (sum int) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, v := range n.live {
		sum += v
	}
	return sum
}

func (n *fakeNet) dial(ctx context.Context, a Attempt[string]) (*fakeSession, error) {
	n.mu.Lock()
	n.dials = append(n.dials, dialRecord{time.Now(), a.Key, a.Why, a.Number, a.ExpectID, slices.Clone(a.Endpoints)})
	n.flying++
	n.maxFly = max(n.maxFly, n.flying)
	n.mu.Unlock()
	defer n.change(func() { n.flying-- })
	err := errDead
	for _, ep := range a.Endpoints {
		n.mu.Lock()
		var d device
		p := n.devices[ep]
		if p != nil {
			d = *p
		}
		n.mu.Unlock()
		if p == nil {
			continue
		}
		if d.gate != nil {
			<-d.gate // deaf to ctx on purpose
		} else if d.latency > 0 {
			t := time.NewTimer(d.latency)
			select {
			case <-t.C:
			case <-ctx.Done():
				t.Stop()
				return nil, context.Cause(ctx)
			}
		}
		n.mu.Lock()
		down := p.down
		n.mu.Unlock()
		if down {
			continue
		}
		a.Greeting()
		s := n.open(p)
		n.mu.Lock()
		defer n.mu.Unlock()
		s.key = a.Key
		n.held[a.Key]++
		n.peakHeld = max(n.peakHeld, n.held[a.Key])
		return s, nil
	}
	return nil, err
}

// open makes a session with d, as a dial or an inbound socket does.
func (n *fakeNet) open(d *device) *fakeSession {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.live[d.id]++
	n.peak[d.id] = max(n.peak[d.id], n.live[d.id])
	n.total++
	return &fakeSession{net: n, dev: d, id: d.id, done: make(chan struct{}), cut: make(chan struct{})}
}

// fakeSession is one connection to a device. The first cause wins, as with the
// real one.
type fakeSession struct {
	net  *fakeNet
	dev  *device
	id   string
	key  Key // that dialled it
	once sync.Once
	why  error
	done chan struct{} // it has a cause
	hard sync.Once
	cut  chan struct{} // the socket is closed
	free sync.Once
	runs atomic.Int32
	sent atomic.Int32
	prob atomic.Int32
}

func (s *fakeSession) ID() string { return s.id }

func (s *fakeSession) Delivered() bool {
	s.net.mu.Lock()
	defer s.net.mu.Unlock()
	return !s.dev.silent
}

func (s *fakeSession) fail(err error) {
	s.once.Do(func() { s.why = err; close(s.done) })
}

func (s *fakeSession) release() {
	s.free.Do(func() { s.net.change(func() { s.net.live[s.id]--; s.net.held[s.key]-- }) })
}

func (s *fakeSession) Kill(err error) {
	s.fail(err)
	s.hard.Do(func() { close(s.cut) })
	if s.runs.Load() == 0 {
		s.release()
	}
}

// Send is the session's own: a session names itself.
func (s *fakeSession) Send() error {
	select {
	case <-s.done:
		return errGone
	default:
		s.sent.Add(1)
		return nil
	}
}

func (s *fakeSession) Probe(ctx context.Context) error {
	s.prob.Add(1)
	s.net.mu.Lock()
	mute := s.dev.mute || s.dev.down
	s.net.mu.Unlock()
	select {
	case <-s.done:
		return errGone
	default:
	}
	if !mute {
		return nil
	}
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-s.done:
		return errGone
	}
}

func (s *fakeSession) Run(ctx context.Context, up func()) error {
	if s.runs.Add(1) != 1 {
		panic("session was run twice")
	}
	defer s.release()
	stop := context.AfterFunc(ctx, func() { s.fail(context.Cause(ctx)) })
	defer stop()
	s.net.mu.Lock()
	d := *s.dev
	s.net.mu.Unlock()
	wait := func(t time.Duration) bool {
		timer := time.NewTimer(t)
		defer timer.Stop()
		select {
		case <-timer.C:
			return true
		case <-s.done:
			return false
		}
	}
	if d.upAfter > 0 && !wait(d.upAfter) {
		return s.why
	}
	if d.upHook != nil {
		d.upHook()
	}
	if !d.noUp {
		up()
	}
	if d.dropErr != nil {
		if wait(d.dropIn) {
			s.fail(d.dropErr)
		}
	}
	<-s.done
	if d.deaf > 0 {
		timer := time.NewTimer(d.deaf)
		defer timer.Stop()
		<-timer.C
	}
	if d.stuck && ctx.Err() != nil { // a session that fails by itself closes its own socket
		<-s.cut
	} else if d.closing > 0 {
		timer := time.NewTimer(d.closing)
		defer timer.Stop()
		select {
		case <-timer.C:
		case <-s.cut:
		}
	}
	return s.why
}

// witness records every status and complains about broken order.
type witness struct {
	errorf  func(string, ...any)
	mu      sync.Mutex
	log     []Status[*fakeSession]
	current map[Key]Status[*fakeSession] // Up ones
	gens    map[Key]uint64
	gone    map[Key]bool
	hook    func(Status[*fakeSession])
}

func newWitness(t *testing.T) *witness {
	t.Helper()
	return &witness{errorf: t.Errorf, current: map[Key]Status[*fakeSession]{}, gens: map[Key]uint64{}, gone: map[Key]bool{}}
}

func (w *witness) note(st Status[*fakeSession]) {
	w.mu.Lock()
	if st.Gen < w.gens[st.Key] {
		w.errorf("key %s: gen %d after %d", st.Key, st.Gen, w.gens[st.Key])
	}
	if st.Gen == 0 || (w.gone[st.Key] && st.Gen == w.gens[st.Key]) {
		w.errorf("key %s: gen %d of a new entry is not new", st.Key, st.Gen)
	}
	w.gens[st.Key], w.gone[st.Key] = st.Gen, st.State == Gone
	before, live := w.current[st.Key]
	switch st.State {
	case Up:
		if live {
			w.errorf("key %s: up(%d) while up(%d)", st.Key, st.Gen, before.Gen)
		}
		if st.Session == nil || st.Session.ID() != st.ID {
			w.errorf("key %s: up without its session", st.Key)
		}
		w.current[st.Key] = st
	case Waiting, Parked, Gone:
		if live {
			if st.Gen != before.Gen {
				w.errorf("key %s: down(%d) of up(%d)", st.Key, st.Gen, before.Gen)
			}
			if st.Cause == nil {
				w.errorf("key %s: down(%d) without a cause", st.Key, st.Gen)
			}
			delete(w.current, st.Key)
		}
	default:
		if live && st.State != Draining {
			w.errorf("key %s: %v(%d) while up(%d)", st.Key, st.State, st.Gen, before.Gen)
		}
	}
	if st.State != Up && st.Session != nil {
		w.errorf("key %s: a session in state %v", st.Key, st.State)
	}
	w.log = append(w.log, st)
	hook := w.hook
	w.mu.Unlock()
	if hook != nil {
		hook(st)
	}
}

// edge is one Up, or the end of one.
type edge struct {
	up      bool
	gen     uint64
	session *fakeSession
	st      Status[*fakeSession]
}

// edges are the ups and downs of key ("": of all).
func (w *witness) edges(key Key) (out []edge) {
	w.mu.Lock()
	defer w.mu.Unlock()
	live := map[Key]bool{}
	for _, st := range w.log {
		if key != "" && st.Key != key {
			continue
		}
		switch st.State {
		case Up:
			live[st.Key] = true
			out = append(out, edge{true, st.Gen, st.Session, st})
		case Waiting, Parked, Gone:
			if live[st.Key] {
				live[st.Key] = false
				out = append(out, edge{false, st.Gen, nil, st})
			}
		default:
		}
	}
	return out
}

func (w *witness) ups(key Key) (n int) {
	for _, e := range w.edges(key) {
		if e.up {
			n++
		}
	}
	return n
}

// pattern is e.g. "U D U" of key.
func (w *witness) pattern(key Key) string {
	s := ""
	for _, e := range w.edges(key) {
		if e.up {
			s += "U"
		} else {
			s += "D"
		}
	}
	return s
}

// bench is a map with its world.
type bench struct {
	t      *testing.T
	errorf func(string, ...any)
	net    *fakeNet
	see    *witness
	m      *Map[string, *fakeSession]
}

func newBench(t *testing.T, set func(*Options[string, *fakeSession])) *bench {
	t.Helper()
	b := &bench{t: t, errorf: t.Errorf, net: newNet(), see: newWitness(t)}
	o := Options[string, *fakeSession]{
		Equal:  func(a, b string) bool { return a == b },
		Dial:   b.net.dial,
		Judge:  judgeFake,
		Notify: b.see.note,
		Rand:   rand.New(rand.NewPCG(1, 2)),
	}
	if set != nil {
		set(&o)
	}
	b.m = New(o)
	return b
}

// verdictError is a cause that carries its verdict.
type verdictError struct{ v Verdict }

func (e *verdictError) Error() string { return fmt.Sprintf("goodbye %q", e.v.Reason) }

func judgeFake(err error) Verdict {
	if v := (*verdictError)(nil); errors.As(err, &v) {
		return v.v
	}
	return Verdict{Action: Retry, Reason: "lost"}
}

func (b *bench) ensure(key Key, addr string) {
	b.t.Helper()
	if _, err := b.m.Ensure(key, addr); err != nil {
		b.t.Fatalf("ensure %s: %v", key, err)
	}
}

func (b *bench) adopt(d *device) *fakeSession {
	b.t.Helper()
	s := b.net.open(d)
	if _, err := b.m.Adopt(s); err != nil {
		b.t.Fatalf("adopt %s: %v", d.id, err)
	}
	return s
}

// pass lets fake time go by and everything settle.
func (b *bench) pass(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

func (b *bench) status(key Key) Status[*fakeSession] {
	st, _ := b.m.Status(key)
	return st
}

// session is the live session of key.
func (b *bench) session(key Key) *fakeSession {
	b.t.Helper()
	st := b.status(key)
	if st.State != Up {
		b.t.Fatalf("key %s is %v (%v), want up", key, st.State, st.Cause)
	}
	return st.Session
}

// close ends the map and checks that nothing is left of it.
func (b *bench) close() {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	if err := b.m.Close(ctx); err != nil {
		b.errorf("close: %v", err)
	}
	synctest.Wait()
	if got := b.net.liveAll(); got != 0 {
		b.errorf("sessions left after close: got %d, want 0", got)
	}
	if got := len(b.m.Snapshot()); got != 0 {
		b.errorf("entries left after close: got %d, want 0", got)
	}
	if n := len(b.m.aliases) + len(b.m.ids) + b.m.provisional; n != 0 {
		b.errorf("left after close: %d aliases, %d ids, %d provisional", len(b.m.aliases), len(b.m.ids), b.m.provisional)
	}
	if b.net.peakHeld > 1 {
		b.errorf("dialled sessions of one key at one time: got %d, want 1", b.net.peakHeld)
	}
	b.see.mu.Lock()
	defer b.see.mu.Unlock()
	for k := range b.see.current {
		b.errorf("key %s: up without its down after close", k)
	}
}

// inBubble runs f in virtual time with a map of its own and closes that.
func inBubble(t *testing.T, set func(*Options[string, *fakeSession]), f func(b *bench)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, set)
		f(b)
		b.close()
	})
}
