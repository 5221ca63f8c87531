package audio

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func needFFmpeg(t *testing.T) {
	t.Helper()
	if _, err := exec.LookPath("ffmpeg"); err != nil {
		t.Skip("ffmpeg is not installed")
	}
}

func TestFFmpegFile(t *testing.T) {
	needFFmpeg(t)
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
	data := testdata(t, "end.m4a")
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { file(w, r, data) }))
	defer s.Close()
	src, err := Open(t.Context(), s.URL, Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer src.Close()
	i := src.Info()
	if i.Native.Codec != "aac" || i.Rate != 48000 || i.Live || i.Tags != (Tags{Title: "Chirp", Artist: "Gen Erator", Year: 2026}) {
		t.Errorf("got %+v", i)
	}
	got, err := readAll(t, src)
	if err != nil {
		t.Error(err)
	}
	// What the container says about the encoder's delay is left out; its last
	// block may be filled up.
	want := chirp(48000, 48000)
	if d := len(got)/2 - 48000; d < 0 || d > 1024 {
		t.Fatalf("got %d frames", len(got)/2)
	}
	if s := snr(got, want); s < 15 {
		t.Errorf("got an SNR of %.1f dB", s)
	}
	if !i.Seekable {
		t.Skip("without ffprobe it can't be positioned")
	}
	if d := i.Frames - 48000; d < 0 || d > 1024 {
		t.Errorf("got a length of %d frames", i.Frames)
	}
	if err := src.SeekFrame(24000); err != nil {
		t.Fatal(err)
	}
	rest, err := readAll(t, src)
	if err != nil {
		t.Error(err)
	}
	if d := len(got)/2 - 24000 - len(rest)/2; d < -4 || d > 4 {
		t.Errorf("after a seek to the middle: got %d of %d frames", len(rest)/2, len(got)/2)
	}
}

func TestFFmpegRadio(t *testing.T) {
	needFFmpeg(t)
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
	data := testdata(t, "chirp.aac")
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("icy-name", "AAC")
		w.Header().Set("Content-Type", "audio/aacp")
		for { // faster than it plays, for as long as it is taken
			if _, err := w.Write(data); err != nil {
				return
			}
		}
	}))
	defer s.Close()
	src, err := Open(t.Context(), s.URL, Options{})
	if err != nil {
		t.Fatal(err)
	}
	if i := src.Info(); !i.Live || i.Native.Codec != "aac" || i.Tags.Title != "AAC" {
		t.Errorf("got %+v", i)
	}
	for n, buf := 0, make([]int32, 8192); n < 5*48000; {
		got, err := src.Read(buf)
		if err != nil {
			t.Fatal(err)
		}
		n += got
	}
	run := src.(*live).cur.(*decoded).dec.(*ffmpegDecoder).run
	time.AfterFunc(50*time.Millisecond, func() { src.Close() })
	if _, err := readAll(t, src); !errors.Is(err, ErrClosed) {
		t.Errorf("got %v", err)
	}
	if run.cmd.ProcessState == nil {
		t.Error("ffmpeg still runs after Close")
	}
}

// An MP4 file whose index is at its end can't be played from a server that sends
// files only from the beginning, and whoever asked is told so.
func TestFFmpegWithoutRanges(t *testing.T) {
	needFFmpeg(t)
	data := testdata(t, "end.m4a")
	head := int(binary.BigEndian.Uint32(data)) // its first box
	gap := make([]byte, 4<<20)
	binary.BigEndian.PutUint32(gap, uint32(len(gap)))
	copy(gap[4:], "free")
	data = slices.Concat(data[:head], gap, data[head:])
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Length", strconv.Itoa(len(data)))
		_, _ = w.Write(data)
	}))
	defer s.Close()
	src, err := Open(t.Context(), s.URL, Options{})
	if err == nil {
		defer src.Close()
		_, err = src.Read(make([]int32, 8192))
	}
	if !errors.Is(err, ErrUnsupported) || !strings.Contains(err.Error(), "parts of it") {
		t.Errorf("got %v", err)
	}
}

func TestFFmpegIsContained(t *testing.T) {
	needFFmpeg(t)
	secret := filepath.Join(t.TempDir(), "secret.wav")
	if err := os.WriteFile(secret, wav16(t, 8000, 2, noise(1000, 16)), 0o600); err != nil {
		t.Fatal(err)
	}
	asked := 0
	inside := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { asked++ }))
	defer inside.Close()
	for name, b := range map[string]string{
		// Said to be AAC, so that ffmpeg gets them; as playlists they would lead astray.
		"concat": "ffconcat version 1.0\nfile " + secret + "\n",
		"hls":    "\xff\xf1#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\nfile://" + secret + "\n#EXT-X-ENDLIST\n",
		"sdp":    "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=audio 5004 RTP/AVP 0\n",
		"remote": "ffconcat version 1.0\nfile " + inside.URL + "/x.wav\n",
	} {
		s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Type", "audio/aac")
			if name == "sdp" { // one that can't be positioned
				w.(http.Flusher).Flush()
			}
			fmt.Fprint(w, b, strings.Repeat("#\n", 2000))
		}))
		src, err := Open(t.Context(), s.URL, Options{})
		if err == nil {
			got, err := readAll(t, src)
			src.Close()
			t.Errorf("%s: opened, %d frames, %v", name, len(got)/2, err)
		} else if !errors.Is(err, ErrUnsupported) {
			t.Errorf("%s: got %v", name, err)
		}
		s.Close()
	}
	if asked > 0 {
		t.Error("ffmpeg fetched what it was told to")
	}
}

func TestFFmpegWhenThereIsNone(t *testing.T) {
	data := append([]byte("\x00\x00\x00\x20ftypM4A "), bytes.Repeat([]byte{0}, 500)...)
	for _, program := range []string{"off", filepath.Join(t.TempDir(), "ffmpeg")} {
		_, err := Options{FFmpeg: program}.withDefaults().openMedium(t.Context(), &medium{
			stream: newStream(nopCloser{bytes.NewReader(data)}, int64(len(data)), true),
		})
		if !errors.Is(err, ErrUnsupported) || !strings.Contains(err.Error(), "mp4 needs ffmpeg") {
			t.Errorf("got %v", err)
		}
	}
}
