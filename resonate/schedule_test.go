package resonate

import (
	"context"
	"fmt"
	"net/netip"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"resonatebridge/discovery"
	player "resonatebridge/resonate/client"
	"resonatebridge/resonate/internal/supervisor"
	"resonatebridge/tests/pipe"
)

// A hundred speakers come up while the loop is held up by something else: each
// of them counts when it goes on (races: G5). The guard is that the mailbox keeps
// the newest status of every key; with a queue of a fixed size those at its end
// would be connected and never heard of.
func TestSlowLoopLosesNobody(t *testing.T) {
	bubble(t, func(t *testing.T) {
		h := newHouse(t)
		busy := make(chan struct{})
		h.post(nil, func() { <-busy })
		synctest.Wait()
		const herd = 100
		for i := range herd {
			h.speaker(fmt.Sprintf("s%02d", i)).dialIn()
		}
		synctest.Wait()
		close(busy)
		pass(time.Second)
		connected := 0
		for _, p := range h.Snapshot().Players {
			if p.Connection == Connected {
				connected++
			}
		}
		if connected != herd {
			t.Errorf("%d of %d are connected after the loop was slow", connected, herd)
		}
	})
}

// The end of an old connection is told after the beginning of the new one, which
// is another key's: the loop was slow, and the new key was first in the mailbox
// (races: B6). The guard is the comparison of keys in onStatus; without it a
// speaker that is connected is shown as lost.
func TestLateEndOfAnotherKey(t *testing.T) {
	bubble(t, func(t *testing.T) {
		h := newHouse(t)
		s := h.speaker("kitchen")
		s.dialIn()
		synctest.Wait()
		h.want("kitchen", Connected, true)
		gate, hello := make(chan struct{}), s.hello
		s.set(func() { s.gate, s.hello = gate, "" })
		s.announce() // its own key, whose dial is under way
		synctest.Wait()

		busy := make(chan struct{})
		h.post(nil, func() { <-busy })
		synctest.Wait()
		close(gate) // the socket is open: the mailbox has this key first
		synctest.Wait()
		s.line(0).link.Reset() // the end of the old connection comes second
		synctest.Wait()
		s.line(1).send(hello) // and takes the place of what was first
		synctest.Wait()
		close(busy)
		synctest.Wait()
		h.want("kitchen", Connected, true)
		if got := h.edges("kitchen"); got != "up1 down1 up2" {
			t.Errorf("edges %q, want up1 down1 up2", got)
		}
		h.must(setVolume("kitchen", 12))
		if got := s.line(-1).last("server/command"); got == "" {
			t.Error("the new connection was not told the volume")
		}
	})
}

// A speaker gets another address from its router (races: X5, B2): it is the
// same player, found at once, and nobody goes on at the old address. The guard is
// that the key is the advertisement's, and a new address replaces the endpoint of
// the entry that is there.
func TestNewAddressSamePlayer(t *testing.T) {
	bubble(t, func(t *testing.T) {
		h := newHouse(t)
		s := h.online("kitchen")
		moved := h.speaker("kitchen")
		moved.key = s.key
		pass(time.Minute)
		s.set(func() { s.off = true })
		s.line(0).link.Cut() // no FIN comes from an address that is gone
		moved.announce()
		pass(3 * time.Second)
		h.want("kitchen", Connected, true)
		if got := h.edges("kitchen"); got != "up1 down1 up2" {
			t.Errorf("edges %q, want up1 down1 up2", got)
		}
		dials := h.dialsTo(s.addr)
		pass(time.Hour)
		if live, peak, _ := moved.counts(); live != 1 || peak != 1 || len(h.pids()) != 1 || h.dialsTo(s.addr) != dials {
			t.Errorf("%d connections, %d at once, players %v, %d more dials to the old address; want 1, 1, one, none",
				live, peak, h.pids(), h.dialsTo(s.addr)-dials)
		}
	})
}

