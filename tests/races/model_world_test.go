package races

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"resonatebridge/cmd/bridge/app"
	"resonatebridge/discovery"
	"resonatebridge/tests/internal/broker"
	"resonatebridge/tests/pipe"
)

const (
	brokerAddr  = "192.0.2.9:1883"
	playersAddr = "192.0.2.1:0"
	staleVolume = 99 // only retained commands ask for it
)

// world is a house in virtual time: the whole bridge, a broker, speakers, and
// the network between them.
type world struct {
	*testing.T
	broker   *broker.Broker
	speakers []*speaker
	lines    sync.WaitGroup // goroutines of speakers

	mu      sync.Mutex // guards what follows and the speakers; never held across I/O
	wrong   []string   // what broke an invariant
	scene   string     // what had happened when the first one broke
	trace   []string   // what was done, for people
	journal journal
	bridge  *bridge              // nil while none runs
	dir     string               // its data directory
	base    string               // holds all of them
	asked   map[string]*question // by transaction
	open    []*question          // of those the ones that were not taken in, in their order
	busyAt  time.Time            // something last happened to the broker or its link
	step    int                  // its number
	fresh   bool                 // the answer that is taken in is of this step, so nothing was done since
	blurred bool                 // what was done last may not have arrived
	named   map[string]fact[bool]
}

func newWorld(t *testing.T, dir string, speakers int) *world {
	w := &world{T: t, base: dir, broker: broker.New(), asked: map[string]*question{}, named: map[string]fact[bool]{}}
	w.broker.Tap = w.overhear
	w.journal.w = w
	w.dir = w.newDir()
	for i := range speakers {
		s := &speaker{w: w, id: fmt.Sprintf("d%d", i), at: i, mode: open, volume: 20 + i}
		s.truth = newTruth()
		w.speakers = append(w.speakers, s)
	}
	w.start()
	return w
}

// do runs f under the world's lock.
func (w *world) do(f func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	f()
}

func (w *world) modeOf(s *speaker) mode {
	w.mu.Lock()
	defer w.mu.Unlock()
	return s.mode
}

// complain notes a broken invariant.
func (w *world) complain(format string, args ...any) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.wrongf(format, args...)
}

// wrongf is complain with world.mu held.
func (w *world) wrongf(format string, args ...any) {
	if len(w.wrong) == 0 {
		w.scene = fmt.Sprintf("--- after\n%s\n--- log\n%s", strings.Join(w.trace, "\n"), w.journal.tail(60))
	}
	if len(w.wrong) < 20 {
		w.wrong = append(w.wrong, fmt.Sprintf(format, args...))
	}
}

// --- the bridge ---

// bridge is one run of it.
type bridge struct {
	app.Running
	w     *world
	stop  context.CancelFunc
	done  chan struct{}
	err   error // valid after done
	dead  atomic.Bool
	front *pipe.Listener // where speakers dial in
	since time.Time

	// Guarded by world.mu.
	ends  []*pipe.Conn // its end of every connection that it ever had
	wires []*pipe.Conn // of those the ones to the broker
}

func (w *world) newDir() string {
	dir, err := os.MkdirTemp(w.base, "data")
	if err != nil {
		w.Fatal(err)
	}
	return dir
}

// start runs the bridge and tells it what is advertised.
func (w *world) start() {
	b := &bridge{w: w, done: make(chan struct{}), front: pipe.NewListener(), since: time.Now()}
	config := app.Default()
	config.DataDir = w.dir
	config.MQTT.URL = "mqtt://" + brokerAddr
	config.Server.Listen, config.HTTP.Listen = playersAddr, "192.0.2.2:0"
	config.Discovery.Enabled = false
	started := make(chan app.Running, 1)
	o := app.RunOptions{
		Config: config, Build: app.Build{Version: "test"}, Log: slog.New(&w.journal),
		Started: func(r app.Running) { started <- r },
		Listen: func(_ context.Context, addr string) (net.Listener, error) {
			if addr == playersAddr {
				return b.front, nil
			}
			return pipe.NewListener(), nil
		},
		DialContext: b.dial,
	}
	ctx, cancel := context.WithCancel(context.Background())
	b.stop = cancel
	w.do(func() { w.journal.forget() })
	go func() { // owner: b; ends with halt
		defer close(b.done)
		b.err = app.Run(ctx, o)
	}()
	select {
	case b.Running = <-started:
	case <-b.done:
		w.complain("the bridge did not start: %v", b.err)
	}
	w.do(func() { w.bridge, w.busyAt = b, time.Now() })
	for _, s := range w.speakers {
		w.do(s.restarted)
		for k := range s.keys {
			if s.keys[k].advertised {
				w.tell(s, k, false)
			}
		}
	}
}

// halt ends the bridge in order and checks what it leaves.
func (w *world) halt() {
	b := w.bridge
	w.do(func() { w.bridge = nil })
	began := time.Now()
	b.stop()
	<-b.done
	if b.err != nil {
		w.complain("the bridge ended with: %v", b.err)
	}
	if took := time.Since(began); took > 5*time.Second {
		w.complain("the bridge took %v to stop, want 5s at most", took)
	}
	synctest.Wait()
	w.mu.Lock()
	defer w.mu.Unlock()
	for i, c := range b.ends {
		if !c.IsClosed() {
			w.wrongf("connection %d of %d is open after the bridge's end", i+1, len(b.ends))
		}
	}
	w.journal.ended()
	w.brokerFault()
	if w.blurred {
		return
	}
	for _, s := range w.speakers {
		if l := s.live(); l != nil {
			w.wrongf("%s has a session with a bridge that has ended", s.id)
		}
	}
}

