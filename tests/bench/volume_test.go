package bench

import (
	"strconv"
	"testing"
	"time"

	"resonatebridge/tests/internal/facts"
	"resonatebridge/tests/internal/scene"
)

// online waits until n speakers are shown as connected.
func online(w *scene.Watcher, n int) {
	w.Until(strconv.Itoa(n)+" speakers are online", func(t scene.Topics) bool {
		for i := range n {
			if !t.Is("resonate/player/"+speakerID(i)+"/availability", "online") {
				return false
			}
		}
		return true
	})
}

// TestBenchVolume measures a volume command on its way to the speaker, and the
// speaker's answer on its way to the retained state, with 50 speakers connected.
func TestBenchVolume(t *testing.T) {
	measures(t)
	const (
		speakers = 50
		warm     = 100
		commands = 2000
		// The bridge sends a speaker at most ten volumes per second.
		each = 100 * time.Millisecond
	)
	type shown struct {
		topic, payload string
		at             time.Time
	}
	states := make(chan shown, 1024)
	broker := scene.StartBroker(t)
	bridge := startProcess(t, broker.URL(), "")
	w := scene.Watch(t, broker.URL(), func(topic, payload string, at time.Time) {
		select {
		case states <- shown{topic, payload, at}:
		default: // only while nobody waits for a volume
		}
	})
	all := dialIn(t, bridge.listen, speakers)
	online(w, speakers)

	var there, back []time.Duration
	pace := time.NewTicker(each/speakers + time.Millisecond)
	defer pace.Stop()
	late := time.NewTimer(patience)
	defer late.Stop()
	for n := range warm + commands {
		<-pace.C
		for len(states) > 0 {
			<-states
		}
		late.Reset(patience)
		s, volume := all[n%speakers], strconv.Itoa(10+n/speakers%80)
		topic := "resonate/player/" + s.id + "/"
		sent := time.Now()
		w.Post(topic+"set/volume", volume)
		var a arrival
		select {
		case a = <-s.volumes:
		case <-late.C:
			t.Fatalf("%s: volume %s did not arrive within %v", s.id, volume, patience)
		}
		if strconv.Itoa(a.volume) != volume {
			t.Fatalf("%s: got volume %d, want %s", s.id, a.volume, volume)
		}
		for done := false; !done; {
			select {
			case m := <-states:
				if done = m.topic == topic+"volume" && m.payload == volume; done && n >= warm {
					there = append(there, a.at.Sub(sent))
					back = append(back, m.at.Sub(a.answered))
				}
			case <-late.C:
				t.Fatalf("%s: volume %s was not shown within %v", s.id, volume, patience)
			}
		}
	}
	table.Times("MQTT volume command to the frame at the speaker, 50 speakers", there, facts.OfP99, 5*time.Millisecond)
	table.Times("the speaker's answer to the retained state, 50 speakers", back, facts.OfP99, 5*time.Millisecond)
}
