package resonate

import "fmt"

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
	Identify       bool
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

// RemovePlayer forgets a player: connection, records, choices. It comes back
// as new when it announces itself again.
type RemovePlayer struct{ PID string }

// AddEndpoint adds a static ws:// address until the next start.
type AddEndpoint struct{ URL string }

// Scan asks discovery for a round now and wakes every waiting connection.
type Scan struct{}

func (SetPlayer) command()    {}
func (SetGroup) command()     {}
func (AddGroup) command()     {}
func (RemoveGroup) command()  {}
func (RemovePlayer) command() {}
func (AddEndpoint) command()  {}
func (Scan) command()         {}
