package scene

import (
	"context"
	"fmt"
	"time"

	"github.com/gorilla/websocket"
)

// WireHello is the first frame of a player of the newest plaintext dialect,
// from the protocol's text and not from our own translator.
func WireHello(id string) string {
	return fmt.Sprintf(`{"type":"client/hello","payload":{"client_id":%q,"name":"Room","version":1,`+
		`"device_info":{"product_name":"One","manufacturer":"Acme"},"supported_roles":["player@v1"],`+
		`"player@v1_support":{"supported_formats":[{"codec":"pcm","sample_rate":48000,"channels":2,"bit_depth":16}],`+
		`"buffer_capacity":1000000,"supported_commands":["volume","mute"]}}}`, id)
}

// WireState is the state that it reports after that.
const WireState = `{"type":"client/state","payload":{"state":"synchronized","player":{"volume":50,"muted":false}}}`

// WireGoodbye is how it leaves.
func WireGoodbye(reason string) string {
	return fmt.Sprintf(`{"type":"client/goodbye","payload":{"reason":%q}}`, reason)
}

// WireDial connects a client to a bridge without any of our code behind it, up
// to its first state report. Its reads end within 20 s unless the caller sets
// another deadline.
func WireDial(ctx context.Context, addr, id string) (*websocket.Conn, error) {
	c, resp, err := websocket.DefaultDialer.DialContext(ctx, "ws://"+addr+"/sendspin", nil)
	if err != nil {
		return nil, err
	}
	_ = resp.Body.Close()
	err = c.WriteMessage(websocket.TextMessage, []byte(WireHello(id)))
	if err == nil {
		_ = c.SetReadDeadline(time.Now().Add(patience))
		_, _, err = c.ReadMessage() // server/hello comes first
	}
	if err == nil {
		err = c.WriteMessage(websocket.TextMessage, []byte(WireState))
	}
	if err != nil {
		_ = c.Close()
		return nil, err
	}
	return c, nil
}
