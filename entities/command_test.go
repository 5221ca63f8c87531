package entities

import (
	"encoding/json"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"resonatebridge/resonate"
	"resonatebridge/resonate/protocol"
)

func decoderOf(s *resonate.Snapshot) decoder {
	return decoder{newVocabulary(), Options{}.withDefaults(), s, relabel(&labels{}, s)}
}

// crowd is house() with names that several have.
func crowd() *resonate.Snapshot {
	s := house()
	s.Players = append(s.Players,
		&resonate.Player{PID: "twin-1", Name: "Twin", MaxVolume: 100, GroupID: "g1"},
		&resonate.Player{PID: "twin-2", Name: "Twin", MaxVolume: 100, GroupID: "g2"},
		&resonate.Player{PID: "downstairs-speaker", Name: "downstairs", MaxVolume: 100, GroupID: "g3"},
	)
	return s
}

func TestDecode(t *testing.T) {
	const kitchen = "kitchen-3f9a1c07"
	set := func(c resonate.SetPlayer) resonate.SetPlayer { c.PID = kitchen; return c }
	group := func(c resonate.SetGroup) resonate.SetGroup { c.ID = "downstairs"; return c }
	for _, tc := range []struct {
		topic, payload string
		want           resonate.Command
	}{
		{"player/" + kitchen + "/set/volume", "50", set(resonate.SetPlayer{Volume: &resonate.VolumeChange{Value: 50}})},
		{"player/" + kitchen + "/set/volume", " 30.0\n", set(resonate.SetPlayer{Volume: &resonate.VolumeChange{Value: 30}})},
		{"player/" + kitchen + "/set/volume", "+5", set(resonate.SetPlayer{Volume: &resonate.VolumeChange{Value: 5, Relative: true}})},
		{"player/" + kitchen + "/set/volume", "-1", set(resonate.SetPlayer{Volume: &resonate.VolumeChange{Value: -1, Relative: true}})},
		{"player/" + kitchen + "/set", `{"volume": "-5"}`, set(resonate.SetPlayer{Volume: &resonate.VolumeChange{Value: -5, Relative: true}})},
		{"player/" + kitchen + "/set", `{"volume": 25, "mute": false, "transaction": "nr-17"}`, set(resonate.SetPlayer{Volume: &resonate.VolumeChange{Value: 25}, Mute: &resonate.MuteChange{}})},
		{"player/" + kitchen + "/set/mute", "ON", set(resonate.SetPlayer{Mute: &resonate.MuteChange{On: true}})},
		{"player/" + kitchen + "/set/mute", "0", set(resonate.SetPlayer{Mute: &resonate.MuteChange{}})},
		{"player/" + kitchen + "/set/mute", "toggle", set(resonate.SetPlayer{Mute: &resonate.MuteChange{Toggle: true}})},
		{"player/" + kitchen + "/set", `{"mute": "TOGGLE"}`, set(resonate.SetPlayer{Mute: &resonate.MuteChange{Toggle: true}})},
		{"player/" + kitchen + "/set/group", "Solo", set(resonate.SetPlayer{Group: &resonate.GroupTarget{Solo: true}})},
		{"player/" + kitchen + "/set/group", "Downstairs", set(resonate.SetPlayer{Group: &resonate.GroupTarget{GroupID: "downstairs"}})},
		{"player/" + kitchen + "/set/group", "downstairs", set(resonate.SetPlayer{Group: &resonate.GroupTarget{GroupID: "downstairs"}})},
		{"player/" + kitchen + "/set/group", "solo-dining", set(resonate.SetPlayer{Group: &resonate.GroupTarget{GroupID: "solo-dining"}})},
		{"player/" + kitchen + "/set/group", "With Dining", set(resonate.SetPlayer{Group: &resonate.GroupTarget{With: "dining"}})},
		{"player/" + kitchen + "/set/group", "With Twin (2)", set(resonate.SetPlayer{Group: &resonate.GroupTarget{With: "twin-2"}})},
		{"player/" + kitchen + "/set/join", "Dining", set(resonate.SetPlayer{Group: &resonate.GroupTarget{With: "dining"}})},
		{"player/" + kitchen + "/set/join", "DOWNSTAIRS-SPEAKER", nil},
		{"player/" + kitchen + "/set/join", "downstairs", set(resonate.SetPlayer{Group: &resonate.GroupTarget{GroupID: "downstairs"}})},
		{"player/" + kitchen + "/set/unjoin", "PRESS", set(resonate.SetPlayer{Group: &resonate.GroupTarget{Solo: true}})},
		{"player/" + kitchen + "/set/delay", "120", set(resonate.SetPlayer{DelayMs: ptr(120)})},
		{"player/" + kitchen + "/set/max_volume", "1", set(resonate.SetPlayer{MaxVolume: ptr(1)})},
		{"player/" + kitchen + "/set/announce_volume", "0", set(resonate.SetPlayer{AnnounceVolume: ptr(0)})},
		{"player/" + kitchen + "/set/custody", "Hold", set(resonate.SetPlayer{Custody: ptr(resonate.CustodyHold)})},
		{"player/" + kitchen + "/set/reconnect", "PRESS", set(resonate.SetPlayer{Reconnect: true})},
		{"player/" + kitchen + "/set", `{"reconnect": true}`, set(resonate.SetPlayer{Reconnect: true})},
		{"group/downstairs/set/volume", "+10", group(resonate.SetGroup{Volume: &resonate.VolumeChange{Value: 10, Relative: true}})},
		{"group/downstairs/set", `{"members": ["Dining", "AA:BB:CC:00:11:22", "dining"]}`, group(resonate.SetGroup{Members: &[]string{"dining", kitchen}})},
		{"group/downstairs/set", `{"members": []}`, group(resonate.SetGroup{Members: &[]string{}})},
		{"group/downstairs/set/add", "dining, kitchen", group(resonate.SetGroup{Add: []string{"dining", kitchen}})},
		{"group/downstairs/set", `{"remove": "dining"}`, group(resonate.SetGroup{Remove: []string{"dining"}})},
		{"group/downstairs/set/gather", "PRESS", group(resonate.SetGroup{Gather: true})},
		{"group/downstairs/set/release", "PRESS", group(resonate.SetGroup{Release: true})},
		{"bridge/request/device/rename", `{"id": "Kitchen", "name": "  Big \n kitchen "}`, set(resonate.SetPlayer{Name: ptr("Big kitchen")})},
		{"bridge/request/device/rename", `{"id": "kitchen", "name": ""}`, set(resonate.SetPlayer{Name: ptr("")})},
		{"bridge/request/device/remove", kitchen, resonate.RemovePlayer{PID: kitchen}},
		{"bridge/request/device/remove", `{"id": "AA:BB:CC:00:11:22"}`, resonate.RemovePlayer{PID: kitchen}},
		{"bridge/request/device/options", `{"id": "kitchen", "options": {"max_volume": 60, "custody": "observe"}}`, set(resonate.SetPlayer{MaxVolume: ptr(60), Custody: ptr(resonate.CustodyObserve)})},
		{"bridge/request/device/add", "ws://10.0.20.7:8928/sendspin", resonate.AddEndpoint{URL: "ws://10.0.20.7:8928/sendspin"}},
		{"bridge/request/group/add", `{"name": "Upstairs", "members": ["dining"], "transaction": "t1"}`, resonate.AddGroup{Name: "Upstairs", Members: []string{"dining"}}},
		{"bridge/request/group/add", "Upstairs", resonate.AddGroup{Name: "Upstairs"}},
		{"bridge/request/group/remove", "Downstairs", resonate.RemoveGroup{ID: "downstairs"}},
		{"bridge/request/group/rename", `{"id": "downstairs", "name": "Below"}`, group(resonate.SetGroup{Name: ptr("Below")})},
		{"bridge/request/group/members/add", `{"id": "downstairs", "members": ["dining"]}`, group(resonate.SetGroup{Add: []string{"dining"}})},
		{"bridge/request/group/members/remove", `{"id": "downstairs", "members": "dining"}`, group(resonate.SetGroup{Remove: []string{"dining"}})},
		{"bridge/request/group/members/set", `{"id": "downstairs", "members": []}`, group(resonate.SetGroup{Members: &[]string{}})},
		{"bridge/request/scan", "PRESS", resonate.Scan{}},
		{"player/" + kitchen + "/set/play", "PRESS", resonate.Transport{Target: resonate.Target{PID: kitchen}, Action: resonate.ActionPlay}},
		{"group/downstairs/set/stop", "x", resonate.Transport{Target: resonate.Target{GroupID: "downstairs"}, Action: resonate.ActionStop}},
		{"player/" + kitchen + "/set/play_url", " http://nas/a.mp3 ", resonate.PlayMedia{Target: resonate.Target{PID: kitchen}, Items: []resonate.MediaItem{{URL: "http://nas/a.mp3"}}}},
		{"player/" + kitchen + "/set/play_url", `["http://nas/a", {"url": "http://nas/b", "title": "B"}]`, resonate.PlayMedia{
			Target: resonate.Target{PID: kitchen}, Items: []resonate.MediaItem{{URL: "http://nas/a"}, {URL: "http://nas/b", Title: "B"}},
		}},
		{"player/" + kitchen + "/set", `{"play_url": {"url": "http://nas/a", "enqueue": "next", "artwork_url": "http://nas/a.jpg"}}`, resonate.PlayMedia{
			Target: resonate.Target{PID: kitchen}, Enqueue: resonate.EnqueueNext, Items: []resonate.MediaItem{{URL: "http://nas/a", ArtworkURL: "http://nas/a.jpg"}},
		}},
		{"player/" + kitchen + "/set/queue", "http://nas/a", resonate.PlayMedia{Target: resonate.Target{PID: kitchen}, Enqueue: resonate.EnqueueLast, Items: []resonate.MediaItem{{URL: "http://nas/a"}}}},
		{"player/" + kitchen + "/set/seek", "12.5", resonate.Transport{Target: resonate.Target{PID: kitchen}, Action: resonate.ActionSeek, Position: 12500 * time.Millisecond}},
		{"player/" + kitchen + "/set/seek", "-30", resonate.Transport{Target: resonate.Target{PID: kitchen}, Action: resonate.ActionSeekBy, Position: -30 * time.Second}},
		{"player/" + kitchen + "/set", `{"seek_relative": 10}`, resonate.Transport{Target: resonate.Target{PID: kitchen}, Action: resonate.ActionSeekBy, Position: 10 * time.Second}},
		{"player/" + kitchen + "/set/repeat", "ALL", resonate.Transport{Target: resonate.Target{PID: kitchen}, Action: resonate.ActionRepeat, Repeat: protocol.RepeatAll}},
		{"player/" + kitchen + "/set", `{"shuffle": true}`, resonate.Transport{Target: resonate.Target{PID: kitchen}, Action: resonate.ActionShuffle, Shuffle: true}},
		{"player/" + kitchen + "/set/announce", "http://nas/bell.mp3", resonate.Announce{Targets: []resonate.Target{{PID: kitchen}}, URL: "http://nas/bell.mp3"}},
		{"player/" + kitchen + "/set", `{"announce": {"url": "http://nas/bell.mp3", "volume": 40, "chime": false, "priority": 3, "timeout": 5}, "transaction": 4}`, resonate.Announce{
			Targets: []resonate.Target{{PID: kitchen}}, URL: "http://nas/bell.mp3", Volume: ptr(40), Chime: ptr(false), Priority: 3, Timeout: 5 * time.Second,
		}},
		{"group/downstairs/set/say", "Dinner is ready", resonate.Announce{Targets: []resonate.Target{{GroupID: "downstairs"}}, Text: "Dinner is ready"}},
		{"player/" + kitchen + "/set/identify", "PRESS", resonate.Identify(kitchen)},
		{"bridge/request/stop_all", "PRESS", resonate.StopAll{}},
		{"bridge/request/announce", `{"targets": ["Dining", "downstairs"], "url": "http://nas/bell.mp3"}`, resonate.Announce{
			Targets: []resonate.Target{{PID: "dining"}, {GroupID: "downstairs"}}, URL: "http://nas/bell.mp3",
		}},
		{"bridge/request/scan", `{"transaction": 4}`, resonate.Scan{}},
		{"player/" + kitchen + "/set/pair", "PRESS", resonate.Pair{PID: kitchen}},
		{"player/" + kitchen + "/set", `{"pair": true}`, resonate.Pair{PID: kitchen}},
		{"player/" + kitchen + "/set/pair", " 123-456\n", resonate.Pair{PID: kitchen, Secret: "123-456"}},
		{"player/" + kitchen + "/set", `{"pair": "012345"}`, resonate.Pair{PID: kitchen, Secret: "012345"}},
		{"player/" + kitchen + "/set/cancel_pairing", "PRESS", resonate.CancelPairing{PID: kitchen}},
		{"player/" + kitchen + "/set/approve", "PRESS", resonate.Approve{PID: kitchen, On: true}},
		{"player/" + kitchen + "/set/approve", "off", resonate.Approve{PID: kitchen}},
		{"player/" + kitchen + "/set", `{"approve": false}`, resonate.Approve{PID: kitchen}},
		{"player/" + kitchen + "/set/forget", "PRESS", resonate.RemovePlayer{PID: kitchen}},
		{"bridge/request/device/pair", "Kitchen", resonate.Pair{PID: kitchen}},
		{"bridge/request/device/pair", `{"id": "kitchen", "code": "SP:0ABC", "method": "pairing_psk"}`, resonate.Pair{PID: kitchen, Method: protocol.PairByPSK, Secret: "SP:0ABC"}},
		{"bridge/request/device/cancel_pairing", "Kitchen", resonate.CancelPairing{PID: kitchen}},
		{"bridge/request/device/approve", "Kitchen", resonate.Approve{PID: kitchen, On: true}},
		{"bridge/request/device/approve", `{"id": "kitchen", "on": false}`, resonate.Approve{PID: kitchen}},
	} {
		t.Run(tc.topic+" "+tc.payload, func(t *testing.T) {
			c, err := decoderOf(crowd()).decode("resonate/"+tc.topic, []byte(tc.payload))
			if tc.want == nil {
				if err == nil {
					t.Fatalf("got %#v, want an error", c.command)
				}
				return
			}
			if err != nil {
				t.Fatalf("got %s: %s", err.Code, err.Message)
			}
			if c.answer == "" || !reflect.DeepEqual(c.command, tc.want) {
				t.Errorf("got %#v, want %#v", c.command, tc.want)
			}
		})
	}
}

