package entities

import (
	"slices"
	"strings"

	"resonatebridge/resonate"
)

// reach says when an entity is available in Home Assistant.
type reach uint8

const (
	whileOnline  reach = iota // the bridge runs and the speaker (group: a member) is available
	whileRunning              // the bridge runs
	always                    // no availability: the entity tells it itself
)

// The two entity categories of Home Assistant; entities without one are shown
// on dashboards and to voice assistants. Sensors can't be "config".
const (
	configuration = "config"
	diagnostics   = "diagnostic"
)

// row is one entity. Keys, and so unique ids, never change once released: users'
// dashboards hang on them. A different platform needs a new key.
type row struct {
	key      string // component key; with "-" for "_" the end of unique_id
	platform string
	name     string // without the device's name; empty: the main entity
	icon     string
	class    string // device_class
	category string
	disabled bool // not enabled by default
	reach    reach
	// available is the template on the JSON document that says "online" while
	// the entity is available, besides reach; empty: no further condition.
	available string

	topic      string   // leaf of the state topic; empty: the device's JSON document
	value      string   // value_template
	attributes string   // json_attributes_template, on the same topic
	options    []string // of an enum sensor or a select
	events     []string // event_types
	on, off    string   // payload_on and payload_off where they aren't ON and OFF

	command  string // leaf of the command topic; empty: read-only
	template string // command_template
	limits   *limits
	mode     string // of a text
	payload  string // payload_press of a button; empty: PRESS
	unit     string
	counter  string // state_class

	when         func(*device) bool // nil: always
	comesAndGoes bool               // announced as gone while it doesn't apply: nobody remembers over a restart whether it was there
	tells        string             // for TOPICS.md
}

// limits are the range of a number entity.
type limits struct {
	min, max int
	mode     string // "slider" or "box"
}

// device is what decides which entities a device has, and its texts. It is
// comparable, so that an equal device means an equal document.
type device struct {
	kind                               kind
	id                                 string // PID, GID, or empty for the bridge
	name, manufacturer, model, version string
	volume, mute, delay                bool // which commands the player accepts
	borrow                             bool // the player's custody is borrow
	delayMax                           int  // ms
	logLevel, restart                  bool // which requests the bridge carries out
	speech                             bool // texts can be spoken
	pair, token, attempt, pairing      bool // the player can be paired, only by its token, is being paired, was tried to be
	approve, approved, record          bool // it waits for approval, has it, was paired
	labels                             uint64
}

type kind uint8

const (
	bridgeKind kind = iota
	playerKind
	groupKind
)

// rows is the table of kind k.
func rows(k kind) []row {
	switch k {
	case playerKind:
		return playerRows()
	case groupKind:
		return groupRows()
	case bridgeKind:
		return bridgeRows()
	}
	return nil
}

func connections() []string {
	return []string{
		string(resonate.Searching), string(resonate.Connecting), string(resonate.Connected), string(resonate.Offline),
		string(resonate.PairingRequired), string(resonate.ApprovalRequired), string(resonate.HeldByOtherServer),
		string(resonate.NotManaged), string(resonate.ConnectionProblem),
	}
}

func playbacks() []string {
	return []string{string(resonate.Playing), string(resonate.Paused), string(resonate.Stopped), string(resonate.Idle)}
}

// custodies are the values a user can choose; borrow needs playback, which
// comes later.
func custodies() []string {
	return []string{
		string(resonate.CustodyAuto), string(resonate.CustodyHold), string(resonate.CustodyObserve), string(resonate.CustodyIgnore),
	}
}

