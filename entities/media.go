package entities

import (
	"encoding/json"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"resonatebridge/mqtt"
	"resonatebridge/resonate"
	"resonatebridge/resonate/audio/fetch"
	"resonatebridge/resonate/protocol"
)

// mediaFields are the keys that players and groups have in common. Transport on
// a speaker acts on its group.
func mediaFields() []field {
	var fields []field
	for _, a := range []resonate.Action{resonate.ActionPlay, resonate.ActionPause, resonate.ActionStop, resonate.ActionNext, resonate.ActionPrevious} {
		fields = append(fields, field{name: string(a), want: "anything; in JSON true", set: func(d *draft, v value) *resonate.CommandError {
			d.then(resonate.Transport{Target: d.target, Action: a})
			return v.trigger()
		}})
	}
	return append(
		fields,
		field{name: "play_url", want: wantMedia, set: func(d *draft, v value) *resonate.CommandError { return d.play(v, "") }},
		field{name: "queue", want: "what is played after the rest of the queue: as play_url", set: func(d *draft, v value) *resonate.CommandError {
			return d.play(v, resonate.EnqueueLast)
		}},
		field{name: "seek", want: "seconds from the beginning; a step with a sign, like `+10` or `-30`", set: func(d *draft, v value) *resonate.CommandError {
			return d.seek(v, false)
		}},
		field{name: "seek_relative", want: "seconds, forward or (negative) back", set: func(d *draft, v value) *resonate.CommandError {
			return d.seek(v, true)
		}},
		field{name: "repeat", want: "`off`, `one`, `all`", set: func(d *draft, v value) *resonate.CommandError {
			s, err := v.word(repeats())
			d.then(resonate.Transport{Target: d.target, Action: resonate.ActionRepeat, Repeat: protocol.Repeat(s)})
			return err
		}},
		field{name: "shuffle", want: "`ON`, `OFF` (also `true`, `false`, `1`, `0`); in JSON true, false or a text", set: func(d *draft, v value) *resonate.CommandError {
			on, err := v.mute()
			if err != nil || on.Toggle {
				return v.wrong("ON or OFF")
			}
			d.then(resonate.Transport{Target: d.target, Action: resonate.ActionShuffle, Shuffle: on.On})
			return nil
		}},
		field{name: "announce", want: wantAnnouncement + " with `url`", set: func(d *draft, v value) *resonate.CommandError {
			return d.announce(v, "url")
		}},
		field{name: "say", want: wantAnnouncement + " with `text`", set: func(d *draft, v value) *resonate.CommandError {
			return d.announce(v, "text")
		}},
	)
}

const (
	wantMedia        = "a URL; or JSON: a list of URLs, or an object with `url`, `title`, `artist`, `album`, `artwork_url`, `enqueue` (`next` or `add`), or such objects in a list"
	wantAnnouncement = "the text or URL; or a JSON object, optionally with `volume`, `chime`, `priority`, `timeout` (s),"
)

func repeats() []string {
	return []string{string(protocol.RepeatOff), string(protocol.RepeatOne), string(protocol.RepeatAll)}
}

// word is one of some texts, in any case.
func (v value) word(words []string) (string, *resonate.CommandError) {
	want := "one of " + strings.Join(words, ", ")
	s, err := v.string(want)
	if err != nil {
		return "", err
	}
	if s = strings.ToLower(strings.TrimSpace(s)); !slices.Contains(words, s) {
		return "", v.wrong(want)
	}
	return s, nil
}

// structured reports whether v is a JSON object or list, also as a scalar payload.
func (v value) structured() bool {
	text := strings.TrimSpace(v.text)
	return strings.HasPrefix(text, "{") || strings.HasPrefix(text, "[")
}

