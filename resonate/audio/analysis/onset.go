package analysis

import "math"

// onsets finds where something begins: where the power of many bands rises at
// once (spectral flux).
type onsets struct {
	bands Bands
	past  [2][]float64 // levels of the last two moments
	line  []float64    // rises, oldest first; the last lookahead are not decided
	mean  float64      // of the rises of the last half second or so
}

const (
	onsetBands = 24
	onsetFloor = -70.0 // dB in a band: what is below does not rise
	onsetRise  = 2.5   // dB over the mean that are a beginning
	onsetFull  = 20.0  // dB that are one of full strength
)

func newOnsets(rate, size int) onsets {
	bands, err := newBands(rate, size, onsetBands, "mel", 30, min(16_000, float64(rate)/2))
	if err != nil {
		panic(err) // the numbers above are good
	}
	o := onsets{bands: *bands}
	for i := range o.past {
		o.past[i] = make([]float64, onsetBands)
		for k := range o.past[i] {
			o.past[i][k] = onsetFloor
		}
	}
	return o
}

// take adds the spectrum of the next moment.
func (o *onsets) take(spectrum []float32) {
	before := o.past[0] // two moments ago: windows overlap
	rise := 0.0
	for i := range before {
		power := 0.0
		for _, p := range spectrum[o.bands.from[i]:o.bands.to[i]] {
			power += float64(p)
		}
		level := max(decibels(power+1e-30), onsetFloor)
		rise += max(level-before[i], 0)
		before[i] = level
	}
	o.past[0], o.past[1] = o.past[1], before
	o.line = append(o.line, rise/onsetBands)
	if len(o.line) > 2*lookahead+1 {
		o.line = append(o.line[:0], o.line[1:]...)
	}
}

// decide tells of the moment lookahead before the last one how strong the rise
// above the usual is, 0 to 1, and whether something begins with it.
func (o *onsets) decide() (strength float64, onset bool) {
	at := len(o.line) - 1 - lookahead
	rise := o.line[at]
	onset = rise > o.mean+onsetRise
	for i, other := range o.line { // the highest around; the first of equals
		onset = onset && (other < rise || other == rise && i >= at)
	}
	strength = min(max(rise-o.mean, 0)/onsetFull, 1)
	const forget = 0.02 // per moment
	o.mean += (rise - o.mean) * forget
	return math.Sqrt(strength), onset
}
