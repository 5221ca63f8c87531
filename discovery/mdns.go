package discovery

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"regexp"
	"sync"
	"sync/atomic"
	"time"

	"github.com/miekg/dns"
)

// Times of the browser (measured: 100 rounds cost 0.16 s of processor time).
const (
	roundTime  = 3 * time.Second
	roundFirst = 5 * time.Second // from start to start, in the first minute
	roundLater = 20 * time.Second
	roundMore  = 10 * time.Second // at most, random, on top of roundLater
	firstTime  = time.Minute
	roundGap   = time.Second     // a responder does not repeat an answer within a second (RFC 6762 6)
	lookAround = 2 * time.Second // for changes of network interfaces
)

// MDNSOptions say what to browse for, and where.
type MDNSOptions struct {
	Services   []string     // service types, such as "_sendspin._tcp"; empty: those of players, new and old
	Interfaces []string     // by name, taken as they are; empty: all but loopback, tunnels and container networks
	Ignore     []string     // instance names, usually our own
	Log        *slog.Logger // nil: silent
}

// Stats counts what a Browser did and saw.
type Stats struct {
	Rounds    uint64 // ended
	Responses uint64 // packets that were mDNS responses
	NoPath    uint64 // TXT records without a usable path
	Refused   uint64 // records that are impossible, not allowed, or too many
}

// Browser is a Source of what is advertised over mDNS.
//
// The library's rounds ask; an ear of our own hears, since the library tells
// neither removals nor changes and loses announcements that come in several
// packets (measured). What the ear hears goes to a table, which one goroutine
// owns: the one that called Run.
type Browser struct {
	opts  MDNSOptions
	net   network
	kick  chan struct{}
	stats atomic.Pointer[Stats]
}

// network is what a Browser needs of the machine.
type network struct {
	links func() ([]link, error)
	open  func([]link) (listener, error)
}

// listener is an open ear.
type listener interface {
	listen(heard func(packet))
	ask(qs []dns.Question) error
	round(ctx context.Context, service string, d time.Duration) (names []string, err error)
	close()
}

// NewMDNS makes a Browser. It does nothing before Run.
func NewMDNS(opts MDNSOptions) *Browser {
	if len(opts.Services) == 0 {
		opts.Services = []string{ServicePlayer, ServicePlayerOld}
	}
	if opts.Log == nil {
		opts.Log = slog.New(slog.DiscardHandler)
	}
	return &Browser{
		opts: opts,
		net: network{links: systemLinks, open: func(links []link) (listener, error) {
			e, err := openEar(links)
			if err != nil {
				return nil, err // not e: a nil pointer in an interface is not nil
			}
			return e, nil
		}},
		kick: make(chan struct{}, 1),
	}
}

// Kick asks for a round now, or as soon as one makes sense again: a round that
// runs is finished first, and there is one second between two. It never blocks
// and may be called from anywhere.
func (b *Browser) Kick() {
	select {
	case b.kick <- struct{}{}:
	default: // one is wanted already
	}
}

// Stats returns the counts so far.
func (b *Browser) Stats() Stats {
	if s := b.stats.Load(); s != nil {
		return *s
	}
	return Stats{}
}

// Run browses until ctx ends. An error means that a service type is malformed
// or a configured interface does not exist. A machine without any network is no
// error: Run waits for one. Run must not be called twice at a time.
func (b *Browser) Run(ctx context.Context, emit func(Event)) error {
	for _, s := range b.opts.Services {
		if err := checkService(s); err != nil {
			return err
		}
	}
	all, err := b.net.links()
	if err != nil {
		return err
	}
	if err := checkNames(all, b.opts.Interfaces); err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	r := &browse{
		Browser: b,
		table:   newTable(b.opts.Services, b.opts.Ignore, b.opts.Log, emit),
		packets: make(chan packet, 64),
		rounds:  make(chan roundEnd, 1),
		deaf:    make(chan listener, 1),
		began:   time.Now(),
	}
	defer func() {
		cancel()
		r.closeEar()
		r.wg.Wait()
	}()
	r.loop(ctx)
	return nil
}

func checkService(s string) error {
	if ok, err := regexp.MatchString(`^_[A-Za-z0-9-]{1,62}\._(tcp|udp)$`, s); err != nil || !ok {
		return fmt.Errorf("discovery: service type %q: want a form such as %s", s, ServicePlayer)
	}
	return nil
}

// browse is one Run. All but the channels belongs to its loop.
type browse struct {
	*Browser
	table   *table
	packets chan packet   // from the ear; when full the ear waits, and what the kernel can't keep is lost
	rounds  chan roundEnd // one round runs at a time
	deaf    chan listener // an ear whose sockets ended
	wg      sync.WaitGroup

	links   []link
	ear     listener // nil while there is no network
	earEnds chan struct{}
	mute    string // the last trouble that was logged

	began     time.Time
	asking    bool      // a round runs
	kicked    bool      // that round, or the next, was asked for by Kick
	lastRound time.Time // its start
	nextRound time.Time
}

type roundEnd struct {
	names  []string
	err    error
	counts bool
}

