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

	"github.com/gorilla/websocket"
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

// wireHello is a hello of the newest plaintext dialect.
const wireHello = `{"type":"client/hello","payload":{"client_id":%q,"name":"Room","version":1,` +
	`"device_info":{"product_name":"One","manufacturer":"Acme"},"supported_roles":["player@v1"],` +
	`"player@v1_support":{"supported_formats":[{"codec":"pcm","sample_rate":48000,"channels":2,"bit_depth":16}],` +
	`"buffer_capacity":1000000,"supported_commands":["volume","mute"]}}}`

// wireState is the state that a player reports after it.
const wireState = `{"type":"client/state","payload":{"state":"synchronized","player":{"volume":50,"muted":false}}}`

// raw connects a client without any of our code behind it, up to its first
// state report.
func raw(ctx context.Context, addr, id string) (*websocket.Conn, error) {
	c, resp, err := websocket.DefaultDialer.DialContext(ctx, "ws://"+addr+"/sendspin", nil)
	if err != nil {
		return nil, err
	}
	_ = resp.Body.Close()
	err = c.WriteMessage(websocket.TextMessage, fmt.Appendf(nil, wireHello, id))
	if err == nil {
		_ = c.SetReadDeadline(time.Now().Add(patience))
		_, _, err = c.ReadMessage() // server/hello comes first
	}
	if err == nil {
		err = c.WriteMessage(websocket.TextMessage, []byte(wireState))
	}
	if err != nil {
		_ = c.Close()
		return nil, err
	}
	return c, nil
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
