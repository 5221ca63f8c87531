package resonate

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"
)

func TestConfiguredNameAndMaximum(t *testing.T) {
	bubble(t, func(t *testing.T) {
		h := newHouse(t, func(o *Options) {
			o.MaxVolume = 50
			o.Overrides = map[string]Override{"kitchen": {Name: "Attic", MaxVolume: 30}}
		})
		s := h.online("kitchen")
		p := h.player("kitchen")
		h.must(setVolume("kitchen", 100))
		if got := h.volume("kitchen"); p.Name != "Attic" || p.MaxVolume != 30 || got != 30 {
			t.Errorf("name %q, maximum %d, volume %d after %v; want Attic, 30, 30", p.Name, p.MaxVolume, got, s.commands())
		}
	})
}

func TestIgnoredByDefaultDialsIn(t *testing.T) {
	bubble(t, func(t *testing.T) {
		h := newHouse(t, func(o *Options) { o.Custody = CustodyIgnore })
		s := h.speaker("kitchen")
		s.dialIn()
		pass(time.Minute)
		if got := h.pids(); len(got) != 0 {
			t.Errorf("players %v, want none: the bridge was told to ignore them", got)
		}
	})
}

func TestIgnoredByOverride(t *testing.T) {
	bubble(t, func(t *testing.T) {
		h := newHouse(t, func(o *Options) { o.Overrides = map[string]Override{"kitchen": {Custody: CustodyIgnore}} })
		s := h.speaker("kitchen")
		s.announce()
		pass(time.Minute)
		p := h.player("kitchen")
		l, _, _ := s.counts()
		if p.Connection != NotManaged || l != 0 {
			t.Errorf("custody %s: %s with %d connections, want not_managed and none", p.Custody, p.Connection, l)
		}
	})
}

func TestReleasedStaysReleasedOverRestart(t *testing.T) {
	bubble(t, func(t *testing.T) {
		dir := t.TempDir()
		data := func(o *Options) { o.DataDir = dir }
		h := newHouse(t, data)
		h.online("a")
		h.online("b")
		gid := h.must(AddGroup{Name: "Down", Members: []string{"a", "b"}}).Data["id"].(string)
		h.must(SetGroup{ID: gid, Release: true})
		h.stop()
		h = newHouse(t, data)
		h.online("a")
		h.online("b")
		if a, b := h.group("a").ID, h.group("b").ID; a != "solo-a" || b != "solo-b" {
			t.Errorf("after the restart in %s and %s, want them alone: they were released", a, b)
		}
	})
}

func TestRemovedWhileAway(t *testing.T) {
	bubble(t, func(t *testing.T) {
		h := newHouse(t)
		h.online("a")
		b := h.online("b")
		gid := h.must(AddGroup{Name: "Down", Members: []string{"a", "b"}}).Data["id"].(string)
		b.powerOff()
		pass(10 * time.Minute)
		r := h.must(SetGroup{ID: gid, Remove: []string{"b"}})
		r2 := h.must(SetGroup{ID: gid, Members: &[]string{"a"}})
		rem := h.Snapshot().Group(gid).Remembered
		b.powerOn()
		b.reannounce()
		pass(10 * time.Second)
		if got := h.group("b").ID; got != "solo-b" || len(rem) != 1 {
			t.Errorf("%v, %v: remembered %v, b came back into %s; want [a] and alone", r, r2, rem, got)
		}
	})
}

func TestReleasedWhileAway(t *testing.T) {
	bubble(t, func(t *testing.T) {
		h := newHouse(t)
		h.online("a")
		b := h.online("b")
		gid := h.must(AddGroup{Name: "Down", Members: []string{"a", "b"}}).Data["id"].(string)
		b.powerOff()
		pass(10 * time.Minute)
		h.must(SetGroup{ID: gid, Release: true})
		b.powerOn()
		b.reannounce()
		pass(10 * time.Second)
		if got := h.group("b").ID; got != "solo-b" {
			t.Errorf("b came back into %s, want it alone: the group was released", got)
		}
	})
}

func TestMaximumBeatsTheKnob(t *testing.T) {
	bubble(t, func(t *testing.T) {
		h := newHouse(t)
		s := h.online("kitchen")
		h.must(SetPlayer{PID: "kitchen", MaxVolume: ptr(60)})
		for v := 61; v < 100; v += 4 {
			s.turn(v)
			pass(20 * time.Millisecond)
		}
		pass(time.Hour)
		if got := h.volume("kitchen"); got != 60 {
			t.Errorf("volume %d an hour later after %v, want the maximum of 60", got, s.commands())
		}
	})
}

