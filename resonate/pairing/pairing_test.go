package pairing

import (
	"bytes"
	"crypto/rand"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"testing"
	"time"

	"resonatebridge/resonate/protocol"
)

func TestPairByToken(t *testing.T) {
	p := newPair(t, tokenChoice)
	p.activate(tokenChoice)
	if got := len(p.toS); got != 2 {
		t.Fatalf("got %d messages of the client, want two without waiting", got)
	}
	p.pump()
	p.wantPhases(PhaseStoring, PhaseStoring)
	if !p.client.Result().IsZero() {
		t.Error("the client has its key before the server has stored it")
	}
	p.stored()
	p.wantPaired()
}

func TestPairByCode(t *testing.T) {
	for name, aead := range suites {
		for _, choice := range []protocol.PairingChoice{digitsChoice, qrChoice} {
			t.Run(name+" "+string(choice.Format), func(t *testing.T) {
				ch := channelFor(choice, 7)
				ch.AEAD = aead
				p := connect(t, newDevice(t, choice), ch)
				p.activate(choice)
				p.pump()
				p.wantPhases(PhaseCode, PhaseCode)
				p.enter(p.client.Status().Code.Reveal())
				p.wantPhases(PhaseStoring, PhaseStoring)
				p.stored()
				p.wantPaired()
				if p.device.Rounds != 0 {
					t.Errorf("rounds since the right code: got %d, want 0", p.device.Rounds)
				}
			})
		}
		t.Run(name+" static", func(t *testing.T) {
			ch := channelFor(staticChoice, 7)
			ch.AEAD = aead
			p := connect(t, newDevice(t, staticChoice), ch)
			p.device.Gesture(p.now)
			p.activate(staticChoice)
			p.pump()
			p.enter(" 1234 5678 ")
			p.stored()
			p.wantPaired()
		})
	}
}

// TestRunMessages lets both sides make the messages of the published runs.
func TestRunMessages(t *testing.T) {
	for _, tc := range []struct {
		name           string
		choice         protocol.PairingChoice
		h              [32]byte
		server, client []byte // what is drawn
		code           string
		want           []string // pieces of the messages in order, in hex
	}{
		{
			"A digits", digitsChoice, arr32(run(0x10, 32)),
			append(run(0x80, 32), run(0x01, 32)...), bytes.Join([][]byte{run(0xa0, 32), run(0x31, 32), run(0xc0, 32)}, nil), "603-359",
			[]string{
				"d5ef42da0a58127d2fb3f8be50726049b041ca7e368969c91371f4cfb7a075cd",
				"36ab9e380ff0a24f1663ad6fd8a6bdc2d090dae733f8da507ae9d628059e476f",
				"d4074501eef9c81a12e06a0f41a59251faafef91d36ea6f822370a694fcb653a",
				"85b44e6bb1a8836abfaa128fcf028bf6174bfe7fe274360d8639fba414f4bfe83db56b787c9ddd21aee830de5a3e5ea4073b6df8ca54179db98f596683bf2df1",
				"6238d1880051a6f1c2093ee4991f954c61c6c99a779aa32f634cb1b8e6afe2b6769bbd826ee519bf2bdf58ecab08a1580c9fe00058060fcd66e94f68c1a05425",
				"806041da27e0cababd3937d66d1c15b1e8484421b6cffb75e3eda812013f8dff4b692bb8755d6d987e25d03cf32dd2af",
				"337698c41e226a6e8bb12d0579643e6a32c07f6d9f5c543ed98b5c7037e7a24ba8ba7de94764d1dd8950bf6c149f31e1",
			},
		},
		{
			"C static", staticChoice,
			[32]byte{},
			run(0x31, 32), append(run(0x01, 32), run(0xc0, 32)...), "12345678",
			[]string{
				"57994d6024157973c79fa551c57cee0d1e815d84ba644dc7cf820930a4ef9d6a",
				"4c61c97742192d98a59dea02c530a476e7e68731999e7cd915217f14aad9cc7d",
				"4da7d6bcacdf14a82c2d954229776e0ad92a63fa9f2f10c95e74596f8627356d10cbaf6076871d204c4789bc5f900d5f983900042bde222605081521aab3676e",
				"d8ea701c9284791328abd1b9e447a126c66fbdf08ffb106bb0e82f399505e18692dd1b19aab834a45f0b41f3396c6e7213f98bd52fe8059de0d0aa5dfa49d6b5",
				"949b6956b7b0805632ad9c943527247e166c1ca1c76911a11ac3c7be573a7a6c37590bc7fddba8bf32d6649cdbb0308a",
			},
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			ch := channelFor(tc.choice, 0)
			ch.Hash = tc.h
			p := connect(t, newDevice(t, tc.choice), ch)
			p.server.random, p.client.random = bytes.NewReader(tc.server), bytes.NewReader(tc.client)
			p.device.Gesture(p.now)
			p.activate(tc.choice)
			var log strings.Builder
			entered := false
			for len(p.toS) > 0 || len(p.toC) > 0 || !entered {
				for _, m := range p.toS {
					fmt.Fprintf(&log, "%s\n", bytesOf(m))
				}
				for _, m := range p.toC {
					fmt.Fprintf(&log, "%s\n", bytesOf(m))
				}
				toS, toC := p.toS, p.toC
				p.toS, p.toC = nil, nil
				for _, m := range toS {
					p.fromServer(p.server.Receive(p.now, m))
				}
				for _, m := range toC {
					p.fromClient(p.client.Receive(m))
				}
				if !entered && p.server.Status().Phase == PhaseCode && p.client.Status().Phase == PhaseCode {
					entered = true
					p.fromServer(p.server.Enter(tc.code))
				}
			}
			at := 0
			for _, piece := range tc.want {
				i := strings.Index(log.String()[at:], piece)
				if i < 0 {
					t.Fatalf("%s is missing, or out of order, in\n%s", piece, log.String())
				}
				at += i
			}
			if got := p.server.Result().Bytes(); !bytes.Equal(got, run(0xc0, 32)) {
				t.Errorf("got another key than the client made")
			}
		})
	}
}

// bytesOf spells the arrays of a message in hex.
func bytesOf(m any) string {
	v := reflect.ValueOf(m)
	var out []string
	for i := range v.NumField() {
		f := v.Field(i)
		if f.Kind() == reflect.Pointer && !f.IsNil() {
			f = f.Elem()
		}
		if f.Kind() == reflect.Array {
			out = append(out, fmt.Sprintf("%x", f.Interface()))
		}
	}
	return strings.Join(out, " ")
}

func TestWrongCodeThenRight(t *testing.T) {
	p := newPair(t, digitsChoice)
	p.activate(digitsChoice)
	p.pump()
	code := p.client.Status().Code.Reveal()
	for round := uint32(1); round <= 3; round++ {
		if got := p.server.Status().Round; got != round {
			t.Fatalf("round: got %d, want %d", got, round)
		}
		p.enter(wrong(code))
		p.wantPhases(PhaseCode, PhaseCode)
		if got := p.client.Status().Code.Reveal(); got != code {
			t.Fatalf("the code changed from %s to %s", code, got)
		}
	}
	p.enter(code)
	p.stored()
	p.wantPaired()
}

func TestRoundLimit(t *testing.T) {
	p := newPair(t, digitsChoice)
	p.activate(digitsChoice)
	p.pump()
	for range RoundLimit - 1 {
		p.enter(wrong(p.client.Status().Code.Reveal()))
		p.wantPhases(PhaseCode, PhaseCode)
	}
	p.enter(wrong(p.client.Status().Code.Reveal()))
	p.wantEnded(End(protocol.AbortCodeMismatch), End(protocol.AbortCodeMismatch))

	// The count is the device's: another server is held back, too.
	q := connect(t, p.device, channelFor(digitsChoice, 9))
	q.activate(digitsChoice)
	q.pump()
	q.wantPhases(PhasePending, PhasePending)
	if got := q.server.Status().Message; got != "press the button" {
		t.Errorf("message: got %q", got)
	}
	q.gesture()
	q.wantPhases(PhaseCode, PhaseCode)
	q.enter(q.client.Status().Code.Reveal())
	q.stored()
	q.wantPaired()
}

func TestCancelledRoundsCount(t *testing.T) {
	d := newDevice(t, digitsChoice)
	for i := range RoundLimit {
		p := connect(t, d, channelFor(digitsChoice, byte(i)))
		p.activate(digitsChoice)
		p.pump()
		p.wantPhases(PhaseCode, PhaseCode)
		p.fromServer(p.server.Cancel(), nil)
		p.pump()
		p.wantEnded(End(protocol.AbortUserCancelled), End(protocol.AbortUserCancelled))
	}
	p := connect(t, d, channelFor(digitsChoice, 99))
	p.activate(digitsChoice)
	p.pump()
	p.wantPhases(PhasePending, PhasePending)
}

