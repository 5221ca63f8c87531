package audio

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/url"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"

	"resonatebridge/resonate/protocol"
)

// FuzzMedia opens any bytes as sound, from a file and from the network: every
// container and decoder here. What is found is bounded and told in this package's
// words, and reading and seeking come to an end.
func FuzzMedia(f *testing.F) {
	files, err := filepath.Glob("testdata/*.*")
	if err != nil {
		f.Fatal(err)
	}
	for _, file := range files {
		name := filepath.Base(file)
		if strings.HasSuffix(name, ".sh") {
			continue
		}
		b := testdata(f, name)
		f.Add(b[:min(len(b), 6<<10)], "", uint32(500))
		f.Add(b[len(b)/3:min(len(b), len(b)/3+1<<10)], "audio/mpeg", uint32(0))
	}
	for _, bits := range []int{8, 16, 24, 32} {
		pcm := protocol.Format{Channels: 2, SampleRate: 44100, BitDepth: bits}
		f.Add(wav(f, 1, pcm, bytes.Repeat([]byte{1, 2, 3, 0xff}, 300)), "audio/wav", uint32(7))
	}
	f.Add([]byte("ID3\x03\x00\x00\x00\x00\x00\x20TIT2\x00\x00\x00\x06\x00\x00\x01\xff\xfeA\x00APIC\x00\x00\x00\x04\x00\x00\x00a\x00\x03"), "audio/mpeg", uint32(1))
	f.Fuzz(func(t *testing.T, data []byte, mediaType string, frame uint32) {
		const most = 200_000 // frames that are read
		for _, seekable := range []bool{true, false} {
			size := int64(-1)
			if seekable {
				size = int64(len(data))
			}
			src, err := Options{FFmpeg: "off"}.withDefaults().openMedium(context.Background(), &medium{
				stream: newStream(nopCloser{bytes.NewReader(data)}, size, seekable), mediaType: mediaType,
				resolve: func(string) string { return "" },
			})
			if err != nil {
				wantSentence(t, err)
				continue
			}
			i := src.Info()
			if i.Rate < minRate || i.Rate > maxRate || i.Frames < 0 || i.Native.Channels < 1 || i.Native.Channels > maxChannels || len(i.Picture) > len(data) {
				t.Errorf("got %+v", i)
			}
			for _, text := range []string{i.Tags.Title, i.Tags.Artist, i.Tags.AlbumArtist, i.Tags.Album} {
				wantShown(t, text)
			}
			buf := make([]int32, Channels*4096)
			read := func() {
				for total := 0; total < most; {
					n, err := src.Read(buf)
					if n < 0 || n > len(buf)/Channels || n == 0 && err == nil || n > 0 && err != nil {
						t.Fatalf("Read: got %d, %v", n, err)
					}
					total += n
					if err != nil {
						if !errors.Is(err, io.EOF) {
							wantSentence(t, err)
						}
						return
					}
				}
			}
			read()
			switch err := src.SeekFrame(int64(frame)); {
			case err == nil:
				read()
			case errors.Is(err, ErrNotSeekable) == i.Seekable:
				t.Errorf("seek: got %v, seekable %v", err, i.Seekable)
			}
			if err := src.Close(); err != nil {
				t.Error(err)
			}
			if n, err := src.Read(buf); n != 0 || !errors.Is(err, ErrClosed) {
				t.Errorf("after Close: got %d, %v", n, err)
			}
		}
	})
}

// wantSentence fails the test if err is none of this package's.
func wantSentence(t *testing.T, err error) {
	t.Helper()
	if !slices.ContainsFunc([]error{ErrRefused, ErrUnreachable, ErrUnsupported, ErrDamaged, ErrNotSeekable}, func(e error) bool { return errors.Is(err, e) }) {
		t.Errorf("got an error of another kind: %v", err)
	}
	if len(err.Error()) > 1024 {
		t.Errorf("an error of %d bytes", len(err.Error()))
	}
}

// wantShown fails the test if a text from outside is not fit to be shown.
func wantShown(t *testing.T, text string) {
	t.Helper()
	if len(text) > 2*maxText || !utf8.ValidString(text) || strings.ContainsFunc(text, unicode.IsControl) {
		t.Errorf("got a text %.100q of %d bytes", text, len(text))
	}
}

