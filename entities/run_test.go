package entities

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"resonatebridge/mqtt"
	"resonatebridge/resonate"
)

// The parts that Run stands between.
var (
	_ Server = (*resonate.Server)(nil)
	_ Broker = (*mqtt.Client)(nil)
)

// fakeServer shows what it is told to and answers commands with do.
type fakeServer struct {
	snap    atomic.Pointer[resonate.Snapshot]
	changed chan struct{}
	do      func(ctx context.Context, c resonate.Command) (resonate.Result, error)
}

func (s *fakeServer) Snapshot() *resonate.Snapshot { return s.snap.Load() }
func (s *fakeServer) Changed() <-chan struct{}     { return s.changed }
func (s *fakeServer) Do(ctx context.Context, c resonate.Command) (resonate.Result, error) {
	return s.do(ctx, c)
}

// show makes a new snapshot the truth, as a server does: new pointers for what
// change touched.
func (s *fakeServer) show(change func(*resonate.Snapshot)) {
	next := *s.snap.Load()
	next.Players, next.Groups = slices.Clone(next.Players), slices.Clone(next.Groups)
	next.Version++
	change(&next)
	s.snap.Store(&next)
	select {
	case s.changed <- struct{}{}:
	default:
	}
}

// player changes the player with this id.
func (s *fakeServer) player(pid string, change func(*resonate.Player)) {
	s.show(func(snap *resonate.Snapshot) {
		for i, p := range snap.Players {
			if p.PID == pid {
				next := *p
				change(&next)
				snap.Players[i] = &next
			}
		}
	})
}

func (s *fakeServer) volume(pid string, v int) {
	s.player(pid, func(p *resonate.Player) { p.Volume = &v })
}

// sent is one call of the broker.
type sent struct {
	at       time.Duration // since the start
	topic    string
	payload  string // empty: removed
	class    mqtt.Class
	retained bool
}

// fakeBroker records what it is asked for.
type fakeBroker struct {
	start time.Time
	in    chan mqtt.Message

	mu     sync.Mutex
	log    []sent
	births int
}

func (b *fakeBroker) record(topic string, payload []byte, class mqtt.Class, retained bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.log = append(b.log, sent{time.Since(b.start), topic, string(payload), class, retained})
}

func (b *fakeBroker) Set(topic string, payload []byte, class mqtt.Class) {
	b.record(topic, payload, class, true)
}

func (b *fakeBroker) Publish(topic string, payload []byte, _ byte) bool {
	b.record(topic, payload, 0, false)
	return true
}

func (b *fakeBroker) Messages() <-chan mqtt.Message { return b.in }

func (b *fakeBroker) Birth() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.births++
}

// restart forgets everything and counts time from now.
func (b *fakeBroker) restart() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.log, b.start = nil, time.Now()
}

// take returns what was recorded on topics with this prefix since the last take
// of anything, and forgets the rest.
func (b *fakeBroker) take(prefixes ...string) []sent {
	b.mu.Lock()
	defer b.mu.Unlock()
	var out []sent
	for _, s := range b.log {
		if slices.ContainsFunc(prefixes, func(p string) bool { return strings.HasPrefix(s.topic, p) }) {
			out = append(out, s)
		}
	}
	b.log = nil
	return out
}

const (
	kitchenTopic = "resonate/player/kitchen-3f9a1c07"
	kitchenID    = "kitchen-3f9a1c07"
)

// bench is a running loop between a fake server and a fake broker.
type bench struct {
	t      *testing.T
	server *fakeServer
	broker *fakeBroker
}

// running runs body, in virtual time, beside Run. What was published at the
// start is forgotten, and the windows that it opened have passed.
func running(t *testing.T, o Options, body func(b *bench)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		b := &bench{
			t: t,
			server: &fakeServer{changed: make(chan struct{}, 1), do: func(context.Context, resonate.Command) (resonate.Result, error) {
				return resonate.Result{}, nil
			}},
			broker: &fakeBroker{start: time.Now(), in: make(chan mqtt.Message, 1024)},
		}
		b.server.snap.Store(house())
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- Run(ctx, b.server, b.broker, o) }()
		time.Sleep(time.Minute)
		synctest.Wait()
		b.broker.restart()
		body(b)
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
}

func (b *bench) send(topic, payload string) {
	b.broker.in <- mqtt.Message{Topic: "resonate/" + topic, Payload: []byte(payload)}
	synctest.Wait()
}

// pass lets virtual time go by.
func (b *bench) pass(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

// results are the answers so far.
func (b *bench) results(topic string) []result {
	b.t.Helper()
	var out []result
	for _, s := range b.broker.take(topic) {
		var r result
		if err := json.Unmarshal([]byte(s.payload), &r); err != nil || s.retained {
			b.t.Fatalf("%s: %s (retained %v): %v", s.topic, s.payload, s.retained, err)
		}
		out = append(out, r)
	}
	return out
}

func TestRunPublishesWhatRenderSays(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server := &fakeServer{changed: make(chan struct{}, 1)}
		server.snap.Store(house())
		broker := &fakeBroker{start: time.Now()}
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- Run(ctx, server, broker, options()) }()
		synctest.Wait()
		got := broker.take("")
		want := Render(options(), house())
		if len(got) != len(want) {
			t.Errorf("got %d topics, want %d", len(got), len(want))
		}
		for _, s := range got {
			if s.at != 0 || !s.retained || string(want[s.topic]) != s.payload {
				t.Errorf("%s: got %q after %v, want %q at once", s.topic, s.payload, s.at, want[s.topic])
			}
		}
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
}

