package dialect

import (
	"encoding/hex"
	"fmt"
	"reflect"
	"strings"
	"testing"

	"resonatebridge/resonate/protocol"
)

const displayHello = `{"type":"client/hello","payload":{"client_id":"d","name":"D","version":1,` +
	`"supported_roles":["artwork@v1","color@v1","visualizer@v1"],` +
	`"artwork@v1_support":{"channels":[{"source":"album","format":"jpeg","media_width":300,"media_height":200}]},` +
	`"visualizer@v1_support":{"types":["loudness","beat","glitter","spectrum"],"buffer_capacity":4096,"rate_max":30,` +
	`"spectrum":{"n_disp_bins":3,"scale":"mel","f_min":20,"f_max":16000}}}}`

func display(t *testing.T, hello string) (*ServerWire, protocol.ClientHello) {
	t.Helper()
	w, h, err := Accept(Frame{Data: []byte(hello)}, "/sendspin", nil)
	if err != nil {
		t.Fatal(err)
	}
	return w, h
}

func TestDisplayHello(t *testing.T) {
	_, h := display(t, displayHello)
	want := &protocol.VisualizerSupport{
		Types:          []protocol.VisualizerType{protocol.VisualizerLoudness, protocol.VisualizerBeat, protocol.VisualizerSpectrum},
		BufferCapacity: 4096, RateMax: 30, Spectrum: &protocol.SpectrumConfig{Bins: 3, Scale: "mel", FMin: 20, FMax: 16000},
	}
	if !reflect.DeepEqual(h.Visual, want) {
		t.Errorf("visualizer: got %+v, want %+v", h.Visual, want)
	}
	for name, hello := range map[string]string{
		"no types":    strings.Replace(displayHello, `["loudness","beat","glitter","spectrum"]`, `["glitter"]`, 1),
		"no capacity": strings.Replace(displayHello, `"buffer_capacity":4096,`, ``, 1),
	} {
		if _, h := display(t, hello); h.Visual != nil {
			t.Errorf("%s: got %+v, want nothing that can be served", name, h.Visual)
		}
	}
	// A spectrum that is wrong costs the spectrum alone.
	if _, h := display(t, strings.Replace(displayHello, `"mel"`, `"bark"`, 1)); h.Visual == nil || h.Visual.Spectrum != nil {
		t.Errorf("unknown scale: got %+v", h.Visual)
	}
}

func TestDisplayMessages(t *testing.T) {
	w, _ := display(t, displayHello)
	for _, c := range []struct {
		m    protocol.ServerMessage
		want string
	}{
		{
			protocol.StreamStart{Artwork: &protocol.StreamArtwork{Channels: []protocol.ArtworkChannel{{Source: "album", Format: "jpeg", Width: 300, Height: 200}, {Source: "none"}}}},
			`{"type":"stream/start","payload":{"artwork":{"channels":[{"format":"jpeg","height":200,"source":"album","width":300},{"format":"jpeg","height":0,"source":"none","width":0}]}}}`,
		},
		{
			protocol.StreamStart{Visualizer: &protocol.StreamVisualizer{Types: []protocol.VisualizerType{"beat", "spectrum"}, RateMax: 30, Spectrum: &protocol.SpectrumConfig{Bins: 3, Scale: "mel", FMin: 20, FMax: 16000}}},
			`{"type":"stream/start","payload":{"visualizer":{"types":["beat","spectrum"],"rate_max":30,"tracks_downbeats":false,"spectrum":{"n_disp_bins":3,"scale":"mel","f_min":20,"f_max":16000}}}}`,
		},
		{
			protocol.ServerState{Color: &protocol.Colors{Timestamp: 7, Primary: &protocol.Color{1, 2, 255}}},
			`{"type":"server/state","payload":{"color":{"timestamp":7,"background_dark":null,"background_light":null,"primary":[1,2,255],"accent":null,"on_dark":null,"on_light":null}}}`,
		},
		{protocol.ArtworkImage{Channel: 2, Timestamp: 0x0102, Data: []byte{0xff, 0xd8}}, "0a0000000000000102ffd8"},
		{protocol.ArtworkImage{Timestamp: 1}, "080000000000000001"},
		{protocol.VisualizerFrame{Type: protocol.VisualizerLoudness, Timestamp: 1, Level: 0x1234}, "1000000000000000011234"},
		{protocol.VisualizerFrame{Type: protocol.VisualizerBeat, Timestamp: 1}, "11000000000000000100"},
		{protocol.VisualizerFrame{Type: protocol.VisualizerFPeak, Timestamp: 1, Frequency: 440, Level: 2}, "12000000000000000101b80002"},
		{protocol.VisualizerFrame{Type: protocol.VisualizerSpectrum, Timestamp: 1, Bins: []uint16{1, 2, 3}}, "130000000000000001000100020003"},
		{protocol.VisualizerFrame{Type: protocol.VisualizerPeak, Timestamp: 1, Strength: 9}, "14000000000000000109"},
	} {
		frames, err := w.Encode(c.m)
		if err != nil || len(frames) != 1 {
			t.Errorf("%+v: got %d frames, %v", c.m, len(frames), err)
			continue
		}
		got := string(frames[0].Data)
		if frames[0].Binary {
			got = hex.EncodeToString(frames[0].Data)
		}
		if got != c.want {
			t.Errorf("%T: got  %s\nwant %s", c.m, got, c.want)
		}
	}
	// A client that did not ask for colors gets none.
	plain, _ := display(t, strings.Replace(displayHello, `"color@v1",`, "", 1))
	if frames, _ := plain.Encode(protocol.ServerState{Color: &protocol.Colors{}}); len(frames) != 0 {
		t.Errorf("colors nobody asked for: got %s", fmt.Sprint(frames))
	}
}
