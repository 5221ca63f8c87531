// Package bench measures the whole bridge from outside and prints a table. It
// never fails over a time: a bound that was missed is marked.
package bench

import (
	"bufio"
	"flag"
	"fmt"
	"os"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
)

var report = flag.Bool("bench-report", false, "measure, which takes about two minutes, and print the table")

func TestMain(m *testing.M) {
	flag.Parse()
	goleak.VerifyTestMain(m, goleak.Cleanup(func(code int) {
		if *report {
			printTable()
		}
		removeProgram()
		os.Exit(code)
	}))
}

// measures skips a test that was not asked for.
func measures(t *testing.T) {
	t.Helper()
	if !*report {
		t.Skip("measuring takes minutes and wants a quiet machine: run make bench")
	}
}

// row is one line of the table.
type row struct {
	what          string
	p50, p99, max string
	bound         string
	missed        bool
}

var rows []row // tests run one after the other

func printTable() {
	fmt.Printf("\nMeasured on %s/%s, %d cores (%s), %s, everything on loopback.\n\n", runtime.GOOS, runtime.GOARCH, runtime.NumCPU(), processor(), runtime.Version())
	fmt.Println("| measured | p50 | p99 | max | bound | |")
	fmt.Println("|---|---|---|---|---|---|")
	for _, r := range rows {
		verdict := "ok"
		switch {
		case r.missed:
			verdict = "**MISSED**"
		case r.bound == "":
			verdict = ""
		}
		fmt.Printf("| %s | %s | %s | %s | %s | %s |\n", r.what, r.p50, r.p99, r.max, r.bound, verdict)
	}
	fmt.Println()
}

// processor is the model of the first one, as Linux names it.
func processor() string {
	f, err := os.Open("/proc/cpuinfo")
	if err != nil {
		return "unknown"
	}
	defer f.Close()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		if key, value, ok := strings.Cut(lines.Text(), ":"); ok && strings.TrimSpace(key) == "model name" {
			return strings.TrimSpace(value)
		}
	}
	return "unknown"
}

// which says what the bound is for.
type which int

const (
	ofP99 which = iota
	ofMax
)

// times adds a row of durations.
func times(what string, ds []time.Duration, of which, bound time.Duration) {
	if len(ds) == 0 {
		rows = append(rows, row{what: what, p50: "nothing measured", bound: show(bound), missed: true})
		return
	}
	ds = slices.Sorted(slices.Values(ds))
	// The smallest value that q of all do not exceed.
	at := func(q float64) time.Duration {
		return ds[min(len(ds)-1, int(q*float64(len(ds))))]
	}
	p50, p99, top := at(0.50), at(0.99), ds[len(ds)-1]
	judged, name := p99, "p99"
	if of == ofMax {
		judged, name = top, "max"
	}
	rows = append(rows, row{
		what: fmt.Sprintf("%s (n=%d)", what, len(ds)), p50: show(p50), p99: show(p99), max: show(top),
		bound: fmt.Sprintf("%s < %s", name, show(bound)), missed: judged >= bound,
	})
}

// value adds a row with one number.
func value(what, got, bound string, missed bool) {
	rows = append(rows, row{what: what, max: got, bound: bound, missed: missed})
}

// show is d with three digits.
func show(d time.Duration) string {
	switch {
	case d >= time.Second:
		return fmt.Sprintf("%.3g s", d.Seconds())
	case d >= time.Millisecond:
		return fmt.Sprintf("%.3g ms", float64(d)/1e6)
	}
	return fmt.Sprintf("%.3g us", float64(d)/1e3)
}
