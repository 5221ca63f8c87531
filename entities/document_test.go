package entities

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"resonatebridge/entities/hadoc"
	"resonatebridge/mqtt"
	"resonatebridge/resonate"
)

// print is every topic and payload under one of the prefixes, JSON indented.
func print(t *testing.T, docs map[string][]byte, prefixes ...string) string {
	t.Helper()
	var b strings.Builder
	for _, topic := range sorted(docs) {
		if !slices.ContainsFunc(prefixes, func(p string) bool { return strings.HasPrefix(topic, p) }) {
			continue
		}
		payload := docs[topic]
		if payload[0] == '{' || payload[0] == '[' {
			var indented bytes.Buffer
			if err := json.Indent(&indented, payload, "", "  "); err != nil {
				t.Fatalf("%s: %v", topic, err)
			}
			payload = indented.Bytes()
		}
		fmt.Fprintf(&b, "%s\n%s\n\n", topic, payload)
	}
	return b.String()
}

func TestRender(t *testing.T) {
	docs := Render(options(), house())
	diagnostic := options()
	diagnostic.Entities = Diagnostic
	for _, tc := range []struct {
		name     string
		docs     map[string][]byte
		prefixes []string
	}{
		{"full speaker", docs, []string{"resonate/player/kitchen-3f9a1c07/", "homeassistant/device/resonate_kitchen-3f9a1c07/"}},
		{"minimal speaker", docs, []string{"resonate/player/dining/", "homeassistant/device/resonate_dining/"}},
		{"speaker that shows a code", Render(options(), with(asking())), []string{"resonate/player/porch/", "homeassistant/device/resonate_porch/"}},
		{"named group", docs, []string{"resonate/group/", "homeassistant/device/resonate_group_downstairs/"}},
		{"bridge", docs, []string{"resonate/bridge/", "homeassistant/device/resonate_bridge/"}},
		{"odd names", Render(options(), odd()), []string{"resonate/player/p", "resonate/group/", "homeassistant/device/resonate_p2/", "homeassistant/device/resonate_group_g-none/"}},
		{"diagnostic entities", Render(diagnostic, house()), []string{"homeassistant/"}},
		{"other base topic", Render(Options{BaseTopic: "home/audio", DiscoveryPrefix: "ha"}, house()), []string{"ha/device/resonate_home_audio_dining/"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			golden(t, print(t, tc.docs, tc.prefixes...))
		})
	}
}

func TestRenderIsDeterministic(t *testing.T) {
	want := Render(options(), odd())
	for range 5 {
		if got := Render(options(), odd()); !maps.EqualFunc(got, want, bytes.Equal) {
			t.Fatal("two renderings of one snapshot differ")
		}
	}
}

func TestRenderIsValid(t *testing.T) {
	diagnostic := options()
	diagnostic.Entities = Diagnostic
	large := &resonate.Snapshot{}
	for i := range 300 {
		p := full()
		p.PID, p.Name, p.GroupID = fmt.Sprintf("p%d", i), strings.Repeat("ü", 50), fmt.Sprintf("solo-%d", i)
		large.Players = append(large.Players, p)
	}
	for _, tc := range []struct {
		name string
		o    Options
		s    *resonate.Snapshot
	}{
		{"house", options(), house()},
		{"house, no options", Options{}, house()},
		{"diagnostic", diagnostic, house()},
		{"odd names", options(), odd()},
		{"speaker that shows a code", options(), with(asking())},
		{"empty", Options{}, &resonate.Snapshot{}},
		{"other base", Options{BaseTopic: "a/B c", DiscoveryPrefix: "ha/x"}, house()},
		{"300 speakers of one name", Options{}, large},
	} {
		t.Run(tc.name, func(t *testing.T) {
			o := tc.o.withDefaults()
			docs := Render(tc.o, tc.s)
			configs := make(map[string][]byte)
			for topic, payload := range docs {
				if strings.HasPrefix(topic, o.DiscoveryPrefix+"/") {
					configs[topic] = payload
				} else if !strings.HasPrefix(topic, o.BaseTopic+"/") || strings.ContainsAny(topic, "+#\x00") {
					t.Errorf("topic %q is outside %s", topic, o.BaseTopic)
				}
				if len(payload) == 0 || !utf8.Valid(payload) && !strings.HasSuffix(topic, "/art") {
					t.Errorf("%s: payload %q is empty or not UTF-8", topic, payload)
				}
			}
			if want := 1 + len(tc.s.Players); len(configs) < want {
				t.Errorf("got %d documents, want at least %d", len(configs), want)
			}
			for _, err := range hadoc.Check(o.DiscoveryPrefix, o.BaseTopic, configs) {
				t.Error(err)
			}
		})
	}
}

