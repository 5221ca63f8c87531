package mqtt

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/eclipse/paho.mqtt.golang/packets"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// patience is how long a test waits for what must happen.
const patience = time.Minute

// quick is defaultTiming with everything that a test waits for made short.
func quick() timing {
	tm := defaultTiming()
	tm.handOver = 50 * time.Millisecond
	tm.retryMin = 10 * time.Millisecond
	tm.retryMax = 20 * time.Millisecond
	tm.pace.birthJitter = func() time.Duration { return 0 }
	tm.pace.birthGap = 10 * time.Millisecond
	tm.pace.removeGap = 10 * time.Millisecond
	tm.pace.discoveryGap = 10 * time.Millisecond
	tm.pace.discoveryAgain = time.Hour
	return tm
}

// start runs f until the test ends or stop is called, which waits for its end.
func start(t testing.TB, f func(context.Context) error) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- f(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		select {
		case err := <-done:
			if err != nil {
				t.Errorf("Run: %v", err)
			}
		case <-time.After(patience):
			t.Error("Run did not return")
		}
	})
	t.Cleanup(stop)
	return stop
}

// serveBroker runs an embedded broker on addr.
func serveBroker(t testing.TB, addr string) (url string, stop func()) {
	t.Helper()
	e, err := NewEmbedded(addr, nil)
	if err != nil {
		t.Fatal(err)
	}
	return "mqtt://" + e.Addr(), start(t, e.Run)
}

func options(url string) Options {
	return Options{
		URL:           url,
		Will:          Message{Topic: "base/state", Payload: []byte("offline")},
		Online:        []byte("online"),
		Subscriptions: []string{"base/set/#"},
		SelftestTopic: "base/selftest",
	}
}

func newTest(t testing.TB, o Options, tm timing) *Client {
	t.Helper()
	c, err := newClient(o, tm)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// awaitStatus waits until the status is as wanted.
func awaitStatus(t testing.TB, c *Client, what string, want func(Status) bool) Status {
	t.Helper()
	late := time.After(patience)
	for {
		if s := c.Status(); want(s) {
			return s
		}
		select {
		case <-c.Changed():
		case <-late:
			t.Fatalf("status: got %+v, want %s", c.Status(), what)
		}
	}
}

func connected(s Status) bool    { return s.Connected }
func disconnected(s Status) bool { return !s.Connected }

// peer is another client of the broker: Home Assistant, a user.
type peer struct {
	testing.TB
	link *link
	in   chan Message
}

func newPeer(t testing.TB, url string, filters ...string) *peer {
	t.Helper()
	b, err := newBroker(Options{URL: url, MaxPayload: 4 << 20})
	if err != nil {
		t.Fatal(err)
	}
	p := &peer{TB: t, in: make(chan Message, 100_000)}
	tm := quick()
	tm.handOver = patience // it waits for the broker, however busy the machine is
	p.link, err = b.connect(t.Context(), b.ClientID, tm, func(m Message) { p.in <- m })
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.link.close)
	if _, err := p.link.subscribe(t.Context(), 1, filters); err != nil {
		t.Fatal(err)
	}
	p.publish("peer", "here", false) // acknowledged after the retained messages were sent
	return p
}

func (p *peer) publish(topic, payload string, retained bool) {
	p.Helper()
	if err := p.link.await(context.Background(), p.link.paho.Publish(topic, 1, retained, payload), "publish"); err != nil {
		p.Fatal(err)
	}
}

// next returns the next message.
func (p *peer) next() Message {
	p.Helper()
	select {
	case m := <-p.in:
		return m
	case <-time.After(patience):
		p.Fatal("no message came")
		return Message{}
	}
}

// until returns "topic=payload" of the messages up to and including last.
func (p *peer) until(last string) (got []string) {
	p.Helper()
	late := time.After(patience)
	for {
		select {
		case m := <-p.in:
			got = append(got, m.Topic+"="+string(m.Payload))
			if got[len(got)-1] == last {
				return got
			}
		case <-late:
			p.Fatalf("got %q, want %s", got, last)
		}
	}
}

// receive returns the client's next message.
func receive(t testing.TB, c *Client) Message {
	t.Helper()
	select {
	case m := <-c.Messages():
		return m
	case <-time.After(patience):
		t.Fatal("no message came")
		return Message{}
	}
}

// proxy sits between a client and the broker and can cut and stall.
type proxy struct {
	url string
	mu  sync.Mutex
	// conns are the client's sides.
	conns   []net.Conn
	stalled chan struct{} // open while stalled; nil: not
}

