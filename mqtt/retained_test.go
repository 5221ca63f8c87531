package mqtt

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// sim is a wanted set with a broker that acknowledges after rtt, in virtual time.
type sim struct {
	s        *set
	start    time.Time
	now      time.Time
	rtt      time.Duration
	flying   []simFlight
	retained map[string]string
	log      []simSent
}

type simFlight struct {
	e       *entry
	payload string
	at      time.Time
}

type simSent struct {
	at             time.Duration
	topic, payload string
}

func (m simSent) String() string { return fmt.Sprintf("%v %s=%s", m.at, m.topic, m.payload) }

func newSim() *sim {
	p := defaultTiming().pace
	p.birthJitter = func() time.Duration { return time.Second }
	p.refresh = 0
	start := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	return &sim{s: newSet(p), start: start, now: start, retained: make(map[string]string)}
}

// run lets d pass.
func (m *sim) run(d time.Duration) {
	end := m.now.Add(d)
	for {
		m.land()
		e, due := m.s.next(m.now)
		if e != nil {
			m.log = append(m.log, simSent{m.now.Sub(m.start), e.topic, string(e.payload)})
			m.flying = append(m.flying, simFlight{e, string(e.payload), m.now.Add(m.rtt)})
			continue
		}
		if len(m.flying) > 0 {
			due = earlier(due, m.flying[0].at)
		}
		if due.IsZero() || due.After(end) {
			m.now = end
			m.land()
			return
		}
		m.now = due
	}
}

func (m *sim) land() {
	for len(m.flying) > 0 && !m.flying[0].at.After(m.now) {
		f := m.flying[0]
		m.flying = m.flying[1:]
		if f.payload == "" {
			delete(m.retained, f.e.topic)
		} else {
			m.retained[f.e.topic] = f.payload
		}
		m.s.acked(f.e, true, m.now)
	}
}

func (m *sim) put(topic, payload string, class Class) { m.s.put(topic, []byte(payload), class, m.now) }
func (m *sim) connect()                               { m.s.connected(m.now) }

func (m *sim) lose() (aside string) {
	m.flying = nil
	aside, _ = m.s.disconnected()
	return aside
}

// sent returns what went out since the last call.
func (m *sim) sent() string {
	var lines []string
	for _, l := range m.log {
		lines = append(lines, l.String())
	}
	m.log = nil
	return strings.Join(lines, "\n")
}

