package races

import (
	"fmt"
	"slices"
	"testing/synctest"
	"time"

	"resonatebridge/resonate"
)

func ops() []op {
	return []op{
		{"announce", 8, (*world).opAnnounce},
		{"announce again", 4, (*world).opAnnounceAgain},
		{"withdraw", 4, (*world).opWithdraw},
		{"move", 4, (*world).opMove},
		{"swap", 1, (*world).opSwap},
		{"mode", 6, (*world).opMode},
		{"dial in", 6, (*world).opDialIn},
		{"hello again", 1, (*world).opHelloAgain},
		{"goodbye", 6, (*world).opGoodbye},
		{"drop", 5, (*world).opDrop},
		{"cut", 3, (*world).opCut},
		{"freeze", 3, (*world).opFreeze},
		{"thaw", 3, (*world).opThaw},
		{"slow", 2, (*world).opSlow},
		{"knob", 3, (*world).opKnob},
		{"set volume", 5, (*world).opVolume},
		{"set mute", 2, (*world).opMute},
		{"stale volume", 1, (*world).opStale},
		{"join", 3, (*world).opJoin},
		{"unjoin", 2, (*world).opUnjoin},
		{"add group", 2, (*world).opAddGroup},
		{"remove group", 1, (*world).opRemoveGroup},
		{"group volume", 1, (*world).opGroupVolume},
		{"custody", 4, (*world).opCustody},
		{"reconnect", 2, (*world).opReconnect},
		{"scan", 1, (*world).opScan},
		{"remove player", 2, (*world).opRemove},
		{"birth", 1, (*world).opBirth},
		{"broker", 3, (*world).opBroker},
		{"broker link", 2, (*world).opBrokerLink},
		{"restart", 1, (*world).opRestart},
		{"crash", 1, (*world).opCrash},
		{"pass", 14, (*world).opPass},
		{"hour", 1, (*world).opHour},
		{"quiet", 4, (*world).opQuiet},
	}
}

func (w *world) speaker(n int) *speaker { return w.speakers[n%len(w.speakers)] }

// --- what happens to speakers ---

func (w *world) opAnnounce(st step) {
	s, k := w.speaker(st.a), st.b%7/6 // mostly the first
	w.announce(s, k, false)
}

func (w *world) opAnnounceAgain(st step) {
	s, k := w.speaker(st.a), st.b%7/6
	if s.keys[k].advertised {
		w.announce(s, k, true)
	}
}

func (w *world) opWithdraw(st step) {
	s, k := w.speaker(st.a), st.b%7/6
	w.withdraw(s, k)
}

// opMove gives a speaker another address. It keeps its connections or not, and
// it is announced at once or not.
func (w *world) opMove(st step) {
	s := w.speaker(st.a)
	w.do(func() {
		free := modelSpeakers + st.b%modelSpeakers
		for slices.ContainsFunc(w.speakers, func(x *speaker) bool { return x.at == free }) {
			free = (free + 1) % (2*modelSpeakers + 1)
		}
		s.move(free, st.flip())
	})
	if st.a/4%3 != 0 && s.keys[0].advertised {
		w.announce(s, 0, false)
	}
}

// opSwap gives two speakers each other's address, as a router may that has
// restarted. They are announced in some order, or only one is for now.
func (w *world) opSwap(st step) {
	s, o := w.speaker(st.a), w.speaker(st.a/4)
	w.do(func() {
		at := s.at
		s.move(o.at, true)
		o.move(at, true)
	})
	for i, x := range []*speaker{s, o} {
		if x.keys[0].advertised && st.b>>i%4 != 0 {
			w.announce(x, 0, false)
		}
	}
}

func (s *speaker) move(at int, cut bool) {
	s.at = at
	s.disturbed()
	for _, l := range s.lines {
		if cut {
			l.cut()
			s.doubted(l)
		}
	}
}

func (w *world) opMode(st step) {
	s := w.speaker(st.a)
	modes := []mode{open, open, open, open, shy, refuse, refuse, dark, silent, mute, rude, busy}
	w.do(func() {
		s.mode, s.reason = modes[st.b%len(modes)], reasons()[st.b/16%len(reasons())]
		s.disturbed()
	})
}

func reasons() []string {
	return []string{
		"another_server", "another_server", "shutdown", "restart", "user_request", "unauthorized", "pairing_required",
		"unpaired", "concurrent_attempt", "something_new", "",
	}
}

