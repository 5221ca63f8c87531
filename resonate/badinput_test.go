package resonate

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"regexp"
	"runtime"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gorilla/websocket"

	"resonatebridge/discovery"
	"resonatebridge/tests/pipe"
)

// What a bad speaker gets, and that nobody else notices. Each row runs once
// for a speaker that we dial and once for one that dials us.
func TestBadInput(t *testing.T) {
	long := strings.Repeat("x", 10_000)
	hello := func(id string) string { return fmt.Sprintf(playerHello, quoted(id), `"Bad"`) }
	with := func(old, instead string) string { return strings.Replace(hello("bad"), old, instead, 1) }
	state := func(fields string) string {
		return `{"type":"client/state","payload":{"state":"synchronized","player":{` + fields + `}}}`
	}
	for _, tc := range []struct {
		name  string
		hello string
		kind  int                         // of the hello; default text
		then  func(t *testing.T, l *line) // after server/hello, if there is one

		refused int           // close code; 0: accepted
		lives   bool          // the session goes on
		within  time.Duration // else it ends within
		said    string        // in the log or the player's errors
		volume  *int          // the player's afterwards; nil is not looked at
	}{
		// Hellos.
		{name: "an id of 10 kB", hello: hello(long), refused: 1008, said: `client_id: got \"xxx`},
		{name: "an empty id", hello: hello(""), refused: 1008, said: `client_id: got \"\"`},
		{name: "an id that is a number", hello: with(`"client_id":"bad"`, `"client_id":7`), refused: 1008, said: `client_id: got 7`},
		{name: "no id", hello: with(`"client_id":"bad",`, ``), refused: 1008, said: "client_id: got nothing"},
		{name: "a version of the future", hello: with(`"version":1`, `"version":99`), refused: 1002, said: "version: got 99"},
		{name: "roles in a text", hello: with(`["player@v1"]`, `"player@v1"`), refused: 1002, said: `supported_roles: got \"player@v1\", want a list`},
		{name: "roles that are unknown", hello: with(`"player@v1"`, `"toaster@v1"`), refused: 1008, said: "no usable role"},
		{name: "formats in a text", hello: with(`[{"codec":"pcm","channels":2,"sample_rate":48000,"bit_depth":16}]`, `"pcm"`), refused: 1008, said: "at least one format"},
		{name: "a format that makes no sense", hello: with(`"channels":2`, `"channels":-2`), refused: 1008, said: "at least one format"},
		{name: "a buffer of no size", hello: with(`"buffer_capacity":1000000`, `"buffer_capacity":"big"`), refused: 1008, said: "a buffer"},
		{name: "a hello of 65 KiB", hello: with(`"Bad"`, quoted(strings.Repeat("x", 65<<10))), refused: 1009, said: "read limit"},
		{name: "binary before hello", hello: hello("bad"), kind: websocket.BinaryMessage, refused: 1002, said: "first frame is binary"},
		{name: "nonsense before hello", hello: "\x00\x01", refused: 1002, said: `got \"\\x00\\x01\"`},
		{name: "half a hello", hello: hello("bad")[:100], refused: 1002, said: "client/hello"},
		{name: "state before hello", hello: state(`"volume":1`), refused: 1002, said: "the first message is client/state"},
		{name: "unknown fields", hello: with(`"version":1`, `"version":1,"mood":{"now":"good"}`), lives: true, volume: ptr(40)},

		// What comes after a good one.
		{name: "two hellos", hello: hello("bad"), then: func(_ *testing.T, l *line) { l.send(hello("thief")) }, lives: true, said: "a second one", volume: ptr(40)},
		{name: "volume 101", hello: hello("bad"), then: say(state(`"volume":101`)), lives: true, said: "player.volume: got 101, want a number from 0 to 100: clamped", volume: ptr(100)},
		{name: "volume -1", hello: hello("bad"), then: say(state(`"volume":-1`), state(`"muted":true`)), lives: true, said: "player.volume: got -1", volume: ptr(0)},
		{name: "volume 1e9", hello: hello("bad"), then: say(state(`"volume":1e9`)), lives: true, said: "player.volume: got 1e9", volume: ptr(100)},
		{name: "volume 1e400", hello: hello("bad"), then: say(state(`"volume":1e400`)), lives: true, said: "player.volume: got 1e400", volume: ptr(40)},
		{name: "volume 50 in a text", hello: hello("bad"), then: say(state(`"volume":"50"`)), lives: true, said: `player.volume: got \"50\"`, volume: ptr(40)},
		{name: "volume null", hello: hello("bad"), then: say(state(`"volume":null`)), lives: true, volume: ptr(40)},
		{name: "volume loud", hello: hello("bad"), then: say(state(`"volume":"loud"`)), lives: true, said: `player.volume: got \"loud\"`, volume: ptr(40)},
		{name: "volume in a list", hello: hello("bad"), then: say(state(`"volume":[50]`)), lives: true, said: "player.volume: got a list", volume: ptr(40)},
		{name: "volume 12.5", hello: hello("bad"), then: say(state(`"volume":12.5`)), lives: true, said: "player.volume: got 12.5", volume: ptr(13)},
		{name: "mute 1", hello: hello("bad"), then: say(state(`"muted":1`)), lives: true, said: "player.muted: got 1, want true or false", volume: ptr(40)},
		{name: "unknown fields in a state", hello: hello("bad"), then: say(state(`"volume":41,"colour":"red"`)), lives: true, volume: ptr(41)},
		{name: "invalid UTF-8", hello: hello("bad"), then: say("{\"type\":\"client/state\xff\"}"), lives: true, said: "invalid UTF-8", volume: ptr(40)},
		{name: "a payload that is none", hello: hello("bad"), then: say(`{"type":"client/state","payload":[1]}`), lives: true, said: "got a list, want an object", volume: ptr(40)},
		{name: "commands of roles that it has not", hello: hello("bad"), then: say(`{"type":"client/command","payload":{"controller":{"command":"volume","volume":3}}}`), lives: true, volume: ptr(40)},
		{name: "ten malformed ones in a row", hello: hello("bad"), then: func(_ *testing.T, l *line) {
			for range 10 {
				l.send("nonsense")
			}
		}, within: time.Second, said: `got \"nonsense\"`},
		{name: "a frame of more than 1 MiB", hello: hello("bad"), then: func(_ *testing.T, l *line) {
			l.write(websocket.TextMessage, make([]byte, 1<<20+1))
		}, within: time.Second, said: "read limit"},
		{name: "a frame that is no WebSocket", hello: hello("bad"), then: func(_ *testing.T, l *line) {
			_, _ = l.link.Write([]byte("HTTP/1.1 200 OK\r\n\r\n"))
		}, within: time.Second, said: "read: "},
		{name: "a flood of binary", hello: hello("bad"), then: func(_ *testing.T, l *line) {
			for range 1000 {
				l.write(websocket.BinaryMessage, make([]byte, 4096))
			}
		}, lives: true, said: "no client sends any in plaintext", volume: ptr(40)},
		{name: "a flood of clock questions", hello: hello("bad"), then: func(_ *testing.T, l *line) {
			for range 10_000 {
				l.send(`{"type":"client/time","payload":{"client_transmitted":1}}`)
			}
		}, lives: true, volume: ptr(40)},
	} {
		for _, inbound := range []bool{false, true} {
			direction := "dialled"
			if inbound {
				direction = "dials in"
			}
			t.Run(tc.name+", "+direction, func(t *testing.T) {
				bubble(t, func(t *testing.T) {
					h := newHouse(t)
					bystander := h.online("good")
					s := h.speaker("bad")
					s.hello = ""
					var l *line
					if inbound {
						l = s.dialIn()
					} else {
						s.announce()
						synctest.Wait()
						l = s.line(0)
					}
					l.write(max(tc.kind, websocket.TextMessage), []byte(tc.hello))
					synctest.Wait()
					if tc.refused == 0 {
						if len(l.messages("server/hello")) != 1 {
							t.Fatalf("not accepted: %s", h.log.String())
						}
						l.send(s.state())
						synctest.Wait()
					}
					if tc.then != nil {
						tc.then(t, l)
					}
					pass(tc.within)
					switch {
					case tc.refused != 0:
						if got := l.closeCode(); !l.isOver() || got != tc.refused {
							t.Errorf("over %v with close code %d, want true, %d", l.isOver(), got, tc.refused)
						}
						if got := h.pids(); len(got) != 1 {
							t.Errorf("players %v, want only the good one", got)
						}
					case l.isOver() == tc.lives:
						t.Errorf("the session is over: %v, want %v", l.isOver(), !tc.lives)
					}
					if got := len(l.messages("server/hello")); got > 1 {
						t.Errorf("%d answers to hello, want one", got)
					}
					if tc.volume != nil {
						if got := h.volume("bad"); got != *tc.volume {
							t.Errorf("volume %d, want %d", got, *tc.volume)
						}
					}
					if said := h.everythingSaid(); !strings.Contains(said, tc.said) {
						t.Errorf("nothing names %s: %s", tc.said, said)
					}
					if got := h.everythingSaid(); strings.Contains(got, long[:500]) {
						t.Error("the peer's text stands in the log uncut")
					}

					// The other speaker has not noticed, now and later.
					pass(2 * time.Minute)
					if got := h.edges("good"); got != "up1" || bystander.line(0).isOver() {
						t.Errorf("the other speaker: edges %q, want up1", got)
					}
					h.must(setVolume("good", 17))
					if got := fmt.Sprint(bystander.commands()); got != "[volume=17]" {
						t.Errorf("the other speaker was told %s, want 17", got)
					}
				})
			})
		}
	}
}