func TestDecodeRefuses(t *testing.T) {
	const player = "player/kitchen-3f9a1c07/set"
	huge := strings.Repeat("x", 1<<20)
	for _, tc := range []struct {
		name, topic, payload string
		code                 resonate.Code
		names                string // what the sentence has to name
	}{
		{"volume 101", player, `{"volume": 101}`, resonate.CodeInvalidValue, "volume: got 101, want a whole number from 0 to 100"},
		{"volume -1", player, `{"volume": -1}`, resonate.CodeInvalidValue, "got -1"},
		{"volume 1e9", player, `{"volume": 1e9}`, resonate.CodeInvalidValue, "got 1e9"},
		{"volume 12.5", player, `{"volume": 12.5}`, resonate.CodeInvalidValue, "got 12.5"},
		{"volume as text", player, `{"volume": "50"}`, resonate.CodeInvalidValue, `got the text "50", want a whole number from 0 to 100 without quotes`},
		{"volume null", player, `{"volume": null}`, resonate.CodeInvalidValue, "got null"},
		{"volume true", player, `{"volume": true}`, resonate.CodeInvalidValue, "got true"},
		{"volume list", player, `{"volume": [1]}`, resonate.CodeInvalidValue, "got [1]"},
		{"volume object", player, `{"volume": {}}`, resonate.CodeInvalidValue, "got {}"},
		{"volume step too large", player, `{"volume": "+101"}`, resonate.CodeInvalidValue, `the text "+101"`},
		{"volume 1e999", player, `{"volume": 1e999}`, resonate.CodeInvalidValue, "got 1e999"},
		{"scalar volume 101", player + "/volume", "101", resonate.CodeInvalidValue, `got "101"`},
		{"scalar volume -101", player + "/volume", "-101", resonate.CodeInvalidValue, `got "-101"`},
		{"scalar volume 1e9", player + "/volume", "1e9", resonate.CodeInvalidValue, `got "1e9"`},
		{"scalar volume 12.5", player + "/volume", "12.5", resonate.CodeInvalidValue, `got "12.5"`},
		{"scalar volume null", player + "/volume", "null", resonate.CodeInvalidValue, `got "null"`},
		{"scalar volume quoted", player + "/volume", `"50"`, resonate.CodeInvalidValue, `got "\"50\""`},
		{"scalar volume inf", player + "/volume", "inf", resonate.CodeInvalidValue, `got "inf"`},
		{"scalar volume hex", player + "/volume", "0x10", resonate.CodeInvalidValue, `got "0x10"`},
		{"scalar volume blank", player + "/volume", " ", resonate.CodeInvalidValue, `got " "`},
		{"scalar volume not UTF-8", player + "/volume", "5\xff", resonate.CodeInvalidValue, "byte 2 is 0xff"},
		{"scalar volume with NUL", player + "/volume", "5\x00", resonate.CodeInvalidValue, "NUL at byte 2"},
		{"scalar of 1 MiB", player + "/volume", huge, resonate.CodeInvalidValue, "1048576 bytes"},
		{"JSON of 1 MiB", player, huge, resonate.CodeInvalidValue, "1048576 bytes"},
		{"request of 1 MiB", "bridge/request/group/add", huge, resonate.CodeInvalidValue, "1048576 bytes"},
		{"mute 2", player + "/mute", "2", resonate.CodeInvalidValue, `got "2", want ON, OFF or TOGGLE`},
		{"mute number in JSON", player, `{"mute": 1}`, resonate.CodeInvalidValue, "mute: got 1"},
		{"mute null", player, `{"mute": null}`, resonate.CodeInvalidValue, "mute: got null"},
		{"delay too long", player + "/delay", "5001", resonate.CodeInvalidValue, `got "5001", want a whole number from 0 to 5000`},
		{"delay negative", player, `{"delay": -5}`, resonate.CodeInvalidValue, "got -5"},
		{"max volume 0", player + "/max_volume", "0", resonate.CodeInvalidValue, `got "0", want a whole number from 1 to 100`},
		{"custody unknown", player + "/custody", "keep", resonate.CodeInvalidValue, `got "keep", want one of auto, hold`},
		{"custody borrow", player + "/custody", "borrow", resonate.CodeNotSupported, `can't "borrow" yet`},
		{"custody null", player, `{"custody": null}`, resonate.CodeInvalidValue, "got null"},
		{"reconnect false", player, `{"reconnect": false}`, resonate.CodeInvalidValue, "got false, want true"},
		{"group none", player + "/group", "None", resonate.CodeInvalidValue, `"None" is no group; use Solo`},
		{"group hosting", player + "/group", "Hosting", resonate.CodeInvalidValue, `"Hosting" only shows`},
		{"group unknown", player + "/group", "Downstars", resonate.CodeUnknownGroup, `"Downstars"; did you mean "Downstairs"?`},
		{"group strange", player + "/group", "xyzzy-plugh", resonate.CodeUnknownGroup, `"xyzzy-plugh"; there are Solo`},
		{"group with itself", player + "/group", "With Kitchen", resonate.CodeInvalidValue, `"With Kitchen"`},
		{"group with NUL", player, `{"group": "a\u0000b"}`, resonate.CodeInvalidValue, "NUL"},
		{"join itself", player + "/join", "Kitchen", resonate.CodeInvalidValue, `"Kitchen"`},
		{"join nobody", player + "/join", "Attic", resonate.CodeUnknownDevice, `"Attic"`},
		{"join one of two", player + "/join", "Twin", resonate.CodeUnknownDevice, `2 speakers are called "Twin": use one of the ids twin-1, twin-2`},
		{"group and join", player, `{"group": "Solo", "join": "dining"}`, resonate.CodeInvalidValue, `join: got the text "dining", but another`},
		{"unknown key", player, `{"volumne": 5}`, resonate.CodeUnknownCommand, `unknown field "volumne"; did you mean "volume"?`},
		{"unknown key beside a good one", player, `{"volume": 5, "colour": 1}`, resonate.CodeUnknownCommand, `"colour"`},
		{"unknown field", player + "/colour", "1", resonate.CodeUnknownCommand, `"colour"`},
		{"field in capitals", player + "/Volume", "1", resonate.CodeUnknownCommand, `did you mean "volume"?`},
		{"field with a level too many", player + "/volume/x", "1", resonate.CodeUnknownCommand, `"volume/x"`},
		{"empty object", player, `{}`, resonate.CodeInvalidValue, "asks for nothing"},
		{"only a transaction", player, `{"transaction": 1}`, resonate.CodeInvalidValue, "asks for nothing"},
		{"no object", player, `50`, resonate.CodeInvalidJSON, `"50"`},
		{"null", player, `null`, resonate.CodeInvalidJSON, `"null"`},
		{"list", player, `[]`, resonate.CodeInvalidJSON, `"[]"`},
		{"broken JSON", player, `{"volume": 5`, resonate.CodeInvalidJSON, `{\"volume\": 5`},
		{"broken value", player, `{"volume": 5x}`, resonate.CodeInvalidJSON, `volume`},
		{"two objects", player, `{"volume": 5}{}`, resonate.CodeInvalidJSON, "goes on"},
		{"key twice", player, `{"volume": 5, "volume": 6}`, resonate.CodeInvalidJSON, `"volume" comes twice`},
		{"JSON not UTF-8", player, "{\"group\": \"\xff\"}", resonate.CodeInvalidJSON, "byte 12 is 0xff"},
		{"JSON with NUL", player, "{\x00}", resonate.CodeInvalidJSON, "NUL at byte 2"},
		{"transaction object", player, `{"transaction": {}, "volume": 5}`, resonate.CodeInvalidValue, "transaction: got {}"},
		{"transaction huge", player, `{"transaction": "` + strings.Repeat("x", 2000) + `", "volume": 5}`, resonate.CodeInvalidValue, "2002 bytes"},
		{"unknown speaker", "player/attic/set/volume", "5", resonate.CodeUnknownDevice, `"attic"`},
		{"name instead of id in a topic", "player/Kitchen/set", `{"volume": 5}`, resonate.CodeUnknownDevice, `"Kitchen"`},
		{"unknown group in a topic", "group/attic/set/volume", "5", resonate.CodeUnknownGroup, `"attic"`},
		{"group has no delay", "group/downstairs/set/delay", "5", resonate.CodeUnknownCommand, `"delay"`},
		{"group members no list", "group/downstairs/set", `{"members": 5}`, resonate.CodeInvalidValue, "members: got 5"},
		{"group members of a number", "group/downstairs/set", `{"members": ["dining", 5]}`, resonate.CodeInvalidValue, "members[1]: got 5"},
		{"group members unknown", "group/downstairs/set", `{"add": ["attic"]}`, resonate.CodeUnknownDevice, `"attic"`},
		{"group members broken", "group/downstairs/set/members", `["dining"`, resonate.CodeInvalidValue, `dining`},
		{"play false", player, `{"play": false}`, resonate.CodeInvalidValue, "play: got false"},
		{"empty URL", player + "/play_url", " ", resonate.CodeInvalidValue, "play_url"},
		{"long URL", player + "/play_url", "http://x/" + strings.Repeat("x", 4100), resonate.CodeInvalidValue, "at most 4096"},
		{"media key", player + "/play_url", `{"url": "http://x", "titel": "x"}`, resonate.CodeUnknownCommand, `did you mean "title"?`},
		{"no media", player + "/play_url", `[]`, resonate.CodeInvalidValue, "a list of URLs"},
		{"repeat", player + "/repeat", "sometimes", resonate.CodeInvalidValue, "off, one, all"},
		{"shuffle toggle", player + "/shuffle", "TOGGLE", resonate.CodeInvalidValue, "ON or OFF"},
		{"seek", player + "/seek", "soon", resonate.CodeInvalidValue, "seconds"},
		{"seek nan", player + "/seek", "nan", resonate.CodeInvalidValue, "seconds"},
		{"announce volume", player, `{"announce": {"url": "http://x", "volume": 400}}`, resonate.CodeInvalidValue, "announce.volume"},
		{"announce both", player, `{"announce": {"url": "http://x", "text": "x"}}`, resonate.CodeInvalidValue, "either url or text"},
		{"announce nowhere", "bridge/request/announce", `{"url": "http://x"}`, resonate.CodeInvalidValue, "targets is missing"},
		{"pair with digits that are no text", player, `{"pair": 123456}`, resonate.CodeInvalidValue, "pair: want a text in quotes"},
		{"pair with too much", player + "/pair", strings.Repeat("1", 2000), resonate.CodeInvalidValue, "got 2000 bytes"},
		{"pair by an unknown method", "bridge/request/device/pair", `{"id": "kitchen", "method": "magic"}`, resonate.CodeInvalidValue, "one of pairing_psk"},
		{"pair nobody", "bridge/request/device/pair", "attic", resonate.CodeUnknownDevice, "the payload names no speaker"},
		{"approve perhaps", player + "/approve", "perhaps", resonate.CodeInvalidValue, "ON or OFF"},
		{"approve toggle", player + "/approve", "TOGGLE", resonate.CodeInvalidValue, "ON or OFF"},
		{"forget false", player, `{"forget": false}`, resonate.CodeInvalidValue, "got false"},
		{"backup later", "bridge/request/backup", `{"transaction": 1}`, resonate.CodeNotSupported, "backup"},
		{"unknown action", "bridge/request/group/ad", "x", resonate.CodeUnknownCommand, `"group/ad"; did you mean "group/add"?`},
		{"empty action", "bridge/request/", "x", resonate.CodeUnknownCommand, `""`},
		{"unknown key of an action", "bridge/request/group/add", `{"title": "x"}`, resonate.CodeUnknownCommand, `"title"`},
		{"group add without name", "bridge/request/group/add", `{}`, resonate.CodeInvalidValue, "name is missing"},
		{"group called none", "bridge/request/group/add", "NONE", resonate.CodeInvalidValue, `"NONE"`},
		{"group called Solo", "bridge/request/group/rename", `{"id": "downstairs", "name": "solo"}`, resonate.CodeInvalidValue, `"solo"`},
		{"group with an empty name", "bridge/request/group/add", `{"name": " "}`, resonate.CodeInvalidValue, `name: got the text " "`},
		{"group with a long name", "bridge/request/group/add", strings.Repeat("ü", 101), resonate.CodeInvalidValue, "at most 100 characters"},
		{"group with an unknown member", "bridge/request/group/add", `{"name": "x", "members": ["attic"]}`, resonate.CodeUnknownDevice, `"attic"`},
		{"unknown group", "bridge/request/group/remove", "attic", resonate.CodeUnknownGroup, `"attic"`},
		{"members missing", "bridge/request/group/members/add", "downstairs", resonate.CodeInvalidValue, "members is missing"},
		{"name missing", "bridge/request/device/rename", "kitchen", resonate.CodeInvalidValue, "name is missing"},
		{"speaker missing", "bridge/request/device/remove", `{"transaction": 1}`, resonate.CodeInvalidValue, "id is missing"},
		{"speaker of two", "bridge/request/device/remove", "twin", resonate.CodeUnknownDevice, "twin-1, twin-2"},
		{"option unknown", "bridge/request/device/options", `{"id": "kitchen", "options": {"volume": 5}}`, resonate.CodeUnknownCommand, `"volume"`},
		{"options no object", "bridge/request/device/options", `{"id": "kitchen", "options": 5}`, resonate.CodeInvalidJSON, `"5"`},
		{"options out of range", "bridge/request/device/options", `{"id": "kitchen", "options": {"max_volume": 0}}`, resonate.CodeInvalidValue, "max_volume: got 0"},
		{"address of http", "bridge/request/device/add", "http://10.0.0.1", resonate.CodeInvalidValue, `"http://10.0.0.1"`},
		{"address without host", "bridge/request/device/add", "ws://:8928/", resonate.CodeInvalidValue, `"ws://:8928/"`},
		{"log level unknown", "bridge/request/options", `{"log_level": "loud"}`, resonate.CodeInvalidValue, `"loud", want one of debug`},
		{"request not UTF-8", "bridge/request/group/add", "\xff", resonate.CodeInvalidValue, "byte 1 is 0xff"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			c, err := decoderOf(crowd()).decode("resonate/"+tc.topic, []byte(tc.payload))
			if err == nil {
				t.Fatalf("got %#v, want %s", c, tc.code)
			}
			if err.Code != tc.code {
				t.Errorf("got code %s (%s), want %s", err.Code, err.Message, tc.code)
			}
			if !strings.Contains(err.Message, tc.names) {
				t.Errorf("got %q, want it to name %q", err.Message, tc.names)
			}
			if c.answer == "" || len(err.Message) > 600 || !utf8.ValidString(err.Message) {
				t.Errorf("answer %q, sentence of %d bytes: want a topic and a short sentence", c.answer, len(err.Message))
			}
		})
	}
}

