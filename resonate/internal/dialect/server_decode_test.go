package dialect

import (
	"bytes"
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"resonatebridge/resonate/protocol"
)

// show is a message as JSON without the fields that are nil, null or zero.
func show(t *testing.T, m any) string {
	t.Helper()
	if m == nil {
		return "ignored"
	}
	b, err := json.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	var v any
	d := json.NewDecoder(bytes.NewReader(b))
	d.UseNumber() // times are exact
	if err := d.Decode(&v); err != nil {
		t.Fatal(err)
	}
	if b, err = json.Marshal(prune(v)); err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// prune drops null members of objects.
func prune(v any) any {
	o, ok := v.(map[string]any)
	if !ok {
		return v
	}
	for k, e := range o {
		if e == nil {
			delete(o, k)
		} else {
			o[k] = prune(e)
		}
	}
	return o
}

// TestDeviations has what clients do that no text permits, or only some text:
// all of it is accepted. Each row is one connection; only the last frame is
// looked at.
func TestDeviations(t *testing.T) {
	state := func(payload string) string { return `{"type":"client/state","payload":` + payload + `}` }
	control := func(c string) string { return `{"type":"client/command","payload":{"controller":` + c + `}}` }
	for _, row := range []struct {
		name   string
		frames []string
		want   string // the message as JSON
		note   string // "" for none
	}{
		{"state in player", []string{state(`{"player":{"state":"error"}}`)}, `{"Available":true,"Player":{},"SyncError":true}`, "root"},
		{"external source in player", []string{state(`{"player":{"state":"external_source"}}`)}, `{"Available":false,"Player":{}}`, "root"},
		{"no state at all", []string{state(`{"player":{"volume":3}}`)}, `{"Available":true,"Player":{"Volume":3}}`, ""},
		{"empty report first", []string{state(`{}`)}, `{"Available":true}`, ""},
		{"unknown state", []string{state(`{"state":"dozing"}`)}, `{"Available":true}`, "dozing"},
		{"state and available: available wins", []string{state(`{"state":"synchronized","available":false}`)}, `{"Available":false,"SyncError":false}`, ""},
		{"available alone", []string{state(`{"available":true}`)}, `{"Available":true}`, ""},
		{
			"player.state after a state at the root does not free the player",
			[]string{state(`{"state":"external_source"}`), state(`{"player":{"state":"synchronized"}}`)},
			`{"Player":{},"SyncError":false}`, "root",
		},
		{"empty delta", []string{state(`{"player":{"volume":3}}`), state(`{"player":{}}`)}, `{"Player":{}}`, ""},
		{"volume and mute missing on the first report", []string{state(`{"player":{"state":"synchronized"}}`)}, `{"Available":true,"Player":{},"SyncError":false}`, "root"},
		{"player fields at the root", []string{state(`{"state":"synchronized","volume":7,"muted":true}`)}, `{"Available":true,"Player":{"Muted":true,"Volume":7},"SyncError":false}`, "player: missing"},
		{"integer as float", []string{state(`{"player":{"volume":12.0}}`)}, `{"Available":true,"Player":{"Volume":12}}`, ""},
		{"fraction rounds half up", []string{state(`{"player":{"volume":12.5,"static_delay_ms":0.4}}`)}, `{"Available":true,"Player":{"OutputDelayMs":0,"Volume":13}}`, "rounded"},
		{"exponent", []string{state(`{"player":{"volume":1e1}}`)}, `{"Available":true,"Player":{"Volume":10}}`, ""},
		{"volume too high", []string{state(`{"player":{"volume":150}}`)}, `{"Available":true,"Player":{"Volume":100}}`, "clamped"},
		{"volume negative", []string{state(`{"player":{"volume":-1}}`)}, `{"Available":true,"Player":{"Volume":0}}`, "clamped"},
		{"delay negative", []string{state(`{"player":{"static_delay_ms":-40}}`)}, `{"Available":true,"Player":{"OutputDelayMs":0}}`, "clamped"},
		{"delay too long", []string{state(`{"player":{"static_delay_ms":5001}}`)}, `{"Available":true,"Player":{"OutputDelayMs":5000}}`, "clamped"},
		{"timing too long", []string{state(`{"player":{"required_lead_time_ms":1e9,"min_buffer_ms":30001}}`)}, `{"Available":true,"Player":{"MinBufferMs":30000,"RequiredLeadMs":30000}}`, "clamped"},
		{"number in a text is dropped", []string{state(`{"player":{"volume":"40","muted":true}}`)}, `{"Available":true,"Player":{"Muted":true}}`, "ignored"},
		{"null is absent", []string{state(`{"player":{"volume":null,"muted":null,"supported_commands":null},"state":null}`)}, `{"Available":true,"Player":{}}`, ""},
		{"both delays: the current name wins", []string{state(`{"player":{"static_delay_ms":1,"output_delay_ms":2}}`)}, `{"Available":true,"Player":{"OutputDelayMs":2}}`, ""},
		{"unknown commands", []string{state(`{"player":{"supported_commands":["set_static_delay","dance","set_static_delay"]}}`)}, `{"Available":true,"Player":{"Commands":["set_output_delay"]}}`, "dance"},
		{"empty list of commands", []string{state(`{"player":{"supported_commands":[]}}`)}, `{"Available":true,"Player":{"Commands":[]}}`, ""},
		{"a bad format is dropped", []string{state(`{"player":{"volume":1,"format":{"codec":"mp3"}}}`)}, `{"Available":true,"Player":{"Volume":1}}`, "mp3"},
		{"unknown keys", []string{state(`{"player":{"volume":1,"buffer_level":9,"error":null},"_x":{}}`)}, `{"Available":true,"Player":{"Volume":1}}`, ""},
		{"equal keys: the last counts", []string{state(`{"player":{"volume":1,"volume":2}}`)}, `{"Available":true,"Player":{"Volume":2}}`, ""},

		{"muted in a mute command", []string{control(`{"command":"mute","muted":true}`)}, `{"Command":"mute","Mute":true,"OffsetMs":0,"PositionMs":0,"Volume":0}`, "muted"},
		{"volume next to another command", []string{control(`{"command":"play","volume":"loud"}`)}, `{"Command":"play","Mute":false,"OffsetMs":0,"PositionMs":0,"Volume":0}`, ""},
		{"volume of a command is clamped", []string{control(`{"command":"volume","volume":101}`)}, `{"Command":"volume","Mute":false,"OffsetMs":0,"PositionMs":0,"Volume":100}`, "clamped"},
		{"unknown command", []string{control(`{"command":"sing"}`)}, "ignored", "sing"},
		{"command to another role", []string{`{"type":"client/command","payload":{"_x":{"command":"y"}}}`}, "ignored", ""},

		{"unknown goodbye reason", []string{`{"type":"client/goodbye","payload":{"reason":"bored\u0007"}}`}, `{"Reason":"bored"}`, ""},
		{"goodbye without reason", []string{`{"type":"client/goodbye"}`}, `{"Reason":""}`, "reason"},
		{"goodbye of the encrypted protocol", []string{`{"type":"client/goodbye","payload":{"reason":"unpaired"}}`}, `{"Reason":"unpaired"}`, ""},
		{"unknown type", []string{`{"type":"client/mood","payload":{"x":1}}`}, "ignored", "client/mood"},
		{"unknown type that is no name", []string{`{"type":"a\nb","payload":{}}`}, "ignored", `"a\nb"`},
		{"pairing message", []string{`{"type":"pair/start","payload":{}}`}, "ignored", "pair/start"},
		{"second hello", []string{`{"type":"client/hello","payload":{}}`}, "ignored", "second"},
		{"leave", []string{`{"type":"client/leave"}`}, `{}`, ""},
		{"time before any state", []string{`{"payload":{"client_transmitted":-5},"type":"client/time"}`}, `{"ClientTransmitted":-5}`, ""},
		{"time as float", []string{`{"type":"client/time","payload":{"client_transmitted":12.5}}`}, `{"ClientTransmitted":13}`, ""},
		{"time beyond 2^53 is exact", []string{`{"type":"client/time","payload":{"client_transmitted":9007199254740993,"x":1}}`}, `{"ClientTransmitted":9007199254740993}`, ""},

		{"format declared", []string{`{"type":"stream/request-format","payload":{"player":{"codec":"pcm"}}}`}, `{"Format":{"BitDepth":0,"Channels":0,"Codec":"pcm","SampleRate":0}}`, ""},
		{"format at the root", []string{`{"type":"stream/request-format","payload":{"sample_rate":48000}}`}, `{"Format":{"BitDepth":0,"Channels":0,"Codec":"","SampleRate":48000}}`, ""},
		{"format not declared", []string{`{"type":"stream/request-format","payload":{"player":{"codec":"opus"}}}`}, "ignored", "hello"},
		{"artwork of a channel that does not exist", []string{`{"type":"stream/request-format","payload":{"artwork":{"channel":9,"media_width":0}}}`}, "ignored", "no channel 9"},
		{"other artwork", []string{`{"type":"stream/request-format","payload":{"artwork":{"channel":1,"format":"png","media_width":64}}}`}, `{"Channel":1,"Config":{"Format":"png","Height":0,"Source":"","Width":64}}`, ""},

		{"R1 report", []string{`{"type":"player/update","payload":{"state":"playing","volume":5,"muted":false}}`}, `{"Available":true,"Player":{"Muted":false,"PlaybackReported":true,"Volume":5}}`, ""},
		{"R1 report, later", []string{`{"type":"player/update","payload":{"state":"idle"}}`, `{"type":"player/update","payload":{"state":"x","volume":5}}`}, `{"Player":{"Volume":5}}`, `"x"`},
		{"R1 command", []string{`{"type":"group/command","payload":{"command":"volume","volume":5}}`}, `{"Command":"volume","Mute":false,"OffsetMs":0,"PositionMs":0,"Volume":5}`, ""},
		{"R1 switch", []string{`{"type":"group/switch"}`}, `{"Command":"switch","Mute":false,"OffsetMs":0,"PositionMs":0,"Volume":0}`, ""},
		{"R1 list", []string{`{"type":"group/get-list"}`}, `{}`, ""},
		{"R1 join", []string{`{"type":"group/join","payload":{"group_id":"g"}}`}, `{"GroupID":"g"}`, ""},
		{"R1 unjoin", []string{`{"type":"group/unjoin"}`}, `{"GroupID":""}`, ""},
	} {
		t.Run(row.name, func(t *testing.T) {
			w, _ := accept(t, hello(js), "")
			var m protocol.ClientMessage
			var notes []string
			for _, f := range row.frames {
				m, notes = decode(t, w, f)
			}
			if got := show(t, m); got != row.want {
				t.Errorf("got %s, want %s", got, row.want)
			}
			if row.note == "" && len(notes) > 0 || !strings.Contains(strings.Join(notes, "\n"), row.note) {
				t.Errorf("notes: got %q, want %q", notes, row.note)
			}
		})
	}
}

func TestNotesAreBounded(t *testing.T) {
	w, _ := accept(t, hello(js), "")
	total := 0
	for range 3 {
		m, n, err := w.Decode(Frame{Binary: true, Data: []byte{4}})
		if m != nil || err != nil {
			t.Errorf("binary frame: got %v, %v, want it ignored", m, err)
		}
		total += len(n)
	}
	if total != 1 {
		t.Errorf("notes for three binary frames: got %d, want 1", total)
	}
	for i := range 1000 {
		_, n := decode(t, w, `{"type":"client/`+strings.Repeat("x", i%200+1)+`"}`)
		total += len(n)
	}
	if total > maxNotes {
		t.Errorf("notes of a noisy client: got %d, want at most %d", total, maxNotes)
	}
}

// TestDecodeErrors has what costs the message, and what the error says of it.
func TestDecodeErrors(t *testing.T) {
	state := func(player string) string { return `{"type":"client/state","payload":{"player":` + player + `}}` }
	control := func(c string) string { return `{"type":"client/command","payload":{"controller":` + c + `}}` }
	long := strings.Repeat("x", 100)
	for _, row := range []struct{ name, frame, want string }{
		{"a word as volume", state(`{"volume":"loud"}`), `client/state: player.volume: got "loud", want a number from 0 to 100`},
		{"a long word is cut", state(`{"volume":"` + long + `"}`), `client/state: player.volume: got "` + long[:64] + `", want a number from 0 to 100`},
		{"true as volume", state(`{"volume":true}`), `client/state: player.volume: got true, want a number from 0 to 100`},
		{"infinite volume", state(`{"volume":1e999}`), `client/state: player.volume: got 1e999, want a number from 0 to 100`},
		{"a list as volume", state(`{"volume":[1]}`), `client/state: player.volume: got a list, want a number from 0 to 100`},
		{"1 as muted", state(`{"muted":1}`), `client/state: player.muted: got 1, want true or false`},
		{"a word as muted", state(`{"muted":"true"}`), `client/state: player.muted: got "true", want true or false`},
		{"a number as state", state(`{"state":1}`), `client/state: player.state: got 1, want a text`},
		{"commands as text", state(`{"supported_commands":"volume"}`), `client/state: player.supported_commands: got "volume", want a list`},
		{"player is a list", state(`[]`), `client/state: player: got a list, want an object`},
		{"available is a number", `{"type":"client/state","payload":{"available":1}}`, `client/state: available: got 1, want true or false`},
		{"payload is a text", `{"type":"client/state","payload":"x"}`, `client/state: payload: got "x", want an object`},
		{"no volume in volume", control(`{"command":"volume"}`), `client/command: controller.volume: got nothing, want a number from 0 to 100`},
		{"no mute in mute", control(`{"command":"mute"}`), `client/command: controller.mute: got nothing, want true or false`},
		{"no command", control(`{}`), `client/command: controller.command: got nothing, want the name of a command`},
		{"seek before the start", control(`{"command":"seek","position_ms":-1}`), `client/command: controller.position_ms: got -1, want a number from 0 to 2147483647`},
		{"R1 seek has no position", `{"type":"group/command","payload":{"command":"seek"}}`, `group/command: position_ms: got nothing, want a number from -2147483648 to 2147483647`},
		{"no time", `{"type":"client/time","payload":{}}`, `client/time: client_transmitted: got nothing, want a time in microseconds`},
		{"time in a text", `{"type":"client/time","payload":{"client_transmitted":"1"}}`, `client/time: client_transmitted: got "1", want a time in microseconds`},
		{"time too large", `{"type":"client/time","payload":{"client_transmitted":1e30}}`, `client/time: client_transmitted: got 1e30, want a time in microseconds`},
		{"time with a leading zero", `{"type":"client/time","payload":{"client_transmitted":01}}`, `text frame: envelope: got "{\"type\":\"client/time\",\"payload\":{\"client_transmitted\":01}}", want a JSON object with type and payload`},
		{"no group", `{"type":"group/join","payload":{}}`, `group/join: group_id: got nothing, want the id of a group`},
		{"format of another kind", `{"type":"stream/request-format","payload":{"player":{"channels":"two"}}}`, `stream/request-format: player.channels: got "two", want a number from 1 to 32`},
		{"no JSON", "\x1b[2J", `text frame: envelope: got "\x1b[2J", want a JSON object with type and payload`},
		{"invalid UTF-8", "\xff", `text frame: encoding: got invalid UTF-8, want UTF-8`},
		{"too deep", `{"type":"client/state","payload":{"player":` + strings.Repeat("[", 20_000) + strings.Repeat("]", 20_000) + `}}`, `text frame: envelope: got "{\"type\":\"client/state\",\"payload\":{\"player\":` + strings.Repeat("[", 21) + `", want a JSON object with type and payload`},
	} {
		t.Run(row.name, func(t *testing.T) {
			w, _ := accept(t, hello(js), "")
			m, _, err := w.Decode(Frame{Data: []byte(row.frame)})
			var d *protocol.DecodeError
			if m != nil || !errors.As(err, &d) {
				t.Fatalf("got %v, %v, want a decode error", m, err)
			}
			if got := err.Error(); got != row.want {
				t.Errorf("got %s\nwant %s", got, row.want)
			}
		})
	}
}

// TestScanClientTime checks the fast path against the general decoder.
func TestScanClientTime(t *testing.T) {
	for _, row := range []struct {
		name, frame string
		ok          bool
	}{
		{"as sent by all", `{"type":"client/time","payload":{"client_transmitted":123}}`, true},
		{"payload first, spaces", " {\n\"payload\" : { \"client_transmitted\" : -123 } , \"type\" : \"client/time\" }\n", true},
		{"another type", `{"type":"client/state","payload":{"client_transmitted":123}}`, false},
		{"another member", `{"type":"client/time","payload":{"client_transmitted":123,"x":1}}`, false},
		{"a third member", `{"type":"client/time","payload":{"client_transmitted":123},"x":1}`, false},
		{"type twice", `{"type":"client/time","type":"client/time"}`, false},
		{"float", `{"type":"client/time","payload":{"client_transmitted":123.5}}`, false},
		{"exponent", `{"type":"client/time","payload":{"client_transmitted":1e3}}`, false},
		{"leading zero", `{"type":"client/time","payload":{"client_transmitted":0123}}`, false},
		{"two signs", `{"type":"client/time","payload":{"client_transmitted":--1}}`, false},
		{"too large", `{"type":"client/time","payload":{"client_transmitted":92233720368547758080}}`, false},
		{"cut", `{"type":"client/time","payload":{"client_transmitted":123}`, false},
		{"more", `{"type":"client/time","payload":{"client_transmitted":123}}}`, false},
		{"comma at the end", `{"type":"client/time","payload":{"client_transmitted":123},}`, false},
		{"no comma", `{"type":"client/time" "payload":{"client_transmitted":123}}`, false},
		{"empty", "", false},
	} {
		t.Run(row.name, func(t *testing.T) {
			got, ok := scanClientTime([]byte(row.frame))
			if ok != row.ok {
				t.Fatalf("got %v, want %v", ok, row.ok)
			}
			if !ok {
				return
			}
			_, p, err := envelope([]byte(row.frame), nil)
			if err != nil {
				t.Fatal(err)
			}
			if want, err := p.micros("client_transmitted"); err != nil || int64(got) != want {
				t.Errorf("got %d, want %d (%v)", got, want, err)
			}
		})
	}
}
