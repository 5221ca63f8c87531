package dialect

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
	"testing"

	"resonatebridge/resonate/protocol"
	"resonatebridge/timesync"
)

// current is what a client of the current dialect offers, and the base of most
// rows.
const current = `{"name":"Kitchen","supported_roles":["player@v1","artwork@v1","visualizer@v1","color@v1"],` +
	`"player@v1_support":{"supported_formats":[{"codec":"pcm","sample_rate":48000,"channels":2,"bit_depth":16}],"buffer_capacity":1000},` +
	`"visualizer@v1_support":{"buffer_capacity":4096},` +
	`"supported_pair_methods":{"pairing_psk":{"locations":["device"]}},"unpaired_access":{"enabled":true}}`

func acceptEncrypted(t *testing.T, payload string) (*ServerWire, protocol.ClientHello) {
	t.Helper()
	w, h, err := AcceptEncrypted(hello(payload), "id")
	if err != nil {
		t.Fatal(err)
	}
	return w, h
}

func TestFrames(t *testing.T) {
	for _, message := range []string{"", "\x00", "\x00{}", "\x04abc", "\x01"} {
		f := FrameOf([]byte(message))
		if f.Binary != (message == "" || message[0] != 0) {
			t.Errorf("%q: got %+v", message, f)
		}
		if got := f.AppendMessage([]byte("x")); string(got) != "x"+message {
			t.Errorf("got %q, want x%q", got, message)
		}
	}
}

// TestSigns: each sign of age changes what depends on it and nothing else.
func TestSigns(t *testing.T) {
	for _, row := range []struct {
		name, payload string
		want          string // old, fragments, pairing, header, pictures as one
	}{
		{"none", current, "G2 false false false 13 false"},
		{"trust_level", `{"trust_level":"user",` + current[1:], "G1 true true false 9 false"},
		{"trust_level null is none", `{"trust_level":null,` + current[1:], "G2 false false false 13 false"},
		{"player commands", strings.Replace(current, `"buffer_capacity":1000`, `"buffer_capacity":1000,"supported_commands":["volume"]`, 1), "G1 true true false 9 false"},
		{"no player commands", strings.Replace(current, `"buffer_capacity":1000`, `"buffer_capacity":1000,"supported_commands":[]`, 1), "G2 false false false 13 false"},
		{"list of methods", strings.Replace(current, `{"pairing_psk":{"locations":["device"]}}`, `[{"method":"pairing_psk"}]`, 1), "G1 true false true 13 false"},
		{"artwork in the hello", `{"artwork@v1_support":{"channels":[]},` + current[1:], "G1 true false false 13 true"},
		{"visualizer in the hello", strings.Replace(current, `"visualizer@v1_support":{`, `"visualizer@v1_support":{"types":["beat"],"rate_max":10,`, 1), "G1 true false false 13 false"},
		{"unversioned keys", strings.Replace(current, `"player@v1_support"`, `"player_support"`, 1), "G1 true false false 13 false"},
	} {
		t.Run(row.name, func(t *testing.T) {
			w, h := acceptEncrypted(t, row.payload)
			header := len(w.AppendAudio(nil, protocol.AudioChunk{}))
			frames, err := w.Encode(protocol.ArtworkImage{Data: []byte("picture")})
			if err != nil {
				t.Fatal(err)
			}
			got := fmt.Sprintln(w.Name(), w.Old(), w.OldFragments(), w.OldPairing(), header, len(frames) == 1)
			if got != row.want+"\n" {
				t.Errorf("got %swant %s", got, row.want)
			}
			if !h.HasRole(protocol.RolePlayer) || h.Player == nil || h.ClientID != "id" || h.Version != 1 || h.Visual == nil {
				t.Errorf("got %+v", h)
			}
		})
	}
}

