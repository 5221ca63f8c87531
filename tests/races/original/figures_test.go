package original

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"syscall"
	"testing"
	"time"

	"resonatebridge/tests/internal/facts"
)

const (
	crowd      = 100 // speakers of a figure, and so its samples
	figureTime = 3 * time.Minute
)

// figures measures times of ours alone, with nothing else going on.
func (l *lab) figures(t *testing.T) *facts.Table {
	t.Helper()
	table := &facts.Table{}
	ours := l.subject("ours")
	for _, f := range []struct {
		what  string
		apart bool // in a network of its own
		flags []string
		take  func(ctx context.Context, r *rig, table *facts.Table) error
	}{
		{"the end by a close frame, and the way back", false, nil, func(ctx context.Context, r *rig, table *facts.Table) error {
			return cuts(ctx, r, table, "close", "a close frame")
		}},
		{"the end by RST", false, nil, func(ctx context.Context, r *rig, table *facts.Table) error {
			return cuts(ctx, r, table, "rst", "an RST")
		}},
		{"SIGSTOP", false, nil, stopped},
		{"a power cut", true, nil, unplugged},
		{"the way back by an announcement", false, nil, announced},
		{"flaps", false, []string{"-unlimited"}, flaps},
		{"a herd", false, nil, herd},
		{"a shutdown", false, nil, shutdown},
	} {
		ctx, cancel := context.WithTimeout(t.Context(), figureTime)
		var where place
		var err error
		if f.apart {
			where, err = apart(t)
		}
		var r *rig
		if err == nil {
			r, err = l.rig(ctx, ours, where, f.flags...)
		}
		if err == nil {
			err = f.take(ctx, r, table)
			r.stop()
		}
		cancel()
		switch {
		case errors.Is(err, errNamespaces):
			table.Value(f.what, "NOT MEASURED: "+err.Error(), "", false)
		case err != nil:
			t.Errorf("%s: %v", f.what, err)
		}
	}
	table.Times("back without an announcement after 15 minutes away, in virtual time", returns(t, crowd, false), facts.OfMax, 61*time.Second)
	return table
}

// changes are the first events of each id after a moment.
func changes(ctx context.Context, r *rig, what string, since map[string]int64) (map[string]time.Duration, error) {
	p, err := r.report(ctx)
	out := map[string]time.Duration{}
	for _, e := range p.Events {
		from, ok := since[e.ID]
		if _, done := out[e.ID]; ok && !done && e.What == what && e.At >= from {
			out[e.ID] = time.Duration(e.At - from)
		}
	}
	return out, err
}

// wait waits until all ids have changed, and says how long after their moment.
func wait(ctx context.Context, r *rig, what string, since map[string]int64, within time.Duration) ([]time.Duration, error) {
	for end := time.Now().Add(within); ; time.Sleep(100 * time.Millisecond) {
		got, err := changes(ctx, r, what, since)
		if err != nil {
			return nil, err
		}
		if len(got) == len(since) || time.Now().After(end) {
			var ds []time.Duration
			for _, d := range got {
				ds = append(ds, d)
			}
			if len(ds) < len(since) {
				return ds, fmt.Errorf("%d of %d went %s within %v", len(ds), len(since), what, within)
			}
			return ds, nil
		}
	}
}

// ids are those of n speakers, and the moment for each.
func ids(n int, at int64) map[string]int64 {
	out := map[string]int64{}
	for i := range n {
		out[speakerID(i)] = at
	}
	return out
}

// speakerID is how the peer numbers speakers.
func speakerID(i int) string {
	if i == 0 {
		return "speaker"
	}
	return fmt.Sprintf("speaker-%d", i+1)
}

type moment struct{ At int64 }

// settled is how long speakers are connected before a figure begins: longer
// than what counts as a stable session.
const settled = 11 * time.Second

// cuts ends connections one by one, the ports stay open.
func cuts(ctx context.Context, r *rig, table *facts.Table, how, name string) error {
	urls, err := r.online(ctx, crowd)
	if err != nil {
		return err
	}
	time.Sleep(settled)
	c, err := r.count(ctx)
	if err != nil {
		return err
	}
	since := map[string]int64{}
	for i, url := range urls {
		line := slices.IndexFunc(c.Lines, func(s socket) bool { return s.Key == url })
		var m moment
		if err := r.peer.Call(ctx, "cut", args{"line": c.Lines[line].N, "how": how}, &m); err != nil {
			return err
		}
		since[speakerID(i)] = m.At
		time.Sleep(20 * time.Millisecond)
	}
	down, err := wait(ctx, r, "down", since, 10*time.Second)
	table.Times("noticed: "+name, down, facts.OfMax, 100*time.Millisecond)
	if err != nil {
		return err
	}
	up, err := wait(ctx, r, "up", since, 30*time.Second)
	table.Times("back after "+name+", the port is open, nobody announces it", up, facts.OfMax, 2*time.Second)
	return err
}