func TestGroupVolumeWhileAnswersAreUnderWay(t *testing.T) {
	bubble(t, func(t *testing.T) {
		h := newHouse(t)
		a := h.online("a")
		b := h.online("b")
		h.must(join("a", "b"))
		gid := h.group("a").ID
		for _, v := range []int{70, 40} {
			if _, err := h.Do(t.Context(), SetGroup{ID: gid, Volume: &VolumeChange{Value: v}}); err != nil {
				t.Fatal(err)
			}
		}
		pass(10 * time.Second)
		if x, y := h.volume("a"), h.volume("b"); x != 40 || y != 40 {
			t.Errorf("volumes %d and %d after %v and %v, want 40", x, y, a.commands(), b.commands())
		}
		for range 3 {
			if _, err := h.Do(t.Context(), SetGroup{ID: gid, Volume: &VolumeChange{Value: -5, Relative: true}}); err != nil {
				t.Fatal(err)
			}
		}
		pass(10 * time.Second)
		if x, y := h.volume("a"), h.volume("b"); x != 25 || y != 25 {
			t.Errorf("volumes %d and %d after three steps of -5 from 40, want 25", x, y)
		}
	})
}

func TestHeldThenUnplugged(t *testing.T) {
	for _, r := range []string{"concurrent_attempt", "another_server"} {
		t.Run(r, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				h := newHouse(t)
				s := h.online("kitchen")
				s.line(0).goodbye(r)
				pass(time.Second)
				s.powerOff()
				if r == "another_server" {
					_, err := h.Do(t.Context(), SetPlayer{PID: "kitchen", Reconnect: true})
					t.Log(err)
				}
				s.withdraw()
				pass(time.Hour)
				p := h.player("kitchen")
				if p.Connection != Offline || p.Available {
					t.Errorf("%s, available %v an hour after it was unplugged, want offline", p.Connection, p.Available)
				}
			})
		})
	}
}

func TestHeldThenWithdrawn(t *testing.T) {
	bubble(t, func(t *testing.T) {
		h := newHouse(t)
		s := h.online("kitchen")
		s.line(0).goodbye("another_server")
		pass(time.Second)
		s.powerOff()
		s.withdraw()
		pass(24 * time.Hour)
		p := h.player("kitchen")
		if p.Connection != Offline || p.Available {
			t.Errorf("%s, available %v a day after it was unplugged, want offline", p.Connection, p.Available)
		}
	})
}

func TestBothAddressesAreLeftAlone(t *testing.T) {
	for _, kind := range []string{"remove", "observe", "observe-reannounce"} {
		t.Run(kind, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				h := newHouse(t)
				a, b := h.speaker("kitchen"), h.speaker("kitchen")
				a.announce()
				b.announce()
				pass(time.Minute)
				da, db := h.dialsTo(a.addr), h.dialsTo(b.addr)
				if kind == "remove" {
					h.must(RemovePlayer{PID: "kitchen"})
				} else {
					h.must(setCustody("kitchen", CustodyObserve))
				}
				if kind == "observe-reannounce" {
					pass(time.Minute)
					a.reannounce()
					b.reannounce()
				}
				pass(10 * time.Minute)
				if n := h.dialsTo(a.addr) - da + h.dialsTo(b.addr) - db; n != 0 || len(h.Snapshot().Unmet) != 0 {
					t.Errorf("%d dials more, unmet %v; want it left alone at both addresses", n, h.Snapshot().Unmet)
				}
			})
		})
	}
}

func TestRemoteControlsAreForgotten(t *testing.T) {
	bubble(t, func(t *testing.T) {
		h := newHouse(t)
		for i := range 50 {
			s := h.speaker(fmt.Sprint("ctl", i))
			s.hello = fmt.Sprintf(`{"type":"client/hello","payload":{"client_id":"ctl%d","name":"x","version":1,"supported_roles":["controller@v1"]}}`, i)
			l := s.dialIn()
			pass(time.Second)
			l.goodbye("user_request")
			pass(time.Second)
		}
		pass(time.Hour)
		n := 0
		onLoop(h, func(m *model) { n = len(m.clients) })
		if n != 0 {
			t.Errorf("%d remote controls are remembered an hour after they left, want none", n)
		}
	})
}

func TestStepsAddUpWhileAway(t *testing.T) {
	bubble(t, func(t *testing.T) {
		h := newHouse(t)
		s := h.online("kitchen")
		s.powerOff()
		synctest.Wait()
		for range 3 {
			go func() {
				if _, err := h.Do(t.Context(), SetPlayer{PID: "kitchen", Volume: &VolumeChange{Value: 5, Relative: true}}); err != nil {
					t.Errorf("a step of +5: %v", err)
				}
			}()
			synctest.Wait()
		}
		pass(time.Second)
		s.powerOn()
		s.reannounce()
		pass(10 * time.Second)
		if got := h.volume("kitchen"); got != 55 {
			t.Errorf("volume %d after three steps of +5 from 40, want 55; it was told %v", got, s.commands())
		}
	})
}

