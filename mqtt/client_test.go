package mqtt

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/eclipse/paho.mqtt.golang/packets"
	"github.com/gorilla/websocket"
)

func TestOrderAfterConnect(t *testing.T) {
	var broker script
	broker.start(t)
	o := options(broker.url)
	c := newTest(t, o, quick())
	c.Set("base/volume", []byte("7"), ClassState)
	c.Set("base/availability", []byte("online"), ClassAvailability)
	c.Set("homeassistant/device/x/config", []byte("{}"), ClassDiscovery)
	c.Set("homeassistant/device/bridge/config", []byte("{}"), ClassBridgeDiscovery)
	c.Set("base/position", []byte("0"), ClassTelemetry)
	start(t, c.Run)
	hello := <-broker.connects
	if !hello.WillFlag || !hello.WillRetain || hello.WillQos != 1 || hello.WillTopic != "base/state" || string(hello.WillMessage) != "offline" {
		t.Errorf("will: got %+v, want offline on base/state, retained, QoS 1", hello)
	}
	if !hello.CleanSession || hello.ProtocolVersion != 4 {
		t.Errorf("got clean session %v, version %d, want true, 4", hello.CleanSession, hello.ProtocolVersion)
	}
	var got []string
	for range 7 {
		p := <-broker.received
		got = append(got, fmt.Sprintf("%s retained=%v qos=%d", p.TopicName, p.Retain, p.Qos))
	}
	want := []string{
		"base/selftest retained=false qos=0",
		"base/state retained=true qos=1",
		"homeassistant/device/bridge/config retained=true qos=1",
		"homeassistant/device/x/config retained=true qos=1",
		"base/availability retained=true qos=1",
		"base/volume retained=true qos=1",
		"base/position retained=true qos=0",
	}
	if !slices.Equal(got, want) {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

func TestSelftest(t *testing.T) {
	t.Run("passes in silence", func(t *testing.T) {
		url, _ := serveBroker(t, "127.0.0.1:0")
		passed := make(records, 100)
		o := options(url)
		o.Log = slog.New(passed)
		c := newTest(t, o, quick())
		start(t, c.Run)
		passed.await(t, "self-test passed")
		if st := c.Status(); !st.Connected || st.Problem != "" {
			t.Errorf("got %+v, want connected and no problem", st)
		}
		select {
		case m := <-c.Messages():
			t.Errorf("the nonce came out: %+v", m)
		default:
		}
	})
	t.Run("fails when the nonce does not come back", func(t *testing.T) {
		var broker script // delivers nothing
		broker.start(t)
		tm := quick()
		tm.selftest = 10 * time.Millisecond
		c := newTest(t, options(broker.url), tm)
		start(t, c.Run)
		st := awaitStatus(t, c, "a problem", func(s Status) bool { return s.Connected && s.Problem != "" })
		if !strings.Contains(st.Problem, "base/selftest") || !strings.Contains(st.Problem, "check the broker's ACL") {
			t.Errorf("problem: got %q, want the topic and the ACL", st.Problem)
		}
	})
}

func TestMessages(t *testing.T) {
	url, _ := serveBroker(t, "127.0.0.1:0")
	user := newPeer(t, url, "base/set/#")
	user.publish("base/set/stored", "1", true)
	user.until("base/set/stored=1") // the broker acknowledges before it delivers
	o := options(url)
	o.MaxPayload = minMaxPayload
	c := newTest(t, o, quick())
	start(t, c.Run)
	if m := receive(t, c); m.Topic != "base/set/stored" || !m.Retained {
		t.Errorf("got %+v, want the stored message, retained", m)
	}
	for _, tc := range []struct {
		name, payload string
		oversize      bool
	}{
		{"empty", "", false},
		{"at the limit", strings.Repeat("x", minMaxPayload), false},
		{"above the limit", strings.Repeat("x", minMaxPayload+1), true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			user.publish("base/set", tc.payload, false)
			m := receive(t, c)
			want := tc.payload
			if tc.oversize {
				want = ""
			}
			if string(m.Payload) != want || m.Oversize != tc.oversize || m.Retained || m.Topic != "base/set" {
				t.Errorf("got %+v, want payload %q, oversize %v", m, want, tc.oversize)
			}
		})
	}
}

func TestRefusedMessages(t *testing.T) {
	url, _ := serveBroker(t, "127.0.0.1:0")
	c := newTest(t, options(url), quick())
	start(t, c.Run)
	awaitStatus(t, c, "connected", connected)
	for i, topic := range []string{"", "base/+/x", "base/#", "base/\x00", "$SYS/x"} {
		c.Set(topic, []byte("x"), ClassState)
		if c.Publish(topic, []byte("x"), 1) {
			t.Errorf("topic %q: Publish took it", topic)
		}
		if got, want := c.Status().Drops, uint64(2*(i+1)); got != want {
			t.Errorf("topic %q: got %d drops, want %d", topic, got, want)
		}
	}
	c.Set("base/volume", []byte("7"), ClassState)
	newPeer(t, url, "base/#").until("base/volume=7")
	if got, want := c.Status().Generation, uint64(1); got != want {
		t.Errorf("generation: got %d, want %d", got, want)
	}
}

func TestSetCopiesThePayload(t *testing.T) {
	url, _ := serveBroker(t, "127.0.0.1:0")
	c := newTest(t, options(url), quick())
	payload := []byte("7")
	c.Set("base/volume", payload, ClassState)
	payload[0] = '8'
	start(t, c.Run)
	newPeer(t, url, "base/volume").until("base/volume=7")
}

func TestRemoveOverTheWire(t *testing.T) {
	url, _ := serveBroker(t, "127.0.0.1:0")
	c := newTest(t, options(url), quick())
	start(t, c.Run)
	user := newPeer(t, url, "base/#", "homeassistant/#")
	c.Set("homeassistant/x/config", []byte("{}"), ClassDiscovery)
	c.Set("base/x", []byte("1"), ClassState)
	user.until("base/x=1")
	c.Set("base/x", nil, ClassState)
	c.Set("homeassistant/x/config", nil, ClassDiscovery)
	if got := user.until("base/x="); !contains(got, "homeassistant/x/config=") {
		t.Errorf("got %q, want the document's end before the state's", got)
	}
	user.publish("base/end", "end", true)
	if got := newPeer(t, url, "base/x", "homeassistant/x/config", "base/end").until("base/end=end"); len(got) != 1 {
		t.Errorf("retained: got %q, want only base/end", got)
	}
}

func TestBirthOverTheWire(t *testing.T) {
	url, _ := serveBroker(t, "127.0.0.1:0")
	c := newTest(t, options(url), quick())
	c.Set("base/x", []byte("1"), ClassState)
	c.Set("homeassistant/x/config", []byte("{}"), ClassDiscovery)
	user := newPeer(t, url, "base/x", "homeassistant/#")
	start(t, c.Run)
	user.until("base/x=1") // the connect's own replay is over
	c.Birth()
	got := user.until("base/x=1")
	if len(got) != 2 || got[0] != "homeassistant/x/config={}" {
		t.Errorf("after a birth: got %q, want the document, then the state", got)
	}
}

func TestRunTwice(t *testing.T) {
	url, _ := serveBroker(t, "127.0.0.1:0")
	c := newTest(t, options(url), quick())
	stop := start(t, c.Run)
	awaitStatus(t, c, "connected", connected)
	if err := c.Run(t.Context()); err == nil {
		t.Error("a second Run: got no error")
	}
	stop()
	start(t, c.Run)
	if st := awaitStatus(t, c, "connected", connected); st.Generation != 2 {
		t.Errorf("generation: got %d, want 2", st.Generation)
	}
}

func TestConnectErrors(t *testing.T) {
	hangUp := func(conn net.Conn) { _ = conn.Close() }
	http11 := func(conn net.Conn) {
		_, _ = conn.Read(make([]byte, 4096))
		_, _ = io.WriteString(conn, "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
		_ = conn.Close()
	}
	answer := func(code byte) func(net.Conn) {
		return func(conn net.Conn) {
			_, _ = packets.ReadPacket(conn)
			reply := packets.NewControlPacket(packets.Connack).(*packets.ConnackPacket)
			reply.ReturnCode = code
			_ = reply.Write(conn)
			_ = conn.Close()
		}
	}
	for _, tc := range []struct {
		name, scheme, user string
		peer               func(net.Conn)
		want               string
	}{
		{"login wanted", "mqtt", "", answer(packets.ErrRefusedNotAuthorised), "set user name and password"},
		{"login wrong", "mqtt", "me", answer(packets.ErrRefusedBadUsernameOrPassword), "check user name and password"},
		{"id refused", "mqtt", "", answer(packets.ErrRefusedIDRejected), "client id"},
		{"busy", "mqtt", "", answer(packets.ErrRefusedServerUnavailable), "busy or starting"},
		{"hangs up", "mqtt", "", hangUp, "TLS"},
		{"hangs up on TLS", "mqtts", "", hangUp, "right port"},
		{"no TLS", "mqtts", "", http11, "without TLS"},
		{"no WebSocket", "ws", "", http11, "404"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			ln, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			defer ln.Close()
			go func() {
				if conn, err := ln.Accept(); err == nil {
					tc.peer(conn)
				}
			}()
			b, err := newBroker(Options{URL: tc.scheme + "://" + ln.Addr().String(), Username: tc.user})
			if err != nil {
				t.Fatal(err)
			}
			_, err = b.connect(t.Context(), "x", quick(), func(Message) {})
			if err == nil || !strings.Contains(err.Error(), tc.want) || !strings.Contains(err.Error(), ln.Addr().String()) {
				t.Errorf("got %v, want %q and the address in it", err, tc.want)
			}
		})
	}
}

func TestCredentialsAskedEachTime(t *testing.T) {
	broker := script{login: packets.ErrRefusedBadUsernameOrPassword}
	broker.start(t)
	o := options(broker.url)
	asked := 0
	o.Credentials = func(context.Context) (string, string, error) {
		if asked++; asked == 1 {
			return "", "", errors.New("the supervisor is busy")
		}
		return "me", fmt.Sprint(asked), nil
	}
	c := newTest(t, o, quick())
	start(t, c.Run)
	for i := range 3 {
		hello := <-broker.connects
		if got, want := string(hello.Password), fmt.Sprint(i+2); hello.Username != "me" || got != want {
			t.Errorf("attempt %d: got %s %s, want me %s", i, hello.Username, got, want)
		}
	}
}

// authority makes a CA and a server certificate for 127.0.0.1.
func authority(t *testing.T) (caFile string, server tls.Certificate) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	cert := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature,
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
	}
	der, err := x509.CreateCertificate(rand.Reader, cert, cert, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	caFile = filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(caFile, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600); err != nil {
		t.Fatal(err)
	}
	return caFile, tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

// pipe carries bytes both ways until both sides ended.
func relay(a, b net.Conn) {
	var wg sync.WaitGroup
	for _, way := range [][2]net.Conn{{a, b}, {b, a}} {
		wg.Go(func() {
			_, _ = io.Copy(way[0], way[1])
			_ = way[0].Close()
			_ = way[1].Close()
		})
	}
	wg.Wait()
}

func TestTransports(t *testing.T) {
	ca, cert := authority(t)
	url, _ := serveBroker(t, "127.0.0.1:0")
	backend := strings.TrimPrefix(url, "mqtt://")
	config := &tls.Config{Certificates: []tls.Certificate{cert}, MinVersion: tls.VersionTLS12}

	ln, err := tls.Listen("tcp", "127.0.0.1:0", config)
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			server, err := net.Dial("tcp", backend)
			if err != nil {
				_ = conn.Close()
				continue
			}
			wg.Go(func() { relay(conn, server) })
		}
	})
	t.Cleanup(func() { _ = ln.Close(); wg.Wait() })

	web := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/mqtt" {
			http.NotFound(w, r)
			return
		}
		ws, err := (&websocket.Upgrader{Subprotocols: []string{"mqtt"}}).Upgrade(w, r, nil)
		if err != nil {
			return
		}
		server, err := net.Dial("tcp", backend)
		if err != nil {
			_ = ws.Close()
			return
		}
		relay(&webConn{Conn: ws}, server)
	})
	plain := httptest.NewServer(web)
	t.Cleanup(plain.Close)
	secure := httptest.NewUnstartedServer(web)
	secure.TLS = config
	secure.Config.ErrorLog = log.New(io.Discard, "", 0)
	secure.StartTLS()
	t.Cleanup(secure.Close)

	for _, tc := range []struct {
		name string
		o    Options
		want string // a part of the problem; "": connects
	}{
		{"mqtts", Options{URL: "mqtts://" + ln.Addr().String(), CAFile: ca}, ""},
		{"mqtts insecure", Options{URL: "mqtts://" + ln.Addr().String(), Insecure: true}, ""},
		{"mqtts without the CA", Options{URL: "mqtts://" + ln.Addr().String()}, "set the CA file"},
		{"ws", Options{URL: "ws" + strings.TrimPrefix(plain.URL, "http")}, ""},
		{"ws on another path", Options{URL: "ws" + strings.TrimPrefix(plain.URL, "http") + "/x"}, "404"},
		{"wss", Options{URL: "wss" + strings.TrimPrefix(secure.URL, "https"), CAFile: ca}, ""},
		{"wss without the CA", Options{URL: "wss" + strings.TrimPrefix(secure.URL, "https")}, "set the CA file"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			o := options(tc.o.URL)
			o.CAFile, o.Insecure = tc.o.CAFile, tc.o.Insecure
			c := newTest(t, o, quick())
			stop := start(t, c.Run)
			if tc.want != "" {
				awaitStatus(t, c, tc.want, func(s Status) bool { return strings.Contains(s.Problem, tc.want) })
				return
			}
			awaitStatus(t, c, "connected", connected)
			user := newPeer(t, url, "base/#")
			art := strings.Repeat("x", 200<<10)
			c.Set("base/"+tc.name, []byte(art), ClassState)
			user.until("base/" + tc.name + "=" + art)
			user.publish("base/set/x", art, false)
			if got := receive(t, c); string(got.Payload) != art {
				t.Errorf("received %d bytes, want %d", len(got.Payload), len(art))
			}
			stop()
			user.until("base/state=offline")
		})
	}
}

func TestCollect(t *testing.T) {
	url, _ := serveBroker(t, "127.0.0.1:0")
	user := newPeer(t, url)
	const n = 3000 // more than any queue on the way
	for i := range n {
		user.publish(fmt.Sprintf("base/%04d/state", i), "1", true)
	}
	user.publish("base/art/state", strings.Repeat("x", 100), true)
	o := Options{URL: url, SelftestTopic: "base/selftest", MaxPayload: minMaxPayload}
	got, err := Collect(t.Context(), o, []string{"base/+/state", "base/art/#"}, 20*time.Millisecond)
	if err != nil {
		t.Fatal(err)
	}
	if len(got) != n+1 {
		t.Fatalf("got %d messages, want %d", len(got), n+1)
	}
	for i, m := range got[:n] {
		if want := fmt.Sprintf("base/%04d/state", i); m.Topic != want || string(m.Payload) != "1" || !m.Retained {
			t.Fatalf("message %d: got %+v, want %s", i, m, want)
		}
	}
	if m := got[n]; m.Topic != "base/art/state" || !m.Oversize || m.Payload != nil {
		t.Errorf("got %+v, want the art, oversize", m)
	}

	o.SelftestTopic = ""
	if got, err := Collect(t.Context(), o, []string{"nothing/#"}, time.Millisecond); len(got) != 0 || err != nil {
		t.Errorf("nothing there: got %v, %v, want nothing, nil", got, err)
	}
}

func TestCollectKeepsTheNewest(t *testing.T) {
	for _, tc := range []struct {
		name string
		in   []Message
		want string
	}{
		{"stored", []Message{{Topic: "a", Payload: []byte("1"), Retained: true}}, "1"},
		{"live on an unknown topic", []Message{{Topic: "a", Payload: []byte("1")}}, ""},
		{"changed", []Message{{Topic: "a", Payload: []byte("1"), Retained: true}, {Topic: "a", Payload: []byte("2")}}, "2"},
		{"cleared", []Message{{Topic: "a", Payload: []byte("1"), Retained: true}, {Topic: "a"}}, ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			found := make(map[string]Message)
			for _, m := range tc.in {
				keep(found, m)
			}
			got, ok := found["a"]
			if string(got.Payload) != tc.want || ok && !got.Retained {
				t.Errorf("got %+v, want %q", got, tc.want)
			}
		})
	}
}

func TestVisitErrors(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	nobody := "mqtt://" + ln.Addr().String()
	_ = ln.Close()
	url, _ := serveBroker(t, "127.0.0.1:0")
	refusing := script{suback: func(string) byte { return 0x80 }}
	refusing.start(t)
	cutting := script{publish: func(*packets.PublishPacket) verdict { return hangUp }}
	cutting.start(t)
	req := Message{Topic: "base/set", Payload: []byte("{}")}
	ask := func(url string, req Message) error {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		_, err := request(ctx, Options{URL: url}, req, "base/result", nil, quick())
		return err
	}
	for _, tc := range []struct {
		name string
		err  error
		want []string
	}{
		{"nobody there", ask(nobody, req), []string{nobody, "is the broker running"}},
		{"no answer", ask(url, req), []string{url, "base/result", "is the bridge running"}},
		{"refused", ask(refusing.url, req), []string{refusing.url, "base/result", "ACL"}},
		{"cut", ask(cutting.url, req), []string{cutting.url, "lost"}},
		{"bad topic", ask(url, Message{Topic: "base/+"}), []string{"wildcards"}},
		{"too large", ask(url, Message{Topic: "base", Payload: make([]byte, DefaultMaxPayload+1)}), []string{"at most"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if tc.err == nil {
				t.Fatal("got no error")
			}
			for _, want := range tc.want {
				if !strings.Contains(tc.err.Error(), want) {
					t.Errorf("got %q, want %q in it", tc.err, want)
				}
			}
		})
	}
}

func TestRequest(t *testing.T) {
	url, _ := serveBroker(t, "127.0.0.1:0")
	c := newTest(t, options(url), quick())
	start(t, c.Run)
	awaitStatus(t, c, "connected", connected)
	done := make(chan struct{})
	go func() { // the bridge
		defer close(done)
		m := <-c.Messages()
		c.Publish("base/result", []byte("someone else's"), 1)
		c.Publish("base/result", append([]byte("answer to "), m.Payload...), 1)
	}()
	got, err := Request(t.Context(), Options{URL: url}, Message{Topic: "base/set/volume", Payload: []byte("7")}, "base/result",
		func(p []byte) bool { return strings.HasPrefix(string(p), "answer") })
	<-done
	if want := "answer to 7"; string(got) != want || err != nil {
		t.Errorf("got %q, %v, want %q", got, err, want)
	}
}

func TestWatch(t *testing.T) {
	url, _ := serveBroker(t, "127.0.0.1:0")
	c := newTest(t, options(url), quick())
	start(t, c.Run)
	awaitStatus(t, c, "connected", connected)
	c.Set("base/state", []byte("1"), ClassState)
	for { // until the broker holds it
		found, err := Collect(t.Context(), Options{URL: url}, []string{"base/state"}, 10*time.Millisecond)
		if err != nil {
			t.Fatal(err)
		}
		if len(found) == 1 {
			break
		}
	}
	var got []string
	err := Watch(t.Context(), Options{URL: url}, []string{"base/state"}, func(m Message) bool {
		got = append(got, fmt.Sprintf("%s %v", m.Payload, m.Retained))
		c.Set("base/state", []byte("2"), ClassState)
		return len(got) < 2
	})
	if want := []string{"1 true", "2 false"}; !slices.Equal(got, want) || err != nil {
		t.Errorf("got %q, %v, want %q", got, err, want)
	}
	ctx, cancel := context.WithCancel(t.Context())
	err = Watch(ctx, Options{URL: url}, []string{"base/state"}, func(Message) bool { cancel(); return true })
	if !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: got %v, want it to say so", err)
	}
}

