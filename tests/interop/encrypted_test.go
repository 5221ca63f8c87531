package interop

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

const current = "10.2.1" // of aiosendspin

// sealed is one encrypted speaker, a process of aiosendspin, and what MQTT says
// of it.
type sealed struct {
	*peer
	h      *house
	who    string // for the table
	key    string // its client id
	token  string
	pid    string
	record string // file of what it hears
	way    way
	where  []string // "dial" and a URL, or "listen" and a port
	begin  func()   // starts it, again too
}

// next waits for the next event of this name after mark.
func (s *sealed) next(mark int, event string, ok func(map[string]any) bool) (ev map[string]any) {
	s.t.Helper()
	s.heard(mark, 15*time.Second, event, func(e map[string]any) bool {
		if e["event"] == event && (ok == nil || ok(e)) {
			ev = e
		}
		return ev != nil
	})
	return ev
}

func (s *sealed) topic(leaf string) string { return "resonate/player/" + s.pid + "/" + leaf }

// is waits for a scalar topic of the speaker.
func (s *sealed) is(leaf, want string) {
	s.t.Helper()
	s.h.is(s.topic(leaf), want, 15*time.Second)
}

// pairing is how the bridge says that pairing stands.
func (s *sealed) pairing(what string, ok func(step string, p map[string]any) bool) {
	s.t.Helper()
	s.h.until(15*time.Second, s.name+": "+what, func(topics map[string]string) bool {
		var doc struct{ Pairing map[string]any }
		_ = json.Unmarshal([]byte(topics[s.topic("state")]), &doc)
		return ok(fmt.Sprint(doc.Pairing["step"]), doc.Pairing)
	})
}

// admitted waits until the speaker says that the bridge came in by a credential.
func (s *sealed) admitted(mark int, category string) {
	s.t.Helper()
	s.next(mark, "open", func(e map[string]any) bool { return e["category"] == category })
}

// refuses wants a command to fail that the speaker must not get.
func (s *sealed) refuses(transaction string) {
	s.t.Helper()
	s.h.send(s.topic("set"), `{"volume": 20, "transaction": "`+transaction+`"}`)
	s.h.until(5*time.Second, s.name+" refuses a volume", func(topics map[string]string) bool {
		r := topics[s.topic("result")]
		return strings.Contains(r, transaction) && strings.Contains(r, `"error"`)
	})
}

// way is how the two find each other.
type way struct {
	name string
	args func(t *testing.T, b *bridge) []string // of the speaker
	find func(s *sealed)                        // when one of the two was started again

	version string // of aiosendspin; empty: current
}

func ways() []way {
	return []way{
		{
			name: "it dials",
			args: func(_ *testing.T, b *bridge) []string { return []string{"dial", "ws://" + b.listen + "/sendspin"} },
			find: func(s *sealed) { s.do("connect", nil) },
		},
		{
			name: "dialled",
			args: func(t *testing.T, _ *bridge) []string { t.Helper(); return []string{"listen", fmt.Sprint(freePort(t))} },
			find: func(s *sealed) {
				s.h.send("resonate/bridge/request/device/add", `{"url": "ws://127.0.0.1:`+s.where[1]+`/sendspin"}`)
			},
		},
	}
}

// appear starts an encrypted speaker and waits until MQTT lists it.
func appear(t *testing.T, w way, b *bridge, h *house, who, name string, env ...string) *sealed {
	t.Helper()
	dir, python := t.TempDir(), installed("aiosendspin-"+cmp.Or(w.version, current), "bin", "python")
	s := &sealed{h: h, way: w, who: who, record: filepath.Join(dir, "heard"), where: w.args(t, b)}
	s.begin = func() {
		s.peer = startPeer(t, name, slices.Concat([]string{"env"}, env, []string{"SPEAKER_RECORD=" + s.record, python, "peers/encrypted.py"}, s.where, []string{name, dir})...)
		if s.where[0] == "listen" {
			s.next(0, "listening", nil)
			s.way.find(s)
		}
	}
	s.begin()
	id := s.next(0, "id", nil)
	s.key, s.token = fmt.Sprint(id["id"]), fmt.Sprint(id["token"])
	h.until(20*time.Second, name+" is listed", func(topics map[string]string) bool {
		var devices []map[string]any
		_ = json.Unmarshal([]byte(topics["resonate/bridge/devices"]), &devices)
		for _, d := range devices {
			if d["client_id"] == s.key {
				s.pid = fmt.Sprint(d["id"])
			}
		}
		return s.pid != ""
	})
	return s
}

