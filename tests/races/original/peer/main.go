// Command peer is the other end of every side-by-side run: speakers that listen
// or dial in, and a relay in front of a server, all told by their driver (see
// package control) to keep quiet, not to read, not to answer a close, or to cut
// the line. It speaks the protocol no further than the hello and the first
// state. What it is for is counting: it says how many sockets an implementation
// holds, so that none judges itself.
//
// It listens on 127.0.0.1, or on the address that is its argument, which is for
// a network namespace of its own.
package main

import (
	"fmt"
	"os"

	"resonatebridge/tests/races/original/control"
)

func main() {
	p := newPeer("127.0.0.1")
	if len(os.Args) > 1 {
		p.host = os.Args[1]
	}
	err := control.Serve(os.Stdin, os.Stdout, p.verbs())
	p.close()
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
