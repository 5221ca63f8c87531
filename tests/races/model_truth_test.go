package races

import (
	"fmt"
	"maps"
	"slices"
	"time"

	"resonatebridge/resonate"
)

// The reference model: what is true of a speaker, and how the bridge may show
// it. It knows the design (4.5, and races C.5), and nothing of the code.

// fact is something that is true, as far as that can be known: the values that
// it may have. Where the order of two events is open, both outcomes are in it;
// what the bridge then shows decides.
type fact[T comparable] map[T]bool

func known[T comparable](v T) fact[T] { return fact[T]{v: true} }

// is reports whether v is certain.
func (f fact[T]) is(v T) bool { return len(f) == 1 && f[v] }

// all reports whether every possible value meets ok.
func (f fact[T]) all(ok func(T) bool) bool {
	for v := range f {
		if !ok(v) {
			return false
		}
	}
	return true
}

func (f fact[T]) add(vs ...T) {
	for _, v := range vs {
		f[v] = true
	}
}

// become makes v the truth; where it is not sure when, the old truth stays possible.
func (f fact[T]) become(v T, sure bool) {
	if sure {
		clear(f)
	}
	f[v] = true
}

// narrow drops the values that don't meet ok, unless none does.
func (f fact[T]) narrow(ok func(T) bool) {
	if slices.ContainsFunc(slices.Collect(maps.Keys(f)), ok) {
		maps.DeleteFunc(f, func(v T, _ bool) bool { return !ok(v) })
	}
}

// keyTruth is one advertisement of a speaker.
type keyTruth struct {
	advertised bool
	at         int        // the address that it names
	heard      bool       // by this run of the bridge
	gone       bool       // withdrawn since then: the next one is "again"
	told       fact[bool] // the bridge has heard it and has no reason to forget it
	bound      fact[bool] // the bridge remembers whose it is
	astray     bool       // since it was last heard, another speaker answered there: the bridge may take it for that one's
	met        bool       // and has reached its owner over it since it started
	asked      bool       // announced anew beside another one: the bridge looks whose it is, without a session
}

// surely reports whether the bridge knows of k as an advertisement of its owner.
func (k *keyTruth) surely() bool { return k.advertised && k.told.is(true) && k.met }

// truth is what is so about one speaker. It is guarded by world.mu.
type truth struct {
	known   fact[bool]
	custody fact[string]
	parked  fact[string] // reason of the last goodbye while it keeps the bridge away; "" for none
	keys    [2]keyTruth

	was      fact[string] // parked before: shown until an attempt has ended
	calm     time.Time    // something last happened that the bridge has to get over
	parks    int          // how often it was parked or freed
	parkedAt time.Time    // parked last changed
	nudged   time.Time    // an event last came that ends waiting
	lastUp   time.Time    // it was last seen connected, or the bridge started
	misled   time.Time    // one of its advertisements last led to another speaker
	tangled  bool         // that, or another's led to it: what the bridge made of that is too long a story for a model
	hidden   time.Time    // something last happened that makes it unavailable at once
	downBy   time.Time    // it was first seen not connected; zero: it is
	choices  []choice     // of custody and of being known: what a crash may undo
}

// choice is what the bridge knew at some time.
type choice struct {
	at      time.Time
	known   fact[bool]
	custody fact[string]
}

func newTruth() truth {
	k := func() keyTruth { return keyTruth{told: known(false), bound: known(false)} }
	return truth{keys: [2]keyTruth{k(), k()}, known: known(false), custody: known("auto"), parked: known(""), lastUp: time.Now(), downBy: time.Now()}
}

func managed(custody string) bool { return custody == "auto" || custody == "hold" }

// Goodbye reasons by what ends the wait (races: C.5).
func slowly(reason string) bool { return reason == "concurrent_attempt" || reason == "something_new" }

