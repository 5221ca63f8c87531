package resonate

import "math"

// mean is the unrounded mean of volumes; they must not be empty.
func mean(volumes []int) float64 {
	sum := 0
	for _, v := range volumes {
		sum += v
	}
	return float64(sum) / float64(len(volumes))
}

// distribute returns the volumes, 0 to 100 each, that bring the mean of
// volumes to requested: everyone moves by the same amount, what a clamped one
// loses is shared by the rest, and rounding comes last (spec: group volume).
// It keeps the order of volumes and does not change them.
func distribute(volumes []int, requested int) []int {
	if len(volumes) == 0 {
		return nil
	}
	v := make([]float64, len(volumes))
	for i, x := range volumes {
		v[i] = float64(x)
	}
	clamped := make([]bool, len(v))
	free := len(v)
	delta := float64(requested) - mean(volumes)
	for free > 0 {
		lost, hit := 0.0, 0
		for i := range v {
			if clamped[i] {
				continue
			}
			want := v[i] + delta
			v[i] = min(max(want, 0), 100)
			if v[i] != want {
				lost += want - v[i]
				clamped[i] = true
				hit++
			}
		}
		free -= hit
		if lost == 0 || free == 0 {
			break
		}
		delta = lost / float64(free)
	}
	out := make([]int, len(v))
	for i, x := range v {
		out[i] = int(math.Round(x))
	}
	return out
}
