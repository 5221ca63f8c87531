package dialect

import (
	"fmt"
	"math"

	"resonatebridge/resonate/protocol"
	"resonatebridge/timesync"
)

// Decode reads a frame of the client; f is not kept. The message is nil if the
// frame is one to ignore. The texts are deviations from the protocol that were
// accepted, each kind once per connection, those of the hello with the first
// frame. The error is a [*protocol.DecodeError]: the message is to be dropped,
// the connection goes on.
//
// The spellings of all dialects are accepted on every connection.
func (w *ServerWire) Decode(f Frame) (protocol.ClientMessage, []string, error) {
	if !f.Binary {
		if t, ok := scanClientTime(f.Data); ok {
			return protocol.ClientTime{ClientTransmitted: t}, w.notes.take(), nil
		}
	}
	m, err := w.decode(f)
	if err != nil {
		m = nil
	}
	return m, w.notes.take(), err
}

func (w *ServerWire) decode(f Frame) (protocol.ClientMessage, error) {
	if f.Binary {
		if w.class.encrypted() { // sound of a source, which is a role that is not served
			w.notes.add("binary", "binary message: this server takes none: dropped")
		} else {
			w.notes.add("binary", "binary frame: no client sends any in plaintext: dropped")
		}
		return nil, nil
	}
	typ, p, err := envelope(f.Data, w.notes)
	if err != nil {
		return nil, err
	}
	if w.class.encrypted() {
		if m, ours, err := decodeClientPairing(typ, p); ours {
			return m, err
		}
	}
	switch typ {
	case "client/time":
		t, err := p.micros("client_transmitted")
		return protocol.ClientTime{ClientTransmitted: timesync.Micros(t)}, err
	case "client/state":
		return w.decodeState(p)
	case "player/update":
		return w.decodePlayerUpdate(p)
	case "client/command":
		c, ok, err := p.object("controller")
		if err != nil || !ok {
			return nil, err // commands to other roles are not ours
		}
		return decodeControl(c)
	case "group/command":
		return decodeControl(p)
	case "group/switch":
		return protocol.ClientCommand{Command: protocol.ControlSwitch}, nil
	case "group/get-list":
		return protocol.ListGroups{}, nil
	case "group/join":
		id, err := p.text("group_id")
		if err == nil && id == "" {
			err = p.bad("group_id", "the id of a group")
		}
		return protocol.JoinGroup{GroupID: id}, err
	case "group/unjoin":
		return protocol.JoinGroup{}, nil
	case "stream/request-format":
		return w.decodeRequest(p)
	case "client/goodbye":
		return decodeGoodbye(p), nil
	case "client/leave":
		return protocol.ClientLeave{}, nil
	case "client/hello":
		w.notes.add("second hello", "client/hello: a second one: ignored")
	default:
		w.notes.add("type "+cut(typ, maxQuoted), "%s: this server has no use for it: ignored", p.msg)
	}
	return nil, nil
}

// decodeState reads a state report. What stands in player in older dialects may
// stand at the root: the state in all newer ones, everything in hand-written
// clients.
func (w *ServerWire) decodeState(p object) (protocol.ClientMessage, error) {
	var st protocol.ClientState
	player, inPlayer, err := p.object("player")
	if err != nil {
		return nil, err
	}
	if !inPlayer && (p.has("volume") || p.has("muted")) {
		p.note("player", "missing", "missing, its fields stand in the payload: accepted")
		player, inPlayer = p, true
	}
	if st.Available, st.SyncError, err = w.decodeAvailability(p, player); err != nil {
		return nil, err
	}
	if inPlayer {
		if st.Player, err = w.decodePlayerState(player); err != nil {
			return nil, err
		}
	}
	if w.class.encrypted() {
		if err := w.decodeDisplays(p, &st); err != nil {
			return nil, err
		}
	}
	if !w.reported && st.Available == nil {
		yes := true
		st.Available = &yes // a client that says nothing is there
	}
	w.reported = true
	return st, nil
}