func TestStaticWindow(t *testing.T) {
	p := newPair(t, staticChoice)
	p.activate(staticChoice)
	p.pump()
	p.wantPhases(PhasePending, PhasePending)
	if p.client.InProgress() {
		t.Error("an attempt that is held back is in progress")
	}
	p.tick(time.Minute)
	p.wantPhases(PhasePending, PhasePending)
	p.gesture()
	p.wantPhases(PhaseCode, PhaseCode)

	for i := range windowFailures {
		if i > 0 {
			p.activate(staticChoice)
			p.pump()
			p.wantPhases(PhaseCode, PhaseCode)
		}
		p.enter("87654321")
		p.wantEnded(End(protocol.AbortCodeMismatch), End(protocol.AbortCodeMismatch))
	}
	p.activate(staticChoice)
	p.pump()
	p.wantPhases(PhasePending, PhasePending) // five failures have closed it
	p.gesture()
	p.enter("12345678")
	p.stored()
	p.wantPaired()

	p.activated(protocol.ServerActivate{})
	p.activate(staticChoice)
	p.pump()
	p.wantPhases(PhasePending, PhasePending) // so has success
}

func TestWindowBelongsToOneConnection(t *testing.T) {
	p := newPair(t, staticChoice)
	p.device.Gesture(p.now)
	p.activate(staticChoice)
	p.pump()
	p.wantPhases(PhaseCode, PhaseCode)

	q := connect(t, p.device, channelFor(staticChoice, 2))
	q.activate(staticChoice)
	q.pump()
	q.wantPhases(PhasePending, PhasePending)
	p.client.Closed()
	q.tick(time.Second)
	q.wantPhases(PhasePending, PhasePending) // it has closed, not changed hands
	q.gesture()
	q.wantPhases(PhaseCode, PhaseCode)
}

func TestWindowLifetime(t *testing.T) {
	p := newPair(t, staticChoice)
	p.device.Gesture(p.now)
	p.tick(windowLifetime - time.Second)
	p.activate(staticChoice)
	p.pump()
	p.wantPhases(PhaseCode, PhaseCode)
	p.tick(2 * time.Second) // the running attempt may finish
	p.enter("12345678")
	p.stored()
	p.wantPaired()

	p = newPair(t, staticChoice)
	p.device.Gesture(p.now)
	p.tick(windowLifetime)
	p.activate(staticChoice)
	p.pump()
	p.wantPhases(PhasePending, PhasePending)
}

func TestLocalCancelClosesTheWindow(t *testing.T) {
	p := newPair(t, staticChoice)
	p.device.Gesture(p.now)
	p.activate(staticChoice)
	p.pump()
	p.fromClient(p.client.Cancel(), nil)
	p.pump()
	p.wantEnded(End(protocol.AbortUserCancelled), End(protocol.AbortUserCancelled))
	p.activate(staticChoice)
	p.pump()
	p.wantPhases(PhasePending, PhasePending)
	if out := newPair(t, staticChoice).client.Cancel(); out != nil {
		t.Errorf("nothing goes on: got %v, want no message", out)
	}
}

func TestStaticCodeMayComeEarly(t *testing.T) {
	p := newPair(t, staticChoice)
	p.activate(staticChoice)
	p.pump()
	p.enter("12345678")
	p.wantPhases(PhasePending, PhasePending)
	p.gesture()
	p.wantPhases(PhaseStoring, PhaseStoring)
	p.stored()
	p.wantPaired()
}

func TestCodeAtTheWrongTime(t *testing.T) {
	for _, tc := range []struct {
		name string
		at   func(p *pair)
		want Phase
	}{
		{"before any attempt", func(*pair) {}, PhaseNone},
		{"before there is a code", func(p *pair) { p.activate(digitsChoice) }, PhaseWaiting},
		{"while one is checked", func(p *pair) {
			p.activate(digitsChoice)
			p.pump()
			if _, err := p.server.Enter("000000"); err != nil {
				p.t.Fatal(err)
			}
		}, PhaseChecking},
		{"after the end", func(p *pair) { p.activate(digitsChoice); p.pump(); p.tick(attemptTimeout) }, PhaseEnded},
		{"after success", func(p *pair) {
			p.activate(digitsChoice)
			p.pump()
			p.enter(p.client.Status().Code.Reveal())
			p.stored()
		}, PhaseDone},
	} {
		t.Run(tc.name, func(t *testing.T) {
			p := newPair(t, digitsChoice)
			tc.at(p)
			out, err := p.server.Enter("123456")
			if !errors.Is(err, ErrNoCode) || out != nil {
				t.Errorf("got %v, %v, want %v", out, err, ErrNoCode)
			}
			if got := p.server.Status().Phase; got != tc.want {
				t.Errorf("phase: got %q, want %q", got, tc.want)
			}
		})
	}
}

