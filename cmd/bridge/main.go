package main

import (
	"context"
	"os"
	"os/signal"
	"runtime/debug"
	"syscall"

	"resonatebridge/cmd/bridge/app"
)

// version and commit are set at build time:
//
//	go build -ldflags "-X main.version=1.2.3 -X main.commit=abc1234"
//
// Empty means: what the Go tool recorded.
var version, commit string //nolint:gochecknoglobals // -ldflags -X can only set package variables

func main() {
	os.Exit(run())
}

// run lives apart from main so that its deferred calls happen before the exit.
func run() int {
	// A bridge makes little garbage and often lives in a small machine: it collects
	// at one and a half times of what is live, which takes a tenth less memory than
	// Go's double. GOGC still decides.
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(50)
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	go func() { // ends with the first signal, or with the process
		<-signals
		// Before anybody can see that the first one was heard, the default action
		// is back: a second signal ends the process at once.
		signal.Stop(signals)
		cancel()
	}()

	return app.Main(ctx, os.Args[1:], app.Process{
		Env:     os.Environ(),
		Stdin:   os.Stdin,
		Stdout:  os.Stdout,
		Stderr:  os.Stderr,
		Version: version,
		Commit:  commit,
	})
}
