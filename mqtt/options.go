package mqtt

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/url"
	"os"
	"strings"
)

// DefaultMaxPayload is the largest payload in bytes when Options names none.
// Mosquitto 2.1 cuts the connection over packets of more than 2,000,000 bytes.
const DefaultMaxPayload = 256 << 10

// minMaxPayload in bytes leaves room for our own small messages.
const minMaxPayload = 64

// maxClientID is what every 3.1.1 broker must accept (MQTT-3.1.3-5).
const maxClientID = 23

// Message is one MQTT message, in either direction.
type Message struct {
	Topic    string
	Payload  []byte
	Retained bool // as sent or, when received, the broker's stored copy and not a live message
	Oversize bool // received, larger than Options.MaxPayload; Payload is nil
}

// Options says which broker, who we are there, and what we want from it.
type Options struct {
	// URL of the broker: mqtt://host (port 1883), mqtts:// (8883), ws:// (80) or
	// wss:// (443). The path of a WebSocket defaults to /mqtt. A user name and
	// password in the URL count when Username is empty.
	URL string

	Username string
	Password string
	// Credentials, if set, is asked before each attempt to connect and takes the
	// place of Username and Password; for credentials that change.
	Credentials func(ctx context.Context) (username, password string, err error)

	CAFile   string // PEM; empty: the system's roots
	CertFile string // PEM, client certificate; needs KeyFile
	KeyFile  string // PEM
	Insecure bool   // accept any certificate: whoever sits in between can read and change everything

	// ClientID is up to 23 of 0-9, a-z, A-Z and "-". Two clients with one id cut
	// each other's connection for ever, so a part of it should be random. Empty: a
	// random one.
	ClientID string

	// Will is published by the broker when we vanish and by us when we leave, both
	// retained at QoS 1. An empty topic means none.
	Will Message
	// Online is published on the will's topic after each connect, once the
	// subscriptions stand.
	Online []byte

	Subscriptions []string // filters; they must not overlap, since Mosquitto 2.1 delivers one copy per match

	// SelftestTopic, if set, gets a nonce after each connect which must come back:
	// brokers refuse silently what their access list forbids.
	SelftestTopic string

	// LeaseTopic, if set, keeps all but one of the clients that name it from
	// publishing: that one holds the lease, a retained message; the others stand
	// by until it is gone.
	LeaseTopic string
	Holder     string // who we are, for the people who read the lease

	MaxPayload int          // bytes, both directions, at least 64; 0: DefaultMaxPayload
	Log        *slog.Logger // nil: silent

	// DialContext opens the TCP connection to the broker, below TLS and WebSocket;
	// nil: net.Dialer. For proxies and tunnels.
	DialContext func(ctx context.Context, network, addr string) (net.Conn, error)
}

// String leaves the secrets out.
func (o Options) String() string { return "mqtt.Options{" + redact(o.URL) + "}" }

// GoString leaves the secrets out.
func (o Options) GoString() string { return o.String() }

// LogValue leaves the secrets out.
func (o Options) LogValue() slog.Value { return slog.StringValue(redact(o.URL)) }

// redact takes user and password out of a URL, even a broken one.
func redact(raw string) string {
	scheme, rest, ok := strings.Cut(raw, "://")
	if !ok {
		scheme, rest = "", raw
	} else {
		scheme += "://"
	}
	authority, path, slash := strings.Cut(rest, "/")
	if at := strings.LastIndexByte(authority, '@'); at >= 0 {
		authority = authority[at+1:]
	}
	if slash {
		authority += "/" + path
	}
	return scheme + authority
}

// broker is Options, checked and with defaults: all that is needed to connect.
type broker struct {
	Options
	url *url.URL    // without user, with port
	tls *tls.Config // nil: plaintext
}

// name is how errors and logs call the broker.
func (b *broker) name() string { return b.url.Scheme + "://" + b.url.Host }

func newBroker(o Options) (*broker, error) {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.MaxPayload == 0 {
		o.MaxPayload = DefaultMaxPayload
	}
	if o.DialContext == nil {
		o.DialContext = (&net.Dialer{}).DialContext
	}
	b := &broker{Options: o}
	if err := b.parseURL(); err != nil {
		return nil, err
	}
	if err := b.loadTLS(); err != nil {
		return nil, err
	}
	if b.ClientID == "" {
		b.ClientID = randomID()
	}
	if err := checkClientID(b.ClientID); err != nil {
		return nil, err
	}
	if b.Username == "" && b.Password != "" {
		return nil, errors.New("mqtt: a password without a user name: MQTT 3.1.1 has no such login, set the user name too")
	}
	if b.MaxPayload < minMaxPayload {
		return nil, fmt.Errorf("mqtt: MaxPayload %d: must be at least %d bytes", b.MaxPayload, minMaxPayload)
	}
	if b.Will.Topic != "" {
		if err := checkTopic(b.Will.Topic); err != nil {
			return nil, fmt.Errorf("mqtt: will: %w", err)
		}
	}
	if b.SelftestTopic != "" {
		if err := checkTopic(b.SelftestTopic); err != nil {
			return nil, fmt.Errorf("mqtt: self-test: %w", err)
		}
	}
	if b.LeaseTopic != "" {
		if err := checkTopic(b.LeaseTopic); err != nil {
			return nil, fmt.Errorf("mqtt: lease: %w", err)
		}
	}
	return b, checkFilters(b.Subscriptions)
}

