package interop

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"math"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os/exec"
	"path"
	"slices"
	"strings"
	"testing"
	"time"
)

// stereo is sound on the server's timeline, from a time on.
type stereo struct {
	from    int64 // us
	samples []float64
	gaps    int // places where a chunk does not begin where the one before it ended
}

// heardBy reads what browser.html posts.
func heardBy(body []byte) (stereo, error) {
	const rate = 48_000
	chunks := map[int64][]byte{}
	for len(body) > 0 {
		if len(body) < 12 || len(body) < 12+8*int(binary.LittleEndian.Uint32(body[8:])) {
			return stereo{}, fmt.Errorf("%d bytes left", len(body))
		}
		n := 12 + 8*int(binary.LittleEndian.Uint32(body[8:]))
		chunks[int64(binary.LittleEndian.Uint64(body))] = body[12:n] //nolint:gosec // microseconds
		body = body[n:]
	}
	var s stereo
	for i, at := range slices.Sorted(maps.Keys(chunks)) { // the browser decodes out of order
		if i == 0 {
			s.from = at
		}
		if due := s.from + int64(len(s.samples)/2)*1_000_000/rate; at-due < -25 || at-due > 25 { // Chromium counts in microseconds
			s.gaps++
		}
		for c := chunks[at]; len(c) > 0; c = c[4:] {
			s.samples = append(s.samples, float64(math.Float32frombits(binary.LittleEndian.Uint32(c))))
		}
	}
	return s, nil
}

// pcm16 is s in the form of the file.
func (s stereo) pcm16() []byte {
	var out []byte
	for _, v := range s.samples {
		out = binary.LittleEndian.AppendUint16(out, uint16(int16(math.Round(v*32768)))) //nolint:gosec // 16 bits
	}
	return out
}

// against finds by how many frames other lags behind s where they agree best,
// and how loud what they differ by is there, in dB below s.
func (s stereo) against(other stereo, reach int) (lag int, snr float64) {
	shift := int(math.Round(float64(other.from-s.from) * 48_000 / 1e6))
	snr = math.Inf(-1)
	for try := -reach; try <= reach; try++ {
		var signal, rest float64
		for i := reach; i < len(s.samples)/2-reach; i++ {
			j := i + try - shift
			if j < 0 || j >= len(other.samples)/2 {
				continue
			}
			for ch := range 2 {
				a, b := s.samples[2*i+ch], other.samples[2*j+ch]
				signal += a * a
				rest += (a - b) * (a - b)
			}
		}
		if db := 10 * math.Log10(signal/rest); db > snr {
			lag, snr = try, db
		}
	}
	return lag, snr
}

// TestBrowser plays to sendspin-js in a real browser, which decodes with
// Chromium's own codecs: PCM and FLAC must be the file, Opus must sound like it,
// at the same time.
func TestBrowser(t *testing.T) {
	dist := installed("node_modules", "@sendspin", "sendspin-js", "dist")
	needs(t, "chromium", path.Join(dist, "index.js"))
	out, err := exec.Command("chromium", "--version").Output()
	if err != nil {
		t.Fatal(err)
	}
	who := "@sendspin/sendspin-js 3.2.1 in " + strings.Join(strings.Fields(string(out))[:2], " ")
	m := startMosquitto(t)
	h := watch(t, m.url())
	b := startBridge(t, m.url(), "127.0.0.1", "RESONATE_DISCOVERY_ENABLED=false")

	wav, pcm := music(10)
	codecs := []string{"pcm", "flac", "opus"}
	heard, events := make(chan [2]string, len(codecs)), make(chan string, 32)
	mux := http.NewServeMux()
	mux.HandleFunc("GET /music.wav", func(w http.ResponseWriter, r *http.Request) {
		http.ServeContent(w, r, "music.wav", time.Time{}, bytes.NewReader(wav))
	})
	mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, r *http.Request) { http.ServeFile(w, r, "peers/browser.html") })
	mux.HandleFunc("GET /sendspin-js/{file...}", func(w http.ResponseWriter, r *http.Request) {
		file := path.Join(dist, path.Clean("/"+r.PathValue("file"))) // its imports have no ".js"
		if path.Ext(file) != ".js" {
			file += ".js"
		}
		http.ServeFile(w, r, file)
	})
	mux.HandleFunc("POST /heard/{codec}", func(_ http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			t.Error(err)
		}
		heard <- [2]string{r.PathValue("codec"), string(body)}
	})
	mux.HandleFunc("POST /event", func(_ http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		select {
		case events <- string(body):
		default:
		}
	})
	web := httptest.NewServer(mux)
	defer web.Close()

	page := web.URL + "/?" + url.Values{"codecs": {strings.Join(codecs, ",")}, "server": {"http://" + b.listen}}.Encode()
	start(t, "chromium", nil, nil, "chromium", "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-dev-shm-usage",
		"--disable-background-networking", "--disable-component-update", "--disable-sync", "--no-pings",
		"--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1", "--user-data-dir="+t.TempDir(), page)
	defer func() {
		if t.Failed() {
			close(events)
			for e := range events {
				t.Log("the page said", e)
			}
		}
	}()
	var members []string
	for _, c := range codecs {
		h.is("resonate/player/browser-"+c+"/availability", "online", 60*time.Second)
		members = append(members, "browser-"+c)
	}
	group, _ := json.Marshal(map[string]any{"name": "Browsers", "members": members})
	h.send("resonate/bridge/request/group/add", string(group))
	for _, id := range members {
		h.is("resonate/player/"+id+"/group", "Browsers", 10*time.Second)
	}
	h.send("resonate/group/browsers/set/play_url", web.URL+"/music.wav")
	h.is("resonate/player/browser-pcm/playback", "playing", 9*time.Second)

	got := map[string]stereo{}
	for range codecs {
		select {
		case one := <-heard:
			if got[one[0]], err = heardBy([]byte(one[1])); err != nil {
				t.Errorf("%s: %v", one[0], err)
			}
		case <-time.After(30 * time.Second):
			t.Fatalf("not within 30 s: what the three heard; only %d", len(got))
		}
	}
	for _, codec := range codecs[:2] {
		s := got[codec]
		if data := s.pcm16(); sum(data) != sum(pcm) || s.gaps > 0 {
			t.Errorf("%s: %d bytes with SHA-256 %s..., %d gaps, want %d with %s...", codec, len(data), sum(data), s.gaps, len(pcm), sum(pcm))
			continue
		}
		row(who, codec+", decoded by the browser: the file, sample by sample (SHA-256 "+sum(s.pcm16())+"...)")
	}
	if got["pcm"].from != got["flac"].from {
		t.Errorf("pcm begins at %d us and flac at %d us, want both at once", got["pcm"].from, got["flac"].from)
	}
	opus := got["opus"]
	lag, snr := got["pcm"].against(opus, 400)
	if lag < -24 || lag > 24 || snr < 20 || opus.gaps > 0 {
		t.Errorf("opus: %d gaps, %d frames behind pcm, differs by %.1f dB below it; want none, 24 at most (half a millisecond), 20 dB", opus.gaps, lag, snr)
	}
	row(who, fmt.Sprintf("opus, decoded by the browser: %d frames behind pcm on the timeline, the difference is %.1f dB below the sound, no gap", lag, snr))
}
