package entities

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"time"

	"resonatebridge/mqtt"
	"resonatebridge/resonate"
)

// Server is what is shown and commanded: a [resonate.Server].
type Server interface {
	Snapshot() *resonate.Snapshot
	Changed() <-chan struct{}
	// Do carries out a command and obeys ctx. Its error is a *resonate.CommandError.
	Do(ctx context.Context, c resonate.Command) (resonate.Result, error)
}

// Broker is where topics live: an [mqtt.Client]. No method waits.
type Broker interface {
	// Set wants payload retained on topic; nil wants the topic gone. Discovery
	// documents go before the states they name.
	Set(topic string, payload []byte, class mqtt.Class)
	// Publish sends a message that isn't retained, or drops it and returns false.
	Publish(topic string, payload []byte, qos byte) bool
	// Messages is what arrived for [Options.Subscriptions].
	Messages() <-chan mqtt.Message
	// Birth sends everything again, paced, because Home Assistant came up.
	Birth()
}

const (
	// stateEvery is the least time between two states of one device; the first
	// change goes at once (design: 4.5).
	stateEvery = 50 * time.Millisecond
	// documentEvery is the least time between two discovery documents of one
	// device. Every new name changes the documents of all speakers.
	documentEvery = time.Second
	// listEvery is the least time between two of bridge/devices or bridge/groups,
	// which hold everything.
	listEvery = time.Second
	// diagEvery is the least time between two diagnostics of one player.
	diagEvery = 30 * time.Second
	// healthEvery is the time between two of bridge/health.
	healthEvery = 5 * time.Minute

	// volumeEvery is the least time between two volume commands to one device.
	volumeEvery = 100 * time.Millisecond
	// holdFor is how long an unconfirmed volume is held back: a slider that still
	// moves would jump back to it.
	holdFor = 750 * time.Millisecond
	// answerWithin is when a command that did not end is answered with timeout.
	answerWithin = 9500 * time.Millisecond
	// answerGrace is how long after that a server that doesn't notice is waited for.
	answerGrace = 250 * time.Millisecond
	// resendAfter is when a state goes out again after an option that it shows
	// was announced: Home Assistant ignores a state it doesn't know as an option,
	// and documents of one device are up to 3 s apart.
	resendAfter = 6 * time.Second

	// holdUp is how long media may keep other commands for its device waiting: an
	// address may take 9 s to answer, and whoever sees that presses stop. Until
	// then the order in which commands came is kept.
	holdUp = 250 * time.Millisecond

	// laneSize is how many commands wait for one device.
	laneSize = 32
	// maxWarned is how many topics with a retained command are told apart in the log.
	maxWarned = 1000
)

// Run shows s at b, and carries out what arrives there, until ctx ends. It
// returns nil then, or at once an error of [Options.Validate]. Retained topics
// stay: what they say goes "offline" with the bridge's last will.
func Run(ctx context.Context, s Server, b Broker, o Options) error {
	if err := o.Validate(); err != nil {
		return err
	}
	return newLoop(s, b, o).run(ctx)
}

func newLoop(s Server, b Broker, o Options) *loop {
	return &loop{
		o: o.withDefaults(), words: newVocabulary(), server: s, broker: b, labels: &labels{}, shown: make(map[place]*shown), pending: make(map[*shown]bool),
		lanes: make(map[string]*lane), done: make(chan outcome), warned: make(map[string]bool),
	}
}

// loop is the state of Run; only its goroutine touches it.
type loop struct {
	o      Options
	words  *vocabulary
	server Server
	broker Broker

	snap    *resonate.Snapshot
	labels  *labels
	round   uint64 // counts refreshes, to find what is gone
	shown   map[place]*shown
	pending map[*shown]bool // have something that waits for its time

	lanes    map[string]*lane
	done     chan outcome // from the goroutines of started jobs
	started  int
	healthAt time.Time

	warned  map[string]bool // topics of retained commands that were logged
	ignored uint64          // retained commands
	busy    uint64          // commands that found their lane full
}