// FuzzPlaylist reads any text as a playlist of each kind. Nothing that comes from
// the network leads to this machine's files.
func FuzzPlaylist(f *testing.F) {
	for _, text := range []string{
		"#EXTM3U\n#EXTINF:5,A - B\nhttp://host/a.mp3\nb/c.mp3\nfile:///etc/passwd\n",
		"[playlist]\nFile2=http://host/2\nTitle2=Two\nfile1=one.ogg\nNumberOfEntries=2\n",
		"#EXTM3U\n#EXT-X-STREAM-INF:BANDWIDTH=128000,CODECS=\"mp4a.40.2,avc1\",RESOLUTION=1x1,AUDIO=\"a\"\nv.m3u8\n" +
			"#EXT-X-MEDIA:TYPE=AUDIO,GROUP-ID=\"a\",URI=\"sound.m3u8\",DEFAULT=YES\n",
		"#EXTM3U\n#EXT-X-TARGETDURATION:6\n#EXT-X-MEDIA-SEQUENCE:7\n#EXT-X-MAP:URI=\"init.mp4\"\n#EXTINF:6,\ns1.ts\n#EXT-X-ENDLIST\n",
		"#EXTM3U\n#EXT-X-KEY:METHOD=AES-128,URI=\"k\"\n#EXT-X-BYTERANGE:1@2\n", "\uFEFF[Playlist]\r\nFile2000=\\\\nas\\a\r\nFile99999999999999999999=x",
	} {
		f.Add([]byte(text), "text/plain")
	}
	base, err := url.Parse("http://host/dir/list")
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, data []byte, mediaType string) {
		isPlaylist(data, "x", mediaType)
		resolve := networkEntry(base)
		entries := parsePlaylist(data, resolve)
		if len(entries) > maxEntries {
			t.Errorf("got %d entries", len(entries))
		}
		for _, e := range entries {
			if !strings.HasPrefix(e.URL, "http://") && !strings.HasPrefix(e.URL, "https://") {
				t.Errorf("the network leads to %q", e.URL)
			}
			wantShown(t, e.Title)
		}
		for _, e := range parsePlaylist(data, fileEntry(string(filepath.Separator)+"music")) {
			if u, err := url.Parse(e.URL); !filepath.IsAbs(e.URL) && (err != nil || u.Scheme == "") {
				t.Errorf("a file leads to %q", e.URL)
			}
		}
		p, err := parseHLS(data)
		if err != nil {
			wantSentence(t, err)
			return
		}
		if p.target <= 0 || p.target > hlsLongest || p.first < 0 || len(p.segments) > 100*maxEntries {
			t.Errorf("got %+v", p)
		}
		if len(p.variants) > 0 && p.sound() == "" {
			t.Errorf("no sound of %+v", p)
		}
	})
}

// FuzzICY takes the titles out of any station's stream: the sound is the same in
// whatever pieces it comes, and has none of them in it.
func FuzzICY(f *testing.F) {
	f.Add([]byte("soundsou\x02StreamTitle='Artist - It's';    ndsounds\x00oundsoun"), "8", uint8(3))
	f.Add([]byte("soundsou\x02StreamTitle='\xe4';StreamUrl='http://x/a.jpg?1"), "8", uint8(1))
	f.Add([]byte{1, 0xff}, "1", uint8(0))
	f.Fuzz(func(t *testing.T, data []byte, interval string, piece uint8) {
		listen := func(piece int) (sound []byte, titles []titleAt, err error) {
			s := &station{titles: []titleAt{{}}}
			r, err := newICYReader(io.NopCloser(bytes.NewReader(data)), s, interval)
			if err != nil {
				return nil, nil, err
			}
			buf := make([]byte, piece)
			for {
				n, err := r.Read(buf)
				sound = append(sound, buf[:n]...)
				if err != nil {
					return sound, s.titles, nil //nolint:nilerr // the end
				}
			}
		}
		sound, titles, err := listen(4096)
		if err != nil {
			wantSentence(t, err)
			return
		}
		for _, at := range titles {
			wantShown(t, at.tags.Title)
			wantShown(t, at.tags.Artist)
			if at.offset > int64(len(sound)) {
				t.Errorf("a title at %d of %d bytes", at.offset, len(sound))
			}
		}
		again, titlesAgain, _ := listen(int(piece) + 1)
		if !bytes.Equal(sound, again) || fmt.Sprint(titles) != fmt.Sprint(titlesAgain) {
			t.Errorf("in other pieces: got %d bytes, %v; before %d bytes, %v", len(again), titlesAgain, len(sound), titles)
		}
		var every int
		if n, _ := fmt.Sscanf(interval, "%d", &every); n == 1 && every > 0 {
			if want := withoutMetadata(data, every); !bytes.Equal(sound, want) {
				t.Errorf("got sound %q, want %q", sound, want)
			}
		}
	})
}

// withoutMetadata is the sound in a station's stream, said in another way.
func withoutMetadata(data []byte, every int) (sound []byte) {
	for len(data) > every {
		sound = append(sound, data[:every]...)
		skip := 1 + 16*int(data[every])
		data = data[min(len(data), every+skip):]
	}
	return append(sound, data...)
}