func newProxy(t testing.TB, broker string) *proxy {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &proxy{url: "mqtt://" + ln.Addr().String()}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			server, err := net.Dial("tcp", broker[len("mqtt://"):])
			if err != nil {
				_ = conn.Close()
				continue
			}
			p.mu.Lock()
			p.conns = append(p.conns, conn)
			p.mu.Unlock()
			wg.Go(func() { p.pump(server, conn) })
			wg.Go(func() { _, _ = io.Copy(conn, server); _ = conn.Close() })
		}
	})
	t.Cleanup(func() {
		_ = ln.Close()
		p.resume()
		p.cut()
		wg.Wait()
	})
	return p
}

// pump carries what the client writes, while not stalled.
func (p *proxy) pump(server, client net.Conn) {
	defer server.Close()
	defer client.Close()
	buf := make([]byte, 4096)
	for {
		p.mu.Lock()
		stalled := p.stalled
		p.mu.Unlock()
		if stalled != nil {
			<-stalled
		}
		n, err := client.Read(buf)
		if err != nil {
			return
		}
		if _, err := server.Write(buf[:n]); err != nil {
			return
		}
	}
}

func (p *proxy) stall() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.stalled = make(chan struct{})
}

func (p *proxy) resume() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.stalled != nil {
		close(p.stalled)
		p.stalled = nil
	}
}

// cut ends all connections without a word.
func (p *proxy) cut() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, c := range p.conns {
		_ = c.Close()
	}
	p.conns = nil
}

// script is a broker that does what a test tells it.
type script struct {
	url      string
	login    byte                                   // the CONNACK's return code
	suback   func(filter string) byte               // nil: grants QoS 1
	publish  func(p *packets.PublishPacket) verdict // nil: acknowledges
	received chan *packets.PublishPacket
	connects chan *packets.ConnectPacket
	ends     chan error // why each connection ended
}

// errDisconnect is the end that keeps a broker from publishing the will.
var errDisconnect = errors.New("the client said DISCONNECT")

type verdict int

const (
	ack verdict = iota
	silent
	hangUp
)

func (s *script) start(t testing.TB) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s.url = "mqtt://" + ln.Addr().String()
	s.received = make(chan *packets.PublishPacket, 10_000)
	s.connects = make(chan *packets.ConnectPacket, 10_000)
	s.ends = make(chan error, 10_000)
	var (
		wg    sync.WaitGroup
		mu    sync.Mutex
		conns []net.Conn
	)
	wg.Go(func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			mu.Lock()
			conns = append(conns, conn)
			mu.Unlock()
			wg.Go(func() {
				defer conn.Close()
				var err error
				for err == nil {
					err = s.answer(conn)
				}
				s.ends <- err
			})
		}
	})
	t.Cleanup(func() {
		_ = ln.Close()
		mu.Lock()
		for _, c := range conns {
			_ = c.Close()
		}
		mu.Unlock()
		wg.Wait()
	})
}

func (s *script) answer(conn net.Conn) error {
	packet, err := packets.ReadPacket(conn)
	if err != nil {
		return err
	}
	switch p := packet.(type) {
	case *packets.ConnectPacket:
		s.connects <- p
		reply := packets.NewControlPacket(packets.Connack).(*packets.ConnackPacket)
		reply.ReturnCode = s.login
		return reply.Write(conn)
	case *packets.SubscribePacket:
		reply := packets.NewControlPacket(packets.Suback).(*packets.SubackPacket)
		reply.MessageID = p.MessageID
		for _, f := range p.Topics {
			code := byte(1)
			if s.suback != nil {
				code = s.suback(f)
			}
			reply.ReturnCodes = append(reply.ReturnCodes, code)
		}
		return reply.Write(conn)
	case *packets.PublishPacket:
		s.received <- p
		what := ack
		if s.publish != nil {
			what = s.publish(p)
		}
		if what == hangUp {
			return errors.New("told to hang up")
		}
		if what == silent || p.Qos == 0 {
			return nil
		}
		reply := packets.NewControlPacket(packets.Puback).(*packets.PubackPacket)
		reply.MessageID = p.MessageID
		return reply.Write(conn)
	case *packets.PingreqPacket:
		return packets.NewControlPacket(packets.Pingresp).Write(conn)
	case *packets.DisconnectPacket:
		return errDisconnect
	default:
		return nil
	}
}

// records is a log handler that hands out its messages.
type records chan string

func (r records) Enabled(context.Context, slog.Level) bool { return true }
func (r records) WithAttrs([]slog.Attr) slog.Handler       { return r }
func (r records) WithGroup(string) slog.Handler            { return r }
func (r records) Handle(_ context.Context, rec slog.Record) error {
	r <- rec.Message
	return nil
}

func (r records) await(t testing.TB, want string) {
	t.Helper()
	late := time.After(patience)
	for {
		select {
		case got := <-r:
			if got == want {
				return
			}
		case <-late:
			t.Fatalf("no log record %q", want)
		}
	}
}

func contains(got []string, want string) bool { return slices.Contains(got, want) }