func TestRunRefusesBadOptions(t *testing.T) {
	if err := Run(t.Context(), nil, nil, Options{BaseTopic: "#"}); err == nil {
		t.Error("got no error for base topic #")
	}
}

func TestFirstChangeAtOnceThenEvery50ms(t *testing.T) {
	running(t, Options{}, func(b *bench) {
		for i := range 30 { // a change every 7 ms, for 210 ms
			b.server.volume(kitchenID, i)
			b.pass(7 * time.Millisecond)
		}
		b.pass(time.Second)
		var got []string
		for _, s := range b.broker.take(kitchenTopic + "/volume") {
			got = append(got, fmt.Sprintf("%s at %v", s.payload, s.at))
		}
		want := []string{"0 at 0s", "7 at 50ms", "14 at 100ms", "21 at 150ms", "28 at 200ms", "29 at 250ms"}
		if !slices.Equal(got, want) {
			t.Errorf("got %q, want %q", got, want)
		}
	})
}

func TestDevicesDontWaitForEachOther(t *testing.T) {
	running(t, Options{}, func(b *bench) {
		b.server.volume(kitchenID, 1)
		b.pass(time.Millisecond)
		b.server.volume("dining", 2)
		b.pass(time.Millisecond)
		got := b.broker.take("resonate/player/dining/volume")
		if len(got) != 1 || got[0].at != time.Millisecond {
			t.Errorf("got %v, want one publication at 1ms", got)
		}
	})
}

func TestNothingIsPublishedWithoutAChange(t *testing.T) {
	running(t, options(), func(b *bench) {
		for range 20 {
			b.server.show(func(*resonate.Snapshot) {}) // a new version of the same
			b.pass(20 * time.Millisecond)
			b.server.player(kitchenID, func(*resonate.Player) {}) // a new pointer to the same
			b.pass(20 * time.Millisecond)
		}
		b.pass(time.Hour)
		if got := b.broker.take(""); len(got) != 0 {
			t.Errorf("got %d publications, first %v; want none", len(got), got[0])
		}
	})
}

func TestVolumeTouchesOnlyItsTopics(t *testing.T) {
	running(t, options(), func(b *bench) {
		b.server.volume(kitchenID, 36)
		b.pass(time.Minute)
		var got []string
		for _, s := range b.broker.take("") {
			got = append(got, s.topic)
		}
		want := []string{"resonate/bridge/devices", kitchenTopic + "/state", kitchenTopic + "/volume"}
		slices.Sort(got)
		if !slices.Equal(got, want) {
			t.Errorf("got %q, want %q", got, want)
		}
	})
}

func TestDiagnosticsAtMostEvery30s(t *testing.T) {
	running(t, options(), func(b *bench) {
		for i := range 10 {
			b.server.player(kitchenID, func(p *resonate.Player) { p.Reconnects = uint64(10 + i) })
			b.pass(10 * time.Second)
		}
		got := b.broker.take(kitchenTopic + "/diag")
		for i := 1; i < len(got); i++ {
			if gap := got[i].at - got[i-1].at; gap < diagEvery {
				t.Errorf("%v after the one before, want at least %v", gap, diagEvery)
			}
		}
		if len(got) != 4 || got[0].at != 0 || got[0].class != mqtt.ClassTelemetry {
			t.Errorf("got %v, want 4 publications, the first at once", got)
		}
	})
}

func TestRemovalTakesDiscoveryFirst(t *testing.T) {
	running(t, options(), func(b *bench) {
		b.server.show(func(s *resonate.Snapshot) {
			s.Players = s.Players[:1]
			s.Groups = s.Groups[1:]
		})
		b.pass(time.Second)
		const player, group = "homeassistant/device/resonate_kitchen-3f9a1c07/config", "homeassistant/device/resonate_group_downstairs/config"
		gone := make(map[string]bool)
		for _, s := range b.broker.take(kitchenTopic+"/", "resonate/group/downstairs/", player, group) {
			if s.payload != "" || !s.retained || gone[s.topic] {
				t.Errorf("got %v, want one removal for each topic", s)
			}
			if strings.HasPrefix(s.topic, kitchenTopic) && !gone[player] || strings.HasPrefix(s.topic, "resonate/group/") && !gone[group] {
				t.Errorf("%s went before the discovery document", s.topic)
			}
			gone[s.topic] = true
		}
		for topic := range Render(options(), house()) {
			if strings.HasPrefix(topic, kitchenTopic+"/") || strings.HasPrefix(topic, "resonate/group/downstairs/") {
				if !gone[topic] {
					t.Errorf("%s stayed", topic)
				}
			}
		}
		b.server.show(func(s *resonate.Snapshot) { *s = *house() })
		b.pass(time.Second)
		back := make(map[string]string)
		for _, s := range b.broker.take("") {
			back[s.topic] = s.payload
		}
		for topic, want := range Render(options(), house()) {
			if gone[topic] && back[topic] != string(want) {
				t.Errorf("%s: got %q after the return, want %q", topic, back[topic], want)
			}
		}
	})
}

