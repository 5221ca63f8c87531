package resonate

import (
	"context"
	"crypto/rand"
	"errors"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"resonatebridge/resonate/internal/noise"
	"resonatebridge/resonate/internal/sealtest"
	"resonatebridge/resonate/pairing"
	"resonatebridge/resonate/protocol"
	"resonatebridge/tests/pipe"

	"github.com/gorilla/websocket"
)

// An address that opens 10,000 connections a minute, begins a handshake on each
// and ends none makes the server compute no more than its share, and nobody else
// notices.
func TestHandshakeFloodOverTheWire(t *testing.T) {
	bubble(t, func(t *testing.T) {
		h := newHouse(t)
		good, fresh := h.sealed("good"), h.sealed("fresh")
		good.join()
		pid := good.pid()

		id, err := pairing.NewIdentity(rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		_, clientInit := noise.NewHandshakeResponder(noise.ClientConfig{Identity: id, Suite: noise.AESGCM})
		var answers atomic.Int64
		var conns []*pipe.Conn
		var reading sync.WaitGroup
		begin := func() {
			c, err := h.front.DialFrom(t.Context(), &net.TCPAddr{IP: net.IPv4(203, 0, 113, 9), Port: 1 + len(conns)})
			if err != nil {
				t.Fatal(err)
			}
			conns = append(conns, c)
			d := websocket.Dialer{NetDialContext: func(context.Context, string, string) (net.Conn, error) { return c, nil }}
			ws, resp, err := d.DialContext(t.Context(), "ws://bridge/sendspin", nil)
			if err != nil {
				t.Fatal(err)
			}
			_ = resp.Body.Close()
			if err := ws.WriteMessage(websocket.TextMessage, clientInit); err != nil {
				t.Fatal(err)
			}
			reading.Go(func() { // ends with the connection
				for {
					_, m, err := ws.ReadMessage()
					if err != nil {
						return
					}
					if strings.Contains(string(m), "noise/handshake") {
						answers.Add(1)
					}
				}
			})
		}
		const lasts, most = 5, handshakeBurst + handshakeRate*5 + 1 // seconds; answers
		for n := range lasts * 10_000 / 60 {
			begin()
			pass(6 * time.Millisecond)
			if n == 500 {
				if a := answers.Load(); a > most || a < handshakeBurst {
					t.Errorf("%d answers so far", a)
				}
				begun := time.Now()
				fresh.dialIn()
				synctest.Wait()
				fresh.stands(TrustUnapproved, ApprovalRequired)
				if took := time.Since(begun); took > time.Second {
					t.Errorf("another speaker got in after %v", took)
				}
				h.must(Approve{PID: pid, On: true})
				h.must(setVolume(pid, 7))
			}
		}
		if got := answers.Load(); got > most {
			t.Errorf("%d of %d were answered, want %d at most", got, len(conns), most)
		}
		if got := h.edges(pid); got != "up1" {
			t.Errorf("the good speaker: edges %q, want up1", got)
		}
		for _, c := range conns {
			c.Reset()
		}
		reading.Wait()
	})
}

// mallory stands between a speaker and the server, with an identity of his own for
// each, and passes on what they say.
type mallory struct {
	id                 string // as the server knows him
	victim             *sealtest.Conn
	toServer, toVictim *wiretap
}

// wiretap is one of his two connections.
type wiretap struct {
	ws *websocket.Conn
	ch *noise.Channel
}

// passOn says on another connection what comes in on this one, until it ends or a
// message can't be passed on: one about the keys.
func (w *wiretap) passOn(to *wiretap) {
	defer to.ws.Close()
	var parts noise.Assembler
	for {
		_, frame, err := w.ws.ReadMessage()
		if err != nil {
			return
		}
		message, err := w.ch.Receive.Open(nil, frame)
		if err != nil {
			return
		}
		if message, err = parts.Feed(message); err != nil {
			return
		}
		if message == nil {
			continue
		}
		if _, keys := noise.HandshakeText(message); keys {
			return
		}
		for part := range noise.Fragments(nil, message, false) {
			frame, err := to.ch.Send.Seal(nil, part)
			if err != nil || to.ws.WriteMessage(websocket.BinaryMessage, frame) != nil {
				return
			}
		}
	}
}

// shake takes steps of a handshake until there are keys.
func (w *wiretap) shake(feed func(bool, []byte) (noise.Step, error)) error {
	for w.ch == nil {
		kind, data, err := w.ws.ReadMessage()
		if err != nil {
			return err
		}
		step, err := feed(kind == websocket.BinaryMessage, data)
		if err != nil {
			return err
		}
		for _, m := range step.Send {
			if err := w.ws.WriteMessage(websocket.TextMessage, m); err != nil {
				return err
			}
		}
		w.ch = step.Channel
	}
	return nil
}

// meddle puts him between the server and a speaker.
func meddle(t *testing.T, h *house, x *sealtest.Speaker) *mallory {
	t.Helper()
	client, err := pairing.NewIdentity(rand.Reader)
	server, err2 := pairing.NewIdentity(rand.Reader)
	if err := errors.Join(err, err2); err != nil {
		t.Fatal(err)
	}
	m := &mallory{id: client.ID()}
	var running sync.WaitGroup
	dial := func(l *pipe.Listener) *wiretap {
		d := websocket.Dialer{NetDialContext: l.DialContext}
		ws, resp, err := d.DialContext(t.Context(), "ws://x/sendspin", nil)
		if err != nil {
			t.Fatal(err)
		}
		_ = resp.Body.Close()
		return &wiretap{ws: ws}
	}

	// The speaker takes him for a server.
	door := pipe.NewListener()
	var up websocket.Upgrader
	srv := &http.Server{ReadHeaderTimeout: time.Second, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		ws, err := up.Upgrade(w, r, nil)
		if err != nil {
			t.Error(err)
			return
		}
		m.victim = x.Connect(ws)
		running.Go(func() { _ = m.victim.Run() })
	})}
	running.Go(func() { _ = srv.Serve(door) })
	m.toVictim = dial(door)
	initiator := noise.NewHandshakeInitiator(noise.ServerConfig{
		Identity: server, Choose: func(pairing.PublicKey) (pairing.Credential, error) { return pairing.Sentinel(), nil },
	})
	if err := m.toVictim.shake(initiator.Feed); err != nil {
		t.Fatal(err)
	}

	// The server takes him for a speaker.
	m.toServer = dial(h.front)
	responder, clientInit := noise.NewHandshakeResponder(noise.ClientConfig{
		Identity: client, Suite: noise.AESGCM, Keys: func(pairing.Category, string) (noise.Match, bool) { return noise.Match{}, false },
	})
	if err := m.toServer.ws.WriteMessage(websocket.TextMessage, clientInit); err != nil {
		t.Fatal(err)
	}
	if err := m.toServer.shake(responder.Feed); err != nil {
		t.Fatal(err)
	}
	running.Go(func() { m.toServer.passOn(m.toVictim) })
	running.Go(func() { m.toVictim.passOn(m.toServer) })
	t.Cleanup(func() {
		_ = m.toServer.ws.Close()
		_ = m.toVictim.ws.Close()
		_ = srv.Close()
		running.Wait()
	})
	synctest.Wait()
	return m
}

