package resonate

import (
	"fmt"
	"io"
	"log/slog"
	"time"

	"resonatebridge/resonate/protocol"
)

// Code classifies why a command failed (design: 4.3, codes).
type Code string

// The codes of failed commands.
const (
	CodeInvalidJSON       Code = "invalid_json"
	CodeInvalidValue      Code = "invalid_value"
	CodeUnknownCommand    Code = "unknown_command"
	CodeUnknownDevice     Code = "unknown_device"
	CodeUnknownGroup      Code = "unknown_group"
	CodeNotConnected      Code = "not_connected"
	CodeNotSupported      Code = "not_supported"
	CodeNotManaged        Code = "not_managed"
	CodeHeldByOtherServer Code = "held_by_other_server"
	CodePairingRequired   Code = "pairing_required"
	CodePairingFailed     Code = "pairing_failed"
	CodeMediaUnreachable  Code = "media_unreachable"
	CodeMediaUnsupported  Code = "media_unsupported"
	CodeTimeout           Code = "timeout"
	CodeBusy              Code = "busy"
	CodeRetainedIgnored   Code = "retained_ignored"
	CodeInternal          Code = "internal"
)

// CommandError is a failed command: a code to branch on and a sentence that
// says what was wrong, where, and what to do.
type CommandError struct {
	Code    Code
	Message string
}

// Error is the sentence.
func (e *CommandError) Error() string { return e.Message }

// Errorf makes a [CommandError].
func Errorf(code Code, format string, args ...any) *CommandError {
	return &CommandError{Code: code, Message: fmt.Sprintf(format, args...)}
}

// Result is what a successful command reports.
type Result struct {
	Data       map[string]any // what is now true or was asked of the speaker, e.g. {"volume": 25}
	Superseded bool           // a later command of the same kind took its place
}

// Command is something a user asks for. The concrete types below are all.
type Command interface{ command() }

// SetPlayer changes one player. Nil fields are left alone; everything is
// checked before anything is done, then done in the order custody, delay,
// group, mute, volume (design: 4.3).
type SetPlayer struct {
	PID            string
	Custody        *Custody
	DelayMs        *int // 0 to 5000
	Group          *GroupTarget
	Mute           *MuteChange
	Volume         *VolumeChange
	MaxVolume      *int    // 1 to 100
	AnnounceVolume *int    // 0 to 100
	Name           *string // empty: back to the speaker's own name
	Reconnect      bool
}

// VolumeChange is absolute or relative.
type VolumeChange struct {
	Value    int // absolute 0 to 100, relative -100 to 100
	Relative bool
}

// MuteChange switches or toggles.
type MuteChange struct {
	On     bool
	Toggle bool // then On is ignored
}

// GroupTarget says where a player goes: exactly one field is set.
type GroupTarget struct {
	Solo    bool   // leave, and forget the named group
	GroupID string // into this group
	With    string // into the group of this player (PID)
}

// SetGroup changes one group. Nil fields are left alone.
type SetGroup struct {
	ID      string
	Name    *string // only a named group can be renamed
	Volume  *VolumeChange
	Mute    *MuteChange
	Members *[]string // exactly these PIDs
	Add     []string
	Remove  []string
	Gather  bool // bring remembered members back
	Release bool // everyone solo, memory kept
}

// AddGroup makes a named group. Members may be empty.
type AddGroup struct {
	Name    string
	Members []string
}

// RemoveGroup deletes a named group; its members go solo.
type RemoveGroup struct{ ID string }

// RemovePlayer forgets a player: connection, records, pairing, choices. It comes back
// as new when it announces itself again.
type RemovePlayer struct{ PID string }

// Pair begins to pair a player or, while an attempt wants a code, enters it. It
// is answered once the attempt has begun, or the code was taken; what follows is
// in [Player.Pairing]. Codes of errors: not_supported, pairing_failed,
// not_connected, invalid_value.
type Pair struct {
	PID    string
	Method protocol.PairMethod // empty chooses: by token if Secret is one, else by the code that the player offers
	Secret Secret              // a code, a token, or what a QR code holds; empty begins without one
}