func TestSet(t *testing.T) {
	for _, tc := range []struct {
		name string
		do   func(m *sim)
		want []string // time since the start, topic=payload
	}{
		{"nothing goes out while offline", func(m *sim) {
			m.put("a", "1", ClassState)
			m.run(time.Hour)
		}, nil},
		{"a replay goes by class, then by first appearance", func(m *sim) {
			m.put("s2", "x", ClassState)
			m.put("t", "x", ClassTelemetry)
			m.put("s1", "x", ClassState)
			m.put("a", "x", ClassAvailability)
			m.put("d", "x", ClassDiscovery)
			m.put("b", "x", ClassBridgeDiscovery)
			m.connect()
			m.run(time.Second)
		}, []string{"0s b=x", "0s d=x", "0s a=x", "0s s2=x", "0s s1=x", "0s t=x"}},
		{"only changes go out", func(m *sim) {
			m.connect()
			m.put("a", "1", ClassState)
			m.run(time.Second)
			m.put("a", "1", ClassState)
			m.run(time.Second)
			m.put("a", "2", ClassState)
			m.run(time.Second)
		}, []string{"0s a=1", "2s a=2"}},
		{"a slow broker gets the newest", func(m *sim) {
			m.rtt = time.Second
			m.connect()
			for i := range 100 {
				m.put("a", fmt.Sprint(i), ClassState)
				m.run(10 * time.Millisecond)
			}
			m.run(time.Second)
		}, []string{"0s a=0", "1s a=99"}},
		{"only the newest of what changed while offline, once", func(m *sim) {
			m.connect()
			m.put("a", "old", ClassState)
			m.run(time.Second)
			m.lose()
			m.put("a", "stale", ClassState)
			m.put("a", "fresh", ClassState)
			m.run(time.Second)
			m.connect()
			m.run(time.Second)
		}, []string{"0s a=old", "2s a=fresh"}},
		{"everything goes out on each connection", func(m *sim) {
			m.put("a", "1", ClassState)
			m.connect()
			m.run(time.Second)
			m.lose()
			m.connect()
			m.run(time.Second)
		}, []string{"0s a=1", "1s a=1"}},
		{"a removal is remembered until it is acknowledged", func(m *sim) {
			m.connect()
			m.put("d", "1", ClassDiscovery)
			m.run(time.Second)
			m.rtt = time.Second
			m.run(5 * time.Second)
			m.put("d", "", ClassDiscovery)
			m.run(time.Millisecond)
			m.lose() // unacknowledged
			m.run(5 * time.Second)
			m.connect()
			m.run(5 * time.Second)
			m.lose()
			m.connect()
			m.run(5 * time.Second)
		}, []string{"0s d=1", "6s d=", "11.001s d="}},
		{"a removal of what was never set goes out", func(m *sim) {
			m.connect()
			m.put("ghost", "", ClassDiscovery)
			m.run(time.Second)
		}, []string{"0s ghost="}},
		{"states end 2 s after the discovery document, whatever the order of the calls", func(m *sim) {
			m.rtt = 500 * time.Millisecond
			m.connect()
			m.put("d", "1", ClassDiscovery)
			m.put("s", "1", ClassState)
			m.put("a", "on", ClassAvailability)
			m.run(20 * time.Second)
			m.sent()
			m.put("s", "", ClassState)
			m.put("a", "", ClassAvailability)
			m.put("d", "", ClassDiscovery)
			m.run(10 * time.Second)
		}, []string{"20s d=", "22.5s a=", "22.5s s="}},
		{"states end after the discovery document that is held back", func(m *sim) {
			m.connect()
			m.put("d", "1", ClassDiscovery)
			m.put("s", "1", ClassState)
			m.run(0)
			m.put("d", "", ClassDiscovery)
			m.put("s", "", ClassState)
			m.run(10 * time.Second)
		}, []string{"0s d=1", "0s s=1", "3s d=", "5s s="}},
		{"a state that returns before its end stays", func(m *sim) {
			m.connect()
			m.put("s", "1", ClassState)
			m.run(time.Second)
			m.put("s", "", ClassState)
			m.run(time.Second)
			m.put("s", "2", ClassState)
			m.run(10 * time.Second)
		}, []string{"0s s=1", "2s s=2"}},
		{"a state that is removed twice waits from the second time", func(m *sim) {
			m.connect()
			m.put("s", "1", ClassState)
			m.run(time.Second)
			m.put("s", "", ClassState)
			m.run(time.Second)
			m.put("s", "2", ClassState)
			m.run(0)
			m.put("s", "", ClassState)
			m.run(10 * time.Second)
		}, []string{"0s s=1", "2s s=2", "4s s="}},
		{"a discovery document goes out every 3 s at most, and the latest again after 10 s", func(m *sim) {
			m.connect()
			for i := range 50 {
				m.put("d", fmt.Sprint(i), ClassDiscovery)
				m.run(100 * time.Millisecond)
			}
			m.run(time.Minute)
		}, []string{"0s d=0", "3s d=29", "6s d=49", "16s d=49"}},
		{"a replay is no change: it is not said twice", func(m *sim) {
			m.put("d", "1", ClassDiscovery)
			m.connect()
			m.run(time.Minute)
			m.lose()
			m.connect()
			m.run(time.Minute)
		}, []string{"0s d=1", "10s d=1", "1m0s d=1"}},
		{"a birth: discovery, 2 s later availability and states", func(m *sim) {
			m.put("s", "1", ClassState)
			m.put("d", "1", ClassDiscovery)
			m.put("a", "on", ClassAvailability)
			m.connect()
			m.run(time.Minute)
			m.sent()
			m.s.reborn(m.now)
			m.run(time.Minute)
		}, []string{"1m1s d=1", "1m3s a=on", "1m3s s=1"}},
		{"50 births in a second make two replays", func(m *sim) {
			m.put("d", "1", ClassDiscovery)
			m.put("s", "1", ClassState)
			m.connect()
			m.run(time.Minute)
			m.sent()
			for range 50 {
				m.s.reborn(m.now)
				m.run(30 * time.Millisecond)
			}
			m.run(time.Minute)
		}, []string{"1m1s d=1", "1m3s s=1", "1m4s d=1", "1m6s s=1"}},
		{"a birth while offline is covered by the connect", func(m *sim) {
			m.put("s", "1", ClassState)
			m.s.reborn(m.now)
			m.connect()
			m.run(time.Minute)
		}, []string{"0s s=1"}},
		{"a birth does not hold up a change", func(m *sim) {
			m.connect()
			m.put("s", "1", ClassState)
			m.run(time.Second)
			m.s.reborn(m.now)
			m.run(100 * time.Millisecond)
			m.put("s", "2", ClassState)
			m.run(time.Second)
		}, []string{"0s s=1", "1.1s s=2"}},
		{"a birth leaves removed ones alone", func(m *sim) {
			m.connect()
			m.put("s", "1", ClassState)
			m.run(time.Second)
			m.put("s", "", ClassState)
			m.run(10 * time.Second)
			m.s.reborn(m.now)
			m.run(time.Minute)
		}, []string{"0s s=1", "3s s="}},
		{"everything again after a while", func(m *sim) {
			m.s.pace.refresh = time.Hour
			m.put("s", "1", ClassState)
			m.connect()
			m.run(150 * time.Minute)
		}, []string{"0s s=1", "1h0m3s s=1", "2h0m3s s=1"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			m := newSim()
			tc.do(m)
			if got, want := m.sent(), strings.Join(tc.want, "\n"); got != want {
				t.Errorf("sent:\n%s\nwant:\n%s", got, want)
			}
		})
	}
}

