// Package broker is a small MQTT 3.1.1 broker for tests in a testing/synctest
// bubble: it serves in-memory connections and blocks on channels and timers
// only. mqtt.Embedded (mochi) can't take its place there: it holds a mutex while
// it writes to a client, so one stalled link stops the bubble's clock.
//
//	Dial ──► serve, one per connection ──► Publish ──► retained, subscribers' queues
//	                                                        write ◄───┘
//
// It has what the bridge uses: clean sessions, QoS 0 and 1, retained messages,
// wills, keep-alive and the takeover of a client id.
package broker

import (
	"context"
	"maps"
	"net"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/eclipse/paho.mqtt.golang/packets"

	"resonatebridge/tests/pipe"
)

// queueSize is how many packets wait for a client before its connection is cut.
const queueSize = 4096

// Message is one published message.
type Message struct {
	Client   string // id of the client that sent it; "" for the broker's own Publish
	Topic    string
	Payload  string
	Retained bool // to be kept
}

// Broker is one broker with its retained messages. Its methods are safe for
// concurrent use.
type Broker struct {
	// Tap, unless nil, is told of each message as it is taken. It is called under
	// the broker's lock: it must not wait, nor call the broker.
	Tap func(Message)

	mu       sync.Mutex // never held across I/O
	down     bool
	retained map[string]string
	sessions map[*session]bool
	serving  sync.WaitGroup
}

// New returns a broker that is up.
func New() *Broker {
	return &Broker{retained: map[string]string{}, sessions: map[*session]bool{}}
}

// session is one connection, from CONNECT to its end.
type session struct {
	conn  *pipe.Conn
	out   chan packets.ControlPacket
	ended chan struct{} // closed when the connection is of no use any more
	end   func()

	// Guarded by Broker.mu.
	client  string
	will    *Message
	filters map[string]byte
}

// Dial connects to the broker: to nobody while it is down.
func (b *Broker) Dial(ctx context.Context) (*pipe.Conn, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	if b.down {
		return nil, &net.OpError{Op: "dial", Net: "tcp", Err: syscall.ECONNREFUSED}
	}
	ours, theirs := pipe.New()
	s := &session{conn: theirs, out: make(chan packets.ControlPacket, queueSize), ended: make(chan struct{}), filters: map[string]byte{}}
	s.end = sync.OnceFunc(func() {
		close(s.ended)
		_ = theirs.Close()
	})
	b.sessions[s] = true
	b.serving.Go(func() { b.serve(s) })
	b.serving.Go(s.write)
	return ours, nil
}

// Stop cuts every client and refuses new ones until Start; with forget the
// retained messages are lost, as by a broker that keeps them in memory.
func (b *Broker) Stop(forget bool) {
	b.mu.Lock()
	b.down = true
	for s := range b.sessions {
		s.conn.Reset()
	}
	if forget {
		clear(b.retained)
	}
	b.mu.Unlock()
	b.serving.Wait()
}

// Start lets clients in again.
func (b *Broker) Start() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.down = false
}

// Retained are the retained messages by topic.
func (b *Broker) Retained() map[string]string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return maps.Clone(b.retained)
}

// Publish sends a message to who subscribed, as another client would; nobody
// gets it while the broker is down.
func (b *Broker) Publish(topic, payload string, retained bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.down {
		b.publish(Message{Topic: topic, Payload: payload, Retained: retained})
	}
}

// publish needs b.mu.
func (b *Broker) publish(m Message) {
	if b.Tap != nil {
		b.Tap(m)
	}
	switch {
	case m.Retained && m.Payload == "":
		delete(b.retained, m.Topic)
	case m.Retained:
		b.retained[m.Topic] = m.Payload
	}
	for s := range b.sessions {
		s.deliver(m.Topic, m.Payload, false)
	}
}

