package audio

import (
	"strings"
	"unicode"
	"unicode/utf8"
)

// maxText is the most bytes of a text that is taken from a medium.
const maxText = 1024

// cleanText makes a text from outside fit to be shown: valid UTF-8 on one line,
// of bounded length.
func cleanText(s string) string {
	if len(s) > maxText {
		cut := maxText
		for cut > 0 && !utf8.RuneStart(s[cut]) {
			cut--
		}
		s = s[:cut]
	}
	s = strings.ToValidUTF8(s, "\uFFFD")
	return strings.TrimSpace(strings.Map(func(r rune) rune {
		if unicode.IsControl(r) {
			return ' '
		}
		return r
	}, s))
}

// leadingInt is the number that a text like "3/12" or "1999-05-01" begins with;
// 0 if there is none, or none that a year or a track can be.
func leadingInt(s string) int {
	n := 0
	for _, r := range strings.TrimSpace(s) {
		if r < '0' || r > '9' || n > 9999 {
			break
		}
		n = n*10 + int(r-'0')
	}
	if n > 9999 {
		return 0
	}
	return n
}
