package resonate

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"resonatebridge/discovery"
	"resonatebridge/resonate/internal/secretfile"
)

func TestAppears(t *testing.T) {
	bubble(t, func(t *testing.T) {
		h := newHouse(t)
		s := h.speaker("kitchen")
		s.announce()
		p := h.player("kitchen")
		if p.Connection != Connected || !p.Available || p.Name != "kitchen" || p.ClientID != "kitchen" ||
			p.URL != "ws://"+s.addr+"/sendspin" || p.Dialect != "S2" || p.LastError != "" || p.Custody != CustodyAuto {
			t.Errorf("got %+v", p)
		}
		if !p.HasVolume || !p.HasMute || p.Volume == nil || *p.Volume != 40 || p.Mute == nil || *p.Mute || p.SyncState != "synchronized" {
			t.Errorf("got volume %v, mute %v, sync %q; want 40, false, synchronized", p.Volume, p.Mute, p.SyncState)
		}
		if g := h.group("kitchen"); g.Kind != SoloGroup || g.Name != "kitchen" || g.Volume != 40 || g.Online != 1 {
			t.Errorf("group %+v, want its own", g)
		}
		if got := s.line(0).why(); got != "discovery" {
			t.Errorf("connection reason %q, want discovery", got)
		}
		if got := s.line(0).last("group/update"); !strings.Contains(got, `"group_name":"kitchen"`) {
			t.Errorf("the speaker was told group %s, want its own", got)
		}
	})
}

// A speaker at a configured address has nobody to announce its return: it is
// tried every few minutes after it was switched off, or while it can't be served.
func TestConfiguredAddressIsTriedAgain(t *testing.T) {
	const (
		soonest = 30 * time.Second
		latest  = 5 * time.Minute
	)
	configured := func(h *house, s *speaker) {
		ep, err := discovery.ParseStatic("ws://" + s.addr)
		if err != nil {
			h.t.Fatal(err)
		}
		h.Discover(discovery.Event{Kind: discovery.Announced, Endpoint: ep})
		synctest.Wait()
	}
	t.Run("switched off", func(t *testing.T) {
		bubble(t, func(t *testing.T) {
			h := newHouse(t)
			s := h.speaker("kitchen")
			configured(h, s)
			h.want("kitchen", Connected, true)
			s.line(0).goodbye("shutdown")
			synctest.Wait()
			h.want("kitchen", Offline, false)
			if got := h.player("kitchen").LastError; !strings.Contains(got, "every few minutes") {
				t.Errorf("last error %q, want that it is tried", got)
			}
			pass(soonest - time.Second)
			if got := h.dialsTo(s.addr); got != 1 {
				t.Errorf("%d dials within %v, want none after the goodbye", got-1, soonest)
			}
			pass(latest - soonest + 2*time.Second)
			h.want("kitchen", Connected, true)
		})
	})
	t.Run("switched off for a day", func(t *testing.T) {
		bubble(t, func(t *testing.T) {
			h := newHouse(t)
			s := h.speaker("kitchen")
			configured(h, s)
			s.line(0).goodbye("shutdown")
			s.powerOff()
			pass(24 * time.Hour)
			h.want("kitchen", Offline, false)
			s.powerOn()
			pass(latest + time.Second)
			h.want("kitchen", Connected, true)
		})
	})
	t.Run("refused until its firmware is another", func(t *testing.T) {
		bubble(t, func(t *testing.T) {
			h := newHouse(t)
			s := h.speaker("kitchen")
			good := s.hello
			s.set(func() { s.hello = strings.ReplaceAll(good, "player@v1\"]", "artwork@v1\"]") })
			configured(h, s)
			pass(time.Hour)
			if got := h.dialsTo(s.addr); got < 12 || got > 121 {
				t.Errorf("%d dials in an hour, want one every %v to %v", got, soonest, latest)
			}
			s.set(func() { s.hello = good })
			pass(latest + time.Second)
			h.want("kitchen", Connected, true)
		})
	})
}

// What each goodbye means for the words that people see, for availability, and
// for dialling (races: C.5). The speaker can be dialled all the time, so a dial
// that should not be shows as a connection.
func TestGoodbyeTable(t *testing.T) {
	const never = 0
	again := func(_ *house, s *speaker) { s.reannounce() }
	user := func(h *house, s *speaker) { h.must(SetPlayer{PID: s.id, Reconnect: true}) }
	plain := func(_ *house, s *speaker) { s.announce() } // nothing new: no reason to dial
	hold := func(h *house, s *speaker) { h.must(setCustody(s.id, CustodyHold)) }
	for _, tc := range []struct {
		reason    string
		now       Connection
		available bool // at once
		later     bool // after the grace of 15 s
		comes     int  // dials by itself in 20 minutes
		stays     []func(*house, *speaker)
		returns   func(*house, *speaker) // ends the wait at once
	}{
		{"restart", Connecting, true, true, 1, nil, nil},
		{"", Connecting, true, true, 1, nil, nil}, // none given: as restart
		{"another_server", HeldByOtherServer, true, true, never, []func(*house, *speaker){plain}, again},
		{"another_server", HeldByOtherServer, true, true, never, nil, user},
		{"another_server", HeldByOtherServer, true, true, never, nil, hold},
		{"shutdown", Offline, false, false, never, []func(*house, *speaker){plain}, again},
		{"user_request", Offline, false, false, never, []func(*house, *speaker){plain, hold}, user},
		{"user_request", Offline, false, false, never, nil, again},
		{"unauthorized", ConnectionProblem, true, false, never, []func(*house, *speaker){plain, again}, user},
		{"pairing_required", PairingRequired, false, false, never, []func(*house, *speaker){plain, again}, user},
		{"unpaired", PairingRequired, false, false, never, []func(*house, *speaker){plain, again}, user},
		{"concurrent_attempt", HeldByOtherServer, true, true, 1, []func(*house, *speaker){plain}, nil},
		{"already_connected", HeldByOtherServer, true, true, 1, []func(*house, *speaker){plain}, nil},
		{"concurrent_attempt", HeldByOtherServer, true, true, 1, nil, user},
	} {
		t.Run("reason "+tc.reason, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				h := newHouse(t)
				s := h.online("kitchen")
				other := h.online("bath")
				pass(time.Minute)
				restart := tc.reason == "restart" || tc.reason == ""
				if restart || (tc.comes > 0 && tc.returns == nil) {
					s.set(func() { s.gate = make(chan struct{}) }) // dials are seen and go no further
				}
				s.line(0).goodbye(tc.reason)
				synctest.Wait()
				h.want("kitchen", tc.now, tc.available)
				if !s.line(0).isOver() {
					t.Error("the connection is still open after the goodbye")
				}
				for _, f := range tc.stays {
					f(h, s)
				}
				pass(16 * time.Second)
				switch {
				case restart:
					// It is dialled at once, and lost for good when it does not come.
					if got := h.dialsTo(s.addr); got < 2 {
						t.Errorf("%d dials, want another one within seconds", got)
					}
				case tc.comes == never:
					if got := h.dialsTo(s.addr); got != 1 {
						t.Errorf("%d dials, want none after the goodbye", got-1)
					}
					h.want("kitchen", tc.now, tc.later)
				default:
					if got := h.dialsTo(s.addr); got != 1 {
						t.Errorf("%d dials within 16 s, want none before 30 s", got-1)
					}
					h.want("kitchen", tc.now, tc.later)
				}
				if tc.returns != nil {
					tc.returns(h, s)
					pass(2 * time.Second)
					h.want("kitchen", Connected, true)
					if p := h.player("kitchen"); p.LastError != "" {
						t.Errorf("last error %q after it is back, want none", p.LastError)
					}
				} else {
					pass(20 * time.Minute)
					if got := h.dialsTo(s.addr) - 1; got < tc.comes {
						t.Errorf("%d dials by itself, want at least %d", got, tc.comes)
					}
					s.set(func() { close(s.gate); s.gate = nil })
					pass(6 * time.Minute)
					h.want("kitchen", Connected, true)
				}
				if got := h.edges("bath"); got != "up1" || other.line(0).isOver() {
					t.Errorf("the other speaker: edges %q, want up1", got)
				}
			})
		})
	}
}

