package tests

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"resonatebridge/cmd/bridge/app"
	"resonatebridge/tests/internal/scene"
)

// The samples of music are below 10,000, those of each word above and all alike.
const (
	word     = 20_000
	low      = 24_000 // the words of three priorities
	high     = 26_000
	late     = 28_000
	loud     = 15_000
	duckedBy = 0.2512 // -12 dB
)

func constant(v int16) func(int) int16 { return func(int) int16 { return v } }

func isLoud(v int16) bool { return v > loud }

// speakingHouse is a house whose speakers are ears: a and b are a group that
// plays, f has paused, the others have nothing to play.
type speakingHouse struct {
	*soundHouse
	url    string   // of the files
	spoken []string // texts that Home Assistant was asked to speak
}

func newSpeakingHouse(t *testing.T) *speakingHouse {
	t.Helper()
	h := &speakingHouse{}
	clip := func(v int16) []byte { return wave(0.4, constant(v)) }
	h.url = shelf(t, map[string][]byte{
		"music": wave(60, music), "word": clip(word), "low": clip(low), "high": clip(high), "late": clip(late),
		"long": wave(1, constant(word)), "cut": wave(2, constant(word))[:rate*2*channels], "html": []byte("<!DOCTYPE html><html><body>no</body></html>"),
		"empty": {}, "tts/hello": clip(high),
	})
	homeAssistant := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodGet {
			http.Redirect(w, r, h.url+r.URL.Path, http.StatusFound)
			return
		}
		var ask struct {
			Engine  string `json:"engine_id"`
			Message string
		}
		if r.URL.Path != "/api/tts_get_url" || r.Header.Get("Authorization") != "Bearer long-lived" ||
			json.NewDecoder(r.Body).Decode(&ask) != nil || ask.Engine != "tts.piper" {
			http.Error(w, "no", http.StatusUnauthorized)
			return
		}
		h.spoken = append(h.spoken, ask.Message)
		fmt.Fprint(w, `{"url":"http://homeassistant.invalid/tts/hello","path":"/tts/hello"}`)
	}))
	t.Cleanup(homeAssistant.Close)
	h.soundHouse = newSoundHouse(t, func(c *app.Config) {
		c.Audio.QuietHours = []string{"00:00-12:00=60", "12:00-00:00=60"} // at all hours
		c.HomeAssistant.URL, c.HomeAssistant.Token, c.HomeAssistant.TTSEngine = homeAssistant.URL, "long-lived", "tts.piper"
	}, "a", "b", "c", "d", "e", "f")
	h.do("a", map[string]any{"join": "b"})
	h.do("e", map[string]any{"announce_volume": 70})
	h.do("a", map[string]any{"play_url": h.url + "/music"})
	h.do("f", map[string]any{"play_url": h.url + "/music"})
	h.watch.Is(topic("f", "playback"), "playing")
	h.do("f", map[string]any{"pause": true})
	h.watch.Is(topic("f", "playback"), "paused")
	return h
}

// announce has all of a request's targets announce, and waits for the end.
func (h *speakingHouse) announce(request map[string]any) map[string]any {
	h.Helper()
	mark := h.watch.Mark()
	for _, e := range h.ears {
		e.volumes()
	}
	data := h.watch.Ask("resonate/bridge/request/announce", "resonate/bridge/response/announce", request)
	h.finished(mark, request["targets"].([]string)...)
	return data
}

// finished waits for the event of each speaker that its announcement is over, and
// until all volumes are as before.
func (h *speakingHouse) finished(mark int, ids ...string) {
	h.Helper()
	h.soon(fmt.Sprint("the announcement is over for ", ids), func() bool {
		seen := h.watch.Since(mark)
		return !slices.ContainsFunc(ids, func(id string) bool {
			return !slices.ContainsFunc(seen, func(m string) bool {
				return strings.HasPrefix(m, topic(id, "event")+" ") && strings.Contains(m, "announcement_finished")
			})
		})
	})
	for _, id := range ids {
		h.watch.Is(topic(id, "volume"), "50")
	}
}

// TestHouseSpeaks goes through what a house can be told, by MQTT, and listens to
// what every speaker is sent.
func TestHouseSpeaks(t *testing.T) {
	t.Parallel()
	h := newSpeakingHouse(t)
	for _, step := range []struct {
		name string
		run  func(*speakingHouse)
	}{
		{"over music, over nothing and in a pause, at once", (*speakingHouse).overAll},
		{"a chime", (*speakingHouse).chime},
		{"one after the other", (*speakingHouse).queue},
		{"a text", (*speakingHouse).say},
		{"what goes wrong", (*speakingHouse).wrong},
		{"music goes on", (*speakingHouse).goesOn},
	} {
		began := time.Now()
		step.run(h)
		if t.Failed() {
			t.Fatalf("%s: failed", step.name)
		}
		t.Logf("%s: %v", step.name, time.Since(began).Round(time.Millisecond))
	}
}