// playsNoise serves a file, and returns what plays it on a speaker and compares
// what that got.
func playsNoise(t *testing.T) func(*sealed) {
	t.Helper()
	wav, pcm := noise(3)
	web := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		http.ServeContent(w, r, "noise.wav", time.Time{}, bytes.NewReader(wav))
	}))
	t.Cleanup(web.Close)
	return func(s *sealed) {
		s.t.Helper()
		mark := s.mark()
		s.h.send(s.topic("set/play_url"), web.URL+"/noise.wav")
		s.next(mark, "stream_end", nil)
		got, err := os.ReadFile(s.record)
		if err != nil {
			s.t.Fatal(err)
		}
		if sum(got) != sum(pcm) {
			s.t.Errorf("%s: %d bytes with SHA-256 %s..., want %d with %s...", s.name, len(got), sum(got), len(pcm), sum(pcm))
		}
		s.is("playback", "idle")
	}
}

// TestOldEncryptedSpeaker lives with a speaker of before 1.0.0-rc1.
func TestOldEncryptedSpeaker(t *testing.T) {
	w := ways()[0]
	w.version = "9.1.1"
	needs(t, installed("aiosendspin-"+w.version, "bin", "python"))
	who := "aiosendspin " + w.version + ", encrypted, " + w.name
	m := startMosquitto(t)
	h := watch(t, m.url())
	b := startBridge(t, m.url(), "127.0.0.1", "RESONATE_DISCOVERY_ENABLED=false")
	h.is("resonate/bridge/state", "online", 10*time.Second)
	plays := playsNoise(t)
	s := appear(t, w, b, h, who, "Kitchen", "SPEAKER_OFFER=psk", "SPEAKER_UNPAIRED=1")
	s.is("trust", "unapproved")
	row(who, "appears, not approved; dialect "+sealedDialect(h, s.key))
	unpaired(t, s, plays)
	h.send(s.topic("set/pair"), s.token)
	s.is("trust", "paired")
	plays(s)
	row(who, "paired by token, the session goes on under the new key; plays, what it got is the file")
}

// TestEncryptedSpeakers lives with speakers of the current aiosendspin, which
// refuse plaintext, with both cipher suites and whoever opens the connection.
func TestEncryptedSpeakers(t *testing.T) {
	needs(t, installed("aiosendspin-"+current, "bin", "python"))
	plays := playsNoise(t)
	for _, w := range ways() {
		for _, suite := range []string{"chacha", "aesgcm"} {
			t.Run(w.name+" "+suite, func(t *testing.T) {
				who := fmt.Sprintf("aiosendspin %s, %s, %s", current, w.name, suite)
				m := startMosquitto(t)
				h := watch(t, m.url())
				b := startBridge(t, m.url(), "127.0.0.1", "RESONATE_DISCOVERY_ENABLED=false")
				h.is("resonate/bridge/state", "online", 10*time.Second)
				a := appear(t, w, b, h, who, "Kitchen", "SPEAKER_OFFER=digits,psk", "SPEAKER_UNPAIRED=1", "SPEAKER_SUITE="+suite)
				a.is("trust", "unapproved")
				a.is("connection", "approval_required")
				row(who, "appears, not approved; dialect "+sealedDialect(h, a.key))
				unpaired(t, a, plays)
				byCode(t, a)
				plays(a)
				row(who, "paired by a code of 6 digits after a wrong one, the session goes on under the new key; plays, what it got is the file")
				restarts(t, a, b)
				lost(t, a)
				plays(a)
				row(who, "its record lost: a mismatch, admitted by the Sentinel, commands refused; paired by token, plays again")

				s := appear(t, w, b, h, who, "Bath", "SPEAKER_OFFER=static", "SPEAKER_SUITE="+suite)
				s.is("connection", "pairing_required")
				mark := s.mark()
				h.send(s.topic("set/pair"), "1234-5678")
				s.next(mark, "gesture", func(e map[string]any) bool { return e["on"] == true })
				s.do("window", nil)
				s.is("trust", "paired")
				row(who, "paired by its fixed code, entered before its button was pressed")

				q := appear(t, w, b, h, who, "Hall", "SPEAKER_OFFER=qr", "SPEAKER_SUITE="+suite)
				q.is("connection", "pairing_required")
				mark = q.mark()
				h.send(q.topic("set/pair"), "PRESS")
				shown := q.next(mark, "qr", func(e map[string]any) bool { return e["token"] != nil })
				q.pairing("it wants what the QR code holds", func(step string, _ map[string]any) bool { return step == "code" })
				h.send(q.topic("set/pair"), fmt.Sprint(shown["token"]))
				q.is("trust", "paired")
				row(who, "paired by a QR code")

				together(t, a, plays, b)
				forget(t, a)
			})
		}
	}
}

// sealedDialect is what the bridge calls the dialect of a client.
func sealedDialect(h *house, key string) (dialect string) {
	var devices []map[string]any
	_ = json.Unmarshal([]byte(h.get("resonate/bridge/devices")), &devices)
	for _, d := range devices {
		if d["client_id"] == key {
			dialect = fmt.Sprint(d["dialect"])
		}
	}
	return dialect
}