func (l *loop) run(ctx context.Context) error {
	timer := time.NewTimer(0)
	defer timer.Stop()
	l.healthAt = time.Now().Add(healthEvery)
	messages := l.broker.Messages()
	l.refresh()
	for {
		if at := l.wake(); at.IsZero() {
			timer.Stop()
		} else {
			timer.Reset(time.Until(at))
		}
		select {
		case <-ctx.Done():
			l.stop()
			l.settle()
			return nil
		case <-l.server.Changed():
			l.refresh()
		case m, open := <-messages:
			if !open {
				messages = nil
				continue
			}
			l.receive(ctx, m)
		case out := <-l.done:
			l.finish(ctx, out)
		case <-timer.C:
			l.tick(ctx)
		}
	}
}

// settle publishes the last state at once: what a bridge that ends leaves behind
// is what was true at its end, whatever windows are open.
func (l *loop) settle() {
	l.refresh()
	now := time.Now()
	for sh := range l.pending {
		sh.hold, sh.resendAt = nil, time.Time{}
		sh.document.open, sh.state.open, sh.slow.open = time.Time{}, time.Time{}, time.Time{}
		l.flush(sh, now)
	}
}

// wake is when tick has something to do; zero: never.
func (l *loop) wake() time.Time {
	at := l.healthAt
	if l.o.Health == nil {
		at = time.Time{}
	}
	soonest := func(t time.Time) {
		if !t.IsZero() && (at.IsZero() || t.Before(at)) {
			at = t
		}
	}
	for sh := range l.pending {
		soonest(sh.wake())
	}
	for _, ln := range l.lanes {
		soonest(ln.wake())
	}
	return at
}

func (l *loop) tick(ctx context.Context) {
	now := time.Now()
	for sh := range l.pending {
		if !sh.wake().After(now) {
			l.flush(sh, now)
		}
	}
	for name, ln := range l.lanes {
		if !ln.wake().After(now) {
			l.pump(ctx, name, ln)
		}
	}
	if l.o.Health != nil && !now.Before(l.healthAt) {
		l.healthAt = now.Add(healthEvery)
		l.broker.Publish(l.o.bridgeTopic()+"/health", encode(l.health()), 0)
	}
}

// place is where a device is shown; the bridge has no id.
type place struct {
	kind kind
	id   string
}

// at is the device that the commands of a lane are for; nil if it isn't shown.
func (l *loop) at(lane string) *shown {
	name, id, _ := strings.Cut(lane, "/")
	switch name {
	case "player":
		return l.shown[place{playerKind, id}]
	case "group":
		return l.shown[place{groupKind, id}]
	}
	return nil
}

// window spaces what is published: the first change at once, then one in each
// period. It doesn't slide, so steady changes can't starve it.
type window struct {
	dirty bool
	open  time.Time
}

func (w *window) due(now time.Time) bool { return w.dirty && !now.Before(w.open) }

// shown is one device as it was last published.
type shown struct {
	kind   kind
	id     string
	player *resonate.Player
	group  *resonate.Group    // a player's, or the group itself
	of     []*resonate.Player // a group's members
	labels *labels
	round  uint64

	sent      map[string]retained
	document  window
	state     window
	slow      window // diagnostics of a player, lists of the bridge
	device    device // as last announced
	announced map[string]string
	options   *labels // of the last document
	resendAt  time.Time
	hold      *hold
}

// wake is when something of sh is due; zero: nothing waits.
func (sh *shown) wake() time.Time {
	at := sh.resendAt
	for _, w := range []*window{&sh.document, &sh.state, &sh.slow} {
		if !w.dirty {
			continue
		}
		open := w.open
		if w == &sh.state && sh.hold != nil && sh.hold.until.After(open) {
			open = sh.hold.until
		}
		if open.IsZero() {
			open = time.Unix(0, 1) // long due
		}
		if at.IsZero() || open.Before(at) {
			at = open
		}
	}
	return at
}

