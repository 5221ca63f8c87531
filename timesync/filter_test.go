package timesync

import (
	"embed"
	"fmt"
	"math"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// vectors are runs of the published reference; the first line of each file says
// what the run is about and which commit made it, the second names the columns.
//
//go:embed testdata/*.csv
var vectors embed.FS

// vector is one update and what the reference says after it.
type vector struct {
	measurement, maxError, at            Micros
	offset, drift, poo, pod, pdd         float64
	useDrift                             int
	err                                  Micros
	client, serverOfIt, server, clientOf Micros
}

func readVectors(t testing.TB, name string) []vector {
	t.Helper()
	text, err := vectors.ReadFile("testdata/" + name + ".csv")
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSpace(string(text)), "\n")[2:]
	out := make([]vector, len(lines))
	for i, line := range lines {
		v := &out[i]
		if _, err := fmt.Sscan(strings.ReplaceAll(line, ",", " "), &v.measurement, &v.maxError, &v.at,
			&v.offset, &v.drift, &v.poo, &v.pod, &v.pdd, &v.useDrift, &v.err,
			&v.client, &v.serverOfIt, &v.server, &v.clientOf); err != nil {
			t.Fatalf("%s: row %d: %v", name, i, err)
		}
	}
	return out
}

// TestFilterReference holds the filter to the reference bit for bit, state and
// conversions, after every update.
func TestFilterReference(t *testing.T) {
	for _, tc := range []struct {
		name   string
		rows   int
		config Config
	}{
		{"published", 8, Config{}},
		{"precise", 12, Config{}},
		{"steady_drift", 60, Config{}},
		{"jitter", 150, Config{}},
		{"step", 160, Config{}},
		{"step_at_100", 110, Config{}},
		{"early_step", 90, Config{}},
		{"duplicates", 70, Config{}},
		{"negative_offset", 60, Config{}},
		{"large_negative", 40, Config{}},
		{"gaps", 130, Config{}},
		{"config", 80, Config{
			ProcessStdDev: 0.05, DriftProcessStdDev: 1e-9, ForgetFactor: 1.5, AdaptiveCutoff: 1.25,
			MinSamples: 10, DriftSignificance: 4, MaxErrorScale: 0.8,
		}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			rows := readVectors(t, tc.name)
			if got := len(rows); got != tc.rows {
				t.Fatalf("%d rows, want %d", got, tc.rows)
			}
			f := NewFilter(tc.config)
			for row, v := range rows {
				f.Update(v.measurement, v.maxError, v.at)
				m := f.Model()
				if math.IsInf(v.poo, 1) { // the reference has no sample yet
					if m != nil {
						t.Fatalf("row %d: a model of %d samples, want none", row, m.Samples())
					}
					continue
				}
				got := [...]float64{f.offset, f.drift, f.poo, f.pod, f.pdd}
				want := [...]float64{v.offset, v.drift, v.poo, v.pod, v.pdd}
				if got != want {
					t.Fatalf("row %d: offset, drift, P_oo, P_od, P_dd = %v, want %v", row, got, want)
				}
				if got, want := m.drift != 0, v.useDrift == 1; got != want {
					t.Errorf("row %d: drift in use %v, want %v", row, got, want)
				}
				if got, want := m.Error(), duration(v.err); got != want {
					t.Errorf("row %d: Error() = %v, want %v", row, got, want)
				}
				if got := m.Server(v.client); got != v.serverOfIt {
					t.Errorf("row %d: Server(%d) = %d, want %d", row, v.client, got, v.serverOfIt)
				}
				if got := m.Client(v.server); got != v.clientOf {
					t.Errorf("row %d: Client(%d) = %d, want %d", row, v.server, got, v.clientOf)
				}
				if got, want := m.Client(m.Server(v.client)), v.client; got < want-1 || got > want+1 {
					t.Errorf("row %d: there and back from %d is %d", row, want, got)
				}
			}
		})
	}
}

