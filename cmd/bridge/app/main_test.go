package app

import (
	"bytes"
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"resonatebridge/discovery"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// offNetwork replaces every seam that a test left open by one that fails the
// test: no test may speak mDNS on a real interface.
func offNetwork(t *testing.T, s seams) seams {
	t.Helper()
	if s.browse == nil {
		s.browse = func(discovery.MDNSOptions) discovery.Source {
			t.Error("a test browses over mDNS")
			return discovery.Merge()
		}
	}
	if s.advertise == nil {
		s.advertise = func(context.Context, discovery.AdvertiseOptions) error {
			t.Error("a test advertises over mDNS")
			return errors.New("not in a test")
		}
	}
	if s.multicast == nil {
		s.multicast = func([]string) (string, error) {
			t.Error("a test joins a multicast group")
			return "", errors.New("not in a test")
		}
	}
	return s
}

// run calls Main with nothing but env, off the network, and returns what it
// printed. A command that does not end by itself is ended and fails the test.
func run(t *testing.T, p Process, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	p.seams = offNetwork(t, p.seams)
	var out, errs bytes.Buffer
	p.Stdin, p.Stdout, p.Stderr = strings.NewReader(""), &out, &errs
	code = Main(ctx, args, p)
	if ctx.Err() != nil {
		t.Errorf("bridge %q: did not end by itself", args)
	}
	return code, out.String(), errs.String()
}

func TestMainExitCodes(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name   string
		args   []string
		env    []string
		code   int
		stdout string // contained
		stderr string // contained
	}{
		{"help lists commands", []string{"help"}, nil, ExitOK, "volume PLAYER N|+N|-N", ""},
		{"-h is help", []string{"-h"}, nil, ExitOK, "Usage: bridge", ""},
		{"help of a command", []string{"help", "volume"}, nil, ExitOK, "Usage: bridge volume PLAYER", ""},
		{"help of nothing we have", []string{"help", "volum"}, nil, ExitUsage, "", `"volum"; did you mean volume?`},
		{"--help of a command", []string{"scan", "--help"}, nil, ExitOK, "--timeout", ""},
		{"version", []string{"version"}, nil, ExitOK, "resonate bridge 1.2.3, commit abc, go", ""},
		{"--version", []string{"--version"}, nil, ExitOK, "1.2.3", ""},
		{"version takes no argument", []string{"version", "x"}, nil, ExitUsage, "", `unexpected argument "x"`},
		{"unknown command", []string{"statsu"}, nil, ExitUsage, "", `unknown command "statsu"; did you mean status?`},
		{"unknown command near nothing", []string{"frobnicate"}, nil, ExitUsage, "", "bridge help lists them"},
		{"unknown flag", []string{"status", "--jsn"}, nil, ExitUsage, "", "did you mean --json?"},
		{"unknown flag of run", []string{"--confg", "x"}, nil, ExitUsage, "", "did you mean --config?"},
		{"wrong configuration", []string{"status"}, []string{"RESONATE_MQTT_URL=http://x"}, ExitUsage, "", "environment variable RESONATE_MQTT_URL"},
		{"wrong flag value", []string{"run", "--log-level", "lots"}, nil, ExitUsage, "", "flag --log-level"},
		{"missing file", []string{"status", "--config", "/nowhere/bridge.yaml"}, nil, ExitUsage, "", "/nowhere/bridge.yaml"},
		{"volume without a number", []string{"volume", "kitchen"}, nil, ExitUsage, "", "want PLAYER N|+N|-N"},
		{"volume out of range", []string{"volume", "kitchen", "101"}, nil, ExitUsage, "", "want at most 100"},
		{"volume of words", []string{"volume", "kitchen", "loud"}, nil, ExitUsage, "", `volume "loud"`},
		{"mute of words", []string{"mute", "kitchen", "perhaps"}, nil, ExitUsage, "", "want on, off or toggle"},
		{"scan for no time", []string{"scan", "--timeout", "0s"}, nil, ExitUsage, "", "more than 0s"},
		{"scan without a unit", []string{"scan", "--timeout", "5"}, nil, ExitUsage, "", "must be a duration like"},
		{"player both ways", []string{"player", "--listen", ":1", "--server", "ws://x"}, nil, ExitUsage, "", "exclude each other"},
		{"player in plaintext with a token", []string{"player", "--show-token"}, nil, ExitUsage, "", "belongs to the encrypted dialects"},
		{"player of G1 with a code", []string{"player", "--dialect", "G1", "--pairing-code", "show"}, nil, ExitUsage, "", "by token only"},
		{"player with half a code", []string{"player", "--dialect", "G2", "--pairing-code", "1234"}, nil, ExitUsage, "", "this is 4"},
		{"player unknown dialect", []string{"player", "--dialect", "s4"}, nil, ExitUsage, "", "want R1, R2"},
		{"player into a text", []string{"player", "--out", "x.txt"}, nil, ExitUsage, "", "ends in .wav"},
		{"player to no URL", []string{"player", "--server", "http://x"}, nil, ExitUsage, "", "want ws://"},
		{"nobody to ask for health", []string{"healthcheck"}, []string{"RESONATE_HTTP_LISTEN=127.0.0.1:1"}, ExitFailure, "", "connection refused"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			code, stdout, stderr := run(t, Process{Env: tc.env, Version: "1.2.3", Commit: "abc"}, tc.args...)
			if code != tc.code || !strings.Contains(stdout, tc.stdout) || !strings.Contains(stderr, tc.stderr) {
				t.Errorf("bridge %q: got exit %d, stdout %q, stderr %q; want exit %d, stdout with %q, stderr with %q",
					tc.args, code, stdout, stderr, tc.code, tc.stdout, tc.stderr)
			}
			if tc.code == ExitOK && stderr != "" || tc.code != ExitOK && stdout != "" {
				t.Errorf("bridge %q: got exit %d, stdout %q, stderr %q; want one of the two", tc.args, code, stdout, stderr)
			}
		})
	}
}