// everythingSaid is the log and what is shown to people, as JSON texts.
func (h *house) everythingSaid() string {
	b, _ := json.Marshal(h.Snapshot())
	return h.log.String() + string(b)
}

// say sends frames one after the other.
func say(frames ...string) func(*testing.T, *line) {
	return func(_ *testing.T, l *line) {
		for _, f := range frames {
			l.send(f)
		}
		synctest.Wait()
	}
}

// Odd ids are served, each under an id of its own that is safe in topics, and
// found again by it.
func TestOddClientIDs(t *testing.T) {
	ids := []string{
		"kitchen", "Kitchen", "KITCHEN", "kit/chen", "kit+chen", "kit#chen", "kit\x00chen", "kit\nchen", "kit chen",
		"küche", "🍳", "🍳🍳", "/", "+", "#", "\x00", "\n", " ", "$SYS/x", "homeassistant/status", "bridge", "group_a", "group_",
		"-a", "a-", "_a", "aa:bb:cc:dd:ee:ff", "AA:BB:CC:DD:EE:FF", strings.Repeat("x", 128), strings.Repeat("x", 127) + "y",
		strings.Repeat("é", 64), `"><script>`, "../../etc/passwd", "0",
	}
	safe := regexp.MustCompile(`^[a-z0-9][a-z0-9_-]*$`)
	bubble(t, func(t *testing.T) {
		h := newHouse(t)
		bystander := h.online("good")
		pids := map[string]string{}
		for i, id := range ids {
			s := h.speaker(id)
			if i%2 == 0 {
				s.announce()
			} else {
				s.dialIn()
			}
			synctest.Wait()
		}
		for _, p := range h.Snapshot().Players {
			if old, taken := pids[p.PID]; taken {
				t.Errorf("%q and %q share the id %s", old, p.ClientID, p.PID)
			}
			pids[p.PID] = p.ClientID
			if !safe.MatchString(p.PID) || len(p.PID) > 64 || reservedID(p.PID) {
				t.Errorf("client %q has the id %q, want one that is safe in topics", p.ClientID, p.PID)
			}
			if p.Connection != Connected {
				t.Errorf("client %q is %s, want connected: %s", p.ClientID, p.Connection, p.LastError)
			}
		}
		if got, want := len(pids), len(ids)+1; got != want {
			t.Errorf("%d players, want %d", got, want)
		}
		for pid := range pids {
			h.must(setVolume(pid, 9))
		}
		if got := h.edges("good"); got != "up1" || bystander.line(0).isOver() {
			t.Errorf("the other speaker: edges %q, want up1", got)
		}
	})
}

