package resonate

import (
	"crypto/rand"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"resonatebridge/resonate/internal/dialect"
	"resonatebridge/resonate/internal/noise"
	"resonatebridge/resonate/internal/sealtest"
	"resonatebridge/resonate/internal/secretfile"
	"resonatebridge/resonate/internal/session"
	"resonatebridge/resonate/pairing"
	"resonatebridge/resonate/protocol"
)

// sealed adds an encrypted player to the network. It listens, and does nothing
// else.
func (h *house) sealed(name string, set ...func(*sealtest.Speaker)) *speaker {
	h.t.Helper()
	x := sealtest.New(name)
	for _, f := range set {
		f(x)
	}
	s := h.speaker(name)
	s.id, s.sealed = x.ID(), x
	return s
}

// join announces it and waits until the server has it.
func (s *speaker) join() *sealtest.Conn {
	s.h.t.Helper()
	s.announce()
	synctest.Wait()
	return s.conn()
}

// conn is its newest connection.
func (s *speaker) conn() *sealtest.Conn { return s.line(-1).seal }

// pid is the id of its player.
func (s *speaker) pid() string {
	s.h.t.Helper()
	synctest.Wait()
	for _, p := range s.h.Snapshot().Players {
		if p.ClientID == s.id {
			return p.PID
		}
	}
	s.h.t.Fatalf("%s is not known; there are %v", s.sealed.Name, s.h.pids())
	return ""
}

// stands checks the trust and the connection of a player.
func (s *speaker) stands(trust Trust, c Connection) {
	s.h.t.Helper()
	if p := s.h.player(s.pid()); p.Trust != trust || p.Connection != c {
		s.h.t.Errorf("%s: got %s, %s; want %s, %s (%s)", p.Name, p.Trust, p.Connection, trust, c, p.LastError)
	}
}

func play(pid string) PlayMedia {
	return PlayMedia{Target: Target{PID: pid}, Items: []MediaItem{{URL: "tone:?frequency=440&seconds=60"}}}
}

func activation(t *testing.T, c *sealtest.Conn) protocol.ServerActivate {
	t.Helper()
	synctest.Wait()
	a, ok := sealtest.Last[protocol.ServerActivate](c)
	if !ok {
		t.Fatal("there was no activation")
	}
	return a
}

func TestSealedPlaysOnceApproved(t *testing.T) {
	for _, suite := range noise.Suites() {
		for _, inbound := range []bool{false, true} {
			t.Run(suite.String()+map[bool]string{false: ", dialled", true: ", dials in"}[inbound], func(t *testing.T) {
				bubble(t, func(t *testing.T) {
					h := newHouse(t)
					s := h.sealed("a", func(x *sealtest.Speaker) { x.Suite = suite })
					var c *sealtest.Conn
					if inbound {
						s.dialIn()
						synctest.Wait()
						c = s.conn()
					} else {
						c = s.join()
					}
					s.stands(TrustUnapproved, ApprovalRequired)
					pid := s.pid()
					if a := activation(t, c); len(a.Activities)+len(a.ActiveRoles) != 0 {
						t.Errorf("unapproved: activated %+v", a)
					}
					h.mustFail(setVolume(pid, 10), CodePairingRequired)
					h.mustFail(play(pid), CodePairingRequired)

					h.must(Approve{PID: pid, On: true})
					s.stands(TrustApproved, Connected)
					if a := activation(t, c); len(a.Activities) != 0 || !slices.Contains(a.ActiveRoles, protocol.RolePlayer) {
						t.Errorf("approved: activated %+v", a)
					}
					h.must(setVolume(pid, 10))
					if got := h.volume(pid); got != 10 || s.sealed.Volume != 10 {
						t.Errorf("volume %d here and %d there, want 10", got, s.sealed.Volume)
					}
					h.must(play(pid))
					pass(2 * time.Second)
					if a := activation(t, c); !a.Has(protocol.ActivityPlayback) {
						t.Errorf("playing: activated %+v", a)
					}
					chunks := sealtest.All[protocol.AudioChunk](c)
					if len(chunks) < 10 {
						t.Fatalf("got %d chunks in 2 s", len(chunks))
					}
					for _, x := range chunks {
						if x.SendAhead == 0 || len(x.Data) == 0 {
							t.Fatalf("a chunk of %d bytes, sent %d µs ahead", len(x.Data), x.SendAhead)
						}
					}
					h.must(Transport{Target: Target{PID: pid}, Action: ActionStop})
					pass(time.Second)
					if a := activation(t, c); len(a.Activities) != 0 {
						t.Errorf("stopped: activated %+v", a)
					}
				})
			})
		}
	}
}

// A stream ends before its role does, and no audio follows.
func TestApprovalIsWithdrawn(t *testing.T) {
	bubble(t, func(t *testing.T) {
		h := newHouse(t)
		s := h.sealed("a")
		c := s.join()
		pid := s.pid()
		h.must(Approve{PID: pid, On: true})
		h.must(play(pid))
		pass(time.Second)
		h.must(Approve{PID: pid, On: false})
		pass(time.Second)
		s.stands(TrustUnapproved, ApprovalRequired)
		if a := activation(t, c); len(a.Activities)+len(a.ActiveRoles) != 0 {
			t.Errorf("activated %+v", a)
		}
		got := c.Got()
		ends, last := 0, -1
		for i, m := range got {
			switch m := m.(type) {
			case protocol.StreamEnd:
				ends++
				last = i
			case protocol.ServerActivate:
				if len(m.ActiveRoles) == 0 && i > last && last >= 0 {
					last = i
				}
			case protocol.AudioChunk, protocol.StreamStart:
				if last >= 0 {
					t.Fatalf("message %d of %d is a %T, after the end", i, len(got), m)
				}
			}
		}
		if last < 0 {
			t.Fatal("the stream did not end")
		}
		if _, ok := got[last].(protocol.ServerActivate); ends != 1 || !ok {
			t.Errorf("%d ends of the stream; the last of those and activations is a %T", ends, got[last])
		}
		if c.Ended() != nil {
			t.Errorf("the connection ended: %v", c.Ended())
		}
	})
}