func leavesOn(reason, event string) bool {
	switch reason {
	case "":
		return false
	case "shutdown":
		return event == "again" || event == "moved" || event == "user"
	case "another_server":
		return event == "again" || event == "user" || event == "playback"
	case "user_request":
		return event == "again" || event == "user"
	case "unauthorized", "pairing_required", "unpaired":
		return event == "user" || event == "config"
	}
	return true
}

// sure reports whether what is done now comes after everything before.
func (s *speaker) sure() bool { return !s.w.blurred }

// remember notes what a crash would have to undo.
func (s *speaker) remember() {
	s.choices = append(s.choices, choice{time.Now(), maps.Clone(s.known), maps.Clone(s.custody)})
	s.choices = s.choices[max(0, len(s.choices)-20):]
}

func (s *speaker) disturbed() { s.calm = time.Now() }

func (s *speaker) park(reason string, sure bool) {
	s.parks++
	s.parked.become(reason, sure)
	s.parkedAt = time.Now()
	s.disturbed()
}

// tried: an attempt may be under way, until whose end it is shown as before.
func (s *speaker) tried() {
	if time.Since(s.nudged) > attempt {
		s.was = fact[string]{}
	}
	maps.Copy(s.was, s.parked)
	s.nudged = time.Now()
}

// nudge is an event that may end waiting.
func (s *speaker) nudge(event string) {
	s.disturbed()
	if s.keys[0].told.is(false) && s.keys[1].told.is(false) {
		return // there is nothing to try
	}
	s.tried()
	for r := range maps.Clone(s.parked) {
		if leavesOn(r, event) {
			if s.sure() && (s.keys[0].met || s.keys[1].met) {
				delete(s.parked, r)
			}
			s.parked.add("")
			s.parkedAt = time.Now()
		}
	}
	s.disturbed()
}

// met: the bridge has read its hello and answered.
func (s *speaker) met(dialedIn bool) {
	if leads := s.leading(s.at); len(leads) == 1 && !dialedIn {
		leads[0].bound.become(true, true)
		leads[0].met = true
	}
	s.remember()
	if dialedIn || s.tangled { // then when it is live
		s.known.add(true)
	} else {
		s.known.become(true, true)
	}
	s.tried()
	s.downBy = time.Time{} // it may have been up since it was last looked at
	s.parked.become("", s.sure())
	s.parkedAt = time.Now()
	s.disturbed()
}

// leading are the advertisements that lead to an address.
func (s *speaker) leading(at int) (ks []*keyTruth) {
	for k := range s.keys {
		if key := &s.keys[k]; key.told[true] && key.at == at {
			ks = append(ks, key)
		}
	}
	return ks
}

// introduced: it said hello to somebody who dialed it.
func (s *speaker) introduced() {
	s.remember()
	s.known.add(true)
	for _, k := range s.leading(s.at) {
		k.bound.add(true)
		k.asked = false
	}
}

// doubted: what it said last may not arrive.
func (s *speaker) doubted(l *line) {
	if l.bye != nil {
		s.parked.add("")
	}
	for _, k := range s.leading(s.at) {
		k.asked = k.asked || s.twice() && l.hello.IsZero()
	}
	s.disturbed()
}

// twice reports whether it may be advertised under both of its names.
func (s *speaker) twice() bool { return s.keys[0].told[true] && s.keys[1].told[true] }

// left: it said goodbye.
func (s *speaker) left(reason string, sick bool) {
	const settling = 2 * time.Second // a nudge so short before may still be at work
	sure := s.sure() && !sick && time.Since(s.nudged) > settling
	if reason == "restart" {
		reason = ""
	}
	s.hidden = time.Now()
	s.park(reason, sure)
}

func (s *speaker) announced(k int, again bool) {
	key := &s.keys[k]
	first, other := maps.Clone(key.told), &s.keys[1-k]
	key.told.become(true, true)
	key.heard, key.astray, key.asked = true, false, s.twice()
	switch event := map[bool]string{true: "again", false: "moved"}[again]; {
	case first[true] && key.met:
		s.nudge(event)
	case first[true]:
		s.tried()
		s.parked.add("")
	}
	if first[false] && s.custody.all(managed) { // a new way to it is tried at once
		s.tried()
		s.parked.add("")
		if s.sure() && first.is(false) && other.told.is(false) && key.bound.is(true) {
			s.parked.become("", true)
		}
		s.parkedAt = time.Now()
	}
	s.disturbed()
}

