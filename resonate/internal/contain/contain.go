// Package contain keeps a panic in what is not ours where it happened: in a
// callback of the library's user, or over bytes that a peer sent. What called
// for it, one session or one attempt, ends with [ErrPanic]; everybody else goes
// on.
//
// The goroutines that own state are not contained. After a panic there nobody
// knows what is true any more, so the process ends, the broker publishes the
// last will, and whoever supervises the process starts it again.
package contain

import (
	"errors"
	"fmt"
	"log/slog"
	"runtime/debug"
)

// ErrPanic is met with errors.Is by what Call and Run make of a panic, or of a
// callback that ends its goroutine.
var ErrPanic = errors.New("a callback panicked")

// Run hands what f returned to end, exactly once, also if f panics or calls
// runtime.Goexit, as testing's FailNow does. The stack goes to the log.
func Run(log *slog.Logger, f func() error, end func(error)) {
	err := fmt.Errorf("%w: it ended its goroutine", ErrPanic)
	returned := false
	defer func() {
		if !returned {
			if v := recover(); v != nil {
				err = fmt.Errorf("%w: %.200q", ErrPanic, fmt.Sprint(v))
			}
			log.Error("what called it ends, all else goes on", slog.Any("err", err), slog.String("stack", string(debug.Stack())))
		}
		end(err)
	}()
	err = f()
	returned = true
}

// Call returns what f returned, or ErrPanic with what it panicked with.
func Call(log *slog.Logger, f func() error) (err error) {
	Run(log, f, func(e error) { err = e })
	return err
}
