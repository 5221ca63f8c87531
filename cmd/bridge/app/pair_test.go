package app

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"resonatebridge/entities"
	"resonatebridge/mqtt"
	"resonatebridge/resonate"
	"resonatebridge/resonate/protocol"
)

// pairServer is a server with one speaker, whose trust and pairing the test
// plays.
type pairServer struct {
	snap    atomic.Pointer[resonate.Snapshot]
	changed chan struct{}
	stop    func() // the bridge and its broker
	play    func(s *pairServer, c resonate.Command) *resonate.CommandError

	mu    sync.Mutex
	asked []string // commands, with their secrets
}

func (s *pairServer) Snapshot() *resonate.Snapshot { return s.snap.Load() }
func (s *pairServer) Changed() <-chan struct{}     { return s.changed }

func (s *pairServer) Do(_ context.Context, c resonate.Command) (resonate.Result, error) {
	said := fmt.Sprintf("%T", c)
	switch c := c.(type) {
	case resonate.Pair:
		said = strings.Join(strings.Fields("pair "+string(c.Method)+" "+string(c.Secret)), " ")
	case resonate.CancelPairing:
		said = "cancel"
	case resonate.Approve:
		said = fmt.Sprintf("approve %v", c.On)
	case resonate.RemovePlayer:
		said = "forget " + c.PID
	}
	s.mu.Lock()
	s.asked = append(s.asked, said)
	s.mu.Unlock()
	if err := s.play(s, c); err != nil {
		return resonate.Result{}, err
	}
	return resonate.Result{}, nil
}

func (s *pairServer) commands() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.asked)
}

// show makes the speaker look like change says.
func (s *pairServer) show(change func(p *resonate.Player)) {
	next := *s.snap.Load()
	p := *next.Players[0]
	change(&p)
	next.Players = []*resonate.Player{&p}
	next.Version++
	s.snap.Store(&next)
	select {
	case s.changed <- struct{}{}:
	default:
	}
}

// step shows an attempt.
func (s *pairServer) step(a resonate.Pairing) {
	s.show(func(p *resonate.Player) {
		p.Pairing = &a
		if a.Step == resonate.PairDone {
			p.Trust, p.Connection = resonate.TrustPaired, resonate.Connected
		}
	})
}

// servePairing runs a broker, and the entities of one speaker on it, and
// returns the speaker's server and what a shell needs to find them.
func servePairing(t *testing.T, porch resonate.Player, play func(*pairServer, resonate.Command) *resonate.CommandError) (*pairServer, []string) {
	t.Helper()
	embedded, err := mqtt.NewEmbedded("127.0.0.1:0", nil)
	if err != nil {
		t.Fatal(err)
	}
	url, o := "mqtt://"+embedded.Addr(), entities.Options{NoDiscovery: true}
	bridge, err := mqtt.New(mqtt.Options{
		URL: url, Subscriptions: o.Subscriptions(), Online: []byte("online"),
		Will: mqtt.Message{Topic: "resonate/bridge/state", Payload: []byte("offline")},
	})
	if err != nil {
		t.Fatal(err)
	}
	s := &pairServer{changed: make(chan struct{}, 1), play: play}
	porch.PID, porch.Name, porch.GroupID = "porch", "Porch", "solo-porch"
	s.snap.Store(&resonate.Snapshot{Players: []*resonate.Player{&porch}})
	ctx, cancel := context.WithCancel(context.Background())
	var all sync.WaitGroup
	for _, part := range []func(context.Context) error{
		embedded.Run, bridge.Run, func(ctx context.Context) error { return entities.Run(ctx, s, bridge, o) },
	} {
		all.Go(func() {
			if err := part(ctx); err != nil {
				t.Errorf("a part of the test's bridge: %v", err)
			}
		})
	}
	s.stop = func() { cancel(); all.Wait() }
	t.Cleanup(s.stop)
	wait, stop := context.WithTimeout(t.Context(), 10*time.Second)
	defer stop()
	for _, topic := range []string{"resonate/bridge/state", "resonate/bridge/devices", "resonate/player/porch/state"} {
		if err := mqtt.Watch(wait, mqtt.Options{URL: url}, []string{topic}, func(mqtt.Message) bool { return false }); err != nil {
			t.Fatalf("the test's bridge did not publish %s: %v", topic, err)
		}
	}
	return s, []string{"RESONATE_MQTT_URL=" + url}
}

