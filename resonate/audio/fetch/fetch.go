// Package fetch reads what users name by URL from the network, on the
// assumption that any of them may be hostile: only http and https, never an
// address that must not be reached, redirects, headers and waiting times
// limited, and nothing read ahead.
//
// A file whose transfer breaks off goes on where it stopped (Range); what has
// no length, such as a radio station, just ends. Connections are not kept, and
// no goroutine outlives the body it serves.
package fetch

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"syscall"
	"time"
)

// Limits of what is accepted from users and servers.
const (
	MaxURL       = 4096     // bytes
	MaxRedirects = 8        // one after the other
	maxHeader    = 64 << 10 // bytes of a response's header
)

var (
	// ErrRefused: the text is no URL, or one that must not be fetched.
	ErrRefused = errors.New("address refused")
	// ErrUnreachable: no answer, an answer that is an error, or no more data.
	ErrUnreachable = errors.New("media unreachable")
	// ErrTooLarge: it has more bytes than All was told to take.
	ErrTooLarge = errors.New("too large")
)

// errStalled is why a body that stopped flowing ends.
var errStalled = errors.New("nothing came for too long")

// Options configure a Client; the zero value is what a bridge uses.
type Options struct {
	UserAgent string        // empty: "ResonateBridge"
	Answer    time.Duration // until the header of a response, over all redirects; 8 s
	Stall     time.Duration // without a byte, of a body that is read; 15 s
	Log       *slog.Logger  // nil: silent
	// Dial makes connections instead of the network, in tests; then no address
	// is checked.
	Dial func(ctx context.Context, network, addr string) (net.Conn, error)
}

// Client fetches. It has no state but its options; any goroutine may use it.
type Client struct {
	opts Options
	http *http.Client
}

// New returns a Client.
func New(o Options) *Client {
	if o.UserAgent == "" {
		o.UserAgent = "ResonateBridge"
	}
	if o.Answer == 0 {
		o.Answer = 8 * time.Second
	}
	if o.Stall == 0 {
		o.Stall = 15 * time.Second
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Dial == nil {
		d := &net.Dialer{Timeout: 5 * time.Second, ControlContext: func(_ context.Context, _, addr string, _ syscall.RawConn) error {
			return checkAddress(addr)
		}}
		o.Dial = d.DialContext
	}
	c := &Client{opts: o}
	c.http = &http.Client{
		Transport: &http.Transport{
			// No proxy: it would resolve names where checkAddress can't see.
			DialContext:            c.dialHTTP,
			DisableCompression:     true, // ranges count the bytes that are sent
			DisableKeepAlives:      true,
			MaxResponseHeaderBytes: maxHeader,
			TLSHandshakeTimeout:    5 * time.Second,
		},
		CheckRedirect: func(r *http.Request, via []*http.Request) error {
			if len(via) > MaxRedirects {
				return fmt.Errorf("more than %d redirects", MaxRedirects)
			}
			return checkURL(r.URL)
		},
	}
	return c
}

// Parse checks that text is a URL that may be fetched, as far as that can be
// told before its host's addresses are known. The error is ErrRefused.
func Parse(text string) (*url.URL, error) {
	if len(text) > MaxURL {
		return nil, fmt.Errorf("%w: the URL has %d bytes, at most %d are taken", ErrRefused, len(text), MaxURL)
	}
	u, err := url.Parse(text)
	if err != nil {
		var detail *url.Error
		if errors.As(err, &detail) {
			err = detail.Err // without the text, which may be anything
		}
		return nil, fmt.Errorf("%w: %w", ErrRefused, err)
	}
	return u, checkURL(u)
}

func checkURL(u *url.URL) error {
	switch {
	case u.Scheme == "":
		return fmt.Errorf("%w: %.80q is not http:// or https://", ErrRefused, u.String())
	case u.Scheme != "http" && u.Scheme != "https":
		return fmt.Errorf("%w: %.20q is not http or https", ErrRefused, u.Scheme)
	case u.Host == "":
		return fmt.Errorf("%w: the URL has no host", ErrRefused)
	}
	return nil
}

// checkAddress refuses what a URL must not lead to: link-local addresses,
// where routers and clouds keep their secrets, the addresses outside that
// range that clouds use for the same, and what is no single host. Loopback and
// private addresses are where a home's media is. It is asked after the name was
// resolved, for each connection.
func checkAddress(addr string) error {
	ap, err := netip.ParseAddrPort(addr)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrRefused, err)
	}
	ip := ap.Addr().WithZone("").Unmap()
	if b := ip.As16(); nat64().Contains(ip) {
		ip = netip.AddrFrom4([4]byte(b[12:]))
	}
	if ip.IsLinkLocalUnicast() || ip.IsMulticast() || ip.IsUnspecified() {
		return fmt.Errorf("%w: nothing is fetched from %v", ErrRefused, ip)
	}
	switch ip.String() {
	case "fd00:ec2::254", // Amazon
		"100.100.100.200", // Alibaba
		"192.0.0.192",     // Oracle
		"168.63.129.16":   // Azure
		return fmt.Errorf("%w: nothing is fetched from %v", ErrRefused, ip)
	}
	return nil
}

