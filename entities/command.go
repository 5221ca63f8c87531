package entities

import (
	"encoding/json"
	"net/url"
	"slices"
	"strings"
	"unicode/utf8"

	"resonatebridge/resonate"
)

// maxDelayMs is the largest output delay of the protocol, in milliseconds
// (spec: Player messages, static_delay_ms).
const maxDelayMs = 5000

// maxPayload is the largest command, in bytes. Names and lists of speakers are
// far below it.
const maxPayload = 256 << 10

// maxTransaction is the largest transaction that is echoed, in bytes.
const maxTransaction = 1 << 10

// call is one command message, decoded as far as it was right.
type call struct {
	topic       string          // where it arrived
	answer      string          // where the outcome goes
	name        string          // "set", "set/volume", "request/group/add"
	transaction json.RawMessage // the caller's; nil: none
	lane        string          // calls of one lane run one after the other

	command resonate.Command   // nil: local
	then    []resonate.Command // after it, in this order
	local   string             // an action of the bridge itself
	level   string             // of local "options"
	volume  *resonate.VolumeChange
	only    bool // the command changes the volume and nothing else
}

// decoder turns messages into calls against one snapshot.
type decoder struct {
	*vocabulary
	o Options
	s *resonate.Snapshot
	l *labels
}

// vocabulary is everything that can be said. It is made once.
type vocabulary struct {
	player, group []field
	actions       []action
}

func newVocabulary() *vocabulary {
	return &vocabulary{playerFields(), groupFields(), actions()}
}

// decode reads one message. A nil call means that the topic isn't a command
// topic or the payload is empty: clearing a retained message reaches
// subscribers as an empty message, so that must not do anything. With an error
// the call still says where to answer.
func (d decoder) decode(topic string, payload []byte) (*call, *resonate.CommandError) {
	rest, ok := strings.CutPrefix(topic, d.o.BaseTopic+"/")
	if !ok || len(payload) == 0 {
		return nil, nil
	}
	kind, rest, _ := strings.Cut(rest, "/")
	switch kind {
	case "player", "group":
		id, rest, _ := strings.Cut(rest, "/")
		set, field, scalar := strings.Cut(rest, "/")
		if set != "set" || id == "" {
			return nil, nil
		}
		c := &call{topic: topic, name: rest, lane: kind + "/" + id}
		if kind == "player" {
			c.answer = d.o.playerTopic(id) + "/result"
		} else {
			c.answer = d.o.groupTopic(id) + "/result"
		}
		return c, d.set(c, kind, id, field, scalar, payload)
	case "bridge":
		action, ok := strings.CutPrefix(rest, "request/")
		if !ok {
			return nil, nil
		}
		c := &call{topic: topic, name: rest, answer: d.o.bridgeTopic() + "/response/" + action, lane: "bridge"}
		return c, d.request(c, action, payload)
	}
	return nil, nil
}

// tooLong is the error of an oversized payload; size is 0 if it was not read.
func tooLong(size int) *resonate.CommandError {
	if size == 0 {
		return resonate.Errorf(resonate.CodeInvalidValue, "the payload is too long; at most %d bytes are read", maxPayload)
	}
	return resonate.Errorf(resonate.CodeInvalidValue, "the payload of %d bytes is too long; at most %d are read", size, maxPayload)
}

