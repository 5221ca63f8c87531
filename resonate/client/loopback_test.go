package client

import (
	"context"
	"net"
	"strings"
	"testing"
	"time"

	"resonatebridge/resonate/protocol"

	"github.com/gorilla/websocket"
)

// Over real TCP: the goodbye arrives although audio that nobody reads any more
// is still on its way in. A socket that is closed with unread data makes the
// kernel send a reset, which would overtake it.
func TestGoodbyeArrivesUnderAudio(t *testing.T) {
	ln, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := newPlayer(t, PlayerOptions{Listener: ln})
	stop := start(t, p)
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	s, err := p.WaitFor(ctx, func(s State) bool { return s.URL != "" })
	if err != nil {
		t.Fatal(err)
	}
	ws, resp, err := websocket.DefaultDialer.DialContext(ctx, s.URL, nil)
	if err != nil {
		t.Fatal(err)
	}
	_ = resp.Body.Close()
	f := &fakeServer{id: "srv", name: "House", reason: string(protocol.ReasonPlayback), conn: ws, clock: serverClock(time.Now()), ended: make(chan struct{})}
	go f.read()
	t.Cleanup(func() { _ = ws.Close(); <-f.ended })
	if _, err := p.WaitFor(ctx, func(s State) bool { return s.Connected }); err != nil {
		t.Fatal(err)
	}
	f.stream()
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for f.last("client/goodbye") == "" && !f.isClosed() {
			f.chunk(f.clock()+500_000, 960, 1)
		}
	}()
	if _, err := p.WaitFor(ctx, func(s State) bool { return s.Audio.Received > 100 }); err != nil {
		t.Fatal(err)
	}
	begun := time.Now()
	if err := stop(); err != nil {
		t.Errorf("Run: got %v, want nil", err)
	}
	if got := time.Since(begun); got > 2*time.Second {
		t.Errorf("the end took %v, want about %v", got, linger)
	}
	<-ended
	<-f.ended
	if got := f.last("client/goodbye"); !strings.Contains(got, "shutdown") {
		t.Errorf("goodbye: got %q, want shutdown (closed: %s)", got, f.closeText())
	}
}