// refresh takes the newest snapshot and publishes what changed.
func (l *loop) refresh() {
	s := l.server.Snapshot()
	if s == l.snap {
		return
	}
	before := l.snap
	l.snap, l.labels = s, relabel(l.labels, s)
	l.round++
	now := time.Now()

	// The bridge's device goes before those that refer to it, its long lists after
	// the states that somebody waits for.
	bridge := l.show(bridgeKind, "")
	bridge.document.dirty = true
	l.flush(bridge, now)

	groups := make(map[string]*resonate.Group, len(s.Groups))
	for _, g := range s.Groups {
		groups[g.ID] = g
	}
	for _, p := range s.Players {
		sh := l.show(playerKind, p.PID)
		if g := groups[p.GroupID]; sh.player != p || sh.group != g || sh.labels != l.labels {
			sh.player, sh.group, sh.labels = p, g, l.labels
			sh.document.dirty, sh.state.dirty, sh.slow.dirty = true, true, true
			l.flush(sh, now)
		}
	}
	for _, g := range s.Groups {
		if g.Kind == resonate.SoloGroup {
			continue
		}
		sh := l.show(groupKind, g.ID)
		if of := members(s, g); sh.group != g || !slices.Equal(sh.of, of) {
			sh.group, sh.of = g, of
			sh.document.dirty, sh.state.dirty = true, true
			l.flush(sh, now)
		}
	}
	bridge.state.dirty, bridge.slow.dirty = true, true
	l.flush(bridge, now)
	for key, sh := range l.shown {
		if sh.round != l.round {
			l.remove(sh)
			delete(l.shown, key)
			delete(l.pending, sh)
		}
	}
	if before != nil {
		for _, e := range events(before, s) {
			l.tell(e)
		}
	}
}

// show finds or makes the device and notes that it is still there.
func (l *loop) show(k kind, id string) *shown {
	key := place{k, id}
	sh := l.shown[key]
	if sh == nil {
		sh = &shown{kind: k, id: id, sent: make(map[string]retained)}
		l.shown[key] = sh
	}
	sh.round = l.round
	return sh
}

// remove takes a device off the broker: discovery first, so that Home Assistant
// doesn't see the states go.
func (l *loop) remove(sh *shown) {
	gone := slices.SortedFunc(maps.Values(sh.sent), func(a, b retained) int {
		if a.class != b.class {
			return int(a.class) - int(b.class)
		}
		return strings.Compare(a.topic, b.topic)
	})
	for _, r := range gone {
		l.broker.Set(r.topic, nil, r.class)
	}
}

// put wants r retained, if it is news, and reports whether it was.
func (l *loop) put(sh *shown, r retained) bool {
	old := sh.sent[r.topic] // none has no payload, like a topic that should be gone
	if string(old.payload) == string(r.payload) {
		return false
	}
	sh.sent[r.topic] = r
	l.broker.Set(r.topic, r.payload, r.class)
	return true
}

// flush publishes what is dirty and due, and remembers what has to wait.
func (l *loop) flush(sh *shown, now time.Time) {
	if sh.document.due(now) {
		sh.document.dirty = false
		if l.flushDocument(sh, now) {
			sh.document.open = now.Add(documentEvery)
		}
	}
	if sh.hold != nil && (!now.Before(sh.hold.until) || sh.hold.ends(sh.volume())) {
		sh.hold = nil
		sh.state.open = now // the speaker's answer doesn't wait for the window
		sh.state.dirty = true
	}
	if sh.state.due(now) {
		sh.state.dirty = false
		if l.flushState(sh) {
			sh.state.open = now.Add(stateEvery)
		}
	}
	if sh.slow.due(now) {
		sh.slow.dirty = false
		l.flushSlow(sh, now)
	}
	if !sh.resendAt.IsZero() && !now.Before(sh.resendAt) {
		sh.resendAt = time.Time{}
		l.retell(sh)
	}
	if sh.wake().IsZero() {
		delete(l.pending, sh)
	} else {
		l.pending[sh] = true
	}
}

