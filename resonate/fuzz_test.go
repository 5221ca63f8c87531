package resonate

import (
	"context"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"resonatebridge/tests/pipe"

	"github.com/gorilla/websocket"
)

// FuzzServerSession lets bytes choose what clients say and do over connections
// that they or the server opened, and what people ask for meanwhile. Nothing
// panics, a speaker beside them notices nothing, every Up has its Down with a
// reason, and when nobody says anything any more every connection ends.
func FuzzServerSession(f *testing.F) {
	phrases, err := pipe.Phrases("internal/dialect/testdata/TestTranscript/*.golden", "C")
	if err != nil {
		f.Fatal(err)
	}
	hellos := func(yield func(int) bool) {
		for i, p := range phrases {
			if strings.Contains(p, "client/hello") && !yield(i) {
				return
			}
		}
	}
	for i := range hellos { // a whole conversation of each dialect, and its parts in disorder
		orderly, disorder := []byte{0}, []byte{1}
		for k := i; k < len(phrases) && (k == i || !strings.Contains(phrases[k], "client/hello")); k++ {
			orderly = append(orderly, 1, 0, byte(k))
			disorder = append(disorder, byte(k*5), 0, byte(k*7), 1, byte(k%12), byte(i))
		}
		f.Add(orderly)
		f.Add(append(orderly, 5, 3, 0))
		f.Add(disorder)
	}
	f.Add([]byte{0, 0, 3, 0, 1, 8, 5, 'x', 'y', 'z', 0, 0})
	f.Fuzz(func(t *testing.T, data []byte) {
		bubble(t, func(t *testing.T) {
			h := newHouse(t)
			good := h.online("good")
			b := &babbler{pipe.Babbler{Phrases: phrases}, h}
			script := pipe.Script(data[:min(len(data), 400)])
			s := h.speaker("kitchen")
			s.raw = func(c *pipe.Conn) { b.Add(c, false) }
			if script.Byte()%2 == 0 {
				b.dialIn()
			} else {
				s.announce()
				pass(time.Millisecond)
			}
			for len(script) > 0 {
				b.step(&script, s)
			}
			s.set(func() { s.off = true }) // whoever is connected says nothing more
			pass(90 * time.Second)
			if n := b.Open(); n != 0 {
				t.Errorf("%d connections are open after silence", n)
			}
			if got := h.edges("good"); got != "up1" || good.line(0).isOver() {
				t.Errorf("the good speaker: edges %q, want up1", got)
			}
			for _, p := range h.Snapshot().Players {
				if edges := strings.Fields(h.edges(p.PID)); p.PID != "good" && (p.Connection == Connected || len(edges)%2 != 0) {
					t.Errorf("%s is %s after edges %v", p.PID, p.Connection, edges)
				}
			}
			for _, e := range h.log.entries() {
				if e.Msg == "disconnected" && e.Err == "" {
					t.Errorf("%s was disconnected for no reason", e.Player)
				}
			}
			h.stop()
			b.End()
			if t.Failed() {
				t.Log(h.log.String())
				t.Logf("what was done:\n%s", strings.Join(b.Did, "\n"))
			}
		})
	})
}

// babbler is clients that a script speaks for.
type babbler struct {
	pipe.Babbler
	h *house
}

func (b *babbler) dialIn() {
	c, err := b.h.front.Dial(b.h.t.Context())
	if err != nil {
		b.h.t.Fatal(err)
	}
	d := websocket.Dialer{NetDialContext: func(context.Context, string, string) (net.Conn, error) { return c, nil }}
	_, resp, err := d.DialContext(b.h.t.Context(), "ws://bridge/sendspin", nil)
	if err != nil {
		b.h.t.Fatal(err)
	}
	_ = resp.Body.Close()
	b.Add(c, true)
}

// step does one thing.
func (b *babbler) step(s *pipe.Script, sp *speaker) {
	switch s.Byte() % 8 {
	case 4:
		d := s.Pause()
		b.Note("%v", d)
		pass(d)
	case 5:
		b.Note("dial in")
		b.dialIn()
	case 6:
		again := s.Byte()%2 == 0
		b.Note("announce, again: %v", again)
		if again {
			sp.reannounce()
		} else {
			sp.announce()
		}
	case 7:
		b.ask(s)
	default:
		b.Say(s)
	}
}

// ask asks for something about one of the players.
func (b *babbler) ask(s *pipe.Script) {
	pids := b.h.pids()
	pid := pids[int(s.Byte())%len(pids)]
	if pid == "good" {
		pid = pids[0]
	}
	custodies := []Custody{CustodyAuto, CustodyHold, CustodyBorrow, CustodyObserve, CustodyIgnore}
	c := []Command{
		setVolume(pid, int(s.Byte())%101),
		SetPlayer{PID: pid, Mute: &MuteChange{On: true}},
		setCustody(pid, custodies[int(s.Byte())%len(custodies)]),
		SetPlayer{PID: pid, Reconnect: true},
		SetPlayer{PID: pid, Group: &GroupTarget{With: "good"}},
		AddGroup{Name: "All", Members: pids},
		RemovePlayer{PID: pid},
		Scan{},
	}[s.Byte()%8]
	b.Note("%#v", c)
	if pid == "good" {
		return // left alone: it has to notice nothing
	}
	ctx, cancel := context.WithTimeout(b.h.t.Context(), 100*time.Millisecond)
	defer cancel()
	_, _ = b.h.Do(ctx, c) // it may be away, or refuse
}

