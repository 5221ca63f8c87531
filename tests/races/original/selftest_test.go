package original

import (
	"errors"
	"math"
	"os"
	"strings"
	"testing"
	"time"
)

// TestPlan: every row of the plan is there once, and measures something.
func TestPlan(t *testing.T) {
	seen := map[string]bool{}
	for _, s := range scenarios() {
		if seen[s.id] || s.title == "" || len(s.metrics) == 0 || s.run == nil {
			t.Errorf("%s: twice, or without a title, a metric or a run", s.id)
		}
		seen[s.id] = true
		for _, m := range s.metrics {
			seen[s.id+" "+m.key] = true
		}
	}
	for _, id := range []string{"M0", "M1", "M2", "M3", "M4", "M5", "M6", "M7", "M8", "M9", "M10", "M11", "M12", "M13", "M14", "G1", "G2", "G3", "G4", "G6"} {
		if !seen[id] {
			t.Errorf("%s is missing", id)
		}
	}
	for _, line := range forREADME() {
		if !seen[line[0]+" "+line[1]] {
			t.Errorf("the README's line %v is of no row", line)
		}
	}
}

// TestResultsAreOfThisPlan: the page was written by a run of these rows.
func TestResultsAreOfThisPlan(t *testing.T) {
	text, err := os.ReadFile("RESULTS.md")
	if err != nil {
		t.Fatal(err)
	}
	page := string(text)
	for _, s := range scenarios() {
		_, of, ok := strings.Cut(page, "| **"+s.id+"** | **"+s.title+"** |")
		if !ok {
			t.Errorf("%s %q is not in RESULTS.md: run make original", s.id, s.title)
			continue
		}
		of, _, _ = strings.Cut(of, "\n| **")
		for _, m := range s.metrics {
			if !strings.Contains(of, "| | "+m.what+" |") {
				t.Errorf("%s: %q is not in RESULTS.md: run make original", s.id, m.what)
			}
		}
	}
	_, block, ok := strings.Cut(page, beginREADME)
	block, _, closed := strings.Cut(block, endREADME)
	if got := strings.Count(block, "\n| ") - 1; !ok || !closed || got != len(forREADME()) { // less its head
		t.Errorf("the block for the README has %d lines, want %d", got, len(forREADME()))
	}
}

func TestCells(t *testing.T) {
	few, many := metric{bound: atMost(1)}, metric{bound: yes}
	seconds := metric{unit: "s", bound: atMost(61)}
	for _, tc := range []struct {
		name string
		m    metric
		c    cell
		want string
	}{
		{"nothing", few, cell{}, "-"},
		{"one", few, cell{runs: []float64{1}}, "1"},
		{"worst is most", few, cell{runs: []float64{0, 1, 0, 0, 0}}, "0, worst 1"},
		{"missed", few, cell{runs: []float64{1, 100, 1}}, "**1, worst 100**"},
		{"worst is least", many, cell{runs: []float64{1, 0, 1}}, "**1, worst 0**"},
		{"never", seconds, cell{runs: []float64{math.Inf(1)}}, "**never**"},
		{"times", seconds, cell{runs: []float64{0.0123, 17.4, 3}}, "3, worst 17"},
		{"all failed", few, cell{failed: 2}, "**failed**"},
		{"some failed", few, cell{runs: []float64{1}, failed: 2}, "**1, 2 runs failed**"},
		{"no bound", metric{}, cell{runs: []float64{5}}, "5"},
	} {
		if got := tc.c.show(tc.m); got != tc.want {
			t.Errorf("%s: got %q, want %q", tc.name, got, tc.want)
		}
	}
}

func TestVerdicts(t *testing.T) {
	s := scenario{id: "X", title: "x", metrics: []metric{{key: "n", what: "sockets", bound: atMost(1)}}}
	o := &outcome{lab: &lab{}, table: []scenario{s}, repeats: 1, cells: map[string]*cell{}}
	add := func(who string, n float64, err error) {
		o.add(s, who, &result{numbers: map[string]float64{"n": n}, notes: map[string]string{"told": "up"}}, err)
	}
	add("old", 2, nil)
	add("new", 1, nil)
	var page strings.Builder
	o.writeVerdicts(&page)
	if !strings.Contains(page.String(), "fixed upstream since: X.") {
		t.Errorf("got %s", page.String())
	}
	add("new", 0, errors.New("broken"))
	page.Reset()
	o.writeVerdicts(&page)
	if !strings.Contains(page.String(), "still differs: X.") {
		t.Errorf("got %s", page.String())
	}
}

func TestUps(t *testing.T) {
	events := func(words string) (out []event) {
		for w := range strings.FieldsSeq(words) {
			out = append(out, event{ID: "a", What: w}, event{ID: "other", What: "up"})
		}
		return out
	}
	for words, want := range map[string]int{"": 0, "up": 0, "up down up": 0, "up up": 1, "up up down": 1, "down": 1, "up down down": 1} {
		if order, got := ups(events(words), "a"); got != want || order != words {
			t.Errorf("%q: got %d in %q, want %d", words, got, order, want)
		}
	}
}

// TestAway: what a run needs ten minutes for is at least tried.
func TestAway(t *testing.T) {
	for _, tc := range []struct {
		announced bool
		within    time.Duration
	}{{false, 61 * time.Second}, {true, time.Second}} {
		for _, took := range returns(t, 3, tc.announced) {
			if took > tc.within {
				t.Errorf("announced %v: back after %v, want %v at most", tc.announced, took, tc.within)
			}
		}
	}
}
