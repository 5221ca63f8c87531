package audio

import "math"

// Gain is a factor for samples that moves without a step. The zero Gain is 1,
// and 1 leaves every sample as it is.
type Gain struct {
	from, to float64 // less 1
	done     int     // frames of the way
	length   int     // of the way, frames
}

// Set makes g the factor from the next frame on.
func (g *Gain) Set(factor float64) { *g = Gain{from: factor - 1, to: factor - 1} }

// Ramp leads from where the factor is to the new one in so many frames.
func (g *Gain) Ramp(factor float64, frames int) {
	if frames <= 0 {
		g.Set(factor)
		return
	}
	*g = Gain{from: g.Factor() - 1, to: factor - 1, length: frames}
}

// Factor is that of the next frame.
func (g *Gain) Factor() float64 {
	if g.done >= g.length {
		return 1 + g.to
	}
	return 1 + g.from + (g.to-g.from)*float64(g.done)/float64(g.length)
}

// Apply scales stereo frames in place. The ramp is a straight line, frame by
// frame, wherever the blocks are cut.
func (g *Gain) Apply(pcm []int32) {
	for len(pcm) >= Channels && g.done < g.length {
		f := g.Factor()
		pcm[0], pcm[1] = scale(pcm[0], f), scale(pcm[1], f)
		pcm = pcm[Channels:]
		g.done++
	}
	switch f := g.Factor(); f {
	case 1:
	case 0:
		clear(pcm)
	default:
		for i, v := range pcm {
			pcm[i] = scale(v, f)
		}
	}
}

func scale(v int32, factor float64) int32 {
	return int32(max(math.MinInt32, min(math.MaxInt32, math.RoundToEven(float64(v)*factor))))
}

// Decibels is the factor for a change of level in dB.
func Decibels(db float64) float64 { return math.Pow(10, db/20) }
