package dialect

import (
	"encoding/base64"
	"fmt"
	"slices"

	"resonatebridge/resonate/protocol"
)

// Encode spells a message for the client: as no frame if the dialect has no
// words for it or the client did not declare what it takes, as several if the
// dialect needs them. The error says that m itself is wrong; nothing may be
// sent then.
func (w *ServerWire) Encode(m protocol.ServerMessage) ([]Frame, error) {
	if w.class.encrypted() {
		if frames, ours, err := w.encodeEncrypted(m); ours {
			return frames, err
		}
	}
	switch m := m.(type) {
	case protocol.ServerHello:
		return one(w.encodeHello(m)), nil
	case protocol.ServerTime:
		return one(Frame{Data: w.AppendTime(nil, m)}), nil
	case protocol.GroupUpdate:
		return w.encodeGroup(m), nil
	case protocol.ServerState:
		var frames []Frame
		if m.Group != nil {
			frames = w.encodeGroup(*m.Group)
		}
		return append(frames, w.encodeState(m)...), nil
	case protocol.ServerCommand:
		return w.encodeCommand(m)
	case protocol.StreamStart:
		return w.encodeStart(m)
	case protocol.StreamClear:
		return w.encodeClear(m), nil
	case protocol.StreamEnd:
		return w.encodeEnd(m), nil
	case protocol.GroupList:
		return w.encodeList(m), nil
	case protocol.ArtworkImage:
		return w.encodeImage(m), nil
	case protocol.VisualizerFrame:
		return w.encodeVisual(m), nil
	case protocol.ServerActivate, protocol.ServerUnpair:
		return nil, nil // of encrypted dialects
	case protocol.AudioChunk:
		return one(Frame{Binary: true, Data: w.AppendAudio(make([]byte, 0, audioHeader+len(m.Data)), m)}), nil
	}
	if _, ok := encodeServerPairing(m); ok {
		return nil, nil // there is no pairing in plaintext
	}
	return nil, fmt.Errorf("dialect: encode: %T is no message of a server", m)
}

func one(f Frame) []Frame { return []Frame{f} }

// wireHello has the three fields of R1 and what later dialects added. Strict
// clients of Sendspin need all five.
type wireHello struct {
	ServerID         string                    `json:"server_id"`
	Name             string                    `json:"name"`
	Version          int                       `json:"version"`
	ActiveRoles      *[]string                 `json:"active_roles,omitempty"`
	ConnectionReason protocol.ConnectionReason `json:"connection_reason,omitempty"`
}

func (w *ServerWire) encodeHello(m protocol.ServerHello) Frame {
	h := wireHello{ServerID: m.ServerID, Name: m.Name, Version: 1}
	if w.class != R1 {
		h.ConnectionReason = protocol.ReasonDiscovery // others make strict clients reject the hello
		if m.Reason == protocol.ReasonPlayback {
			h.ConnectionReason = protocol.ReasonPlayback
		}
	}
	if w.class.sendspin() {
		active := make([]string, 0, len(m.ActiveRoles))
		for _, r := range m.ActiveRoles {
			if id, offered := w.ids[r]; offered {
				active = append(active, id) // as the client spelled it
			}
		}
		h.ActiveRoles = &active
	}
	return text("server/hello", h)
}

type wireGroup struct {
	PlaybackState protocol.PlaybackState `json:"playback_state"`
	GroupID       string                 `json:"group_id"`
	GroupName     string                 `json:"group_name"`
}

func (w *ServerWire) encodeGroup(m protocol.GroupUpdate) []Frame {
	if w.class != R1 {
		if m.PlaybackState == protocol.PlaybackPaused {
			m.PlaybackState = protocol.PlaybackStopped // the word went in December 2025; sendspin-rs drops the message
		}
		return one(text("group/update", wireGroup(m)))
	}
	before := w.sessionID()
	w.group = &m
	out := one(text("session/update", w.session(w.metadata)))
	w.metadata = nil
	if after := w.sessionID(); w.controller != nil && !equal(before, after) {
		out = append(out, w.controls(*w.controller))
	}
	return out
}

// wireSession is R1's session/update.
type wireSession struct {
	GroupID       string                 `json:"group_id"`
	PlaybackState protocol.PlaybackState `json:"playback_state,omitempty"`
	Metadata      *wireTrack             `json:"metadata,omitempty"`
}

// session makes R1's session/update; the group must be known.
func (w *ServerWire) session(m *protocol.Metadata) wireSession {
	s := wireSession{GroupID: w.group.GroupID, PlaybackState: w.group.PlaybackState}
	if m != nil {
		t := newTrack(*m)
		t.trackTimes = new(trackTimes)
		if p := m.Progress; p != nil {
			t.trackTimes = &trackTimes{Position: new(max(0, p.PositionMs/1000)), Duration: positive(p.DurationMs / 1000)}
			if p.SpeedPermille > 0 { // R1's reference client rejects the whole message for a 0
				t.Speed = new(float64(p.SpeedPermille) / 1000)
			}
		}
		s.Metadata = &t
	}
	return s
}

