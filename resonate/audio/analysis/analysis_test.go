package analysis

import (
	"fmt"
	"math"
	"math/rand/v2"
	"testing"
)

// look is everything that is seen of a signal, fed in uneven pieces.
func look(t testing.TB, a *Analyzer, pcm []int32) []Moment {
	t.Helper()
	var all []Moment
	for n := 1; len(pcm) > 0; n = n*7%4099 + 1 {
		k := min(2*n, len(pcm))
		all = append(all, a.Write(pcm[:k])...)
		pcm = pcm[k:]
	}
	return all
}

// sine is a tone in the left, the right or both channels.
func sine(rate int, seconds, f, amplitude, left, right float64) []int32 {
	pcm := make([]int32, 2*int(seconds*float64(rate)))
	for i := 0; i < len(pcm); i += 2 {
		v := amplitude * math.MaxInt32 * math.Sin(2*math.Pi*f*float64(i/2)/float64(rate))
		pcm[i], pcm[i+1] = int32(v*left), int32(v*right)
	}
	return pcm
}

// clicks are short bursts of noise at so many per minute over soft noise.
func clicks(rate int, seconds, perMinute float64) []int32 {
	rnd := rand.New(rand.NewPCG(1, 2))
	pcm := make([]int32, 2*int(seconds*float64(rate)))
	for i := range pcm {
		pcm[i] = int32(rnd.Float64()*2e6) - 1e6
	}
	for n := 0; ; n++ {
		at := int(math.Round(float64(n) * 60 / perMinute * float64(rate)))
		if at >= len(pcm)/2-rate/100 {
			return pcm
		}
		for i := range rate / 100 {
			pcm[2*(at+i)] = int32((rnd.Float64()*2 - 1) * math.MaxInt32)
			pcm[2*(at+i)+1] = pcm[2*(at+i)]
		}
	}
}

func TestLevel(t *testing.T) {
	for db, want := range map[float64]uint16{math.Inf(-1): 0, -90: 0, -60: 0, -30: 32768, -6: 58982, 0: 65535, 3: 65535} {
		if got := Level(db); got != want {
			t.Errorf("%v dB: got %d, want %d", db, got, want)
		}
	}
}

func TestLoudness(t *testing.T) {
	for _, tc := range []struct {
		name string
		rate int
		pcm  []int32
		want float64 // dB
	}{
		{"silence", 48_000, make([]int32, 30_000), math.Inf(-1)},
		{"full scale", 48_000, sine(48_000, 0.3, 1000, 1, 1, 1), 0},
		{"full scale at 44.1 kHz", 44_100, sine(44_100, 1, 1000, 1, 1, 1), 0},
		{"full scale at 192 kHz", 192_000, sine(192_000, 0.2, 1000, 1, 1, 1), 0},
		{"full scale at 8 kHz", 8_000, sine(8_000, 1, 1000, 1, 1, 1), 0},
		{"out of phase", 48_000, sine(48_000, 0.3, 1000, 1, 1, -1), 0},
		{"one channel", 48_000, sine(48_000, 0.3, 1000, 1, 0, 1), -3.01},
		{"a tenth", 48_000, sine(48_000, 0.3, 1000, 0.1, 1, 1), -20},
		// IEC 61672-1, table 3.
		{"100 Hz", 48_000, sine(48_000, 0.3, 100, 1, 1, 1), -19.1},
		{"10 kHz", 48_000, sine(48_000, 0.3, 10_000, 1, 1, 1), -2.5},
		{"2.5 kHz", 48_000, sine(48_000, 0.3, 2512, 1, 1, 1), 1.3},
	} {
		moments := look(t, New(tc.rate), tc.pcm)
		if want := len(tc.pcm)/2*Rate/tc.rate - 8; len(moments) < want {
			t.Fatalf("%s: got %d moments, want %d", tc.name, len(moments), want)
		}
		for _, m := range moments[5:] { // the first windows reach before the beginning
			if got := m.Loudness; !(math.Abs(got-tc.want) < 0.25 || math.IsInf(tc.want, -1) && got < -200) {
				t.Errorf("%s: at %d got %.2f dB, want %.2f", tc.name, m.Frame, got, tc.want)
				break
			}
		}
	}
}

func TestPeakAndSpectrum(t *testing.T) {
	for _, rate := range []int{44_100, 96_000} {
		for _, f := range []float64{62.5, 440, 997, 3000, 12_345} {
			a := New(rate)
			m := look(t, a, sine(rate, 0.3, f, 0.5, 1, 1))[20]
			want := 20*math.Log10(0.5) + 20*math.Log10(weightA(f))
			if math.Abs(m.Peak.Frequency-f) > 5 || math.Abs(m.Peak.Level-want) > 1 {
				t.Errorf("%v Hz at %d: got %+v, want a level of %.2f", f, rate, m.Peak, want)
			}
			for _, scale := range []string{"mel", "log", "lin"} {
				for _, n := range []int{1, 16, 64} {
					b, err := a.NewBands(n, scale, 50, 16_000)
					if err != nil {
						t.Fatal(err)
					}
					levels, best := b.Levels(m.Spectrum), 0
					for i := range levels {
						if levels[i] > levels[best] {
							best = i
						}
					}
					where := (position(scale, f) - position(scale, 50)) / (position(scale, 16_000) - position(scale, 50)) * float64(n)
					// A tone near an edge, or in bands that are narrower than what can
					// be told apart, may be highest next to it.
					wide := 1.5 * float64(rate) / 2048 * (position(scale, f+1) - position(scale, f)) / (position(scale, 16_000) - position(scale, 50)) * float64(n)
					if len(levels) != n || math.Abs(float64(best)+0.5-where) > 0.5+wide {
						t.Errorf("%v Hz at %d: of %d %s bands, %d is highest, want the one at %.2f", f, rate, n, scale, best, where)
					}
				}
			}
		}
	}
	silent := look(t, New(48_000), make([]int32, 48_000))[20]
	if silent.Peak.Frequency != 0 || Level(silent.Peak.Level) != 0 {
		t.Errorf("silence: got %+v", silent.Peak)
	}
}

