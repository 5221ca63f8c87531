package stream

import "math"

// Channels is how many channels a timeline has: everything is played in stereo.
const Channels = 2

// gainOne is a gain that leaves samples as they are.
const gainOne = 1.0

// VolumeGain is the amplitude of a volume of 0 to 100, which is perceived
// loudness (spec: player role, volume).
func VolumeGain(volume int) float64 {
	return math.Pow(float64(min(max(volume, 0), 100))/100, 1.5)
}

func clip(v float64) int32 {
	switch {
	case v >= math.MaxInt32:
		return math.MaxInt32
	case v <= math.MinInt32:
		return math.MinInt32
	}
	return int32(math.RoundToEven(v))
}