// FuzzRecords starts a server on a data directory that anything has written, e.g.
// a person. It comes up, nobody is in two groups or in one that is not there, a
// speaker gets in, and what it saves at its end makes the same house again.
func FuzzRecords(f *testing.F) {
	f.Add([]byte(`{"version":1,"players":[{"id":"kitchen","client_id":"kitchen","custody":"auto","max_volume":70,"announce_volume":35,"volume":40,
		"mute":true,"delay_ms":120,"previous":"g-1","parked":true,"dialect":"S4","roles":["player@v1"],"commands":["volume"],"restore_volume":20,
		"media":{"items":[{"url":"http://x/a"}],"index":0,"repeat":"one"},"last_seen":"2026-01-02T03:04:05Z"},
		{"id":"bath","keys":["mdns:bath"]},{"id":"hall","client_id":"hall","volume":12}]}`),
		[]byte(`{"version":1,"groups":[{"id":"g-1","name":"All","kind":"named","members":["kitchen","bath"],"remembered":["hall","bath"],"created":"2026-01-02T03:04:05Z",
		"media":{"items":[{"url":"http://x/a"},{"url":"/x"}],"index":1,"repeat":"all","shuffle":true}},{"id":"g-2","name":"","kind":"adhoc","members":["hall","kitchen"]}]}`))
	f.Add([]byte(`{"players":[{"id":"kitchen","client_id":"x"},{"id":"x","client_id":"kitchen","volume":-7,"max_volume":1000,"delay_ms":99999999,"custody":"?"},
		{"id":"x"},{"id":"a/b #+","client_id":"x","media":{"items":null,"index":9,"repeat":"?"}}]}`),
		[]byte(`{"groups":[{"id":"g","kind":"named","members":["x","x","none"],"remembered":["none","none"]},{"id":"g","kind":"solo","members":["x"]}]}`))
	f.Add([]byte(`[`), []byte(`{"version":null,"groups":[null]}`))
	f.Fuzz(func(t *testing.T, players, groups []byte) {
		bubble(t, func(t *testing.T) {
			dir := t.TempDir()
			for name, data := range map[string][]byte{playersFile: players, groupsFile: groups} {
				if err := os.WriteFile(filepath.Join(dir, name), data, 0o600); err != nil {
					t.Fatal(err)
				}
			}
			data := func(o *Options) { o.DataDir = dir }
			lib := library(map[string]*ramp{"http://x/a": {frames: 4800, rate: 48_000}})
			h := newHouse(t, data, lib)
			h.speaker("kitchen").announce()
			pass(time.Minute)
			wantOneHouse(t, h.Snapshot())
			for _, pid := range h.pids() {
				ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
				for _, c := range []Command{setVolume(pid, 30), SetPlayer{PID: pid, Group: &GroupTarget{With: h.pids()[0]}}, act(pid, ActionPlay), act(pid, ActionNext), setCustody(pid, CustodyHold)} {
					_, _ = h.Do(ctx, c) // it may be away, or refuse
				}
				cancel()
			}
			pass(time.Second)
			before := h.Snapshot()
			wantOneHouse(t, before)
			h.stop()
			h = newHouse(t, data, lib)
			after := h.Snapshot()
			wantOneHouse(t, after)
			if len(after.Players) != len(before.Players) || len(after.Groups) != len(before.Groups) {
				t.Errorf("%d players and %d groups after a restart, want %d and %d", len(after.Players), len(after.Groups), len(before.Players), len(before.Groups))
			}
			h.stop()
		})
	})
}

// wantOneHouse fails the test unless every player has its one group.
func wantOneHouse(t *testing.T, s *Snapshot) {
	t.Helper()
	in := map[string]string{}
	for _, g := range s.Groups {
		for _, pid := range g.Members {
			if other, twice := in[pid]; twice {
				t.Errorf("%q is in %q and in %q", pid, other, g.ID)
			}
			in[pid] = g.ID
		}
		for _, pid := range g.Remembered {
			if s.Player(pid) == nil {
				t.Errorf("%q remembers %q, whom nobody knows", g.ID, pid)
			}
		}
		if g.Volume < 0 || g.Volume > 100 {
			t.Errorf("group %q has volume %d", g.ID, g.Volume)
		}
	}
	ids := map[string]string{}
	for _, p := range s.Players {
		if in[p.PID] == "" || in[p.PID] != p.GroupID {
			t.Errorf("%q is in the group %q, which does not have it", p.PID, p.GroupID)
		}
		delete(in, p.PID)
		if other, twice := ids[p.ClientID]; twice && p.ClientID != "" {
			t.Errorf("%q and %q are both the client %q", p.PID, other, p.ClientID)
		}
		ids[p.ClientID] = p.PID
		if p.Volume != nil && (*p.Volume < 0 || *p.Volume > 100) {
			t.Errorf("%q has volume %d", p.PID, *p.Volume)
		}
	}
	if len(in) > 0 {
		t.Errorf("groups have members %v that nobody knows", in)
	}
}