func FuzzPlayerID(f *testing.F) {
	f.Add("kitchen", "Kitchen")
	f.Add("a/b", "a+b")
	f.Add("\x00", "🍳")
	f.Add("bridge", "group_x")
	safe := regexp.MustCompile(`^[a-z0-9][a-z0-9_-]{0,63}$`)
	f.Fuzz(func(t *testing.T, a, b string) {
		pa := playerID(a, func(string) bool { return false })
		pb := playerID(b, func(id string) bool { return id == pa })
		for _, pid := range []string{pa, pb} {
			if !safe.MatchString(pid) || reservedID(pid) {
				t.Errorf("playerID made %q, want it safe in topics", pid)
			}
		}
		if pa == pb {
			t.Errorf("%q and %q share %q", a, b, pa)
		}
		if again := playerID(a, func(string) bool { return false }); again != pa {
			t.Errorf("playerID(%q) = %q, then %q", a, pa, again)
		}
	})
}

// A speaker that never says hello is given up after 10 s and tried again later,
// and does not hold up others.
func TestNeverHello(t *testing.T) {
	bubble(t, func(t *testing.T) {
		h := newHouse(t)
		s := h.speaker("mute")
		s.hello = ""
		s.announce()
		synctest.Wait()
		l := s.line(0)
		in := h.speaker("mute too")
		in.hello = ""
		lin := in.dialIn()
		pass(10*time.Second - time.Nanosecond)
		if l.isOver() || lin.isOver() {
			t.Errorf("over before 10 s: %v and %v", l.isOver(), lin.isOver())
		}
		pass(time.Nanosecond)
		if !l.isOver() || !lin.isOver() {
			t.Errorf("over after 10 s: %v and %v, want both", l.isOver(), lin.isOver())
		}
		if got := h.Snapshot().Unmet; len(got) != 1 || got[0].Connection != ConnectionProblem || !strings.Contains(got[0].Error, "hello") {
			t.Errorf("unmet %+v, want one with a reason", got)
		}
		s.set(func() { s.hello = fmt.Sprintf(playerHello, `"mute"`, `"Mute"`) })
		pass(2 * time.Minute)
		h.want("mute", Connected, true)
		if got := h.Snapshot().Unmet; len(got) != 0 {
			t.Errorf("unmet %+v, want none", got)
		}
	})
}

