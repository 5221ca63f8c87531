// Command report makes tests/chaos/REPORT.md of what the tests wrote down and of
// what people wrote about it: make chaos.
package main

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"log"
	"os"
	"runtime"
	"slices"
	"strings"
	"time"

	"resonatebridge/tests/internal/facts"
)

func main() {
	measured := flag.String("measured", "", "what the tests wrote down, with their flag -facts")
	found := flag.String("found", "", "what was found and fixed, written by people")
	commit := flag.String("commit", "", "what was tested")
	out := flag.String("o", "", "the report")
	flag.Parse()
	log.SetFlags(0)
	if err := run(*measured, *found, *commit, *out); err != nil {
		log.Fatalf("report: %v", err)
	}
}

func run(measured, found, commit, out string) error {
	f, err := os.Open(measured)
	if err != nil {
		return err
	}
	defer f.Close()
	lines, err := read(f)
	if err != nil {
		return fmt.Errorf("%s: %w", measured, err)
	}
	prose, err := os.ReadFile(found)
	if err != nil {
		return err
	}
	text := page(lines, about{
		commit: commit, date: time.Now().UTC(), version: runtime.Version(), system: runtime.GOOS + "/" + runtime.GOARCH,
		kernel: kernel(), cores: runtime.NumCPU(),
	}, string(prose))
	return os.WriteFile(out, []byte(text), 0o644)
}

func read(r io.Reader) (lines []facts.Line, err error) {
	for d := json.NewDecoder(r); ; {
		var l facts.Line
		switch err := d.Decode(&l); {
		case errors.Is(err, io.EOF):
			return lines, nil
		case err != nil:
			return nil, err
		}
		lines = append(lines, l)
	}
}

// kernel is the version of the running one, without who built it.
func kernel() string {
	release, err := os.ReadFile("/proc/sys/kernel/osrelease")
	if err != nil {
		return "unknown"
	}
	version, _, _ := strings.Cut(strings.TrimSpace(string(release)), "-")
	return version
}

// about is where and when the tests ran.
type about struct {
	commit, version, system, kernel string
	date                            time.Time
	cores                           int
}

func page(lines []facts.Line, a about, prose string) string {
	var b strings.Builder
	line := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	ends := slices.DeleteFunc(slices.Clone(lines), func(l facts.Line) bool { return l.Verdict == "" })
	failed := 0
	for _, l := range ends {
		if l.Verdict == "FAILED" {
			failed++
		}
	}
	line("# What chaos showed")
	line("")
	line("`make chaos` wrote this page: numbers are those that the tests printed, only the last section is by hand.")
	line("")
	line("%s, commit %s, %s, %s, kernel %s, %d cores. %d tests, %d failed.",
		a.date.Format(time.DateOnly), a.commit, a.version, a.system, a.kernel, a.cores, len(ends), failed)
	var sections []string
	for _, l := range lines {
		if !slices.Contains(sections, l.Section) {
			sections = append(sections, l.Section)
		}
	}
	for _, section := range sections {
		line("")
		line("## %s", section)
		line("")
		var ran []string
		for _, l := range ends {
			if l.Section != section {
				continue
			}
			how := facts.Time(l.Took)
			if l.Race {
				how += ", race detector"
			}
			if l.Verdict != "ok" {
				how += ", **" + l.Verdict + "**"
			}
			ran = append(ran, fmt.Sprintf("`%s` (%s)", l.Test, how))
		}
		line("Ran: %s.", strings.Join(ran, ", "))
		measured := slices.DeleteFunc(slices.Clone(lines), func(l facts.Line) bool { return l.Section != section || l.What == "" })
		if len(measured) == 0 {
			continue
		}
		line("")
		line("| what | measured | bound |")
		line("|---|---|---|")
		for _, l := range measured {
			line("| %s | %s | %s |", l.What, l.Got, l.Bound)
		}
	}
	line("")
	b.WriteString(prose)
	return b.String()
}
