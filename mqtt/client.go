package mqtt

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	mrand "math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

const (
	inboxSize  = 1024 // received messages that wait for the reader
	outboxSize = 1024 // events that wait for the connection
	window     = 256  // messages handed over and not yet acknowledged
)

// flapping is how many connections in a row that end early make it a problem.
const flapping = 3

// defaultTiming is what New uses (choice: the references of the bridge's MQTT
// design; keep-alive and connect timeouts as usual for home brokers).
func defaultTiming() timing {
	return timing{
		connect:   10 * time.Second,
		write:     10 * time.Second,
		handOver:  500 * time.Millisecond,
		keepAlive: 30 * time.Second,
		ping:      10 * time.Second,
		ack:       15 * time.Second,
		selftest:  5 * time.Second,
		goodbye:   2 * time.Second,
		answer:    3 * time.Second,
		ask:       5 * time.Second,
		silence:   15 * time.Second,
		retryMin:  time.Second,
		retryMax:  30 * time.Second,
		steady:    10 * time.Second,
		pace: pace{
			discoveryGap:   3 * time.Second,
			discoveryAgain: 10 * time.Second,
			removeGap:      2 * time.Second,
			birthGap:       2 * time.Second,
			birthJitter:    func() time.Duration { return mrand.N(2 * time.Second) },
			refresh:        12 * time.Hour,
			ackRetry:       30 * time.Second,
			rate:           50,
			burst:          256,
		},
	}
}

// Status is a snapshot of a Client.
type Status struct {
	Connected  bool
	Since      time.Time // when Connected last changed
	Generation uint64    // connections so far, this one included
	Drops      uint64    // messages lost so far: received and not read in time, events while offline, refused
	Problem    string    // what is wrong and what to do, for people; "" if nothing
	HeldBy     string    // who holds Options.LeaseTopic, so that nothing is published from here; "": not another client
}

// Client keeps the wanted retained messages true at a broker. Its methods never
// wait for the broker and may be called before, while and after Run runs.
type Client struct {
	broker *broker
	log    *slog.Logger
	tm     timing

	running atomic.Bool
	in      chan Message
	wake    chan struct{} // cap 1: something to send
	changed chan struct{} // cap 1: Status changed
	status  atomic.Pointer[Status]
	drops   atomic.Uint64

	instance string // random: tells our lease from others'

	mu     sync.Mutex // guards what follows; never held across I/O
	set    *set
	events []event // bounded by outboxSize; empty while offline
	online bool    // subscriptions stand and Online is published
}

type event struct {
	topic   string
	payload []byte
	qos     byte
}

// New checks the options. It starts nothing and does not connect.
func New(o Options) (*Client, error) { return newClient(o, defaultTiming()) }

func newClient(o Options, tm timing) (*Client, error) {
	b, err := newBroker(o)
	if err != nil {
		return nil, err
	}
	c := &Client{
		broker:  b,
		log:     b.Log,
		tm:      tm,
		in:      make(chan Message, inboxSize),
		wake:    make(chan struct{}, 1),
		changed: make(chan struct{}, 1),
		set:     newSet(tm.pace),

		instance: rand.Text(),
	}
	c.status.Store(&Status{Since: time.Now(), Problem: "not connected yet to " + b.name()})
	return c, nil
}

// Set makes payload the retained message of topic: now if connected, else after
// the next connect, and again after each. An unchanged payload is not sent. When
// the broker is slow only the newest payload goes. An empty payload removes the
// message from the broker; that is remembered until the broker confirmed it, and
// the removal of a state waits until 2 s after the last removal of a discovery
// document. The payload is copied.
//
// A topic that can't be published to, or a payload larger than
// Options.MaxPayload, is refused: logged and counted, the broker would cut the
// connection over it.
func (c *Client) Set(topic string, payload []byte, class Class) {
	if !c.allow(topic, payload) {
		return
	}
	if class >= classes {
		class = ClassState
	}
	c.mu.Lock()
	news := c.set.put(topic, payload, class, time.Now())
	c.mu.Unlock()
	if news {
		nudge(c.wake)
	}
}

// Publish sends a message that is not retained: an event, a result. It reports
// whether the message was taken; while offline and when 1,024 wait already it is
// dropped and counted. The messages keep their order. The payload must not be
// modified afterwards.
func (c *Client) Publish(topic string, payload []byte, qos byte) bool {
	if !c.allow(topic, payload) {
		return false
	}
	c.mu.Lock()
	taken := c.online && len(c.events) < outboxSize
	if taken {
		c.events = append(c.events, event{topic, payload, min(qos, 1)})
	}
	c.mu.Unlock()
	if !taken {
		c.dropped("event dropped", slog.String("topic", topic))
		return false
	}
	nudge(c.wake)
	return true
}