// A thousand connections that say nothing keep nobody out (races: B11).
func TestThousandSilentConnections(t *testing.T) {
	bubble(t, func(t *testing.T) {
		h := newHouse(t)
		silent := h.speaker("silent")
		silent.hello = ""
		for range maxProvisional + 100 {
			silent.dialIn()
		}
		pass(2*time.Second + time.Millisecond)
		s := h.speaker("kitchen")
		s.dialIn()
		synctest.Wait()
		h.want("kitchen", Connected, true)
		live, _, _ := silent.counts()
		if live > maxProvisional {
			t.Errorf("%d silent connections are kept, want %d at most", live, maxProvisional)
		}
		if got := len(h.pids()); got != 1 {
			t.Errorf("players %v, want one", h.pids())
		}
		pass(10 * time.Second)
		if live, _, _ := silent.counts(); live != 0 {
			t.Errorf("%d silent connections after 10 s, want none", live)
		}
	})
}

// Who can't be served is told what to do, by HTTP.
func TestServeHTTP(t *testing.T) {
	upgrade := map[string]string{
		"Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "13", "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
	}
	bubble(t, func(t *testing.T) {
		h := newHouse(t, func(o *Options) { o.Path = "/speakers" })
		for _, tc := range []struct {
			name, path string
			header     map[string]string
			origin     string
			code       int
			body       string
		}{
			{"another path", "/", upgrade, "", http.StatusNotFound, "/speakers (or /resonate)"},
			{"the default path where another is set", "/sendspin", upgrade, "", http.StatusNotFound, "/speakers"},
			{"no WebSocket", "/speakers", nil, "", http.StatusBadRequest, ""},
			{"a page from the internet", "/speakers", upgrade, "https://evil.example", http.StatusForbidden, ""},
			{"a page that pretends", "/speakers", upgrade, "https://localhost.evil.example", http.StatusForbidden, ""},
			{"an origin that is none", "/speakers", upgrade, "http://%zz", http.StatusForbidden, ""},
			{"a page of this host", "/speakers", upgrade, "http://bridge:8123", http.StatusSwitchingProtocols, ""},
			{"a page of the house", "/resonate", upgrade, "http://192.168.1.5:8123", http.StatusSwitchingProtocols, ""},
			{"a page by local name", "/resonate", upgrade, "http://homeassistant.local:8123", http.StatusSwitchingProtocols, ""},
			{"not a browser", "/speakers", upgrade, "", http.StatusSwitchingProtocols, ""},
		} {
			c, err := h.front.Dial(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			r := httptest.NewRequest(http.MethodGet, tc.path, nil)
			r.Host = "bridge:8927"
			for k, v := range tc.header {
				r.Header.Set(k, v)
			}
			if tc.origin != "" {
				r.Header.Set("Origin", tc.origin)
			}
			if err := r.Write(c); err != nil {
				t.Fatal(err)
			}
			resp, err := http.ReadResponse(bufio.NewReader(c), r)
			if err != nil {
				t.Fatalf("%s: %v", tc.name, err)
			}
			if resp.StatusCode != tc.code {
				t.Errorf("%s: got %s, want %d", tc.name, resp.Status, tc.code)
			}
			if tc.body != "" {
				if body, err := io.ReadAll(resp.Body); err != nil || !strings.Contains(string(body), tc.body) {
					t.Errorf("%s: got %q, %v; want %q in it", tc.name, body, err, tc.body)
				}
			}
			_ = resp.Body.Close()
			_ = c.Close()
			synctest.Wait() // the http.Server has let go of it
		}
		if got := h.pids(); len(got) != 0 {
			t.Errorf("players %v, want none", got)
		}
	})
}

// An endpoint without a path, or with one that no speaker has, is an address
// like any other.
func TestEndpointPaths(t *testing.T) {
	for _, path := range []string{"", "/", "/other?x=%2F", "/\x7f", "//"} {
		t.Run(strconv.Quote(path), func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				h := newHouse(t)
				good := h.online("good")
				s := h.speaker("kitchen")
				e := s.endpoint()
				e.Path = path
				h.Discover(discovery.Event{Kind: discovery.Announced, Endpoint: e})
				pass(time.Minute)
				if path == "/\x7f" { // no URL can have it
					if got := h.Snapshot().Unmet; len(got) != 1 || !strings.Contains(got[0].Error, "invalid control character") {
						t.Errorf("unmet %+v, want what is wrong with the address", got)
					}
				} else {
					h.want("kitchen", Connected, true)
				}
				if good.line(0).isOver() {
					t.Error("the good speaker was disturbed")
				}
			})
		})
	}
}

