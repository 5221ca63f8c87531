package stream

import (
	"context"
	"encoding/binary"
	"errors"
	"flag"
	"io"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"resonatebridge/resonate/protocol"
	"resonatebridge/timesync"
)

// usualChecks is how many random schedules a plain go test runs.
const usualChecks = "25"

func TestMain(m *testing.M) {
	flag.Parse()
	if f := flag.Lookup("rapid.checks"); f.Value.String() == f.DefValue {
		_ = flag.Set("rapid.checks", usualChecks) // it is a number
	}
	goleak.VerifyTestMain(m)
}

// count is a source whose samples count: frame n of item k is k<<24 + n in both
// channels, so that whoever hears a sample knows where it belongs.
type count struct {
	item   int32
	frames int64
	next   int64
	info   *Info
	gate   chan struct{} // nil, or Read waits for it
	ctx    context.Context
	live   *timesync.Clock
	began  timesync.Micros
	bad    error // instead of the end
}

func (c *count) Info() *Info { return c.info }

func (c *count) Read(dst []int32) (int, error) {
	if c.gate != nil {
		select {
		case <-c.gate:
		case <-c.ctx.Done():
			return 0, c.ctx.Err()
		}
	}
	n := int(min(int64(len(dst)/Channels), c.frames-c.next))
	if c.live != nil { // in real time
		due := time.Duration((c.next+int64(n))*int64(time.Second)/int64(c.info.Rate)) - time.Duration(c.live.Now()-c.began)*time.Microsecond
		select {
		case <-time.After(due):
		case <-c.ctx.Done():
			return 0, c.ctx.Err()
		}
	}
	for i := range n {
		v := c.item<<24 + int32(c.next) + int32(i)
		dst[i*2], dst[i*2+1] = v, v
	}
	c.next += int64(n)
	switch {
	case c.next < c.frames:
		return n, nil
	case c.bad != nil:
		return n, c.bad
	}
	return n, io.EOF
}

func (c *count) Seek(to time.Duration) (time.Duration, error) {
	c.next = min(int64(to)*int64(c.info.Rate)/int64(time.Second), c.frames)
	return to, nil
}

func (c *count) Close() error { return nil }

// raw is an encoder that loses nothing.
type raw struct{ frames int }

func (r raw) Frames() int  { return r.frames }
func (raw) Header() []byte { return nil }
func (raw) Delay() int     { return 0 }
func (raw) Encode(pcm []int32) ([]byte, error) {
	out := make([]byte, 0, len(pcm)*4)
	for _, v := range pcm {
		out = binary.LittleEndian.AppendUint32(out, uint32(v))
	}
	return out, nil
}

// nearest is a converter that repeats and drops frames; what it outputs for
// frame n is frame n*from/to.
type nearest struct {
	from, to int64
	in, out  int64
}

func (c *nearest) Convert(dst, src []int32) []int32 {
	n := int64(len(src) / Channels)
	for ; c.out*c.from/c.to < c.in+n; c.out++ {
		k := c.out*c.from/c.to - c.in
		dst = append(dst, src[k*2], src[k*2+1])
	}
	c.in += n
	return dst
}
func (c *nearest) Flush(dst []int32) []int32 { return dst }
func (c *nearest) Fork() Converter           { f := *c; return &f }

// ear is a player that notes what it gets.
type ear struct {
	mu      sync.Mutex
	clock   *timesync.Clock
	got     []any // protocol messages and sound
	taken   uint64
	slow    bool // writes nothing
	written uint64
	full    bool
	gone    bool
}

type sound struct {
	at, end, sent timesync.Micros
	pcm           []int32 // one channel
	format        protocol.Format
}

func (e *ear) Stream(m protocol.ServerMessage) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.gone {
		return errors.New("gone")
	}
	e.got = append(e.got, m)
	return nil
}

func (e *ear) Audio(c *Chunk) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.full || e.gone {
		return false
	}
	s := sound{at: c.Timestamp, end: c.End, sent: e.clock.Now()}
	for _, m := range e.got {
		if st, ok := m.(protocol.StreamStart); ok {
			s.format = st.Player.Format
		}
	}
	for b := c.Data; len(b) > 0; b = b[8:] {
		l, r := int32(binary.LittleEndian.Uint32(b)), int32(binary.LittleEndian.Uint32(b[4:]))
		if l != r {
			panic("the channels differ")
		}
		s.pcm = append(s.pcm, l)
	}
	e.got = append(e.got, s)
	e.taken++
	if !e.slow {
		e.written = e.taken
	}
	return true
}

func (e *ear) Written() uint64 {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.written
}

func (e *ear) sounds() (out []sound) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, m := range e.got {
		if s, ok := m.(sound); ok {
			out = append(out, s)
		}
	}
	return out
}

// messages are the kinds of what came, in order, runs of sound as one.
func (e *ear) messages() []string {
	e.mu.Lock()
	defer e.mu.Unlock()
	return kinds(e.got, "sound")
}

