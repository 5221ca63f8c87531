package main

import (
	"bytes"
	"net"
	"sync"
	"time"
)

// relay stands between clients and a server and forwards bytes, so that the
// lines of any client can be counted and broken, whatever it speaks.
type relay struct {
	p  *peer
	to string // host:port of the server
	l  net.Listener

	mu   sync.Mutex
	hold chan struct{} // nothing is forwarded before it closes; nil: no hold
	cut  bool          // close lines to come right after the upgrade
}

// serve accepts until the listener is closed.
func (r *relay) serve() {
	for {
		c, err := r.l.Accept()
		if err != nil {
			return
		}
		n := r.p.ledger.open(c, r.l.Addr().String(), faults{})
		r.mu.Lock()
		hold, cut := r.hold, r.cut
		r.mu.Unlock()
		r.p.wg.Go(func() { r.forward(n, hold, cut) }) // ends with the line
	}
}

// forward joins a line with the server until one of them ends.
func (r *relay) forward(n *line, hold chan struct{}, cut bool) {
	defer n.Close()
	server, err := net.DialTimeout("tcp", r.to, openWithin)
	if err != nil {
		return
	}
	defer server.Close()
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(func() { // ends with the server's connection, which ends with the line
		defer n.Close()
		copyFrames(n, server, n, cut)
	})
	// While the line is held it is read all the same, to notice its end.
	early := make(chan []byte, 1)
	if hold != nil {
		wg.Go(func() {
			buf := make([]byte, 64<<10)
			got, _ := n.Read(buf)
			early <- buf[:got]
		})
		select {
		case <-hold:
		case <-n.gone:
			server.Close()
			return
		}
		if _, err := server.Write(<-early); err != nil {
			return
		}
	}
	copyFrames(server, n, n, false)
	server.Close()
}

// copyFrames forwards what src sends, and drops it while the line is mute. With
// cut it returns after the answer to the upgrade.
func copyFrames(dst, src net.Conn, n *line, cut bool) {
	buf := make([]byte, 64<<10)
	var head []byte
	for {
		got, err := src.Read(buf)
		if cut {
			head = append(head, buf[:got]...)
			if end := bytes.Index(head, []byte("\r\n\r\n")); end >= 0 {
				_, _ = dst.Write(head[:end+4])
				time.Sleep(10 * time.Millisecond) // so that the client has it before the end
				return
			}
		} else if got > 0 && !n.mute.Load() {
			if _, werr := dst.Write(buf[:got]); werr != nil {
				return
			}
		}
		if err != nil {
			return
		}
	}
}
