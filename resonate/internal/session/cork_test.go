package session

import (
	"errors"
	"net"
	"os"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gorilla/websocket"

	"resonatebridge/resonate/protocol"
)

// meter counts the writes of a connection.
type meter struct {
	net.Conn
	mu     sync.Mutex
	writes []int // their bytes
}

func (m *meter) Write(p []byte) (int, error) {
	m.mu.Lock()
	m.writes = append(m.writes, len(p))
	m.mu.Unlock()
	return m.Conn.Write(p)
}

func (m *meter) take() []int {
	m.mu.Lock()
	defer m.mu.Unlock()
	w := m.writes
	m.writes = nil
	return w
}

// What an engine makes at once leaves in one write, and is whole and in order at
// the other end, with the messages around it; more than that is several writes.
func TestChunksLeaveTogether(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r, p := live(t)
		p.listen()
		synctest.Wait()
		m := &meter{Conn: corkOf(r.ws).Conn}
		corkOf(r.ws).Conn = m
		before := len(p.types())
		put := func(n, size int) {
			t.Helper()
			for range n {
				c := sound(r)
				c.Data = make([]byte, size)
				if !r.Audio(c) {
					t.Fatal("no room for a chunk")
				}
			}
		}
		for _, tc := range []struct{ chunks, size int }{
			{5, 4000},
			{corkLimit, 100},
			{4 * corkLimit, 100},
			{6, sendBuffer/2 + 1},
		} {
			written := r.Written()
			corkOf(r.ws).turn <- struct{}{} // the writer waits with the first of them
			put(tc.chunks, tc.size)
			synctest.Wait()
			<-corkOf(r.ws).turn
			synctest.Wait()
			writes := m.take()
			want := (tc.chunks + corkLimit - 1) / corkLimit
			if tc.size > sendBuffer/2 {
				want = tc.chunks / 2
			}
			if len(writes) != want {
				t.Errorf("%d chunks of %d bytes left in %d writes, want %d", tc.chunks, tc.size, len(writes), want)
			}
			if got := r.Written() - written; got != uint64(tc.chunks) { //nolint:gosec // few
				t.Errorf("%d chunks count as written, want %d", got, tc.chunks)
			}
		}
		if err := r.Stream(protocol.StreamClear{Roles: []protocol.Role{protocol.RolePlayer}}); err != nil {
			t.Fatal(err)
		}
		put(1, 100)
		synctest.Wait()
		got := strings.Join(p.types()[before:], " ")
		if want := strings.Repeat("binary ", 5+5*corkLimit+6) + "stream/clear binary"; got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	})
}

// While frames are held back, what others write keeps its place, and a deadline
// is that of what is held back, not of what may be on its way.
func TestCorkKeepsOrderAndDeadlines(t *testing.T) {
	bubble(t, func(t *testing.T) {
		ours, p := connect(t, 1<<10)
		c := corkOf(ours)
		c.hold()
		for _, text := range []string{"one", "two"} {
			if err := ours.WriteMessage(websocket.TextMessage, []byte(text)); err != nil {
				t.Fatal(err)
			}
		}
		if err := ours.WriteControl(websocket.PongMessage, []byte("three"), time.Now().Add(time.Second)); err != nil {
			t.Fatal(err)
		}
		var order []string
		p.ws.SetPongHandler(func(s string) error { order = append(order, s); return nil })
		if err := c.release(); err != nil {
			t.Fatal(err)
		}
		if err := ours.WriteMessage(websocket.TextMessage, []byte("four")); err != nil {
			t.Fatal(err)
		}
		for range 3 {
			_, data, err := p.ws.ReadMessage()
			if err != nil {
				t.Fatal(err)
			}
			order = append(order, string(data))
		}
		if got := strings.Join(order, " "); got != "one two three four" {
			t.Errorf("got %s, want one two three four", got)
		}

		began := time.Now()
		c.hold()
		if err := extendWrite(ours, 3*time.Second); err != nil {
			t.Fatal(err)
		}
		if err := ours.WriteMessage(websocket.BinaryMessage, make([]byte, 4<<10)); err != nil {
			t.Fatal(err)
		}
		if err := c.release(); !errors.Is(err, os.ErrDeadlineExceeded) || time.Since(began) != 3*time.Second {
			t.Errorf("a peer that takes nothing: %v after %v, want the deadline after 3 s", err, time.Since(began))
		}
	})
}
