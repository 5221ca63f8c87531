package audio

import (
	"errors"
	"fmt"
	"math"
)

// The filter: a windowed sinc, whose error is 95 dB and more below a tone of up
// to 18 kHz (TestResamplerIsClean).
const (
	resampleTaps   = 64   // of the lower of both rates
	resampleBeta   = 9    // of the Kaiser window
	resampleCutoff = 0.95 // of half the lower rate
	resamplePhases = 1024 // at most; between them it is interpolated
)

// Resampler converts a stream of stereo frames to another sample rate. Frame n
// of the output sounds at the time n/to of the input, whatever the blocks.
type Resampler struct {
	up, down int64 // to and from without their common divisor
	taps     int
	phases   int64
	table    []float32 // phases+1 rows of taps
	hist     []float32 // frames of input, from number first on
	first    int64
	next     int64 // number of the next output frame
	fed      int64 // number of input frames so far
}

// NewResampler converts from one rate to another, in Hz. The error is ErrUnsupported.
func NewResampler(from, to int) (*Resampler, error) {
	if min(from, to) < minRate || max(from, to) > maxRate {
		return nil, fmt.Errorf("%w: conversion from %d to %d Hz", ErrUnsupported, from, to)
	}
	a, b := from, to
	for b != 0 {
		a, b = b, a%b
	}
	r := &Resampler{up: int64(to / a), down: int64(from / a)}
	narrow := math.Min(1, float64(to)/float64(from))
	r.taps = int(math.Ceil(resampleTaps/narrow/4)) * 4
	r.phases = min(r.up, resamplePhases)
	r.table = make([]float32, (r.phases+1)*int64(r.taps))
	half := float64(r.taps / 2)
	row := make([]float64, r.taps)
	for p := range r.phases + 1 {
		var sum float64
		for j := range row {
			x := float64(p)/float64(r.phases) - float64(j-r.taps/2+1)
			row[j] = sinc(x*narrow*resampleCutoff) * kaiser(x/half)
			sum += row[j]
		}
		for j, v := range row {
			r.table[int(p)*r.taps+j] = float32(v / sum)
		}
	}
	r.Reset()
	return r, nil
}

func sinc(x float64) float64 {
	if x == 0 {
		return 1
	}
	return math.Sin(math.Pi*x) / (math.Pi * x)
}

// kaiser is the window at x, which is -1 and 1 at its ends.
func kaiser(x float64) float64 {
	if x <= -1 || x >= 1 {
		return 0
	}
	bessel := func(x float64) float64 { // I0, as a series
		sum, term := 1.0, 1.0
		for k := 1.0; term > sum*1e-17; k++ {
			term *= (x / 2 / k) * (x / 2 / k)
			sum += term
		}
		return sum
	}
	return bessel(resampleBeta*math.Sqrt(1-x*x)) / bessel(resampleBeta)
}

// Reset begins a new stream.
func (r *Resampler) Reset() { r.start(0) }

// Clone is a resampler that goes on from where r is, on its own.
func (r *Resampler) Clone() *Resampler {
	c := *r
	c.hist = append([]float32(nil), r.hist...)
	return &c
}

// start makes frame the next of the output, and returns the number of the input
// frame from which on it wants to be fed.
func (r *Resampler) start(frame int64) (from int64) {
	r.next = frame
	r.first = frame*r.down/r.up - int64(r.taps/2) + 1
	from = max(0, r.first)
	r.hist = append(r.hist[:0], make([]float32, (from-r.first)*Channels)...)
	r.fed = from
	return from
}

// Append appends to dst the frames that src makes possible.
func (r *Resampler) Append(dst, src []int32) []int32 {
	for _, v := range src {
		r.hist = append(r.hist, float32(v))
	}
	r.fed += int64(len(src) / Channels)
	return r.drain(dst, math.MaxInt64)
}