// component is what the newest of ss announces under key.
func announced(t *testing.T, ss []sent, key string) string {
	t.Helper()
	if len(ss) == 0 {
		return "no document"
	}
	var doc struct {
		Components map[string]map[string]any `json:"components"`
	}
	if err := json.Unmarshal([]byte(ss[len(ss)-1].payload), &doc); err != nil {
		t.Fatal(err)
	}
	switch c := doc.Components[key]; {
	case c == nil:
		return "absent"
	case len(c) == 1:
		return "removed"
	}
	return "there"
}

func TestComponentsThatALostAbilityLeavesAreRemoved(t *testing.T) {
	const topic = "homeassistant/device/resonate_kitchen-3f9a1c07/config"
	running(t, options(), func(b *bench) {
		b.server.player(kitchenID, func(p *resonate.Player) {
			p.Connection, p.HasVolume, p.HasDelay = resonate.Offline, false, false
		})
		b.pass(time.Minute)
		if got := announced(t, b.broker.take(topic), "volume"); got != "no document" {
			t.Errorf("away: got %s, want no document: its entities stay", got)
		}
		b.server.player(kitchenID, func(p *resonate.Player) { p.Connection, p.HasVolume = resonate.Connected, true })
		b.pass(time.Minute)
		docs := b.broker.take(topic)
		if got := announced(t, docs, "volume"); got != "there" {
			t.Errorf("volume: got %s, want there", got)
		}
		if got := announced(t, docs, "delay"); got != "removed" {
			t.Errorf("delay: got %s, want removed", got)
		}
		b.server.player(kitchenID, func(p *resonate.Player) { p.HasDelay = true })
		b.pass(time.Minute)
		if got := announced(t, b.broker.take(topic), "delay"); got != "there" {
			t.Errorf("delay, back again: got %s, want there", got)
		}
	})
}

func TestGroupingNeedsNoDiscoveryDocument(t *testing.T) {
	running(t, options(), func(b *bench) {
		b.server.show(func(s *resonate.Snapshot) {
			p := *s.Players[1]
			p.GroupID = "adhoc-1"
			s.Players[1] = &p
			d := *s.Players[0]
			d.GroupID = "adhoc-1"
			s.Players[0] = &d
			s.Groups = []*resonate.Group{
				{ID: "adhoc-1", Name: "Kitchen", Kind: resonate.AdHocGroup, Members: []string{kitchenID, "dining"}, Playback: resonate.Idle, Online: 1},
				{ID: "downstairs", Name: "Downstairs", Kind: resonate.NamedGroup, Remembered: []string{"dining"}, Playback: resonate.Idle},
			}
		})
		b.pass(time.Minute)
		got := make(map[string]string)
		for _, s := range b.broker.take("") {
			got[s.topic] = s.payload
			if strings.HasPrefix(s.topic, "homeassistant/") {
				t.Errorf("got document %s, want none", s.topic)
			}
		}
		for topic, want := range map[string]string{
			kitchenTopic + "/group": "Hosting", "resonate/player/dining/group": "With Kitchen",
			"resonate/group/downstairs/availability": "offline", "resonate/group/adhoc-1/availability": "online",
		} {
			if got[topic] != want {
				t.Errorf("%s: got %q, want %q", topic, got[topic], want)
			}
		}
	})
}

// TestStateFollowsANewOption: Home Assistant ignores a state that is not among
// the options it knows, so the state comes again when it knows.
func TestStateFollowsANewOption(t *testing.T) {
	running(t, options(), func(b *bench) {
		b.server.show(func(s *resonate.Snapshot) {
			p := *s.Players[0]
			p.GroupID = "upstairs"
			s.Players[0] = &p
			s.Groups = append(s.Groups, &resonate.Group{ID: "upstairs", Name: "Upstairs", Kind: resonate.NamedGroup, Members: []string{"dining"}})
		})
		b.pass(time.Minute)
		var got []string
		for _, s := range b.broker.take("resonate/player/dining/state", "resonate/player/"+kitchenID+"/state") {
			got = append(got, fmt.Sprintf("%s %v %v", s.topic, s.at, s.retained))
		}
		want := []string{"resonate/player/dining/state 0s true", "resonate/player/dining/state 6s false"}
		if !slices.Equal(got, want) {
			t.Errorf("got %q, want %q", got, want)
		}
	})
}

