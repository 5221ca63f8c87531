package resonate

import (
	"slices"
	"testing"
)

// The rows are the worked examples of the protocol's group volume algorithm.
func TestDistribute(t *testing.T) {
	for _, tc := range []struct {
		name      string
		volumes   []int
		requested int
		want      []int
	}{
		{"one is clamped at the top", []int{20, 60, 90}, 80, []int{50, 90, 100}},
		{"all to zero", []int{20, 60, 90}, 0, []int{0, 0, 0}},
		{"all to the top", []int{20, 60, 90}, 100, []int{100, 100, 100}},
		{"rounding at the end", []int{33, 34}, 50, []int{50, 51}},
		{"most is carried by one", []int{10, 95, 98}, 97, []int{91, 100, 100}},
		{"clamped at the bottom", []int{0, 0, 50}, 10, []int{0, 0, 30}},
		{"alone", []int{40}, 55, []int{55}},
		{"nobody", nil, 55, nil},
		{"no change", []int{10, 20}, 15, []int{10, 20}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			before := slices.Clone(tc.volumes)
			if got := distribute(tc.volumes, tc.requested); !slices.Equal(got, tc.want) {
				t.Errorf("distribute(%v, %d) = %v, want %v", tc.volumes, tc.requested, got, tc.want)
			}
			if !slices.Equal(tc.volumes, before) {
				t.Errorf("the input became %v, want %v", tc.volumes, before)
			}
		})
	}
}

func TestDistributeReachesTheMean(t *testing.T) {
	for requested := 0; requested <= 100; requested++ {
		got := distribute([]int{0, 17, 50, 83, 100}, requested)
		if m := mean(got); m < float64(requested)-0.5 || m > float64(requested)+0.5 {
			t.Errorf("distribute(..., %d) = %v, mean %v; want it within 0.5", requested, got, m)
		}
	}
}
