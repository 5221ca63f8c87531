package main

import (
	"context"
	"errors"
	"sync"
	"time"

	"resonatebridge/resonate/client"
	"resonatebridge/resonate/protocol"
)

// software is one software player that dials: connecting is running it,
// disconnecting is ending it, and connecting again is running another one.
type software struct {
	*client.Player
	stop context.CancelFunc
	done chan struct{}
}

// attempts is what became of connects and disconnects of the client rows.
type attempts struct {
	mu    sync.Mutex
	ok    int
	errs  []string
	downs int // times the player, once connected, was not any more
	took  time.Duration
}

func (a *attempts) down() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.downs++
}

// start runs a player, unless one runs.
func (d *driver) start(url string) (*software, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.player != nil {
		return d.player, nil
	}
	p, err := client.NewPlayer(client.PlayerOptions{ClientID: "player", Server: url})
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(context.Background())
	s := &software{Player: p, stop: cancel, done: make(chan struct{})}
	d.player = s
	d.wg.Go(func() { // ends with stop
		defer close(s.done)
		_ = p.Run(ctx)
	})
	d.wg.Go(func() { s.count(&d.tried) }) // ends with the player
	return s, nil
}

// count counts the ends of connections as the player tells them: those it had,
// without the one it has. A look that comes late misses none.
func (s *software) count(tried *attempts) {
	counted := uint64(0)
	look := func() <-chan struct{} {
		st, changed := s.Watch()
		ends := st.Sessions
		if st.Connected {
			ends--
		}
		for ; counted < ends; counted++ {
			tried.down()
		}
		return changed
	}
	for {
		select {
		case <-look():
		case <-s.done:
			look()
			return
		}
	}
}

// clientConnect connects N times at once and, with Wait, says when the first
// attempt was decided.
func (d *driver) clientConnect(a struct {
	URL  string `json:"url"`
	N    int    `json:"n"`
	Wait bool   `json:"wait"`
},
) (any, error) {
	began := time.Now()
	var wg sync.WaitGroup
	for range max(a.N, 1) {
		wg.Go(func() { // ends when its attempt is decided, 15 s at most
			s, err := d.start(a.URL)
			if err == nil {
				err = s.connected()
			}
			d.tried.mu.Lock()
			defer d.tried.mu.Unlock()
			if err != nil {
				d.tried.errs = append(d.tried.errs, err.Error())
			} else {
				d.tried.ok++
			}
			d.tried.took = time.Since(began)
		})
	}
	if a.Wait {
		wg.Wait()
	}
	return nil, nil
}

// connected waits until the player is, or says why not.
func (s *software) connected() error {
	ctx, cancel := context.WithTimeout(context.Background(), 15*time.Second)
	defer cancel()
	if err := s.Connect(ctx); err != nil {
		return err
	}
	st, err := s.WaitFor(ctx, func(st client.State) bool { return st.Connected || st.LastError != "" })
	if err != nil {
		return err
	}
	if !st.Connected {
		return errors.New(st.LastError)
	}
	return nil
}

// clientDisconnect ends the player N times at once.
func (d *driver) clientDisconnect(a struct {
	N    int  `json:"n"`
	Wait bool `json:"wait"`
},
) (any, error) {
	d.mu.Lock()
	s := d.player
	d.player = nil
	d.mu.Unlock()
	if s == nil {
		return nil, errors.New("no player runs")
	}
	var wg sync.WaitGroup
	for range max(a.N, 1) {
		wg.Go(func() { s.stop(); <-s.done }) // ends with the player
	}
	if a.Wait {
		wg.Wait()
	}
	return nil, nil
}

// clientReport says what the player believes.
func (d *driver) clientReport(struct{}) (any, error) {
	d.mu.Lock()
	connected := d.player != nil && d.player.Snapshot().Connected
	d.mu.Unlock()
	d.tried.mu.Lock()
	defer d.tried.mu.Unlock()
	return map[string]any{
		"connected": connected, "ok": d.tried.ok, "errs": d.tried.errs,
		"callbacks": d.tried.downs, "took_s": d.tried.took.Seconds(),
	}, nil
}

// clientStorm sends from several goroutines at once on one connection.
func (d *driver) clientStorm(a struct {
	Senders  int `json:"senders"`
	Messages int `json:"messages"` // of each
},
) (any, error) {
	s, err := client.Dial(context.Background(), "ws://"+d.addr+"/sendspin", client.Options{
		Hello: protocol.ClientHello{ClientID: "storm", Name: "storm", Version: 1, Roles: []protocol.Role{protocol.RoleController}},
	})
	if err != nil {
		return nil, err
	}
	defer func() { s.Abort(); <-s.Done() }()
	var wg sync.WaitGroup
	var mu sync.Mutex
	sent := 0
	for range a.Senders {
		wg.Go(func() { // ends with its messages
			for range a.Messages {
				time.Sleep(time.Millisecond)
				yes := true
				if s.Send(protocol.ClientState{Available: &yes}) != nil {
					return
				}
				mu.Lock()
				sent++
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	return map[string]int{"sent": sent}, nil
}