func (h *speakingHouse) overAll() {
	position := h.watch.Until("a position of what paused", func(t scene.Topics) bool {
		return t.Object(topic("f", "position"))["speed"] == 0.0
	}).Object(topic("f", "position"))["position"]
	targets := []string{"a", "c", "d", "e", "f"}
	h.announce(map[string]any{"targets": targets, "url": h.url + "/word"})

	// Five speakers of five groups: all begin at one time.
	begin, _ := h.ears["c"].first("the word", isLoud)
	for _, id := range targets {
		at, _ := h.ears[id].first("the word", isLoud)
		h.Logf("start at %s: %+d us of c's", id, at-begin)
		if at-begin < -21 || at-begin > 21 { // a sample
			h.Errorf("%s begins %d us after c", id, at-begin)
		}
	}
	for _, id := range []string{"c", "d", "e", "f"} {
		e := h.ears[id]
		pcm, _ := e.heard()
		_, place := e.first("the word", isLoud)
		said := pcm[place:]
		if n := slices.IndexFunc(said, func(v int16) bool { return v != word }); n >= 0 && n < rate*4/10 {
			h.Errorf("%s: sample %d of the word is %d, want %d", id, n, said[n], word)
		}
	}
	h.ducked()
	if pcm, _ := h.ears["b"].heard(); !slices.Equal(pcm, musicFrom(0, len(pcm))) {
		h.Error("b, which was not meant, heard something else than its music")
	}
	// Its own volume, but no more than quiet hours allow, and back.
	if got := h.ears["e"].volumes(); !slices.Equal(got, []int{60, 50}) {
		h.Errorf("e was told the volumes %v, want 60 and 50", got)
	}
	for _, id := range []string{"a", "b", "c", "d", "f"} {
		if got := h.ears[id].volumes(); len(got) != 0 {
			h.Errorf("%s was told the volumes %v, want none", id, got)
		}
	}
	h.watch.Until("everybody is as before", func(t scene.Topics) bool {
		return t.Is(topic("a", "playback"), "playing") && t.Is(topic("c", "playback"), "idle") && t.Is(topic("f", "playback"), "paused") &&
			t.Object(topic("f", "position"))["position"] == position && group(t, "c")["kind"] == "solo" && group(t, "a")["id"] == group(t, "b")["id"]
	})
	// What paused goes on with the sample after the last one.
	f := h.ears["f"]
	pcm, _ := f.heard()
	n := slices.IndexFunc(pcm, isLoud)
	f.forget()
	h.do("f", map[string]any{"play": true})
	h.watch.Is(topic("f", "playback"), "playing")
	h.soon("f plays on", func() bool { more, _ := f.heard(); return len(more) > 1000 })
	h.do("f", map[string]any{"stop": true})
	more, _ := f.heard()
	said, _ := position.(float64) // in ms steps
	from := int(said*rate) - rate/1000
	for last := from + 2*rate/1000; from < last && music(from) != more[0]; {
		from++
	}
	if !slices.Equal(more, musicFrom(from, len(more))) || from > n {
		h.Errorf("after the pause it goes on with a sample of the value %d, and had said %v s; it had heard %d samples", more[0], position, n)
	}
}

// ducked looks at what a heard: its music, softer while somebody speaks and on
// the way there and back.
func (h *speakingHouse) ducked() {
	h.Helper()
	a := h.ears["a"]
	_, place := a.first("the word", isLoud)
	h.soon("a has heard its music again", func() bool { pcm, _ := a.heard(); return len(pcm) > place+2*rate })
	pcm, _ := a.heard()
	spoken := func(i int) float64 { return (float64(pcm[i]) - word) / float64(music(i)) }
	near := func(got, want float64) bool { return got > want-0.01 && got < want+0.01 }
	high := func(i int) int { // where the music is loud enough to tell
		for music(i) < 5000 {
			i++
		}
		return i
	}
	for _, i := range []int{high(place + rate/10), high(place + rate/4)} {
		if g := spoken(i); !near(g, duckedBy) {
			h.Errorf("below the word the music has the gain %.3f, want %.3f", g, duckedBy)
		}
	}
	// Where the ramps begin and end: before and after, the music is what it was.
	down, up := 0, len(pcm)
	for down < place && pcm[down] == music(down) {
		down++
	}
	for up > place && pcm[up-1] == music(up-1) {
		up--
	}
	downFor, upFor := time.Duration(place-down)*time.Second/rate, time.Duration(up-place-rate*4/10)*time.Second/rate
	h.Logf("the music goes down %v before the word and is back %v after it", downFor.Round(time.Millisecond), upFor.Round(time.Millisecond))
	for _, d := range []time.Duration{downFor, upFor} {
		if d < 250*time.Millisecond || d > 350*time.Millisecond {
			h.Errorf("a ramp of %v, want about 300 ms", d)
		}
	}
}