// set reads what arrived on player/PID/set... or group/GID/set...
func (d decoder) set(c *call, kind, id, name string, scalar bool, payload []byte) *resonate.CommandError {
	if len(payload) > maxPayload {
		return tooLong(len(payload))
	}
	target := &draft{decoder: d}
	fields := d.group
	if kind == "player" {
		fields = d.player
	}
	var pairs []value
	if scalar {
		if err := checkText(payload); err != "" {
			return resonate.Errorf(resonate.CodeInvalidValue, "%s: the payload %s", name, err)
		}
		pairs = []value{{field: name, text: string(payload)}}
	} else {
		object, err := object(payload)
		if err != nil {
			return err
		}
		for _, p := range object {
			if p.key == "transaction" {
				if err := c.take(p.raw); err != nil {
					return err
				}
				continue
			}
			pairs = append(pairs, value{p.key, string(p.raw), true})
		}
		if len(pairs) == 0 {
			return resonate.Errorf(resonate.CodeInvalidValue, `%s asks for nothing; send a field, like {"volume": 25}`, quote(string(payload)))
		}
	}
	if kind == "player" {
		if target.self = d.s.Player(id); target.self == nil {
			return resonate.Errorf(resonate.CodeUnknownDevice, "there is no speaker with the id %s; bridge/devices lists them", quote(id))
		}
		target.player.PID, target.target = id, resonate.Target{PID: id}
	} else {
		if d.s.Group(id) == nil {
			return resonate.Errorf(resonate.CodeUnknownGroup, "there is no group with the id %s; bridge/groups lists them", quote(id))
		}
		target.group.ID, target.target = id, resonate.Target{GroupID: id}
	}
	for _, v := range pairs {
		i := slices.IndexFunc(fields, func(f field) bool { return f.name == v.field })
		if i < 0 {
			return unknown("field", v.field, fieldNames(fields))
		}
		if fields[i].later != "" {
			return resonate.Errorf(resonate.CodeNotSupported, "%s: this version can't %s yet", v.field, fields[i].later)
		}
		if err := fields[i].set(target, v); err != nil {
			return err
		}
	}
	if kind == "player" {
		c.command, c.volume = target.player, target.player.Volume
	} else {
		c.command, c.volume = target.group, target.group.Volume
	}
	c.only = len(pairs) == 1 && c.volume != nil
	c.then = target.more
	if len(c.then) == len(pairs) { // nothing else is asked for
		c.command, c.then = c.then[0], c.then[1:]
	}
	return nil
}

// take keeps the transaction: any JSON scalar, echoed as it is.
func (c *call) take(raw json.RawMessage) *resonate.CommandError {
	if raw[0] == '{' || raw[0] == '[' {
		return resonate.Errorf(resonate.CodeInvalidValue, "transaction: got %s, want a text, a number, true, false or null", cut(string(raw), maxShown))
	}
	if len(raw) > maxTransaction {
		return resonate.Errorf(resonate.CodeInvalidValue, "transaction: got %d bytes (%s), want at most %d", len(raw), cut(string(raw), maxShown), maxTransaction)
	}
	c.transaction = raw
	return nil
}

// draft is the command that the fields of one message add up to.
type draft struct {
	decoder
	self   *resonate.Player // of a player command
	player resonate.SetPlayer
	group  resonate.SetGroup
	target resonate.Target
	more   []resonate.Command // in the order in which they are to be done
}

// then adds a command of its own kind. Trust comes before media, new media
// before an operation on them, and forgetting a speaker last.
func (d *draft) then(cmd resonate.Command) {
	d.more = append(d.more, cmd)
	slices.SortStableFunc(d.more, func(a, b resonate.Command) int { return stage(a) - stage(b) })
}

// stage is when such a command is done among others of one message.
func stage(cmd resonate.Command) int {
	switch cmd := cmd.(type) {
	case resonate.Pair, resonate.CancelPairing, resonate.Approve:
		return -1
	case resonate.RemovePlayer:
		return 4
	case resonate.PlayMedia:
		return 0
	case resonate.Transport:
		if cmd.Action == resonate.ActionRepeat || cmd.Action == resonate.ActionShuffle {
			return 1
		}
		return 2
	}
	return 3
}

// field is one thing that can be set.
type field struct {
	name  string
	want  string // payloads, for TOPICS.md
	later string // what this version can't do yet; then set is nil
	set   func(*draft, value) *resonate.CommandError
}

func fieldNames(fields []field) []string {
	list := make([]string, len(fields))
	for i, f := range fields {
		list[i] = f.name
	}
	return list
}