// TestFilterForgets makes sure that the vectors called step do exercise
// forgetting: the same run without it ends far from the truth.
func TestFilterForgets(t *testing.T) {
	run := func(c Config) Micros {
		f := NewFilter(c)
		var last vector
		for _, last = range readVectors(t, "step") {
			f.Update(last.measurement, last.maxError, last.at)
		}
		m := f.Model()
		return max(m.Server(last.at)-(last.at+last.measurement), (last.at+last.measurement)-m.Server(last.at))
	}
	if got, want := run(Config{}), Micros(1000); got > want {
		t.Errorf("39 samples after the step the default filter is off by %d µs, want at most %d", got, want)
	}
	if got, want := run(Config{ForgetFactor: 1}), Micros(30_000); got < want {
		t.Errorf("without forgetting it is off by %d µs, want at least %d", got, want)
	}
}

// TestFilterZeroMaxError: the reference trusts an exchange of max_error 0
// without bound, we to within 1 µs. Where the reference has numbers at all,
// conversions agree to within 1 µs.
func TestFilterZeroMaxError(t *testing.T) {
	f := NewFilter(Config{})
	for row, v := range readVectors(t, "zero_max_error") {
		f.Update(v.measurement, v.maxError, v.at)
		m := f.Model()
		if got := m.Server(v.client); got-v.serverOfIt > 1 || v.serverOfIt-got > 1 {
			t.Errorf("row %d: Server(%d) = %d, want %d within 1", row, v.client, got, v.serverOfIt)
		}
		if got := m.Client(v.server); got-v.clientOf > 1 || v.clientOf-got > 1 {
			t.Errorf("row %d: Client(%d) = %d, want %d within 1", row, v.server, got, v.clientOf)
		}
	}
}

// TestFilterOnlyZeroMaxError: on loopback every exchange may have max_error 0;
// the reference then divides 0 by 0 at the third sample.
func TestFilterOnlyZeroMaxError(t *testing.T) {
	for _, maxError := range []Micros{0, -7} {
		f := NewFilter(Config{})
		at := Micros(1_000_000)
		for i := range 200 {
			at += 1_000_000
			f.Update(5000+Micros(i), maxError, at) // 1 ppm
		}
		m := f.Model()
		if got, want := m.Server(at), at+5199; got != want {
			t.Errorf("max error %d: Server(%d) = %d, want %d", maxError, at, got, want)
		}
		if got, want := m.Server(at+100_000_000), at+100_000_000+5299; got != want {
			t.Errorf("max error %d: 100 s ahead %d, want %d", maxError, got, want)
		}
		if got := m.Error(); got < 0 || got > time.Microsecond {
			t.Errorf("max error %d: Error() = %v, want 0 to 1µs", maxError, got)
		}
	}
}

func TestFilterBeforeTheFirstSample(t *testing.T) {
	f := NewFilter(Config{})
	if got := f.Model(); got != nil {
		t.Errorf("a new filter has model %v, want nil", got)
	}
	f.Update(7, 7, 0)
	if got := f.Model(); got != nil {
		t.Errorf("after a sample at 0 the model is %v, want nil", got)
	}
}

// TestFilterStoppedServerClock: a drift of -1 has no inverse.
func TestFilterStoppedServerClock(t *testing.T) {
	f := NewFilter(Config{})
	for i := range Micros(50) {
		f.Update(1_000_000_000-i*1_000_000, 10, 1_000_000+i*1_000_000)
	}
	m := f.Model()
	if got, want := f.drift, -0.9; got > want {
		t.Fatalf("the filter's drift is %v, want below %v", got, want)
	}
	if got, want := m.Client(m.Server(60_000_000)), Micros(60_000_000); got != want {
		t.Errorf("there and back from %d is %d", want, got)
	}
}

