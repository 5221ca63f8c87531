// Package analysis says what a visualizer shows of music: how loud it is, its
// spectrum, and when it begins anew and beats (spec: visualizer role).
//
// An [Analyzer] turns PCM into moments, 100 a second, for everybody who looks;
// [Bands] turns the spectrum of a moment into what one of them asked for.
// Neither may be used by several goroutines at once.
package analysis

import (
	"math"

	"gonum.org/v1/gonum/dsp/fourier"
)

// Rate is how many moments there are per second.
const Rate = 100

const (
	channels  = 2
	floorDB   = -60 // and less is nothing to see
	lookahead = 3   // moments after one that decide what it is
)

// Moment is what is heard at one time. The levels are A-weighted; 0 dB is a
// sine of 1 kHz at full scale in both channels.
type Moment struct {
	Frame    int64   // of the input, counted from the first one that was written
	Loudness float64 // dB
	Peak     Peak
	Onset    float64 // how strongly something begins here, 0 (nothing) to 1
	// Beat: a beat falls here. Tempi are looked for from 60 to 200 a minute; where
	// half or twice of one fits too, the one nearer to 120 is told, so 174 may be 87.
	Beat bool

	// Spectrum is power by frequency, from 0 to half the sample rate; together
	// it is 1 at 0 dB. It is valid until the moment is given back.
	Spectrum []float32
}

// Peak is the strongest frequency of a moment.
type Peak struct {
	Frequency float64 // Hz; 0: there is none
	Level     float64 // dB
}

// Analyzer looks at a stream of PCM. It allocates nothing once its moments are
// given back.
type Analyzer struct {
	thin            int // so many frames of the input are looked at as one
	rate, hop, size int // after that
	fft             *fourier.CmplxFFT
	window          []float64
	weights         []float64 // of power, by frequency, the scale included

	rest     []int32 // less than thin frames
	input    []int32 // interleaved, from frame start on; never shorter than the window needs before the next moment
	start    int64
	in, out  []complex128
	free     [][]float32
	moments  []Moment // not decided yet, oldest first
	next     int64    // number of the next moment that is looked at
	onsets   onsets
	beats    beats
	finished []Moment
}

// New returns an Analyzer of PCM with a sample rate of 8000 Hz or more.
func New(rate int) *Analyzer {
	thin := max(1, rate/44_100) // nobody looks at what nobody hears
	rate /= thin
	a := &Analyzer{thin: thin, rate: rate, hop: rate / Rate, size: 256}
	for a.size*1000/rate < 32 { // the lowest tones need as long
		a.size *= 2
	}
	a.fft = fourier.NewCmplxFFT(a.size)
	a.window = make([]float64, a.size)
	energy := 0.0
	for i := range a.window { // Hann
		a.window[i] = 0.5 - 0.5*math.Cos(2*math.Pi*float64(i)/float64(a.size))
		energy += a.window[i] * a.window[i]
	}
	a.weights = make([]float64, a.size/2)
	for k := range a.weights {
		w := weightA(float64(k) * float64(rate) / float64(a.size))
		a.weights[k] = w * w / (float64(a.size) * energy)
	}
	a.in, a.out = make([]complex128, a.size), make([]complex128, a.size)
	// The window of the first moment reaches back before the beginning.
	a.input, a.start = make([]int32, a.size/2*channels), -int64(a.size/2)
	a.onsets = newOnsets(rate, a.size)
	return a
}

// weightA is the gain of A-weighting at a frequency (IEC 61672-1).
func weightA(f float64) float64 {
	const a, b, c, d = 20.598997, 107.65265, 737.86223, 12194.217
	const gain = 1.2588966 // makes it 1 at 1 kHz
	f2 := f * f
	return gain * d * d * f2 * f2 / ((f2 + a*a) * math.Sqrt((f2+b*b)*(f2+c*c)) * (f2 + d*d))
}

// Write takes the next frames, interleaved stereo, and returns the moments that
// are decided now; they lag behind by about 50 ms. The slice is valid until the
// next call.
func (a *Analyzer) Write(pcm []int32) []Moment {
	a.take(pcm)
	a.finished = a.finished[:0]
	for {
		frame := a.next * int64(a.hop)
		from := int(frame - int64(a.size/2) - a.start)
		if (from+a.size)*channels > len(a.input) {
			break
		}
		a.look(frame, a.input[from*channels:(from+a.size)*channels])
		a.next++
	}
	// What no window reaches any more goes.
	if used := int(a.next*int64(a.hop)-int64(a.size/2)-a.start) * channels; used > 0 {
		a.input = append(a.input[:0], a.input[used:]...)
		a.start += int64(used / channels)
	}
	return a.finished
}