func (h *speakingHouse) chime() {
	c := h.ears["c"]
	c.forget()
	h.announce(map[string]any{"targets": []string{"c"}, "url": h.url + "/word", "chime": true})
	pcm, _ := c.heard()
	bell := slices.IndexFunc(pcm, func(v int16) bool { return v != 0 })
	_, place := c.first("the word", func(v int16) bool { return v == word })
	if d := place - bell; d < rate || d > rate*13/10 { // two tones of 0.6 s
		h.Errorf("the bell begins %v before the word, want 1.2 s", time.Duration(d)*time.Second/rate)
	}
}

func (h *speakingHouse) queue() {
	c := h.ears["c"]
	c.forget()
	mark := h.watch.Mark()
	h.watch.Ask(topic("c", "set"), topic("c", "result"), map[string]any{"announce": map[string]any{"url": h.url + "/long"}})
	for _, x := range []struct {
		name     string
		priority int
		timeout  int
	}{{"late", -5, 1}, {"low", 0, 20}, {"high", 5, 20}} {
		data := h.do("c", map[string]any{"announce": map[string]any{"url": h.url + "/" + x.name, "priority": x.priority, "timeout": x.timeout}})
		if data["queued"] != true {
			h.Errorf("%s: got %v, want it queued", x.name, data)
		}
	}
	h.soon("both were heard", func() bool { pcm, _ := c.heard(); return slices.Contains(pcm, high) && slices.Contains(pcm, low) })
	h.soon("the stream is over", func() bool { c.mu.Lock(); defer c.mu.Unlock(); return !c.open })
	h.finished(mark, "c")
	_, first := c.first("the first", func(v int16) bool { return v == word })
	_, second := c.first("the urgent", func(v int16) bool { return v == high })
	_, third := c.first("the other", func(v int16) bool { return v == low })
	if first > second || second > third {
		h.Errorf("heard them at %d, %d and %d; want the urgent one before the other", first, second, third)
	}
	if pcm, _ := c.heard(); slices.Contains(pcm, late) {
		h.Error("heard one that had waited for too long")
	}
}

func (h *speakingHouse) say() {
	d := h.ears["d"]
	d.forget()
	d.volumes()
	mark := h.watch.Mark()
	h.do("d", map[string]any{"say": map[string]any{"text": "The door is open", "volume": 55}})
	h.finished(mark, "d")
	d.first("the text", func(v int16) bool { return v == high })
	if !slices.Equal(h.spoken, []string{"The door is open"}) {
		h.Errorf("Home Assistant was asked for %q", h.spoken)
	}
	if got := d.volumes(); !slices.Equal(got, []int{55, 50}) {
		h.Errorf("told the volumes %v, want 55 and 50", got)
	}
}

func (h *speakingHouse) wrong() {
	d := h.ears["d"]
	d.forget()
	for _, x := range []struct{ field, payload, code string }{
		{"announce", h.url + "/none", "media_unreachable"},
		{"announce", h.url + "/html", "media_unsupported"},
		{"announce", h.url + "/empty", "media_unsupported"},
		{"announce", "file:///etc/passwd", "invalid_value"},
		{"announce", "http://169.254.169.254/latest", "invalid_value"},
		{"announce", `{"url":"` + h.url + `/word","volume":101}`, "invalid_value"},
	} {
		if got := h.refused("d", x.field, x.payload); got != x.code {
			h.Errorf("%s %s: got %s, want %s", x.field, x.payload, got, x.code)
		}
	}
	if pcm, _ := d.heard(); len(pcm) != 0 || len(d.volumes()) != 0 {
		h.Errorf("heard %d samples of what can't be played, or was told volumes", len(pcm))
	}
	// What is cut off is said as far as it goes, and the volume comes back.
	mark := h.watch.Mark()
	h.do("d", map[string]any{"announce": map[string]any{"url": h.url + "/cut", "volume": 20}})
	h.finished(mark, "d")
	d.first("the first half", func(v int16) bool { return v == word })
	if got := d.volumes(); !slices.Equal(got, []int{20, 50}) {
		h.Errorf("told the volumes %v, want 20 and 50", got)
	}
}

func (h *speakingHouse) goesOn() {
	b := h.ears["b"]
	h.do("a", map[string]any{"stop": true})
	h.watch.Is(topic("b", "playback"), "stopped")
	if pcm, _ := b.heard(); !slices.Equal(pcm, musicFrom(0, len(pcm))) {
		h.Error("b heard something else than its music")
	}
}