func TestBadInputIsNoEnd(t *testing.T) {
	p := newPair(t, digitsChoice)
	p.activate(digitsChoice)
	p.pump()
	code := p.client.Status().Code.Reveal()
	for _, input := range []string{"", "12345", "1234567", "12345x", "SP:1AAAA", "１２３４５６"} {
		_, err := p.server.Enter(input)
		var bad *InputError
		if !errors.As(err, &bad) {
			t.Errorf("%q: got %v, want an input error", input, err)
		}
		if input != "" && strings.Contains(err.Error(), input) {
			t.Errorf("%q: the error shows the input: %v", input, err)
		}
		p.wantPhases(PhaseCode, PhaseCode)
	}
	p.enter(strings.ReplaceAll(code, "-", " "))
	p.wantPhases(PhaseStoring, PhaseStoring)
}

func TestServerTimeouts(t *testing.T) {
	for _, tc := range []struct {
		name   string
		choice protocol.PairingChoice
		reach  func(p *pair)
		after  time.Duration
	}{
		{"no first message", digitsChoice, func(p *pair) { p.activate(digitsChoice); p.toS = nil }, serverFirstTimeout},
		{"held back", staticChoice, func(p *pair) { p.activate(staticChoice); p.pump() }, serverPendingTimeout},
		{"no code", digitsChoice, func(p *pair) { p.activate(digitsChoice); p.pump() }, serverAttemptTimeout},
		{"client silent after the code", digitsChoice, func(p *pair) {
			p.activate(digitsChoice)
			p.pump()
			if _, err := p.server.Enter("123456"); err != nil {
				p.t.Fatal(err)
			}
		}, serverAttemptTimeout},
		{"token", tokenChoice, func(p *pair) { p.activate(tokenChoice); p.toS = nil }, serverFirstTimeout},
	} {
		t.Run(tc.name, func(t *testing.T) {
			p := newPair(t, tc.choice)
			tc.reach(p)
			if got, want := p.server.Deadline(), p.now.Add(tc.after); !got.Equal(want) {
				t.Fatalf("deadline: got %v, want %v", got, want)
			}
			if p.server.Tick(p.now.Add(tc.after - time.Nanosecond)) {
				t.Fatal("ended too early")
			}
			if !p.server.Tick(p.now.Add(tc.after)) || p.server.Status().Ended != EndNoAnswer {
				t.Fatalf("got %+v, want an end", p.server.Status())
			}
			if p.server.Tick(p.now.Add(tc.after)) || !p.server.Deadline().IsZero() {
				t.Error("ended twice")
			}
		})
	}
}

func TestClientTimeout(t *testing.T) {
	p := newPair(t, digitsChoice)
	p.activate(digitsChoice)
	p.pump()
	if got, want := p.client.Deadline(), p.now.Add(attemptTimeout); !got.Equal(want) {
		t.Fatalf("deadline: got %v, want %v", got, want)
	}
	p.tick(attemptTimeout - time.Second)
	p.enter(wrong(p.client.Status().Code.Reveal())) // a round does not extend it
	p.wantPhases(PhaseCode, PhaseCode)
	p.tick(time.Second)
	p.wantEnded(End(protocol.AbortTimeout), End(protocol.AbortTimeout))
	if !p.client.Deadline().IsZero() {
		t.Error("a deadline without an attempt")
	}
}

// TestPendingRepeatsGainNoTime holds an attempt back for ever.
func TestPendingRepeatsGainNoTime(t *testing.T) {
	p := newPair(t, staticChoice)
	p.activate(staticChoice)
	p.pump()
	end := p.server.Deadline()
	p.now = p.now.Add(time.Minute)
	p.toS = append(p.toS, protocol.ClientPairPending{Index: 1, Message: "again"})
	p.pump()
	if got := p.server.Deadline(); !got.Equal(end) || p.server.Status().Message != "again" {
		t.Errorf("got %v and %q, want %v and the new message", got, p.server.Status().Message, end)
	}
}

