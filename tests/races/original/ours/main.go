// Command ours drives this project's server and software player by their public
// API for the side-by-side runs. Its verbs, and what they answer, are those of
// the other drivers.
package main

import (
	"context"
	"flag"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"runtime"
	"runtime/debug"
	"strings"
	"sync"
	"syscall"
	"time"

	"resonatebridge/discovery"
	"resonatebridge/resonate"
	"resonatebridge/tests/races/original/control"
)

// version is the commit, set by who builds.
var version = "unknown"

func main() {
	unlimited := flag.Bool("unlimited", false, "lift the limits on the rate of dials")
	flag.Parse()
	var o resonate.Options
	if *unlimited {
		o.DialRate, o.DialBurst = 1e6, 1e6
	}
	d, err := newDriver(o)
	if err == nil {
		err = control.Serve(os.Stdin, os.Stdout, d.verbs())
		_, _ = d.close(struct{}{})
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// driver is a server, who watches it, and players of its own.
type driver struct {
	server *resonate.Server
	addr   string
	idle   int // goroutines before anything happened

	stop  context.CancelFunc
	ended <-chan error // nil: closed before
	web   *http.Server
	wg    sync.WaitGroup

	mu       sync.Mutex
	events   []event
	live     map[string]*resonate.Player // by PID, as the newest snapshot says
	released map[string]string           // PIDs of players that were let go of, by URL
	player   *software                   // of the client rows; nil: none runs

	tried attempts
}

// event is one change of a player's state as a user sees it.
type event struct {
	At   int64  `json:"at"` // Unix time in ns
	ID   string `json:"id"`
	What string `json:"what"` // "up" or "down"
}

func newDriver(o resonate.Options) (*driver, error) {
	server, err := resonate.New(o)
	if err != nil {
		return nil, err
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	d := &driver{
		server: server, addr: l.Addr().String(), stop: cancel, ended: ended,
		live: map[string]*resonate.Player{}, released: map[string]string{},
		web: &http.Server{Handler: server, ReadHeaderTimeout: 10 * time.Second},
	}
	go func() { ended <- server.Run(ctx) }() // ends with close
	d.wg.Go(func() { _ = d.web.Serve(l) })   // ends with close
	d.wg.Go(func() { d.watch(ctx) })         // ends with ctx
	time.Sleep(20 * time.Millisecond)        // they have started
	d.idle = runtime.NumGoroutine()
	return d, nil
}

func (d *driver) verbs() map[string]control.Verb {
	return map[string]control.Verb{
		"hello":             control.On(d.hello),
		"connect":           control.On(d.connect),
		"announce":          control.On(d.announce),
		"disconnect":        control.On(d.disconnect),
		"flap":              control.On(d.flap),
		"threads":           control.On(d.threads),
		"play":              control.On(d.play),
		"fill":              control.On(d.fill),
		"report":            control.On(d.report),
		"close":             control.On(d.close),
		"client_connect":    control.On(d.clientConnect),
		"client_disconnect": control.On(d.clientDisconnect),
		"client_report":     control.On(d.clientReport),
		"client_storm":      control.On(d.clientStorm),
	}
}

func (d *driver) hello(struct{}) (any, error) {
	return map[string]string{
		"name": "Resonate Bridge", "version": version, "runtime": runtime.Version(),
		"url": "ws://" + d.addr + "/sendspin", "dialect": "S4",
	}, nil
}

// watch turns snapshots into ups and downs. Snapshots are levels: an end and a
// return that fall into one are told by the count of sessions.
func (d *driver) watch(ctx context.Context) {
	for {
		select {
		case <-d.server.Changed():
		case <-ctx.Done():
			return
		}
		d.look()
	}
}

func (d *driver) look() {
	now := time.Now().UnixNano()
	d.mu.Lock()
	defer d.mu.Unlock()
	next := map[string]*resonate.Player{}
	note := func(p *resonate.Player, what string) {
		d.events = append(d.events, event{now, p.ClientID, what})
	}
	for _, p := range d.server.Snapshot().Players {
		was := d.live[p.PID]
		is := p.Connection == resonate.Connected
		if was != nil && (!is || p.Reconnects != was.Reconnects) {
			note(p, "down")
			was = nil
		}
		if is {
			next[p.PID] = p
			if was == nil {
				note(p, "up")
			}
		}
	}
	for pid, p := range d.live {
		if next[pid] == nil && d.server.Snapshot().Player(pid) == nil {
			note(p, "down") // forgotten
		}
	}
	d.live = next
}

type target struct {
	URL string `json:"url"`
	N   int    `json:"n"` // how often, concurrently; 0 means 1
}

// endpoint is what discovery would say of a player at a URL.
func endpoint(raw string) (discovery.Endpoint, error) {
	u, err := url.Parse(raw)
	if err != nil {
		return discovery.Endpoint{}, err
	}
	addr, err := netip.ParseAddrPort(u.Host)
	if err != nil {
		return discovery.Endpoint{}, err
	}
	return discovery.Endpoint{Key: raw, Addrs: []netip.AddrPort{addr}, Path: u.Path, Service: discovery.ServiceStatic}, nil
}

// at is the player that was met at a URL; nil if none was.
func (d *driver) at(raw string) *resonate.Player {
	for _, p := range d.server.Snapshot().Players {
		if p.URL == raw {
			return p
		}
	}
	return nil
}

func (d *driver) custody(pid string, c resonate.Custody) error {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	_, err := d.server.Do(ctx, resonate.SetPlayer{PID: pid, Custody: &c})
	return err
}

// connect announces a player and, if it was let go of, takes it back.
func (d *driver) connect(a target) (any, error) {
	e, err := endpoint(a.URL)
	if err != nil {
		return nil, err
	}
	var wg sync.WaitGroup
	for range max(a.N, 1) {
		wg.Go(func() { d.server.Discover(discovery.Event{Kind: discovery.Announced, Endpoint: e}) }) // ends when it is taken
	}
	wg.Wait()
	d.mu.Lock()
	pid := d.released[a.URL]
	delete(d.released, a.URL)
	d.mu.Unlock()
	if pid == "" {
		return nil, nil
	}
	return nil, d.custody(pid, resonate.CustodyHold)
}

// announce says that players announced themselves after they were gone.
func (d *driver) announce(a struct {
	URLs []string `json:"urls"`
},
) (any, error) {
	for _, u := range a.URLs {
		e, err := endpoint(u)
		if err != nil {
			return nil, err
		}
		d.server.Discover(discovery.Event{Kind: discovery.Announced, Endpoint: e, Again: true})
	}
	return map[string]int64{"at": time.Now().UnixNano()}, nil
}

// disconnect lets go of a player; of one that was never met it withdraws the
// announcement, which is all that there is.
func (d *driver) disconnect(a target) (any, error) {
	if p := d.at(a.URL); p != nil {
		d.mu.Lock()
		d.released[a.URL] = p.PID
		d.mu.Unlock()
		return nil, d.custody(p.PID, resonate.CustodyObserve)
	}
	e, err := endpoint(a.URL)
	if err != nil {
		return nil, err
	}
	d.server.Discover(discovery.Event{Kind: discovery.Withdrawn, Endpoint: e})
	return nil, nil
}

// flap disconnects and connects, so many times, with a gap after each pair.
func (d *driver) flap(a struct {
	URLs  []string `json:"urls"`
	Pairs int      `json:"pairs"`
	GapMs int      `json:"gap_ms"`
},
) (any, error) {
	before := cpu()
	for range a.Pairs {
		for _, u := range a.URLs {
			if _, err := d.disconnect(target{URL: u}); err != nil {
				return nil, err
			}
			if _, err := d.connect(target{URL: u}); err != nil {
				return nil, err
			}
		}
		time.Sleep(time.Duration(a.GapMs) * time.Millisecond)
	}
	return map[string]float64{"cpu_s": (cpu() - before).Seconds()}, nil
}

// threads connects each URL from several goroutines at once.
func (d *driver) threads(a struct {
	URLs    []string `json:"urls"`
	Threads int      `json:"threads"`
},
) (any, error) {
	for _, u := range a.URLs {
		if _, err := d.connect(target{URL: u, N: a.Threads}); err != nil {
			return nil, err
		}
	}
	return map[string]int{"errors": 0}, nil
}

// play groups players and plays them a tone without an end.
func (d *driver) play(a struct {
	IDs []string `json:"ids"`
},
) (any, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	made, err := d.server.Do(ctx, resonate.AddGroup{Name: "Played to", Members: a.IDs})
	if err != nil {
		return nil, err
	}
	id, _ := made.Data["id"].(string)
	_, err = d.server.Do(ctx, resonate.PlayMedia{
		Target: resonate.Target{GroupID: id}, Items: []resonate.MediaItem{{URL: "tone:?frequency=440"}},
	})
	return map[string]string{"group": id}, err
}

// fill plays to a player and gives the server as many state changes to tell it:
// the name of its group, as long as one may be, changed over and over. Its
// public API has no way to hand it a frame.
func (d *driver) fill(a struct {
	ID     string `json:"id"`
	Frames int    `json:"frames"`
	Size   int    `json:"size"`
},
) (any, error) {
	played, err := d.play(struct {
		IDs []string `json:"ids"`
	}{[]string{a.ID}})
	if err != nil {
		return nil, err
	}
	group := played.(map[string]string)["group"]
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	before, top := rss(), int64(0)
	began := time.Now()
	for sent := range a.Frames {
		name := fmt.Sprintf("%d %s", sent, strings.Repeat("x", 50))
		if _, err := d.server.Do(ctx, resonate.SetGroup{ID: group, Name: &name}); err != nil {
			return nil, err
		}
		if sent%64 == 0 {
			top = max(top, rss())
		}
	}
	for time.Since(began) < 8*time.Second { // music goes on
		time.Sleep(200 * time.Millisecond)
		top = max(top, rss())
	}
	return map[string]float64{"grown_mib": float64(max(0, top-before)) / (1 << 20), "took_s": time.Since(began).Seconds()}, nil
}

// report says what the server believes.
func (d *driver) report(struct{}) (any, error) {
	d.look()
	d.mu.Lock()
	defer d.mu.Unlock()
	up, objects := map[string]int{}, map[string]int{}
	for _, p := range d.server.Snapshot().Players {
		objects[p.ClientID]++
		if p.Connection == resonate.Connected {
			up[p.ClientID]++
		}
	}
	return map[string]any{
		"events": d.events, "up": up, "objects": objects,
		"tasks": actors(), "tracked": actors(), // what runs for a key is in the map until it ends
		"rss_mib": float64(rss()) / (1 << 20), "goroutines": runtime.NumGoroutine(),
	}, nil
}

// actors counts the goroutines that keep a player connected, by name.
func actors() int {
	buf := make([]byte, 8<<20)
	buf = buf[:runtime.Stack(buf, true)]
	n := 0
	for g := range strings.SplitSeq(string(buf), "\n\n") {
		if strings.Contains(g, "supervisor.(*actor") && strings.Contains(g, ").run(") {
			n++
		}
	}
	return n
}

// close ends the server and says what is left of it at once after.
func (d *driver) close(struct{}) (any, error) {
	began := time.Now()
	d.mu.Lock()
	ended := d.ended
	d.ended = nil
	d.mu.Unlock()
	if ended == nil {
		return nil, nil
	}
	d.stop()
	err := <-ended
	took := time.Since(began)
	left := actors()
	_ = d.web.Close()
	d.wg.Wait()
	return map[string]float64{"took_s": took.Seconds(), "tasks": float64(left)}, err
}

// cpu is the processor time of this process so far.
func cpu() time.Duration {
	var u syscall.Rusage
	if syscall.Getrusage(syscall.RUSAGE_SELF, &u) != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// rss is the resident memory of this process in bytes, after a collection.
func rss() int64 {
	runtime.GC()
	debug.FreeOSMemory()
	data, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		return 0
	}
	var size, resident int64
	_, _ = fmt.Sscan(string(data), &size, &resident)
	return resident * int64(os.Getpagesize())
}