func TestMainEndsWithItsContext(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	var out, errs bytes.Buffer
	code := Main(ctx, []string{"healthcheck"}, Process{Stdout: &out, Stderr: &errs, Env: []string{"RESONATE_HTTP_LISTEN=127.0.0.1:1"}})
	if code != ExitFailure || !strings.Contains(errs.String(), "interrupted") {
		t.Errorf("after the end of ctx: got exit %d, %q; want %d, interrupted", code, errs.String(), ExitFailure)
	}
}

func TestHelpNamesEveryCommand(t *testing.T) {
	t.Parallel()
	_, stdout, _ := run(t, Process{}, "help")
	for _, c := range commands() {
		if !strings.Contains(stdout, "\n  "+c.name+" ") {
			t.Errorf("help: got no line for %q in %q", c.name, stdout)
		}
		if strings.HasSuffix(c.short, ".") || c.short == "" {
			t.Errorf("command %q: got the line %q, want one without a full stop", c.name, c.short)
		}
	}
}

func TestNearest(t *testing.T) {
	t.Parallel()
	words := []string{"status", "mute", "volume", "mqtt.url", "mqtt.username"}
	for _, tc := range []struct{ name, word, want string }{
		{"same", "mute", "mute"},
		{"swapped", "sttaus", "status"},
		{"left out", "volme", "volume"},
		{"case", "MUTE", "mute"},
		{"too much", "volumenously", ""},
		{"nothing alike", "play", ""},
		{"short words need to be close", "x", ""},
		{"empty", "", ""},
		{"dotted near", "mqtt.usename", "mqtt.username"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			if got := nearest(tc.word, words); got != tc.want {
				t.Errorf("nearest(%q): got %q, want %q", tc.word, got, tc.want)
			}
		})
	}
}

func TestReachable(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct{ name, listen, want string }{
		{"loopback", "127.0.0.1:8780", "127.0.0.1:8780"},
		{"everywhere", ":8780", "127.0.0.1:8780"},
		{"everywhere, IPv4", "0.0.0.0:8780", "127.0.0.1:8780"},
		{"everywhere, IPv6", "[::]:8780", "[::1]:8780"},
		{"a name", "nas:8780", "nas:8780"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			if got := reachable(tc.listen); got != tc.want {
				t.Errorf("reachable(%q): got %q, want %q", tc.listen, got, tc.want)
			}
		})
	}
}
