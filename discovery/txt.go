package discovery

import (
	"errors"
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/miekg/dns"
)

// Limits on what strangers may say about themselves (choice: generous against
// every device seen, small against a flood).
const (
	maxName    = 256  // bytes of a name for people
	maxPath    = 512  // bytes of TXT path
	maxTXT     = 4096 // bytes of TXT data looked at; the rest is skipped
	maxStrings = 64   // TXT strings looked at
	maxLabel   = 63   // bytes of one DNS label (RFC 1035 2.3.4)
	maxString  = 255  // bytes of one TXT string (RFC 1035 3.3)
)

var errNoPath = errors.New(`no TXT path that begins with "/"`)

// txtRecord is what the protocol puts in TXT.
type txtRecord struct {
	path string // begins with "/"
	name string // may be empty
}

// parseTXT reads the strings of a TXT record, in the presentation form that the
// DNS library hands out. Keys match in any case and the first of equal keys
// counts (RFC 6763 6.4). The name is returned also with errNoPath.
func parseTXT(txt []string) (txtRecord, error) {
	var (
		rec              txtRecord
		size             int
		hasPath, hasName bool
	)
	for i, s := range txt {
		if size += len(s); i >= maxStrings || size > maxTXT {
			break
		}
		key, value, ok := strings.Cut(unescape(s), "=")
		switch key = strings.ToLower(key); {
		case key == "path" && !hasPath:
			hasPath = true
			if ok && isPath(value) {
				rec.path = value
			}
		case key == "name" && !hasName:
			hasName = true
			rec.name = cleanName(value)
		}
	}
	if rec.path == "" {
		return rec, errNoPath
	}
	return rec, nil
}

// isPath reports whether s can stand in an HTTP request line.
func isPath(s string) bool {
	return strings.HasPrefix(s, "/") && len(s) <= maxPath && utf8.ValidString(s) &&
		!strings.ContainsFunc(s, func(r rune) bool { return r == '#' || unicode.IsSpace(r) || unicode.IsControl(r) })
}

// cleanName makes s fit for people: valid UTF-8, no control characters, no
// white space around it, at most 256 bytes.
func cleanName(s string) string {
	s = strings.ToValidUTF8(s, "\uFFFD")
	s = strings.Map(func(r rune) rune {
		if unicode.IsControl(r) {
			return ' '
		}
		return r
	}, s)
	return strings.TrimSpace(cut(strings.TrimSpace(s), maxName))
}

// cut shortens valid UTF-8 to at most n bytes without splitting a rune.
func cut(s string, n int) string {
	if len(s) <= n {
		return s
	}
	for n > 0 && !utf8.RuneStart(s[n]) {
		n--
	}
	return s[:n]
}

// unescape turns DNS presentation form (RFC 1035 5.1) into the bytes meant:
// `K\195\188che\ \(1\)` into `Küche (1)`.
func unescape(s string) string {
	if strings.IndexByte(s, '\\') < 0 {
		return s
	}
	b := make([]byte, 0, len(s))
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+1 < len(s) {
			if i+3 < len(s) && isDigit(s[i+1]) && isDigit(s[i+2]) && isDigit(s[i+3]) {
				if n := int(s[i+1]-'0')*100 + int(s[i+2]-'0')*10 + int(s[i+3]-'0'); n < 256 {
					b, i = append(b, byte(n)), i+3
					continue
				}
			}
			i++
		}
		b = append(b, s[i])
	}
	return string(b)
}

func isDigit(c byte) bool { return '0' <= c && c <= '9' }

// escapeLabel is unescape's inverse for one label, in exactly the form in which
// the DNS library presents it, since advertiser and question are compared byte
// by byte. More than 63 bytes are cut.
func escapeLabel(s string) (string, error) {
	if s == "" || !utf8.ValidString(s) {
		return "", fmt.Errorf("instance name %q: want 1 to %d bytes of UTF-8", s, maxLabel)
	}
	s = cut(s, maxLabel)
	wire := append([]byte{byte(len(s))}, s...)
	name, _, err := dns.UnpackDomainName(append(wire, 0), 0)
	if err != nil {
		return "", fmt.Errorf("instance name %q: %w", s, err)
	}
	name = strings.TrimSuffix(name, ".")
	if before, ok := strings.CutSuffix(name, `\.`); ok {
		name = before + `\046` // the advertiser trims dots from the end of its argument
	}
	return name, nil
}

// escapeString makes one TXT string that says key=value; what exceeds 255
// bytes is cut off.
func escapeString(key, value string) string {
	return strings.ReplaceAll(cut(key+"="+strings.ToValidUTF8(value, "\uFFFD"), maxString), `\`, `\\`)
}
