package protocol

import "resonatebridge/timesync"

// ClientMessage is a message from a client (player, controller, display).
type ClientMessage interface{ clientMessage() }

// ServerMessage is a message from a server.
type ServerMessage interface{ serverMessage() }

// Role is a role family with its version as it stands in the current protocol.
type Role string

// The role families that the model knows.
const (
	RolePlayer     Role = "player@v1"
	RoleController Role = "controller@v1"
	RoleMetadata   Role = "metadata@v1"
	RoleArtwork    Role = "artwork@v1"
	RoleVisualizer Role = "visualizer@v1"
	RoleColor      Role = "color@v1"
)

// ClientHello introduces a client.
type ClientHello struct {
	ClientID string // opaque, compared bytewise, 1 to 128 bytes
	Name     string // display name, control characters stripped, at most 256 bytes
	Version  int    // 1
	Device   DeviceInfo
	Roles    []Role // families that we know, in the client's order
	Player   *PlayerSupport
	Artwork  *ArtworkSupport
	Visual   *VisualizerSupport // encrypted dialects: the buffer only, the rest is in its state
	Trust    *ClientTrust       // encrypted dialects only
}

// HasRole reports whether the client offers role r.
func (h ClientHello) HasRole(r Role) bool {
	for _, have := range h.Roles {
		if have == r {
			return true
		}
	}
	return false
}

// DeviceInfo describes the hardware; any field may be empty.
type DeviceInfo struct {
	ProductName     string
	Manufacturer    string
	SoftwareVersion string
	MACAddress      string // lower case, colons
}

// Format is one audio format that a player accepts.
type Format struct {
	Codec      string // "pcm", "flac", "opus"
	Channels   int
	SampleRate int // Hz
	BitDepth   int // bits per sample; ignored for opus
}

// PlayerCommandName names a command that a player accepts.
type PlayerCommandName string

// The commands of the player role.
const (
	CommandVolume         PlayerCommandName = "volume"
	CommandMute           PlayerCommandName = "mute"
	CommandSetOutputDelay PlayerCommandName = "set_output_delay"
)

// PlayerSupport is the player part of a hello.
type PlayerSupport struct {
	Formats        []Format // in the player's order of preference
	BufferCapacity int      // bytes
	Commands       []PlayerCommandName
}

// ArtworkSupport is the artwork part of a hello.
type ArtworkSupport struct{ Channels []ArtworkChannel }

// ArtworkChannel is one picture slot of a display.
type ArtworkChannel struct {
	Source string // "album", "artist", "none"
	Format string // "jpeg", "png", "bmp"
	Width  int    // pixels
	Height int    // pixels
}

// ClientTime asks for the server's clock.
type ClientTime struct{ ClientTransmitted timesync.Micros }

// ClientState reports what changed. Nil fields are unchanged.
type ClientState struct {
	Available *bool // false: in use by something that will not yield
	SyncError *bool // diagnostic of older dialects
	Player    *PlayerState
	Artwork   *ArtworkSupport    // encrypted dialects
	Visual    *VisualizerSupport // encrypted dialects, without the buffer
}

// PlayerState is the player part of a state report. Nil fields are unchanged.
type PlayerState struct {
	Volume           *int // 0 to 100, perceived loudness
	Muted            *bool
	OutputDelayMs    *int                // 0 to 5000
	RequiredLeadMs   *int                // 0 to 30000
	MinBufferMs      *int                // 0 to 30000
	Commands         []PlayerCommandName // nil: unchanged; adds to the hello's list
	Format           *Format
	PlaybackReported *bool // R1 only: playing or idle; diagnostic
}

// ControllerCommandName names what a controller asks of its group.
type ControllerCommandName string

// The commands of the controller role.
const (
	ControlPlay         ControllerCommandName = "play"
	ControlPause        ControllerCommandName = "pause"
	ControlStop         ControllerCommandName = "stop"
	ControlNext         ControllerCommandName = "next"
	ControlPrevious     ControllerCommandName = "previous"
	ControlVolume       ControllerCommandName = "volume"
	ControlMute         ControllerCommandName = "mute"
	ControlRepeatOff    ControllerCommandName = "repeat_off"
	ControlRepeatOne    ControllerCommandName = "repeat_one"
	ControlRepeatAll    ControllerCommandName = "repeat_all"
	ControlShuffle      ControllerCommandName = "shuffle"
	ControlUnshuffle    ControllerCommandName = "unshuffle"
	ControlSwitch       ControllerCommandName = "switch"
	ControlSeek         ControllerCommandName = "seek"
	ControlSeekRelative ControllerCommandName = "seek_relative"
)

// ClientCommand is a controller's command.
type ClientCommand struct {
	Command    ControllerCommandName
	Volume     int  // with ControlVolume, 0 to 100
	Mute       bool // with ControlMute
	PositionMs int  // with ControlSeek
	OffsetMs   int  // with ControlSeekRelative
}

// GoodbyeReason says why a client leaves. Unknown texts are kept as they came.
type GoodbyeReason string

// The reasons that the protocol knows.
const (
	GoodbyeAnotherServer     GoodbyeReason = "another_server"
	GoodbyeShutdown          GoodbyeReason = "shutdown"
	GoodbyeRestart           GoodbyeReason = "restart"
	GoodbyeUserRequest       GoodbyeReason = "user_request"
	GoodbyeUnauthorized      GoodbyeReason = "unauthorized"
	GoodbyePairingRequired   GoodbyeReason = "pairing_required"
	GoodbyeConcurrentAttempt GoodbyeReason = "concurrent_attempt"
	GoodbyeUnpaired          GoodbyeReason = "unpaired"
)