func TestDecodeIgnores(t *testing.T) {
	for _, tc := range []struct{ name, topic, payload string }{
		{"empty play", "resonate/player/dining/set/play", ""},
		{"empty set", "resonate/player/dining/set", ""},
		{"empty request", "resonate/bridge/request/scan", ""},
		{"own state", "resonate/player/dining/state", "{}"},
		{"settings", "resonate/player/dining/settings", "{}"},
		{"no id", "resonate/player//set", "{}"},
		{"other base", "other/player/dining/set", "{}"},
		{"response", "resonate/bridge/response/scan", "{}"},
		{"selftest", "resonate/bridge/selftest", "x"},
		{"base alone", "resonate", "x"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if c, err := decoderOf(house()).decode(tc.topic, []byte(tc.payload)); c != nil || err != nil {
				t.Errorf("got %#v, %v, want nothing", c, err)
			}
		})
	}
}

func TestTransactionIsEchoedAsItIs(t *testing.T) {
	for _, raw := range []string{`"nr-17"`, `4`, `1.50`, `true`, `null`, `""`, `"\u00e9"`} {
		for _, payload := range []string{
			fmt.Sprintf(`{"transaction": %s, "volume": 5}`, raw),
			fmt.Sprintf(`{"transaction": %s, "colour": 5}`, raw),
		} {
			c, _ := decoderOf(house()).decode("resonate/player/dining/set", []byte(payload))
			if got := string(c.transaction); got != raw {
				t.Errorf("%s: got %s, want %s", payload, got, raw)
			}
		}
	}
}