// A speaker that another server holds says so by a park; nothing but a person
// or its own restart brings it back, for however long (races: B7).
func TestHeldByOtherServer(t *testing.T) {
	bubble(t, func(t *testing.T) {
		h := newHouse(t)
		s := h.online("kitchen")
		h.SetOtherServers([]OtherServer{{Name: "Music Assistant", URL: "ws://192.0.2.9:8927/sendspin"}})
		s.line(0).goodbye("another_server")
		synctest.Wait()
		for range 24 {
			pass(time.Hour)
			s.announce()
		}
		if got := h.dialsTo(s.addr); got != 1 {
			t.Errorf("%d dials in a day, want none after the goodbye", got-1)
		}
		p := h.player("kitchen")
		if p.Connection != HeldByOtherServer || !p.Available || p.HeldBy != "Music Assistant" || !strings.Contains(p.LastError, "another server") {
			t.Errorf("got %s, available %v, held by %q, error %q", p.Connection, p.Available, p.HeldBy, p.LastError)
		}
		h.mustFail(setVolume("kitchen", 10), CodeHeldByOtherServer)

		h.must(setCustody("kitchen", CustodyAuto)) // chosen or by default, auto asks nobody to give it up
		pass(time.Minute)
		if got := h.dialsTo(s.addr); got != 1 {
			t.Errorf("%d dials after custody auto, want none", got-1)
		}
		h.must(setCustody("kitchen", CustodyHold)) // the user takes it
		pass(time.Second)
		h.want("kitchen", Connected, true)
		if got := s.line(1).why(); got != "playback" {
			t.Errorf("connection reason %q, want playback: anything less would be turned away", got)
		}
		if p := h.player("kitchen"); p.HeldBy != "" {
			t.Errorf("held by %q, want nobody else", p.HeldBy)
		}
	})
}

// Under auto the server never claims to play, whatever brings it to dial.
func TestAutoIsPolite(t *testing.T) {
	bubble(t, func(t *testing.T) {
		h := newHouse(t)
		s := h.online("kitchen")
		for i, back := range []func(){
			func() { s.reset() },
			func() { s.line(-1).goodbye("restart") },
			func() { s.line(-1).goodbye("another_server"); synctest.Wait(); s.reannounce() },
			func() { s.line(-1).goodbye("shutdown"); synctest.Wait(); s.reannounce() },
			func() {
				s.line(-1).goodbye("user_request")
				synctest.Wait()
				h.must(SetPlayer{PID: "kitchen", Reconnect: true})
			},
			func() { s.line(-1).goodbye("concurrent_attempt") },
			func() { h.must(SetPlayer{PID: "kitchen", Reconnect: true}) },
			func() { h.must(setCustody("kitchen", CustodyIgnore)); h.must(setCustody("kitchen", CustodyAuto)) },
			func() { h.must(setCustody("kitchen", CustodyAuto)) },
		} {
			back()
			pass(6 * time.Minute)
			h.want("kitchen", Connected, true)
			if got := s.line(-1).why(); got != "discovery" {
				t.Errorf("way %d back: connection reason %q, want discovery", i, got)
			}
		}
	})
}

func TestCustodyChoices(t *testing.T) {
	bubble(t, func(t *testing.T) {
		h := newHouse(t)
		s := h.online("kitchen")
		h.mustFail(setCustody("kitchen", CustodyBorrow), CodeNotSupported)
		h.want("kitchen", Connected, true)
		h.must(setCustody("kitchen", CustodyIgnore))
		h.want("kitchen", NotManaged, false)
		for _, c := range []Command{
			setVolume("kitchen", 1), SetPlayer{PID: "kitchen", Reconnect: true}, SetPlayer{PID: "kitchen", Group: &GroupTarget{Solo: true}},
		} {
			h.mustFail(c, CodeNotManaged)
		}
		l := s.dialIn() // it comes by itself: sent away, with the reason
		<-l.ended
		if got := l.closeCode(); got != 1008 {
			t.Errorf("close code %d, want 1008", got)
		}
		pass(10 * time.Minute)
		h.want("kitchen", NotManaged, false)
		h.mustFail(SetPlayer{PID: "kitchen", Custody: ptr(CustodyHold), Volume: &VolumeChange{Value: 12}}, CodeNotConnected)
		h.want("kitchen", NotManaged, false) // a command that is refused does nothing, not even its first half
		h.must(setCustody("kitchen", CustodyHold))
		pass(time.Second)
		h.want("kitchen", Connected, true)
		h.must(setVolume("kitchen", 12))
		if got := h.volume("kitchen"); got != 12 {
			t.Errorf("volume %d, want 12", got)
		}
	})
}

// Speakers under custody observe by configuration are shown and left alone.
func TestObservedByDefault(t *testing.T) {
	bubble(t, func(t *testing.T) {
		h := newHouse(t, func(o *Options) { o.Custody = CustodyObserve })
		s := h.speaker("Kitchen Speaker")
		s.announce()
		pass(time.Minute)
		if got := h.dialsTo(s.addr); got != 0 || len(h.pids()) != 1 {
			t.Fatalf("%d dials, players %v; want none and one", got, h.pids())
		}
		pid := h.pids()[0]
		h.want(pid, NotManaged, false)
		h.must(setCustody(pid, CustodyAuto))
		pass(time.Second)
		h.want(pid, Connected, true) // the id that it was shown under stays
		if got := h.pids(); len(got) != 1 {
			t.Errorf("players %v, want one", got)
		}
	})
}

