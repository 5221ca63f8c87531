package app

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"resonatebridge/mqtt"
)

const (
	// collectTime bounds reading what the bridge retains, settleTime says when
	// nothing more is coming: brokers send retained messages right after the
	// grant of a subscription.
	collectTime = 10 * time.Second
	settleTime  = 300 * time.Millisecond
	// answerTime is a little more than the 10 s in which the bridge answers.
	answerTime = 12 * time.Second
)

// broker is what commands need of MQTT. It is no connection: each call makes
// its own and leaves nothing behind.
type broker interface {
	// collect returns the retained messages under filters.
	collect(ctx context.Context, filters ...string) ([]mqtt.Message, error)
	// request publishes payload and returns the first answer that match accepts.
	request(ctx context.Context, topic string, payload []byte, answers string, match func([]byte) bool) ([]byte, error)
	// watch hands the messages under filters to each, the retained ones first,
	// until it returns false.
	watch(ctx context.Context, filters []string, each func(mqtt.Message) bool) error
}

// dialledBroker is the broker at mqtt.Options.
type dialledBroker mqtt.Options

func (b dialledBroker) collect(ctx context.Context, filters ...string) ([]mqtt.Message, error) {
	return mqtt.Collect(ctx, mqtt.Options(b), filters, settleTime)
}

func (b dialledBroker) request(ctx context.Context, topic string, payload []byte, answers string, match func([]byte) bool) ([]byte, error) {
	return mqtt.Request(ctx, mqtt.Options(b), mqtt.Message{Topic: topic, Payload: payload}, answers, match)
}

func (b dialledBroker) watch(ctx context.Context, filters []string, each func(mqtt.Message) bool) error {
	return mqtt.Watch(ctx, mqtt.Options(b), filters, each)
}

// remote is a running bridge as its MQTT API shows it.
type remote struct {
	broker broker
	base   string // base topic
	at     string // the broker's URL, for messages
}

// remote finds the broker that the running bridge uses, from the same
// configuration. It never starts one.
func (c *call) remote(ctx context.Context) (*remote, error) {
	cfg, sources, err := c.config()
	if err != nil {
		return nil, err
	}
	return c.remoteOf(ctx, cfg, sources)
}

// bridge finds the running bridge and what it knows.
func (c *call) bridge(ctx context.Context) (*remote, *house, error) {
	r, err := c.remote(ctx)
	if err != nil {
		return nil, nil, err
	}
	h, err := r.running(ctx)
	return r, h, err
}

func (c *call) remoteOf(ctx context.Context, cfg Config, sources Sources) (*remote, error) {
	silent := slog.New(slog.DiscardHandler)
	opts := RunOptions{Config: cfg, Sources: sources, Env: c.Env, Log: silent}.brokerOptions(ctx, "")
	if opts.URL == "" {
		opts.URL = "mqtt://" + reachable(cfg.MQTT.Embedded.Listen)
	}
	r := &remote{broker: dialledBroker(opts), base: cfg.MQTT.BaseTopic, at: opts.URL}
	if c.seams.dial != nil {
		r.broker = c.seams.dial(opts)
	}
	return r, nil
}

// house is everything that a bridge retains about itself and its players.
type house struct {
	state                 string // "online", "offline"; empty: there is no bridge
	info, devices, groups json.RawMessage
	players               []playerEntry
	named                 []groupEntry // named and ad-hoc groups
}

// playerEntry is one element of bridge/devices, as far as it is used here.
type playerEntry struct {
	ID         string `json:"id"` // empty: announced, but never met
	ClientID   string `json:"client_id"`
	Name       string `json:"name"`
	Connection string `json:"connection"`
	HeldBy     string `json:"held_by"`
	Volume     *int   `json:"volume"`
	Mute       *bool  `json:"mute"`
	Playback   string `json:"playback"`
	LastError  string `json:"last_error"`
	Group      *struct {
		Name   string `json:"name"`
		Option string `json:"option"`
	} `json:"group"`
	Trust   string       `json:"trust"`
	Pairing pairingEntry `json:"pairing"`
}

