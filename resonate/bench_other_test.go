//go:build !unix

package resonate

import (
	"testing"
	"time"
)

func processorTime(b *testing.B) time.Duration {
	b.Helper()
	b.Skip("processor time is measured by getrusage")
	return 0
}