func TestPendingMessageIsPlainText(t *testing.T) {
	for in, want := range map[string]string{
		"press \x1b[31mthe\x00 button\n": "press [31mthe button",
		"\u202egnp.exe":                  "gnp.exe",
		strings.Repeat("ä", 300):         strings.Repeat("ä", protocol.PairMessageMax),
	} {
		if got := plain(in); got != want {
			t.Errorf("%q: got %q, want %q", in, got, want)
		}
	}
}

// TestLateMessages: what a client sent before it heard of the end is discarded.
func TestLateMessages(t *testing.T) {
	ends := map[string]func(p *pair){
		"cancelled":  func(p *pair) { p.server.Cancel() },
		"left":       func(p *pair) { p.server.Leave() },
		"timed out":  func(p *pair) { p.server.Tick(p.now.Add(time.Hour)) },
		"superseded": func(*pair) {},
	}
	late := []protocol.ClientMessage{
		protocol.ClientPairPending{Index: 1},
		protocol.ClientPairInit{Index: 1, Commitment: new([32]byte)},
		protocol.ClientPairAuth{},
		protocol.ClientPairRetry{},
		protocol.ClientPairConfirm{WrappedNonce: new([48]byte)},
		protocol.ClientPairFinalize{Wrapped: new([48]byte)},
		protocol.PairAbort{Reason: protocol.AbortTimeout},
	}
	for name, end := range ends {
		t.Run(name, func(t *testing.T) {
			p := newPair(t, digitsChoice)
			p.activate(digitsChoice)
			p.pump()
			end(p)
			if name != "superseded" {
				for _, m := range late {
					if out, err := p.server.Receive(p.now, m); out != nil || err != nil {
						t.Errorf("%T: got %v, %v, want it discarded", m, out, err)
					}
				}
			}
			if err := p.server.Activate(p.now, digitsChoice, protocol.PSK{}); err != nil {
				t.Fatal(err)
			}
			for _, m := range late[:6] { // an abort of before can't be told from one of now
				if out, err := p.server.Receive(p.now, m); out != nil || err != nil {
					t.Errorf("%T: got %v, %v, want it discarded", m, out, err)
				}
			}
			p.activated(protocol.ServerActivate{Activities: []protocol.Activity{protocol.ActivityPairing}, Pairing: &digitsChoice})
			p.pump()
			p.enter(p.client.Status().Code.Reveal())
			p.stored()
			p.wantPaired()
		})
	}
}

// TestActivationInPlaceOfFinalize: neither side keeps anything.
func TestActivationInPlaceOfFinalize(t *testing.T) {
	for _, choice := range []protocol.PairingChoice{tokenChoice, digitsChoice} {
		p := newPair(t, choice)
		p.activate(choice)
		p.pump()
		if choice == digitsChoice {
			p.enter(p.client.Status().Code.Reveal())
		}
		p.wantPhases(PhaseStoring, PhaseStoring)
		p.server.Leave()
		p.activated(protocol.ServerActivate{})
		p.pump()
		p.wantEnded(EndLeft, EndLeft)
		if out := p.server.Stored(); out != nil {
			t.Errorf("got %v, want nothing: it is over", out)
		}
	}
}

func TestClientDiscardsAfterItsAbort(t *testing.T) {
	p := newPair(t, digitsChoice)
	p.activate(digitsChoice)
	p.pump()
	p.client.Cancel()
	for _, m := range []protocol.ServerMessage{
		protocol.ServerPairInit{},
		protocol.ServerPairAuth{},
		protocol.ServerPairConfirm{},
		protocol.ServerPairFinalize{},
		protocol.PairAbort{Reason: protocol.AbortUserCancelled},
	} {
		if out, err := p.client.Receive(m); out != nil || err != nil {
			t.Errorf("%T: got %v, %v, want it discarded", m, out, err)
		}
	}
	p.activated(protocol.ServerActivate{})
	if _, err := p.client.Receive(protocol.ServerPairFinalize{}); err == nil {
		t.Error("after the next activation: got no error, want one")
	}
}