func TestEveryCommandIsAnswered(t *testing.T) {
	for _, tc := range []struct {
		name, topic, payload, answer string
		do                           func(ctx context.Context, c resonate.Command) (resonate.Result, error)
		want                         string // the result, with took_ms cut off
		after                        time.Duration
	}{
		{
			"ok", "player/" + kitchenID + "/set", `{"volume": 25, "transaction": "nr-17"}`, kitchenTopic + "/result",
			func(context.Context, resonate.Command) (resonate.Result, error) {
				return resonate.Result{Data: map[string]any{"volume": 25}}, nil
			},
			`{"transaction":"nr-17","command":"set","status":"ok","data":{"volume":25}`, 0,
		},
		{
			"scalar", "player/" + kitchenID + "/set/volume", "25", kitchenTopic + "/result",
			func(context.Context, resonate.Command) (resonate.Result, error) { return resonate.Result{}, nil },
			`{"command":"set/volume","status":"ok"`, 0,
		},
		{
			"offline speaker", "player/dining/set/volume", "25", "resonate/player/dining/result",
			func(context.Context, resonate.Command) (resonate.Result, error) {
				return resonate.Result{}, resonate.Errorf(resonate.CodeNotConnected, "Dining is not connected")
			},
			`{"command":"set/volume","status":"error","error":{"code":"not_connected","message":"Dining is not connected"}`, 0,
		},
		{
			"foreign speaker", "player/" + kitchenID + "/set/mute", "ON", kitchenTopic + "/result",
			func(context.Context, resonate.Command) (resonate.Result, error) {
				return resonate.Result{}, fmt.Errorf("server: %w", resonate.Errorf(resonate.CodeHeldByOtherServer, "Kitchen is in use by Music Assistant"))
			},
			`{"command":"set/mute","status":"error","error":{"code":"held_by_other_server","message":"Kitchen is in use by Music Assistant"}`, 0,
		},
		{
			"unknown speaker", "player/attic/set/volume", "25", "resonate/player/attic/result", nil,
			`{"command":"set/volume","status":"error","error":{"code":"unknown_device","message":"there is no speaker with the id \"attic\"; bridge/devices lists them"}`, 0,
		},
		{
			"error without a code", "bridge/request/scan", "PRESS", "resonate/bridge/response/scan",
			func(context.Context, resonate.Command) (resonate.Result, error) {
				return resonate.Result{}, errors.New("boom")
			},
			`{"command":"scan","status":"error","error":{"code":"internal","message":"boom"}`, 0,
		},
		{
			"timeout", "player/" + kitchenID + "/set/delay", "5", kitchenTopic + "/result",
			func(ctx context.Context, _ resonate.Command) (resonate.Result, error) {
				<-ctx.Done()
				return resonate.Result{}, ctx.Err()
			},
			`{"command":"set/delay","status":"error","error":{"code":"timeout","message":"no answer in time; the speaker may still do it"}`, 9500 * time.Millisecond,
		},
		{
			"timeout of a server that doesn't notice", "group/downstairs/set/mute", "ON", "resonate/group/downstairs/result",
			func(context.Context, resonate.Command) (resonate.Result, error) {
				time.Sleep(15 * time.Second)
				return resonate.Result{}, nil
			},
			`{"command":"set/mute","status":"error","error":{"code":"timeout","message":"no answer in time; the speaker may still do it"}`, 9750 * time.Millisecond,
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			running(t, Options{}, func(b *bench) {
				b.server.do = tc.do
				b.send(tc.topic, tc.payload)
				b.pass(time.Minute)
				got := b.broker.take(tc.answer)
				if len(got) != 1 || got[0].retained || got[0].at != tc.after {
					t.Fatalf("got %v, want one result after %v", got, tc.after)
				}
				if text, _, _ := strings.Cut(got[0].payload, `,"took_ms"`); text != tc.want {
					t.Errorf("got  %s\nwant %s", text, tc.want)
				}
			})
		})
	}
}

// TestCommandSeesTheNewestSnapshot: who reads of a speaker elsewhere may command
// it, although the loop was not woken yet.
func TestCommandSeesTheNewestSnapshot(t *testing.T) {
	running(t, Options{}, func(b *bench) {
		s := *b.server.snap.Load()
		s.Players = append(slices.Clone(s.Players), &resonate.Player{PID: "attic", Name: "Attic", MaxVolume: 100, GroupID: "solo-attic"})
		b.server.snap.Store(&s)
		b.send("player/attic/set/volume", "5")
		if got := b.results("resonate/player/attic/result"); len(got) != 1 || got[0].Status != "ok" {
			t.Errorf("got %+v, want ok", got)
		}
	})
}

func TestVolumeLatestWins(t *testing.T) {
	running(t, Options{}, func(b *bench) {
		var mu sync.Mutex
		var applied []string
		start := time.Now()
		b.server.do = func(_ context.Context, c resonate.Command) (resonate.Result, error) {
			mu.Lock()
			defer mu.Unlock()
			v := c.(resonate.SetPlayer).Volume
			applied = append(applied, fmt.Sprintf("%d %v", v.Value, time.Since(start)))
			return resonate.Result{Data: map[string]any{"volume": v.Value}}, nil
		}
		for i := 1; i <= 100; i++ { // all at once
			b.broker.in <- mqtt.Message{Topic: kitchenTopic + "/set/volume", Payload: fmt.Append(nil, i)}
		}
		b.pass(time.Second)
		if want := []string{"1 0s", "100 100ms"}; !slices.Equal(applied, want) {
			t.Errorf("got %q, want %q", applied, want)
		}
		superseded := 0
		results := b.results(kitchenTopic + "/result")
		for _, r := range results {
			if r.Status != "ok" {
				t.Errorf("got %+v, want ok", r)
			}
			if r.Superseded {
				superseded++
			}
		}
		if len(results) != 100 || superseded != 98 {
			t.Errorf("got %d results, %d superseded; want 100, 98", len(results), superseded)
		}
	})
}