func playerRows() []row {
	return slices.Concat([]row{
		{
			key: "playback", platform: "sensor", class: "enum", options: playbacks(), value: "{{ value_json.playback }}",
			attributes: "{{ value_json.media | tojson }}", tells: "what the speaker's group does",
		},
		{
			key: "volume", platform: "number", name: "Volume", icon: "mdi:volume-high", value: "{{ value_json.volume }}",
			command: "set/volume", limits: &limits{0, 100, "slider"}, unit: "%", when: func(d *device) bool { return d.volume },
			tells: "0 to 100; only speakers with a volume",
		},
		{
			key: "mute", platform: "switch", name: "Mute", icon: "mdi:volume-mute", value: onOff("value_json.mute"),
			command: "set/mute", when: func(d *device) bool { return d.mute }, tells: "only speakers that can be muted",
		},
		{
			key: "group", platform: "select", name: "Group", icon: "mdi:speaker-multiple", value: "{{ value_json.group.option }}",
			command: "set/group", tells: "`Solo`, a named group, or `With` another speaker; `Hosting` is shown by the first speaker of a group without a name",
		},
		{
			key: "max_volume", platform: "number", name: "Maximum volume", icon: "mdi:volume-vibrate", category: configuration, disabled: true,
			reach: whileRunning, value: "{{ value_json.options.max_volume }}", command: "set/max_volume", limits: &limits{1, 100, "box"}, unit: "%",
			when: func(d *device) bool { return d.volume }, tells: "1 to 100; no command makes the speaker louder",
		},
		{
			key: "delay", platform: "number", name: "Output delay", class: "duration", category: configuration, reach: whileRunning,
			value: "{{ value_json.delay_ms }}", command: "set/delay", limits: &limits{0, maxDelayMs, "box"}, unit: "ms",
			when: func(d *device) bool { return d.delay }, tells: "0 to 5000 ms; only speakers that can be delayed",
		},
		{
			key: "custody", platform: "select", name: "Custody", icon: "mdi:hand-back-right", category: configuration, reach: whileRunning,
			value: "{{ value_json.custody }}", command: "set/custody", options: custodies(), tells: "who may hold the speaker",
		},
		{
			key: "connection", platform: "sensor", name: "Connection", icon: "mdi:lan-connect", class: "enum", category: diagnostics, reach: whileRunning,
			value: "{{ value_json.connection }}", options: connections(), tells: "how the speaker stands",
		},
		{
			key: "connected", platform: "binary_sensor", name: "Connected", class: "connectivity", category: diagnostics, reach: whileRunning,
			value: "{{ 'ON' if value_json.connection == 'connected' else 'OFF' }}", tells: "whether a session is up",
		},
		{
			key: "reconnect", platform: "button", name: "Reconnect", icon: "mdi:restart", category: configuration, disabled: true,
			reach: whileRunning, command: "set/reconnect", tells: "drops the session and makes a new one",
		},
		{
			key: "events", platform: "event", name: "Events", icon: "mdi:bell-outline", reach: whileRunning, topic: "event",
			events: playerEvents(), tells: "what happened to the speaker",
		},
		{
			key: "held_by", platform: "sensor", name: "Held by", icon: "mdi:account-lock", category: diagnostics, disabled: true,
			reach: whileRunning, value: text("value_json.held_by"), tells: "the other server that has the speaker",
		},
		{
			key: "sync_state", platform: "sensor", name: "Sync state", icon: "mdi:clock-check", class: "enum", category: diagnostics, disabled: true,
			topic: "diag", value: "{{ value_json.sync.state }}", options: []string{"synchronized", "error", "external_source"},
			tells: "how the speaker says it keeps time",
		},
		{
			key: "reconnects", platform: "sensor", name: "Reconnects", icon: "mdi:counter", category: diagnostics, disabled: true,
			reach: whileRunning, topic: "diag", value: "{{ value_json.reconnects }}", counter: "total_increasing",
			tells: "sessions after the first, since the bridge started",
		},
		{
			key: "address", platform: "sensor", name: "Address", icon: "mdi:ip-network", category: diagnostics, disabled: true,
			reach: whileRunning, value: text("value_json.url"), tells: "where the speaker is reached",
		},
		{
			key: "last_seen", platform: "sensor", name: "Last seen", class: "timestamp", category: diagnostics, disabled: true,
			reach: whileRunning, topic: "diag", value: "{{ value_json.last_seen }}", tells: "when a session was last up",
		},
		{
			key: "last_error", platform: "sensor", name: "Last error", icon: "mdi:alert-circle-outline", category: diagnostics,
			reach: whileRunning, value: text("value_json.last_error"), tells: "a sentence; unknown when all is well",
		},
		{
			key: "announce_volume", platform: "number", name: "Announcement volume", icon: "mdi:bullhorn", category: configuration, reach: whileRunning,
			value: "{{ value_json.options.announce_volume }}", command: "set/announce_volume", limits: &limits{0, 100, "box"}, unit: "%",
			when: func(d *device) bool { return d.volume }, tells: "0 to 100; unknown: as loud as it is",
		},
		{
			key: "identify", platform: "button", name: "Identify", class: "identify", category: diagnostics, command: "set/identify",
			tells: "plays a chime",
		},
		{
			key: "stream_format", platform: "sensor", name: "Stream format", icon: "mdi:waveform", category: diagnostics, disabled: true,
			value: "{{ none if value_json.stream.codec is none else value_json.stream.codec ~ ' ' ~ value_json.stream.sample_rate ~ '/' ~ value_json.stream.bit_depth ~ '/' ~ value_json.stream.channels }}",
			tells: "codec, sample rate, bits and channels of what the speaker gets",
		},
	}, transportRows(), trustRows())
}

