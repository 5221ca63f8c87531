package dialect

import (
	"errors"
	"strings"
	"testing"

	"resonatebridge/resonate/protocol"
)

func client(t *testing.T, n Name) *ClientWire {
	t.Helper()
	w, err := NewClient(n)
	if err != nil {
		t.Fatal(err)
	}
	w.Hello(transcriptHello())
	return w
}

func TestNewClient(t *testing.T) {
	for _, row := range []struct {
		name Name
		says string // "" for no error
	}{
		{R1, ""},
		{S4, ""},
		{G1, ""},
		{G2, ""},
		{"", "unknown"},
		{"s4", `"s4" is unknown; use one of [R1 R2 S1 S2 S3 S4 G1 G2]`},
	} {
		w, err := NewClient(row.name)
		if row.says == "" {
			if w == nil || err != nil {
				t.Errorf("%q: got %v", row.name, err)
			}
			continue
		}
		if err == nil || !strings.Contains(err.Error(), row.says) || !strings.Contains(err.Error(), "S4") {
			t.Errorf("%q: got %v, want an error with %q and the dialects", row.name, err, row.says)
		}
	}
}

func TestService(t *testing.T) {
	for _, row := range []struct {
		name                 Name
		client, server, path string
	}{
		{R1, "_resonate._tcp", "_resonate-server._tcp", "/resonate"},
		{R2, "_resonate._tcp", "_resonate-server._tcp", "/resonate"},
		{S1, "_sendspin._tcp", "_sendspin-server._tcp", "/sendspin"},
		{S4, "_sendspin._tcp", "_sendspin-server._tcp", "/sendspin"},
		{G1, "_sendspin._tcp", "_sendspin-server._tcp", "/sendspin"},
		{G2, "_sendspin._tcp", "_sendspin-server._tcp", "/sendspin"},
		{"G3", "", "", ""},
	} {
		c, s, p := row.name.Service()
		if c != row.client || s != row.server || p != row.path {
			t.Errorf("%s: got %s %s %s, want %s %s %s", row.name, c, s, p, row.client, row.server, row.path)
		}
	}
}