// The graces: availability ends 15 s after the loss, membership 180 s.
func TestGraces(t *testing.T) {
	bubble(t, func(t *testing.T) {
		h := newHouse(t)
		s := h.online("kitchen")
		h.online("bath")
		h.must(join("kitchen", "bath"))
		group := h.group("bath").ID
		pass(time.Minute)

		s.powerOff()
		synctest.Wait()
		h.want("kitchen", Connecting, true)
		pass(15*time.Second - time.Millisecond)
		if p := h.player("kitchen"); !p.Available {
			t.Error("not available before 15 s")
		}
		pass(time.Millisecond)
		h.want("kitchen", Offline, false)
		if g := h.group("kitchen"); g.ID != group || g.Online != 1 {
			t.Errorf("group %s with %d online, want %s with 1", g.ID, g.Online, group)
		}
		pass(165*time.Second - time.Millisecond)
		if g := h.group("kitchen"); g.ID != group {
			t.Errorf("group %s before 180 s, want %s", g.ID, group)
		}
		pass(time.Millisecond)
		if g := h.group("kitchen"); g.Kind != SoloGroup || h.group("bath").Kind != SoloGroup {
			t.Errorf("group %s after 180 s, want its own", g.ID)
		}
		s.powerOn()
		s.reannounce()
		pass(time.Second)
		h.want("kitchen", Connected, true)
		if g := h.group("kitchen"); g.Kind != SoloGroup {
			t.Errorf("group %s after its return, want its own: an ad-hoc group is forgotten", g.ID)
		}
	})
}

// A blip shorter than the graces changes nothing that people see but the word.
func TestBlip(t *testing.T) {
	bubble(t, func(t *testing.T) {
		h := newHouse(t)
		s := h.online("kitchen")
		h.online("bath")
		h.must(join("kitchen", "bath"))
		group := h.group("bath").ID
		for range 20 {
			s.reset()
			for range 10 {
				if p := h.player("kitchen"); !p.Available || p.GroupID != group {
					t.Fatalf("available %v, group %s during a blip; want true, %s", p.Available, p.GroupID, group)
				}
				pass(100 * time.Millisecond)
			}
			pass(time.Minute)
			h.want("kitchen", Connected, true)
		}
		if got := h.player("kitchen").Reconnects; got != 20 {
			t.Errorf("%d reconnects, want 20", got)
		}
		if got := s.line(-1).last("group/update"); !strings.Contains(got, group) {
			t.Errorf("told group %s on its return, want %s", got, group)
		}
	})
}

// By its own word a player leaves its group, and does not come back by itself
// (spec: availability); a named group brings back who was only lost.
func TestUnavailableAndNamedGroup(t *testing.T) {
	bubble(t, func(t *testing.T) {
		h := newHouse(t)
		s := h.online("kitchen")
		h.online("bath")
		gid := h.must(AddGroup{Name: "All", Members: []string{"bath", "kitchen"}}).Data["id"].(string)
		s.powerOff()
		pass(10 * time.Minute)
		if g := h.group("kitchen"); g.Kind != SoloGroup {
			t.Errorf("group %s after 10 minutes, want its own", g.ID)
		}
		s.powerOn()
		s.reannounce()
		pass(time.Second)
		if g := h.group("kitchen"); g.ID != gid {
			t.Errorf("group %s after its return, want %s", g.ID, gid)
		}
		s.line(-1).send(`{"type":"client/state","payload":{"state":"external_source"}}`)
		synctest.Wait()
		if g := h.group("kitchen"); g.Kind != SoloGroup || h.player("kitchen").SyncState != "external_source" {
			t.Errorf("group %s, state %q while it plays something else; want its own, external_source", g.ID, h.player("kitchen").SyncState)
		}
		s.line(-1).send(s.state())
		s.reset()
		pass(time.Minute)
		h.want("kitchen", Connected, true)
		if g := h.group("kitchen"); g.Kind != SoloGroup {
			t.Errorf("group %s after it became available, want its own until somebody says so", g.ID)
		}
	})
}

// A volume for a speaker that is just reconnecting waits for it: the newest one
// is sent, once, and each command is answered once (races: B19).
func TestWishes(t *testing.T) {
	type answer struct {
		r   Result
		err error
		at  time.Duration
	}
	wishes := func(h *house, cmds ...Command) func() []answer {
		var wg sync.WaitGroup
		out := make([]answer, len(cmds))
		start := time.Now()
		for i, c := range cmds {
			wg.Go(func() {
				r, err := h.Do(context.Background(), c)
				out[i] = answer{r, err, time.Since(start)}
			})
			synctest.Wait() // in this order
		}
		return func() []answer { wg.Wait(); return out }
	}
	lose := func(h *house, s *speaker) {
		s.powerOff()
		synctest.Wait()
		h.want("kitchen", Connecting, true)
	}
	t.Run("it comes back", func(t *testing.T) {
		bubble(t, func(t *testing.T) {
			h := newHouse(t)
			s := h.online("kitchen")
			lose(h, s)
			done := wishes(h,
				setVolume("kitchen", 10), setVolume("kitchen", 20), SetPlayer{PID: "kitchen", Mute: &MuteChange{On: true}},
				setVolume("kitchen", 30), SetPlayer{PID: "kitchen", Volume: &VolumeChange{Value: 31}, Mute: &MuteChange{On: false}})
			pass(3 * time.Second)
			if got := s.commands(); len(got) != 0 {
				t.Errorf("commands %v while it was away", got)
			}
			s.powerOn()
			s.reannounce()
			for i, a := range done() {
				if a.err != nil || a.at > 4*time.Second {
					t.Errorf("command %d: got %v after %v, want success when it is back", i, a.err, a.at)
				}
			}
			synctest.Wait()
			if got := fmt.Sprint(s.commands()); got != "[mute=false volume=31]" {
				t.Errorf("commands %v, want the newest of each kind", got)
			}
			if got := h.volume("kitchen"); got != 31 {
				t.Errorf("volume %d, want 31", got)
			}
		})
	})
	t.Run("it does not come back", func(t *testing.T) {
		bubble(t, func(t *testing.T) {
			h := newHouse(t)
			s := h.online("kitchen")
			lose(h, s)
			for i, a := range wishes(h, setVolume("kitchen", 10), setVolume("kitchen", 20))() {
				var ce *CommandError
				if !errors.As(a.err, &ce) || ce.Code != CodeNotConnected || a.at > 10*time.Second {
					t.Errorf("command %d: got %v after %v, want not_connected within 10 s", i, a.err, a.at)
				}
			}
			s.powerOn()
			s.reannounce()
			pass(time.Minute)
			h.want("kitchen", Connected, true)
			if got := s.commands(); len(got) != 0 {
				t.Errorf("commands %v, want none: the wish was refused", got)
			}
			h.mustFail(SetPlayer{PID: "ghost", Volume: &VolumeChange{Value: 1}}, CodeUnknownDevice)
		})
	})
	t.Run("it is gone for good", func(t *testing.T) {
		bubble(t, func(t *testing.T) {
			h := newHouse(t)
			s := h.online("kitchen")
			lose(h, s)
			pass(15 * time.Second)
			h.mustFail(setVolume("kitchen", 10), CodeNotConnected) // at once
		})
	})
	for _, tc := range []struct {
		name string
		do   func(*house, *speaker)
		code Code
	}{
		{"it is forgotten meanwhile", func(h *house, _ *speaker) { h.must(RemovePlayer{PID: "kitchen"}) }, CodeUnknownDevice},
		{"it is let go meanwhile", func(h *house, _ *speaker) { h.must(setCustody("kitchen", CustodyObserve)) }, CodeNotManaged},
		{"the server ends meanwhile", func(h *house, _ *speaker) { h.stop() }, CodeInternal},
		{"it can't be muted any more", func(h *house, s *speaker) {
			s.set(func() { s.hello = strings.Replace(s.hello, `"volume","mute"`, `"volume"`, 1) })
			s.powerOn()
			s.reannounce()
		}, CodeNotSupported},
	} {
		t.Run(tc.name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				h := newHouse(t)
				s := h.online("kitchen")
				lose(h, s)
				done := wishes(h, SetPlayer{PID: "kitchen", Mute: &MuteChange{On: true}})
				pass(time.Second)
				tc.do(h, s)
				a := done()[0]
				var ce *CommandError
				if !errors.As(a.err, &ce) || ce.Code != tc.code {
					t.Errorf("got %v, want %s", a.err, tc.code)
				}
			})
		})
	}
}