func groupRows() []row {
	return append([]row{
		{
			key: "playback", platform: "sensor", class: "enum", options: playbacks(), value: "{{ value_json.playback }}",
			attributes: "{{ value_json.media | tojson }}", tells: "what the group does",
		},
		{
			key: "volume", platform: "number", name: "Volume", icon: "mdi:volume-high", value: "{{ value_json.volume }}",
			command: "set/volume", limits: &limits{0, 100, "slider"}, unit: "%", tells: "mean of the members",
		},
		{
			key: "mute", platform: "switch", name: "Mute", icon: "mdi:volume-mute", value: onOff("value_json.mute"),
			command: "set/mute", tells: "on when all members are muted",
		},
		{
			key: "members", platform: "sensor", name: "Members", icon: "mdi:speaker-multiple", reach: whileRunning, topic: "members",
			value: "{{ value_json.count }}", counter: "measurement", attributes: "{{ value_json | tojson }}", tells: "how many; who, as attributes",
		},
		{
			key: "gather", platform: "button", name: "Gather all", icon: "mdi:arrow-collapse-all", category: configuration, reach: whileRunning,
			command: "set/gather", tells: "brings remembered members back",
		},
		{
			key: "release", platform: "button", name: "Release all", icon: "mdi:arrow-expand-all", category: configuration, disabled: true,
			command: "set/release", tells: "everyone solo; the group remembers them",
		},
	}, transportRows()...)
}

func bridgeRows() []row {
	return []row{
		{
			key: "connection_state", platform: "binary_sensor", name: "Connection state", class: "connectivity", category: diagnostics,
			reach: always, topic: "state", on: "online", off: "offline", tells: "whether the bridge runs",
		},
		{
			key: "version", platform: "sensor", name: "Version", icon: "mdi:tag-outline", category: diagnostics, reach: whileRunning,
			value: "{{ value_json.version }}", tells: "of the bridge",
		},
		{
			key: "speakers", platform: "sensor", name: "Speakers", icon: "mdi:speaker", category: diagnostics, reach: whileRunning,
			value: "{{ value_json.counts.speakers }}", counter: "measurement", tells: "how many are known",
		},
		{
			key: "connected_speakers", platform: "sensor", name: "Connected speakers", icon: "mdi:speaker-wireless", category: diagnostics,
			reach: whileRunning, value: "{{ value_json.counts.connected }}", counter: "measurement", tells: "how many are connected",
		},
		{
			key: "groups", platform: "sensor", name: "Groups", icon: "mdi:speaker-multiple", category: diagnostics, disabled: true,
			reach: whileRunning, value: "{{ value_json.counts.groups }}", counter: "measurement", tells: "how many groups of two or more, or with a name",
		},
		{
			key: "problem", platform: "binary_sensor", name: "Problem", class: "problem", category: diagnostics, reach: whileRunning,
			value: "{{ 'ON' if value_json.problems else 'OFF' }}", attributes: "{{ {'problems': value_json.problems} | tojson }}",
			tells: "whether something needs a person; what, as attributes",
		},
		{
			key: "started", platform: "sensor", name: "Started", class: "timestamp", category: diagnostics, disabled: true, reach: whileRunning,
			value: "{{ value_json.started }}", tells: "when the bridge started",
		},
		{
			key: "log_level", platform: "select", name: "Log level", icon: "mdi:text-box-outline", category: configuration, disabled: true,
			reach: whileRunning, value: "{{ value_json.log_level }}", options: logLevels(), command: "request/options",
			template: "{{ {'log_level': value} | tojson }}", when: func(d *device) bool { return d.logLevel }, tells: "until the next start",
		},
		{
			key: "scan", platform: "button", name: "Scan now", icon: "mdi:magnify", category: configuration, reach: whileRunning,
			command: "request/scan", tells: "looks for speakers and wakes every waiting connection",
		},
		{
			key: "stop_all", platform: "button", name: "Stop all", icon: "mdi:stop-circle-outline", reach: whileRunning,
			command: "request/stop_all", tells: "stops what plays everywhere",
		},
		{
			key: "announce_all", platform: "notify", name: "Announce everywhere", icon: "mdi:bullhorn", reach: whileRunning,
			command: "request/announce_all", template: "{{ {'text': value} | tojson }}", when: func(d *device) bool { return d.speech },
			tells: "speaks a text on every speaker; only with a speech service",
		},
		{
			key: "restart", platform: "button", name: "Restart", class: "restart", category: configuration, disabled: true,
			reach: whileRunning, command: "request/restart", when: func(d *device) bool { return d.restart }, tells: "starts the bridge anew, with its configuration read again",
		},
		{
			key: "events", platform: "event", name: "Events", icon: "mdi:bell-outline", category: diagnostics, reach: whileRunning, topic: "ha_event",
			events: bridgeEvents(), tells: "what happened, to any speaker",
		},
	}
}

