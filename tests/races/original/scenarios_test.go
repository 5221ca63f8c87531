package original

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	"resonatebridge/tests/races/original/control"
)

// scenario is one row of the plan: what is done, what is measured, and what is
// asked of us.
type scenario struct {
	id      string
	title   string
	metrics []metric
	run     func(ctx context.Context, r *rig, got *result) error
	not     map[string]string // why an implementation has no such row

	speed   float64                   // of the implementation's clock, where it can run faster
	virtual func(*testing.T, *result) // how ours is measured instead: in virtual time
	alone   bool                      // in a network namespace of its own
	flags   map[string][]string       // of a driver
}

// metric is one number of a scenario.
type metric struct {
	key, what, unit string
	bound           bound
}

// bound is what is asked of us; the zero value asks nothing.
type bound struct {
	is      string // "<=" or ">="
	than    float64
	inWords string // "" shows the number
}

// yes is asked of what is 1 or 0.
var yes = bound{">=", 1, "1"}

func atMost(n float64) bound { return bound{is: "<=", than: n} }

func (b bound) String() string {
	switch {
	case b.inWords != "":
		return b.inWords
	case b.is == "":
		return ""
	case b.than == 0:
		return "0"
	}
	return b.is + " " + number(b.than, "")
}

func (b bound) holds(n float64) bool {
	switch b.is {
	case "<=":
		return n <= b.than
	case ">=":
		return n >= b.than
	}
	return true
}

// never is the time of what did not happen.
var never = math.Inf(1)

// result is what one run measured.
type result struct {
	numbers map[string]float64
	notes   map[string]string // words beside the numbers
}

func newResult() *result {
	return &result{numbers: map[string]float64{}, notes: map[string]string{}}
}

func (r *result) set(key string, n float64) { r.numbers[key] = n }

// setIf sets 1 or 0.
func (r *result) setIf(key string, is bool) {
	r.numbers[key] = 0
	if is {
		r.numbers[key] = 1
	}
}

var errNamespaces = errors.New("network namespaces need root on Linux with iproute2")

const (
	serverRows = "its rows are those below: G1 to G6"
	goRows     = "rows of sendspin-go and ours only"
)