func TestJoinedWhileAwayExpires(t *testing.T) {
	bubble(t, func(t *testing.T) {
		h := newHouse(t)
		a := h.online("a")
		h.online("b")
		a.powerOff()
		pass(time.Hour)
		h.must(join("a", "b"))
		pass(24 * time.Hour)
		if g := h.group("b"); g.Kind != SoloGroup {
			t.Errorf("b is in %+v, want it alone: a never came back", g)
		}
	})
}

func TestObservedMemberDoesNotBlockItsGroup(t *testing.T) {
	bubble(t, func(t *testing.T) {
		h := newHouse(t)
		h.online("a")
		h.online("b")
		h.online("c")
		gid := h.must(AddGroup{Name: "Down", Members: []string{"a", "b"}}).Data["id"].(string)
		h.must(setCustody("b", CustodyObserve))
		_, err := h.Do(t.Context(), SetGroup{ID: gid, Add: []string{"c"}})
		_, err2 := h.Do(t.Context(), SetGroup{ID: gid, Remove: []string{"b"}})
		if err != nil || err2 != nil {
			t.Errorf("add: %v; remove: %v; want both to work", err, err2)
		}
	})
}

func TestMembersOfASoloGroupSpareOthers(t *testing.T) {
	bubble(t, func(t *testing.T) {
		h := newHouse(t)
		for _, x := range []string{"a", "b", "c", "d"} {
			h.online(x)
		}
		gid := h.must(AddGroup{Name: "Down", Members: []string{"b", "c"}}).Data["id"].(string)
		h.must(SetGroup{ID: "solo-a", Members: &[]string{"b", "a"}})
		g := h.Snapshot().Group(gid)
		if len(g.Members) != 1 || g.Members[0] != "c" {
			t.Errorf("members %v, remembered %v; want c to stay", g.Members, g.Remembered)
		}
	})
}

func TestConcurrentThenUnplugged(t *testing.T) {
	bubble(t, func(t *testing.T) {
		h := newHouse(t)
		s := h.online("kitchen")
		s.line(0).goodbye("concurrent_attempt")
		pass(time.Second)
		s.powerOff()
		pass(24 * time.Hour)
		p := h.player("kitchen")
		if p.Connection != Offline || p.Available {
			t.Errorf("%s, available %v a day after it was unplugged, want offline", p.Connection, p.Available)
		}
	})
}

func TestTwoAddressesOnePlayerOverRestart(t *testing.T) {
	bubble(t, func(t *testing.T) {
		dir := t.TempDir()
		h := newHouse(t, func(o *Options) { o.DataDir = dir })
		a, b := h.speaker("kitchen"), h.speaker("kitchen")
		a.announce()
		b.announce()
		pass(time.Minute)
		h.stop()
		h = newHouse(t, func(o *Options) { o.DataDir = dir; o.Custody = CustodyObserve })
		a, b = h.speaker("kitchen"), h.speaker("kitchen")
		a.announce()
		b.announce()
		pass(time.Minute)
		if got := h.pids(); len(got) != 1 {
			t.Errorf("players %v, want one", got)
		}
	})
}

func TestReclaimOfAnUnpluggedOne(t *testing.T) {
	bubble(t, func(t *testing.T) {
		h := newHouse(t)
		s := h.online("kitchen")
		s.line(0).goodbye("another_server")
		pass(time.Second)
		s.powerOff()
		h.must(setCustody("kitchen", CustodyHold))
		pass(24 * time.Hour)
		p := h.player("kitchen")
		if p.Connection != Offline || p.Available {
			t.Errorf("%s, available %v a day after it was unplugged, want offline", p.Connection, p.Available)
		}
	})
}

func TestHoldTakesItBack(t *testing.T) {
	bubble(t, func(t *testing.T) {
		h := newHouse(t)
		s := h.online("kitchen")
		s.line(0).goodbye("another_server")
		pass(time.Second)
		h.must(setCustody("kitchen", CustodyHold))
		pass(time.Second)
		if got := h.player("kitchen").Connection; got != Connected || s.line(-1).why() != "playback" {
			t.Errorf("%s, dialled for %s; want it taken, for playback", got, s.line(-1).why())
		}
	})
}

// A speaker that another server has turns us away after its hello, before it
// is ever live. It is known all the same, and can be taken.
func TestHeldBeforeItWasEverMet(t *testing.T) {
	bubble(t, func(t *testing.T) {
		h := newHouse(t)
		s := h.speaker("kitchen")
		report := s.state
		s.set(func() {
			s.state = func() string { return `{"type":"client/goodbye","payload":{"reason":"another_server"}}` }
		})
		s.announce()
		pass(time.Minute)
		h.want("kitchen", HeldByOtherServer, true)
		if n := len(h.Snapshot().Unmet); n != 0 {
			t.Errorf("%d unmet endpoints, want none: it is the player", n)
		}
		s.set(func() { s.state = report })
		h.must(setCustody("kitchen", CustodyHold))
		pass(time.Minute)
		h.want("kitchen", Connected, true)
	})
}
