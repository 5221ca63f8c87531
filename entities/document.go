package entities

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"time"

	"resonatebridge/mqtt"
	"resonatebridge/resonate"
	"resonatebridge/resonate/protocol"
)

// retained is one topic and what it should hold.
type retained struct {
	topic   string
	payload []byte
	class   mqtt.Class
}

// none stands for "unknown" in scalar topics and Home Assistant states: an
// empty payload would delete the retained topic.
const none = "None"

// Render is everything that should be retained for s: topic to payload. It is
// what [Run] publishes when it starts with s.
func Render(o Options, s *resonate.Snapshot) map[string][]byte {
	o = o.withDefaults()
	l := relabel(&labels{}, s)
	var out []retained
	if !o.NoDiscovery {
		out = append(out, o.bridgeDocument(s))
	}
	out = o.bridge(out, s)
	out = append(out, retained{o.bridgeTopic() + "/devices", o.devices(s, l), mqtt.ClassState})
	out = append(out, retained{o.bridgeTopic() + "/groups", o.groups(s), mqtt.ClassState})
	for _, p := range s.Players {
		d := o.playerDevice(p, l)
		if !o.NoDiscovery {
			out = append(out, retained{o.configTopic(o.objectID(p.PID)), o.document(&d, l, nil), mqtt.ClassDiscovery})
		}
		out = o.player(out, p, s.GoverningGroup(p), l)
		out = append(out, o.diag(p))
	}
	for _, g := range s.Groups {
		if g.Kind == resonate.SoloGroup {
			continue
		}
		if g.Kind == resonate.NamedGroup && !o.NoDiscovery {
			d := o.groupDevice(g)
			out = append(out, retained{o.configTopic(o.objectID("group_" + g.ID)), o.document(&d, nil, nil), mqtt.ClassDiscovery})
		}
		out = o.group(out, g, members(s, g))
	}
	m := make(map[string][]byte, len(out))
	for _, r := range out {
		if r.payload != nil {
			m[r.topic] = r.payload
		}
	}
	return m
}

// playerState is the JSON of player/PID/state. Every key is always present:
// templates on missing keys log warnings in Home Assistant.
type playerState struct {
	ID         string        `json:"id"`
	Name       string        `json:"name"`
	Connection string        `json:"connection"`
	Custody    string        `json:"custody"`
	HeldBy     *string       `json:"held_by"`
	URL        *string       `json:"url"`
	Options    playerOptions `json:"options"`
	Volume     *int          `json:"volume"`
	Mute       *bool         `json:"mute"`
	DelayMs    *int          `json:"delay_ms"`
	Group      groupRef      `json:"group"`
	Playback   string        `json:"playback"`
	Media      media         `json:"media"`
	Position   position      `json:"position"`
	Stream     stream        `json:"stream"`
	Announcing bool          `json:"announcing"`
	LastError  *string       `json:"last_error"`
	Trust      *string       `json:"trust"`
	Encrypted  bool          `json:"encrypted"`
	Pairing    pairing       `json:"pairing"`
}

type playerOptions struct {
	AnnounceVolume *int `json:"announce_volume"`
	MaxVolume      int  `json:"max_volume"`
}

type groupRef struct {
	ID      string   `json:"id"`
	Name    string   `json:"name"`
	Kind    string   `json:"kind"`
	Option  string   `json:"option"`
	Members []string `json:"members"`
}

// media, position and stream are null in every key while nothing plays, but for
// the modes, which also are those of what "play" will play again.
type media struct {
	Title       *string  `json:"title"`
	Artist      *string  `json:"artist"`
	AlbumArtist *string  `json:"album_artist"`
	Album       *string  `json:"album"`
	Year        *int     `json:"year"`
	Track       *int     `json:"track"`
	Duration    *float64 `json:"duration"`
	URL         *string  `json:"url"`
	ArtHash     *string  `json:"art_hash"`
	ArtError    *string  `json:"art_error"` // code and sentence; null also while there simply is no picture
	Repeat      *string  `json:"repeat"`
	Shuffle     *bool    `json:"shuffle"`
}

