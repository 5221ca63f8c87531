package tests

import (
	"bytes"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"resonatebridge/cmd/bridge/app"
	"resonatebridge/tests/internal/scene"
)

func sample(t *testing.T, name string) []byte {
	t.Helper()
	data, err := os.ReadFile(filepath.Join("..", "resonate", "audio", "testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// layout is a WAV file of silence but for a loud first channel.
func layout(channels, rate, bits int, seconds float64) []byte {
	pcm := make([]byte, int(seconds*float64(rate))*channels*bits/8)
	for i := 0; i < len(pcm); i += channels * bits / 8 {
		pcm[i+bits/8-1] = 0x40 // half of full scale
	}
	b := wave(0, nil)
	put := func(at, size int, v uint32) {
		for i := range size {
			b[at+i] = byte(v >> (8 * i)) //nolint:gosec // one of four bytes
		}
	}
	put(4, 4, uint32(36+len(pcm)))           //nolint:gosec // small
	put(22, 2, uint32(channels))             //nolint:gosec // small
	put(24, 4, uint32(rate))                 //nolint:gosec // small
	put(28, 4, uint32(rate*channels*bits/8)) //nolint:gosec // small
	put(32, 2, uint32(channels*bits/8))      //nolint:gosec // small
	put(34, 2, uint32(bits))                 //nolint:gosec // small
	put(40, 4, uint32(len(pcm)))             //nolint:gosec // small
	return append(b, pcm...)
}

// badShelf serves everything that people and networks send instead of sound.
func badShelf(t *testing.T) (url string) {
	t.Helper()
	flac, mp3 := sample(t, "short.flac"), sample(t, "cbr.mp3")
	cut := len(mp3) / 2
	dirty := slices.Concat(mp3[:cut], bytes.Repeat([]byte{0xff, 0xfb, 0x12, 'T', 'A', 'G'}, 100), mp3[cut:])
	files := map[string][]byte{
		"/music": wave(60, music), "/html": []byte("<!DOCTYPE html><html><body>Log in</body></html>"), "/empty": {},
		"/cut.flac": flac[:len(flac)*3/4], "/stub.flac": flac[:60], "/dirty.mp3": dirty,
		"/deep.wav": layout(2, 192_000, 24, 0.3), "/surround.wav": layout(6, 48_000, 16, 0.3),
		// A header that claims 16,384 pixels each way, and a lot of nothing.
		"/lies.png": []byte("\x89PNG\r\n\x1a\n\x00\x00\x00\x0dIHDR\x00\x00\x40\x00\x00\x00\x40\x00\x08\x02\x00\x00\x00\x00\x00\x00\x00"),
		"/huge.jpg": append([]byte("\xff\xd8\xff\xe0"), make([]byte, 50<<20)...),
	}
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch data, ok := files[r.URL.Path]; {
		case ok:
			http.ServeContent(w, r, r.URL.Path, time.Time{}, bytes.NewReader(data))
		case r.URL.Path == "/loop":
			http.Redirect(w, r, "/loop", http.StatusFound)
		case r.URL.Path == "/hangs":
			<-r.Context().Done()
		case r.URL.Path == "/radio":
			w.Header().Set("Content-Type", "audio/mpeg")
			w.Header().Set("icy-name", "Stalls")
			_, _ = w.Write(mp3)
			w.(http.Flusher).Flush()
			<-r.Context().Done()
		default:
			http.NotFound(w, r)
		}
	}))
	t.Cleanup(s.Close)
	return s.URL
}