// play adds the command that plays what v names.
func (d *draft) play(v value, enqueue resonate.Enqueue) *resonate.CommandError {
	cmd := resonate.PlayMedia{Target: d.target, Enqueue: enqueue}
	parts := []value{v}
	if text := strings.TrimSpace(v.text); strings.HasPrefix(text, "[") {
		var raw []json.RawMessage
		if json.Unmarshal([]byte(text), &raw) != nil || len(raw) == 0 {
			return v.wrong("a list of URLs")
		}
		parts = nil
		for i, r := range raw {
			parts = append(parts, value{v.field + "[" + strconv.Itoa(i) + "]", string(r), true})
		}
	}
	for _, p := range parts {
		item, err := p.media(&cmd)
		if err != nil {
			return err
		}
		cmd.Items = append(cmd.Items, item)
	}
	d.then(cmd)
	return nil
}

// media is one item: a URL, or an object.
func (v value) media(cmd *resonate.PlayMedia) (resonate.MediaItem, *resonate.CommandError) {
	var item resonate.MediaItem
	if !v.structured() {
		url, err := v.string("a URL")
		if err == nil {
			item.URL, err = v.address(url)
		}
		return item, err
	}
	pairs, err := object([]byte(v.text))
	if err != nil {
		return item, err
	}
	texts := map[string]*string{"url": &item.URL, "title": &item.Title, "artist": &item.Artist, "album": &item.Album, "artwork_url": &item.ArtworkURL}
	for _, p := range pairs {
		x := value{v.field + "." + p.key, string(p.raw), true}
		dst, known := texts[p.key]
		switch {
		case known:
			s, err := x.string("a text")
			if err != nil {
				return item, err
			}
			*dst = s
		case p.key == "enqueue":
			s, err := x.word([]string{"replace", string(resonate.EnqueueNext), string(resonate.EnqueueLast)})
			if err != nil {
				return item, err
			}
			if cmd.Enqueue = resonate.Enqueue(s); s == "replace" {
				cmd.Enqueue = ""
			}
		default:
			return item, unknown("key", p.key, []string{"url", "title", "artist", "album", "artwork_url", "enqueue"})
		}
	}
	item.URL, err = v.address(item.URL)
	return item, err
}

func (v value) address(url string) (string, *resonate.CommandError) {
	switch url = strings.TrimSpace(url); {
	case url == "":
		return "", v.wrong("a URL, like http://nas/song.mp3")
	case len(url) > fetch.MaxURL:
		return "", resonate.Errorf(resonate.CodeInvalidValue, "%s: a URL of %d bytes is too long; at most %d are taken", v.field, len(url), fetch.MaxURL)
	}
	return url, nil
}

// seek adds a jump to a position, or by a step.
func (d *draft) seek(v value, relative bool) *resonate.CommandError {
	const want = "a number of seconds"
	text := strings.TrimSpace(v.text)
	if v.json && strings.HasPrefix(text, `"`) {
		s, err := v.string(want)
		if err != nil {
			return err
		}
		text = strings.TrimSpace(s)
	}
	s, err := strconv.ParseFloat(text, 64)
	if err != nil || strings.Trim(text, "0123456789.-+") != "" || math.Abs(s) > 1e6 {
		return v.wrong(want)
	}
	cmd := resonate.Transport{Target: d.target, Action: resonate.ActionSeek, Position: time.Duration(s * float64(time.Second))}
	if relative || strings.HasPrefix(text, "+") || strings.HasPrefix(text, "-") {
		cmd.Action = resonate.ActionSeekBy
	}
	d.then(cmd)
	return nil
}

// announce adds an announcement; key says what a plain payload is.
func (d *draft) announce(v value, key string) *resonate.CommandError {
	cmd := resonate.Announce{Targets: []resonate.Target{d.target}}
	in := map[string]value{key: v}
	if v.structured() {
		pairs, err := object([]byte(v.text))
		if err != nil {
			return err
		}
		clear(in)
		for _, p := range pairs {
			if !slices.Contains(announceKeys(), p.key) {
				return unknown("key", p.key, announceKeys())
			}
			in[p.key] = value{v.field + "." + p.key, string(p.raw), true}
		}
	}
	if err := readAnnouncement(&cmd, in); err != nil {
		return err
	}
	d.then(cmd)
	return nil
}

