package interop

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"math"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// noise is 16-bit stereo that no codec gets right by accident, as a WAV file and
// as samples.
func noise(seconds int) (wav, pcm []byte) {
	rnd := rand.New(rand.NewPCG(1, 2)) //nolint:gosec // the same in every run
	for range seconds * 48_000 * 2 {
		pcm = binary.LittleEndian.AppendUint16(pcm, uint16(rnd.Int32N(1<<13))) //nolint:gosec // 13 bits
	}
	return asWAV(pcm), pcm
}

// music is 16-bit stereo that a lossy codec must get right: a chirp on the left
// and another with its octave on the right.
func music(seconds int) (wav, pcm []byte) {
	n := float64(seconds * 48_000)
	chirp := func(i, from, to float64) float64 { // exponential, in Hz
		k := math.Log(to / from)
		return math.Sin(2 * math.Pi * from * n / 48_000 / k * (math.Exp(k*i/n) - 1))
	}
	for i := range seconds * 48_000 {
		at := float64(i)
		left, right := chirp(at, 100, 6000), (chirp(at, 4000, 80)+chirp(at, 8000, 160)/2)/1.5
		pcm = binary.LittleEndian.AppendUint16(pcm, uint16(int16(10_000*left)))  //nolint:gosec // 16 bits
		pcm = binary.LittleEndian.AppendUint16(pcm, uint16(int16(10_000*right))) //nolint:gosec // 16 bits
	}
	return asWAV(pcm), pcm
}

func asWAV(pcm []byte) []byte {
	wav := binary.LittleEndian.AppendUint32([]byte("RIFF"), uint32(36+len(pcm))) //nolint:gosec // small
	wav = append(wav, "WAVEfmt "...)
	for _, v := range []uint32{16, 2<<16 | 1, 48_000, 48_000 * 4, 16<<16 | 4} {
		wav = binary.LittleEndian.AppendUint32(wav, v)
	}
	wav = append(wav, "data"...)
	wav = binary.LittleEndian.AppendUint32(wav, uint32(len(pcm))) //nolint:gosec // small
	return append(wav, pcm...)
}

func sum(b []byte) string {
	h := sha256.Sum256(b)
	return hex.EncodeToString(h[:8])
}

// TestSound plays a file to published clients of one group, each in another
// format, and compares what they got with the file.
func TestSound(t *testing.T) {
	python := installed("aiosendspin-6.1.1", "bin", "python")
	needs(t, python)
	wav, pcm := noise(10)
	web := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		http.ServeContent(w, r, "noise.wav", time.Time{}, bytes.NewReader(wav))
	}))
	defer web.Close()
	m := startMosquitto(t)
	h := watch(t, m.url())
	b := startBridge(t, m.url(), "127.0.0.1", "RESONATE_DISCOVERY_ENABLED=false")

	dir := t.TempDir()
	codecs := []string{"pcm", "flac"} // the client refuses opus
	var peers []*peer
	for _, codec := range codecs {
		id := "hears-" + codec
		peers = append(peers, startPeer(t, id, "env", "SPEAKER_CODEC="+codec, "SPEAKER_RECORD="+filepath.Join(dir, codec),
			python, "peers/player.py", "dial", "ws://"+b.listen+"/sendspin", id, "Room "+codec))
		h.is("resonate/player/"+id+"/availability", "online", 15*time.Second)
	}
	for _, codec := range codecs[1:] {
		h.send("resonate/player/hears-"+codec+"/set/join", "hears-pcm")
	}
	h.until(5*time.Second, "the two are one group", func(topics map[string]string) bool {
		return strings.Contains(topics["resonate/player/hears-pcm/state"], `"members":["hears-pcm","hears-flac"]`)
	})
	began := time.Now()
	h.send("resonate/player/hears-flac/set/play_url", web.URL+"/noise.wav")
	h.is("resonate/player/hears-pcm/playback", "playing", 9*time.Second)
	row("aiosendspin 6.1.1", fmt.Sprintf("play_url to playing: %v", time.Since(began).Round(time.Millisecond)))

	first := map[string]float64{}
	for i, p := range peers {
		p.heard(0, 30*time.Second, codecs[i]+": the end of the stream", func(ev map[string]any) bool { return ev["event"] == "stream_end" })
		p.heard(0, time.Second, codecs[i]+": a first chunk", func(ev map[string]any) bool {
			if ev["event"] == "first_chunk" {
				first[codecs[i]], _ = ev["stamp"].(float64)
			}
			return ev["event"] == "first_chunk"
		})
	}
	h.is("resonate/player/hears-pcm/playback", "idle", 5*time.Second)
	got := func(codec string) []byte {
		data, err := os.ReadFile(filepath.Join(dir, codec))
		if err != nil {
			t.Fatal(err)
		}
		return data
	}
	compare := func(codec string, data []byte) {
		t.Helper()
		if sum(data) != sum(pcm) {
			t.Errorf("%s: %d bytes with SHA-256 %s..., want %d with %s...", codec, len(data), sum(data), len(pcm), sum(pcm))
			return
		}
		row("aiosendspin 6.1.1", codec+": what it got is the file, sample by sample (SHA-256 "+sum(data)+"...)")
	}
	compare("pcm", got("pcm"))
	if ffmpeg, err := exec.LookPath("ffmpeg"); err == nil {
		path := filepath.Join(dir, "heard.flac")
		if err := os.WriteFile(path, got("flac"), 0o600); err != nil {
			t.Fatal(err)
		}
		decoded, err := exec.Command(ffmpeg, "-v", "error", "-i", path, "-f", "s16le", "-").Output()
		if err != nil {
			t.Errorf("flac: ffmpeg: %v", err)
		}
		compare("flac, decoded by ffmpeg", decoded)
	} else {
		needs(t, "ffmpeg")
	}
	if first["pcm"] != first["flac"] {
		t.Errorf("first chunks at %v, want both at once", first)
	}
}
