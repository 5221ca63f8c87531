package dialect

import (
	"encoding/binary"
	"fmt"
	"slices"

	"resonatebridge/resonate/protocol"
	"resonatebridge/timesync"
)

// The encrypted dialects are Sendspin 1.0.0-rc1 (spec: README.md at 033dddb of
// Sendspin/spec), called G2, and what aiosendspin to 9.1.1, sendspin-js 4 and
// sendspin-dotnet of August 2026 speak, called G1, as told by sources of these.
// Spec section names in this file are of the first.
//
// In both a message is an id byte and a body (spec: Binary Message ID
// Structure). JSON has id 0; a text [Frame] is that one without it, a binary
// frame is a message with any other id.

// FrameOf splits a message; the frame aliases it. An empty one is a binary
// frame without data.
func FrameOf(message []byte) Frame {
	if len(message) > 0 && message[0] == 0 {
		return Frame{Data: message[1:]}
	}
	return Frame{Binary: true, Data: message}
}

// AppendMessage appends the message that f is to dst.
func (f Frame) AppendMessage(dst []byte) []byte {
	if !f.Binary {
		dst = append(dst, 0)
	}
	return append(dst, f.Data...)
}

// signs of the generation before 1.0.0-rc1, and of clients on their way from
// it, each with what it changes. They are those that aiosendspin tells by
// (server/connection.py, compliance.py).
type signs struct {
	old     bool // any of them
	sound   bool // audio without send_ahead, fragments with ids of their own
	artwork bool // pictures as one message, configured in the hello
	list    bool // pair methods in a list, pairing without pair-init
}

// EncryptedHello is the server's first message in an encrypted connection,
// before it knows which dialect the client speaks (spec: server/hello).
func EncryptedHello(h protocol.ServerHello) Frame {
	return text("server/hello", struct {
		Name      string   `json:"name"`
		Languages []string `json:"languages,omitempty"`
	}{h.Name, h.Languages})
}

// AcceptEncrypted decodes the first message of a client in an encrypted
// connection, whose handshake has proven its id. The error is a
// [*RefusedError]; what else is wrong in the hello is left out, and told by
// the first [ServerWire.Decode].
func AcceptEncrypted(first Frame, id string) (*ServerWire, protocol.ClientHello, error) {
	var none protocol.ClientHello
	if len(first.Data) > maxHello {
		return nil, none, tooBig("hello", len(first.Data), maxHello)
	}
	if first.Binary {
		return nil, none, badFirst("the first message is no JSON; a client begins with client/hello")
	}
	n := new(notes)
	typ, p, err := envelope(first.Data, n)
	if err != nil {
		return nil, none, badFirst(err.Error())
	}
	if typ != "client/hello" {
		return nil, none, badFirst(fmt.Sprintf("the first message is %s; a client begins with client/hello", p.msg))
	}
	ids, err := p.roleIDs()
	if err != nil {
		return nil, none, err
	}
	if err := limits(p); err != nil {
		return nil, none, err
	}
	h := protocol.ClientHello{ClientID: id, Version: 1}
	w := &ServerWire{ids: make(map[protocol.Role]string), notes: n, class: G2}
	w.decodeHello(p, ids, &h)
	return w, h, nil
}

// Old reports whether the client shows a sign of the generation before
// 1.0.0-rc1: after a re-handshake it and the server say hello again, and the
// activation after it is a first one.
func (w *ServerWire) Old() bool { return w.signs.old }

// OldFragments reports whether messages that do not fit into a frame are
// fragmented as before 1.0.0-rc1.
func (w *ServerWire) OldFragments() bool { return w.signs.sound }

// OldPairing reports whether the client pairs as before 1.0.0-rc1: by token
// only, as far as this server goes.
func (w *ServerWire) OldPairing() bool { return w.signs.list }

// sendAhead reports whether audio carries the time that it is sent ahead.
func (w *ServerWire) sendAhead() bool { return w.class.encrypted() && !w.signs.sound }

// StampAudio writes into a frame of [ServerWire.AppendAudio] how far ahead of
// its time it is sent at now; to be done just before it is sealed. Where the
// client does not want it, nothing changes.
func (w *ServerWire) StampAudio(frame []byte, now timesync.Micros) {
	if w.sendAhead() {
		timestamp := timesync.Micros(binary.BigEndian.Uint64(frame[1:audioHeader]))
		binary.BigEndian.PutUint32(frame[audioHeader:], protocol.SendAhead(timestamp, now))
	}
}