func TestEncryptedHellos(t *testing.T) {
	methods := func(m string) string {
		return strings.Replace(current, `{"pairing_psk":{"locations":["device"]}}`, m, 1)
	}
	for _, row := range []struct {
		name, payload string
		want          string // roles and trust
		note          string
	}{
		{"all", current, `[player@v1 artwork@v1 visualizer@v1 color@v1] {"Methods":{"PSK":{"Locations":["device"]}},"Unpaired":true}`, ""},
		{"player without support", `{"supported_roles":["player@v1","controller@v1"]}`, `[controller@v1] {"Methods":{},"Unpaired":false}`, "unpaired_access: missing, taken as off"},
		{"newer versions and own roles", `{"supported_roles":["player@v2","_x@v1","metadata@v1"]}`, `[metadata@v1] {"Methods":{},"Unpaired":false}`, `got "player@v2": skipped`},
		{"access is no boolean", `{"unpaired_access":{"enabled":1}}`, `[] {"Methods":{},"Unpaired":false}`, ""},
		{"no methods", methods(`{}`), `[player@v1 artwork@v1 visualizer@v1 color@v1] {"Methods":{},"Unpaired":true}`, ""},
		{
			"dynamic", methods(`{"pairing_psk":{"locations":["moon","leaflet"]},"dynamic_pairing_code":{"out_channels":["speaker","smell"],"formats":["qr_code","morse"]},"telepathy":7}`),
			`[player@v1 artwork@v1 visualizer@v1 color@v1] {"Methods":{"Dynamic":{"Channels":["speaker"],"Formats":["qr_code"]},"PSK":{"Locations":["leaflet"]}},"Unpaired":true}`, "",
		},
		{"dynamic in no known way", methods(`{"dynamic_pairing_code":{"out_channels":["smell"],"formats":["digits"]}}`), `[player@v1 artwork@v1 visualizer@v1 color@v1] {"Methods":{},"Unpaired":true}`, ""},
		{
			"two codes", methods(`{"static_pairing_code":{},"dynamic_pairing_code":{"out_channels":["display"],"formats":["digits"]}}`),
			`[player@v1 artwork@v1 visualizer@v1 color@v1] {"Methods":{"Dynamic":{"Channels":["display"],"Formats":["digits"]}},"Unpaired":true}`, "two methods with a code",
		},
		{"an unknown method", methods(`{"telepathy":{}}`), `[player@v1 artwork@v1 visualizer@v1 color@v1] {"Methods":{},"Unpaired":true}`, `got "telepathy": ignored`},
		{
			"a list", methods(`[{"method":"static_pin"},{"method":"pairing_psk","locations":["operator"]},7]`),
			`[player@v1 artwork@v1 visualizer@v1 color@v1] {"Methods":{"PSK":{"Locations":["operator"]},"Static":{}},"Unpaired":true}`, "",
		},
		{
			"a list with a dynamic PIN", methods(`[{"method":"dynamic_pin","min_pin_length":4}]`),
			`[player@v1 artwork@v1 visualizer@v1 color@v1] {"Methods":{"Dynamic":{"Channels":["display"],"Formats":["digits"]}},"Unpaired":true}`, "",
		},
		{"methods of no kind", methods(`"all"`), `[player@v1 artwork@v1 visualizer@v1 color@v1] {"Methods":{},"Unpaired":true}`, "it can't be paired"},
	} {
		t.Run(row.name, func(t *testing.T) {
			w, h := acceptEncrypted(t, row.payload)
			if got := fmt.Sprint(h.Roles, " ", show(t, h.Trust)); got != row.want {
				t.Errorf("got  %s\nwant %s", got, row.want)
			}
			_, notes := decode(t, w, `{"type":"client/state","payload":{"available":true}}`)
			if got := strings.Join(notes, "\n"); row.note != "" && !strings.Contains(got, row.note) {
				t.Errorf("notes: got %s\nwant %s", got, row.note)
			}
		})
	}
}

func TestEncryptedHelloRefused(t *testing.T) {
	many := `{"supported_roles":["` + strings.Repeat(`x@v1","`, maxEntries) + `y@v1"]}`
	for name, row := range map[string]struct {
		first Frame
		code  int
	}{
		"binary":         {Frame{Binary: true, Data: []byte{4}}, closeProtocolError},
		"no JSON":        {Frame{Data: []byte("x")}, closeProtocolError},
		"another type":   {Frame{Data: []byte(`{"type":"client/state","payload":{}}`)}, closeProtocolError},
		"roles no list":  {hello(`{"supported_roles":7}`), closeProtocolError},
		"too many roles": {hello(many), closeTooBig},
		"too large":      {hello(`{"name":"` + strings.Repeat("x", maxHello) + `"}`), closeTooBig},
	} {
		w, _, err := AcceptEncrypted(row.first, "id")
		var r *RefusedError
		if w != nil || !errors.As(err, &r) || r.Code != row.code {
			t.Errorf("%s: got %v, %v, want code %d", name, w, err, row.code)
		}
	}
}

