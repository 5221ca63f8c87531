package app

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/spf13/pflag"
	"go.yaml.in/yaml/v3"
)

// maxConfigFile bounds a configuration file, in bytes.
const maxConfigFile = 1 << 20

// rawKind is what a source wrote: the types of YAML and JSON in common.
type rawKind uint8

const (
	rawNull rawKind = iota
	rawText
	rawNumber
	rawBool
	rawList
	rawMap
)

func (k rawKind) String() string {
	return [...]string{"nothing", "text", "a number", "true or false", "a list", "a section"}[k]
}

// raw is one value as its source wrote it. Scalars keep their spelling: 0644,
// 70000.9 and 007 would be other values after a YAML decoder had read them.
type raw struct {
	kind   rawKind
	text   string // of scalars
	list   []raw
	fields []rawField // in the order of the source
	from   string
}

type rawField struct {
	key   string
	value raw
}

// setting is one checked value of one source.
type setting struct {
	path  string // parts joined by keyDelim
	value any    // string, bool, int or []string
	from  string
}

type layer []setting

// reader turns sources into layers and collects what is wrong with them.
type reader struct {
	keys     []configKey
	problems []Problem
}

func (r *reader) report(key, value, from, format string, args ...any) {
	r.problems = append(r.problems, Problem{Key: key, Value: value, From: from, Text: fmt.Sprintf(format, args...)})
}

// optionsLayer reads the app options. The Supervisor's forms send an empty
// text for what was left out.
func (r *reader) optionsLayer(name string) layer {
	if name == "" {
		return nil
	}
	data, err := readLimited(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		r.report("", "", name, "%v", err)
		return nil
	}
	v, err := parseJSON(data, name)
	if err != nil {
		r.report("", "", name, "is not valid JSON: %v", err)
		return nil
	}
	return r.section(nil, "", v, true)
}

func (r *reader) fileLayer(name, from string) layer {
	if name == "" {
		if from != "" {
			r.report("", "", from, "names no file")
		}
		return nil
	}
	data, err := readLimited(name)
	if err != nil {
		if from == "" {
			from = "configuration file"
		}
		r.report("", "", from, "%v", err)
		return nil
	}
	v, err := parseYAML(data, filepath.Base(name))
	if err != nil {
		r.report("", "", name, "%v", err)
		return nil
	}
	return r.section(nil, "", v, false)
}

// envLayer looks each variable up in the table of keys. Splitting the name at
// "_" would be ambiguous: RESONATE_MQTT_CA_FILE is mqtt.ca_file.
func (r *reader) envLayer(env []string) layer {
	byName := map[string]configKey{}
	var names []string
	for _, k := range r.keys {
		byName[k.env()] = k
		names = append(names, k.env())
		if k.kind == kindSecret {
			names = append(names, k.env()+"_FILE")
		}
	}
	var out layer
	seen := map[string]string{}
	for _, entry := range env {
		name, value, _ := strings.Cut(entry, "=")
		if !strings.HasPrefix(name, "RESONATE_") || value == "" {
			continue
		}
		from := "environment variable " + name
		k, ok := byName[name]
		if base, isFile := strings.CutSuffix(name, "_FILE"); !ok && isFile {
			if k, ok = byName[base]; ok && k.kind == kindSecret {
				text, err := readSecret(value)
				if err != nil {
					r.report(k.name, "", from, "%v", err)
					continue
				}
				value = text
			} else {
				ok = false
			}
		}
		if !ok {
			r.report("", "", from, "%s", unknownVariable(name, names))
			continue
		}
		if other := seen[k.name]; other != "" {
			r.report(k.name, "", from, "%s sets it as well; keep one of them", other)
			continue
		}
		seen[k.name] = from
		out = r.leaf(out, k, raw{kind: rawText, text: value, from: from})
	}
	return out
}

func unknownVariable(name string, names []string) string {
	if name == "RESONATE_CONFIG" || name == "RESONATE_CONFIG_FILE" {
		return "unknown variable; the configuration file is named by the flag --config FILE"
	}
	if n := nearest(name, names); n != "" {
		return "unknown variable; did you mean " + n + "?"
	}
	return "unknown variable; the name is RESONATE_ and the key in capitals with _ for the dots, such as RESONATE_MQTT_URL for mqtt.url"
}

func (r *reader) flagLayer(flags *pflag.FlagSet) layer {
	if flags == nil {
		return nil
	}
	var out layer
	for _, f := range []struct{ flag, key string }{{"log-level", "log.level"}, {"log-format", "log.format"}} {
		if got := flags.Lookup(f.flag); got != nil && got.Changed {
			k, _ := findKey(r.keys, f.key)
			out = r.leaf(out, k, raw{kind: rawText, text: got.Value.String(), from: "flag --" + f.flag})
		}
	}
	return out
}