func logLevels() []string { return []string{"debug", "info", "warn", "error"} }

// onOff is the template of a boolean: JSON true would render as "True". Null
// renders as None, which means unknown.
func onOff(path string) string {
	return "{{ none if " + path + " is none else 'ON' if " + path + " else 'OFF' }}"
}

// text is the template of a string that may be null or longer than the 255
// characters that a state may have.
func text(path string) string {
	return "{{ none if " + path + " is none else " + path + "[:255] }}"
}

// discovery is a device message of Home Assistant, under full key names.
type discovery struct {
	Device           deviceInfo     `json:"device"`
	Origin           origin         `json:"origin"`
	AvailabilityMode string         `json:"availability_mode,omitempty"`
	Availability     []topicRef     `json:"availability,omitempty"`
	StateTopic       string         `json:"state_topic"`
	Components       map[string]any `json:"components"` // *component, or stub to remove one
}

type deviceInfo struct {
	Identifiers      []string `json:"identifiers"`
	Name             string   `json:"name"`
	Manufacturer     string   `json:"manufacturer,omitempty"`
	Model            string   `json:"model,omitempty"`
	Version          string   `json:"sw_version,omitempty"`
	ViaDevice        string   `json:"via_device,omitempty"`
	ConfigurationURL string   `json:"configuration_url,omitempty"`
}

type origin struct {
	Name    string `json:"name"`
	Version string `json:"sw_version,omitempty"`
}

type topicRef struct {
	Topic    string `json:"topic"`
	Template string `json:"value_template,omitempty"`
}

// stub removes a component: leaving it out would not.
type stub struct {
	Platform string `json:"platform"`
}

type component struct {
	Platform     string     `json:"platform"`
	UniqueID     string     `json:"unique_id"`
	Name         *string    `json:"name"` // null marks the main entity
	Icon         string     `json:"icon,omitempty"`
	DeviceClass  string     `json:"device_class,omitempty"`
	Category     string     `json:"entity_category,omitempty"`
	Enabled      *bool      `json:"enabled_by_default,omitempty"`
	Availability []topicRef `json:"availability,omitempty"`

	StateTopic         string   `json:"state_topic,omitempty"`
	ValueTemplate      string   `json:"value_template,omitempty"`
	AttributesTopic    string   `json:"json_attributes_topic,omitempty"`
	AttributesTemplate string   `json:"json_attributes_template,omitempty"`
	Options            []string `json:"options,omitempty"`
	EventTypes         []string `json:"event_types,omitempty"`
	PayloadOn          string   `json:"payload_on,omitempty"`
	PayloadOff         string   `json:"payload_off,omitempty"`
	StateClass         string   `json:"state_class,omitempty"`

	CommandTopic    string `json:"command_topic,omitempty"`
	CommandTemplate string `json:"command_template,omitempty"`
	PayloadPress    string `json:"payload_press,omitempty"`
	Min             *int   `json:"min,omitempty"`
	Max             *int   `json:"max,omitempty"`
	Step            int    `json:"step,omitempty"`
	Mode            string `json:"mode,omitempty"`
	Unit            string `json:"unit_of_measurement,omitempty"`
	ImageTopic      string `json:"image_topic,omitempty"`
	QoS             int    `json:"qos,omitempty"`
}

