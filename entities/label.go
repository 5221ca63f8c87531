package entities

import (
	"cmp"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"resonatebridge/resonate"
)

// The two options of the Group select that every speaker has.
const (
	soloOption    = "Solo"
	hostingOption = "Hosting" // shown by the first speaker of an ad-hoc group; can't be chosen
)

// maxLabel is the length of an option in characters; Home Assistant allows
// 255, dashboards show about this much.
const maxLabel = 60

// labels are the options of the Group selects: one for each named group and one
// "With ..." for each player. They are stable while names are: who is grouped
// with whom doesn't change them, so grouping needs no discovery message.
// Immutable once made.
type labels struct {
	version uint64
	source  []named                         // what they were made from, in the snapshot's order
	keys    []string                        // "group/GID" and "player/PID", oldest first: who keeps a name that two want
	names   map[string]string               // by key: the name that the label was made from
	labels  map[string]string               // by key
	target  map[string]resonate.GroupTarget // by label
	groups  []string                        // labels of named groups, oldest first
	players []string                        // labels of players, oldest first
}

func groupKey(gid string) string  { return "group/" + gid }
func playerKey(pid string) string { return "player/" + pid }

// named is a player or named group and its name.
type named struct {
	kind     kind
	id, name string
}

// madeFrom reports whether s has the same names as the snapshot before.
func (l *labels) madeFrom(s *resonate.Snapshot) bool {
	i := 0
	next := func(n named) bool {
		i++
		return i <= len(l.source) && l.source[i-1] == n
	}
	for _, g := range s.Groups {
		if g.Kind == resonate.NamedGroup && !next(named{groupKind, g.ID, g.Name}) {
			return false
		}
	}
	for _, p := range s.Players {
		if !next(named{playerKind, p.PID, p.Name}) {
			return false
		}
	}
	return i == len(l.source)
}

// relabel makes the labels for s. It returns old itself when no name changed.
// Things that old knows count as older than the rest; new ones are ordered by
// age, which a restart does not change, then by id.
func relabel(old *labels, s *resonate.Snapshot) *labels {
	if old.version > 0 && old.madeFrom(s) {
		return old
	}
	names := make(map[string]string, len(s.Players)+len(s.Groups))
	var source []named
	var fresh []string
	born := make(map[string]time.Time)
	add := func(n named, at time.Time) {
		key := playerKey(n.id)
		if n.kind == groupKind {
			key = groupKey(n.id)
		}
		source = append(source, n)
		names[key] = first(oneLine(n.name), n.id)
		if _, known := old.names[key]; !known {
			fresh = append(fresh, key)
			born[key] = at
		}
	}
	for _, g := range s.Groups {
		if g.Kind == resonate.NamedGroup {
			add(named{groupKind, g.ID, g.Name}, g.Created)
		}
	}
	for _, p := range s.Players {
		add(named{playerKind, p.PID, p.Name}, p.FirstSeen)
	}
	slices.SortFunc(fresh, func(a, b string) int {
		return cmp.Or(born[a].Compare(born[b]), strings.Compare(a, b))
	})
	l := &labels{
		version: old.version + 1,
		source:  source,
		keys:    make([]string, 0, len(names)),
		names:   names,
		labels:  make(map[string]string, len(names)),
		target:  make(map[string]resonate.GroupTarget, len(names)),
	}
	for _, key := range old.keys {
		if _, still := names[key]; still {
			l.keys = append(l.keys, key)
		}
	}
	l.keys = append(l.keys, fresh...)
	for _, key := range l.keys {
		if gid, ok := strings.CutPrefix(key, "group/"); ok {
			label := l.free(names[key])
			l.labels[key], l.target[label] = label, resonate.GroupTarget{GroupID: gid}
			l.groups = append(l.groups, label)
		}
	}
	for _, key := range l.keys {
		if pid, ok := strings.CutPrefix(key, "player/"); ok {
			label := l.free("With " + names[key])
			l.labels[key], l.target[label] = label, resonate.GroupTarget{With: pid}
			l.players = append(l.players, label)
		}
	}
	return l
}

// free is name, cut to maxLabel, with the smallest " (n)" that makes it unique.
func (l *labels) free(name string) string {
	for n := 1; ; n++ {
		suffix := ""
		if n > 1 {
			suffix = " (" + strconv.Itoa(n) + ")"
		}
		label := cut(name, maxLabel-len(suffix)) + suffix
		// A select treats "none" in any case as "no option" (home-assistant.io, MQTT select).
		taken := label == soloOption || label == hostingOption || strings.EqualFold(label, "none")
		if _, used := l.target[label]; !used && !taken {
			return label
		}
	}
}

// options are what the Group select of player pid offers.
func (l *labels) options(pid string) []string {
	own := l.labels[playerKey(pid)]
	opts := make([]string, 0, 2+len(l.groups)+len(l.players))
	opts = append(opts, soloOption, hostingOption)
	opts = append(opts, l.groups...)
	for _, label := range l.players {
		if label != own {
			opts = append(opts, label)
		}
	}
	return opts
}

// current is the option that tells where p is.
func (l *labels) current(p *resonate.Player, g *resonate.Group) string {
	if g == nil || g.Kind == resonate.SoloGroup {
		return soloOption
	}
	if g.Kind == resonate.NamedGroup {
		if label, ok := l.labels[groupKey(g.ID)]; ok {
			return label
		}
		return hostingOption
	}
	if len(g.Members) > 0 && g.Members[0] != p.PID {
		if label, ok := l.labels[playerKey(g.Members[0])]; ok {
			return label
		}
	}
	return hostingOption
}

// has reports whether label is an option of any player.
func (l *labels) has(label string) bool {
	_, ok := l.target[label]
	return ok || label == soloOption || label == hostingOption
}

// oneLine makes a name fit for a line: control characters and runs of spaces
// become one space, invalid UTF-8 the replacement character.
func oneLine(s string) string {
	plain := utf8.ValidString(s)
	for i := 0; plain && i < len(s); i++ {
		plain = s[i] > ' ' && s[i] < 0x7f || s[i] == ' ' && i > 0 && i < len(s)-1 && s[i-1] != ' '
	}
	if plain {
		return s
	}
	s = strings.ToValidUTF8(s, "\uFFFD")
	s = strings.Map(func(r rune) rune {
		if unicode.IsControl(r) {
			return ' '
		}
		return r
	}, s)
	return strings.Join(strings.Fields(s), " ")
}

// cut shortens s to at most n characters (code points, as Home Assistant counts
// them); what was longer ends in "…".
func cut(s string, n int) string {
	if len(s) <= n || utf8.RuneCountInString(s) <= n {
		return s
	}
	count := 0
	for i := range s {
		if count == n-1 {
			return s[:i] + "…"
		}
		count++
	}
	return s
}
