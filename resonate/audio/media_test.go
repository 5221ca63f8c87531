package audio

import (
	"bytes"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"testing"
)

// chirp is the sound of testdata, see make.sh.
func chirp(rate, frames int) []int32 {
	pcm := make([]int32, 2*frames)
	for i := range frames {
		t := float64(i) / float64(rate)
		pcm[2*i] = fromFloat(0.4 * math.Sin(2*math.Pi*(200*t+500*t*t)))
		pcm[2*i+1] = fromFloat(0.3 * math.Sin(2*math.Pi*(900*t-200*t*t)))
	}
	return pcm
}

func middles(pcm []int32) []int32 {
	for i := 0; i < len(pcm); i += 2 {
		m := middle(pcm[i], pcm[i+1])
		pcm[i], pcm[i+1] = m, m
	}
	return pcm
}

// snr is how far the difference lies below the signal, in dB.
func snr(got, want []int32) float64 {
	var signal, noise float64
	for i := range want {
		d := float64(got[i]) - float64(want[i])
		signal += float64(want[i]) * float64(want[i])
		noise += d * d
	}
	return 10 * math.Log10(signal/noise)
}

func testdata(t testing.TB, name string) []byte {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// TestMedia decodes what other people's encoders made of a sound that is known:
// all of it, nothing more, and each sample in its place.
func TestMedia(t *testing.T) {
	full := Tags{Title: "Chirp", Artist: "Gen Erator", Album: "Sweeps", Year: 2026, Track: 3}
	for _, tc := range []struct {
		file    string
		codec   string
		rate    int
		frames  int
		bits    int
		least   float64 // dB of SNR over the whole length
		tags    Tags
		picture bool
		want    []int32
	}{
		{"cbr.mp3", "mp3", 44100, 44100, 16, 20, full, true, chirp(44100, 44100)},
		{"vbr.mp3", "mp3", 44100, 44100, 16, 20, Tags{Title: "Old Chirp", Artist: "Gen", Track: 7}, false, chirp(44100, 44100)},
		{"chirp.ogg", "vorbis", 44100, 44100, 24, 15, full, false, chirp(44100, 44100)},
		{"chirp.opus", "opus", 48000, 48000, 24, 15, full, true, chirp(48000, 48000)},
		{"short.flac", "flac", 48000, 9600, 24, 120, Tags{Title: "Chirp", Artist: "Gen Erator", Year: 2026}, true, chirp(48000, 9600)},
		{"flac.ogg", "flac", 48000, 9600, 24, 120, Tags{Title: "Chirp"}, false, chirp(48000, 9600)},
	} {
		t.Run(tc.file, func(t *testing.T) {
			src, err := openBytes(testdata(t, tc.file))
			if err != nil {
				t.Fatal(err)
			}
			i := src.Info()
			if i.Native.Codec != tc.codec || i.Native.SampleRate != tc.rate || i.Rate != tc.rate ||
				i.Native.BitDepth != tc.bits || i.Frames != int64(tc.frames) || !i.Seekable || i.Live {
				t.Errorf("got %+v", i)
			}
			if i.Tags != tc.tags {
				t.Errorf("got %+v, want %+v", i.Tags, tc.tags)
			}
			if got := len(i.Picture) > 8 && string(i.Picture[1:4]) == "PNG"; got != tc.picture {
				t.Errorf("got a picture of %d bytes, want one: %v", len(i.Picture), tc.picture)
			}
			got, err := readAll(t, src)
			if err != nil {
				t.Error(err)
			}
			if len(got) != len(tc.want) {
				t.Fatalf("got %d frames, want %d", len(got)/2, len(tc.want)/2)
			}
			if s := snr(got, tc.want); s < tc.least {
				t.Errorf("got an SNR of %.1f dB, want %v", s, tc.least)
			}
			for _, at := range []int{0, 1, tc.frames / 3, tc.frames - 1, tc.frames / 2, 100, tc.frames} {
				if err := src.SeekFrame(int64(at)); err != nil {
					t.Fatalf("seek to %d: %v", at, err)
				}
				rest, err := readAll(t, src)
				if err != nil || len(rest) != len(got)-2*at {
					t.Fatalf("after a seek to %d: got %d frames, %v, want %d", at, len(rest)/2, err, len(got)/2-at)
				}
				// Opus may need more than its warm-up to be the same to the bit.
				if len(rest) > 0 && tc.codec == "opus" {
					if s := snr(rest, got[2*at:]); s < 40 {
						t.Errorf("after a seek to %d: got %.1f dB of SNR to the same without", at, s)
					}
				} else {
					same(t, rest, got[2*at:])
				}
			}
		})
	}
}

// TestMP3WithoutHeader has files whose encoder did not say what is sound.
func TestMP3WithoutHeader(t *testing.T) {
	for _, tc := range []struct {
		file string
		rate int
		want []int32
	}{
		{"bare.mp3", 44100, chirp(44100, 44100)},
		{"mono22.mp3", 22050, middles(chirp(22050, 22050))},
	} {
		src, err := openBytes(testdata(t, tc.file))
		if err != nil {
			t.Fatal(err)
		}
		got, err := readAll(t, src)
		if err != nil {
			t.Error(err)
		}
		about := src.Info().Frames
		if n := int64(len(got) / 2); src.Info().Rate != tc.rate || about < n-600 || about > n+600 {
			t.Errorf("%s: got %d frames at %d Hz, said about %d", tc.file, n, src.Info().Rate, about)
		}
		const delay = 576 + mp3Delay // LAME's own, too
		if s := snr(got[2*delay:], tc.want); s < 18 {
			t.Errorf("%s: got an SNR of %.1f dB", tc.file, s)
		}
		if err := src.SeekFrame(9999); err != nil {
			t.Fatal(err)
		}
		rest, err := readAll(t, src)
		if err != nil {
			t.Error(err)
		}
		same(t, rest, got[2*9999:])
	}
}

// A server that sends files only from the beginning takes the positions away, and
// not the length.
func TestMP3LengthWithoutPositions(t *testing.T) {
	b := testdata(t, "cbr.mp3")
	lengths := map[bool]int64{}
	for _, seekable := range []bool{true, false} {
		src, err := Options{FFmpeg: "off"}.withDefaults().openMedium(t.Context(), &medium{
			stream: newStream(nopCloser{bytes.NewReader(b)}, int64(len(b)), seekable),
		})
		if err != nil {
			t.Fatal(err)
		}
		if lengths[seekable] = src.Info().Frames; src.Info().Seekable != seekable {
			t.Errorf("seekable is %v, want %v", src.Info().Seekable, seekable)
		}
		_ = src.Close()
	}
	if lengths[false] != lengths[true] || lengths[true] == 0 {
		t.Errorf("with positions it has %d frames, without %d", lengths[true], lengths[false])
	}
}

func TestSurroundIsMixed(t *testing.T) {
	// The loudest tone of each side is its own; centre and rear are 3 dB below,
	// the woofer is not there.
	level := func(pcm []int32, side int, hz float64) float64 {
		var re, im float64
		for i := side; i < len(pcm); i += 2 {
			sin, cos := math.Sincos(2 * math.Pi * hz * float64(i/2) / 48000)
			re += float64(pcm[i]) * cos
			im += float64(pcm[i]) * sin
		}
		return 20 * math.Log10(math.Hypot(re, im)*4/float64(len(pcm))/(1<<31)+1e-9)
	}
	for _, file := range []string{"surround.opus"} {
		src, err := openBytes(testdata(t, file))
		if err != nil {
			t.Fatal(err)
		}
		if i := src.Info(); i.Native.Channels != 6 || i.Frames != 14400 {
			t.Errorf("%s: got %+v", file, i)
		}
		pcm, err := readAll(t, src)
		if err != nil || len(pcm) != 2*14400 {
			t.Fatalf("%s: got %d frames, %v", file, len(pcm)/2, err)
		}
		full := 20 * math.Log10(0.3/(1+math.Sqrt2))
		for side, want := range []map[float64]float64{
			{100: full, 200: -60, 300: full - 3, 400: -60, 500: full - 3, 600: -60},
			{100: -60, 200: full, 300: full - 3, 400: -60, 500: -60, 600: full - 3},
		} {
			for hz, db := range want {
				got := level(pcm, side, hz)
				if db == -60 && got > db+20 || db != -60 && math.Abs(got-db) > 1.5 {
					t.Errorf("%s, side %d, %v Hz: got %.1f dB, want %.1f", file, side, hz, got, db)
				}
			}
		}
	}
}

func TestCutFilesPlayToTheCut(t *testing.T) {
	for _, file := range []string{"cbr.mp3", "vbr.mp3", "chirp.ogg", "chirp.opus", "short.flac"} {
		whole, err := openBytes(testdata(t, file))
		if err != nil {
			t.Fatal(err)
		}
		want, err := readAll(t, whole)
		if err != nil {
			t.Fatal(err)
		}
		data := testdata(t, file)
		src, err := openBytes(data[:len(data)*3/4])
		if err != nil {
			t.Fatalf("%s: %v", file, err)
		}
		got, err := readAll(t, src)
		if !errors.Is(err, ErrDamaged) {
			t.Errorf("%s: got %v, want %v", file, err, ErrDamaged)
		}
		if len(got) < len(want)/4 || len(got) >= len(want) {
			t.Errorf("%s: got %d of %d frames", file, len(got)/2, len(want)/2)
		}
	}
}

func TestMP3WithGarbageBetweenFrames(t *testing.T) {
	data := testdata(t, "cbr.mp3")
	clean, err := openBytes(data)
	if err != nil {
		t.Fatal(err)
	}
	want, err := readAll(t, clean)
	if err != nil {
		t.Fatal(err)
	}
	at := id3Size(data)
	head, _ := parseMP3Header(data[at:])
	frames := 0
	dirty := data[:at:at]
	for ; at < int64(len(data)); frames++ {
		h, ok := parseMP3Header(data[at:])
		if !ok || !h.like(head) {
			t.Fatalf("no frame at %d", at)
		}
		if frames%7 == 3 {
			dirty = append(dirty, 0xff, 0xfb, 0x12, 0xff, 0xff, 'T', 'A', 'G', 0, 0xff, 0xfb, 0x50)
			dirty = append(dirty, fmt.Sprintf("%300d", frames)...)
		}
		dirty = append(dirty, data[at:at+int64(h.size)]...)
		at += int64(h.size)
	}
	src, err := openBytes(dirty)
	if err != nil {
		t.Fatal(err)
	}
	got, err := readAll(t, src)
	if err != nil {
		t.Error(err)
	}
	same(t, got, want)
}