// One message may ask for several things: new media come first, an announcement last.
func TestMediaAmongOthers(t *testing.T) {
	c, err := decoderOf(house()).decode("resonate/player/dining/set", []byte(`{"announce": "http://b", "pause": true, "shuffle": true, "play_url": "http://a", "volume": 20}`))
	if err != nil {
		t.Fatal(err)
	}
	at := resonate.Target{PID: "dining"}
	want := []resonate.Command{
		resonate.SetPlayer{PID: "dining", Volume: &resonate.VolumeChange{Value: 20}},
		resonate.PlayMedia{Target: at, Items: []resonate.MediaItem{{URL: "http://a"}}},
		resonate.Transport{Target: at, Action: resonate.ActionShuffle, Shuffle: true},
		resonate.Transport{Target: at, Action: resonate.ActionPause},
		resonate.Announce{Targets: []resonate.Target{at}, URL: "http://b"},
	}
	if got := append([]resonate.Command{c.command}, c.then...); !reflect.DeepEqual(got, want) {
		t.Errorf("got %#v, want %#v", got, want)
	}
}

// TestEveryCommandTopicOfAnEntityIsUnderstood: what Home Assistant sends is
// accepted, for every entity.
func TestEveryCommandTopicOfAnEntityIsUnderstood(t *testing.T) {
	payloads := map[string]string{"number": "1", "switch": "ON", "button": "PRESS", "text": "http://nas/song.mp3", "notify": "hello"}
	for k, topic := range map[kind]string{bridgeKind: "bridge", playerKind: "player/kitchen-3f9a1c07", groupKind: "group/downstairs"} {
		for _, r := range rows(k) {
			if r.command == "" {
				continue
			}
			payload := payloads[r.platform]
			switch {
			case r.key == "group":
				payload = "Downstairs"
			case r.platform == "select":
				payload = r.options[0]
			}
			switch r.key {
			case "log_level":
				payload = fmt.Sprintf(`{%q: %q}`, r.key, payload)
			case "announce_all":
				payload = fmt.Sprintf(`{"text": %q}`, payload)
			}
			c, err := decoderOf(house()).decode("resonate/"+topic+"/"+r.command, []byte(payload))
			if err != nil {
				t.Errorf("%s of %s: %v", r.key, topic, err)
			} else if c.command == nil && c.local == "" {
				t.Errorf("%s of %s: nothing would happen", r.key, topic)
			}
		}
	}
}

