package timesync

import (
	"math"
	"sync/atomic"
	"time"
)

// Config has the parameters of a [Filter]. A field that is zero means its
// default, so Config{} is the reference filter. Values are finite and never
// negative.
type Config struct {
	// ProcessStdDev is the diffusion of the offset in µs/√µs, the jitter of
	// the clocks: P_oo grows by ProcessStdDev²·dt. Default 0.
	ProcessStdDev float64
	// DriftProcessStdDev is the diffusion of the drift in 1/√µs, the wander of
	// their frequencies: P_dd grows by DriftProcessStdDev²·dt. Default 1e-11.
	DriftProcessStdDev float64
	// ForgetFactor is the factor by which the standard deviations grow on a
	// large residual: P becomes ForgetFactor²·P. Above 1 it speeds up the
	// recovery from a step; 1 never forgets. Default 2.
	ForgetFactor float64
	// AdaptiveCutoff says when a residual is large: |y| > AdaptiveCutoff·maxError.
	// It is a multiple, not a fraction. Default 3.
	AdaptiveCutoff float64
	// MinSamples is the number of samples before anything is forgotten, so that
	// the first estimates can settle. Default 100.
	MinSamples float64
	// DriftSignificance is the number of its own standard deviations that the
	// drift must exceed to be used: drift² > DriftSignificance²·P_dd. Default 2,
	// which is about 95 % confidence.
	DriftSignificance float64
	// MaxErrorScale turns the worst case into a standard deviation:
	// R = (MaxErrorScale·maxError)². Default 0.5.
	MaxErrorScale float64
}

// withDefaults returns c with the reference's values for the fields left zero.
func (c Config) withDefaults() Config {
	for _, f := range []struct {
		field *float64
		value float64
	}{
		{&c.DriftProcessStdDev, 1e-11},
		{&c.ForgetFactor, 2},
		{&c.AdaptiveCutoff, 3},
		{&c.MinSamples, 100},
		{&c.DriftSignificance, 2},
		{&c.MaxErrorScale, 0.5},
	} {
		if *f.field == 0 {
			*f.field = f.value
		}
	}
	return c
}

const (
	// minMaxError in µs is the least error believed. Stamps are whole
	// microseconds, so no exchange is known better; and an error of 0 three
	// times in a row, as on loopback, would make the reference divide 0 by 0.
	minMaxError = 1
	// maxDrift is the drift from which on a drift is not used. No pair of
	// clocks comes near it (crystals: 1e-4), and a drift of -1, a server clock
	// that stands still, could not be converted back.
	maxDrift = 0.5
	// maxStdDev in µs is the largest standard deviation that Error can tell.
	maxStdDev = float64(math.MaxInt64/int64(time.Microsecond)) / 2
	// convergedError is the standard deviation below which a model counts as
	// converged: far below what an ear tells apart between two rooms, and in
	// reach of the second burst on a home network.
	convergedError = 2 * time.Millisecond
)

// Filter estimates how far the server's clock is ahead of the client's and how
// fast that changes. It is the two-state Kalman filter of Sendspin/time-filter
// (commit 39dd3f4), state (offset, drift) with covariance P, and gives the same
// numbers bit for bit. It departs only where the reference gives none or useless
// ones: maxError below 1 µs, |drift| of 0.5 or more, P no longer a covariance.
//
// One goroutine calls Update. Any goroutine may call Model at any time and is
// never blocked. A filter lives as long as one session: there is no reset,
// a new session makes a new filter, so no sample of an old session can reach it.
type Filter struct {
	// Of the writer alone, after NewFilter constant: variances of the config.
	qOffset, qDrift float64 // µs²/µs, 1/µs
	forget          float64 // factor on P
	cutoff          float64 // multiple of maxError
	minSamples      float64
	significance    float64 // factor on P_dd
	scale           float64

	// Of the writer alone, the state at the newest sample.
	samples       int
	at            Micros  // client clock
	offset        float64 // µs, server minus client
	drift         float64 // µs of offset per µs of client time
	poo, pod, pdd float64 // µs², µs, 1

	model atomic.Pointer[Model]
}

// NewFilter returns a filter that has seen nothing.
func NewFilter(c Config) *Filter {
	c = c.withDefaults()
	return &Filter{
		qOffset:      c.ProcessStdDev * c.ProcessStdDev,
		qDrift:       c.DriftProcessStdDev * c.DriftProcessStdDev,
		forget:       c.ForgetFactor * c.ForgetFactor,
		cutoff:       c.AdaptiveCutoff,
		minSamples:   c.MinSamples,
		significance: c.DriftSignificance * c.DriftSignificance,
		scale:        c.MaxErrorScale,
	}
}