const testToken = "SP:0AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"

func TestPair(t *testing.T) {
	t.Parallel()
	dynamic := resonate.Player{
		Connection: resonate.PairingRequired, Trust: resonate.TrustUnapproved,
		PairMethods: []protocol.PairMethod{protocol.PairByPSK, protocol.PairByDynamicCode},
	}
	static := dynamic
	static.PairMethods = []protocol.PairMethod{protocol.PairByPSK, protocol.PairByStaticCode}
	token := dynamic
	token.PairMethods = token.PairMethods[:1]
	failed := dynamic
	failed.Pairing = &resonate.Pairing{Step: resonate.PairFailed, Method: protocol.PairByDynamicCode, Error: "an old failure"}
	code := func(round int) resonate.Pairing {
		return resonate.Pairing{Step: resonate.PairCode, Method: protocol.PairByDynamicCode, Format: protocol.CodeDigits, Digits: 6, Round: round}
	}
	// display is a speaker that shows 123456, whatever it showed before.
	display := func(s *pairServer, c resonate.Command) *resonate.CommandError {
		switch c, ok := c.(resonate.Pair); {
		case !ok:
		case c.Secret == "":
			s.step(code(1))
		case strings.HasPrefix(string(c.Secret), "SP:0"), c.Secret == "123-456":
			s.step(resonate.Pairing{Step: resonate.PairDone, Round: 1})
		case len(c.Secret) < 6:
			return resonate.Errorf(resonate.CodeInvalidValue, "the code has 6 digits, this is %d", len(c.Secret))
		default:
			s.step(code(s.snap.Load().Players[0].Pairing.Round + 1))
		}
		return nil
	}
	for _, tc := range []struct {
		name   string
		player resonate.Player
		play   func(*pairServer, resonate.Command) *resonate.CommandError
		stdin  string
		args   []string
		code   int
		asked  []string
		said   []string // in stdout and stderr, in this order
	}{
		{"code", dynamic, display, "123-456\n", nil, 0, []string{"pair", "pair 123-456"}, []string{"Enter the 6 digits that Porch shows or says\n", "Porch is paired\n"}},
		{"code without a line's end", dynamic, display, "123-456", nil, 0, []string{"pair", "pair 123-456"}, []string{"Porch is paired\n"}},
		{
			"wrong code", dynamic, display, "111-111\n123-456\n", nil, 0,
			[]string{"pair", "pair 111-111", "pair 123-456"},
			[]string{"Enter the 6 digits", "The code was wrong: enter the 6 digits that Porch shows or says\n", "Porch is paired\n"},
		},
		{
			"mistyped code", dynamic, display, "12\n\n123-456\n", nil, 0,
			[]string{"pair", "pair 12", "pair 123-456"},
			[]string{"Enter the 6 digits", "The code has 6 digits, this is 2\n", "Porch is paired\n"},
		},
		{"code by flag", dynamic, display, "", []string{"--code", "123-456"}, 0, []string{"pair", "pair 123-456"}, []string{"Porch is paired\n"}},
		{"wrong code by flag", dynamic, display, "123-456\n", []string{"--code", "111-111"}, 0, []string{"pair", "pair 111-111", "pair 123-456"}, []string{"The code was wrong", "Porch is paired\n"}},
		{"no code", dynamic, display, "", nil, 1, []string{"pair", "cancel"}, []string{"Enter the 6 digits", "cancelled\n", "standard input has ended"}},
		{"token by flag", dynamic, display, "", []string{"--code", testToken}, 0, []string{"pair " + testToken}, []string{"Porch is paired\n"}},
		{"token instead of a code", dynamic, display, testToken + "\n", nil, 0, []string{"pair", "pair pairing_psk " + testToken}, []string{"Enter the 6 digits", "Porch is paired\n"}},
		{"token only", token, display, testToken + "\n", nil, 0, []string{"pair " + testToken}, []string{"Porch is paired\n"}},
		{"token only, and none", token, display, "\n", nil, 1, nil, []string{"can only be paired by its token"}},
		{"an old failure is not the new one", failed, display, "123-456\n", nil, 0, []string{"pair", "pair 123-456"}, []string{"Enter the 6 digits", "Porch is paired\n"}},
		{
			"label", static, func(s *pairServer, c resonate.Command) *resonate.CommandError {
				s.step(resonate.Pairing{Step: resonate.PairDone, Method: protocol.PairByStaticCode})
				return nil
			}, "", []string{"--code", "1234-5678"}, 0, []string{"pair 1234-5678"}, []string{"Porch is paired\n"},
		},
		{
			"held, and then too late", dynamic, func(s *pairServer, c resonate.Command) *resonate.CommandError {
				s.step(resonate.Pairing{Step: resonate.PairHeld, Message: "press \x1b the button"})
				time.AfterFunc(300*time.Millisecond, func() {
					s.step(resonate.Pairing{Step: resonate.PairFailed, Error: "nobody pressed it; pair again"})
				})
				return nil
			}, "", nil, 1, []string{"pair"}, []string{"Porch holds back", "it says \"press", "nobody pressed it; pair again"},
		},
		{
			"unencrypted",
			resonate.Player{Connection: resonate.Connected, Trust: resonate.TrustPlaintext},
			func(*pairServer, resonate.Command) *resonate.CommandError {
				return resonate.Errorf(resonate.CodeNotSupported, "Porch speaks unencrypted")
			}, "", nil, 1,
			[]string{"pair"},
			[]string{"Porch speaks unencrypted (not_supported)"},
		},
		{"paired already", resonate.Player{Connection: resonate.Connected, Trust: resonate.TrustPaired}, display, "", nil, 0, nil, []string{"Porch is paired already"}},
		{"paired, but away: it may have lost the key", resonate.Player{Connection: resonate.Offline, Trust: resonate.TrustPaired}, display, "123-456\n", nil, 0, []string{"pair", "pair 123-456"}, []string{"Porch is paired\n"}},
		{"approve", dynamic, display, "", []string{"--approve"}, 0, []string{"approve true"}, []string{"Porch: approved"}},
		{"withdraw", dynamic, display, "", []string{"--withdraw"}, 0, []string{"approve false"}, []string{"Porch: the approval is withdrawn"}},
		{"forget", dynamic, display, "", []string{"--forget"}, 0, []string{"forget porch"}, []string{"Porch: forgotten"}},
		{"two things at once", dynamic, display, "", []string{"--forget", "--approve"}, 2, nil, []string{"exclude each other"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			s, env := servePairing(t, tc.player, tc.play)
			ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
			defer cancel()
			var out bytes.Buffer
			code := Main(ctx, append([]string{"pair", "Porch"}, tc.args...), Process{
				Env: env, Stdin: strings.NewReader(tc.stdin), Stdout: &out, Stderr: &out, seams: offNetwork(t, seams{}),
			})
			if code != tc.code {
				t.Errorf("got exit %d, want %d: %s", code, tc.code, &out)
			}
			if got := s.commands(); !slices.Equal(got, tc.asked) {
				t.Errorf("the bridge was asked %q, want %q", got, tc.asked)
			}
			rest := out.String()
			for _, want := range tc.said {
				_, after, found := strings.Cut(rest, want)
				if !found {
					t.Fatalf("got %q, want %q in %q", out.String(), want, rest)
				}
				rest = after
			}
			for _, secret := range []string{"123-456", "111-111", testToken[5:], "\x1b"} {
				if strings.Contains(out.String(), secret) {
					t.Errorf("got %q, which shows %q", out.String(), secret)
				}
			}
		})
	}
}