// playerFields are the keys of player/PID/set and the topics below it.
func playerFields() []field {
	return append([]field{
		{name: "volume", want: "`0` to `100`, `+5`, `-5`; in JSON a number, or a text with a sign", set: func(d *draft, v value) (err *resonate.CommandError) {
			d.player.Volume, err = v.volume()
			return err
		}},
		{name: "mute", want: "`ON`, `OFF`, `TOGGLE` (also `true`, `false`, `1`, `0`); in JSON true, false or a text", set: func(d *draft, v value) (err *resonate.CommandError) {
			d.player.Mute, err = v.mute()
			return err
		}},
		{name: "group", want: "an option of the Group select, or the id of a group", set: (*draft).setGroup},
		{name: "join", want: "a speaker or a group, by id or name", set: (*draft).setJoin},
		{name: "unjoin", want: "anything; in JSON true", set: func(d *draft, v value) *resonate.CommandError {
			if err := v.trigger(); err != nil {
				return err
			}
			return d.moveTo(v, resonate.GroupTarget{Solo: true})
		}},
		{name: "delay", want: "`0` to `5000`, in ms", set: func(d *draft, v value) *resonate.CommandError {
			return v.into(&d.player.DelayMs, 0, maxDelayMs)
		}},
		{name: "announce_volume", want: "`0` to `100`", set: func(d *draft, v value) *resonate.CommandError {
			return v.into(&d.player.AnnounceVolume, 0, 100)
		}},
		{name: "max_volume", want: "`1` to `100`", set: func(d *draft, v value) *resonate.CommandError {
			return v.into(&d.player.MaxVolume, 1, 100)
		}},
		{name: "custody", want: "`" + strings.Join(custodies(), "`, `") + "`", set: func(d *draft, v value) *resonate.CommandError {
			want := "one of " + strings.Join(custodies(), ", ")
			s, err := v.string(want)
			if err != nil {
				return err
			}
			s = strings.ToLower(strings.TrimSpace(s))
			if s == string(resonate.CustodyBorrow) {
				return resonate.Errorf(resonate.CodeNotSupported, "custody: this version can't %q yet; use auto, hold, observe or ignore", s)
			}
			if !slices.Contains(custodies(), s) {
				return v.wrong(want)
			}
			custody := resonate.Custody(s)
			d.player.Custody = &custody
			return nil
		}},
		{name: "reconnect", want: "anything; in JSON true", set: func(d *draft, v value) *resonate.CommandError {
			d.player.Reconnect = true
			return v.trigger()
		}},
		{name: "identify", want: "anything; in JSON true", set: func(d *draft, v value) *resonate.CommandError {
			d.then(resonate.Identify(d.self.PID))
			return v.trigger()
		}},
	}, append(trustFields(), mediaFields()...)...)
}

// groupFields are the keys of group/GID/set and the topics below it.
func groupFields() []field {
	return append([]field{
		{name: "volume", want: "as for speakers", set: func(d *draft, v value) (err *resonate.CommandError) {
			d.group.Volume, err = v.volume()
			return err
		}},
		{name: "mute", want: "as for speakers", set: func(d *draft, v value) (err *resonate.CommandError) {
			d.group.Mute, err = v.mute()
			return err
		}},
		{name: "members", want: "exactly these speakers: a JSON list, or ids separated by commas", set: func(d *draft, v value) *resonate.CommandError {
			pids, err := d.players(v)
			d.group.Members = &pids
			return err
		}},
		{name: "add", want: "speakers that join: as members", set: func(d *draft, v value) (err *resonate.CommandError) {
			d.group.Add, err = d.players(v)
			return err
		}},
		{name: "remove", want: "speakers that leave: as members", set: func(d *draft, v value) (err *resonate.CommandError) {
			d.group.Remove, err = d.players(v)
			return err
		}},
		{name: "gather", want: "anything; in JSON true", set: func(d *draft, v value) *resonate.CommandError {
			d.group.Gather = true
			return v.trigger()
		}},
		{name: "release", want: "anything; in JSON true", set: func(d *draft, v value) *resonate.CommandError {
			d.group.Release = true
			return v.trigger()
		}},
	}, mediaFields()...)
}

// into stores a whole number from lo to hi.
func (v value) into(dst **int, lo, hi int) *resonate.CommandError {
	n, err := v.integer(lo, hi)
	if err != nil {
		return err
	}
	*dst = &n
	return nil
}

// volume is absolute, or relative when it is a text with a sign. JSON has no
// +5, so there a relative volume is a text.
func (v value) volume() (*resonate.VolumeChange, *resonate.CommandError) {
	relative := v
	if v.json && strings.HasPrefix(v.text, `"`) {
		s, err := v.string("a number from 0 to 100")
		if err != nil {
			return nil, err
		}
		relative.text, relative.json = s, false
	}
	if text := strings.TrimSpace(relative.text); !relative.json && (strings.HasPrefix(text, "+") || strings.HasPrefix(text, "-")) {
		n, err := relative.integer(-100, 100)
		if err != nil {
			return nil, v.wrong("a step from -100 to +100, or a number from 0 to 100")
		}
		return &resonate.VolumeChange{Value: n, Relative: true}, nil
	}
	n, err := v.integer(0, 100)
	if err != nil {
		return nil, err
	}
	return &resonate.VolumeChange{Value: n}, nil
}

