// Package original drives the original, its successor, the Go server of the
// same family and ours through the same scenarios against the same peer, and
// writes what was measured to RESULTS.md. See README.md.
package original

import (
	"bytes"
	"context"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

var (
	run     = flag.Bool("original", false, "measure, which takes about ten minutes, and write RESULTS.md")
	repeats = flag.Int("repeats", 5, "how often each scenario is run")
	only    = flag.String("only", "", "run only these scenarios, or figures, and write nothing: M1,M5,figures")
	lanes   = flag.Int("lanes", 8, "how many scenarios run at the same time; most of them wait")
)

// TestOriginal measures everything and writes RESULTS.md. It fails when ours
// does not hold what a row asks of it, never for what the others do.
func TestOriginal(t *testing.T) {
	if !*run {
		t.Skip("other people's implementations are driven by make original, which takes about ten minutes")
	}
	began := time.Now()
	lab := newLab(t)
	wanted := func(id string) bool { return *only == "" || slices.Contains(strings.Split(*only, ","), id) }
	table := slices.DeleteFunc(scenarios(), func(s scenario) bool { return !wanted(s.id) })
	out := lab.measure(t, table)
	if wanted("figures") {
		out.figures = lab.figures(t)
	}
	out.took = time.Since(began)
	var page bytes.Buffer
	out.write(&page)
	fmt.Println(page.String())
	for _, m := range out.missing {
		fmt.Printf("WARNING: %s\n", m)
	}
	if *only == "" {
		if err := os.WriteFile("RESULTS.md", page.Bytes(), 0o644); err != nil {
			t.Error(err)
		}
	}
	for _, s := range table {
		for _, m := range s.metrics {
			if c := out.cell(s, m, "ours"); c.misses(m) {
				t.Errorf("%s: %s: ours got %s, want %s", s.id, m.what, c.show(m), m.bound)
			}
		}
	}
}

// subject is one implementation.
type subject struct {
	key   string // column
	title string // until the program has said its name
	needs string // a file without which it can't be run
	argv  []string
	speed string // argument for a faster clock; "" if it has none
}

// lab is what all runs share.
type lab struct {
	dir      string // of built programs
	subjects []subject
}

func newLab(t *testing.T) *lab {
	t.Helper()
	l := &lab{dir: t.TempDir()}
	commit := library()
	for _, name := range []string{"peer", "ours"} {
		build(t, ".", "./"+name, l.program(name), "CGO_ENABLED=0", "-ldflags", "-X main.version="+commit)
	}
	here, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	installed := filepath.Join(here, "..", "..", "..", ".interop")
	python := func(name string) string { return filepath.Join(installed, name, "bin", "python") }
	l.subjects = []subject{
		{key: "old", title: "aioresonate 0.13.2", needs: python("aioresonate-0.13.2"), argv: []string{python("aioresonate-0.13.2"), "python/driver.py"}, speed: "--speed"},
		{key: "new", title: "aiosendspin 10.2.1", needs: python("aiosendspin-10.2.1"), argv: []string{python("aiosendspin-10.2.1"), "python/driver.py"}, speed: "--speed"},
		{key: "go", title: "sendspin-go 1.8.1", needs: filepath.Join(installed, "sendspin-go", "go.mod"), argv: []string{l.program("sendspingo")}},
		{key: "ours", title: "Resonate Bridge", argv: []string{l.program("ours")}},
	}
	if s := l.subject("go"); s.missing() == "" {
		version, err := os.ReadFile(filepath.Join(installed, "sendspin-go.version"))
		if err != nil {
			t.Fatal(err)
		}
		// A module of its own, which needs what this one needs: a copy of its
		// go.mod is brought up to date with this tree.
		for _, name := range []string{"go.mod", "go.sum"} {
			text, err := os.ReadFile(filepath.Join("sendspingo", name))
			if err == nil {
				err = os.WriteFile(l.program(name), text, 0o600)
			}
			if err != nil {
				t.Fatal(err)
			}
		}
		build(t, "sendspingo", ".", l.program("sendspingo"), "CGO_ENABLED=1", "-mod=mod", "-modfile="+l.program("go.mod"),
			"-ldflags", "-X main.version="+strings.TrimSpace(string(version)))
	}
	return l
}

// library is the commit that last touched what is measured of ours, marked if
// it was touched since.
func library() string {
	const what = "../../../resonate"
	commit, err := exec.Command("git", "log", "-1", "--format=%h", "--", what).Output()
	if err != nil || len(commit) == 0 {
		return "unknown"
	}
	if exec.Command("git", "diff", "--quiet", "HEAD", "--", what).Run() != nil {
		return strings.TrimSpace(string(commit)) + "-dirty"
	}
	return strings.TrimSpace(string(commit))
}

func build(t *testing.T, dir, pkg, out, env string, flags ...string) {
	t.Helper()
	cmd := exec.Command("go", append(append([]string{"build"}, flags...), "-o", out, pkg)...)
	cmd.Dir, cmd.Env = dir, append(os.Environ(), env)
	if text, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("go build %s: %v\n%s", pkg, err, text)
	}
}

func (l *lab) program(name string) string { return filepath.Join(l.dir, name) }

func (l *lab) subject(key string) subject {
	return l.subjects[slices.IndexFunc(l.subjects, func(s subject) bool { return s.key == key })]
}

// missing says what has to be installed; "" if nothing.
func (s subject) missing() string {
	if s.needs == "" {
		return ""
	}
	if _, err := os.Stat(s.needs); err != nil {
		return s.title + " is not installed and was not measured: run make original-setup"
	}
	return ""
}

// measure runs each scenario with each implementation, so often.
func (l *lab) measure(t *testing.T, table []scenario) *outcome {
	t.Helper()
	out := &outcome{lab: l, table: table, repeats: *repeats, cells: map[string]*cell{}, hello: map[string]hello{}}
	for _, s := range l.subjects {
		if m := s.missing(); m != "" {
			out.missing = append(out.missing, m)
		}
	}
	for range *repeats {
		for _, s := range table {
			if s.virtual != nil {
				got := newResult()
				s.virtual(t, got)
				out.add(s, "ours", got, nil)
			}
		}
	}
	var (
		wg   sync.WaitGroup
		mu   sync.Mutex
		slot = make(chan struct{}, *lanes)
	)
	// The repeats of a scenario are spread over the whole run.
	for range *repeats {
		for _, s := range table {
			for _, who := range l.subjects {
				if s.not[who.key] != "" || who.missing() != "" || s.virtual != nil && who.key == "ours" {
					continue
				}
				wg.Go(func() { // ends with its run, a minute at most
					slot <- struct{}{}
					defer func() { <-slot }()
					got, h, err := l.once(s, who)
					mu.Lock()
					defer mu.Unlock()
					out.add(s, who.key, got, err)
					if h.Name != "" {
						out.hello[who.key] = h
					}
				})
			}
		}
	}
	wg.Wait()
	return out
}

// once runs a scenario with fresh processes.
func (l *lab) once(s scenario, who subject) (*result, hello, error) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	got := newResult()
	var where place
	if s.alone {
		var err error
		if where, err = alone(); err != nil {
			return nil, hello{}, err
		}
	}
	flags := s.flags[who.key]
	if s.speed != 0 && who.speed != "" {
		flags = append(slices.Clone(flags), who.speed, fmt.Sprint(s.speed))
	}
	r, err := l.rig(ctx, who, where, flags...)
	if err != nil {
		return nil, hello{}, err
	}
	defer r.stop()
	return got, r.hello, s.run(ctx, r, got)
}