func TestApprovalOutlivesARestart(t *testing.T) {
	bubble(t, func(t *testing.T) {
		dir := t.TempDir()
		keep := func(o *Options) { o.DataDir = dir }
		h := newHouse(t, keep)
		s := h.sealed("a")
		s.join()
		pid, id := s.pid(), h.Identity().ID
		h.must(Approve{PID: pid, On: true})
		h.stop()

		h = newHouse(t, keep)
		again := h.sealed("a", func(x *sealtest.Speaker) { x.Identity = s.sealed.Identity })
		again.id = s.id
		c := again.join()
		if h.Identity().ID != id {
			t.Errorf("the server is %s, it was %s", h.Identity().ID, id)
		}
		again.stands(TrustApproved, Connected)
		if first := sealtest.All[protocol.ServerActivate](c)[0]; !slices.Contains(first.ActiveRoles, protocol.RolePlayer) {
			t.Errorf("the first activation is %+v", first)
		}
		if c.Category() != pairing.SentinelID {
			t.Errorf("category %s", c.Category())
		}
	})
}

func TestNoUnpairedAccess(t *testing.T) {
	bubble(t, func(t *testing.T) {
		h := newHouse(t)
		s := h.sealed("a", func(x *sealtest.Speaker) { x.Unpaired = false })
		c := s.join()
		s.stands(TrustUnapproved, PairingRequired)
		h.mustFail(Approve{PID: s.pid(), On: true}, CodeNotSupported)
		if c.Ended() != nil {
			t.Errorf("the connection ended: %v", c.Ended())
		}
	})
}

// pairing is the attempt of a player as people see it.
func (s *speaker) pairing() Pairing {
	s.h.t.Helper()
	p := s.h.player(s.pid()).Pairing
	if p == nil {
		s.h.t.Fatalf("%s was never paired", s.sealed.Name)
	}
	return *p
}

// paired checks that both sides have the same record, and that the connection
// uses it.
func (s *speaker) paired(c *sealtest.Conn) {
	s.h.t.Helper()
	s.stands(TrustPaired, Connected)
	if c.Category() != pairing.LongTerm || c.Ended() != nil {
		s.h.t.Errorf("the connection is keyed by %q and ended: %v", c.Category(), c.Ended())
	}
	ours, ok := s.h.keys.get(s.id)
	var theirs pairing.Record
	var there bool
	s.sealed.Set(func() { theirs, there = s.sealed.Book.Get(s.h.key.Public()) })
	if !ok || !there || !ours.PSK.Equal(theirs.PSK) {
		s.h.t.Errorf("a record here %v, there %v, equal %v", ok, there, ours.PSK.Equal(theirs.PSK))
	}
	if a := activation(s.h.t, c); !slices.Contains(a.ActiveRoles, protocol.RolePlayer) {
		s.h.t.Errorf("activated %+v", a)
	}
	if p := s.pairing(); p.Step != PairDone {
		s.h.t.Errorf("pairing: %+v", p)
	}
}

func dynamic(formats ...protocol.CodeFormat) func(*sealtest.Speaker) {
	return func(x *sealtest.Speaker) {
		x.Device.Dynamic = &protocol.DynamicCode{Channels: []protocol.CodeChannel{protocol.ChannelDisplay}, Formats: formats}
	}
}

func static(t *testing.T) (set func(*sealtest.Speaker), code string) {
	t.Helper()
	c, err := pairing.GenerateStaticCode(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return func(x *sealtest.Speaker) { x.Device.Static, x.Hold = c, "press the button" }, c.Reveal()
}

func TestPairByToken(t *testing.T) {
	bubble(t, func(t *testing.T) {
		h := newHouse(t)
		s := h.sealed("a", func(x *sealtest.Speaker) { x.Unpaired = false })
		c := s.join()
		pid := s.pid()
		h.mustFail(Pair{PID: pid}, CodeInvalidValue)
		h.mustFail(Pair{PID: pid, Secret: "SP:0AAAA"}, CodeInvalidValue)
		h.mustFail(Pair{PID: pid, Secret: Secret(sealtest.New("other").Token())}, CodeInvalidValue)
		h.mustFail(Pair{PID: pid, Method: protocol.PairByDynamicCode}, CodeNotSupported)
		h.must(Pair{PID: pid, Secret: Secret(s.sealed.Token())})
		s.paired(c)
		h.must(setVolume(pid, 7))
		if h.volume(pid) != 7 {
			t.Errorf("volume %d", h.volume(pid))
		}
	})
}

func TestPairByDynamicCode(t *testing.T) {
	for _, format := range []protocol.CodeFormat{protocol.CodeDigits, protocol.CodeQR} {
		t.Run(string(format), func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				h := newHouse(t)
				s := h.sealed("a", dynamic(format))
				c := s.join()
				pid := s.pid()
				h.must(Approve{PID: pid, On: true})
				h.mustFail(Pair{PID: pid, Secret: "123456"}, CodeInvalidValue) // there is none yet
				h.must(Pair{PID: pid})
				p := s.pairing()
				if p.Step != PairCode || p.Round != 1 || !p.WantsCode() || (p.Digits == 6) != (format == protocol.CodeDigits) {
					t.Fatalf("pairing: %+v", p)
				}
				s.stands(TrustApproved, Connected) // goes on playing meanwhile
				h.must(Pair{PID: pid, Secret: Secret(c.Code())})
				s.paired(c)
				h.must(Approve{PID: pid, On: false})
				h.mustFail(Approve{PID: pid, On: true}, CodeNotSupported)
			})
		})
	}
}

