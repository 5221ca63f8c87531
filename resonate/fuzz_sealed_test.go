package resonate

import (
	"context"
	"encoding/base64"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"resonatebridge/resonate/internal/dialect"
	"resonatebridge/resonate/internal/noise"
	"resonatebridge/resonate/internal/sealtest"
	"resonatebridge/resonate/protocol"
	"resonatebridge/tests/pipe"

	"github.com/gorilla/websocket"
)

// FuzzSealedSession lets bytes choose what an encrypted speaker says inside its
// channel and past it, what becomes of its frames on their way, and what people
// ask for meanwhile. Nothing panics and a speaker beside it notices nothing.
// Nothing that a speaker says gets it in: until a person lets it, it has no role,
// no command and no sound. No secret is in the log.
func FuzzSealedSession(f *testing.F) {
	phrases, err := pipe.Phrases("internal/dialect/testdata/TestTranscript/G*.golden", "C")
	if err != nil {
		f.Fatal(err)
	}
	phrases = append(phrases,
		`{"type":"client/init","payload":{"version":1,"client_id":"x","suites":["x"]}}`,
		`{"type":"noise/handshake","payload":{"data":"AA"}}`)
	for d := range byte(4) { // each dialect, dialled and dialling; with each kind of access
		for access := range byte(6) {
			orderly, disorder := []byte{d}, []byte{d, 3, 0, 9}
			for k := range byte(len(phrases)) {
				if k == 5 {
					orderly = append(orderly, 5, access, 2)
					disorder = append(disorder, 5, access, 0)
				}
				orderly = append(orderly, 0, k)
				disorder = append(disorder, 4, k%7, 0, k*7, 1, k*5, 3, 'x', k, 2, k%3)
			}
			f.Add(orderly)
			f.Add(disorder)
		}
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		bubble(t, func(t *testing.T) {
			script := pipe.Script(data[:min(len(data), 200)])
			h := newHouse(t, library(map[string]*ramp{"http://x/a": {frames: 480_000, rate: 48_000}}))
			h.online("good")
			first := script.Byte()
			setCode, code := static(t)
			s := h.sealed("spy", dynamic(protocol.CodeDigits), setCode, func(x *sealtest.Speaker) {
				x.Dialect = dialect.Encrypted()[first%2]
				x.Suite = []noise.Suite{noise.ChaChaPoly, noise.AESGCM}[first/4%2]
			})
			x := &spy{Babbler: pipe.Babbler{Phrases: phrases}, speaker: s, label: code}
			if first/2%2 == 0 {
				s.announce()
			} else {
				s.dialIn()
			}
			if script.Byte()%4 != 0 { // else what follows is before or amid the handshake
				synctest.Wait()
			}
			for len(script) > 0 {
				x.step(&script)
			}
			h.stop()
			if got := h.edges("good"); got != "up1 down1" {
				t.Errorf("the good speaker: edges %q, want up1 down1", got)
			}
			if pid := x.player(); pid != "" {
				if edges := strings.Fields(h.edges(pid)); len(edges)%2 != 0 {
					t.Errorf("it ended after edges %v", edges)
				}
			}
			x.wantNothingGiven()
			for name, secret := range x.secrets() {
				if strings.Contains(h.log.String(), secret) {
					t.Errorf("the log shows %s", name)
				}
			}
			if t.Failed() {
				t.Log(h.log.String())
				t.Logf("what was done:\n%s", strings.Join(x.Did, "\n"))
			}
		})
	})
}

// spy is an encrypted speaker that a script speaks for.
type spy struct {
	pipe.Babbler // for its phrases and its notes
	*speaker
	label   string // the code that is printed on it
	let     bool   // a person has let it in, or tried to
	mute    bool   // the newest link is cut or frozen: what is written is of no use
	trick   byte   // for the next frame that it sends
	before  []byte // the frame before that
	pending []byte // one that is held back
}

// player is the id of its player; "" if it is not known yet.
func (x *spy) player() string {
	synctest.Wait()
	for _, p := range x.h.Snapshot().Players {
		if p.ClientID == x.id {
			return p.PID
		}
	}
	return ""
}

// newest is its newest connection; nil if there is none.
func (x *spy) newest() *line {
	if _, _, total := x.counts(); total == 0 {
		return nil
	}
	return x.line(-1)
}

// step does one thing.
func (x *spy) step(s *pipe.Script) {
	what := s.Byte() % 8
	switch what {
	case 4:
		d := s.Pause()
		x.Note("%v", d)
		pass(d)
		return
	case 5:
		x.ask(s)
		return
	case 6:
		x.fault(s)
		return
	}
	l := x.newest()
	if l == nil || x.mute || l.isOver() {
		return
	}
	// Nobody waits for ever where nobody reads; rather half a day.
	x.sealed.Set(func() { _ = l.ws.SetWriteDeadline(time.Now().Add(12 * time.Hour)) })
	phrase := func() []byte { return []byte(x.Phrases[int(s.Byte())%len(x.Phrases)]) }
	inside := func(m []byte) {
		x.Note("inside: %.200q", m)
		if l.seal.Category() != "" && len(m) > 0 { // it has keys
			_ = l.seal.SendMessage(m)
		}
	}
	switch what {
	case 0:
		inside(append([]byte{noise.JSONID}, phrase()...))
	case 1:
		text := phrase()
		text[int(s.Byte())*len(text)/256] = s.Byte()
		inside(append([]byte{noise.JSONID}, text...))
	case 2:
		trick := s.Byte()
		x.Note("trick %d", trick)
		x.sealed.Set(func() {
			x.trick = trick
			l.seal.Tamper = x.tamper
		})
	case 3:
		inside(s.Bytes())
	case 7:
		kind, m := websocket.TextMessage, phrase()
		if s.Byte()%2 == 0 {
			kind, m = websocket.BinaryMessage, s.Bytes()
		}
		x.Note("past the channel: %d, %.200q", kind, m)
		_ = l.seal.Raw(kind, m)
	}
}

