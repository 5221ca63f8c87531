package mqtt

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"os"
	"slices"
	"sync/atomic"
	"syscall"
	"time"

	paho "github.com/eclipse/paho.mqtt.golang"
	"github.com/eclipse/paho.mqtt.golang/packets"
)

// timing holds every duration, so that tests can shorten them.
type timing struct {
	connect   time.Duration // for dialling, and again for the broker's answer
	write     time.Duration // a broker that takes no bytes for so long is lost
	handOver  time.Duration // a message's way into paho; while that takes longer, the broker takes no bytes or is gone
	keepAlive time.Duration // whole seconds
	ping      time.Duration // a ping's answer
	ack       time.Duration // a subscription's or message's acknowledgement
	selftest  time.Duration // the nonce's way to the broker and back
	goodbye   time.Duration // all of the orderly end but the DISCONNECT
	answer    time.Duration // of the lease's holder to a newcomer
	ask       time.Duration // between two questions of a client that stands by
	silence   time.Duration // of the holder, until a client that stands by takes over
	retryMin  time.Duration // before the second attempt to connect; then doubled
	retryMax  time.Duration
	steady    time.Duration // a connection that lasts so long was a good one
	pace      pace
}

// link is one connection to the broker, from CONNECT to its end. It is not
// reused: the next connection is a new one.
type link struct {
	*broker
	tm     timing
	paho   paho.Client
	wire   atomic.Pointer[wire]
	closed atomic.Bool // paho goes on calling the handler for a while after the end
	lost   chan error  // cap 1; why the connection ended, if not by close
}

// connectError says which broker, what went wrong and what to look at.
type connectError struct {
	broker string
	advice string
	err    error
}

func (e *connectError) Error() string {
	return fmt.Sprintf("mqtt: connect to %s: %v: %s", e.broker, e.err, e.advice)
}

func (e *connectError) Unwrap() error { return e.err }

// connect makes one attempt. The handler gets each message on the connection's
// reading goroutine and must not wait for anything: until it returns, nothing is
// read, not even the answer to a ping. Cancelling ctx ends the attempt and has no
// effect on the link afterwards.
func (b *broker) connect(ctx context.Context, clientID string, tm timing, handle func(Message)) (*link, error) {
	l := &link{broker: b, tm: tm, lost: make(chan error, 1)}
	user, password := b.Username, b.Password
	if b.Credentials != nil {
		var err error
		if user, password, err = b.Credentials(ctx); err != nil {
			return nil, fmt.Errorf("mqtt: credentials for %s: %w", b.name(), err)
		}
	}

	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	dialErr := make(chan error, 1)
	o := paho.NewClientOptions()
	o.Servers = []*url.URL{b.url}
	o.SetClientID(clientID).SetUsername(user).SetPassword(password)
	o.SetProtocolVersion(4)   // else each refusal is tried twice, as 3.1.1 and as 3.1
	o.SetCleanSession(true)   // else a "play" is delivered hours later
	o.SetOrderMatters(true)   // else two volume steps may change places
	o.SetStore(nothing{})     // else an oversized message is sent again after each reconnect
	o.SetAutoReconnect(false) // a link is one connection
	o.SetConnectTimeout(tm.connect)
	o.SetWriteTimeout(tm.handOver) // the deadline of a write is wire's
	o.SetKeepAlive(tm.keepAlive).SetPingTimeout(tm.ping)
	if b.Will.Topic != "" {
		o.SetBinaryWill(b.Will.Topic, b.Will.Payload, 1, true)
	}
	o.SetDefaultPublishHandler(func(_ paho.Client, m paho.Message) {
		if !l.closed.Load() {
			handle(b.received(m))
		}
	})
	o.SetConnectionLostHandler(func(_ paho.Client, err error) { l.lost <- err })
	o.SetCustomOpenConnectionFn(func(*url.URL, paho.ClientOptions) (net.Conn, error) {
		conn, err := b.dial(ctx, tm, func(w *wire) { l.wire.Store(w) })
		if err != nil {
			dialErr <- err
		}
		return conn, err
	})
	l.paho = paho.NewClient(o)
	token := l.paho.Connect()
	select {
	case <-token.Done():
	case <-ctx.Done():
		cancel()
		l.cut(context.Cause(ctx))
		<-token.Done()
	}
	err := token.Error()
	if ctx.Err() != nil && err == nil { // connected at the very moment
		l.close()
		err = context.Cause(ctx)
	}
	if err != nil {
		select {
		case err = <-dialErr:
		default:
		}
		return nil, &connectError{broker: b.name(), advice: advise(err, b), err: err}
	}
	return l, nil
}

func (b *broker) received(m paho.Message) Message {
	msg := Message{Topic: m.Topic(), Retained: m.Retained()}
	if len(m.Payload()) > b.MaxPayload {
		msg.Oversize = true
	} else {
		msg.Payload = m.Payload() // ours: paho makes a new slice per packet and no store keeps it
	}
	return msg
}