func (s *speaker) withdrawn(k int) {
	s.keys[k].gone = true
	if key := &s.keys[k]; key.bound[false] { // nobody it could be remembered for
		key.told.become(false, key.bound.is(false) && s.sure())
		s.parkedAt = time.Now()
	}
	s.disturbed()
}

// choose: its custody was set, when it had been parked so often.
func (s *speaker) choose(custody string, parks int) {
	s.remember()
	was := s.custody.all(managed)
	if !managed(custody) {
		s.hidden = time.Now()
	}
	s.custody.become(custody, s.sure())
	if !managed(custody) || !was {
		s.freed(parks, func() { s.park("", s.sure()) })
		return
	}
	s.freed(parks, func() {
		s.nudge("config")
		if custody == "hold" { // to take it, if another server has it, and it is on
			if s.keys[0].surely() || s.keys[1].surely() || s.keys[0].told.is(false) && s.keys[1].told.is(false) {
				s.nudge("playback")
			} else {
				s.parked.add("")
			}
		}
	})
}

// freed ends waiting by a command, which was sent when it had been parked so
// often: it may have said goodbye again to what the command caused.
func (s *speaker) freed(parks int, free func()) {
	switch {
	case s.parks == parks:
		free()
	case !s.w.fresh:
		s.parked.add("")
	}
}

// forgotten: it was removed.
func (s *speaker) forgotten() {
	s.remember()
	s.hidden = time.Now()
	s.known.become(false, s.sure())
	s.custody.become("auto", s.sure())
	s.park("", s.sure())
	for k := range s.keys {
		key := &s.keys[k]
		if key.bound[true] {
			key.told.become(false, key.bound.is(true) && s.sure())
			key.bound.become(false, s.sure())
			key.met = false
		}
	}
}

func (s *speaker) maybeForgotten() {
	s.hidden = time.Now()
	s.known.add(false)
	s.custody.add("auto")
	s.park("", false)
	for k := range s.keys {
		if key := &s.keys[k]; key.bound[true] {
			key.told.add(false)
			key.bound.add(false)
			key.met = false
		}
	}
}

// restarted: a bridge begins, with what it has written down.
func (s *speaker) restarted() {
	s.park("", true)
	s.lastUp, s.downBy, s.hidden = time.Now(), time.Now(), time.Now()
	for k := range s.keys {
		key := &s.keys[k]
		key.told.become(false, true)
		key.heard, key.gone, key.met = false, false, false
	}
}

// crashed: what was learned in the last seconds may not be written down.
func (s *speaker) crashed() {
	const unwritten = 3 * time.Second
	for _, c := range s.choices {
		if time.Since(c.at) < unwritten {
			for v := range c.known {
				s.known.add(v)
			}
			for v := range c.custody {
				s.custody.add(v)
			}
			s.keys[0].bound.add(true, false)
			s.keys[1].bound.add(true, false)
		}
	}
}

// reachable reports whether an advertisement leads to it and it takes calls.
func (s *speaker) reachable() bool {
	return (s.mode == open || s.mode == shy) && slices.ContainsFunc(s.keys[:], func(k keyTruth) bool {
		return k.advertised && k.told.is(true) && k.at == s.at && !k.astray
	})
}

func (s *speaker) anyAdvertised() bool {
	return slices.ContainsFunc(s.keys[:], func(k keyTruth) bool { return k.advertised && k.told.is(true) })
}

// within is how long the bridge may take to connect to a speaker that can be:
// the rest of an attempt that fails (20 s), the longest backoff (60 s, or 300 s
// when there was no success for an hour), and an attempt that succeeds.
func (s *speaker) within() time.Duration {
	if b := s.w.bridge; b != nil && time.Since(b.since) > 55*time.Minute || s.strayed() {
		return 335 * time.Second
	}
	return 95 * time.Second
}

