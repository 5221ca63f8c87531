package app

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"time"

	"github.com/spf13/pflag"
)

// healthTimeout is how long a process that works may take to say so.
const healthTimeout = 3 * time.Second

func healthcheckCommand() command {
	return command{
		name:  "healthcheck",
		short: "asks the running bridge whether it works; for Docker",
		long:  "Gets /healthz from http.listen. Exit status 0: it works; 1: it does not, or nobody answers.",
		setup: func(fs *pflag.FlagSet) runFunc {
			AddConfigFlags(fs)
			return func(ctx context.Context, c *call) error {
				if err := c.noArgs(); err != nil {
					return err
				}
				cfg, _, err := c.config()
				if err != nil {
					return err
				}
				if err := askHealth(ctx, cfg.HTTP.Listen); err != nil {
					return err
				}
				_, err = fmt.Fprintf(c.Stdout, "the bridge at %s works\n", reachable(cfg.HTTP.Listen))
				return err
			}
		},
	}
}

// askHealth gets /healthz from the bridge that listens on addr.
func askHealth(ctx context.Context, addr string) error {
	ctx, cancel := context.WithTimeout(ctx, healthTimeout)
	defer cancel()
	url := "http://" + reachable(addr) + "/healthz"
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}} // nothing stays open; no proxy
	resp, err := client.Do(req)
	if err != nil {
		return fmt.Errorf("no answer from %s: %w; is the bridge running, with this http.listen?", url, shortNetError(err))
	}
	defer resp.Body.Close()
	body, _ := io.ReadAll(io.LimitReader(resp.Body, 4096))
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("%s answered %s: %s", url, resp.Status, cut(strings.TrimSpace(string(body))))
	}
	return nil
}

// reachable turns an address to listen on into one to dial: a host that means
// "everywhere" becomes loopback.
func reachable(listen string) string {
	host, port, err := net.SplitHostPort(listen)
	if err != nil {
		return listen
	}
	switch ip := net.ParseIP(host); {
	case host == "", ip != nil && ip.IsUnspecified() && ip.To4() != nil:
		host = "127.0.0.1"
	case ip != nil && ip.IsUnspecified():
		host = "::1"
	}
	return net.JoinHostPort(host, port)
}