// What answers at an announced address need not be a speaker.
func TestNotASpeaker(t *testing.T) {
	bubble(t, func(t *testing.T) {
		h := newHouse(t)
		good := h.online("good")
		s := h.speaker("printer")
		s.hello = `{"type":"print","payload":{"pages":3}}`
		s.announce()
		pass(time.Hour)
		if got := h.Snapshot().Unmet; len(got) != 1 || !strings.Contains(got[0].Error, "print") {
			t.Errorf("unmet %+v, want what it said", got)
		}
		// It may be a speaker that still boots, so it is tried again, ever more rarely.
		if got := h.dialsTo(s.addr); got < 20 || got > 250 {
			t.Errorf("%d dials in an hour, want 20 to 250", got)
		}
		if good.line(0).isOver() {
			t.Error("the good speaker was disturbed")
		}
	})
}

// An address that takes the connection and does not answer holds up neither the
// next address nor the end of the server. The guard is in dial.WebSocket; without
// it both wait for the timeout of the upgrade, 5 s.
func TestSilentAddress(t *testing.T) {
	bubble(t, func(t *testing.T) {
		const silent = "203.0.113.1:8928"
		h := newHouse(t, func(o *Options) {
			dial := o.DialContext
			o.DialContext = func(ctx context.Context, network, addr string) (net.Conn, error) {
				if addr == silent {
					c, _ := pipe.New()
					return c, nil
				}
				return dial(ctx, network, addr)
			}
		})
		s := h.speaker("kitchen")
		both := s.endpoint()
		both.Addrs = append([]netip.AddrPort{netip.MustParseAddrPort(silent)}, both.Addrs...)
		h.Discover(discovery.Event{Kind: discovery.Announced, Endpoint: both})
		pass(2 * stagger)
		h.want("kitchen", Connected, true)

		alone := discovery.Endpoint{Key: "silent", Path: "/sendspin", Service: "_sendspin._tcp", Addrs: both.Addrs[:1]}
		h.Discover(discovery.Event{Kind: discovery.Announced, Endpoint: alone})
		pass(time.Second)
		began := time.Now()
		h.stop()
		if took := time.Since(began); took > 0 {
			t.Errorf("the server took %v to end, want no time", took)
		}
	})
}

// A panic in what the server's user gave it costs one attempt or one command.
// The guards are contain.Run in race and contain.Call in do; without them the
// process ends, or the speaker is never dialled again.
func TestPanicInOptions(t *testing.T) {
	for how, spoil := range map[string]func(){"panics": func() { panic("oh no") }, "ends its goroutine": runtime.Goexit} {
		t.Run(how, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				var bad atomic.Pointer[string] // address that spoils its dial
				h := newHouse(t, func(o *Options) {
					o.Rescan = func() { panic("oh no") }
					dial := o.DialContext
					o.DialContext = func(ctx context.Context, network, addr string) (net.Conn, error) {
						if b := bad.Load(); b != nil && *b == addr {
							spoil()
						}
						return dial(ctx, network, addr)
					}
				})
				h.online("bath")
				s := h.speaker("kitchen")
				bad.Store(&s.addr)
				s.announce()
				pass(time.Minute)
				unmet := h.Snapshot().Unmet
				if len(unmet) != 1 || !strings.Contains(unmet[0].Error, "a callback") {
					t.Errorf("got %+v, want an endpoint that says why", unmet)
				}
				h.mustFail(Scan{}, CodeInternal)
				h.want("bath", Connected, true)
				bad.Store(nil)
				pass(5 * time.Minute)
				h.want("kitchen", Connected, true)
			})
		})
	}
}
