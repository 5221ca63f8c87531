package audio

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"resonatebridge/resonate/audio/fetch"
	"resonatebridge/resonate/protocol"
	"resonatebridge/tests/pipe"
)

// web answers with h over pipes; the options reach it by any host name.
func web(t *testing.T, h http.HandlerFunc) Options {
	t.Helper()
	l := pipe.NewListener()
	s := &http.Server{Handler: h}
	go func() { _ = s.Serve(l) }()
	t.Cleanup(func() { s.Close() })
	return Options{Fetch: fetch.New(fetch.Options{Dial: l.DialContext}), FFmpeg: "off"}
}

// file serves the bytes as a file, by parts, too.
func file(w http.ResponseWriter, r *http.Request, b []byte) {
	http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(b))
}

func wav16(t testing.TB, rate, channels int, frames []int32) []byte {
	t.Helper()
	var data []byte
	for _, v := range frames {
		data = binary.LittleEndian.AppendUint16(data, uint16(v>>16))
	}
	return wav(t, 1, protocol.Format{Channels: channels, SampleRate: rate, BitDepth: 16}, data)
}

func TestFileFromTheNetwork(t *testing.T) {
	want := noise(100_000, 16)
	data := wav16(t, 44100, 2, want)
	synctest.Test(t, func(t *testing.T) {
		drop := 0
		o := web(t, func(w http.ResponseWriter, r *http.Request) {
			if drop++; drop%2 == 1 { // every other answer breaks off
				w = &short{w, 150_000}
			}
			file(w, r, data)
		})
		src, err := Open(t.Context(), "http://host/x.wav", o)
		if err != nil {
			t.Fatal(err)
		}
		defer src.Close()
		if i := src.Info(); i.Live || !i.Seekable || i.Frames != 100_000 {
			t.Errorf("got %+v", i)
		}
		got, err := readAll(t, src)
		if err != nil {
			t.Error(err)
		}
		same(t, got, want)
		if err := src.SeekFrame(77_777); err != nil {
			t.Fatal(err)
		}
		if got, err = readAll(t, src); err != nil {
			t.Error(err)
		}
		same(t, got, want[2*77_777:])
	})
}

// short breaks the connection off after so many bytes.
type short struct {
	http.ResponseWriter
	left int
}

func (s *short) Write(p []byte) (int, error) {
	n, err := s.ResponseWriter.Write(p[:min(len(p), s.left)])
	if s.left -= n; s.left == 0 {
		panic(http.ErrAbortHandler)
	}
	return n, err
}