// TestReadServers has what servers send beside our own. Each row is one
// connection; only the last frame is looked at.
func TestReadServers(t *testing.T) {
	const key = "B6N8vBQgk8i3VdwbEOhstCY3StFqqFPtC9_AsrhtHHw"
	full := `{"type":"server/state","payload":{"metadata":{"timestamp":1,"title":"T","year":1999,"progress":{"track_progress":1,"track_duration":2,"playback_speed":3},"repeat":"one","shuffle":true},"controller":{"supported_commands":["play"],"volume":5,"muted":true}}}`
	for _, row := range []struct {
		name   string
		as     Name
		frames []string
		want   string
	}{
		{"hello without roles and reason", S4, []string{`{"type":"server/hello","payload":{"server_id":"s","name":"N\u0007","version":1}}`}, `{"ActiveRoles":["player@v1","controller@v1","metadata@v1","color@v1","artwork@v1"],"Name":"N","Reason":"discovery","ServerID":"s","Version":1}`},
		{"hello with unknown roles and reason", S4, []string{`{"type":"server/hello","payload":{"server_id":"s","version":1,"active_roles":["player@v1","_x@v1"],"connection_reason":"love"}}`}, `{"ActiveRoles":["player@v1"],"Name":"","Reason":"discovery","ServerID":"s","Version":1}`},
		{"hello with no role active", S4, []string{`{"type":"server/hello","payload":{"server_id":"s","version":1,"active_roles":[]}}`}, `{"Name":"","Reason":"discovery","ServerID":"s","Version":1}`},

		{"group: paused", S2, []string{`{"type":"group/update","payload":{"playback_state":"paused","group_id":"g","group_name":"Den"}}`}, `{"GroupID":"g","GroupName":"Den","PlaybackState":"paused"}`},
		{"group: delta", S2, []string{`{"type":"group/update","payload":{"playback_state":"playing","group_id":"g","group_name":"Den"}}`, `{"type":"group/update","payload":{"group_name":"Hall"}}`}, `{"GroupID":"g","GroupName":"Hall","PlaybackState":"playing"}`},
		{"group: unknown state keeps the old one", S2, []string{`{"type":"group/update","payload":{"playback_state":"playing","group_id":"g"}}`, `{"type":"group/update","payload":{"playback_state":"napping"}}`}, `{"GroupID":"g","GroupName":"","PlaybackState":"playing"}`},
		{"group: null clears", R2, []string{`{"type":"group/update","payload":{"playback_state":"playing","group_id":"g","group_name":"Den"}}`, `{"type":"group/update","payload":{"playback_state":null,"group_name":null}}`}, `{"GroupID":"g","GroupName":"","PlaybackState":"stopped"}`},
		{"group of R1", S4, []string{`{"type":"group/update","payload":{"supported_commands":["play"],"members":[{"client_id":"a","name":"A"}],"session_id":null,"volume":5,"muted":false}}`}, `{"Controller":{"Commands":["play"],"Members":[{"ClientID":"a","Name":"A"}],"Muted":false,"Repeat":"off","SeekMaxMs":0,"Shuffle":false,"Volume":5}}`},

		{"metadata: absent is unchanged, null is cleared", S3, []string{full, `{"type":"server/state","payload":{"metadata":{"timestamp":2,"year":null,"artist":"A"}}}`}, `{"Metadata":{"Album":"","AlbumArtist":"","Artist":"A","ArtworkURL":"","Progress":{"DurationMs":2,"PositionMs":1,"SpeedPermille":3},"Repeat":"one","Shuffle":true,"Timestamp":2,"Title":"T","Track":0,"Year":0}}`},
		{"metadata: a server with a key sends all", S4, []string{`{"type":"server/hello","payload":{"server_id":"` + key + `","version":1}}`, full, `{"type":"server/state","payload":{"metadata":{"timestamp":2}}}`}, `{"Metadata":{"Album":"","AlbumArtist":"","Artist":"","ArtworkURL":"","Repeat":"off","Shuffle":false,"Timestamp":2,"Title":"","Track":0,"Year":0}}`},
		{"metadata: null clears the role", S4, []string{full, `{"type":"server/state","payload":{"metadata":null}}`}, `{"Metadata":{"Album":"","AlbumArtist":"","Artist":"","ArtworkURL":"","Repeat":"off","Shuffle":false,"Timestamp":0,"Title":"","Track":0,"Year":0}}`},
		{"metadata: progress cleared", S4, []string{full, `{"type":"server/state","payload":{"metadata":{"timestamp":2,"title":null,"year":null,"progress":null,"repeat":null}}}`}, `{"Metadata":{"Album":"","AlbumArtist":"","Artist":"","ArtworkURL":"","Repeat":"one","Shuffle":true,"Timestamp":2,"Title":"","Track":0,"Year":0}}`},
		{"metadata: flat in milliseconds", R2, []string{`{"type":"server/state","payload":{"metadata":{"timestamp":2,"track_progress":1500,"track_duration":9000,"playback_speed":1000}}}`}, `{"Metadata":{"Album":"","AlbumArtist":"","Artist":"","ArtworkURL":"","Progress":{"DurationMs":9000,"PositionMs":1500,"SpeedPermille":1000},"Repeat":"","Shuffle":false,"Timestamp":2,"Title":"","Track":0,"Year":0}}`},
		{"controller: missing keys stay, modes come from the metadata", S4, []string{full, `{"type":"server/state","payload":{"controller":{"volume":6}}}`}, `{"Controller":{"Commands":["play"],"Muted":true,"Repeat":"one","SeekMaxMs":0,"Shuffle":true,"Volume":6}}`},
		{"controller: null clears the role", S4, []string{full, `{"type":"server/state","payload":{"controller":null}}`}, `{"Controller":{"Muted":false,"Repeat":"off","SeekMaxMs":0,"Shuffle":false,"Volume":0}}`},
		{"state of another role", S4, []string{`{"type":"server/state","payload":{"color":{"timestamp":1}}}`}, "ignored"},

		{"session of R1 without metadata", R1, []string{`{"type":"session/update","payload":{"group_id":"g","playback_state":"paused"}}`}, `{"GroupID":"g","GroupName":"","PlaybackState":"paused"}`},
		{"session of R1 in seconds", R1, []string{`{"type":"session/update","payload":{"group_id":"g","playback_state":"playing","metadata":{"timestamp":1,"title":"T","track_progress":1.5,"track_duration":60,"playback_speed":1}}}`}, `{"Group":{"GroupID":"g","GroupName":"","PlaybackState":"playing"},"Metadata":{"Album":"","AlbumArtist":"","Artist":"","ArtworkURL":"","Progress":{"DurationMs":60000,"PositionMs":1500,"SpeedPermille":1000},"Repeat":"","Shuffle":false,"Timestamp":1,"Title":"T","Track":0,"Year":0}}`},
		{"groups of R1", R1, []string{`{"type":"group/list","payload":{"groups":[{"group_id":"g","name":"Den","state":"idle","member_count":1}]}}`}, `{"Groups":[{"GroupID":"g","MemberCount":1,"Name":"Den","State":"stopped"}]}`},

		{"flat command of resonate-go", R1, []string{`{"type":"server/command","payload":{"command":"volume","volume":30,"mute":false}}`}, `{"Command":"volume","Mute":false,"OutputDelayMs":0,"Volume":30}`},
		{"command beyond the range is clamped", S4, []string{`{"type":"server/command","payload":{"player":{"command":"set_output_delay","output_delay_ms":9999}}}`}, `{"Command":"set_output_delay","Mute":false,"OutputDelayMs":5000,"Volume":0}`},
		{"unknown command", S4, []string{`{"type":"server/command","payload":{"player":{"command":"dance"}}}`}, "ignored"},
		{"command to another role", S4, []string{`{"type":"server/command","payload":{"source":{}}}`}, "ignored"},

		{"stream start of another role", S4, []string{`{"type":"stream/start","payload":{"artwork":{"channels":[]}}}`}, `{"Transmitted":0}`},
		{"stream start says when it was sent", S4, []string{`{"type":"stream/start","payload":{"server_transmitted":1,"player":{"codec":"opus","sample_rate":48000,"channels":2}}}`}, `{"Player":{"BitDepth":0,"Channels":2,"Codec":"opus","SampleRate":48000},"Transmitted":0}`},
		{"codec header without padding", S4, []string{`{"type":"stream/start","payload":{"player":{"codec":"flac","sample_rate":48000,"channels":2,"bit_depth":16,"codec_header":"ZkxhQw"}}}`}, `{"Player":{"BitDepth":16,"Channels":2,"Codec":"flac","CodecHeader":"ZkxhQw==","SampleRate":48000},"Transmitted":0}`},
		{
			"stream update merges", R1,
			[]string{`{"type":"stream/start","payload":{"player":{"codec":"flac","sample_rate":48000,"channels":2,"bit_depth":16,"codec_header":"ZkxhQw=="}}}`, `{"type":"stream/update","payload":{"player":{"sample_rate":44100}}}`},
			`{"Player":{"BitDepth":16,"Channels":2,"Codec":"flac","CodecHeader":"ZkxhQw==","SampleRate":44100},"Transmitted":0}`,
		},
		{
			"another codec voids the header", R1,
			[]string{`{"type":"stream/start","payload":{"player":{"codec":"flac","sample_rate":48000,"channels":2,"bit_depth":16,"codec_header":"ZkxhQw=="}}}`, `{"type":"stream/update","payload":{"player":{"codec":"pcm"}}}`},
			`{"Player":{"BitDepth":16,"Channels":2,"Codec":"pcm","SampleRate":48000},"Transmitted":0}`,
		},
		{"end without payload", R1, []string{`{"type":"stream/end"}`}, `{}`},
		{"end with versioned roles", S1, []string{`{"type":"stream/end","payload":{"roles":["player@v1","x"]}}`}, `{"Roles":["player@v1"]}`},
		{"end of unknown roles only", S4, []string{`{"type":"stream/end","payload":{"roles":["x"]}}`}, "ignored"},
		{"clear of all", S4, []string{`{"type":"stream/clear","payload":{"server_transmitted":3}}`}, `{"Transmitted":0}`},
		{"unknown type", S4, []string{`{"type":"server/activate","payload":{}}`}, "ignored"},
	} {
		t.Run(row.name, func(t *testing.T) {
			w := client(t, row.as)
			var m protocol.ServerMessage
			for _, f := range row.frames {
				var err error
				if m, err = w.Decode(Frame{Data: []byte(f)}); err != nil {
					t.Fatal(err)
				}
			}
			if got := show(t, m); got != row.want {
				t.Errorf("got  %s\nwant %s", got, row.want)
			}
		})
	}
}

