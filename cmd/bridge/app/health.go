package app

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// portTries is how many ports after a default one that is taken are tried.
const portTries = 20

// ListenTCP listens on addr, "host:port". When the port is taken and addr is
// the default that nobody asked for, the next free one of the following 20 is
// used: another server on the same host often holds it. A configured port that
// is taken is an error that names it. The caller logs the address when it
// differs and owns the listener.
func ListenTCP(ctx context.Context, addr string, isDefault bool) (net.Listener, error) {
	var lc net.ListenConfig
	l, err := lc.Listen(ctx, "tcp", addr)
	if err == nil {
		return l, nil
	}
	if !errors.Is(err, syscall.EADDRINUSE) {
		return nil, fmt.Errorf("listen on %s: %w", addr, shortNetError(err))
	}
	host, portText, splitErr := net.SplitHostPort(addr)
	port, portErr := strconv.Atoi(portText)
	if !isDefault || splitErr != nil || portErr != nil {
		return nil, fmt.Errorf("listen on %s: the port is taken by another program; stop that one or configure another port", addr)
	}
	for next := port + 1; next <= min(port+portTries, 65535); next++ {
		l, err := lc.Listen(ctx, "tcp", net.JoinHostPort(host, strconv.Itoa(next)))
		if err == nil {
			return l, nil
		}
		if !errors.Is(err, syscall.EADDRINUSE) {
			return nil, fmt.Errorf("listen on %s: %w", addr, shortNetError(err))
		}
	}
	return nil, fmt.Errorf("listen on %s: it and the next %d ports are taken; configure a free port", addr, portTries)
}

// shortNetError leaves out what the caller says anyway: operation, URL, address.
func shortNetError(err error) error {
	var u *url.Error
	if errors.As(err, &u) {
		err = u.Err
	}
	var op *net.OpError
	if errors.As(err, &op) {
		err = op.Err
	}
	var errno syscall.Errno
	if errors.As(err, &errno) {
		return errno
	}
	return err
}

// HealthOptions says what the HTTP endpoints report.
type HealthOptions struct {
	// Password, unless empty, is asked for by Basic authentication, with any
	// user name, everywhere but at /healthz: Docker and the Supervisor's
	// watchdog have none.
	Password Secret
	// Alive reports what keeps the process from working, nil if it works. A
	// broker that is away is no such thing: restarting the bridge would not
	// bring it back. Nil: always alive.
	Alive func() error
	// Ready reports what the bridge waits for, nil if nothing. Nil: always ready.
	Ready func() error
	// Metrics is served at /metrics; nil: not found.
	Metrics http.Handler
	// Pages serves every other path; nil: not found.
	Pages http.Handler
	Log   *slog.Logger // nil: silent
}

// Health serves /healthz, /readyz, /metrics and whatever else has pages.
type Health struct{ server *http.Server }

// NewHealth starts nothing.
func NewHealth(o HealthOptions) *Health {
	log := o.Log
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", answer(o.Alive))
	mux.Handle("GET /readyz", o.guarded(answer(o.Ready)))
	if o.Metrics != nil {
		mux.Handle("GET /metrics", o.guarded(o.Metrics))
	}
	if o.Pages != nil {
		mux.Handle("/", o.guarded(o.Pages))
	}
	return &Health{newWebServer(mux, log)}
}

// newWebServer bounds what a client may take before it is served.
func newWebServer(h http.Handler, log *slog.Logger) *http.Server {
	return &http.Server{
		Handler:           h,
		ReadHeaderTimeout: 5 * time.Second,
		IdleTimeout:       time.Minute,
		MaxHeaderBytes:    16 << 10,
		ErrorLog:          slog.NewLogLogger(log.Handler(), slog.LevelDebug),
	}
}

// ServeHTTP makes the endpoints usable without a socket.
func (h *Health) ServeHTTP(w http.ResponseWriter, r *http.Request) { h.server.Handler.ServeHTTP(w, r) }

// Run serves on l until ctx ends, gives open requests a second, and closes l.
func (h *Health) Run(ctx context.Context, l net.Listener) error {
	ended := make(chan error, 1)
	go func() { ended <- h.server.Serve(l) }() // ends by Shutdown or Close below
	select {
	case err := <-ended:
		return fmt.Errorf("http: %w", err)
	case <-ctx.Done():
	}
	grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
	defer cancel()
	if err := h.server.Shutdown(grace); err != nil {
		h.server.Close() // cut what did not end in time
	}
	if err := <-ended; !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("http: %w", err)
	}
	return nil
}

// answer is 200 "ok", or 503 with the reason.
func answer(state func() error) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		w.Header().Set("Cache-Control", "no-store")
		if state != nil {
			if err := state(); err != nil {
				w.WriteHeader(http.StatusServiceUnavailable)
				fmt.Fprintln(w, strings.ReplaceAll(err.Error(), "\n", "; "))
				return
			}
		}
		fmt.Fprintln(w, "ok")
	}
}

// guarded asks for the password, if there is one.
func (o HealthOptions) guarded(next http.Handler) http.Handler {
	if o.Password == "" {
		return next
	}
	want := sha256.Sum256([]byte(o.Password.Reveal()))
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, password, _ := r.BasicAuth()
		got := sha256.Sum256([]byte(password)) // equal lengths, so the comparison tells nothing
		if subtle.ConstantTimeCompare(got[:], want[:]) != 1 {
			w.Header().Set("WWW-Authenticate", `Basic realm="Resonate Bridge", charset="UTF-8"`)
			http.Error(w, "wrong or no password; it is http.password, with any user name", http.StatusUnauthorized)
			return
		}
		next.ServeHTTP(w, r)
	})
}