func TestModelRounds(t *testing.T) {
	for _, tc := range []struct {
		name           string
		offset         float64
		server, client Micros // of 0
	}{
		{"half up", 0.5, 1, -1},
		{"half down", -0.5, -1, 1},
		{"below half", 0.49, 0, 0},
		{"not to even", 2.5, 3, -3},
	} {
		t.Run(tc.name, func(t *testing.T) {
			m := &Model{offset: tc.offset}
			if got := m.Server(0); got != tc.server {
				t.Errorf("Server(0) = %d, want %d", got, tc.server)
			}
			if got := m.Client(0); got != tc.client {
				t.Errorf("Client(0) = %d, want %d", got, tc.client)
			}
		})
	}
}

func TestModelConverged(t *testing.T) {
	for _, tc := range []struct {
		name     string
		maxError Micros
		samples  int
		want     bool
	}{
		{"one good sample", 100, 1, false},
		{"two good samples", 100, 2, true},
		{"two samples just good enough", 3990, 2, true},
		{"two bad samples", 4000, 2, false},
		{"twenty bad samples", 4000, 20, true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			f := NewFilter(Config{})
			for i := range tc.samples {
				f.Update(0, tc.maxError, Micros(i+1)*1_000_000)
			}
			if got := f.Model().Samples(); got != tc.samples {
				t.Errorf("Samples() = %d, want %d", got, tc.samples)
			}
			if got := f.Model().Converged(); got != tc.want {
				t.Errorf("with error %v Converged() = %v, want %v", f.Model().Error(), got, tc.want)
			}
		})
	}
}

// TestErrorSaturates: a variance can exceed what a Duration holds.
func TestErrorSaturates(t *testing.T) {
	f := NewFilter(Config{})
	f.Update(0, math.MaxInt64, 1)
	if got, want := f.Model().Error(), 100*365*24*time.Hour; got < want {
		t.Errorf("Error() = %v, want at least %v", got, want)
	}
}

// FuzzFilter: whatever a peer says, the state stays finite and P a covariance.
// Without that care the reference ends in NaN for good on some of these seeds.
func FuzzFilter(f *testing.F) {
	for seed := range uint64(400) {
		f.Add(seed, uint8(seed%63), uint8(seed*7%63), uint8(seed*3%45))
	}
	f.Fuzz(func(t *testing.T, seed uint64, offsetBits, errorBits, stepBits uint8) {
		rnd := rand.New(rand.NewPCG(seed, 0))
		draw := func(bits uint8) Micros { // of every magnitude below 2^bits
			return Micros(rnd.Int64() >> (63 - rnd.IntN(int(bits%64)+1)))
		}
		filter := NewFilter(Config{})
		for i := range 150 {
			step := draw(stepBits)
			if filter.at > math.MaxInt64-1-step {
				break
			}
			z := draw(offsetBits)
			if rnd.IntN(2) == 0 {
				z = -z
			}
			filter.Update(z, draw(errorBits), filter.at+1+step)
			for _, x := range []float64{filter.offset, filter.drift, filter.poo, filter.pod, filter.pdd} {
				if math.IsNaN(x) || math.IsInf(x, 0) {
					t.Fatalf("update %d: offset %v, drift %v, P_oo %v, P_od %v, P_dd %v", i,
						filter.offset, filter.drift, filter.poo, filter.pod, filter.pdd)
				}
			}
			if filter.poo < 0 || filter.pdd < 0 {
				t.Fatalf("update %d: P_oo %v, P_dd %v, want none below 0", i, filter.poo, filter.pdd)
			}
			if got := filter.Model().Error(); got < 0 {
				t.Fatalf("update %d: Error() = %v", i, got)
			}
		}
	})
}

// TestFilterPredictsNoNegativeVariance: when offset and drift are wholly
// anticorrelated the terms of the prediction cancel, here to -0.25 by rounding;
// with R = 0.25 that would make S 0.
func TestFilterPredictsNoNegativeVariance(t *testing.T) {
	f := NewFilter(Config{})
	f.samples, f.poo, f.pod, f.pdd = 3, 1.64e15, -1.64e8, 16.4
	f.correct(100, 1, 0.25, 1e7)
	got := [...]float64{f.offset, f.drift, f.poo, f.pod, f.pdd}
	for _, x := range got {
		if math.IsNaN(x) || math.IsInf(x, 0) || f.poo < 0 {
			t.Fatalf("offset, drift, P_oo, P_od, P_dd = %v, want them finite and P_oo >= 0", got)
		}
	}
}