func TestNearest(t *testing.T) {
	for _, tc := range []struct{ word, want string }{
		{"volum", "volume"}, {"VOLUME", "volume"}, {"muet", "mute"}, {"xyzzy", ""}, {"", ""}, {strings.Repeat("volume", 20), ""},
	} {
		if got := nearest(tc.word, []string{"volume", "mute", "group"}); got != tc.want {
			t.Errorf("%q: got %q, want %q", tc.word, got, tc.want)
		}
	}
}

func FuzzDecode(f *testing.F) {
	for _, payload := range []string{"50", "+5", `{"volume": 25, "transaction": 1}`, `{"members": ["a"]}`, `{"id": "dining", "options": {}}`, "\xff", `{"a":{"b":[`, "Solo"} {
		for _, topic := range []string{
			"player/dining/set", "player/dining/set/volume", "player/dining/set/group", "player/dining/set/join", "group/downstairs/set", "bridge/request/device/options",
			"bridge/request/group/add", "bridge/request/x",
		} {
			f.Add("resonate/"+topic, []byte(payload))
		}
	}
	d := decoderOf(crowd())
	f.Fuzz(func(t *testing.T, topic string, payload []byte) {
		c, err := d.decode(topic, payload)
		switch {
		case c == nil:
			if err != nil {
				t.Fatalf("%v, but nowhere to answer", err)
			}
			return
		case err != nil:
			if err.Code == "" || err.Message == "" || len(err.Message) > 2000 {
				t.Fatalf("poor error %q: %q", err.Code, err.Message)
			}
		case (c.command == nil) == (c.local == ""):
			t.Fatalf("%#v: want a command or a local action", c)
		case c.volume != nil && !c.volume.Relative && (c.volume.Value < 0 || c.volume.Value > 100):
			t.Fatalf("volume %d", c.volume.Value)
		}
		if c.transaction != nil && !json.Valid(c.transaction) {
			t.Fatalf("transaction %q", c.transaction)
		}
	})
}

