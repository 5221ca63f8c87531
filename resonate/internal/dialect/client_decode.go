package dialect

import (
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"

	"resonatebridge/resonate/protocol"
	"resonatebridge/timesync"
)

// Decode reads a frame of the server. The message is nil if the frame is one
// to ignore; changes are merged, so states come out complete. The data of an
// [protocol.AudioChunk] aliases f, everything else is a copy. The error is a
// [*protocol.DecodeError]: the message is to be dropped, the connection goes on.
func (w *ClientWire) Decode(f Frame) (protocol.ServerMessage, error) {
	if f.Binary {
		return w.decodeAudio(f.Data)
	}
	m, err := w.decode(f)
	if err != nil {
		return nil, err
	}
	return m, nil
}

func (w *ClientWire) decodeAudio(data []byte) (protocol.ServerMessage, error) {
	header := w.audioHeader()
	if len(data) < header {
		return nil, &protocol.DecodeError{Msg: "binary frame", At: "length", Got: strconv.Itoa(len(data)), Want: fmt.Sprintf("at least %d bytes", header)}
	}
	if data[0] != w.name.audioType() {
		return nil, nil
	}
	c := protocol.AudioChunk{
		Timestamp: timesync.Micros(binary.BigEndian.Uint64(data[1:audioHeader])),
		Data:      data[header:],
	}
	if header > audioHeader {
		c.SendAhead = binary.BigEndian.Uint32(data[audioHeader:header])
	}
	return c, nil
}

func (w *ClientWire) decode(f Frame) (protocol.ServerMessage, error) {
	typ, p, err := envelope(f.Data, nil)
	if err != nil {
		return nil, err
	}
	if w.name.encrypted() {
		if m, ours, err := w.decodeEncrypted(typ, p); ours {
			return m, err
		}
	}
	switch typ {
	case "server/hello":
		return w.decodeHello(p)
	case "server/time":
		return decodeTime(p)
	case "server/state":
		return w.decodeState(p)
	case "server/command":
		return decodeCommand(p)
	case "group/update":
		if p.has("members") || p.has("supported_commands") { // R1
			c, err := w.decodeController(p)
			return protocol.ServerState{Controller: c}, err
		}
		err := w.mergeGroup(p)
		return w.group, err
	case "session/update":
		return w.decodeSession(p)
	case "group/list":
		return decodeList(p)
	case "stream/start":
		return w.decodeStart(p, false)
	case "stream/update":
		return w.decodeStart(p, true)
	case "stream/clear":
		roles, ok, err := decodeRoles(p)
		if !ok {
			return nil, err
		}
		at, err := w.transmitted(p)
		return protocol.StreamClear{Roles: roles, Transmitted: at}, err
	case "stream/end":
		roles, ok, err := decodeRoles(p)
		if !ok {
			return nil, err
		}
		if concernsPlayer(roles) {
			w.stream = nil
		}
		return protocol.StreamEnd{Roles: roles}, nil
	}
	return nil, nil
}

// isKey reports whether an id is a public key. A server that has one sends
// complete states.
func isKey(id string) bool {
	key, err := base64.RawURLEncoding.DecodeString(id)
	return err == nil && len(key) == 32
}

func (w *ClientWire) decodeHello(p object) (protocol.ServerMessage, error) {
	id, err := p.text("server_id")
	if err == nil && id == "" {
		err = p.bad("server_id", "the id of the server")
	}
	if err != nil {
		return nil, err
	}
	v, err := p.needNumber("version", 0, math.MaxInt32)
	if err != nil {
		return nil, err
	}
	h := protocol.ServerHello{ServerID: id, Name: p.label("name"), Version: v, Reason: protocol.ReasonDiscovery}
	if reason, err := p.text("connection_reason"); err != nil {
		return nil, err
	} else if reason == string(protocol.ReasonPlayback) {
		h.Reason = protocol.ReasonPlayback
	}
	active, err := p.texts("active_roles")
	if err != nil {
		return nil, err
	}
	if active == nil { // R1 and R2: whatever was offered
		h.ActiveRoles = slices.Clone(w.offered)
	}
	for _, id := range active {
		if r := family(id); r != "" {
			h.ActiveRoles = append(h.ActiveRoles, r)
		}
	}
	w.full = isKey(id)
	return h, nil
}

