package analysis

import (
	"fmt"
	"math"
)

// Bands divides spectra as one viewer wants it.
type Bands struct{ from, to []int } // by band, numbers of frequencies; from == to: beyond what there is

// NewBands divides the spectra of a from fMin to fMax Hz into n bands that are
// equally wide on a scale, "mel", "log" or "lin".
func (a *Analyzer) NewBands(n int, scale string, fMin, fMax float64) (*Bands, error) {
	return newBands(a.rate, a.size, n, scale, fMin, fMax)
}

func newBands(rate, size, n int, scale string, fMin, fMax float64) (*Bands, error) {
	to, from := func(f float64) float64 { return f }, func(x float64) float64 { return x }
	switch scale {
	case "mel":
		to = func(f float64) float64 { return 2595 * math.Log10(1+f/700) }
		from = func(x float64) float64 { return 700 * (math.Pow(10, x/2595) - 1) }
	case "log":
		fMin = max(fMin, 1)
		to, from = math.Log10, func(x float64) float64 { return math.Pow(10, x) }
	case "lin":
	default:
		return nil, fmt.Errorf("analysis: no scale %.10q", scale)
	}
	if n < 1 || !(fMin < fMax) {
		return nil, fmt.Errorf("analysis: %d bands from %v to %v Hz", n, fMin, fMax)
	}
	b := &Bands{from: make([]int, n), to: make([]int, n)}
	lines := float64(size) / float64(rate) // per Hz
	edge := func(i int) float64 { return from(to(fMin)+(to(fMax)-to(fMin))*float64(i)/float64(n)) * lines }
	for i := range n {
		lo, hi := int(math.Ceil(edge(i))), int(math.Ceil(edge(i+1)))
		if lo >= hi { // narrower than what the transform tells apart: the nearest
			lo = int(math.Round((edge(i) + edge(i+1)) / 2))
			hi = lo + 1
		}
		b.from[i], b.to[i] = min(max(lo, 1), size/2), min(max(hi, 1), size/2)
	}
	return b, nil
}

// Levels are those of a spectrum, low to high, in new memory.
func (b *Bands) Levels(spectrum []float32) []uint16 {
	out := make([]uint16, len(b.from))
	for i := range out {
		power := 0.0
		for _, p := range spectrum[b.from[i]:b.to[i]] {
			power += float64(p)
		}
		out[i] = Level(decibels(power))
	}
	return out
}