func checkFilters(filters []string) error {
	for _, f := range filters {
		if err := checkFilter(f); err != nil {
			return err
		}
	}
	return nil
}

func (b *broker) parseURL() error {
	if b.URL == "" {
		return errors.New("mqtt: no broker URL: give one such as mqtt://192.168.1.2:1883")
	}
	shown := redact(b.URL)
	if !strings.Contains(b.URL, "://") {
		return fmt.Errorf("mqtt: broker URL %q: the scheme is missing, write mqtt://%s", shown, shown)
	}
	u, err := url.Parse(b.URL)
	if err != nil {
		// The error of net/url quotes the whole URL, password included.
		var parse *url.Error
		if errors.As(err, &parse) {
			err = parse.Err
		}
		return fmt.Errorf("mqtt: broker URL %q: %w", shown, err)
	}
	ports := map[string]string{"mqtt": "1883", "mqtts": "8883", "ws": "80", "wss": "443"}
	port, ok := ports[u.Scheme]
	if !ok {
		also := map[string]string{"tcp": "mqtt", "ssl": "mqtts", "tls": "mqtts", "mqtt+ssl": "mqtts", "http": "ws", "https": "wss"}
		if use := also[u.Scheme]; use != "" {
			return fmt.Errorf("mqtt: broker URL %q: unknown scheme %q, write %s://", shown, u.Scheme, use)
		}
		return fmt.Errorf("mqtt: broker URL %q: unknown scheme %q, allowed are mqtt, mqtts, ws and wss", shown, u.Scheme)
	}
	if u.Hostname() == "" {
		return fmt.Errorf("mqtt: broker URL %q: the host is missing", shown)
	}
	if u.RawQuery != "" || u.Fragment != "" {
		return fmt.Errorf("mqtt: broker URL %q: must have no ? and no #", shown)
	}
	web := u.Scheme == "ws" || u.Scheme == "wss"
	if !web && u.Path != "" && u.Path != "/" {
		return fmt.Errorf("mqtt: broker URL %q: must have no path", shown)
	}
	if p := u.Port(); p != "" {
		port = p
	}
	if b.Username == "" && u.User != nil {
		b.Username = u.User.Username()
		b.Password, _ = u.User.Password()
	}
	path := u.Path
	switch {
	case !web:
		path = ""
	case path == "":
		path = "/mqtt"
	}
	b.url = &url.URL{Scheme: u.Scheme, Host: net.JoinHostPort(u.Hostname(), port), Path: path}
	return nil
}

func (b *broker) loadTLS() error {
	secure := b.url.Scheme == "mqtts" || b.url.Scheme == "wss"
	if !secure {
		if b.CAFile != "" || b.CertFile != "" || b.KeyFile != "" {
			return fmt.Errorf("mqtt: broker URL %q is not encrypted, but certificates are configured: write mqtts:// or wss://, or leave the certificates out", b.name())
		}
		return nil
	}
	b.tls = &tls.Config{
		ServerName:         b.url.Hostname(),
		MinVersion:         tls.VersionTLS12,
		InsecureSkipVerify: b.Insecure, //nolint:gosec // the user's own words
	}
	if b.CAFile != "" {
		pem, err := os.ReadFile(b.CAFile)
		if err != nil {
			return fmt.Errorf("mqtt: CA file: %w", err)
		}
		b.tls.RootCAs = x509.NewCertPool()
		if !b.tls.RootCAs.AppendCertsFromPEM(pem) {
			return fmt.Errorf("mqtt: CA file %s: holds no PEM certificate", b.CAFile)
		}
	}
	if (b.CertFile == "") != (b.KeyFile == "") {
		return errors.New("mqtt: a client certificate needs both, the certificate file and the key file")
	}
	if b.CertFile != "" {
		pair, err := tls.LoadX509KeyPair(b.CertFile, b.KeyFile)
		if err != nil {
			return fmt.Errorf("mqtt: client certificate %s, key %s: %w", b.CertFile, b.KeyFile, err)
		}
		b.tls.Certificates = []tls.Certificate{pair}
	}
	return nil
}

// randomID is a client id that no other instance has.
func randomID() string {
	var b [4]byte
	_, _ = rand.Read(b[:]) // never fails since Go 1.24
	return "resonate-" + hex.EncodeToString(b[:])
}

func checkClientID(id string) error {
	if len(id) > maxClientID {
		return fmt.Errorf("mqtt: client id %q: %d characters, at most %d", cut(id), len(id), maxClientID)
	}
	for _, r := range id {
		letter := r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '-'
		if !letter {
			return fmt.Errorf("mqtt: client id %q: %q is not one of 0-9, a-z, A-Z and -", id, r)
		}
	}
	return nil
}