// answer is all that a reader can get out of one model.
type answer struct {
	samples        int
	server, client Micros
	err            time.Duration
	converged      bool
}

func ask(m *Model) answer {
	return answer{m.Samples(), m.Server(90_000_000_000), m.Client(90_000_000_000), m.Error(), m.Converged()}
}

// feedRC6 is update i of a session whose estimate jumps by half a minute, in
// alternating directions and with drifts to match, so that any mixture of two
// updates shows.
func feedRC6(f *Filter, i int) {
	z, maxError := Micros(30_000_000), Micros(1000)
	if i%2 == 0 {
		z, maxError = -z, 5000
	}
	f.Update(z+Micros(i), maxError, Micros(i+1)*1_000_000)
}

// TestRC6ModelIsOneUpdateOfOneSession: a reader sees offset, drift and base
// time of one update of one session (race RC-6, the torn time filter).
//
// The guard is the one Store at the end of Update, of a model that nothing
// writes to afterwards. With a model that is changed in place instead, "kept"
// fails without any concurrency, "readers" fails under -race and shows torn
// answers without.
func TestRC6ModelIsOneUpdateOfOneSession(t *testing.T) {
	const updates = 3000
	config := Config{ProcessStdDev: 100}
	want := make([]answer, updates+1)
	seen := map[Micros]bool{}
	oracle := NewFilter(config)
	for i := range updates {
		feedRC6(oracle, i)
		want[i+1] = ask(oracle.Model())
		seen[want[i+1].server] = true
	}
	if got := len(seen); got < updates*9/10 {
		t.Fatalf("%d different answers in %d updates, too few to show a mixture", got, updates)
	}

	t.Run("kept", func(t *testing.T) {
		f := NewFilter(config)
		kept := make([]*Model, updates+1)
		for i := range updates {
			feedRC6(f, i)
			kept[i+1] = f.Model()
		}
		for i, m := range kept[1:] {
			if got := ask(m); got != want[i+1] {
				t.Fatalf("the model of update %d now says %+v, want %+v", i+1, got, want[i+1])
			}
		}
	})

	t.Run("sessions", func(t *testing.T) {
		first := NewFilter(config)
		feedRC6(first, 0)
		feedRC6(first, 1)
		second := NewFilter(config)
		if got := second.Model(); got != nil {
			t.Fatalf("the new session begins with %+v, want nil", ask(got))
		}
		held := first.Model()
		feedRC6(second, 0)
		feedRC6(first, 2) // a late sample of the old session
		if got := ask(second.Model()); got != want[1] {
			t.Errorf("the new session says %+v, want %+v", got, want[1])
		}
		if got := ask(held); got != want[2] {
			t.Errorf("the model held since the old session says %+v, want %+v", got, want[2])
		}
	})

	t.Run("readers", func(t *testing.T) {
		const readers, reads = 4, 250_000
		var session atomic.Pointer[Filter] // the newest
		session.Store(NewFilter(config))
		done := make(chan struct{})
		var reading, writing sync.WaitGroup
		writing.Go(func() { // until the readers are done
			for {
				f := NewFilter(config)
				session.Store(f)
				for i := range updates {
					select {
					case <-done:
						return
					default:
						feedRC6(f, i)
					}
				}
			}
		})
		for range readers {
			reading.Go(func() { // for a number of reads
				for range reads {
					m := session.Load().Model()
					if m == nil {
						continue
					}
					if got := ask(m); got != want[m.Samples()] {
						t.Errorf("a reader got %+v, want %+v", got, want[m.Samples()])
						return
					}
				}
			})
		}
		reading.Wait()
		close(done)
		writing.Wait()
	})
}