// stopped stops the peer's process as SIGSTOP does: its kernel still answers.
func stopped(ctx context.Context, r *rig, table *facts.Table) error {
	if _, err := r.online(ctx, crowd); err != nil {
		return err
	}
	time.Sleep(time.Second)
	at := time.Now().UnixNano()
	if err := syscall.Kill(r.peer.PID(), syscall.SIGSTOP); err != nil {
		return err
	}
	down, err := wait(ctx, r, "down", ids(crowd, at), 40*time.Second)
	table.Times("noticed: the speaker's process is stopped (SIGSTOP)", down, facts.OfMax, 25500*time.Millisecond)
	at = time.Now().UnixNano()
	if err := errors.Join(err, syscall.Kill(r.peer.PID(), syscall.SIGCONT)); err != nil {
		return err
	}
	up, err := wait(ctx, r, "up", ids(crowd, at), 90*time.Second)
	table.Times("back after SIGCONT, nobody announces it", up, facts.OfMax, 61*time.Second)
	return err
}

// unplugged takes the link down: no FIN, no RST, no answer from its kernel.
func unplugged(ctx context.Context, r *rig, table *facts.Table) error {
	if _, err := r.online(ctx, crowd); err != nil {
		return err
	}
	time.Sleep(time.Second)
	at := time.Now().UnixNano()
	r.where.pull()
	down, err := wait(ctx, r, "down", ids(crowd, at), 40*time.Second)
	table.Times("noticed: power cut (link down in a network namespace)", down, facts.OfMax, 25500*time.Millisecond)
	return err
}

// announced closes the ports, waits out the first retries, opens them and
// announces the speakers of one house at once.
func announced(ctx context.Context, r *rig, table *facts.Table) error {
	const house = 20
	urls, err := r.online(ctx, house)
	if err != nil {
		return err
	}
	var all []time.Duration
	for range crowd / house {
		if err := r.peer.Call(ctx, "port", args{"open": false}, nil); err != nil {
			return err
		}
		if err := r.peer.Call(ctx, "cut", args{"how": "rst"}, nil); err != nil {
			return err
		}
		time.Sleep(5 * time.Second)
		var back moment
		if err := r.peer.Call(ctx, "port", args{"open": true}, &back); err != nil {
			return err
		}
		if err := r.driver.Call(ctx, "announce", args{"urls": urls}, nil); err != nil {
			return err
		}
		up, err := wait(ctx, r, "up", ids(house, back.At), 30*time.Second)
		all = append(all, up...)
		if err != nil {
			return err
		}
	}
	table.Times(fmt.Sprintf("back when announced, %d speakers at once", house), all, facts.OfMax, time.Second)
	return nil
}

// flaps lets go of speakers and takes them back, 1,000 pairs in all, each with
// a connection of its own, and says what that costs.
func flaps(ctx context.Context, r *rig, table *facts.Table) error {
	urls, err := r.online(ctx, crowd)
	if err != nil {
		return err
	}
	const pairs = 10
	var spent struct {
		CPU float64 `json:"cpu_s"`
	}
	// Longer than the floor between two dials of one speaker.
	if err := r.driver.Call(ctx, "flap", args{"urls": urls, "pairs": pairs, "gap_ms": 1500}, &spent); err != nil {
		return err
	}
	if err := r.must(ctx, 30*time.Second, "every speaker open", func(c count) bool { return c.Open == crowd }); err != nil {
		return err
	}
	c, err := r.count(ctx)
	if err != nil {
		return err
	}
	table.Value(fmt.Sprintf("processor time of 1,000 disconnect+connect pairs, %d connections made", c.Total-crowd),
		facts.Time(time.Duration(spent.CPU*float64(time.Second))), "< 10 s", spent.CPU >= 10)
	peak := 0
	for _, t := range c.Keys {
		peak = max(peak, t.Peak)
	}
	table.Value("most sockets to one speaker at once, in these pairs", fmt.Sprint(peak), "<= 1", peak > 1)
	return nil
}

// herd announces 400 speakers at once.
func herd(ctx context.Context, r *rig, table *facts.Table) error {
	const n = 400
	urls, err := r.listen(ctx, "speaker", n, false)
	if err != nil {
		return err
	}
	var at moment
	if err := r.driver.Call(ctx, "announce", args{"urls": urls}, &at); err != nil {
		return err
	}
	up, err := wait(ctx, r, "up", ids(n, at.At), 60*time.Second)
	table.Times("up: 400 speakers announced at once", up, facts.OfMax, 30*time.Second)
	return err
}

// shutdown ends the server with many speakers connected, a few times.
func shutdown(ctx context.Context, r *rig, table *facts.Table) error {
	var took []time.Duration
	for range *repeats {
		fresh, err := r.lab.rig(ctx, r.who, place{})
		if err != nil {
			return err
		}
		_, err = fresh.online(ctx, crowd)
		var closed struct {
			Took float64 `json:"took_s"`
		}
		if err == nil {
			err = fresh.driver.Call(ctx, "close", nil, &closed)
		}
		fresh.stop()
		if err != nil {
			return err
		}
		took = append(took, time.Duration(closed.Took*float64(time.Second)))
	}
	table.Times(fmt.Sprintf("shutdown with %d speakers connected", crowd), took, facts.OfMax, 5*time.Second)
	return nil
}