func TestPairingIndex(t *testing.T) {
	p := newPair(t, digitsChoice)
	// A choice that is refused counts on both sides.
	p.server.index++
	p.activated(protocol.ServerActivate{Activities: []protocol.Activity{protocol.ActivityPairing}, Pairing: &staticChoice})
	if got := p.toS; len(got) != 1 || got[0] != (protocol.PairAbort{Reason: protocol.AbortMethodNotSupported}) {
		t.Fatalf("got %v, want an abort", got)
	}
	p.pump()
	p.activate(digitsChoice)
	if got := p.toS[0].(protocol.ClientPairInit).Index; got != 2 {
		t.Fatalf("index: got %d, want 2", got)
	}
	p.pump()
	p.enter(p.client.Status().Code.Reveal())
	p.stored()
	p.wantPaired()

	p.server.Rekeyed(channelFor(digitsChoice, 5))
	p.client.Rekeyed(channelFor(digitsChoice, 5))
	p.activate(digitsChoice)
	if got := p.toS[0].(protocol.ClientPairInit).Index; got != 1 {
		t.Fatalf("index after a re-handshake: got %d, want 1", got)
	}

	_, err := p.server.Receive(p.now, protocol.ClientPairInit{Index: 2, Commitment: new([32]byte)})
	wantProtocolError(t, err)
}

func TestChoices(t *testing.T) {
	none := protocol.PSK{}
	psk := pskOf(t, run(1, 32))
	lt := Channel{Category: LongTerm, AEAD: chacha}
	for _, tc := range []struct {
		name   string
		device protocol.PairingChoice
		ch     Channel
		choice protocol.PairingChoice
		psk    protocol.PSK
		want   error
	}{
		{"token on a connection keyed by it", tokenChoice, channelFor(tokenChoice, 1), tokenChoice, psk, nil},
		{"token without its key", tokenChoice, channelFor(tokenChoice, 1), tokenChoice, none, ErrChoice},
		{"token on an open connection", tokenChoice, channelFor(digitsChoice, 1), tokenChoice, psk, ErrChoice},
		{"token on a paired one", tokenChoice, lt, tokenChoice, psk, ErrChoice},
		{"code on an open one", digitsChoice, channelFor(digitsChoice, 1), qrChoice, none, nil},
		{"code on one keyed by the token", digitsChoice, channelFor(tokenChoice, 1), digitsChoice, none, ErrChoice},
		{"code on a paired one", digitsChoice, lt, digitsChoice, none, ErrChoice},
		{"code that is not offered", staticChoice, channelFor(staticChoice, 1), digitsChoice, none, ErrChoice},
		{"code without a format", digitsChoice, channelFor(digitsChoice, 1), protocol.PairingChoice{Method: protocol.PairByDynamicCode}, none, ErrChoice},
		{"code of an old speaker", staticChoice, Channel{Category: SentinelID, AEAD: chacha, Old: true}, staticChoice, none, ErrOutdated},
		{"no way at all", staticChoice, channelFor(staticChoice, 1), protocol.PairingChoice{}, none, ErrChoice},
	} {
		t.Run(tc.name, func(t *testing.T) {
			d := newDevice(t, tc.device)
			s := NewServer(tc.ch, d.Methods(), rand.Reader)
			err := s.Activate(time.Now(), tc.choice, tc.psk)
			if !errors.Is(err, tc.want) {
				t.Errorf("server: got %v, want %v", err, tc.want)
			}
			if err != nil && s.Status().Phase != PhaseNone {
				t.Errorf("something has begun: %+v", s.Status())
			}
			if tc.name == "token without its key" {
				return // the client can't tell
			}
			c := NewClient(d, tc.ch, "", rand.Reader)
			out, err := c.Activated(time.Now(), protocol.ServerActivate{Activities: []protocol.Activity{protocol.ActivityPairing}, Pairing: &tc.choice})
			if err != nil {
				t.Fatal(err)
			}
			refused := len(out) == 1 && out[0] == (protocol.PairAbort{Reason: protocol.AbortMethodNotSupported})
			if refused != (tc.want != nil) {
				t.Errorf("client: got %v, want it refused: %v", out, tc.want != nil)
			}
		})
	}
	if err := NewServer(channelFor(digitsChoice, 1), nil, rand.Reader).Activate(time.Now(), digitsChoice, none); !errors.Is(err, ErrChoice) {
		t.Errorf("a client that offers nothing: got %v, want %v", err, ErrChoice)
	}
}

