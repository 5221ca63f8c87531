package dialect

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"resonatebridge/resonate/protocol"
)

// Bounds on what a peer may make us keep.
const (
	maxText    = 256 // bytes of a text for people
	maxID      = 128 // bytes of an id
	maxQuoted  = 64  // bytes of a peer's text in an error
	maxEntries = 64  // entries of a list
	maxNotes   = 64  // kinds of deviations told apart on one socket
)

// notes collects deviations that were accepted, each kind once.
type notes struct {
	seen    map[string]struct{}
	pending []string
}

// add notes a deviation. kind tells it from others; it must come from a small
// set, so it holds no values.
func (n *notes) add(kind, format string, args ...any) {
	if n == nil {
		return
	}
	if _, told := n.seen[kind]; told || len(n.seen) >= maxNotes {
		return
	}
	if n.seen == nil {
		n.seen = make(map[string]struct{})
	}
	n.seen[kind] = struct{}{}
	n.pending = append(n.pending, fmt.Sprintf(format, args...))
}

// take returns the new notes and forgets them.
func (n *notes) take() []string {
	p := n.pending
	n.pending = nil
	return p
}

// object is a JSON object of a peer. Keys match exactly, the last of equal keys
// counts, unknown keys are ignored, and null is the same as absent. It is
// decoded level by level, so only what is asked for is looked at.
type object struct {
	msg    string // message type, for errors
	prefix string // path of the object in the payload, "" or ending in a dot
	fields map[string]json.RawMessage
	notes  *notes // may be nil
}

func (o object) path(key string) string { return o.prefix + key }

// bad makes the error for the value at key.
func (o object) bad(key, want string) *protocol.DecodeError {
	got := "nothing"
	if raw, ok := o.get(key); ok {
		got = quoteJSON(raw)
	}
	return &protocol.DecodeError{Msg: o.msg, At: o.path(key), Got: got, Want: want}
}

// note records a deviation at key. what is its kind.
func (o object) note(key, what, format string, args ...any) {
	at := o.path(key)
	o.notes.add(o.msg+" "+at+" "+what, "%s: %s: "+format, append([]any{o.msg, at}, args...)...)
}

// get returns the value at key unless it is absent or null.
func (o object) get(key string) (json.RawMessage, bool) {
	raw, ok := o.fields[key]
	if !ok || bytes.Equal(raw, []byte("null")) {
		return nil, false
	}
	return raw, true
}

// has reports whether key is there and not null.
func (o object) has(key string) bool {
	_, ok := o.get(key)
	return ok
}

// cleared reports whether key is there and null.
func (o object) cleared(key string) bool {
	raw, ok := o.fields[key]
	return ok && bytes.Equal(raw, []byte("null"))
}

// object returns the object at key.
func (o object) object(key string) (object, bool, error) {
	sub := object{msg: o.msg, prefix: o.path(key) + ".", notes: o.notes}
	raw, ok := o.get(key)
	if !ok {
		return sub, false, nil
	}
	if raw[0] != '{' || json.Unmarshal(raw, &sub.fields) != nil {
		return sub, false, o.bad(key, "an object")
	}
	return sub, true, nil
}

// text returns the text at key, "" if it is absent.
func (o object) text(key string) (string, error) {
	raw, ok := o.get(key)
	if !ok {
		return "", nil
	}
	s, ok := asText(raw)
	if !ok {
		return "", o.bad(key, "a text")
	}
	return s, nil
}

// label returns a text for people: without control characters, at most maxText
// bytes. What is no text counts as absent.
func (o object) label(key string) string {
	s, err := o.text(key)
	if err != nil {
		o.note(key, "no text", "%v", err)
	}
	return clean(s, maxText)
}

// boolean returns the boolean at key, nil if it is absent. Numbers are none.
func (o object) boolean(key string) (*bool, error) {
	raw, ok := o.get(key)
	if !ok {
		return nil, nil
	}
	switch string(raw) {
	case "true":
		v := true
		return &v, nil
	case "false":
		v := false
		return &v, nil
	}
	return nil, o.bad(key, "true or false")
}

// number returns the number at key as an integer from lo to hi, nil if it is
// absent. Fractions are rounded half up and what is outside is clamped, as
// sendspin-dotnet reports delays as floats and old bridges report negative
// ones. A number in a text is dropped, anything else is an error.
func (o object) number(key string, lo, hi int) (*int, error) {
	raw, ok := o.get(key)
	if !ok {
		return nil, nil
	}
	want := fmt.Sprintf("a number from %d to %d", lo, hi)
	if s, ok := asText(raw); ok {
		if _, err := strconv.ParseFloat(s, 64); err != nil {
			return nil, o.bad(key, want)
		}
		o.note(key, "number in a text", "got %s, want %s: ignored", quoteJSON(raw), want)
		return nil, nil
	}
	f, err := strconv.ParseFloat(string(raw), 64)
	if err != nil || !isNumber(raw) {
		return nil, o.bad(key, want)
	}
	v := math.Floor(f + 0.5)
	if v != f {
		o.note(key, "fraction", "got %s, want an integer: rounded", quoteJSON(raw))
	}
	if v < float64(lo) || v > float64(hi) {
		o.note(key, "range", "got %s, want %s: clamped", quoteJSON(raw), want)
	}
	n := int(min(max(v, float64(lo)), float64(hi)))
	return &n, nil
}

