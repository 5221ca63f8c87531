package pairing

import (
	"crypto/rand"
	"errors"
	"fmt"
	"testing"
	"time"

	"resonatebridge/resonate/protocol"

	"pgregory.net/rapid"
)

// newRelay is a man in the middle: the client is on one of his connections, the
// server on the other. The two have handshakes, and so hashes, of their own.
func newRelay(t *testing.T, choice protocol.PairingChoice) *pair {
	t.Helper()
	p := connect(t, newDevice(t, choice), channelFor(choice, 1))
	p.server = NewServer(channelFor(choice, 2), p.device.Methods(), rand.Reader)
	return p
}

// TestRelayFailsAtTheCode: passing messages on between two connections leads
// nowhere, whichever code the person reads off.
func TestRelayFailsAtTheCode(t *testing.T) {
	for _, choice := range []protocol.PairingChoice{digitsChoice, qrChoice, staticChoice} {
		t.Run(string(choice.Method)+" "+string(choice.Format), func(t *testing.T) {
			p := newRelay(t, choice)
			p.device.Gesture(p.now)
			p.activate(choice)
			p.pump()
			code := p.client.Status().Code
			if choice == staticChoice {
				code = p.device.Static
			}
			p.enter(code.Reveal())
			if choice == staticChoice {
				p.wantEnded(End(protocol.AbortCodeMismatch), End(protocol.AbortCodeMismatch))
				return
			}
			p.wantPhases(PhaseCode, PhaseCode) // a second round, as after any wrong code
			if got := p.server.Status().Round; got != 2 {
				t.Errorf("round: got %d, want 2", got)
			}
		})
	}
}

// TestRelayWithTheCode: the man in the middle sees the digits on the speaker's
// display, pairs with the speaker himself, and answers the server with what he
// knows. The server notices that the code is of another connection.
func TestRelayWithTheCode(t *testing.T) {
	p := newRelay(t, digitsChoice)
	p.activate(digitsChoice)

	// His own connection to the speaker: he is a server that knows the code.
	mallory := NewServer(channelFor(digitsChoice, 1), p.device.Methods(), rand.Reader)
	if err := mallory.Activate(p.now, digitsChoice, protocol.PSK{}); err != nil {
		t.Fatal(err)
	}
	toSpeaker, err := mallory.Receive(p.now, p.toS[0])
	if err != nil {
		t.Fatal(err)
	}
	if _, err := p.client.Receive(toSpeaker[0]); err != nil {
		t.Fatal(err)
	}
	seen := p.client.Status().Code.Reveal() // the person reads it, too

	// His connection to the server: he is a client with a nonce of his own.
	fake := NewClient(p.device, channelFor(digitsChoice, 2), "", rand.Reader)
	out, err := fake.Activated(p.now, protocol.ServerActivate{Activities: []protocol.Activity{protocol.ActivityPairing}, Pairing: &digitsChoice})
	if err != nil {
		t.Fatal(err)
	}
	toFake, err := p.server.Receive(p.now, out[0])
	if err != nil {
		t.Fatal(err)
	}
	if _, err := fake.Receive(toFake[0]); err != nil {
		t.Fatal(err)
	}
	known, err := ParseCode(digitsChoice, seen)
	if err != nil {
		t.Fatal(err)
	}
	fake.x.get().code = known // the PAKE succeeds: both have the same digits

	toFake, err = p.server.Enter(seen)
	for err == nil && len(toFake) > 0 {
		var toServer []protocol.ClientMessage
		for _, m := range toFake {
			var got []protocol.ClientMessage
			if got, err = fake.Receive(m); err != nil {
				t.Fatal(err)
			}
			toServer = append(toServer, got...)
		}
		toFake = nil
		for _, m := range toServer {
			var got []protocol.ServerMessage
			if got, err = p.server.Receive(p.now, m); err != nil {
				break
			}
			toFake = append(toFake, got...)
		}
	}
	if !errors.Is(err, ErrRelayed) {
		t.Fatalf("got %v, want %v", err, ErrRelayed)
	}
	wantProtocolError(t, err)
	if !p.server.Result().IsZero() {
		t.Error("the server has a key of the man in the middle")
	}
}

