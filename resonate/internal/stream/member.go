package stream

import (
	"resonatebridge/resonate/protocol"
	"resonatebridge/timesync"
)

// Sink is the way to one player: its session. Both calls keep the order in
// which they are made, and neither waits.
type Sink interface {
	// Stream queues stream/start, stream/clear or stream/end. A clear or an end
	// drops the audio that waits in front of it. An error means that the session
	// has ended.
	Stream(m protocol.ServerMessage) error
	// Audio queues a chunk, at most until its time has passed. false: the queue
	// is full, or the session has ended.
	Audio(c *Chunk) bool
	// Written is how many chunks of all that Audio ever took are no longer in
	// transmission: written to the socket, or dropped.
	Written() uint64
}

// Player is a member as the server knows it. Two with the same ID and Sink are
// the same session.
type Player struct {
	ID      string
	Sink    Sink
	Formats []protocol.Format // that it takes and we can make, the wanted one first; not empty
	Gain    float64           // 1 unless the server turns its volume

	Capacity       int // bytes
	MinBufferMs    int
	RequiredLeadMs int
	OutputDelayMs  int
	Available      bool // its latest state says so; no stream starts without it
}

// header is what a chunk costs besides its data (spec: 13 bytes; plaintext
// dialects send 9).
const header = 13

// ahead is how long before a chunk sounds the player wants it.
func (p *Player) ahead(live bool) micros {
	ms := p.MinBufferMs
	if !live {
		ms = max(ms, p.RequiredLeadMs)
	}
	return micros(ms+p.OutputDelayMs) * 1000
}

// Lead is how long before it sounds something new has to be handed to an engine
// with these players; playing is when something else is on its timeline, which
// takes ramp to get softer.
func Lead(players []Player, playing bool, ramp timesync.Micros) (lead timesync.Micros) {
	for i := range players {
		lead = max(lead, players[i].ahead(false)+slack)
	}
	if playing {
		lead += spare + 150_000 + ramp // what is on the timeline already, and a chunk
	}
	return lead
}

// chunkFrames is how many frames its chunks have: the usual number, or a part of
// that where its buffer would not take two of them, for one is heard while the next
// one comes. It counts them as PCM, which other codecs hardly exceed.
func (p *Player) chunkFrames() int {
	f := p.Formats[0]
	whole := ChunkFrames(f.SampleRate)
	n := whole
	for _, parts := range []int{2, 4, 5} { // of 96 or 100 ms: whole microseconds
		fits := 2*(header+n*f.Channels*f.BitDepth/8) <= p.Capacity
		if part := whole / parts; !fits && part*parts == whole && part*second >= shortest*f.SampleRate {
			n = part
		}
	}
	return n
}

// shortest is what a chunk should have at least (spec: player role, audio chunks).
const shortest = 15_000 // micros

func (p *Player) delay() micros { return micros(p.OutputDelayMs) * 1000 }

// member is a player in a group that plays.
type member struct {
	Player
	r      *rendition // nil until its stream starts
	then   *rendition // what follows r: its format changes
	until  uint64     // where r ends for it, if then is set
	next   uint64     // number of the chunk of r that it gets next
	stream *protocol.StreamPlayer
	out    ledger
	taken  uint64 // chunks that the sink took
	missed uint64 // chunks that came too late for it

	begun micros // when it got the first chunk of what it hears without a break
	first int    // how many it has got of that, counted to rush
}

// rush is how many chunks those who begin together get first, each of them; the rest
// of what is on the timeline follows after slack. With hundreds, or on a slow network,
// that would otherwise hold up what the last of them needs now.
const rush = 2

// clear drops what the player has buffered; the stream stays.
func (m *member) clear() {
	if m.stream != nil {
		_ = m.Sink.Stream(protocol.StreamClear{Roles: []protocol.Role{protocol.RolePlayer}}) // a session that ended needs none
	}
	m.out.reset()
	m.r, m.then, m.first = nil, nil, 0
}

// end ends the stream, if there is one.
func (m *member) end() {
	if m.stream != nil {
		_ = m.Sink.Stream(protocol.StreamEnd{Roles: []protocol.Role{protocol.RolePlayer}}) // likewise
	}
	m.stream, m.r, m.then, m.first = nil, nil, nil, 0
	m.out.reset()
}

// push hands over as many chunks as the player may hold. wake is when that may
// be more, 0 if only new chunks change it.
func (m *member) push(now micros) (wake micros) {
	if m.r == nil {
		return 0
	}
	for {
		if m.then != nil && m.next >= m.until {
			m.r, m.next, m.then = m.then, m.then.first, nil
		}
		c := m.r.chunk(m.next)
		if c == nil {
			if m.next < m.r.first { // it was too slow for too long
				m.missed += m.r.first - m.next
				m.next = m.r.first
				continue
			}
			return 0
		}
		if c.Timestamp-m.delay() < now { // its time has passed: whole chunks are lost, and counted
			m.missed++
			m.next++
			continue
		}
		if m.first == rush && now < m.begun+slack {
			return m.begun + slack
		}
		size := header + len(c.Data)
		held, free := m.out.outstanding(now, m.delay(), m.Sink.Written())
		if held+size > m.Capacity {
			if free == 0 || free > now+retry && m.Sink.Written() < m.taken {
				free = now + retry // the socket is what it waits for
			}
			return free
		}
		if !m.start() {
			return 0
		}
		if !m.Sink.Audio(c) {
			return now + retry
		}
		m.taken++
		m.out.add(entry{number: m.taken, end: c.End, size: size})
		m.next++
		if m.first == 0 {
			m.begun = now
		}
		m.first = min(m.first+1, rush)
	}
}

// retry is when a sink that was full is asked again.
const retry = 20_000 // micros

// start sends stream/start before the first chunk, and when the format changes
// in place. It reports false if there is nobody to send to.
func (m *member) start() bool {
	if m.stream != nil && m.stream.Format == m.r.format {
		return true
	}
	if m.stream == nil && !m.Available {
		return false
	}
	s := &protocol.StreamPlayer{Format: m.r.format, CodecHeader: m.r.header}
	if m.Sink.Stream(protocol.StreamStart{Player: s}) != nil {
		return false
	}
	m.stream = s
	return true
}

// Same reports whether nothing but perhaps the formats differs.
func (p Player) Same(o Player) bool {
	return p.ID == o.ID && p.Sink == o.Sink && p.Gain == o.Gain && p.Capacity == o.Capacity && p.MinBufferMs == o.MinBufferMs &&
		p.RequiredLeadMs == o.RequiredLeadMs && p.OutputDelayMs == o.OutputDelayMs && p.Available == o.Available
}