func TestReadServerErrors(t *testing.T) {
	for _, row := range []struct {
		name  string
		frame Frame
		want  string
	}{
		{"no server id", Frame{Data: []byte(`{"type":"server/hello","payload":{"version":1}}`)}, "server/hello: server_id: got nothing"},
		{"no version", Frame{Data: []byte(`{"type":"server/hello","payload":{"server_id":"s"}}`)}, "server/hello: version: got nothing"},
		{"time without a part", Frame{Data: []byte(`{"type":"server/time","payload":{"client_transmitted":1,"server_received":2}}`)}, "server/time: server_transmitted: got nothing"},
		{"metadata without a time", Frame{Data: []byte(`{"type":"server/state","payload":{"metadata":{}}}`)}, "server/state: metadata.timestamp: got nothing"},
		{"mute as a number", Frame{Data: []byte(`{"type":"server/command","payload":{"player":{"command":"mute","mute":1}}}`)}, "server/command: player.mute: got 1"},
		{"stream without a rate", Frame{Data: []byte(`{"type":"stream/start","payload":{"player":{"codec":"pcm","channels":2,"bit_depth":16}}}`)}, "stream/start: player.sample_rate: got nothing"},
		{"header that is not base64", Frame{Data: []byte(`{"type":"stream/start","payload":{"player":{"codec":"pcm","channels":2,"sample_rate":48000,"bit_depth":16,"codec_header":"?"}}}`)}, `stream/start: player.codec_header: got "?"`},
		{"session without a group", Frame{Data: []byte(`{"type":"session/update","payload":{}}`)}, "session/update: group_id: got nothing"},
		{"no JSON", Frame{Data: []byte("x")}, "text frame: envelope"},
		{"audio too short", Frame{Binary: true, Data: []byte{4, 0, 0}}, "binary frame: length: got 3, want at least 9 bytes"},
	} {
		t.Run(row.name, func(t *testing.T) {
			m, err := client(t, S4).Decode(row.frame)
			var d *protocol.DecodeError
			if m != nil || !errors.As(err, &d) || !strings.Contains(err.Error(), row.want) {
				t.Errorf("got %v, %v, want %s", m, err, row.want)
			}
		})
	}
}

