package resonate

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"resonatebridge/resonate/internal/supervisor"
	"resonatebridge/resonate/protocol"
)

// A speaker that just went is available for a while, but not when it, or a
// person, says that it is not to be had.
func TestGraceEndsByAWord(t *testing.T) {
	answer := func(reason string) func(*house, *speaker) {
		return func(h *house, s *speaker) {
			s.set(func() {
				s.off = false
				s.state = func() string { return `{"type":"client/goodbye","payload":{"reason":"` + reason + `"}}` }
			})
			s.reannounce()
			pass(time.Second)
		}
	}
	for _, tc := range []struct {
		name string
		do   func(*house, *speaker)
		want Connection
	}{
		{"custody", func(h *house, _ *speaker) { h.must(setCustody("kitchen", CustodyObserve)) }, NotManaged},
		{"pairing", answer("pairing_required"), PairingRequired},
		{"unpaired", answer("unpaired"), PairingRequired},
		{"shutdown", answer("shutdown"), Offline},
		{"user", answer("user_request"), Offline},
	} {
		t.Run(tc.name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				h := newHouse(t)
				s := h.online("kitchen")
				s.powerOff()
				pass(time.Second)
				h.want("kitchen", Connecting, true)
				tc.do(h, s)
				h.want("kitchen", tc.want, false)
			})
		})
	}
}

// What is announced is listed at once, with the reason why it is not met, also
// while it is tried again.
func TestAnnouncedIsListed(t *testing.T) {
	bubble(t, func(t *testing.T) {
		h := newHouse(t)
		s := h.speaker("kitchen")
		s.powerOff()
		s.announce()
		synctest.Wait()
		s.withdraw()
		s.announce() // the floor between two dials holds it up
		synctest.Wait()
		if n := len(h.Snapshot().Unmet); n != 1 {
			t.Fatalf("got %d unmet endpoints, want 1", n)
		}
		pass(time.Minute)
		gate := make(chan struct{})
		s.set(func() { s.gate = gate }) // dials take long from here on
		pass(2 * time.Minute)
		if u := h.Snapshot().Unmet[0]; u.Connection != ConnectionProblem || !strings.Contains(u.Error, "refused") {
			t.Errorf("while it is dialled again: got %s, %q, want error, connection refused", u.Connection, u.Error)
		}
		close(gate)
	})
}

// A goodbye that crosses with a probe ends the connection for both reasons; the
// speaker's own is told, also when nobody knows what it means.
func TestUnknownGoodbyeIsTold(t *testing.T) {
	cause := fmt.Errorf("%w: %w", supervisor.ErrHalfOpen, errGone)
	for _, reason := range []protocol.GoodbyeReason{"already_connected", protocol.GoodbyeAnotherServer, protocol.GoodbyeConcurrentAttempt} {
		if got := sentence(&client{rec: &playerRecord{Name: "Kitchen"}}, goodbyeVerdict(reason), cause); got == "" {
			t.Errorf("%s: no reason is told", reason)
		}
	}
}

// That a second advertisement leads nowhere is no news of a speaker that said
// why it stays away.
func TestSecondAddressKnowsNothing(t *testing.T) {
	for reason, want := range map[string]Connection{
		"another_server": HeldByOtherServer, "shutdown": Offline, "unauthorized": ConnectionProblem, "pairing_required": PairingRequired,
	} {
		t.Run(reason, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				dir := t.TempDir()
				data := func(o *Options) { o.DataDir = dir }
				h := newHouse(t, data)
				h.speaker("kitchen").announce()
				h.speaker("kitchen").announce()
				pass(time.Minute)
				h.stop()

				h = newHouse(t, data) // which remembers that both are one
				a, b := h.speaker("kitchen"), h.speaker("kitchen")
				b.powerOff()
				a.announce()
				b.announce()
				pass(time.Minute)
				h.want("kitchen", Connected, true)
				a.line(0).goodbye(reason)
				pass(10 * time.Minute)
				p := h.player("kitchen")
				if p.Connection != want || strings.Contains(p.LastError, "refused") {
					t.Errorf("got %s, %q, want %s and the speaker's own reason", p.Connection, p.LastError, want)
				}
			})
		})
	}
}

// An advertisement whose address was another speaker's for a while comes back
// to its owner when it changes, or is heard again after it was gone.
func TestStrayAdvertisementComesHome(t *testing.T) {
	for _, again := range []bool{false, true} {
		t.Run(map[bool]string{false: "new address", true: "heard again"}[again], func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				h := newHouse(t)
				h.online("hall")
				hall, kitchen := h.doors[h.player("hall").endpointAddr()], h.speaker("kitchen")
				own := kitchen.addr
				kitchen.addr = hall.addr // a record from yesterday
				kitchen.announce()
				pass(time.Minute)
				h.want("hall", Connected, true)
				if again { // the hall has moved, the kitchen is at its old address
					h.mu.Lock()
					h.doors[hall.addr] = kitchen
					h.mu.Unlock()
					kitchen.reannounce()
				} else {
					kitchen.addr = own
					kitchen.announce()
				}
				pass(time.Minute)
				h.want("kitchen", Connected, true)
				h.want("hall", Connected, true)
				if live, peak, _ := hall.counts(); live != 1 || peak > 2 {
					t.Errorf("hall: %d connections, %d at most; want 1, and none beside it but the one that was turned away", live, peak)
				}
			})
		})
	}
}

// RC-7: the end of a connection is seen, also when the loop hears next that the
// advertisement is another speaker's by now.
func TestSkippedEndBeforeChangeOfHands(t *testing.T) {
	for _, live := range []bool{true, false} { // the other one: it has a connection of its own, or this is it
		t.Run(map[bool]string{true: "alias", false: "new owner"}[live], func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				h := newHouse(t)
				kitchen, hall := h.online("kitchen"), h.speaker("hall")
				if live {
					hall.announce()
					pass(time.Second)
				}
				busy := make(chan struct{})
				h.post(nil, func() { <-busy })
				synctest.Wait()
				h.mu.Lock()
				h.doors[kitchen.addr] = hall
				h.mu.Unlock()
				kitchen.reset()
				h.conns.Nudge(supervisor.Key(kitchen.key), supervisor.WhyReannounced)
				pass(5 * time.Second)
				close(busy)
				pass(time.Second)
				h.want("kitchen", Searching, true)
				h.want("hall", Connected, true)
				if got := h.edges("kitchen"); got != "up1 down1" {
					t.Errorf("edges of the kitchen: %q, want up1 down1", got)
				}
			})
		})
	}
}

// endpointAddr is where p is reached.
func (p *Player) endpointAddr() string {
	host := strings.TrimSuffix(strings.TrimPrefix(p.URL, "ws://"), "/sendspin")
	return netip.MustParseAddrPort(host).String()
}