// scenarios are all, in the order of the plan.
func scenarios() []scenario {
	noGo := map[string]string{"go": serverRows}
	goOnly := map[string]string{"old": goRows, "new": goRows}
	return []scenario{
		{
			id: "M0", title: "1,000 concurrent connects to one speaker", not: noGo, run: m0,
			metrics: []metric{
				{"sockets", "sockets to the speaker, in all", "", atMost(1)},
				{"tasks", "tasks that keep it", "", atMost(1)},
			},
		},
		{
			id: "M1", title: "disconnect a connected speaker, wait 3 s", not: noGo, run: m1,
			metrics: []metric{
				{"open", "sockets to the speaker that was disconnected", "", atMost(0)},
				{"lost", "tasks that no call reaches any more", "", atMost(0)},
				{"again", "sockets after disconnecting it again", "", atMost(0)},
			},
		},
		{
			id: "M2", title: "100 disconnect+connect pairs, 50 ms apart", not: noGo, run: m2,
			metrics: []metric{
				{"peak", "most sockets to the speaker at once", "", atMost(1)},
				{"open", "sockets 4 s after the last pair", "", bound{"<=", 1, "1"}},
				{"total", "sockets in all", "", atMost(101)},
				{"lost", "tasks that no call reaches any more", "", atMost(0)},
				{"second", "a second, innocent speaker gets its connection", "", yes},
				{"after", "sockets 3 s after a last disconnect", "", atMost(0)},
			},
		},
		{
			id: "M2b", title: "one such pair", not: noGo, run: m2b,
			metrics: []metric{
				{"peak", "most sockets to the speaker at once", "", atMost(1)},
				{"lost", "tasks that no call reaches any more", "", atMost(0)},
				{"after", "sockets 3 s after a last disconnect", "", atMost(0)},
			},
		},
		{
			id: "M3", title: "1,000 pairs in one tick", not: noGo, run: m3,
			metrics: []metric{
				{"peak", "most sockets to the speaker at once", "", atMost(1)},
				{"total", "sockets in all", "", atMost(2)},
				{"tasks", "tasks that keep it, 4 s later", "", atMost(1)},
				{"after", "sockets 3 s after a last disconnect", "", atMost(0)},
			},
		},
		{
			id: "M4", title: "a pair, then a connect, while the speaker is away; then it returns", not: noGo, run: m4,
			metrics: []metric{
				{"tasks", "tasks that keep it", "", atMost(1)},
				{"peak", "most sockets at once after its return", "", atMost(1)},
			},
		},
		{
			id: "M5", title: "the same id dials in again, its old socket half open; then the old one dies", not: noGo, run: m5,
			metrics: []metric{
				{"wrong", "ups and downs out of turn", "", atMost(0)},
				{"gone", "told last that it is gone, while it is connected", "", atMost(0)},
				{"objects", "objects under the one id at once", "", atMost(1)},
				{"admitted", "seconds until the new socket is greeted", "s", atMost(4)},
			},
		},
		{
			id: "M6", title: "client: 10 concurrent connects", not: noGo, run: m6,
			metrics: []metric{
				{"connected", "connected afterwards, by its own word", "", yes},
				{"open", "sockets left open", "", bound{"<=", 1, "1"}},
				{"failed", "connects that failed", "", atMost(0)},
				{"callbacks", "disconnect callbacks", "", atMost(0)},
			},
		},
		{
			id: "M7", title: "client: 5 concurrent disconnects", not: noGo, run: m7,
			metrics: []metric{
				{"callbacks", "disconnect callbacks", "", bound{"<=", 1, "1"}},
				{"open", "sockets left open", "", atMost(0)},
			},
		},
		{
			id: "M8", title: "client: disconnect while it dials; then the dial succeeds", not: noGo, run: m8,
			metrics: []metric{
				{"connected", "connected afterwards, by its own word", "", atMost(0)},
				{"open", "sockets left open", "", atMost(0)},
			},
		},
		{
			id: "M9", title: "client: connect again while the old close hangs, wait 14 s", not: noGo, run: m9,
			metrics: []metric{
				{"connected", "connected afterwards, by its own word", "", yes},
				{"open", "sockets open", "", bound{"<=", 1, "1"}},
			},
		},
		{
			id: "M10", title: "client: the server closes before its hello", not: noGo, run: m10,
			metrics: []metric{
				{"took", "seconds until connect says so", "s", atMost(0.1)},
				{"callbacks", "disconnect callbacks", "", atMost(1)},
			},
		},
		{
			id: "M11", title: "the speaker stops reading, and 6,000 frames of 64 KiB for it (ours: music and 6,000 state changes, its API takes no frames)", not: noGo, run: m11,
			metrics: []metric{
				{"grown", "memory grown, MiB", "MiB", atMost(4)},
			},
		},
		{
			id: "M12", title: "the speaker is away for 15 minutes and returns unannounced", not: noGo, speed: awaySpeed,
			run:     func(ctx context.Context, r *rig, got *result) error { return m12(ctx, r, got, false) },
			virtual: func(t *testing.T, got *result) { away(t, got, false) },
			metrics: []metric{{"back", "seconds from its return to its connection", "s", atMost(61)}},
		},
		{
			id: "M12b", title: "the same, and it announces itself", not: noGo, speed: awaySpeed,
			run:     func(ctx context.Context, r *rig, got *result) error { return m12(ctx, r, got, true) },
			virtual: func(t *testing.T, got *result) { away(t, got, true) },
			metrics: []metric{{"back", "seconds from its return to its connection", "s", atMost(1)}},
		},
		{
			id: "M13", title: "close the server, one speaker connected, one away", not: noGo, run: m13,
			metrics: []metric{
				{"took", "seconds to close", "s", atMost(5)},
				{"tasks", "tasks left when it returns", "", atMost(0)},
				{"open", "sockets left when it returns", "", atMost(0)},
			},
		},
		{
			id: "M14", title: "8 threads connect the same speaker at once, 60 speakers", not: noGo, run: m14,
			metrics: []metric{
				{"twice", "speakers that got a second socket", "", atMost(0)},
				{"none", "speakers that got none", "", atMost(0)},
				{"errors", "calls that raised", "", atMost(0)},
			},
		},
		{
			id: "G1", title: "client: 8 goroutines send on one connection", not: goOnly, run: g1,
			metrics: []metric{{"died", "the process died", "", atMost(0)}},
		},
		{
			id: "G2", title: "a speaker reconnects 5 times, each time its old socket is half open", not: goOnly, run: g2,
			metrics: []metric{{"refused", "reconnects that were refused or unanswered for 4 s", "", atMost(0)}},
		},
		{
			id: "G3", title: "a speaker that was dialled drops, then announces itself 100 times", not: goOnly, run: g3,
			alone: true, flags: map[string][]string{"go": {"-discover"}},
			metrics: []metric{{"dials", "dials after the drop", "", bound{is: ">=", than: 1}}},
		},
		{
			id: "G4", title: "400 speakers come back at once to a group that plays", not: goOnly, run: g4,
			metrics: []metric{
				{"greeted", "speakers that were greeted", "", bound{">=", 400, "400"}},
				{"audio", "speakers whose first frame was audio", "", atMost(0)},
				{"silent", "speakers that never got stream/start", "", atMost(0)},
			},
		},
		{
			id: "G6", title: "stop the server with one speaker connected, wait 12 s", not: goOnly, run: g6,
			metrics: []metric{{"took", "seconds to stop", "s", atMost(5)}},
		},
	}
}

