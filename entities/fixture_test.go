package entities

import (
	"flag"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"resonatebridge/resonate"
	"resonatebridge/resonate/protocol"

	"go.uber.org/goleak"
)

var update = flag.Bool("update", false, "rewrite golden files and TOPICS.md")

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m)
}

func ptr[T any](v T) *T { return &v }

// full is a player that can do everything.
func full() *resonate.Player {
	return &resonate.Player{
		PID: "kitchen-3f9a1c07", ClientID: "AA:BB:CC:00:11:22", Name: "Kitchen", Roles: []string{"player@v1"},
		Manufacturer: "Example Audio", Model: "Room One", SoftwareVersion: "1.4.2", MAC: "aa:bb:cc:00:11:22",
		Connection: resonate.Connected, Available: true, Custody: resonate.CustodyAuto,
		URL: "ws://192.168.1.40:8928/sendspin", Dialect: "S3", LastSeen: time.Date(2026, 11, 2, 18, 40, 11, 250e6, time.UTC), Reconnects: 2,
		HasVolume: true, HasMute: true, HasDelay: true, Volume: ptr(35), Mute: ptr(false), DelayMs: ptr(0),
		MaxVolume: 80, AnnounceVolume: ptr(40), SyncState: "synchronized", GroupID: "downstairs",
		Encrypted: true, Trust: resonate.TrustPaired, PairMethods: []protocol.PairMethod{protocol.PairByPSK, protocol.PairByStaticCode},
	}
}

// bare is a player that never said more than it had to.
func bare() *resonate.Player {
	return &resonate.Player{
		PID: "dining", Name: "Dining", Connection: resonate.Searching, Custody: resonate.CustodyHold,
		MaxVolume: 100, GroupID: "solo-dining",
	}
}

// asking is a player that shows a code for the second time.
func asking() *resonate.Player {
	p := full()
	p.PID, p.ClientID, p.Name, p.GroupID, p.Stream = "porch", "porch", "Porch", "solo-porch", nil
	p.Connection, p.Trust = resonate.PairingRequired, resonate.TrustUnapproved
	p.PairMethods = []protocol.PairMethod{protocol.PairByPSK, protocol.PairByDynamicCode}
	p.Pairing = &resonate.Pairing{
		Method: protocol.PairByDynamicCode, Format: protocol.CodeDigits, Step: resonate.PairCode, Round: 2, Digits: 6, Message: "look at my display",
	}
	return p
}

// with is house() and one more player.
func with(p *resonate.Player) *resonate.Snapshot {
	s := house()
	s.Players = append(s.Players, p)
	s.Groups = append(s.Groups, &resonate.Group{ID: p.GroupID, Name: p.Name, Kind: resonate.SoloGroup, Members: []string{p.PID}, Playback: resonate.Idle, Volume: 100})
	return s
}

// song is what somebody plays.
func song() *resonate.Media {
	return &resonate.Media{
		Title: "Blue in Green", Artist: "Miles Davis", Album: "Kind of Blue", Year: 1959, Track: 3, Duration: 337600 * time.Millisecond,
		URL: "http://nas/3.flac", Art: []byte("\xff\xd8jpeg"), ArtHash: "9c0f1b7e", Index: 2, Count: 5,
		Position: 12400 * time.Millisecond, At: time.Date(2026, 11, 2, 18, 40, 11, 250e6, time.UTC), Speed: 1, Seekable: true,
	}
}

// house is a snapshot with one of each.
func house() *resonate.Snapshot {
	return &resonate.Snapshot{
		Version: 7,
		Server:  resonate.Identity{ID: "bridge-1", Name: "Resonate Bridge"},
		Players: []*resonate.Player{bare(), full()},
		Groups: []*resonate.Group{
			{
				ID: "downstairs", Name: "Downstairs", Kind: resonate.NamedGroup, Members: []string{"kitchen-3f9a1c07"},
				Remembered: []string{"dining", "kitchen-3f9a1c07"}, Playback: resonate.Playing, Media: song(), Repeat: protocol.RepeatOff, Volume: 35, HasVolume: true, HasMute: true, Online: 1,
			},
			{ID: "solo-dining", Name: "Dining", Kind: resonate.SoloGroup, Members: []string{"dining"}, Playback: resonate.Paused, Media: song(), Repeat: protocol.RepeatOff, Volume: 100},
		},
		Unmet:        []resonate.UnmetEndpoint{{Key: "Hall._sendspin", Name: "Hall", URL: "ws://192.168.1.50:8928/", Connection: resonate.Offline, Error: "connection refused"}},
		Problems:     []string{"Port 8927 is taken; 8928 is used"},
		OtherServers: []resonate.OtherServer{{Name: "Music Assistant", URL: "ws://192.168.1.2:8927/sendspin"}},
	}
}

// odd has names that break naive code.
func odd() *resonate.Snapshot {
	s := &resonate.Snapshot{Server: resonate.Identity{ID: "b", Name: "Bad \"names\" & <tags>"}}
	for i, name := range []string{
		"Küche 🎵", strings.Repeat("long ", 60), `say "hi" {{ x }}`, "None", "", "two\nlines\tand\x00NUL", "bad \xff utf-8", "None", "Solo",
	} {
		pid := "p" + string(rune('1'+i))
		s.Players = append(s.Players, &resonate.Player{
			PID: pid, Name: name, Model: name, Connection: resonate.Connected, Available: true, Custody: resonate.CustodyBorrow,
			HasVolume: true, HasDelay: true, DelayMs: ptr(7000), MaxVolume: 100, GroupID: "g-none", LastError: strings.Repeat("ü", 300),
		})
	}
	s.Groups = []*resonate.Group{
		{ID: "adhoc-1", Name: "x", Kind: resonate.AdHocGroup, Members: []string{"p1", "p2"}, Playback: resonate.Playing},
		{ID: "g-none", Name: "none", Kind: resonate.NamedGroup, Members: []string{"p3", "p4", "p5", "p6", "p7", "p8", "p9"}, Playback: resonate.Stopped},
		{ID: "g-solo", Name: "Solo", Kind: resonate.NamedGroup},
		{ID: "g-with", Name: "With None", Kind: resonate.NamedGroup},
	}
	s.Players[0].GroupID, s.Players[1].GroupID = "adhoc-1", "adhoc-1"
	return s
}

func options() Options {
	return Options{
		Version: "0.1.0", Commit: "abc1234", Protocols: []string{"R1", "S4"}, Started: time.Date(2026, 11, 2, 8, 0, 0, 0, time.UTC),
		ConfigurationURL: "http://192.168.1.2:8780", Config: map[string]any{"mqtt": map[string]any{"password": "***"}},
		Speech: true, LogLevel: func() string { return "info" }, SetLogLevel: func(string) error { return nil }, Restart: func() {},
	}
}

// golden compares got with testdata/<test>.golden.
func golden(t *testing.T, got string) {
	t.Helper()
	path := filepath.Join("testdata", filepath.FromSlash(t.Name())+".golden")
	if *update {
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	gotLines, wantLines := strings.Split(got, "\n"), strings.Split(string(want), "\n")
	for i := range max(len(gotLines), len(wantLines)) {
		var g, w string
		if i < len(gotLines) {
			g = gotLines[i]
		}
		if i < len(wantLines) {
			w = wantLines[i]
		}
		if g != w {
			t.Fatalf("differs from line %d of %s (-update rewrites it):\n got %s\nwant %s", i+1, path, g, w)
		}
	}
}

// sorted are the keys of m in order.
func sorted[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }
