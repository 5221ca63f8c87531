package dialect

import (
	"encoding/binary"
	"strconv"
	"sync/atomic"

	"resonatebridge/resonate/protocol"
)

// ServerWire translates one connection for the server. [Accept] makes it.
//
// Two goroutines may use it at the same time: one calls Decode, the other
// Encode and the Append methods. Name and Commands are for any goroutine.
type ServerWire struct {
	// From the hello, never changed.
	class   Name // R1, R2, or S2 for all of Sendspin's unless one was forced
	forced  Name // by configuration, else empty
	oldKeys bool // unversioned support keys: such clients compare roles with versioned ids
	ids     map[protocol.Role]string
	formats []protocol.Format
	hello   commandSet // commands of the hello

	// Learned by Decode, used by Encode.
	learned atomic.Uint32 // learned bits, only ever added
	listed  atomic.Uint32 // commandSet of the latest state report that had one

	// Decode's own.
	notes     *notes
	reported  bool // a state was reported
	rootState bool // availability stands at the payload's root, not in player

	// Encode's own.
	group      *protocol.GroupUpdate // the latest
	controller *protocol.ControllerState
	metadata   *protocol.Metadata // R1: waits for a group
	stream     *protocol.StreamPlayer
	roles      []protocol.Role // G1: what every activation names

	signs signs // of an older encrypted dialect, from the hello, never changed
}

// What the wire learns about its client. S3 and S4 are for people, modern
// permits what clients before 2026-05 would choke on.
const (
	learnedS2 uint32 = 1 << iota
	learnedS3
	learnedS4
	learnedModern
)

func (w *ServerWire) learn(bits uint32)     { w.learned.Or(bits) }
func (w *ServerWire) knows(bit uint32) bool { return w.learned.Load()&bit != 0 }

// Name is the best guess at the client's dialect. Sendspin's four revisions
// differ by features that a client shows one by one, so the guess may rise
// with its first client/state:
//
//	S1  unversioned support keys and nothing newer
//	S2  versioned keys, or a state at the root of client/state
//	S3  an output delay, or the draft of the visualizer
//	S4  timing fields, colors, visualizer@v1, a MAC address, or names of the encrypted protocol
func (w *ServerWire) Name() Name {
	switch {
	case w.forced != "":
		return w.forced
	case !w.class.sendspin(), w.class.encrypted():
		return w.class
	case w.knows(learnedS4):
		return S4
	case w.knows(learnedS3):
		return S3
	case w.knows(learnedS2) || !w.oldKeys:
		return S2
	}
	return S1
}

// Commands are the player commands that can be given on this wire now, in a
// fixed order: those of the hello and those of the latest state report that
// listed any. It is empty in dialect R1, which has no message for them: there
// the server changes the samples.
func (w *ServerWire) Commands() []protocol.PlayerCommandName {
	set := w.commands()
	var out []protocol.PlayerCommandName
	for _, c := range []struct {
		bit  commandSet
		name protocol.PlayerCommandName
	}{
		{commandVolume, protocol.CommandVolume},
		{commandMute, protocol.CommandMute},
		{commandStaticDelay | commandOutputDelay, protocol.CommandSetOutputDelay},
	} {
		if set&c.bit != 0 {
			out = append(out, c.name)
		}
	}
	return out
}

// NamesRoles reports whether an end or a clear of one role's stream can be
// said. Else each of them ends what every role has.
func (w *ServerWire) NamesRoles() bool { return w.class.sendspin() && !w.oldKeys }

func (w *ServerWire) commands() commandSet {
	set := w.hello | commandSet(w.listed.Load())
	switch w.class {
	case R1:
		return 0
	case R2:
		return set &^ (commandStaticDelay | commandOutputDelay)
	default:
		return set
	}
}

// commandSet is a set of player commands, in the spelling of the client.
type commandSet uint32

const (
	commandVolume commandSet = 1 << iota
	commandMute
	commandStaticDelay
	commandOutputDelay
)

// decodeCommands reads a list of commands in either spelling of the delay.
func decodeCommands(o object, texts []string) ([]protocol.PlayerCommandName, commandSet) {
	if texts == nil {
		return nil, 0
	}
	names := make([]protocol.PlayerCommandName, 0, len(texts))
	var set commandSet
	for _, t := range texts {
		var bit commandSet
		name := protocol.PlayerCommandName(t)
		switch t {
		case "volume":
			bit = commandVolume
		case "mute":
			bit = commandMute
		case "set_static_delay":
			bit, name = commandStaticDelay, protocol.CommandSetOutputDelay
		case "set_output_delay":
			bit = commandOutputDelay
		default:
			o.note("supported_commands", "unknown", "got %q: skipped", cut(t, maxQuoted))
			continue
		}
		if set&bit == 0 {
			names = append(names, name)
		}
		set |= bit
	}
	return names, set
}

// AppendTime appends a server/time to dst, without allocating if dst has room
// for 160 bytes. It is the same in all dialects.
func (w *ServerWire) AppendTime(dst []byte, t protocol.ServerTime) []byte {
	dst = append(dst, `{"type":"server/time","payload":{"client_transmitted":`...)
	dst = strconv.AppendInt(dst, int64(t.ClientTransmitted), 10)
	dst = append(dst, `,"server_received":`...)
	dst = strconv.AppendInt(dst, int64(t.ServerReceived), 10)
	dst = append(dst, `,"server_transmitted":`...)
	dst = strconv.AppendInt(dst, int64(t.ServerTransmitted), 10)
	return append(dst, "}}"...)
}

// AudioType is the first byte of an audio frame. Two wires of plaintext dialects
// with the same one spell audio alike.
func (w *ServerWire) AudioType() byte { return w.class.audioType() }

// AppendAudio appends a binary audio frame to dst: the dialect's type byte,
// the time stamp, the audio.
func (w *ServerWire) AppendAudio(dst []byte, c protocol.AudioChunk) []byte {
	dst = append(dst, w.class.audioType())
	if w.sendAhead() {
		dst = binary.BigEndian.AppendUint64(dst, uint64(c.Timestamp))
		dst = binary.BigEndian.AppendUint32(dst, c.SendAhead)
		return append(dst, c.Data...)
	}
	dst = binary.BigEndian.AppendUint64(dst, uint64(c.Timestamp))
	return append(dst, c.Data...)
}
