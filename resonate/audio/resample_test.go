package audio

import (
	"fmt"
	"math"
	"testing"
)

func convert(t testing.TB, from, to int, pcm []int32) []int32 {
	t.Helper()
	r, err := NewResampler(from, to)
	if err != nil {
		t.Fatal(err)
	}
	return r.Flush(r.Append(nil, pcm))
}

func sine(rate, frames int, hz float64) []int32 {
	pcm := make([]int32, 2*frames)
	for i := range frames {
		v := fromFloat(0.5 * math.Sin(2*math.Pi*hz*float64(i)/float64(rate)))
		pcm[2*i], pcm[2*i+1] = v, -v
	}
	return pcm
}

func TestResamplerIsClean(t *testing.T) {
	for _, tc := range []struct {
		from, to int
		hz       float64
		least    float64 // dB
	}{
		{44100, 48000, 997, 100},
		{44100, 48000, 15000, 100},
		{44100, 48000, 19000, 80},
		{48000, 44100, 997, 100},
		{48000, 44100, 18000, 95},
		{192000, 48000, 10000, 95},
		{96000, 44100, 1000, 100},
		{22050, 48000, 5000, 100},
		{8000, 48000, 1000, 100},
		{44100, 192000, 12000, 95},
		{11127, 48000, 3000, 95}, // more phases than the table has
		{44101, 48000, 10000, 85},
	} {
		t.Run(fmt.Sprintf("%d to %d, %v Hz", tc.from, tc.to, tc.hz), func(t *testing.T) {
			got := convert(t, tc.from, tc.to, sine(tc.from, tc.from/4, tc.hz))
			want := sine(tc.to, len(got)/2, tc.hz)
			// Not the ends, where the tone is not yet one.
			edge := len(got) / 10 * 2
			if s := snr(got[edge:len(got)-edge], want[edge:len(got)-edge]); s < tc.least {
				t.Errorf("got %.1f dB, want %v", s, tc.least)
			}
		})
	}
}

func TestResamplerLetsNothingThroughThatWouldFold(t *testing.T) {
	for _, tc := range []struct {
		from, to int
		hz       float64
	}{{96000, 48000, 26000}, {48000, 44100, 23500}, {192000, 48000, 50000}, {44100, 16000, 9000}} {
		got := convert(t, tc.from, tc.to, sine(tc.from, tc.from/4, tc.hz))
		edge := len(got) / 10 * 2
		var loudest float64
		for _, v := range got[edge : len(got)-edge] {
			loudest = math.Max(loudest, math.Abs(float64(v)))
		}
		if db := 20 * math.Log10(loudest/(1<<30)); db > -75 {
			t.Errorf("%d to %d: %v Hz is only %.1f dB down", tc.from, tc.to, tc.hz, db)
		}
	}
}

func TestResamplerCountsAndBlocks(t *testing.T) {
	for _, tc := range []struct{ from, to, frames, want int }{
		{44100, 48000, 44100, 48000},
		{44100, 48000, 1, 2},
		{44100, 48000, 0, 0},
		{48000, 44100, 48001, 44101},
		{192000, 48000, 1000, 250},
		{8000, 48000, 7, 42},
	} {
		pcm := noise(max(1, tc.frames), 24)[:2*tc.frames]
		whole := convert(t, tc.from, tc.to, pcm)
		if len(whole) != 2*tc.want {
			t.Errorf("%d frames from %d to %d: got %d, want %d", tc.frames, tc.from, tc.to, len(whole)/2, tc.want)
		}
		r, err := NewResampler(tc.from, tc.to)
		if err != nil {
			t.Fatal(err)
		}
		for range 2 { // the second time after Reset
			var parts []int32
			for at, size := 0, 2; at < len(pcm); size = size*3%514 + 2 {
				end := min(len(pcm), at+size)
				parts = r.Append(parts, pcm[at:end])
				at = end
			}
			same(t, r.Flush(parts), whole)
			r.Reset()
		}
	}
}

func TestResampledSourceSeeksExactly(t *testing.T) {
	open := func() Source {
		src, err := Resample(Tone{Frequency: 997, Rate: 44100, Frames: 20000}.Source(), 48000)
		if err != nil {
			t.Fatal(err)
		}
		return src
	}
	src := open()
	all, err := readAll(t, src)
	if i := src.Info(); err != nil || i.Rate != 48000 || int64(len(all)) != 2*i.Frames || i.Native.SampleRate != 44100 {
		t.Fatalf("got %d frames, %v, %+v", len(all)/2, err, i)
	}
	for _, at := range []int{0, 1, 20, 147, 12345, len(all)/2 - 1, len(all) / 2} {
		if err := src.SeekFrame(int64(at)); err != nil {
			t.Fatal(err)
		}
		rest, err := readAll(t, src)
		if err != nil {
			t.Fatal(err)
		}
		same(t, rest, all[2*at:])
	}
	if same := (Tone{}).Source(); func() Source { s, _ := Resample(same, 48000); return s }() != same {
		t.Error("a source of the right rate was wrapped")
	}
}

func BenchmarkResample(b *testing.B) {
	for _, tc := range [][2]int{{44100, 48000}, {96000, 48000}, {192000, 44100}} {
		b.Run(fmt.Sprintf("%d to %d", tc[0], tc[1]), func(b *testing.B) {
			r, err := NewResampler(tc[0], tc[1])
			if err != nil {
				b.Fatal(err)
			}
			pcm := sine(tc[0], tc[0], 997)
			var out []int32
			b.ReportAllocs()
			for b.Loop() { // one second of sound
				for at := 0; at < len(pcm); at += 1470 {
					out = r.Append(out[:0], pcm[at:min(len(pcm), at+1470)])
				}
			}
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "x-realtime")
		})
	}
}