func TestSetPacesDiscovery(t *testing.T) {
	m := newSim()
	for i := range 400 {
		m.put(fmt.Sprintf("d%d", i), "1", ClassDiscovery)
	}
	m.put("s", "1", ClassState)
	m.connect()
	m.run(0)
	if got, want := len(m.log), 256+1; got != want {
		t.Fatalf("at once: got %d messages, want %d: the burst and the state", got, want)
	}
	m.run(time.Second)
	if got, want := len(m.log), 256+1+50; got < want-1 || got > want+1 {
		t.Errorf("after 1 s: got %d messages, want %d", got, want)
	}
	m.run(4 * time.Second)
	if got, want := len(m.log), 400+1; got != want {
		t.Errorf("after 5 s: got %d messages, want %d", got, want)
	}
}

func TestSetRetriesUnacknowledged(t *testing.T) {
	m := newSim()
	m.put("a", "1", ClassState)
	m.connect()
	e, _ := m.s.next(m.now)
	m.s.acked(e, false, m.now)
	if got, due := m.s.next(m.now); got != nil || due.Sub(m.now) != m.s.pace.ackRetry {
		t.Errorf("after a missing acknowledgement: got %v due in %v, want nothing, due in %v", got, due.Sub(m.now), m.s.pace.ackRetry)
	}
	m.put("a", "2", ClassState)
	if got, _ := m.s.next(m.now); got != e {
		t.Errorf("a change after a missing acknowledgement: got %v, want it at once", got)
	}
}