// TestAudioType: a client takes only frames that begin with its dialect's byte.
func TestAudioType(t *testing.T) {
	for _, n := range Names() {
		for typ := range 24 {
			m, err := client(t, n).Decode(Frame{Binary: true, Data: []byte{byte(typ), 0, 0, 0, 0, 0, 0, 0, 9, 7}})
			if err != nil {
				t.Fatal(err)
			}
			c, ok := m.(protocol.AudioChunk)
			if ok != (byte(typ) == n.audioType()) {
				t.Errorf("%s, type %d: got %v", n, typ, m)
			}
			if ok && (c.Timestamp != 9 || len(c.Data) != 1 || c.Data[0] != 7) {
				t.Errorf("%s: got %+v, want time 9 and one byte", n, c)
			}
		}
	}
}

// TestClientStates has how states that are told in pieces are spelled.
func TestClientStates(t *testing.T) {
	for _, row := range []struct {
		name string
		as   Name
		send []protocol.ClientMessage
		want string // payload of the last
	}{
		{"R1 repeats all", R1, []protocol.ClientMessage{
			protocol.ClientState{Player: &protocol.PlayerState{Volume: new(10), PlaybackReported: new(true)}},
			protocol.ClientState{Player: &protocol.PlayerState{Muted: new(true)}},
		}, `{"state":"playing","volume":10,"muted":true}`},
		{"S1 repeats the state", S1, []protocol.ClientMessage{
			protocol.ClientState{SyncError: new(true)},
			protocol.ClientState{Player: &protocol.PlayerState{Volume: new(10)}},
		}, `{"player":{"state":"error","volume":10}}`},
		{"S2 says it at the root", S2, []protocol.ClientMessage{protocol.ClientState{Available: new(false)}}, `{"state":"external_source"}`},
		{"an error does not make it available", S2, []protocol.ClientMessage{
			protocol.ClientState{Available: new(false)}, protocol.ClientState{SyncError: new(true)},
		}, `{"state":"external_source"}`},
		{"an error ends", S3, []protocol.ClientMessage{
			protocol.ClientState{SyncError: new(true)}, protocol.ClientState{SyncError: new(false)},
		}, `{"state":"synchronized"}`},
		{"back again", S4, []protocol.ClientMessage{
			protocol.ClientState{Available: new(false)}, protocol.ClientState{Available: new(true)},
		}, `{"state":"synchronized","available":true}`},
		{"S3 lists no command", S3, []protocol.ClientMessage{
			protocol.ClientState{Player: &protocol.PlayerState{Commands: []protocol.PlayerCommandName{}}},
		}, `{"state":"synchronized","player":{"supported_commands":[]}}`},
		{"a format is a message of its own", S4, []protocol.ClientMessage{
			protocol.ClientState{Player: &protocol.PlayerState{Format: &protocol.Format{Codec: "pcm", Channels: 2}}},
		}, `{"state":"synchronized","available":true,"player":{}}` + "\n" + `stream/request-format{"player":{"codec":"pcm","channels":2}}`},
	} {
		t.Run(row.name, func(t *testing.T) {
			w := client(t, row.as)
			var got string
			for _, m := range row.send {
				got = lines(w.Encode(m))
			}
			for _, typ := range []string{"client/state", "player/update"} {
				got = strings.Replace(got, `{"type":"`+typ+`","payload":`, "", 1)
			}
			got = strings.Replace(got, `{"type":"stream/request-format","payload":`, "stream/request-format", 1)
			got = strings.ReplaceAll(got+"\n", "}\n", "\n")
			if want := row.want + "\n"; got != want {
				t.Errorf("got  %swant %s", got, want)
			}
		})
	}
	passive, err := NewClient(S1)
	if err != nil {
		t.Fatal(err)
	}
	passive.Hello(protocol.ClientHello{ClientID: "c", Roles: []protocol.Role{protocol.RoleController}})
	if got := passive.Encode(protocol.ClientState{Available: new(true)}); got != nil {
		t.Errorf("a controller of S1 has no state: got %s", lines(got))
	}
}
