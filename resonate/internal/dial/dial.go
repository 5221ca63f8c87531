// Package dial opens WebSockets, for both sides of the protocol.
package dial

import (
	"context"
	"net"

	"github.com/gorilla/websocket"
)

// WebSocket connects to a ws:// URL over what d.NetDialContext opens. It gives
// up at once when ctx ends, which websocket.Dialer does not while it waits for
// the peer's answer to the upgrade: there it looks at deadlines only. answer is
// the status of an answer that was no upgrade, e.g. "404 Not Found".
func WebSocket(ctx context.Context, d websocket.Dialer, url string) (ws *websocket.Conn, answer string, err error) {
	open, alive := d.NetDialContext, func() bool { return true }
	d.NetDialContext = func(within context.Context, network, addr string) (net.Conn, error) {
		c, err := open(within, network, addr)
		if err == nil {
			alive = context.AfterFunc(ctx, func() { _ = c.Close() })
		}
		return c, err
	}
	ws, resp, err := d.DialContext(ctx, url, nil)
	if resp != nil && resp.Body != nil {
		_ = resp.Body.Close()
	}
	if !alive() { // ctx ended, maybe at the very end (RC-1)
		if ws != nil {
			_ = ws.Close()
		}
		return nil, "", context.Cause(ctx)
	}
	if err != nil && resp != nil {
		answer = resp.Status
	}
	return ws, answer, err
}
