package mqtt

import (
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/eclipse/paho.mqtt.golang/packets"
)

// Each test here is a trap of paho.mqtt.golang v1.5.1 or of the brokers that the
// package's design avoids.

func TestPahoBlockingHandler(t *testing.T) {
	url, _ := serveBroker(t, "127.0.0.1:0")
	c := newTest(t, options(url), quick())
	start(t, c.Run)
	awaitStatus(t, c, "connected", connected)
	user := newPeer(t, url, "base/out")

	// Nobody reads Messages. The connection must go on all the same.
	const n = inboxSize + 500
	for i := range n {
		user.publish("base/set/x", fmt.Sprint(i), false)
	}
	c.Set("base/out", []byte("alive"), ClassState)
	user.until("base/out=alive")
	for c.Status().Drops < n-inboxSize { // the handler may be behind the broker's answers
		user.publish("base/set/x", "more", false)
	}
	for i := range inboxSize {
		if got, want := string(receive(t, c).Payload), fmt.Sprint(i); got != want {
			t.Fatalf("message %d: got %s", i, got)
		}
	}
}

func TestPahoOrderKept(t *testing.T) {
	url, _ := serveBroker(t, "127.0.0.1:0")
	c := newTest(t, options(url), quick())
	start(t, c.Run)
	awaitStatus(t, c, "connected", connected)
	user := newPeer(t, url, "base/result")
	for i := range 500 {
		user.publish("base/set/volume", fmt.Sprint(i), false)
	}
	for i := range 500 {
		m := receive(t, c)
		if got, want := string(m.Payload), fmt.Sprint(i); got != want || m.Retained {
			t.Fatalf("message %d: got %s, retained %v", i, got, m.Retained)
		}
		if !c.Publish("base/result", m.Payload, 1) {
			t.Fatalf("event %d dropped", i)
		}
	}
	for i := range 500 {
		if got, want := string(user.next().Payload), fmt.Sprint(i); got != want {
			t.Fatalf("event %d: got %s", i, got)
		}
	}
}

func TestPahoQoS0WhileOffline(t *testing.T) {
	url, _ := serveBroker(t, "127.0.0.1:0")
	link := newProxy(t, url)
	tm := quick()
	tm.retryMin, tm.retryMax = time.Hour, time.Hour
	c := newTest(t, options(link.url), tm)
	if c.Publish("base/event", []byte("early"), 0) {
		t.Error("before the first connect: Publish took an event, want it dropped")
	}
	start(t, c.Run)
	awaitStatus(t, c, "connected", connected)
	link.cut()
	awaitStatus(t, c, "not connected", disconnected)
	for qos := range byte(2) {
		if c.Publish("base/event", []byte("late"), qos) {
			t.Errorf("QoS %d while offline: Publish took an event, want it dropped", qos)
		}
	}
	if got, want := c.Status().Drops, uint64(3); got != want {
		t.Errorf("drops: got %d, want %d", got, want)
	}
}

func TestPahoOversizeNotSentForEver(t *testing.T) {
	big := strings.Repeat("x", 100<<10)
	broker := script{publish: func(p *packets.PublishPacket) verdict {
		if len(p.Payload) > 64<<10 {
			return hangUp
		}
		return ack
	}}
	broker.start(t)
	o := options(broker.url)
	o.SelftestTopic = ""
	c := newTest(t, o, quick())
	c.Set("base/art", []byte(big), ClassState)
	c.Set("base/volume", []byte("7"), ClassState)
	start(t, c.Run)
	st := awaitStatus(t, c, "connected for good", func(s Status) bool { return s.Connected && strings.Contains(s.Problem, "base/art") })
	if got, want := st.Generation, uint64(maxStrikes+1); got != want {
		t.Errorf("connections: got %d, want %d", got, want)
	}
	if !strings.Contains(st.Problem, "size limit") {
		t.Errorf("problem: got %q, want it to name the size limit", st.Problem)
	}

	// What is too large for us never gets that far.
	before := c.Status().Drops
	c.Set("base/huge", make([]byte, DefaultMaxPayload+1), ClassState)
	if got, want := c.Status().Drops, before+1; got != want {
		t.Errorf("drops after a payload above the limit: got %d, want %d", got, want)
	}
}

