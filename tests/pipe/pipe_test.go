package pipe_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
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

func write(t *testing.T, c net.Conn, text string) {
	t.Helper()
	if n, err := c.Write([]byte(text)); n != len(text) || err != nil {
		t.Fatalf("write %q: got %d, %v; want %d, nil", text, n, err, len(text))
	}
}

func read(t *testing.T, c net.Conn, want string) {
	t.Helper()
	got := make([]byte, len(want))
	if _, err := io.ReadFull(c, got); err != nil || string(got) != want {
		t.Fatalf("read: got %q, %v; want %q, nil", got, err, want)
	}
}

func TestBothSidesWriteFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := pipe.New()
		write(t, a, "from a")
		write(t, b, "from b")
		read(t, a, "from b")
		read(t, b, "from a")
		if got := a.Written(); got != 6 {
			t.Errorf("written: got %d, want 6", got)
		}
	})
}

func TestFullBufferBlocksUntilRead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := pipe.NewSize(4)
		done := make(chan struct{})
		go func() {
			defer close(done)
			if n, err := a.Write([]byte("12345678")); n != 8 || err != nil {
				t.Errorf("write: got %d, %v; want 8, nil", n, err)
			}
		}()
		synctest.Wait()
		select {
		case <-done:
			t.Fatal("eight bytes went into a buffer of four")
		default:
		}
		read(t, b, "12345678")
		<-done
	})
}

func TestDeadlines(t *testing.T) {
	for _, tc := range []struct {
		name string
		do   func(c *pipe.Conn) error
	}{
		{"read", func(c *pipe.Conn) error { _, err := c.Read(make([]byte, 1)); return err }},
		{"write", func(c *pipe.Conn) error { _, err := c.Write(make([]byte, 2)); return err }},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				a, _ := pipe.NewSize(1)
				start := time.Now()
				_ = a.SetDeadline(start.Add(time.Hour))
				// An earlier deadline must reach the call that already waits.
				time.AfterFunc(time.Second, func() { _ = a.SetDeadline(start.Add(3 * time.Second)) })
				err := tc.do(a)
				var netErr net.Error
				if !errors.Is(err, os.ErrDeadlineExceeded) || !errors.As(err, &netErr) || !netErr.Timeout() {
					t.Errorf("got %v, want a timeout", err)
				}
				if got := time.Since(start); got != 3*time.Second {
					t.Errorf("waited %v, want 3s", got)
				}
				// A deadline that is taken back lets the connection work on.
				_ = a.SetDeadline(time.Time{})
			})
		})
	}
}

func TestFaults(t *testing.T) {
	type wants struct {
		read  error // what the other side's Read reports, nil: the data
		write error // what the other side's later Write reports
	}
	for _, tc := range []struct {
		name  string
		fault func(c *pipe.Conn)
		want  wants
	}{
		{"close", func(c *pipe.Conn) { _ = c.Close() }, wants{io.EOF, syscall.EPIPE}},
		{"reset", func(c *pipe.Conn) { c.Reset() }, wants{syscall.ECONNRESET, syscall.ECONNRESET}},
		{"freeze", func(c *pipe.Conn) { c.Freeze() }, wants{os.ErrDeadlineExceeded, nil}},
		{"freeze out", func(c *pipe.Conn) { c.FreezeOut() }, wants{os.ErrDeadlineExceeded, nil}},
		{"cut", func(c *pipe.Conn) { c.Cut() }, wants{os.ErrDeadlineExceeded, nil}},
		{"cut, then close", func(c *pipe.Conn) { c.Cut(); _ = c.Close() }, wants{os.ErrDeadlineExceeded, nil}},
		{"freeze, then close", func(c *pipe.Conn) { c.Freeze(); _ = c.Close() }, wants{os.ErrDeadlineExceeded, nil}},
		{"freeze, close, thaw", func(c *pipe.Conn) { c.Freeze(); _ = c.Close(); c.Thaw() }, wants{io.EOF, syscall.EPIPE}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				a, b := pipe.New()
				tc.fault(a)
				_ = b.SetReadDeadline(time.Now().Add(time.Minute))
				if _, err := b.Read(make([]byte, 1)); !errors.Is(err, tc.want.read) {
					t.Errorf("read: got %v, want %v", err, tc.want.read)
				}
				if _, err := b.Write([]byte("x")); !errors.Is(err, tc.want.write) {
					t.Errorf("write: got %v, want %v", err, tc.want.write)
				}
			})
		})
	}
}

