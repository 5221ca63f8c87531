package mqtt

import (
	"bytes"
	"cmp"
	"container/heap"
	"maps"
	"slices"
	"time"

	"golang.org/x/time/rate"
)

// Class says what a retained message is. It decides the order of a replay, the
// pace and the QoS.
type Class uint8

// The classes, in the order in which they are sent.
const (
	ClassBridgeDiscovery Class = iota // discovery document of the bridge itself
	ClassDiscovery                    // discovery document of a device
	ClassAvailability                 // "online" or "offline" of a device
	ClassState                        // everything else that must arrive
	ClassTelemetry                    // position, health: may be lost, the next one comes soon
	classes
)

func (c Class) isDiscovery() bool { return c <= ClassDiscovery }

// qos is 1 for all that Home Assistant builds on, 0 for telemetry.
func (c Class) qos() byte {
	if c == ClassTelemetry {
		return 0
	}
	return 1
}

// bigPayload is the size in bytes from which a message is suspected when a
// connection ends while it is on its way; brokers' limits start well above it.
const bigPayload = 16 << 10

// maxStrikes is how many connections in a row may end with the same message on
// its way before it is set aside.
const maxStrikes = 3

// pace holds the times of the wanted set. The zero value of a field is 0; see
// defaultTiming for the values in use.
type pace struct {
	discoveryGap   time.Duration // at least, between two messages on one discovery topic
	discoveryAgain time.Duration // after a changed document went out, it is sent once more
	removeGap      time.Duration // from the end of a discovery document to the end of states
	birthGap       time.Duration // from discovery to availability and states
	birthJitter    func() time.Duration
	refresh        time.Duration // everything again, for brokers that let retained messages expire
	ackRetry       time.Duration // a message that was not acknowledged is sent again after it
	rate           rate.Limit    // discovery documents per second, after a burst
	burst          int
}

// entry is one wanted retained message.
type entry struct {
	topic   string
	payload []byte // never modified once stored; empty: to be removed from the broker
	class   Class
	seq     uint64 // order of first appearance, kept by replays
	rev     uint64 // counts the changes of payload

	dirty     bool      // the broker may not have payload
	queued    bool      // in ready
	waiting   bool      // an alarm will queue it
	flying    bool      // handed over, not yet acknowledged
	notBefore time.Time // not handed over earlier
	changed   bool      // the next hand-over carries news
	strikes   int       // connections that ended while it was flying
	aside     bool      // not sent until it changes
}

func (e *entry) removed() bool { return len(e.payload) == 0 }

// qos is that of its class, but a removal has to be confirmed: nothing would
// ever take away what a dying connection swallowed.
func (e *entry) qos() byte {
	if e.removed() {
		return 1
	}
	return e.class.qos()
}

// grave reports whether e is a discovery document on its way out.
func (e *entry) grave() bool { return e.class.isDiscovery() && e.removed() }

// birthPhase is where the replay for a reborn Home Assistant stands.
type birthPhase uint8

const (
	birthNone      birthPhase = iota
	birthJitter               // nothing sent yet: another birth is covered
	birthDiscovery            // discovery is out or on its way
)

// set is the wanted retained set: what the broker should hold, what it lacks,
// and when each message may go. It does no I/O, starts nothing and takes the
// time as an argument; its owner guards it.
//
//	put ──► dirty ──► (waiting) ──► queued ──► flying ──► acked
//	          ▲───── changed meanwhile ───────────┘
type set struct {
	pace    pace
	entries map[string]*entry
	seq     uint64
	live    bool // connected: dirty entries are queued
	ready   [classes][]*entry
	alarms  alarms
	limit   *rate.Limiter

	held map[string]time.Time // notBefore of removed discovery documents

	graves    int       // discovery documents being removed, not yet acknowledged
	lastGrave time.Time // when the last of them was acknowledged

	birth      birthPhase
	birthAgain bool
}

func newSet(p pace) *set {
	return &set{pace: p, entries: make(map[string]*entry), held: make(map[string]time.Time), limit: rate.NewLimiter(p.rate, p.burst)}
}

// put makes payload the wanted message of topic, and reports whether that is
// news. An empty payload removes the topic from the broker and then from the set.
func (s *set) put(topic string, payload []byte, class Class, now time.Time) bool {
	e := s.entries[topic]
	if e == nil {
		s.seq++
		e = &entry{topic: topic, seq: s.seq, notBefore: s.held[topic]}
		s.entries[topic] = e
	} else {
		if e.class == class && bytes.Equal(e.payload, payload) {
			return false
		}
		s.graves -= count(e.grave())
	}
	e.payload, e.class = bytes.Clone(payload), class
	s.graves += count(e.grave())
	e.rev++
	e.dirty, e.changed = true, true
	e.strikes, e.aside = 0, false
	if !class.isDiscovery() {
		e.notBefore = time.Time{}
		if e.removed() {
			e.notBefore = now.Add(s.pace.removeGap)
		}
	}
	s.enqueue(e, now)
	return true
}