type position struct {
	Position *float64 `json:"position"`
	At       *string  `json:"at"`
	Speed    *float64 `json:"speed"`
}

type stream struct {
	Codec      *string `json:"codec"`
	SampleRate *int    `json:"sample_rate"`
	BitDepth   *int    `json:"bit_depth"`
	Channels   *int    `json:"channels"`
}

func streamOf(f *protocol.Format) stream {
	if f == nil {
		return stream{}
	}
	return stream{&f.Codec, &f.SampleRate, &f.BitDepth, &f.Channels}
}

type groupState struct {
	ID         string   `json:"id"`
	Name       string   `json:"name"`
	Kind       string   `json:"kind"`
	Members    []string `json:"members"`
	Remembered []string `json:"remembered"`
	Online     int      `json:"online"`
	Volume     *int     `json:"volume"`
	Mute       *bool    `json:"mute"`
	Playback   string   `json:"playback"`
	Media      media    `json:"media"`
	Position   position `json:"position"`
	Stream     stream   `json:"stream"`
	Announcing bool     `json:"announcing"`
}

type groupMembers struct {
	Count   int      `json:"count"`
	IDs     []string `json:"ids"`
	Names   []string `json:"names"`
	Offline []string `json:"offline"` // members and remembered ones that aren't connected
}

type diagState struct {
	Sync       diagSync `json:"sync"`
	BufferMs   *int     `json:"buffer_ms"`
	Reconnects uint64   `json:"reconnects"`
	LateChunks *uint64  `json:"late_chunks"`
	LastSeen   *string  `json:"last_seen"`
}

type diagSync struct {
	State   *string `json:"state"`
	ErrorUs *int64  `json:"error_us"`
}

// player adds the topics of p: availability, state and scalars.
func (o Options) player(dst []retained, p *resonate.Player, g *resonate.Group, l *labels) []retained {
	topic := o.playerTopic(p.PID)
	ref := groupRef{
		ID: p.GroupID, Name: first(p.Name, p.PID), Kind: string(resonate.SoloGroup),
		Option: l.current(p, g), Members: []string{p.PID},
	}
	playback := string(resonate.Idle)
	if g != nil {
		ref.Kind, ref.Members, playback = string(g.Kind), list(g.Members), string(g.Playback)
		ref.Name = first(g.Name, ref.Name)
	}
	state := playerState{
		ID: p.PID, Name: p.Name, Connection: string(p.Connection), Custody: string(p.Custody),
		HeldBy: optional(p.HeldBy), URL: optional(p.URL),
		Options: playerOptions{AnnounceVolume: p.AnnounceVolume, MaxVolume: p.MaxVolume},
		Volume:  p.Volume, Mute: p.Mute, DelayMs: p.DelayMs,
		Group: ref, Playback: playback, LastError: optional(p.LastError),
		Stream: streamOf(p.Stream), Announcing: g != nil && g.Announcing,
		Trust: optional(string(p.Trust)), Encrypted: p.Encrypted, Pairing: pairingOf(p),
	}
	state.Media, state.Position = mediaOf(g)
	dst = append(dst, availability(topic, p.Available), retained{topic + "/state", encode(state), mqtt.ClassState})
	for _, s := range [...]struct{ leaf, value string }{
		{"volume", number(p.Volume)},
		{"mute", boolean(p.Mute)},
		{"playback", playback},
		{"group", ref.Option},
		{"connection", string(p.Connection)},
		{"delay", number(p.DelayMs)},
		{"trust", string(p.Trust)},
		{"pairing", stepOf(p)},
	} {
		dst = append(dst, scalar(topic, s.leaf, s.value))
	}
	return mediaTopics(dst, topic, g)
}

// diag is the topic of p's slow diagnostics.
func (o Options) diag(p *resonate.Player) retained {
	return retained{o.playerTopic(p.PID) + "/diag", encode(diagState{
		Sync: diagSync{State: optional(p.SyncState)}, Reconnects: p.Reconnects, LastSeen: instant(p.LastSeen),
	}), mqtt.ClassTelemetry}
}