// take adds the mean of each thin frames to what is looked at.
func (a *Analyzer) take(pcm []int32) {
	if a.thin == 1 {
		a.input = append(a.input, pcm...)
		return
	}
	a.rest = append(a.rest, pcm...)
	step := a.thin * channels
	used := 0
	for ; used+step <= len(a.rest); used += step {
		var left, right int64
		for i := used; i < used+step; i += channels {
			left, right = left+int64(a.rest[i]), right+int64(a.rest[i+1])
		}
		a.input = append(a.input, int32(left/int64(a.thin)), int32(right/int64(a.thin))) //nolint:gosec // a mean of 32 bits
	}
	a.rest = append(a.rest[:0], a.rest[used:]...)
}

// Recycle gives the memory of a moment back.
func (a *Analyzer) Recycle(m Moment) {
	if m.Spectrum != nil {
		a.free = append(a.free, m.Spectrum)
	}
}

// look makes the moment at a frame from the samples around it.
func (a *Analyzer) look(frame int64, pcm []int32) {
	const scale = 1.0 / (1 << 31)
	for i, w := range a.window {
		w *= scale
		a.in[i] = complex(float64(pcm[i*channels])*w, float64(pcm[i*channels+1])*w)
	}
	// One transform of left + i right holds both: |L|² + |R|² at a frequency is
	// half of what it and its mirror image have together.
	z := a.fft.Coefficients(a.out, a.in)
	spectrum := a.spectrum()
	total, best := 0.0, 0
	for k := 1; k < a.size/2; k++ {
		p, q := z[k], z[a.size-k]
		power := (real(p)*real(p) + imag(p)*imag(p) + real(q)*real(q) + imag(q)*imag(q)) * a.weights[k]
		spectrum[k] = float32(power)
		total += power
		if spectrum[k] > spectrum[best] {
			best = k
		}
	}
	m := Moment{Frame: frame * int64(a.thin), Loudness: decibels(total), Spectrum: spectrum, Peak: a.peak(spectrum, best)}
	a.moments = append(a.moments, m)
	a.onsets.take(spectrum)
	if len(a.moments) <= lookahead {
		return
	}
	m = a.moments[0]
	a.moments = append(a.moments[:0], a.moments[1:]...)
	strength, onset := a.onsets.decide()
	if onset {
		m.Onset = strength
	}
	m.Beat = a.beats.take(strength)
	a.finished = append(a.finished, m)
}

// spectrum is memory for one.
func (a *Analyzer) spectrum() []float32 {
	n := len(a.free)
	if n == 0 {
		return make([]float32, a.size/2)
	}
	s := a.free[n-1]
	a.free = a.free[:n-1]
	s[0] = 0
	return s
}

// peak is where the strongest line really is, between the frequencies of the
// transform.
func (a *Analyzer) peak(s []float32, k int) Peak {
	// A-weighting is steep: it pulls low tones up to their neighbours.
	line := func(k int) float64 { return float64(s[k]) / a.weights[k] }
	for k > 2 && line(k-1) > line(k) {
		k--
	}
	if k < 2 || k > len(s)-3 {
		return Peak{Level: math.Inf(-1)}
	}
	level := decibels(float64(s[k-2] + s[k-1] + s[k] + s[k+1] + s[k+2])) // as wide as the window makes a line
	if level < floorDB {
		return Peak{Level: math.Inf(-1)}
	}
	l, c, r := math.Log(line(k-1)+1e-30), math.Log(line(k)+1e-30), math.Log(line(k+1)+1e-30)
	offset := 0.0
	if bend := l - 2*c + r; bend < 0 {
		offset = 0.5 * (l - r) / bend
	}
	return Peak{Frequency: (float64(k) + offset) * float64(a.rate) / float64(a.size), Level: level}
}

func decibels(power float64) float64 { return 10 * math.Log10(power) }

// Level is a number of decibels on the scale of the protocol: -60 dB or less is
// 0, 0 dB or more is 65535 (spec: visualizer role).
func Level(db float64) uint16 {
	return uint16(math.Round(min(max((db-floorDB)/-floorDB, 0), 1) * math.MaxUint16))
}
