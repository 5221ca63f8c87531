//go:build unix

package audio

import "syscall"

const nonBlock = syscall.O_NONBLOCK