// decodeTrust reads what only an encrypted hello has, and the signs of age.
func (w *ServerWire) decodeTrust(p object, h *protocol.ClientHello) {
	h.Trust = new(protocol.ClientTrust)
	h.Trust.Methods, w.signs.list = decodeMethods(p)
	if access, ok, err := p.object("unpaired_access"); err != nil || !ok {
		p.note("unpaired_access", "missing", "missing, taken as off")
	} else if on, err := access.boolean("enabled"); err == nil && on != nil {
		h.Trust.Unpaired = *on
	}
	if h.Player == nil {
		h.Roles = slices.DeleteFunc(h.Roles, func(r protocol.Role) bool {
			return r == protocol.RolePlayer // never active without what it needs (spec: client/hello)
		})
	}
	w.signs.sound = p.has("trust_level") || h.Player != nil && len(h.Player.Commands) > 0
	oldVisual := h.Visual != nil // its types stand in the hello
	if vis, ok := w.support(p, "visualizer"); ok && h.HasRole(protocol.RoleVisualizer) && !oldVisual {
		h.Visual = new(protocol.VisualizerSupport)
		if n, err := vis.number("buffer_capacity", 0, 1<<30); err == nil && n != nil {
			h.Visual.BufferCapacity = *n
		}
	}
	w.signs.old = w.signs.sound || w.signs.artwork || w.signs.list || oldVisual || w.oldKeys
	w.oldKeys = false // it tells the age, but such clients read roles as they are
	if w.signs.old {
		w.class = G1
	}
	w.learn(learnedModern)
}

// decodeDisplays reads what displays report: what they want to be sent (spec:
// client/state of the artwork and the visualizer role).
func (w *ServerWire) decodeDisplays(p object, st *protocol.ClientState) error {
	if art, ok, err := p.object("artwork"); err != nil {
		return err
	} else if ok {
		st.Artwork = decodeArtwork(art)
	}
	if vis, ok, err := p.object("visualizer"); err != nil {
		return err
	} else if ok {
		v := decodeVisualizer(vis) // without types, or a rate: nothing for now
		v.BufferCapacity = 0       // stands in the hello
		st.Visual = &v
	}
	return nil
}

// encodeEncrypted spells what the encrypted dialects spell in their own way.
// ours is false for the rest.
func (w *ServerWire) encodeEncrypted(m protocol.ServerMessage) (frames []Frame, ours bool, err error) {
	switch m := m.(type) {
	case protocol.ServerHello:
		return one(EncryptedHello(m)), true, nil
	case protocol.ServerActivate:
		return one(w.encodeActivate(m)), true, nil
	case protocol.ServerUnpair:
		return one(text("server/unpair", struct{}{})), true, nil
	case protocol.ServerState:
		if w.class == G2 {
			return encodeCurrentState(w, m), true, nil
		}
	case protocol.StreamStart:
		frames, err = w.encodeTimedStart(m)
		return frames, true, err
	case protocol.StreamClear:
		c := wireClear{Transmitted: int64(m.Transmitted), wireRoles: w.rolesOf(m.Roles)}
		return one(text("stream/clear", c)), true, nil
	case protocol.ArtworkImage:
		if !w.signs.artwork {
			return encodeTransfer(m), true, nil
		}
	default:
		if f, ok := encodeServerPairing(m); ok {
			return one(f), true, nil
		}
	}
	return nil, false, nil
}

// wireActivate always names the roles in G1, whose clients want them.
type wireActivate struct {
	Activities  []protocol.Activity `json:"activities"`
	ActiveRoles *[]string           `json:"active_roles,omitempty"`
	Pairing     *wireChoice         `json:"pairing,omitempty"`
	OldMethod   protocol.PairMethod `json:"selected_pair_method,omitempty"` // G1
}

type wireChoice struct {
	Method protocol.PairMethod `json:"method"`
	Format protocol.CodeFormat `json:"format,omitempty"`
}

func (w *ServerWire) encodeActivate(m protocol.ServerActivate) Frame {
	a := wireActivate{Activities: append([]protocol.Activity{}, m.Activities...)}
	if m.ActiveRoles != nil {
		w.roles = m.ActiveRoles
	}
	if m.ActiveRoles != nil || w.class == G1 {
		ids := make([]string, 0, len(w.roles))
		for _, r := range w.roles {
			if id, offered := w.ids[r]; offered {
				ids = append(ids, id)
			}
		}
		a.ActiveRoles = &ids
	}
	if m.Pairing != nil && m.Has(protocol.ActivityPairing) {
		choice := wireChoice(*m.Pairing)
		a.Pairing = &choice
		if w.class == G1 {
			a.OldMethod = choice.Method
		}
	}
	return text("server/activate", a)
}

// currentState is server/state of G2: what is not known is not there.
type currentState struct {
	Metadata   *currentMetadata `json:"metadata,omitempty"`
	Controller *wireController  `json:"controller,omitempty"`
	Color      *currentColors   `json:"color,omitempty"`
}

type currentMetadata struct {
	Timestamp   int64         `json:"timestamp"`
	Title       string        `json:"title,omitempty"`
	Artist      string        `json:"artist,omitempty"`
	AlbumArtist string        `json:"album_artist,omitempty"`
	Album       string        `json:"album,omitempty"`
	ArtworkURL  string        `json:"artwork_url,omitempty"`
	Year        int           `json:"year,omitempty"`
	Track       int           `json:"track,omitempty"`
	Progress    *wireProgress `json:"progress,omitempty"`
}