// mute is on, off or toggle.
func (v value) mute() (*resonate.MuteChange, *resonate.CommandError) {
	const want = "ON, OFF or TOGGLE"
	text := v.text
	if v.json {
		switch text {
		case "true":
			return &resonate.MuteChange{On: true}, nil
		case "false":
			return &resonate.MuteChange{}, nil
		}
		s, err := v.string("true, false, or the text " + want)
		if err != nil {
			return nil, err
		}
		text = s
	}
	switch strings.ToLower(strings.TrimSpace(text)) {
	case "on", "true", "1":
		return &resonate.MuteChange{On: true}, nil
	case "off", "false", "0":
		return &resonate.MuteChange{}, nil
	case "toggle":
		return &resonate.MuteChange{Toggle: true}, nil
	}
	return nil, v.wrong(want)
}

// moveTo sets where the player goes; group, join and unjoin exclude each other.
func (d *draft) moveTo(v value, to resonate.GroupTarget) *resonate.CommandError {
	if d.player.Group != nil {
		return resonate.Errorf(resonate.CodeInvalidValue, "%s: got %s, but another of group, join and unjoin is there too; send one of them", v.field, v.show())
	}
	if to.With != "" && to.With == d.self.PID {
		return v.wrong("another speaker than this one")
	}
	d.player.Group = &to
	return nil
}

// setGroup takes an option of the Group select, or a group id.
func (d *draft) setGroup(v value) *resonate.CommandError {
	s, err := v.string("an option of the Group select")
	if err != nil {
		return err
	}
	s = strings.TrimSpace(s)
	switch strings.ToLower(s) {
	case "solo":
		return d.moveTo(v, resonate.GroupTarget{Solo: true})
	case "hosting":
		return resonate.Errorf(resonate.CodeInvalidValue,
			"group: %s only shows that others are grouped with this speaker; choose Solo, a group, or another speaker", quote(s))
	case "none":
		return resonate.Errorf(resonate.CodeInvalidValue, "group: %s is no group; use Solo", quote(s))
	}
	if to, ok := d.l.target[s]; ok {
		return d.moveTo(v, to)
	}
	if g := d.s.Group(s); g != nil {
		return d.moveTo(v, resonate.GroupTarget{GroupID: g.ID})
	}
	options := d.l.options(d.self.PID)
	if near := nearest(s, options); near != "" {
		return resonate.Errorf(resonate.CodeUnknownGroup, "group: there is no option or group %s; did you mean %q?", quote(s), near)
	}
	return resonate.Errorf(resonate.CodeUnknownGroup, "group: there is no option or group %s; there are %s", quote(s), cut(strings.Join(options, ", "), 255))
}

// setJoin takes a speaker or a group.
func (d *draft) setJoin(v value) *resonate.CommandError {
	s, err := v.string("a speaker or a group, by id or name")
	if err != nil {
		return err
	}
	s = strings.TrimSpace(s)
	g, groupErr := d.findGroup(s)
	if p, err := d.findPlayer(s); err == nil && (g == nil || p.PID == s) {
		return d.moveTo(v, resonate.GroupTarget{With: p.PID})
	} else if g == nil && groupErr.Code == resonate.CodeUnknownGroup {
		return err
	}
	if g == nil {
		return groupErr
	}
	return d.moveTo(v, resonate.GroupTarget{GroupID: g.ID})
}

// players is a list of speakers, each once.
func (d decoder) players(v value) ([]string, *resonate.CommandError) {
	items, err := v.list()
	if err != nil {
		return nil, err
	}
	pids := make([]string, 0, len(items))
	for _, item := range items {
		p, err := d.findPlayer(item)
		if err != nil {
			return nil, err
		}
		if !slices.Contains(pids, p.PID) {
			pids = append(pids, p.PID)
		}
	}
	return pids, nil
}