// strayed reports whether the bridge may still wait because another speaker
// answered at the address of this one, which it does for 300 s.
func (s *speaker) strayed() bool {
	return !s.misled.IsZero() && time.Since(s.misled) < 305*time.Second+attempt
}

// words are how a speaker without a session may be shown, for one custody and
// one reason.
func (s *speaker) words(custody, reason string) []resonate.Connection {
	waiting := []resonate.Connection{resonate.Searching, resonate.Connecting, resonate.Offline}
	if s.strayed() {
		waiting = append(waiting, resonate.ConnectionProblem)
	}
	var words []resonate.Connection
	switch {
	case !managed(custody):
		return []resonate.Connection{resonate.NotManaged}
	case reason == "":
		return waiting
	case reason == "shutdown" || reason == "user_request":
		words = append(words, resonate.Offline)
	case reason == "pairing_required" || reason == "unpaired":
		words = append(words, resonate.PairingRequired)
	case reason == "unauthorized":
		words = append(words, resonate.ConnectionProblem)
	default:
		words = append(words, resonate.HeldByOtherServer)
		if !s.keys[0].surely() && !s.keys[1].surely() { // nobody heard it, or it was switched off
			words = append(words, waiting...)
		}
	}
	if slices.ContainsFunc(s.keys[:], func(k keyTruth) bool { return k.told[true] && !k.met }) { // it is looked for there, too
		words = append(words, waiting...)
	}
	return words
}

// shown is a speaker as the bridge shows it, in its snapshot or over MQTT.
type shown struct {
	connection resonate.Connection
	available  bool
	custody    string
	reason     string // why it is not connected
}

const (
	settled = 8 * time.Second  // by when an admitted session is shown: 5 s for the first state, 3 s to drain the old one
	grace   = 15 * time.Second // availability
	attempt = 25 * time.Second // the longest: 5 s for the socket, 5 s for the upgrade, 10 s for the hello, 5 s for the state
)