// decodeAvailability reads whether the client can be played to. In order:
// available and state at the root, then player.state unless the client has
// used the root before.
func (w *ServerWire) decodeAvailability(p, player object) (available, syncError *bool, err error) {
	root, err := p.text("state")
	if err != nil {
		return nil, nil, err
	}
	inner, err := player.text("state")
	if err != nil {
		return nil, nil, err
	}
	available, err = p.boolean("available")
	if err != nil {
		return nil, nil, err
	}
	if available != nil {
		w.rootState = true
		w.learn(learnedS4)
	}
	state := inner
	if root != "" {
		state, w.rootState = root, true
		w.learn(learnedS2)
	} else if inner != "" {
		player.note("state", "place", "belongs at the root of the payload: accepted")
	}
	switch state {
	case "synchronized", "error":
		bad := state == "error"
		syncError = &bad
	case "external_source", "":
	default:
		p.note("state", "unknown", "got %q, taken as available", cut(state, maxQuoted))
	}
	if available == nil && state != "" && (root != "" || !w.rootState) {
		v := state != "external_source"
		available = &v
	}
	return available, syncError, nil
}

func (w *ServerWire) decodePlayerState(o object) (*protocol.PlayerState, error) {
	st := new(protocol.PlayerState)
	delay := "static_delay_ms"
	if o.has("output_delay_ms") {
		delay = "output_delay_ms"
		w.learn(learnedS4)
	}
	for _, field := range []struct {
		key string
		max int
		dst **int
	}{
		{"volume", protocol.VolumeMax, &st.Volume},
		{delay, protocol.OutputDelayMaxMs, &st.OutputDelayMs},
		{"required_lead_time_ms", protocol.TimingMaxMs, &st.RequiredLeadMs},
		{"min_buffer_ms", protocol.TimingMaxMs, &st.MinBufferMs},
	} {
		v, err := o.number(field.key, 0, field.max)
		if err != nil {
			return nil, err
		}
		*field.dst = v
	}
	var err error
	if st.Muted, err = o.boolean("muted"); err != nil {
		return nil, err
	}
	names, err := o.texts("supported_commands")
	if err != nil {
		return nil, err
	}
	if names != nil {
		var set commandSet
		st.Commands, set = decodeCommands(o, names)
		w.listed.Store(uint32(set))
	}
	if format, ok, err := o.object("format"); err != nil {
		return nil, err
	} else if ok {
		if f, err := format.format(); err != nil {
			o.note("format", "bad", "%v: ignored", err)
		} else {
			st.Format = &f
		}
	}
	if st.OutputDelayMs != nil {
		w.learn(learnedS3)
	}
	if st.RequiredLeadMs != nil && st.MinBufferMs != nil {
		w.learn(learnedS4 | learnedModern)
	}
	return st, nil
}

// decodePlayerUpdate reads R1's state report, which is always complete.
func (w *ServerWire) decodePlayerUpdate(p object) (protocol.ClientMessage, error) {
	player, err := w.decodePlayerState(p)
	if err != nil {
		return nil, err
	}
	state, err := p.text("state")
	if err != nil {
		return nil, err
	}
	st := protocol.ClientState{Player: player}
	if state == "playing" || state == "idle" {
		playing := state == "playing"
		player.PlaybackReported = &playing
	} else {
		p.note("state", "unknown", `got %q, want "playing" or "idle": ignored`, cut(state, maxQuoted))
	}
	if !w.reported {
		yes := true
		st.Available = &yes // R1 knows no other state of a connected client
	}
	w.reported = true
	return st, nil
}

