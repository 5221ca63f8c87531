// Package scene holds what house tests and benchmarks share: a broker that can
// be restarted, a client that watches it as a user does, the bridge as a value
// and software speakers. Everything is on loopback, and ends with the test.
package scene

import (
	"context"
	"log/slog"
	"testing"
	"time"

	"resonatebridge/cmd/bridge/app"
	"resonatebridge/mqtt"
	"resonatebridge/resonate/client"
)

// patience is how long anything may take before a test gives up. What should be
// fast is measured by benchmarks; a test on a busy machine only has to end.
const patience = time.Minute

// Broker is an embedded broker that can be stopped and started again.
type Broker struct {
	tb   testing.TB
	addr string
	stop context.CancelFunc
	done chan struct{}
}

// StartBroker starts a broker on a free port.
func StartBroker(tb testing.TB) *Broker {
	tb.Helper()
	b := &Broker{tb: tb, addr: "127.0.0.1:0"}
	b.Start()
	tb.Cleanup(b.Stop)
	return b
}

// Start starts a stopped broker on the port that it had, with nothing retained.
func (b *Broker) Start() {
	b.tb.Helper()
	e, err := mqtt.NewEmbedded(b.addr, nil)
	if err != nil {
		b.tb.Fatal(err)
	}
	b.addr = e.Addr()
	ctx, cancel := context.WithCancel(context.Background())
	b.stop, b.done = cancel, make(chan struct{})
	go func() { // owner: b; ends with Stop
		defer close(b.done)
		if err := e.Run(ctx); err != nil {
			b.tb.Error(err)
		}
	}()
}

// Stop cuts all clients.
func (b *Broker) Stop() {
	b.stop()
	<-b.done
}

// URL is where the broker listens.
func (b *Broker) URL() string { return "mqtt://" + b.addr }

// Retained is what the broker stores below the bridge's topics and Home
// Assistant's, by topic.
func (b *Broker) Retained() map[string]string {
	b.tb.Helper()
	return Retained(b.tb, b.URL())
}

// Retained is the same of any broker.
func Retained(tb testing.TB, url string) map[string]string {
	tb.Helper()
	all, err := retained(url)
	if err != nil {
		tb.Fatal(err)
	}
	return all
}

func retained(url string) (map[string]string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	const quiet = 100 * time.Millisecond
	found, err := mqtt.Collect(ctx, mqtt.Options{URL: url, SelftestTopic: "scene/complete"}, []string{"resonate/#", "homeassistant/#"}, quiet)
	if err != nil {
		return nil, err
	}
	all := make(map[string]string, len(found))
	for _, m := range found {
		all[m.Topic] = string(m.Payload)
	}
	return all, nil
}

// Bridge is a running bridge.
type Bridge struct {
	app.Running
	tb   testing.TB
	stop context.CancelFunc
	done chan struct{}
	err  error // valid after done
}

// Config is a bridge's configuration that touches no network but loopback: no
// mDNS, free ports, its records in a directory of the test.
func Config(tb testing.TB, broker *Broker) app.Config {
	tb.Helper()
	c := app.Default()
	c.DataDir = tb.TempDir()
	c.MQTT.URL = broker.URL()
	c.HTTP.Listen, c.Server.Listen = "127.0.0.1:0", "127.0.0.1:0"
	c.Discovery.Enabled = false
	return c
}

// StartBridge runs a bridge and returns when it listens.
func StartBridge(tb testing.TB, o app.RunOptions) *Bridge {
	tb.Helper()
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	ctx, cancel := context.WithCancel(context.Background())
	b := &Bridge{tb: tb, stop: cancel, done: make(chan struct{})}
	started := make(chan app.Running, 1)
	o.Started = func(r app.Running) { started <- r }
	go func() { // owner: b; ends with Stop
		defer close(b.done)
		b.err = app.Run(ctx, o)
	}()
	tb.Cleanup(func() { b.Stop() })
	select {
	case b.Running = <-started:
	case <-b.done:
		tb.Fatalf("bridge: %v", b.err)
	case <-time.After(patience):
		tb.Fatal("bridge: it did not start")
	}
	return b
}

// Stop ends the bridge in order and says how long that took. Again it does
// nothing.
func (b *Bridge) Stop() time.Duration {
	b.tb.Helper()
	began := time.Now()
	b.stop()
	<-b.done
	if b.err != nil {
		b.tb.Errorf("bridge: %v", b.err)
		b.err = nil
	}
	return time.Since(began)
}

// Speaker is a software speaker.
type Speaker struct {
	*client.Player
	ID, Name string
	tb       testing.TB
	stop     context.CancelFunc
	done     chan struct{}
}

// StartSpeaker runs a software speaker.
func StartSpeaker(tb testing.TB, o client.PlayerOptions) *Speaker {
	tb.Helper()
	p, err := client.NewPlayer(o)
	if err != nil {
		tb.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	s := &Speaker{Player: p, ID: o.ClientID, Name: o.Name, tb: tb, stop: cancel, done: make(chan struct{})}
	go func() { // owner: s; ends with Stop
		defer close(s.done)
		if err := p.Run(ctx); err != nil {
			tb.Errorf("speaker %s: %v", s.ID, err)
		}
	}()
	tb.Cleanup(s.Stop)
	return s
}

// Stop switches the speaker off in order: it says goodbye.
func (s *Speaker) Stop() {
	s.stop()
	<-s.done
}

// Until waits until the speaker's state meets cond, and returns it.
func (s *Speaker) Until(what string, cond func(client.State) bool) client.State {
	s.tb.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	st, err := s.WaitFor(ctx, cond)
	if err != nil {
		s.tb.Fatalf("speaker %s: not within %v: %s: %v; its state: %+v", s.ID, patience, what, err, st)
	}
	return st
}

// Act calls one of the speaker's methods.
func (s *Speaker) Act(what string, f func(context.Context) error) {
	s.tb.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if err := f(ctx); err != nil {
		s.tb.Fatalf("speaker %s: %s: %v", s.ID, what, err)
	}
}
