package client

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	"resonatebridge/resonate/internal/dialect"
	"resonatebridge/resonate/internal/session"
	"resonatebridge/resonate/protocol"
	"resonatebridge/timesync"

	"github.com/gorilla/websocket"
)

// serve is the server's side as the bridge runs it, on a player that listens.
// It runs until the test ends.
func serve(t *testing.T, ws *websocket.Conn, clock *timesync.Clock, handle func(protocol.ClientMessage)) *session.Session {
	t.Helper()
	s, err := session.Greet(t.Context(), ws, "", session.Options{
		Clock: clock,
		Hello: func(protocol.ClientHello) protocol.ServerHello {
			return protocol.ServerHello{ServerID: "srv", Name: "House", Version: 1, Reason: protocol.ReasonPlayback}
		},
		Handle: func(_ *session.Session, m protocol.ClientMessage) { handle(m) },
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	up := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		err := s.Run(ctx, func() { close(up) })
		var bye *session.GoodbyeError
		var closed *websocket.CloseError // R1 has no goodbye, only the close frame
		if !errors.As(err, &bye) && !errors.As(err, &closed) && !errors.Is(err, context.Canceled) {
			t.Errorf("server session: %v", err)
		}
	})
	t.Cleanup(func() { cancel(); wg.Wait() })
	<-up
	return s
}

// In each dialect the bridge's own session and the player understand each
// other: hello, state, clock, command, stream and audio.
func TestPlayerInEveryDialect(t *testing.T) {
	for _, name := range dialect.Names() {
		t.Run(string(name), func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				v := 40
				p, l, _ := listening(t, PlayerOptions{Dialect: string(name), Volume: &v})
				d := websocket.Dialer{NetDialContext: l.DialContext}
				_, _, path := name.Service()
				ws, resp, err := d.DialContext(t.Context(), "ws://player"+path, nil)
				if err != nil {
					t.Fatal(err)
				}
				_ = resp.Body.Close()
				var mu sync.Mutex
				var volume int
				clock := timesync.NewClock()
				s := serve(t, ws, clock, func(m protocol.ClientMessage) {
					mu.Lock()
					defer mu.Unlock()
					if st, ok := m.(protocol.ClientState); ok && st.Player != nil && st.Player.Volume != nil {
						volume = *st.Player.Volume
					}
				})
				send := func(m protocol.ServerMessage) {
					if err := s.Send(m); err != nil {
						t.Error(err)
					}
				}
				reported := func(want int) {
					t.Helper()
					pass(time.Second)
					mu.Lock()
					defer mu.Unlock()
					if volume != want {
						t.Errorf("volume at the server: got %d, want %d", volume, want)
					}
				}
				if got := s.Wire().Name(); got != name {
					t.Errorf("the server takes it for %s, want %s", got, name)
				}
				reported(40)
				if err := p.SetVolume(t.Context(), 60); err != nil {
					t.Error(err)
				}
				reported(60)
				if name != dialect.R1 { // has no command for players
					send(protocol.ServerCommand{Command: protocol.CommandVolume, Volume: 25})
					reported(25)
				}
				send(protocol.GroupUpdate{PlaybackState: protocol.PlaybackPlaying, GroupID: "g", GroupName: "Kitchen"})
				pass(5 * time.Second)
				send(protocol.StreamStart{Player: &protocol.StreamPlayer{Format: protocol.Format{Codec: "pcm", Channels: 2, SampleRate: 48000, BitDepth: 16}}})
				send(protocol.AudioChunk{Timestamp: clock.Now() + 500_000, Data: make([]byte, 3840)})
				pass(time.Second)
				st := p.Snapshot()
				if st.Group.PlaybackState != protocol.PlaybackPlaying || st.Group.GroupID != "g" {
					t.Errorf("group: got %+v", st.Group)
				}
				if st.Stream == nil || st.Audio.Played != 1 || st.Clock == nil || !st.Clock.Converged() {
					t.Errorf("stream %v, audio %+v, clock %+v; want one chunk played in time", st.Stream, st.Audio, st.Clock)
				}
				send(protocol.StreamEnd{Roles: []protocol.Role{protocol.RolePlayer}})
				pass(time.Second)
				if st := p.Snapshot(); st.Stream != nil {
					t.Errorf("stream after its end: got %+v, want none", st.Stream)
				}
			})
		})
	}
}