// The maximum holds for commands, for the group's volume, and at the speaker's
// own knob.
func TestMaximumVolume(t *testing.T) {
	bubble(t, func(t *testing.T) {
		h := newHouse(t)
		s := h.online("kitchen")
		o := h.online("bath")
		h.must(join("kitchen", "bath"))
		h.must(SetPlayer{PID: "kitchen", MaxVolume: ptr(60)})

		if r := h.must(setVolume("kitchen", 80)); r.Data["volume"] != 60 {
			t.Errorf("the answer says %v, want 60", r.Data["volume"])
		}
		h.must(SetPlayer{PID: "kitchen", Volume: &VolumeChange{Value: 50, Relative: true}})
		h.must(SetGroup{ID: h.group("bath").ID, Volume: &VolumeChange{Value: 100}})
		for _, c := range s.commands() {
			if c != "volume=60" {
				t.Errorf("the speaker was told %s, want 60 at most", c)
			}
		}
		if got := o.commands(); fmt.Sprint(got) != "[volume=100]" {
			t.Errorf("the other speaker was told %v, want 100", got)
		}

		pass(2 * time.Second)
		before := len(s.commands())
		s.turn(90)
		if got := h.volume("kitchen"); got != 60 {
			t.Errorf("volume %d after a turn of its knob to 90, want 60", got)
		}
		if got := len(s.commands()) - before; got != 1 {
			t.Errorf("%d commands after a turn of its knob, want one", got)
		}
		for range 100 { // a knob that is held against it: no fight
			s.turn(95)
		}
		if got := len(s.commands()) - before; got > 2 {
			t.Errorf("%d commands in one second, want at most 2", got)
		}
		s.turn(50)
		before = len(s.commands())
		h.must(SetPlayer{PID: "kitchen", MaxVolume: ptr(30)}) // lowered below what it is
		if got := s.commands()[before:]; fmt.Sprint(got) != "[volume=30]" {
			t.Errorf("commands %v after the maximum was lowered, want volume=30", got)
		}
	})
}

// Group volume reaches each member that has to move, with one command, and
// nothing is echoed before the speakers say so.
func TestGroupVolume(t *testing.T) {
	bubble(t, func(t *testing.T) {
		h := newHouse(t)
		a, b, c := h.online("a"), h.online("b"), h.online("c")
		mute := h.speaker("d") // has no volume
		mute.hello = strings.Replace(mute.hello, `"supported_commands":["volume","mute"]`, `"supported_commands":[]`, 1)
		mute.announce()
		a.turn(20)
		b.turn(60)
		c.turn(90)
		for _, pid := range []string{"b", "c", "d"} {
			h.must(join(pid, "a"))
		}
		gid := h.group("a").ID
		if g := h.group("a"); g.Volume != 57 || g.Online != 4 {
			t.Errorf("volume %d, %d online; want 57 of three, 4", g.Volume, g.Online)
		}
		c.set(func() { c.deaf = true })
		h.must(SetGroup{ID: gid, Volume: &VolumeChange{Value: 80}})
		for _, tc := range []struct {
			s    *speaker
			want string
		}{{a, "[volume=50]"}, {b, "[volume=90]"}, {c, "[volume=100]"}, {mute, "[]"}} {
			if got := fmt.Sprint(tc.s.commands()); got != tc.want {
				t.Errorf("%s was told %s, want %s", tc.s.id, got, tc.want)
			}
		}
		if g := h.group("a"); g.Volume != 77 { // c has not said so
			t.Errorf("volume %d, want 77 = (50+90+90)/3", g.Volume)
		}
		h.must(SetGroup{ID: gid, Mute: &MuteChange{On: true}})
		if g := h.group("a"); g.Mute || a.commands()[1] != "mute=true" || len(mute.commands()) != 0 {
			t.Errorf("mute %v, a was told %v, d %v; want false until c says so, one mute, nothing", g.Mute, a.commands(), mute.commands())
		}
		c.set(func() { c.deaf = false; c.muted = true })
		c.turn(100)
		if g := h.group("a"); !g.Mute || g.Volume != 80 {
			t.Errorf("mute %v, volume %d; want true and 80", g.Mute, g.Volume)
		}
	})
}

const controllerHello = `{"type":"client/hello","payload":{"client_id":%q,"name":%q,"version":1,"supported_roles":["controller@v1","metadata@v1"]}}`

// A pair of which one leaves is no group any more, whatever the command was.
func TestGroupOfOne(t *testing.T) {
	for _, tc := range []struct {
		name string
		cmd  SetGroup
	}{
		{"members", SetGroup{Members: &[]string{"a"}}},
		{"remove", SetGroup{Remove: []string{"b"}}},
		{"another one alone", SetGroup{Members: &[]string{"c"}}},
		{"nobody", SetGroup{Members: &[]string{}}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			m := room(t, "a", "b", "c")
			m.mustDo(t, join("b", "a"))
			tc.cmd.ID = m.clients["a"].group.id
			m.mustDo(t, tc.cmd) // checks that no group exists without reason
			for pid, c := range m.clients {
				if c.group.kind != SoloGroup {
					t.Errorf("%s is in %s, want its own group", pid, c.group.id)
				}
			}
		})
	}
}

