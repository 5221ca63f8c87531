package resonate

import (
	"log/slog"
	"slices"
	"testing"
	"time"

	"resonatebridge/timesync"
)

// room makes a model with players that are known and not connected.
func room(t *testing.T, pids ...string) *model {
	t.Helper()
	st, recs, err := openStore("", slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	s := &Server{
		opts: Options{Clock: timesync.NewClock()}.withDefaults(), store: st, log: slog.New(slog.DiscardHandler),
		inbox: make(chan func(), inboxSize), changed: make(chan struct{}, 1), closed: make(chan struct{}),
	}
	m := newModel(s, recs)
	s.model = m
	for _, pid := range pids {
		m.addClient(&playerRecord{PID: pid, ClientID: pid, Name: pid}, true)
	}
	return m
}

func (m *model) mustDo(t *testing.T, cmd Command) Result {
	t.Helper()
	var got Result
	calls := 0
	m.do(cmd, func(r Result, err *CommandError) {
		calls++
		if err != nil {
			t.Fatalf("%#v: %s: %v", cmd, err.Code, err)
		}
		got = r
	})
	if calls != 1 {
		t.Fatalf("%#v was answered %d times, want once", cmd, calls)
	}
	m.check(t)
	return got
}

func (m *model) mustFail(t *testing.T, cmd Command, code Code) {
	t.Helper()
	m.do(cmd, func(_ Result, err *CommandError) {
		if err == nil || err.Code != code {
			t.Errorf("%#v: got %v, want %s", cmd, err, code)
		}
	})
	m.check(t)
}

// check holds the invariants of grouping: every player is in exactly one
// group, and no group exists without reason.
func (m *model) check(t *testing.T) {
	t.Helper()
	in := map[string]int{}
	for id, g := range m.groups {
		if g.id != id {
			t.Errorf("group %q is stored under %q", g.id, id)
		}
		for _, c := range g.members {
			in[c.rec.PID]++
			if c.group != g {
				t.Errorf("%s is a member of %s but points to %s", c.rec.PID, id, c.group.id)
			}
		}
		switch n := len(g.players()); {
		case g.kind == AdHocGroup && n < 2:
			t.Errorf("ad-hoc group %s has %d players, want 2 or more", id, n)
		case g.kind == SoloGroup && n != 1:
			t.Errorf("solo group %s has %d players, want 1", id, n)
		}
	}
	for pid := range m.clients {
		if in[pid] != 1 {
			t.Errorf("%s is in %d groups, want 1", pid, in[pid])
		}
	}
}

func (m *model) members(pid string) []string { return m.clients[pid].group.snapshot().Members }

func join(pid, with string) SetPlayer {
	return SetPlayer{PID: pid, Group: &GroupTarget{With: with}}
}

func solo(pid string) SetPlayer { return SetPlayer{PID: pid, Group: &GroupTarget{Solo: true}} }

func into(pid, gid string) SetPlayer {
	return SetPlayer{PID: pid, Group: &GroupTarget{GroupID: gid}}
}

func TestAdHocGroups(t *testing.T) {
	m := room(t, "a", "b", "c")
	m.mustDo(t, join("b", "a"))
	if got, want := m.members("a"), []string{"a", "b"}; !slices.Equal(got, want) {
		t.Errorf("members %v, want %v", got, want)
	}
	id := m.clients["a"].group.id
	m.mustDo(t, join("c", "b")) // whoever is joined, it is the same group
	m.mustDo(t, join("c", "b")) // again: nothing changes
	if got := m.clients["c"].group.id; got != id {
		t.Errorf("c is in %s, want %s", got, id)
	}
	m.mustDo(t, solo("a")) // the longest-standing member becomes the anchor
	if got, want := m.members("c"), []string{"b", "c"}; !slices.Equal(got, want) {
		t.Errorf("members %v, want %v", got, want)
	}
	m.mustDo(t, solo("b")) // the last pair ends the group
	if m.groups[id] != nil || m.clients["c"].group.kind != SoloGroup {
		t.Errorf("the group outlived its last pair: c is in %s", m.clients["c"].group.id)
	}
	m.mustDo(t, join("a", "a")) // with itself: nothing
}

func TestNamedGroups(t *testing.T) {
	m := room(t, "a", "b", "c")
	r := m.mustDo(t, AddGroup{Name: "Down stairs", Members: []string{"b", "a"}})
	gid := r.Data["id"].(string)
	if gid != "down-stairs" {
		t.Errorf("id %q, want down-stairs", gid)
	}
	m.mustFail(t, AddGroup{Name: "DOWN STAIRS"}, CodeInvalidValue)
	m.mustFail(t, AddGroup{Name: "None"}, CodeInvalidValue)
	m.mustFail(t, AddGroup{Name: "x\ny"}, CodeInvalidValue)
	m.mustFail(t, AddGroup{Name: "ok", Members: []string{"nobody"}}, CodeUnknownDevice)
	if m.groups["ok"] != nil {
		t.Error("a refused command left a group behind")
	}
	m.mustDo(t, solo("a"))
	m.mustDo(t, SetGroup{ID: gid, Add: []string{"c"}})
	if got, want := m.members("c"), []string{"b", "c"}; !slices.Equal(got, want) {
		t.Errorf("members %v, want %v", got, want)
	}
	m.mustDo(t, SetGroup{ID: gid, Release: true})
	if got := len(m.groups[gid].players()); got != 0 {
		t.Errorf("%d players after release, want 0", got)
	}
	m.mustDo(t, SetGroup{ID: gid, Gather: true})
	if got, want := m.members("c"), []string{"b", "c"}; !slices.Equal(got, want) {
		t.Errorf("gathered %v, want %v: a left by itself and is forgotten", got, want)
	}
	name := "Upstairs"
	m.mustDo(t, SetGroup{ID: gid, Name: &name})
	if got := m.groups[gid].label(); got != name {
		t.Errorf("name %q, want %q", got, name)
	}
	m.mustDo(t, SetGroup{ID: gid, Members: &[]string{}}) // empty, and still there
	if m.groups[gid] == nil {
		t.Error("an empty named group vanished")
	}
	m.mustDo(t, into("a", gid))
	m.mustDo(t, RemoveGroup{ID: gid})
	if m.groups[gid] != nil || m.clients["a"].group.kind != SoloGroup {
		t.Error("a removed group lives on")
	}
	m.mustFail(t, RemoveGroup{ID: gid}, CodeUnknownGroup)
}

func TestMembersAreSetAsOneChange(t *testing.T) {
	m := room(t, "a", "b", "c", "d")
	m.mustDo(t, join("b", "a"))
	id := m.clients["a"].group.id
	m.mustDo(t, SetGroup{ID: id, Members: &[]string{"c", "d"}})
	if got, want := m.members("c"), []string{"c", "d"}; !slices.Equal(got, want) {
		t.Errorf("members %v, want %v", got, want)
	}
	m.mustFail(t, SetGroup{ID: m.clients["c"].group.id, Members: &[]string{"c", "ghost"}}, CodeUnknownDevice)
	if got, want := m.members("c"), []string{"c", "d"}; !slices.Equal(got, want) {
		t.Errorf("a refused command changed the members to %v, want %v", got, want)
	}
}

func TestMembershipEndsAndComesBack(t *testing.T) {
	m := room(t, "a", "b")
	gid := m.mustDo(t, AddGroup{Name: "den", Members: []string{"a", "b"}}).Data["id"].(string)
	a := m.clients["a"]
	m.expire(a)
	if a.group.kind != SoloGroup {
		t.Fatal("the membership did not end")
	}
	m.rejoin(a)
	if a.group.id != gid {
		t.Errorf("back in %s, want %s", a.group.id, gid)
	}
	m.park(a) // unavailable: no way back by itself (spec: availability)
	m.rejoin(a)
	if a.group.kind != SoloGroup {
		t.Error("a player that became unavailable was moved back by itself")
	}
	m.switchGroup(a) // its previous group comes first
	if a.group.id != gid {
		t.Errorf("switch led to %s, want the previous group %s", a.group.id, gid)
	}
}

func TestSwitchCycle(t *testing.T) {
	m := room(t, "x", "p", "q", "r", "s", "y", "z")
	m.mustDo(t, join("x", "p"))
	m.mustDo(t, join("r", "q"))
	m.mustDo(t, join("s", "z"))
	g1, g2 := m.clients["x"].group, m.clients["q"].group
	g1.playback, g2.playback, m.clients["y"].group.playback = Playing, Playing, Playing
	x := m.clients["x"]
	seen := []string{}
	for range 4 {
		m.switchGroup(x)
		m.check(t)
		seen = append(seen, x.group.snapshot().Name)
	}
	// The two playing groups, the one that plays alone, its own: in any
	// rotation, each once. s and z do not play and are never visited.
	slices.Sort(seen)
	if distinct := slices.Compact(slices.Clone(seen)); len(distinct) != 4 {
		t.Errorf("visited %v, want four different places", seen)
	}
	for _, name := range seen {
		if name == "s + z" || name == "z + s" {
			t.Errorf("visited %v, a group that does not play", name)
		}
	}
}

func TestCustodyIsAsked(t *testing.T) {
	m := room(t, "a", "b")
	for _, tc := range []struct {
		name string
		cmd  Command
		code Code
	}{
		{"borrow comes later", SetPlayer{PID: "a", Custody: ptr(CustodyBorrow)}, CodeNotSupported},
		{"unknown custody", SetPlayer{PID: "a", Custody: ptr(Custody("mine"))}, CodeInvalidValue},
		{"unknown player", SetPlayer{PID: "ghost", Custody: ptr(CustodyHold)}, CodeUnknownDevice},
		{"maximum of zero", SetPlayer{PID: "a", MaxVolume: ptr(0)}, CodeInvalidValue},
		{"maximum of 101", SetPlayer{PID: "a", MaxVolume: ptr(101)}, CodeInvalidValue},
		{"volume of an absent player", SetPlayer{PID: "a", Volume: &VolumeChange{Value: 5}}, CodeNotConnected},
		{"volume of 1e9", SetPlayer{PID: "a", Volume: &VolumeChange{Value: 1e9}}, CodeInvalidValue},
		{"delay of 5001 ms", SetPlayer{PID: "a", DelayMs: ptr(5001)}, CodeInvalidValue},
		{"group of nobody", SetPlayer{PID: "a", Group: &GroupTarget{With: "ghost"}}, CodeUnknownDevice},
		{"unknown group", into("a", "ghost"), CodeUnknownGroup},
		{"volume of an absent group", SetGroup{ID: "solo-a", Volume: &VolumeChange{Value: 5}}, CodeNotConnected},
	} {
		t.Run(tc.name, func(t *testing.T) { m.mustFail(t, tc.cmd, tc.code) })
	}
}

func TestRecordsSurvive(t *testing.T) {
	dir := t.TempDir()
	st, _, err := openStore(dir, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	m := room(t, "a", "b", "c")
	m.store = st
	gid := m.mustDo(t, AddGroup{Name: "den", Members: []string{"b", "a"}}).Data["id"].(string)
	m.mustDo(t, SetPlayer{PID: "c", Custody: ptr(CustodyHold), Name: ptr("Küche 🍳"), MaxVolume: ptr(60)})
	m.unsaved = true
	m.save()
	if err := st.write(st.newest.Load()); err != nil {
		t.Fatal(err)
	}
	_, recs, err := openStore(dir, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	again := newModel(m.Server, recs)
	again.check(t)
	if got, want := again.members("a"), []string{"b", "a"}; !slices.Equal(got, want) {
		t.Errorf("members %v after the restart, want %v", got, want)
	}
	c := again.clients["c"]
	if c.name() != "Küche 🍳" || again.custody(c) != CustodyHold || c.maxVolume() != 60 {
		t.Errorf("c came back as %q, %s, %d", c.name(), again.custody(c), c.maxVolume())
	}
	if again.groups[gid].created.Sub(m.groups[gid].created).Abs() > time.Second {
		t.Errorf("the group's age changed")
	}
}

func ptr[T any](v T) *T { return &v }