// A man in the middle can pass everything on, and a person who only approves
// talks to the speaker through him. Pairing finds him out: the code that the
// speaker shows, or has on its label, is not that of the server's connection, and
// its token is of another speaker than he is. Nobody keeps a key.
func TestManInTheMiddle(t *testing.T) {
	for _, x := range []struct {
		name  string
		label bool
		pair  func(h *house, m *mallory, pid, label string)
	}{
		{"the code that it shows", false, func(h *house, m *mallory, pid, _ string) {
			h.must(Pair{PID: pid, Method: protocol.PairByDynamicCode})
			for round := 1; round <= 5; round++ {
				if p := h.player(pid).Pairing; p.Step != PairCode || p.Round != round {
					h.t.Fatalf("pairing: %+v, want round %d", p, round)
				}
				h.must(Pair{PID: pid, Secret: Secret(m.victim.Code())})
				synctest.Wait()
			}
		}},
		{"the code on its label", true, func(h *house, m *mallory, pid, label string) {
			h.must(Pair{PID: pid, Method: protocol.PairByStaticCode, Secret: Secret(label)})
			if err := m.victim.Gesture(); err != nil {
				h.t.Fatal(err)
			}
			synctest.Wait()
			if p := h.player(pid).Pairing; p.Step != PairFailed {
				h.t.Errorf("pairing: %+v", p)
			}
		}},
		{"its token", false, func(h *house, m *mallory, pid, _ string) {
			if _, err := h.Do(h.t.Context(), Pair{PID: pid, Secret: Secret(m.victim.Token())}); err == nil || !strings.Contains(err.Error(), "another speaker") {
				h.t.Errorf("got %v", err)
			}
		}},
	} {
		t.Run(x.name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				h := newHouse(t)
				set, label := static(t)
				victim := sealtest.New("kitchen")
				set(victim) // which it offers only if it can show none
				if !x.label {
					dynamic(protocol.CodeDigits)(victim)
				}
				m := meddle(t, h, victim)
				pid := ""
				for _, p := range h.Snapshot().Players {
					if p.ClientID == m.id {
						pid = p.PID
					}
				}
				h.must(Approve{PID: pid, On: true})
				h.must(setVolume(pid, 7))
				victim.Set(func() {
					if victim.Volume != 7 {
						t.Errorf("volume %d: he does not pass everything on", victim.Volume)
					}
				})
				x.pair(h, m, pid, label)
				if _, ok := h.keys.get(m.id); ok {
					t.Error("the server keeps a key")
				}
				victim.Set(func() {
					if n := len(victim.Book.Peers()); n != 0 {
						t.Errorf("the speaker keeps %d keys", n)
					}
				})
				if p := h.player(pid); p.Trust != TrustApproved || p.Pairing != nil && p.Pairing.Step == PairDone {
					t.Errorf("trust %s, pairing %+v", p.Trust, p.Pairing)
				}
			})
		})
	}
}