func TestVolumeStepsAddUp(t *testing.T) {
	for _, tc := range []struct {
		name string
		send []string
		want []string
	}{
		{"same way", []string{"+5", "+5", "+5"}, []string{"+5", "+10"}},
		{"limits", []string{"1", "+90", "+90"}, []string{"1", "+100"}},
		{"both ways", []string{"+5", "+5", "-5"}, []string{"+5", "+5", "-5"}},
		{"step after a value", []string{"10", "20", "+5"}, []string{"10", "20", "+5"}},
		{"value after steps", []string{"10", "+5", "-5", "30"}, []string{"10", "30"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			running(t, Options{}, func(b *bench) {
				var applied []string
				b.server.do = func(_ context.Context, c resonate.Command) (resonate.Result, error) {
					v := c.(resonate.SetGroup).Volume
					if v.Relative {
						applied = append(applied, fmt.Sprintf("%+d", v.Value))
					} else {
						applied = append(applied, fmt.Sprint(v.Value))
					}
					return resonate.Result{}, nil
				}
				for _, payload := range tc.send {
					b.broker.in <- mqtt.Message{Topic: "resonate/group/downstairs/set/volume", Payload: []byte(payload)}
				}
				b.pass(time.Second)
				if !slices.Equal(applied, tc.want) {
					t.Errorf("got %q, want %q", applied, tc.want)
				}
				if got := len(b.results("resonate/group/downstairs/result")); got != len(tc.send) {
					t.Errorf("got %d results, want %d", got, len(tc.send))
				}
			})
		})
	}
}

func TestVolumeStateIsHeldBack(t *testing.T) {
	volumes := func(b *bench) []string {
		var out []string
		for _, s := range b.broker.take(kitchenTopic + "/state") {
			var state playerState
			if err := json.Unmarshal([]byte(s.payload), &state); err != nil {
				b.t.Fatal(err)
			}
			out = append(out, fmt.Sprintf("%d %v", *state.Volume, s.at))
		}
		return out
	}
	for _, tc := range []struct {
		name string
		play func(b *bench)
		want []string
	}{
		{"until the speaker confirms, then at once", func(b *bench) {
			b.send("player/"+kitchenID+"/set/volume", "60")
			b.server.player(kitchenID, func(p *resonate.Player) { p.Mute = ptr(true) })
			b.pass(20 * time.Millisecond)
			b.server.volume(kitchenID, 60)
			b.pass(time.Second)
		}, []string{"60 20ms"}},
		{"at most 750 ms", func(b *bench) {
			b.send("player/"+kitchenID+"/set/volume", "60")
			b.server.player(kitchenID, func(p *resonate.Player) { p.LastError = "x" })
			b.pass(2 * time.Second)
		}, []string{"35 750ms"}},
		{"late echoes of a moving slider", func(b *bench) {
			b.send("player/"+kitchenID+"/set/volume", "40")
			b.pass(100 * time.Millisecond)
			b.send("player/"+kitchenID+"/set/volume", "50")
			b.server.volume(kitchenID, 40)
			b.pass(100 * time.Millisecond)
			b.send("player/"+kitchenID+"/set/volume", "60")
			b.server.volume(kitchenID, 50)
			b.pass(100 * time.Millisecond)
			b.server.volume(kitchenID, 60)
			b.pass(2 * time.Second)
		}, []string{"60 300ms"}},
		{"an answer that nobody asked for", func(b *bench) {
			b.send("player/"+kitchenID+"/set/volume", "60")
			b.pass(10 * time.Millisecond)
			b.server.volume(kitchenID, 58)
			b.pass(2 * time.Second)
		}, []string{"58 10ms"}},
		{"the maximum is the target", func(b *bench) {
			b.send("player/"+kitchenID+"/set/volume", "100")
			b.pass(10 * time.Millisecond)
			b.server.volume(kitchenID, 80)
			b.pass(2 * time.Second)
		}, []string{"80 10ms"}},
		{"nothing to hold", func(b *bench) {
			b.send("player/"+kitchenID+"/set/volume", "35")
			b.server.player(kitchenID, func(p *resonate.Player) { p.LastError = "x" })
			b.pass(2 * time.Second)
		}, []string{"35 0s"}},
		{"above a maximum that is reached", func(b *bench) {
			b.server.volume(kitchenID, 80)
			b.pass(time.Second)
			b.broker.restart()
			b.send("player/"+kitchenID+"/set/volume", "100")
			b.server.player(kitchenID, func(p *resonate.Player) { p.LastError = "x" })
			b.pass(2 * time.Second)
		}, []string{"80 0s"}},
		{"a refused volume holds nothing", func(b *bench) {
			b.server.do = func(context.Context, resonate.Command) (resonate.Result, error) {
				time.Sleep(100 * time.Millisecond)
				return resonate.Result{}, resonate.Errorf(resonate.CodeNotConnected, "gone")
			}
			b.send("player/"+kitchenID+"/set/volume", "60")
			b.server.player(kitchenID, func(p *resonate.Player) { p.LastError = "x" })
			b.pass(2 * time.Second)
		}, []string{"35 100ms", "35 100ms"}},
		{"a refused volume is told again", func(b *bench) {
			b.server.do = func(context.Context, resonate.Command) (resonate.Result, error) {
				return resonate.Result{}, resonate.Errorf(resonate.CodeNotConnected, "gone")
			}
			b.send("player/"+kitchenID+"/set/volume", "60")
			b.pass(2 * time.Second)
		}, []string{"35 0s"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			running(t, Options{}, func(b *bench) {
				tc.play(b)
				if got := volumes(b); !slices.Equal(got, tc.want) {
					t.Errorf("got %q, want %q", got, tc.want)
				}
			})
		})
	}
}

