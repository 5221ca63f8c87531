package mqtt

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	paho "github.com/eclipse/paho.mqtt.golang"
)

// session is a Client's work on one connection. Run's goroutine owns it; only
// handle runs elsewhere.
type session struct {
	*Client
	gen    uint64
	link   *link
	flight []flight // handed over, not yet acknowledged; oldest first

	nonce      []byte
	echo       chan struct{} // cap 1: the nonce came back
	selftestBy time.Time     // zero: no self-test, or done
	steadyAt   time.Time     // zero: steady
	trouble    trouble

	leases    chan Message // what concerns the lease
	holds     bool         // the lease
	rivalBy   time.Time    // another claimed it, too, and has given way by then; zero: no one
	duties    duties
	announced bool // Online is published, or on its way
}

// flight is a message between hand-over and acknowledgement. Brokers acknowledge
// in order (MQTT-4.6.0-2), so the oldest is waited for.
type flight struct {
	token paho.Token
	by    time.Time
	e     *entry // nil: not of the wanted set
	event bool   // from Publish
}

// errBusy says that the broker takes no bytes for the moment.
var errBusy = errors.New("mqtt: the broker takes no bytes")

// trouble is what is wrong with a connection that stands.
type trouble struct {
	flapping, refused, lease, selftest, acks, aside string
}

func newSession(c *Client, gen uint64, flapping string) *session {
	return &session{
		Client:  c,
		gen:     gen,
		nonce:   []byte(rand.Text()),
		echo:    make(chan struct{}, 1),
		trouble: trouble{flapping: flapping},
		leases:  make(chan Message, 64),
	}
}

func (s *session) connect(ctx context.Context) (err error) {
	s.link, err = s.broker.connect(ctx, s.broker.ClientID, s.tm, s.handle)
	return err
}

// handle takes a received message. It runs on the connection's reading
// goroutine and must not wait.
func (s *session) handle(m Message) {
	if s.broker.SelftestTopic != "" && m.Topic == s.broker.SelftestTopic {
		if bytes.Equal(m.Payload, s.nonce) {
			nudge(s.echo)
		}
		return
	}
	to := s.in
	if s.broker.watches(m.Topic) {
		to = s.leases
	}
	select {
	case to <- m:
	default:
		s.dropped("message received but not read in time", slog.String("topic", cut(m.Topic)))
	}
}

// run serves the connection until it is lost or ctx ends; then it says goodbye.
// It returns why the connection was lost.
func (s *session) run(ctx context.Context) error {
	var wg sync.WaitGroup
	ended := make(chan struct{})
	// Ends with run; cuts a connection that holds up the orderly end.
	wg.Go(func() { s.chaperon(ctx, ended) })
	defer wg.Wait()
	defer close(ended)

	err := s.begin(ctx)
	if err == nil {
		err = s.loop(ctx)
	}
	if ctx.Err() != nil && s.announced {
		s.goodbye()
	} else {
		s.link.close()
	}
	s.settle()
	return err
}

func (s *session) chaperon(ctx context.Context, ended <-chan struct{}) {
	select {
	case <-ended:
		return
	case <-ctx.Done():
	}
	late := time.NewTimer(s.tm.goodbye)
	defer late.Stop()
	select {
	case <-ended:
	case <-late.C:
		s.link.cut(errors.New("mqtt: the broker took too long for an orderly end"))
	}
}

// begin gets the lease, subscribes, starts the self-test, announces us and lets
// the wanted set go.
func (s *session) begin(ctx context.Context) error {
	if s.broker.LeaseTopic != "" {
		if err := s.hold(ctx); err != nil {
			return err
		}
	}
	filters := slices.Clone(s.broker.Subscriptions)
	test := s.broker.SelftestTopic
	if test != "" && !slices.Contains(filters, test) {
		filters = append(filters, test)
	}
	refused, err := s.link.subscribe(ctx, 1, filters)
	if err != nil {
		return err
	}
	if len(refused) > 0 {
		s.trouble.refused = fmt.Sprintf("the broker refused the subscription to %s: check the broker's ACL", strings.Join(refused, ", "))
		s.log.Error("subscription refused, check the broker's ACL", slog.Uint64("gen", s.gen), slog.Any("topic", refused))
	}
	now := time.Now()
	s.steadyAt = now.Add(s.tm.steady)
	if test != "" {
		s.selftestBy = now.Add(s.tm.selftest)
		if err := s.send(flight{}, event{test, s.nonce, 0}, false); err != nil {
			return s.link.why(err)
		}
	}
	s.announced = true
	if will := s.broker.Will.Topic; will != "" && len(s.broker.Online) > 0 {
		if err := s.send(flight{}, event{will, s.broker.Online, 1}, true); err != nil {
			return s.link.why(err)
		}
	}
	s.mu.Lock()
	s.online = true
	s.set.connected(now)
	aside := s.set.asides()
	s.mu.Unlock()
	if len(aside) > 0 {
		s.trouble.aside = fmt.Sprintf("not sent any more until it changes, because the broker ended connection after connection with it: %s: "+
			"check the broker's packet size limit", strings.Join(aside, ", "))
	}
	s.tell(func(st *Status) {
		st.Connected, st.Generation, st.Problem, st.HeldBy = true, s.gen, s.trouble.String(), ""
	})
	s.log.Info("broker connected", slog.String("broker", s.broker.name()), slog.Uint64("gen", s.gen))
	return nil
}