// A remote control turns its own group's volume and mute, walks through what
// plays with switch, and is told what it may ask for. It is no player.
func TestController(t *testing.T) {
	bubble(t, func(t *testing.T) {
		h := newHouse(t)
		a, b := h.online("a"), h.online("b")
		h.must(join("b", "a"))
		gid := h.group("a").ID
		r := h.speaker("remote")
		r.hello, r.state = fmt.Sprintf(controllerHello, "remote", "Remote"), nil
		l := r.dialIn()
		synctest.Wait()
		if got := h.pids(); len(got) != 2 {
			t.Fatalf("players %v, want only a and b", got)
		}
		say := func(what string) {
			l.send(`{"type":"client/command","payload":{"controller":{` + what + `}}}`)
			synctest.Wait()
		}
		if got := l.last("server/state"); !strings.Contains(got, `"supported_commands":["switch"]`) {
			t.Errorf("told %s while alone, want switch alone", got)
		}
		say(`"command":"volume","volume":10`) // its own group has no speaker
		if got := append(a.commands(), b.commands()...); len(got) != 0 {
			t.Errorf("commands %v in a group that it is not in, want none", got)
		}
		onLoop(h, func(m *model) { g := m.groups[gid]; g.playback = Playing; m.touchGroup(g) })
		say(`"command":"switch"`)
		if got := l.last("group/update"); !strings.Contains(got, gid) || !strings.Contains(got, "playing") {
			t.Errorf("told group %s after switch, want %s, playing", got, gid)
		}
		if got := l.last("server/state"); !strings.Contains(got, `"supported_commands":["volume","mute","switch"]`) || !strings.Contains(got, `"volume":40`) {
			t.Errorf("told %s, want volume, mute and switch, and 40", got)
		}
		say(`"command":"volume","volume":55`)
		if got := fmt.Sprint(a.commands(), b.commands()); got != "[volume=55] [volume=55]" {
			t.Errorf("commands %s, want 55 each", got)
		}
		if got := l.last("server/state"); !strings.Contains(got, `"volume":55`) {
			t.Errorf("told %s, want 55", got)
		}
		say(`"command":"mute","mute":true`)
		if g := h.group("a"); !g.Mute {
			t.Error("not muted")
		}
		say(`"command":"pause"`) // not offered: ignored
		if l.isOver() || h.group("a").Playback != Playing {
			t.Errorf("over %v, %s after a command that was not offered; want false, playing", l.isOver(), h.group("a").Playback)
		}
		h.must(SetGroup{ID: gid, Members: &[]string{"a"}}) // the pair ends, what plays goes on with a
		if got := l.last("group/update"); !strings.Contains(got, "solo-a") {
			t.Errorf("told group %s after the pair ended, want solo-a", got)
		}
		_ = l.ws.Close()
		pass(time.Minute)
		if got := h.pids(); len(got) != 2 {
			t.Errorf("players %v after the remote left, want a and b", got)
		}
	})
}

// onLoop changes the model where no command does yet.
func onLoop(h *house, f func(*model)) {
	h.post(nil, func() { f(h.model) })
	synctest.Wait()
}

const helloR1 = `{"type":"client/hello","payload":{"client_id":"old","name":"Old","version":1,"supported_roles":["player"],` +
	`"player_support":{"support_codecs":["pcm"],"support_channels":[2],"support_sample_rates":[48000],"support_bit_depth":[16],"buffer_capacity":100000}}}`

// A speaker of dialect R1 can't be told a volume: the server turns it itself
// and remembers it.
func TestVolumeOfR1IsOurs(t *testing.T) {
	bubble(t, func(t *testing.T) {
		h := newHouse(t)
		s := h.speaker("old")
		s.hello = helloR1
		s.state = func() string { return `{"type":"player/update","payload":{"state":"idle","volume":7,"muted":false}}` }
		s.announce()
		synctest.Wait()
		s.line(0).send(s.state())
		p := h.player("old")
		if p.Dialect != "R1" || !p.HasVolume || !p.HasMute || h.volume("old") != 100 {
			t.Errorf("dialect %s, volume %v %d, mute %v; want R1, and full volume of ours", p.Dialect, p.HasVolume, h.volume("old"), p.HasMute)
		}
		h.must(setVolume("old", 25))
		h.must(SetPlayer{PID: "old", Mute: &MuteChange{Toggle: true}})
		if p := h.player("old"); h.volume("old") != 25 || !*p.Mute {
			t.Errorf("volume %d, mute %v; want 25, true", h.volume("old"), *p.Mute)
		}
		s.reset()
		pass(5 * time.Second)
		s.line(-1).send(s.state())
		if p := h.player("old"); h.volume("old") != 25 || !*p.Mute || p.Connection != Connected {
			t.Errorf("volume %d, mute %v after it is back; want 25, true", h.volume("old"), *p.Mute)
		}
		if got := s.commands(); len(got) != 0 {
			t.Errorf("it was told %v, want nothing", got)
		}
	})
}

// An address that a person added is dialled again after a restart, if a speaker
// answered there, until that speaker is removed. One of the configuration is not,
// for the configuration may say otherwise by then.
func TestAddedAddressOutlastsRestart(t *testing.T) {
	bubble(t, func(t *testing.T) {
		dir := t.TempDir()
		data := func(o *Options) { o.DataDir = dir }
		url := func(s *speaker) string { return "ws://" + s.addr + "/sendspin" }
		life := func(f func(h *house, added, configured *speaker)) {
			h := newHouse(t, data)
			defer h.stop()
			f(h, h.speaker("added"), h.speaker("configured")) // at the same addresses each time
		}
		life(func(h *house, added, configured *speaker) {
			h.must(AddEndpoint{URL: url(added)})
			h.must(AddEndpoint{URL: "ws://192.0.2.77:1/nobody"})
			e, err := discovery.ParseStatic(url(configured))
			if err != nil {
				t.Fatal(err)
			}
			h.Discover(discovery.Event{Kind: discovery.Announced, Endpoint: e})
			synctest.Wait()
			h.want("added", Connected, true)
			h.want("configured", Connected, true)
		})
		for range 2 {
			life(func(h *house, added, configured *speaker) {
				pass(10 * time.Second)
				h.want("added", Connected, true)
				h.want("configured", Searching, false)
				if n, m := h.dialsTo(configured.addr), h.dialsTo("192.0.2.77:1"); n+m != 0 {
					t.Errorf("after a restart the address of the configuration was dialled %d times, one where nobody answered %d times", n, m)
				}
			})
		}
		life(func(h *house, added, _ *speaker) {
			pass(10 * time.Second)
			h.must(RemovePlayer{PID: "added"})
		})
		life(func(h *house, added, _ *speaker) {
			pass(10 * time.Minute)
			if n := h.dialsTo(added.addr); n != 0 || slices.Contains(h.pids(), "added") {
				t.Errorf("a speaker that was removed is dialled %d times after a restart", n)
			}
		})
	})
}