// findPlayer finds a speaker by id, client id or unique name.
func (d decoder) findPlayer(s string) (*resonate.Player, *resonate.CommandError) {
	return find(s, d.s.Players, resonate.CodeUnknownDevice, "speaker", "devices",
		func(p *resonate.Player) (string, string, string) { return p.PID, p.ClientID, p.Name })
}

// findGroup finds a group by id or unique name.
func (d decoder) findGroup(s string) (*resonate.Group, *resonate.CommandError) {
	return find(s, d.s.Groups, resonate.CodeUnknownGroup, "group", "groups",
		func(g *resonate.Group) (string, string, string) {
			if g.Kind == resonate.SoloGroup {
				return g.ID, "", "" // has the name of its speaker
			}
			return g.ID, "", g.Name
		})
}

// find looks s up: by id, by other id, by name, by name in any case. A name
// that several have finds none of them.
func find[T any](s string, all []*T, code resonate.Code, kind, list string, names func(*T) (id, other, name string)) (*T, *resonate.CommandError) {
	if s != "" {
		for _, same := range []func(id, other, name string) bool{
			func(id, _, _ string) bool { return id == s },
			func(_, other, _ string) bool { return other == s },
			func(_, _, name string) bool { return name == s },
			func(_, _, name string) bool { return strings.EqualFold(name, s) },
		} {
			var found []*T
			var ids []string
			for _, t := range all {
				if id, other, name := names(t); same(id, other, name) {
					found, ids = append(found, t), append(ids, id)
				}
			}
			switch len(found) {
			case 0:
				continue
			case 1:
				return found[0], nil
			}
			return nil, resonate.Errorf(code, "%d %ss are called %s: use one of the ids %s", len(found), kind, quote(s), strings.Join(ids, ", "))
		}
	}
	return nil, resonate.Errorf(code, "there is no %s %s; bridge/%s lists them", kind, quote(s), list)
}

// action is one thing to ask of the bridge.
type action struct {
	name  string
	keys  []string // of the request; the first may be sent plain
	later string   // what this version can't do yet
	read  func(d decoder, c *call, in map[string]value) *resonate.CommandError
}

// The actions that the bridge carries out itself.
const (
	localHealth    = "health_check"
	localOptions   = "options"
	localRestart   = "restart"
	localRepublish = "homeassistant/republish"
	localCleanup   = "homeassistant/cleanup"
)

