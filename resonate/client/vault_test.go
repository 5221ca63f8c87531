package client

import (
	"crypto/rand"
	"errors"
	"fmt"
	"testing"
	"time"

	"resonatebridge/resonate/internal/dialect"
	"resonatebridge/resonate/internal/noise"
	"resonatebridge/resonate/pairing"
	"resonatebridge/resonate/protocol"
	"resonatebridge/tests/pipe"
	"resonatebridge/timesync"

	"github.com/gorilla/websocket"
)

// vault is the server's end of one encrypted connection. Everything happens in
// the test's goroutine: it reads only where the test waits for something.
type vault struct {
	t       *testing.T
	conn    *websocket.Conn
	clock   func() timesync.Micros
	channel *noise.Channel
	in      *noise.Opener
	parts   noise.Assembler
	wire    *dialect.ServerWire
	hello   protocol.ClientHello
	pairing *pairing.Server
	got     []protocol.ClientMessage // all but client/time
	times   int
	failed  error // why reading ended
}

func newIdentity(t *testing.T) pairing.Identity {
	t.Helper()
	id, err := pairing.NewIdentity(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return id
}

func memory(t *testing.T, dir string) *Memory {
	t.Helper()
	m, err := OpenMemory(dir)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// knock dials a player that listens and shakes hands; channel is nil if the
// player went away.
func knock(t *testing.T, l *pipe.Listener, id pairing.Identity, c pairing.Credential) *vault {
	t.Helper()
	d := websocket.Dialer{NetDialContext: l.DialContext, HandshakeTimeout: time.Second}
	conn, resp, err := d.DialContext(t.Context(), "ws://player/sendspin", nil)
	if err != nil {
		t.Fatal(err)
	}
	_ = resp.Body.Close()
	v := &vault{t: t, conn: conn, clock: serverClock(time.Now()), parts: noise.Assembler{Old: true}}
	t.Cleanup(func() { _ = conn.Close() })
	h := noise.NewHandshakeInitiator(noise.ServerConfig{Identity: id, Choose: func(pairing.PublicKey) (pairing.Credential, error) { return c, nil }})
	for v.channel == nil {
		k, data, err := conn.ReadMessage()
		if err != nil {
			v.failed = err
			return v
		}
		step, err := h.Feed(k == websocket.BinaryMessage, data)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range step.Send {
			if err := conn.WriteMessage(websocket.TextMessage, m); err != nil {
				t.Fatal(err)
			}
		}
		v.channel = step.Channel
	}
	v.in = v.channel.Receive
	return v
}

// open knocks and exchanges hellos.
func open(t *testing.T, l *pipe.Listener, id pairing.Identity, c pairing.Credential) *vault {
	t.Helper()
	v := knock(t, l, id, c)
	if v.failed != nil {
		t.Fatal(v.failed)
	}
	v.frame(dialect.EncryptedHello(protocol.ServerHello{Name: "House"}))
	v.greeted()
	v.pairing = pairing.NewServer(v.channel.Pairing(v.wire.OldPairing()), &v.hello.Trust.Methods, rand.Reader)
	return v
}

// greeted reads the client's hello.
func (v *vault) greeted() {
	v.t.Helper()
	message := v.message()
	if message == nil {
		v.t.Fatal(v.failed)
	}
	var err error
	if v.wire, v.hello, err = dialect.AcceptEncrypted(dialect.FrameOf(message), v.channel.Peer.ID()); err != nil {
		v.t.Fatal(err)
	}
}

// frame seals and sends.
func (v *vault) frame(f dialect.Frame) {
	v.t.Helper()
	old := v.wire != nil && v.wire.OldFragments()
	for part := range noise.Fragments(nil, f.AppendMessage(nil), old) {
		frame, err := v.channel.Send.Seal(nil, part)
		if err != nil {
			v.t.Fatal(err)
		}
		v.raw(websocket.BinaryMessage, frame)
	}
}

func (v *vault) raw(kind int, data []byte) {
	_ = v.conn.WriteMessage(kind, data) // a player that is gone is seen where it is read
}

func (v *vault) send(messages ...protocol.ServerMessage) {
	v.t.Helper()
	for _, m := range messages {
		frames, err := v.wire.Encode(m)
		if err != nil {
			v.t.Fatal(err)
		}
		for _, f := range frames {
			v.frame(f)
		}
	}
}

// message reads what completes a message; nil after the end.
func (v *vault) message() []byte {
	v.t.Helper()
	for {
		k, data, err := v.conn.ReadMessage()
		if err != nil {
			v.failed = err
			return nil
		}
		if k != websocket.BinaryMessage {
			v.t.Fatalf("got %q in the clear", data)
		}
		message, err := v.in.Open(nil, data)
		if err != nil {
			v.t.Fatal(err)
		}
		if message, err = v.parts.Feed(message); err != nil {
			v.t.Fatal(err)
		}
		if message != nil {
			return message
		}
	}
}

// next reads one message other than client/time, which it answers; nil after
// the end.
func (v *vault) next() protocol.ClientMessage {
	v.t.Helper()
	for {
		message := v.message()
		if message == nil {
			return nil
		}
		received := v.clock()
		m, notes, err := v.wire.Decode(dialect.FrameOf(message))
		if err != nil || len(notes) > 0 {
			v.t.Fatalf("got %s: %v, %v", message, err, notes)
		}
		if m, ok := m.(protocol.ClientTime); ok {
			v.times++
			v.send(protocol.ServerTime{ClientTransmitted: m.ClientTransmitted, ServerReceived: received, ServerTransmitted: v.clock()})
			continue
		}
		v.got = append(v.got, m)
		return m
	}
}

// expect reads on until a message of one type.
func expect[T protocol.ClientMessage](v *vault) T {
	v.t.Helper()
	for {
		m := v.next()
		if m == nil {
			v.t.Fatalf("got the end: %v; before it %+v; want %T", v.failed, v.got, *new(T))
		}
		if m, ok := m.(T); ok {
			return m
		}
	}
}

// rest reads to the end and tells what came, the close frame's text last.
func (v *vault) rest() string {
	v.t.Helper()
	_ = v.conn.SetReadDeadline(time.Now().Add(time.Minute))
	out := ""
	for m := v.next(); m != nil; m = v.next() {
		out += fmt.Sprintf("%T%+v ", m, m)
	}
	var e *websocket.CloseError
	if errors.As(v.failed, &e) && e.Code == websocket.CloseNormalClosure {
		return out + "close " + e.Text
	}
	return out + "cut"
}

// quiet reads for a while and tells what came besides client/time.
func (v *vault) quiet(d time.Duration) string {
	v.t.Helper()
	before := len(v.got)
	end := time.AfterFunc(d, func() { _ = v.conn.SetReadDeadline(time.Now()) })
	defer end.Stop()
	for v.next() != nil {
	}
	return fmt.Sprintf("%+v", v.got[before:])
}

// activate declares what the connection is for.
func (v *vault) activate(m protocol.ServerActivate) { v.t.Helper(); v.send(m) }

var (
	playing = protocol.ServerActivate{
		Activities:  []protocol.Activity{protocol.ActivityPlayback},
		ActiveRoles: []protocol.Role{protocol.RolePlayer, protocol.RoleController, protocol.RoleMetadata},
	}
	idle = protocol.ServerActivate{ActiveRoles: []protocol.Role{}}
)

// rekey replaces the keys; the caller activates.
func (v *vault) rekey(c pairing.Credential) error {
	v.t.Helper()
	frame, h, err := v.channel.Rehandshake(nil, c)
	if err != nil {
		v.t.Fatal(err)
	}
	v.raw(websocket.BinaryMessage, frame)
	for {
		message := v.message()
		if message == nil {
			return v.failed
		}
		text, ok := noise.HandshakeText(message)
		if !ok {
			continue // sent before message 1 came
		}
		step, err := h.Feed(false, text)
		if err != nil {
			return err
		}
		v.channel, v.in = step.Channel, step.Channel.Receive
		break
	}
	v.pairing.Rekeyed(v.channel.Pairing(v.wire.OldPairing()))
	if v.wire.Old() {
		v.frame(dialect.EncryptedHello(protocol.ServerHello{Name: "House"}))
		v.greeted()
	}
	return nil
}

// pair runs an attempt and returns the new credential. enter is asked for the
// code of each round.
func (v *vault) pair(choice protocol.PairingChoice, psk protocol.PSK, enter func(round uint32) string) pairing.Credential {
	v.t.Helper()
	if err := v.pairing.Activate(time.Now(), choice, psk); err != nil {
		v.t.Fatal(err)
	}
	v.activate(protocol.ServerActivate{Activities: []protocol.Activity{protocol.ActivityPairing}, ActiveRoles: []protocol.Role{}, Pairing: &choice})
	round := uint32(0)
	for {
		st := v.pairing.Status()
		switch {
		case st.Phase == pairing.PhaseStoring:
			c := pairing.Credential{PSK: v.pairing.Result(), Category: pairing.LongTerm}
			v.send(v.pairing.Stored()...)
			return c
		case st.Phase == pairing.PhaseCode && st.Round > round:
			round = st.Round
			out, err := v.pairing.Enter(enter(round))
			if err != nil {
				v.t.Fatal(err)
			}
			v.send(out...)
		case st.Phase == pairing.PhaseEnded:
			return pairing.Credential{}
		}
		m := v.next()
		if m == nil {
			v.t.Fatalf("got the end while %s: %v", st.Phase, v.failed)
		}
		out, err := v.pairing.Receive(time.Now(), m)
		if err != nil {
			v.t.Fatal(err)
		}
		v.send(out...)
	}
}
