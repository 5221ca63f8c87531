package session

import (
	"log/slog"
	"sync"

	"resonatebridge/resonate/internal/dialect"
	"resonatebridge/resonate/protocol"
)

// queueOverhead is what a message that waits costs beside its bytes.
const queueOverhead = 64

// queue is what waits for the writer of one session. Its bytes are bounded, not
// its messages (X3): a peer that reads nothing must not cost the host's memory.
type queue struct {
	wake chan struct{} // one-slot: something waits

	mu       sync.Mutex // guards what follows and the encoding; never held across I/O
	level    protocol.ServerState
	messages []item
	bytes    int // of messages, with queueOverhead
	steps    int // of messages: activations and re-handshakes
}

// item is one thing that waits: frames, or a step of an encrypted session.
type item struct {
	frames     []dialect.Frame
	activation *protocol.ServerActivate
	rekey      *rekey
}

// isStep reports whether x is a step of an encrypted session. What is shown
// waits for those, since they say to which roles it may be.
func (x item) isStep() bool { return x.activation != nil || x.rekey != nil }

func (x item) size() int {
	n := queueOverhead
	for _, f := range x.frames {
		n += len(f.Data)
	}
	return n
}

// Send queues m for the peer. It never blocks. The error is nil, ErrGone, or
// ErrSlow, which also ends the session. A nil error does not mean arrival.
func (s *Session) Send(m protocol.ServerMessage) error {
	return s.push(func() item { return item{frames: s.encodeLocked(m)} })
}

// push queues what made makes, under the mutex; frames that are none are not.
func (s *Session) push(made func() item) error {
	select {
	case <-s.done:
		return ErrGone
	default:
	}
	q := &s.queue
	q.mu.Lock()
	x := made()
	size := x.size()
	full := q.bytes > 0 && q.bytes+size > s.opts.Queue
	if !full && (len(x.frames) > 0 || x.isStep()) {
		q.messages = append(q.messages, x)
		q.bytes += size
		if x.isStep() {
			q.steps++
		}
	}
	q.mu.Unlock()
	if full {
		s.fail(ErrSlow)
		return ErrSlow
	}
	nudge(q.wake)
	return nil
}

// Show tells the peer the parts of st that are not nil. They are levels: of
// what waits only the newest goes, so a slow peer skips states and costs no
// more than one of each. It never blocks; to a session that has ended it does
// nothing.
func (s *Session) Show(st protocol.ServerState) {
	q := &s.queue
	q.mu.Lock()
	if st.Group != nil {
		q.level.Group = st.Group
	}
	if st.Metadata != nil {
		q.level.Metadata = st.Metadata
	}
	if st.Controller != nil {
		q.level.Controller = st.Controller
	}
	if st.Color != nil {
		q.level.Color = st.Color
	}
	q.mu.Unlock()
	nudge(q.wake)
}

// next takes what is to be written next: the level, then the messages in order;
// steps before the level, and what is in front of them.
func (s *Session) next() item {
	q := &s.queue
	q.mu.Lock()
	defer q.mu.Unlock()
	var x item
	if q.steps == 0 && q.level != (protocol.ServerState{}) {
		x.frames = s.encodeLocked(s.permitted(q.level))
		q.level = protocol.ServerState{}
	}
	if len(x.frames) == 0 && len(q.messages) > 0 {
		x = q.messages[0]
		q.messages[0] = item{}
		q.messages = q.messages[1:]
		q.bytes -= x.size()
		if x.isStep() {
			q.steps--
		}
	}
	if len(q.messages) > 0 || q.level != (protocol.ServerState{}) {
		nudge(q.wake)
	}
	return x
}

// encodeLocked spells m for the peer; the wire remembers what was said, so it
// goes under the mutex.
func (s *Session) encodeLocked(m protocol.ServerMessage) []dialect.Frame {
	frames, err := s.wire.Encode(m)
	if err != nil {
		// Our own fault, never the peer's: say it and keep the connection.
		s.log.Error("message not sent", slog.Any("err", err))
	}
	return frames
}

func nudge(slot chan<- struct{}) {
	select {
	case slot <- struct{}{}:
	default:
	}
}
