package scene

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
)

// program is the folder of the built bridge; empty: not built.
var program struct {
	once sync.Once
	dir  string
	err  error
}

// Program builds the bridge once, as it ships, and returns where it is.
func Program(tb testing.TB) string {
	tb.Helper()
	program.once.Do(func() {
		if program.dir, program.err = os.MkdirTemp("", "scene"); program.err != nil { //nolint:usetesting // more than one test uses it
			return
		}
		cmd := exec.Command("go", "build", "-trimpath", "-ldflags", "-s -w", "-o", filepath.Join(program.dir, "bridge"), "resonatebridge/cmd/bridge")
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := cmd.CombinedOutput(); err != nil {
			program.err = errors.Join(err, errors.New(string(out)))
		}
	})
	if program.err != nil {
		tb.Fatalf("build: %v", program.err)
	}
	return filepath.Join(program.dir, "bridge")
}

// RemoveProgram removes what Program built; for the end of TestMain.
func RemoveProgram() {
	if program.dir != "" {
		_ = os.RemoveAll(program.dir)
	}
}