// groupEntry is one element of bridge/groups, as far as it is used here.
type groupEntry struct {
	ID       string   `json:"id"`
	Name     string   `json:"name"`
	Kind     string   `json:"kind"`
	Members  []string `json:"members"`
	Online   int      `json:"online"`
	Playback string   `json:"playback"`
	Volume   *int     `json:"volume"`
	Mute     *bool    `json:"mute"`
}

// house reads what the bridge retains.
func (r *remote) house(ctx context.Context) (*house, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, collectTime, fmt.Errorf("no answer within %v", collectTime))
	defer cancel()
	bridge := r.base + "/bridge/"
	found, err := r.broker.collect(ctx, bridge+"state", bridge+"info", bridge+"devices", bridge+"groups", r.base+"/player/+/state", r.base+"/group/+/state")
	if err != nil {
		return nil, err
	}
	h := &house{info: json.RawMessage("{}"), devices: json.RawMessage("[]"), groups: json.RawMessage("[]")}
	players, groups := map[string]playerEntry{}, map[string]groupEntry{}
	for _, m := range found {
		leaf, ofBridge := strings.CutPrefix(m.Topic, bridge)
		if !ofBridge {
			var err error
			if strings.HasPrefix(m.Topic, r.base+"/player/") {
				err = keep(players, m, func(p playerEntry) string { return p.ID })
			} else {
				err = keep(groups, m, func(g groupEntry) string { return g.ID })
			}
			if err != nil {
				return nil, r.strange(m, err)
			}
			continue
		}
		if leaf == "state" {
			h.state = string(m.Payload)
			continue
		}
		if m.Oversize {
			return nil, fmt.Errorf("%s at %s is too large to read", m.Topic, r.at)
		}
		var into any
		switch leaf {
		case "info":
			h.info, into = m.Payload, &map[string]any{}
		case "devices":
			h.devices, into = m.Payload, &h.players
		case "groups":
			h.groups, into = m.Payload, &h.named
		default:
			continue
		}
		if err := json.Unmarshal(m.Payload, into); err != nil {
			return nil, r.strange(m, err)
		}
	}
	if h.state == "" {
		return nil, fmt.Errorf("no bridge is known at %s under the topic %s/: is it running, with the same mqtt.url and mqtt.base_topic?", r.at, r.base)
	}
	// The lists follow within a second, the states at once: who asks after a
	// command wants to see what it did.
	for i, old := range h.players {
		if p, ok := players[old.ID]; ok {
			p.ClientID = old.ClientID // only the list has it
			h.players[i] = p
		}
	}
	for i, old := range h.named {
		if g, ok := groups[old.ID]; ok {
			h.named[i] = g
		}
	}
	return h, nil
}

// keep stores the state of one player or group under its id.
func keep[T any](all map[string]T, m mqtt.Message, id func(T) string) error {
	var v T
	if err := json.Unmarshal(m.Payload, &v); err != nil {
		return err
	}
	all[id(v)] = v
	return nil
}

func (r *remote) strange(m mqtt.Message, err error) error {
	return fmt.Errorf("%s at %s is not what a bridge of this version publishes: %w", m.Topic, r.at, err)
}

// running is [remote.house] of a bridge that is online: one that is not would
// never answer.
func (r *remote) running(ctx context.Context) (*house, error) {
	h, err := r.house(ctx)
	if err != nil {
		return nil, err
	}
	if h.state != "online" {
		return nil, fmt.Errorf("the bridge is %s: start it with bridge run, or look at its log", plain(h.state))
	}
	return h, nil
}

// target is a player or a group of a running bridge.
type target struct{ kind, id, name string }

func (t target) String() string { return fmt.Sprintf("%s %q (id %s)", t.kind, plain(t.name), t.id) }

// playerTargets and groupTargets are what a name may mean.
func (h *house) playerTargets() []target {
	var out []target
	for _, p := range h.players {
		if p.ID != "" {
			out = append(out, target{"player", p.ID, p.Name})
		}
	}
	return out
}

func (h *house) groupTargets() []target {
	var out []target
	for _, g := range h.named {
		out = append(out, target{"group", g.ID, g.Name})
	}
	return out
}

