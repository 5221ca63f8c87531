package chaos

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"resonatebridge/resonate/client"
	"resonatebridge/tests/internal/facts"
)

// linkFault is a way in which the link to a speaker is bad.
type linkFault struct {
	name  string
	begin func(p *place)
	// help is what a person does, where the fault would show by itself only
	// after half a minute; nil: nothing is needed.
	help func(h *house, p *place)
	ends bool // the session, at once
	dies bool // the session, within 25 s
	slow bool // but everything gets through
}

func linkFaults() []linkFault {
	set := func(f fault) func(*place) { return func(p *place) { p.link.set(f, forth, back) } }
	return []linkFault{
		{name: "latency", slow: true, begin: set(fault{latency: 80 * time.Millisecond})},
		{name: "jitter", slow: true, begin: set(fault{jitter: 200 * time.Millisecond})},
		{name: "bandwidth", slow: true, begin: set(fault{rate: 4000})},
		{name: "byte-by-byte", slow: true, begin: set(fault{piece: 1})},
		{name: "loss-to-bridge", dies: true, begin: func(p *place) { p.link.set(fault{silent: true}, p.in) }},
		{name: "loss-from-bridge", dies: true, begin: func(p *place) { p.link.set(fault{silent: true}, 1-p.in) }},
		{name: "loss", dies: true, begin: set(fault{silent: true})},
		{name: "reset", ends: true, begin: func(p *place) { p.link.reset() }},
		{name: "cut-frame-to-bridge", ends: true, begin: func(p *place) { p.link.truncate(p.in, 3) }},
		{name: "cut-frame-from-bridge", ends: true, begin: func(p *place) { p.link.truncate(1-p.in, 3) }},
		{name: "no-fin", dies: true, begin: func(p *place) { p.link.abandon() }, help: func(h *house, p *place) {
			if p.in == back {
				h.watch.Send(topic(p.ID, "set/reconnect"), "PRESS")
			} else {
				p.Act("dial again", p.Drop)
			}
		}},
	}
}

// patient is a speaker with one of the faults.
type patient struct {
	*place
	linkFault
	before client.State
}

// newWard is a house with two patients for each fault, one of each direction of
// dialling, and a speaker that has none.
func newWard(t *testing.T) (h *house, calm *place, patients []*patient) {
	t.Helper()
	h = newHouse(t)
	calm = h.speaker("calm", true)
	for _, f := range linkFaults() {
		for _, dials := range []bool{false, true} {
			p := h.speaker(f.name+map[bool]string{true: "-dials", false: "-is-dialled"}[dials], dials)
			patients = append(patients, &patient{place: p, linkFault: f})
		}
	}
	h.online()
	h.truth()
	for _, p := range patients {
		p.before = p.Snapshot()
	}
	return h, calm, patients
}

// knob mutes the speaker at its own knob. Without a session it is muted, too,
// and says so in its next one.
func (p *patient) knob() {
	p.Act("knob", func(ctx context.Context) error {
		if err := p.SetMute(ctx, true); !errors.Is(err, client.ErrGone) {
			return err
		}
		return nil
	})
}

// TestFaultsOnPlayerLinks makes every link bad in another way for a moment, all
// at the same time, in both directions of dialling.
func TestFaultsOnPlayerLinks(t *testing.T) {
	t.Parallel() // it waits more than it works
	h, calm, patients := newWard(t)
	began := time.Now()
	for _, p := range patients {
		p.begin(p.place)
		p.knob()
	}
	var answers []time.Duration
	for range 10 {
		answers = append(answers, h.answer(calm))
	}
	for _, p := range patients {
		if p.slow {
			h.watch.Is(topic(p.ID, "mute"), "ON")
			h.answer(p.place)
		}
		if p.help != nil {
			p.help(h, p.place)
		}
	}
	for _, p := range patients {
		p.link.heal()
	}
	t.Logf("the faults lasted %v; answers of another speaker meanwhile: %v", time.Since(began), answers)
	for _, p := range patients {
		want := p.before.Sessions
		if p.ends || p.help != nil {
			want++
		}
		p.Until(fmt.Sprintf("connected, with session %d", want), func(st client.State) bool { return st.Connected && st.Sessions == want })
		h.watch.Is(topic(p.ID, "mute"), "ON")
		h.answer(p.place)
	}
	h.truth()
	for _, p := range h.places {
		if at, gone := h.first(topic(p.ID, "availability"), "offline", began); gone {
			t.Errorf("%s: unavailable %v after the beginning, though it was back within the grace", p.ID, at.Sub(began))
		}
	}
}

const linkSection = "Faults on links"

// Bounds of the long test.
const (
	notice  = 25 * time.Second          // a dead peer is noticed so soon
	blind   = 61*time.Second + notice/5 // the longest back-off, and one attempt
	slack   = 3 * time.Second           // a busy machine
	outage  = notice + 20*time.Second   // longer than the grace after the notice
	calmest = 5 * time.Second           // an undisturbed speaker answers within
)

// TestLongFaultsOnPlayerLinks does the same for so long that dead peers have to
// be noticed, and lets everybody find back alone.
func TestLongFaultsOnPlayerLinks(t *testing.T) {
	takes(t, "two minutes")
	t.Parallel()
	notes := facts.Begin(t, linkSection)
	h, calm, patients := newWard(t)
	h.watch.Patience = blind + slack
	began := time.Now()
	for _, p := range patients {
		p.begin(p.place)
		p.knob()
	}
	var answers, slow []time.Duration
	for turn := 0; time.Since(began) < outage; turn++ {
		answers = append(answers, h.answer(calm))
		for _, p := range patients {
			switch {
			case p.slow && turn%10 == 0:
				slow = append(slow, h.answer(p.place))
			case p.ends && turn%5 == 0: // a link that does not stay up
				p.begin(p.place)
			}
		}
	}
	var noticed, recovered []time.Duration
	for _, p := range patients {
		connection, availability := topic(p.ID, "connection"), topic(p.ID, "availability")
		at, lost := h.left(connection, "connected", began)
		_, gone := h.first(availability, "offline", began)
		switch {
		case p.slow && (lost || p.Snapshot().Sessions != p.before.Sessions):
			t.Errorf("%s: its session ended, want a slow link to be kept", p.ID)
		case p.dies && !lost:
			t.Errorf("%s: still connected after %v, want it noticed within %v", p.ID, outage, notice)
		case p.dies && p.help == nil && !gone:
			t.Errorf("%s: still available after %v", p.ID, outage)
		}
		if p.dies && lost {
			took := at.Sub(began)
			noticed = append(noticed, took)
			if took > notice+slack {
				t.Errorf("%s: noticed after %v, want within %v", p.ID, took, notice)
			}
		}
	}
	healed := time.Now()
	for _, p := range patients {
		p.link.heal()
	}
	for _, p := range patients {
		h.watch.Is(topic(p.ID, "connection"), "connected")
		h.watch.Is(topic(p.ID, "mute"), "ON")
		h.answer(p.place)
		if at, ok := h.first(topic(p.ID, "connection"), "connected", healed); ok {
			recovered = append(recovered, at.Sub(healed))
		}
	}
	h.truth()
	if got := slices.Max(answers); got > calmest {
		t.Errorf("another speaker answered within %v meanwhile, want %v", got, calmest)
	}
	notes.Add("dead speaker noticed", noticed, notice.String())
	notes.Add("speaker found again after the fault, nobody helping", recovered, blind.String())
	notes.Add("volume change of another speaker meanwhile", answers, calmest.String())
	notes.Add("volume change over a slow link", slow, "")
}