// A wrong code costs a round, and a malformed one nothing.
func TestWrongDynamicCode(t *testing.T) {
	bubble(t, func(t *testing.T) {
		h := newHouse(t)
		s := h.sealed("a", dynamic(protocol.CodeDigits))
		c := s.join()
		pid := s.pid()
		h.must(Pair{PID: pid})
		h.mustFail(Pair{PID: pid, Secret: "12"}, CodeInvalidValue)
		if p := s.pairing(); p.Round != 1 || p.Step != PairCode {
			t.Fatalf("pairing: %+v", p)
		}
		for round := 2; round <= 4; round++ {
			wrong := "000000"
			if c.Code() == "000-000" {
				wrong = "000001"
			}
			h.must(Pair{PID: pid, Secret: Secret(wrong)})
			if p := s.pairing(); p.Round != round || p.Step != PairCode {
				t.Fatalf("pairing: %+v, want round %d", p, round)
			}
		}
		h.must(Pair{PID: pid, Secret: Secret(c.Code())})
		s.paired(c)
	})
}

func TestPairByStaticCode(t *testing.T) {
	for _, early := range []bool{true, false} {
		t.Run(map[bool]string{true: "code first", false: "gesture first"}[early], func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				h := newHouse(t)
				set, code := static(t)
				s := h.sealed("a", set)
				c := s.join()
				pid := s.pid()
				if !early {
					if err := c.Gesture(); err != nil {
						t.Fatal(err)
					}
				}
				first := Secret("")
				if early {
					first = Secret(code)
				}
				h.must(Pair{PID: pid, Secret: first})
				if early {
					if p := s.pairing(); p.Step != PairHeld || p.Message != "press the button" || !p.WantsCode() {
						t.Fatalf("pairing: %+v", p)
					}
					if err := c.Gesture(); err != nil {
						t.Fatal(err)
					}
				} else {
					if p := s.pairing(); p.Step != PairCode || p.Digits != 8 {
						t.Fatalf("pairing: %+v", p)
					}
					h.must(Pair{PID: pid, Secret: Secret(code)})
				}
				s.paired(c)
			})
		})
	}
}

func TestPairingFails(t *testing.T) {
	for _, x := range []struct {
		name string
		do   func(h *house, s *speaker, c *sealtest.Conn)
		want string
		over bool // the connection ends
	}{
		{"cancelled here", func(h *house, s *speaker, _ *sealtest.Conn) {
			h.must(CancelPairing{PID: s.pid()})
		}, "was cancelled", false},
		{"cancelled there", func(h *house, _ *speaker, c *sealtest.Conn) {
			if err := c.Cancel(); err != nil {
				h.t.Error(err)
			}
		}, "cancelled at", false},
		{"no code", func(*house, *speaker, *sealtest.Conn) { pass(4 * time.Minute) }, "too long", false},
		{"another server", func(h *house, _ *speaker, c *sealtest.Conn) {
			if err := c.Send(protocol.PairAbort{Reason: protocol.AbortConcurrent}); err != nil {
				h.t.Error(err)
			}
		}, "another server", false},
		{"against the rules", func(h *house, _ *speaker, c *sealtest.Conn) {
			if err := c.Send(protocol.ClientPairRetry{}); err != nil {
				h.t.Error(err)
			}
		}, "did not keep to the rules", true},
		{"malformed", func(h *house, _ *speaker, c *sealtest.Conn) {
			if err := c.SendMessage([]byte("\x00" + `{"type":"client/pair-auth","payload":{"pake_msg_2":"short"}}`)); err != nil {
				h.t.Error(err)
			}
		}, "ended while it was paired", true},
		{"it goes", func(_ *house, s *speaker, _ *sealtest.Conn) { s.reset() }, "ended while it was paired", true},
	} {
		t.Run(x.name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				h := newHouse(t)
				s := h.sealed("a", dynamic(protocol.CodeDigits))
				c := s.join()
				h.must(Approve{PID: s.pid(), On: true})
				h.must(Pair{PID: s.pid()})
				x.do(h, s, c)
				synctest.Wait()
				if p := s.pairing(); p.Step != PairFailed || !strings.Contains(p.Error, x.want) {
					t.Errorf("pairing: %+v, want %q", p, x.want)
				}
				if _, ok := h.keys.get(s.id); ok {
					t.Error("there is a record")
				}
				if over := c.Ended() != nil; over != x.over {
					t.Errorf("the connection ended: %v", c.Ended())
				}
				if !x.over {
					if a := activation(t, c); a.Has(protocol.ActivityPairing) || len(a.ActiveRoles) == 0 {
						t.Errorf("activated %+v", a)
					}
				}
				pass(time.Minute)
				h.must(Pair{PID: s.pid()}) // and once more
				h.must(Pair{PID: s.pid(), Secret: Secret(s.conn().Code())})
				s.paired(s.conn())
			})
		})
	}
}