// Birth sends everything again because Home Assistant announced itself: within
// 2 s the discovery documents, 2 s later availability and states.
func (c *Client) Birth() {
	c.mu.Lock()
	c.set.reborn(time.Now())
	c.mu.Unlock()
	nudge(c.wake)
}

// Messages delivers what arrives for Options.Subscriptions, in the broker's
// order. It holds 1,024; what arrives while it is full is dropped and counted.
// It is never closed.
func (c *Client) Messages() <-chan Message { return c.in }

// Status returns the newest snapshot.
func (c *Client) Status() Status {
	s := *c.status.Load()
	s.Drops = c.drops.Load()
	return s
}

// Changed wakes one reader after Status changed in anything but Drops.
func (c *Client) Changed() <-chan struct{} { return c.changed }

// allow refuses what would make the broker cut the connection.
func (c *Client) allow(topic string, payload []byte) bool {
	err := checkTopic(topic)
	if err == nil && len(payload) > c.broker.MaxPayload {
		err = fmt.Errorf("mqtt: payload of %d bytes, at most %d", len(payload), c.broker.MaxPayload)
	}
	if err != nil {
		c.dropped("message refused", slog.String("topic", cut(topic)), slog.Any("err", err))
	}
	return err == nil
}

// dropped counts a lost message and logs the first, second, fourth, eighth ...
// Before the first connection it is no news: every start has events that nobody
// can hear yet.
func (c *Client) dropped(msg string, attrs ...slog.Attr) {
	if n := c.drops.Add(1); n&(n-1) == 0 {
		level := slog.LevelWarn
		if c.status.Load().Generation == 0 {
			level = slog.LevelDebug
		}
		attrs = append(attrs, slog.String("why", msg), slog.Uint64("drops", n))
		c.log.LogAttrs(context.Background(), level, "message lost", attrs...)
	}
}

func nudge(slot chan<- struct{}) {
	select {
	case slot <- struct{}{}:
	default:
	}
}

// Run connects, and connects again whenever the connection is lost, until ctx
// ends. Then it sends what is still to be sent, publishes the will itself, as a
// DISCONNECT keeps the broker from doing so, waits up to 2 s for that and
// disconnects. It returns nil; an error means that it was called while it ran.
func (c *Client) Run(ctx context.Context) error {
	if !c.running.CompareAndSwap(false, true) {
		return errors.New("mqtt: Run is running already")
	}
	defer c.running.Store(false)
	var (
		retry = c.tm.retryMin
		early int // connections in a row that ended before tm.steady
		gen   = c.Status().Generation

		problem string // that early is too high
	)
	for standing := false; ; { // by, since another client holds the lease
		var err error
		if standing {
			err = c.standBy(ctx)
		} else {
			s := newSession(c, gen+1, problem)
			if err = s.connect(ctx); err == nil {
				gen++
				start := time.Now()
				err = s.run(ctx)
				if time.Since(start) < c.tm.steady {
					early++
				} else {
					early, retry = 0, c.tm.retryMin
				}
			}
		}
		if ctx.Err() != nil {
			c.tell(func(s *Status) { s.Connected, s.Problem, s.HeldBy = false, "", "" })
			return nil
		}
		var held *heldError
		switch {
		case errors.As(err, &held):
			c.log.Warn("another client publishes here, this one stands by", slog.String("holder", held.by.String()),
				slog.String("topic", c.broker.LeaseTopic), slog.Uint64("gen", gen))
			c.held(held.by)
			standing, early, retry, problem = true, 0, c.tm.retryMin, ""
			continue
		case standing && err == nil:
			c.log.Info("the other client is gone, taking over", slog.String("topic", c.broker.LeaseTopic))
			standing = false
			continue
		}
		problem = ""
		if early >= flapping {
			problem = fmt.Sprintf("the last %d connections ended within %v: does another client use the client id %q, "+
				"or does the broker cut us for what we publish (see its log)?", early, c.tm.steady, c.broker.ClientID)
		}
		c.tell(func(s *Status) { s.Connected, s.Generation, s.Problem = false, gen, join(err.Error(), problem) })
		c.log.Warn("broker not connected, will try again", slog.Uint64("gen", gen),
			slog.Duration("retry", retry), slog.Any("err", err), slog.String("problem", problem))
		select {
		case <-ctx.Done():
		case <-time.After(retry/2 + mrand.N(retry/2+1)):
		}
		retry = min(2*retry, c.tm.retryMax)
	}
}

// join makes one text of several, leaving the empty ones out.
func join(texts ...string) string {
	texts = slices.DeleteFunc(texts, func(s string) bool { return s == "" })
	return strings.Join(texts, "; ")
}

// tell publishes a new Status. Only Run's goroutine calls it.
func (c *Client) tell(change func(*Status)) {
	old := *c.status.Load()
	s := old
	change(&s)
	if s.Connected != old.Connected {
		s.Since = time.Now()
	}
	if s != old {
		c.status.Store(&s)
		nudge(c.changed)
	}
}