// TestHouseBadMedia asks for what can't be played, by MQTT, where music plays and
// where nothing does. Everything is answered with its code; what played goes on to
// the sample; and nobody else hears anything of it.
func TestHouseBadMedia(t *testing.T) {
	t.Parallel()
	url := badShelf(t) // ends after the house, which leaves nobody hanging there
	h := newSoundHouse(t, func(*app.Config) {}, "a", "b", "c", "d", "e", "f")
	h.do("a", map[string]any{"join": "b"})
	h.do("a", map[string]any{"play_url": url + "/music"})
	h.do("c", map[string]any{"play_url": url + "/music"})
	began := time.Now()
	h.do("e", map[string]any{"play_url": url + "/radio"}) // and then it stalls
	mark := h.watch.Mark()
	h.watch.Send(topic("f", "set/play_url"), url+"/hangs")
	h.do("f", map[string]any{"volume": 20}) // who waits for a host that hangs obeys meanwhile
	if slices.ContainsFunc(h.watch.Since(mark), func(m string) bool {
		return strings.HasPrefix(m, topic("f", "result")+" ") && strings.Contains(m, "play_url")
	}) {
		t.Error("the host that hangs was given up before the volume was set")
	}

	closed := httptest.NewServer(nil)
	closed.Close()
	for _, x := range []struct{ name, url, code string }{
		{"unreachable host", closed.URL + "/x", "media_unreachable"},
		{"404", url + "/none", "media_unreachable"},
		{"redirect loop", url + "/loop", "media_unreachable"},
		{"HTML", url + "/html", "media_unsupported"},
		{"0 bytes", url + "/empty", "media_unsupported"},
		{"FLAC of a header", url + "/stub.flac", "media_unsupported"},
		{"URL of more than 8 kB", url + "/" + strings.Repeat("x", 8<<10), "invalid_value"},
		{"URL of 8 kB", url + "/" + strings.Repeat("x", 8000), "invalid_value"},
	} {
		for _, id := range []string{"a", "d"} { // where something plays, and where nothing does
			asked := time.Now()
			if got := h.refused(id, "play_url", x.url); got != x.code {
				t.Errorf("%s: %s says %q, want %s", x.name, id, got, x.code)
			}
			if took := time.Since(asked); took > 20*time.Second {
				t.Errorf("%s: %s is answered after %v", x.name, id, took)
			}
		}
	}
	if pcm, _ := h.ears["d"].heard(); len(pcm) != 0 {
		t.Errorf("d heard %d samples of what can't be played", len(pcm))
	}
	for _, x := range []struct {
		name, file string
		least      float64 // seconds that are heard of it
	}{
		{"cut FLAC", "/cut.flac", 0.08},
		{"MP3 with garbage", "/dirty.mp3", 0.5},
		{"192 kHz, 24 bits", "/deep.wav", 0.29},
		{"5.1", "/surround.wav", 0.29},
	} {
		d := h.ears["d"]
		d.forget()
		h.do("d", map[string]any{"play_url": url + x.file})
		h.soon(x.name+" was played", func() bool { d.mu.Lock(); defer d.mu.Unlock(); return len(d.ends) > 0 })
		pcm, _ := d.heard()
		if got := float64(len(pcm)) / rate; got < x.least || !slices.ContainsFunc(pcm, func(v int16) bool { return v > 1000 }) {
			t.Errorf("%s: heard %.2f s, want %.2f at least, and loud", x.name, got, x.least)
		}
		h.watch.Is(topic("d", "playback"), "idle")
	}
	for _, picture := range []string{"/huge.jpg", "/lies.png", "/html", "/none"} {
		h.do("d", map[string]any{"play_url": map[string]any{"url": url + "/music", "title": "With " + picture, "artwork_url": url + picture}})
		h.watch.Is(topic("d", "title"), "With "+picture)
	}
	h.watch.Look(func(topics scene.Topics) {
		if art := topics[topic("d", "art")].Payload; art != "" {
			t.Errorf("a bad picture became one of %d bytes", len(art))
		}
	})
	// Who hangs is answered within 10 s.
	var failed struct {
		Error struct{ Code string }
	}
	h.soon("the answer about the host that hangs", func() bool {
		return slices.ContainsFunc(h.watch.Since(mark), func(m string) bool {
			data, ok := strings.CutPrefix(m, topic("f", "result")+" ")
			return ok && json.Unmarshal([]byte(data), &failed) == nil && failed.Error.Code != ""
		})
	})
	if failed.Error.Code != "media_unreachable" && failed.Error.Code != "timeout" {
		t.Errorf("the host that hangs: got %s", failed.Error.Code)
	}
	h.watch.Is(topic("f", "playback"), "idle")
	// The radio that stalls can be stopped.
	h.do("e", map[string]any{"stop": true})
	h.watch.Is(topic("e", "playback"), "stopped")

	h.watch.Until("the group plays on", func(topics scene.Topics) bool {
		media, _ := topics.Object(topic("b", "state"))["media"].(map[string]any)
		return topics.Is(topic("b", "playback"), "playing") && media["url"] == url+"/music" && group(topics, "a")["id"] == group(topics, "b")["id"]
	})
	for _, id := range []string{"a", "b", "c"} {
		pcm, _ := h.ears[id].heard()
		if !slices.Equal(pcm, musicFrom(0, len(pcm))) || len(pcm) < rate || len(h.ears[id].ends) != 0 {
			t.Errorf("%s heard %.1f s within %.1f s, and something else than its music", id, float64(len(pcm))/rate, time.Since(began).Seconds())
		}
	}
	t.Logf("all of it within %.1f s", time.Since(began).Seconds())
	if took := h.bridge.Stop(); took > 20*time.Second {
		t.Errorf("the bridge took %v to end, with a radio that stalls", took)
	}
}
