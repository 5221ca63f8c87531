package races

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"time"

	"resonatebridge/tests/internal/broker"
)

// --- commands ---

// question is a command that was sent, and its answers.
type question struct {
	at      time.Time
	unsure  bool // the broker, its link or the bridge had a fault meanwhile
	answers int
	step    int
	ok      func() // takes the effect in; may be nil
	maybe   func() // the same for a command whose fate is unknown; may be nil
	what    string
	code    string
}

// ask sends a JSON command with a transaction.
func (w *world) ask(topic string, fields map[string]any, ok, maybe func()) {
	id := fmt.Sprint("t", len(w.asked))
	fields["transaction"] = id
	payload, err := json.Marshal(fields)
	if err != nil {
		w.Fatal(err)
	}
	q := &question{at: time.Now(), step: w.step, ok: ok, maybe: maybe, what: topic + " " + string(payload)}
	w.do(func() {
		q.unsure = w.bridge == nil || !w.bridge.Broker().Connected || time.Since(w.busyAt) < brokerCalm
		w.asked[id] = q
		w.open = append(w.open, q)
	})
	w.broker.Publish(topic, string(payload), false)
}

// overhear is the broker's tap: it counts answers.
func (w *world) overhear(m broker.Message) {
	if m.Client == "" || m.Retained || (!strings.HasSuffix(m.Topic, "/result") && !strings.HasPrefix(m.Topic, "resonate/bridge/response/")) {
		return
	}
	var answer struct {
		Transaction, Status string
		Error               struct{ Code string }
	}
	if err := json.Unmarshal([]byte(m.Payload), &answer); err != nil {
		w.complain("%s: got %q: %v", m.Topic, m.Payload, err)
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	q := w.asked[answer.Transaction]
	if q == nil {
		if answer.Transaction != "" {
			w.wrongf("%s: an answer to nobody: %q", m.Topic, m.Payload)
		}
		return
	}
	if q.answers++; q.answers > 1 {
		w.wrongf("%s was answered %d times", q.what, q.answers)
	}
	q.code = answer.Error.Code
	if answer.Status == "ok" {
		q.code = "ok"
	}
}

// collect takes in what was answered, and what will not be any more.
func (w *world) collect() {
	const within = 10500 * time.Millisecond // 9.5 s, and 250 ms of grace
	w.mu.Lock()
	defer w.mu.Unlock()
	w.open = slices.DeleteFunc(w.open, func(q *question) bool {
		switch {
		case q.answers > 0:
			w.fresh = !w.blurred && q.step == w.step
			if q.code == "ok" && q.ok != nil {
				q.ok()
			}
			return true
		case q.unsure:
			// A link that stalls may deliver it yet.
			if q.maybe != nil {
				q.maybe()
			}
			return time.Since(q.at) > brokerCalm
		case time.Since(q.at) > within:
			w.wrongf("%s was not answered", q.what)
			return true
		}
		return false
	})
}

// --- the log ---

// journal is the bridge's log: it checks what only the log tells, that ups and
// downs alternate and generations rise.
type journal struct {
	w    *world
	last []slog.Record

	// Guarded by world.mu.
	keys    map[string]*course // supervisor: by endpoint
	players map[string]*course // model: by player
}

// course is one sequence of ups and downs.
type course struct {
	gen, up uint64 // newest generation; that of the open up, 0 if there is none
}

func (j *journal) forget() { j.keys, j.players = map[string]*course{}, map[string]*course{} }

func at(all map[string]*course, key string) *course {
	if all[key] == nil {
		all[key] = &course{}
	}
	return all[key]
}

// Enabled wants everything.
func (j *journal) Enabled(context.Context, slog.Level) bool { return true }

// WithAttrs and WithGroup leave out what sessions add: nothing here needs it.
func (j *journal) WithAttrs([]slog.Attr) slog.Handler { return j }

// WithGroup does nothing.
func (j *journal) WithGroup(string) slog.Handler { return j }

const keptRecords = 400

// Handle takes a record in.
func (j *journal) Handle(_ context.Context, r slog.Record) error {
	j.w.mu.Lock()
	defer j.w.mu.Unlock()
	if len(j.last) >= 2*keptRecords {
		j.last = slices.Delete(j.last, 0, keptRecords)
	}
	j.last = append(j.last, r)
	switch r.Message {
	case "connection state":
		j.state(value(r, "endpoint").String(), value(r, "gen").Uint64(), value(r, "state").String())
	case "connected":
		c, gen := at(j.players, value(r, "player").String()), value(r, "gen").Uint64()
		if c.up != 0 || gen <= c.gen {
			j.w.wrongf("%v connected with generation %d after %+v", value(r, "player"), gen, *c)
		}
		c.gen, c.up = gen, gen
	case "disconnected":
		c, gen := at(j.players, value(r, "player").String()), value(r, "gen").Uint64()
		if c.up == 0 || gen < c.gen {
			j.w.wrongf("%v disconnected with generation %d after %+v", value(r, "player"), gen, *c)
		}
		c.up = 0
	case "forgotten":
		at(j.players, value(r, "player").String()).up = 0
	}
	return nil
}

func value(r slog.Record, key string) (v slog.Value) {
	r.Attrs(func(a slog.Attr) bool {
		if a.Key == key {
			v = a.Value
		}
		return a.Key != key
	})
	return v
}

func (j *journal) state(key string, gen uint64, state string) {
	c := at(j.keys, key)
	wrong := gen < c.gen
	switch state {
	case "up":
		wrong = wrong || c.up != 0
		c.up = gen
	case "draining":
		wrong = wrong || c.up != 0 && gen != c.up
	case "waiting", "parked", "gone":
		wrong = wrong || c.up != 0 && gen != c.up
		c.up = 0
	default:
		wrong = wrong || c.up != 0
	}
	if wrong {
		j.w.wrongf("%s: %s with generation %d after %+v", key, state, gen, *c)
	}
	c.gen = max(c.gen, gen)
}

// ended checks that no up is left without its down.
func (j *journal) ended() {
	for key, c := range j.keys {
		if c.up != 0 {
			j.w.wrongf("%s was up with generation %d when the bridge ended, and never down", key, c.up)
		}
	}
	for pid, c := range j.players {
		if c.up != 0 {
			j.w.wrongf("%s was connected with generation %d when the bridge ended, and never disconnected", pid, c.up)
		}
	}
}

func (j *journal) tail(n int) string {
	var b strings.Builder
	for _, r := range j.last[max(0, len(j.last)-n):] {
		fmt.Fprintf(&b, "%s %s", r.Time.Format("15:04:05.000"), r.Message)
		r.Attrs(func(a slog.Attr) bool {
			fmt.Fprintf(&b, " %s=%.120q", a.Key, a.Value)
			return true
		})
		b.WriteByte('\n')
	}
	return b.String()
}