// The record is on the disk before the speaker hears that it is.
func TestPairingIsStoredFirst(t *testing.T) {
	bubble(t, func(t *testing.T) {
		dir := t.TempDir()
		full := errors.New("the disk is full")
		var fails atomic.Bool
		var s *speaker
		h := newHouse(t, func(o *Options) {
			o.DataDir = dir
			o.replaceFile = func(path string, data []byte) error {
				if filepath.Base(path) == pairingsFile {
					if _, told := sealtest.Last[protocol.ServerPairFinalize](s.conn()); told {
						t.Error("the speaker was told before")
					}
					if fails.Load() {
						return full
					}
				}
				return secretfile.Replace(path, data)
			}
		})
		s = h.sealed("a")
		c := s.join()
		fails.Store(true)
		h.must(Pair{PID: s.pid(), Secret: Secret(s.sealed.Token())})
		if p := s.pairing(); p.Step != PairFailed || !strings.Contains(p.Error, "disk is full") {
			t.Errorf("pairing: %+v", p)
		}
		s.stands(TrustUnapproved, ApprovalRequired)
		if c.Ended() != nil {
			t.Errorf("the connection ended: %v", c.Ended())
		}
		if len(h.Snapshot().Problems) == 0 {
			t.Error("nobody is told that the disk is full")
		}
		fails.Store(false)
		h.must(Pair{PID: s.pid(), Secret: Secret(s.sealed.Token())})
		s.paired(c)
		info, err := os.Stat(filepath.Join(dir, pairingsFile))
		if err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%v, %v", info, err)
		}
	})
}

func TestPairingOutlivesARestart(t *testing.T) {
	bubble(t, func(t *testing.T) {
		dir := t.TempDir()
		keep := func(o *Options) { o.DataDir = dir }
		h := newHouse(t, keep)
		s := h.sealed("a")
		s.join()
		h.must(Pair{PID: s.pid(), Secret: Secret(s.sealed.Token())})
		s.paired(s.conn())
		s.reset()
		pass(time.Minute)
		s.paired(s.conn()) // the speaker's own restart is no other
		h.stop()

		h = newHouse(t, keep)
		again := h.speaker("a")
		again.id, again.sealed = s.id, s.sealed
		c := again.join()
		again.stands(TrustPaired, Connected)
		if c.Category() != pairing.LongTerm {
			t.Errorf("category %s", c.Category())
		}
	})
}

// A damaged file is kept, and said; the speakers are strangers then.
func TestDamagedPairings(t *testing.T) {
	bubble(t, func(t *testing.T) {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, pairingsFile), []byte("{broken"), 0o600); err != nil {
			t.Fatal(err)
		}
		h := newHouse(t, func(o *Options) { o.DataDir = dir })
		if p := h.Snapshot().Problems; len(p) != 1 || !strings.Contains(p[0], pairingsFile) {
			t.Errorf("problems: %q", p)
		}
		aside, err := filepath.Glob(filepath.Join(dir, pairingsFile+".damaged-*"))
		if err != nil || len(aside) != 1 {
			t.Fatalf("%v, %v", aside, err)
		}
		if kept, err := os.ReadFile(aside[0]); err != nil || string(kept) != "{broken" {
			t.Errorf("%q, %v", kept, err)
		}
	})
}

// pair pairs a speaker by its token.
func (s *speaker) pair() {
	s.h.t.Helper()
	s.h.must(Pair{PID: s.pid(), Secret: Secret(s.sealed.Token())})
	s.paired(s.conn())
}

// A speaker that has lost its record is told apart, plays nothing, keeps the
// record here, and can be paired again.
func TestMismatch(t *testing.T) {
	bubble(t, func(t *testing.T) {
		h := newHouse(t)
		s := h.sealed("a", dynamic(protocol.CodeDigits))
		s.join()
		s.pair()
		s.sealed.Set(func() { s.sealed.Book = pairing.Book{} })
		s.reset()
		pass(time.Minute)
		s.stands(TrustMismatch, PairingRequired)
		c, pid := s.conn(), s.pid()
		if a := activation(t, c); len(a.Activities)+len(a.ActiveRoles) != 0 {
			t.Errorf("activated %+v", a)
		}
		h.mustFail(Approve{PID: pid, On: true}, CodeNotSupported)
		if _, ok := h.keys.get(s.id); !ok {
			t.Error("the record is gone")
		}
		h.must(Pair{PID: pid})
		h.must(Pair{PID: pid, Secret: Secret(c.Code())})
		s.paired(c)
	})
}