// actions are the topics below bridge/request.
func actions() []action {
	local := func(_ decoder, c *call, _ map[string]value) *resonate.CommandError {
		c.local = strings.TrimPrefix(c.name, "request/")
		c.lane = "bridge/" + c.local
		return nil
	}
	membership := func(fill func(*resonate.SetGroup, []string)) func(decoder, *call, map[string]value) *resonate.CommandError {
		return func(d decoder, c *call, in map[string]value) *resonate.CommandError {
			g, err := d.groupOf(in)
			if err != nil {
				return err
			}
			v, ok := in["members"]
			if !ok {
				return missing("members", "a list of speakers")
			}
			pids, err := d.players(v)
			if err != nil {
				return err
			}
			set := resonate.SetGroup{ID: g.ID}
			fill(&set, pids)
			c.command, c.lane = set, groupKey(g.ID)
			return nil
		}
	}
	return append([]action{
		{name: "device/rename", keys: []string{"id", "name"}, read: func(d decoder, c *call, in map[string]value) *resonate.CommandError {
			p, err := d.playerOf(in)
			if err != nil {
				return err
			}
			v, ok := in["name"]
			if !ok {
				return missing("name", "a text; an empty one gives the speaker its own name back")
			}
			name, err := v.string("a text")
			if err != nil {
				return err
			}
			if name, err = tidyName(v, name); err != nil {
				return err
			}
			c.command, c.lane = resonate.SetPlayer{PID: p.PID, Name: &name}, playerKey(p.PID)
			return nil
		}},
		{name: "device/remove", keys: []string{"id"}, read: func(d decoder, c *call, in map[string]value) *resonate.CommandError {
			p, err := d.playerOf(in)
			if err != nil {
				return err
			}
			c.command, c.lane = resonate.RemovePlayer{PID: p.PID}, playerKey(p.PID)
			return nil
		}},
		{name: "device/options", keys: []string{"id", "options"}, read: readDeviceOptions},
		{name: "device/add", keys: []string{"url"}, read: func(_ decoder, c *call, in map[string]value) *resonate.CommandError {
			const want = "an address like ws://192.168.1.40:8928/sendspin"
			v, ok := in["url"]
			if !ok {
				return missing("url", want)
			}
			s, err := v.string(want)
			if err != nil {
				return err
			}
			s = strings.TrimSpace(s)
			if u, err := url.Parse(s); err != nil || u.Scheme != "ws" && u.Scheme != "wss" || u.Hostname() == "" || u.User != nil {
				return v.wrong(want)
			}
			c.command = resonate.AddEndpoint{URL: s}
			return nil
		}},
		{name: "group/add", keys: []string{"name", "members"}, read: func(d decoder, c *call, in map[string]value) *resonate.CommandError {
			name, err := groupName(in)
			if err != nil {
				return err
			}
			add := resonate.AddGroup{Name: name}
			if v, ok := in["members"]; ok {
				if add.Members, err = d.players(v); err != nil {
					return err
				}
			}
			c.command = add
			return nil
		}},
		{name: "group/remove", keys: []string{"id"}, read: func(d decoder, c *call, in map[string]value) *resonate.CommandError {
			g, err := d.groupOf(in)
			if err != nil {
				return err
			}
			c.command, c.lane = resonate.RemoveGroup{ID: g.ID}, groupKey(g.ID)
			return nil
		}},
		{name: "group/rename", keys: []string{"id", "name"}, read: func(d decoder, c *call, in map[string]value) *resonate.CommandError {
			g, err := d.groupOf(in)
			if err != nil {
				return err
			}
			name, err := groupName(in)
			if err != nil {
				return err
			}
			c.command, c.lane = resonate.SetGroup{ID: g.ID, Name: &name}, groupKey(g.ID)
			return nil
		}},
		{name: "group/members/add", keys: []string{"id", "members"}, read: membership(func(g *resonate.SetGroup, pids []string) { g.Add = pids })},
		{name: "group/members/remove", keys: []string{"id", "members"}, read: membership(func(g *resonate.SetGroup, pids []string) { g.Remove = pids })},
		{name: "group/members/set", keys: []string{"id", "members"}, read: membership(func(g *resonate.SetGroup, pids []string) { g.Members = &pids })},
		{name: "scan", read: func(_ decoder, c *call, _ map[string]value) *resonate.CommandError {
			c.command = resonate.Scan{}
			return nil
		}},
		{name: localHealth, read: local},
		{name: localOptions, keys: []string{"log_level"}, read: func(d decoder, c *call, in map[string]value) *resonate.CommandError {
			want := "one of " + strings.Join(logLevels(), ", ")
			v, ok := in["log_level"]
			if !ok {
				return missing("log_level", want)
			}
			level, err := v.string(want)
			if err != nil {
				return err
			}
			c.level = strings.ToLower(strings.TrimSpace(level))
			if !slices.Contains(logLevels(), c.level) {
				return v.wrong(want)
			}
			return local(d, c, in)
		}},
		{name: localRepublish, read: local},
		{name: localCleanup, read: local},
		{name: localRestart, read: local},
		{name: "stop_all", read: func(_ decoder, c *call, _ map[string]value) *resonate.CommandError {
			c.command = resonate.StopAll{}
			return nil
		}},
		{name: "announce", keys: append([]string{"targets"}, announceKeys()...), read: readAnnounce},
		{name: "announce_all", keys: announceKeys(), read: readAnnounce},
		{name: "backup", later: "make backups"},
	}, trustActions()...)
}