// tamper is what the way does to a frame.
func (x *spy) tamper(frame []byte) [][]byte {
	trick, before, pending := x.trick, x.before, x.pending
	x.trick, x.before, x.pending = 0, slices.Clone(frame), nil
	switch trick % 7 {
	case 1: // a bit
		frame[int(trick/7)%len(frame)] ^= 1 << (trick % 8)
	case 2: // less of it
		frame = frame[:len(frame)*int(trick)/256]
	case 3: // lost
		return nil
	case 4: // twice
		return [][]byte{frame, frame}
	case 5: // an old one again
		if before != nil {
			return [][]byte{before, frame}
		}
	case 6: // held back, the next one first
		x.pending = frame
		return nil
	}
	if pending != nil {
		return [][]byte{frame, pending}
	}
	return [][]byte{frame}
}

// fault does something to the link, or makes another.
func (x *spy) fault(s *pipe.Script) {
	what := s.Byte() % 6
	x.Note("fault %d", what)
	l := x.newest()
	switch what {
	case 0, 1:
		x.mute = false
		x.dialIn()
		return
	case 2:
		x.mute = false
		x.reannounce()
		synctest.Wait()
		return
	}
	if l == nil {
		return
	}
	synctest.Wait() // nobody stands in a write
	switch what {
	case 3:
		l.link.Reset()
	case 4:
		x.mute = true
		l.link.Cut()
	case 5:
		x.mute = true
		l.link.Freeze()
	}
}

// ask asks for something about it.
func (x *spy) ask(s *pipe.Script) {
	pid := x.player()
	if pid == "" {
		return
	}
	what := s.Byte() % 12
	var shown string
	if l := x.newest(); l != nil && l.seal.Category() != "" {
		shown = l.seal.Code()
	}
	x.let = x.let || what <= 5
	x.Note("ask %d", what)
	c := []Command{
		Approve{PID: pid, On: true},
		Pair{PID: pid, Secret: Secret(x.sealed.Token())},
		Pair{PID: pid, Method: protocol.PairByDynamicCode},
		Pair{PID: pid, Secret: Secret(shown)},
		Pair{PID: pid, Method: protocol.PairByStaticCode, Secret: Secret(x.label)},
		Pair{PID: pid, Secret: "000000"},
		CancelPairing{PID: pid},
		Approve{PID: pid},
		RemovePlayer{PID: pid},
		setVolume(pid, int(s.Byte())%101),
		playURL(pid, "http://x/a"),
		SetPlayer{PID: pid, Group: &GroupTarget{With: "good"}},
	}[what]
	ctx, cancel := context.WithTimeout(x.h.t.Context(), 100*time.Millisecond)
	defer cancel()
	_, _ = x.h.Do(ctx, c) // it may be away, or refuse
	if l := x.newest(); what == 4 && l != nil && l.seal.Category() != "" && !x.mute && !l.isOver() {
		_ = l.seal.Gesture()
	}
}

// wantNothingGiven fails the test if it got something that nobody gave.
func (x *spy) wantNothingGiven() {
	if x.let {
		return
	}
	x.mu.Lock()
	lines := slices.Clone(x.connections)
	x.mu.Unlock()
	for i, l := range lines {
		for _, m := range l.seal.Got() {
			switch m := m.(type) {
			case protocol.ServerActivate:
				if len(m.ActiveRoles)+len(m.Activities) > 0 {
					x.h.t.Errorf("connection %d: nobody let it in, and it got %+v", i+1, m)
				}
			case protocol.ServerHello, protocol.ServerTime, protocol.GroupUpdate: // all get those
			default:
				x.h.t.Errorf("connection %d: nobody let it in, and it got %T", i+1, m)
			}
		}
	}
}

// secrets are what nobody may see.
func (x *spy) secrets() map[string]string {
	all := map[string]string{
		"its token": x.sealed.Token(), "its label": x.label, "the digits on its label": strings.ReplaceAll(x.label, "-", ""),
		"its pairing key": base64.RawURLEncoding.EncodeToString(x.sealed.Device.PairingKey.Bytes()),
		"its private key": base64.RawURLEncoding.EncodeToString(x.sealed.Identity.PrivateKey()),
		"our private key": base64.RawURLEncoding.EncodeToString(x.h.key.PrivateKey()),
	}
	if r, ok := x.h.keys.get(x.id); ok {
		all["its record"] = base64.RawURLEncoding.EncodeToString(r.PSK.Bytes())
	}
	return all
}