func TestTodo(t *testing.T) {
	t.Parallel()
	offers := pairingEntry{Methods: []string{"pairing_psk"}}
	for _, tc := range []struct {
		p    playerEntry
		want string
	}{
		{playerEntry{Connection: "connected", Trust: "paired"}, ""},
		{playerEntry{Connection: "connected", Trust: "plaintext"}, ""},
		{playerEntry{Connection: "offline"}, ""},
		{playerEntry{Connection: "pairing_required", Trust: "unapproved", Pairing: offers}, "Porch wants to be paired: bridge pair Porch"},
		{playerEntry{Connection: "approval_required", Trust: "unapproved", Pairing: offers}, "Porch is neither paired nor approved: bridge pair Porch"},
		{playerEntry{Connection: "approval_required", Trust: "unapproved"}, "Porch can't be paired and is not approved: bridge pair Porch --approve"},
		{playerEntry{Connection: "error", Trust: "downgraded"}, "Porch was paired and speaks unencrypted now; update it, or forget the pairing: bridge pair Porch --forget"},
		{playerEntry{Connection: "pairing_required", Trust: "mismatch", Pairing: offers}, "Porch no longer knows this bridge; pair it again: bridge pair Porch"},
		{playerEntry{Pairing: pairingEntry{Step: "code", Prompt: "enter the 6 digits"}}, "Porch is being paired (enter the 6 digits): bridge pair Porch"},
		{playerEntry{Connection: "pairing_required", Pairing: pairingEntry{Step: "failed"}}, "Porch wants to be paired: bridge pair Porch"},
	} {
		tc.p.ID, tc.p.Name = "porch", "Porch"
		h := &house{players: []playerEntry{tc.p}}
		if got := tc.p.todo(h); got != tc.want {
			t.Errorf("%+v: got %q, want %q", tc.p, got, tc.want)
		}
	}
	two := &house{players: []playerEntry{{ID: "porch", Name: "Porch"}, {ID: "other", Name: "porch"}, {ID: "big", Name: "Big hall"}}}
	for i, want := range []string{"Porch", "other", "big"} {
		if got := two.word(two.players[i]); got != want {
			t.Errorf("%+v: got %q, want %q", two.players[i], got, want)
		}
	}
	if got := (playerEntry{Connection: "pairing_required", Name: "never met"}).todo(two); got != "" {
		t.Errorf("without an id: got %q, want nothing", got)
	}
}