func m0(ctx context.Context, r *rig, got *result) error {
	urls, err := r.listen(ctx, "speaker", 1, false)
	if err != nil {
		return err
	}
	if err := r.driver.Call(ctx, "connect", args{"url": urls[0], "n": 1000}, nil); err != nil {
		return err
	}
	if err := r.open(ctx, 1); err != nil {
		return err
	}
	time.Sleep(time.Second)
	c, err := r.count(ctx)
	if err != nil {
		return err
	}
	p, err := r.report(ctx)
	got.set("sockets", float64(c.Total))
	got.set("tasks", float64(p.Tasks))
	return err
}

func m1(ctx context.Context, r *rig, got *result) error {
	urls, err := r.online(ctx, 1)
	if err != nil {
		return err
	}
	for _, step := range []struct {
		wait time.Duration
		key  string
	}{{3 * time.Second, "open"}, {time.Second, "again"}} {
		if err := r.driver.Call(ctx, "disconnect", args{"url": urls[0]}, nil); err != nil {
			return err
		}
		time.Sleep(step.wait)
		c, err := r.count(ctx)
		if err != nil {
			return err
		}
		got.set(step.key, float64(c.Open))
	}
	p, err := r.report(ctx)
	got.set("lost", float64(p.Tasks-p.Tracked))
	return err
}

// flap connects a speaker and flaps it, then lets things settle.
func flap(ctx context.Context, r *rig, pairs, gap int) (url string, err error) {
	urls, err := r.online(ctx, 1)
	if err != nil {
		return "", err
	}
	if err := r.driver.Call(ctx, "flap", args{"urls": urls, "pairs": pairs, "gap_ms": gap}, nil); err != nil {
		return "", err
	}
	time.Sleep(4 * time.Second) // longer than two backoffs
	return urls[0], nil
}

// flapped measures what is left of a flap, and what is left after a disconnect.
func flapped(ctx context.Context, r *rig, url string, got *result) error {
	c, err := r.count(ctx)
	if err != nil {
		return err
	}
	p, err := r.report(ctx)
	if err != nil {
		return err
	}
	of := c.Keys[url]
	got.set("peak", float64(of.Peak))
	got.set("open", float64(of.Open))
	got.set("total", float64(of.Total))
	got.set("tasks", float64(p.Tasks))
	got.set("lost", float64(p.Tasks-p.Tracked))
	if err := r.driver.Call(ctx, "disconnect", args{"url": url}, nil); err != nil {
		return err
	}
	time.Sleep(3 * time.Second)
	c, err = r.count(ctx)
	got.set("after", float64(c.Keys[url].Open))
	return err
}

