package control

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
)

// TestMain is also the program that the tests drive.
func TestMain(m *testing.M) {
	if os.Getenv("CONTROL_TEST_PROGRAM") == "" {
		goleak.VerifyTestMain(m)
		return
	}
	fmt.Println("a library says hello") // not an answer
	release := make(chan struct{})
	err := Serve(os.Stdin, os.Stdout, map[string]Verb{
		"double":  On(func(a struct{ N int }) (any, error) { return map[string]int{"n": 2 * a.N}, nil }),
		"fail":    On(func(struct{}) (any, error) { return nil, errors.New("it can't") }),
		"wait":    On(func(struct{}) (any, error) { <-release; return nil, nil }),
		"release": On(func(struct{}) (any, error) { close(release); return nil, nil }),
		"die": On(func(struct{}) (any, error) {
			fmt.Fprintln(os.Stderr, "panic: on purpose")
			os.Exit(3)
			return nil, nil
		}),
	})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func program(t *testing.T) *Program {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(exe)
	cmd.Env = append(os.Environ(), "CONTROL_TEST_PROGRAM=1")
	p, err := Start("program", cmd)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Stop)
	return p
}

func TestCall(t *testing.T) {
	p := program(t)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	waited := make(chan error, 1)
	go func() { waited <- p.Call(ctx, "wait", nil, nil) }()
	var got struct{ N int }
	if err := p.Call(ctx, "double", map[string]int{"n": 21}, &got); err != nil || got.N != 42 {
		t.Errorf("double, while another call waits: got %d, %v; want 42", got.N, err)
	}
	for _, tc := range []struct {
		do   string
		args any
		want string
	}{
		{"fail", nil, "program: fail: it can't"},
		{"unknown", nil, `unknown verb "unknown"`},
		{"double", map[string]string{"n": "x"}, "arguments: "},
	} {
		if err := p.Call(ctx, tc.do, tc.args, nil); err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: got %v, want %q", tc.do, err, tc.want)
		}
	}
	if err := p.Call(ctx, "release", nil, nil); err != nil {
		t.Error(err)
	}
	if err := <-waited; err != nil {
		t.Error(err)
	}
}

func TestCallAfterTheEnd(t *testing.T) {
	p := program(t)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	for _, do := range []string{"die", "double"} {
		err := p.Call(ctx, do, nil, nil)
		if !errors.Is(err, ErrEnded) || !strings.Contains(fmt.Sprint(err), "panic: on purpose") {
			t.Errorf("%s: got %v, want ErrEnded and what it said", do, err)
		}
	}
}

// A call gives up with its context; the program lives on.
func TestCallGivesUp(t *testing.T) {
	p := program(t)
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := p.Call(ctx, "wait", nil, nil); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v, want the end of the context", err)
	}
	if err := p.Call(t.Context(), "release", nil, nil); err != nil {
		t.Error(err)
	}
}
