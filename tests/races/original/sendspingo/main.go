// Command sendspingo drives sendspin-go's server and client for the
// side-by-side runs, by their public API. Its verbs, and what they answer, are
// those of the other drivers. It is a module of its own, so that nothing of it
// is a dependency of the product.
package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"log"
	"net"
	"os"
	"runtime"
	"sync"
	"time"

	"resonatebridge/tests/races/original/control"

	"github.com/Sendspin/sendspin-go/pkg/protocol"
	"github.com/Sendspin/sendspin-go/pkg/sendspin"
)

// version is that of the module, set by who builds.
var version = "unknown"

func main() {
	discover := flag.Bool("discover", false, "browse for players over mDNS and dial them; in a network namespace of its own only")
	flag.Parse()
	log.SetOutput(io.Discard)
	d, err := newDriver(*discover)
	if err == nil {
		err = control.Serve(os.Stdin, os.Stdout, map[string]control.Verb{
			"hello":        control.On(d.hello),
			"play":         control.On(func(struct{}) (any, error) { return nil, nil }), // it always does
			"close":        control.On(d.close),
			"client_storm": control.On(d.clientStorm),
		})
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// driver is a server that plays a test tone.
type driver struct {
	server *sendspin.Server
	port   int
	ended  chan error
}

func newDriver(discover bool) (*driver, error) {
	server, err := sendspin.NewServer(sendspin.ServerConfig{
		Name: "Driver", Source: sendspin.NewTestTone(48000, 2), DiscoverClients: discover,
	})
	if err != nil {
		return nil, err
	}
	d := &driver{server: server, ended: make(chan error, 1)}
	go func() { d.ended <- server.Start() }() // ends with close
	for range 500 {
		if addr, ok := server.Addr().(*net.TCPAddr); ok && addr != nil {
			d.port = addr.Port
			return d, nil
		}
		time.Sleep(10 * time.Millisecond)
	}
	return nil, errors.New("the server does not listen")
}

func (d *driver) hello(struct{}) (any, error) {
	return map[string]string{
		"name": "sendspin-go", "version": version, "runtime": runtime.Version(),
		"url": fmt.Sprintf("ws://127.0.0.1:%d/sendspin", d.port), "dialect": "S4",
	}, nil
}

// close stops the server and waits for it, however long that takes.
func (d *driver) close(struct{}) (any, error) {
	began := time.Now()
	d.server.Stop()
	err := <-d.ended
	return map[string]float64{"took_s": time.Since(began).Seconds()}, err
}

// clientStorm sends from several goroutines at once on one connection.
func (d *driver) clientStorm(a struct {
	Senders  int `json:"senders"`
	Messages int `json:"messages"` // of each
},
) (any, error) {
	c := protocol.NewClient(protocol.Config{
		ServerAddr: fmt.Sprintf("127.0.0.1:%d", d.port), ClientID: "storm", Name: "storm", Version: 1,
		SupportedRoles: []string{"controller@v1"},
	})
	if err := c.Connect(); err != nil {
		return nil, err
	}
	defer c.Close()
	var wg sync.WaitGroup
	var mu sync.Mutex
	sent := 0
	for range a.Senders {
		wg.Go(func() { // ends with its messages
			for range a.Messages {
				time.Sleep(time.Millisecond)
				if c.SendState(protocol.PlayerState{State: "synchronized", Volume: 50}) != nil {
					return
				}
				mu.Lock()
				sent++
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	return map[string]int{"sent": sent}, nil
}