func m2(ctx context.Context, r *rig, got *result) error {
	url, err := flap(ctx, r, 100, 50)
	if err != nil {
		return err
	}
	if err := flapped(ctx, r, url, got); err != nil {
		return err
	}
	second, err := r.listen(ctx, "second", 1, false)
	if err != nil {
		return err
	}
	if err := r.driver.Call(ctx, "connect", args{"url": second[0]}, nil); err != nil {
		return err
	}
	is, err := r.until(ctx, 8*time.Second, func(c count) bool { return c.Keys[second[0]].Open == 1 })
	got.setIf("second", is)
	return err
}

func m2b(ctx context.Context, r *rig, got *result) error {
	url, err := flap(ctx, r, 1, 50)
	if err != nil {
		return err
	}
	return flapped(ctx, r, url, got)
}

func m3(ctx context.Context, r *rig, got *result) error {
	url, err := flap(ctx, r, 1000, 0)
	if err != nil {
		return err
	}
	return flapped(ctx, r, url, got)
}

func m4(ctx context.Context, r *rig, got *result) error {
	urls, err := r.listen(ctx, "speaker", 1, true)
	if err != nil {
		return err
	}
	connect := func() error { return r.driver.Call(ctx, "connect", args{"url": urls[0]}, nil) }
	if err := connect(); err != nil {
		return err
	}
	time.Sleep(1500 * time.Millisecond) // into the backoff
	if err := r.driver.Call(ctx, "flap", args{"urls": urls, "pairs": 1}, nil); err != nil {
		return err
	}
	time.Sleep(300 * time.Millisecond)
	if err := connect(); err != nil {
		return err
	}
	time.Sleep(200 * time.Millisecond)
	p, err := r.report(ctx)
	if err != nil {
		return err
	}
	got.set("tasks", float64(p.Tasks))
	if err := r.peer.Call(ctx, "port", args{"open": true}, nil); err != nil {
		return err
	}
	time.Sleep(6 * time.Second)
	c, err := r.count(ctx)
	got.set("peak", float64(c.Peak))
	return err
}

func m5(ctx context.Context, r *rig, got *result) error {
	const id = "speaker"
	old, err := r.dial(ctx, id)
	if err != nil {
		return err
	}
	if ok, err := r.greeted(ctx, old, 5*time.Second); !ok {
		return errors.Join(err, errors.New("the first connection was not greeted"))
	}
	time.Sleep(300 * time.Millisecond)
	if err := r.peer.Call(ctx, "set", args{"line": old, "mute": true}, nil); err != nil {
		return err
	}
	began := time.Now()
	fresh, err := r.dial(ctx, id)
	if err != nil {
		return err
	}
	ok, err := r.greeted(ctx, fresh, 10*time.Second)
	if err != nil {
		return err
	}
	got.set("admitted", never)
	if ok {
		got.set("admitted", time.Since(began).Seconds())
	}
	time.Sleep(500 * time.Millisecond)
	p, err := r.report(ctx)
	if err != nil {
		return err
	}
	got.set("objects", float64(p.Objects[id]))
	if err := r.peer.Call(ctx, "cut", args{"line": old, "how": "rst"}, nil); err != nil {
		return err
	}
	time.Sleep(2 * time.Second)
	p, err = r.report(ctx)
	if err != nil {
		return err
	}
	c, err := r.count(ctx)
	order, wrong := ups(p.Events, id)
	got.set("wrong", float64(wrong))
	got.setIf("gone", strings.HasSuffix(order, "down") && c.Lines[fresh-1].Closed == 0)
	got.notes["told"] = order
	return err
}

// link starts a client behind the relay and waits until it is connected.
func link(ctx context.Context, r *rig) (url string, err error) {
	url, err = r.relay(ctx, false)
	if err != nil {
		return "", err
	}
	if err := r.driver.Call(ctx, "client_connect", args{"url": url, "wait": true}, nil); err != nil {
		return "", err
	}
	p, err := r.client(ctx)
	if err == nil && !p.Connected {
		err = fmt.Errorf("the client did not connect: %q", p.Errs)
	}
	return url, err
}