// sessionID is R1's: the group while it has something to play, else nil.
func (w *ServerWire) sessionID() *string {
	if w.group == nil || w.group.PlaybackState == protocol.PlaybackStopped {
		return nil
	}
	return &w.group.GroupID
}

// wireTrack is metadata. Texts and numbers are null to clear them; what R1's
// reference client would reject is null too.
type wireTrack struct {
	Timestamp   int64           `json:"timestamp"`
	Title       *string         `json:"title"`
	Artist      *string         `json:"artist"`
	AlbumArtist *string         `json:"album_artist"`
	Album       *string         `json:"album"`
	ArtworkURL  *string         `json:"artwork_url"`
	Year        *int            `json:"year"`
	Track       *int            `json:"track"`
	Repeat      protocol.Repeat `json:"repeat"`
	Shuffle     bool            `json:"shuffle"`
	*trackTimes                 // R1 and R2
}

// trackTimes is a position as R1 and early R2 spell it.
type trackTimes struct {
	Position *int     `json:"track_progress"`
	Duration *int     `json:"track_duration"`
	Speed    *float64 `json:"playback_speed,omitempty"`
}

func newTrack(m protocol.Metadata) wireTrack {
	t := wireTrack{
		Timestamp: int64(m.Timestamp),
		Title:     filled(m.Title), Artist: filled(m.Artist), AlbumArtist: filled(m.AlbumArtist),
		Album: filled(m.Album), ArtworkURL: filled(m.ArtworkURL),
		Track: positive(m.Track), Repeat: orOff(m.Repeat), Shuffle: m.Shuffle,
	}
	if m.Year >= 1000 && m.Year <= 2040 { // the bounds of the reference clients 1.x
		t.Year = &m.Year
	}
	return t
}

func filled(s string) *string {
	if s == "" {
		return nil
	}
	return &s
}

func positive(n int) *int {
	if n <= 0 {
		return nil
	}
	return &n
}

func orOff(r protocol.Repeat) protocol.Repeat {
	if r == "" {
		return protocol.RepeatOff
	}
	return r
}

func equal(a, b *string) bool {
	return a == b || a != nil && b != nil && *a == *b
}

// wireProgress is a position in milliseconds, speed times 1000.
type wireProgress struct {
	Position int `json:"track_progress"`
	Duration int `json:"track_duration"`
	Speed    int `json:"playback_speed"`
}

// wireMetadata is metadata from R2 on.
type wireMetadata struct {
	wireTrack
	Progress *wireProgress `json:"progress"`
}

// wireController is always complete: cpp replaces the object, rs requires it.
type wireController struct {
	Commands  []protocol.ControllerCommandName `json:"supported_commands"`
	Volume    int                              `json:"volume"`
	Muted     bool                             `json:"muted"`
	Repeat    protocol.Repeat                  `json:"repeat,omitempty"`  // from S1 on
	Shuffle   *bool                            `json:"shuffle,omitempty"` // from S1 on
	SeekMaxMs *int                             `json:"seek_max_ms,omitempty"`
}

// wireState omits what did not change; a null would be taken as that by some
// clients and as an error by others.
type wireState struct {
	Metadata   *wireMetadata   `json:"metadata,omitempty"`
	Controller *wireController `json:"controller,omitempty"`
	Color      *wireColors     `json:"color,omitempty"`
}

func (w *ServerWire) encodeState(m protocol.ServerState) []Frame {
	if w.class == R1 {
		return w.encodeStateR1(m)
	}
	var s wireState
	if m.Metadata != nil {
		s.Metadata = w.newMetadata(*m.Metadata)
	}
	if m.Controller != nil {
		s.Controller = w.newController(*m.Controller)
	}
	if m.Color != nil && w.ids[protocol.RoleColor] != "" {
		s.Color = newColors(*m.Color)
	}
	if s == (wireState{}) {
		return nil
	}
	return one(text("server/state", s))
}

func newProgress(p *protocol.Progress) *wireProgress {
	if p == nil {
		return nil
	}
	return &wireProgress{Position: max(0, p.PositionMs), Duration: max(0, p.DurationMs), Speed: max(0, p.SpeedPermille)}
}

func (w *ServerWire) newMetadata(m protocol.Metadata) *wireMetadata {
	t := &wireMetadata{wireTrack: newTrack(m)}
	t.Progress = newProgress(m.Progress)
	if w.class == R2 { // until 2025-11-17 without the object around it; both are sent
		t.trackTimes = new(trackTimes)
		if p := t.Progress; p != nil {
			t.trackTimes = &trackTimes{Position: &p.Position, Duration: &p.Duration, Speed: new(float64(p.Speed))}
		}
	}
	return t
}

