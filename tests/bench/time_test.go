package bench

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"sync"
	"testing"
	"time"

	"resonatebridge/resonate"
	"resonatebridge/tests/internal/facts"
	"resonatebridge/tests/internal/scene"

	"github.com/gorilla/websocket"
)

// TestBenchTime measures how long a client/time is inside the server, by the
// server's own stamps in its answers, with 100 players asking.
func TestBenchTime(t *testing.T) {
	measures(t)
	const (
		players = 100
		each    = 100
		every   = 50 * time.Millisecond // 2,000 per second in all; real players ask a few times per 10 s
	)
	broker := scene.StartBroker(t)
	bridge := startProcess(t, broker.URL(), "")
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	var (
		wg     sync.WaitGroup
		mu     sync.Mutex
		inside []time.Duration
	)
	for i := range players {
		wg.Go(func() { // ends when it has its answers
			ds, err := ask(ctx, bridge.listen, speakerID(i), each, every, time.Duration(i)*every/players)
			if err != nil {
				t.Errorf("%s: %v", speakerID(i), err)
			}
			mu.Lock()
			defer mu.Unlock()
			inside = append(inside, ds...)
		})
	}
	wg.Wait()
	table.Times("client/time inside the server, 100 players", inside, facts.OfP99, 200*time.Microsecond)
}

// ask asks n times for the time and returns how long each question was inside
// the server.
func ask(ctx context.Context, addr, id string, n int, every, after time.Duration) ([]time.Duration, error) {
	c, err := scene.WireDial(ctx, addr, id)
	if err != nil {
		return nil, err
	}
	defer c.Close()
	select {
	case <-time.After(after): // so that they do not ask all at once
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	tick := time.NewTicker(every)
	defer tick.Stop()
	var ds []time.Duration
	for range n {
		<-tick.C
		if err := c.WriteMessage(websocket.TextMessage, []byte(timeRequest)); err != nil {
			return ds, err
		}
		for {
			_, frame, err := c.ReadMessage()
			if err != nil {
				return ds, err
			}
			var answer struct {
				Type    string
				Payload struct {
					Received    int64 `json:"server_received"`
					Transmitted int64 `json:"server_transmitted"`
				}
			}
			if err := json.Unmarshal(frame, &answer); err != nil {
				return ds, err
			}
			if answer.Type == "server/time" {
				ds = append(ds, time.Duration(answer.Payload.Transmitted-answer.Payload.Received)*time.Microsecond)
				break
			}
		}
	}
	return ds, nil
}

const timeRequest = `{"type":"client/time","payload":{"client_transmitted":123456789012}}`

// TestBenchTimeAllocations counts what the server allocates from the frame of a
// client/time to the frame of its answer. The asking side allocates nothing.
func TestBenchTimeAllocations(t *testing.T) {
	measures(t)
	server := startServer(t)
	c, err := scene.WireDial(t.Context(), serve(t, server), "speaker")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	conn := c.NetConn()
	_ = conn.SetDeadline(time.Now().Add(patience))
	request := masked(timeRequest)
	in, kind := &frames{r: bufio.NewReader(conn)}, []byte("server/time")
	got := testing.AllocsPerRun(5000, func() {
		if _, err := conn.Write(request); err != nil {
			t.Fatal(err)
		}
		if err := in.until(kind); err != nil {
			t.Fatal(err)
		}
	})
	const bound = 4
	table.Value("allocations per client/time, from frame to frame", fmt.Sprintf("%.3g", got), fmt.Sprintf("<= %d", bound), got > bound)
}

// startServer runs a server without records until the test ends.
func startServer(t *testing.T) *resonate.Server {
	t.Helper()
	server, err := resonate.New(resonate.Options{})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- server.Run(ctx) }() // ends with the test
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return server
}

// masked is text as one frame of a client (RFC 6455 5.2), with the mask 0.
func masked(text string) []byte {
	if len(text) > 125 {
		panic("a frame of this length has another header")
	}
	frame := []byte{0x81, 0x80 | byte(len(text)), 0, 0, 0, 0}
	return append(frame, text...)
}

// frames reads the frames of a server without allocating.
type frames struct {
	r   *bufio.Reader
	buf [4096]byte
}

// until reads up to a text message of this type.
func (f *frames) until(kind []byte) error {
	for {
		if _, err := io.ReadFull(f.r, f.buf[:2]); err != nil {
			return err
		}
		text, size := f.buf[0] == 0x81, int(f.buf[1])
		if size == 126 {
			if _, err := io.ReadFull(f.r, f.buf[:2]); err != nil {
				return err
			}
			size = int(binary.BigEndian.Uint16(f.buf[:2]))
		}
		if size > len(f.buf) {
			return fmt.Errorf("a message of %d bytes", size)
		}
		if _, err := io.ReadFull(f.r, f.buf[:size]); err != nil {
			return err
		}
		if text && bytes.Contains(f.buf[:size], kind) {
			return nil
		}
	}
}
