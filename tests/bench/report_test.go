// Package bench measures the whole bridge from outside and prints a table. It
// never fails over a time: a bound that was missed is marked.
package bench

import (
	"flag"
	"fmt"
	"os"
	"testing"

	"resonatebridge/tests/internal/facts"
	"resonatebridge/tests/internal/scene"

	"go.uber.org/goleak"
)

var report = flag.Bool("bench-report", false, "measure, which takes some minutes, and print the table")

// table is what was measured; tests run one after the other.
var table facts.Table

func TestMain(m *testing.M) {
	flag.Parse()
	goleak.VerifyTestMain(m, goleak.Cleanup(func(code int) {
		if *report {
			fmt.Printf("\nMeasured on %s, everything on loopback.\n\n", facts.Machine())
			table.Write(os.Stdout)
			fmt.Println()
		}
		scene.RemoveProgram()
		os.Exit(code)
	}))
}

// measures skips a test that was not asked for.
func measures(t *testing.T) {
	t.Helper()
	if !*report {
		t.Skip("measuring takes minutes and wants a quiet machine: run make bench")
	}
}