// nat64 is the prefix that carries IPv4 addresses through IPv6 networks (RFC 6052).
func nat64() netip.Prefix {
	return netip.PrefixFrom(netip.AddrFrom16([16]byte{1: 0x64, 2: 0xff, 3: 0x9b}), 96)
}

// Dial connects to host:port over TCP under the same rules.
func (c *Client) Dial(ctx context.Context, addr string) (net.Conn, error) {
	conn, err := c.opts.Dial(ctx, "tcp", addr)
	if err != nil {
		return nil, classify(err)
	}
	return conn, nil
}

func (c *Client) dialHTTP(ctx context.Context, network, addr string) (net.Conn, error) {
	conn, err := c.opts.Dial(ctx, network, addr)
	if err != nil {
		return nil, err
	}
	return &icyConn{Conn: conn}, nil
}

// icyConn understands the first SHOUTcast servers, which answer "ICY 200 OK"
// where HTTP says its version.
type icyConn struct {
	net.Conn
	started bool
	head    []byte
}

func (c *icyConn) Read(p []byte) (int, error) {
	const icy, http10 = "ICY ", "HTTP/1.0 "
	if !c.started {
		c.started = true
		c.head = make([]byte, len(icy), len(http10))
		n, err := io.ReadFull(c.Conn, c.head)
		c.head = c.head[:n]
		if n == 0 {
			return 0, err
		}
		if string(c.head) == icy {
			c.head = append(c.head[:0], http10...)
		}
	}
	if len(c.head) > 0 {
		n := copy(p, c.head)
		c.head = c.head[n:]
		return n, nil
	}
	return c.Conn.Read(p)
}

// Get asks for the URL. ctx bounds the time until the header is there, not the
// life of the body. The error is ErrRefused, ErrUnreachable or, when ctx ended,
// its cause.
func (c *Client) Get(ctx context.Context, text string, header http.Header) (*Body, error) {
	u, err := Parse(text)
	if err != nil {
		return nil, err
	}
	life, end := context.WithCancelCause(context.WithoutCancel(ctx))
	b := &Body{client: c, asked: u, header: header, life: life, end: end}
	if err := b.open(ctx); err != nil {
		end(err)
		return nil, err
	}
	return b, nil
}

// All returns what is at the URL, if it is at most limit bytes, and its media type.
func (c *Client) All(ctx context.Context, text string, limit int64) (data []byte, mediaType string, err error) {
	b, err := c.Get(ctx, text, nil)
	if err != nil {
		return nil, "", err
	}
	defer b.Close()
	defer context.AfterFunc(ctx, func() { b.end(context.Cause(ctx)) })()
	data, err = b.all(limit)
	return data, b.Header.Get("Content-Type"), err
}

// classify gives an error from below one of the two classes, and says what
// people would.
func classify(err error) error {
	var detail *url.Error
	if errors.As(err, &detail) {
		err = detail.Err // without method and URL: the caller knows them
	}
	var op *net.OpError
	if errors.As(err, &op) && errors.Is(op.Err, ErrRefused) {
		err = op.Err // without words about sockets
	}
	var dns *net.DNSError
	switch {
	case errors.Is(err, ErrRefused), errors.Is(err, ErrUnreachable):
		return err
	case errors.As(err, &dns) && dns.IsNotFound:
		return fmt.Errorf("%w: there is no host named %.80q", ErrUnreachable, dns.Name)
	}
	return fmt.Errorf("%w: %w", ErrUnreachable, err)
}
