package mqtt

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestOptionsURL(t *testing.T) {
	for _, tc := range []struct {
		name, url string
		want      string // the URL dialled, or a part of the error after "!"
	}{
		{"mqtt", "mqtt://host", "mqtt://host:1883"},
		{"mqtt with port and slash", "mqtt://host:1884/", "mqtt://host:1884"},
		{"mqtts", "mqtts://host", "mqtts://host:8883"},
		{"ws", "ws://host", "ws://host:80/mqtt"},
		{"wss with path", "wss://host/", "wss://host:443/"},
		{"IPv6", "mqtt://[::1]", "mqtt://[::1]:1883"},
		{"login in the URL is taken out", "mqtt://me:secret@host", "mqtt://host:1883"},
		{"empty", "", "!no broker URL"},
		{"no scheme", "192.168.1.2:1883", "!write mqtt://192.168.1.2:1883"},
		{"tcp", "tcp://host", "!write mqtt://"},
		{"ssl", "ssl://host", "!write mqtts://"},
		{"http", "http://host", "!write ws://"},
		{"unknown scheme", "coap://host", "!allowed are mqtt, mqtts, ws and wss"},
		{"no host", "mqtt://", "!host is missing"},
		{"no host but a port", "mqtt://:1883", "!host is missing"},
		{"path", "mqtt://host/path", "!no path"},
		{"query", "mqtt://host?x=1", "!must have no ?"},
		{"bad port", "mqtt://me:secret@host:port", "!invalid port"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			b, err := newBroker(Options{URL: tc.url})
			if want, wrong := strings.CutPrefix(tc.want, "!"); wrong {
				if err == nil || !strings.Contains(err.Error(), want) {
					t.Errorf("got error %v, want %q in it", err, want)
				} else if strings.Contains(err.Error(), "secret") {
					t.Errorf("the error shows the password: %v", err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if got := b.url.String(); got != tc.want {
				t.Errorf("got %s, want %s", got, tc.want)
			}
		})
	}
}

func TestOptionsLogin(t *testing.T) {
	for _, tc := range []struct {
		name       string
		o          Options
		user, pass string
	}{
		{"none", Options{URL: "mqtt://host"}, "", ""},
		{"from the URL", Options{URL: "mqtt://me:p%40ss@host"}, "me", "p@ss"},
		{"the options win", Options{URL: "mqtt://me:pass@host", Username: "you", Password: "word"}, "you", "word"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			b, err := newBroker(tc.o)
			if err != nil {
				t.Fatal(err)
			}
			if b.Username != tc.user || b.Password != tc.pass {
				t.Errorf("got %q %q, want %q %q", b.Username, b.Password, tc.user, tc.pass)
			}
		})
	}
}

func TestOptionsRefused(t *testing.T) {
	empty := filepath.Join(t.TempDir(), "empty.pem")
	if err := os.WriteFile(empty, []byte("nothing"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		name string
		o    Options
		want string
	}{
		{"certificates without TLS", Options{URL: "mqtt://host", CAFile: empty}, "write mqtts://"},
		{"missing CA file", Options{URL: "mqtts://host", CAFile: "missing.pem"}, "missing.pem"},
		{"CA file without a certificate", Options{URL: "mqtts://host", CAFile: empty}, "holds no PEM certificate"},
		{"certificate without key", Options{URL: "mqtts://host", CertFile: empty}, "key file"},
		{"bad certificate", Options{URL: "mqtts://host", CertFile: empty, KeyFile: empty}, "client certificate"},
		{"password without user", Options{URL: "mqtt://host", Password: "x"}, "user name"},
		{"long client id", Options{URL: "mqtt://host", ClientID: strings.Repeat("x", 24)}, "at most 23"},
		{"odd client id", Options{URL: "mqtt://host", ClientID: "a_b"}, "not one of"},
		{"tiny payload", Options{URL: "mqtt://host", MaxPayload: 63}, "at least 64"},
		{"will on a wildcard", Options{URL: "mqtt://host", Will: Message{Topic: "a/+"}}, "will"},
		{"self-test on a wildcard", Options{URL: "mqtt://host", SelftestTopic: "a/#"}, "self-test"},
		{"bad filter", Options{URL: "mqtt://host", Subscriptions: []string{"a/#/b"}}, "filter"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			_, err := New(tc.o)
			if err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("got %v, want %q in it", err, tc.want)
			}
		})
	}
}