func (w *ServerWire) newController(m protocol.ControllerState) *wireController {
	c := &wireController{
		Commands: []protocol.ControllerCommandName{},
		Volume:   min(max(m.Volume, 0), protocol.VolumeMax), Muted: m.Muted,
	}
	// Clients before 2026-05 read the commands as an enumeration and lose the
	// whole message for a word they do not know.
	modern := w.knows(learnedModern) && !w.oldKeys
	for _, name := range m.Commands {
		switch name {
		case protocol.ControlSeek:
			if !modern || m.SeekMaxMs <= 0 { // without a range it may not be offered
				continue
			}
			c.SeekMaxMs = &m.SeekMaxMs
		case protocol.ControlSeekRelative:
			if !modern {
				continue
			}
		default:
		}
		c.Commands = append(c.Commands, name)
	}
	if w.class.sendspin() { // also in metadata, where clients before 2026-05 look
		c.Repeat, c.Shuffle = orOff(m.Repeat), &m.Shuffle
	}
	return c
}

// encodeStateR1 spells the parts as messages of their own. Metadata has to name
// the group, so it waits for one.
func (w *ServerWire) encodeStateR1(m protocol.ServerState) []Frame {
	var out []Frame
	switch {
	case m.Metadata == nil:
	case w.group == nil:
		w.metadata = m.Metadata
	default:
		out = append(out, text("session/update", w.session(m.Metadata)))
	}
	if m.Controller != nil {
		w.controller = m.Controller
		out = append(out, w.controls(*m.Controller))
	}
	return out
}

// wireMembers is R1's group/update.
type wireMembers struct {
	Commands  []protocol.ControllerCommandName `json:"supported_commands"`
	Members   []wireMember                     `json:"members"`
	SessionID *string                          `json:"session_id"`
	Volume    int                              `json:"volume"`
	Muted     bool                             `json:"muted"`
}

type wireMember struct {
	ClientID string `json:"client_id"`
	Name     string `json:"name"`
}

// controlOfR1 reports whether R1 has the command. Its seek has no position, so
// it is not offered.
func controlOfR1(c protocol.ControllerCommandName) bool {
	switch c {
	case protocol.ControlPlay, protocol.ControlPause, protocol.ControlStop, protocol.ControlNext, protocol.ControlPrevious,
		protocol.ControlVolume, protocol.ControlMute:
		return true
	default:
		return false
	}
}

func (w *ServerWire) controls(m protocol.ControllerState) Frame {
	u := wireMembers{
		Commands: []protocol.ControllerCommandName{}, Members: []wireMember{},
		SessionID: w.sessionID(), Volume: min(max(m.Volume, 0), protocol.VolumeMax), Muted: m.Muted,
	}
	for _, name := range m.Commands {
		if controlOfR1(name) {
			u.Commands = append(u.Commands, name)
		}
	}
	for _, member := range m.Members {
		u.Members = append(u.Members, wireMember(member))
	}
	return text("group/update", u)
}

// wirePlayerCommand has exactly one parameter besides the command.
type wirePlayerCommand struct {
	Command       string `json:"command"`
	Volume        *int   `json:"volume,omitempty"`
	Mute          *bool  `json:"mute,omitempty"`
	StaticDelayMs *int   `json:"static_delay_ms,omitempty"`
	OutputDelayMs *int   `json:"output_delay_ms,omitempty"`
}

// encodeCommand gives only commands that the client declared, the delay in the
// spelling in which it did.
func (w *ServerWire) encodeCommand(m protocol.ServerCommand) ([]Frame, error) {
	set := w.commands()
	c := wirePlayerCommand{Command: string(m.Command)}
	value, limit := 0, 0
	switch m.Command {
	case protocol.CommandVolume:
		set &= commandVolume
		value, limit = m.Volume, protocol.VolumeMax
		c.Volume = &m.Volume
	case protocol.CommandMute:
		set &= commandMute
		c.Mute = &m.Mute
	case protocol.CommandSetOutputDelay:
		set &= commandStaticDelay | commandOutputDelay
		value, limit = m.OutputDelayMs, protocol.OutputDelayMaxMs
		if set&commandOutputDelay != 0 {
			c.Command, c.OutputDelayMs = "set_output_delay", &m.OutputDelayMs
		} else {
			c.Command, c.StaticDelayMs = "set_static_delay", &m.OutputDelayMs
		}
	default:
		return nil, fmt.Errorf("dialect: encode: server/command: got %.64q, want volume, mute or set_output_delay", string(m.Command))
	}
	if value < 0 || value > limit {
		return nil, fmt.Errorf("dialect: encode: server/command: %s: got %d, want 0 to %d", m.Command, value, limit)
	}
	if set == 0 {
		return nil, nil
	}
	return one(text("server/command", struct {
		Player wirePlayerCommand `json:"player"`
	}{c})), nil
}