func TestThawDeliversWhatWasWritten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := pipe.New()
		a.Freeze()
		write(t, a, "kept")
		a.Thaw()
		read(t, b, "kept")
	})
}

func TestCloseFreesOwnRead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, _ := pipe.New()
		time.AfterFunc(time.Second, func() { _ = a.Close() })
		if _, err := a.Read(make([]byte, 1)); !errors.Is(err, net.ErrClosed) {
			t.Errorf("got %v, want net.ErrClosed", err)
		}
		if !a.IsClosed() {
			t.Error("IsClosed: got false, want true")
		}
	})
}

func TestListenerRefusesAfterClose(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := pipe.NewListener()
		waiting, err := l.Dial(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		_, _ = l.Close(), l.Close()
		if _, err := waiting.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("a connection nobody accepted: got %v, want ECONNRESET", err)
		}
		if _, err := l.Dial(t.Context()); !errors.Is(err, syscall.ECONNREFUSED) {
			t.Errorf("dial: got %v, want ECONNREFUSED", err)
		}
		if _, err := l.Accept(); !errors.Is(err, net.ErrClosed) {
			t.Errorf("accept: got %v, want net.ErrClosed", err)
		}
	})
}

// A gorilla client and an http.Server, as the real ones, in a bubble.
func TestWebSocketOverHTTPServer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := pipe.NewListener()
		var up websocket.Upgrader
		srv := &http.Server{ReadHeaderTimeout: time.Second, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			c, err := up.Upgrade(w, r, nil)
			if err != nil {
				t.Error(err)
				return
			}
			defer c.Close()
			for {
				kind, data, err := c.ReadMessage()
				if err != nil {
					return
				}
				if err := c.WriteMessage(kind, bytes.ToUpper(data)); err != nil {
					t.Error(err)
				}
			}
		})}
		var wg sync.WaitGroup
		wg.Go(func() { _ = srv.Serve(l) })
		d := websocket.Dialer{NetDialContext: l.DialContext, HandshakeTimeout: time.Second}
		c, resp, err := d.DialContext(context.Background(), "ws://player/sendspin", nil)
		if err != nil {
			t.Fatal(err)
		}
		_ = resp.Body.Close()
		if err := c.WriteMessage(websocket.TextMessage, []byte("hello")); err != nil {
			t.Fatal(err)
		}
		if _, got, err := c.ReadMessage(); err != nil || string(got) != "HELLO" {
			t.Errorf("echo: got %q, %v; want HELLO, nil", got, err)
		}
		_ = c.Close()
		_ = srv.Close()
		wg.Wait()
	})
}

// A library reads what Frame makes, of every size that has a form of its own.
func TestFrame(t *testing.T) {
	l := pipe.NewListener()
	var up websocket.Upgrader
	srv := &http.Server{ReadHeaderTimeout: time.Minute, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		ws, err := up.Upgrade(w, r, nil)
		if err != nil {
			t.Error(err)
			return
		}
		defer ws.Close()
		for _, n := range []int{0, 125, 126, 1<<16 - 1, 1 << 16} {
			kind, data, err := ws.ReadMessage()
			if err != nil || kind != websocket.BinaryMessage || !bytes.Equal(data, bytes.Repeat([]byte{'x'}, n)) {
				t.Errorf("got %d bytes of kind %d, %v; want %d of binary", len(data), kind, err, n)
			}
			if _, err := ws.NetConn().Write(pipe.Frame(websocket.TextMessage, data, false)); err != nil {
				t.Error(err)
			}
		}
	})}
	var wg sync.WaitGroup
	wg.Go(func() { _ = srv.Serve(l) })
	defer wg.Wait()
	defer srv.Close()
	d := websocket.Dialer{NetDialContext: l.DialContext}
	ws, resp, err := d.DialContext(t.Context(), "ws://house/", nil)
	if err != nil {
		t.Fatal(err)
	}
	_ = resp.Body.Close()
	defer ws.Close()
	for _, n := range []int{0, 125, 126, 1<<16 - 1, 1 << 16} {
		if _, err := ws.NetConn().Write(pipe.Frame(websocket.BinaryMessage, bytes.Repeat([]byte{'x'}, n), true)); err != nil {
			t.Fatal(err)
		}
		if kind, data, err := ws.ReadMessage(); err != nil || kind != websocket.TextMessage || len(data) != n {
			t.Errorf("got %d bytes of kind %d, %v; want %d of text", len(data), kind, err, n)
		}
	}
}