// TestPairEndsWithTheBridge: nobody waits for an answer that can't come.
func TestPairEndsWithTheBridge(t *testing.T) {
	t.Parallel()
	s, env := servePairing(t, resonate.Player{Connection: resonate.PairingRequired, Trust: resonate.TrustUnapproved},
		func(s *pairServer, _ resonate.Command) *resonate.CommandError {
			s.step(resonate.Pairing{Step: resonate.PairCode, Digits: 6, Round: 1})
			return nil
		})
	stdin, typing := io.Pipe()
	defer typing.Close()
	out := &syncBuffer{until: "Enter the 6 digits", seen: make(chan struct{})}
	done := make(chan int, 1)
	go func() {
		done <- Main(t.Context(), []string{"pair", "porch"}, Process{Env: env, Stdin: stdin, Stdout: out, Stderr: out, seams: offNetwork(t, seams{})})
	}()
	<-out.seen
	s.stop()
	if code := <-done; code != ExitFailure {
		t.Errorf("got exit %d, %q, want 1", code, out)
	}
}

// TestPairIsCancelled: Ctrl-C at the prompt cancels the attempt.
func TestPairIsCancelled(t *testing.T) {
	t.Parallel()
	s, env := servePairing(t, resonate.Player{
		Connection: resonate.PairingRequired, Trust: resonate.TrustUnapproved, PairMethods: []protocol.PairMethod{protocol.PairByDynamicCode},
	}, func(s *pairServer, c resonate.Command) *resonate.CommandError {
		if _, ok := c.(resonate.Pair); ok {
			s.step(resonate.Pairing{Step: resonate.PairCode, Digits: 6, Round: 1})
		}
		return nil
	})
	stdin, typing := io.Pipe()
	defer typing.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	out := &syncBuffer{until: "Enter the 6 digits", seen: make(chan struct{})}
	done := make(chan int, 1)
	go func() {
		done <- Main(ctx, []string{"pair", "porch"}, Process{Env: env, Stdin: stdin, Stdout: out, Stderr: out, seams: offNetwork(t, seams{})})
	}()
	select {
	case <-out.seen:
		cancel()
	case code := <-done:
		t.Fatalf("ended with %d: %s", code, out)
	}
	if code := <-done; code != ExitFailure || !strings.Contains(out.String(), "cancelled") || !strings.Contains(out.String(), "interrupted") {
		t.Errorf("got exit %d, %q", code, out)
	}
	if got, want := s.commands(), []string{"pair", "cancel"}; !slices.Equal(got, want) {
		t.Errorf("the bridge was asked %q, want %q", got, want)
	}
}