func announceKeys() []string {
	return []string{"url", "text", "volume", "chime", "priority", "timeout"}
}

// readAnnouncement fills what an announcement says and how.
func readAnnouncement(cmd *resonate.Announce, in map[string]value) *resonate.CommandError {
	for key, dst := range map[string]*string{"url": &cmd.URL, "text": &cmd.Text} {
		if v, ok := in[key]; ok {
			s, err := v.string("a text")
			if err != nil {
				return err
			}
			if *dst, err = v.address(s); err != nil {
				return err
			}
		}
	}
	if (cmd.URL == "") == (cmd.Text == "") {
		return resonate.Errorf(resonate.CodeInvalidValue, "an announcement needs either url or text")
	}
	if v, ok := in["volume"]; ok {
		if err := v.into(&cmd.Volume, 0, 100); err != nil {
			return err
		}
	}
	if v, ok := in["chime"]; ok {
		on, err := v.mute()
		if err != nil || on.Toggle {
			return v.wrong("true or false")
		}
		cmd.Chime = &on.On
	}
	if v, ok := in["priority"]; ok {
		n, err := v.integer(-100, 100)
		if err != nil {
			return err
		}
		cmd.Priority = n
	}
	if v, ok := in["timeout"]; ok {
		n, err := v.integer(1, 3600)
		if err != nil {
			return err
		}
		cmd.Timeout = time.Duration(n) * time.Second
	}
	return nil
}

// slow reports whether a call may have to wait for what it plays.
func (c *call) slow() bool {
	media := func(cmd resonate.Command) bool {
		switch cmd.(type) {
		case resonate.PlayMedia, resonate.Transport, resonate.Announce:
			return true
		}
		return false
	}
	return media(c.command) || slices.ContainsFunc(c.then, media)
}

// readAnnounce reads bridge/request/announce and announce_all.
func readAnnounce(d decoder, c *call, in map[string]value) *resonate.CommandError {
	var cmd resonate.Announce
	if v, ok := in["targets"]; ok {
		names, err := v.list()
		if err != nil {
			return err
		}
		for _, name := range names {
			if d.s.Group(name) != nil {
				cmd.Targets = append(cmd.Targets, resonate.Target{GroupID: name})
			} else if p, err := d.findPlayer(name); err == nil {
				cmd.Targets = append(cmd.Targets, resonate.Target{PID: p.PID})
			} else if g, groupErr := d.findGroup(name); groupErr == nil {
				cmd.Targets = append(cmd.Targets, resonate.Target{GroupID: g.ID})
			} else {
				return err
			}
		}
	} else if c.name == "request/announce" {
		return missing("targets", "a list of speakers and groups")
	} else {
		for _, p := range d.s.Players {
			cmd.Targets = append(cmd.Targets, resonate.Target{PID: p.PID})
		}
	}
	c.command, c.lane = cmd, "bridge/announce"
	if err := readAnnouncement(&cmd, in); err != nil {
		return err
	}
	c.command = cmd
	return nil
}

// --- what is shown ---

// mediaOf is what g plays, for its JSON documents.
func mediaOf(g *resonate.Group) (media, position) {
	x := media{}
	if g != nil && g.Repeat != "" {
		x.Repeat, x.Shuffle = optional(string(g.Repeat)), &g.Shuffle
	}
	if g == nil || g.Media == nil {
		return x, position{}
	}
	m := g.Media
	x = media{
		Title: optional(m.Title), Artist: optional(m.Artist), AlbumArtist: optional(m.AlbumArtist), Album: optional(m.Album),
		URL: optional(m.URL), ArtHash: optional(m.ArtHash), Repeat: x.Repeat, Shuffle: x.Shuffle,
	}
	if m.ArtError != nil {
		text := string(m.ArtError.Code) + ": " + m.ArtError.Message
		x.ArtError = &text
	}
	if m.Year > 0 {
		x.Year = &m.Year
	}
	if m.Track > 0 {
		x.Track = &m.Track
	}
	if m.Duration > 0 {
		s := seconds(m.Duration)
		x.Duration = &s
	}
	at, speed := seconds(m.Position), float64(m.Speed)
	return x, position{Position: &at, At: instant(m.At), Speed: &speed}
}

