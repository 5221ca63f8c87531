package resonate

import (
	"bytes"
	"cmp"
	"context"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"image"
	"image/color"
	"image/png"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"resonatebridge/resonate/audio"
	"resonatebridge/resonate/internal/sealtest"
	"resonatebridge/resonate/protocol"
)

// paper is a cover of one colour.
func paper(t testing.TB, c color.Color) []byte {
	t.Helper()
	img := image.NewRGBA(image.Rect(0, 0, 60, 60))
	for i := range 3600 {
		img.Set(i%60, i/60, c)
	}
	var b bytes.Buffer
	if err := png.Encode(&b, img); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func red(t testing.TB) []byte {
	t.Helper()
	return paper(t, color.RGBA{255, 0, 0, 255})
}

func blue(t testing.TB) []byte {
	t.Helper()
	return paper(t, color.RGBA{0, 0, 255, 255})
}

// gallery serves pictures by URL; those that are slow take a second.
func gallery(pictures map[string][]byte, fetched *atomic.Int64) func(*Options) {
	return func(o *Options) {
		o.FetchPicture = func(ctx context.Context, url string, _ int64) ([]byte, error) {
			fetched.Add(1)
			if strings.HasSuffix(url, "panic") {
				panic("oh no")
			}
			if strings.Contains(url, "slow") {
				select {
				case <-time.After(time.Second):
				case <-ctx.Done():
					return nil, ctx.Err()
				}
			}
			if p, ok := pictures[url]; ok {
				return p, nil
			}
			return nil, fmt.Errorf("%w: there is no %s", audio.ErrUnreachable, url)
		}
	}
}

// screen adds a player with a display, or a display alone.
func (h *house) screen(id, hello string) *speaker {
	h.t.Helper()
	s := h.speaker(id)
	s.hello = hello
	s.announce()
	synctest.Wait()
	return s
}

// shown is one picture that a line got.
type shown struct {
	kind   byte // binary type
	at     int64
	size   image.Point // 0: an empty one
	format string
	colour color.RGBA // in the middle
}

// pictures are the frames with one of the binary types of pictures.
func (l *line) pictures(t *testing.T, kinds ...byte) (out []shown) {
	t.Helper()
	l.s.mu.Lock()
	defer l.s.mu.Unlock()
	for _, f := range l.audio {
		if !bytes.Contains(kinds, f[:1]) {
			continue
		}
		x := shown{kind: f[0], at: int64(binary.BigEndian.Uint64(f[1:]))}
		if len(f) > 9 {
			img, format, err := image.Decode(bytes.NewReader(f[9:]))
			if err != nil {
				t.Fatalf("a picture of %d bytes: %v", len(f)-9, err)
			}
			x.size, x.format = img.Bounds().Size(), format
			x.colour, _ = color.RGBAModel.Convert(img.At(x.size.X/2, x.size.Y/2)).(color.RGBA)
		}
		out = append(out, x)
	}
	return out
}

func (x shown) String() string {
	name := "none"
	switch {
	case x.format == "":
	case x.colour.R > 200 && x.colour.B < 60:
		name = "red"
	case x.colour.B > 200 && x.colour.R < 60:
		name = "blue"
	default:
		name = fmt.Sprint(x.colour)
	}
	return fmt.Sprintf("%d %s %dx%d %s", x.kind, name, x.size.X, x.size.Y, x.format)
}

const (
	// wallHello is a screen of Sendspin with three channels, the last one without
	// a picture that there could be, and colours.
	wallHello = `{"type":"client/hello","payload":{"client_id":"wall","name":"Wall","version":1,"supported_roles":["artwork@v1","color@v1"],` +
		`"artwork@v1_support":{"channels":[{"source":"album","format":"jpeg","media_width":40,"media_height":30},` +
		`{"source":"album","format":"png","media_width":20,"media_height":20},{"source":"artist","format":"png","media_width":9,"media_height":9}]}}}`
	// radioHello is a player of September 2025 with a display.
	radioHello = `{"type":"client/hello","payload":{"client_id":"radio","name":"Radio","version":1,"supported_roles":["player","metadata"],` +
		`"player_support":{"support_codecs":["pcm"],"support_channels":[2],"support_sample_rates":[48000],"support_bit_depth":[16],"buffer_capacity":1000000},` +
		`"metadata_support":{"support_picture_formats":["bmp"],"media_width":20,"media_height":20}}}`
	// shelfHello is a player with a display as large as one of the wall's, and
	// the support keys of December 2025.
	shelfHello = `{"type":"client/hello","payload":{"client_id":"shelf","name":"Shelf","version":1,"supported_roles":["player@v1","artwork@v1"],` +
		`"player_support":{"supported_formats":[{"codec":"pcm","channels":2,"sample_rate":48000,"bit_depth":16}],"buffer_capacity":1000000,"supported_commands":["volume","mute"]},` +
		`"artwork_support":{"channels":[{"source":"album","format":"png","media_width":20,"media_height":20}]}}}`
)

// exhibition is a group of a player, two players with displays and a screen.
func exhibition(t *testing.T, h *house) (wall, radio, shelf *speaker) {
	t.Helper()
	h.online("a")
	radio = h.screen("radio", radioHello)
	radio.set(func() {
		radio.state = func() string {
			return `{"type":"player/update","payload":{"state":"idle","volume":40,"muted":false}}`
		}
	})
	pass(6 * time.Second) // it says no state
	shelf = h.screen("shelf", shelfHello)
	h.must(SetPlayer{PID: "radio", Group: &GroupTarget{With: "a"}})
	h.must(SetPlayer{PID: "shelf", Group: &GroupTarget{With: "a"}})
	wall = h.screen("wall", wallHello)
	onLoop(h, func(m *model) { m.place(m.clients["wall"], m.clients["a"].group) })
	synctest.Wait()
	return wall, radio, shelf
}

func wantShown(t *testing.T, who string, got []shown, want ...string) {
	t.Helper()
	slices.SortStableFunc(got, func(a, b shown) int { return cmp.Compare(a.kind, b.kind) }) // which channel is first matters to nobody
	if g := fmt.Sprint(got); g != fmt.Sprint(want) {
		t.Errorf("%s was shown %s, want %s", who, g, fmt.Sprint(want))
	}
}

// Each display gets its size and format in its dialect; what two of them share
// is made once; the change to the next item has the time at which it sounds.
func TestPicturesOfAGroup(t *testing.T) {
	bubble(t, func(t *testing.T) {
		var fetched atomic.Int64
		h := newHouse(t, library(map[string]*ramp{
			"http://x/a": {frames: 480_000, rate: 48_000, picture: red(t)},
			"http://x/b": {frames: 480_000, rate: 48_000, tags: audio.Tags{ArtworkURL: "http://x/slow.png"}},
			"http://x/c": {frames: 480_000, rate: 48_000},
		}), gallery(map[string][]byte{"http://x/slow.png": blue(t)}, &fetched))
		wall, radio, shelf := exhibition(t, h)
		h.must(PlayMedia{Target: Target{PID: "a"}, Items: []MediaItem{{URL: "http://x/a"}, {URL: "http://x/b"}, {URL: "http://x/c"}}})
		pass(5 * time.Second)
		wantShown(t, "the wall", wall.line(-1).pictures(t, 8, 9, 10, 11), "8 red 40x30 jpeg", "9 red 20x20 png")
		wantShown(t, "the radio", radio.line(-1).pictures(t, 2), "2 red 20x20 bmp")
		wantShown(t, "the shelf", shelf.line(-1).pictures(t, 8, 9, 10, 11), "8 red 20x20 png")
		if got := h.counters.prints.Load(); got != 3 {
			t.Errorf("pictures were made %d times for 4 channels of 3 forms", got)
		}
		if m := h.group("a").Media; len(m.Art) == 0 || m.ArtHash == "" || m.ArtError != nil {
			t.Errorf("got a picture of %d bytes, hash %q, error %v", len(m.Art), m.ArtHash, m.ArtError)
		}
		starts := wall.line(-1).messages("stream/start")
		if len(starts) != 1 || !strings.Contains(starts[0], `{"format":"png","height":9,"source":"artist","width":9}`) {
			t.Errorf("the wall was told %v", starts)
		}

		pass(6 * time.Second) // into the second item
		_, stamps := shelf.line(-1).frames(t)
		turn := stamps[0] + 10_000_000 // the first item has 10 s
		got := wall.line(-1).pictures(t, 8, 9, 10, 11)
		wantShown(t, "the wall", got[2:], "8 blue 40x30 jpeg", "9 blue 20x20 png")
		for _, x := range append(got[2:], radio.line(-1).pictures(t, 2)[1:]...) {
			if x.at != turn {
				t.Errorf("%v has the time stamp %d, want %d, where the item begins", x, x.at, turn)
			}
		}
		if got := h.counters.prints.Load(); got != 6 || fetched.Load() != 1 {
			t.Errorf("%d pictures were made and %d fetched, want 6 and 1", got, fetched.Load())
		}

		pass(12 * time.Second) // into the third, which has none
		wantShown(t, "the radio", radio.line(-1).pictures(t, 2)[2:], "2 none 0x0 ")
		if got := radio.line(-1).pictures(t, 2)[2].at; got != turn+10_000_000 {
			t.Errorf("the picture goes at %d, want %d", got, turn+10_000_000)
		}
		if m := h.group("a").Media; m.Art != nil || m.ArtHash != "" || m.ArtError != nil {
			t.Errorf("without a picture: got %d bytes, hash %q, error %v", len(m.Art), m.ArtHash, m.ArtError)
		}
		pass(10 * time.Second)
		if got := wall.line(-1).last("stream/end"); got != `{"roles":["artwork"]}` {
			t.Errorf("at the end the wall was told %s", got)
		}
	})
}

// A display that joins while something plays gets its picture at once, one that
// asks for another form gets that, and a pause keeps it also where its end of
// the audio takes the picture along.
func TestPicturesOnDemand(t *testing.T) {
	bubble(t, func(t *testing.T) {
		h := newHouse(t, library(map[string]*ramp{"http://x/a": {frames: 48_000 * 60, rate: 48_000, picture: red(t)}}))
		h.online("a")
		h.must(playURL("a", "http://x/a"))
		pass(5 * time.Second)
		shelf := h.screen("shelf", shelfHello)
		h.must(SetPlayer{PID: "shelf", Group: &GroupTarget{With: "a"}})
		synctest.Wait()
		l := shelf.line(-1)
		wantShown(t, "a late joiner", l.pictures(t, 8), "8 red 20x20 png")
		for _, ask := range []string{
			`{"channel":0,"format":"jpeg","media_width":50}`,
			`{"channel":0,"media_width":0}`,
			`{"channel":3,"format":"png"}`,
			`{"channel":0,"format":"tiff"}`,
			`{"channel":0,"format":"jpeg","width":50}`, // what it has
		} {
			l.send(`{"type":"stream/request-format","payload":{"artwork":` + ask + `}}`)
			synctest.Wait()
		}
		wantShown(t, "who asks for another form", l.pictures(t, 8)[1:], "8 red 50x20 jpeg")
		if got := l.last("stream/start"); got != `{"artwork":{"channels":[{"format":"jpeg","height":20,"source":"album","width":50}]}}` {
			t.Errorf("it was told %s", got)
		}
		made := h.counters.prints.Load()
		h.must(act("a", ActionPause))
		pass(time.Second)
		wantShown(t, "after a pause", l.pictures(t, 8)[2:], "8 red 50x20 jpeg")
		if kinds := strings.Join(kinds(l), " "); !strings.HasSuffix(kinds, "stream/end stream/start audio") {
			t.Errorf("a pause: got %s", kinds)
		}
		if again := h.counters.prints.Load(); again != made {
			t.Errorf("it was made anew: %d times, then %d", made, again)
		}
		l.send(`{"type":"stream/request-format","payload":{"artwork":{"channel":0,"source":"none"}}}`)
		synctest.Wait()
		wantShown(t, "who wants none", l.pictures(t, 8)[3:], "8 none 0x0 ")
	})
}

// What is skipped is neither waited for nor shown.
func TestSkippedPictureIsGivenUp(t *testing.T) {
	bubble(t, func(t *testing.T) {
		var fetched atomic.Int64
		h := newHouse(t, library(map[string]*ramp{
			"http://x/a": {frames: 480_000, rate: 48_000, tags: audio.Tags{ArtworkURL: "http://x/slow-red.png"}},
			"http://x/b": {frames: 480_000, rate: 48_000, picture: blue(t)},
		}), gallery(map[string][]byte{"http://x/slow-red.png": red(t)}, &fetched))
		wall, _, _ := exhibition(t, h)
		h.must(PlayMedia{Target: Target{PID: "a"}, Items: []MediaItem{{URL: "http://x/a"}, {URL: "http://x/b"}}})
		pass(100 * time.Millisecond)
		h.must(act("a", ActionNext))
		pass(5 * time.Second)
		wantShown(t, "the wall", wall.line(-1).pictures(t, 8, 9, 10, 11), "8 blue 40x30 jpeg", "9 blue 20x20 png")
		if got := h.counters.prints.Load(); fetched.Load() != 1 || got != 3 {
			t.Errorf("%d fetches began and %d pictures were made, want 1 and 3", fetched.Load(), got)
		}
		h.must(act("a", ActionPrevious)) // it has played for over 3 s: it begins again, with the same picture
		pass(2 * time.Second)
		if got := wall.line(-1).pictures(t, 8, 9, 10, 11); len(got) != 2 || h.counters.prints.Load() != 3 {
			t.Errorf("the same picture was sent again: %v", got)
		}
	})
}

// Colours come with the picture, once for each, and go with it.
func TestColorsOfAPicture(t *testing.T) {
	bubble(t, func(t *testing.T) {
		h := newHouse(t, library(map[string]*ramp{
			"http://x/a": {frames: 480_000, rate: 48_000, picture: red(t)},
			"http://x/b": {frames: 480_000, rate: 48_000, picture: red(t)}, // another file with the same
			"http://x/c": {frames: 480_000, rate: 48_000, picture: blue(t)},
		}))
		wall, _, shelf := exhibition(t, h)
		h.must(PlayMedia{Target: Target{PID: "a"}, Items: []MediaItem{{URL: "http://x/a"}, {URL: "http://x/b"}, {URL: "http://x/c"}}})
		pass(33 * time.Second)
		var got []string
		var at []int64
		for _, m := range wall.line(-1).messages("server/state") {
			var st struct {
				Color *struct {
					Timestamp int64
					Primary   *[3]int
					OnDark    *[3]int `json:"on_dark"`
				}
			}
			if err := json.Unmarshal([]byte(m), &st); err != nil {
				t.Fatal(err)
			}
			if st.Color == nil {
				continue
			}
			at = append(at, st.Color.Timestamp)
			switch p := st.Color.Primary; {
			case p == nil:
				got = append(got, "none")
			case p[0] > 200 && p[2] < 60:
				got = append(got, "red")
			case p[2] > 200 && p[0] < 60:
				got = append(got, "blue")
			}
		}
		// None when it connects, none of what begins, then what there is.
		if s := strings.Join(got, " "); !strings.HasSuffix(s, "none red blue none") || strings.Count(s, "red") != 1 {
			t.Errorf("got %s", s)
		}
		_, stamps := shelf.line(-1).frames(t)
		if want := stamps[0] + 20_000_000; at[len(at)-2] != want {
			t.Errorf("blue comes at %d, want %d, where its item begins", at[len(at)-2], want)
		}
		wantShown(t, "the shelf", shelf.line(-1).pictures(t, 8), "8 red 20x20 png", "8 blue 20x20 png")
	})
}

// A bad picture disturbs nothing, and what is wrong with it is told.
func TestBadPictures(t *testing.T) {
	bubble(t, func(t *testing.T) {
		var fetched atomic.Int64
		items := map[string]*ramp{"http://x/lies": {frames: 480_000, rate: 48_000, picture: append([]byte("\x89PNG\r\n\x1a\n\x00\x00\x00\x0dIHDR"), 0, 0, 0x40, 0, 0, 0, 0x40, 0, 8, 2, 0, 0, 0, 0, 0, 0, 0)}}
		for _, n := range []string{"huge", "none", "page", "panic"} {
			items["http://x/"+n] = &ramp{frames: 480_000, rate: 48_000}
		}
		h := newHouse(t, library(items), gallery(map[string][]byte{"http://p/huge": make([]byte, 50<<20), "http://p/page": []byte("<html>")}, &fetched))
		wall, _, _ := exhibition(t, h)
		h.mustFail(PlayMedia{Target: Target{PID: "a"}, Items: []MediaItem{{URL: "http://x/none", ArtworkURL: "file:///etc/passwd"}}}, CodeInvalidValue)
		for name, want := range map[string]Code{"lies": CodeMediaUnsupported, "huge": CodeMediaUnsupported, "page": CodeMediaUnsupported, "none": CodeMediaUnreachable, "panic": CodeInternal} {
			item := MediaItem{URL: "http://x/" + name}
			if name != "lies" {
				item.ArtworkURL = "http://p/" + name
			}
			h.must(PlayMedia{Target: Target{PID: "a"}, Items: []MediaItem{item}})
			pass(2 * time.Second)
			g := h.group("a")
			if g.Playback != Playing || g.Media.Art != nil || g.Media.ArtError == nil || g.Media.ArtError.Code != want {
				t.Errorf("%s: got %s, %d bytes, %v; want playing, none, %s", name, g.Playback, len(g.Media.Art), g.Media.ArtError, want)
			}
		}
		if got := wall.line(-1).pictures(t, 8, 9, 10, 11); len(got) != 0 {
			t.Errorf("the wall was shown %v", got)
		}
	})
}

// What was sent ahead is taken back when it does not come after all.
func TestPictureThatDoesNotCome(t *testing.T) {
	bubble(t, func(t *testing.T) {
		h := newHouse(t, library(map[string]*ramp{
			"http://x/a": {frames: 480_000, rate: 48_000, picture: red(t)},
			"http://x/b": {frames: 480_000, rate: 48_000, picture: blue(t)},
		}))
		wall, _, shelf := exhibition(t, h)
		h.must(PlayMedia{Target: Target{PID: "a"}, Items: []MediaItem{{URL: "http://x/a"}, {URL: "http://x/b"}}})
		pass(time.Second)
		_, stamps := shelf.line(-1).frames(t)
		end := time.Duration(stamps[0]+10_000_000-int64(h.opts.Clock.Now())) * time.Microsecond
		pass(end - 600*time.Millisecond)
		if got := shelf.line(-1).pictures(t, 8); len(got) != 1 {
			t.Errorf("0.6 s before the end: got %v", got)
		}
		pass(200 * time.Millisecond)
		got := shelf.line(-1).pictures(t, 8)
		if len(got) != 2 || got[1].at <= int64(h.opts.Clock.Now()) {
			t.Fatalf("0.4 s before the end: got %v", got)
		}
		h.must(act("a", ActionPrevious)) // to the beginning of the first item
		pass(2 * time.Second)
		got = shelf.line(-1).pictures(t, 8)
		wantShown(t, "the shelf", got, "8 red 20x20 png", "8 blue 20x20 png", "8 red 20x20 png")
		if got[2].at > int64(h.opts.Clock.Now()) {
			t.Errorf("the picture that stays is of %d, want the past", got[2].at)
		}
		colors := 0
		for _, m := range wall.line(-1).messages("server/state") {
			colors += strings.Count(m, `"primary":[2`)
		}
		if last := wall.line(-1).last("server/state"); !strings.Contains(last, `"primary":[2`) || colors != 2 {
			t.Errorf("red came %d times, and last %s", colors, last)
		}
		if got := h.counters.prints.Load(); got != 6 {
			t.Errorf("%d pictures were made, want 3 of each", got)
		}
	})
}

// An encrypted display says what it shows when it is let in; pictures come in
// parts, and not before.
func TestPictureOfASealedDisplay(t *testing.T) {
	bubble(t, func(t *testing.T) {
		h := newHouse(t, library(map[string]*ramp{"http://x/a": {frames: 48_000 * 60, rate: 48_000, picture: red(t)}}))
		s := h.sealed("a", func(x *sealtest.Speaker) {
			x.Display = []protocol.ArtworkChannel{{Source: "none"}, {Source: "album", Format: "png", Width: 1200, Height: 700}}
		})
		c := s.join()
		h.must(Approve{PID: s.pid(), On: true})
		h.must(playURL(s.pid(), "http://x/a"))
		pass(5 * time.Second)
		art := c.Art()
		if len(art) < 2 || len(art[0]) != 14 || art[0][0] != 9 || art[0][1] != 2 {
			t.Fatalf("got %x, want the announcement of a picture on channel 1 and its parts", art)
		}
		var file []byte
		for _, part := range art[1:] {
			if part[0] != 9 || part[1] != 0 {
				t.Fatalf("got %x, want a part", part[:2])
			}
			file = append(file, part[2:]...)
		}
		img, err := png.Decode(bytes.NewReader(file))
		if size := binary.BigEndian.Uint32(art[0][10:]); err != nil || int(size) != len(file) || img.Bounds().Size() != image.Pt(1200, 700) {
			t.Errorf("got %d bytes of %d, %v", len(file), size, err)
		}
		h.must(act(s.pid(), ActionStop))
		pass(time.Second)
		last, ok := sealtest.Last[protocol.StreamEnd](c)
		if !ok || !slices.Equal(last.Roles, []protocol.Role{protocol.RoleArtwork}) {
			t.Errorf("at the end: got %+v", last)
		}
	})
}
