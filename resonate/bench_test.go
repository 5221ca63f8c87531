package resonate

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gorilla/websocket"

	"resonatebridge/resonate/internal/noise"
	"resonatebridge/resonate/internal/sealtest"
)

// herdOf makes this test binary the players of BenchmarkGroup, which must not
// count in the processor time of the server: "ADDRESS SUITE", in plaintext "-".
const herdOf = "RESONATE_HERD"

const benchPlayers = 200

// beHerd connects the players and prints the id of each, until stdin ends.
func beHerd(task string) error {
	addr, suite, _ := strings.Cut(task, " ")
	var wg sync.WaitGroup
	defer wg.Wait()
	for i := range benchPlayers {
		ws, resp, err := websocket.DefaultDialer.Dial("ws://"+addr+"/sendspin", nil)
		if err != nil {
			return err
		}
		_ = resp.Body.Close()
		defer ws.Close()
		id := fmt.Sprintf("p%03d", i)
		read := func() error { _, _, err := ws.ReadMessage(); return err }
		if suite == "-" {
			for _, m := range []string{strings.ReplaceAll(fmt.Sprintf(playerHello, quoted(id), quoted(id)), `"pcm"`, `"flac"`), sayVolume} {
				if err := ws.WriteMessage(websocket.TextMessage, []byte(m)); err != nil {
					return err
				}
			}
		} else {
			x := sealtest.New(id)
			x.Codec = "flac"
			for _, s := range noise.Suites() {
				if s.String() == suite {
					x.Suite = s
				}
			}
			c := x.Connect(ws)
			c.Forgets = true
			id, read = x.ID(), c.Run
		}
		wg.Go(func() {
			for read() == nil {
			}
		})
		fmt.Println(id)
	}
	_, _ = bufio.NewReader(os.Stdin).ReadString('\n')
	return nil
}

const sayVolume = `{"type":"client/state","payload":{"state":"synchronized","player":{"volume":40,"muted":false}}}`

// BenchmarkGroup plays FLAC 48/16/2 to 200 players of one group, over real
// sockets, for a while. What it tells is the processor time of this process,
// which is the server and what reads no socket.
func BenchmarkGroup(b *testing.B) {
	for _, suite := range []string{"-", noise.AESGCM.String(), noise.ChaChaPoly.String()} {
		name := suite
		if suite == "-" {
			name = "plaintext"
		}
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				b.ReportMetric(100*benchGroup(b, suite), "%core")
			}
		})
	}
}

// benchGroup returns the processor time of the server by the time that passed.
func benchGroup(b *testing.B, suite string) float64 {
	b.Helper()
	s, err := New(Options{Name: "Bench"})
	if err != nil {
		b.Fatal(err)
	}
	ctx, cancel := context.WithCancel(b.Context())
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	wg.Go(func() {
		if err := s.Run(ctx); err != nil {
			b.Error(err)
		}
	})
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	web := &http.Server{Handler: s, ReadHeaderTimeout: time.Minute}
	wg.Go(func() { _ = web.Serve(l) })
	defer web.Close()

	herd := exec.CommandContext(ctx, os.Args[0])
	herd.Env = append(os.Environ(), herdOf+"="+l.Addr().String()+" "+suite)
	herd.Stderr = os.Stderr
	stop, err1 := herd.StdinPipe()
	out, err2 := herd.StdoutPipe()
	if err := errors.Join(err1, err2, herd.Start()); err != nil {
		b.Fatal(err)
	}
	defer func() {
		_ = stop.Close()
		cancel() // kills it
		_ = herd.Wait()
	}()
	lines := bufio.NewScanner(out)
	for range benchPlayers {
		if !lines.Scan() {
			b.Fatal("the players ended")
		}
	}
	do := func(c Command) {
		if _, err := s.Do(ctx, c); err != nil {
			b.Fatalf("%#v: %v", c, err)
		}
	}
	all := func(ready func(*Player) bool) []string {
		for {
			var pids []string
			for _, p := range s.Snapshot().Players {
				if ready(p) {
					pids = append(pids, p.PID)
				}
			}
			if len(pids) == benchPlayers {
				return pids
			}
			<-s.Changed()
		}
	}
	pids := all(func(p *Player) bool { return p.Connection == Connected || p.Trust == TrustUnapproved })
	if suite != "-" {
		for _, pid := range pids {
			do(Approve{PID: pid, On: true})
		}
	}
	all(func(p *Player) bool { return p.Connection == Connected && p.Volume != nil })
	do(AddGroup{Name: "All", Members: pids})
	do(PlayMedia{Target: Target{GroupID: "all"}, Items: []MediaItem{{URL: "tone:?frequency=440&seconds=600"}}})
	time.Sleep(3 * time.Second)
	began, before := time.Now(), processorTime(b)
	time.Sleep(10 * time.Second)
	return (processorTime(b) - before).Seconds() / time.Since(began).Seconds()
}