func decodeTime(p object) (protocol.ServerMessage, error) {
	var t protocol.ServerTime
	for _, field := range []struct {
		key string
		dst *timesync.Micros
	}{
		{"client_transmitted", &t.ClientTransmitted},
		{"server_received", &t.ServerReceived},
		{"server_transmitted", &t.ServerTransmitted},
	} {
		v, err := p.micros(field.key)
		if err != nil {
			return nil, err
		}
		*field.dst = timesync.Micros(v)
	}
	return t, nil
}

func (w *ClientWire) decodeState(p object) (protocol.ServerMessage, error) {
	var s protocol.ServerState
	var err error
	if m, ok, oerr := p.object("metadata"); oerr != nil {
		return nil, oerr
	} else if ok {
		if s.Metadata, err = w.decodeMetadata(m); err != nil {
			return nil, err
		}
	} else if p.cleared("metadata") {
		w.metadata = protocol.Metadata{Repeat: protocol.RepeatOff}
		s.Metadata = new(w.metadata)
	}
	if c, ok, oerr := p.object("controller"); oerr != nil {
		return nil, oerr
	} else if ok {
		if s.Controller, err = w.decodeController(c); err != nil {
			return nil, err
		}
	} else if p.cleared("controller") {
		w.controller = protocol.ControllerState{Repeat: protocol.RepeatOff}
		s.Controller = new(w.controller)
	}
	if s == (protocol.ServerState{}) {
		return nil, nil // of roles that the model does not have
	}
	return s, nil
}

// decodeMetadata merges o into what was known: null clears, absent leaves.
func (w *ClientWire) decodeMetadata(o object) (*protocol.Metadata, error) {
	m := w.metadata
	if w.full {
		m = protocol.Metadata{Repeat: protocol.RepeatOff}
	}
	at, err := o.micros("timestamp")
	if err != nil {
		return nil, err
	}
	m.Timestamp = timesync.Micros(at)
	for _, field := range []struct {
		key string
		dst *string
	}{
		{"title", &m.Title},
		{"artist", &m.Artist},
		{"album_artist", &m.AlbumArtist},
		{"album", &m.Album},
		{"artwork_url", &m.ArtworkURL},
	} {
		if _, there := o.fields[field.key]; !there {
			continue
		}
		if *field.dst, err = o.text(field.key); err != nil {
			return nil, err
		}
	}
	for _, field := range []struct {
		key string
		dst *int
	}{{"year", &m.Year}, {"track", &m.Track}} {
		if err := o.mergeNumber(field.key, math.MaxInt32, field.dst); err != nil {
			return nil, err
		}
	}
	if m.Progress, err = w.decodeProgress(o, m.Progress); err != nil {
		return nil, err
	}
	if err := o.mergeModes(&m.Repeat, &m.Shuffle); err != nil {
		return nil, err
	}
	w.metadata = m
	return &m, nil
}

// mergeNumber sets *dst to the number at key: 0 if it is null, unchanged if it
// is absent.
func (o object) mergeNumber(key string, limit int, dst *int) error {
	v, err := o.number(key, 0, limit)
	switch {
	case err != nil:
		return err
	case v != nil:
		*dst = *v
	case o.cleared(key):
		*dst = 0
	}
	return nil
}

// mergeModes reads repeat and shuffle, which stand in the metadata until S3
// and in the controller from S4 on.
func (o object) mergeModes(repeat *protocol.Repeat, shuffle *bool) error {
	r, err := o.text("repeat")
	if err != nil {
		return err
	}
	switch v := protocol.Repeat(r); v {
	case protocol.RepeatOff, protocol.RepeatOne, protocol.RepeatAll:
		*repeat = v
	}
	s, err := o.boolean("shuffle")
	if err != nil {
		return err
	}
	if s != nil {
		*shuffle = *s
	}
	return nil
}

// decodeProgress reads a position: in an object, or flat in the metadata, where
// R1 counts in seconds and R2 in milliseconds.
func (w *ClientWire) decodeProgress(o object, old *protocol.Progress) (*protocol.Progress, error) {
	in, nested, err := o.object("progress")
	if err != nil {
		return nil, err
	}
	if o.cleared("progress") {
		return nil, nil
	}
	if !nested {
		in = o
		if o.cleared("track_progress") {
			return nil, nil
		}
		if !o.has("track_progress") && !o.has("track_duration") && !o.has("playback_speed") {
			return old, nil
		}
	}
	var p protocol.Progress
	if old != nil && !nested {
		p = *old
	}
	if !nested && w.name == R1 {
		return &p, in.mergeSeconds(&p)
	}
	for _, field := range []struct {
		key string
		dst *int
	}{
		{"track_progress", &p.PositionMs}, {"track_duration", &p.DurationMs}, {"playback_speed", &p.SpeedPermille},
	} {
		if err := in.mergeNumber(field.key, math.MaxInt32, field.dst); err != nil {
			return nil, err
		}
	}
	return &p, nil
}