func BenchmarkDecodeVolume(b *testing.B) {
	d := decoderOf(house())
	payload := []byte("50")
	b.ReportAllocs()
	for b.Loop() {
		if _, err := d.decode("resonate/player/kitchen-3f9a1c07/set/volume", payload); err != nil {
			b.Fatal(err)
		}
	}
}

// eventsOf are the kinds of events, with the topics they also go to.
func eventsOf(es []event) []string {
	var out []string
	for _, e := range es {
		out = append(out, e.kind+" "+fmt.Sprint(e.data["id"])+" "+strings.Join(e.pids, ","))
	}
	return out
}

func TestEvents(t *testing.T) {
	change := func(f func(s *resonate.Snapshot)) *resonate.Snapshot { s := house(); f(s); return s }
	for _, tc := range []struct {
		name   string
		before *resonate.Snapshot
		after  *resonate.Snapshot
		want   []string
	}{
		{"nothing", house(), house(), nil},
		{
			"found and connected", change(func(s *resonate.Snapshot) { s.Players = s.Players[:1] }), house(),
			[]string{"player_found kitchen-3f9a1c07 ", "player_connected kitchen-3f9a1c07 kitchen-3f9a1c07"},
		},
		{"forgotten", house(), change(func(s *resonate.Snapshot) { s.Players = s.Players[:1] }), []string{"player_lost kitchen-3f9a1c07 "}},
		{"lost within the grace", house(), change(func(s *resonate.Snapshot) { s.Players[1].Connection = resonate.Offline }), nil},
		{
			"lost", house(), change(func(s *resonate.Snapshot) { s.Players[1].Connection, s.Players[1].Available = resonate.Offline, false }),
			[]string{"player_lost kitchen-3f9a1c07 kitchen-3f9a1c07"},
		},
		{
			"taken", house(), change(func(s *resonate.Snapshot) { s.Players[1].Connection = resonate.HeldByOtherServer }),
			[]string{"taken_by_other_server kitchen-3f9a1c07 kitchen-3f9a1c07"},
		},
		{
			"wants to be paired", house(), change(func(s *resonate.Snapshot) { s.Players[0].Connection = resonate.PairingRequired }),
			[]string{"pairing_required dining dining"},
		},
		{
			"wants approval", house(), change(func(s *resonate.Snapshot) { s.Players[0].Connection = resonate.ApprovalRequired }),
			[]string{"approval_required dining dining"},
		},
		{"volume is no event", house(), change(func(s *resonate.Snapshot) { s.Players[1].Volume = ptr(1) }), nil},
		{"joined", house(), change(func(s *resonate.Snapshot) { s.Groups[0].Members = []string{"kitchen-3f9a1c07", "dining"} }), []string{"group_changed downstairs dining"}},
		{"group gone", house(), change(func(s *resonate.Snapshot) { s.Groups = s.Groups[1:] }), []string{"group_changed downstairs kitchen-3f9a1c07"}},
		{
			"order is no event", change(func(s *resonate.Snapshot) { s.Groups[0].Members = []string{"a", "b"} }),
			change(func(s *resonate.Snapshot) { s.Groups[0].Members = []string{"b", "a"} }), nil,
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if got := eventsOf(events(tc.before, tc.after)); !slices.Equal(got, tc.want) {
				t.Errorf("got %q, want %q", got, tc.want)
			}
		})
	}
}

// TestEventTypesAreAnnounced: Home Assistant ignores a type it wasn't told of.
func TestMediaEvents(t *testing.T) {
	before, after := house(), house()
	before.Groups[0].Announcing = true
	after.Groups[0].MediaError = "media unreachable: 404"
	var got []string
	for _, e := range events(before, after) {
		got = append(got, e.kind+" "+strings.Join(e.pids, ","))
	}
	if want := []string{"announcement_finished kitchen-3f9a1c07", "stream_error kitchen-3f9a1c07"}; !reflect.DeepEqual(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
	if again := events(after, after); len(again) != 0 {
		t.Errorf("without a change: got %v", again)
	}
}

func TestEventTypesAreAnnounced(t *testing.T) {
	for _, e := range events(&resonate.Snapshot{}, house()) {
		if !slices.Contains(bridgeEvents(), e.kind) {
			t.Errorf("%s is no event of the bridge", e.kind)
		}
		if len(e.pids) > 0 && !slices.Contains(playerEvents(), e.kind) {
			t.Errorf("%s is no event of players", e.kind)
		}
	}
}