// Flush appends what is left at the end of the input: then there are as many
// frames as the input lasts, rounded up.
func (r *Resampler) Flush(dst []int32) []int32 {
	r.hist = append(r.hist, make([]float32, (r.taps/2)*Channels)...)
	return r.drain(dst, (r.fed*r.up+r.down-1)/r.down)
}

// drain appends the frames before end for which there is input.
func (r *Resampler) drain(dst []int32, end int64) []int32 {
	have := r.first + int64(len(r.hist)/Channels)
	for r.next < end {
		at := r.next * r.down
		base, phase := at/r.up, at%r.up
		begin := base - int64(r.taps/2) + 1
		if begin+int64(r.taps) > have {
			break
		}
		x := r.hist[(begin-r.first)*Channels:][:r.taps*Channels]
		row, rest := phase*r.phases/r.up, phase*r.phases%r.up
		left, right := r.dot(x, row)
		if rest > 0 {
			l, t := r.dot(x, row+1)
			w := float32(rest) / float32(r.up)
			left, right = left+(l-left)*w, right+(t-right)*w
		}
		dst = append(dst, clip(left), clip(right))
		r.next++
	}
	// Keep what the next frame needs.
	if keep := r.next*r.down/r.up - int64(r.taps/2) + 1; keep > r.first {
		n := copy(r.hist, r.hist[min(int64(len(r.hist)), (keep-r.first)*Channels):])
		r.hist = r.hist[:n]
		r.first = keep
	}
	return dst
}

// dot filters the frames of x with a row of the table.
func (r *Resampler) dot(x []float32, row int64) (left, right float32) {
	c := r.table[row*int64(r.taps):][:r.taps]
	x = x[:len(c)*Channels]
	var l0, l1, r0, r1 float32
	for i := 0; i+1 < len(c); i += 2 {
		c0, c1 := c[i], c[i+1]
		f := x[i*Channels:][:2*Channels]
		l0 += c0 * f[0]
		r0 += c0 * f[1]
		l1 += c1 * f[2]
		r1 += c1 * f[3]
	}
	return l0 + l1, r0 + r1
}

func clip(v float32) int32 {
	return int32(max(math.MinInt32, min(math.MaxInt32, math.RoundToEven(float64(v)))))
}

// Resample returns src at another rate, or src itself if that is its own.
// Closing it closes src.
func Resample(src Source, rate int) (Source, error) {
	from := src.Info().Rate
	if from == rate {
		return src, nil
	}
	r, err := NewResampler(from, rate)
	if err != nil {
		return nil, err
	}
	return &resampled{Source: src, r: r, rate: rate}, nil
}

// resampled is a Source at another rate.
type resampled struct {
	Source
	r     *Resampler
	rate  int
	in    [1024 * Channels]int32
	out   []int32 // converted, from outAt on not read yet
	outAt int
	err   error // that follows
}

func (s *resampled) Info() Info {
	i := s.Source.Info()
	i.Rate, i.Frames = s.rate, (i.Frames*s.r.up+s.r.down-1)/s.r.down
	return i
}

func (s *resampled) Read(dst []int32) (int, error) {
	for s.outAt == len(s.out) {
		if s.err != nil {
			return 0, s.err
		}
		n, err := s.Source.Read(s.in[:])
		s.out, s.outAt = s.r.Append(s.out[:0], s.in[:n*Channels]), 0
		if err != nil {
			s.err = err
			if !errors.Is(err, ErrClosed) {
				s.out = s.r.Flush(s.out)
			}
		}
	}
	n := copy(dst[:len(dst)/Channels*Channels], s.out[s.outAt:])
	s.outAt += n
	return n / Channels, nil
}

func (s *resampled) SeekFrame(frame int64) error {
	frame = max(0, frame)
	if n := s.Info().Frames; n > 0 {
		frame = min(frame, n)
	}
	if !s.Source.Info().Seekable {
		return ErrNotSeekable
	}
	if err := s.Source.SeekFrame(s.r.start(frame)); err != nil {
		s.err = err
		return err
	}
	s.out, s.outAt, s.err = s.out[:0], 0, nil
	return nil
}