// Pairing once more leaves the old record in place until it is done.
func TestPairAgain(t *testing.T) {
	bubble(t, func(t *testing.T) {
		h := newHouse(t)
		s := h.sealed("a", dynamic(protocol.CodeDigits))
		c := s.join()
		s.pair()
		was, _ := h.keys.get(s.id)
		h.must(play(s.pid()))
		pass(time.Second)
		h.must(Pair{PID: s.pid()})
		if c.Category() != pairing.SentinelID {
			t.Errorf("category %s", c.Category())
		}
		h.must(CancelPairing{PID: s.pid()})
		pass(time.Second)
		if now, _ := h.keys.get(s.id); !now.PSK.Equal(was.PSK) || c.Category() != pairing.LongTerm {
			t.Errorf("after the attempt was cancelled: category %s, same key %v", c.Category(), now.PSK.Equal(was.PSK))
		}
		s.stands(TrustPaired, Connected)
		if a := activation(t, c); !a.Has(protocol.ActivityPlayback) {
			t.Errorf("activated %+v", a)
		}
		h.must(Pair{PID: s.pid()})
		h.must(Pair{PID: s.pid(), Secret: Secret(c.Code())})
		s.paired(c)
		if now, _ := h.keys.get(s.id); now.PSK.Equal(was.PSK) {
			t.Error("the key is the old one")
		}
		n := len(sealtest.All[protocol.AudioChunk](c))
		pass(time.Second)
		if more := len(sealtest.All[protocol.AudioChunk](c)) - n; more == 0 {
			t.Error("it does not play any more")
		}
	})
}

func TestWrongToken(t *testing.T) {
	bubble(t, func(t *testing.T) {
		h := newHouse(t)
		s := h.sealed("a")
		s.join()
		wrong := sealtest.New("b")
		token := wrong.Device.Token(s.sealed.Identity.Public()).Reveal() // its id, another key
		h.must(Pair{PID: s.pid(), Secret: Secret(token)})
		if p := s.pairing(); p.Step != PairFailed || !strings.Contains(p.Error, "token") {
			t.Errorf("pairing: %+v", p)
		}
		pass(time.Minute)
		s.pair()
	})
}

func TestForgetUnpairs(t *testing.T) {
	bubble(t, func(t *testing.T) {
		dir := t.TempDir()
		h := newHouse(t, func(o *Options) { o.DataDir = dir })
		s := h.sealed("a")
		c := s.join()
		s.pair()
		h.must(RemovePlayer{PID: s.pid()})
		if _, told := sealtest.Last[protocol.ServerUnpair](c); !told || s.sealed.Book.Len() != 0 {
			t.Errorf("told %v, %d records there", told, s.sealed.Book.Len())
		}
		if _, ok := h.keys.get(s.id); ok {
			t.Error("the record is still here")
		}
		file, err := os.ReadFile(filepath.Join(dir, pairingsFile))
		if err != nil || strings.Contains(string(file), s.id) {
			t.Errorf("%s, %v", file, err)
		}
		s.reannounce()
		pass(time.Minute)
		s.stands(TrustUnapproved, ApprovalRequired)
	})
}

// A speaker whose person unpairs it says so, and the record goes.
func TestSpeakerUnpairs(t *testing.T) {
	bubble(t, func(t *testing.T) {
		h := newHouse(t)
		s := h.sealed("a")
		c := s.join()
		h.must(Approve{PID: s.pid(), On: true}) // which pairing ends
		s.pair()
		s.sealed.Set(func() { s.sealed.Book = pairing.Book{} })
		if err := c.Send(protocol.ClientGoodbye{Reason: protocol.GoodbyeUnpaired}); err != nil {
			t.Fatal(err)
		}
		pass(time.Second)
		s.stands(TrustUnapproved, PairingRequired)
		if _, ok := h.keys.get(s.id); ok {
			t.Error("the record is still here")
		}
		pass(10 * time.Minute)
		if _, _, total := s.counts(); total != 1 {
			t.Errorf("%d connections, want 1: it waits for a person", total)
		}
		s.pair()
	})
}

// Who was paired and speaks unencrypted now is refused, whichever way it comes.
func TestDowngradeIsRefused(t *testing.T) {
	bubble(t, func(t *testing.T) {
		h := newHouse(t)
		s := h.sealed("a")
		s.join()
		s.pair()
		x := s.sealed
		s.set(func() {
			s.sealed = nil
			s.hello = fmt.Sprintf(playerHello, quoted(s.id), quoted("a"))
		})
		s.reset()
		pass(time.Minute)
		s.stands(TrustDowngraded, ConnectionProblem)
		if p := h.player(s.pid()); !strings.Contains(p.LastError, "forget it, or update it") {
			t.Errorf("last error %q", p.LastError)
		}
		l := s.dialIn()
		synctest.Wait()
		if !l.isOver() || l.closeCode() != 1008 {
			t.Errorf("over %v, code %d", l.isOver(), l.closeCode())
		}
		s.set(func() { s.sealed = x }) // updated
		s.reannounce()
		pass(time.Minute)
		s.stands(TrustPaired, Connected)
		s.set(func() { s.sealed = nil })
		s.reset()
		pass(time.Minute)
		h.must(RemovePlayer{PID: s.pid()}) // forgotten
		s.reannounce()
		pass(time.Minute)
		s.stands(TrustPlaintext, Connected)
	})
}

// Whoever proves an id has it, at once; whoever only claims it gets nothing.
func TestProvenIdentityReplaces(t *testing.T) {
	bubble(t, func(t *testing.T) {
		h := newHouse(t)
		s := h.sealed("a")
		old := s.join()
		pid := s.pid()
		x := s.sealed
		s.set(func() {
			s.sealed = nil
			s.hello = fmt.Sprintf(playerHello, quoted(s.id), quoted("impostor"))
		})
		impostor := s.dialIn()
		pass(5 * time.Second)
		if !impostor.isOver() || old.Ended() != nil {
			t.Errorf("the impostor is gone: %v; the speaker: %v", impostor.isOver(), old.Ended())
		}
		s.set(func() { s.sealed = x })
		s.dialIn()
		synctest.Wait()
		if old.Ended() == nil || s.conn().Ended() != nil {
			t.Errorf("the old one: %v, the new one: %v", old.Ended(), s.conn().Ended())
		}
		if got := h.edges(pid); got != "up1 down1 up2" {
			t.Errorf("edges: %s", got)
		}
	})
}

