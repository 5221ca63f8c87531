// Package facts lets long tests write down what they measured, so that no number
// of a report was typed by hand. tests/chaos/report makes a page of it.
package facts

import (
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"runtime/debug"
	"slices"
	"testing"
	"time"
)

var file = flag.String("facts", "", "append what tests measure to this file: make chaos")

// Line is one line of the file, a JSON object: what a test measured, or, with
// a Verdict, the end of a test.
type Line struct {
	Section string // of the report
	Test    string // the package's last element, a dot, the test's name

	What  string `json:",omitempty"` // was measured
	Got   string `json:",omitempty"`
	Bound string `json:",omitempty"` // "" where there is none

	Verdict string        `json:",omitempty"` // ok, FAILED or skipped
	Took    time.Duration `json:",omitempty"` // since Begin, in nanoseconds
	Race    bool          `json:",omitempty"` // under the race detector
}

// Notes are what one test writes down.
type Notes struct {
	tb      testing.TB
	section string
	test    string
}

// Begin opens the notes of a test, at its beginning, for a section of the
// report. The test's verdict and time are written down when it ends. Without
// -facts everything goes to the test's log alone.
func Begin(tb testing.TB, section string) *Notes {
	tb.Helper()
	where := "tests"
	if dir, err := os.Getwd(); err == nil { // a test runs in its package's folder
		where = filepath.Base(dir)
	}
	n := &Notes{tb: tb, section: section, test: where + "." + tb.Name()}
	began := time.Now()
	tb.Cleanup(func() {
		verdict := "ok"
		switch {
		case tb.Failed():
			verdict = "FAILED"
		case tb.Skipped():
			verdict = "skipped"
		}
		n.write(Line{Verdict: verdict, Took: time.Since(began), Race: raced()})
	})
	return n
}

// Add writes down that what was got. Durations are shown with three digits, a
// slice of them as its size, median and worst. bound is what is promised, in
// words, "" where nothing is; the test itself fails when it is missed.
func (n *Notes) Add(what string, got any, bound string) {
	n.tb.Helper()
	text := show(got)
	n.tb.Logf("%s: %s (bound: %s)", what, text, bound)
	n.write(Line{What: what, Got: text, Bound: bound})
}

func (n *Notes) write(l Line) {
	if *file == "" {
		return
	}
	l.Section, l.Test = n.section, n.test
	line, err := json.Marshal(l)
	if err != nil {
		n.tb.Fatal(err)
	}
	// Opened for every line: tests of several packages may write at once.
	f, err := os.OpenFile(*file, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644)
	if err != nil {
		n.tb.Fatal(err)
	}
	if _, err := f.Write(append(line, '\n')); err != nil {
		n.tb.Error(err)
	}
	if err := f.Close(); err != nil {
		n.tb.Error(err)
	}
}

func show(got any) string {
	switch got := got.(type) {
	case time.Duration:
		return Time(got)
	case []time.Duration:
		if len(got) == 0 {
			return "none"
		}
		sorted := slices.Sorted(slices.Values(got))
		return fmt.Sprintf("%d times, median %s, worst %s", len(sorted), Time(sorted[len(sorted)/2]), Time(sorted[len(sorted)-1]))
	}
	return fmt.Sprint(got)
}

// Time is d with three digits.
func Time(d time.Duration) string {
	switch {
	case d >= 1000*time.Second:
		return d.Round(time.Second).String()
	case d >= time.Second:
		return fmt.Sprintf("%.3g s", d.Seconds())
	case d >= time.Millisecond:
		return fmt.Sprintf("%.3g ms", float64(d)/1e6)
	}
	return fmt.Sprintf("%.3g us", float64(d)/1e3)
}

// raced reports whether this program was built with the race detector.
func raced() bool {
	info, ok := debug.ReadBuildInfo()
	return ok && slices.ContainsFunc(info.Settings, func(s debug.BuildSetting) bool {
		return s.Key == "-race" && s.Value == "true"
	})
}