// kinds are the messages about streams, what is between them as one.
func kinds(got []any, between string) (out []string) {
	for _, m := range got {
		k := between
		switch m.(type) {
		case protocol.StreamStart:
			k = "start"
		case protocol.StreamClear:
			k = "clear"
		case protocol.StreamEnd:
			k = "end"
		}
		if k != between || len(out) == 0 || out[len(out)-1] != k {
			out = append(out, k)
		}
	}
	return out
}

// room is an engine that plays counts, in virtual time.
type room struct {
	*Engine
	t       *testing.T
	clock   *timesync.Clock
	sources map[string]func(ctx context.Context) (Source, error)
	players []Player
	ears    map[string]*ear
}

var pcm48 = protocol.Format{Codec: "pcm", Channels: 2, SampleRate: 48_000, BitDepth: 32}

func newRoom(t *testing.T) *room {
	r := &room{t: t, clock: timesync.NewClock(), sources: map[string]func(context.Context) (Source, error){}, ears: map[string]*ear{}}
	r.Engine = New(Options{
		Clock: r.clock,
		Open: func(ctx context.Context, i Item) (Source, error) {
			open, ok := r.sources[i.URL]
			if !ok {
				return nil, errors.New("no such source")
			}
			return open(ctx)
		},
		Convert: func(from, to int) (Converter, error) { return &nearest{from: int64(from), to: int64(to)}, nil },
		Encode: func(f protocol.Format, _ int) (Encoder, error) {
			if f.Codec == "opus" {
				return raw{f.SampleRate / 50}, nil
			}
			return raw{}, nil
		},
	})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- r.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return r
}

// source adds an item that lasts d at a rate.
func (r *room) source(name string, item int32, rate int, d time.Duration, set ...func(*count)) {
	r.sources[name] = func(ctx context.Context) (Source, error) {
		c := &count{
			item: item, ctx: ctx, frames: int64(d) * int64(rate) / int64(time.Second), began: r.clock.Now(),
			info: &Info{Rate: rate, Duration: d, Seekable: true},
		}
		for _, f := range set {
			f(c)
		}
		return c, nil
	}
}

// player is one that gets its audio 500 ms ahead (its lead, and slack), and holds a lot.
func (r *room) player(id string, set ...func(*Player)) *ear {
	e := &ear{clock: r.clock}
	p := Player{
		ID: id, Sink: e, Formats: []protocol.Format{pcm48}, Gain: 1, Capacity: 4 << 20,
		MinBufferMs: 200, RequiredLeadMs: 400, Available: true,
	}
	for _, f := range set {
		f(&p)
	}
	r.players = append(r.players, p)
	r.ears[id] = e
	r.SetPlayers(append([]Player(nil), r.players...))
	synctest.Wait()
	return e
}

// without takes a player away.
func (r *room) without(id string) {
	var rest []Player
	for _, p := range r.players {
		if p.ID != id {
			rest = append(rest, p)
		}
	}
	r.players = rest
	r.SetPlayers(append([]Player(nil), rest...))
	synctest.Wait()
}

// ok does something that must succeed.
func (r *room) ok(f func(reply func(error))) {
	r.t.Helper()
	if err := r.do1(f); err != nil {
		r.t.Fatal(err)
	}
}

func (r *room) do1(f func(reply func(error))) error {
	r.t.Helper()
	got := make(chan error, 1)
	f(func(err error) { got <- err })
	select {
	case err := <-got:
		return err
	case <-time.After(time.Minute):
		r.t.Fatal("no answer within a minute")
		return nil
	}
}

func (r *room) play(urls ...string) {
	r.t.Helper()
	var items []Item
	for _, u := range urls {
		items = append(items, Item{URL: u})
	}
	r.ok(func(reply func(error)) { r.Play(items, 0, reply) })
	synctest.Wait()
}

// leapTo goes to an item of the queue.
func (r *room) leapTo(index int, reply func(error)) {
	r.skip(func(q queue) (queue, bool) { q.at = index; return q, true }, reply)
}

// pass lets time go by.
func pass(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

// heard joins what a player would have heard: sounds that a later clear or end
// did not drop before they were audible, checked to be without a gap or an
// overlap within each stretch.
func heard(t *testing.T, e *ear) (pcm []int32) {
	t.Helper()
	e.mu.Lock()
	defer e.mu.Unlock()
	var last *sound
	var buffered []sound
	for _, m := range e.got {
		switch m := m.(type) {
		case sound:
			if last != nil && m.at != last.end {
				t.Errorf("chunk at %d after one that ended at %d", m.at, last.end)
			}
			last = &m
			buffered = append(buffered, m)
		case protocol.StreamClear, protocol.StreamEnd:
			last = nil
			_ = m
		}
	}
	for _, s := range buffered {
		pcm = append(pcm, s.pcm...)
	}
	return pcm
}

// wantRun checks that pcm is item's frames from first, without a hole.
func wantRun(t *testing.T, pcm []int32, item int32, first, n int) {
	t.Helper()
	if len(pcm) != n {
		t.Fatalf("got %d frames, want %d", len(pcm), n)
	}
	for i, v := range pcm {
		if want := item<<24 + int32(first+i); v != want {
			t.Fatalf("frame %d: got item %d frame %d, want item %d frame %d", i, v>>24, v&0xffffff, item, first+i)
		}
	}
}