// crash ends the bridge as a power cut does: the network sees it vanish, reset
// or not, and its records are what was written so far.
func (w *world) crash(reset bool) {
	b := w.bridge
	w.do(func() { w.bridge = nil })
	b.dead.Store(true)
	copied := w.newDir()
	if err := os.CopyFS(copied, os.DirFS(w.dir)); err != nil {
		w.Fatal(err)
	}
	w.dir = copied
	w.do(func() {
		for _, c := range b.ends {
			if reset {
				c.Reset()
			} else {
				c.Cut()
			}
		}
		for _, s := range w.speakers {
			for _, l := range s.lines {
				l.sick, l.dead = true, true
			}
			s.crashed()
		}
		for _, known := range w.named {
			known.add(true, false)
		}
		w.brokerFault()
	})
	b.stop() // nobody hears what it still does
	<-b.done
	synctest.Wait()
}

// dial is the bridge's way out.
func (b *bridge) dial(ctx context.Context, _, addr string) (net.Conn, error) {
	refused := &net.OpError{Op: "dial", Net: "tcp", Err: syscall.ECONNREFUSED}
	w := b.w
	switch {
	case b.dead.Load():
		return nil, refused
	case ctx.Err() != nil:
		return nil, context.Cause(ctx)
	case addr == brokerAddr:
		c, err := w.broker.Dial(ctx)
		if err != nil {
			return nil, err
		}
		w.do(func() { b.ends, b.wires = append(b.ends, c), append(b.wires, c) })
		return c, nil
	}
	var s *speaker
	treat := refuse
	w.do(func() {
		for _, x := range w.speakers {
			if addrOf(x.at) == addr {
				s, treat = x, x.mode
			}
		}
		if s == nil {
			return
		}
		meant := s
		for _, x := range w.speakers {
			for _, k := range x.leading(s.at) {
				if x != s { // it was looked for there
					x.misled, k.astray, meant = time.Now(), true, x
					x.tangled, s.tangled = true, true
				}
			}
		}
		asked := slices.ContainsFunc(s.leading(s.at), func(k *keyTruth) bool { return k.asked })
		if meant == s && !asked {
			s.dialed = time.Now()
		}
	})
	if treat == refuse {
		return nil, refused
	}
	if treat == dark {
		<-ctx.Done()
		return nil, context.Cause(ctx)
	}
	ours, theirs := pipe.New()
	w.do(func() { b.ends = append(b.ends, ours) })
	if treat != silent {
		w.lines.Go(func() { s.accept(theirs) })
	}
	return ours, nil
}

// dialIn is a speaker's way to the bridge.
func (w *world) dialIn(s *speaker) {
	b := w.bridge
	if b == nil {
		return
	}
	c, err := b.front.Dial(context.Background())
	if err != nil {
		return
	}
	w.do(func() { b.ends = append(b.ends, c.Peer()) })
	w.lines.Go(func() { s.dialIn(c) })
}

// admitted is told of each server/hello: from here on the bridge serves l, and
// nobody else may be served under the same id. world.mu is held.
func (w *world) admitted(l *line) {
	s := l.s
	l.hello = time.Now()
	for _, other := range s.lines {
		if other != l && !other.hello.IsZero() && !other.conn.Peer().IsClosed() {
			w.wrongf("%s has two live sessions", s.id)
		}
	}
	s.met(l.dialedIn)
	switch {
	case s.mode == rude && !l.dialedIn:
		l.conn.Reset()
	case s.mode == busy && !l.dialedIn:
		l.goodbye(s.reason)
		s.left(s.reason, l.sick)
	case s.mode != shy:
		l.report()
	}
}

// announce advertises a speaker where it is. A record that merely repeats makes
// no event, unless it comes again after it was gone.
func (w *world) announce(s *speaker, k int, again bool) {
	key, repeats := &s.keys[k], false
	w.do(func() {
		again = again || key.gone && !key.advertised
		repeats = key.advertised && key.heard && key.at == s.at && !again
		key.advertised, key.at = true, s.at
	})
	if !repeats {
		w.tell(s, k, again)
	}
}

// tell is what discovery does with an advertisement.
func (w *world) tell(s *speaker, k int, again bool) {
	b := w.bridge
	if b == nil {
		return
	}
	var ep discovery.Endpoint
	w.do(func() {
		s.announced(k, again)
		ep = s.endpoint(k)
	})
	b.Server.Discover(discovery.Event{Kind: discovery.Announced, Endpoint: ep, Again: again})
}

// withdraw ends an advertisement.
func (w *world) withdraw(s *speaker, k int) {
	b := w.bridge
	if !s.keys[k].advertised || b == nil {
		return
	}
	var ep discovery.Endpoint
	w.do(func() {
		s.keys[k].advertised = false
		s.withdrawn(k)
		ep = s.endpoint(k)
	})
	b.Server.Discover(discovery.Event{Kind: discovery.Withdrawn, Endpoint: ep})
}

// close ends what is left of the world.
func (w *world) close() {
	if w.bridge != nil {
		w.halt()
	}
	w.broker.Stop(true)
	w.do(func() {
		for _, s := range w.speakers {
			for _, l := range s.lines {
				l.conn.Reset()
				l.resume()
			}
		}
	})
	w.lines.Wait()
}