// deliver queues a message if a filter covers it. Broker.mu is held.
func (s *session) deliver(topic, payload string, stored bool) {
	granted, wanted := byte(0), false
	for f, qos := range s.filters {
		if covers(strings.Split(f, "/"), strings.Split(topic, "/")) {
			granted, wanted = max(granted, qos), true
		}
	}
	if !wanted {
		return
	}
	p := packets.NewControlPacket(packets.Publish).(*packets.PublishPacket)
	p.TopicName, p.Payload, p.Qos, p.Retain = topic, []byte(payload), granted, stored
	p.MessageID = 1 // who acknowledges it doesn't matter: nothing is sent again
	s.send(p)
}

// send queues p; a client that takes nothing for so long is cut.
func (s *session) send(p packets.ControlPacket) {
	select {
	case s.out <- p:
	default:
		s.end()
	}
}

// covers reports whether a filter covers a topic, level by level.
func covers(filter, topic []string) bool {
	for i, level := range filter {
		if level == "#" {
			return true
		}
		if i >= len(topic) || level != "+" && level != topic[i] {
			return false
		}
	}
	return len(filter) == len(topic)
}

func (s *session) write() {
	defer s.end()
	for {
		select {
		case p := <-s.out:
			if p.Write(s.conn) != nil {
				return
			}
		case <-s.ended:
			return
		}
	}
}

// serve reads until the connection ends; then the will is published, unless the
// client said goodbye.
func (b *Broker) serve(s *session) {
	s.read(b)
	s.end()
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.sessions, s)
	if s.will != nil {
		b.publish(*s.will)
	}
}

func (s *session) read(b *Broker) {
	const connectWithin = 10 * time.Second
	patience := connectWithin
	for {
		_ = s.conn.SetReadDeadline(time.Now().Add(patience)) // a connection that ended fails the read
		packet, err := packets.ReadPacket(s.conn)
		if err != nil {
			return
		}
		switch p := packet.(type) {
		case *packets.ConnectPacket:
			patience = time.Duration(p.Keepalive) * time.Second * 3 / 2
			b.admit(s, p)
			s.send(packets.NewControlPacket(packets.Connack))
		case *packets.PublishPacket:
			b.mu.Lock()
			b.publish(Message{s.client, p.TopicName, string(p.Payload), p.Retain})
			b.mu.Unlock()
			if p.Qos == 1 {
				ack := packets.NewControlPacket(packets.Puback).(*packets.PubackPacket)
				ack.MessageID = p.MessageID
				s.send(ack)
			}
		case *packets.SubscribePacket:
			ack := packets.NewControlPacket(packets.Suback).(*packets.SubackPacket)
			ack.MessageID = p.MessageID
			ack.ReturnCodes = p.Qoss
			s.send(ack)
			b.subscribe(s, p)
		case *packets.PingreqPacket:
			s.send(packets.NewControlPacket(packets.Pingresp))
		case *packets.DisconnectPacket:
			b.mu.Lock()
			s.will = nil
			b.mu.Unlock()
			return
		}
	}
}

// admit takes the place of an older connection of the same client, whose will
// is published by its own end.
func (b *Broker) admit(s *session, p *packets.ConnectPacket) {
	b.mu.Lock()
	defer b.mu.Unlock()
	s.client = p.ClientIdentifier
	if p.WillFlag {
		s.will = &Message{s.client, p.WillTopic, string(p.WillMessage), p.WillRetain}
	}
	for old := range b.sessions {
		if old != s && old.client == s.client {
			old.end()
			if old.will != nil { // before anything that the new one says
				b.publish(*old.will)
				old.will = nil
			}
		}
	}
}

func (b *Broker) subscribe(s *session, p *packets.SubscribePacket) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for i, f := range p.Topics {
		s.filters[f] = p.Qoss[i]
	}
	for _, topic := range slices.Sorted(maps.Keys(b.retained)) {
		for _, f := range p.Topics {
			if covers(strings.Split(f, "/"), strings.Split(topic, "/")) {
				s.deliver(topic, b.retained[topic], true)
				break
			}
		}
	}
}
