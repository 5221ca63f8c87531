package session

import (
	"fmt"
	"sync/atomic"

	"resonatebridge/resonate/internal/dialect"
	"resonatebridge/resonate/internal/stream"
	"resonatebridge/resonate/protocol"

	"github.com/gorilla/websocket"
)

// streamQueue is how many steps of a stream may wait for the writer. The player's
// buffer bounds what is handed over long before (spec: buffer accounting).
const (
	streamQueue = 256
	streamSpare = 16 // of these, kept for stream/start, stream/clear and stream/end
)

// streams is the way of audio, or of what a visualizer shows, through a session:
// one queue for chunks and the messages around them, so that their order is the
// engine's (races: G9).
type streams struct {
	queue   chan streamStep // drained by the writer only
	era     atomic.Uint64   // of the audio that still matters; a clear or an end begins a new one
	written atomic.Uint64   // chunks that have left the queue and the socket
}

// streamStep is a message or a chunk.
type streamStep struct {
	message protocol.ServerMessage
	chunk   *stream.Chunk
	era     uint64
}

var (
	_ stream.Sink   = (*Session)(nil)
	_ stream.Screen = (*Session)(nil)
)

// lane is where a message belongs: those of a visualizer are about nothing else.
func (s *Session) lane(m protocol.ServerMessage) *streams {
	var roles []protocol.Role
	switch m := m.(type) {
	case protocol.StreamStart:
		if m.Visualizer != nil && m.Player == nil {
			return &s.visuals
		}
	case protocol.StreamClear:
		roles = m.Roles
	case protocol.StreamEnd:
		roles = m.Roles
	}
	if len(roles) == 1 && roles[0] == protocol.RoleVisualizer {
		return &s.visuals
	}
	return &s.streams
}

// Stream queues stream/start, stream/clear or stream/end. Audio that waits in
// front of a clear or an end is dropped. It never blocks. The error is that of
// Send.
func (s *Session) Stream(m protocol.ServerMessage) error {
	select {
	case <-s.done:
		return ErrGone
	default:
	}
	lane := s.lane(m)
	switch m.(type) {
	case protocol.StreamClear, protocol.StreamEnd:
		lane.era.Add(1)
	}
	select {
	case lane.queue <- streamStep{message: m, era: lane.era.Load()}:
		return nil
	default:
		s.fail(ErrSlow)
		return ErrSlow
	}
}

// Audio queues a chunk. It never blocks; false: there is no room, or the session
// has ended. One goroutine at a time calls Stream and Audio.
func (s *Session) Audio(c *stream.Chunk) bool {
	select {
	case <-s.done:
		return false
	default:
	}
	if len(s.streams.queue) >= streamQueue-streamSpare {
		return false
	}
	s.streams.queue <- streamStep{chunk: c, era: s.streams.era.Load()} // there is room: nobody else sends
	return true
}

// Visual queues a frame of the visualizer. It never blocks; false: there is no
// room, or the session has ended. It is called as Audio is.
func (s *Session) Visual(f protocol.VisualizerFrame) bool {
	select {
	case <-s.done:
		return false
	default:
	}
	if len(s.visuals.queue) >= streamQueue-streamSpare {
		return false
	}
	s.visuals.queue <- streamStep{message: f, era: s.visuals.era.Load()}
	return true
}

// visual writes one step of a visualizer's stream. A frame whose time has come
// would be dropped by the client, too; and the stream may have ended with its
// role.
func (s *Session) visual(x streamStep) error {
	was := s.watched
	switch m := x.message.(type) {
	case protocol.StreamStart:
		s.watched = s.sealed.has(protocol.RoleVisualizer)
		was = s.watched
	case protocol.StreamEnd:
		s.watched = false
	case protocol.VisualizerFrame:
		was = was && x.era == s.visuals.era.Load() && m.Timestamp > s.opts.Clock.Now()
	}
	if !was {
		return nil
	}
	return s.frames(s.spell(x.message))
}

// spell encodes a message of a stream, with the time at which it is sent.
func (s *Session) spell(m protocol.ServerMessage) []dialect.Frame {
	switch x := m.(type) {
	case protocol.StreamStart:
		x.Transmitted = s.opts.Clock.Now()
		m = x
	case protocol.StreamClear:
		x.Transmitted = s.opts.Clock.Now()
		m = x
	}
	s.queue.mu.Lock()
	defer s.queue.mu.Unlock()
	return s.encodeLocked(m)
}

// Written is how many chunks of those that Audio took are no longer in
// transmission.
func (s *Session) Written() uint64 { return s.streams.written.Load() }

// steps writes a step of a stream and those that wait behind it.
func (s *Session) steps(x streamStep) error {
	cork := corkOf(s.ws)
	cork.hold()
	chunks, err := s.gather(x, cork)
	if e := cork.release(); err == nil {
		err = e
	}
	s.streams.written.Add(chunks)
	return err
}

func (s *Session) gather(x streamStep, cork *corked) (chunks uint64, err error) {
	for n := 1; ; n++ {
		if x.chunk != nil {
			chunks++
		}
		if err := s.step(x); err != nil || n == corkLimit || cork.full() {
			return chunks, err
		}
		select {
		case x = <-s.streams.queue:
		default:
			return chunks, nil
		}
	}
}

// step writes one step of a stream. A chunk whose stream was cleared meanwhile,
// or whose time has come, is dropped: it would only delay what follows.
func (s *Session) step(x streamStep) error {
	if x.chunk == nil {
		m, ok := x.message, true
		if s.sealed != nil {
			m, ok = s.sealed.streamStep(m)
		}
		if !ok {
			return nil
		}
		frames := s.spell(m)
		switch m.(type) {
		case protocol.StreamClear, protocol.StreamEnd:
			if len(frames) > 0 && !s.wire.NamesRoles() {
				s.artworkEnded()
			}
		}
		return s.frames(frames)
	}
	now := s.opts.Clock.Now()
	if x.era != s.streams.era.Load() || x.chunk.Timestamp <= now {
		return nil
	}
	if s.sealed != nil {
		return s.sealChunk(x.chunk, now)
	}
	kind := s.wire.AudioType()
	frame := x.chunk.Framed(kind, func() any {
		data := s.wire.AppendAudio(nil, protocol.AudioChunk{Timestamp: x.chunk.Timestamp, Data: x.chunk.Data})
		pm, err := websocket.NewPreparedMessage(websocket.BinaryMessage, data)
		if err != nil { // its own words: only for a kind of message that does not exist
			return err
		}
		return pm
	})
	pm, ok := frame.(*websocket.PreparedMessage)
	if !ok {
		return fmt.Errorf("session: audio: %v", frame)
	}
	if err := extendWrite(s.ws, s.opts.WriteTimeout); err != nil {
		return err
	}
	if err := s.ws.WritePreparedMessage(pm); err != nil {
		return fmt.Errorf("session: write: %w", err)
	}
	return nil
}

// sealChunk writes a chunk to an encrypted session, whose frames are its own.
// It does not allocate.
func (s *Session) sealChunk(c *stream.Chunk, now micros) error {
	x := s.sealed
	if !x.playing {
		return nil
	}
	x.message = s.wire.AppendAudio(x.message[:0], protocol.AudioChunk{
		Timestamp: c.Timestamp, SendAhead: protocol.SendAhead(c.Timestamp, now), Data: c.Data,
	})
	return x.write(s.ws, s.opts.WriteTimeout, x.message, s.wire.OldFragments())
}