// seconds has the milliseconds that a position is known to.
func seconds(d time.Duration) float64 { return math.Round(d.Seconds()*1000) / 1000 }

// mediaTopics adds the scalars of what g plays, its position and its picture.
func mediaTopics(dst []retained, topic string, g *resonate.Group) []retained {
	m := resonate.Media{}
	if g != nil && g.Media != nil {
		m = *g.Media
	}
	duration := none
	if m.Duration > 0 {
		duration = strconv.FormatFloat(seconds(m.Duration), 'f', -1, 64)
	}
	for _, s := range [...]struct{ leaf, value string }{
		{"title", first(oneLine(m.Title), none)},
		{"artist", first(oneLine(m.Artist), none)},
		{"album", first(oneLine(m.Album), none)},
		{"duration", duration},
	} {
		dst = append(dst, scalar(topic, s.leaf, s.value))
	}
	_, at := mediaOf(g)
	return append(
		dst,
		retained{topic + "/art", m.Art, mqtt.ClassState},
		retained{topic + "/position", encode(struct {
			position
			Duration *float64 `json:"duration"`
		}{at, durationOf(m)}), mqtt.ClassTelemetry},
	)
}

func durationOf(m resonate.Media) *float64 {
	if m.Duration == 0 {
		return nil
	}
	s := seconds(m.Duration)
	return &s
}

// transportRows are the media entities of players and groups.
func transportRows() []row {
	button := func(key, name, icon string) row {
		return row{key: key, platform: "button", name: name, icon: icon, command: "set/" + key, tells: "acts on the whole group"}
	}
	sensor := func(key, name, icon string, disabled bool) row {
		return row{key: key, platform: "sensor", name: name, icon: icon, disabled: disabled, value: text("value_json.media." + key), tells: "of what plays"}
	}
	return []row{
		button("play", "Play", "mdi:play"),
		button("pause", "Pause", "mdi:pause"),
		button("stop", "Stop", "mdi:stop"),
		button("next", "Next", "mdi:skip-next"),
		button("previous", "Previous", "mdi:skip-previous"),
		sensor("title", "Title", "mdi:music-note", false),
		sensor("artist", "Artist", "mdi:account-music", false),
		sensor("album", "Album", "mdi:album", true),
		{
			key: "duration", platform: "sensor", name: "Duration", class: "duration", disabled: true, unit: "s",
			value: "{{ value_json.media.duration }}", tells: "seconds; unknown for radio",
		},
		{
			key: "position", platform: "sensor", name: "Position", class: "duration", category: diagnostics, disabled: true, unit: "s",
			topic: "position", value: "{{ value_json.position }}", tells: "seconds, at the time in the topic; on change",
		},
		{
			key: "artwork", platform: "image", name: "Artwork", icon: "mdi:image-album", topic: "art", tells: "JPEG of what plays",
		},
		{
			key: "play_url", platform: "text", name: "Play URL", icon: "mdi:link-variant", value: text("value_json.media.url"),
			command: "set/play_url", tells: "plays it",
		},
		{
			key: "repeat", platform: "select", name: "Repeat", icon: "mdi:repeat", value: "{{ value_json.media.repeat or 'off' }}",
			options: repeats(), command: "set/repeat", disabled: true, tells: "what follows the end of an item",
		},
		{
			key: "shuffle", platform: "switch", name: "Shuffle", icon: "mdi:shuffle", value: onOff("value_json.media.shuffle"),
			command: "set/shuffle", disabled: true, tells: "the queue in random order",
		},
		{
			key: "say", platform: "notify", name: "Announce", icon: "mdi:bullhorn", command: "set/say", when: func(d *device) bool { return d.speech },
			tells: "speaks a text; only with a speech service",
		},
	}
}
