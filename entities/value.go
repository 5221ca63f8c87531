package entities

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"resonatebridge/resonate"
)

// value is one field of a command as it arrived: a whole scalar payload, or the
// raw JSON of one key.
type value struct {
	field string
	text  string
	json  bool
}

// wrong is the error of a value that isn't what was wanted. It names the field,
// the value and what to send instead.
func (v value) wrong(want string) *resonate.CommandError {
	return resonate.Errorf(resonate.CodeInvalidValue, "%s: got %s, want %s", v.field, v.show(), want)
}

// show is the value for people.
func (v value) show() string {
	if !v.json {
		return quote(v.text)
	}
	if strings.HasPrefix(v.text, `"`) {
		return "the text " + cut(v.text, maxShown)
	}
	return cut(v.text, maxShown)
}

// maxShown is how many characters of a value an error repeats.
const maxShown = 60

func quote(s string) string { return strconv.Quote(cut(s, maxShown)) }

// integer is a whole number from lo to hi. JSON has to hold a number, not a
// text; 30.0 is whole.
func (v value) integer(lo, hi int) (int, *resonate.CommandError) {
	want := fmt.Sprintf("a whole number from %d to %d", lo, hi)
	if v.json && strings.HasPrefix(v.text, `"`) {
		return 0, v.wrong(want + " without quotes")
	}
	text := strings.TrimSpace(v.text)
	if strings.Trim(text, "0123456789.-+eE") != "" {
		return 0, v.wrong(want) // ParseFloat would take inf, nan and 0x10
	}
	f, err := strconv.ParseFloat(text, 64)
	if err != nil || f != math.Trunc(f) || f < float64(lo) || f > float64(hi) {
		return 0, v.wrong(want)
	}
	return int(f), nil
}

// string is a text: the scalar itself, or a JSON string. NUL is refused.
func (v value) string(want string) (string, *resonate.CommandError) {
	s := v.text
	if v.json {
		if !strings.HasPrefix(s, `"`) || json.Unmarshal([]byte(s), &s) != nil {
			return "", v.wrong(want)
		}
	}
	if strings.ContainsRune(s, 0) {
		return "", resonate.Errorf(resonate.CodeInvalidValue, "%s: %s holds a NUL character, want %s", v.field, quote(s), want)
	}
	return s, nil
}

// trigger is a field that only has to be there: any scalar, or JSON true.
func (v value) trigger() *resonate.CommandError {
	if v.json && v.text != "true" {
		return v.wrong("true")
	}
	return nil
}

// list is a JSON array of texts; one text alone counts as a list of one. A
// scalar may also separate them with commas.
func (v value) list() ([]string, *resonate.CommandError) {
	const want = `a list of speakers, like ["kitchen", "hall"]`
	isArray := strings.HasPrefix(strings.TrimSpace(v.text), "[")
	if !isArray && v.json {
		s, err := v.string(want)
		if err != nil {
			return nil, err
		}
		return []string{s}, nil
	}
	items := []string{}
	if !isArray {
		for item := range strings.SplitSeq(v.text, ",") {
			if item = strings.TrimSpace(item); item != "" {
				items = append(items, item)
			}
		}
		return items, nil
	}
	var raw []json.RawMessage
	if json.Unmarshal([]byte(v.text), &raw) != nil {
		return nil, v.wrong(want)
	}
	for i, r := range raw {
		s, err := value{fmt.Sprintf("%s[%d]", v.field, i), string(r), true}.string("a text")
		if err != nil {
			return nil, err
		}
		items = append(items, s)
	}
	return items, nil
}

// pair is one key of a JSON object.
type pair struct {
	key string
	raw json.RawMessage
}

// object splits a JSON object, in order. Anything else, a key that comes twice
// and text after the object are errors.
func object(payload []byte) ([]pair, *resonate.CommandError) {
	fail := func(format string, args ...any) ([]pair, *resonate.CommandError) {
		return nil, resonate.Errorf(resonate.CodeInvalidJSON, format, args...)
	}
	if err := checkText(payload); err != "" {
		return fail("the payload %s; send JSON in UTF-8", err)
	}
	shown := quote(string(payload))
	if mayHoldSecret(string(payload)) {
		shown = "the payload"
	}
	dec := json.NewDecoder(bytes.NewReader(payload))
	if t, err := dec.Token(); err != nil || t != json.Delim('{') {
		return fail(`got %s, want a JSON object like {"volume": 25}`, shown)
	}
	var pairs []pair
	for dec.More() {
		key, err := dec.Token()
		if err != nil {
			return fail("%s is not valid JSON: %v", shown, err)
		}
		p := pair{key: key.(string)} // inside an object, a token before a value is a string
		if err := dec.Decode(&p.raw); err != nil {
			return fail("%s is not valid JSON at %s: %v", shown, quote(p.key), err)
		}
		if slices.ContainsFunc(pairs, func(q pair) bool { return q.key == p.key }) {
			return fail("the key %s comes twice", quote(p.key))
		}
		pairs = append(pairs, p)
	}
	if _, err := dec.Token(); err != nil {
		return fail("%s is not valid JSON: %v", shown, err)
	}
	if _, err := dec.Token(); err != io.EOF {
		return fail("%s goes on after the JSON object", shown)
	}
	return pairs, nil
}

// checkText says what keeps a payload from being text; empty if nothing does.
func checkText(payload []byte) string {
	for i := 0; i < len(payload); {
		r, size := utf8.DecodeRune(payload[i:])
		if r == utf8.RuneError && size == 1 {
			return fmt.Sprintf("is not valid UTF-8: byte %d is 0x%02x", i+1, payload[i])
		}
		if r == 0 {
			return fmt.Sprintf("holds a NUL at byte %d", i+1)
		}
		i += size
	}
	return ""
}

// unknown is the error of a word that isn't one of known; kind says what the
// word is.
func unknown(kind, word string, known []string) *resonate.CommandError {
	if near := nearest(word, known); near != "" {
		return resonate.Errorf(resonate.CodeUnknownCommand, "unknown %s %s; did you mean %q?", kind, quote(word), near)
	}
	return resonate.Errorf(resonate.CodeUnknownCommand, "unknown %s %s; there are %s", kind, quote(word), strings.Join(known, ", "))
}

// nearest is the word of known that is closest to word, if it is close enough
// to be meant.
func nearest(word string, known []string) string {
	if len(word) > maxShown {
		return ""
	}
	best, distance := "", max(2, len(word)/3)+1
	for _, k := range known {
		if d := edits(strings.ToLower(word), strings.ToLower(k)); d < distance {
			best, distance = k, d
		}
	}
	return best
}

// edits is the Levenshtein distance of a and b in bytes.
func edits(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := diagonal
			if a[i] != b[j] {
				cost++
			}
			diagonal = row[j+1]
			row[j+1] = min(cost, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}
