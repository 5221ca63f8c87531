package session

import (
	"fmt"
	"log/slog"
	"strconv"
	"time"

	"resonatebridge/resonate/internal/dialect"
	"resonatebridge/resonate/protocol"
	"resonatebridge/timesync"

	"github.com/gorilla/websocket"
)

type micros = timesync.Micros

// write is the writer goroutine: server/hello first, then answers to
// client/time before anything else, then control messages in order.
func (s *Session) write() error {
	hello := s.opts.Hello(s.hello)
	hello.ActiveRoles = s.roles
	if err := s.message(hello); err != nil {
		return err
	}
	tick := time.NewTicker(s.opts.PingEvery)
	defer tick.Stop()
	var buf []byte // reused for answers to client/time
	for {
		select { // time answers age; they go first
		case t := <-s.times:
			var err error
			if buf, err = s.time(buf, t); err != nil {
				return err
			}
			continue
		default:
		}
		var err error
		select {
		case t := <-s.times:
			buf, err = s.time(buf, t)
		case m := <-s.control:
			err = s.message(m)
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

func (s *Session) message(m protocol.ServerMessage) error {
	frames, err := s.wire.Encode(m)
	if err != nil {
		// Our own fault, never the peer's: say it and keep the connection.
		s.log.Error("message not sent", slog.Any("err", err))
		return nil
	}
	for _, f := range frames {
		if err := s.frame(f); err != nil {
			return err
		}
	}
	return nil
}

func (s *Session) frame(f dialect.Frame) error {
	kind := websocket.TextMessage
	if f.Binary {
		kind = websocket.BinaryMessage
	}
	if err := s.ws.SetWriteDeadline(time.Now().Add(s.opts.WriteTimeout)); err != nil {
		return fmt.Errorf("session: write: %w", err)
	}
	if err := s.ws.WriteMessage(kind, f.Data); err != nil {
		return fmt.Errorf("session: write: %w", err)
	}
	return nil
}