// What people chose survives a restart, and ids never change.
func TestRestart(t *testing.T) {
	bubble(t, func(t *testing.T) {
		dir := t.TempDir()
		data := func(o *Options) { o.DataDir = dir }
		odd := "Küche / oben #1"
		var before *Snapshot
		var gid, identity string
		func() {
			h := newHouse(t, data)
			identity = h.Identity().ID
			h.online("a")
			h.online("b")
			x := h.speaker(odd)
			x.announce()
			synctest.Wait()
			pids := h.pids()
			slices.Sort(pids)
			pid := pids[len(pids)-1]
			gid = h.must(AddGroup{Name: "Down", Members: []string{"b", pid}}).Data["id"].(string)
			h.must(SetPlayer{PID: "a", Custody: ptr(CustodyIgnore), Name: ptr("Ah"), MaxVolume: ptr(70), AnnounceVolume: ptr(35)})
			h.must(setVolume("b", 66))
			before = h.Snapshot()
			h.stop()
		}()
		h := newHouse(t, data)
		if got := h.Identity().ID; got != identity {
			t.Errorf("identity %s, want %s", got, identity)
		}
		after := h.Snapshot()
		if len(after.Players) != len(before.Players) {
			t.Fatalf("%d players, want %d", len(after.Players), len(before.Players))
		}
		for i, p := range after.Players {
			want := before.Players[i]
			if p.PID != want.PID || p.ClientID != want.ClientID || p.Name != want.Name || p.Custody != want.Custody ||
				p.MaxVolume != want.MaxVolume || p.GroupID != want.GroupID || p.Dialect != want.Dialect {
				t.Errorf("got %+v, want %+v", p, want)
			}
			if p.Available {
				t.Errorf("%s is available before it connected", p.PID)
			}
		}
		if p := after.Player("a"); p.Name != "Ah" || p.MaxVolume != 70 || p.Connection != NotManaged || p.AnnounceVolume == nil || *p.AnnounceVolume != 35 {
			t.Errorf("got %+v, want the choices", p)
		}
		if got, want := after.Group(gid).Members, before.Group(gid).Members; !slices.Equal(got, want) {
			t.Errorf("members %v, want %v in this order", got, want)
		}
		h.want("b", Searching, false)
		if got := h.volume("b"); got != 66 {
			t.Errorf("volume %d, want 66 as remembered", got)
		}
		h.online("b")
		if g := h.group("b"); g.ID != gid {
			t.Errorf("group %s after its return, want %s", g.ID, gid)
		}
		pass(15 * time.Second)
		h.want(before.Group(gid).Members[1], Offline, false)
	})
}

// What was chosen last before the end is saved as well.
func TestStoreSavesWhatIsLeft(t *testing.T) {
	dir := t.TempDir()
	st, _, err := openStore(dir, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for i := range 20 { // it may look at the end first, or at what is new
		st.save(&records{Players: []playerRecord{{PID: "kitchen", MaxVolume: i + 1}}})
		st.run(ctx)
		_, recs, err := openStore(dir, slog.New(slog.DiscardHandler))
		if err != nil || len(recs.Players) != 1 || recs.Players[0].MaxVolume != i+1 {
			t.Fatalf("round %d: got %+v, %v", i, recs.Players, err)
		}
	}
}

// Who was answered finds what was done: a group that was added can be used.
func TestAnswerIsNotAheadOfTheSnapshot(t *testing.T) {
	bubble(t, func(t *testing.T) {
		h := newHouse(t)
		before, behind := make(chan struct{}), make(chan struct{})
		h.post(nil, func() { <-before })
		found := make(chan bool)
		go func() {
			r, err := h.Do(t.Context(), AddGroup{Name: "House"})
			if err != nil {
				t.Error(err)
			}
			id, _ := r.Data["id"].(string)
			found <- h.Snapshot().Group(id) != nil
		}()
		synctest.Wait()
		h.post(nil, func() { <-behind }) // comes in one burst with the command
		close(before)
		synctest.Wait()
		select {
		case ok := <-found:
			t.Errorf("answered before the snapshot was published, group found: %v", ok)
			close(behind)
		default:
			close(behind)
			if !<-found {
				t.Error("answered, and the snapshot has no such group")
			}
		}
	})
}

// What a crash left of a file that was being written goes at the next start, and
// nothing else does.
func TestStartRemovesUnfinishedFiles(t *testing.T) {
	dir := t.TempDir()
	keep := []string{"players.json", "players.json.damaged-20260101T000000.000000000", ".players.json", "notes.txt"}
	for _, name := range append([]string{".players.json-123", ".groups.json-4", ".identity.key-56"}, keep...) {
		if err := os.WriteFile(filepath.Join(dir, name), []byte("{}"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if _, _, err := openStore(dir, slog.New(slog.DiscardHandler)); err != nil {
		t.Fatal(err)
	}
	files, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, f := range files {
		got = append(got, f.Name())
	}
	slices.Sort(keep)
	if !slices.Equal(got, keep) {
		t.Errorf("got the files %v, want %v", got, keep)
	}
}

// A damaged file is set aside and said, never silently replaced.
func TestDamagedRecords(t *testing.T) {
	for _, name := range []string{playersFile, groupsFile, identityFile} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				dir := t.TempDir()
				data := func(o *Options) { o.DataDir = dir }
				h := newHouse(t, data)
				h.online("kitchen")
				h.must(AddGroup{Name: "Down", Members: []string{"kitchen"}})
				identity := h.Identity().ID
				h.stop()
				path := filepath.Join(dir, name)
				damage := []byte("{\"players\": [ \x00 half a fi")
				if err := os.WriteFile(path, damage, 0o600); err != nil {
					t.Fatal(err)
				}
				h = newHouse(t, data)
				aside, err := filepath.Glob(path + ".damaged-*")
				if err != nil || len(aside) != 1 {
					t.Fatalf("set aside: got %v, %v; want one file", aside, err)
				}
				if got, err := os.ReadFile(aside[0]); err != nil || string(got) != string(damage) {
					t.Errorf("set aside: got %q, %v; want what was there", got, err)
				}
				if log := h.log.String(); !strings.Contains(log, "set aside") || !strings.Contains(log, aside[0]) {
					t.Errorf("the log does not name %s: %s", aside[0], log)
				}
				if got := h.Identity().ID == identity; got != (name != identityFile) {
					t.Errorf("the identity is the same: %v", got)
				}
				h.online("kitchen") // it works
				h.stop()
				h = newHouse(t, data)
				if got := h.pids(); len(got) != 1 {
					t.Errorf("players %v after the next start, want one", got)
				}
			})
		})
	}
}

// disk is one that can fail.
type disk struct{ fault atomic.Pointer[error] }

func (d *disk) replace(path string, data []byte) error {
	if err := d.fault.Load(); err != nil {
		return &fs.PathError{Op: "write", Path: path, Err: *err}
	}
	return secretfile.Replace(path, data)
}

// breaks makes every write fail with err, nil mends it.
func (d *disk) breaks(err error) {
	if err == nil {
		d.fault.Store(nil)
		return
	}
	d.fault.Store(&err)
}