func TestGroupVolumeIsHeldUntilTheMeanArrives(t *testing.T) {
	running(t, Options{}, func(b *bench) {
		mean := func(v int) {
			b.server.show(func(s *resonate.Snapshot) {
				g := *s.Groups[0]
				g.Volume = v
				s.Groups[0] = &g
			})
			b.pass(60 * time.Millisecond)
		}
		b.send("group/downstairs/set/volume", "60")
		mean(45)
		mean(60)
		b.pass(time.Second)
		var got []string
		for _, s := range b.broker.take("resonate/group/downstairs/volume") {
			got = append(got, fmt.Sprintf("%s %v", s.payload, s.at))
		}
		if want := []string{"60 60ms"}; !slices.Equal(got, want) {
			t.Errorf("got %q, want %q", got, want)
		}
	})
}

func TestFullLaneAnswersBusy(t *testing.T) {
	running(t, Options{}, func(b *bench) {
		release := make(chan struct{})
		var order []int
		b.server.do = func(_ context.Context, c resonate.Command) (resonate.Result, error) {
			p := c.(resonate.SetPlayer)
			if p.PID == "dining" {
				return resonate.Result{}, nil
			}
			<-release
			order = append(order, *p.DelayMs)
			return resonate.Result{}, nil
		}
		for i := range laneSize + 3 {
			b.send("player/"+kitchenID+"/set/delay", fmt.Sprint(i))
		}
		b.send("player/dining/set/delay", "1")
		if got := b.broker.take("resonate/player/dining/result"); len(got) != 1 {
			t.Errorf("another speaker: got %v, want one result at once", got)
		}
		close(release)
		b.pass(time.Second)
		if len(order) != laneSize+1 || !slices.IsSorted(order) {
			t.Errorf("carried out %v, want the first %d in order", order, laneSize+1)
		}
	})
	running(t, Options{}, func(b *bench) {
		b.server.do = func(ctx context.Context, _ resonate.Command) (resonate.Result, error) {
			<-ctx.Done()
			return resonate.Result{}, ctx.Err()
		}
		for i := range laneSize + 3 {
			b.send("player/"+kitchenID+"/set/delay", fmt.Sprint(i))
		}
		b.pass(10 * time.Second)
		codes := make(map[resonate.Code]int)
		for _, r := range b.results(kitchenTopic + "/result") {
			codes[r.Error.Code]++
		}
		if codes[resonate.CodeBusy] != 2 || codes[resonate.CodeTimeout] != laneSize+1 {
			t.Errorf("got %v, want 2 busy, and %d timeouts within 10 s", codes, laneSize+1)
		}
	})
}

// Media that does not come holds up nothing else: not the volume, not its own end,
// not what is played instead. What comes at once waits for it, in order.
func TestSlowMediaHoldsNothingUp(t *testing.T) {
	running(t, Options{}, func(b *bench) {
		var mu sync.Mutex
		var did []string
		began := func() []string { mu.Lock(); defer mu.Unlock(); return slices.Clone(did) }
		b.server.do = func(ctx context.Context, c resonate.Command) (resonate.Result, error) {
			mu.Lock()
			did = append(did, fmt.Sprintf("%T", c))
			mu.Unlock()
			if _, ok := c.(resonate.PlayMedia); ok {
				<-ctx.Done()
				return resonate.Result{}, ctx.Err()
			}
			return resonate.Result{}, nil
		}
		b.send("player/"+kitchenID+"/set/play_url", "http://hangs/a")
		b.send("player/"+kitchenID+"/set/volume", "20")
		if want := []string{"resonate.PlayMedia"}; !slices.Equal(began(), want) {
			t.Errorf("at once: %v, want %v", began(), want)
		}
		b.pass(holdUp)
		b.send("player/"+kitchenID+"/set/stop", "x")
		if want := []string{"resonate.PlayMedia", "resonate.SetPlayer", "resonate.Transport"}; !slices.Equal(began(), want) {
			t.Errorf("after %v: %v, want %v", holdUp, began(), want)
		}
		b.pass(10 * time.Second)
		var codes []resonate.Code
		for _, r := range b.results(kitchenTopic + "/result") {
			if r.Error != nil {
				codes = append(codes, r.Error.Code)
			} else {
				codes = append(codes, "")
			}
		}
		if want := []resonate.Code{"", "", resonate.CodeTimeout}; !slices.Equal(codes, want) {
			t.Errorf("answers %q, want %q", codes, want)
		}
	})
}

// A command that had to wait for 10 s is not carried out any more, only answered
// (races: B18): who asked for it has long done something else.
func TestOldCommandIsNotCarriedOut(t *testing.T) {
	running(t, Options{}, func(b *bench) {
		var done []int
		b.server.do = func(ctx context.Context, c resonate.Command) (resonate.Result, error) {
			done = append(done, *c.(resonate.SetPlayer).DelayMs)
			<-ctx.Done()
			return resonate.Result{}, ctx.Err()
		}
		for i := range 3 {
			b.send("player/"+kitchenID+"/set/delay", fmt.Sprint(i))
		}
		b.pass(time.Minute)
		if !slices.Equal(done, []int{0}) {
			t.Errorf("carried out %v, want the first alone", done)
		}
		for _, r := range b.results(kitchenTopic + "/result") {
			if r.Error == nil || r.Error.Code != resonate.CodeTimeout {
				t.Errorf("got %+v, want timeout", r)
			}
		}
	})
}

