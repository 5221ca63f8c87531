package bench

import (
	"context"
	"fmt"
	"net/http"
	"sync"
	"testing"
	"time"

	"resonatebridge/resonate/client"
	"resonatebridge/resonate/protocol"
)

// patience is how long anything may take before measuring it is given up.
const patience = 30 * time.Second

func speakerID(i int) string { return fmt.Sprintf("speaker-%03d", i) }

// speaker is the client's end of one session, thinner than a software player:
// it tells when a volume command arrived, and answers it.
type speaker struct {
	*client.Session
	id      string
	volumes chan arrival // cap 1
}

// arrival is a volume command.
type arrival struct {
	volume   int
	at       time.Time // it was read from the socket and decoded
	answered time.Time // the answer was about to be queued
}

// dialIn connects n speakers to the bridge at addr, until the test ends.
func dialIn(t *testing.T, addr string, n int) []*speaker {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	all := make([]*speaker, n)
	for i := range all {
		s := &speaker{id: speakerID(i), volumes: make(chan arrival, 1)}
		var err error
		s.Session, err = client.Dial(ctx, "ws://"+addr+"/sendspin", client.Options{
			Hello: protocol.ClientHello{
				ClientID: s.id, Name: fmt.Sprintf("Room %d", i), Version: 1,
				Device: protocol.DeviceInfo{ProductName: "One", Manufacturer: "Acme"},
				Roles:  []protocol.Role{protocol.RolePlayer, protocol.RoleController, protocol.RoleMetadata},
				Player: &protocol.PlayerSupport{
					Formats:        []protocol.Format{{Codec: "pcm", Channels: 2, SampleRate: 48000, BitDepth: 16}},
					BufferCapacity: 1_000_000,
					Commands:       []protocol.PlayerCommandName{protocol.CommandVolume, protocol.CommandMute},
				},
			},
			OnMessage: s.take,
		})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { s.Abort(); <-s.Done() })
		if err := s.Send(state(100)); err != nil {
			t.Fatal(err)
		}
		all[i] = s
	}
	return all
}

func (s *speaker) take(session *client.Session, m protocol.ServerMessage) {
	now := time.Now()
	c, ok := m.(protocol.ServerCommand)
	if !ok || c.Command != protocol.CommandVolume {
		return
	}
	a := arrival{volume: c.Volume, at: now, answered: time.Now()}
	_ = session.Send(state(c.Volume)) // a session that ended is noticed by who waits
	select {
	case s.volumes <- a:
	default:
	}
}

func state(volume int) protocol.ClientState {
	yes, no := true, false
	return protocol.ClientState{Available: &yes, SyncError: &no, Player: &protocol.PlayerState{Volume: &volume, Muted: &no}}
}

// serve serves h on a loopback port until the test ends.
func serve(t *testing.T, h http.Handler) string {
	t.Helper()
	l := listen(t)
	srv := &http.Server{Handler: h, ReadHeaderTimeout: patience}
	var wg sync.WaitGroup
	wg.Go(func() { _ = srv.Serve(l) }) // ends with Close
	t.Cleanup(func() { _ = srv.Close(); wg.Wait() })
	return l.Addr().String()
}