// check compares what is shown of a known speaker with what is true, and learns
// from it where the truth is open. world.mu is held; everything is quiet.
func (s *speaker) check(p shown, where string) {
	w, now := s.w, time.Now()
	wrong := func(format string, args ...any) {
		w.wrongf("%s, %s: "+format+"; it is %+v, with %v", append([]any{where, s.id}, append(args, p, s.String())...)...)
	}
	l := s.live()
	well := l != nil && !l.sick
	connected := p.connection == resonate.Connected

	if !s.custody[p.custody] {
		wrong("custody %q", p.custody)
	}
	s.custody.narrow(func(c string) bool { return c == p.custody })
	switch {
	case connected && l == nil && !s.dangling():
		wrong("connected without a session")
	case connected && !managed(p.custody):
		wrong("connected although the bridge is to leave it alone")
	case !connected && well && managed(p.custody) && now.Sub(l.hello) > settled && now.Sub(s.calm) > settled:
		wrong("not connected, but its session is well")
	}
	if l != nil && !managed(p.custody) && now.Sub(s.calm) > settled {
		wrong("a session although the bridge is to leave it alone")
	}
	if connected {
		s.lastUp, s.downBy = now, time.Time{}
		if !p.available {
			wrong("connected and not available")
		}
		if well && !w.blurred {
			s.parked.become("", true)
		}
		return
	}
	if s.downBy.IsZero() && l == nil && !s.dangling() {
		s.downBy = now
	}

	if s.tangled {
		if !managed(p.custody) && p.connection != resonate.NotManaged {
			wrong("want it not_managed")
		}
		return
	}
	var possible []resonate.Connection
	for r := range s.parked {
		possible = append(possible, s.words(p.custody, r)...)
		if slowly(r) && now.Sub(s.parkedAt) > 29*time.Second {
			possible = append(possible, s.words(p.custody, "")...) // it was tried again
		}
	}
	if now.Sub(s.nudged) < attempt {
		for r := range s.was {
			possible = append(possible, s.words(p.custody, r)...)
		}
	}
	if !slices.Contains(possible, p.connection) {
		wrong("shown as %s, want one of %v", p.connection, possible)
	}
	if l == nil && now.Sub(s.parkedAt) > time.Second && now.Sub(s.nudged) > attempt {
		s.parked.narrow(func(r string) bool {
			return slices.Contains(s.words(p.custody, r), p.connection) || slowly(r)
		})
	}

	free := s.parked.is("") && managed(p.custody)
	quiet := now.Sub(slices.MaxFunc([]time.Time{s.calm, s.downBy, s.misled}, time.Time.Compare))
	switch {
	case free && l == nil && s.reachable() && quiet > s.within():
		wrong("not connected for %v, although it can be", quiet)
	case s.anyAdvertised() && !s.strayed() && p.connection != resonate.NotManaged && p.reason == "" && quiet > 2*grace && l == nil:
		wrong("advertised, not connected, and no reason given")
	}

	declined := func(r string) bool {
		return r == "shutdown" || r == "user_request" || r == "pairing_required" || r == "unpaired"
	}
	if p.available && s.parked.all(declined) {
		wrong("available, though it said that it is not")
	}
	switch p.connection {
	case resonate.HeldByOtherServer:
		if !p.available {
			wrong("another server has it: want it available")
		}
	case resonate.NotManaged, resonate.PairingRequired:
		if p.available {
			wrong("available")
		}
	default:
		if gone := now.Sub(s.downBy); p.available && !s.downBy.IsZero() && gone > grace {
			wrong("available %v after it was lost", gone)
		}
		if gone := now.Sub(s.lastUp); !p.available && s.lastUp.After(s.hidden) && gone < grace {
			wrong("not available %v after it was last connected", gone)
		}
	}
}

// checkDials: nobody is called who said not to be. world.mu is held.
func (s *speaker) checkDials() {
	const late = time.Second // a dial that was under way
	calm := s.parkedAt
	switch {
	case s.tangled || s.w.blurred || !s.dialed.After(calm.Add(late)):
	case slices.ContainsFunc(s.keys[:], func(k keyTruth) bool { return k.told[true] && !k.met }): // it has to be dialed to know whose it is
	case s.custody.all(func(c string) bool { return !managed(c) }) && s.known.is(true):
		s.w.wrongf("%s was dialed %v after it was to be left alone", s.id, s.dialed.Sub(calm))
	case s.parked.all(func(r string) bool { return r != "" && !slowly(r) }):
		s.w.wrongf("%s was dialed %v after it said goodbye: %v", s.id, s.dialed.Sub(calm), s.String())
	case s.parked.all(slowly) && s.dialed.Before(calm.Add(29*time.Second)):
		s.w.wrongf("%s was dialed %v after it asked for time: %v", s.id, s.dialed.Sub(calm), s.String())
	case s.known.is(false) && s.keys[0].told.is(false) && s.keys[1].told.is(false):
		s.w.wrongf("%s was dialed %v after it was forgotten", s.id, s.dialed.Sub(calm))
	}
}

// String is the truth for people.
func (s *speaker) String() string {
	ago := func(t time.Time) time.Duration { return time.Since(t) }
	l := s.live()
	out := fmt.Sprintf("%s %s%s at %d, known %v, custody %v, parked %v %v ago, calm for %v, keys %+v", s.id, s.mode, s.reason, s.at,
		slices.Collect(maps.Keys(s.known)), slices.Collect(maps.Keys(s.custody)), slices.Collect(maps.Keys(s.parked)), ago(s.parkedAt), ago(s.calm), s.keys)
	if l != nil {
		out += fmt.Sprintf(", live for %v, sick %v, dialed in %v", ago(l.hello), l.sick, l.dialedIn)
	}
	return out
}