func TestSetPutsAsideWhatEndsConnections(t *testing.T) {
	m := newSim()
	m.rtt = time.Second
	m.put("small", "x", ClassState)
	m.put("art", strings.Repeat("x", bigPayload), ClassState)
	for i := range maxStrikes {
		m.connect()
		m.run(time.Millisecond)
		got, want := m.lose(), ""
		if i == maxStrikes-1 {
			want = "art"
		}
		if got != want {
			t.Fatalf("connection %d: set aside %q, want %q", i+1, got, want)
		}
	}
	m.sent()
	m.connect()
	m.run(time.Millisecond)
	if got := m.sent(); strings.Contains(got, "art") || !strings.Contains(got, "small") {
		t.Errorf("sent %q, want small and not art", got)
	}
	if got := m.s.asides(); !slices.Equal(got, []string{"art"}) {
		t.Errorf("aside: got %q, want art", got)
	}
	m.put("art", "changed", ClassState)
	m.run(time.Millisecond)
	if got := m.sent(); !strings.Contains(got, "art=changed") {
		t.Errorf("after a change: sent %q, want art", got)
	}
}

// TestSetConverges drives the set at random: whatever happened, a connection that
// lasts makes the broker hold what is wanted and nothing else.
func TestSetConverges(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := newSim()
		wanted := make(map[string]string)
		live := false
		lastDiscovery := make(map[string]time.Duration)
		for range rapid.IntRange(0, 60).Draw(t, "steps") {
			switch rapid.IntRange(0, 9).Draw(t, "step") {
			case 0:
				if live {
					m.lose()
				} else {
					m.connect()
				}
				live = !live
			case 1:
				m.s.reborn(m.now)
			case 2:
				m.rtt = rapid.SampledFrom([]time.Duration{0, time.Millisecond, time.Second}).Draw(t, "rtt")
			case 3:
				if !live { // a broker without persistence restarts
					clear(m.retained)
				}
			case 4, 5:
				m.run(time.Duration(rapid.IntRange(0, 5000).Draw(t, "ms")) * time.Millisecond)
			default:
				class := Class(rapid.IntRange(0, int(classes)-1).Draw(t, "class"))
				topic := fmt.Sprintf("%d/%d", class, rapid.IntRange(0, 2).Draw(t, "topic"))
				payload := rapid.SampledFrom([]string{"", "1", "2", "3"}).Draw(t, "payload")
				m.put(topic, payload, class)
				if payload == "" {
					delete(wanted, topic)
				} else {
					wanted[topic] = payload
				}
			}
		}
		if !live {
			m.connect()
		}
		m.run(time.Minute)
		if !maps.Equal(m.retained, wanted) {
			t.Fatalf("at the broker: %v, want %v", m.retained, wanted)
		}
		if m.s.graves != 0 || len(m.s.entries) != len(wanted) {
			t.Fatalf("left behind: %d graves, %d entries, want 0 and %d", m.s.graves, len(m.s.entries), len(wanted))
		}
		for _, sent := range m.log {
			if sent.topic[0] != '0' && sent.topic[0] != '1' {
				continue
			}
			if last, ok := lastDiscovery[sent.topic]; ok && sent.at-last < m.s.pace.discoveryGap {
				t.Fatalf("%s sent at %v and %v, want 3 s between", sent.topic, last, sent.at)
			}
			lastDiscovery[sent.topic] = sent.at
		}
	})
}

// What a dying connection swallowed is sent again, but a removal only if it is
// known not to have arrived: the set forgets what is gone.
func TestRemovalIsConfirmed(t *testing.T) {
	m := newSim()
	m.s.connected(m.now)
	for _, want := range []struct {
		payload string
		qos     byte
	}{{"12", 0}, {"", 1}} {
		m.s.put("base/position", []byte(want.payload), ClassTelemetry, m.now)
		m.now = m.now.Add(time.Minute)
		e, _ := m.s.next(m.now)
		if e == nil || e.qos() != want.qos {
			t.Fatalf("%q: got %+v, want it with QoS %d", want.payload, e, want.qos)
		}
		m.s.acked(e, true, m.now)
	}
}
