package bench

import (
	"bufio"
	"context"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"resonatebridge/tests/internal/scene"

	"github.com/gorilla/websocket"
)

// listener is a player that notes what it gets, and when. It decodes nothing, so
// that two hundred of them cost little.
type listener struct {
	ws     *websocket.Conn
	offset atomic.Int64 // server clock minus ours, us

	mu      sync.Mutex
	started bool
	silent  bool // audio came before stream/start
	stamps  []int64
	ahead   []time.Duration // from its arrival to its time
	bytes   int64
	first   time.Time
}

// flacHello is a player that wants FLAC; its timing is that of a small speaker.
const (
	flacFormat = `{"codec":"flac","sample_rate":48000,"channels":2,"bit_depth":16}`
	pcmFormat  = `{"codec":"pcm","sample_rate":48000,"channels":2,"bit_depth":16}`
	leadMs     = 250
)

func listenIn(ctx context.Context, addr, id, format string) (*listener, error) {
	ws, resp, err := websocket.DefaultDialer.DialContext(ctx, "ws://"+addr+"/sendspin", nil)
	if err != nil {
		return nil, err
	}
	_ = resp.Body.Close()
	hello := fmt.Sprintf(`{"type":"client/hello","payload":{"client_id":%q,"name":"Room","version":1,"supported_roles":["player@v1"],`+
		`"player@v1_support":{"supported_formats":[%s],"buffer_capacity":2000000,"supported_commands":["volume","mute"]}}}`, id, format)
	state := fmt.Sprintf(`{"type":"client/state","payload":{"state":"synchronized","player":{"volume":50,"muted":false,`+
		`"static_delay_ms":0,"required_lead_time_ms":%d,"min_buffer_ms":%d}}}`, leadMs, leadMs)
	l := &listener{ws: ws}
	for _, m := range []string{hello, state, fmt.Sprintf(`{"type":"client/time","payload":{"client_transmitted":%d}}`, time.Now().UnixMicro())} {
		if err := ws.WriteMessage(websocket.TextMessage, []byte(m)); err != nil {
			return nil, err
		}
	}
	return l, nil
}

func (l *listener) listen() {
	for {
		kind, data, err := l.ws.ReadMessage()
		if err != nil {
			return
		}
		now := time.Now()
		if kind == websocket.TextMessage {
			switch {
			case strings.HasPrefix(string(data), `{"type":"stream/start"`):
				l.mu.Lock()
				l.started = true
				l.mu.Unlock()
			case strings.HasPrefix(string(data), `{"type":"server/time"`):
				var m struct {
					Payload struct {
						ClientTransmitted int64 `json:"client_transmitted"`
						ServerTransmitted int64 `json:"server_transmitted"`
					}
				}
				if json.Unmarshal(data, &m) == nil {
					l.offset.Store(m.Payload.ServerTransmitted - (m.Payload.ClientTransmitted+now.UnixMicro())/2)
				}
			}
			continue
		}
		stamp := int64(binary.BigEndian.Uint64(data[1:])) //nolint:gosec // microseconds
		l.mu.Lock()
		if len(l.stamps) == 0 {
			l.first = now
		}
		l.silent = l.silent || !l.started
		l.stamps = append(l.stamps, stamp)
		l.ahead = append(l.ahead, time.Duration(stamp-l.offset.Load()-now.UnixMicro())*time.Microsecond)
		l.bytes += int64(len(data))
		l.mu.Unlock()
	}
}

// herd connects n listeners.
func herd(t *testing.T, addr, format string, from, n int) []*listener {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	var all []*listener
	var wg sync.WaitGroup
	for i := range n {
		l, err := listenIn(ctx, addr, speakerID(from+i), format)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, l)
		wg.Go(l.listen)
	}
	t.Cleanup(func() {
		for _, l := range all {
			_ = l.ws.Close()
		}
		wg.Wait()
	})
	return all
}

// cpu is the processor time that a process has used.
func cpu(t *testing.T, pid int) time.Duration {
	t.Helper()
	stat, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		t.Skip("processor time is read from /proc:", err)
	}
	f := strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')')+2:]))
	var ticks int64
	for _, i := range []int{11, 12} {
		n, err := strconv.ParseInt(f[i], 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		ticks += n
	}
	return time.Duration(ticks) * 10 * time.Millisecond // USER_HZ is 100 on Linux
}