// Update feeds one measurement: offset is server minus client
// ([Sample.Offset]), maxError its bound ([Sample.MaxError]; less than 1 µs
// counts as 1 µs), at the client's clock when it was taken
// ([Sample.ClientReceived], above 0). A measurement that is not newer than the
// one before is dropped.
func (f *Filter) Update(offset, maxError, at Micros) {
	if at <= f.at {
		return
	}
	dt := float64(at - f.at)
	z := float64(offset)
	e := float64(max(maxError, minMaxError))
	r := square(e * f.scale)

	switch f.samples {
	case 0:
		f.offset, f.poo = z, r
	case 1:
		f.drift, f.pdd = (z-f.offset)/dt, (f.poo+r)/square(dt)
		f.offset, f.poo = z, r
	default:
		f.correct(z, e, r, dt)
	}
	f.samples++
	f.at = at
	f.model.Store(f.snapshot())
}

// correct is one step of the filter: predict over dt, weigh the prediction
// against the measurement z of variance r, take the mean.
//
//	x' = F·x          F = [1 dt; 0 1]
//	P' = F·P·Fᵀ + Q   Q = [qOffset·dt 0; 0 qDrift·dt]
//	y  = z - x'₀      S = P'_oo + r      K = [P'_oo P'_od]/S
//	x  = x' + K·y     P = P' - K·[P'_oo P'_od]
//
// P stays a covariance, P_oo >= 0, P_dd >= 0 and P_od² <= P_oo·P_dd. In exact
// numbers it always is one, but when errors differ by a factor of 1e5 or more
// the last subtractions cancel; the reference then diverges to NaN for good,
// which a peer must not be able to cause.
func (f *Filter) correct(z, e, r, dt float64) {
	offset := f.offset + mul(f.drift, dt)
	poo := max(f.poo+mul(2*f.pod, dt)+mul(f.pdd, square(dt))+mul(f.qOffset, dt), 0)
	pod := f.pod + mul(f.pdd, dt)
	pdd := f.pdd + mul(f.qDrift, dt)

	y := z - offset
	if float64(f.samples) >= f.minSamples && math.Abs(y) > e*f.cutoff {
		// A step, not noise: trust the history less.
		poo, pod, pdd = poo*f.forget, pod*f.forget, pdd*f.forget
	}

	invS := 1 / (poo + r)
	ko, kd := poo*invS, pod*invS
	f.offset = offset + mul(ko, y)
	f.drift += mul(kd, y)
	f.poo = poo - mul(ko, poo) // ko is at most 1, also when rounded
	f.pdd = max(pdd-mul(kd, pod), 0)
	f.pod = pod - mul(kd, poo)
	if limit := f.poo * f.pdd; f.pod*f.pod > limit {
		f.pod = math.Copysign(math.Sqrt(limit), f.pod)
	}
}

// snapshot returns the state as readers see it.
func (f *Filter) snapshot() *Model {
	m := &Model{
		offset:  f.offset,
		at:      f.at,
		err:     duration(Micros(math.Round(min(math.Sqrt(f.poo), maxStdDev)))),
		samples: f.samples,
	}
	// With two samples the drift is a mere difference, so it must wait for a third.
	if f.samples > 2 && f.drift*f.drift > f.significance*f.pdd && math.Abs(f.drift) < maxDrift {
		m.drift = f.drift
	}
	return m
}

// Model returns the newest estimate, nil before the first sample.
func (f *Filter) Model() *Model { return f.model.Load() }

// Model is the estimate after one update. It never changes, so any goroutine
// may keep it and convert with it; successive calls of [Filter.Model] may give
// different models.
type Model struct {
	offset  float64 // µs, server minus client, at at
	drift   float64 // µs per µs; 0 while it is not significant
	at      Micros  // client clock
	err     time.Duration
	samples int
}

// Server converts a reading of the client's clock to the server's timeline:
//
//	client + round(offset + drift·(client - at))
func (m *Model) Server(client Micros) Micros {
	return client + Micros(math.Round(m.offset+mul(m.drift, float64(client-m.at))))
}

// Client converts a time on the server's timeline to the client's clock:
//
//	round((server - offset + drift·at) / (1 + drift))
//
// It undoes Server to within 1 µs.
func (m *Model) Client(server Micros) Micros {
	return Micros(math.Round((float64(server) - m.offset + mul(m.drift, float64(m.at))) / (1 + m.drift)))
}

// Error returns the standard deviation of the offset when it was estimated,
// rounded to whole microseconds: round(√P_oo).
func (m *Model) Error() time.Duration { return m.err }

// Samples returns the number of samples in the estimate, at least 1.
func (m *Model) Samples() int { return m.samples }

// Converged reports whether the model is good enough to play by: two samples
// or more and an error below 2 ms. On a network too bad for that it may stay
// false; a caller that must start anyway sets its own deadline.
func (m *Model) Converged() bool { return m.samples >= 2 && m.err < convergedError }

func square(x float64) float64 { return mul(x, x) }

// mul is x·y, rounded. The conversion forbids the compiler to fuse it with an
// addition, as it does on arm64 but not on amd64, so that every machine gets
// the same bits.
func mul(x, y float64) float64 { return float64(x * y) }