// loop runs until ctx ends.
func (r *browse) loop(ctx context.Context) {
	r.nextRound = r.began
	r.lookAround(ctx)
	look := time.NewTicker(lookAround)
	defer look.Stop()
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case p := <-r.packets:
			r.table.hear(time.Now(), p.msg, p.on)
		case end := <-r.rounds:
			r.roundEnded(end)
		case <-r.kick:
			r.kicked = true
			r.nextRound = time.Now()
		case <-look.C:
			r.lookAround(ctx)
		case ear := <-r.deaf:
			if ear == r.ear { // its socket failed: the next look around opens a new one
				r.closeEar()
			}
		case <-timer.C:
			r.table.settle(time.Now())
		}
		timer.Reset(r.work(ctx))
		stats := r.table.stats
		r.stats.Store(&stats)
	}
}

// work asks what is due and returns how long there is nothing more to do.
func (r *browse) work(ctx context.Context) time.Duration {
	now := time.Now()
	qs := r.table.asks(now)
	if r.ear == nil {
		return r.table.next(now).Sub(now) // nobody to ask, but the table still forgets
	}
	if len(qs) > 0 {
		if err := r.ear.ask(qs); err != nil {
			r.opts.Log.Debug("question not sent", slog.Any("err", err))
		}
	}
	next := r.table.next(now)
	if !r.asking {
		at := r.nextRound
		if earliest := r.lastRound.Add(roundGap); at.Before(earliest) {
			at = earliest
		}
		if !now.Before(at) {
			r.startRound(ctx, now)
		} else if at.Before(next) {
			next = at
		}
	}
	return next.Sub(now)
}

// startRound asks for all services at once.
func (r *browse) startRound(ctx context.Context, now time.Time) {
	r.asking, r.lastRound = true, now
	counts := !r.kicked // else impatience would take speakers away
	r.kicked = false
	if now.Sub(r.began) < firstTime {
		r.nextRound = now.Add(roundFirst)
	} else {
		r.nextRound = now.Add(roundLater + rand.N(roundMore))
	}
	r.table.roundStarts()
	ear := r.ear
	// Owner: this browse. Ends after roundTime or with ctx. Blocks on nothing
	// else: there is room for its one result.
	r.wg.Go(func() {
		var (
			wg    sync.WaitGroup
			mu    sync.Mutex
			total = roundEnd{counts: counts}
		)
		for _, service := range r.opts.Services {
			// Owner: the goroutine around it. Ends after roundTime or with ctx.
			wg.Go(func() {
				names, err := ear.round(ctx, service, roundTime)
				mu.Lock()
				defer mu.Unlock()
				total.names = append(total.names, names...)
				if err != nil {
					total.err = err
				}
			})
		}
		wg.Wait()
		r.rounds <- total
	})
}

func (r *browse) roundEnded(end roundEnd) {
	now := time.Now()
	r.asking = false
	for _, name := range end.names {
		r.table.hint(now, name)
	}
	if end.err != nil {
		r.trouble("mdns round failed", end.err)
		return
	}
	r.mute = ""
	if end.counts {
		r.table.roundEnds(now)
	}
}

// lookAround follows the network interfaces as they come and go.
func (r *browse) lookAround(ctx context.Context) {
	all, err := r.net.links()
	if err != nil {
		r.trouble("network interfaces unknown", err)
		return
	}
	links := choose(all, r.opts.Interfaces)
	if r.ear != nil && sameLinks(links, r.links) {
		return
	}
	changed := !sameLinks(links, r.links)
	r.links = links
	r.closeEar()
	if len(links) == 0 {
		r.trouble("no network interface for mdns", fmt.Errorf("discovery: none of %d interfaces is suitable, waiting for one", len(all)))
		return
	}
	ear, err := r.net.open(links)
	if err != nil {
		r.trouble("mdns not available", err)
		return
	}
	r.ear, r.earEnds = ear, make(chan struct{})
	ends := r.earEnds
	// Owner: this browse. Ends when the ear is closed. Blocks on the sockets,
	// and on the loop while it can still take packets.
	r.wg.Go(func() {
		ear.listen(func(p packet) {
			select {
			case r.packets <- p:
			case <-ends:
			case <-ctx.Done():
			}
		})
		select {
		case r.deaf <- ear:
		case <-ends:
		case <-ctx.Done():
		}
	})
	if changed {
		names := make([]string, 0, len(links))
		for _, l := range links {
			names = append(names, l.name)
		}
		r.opts.Log.Info("mdns listens", slog.Any("interfaces", names))
		r.nextRound = time.Now()
	}
}

func (r *browse) closeEar() {
	if r.ear != nil {
		r.ear.close()
		close(r.earEnds)
		r.ear = nil
	}
}

// trouble logs once for as long as it stays the same trouble.
func (r *browse) trouble(msg string, err error) {
	if text := msg + err.Error(); text != r.mute {
		r.mute = text
		r.opts.Log.Warn("mdns is in trouble", slog.String("what", msg), slog.Any("err", err))
	}
}
