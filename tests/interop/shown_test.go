package interop

import (
	"bytes"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"image"
	"image/color"
	_ "image/jpeg" // what a display asks for
	"image/png"
	"math"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"
)

// cover is a green picture, twice as wide as high.
func cover(t *testing.T) []byte {
	t.Helper()
	img := image.NewRGBA(image.Rect(0, 0, 400, 200))
	for i := range 400 * 200 {
		img.SetRGBA(i%400, i/400, color.RGBA{10, 200, 30, 255})
	}
	var b bytes.Buffer
	if err := png.Encode(&b, img); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// TestShown plays a tone of 1 kHz at half of full scale with a picture to
// published clients that have a display, colours and a visualizer, and checks what
// their own parsers made of it.
func TestShown(t *testing.T) {
	var pcm []byte
	for i := range shownSeconds * 48_000 {
		v := uint16(int16(math.MaxInt16 / 2 * math.Sin(2*math.Pi*float64(i)/48))) //nolint:gosec // 16 bits
		pcm = binary.LittleEndian.AppendUint16(binary.LittleEndian.AppendUint16(pcm, v), v)
	}
	files := map[string][]byte{"/tone.wav": asWAV(pcm), "/cover.png": cover(t)}
	web := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		http.ServeContent(w, r, r.URL.Path, time.Time{}, bytes.NewReader(files[r.URL.Path]))
	}))
	defer web.Close()
	start := func(t *testing.T) (*house, *bridge) {
		t.Helper()
		m := startMosquitto(t)
		h := watch(t, m.url())
		b := startBridge(t, m.url(), "127.0.0.1", "RESONATE_DISCOVERY_ENABLED=false")
		h.is("resonate/bridge/state", "online", 10*time.Second)
		return h, b
	}
	t.Run("plaintext", func(t *testing.T) {
		python := installed("aiosendspin-6.1.1", "bin", "python")
		needs(t, python)
		h, b := start(t)
		p := startPeer(t, "screen", "env", "SPEAKER_SHOWS=1", python, "peers/player.py", "dial", "ws://"+b.listen+"/sendspin", "screen", "Screen")
		h.is("resonate/player/screen/availability", "online", 15*time.Second)
		shows(t, h, "aiosendspin 6.1.1", "screen", p, web.URL)
	})
	t.Run("encrypted", func(t *testing.T) {
		needs(t, installed("aiosendspin-"+current, "bin", "python"))
		h, b := start(t)
		who := "aiosendspin " + current
		s := appear(t, ways()[0], b, h, who, "Wall", "SPEAKER_UNPAIRED=1", "SPEAKER_SHOWS=1")
		h.send(s.topic("set/approve"), "ON")
		s.is("connection", "connected")
		shows(t, h, who, s.pid, s.peer, web.URL)
	})
}

const shownSeconds = 5

// shows plays the tone to one player and checks what it is shown.
func shows(t *testing.T, h *house, who, pid string, p *peer, web string) {
	t.Helper()
	began := time.Now()
	topic := "resonate/player/" + pid
	h.send(topic+"/set/play_url", fmt.Sprintf(`{"url":%q,"artwork_url":%q}`, web+"/tone.wav", web+"/cover.png"))

	for channel, want := range map[int]struct {
		format string
		size   image.Point
	}{0: {"jpeg", image.Pt(240, 240)}, 1: {"png", image.Pt(64, 32)}} {
		p.heard(0, 10*time.Second, fmt.Sprintf("a picture on channel %d", channel), func(ev map[string]any) bool {
			if ev["event"] != "art" || ev["channel"] != float64(channel) {
				return false
			}
			text, _ := ev["data"].(string)
			data, err := base64.StdEncoding.DecodeString(text)
			if err != nil {
				t.Fatal(err)
			}
			img, format, err := image.Decode(bytes.NewReader(data))
			if err != nil || format != want.format || img.Bounds().Size() != want.size {
				t.Errorf("channel %d: got %s, %v, want %+v", channel, format, err, want)
				return true
			}
			if r, g, b, _ := img.At(want.size.X/2, want.size.Y/2).RGBA(); r>>8 > 40 || g>>8 < 180 || b>>8 > 60 {
				t.Errorf("channel %d: its middle is %d %d %d, want green", channel, r>>8, g>>8, b>>8)
			}
			return true
		})
	}
	row(who, fmt.Sprintf("play_url with artwork_url to both pictures, JPEG and PNG in its sizes: %v", time.Since(began).Round(time.Millisecond)))
	p.heard(0, 5*time.Second, "green", func(ev map[string]any) bool {
		primary, _ := ev["primary"].([]any)
		if ev["event"] != "color" || len(primary) != 3 {
			return false
		}
		red, _ := primary[0].(float64)
		green, _ := primary[1].(float64)
		return green > 180 && red < 40
	})
	h.until(5*time.Second, "the picture is an MQTT topic", func(topics map[string]string) bool {
		_, format, err := image.DecodeConfig(bytes.NewReader([]byte(topics[topic+"/art"])))
		return err == nil && format == "jpeg"
	})

	var frames []struct {
		Timestamp int64 `json:"timestamp_us"`
		Loudness  *int  `json:"loudness"`
		Freq      *int  `json:"f_peak_freq"`
		Amp       int   `json:"f_peak_amp"`
		Spectrum  []int `json:"spectrum"`
		Beat      *bool `json:"is_downbeat"`
	}
	p.heard(0, 15*time.Second, "what it has seen", func(ev map[string]any) bool {
		if ev["event"] != "seen" {
			return false
		}
		data, err := json.Marshal(ev["frames"])
		if err == nil {
			err = json.Unmarshal(data, &frames)
		}
		if err != nil {
			t.Fatal(err)
		}
		return true
	})
	loud, tones, spectra, last := 0, 0, 0, int64(0)
	for _, f := range frames {
		if f.Timestamp < last {
			t.Errorf("a frame of %d after one of %d", f.Timestamp, last)
		}
		last = f.Timestamp
		switch {
		case f.Loudness != nil && *f.Loudness > 58_700 && *f.Loudness < 59_200: // -6 dB is 58982
			loud++
		case f.Freq != nil && *f.Freq > 995 && *f.Freq < 1005 && f.Amp > 58_700:
			tones++
		case len(f.Spectrum) == 16:
			spectra++
		}
	}
	// The first and the last windows reach beyond the tone.
	if want := shownSeconds*20 - 5; loud < want || tones < want || spectra < want {
		t.Errorf("of %d frames %d are as loud as the tone, %d name it and %d are spectra; want %d of each", len(frames), loud, tones, spectra, want)
	}
	row(who, fmt.Sprintf("its visualizer: %d frames of loudness at -6 dB, %d of 1 kHz, %d spectra in %d s", loud, tones, spectra, shownSeconds))
	h.until(5*time.Second, "the picture goes with the music", func(topics map[string]string) bool { return topics[topic+"/art"] == "" })
}
