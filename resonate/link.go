package resonate

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"resonatebridge/discovery"
	"resonatebridge/resonate/internal/contain"
	"resonatebridge/resonate/internal/dial"
	"resonatebridge/resonate/internal/dialect"
	"resonatebridge/resonate/internal/session"
	"resonatebridge/resonate/internal/supervisor"
	"resonatebridge/resonate/pairing"
	"resonatebridge/resonate/protocol"

	"github.com/gorilla/websocket"
)

// link is a session that the loop has to admit before its messages count.
type link struct {
	*session.Session
	admitted chan struct{} // closed by the loop when it has seen the link come up
	url      string        // where we dialled; "" if the client dialled us
	silent   bool          // nobody will announce its return, see unannounced
	playback bool          // it is dialled to play
	log      *slog.Logger

	// Of an encrypted one, owned by the loop from its admission on.
	declared protocol.ServerActivate // the newest that was queued
	pair     *pairing.Server
	rekey    *rekeying // a re-handshake that the loop waits for
	stated   bool      // the player said how it is since its role became active
}

// unannounced is the end of a connection, or of an attempt, to a player that is
// known by a configured address alone: no announcement will tell of its return.
type unannounced struct{ error }

func (u unannounced) Unwrap() error { return u.error }

// Run serves the link; up returns when the loop has admitted it, so that its
// first message finds its place.
func (l *link) Run(ctx context.Context, up func()) error {
	err := l.Session.Run(ctx, func() {
		up()
		select {
		case <-l.admitted:
		case <-l.Done():
		}
	})
	if l.silent && err != nil {
		return unannounced{err}
	}
	return err
}

// Kill ends the link. A duplicate is worth a line: two speakers may share an id.
func (l *link) Kill(cause error) {
	if errors.Is(cause, supervisor.ErrDuplicate) {
		l.log.Warn("a second connection claims the id of a connected speaker, turned away",
			slog.String("player", l.ID()), slog.String("from", l.RemoteAddr().String()))
	}
	l.Session.Kill(cause)
}

// Timeouts of a connection attempt (races: B11).
const (
	dialTimeout    = 5 * time.Second // socket and upgrade
	upgradeTimeout = 5 * time.Second
	stagger        = 250 * time.Millisecond // between candidate addresses
)

// greet makes a link of an open socket.
func (s *Server) greet(ctx context.Context, ws *websocket.Conn, path, dialled string, reason protocol.ConnectionReason) (*link, error) {
	l := &link{admitted: make(chan struct{}), url: dialled, log: s.log, playback: reason == protocol.ReasonPlayback}
	from := ws.RemoteAddr()
	if dialled != "" {
		from = nil
	}
	sess, err := session.Greet(ctx, ws, path, session.Options{
		Clock: s.opts.Clock,
		Log:   s.log,
		Hello: func(protocol.ClientHello) protocol.ServerHello {
			return protocol.ServerHello{ServerID: s.identity.ID, Name: s.identity.Name, Version: 1, Reason: reason}
		},
		Override: s.dialectOf,
		Refuse: func(h protocol.ClientHello) *dialect.RefusedError {
			return s.refuse(h, dialled != "")
		},
		Sealing: &session.Sealing{
			Identity: s.key,
			Choose: func(client pairing.PublicKey) (pairing.Credential, error) {
				return s.choose(client, from)
			},
			Activate: func(sess *session.Session) protocol.ServerActivate {
				l.declared = s.firstActivation(sess, l.playback)
				return l.declared
			},
			Rekeyed: func(sess *session.Session, c pairing.Credential) {
				s.post(sess.Done(), func() { s.model.onRekeyed(l, c) })
			},
		},
		Malformed: func(error) { s.counters.malformed.Add(1) },
		Handle: func(sess *session.Session, m protocol.ClientMessage) {
			s.post(sess.Done(), func() { s.model.onMessage(l, m) })
		},
	})
	if err != nil {
		s.counters.refused.Add(1)
		return nil, err
	}
	l.Session = sess
	s.counters.sessions.Add(1)
	return l, nil
}

// candidate is one address of a player.
type candidate struct {
	addr string // host:port, a zone included
	path string
	url  string
}

