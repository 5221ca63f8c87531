package scene

import (
	"bytes"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// Process is a program that can be killed and started again. It ends with the
// test, which then shows what it printed if it failed.
type Process struct {
	Name string
	Args []string // the program first
	Env  []string // on top of what the test has, without any RESONATE_ of its own

	tb   testing.TB
	out  output
	cmd  *exec.Cmd
	done chan struct{}
	err  error // valid after done
}

// NewProcess starts nothing.
func NewProcess(tb testing.TB, name string, env []string, args ...string) *Process {
	tb.Helper()
	p := &Process{Name: name, Args: args, Env: env, tb: tb}
	tb.Cleanup(func() {
		if p.done != nil {
			p.Signal(syscall.SIGCONT)
			p.Signal(syscall.SIGKILL)
			<-p.done
		}
		if tb.Failed() {
			tb.Logf("%s printed:\n%s", name, tail(p.out.String()))
		}
	})
	return p
}

// Start starts it, the first time or again.
func (p *Process) Start() {
	p.tb.Helper()
	cmd := exec.Command(p.Args[0], p.Args[1:]...)
	cmd.Dir = p.tb.TempDir()
	for _, v := range os.Environ() {
		if !strings.HasPrefix(v, "RESONATE_") {
			cmd.Env = append(cmd.Env, v)
		}
	}
	cmd.Env = append(cmd.Env, p.Env...)
	cmd.Stdout, cmd.Stderr = &p.out, &p.out
	// Never outliving the test, however that ends.
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		p.tb.Fatalf("%s: %v", p.Name, err)
	}
	done := make(chan struct{})
	p.cmd, p.done = cmd, done
	go func() { // ends with the process
		p.err = cmd.Wait()
		close(done)
	}()
}

// Signal sends a signal to the process if it runs.
func (p *Process) Signal(sig syscall.Signal) {
	select {
	case <-p.done:
	default:
		_ = p.cmd.Process.Signal(sig) // it may end at this moment
	}
}

// Wait waits for the end of the process and returns how it was and how long it
// took. The test fails when it takes too long.
func (p *Process) Wait(within time.Duration) (took time.Duration, err error) {
	p.tb.Helper()
	began := time.Now()
	select {
	case <-p.done:
	case <-time.After(within):
		p.Signal(syscall.SIGKILL)
		<-p.done
		p.tb.Errorf("%s: it did not end within %v", p.Name, within)
	}
	return time.Since(began), p.err
}

// Printed is what it printed so far, of all its lives.
func (p *Process) Printed() string { return p.out.String() }

// output may be read while a process writes it.
type output struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (o *output) Write(b []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.Write(b)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.String()
}

// tail are the last lines of a text.
func tail(text string) string {
	const most = 6000
	if len(text) > most {
		return "..." + text[len(text)-most:]
	}
	return text
}
