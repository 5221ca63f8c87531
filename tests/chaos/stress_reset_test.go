package chaos

import (
	"bufio"
	"context"
	"crypto/sha1"
	"encoding/base64"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"resonatebridge/discovery"
	"resonatebridge/resonate"
	"resonatebridge/tests/internal/scene"
	"resonatebridge/tests/pipe"

	"github.com/gorilla/websocket"
)

// says is all that a speaker says until it is live, and a little more.
func says(id string, masked bool) []byte {
	frame := func(text string) []byte { return pipe.Frame(websocket.TextMessage, []byte(text), masked) }
	frames := [][]byte{frame(scene.WireHello(id)), frame(scene.WireState)}
	for range 20 {
		frames = append(frames, frame(`{"type":"client/time","payload":{"client_transmitted":1}}`))
	}
	return slices.Concat(frames...)
}

const upgradeRequest = "GET /sendspin HTTP/1.1\r\nHost: bridge\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n" +
	"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"

// upgradeAnswer is the answer to a request (RFC 6455, 4.2.2).
func upgradeAnswer(r *http.Request) string {
	sum := sha1.Sum([]byte(r.Header.Get("Sec-WebSocket-Key") + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"))
	return "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: " +
		base64.StdEncoding.EncodeToString(sum[:]) + "\r\n\r\n"
}

// breakOff says a random part of text and resets the connection, now and then
// after a while.
func breakOff(c net.Conn, text []byte) {
	_, _ = c.Write(text[:rand.IntN(len(text)+1)])
	if rand.IntN(2) == 0 {
		time.Sleep(rand.N(20 * time.Millisecond))
	}
	_ = c.(*net.TCPConn).SetLinger(0)
	_ = c.Close()
}

// TestStressResets has speakers reset their connections at a random byte of the
// handshake or after it, in both directions. Each Up has its Down, and then
// nobody is connected.
func TestStressResets(t *testing.T) {
	n := stress(t)
	s := newStand(t)
	over, end := context.WithCancel(t.Context())
	defer time.AfterFunc(howLong(500*time.Millisecond), end).Stop()
	var in, out atomic.Int64
	var wg sync.WaitGroup
	for i := range 4 {
		wg.Go(func() {
			text := append([]byte(upgradeRequest), says(fmt.Sprint("dials-", i), true)...)
			for over.Err() == nil {
				c, err := net.Dial("tcp", s.addr)
				if err != nil {
					t.Error(err)
					return
				}
				in.Add(1)
				breakOff(c, text)
			}
		})
	}
	for i := range 16 { // each is dialled twice a second at most
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		e, err := discovery.ParseStatic("ws://" + ln.Addr().String() + "/sendspin")
		if err != nil {
			t.Fatal(err)
		}
		id := fmt.Sprint("is-dialled-", i)
		wg.Go(func() { // ends with the listener
			for {
				c, err := ln.Accept()
				if err != nil {
					return
				}
				out.Add(1)
				if r, err := http.ReadRequest(bufio.NewReader(c)); err == nil {
					breakOff(c, append([]byte(upgradeAnswer(r)), says(id, false)...))
				}
			}
		})
		wg.Go(func() {
			for over.Err() == nil {
				s.Discover(discovery.Event{Kind: discovery.Announced, Endpoint: e, Again: true})
				time.Sleep(20 * time.Millisecond)
			}
			_ = ln.Close()
		})
	}
	wg.Wait()
	until(t, "nobody is connected", func() bool {
		return !slices.ContainsFunc(s.Snapshot().Players, func(p *resonate.Player) bool { return p.Connection == resonate.Connected })
	})
	// The door is open: somebody who stays gets in at once.
	c, err := scene.WireDial(t.Context(), s.addr, "stays")
	if err != nil {
		t.Fatal(err)
	}
	until(t, "one who stays is connected", func() bool { return s.connection("stays") == resonate.Connected })
	ups := s.edges.ups("")
	s.stop()
	_, _ = io.Copy(io.Discard, c.NetConn())
	_ = c.Close()
	n.Add("connections reset at a random byte: they dial, we dial", fmt.Sprintf("%d, %d", in.Load(), out.Load()), "")
	n.Add("of them were up", ups-1, "as many downs, in turn")
}