// section appends what v, a map, sets below prefix ("" or ending in a dot).
// With emptyUnset an empty text sets nothing; null never does.
func (r *reader) section(out layer, prefix string, v raw, emptyUnset bool) layer {
	if v.kind == rawNull {
		return out
	}
	if v.kind != rawMap {
		r.report(strings.TrimSuffix(prefix, "."), v.show(), v.from, "is %s, want a section with %s", v.kind, r.below(prefix))
		return out
	}
	seen := map[string]string{}
	for _, f := range v.fields {
		name := prefix + f.key
		if other := seen[f.key]; other != "" {
			r.report(name, f.value.showUnless(looksSecret(name)), f.value.from, "stands twice, first in %s; keep one of them", other)
			continue
		}
		seen[f.key] = f.value.from
		k, isKey := findKey(r.keys, name)
		switch {
		case isKey && !strings.Contains(f.key, "."):
			if f.value.kind == rawNull || emptyUnset && f.value.kind == rawText && f.value.text == "" {
				continue
			}
			out = r.leaf(out, k, f.value)
		case isKey:
			parent, leaf, _ := strings.Cut(f.key, ".")
			r.report(name, f.value.showUnless(k.kind == kindSecret), f.value.from,
				"keys are nested in files: write %s: and, indented below it, %s:", prefix+parent, leaf)
		case !strings.Contains(f.key, ".") && r.isSection(name):
			out = r.section(out, name+".", f.value, emptyUnset)
		default:
			r.unknown(prefix, name, f.value)
		}
	}
	return out
}

func (r *reader) isSection(name string) bool {
	return slices.ContainsFunc(r.keys, func(k configKey) bool { return strings.HasPrefix(k.name, name+".") })
}

// below names the keys and sections directly below prefix.
func (r *reader) below(prefix string) string {
	var names []string
	for _, k := range r.keys {
		if rest, ok := strings.CutPrefix(k.name, prefix); ok {
			first, _, _ := strings.Cut(rest, ".")
			if !slices.Contains(names, first) {
				names = append(names, first)
			}
		}
	}
	return strings.Join(names, ", ")
}

func (r *reader) unknown(prefix, name string, v raw) {
	var names []string
	for _, k := range r.keys {
		names = append(names, k.name)
		for i := range k.name {
			if k.name[i] == '.' && !slices.Contains(names, k.name[:i]) {
				names = append(names, k.name[:i])
			}
		}
	}
	// What was meant may be a password, spelt wrong.
	value := v.showUnless(looksSecret(name))
	if n := nearest(name, names); n != "" {
		r.report(name, value, v.from, "unknown key; did you mean %s?", n)
		return
	}
	where := "at the top level"
	if prefix != "" {
		where = "below " + strings.TrimSuffix(prefix, ".")
	}
	r.report(name, value, v.from, "unknown key; valid %s: %s", where, r.below(prefix))
}

func looksSecret(name string) bool {
	last := name[strings.LastIndexByte(name, '.')+1:]
	for _, word := range []string{"pass", "pw", "token", "secret", "key"} {
		if strings.Contains(strings.ToLower(last), word) {
			return true
		}
	}
	return nearest(last, []string{"password", "token"}) != ""
}

// leaf appends the value v of key k in its type, or reports why it has not got it.
func (r *reader) leaf(out layer, k configKey, v raw) layer {
	if k.kind == kindOverrides {
		return r.overrides(out, k, v)
	}
	value, err := convert(k.kind, v)
	if err != nil {
		r.report(k.name, v.showUnless(k.kind == kindSecret), v.from, "%v", err)
		return out
	}
	return append(out, setting{k.path(), value, v.from})
}