// together puts speakers into one group.
func together(w *scene.Watcher, n int) {
	var ids []string
	for i := range n {
		ids = append(ids, speakerID(i))
	}
	w.Ask("resonate/bridge/request/group/add", "resonate/bridge/response/group/add", map[string]any{"name": "All", "members": ids})
}

// play plays an endless tone to the group, and says how long the command took
// to the first chunk.
func play(w *scene.Watcher) time.Time {
	at := time.Now()
	w.Ask("resonate/group/all/set", "resonate/group/all/result", map[string]any{"play_url": "tone:?frequency=440"})
	return at
}

// TestBenchSound plays to one player, in whose group 200 others join at once.
func TestBenchSound(t *testing.T) {
	measures(t)
	const players, span = 200, 10 * time.Second
	for _, c := range []struct{ name, format string }{{"FLAC", flacFormat}, {"PCM", pcmFormat}} {
		t.Run(c.name, func(t *testing.T) {
			broker := scene.StartBroker(t)
			bridge := startProcess(t, broker.URL(), "")
			w := scene.Watch(t, broker.URL(), nil)
			one := herd(t, bridge.listen, c.format, 0, 1)
			online(w, 1)
			together(w, 1)
			began := play(w)
			pause(t, 3*time.Second)
			before := cpu(t, bridge.cmd.Process.Pid)
			pause(t, span)
			few := cpu(t, bridge.cmd.Process.Pid) - before

			// The others join the group that plays, all at once.
			rest := herd(t, bridge.listen, c.format, 1, players)
			online(w, players+1)
			var ids []string
			for i := range players + 1 {
				ids = append(ids, speakerID(i))
			}
			w.Ask("resonate/group/all/set", "resonate/group/all/result", map[string]any{"members": ids})
			pause(t, 3*time.Second)
			before = cpu(t, bridge.cmd.Process.Pid)
			pause(t, span)
			many := cpu(t, bridge.cmd.Process.Pid) - before
			w.Ask("resonate/group/all/set", "resonate/group/all/result", map[string]any{"stop": true})
			pause(t, time.Second)

			all := append(one, rest...)
			late, gaps, silent, deaf := 0, 0, 0, 0
			least := time.Hour
			for _, l := range all {
				l.mu.Lock()
				if l.silent {
					silent++
				}
				if len(l.stamps) == 0 {
					deaf++
				}
				for i, a := range l.ahead {
					least = min(least, a)
					if a < 0 {
						late++
					}
					if i > 0 && l.stamps[i]-l.stamps[i-1] != 96_000 {
						gaps++
					}
				}
				l.mu.Unlock()
			}
			first := one[0].first.Sub(began)
			theirs := peerServer(t, c.format, players, span)
			table.Value(fmt.Sprintf("%d players, %s: processor time of the bridge", players, c.name), fmt.Sprintf("%.1f %% of a core", 100*many.Seconds()/span.Seconds()), "", false)
			table.Value(fmt.Sprintf("%d players, %s: least time ahead of its sound that a chunk arrived", players, c.name), least.Round(time.Millisecond).String(), fmt.Sprintf(">= %d ms", leadMs), least < leadMs*time.Millisecond)
			table.Value(fmt.Sprintf("%d players, %s: chunks late, missing, or not 96 ms apart", players, c.name), fmt.Sprintf("%d, %d", late, gaps), "0, 0", late+gaps > 0)
			table.Value(fmt.Sprintf("%d players join a playing group at once, %s: silent, audio before stream/start", players, c.name), fmt.Sprintf("%d, %d", deaf, silent), "0, 0", deaf+silent > 0)
			table.Value(fmt.Sprintf("from the command to the first chunk at a player, %s", c.name), first.Round(100*time.Microsecond).String(), "< 100 ms", first > 100*time.Millisecond)
			if theirs > 0 {
				table.Value(fmt.Sprintf("%d players, %s: processor time of aiosendspin 6.1.1's server against ours", players, c.name),
					fmt.Sprintf("%.1f x (%.1f %% of a core)", float64(theirs)/float64(many), 100*theirs.Seconds()/span.Seconds()), ">= 5 x", theirs < 5*many)
			}
			bare := bareWrites(t, all[0], players, span)
			table.Value(fmt.Sprintf("a further player of the same format, %s, against bare socket writes of the same bytes", c.name),
				fmt.Sprintf("%.2f x (%s and %s per s)", float64(many-few)/float64(bare), perSecond(many-few, players, span), perSecond(bare, players, span)), "< 1.5 x", float64(many-few) >= 1.5*float64(bare))
		})
	}
}