// Records that can't be written are a problem that is shown, and nothing else:
// speakers are served, and what was chosen meanwhile is saved when the disk takes
// it again.
func TestRecordsCantBeWritten(t *testing.T) {
	d := new(disk)
	fails := func(err error) func(string) error { return func(string) error { d.breaks(err); return nil } }
	for _, tc := range []struct {
		fault error
		begin func(dir string) error
		end   func(dir string) error
	}{
		{syscall.ENOSPC, fails(syscall.ENOSPC), fails(nil)},
		{syscall.EROFS, fails(syscall.EROFS), fails(nil)},
		{syscall.ENOENT, os.RemoveAll, func(dir string) error { return os.Mkdir(dir, 0o700) }},
	} {
		t.Run(tc.fault.Error(), func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				dir := filepath.Join(t.TempDir(), "data")
				h := newHouse(t, func(o *Options) { o.DataDir, o.replaceFile = dir, d.replace })
				h.online("kitchen")
				pass(time.Minute)
				if err := tc.begin(dir); err != nil {
					t.Fatal(err)
				}
				for n := range 60 {
					h.must(SetPlayer{PID: "kitchen", MaxVolume: ptr(n + 1)})
					pass(time.Second)
				}
				if got := h.Snapshot().Problems; len(got) != 1 || !strings.Contains(got[0], "can't be saved") || !strings.Contains(got[0], tc.fault.Error()) {
					t.Errorf("problems %q, want one about saving", got)
				}
				h.online("bath")
				h.want("kitchen", Connected, true)
				if err := tc.end(dir); err != nil {
					t.Fatal(err)
				}
				pass(11 * time.Second)
				if got := h.Snapshot().Problems; len(got) != 0 {
					t.Errorf("problems %q after it was mended, want none", got)
				}
				_, recs, err := openStore(dir, slog.New(slog.DiscardHandler))
				if err != nil || len(recs.Players) != 2 || recs.Players[1].MaxVolume != 60 {
					t.Errorf("records %+v, %v; want both players and the newest choice", recs.Players, err)
				}
			})
		})
	}
}

// A data directory that can't be written from the start on is said at once. The
// bridge runs, as the same one as ever.
func TestReadOnlyDataDir(t *testing.T) {
	bubble(t, func(t *testing.T) {
		dir, d := t.TempDir(), new(disk)
		data := func(o *Options) { o.DataDir, o.replaceFile = dir, d.replace }
		h := newHouse(t, data)
		identity := h.Identity()
		h.online("kitchen")
		h.must(SetPlayer{PID: "kitchen", Name: ptr("Küche")})
		h.stop()
		d.breaks(syscall.EROFS)
		for range 2 {
			h = newHouse(t, data)
			pass(saveDelay)
			if got := h.Snapshot().Problems; len(got) != 1 || !strings.Contains(got[0], "can't be saved") {
				t.Errorf("problems %q, want one about saving", got)
			}
			if got := h.Identity(); got != identity {
				t.Errorf("identity %v, want %v", got, identity)
			}
			h.online("kitchen")
			if got := h.player("kitchen").Name; got != "Küche" {
				t.Errorf("name %q, want the one that was chosen", got)
			}
			h.stop()
		}
	})
}

// A server without an identity that can't keep a new one does not start: it would
// be another one after each start.
func TestNewIdentityCantBeKept(t *testing.T) {
	dir, d := t.TempDir(), new(disk)
	d.breaks(syscall.EROFS)
	_, err := New(Options{DataDir: dir, replaceFile: d.replace})
	if !errors.Is(err, syscall.EROFS) || !strings.Contains(err.Error(), identityFile) || !strings.Contains(err.Error(), "data_dir") {
		t.Errorf("got %v, want an error that names the file and what to do", err)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) != 0 {
		t.Errorf("files %v, %v; want none", left, err)
	}
}

// The same with a directory that really is read-only, and an identity that others
// may read.
func TestReadOnlyDataDirOnDisk(t *testing.T) {
	if os.Geteuid() == 0 {
		t.Skip("root writes where nobody may: run the tests as an ordinary user, as CI does")
	}
	bubble(t, func(t *testing.T) {
		dir := t.TempDir()
		s, err := New(Options{DataDir: dir})
		if err != nil {
			t.Fatal(err)
		}
		chmod := func(path string, mode fs.FileMode) {
			if err := os.Chmod(path, mode); err != nil {
				t.Fatal(err)
			}
		}
		chmod(filepath.Join(dir, identityFile), 0o644)
		chmod(dir, 0o500)
		t.Cleanup(func() { chmod(dir, 0o700) })
		h := newHouse(t, func(o *Options) { o.DataDir = dir })
		pass(saveDelay)
		if got := h.Snapshot().Problems; len(got) != 1 || h.Identity().ID != s.Identity().ID {
			t.Errorf("identity %v, problems %q; want %v and one", h.Identity(), got, s.Identity())
		}
	})
}

// A command always gets one answer, whoever asks whatever whenever.
func TestDoAlwaysAnswers(t *testing.T) {
	bubble(t, func(t *testing.T) {
		h := newHouse(t)
		s := h.online("kitchen")
		var wg sync.WaitGroup
		storm := func(limits ...time.Duration) { // 0: none
			for _, c := range []Command{
				nil,
				Scan{},
				AddEndpoint{URL: "nonsense"},
				AddEndpoint{URL: "ws://192.0.2.77:1/x"},
				AddGroup{},
				AddGroup{Name: "G"},
				RemoveGroup{ID: "g"},
				SetGroup{ID: "solo-kitchen", Volume: &VolumeChange{Value: 3}},
				SetGroup{},
				SetPlayer{},
				RemovePlayer{},
				SetPlayer{PID: "kitchen"},
				setVolume("kitchen", 9),
				SetPlayer{PID: "kitchen", Group: &GroupTarget{}},
				SetPlayer{PID: "kitchen", DelayMs: ptr(20)},
				SetPlayer{PID: "kitchen", Reconnect: true},
			} {
				for _, limit := range limits {
					wg.Go(func() {
						ctx := context.Background()
						if limit != 0 {
							var cancel context.CancelFunc
							ctx, cancel = context.WithTimeout(ctx, limit)
							defer cancel()
						}
						start := time.Now()
						_, err := h.Do(ctx, c)
						var ce *CommandError
						if err != nil && (!errors.As(err, &ce) || ce.Code == "" || ce.Message == "") {
							t.Errorf("%#v: got %v, want a *CommandError with a sentence", c, err)
						}
						if took := time.Since(start); took > 10*time.Second {
							t.Errorf("%#v: answered after %v, want 10 s at most", c, took)
						}
					})
				}
			}
		}
		all := []time.Duration{0, time.Nanosecond, time.Millisecond, 10 * time.Second}
		storm(all...)
		s.powerOff()
		storm(all...)
		synctest.Wait()
		storm(all...) // while it reconnects
		pass(20 * time.Second)
		storm(all...)
		s.powerOn()
		storm(all...)
		wg.Go(h.stop)
		storm(all...)
		wg.Wait()
		for range 10 { // more than the inbox would hold
			storm(0) // after the end, with all the time in the world
			wg.Wait()
		}
		if _, err := h.Do(context.Background(), Scan{}); err == nil || !strings.Contains(err.Error(), "shutting down") {
			t.Errorf("after the end: got %v, want that it is shutting down", err)
		}
		h.Discover(discovery.Event{Kind: discovery.Announced, Endpoint: s.endpoint()}) // returns
		h.SetProblem("x", "y")
	})
}

