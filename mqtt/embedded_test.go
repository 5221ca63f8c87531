package mqtt

import (
	"bytes"
	"context"
	"log/slog"
	"net"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/eclipse/paho.mqtt.golang/packets"
)

func TestEmbeddedPortTaken(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	_, err = NewEmbedded(ln.Addr().String(), nil)
	if err == nil {
		t.Fatal("got no error")
	}
	for _, want := range []string{ln.Addr().String(), "mqtt.url", "mqtt.embedded.listen"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("got %q, want %q in it", err, want)
		}
	}
}

func TestEmbeddedWarnsOutsideLoopback(t *testing.T) {
	for _, tc := range []struct {
		name, addr string
		want       bool
	}{
		{"loopback", "127.0.0.1:0", false},
		{"IPv4 everywhere", "0.0.0.0:0", true},
		{"everywhere", ":0", true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			var out bytes.Buffer
			e, err := NewEmbedded(tc.addr, slog.New(slog.NewTextHandler(&out, nil)))
			if err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithCancel(t.Context())
			cancel()
			if err := e.Run(ctx); err != nil {
				t.Error(err)
			}
			if got := strings.Contains(out.String(), "asks for no password"); got != tc.want {
				t.Errorf("warned: got %v, want %v: %s", got, tc.want, out.String())
			}
		})
	}
}

func TestEmbeddedEndsDespiteSilentClient(t *testing.T) {
	e, err := NewEmbedded("127.0.0.1:0", nil)
	if err != nil {
		t.Fatal(err)
	}
	stop := start(t, e.Run)
	newPeer(t, "mqtt://"+e.Addr()) // it serves
	silent, err := net.Dial("tcp", e.Addr())
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	stop() // the server alone would wait 15 s for it
}

// pipes is a listener in memory.
type pipes struct {
	conns chan net.Conn
	done  chan struct{}
	once  sync.Once
}

func (p *pipes) Accept() (net.Conn, error) {
	select {
	case c := <-p.conns:
		return c, nil
	case <-p.done:
		return nil, net.ErrClosed
	}
}

func (p *pipes) Close() error   { p.once.Do(func() { close(p.done) }); return nil }
func (p *pipes) Addr() net.Addr { return &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)} }

func TestEmbeddedKeepsRetainedMessages(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ln := &pipes{conns: make(chan net.Conn), done: make(chan struct{})}
		e := newEmbedded(ln, slog.New(slog.DiscardHandler))
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- e.Run(ctx) }()
		defer func() {
			cancel()
			if err := <-done; err != nil {
				t.Error(err)
			}
		}()

		session := func(id string, ask packets.ControlPacket) packets.ControlPacket {
			ours, theirs := net.Pipe()
			defer ours.Close()
			_ = ours.SetDeadline(time.Now().Add(time.Second))
			ln.conns <- theirs
			hello := packets.NewControlPacket(packets.Connect).(*packets.ConnectPacket)
			hello.ProtocolName, hello.ProtocolVersion, hello.CleanSession, hello.ClientIdentifier, hello.Keepalive = "MQTT", 4, true, id, 60
			for _, p := range []packets.ControlPacket{hello, ask} {
				if err := p.Write(ours); err != nil {
					t.Fatal(err)
				}
				if _, err := packets.ReadPacket(ours); err != nil { // CONNACK; PUBACK or SUBACK
					t.Fatal(err)
				}
			}
			if ask.Details().Qos == 1 && ask.Details().MessageID == 1 {
				return nil
			}
			got, err := packets.ReadPacket(ours)
			if err != nil {
				t.Fatal(err)
			}
			return got
		}
		publish := packets.NewControlPacket(packets.Publish).(*packets.PublishPacket)
		publish.TopicName, publish.Payload, publish.Retain, publish.Qos, publish.MessageID = "a", []byte("kept"), true, 1, 1
		session("writer", publish)
		for topic, stored := range e.server.Topics.Retained.GetAll() { // as if two days had gone by
			stored.Created -= 2 * 24 * 60 * 60
			e.server.Topics.Retained.Add(topic, stored)
		}
		time.Sleep(10 * time.Second) // it looks every second
		subscribe := packets.NewControlPacket(packets.Subscribe).(*packets.SubscribePacket)
		subscribe.Topics, subscribe.Qoss, subscribe.MessageID = []string{"a"}, []byte{0}, 2
		if got, ok := session("reader", subscribe).(*packets.PublishPacket); !ok || string(got.Payload) != "kept" {
			t.Errorf("after two days: got %v, want the retained message", got)
		}
	})
}
