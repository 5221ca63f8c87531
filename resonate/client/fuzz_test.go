package client

import (
	"context"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"resonatebridge/resonate/internal/dialect"
	"resonatebridge/resonate/protocol"
	"resonatebridge/tests/pipe"

	"github.com/gorilla/websocket"
)

// FuzzClientSession lets bytes choose what servers say and do over connections
// that they or the player opened, and what people ask of the player meanwhile.
// Nothing panics; when nobody says anything any more every connection ends, and
// the next server that behaves has the player.
func FuzzClientSession(f *testing.F) {
	phrases, err := pipe.Phrases("../internal/dialect/testdata/TestTranscript/*.golden", "S")
	if err != nil {
		f.Fatal(err)
	}
	names := dialect.Names()
	for d := range names { // a whole conversation, and its parts in disorder
		for i, p := range phrases {
			if !strings.Contains(p, "server/hello") {
				continue
			}
			orderly, disorder := []byte{byte(d), 0}, []byte{byte(d), 1}
			for k := i; k < len(phrases) && (k == i || !strings.Contains(phrases[k], "server/hello")); k++ {
				orderly = append(orderly, 1, 0, byte(k))
				disorder = append(disorder, byte(k*5), 0, byte(k*7), 1, byte(k%12), byte(i))
			}
			f.Add(orderly)
			f.Add(append(disorder, 5, 3, 0))
		}
	}
	f.Add([]byte{5, 0, 1, 0, 0, 1, 6, 9, 4, 0, 0, 0, 0, 0, 0, 0, 1, 5, 4, 3, 6, 2, 1, 10, 1, 4, 5})
	f.Fuzz(func(t *testing.T, data []byte) {
		bubble(t, func(t *testing.T) {
			script := pipe.Script(data[:min(len(data), 400)])
			b := &pipe.Babbler{Phrases: phrases}
			o := PlayerOptions{Dialect: string(names[int(script.Byte())%len(names)])}
			inbound := script.Byte()%2 == 0
			front := pipe.NewListener() // of the player, or of the server that it dials
			var quiet atomic.Bool       // the server takes nobody any more
			if inbound {
				o.Listener = front
			} else {
				o.Server, o.NetDial = "ws://house/sendspin", front.DialContext
				babblingServer(t, front, b, &quiet)
			}
			p := newPlayer(t, o)
			stop := start(t, p)
			visitor := func() {
				d := websocket.Dialer{NetDialContext: front.DialContext, HandshakeTimeout: time.Second}
				ws, resp, err := d.DialContext(t.Context(), "ws://player"+p.path, nil)
				if err != nil {
					return // it has too many of us
				}
				_ = resp.Body.Close()
				b.Add(ws.NetConn().(*pipe.Conn), true)
			}
			if inbound {
				visitor()
			}
			pass(time.Millisecond)
			for len(script) > 0 {
				switch script.Byte() % 8 {
				case 4:
					d := script.Pause()
					b.Note("%v", d)
					pass(d)
				case 5:
					if inbound {
						b.Note("visit")
						visitor()
					}
				case 6:
					askPlayer(t, p, b, &script)
				default:
					b.Say(&script)
				}
			}
			quiet.Store(true)
			pass(90 * time.Second)
			if st := p.Snapshot(); st.Connected {
				t.Errorf("after silence it is connected to %q", st.ServerID)
			}
			if n := b.Open(); n != 0 {
				t.Errorf("%d connections are open after silence", n)
			}
			if inbound && o.Dialect == string(dialect.S4) {
				good := visit(t, front, "good", "playback")
				pass(time.Second)
				good.volume(25)
				pass(time.Second)
				if st := p.Snapshot(); st.ServerID != "good" || st.Volume != 25 {
					t.Errorf("after a server that behaves: got %+v", st)
				}
			}
			if err := stop(); err != nil {
				t.Errorf("the player ended with %v", err)
			}
			b.End()
			if t.Failed() {
				t.Logf("what was done:\n%s", strings.Join(b.Did, "\n"))
			}
		})
	})
}

// babblingServer takes players at l, for b to talk to.
func babblingServer(t *testing.T, l *pipe.Listener, b *pipe.Babbler, quiet *atomic.Bool) {
	t.Helper()
	var up websocket.Upgrader
	srv := &http.Server{ReadHeaderTimeout: time.Second, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if quiet.Load() {
			http.Error(w, "no", http.StatusServiceUnavailable)
			return
		}
		ws, err := up.Upgrade(w, r, nil)
		if err != nil {
			return // it has given up
		}
		b.Add(ws.NetConn().(*pipe.Conn), false)
	})}
	var wg sync.WaitGroup
	wg.Go(func() { _ = srv.Serve(l) })
	t.Cleanup(func() {
		_ = srv.Close()
		wg.Wait()
	})
}

// askPlayer asks for something.
func askPlayer(t *testing.T, p *Player, b *pipe.Babbler, s *pipe.Script) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	what, on := s.Byte()%6, s.Byte()
	b.Note("ask %d, %d", what, on)
	_ = []func() error{ // it may have no server, or refuse
		func() error { return p.SetVolume(ctx, int(on)) },
		func() error { return p.SetMute(ctx, on%2 == 0) },
		func() error { return p.SetAvailable(ctx, on%2 == 0) },
		func() error { return p.Goodbye(ctx, protocol.GoodbyeRestart) },
		func() error { return p.Connect(ctx) },
		func() error { return p.Drop(ctx) },
	}[what]()
}
