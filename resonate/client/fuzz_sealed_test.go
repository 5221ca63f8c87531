package client

import (
	"io"
	"strings"
	"testing"
	"time"

	"resonatebridge/resonate/internal/dialect"
	"resonatebridge/resonate/internal/noise"
	"resonatebridge/resonate/pairing"
	"resonatebridge/tests/pipe"

	"github.com/gorilla/websocket"
)

// FuzzSealedPlayer lets bytes choose what a server says to an encrypted player,
// inside its channel and past it, and what becomes of its frames on their way.
// Nothing panics. A player that lets nobody in unpaired plays nothing for it,
// obeys nothing and remembers nothing; and its link ends with the server.
func FuzzSealedPlayer(f *testing.F) {
	phrases, err := pipe.Phrases("../internal/dialect/testdata/TestTranscript/G*.golden", "S")
	if err != nil {
		f.Fatal(err)
	}
	phrases = append(phrases, `{"type":"noise/handshake","payload":{"data":"AA"}}`,
		`{"type":"server/activate","payload":{"activities":["pairing"],"active_roles":[],"pairing":{"method":"dynamic_code","format":"digits_6"}}}`)
	for d := range byte(4) {
		for begin := range byte(4) {
			orderly, disorder := []byte{d, begin}, []byte{d, begin}
			for k := range byte(len(phrases)) {
				if !strings.Contains(phrases[k], "server/hello") { // which has no place there
					orderly = append(orderly, 0, k)
				}
				if strings.Contains(phrases[k], "server/command") {
					orderly = append(orderly, 4, 1) // what is said before the end is done before it
				}
				disorder = append(disorder, 4, k%5, 0, k*7, 1, k*5, 3, 'x', k, 2, k, 5, k%2, 3, 1, 'y')
			}
			f.Add(orderly)
			f.Add(disorder)
		}
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		bubble(t, func(t *testing.T) {
			script := pipe.Script(data[:min(len(data), 200)])
			b := pipe.Babbler{Phrases: phrases}
			first := script.Byte()
			volume, all := 40, first/2%2 == 1
			mem := memory(t, "")
			p, l := sealedPlayer(t, PlayerOptions{
				Dialect: string(dialect.Encrypted()[first%2]), Memory: mem, Volume: &volume, Unpaired: all,
			})
			v := open(t, l, newIdentity(t), pairing.Sentinel())
			switch script.Byte() % 4 {
			case 1:
				v.activate(idle)
			case 2:
				v.activate(playing)
			case 3:
				v.activate(idle)
				if err := v.rekey(pairing.Sentinel()); err != nil {
					t.Fatal(err)
				}
			}
			_ = v.conn.SetWriteDeadline(time.Now().Add(12 * time.Hour)) // nobody waits for ever where nobody reads
			drained := make(chan struct{})
			go func() { // ends with the connection
				defer close(drained)
				_, _ = io.Copy(io.Discard, v.conn.NetConn())
			}()
			for len(script) > 0 {
				v.babble(&script, &b)
			}
			pass(time.Second)
			if st := p.Snapshot(); !all && (st.Stream != nil || st.Volume != volume || st.Audio.Played > 0 || st.Commands > 0) {
				t.Errorf("a stranger is played or obeyed: %+v", st)
			}
			_ = v.conn.Close()
			<-drained
			pass(time.Minute)
			if st := p.Snapshot(); st.Connected {
				t.Errorf("it is connected to %q, whose link has ended", st.ServerID)
			}
			if n := len(mem.book.Peers()); n != 0 {
				t.Errorf("it remembers %d servers, and was paired with none", n)
			}
			if t.Failed() {
				t.Logf("what was done:\n%s", strings.Join(b.Did, "\n"))
			}
		})
	})
}

// babble says one thing that a script chooses.
func (v *vault) babble(s *pipe.Script, b *pipe.Babbler) {
	v.t.Helper()
	phrase := func() []byte { return []byte(b.Phrases[int(s.Byte())%len(b.Phrases)]) }
	seal := func(m []byte) []byte {
		b.Note("inside: %.200q", m)
		frame, err := v.channel.Send.Seal(nil, m)
		if err != nil { // our own side sees that it breaks the rules
			b.Note("not sealed: %v", err)
			return []byte{0}
		}
		return frame
	}
	text := func() []byte { return append([]byte{noise.JSONID}, phrase()...) }
	switch s.Byte() % 6 {
	case 0:
		v.raw(websocket.BinaryMessage, seal(text()))
	case 1:
		m := text()
		m[int(s.Byte())*len(m)/256] = s.Byte()
		v.raw(websocket.BinaryMessage, seal(m))
	case 2:
		frame, trick := seal(text()), s.Byte()
		b.Note("trick %d", trick)
		switch trick % 4 {
		case 0: // a bit
			frame[int(trick)*len(frame)/256] ^= 1 << (trick / 4 % 8)
		case 1: // less of it
			frame = frame[:len(frame)*int(trick)/256]
		case 2: // twice
			v.raw(websocket.BinaryMessage, frame)
		case 3: // the next one first
			v.raw(websocket.BinaryMessage, seal(text()))
		}
		v.raw(websocket.BinaryMessage, frame)
	case 3:
		if m := s.Bytes(); len(m) > 0 {
			v.raw(websocket.BinaryMessage, seal(m))
		}
	case 4:
		d := s.Pause()
		b.Note("%v", d)
		pass(d)
	case 5:
		kind, m := websocket.TextMessage, phrase()
		if s.Byte()%2 == 0 {
			kind, m = websocket.BinaryMessage, s.Bytes()
		}
		b.Note("past the channel: %d, %.200q", kind, m)
		v.raw(kind, m)
	}
}