// Two bridges and one speaker, which is our own player and decides as the
// protocol says: it changes hands when somebody wants to play, and at no other
// time, and who lost it leaves it alone (races: B7). The guard is the verdict on
// another_server.
func TestTwoBridgesOneSpeaker(t *testing.T) {
	bubble(t, func(t *testing.T) {
		door := pipe.NewListener()
		speaker, err := player.NewPlayer(player.PlayerOptions{ClientID: "kitchen", Listener: door})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		var life sync.WaitGroup
		life.Go(func() {
			if err := speaker.Run(ctx); err != nil {
				t.Errorf("the speaker ended: %v", err)
			}
		})
		defer life.Wait()
		defer cancel()

		reach := func(o *Options) { o.DialContext = door.DialContext }
		one, two := newHouse(t, reach), newHouse(t, reach)
		hour := func() {
			for range 60 {
				for _, h := range []*house{one, two} {
					h.Discover(discovery.Event{Kind: discovery.Announced, Endpoint: discovery.Endpoint{
						Key: "kitchen._sendspin._tcp.local.", Name: "kitchen", Path: "/sendspin", Service: discovery.ServicePlayer,
						Addrs: []netip.AddrPort{netip.MustParseAddrPort("192.0.2.2:2")},
					}})
					synctest.Wait() // the first one comes first
				}
				pass(time.Minute)
			}
		}
		hour()
		one.want("kitchen", Connected, true)
		two.want("kitchen", HeldByOtherServer, true)
		if st := speaker.Snapshot(); st.Sessions != 1 {
			t.Errorf("%d sessions in an hour in which nobody played, want 1", st.Sessions)
		}

		two.must(setCustody("kitchen", CustodyHold)) // somebody wants it there
		pass(time.Second)
		before := speaker.Snapshot()
		if before.Sessions != 2 {
			t.Errorf("%d sessions after one change of hands, want 2", before.Sessions)
		}
		hour()
		two.want("kitchen", Connected, true)
		one.want("kitchen", HeldByOtherServer, true)
		if st := speaker.Snapshot(); st.Sessions != before.Sessions || st.Rejected != before.Rejected {
			t.Errorf("%d more sessions and %d more attempts in the hour after, want none: it was told to stay away",
				st.Sessions-before.Sessions, st.Rejected-before.Rejected)
		}
		one.stop()
		two.stop()
	})
}

// A speaker is away for a moment while its group plays (races: B20, G5): it comes
// back into its group, is told that a stream starts before it gets any sound, and
// the others hear nothing of it; also when the loop was too slow to see it go. The
// guard is that a member of a stage is a connection, not an id: a new one knows
// nothing yet.
func TestBlipWhilePlaying(t *testing.T) {
	for _, slow := range []bool{false, true} {
		t.Run(fmt.Sprintf("slow loop %v", slow), func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				h := newHouse(t, library(map[string]*ramp{"http://x/a": {frames: 60 * 48_000, rate: 48_000}}))
				a, b := h.online("a"), h.online("b")
				h.must(join("b", "a"))
				group := h.group("a").ID
				h.must(playURL("a", "http://x/a"))
				pass(5 * time.Second)
				busy := make(chan struct{})
				if slow {
					h.post(nil, func() { <-busy })
					synctest.Wait()
				}
				b.reset()
				pass(5 * time.Second)
				close(busy)
				pass(time.Second)
				h.want("b", Connected, true)
				if got := h.group("b").ID; got != group {
					t.Errorf("group %s after the blip, want %s", got, group)
				}
				if got := fmt.Sprint(kinds(b.line(-1))); got != "[stream/start audio]" || b.line(-1) == b.line(0) {
					t.Errorf("the new connection got %s, want a start, then sound", got)
				}
				pass(time.Minute)
				left, _ := a.line(0).frames(t)
				wantRamp(t, left, 0, 60*48_000)
			})
		})
	}
}

// What ends the wait after each goodbye, and what does not (spec: client/goodbye;
// races: C.5): every reason with every class of nudge. The guard is goodbyeVerdict.
func TestGoodbyeAndNudge(t *testing.T) {
	const (
		announced   = supervisor.WhyAnnounced
		reannounced = supervisor.WhyReannounced
		moved       = supervisor.WhyEndpoint
		user        = supervisor.WhyUser
		playback    = supervisor.WhyPlayback
		config      = supervisor.WhyConfig
		suspect     = supervisor.WhySuspect
	)
	for _, tc := range []struct {
		reason string
		wakes  supervisor.Why
	}{
		{"another_server", user | playback | reannounced},
		{"shutdown", user | playback | reannounced | moved},
		{"user_request", user | playback | reannounced},
		{"unauthorized", user | config},
		{"pairing_required", user | config},
		{"unpaired", user | config},
		{"concurrent_attempt", user | playback | reannounced | moved | config},
		{"already_connected", user | playback | reannounced | moved | config}, // a reason that nobody has written down
	} {
		for _, why := range []supervisor.Why{announced, reannounced, moved, user, playback, config, suspect} {
			t.Run(tc.reason+"/"+why.String(), func(t *testing.T) {
				bubble(t, func(t *testing.T) {
					h := newHouse(t)
					s := h.online("kitchen")
					pass(time.Minute) // beyond the floor of announcements
					s.line(0).goodbye(tc.reason)
					pass(time.Second)
					if !h.conns.Nudge(supervisor.Key(s.key), why) {
						t.Fatal("the key is not known any more")
					}
					pass(20 * time.Second) // less than the shortest wait of its own
					if got, want := h.dialsTo(s.addr) == 2, tc.wakes&why != 0; got != want {
						t.Errorf("dialled: %v, want %v", got, want)
					}
				})
			})
		}
	}
}
