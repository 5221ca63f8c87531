// Command mutants takes each guard of the catalogue of races out, one at a
// time and never in the tree itself (go test -overlay), and shows that the
// guard's test then fails. A guard that nothing misses ends it with status 1.
package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"text/tabwriter"
	"time"

	"resonatebridge/tests/races/mutants/table"
)

// verdict is what became of a mutant.
type verdict string

const (
	killed   verdict = "killed"
	hung     verdict = "killed: hung" // the test ran into its time limit, which is a failure too
	survived verdict = "SURVIVED"     // a finding: nothing misses the guard
	skipped  verdict = "skipped"      // the test does not run on this machine; proves nothing
	broken   verdict = "ERROR"        // the table is wrong, or the test fails without the mutation
)

// report is the line of one mutant.
type report struct {
	m       table.Mutant
	verdict verdict
	detail  string
	took    time.Duration
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	ok, err := run(ctx, os.Args[1:], os.Stdout)
	if err != nil {
		fmt.Fprintln(os.Stderr, "mutants:", err)
	}
	if !ok {
		stop()
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string, out io.Writer) (ok bool, err error) {
	flags := flag.NewFlagSet("mutants", flag.ContinueOnError)
	pick := flags.String("run", "", "only mutants whose id matches this `regexp`")
	jobs := flags.Int("jobs", 2, "mutants at the same `time`")
	limit := flags.Duration("timeout", 30*time.Second, "limit of one test run")
	verbose := flags.Bool("v", false, "print what the failed tests said")
	if err := flags.Parse(args); err != nil {
		return false, err
	}
	wanted, err := regexp.Compile(*pick)
	if err != nil {
		return false, fmt.Errorf("-run: %w", err)
	}
	root, err := moduleRoot(ctx)
	if err != nil {
		return false, err
	}
	scratch, err := os.MkdirTemp("", "mutants-")
	if err != nil {
		return false, err
	}
	defer os.RemoveAll(scratch)

	var mutants []table.Mutant
	var tests []table.Test
	for _, m := range table.All() {
		if wanted.MatchString(m.ID) {
			mutants = append(mutants, m)
			if !slices.Contains(tests, m.Test) {
				tests = append(tests, m.Test)
			}
		}
	}
	began := time.Now()
	b := &bench{root: root, scratch: scratch, limit: *limit, verbose: *verbose, sound: map[table.Test]error{}}

	// First the tests as they are: a test that fails anyway kills nothing.
	inParallel(*jobs, tests, func(i int, t table.Test) {
		err := b.holds(ctx, fmt.Sprint("sound", i), t)
		b.mu.Lock()
		b.sound[t] = err
		b.mu.Unlock()
	})
	reports := make([]report, len(mutants))
	inParallel(*jobs, mutants, func(i int, m table.Mutant) {
		start := time.Now()
		v, detail := b.kill(ctx, fmt.Sprint("mutant", i), m)
		reports[i] = report{m, v, detail, time.Since(start)}
	})
	if ctx.Err() != nil {
		return false, context.Cause(ctx)
	}
	return show(out, reports, time.Since(began)), nil
}

// inParallel calls f for each of all, at most jobs at a time.
func inParallel[T any](jobs int, all []T, f func(int, T)) {
	slots := make(chan struct{}, max(jobs, 1))
	var wg sync.WaitGroup
	for i, x := range all {
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			f(i, x)
		})
	}
	wg.Wait()
}

func show(out io.Writer, reports []report, took time.Duration) bool {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "MUTANT\tVERDICT\tTIME\tBY")
	count := map[verdict]int{}
	for _, r := range reports {
		count[r.verdict]++
		fmt.Fprintf(w, "%s\t%s\t%.1fs\t%s\n", r.m.ID, r.verdict, r.took.Seconds(), r.detail)
	}
	_ = w.Flush()
	fmt.Fprintf(out, "\n%d mutants in %.0f s: %d killed, %d of them by their time limit; %d survived, %d errors, %d skipped\n",
		len(reports), took.Seconds(), count[killed]+count[hung], count[hung], count[survived], count[broken], count[skipped])
	return count[survived]+count[broken] == 0
}

func moduleRoot(ctx context.Context) (string, error) {
	out, err := exec.CommandContext(ctx, "go", "list", "-m", "-f", "{{.Dir}}").Output()
	if err != nil {
		return "", fmt.Errorf("find the module: %w", err)
	}
	return strings.TrimSpace(string(out)), nil
}

var errSkipped = errors.New("the test is skipped on this machine, so this proves nothing here")

// bench builds and runs tests.
type bench struct {
	root, scratch string
	limit         time.Duration
	verbose       bool

	mu    sync.Mutex
	sound map[table.Test]error // how each test ends without a mutation
}