func TestOptionsDefaultClientID(t *testing.T) {
	a, err := newBroker(Options{URL: "mqtt://host"})
	if err != nil {
		t.Fatal(err)
	}
	b, err := newBroker(Options{URL: "mqtt://host"})
	if err != nil {
		t.Fatal(err)
	}
	if a.ClientID == b.ClientID || len(a.ClientID) > maxClientID {
		t.Errorf("got %q and %q, want two short ones", a.ClientID, b.ClientID)
	}
}

func TestTopics(t *testing.T) {
	for _, tc := range []struct {
		name           string
		topic          string
		topic1, filter bool
	}{
		{"plain", "base/player/x/state", true, true},
		{"spaces and letters", "base/Küche 1/x", true, true},
		{"empty levels", "/a//b/", true, true},
		{"empty", "", false, false},
		{"plus", "base/+/state", false, true},
		{"plus in a level", "base/a+/state", false, false},
		{"hash", "base/#", false, true},
		{"hash alone", "#", false, true},
		{"hash in a level", "base/a#", false, false},
		{"hash not at the end", "base/#/a", false, false},
		{"NUL", "base/\x00", false, false},
		{"control character", "base/\n", false, false},
		{"noncharacter", "base/\uffff", false, false},
		{"not UTF-8", "base/\xff", false, false},
		{"the broker's own", "$SYS/x", false, true},
		{"longest", strings.Repeat("x", 65535), true, true},
		{"too long", strings.Repeat("x", 65536), false, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if err := checkTopic(tc.topic); (err == nil) != tc.topic1 {
				t.Errorf("as a topic: got %v, want allowed %v", err, tc.topic1)
			}
			if err := checkFilter(tc.topic); (err == nil) != tc.filter {
				t.Errorf("as a filter: got %v, want allowed %v", err, tc.filter)
			}
		})
	}
}

// FuzzOptionsSecrets looks for a password in what people get to see.
func FuzzOptionsSecrets(f *testing.F) {
	const secret = "S3CR3T"
	for _, url := range []string{"mqtt://me:%s@host", "mqtt://me:%s@host:x", "me:%s@host", "mqtt://%s", "x://me:%s@[::1", "mqtt://me:%s@host/%%zz", "://%s@"} {
		f.Add(url)
	}
	f.Fuzz(func(t *testing.T, pattern string) {
		if strings.Count(pattern, "%s@") != 1 || strings.ContainsAny(pattern[:strings.Index(pattern, "%s@")], "/@") &&
			!strings.HasPrefix(pattern, "mqtt://") || strings.Contains(pattern, secret) {
			t.Skip("the secret is not where a password stands")
		}
		at := strings.Index(pattern, "%s@")
		user := strings.TrimPrefix(pattern[:at], "mqtt://")
		if strings.ContainsAny(user, "/?#@") || strings.Contains(pattern[at:], "://") {
			t.Skip("the secret is not where a password stands")
		}
		o := Options{URL: pattern[:at] + secret + pattern[at+2:], Password: secret, Username: "me"}
		shown := fmt.Sprintf("%v %+v %#v %s", o, o, o, o.LogValue())
		if _, err := New(o); err != nil {
			shown += err.Error()
		}
		if strings.Contains(shown, secret) {
			t.Errorf("URL %q: the password shows in %q", o.URL, shown)
		}
	})
}

func TestMatch(t *testing.T) {
	for _, tc := range []struct {
		filter, topic string
		want          bool
	}{
		{"a/b", "a/b", true},
		{"a/b", "a/c", false},
		{"a/b", "a", false},
		{"a", "a/b", false},
		{"+", "a", true},
		{"+", "a/b", false},
		{"+/+", "/a", true},
		{"+", "/a", false},
		{"a/+/c", "a/b/c", true},
		{"a/+/c", "a//c", true},
		{"a/+", "a", false},
		{"#", "a/b/c", true},
		{"a/#", "a", true},
		{"a/#", "a/b/c", true},
		{"a/#", "b", false},
		{"a/+/#", "a", false},
		{"a/+/#", "a/b", true},
		{"#", "$SYS/x", false},
		{"+/x", "$SYS/x", false},
		{"$SYS/#", "$SYS/x", true},
	} {
		t.Run(tc.filter+" "+tc.topic, func(t *testing.T) {
			if got := match(tc.filter, tc.topic); got != tc.want {
				t.Errorf("got %v, want %v", got, tc.want)
			}
		})
	}
}