// TestEncryptedStates has states whose parts only encrypted dialects report.
func TestEncryptedStates(t *testing.T) {
	for _, row := range []struct{ name, payload, want string }{
		{
			"artwork", `{"available":true,"artwork":{"channels":[{"source":"album","format":"png","width":10,"height":20},{"source":"none"}]}}`,
			`{"Artwork":{"Channels":[{"Format":"png","Height":20,"Source":"album","Width":10},{"Format":"","Height":0,"Source":"none","Width":0}]},"Available":true}`,
		},
		{
			"visualizer", `{"available":true,"visualizer":{"types":["beat","glitter"],"rate_max":30}}`,
			`{"Available":true,"Visual":{"BufferCapacity":0,"RateMax":30,"Types":["beat"]}}`,
		},
		{"visualizer wants nothing", `{"available":true,"visualizer":{"types":[],"rate_max":30}}`, `{"Available":true,"Visual":{"BufferCapacity":0,"RateMax":30}}`},
		{"leave", "", `{}`},
		{
			"player", `{"available":false,"player":{"output_delay_ms":120,"required_lead_time_ms":250,"min_buffer_ms":10,"supported_commands":["mute"],"format":{"codec":"flac","channels":2,"sample_rate":44100,"bit_depth":16}}}`,
			`{"Available":false,"Player":{"Commands":["mute"],"Format":{"BitDepth":16,"Channels":2,"Codec":"flac","SampleRate":44100},"MinBufferMs":10,"OutputDelayMs":120,"RequiredLeadMs":250}}`,
		},
	} {
		t.Run(row.name, func(t *testing.T) {
			w, _ := acceptEncrypted(t, current)
			frame := `{"type":"client/state","payload":` + row.payload + `}`
			if row.payload == "" {
				frame = `{"type":"client/leave","payload":{}}`
			}
			m, _ := decode(t, w, frame)
			if got := show(t, m); got != row.want {
				t.Errorf("got  %s\nwant %s", got, row.want)
			}
		})
	}
}