func TestPahoResubscribesAfterBrokerRestart(t *testing.T) {
	url, stop := serveBroker(t, "127.0.0.1:0")
	c := newTest(t, options(url), quick())
	c.Set("base/volume", []byte("7"), ClassState)
	start(t, c.Run)
	awaitStatus(t, c, "connected", connected)
	stop()
	awaitStatus(t, c, "not connected", disconnected)
	serveBroker(t, url[len("mqtt://"):]) // without a memory
	st := awaitStatus(t, c, "connected again", connected)
	if got, want := st.Generation, uint64(2); got != want {
		t.Errorf("generation: got %d, want %d", got, want)
	}
	user := newPeer(t, url, "base/#")
	user.until("base/volume=7")
	user.publish("base/set/volume", "8", false)
	if got, want := string(receive(t, c).Payload), "8"; got != want {
		t.Errorf("command: got %s, want %s", got, want)
	}
}

func TestPahoNoStaleStatesAfterReconnect(t *testing.T) {
	url, _ := serveBroker(t, "127.0.0.1:0")
	link := newProxy(t, url)
	c := newTest(t, options(link.url), quick())
	start(t, c.Run)
	awaitStatus(t, c, "connected", connected)
	user := newPeer(t, url, "base/volume", "base/end")
	c.Set("base/volume", []byte("before"), ClassState)
	user.until("base/volume=before")
	link.stall()
	link.cut()
	awaitStatus(t, c, "not connected", disconnected)
	for i := range 1000 {
		c.Set("base/volume", []byte(fmt.Sprint(i)), ClassState)
	}
	link.resume()
	awaitStatus(t, c, "connected again", connected)
	c.Set("base/end", []byte("end"), ClassTelemetry)
	got := user.until("base/end=end")
	if want := []string{"base/volume=999", "base/end=end"}; !slices.Equal(got, want) {
		t.Errorf("after the gap: got %q, want %q", got, want)
	}
}

func TestPahoOrderlyEnd(t *testing.T) {
	url, _ := serveBroker(t, "127.0.0.1:0")
	c := newTest(t, options(url), quick())
	stop := start(t, c.Run)
	awaitStatus(t, c, "connected", connected)
	user := newPeer(t, url, "base/#")
	user.until("base/state=online")
	for i := range 200 {
		c.Set(fmt.Sprintf("base/player/%d", i), []byte("last"), ClassState)
	}
	stop()
	got := user.until("base/state=offline")
	for i := range 200 {
		if want := fmt.Sprintf("base/player/%d=last", i); !contains(got, want) {
			t.Errorf("missing: %s", want)
		}
	}
	// A will would come as a second offline: the DISCONNECT must have arrived.
	user.publish("base/end", "end", false)
	if got := user.until("base/end=end"); len(got) != 1 {
		t.Errorf("after the end: got %q, want nothing", got[:len(got)-1])
	}
	if got := newPeer(t, url, "base/state").next(); string(got.Payload) != "offline" || !got.Retained {
		t.Errorf("state: got %q, retained %v, want offline, retained", got.Payload, got.Retained)
	}
	if st := c.Status(); st.Connected || c.Publish("base/event", nil, 0) {
		t.Errorf("after the end: got %+v and an event taken, want neither", st)
	}
}

func TestPahoWillOnKill(t *testing.T) {
	url, _ := serveBroker(t, "127.0.0.1:0")
	link := newProxy(t, url)
	tm := quick()
	tm.retryMin, tm.retryMax = time.Hour, time.Hour
	c := newTest(t, options(link.url), tm)
	start(t, c.Run)
	awaitStatus(t, c, "connected", connected)
	user := newPeer(t, url, "base/state")
	user.until("base/state=online")
	link.cut()
	user.until("base/state=offline")
	if got := newPeer(t, url, "base/state").next(); string(got.Payload) != "offline" || !got.Retained {
		t.Errorf("state: got %q, retained %v, want offline, retained", got.Payload, got.Retained)
	}
}

