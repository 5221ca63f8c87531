package session

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"resonatebridge/resonate/internal/dialect"
	"resonatebridge/resonate/internal/noise"
	"resonatebridge/resonate/protocol"

	"github.com/gorilla/websocket"
)

// read is the reader goroutine.
func (s *Session) read() error {
	s.ws.SetReadLimit(messageLimit)
	if s.sealed != nil {
		s.ws.SetReadLimit(noise.MaxFrame)
	}
	extend := func() error { return s.ws.SetReadDeadline(time.Now().Add(s.opts.DeadAfter)) }
	s.ws.SetPongHandler(func(data string) error {
		if id, err := strconv.ParseUint(data, 10, 64); err == nil {
			select {
			case <-s.ponged: // an older one that nobody asked for
			default:
			}
			s.ponged <- id // the reader alone sends: there is room
		}
		return extend()
	})
	r := reader{Session: s, waiting: s.needsState()}
	if !r.waiting { // asked once: from here on it may be live, and its roles may change
		close(s.ready)
	}
	var buf bytes.Buffer // reused: ReadMessage would allocate one per frame
	for {
		if err := extend(); err != nil {
			return err
		}
		kind, body, err := s.ws.NextReader()
		received := s.opts.Clock.Now() // as early as the frame is known to be there
		if err != nil {
			return readError(err, s.opts.DeadAfter)
		}
		nudge(s.heard)
		buf.Reset()
		if _, err := buf.ReadFrom(body); err != nil {
			return readError(err, s.opts.DeadAfter)
		}
		frame := dialect.Frame{Binary: kind == websocket.BinaryMessage, Data: buf.Bytes()}
		if s.sealed != nil {
			message, err := s.unsealed(frame.Binary, frame.Data)
			if err != nil {
				return err
			}
			if message == nil {
				continue
			}
			frame = dialect.FrameOf(message)
		}
		if err := r.frame(frame, received); err != nil {
			return err
		}
	}
}

// needsState reports whether the client owes a client/state before it is live.
func (s *Session) needsState() bool { return s.HasRole(protocol.RolePlayer) }

func readError(err error, deadAfter time.Duration) error {
	var timeout interface{ Timeout() bool }
	if errors.As(err, &timeout) && timeout.Timeout() { // gorilla's is not os.ErrDeadlineExceeded
		return fmt.Errorf("session: nothing heard for %v, the connection is dead: %w", deadAfter, err)
	}
	return fmt.Errorf("session: read: %w", err)
}

// reader is the state of the reader goroutine.
type reader struct {
	*Session
	waiting bool                     // for the first client/state
	early   []protocol.ClientMessage // came before the session was live
	bad     int                      // malformed messages in a row
	notes   int                      // deviations logged
}

// frame handles one complete frame, whose data is only valid during the call.
// The error ends the session.
func (r *reader) frame(f dialect.Frame, received micros) error {
	if !f.Binary && !utf8.Valid(f.Data) {
		return r.malformed(&protocol.DecodeError{Msg: "text frame", At: "encoding", Got: "invalid UTF-8", Want: "UTF-8"})
	}
	m, notes, err := r.wire.Decode(f)
	for _, n := range notes {
		if r.notes++; r.notes <= notesMax {
			r.log.Info("peer deviates from the protocol, accepted", slog.String("deviation", n))
		}
	}
	if bad := (*protocol.DecodeError)(nil); errors.As(err, &bad) && (strings.HasPrefix(bad.Msg, "client/pair-") || bad.Msg == "pair/abort") {
		return err // nobody may have a second try at these (spec: protocol errors in pairing)
	}
	if err != nil {
		return r.malformed(err)
	}
	r.bad = 0
	switch m := m.(type) {
	case nil:
		return nil
	case protocol.ClientTime:
		r.answer(timeRequest{transmitted: m.ClientTransmitted, received: received})
		return nil
	case protocol.ClientGoodbye:
		return &GoodbyeError{Reason: m.Reason}
	case protocol.ClientState:
		if r.waiting {
			r.waiting = false
			close(r.ready)
		}
	}
	return r.deliver(m)
}

// deliver hands m over, after everything that came before the session was live.
func (r *reader) deliver(m protocol.ClientMessage) error {
	if r.waiting {
		select {
		case <-r.opened: // it did not come in time; the session went live without it
		default:
			if len(r.early) == earlyMax {
				return fmt.Errorf("session: %d messages before the first client/state", earlyMax)
			}
			r.early = append(r.early, m)
			return nil
		}
	}
	select { // ready is closed: up comes next, and before any message
	case <-r.opened:
	case <-r.done:
		return ErrGone
	}
	r.delivered.Store(true)
	for _, e := range r.early {
		r.opts.Handle(r.Session, e)
	}
	r.early = nil
	r.opts.Handle(r.Session, m)
	return nil
}

// answer queues the answer to a client/time. A client that floods loses the
// surplus: it gets no answer, as with a lost packet.
func (r *reader) answer(t timeRequest) {
	select {
	case <-r.opened:
		r.delivered.Store(true)
	default:
	}
	select {
	case r.times <- t:
	default:
		if r.notes++; r.notes <= notesMax {
			r.log.Warn("client/time flood, request dropped", slog.Int("waiting", timeQueue))
		}
	}
}

// malformed costs the message; too many in a row cost the session.
func (r *reader) malformed(err error) error {
	r.opts.Malformed(err)
	r.bad++
	r.log.Warn("message dropped", slog.Any("err", err), slog.Int("in_a_row", r.bad))
	if r.bad >= malformedMax {
		return fmt.Errorf("%w: %d, the last one: %w", ErrMalformed, r.bad, err)
	}
	return nil
}
