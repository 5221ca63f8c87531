package chaos

import (
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// way is one direction of a link.
type way int

const (
	forth way = iota // from the one that dials
	back             // to it
)

// fault is what is wrong with one direction of a link. The zero value is a
// good link.
type fault struct {
	latency, jitter time.Duration // each piece arrives so much later, jitter being the most that is added; order is kept
	rate            int           // bytes per second; 0: no limit
	piece           int           // bytes that arrive at a time; 0: as they were sent
	silent          bool          // nothing arrives, no end either; as TCP has it, what was sent arrives when the link is good again
}

// proxy is a TCP link that can be made bad. It is our own because no library
// does what is needed: toxiproxy's newest tagged module (2.5.0, of 2022) brings
// an HTTP API, a router, a logger and a metrics registry along, closes
// connections when a silence ends, resets only at the next byte, and can't end
// a connection in the middle of a frame.
type proxy struct {
	tb     testing.TB
	ln     net.Listener
	target string
	wg     sync.WaitGroup

	mu     sync.Mutex
	faults [2]fault
	news   chan struct{} // closed and replaced when faults change
	links  map[*link]bool
	ended  bool
}

// newProxy listens on loopback and hands each connection on to target. It ends
// with the test.
func newProxy(tb testing.TB, target string) *proxy {
	tb.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	p := &proxy{tb: tb, ln: ln, target: target, news: make(chan struct{}), links: map[*link]bool{}}
	p.wg.Go(p.accept) // ends with the listener
	tb.Cleanup(func() {
		_ = ln.Close()
		p.mu.Lock()
		p.ended = true
		p.mu.Unlock()
		p.reset()
		p.wg.Wait()
	})
	return p
}

// addr is where to dial instead of the target.
func (p *proxy) addr() string { return p.ln.Addr().String() }

func (p *proxy) accept() {
	for {
		near, err := p.ln.Accept()
		if err != nil {
			return
		}
		far, err := net.DialTimeout("tcp", p.target, 5*time.Second)
		if err != nil { // nobody is there: as the kernel would say it
			abort(near)
			continue
		}
		l := &link{p: p, ends: [2]net.Conn{far, near}, done: make(chan struct{})}
		p.mu.Lock()
		p.links[l] = true
		ended := p.ended
		p.mu.Unlock()
		if ended {
			l.end(true)
		}
		p.wg.Go(l.run) // ends with the link
	}
}

// set changes what is wrong, for the connections that stand and for new ones.
func (p *proxy) set(f fault, ways ...way) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, w := range ways {
		p.faults[w] = f
	}
	close(p.news)
	p.news = make(chan struct{})
}

// heal makes the link a good one.
func (p *proxy) heal() { p.set(fault{}, forth, back) }

// passes reports whether what is sent arrives, late as it may be.
func (p *proxy) passes() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return !p.faults[forth].silent && !p.faults[back].silent
}

func (p *proxy) look(w way) (fault, <-chan struct{}) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.faults[w], p.news
}

// open is how many connections stand, without those that were abandoned.
func (p *proxy) open() int {
	n := 0
	for _, l := range p.standing() {
		if !l.abandoned.Load() {
			n++
		}
	}
	return n
}

func (p *proxy) standing() []*link {
	p.mu.Lock()
	defer p.mu.Unlock()
	var out []*link
	for l := range p.links {
		out = append(out, l)
	}
	return out
}

// reset ends every connection with a reset on both sides.
func (p *proxy) reset() {
	for _, l := range p.standing() {
		l.end(true)
	}
}

// abandon lets no byte, end or reset through any more on the connections that
// stand: each side is alone and is not told. New connections are good ones.
func (p *proxy) abandon() {
	for _, l := range p.standing() {
		l.abandoned.Store(true)
	}
}

// truncate ends the connections that stand, in order, after n further bytes in
// one direction.
func (p *proxy) truncate(w way, n int) {
	for _, l := range p.standing() {
		left := n
		l.mu.Lock()
		l.left[w] = &left
		l.mu.Unlock()
	}
}