// TestBadMedia is what people and networks send instead of sound. Each has one
// class, and a text that says what it was.
func TestBadMedia(t *testing.T) {
	mp3 := testdata(t, "cbr.mp3")
	media := map[string][]byte{
		"/empty":     {},
		"/html":      []byte("<!DOCTYPE html><html><body>Log in to the hotel's network</body></html>"),
		"/html2":     []byte("\n\n  <HTML>\n<head>" + strings.Repeat(" ", 3000)),
		"/text":      []byte(strings.Repeat("All work and no play makes Jack a dull boy. ", 200)),
		"/zeros":     make([]byte, 100_000),
		"/cut.flac":  testdata(t, "short.flac")[:3000],
		"/cut.wav":   wav(t, 1, protocol.Format{Channels: 2, SampleRate: 44100, BitDepth: 16}, nil)[:30],
		"/video.ogg": []byte("OggS\x00\x02" + strings.Repeat("\x00", 200)),
		"/x.m4a":     []byte("\x00\x00\x00\x20ftypM4A " + strings.Repeat("\x00", 200)),
		"/mulaw.wav": wav(t, 7, protocol.Format{Channels: 1, SampleRate: 8000, BitDepth: 8}, make([]byte, 100)),
		"/many.wav":  wav(t, 1, protocol.Format{Channels: 500, SampleRate: 44100, BitDepth: 16}, make([]byte, 4000)),
		"/rate.wav":  wav(t, 1, protocol.Format{Channels: 2, SampleRate: 3, BitDepth: 16}, make([]byte, 4000)),
		"/empty.m3u": []byte("#EXTM3U\n# nothing\n"),
		"/loop.m3u":  []byte("#EXTM3U\nloop.m3u\n"),
		"/file.m3u":  []byte("#EXTM3U\nfile:///etc/passwd\n"),
		"/dead.pls":  []byte("[playlist]\nFile1=http://host/none\nFile2=http://host/html\n"),
		"/long.m3u":  append([]byte("#EXTM3U\n"), bytes.Repeat([]byte("http://host/x\n"), 100_000)...),
		"/half.mp3":  mp3[id3Size(mp3):][:200],
		"/surround":  testdata(t, "surround.ogg"),
	}
	synctest.Test(t, func(t *testing.T) {
		o := web(t, func(w http.ResponseWriter, r *http.Request) {
			if b, ok := media[r.URL.Path]; ok {
				file(w, r, b)
				return
			}
			switch r.URL.Path {
			case "/loop":
				http.Redirect(w, r, "/loop", http.StatusMovedPermanently)
			case "/stalls":
				w.Header().Set("Content-Length", "1000000")
				_, _ = w.Write([]byte("RIFF"))
				w.(http.Flusher).Flush()
				<-r.Context().Done()
			case "/icy":
				w.Header().Set("icy-metaint", "-5")
				_, _ = w.Write(mp3)
			default:
				http.NotFound(w, r)
			}
		})
		for _, tc := range []struct {
			path string
			want error
			say  string
		}{
			{"/none", ErrUnreachable, "404 Not Found"},
			{"/loop", ErrUnreachable, "more than 8 redirects"},
			{"/stalls", ErrUnreachable, "nothing came for too long"},
			{"/" + strings.Repeat("x", 8<<10), ErrRefused, "8204 bytes, at most 4096"},
			{"/empty", ErrUnsupported, "it is empty"},
			{"/html", ErrUnsupported, "a web page"},
			{"/html2", ErrUnsupported, "a web page"},
			{"/text", ErrUnsupported, "no sound"},
			{"/zeros", ErrUnsupported, "no sound"},
			{"/cut.wav", ErrDamaged, "ends in the middle"},
			{"/cut.flac", ErrDamaged, "ends in the middle"},
			{"/video.ogg", ErrDamaged, "ogg"},
			{"/x.m4a", ErrUnsupported, "mp4 needs ffmpeg"},
			{"/mulaw.wav", ErrUnsupported, "format tag 0x7"},
			{"/many.wav", ErrUnsupported, "500 channels"},
			{"/rate.wav", ErrUnsupported, "3 Hz"},
			{"/empty.m3u", ErrUnsupported, "no entry"},
			{"/loop.m3u", ErrUnsupported, "playlists in playlists"},
			{"/file.m3u", ErrUnsupported, "no entry that may be played"},
			{"/dead.pls", ErrUnsupported, "a web page"},
			{"/long.m3u", ErrUnsupported, "more than"},
			{"/half.mp3", ErrUnsupported, "no MP3 frame"},
			{"/surround", ErrUnsupported, "woofer"},
			{"/icy", ErrUnsupported, "icy-metaint"},
		} {
			src, err := Open(t.Context(), "http://host"+tc.path, o)
			if err == nil { // it begins well
				_, err = readAll(t, src)
				src.Close()
			}
			if !errors.Is(err, tc.want) || !strings.Contains(fmt.Sprint(err), tc.say) {
				t.Errorf("%.30s: got %v, want %v: %s", tc.path, err, tc.want, tc.say)
			}
		}
		for _, text := range []string{"", "hello", "rtsp://host/x", "javascript:alert(1)", "concat:/etc/passwd|x", "tone:?seconds=x", "tcp://host?sampleformat=1"} {
			if _, err := Open(t.Context(), text, o); !errors.Is(err, ErrRefused) {
				t.Errorf("%q: got %v", text, err)
			}
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		start := time.Now()
		if _, err := Open(ctx, "http://host/stalls", o); !errors.Is(err, context.DeadlineExceeded) || time.Since(start) != time.Second {
			t.Errorf("got %v after %v", err, time.Since(start))
		}
	})
}

func TestOddFormatsPlay(t *testing.T) {
	for _, tc := range []struct {
		name       string
		tag        uint16
		f          protocol.Format
		data       []byte
		want       []int32
		frames     int64
		lastIsHalf bool
	}{
		{"192 kHz, 24 bits", 1, protocol.Format{Channels: 2, SampleRate: 192000, BitDepth: 24}, []byte{1, 2, 3, 255, 255, 255}, []int32{0x03020100, -256}, 1, false},
		{"5.1", 1, protocol.Format{Channels: 6, SampleRate: 48000, BitDepth: 16}, bytes.Repeat([]byte{0, 0x40}, 6), []int32{1<<30 - 1, 1<<30 - 1}, 1, false},
		{"mono, 8 bits", 1, protocol.Format{Channels: 1, SampleRate: 8000, BitDepth: 8}, []byte{128, 0, 255}, []int32{0, 0, -1 << 31, -1 << 31, 127 << 24, 127 << 24}, 3, false},
		{"float", 3, protocol.Format{Channels: 2, SampleRate: 44100, BitDepth: 32}, []byte{0, 0, 0, 0x3f, 0, 0, 0, 0xc0}, []int32{1 << 30, -1 << 31}, 1, false},
		{"double, not a number", 3, protocol.Format{Channels: 2, SampleRate: 44100, BitDepth: 64}, []byte{0, 0, 0, 0, 0, 0, 0xe0, 0x3f, 1, 0, 0, 0, 0, 0, 0xf8, 0x7f}, []int32{1 << 30, 0}, 1, false},
		{"half a frame too many", 1, protocol.Format{Channels: 2, SampleRate: 44100, BitDepth: 16}, []byte{1, 0, 2, 0, 3, 0}, []int32{1 << 16, 2 << 16}, 1, false},
	} {
		src, err := openBytes(wav(t, tc.tag, tc.f, tc.data))
		if err != nil {
			t.Fatalf("%s: %v", tc.name, err)
		}
		if i := src.Info(); i.Rate != tc.f.SampleRate || i.Frames != tc.frames || i.Native.Channels != tc.f.Channels {
			t.Errorf("%s: got %+v", tc.name, i)
		}
		got, err := readAll(t, src)
		if err != nil {
			t.Errorf("%s: %v", tc.name, err)
		}
		for i := range min(len(got), len(tc.want)) {
			if d := int64(got[i]) - int64(tc.want[i]); d < -8 || d > 8 {
				t.Errorf("%s: got %v, want %v", tc.name, got, tc.want)
				break
			}
		}
		if len(got) != len(tc.want) {
			t.Errorf("%s: got %d samples, want %d", tc.name, len(got), len(tc.want))
		}
	}
}

func TestWAVOfUnknownLength(t *testing.T) {
	whole := wav16(t, 48000, 2, noise(100, 16))
	for _, size := range []uint32{0, 0xffffffff, 0xfffffff0} {
		binary.LittleEndian.PutUint32(whole[40:], size)
		src, err := openBytes(whole)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := readAll(t, src); err != nil || len(got) != 200 {
			t.Errorf("size %#x: got %d samples, %v", size, len(got), err)
		}
	}
	binary.LittleEndian.PutUint32(whole[40:], 4000) // a lie
	src, err := openBytes(whole)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := readAll(t, src); !errors.Is(err, ErrDamaged) || len(got) != 200 {
		t.Errorf("got %d samples, %v", len(got), err)
	}
}

func TestWAVTexts(t *testing.T) {
	plain := wav16(t, 48000, 2, noise(10, 16))
	list := []byte("LIST\x2a\x00\x00\x00INFOINAM\x05\x00\x00\x00Song\x00\x00IART\x04\x00\x00\x00BandITRK\x02\x00\x00\x007\x00")
	binary.LittleEndian.PutUint32(list[4:], uint32(len(list)-8))
	src, err := openBytes(append(append(bytes.Clone(plain[:36]), list...), plain[36:]...))
	if err != nil {
		t.Fatal(err)
	}
	if got, want := src.Info().Tags, (Tags{Title: "Song", Artist: "Band", Track: 7}); got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
	if got, err := readAll(t, src); err != nil || len(got) != 20 {
		t.Errorf("got %d samples, %v", len(got), err)
	}
}

// radio serves sound for ever, with a title before each so many bytes.
func radio(w http.ResponseWriter, r *http.Request, sound []byte, every int, titles []string) {
	w.Header().Set("icy-name", "Radio Nowhere")
	w.Header().Set("Content-Type", "audio/mpeg")
	if r.Header.Get("Icy-Metadata") != "1" {
		every = 0
	}
	if every > 0 {
		w.Header().Set("icy-metaint", fmt.Sprint(every))
	}
	for len(sound) > 0 {
		n := len(sound)
		if every > 0 {
			n = min(n, every)
		}
		if _, err := w.Write(sound[:n]); err != nil {
			return
		}
		sound = sound[n:]
		if every == 0 || n < every {
			continue
		}
		var text string
		if len(titles) > 0 {
			text, titles = titles[0], titles[1:]
		}
		block := make([]byte, 1+(len(text)+15)/16*16)
		block[0] = byte(len(block) / 16)
		copy(block[1:], text)
		if _, err := w.Write(block); err != nil {
			return
		}
		w.(http.Flusher).Flush()
	}
}

func TestRadioTitlesComeWithTheirSound(t *testing.T) {
	data := testdata(t, "cbr.mp3")
	sound := data[id3Size(data):]
	frame, _ := parseMP3Header(sound)
	synctest.Test(t, func(t *testing.T) {
		o := web(t, func(w http.ResponseWriter, r *http.Request) {
			radio(w, r, sound, 4*frame.size, []string{
				"StreamTitle='A-Ha - Don't Go';StreamUrl='http://x/cover.jpg?a';", "", "StreamTitle='';", "StreamTitle='Caf\xe9 - Fran\xe7ais';",
			})
			<-r.Context().Done() // it is on the air
		})
		src, err := Open(t.Context(), "http://host/", o)
		if err != nil {
			t.Fatal(err)
		}
		defer src.Close()
		i := src.Info()
		if !i.Live || i.Seekable || i.Frames != 0 || i.Tags != (Tags{Title: "Radio Nowhere"}) {
			t.Errorf("got %+v", i)
		}
		type change struct {
			at   int // MPEG frames
			tags Tags
		}
		var got []change
		buf := make([]int32, 2*64)
		for at := 0; at < 17*1152; {
			n, err := src.Read(buf)
			if err != nil {
				t.Fatal(err)
			}
			if tags := src.Info().Tags; len(got) == 0 || got[len(got)-1].tags != tags {
				got = append(got, change{at / 1152, tags})
			}
			at += n
		}
		want := []change{
			{0, Tags{Title: "Radio Nowhere"}},
			{3, Tags{Title: "Don't Go", Artist: "A-Ha", Album: "Radio Nowhere", ArtworkURL: "http://x/cover.jpg?a"}},
			{11, Tags{Title: "Radio Nowhere"}},
			{15, Tags{Title: "Français", Artist: "Café", Album: "Radio Nowhere"}},
		}
		if len(got) != len(want) {
			t.Fatalf("got %+v, want %+v", got, want)
		}
		for i := range want {
			if got[i].tags != want[i].tags || got[i].at < want[i].at-2 || got[i].at > want[i].at {
				t.Errorf("got %+v, want %+v", got[i], want[i])
			}
		}
		start := time.Now()
		time.AfterFunc(time.Minute, func() { src.Close() })
		if _, err := readAll(t, src); !errors.Is(err, ErrClosed) && !errors.Is(err, ErrUnreachable) || time.Since(start) > time.Minute {
			t.Errorf("got %v after %v", err, time.Since(start))
		}
	})
}

func TestRadioComesBack(t *testing.T) {
	data := testdata(t, "cbr.mp3")
	sound := data[id3Size(data):]
	synctest.Test(t, func(t *testing.T) {
		requests := 0
		var down time.Time
		o := web(t, func(w http.ResponseWriter, r *http.Request) {
			switch requests++; {
			case !down.IsZero():
				http.Error(w, "gone", http.StatusServiceUnavailable)
			case requests == 2 || requests == 3:
				http.NotFound(w, r) // the station restarts
			case requests == 4: // and has another rate then
				radio(w, r, testdata(t, "mono22.mp3"), 0, nil)
			default:
				radio(w, r, sound, 0, nil)
			}
		})
		src, err := Open(t.Context(), "http://host/", o)
		if err != nil {
			t.Fatal(err)
		}
		rate := src.Info().Rate
		frames := 0
		buf := make([]int32, 2*512)
		for requests < 7 {
			n, err := src.Read(buf)
			if err != nil {
				t.Fatalf("after %d requests and %d frames: %v", requests, frames, err)
			}
			frames += n
			if got := src.Info().Rate; got != rate || !src.Info().Live {
				t.Fatalf("got %d Hz, want %d", got, rate)
			}
		}
		if frames < 4*44100 {
			t.Errorf("got %d frames", frames)
		}
		down = time.Now()
		for err = nil; err == nil; {
			_, err = src.Read(buf)
		}
		if gone := time.Since(down); !errors.Is(err, ErrUnreachable) || gone < 50*time.Second || gone > 70*time.Second {
			t.Errorf("got %v after %v", err, gone)
		}
		src.Close()

		// Close ends the waiting for a station that is away.
		down, requests = time.Time{}, 0
		if src, err = Open(t.Context(), "http://host/", o); err != nil {
			t.Fatal(err)
		}
		down = time.Now()
		time.AfterFunc(7*time.Second, func() { src.Close() })
		_, err = readAll(t, src)
		if !errors.Is(err, ErrClosed) || time.Since(down) != 7*time.Second {
			t.Errorf("got %v after %v", err, time.Since(down))
		}
	})
}

func TestPlaylists(t *testing.T) {
	dir := t.TempDir()
	sound := wav16(t, 8000, 2, noise(50, 16))
	for name, text := range map[string]string{
		"a.wav": string(sound), "album.m3u8": "\uFEFF#EXTM3U\n#EXTINF:3,First, really\na.wav\n#EXTINF:3,Second\nsub\\b.wav\nhttp://host/c.wav\n",
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	synctest.Test(t, func(t *testing.T) {
		o := web(t, func(w http.ResponseWriter, r *http.Request) {
			switch r.URL.Path {
			case "/list/radio.pls":
				fmt.Fprint(w, "[Playlist]\r\nTitle2=Two\r\nFile2=http://host/x.wav\r\nFILE1=/dead\r\nTitle1=One\r\nFile10=http://host/y.wav\r\nNumberOfEntries=3\r\n")
			case "/nested":
				w.Header().Set("Content-Type", "audio/x-mpegurl; charset=utf-8")
				fmt.Fprint(w, "list/radio.pls\nother.mp3\n")
			case "/x.wav":
				file(w, r, sound)
			default:
				http.NotFound(w, r)
			}
		})
		o.Roots = []string{dir}
		for _, tc := range []struct {
			text, title string
			next        []Entry
		}{
			{filepath.Join(dir, "album.m3u8"), "First, really", []Entry{{filepath.Join(dir, "sub/b.wav"), "Second"}, {"http://host/c.wav", ""}}},
			{"http://host/list/radio.pls", "Two", []Entry{{"http://host/y.wav", ""}}},
			{"http://host/nested", "Two", []Entry{{"http://host/y.wav", ""}}},
		} {
			src, err := Open(t.Context(), tc.text, o)
			if err != nil {
				t.Fatalf("%s: %v", tc.text, err)
			}
			i := src.Info()
			if i.Tags.Title != tc.title || fmt.Sprint(i.Next) != fmt.Sprint(tc.next) {
				t.Errorf("%s: got %q and %v, want %q and %v", tc.text, i.Tags.Title, i.Next, tc.title, tc.next)
			}
			if got, err := readAll(t, src); err != nil || len(got) != 100 {
				t.Errorf("%s: got %d samples, %v", tc.text, len(got), err)
			}
			src.Close()
		}
	})
}

// TestHLS follows a live stream whose segments are MP3, which needs no ffmpeg.
func TestHLS(t *testing.T) {
	data := testdata(t, "bare.mp3")
	clean, err := openBytes(data)
	if err != nil {
		t.Fatal(err)
	}
	want, err := readAll(t, clean)
	if err != nil {
		t.Fatal(err)
	}
	var segments [][]byte // of four MPEG frames each
	for at, n := 0, 0; at < len(data); n++ {
		h, _ := parseMP3Header(data[at:])
		if n%4 == 0 {
			segments = append(segments, nil)
		}
		segments[len(segments)-1] = append(segments[len(segments)-1], data[at:at+h.size]...)
		at += h.size
	}
	synctest.Test(t, func(t *testing.T) {
		start, reloads := time.Now(), 0
		o := web(t, func(w http.ResponseWriter, r *http.Request) {
			var n int
			switch r.URL.Path {
			case "/master.m3u8":
				fmt.Fprint(w, "#EXTM3U\n#EXT-X-STREAM-INF:BANDWIDTH=900000,RESOLUTION=1x1,CODECS=\"avc1.1,mp4a\"\nvideo.m3u8\n"+
					"#EXT-X-STREAM-INF:BANDWIDTH=64000,CODECS=\"mp4a.40.34\"\nlow.m3u8\n#EXT-X-STREAM-INF:CODECS=\"a,b\",BANDWIDTH=128000\nd/live.m3u8?x=1\n")
			case "/d/live.m3u8":
				// One more each second; four are listed.
				reloads++
				newest := min(len(segments), 4+int(time.Since(start)/time.Second))
				fmt.Fprintf(w, "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXT-X-MEDIA-SEQUENCE:%d\n", newest-4)
				for i := newest - 4; i < newest; i++ {
					fmt.Fprintf(w, "#EXTINF:1,\n../s%d.mp3\n", i)
				}
				if newest == len(segments) {
					fmt.Fprint(w, "#EXT-X-ENDLIST\n")
				}
			case "/vod.m3u8":
				fmt.Fprint(w, "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\ns0.mp3\n#EXTINF:1,\ns1.mp3\n#EXT-X-ENDLIST\n")
			case "/stuck.m3u8":
				fmt.Fprint(w, "#EXTM3U\n#EXT-X-TARGETDURATION:4\n#EXTINF:1,\ns0.mp3\n#EXTINF:1,\ns1.mp3\n")
			case "/key.m3u8":
				fmt.Fprint(w, "#EXTM3U\n#EXT-X-KEY:METHOD=AES-128,URI=\"k\"\n#EXTINF:1,\ns0.mp3\n")
			case "/away.m3u8":
				fmt.Fprint(w, "#EXTM3U\n#EXT-X-STREAM-INF:BANDWIDTH=1\nfile:///etc/passwd\n")
			default:
				if _, err := fmt.Sscanf(r.URL.Path, "/s%d.mp3", &n); err != nil || n >= len(segments) {
					http.NotFound(w, r)
					return
				}
				file(w, r, segments[n])
			}
		})
		src, err := Open(t.Context(), "http://host/master.m3u8", o)
		if err != nil {
			t.Fatal(err)
		}
		if i := src.Info(); !i.Live || i.Seekable || i.Native.Codec != "mp3" {
			t.Errorf("got %+v", i)
		}
		got, err := readAll(t, src)
		if err != nil {
			t.Error(err)
		}
		src.Close()
		// It begins with the third newest, the second of all; the first frames
		// lack what comes before.
		from := 2 * 1152 * 4
		if len(got) != len(want)-from {
			t.Fatalf("got %d frames, want %d", len(got)/2, (len(want)-from)/2)
		}
		same(t, got[2*3*1152:], want[from+2*3*1152:])
		if reloads > 40 {
			t.Errorf("the playlist was fetched %d times in %v", reloads, time.Since(start))
		}

		for _, tc := range []struct {
			path   string
			want   error
			frames int
		}{
			{"/vod.m3u8", nil, 8 * 1152},
			{"/stuck.m3u8", ErrUnreachable, 8 * 1152},
			{"/key.m3u8", ErrUnsupported, 0},
			{"/away.m3u8", ErrRefused, 0},
		} {
			src, err := Open(t.Context(), "http://host"+tc.path, o)
			var got []int32
			if err == nil {
				got, err = readAll(t, src)
				src.Close()
			}
			if !errors.Is(err, tc.want) || len(got) != 2*tc.frames {
				t.Errorf("%s: got %d frames, %v, want %d, %v", tc.path, len(got)/2, err, tc.frames, tc.want)
			}
		}
		if src, err = Open(t.Context(), "http://host/stuck.m3u8", o); err != nil {
			t.Fatal(err)
		}
		time.AfterFunc(time.Second, func() { src.Close() })
		if _, err := readAll(t, src); !errors.Is(err, ErrClosed) {
			t.Errorf("got %v", err)
		}
	})
}

func TestTCP(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		for i := byte(0); ; i++ {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			_, _ = conn.Write([]byte{i, 0, i, 1, i, 2, i, 3})
			conn.Close()
		}
	}()
	src, err := Open(t.Context(), "tcp://"+l.Addr().String(), Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer src.Close()
	got := make([]int32, 12)
	for at := 0; at < len(got); {
		n, err := src.Read(got[at:])
		if err != nil {
			t.Fatal(err)
		}
		at += 2 * n
	}
	for i, v := range got {
		if want := int32(i/4)<<16 | int32(i%4)<<24; v != want {
			t.Fatalf("sample %d: got %#x, want %#x", i, v, want)
		}
	}
	if _, err := Open(t.Context(), "tcp://169.254.169.254:80", Options{}); !errors.Is(err, ErrRefused) {
		t.Errorf("got %v", err)
	}
}

func TestMemoryDoesNotGrowWithTheLength(t *testing.T) {
	for _, file := range []string{"chirp.opus", "cbr.mp3", "short.flac"} {
		src, err := openBytes(testdata(t, file))
		if err != nil {
			t.Fatal(err)
		}
		d := src.(*decoded)
		if n := d.media.Size(); n > ahead {
			t.Errorf("%s: reads %d bytes ahead", file, n)
		}
	}
	// An index of positions of an endless file keeps its size.
	d := &mp3Decoder{media: newStream(nopCloser{&again{testdata(t, "bare.mp3"), 0}}, -1, false), stride: 1, left: -1}
	d.p.seekable = true
	for range 3 * maxIndex {
		if err := d.take(); err != nil {
			t.Fatal(err)
		}
	}
	if len(d.index) > maxIndex || d.stride != 4 || d.index[len(d.index)-1] < d.index[1] {
		t.Errorf("got %d positions, one of each %d", len(d.index), d.stride)
	}
}

// again is the same bytes for ever.
type again struct {
	b  []byte
	at int
}

func (a *again) Read(p []byte) (int, error) {
	n := copy(p, a.b[a.at:])
	a.at = (a.at + n) % len(a.b)
	return n, nil
}

func (*again) Seek(int64, int) (int64, error) { return 0, io.ErrNoProgress }