// peerServer is the processor time that aiosendspin's server takes to deliver
// the same to as many players; 0 where it is not installed. What it drops because
// it is late is not counted as delivered.
func peerServer(t *testing.T, format string, players int, span time.Duration) time.Duration {
	t.Helper()
	python, err := filepath.Abs("../../.interop/aiosendspin-6.1.1/bin/python")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(python); err != nil {
		t.Log("not compared with aiosendspin, which is not installed: run make interop-setup")
		return 0
	}
	addr := freeAddr(t)
	_, port, _ := net.SplitHostPort(addr)
	cmd := exec.Command(python, "peers/server.py", port, strconv.Itoa(players))
	cmd.Stderr = os.Stderr
	stop, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	hang := time.AfterFunc(span+3*patience, func() { _ = cmd.Process.Kill() })
	defer func() {
		_ = stop.Close()
		_ = cmd.Wait() // killed or not, the measurement is over
		hang.Stop()
	}()
	events := bufio.NewScanner(out)
	await := func(event string) {
		for events.Scan() {
			if strings.Contains(events.Text(), event) {
				return
			}
		}
		t.Fatalf("aiosendspin's server ended before it was %s", event)
	}
	await("listening")
	all := herd(t, addr, format, 0, players)
	await("playing")
	pause(t, 3*time.Second)
	heard := func() (sum time.Duration) {
		for _, l := range all {
			l.mu.Lock()
			if n := len(l.stamps); n > 1 {
				sum += time.Duration(n) * time.Duration(l.stamps[n-1]-l.stamps[n-2]) * time.Microsecond
			}
			l.mu.Unlock()
		}
		return sum
	}
	before, had := cpu(t, cmd.Process.Pid), heard()
	pause(t, span)
	used, got := cpu(t, cmd.Process.Pid)-before, heard()-had
	due := span * time.Duration(players)
	t.Logf("aiosendspin's server delivered %.1f %% of what was due", 100*got.Seconds()/due.Seconds())
	if got < due/10 {
		t.Log("that is too little to compare with")
		return 0
	}
	return time.Duration(float64(used) * due.Seconds() / got.Seconds())
}

func perSecond(d time.Duration, players int, span time.Duration) string {
	return time.Duration(float64(d) / float64(players) / span.Seconds()).Round(time.Microsecond).String()
}

// pause waits, where a measurement needs time to pass.
func pause(t *testing.T, d time.Duration) {
	t.Helper()
	select {
	case <-time.After(d):
	case <-t.Context().Done():
		t.FailNow()
	}
}

// bareWrites is the processor time of a process that does nothing but write the
// frames of a listener, at their pace, to n sockets.
func bareWrites(t *testing.T, l *listener, n int, span time.Duration) time.Duration {
	t.Helper()
	server := listen(t)
	defer server.Close()
	size := int(l.bytes) / max(len(l.stamps), 1)
	cmd := exec.Command(os.Args[0], "-test.run=^TestBareWriter$")
	cmd.Env = append(os.Environ(), "BARE_WRITER="+strings.Join([]string{server.Addr().String(), strconv.Itoa(n), strconv.Itoa(size), span.String()}, " "))
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for range n {
		c, err := server.Accept()
		if err != nil {
			t.Fatal(err)
		}
		wg.Go(func() {
			defer c.Close()
			buf := make([]byte, 64<<10)
			for {
				if _, err := c.Read(buf); err != nil {
					return
				}
			}
		})
	}
	if err := cmd.Wait(); err != nil {
		t.Fatal(err)
	}
	wg.Wait()
	return cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()
}

// TestBareWriter is the process that bareWrites starts; it is nothing by itself.
func TestBareWriter(t *testing.T) {
	args := strings.Fields(os.Getenv("BARE_WRITER"))
	if len(args) != 4 {
		t.Skip("this is a part of TestBenchSound")
	}
	n, _ := strconv.Atoi(args[1])
	size, _ := strconv.Atoi(args[2])
	span, _ := time.ParseDuration(args[3])
	conns := make([]net.Conn, n)
	for i := range conns {
		c, err := net.Dial("tcp", args[0])
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		conns[i] = c
	}
	frame := slices.Repeat([]byte{0x55}, size+4)
	tick := time.NewTicker(96 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(span); time.Now().Before(end); <-tick.C {
		for _, c := range conns {
			_ = c.SetWriteDeadline(time.Now().Add(time.Second))
			if _, err := c.Write(frame); err != nil {
				t.Fatal(err)
			}
		}
	}
}
