package original

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"resonatebridge/tests/internal/scene"
	"resonatebridge/tests/races/original/control"
)

// hello is how a driver names what it drives.
type hello struct {
	Name    string `json:"name"`
	Version string `json:"version"`
	Runtime string `json:"runtime"`
	URL     string `json:"url"`     // where players dial in
	Dialect string `json:"dialect"` // that the peer has to speak
}

// host is where a player at URL dials in.
func (h hello) host() string {
	host, _, _ := strings.Cut(strings.TrimPrefix(h.URL, "ws://"), "/")
	return host
}

// path is that of the URL.
func (h hello) path() string { return strings.TrimPrefix(h.URL, "ws://"+h.host()) }

// rig is one implementation and one peer.
type rig struct {
	lab          *lab
	who          subject
	where        place
	hello        hello
	peer, driver *control.Program
}

// rig starts a peer and a driver, with what the driver is told beside.
func (l *lab) rig(ctx context.Context, who subject, where place, flags ...string) (*rig, error) {
	r := &rig{lab: l, who: who, where: where}
	driver := slices.Concat(where.near, who.argv, flags)
	peer := slices.Concat(where.far, []string{l.program("peer")})
	if where.host != "" {
		peer = append(peer, where.host)
	}
	var err error
	if r.peer, err = control.Start("peer", exec.Command(peer[0], peer[1:]...)); err == nil {
		r.driver, err = control.Start(who.key, exec.Command(driver[0], driver[1:]...))
	}
	if err == nil {
		err = r.driver.Call(ctx, "hello", nil, &r.hello)
	}
	if err != nil {
		r.stop()
		return nil, err
	}
	return r, nil
}

func (r *rig) stop() {
	if r.driver != nil {
		r.driver.Stop()
	}
	if r.peer != nil {
		r.peer.Stop()
	}
	if r.where.remove != nil {
		r.where.remove()
	}
}

type args map[string]any

// tally and the two after it are the peer's counts.
type tally struct{ Open, Peak, Total int }

type socket struct {
	N              int
	Key            string
	Opened, Closed int64
	First          string
	Hello, Stream  bool
	Bytes          int64
}

type count struct {
	tally
	Keys  map[string]tally
	Lines []socket
}

func (r *rig) count(ctx context.Context) (c count, err error) {
	err = r.peer.Call(ctx, "count", nil, &c)
	return c, err
}