func (t trouble) String() string {
	return join(t.flapping, t.refused, t.lease, t.selftest, t.acks, t.aside)
}

// worry changes the trouble and tells about it.
func (s *session) worry(which *string, text string) {
	*which = text
	s.tell(func(st *Status) { st.Problem = s.trouble.String() })
}

func (s *session) loop(ctx context.Context) error {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		now := time.Now()
		if err := s.land(now); err != nil {
			return s.link.why(err)
		}
		s.inspect(now)
		if err := s.serve(now); err != nil && !errors.Is(err, errBusy) {
			return s.link.why(err)
		}
		next, err := s.fill(now)
		if err != nil {
			return s.link.why(err)
		}
		var done <-chan struct{}
		if len(s.flight) > 0 {
			done = s.flight[0].token.Done()
			next = earlier(next, s.flight[0].by)
		}
		for _, at := range []time.Time{s.selftestBy, s.steadyAt, s.rivalBy, s.duties.due} {
			if !at.IsZero() {
				next = earlier(next, at)
			}
		}
		timer.Stop()
		if !next.IsZero() {
			timer.Reset(time.Until(next))
		}
		select {
		case <-ctx.Done():
			return nil
		case err := <-s.link.lost:
			return s.link.ended(err)
		case <-s.echo:
			s.selftestBy = time.Time{}
			s.log.Debug("self-test passed", slog.Uint64("gen", s.gen))
			s.worry(&s.trouble.selftest, "") // it may be late
		case m := <-s.leases:
			if err := s.defend(m); err != nil {
				return err
			}
		case <-s.wake:
		case <-done:
		case <-timer.C:
		}
	}
}

// inspect looks at what should have happened by now.
func (s *session) inspect(now time.Time) {
	if !s.selftestBy.IsZero() && !now.Before(s.selftestBy) {
		s.selftestBy = time.Time{}
		s.log.Error("self-test failed, check the broker's ACL", slog.String("topic", s.broker.SelftestTopic),
			slog.String("user", s.broker.Username), slog.Uint64("gen", s.gen))
		s.worry(&s.trouble.selftest, fmt.Sprintf("what we publish on %s does not come back: check the broker's ACL", s.broker.SelftestTopic))
	}
	if !s.steadyAt.IsZero() && !now.Before(s.steadyAt) {
		s.steadyAt = time.Time{}
		s.worry(&s.trouble.flapping, "")
	}
	if !s.rivalBy.IsZero() && !now.Before(s.rivalBy) {
		s.rivalBy = time.Time{}
		s.mu.Lock()
		s.set.reborn(now) // the other may have published
		s.mu.Unlock()
	}
}

// fill hands messages over until none is due or the window is full, and returns
// when to look again.
func (s *session) fill(now time.Time) (again time.Time, err error) {
	for len(s.flight) < window {
		e, m, at, ok := s.take(now)
		if !ok {
			return at, nil
		}
		switch err := s.sendNext(e, m); {
		case errors.Is(err, errBusy):
			return now, nil
		case err != nil:
			return time.Time{}, err
		}
	}
	return time.Time{}, nil
}

// take picks what goes next, an event and a retained message in turns.
func (s *session) take(now time.Time) (e *entry, m event, again time.Time, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	afterEvent := len(s.flight) > 0 && s.flight[len(s.flight)-1].event
	if len(s.events) > 0 && !afterEvent {
		return nil, s.nextEvent(), time.Time{}, true
	}
	if e, again = s.set.next(now); e != nil {
		return e, event{e.topic, e.payload, e.qos()}, time.Time{}, true
	}
	if len(s.events) > 0 {
		return nil, s.nextEvent(), time.Time{}, true
	}
	return nil, event{}, again, false
}

