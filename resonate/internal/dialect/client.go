package dialect

import (
	"fmt"
	"slices"
	"strconv"

	"resonatebridge/resonate/protocol"
)

// ClientWire translates one connection for a client that speaks a given
// dialect. [NewClient] makes it.
//
// Hello comes first. After that two goroutines may use it at the same time:
// one calls Decode, the other Encode and AppendTime.
type ClientWire struct {
	name    Name
	offered []protocol.Role
	formats []protocol.Format // G2: of the hello

	// Encode's own: what is repeated where a dialect wants complete reports.
	state   string // "synchronized", "error", "external_source"
	volume  int
	muted   bool
	playing bool
	current protocol.ClientState // G2: complete

	// Decode's own: what changes are merged into.
	full       bool // the server sends complete states, so what is absent is cleared
	group      protocol.GroupUpdate
	metadata   protocol.Metadata
	controller protocol.ControllerState
	stream     *protocol.StreamPlayer
}

// NewClient returns the client's side of a dialect. The frames of an encrypted
// one are sealed, see [Frame.AppendMessage]. The error names the dialects that
// there are.
func NewClient(n Name) (*ClientWire, error) {
	all := append(Names(), Encrypted()...)
	if !slices.Contains(all, n) {
		return nil, fmt.Errorf("dialect: %.64q is unknown; use one of %v", string(n), all)
	}
	return &ClientWire{
		name: n, state: "synchronized", volume: protocol.VolumeMax, full: n == G2,
		current: protocol.ClientState{Available: new(false)},
	}, nil
}

// Encrypted reports whether the dialect is encrypted.
func (w *ClientWire) Encrypted() bool { return w.name.encrypted() }

// clientHello is client/hello of all dialects.
type clientHello struct {
	ClientID string      `json:"client_id"`
	Name     string      `json:"name"`
	Version  int         `json:"version"`
	Device   *wireDevice `json:"device_info,omitempty"` // from R2 on
	Roles    []string    `json:"supported_roles"`

	PlayerOld  *wireSupport  `json:"player_support,omitempty"`    // to S1
	ArtworkOld *wireArtwork  `json:"artwork_support,omitempty"`   // R2 and S1
	Pictures   *wirePictures `json:"metadata_support,omitempty"`  // R1
	PlayerV1   *wireSupport  `json:"player@v1_support,omitempty"` // from S2 on
	ArtworkV1  *wireArtwork  `json:"artwork@v1_support,omitempty"`
}

type wireDevice struct {
	ProductName     string `json:"product_name,omitempty"`
	Manufacturer    string `json:"manufacturer,omitempty"`
	SoftwareVersion string `json:"software_version,omitempty"`
	MACAddress      string `json:"mac_address,omitempty"` // S4
}

type wireSupport struct {
	Formats  []wireFormat                 `json:"supported_formats,omitempty"`
	Codecs   []string                     `json:"support_codecs,omitempty"` // R1, with the next three
	Channels []int                        `json:"support_channels,omitempty"`
	Rates    []int                        `json:"support_sample_rates,omitempty"`
	Depths   []int                        `json:"support_bit_depth,omitempty"`
	Capacity int                          `json:"buffer_capacity"`
	Commands []protocol.PlayerCommandName `json:"supported_commands,omitempty"` // from R2 on
}

type wireArtwork struct {
	Channels []wireChannel `json:"channels"`
}

type wireChannel struct {
	Source string `json:"source"`
	Format string `json:"format"`
	Width  int    `json:"media_width"`
	Height int    `json:"media_height"`
}

type wirePictures struct {
	Formats []string `json:"support_picture_formats"`
	Width   int      `json:"media_width,omitempty"`
	Height  int      `json:"media_height,omitempty"`
}

// Hello spells the hello. Roles that the dialect does not have, and the
// visualizer, which needs settings that the model lacks, are left out.
func (w *ClientWire) Hello(h protocol.ClientHello) Frame {
	if w.name.encrypted() {
		return w.encryptedHello(h)
	}
	out := clientHello{ClientID: h.ClientID, Name: h.Name, Version: 1, Roles: []string{}}
	if w.name != R1 {
		d := wireDevice(h.Device)
		if w.name != S4 {
			d.MACAddress = ""
		}
		if d != (wireDevice{}) {
			out.Device = &d
		}
	}
	w.offered = nil
	for _, r := range h.Roles {
		switch r {
		case protocol.RolePlayer, protocol.RoleController, protocol.RoleMetadata:
		case protocol.RoleArtwork:
			if w.name == R1 { // stands in metadata_support
				continue
			}
		case protocol.RoleColor:
			if w.name != S4 {
				continue
			}
		case protocol.RoleVisualizer:
			continue
		}
		w.offered = append(w.offered, r)
		if w.name.sendspin() {
			out.Roles = append(out.Roles, string(r))
		} else {
			out.Roles = append(out.Roles, bare(r))
		}
	}
	var player *wireSupport
	if h.Player != nil && h.HasRole(protocol.RolePlayer) {
		player = w.support(*h.Player)
	}
	var artwork *wireArtwork
	if h.Artwork != nil && h.HasRole(protocol.RoleArtwork) {
		artwork = &wireArtwork{Channels: []wireChannel{}}
		for _, c := range h.Artwork.Channels {
			artwork.Channels = append(artwork.Channels, wireChannel(c))
		}
	}
	switch w.name {
	case R1:
		out.PlayerOld = player
		if h.HasRole(protocol.RoleMetadata) { // its reference server refuses a hello without
			out.Pictures = pictures(artwork)
		}
	case R2, S1:
		out.PlayerOld, out.ArtworkOld = player, artwork
	default:
		out.PlayerV1, out.ArtworkV1 = player, artwork
	}
	return text("client/hello", out)
}