// A plaintext player and encrypted ones share a server.
func TestPlaintextRefusedByChoice(t *testing.T) {
	bubble(t, func(t *testing.T) {
		h := newHouse(t, func(o *Options) { o.RefusePlaintext = true })
		plain := h.speaker("plain")
		plain.announce()
		s := h.sealed("a")
		s.join()
		pass(time.Second)
		s.stands(TrustUnapproved, ApprovalRequired)
		if live, _, _ := plain.counts(); live != 0 {
			t.Errorf("%d plaintext connections", live)
		}
	})
}

// No secret is in the log, the snapshots or an error.
func TestSecretsStaySecret(t *testing.T) {
	bubble(t, func(t *testing.T) {
		var log journal
		h := newHouse(t, func(o *Options) {
			o.DataDir = t.TempDir()
			o.Log = slog.New(slog.NewJSONHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug}))
		})
		set, code := static(t)
		var seen strings.Builder
		look := func() {
			synctest.Wait()
			text, err := json.Marshal(h.Snapshot())
			if err != nil {
				t.Fatal(err)
			}
			fmt.Fprintf(&seen, "%s\n%+v\n", text, h.Snapshot())
			for _, p := range h.Snapshot().Players {
				fmt.Fprintf(&seen, "%+v %#v %+v\n", p, p, p.Pairing)
			}
		}
		ask := func(cmd Command) {
			_, err := h.Do(t.Context(), cmd)
			fmt.Fprintf(&seen, "%v %+v %#v\n", err, cmd, cmd)
			look()
		}
		a, b := h.sealed("a", dynamic(protocol.CodeDigits)), h.sealed("b", set)
		ca, cb := a.join(), b.join()
		other := sealtest.New("other").Token()
		ask(Pair{PID: a.pid(), Secret: Secret(other)})
		ask(Pair{PID: a.pid(), Method: protocol.PairByStaticCode, Secret: Secret(code)})
		ask(Pair{PID: a.pid()})
		dyn := ca.Code()
		ask(Pair{PID: a.pid(), Secret: Secret(strings.Repeat(dyn, 3))})
		ask(Pair{PID: a.pid(), Secret: Secret(dyn)})
		a.paired(ca)
		ask(Pair{PID: a.pid(), Secret: Secret(a.sealed.Token())})
		a.paired(ca)
		ask(Pair{PID: b.pid(), Secret: Secret(code)})
		if err := cb.Gesture(); err != nil {
			t.Fatal(err)
		}
		look()
		b.paired(cb)
		ask(RemovePlayer{PID: b.pid()})
		all := seen.String() + log.String()

		hide := map[string]string{
			"a token": other, "another": a.sealed.Token(), "the code on the label": code, "the code that was shown": dyn,
			"that code without its hyphen": strings.ReplaceAll(dyn, "-", ""), "the other": strings.ReplaceAll(code, "-", ""),
		}
		r, _ := h.keys.get(a.id)
		for name, raw := range map[string][]byte{
			"our private key": h.key.PrivateKey(), "its private key": a.sealed.Identity.PrivateKey(),
			"the pairing key": a.sealed.Device.PairingKey.Bytes(), "the long-term key": r.PSK.Bytes(),
		} {
			if len(raw) != 32 {
				t.Fatalf("%s has %d bytes", name, len(raw))
			}
			hide[name+" in base64url"] = base64.RawURLEncoding.EncodeToString(raw)
			hide[name+" in base64"] = base64.RawStdEncoding.EncodeToString(raw)
			hide[name+" in hex"] = hex.EncodeToString(raw)
			hide[name+" in decimal"] = strings.Trim(fmt.Sprintf("%d", raw), "[]")
		}
		for name, secret := range hide {
			if strings.Contains(all, secret) {
				t.Errorf("%s is shown", name)
			}
		}
		if !strings.Contains(all, a.id) || !strings.Contains(all, "paired") {
			t.Error("what is searched does not tell of the speakers at all")
		}
	})
}

// A client of the generation before 1.0.0-rc1 plays, is paired by its token,
// and is not by a code.
func TestOlderEncryptedSpeaker(t *testing.T) {
	bubble(t, func(t *testing.T) {
		h := newHouse(t)
		s := h.sealed("a", func(x *sealtest.Speaker) { x.Dialect = dialect.G1 })
		c := s.join()
		pid := s.pid()
		s.stands(TrustUnapproved, ApprovalRequired)
		h.must(Approve{PID: pid, On: true})
		h.must(play(pid))
		pass(time.Second)
		if n := len(sealtest.All[protocol.AudioChunk](c)); n < 10 {
			t.Errorf("%d chunks in a second", n)
		}
		h.mustFail(Pair{PID: pid, Method: protocol.PairByDynamicCode}, CodeNotSupported)
		h.must(Transport{Target: Target{PID: pid}, Action: ActionStop})
		pass(time.Second)
		s.pair()
		if n := len(sealtest.All[protocol.ServerHello](c)); n != 1+len(c.Rekeyed()) {
			t.Errorf("%d hellos and %d changes of keys", n, len(c.Rekeyed()))
		}
		h.must(play(pid))
		before := len(sealtest.All[protocol.AudioChunk](c))
		pass(2 * time.Second)
		if n := len(sealtest.All[protocol.AudioChunk](c)) - before; n < 10 {
			t.Errorf("paired: %d chunks in two seconds", n)
		}
	})
}

