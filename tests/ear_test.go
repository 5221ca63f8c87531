package tests

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"resonatebridge/cmd/bridge/app"
	"resonatebridge/tests/internal/scene"

	"github.com/gorilla/websocket"
)

const (
	rate     = 48_000
	channels = 2
)

// ear is a speaker without any of our code: it keeps what it is sent, in the
// server's time, and says so when it is given another volume.
type ear struct {
	*testing.T
	id string
	ws *websocket.Conn

	mu     sync.Mutex
	volume int
	told   []int // volumes, in their order
	open   bool  // a stream is
	chunks []chunk
	ends   []int // of streams: how many chunks had come
}

// chunk is 16-bit stereo PCM, of which the left channel is kept.
type chunk struct {
	at  int64 // us, when its first frame sounds
	pcm []int16
}

// listen connects an ear.
func listen(t *testing.T, addr, id string) *ear {
	t.Helper()
	ws, err := scene.WireDial(t.Context(), addr, id)
	if err != nil {
		t.Fatal(err)
	}
	// It wants its audio early: a machine that stands still for a moment loses none.
	state := `{"type":"client/state","payload":{"player":{"volume":50,"muted":false,"required_lead_time_ms":3000,"min_buffer_ms":3000}}}`
	if err := ws.WriteMessage(websocket.TextMessage, []byte(state)); err != nil {
		t.Fatal(err)
	}
	e := &ear{T: t, id: id, ws: ws, volume: 50}
	var wg sync.WaitGroup
	wg.Go(e.run) // ends with its connection
	t.Cleanup(func() { _ = ws.Close(); wg.Wait() })
	return e
}

func (e *ear) run() {
	_ = e.ws.SetReadDeadline(time.Now().Add(2 * time.Minute)) // no test lasts so long
	for {
		kind, data, err := e.ws.ReadMessage()
		if err != nil {
			return
		}
		e.mu.Lock()
		if kind == websocket.BinaryMessage {
			e.hear(data)
		} else {
			e.obey(data)
		}
		e.mu.Unlock()
	}
}

func (e *ear) hear(frame []byte) {
	if frame[0] != 4 || !e.open {
		e.Errorf("%s: a binary frame of type %d, stream open: %v", e.id, frame[0], e.open)
		return
	}
	c := chunk{at: int64(binary.BigEndian.Uint64(frame[1:]))} //nolint:gosec // microseconds
	for b := frame[9:]; len(b) > 0; b = b[2*channels:] {
		c.pcm = append(c.pcm, int16(binary.LittleEndian.Uint16(b))) //nolint:gosec // 16 bits
	}
	e.chunks = append(e.chunks, c)
}

func (e *ear) obey(data []byte) {
	var m struct {
		Type    string
		Payload struct {
			Player struct {
				Command string
				Volume  *int
			}
		}
	}
	if err := json.Unmarshal(data, &m); err != nil {
		e.Errorf("%s: %v", e.id, err)
	}
	switch m.Type {
	case "stream/start":
		e.open = true
	case "stream/end":
		e.open = false
		e.ends = append(e.ends, len(e.chunks))
	case "server/command":
		if v := m.Payload.Player.Volume; v != nil {
			e.told, e.volume = append(e.told, *v), *v
			state := fmt.Sprintf(`{"type":"client/state","payload":{"player":{"volume":%d,"muted":false}}}`, *v)
			if err := e.ws.WriteMessage(websocket.TextMessage, []byte(state)); err != nil {
				e.Errorf("%s: %v", e.id, err)
			}
		}
	}
}

// volumes are what it was told, since the last call.
func (e *ear) volumes() []int {
	e.mu.Lock()
	defer e.mu.Unlock()
	told := e.told
	e.told = nil
	return told
}

// forget drops what was heard.
func (e *ear) forget() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.chunks, e.ends = nil, nil
}

// heard is everything since forget, one sample after the other, and when a sample
// sounds. It fails where a chunk of a stream begins before the end of the one
// before; a slow machine, or two announcements over nothing, leave a pause.
func (e *ear) heard() (pcm []int16, at func(i int) int64) {
	e.Helper()
	e.mu.Lock()
	defer e.mu.Unlock()
	var starts []int
	for i, c := range e.chunks {
		if i > 0 && !slices.Contains(e.ends, i) {
			before := e.chunks[i-1]
			due := before.at + int64(len(before.pcm))*1_000_000/rate
			if c.at < due-1 {
				e.Errorf("%s: chunk %d is at %d us, %d after the end of the one before", e.id, i, c.at, c.at-due)
			}
			if c.at > due+1 {
				e.Logf("%s: chunk %d comes after a pause of %d us", e.id, i, c.at-due)
			}
		}
		starts = append(starts, len(pcm))
		pcm = append(pcm, c.pcm...)
	}
	chunks := slices.Clone(e.chunks)
	return pcm, func(i int) int64 {
		n, found := slices.BinarySearch(starts, i)
		if !found {
			n--
		}
		return chunks[n].at + int64(i-starts[n])*1_000_000/rate
	}
}