func count(is bool) int {
	if is {
		return 1
	}
	return 0
}

// due is when e may be handed over. A state's end waits for the end of the
// discovery documents, else Home Assistant logs template errors on the empty
// state; the two are not tied to each other because the wait costs nothing.
func (s *set) due(e *entry, now time.Time) time.Time {
	at := e.notBefore
	if e.removed() && !e.class.isDiscovery() {
		after := s.lastGrave
		if s.graves > 0 {
			after = now
		}
		if after = after.Add(s.pace.removeGap); after.After(at) {
			at = after
		}
	}
	return at
}

// enqueue brings a dirty entry on its way: into ready, or to wait for its time.
func (s *set) enqueue(e *entry, now time.Time) {
	if !s.live || !e.dirty || e.queued || e.flying || e.aside || s.wait(e, now) {
		return
	}
	e.queued = true
	s.ready[e.class] = append(s.ready[e.class], e)
}

// wait reports whether e is not due, and then sees to it that it is looked at
// again when it is.
func (s *set) wait(e *entry, now time.Time) bool {
	at := s.due(e, now)
	if !now.Before(at) {
		return false
	}
	if !e.waiting {
		e.waiting = true
		s.alarm(alarm{at: at, kind: alarmDue, e: e})
	}
	return true
}

// next hands over one message, or nil and when to ask again; the zero time
// means not before something else happens.
func (s *set) next(now time.Time) (*entry, time.Time) {
	for len(s.alarms) > 0 && !s.alarms[0].at.After(now) {
		s.ring(heap.Pop(&s.alarms).(alarm), now)
	}
	var again time.Time
	if len(s.alarms) > 0 {
		again = s.alarms[0].at
	}
	for class := range s.ready {
		for len(s.ready[class]) > 0 {
			e := s.ready[class][0]
			paced := Class(class).isDiscovery()
			if paced && !s.limit.AllowN(now, 1) {
				missing := 1 - s.limit.TokensAt(now)
				again = earlier(again, now.Add(time.Duration(missing/float64(s.pace.rate)*float64(time.Second))+time.Microsecond))
				break
			}
			s.ready[class][0] = nil
			s.ready[class] = s.ready[class][1:]
			e.queued = false
			if s.wait(e, now) { // it became a removal while it was queued
				again = earlier(again, s.alarms[0].at)
				continue
			}
			s.handOver(e, now)
			return e, time.Time{}
		}
	}
	return nil, again
}

func earlier(a, b time.Time) time.Time {
	if a.IsZero() || b.Before(a) {
		return b
	}
	return a
}

func (s *set) handOver(e *entry, now time.Time) {
	e.dirty, e.flying = false, true
	if !e.class.isDiscovery() {
		return
	}
	// While Home Assistant works through a device's document, a second one for
	// the same device can be lost in part (core mqtt/discovery.py returns out of
	// its loop over the components): keep a distance, and say the last word twice.
	e.notBefore = now.Add(s.pace.discoveryGap)
	if e.changed && !e.removed() {
		s.alarm(alarm{at: now.Add(s.pace.discoveryAgain), kind: alarmAgain, e: e, rev: e.rev})
	}
	e.changed = false
}

// acked ends a hand-over. When ok is false the broker did not confirm: the
// message goes out again after a while.
func (s *set) acked(e *entry, ok bool, now time.Time) {
	if !e.flying {
		return
	}
	e.flying = false
	switch {
	case !ok:
		e.dirty = true
		e.notBefore = now.Add(s.pace.ackRetry)
	case e.dirty: // changed meanwhile
		e.strikes = 0
	default:
		e.strikes = 0
		if e.removed() {
			if e.grave() {
				s.graves--
				s.lastGrave = now
				maps.DeleteFunc(s.held, func(_ string, at time.Time) bool { return !at.After(now) })
				s.held[e.topic] = e.notBefore
			}
			delete(s.entries, e.topic)
		}
	}
	s.enqueue(e, now)
}

// giveBack undoes a hand-over that could not be done.
func (s *set) giveBack(e *entry, now time.Time) {
	e.flying, e.dirty = false, true
	if e.class.isDiscovery() {
		e.changed, e.notBefore = true, time.Time{}
	}
	s.enqueue(e, now)
}