// overrides reads players.overrides: client id -> what holds for it. From the
// environment it comes as YAML in one line.
func (r *reader) overrides(out layer, k configKey, v raw) layer {
	if v.kind == rawText {
		parsed, err := parseYAML([]byte(v.text), v.from)
		if err != nil {
			r.report(k.name, "", v.from, "is not valid YAML: %v", err)
			return out
		}
		v = parsed.at(v.from)
	}
	if v.kind == rawNull {
		return out
	}
	if v.kind != rawMap {
		r.report(k.name, v.show(), v.from, `is %s, want client ids and what holds for them, such as {kitchen: {max_volume: 60}}`, v.kind)
		return out
	}
	fields := overrideKeys()
	below := &reader{keys: fields}
	seen := map[string]bool{}
	for _, player := range v.fields {
		name := k.name + "." + player.key
		if player.key == "" || seen[player.key] || strings.ContainsFunc(player.key, isControl) {
			r.report(name, "", player.value.from, "the client id is empty, stands twice or has control characters")
			continue
		}
		seen[player.key] = true
		below.problems = nil
		settings := below.section(nil, "", player.value, false)
		for _, p := range below.problems {
			p.Key = strings.TrimSuffix(name+"."+p.Key, ".")
			r.problems = append(r.problems, p)
		}
		for _, s := range settings {
			out = append(out, setting{k.path() + keyDelim + player.key + keyDelim + s.path, s.value, s.from})
		}
	}
	return out
}

// convert gives v the type of kind.
func convert(kind keyKind, v raw) (any, error) {
	if kind == kindList {
		return convertList(v)
	}
	if v.kind == rawList || v.kind == rawMap {
		return nil, fmt.Errorf("is %s, want a single value", v.kind)
	}
	if kind != kindText && kind != kindSecret && v.text == "" {
		return nil, errors.New("is empty; leave the key out to have its default")
	}
	switch kind {
	case kindBool:
		switch strings.ToLower(v.text) {
		case "true":
			return true, nil
		case "false":
			return false, nil
		}
		return nil, errors.New("want true or false (yes, no, on, off, 1 and 0 are not accepted)")
	case kindInt:
		return convertInt(v.text)
	case kindDuration:
		var d Duration
		if err := d.UnmarshalText([]byte(v.text)); err != nil {
			return nil, err
		}
		return d.String(), nil
	case kindText, kindSecret, kindList, kindOverrides:
	}
	if !utf8.ValidString(v.text) || strings.ContainsRune(v.text, 0) {
		return nil, errors.New("is not valid UTF-8 text")
	}
	return v.text, nil
}

func convertInt(s string) (any, error) {
	digits := strings.TrimPrefix(s, "-")
	if len(digits) > 1 && digits[0] == '0' && strings.Trim(digits, "0123456789") == "" {
		return nil, fmt.Errorf("starts with 0, which YAML reads as octal; write %s", strings.TrimLeft(digits[:len(digits)-1], "0")+digits[len(digits)-1:])
	}
	n, err := strconv.Atoi(s)
	if err != nil || strings.HasPrefix(s, "+") {
		return nil, errors.New("is not a whole number")
	}
	return n, nil
}

func convertList(v raw) (any, error) {
	items := []string{}
	switch v.kind {
	case rawText:
		for part := range strings.SplitSeq(v.text, ",") {
			if part = strings.TrimSpace(part); part != "" {
				items = append(items, part)
			}
		}
	case rawList:
		for i, item := range v.list {
			if item.kind != rawText && item.kind != rawNumber || item.text == "" {
				return nil, fmt.Errorf("item %d is %s, want text", i+1, item.kindOrEmpty())
			}
			items = append(items, item.text)
		}
	case rawNull, rawNumber, rawBool, rawMap:
		return nil, fmt.Errorf("is %s, want a list: [a, b] in a file, a,b in a variable", v.kind)
	}
	return items, nil
}

func (v raw) kindOrEmpty() string {
	if v.kind == rawText && v.text == "" {
		return "empty"
	}
	return v.kind.String()
}

// at is v with every part coming from one place.
func (v raw) at(from string) raw {
	v.from = from
	v.list, v.fields = slices.Clone(v.list), slices.Clone(v.fields)
	for i := range v.list {
		v.list[i] = v.list[i].at(from)
	}
	for i := range v.fields {
		v.fields[i].value = v.fields[i].value.at(from)
	}
	return v
}

// show is v for an error message: quoted, cut, credentials in URLs left out.
func (v raw) show() string {
	switch v.kind {
	case rawNull:
		return ""
	case rawText:
		return showText(v.text)
	case rawNumber, rawBool:
		return cut(v.text)
	case rawList:
		var parts []string
		for _, item := range v.list {
			parts = append(parts, item.show())
		}
		return cut("[" + strings.Join(parts, ", ") + "]")
	case rawMap:
		return "{...}"
	}
	return ""
}

func (v raw) showUnless(secret bool) string {
	if secret && v.kind != rawNull {
		return masked
	}
	return v.show()
}

func showText(s string) string { return strconv.Quote(cut(withoutUser(s))) }

