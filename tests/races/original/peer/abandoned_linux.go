package main

import (
	"net"

	"golang.org/x/sys/unix"
)

// abandoned reports whether the other end has closed c, as the kernel knows it:
// a FIN or an RST has arrived, read or not.
func abandoned(c net.Conn) bool {
	t, ok := c.(*net.TCPConn)
	if !ok {
		return false
	}
	raw, err := t.SyscallConn()
	if err != nil {
		return true // this end has closed it
	}
	const established = 1 // include/net/tcp_states.h
	gone := false
	err = raw.Control(func(fd uintptr) {
		info, err := unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO)
		gone = err == nil && info.State != established
	})
	return gone || err != nil
}