// advise says what to look at after a failed attempt.
func advise(err error, b *broker) string {
	var (
		authority x509.UnknownAuthorityError
		hostname  x509.HostnameError
		record    tls.RecordHeaderError
		dns       *net.DNSError
	)
	switch {
	case errors.Is(err, packets.ErrorRefusedBadUsernameOrPassword), errors.Is(err, packets.ErrorRefusedNotAuthorised):
		if b.Username == "" && b.Credentials == nil {
			return "the broker wants a login: set user name and password"
		}
		return "check user name and password"
	case errors.Is(err, packets.ErrorRefusedIDRejected):
		return "the broker does not accept the client id"
	case errors.Is(err, packets.ErrorRefusedServerUnavailable):
		return "the broker is busy or starting"
	case errors.Is(err, syscall.ECONNREFUSED):
		return "nothing listens there: is the broker running, and is the port right?"
	case errors.As(err, &dns):
		return "the name is not known: check the host name, or use the address"
	case errors.As(err, &authority):
		return "its certificate was not issued by a known authority: set the CA file"
	case errors.As(err, &hostname):
		return "its certificate is for another name: use that name in the URL"
	case errors.As(err, &record):
		return "it answers without TLS: is this the port for mqtt:// and ws://?"
	case errors.Is(err, os.ErrDeadlineExceeded), errors.Is(err, context.DeadlineExceeded), errors.Is(err, syscall.EHOSTUNREACH):
		return "no answer: check the address and the firewall"
	case errors.Is(err, io.EOF), errors.Is(err, syscall.ECONNRESET):
		if b.tls == nil {
			return "it hangs up: does this port want TLS (mqtts://, wss://), or is it no MQTT broker?"
		}
		return "it hangs up: is this the right port, and does it want a client certificate?"
	}
	return "check the broker and its log"
}

// subscribe asks for the filters at QoS 1 and returns those that the broker
// refused. The error means that the link is of no use.
func (l *link) subscribe(ctx context.Context, qos byte, filters []string) (refused []string, err error) {
	if len(filters) == 0 {
		return nil, nil
	}
	want := make(map[string]byte, len(filters))
	for _, f := range filters {
		want[f] = qos
	}
	token := l.paho.SubscribeMultiple(want, nil)
	if err := l.await(ctx, token, "subscribe"); err != nil {
		return nil, err
	}
	for f, code := range token.(*paho.SubscribeToken).Result() {
		if code == 0x80 { // the token's error is nil for it (MQTT 3.1.1, 3.9.3)
			refused = append(refused, f)
		}
	}
	slices.Sort(refused)
	return refused, nil
}

// await waits for a token, but no longer than the link lives.
func (l *link) await(ctx context.Context, token paho.Token, what string) error {
	late := time.NewTimer(l.tm.ack)
	defer late.Stop()
	select {
	case <-token.Done():
		if err := token.Error(); err != nil {
			return fmt.Errorf("mqtt: %s: %w", what, l.why(err))
		}
		return nil
	case err := <-l.lost:
		return fmt.Errorf("mqtt: %s: %w", what, l.ended(err))
	case <-late.C:
		return fmt.Errorf("mqtt: %s at %s: no acknowledgement within %v", what, l.name(), l.tm.ack)
	case <-ctx.Done():
		return fmt.Errorf("mqtt: %s at %s: %w", what, l.name(), context.Cause(ctx))
	}
}

// ended is the error of a connection that is gone.
func (l *link) ended(err error) error {
	return fmt.Errorf("connection to %s lost: %w", l.name(), err)
}

// why turns a message's error into the connection's, which says more and is due
// at any moment.
func (l *link) why(err error) error {
	soon := time.NewTimer(time.Second)
	defer soon.Stop()
	select {
	case lost := <-l.lost:
		err = lost
	case <-soon.C:
	}
	return l.ended(err)
}

// cut ends the connection at once, without a DISCONNECT: the will is published.
func (l *link) cut(cause error) {
	if w := l.wire.Load(); w != nil {
		w.cut(cause)
	}
}

// close ends the connection in order and waits for it: DISCONNECT, no will.
func (l *link) close() {
	l.closed.Store(true)
	if w := l.wire.Load(); w != nil {
		w.orderly.Store(true)
	}
	l.paho.Disconnect(250)
	l.cut(net.ErrClosed)
}

// nothing is a paho.Store that forgets: the wanted set remembers better.
type nothing struct{}

func (nothing) Open()                             {}
func (nothing) Put(string, packets.ControlPacket) {}
func (nothing) Get(string) packets.ControlPacket  { return nil }
func (nothing) All() []string                     { return nil }
func (nothing) Del(string)                        {}
func (nothing) Close()                            {}
func (nothing) Reset()                            {}