// group adds the topics of g, whose members and remembered ones are in ps.
func (o Options) group(dst []retained, g *resonate.Group, ps []*resonate.Player) []retained {
	topic := o.groupTopic(g.ID)
	state := groupState{
		ID: g.ID, Name: g.Name, Kind: string(g.Kind), Members: list(g.Members), Remembered: list(g.Remembered), Online: g.Online,
		Playback: string(g.Playback), Announcing: g.Announcing,
	}
	state.Media, state.Position = mediaOf(g)
	if g.HasVolume {
		state.Volume = &g.Volume
	}
	if g.HasMute {
		state.Mute = &g.Mute
	}
	present := groupMembers{Count: len(g.Members), IDs: list(g.Members), Names: []string{}, Offline: []string{}}
	for _, p := range ps {
		if slices.Contains(g.Members, p.PID) {
			present.Names = append(present.Names, oneLine(p.Name))
		}
		if p.Connection != resonate.Connected {
			present.Offline = append(present.Offline, p.PID)
		}
	}
	dst = append(
		dst,
		availability(topic, g.Online > 0),
		retained{topic + "/state", encode(state), mqtt.ClassState},
		retained{topic + "/members", encode(present), mqtt.ClassState},
	)
	for _, s := range [...]struct{ leaf, value string }{
		{"volume", number(state.Volume)},
		{"mute", boolean(state.Mute)},
		{"playback", string(g.Playback)},
	} {
		dst = append(dst, scalar(topic, s.leaf, s.value))
	}
	return mediaTopics(dst, topic, g)
}

// members are the players of g, members in joining order and then those that
// are only remembered.
func members(s *resonate.Snapshot, g *resonate.Group) []*resonate.Player {
	ps := make([]*resonate.Player, 0, len(g.Members)+len(g.Remembered))
	for _, pid := range g.Members {
		if p := s.Player(pid); p != nil {
			ps = append(ps, p)
		}
	}
	for _, pid := range g.Remembered {
		if p := s.Player(pid); p != nil && !slices.Contains(g.Members, pid) {
			ps = append(ps, p)
		}
	}
	return ps
}

// bridgeInfo is the JSON of bridge/info.
type bridgeInfo struct {
	Version         string        `json:"version"`
	Commit          string        `json:"commit"`
	APIVersion      int           `json:"api_version"`
	Protocols       []string      `json:"protocols"`
	Started         *string       `json:"started"`
	Instance        instance      `json:"instance"`
	Config          any           `json:"config"`
	Counts          counts        `json:"counts"`
	OtherServers    []otherServer `json:"other_servers"`
	Problems        []string      `json:"problems"`
	LogLevel        *string       `json:"log_level"`
	RestartRequired bool          `json:"restart_required"`
}

type instance struct {
	ID   string `json:"id"`
	Name string `json:"name"`
}

type counts struct {
	Speakers  int `json:"speakers"`
	Connected int `json:"connected"`
	Groups    int `json:"groups"`
	Unmet     int `json:"unmet"`
}

type otherServer struct {
	Name string `json:"name"`
	URL  string `json:"url"`
}

// apiVersion grows when a topic or payload changes in a way that breaks users.
const apiVersion = 1

// bridge adds bridge/info.
func (o Options) bridge(dst []retained, s *resonate.Snapshot) []retained {
	info := bridgeInfo{
		Version: o.Version, Commit: o.Commit, APIVersion: apiVersion, Protocols: list(o.Protocols), Started: instant(o.Started),
		Instance: instance{s.Server.ID, s.Server.Name}, Config: o.Config, OtherServers: []otherServer{}, Problems: list(s.Problems),
		Counts: counts{Speakers: len(s.Players), Unmet: len(s.Unmet)},
	}
	for _, p := range s.Players {
		if p.Connection == resonate.Connected {
			info.Counts.Connected++
		}
	}
	for _, g := range s.Groups {
		if g.Kind != resonate.SoloGroup {
			info.Counts.Groups++
		}
	}
	for _, other := range s.OtherServers {
		info.OtherServers = append(info.OtherServers, otherServer{other.Name, other.URL})
	}
	if o.LogLevel != nil {
		info.LogLevel = optional(o.LogLevel())
	}
	return append(dst, retained{o.bridgeTopic() + "/info", encode(info), mqtt.ClassState})
}

