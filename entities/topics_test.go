package entities

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"resonatebridge/resonate"
)

// topicRow is one topic of TOPICS.md.
type topicRow struct{ topic, retained, content string }

func playerTopics() []topicRow {
	return []topicRow{
		{"availability", "yes", "`online` or `offline`, with 15 s of grace; the bridge's own state counts too"},
		{"state", "yes", "JSON with everything; every key is always there, null when unknown"},
		{"volume", "yes", "0 to 100"},
		{"mute", "yes", "`ON` or `OFF`"},
		{"playback", "yes", "`" + strings.Join(playbacks(), "`, `") + "`"},
		{"group", "yes", "option of the Group select"},
		{"title", "yes", "of what plays"},
		{"artist", "yes", "of what plays"},
		{"album", "yes", "of what plays"},
		{"duration", "yes", "of what plays, in s"},
		{"position", "yes", "JSON: `position` (s), `at`, `speed`, `duration`; on change"},
		{"art", "yes", "JPEG of what plays; gone while there is none"},
		{"connection", "yes", "`" + strings.Join(connections(), "`, `") + "`"},
		{"delay", "yes", "output delay in ms"},
		{"trust", "yes", "`" + strings.Join(trusts(), "`, `") + "`"},
		{"pairing", "yes", "where the last attempt to pair stands: `" + strings.Join(pairSteps(), "`, `") + "`; `None` if there was none; the state has the rest"},
		{"diag", "yes", "JSON, at most every 30 s: `sync`, `buffer_ms`, `reconnects`, `late_chunks`, `last_seen`"},
		{"event", "no", "JSON with `event_type`: `" + strings.Join(playerEvents(), "`, `") + "`"},
		{"result", "no", "JSON, for each command: see below"},
	}
}

func groupTopics() []topicRow {
	return []topicRow{
		{"availability", "yes", "`online` while a member is connected"},
		{"state", "yes", "JSON with everything"},
		{"members", "yes", "JSON: `count`, `ids`, `names`, `offline` (members and remembered ones that are not connected)"},
		{"volume", "yes", "mean of the members"},
		{"mute", "yes", "`ON` when all members are muted"},
		{"playback", "yes", "as for speakers"},
		{"title", "yes", "of what plays"},
		{"artist", "yes", "of what plays"},
		{"album", "yes", "of what plays"},
		{"duration", "yes", "of what plays, in s"},
		{"position", "yes", "as for speakers"},
		{"art", "yes", "as for speakers"},
		{"result", "no", "JSON, for each command"},
	}
}

func bridgeTopics() []topicRow {
	return []topicRow{
		{"state", "yes", "`online` or `offline`; the last will"},
		{"lease", "yes", "JSON: which of the bridges with this base topic publishes; the others stand by"},
		{"info", "yes", "JSON: version, protocols, configuration without secrets, counts, problems, log level"},
		{"devices", "yes", "JSON list of all speakers, at most every second; those with a null `id` were heard of but never met"},
		{"groups", "yes", "JSON list of the groups of two or more and the named ones, at most every second"},
		{"event", "no", "JSON: `type` (`" + strings.Join(bridgeEvents(), "`, `") + "`) and `data`"},
		{"ha_event", "no", "the same in the shape that Home Assistant's event entity wants"},
		{"health", "no", "JSON, every 5 min"},
		{"response/ACTION", "no", "JSON, for each request"},
	}
}

func pairSteps() []string {
	return []string{
		string(resonate.PairConnecting), string(resonate.PairWaiting), string(resonate.PairHeld), string(resonate.PairCode),
		string(resonate.PairChecking), string(resonate.PairStoring), string(resonate.PairDone), string(resonate.PairFailed),
	}
}

