package contain

import (
	"bytes"
	"errors"
	"io"
	"log/slog"
	"runtime"
	"strings"
	"sync"
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// Whatever f does, end is called once and what follows is as it should be.
func TestRun(t *testing.T) {
	for _, tc := range []struct {
		name string
		f    func() error
		want error
		text string
		logs string // "": nothing
	}{
		{"returns", func() error { return nil }, nil, "", ""},
		{"returns an error", func() error { return io.EOF }, io.EOF, "EOF", ""},
		{"panics", func() error { panic("oh no") }, ErrPanic, `a callback panicked: "oh no"`, "TestRun"},
		{"panics at length", func() error { panic(strings.Repeat("x", 1000)) }, ErrPanic, "xxx", "TestRun"},
		{"panics with nil", func() error { panic(nil) }, ErrPanic, "nil", "TestRun"},
		{"divides by zero", func() error { zero := 0; _ = 1 / zero; return nil }, ErrPanic, "divide by zero", "TestRun"},
		{"ends its goroutine", func() error { runtime.Goexit(); return nil }, ErrPanic, "ended its goroutine", "TestRun"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			var buf bytes.Buffer
			var got []error
			var wg sync.WaitGroup
			wg.Go(func() {
				Run(slog.New(slog.NewTextHandler(&buf, nil)), tc.f, func(err error) { got = append(got, err) })
			})
			wg.Wait()
			if len(got) != 1 || !errors.Is(got[0], tc.want) {
				t.Fatalf("got %v, want one %v", got, tc.want)
			}
			if tc.want != nil && (!strings.Contains(got[0].Error(), tc.text) || len(got[0].Error()) > 300) {
				t.Errorf("got %q, want %q in it", got[0], tc.text)
			}
			if logged := buf.String(); (tc.logs == "") != (logged == "") || !strings.Contains(logged, tc.logs) {
				t.Errorf("log: got %q, want the stack with %q", logged, tc.logs)
			}
		})
	}
}

func TestCall(t *testing.T) {
	log := slog.New(slog.DiscardHandler)
	if err := Call(log, func() error { return io.EOF }); err != io.EOF { //nolint:errorlint // the very value
		t.Errorf("got %v, want EOF", err)
	}
	if err := Call(log, func() error { panic("oh no") }); !errors.Is(err, ErrPanic) {
		t.Errorf("got %v, want ErrPanic", err)
	}
}