// originName marks discovery documents as ours.
const originName = "resonate"

// maxDeviceName keeps entity ids, which Home Assistant makes from it, short.
const maxDeviceName = 120

// document is the discovery document of d. announced are the components that
// earlier documents of this device had: those it lacks now are removed. l may
// be nil for anything but a player.
func (o Options) document(d *device, l *labels, announced map[string]string) []byte {
	id, topic := d.id, ""
	switch d.kind {
	case bridgeKind:
		id, topic = "bridge", o.bridgeTopic()
	case playerKind:
		topic = o.playerTopic(d.id)
	case groupKind:
		id, topic = "group_"+d.id, o.groupTopic(d.id)
	}
	running := []topicRef{{Topic: o.bridgeTopic() + "/state"}}
	doc := discovery{
		Device: deviceInfo{
			Identifiers: []string{o.objectID(id)}, Name: cut(d.name, maxDeviceName),
			Manufacturer: d.manufacturer, Model: d.model, Version: d.version,
		},
		Origin:     origin{originName, o.Version},
		StateTopic: topic + "/state",
		Components: make(map[string]any),
	}
	if d.kind == bridgeKind {
		doc.StateTopic = topic + "/info"
		if strings.HasPrefix(o.ConfigurationURL, "http://") || strings.HasPrefix(o.ConfigurationURL, "https://") {
			doc.Device.ConfigurationURL = o.ConfigurationURL
		}
	} else {
		doc.Device.ViaDevice = o.objectID("bridge")
		doc.AvailabilityMode = "all"
		doc.Availability = append(running, topicRef{Topic: topic + "/availability"})
	}
	for key, platform := range announced {
		doc.Components[key] = stub{platform}
	}
	for _, r := range rows(d.kind) {
		if !o.announces(&r) {
			doc.Components[r.key] = stub{r.platform} // a start with other options may have announced it
			continue
		}
		if r.when != nil && !r.when(d) {
			if r.comesAndGoes {
				doc.Components[r.key] = stub{r.platform}
			}
			continue
		}
		c := &component{
			Platform: r.platform, UniqueID: o.objectID(id) + "_" + strings.ReplaceAll(r.key, "_", "-"), Icon: r.icon, DeviceClass: r.class,
			Category: r.category, ValueTemplate: r.value, Options: r.options, EventTypes: r.events, PayloadOn: r.on, PayloadOff: r.off,
			StateClass: r.counter, CommandTemplate: r.template, Unit: r.unit, Mode: r.mode, PayloadPress: r.payload,
		}
		if r.name != "" {
			c.Name = &r.name
		}
		if r.disabled {
			c.Enabled = new(bool)
		}
		if r.reach == whileRunning {
			c.Availability = running
		}
		if r.available != "" {
			c.Availability = append(slices.Clip(running), topicRef{doc.StateTopic, r.available})
		}
		from := doc.StateTopic
		if r.topic != "" {
			from = topic + "/" + r.topic
			if r.platform == "image" {
				c.ImageTopic = from
			} else {
				c.StateTopic = from
			}
		}
		if r.attributes != "" {
			c.AttributesTopic, c.AttributesTemplate = from, r.attributes
		}
		if r.command != "" {
			c.CommandTopic, c.QoS = topic+"/"+r.command, 1
		}
		if r.limits != nil {
			lo, hi := r.limits.min, r.limits.max
			if r.key == "delay" {
				hi = max(hi, d.delayMax) // a state out of range would be ignored with an error
			}
			c.Min, c.Max, c.Step, c.Mode = &lo, &hi, 1, r.limits.mode
		}
		switch r.key {
		case "group":
			c.Options = l.options(d.id)
		case "custody":
			if d.borrow {
				c.Options = append(slices.Clone(c.Options), string(resonate.CustodyBorrow))
			}
		}
		doc.Components[r.key] = c
	}
	return encode(doc)
}

// announces reports whether entities of this row are wanted at all.
func (o Options) announces(r *row) bool {
	return o.Entities == Full || r.category != ""
}

// components are the keys and platforms that the document of d announces.
func (o Options) components(d *device) map[string]string {
	m := make(map[string]string)
	for _, r := range rows(d.kind) {
		if o.announces(&r) && (r.when == nil || r.when(d)) {
			m[r.key] = r.platform
		}
	}
	return m
}
