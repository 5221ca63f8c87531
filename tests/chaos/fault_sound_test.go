package chaos

import (
	"testing"
	"time"

	"resonatebridge/resonate/client"
	"resonatebridge/tests/internal/facts"
)

// TestLongFaultsWhileSoundPlays makes the links of most members of a group bad,
// each in its way, while it plays: those with good links hear everything, and
// the others hear it again afterwards.
func TestLongFaultsWhileSoundPlays(t *testing.T) {
	takes(t, "two minutes")
	t.Parallel()
	notes := facts.Begin(t, linkSection)
	h, calm, patients := newWard(t)
	h.watch.Patience = blind + slack
	listeners := []*place{calm, h.speaker("calm-too", false)}
	h.online()
	var members []string
	for _, p := range h.places {
		members = append(members, p.ID)
	}
	h.watch.Ask("resonate/bridge/request/group/add", "resonate/bridge/response/group/add", map[string]any{"name": "House", "members": members})
	h.watch.Ask("resonate/group/house/set", "resonate/group/house/result", map[string]any{"play_url": "tone:?seconds=600"})
	for _, p := range h.places {
		p.Until("it hears something", func(st client.State) bool { return st.Audio.Played > 0 })
	}

	const lasts = notice + 10*time.Second
	type heard struct {
		at time.Time
		client.AudioCounts
	}
	before := map[*place]heard{}
	for _, p := range listeners {
		before[p] = heard{time.Now(), p.Snapshot().Audio}
	}
	for _, p := range patients {
		if p.name == "byte-by-byte" { // no machine has the time for each byte of sound
			p.link.set(fault{piece: 100}, forth, back)
			continue
		}
		p.begin(p.place)
	}
	time.Sleep(lasts)
	for _, p := range listeners {
		was, now := before[p], p.Snapshot().Audio
		const second = 48_000 * 2 * 2 // bytes of sound
		got := time.Duration(float64(now.Bytes-was.Bytes) / second * float64(time.Second))
		lost := now.Overflow + now.Cleared - was.Overflow - was.Cleared
		notes.Add("sound that "+p.ID+" got in "+facts.Time(time.Since(was.at))+" while the others had faults", got, "all but 2 s")
		notes.Add("pieces of it that it lost", lost, "0")
		notes.Add("pieces of it that came too late, which a busy machine does too", now.Late-was.Late, "")
		if got < time.Since(was.at)-2*time.Second || lost > 0 {
			t.Errorf("%s: got %v of sound in %v, and lost %d pieces", p.ID, got, time.Since(was.at), lost)
		}
	}
	healed := time.Now()
	var again []time.Duration
	for _, p := range patients {
		p.link.heal()
	}
	for _, p := range patients {
		was := p.Snapshot().Audio.Played
		within(h, blind+slack, p.ID+" hears something again", func() bool { return p.Snapshot().Audio.Played > was })
		again = append(again, time.Since(healed))
	}
	notes.Add("speaker hears the group again after the fault", again, blind.String())
	h.watch.Ask("resonate/bridge/request/group/remove", "resonate/bridge/response/group/remove", map[string]any{"id": "house"})
	h.truth()
}