func (w *ClientWire) support(p protocol.PlayerSupport) *wireSupport {
	s := &wireSupport{Capacity: p.BufferCapacity}
	if w.name == R1 {
		for _, f := range p.Formats {
			s.Codecs = appendNew(s.Codecs, f.Codec)
			s.Channels = appendNew(s.Channels, f.Channels)
			s.Rates = appendNew(s.Rates, f.SampleRate)
			s.Depths = appendNew(s.Depths, f.BitDepth)
		}
		return s
	}
	for _, f := range p.Formats {
		s.Formats = append(s.Formats, newFormat(f))
	}
	for _, c := range p.Commands { // the delay is listed in client/state
		if c == protocol.CommandVolume || c == protocol.CommandMute {
			s.Commands = append(s.Commands, c)
		}
	}
	return s
}

// pictures is R1's wish for pictures; an empty list wants none.
func pictures(a *wireArtwork) *wirePictures {
	p := &wirePictures{Formats: []string{}}
	if a == nil {
		return p
	}
	for _, c := range a.Channels {
		if c.Source == "album" {
			p.Formats = appendNew(p.Formats, c.Format)
			p.Width, p.Height = c.Width, c.Height
		}
	}
	return p
}

func appendNew[T comparable](list []T, v T) []T {
	if slices.Contains(list, v) {
		return list
	}
	return append(list, v)
}

// AppendTime appends a client/time to dst, without allocating if dst has room
// for 96 bytes.
func (w *ClientWire) AppendTime(dst []byte, t protocol.ClientTime) []byte {
	dst = append(dst, `{"type":"client/time","payload":{"client_transmitted":`...)
	dst = strconv.AppendInt(dst, int64(t.ClientTransmitted), 10)
	return append(dst, "}}"...)
}

// Encode spells a message for the server: as no frame if the dialect has no
// words for it, as several if it needs them. States may be partial; what a
// dialect wants repeated is repeated.
func (w *ClientWire) Encode(m protocol.ClientMessage) []Frame {
	if w.name.encrypted() {
		if frames, ours := w.encodeEncrypted(m); ours {
			return frames
		}
	}
	switch m := m.(type) {
	case protocol.ClientHello:
		return one(w.Hello(m))
	case protocol.ClientTime:
		return one(Frame{Data: w.AppendTime(nil, m)})
	case protocol.ClientState:
		frames := w.encodeState(m)
		if m.Player != nil && m.Player.Format != nil {
			frames = append(frames, w.encodeRequest(*m.Player.Format))
		}
		return frames
	case protocol.ClientCommand:
		return w.encodeControl(m)
	case protocol.RequestFormat:
		return one(w.encodeRequest(m.Format))
	case protocol.ClientGoodbye:
		return w.encodeGoodbye(m)
	case protocol.ClientLeave:
		if w.name == R1 {
			return one(text("group/unjoin", struct{}{}))
		}
	case protocol.ListGroups:
		if w.name == R1 {
			return one(text("group/get-list", struct{}{}))
		}
	case protocol.JoinGroup:
		switch {
		case w.name != R1:
		case m.GroupID == "":
			return one(text("group/unjoin", struct{}{}))
		default:
			return one(text("group/join", struct {
				GroupID string `json:"group_id"`
			}{m.GroupID}))
		}
	}
	return nil
}

// playerUpdate is R1's report; all fields are required.
type playerUpdate struct {
	State  string `json:"state"`
	Volume int    `json:"volume"`
	Muted  bool   `json:"muted"`
}

// clientState is client/state from R2 on.
type clientState struct {
	State     string       `json:"state,omitempty"`     // S2 to S4
	Available *bool        `json:"available,omitempty"` // the current word, for newer servers
	Player    *playerState `json:"player,omitempty"`
}

type playerState struct {
	State          string    `json:"state,omitempty"` // to S1
	Volume         *int      `json:"volume,omitempty"`
	Muted          *bool     `json:"muted,omitempty"`
	DelayMs        *int      `json:"static_delay_ms,omitempty"`       // from S3 on
	RequiredLeadMs *int      `json:"required_lead_time_ms,omitempty"` // S4
	MinBufferMs    *int      `json:"min_buffer_ms,omitempty"`         // S4
	Commands       *[]string `json:"supported_commands,omitempty"`    // from S3 on
}