// linked measures what a client row ends with.
func linked(ctx context.Context, r *rig, got *result) error {
	p, err := r.client(ctx)
	if err != nil {
		return err
	}
	c, err := r.count(ctx)
	got.setIf("connected", p.Connected)
	got.set("open", float64(c.Open))
	got.set("failed", float64(len(p.Errs)))
	got.set("callbacks", float64(p.Callbacks))
	got.set("took", p.Took)
	if len(p.Errs) > 0 {
		got.notes["first error"] = p.Errs[0]
	}
	return err
}

func m6(ctx context.Context, r *rig, got *result) error {
	url, err := r.relay(ctx, false)
	if err != nil {
		return err
	}
	if err := r.driver.Call(ctx, "client_connect", args{"url": url, "n": 10, "wait": true}, nil); err != nil {
		return err
	}
	time.Sleep(2 * time.Second)
	return linked(ctx, r, got)
}

func m7(ctx context.Context, r *rig, got *result) error {
	if _, err := link(ctx, r); err != nil {
		return err
	}
	if err := r.driver.Call(ctx, "client_disconnect", args{"n": 5, "wait": true}, nil); err != nil {
		return err
	}
	time.Sleep(time.Second)
	return linked(ctx, r, got)
}

func m8(ctx context.Context, r *rig, got *result) error {
	url, err := r.relay(ctx, false)
	if err != nil {
		return err
	}
	if err := r.peer.Call(ctx, "hold", args{"on": true}, nil); err != nil {
		return err
	}
	if err := r.driver.Call(ctx, "client_connect", args{"url": url}, nil); err != nil {
		return err
	}
	if err := r.open(ctx, 1); err != nil {
		return err
	}
	if err := r.driver.Call(ctx, "client_disconnect", nil, nil); err != nil {
		return err
	}
	time.Sleep(300 * time.Millisecond)
	if err := r.peer.Call(ctx, "hold", args{"on": false}, nil); err != nil {
		return err
	}
	time.Sleep(4 * time.Second)
	return linked(ctx, r, got)
}

func m9(ctx context.Context, r *rig, got *result) error {
	url, err := link(ctx, r)
	if err != nil {
		return err
	}
	if err := r.peer.Call(ctx, "set", args{"mute": true}, nil); err != nil {
		return err
	}
	if err := r.driver.Call(ctx, "client_disconnect", nil, nil); err != nil {
		return err
	}
	time.Sleep(300 * time.Millisecond)
	if err := r.driver.Call(ctx, "client_connect", args{"url": url}, nil); err != nil {
		return err
	}
	time.Sleep(14 * time.Second) // the old close may take 10
	return linked(ctx, r, got)
}

func m10(ctx context.Context, r *rig, got *result) error {
	url, err := r.relay(ctx, true)
	if err != nil {
		return err
	}
	if err := r.driver.Call(ctx, "client_connect", args{"url": url, "wait": true}, nil); err != nil {
		return err
	}
	return linked(ctx, r, got)
}

func m11(ctx context.Context, r *rig, got *result) error {
	if _, err := r.online(ctx, 1); err != nil {
		return err
	}
	time.Sleep(300 * time.Millisecond) // its state has arrived
	if err := r.peer.Call(ctx, "set", args{"deaf": true}, nil); err != nil {
		return err
	}
	var filled struct {
		Grown  float64 `json:"grown_mib"`
		Frames float64
	}
	err := r.driver.Call(ctx, "fill", args{"id": "speaker", "frames": 6000, "size": 64 << 10}, &filled)
	got.set("grown", filled.Grown)
	return err
}

const (
	awaySpeed = 120.0
	awayFor   = 15 * time.Minute
	lookFor   = 6 * time.Minute // longer than any backoff of the others
)

