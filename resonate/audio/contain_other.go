//go:build !linux

package audio

import (
	"os/exec"
	"time"
)

// contain makes sure that nothing waits for long for a process whose context
// has ended.
func contain(cmd *exec.Cmd) { cmd.WaitDelay = 2 * time.Second }