// request reads what arrived on bridge/request/ACTION: a JSON object, or the
// first key's value alone.
func (d decoder) request(c *call, name string, payload []byte) *resonate.CommandError {
	all := d.actions
	i := slices.IndexFunc(all, func(a action) bool { return a.name == name })
	if i < 0 {
		known := make([]string, len(all))
		for i, a := range all {
			known[i] = a.name
		}
		return unknown("action", name, known)
	}
	a := all[i]
	if len(payload) > maxPayload {
		return tooLong(len(payload))
	}
	in := make(map[string]value)
	if start := strings.TrimLeft(string(payload[:min(len(payload), 64)]), " \t\r\n"); strings.HasPrefix(start, "{") {
		pairs, err := object(payload)
		if err != nil {
			return err
		}
		for _, p := range pairs {
			switch {
			case p.key == "transaction":
				if err := c.take(p.raw); err != nil {
					return err
				}
			case a.later != "" || slices.Contains(a.keys, p.key):
				in[p.key] = value{p.key, string(p.raw), true}
			default:
				return unknown("key", p.key, append(slices.Clone(a.keys), "transaction"))
			}
		}
	} else if len(a.keys) > 0 {
		if err := checkText(payload); err != "" {
			return resonate.Errorf(resonate.CodeInvalidValue, "%s: the payload %s", a.keys[0], err)
		}
		in[a.keys[0]] = value{a.keys[0], strings.TrimSpace(string(payload)), false}
	}
	if a.later != "" {
		return resonate.Errorf(resonate.CodeNotSupported, "%s: this version can't %s yet", name, a.later)
	}
	return a.read(d, c, in)
}

func missing(key, want string) *resonate.CommandError {
	return resonate.Errorf(resonate.CodeInvalidValue, "%s is missing: want %s", key, want)
}

// playerOf is the speaker that the key id names.
func (d decoder) playerOf(in map[string]value) (*resonate.Player, *resonate.CommandError) {
	return pick(in, "the id or the name of a speaker", d.findPlayer)
}

// groupOf is the group that the key id names.
func (d decoder) groupOf(in map[string]value) (*resonate.Group, *resonate.CommandError) {
	return pick(in, "the id or the name of a group", d.findGroup)
}

// pick finds what the key id names.
func pick[T any](in map[string]value, want string, find func(string) (*T, *resonate.CommandError)) (*T, *resonate.CommandError) {
	v, ok := in["id"]
	if !ok {
		return nil, missing("id", want)
	}
	s, err := v.string(want)
	if err != nil {
		return nil, err
	}
	return find(s)
}

// maxName is the longest name that can be given, in characters.
const maxName = 100

func tidyName(v value, name string) (string, *resonate.CommandError) {
	if name = oneLine(name); utf8.RuneCountInString(name) > maxName {
		return "", v.wrong("at most 100 characters")
	}
	return name, nil
}

// groupName is the name of a named group. It becomes an option of the Group
// select, so it can't be one of the fixed ones, and "none" in any case would
// mean "no option" to Home Assistant.
func groupName(in map[string]value) (string, *resonate.CommandError) {
	const want = "a name for the group"
	v, ok := in["name"]
	if !ok {
		return "", missing("name", want)
	}
	name, err := v.string(want)
	if err != nil {
		return "", err
	}
	if name, err = tidyName(v, name); err != nil {
		return "", err
	}
	switch strings.ToLower(name) {
	case "":
		return "", v.wrong(want)
	case "none", "solo", "hosting":
		return "", v.wrong("another name: the Group select uses this one itself")
	}
	return name, nil
}

// readDeviceOptions reads {"id": ..., "options": {...}}: the fields of a speaker
// that are remembered.
func readDeviceOptions(d decoder, c *call, in map[string]value) *resonate.CommandError {
	p, err := d.playerOf(in)
	if err != nil {
		return err
	}
	v, ok := in["options"]
	if !ok {
		return missing("options", `an object like {"max_volume": 60}`)
	}
	pairs, err := object([]byte(v.text))
	if err != nil {
		return err
	}
	if len(pairs) == 0 {
		return v.wrong(`an object like {"max_volume": 60}`)
	}
	fields := slices.DeleteFunc(slices.Clone(d.player), func(f field) bool {
		return !slices.Contains([]string{"custody", "delay", "announce_volume", "max_volume"}, f.name)
	})
	target := &draft{decoder: d, self: p, player: resonate.SetPlayer{PID: p.PID}}
	for _, pair := range pairs {
		i := slices.IndexFunc(fields, func(f field) bool { return f.name == pair.key })
		if i < 0 {
			return unknown("option", pair.key, fieldNames(fields))
		}
		if err := fields[i].set(target, value{pair.key, string(pair.raw), true}); err != nil {
			return err
		}
	}
	c.command, c.lane = target.player, playerKey(p.PID)
	return nil
}
