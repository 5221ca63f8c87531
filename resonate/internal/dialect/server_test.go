package dialect

import (
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"

	"resonatebridge/resonate/protocol"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// hello wraps a payload into a client/hello.
func hello(payload string) Frame {
	return Frame{Data: []byte(`{"type":"client/hello","payload":` + payload + `}`)}
}

// js is what sendspin-js 3.2.1 offers, and the base of most rows.
const js = `{"client_id":"js","name":"Web","version":1,"supported_roles":["player@v1","controller@v1","metadata@v1"],` +
	`"player@v1_support":{"supported_formats":[{"codec":"pcm","sample_rate":48000,"channels":2,"bit_depth":16}],"buffer_capacity":1500000,"supported_commands":["volume","mute"]}}`

func accept(t *testing.T, f Frame, force Name) (*ServerWire, protocol.ClientHello) {
	t.Helper()
	w, h, err := Accept(f, "", func(string) Name { return force })
	if err != nil {
		t.Fatal(err)
	}
	return w, h
}

func decode(t *testing.T, w *ServerWire, text string) (protocol.ClientMessage, []string) {
	t.Helper()
	m, n, err := w.Decode(Frame{Data: []byte(text)})
	if err != nil {
		t.Fatalf("Decode(%s): %v", text, err)
	}
	return m, n
}

// encode returns the frames as text, one per line.
func encode(t *testing.T, w *ServerWire, m protocol.ServerMessage) string {
	t.Helper()
	frames, err := w.Encode(m)
	if err != nil {
		t.Fatalf("Encode(%+v): %v", m, err)
	}
	return lines(frames)
}

func lines(frames []Frame) string {
	var out []string
	for _, f := range frames {
		out = append(out, string(f.Data))
	}
	return strings.Join(out, "\n")
}

// TestAcceptRealHellos has the hellos that released clients send, each with
// its first report. Files hold one frame per line, as on the wire.
func TestAcceptRealHellos(t *testing.T) {
	for _, row := range []struct {
		file, path string
		first      Name // after the hello
		want       Name // after the first report
		roles      string
		formats    int
		buffer     int
		commands   string
		audio      byte
		end        string // stream/end of the player
	}{
		{"sendspin-js-3.2.1", "/sendspin", S2, S4, "player controller metadata", 5, 1572864, "volume mute set_output_delay", 4, `{"roles":["player"]}`},
		{"sendspin-js-1.0.1", "/sendspin", S1, S1, "player controller metadata", 2, 1048576, "volume mute", 4, `{}`},
		{"aiosendspin-2.0.1", "", S1, S1, "player controller metadata", 2, 2000000, "volume mute", 4, `{}`},
		{"aiosendspin-6.1.1", "", S2, S4, "player controller metadata artwork", 2, 2000000, "volume mute set_output_delay", 4, `{"roles":["player"]}`},
		{"aioresonate-0.13.2", "/resonate", R1, R1, "player controller metadata artwork", 4, 1048576, "", 1, `{}`},
		{"aioresonate-0.13.2", "/sendspin", R1, R1, "player controller metadata artwork", 4, 1048576, "", 1, `{}`},
		{"sendspin-go-1.8.1", "", S2, S2, "player metadata", 1, 1048576, "volume mute", 4, `{"roles":["player"]}`},
		{"resonate-go", "/sendspin", R1, R1, "player metadata", 4, 1048576, "", 1, `{}`},
		{"sendspin-cpp-0.7.0", "", S4, S4, "player controller metadata color", 2, 800000, "volume mute set_output_delay", 4, `{"roles":["player"]}`},
		{"sendspin-cpp-0.3.0", "", S3, S3, "player controller metadata", 2, 800000, "volume mute set_output_delay", 4, `{"roles":["player"]}`},
		{"esphome-2026.9.0", "", S2, S3, "player", 3, 800000, "volume mute", 4, `{"roles":["player"]}`},
		{"sendspin-jvm-0.3.0", "", S4, S4, "player controller metadata color", 1, 512000, "volume mute set_output_delay", 4, `{"roles":["player"]}`},
		{"sendspin-dotnet-9.2.0", "", S4, S4, "player controller metadata", 1, 32000000, "volume mute set_output_delay", 4, `{"roles":["player"]}`},
		{"sendspin-rs-0.3.6", "", S4, S4, "player metadata", 2, 1000000, "volume mute", 4, `{"roles":["player"]}`},
		{"transition", "", S4, S4, "player controller", 1, 1000000, "volume mute set_output_delay", 4, `{"roles":["player"]}`},
		{"sendspin-js-6a6a386", "", R2, R2, "player controller metadata", 2, 1048576, "volume mute", 0, `{}`},
	} {
		t.Run(row.file+row.path, func(t *testing.T) {
			data, err := os.ReadFile(filepath.Join("testdata", "hellos", row.file+".jsonl"))
			if err != nil {
				t.Fatal(err)
			}
			frames := strings.Split(strings.TrimSpace(string(data)), "\n")
			w, h, err := Accept(Frame{Data: []byte(frames[0])}, row.path, nil)
			if err != nil {
				t.Fatal(err)
			}
			if got := w.Name(); got != row.first {
				t.Errorf("dialect after the hello: got %s, want %s", got, row.first)
			}
			for _, f := range frames[1:] {
				m, _ := decode(t, w, f)
				st, ok := m.(protocol.ClientState)
				if !ok || st.Available == nil || !*st.Available {
					t.Errorf("first report: got %+v, want an available client", m)
				}
			}
			if got := w.Name(); got != row.want {
				t.Errorf("dialect after the report: got %s, want %s", got, row.want)
			}
			var roles, commands []string
			for _, r := range h.Roles {
				roles = append(roles, bare(r))
			}
			for _, c := range w.Commands() {
				commands = append(commands, strings.ReplaceAll(string(c), " ", "_"))
			}
			if got := strings.Join(roles, " "); got != row.roles {
				t.Errorf("roles: got %q, want %q", got, row.roles)
			}
			if got := strings.Join(commands, " "); got != row.commands {
				t.Errorf("commands: got %q, want %q", got, row.commands)
			}
			if h.Player == nil {
				t.Fatal("no player support")
			}
			if got := len(h.Player.Formats); got != row.formats {
				t.Errorf("formats: got %d, want %d: %v", got, row.formats, h.Player.Formats)
			}
			if got := h.Player.BufferCapacity; got != row.buffer {
				t.Errorf("buffer: got %d, want %d", got, row.buffer)
			}
			audio := w.AppendAudio(nil, protocol.AudioChunk{Timestamp: 0x0102030405060708, Data: []byte{0xAA}})
			if want := []byte{row.audio, 1, 2, 3, 4, 5, 6, 7, 8, 0xAA}; !slices.Equal(audio, want) {
				t.Errorf("audio frame: got %x, want %x", audio, want)
			}
			end := encode(t, w, protocol.StreamEnd{Roles: []protocol.Role{protocol.RolePlayer}})
			if want := `{"type":"stream/end","payload":` + row.end + `}`; end != want {
				t.Errorf("stream/end: got %s, want %s", end, want)
			}
		})
	}
}

// TestClassify has a row for each line of the table of detection.
func TestClassify(t *testing.T) {
	for _, row := range []struct{ name, payload, path, want string }{
		{"2 one versioned role", `{"client_id":"c","version":1,"supported_roles":["controller","metadata@v1"]}`, "/resonate", "S2"},
		{"2 another version only", `{"client_id":"c","version":1,"supported_roles":["player@v2"]}`, "", "S2"},
		{"3 codecs as a list", `{"client_id":"c","supported_roles":["player"],"player_support":{"support_codecs":["pcm"],"support_formats":[]}}`, "/sendspin", "R1"},
		{"3 metadata support", `{"client_id":"c","supported_roles":["metadata"],"metadata_support":{"support_picture_formats":[]}}`, "/sendspin", "R1"},
		{"4 formats of October", `{"client_id":"c","supported_roles":["player"],"player_support":{"support_formats":[]}}`, "", "R2"},
		{"4 formats of November", `{"client_id":"c","supported_roles":["player"],"player_support":{"supported_formats":[]}}`, "", "R2"},
		{"4 artwork role", `{"client_id":"c","supported_roles":["artwork"]}`, "/resonate", "R2"},
		{"4 artwork object", `{"client_id":"c","supported_roles":["metadata"],"artwork_support":{}}`, "", "R2"},
		{"5 passive roles on the new path", `{"client_id":"c","supported_roles":["controller","metadata"]}`, "/sendspin", "R2"},
		{"6 passive roles on the old path", `{"client_id":"c","supported_roles":["controller","metadata"]}`, "/resonate", "R1"},
		{"6 passive roles, dialled", `{"client_id":"c","supported_roles":["controller"]}`, "", "R1"},
		{"6 a player without formats", `{"client_id":"c","supported_roles":["player"]}`, "/sendspin", "R1"},
		{"6 no roles", `{"client_id":"c"}`, "/sendspin", "R1"},
	} {
		t.Run(row.name, func(t *testing.T) {
			w, _, err := Accept(hello(row.payload), row.path, nil)
			if err != nil {
				t.Fatal(err)
			}
			if got := string(w.Name()); got != row.want {
				t.Errorf("got %s, want %s", got, row.want)
			}
		})
	}
}

func TestOverride(t *testing.T) {
	// Some untagged sendspin-go offers unversioned roles but reads Sendspin's audio.
	payload := `{"client_id":"go","version":1,"supported_roles":["player"],"player_support":{"support_codecs":["pcm"],"support_channels":[2],"support_sample_rates":[48000],"support_bit_depth":[16],"buffer_capacity":1}}`
	for _, n := range Names() {
		w, h := accept(t, hello(payload), n)
		if w.Name() != n || w.AppendAudio(nil, protocol.AudioChunk{})[0] != n.audioType() || len(h.Player.Formats) != 1 {
			t.Errorf("forced %s: got %s, audio type %d, formats %v", n, w.Name(), w.AppendAudio(nil, protocol.AudioChunk{})[0], h.Player.Formats)
		}
	}
	w, h := accept(t, hello(payload), S2)
	got := encode(t, w, protocol.ServerHello{ServerID: "s", Name: "Hub", ActiveRoles: h.Roles, Reason: protocol.ReasonPlayback})
	want := `{"type":"server/hello","payload":{"server_id":"s","name":"Hub","version":1,"active_roles":["player"],"connection_reason":"playback"}}`
	if got != want {
		t.Errorf("roles as offered: got %s, want %s", got, want)
	}
	var refused *RefusedError
	if _, _, err := Accept(hello(payload), "", func(string) Name { return "S9" }); !errors.As(err, &refused) || !strings.Contains(refused.Detail, "S9") {
		t.Errorf("unknown override: got %v, want a refusal that names it", err)
	}
}

// TestRefusals has the refusals that can be told from the first frame.
func TestRefusals(t *testing.T) {
	long := strings.Repeat("x", 300)
	list := func(n int, entry string) string {
		return "[" + strings.TrimSuffix(strings.Repeat(entry+",", n), ",") + "]"
	}
	for _, row := range []struct {
		name  string
		frame Frame
		code  int
		text  string
		says  string // in the detail
	}{
		{"not JSON", Frame{Data: []byte("hi")}, 1002, "bad first message", "JSON"},
		{"empty", Frame{}, 1002, "bad first message", "JSON"},
		{"JSON null", Frame{Data: []byte("null")}, 1002, "bad first message", "JSON"},
		{"a list", Frame{Data: []byte("[]")}, 1002, "bad first message", "JSON"},
		{"no type", Frame{Data: []byte(`{"payload":{}}`)}, 1002, "bad first message", "type"},
		{"type is a number", Frame{Data: []byte(`{"type":1}`)}, 1002, "bad first message", "type"},
		{"invalid UTF-8", Frame{Data: []byte("{\"type\":\"client/hello\xff\"}")}, 1002, "bad first message", "UTF-8"},
		{"binary", Frame{Binary: true, Data: []byte{4}}, 1002, "bad first message", "binary"},
		{"wrong first type", Frame{Data: []byte(`{"type":"client/time","payload":{}}`)}, 1002, "bad first message", "client/time"},
		{"payload is a list", Frame{Data: []byte(`{"type":"client/hello","payload":[]}`)}, 1002, "bad first message", "payload"},
		{"roles are no list", hello(`{"client_id":"c","supported_roles":"player@v1"}`), 1002, "bad first message", "supported_roles"},
		{"version 2", hello(`{"client_id":"c","version":2}`), 1002, "version", "got 2"},
		{"version true", hello(`{"client_id":"c","version":true}`), 1002, "version", "got true"},
		{"no client id", hello(`{"name":"x"}`), 1008, "client id", "got nothing"},
		{"client id null", hello(`{"client_id":null}`), 1008, "client id", "got nothing"},
		{"client id empty", hello(`{"client_id":""}`), 1008, "client id", `got ""`},
		{"client id a number", hello(`{"client_id":7}`), 1008, "client id", "got 7"},
		{"client id too long", hello(`{"client_id":"` + long + `"}`), 1008, "client id", "128"},
		{"hello too large", hello(`{"client_id":"c","_":"` + strings.Repeat("x", 64<<10) + `"}`), 1009, "hello too large", "65536"},
		{"too many roles", hello(`{"client_id":"c","supported_roles":` + list(65, `"a@v1"`) + `}`), 1009, "hello too large", "65"},
		{"too many formats", hello(`{"client_id":"c","supported_roles":["player@v1"],"player@v1_support":{"supported_formats":` + list(65, `{}`) + `}}`), 1009, "hello too large", "supported_formats"},
		{"too many codecs", hello(`{"client_id":"c","supported_roles":["player"],"player_support":{"support_codecs":` + list(65, `"pcm"`) + `}}`), 1009, "hello too large", "support_codecs"},
		{"R0 at the root", Frame{Data: []byte(`{"type":"client/hello","payload":{"client_id":"c","name":"x","role":"play","support_codecs":["pcm"]}}`)}, 1002, "unsupported dialect", "update the client"},
		{"R0 of August", Frame{Data: []byte(`{"type":"player/hello","payload":{"player_id":"c"}}`)}, 1002, "unsupported dialect", "update the client"},
		{"encrypted", Frame{Data: []byte(`{"type":"client/init","payload":{"client_id":"k","version":1,"suite":"25519_AESGCM_SHA256"}}`)}, 1002, "unsupported dialect", "encryption"},
	} {
		t.Run(row.name, func(t *testing.T) {
			_, _, err := Accept(row.frame, "/sendspin", nil)
			var r *RefusedError
			if !errors.As(err, &r) {
				t.Fatalf("got %v, want a refusal", err)
			}
			if r.Code != row.code || r.Text != row.text || r.Redial {
				t.Errorf("got %d %q redial %v, want %d %q and no redial", r.Code, r.Text, r.Redial, row.code, row.text)
			}
			if !strings.Contains(r.Detail, row.says) {
				t.Errorf("detail: got %q, want it to say %q", r.Detail, row.says)
			}
			if len(r.Text) > 123 || len(r.Detail) > 400 {
				t.Errorf("too long: %q, %q", r.Text, r.Detail)
			}
		})
	}
}

// TestHelloDeviations has what is wrong in a hello but accepted.
func TestHelloDeviations(t *testing.T) {
	format := `{"codec":"pcm","sample_rate":48000,"channels":2,"bit_depth":16}`
	for _, row := range []struct {
		name, payload string
		check         func(w *ServerWire, h protocol.ClientHello) bool
		note          string // in the notes; "" for none
	}{
		{
			"old key under versioned roles",
			`{"client_id":"c","version":1,"supported_roles":["player@v1"],"player_support":{"supported_formats":[` + format + `],"buffer_capacity":7}}`,
			func(w *ServerWire, h protocol.ClientHello) bool { return h.Player.BufferCapacity == 7 && w.oldKeys },
			"taken as player@v1_support",
		},
		{
			"both keys: the versioned one wins",
			`{"client_id":"c","version":1,"supported_roles":["player@v1"],"player_support":{"buffer_capacity":7},"player@v1_support":{"buffer_capacity":8}}`,
			func(w *ServerWire, h protocol.ClientHello) bool { return h.Player.BufferCapacity == 8 && !w.oldKeys },
			"",
		},
		{
			"support of a role that is not listed",
			`{"client_id":"c","version":1,"supported_roles":["metadata@v1"],"player@v1_support":{"buffer_capacity":8},"artwork@v1_support":{}}`,
			func(_ *ServerWire, h protocol.ClientHello) bool { return h.Player == nil && h.Artwork == nil },
			"",
		},
		{
			"null as support",
			`{"client_id":"c","version":1,"supported_roles":["player@v1","metadata@v1"],"player@v1_support":null}`,
			func(_ *ServerWire, h protocol.ClientHello) bool { return h.Player == nil && len(h.Roles) == 2 },
			"",
		},
		{
			"empty support of roles that have none",
			`{"client_id":"c","version":1,"supported_roles":["metadata@v1"],"metadata@v1_support":{},"controller@v1_support":{}}`,
			func(w *ServerWire, h protocol.ClientHello) bool { return len(h.Roles) == 1 && !w.oldKeys },
			"",
		},
		{
			"a text as support",
			`{"client_id":"c","version":1,"supported_roles":["player@v1"],"player@v1_support":"yes"}`,
			func(_ *ServerWire, h protocol.ClientHello) bool { return h.Player == nil },
			"player@v1_support",
		},
		{
			"buffer capacity in a text",
			`{"client_id":"c","version":1,"supported_roles":["player@v1"],"player@v1_support":{"supported_formats":[` + format + `],"buffer_capacity":"4096"}}`,
			func(_ *ServerWire, h protocol.ClientHello) bool { return h.Player.BufferCapacity == 4096 },
			"buffer_capacity",
		},
		{
			"buffer capacity true: no usable player",
			`{"client_id":"c","version":1,"supported_roles":["player@v1"],"player@v1_support":{"supported_formats":[` + format + `],"buffer_capacity":true}}`,
			func(_ *ServerWire, h protocol.ClientHello) bool { return h.Player.BufferCapacity == 0 },
			"buffer_capacity",
		},
		{
			"buffer capacity negative",
			`{"client_id":"c","version":1,"supported_roles":["player@v1"],"player@v1_support":{"supported_formats":[` + format + `],"buffer_capacity":-1}}`,
			func(_ *ServerWire, h protocol.ClientHello) bool { return h.Player.BufferCapacity == 0 },
			"buffer_capacity",
		},
		{
			"mac address at the root",
			`{"client_id":"c","version":1,"supported_roles":[],"mac_address":"AA-BB-CC-00-11-22"}`,
			func(_ *ServerWire, h protocol.ClientHello) bool { return h.Device.MACAddress == "aa:bb:cc:00:11:22" },
			"",
		},
		{
			"missing version",
			`{"client_id":"c","supported_roles":[]}`,
			func(_ *ServerWire, h protocol.ClientHello) bool { return h.Version == 1 },
			"version",
		},
		{
			"version as a float",
			`{"client_id":"c","version":1.0}`,
			func(_ *ServerWire, h protocol.ClientHello) bool { return h.Version == 1 },
			"",
		},
		{
			"an id of 128 bytes, any bytes",
			`{"client_id":"` + strings.Repeat("ä", 64) + `","version":1}`,
			func(_ *ServerWire, h protocol.ClientHello) bool { return h.ClientID == strings.Repeat("ä", 64) },
			"",
		},
		{
			"an upper-case MAC as id stays",
			`{"client_id":"AA:BB:CC:00:11:22","version":1}`,
			func(_ *ServerWire, h protocol.ClientHello) bool { return h.ClientID == "AA:BB:CC:00:11:22" },
			"",
		},
		{
			"control characters in names",
			`{"client_id":"c","version":1,"name":"Kit\u001b[31mchen\n\u0000","device_info":{"manufacturer":"A\tB"}}`,
			func(_ *ServerWire, h protocol.ClientHello) bool {
				return h.Name == "Kit[31mchen" && h.Device.Manufacturer == "AB"
			},
			"",
		},
		{
			"a number as name",
			`{"client_id":"c","version":1,"name":5}`,
			func(_ *ServerWire, h protocol.ClientHello) bool { return h.Name == "" },
			"name",
		},
		{
			"unknown roles",
			`{"client_id":"c","version":1,"supported_roles":["player@v2","source@v1","_app@v1","visualizer@_draft_r1","metadata@v1","metadata@v1",7]}`,
			func(_ *ServerWire, h protocol.ClientHello) bool {
				return slices.Equal(h.Roles, []protocol.Role{protocol.RoleMetadata})
			},
			"player@v2",
		},
		{
			"unknown codec and broken formats are skipped",
			`{"client_id":"c","version":1,"supported_roles":["player@v1"],"player@v1_support":{"supported_formats":[{"codec":"mp3","sample_rate":48000,"channels":2,"bit_depth":16},7,{"codec":"pcm"},{"codec":"pcm","sample_rate":-1,"channels":2,"bit_depth":16},` + format + `],"buffer_capacity":1}}`,
			func(_ *ServerWire, h protocol.ClientHello) bool { return len(h.Player.Formats) == 1 },
			"mp3",
		},
		{
			"encrypted-era keys",
			`{"client_id":"c","version":1,"supported_roles":["metadata@v1"],"unpaired_access":{"enabled":true}}`,
			func(w *ServerWire, _ protocol.ClientHello) bool { return w.Name() == S4 },
			"unpaired_access",
		},
		{
			"device info is a text",
			`{"client_id":"c","version":1,"device_info":"x"}`,
			func(_ *ServerWire, h protocol.ClientHello) bool { return h.Device == (protocol.DeviceInfo{}) },
			"device_info",
		},
		{
			"equal keys: the last counts",
			`{"client_id":"a","client_id":"c","version":1}`,
			func(_ *ServerWire, h protocol.ClientHello) bool { return h.ClientID == "c" },
			"",
		},
		{
			"keys match exactly",
			`{"client_id":"c","CLIENT_ID":"d","version":1,"NAME":"x"}`,
			func(_ *ServerWire, h protocol.ClientHello) bool { return h.ClientID == "c" && h.Name == "" },
			"",
		},
		{
			"R1's lists span formats by codec, rate, depth, channels",
			`{"client_id":"c","supported_roles":["player"],"player_support":{"support_codecs":["flac","pcm"],"support_channels":[2,1],"support_sample_rates":[48000,44100],"support_bit_depth":[16],"buffer_capacity":1}}`,
			func(_ *ServerWire, h protocol.ClientHello) bool {
				f := h.Player.Formats
				return len(f) == 8 && f[0] == protocol.Format{Codec: "flac", Channels: 2, SampleRate: 48000, BitDepth: 16} &&
					f[1].Channels == 1 && f[2].SampleRate == 44100 && f[4].Codec == "pcm"
			},
			"version",
		},
		{
			"R1's lists are bounded",
			`{"client_id":"c","version":1,"supported_roles":["player"],"player_support":{"support_codecs":["pcm"],"support_channels":[1,2,3,4,5,6,7,8],"support_sample_rates":[1,2,3,4,5,6,7,8],"support_bit_depth":[1,2,3,4,5,6,7,8],"buffer_capacity":1}}`,
			func(_ *ServerWire, h protocol.ClientHello) bool { return len(h.Player.Formats) == maxProduct },
			"256",
		},
		{
			"a bad artwork channel keeps its place",
			`{"client_id":"c","version":1,"supported_roles":["artwork@v1"],"artwork@v1_support":{"channels":[{"source":"album","format":"gif","media_width":1,"media_height":1},{"source":"artist","format":"png","width":3,"height":4},{"source":"none"},{},{"source":"album"}]}}`,
			func(_ *ServerWire, h protocol.ClientHello) bool {
				c := h.Artwork.Channels
				return len(c) == 4 && c[0].Source == "none" && c[1] == protocol.ArtworkChannel{Source: "artist", Format: "png", Width: 3, Height: 4}
			},
			"channel",
		},
	} {
		t.Run(row.name, func(t *testing.T) {
			w, h := accept(t, hello(row.payload), "")
			if !row.check(w, h) {
				t.Errorf("got %+v, player %+v, artwork %+v, old keys %v", h, h.Player, h.Artwork, w.oldKeys)
			}
			_, notes := decode(t, w, `{"type":"client/time","payload":{"client_transmitted":1}}`)
			if row.note == "" && len(notes) > 0 || !strings.Contains(strings.Join(notes, "\n"), row.note) {
				t.Errorf("notes: got %q, want %q", notes, row.note)
			}
			if _, again := decode(t, w, `{"type":"client/time","payload":{"client_transmitted":1}}`); len(again) > 0 {
				t.Errorf("notes came twice: %q", again)
			}
		})
	}
}

// TestConcurrentUse has the reader and the writer of a connection at work at
// once, for the race detector, and sees that the writer learns.
func TestConcurrentUse(t *testing.T) {
	w, _ := accept(t, hello(js), "")
	state := Frame{Data: []byte(`{"type":"client/state","payload":{"player":{"output_delay_ms":1,"required_lead_time_ms":1,"min_buffer_ms":1,"supported_commands":["set_output_delay"]}}}`)}
	var wg sync.WaitGroup
	wg.Go(func() {
		for range 100 {
			if _, _, err := w.Decode(state); err != nil {
				t.Error(err)
			}
		}
	})
	wg.Go(func() {
		for range 100 {
			w.Commands()
			w.Name()
		}
	})
	for {
		frames, err := w.Encode(protocol.ServerCommand{Command: protocol.CommandSetOutputDelay, OutputDelayMs: 1})
		if err != nil {
			t.Fatal(err)
		}
		if len(frames) == 1 { // declared by now
			break
		}
		runtime.Gosched()
	}
	wg.Wait()
	if got := w.Name(); got != S4 {
		t.Errorf("got %s, want S4", got)
	}
}

// A long name is cut, at a rune and never in it: its speaker is not to vanish
// for it.
func TestLongNameIsCut(t *testing.T) {
	name := strings.Repeat("ü", 200) // 400 bytes
	_, got, err := Accept(hello(`{"client_id":"c","name":"`+name+`","supported_roles":["controller@v1"]}`), "/sendspin", nil)
	if err != nil || got.Name != strings.Repeat("ü", 128) {
		t.Errorf("got %d bytes, %v; want 256 bytes, whole characters", len(got.Name), err)
	}
}