// Secret is what a person entered to pair. Printed, logged or marshalled, it
// is "[secret]"; string(s) reveals it.
type Secret string

// Format writes "[secret]" for every verb.
func (Secret) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, "[secret]") }

// LogValue is "[secret]".
func (Secret) LogValue() slog.Value { return slog.StringValue("[secret]") }

// MarshalText is "[secret]".
func (Secret) MarshalText() ([]byte, error) { return []byte("[secret]"), nil }

// CancelPairing ends the attempt to pair a player; without one it does nothing.
type CancelPairing struct{ PID string }

// Approve lets an encrypted player be used without pairing, until it is paired
// or the approval is withdrawn. It outlasts restarts.
type Approve struct {
	PID string
	On  bool // false withdraws
}

// AddEndpoint adds a static ws:// address. It outlasts restarts once a speaker has
// answered there, until that is removed.
type AddEndpoint struct{ URL string }

// Scan asks discovery for a round now and wakes every waiting connection.
type Scan struct{}

// Target is a group, or the group of a player: exactly one field is set.
type Target struct {
	PID     string
	GroupID string
}

// Enqueue says where new media goes in a queue that plays.
type Enqueue string

// The values of [Enqueue]; empty replaces the queue.
const (
	EnqueueNext Enqueue = "next" // behind the current item
	EnqueueLast Enqueue = "add"  // at the end
)

// PlayMedia plays one or more items. It is answered when the first samples are
// decoded, or with why there are none; what played before then plays on.
type PlayMedia struct {
	Target  Target
	Items   []MediaItem
	Start   int // index of the first to play
	Enqueue Enqueue
}

// Action is what [Transport] does.
type Action string

// The actions.
const (
	ActionPlay     Action = "play" // resume, or play again what was loaded last
	ActionPause    Action = "pause"
	ActionStop     Action = "stop"
	ActionNext     Action = "next"
	ActionPrevious Action = "previous"
	ActionSeek     Action = "seek"          // to Position
	ActionSeekBy   Action = "seek_relative" // by Position, which may be negative
	ActionRepeat   Action = "repeat"
	ActionShuffle  Action = "shuffle"
)

// Transport operates what plays.
type Transport struct {
	Target   Target
	Action   Action
	Position time.Duration
	Repeat   protocol.Repeat
	Shuffle  bool
}

// Announce plays a short piece over whatever plays on some speakers, at once on
// all of them. It is answered when it is certain to sound, or to wait for
// another one.
type Announce struct {
	Targets  []Target      // their connected speakers
	URL      string        // or
	Text     string        // which the configured speech service reads
	Volume   *int          // 0 to 100; nil: each speaker's announcement volume, else as it is
	Chime    *bool         // before it; nil: if one is configured
	Priority int           // among those that wait; higher goes first
	Timeout  time.Duration // how long it may wait for others; 0: 30 s
}

// Identify is the announcement that lets a person find a speaker: a chime.
func Identify(pid string) Announce {
	return Announce{Targets: []Target{{PID: pid}}, URL: "tone:?frequency=0&seconds=0.2", Chime: new(true)}
}

// StopAll stops what plays everywhere.
type StopAll struct{}

func (PlayMedia) command()     {}
func (Transport) command()     {}
func (Announce) command()      {}
func (StopAll) command()       {}
func (SetPlayer) command()     {}
func (SetGroup) command()      {}
func (AddGroup) command()      {}
func (RemoveGroup) command()   {}
func (RemovePlayer) command()  {}
func (Pair) command()          {}
func (CancelPairing) command() {}
func (Approve) command()       {}
func (AddEndpoint) command()   {}
func (Scan) command()          {}