// find looks word up among all: an id, the client id of a player, or a name
// that only one has, in any case.
func (h *house) find(word string, all []target) (target, error) {
	matches := []func(t target) bool{
		func(t target) bool { return t.id == word },
		func(t target) bool { return t.kind == "player" && h.clientID(t.id) == word },
		func(t target) bool { return t.name == word },
		func(t target) bool { return strings.EqualFold(t.name, word) },
	}
	for _, match := range matches {
		var found []target
		for _, t := range all {
			if match(t) {
				found = append(found, t)
			}
		}
		switch len(found) {
		case 0:
		case 1:
			return found[0], nil
		default:
			return target{}, fmt.Errorf("%q means more than one: %s; use the id", cut(word), joinTargets(found))
		}
	}
	var names []string
	for _, t := range all {
		names = append(names, t.id, t.name)
	}
	if n := nearest(word, names); n != "" {
		return target{}, fmt.Errorf("there is no %q; did you mean %q?", cut(word), plain(n))
	}
	if len(all) == 0 {
		return target{}, fmt.Errorf("there is no %q: the bridge knows no speaker yet; bridge doctor tells why", cut(word))
	}
	return target{}, fmt.Errorf("there is no %q; there are: %s", cut(word), joinTargets(all))
}

func (h *house) clientID(pid string) string {
	for _, p := range h.players {
		if p.ID == pid {
			return p.ClientID
		}
	}
	return ""
}

func joinTargets(all []target) string {
	const most = 10
	var parts []string
	for _, t := range all[:min(len(all), most)] {
		parts = append(parts, t.String())
	}
	if len(all) > most {
		parts = append(parts, fmt.Sprintf("and %d more", len(all)-most))
	}
	return strings.Join(parts, ", ")
}

// result is the answer to a command.
type result struct {
	Transaction string         `json:"transaction"`
	Status      string         `json:"status"`
	Data        map[string]any `json:"data"`
	Error       *struct {
		Code    string `json:"code"`
		Message string `json:"message"`
	} `json:"error"`
}

// bridgeError is what the bridge says is wrong.
type bridgeError struct{ code, message string }

// Error is the bridge's sentence and its code.
func (e *bridgeError) Error() string { return fmt.Sprintf("%s (%s)", plain(e.message), plain(e.code)) }

// set sends fields to the set topic of t and waits for the answer. An error of
// the bridge is its own sentence.
func (r *remote) set(ctx context.Context, t target, fields map[string]any) (*result, error) {
	topic := r.base + "/" + t.kind + "/" + t.id
	return r.ask(ctx, topic+"/set", topic+"/result", fields)
}

// request asks the bridge for an action.
func (r *remote) request(ctx context.Context, action string, fields map[string]any) (*result, error) {
	bridge := r.base + "/bridge/"
	return r.ask(ctx, bridge+"request/"+action, bridge+"response/"+action, fields)
}

// ask sends fields to a topic and waits for the answer on another.
func (r *remote) ask(ctx context.Context, topic, answers string, fields map[string]any) (*result, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, answerTime, fmt.Errorf("no answer within %v", answerTime))
	defer cancel()
	transaction := "shell-" + rand.Text()[:12]
	message := map[string]any{"transaction": transaction}
	for k, v := range fields {
		message[k] = v
	}
	payload, err := json.Marshal(message)
	if err != nil {
		return nil, err
	}
	var res result
	// match runs before request returns, and its last call was for the answer.
	_, err = r.broker.request(ctx, topic, payload, answers, func(answer []byte) bool {
		res = result{}
		return json.Unmarshal(answer, &res) == nil && res.Transaction == transaction
	})
	if err != nil {
		return nil, err
	}
	if res.Status != "ok" {
		if res.Error == nil {
			return nil, fmt.Errorf("the bridge answered %q without a reason", plain(res.Status))
		}
		return nil, &bridgeError{res.Error.Code, res.Error.Message}
	}
	return &res, nil
}

// plain makes foreign text fit for a terminal: names come from speakers.
func plain(s string) string {
	return strings.Map(func(c rune) rune {
		if isControl(c) || c >= 0x80 && c < 0xa0 {
			return '?'
		}
		return c
	}, s)
}
