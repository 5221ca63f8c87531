package chaos

import (
	"context"
	"slices"
	"testing"
	"time"

	"resonatebridge/resonate/client"
	"resonatebridge/tests/internal/facts"
)

// lineFault is a way in which the link to the broker is bad.
type lineFault struct {
	name  string
	begin func(line *proxy)
	ends  bool // the connection, at once
	heard bool // the bridge, by the broker
}

func lineFaults() []lineFault {
	set := func(f fault, ways ...way) func(*proxy) { return func(line *proxy) { line.set(f, ways...) } }
	return []lineFault{
		{name: "latency", begin: set(fault{latency: 80 * time.Millisecond}, forth, back)},
		{name: "jitter", begin: set(fault{jitter: 200 * time.Millisecond}, forth, back)},
		{name: "bandwidth", begin: set(fault{rate: 20_000}, forth, back)},
		{name: "byte-by-byte", begin: set(fault{piece: 1}, forth, back)},
		{name: "loss to the broker", begin: set(fault{silent: true}, forth)},
		{name: "loss from the broker", heard: true, begin: set(fault{silent: true}, back)},
		{name: "loss", begin: set(fault{silent: true}, forth, back)},
		{name: "reset", ends: true, begin: (*proxy).reset},
		{name: "frame cut short to the broker", ends: true, begin: func(line *proxy) { line.truncate(forth, 3) }},
	}
}

// TestFaultsOnTheBrokerLink makes the link to the broker bad in one way after
// the other. What speakers do meanwhile arrives, and so does what is asked of
// them.
func TestFaultsOnTheBrokerLink(t *testing.T) {
	t.Parallel() // it waits more than it works
	h := newHouse(t)
	for _, id := range []string{"one", "two"} {
		h.speaker(id, id == "one")
	}
	h.online()
	for i, f := range lineFaults() {
		before := h.bridge.Broker()
		muted := i%2 == 0
		f.begin(h.line)
		for _, p := range h.places {
			p.Act("knob", func(ctx context.Context) error { return p.SetMute(ctx, muted) })
		}
		if f.ends { // before that the bridge could not know, and what is asked of it would be lost
			h.until(f.name+": a new connection", func() bool { return h.bridge.Broker().Generation > before.Generation })
		}
		h.watch.Post(topic("one", "set/volume"), "33")
		if h.line.passes() {
			h.watch.Is(topic("one", "volume"), "33") // while it lasts
		}
		h.line.heal()
		h.places[0].Until("volume 33", func(st client.State) bool { return st.Volume == 33 })
		h.truth()
		if after := h.bridge.Broker(); after.Generation-before.Generation != map[bool]uint64{true: 1}[f.ends] {
			t.Errorf("%s: %d new connections to the broker", f.name, after.Generation-before.Generation)
		}
		h.watch.Send(topic("one", "set/volume"), "20")
		h.watch.Is(topic("one", "volume"), "20")
	}
}

// Bounds of the long test.
const (
	lineNotice  = 50 * time.Second // the bridge notices: keep-alive 30 s, an answer 10 s, and paho looks every 5 s
	willNotice  = 45 * time.Second // the broker notices and publishes the will: 1.5 times the keep-alive (MQTT-3.1.2-24)
	lineRecover = 41 * time.Second // the longest pause between attempts, and one attempt
)

// TestLongFaultsOnTheBrokerLink cuts the link to the broker in each way that
// only silence tells of, for longer than both sides need to notice. Speakers
// come and go meanwhile.
func TestLongFaultsOnTheBrokerLink(t *testing.T) {
	takes(t, "two minutes")
	t.Parallel()
	notes := facts.Begin(t, linkSection)
	type ward struct {
		*house
		lineFault
		began            time.Time
		noticed          time.Time
		left, came, stay *place
	}
	faults := slices.DeleteFunc(lineFaults(), func(f lineFault) bool { return f.ends })[4:]
	faults = append(faults, lineFault{name: "no FIN", begin: (*proxy).abandon})
	var wards []*ward
	for _, f := range faults {
		w := &ward{house: newHouse(t), lineFault: f}
		w.watch.Patience = lineRecover + slack
		w.left, w.stay = w.speaker("left", true), w.speaker("stay", false)
		w.online()
		wards = append(wards, w)
	}
	for _, w := range wards {
		w.began = time.Now()
		w.begin(w.line)
		w.left.switchOff()
		w.came = w.speaker("came", true)
		w.stay.Act("knob", func(ctx context.Context) error { return w.stay.SetVolume(ctx, 71) })
	}
	for began := time.Now(); time.Since(began) < lineNotice+slack; time.Sleep(50 * time.Millisecond) {
		for _, w := range wards {
			if w.noticed.IsZero() && !w.bridge.Broker().Connected {
				w.noticed = time.Now()
			}
		}
	}
	var noticed, wills, recovered []time.Duration
	for _, w := range wards {
		willed, told := w.first("resonate/bridge/state", "offline", w.began)
		will := willNotice
		if w.heard { // until the bridge has noticed
			will = lineNotice
		}
		switch {
		case w.noticed.IsZero() || w.noticed.Sub(w.began) > lineNotice+slack:
			t.Errorf("%s: noticed after %v by the bridge, want %v", w.name, w.noticed.Sub(w.began), lineNotice)
		case !told || willed.Sub(w.began) > will+slack:
			t.Errorf("%s: will after %v, want %v", w.name, willed.Sub(w.began), will)
		}
		noticed, wills = append(noticed, w.noticed.Sub(w.began)), append(wills, willed.Sub(w.began))
	}
	healed := time.Now()
	for _, w := range wards {
		w.line.heal()
	}
	for _, w := range wards {
		w.watch.Is("resonate/bridge/state", "online")
		if back, ok := w.first("resonate/bridge/state", "online", healed); ok {
			recovered = append(recovered, back.Sub(healed))
		}
		w.online()
		w.truth()
		w.answer(w.came)
	}
	notes.Add("dead broker noticed by the bridge", noticed, lineNotice.String())
	notes.Add("dead bridge noticed by the broker, will published", wills, willNotice.String()+"; "+lineNotice.String()+" if it still hears the bridge")
	notes.Add("bridge online again after the fault", recovered, lineRecover.String())
}