// link is one connection through the proxy.
type link struct {
	p         *proxy
	ends      [2]net.Conn // where each way leads: the target, the one that dialled
	done      chan struct{}
	once      sync.Once // closes done and both ends
	abandoned atomic.Bool

	mu   sync.Mutex
	left [2]*int // bytes until the end, by way; nil: no end is set
}

func (l *link) run() {
	var wg sync.WaitGroup
	for _, w := range []way{forth, back} {
		parcels := make(chan parcel, 16)
		wg.Go(func() { l.read(w, parcels) })  // ends with its end of the link
		wg.Go(func() { l.write(w, parcels) }) // ends with read
	}
	wg.Wait()
	l.end(false)
	l.p.mu.Lock()
	delete(l.p.links, l)
	l.p.mu.Unlock()
}

// parcel is what was read at once, or the end.
type parcel struct {
	data []byte
	at   time.Time // when it may arrive
	err  error     // io.EOF: an orderly end follows, else a reset
}

// read takes what one side says.
func (l *link) read(w way, out chan<- parcel) {
	defer close(out)
	var last time.Time
	for {
		buf := make([]byte, 4<<10)
		n, err := l.ends[1-w].Read(buf)
		f, _ := l.p.look(w)
		at := time.Now().Add(f.latency)
		if f.jitter > 0 {
			at = at.Add(rand.N(f.jitter))
		}
		if at.Before(last) {
			at = last // TCP keeps the order
		}
		last = at
		select {
		case out <- parcel{data: buf[:n], at: at, err: err}:
		case <-l.done:
			return
		}
		if err != nil {
			return
		}
	}
}

// write tells it to the other side.
func (l *link) write(w way, in <-chan parcel) {
	for x := range in {
		if !l.wait(time.Until(x.at)) {
			return
		}
		for len(x.data) > 0 {
			n, ok := l.pass(w, x.data)
			if !ok {
				return
			}
			x.data = x.data[n:]
		}
		if _, ok := l.passable(w); !ok {
			return
		}
		switch {
		case x.err == nil:
		case errors.Is(x.err, io.EOF):
			_ = l.ends[w].(*net.TCPConn).CloseWrite() // the other way may go on
			return
		default:
			l.end(true)
			return
		}
	}
}

// pass lets the next piece of data through as the fault has it, and says how
// long it was; false: the link has ended.
func (l *link) pass(w way, data []byte) (int, bool) {
	f, ok := l.passable(w)
	if !ok {
		return 0, false
	}
	if f.rate > 0 && f.piece == 0 {
		f.piece = max(1, f.rate/20) // 50 ms of it
	}
	if f.piece > 0 {
		data = data[:min(len(data), f.piece)]
	}
	l.mu.Lock()
	last := false
	if left := l.left[w]; left != nil {
		data = data[:min(len(data), *left)]
		*left -= len(data)
		last = *left == 0
	}
	l.mu.Unlock()
	_, err := l.ends[w].Write(data)
	switch {
	case err != nil:
		l.end(true)
		return 0, false
	case last:
		l.end(false)
		return 0, false
	case f.rate == 0:
		return len(data), true
	}
	return len(data), l.wait(time.Second * time.Duration(len(data)) / time.Duration(f.rate))
}

// passable waits until the direction is not silent, and returns how it is then;
// false: nothing passes any more.
func (l *link) passable(w way) (fault, bool) {
	for {
		f, news := l.p.look(w)
		if !f.silent && !l.abandoned.Load() {
			return f, true
		}
		select {
		case <-news:
		case <-l.done:
			return f, false
		}
	}
}

// wait lets d pass; false: the link has ended.
func (l *link) wait(d time.Duration) bool {
	if d <= 0 {
		return true
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-l.done:
		return false
	}
}

// end closes both sockets; again it does nothing.
func (l *link) end(reset bool) {
	l.once.Do(func() {
		close(l.done)
		for _, c := range l.ends {
			if reset {
				abort(c)
			} else {
				_ = c.Close()
			}
		}
	})
}

// abort closes with a reset.
func abort(c net.Conn) {
	_ = c.(*net.TCPConn).SetLinger(0)
	_ = c.Close()
}