// connected makes everything dirty, since the broker may have forgotten all of
// it, and queues it in the order of first appearance.
func (s *set) connected(now time.Time) {
	s.live = true
	for _, e := range s.sorted() {
		// What an old connection did not confirm need not wait on a new one, but
		// Home Assistant may still be at work on a document.
		if latest := now.Add(s.pace.discoveryGap); !e.class.isDiscovery() {
			e.notBefore = time.Time{}
		} else if e.notBefore.After(latest) {
			e.notBefore = latest
		}
		e.dirty = true
		s.enqueue(e, now)
	}
	if s.pace.refresh > 0 {
		s.alarm(alarm{at: now.Add(s.pace.refresh), kind: alarmRefresh})
	}
}

// disconnected forgets what was on its way. It returns the topic of a message
// that was set aside because connection after connection ended with it, if any:
// paho and brokers agree on cutting the connection over a message that is too
// large, and sending it again would cut the next one.
func (s *set) disconnected() (aside string, size int) {
	s.live = false
	s.alarms = nil
	s.ready = [classes][]*entry{}
	s.birth, s.birthAgain = birthNone, false
	var big *entry
	for _, e := range s.entries {
		if e.flying && len(e.payload) >= bigPayload && (big == nil || len(e.payload) > len(big.payload)) {
			big = e
		}
		e.dirty = e.dirty || e.flying
		e.flying, e.queued, e.waiting = false, false, false
	}
	if big == nil {
		return "", 0
	}
	if big.strikes++; big.strikes < maxStrikes {
		return "", 0
	}
	big.aside = true
	return big.topic, len(big.payload)
}

// asides lists the topics that are set aside.
func (s *set) asides() []string {
	var topics []string
	for _, e := range s.sorted() {
		if e.aside {
			topics = append(topics, e.topic)
		}
	}
	return topics
}

// reborn answers a birth message of Home Assistant: after a random delay all
// discovery again, then availability and states. A birth during a replay makes
// one more replay, however many come.
func (s *set) reborn(now time.Time) {
	switch {
	case !s.live: // the next connection replays everything
	case s.birth == birthNone:
		s.birth = birthJitter
		s.alarm(alarm{at: now.Add(s.pace.birthJitter()), kind: alarmBirth})
	case s.birth == birthDiscovery:
		s.birthAgain = true
	}
}

// renew makes entries of the wanted kind dirty again. Removals are left alone:
// they are under way already. It returns how many, and when the last may go.
func (s *set) renew(discovery bool, now time.Time) (n int, last time.Time) {
	last = now
	for _, e := range s.sorted() {
		if e.class.isDiscovery() != discovery || e.removed() {
			continue
		}
		n++
		if e.notBefore.After(last) {
			last = e.notBefore
		}
		e.dirty = true
		s.enqueue(e, now)
	}
	return n, last
}

func (s *set) sorted() []*entry {
	return slices.SortedFunc(maps.Values(s.entries), func(a, b *entry) int { return cmp.Compare(a.seq, b.seq) })
}

// alarm is something that the set has to do later.
type alarm struct {
	at   time.Time
	kind alarmKind
	e    *entry
	rev  uint64
}

type alarmKind uint8

const (
	alarmDue         alarmKind = iota // e may be handed over now
	alarmAgain                        // e is sent once more, if it is still revision rev
	alarmBirth                        // the jitter after a birth is over
	alarmBirthStates                  // availability and states after a birth
	alarmRefresh                      // everything again
)

func (s *set) alarm(a alarm) { heap.Push(&s.alarms, a) }

func (s *set) ring(a alarm, now time.Time) {
	switch a.kind {
	case alarmDue:
		a.e.waiting = false
		s.enqueue(a.e, now)
	case alarmAgain:
		if a.e.rev == a.rev {
			a.e.dirty = true
			s.enqueue(a.e, now)
		}
	case alarmBirth:
		s.birth = birthDiscovery
		n, last := s.renew(true, now)
		paced := time.Duration(float64(max(0, n-s.pace.burst)) / float64(s.pace.rate) * float64(time.Second))
		s.alarm(alarm{at: last.Add(paced + s.pace.birthGap), kind: alarmBirthStates})
	case alarmBirthStates:
		s.renew(false, now)
		again := s.birthAgain
		s.birth, s.birthAgain = birthNone, false
		if again {
			s.reborn(now)
		}
	case alarmRefresh:
		s.reborn(now)
		s.alarm(alarm{at: now.Add(s.pace.refresh), kind: alarmRefresh})
	}
}

// alarms is a heap, the earliest first.
type alarms []alarm

func (a alarms) Len() int           { return len(a) }
func (a alarms) Less(i, j int) bool { return a[i].at.Before(a[j].at) }
func (a alarms) Swap(i, j int)      { a[i], a[j] = a[j], a[i] }
func (a *alarms) Push(x any)        { *a = append(*a, x.(alarm)) }
func (a *alarms) Pop() any {
	old := *a
	x := old[len(old)-1]
	old[len(old)-1] = alarm{}
	*a = old[:len(old)-1]
	return x
}