// ClientGoodbye announces that the client closes the connection.
type ClientGoodbye struct{ Reason GoodbyeReason }

// ClientLeave asks to leave the group, staying available.
type ClientLeave struct{}

// RequestFormat asks for another stream format (older dialects).
type RequestFormat struct{ Format Format }

// JoinGroup asks to move to a group (dialect R1: group/join). An empty GroupID
// leaves the group (group/unjoin).
type JoinGroup struct{ GroupID string }

// ListGroups asks for the groups (dialect R1: group/get-list).
type ListGroups struct{}

// ConnectionReason says why a server connects.
type ConnectionReason string

// The reasons; clients reject any other (dialects.md section 3.5).
const (
	ReasonDiscovery ConnectionReason = "discovery"
	ReasonPlayback  ConnectionReason = "playback"
)

// ServerHello answers a client's hello.
type ServerHello struct {
	ServerID    string
	Name        string
	Languages   []string // BCP 47, most preferred first; encrypted dialects
	Version     int
	ActiveRoles []Role
	Reason      ConnectionReason
}

// ServerTime answers [ClientTime].
type ServerTime struct {
	ClientTransmitted timesync.Micros
	ServerReceived    timesync.Micros
	ServerTransmitted timesync.Micros
}

// PlaybackState is a group's state. Dialects without "paused" see it as stopped.
type PlaybackState string

// The states of a group.
const (
	PlaybackPlaying PlaybackState = "playing"
	PlaybackPaused  PlaybackState = "paused"
	PlaybackStopped PlaybackState = "stopped"
)

// GroupUpdate tells a client about its group; always complete.
type GroupUpdate struct {
	PlaybackState PlaybackState
	GroupID       string
	GroupName     string
}

// Repeat is the repeat mode of a group's queue.
type Repeat string

// The repeat modes.
const (
	RepeatOff Repeat = "off"
	RepeatOne Repeat = "one"
	RepeatAll Repeat = "all"
)

// Metadata describes what a group plays; a full replacement.
type Metadata struct {
	Timestamp   timesync.Micros // when it applies, server time
	Title       string          // empty texts are cleared
	Artist      string
	AlbumArtist string
	Album       string
	ArtworkURL  string
	Year        int // 0: unknown
	Track       int // 1-based, 0: unknown
	Progress    *Progress
	Repeat      Repeat
	Shuffle     bool
}

// Progress is a position in a track.
type Progress struct {
	PositionMs    int
	DurationMs    int // 0: unknown or live
	SpeedPermille int // 1000 is normal, 0 is paused
}

// ControllerState tells a controller what it may ask for; a full replacement.
type ControllerState struct {
	Commands  []ControllerCommandName
	Volume    int // 0 to 100
	Muted     bool
	Repeat    Repeat
	Shuffle   bool
	SeekMaxMs int // with ControlSeek
	// Members and SessionID serve dialect R1's group/update.
	Members []GroupMember
}

// GroupMember is one line of dialect R1's member list.
type GroupMember struct{ ClientID, Name string }

// ServerState carries role states. Nil parts are unchanged.
type ServerState struct {
	Metadata   *Metadata
	Controller *ControllerState
	Color      *Colors
	Group      *GroupUpdate // dialect R1 puts it into one message with the metadata
}

// ServerCommand commands a player. Exactly one field belongs to the command.
type ServerCommand struct {
	Command       PlayerCommandName
	Volume        int // 0 to 100
	Mute          bool
	OutputDelayMs int // 0 to 5000
}

// GroupList answers [ListGroups] (dialect R1).
type GroupList struct{ Groups []GroupListEntry }

// GroupListEntry is one group of a [GroupList].
type GroupListEntry struct {
	GroupID, Name string
	State         PlaybackState
	MemberCount   int
}

// StreamStart opens or reconfigures the streams of the roles that are not nil.
type StreamStart struct {
	Player     *StreamPlayer
	Artwork    *StreamArtwork
	Visualizer *StreamVisualizer
	// Transmitted is when it is sent, taken as late as can be (spec: Transmit
	// timestamps). Encrypted dialects.
	Transmitted timesync.Micros
}

// StreamPlayer is the audio part of a [StreamStart].
type StreamPlayer struct {
	Format
	CodecHeader []byte // decoder setup, nil if the codec needs none
}

// StreamClear drops what is buffered of Roles, nil for all; the stream goes on.
type StreamClear struct {
	Roles       []Role
	Transmitted timesync.Micros // as in [StreamStart]
}

// StreamEnd ends the streams of Roles, nil for all.
type StreamEnd struct{ Roles []Role }

// AudioChunk is one binary audio frame.
type AudioChunk struct {
	Timestamp timesync.Micros // server time at which the first sample sounds
	// SendAhead is from transmission to Timestamp in µs, taken as late as can be;
	// see [SendAhead]. Dialect G2.
	SendAhead uint32
	Data      []byte
}

func (ClientHello) clientMessage()   {}
func (ClientTime) clientMessage()    {}
func (ClientState) clientMessage()   {}
func (ClientCommand) clientMessage() {}
func (ClientGoodbye) clientMessage() {}
func (ClientLeave) clientMessage()   {}
func (RequestFormat) clientMessage() {}
func (JoinGroup) clientMessage()     {}
func (ListGroups) clientMessage()    {}

func (ServerHello) serverMessage()   {}
func (ServerTime) serverMessage()    {}
func (ServerState) serverMessage()   {}
func (ServerCommand) serverMessage() {}
func (GroupUpdate) serverMessage()   {}
func (GroupList) serverMessage()     {}
func (StreamStart) serverMessage()   {}
func (StreamClear) serverMessage()   {}
func (StreamEnd) serverMessage()     {}
func (AudioChunk) serverMessage()    {}