func (l *loop) flushDocument(sh *shown, now time.Time) bool {
	if l.o.NoDiscovery {
		return false
	}
	var d device
	id, class := sh.id, mqtt.ClassDiscovery
	switch sh.kind {
	case bridgeKind:
		d, id, class = l.o.bridgeDevice(l.snap), "bridge", mqtt.ClassBridgeDiscovery
	case playerKind:
		d = l.o.playerDevice(sh.player, sh.labels)
		if sh.player.Connection != resonate.Connected {
			// Away, it can't say what it accepts; its entities stay.
			d.volume, d.mute, d.delay = d.volume || sh.device.volume, d.mute || sh.device.mute, d.delay || sh.device.delay
		}
		if sh.announced != nil {
			d.keepTrust(sh.player, &sh.device)
		}
	case groupKind:
		if sh.group.Kind != resonate.NamedGroup {
			return false
		}
		d, id = l.o.groupDevice(sh.group), "group_"+sh.id
	}
	if sh.announced != nil && d == sh.device {
		return false
	}
	if sh.announced == nil {
		sh.announced = make(map[string]string)
	}
	if sh.kind == playerKind {
		if option := sh.labels.current(sh.player, sh.group); sh.options != nil && !sh.options.has(option) {
			sh.resendAt = now.Add(resendAfter)
		}
		sh.options = sh.labels
	}
	maps.Copy(sh.announced, l.o.components(&d))
	sh.device = d
	return l.put(sh, retained{l.o.configTopic(l.o.objectID(id)), l.o.document(&d, sh.labels, sh.announced), class})
}

func (l *loop) flushState(sh *shown) bool {
	var out []retained
	held := map[string]bool{}
	switch sh.kind {
	case bridgeKind:
		out = l.o.bridge(nil, l.snap)
	case playerKind:
		out = l.o.player(make([]retained, 0, 12), sh.player, sh.group, sh.labels)
	case groupKind:
		out = l.o.group(make([]retained, 0, 12), sh.group, sh.of)
	}
	if sh.hold != nil {
		topic := l.topic(sh)
		held[topic+"/state"], held[topic+"/volume"] = true, true
		sh.state.dirty = true
	}
	news := false
	for _, r := range out {
		if !held[r.topic] && l.put(sh, r) {
			news = true
		}
	}
	return news
}

func (l *loop) flushSlow(sh *shown, now time.Time) {
	switch sh.kind {
	case bridgeKind:
		news := l.put(sh, retained{l.o.bridgeTopic() + "/devices", l.o.devices(l.snap, l.labels), mqtt.ClassState})
		if l.put(sh, retained{l.o.bridgeTopic() + "/groups", l.o.groups(l.snap), mqtt.ClassState}) || news {
			sh.slow.open = now.Add(listEvery)
		}
	case playerKind:
		if l.put(sh, l.o.diag(sh.player)) {
			sh.slow.open = now.Add(diagEvery)
		}
	case groupKind:
	}
}

func (l *loop) topic(sh *shown) string {
	switch sh.kind {
	case playerKind:
		return l.o.playerTopic(sh.id)
	case groupKind:
		return l.o.groupTopic(sh.id)
	case bridgeKind:
	}
	return l.o.bridgeTopic()
}

// retell sends the state once more to who is listening: a control that was moved
// in vain, or showed an option that was not yet known, gets it right.
func (l *loop) retell(sh *shown) {
	if r, ok := sh.sent[l.topic(sh)+"/state"]; ok {
		l.broker.Publish(r.topic, r.payload, 1)
	}
}

// tell publishes an event: for everybody, and in the shapes of Home Assistant.
func (l *loop) tell(e event) {
	l.broker.Publish(l.o.bridgeTopic()+"/event", encode(map[string]any{"type": e.kind, "data": e.data}), 1)
	shaped := maps.Clone(e.data)
	shaped["event_type"] = e.kind
	if name, ok := shaped["name"]; ok { // Home Assistant drops an attribute of this name
		delete(shaped, "name")
		key := "player"
		if e.kind == groupChanged {
			key = "group"
		}
		shaped[key] = name
	}
	payload := encode(shaped)
	if !l.o.NoDiscovery {
		l.broker.Publish(l.o.bridgeTopic()+"/ha_event", payload, 1)
	}
	for _, pid := range e.pids {
		if l.snap.Player(pid) == nil {
			continue // its topics are gone
		}
		l.broker.Publish(l.o.playerTopic(pid)+"/event", payload, 1)
	}
}

