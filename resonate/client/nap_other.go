//go:build !linux

package client

import "time"

// nap sleeps as precisely as the system's timers allow.
func nap(d time.Duration) { time.Sleep(d) }
