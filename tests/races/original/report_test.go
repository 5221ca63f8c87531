package original

import (
	"cmp"
	"fmt"
	"io"
	"maps"
	"math"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"resonatebridge/tests/internal/facts"
)

// outcome is everything that was measured.
type outcome struct {
	lab     *lab
	table   []scenario
	repeats int
	took    time.Duration
	hello   map[string]hello // by subject
	cells   map[string]*cell // by scenario, metric and subject
	notes   map[string]map[string]int
	failed  map[string][]string // by scenario and subject
	missing []string
	figures *facts.Table // of ours alone; nil: not measured
}

// cell is one metric of one scenario with one implementation.
type cell struct {
	runs   []float64
	failed int
}

var ports = regexp.MustCompile(`127\.0\.0\.1:\d+`)

func (o *outcome) add(s scenario, who string, got *result, err error) {
	if o.failed == nil {
		o.failed, o.notes = map[string][]string{}, map[string]map[string]int{}
	}
	for _, m := range s.metrics {
		c := o.cell(s, m, who)
		if err != nil {
			c.failed++
		} else if n, ok := got.numbers[m.key]; ok {
			c.runs = append(c.runs, n)
		}
	}
	if err != nil {
		o.failed[s.id+" "+who] = append(o.failed[s.id+" "+who], err.Error())
		return
	}
	for what, words := range got.notes {
		words = ports.ReplaceAllString(words, "127.0.0.1:PORT") // else each run says something else
		k := s.id + "|" + who + "|" + what
		if o.notes[k] == nil {
			o.notes[k] = map[string]int{}
		}
		o.notes[k][words]++
	}
}

func (o *outcome) cell(s scenario, m metric, who string) *cell {
	k := s.id + "|" + m.key + "|" + who
	if o.cells[k] == nil {
		o.cells[k] = &cell{}
	}
	return o.cells[k]
}

// median and worst are as the bound sees it.
func (c *cell) median() float64 { return slices.Sorted(slices.Values(c.runs))[len(c.runs)/2] }

func (c *cell) worst(m metric) float64 {
	if m.bound.is == ">=" {
		return slices.Min(c.runs)
	}
	return slices.Max(c.runs)
}

// misses reports whether a run did not hold what is asked of ours.
func (c *cell) misses(m metric) bool {
	return c.failed > 0 || len(c.runs) > 0 && !m.bound.holds(c.worst(m))
}

// show is the median and, where it differs, the worst; bold where it is not
// what is asked of ours.
func (c *cell) show(m metric) string {
	var text string
	switch {
	case len(c.runs) == 0 && c.failed == 0:
		return "-"
	case len(c.runs) == 0:
		text = "failed"
	default:
		text = number(c.median(), m.unit)
		if worst := number(c.worst(m), m.unit); worst != text {
			text += ", worst " + worst
		}
		if c.failed > 0 {
			text += fmt.Sprintf(", %d runs failed", c.failed)
		}
	}
	if c.misses(m) {
		return "**" + text + "**"
	}
	return text
}

func number(n float64, unit string) string {
	switch {
	case math.IsInf(n, 1):
		return "never"
	case unit == "" && n == math.Trunc(n):
		return strconv.FormatFloat(n, 'f', -1, 64)
	case n < 0.001:
		return "0"
	case n < 10:
		return strconv.FormatFloat(n, 'g', 2, 64)
	}
	return strconv.FormatFloat(n, 'f', 0, 64)
}

// name is how an implementation is headed.
func (o *outcome) name(s subject) string {
	h, ok := o.hello[s.key]
	if !ok {
		return s.title
	}
	if s.key == "ours" { // its version, a commit, is above the table
		return h.Name
	}
	return h.Name + " " + h.Version
}

func (o *outcome) write(w io.Writer) {
	p := func(format string, a ...any) { fmt.Fprintf(w, format+"\n", a...) }
	p("# The original, side by side: what was measured\n")
	p("Written by `make original` on %s, in %v, %d repeats of each row; not edited. Measured on %s, loopback.",
		time.Now().Format(time.DateOnly), o.took.Round(time.Second), o.repeats, facts.Machine())
	p("What each row does, and what the comparison can't say, is in [README.md](README.md).\n")
	for _, s := range o.lab.subjects {
		if h, ok := o.hello[s.key]; ok {
			p("- %s %s, %s", h.Name, h.Version, h.Runtime)
		}
	}
	for _, m := range o.missing {
		p("- **NOT MEASURED**: %s", m)
	}
	p("\n%s\n", o.right())
	o.writeTable(w)
	p("")
	o.writeVerdicts(w)
	o.writeNotes(w)
	if o.figures != nil {
		p("\n## Ours in figures\n")
		o.figures.Write(w)
	}
	p("\n## For the README of the product\n\n%s\n", beginREADME)
	o.writeREADME(w)
	p("%s", endREADME)
}

const beginREADME, endREADME = "<!-- original: begin, printed by make original -->", "<!-- original: end -->"