// receive takes one message.
func (l *loop) receive(ctx context.Context, m mqtt.Message) {
	if m.Topic == l.o.StatusTopic {
		// The retained copy comes with each new connection, which replays anyway.
		if !m.Retained && string(m.Payload) == "online" {
			l.broker.Birth()
		}
		return
	}
	l.refresh() // a command may name what has just come up
	payload := m.Payload
	if m.Oversize {
		payload = []byte(" ")
	}
	c, err := decoder{l.words, l.o, l.snap, l.labels}.decode(m.Topic, payload)
	if c == nil {
		return
	}
	switch {
	case m.Retained:
		err = l.ignore(c)
	case m.Oversize:
		err = tooLong(0)
	}
	j := &job{call: c, since: time.Now()}
	if err != nil {
		l.answer(j, resonate.Result{}, err)
		return
	}
	l.enqueue(ctx, j)
}

// ignore refuses a retained command: it would be carried out again at each
// connect, hours after it was meant. Clearing it is left to its owner.
func (l *loop) ignore(c *call) *resonate.CommandError {
	l.ignored++
	clearing := "mosquitto_pub -r -n -t '" + c.topic + "'"
	if !l.warned[c.topic] && len(l.warned) < maxWarned {
		l.warned[c.topic] = true
		l.o.Log.LogAttrs(context.Background(), slog.LevelWarn, "ignored a retained command",
			slog.String("topic", c.topic), slog.String("clear_with", clearing))
	}
	var pids []string
	if pid, ok := strings.CutPrefix(c.lane, "player/"); ok {
		pids = []string{pid}
	}
	l.tell(event{commandIgnored, pids, map[string]any{"topic": c.topic, "reason": "retained", "clear_with": clearing}})
	return resonate.Errorf(resonate.CodeRetainedIgnored, "the command on %s is retained, so it was ignored; clear it with: %s", c.topic, clearing)
}

// result is what is published on result and bridge/response topics.
type result struct {
	Transaction json.RawMessage `json:"transaction,omitempty"`
	Command     string          `json:"command"`
	Status      string          `json:"status"` // "ok" or "error"
	Data        map[string]any  `json:"data,omitempty"`
	Error       *resultError    `json:"error,omitempty"`
	Superseded  bool            `json:"superseded,omitempty"`
	TookMs      int64           `json:"took_ms"`
}

type resultError struct {
	Code    resonate.Code `json:"code"`
	Message string        `json:"message"`
}

// answer says once how a command ended.
func (l *loop) answer(j *job, r resonate.Result, err error) {
	if j.answered {
		return
	}
	j.answered = true
	out := result{
		Transaction: j.call.transaction, Command: strings.TrimPrefix(j.call.name, "request/"), Status: "ok",
		Data: r.Data, Superseded: r.Superseded, TookMs: time.Since(j.since).Milliseconds(),
	}
	if err != nil {
		failed := commandError(err)
		out.Status, out.Data, out.Error = "error", nil, &resultError{failed.Code, failed.Message}
		l.o.Log.LogAttrs(context.Background(), slog.LevelInfo, "command failed",
			slog.String("topic", j.call.topic), slog.String("code", string(failed.Code)), slog.Any("err", err))
	}
	l.broker.Publish(j.call.answer, encode(out), 1)
	if sh := l.at(j.call.lane); sh != nil && err != nil {
		l.retell(sh)
	}
}

// commandError is err with a code.
func commandError(err error) *resonate.CommandError {
	if failed, ok := errors.AsType[*resonate.CommandError](err); ok {
		return failed
	}
	switch {
	case errors.Is(err, context.DeadlineExceeded):
		return resonate.Errorf(resonate.CodeTimeout, "no answer in time; the speaker may still do it")
	case errors.Is(err, context.Canceled):
		return resonate.Errorf(resonate.CodeInternal, "the bridge is shutting down")
	}
	return resonate.Errorf(resonate.CodeInternal, "%v", err)
}

// health is what bridge/health and health_check say.
func (l *loop) health() map[string]any {
	facts := map[string]any{"healthy": true}
	if l.o.Health != nil {
		maps.Copy(facts, l.o.Health())
	}
	facts["commands_ignored"], facts["commands_refused_busy"] = l.ignored, l.busy
	return facts
}