// TestGuessing: without the code a round is one guess, and there are 20.
func TestGuessing(t *testing.T) {
	p := newPair(t, digitsChoice)
	p.activate(digitsChoice)
	p.pump()
	code := p.client.Status().Code.Reveal()
	guesses := 0
	for n := 0; n < 10*RoundLimit && p.client.Status().Phase.live(); n++ {
		if guess := fmt.Sprintf("%06d", n); guess[:3]+"-"+guess[3:] != code {
			guesses++
			p.enter(guess)
		}
	}
	if guesses != RoundLimit {
		t.Errorf("got %d guesses, want %d", guesses, RoundLimit)
	}
}

// TestTampering flips a bit of one value on its way. Whatever it is, the sides
// never end up with different keys, and if it arrived changed they do not pair.
func TestTampering(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		choice := rapid.SampledFrom([]protocol.PairingChoice{digitsChoice, qrChoice, staticChoice}).Draw(rt, "choice")
		victim := rapid.IntRange(0, 9).Draw(rt, "message")
		bit := rapid.IntRange(0, 8*protocol.TagSize-1).Draw(rt, "bit")
		p := newPair(t, choice)
		p.device.Gesture(p.now)
		p.activate(choice)
		n, hit, entered := 0, false, false
		change := func(b []byte) {
			if n == victim && len(b) > 0 {
				b[bit/8%len(b)] ^= 1 << (bit % 8)
				hit = true
			}
			n++
		}
		for step := 0; ; step++ {
			if step > 200 {
				rt.Fatal("no end")
			}
			var err error
			switch {
			case len(p.toS) > 0:
				m := tamper(p.toS[0], change).(protocol.ClientMessage)
				p.toS = p.toS[1:]
				var out []protocol.ServerMessage
				out, err = p.server.Receive(p.now, m)
				p.toC = append(p.toC, out...)
			case len(p.toC) > 0:
				m := tamper(p.toC[0], change).(protocol.ServerMessage)
				p.toC = p.toC[1:]
				var out []protocol.ClientMessage
				out, err = p.client.Receive(m)
				p.toS = append(p.toS, out...)
			case !entered && p.server.Status().Phase == PhaseCode && p.client.Status().Phase == PhaseCode:
				entered = true
				code := p.client.Status().Code
				if code.IsZero() {
					code = p.device.Static
				}
				p.fromServer(p.server.Enter(code.Reveal()))
			case p.server.Status().Phase == PhaseStoring:
				p.toC = append(p.toC, p.server.Stored()...)
			default:
				done := p.server.Status().Phase == PhaseDone
				if done && !p.server.Result().Equal(p.client.Result()) {
					rt.Fatal("the sides have different keys")
				}
				if done == hit {
					rt.Fatalf("paired: %v, tampered with: %v", done, hit)
				}
				return
			}
			if err != nil {
				if !hit {
					rt.Fatal(err)
				}
				if !p.server.Result().IsZero() && p.client.Status().Phase == PhaseDone {
					rt.Fatal("a key was kept")
				}
				return
			}
		}
	})
}