type currentColors struct {
	Timestamp       int64           `json:"timestamp"`
	BackgroundDark  *protocol.Color `json:"background_dark,omitempty"`
	BackgroundLight *protocol.Color `json:"background_light,omitempty"`
	Primary         *protocol.Color `json:"primary,omitempty"`
	Accent          *protocol.Color `json:"accent,omitempty"`
	OnDark          *protocol.Color `json:"on_dark,omitempty"`
	OnLight         *protocol.Color `json:"on_light,omitempty"`
}

func encodeCurrentState(w *ServerWire, m protocol.ServerState) []Frame {
	var s currentState
	if d := m.Metadata; d != nil {
		s.Metadata = &currentMetadata{
			Timestamp: int64(d.Timestamp), Title: d.Title, Artist: d.Artist, AlbumArtist: d.AlbumArtist, Album: d.Album,
			ArtworkURL: d.ArtworkURL, Year: max(d.Year, 0), Track: max(d.Track, 0), Progress: newProgress(d.Progress),
		}
	}
	if m.Controller != nil {
		s.Controller = w.newController(*m.Controller)
	}
	if m.Color != nil && w.ids[protocol.RoleColor] != "" {
		c := currentColors(*newColors(*m.Color))
		s.Color = &c
	}
	var frames []Frame
	if m.Group != nil {
		frames = w.encodeGroup(*m.Group)
	}
	if s == (currentState{}) {
		return frames
	}
	return append(frames, text("server/state", s))
}

// wireClear is stream/clear with its time.
type wireClear struct {
	Transmitted int64 `json:"server_transmitted"`
	wireRoles
}

// timedStart is stream/start with its time.
type timedStart struct {
	Transmitted int64           `json:"server_transmitted"`
	Player      *wireFormat     `json:"player,omitempty"`
	Artwork     *timedArtwork   `json:"artwork,omitempty"`
	Visualizer  *wireVisualizer `json:"visualizer,omitempty"`
}

type timedArtwork struct {
	Channels []timedChannel `json:"channels"`
}

type timedChannel struct {
	Source string `json:"source"`
	Format string `json:"format,omitempty"`
	Width  int    `json:"width,omitempty"`
	Height int    `json:"height,omitempty"`
}

// encodeTimedStart is one message for all roles, except in G1, where a client
// that rejects a part of one would lose the rest.
func (w *ServerWire) encodeTimedStart(m protocol.StreamStart) ([]Frame, error) {
	var parts []timedStart
	if m.Player != nil {
		if err := checkStart(*m.Player); err != nil {
			return nil, err
		}
		w.stream = m.Player
		f := newStream(*m.Player).Player
		parts = append(parts, timedStart{Player: &f})
	}
	if m.Artwork != nil {
		a := &timedArtwork{Channels: []timedChannel{}}
		for _, c := range m.Artwork.Channels {
			if c.Source == "none" {
				c = protocol.ArtworkChannel{Source: "none"}
			}
			a.Channels = append(a.Channels, timedChannel(c))
		}
		parts = append(parts, timedStart{Artwork: a})
	}
	if m.Visualizer != nil {
		parts = append(parts, timedStart{Visualizer: newVisualizer(*m.Visualizer)})
	}
	var frames []Frame
	whole := timedStart{Transmitted: int64(m.Transmitted)}
	for _, p := range parts {
		if w.class == G1 {
			p.Transmitted = whole.Transmitted
			frames = append(frames, text("stream/start", p))
			continue
		}
		whole.Player, whole.Artwork, whole.Visualizer = or(whole.Player, p.Player), or(whole.Artwork, p.Artwork), or(whole.Visualizer, p.Visualizer)
	}
	if w.class == G2 && len(parts) > 0 {
		frames = one(text("stream/start", whole))
	}
	return frames, nil
}

func or[T any](a, b *T) *T {
	if a != nil {
		return a
	}
	return b
}

// A picture of G2 is announced and then sent in parts. artPart is how many
// bytes one has: less than a frame holds, so that audio may pass between them.
const (
	artAnnounce = 1 << 1
	artPart     = 16 << 10
)

// encodeTransfer is a whole picture. Nothing else of artwork may be sent
// between its frames, other messages may.
func encodeTransfer(m protocol.ArtworkImage) []Frame {
	if m.Channel < 0 || m.Channel >= maxChannels {
		return nil
	}
	id := G2.artType(m.Channel)
	head := binary.BigEndian.AppendUint64([]byte{id, artAnnounce}, uint64(m.Timestamp))
	head = binary.BigEndian.AppendUint32(head, uint32(len(m.Data))) //nolint:gosec // a picture
	frames := one(Frame{Binary: true, Data: head})
	for part := range slices.Chunk(m.Data, artPart) {
		frames = append(frames, Frame{Binary: true, Data: append([]byte{id, 0}, part...)})
	}
	return frames
}