// mergeSeconds reads a position as R1 spells it.
func (o object) mergeSeconds(p *protocol.Progress) error {
	for _, field := range []struct {
		key string
		dst *int
	}{
		{"track_progress", &p.PositionMs}, {"track_duration", &p.DurationMs}, {"playback_speed", &p.SpeedPermille},
	} {
		raw, ok := o.get(field.key)
		if !ok {
			if o.cleared(field.key) {
				*field.dst = 0
			}
			continue
		}
		f, err := strconv.ParseFloat(string(raw), 64)
		if err != nil || !isNumber(raw) || f < 0 || f > math.MaxInt32/1000 {
			return o.bad(field.key, fmt.Sprintf("a number from 0 to %d", math.MaxInt32/1000))
		}
		*field.dst = int(math.Round(f * 1000))
	}
	return nil
}

// decodeController merges o into what was known.
func (w *ClientWire) decodeController(o object) (*protocol.ControllerState, error) {
	c := w.controller
	if w.name == G2 { // complete
		c = protocol.ControllerState{Repeat: protocol.RepeatOff}
	}
	if c.Repeat == "" {
		c.Repeat, c.Shuffle = orOff(w.metadata.Repeat), w.metadata.Shuffle
	}
	names, err := o.texts("supported_commands")
	if err != nil {
		return nil, err
	}
	if names != nil {
		c.Commands = nil
		for _, n := range names {
			c.Commands = append(c.Commands, protocol.ControllerCommandName(n))
		}
	}
	if err := o.mergeNumber("volume", protocol.VolumeMax, &c.Volume); err != nil {
		return nil, err
	}
	if muted, err := o.boolean("muted"); err != nil {
		return nil, err
	} else if muted != nil {
		c.Muted = *muted
	}
	if err := o.mergeModes(&c.Repeat, &c.Shuffle); err != nil {
		return nil, err
	}
	if err := o.mergeNumber("seek_max_ms", math.MaxInt32, &c.SeekMaxMs); err != nil {
		return nil, err
	}
	members, err := o.objects("members")
	if err != nil {
		return nil, err
	}
	if members != nil {
		c.Members = nil
	}
	for _, m := range members {
		id, err := m.text("client_id")
		if err != nil {
			return nil, err
		}
		c.Members = append(c.Members, protocol.GroupMember{ClientID: id, Name: m.label("name")})
	}
	w.controller = c
	return &c, nil
}

func decodeCommand(p object) (protocol.ServerMessage, error) {
	o, ok, err := p.object("player")
	if err != nil {
		return nil, err
	}
	if !ok {
		if !p.has("command") {
			return nil, nil // to another role
		}
		o = p // harperreed/resonate-go
	}
	name, err := o.text("command")
	if err != nil {
		return nil, err
	}
	var c protocol.ServerCommand
	switch name {
	case "volume":
		c.Command = protocol.CommandVolume
		c.Volume, err = o.needNumber("volume", 0, protocol.VolumeMax)
	case "mute":
		c.Command = protocol.CommandMute
		c.Mute, err = o.needBoolean("mute")
	case "set_static_delay":
		c.Command = protocol.CommandSetOutputDelay
		c.OutputDelayMs, err = o.needNumber("static_delay_ms", 0, protocol.OutputDelayMaxMs)
	case "set_output_delay":
		c.Command = protocol.CommandSetOutputDelay
		c.OutputDelayMs, err = o.needNumber("output_delay_ms", 0, protocol.OutputDelayMaxMs)
	case "":
		return nil, o.bad("command", "the name of a command")
	default:
		return nil, nil
	}
	return c, err
}

