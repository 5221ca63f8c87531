package dialect

import (
	"strings"
	"testing"

	"resonatebridge/resonate/protocol"
)

// TestMustSend has what clients insist on, per dialect. Each row forces the
// dialect, reports a state if there is one, and sends.
func TestMustSend(t *testing.T) {
	player := []protocol.Role{protocol.RolePlayer}
	pcm := protocol.Format{Codec: "pcm", Channels: 2, SampleRate: 48000, BitDepth: 16}
	start := protocol.StreamStart{Player: &protocol.StreamPlayer{Format: pcm}}
	group := protocol.GroupUpdate{PlaybackState: protocol.PlaybackPaused, GroupID: "g", GroupName: "Den"}
	all := []protocol.ControllerCommandName{protocol.ControlPlay, protocol.ControlSwitch, protocol.ControlSeek, protocol.ControlSeekRelative}
	const timing = `{"player":{"required_lead_time_ms":1,"min_buffer_ms":2}}`
	const pcmJSON = `{"player":{"codec":"pcm","sample_rate":48000,"channels":2,"bit_depth":16}}`
	for _, row := range []struct {
		name  string
		as    Name
		state string // payload of a client/state
		send  []protocol.ServerMessage
		want  []string // of the last message: `type payload`
	}{
		{"hello: three fields", R1, "", []protocol.ServerMessage{protocol.ServerHello{ServerID: "s", Name: "H", ActiveRoles: player, Reason: "playback"}}, []string{`server/hello {"server_id":"s","name":"H","version":1}`}},
		{"hello: four fields", R2, "", []protocol.ServerMessage{protocol.ServerHello{ServerID: "s", Name: "H", ActiveRoles: player, Reason: "playback"}}, []string{`server/hello {"server_id":"s","name":"H","version":1,"connection_reason":"playback"}`}},
		{"hello: five fields", S1, "", []protocol.ServerMessage{protocol.ServerHello{ServerID: "s", Name: "H", ActiveRoles: player, Reason: "playback"}}, []string{`server/hello {"server_id":"s","name":"H","version":1,"active_roles":["player@v1"],"connection_reason":"playback"}`}},
		{"hello: no other reason", S4, "", []protocol.ServerMessage{protocol.ServerHello{Reason: "pairing"}}, []string{`server/hello {"server_id":"","name":"","version":1,"active_roles":[],"connection_reason":"discovery"}`}},
		{"hello: only roles that were offered", S4, "", []protocol.ServerMessage{protocol.ServerHello{ActiveRoles: []protocol.Role{protocol.RoleColor}}}, []string{`server/hello {"server_id":"","name":"","version":1,"active_roles":[],"connection_reason":"discovery"}`}},

		{"paused is stopped", S4, "", []protocol.ServerMessage{group}, []string{`group/update {"playback_state":"stopped","group_id":"g","group_name":"Den"}`}},
		{"paused is stopped for R2", R2, "", []protocol.ServerMessage{group}, []string{`group/update {"playback_state":"stopped","group_id":"g","group_name":"Den"}`}},
		{"paused is paused for R1", R1, "", []protocol.ServerMessage{group}, []string{`session/update {"group_id":"g","playback_state":"paused"}`}},

		{"controller is complete", S2, "", []protocol.ServerMessage{protocol.ServerState{Controller: &protocol.ControllerState{}}}, []string{`server/state {"controller":{"supported_commands":[],"volume":0,"muted":false,"repeat":"off","shuffle":false}}`}},
		{"no seek for old clients", S3, "", []protocol.ServerMessage{protocol.ServerState{Controller: &protocol.ControllerState{Commands: all, SeekMaxMs: 9}}}, []string{`server/state {"controller":{"supported_commands":["play","switch"],"volume":0,"muted":false,"repeat":"off","shuffle":false}}`}},
		{"seek once the client shows that it is new", "", timing, []protocol.ServerMessage{protocol.ServerState{Controller: &protocol.ControllerState{Commands: all, SeekMaxMs: 9}}}, []string{`server/state {"controller":{"supported_commands":["play","switch","seek","seek_relative"],"volume":0,"muted":false,"repeat":"off","shuffle":false,"seek_max_ms":9}}`}},
		{"no seek without a range", S4, "", []protocol.ServerMessage{protocol.ServerState{Controller: &protocol.ControllerState{Commands: all}}}, []string{`server/state {"controller":{"supported_commands":["play","switch","seek_relative"],"volume":0,"muted":false,"repeat":"off","shuffle":false}}`}},
		{"no seek with old keys", S1, timing, []protocol.ServerMessage{protocol.ServerState{Controller: &protocol.ControllerState{Commands: all, SeekMaxMs: 9}}}, []string{`server/state {"controller":{"supported_commands":["play","switch"],"volume":0,"muted":false,"repeat":"off","shuffle":false}}`}},
		{"controller of R2", R2, "", []protocol.ServerMessage{protocol.ServerState{Controller: &protocol.ControllerState{Volume: 200}}}, []string{`server/state {"controller":{"supported_commands":[],"volume":100,"muted":false}}`}},
		{"controller of R1, nothing playing", R1, "", []protocol.ServerMessage{protocol.ServerState{Controller: &protocol.ControllerState{Commands: all, Members: []protocol.GroupMember{{ClientID: "a", Name: "A"}}}}}, []string{`group/update {"supported_commands":["play"],"members":[{"client_id":"a","name":"A"}],"session_id":null,"volume":0,"muted":false}`}},
		{
			"R1's controller learns of the session", R1, "",
			[]protocol.ServerMessage{protocol.ServerState{Controller: &protocol.ControllerState{}}, protocol.GroupUpdate{PlaybackState: "playing", GroupID: "g"}},
			[]string{`session/update {"group_id":"g","playback_state":"playing"}`, `group/update {"supported_commands":[],"members":[],"session_id":"g","volume":0,"muted":false}`},
		},

		{"metadata clears with null", S4, "", []protocol.ServerMessage{protocol.ServerState{Metadata: &protocol.Metadata{Timestamp: 5, Year: 999}}}, []string{`server/state {"metadata":{"timestamp":5,"title":null,"artist":null,"album_artist":null,"album":null,"artwork_url":null,"year":null,"track":null,"repeat":"off","shuffle":false,"progress":null}}`}},
		{"metadata has repeat and shuffle too", S4, "", []protocol.ServerMessage{protocol.ServerState{Metadata: &protocol.Metadata{Title: "T", Year: 2040, Track: 1, Repeat: "all", Shuffle: true, Progress: &protocol.Progress{PositionMs: -1, DurationMs: 2, SpeedPermille: 1000}}}}, []string{`server/state {"metadata":{"timestamp":0,"title":"T","artist":null,"album_artist":null,"album":null,"artwork_url":null,"year":2040,"track":1,"repeat":"all","shuffle":true,"progress":{"track_progress":0,"track_duration":2,"playback_speed":1000}}}`}},
		{"metadata of R2 is flat and nested", R2, "", []protocol.ServerMessage{protocol.ServerState{Metadata: &protocol.Metadata{Progress: &protocol.Progress{PositionMs: 1, DurationMs: 2, SpeedPermille: 500}}}}, []string{`server/state {"metadata":{"timestamp":0,"title":null,"artist":null,"album_artist":null,"album":null,"artwork_url":null,"year":null,"track":null,"repeat":"off","shuffle":false,"track_progress":1,"track_duration":2,"playback_speed":500,"progress":{"track_progress":1,"track_duration":2,"playback_speed":500}}}`}},
		{"metadata of R1 waits for a group", R1, "", []protocol.ServerMessage{protocol.ServerState{Metadata: &protocol.Metadata{Title: "T"}}}, nil},
		{
			"metadata of R1 counts in seconds and leaves a speed of 0 out", R1, "",
			[]protocol.ServerMessage{
				protocol.ServerState{Metadata: &protocol.Metadata{Title: "T", Year: 2041, Progress: &protocol.Progress{PositionMs: 61_900, DurationMs: 900, SpeedPermille: 0}}},
				protocol.GroupUpdate{PlaybackState: "playing", GroupID: "g"},
			},
			[]string{`session/update {"group_id":"g","playback_state":"playing","metadata":{"timestamp":0,"title":"T","artist":null,"album_artist":null,"album":null,"artwork_url":null,"year":null,"track":null,"repeat":"off","shuffle":false,"track_progress":61,"track_duration":null}}`},
		},
		{"nothing to say", S4, "", []protocol.ServerMessage{protocol.ServerState{}}, nil},

		{"volume, one parameter", S1, "", []protocol.ServerMessage{protocol.ServerCommand{Command: "volume", Volume: 0, Mute: true}}, []string{`server/command {"player":{"command":"volume","volume":0}}`}},
		{"mute, one parameter", R2, "", []protocol.ServerMessage{protocol.ServerCommand{Command: "mute", Volume: 7}}, []string{`server/command {"player":{"command":"mute","mute":false}}`}},
		{"R1 has no commands", R1, "", []protocol.ServerMessage{protocol.ServerCommand{Command: "volume", Volume: 3}}, nil},
		{"delay only if declared", S3, "", []protocol.ServerMessage{protocol.ServerCommand{Command: "set_output_delay", OutputDelayMs: 3}}, nil},
		{"delay only in dialects that have it", R2, `{"player":{"supported_commands":["set_static_delay"]}}`, []protocol.ServerMessage{protocol.ServerCommand{Command: "set_output_delay", OutputDelayMs: 3}}, nil},
		{"delay by its old name", S3, `{"player":{"supported_commands":["set_static_delay"]}}`, []protocol.ServerMessage{protocol.ServerCommand{Command: "set_output_delay", OutputDelayMs: 3}}, []string{`server/command {"player":{"command":"set_static_delay","static_delay_ms":3}}`}},
		{"delay by its new name", S4, `{"player":{"supported_commands":["set_output_delay"]}}`, []protocol.ServerMessage{protocol.ServerCommand{Command: "set_output_delay", OutputDelayMs: 3}}, []string{`server/command {"player":{"command":"set_output_delay","output_delay_ms":3}}`}},

		{"stream start", S4, "", []protocol.ServerMessage{start}, []string{"stream/start " + pcmJSON}},
		{"stream start without a player", S4, "", []protocol.ServerMessage{protocol.StreamStart{}}, nil},
		{"codec header in base64 with padding", S4, "", []protocol.ServerMessage{protocol.StreamStart{Player: &protocol.StreamPlayer{Format: protocol.Format{Codec: "flac", Channels: 2, SampleRate: 44100, BitDepth: 24}, CodecHeader: []byte("fLaC")}}}, []string{`stream/start {"player":{"codec":"flac","sample_rate":44100,"channels":2,"bit_depth":24,"codec_header":"ZkxhQw=="}}`}},
		{"reconfigure: start again", S4, "", []protocol.ServerMessage{start, start}, []string{"stream/start " + pcmJSON}},
		{"reconfigure: R2 too", R2, "", []protocol.ServerMessage{start, start}, []string{"stream/start " + pcmJSON}},
		{"reconfigure: R1 updates", R1, "", []protocol.ServerMessage{start, start}, []string{"stream/update " + pcmJSON}},
		{"R1 starts after an end", R1, "", []protocol.ServerMessage{start, protocol.StreamEnd{}, start}, []string{"stream/start " + pcmJSON}},

		{"clear names the roles", S4, "", []protocol.ServerMessage{protocol.StreamClear{Roles: player}}, []string{`stream/clear {"roles":["player"]}`}},
		{"clear has a payload", S4, "", []protocol.ServerMessage{protocol.StreamClear{}}, []string{`stream/clear {}`}},
		{"clear names no roles with old keys", S1, "", []protocol.ServerMessage{protocol.StreamClear{Roles: player}}, []string{`stream/clear {}`}},
		{"clear of R1 is end and start", R1, "", []protocol.ServerMessage{start, protocol.StreamClear{Roles: player}}, []string{`stream/end {}`, "stream/start " + pcmJSON}},
		{"clear of R2 is end and start", R2, "", []protocol.ServerMessage{start, protocol.StreamClear{}}, []string{`stream/end {}`, "stream/start " + pcmJSON}},
		{"clear of R2 without a stream", R2, "", []protocol.ServerMessage{protocol.StreamClear{}}, nil},
		{"end names the roles", S2, "", []protocol.ServerMessage{protocol.StreamEnd{Roles: []protocol.Role{protocol.RolePlayer, protocol.RoleArtwork}}}, []string{`stream/end {"roles":["player","artwork"]}`}},
		{"end names no roles with old keys", S1, "", []protocol.ServerMessage{protocol.StreamEnd{Roles: player}}, []string{`stream/end {}`}},
		{"end of artwork does not end the player of old keys", S1, "", []protocol.ServerMessage{protocol.StreamEnd{Roles: []protocol.Role{protocol.RoleArtwork}}}, nil},
		{"end of R1 and R2", R2, "", []protocol.ServerMessage{protocol.StreamEnd{Roles: player}}, []string{`stream/end {}`}},

		{"groups", R1, "", []protocol.ServerMessage{protocol.GroupList{Groups: []protocol.GroupListEntry{{GroupID: "g", Name: "Den", State: "stopped", MemberCount: 2}}}}, []string{`group/list {"groups":[{"group_id":"g","name":"Den","state":"idle","member_count":2}]}`}},
		{"groups are R1's", S4, "", []protocol.ServerMessage{protocol.GroupList{}}, nil},
	} {
		t.Run(row.name, func(t *testing.T) {
			w, _ := accept(t, hello(js), row.as)
			if row.state != "" {
				decode(t, w, `{"type":"client/state","payload":`+row.state+`}`)
			}
			var got string
			for _, m := range row.send {
				got = encode(t, w, m)
			}
			var want []string
			for _, line := range row.want {
				typ, payload, _ := strings.Cut(line, " ")
				want = append(want, `{"type":"`+typ+`","payload":`+payload+`}`)
			}
			if want := strings.Join(want, "\n"); got != want {
				t.Errorf("got  %s\nwant %s", got, want)
			}
		})
	}
}

// TestEncodeErrors has what is our own fault.
func TestEncodeErrors(t *testing.T) {
	for _, row := range []struct {
		name string
		m    protocol.ServerMessage
		says string
	}{
		{"volume", protocol.ServerCommand{Command: "volume", Volume: 101}, "got 101, want 0 to 100"},
		{"delay", protocol.ServerCommand{Command: "set_output_delay", OutputDelayMs: -1}, "got -1, want 0 to 5000"},
		{"command", protocol.ServerCommand{Command: "dance"}, `"dance"`},
		{"incomplete format", protocol.StreamStart{Player: &protocol.StreamPlayer{}}, "incomplete"},
		{"flac without header", protocol.StreamStart{Player: &protocol.StreamPlayer{Format: protocol.Format{Codec: "flac", Channels: 2, SampleRate: 48000, BitDepth: 16}}}, "codec header"},
		{"nothing", nil, "no message"},
	} {
		t.Run(row.name, func(t *testing.T) {
			w, _ := accept(t, hello(js), "")
			f, err := w.Encode(row.m)
			if f != nil || err == nil || !strings.Contains(err.Error(), row.says) {
				t.Errorf("got %v, %v, want an error with %q", f, err, row.says)
			}
		})
	}
}