func TestPahoIsConnectedLies(t *testing.T) {
	url, stop := serveBroker(t, "127.0.0.1:0")
	c := newTest(t, options(url), quick())
	if st := c.Status(); st.Connected || st.Problem == "" {
		t.Errorf("before Run: got %+v, want not connected and a reason", st)
	}
	start(t, c.Run)
	first := awaitStatus(t, c, "connected", connected)
	stop()
	st := awaitStatus(t, c, "not connected", func(s Status) bool { return !s.Connected && strings.Contains(s.Problem, "refused") })
	if !st.Since.After(first.Since) {
		t.Errorf("since: got %v, want after %v", st.Since, first.Since)
	}
	if c.Publish("base/event", []byte("x"), 1) {
		t.Error("Publish took an event while connecting, want it dropped")
	}
}

func TestPahoWriteTimeout(t *testing.T) {
	url, _ := serveBroker(t, "127.0.0.1:0")
	link := newProxy(t, url)
	tm := quick()
	tm.write = 100 * time.Millisecond
	c := newTest(t, options(link.url), tm)
	start(t, c.Run)
	awaitStatus(t, c, "connected", connected)
	link.stall() // it stops reading; TCP stays up
	payload := make([]byte, 200<<10)
	for i := range 100 { // more than all socket buffers on the way hold
		c.Set(fmt.Sprintf("base/art/%d", i), payload, ClassState)
	}
	awaitStatus(t, c, "not connected, long before a ping is missed", disconnected)
}

func TestPahoFirstConnectFails(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := ln.Addr().String()
	_ = ln.Close()
	c := newTest(t, options("mqtt://"+addr), quick())
	c.Set("base/volume", []byte("7"), ClassState)
	start(t, c.Run)
	st := awaitStatus(t, c, "a problem", func(s Status) bool { return strings.Contains(s.Problem, "refused") })
	if !strings.Contains(st.Problem, addr) || !strings.Contains(st.Problem, "is the broker running") {
		t.Errorf("problem: got %q, want the address and what to check", st.Problem)
	}
	url, _ := serveBroker(t, addr)
	awaitStatus(t, c, "connected", connected)
	newPeer(t, url, "base/volume").until("base/volume=7")
}

func TestPahoSlowBroker(t *testing.T) {
	url, _ := serveBroker(t, "127.0.0.1:0")
	link := newProxy(t, url)
	tm := quick()
	tm.write = time.Minute
	c := newTest(t, options(link.url), tm)
	start(t, c.Run)
	awaitStatus(t, c, "connected", connected)
	user := newPeer(t, url, "base/volume")
	link.stall()
	for i := range 100_000 {
		c.Set("base/volume", []byte(fmt.Sprint(i)), ClassState)
	}
	link.resume()
	got := user.until("base/volume=99999")
	if len(got) > 5 {
		t.Errorf("a slow broker got %d of 100000 states, want a few and the last", len(got))
	}
}

func TestPahoSubackRefusal(t *testing.T) {
	broker := script{suback: func(filter string) byte {
		if filter == "base/set/#" {
			return 0x80
		}
		return 1
	}}
	broker.start(t)
	o := options(broker.url)
	o.SelftestTopic = ""
	o.Subscriptions = append(o.Subscriptions, "homeassistant/status")
	c := newTest(t, o, quick())
	start(t, c.Run)
	st := awaitStatus(t, c, "connected", connected)
	if !strings.Contains(st.Problem, "base/set/#") || !strings.Contains(st.Problem, "ACL") || strings.Contains(st.Problem, "homeassistant") {
		t.Errorf("problem: got %q, want the refused filter and the ACL", st.Problem)
	}
}

func TestPahoGeneration(t *testing.T) {
	url, _ := serveBroker(t, "127.0.0.1:0")
	link := newProxy(t, url)
	c := newTest(t, options(link.url), quick())
	start(t, c.Run)
	for gen := range uint64(3) {
		awaitStatus(t, c, "the next generation", func(s Status) bool { return s.Connected && s.Generation == gen+1 })
		link.cut()
	}
}