// tamper passes the bytes of a message's value to change, in a copy.
func tamper(m any, change func([]byte)) any {
	switch m := m.(type) {
	case protocol.ClientPairInit:
		if m.Commitment != nil {
			c := *m.Commitment
			m.Commitment = &c
			change(c[:])
		}
		return m
	case protocol.ServerPairInit:
		if m.Nonce != nil {
			c := *m.Nonce
			m.Nonce = &c
			change(c[:])
		}
		return m
	case protocol.ServerPairAuth:
		change(m.Share[:])
		return m
	case protocol.ClientPairAuth:
		change(m.Share[:])
		return m
	case protocol.ServerPairConfirm:
		change(m.Tag[:])
		return m
	case protocol.ClientPairConfirm:
		if m.WrappedNonce != nil {
			c := *m.WrappedNonce
			m.WrappedNonce = &c
			change(c[:])
		}
		change(m.Tag[:])
		return m
	case protocol.ClientPairFinalize:
		if m.Wrapped != nil {
			c := *m.Wrapped
			m.Wrapped = &c
			change(c[:])
		}
		return m
	}
	return m
}

// TestAnyOrder drives both sides with arbitrary acts: messages lost, doubled and
// swapped, people who press everything, time that passes. Keys are never
// different on both sides, and never there without a code that was right.
func TestAnyOrder(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		choice := rapid.SampledFrom([]protocol.PairingChoice{tokenChoice, digitsChoice, qrChoice, staticChoice}).Draw(rt, "choice")
		p := newPair(t, choice)
		dead := false // a protocol error has closed the connection
		rightCode := false
		toServer := func(m protocol.ClientMessage) {
			out, err := p.server.Receive(p.now, m)
			dead = dead || err != nil
			p.toC = append(p.toC, out...)
		}
		toClient := func(m protocol.ServerMessage) {
			out, err := p.client.Receive(m)
			dead = dead || err != nil
			p.toS = append(p.toS, out...)
		}
		for range rapid.IntRange(1, 60).Draw(rt, "acts") {
			if dead {
				break
			}
			switch act := rapid.IntRange(0, 12).Draw(rt, "act"); act {
			case 0:
				p.toS, p.toC = nil, nil // an activation is ordered with the rest; the queues hold what is older
				p.activate(choice)
				rightCode = false
			case 1:
				code := p.client.Status().Code
				if choice == staticChoice {
					code = p.device.Static
				}
				if out, err := p.server.Enter(code.Reveal()); err == nil {
					rightCode = true
					p.toC = append(p.toC, out...)
				}
			case 2:
				if out, err := p.server.Enter("000-000"); err == nil {
					p.toC = append(p.toC, out...)
				}
			case 3:
				p.device.Gesture(p.now)
			case 4:
				p.toC = append(p.toC, p.server.Cancel()...)
			case 5:
				p.toS = append(p.toS, p.client.Cancel()...)
			case 6:
				p.sleep(rapid.Int64Range(0, 200).Draw(rt, "seconds"))
			case 7:
				p.toC = append(p.toC, p.server.Stored()...)
			case 8, 9, 10:
				if len(p.toS) > 0 {
					i := rapid.IntRange(0, len(p.toS)-1).Draw(rt, "which") * (act / 10) // mostly in order
					m := p.toS[i]
					p.toS = append(p.toS[:i:i], p.toS[i+1:]...)
					toServer(m)
				}
			case 11, 12:
				if len(p.toC) > 0 {
					m := p.toC[0]
					p.toC = p.toC[act-11:] // 11 delivers it twice
					toClient(m)
				}
			}
			s, c := p.server, p.client
			if s.Status().Phase == PhaseDone && c.Status().Phase == PhaseDone && !s.Result().Equal(c.Result()) {
				rt.Fatal("the sides have different keys")
			}
			if choice != tokenChoice && !s.Result().IsZero() && !rightCode {
				rt.Fatal("a key without the right code")
			}
			for _, phase := range []Phase{s.Status().Phase, c.Status().Phase} {
				if phase < PhaseNone || phase > PhaseEnded {
					rt.Fatalf("phase %d", phase)
				}
			}
		}
	})
}

// sleep advances the time without delivering anything.
func (p *pair) sleep(seconds int64) {
	p.now = p.now.Add(time.Duration(seconds) * time.Second)
	out, err := p.client.Tick(p.now)
	p.fromClient(out, err)
	p.server.Tick(p.now)
}
