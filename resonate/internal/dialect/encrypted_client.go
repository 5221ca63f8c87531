package dialect

import (
	"resonatebridge/resonate/protocol"
	"resonatebridge/timesync"
)

// encryptedHello is client/hello; who the client is was said before.
type encryptedHello struct {
	Name   string      `json:"name"`
	Device *wireDevice `json:"device_info,omitempty"`
	Roles  []string    `json:"supported_roles"`

	Player  *wireSupport `json:"player@v1_support,omitempty"`
	Artwork *wireArtwork `json:"artwork@v1_support,omitempty"` // G1

	Methods  any            `json:"supported_pair_methods"`
	Unpaired unpairedAccess `json:"unpaired_access"`
}

type unpairedAccess struct {
	Enabled bool `json:"enabled"`
}

// wireMethods is supported_pair_methods of G2.
type wireMethods struct {
	PSK     *wireLocations `json:"pairing_psk,omitempty"`
	Static  *wireLocations `json:"static_pairing_code,omitempty"`
	Dynamic *wireDynamic   `json:"dynamic_pairing_code,omitempty"`
}

type wireLocations struct {
	Locations []protocol.SecretLocation `json:"locations,omitempty"`
}

type wireDynamic struct {
	Channels []protocol.CodeChannel `json:"out_channels"`
	Formats  []protocol.CodeFormat  `json:"formats"`
}

// oldMethod is one entry of G1's list. This client pairs by token there.
type oldMethod struct {
	Method protocol.PairMethod `json:"method"`
	wireLocations
}

func (w *ClientWire) encryptedHello(h protocol.ClientHello) Frame {
	out := encryptedHello{Name: h.Name, Roles: []string{}}
	if d := wireDevice(h.Device); d != (wireDevice{}) {
		out.Device = &d
	}
	w.offered = nil
	for _, r := range h.Roles {
		if r == protocol.RoleVisualizer { // needs settings that this client lacks
			continue
		}
		w.offered = append(w.offered, r)
		out.Roles = append(out.Roles, string(r))
	}
	if h.Player != nil && h.HasRole(protocol.RolePlayer) {
		out.Player, w.formats = w.support(*h.Player), h.Player.Formats
		if w.name == G2 { // commands stand in client/state
			w.current.Player = &protocol.PlayerState{
				OutputDelayMs: new(0), RequiredLeadMs: new(protocol.DefaultRequiredLeadMs), MinBufferMs: new(protocol.DefaultMinBufferMs),
				Commands: append([]protocol.PlayerCommandName{}, h.Player.Commands...),
			}
			out.Player.Commands = nil
		}
	}
	if w.name == G1 && h.Artwork != nil && h.HasRole(protocol.RoleArtwork) { // stands in client/state
		out.Artwork = &wireArtwork{Channels: []wireChannel{}}
		for _, c := range h.Artwork.Channels {
			out.Artwork.Channels = append(out.Artwork.Channels, wireChannel(c))
		}
	}
	trust := protocol.ClientTrust{}
	if h.Trust != nil {
		trust = *h.Trust
	}
	out.Unpaired.Enabled = trust.Unpaired
	out.Methods = newMethods(trust.Methods)
	if w.name == G1 {
		list := []oldMethod{}
		if m := trust.Methods.PSK; m != nil {
			list = append(list, oldMethod{protocol.PairByPSK, wireLocations(*m)})
		}
		out.Methods = list
	}
	return text("client/hello", out)
}

func newMethods(m protocol.PairMethods) (out wireMethods) {
	if m.PSK != nil {
		out.PSK = new(wireLocations(*m.PSK))
	}
	if m.Static != nil {
		out.Static = new(wireLocations(*m.Static))
	}
	if m.Dynamic != nil {
		out.Dynamic = new(wireDynamic(*m.Dynamic))
	}
	return out
}

// currentClientState is client/state of G2: always complete.
type currentClientState struct {
	Available bool           `json:"available"`
	Player    *currentPlayer `json:"player,omitempty"`
	Artwork   *timedArtwork  `json:"artwork,omitempty"`
}

type currentPlayer struct {
	Volume         *int                         `json:"volume,omitempty"`
	Muted          *bool                        `json:"muted,omitempty"`
	OutputDelayMs  int                          `json:"output_delay_ms"`
	RequiredLeadMs int                          `json:"required_lead_time_ms"`
	MinBufferMs    int                          `json:"min_buffer_ms"`
	Commands       []protocol.PlayerCommandName `json:"supported_commands"`
	Format         *wireFormat                  `json:"format,omitempty"`
}

