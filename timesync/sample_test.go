package timesync

import "testing"

func TestSample(t *testing.T) {
	for _, tc := range []struct {
		name             string
		sample           Sample
		offset, maxError Micros
	}{
		{"equal clocks, no delay", Sample{5, 5, 5, 5}, 0, 0},
		{"server ahead, equal delays", Sample{1000, 51_100, 51_150, 1250}, 50_000, 100},
		{"server behind", Sample{51_000, 1100, 1150, 51_250}, -50_000, 100},
		{"all delay on the way there is off by max error", Sample{1000, 51_200, 51_200, 1200}, 50_100, 100},
		{"all delay on the way back is off by max error", Sample{1000, 51_000, 51_000, 1200}, 49_900, 100},
		{"odd sums truncate toward zero", Sample{0, 3, 3, 3}, 1, 1},
		{"odd negative sums truncate toward zero", Sample{3, 0, 0, 0}, -1, -1},
		{"held longer than it was away", Sample{0, 0, 30, 10}, 10, -10},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if got := tc.sample.Offset(); got != tc.offset {
				t.Errorf("Offset() = %d, want %d", got, tc.offset)
			}
			if got := tc.sample.MaxError(); got != tc.maxError {
				t.Errorf("MaxError() = %d, want %d", got, tc.maxError)
			}
		})
	}
}
