package facts

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"runtime"
	"slices"
	"strings"
	"time"
)

// Table is what a run measured of us: times and numbers, each with the bound
// that is promised. A bound that was missed is marked and fails nothing: on a
// busy machine times say little. It is not safe for concurrent use.
type Table struct{ rows []row }

// row is one line of a table.
type row struct {
	what          string
	p50, p99, max string
	bound         string
	missed        bool
}

// Which says what a bound is for.
type Which int

// The figures that a bound may be for.
const (
	OfP99 Which = iota
	OfMax
)

// Times adds a row of durations.
func (t *Table) Times(what string, ds []time.Duration, of Which, bound time.Duration) {
	if len(ds) == 0 {
		t.rows = append(t.rows, row{what: what, p50: "nothing measured", bound: Time(bound), missed: true})
		return
	}
	ds = slices.Sorted(slices.Values(ds))
	// The smallest value that q of all do not exceed.
	at := func(q float64) time.Duration {
		return ds[min(len(ds)-1, int(q*float64(len(ds))))]
	}
	p50, p99, top := at(0.50), at(0.99), ds[len(ds)-1]
	judged, name := p99, "p99"
	if of == OfMax {
		judged, name = top, "max"
	}
	t.rows = append(t.rows, row{
		what: fmt.Sprintf("%s (n=%d)", what, len(ds)), p50: Time(p50), p99: Time(p99), max: Time(top),
		bound: fmt.Sprintf("%s < %s", name, Time(bound)), missed: judged >= bound,
	})
}

// Value adds a row with one number.
func (t *Table) Value(what, got, bound string, missed bool) {
	t.rows = append(t.rows, row{what: what, max: got, bound: bound, missed: missed})
}

// Write writes the table as Markdown.
func (t *Table) Write(w io.Writer) {
	fmt.Fprintln(w, "| measured | p50 | p99 | max | bound | |")
	fmt.Fprintln(w, "|---|---|---|---|---|---|")
	for _, r := range t.rows {
		verdict := "ok"
		switch {
		case r.missed:
			verdict = "**MISSED**"
		case r.bound == "":
			verdict = ""
		}
		fmt.Fprintf(w, "| %s | %s | %s | %s | %s | %s |\n", r.what, r.p50, r.p99, r.max, r.bound, verdict)
	}
}

// Machine says in one line where this runs.
func Machine() string {
	return fmt.Sprintf("%s/%s, %d cores (%s), %s", runtime.GOOS, runtime.GOARCH, runtime.NumCPU(), processor(), runtime.Version())
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