func (w *ClientWire) encodeState(m protocol.ClientState) []Frame {
	p := m.Player
	w.remember(m)
	if w.name == R1 {
		if !slices.Contains(w.offered, protocol.RolePlayer) {
			return nil
		}
		u := playerUpdate{State: "idle", Volume: w.volume, Muted: w.muted}
		if w.playing {
			u.State = "playing"
		}
		return one(text("player/update", u))
	}

	var s clientState
	if p != nil {
		s.Player = &playerState{Volume: p.Volume, Muted: p.Muted}
	}
	if w.name == R2 || w.name == S1 {
		if !slices.Contains(w.offered, protocol.RolePlayer) {
			return nil // there is nothing but the player to report
		}
		if s.Player == nil {
			s.Player = new(playerState)
		}
		s.Player.State = w.state
		return one(text("client/state", s))
	}
	if w.name != G1 { // its strict server turns clients away that have one
		s.State = w.state
	}
	if p != nil && w.name != S2 {
		s.Player.DelayMs = p.OutputDelayMs
		if p.Commands != nil {
			s.Player.Commands = &[]string{}
			if slices.Contains(p.Commands, protocol.CommandSetOutputDelay) {
				s.Player.Commands = &[]string{"set_static_delay"}
			}
		}
	}
	if w.name == S4 || w.name == G1 {
		s.Available = new(w.state != "external_source")
		if p != nil {
			s.Player.RequiredLeadMs, s.Player.MinBufferMs = p.RequiredLeadMs, p.MinBufferMs
		}
	}
	return one(text("client/state", s))
}

// remember keeps what later reports repeat.
func (w *ClientWire) remember(m protocol.ClientState) {
	switch {
	case m.Available != nil && !*m.Available:
		w.state = "external_source"
	case m.SyncError != nil && *m.SyncError && (m.Available != nil || w.state != "external_source"):
		w.state = "error"
	case m.Available != nil || m.SyncError != nil && w.state == "error":
		w.state = "synchronized"
	}
	p := m.Player
	if p == nil {
		return
	}
	if p.Volume != nil {
		w.volume = *p.Volume
	}
	if p.Muted != nil {
		w.muted = *p.Muted
	}
	if p.PlaybackReported != nil {
		w.playing = *p.PlaybackReported
	}
}

// wireControl has exactly one parameter besides the command; old servers drop
// a command with more.
type wireControl struct {
	Command    protocol.ControllerCommandName `json:"command"`
	Volume     *int                           `json:"volume,omitempty"`
	Mute       *bool                          `json:"mute,omitempty"`
	PositionMs *int                           `json:"position_ms,omitempty"`
	OffsetMs   *int                           `json:"offset_ms,omitempty"`
}

func (w *ClientWire) encodeControl(m protocol.ClientCommand) []Frame {
	c := wireControl{Command: m.Command}
	switch m.Command {
	case protocol.ControlVolume:
		c.Volume = &m.Volume
	case protocol.ControlMute:
		c.Mute = &m.Mute
	case protocol.ControlSeek:
		c.PositionMs = &m.PositionMs
	case protocol.ControlSeekRelative:
		c.OffsetMs = &m.OffsetMs
	default: // no parameter
	}
	if w.name == R1 {
		switch {
		case m.Command == protocol.ControlSwitch:
			return one(text("group/switch", struct{}{}))
		case controlOfR1(m.Command):
			return one(text("group/command", c))
		}
		return nil
	}
	if w.name != S4 && !w.name.encrypted() && (c.PositionMs != nil || c.OffsetMs != nil) {
		return nil
	}
	return one(text("client/command", struct {
		Controller wireControl `json:"controller"`
	}{c}))
}

// wireRequest is a partial format.
type wireRequest struct {
	Codec      string `json:"codec,omitempty"`
	SampleRate int    `json:"sample_rate,omitempty"`
	Channels   int    `json:"channels,omitempty"`
	BitDepth   int    `json:"bit_depth,omitempty"`
}

func (w *ClientWire) encodeRequest(f protocol.Format) Frame {
	r := wireRequest{Codec: f.Codec, SampleRate: f.SampleRate, Channels: f.Channels, BitDepth: f.BitDepth}
	if w.name == R1 {
		return text("stream/request-format", r)
	}
	return text("stream/request-format", struct {
		Player wireRequest `json:"player"`
	}{r})
}

// encodeGoodbye uses the four reasons of the plaintext dialects; the nearest
// one stands for a newer one. R1 has no goodbye.
func (w *ClientWire) encodeGoodbye(m protocol.ClientGoodbye) []Frame {
	switch m.Reason {
	case protocol.GoodbyeAnotherServer, protocol.GoodbyeShutdown, protocol.GoodbyeRestart, protocol.GoodbyeUserRequest:
	case protocol.GoodbyeConcurrentAttempt:
		m.Reason = protocol.GoodbyeAnotherServer
	default:
		m.Reason = protocol.GoodbyeUserRequest
	}
	if w.name == R1 {
		return nil
	}
	return one(text("client/goodbye", struct {
		Reason protocol.GoodbyeReason `json:"reason"`
	}{m.Reason}))
}