// mergeGroup merges p into what was known of the group; unknown states leave
// the old one.
func (w *ClientWire) mergeGroup(p object) error {
	g := w.group
	for _, field := range []struct {
		key string
		dst *string
	}{{"group_id", &g.GroupID}, {"group_name", &g.GroupName}} {
		if _, there := p.fields[field.key]; !there {
			continue
		}
		var err error
		if *field.dst, err = p.text(field.key); err != nil {
			return err
		}
	}
	state, err := p.text("playback_state")
	if err != nil {
		return err
	}
	switch s := protocol.PlaybackState(state); {
	case s == protocol.PlaybackPlaying, s == protocol.PlaybackPaused, s == protocol.PlaybackStopped:
		g.PlaybackState = s
	case g.PlaybackState == "" || p.cleared("playback_state"):
		g.PlaybackState = protocol.PlaybackStopped
	}
	w.group = g
	return nil
}

// decodeSession reads R1's session/update: the group, or group and metadata.
func (w *ClientWire) decodeSession(p object) (protocol.ServerMessage, error) {
	if id, err := p.text("group_id"); err != nil || id == "" {
		return nil, p.bad("group_id", "the id of a group")
	}
	if err := w.mergeGroup(p); err != nil {
		return nil, err
	}
	o, ok, err := p.object("metadata")
	if err != nil || !ok {
		return w.group, err
	}
	m, err := w.decodeMetadata(o)
	return protocol.ServerState{Metadata: m, Group: new(w.group)}, err
}

func decodeList(p object) (protocol.ServerMessage, error) {
	entries, err := p.objects("groups")
	if err != nil {
		return nil, err
	}
	var l protocol.GroupList
	for _, e := range entries {
		id, err := e.text("group_id")
		if err != nil || id == "" {
			return nil, e.bad("group_id", "the id of a group")
		}
		g := protocol.GroupListEntry{GroupID: id, Name: e.label("name"), State: protocol.PlaybackStopped}
		state, err := e.text("state")
		if err != nil {
			return nil, err
		}
		if s := protocol.PlaybackState(state); s == protocol.PlaybackPlaying || s == protocol.PlaybackPaused {
			g.State = s
		}
		if err := e.mergeNumber("member_count", math.MaxInt32, &g.MemberCount); err != nil {
			return nil, err
		}
		l.Groups = append(l.Groups, g)
	}
	return l, nil
}

// decodeStart reads stream/start, and stream/update of R1 and R2, which holds
// only what changes.
func (w *ClientWire) decodeStart(p object, update bool) (protocol.ServerMessage, error) {
	at, err := w.transmitted(p)
	if err != nil {
		return nil, err
	}
	o, ok, err := p.object("player")
	if err != nil {
		return nil, err
	}
	if !ok {
		return protocol.StreamStart{Transmitted: at}, nil
	}
	var s protocol.StreamPlayer
	if update && w.stream != nil {
		s = *w.stream
		err = o.mergeFormat(&s)
	} else {
		s.Format, err = o.format()
	}
	if err != nil {
		return nil, err
	}
	header, err := o.text("codec_header")
	if err != nil {
		return nil, err
	}
	if header != "" {
		s.CodecHeader, err = base64.RawStdEncoding.DecodeString(strings.TrimRight(header, "="))
		if err != nil {
			return nil, o.bad("codec_header", "base64")
		}
	}
	w.stream = &s
	return protocol.StreamStart{Player: new(s), Transmitted: at}, nil
}

// mergeFormat changes what o names. The setup of another codec is void.
func (o object) mergeFormat(s *protocol.StreamPlayer) error {
	f, err := o.partialFormat()
	if err != nil {
		return err
	}
	if f.Codec != "" && f.Codec != s.Codec {
		s.Codec, s.CodecHeader = f.Codec, nil
	}
	for _, part := range []struct{ from, to *int }{
		{&f.Channels, &s.Channels}, {&f.SampleRate, &s.SampleRate}, {&f.BitDepth, &s.BitDepth},
	} {
		if *part.from != 0 {
			*part.to = *part.from
		}
	}
	return nil
}

// decodeRoles reads the roles of a stream message, with or without versions:
// nil for all. ok is false if they are all unknown, or on error.
func decodeRoles(p object) (roles []protocol.Role, ok bool, err error) {
	names, err := p.texts("roles")
	if err != nil {
		return nil, false, err
	}
	for _, n := range names {
		name, _, _ := strings.Cut(n, "@")
		if r := family(name); r != "" {
			roles = append(roles, r)
		}
	}
	return roles, names == nil || roles != nil, nil
}