func TestRetainedCommandIsIgnored(t *testing.T) {
	var logged strings.Builder
	running(t, Options{Log: slog.New(slog.NewTextHandler(&logged, nil))}, func(b *bench) {
		b.server.do = func(context.Context, resonate.Command) (resonate.Result, error) {
			t.Error("carried out")
			return resonate.Result{}, nil
		}
		for range 3 {
			b.broker.in <- mqtt.Message{Topic: kitchenTopic + "/set/volume", Payload: []byte("30"), Retained: true}
			b.broker.in <- mqtt.Message{Topic: kitchenTopic + "/set/volume", Retained: true}
		}
		b.pass(time.Second)
		got := b.broker.take("resonate/bridge/event", kitchenTopic+"/")
		var topics []string
		for _, s := range got {
			topics = append(topics, s.topic)
			if strings.HasSuffix(s.topic, "/result") && !strings.Contains(s.payload, `"code":"retained_ignored"`) {
				t.Errorf("got %s, want retained_ignored", s.payload)
			}
			if strings.HasSuffix(s.topic, "/event") && !strings.Contains(s.payload, "command_ignored") {
				t.Errorf("got %s, want command_ignored", s.payload)
			}
		}
		once := []string{"resonate/bridge/event", kitchenTopic + "/event", kitchenTopic + "/result", kitchenTopic + "/state"}
		if want := slices.Concat(once, once, once); !slices.Equal(topics, want) {
			t.Errorf("got %q, want %q", topics, want)
		}
	})
	if got := strings.Count(logged.String(), "ignored a retained command"); got != 1 {
		t.Errorf("logged %d times, want once:\n%s", got, &logged)
	}
	if want := "mosquitto_pub -r -n -t 'resonate/player/kitchen-3f9a1c07/set/volume'"; !strings.Contains(logged.String(), want) {
		t.Errorf("the log does not say %s:\n%s", want, &logged)
	}
}

func TestOversizeCommandIsAnswered(t *testing.T) {
	running(t, Options{}, func(b *bench) {
		b.broker.in <- mqtt.Message{Topic: kitchenTopic + "/set", Oversize: true}
		b.pass(time.Second)
		got := b.results(kitchenTopic + "/result")
		if len(got) != 1 || got[0].Error == nil || got[0].Error.Code != resonate.CodeInvalidValue || !strings.Contains(got[0].Error.Message, "262144") {
			t.Errorf("got %+v, want invalid_value with the limit", got)
		}
	})
}

func TestBirthOfHomeAssistant(t *testing.T) {
	for _, tc := range []struct {
		name string
		m    mqtt.Message
		want int
	}{
		{"online", mqtt.Message{Topic: "homeassistant/status", Payload: []byte("online")}, 1},
		{"offline", mqtt.Message{Topic: "homeassistant/status", Payload: []byte("offline")}, 0},
		{"retained", mqtt.Message{Topic: "homeassistant/status", Payload: []byte("online"), Retained: true}, 0},
		{"asked for", mqtt.Message{Topic: "resonate/bridge/request/homeassistant/republish", Payload: []byte("PRESS")}, 1},
	} {
		t.Run(tc.name, func(t *testing.T) {
			running(t, Options{}, func(b *bench) {
				b.broker.in <- tc.m
				b.pass(time.Second)
				if b.broker.births != tc.want {
					t.Errorf("got %d births, want %d", b.broker.births, tc.want)
				}
			})
		})
	}
}

func TestLocalRequests(t *testing.T) {
	restarted := 0
	level := "info"
	o := Options{
		LogLevel: func() string { return level },
		SetLogLevel: func(l string) error {
			if l == "error" {
				return errors.New("no")
			}
			level = l
			return nil
		},
		Restart: func() { restarted++ },
		Health:  func() map[string]any { return map[string]any{"mqtt_drops": 3} },
		Cleanup: func(ctx context.Context) ([]string, error) {
			select {
			case <-time.After(time.Second):
			case <-ctx.Done():
			}
			return []string{"a/b"}, ctx.Err()
		},
	}
	for _, tc := range []struct {
		name, action, payload string
		o                     Options
		want                  string
	}{
		{"health", "health_check", "x", o, `"status":"ok","data":{"commands_ignored":0,"commands_refused_busy":0,"healthy":true,"mqtt_drops":3}`},
		{"log level", "options", "debug", o, `"status":"ok","data":{"log_level":"debug"}`},
		{"log level refused", "options", "error", o, `"code":"invalid_value","message":"log_level: got \"error\": no"`},
		{"no log level", "options", "debug", Options{}, `"code":"not_supported"`},
		{"restart", "restart", "PRESS", o, `"status":"ok"`},
		{"no restart", "restart", "PRESS", Options{}, `"code":"not_supported"`},
		{"cleanup", "homeassistant/cleanup", `{"transaction": 7}`, o, `{"transaction":7,"command":"homeassistant/cleanup","status":"ok","data":{"cleared":["a/b"]}`},
		{"no cleanup", "homeassistant/cleanup", "PRESS", Options{}, `"code":"not_supported"`},
	} {
		t.Run(tc.name, func(t *testing.T) {
			running(t, tc.o, func(b *bench) {
				b.send("bridge/request/"+tc.action, tc.payload)
				b.pass(2 * time.Second)
				got := b.broker.take("resonate/bridge/response/"+tc.action, "resonate/bridge/info")
				if len(got) == 0 || !strings.Contains(got[len(got)-1].payload, tc.want) {
					t.Errorf("got %v, want %s", got, tc.want)
				}
				if tc.name == "log level" && (len(got) != 2 || !strings.Contains(got[0].payload, `"log_level":"debug"`)) {
					t.Errorf("got %v, want bridge/info with the new level first", got)
				}
			})
		})
	}
	if restarted != 1 {
		t.Errorf("restarted %d times, want once", restarted)
	}
}

