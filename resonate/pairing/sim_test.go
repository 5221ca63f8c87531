package pairing

import (
	"bytes"
	"crypto/cipher"
	"crypto/rand"
	"errors"
	"testing"
	"time"

	"resonatebridge/resonate/protocol"
)

var (
	tokenChoice  = protocol.PairingChoice{Method: protocol.PairByPSK}
	digitsChoice = protocol.PairingChoice{Method: protocol.PairByDynamicCode, Format: protocol.CodeDigits}
	qrChoice     = protocol.PairingChoice{Method: protocol.PairByDynamicCode, Format: protocol.CodeQR}
	staticChoice = protocol.PairingChoice{Method: protocol.PairByStaticCode}
)

// pair is a server and a client on one connection. Messages wait in two queues
// until they are delivered.
type pair struct {
	t      testing.TB
	now    time.Time
	device *Device
	server *Server
	client *Client
	toS    []protocol.ClientMessage
	toC    []protocol.ServerMessage
}

// suites are the two ciphers that a connection may have.
var suites = map[string]func([]byte) (cipher.AEAD, error){"ChaChaPoly": chacha, "AESGCM": aesGCM}

func newDevice(t testing.TB, choice protocol.PairingChoice) *Device {
	t.Helper()
	d := &Device{PairingKey: pskOf(t, run(0x40, 32))}
	switch choice.Method {
	case protocol.PairByDynamicCode:
		d.Dynamic = &protocol.DynamicCode{Channels: []protocol.CodeChannel{protocol.ChannelDisplay}, Formats: []protocol.CodeFormat{protocol.CodeDigits, protocol.CodeQR}}
	case protocol.PairByStaticCode:
		var err error
		if d.Static, err = ParseStaticCode("1234-5678"); err != nil {
			t.Fatal(err)
		}
	case protocol.PairByPSK:
	}
	return d
}

// channelFor is a connection as the method needs it. hash names the connection.
func channelFor(choice protocol.PairingChoice, hash byte) Channel {
	ch := Channel{Hash: arr32(bytes.Repeat([]byte{hash}, 32)), Category: SentinelID, AEAD: chacha}
	if choice.Method == protocol.PairByPSK {
		ch.Category = PairingKey
	}
	return ch
}

func newPair(t testing.TB, choice protocol.PairingChoice) *pair {
	t.Helper()
	return connect(t, newDevice(t, choice), channelFor(choice, 1))
}

// connect opens a connection to a device.
func connect(t testing.TB, d *Device, ch Channel) *pair {
	t.Helper()
	return &pair{
		t: t, now: time.Unix(1_000_000, 0), device: d,
		server: NewServer(ch, d.Methods(), rand.Reader),
		client: NewClient(d, ch, "press the button", rand.Reader),
	}
}

// activate begins an attempt; the server's activation reaches the client.
func (p *pair) activate(choice protocol.PairingChoice) {
	p.t.Helper()
	if err := p.server.Activate(p.now, choice, p.psk(choice)); err != nil {
		p.t.Fatal(err)
	}
	p.activated(protocol.ServerActivate{Activities: []protocol.Activity{protocol.ActivityPairing}, Pairing: &choice})
}

func (p *pair) psk(choice protocol.PairingChoice) protocol.PSK {
	if choice.Method == protocol.PairByPSK {
		return p.device.PairingKey
	}
	return protocol.PSK{}
}

func (p *pair) activated(m protocol.ServerActivate) {
	p.t.Helper()
	out, err := p.client.Activated(p.now, m)
	p.fromClient(out, err)
}

func (p *pair) fromClient(out []protocol.ClientMessage, err error) {
	p.t.Helper()
	if err != nil {
		p.t.Fatal(err)
	}
	p.toS = append(p.toS, out...)
}

func (p *pair) fromServer(out []protocol.ServerMessage, err error) {
	p.t.Helper()
	if err != nil {
		p.t.Fatal(err)
	}
	p.toC = append(p.toC, out...)
}

// pump delivers what waits until nothing does.
func (p *pair) pump() {
	p.t.Helper()
	for len(p.toS) > 0 || len(p.toC) > 0 {
		for len(p.toS) > 0 {
			m := p.toS[0]
			p.toS = p.toS[1:]
			p.fromServer(p.server.Receive(p.now, m))
		}
		for len(p.toC) > 0 {
			m := p.toC[0]
			p.toC = p.toC[1:]
			p.fromClient(p.client.Receive(m))
		}
	}
}

func (p *pair) enter(input string) {
	p.t.Helper()
	p.fromServer(p.server.Enter(input))
	p.pump()
}

func (p *pair) gesture() {
	p.t.Helper()
	p.device.Gesture(p.now)
	p.fromClient(p.client.Tick(p.now))
	p.pump()
}

// tick advances the time of both sides.
func (p *pair) tick(d time.Duration) {
	p.t.Helper()
	p.now = p.now.Add(d)
	p.fromClient(p.client.Tick(p.now))
	p.server.Tick(p.now)
	p.pump()
}

// stored completes a pairing as a server that has stored the record.
func (p *pair) stored() {
	p.t.Helper()
	p.fromServer(p.server.Stored(), nil)
	p.pump()
}

func (p *pair) wantPhases(server, client Phase) {
	p.t.Helper()
	if s, c := p.server.Status(), p.client.Status(); s.Phase != server || c.Phase != client {
		p.t.Fatalf("server: got %q (%s), want %q; client: got %q (%s), want %q", s.Phase, s.Ended, server, c.Phase, c.Ended, client)
	}
}

func (p *pair) wantEnded(server, client End) {
	p.t.Helper()
	p.wantPhases(PhaseEnded, PhaseEnded)
	if s, c := p.server.Status(), p.client.Status(); s.Ended != server || c.Ended != client {
		p.t.Fatalf("server: ended by %q, want %q; client: by %q, want %q", s.Ended, server, c.Ended, client)
	}
	if !p.server.Result().IsZero() || !p.client.Result().IsZero() {
		p.t.Fatal("an attempt that ended has left a key")
	}
}

// wantPaired checks that both sides have one key now, and returns it.
func (p *pair) wantPaired() protocol.PSK {
	p.t.Helper()
	p.wantPhases(PhaseDone, PhaseDone)
	key := p.server.Result()
	if !key.Equal(p.client.Result()) || key.Equal(p.device.PairingKey) || key.Equal(Sentinel().PSK) {
		p.t.Fatal("the sides have different keys, or one that others know")
	}
	return key
}

// wrong is a code that differs from the shown one.
func wrong(code string) string {
	last := code[len(code)-1]
	if last == 'A' || last == '0' {
		return code[:len(code)-1] + string(last+1)
	}
	return code[:len(code)-1] + string(last-1)
}

func wantProtocolError(t testing.TB, err error) {
	t.Helper()
	var pe *ProtocolError
	if !errors.As(err, &pe) {
		t.Fatalf("got %v, want a protocol error", err)
	}
}