// withoutUser masks user and password of a URL, also of one that does not parse.
func withoutUser(s string) string {
	scheme, rest, ok := strings.Cut(s, "://")
	if at := strings.LastIndexByte(rest, '@'); ok && at >= 0 {
		return scheme + "://" + masked + rest[at:]
	}
	return s
}

// cut keeps the first 64 bytes.
func cut(s string) string {
	if len(s) <= 64 {
		return s
	}
	n := 64
	for !utf8.RuneStart(s[n]) {
		n--
	}
	return s[:n] + "…"
}

func isControl(c rune) bool { return c < ' ' || c == 0x7f || c == utf8.RuneError }

// parseYAML reads one document. Anchors are refused: nobody needs them here,
// and a few of them expand without bound.
func parseYAML(data []byte, name string) (raw, error) {
	d := yaml.NewDecoder(bytes.NewReader(data))
	var doc yaml.Node
	if err := d.Decode(&doc); err != nil {
		if len(bytes.TrimSpace(data)) == 0 || err.Error() == "EOF" {
			return raw{from: name}, nil
		}
		return raw{}, errors.New(strings.TrimPrefix(err.Error(), "yaml: "))
	}
	var more yaml.Node
	if err := d.Decode(&more); err == nil {
		return raw{}, fmt.Errorf("line %d: a second document begins; one is read", more.Line)
	}
	if len(doc.Content) == 0 {
		return raw{from: name}, nil
	}
	return fromNode(doc.Content[0], name)
}

func fromNode(n *yaml.Node, name string) (raw, error) {
	v := raw{from: fmt.Sprintf("%s line %d", name, n.Line)}
	switch n.Kind {
	case yaml.MappingNode:
		v.kind = rawMap
		for i := 0; i+1 < len(n.Content); i += 2 {
			key := n.Content[i]
			if key.Kind != yaml.ScalarNode || key.Tag == "!!merge" {
				return raw{}, fmt.Errorf("line %d: a key has to be plain text", key.Line)
			}
			value, err := fromNode(n.Content[i+1], name)
			if err != nil {
				return raw{}, err
			}
			v.fields = append(v.fields, rawField{key.Value, value})
		}
	case yaml.SequenceNode:
		v.kind = rawList
		for _, item := range n.Content {
			value, err := fromNode(item, name)
			if err != nil {
				return raw{}, err
			}
			v.list = append(v.list, value)
		}
	case yaml.ScalarNode:
		v.text = n.Value
		switch n.ShortTag() {
		case "!!null":
			v.kind, v.text = rawNull, ""
		case "!!bool":
			v.kind = rawBool
		case "!!int", "!!float":
			v.kind = rawNumber
		default:
			v.kind = rawText
		}
	case yaml.AliasNode, yaml.DocumentNode:
		return raw{}, fmt.Errorf("line %d: anchors and aliases (& and *) are not supported; write the value again", n.Line)
	}
	return v, nil
}

func parseJSON(data []byte, name string) (raw, error) {
	d := json.NewDecoder(bytes.NewReader(data))
	d.UseNumber() // float64 would lose digits
	var v any
	if err := d.Decode(&v); err != nil {
		return raw{}, err
	}
	return fromJSON(v, name), nil
}

func fromJSON(v any, name string) raw {
	out := raw{from: name}
	switch v := v.(type) {
	case string:
		out.kind, out.text = rawText, v
	case json.Number:
		out.kind, out.text = rawNumber, v.String()
	case bool:
		out.kind, out.text = rawBool, strconv.FormatBool(v)
	case []any:
		out.kind = rawList
		for _, item := range v {
			out.list = append(out.list, fromJSON(item, name))
		}
	case map[string]any:
		out.kind = rawMap
		for _, key := range sortedKeys(v) {
			out.fields = append(out.fields, rawField{key, fromJSON(v[key], name)})
		}
	}
	return out
}

func readLimited(name string) ([]byte, error) {
	info, err := os.Stat(name)
	if err != nil {
		return nil, err
	}
	if info.IsDir() {
		return nil, fmt.Errorf("%s is a directory, want a file", name)
	}
	if info.Size() > maxConfigFile {
		return nil, fmt.Errorf("%s has %d bytes, want at most %d", name, info.Size(), maxConfigFile)
	}
	return os.ReadFile(name)
}

// readSecret reads a file with one secret. The line end that editors and echo
// add is not part of it.
func readSecret(name string) (string, error) {
	data, err := readLimited(name)
	if err != nil {
		return "", err
	}
	text := strings.TrimRight(string(data), "\r\n")
	if text == "" {
		return "", fmt.Errorf("%s is empty", name)
	}
	return text, nil
}
