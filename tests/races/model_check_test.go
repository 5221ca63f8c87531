package races

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing/synctest"
	"time"

	"resonatebridge/entities"
	"resonatebridge/resonate"
)

// --- the invariants ---

// check is what holds whenever nothing is under way. It locks world.mu.
func (w *world) check() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.bridge == nil {
		return
	}
	snap := w.bridge.Server.Snapshot()
	w.checkGroups(snap)
	for _, p := range snap.Players {
		if !slices.ContainsFunc(w.speakers, func(s *speaker) bool { return s.id == p.PID && p.ClientID == p.PID }) {
			w.wrongf("there is no speaker %s (%s)", p.PID, p.ClientID)
		}
	}
	for _, s := range w.speakers {
		p := snap.Player(s.id)
		goesLive := s.live() != nil || s.dangling()
		if !s.known[p != nil] && (p == nil || !goesLive) {
			w.wrongf("%s: shown %v, want it shown %v: %v", s.id, p != nil, p == nil, s)
		}
		s.known.narrow(func(is bool) bool { return is == (p != nil) })
		if goesLive { // until the next look
			s.known.add(true)
		}
		if p != nil {
			s.check(shown{
				connection: p.Connection, available: p.Available, custody: string(p.Custody), reason: s.reasonIn(snap, p.LastError),
			}, "snapshot")
		} else {
			s.checkUnmet(snap)
		}
		s.checkDials()
		if s.stale > 0 {
			w.wrongf("%s: a retained command was carried out %d times too often", s.id, s.stale)
		}
	}
}

// reasonIn is why a known speaker is not connected: its last error, or that of
// an advertisement that was not yet found to be its own.
func (s *speaker) reasonIn(snap *resonate.Snapshot, lastError string) string {
	for _, u := range snap.Unmet {
		if u.Key == s.keyName(0) || u.Key == s.keyName(1) {
			lastError += u.Error
		}
	}
	return lastError
}

// checkUnmet: what is advertised and not known is at least listed.
func (s *speaker) checkUnmet(snap *resonate.Snapshot) {
	if l := s.live(); l != nil && !l.sick && time.Since(l.hello) > settled {
		s.w.wrongf("%s has a session and is not shown", s.id)
	}
	for k := range s.keys {
		listed := slices.ContainsFunc(snap.Unmet, func(u resonate.UnmetEndpoint) bool { return u.Key == s.keyName(k) })
		key := &s.keys[k]
		if want := key.told.is(true) && key.advertised; listed != want && len(key.told) == 1 && s.known.is(false) && !s.w.blurred && !s.tangled {
			s.w.wrongf("%s: its advertisement %d is listed: %v, want %v: %v", s.id, k, listed, want, s)
		}
	}
}

// checkGroups: everybody is in exactly one group, which exists for a reason.
func (w *world) checkGroups(snap *resonate.Snapshot) {
	in := map[string]string{}
	for _, g := range snap.Groups {
		for _, pid := range g.Members {
			if in[pid] != "" {
				w.wrongf("%s is in %s and in %s", pid, in[pid], g.ID)
			}
			in[pid] = g.ID
		}
		switch {
		case g.Kind == resonate.AdHocGroup && len(g.Members) < 2, g.Kind == resonate.SoloGroup && len(g.Members) != 1:
			w.wrongf("group %s has the members %v", g.ID, g.Members)
		}
	}
	for _, p := range snap.Players {
		if p.GroupID == "" || in[p.PID] != p.GroupID {
			w.wrongf("%s says that it is in %q, and is in %q", p.PID, p.GroupID, in[p.PID])
		}
	}
	for name, exists := range w.named {
		g := snap.Group(name)
		if is := g != nil && g.Kind == resonate.NamedGroup; !exists[is] {
			w.wrongf("group %s exists: %v, want %v", name, is, !is)
		} else {
			exists.narrow(func(v bool) bool { return v == is })
		}
	}
}

// quiet compares what the broker retains with the snapshot and with the truth.
func (w *world) quiet() {
	const patience = 8 // seconds: lists and documents go once a second
	var differ string
	for range patience {
		synctest.Wait()
		if w.bridge == nil || time.Since(w.busyAt) < brokerCalm {
			return
		}
		if differ = w.differences(); differ == "" {
			break
		}
		time.Sleep(time.Second)
	}
	if differ != "" {
		w.complain("what is retained differs: %s", differ)
		return
	}
	synctest.Wait()
	retained := w.broker.Retained()
	if got := retained["resonate/bridge/state"]; got != "online" {
		w.complain("the bridge is %q at the broker, want online", got)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, s := range w.speakers {
		var st struct {
			Connection resonate.Connection
			Custody    string
			Volume     *int
			Mute       *bool
			LastError  string `json:"last_error"`
		}
		payload, shows := retained[topic(s, "state")]
		if !s.known[shows] {
			w.wrongf("%s has a state at the broker: %v, want %v", s.id, shows, !shows)
		}
		if !shows {
			continue
		}
		if err := json.Unmarshal([]byte(payload), &st); err != nil {
			w.wrongf("%s: %v", payload, err)
		}
		s.check(shown{
			connection: st.Connection, available: retained[topic(s, "availability")] == "online", custody: st.Custody,
			reason: s.reasonIn(w.bridge.Server.Snapshot(), st.LastError),
		}, "broker")
		if l := s.live(); l != nil && !l.sick && st.Connection == resonate.Connected && l.reported {
			if st.Volume == nil || *st.Volume != s.volume || st.Mute == nil || *st.Mute != s.muted {
				w.wrongf("%s has volume %d, muted %v, and is shown with %s", s.id, s.volume, s.muted, payload)
			}
		}
	}
}

// ours are the retained topics of players and groups, commands left out.
func ours(all map[string]string) map[string]string {
	maps.DeleteFunc(all, func(topic, _ string) bool {
		kind, rest, _ := strings.Cut(strings.TrimPrefix(topic, "resonate/"), "/")
		return strings.HasPrefix(topic, "resonate/") && (kind != "player" && kind != "group" || strings.Contains(rest, "/set"))
	})
	return all
}

// differences compares what is retained with what the snapshot stands for.
func (w *world) differences() string {
	want := map[string]string{}
	for topic, payload := range entities.Render(entities.Options{}, w.bridge.Server.Snapshot()) {
		want[topic] = string(payload)
	}
	want, got := ours(want), ours(w.broker.Retained())
	var out []string
	for topic, payload := range want {
		have, ok := got[topic]
		slow := strings.HasSuffix(topic, "/diag") || strings.HasPrefix(topic, "homeassistant/") // times, and the bridge's version
		switch {
		case !ok:
			out = append(out, fmt.Sprintf("%s is missing", topic))
		case !slow && have != payload:
			out = append(out, fmt.Sprintf("%s is %s, want %s", topic, have, payload))
		}
	}
	for topic := range got {
		if _, ok := want[topic]; !ok {
			out = append(out, fmt.Sprintf("%s is left over", topic))
		}
	}
	slices.Sort(out)
	return strings.Join(out, "\n")
}
