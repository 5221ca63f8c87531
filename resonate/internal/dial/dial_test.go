package dial

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"resonatebridge/tests/pipe"

	"github.com/gorilla/websocket"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// server answers over pipes until the test ends.
func server(t *testing.T, h http.HandlerFunc) *pipe.Listener {
	t.Helper()
	l := pipe.NewListener()
	srv := &http.Server{Handler: h, ReadHeaderTimeout: time.Minute}
	var wg sync.WaitGroup
	wg.Go(func() { _ = srv.Serve(l) })
	t.Cleanup(func() { _ = srv.Close(); wg.Wait() })
	return l
}

func TestWebSocket(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := server(t, func(w http.ResponseWriter, r *http.Request) {
			var up websocket.Upgrader
			if r.URL.Path != "/sendspin" {
				http.NotFound(w, r)
			} else if ws, err := up.Upgrade(w, r, nil); err == nil {
				_ = ws.WriteMessage(websocket.TextMessage, []byte("hello"))
				_ = ws.Close()
			}
		})
		ctx, cancel := context.WithCancel(t.Context())
		ws, answer, err := WebSocket(ctx, websocket.Dialer{NetDialContext: l.DialContext}, "ws://house/sendspin")
		if err != nil || answer != "" {
			t.Fatalf("got %q, %v", answer, err)
		}
		cancel() // concerns the attempt, not the connection
		synctest.Wait()
		if _, data, err := ws.ReadMessage(); string(data) != "hello" || err != nil {
			t.Errorf("got %q, %v; want what the server said", data, err)
		}
		_ = ws.Close()
		if _, answer, err := WebSocket(t.Context(), websocket.Dialer{NetDialContext: l.DialContext}, "ws://house/"); answer != "404 Not Found" || err == nil {
			t.Errorf("got %q, %v; want the answer", answer, err)
		}
		refused := func(context.Context, string, string) (net.Conn, error) { return nil, syscall.ECONNREFUSED }
		if ws, answer, err := WebSocket(t.Context(), websocket.Dialer{NetDialContext: refused}, "ws://house/"); ws != nil || answer != "" || !errors.Is(err, syscall.ECONNREFUSED) {
			t.Errorf("got %v, %q, %v; want the refusal", ws, answer, err)
		}
	})
}

// The end of the context ends an attempt whose peer does not answer, or says
// only half, and closes its socket. Guard: AfterFunc. Without it a stop waits
// for the timeout of the upgrade.
func TestWebSocketGivesUpAtOnce(t *testing.T) {
	for _, said := range []string{"", "HTTP/1.1 101 Switching Protocols\r\nUpgr"} {
		synctest.Test(t, func(t *testing.T) {
			theirs := make(chan *pipe.Conn, 1)
			d := websocket.Dialer{HandshakeTimeout: time.Minute, NetDialContext: func(context.Context, string, string) (net.Conn, error) {
				ours, c := pipe.New()
				theirs <- c
				_, err := io.WriteString(c, said)
				return ours, err
			}}
			ctx, cancel := context.WithCancelCause(t.Context())
			time.AfterFunc(time.Second, func() { cancel(io.ErrNoProgress) })
			began := time.Now()
			if ws, _, err := WebSocket(ctx, d, "ws://house/"); ws != nil || !errors.Is(err, io.ErrNoProgress) {
				t.Errorf("after %q: got %v, %v; want the cause", said, ws, err)
			}
			if took := time.Since(began); took != time.Second {
				t.Errorf("after %q: it took %v, want 1 s", said, took)
			}
			c := <-theirs
			if _, err := io.Copy(io.Discard, c); err != nil {
				t.Errorf("after %q: got the end %v, want EOF", said, err)
			}
		})
	}
}

// The context ends in the very moment in which the upgrade is complete: there is
// no connection, and its socket is closed (RC-1). Guard: the look at alive. Without
// it the caller, who gave up, gets a connection that nobody closes.
func TestWebSocketEndsAtTheVeryEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ended := make(chan error, 1)
		l := server(t, func(w http.ResponseWriter, r *http.Request) {
			var up websocket.Upgrader
			ws, err := up.Upgrade(w, r, nil)
			if err == nil {
				_, _, err = ws.ReadMessage()
				_ = ws.Close()
			}
			ended <- err
		})
		ctx, cancel := context.WithCancelCause(t.Context())
		d := websocket.Dialer{NetDialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
			c, err := l.DialContext(ctx, network, addr)
			return lastWord{c, func() { cancel(io.ErrNoProgress) }}, err
		}}
		ws, _, err := WebSocket(ctx, d, "ws://house/sendspin")
		if ws != nil || !errors.Is(err, io.ErrNoProgress) {
			t.Errorf("got %v, %v; want the cause", ws, err)
		}
		synctest.Wait()
		if len(ended) != 1 {
			t.Error("the connection is still open")
		}
	})
}

// lastWord tells when the answer to the upgrade was read.
type lastWord struct {
	net.Conn
	heard func()
}

func (c lastWord) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if bytes.Contains(p[:n], []byte("\r\n\r\n")) {
		c.heard()
	}
	return n, err
}