// TestPairingErrors: a pairing message that is wrong is an error and shows no
// value, for some are keys.
func TestPairingErrors(t *testing.T) {
	const secret = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"
	tag, wrapped := strings.Repeat("A", 86), strings.Repeat("A", 64)
	fromClient := func(typ, payload string) error {
		w, _ := acceptEncrypted(t, current)
		m, _, err := w.Decode(Frame{Data: []byte(`{"type":"` + typ + `","payload":` + payload + `}`)})
		if err != nil && m != nil {
			t.Errorf("%s: a message with an error: %v", typ, m)
		}
		return err
	}
	fromServer := func(typ, payload string) error {
		c, err := NewClient(G2)
		if err != nil {
			t.Fatal(err)
		}
		m, err := c.Decode(Frame{Data: []byte(`{"type":"` + typ + `","payload":` + payload + `}`)})
		if err != nil && m != nil {
			t.Errorf("%s: a message with an error: %v", typ, m)
		}
		return err
	}
	for _, row := range []struct {
		decode       func(typ, payload string) error
		typ, payload string
		want         string // "" for none
	}{
		{fromClient, "client/pair-pending", `{"pairing_index":1}`, ""},
		{fromClient, "client/pair-pending", `{}`, "pairing_index: got nothing, want an integer from 0 to 4294967295"},
		{fromClient, "client/pair-init", `{"pairing_index":1.5}`, "pairing_index: got 1.5"},
		{fromClient, "client/pair-init", `{"pairing_index":-1}`, "pairing_index: got -1"},
		{fromClient, "client/pair-init", `{"pairing_index":4294967296}`, "pairing_index: got 4294967296"},
		{fromClient, "client/pair-init", `{"pairing_index":4294967295}`, ""},
		{fromClient, "client/pair-init", `{"pairing_index":1,"commit_B":"` + secret[1:] + `"}`, "commit_B: got something else, want base64url of 32 bytes, 43 characters"},
		{fromClient, "client/pair-init", `{"pairing_index":1,"commit_B":null}`, "commit_B: got something else"},
		{fromClient, "client/pair-auth", `{"pake_msg_2":"` + secret + `"}`, ""},
		{fromClient, "client/pair-auth", `{}`, "pake_msg_2: got nothing"},
		{fromClient, "client/pair-auth", `{"pake_msg_2":"` + secret[1:] + `B"}`, "pake_msg_2: got something else"}, // unused bits set
		{fromClient, "client/pair-auth", `{"pake_msg_2":"` + secret[2:] + `\n\n"}`, "pake_msg_2: got something else"},
		{fromClient, "client/pair-auth", `{"pake_msg_2":7}`, "pake_msg_2: got something else"},
		{fromClient, "client/pair-confirm", `{"client_kc":"` + tag + `","wrapped_nonce_B":"` + wrapped + `"}`, ""},
		{fromClient, "client/pair-confirm", `{"client_kc":"` + secret + `"}`, "client_kc: got something else, want base64url of 64 bytes, 86 characters"},
		{fromClient, "client/pair-confirm", `{"client_kc":"` + tag + `","wrapped_nonce_B":"` + secret + `"}`, "wrapped_nonce_B: got something else"},
		{fromClient, "client/pair-finalize", `{"long_term_psk":"` + secret + `"}`, ""},
		{fromClient, "client/pair-finalize", `{"wrapped_psk":"` + wrapped + `"}`, ""},
		{fromClient, "client/pair-finalize", `{}`, "payload: got both keys or none"},
		{fromClient, "client/pair-finalize", `{"long_term_psk":"` + secret + `","wrapped_psk":"` + wrapped + `"}`, "payload: got both keys or none"},
		{fromClient, "client/pair-finalize", `{"long_term_psk":"` + secret + `="}`, "long_term_psk: got something else"},
		{fromClient, "client/pair-finalize", `{"wrapped_psk":"` + secret + `"}`, "wrapped_psk: got something else"},
		{fromClient, "pair/abort", `{"reason":7}`, ""},
		{fromServer, "server/pair-init", `{}`, ""},
		{fromServer, "server/pair-init", `{"nonce_A":"` + tag + `"}`, "nonce_A: got something else"},
		{fromServer, "server/pair-auth", `{}`, "pake_msg_1: got nothing"},
		{fromServer, "server/pair-confirm", `{"server_kc":"` + secret + `"}`, "server_kc: got something else"},
		{fromServer, "server/activate", `{}`, "activities: got nothing, want a list"},
		{fromServer, "server/activate", `{"activities":"playback"}`, `activities: got "playback", want a list`},
		{fromServer, "server/activate", `{"activities":[],"active_roles":7}`, `active_roles: got 7, want a list`},
		{fromServer, "server/activate", `{"activities":["pairing"],"pairing":7}`, `pairing: got 7, want an object`},
		{fromServer, "server/activate", `{"activities":["pairing"]}`, ""}, // refused by who knows what is offered
		{fromServer, "server/hello", `{"languages":"de"}`, `languages: got "de", want a list`},
		{fromServer, "stream/start", `{}`, "server_transmitted: got nothing"},
		{fromServer, "stream/clear", `{}`, "server_transmitted: got nothing"},
	} {
		err := row.decode(row.typ, row.payload)
		var d *protocol.DecodeError
		switch {
		case row.want == "" && err != nil, row.want != "" && !errors.As(err, &d):
			t.Errorf("%s %.60s: got %v, want %q", row.typ, row.payload, err, row.want)
		case err != nil && !strings.Contains(err.Error(), row.want):
			t.Errorf("%s %.60s: got %v, want %q", row.typ, row.payload, err, row.want)
		case err != nil && strings.Contains(err.Error(), "AAAA"):
			t.Errorf("%s: the error shows a value: %v", row.typ, err)
		}
	}
}

