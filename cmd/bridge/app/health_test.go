package app

import (
	"context"
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"testing"

	"resonatebridge/mqtt"
	"resonatebridge/resonate"
)

func listen(t *testing.T, addr string) net.Listener {
	t.Helper()
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

func TestListenTCP(t *testing.T) {
	t.Parallel()
	taken := listen(t, "127.0.0.1:0").Addr().String()

	t.Run("a configured port that is taken is an error that names it", func(t *testing.T) {
		t.Parallel()
		_, err := ListenTCP(t.Context(), taken, false)
		if err == nil || !strings.Contains(err.Error(), taken) || !strings.Contains(err.Error(), "taken by another program") {
			t.Errorf("got %v, want that %s is taken", err, taken)
		}
	})
	t.Run("a default port that is taken makes way for one of the next", func(t *testing.T) {
		t.Parallel()
		l, err := ListenTCP(t.Context(), taken, true)
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		_, text, _ := net.SplitHostPort(taken)
		first, _ := strconv.Atoi(text)
		if got := l.Addr().(*net.TCPAddr).Port; got <= first || got > first+portTries {
			t.Errorf("port: got %d, want one of the %d after %d", got, portTries, first)
		}
	})
	t.Run("a free port is used as it is", func(t *testing.T) {
		t.Parallel()
		l, err := ListenTCP(t.Context(), "127.0.0.1:0", false)
		if err != nil {
			t.Fatal(err)
		}
		l.Close()
	})
	t.Run("an address that is not ours is no taken port", func(t *testing.T) {
		t.Parallel()
		_, err := ListenTCP(t.Context(), "203.0.113.1:8780", true)
		if err == nil || strings.Contains(err.Error(), "taken") {
			t.Errorf("got %v, want an error about the address", err)
		}
	})
}

func TestHealthEndpoints(t *testing.T) {
	t.Parallel()
	page := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("page")) })
	broken := func() error { return errors.New("the broker\nis away") }
	for _, tc := range []struct {
		name           string
		options        HealthOptions
		path, password string
		code           int
		body           string // contained
	}{
		{"alive by default", HealthOptions{}, "/healthz", "", 200, "ok"},
		{"ready by default", HealthOptions{}, "/readyz", "", 200, "ok"},
		{"not ready, with the reason in one line", HealthOptions{Ready: broken}, "/readyz", "", 503, "the broker; is away\n"},
		{"not ready but alive", HealthOptions{Ready: broken}, "/healthz", "", 200, "ok"},
		{"not alive", HealthOptions{Alive: broken}, "/healthz", "", 503, "away"},
		{"health needs no password", HealthOptions{Password: "pw"}, "/healthz", "", 200, "ok"},
		{"readiness needs it", HealthOptions{Password: "pw"}, "/readyz", "", 401, "http.password"},
		{"readiness has it", HealthOptions{Password: "pw"}, "/readyz", "pw", 200, "ok"},
		{"wrong password", HealthOptions{Password: "pw"}, "/readyz", "pw2", 401, "wrong"},
		{"metrics need it", HealthOptions{Password: "pw", Metrics: page}, "/metrics", "", 401, "wrong"},
		{"metrics have it", HealthOptions{Password: "pw", Metrics: page}, "/metrics", "pw", 200, "page"},
		{"no metrics", HealthOptions{}, "/metrics", "", 404, ""},
		{"pages need it", HealthOptions{Password: "pw", Pages: page}, "/x", "", 401, "wrong"},
		{"pages", HealthOptions{Pages: page}, "/x", "", 200, "page"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			r := httptest.NewRequestWithContext(t.Context(), http.MethodGet, tc.path, nil)
			if tc.password != "" {
				r.SetBasicAuth("anybody", tc.password)
			}
			w := httptest.NewRecorder()
			NewHealth(tc.options).ServeHTTP(w, r)
			if w.Code != tc.code || !strings.Contains(w.Body.String(), tc.body) {
				t.Errorf("GET %s: got %d %q, want %d with %q", tc.path, w.Code, w.Body, tc.code, tc.body)
			}
			if w.Code == 401 && w.Header().Get("WWW-Authenticate") == "" {
				t.Errorf("GET %s: got 401 without WWW-Authenticate", tc.path)
			}
		})
	}
}

func TestHealthcheckCommand(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name  string
		alive func() error
		code  int
		text  string
	}{
		{"works", nil, ExitOK, "works"},
		{"does not", func() error { return errors.New("stuck") }, ExitFailure, "stuck"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			l := listen(t, "127.0.0.1:0")
			ctx, cancel := context.WithCancel(t.Context())
			ended := make(chan error, 1)
			go func() { ended <- NewHealth(HealthOptions{Alive: tc.alive}).Run(ctx, l) }()
			code, stdout, stderr := run(t, Process{Env: []string{"RESONATE_HTTP_LISTEN=" + l.Addr().String()}}, "healthcheck")
			if code != tc.code || !strings.Contains(stdout+stderr, tc.text) {
				t.Errorf("got exit %d, %q, %q; want exit %d with %q", code, stdout, stderr, tc.code, tc.text)
			}
			cancel()
			if err := <-ended; err != nil {
				t.Errorf("Run after the end of ctx: got %v, want nil", err)
			}
		})
	}
}

// Every figure that is described is there, those of sound too.
func TestMetrics(t *testing.T) {
	s, err := resonate.New(resonate.Options{Name: "Bridge"})
	if err != nil {
		t.Fatal(err)
	}
	w := httptest.NewRecorder()
	newMetrics(s, func() mqtt.Status { return mqtt.Status{Drops: 3} }).ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/metrics", nil))
	for _, want := range []string{"resonate_encoded_chunks_total 0", "resonate_missed_chunks_total 0", "resonate_mqtt_dropped_total 3", "resonate_groups 0"} {
		if !strings.Contains(w.Body.String(), "\n"+want+"\n") {
			t.Errorf("/metrics has no %q", want)
		}
	}
}