// nextEvent needs s.mu.
func (s *session) nextEvent() event {
	m := s.events[0]
	s.events[0] = event{}
	s.events = s.events[1:]
	return m
}

// send hands a message to paho. It waits while the broker takes no bytes, up to
// tm.handOver, and nobody waits for it. errBusy means: not taken, try again.
func (s *session) send(f flight, m event, retained bool) error {
	begin := time.Now()
	f.token = s.link.paho.Publish(m.topic, m.qos, retained, m.payload)
	if isDone(f.token) && f.token.Error() != nil {
		// A publish that meets the connection's end waits for its timeout too, since
		// nobody reads paho's queue any more.
		if time.Since(begin) >= s.tm.handOver {
			return errBusy
		}
		return f.token.Error()
	}
	f.by = time.Now().Add(s.tm.ack)
	s.flight = append(s.flight, f)
	return nil
}

// sendNext sends what take returned; what is not taken stays first in line.
func (s *session) sendNext(e *entry, m event) error {
	err := s.send(flight{e: e, event: e == nil}, m, e != nil)
	if err == nil {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case e == nil:
		s.events = slices.Insert(s.events, 0, m)
	case errors.Is(err, errBusy):
		s.set.giveBack(e, time.Now())
	default: // still on its way when the link ended, so perhaps the reason
	}
	return err
}

// land takes the acknowledged messages out of flight, and those that waited too
// long. An error means that the link is of no use: paho gives none to a message
// that the broker refused, only to one that did not get there.
func (s *session) land(now time.Time) (err error) {
	n, late := 0, 0
	s.mu.Lock()
	for _, f := range s.flight {
		done := isDone(f.token)
		if done {
			err = f.token.Error()
		}
		if err != nil || !done && now.Before(f.by) {
			break
		}
		n++
		late += count(!done)
		if f.e != nil {
			s.set.acked(f.e, done, now)
		}
	}
	s.mu.Unlock()
	s.flight = slices.Delete(s.flight, 0, n)
	switch {
	case late > 0:
		s.log.Warn("messages not acknowledged by the broker", slog.Uint64("gen", s.gen), slog.Int("messages", late))
		s.worry(&s.trouble.acks, fmt.Sprintf("the broker does not acknowledge messages within %v: check its load and its log", s.tm.ack))
	case n > 0:
		s.worry(&s.trouble.acks, "")
	}
	return err
}

func isDone(t paho.Token) bool {
	select {
	case <-t.Done():
		return true
	default:
		return false
	}
}

// goodbye is the orderly end: what is due now, then the will's message, then
// DISCONNECT, without which the broker would publish the will. The chaperon
// bounds it.
func (s *session) goodbye() {
	s.mu.Lock()
	s.online = false // no more events
	s.mu.Unlock()
	now := time.Now()
	for {
		e, m, _, ok := s.take(now)
		if !ok {
			break
		}
		if s.sendNext(e, m) != nil {
			break
		}
	}
	var err error
	if will := s.broker.Will; will.Topic != "" {
		err = errBusy
		for errors.Is(err, errBusy) {
			err = s.send(flight{}, event{will.Topic, will.Payload, 1}, true)
		}
	}
	if err == nil {
		err = s.release() // after the last word: the next one begins with its first
	}
	for _, f := range s.flight {
		if !f.token.WaitTimeout(s.tm.goodbye) {
			err = context.DeadlineExceeded
		} else if f.token.Error() != nil {
			err = f.token.Error()
		}
		if err != nil {
			break
		}
	}
	if err != nil {
		s.log.Warn("not everything reached the broker before the end", slog.Uint64("gen", s.gen), slog.Any("err", err))
		s.link.cut(err) // no DISCONNECT: the broker shall publish the will
	}
	s.link.close()
}

// settle ends the books of this connection.
func (s *session) settle() {
	_ = s.land(time.Now()) // the reason is known already
	s.mu.Lock()
	s.online = false
	lost := len(s.events)
	s.events = nil
	topic, size := s.set.disconnected()
	s.mu.Unlock()
	for _, f := range s.flight {
		lost += count(f.event)
	}
	for range lost {
		s.dropped("event lost with the connection")
	}
	if topic != "" {
		s.log.Error("connection after connection ended with this message, it is not sent any more until it changes: check the broker's packet size limit",
			slog.String("topic", topic), slog.Int("bytes", size))
	}
}