func TestSweepWaitsForTheBroker(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := ln.Addr().String()
	accepted := make(chan struct{})
	go func() {
		defer close(accepted)
		if conn, err := ln.Accept(); err == nil {
			_ = conn.Close()
		}
		_ = ln.Close()
	}()
	type result struct {
		found []Message
		err   error
	}
	done := make(chan result, 1)
	go func() {
		found, err := sweep(t.Context(), Options{URL: "mqtt://" + addr}, []string{"#"}, 10*time.Millisecond, quick())
		done <- result{found, err}
	}()
	<-accepted
	serveBroker(t, addr)
	select {
	case r := <-done:
		if len(r.found) != 0 || r.err != nil {
			t.Errorf("got %v, %v, want nothing, nil", r.found, r.err)
		}
	case <-time.After(patience):
		t.Error("it did not come back")
	}

	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := sweep(ctx, Options{URL: "mqtt://" + addr}, []string{"#"}, time.Hour, quick()); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: got %v, want it to say so", err)
	}
	if _, err := sweep(t.Context(), Options{URL: "mqtt://" + addr}, []string{"a#"}, time.Hour, quick()); err == nil {
		t.Error("a bad filter: got no error")
	}
}

// BenchmarkSetToBroker is the way of a state change to a subscriber, one at a time.
func BenchmarkSetToBroker(b *testing.B) {
	url, _ := serveBroker(b, "127.0.0.1:0")
	c := newTest(b, options(url), quick())
	start(b, c.Run)
	awaitStatus(b, c, "connected", connected)
	user := newPeer(b, url, "base/volume")
	b.ReportAllocs()
	i := 0
	for b.Loop() {
		i++
		c.Set("base/volume", fmt.Appendf(nil, "%d", i), ClassState)
		<-user.in
	}
}