// right leads with what the original does right.
func (o *outcome) right() string {
	i := slices.IndexFunc(o.table, func(s scenario) bool { return s.id == "M0" })
	if i < 0 {
		return ""
	}
	s := o.table[i]
	c := o.cell(s, s.metrics[0], "old")
	if len(c.runs) == 0 {
		return "What the original does right (M0) was not measured."
	}
	if c.misses(s.metrics[0]) {
		return fmt.Sprintf("M0, which the original is said to do right, it did not: %s sockets.", c.show(s.metrics[0]))
	}
	return fmt.Sprintf("**First, what the original does right (M0):** %s give %s socket. On one event loop its check and its "+
		"creation are one step, so that RC-9 as the analysis tells it does not happen.", s.title, c.show(s.metrics[0]))
}

// writeTable writes all rows. Bold is what is not asked of ours.
func (o *outcome) writeTable(w io.Writer) {
	fmt.Fprint(w, "| | |")
	for _, s := range o.lab.subjects {
		fmt.Fprintf(w, " %s |", o.name(s))
	}
	fmt.Fprintf(w, " asked of ours |\n|---|---|%s---|\n", strings.Repeat("---|", len(o.lab.subjects)))
	for _, s := range o.table {
		fmt.Fprintf(w, "| **%s** | **%s** |%s\n", s.id, s.title, strings.Repeat(" |", len(o.lab.subjects)+1))
		for _, m := range s.metrics {
			fmt.Fprintf(w, "| | %s |", m.what)
			for _, who := range o.lab.subjects {
				fmt.Fprintf(w, " %s |", o.cell(s, m, who.key).show(m))
			}
			fmt.Fprintf(w, " %s |\n", m.bound)
		}
	}
}

// holds reports whether an implementation was measured in a row and held all
// that is asked of ours.
func (o *outcome) holds(s scenario, who string) (measured, ok bool) {
	ok = true
	for _, m := range s.metrics {
		c := o.cell(s, m, who)
		measured = measured || len(c.runs) > 0 || c.failed > 0
		ok = ok && !c.misses(m)
	}
	return measured, ok
}

func (o *outcome) writeVerdicts(w io.Writer) {
	var fine, fixed, still []string
	for _, s := range o.table {
		old, oldOK := o.holds(s, "old")
		fresh, freshOK := o.holds(s, "new")
		switch {
		case !old || !fresh:
		case oldOK:
			fine = append(fine, s.id)
		case freshOK:
			fixed = append(fixed, s.id)
		default:
			still = append(still, s.id)
		}
	}
	list := func(ids []string) string { return cmp.Or(strings.Join(ids, ", "), "none") }
	fmt.Fprintf(w, "A cell is the median, and the worst where it differs; bold is not what is asked of ours.\n\n")
	fmt.Fprintf(w, "- Rows in which the original already does all that is asked of ours: %s.\n", list(fine))
	fmt.Fprintf(w, "- Rows that were fixed upstream since: %s.\n", list(fixed))
	fmt.Fprintf(w, "- Rows in which the current release still differs: %s.\n", list(still))
}

// writeNotes writes what was said beside the numbers.
func (o *outcome) writeNotes(w io.Writer) {
	for _, s := range o.table {
		for _, who := range o.lab.subjects {
			for _, k := range slices.Sorted(maps.Keys(o.notes)) {
				rest, ok := strings.CutPrefix(k, s.id+"|"+who.key+"|")
				if !ok {
					continue
				}
				var words []string
				for _, text := range slices.Sorted(maps.Keys(o.notes[k])) {
					words = append(words, fmt.Sprintf("`%.160s` (%d of %d)", text, o.notes[k][text], o.repeats))
				}
				fmt.Fprintf(w, "- %s, %s, %s: %s\n", s.id, o.name(who), rest, strings.Join(words, "; "))
			}
			for _, f := range o.failed[s.id+" "+who.key] {
				fmt.Fprintf(w, "- %s, %s, a run failed: %.300s\n", s.id, o.name(who), strings.ReplaceAll(f, "\n", " "))
			}
		}
	}
}

// forREADME are the five lines.
func forREADME() [][2]string {
	return [][2]string{{"M0", "sockets"}, {"M1", "open"}, {"M2", "peak"}, {"M5", "gone"}, {"M12", "back"}}
}

// writeREADME writes five lines of the table.
func (o *outcome) writeREADME(w io.Writer) {
	shown := slices.DeleteFunc(slices.Clone(o.lab.subjects), func(s subject) bool { return s.key == "go" })
	fmt.Fprint(w, "| |")
	for _, s := range shown {
		fmt.Fprintf(w, " %s |", o.name(s))
	}
	fmt.Fprintf(w, "\n|---|%s\n", strings.Repeat("---|", len(shown)))
	for _, line := range forREADME() {
		for _, s := range o.table {
			for _, m := range s.metrics {
				if s.id != line[0] || m.key != line[1] {
					continue
				}
				fmt.Fprintf(w, "| %s: %s |", s.title, m.what)
				for _, who := range shown {
					fmt.Fprintf(w, " %s |", o.cell(s, m, who.key).show(m))
				}
				fmt.Fprintln(w)
			}
		}
	}
}