// encodeEncrypted spells what the encrypted dialects spell in their own way.
// ours is false for the rest.
func (w *ClientWire) encodeEncrypted(m protocol.ClientMessage) (frames []Frame, ours bool) {
	switch m := m.(type) {
	case protocol.ClientState:
		if w.name == G2 {
			return one(w.encodeCurrent(m)), true
		}
	case protocol.RequestFormat:
		if w.name == G2 { // stands in client/state
			f, ok := offered(w.formats, m.Format)
			if !ok {
				return nil, true
			}
			return one(w.encodeCurrent(protocol.ClientState{Player: &protocol.PlayerState{Format: &f}})), true
		}
	case protocol.ClientGoodbye:
		return one(text("client/goodbye", struct {
			Reason protocol.GoodbyeReason `json:"reason"`
		}{m.Reason})), true
	case protocol.ClientLeave:
		if w.name == G1 { // ends the connection with servers of then
			return nil, true
		}
		return one(text("client/leave", struct{}{})), true
	}
	if f, ok := encodeClientPairing(m); ok {
		return one(f), true
	}
	return nil, false
}

// encodeCurrent merges a report into what is known and spells all of it, of the
// roles that the report names.
func (w *ClientWire) encodeCurrent(m protocol.ClientState) Frame {
	if m.Available != nil {
		w.current.Available = m.Available
	}
	if p, cur := m.Player, w.current.Player; p != nil && cur != nil {
		cur.Volume, cur.Muted = or(p.Volume, cur.Volume), or(p.Muted, cur.Muted)
		cur.OutputDelayMs, cur.RequiredLeadMs, cur.MinBufferMs = or(p.OutputDelayMs, cur.OutputDelayMs), or(p.RequiredLeadMs, cur.RequiredLeadMs), or(p.MinBufferMs, cur.MinBufferMs)
		cur.Format = or(p.Format, cur.Format)
		for _, c := range p.Commands { // a report adds to the hello's list
			cur.Commands = appendNew(cur.Commands, c)
		}
	}
	out := currentClientState{Available: *w.current.Available}
	if p := w.current.Player; p != nil && m.Player != nil {
		out.Player = &currentPlayer{
			Volume: p.Volume, Muted: p.Muted, OutputDelayMs: *p.OutputDelayMs, RequiredLeadMs: *p.RequiredLeadMs, MinBufferMs: *p.MinBufferMs,
			Commands: p.Commands,
		}
		if p.Format != nil {
			out.Player.Format = new(newFormat(*p.Format))
		}
	}
	if a := m.Artwork; a != nil {
		out.Artwork = &timedArtwork{Channels: []timedChannel{}}
		for _, c := range a.Channels {
			out.Artwork.Channels = append(out.Artwork.Channels, timedChannel(c))
		}
	}
	return text("client/state", out)
}

// audioHeader is how many bytes stand before the audio.
func (w *ClientWire) audioHeader() int {
	if w.name == G2 {
		return audioHeader + 4
	}
	return audioHeader
}

// transmitted is when a message about a stream was sent.
func (w *ClientWire) transmitted(p object) (timesync.Micros, error) {
	if !w.name.encrypted() || w.name == G1 && !p.has("server_transmitted") {
		return 0, nil
	}
	at, err := p.micros("server_transmitted")
	return timesync.Micros(at), err
}

// decodeEncrypted reads what only the encrypted dialects have, or have in their
// own way. ours is false for the rest.
func (w *ClientWire) decodeEncrypted(typ string, p object) (m protocol.ServerMessage, ours bool, err error) {
	switch typ {
	case "server/hello":
		h := protocol.ServerHello{Name: p.label("name"), Version: 1}
		h.Languages, err = p.texts("languages")
		return h, true, err
	case "server/activate":
		m, err := w.decodeActivate(p)
		return m, true, err
	case "server/unpair":
		return protocol.ServerUnpair{}, true, nil
	}
	return decodeServerPairing(typ, p)
}

// decodeActivate reads server/activate. Activities that are unknown, or named
// twice, are dropped.
func (w *ClientWire) decodeActivate(p object) (protocol.ServerMessage, error) {
	var m protocol.ServerActivate
	names, err := p.texts("activities")
	if err == nil && names == nil {
		err = p.bad("activities", "a list")
	}
	if err != nil {
		return nil, err
	}
	for _, n := range names {
		if a := protocol.Activity(n); a == protocol.ActivityPlayback || a == protocol.ActivityPairing {
			m.Activities = appendNew(m.Activities, a)
		}
	}
	ids, err := p.texts("active_roles")
	if err != nil {
		return nil, err
	}
	if ids != nil {
		m.ActiveRoles = []protocol.Role{}
		for _, id := range ids {
			if r := family(id); r != "" {
				m.ActiveRoles = append(m.ActiveRoles, r)
			}
		}
	}
	if m.Has(protocol.ActivityPairing) {
		o, _, err := p.object("pairing")
		if err != nil {
			return nil, err
		}
		method, err := o.text("method")
		if err == nil && method == "" { // G1
			method, err = p.text("selected_pair_method")
		}
		if err != nil {
			return nil, err
		}
		format, err := o.text("format")
		if err != nil {
			return nil, err
		}
		m.Pairing = &protocol.PairingChoice{Method: protocol.PairMethod(method), Format: protocol.CodeFormat(format)}
	}
	return m, nil
}