// BenchmarkReplay is a reconnect with as many retained messages as 100 speakers have.
func BenchmarkReplay(b *testing.B) {
	url, _ := serveBroker(b, "127.0.0.1:0")
	c := newTest(b, options(url), quick())
	const topics = 100 * 30
	payload := []byte(strings.Repeat("x", 300))
	for i := range topics {
		c.Set(fmt.Sprintf("base/%d", i), payload, ClassState)
	}
	user := newPeer(b, url, "base/#")
	b.ReportAllocs()
	for b.Loop() {
		stop := start(b, c.Run)
		for n := 0; n < topics; {
			if m := <-user.in; len(m.Payload) == len(payload) && !m.Retained {
				n++
			}
		}
		stop()
	}
}

// What is due at a time is done when that comes: whose timer fires at the very
// moment would look again and again until the clock has moved on.
func TestInspectAtTheMoment(t *testing.T) {
	c, err := New(Options{URL: "mqtt://192.0.2.1", ClientID: "bridge", SelftestTopic: "base/selftest"})
	if err != nil {
		t.Fatal(err)
	}
	s, now := newSession(c, 1, "flapping"), time.Now()
	s.selftestBy, s.steadyAt = now, now
	s.inspect(now)
	if !s.selftestBy.IsZero() || !s.steadyAt.IsZero() {
		t.Errorf("still due: self-test %v, steady %v", s.selftestBy, s.steadyAt)
	}
}