// first is when the first sample that ok likes sounds, in us of the server's
// clock, and its place.
func (e *ear) first(what string, ok func(v int16) bool) (at int64, place int) {
	e.Helper()
	pcm, when := e.heard()
	place = slices.IndexFunc(pcm, ok)
	if place < 0 {
		e.Fatalf("%s did not hear %s, among %d samples", e.id, what, len(pcm))
	}
	return when(place), place
}

// wave is a WAV file of 16-bit stereo.
func wave(seconds float64, sample func(frame int) int16) []byte {
	n := int(seconds * rate)
	pcm := make([]byte, 0, n*2*channels)
	for i := range n {
		v := uint16(sample(i)) //nolint:gosec // 16 bits
		pcm = binary.LittleEndian.AppendUint16(pcm, v)
		pcm = binary.LittleEndian.AppendUint16(pcm, v)
	}
	le := binary.LittleEndian
	b := le.AppendUint32([]byte("RIFF"), uint32(36+len(pcm))) //nolint:gosec // small
	b = le.AppendUint32(append(b, "WAVEfmt "...), 16)
	for _, v := range []uint16{1, channels} {
		b = le.AppendUint16(b, v)
	}
	for _, v := range []uint32{rate, rate * 2 * channels} {
		b = le.AppendUint32(b, v)
	}
	for _, v := range []uint16{2 * channels, 16} {
		b = le.AppendUint16(b, v)
	}
	b = le.AppendUint32(append(b, "data"...), uint32(len(pcm))) //nolint:gosec // small
	return append(b, pcm...)
}

// shelf serves files.
func shelf(t *testing.T, files map[string][]byte) (url string) {
	t.Helper()
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		name := strings.TrimPrefix(r.URL.Path, "/")
		data, ok := files[name]
		if !ok {
			http.NotFound(w, r)
			return
		}
		http.ServeContent(w, r, name, time.Time{}, strings.NewReader(string(data)))
	}))
	t.Cleanup(s.Close)
	return s.URL
}

// music is what is played: its value says which sample it is, but for multiples of
// 9973.
func music(frame int) int16 { return int16(frame % 9973) } //nolint:gosec // 16 bits

func musicFrom(first, n int) []int16 {
	pcm := make([]int16, n)
	for i := range pcm {
		pcm[i] = music(first + i)
	}
	return pcm
}

// soundHouse is a house whose speakers are ears, by their ids.
type soundHouse struct {
	*testing.T
	bridge *scene.Bridge
	watch  *scene.Watcher
	ears   map[string]*ear
}

// newSoundHouse connects the ears. tune changes the bridge's configuration.
func newSoundHouse(t *testing.T, tune func(*app.Config), ids ...string) *soundHouse {
	t.Helper()
	h := &soundHouse{T: t, ears: map[string]*ear{}}
	broker := scene.StartBroker(t)
	h.watch = scene.Watch(t, broker.URL(), nil)
	config := scene.Config(t, broker)
	tune(&config)
	h.bridge = scene.StartBridge(t, app.RunOptions{Config: config, Build: app.Build{Version: "test"}})
	for _, id := range ids {
		h.ears[id] = listen(t, h.bridge.Listen.String(), id)
	}
	for _, id := range ids {
		h.watch.Is(topic(id, "connection"), "connected")
		h.watch.Is(topic(id, "volume"), "50")
	}
	return h
}

func (h *soundHouse) do(id string, set map[string]any) map[string]any {
	h.Helper()
	return h.watch.Ask(topic(id, "set"), topic(id, "result"), set)
}

// refused has a command fail, and says with what code.
func (h *soundHouse) refused(id, field, payload string) (code string) {
	h.Helper()
	mark := h.watch.Mark()
	h.watch.Send(topic(id, "set/"+field), payload)
	h.soon("the result of "+field+" "+payload, func() bool {
		for _, m := range h.watch.Since(mark) {
			if data, ok := strings.CutPrefix(m, topic(id, "result")+" "); ok {
				var r struct {
					Error struct{ Code string }
				}
				if json.Unmarshal([]byte(data), &r) == nil {
					code = r.Error.Code
					return true
				}
			}
		}
		return false
	})
	return code
}

// soon waits for what no topic tells.
func (h *soundHouse) soon(what string, ok func() bool) {
	h.Helper()
	for deadline := time.Now().Add(time.Minute); !ok(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			h.Fatalf("not within a minute: %s", what)
		}
	}
}