func (w *world) opDialIn(st step) {
	s := w.speaker(st.a)
	w.do(s.disturbed)
	w.dialIn(s)
	if st.b%5 == 0 {
		w.dialIn(s)
	}
}

// opHelloAgain has a speaker say hello in the middle of a session, which means
// nothing and changes nothing.
func (w *world) opHelloAgain(st step) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if l := w.speaker(st.a).live(); l != nil {
		l.introduce()
	}
}

// aLine is one of a speaker's connections, the live one if there is one.
func (s *speaker) aLine() *line {
	if l := s.live(); l != nil {
		return l
	}
	if len(s.lines) > 0 {
		return s.lines[0]
	}
	return nil
}

func (w *world) opGoodbye(st step) {
	w.mu.Lock()
	defer w.mu.Unlock()
	s := w.speaker(st.a)
	reason := reasons()[st.b%len(reasons())]
	if l := s.live(); l != nil {
		l.goodbye(reason)
		// Of who dials in, and leaves before it is live, nothing is known.
		s.left(reason, l.sick || l.dialedIn && !l.reported)
	}
}

func (w *world) opDrop(st step) {
	w.mu.Lock()
	defer w.mu.Unlock()
	s := w.speaker(st.a)
	if l := s.aLine(); l != nil {
		l.conn.Reset()
		l.resume()
		s.doubted(l)
		s.parked.add("")
	}
}

func (w *world) opCut(st step) {
	w.mu.Lock()
	defer w.mu.Unlock()
	s := w.speaker(st.a)
	if l := s.aLine(); l != nil {
		l.cut()
		s.doubted(l)
	}
}

func (w *world) opFreeze(st step) {
	w.mu.Lock()
	defer w.mu.Unlock()
	s := w.speaker(st.a)
	if l := s.aLine(); l != nil {
		if st.flip() {
			l.conn.Freeze()
		} else {
			l.conn.FreezeOut()
		}
		l.sick = true
		s.doubted(l)
	}
}

func (w *world) opThaw(st step) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, s := range w.speakers {
		if st.a%3 != 0 && s != w.speaker(st.a) {
			continue
		}
		for _, l := range s.lines {
			l.conn.Thaw()
			l.resume()
			late := l.sick && !l.dead && !l.conn.Peer().IsClosed()
			l.sick = l.dead
			s.disturbed()
			if late && l.bye != nil { // it may arrive only now
				s.left(*l.bye, true)
			}
		}
	}
}

func (w *world) opSlow(st step) {
	w.mu.Lock()
	defer w.mu.Unlock()
	s := w.speaker(st.a)
	if l := s.live(); l != nil && l.slow == nil {
		l.slow = make(chan struct{})
		l.sick = true
		s.disturbed()
	}
}

func (w *world) opKnob(st step) {
	w.mu.Lock()
	defer w.mu.Unlock()
	s := w.speaker(st.a)
	s.volume = st.b % 90
	for _, l := range s.lines {
		if !l.hello.IsZero() {
			l.report()
		}
	}
}

// --- what people do ---

func topic(s *speaker, leaf string) string { return "resonate/player/" + s.id + "/" + leaf }

func (w *world) opVolume(st step) {
	s := w.speaker(st.a)
	for i := range 1 + st.b%3/2*20 {
		w.ask(topic(s, "set"), map[string]any{"volume": (st.b + i) % 90}, nil, nil)
	}
}

func (w *world) opMute(st step) {
	w.ask(topic(w.speaker(st.a), "set"), map[string]any{"mute": st.flip()}, nil, nil)
}

// opStale leaves a command behind that is retained: it is carried out once, if
// at all, and never again.
func (w *world) opStale(st step) {
	s := w.speaker(st.a)
	w.do(func() { s.stale-- })
	w.broker.Publish(topic(s, "set/volume"), fmt.Sprint(staleVolume), true)
}

func (w *world) opJoin(st step) {
	s, with := w.speaker(st.a), w.speaker(st.b)
	w.ask(topic(s, "set"), map[string]any{"join": with.id}, func() { w.together(s, with, true) }, nil)
}

func (w *world) opUnjoin(st step) {
	s := w.speaker(st.a)
	w.ask(topic(s, "set"), map[string]any{"unjoin": true}, func() { w.together(s, nil, false) }, nil)
}

