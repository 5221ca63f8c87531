package session

import (
	"fmt"
	"strconv"
	"time"

	"resonatebridge/resonate/internal/dialect"
	"resonatebridge/resonate/protocol"
	"resonatebridge/timesync"

	"github.com/gorilla/websocket"
)

type micros = timesync.Micros

// write is the writer goroutine: server/hello or server/activate first, then
// answers to client/time before anything else, then what is queued, then audio
// and what is seen.
func (s *Session) write(first protocol.ServerActivate) error {
	if err := s.begin(first); err != nil {
		return err
	}
	tick := time.NewTicker(s.opts.PingEvery)
	defer tick.Stop()
	var buf []byte // reused for answers to client/time
	for {
		var err error
		if s.wornOut() {
			again := protocol.ServerActivate{Activities: s.sealed.last.Activities}
			if err = s.rekey(rekey{credential: s.sealed.used, activation: again}); err != nil {
				return err
			}
		}
		select { // time answers age; they go first
		case t := <-s.times:
			if buf, err = s.time(buf, t); err != nil {
				return err
			}
			continue
		default:
		}
		select { // and commands before audio
		case <-s.queue.wake:
			if err = s.perform(s.next()); err != nil {
				return err
			}
			continue
		default:
		}
		select {
		case t := <-s.times:
			buf, err = s.time(buf, t)
		case <-s.queue.wake:
			err = s.perform(s.next())
		case x := <-s.streams.queue:
			err = s.steps(x)
		case x := <-s.visuals.queue:
			err = s.visual(x)
		case <-s.artwork.wake:
			err = s.picture()
		case <-s.pings:
			err = s.ping()
		case <-tick.C:
			err = s.ping()
		case <-s.done:
			s.farewell()
			return ErrGone
		}
		if err != nil {
			return err
		}
	}
}

// begin opens the session for the client.
func (s *Session) begin(first protocol.ServerActivate) error {
	if s.sealed != nil {
		return s.activate(first)
	}
	hello := s.opts.Hello(s.hello)
	hello.ActiveRoles = first.ActiveRoles
	return s.encode(hello)
}

// perform carries out what was queued.
func (s *Session) perform(x item) error {
	switch {
	case x.rekey != nil:
		return s.rekey(*x.rekey)
	case x.activation != nil:
		return s.activate(*x.activation)
	}
	return s.frames(x.frames)
}

// farewell says the close frame, within closeDeadline.
func (s *Session) farewell() {
	_ = s.ws.WriteControl(websocket.CloseMessage,
		websocket.FormatCloseMessage(websocket.CloseGoingAway, ""), time.Now().Add(closeDeadline))
}

func (s *Session) ping() error {
	if err := s.ws.WriteControl(websocket.PingMessage, strconv.AppendUint(nil, s.probe.Load(), 10), time.Now().Add(s.opts.WriteTimeout)); err != nil {
		return fmt.Errorf("session: ping: %w", err)
	}
	return nil
}

// time answers one client/time; server_transmitted is taken last.
func (s *Session) time(buf []byte, t timeRequest) ([]byte, error) {
	buf = s.wire.AppendTime(buf[:0], protocol.ServerTime{
		ClientTransmitted: t.transmitted,
		ServerReceived:    t.received,
		ServerTransmitted: s.opts.Clock.Now(),
	})
	return buf, s.frame(dialect.Frame{Data: buf})
}

func (s *Session) frames(frames []dialect.Frame) error {
	for _, f := range frames {
		if err := s.frame(f); err != nil {
			return err
		}
	}
	return nil
}

func (s *Session) frame(f dialect.Frame) error {
	if x := s.sealed; x != nil {
		x.message = f.AppendMessage(x.message[:0])
		return x.write(s.ws, s.opts.WriteTimeout, x.message, s.wire.OldFragments())
	}
	kind := websocket.TextMessage
	if f.Binary {
		kind = websocket.BinaryMessage
	}
	return writeMessage(s.ws, s.opts.WriteTimeout, kind, f.Data)
}

func writeMessage(ws *websocket.Conn, timeout time.Duration, kind int, data []byte) error {
	if err := extendWrite(ws, timeout); err != nil {
		return err
	}
	if err := ws.WriteMessage(kind, data); err != nil {
		return fmt.Errorf("session: write: %w", err)
	}
	return nil
}

func extendWrite(ws *websocket.Conn, timeout time.Duration) error {
	if err := ws.SetWriteDeadline(time.Now().Add(timeout)); err != nil {
		return fmt.Errorf("session: write: %w", err)
	}
	return nil
}