// Run ends within 5 s and leaves nothing, wherever its speakers are; the check
// is in newHouse.
func TestShutdownIsBounded(t *testing.T) {
	for _, tc := range []struct {
		name string
		make func(*house)
		took time.Duration // of Run, at most
	}{
		{"idle", func(*house) {}, 0},
		{"connected", func(h *house) { h.online("a"); h.online("b") }, 0},
		{"dialling", func(h *house) {
			s := h.speaker("a")
			gate := make(chan struct{})
			s.gate = gate
			s.announce()
			synctest.Wait()
			time.AfterFunc(2*time.Second, func() { close(gate) }) // a dial that does not look at its context
		}, 2 * time.Second},
		{"waiting for a hello that we dialled for", func(h *house) { s := h.speaker("a"); s.hello = ""; s.announce() }, 0},
		{"waiting for a hello that dialled us", func(h *house) {
			for range 10 {
				s := h.speaker("a")
				s.hello = ""
				s.dialIn()
			}
		}, 0},
		{"waiting for a state", func(h *house) { s := h.speaker("a"); s.state = nil; s.announce() }, 0},
		{"frozen", func(h *house) { h.online("a").line(0).link.Freeze() }, 0},
		{"frozen, with much to say", func(h *house) {
			s := h.online("a")
			s.line(0).link.Freeze()
			for i := range 2000 {
				_, _ = h.Do(h.t.Context(), setVolume("a", i%100)) // refused when its queue is full
			}
		}, time.Second},
		{"power cut", func(h *house) { s := h.online("a"); s.off = true; s.line(0).link.Cut() }, 0},
		{"waiting to redial", func(h *house) { h.online("a").powerOff(); pass(time.Minute) }, 0},
		{"parked", func(h *house) { h.online("a").line(0).goodbye("shutdown") }, 0},
		{"within the graces", func(h *house) { h.online("a").powerOff() }, 0},
		{"a herd", func(h *house) {
			for i := range 60 {
				s := h.speaker(fmt.Sprintf("s%d", i))
				if i%3 == 0 {
					s.hello = ""
				}
				s.announce()
			}
		}, 0},
	} {
		t.Run(tc.name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				h := newHouse(t)
				tc.make(h)
				synctest.Wait()
				start := time.Now()
				h.stop()
				if took := time.Since(start); took > tc.took {
					t.Errorf("it took %v, want at most %v", took, tc.took)
				}
				for _, p := range h.Snapshot().Players {
					if p.Available || p.Connection == Connected {
						t.Errorf("%s is %s, available %v after the end", p.PID, p.Connection, p.Available)
					}
				}
				l, err := h.front.Dial(t.Context()) // the listener is not ours to close
				if err == nil {
					_ = l.Close()
				}
			})
		})
	}
}

// A client that dials a server that has ended is turned away.
func TestServeHTTPAfterTheEnd(t *testing.T) {
	bubble(t, func(t *testing.T) {
		h := newHouse(t)
		ctx, cancel := context.WithCancel(t.Context())
		s, err := New(Options{DialContext: h.dial})
		if err != nil {
			t.Fatal(err)
		}
		cancel()
		if err := s.Run(ctx); err != nil {
			t.Fatal(err)
		}
		h.web.Handler.(*Server).waiting.closeAll()
		l := h.speaker("late").dialIn()
		<-l.ended
		if got := h.pids(); len(got) != 0 {
			t.Errorf("players %v, want none", got)
		}
	})
}

// Nobody gets in once Run has returned. The guard is that Run itself closes the
// door; when something beside it did, a handler could come in between and be
// left over.
func TestNobodyEntersAfterRun(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for range 200 {
		s, err := New(Options{})
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Run(ctx); err != nil {
			t.Fatal(err)
		}
		if _, _, ok := s.waiting.enter(t.Context(), nil); ok {
			t.Fatal("a connection was let in after Run")
		}
	}
}

// A Player or Group pointer that is the same in two snapshots did not change,
// and one that did not change is the same: readers compare pointers.
func TestSnapshotPointersStay(t *testing.T) {
	bubble(t, func(t *testing.T) {
		h := newHouse(t)
		a := h.online("a")
		b := h.online("b")
		h.online("c")
		h.must(join("b", "a"))
		pass(time.Minute) // after the grace of the start
		before := h.Snapshot()
		copies := map[string]Player{}
		for _, p := range before.Players {
			copies[p.PID] = *p
		}
		a.turn(77)
		after := h.Snapshot()
		if after.Version <= before.Version {
			t.Errorf("version %d after %d, want it to grow", after.Version, before.Version)
		}
		for _, tc := range []struct {
			what    string
			same    bool
			changed bool
		}{
			{"player a", before.Player("a") == after.Player("a"), true},
			{"player b", before.Player("b") == after.Player("b"), false},
			{"player c", before.Player("c") == after.Player("c"), false},
			{"group of a", before.GoverningGroup(before.Player("a")) == after.GoverningGroup(after.Player("a")), true},
			{"group of c", before.GoverningGroup(before.Player("c")) == after.GoverningGroup(after.Player("c")), false},
		} {
			if tc.same == tc.changed {
				t.Errorf("%s: the same pointer %v, want %v", tc.what, tc.same, !tc.changed)
			}
		}
		for _, p := range before.Players { // what was published is never written to
			if got := copies[p.PID]; got.Volume != p.Volume || *got.Volume != *p.Volume || got.GroupID != p.GroupID {
				t.Errorf("the old snapshot of %s changed", p.PID)
			}
		}
		// The same state again, probes and clock questions are no change.
		version := h.Snapshot().Version
		b.turn(40)
		a.line(0).send(`{"type":"client/time","payload":{"client_transmitted":1}}`)
		pass(time.Hour)
		if got := h.Snapshot(); got.Version != version {
			t.Errorf("version %d after an hour in which nothing happened, want %d", got.Version, version)
		}
	})
}

// Two servers that know nothing of each other share nothing.
func TestTwoServersInOneProcess(t *testing.T) {
	bubble(t, func(t *testing.T) {
		one, two := newHouse(t), newHouse(t)
		one.online("kitchen")
		two.online("bath")
		one.must(setVolume("kitchen", 5))
		if got, want := fmt.Sprint(one.pids(), two.pids()), "[kitchen] [bath]"; got != want {
			t.Errorf("players %s, want %s", got, want)
		}
		if one.Identity().ID == two.Identity().ID {
			t.Error("both have one identity")
		}
	})
}

// A herd: 200 speakers that are announced in one tick, as after a power cut.
func TestHerd(t *testing.T) {
	bubble(t, func(t *testing.T) {
		h := newHouse(t)
		for i := range 200 {
			h.speaker(fmt.Sprintf("s%03d", i)).announce()
		}
		pass(5 * time.Second)
		connected := 0
		for _, p := range h.Snapshot().Players {
			if p.Connection == Connected {
				connected++
			}
		}
		if connected != 200 {
			t.Errorf("%d of 200 are connected after 5 s", connected)
		}
	})
}