func TestPahoTwoClientsOneID(t *testing.T) {
	// What one of the two sees: it is cut right after each connect.
	broker := script{publish: func(*packets.PublishPacket) verdict { return hangUp }}
	broker.start(t)
	o := options(broker.url)
	o.ClientID = "twin"
	c := newTest(t, o, quick())
	start(t, c.Run)
	st := awaitStatus(t, c, "a problem", func(s Status) bool { return strings.Contains(s.Problem, "client id") })
	if !strings.Contains(st.Problem, `"twin"`) {
		t.Errorf("problem: got %q, want the client id", st.Problem)
	}
	if st.Generation < flapping {
		t.Errorf("said so after %d connections, want %d", st.Generation, flapping)
	}
}

func TestPahoMissingAcknowledgement(t *testing.T) {
	var deaf atomic.Bool
	broker := script{publish: func(p *packets.PublishPacket) verdict {
		if p.TopicName == "base/volume" && deaf.Load() {
			return silent
		}
		return ack
	}}
	deaf.Store(true)
	broker.start(t)
	o := options(broker.url)
	o.SelftestTopic = ""
	tm := quick()
	tm.ack = 50 * time.Millisecond
	tm.pace.ackRetry = 50 * time.Millisecond
	c := newTest(t, o, tm)
	c.Set("base/volume", []byte("7"), ClassState)
	start(t, c.Run)
	awaitStatus(t, c, "a problem", func(s Status) bool { return s.Connected && strings.Contains(s.Problem, "acknowledge") })
	deaf.Store(false)
	st := awaitStatus(t, c, "no problem", func(s Status) bool { return s.Connected && s.Problem == "" })
	if got, want := st.Generation, uint64(1); got != want {
		t.Errorf("generation: got %d, want %d: no new connection for it", got, want)
	}
}

func TestPahoEndsWhileConnecting(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0") // accepts by the kernel and says nothing
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	for _, scheme := range []string{"mqtt", "mqtts", "ws", "wss"} {
		t.Run(scheme, func(t *testing.T) {
			tm := quick()
			tm.connect = time.Hour
			c := newTest(t, options(scheme+"://"+ln.Addr().String()), tm)
			stop := start(t, c.Run)
			conn, err := ln.Accept()
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			if _, err := conn.Read(make([]byte, 1)); err != nil {
				t.Fatal(err)
			}
			stop()
		})
	}
}

func TestPahoEndsWhileStalled(t *testing.T) {
	url, _ := serveBroker(t, "127.0.0.1:0")
	link := newProxy(t, url)
	tm := quick()
	tm.goodbye = 100 * time.Millisecond
	tm.write = time.Hour
	c := newTest(t, options(link.url), tm)
	stop := start(t, c.Run)
	awaitStatus(t, c, "connected", connected)
	link.stall()
	for i := range 100 {
		c.Set(fmt.Sprintf("base/art/%d", i), make([]byte, 200<<10), ClassState)
	}
	stop()
	user := newPeer(t, url, "base/state")
	link.resume()
	user.until("base/state=offline") // the will: nothing of ours got through
}

// The broker takes the last word and does not confirm it, so nobody knows that
// it will be there (races: B16): the connection is cut, without the DISCONNECT
// that would keep the broker from publishing the will.
func TestPahoUnconfirmedEnd(t *testing.T) {
	for _, tc := range []struct {
		name string
		to   verdict
		want bool // a DISCONNECT
	}{{"confirmed", ack, true}, {"not confirmed", silent, false}} {
		t.Run(tc.name, func(t *testing.T) {
			broker := script{publish: func(p *packets.PublishPacket) verdict {
				if string(p.Payload) == "offline" {
					return tc.to
				}
				return ack
			}}
			broker.start(t)
			tm := quick()
			tm.goodbye = 100 * time.Millisecond
			c := newTest(t, options(broker.url), tm)
			stop := start(t, c.Run)
			awaitStatus(t, c, "connected", connected)
			stop()
			select {
			case err := <-broker.ends:
				if got := errors.Is(err, errDisconnect); got != tc.want {
					t.Errorf("the connection ended with %v; want a DISCONNECT: %v", err, tc.want)
				}
			case <-time.After(patience):
				t.Error("the connection did not end")
			}
		})
	}
}