// unpaired gives access to a speaker without pairing it, and takes it away.
func unpaired(t *testing.T, s *sealed, plays func(*sealed)) {
	t.Helper()
	h := s.h
	s.refuses("t-unapproved")
	h.send(s.topic("set/approve"), "ON")
	s.is("trust", "approved")
	s.is("connection", "connected")
	mark := s.mark()
	h.send(s.topic("set/volume"), "31")
	s.next(mark, "command", func(e map[string]any) bool { return e["volume"] == 31.0 })
	s.do("volume", 64)
	s.is("volume", "64")
	plays(s)
	h.send(s.topic("set/approve"), "OFF")
	s.is("trust", "unapproved")
	row(s.who, "approved without pairing: volume both ways, plays, what it got is the file; revoked")
	h.send(s.topic("set/approve"), "ON")
	s.is("trust", "approved")
}

// byCode pairs with a code that the speaker shows; the first that is entered is
// wrong.
func byCode(t *testing.T, s *sealed) {
	t.Helper()
	mark := s.mark()
	s.h.send(s.topic("set/pair"), "PRESS")
	shown := func(e map[string]any) bool { return e["code"] != nil }
	code := fmt.Sprint(s.next(mark, "code", shown)["code"])
	s.pairing("it wants the code", func(step string, p map[string]any) bool { return step == "code" && p["digits"] == 6.0 })
	wrong := "123456"
	if code == wrong {
		wrong = "123457"
	}
	mark = s.mark()
	s.h.send(s.topic("set/pair"), wrong)
	code = fmt.Sprint(s.next(mark, "code", shown)["code"])
	s.pairing("it wants the next code", func(step string, p map[string]any) bool { return step == "code" && p["round"] == 2.0 })
	mark = s.mark()
	s.h.send(s.topic("set/pair"), code[:3]+"-"+code[3:])
	s.is("trust", "paired")
	s.is("pairing", "done")
	s.admitted(mark, "long_term")
	s.is("connection", "connected")
}

// restarts ends and begins each side: the pairing stays.
func restarts(t *testing.T, s *sealed, b *bridge) {
	t.Helper()
	h := s.h
	s.do("stop", nil)
	<-s.done
	s.is("availability", "offline")
	s.begin()
	s.admitted(0, "long_term")
	s.is("availability", "online")
	s.is("trust", "paired")
	mark := s.mark()
	b.stop()
	s.next(mark, "close", nil)
	b.run()
	h.is("resonate/bridge/state", "online", 10*time.Second)
	mark = s.mark()
	s.way.find(s)
	s.admitted(mark, "long_term")
	s.is("connection", "connected")
	s.is("trust", "paired")
	row(s.who, "restart of the speaker and of the bridge: paired as before")
}

// lost takes the record from the speaker, and pairs again by token.
func lost(t *testing.T, s *sealed) {
	t.Helper()
	mark := s.mark()
	s.do("lose", nil)
	s.next(mark, "close", nil)
	if s.where[0] == "dial" {
		s.way.find(s)
	}
	s.admitted(mark, "sentinel")
	s.is("trust", "mismatch")
	s.refuses("t-mismatch")
	s.h.send(s.topic("set/pair"), s.token)
	s.is("trust", "paired")
	s.admitted(mark, "long_term")
	s.is("connection", "connected")
}

// together plays to the encrypted speaker and a plaintext one, on the same port.
func together(t *testing.T, s *sealed, plays func(*sealed), b *bridge) {
	t.Helper()
	k := js()
	if _, err := os.Stat(k.needs[1]); err != nil {
		t.Log("sendspin-js is not installed: no plaintext speaker beside the encrypted one")
		return
	}
	old := k.spawn(t, "ws://"+b.listen, "plain", "Plain")
	s.h.is("resonate/player/plain/availability", "online", 15*time.Second)
	s.h.is("resonate/player/plain/trust", "plaintext", 5*time.Second)
	s.h.send("resonate/player/plain/set/join", s.pid)
	s.h.until(5*time.Second, "both are one group", func(topics map[string]string) bool {
		return strings.Contains(topics["resonate/player/plain/state"], s.pid)
	})
	mark := old.mark()
	plays(s)
	old.heard(mark, time.Second, "it is told of a group that plays", func(e map[string]any) bool {
		return strings.Contains(fmt.Sprint(e), "playing")
	})
	row(s.who, "in one group with a plaintext speaker, on the same port: both play")
}

// forget drops the pairing on both sides.
func forget(t *testing.T, s *sealed) {
	t.Helper()
	mark := s.mark()
	s.h.send(s.topic("set/forget"), "PRESS")
	s.next(mark, "close", nil)
	s.do("records", nil)
	if got := s.next(mark, "records", nil); fmt.Sprint(got["servers"]) != "[]" {
		t.Errorf("%s: after Forget it keeps records of %v", s.name, got["servers"])
	}
	row(s.who, "forgotten: it was told to drop its record, too")
}