// m12 is run with a clock that runs fast; ours in virtual time, see away.
func m12(ctx context.Context, r *rig, got *result, announced bool) error {
	fast := func(d time.Duration) time.Duration { return time.Duration(float64(d) / awaySpeed) }
	urls, err := r.online(ctx, 1)
	if err != nil {
		return err
	}
	if err := r.peer.Call(ctx, "port", args{"open": false}, nil); err != nil {
		return err
	}
	if err := r.peer.Call(ctx, "cut", args{"how": "rst"}, nil); err != nil {
		return err
	}
	time.Sleep(fast(awayFor))
	if err := r.peer.Call(ctx, "port", args{"open": true}, nil); err != nil {
		return err
	}
	began, within := time.Now(), fast(lookFor)
	if announced {
		within = 5 * time.Second
		if err := r.driver.Call(ctx, "connect", args{"url": urls[0]}, nil); err != nil {
			return err
		}
	}
	is, err := r.until(ctx, within, func(c count) bool { return c.Open == 1 })
	switch took := time.Since(began).Seconds(); {
	case !is:
		got.set("back", never)
	case announced: // a dial takes real time
		got.set("back", took)
	default:
		got.set("back", took*awaySpeed)
	}
	return err
}

func m13(ctx context.Context, r *rig, got *result) error {
	if _, err := r.online(ctx, 1); err != nil {
		return err
	}
	away, err := r.listen(ctx, "away", 1, true)
	if err != nil {
		return err
	}
	if err := r.driver.Call(ctx, "connect", args{"url": away[0]}, nil); err != nil {
		return err
	}
	time.Sleep(1500 * time.Millisecond)
	var closed struct {
		Took  float64 `json:"took_s"`
		Tasks float64
	}
	if err := r.driver.Call(ctx, "close", nil, &closed); err != nil {
		return err
	}
	time.Sleep(20 * time.Millisecond) // a FIN on its way
	c, err := r.count(ctx)
	got.set("took", closed.Took)
	got.set("tasks", closed.Tasks)
	got.set("open", float64(c.Open))
	return err
}

func m14(ctx context.Context, r *rig, got *result) error {
	urls, err := r.listen(ctx, "speaker", 60, false)
	if err != nil {
		return err
	}
	var raised struct {
		Errors float64
		Error  string
	}
	if err := r.driver.Call(ctx, "threads", args{"urls": urls, "threads": 8}, &raised); err != nil {
		return err
	}
	_, err = r.until(ctx, 5*time.Second, func(c count) bool { return len(c.Keys) == len(urls) })
	if err != nil {
		return err
	}
	time.Sleep(time.Second)
	c, err := r.count(ctx)
	twice := 0
	for _, t := range c.Keys {
		if t.Total > 1 {
			twice++
		}
	}
	got.set("twice", float64(twice))
	got.set("none", float64(len(urls)-len(c.Keys)))
	got.set("errors", raised.Errors)
	if raised.Error != "" {
		got.notes["raised"] = raised.Error
	}
	return err
}

func g1(ctx context.Context, r *rig, got *result) error {
	err := r.driver.Call(ctx, "client_storm", args{"senders": 8, "messages": 200}, nil)
	got.setIf("died", errors.Is(err, control.ErrEnded))
	if errors.Is(err, control.ErrEnded) {
		for line := range strings.Lines(r.driver.Said()) {
			if strings.HasPrefix(line, "panic:") {
				got.notes["it said"] = strings.TrimSpace(line)
			}
		}
		return nil
	}
	return err
}

func g2(ctx context.Context, r *rig, got *result) error {
	line, err := r.dial(ctx, "speaker")
	if err != nil {
		return err
	}
	if ok, err := r.greeted(ctx, line, 5*time.Second); !ok {
		return errors.Join(err, errors.New("the first connection was not greeted"))
	}
	time.Sleep(200 * time.Millisecond)
	refused := 0
	for range 5 {
		if err := r.peer.Call(ctx, "set", args{"line": line, "mute": true}, nil); err != nil {
			return err
		}
		next, err := r.dial(ctx, "speaker")
		if err != nil {
			return err
		}
		ok, err := r.greeted(ctx, next, 4*time.Second)
		if err != nil {
			return err
		}
		if !ok {
			refused++
			continue
		}
		line = next
		time.Sleep(200 * time.Millisecond)
	}
	got.set("refused", float64(refused))
	return nil
}