// TestStatesAreWhatEntitiesAccept checks what Home Assistant would log as an
// error: a state outside its options or range, or too long.
func TestStatesAreWhatEntitiesAccept(t *testing.T) {
	for name, s := range map[string]*resonate.Snapshot{"house": house(), "odd": odd(), "asking": with(asking())} {
		docs := Render(options(), s)
		for _, p := range s.Players {
			var doc struct {
				Components map[string]struct {
					Options  []string `json:"options"`
					Min, Max int
				} `json:"components"`
			}
			var state playerState
			for topic, into := range map[string]any{
				"homeassistant/device/resonate_" + p.PID + "/config": &doc, "resonate/player/" + p.PID + "/state": &state,
			} {
				if err := json.Unmarshal(docs[topic], into); err != nil {
					t.Fatalf("%s: %s: %v", name, topic, err)
				}
			}
			for key, value := range map[string]string{
				"trust": string(p.Trust), "group": state.Group.Option, "custody": state.Custody, "connection": state.Connection, "playback": state.Playback,
			} {
				if value != "" && !slices.Contains(doc.Components[key].Options, value) {
					t.Errorf("%s: %s: %s %q is not in %q", name, p.PID, key, value, doc.Components[key].Options)
				}
			}
			if delay := doc.Components["delay"]; state.DelayMs != nil && *state.DelayMs > delay.Max {
				t.Errorf("%s: %s: delay %d is above max %d", name, p.PID, *state.DelayMs, delay.Max)
			}
			for _, label := range doc.Components["group"].Options {
				if n := utf8.RuneCountInString(label); n > maxLabel {
					t.Errorf("%s: %s: option %q has %d characters, want at most %d", name, p.PID, label, n, maxLabel)
				}
			}
		}
	}
}

func TestLabels(t *testing.T) {
	player := func(pid, name string) *resonate.Player { return &resonate.Player{PID: pid, Name: name} }
	l := relabel(&labels{}, &resonate.Snapshot{Players: []*resonate.Player{player("b", "Kitchen"), player("c", "Hall")}})
	if got, want := l.options("c"), []string{"Solo", "Hosting", "With Kitchen"}; !slices.Equal(got, want) {
		t.Errorf("options of c: got %q, want %q", got, want)
	}
	same := relabel(l, &resonate.Snapshot{Players: []*resonate.Player{player("b", "Kitchen"), player("c", "Hall")}})
	if same != l {
		t.Error("equal names made new labels")
	}
	older := relabel(l, &resonate.Snapshot{
		Players: []*resonate.Player{player("a", "Kitchen"), player("b", "Kitchen"), player("c", "Hall")},
		Groups:  []*resonate.Group{{ID: "g", Name: "With Hall", Kind: resonate.NamedGroup}, {ID: "s", Name: "Hall", Kind: resonate.SoloGroup}},
	})
	for key, want := range map[string]string{
		"player/a": "With Kitchen (2)", "player/b": "With Kitchen", "group/g": "With Hall", "player/c": "With Hall (2)", "group/s": "",
	} {
		if got := older.labels[key]; got != want {
			t.Errorf("%s: got %q, want %q", key, got, want)
		}
	}
}

// Two speakers of one name must not change places when the bridge starts again:
// an automation that says "With Kitchen" would move another one.
func TestLabelsKeepTheirAgeOverRestarts(t *testing.T) {
	at := func(minute int) time.Time { return time.Date(2026, 11, 1, 12, minute, 0, 0, time.UTC) }
	s := &resonate.Snapshot{
		Players: []*resonate.Player{{PID: "a", Name: "Kitchen", FirstSeen: at(2)}, {PID: "b", Name: "Kitchen", FirstSeen: at(1)}},
		Groups: []*resonate.Group{
			{ID: "g", Name: "Up", Kind: resonate.NamedGroup, Created: at(4)}, {ID: "h", Name: "Up", Kind: resonate.NamedGroup, Created: at(3)},
		},
	}
	l := relabel(&labels{}, s)
	for key, want := range map[string]string{
		"player/a": "With Kitchen (2)", "player/b": "With Kitchen", "group/g": "Up (2)", "group/h": "Up",
	} {
		if got := l.labels[key]; got != want {
			t.Errorf("%s: got %q, want %q", key, got, want)
		}
	}
}

func TestCut(t *testing.T) {
	for _, tc := range []struct {
		in   string
		n    int
		want string
	}{
		{"short", 5, "short"}, {"longer", 5, "long…"}, {"üüü", 3, "üüü"}, {"üüüü", 3, "üü…"}, {"", 3, ""}, {"🎵🎵", 1, "…"},
	} {
		if got := cut(tc.in, tc.n); got != tc.want {
			t.Errorf("cut(%q, %d): got %q, want %q", tc.in, tc.n, got, tc.want)
		}
	}
}

func TestIDPrefix(t *testing.T) {
	seen := make(map[string]string)
	for _, tc := range []struct{ base, want string }{
		{"resonate", "resonate_"},
		{"home", "resonate_home_"},
		{"home/audio", "resonate_home_audio_"},
		{"home_audio", "resonate_home_audio_"},
		{"Home", ""},
		{"häuser", ""},
		{"bridge", ""},
		{"group", ""},
		{"a/b_c", ""},
		{"a b", ""},
	} {
		got := Options{BaseTopic: tc.base}.idPrefix()
		if tc.want != "" && got != tc.want {
			t.Errorf("%q: got %q, want %q", tc.base, got, tc.want)
		}
		if strings.Trim(got, "abcdefghijklmnopqrstuvwxyz0123456789_-") != "" {
			t.Errorf("%q: %q can't be part of a discovery topic", tc.base, got)
		}
		if tc.want == "" && !strings.Contains(got, "-") {
			t.Errorf("%q: got %q, want the hash of a base topic that did not survive", tc.base, got)
		}
		seen[got] = tc.base
	}
}