func (o Options) bridgeDocument(s *resonate.Snapshot) retained {
	d := o.bridgeDevice(s)
	return retained{o.configTopic(o.objectID("bridge")), o.document(&d, nil, nil), mqtt.ClassBridgeDiscovery}
}

// deviceEntry is one element of bridge/devices.
type deviceEntry struct {
	ID           *string   `json:"id"` // null: announced, but never met
	ClientID     *string   `json:"client_id"`
	Name         string    `json:"name"`
	Connection   string    `json:"connection"`
	Available    bool      `json:"available"`
	Custody      *string   `json:"custody"`
	HeldBy       *string   `json:"held_by"`
	URL          *string   `json:"url"`
	Dialect      *string   `json:"dialect"`
	Manufacturer *string   `json:"manufacturer"`
	Model        *string   `json:"model"`
	Version      *string   `json:"sw_version"`
	MAC          *string   `json:"mac"`
	Roles        []string  `json:"roles"`
	Supports     []string  `json:"supports"`
	Volume       *int      `json:"volume"`
	Mute         *bool     `json:"mute"`
	DelayMs      *int      `json:"delay_ms"`
	Playback     *string   `json:"playback"`
	Group        *groupRef `json:"group"`
	LastSeen     *string   `json:"last_seen"`
	LastError    *string   `json:"last_error"`
	Trust        *string   `json:"trust"`
	Encrypted    bool      `json:"encrypted"`
	Pairing      *pairing  `json:"pairing"` // null: announced, but never met
}

// devices is bridge/devices: every known player, and what was only heard of.
func (o Options) devices(s *resonate.Snapshot, l *labels) []byte {
	entries := make([]deviceEntry, 0, len(s.Players)+len(s.Unmet))
	byID := make(map[string]*resonate.Group, len(s.Groups))
	for _, g := range s.Groups {
		byID[g.ID] = g
	}
	for _, p := range s.Players {
		e := deviceEntry{
			ID: &p.PID, ClientID: optional(p.ClientID), Name: p.Name, Connection: string(p.Connection), Available: p.Available,
			Custody: optional(string(p.Custody)), HeldBy: optional(p.HeldBy), URL: optional(p.URL), Dialect: optional(p.Dialect),
			Manufacturer: optional(p.Manufacturer), Model: optional(p.Model), Version: optional(p.SoftwareVersion), MAC: optional(p.MAC),
			Roles: list(p.Roles), Supports: []string{}, Volume: p.Volume, Mute: p.Mute, DelayMs: p.DelayMs,
			LastSeen: instant(p.LastSeen), LastError: optional(p.LastError),
			Trust: optional(string(p.Trust)), Encrypted: p.Encrypted, Pairing: new(pairingOf(p)),
		}
		for _, c := range [...]struct {
			name string
			has  bool
		}{{"volume", p.HasVolume}, {"mute", p.HasMute}, {"delay", p.HasDelay}} {
			if c.has {
				e.Supports = append(e.Supports, c.name)
			}
		}
		if g := byID[p.GroupID]; g != nil {
			e.Playback = optional(string(g.Playback))
			e.Group = &groupRef{g.ID, first(g.Name, p.Name), string(g.Kind), l.current(p, g), list(g.Members)}
		}
		entries = append(entries, e)
	}
	for _, u := range s.Unmet {
		entries = append(entries, deviceEntry{
			Name: first(u.Name, u.Key), Connection: string(u.Connection), URL: optional(u.URL), LastError: optional(u.Error),
			Roles: []string{}, Supports: []string{},
		})
	}
	return encode(entries)
}

// groupEntry is one element of bridge/groups.
type groupEntry struct {
	ID         string   `json:"id"`
	Name       string   `json:"name"`
	Kind       string   `json:"kind"`
	Members    []string `json:"members"`
	Remembered []string `json:"remembered"`
	Online     int      `json:"online"`
	Playback   string   `json:"playback"`
	Volume     *int     `json:"volume"`
	Mute       *bool    `json:"mute"`
}

