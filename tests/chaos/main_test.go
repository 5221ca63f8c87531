// Package chaos breaks what can break: links, processes, disks. The short part
// is in every test run; -chaos adds the long one.
package chaos

import (
	"context"
	"flag"
	"os"
	"os/signal"
	"syscall"
	"testing"

	"resonatebridge/cmd/bridge/app"
	"resonatebridge/tests/internal/scene"

	"go.uber.org/goleak"
)

var long = flag.Bool("chaos", false, "break things for as long as it takes to see all that follows: make chaos")

// asProgram in the environment makes the test binary the bridge.
const asProgram = "CHAOS_AS_PROGRAM"

func TestMain(m *testing.M) {
	if os.Getenv(asProgram) != "" {
		os.Exit(runProgram())
	}
	flag.Parse()
	goleak.VerifyTestMain(m, goleak.Cleanup(func(code int) {
		scene.RemoveProgram()
		os.Exit(code)
	}))
}

// runProgram is what the bridge's main does.
func runProgram() int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, stop)
	return app.Main(ctx, os.Args[1:], app.Process{Env: os.Environ(), Stdin: os.Stdin, Stdout: os.Stdout, Stderr: os.Stderr})
}

// program is the bridge as a program: built, in the long part; else, to save the
// time, this test binary, see asProgram.
func program(t *testing.T) string {
	t.Helper()
	if *long {
		return scene.Program(t)
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	return self
}

// takes skips a test of the long part unless it was asked for.
func takes(t *testing.T, howLong string) {
	t.Helper()
	if !*long {
		t.Skipf("takes %s: run make chaos", howLong)
	}
}
