package control

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"sync"
	"time"
)

// ErrEnded is the end of a program that did not answer any more.
var ErrEnded = errors.New("the program has ended")

// stopWithin is how long a program may take to end when its input does.
const stopWithin = 3 * time.Second

// Program is a driven program. Its methods are safe for concurrent use.
type Program struct {
	name string
	cmd  *exec.Cmd
	in   io.WriteCloser
	errs tail
	done chan struct{}

	mu    sync.Mutex
	next  int
	calls map[int]chan answer
	err   error // why it ended; valid after done
}

// Start starts a program and returns when it runs. Stop must be called.
func Start(name string, cmd *exec.Cmd) (*Program, error) {
	p := &Program{name: name, cmd: cmd, done: make(chan struct{}), calls: map[int]chan answer{}}
	cmd.Stderr = &p.errs
	cmd.WaitDelay = stopWithin
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	p.in = in
	go p.read(out) // owner: p; ends with the program's output
	return p, nil
}

// read hands answers to who asked, then collects the program.
func (p *Program) read(out io.Reader) {
	lines := bufio.NewScanner(out)
	lines.Buffer(nil, lineLimit)
	for lines.Scan() {
		var a answer
		if json.Unmarshal(lines.Bytes(), &a) != nil {
			continue // something that the program's libraries print
		}
		p.mu.Lock()
		if c := p.calls[a.ID]; c != nil {
			delete(p.calls, a.ID)
			c <- a
		}
		p.mu.Unlock()
	}
	p.err = p.cmd.Wait()
	close(p.done)
}

// Call asks the program to do something, waits for the answer and decodes its
// result into result, unless that is nil. The error is that of the program,
// the end of ctx, or ErrEnded.
func (p *Program) Call(ctx context.Context, do string, args, result any) error {
	raw, err := json.Marshal(args)
	if err != nil {
		return fmt.Errorf("%s: %s: %w", p.name, do, err)
	}
	reply := make(chan answer, 1)
	p.mu.Lock()
	p.next++
	id := p.next
	p.calls[id] = reply
	line, _ := json.Marshal(request{ID: id, Do: do, Args: raw}) // of what was encoded before
	_, err = p.in.Write(append(line, '\n'))
	p.mu.Unlock()
	if err != nil {
		<-p.done
		return p.ended(do)
	}
	select {
	case a := <-reply:
		if a.Error != "" {
			return fmt.Errorf("%s: %s: %s", p.name, do, a.Error)
		}
		if result == nil {
			return nil
		}
		if err := json.Unmarshal(a.Result, result); err != nil {
			return fmt.Errorf("%s: %s: result: %w", p.name, do, err)
		}
		return nil
	case <-p.done:
		return p.ended(do)
	case <-ctx.Done():
		return fmt.Errorf("%s: %s: %w", p.name, do, context.Cause(ctx))
	}
}

func (p *Program) ended(do string) error {
	return fmt.Errorf("%s: %s: %w: %w; it said: %s", p.name, do, ErrEnded, errors.Join(p.err), p.Said())
}

// PID is the process id.
func (p *Program) PID() int { return p.cmd.Process.Pid }

// Said is the end of what the program printed on its standard error.
func (p *Program) Said() string { return p.errs.String() }

// Stop ends the program and waits for it.
func (p *Program) Stop() {
	_ = p.in.Close()
	t := time.NewTimer(stopWithin)
	defer t.Stop()
	select {
	case <-p.done:
	case <-t.C:
		_ = p.cmd.Process.Kill()
		<-p.done
	}
}

// tail keeps the end of a stream.
type tail struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (t *tail) Write(b []byte) (int, error) {
	const most = 64 << 10
	t.mu.Lock()
	defer t.mu.Unlock()
	t.buf.Write(b)
	if over := t.buf.Len() - most; over > 0 {
		t.buf.Next(over)
	}
	return len(b), nil
}

func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.buf.String()
}