func candidates(eps []endpt) []candidate {
	var out []candidate
	for _, e := range eps {
		urls := e.URLs()
		if e.Host != "" {
			out = append(out, candidate{addr: net.JoinHostPort(e.Host, strconv.Itoa(int(e.Port))), path: e.Path, url: urls[0]})
		}
		for i, a := range e.Addrs {
			out = append(out, candidate{addr: a.String(), path: e.Path, url: urls[i]})
		}
	}
	return out
}

// dial tries the candidates of an attempt, 250 ms apart; the first socket that
// is upgraded wins, then the client has to say hello.
func (s *Server) dial(ctx context.Context, a supervisor.Attempt[endpt]) (*link, error) {
	cands := candidates(a.Endpoints)
	if len(cands) == 0 {
		return nil, errors.New("no address is known")
	}
	s.counters.dials.Add(1)
	ws, c, err := s.race(ctx, cands)
	if err != nil {
		return nil, err
	}
	a.Greeting()
	reason := protocol.ReasonDiscovery
	if a.Why&supervisor.WhyPlayback != 0 {
		reason = protocol.ReasonPlayback
	}
	silent := !slices.ContainsFunc(a.Endpoints, func(e endpt) bool { return e.Service != discovery.ServiceStatic })
	l, err := s.greet(ctx, ws, "", c.url, reason)
	if err != nil {
		err = fmt.Errorf("%s: %w", c.url, err)
		if silent {
			err = unannounced{err}
		}
		return nil, err
	}
	l.silent = silent
	// It is known from here on, also if it turns us away before it is live.
	s.post(ctx.Done(), func() { s.model.introduce(a.Key, l) })
	return l, nil
}

func (s *Server) race(ctx context.Context, cands []candidate) (*websocket.Conn, candidate, error) {
	ctx, cancel := context.WithTimeout(ctx, dialTimeout+time.Duration(len(cands)-1)*stagger)
	defer cancel()
	type result struct {
		ws  *websocket.Conn
		c   candidate
		err error
	}
	results := make(chan result, len(cands))
	for i, c := range cands {
		go func() { // owner: race; ends with ctx, its result is always taken
			wait := time.NewTimer(time.Duration(i) * stagger)
			defer wait.Stop()
			select {
			case <-wait.C:
				var ws *websocket.Conn
				contain.Run(s.log, func() (err error) { ws, err = s.open(ctx, c); return err }, func(err error) { results <- result{ws, c, err} })
			case <-ctx.Done():
				results <- result{nil, c, context.Cause(ctx)}
			}
		}()
	}
	var won *result
	var errs []error
	for range cands {
		r := <-results
		switch {
		case r.err != nil && won == nil:
			errs = append(errs, fmt.Errorf("%s: %w", r.c.url, r.err))
		case r.err != nil:
		case won == nil:
			won = &r
			cancel() // the others give up
		default:
			_ = r.ws.Close() // too late
		}
	}
	if won == nil {
		return nil, candidate{}, errors.Join(errs...)
	}
	return won.ws, won.c, nil
}

// open dials and upgrades one candidate.
func (s *Server) open(ctx context.Context, c candidate) (*websocket.Conn, error) {
	d := websocket.Dialer{
		NetDialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
			conn, err := s.opts.DialContext(ctx, network, c.addr)
			if err != nil {
				return nil, err
			}
			return session.Cork(conn), nil
		},
		HandshakeTimeout: upgradeTimeout,
		ReadBufferSize:   1 << 10, // idle players are many; frames are small
	}
	// The zone of a link-local address means something here only, and is not
	// legal in a Host header.
	host, port, _ := net.SplitHostPort(c.addr)
	host, _, _ = strings.Cut(host, "%")
	ws, answer, err := dial.WebSocket(ctx, d, "ws://"+net.JoinHostPort(host, port)+c.path)
	if answer != "" {
		err = fmt.Errorf("not a Sendspin speaker? the answer was %q: %w", answer, err)
	}
	return ws, err
}

