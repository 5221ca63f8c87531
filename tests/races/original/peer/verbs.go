package main

import (
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"resonatebridge/tests/races/original/control"

	"github.com/gorilla/websocket"
)

// peer is the whole program.
type peer struct {
	host   string // where it listens
	ledger *ledger
	wg     sync.WaitGroup // every goroutine that uses a socket

	mu       sync.Mutex
	speakers map[string]*speaker // by URL
	relays   map[string]*relay   // by URL
}

func newPeer(host string) *peer {
	return &peer{host: host, ledger: newLedger(), speakers: map[string]*speaker{}, relays: map[string]*relay{}}
}

// close ends everything.
func (p *peer) close() {
	p.mu.Lock()
	for _, s := range p.speakers {
		s.shut()
		s.release()
	}
	for _, r := range p.relays {
		_ = r.l.Close()
		r.release()
	}
	p.mu.Unlock()
	for _, n := range p.ledger.pick(0) {
		n.set(faults{})
		_ = n.Close()
	}
	p.wg.Wait()
}

func (p *peer) verbs() map[string]control.Verb {
	return map[string]control.Verb{
		"listen":   control.On(p.listen),
		"port":     control.On(p.port),
		"dial":     control.On(p.dial),
		"relay":    control.On(p.relay),
		"set":      control.On(p.set),
		"hold":     control.On(p.hold),
		"cut":      control.On(p.cut),
		"announce": control.On(announce),
		"count":    control.On(func(struct{}) (any, error) { return p.ledger.count(), nil }),
	}
}

type urls struct {
	URLs []string `json:"urls"`
}

// listen opens the ports of n speakers, or reserves them.
func (p *peer) listen(a struct {
	ID      string `json:"id"` // of the first; the others get -2, -3, ...
	N       int    `json:"n"`  // 0 means 1
	Dialect string `json:"dialect"`
	Closed  bool   `json:"closed"` // the port is known, but refuses connections
},
) (any, error) {
	if _, ok := scripts[a.Dialect]; !ok {
		return nil, fmt.Errorf("dialect %q: want R1 or S4", a.Dialect)
	}
	var out urls
	for i := range max(a.N, 1) {
		s := &speaker{p: p, id: numbered(a.ID, i), dialect: a.Dialect, addr: net.JoinHostPort(p.host, "0")}
		if err := s.open(); err != nil {
			return nil, err
		}
		if a.Closed {
			s.shut()
		}
		p.mu.Lock()
		p.speakers[s.url()] = s
		p.mu.Unlock()
		out.URLs = append(out.URLs, s.url())
	}
	return out, nil
}

func numbered(id string, i int) string {
	if i == 0 {
		return id
	}
	return fmt.Sprintf("%s-%d", id, i+1)
}

type moment struct {
	At int64 `json:"at"` // Unix time in ns at which it was done
}

func now() moment { return moment{time.Now().UnixNano()} }

// port opens or closes the ports of all speakers; lines stay.
func (p *peer) port(a struct {
	Open bool `json:"open"`
},
) (any, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, s := range p.speakers {
		if !a.Open {
			s.shut()
		} else if err := s.open(); err != nil {
			return nil, err
		}
	}
	return now(), nil
}

// dial dials in as n players at once and says which lines they got; 0 is one
// that got none.
func (p *peer) dial(a struct {
	URL     string `json:"url"`
	ID      string `json:"id"`
	N       int    `json:"n"` // 0 means 1
	Dialect string `json:"dialect"`
},
) (any, error) {
	var out struct {
		Lines []int    `json:"lines"`
		Errs  []string `json:"errs,omitempty"`
	}
	out.Lines = make([]int, max(a.N, 1))
	var wg sync.WaitGroup
	var mu sync.Mutex
	for i := range out.Lines {
		wg.Go(func() { // ends with the dial; awaited below
			n, err := p.dialIn(a.URL, numbered(a.ID, i), a.Dialect)
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				out.Errs = append(out.Errs, err.Error())
				return
			}
			out.Lines[i] = n.entry.N // written before the line was handed out
		})
	}
	wg.Wait()
	return out, nil
}

// relay opens a port that leads to the server at To.
func (p *peer) relay(a struct {
	To  string `json:"to"`  // host:port
	Cut bool   `json:"cut"` // lines are closed right after the upgrade
},
) (any, error) {
	l, err := net.Listen("tcp", net.JoinHostPort(p.host, "0"))
	if err != nil {
		return nil, err
	}
	r := &relay{p: p, to: a.To, l: l, cut: a.Cut}
	p.mu.Lock()
	p.relays[l.Addr().String()] = r
	p.mu.Unlock()
	p.wg.Go(r.serve) // ends with close
	return map[string]string{"addr": l.Addr().String()}, nil
}

// set gives open lines their faults, and those to come with Line 0.
func (p *peer) set(a struct {
	Line int `json:"line"` // 0: all, and those to come
	faults
},
) (any, error) {
	if a.Line == 0 {
		p.mu.Lock()
		for _, s := range p.speakers {
			s.mu.Lock()
			s.faults = a.faults
			s.mu.Unlock()
		}
		p.mu.Unlock()
	}
	for _, n := range p.ledger.pick(a.Line) {
		n.set(a.faults)
	}
	return now(), nil
}

// hold keeps connections from being answered, or lets them go on.
func (p *peer) hold(a struct {
	On bool `json:"on"`
},
) (any, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, s := range p.speakers {
		s.release()
		if a.On {
			s.mu.Lock()
			s.hold = make(chan struct{})
			s.mu.Unlock()
		}
	}
	for _, r := range p.relays {
		r.release()
		if a.On {
			r.mu.Lock()
			r.hold = make(chan struct{})
			r.mu.Unlock()
		}
	}
	return now(), nil
}

func (s *speaker) release() { release(&s.mu, &s.hold) }
func (r *relay) release()   { release(&r.mu, &r.hold) }

func release(mu *sync.Mutex, hold *chan struct{}) {
	mu.Lock()
	defer mu.Unlock()
	if *hold != nil {
		close(*hold)
		*hold = nil
	}
}

// cut ends open lines.
func (p *peer) cut(a struct {
	Line int    `json:"line"` // 0: all
	How  string `json:"how"`  // "fin", "rst", or "close": a close frame, and the FIN after its answer
},
) (any, error) {
	lines := p.ledger.pick(a.Line)
	at := now()
	for _, n := range lines {
		switch a.How {
		case "fin":
			_ = n.Close()
		case "rst":
			n.reset()
		case "close":
			if err := n.sayClose(); err != nil {
				return nil, err
			}
		default:
			return nil, errors.New(`how: want "fin", "rst" or "close"`)
		}
	}
	return at, nil
}

// sayClose writes a close frame (RFC 6455 5.5.1) as this end has to: masked by
// who dialled. The other end answers, which ends the line.
func (n *line) sayClose() error {
	ws := n.ws.Load()
	if ws == nil {
		return errors.New("the line has not come to its upgrade")
	}
	return ws.WriteControl(websocket.CloseMessage, websocket.FormatCloseMessage(websocket.CloseNormalClosure, ""), time.Now().Add(time.Second))
}
