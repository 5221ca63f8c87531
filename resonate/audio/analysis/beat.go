package analysis

import "math"

// beats follows the beat: a period from the autocorrelation of the onsets, and
// a score that is high where onsets follow each other in that period (Ellis,
// Beat Tracking by Dynamic Programming, 2007), from which the next beat is told
// ahead (Stark et al., Real-Time Beat-Synchronous Analysis, 2009).
type beats struct {
	onset [history]float64 // rings, indexed by count
	score [history]float64
	count int

	period float64 // moments; 0: there is no beat
	wait   int     // moments until the next beat; 0: not known
	ask    int     // moments until the next beat is told
	again  int     // moments until the period is looked at again
}

const (
	history   = 8 * Rate // 8 s
	fastest   = Rate * 60 / 200
	slowest   = Rate * 60 / 60
	usual     = Rate * 60 / 120.0
	momentum  = 0.9  // of the score: how much the past counts
	tightness = 5.0  // of the period
	certain   = 0.25 // of the autocorrelation: less is no beat
	quiet     = 1e-3 // mean square of the onsets: less is no beat either
	comb      = 4    // multiples of a period that are looked at
)

// take adds a moment and reports whether a beat falls on it.
func (b *beats) take(onset float64) bool {
	b.onset[b.count%history] = onset
	if b.again--; b.again <= 0 {
		b.again = Rate
		b.tempo()
	}
	b.score[b.count%history] = (1-momentum)*onset + momentum*b.best(b.count)
	b.count++
	if b.period == 0 {
		b.wait, b.ask = 0, 0
		return false
	}
	if b.wait == 0 && b.ask <= 0 {
		b.ask = 1
	}
	if b.ask > 0 {
		if b.ask--; b.ask == 0 {
			b.foresee()
		}
	}
	if b.wait == 0 {
		return false
	}
	if b.wait--; b.wait > 0 {
		return false
	}
	b.ask = int(math.Round(b.period / 2)) // half-way to the next one it is told
	return true
}

// best is the highest score one period before a moment, give or take.
func (b *beats) best(at int) float64 {
	if b.period == 0 {
		return 0
	}
	best := 0.0
	for d := int(b.period / 2); d <= int(2*b.period) && d <= at && d < history; d++ {
		if d < 1 {
			continue
		}
		x := tightness * math.Log(float64(d)/b.period)
		best = max(best, math.Exp(-x*x/2)*b.score[(at-d)%history])
	}
	return best
}

// foresee lets the score run on without onsets, and takes its highest place in
// the next period for the next beat, preferably half a period from now.
func (b *beats) foresee() {
	n := int(math.Round(b.period))
	saved := make([]float64, n)
	best, at := -1.0, 0
	for i := range n {
		k := (b.count + i) % history
		saved[i] = b.score[k]
		b.score[k] = b.best(b.count + i)
		x := (float64(i+1) - b.period/2) / (b.period / 2)
		if s := b.score[k] * math.Exp(-x*x/2); s > best {
			best, at = s, i
		}
	}
	for i, s := range saved {
		b.score[(b.count+i)%history] = s
	}
	b.wait = at + 1
}

// tempo finds the period.
func (b *beats) tempo() {
	n := min(b.count+1, history)
	if n < 2*slowest {
		return
	}
	mean := 0.0
	line := make([]float64, n) // oldest first
	for i := range line {
		line[i] = b.onset[(b.count+1-n+i)%history]
		mean += line[i] / float64(n)
	}
	for i := range line {
		line[i] -= mean
	}
	same := func(lag int) float64 { // autocorrelation, by how much there is to compare
		sum := 0.0
		for i := lag; i < n; i++ {
			sum += line[i] * line[i-lag]
		}
		return sum / float64(n-lag)
	}
	whole := same(0)
	if whole < quiet {
		b.period = 0
		return
	}
	most := min(comb*slowest+comb, n/2+1)
	auto := make([]float64, most+1)
	for lag := fastest - 1; lag <= most; lag++ {
		auto[lag] = same(lag) / whole
	}
	best, period := 0.0, 0.0
	for lag := fastest; lag <= slowest; lag++ {
		sum, weight := 0.0, 0.0
		for k := 1; k <= comb && k*lag+k-1 <= most; k++ {
			high := math.Inf(-1) // a period is no whole number of moments
			for d := 1 - k; d <= k-1; d++ {
				high = max(high, auto[k*lag+d])
			}
			sum, weight = sum+high/float64(k), weight+1/float64(k)
		}
		octaves := math.Log2(float64(lag) / usual)
		score := sum / weight * math.Exp(-octaves*octaves/2)
		if b.period != 0 && math.Abs(float64(lag)-b.period) < 2 {
			score *= 1.1 // it rarely changes
		}
		if score > best && auto[lag] > certain {
			best, period = score, float64(lag)
			if l, c, r := auto[lag-1], auto[lag], auto[min(lag+1, most)]; l-2*c+r < 0 {
				period += min(max(0.5*(l-r)/(l-2*c+r), -0.5), 0.5)
			}
		}
	}
	b.period = period
}