// until waits until the peer's count is as wanted and says whether it was.
func (r *rig) until(ctx context.Context, within time.Duration, ok func(count) bool) (bool, error) {
	end := time.Now().Add(within)
	for {
		c, err := r.count(ctx)
		if err != nil || ok(c) {
			return err == nil, err
		}
		if time.Now().After(end) {
			return false, nil
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// must is until for what has to be so before a scenario begins.
func (r *rig) must(ctx context.Context, within time.Duration, what string, ok func(count) bool) error {
	was, err := r.until(ctx, within, ok)
	if err == nil && !was {
		c, _ := r.count(ctx)
		err = fmt.Errorf("%s: not within %v: the peer has %+v", what, within, c.tally)
	}
	return err
}

func (r *rig) open(ctx context.Context, n int) error {
	return r.must(ctx, 10*time.Second, fmt.Sprintf("%d open", n), func(c count) bool { return c.Open == n })
}

// listen makes n speakers and returns their URLs.
func (r *rig) listen(ctx context.Context, id string, n int, closed bool) ([]string, error) {
	var out struct{ URLs []string }
	err := r.peer.Call(ctx, "listen", args{"id": id, "n": n, "dialect": r.hello.Dialect, "closed": closed}, &out)
	return out.URLs, err
}

// online makes n speakers and connects them.
func (r *rig) online(ctx context.Context, n int) ([]string, error) {
	urls, err := r.listen(ctx, "speaker", n, false)
	if err != nil {
		return nil, err
	}
	for _, u := range urls {
		if err := r.driver.Call(ctx, "connect", args{"url": u}, nil); err != nil {
			return nil, err
		}
	}
	if err := r.open(ctx, n); err != nil {
		return nil, err
	}
	return urls, r.must(ctx, 10*time.Second, "every speaker greeted", func(c count) bool {
		return !slices.ContainsFunc(c.Lines, func(s socket) bool { return !s.Hello })
	})
}

// dial dials in and returns the line's number.
func (r *rig) dial(ctx context.Context, id string) (int, error) {
	var out struct {
		Lines []int
		Errs  []string
	}
	err := r.peer.Call(ctx, "dial", args{"url": r.hello.URL, "id": id, "dialect": r.hello.Dialect}, &out)
	if err != nil {
		return 0, err
	}
	if len(out.Errs) > 0 {
		return 0, fmt.Errorf("dial in: %s", out.Errs[0])
	}
	return out.Lines[0], nil
}

// greeted waits for the server's hello on a line.
func (r *rig) greeted(ctx context.Context, line int, within time.Duration) (bool, error) {
	over := func(c count) bool { return c.Lines[line-1].Hello || c.Lines[line-1].Closed != 0 }
	if ok, err := r.until(ctx, within, over); !ok {
		return false, err
	}
	c, err := r.count(ctx)
	return err == nil && c.Lines[line-1].Hello, err
}

// event is what a server told its listener.
type event struct {
	At   int64
	ID   string
	What string // up or down
}

// report is what a server believes.
type report struct {
	Events     []event
	Up         map[string]int // connections of each id
	Objects    map[string]int // things that stand for it
	Tasks      int            // that keep connections
	Tracked    int            // of them, how many can be reached by the API
	RSS        float64        `json:"rss_mib"`
	Goroutines int
}

func (r *rig) report(ctx context.Context) (p report, err error) {
	err = r.driver.Call(ctx, "report", nil, &p)
	return p, err
}

// client is what a client believes.
type clientReport struct {
	Connected bool
	OK        int
	Errs      []string
	Callbacks int
	Took      float64 `json:"took_s"`
}

func (r *rig) client(ctx context.Context) (p clientReport, err error) {
	err = r.driver.Call(ctx, "client_report", nil, &p)
	return p, err
}

// relay puts the peer between a client and its server and returns the URL.
func (r *rig) relay(ctx context.Context, cut bool) (string, error) {
	var out struct{ Addr string }
	err := r.peer.Call(ctx, "relay", args{"to": r.hello.host(), "cut": cut}, &out)
	return "ws://" + out.Addr + r.hello.path(), err
}

// ups is the order of ups and downs of an id, in words, and how often one of
// them was out of turn.
func ups(events []event, id string) (order string, wrong int) {
	var words []string
	next := "up"
	for _, e := range events {
		if e.ID != id {
			continue
		}
		words = append(words, e.What)
		if e.What != next {
			wrong++
		}
		next = map[string]string{"up": "down", "down": "up"}[e.What]
	}
	return strings.Join(words, " "), wrong
}

// place is where the two programs of a rig run.
type place struct {
	near, far []string // what starts a program at the driver's end, at the peer's
	host      string   // where the peer listens; "" means 127.0.0.1
	pull      func()   // cuts the peer off, and tells nobody
	remove    func()
}

var alones atomic.Int64

// alone is a network namespace with nothing in it but a loopback interface, for
// both programs: whatever they multicast, nobody else hears it.
func alone() (place, error) {
	if os.Geteuid() != 0 {
		return place{}, errNamespaces
	}
	name := fmt.Sprintf("rbo%x-%d", os.Getpid()&0xffff, alones.Add(1))
	run := func(argv ...string) error {
		if out, err := exec.Command("ip", argv...).CombinedOutput(); err != nil {
			return fmt.Errorf("%w: ip %s: %w: %s", errNamespaces, strings.Join(argv, " "), err, out)
		}
		return nil
	}
	p := place{remove: func() { _ = run("netns", "del", name) }}
	p.near = []string{"ip", "netns", "exec", name}
	p.far = p.near
	for _, argv := range [][]string{
		{"netns", "add", name},
		{"-n", name, "link", "set", "lo", "up", "multicast", "on"},
		{"-n", name, "route", "add", "224.0.0.0/4", "dev", "lo"},
	} {
		if err := run(argv...); err != nil {
			p.remove()
			return place{}, err
		}
	}
	return p, nil
}

// apart is a network of the test's own, with the peer at its other end.
func apart(t *testing.T) (place, error) {
	t.Helper()
	n, err := scene.NewNetwork(t)
	if err != nil {
		return place{}, fmt.Errorf("%w: %w", errNamespaces, err)
	}
	return place{far: n.Inside(), host: n.Far, pull: func() { n.Plug(false) }}, nil
}