// One address may have only so much computed; others do not notice.
func TestHandshakeFlood(t *testing.T) {
	bubble(t, func(t *testing.T) {
		h := newHouse(t)
		at := func(ip byte) net.Addr {
			return net.TCPAddrFromAddrPort(netip.AddrPortFrom(netip.AddrFrom4([4]byte{203, 0, 113, ip}), 4000))
		}
		client := sealtest.New("a").Identity.Public()
		took, others := 0, 0
		for i := range 10_000 {
			if _, err := h.choose(client, at(1)); err == nil {
				took++
			} else if !errors.Is(err, session.ErrTurnedAway) {
				t.Fatal(err)
			}
			if i%50 == 0 { // somebody else, less often
				if _, err := h.choose(client, at(2)); err == nil {
					others++
				}
			}
			time.Sleep(6 * time.Millisecond)
		}
		if took > handshakeBurst+61*handshakeRate || took < handshakeBurst {
			t.Errorf("%d handshakes of 10,000 in a minute were taken", took)
		}
		if others != 200 {
			t.Errorf("of another address %d of 200", others)
		}
		for i := range 3 * strangersMax { // addresses are remembered within bounds
			_, _ = h.choose(client, net.TCPAddrFromAddrPort(netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)}), 4000)))
		}
		if n := len(h.strangers.by); n > strangersMax+1 {
			t.Errorf("%d addresses are remembered", n)
		}
		time.Sleep(time.Second) // of all that is beyond the bound, the share is one
		if _, err := h.choose(client, at(3)); err != nil {
			t.Errorf("another address right after: %v", err)
		}
		if _, err := h.choose(client, nil); err != nil { // whom we dial is not asked
			t.Error(err)
		}
		time.Sleep(2 * time.Minute)
		if _, err := h.choose(client, at(1)); err != nil {
			t.Errorf("after the flood: %v", err)
		}
	})
}

// A speaker that floods does not shut out its neighbours of the same IPv6
// network, and a host that changes its address again and again gets no more than
// the share of one network.
func TestHandshakeFloodIPv6(t *testing.T) {
	bubble(t, func(t *testing.T) {
		h := newHouse(t)
		client := sealtest.New("a").Identity.Public()
		took := func(network, host uint16) int {
			ip := netip.AddrFrom16([16]byte{0x20, 0x01, 0x0d, 0xb8, 0, 0, byte(network >> 8), byte(network), 0, 0, 0, 0, 0, 0, byte(host >> 8), byte(host)})
			if _, err := h.choose(client, net.TCPAddrFromAddrPort(netip.AddrPortFrom(ip, 4000))); err != nil {
				return 0
			}
			return 1
		}
		flood, others := 0, 0
		for i := range 10_000 {
			flood += took(1, 1)
			if i%50 == 0 {
				others += took(1, 2)
			}
			time.Sleep(6 * time.Millisecond)
		}
		if flood > handshakeBurst+61*handshakeRate || others != 200 {
			t.Errorf("%d of 10,000 of one address were taken, %d of 200 of its neighbour; want %d and all", flood, others, handshakeBurst+60*handshakeRate)
		}
		flood = 0
		for i := range 10_000 {
			flood += took(2, uint16(i)) //nolint:gosec // fits
		}
		if most := handshakeBurst * networkShare; flood > most {
			t.Errorf("%d of 10,000 addresses of one network were taken, want at most %d", flood, most)
		}
	})
}

// Encrypted and plaintext players, of all dialects, form one group.
func TestMixedGroup(t *testing.T) {
	bubble(t, func(t *testing.T) {
		h := newHouse(t)
		plain := h.online("plain")
		s := h.sealed("a")
		c := s.join()
		h.must(Approve{PID: s.pid(), On: true})
		h.must(SetPlayer{PID: s.pid(), Group: &GroupTarget{With: "plain"}})
		h.must(play("plain"))
		pass(2 * time.Second)
		left, stamps := plain.line(-1).frames(t)
		chunks := sealtest.All[protocol.AudioChunk](c)
		if len(left) == 0 || len(chunks) == 0 {
			t.Fatalf("%d samples and %d chunks", len(left), len(chunks))
		}
		both := 0
		for _, x := range chunks {
			if slices.Contains(stamps, int64(x.Timestamp)) {
				both++
			}
		}
		if both < len(chunks)/2 {
			t.Errorf("%d of %d chunks have the same time in both", both, len(chunks))
		}
	})
}

// A speaker that was forgotten while its record was written has none, neither
// the new one nor, where the disk is full, the one before.
func TestForgottenWhilePairing(t *testing.T) {
	for _, result := range []error{nil, errors.New("the disk is full")} {
		t.Run(fmt.Sprint(result), func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				var slow atomic.Bool
				h := newHouse(t, func(o *Options) {
					o.DataDir = t.TempDir()
					o.replaceFile = func(path string, data []byte) error {
						if filepath.Base(path) == pairingsFile && slow.CompareAndSwap(true, false) {
							time.Sleep(5 * time.Second)
							if result != nil {
								return result
							}
						}
						return secretfile.Replace(path, data)
					}
				})
				s := h.sealed("a")
				s.join()
				s.pair()
				slow.Store(true)
				h.must(Pair{PID: s.pid(), Secret: Secret(s.sealed.Token())})
				if p := s.pairing(); p.Step != PairStoring {
					t.Fatalf("pairing: %+v", p)
				}
				h.mustFail(CancelPairing{PID: s.pid()}, CodePairingFailed)
				h.must(RemovePlayer{PID: s.pid()})
				pass(10 * time.Second)
				if _, ok := h.keys.get(s.id); ok {
					t.Error("there is a record")
				}
				s.reannounce()
				pass(time.Second)
				s.stands(TrustUnapproved, ApprovalRequired)
			})
		})
	}
}