// TestOldTokenPairing is the token method before 1.0.0-rc1: one message.
func TestOldTokenPairing(t *testing.T) {
	ch := channelFor(tokenChoice, 1)
	ch.Old = true
	p := connect(t, newDevice(t, tokenChoice), ch)
	p.activate(tokenChoice)
	if len(p.toS) != 1 {
		t.Fatalf("got %v, want client/pair-finalize alone", p.toS)
	}
	p.pump()
	p.stored()
	p.wantPaired()
}

// TestKeyThatOthersKnow: a client must not make the pairing key, or a public
// one, its long-term key.
func TestKeyThatOthersKnow(t *testing.T) {
	for name, key := range map[string]protocol.PSK{"the pairing key": newDevice(t, tokenChoice).PairingKey, "the Sentinel": Sentinel().PSK} {
		p := newPair(t, tokenChoice)
		p.activate(tokenChoice)
		p.toS[1] = protocol.ClientPairFinalize{LongTerm: key}
		if _, err := p.server.Receive(p.now, p.toS[0]); err != nil {
			t.Fatal(err)
		}
		_, err := p.server.Receive(p.now, p.toS[1])
		wantProtocolError(t, err)
		if !p.server.Result().IsZero() {
			t.Errorf("%s: was taken", name)
		}
	}
}

// TestOutOfSequence gives each message to each side in each phase where it has
// no place.
func TestOutOfSequence(t *testing.T) {
	reach := map[string]func(p *pair){
		"waiting": func(p *pair) { p.activate(digitsChoice); p.toS = nil },
		"pending": func(p *pair) { p.device.Rounds = RoundLimit; p.activate(digitsChoice); p.pump() },
		"code":    func(p *pair) { p.activate(digitsChoice); p.pump() },
		"checking": func(p *pair) {
			p.activate(digitsChoice)
			p.pump()
			p.fromServer(p.server.Enter("000000"))
			p.toC = nil
		},
		"storing": func(p *pair) { p.activate(digitsChoice); p.pump(); p.enter(p.client.Status().Code.Reveal()) },
		"done": func(p *pair) {
			p.activate(digitsChoice)
			p.pump()
			p.enter(p.client.Status().Code.Reveal())
			p.stored()
		},
	}
	legalForServer := map[string]string{
		"waiting": "Pending Init", "pending": "Pending Init", "code": "", "checking": "Auth", "storing": "",
		"done": "Pending Init", // both as leftovers of an attempt that is over
	}
	clientMessages := map[string]protocol.ClientMessage{
		"Pending": protocol.ClientPairPending{Index: 1}, "Init": protocol.ClientPairInit{Index: 1, Commitment: new([32]byte)},
		"Auth": protocol.ClientPairAuth{Share: arr32(run(9, 32))}, "Retry": protocol.ClientPairRetry{},
		"Confirm":  protocol.ClientPairConfirm{WrappedNonce: new([48]byte)},
		"Finalize": protocol.ClientPairFinalize{Wrapped: new([48]byte)},
	}
	for phase, legal := range legalForServer {
		for name, m := range clientMessages {
			p := newPair(t, digitsChoice)
			reach[phase](p)
			_, err := p.server.Receive(p.now, m)
			if want := !strings.Contains(legal, name); (err != nil) != want {
				t.Errorf("server %s: %s: got %v, want an error: %v", phase, name, err, want)
			} else if err != nil {
				wantProtocolError(t, err)
			}
		}
	}
	legalForClient := map[string]string{"waiting": "Init", "pending": "", "code": "Auth", "checking": "", "storing": "Finalize", "done": ""}
	serverMessages := map[string]protocol.ServerMessage{
		"Init": protocol.ServerPairInit{Nonce: new([32]byte)}, "Auth": protocol.ServerPairAuth{Share: arr32(run(9, 32))},
		"Confirm": protocol.ServerPairConfirm{}, "Finalize": protocol.ServerPairFinalize{},
	}
	for phase, legal := range legalForClient {
		if phase == "checking" { // the server's phase; the client still waits for the share
			continue
		}
		for name, m := range serverMessages {
			p := newPair(t, digitsChoice)
			reach[phase](p)
			_, err := p.client.Receive(m)
			if want := !strings.Contains(legal, name); (err != nil) != want {
				t.Errorf("client %s: %s: got %v, want an error: %v", phase, name, err, want)
			} else if err != nil {
				wantProtocolError(t, err)
			}
		}
	}
	p := newPair(t, digitsChoice)
	for name, m := range clientMessages {
		if _, err := p.server.Receive(p.now, m); err == nil {
			t.Errorf("%s before any activation: got no error, want one", name)
		}
	}
}