// TestActivations has what servers declare.
func TestActivations(t *testing.T) {
	for _, row := range []struct {
		name    string
		as      Name
		payload string
		want    string
	}{
		{"roles unchanged", G2, `{"activities":["playback"]}`, `{"Activities":["playback"]}`},
		{"no role", G2, `{"activities":[],"active_roles":[]}`, `{"ActiveRoles":[]}`},
		{"twice and unknown", G2, `{"activities":["playback","management","playback"],"active_roles":["player@v1","_x@v1","player@v9"]}`, `{"ActiveRoles":["player@v1"],"Activities":["playback"]}`},
		{"pairing that was not declared", G2, `{"activities":[],"pairing":{"method":"pairing_psk"}}`, `{}`},
		{"pairing without a method", G2, `{"activities":["pairing"]}`, `{"Activities":["pairing"],"Pairing":{"Format":"","Method":""}}`},
		{"pairing of G1", G1, `{"activities":["pairing"],"active_roles":[],"selected_pair_method":"pairing_psk"}`, `{"ActiveRoles":[],"Activities":["pairing"],"Pairing":{"Format":"","Method":"pairing_psk"}}`},
	} {
		t.Run(row.name, func(t *testing.T) {
			c, err := NewClient(row.as)
			if err != nil {
				t.Fatal(err)
			}
			m, err := c.Decode(Frame{Data: []byte(`{"type":"server/activate","payload":` + row.payload + `}`)})
			if err != nil {
				t.Fatal(err)
			}
			if got := show(t, m); got != row.want {
				t.Errorf("got  %s\nwant %s", got, row.want)
			}
		})
	}
}

// TestActivationNamesOffers: a server activates only what was offered, G1 every
// time.
func TestActivationNamesOffers(t *testing.T) {
	only := protocol.ServerActivate{ActiveRoles: []protocol.Role{protocol.RoleController, protocol.RoleColor}}
	for name, row := range map[string]struct{ payload, want string }{
		"G2": {current, `{"type":"server/activate","payload":{"activities":[],"active_roles":["color@v1"]}}` + "\n" + `{"type":"server/activate","payload":{"activities":[]}}`},
		"G1": {`{"trust_level":"none",` + current[1:], `{"type":"server/activate","payload":{"activities":[],"active_roles":["color@v1"]}}` + "\n" + `{"type":"server/activate","payload":{"activities":[],"active_roles":["color@v1"]}}`},
	} {
		w, _ := acceptEncrypted(t, row.payload)
		if got := encode(t, w, only) + "\n" + encode(t, w, protocol.ServerActivate{}); got != row.want {
			t.Errorf("%s: got %s\nwant %s", name, got, row.want)
		}
	}
}

// TestTransfers: a picture is announced and comes in parts (spec: artwork,
// binary messages).
func TestTransfers(t *testing.T) {
	w, _ := acceptEncrypted(t, current)
	picture := bytes.Repeat([]byte{7}, artPart+3)
	for _, row := range []struct {
		m     protocol.ArtworkImage
		heads []string
	}{
		{protocol.ArtworkImage{Channel: 3, Timestamp: 258, Data: picture}, []string{"0b02000000000000010200004003", "0b00", "0b00"}},
		{protocol.ArtworkImage{Timestamp: -1}, []string{"0802ffffffffffffffff00000000"}}, // clears
		{protocol.ArtworkImage{Channel: 4, Data: picture}, nil},
		{protocol.ArtworkImage{Channel: -1, Data: picture}, nil},
	} {
		frames, err := w.Encode(row.m)
		if err != nil {
			t.Fatal(err)
		}
		var heads []string
		var whole []byte
		for i, f := range frames {
			if len(f.Data) > 65_519 || !f.Binary {
				t.Errorf("frame %d: %d bytes, binary %v", i, len(f.Data), f.Binary)
			}
			if i == 0 {
				heads = append(heads, hex.EncodeToString(f.Data))
				continue
			}
			heads = append(heads, hex.EncodeToString(f.Data[:2]))
			whole = append(whole, f.Data[2:]...)
		}
		if fmt.Sprint(heads) != fmt.Sprint(row.heads) {
			t.Errorf("got %v, want %v", heads, row.heads)
		}
		if len(frames) > 0 && !bytes.Equal(whole, row.m.Data) {
			t.Errorf("the parts make %d bytes, want %d", len(whole), len(row.m.Data))
		}
	}
}

