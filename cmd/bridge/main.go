package main

import (
	"context"
	"os"
	"os/signal"
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
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	// Once the first signal has cancelled ctx, the default action is back: a
	// second signal ends the process at once.
	context.AfterFunc(ctx, stop)

	return app.Main(ctx, os.Args[1:], app.Process{
		Env:     os.Environ(),
		Stdin:   os.Stdin,
		Stdout:  os.Stdout,
		Stderr:  os.Stderr,
		Version: version,
		Commit:  commit,
	})
}