// position is a frequency on a scale, from the definitions of the protocol.
func position(scale string, f float64) float64 {
	switch scale {
	case "mel":
		return 2595 * math.Log10(1+f/700)
	case "log":
		return math.Log10(f)
	}
	return f
}

func TestBadBands(t *testing.T) {
	a := New(48_000)
	for _, tc := range []struct {
		n        int
		scale    string
		min, max float64
	}{{0, "mel", 20, 2000}, {4, "bark", 20, 2000}, {4, "lin", 2000, 2000}, {4, "lin", 20, math.NaN()}} {
		if _, err := a.NewBands(tc.n, tc.scale, tc.min, tc.max); err == nil {
			t.Errorf("%+v was taken", tc)
		}
	}
	b, err := a.NewBands(8, "lin", 20_000, 60_000) // the upper ones are beyond what there is
	if err != nil {
		t.Fatal(err)
	}
	if got := b.Levels(look(t, a, sine(48_000, 0.5, 21_000, 1, 1, 1))[20].Spectrum); got[0] == 0 || got[7] != 0 {
		t.Errorf("got %v", got)
	}
}

// Clicks are onsets where they are and, once their period is known, beats.
func TestClicks(t *testing.T) {
	for rate, tempi := range map[int][]float64{8_000: {72, 90, 128, 150}, 44_100: {120}, 48_000: {120}, 96_000: {120}} { // slow rates are quick to look at
		for _, bpm := range tempi {
			t.Run(fmt.Sprintf("%v at %d", bpm, rate), func(t *testing.T) {
				const seconds = 16
				period := 60 / bpm
				off := func(m Moment) float64 { // seconds from the nearest click
					at := float64(m.Frame) / float64(rate)
					return at - math.Round(at/period)*period
				}
				onsets, beats, late := 0, 0, 0
				for _, m := range look(t, New(rate), clicks(rate, seconds, bpm)) {
					if m.Onset > 0 {
						onsets++
						if math.Abs(off(m)) > 0.021 {
							t.Errorf("an onset at %.3f s is %.3f s from a click", float64(m.Frame)/float64(rate), off(m))
						}
					}
					if at := float64(m.Frame) / float64(rate); m.Beat && at > 8 {
						beats++
						if math.Abs(off(m)) > 0.035 {
							late++
							t.Logf("a beat at %.3f s is %.3f s from a click", at, off(m))
						}
					}
				}
				want := int(seconds / period)
				if onsets < want-1 || onsets > want+1 {
					t.Errorf("got %d onsets of %d clicks", onsets, want)
				}
				want = int((seconds - 8) / period)
				if beats < want-1 || beats > want+1 || late > 1 {
					t.Errorf("after 8 s: got %d beats of %d, %d of them beside it", beats, want, late)
				}
			})
		}
	}
}

// Where nothing begins and nothing repeats there are no beats.
func TestNoBeats(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 2))
	noise := make([]int32, 16*16_000)
	for i := range noise {
		noise[i] = int32(rnd.Uint32()) / 8
	}
	for name, pcm := range map[string][]int32{
		"silence": make([]int32, 16*16_000),
		"a tone":  sine(8_000, 16, 440, 0.5, 1, 1),
		"noise":   noise,
	} {
		onsets, beats := 0, 0
		for _, m := range look(t, New(8_000), pcm)[10:] {
			if m.Onset > 0 {
				onsets++
			}
			if m.Beat {
				beats++
			}
		}
		if onsets > 0 || beats > 0 {
			t.Errorf("%s: %d onsets and %d beats", name, onsets, beats)
		}
	}
}

// A second of music costs this, for a whole group, and no memory.
func BenchmarkAnalyze(b *testing.B) {
	for _, rate := range []int{48_000, 192_000} {
		b.Run(fmt.Sprint(rate), func(b *testing.B) {
			pcm := clicks(rate, 1, 120)
			a := New(rate)
			b.ReportAllocs()
			for b.Loop() {
				for rest := pcm; len(rest) > 0; {
					k := min(2*rate/10, len(rest))
					for _, m := range a.Write(rest[:k]) {
						a.Recycle(m)
					}
					rest = rest[k:]
				}
			}
			b.ReportMetric(100*b.Elapsed().Seconds()/float64(b.N), "%core")
		})
	}
}