// TestStartsOfAllRoles are one message, in G1 one for each role.
func TestStartsOfAllRoles(t *testing.T) {
	m := protocol.StreamStart{
		Player:      &protocol.StreamPlayer{Format: protocol.Format{Codec: "pcm", Channels: 2, SampleRate: 48000, BitDepth: 16}},
		Artwork:     &protocol.StreamArtwork{Channels: []protocol.ArtworkChannel{{Source: "none", Format: "jpeg"}, {Source: "artist", Format: "png", Width: 1, Height: 2}}},
		Visualizer:  &protocol.StreamVisualizer{Types: []protocol.VisualizerType{protocol.VisualizerBeat}, RateMax: 9},
		Transmitted: 5,
	}
	const start = `{"type":"stream/start","payload":{"server_transmitted":5`
	player := `,"player":{"codec":"pcm","sample_rate":48000,"channels":2,"bit_depth":16}`
	artwork := `,"artwork":{"channels":[{"source":"none"},{"source":"artist","format":"png","width":1,"height":2}]}`
	visual := `,"visualizer":{"types":["beat"],"rate_max":9,"tracks_downbeats":false}`
	w, _ := acceptEncrypted(t, current)
	if got, want := encode(t, w, m), start+player+artwork+visual+"}}"; got != want {
		t.Errorf("G2: got %s\nwant %s", got, want)
	}
	if got := encode(t, w, protocol.StreamStart{Transmitted: 5}); got != "" {
		t.Errorf("a start of nothing: got %s", got)
	}
	w, _ = acceptEncrypted(t, `{"trust_level":"user",`+current[1:])
	if got, want := encode(t, w, m), start+player+"}}\n"+start+artwork+"}}\n"+start+visual+"}}"; got != want {
		t.Errorf("G1: got %s\nwant %s", got, want)
	}
	m.Player.Codec = "flac"
	if frames, err := w.Encode(m); err == nil {
		t.Errorf("flac without a header: got %s", lines(frames))
	}
}

func TestStates(t *testing.T) {
	red := &protocol.Color{255, 0, 0}
	m := protocol.ServerState{
		Metadata: &protocol.Metadata{Timestamp: 7, Title: "T", Year: 2077, Track: -1, Repeat: protocol.RepeatOne},
		Color:    &protocol.Colors{Timestamp: 8, Primary: red},
		Group:    &protocol.GroupUpdate{PlaybackState: protocol.PlaybackPaused, GroupID: "g"},
	}
	w, _ := acceptEncrypted(t, current)
	want := `{"type":"group/update","payload":{"playback_state":"stopped","group_id":"g","group_name":""}}` + "\n" +
		`{"type":"server/state","payload":{"metadata":{"timestamp":7,"title":"T","year":2077},"color":{"timestamp":8,"primary":[255,0,0]}}}`
	if got := encode(t, w, m); got != want {
		t.Errorf("got %s\nwant %s", got, want)
	}
	w, _ = acceptEncrypted(t, `{"supported_roles":["metadata@v1"]}`)
	if got := encode(t, w, protocol.ServerState{Color: m.Color}); got != "" {
		t.Errorf("colors for who did not offer the role: got %s", got)
	}
}

func TestStampAudio(t *testing.T) {
	c := protocol.AudioChunk{Timestamp: 10_000_000, Data: []byte{1, 2, 3, 4, 5, 6, 7}}
	for _, row := range []struct {
		name, payload string
		now           timesync.Micros
		want          string
	}{
		{"as in the specification", current, 9_600_000, "04000000000098968000061a80"},
		{"late", current, 10_000_001, "04000000000098968000000000"},
		{"further than can be told", current, -1 << 40, "040000000000989680ffffffff"},
		{"9 bytes", `{"trust_level":"user",` + current[1:], 9_600_000, "040000000000989680"},
	} {
		w, _ := acceptEncrypted(t, row.payload)
		frame := w.AppendAudio(nil, c)
		w.StampAudio(frame, row.now)
		if got, want := hex.EncodeToString(frame), row.want+"01020304050607"; got != want {
			t.Errorf("%s: got %s, want %s", row.name, got, want)
		}
	}
}
