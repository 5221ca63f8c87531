package mqtt

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"strings"
	"time"
)

// lease is the retained message on Options.LeaseTopic: who may publish. Nobody
// renews it unasked, so that a client that is alone is silent; whoever wants to
// know whether the holder lives asks, and the holder publishes it again. Its age
// is never compared with a clock: what counts is that no answer came for a time
// on one's own.
//
//	newcomer ─asks─► nobody holds it, or the holder is known to be offline ─► claims
//	            └──► held ─► no answer within tm.answer ────────────────────► claims
//	                    └──► answered: stands by, asks every tm.ask, without a
//	                         will; no answer for tm.silence ────────────────► newcomer
//	claims ─its claim came back─► holder, answers ─orderly end─► removes it
//
// Two may claim it at once, or a holder that was stopped for a while comes back to
// its successor. Then whoever hears of a smaller Instance gives way, and the other
// says again what it holds and all it has to say. That needs no order between
// what different clients hear, which some brokers do not keep.
type lease struct {
	Instance string    `json:"instance"`           // random, of one Client
	Holder   string    `json:"holder,omitempty"`   // for people
	Time     time.Time `json:"time,omitzero"`      // for people: two machines' clocks can't be compared
	Question bool      `json:"question,omitempty"` // not a lease but: is its holder there?
}

func (l lease) String() string {
	if l.Holder == "" {
		return "another client, " + l.Instance
	}
	return l.Holder
}

// heldError ends a session because another client holds the lease.
type heldError struct{ by lease }

func (e *heldError) Error() string { return "mqtt: the lease is held by " + e.by.String() }

// watches reports whether a message is about the lease: it is on its topic, or it
// says on the will's topic that its holder is gone.
func (b *broker) watches(topic string) bool {
	return b.LeaseTopic != "" && (topic == b.LeaseTopic || topic == b.Will.Topic)
}

// decode returns nil for what is none, such as the empty message that ends one.
func decode(m Message) *lease {
	var l lease
	if json.Unmarshal(m.Payload, &l) != nil || l.Instance == "" {
		return nil
	}
	l.Instance, l.Holder = plain(l.Instance), plain(l.Holder)
	return &l
}

// plain makes text of another client fit for logs and people.
func plain(s string) string { return cut(strings.ToValidUTF8(s, "?")) }

func (l lease) encode() []byte {
	data, _ := json.Marshal(l) // texts, a number, a time of this era: it can't fail
	return data
}

// say publishes our lease.
func (s *session) say() error {
	l := lease{Instance: s.instance, Holder: s.broker.Holder, Time: time.Now().UTC().Truncate(time.Second)}
	return s.send(flight{}, event{s.broker.LeaseTopic, l.encode(), 1}, true)
}

// hold makes this client the holder. Where an access list keeps it from that,
// it goes on without and tells about it. The error is a *heldError if it may not
// publish.
func (s *session) hold(ctx context.Context) error {
	topics := []string{s.broker.LeaseTopic}
	if will := s.broker.Will.Topic; will != "" {
		topics = append(topics, will)
	}
	refused, err := s.link.subscribe(ctx, 1, topics)
	switch {
	case err != nil:
		return err
	case len(refused) > 0:
		return s.unguarded()
	}
	question := lease{Instance: s.instance, Question: true}
	if err := s.send(flight{}, event{s.broker.LeaseTopic, question.encode(), 1}, false); err != nil {
		return s.link.why(err)
	}
	var (
		until   = time.Now().Add(s.tm.selftest)
		asked   bool // our question is back: what was retained came before it
		found   bool // another's is retained
		offline bool // and the broker says that whoever had it is gone
	)
	for !asked || found && !offline {
		m, err := s.listen(ctx, until)
		switch {
		case errors.Is(err, errSilence) && !asked:
			return s.unguarded()
		case errors.Is(err, errSilence):
			return s.claim(ctx) // nobody answered
		case err != nil:
			return err
		}
		l := decode(m)
		switch {
		case m.Topic == s.broker.Will.Topic:
			offline = bytes.Equal(m.Payload, s.broker.Will.Payload)
		case l == nil:
			found = false
		case l.Question:
			if l.Instance == s.instance {
				asked, until = true, time.Now().Add(s.tm.answer)
			}
		case l.Instance == s.instance:
			found = false
		case m.Retained:
			found = true
		default:
			return &heldError{*l}
		}
	}
	return s.claim(ctx)
}

// claim publishes our lease and waits until it is back.
func (s *session) claim(ctx context.Context) error {
	if err := s.say(); err != nil {
		return s.link.why(err)
	}
	until := time.Now().Add(s.tm.selftest)
	for {
		m, err := s.listen(ctx, until)
		if errors.Is(err, errSilence) {
			return s.unguarded()
		}
		if err != nil {
			return err
		}
		if l := decode(m); l != nil && l.Instance == s.instance && !l.Question && !m.Retained {
			s.holds = true
			return nil
		}
		if err := s.defend(m); err != nil {
			return err
		}
	}
}