func TestValidate(t *testing.T) {
	for _, tc := range []struct {
		name string
		o    Options
		want string // in the error; empty: none
	}{
		{"defaults", Options{}, ""},
		{"several levels", Options{BaseTopic: "home/audio"}, ""},
		{"wildcard", Options{BaseTopic: "a/#"}, `base topic "a/#"`},
		{"empty level", Options{BaseTopic: "a//b"}, "empty"},
		{"system topic", Options{BaseTopic: "$SYS"}, `"$SYS"`},
		{"base below the prefix", Options{BaseTopic: "homeassistant/x"}, "contain each other"},
		{"base is the prefix", Options{BaseTopic: "homeassistant"}, "contain each other"},
		{"prefix below the base", Options{DiscoveryPrefix: "resonate/ha"}, "contain each other"},
		{"unknown choice", Options{Entities: "some"}, `"some"`},
	} {
		t.Run(tc.name, func(t *testing.T) {
			err := tc.o.Validate()
			if tc.want == "" && err != nil || tc.want != "" && (err == nil || !strings.Contains(err.Error(), tc.want)) {
				t.Errorf("got %v, want %q", err, tc.want)
			}
		})
	}
}

func TestConfigThatCannotBeShown(t *testing.T) {
	docs := Render(Options{Config: map[string]any{"f": errors.New, "version": 1}, Version: "1"}, house())
	var info bridgeInfo
	if err := json.Unmarshal(docs["resonate/bridge/info"], &info); err != nil {
		t.Fatal(err)
	}
	if got, _ := info.Config.(string); !strings.Contains(got, "can't be shown") || info.Version != "1" {
		t.Errorf("got config %q, version %q, want a sentence, and the rest", got, info.Version)
	}
}

func TestGhosts(t *testing.T) {
	o := Options{}
	wanted := Render(o, house())
	found := []mqtt.Message{
		{Topic: "resonate/player/old/state", Payload: []byte("{}")},
		{Topic: "resonate/player/old/set", Payload: []byte(`{"volume": 5}`)},
		{Topic: "resonate/player/old/mine", Payload: []byte("x")},
		{Topic: "resonate/player/dining/volume", Payload: []byte("None")},
		{Topic: "resonate/group/old/members", Payload: []byte("{}")},
		{Topic: "resonate/group/old/connection", Payload: []byte("no leaf of groups")},
		{Topic: "other/player/old/state", Payload: []byte("{}")},
		{Topic: "homeassistant/device/resonate_old/config", Payload: []byte(`{"origin": {"name": "resonate"}, "state_topic": "resonate/player/old/state"}`)},
		{Topic: "homeassistant/device/resonate_x_old/config", Payload: []byte(`{"origin": {"name": "resonate"}, "state_topic": "x/player/old/state"}`)},
		{Topic: "homeassistant/device/resonate_y_old/config", Payload: []byte(`{"origin": {"name": "resonate"}, "state_topic": "resonate/y/player/old/state"}`)},
		{Topic: "homeassistant/device/resonate_z/config", Payload: []byte(`{"origin": {"name": "other"}, "state_topic": "resonate/player/z/state"}`)},
		{Topic: "homeassistant/device/resonate_bad/config", Payload: []byte(`{`)},
		{Topic: "homeassistant/device/zigbee/config", Payload: []byte(`{"origin": {"name": "resonate"}, "state_topic": "resonate/player/z/state"}`)},
		{Topic: "resonate/player/old/volume"},
	}
	got := Ghosts(o, found, wanted)
	want := []string{"homeassistant/device/resonate_old/config", "resonate/group/old/members", "resonate/player/old/state"}
	if !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

// TestLeaves checks that the cleanup knows every topic that is published.
func TestLeaves(t *testing.T) {
	for topic := range Render(Options{}, house()) {
		if strings.HasPrefix(topic, "resonate/player/") || strings.HasPrefix(topic, "resonate/group/") {
			if !(Options{}).withDefaults().isOurState(topic) {
				t.Errorf("%s would never be cleared", topic)
			}
		}
	}
}

func BenchmarkRenderPlayer(b *testing.B) {
	o := options().withDefaults()
	s := house()
	l := relabel(&labels{}, s)
	p := full()
	g := s.GoverningGroup(p)
	dst := make([]retained, 0, 12)
	b.ReportAllocs()
	for b.Loop() {
		dst = o.player(dst[:0], p, g, l)
	}
}

func BenchmarkRenderDocument(b *testing.B) {
	o := options().withDefaults()
	l := relabel(&labels{}, house())
	d := options().playerDevice(full(), l)
	b.ReportAllocs()
	for b.Loop() {
		o.document(&d, l, nil)
	}
}