func TestHealthIsPublished(t *testing.T) {
	running(t, Options{Health: func() map[string]any { return nil }}, func(b *bench) {
		b.pass(11 * time.Minute)
		if got := b.broker.take("resonate/bridge/health"); len(got) != 2 || got[0].retained {
			t.Errorf("got %v, want two in eleven minutes, not retained", got)
		}
	})
}

func TestEventsArePublished(t *testing.T) {
	running(t, Options{}, func(b *bench) {
		b.server.player(kitchenID, func(p *resonate.Player) { p.Connection, p.HeldBy = resonate.HeldByOtherServer, "Music Assistant" })
		b.pass(time.Second)
		got := make(map[string]string)
		for _, s := range b.broker.take("resonate/bridge/event", "resonate/bridge/ha_event", kitchenTopic+"/event") {
			got[s.topic] = s.payload
			if s.retained {
				t.Errorf("%s is retained; Home Assistant ignores that", s.topic)
			}
		}
		const shaped = `{"event_type":"taken_by_other_server","held_by":"Music Assistant","id":"kitchen-3f9a1c07","player":"Kitchen"}`
		for topic, want := range map[string]string{
			"resonate/bridge/event":    `{"data":{"held_by":"Music Assistant","id":"kitchen-3f9a1c07","name":"Kitchen"},"type":"taken_by_other_server"}`,
			"resonate/bridge/ha_event": shaped,
			kitchenTopic + "/event":    shaped,
		} {
			if got[topic] != want {
				t.Errorf("%s: got %s, want %s", topic, got[topic], want)
			}
		}
	})
}

// TestStopAnswersWhatWaits: Run ends only when its commands have, and nobody is
// left without an answer.
func TestStopAnswersWhatWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ended := false
		server := &fakeServer{changed: make(chan struct{}, 1), do: func(ctx context.Context, _ resonate.Command) (resonate.Result, error) {
			<-ctx.Done()
			time.Sleep(50 * time.Millisecond)
			ended = true
			return resonate.Result{}, ctx.Err()
		}}
		server.snap.Store(house())
		broker := &fakeBroker{start: time.Now(), in: make(chan mqtt.Message, 10)}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- Run(ctx, server, broker, Options{}) }()
		for range 3 {
			broker.in <- mqtt.Message{Topic: kitchenTopic + "/set/delay", Payload: []byte("5")}
		}
		synctest.Wait()
		cancel()
		if err := <-done; err != nil || !ended {
			t.Errorf("got %v, command ended %v; want nil after the command", err, ended)
		}
		if got := broker.take(kitchenTopic + "/result"); len(got) != 3 {
			t.Errorf("got %d results, want 3", len(got))
		}
	})
}

func TestClosedMessagesDontSpin(t *testing.T) {
	running(t, Options{}, func(b *bench) {
		close(b.broker.in)
		b.server.volume(kitchenID, 3)
		b.pass(time.Second)
		if got := b.broker.take(kitchenTopic + "/volume"); len(got) != 1 {
			t.Errorf("got %v, want the volume", got)
		}
	})
}

// nowhere is a broker that takes everything.
type nowhere struct{}

func (nowhere) Set(string, []byte, mqtt.Class)    {}
func (nowhere) Publish(string, []byte, byte) bool { return true }
func (nowhere) Messages() <-chan mqtt.Message     { return nil }
func (nowhere) Birth()                            {}

// BenchmarkRefresh is what one volume change costs among many players.
func BenchmarkRefresh(b *testing.B) {
	for _, n := range []int{10, 400} {
		b.Run(fmt.Sprintf("players=%d", n), func(b *testing.B) {
			s := &resonate.Snapshot{}
			for i := range n {
				p := full()
				p.PID, p.Name, p.GroupID = fmt.Sprintf("p%03d", i), fmt.Sprintf("Room %d", i), fmt.Sprintf("solo-%03d", i)
				s.Players = append(s.Players, p)
				s.Groups = append(s.Groups, &resonate.Group{ID: p.GroupID, Kind: resonate.SoloGroup, Members: []string{p.PID}, Playback: resonate.Idle})
			}
			server := &fakeServer{changed: make(chan struct{}, 1)}
			server.snap.Store(s)
			l := newLoop(server, nowhere{}, options())
			l.refresh()
			v := 0
			b.ReportAllocs()
			for b.Loop() {
				v = (v + 1) % 100
				server.volume("p005", v)
				l.refresh()
			}
		})
	}
}