// together checks a command's promise at once, when nothing can have changed
// since it was answered. world.mu is held.
func (w *world) together(s, with *speaker, want bool) {
	if !w.fresh || w.bridge == nil {
		return
	}
	snap := w.bridge.Server.Snapshot()
	p := snap.Player(s.id)
	switch {
	case p == nil:
	case with == nil:
		if g := snap.GoverningGroup(p); g == nil || g.Kind != resonate.SoloGroup {
			w.wrongf("%s was unjoined and is in %+v", s.id, g)
		}
	default:
		if o := snap.Player(with.id); o != nil && o.GroupID != p.GroupID {
			w.wrongf("%s was joined to %s, their groups are %s and %s", s.id, with.id, p.GroupID, o.GroupID)
		}
	}
}

func groupName(n int) string { return []string{"alpha", "beta", "gamma"}[n%3] }

func (w *world) group(name string) fact[bool] {
	if w.named[name] == nil {
		w.named[name] = known(false)
	}
	return w.named[name]
}

func (w *world) opAddGroup(st step) {
	name := groupName(st.a)
	members := []string{}
	for i, s := range w.speakers {
		if st.b>>i&1 == 1 && w.bridge != nil && w.bridge.Server.Snapshot().Player(s.id) != nil {
			members = append(members, s.id)
		}
	}
	w.ask("resonate/bridge/request/group/add", map[string]any{"name": name, "members": members},
		func() { w.group(name).become(true, !w.blurred) }, func() { w.group(name).add(true) })
}

func (w *world) opRemoveGroup(st step) {
	name := groupName(st.a)
	w.ask("resonate/bridge/request/group/remove", map[string]any{"id": name},
		func() { w.group(name).become(false, !w.blurred) }, func() { w.group(name).add(false) })
}

func (w *world) opGroupVolume(st step) {
	w.ask("resonate/group/"+groupName(st.a)+"/set", map[string]any{"volume": st.b % 90}, nil, nil)
}

func (w *world) opCustody(st step) {
	s := w.speaker(st.a)
	c := []string{"auto", "auto", "hold", "observe", "ignore"}[st.b%5]
	parks := s.parks
	w.ask(topic(s, "set"), map[string]any{"custody": c}, func() { s.choose(c, parks) }, func() {
		s.custody.add(c)
		s.hidden = time.Now()
		s.park("", false)
	})
}

func (w *world) opReconnect(st step) {
	s := w.speaker(st.a)
	parks := s.parks
	w.ask(topic(s, "set"), map[string]any{"reconnect": true},
		func() { s.freed(parks, func() { s.nudge("user") }) }, func() { s.park("", false) })
}

func (w *world) opScan(step) {
	w.ask("resonate/bridge/request/scan", map[string]any{}, nil, nil)
}

func (w *world) opRemove(st step) {
	s := w.speaker(st.a)
	w.ask("resonate/bridge/request/device/remove", map[string]any{"id": s.id}, s.forgotten, s.maybeForgotten)
}

func (w *world) opBirth(step) { w.broker.Publish("homeassistant/status", "online", false) }

// --- what happens to the broker and the bridge ---

// brokerFault: who asked something may get no answer.
func (w *world) brokerFault() {
	w.busyAt = time.Now()
	for _, q := range w.open {
		q.unsure = true
	}
}

func (w *world) opBroker(st step) {
	w.do(w.brokerFault)
	w.broker.Stop(st.flip())
	if st.a%3 != 0 {
		time.Sleep(st.long)
	}
	w.broker.Start()
	w.do(w.brokerFault)
}

func (w *world) opBrokerLink(st step) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.brokerFault()
	for _, c := range w.bridge.wires {
		switch st.a % 4 {
		case 0:
			c.Cut()
		case 1:
			c.Reset()
		case 2:
			c.Freeze()
		case 3:
			c.Thaw()
		}
	}
}

func (w *world) opRestart(st step) {
	w.halt()
	if st.flip() {
		time.Sleep(st.long)
	}
	w.start()
}

func (w *world) opCrash(st step) {
	w.crash(st.flip())
	if st.a%2 == 0 {
		time.Sleep(st.long)
	}
	w.start()
}

// --- time ---

func (w *world) opPass(st step) { time.Sleep(st.long) }

func (w *world) opHour(st step) {
	if st.a%8 == 0 { // seldom: it is 720 pings
		time.Sleep(time.Hour)
	}
}

// opQuiet waits until every window is over and compares what is retained.
func (w *world) opQuiet(step) {
	time.Sleep(40 * time.Second)
	synctest.Wait()
	w.collect()
	w.check()
	w.quiet()
}