// topics is TOPICS.md.
func topics() string {
	var b strings.Builder
	line := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	table := func(head string, rows func()) {
		line("\n| %s |\n|%s", head, strings.Repeat("---|", strings.Count(head, "|")+1))
		rows()
	}
	list := func(rows []topicRow) {
		table("topic | retained | content", func() {
			for _, r := range rows {
				line("| `%s` | %s | %s |", r.topic, r.retained, r.content)
			}
		})
	}
	fields := func(fs []field) {
		table("field | payload", func() {
			for _, f := range fs {
				want := f.want
				if f.later != "" {
					want = "later: this version can't " + f.later + " yet (`not_supported`)"
				}
				line("| `%s` | %s |", f.name, want)
			}
		})
	}
	entities := func(k kind) {
		table("entity | platform | state | command | category | on | available | what", func() {
			for _, r := range rows(k) {
				name, state, command, category, on := r.name, "", "", r.category, "yes"
				if name == "" {
					name = "(the device's name)"
				}
				if r.value != "" || r.topic != "" {
					state = "`" + r.topic + "`"
					if r.topic == "" {
						state = map[kind]string{bridgeKind: "`info`", playerKind: "`state`", groupKind: "`state`"}[k]
					}
				}
				if r.command != "" {
					command = "`" + r.command + "`"
				}
				if r.disabled {
					on = "no"
				}
				if category == "" {
					category = "-"
				}
				line("| %s | %s | %s | %s | %s | %s | %s | %s |", name, r.platform, state, command, category, on,
					[...]string{"device online", "bridge online", "always"}[r.reach], r.tells)
			}
		})
	}

	line("# Topics and entities\n")
	line("Written from the tables in this package by `go test ./entities -run TestTopics -update`; don't edit.\n")
	line("`BASE` is `mqtt.base_topic` (default `resonate`), `PID` the id of a speaker, `GID` the id of a group. `None` stands for")
	line("\"unknown\" where a topic holds plain text. A state is published when it changes: the first change at once, further ones")
	line("of that device at most every 50 ms.\n")
	line("## Speakers: `BASE/player/PID/...`")
	list(playerTopics())
	line("\n### Commands: `BASE/player/PID/set/FIELD`, or a JSON object on `BASE/player/PID/set`\n")
	line("An object is checked as a whole before anything is done. Empty payloads are ignored. Retained commands are refused")
	line("(`retained_ignored`): clear them with `mosquitto_pub -r -n -t TOPIC`.")
	fields(playerFields())
	line("\n### Results\n")
	line("```json\n%s\n%s\n```\n",
		`{"transaction":"nr-17","command":"set","status":"ok","data":{"volume":25},"took_ms":38}`,
		`{"command":"set/volume","status":"error","error":{"code":"invalid_value","message":"volume: got \"101\", want a whole number from 0 to 100"},"took_ms":0}`)
	line("`transaction` is the caller's, any JSON text, number, true, false or null. A volume command that a later one replaced")
	line("answers `ok` with `\"superseded\":true`. Every command is answered within 10 s. Codes:\n")
	for _, c := range []struct {
		code resonate.Code
		when string
	}{
		{resonate.CodeInvalidJSON, "the payload is not the JSON object that was wanted"},
		{resonate.CodeInvalidValue, "a value is missing, of the wrong kind or out of range"},
		{resonate.CodeUnknownCommand, "there is no such field, key or action; the message names the nearest"},
		{resonate.CodeUnknownDevice, "there is no such speaker, or several have the name"},
		{resonate.CodeUnknownGroup, "there is no such group, or several have the name"},
		{resonate.CodeNotConnected, "the speaker is away"},
		{resonate.CodeNotSupported, "the speaker, or this version, can't do it"},
		{resonate.CodeNotManaged, "its custody keeps the bridge away from the speaker"},
		{resonate.CodeHeldByOtherServer, "another server has the speaker"},
		{resonate.CodePairingRequired, "the speaker has to be paired or approved first"},
		{resonate.CodePairingFailed, "pairing could not begin, or went wrong; the message says what to do"},
		{resonate.CodeMediaUnreachable, "the URL can't be fetched"},
		{resonate.CodeMediaUnsupported, "it holds no audio, or audio that nothing here decodes; the message says what would help"},
		{resonate.CodeTimeout, "no answer in time"},
		{resonate.CodeBusy, "too many commands wait for the device"},
		{resonate.CodeRetainedIgnored, "the command was retained"},
		{resonate.CodeInternal, "a fault of the bridge, or its end"},
	} {
		line("- `%s`: %s", c.code, c.when)
	}
	line("\n## Groups: `BASE/group/GID/...`\n")
	line("Groups of two or more speakers, and named groups with any number. Commands as for speakers.")
	list(groupTopics())
	fields(groupFields())
	line("\n## Bridge: `BASE/bridge/...`")
	list(bridgeTopics())
	line("\n### Requests: `BASE/bridge/request/ACTION`\n")
	line("A JSON object, or the value of the first key alone. Speakers are named by id, client id or unique name, groups by id or")
	line("unique name. The answer comes on `BASE/bridge/response/ACTION`, in the shape of results.")
	table("action | keys", func() {
		for _, a := range actions() {
			keys := "none; send anything, like `PRESS`"
			if len(a.keys) > 0 {
				keys = "`" + strings.Join(a.keys, "`, `") + "`"
			}
			if a.later != "" {
				keys = "later: this version can't " + a.later + " yet (`not_supported`)"
			}
			line("| `%s` | %s |", a.name, keys)
		}
	})
	line("\n## Home Assistant\n")
	line("One retained document per speaker, named group and bridge: `homeassistant/device/resonate_PID/config`,")
	line("`.../resonate_group_GID/config`, `.../resonate_bridge/config`; another base topic comes after `resonate_`. With")
	line("`homeassistant.entities: diagnostic` only entities with a category are announced: those that Music Assistant does not")
	line("have for the same speaker.\n")
	line("### Speaker")
	entities(playerKind)
	line("\n### Named group")
	entities(groupKind)
	line("\n### Bridge")
	entities(bridgeKind)
	return b.String()
}

func TestTopics(t *testing.T) {
	got := topics()
	if *update {
		if err := os.WriteFile("TOPICS.md", []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile("TOPICS.md")
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Error("TOPICS.md is not what the tables say; run with -update")
	}
}

// TestTopicsAreComplete: what is published is documented, and nothing else.
func TestTopicsAreComplete(t *testing.T) {
	leaves := func(rows []topicRow) map[string]bool {
		m := make(map[string]bool)
		for _, r := range rows {
			if r.retained == "yes" && r.topic != "state" {
				m[r.topic] = true
			}
		}
		return m
	}
	published := Render(Options{NoDiscovery: true}, house())
	published["resonate/bridge/lease"] = []byte("by the client itself, as state is")
	for _, tc := range []struct {
		prefix     string
		documented map[string]bool
	}{
		{"resonate/player/dining/", leaves(playerTopics())},
		{"resonate/group/downstairs/", leaves(groupTopics())},
		{"resonate/bridge/", leaves(bridgeTopics())},
	} {
		for topic := range published {
			leaf, ok := strings.CutPrefix(topic, tc.prefix)
			if ok && leaf != "state" && !tc.documented[leaf] {
				t.Errorf("%s is not documented", topic)
			}
		}
		for leaf := range tc.documented {
			if published[tc.prefix+leaf] == nil {
				t.Errorf("%s%s is documented and not published", tc.prefix, leaf)
			}
		}
	}
}
