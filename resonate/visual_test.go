package resonate

import (
	"encoding/binary"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// lightsHello is a visualizer alone, as of summer 2026.
const lightsHello = `{"type":"client/hello","payload":{"client_id":"lights","name":"Lights","version":1,"supported_roles":["visualizer@v1"],` +
	`"visualizer@v1_support":{"types":["loudness","f_peak","spectrum","swirl"],"buffer_capacity":20000,"rate_max":20,` +
	`"spectrum":{"n_disp_bins":8,"scale":"mel","f_min":20,"f_max":16000}}}}`

// visuals are the binary frames of visualizers that a line got, by type, and the
// time stamp of the last one.
func (l *line) visuals() (byType [5]int, last int64, spectra int) {
	l.s.mu.Lock()
	defer l.s.mu.Unlock()
	for _, f := range l.audio {
		if f[0] >= 16 && f[0] <= 20 {
			byType[f[0]-16]++
			last = int64(binary.BigEndian.Uint64(f[1:]))
			if f[0] == 19 {
				spectra = (len(f) - 9) / 2
			}
		}
	}
	return byType, last, spectra
}

// A visualizer sees the music of its group until it ends, and what it asks for.
func TestVisualizerOfAGroup(t *testing.T) {
	bubble(t, func(t *testing.T) {
		h := newHouse(t, library(map[string]*ramp{"http://x/a": {frames: 480_000, rate: 48_000}}))
		a := h.online("a")
		lights := h.screen("lights", lightsHello)
		onLoop(h, func(m *model) { m.place(m.clients["lights"], m.clients["a"].group) })
		h.must(playURL("a", "http://x/a"))
		pass(5 * time.Second)
		l := lights.line(-1)
		const want = `{"visualizer":{"types":["loudness","f_peak","spectrum"],"rate_max":20,"spectrum":{"n_disp_bins":8,"scale":"mel","f_min":20,"f_max":16000}}}`
		if got := l.last("stream/start"); got != want {
			t.Errorf("got %s, want %s", got, want)
		}
		l.send(`{"type":"stream/request-format","payload":{"visualizer":{"spectrum":{"n_disp_bins":12,"scale":"log","f_min":50,"f_max":8000}}}}`)
		synctest.Wait()
		if got := l.last("stream/start"); !strings.Contains(got, `"n_disp_bins":12`) || !strings.Contains(got, `"rate_max":20`) {
			t.Errorf("what was asked for: got %s", got)
		}
		pass(10 * time.Second)
		n, last, bins := l.visuals()
		// Some are sent twice, the second time in the new shape.
		if n[0] < 198 || n[0] > 250 || n[1] != 0 || n[2] != n[0] || n[3] != n[0] || n[4] != 0 || bins != 12 {
			t.Errorf("10 s at 20 a second: got %v, the last spectrum of %d", n, bins)
		}
		_, stamps := a.line(-1).frames(t)
		if end := stamps[len(stamps)-1] + 96_000; last > end || last < end-200_000 {
			t.Errorf("the last frame is of %d, the music ends at %d", last, end)
		}
		if got := l.last("stream/end"); got != `{"roles":["visualizer"]}` {
			t.Errorf("at the end it was told %s", got)
		}
	})
}