// micros returns the time stamp at key, which must be there. Integers are
// exact; other numbers are rounded.
func (o object) micros(key string) (int64, error) {
	const want = "a time in microseconds"
	raw, ok := o.get(key)
	if !ok {
		return 0, o.bad(key, want)
	}
	if v, err := strconv.ParseInt(string(raw), 10, 64); err == nil {
		return v, nil
	}
	f, err := strconv.ParseFloat(string(raw), 64)
	if err != nil || !isNumber(raw) || math.Abs(f) >= 1<<62 {
		return 0, o.bad(key, want)
	}
	return int64(math.Floor(f + 0.5)), nil
}

// list returns the entries of the list at key; ok is false if it is absent.
// More than maxEntries are cut.
func (o object) list(key string) (entries []json.RawMessage, ok bool, err error) {
	raw, ok := o.get(key)
	if !ok {
		return nil, false, nil
	}
	if raw[0] != '[' || json.Unmarshal(raw, &entries) != nil {
		return nil, false, o.bad(key, "a list")
	}
	if len(entries) > maxEntries {
		o.note(key, "length", "%d entries, only the first %d count", len(entries), maxEntries)
		entries = entries[:maxEntries]
	}
	return entries, true, nil
}

// texts returns the texts of the list at key, nil if it is absent. Other
// entries are skipped.
func (o object) texts(key string) ([]string, error) {
	entries, ok, err := o.list(key)
	if err != nil || !ok {
		return nil, err
	}
	out := make([]string, 0, len(entries))
	for _, raw := range entries {
		if s, ok := asText(raw); ok {
			out = append(out, s)
		} else {
			o.note(key, "entry", "got %s, want a text: skipped", quoteJSON(raw))
		}
	}
	return out, nil
}

// objects returns the objects of the list at key. Other entries stand as empty
// objects, since some lists are positional.
func (o object) objects(key string) ([]object, error) {
	entries, ok, err := o.list(key)
	if err != nil || !ok {
		return nil, err
	}
	out := make([]object, len(entries))
	for i, raw := range entries {
		out[i] = object{msg: o.msg, prefix: o.path(key) + "[].", notes: o.notes}
		if json.Unmarshal(raw, &out[i].fields) != nil {
			o.note(key, "entry", "got %s, want an object: skipped", quoteJSON(raw))
			out[i].fields = nil
		}
	}
	return out, nil
}

// envelope splits a text frame into its type and payload. An absent payload is
// an empty one.
func envelope(data []byte, n *notes) (typ string, payload object, err error) {
	o := object{msg: "text frame", notes: n}
	if !utf8.Valid(data) {
		return "", o, &protocol.DecodeError{Msg: o.msg, At: "encoding", Got: "invalid UTF-8", Want: "UTF-8"}
	}
	if json.Unmarshal(data, &o.fields) != nil || o.fields == nil {
		return "", o, &protocol.DecodeError{Msg: o.msg, At: "envelope", Got: strconv.Quote(cut(string(data), maxQuoted)), Want: "a JSON object with type and payload"}
	}
	typ, err = o.text("type")
	if err == nil && typ == "" {
		err = o.bad("type", "a text")
	}
	if err != nil {
		return "", o, err
	}
	o.msg = strconv.Quote(cut(typ, maxQuoted))
	if known(typ) {
		o.msg = typ
	}
	payload, _, err = o.object("payload")
	payload.prefix = ""
	return typ, payload, err
}

// known reports whether a message type is safe to stand in a log as it is.
func known(typ string) bool {
	return len(typ) <= maxQuoted && strings.IndexFunc(typ, func(r rune) bool {
		return (r < 'a' || r > 'z') && r != '/' && r != '-' && r != '_'
	}) < 0
}

func asText(raw json.RawMessage) (string, bool) {
	var s string
	if raw[0] != '"' || json.Unmarshal(raw, &s) != nil {
		return "", false
	}
	return s, true
}

// isNumber reports whether raw is a JSON number, not one of the names that
// strconv takes for one.
func isNumber(raw json.RawMessage) bool { return raw[0] == '-' || raw[0] >= '0' && raw[0] <= '9' }

// quoteJSON shows a value in an error: texts quoted, all cut.
func quoteJSON(raw json.RawMessage) string {
	switch raw[0] {
	case '{':
		return "an object"
	case '[':
		return "a list"
	}
	if s, ok := asText(raw); ok {
		return strconv.Quote(cut(s, maxQuoted))
	}
	return cut(string(raw), maxQuoted)
}

// cut shortens s to at most n bytes at the border of a character.
func cut(s string, n int) string {
	if len(s) <= n {
		return s
	}
	for n > 0 && !utf8.RuneStart(s[n]) {
		n--
	}
	return s[:n]
}

// clean takes control characters and outer spaces away and cuts to n bytes.
func clean(s string, n int) string {
	s = strings.Map(func(r rune) rune {
		if unicode.IsControl(r) {
			return -1
		}
		return r
	}, s)
	return cut(strings.TrimSpace(s), n)
}

// text makes a text frame. payload is one of this package's own types, which
// all can be marshalled.
func text(typ string, payload any) Frame {
	data, err := json.Marshal(struct {
		Type    string `json:"type"`
		Payload any    `json:"payload"`
	}{typ, payload})
	if err != nil {
		panic("dialect: " + typ + ": " + err.Error()) // a type of ours that JSON can't hold
	}
	return Frame{Data: data}
}