// ServeHTTP accepts clients that dial us, on Options.Path and, for old clients,
// /resonate. It returns when the client has said hello or was refused.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.URL.Path != s.opts.Path && r.URL.Path != "/resonate" {
		http.Error(w, fmt.Sprintf("Sendspin clients connect to %s (or /resonate) by WebSocket.", s.opts.Path), http.StatusNotFound)
		return
	}
	up := websocket.Upgrader{
		HandshakeTimeout: upgradeTimeout,
		ReadBufferSize:   1 << 10,
		CheckOrigin:      func(r *http.Request) bool { return localOrigin(r) },
	}
	ws, err := up.Upgrade(session.CorkUpgrade(w), r, nil)
	if err != nil {
		s.log.Info("not a websocket request", slog.String("from", r.RemoteAddr), slog.Any("err", err))
		return
	}
	ctx, done, ok := s.waiting.enter(r.Context(), ws)
	if !ok { // shutting down
		_ = ws.Close()
		return
	}
	defer done()
	l, err := s.greet(ctx, ws, r.URL.Path, "", protocol.ReasonDiscovery)
	if err != nil {
		s.log.Warn("inbound connection refused", slog.String("from", r.RemoteAddr), slog.Any("err", err))
		return
	}
	if _, err := s.conns.Adopt(l); err != nil {
		l.Kill(err)
		s.log.Info("inbound connection not kept", slog.String("from", r.RemoteAddr), slog.String("player", l.ID()), slog.Any("err", err))
	}
}

// localOrigin lets browsers in whose page comes from this host or from the
// local network. Any other page on the internet could otherwise make a
// visitor's browser join the house as a speaker and a remote control.
func localOrigin(r *http.Request) bool {
	origin := r.Header.Get("Origin")
	if origin == "" { // not a browser
		return true
	}
	u, err := url.Parse(origin)
	if err != nil {
		return false
	}
	host := strings.ToLower(u.Hostname())
	own, _, err := net.SplitHostPort(r.Host)
	if err != nil {
		own = r.Host
	}
	if host == strings.ToLower(strings.Trim(own, "[]")) || host == "localhost" ||
		strings.HasSuffix(host, ".local") || strings.HasSuffix(host, ".lan") || strings.HasSuffix(host, ".home.arpa") {
		return true
	}
	ip, err := netip.ParseAddr(host)
	return err == nil && (ip.IsPrivate() || ip.IsLoopback() || ip.IsLinkLocalUnicast())
}

// maxProvisional is how many sockets may wait for their hello (design: 4.5).
const (
	maxProvisional = 1024
	provisionalAge = 2 * time.Second
)

// provisional keeps the inbound sockets that have not said hello. When it is
// full the oldest goes, if it was silent for over 2 s; else the newcomer.
type provisional struct {
	mu     sync.Mutex
	next   uint64
	open   map[uint64]waiter
	closed bool
	wg     sync.WaitGroup
}

type waiter struct {
	since  time.Time
	cancel context.CancelCauseFunc
}

var errProvisional = errors.New("too many connections wait for their hello")

// enter registers ws; done must be called when it has said hello or was closed.
func (p *provisional) enter(ctx context.Context, ws *websocket.Conn) (_ context.Context, done func(), ok bool) {
	ctx, cancel := context.WithCancelCause(context.WithoutCancel(ctx))
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		cancel(ErrClosed)
		return nil, nil, false
	}
	if len(p.open) >= maxProvisional && !p.evictLocked() {
		cancel(errProvisional)
		_ = ws.SetReadDeadline(time.Now()) // Greet fails at once
	}
	if p.open == nil {
		p.open = make(map[uint64]waiter)
	}
	p.next++
	id := p.next
	p.open[id] = waiter{since: time.Now(), cancel: cancel}
	p.wg.Add(1)
	return ctx, func() {
		p.mu.Lock()
		delete(p.open, id)
		p.mu.Unlock()
		cancel(nil)
		p.wg.Done()
	}, true
}

// evictLocked cancels the oldest waiter if it is old enough.
func (p *provisional) evictLocked() bool {
	var oldest uint64
	for id := range p.open {
		if oldest == 0 || cmp.Less(id, oldest) {
			oldest = id
		}
	}
	w, ok := p.open[oldest]
	if !ok || time.Since(w.since) <= provisionalAge {
		return false
	}
	delete(p.open, oldest)
	w.cancel(errProvisional)
	return true
}

func (p *provisional) closeAll() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.closed = true
	for _, w := range p.open {
		w.cancel(ErrClosed)
	}
}

// wait returns when no handler is left.
func (p *provisional) wait() { p.wg.Wait() }