// decodeControl reads a controller's command. Parameters of other commands are
// ignored, unknown commands too.
func decodeControl(o object) (protocol.ClientMessage, error) {
	name, err := o.text("command")
	if err != nil {
		return nil, err
	}
	c := protocol.ClientCommand{Command: protocol.ControllerCommandName(name)}
	switch c.Command {
	case protocol.ControlPlay, protocol.ControlPause, protocol.ControlStop, protocol.ControlNext, protocol.ControlPrevious,
		protocol.ControlRepeatOff, protocol.ControlRepeatOne, protocol.ControlRepeatAll,
		protocol.ControlShuffle, protocol.ControlUnshuffle, protocol.ControlSwitch:
	case protocol.ControlVolume:
		c.Volume, err = o.needNumber("volume", 0, protocol.VolumeMax)
	case protocol.ControlMute:
		key := "mute"
		if !o.has(key) && o.has("muted") {
			key = "muted" // sendspin-jvm 0.3.0
			o.note("mute", "name", "spelled muted: accepted")
		}
		c.Mute, err = o.needBoolean(key)
	case protocol.ControlSeek:
		c.PositionMs, err = o.position()
	case protocol.ControlSeekRelative:
		c.OffsetMs, err = o.needNumber("offset_ms", math.MinInt32, math.MaxInt32)
	case "":
		err = o.bad("command", "the name of a command")
	default:
		o.note("command", "unknown", "got %q: ignored", cut(name, maxQuoted))
		return nil, nil
	}
	return c, err
}

// position is a place in a track. It is never clamped: a client that asks for
// what can't be is ignored (spec: controller role, seek).
func (o object) position() (int, error) {
	ms, err := o.needNumber("position_ms", math.MinInt32, math.MaxInt32)
	if err == nil && ms < 0 {
		err = o.bad("position_ms", fmt.Sprintf("a number from 0 to %d", math.MaxInt32))
	}
	return ms, err
}

func (o object) needNumber(key string, lo, hi int) (int, error) {
	v, err := o.number(key, lo, hi)
	if err != nil {
		return 0, err
	}
	if v == nil {
		return 0, o.bad(key, fmt.Sprintf("a number from %d to %d", lo, hi))
	}
	return *v, nil
}

func (o object) needBoolean(key string) (bool, error) {
	v, err := o.boolean(key)
	if err != nil {
		return false, err
	}
	if v == nil {
		return false, o.bad(key, "true or false")
	}
	return *v, nil
}

// decodeRequest reads a wish for another format, of which each part may be
// absent. Wishes for what the hello does not declare are ignored.
func (w *ServerWire) decodeRequest(p object) (protocol.ClientMessage, error) {
	o, ok, err := p.object("player")
	if err != nil {
		return nil, err
	}
	if art, has, err := p.object("artwork"); !ok && err == nil && has {
		return decodeArtworkRequest(art)
	}
	if vis, has, err := p.object("visualizer"); !ok && err == nil && has {
		v := decodeVisualizer(vis)
		v.BufferCapacity = 0 // stands in the hello
		return protocol.RequestVisualizer{Config: v}, nil
	}
	if !ok {
		o = p // R1
	}
	f, err := o.partialFormat()
	if err != nil {
		return nil, err
	}
	if f == (protocol.Format{}) {
		return nil, nil // for a role that the model does not have
	}
	if _, ok := offered(w.formats, f); ok {
		return protocol.RequestFormat{Format: f}, nil
	}
	o.note("codec", "undeclared", "the format %v is not in the hello: ignored", f)
	return nil, nil
}

// offered is the first format of a hello that a wish fits, of which each part
// may be absent.
func offered(formats []protocol.Format, f protocol.Format) (protocol.Format, bool) {
	for _, have := range formats {
		if (f.Codec == "" || f.Codec == have.Codec) &&
			(f.Channels == 0 || f.Channels == have.Channels) &&
			(f.SampleRate == 0 || f.SampleRate == have.SampleRate) &&
			(f.BitDepth == 0 || f.BitDepth == have.BitDepth || have.Codec == "opus") {
			return have, true
		}
	}
	return protocol.Format{}, false
}

// decodeGoodbye never fails: whatever is in it, the client goes.
func decodeGoodbye(p object) protocol.ClientGoodbye {
	reason, err := p.text("reason")
	reason = clean(reason, maxQuoted)
	if err != nil || reason == "" {
		p.note("reason", "missing", "no reason given")
	}
	return protocol.ClientGoodbye{Reason: protocol.GoodbyeReason(reason)}
}