// groups is bridge/groups: named and ad-hoc groups.
func (o Options) groups(s *resonate.Snapshot) []byte {
	entries := make([]groupEntry, 0, len(s.Groups))
	for _, g := range s.Groups {
		if g.Kind == resonate.SoloGroup {
			continue
		}
		e := groupEntry{
			ID: g.ID, Name: g.Name, Kind: string(g.Kind), Members: list(g.Members), Remembered: list(g.Remembered),
			Online: g.Online, Playback: string(g.Playback),
		}
		if g.HasVolume {
			e.Volume = &g.Volume
		}
		if g.HasMute {
			e.Mute = &g.Mute
		}
		entries = append(entries, e)
	}
	return encode(entries)
}

func (o Options) playerDevice(p *resonate.Player, l *labels) device {
	d := device{
		speech: o.Speech,
		kind:   playerKind, id: p.PID, name: first(oneLine(p.Name), p.PID), manufacturer: oneLine(p.Manufacturer), model: oneLine(p.Model),
		version: oneLine(p.SoftwareVersion), volume: p.HasVolume, mute: p.HasMute, delay: p.HasDelay,
		borrow: p.Custody == resonate.CustodyBorrow, delayMax: maxDelayMs, labels: l.version,
	}
	if p.DelayMs != nil {
		d.delayMax = max(d.delayMax, *p.DelayMs)
	}
	d.trustOf(p)
	return d
}

func (o Options) groupDevice(g *resonate.Group) device {
	return device{speech: o.Speech, kind: groupKind, id: g.ID, name: first(oneLine(g.Name), g.ID), manufacturer: "Resonate Bridge", model: "Group"}
}

func (o Options) bridgeDevice(s *resonate.Snapshot) device {
	return device{
		kind: bridgeKind, name: first(oneLine(s.Server.Name), "Resonate Bridge"), manufacturer: "Resonate Bridge", model: "Bridge",
		version: o.Version, logLevel: o.SetLogLevel != nil, restart: o.Restart != nil, speech: o.Speech,
	}
}

func availability(topic string, online bool) retained {
	payload := "offline"
	if online {
		payload = "online"
	}
	return retained{topic + "/availability", []byte(payload), mqtt.ClassAvailability}
}

func scalar(topic, leaf, value string) retained {
	if value = oneLine(value); value == "" {
		value = none
	}
	return retained{topic + "/" + leaf, []byte(cut(value, 255)), mqtt.ClassState}
}

func number(n *int) string {
	if n == nil {
		return none
	}
	return strconv.Itoa(*n)
}

func boolean(b *bool) string {
	switch {
	case b == nil:
		return none
	case *b:
		return "ON"
	}
	return "OFF"
}

// instant is t as Home Assistant wants it: ISO 8601 with a zone.
func instant(t time.Time) *string {
	if t.IsZero() {
		return nil
	}
	s := t.UTC().Format("2006-01-02T15:04:05.000Z")
	return &s
}

func optional(s string) *string {
	if s == "" {
		return nil
	}
	return &s
}

// list is never null in JSON.
func list(s []string) []string {
	if s == nil {
		return []string{}
	}
	return s
}

// first is the first text that isn't empty.
func first(texts ...string) string {
	for _, s := range texts {
		if s != "" {
			return s
		}
	}
	return ""
}

// encode is v as JSON, with <, > and & left readable. The types of this package
// can't fail to encode; Options.Config, which is foreign, becomes a text that says why.
func encode(v any) []byte {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		b.Reset()
		if info, ok := v.(bridgeInfo); ok {
			info.Config = fmt.Sprintf("the configuration can't be shown: %v", err)
			return encode(info)
		}
		_ = enc.Encode(fmt.Sprintf("can't be shown: %v", err)) // a string always encodes
	}
	return bytes.TrimSuffix(b.Bytes(), []byte("\n"))
}