func g3(ctx context.Context, r *rig, got *result) error {
	urls, err := r.listen(ctx, "speaker", 1, false)
	if err != nil {
		return err
	}
	var port int
	if _, err := fmt.Sscanf(urls[0], "ws://127.0.0.1:%d/", &port); err != nil {
		return err
	}
	announce := func(times int) error {
		if r.who.key != "ours" { // whose driver says what discovery would
			return r.peer.Call(ctx, "announce", args{"port": port, "times": times, "gap_ms": 50}, nil)
		}
		for range times {
			if err := r.driver.Call(ctx, "connect", args{"url": urls[0]}, nil); err != nil {
				return err
			}
			time.Sleep(50 * time.Millisecond)
		}
		return nil
	}
	for range 10 { // its first question may not be out yet
		if err := announce(5); err != nil {
			return err
		}
		if is, err := r.until(ctx, 500*time.Millisecond, func(c count) bool { return c.Open == 1 }); is || err != nil {
			break
		}
	}
	if err := r.open(ctx, 1); err != nil {
		return err
	}
	time.Sleep(500 * time.Millisecond)
	before, err := r.count(ctx)
	if err != nil {
		return err
	}
	if err := r.peer.Call(ctx, "cut", args{"how": "rst"}, nil); err != nil {
		return err
	}
	if err := announce(100); err != nil {
		return err
	}
	time.Sleep(2 * time.Second)
	c, err := r.count(ctx)
	got.set("dials", float64(c.Total-before.Total))
	return err
}

func g4(ctx context.Context, r *rig, got *result) error {
	const n = 400
	// One of them stays, so that the music goes on.
	keeper, err := r.dial(ctx, "keeper")
	if err != nil {
		return err
	}
	herd := func() error {
		return r.peer.Call(ctx, "dial", args{"url": r.hello.URL, "id": "speaker", "n": n, "dialect": r.hello.Dialect}, nil)
	}
	greeted := func(from int) func(count) bool {
		return func(c count) bool {
			return len(c.Lines) == from+n && !slices.ContainsFunc(c.Lines[from:], func(s socket) bool { return !s.Hello })
		}
	}
	if err := herd(); err != nil {
		return err
	}
	if err := r.must(ctx, 15*time.Second, "everybody greeted", greeted(keeper)); err != nil {
		return err
	}
	members := []string{"keeper"}
	for i := range n {
		members = append(members, speakerID(i))
	}
	time.Sleep(time.Second) // their states have arrived
	if err := r.driver.Call(ctx, "play", args{"ids": members}, nil); err != nil {
		return err
	}
	time.Sleep(time.Second)
	c, err := r.count(ctx)
	if err != nil {
		return err
	}
	for _, s := range c.Lines[keeper:] {
		if err := r.peer.Call(ctx, "cut", args{"line": s.N, "how": "rst"}, nil); err != nil {
			return err
		}
	}
	time.Sleep(2 * time.Second)
	if err := herd(); err != nil {
		return err
	}
	if _, err := r.until(ctx, 10*time.Second, greeted(keeper+n)); err != nil {
		return err
	}
	time.Sleep(3 * time.Second)
	c, err = r.count(ctx)
	if err != nil {
		return err
	}
	hello, audio, silent := 0, 0, 0
	for _, s := range c.Lines[keeper+n:] {
		if s.Hello {
			hello++
		}
		if s.First == "audio" {
			audio++
		}
		if !s.Stream {
			silent++
		}
	}
	got.set("greeted", float64(hello))
	got.set("audio", float64(audio))
	got.set("silent", float64(silent))
	return nil
}

func g6(ctx context.Context, r *rig, got *result) error {
	line, err := r.dial(ctx, "speaker")
	if err != nil {
		return err
	}
	if ok, err := r.greeted(ctx, line, 5*time.Second); !ok {
		return errors.Join(err, errors.New("the connection was not greeted"))
	}
	ctx, cancel := context.WithTimeout(ctx, 12*time.Second)
	defer cancel()
	var closed struct {
		Took float64 `json:"took_s"`
	}
	err = r.driver.Call(ctx, "close", nil, &closed)
	got.set("took", closed.Took)
	if errors.Is(err, context.DeadlineExceeded) {
		got.set("took", never)
		err = nil
	}
	return err
}