// TestMembersThatDoNotBelong: a message of one method in another is malformed.
func TestMembersThatDoNotBelong(t *testing.T) {
	withCommitment := on(func(m protocol.ClientPairInit) protocol.ClientMessage { m.Commitment = new([32]byte); return m })
	withNonce := func(n *[48]byte) func(protocol.ClientMessage) protocol.ClientMessage {
		return on(func(m protocol.ClientPairConfirm) protocol.ClientMessage { m.WrappedNonce = n; return m })
	}
	withKey := func(key protocol.PSK) func(protocol.ClientMessage) protocol.ClientMessage {
		return on(func(m protocol.ClientPairFinalize) protocol.ClientMessage { m.LongTerm = key; return m })
	}
	key := pskOf(t, run(1, 32))
	for _, tc := range []struct {
		name   string
		choice protocol.PairingChoice
		mutate func(m protocol.ClientMessage) protocol.ClientMessage
	}{
		{"commitment with a token", tokenChoice, withCommitment},
		{"commitment with a static code", staticChoice, withCommitment},
		{"no commitment with a dynamic code", digitsChoice, on(func(m protocol.ClientPairInit) protocol.ClientMessage { m.Commitment = nil; return m })},
		{"a nonce that was not committed to", digitsChoice, withCommitment},
		{"no wrapped nonce with a dynamic code", digitsChoice, withNonce(nil)},
		{"wrapped nonce with a static code", staticChoice, withNonce(new([48]byte))},
		{"a bare key after a code", staticChoice, on(func(protocol.ClientPairFinalize) protocol.ClientMessage {
			return protocol.ClientPairFinalize{LongTerm: key}
		})},
		{"both keys", digitsChoice, withKey(key)},
		{"no key", tokenChoice, withKey(protocol.PSK{})},
		{"a retry with a static code", staticChoice, on(func(protocol.ClientPairConfirm) protocol.ClientMessage { return protocol.ClientPairRetry{} })},
		{"held back with a token", tokenChoice, on(func(m protocol.ClientPairInit) protocol.ClientMessage {
			return protocol.ClientPairPending{Index: m.Index}
		})},
		{"a share of low order", digitsChoice, on(func(protocol.ClientPairAuth) protocol.ClientMessage { return protocol.ClientPairAuth{} })},
	} {
		t.Run(tc.name, func(t *testing.T) {
			p := newPair(t, tc.choice)
			p.device.Gesture(p.now)
			p.activate(tc.choice)
			err := p.pumpUntilError(tc.mutate)
			wantProtocolError(t, err)
			if st := p.server.Status(); st.Phase != PhaseEnded || st.Ended != EndProtocol || !p.server.Result().IsZero() {
				t.Errorf("got %+v, want it over, without a key", st)
			}
		})
	}
}

// on changes the messages of one type.
func on[M protocol.ClientMessage](change func(M) protocol.ClientMessage) func(protocol.ClientMessage) protocol.ClientMessage {
	return func(m protocol.ClientMessage) protocol.ClientMessage {
		if m, ok := m.(M); ok {
			return change(m)
		}
		return m
	}
}

// pumpUntilError delivers with one client message changed, entering the right
// code when it is wanted, and returns the server's error.
func (p *pair) pumpUntilError(mutate func(protocol.ClientMessage) protocol.ClientMessage) error {
	p.t.Helper()
	entered := false
	for range 100 {
		switch {
		case len(p.toS) > 0:
			m := mutate(p.toS[0])
			p.toS = p.toS[1:]
			out, err := p.server.Receive(p.now, m)
			if err != nil {
				return err
			}
			p.toC = append(p.toC, out...)
		case len(p.toC) > 0:
			m := p.toC[0]
			p.toC = p.toC[1:]
			p.fromClient(p.client.Receive(m))
		case !entered && p.server.Status().Phase == PhaseCode:
			entered = true
			code := p.client.Status().Code
			if code.IsZero() {
				code = p.device.Static
			}
			p.fromServer(p.server.Enter(code.Reveal()))
		default:
			return nil
		}
	}
	p.t.Fatal("no end")
	return nil
}