// wireFormat has all four fields, also where a codec does not need one.
type wireFormat struct {
	Codec       string `json:"codec"`
	SampleRate  int    `json:"sample_rate"`
	Channels    int    `json:"channels"`
	BitDepth    int    `json:"bit_depth"`
	CodecHeader string `json:"codec_header,omitempty"` // base64 with padding
}

type wireStream struct {
	Player wireFormat `json:"player"`
}

func newStream(p protocol.StreamPlayer) wireStream {
	f := newFormat(p.Format)
	f.CodecHeader = base64.StdEncoding.EncodeToString(p.CodecHeader)
	return wireStream{f}
}

func newFormat(f protocol.Format) wireFormat {
	return wireFormat{Codec: f.Codec, SampleRate: f.SampleRate, Channels: f.Channels, BitDepth: f.BitDepth}
}

func checkStart(p protocol.StreamPlayer) error {
	switch {
	case p.Codec == "" || p.SampleRate <= 0 || p.Channels <= 0 || p.BitDepth < 0:
		return fmt.Errorf("dialect: encode: stream/start: the format %+v is incomplete", p.Format)
	case p.Codec == "flac" && len(p.CodecHeader) == 0:
		return fmt.Errorf("dialect: encode: stream/start: flac without its codec header")
	}
	return nil
}

// encodeStart names one role, so that a client that rejects a part of the
// message loses nothing else.
func (w *ServerWire) encodeStart(m protocol.StreamStart) ([]Frame, error) {
	var more []Frame
	if m.Artwork != nil {
		more = append(more, w.encodeArtworkStart(*m.Artwork)...)
	}
	if m.Visualizer != nil {
		more = append(more, w.encodeVisualizerStart(*m.Visualizer)...)
	}
	p := m.Player
	if p == nil {
		return more, nil
	}
	if err := checkStart(*p); err != nil {
		return nil, err
	}
	typ := "stream/start"
	if w.class == R1 && w.stream != nil {
		typ = "stream/update" // R1's start is not for running streams
	}
	w.stream = p
	return append(one(text(typ, newStream(*p))), more...), nil
}

// wireRoles always is an object; sendspin-js and sendspin-rs need one.
type wireRoles struct {
	Roles []string `json:"roles,omitempty"`
}

// rolesOf names the roles, or leaves them out towards clients that compare them
// with versioned ids and would drop the message.
func (w *ServerWire) rolesOf(roles []protocol.Role) (r wireRoles) {
	if w.NamesRoles() {
		for _, role := range roles {
			r.Roles = append(r.Roles, bare(role))
		}
	}
	return r
}

// concernsPlayer reports whether roles, empty for all, hold the player. Where
// roles can't be named, nothing else may be ended or cleared.
func concernsPlayer(roles []protocol.Role) bool {
	return len(roles) == 0 || slices.Contains(roles, protocol.RolePlayer)
}

func (w *ServerWire) encodeClear(m protocol.StreamClear) []Frame {
	if w.class.sendspin() {
		if w.oldKeys && !concernsPlayer(m.Roles) {
			return nil
		}
		return one(text("stream/clear", w.rolesOf(m.Roles)))
	}
	// R1 and most of R2 know no clear: the stream ends and starts again.
	if w.stream == nil || !concernsPlayer(m.Roles) {
		return nil
	}
	return []Frame{text("stream/end", wireRoles{}), text("stream/start", newStream(*w.stream))}
}

func (w *ServerWire) encodeEnd(m protocol.StreamEnd) []Frame {
	if concernsPlayer(m.Roles) {
		w.stream = nil
	} else if !w.NamesRoles() {
		return nil
	}
	return one(text("stream/end", w.rolesOf(m.Roles)))
}

type wireGroups struct {
	Groups []wireGroupEntry `json:"groups"`
}

type wireGroupEntry struct {
	GroupID     string `json:"group_id"`
	Name        string `json:"name"`
	State       string `json:"state"`
	MemberCount int    `json:"member_count"`
}

// encodeList is for R1 only, which calls a stopped group idle here.
func (w *ServerWire) encodeList(m protocol.GroupList) []Frame {
	if w.class != R1 {
		return nil
	}
	list := wireGroups{Groups: []wireGroupEntry{}}
	for _, g := range m.Groups {
		state := string(g.State)
		if g.State == protocol.PlaybackStopped {
			state = "idle"
		}
		list.Groups = append(list.Groups, wireGroupEntry{GroupID: g.GroupID, Name: g.Name, State: state, MemberCount: g.MemberCount})
	}
	return one(text("group/list", list))
}