// errSilence says that nothing was heard in time.
var errSilence = errors.New("mqtt: silence")

// listen returns the next message about the lease.
func (s *session) listen(ctx context.Context, until time.Time) (Message, error) {
	late := time.NewTimer(time.Until(until))
	defer late.Stop()
	select {
	case m := <-s.leases:
		return m, nil
	case <-late.C:
		return Message{}, errSilence
	case err := <-s.link.lost:
		return Message{}, s.link.ended(err)
	case <-ctx.Done():
		return Message{}, context.Cause(ctx)
	}
}

// unguarded goes on without a lease.
func (s *session) unguarded() error {
	s.log.Warn("the lease can't be used, so a second bridge would not be noticed; check the broker's ACL",
		slog.String("topic", s.broker.LeaseTopic), slog.Uint64("gen", s.gen))
	s.trouble.lease = fmt.Sprintf("what we publish on %s does not come back, so a second bridge would not be noticed: check the broker's ACL", s.broker.LeaseTopic)
	return nil
}

// duties are what the holder has to say again.
type duties struct {
	online bool      // that it is online
	lease  bool      // that it has the lease
	due    time.Time // not earlier; zero: nothing
	last   time.Time // when it did
}

// dutyEvery is the least time between two answers about the lease, so that nobody
// can make the holder talk without end.
const dutyEvery = 100 * time.Millisecond

// defend takes what concerns the lease that we have or claim. An error ends the
// session.
func (s *session) defend(m Message) error {
	d := &s.duties
	l := decode(m)
	switch {
	case m.Retained:
		return nil
	case m.Topic == s.broker.Will.Topic:
		if !bytes.Equal(m.Payload, s.broker.Will.Payload) {
			return nil
		}
		d.online = true // the will of an earlier connection, which the broker noticed late
	case l == nil, l.Question && l.Instance != s.instance:
		d.lease = true // somebody removed it, or asks
	case l.Instance == s.instance:
		return nil
	case l.Instance < s.instance:
		return &heldError{*l}
	default:
		s.log.Warn("another client claimed what this one holds", slog.Uint64("gen", s.gen), slog.String("payload", cut(string(m.Payload))))
		d.lease = true
		s.rivalBy = time.Now().Add(s.tm.answer)
	}
	d.due = d.last.Add(dutyEvery)
	return nil
}

// serve says what is due. Like a publish it may find the broker busy.
func (s *session) serve(now time.Time) error {
	d := &s.duties
	if d.due.IsZero() || now.Before(d.due) {
		return nil
	}
	if d.online {
		if err := s.send(flight{}, event{s.broker.Will.Topic, s.broker.Online, 1}, true); err != nil {
			return err
		}
		d.online = false
	}
	if d.lease {
		if err := s.say(); err != nil {
			return err
		}
		d.lease = false
	}
	d.due, d.last = time.Time{}, now
	return nil
}

// release lets the next one claim at once.
func (s *session) release() error {
	if !s.holds {
		return nil
	}
	return s.send(flight{}, event{s.broker.LeaseTopic, nil, 1}, true)
}

// standBy waits until the holder is gone, on a connection without a will. It
// returns nil then, and when ctx ends. After a broker's restart the holder has
// tm.silence to come back, too, since each connection begins to wait anew.
func (c *Client) standBy(ctx context.Context) error {
	topic := c.broker.LeaseTopic
	v, _, err := visitBroker(ctx, c.broker.Options, c.tm, 1, []string{topic}, "")
	if err != nil {
		return err
	}
	defer v.link.close()
	question := lease{Instance: c.instance, Question: true}.encode()
	heard := time.Now()
	again := time.NewTimer(rand.N(c.tm.ask)) // of several that stand by, one is first
	defer again.Stop()
	for time.Since(heard) < c.tm.silence {
		for waiting := true; waiting; {
			select {
			case <-v.news:
				messages, err := v.take()
				if err != nil {
					return err
				}
				for _, m := range messages {
					if l := decode(m); l != nil && !l.Question && !m.Retained {
						heard = time.Now()
						c.held(*l)
					}
				}
			case <-again.C:
				v.link.paho.Publish(topic, 1, false, question) // if it is lost, the next one is not
				again.Reset(c.tm.ask)
				waiting = false
			case err := <-v.link.lost:
				return v.link.ended(err)
			case <-ctx.Done():
				return nil
			}
		}
	}
	return nil
}

// held tells that another client holds the lease.
func (c *Client) held(by lease) {
	c.tell(func(s *Status) {
		s.Connected, s.HeldBy = false, by.String()
		s.Problem = fmt.Sprintf("%s publishes under this base topic already, so this one is read-only and publishes nothing: "+
			"stop one of the two, or give one of them another base topic (%s)", by, c.broker.LeaseTopic)
	})
}