// A player that does not say how it is gets no sound and no commands.
func TestNothingBeforeItsState(t *testing.T) {
	bubble(t, func(t *testing.T) {
		h := newHouse(t)
		s := h.sealed("a", func(x *sealtest.Speaker) { x.Silent = true })
		c := s.join()
		h.must(Approve{PID: s.pid(), On: true})
		_, _ = h.Do(t.Context(), play(s.pid())) // to nobody
		pass(3 * time.Second)
		for _, m := range c.Got() {
			switch m.(type) {
			case protocol.StreamStart, protocol.AudioChunk, protocol.ServerCommand:
				t.Fatalf("it got a %T", m)
			}
		}
		s.sealed.Set(func() { s.sealed.Silent = false })
		h.must(Approve{PID: s.pid(), On: false})
		h.must(Approve{PID: s.pid(), On: true})
		h.must(play(s.pid()))
		pass(time.Second)
		if len(sealtest.All[protocol.AudioChunk](c)) == 0 {
			t.Error("it got no sound when it had said so")
		}
	})
}

// Who is not approved changes nothing, in whatever words of whatever dialect.
func TestStrangerHasNoSay(t *testing.T) {
	bubble(t, func(t *testing.T) {
		h := newHouse(t)
		h.online("plain")
		h.must(play("plain"))
		s := h.sealed("a")
		c := s.join()
		group, own, volume := h.player("plain").GroupID, h.player(s.pid()).GroupID, h.volume("plain")
		for _, m := range []string{
			`{"type":"group/join","payload":{"group_id":"` + group + `"}}`,
			`{"type":"client/command","payload":{"controller":{"command":"stop"}}}`,
			`{"type":"client/command","payload":{"controller":{"command":"switch"}}}`,
			`{"type":"client/command","payload":{"controller":{"command":"volume","volume":99}}}`,
			`{"type":"client/state","payload":{"available":true,"player":{"volume":3,"muted":true,"supported_commands":["volume"]}}}`,
			`{"type":"group/get-list","payload":{}}`,
			`{"type":"stream/request-format","payload":{"player":{"codec":"pcm"}}}`,
		} {
			if err := c.SendMessage([]byte("\x00" + m)); err != nil {
				t.Fatal(err)
			}
		}
		pass(time.Second)
		p := h.player(s.pid())
		if c.Ended() != nil || p.GroupID != own || h.player("plain").GroupID != group || p.Volume != nil || h.volume("plain") != volume || h.group("plain").Playback != Playing {
			t.Errorf("ended %v, group %s, volume %v; the other one has volume %d and is %s",
				c.Ended(), p.GroupID, p.Volume, h.volume("plain"), h.group("plain").Playback)
		}
	})
}

// A speaker that shuts strangers out waits for a person, and is paired then.
func TestUnpairedAccessIsTurnedOff(t *testing.T) {
	bubble(t, func(t *testing.T) {
		h := newHouse(t)
		s := h.sealed("a")
		c := s.join()
		h.must(Approve{PID: s.pid(), On: true})
		s.sealed.Set(func() { s.sealed.Unpaired = false })
		if err := c.Send(protocol.ClientGoodbye{Reason: protocol.GoodbyePairingRequired}); err != nil {
			t.Fatal(err)
		}
		pass(10 * time.Minute)
		if _, _, total := s.counts(); total != 1 {
			t.Errorf("%d connections, want 1", total)
		}
		if p := h.player(s.pid()); p.Connection != PairingRequired || p.Available {
			t.Errorf("got %s, available %v", p.Connection, p.Available)
		}
		h.must(Pair{PID: s.pid(), Secret: Secret(s.sealed.Token())})
		pass(time.Second)
		s.paired(s.conn())
	})
}

// Keys that wear out just as an attempt begins do not end it.
func TestKeysWearOutInFrontOfPairing(t *testing.T) {
	bubble(t, func(t *testing.T) {
		h := newHouse(t)
		s := h.sealed("a", dynamic(protocol.CodeDigits))
		c := s.join()
		l := h.link(s.id)
		h.post(nil, func() { // both in one turn of the loop: the activation waits for the keys
			_ = l.Rekey(pairing.Sentinel(), l.declared)
			if _, err := h.model.pair(Pair{PID: h.model.byID[s.id].rec.PID}); err != nil {
				t.Error(err)
			}
		})
		synctest.Wait()
		if p := s.pairing(); p.Step != PairCode || len(c.Rekeyed()) != 1 {
			t.Fatalf("pairing: %+v after %d changes of keys", p, len(c.Rekeyed()))
		}
		h.must(Pair{PID: s.pid(), Secret: Secret(c.Code())})
		s.paired(c)
	})
}

// link is the live link of a client.
func (h *house) link(id string) (l *link) {
	h.t.Helper()
	done := make(chan struct{})
	h.post(nil, func() { l = h.model.byID[id].link; close(done) })
	<-done
	return l
}