// holds runs a test without a mutation.
func (b *bench) holds(ctx context.Context, name string, t table.Test) error {
	bin, err := b.build(ctx, name, t, nil)
	if err != nil {
		return err
	}
	defer os.Remove(bin)
	said, err := b.test(ctx, bin, t)
	switch {
	case err != nil:
		return fmt.Errorf("fails without a mutation: %s", firstFailure(said))
	case !strings.Contains(said, "=== RUN"):
		return fmt.Errorf("no test matches %q", t.Run)
	case !strings.Contains(said, "--- PASS"):
		return errSkipped
	}
	return nil
}

// kill runs the test of m with its edits.
func (b *bench) kill(ctx context.Context, name string, m table.Mutant) (v verdict, detail string) {
	if err := b.sound[m.Test]; errors.Is(err, errSkipped) {
		return skipped, err.Error()
	} else if err != nil {
		return broken, err.Error()
	}
	files, err := m.Apply(b.root)
	if err != nil {
		return broken, err.Error()
	}
	bin, err := b.build(ctx, name, m.Test, files)
	if err != nil {
		return broken, err.Error()
	}
	defer os.Remove(bin)
	said, err := b.test(ctx, bin, m.Test)
	switch {
	case err == nil:
		return survived, fmt.Sprintf("%s -run %s", m.Test.Package, m.Test.Run)
	case strings.Contains(said, "panic: test timed out"), errors.Is(err, context.DeadlineExceeded):
		v = hung
	default:
		v = killed
	}
	detail = firstFailure(said)
	if b.verbose {
		detail += "\n" + said
	}
	return v, detail
}

// build compiles the tests of a package with files in the place of its own.
func (b *bench) build(ctx context.Context, name string, t table.Test, files map[string]string) (bin string, err error) {
	overlay := struct{ Replace map[string]string }{map[string]string{}}
	for file, text := range files {
		instead := filepath.Join(b.scratch, name+"-"+strings.ReplaceAll(file, "/", "-"))
		if err := os.WriteFile(instead, []byte(text), 0o600); err != nil {
			return "", err
		}
		overlay.Replace[filepath.Join(b.root, filepath.FromSlash(file))] = instead
	}
	data, err := json.Marshal(overlay)
	if err != nil {
		return "", err
	}
	list := filepath.Join(b.scratch, name+".json")
	if err := os.WriteFile(list, data, 0o600); err != nil {
		return "", err
	}
	bin = filepath.Join(b.scratch, name+".test")
	args, cgo := []string{"test", "-c", "-overlay", list, "-o", bin}, "CGO_ENABLED=0"
	if t.Race {
		args, cgo = append(args, "-race"), "CGO_ENABLED=1"
	}
	cmd := exec.CommandContext(ctx, "go", append(args, "./"+t.Package)...)
	cmd.Dir, cmd.Env = b.root, append(os.Environ(), cgo)
	if said, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("does not build: %s", oneLine(said))
	}
	return bin, nil
}

// test runs a test binary where go test would.
func (b *bench) test(ctx context.Context, bin string, t table.Test) (said string, err error) {
	// The binary ends itself in time, unless even that hangs.
	ctx, cancel := context.WithTimeout(ctx, b.limit+10*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, bin, "-test.v", "-test.failfast", "-test.run", t.Run, "-test.timeout", b.limit.String())
	cmd.Dir = filepath.Join(b.root, filepath.FromSlash(t.Package))
	var all bytes.Buffer
	cmd.Stdout, cmd.Stderr = &all, &all
	err = cmd.Run()
	if ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	return all.String(), err
}

// What a test binary says of its end.
var (
	failedTest = regexp.MustCompile(`(?m)^\s*--- FAIL: (\S+)`)
	startedRun = regexp.MustCompile(`(?m)^=== RUN\s+(\S+)`)
	theEnd     = regexp.MustCompile(`(?m)^(?:panic|fatal error|goleak): (.*?)(?: \[recovered, repanicked\])?$`)
)

// firstFailure says in one line why a test run failed: the innermost failed
// test or, if the process ended in the middle of one, that and what ended it.
func firstFailure(said string) string {
	name := ""
	for _, m := range failedTest.FindAllStringSubmatch(said, -1) {
		if strings.Count(m[1], "/") > strings.Count(name, "/") || name == "" {
			name = m[1]
		}
	}
	if end := theEnd.FindStringSubmatch(said); end != nil {
		if all := startedRun.FindAllStringSubmatch(said, -1); name == "" && len(all) > 0 {
			name = all[len(all)-1][1]
		}
		return oneLine([]byte(name + ": " + end[1]))
	}
	if name == "" {
		return oneLine([]byte(said))
	}
	return name
}

// oneLine cuts a long text for the table.
func oneLine(text []byte) string {
	const most = 160
	line := strings.Join(strings.Fields(string(text)), " ")
	if len(line) > most {
		line = line[:most] + " ..."
	}
	return line
}
