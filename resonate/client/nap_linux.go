package client

import (
	"syscall"
	"time"
)

// nap sleeps, to some 0.1 ms, however idle the process is.
func nap(d time.Duration) {
	t := syscall.NsecToTimespec(d.Nanoseconds())
	_ = syscall.Nanosleep(&t, nil) // interrupted, it was shorter: the caller looks at its clock
}
