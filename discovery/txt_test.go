package discovery

import (
	"errors"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"

	"github.com/miekg/dns"
)

func TestParseTXT(t *testing.T) {
	long := strings.Repeat("x", 200)
	for _, tc := range []struct {
		name string
		txt  []string
		want txtRecord
		err  error
	}{
		{"both", []string{"path=/sendspin", "name=Kitchen"}, txtRecord{"/sendspin", "Kitchen"}, nil},
		{"keys in any case", []string{"PATH=/a", "Name=b"}, txtRecord{"/a", "b"}, nil},
		{"the first counts", []string{"path=/a", "path=/b", "name=c", "name=d"}, txtRecord{"/a", "c"}, nil},
		{"the first counts, also when it is bad", []string{"path=a", "path=/b"}, txtRecord{}, errNoPath},
		{"value with = and query", []string{"path=/a?player_id=1"}, txtRecord{"/a?player_id=1", ""}, nil},
		{"other keys", []string{"version=1", "=x", "", "path=/a"}, txtRecord{"/a", ""}, nil},
		{"escaped", []string{`path=/a\"b`, `name=K\195\188che \\ \"1\"`}, txtRecord{`/a"b`, `Küche \ "1"`}, nil},
		{"name not UTF-8", []string{"path=/a", `name=a\255b`}, txtRecord{"/a", "a\uFFFDb"}, nil},
		{"name with control characters", []string{"path=/a", `name=\010a\027b\000`}, txtRecord{"/a", "a b"}, nil},
		{"nothing", nil, txtRecord{}, errNoPath},
		{"no path", []string{"name=a"}, txtRecord{"", "a"}, errNoPath},
		{"path without value", []string{"path"}, txtRecord{}, errNoPath},
		{"relative path", []string{"path=sendspin"}, txtRecord{}, errNoPath},
		{"path with a line break", []string{`path=/a\013\010Host: x`}, txtRecord{}, errNoPath},
		{"path with a space", []string{"path=/a b"}, txtRecord{}, errNoPath},
		{"path not UTF-8", []string{`path=/\255`}, txtRecord{}, errNoPath},
		{"path too long", []string{"path=/" + strings.Repeat("x", maxPath)}, txtRecord{}, errNoPath},
		{"path beyond the limit of strings", append(make([]string, maxStrings), "path=/a"), txtRecord{}, errNoPath},
		{"path beyond the limit of bytes", append(strings.Split(strings.Repeat(long+" ", 25), " "), "path=/a"), txtRecord{}, errNoPath},
	} {
		t.Run(tc.name, func(t *testing.T) {
			got, err := parseTXT(tc.txt)
			if got != tc.want || !errors.Is(err, tc.err) {
				t.Errorf("got %+v, %v; want %+v, %v", got, err, tc.want, tc.err)
			}
		})
	}
}

func TestUnescape(t *testing.T) {
	for in, want := range map[string]string{
		"":                           "",
		"plain":                      "plain",
		`K\195\188che\ \(1\)`:        "Küche (1)",
		`a\.b`:                       "a.b",
		`\\`:                         `\`,
		`a\`:                         `a\`,
		`\99`:                        "99",
		`\999`:                       "999",
		`\240\159\142\181 \"music\"`: `🎵 "music"`,
	} {
		if got := unescape(in); got != want {
			t.Errorf("%q: got %q, want %q", in, got, want)
		}
	}
}

func TestCleanName(t *testing.T) {
	for _, tc := range []struct{ name, in, want string }{
		{"plain", "Küche (1)", "Küche (1)"},
		{"white space around", " \t a b \n", "a b"},
		{"long", strings.Repeat("x", 300), strings.Repeat("x", 256)},
		{"long, cut between runes", strings.Repeat("x", 255) + "🎵", strings.Repeat("x", 255)},
		{"only rubbish", "\x00\x01", ""},
	} {
		if got := cleanName(tc.in); got != tc.want {
			t.Errorf("%s: got %q, want %q", tc.name, got, tc.want)
		}
	}
}

func TestEscapeLabel(t *testing.T) {
	for _, tc := range []struct{ name, in, want string }{
		{"plain", "kit", "kit"},
		{"a dot", "a.b", `a\.b`},
		{"a dot at the end", "a.", `a\046`},
		{"backslash", `a\b`, `a\\b`},
		{"space, bracket, umlaut", "ü (1)", `\195\188\ \(1\)`},
		{"too long", strings.Repeat("ü", 40), strings.Repeat(`\195\188`, 31)},
	} {
		got, err := escapeLabel(tc.in)
		if got != tc.want || err != nil {
			t.Errorf("%s: got %q, %v; want %q", tc.name, got, err, tc.want)
		}
		if back := unescape(got); !strings.HasPrefix(tc.in, back) {
			t.Errorf("%s: back: got %q, want %q", tc.name, back, tc.in)
		}
	}
	for _, bad := range []string{"", "a\xff"} {
		if got, err := escapeLabel(bad); err == nil {
			t.Errorf("%q: got %q, want an error", bad, got)
		}
	}
}

func FuzzTXT(f *testing.F) {
	f.Add([]byte("path=/sendspin\x00name=Kitchen"))
	f.Add([]byte("path=/\\195\\188\x00NAME=a\\\"b\\"))
	f.Fuzz(func(t *testing.T, b []byte) {
		rec, err := parseTXT(strings.Split(string(b), "\x00"))
		if (err == nil) != strings.HasPrefix(rec.path, "/") {
			t.Errorf("path %q with error %v", rec.path, err)
		}
		if !utf8.ValidString(rec.path) || strings.ContainsFunc(rec.path, unicode.IsSpace) || len(rec.path) > maxPath {
			t.Errorf("path %q", rec.path)
		}
		if !utf8.ValidString(rec.name) || strings.ContainsFunc(rec.name, unicode.IsControl) || len(rec.name) > maxName {
			t.Errorf("name %q", rec.name)
		}
	})
}

// What is escaped comes back through the DNS library and unescape.
func FuzzEscape(f *testing.F) {
	f.Add("Küche (1). v2.")
	f.Add(`\..\"`)
	f.Add(strings.Repeat("0", 63) + "\x95")
	f.Fuzz(func(t *testing.T, s string) {
		label, err := escapeLabel(s)
		if err != nil {
			return
		}
		msg := dns.Msg{Answer: []dns.RR{&dns.TXT{
			Hdr: dns.RR_Header{Name: label + "._t._tcp.local.", Rrtype: dns.TypeTXT, Class: dns.ClassINET},
			Txt: []string{escapeString("name", s)},
		}}}
		b, err := msg.Pack()
		if err != nil {
			t.Fatalf("pack %q: %v", label, err)
		}
		if err := msg.Unpack(b); err != nil {
			t.Fatalf("unpack %q: %v", label, err)
		}
		if n := dns.CountLabel(msg.Answer[0].Header().Name); n != 4 {
			t.Errorf("%q: got %d labels, want 4", label, n)
		}
		at, _ := dns.NextLabel(msg.Answer[0].Header().Name, 0)
		if got, want := unescape(msg.Answer[0].Header().Name[:at-1]), cut(s, maxLabel); got != want {
			t.Errorf("label: got %q, want %q", got, want)
		}
		txt, ok := msg.Answer[0].(*dns.TXT)
		if !ok || len(txt.Txt) != 1 {
			t.Fatalf("got %v, want one string", msg.Answer[0])
		}
		if got, want := unescape(txt.Txt[0]), cut("name="+s, maxString); got != want {
			t.Errorf("string: got %q, want %q", got, want)
		}
	})
}
