package client

import (
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"resonatebridge/resonate/internal/dialect"
	"resonatebridge/resonate/internal/noise"
	"resonatebridge/resonate/pairing"
	"resonatebridge/resonate/protocol"
	"resonatebridge/tests/pipe"

	"github.com/gorilla/websocket"
)

// sealedPlayer listens in an encrypted dialect; what is not set is G2, with
// unpaired access and a memory that is forgotten.
func sealedPlayer(t *testing.T, o PlayerOptions) (*Player, *pipe.Listener) {
	t.Helper()
	if o.Dialect == "" {
		o.Dialect = "G2"
	}
	if o.Memory == nil {
		o.Memory = memory(t, "")
	}
	p, l, _ := listening(t, o)
	return p, l
}

// The player chooses the cipher suite.
func TestSealedSuite(t *testing.T) {
	for aes, want := range map[bool]noise.Suite{false: noise.ChaChaPoly, true: noise.AESGCM} {
		bubble(t, func(t *testing.T) {
			_, l := sealedPlayer(t, PlayerOptions{Unpaired: true, AESGCM: aes})
			s := open(t, l, newIdentity(t), pairing.Sentinel())
			if got := s.channel.Suite; got != want {
				t.Errorf("AESGCM %v: got %v, want %v", aes, got, want)
			}
			s.activate(playing)
			expect[protocol.ClientState](s) // it works
		})
	}
}

// A server plays, changes its mind about the roles, and is obeyed.
func TestSealedPlayer(t *testing.T) {
	for _, name := range dialect.Encrypted() {
		t.Run(string(name), func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				v := 40
				p, l := sealedPlayer(t, PlayerOptions{Dialect: string(name), Unpaired: true, Volume: &v, Name: "Kitchen"})
				s := open(t, l, newIdentity(t), pairing.Sentinel())
				if s.hello.Name != "Kitchen" || !s.hello.Trust.Unpaired || s.hello.Trust.Methods.PSK == nil || s.wire.Name() != name {
					t.Errorf("hello: got %+v as %s", s.hello, s.wire.Name())
				}
				if err := p.SetVolume(t.Context(), 60); err != nil { // is told once there is a first report
					t.Fatal(err)
				}
				s.activate(playing)
				st := expect[protocol.ClientState](s)
				if st.Available == nil || !*st.Available || st.Player == nil || st.Player.Volume == nil || *st.Player.Volume != 60 {
					t.Errorf("first report: got %+v", st)
				}
				if s.times < 16 {
					t.Errorf("first report after %d questions for the time, want two bursts before", s.times)
				}
				s.send(protocol.ServerCommand{Command: protocol.CommandVolume, Volume: 25})
				if st := expect[protocol.ClientState](s); *st.Player.Volume != 25 {
					t.Errorf("volume after a command: got %d, want 25", *st.Player.Volume)
				}
				title := strings.Repeat("long ", 30_000) // needs fragments
				s.send(
					protocol.GroupUpdate{PlaybackState: protocol.PlaybackPlaying, GroupID: "g", GroupName: "Den"},
					protocol.ServerState{Metadata: &protocol.Metadata{Title: title}, Controller: &protocol.ControllerState{Volume: 30}},
					protocol.StreamStart{Player: &protocol.StreamPlayer{Format: protocol.Format{Codec: "pcm", Channels: 2, SampleRate: 48000, BitDepth: 16}}},
					protocol.AudioChunk{Timestamp: s.clock() + 500_000, SendAhead: 500_000, Data: make([]byte, 3840)},
				)
				expect[protocol.ClientState](s) // that it plays, which R1 wants to know
				pass(time.Second)
				now := p.Snapshot()
				if now.Stream == nil || now.Audio.Played != 1 || now.Group.GroupID != "g" || now.Metadata == nil || now.Metadata.Title != title || now.Controller == nil {
					t.Errorf("playing: got %+v", now)
				}
				if now.Reason != protocol.ReasonPlayback || now.Paired || now.ServerName != "House" || now.LastPlayed != now.ServerID || len(now.ServerID) != 43 {
					t.Errorf("server: got %+v", now)
				}
				for _, m := range []protocol.Metadata{ // one waits at a time; the newest
					{Timestamp: s.clock() + 1_000_000, Title: "never"},
					{Timestamp: s.clock() + 3_000_000, Title: "next"},
				} {
					s.send(protocol.ServerState{Metadata: &m})
				}
				pass(2900 * time.Millisecond)
				if now = p.Snapshot(); now.Metadata.Title != title {
					t.Errorf("before its time the title is %.20s", now.Metadata.Title)
				}
				pass(200 * time.Millisecond)
				if now = p.Snapshot(); now.Metadata.Title != "next" {
					t.Errorf("in its time the title is %.20s", now.Metadata.Title)
				}
				s.send(protocol.ServerState{Metadata: &protocol.Metadata{Timestamp: s.clock() + 500_000, Title: "of a role that goes"}})
				s.activate(protocol.ServerActivate{ActiveRoles: []protocol.Role{protocol.RoleController}})
				s.send(protocol.ServerCommand{Command: protocol.CommandVolume, Volume: 99}) // for a role that it has no more
				pass(time.Second)
				if now = p.Snapshot(); now.Stream != nil || now.Metadata != nil || now.Controller == nil || now.Volume != 25 {
					t.Errorf("without the player's role: got %+v", now)
				}
				s.activate(playing)
				if st := expect[protocol.ClientState](s); st.Player == nil || *st.Player.Volume != 25 {
					t.Errorf("role again: got %+v", st)
				}
				if err := p.Goodbye(t.Context(), protocol.GoodbyeUserRequest); err != nil {
					t.Fatal(err)
				}
				if got, want := s.rest(), "protocol.ClientGoodbye{Reason:user_request} close user_request"; got != want {
					t.Errorf("got %s, want %s", got, want)
				}
			})
		})
	}
}

var digits = protocol.PairingChoice{Method: protocol.PairByDynamicCode, Format: protocol.CodeDigits}

// shows are players that offer one way of pairing each.
var display = &protocol.DynamicCode{Channels: []protocol.CodeChannel{protocol.ChannelDisplay}, Formats: []protocol.CodeFormat{protocol.CodeDigits, protocol.CodeQR}}

// TestPairing pairs in each way, goes on under the new key, comes back with it
// after a restart of the player, and is thrown out.
func TestPairing(t *testing.T) {
	static, err := pairing.ParseStaticCode("1234-5678")
	if err != nil {
		t.Fatal(err)
	}
	for _, row := range []struct {
		name   string
		opts   PlayerOptions
		choice protocol.PairingChoice
		wrong  int // rounds with a wrong code
	}{
		{"token", PlayerOptions{}, protocol.PairingChoice{Method: protocol.PairByPSK}, 0},
		{"token in G1", PlayerOptions{Dialect: "G1"}, protocol.PairingChoice{Method: protocol.PairByPSK}, 0},
		{"digits", PlayerOptions{Dynamic: display}, digits, 0},
		{"digits at the third try", PlayerOptions{Dynamic: display}, digits, 2},
		{"QR code", PlayerOptions{Dynamic: display}, protocol.PairingChoice{Method: protocol.PairByDynamicCode, Format: protocol.CodeQR}, 0},
		{"static", PlayerOptions{Static: static}, protocol.PairingChoice{Method: protocol.PairByStaticCode}, 0},
	} {
		t.Run(row.name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				dir := t.TempDir()
				o := row.opts
				o.Memory = memory(t, dir)
				if o.Dialect == "" {
					o.Dialect = "G2"
				}
				p, l, stop := listening(t, o)
				server := newIdentity(t)
				first := pairing.Sentinel()
				if row.choice.Method == protocol.PairByPSK {
					first = o.Memory.Token().Credential()
				}
				s := open(t, l, server, first)
				if row.choice.Method == protocol.PairByStaticCode {
					if err := p.Gesture(t.Context()); err != nil {
						t.Fatal(err)
					}
				}
				c := s.pair(row.choice, first.PSK, func(round uint32) string {
					synctest.Wait()
					switch {
					case int(round) <= row.wrong:
						return "000-000"
					case !o.Static.IsZero():
						return "12345678"
					}
					st := p.Snapshot().Pairing
					if st.Phase != pairing.PhaseCode || st.Round != round {
						t.Errorf("round %d: the player shows round %d, %s", round, st.Round, st.Phase)
					}
					return st.Code.Reveal()
				})
				if err := s.rekey(c); err != nil {
					t.Fatal(err)
				}
				s.activate(playing)
				expect[protocol.ClientState](s)
				if st := p.Snapshot(); !st.Paired || st.Pairing.Phase != pairing.PhaseDone {
					t.Errorf("after the change of keys: got %+v", st)
				}

				s.send(protocol.ServerCommand{Command: protocol.CommandVolume, Volume: 31})
				s.send(protocol.ServerCommand{Command: protocol.CommandSetOutputDelay, OutputDelayMs: 70})
				expect[protocol.ClientState](s)
				expect[protocol.ClientState](s)
				if err := stop(); err != nil {
					t.Fatal(err)
				}
				o.Memory, o.Listener = memory(t, dir), nil
				p, l, _ = listening(t, o)
				s = open(t, l, server, c)
				if s.channel.Mismatch || s.channel.Peer != o.Memory.identity.Public() {
					t.Errorf("after a restart: got %+v", s.channel)
				}
				s.activate(idle)
				pass(time.Second)
				if st := p.Snapshot(); !st.Paired || st.LastPlayed != server.ID() || st.Volume != 31 || st.OutputDelay != 70*time.Millisecond {
					t.Errorf("after a restart: got %+v", st)
				}
				s.send(protocol.ServerUnpair{})
				if got, want := s.rest(), "protocol.ClientGoodbye{Reason:unpaired} close unpaired"; got != want {
					t.Errorf("got %s, want %s", got, want)
				}
				if s = knock(t, l, server, c); row.opts.Dialect == "G1" {
					if s.failed == nil {
						t.Error("G1 took a key that is not there")
					}
				} else if s.failed != nil || !s.channel.Mismatch || s.channel.Category != pairing.SentinelID {
					t.Errorf("unpaired: got %+v, %v, want the Sentinel in place of the key", s.channel, s.failed)
				}
			})
		})
	}
}

// TestPairingIsHeldBack: a static code waits for a person, and a wrong one ends
// the attempt.
func TestPairingIsHeldBack(t *testing.T) {
	bubble(t, func(t *testing.T) {
		static, err := pairing.ParseStaticCode("12345678")
		if err != nil {
			t.Fatal(err)
		}
		p, l := sealedPlayer(t, PlayerOptions{Static: static})
		s := open(t, l, newIdentity(t), pairing.Sentinel())
		time.AfterFunc(time.Minute, func() {
			if st := p.Snapshot().Pairing; st.Phase != pairing.PhasePending {
				t.Errorf("before the gesture: got %s", st.Phase)
			}
			if err := p.Gesture(t.Context()); err != nil {
				t.Error(err)
			}
		})
		before := time.Now()
		c := s.pair(protocol.PairingChoice{Method: protocol.PairByStaticCode}, protocol.PSK{}, func(uint32) string { return "87654321" })
		if waited := time.Since(before); waited < time.Minute || !c.PSK.IsZero() {
			t.Errorf("got %v after %v, want no key, after a minute", c, waited)
		}
		if _, ok := s.got[0].(protocol.ClientPairPending); !ok {
			t.Errorf("got %+v first, want that it waits", s.got)
		}
		if got := s.pairing.Status().Ended; got != pairing.End(protocol.AbortCodeMismatch) {
			t.Errorf("got %s, want a wrong code", got)
		}
	})
}

// TestAttemptThatEnds leaves nothing: the key is kept only after the server
// has said that it keeps it.
func TestAttemptThatEnds(t *testing.T) {
	for _, row := range []struct {
		name string
		end  func(*vault, *Player)
		want string // from pair-finalize on
	}{
		{"by an activation instead", func(v *vault, _ *Player) { v.activate(idle) }, "[]"},
		{"by time", func(*vault, *Player) {}, "[{Reason:attempt_timeout}]"},
		{"by a person", func(v *vault, p *Player) {
			if err := p.CancelPairing(v.t.Context()); err != nil {
				v.t.Error(err)
			}
		}, "[{Reason:user_cancelled}]"},
	} {
		t.Run(row.name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				m := memory(t, "")
				p, l := sealedPlayer(t, PlayerOptions{Memory: m})
				s := open(t, l, newIdentity(t), m.Token().Credential())
				s.activate(protocol.ServerActivate{Activities: []protocol.Activity{protocol.ActivityPairing}, Pairing: &protocol.PairingChoice{Method: protocol.PairByPSK}})
				expect[protocol.ClientPairFinalize](s)
				row.end(s, p)
				if got := s.quiet(3 * time.Minute); got != row.want {
					t.Errorf("got %s, want %s", got, row.want)
				}
				s.send(protocol.ServerPairFinalize{}) // too late
				synctest.Wait()
				if n := m.book.Len(); n != 0 {
					t.Errorf("got %d records, want none", n)
				}
			})
		})
	}
}

// TestActivationsRefused: who may not what, in the order of the protocol.
func TestActivationsRefused(t *testing.T) {
	byToken := protocol.PairingChoice{Method: protocol.PairByPSK}
	both := []protocol.Activity{protocol.ActivityPlayback, protocol.ActivityPairing}
	for _, row := range []struct {
		name     string
		unpaired bool
		m        protocol.ServerActivate
		want     string
	}{
		{"playback, unpaired access off", false, playing, "protocol.ClientGoodbye{Reason:pairing_required} close pairing_required"},
		{"roles, unpaired access off", false, protocol.ServerActivate{ActiveRoles: playing.ActiveRoles}, "protocol.ClientGoodbye{Reason:pairing_required} close pairing_required"},
		{"more than unpaired access", false, protocol.ServerActivate{Activities: both, Pairing: &byToken}, "protocol.ClientGoodbye{Reason:unauthorized} close unauthorized"},
		{"a token without its key", true, protocol.ServerActivate{Activities: both, ActiveRoles: playing.ActiveRoles, Pairing: &byToken}, "stays protocol.PairAbort{Reason:method_not_supported}"},
		{"a code that it has not", false, protocol.ServerActivate{Activities: both[1:], Pairing: &protocol.PairingChoice{Method: protocol.PairByStaticCode}}, "stays protocol.PairAbort{Reason:method_not_supported}"},
	} {
		t.Run(row.name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				p, l := sealedPlayer(t, PlayerOptions{Unpaired: row.unpaired, Dynamic: display})
				s := open(t, l, newIdentity(t), pairing.Sentinel())
				s.activate(row.m)
				if want, stays := strings.CutPrefix(row.want, "stays "); stays {
					if m := s.next(); fmt.Sprintf("%T%+v", m, m) != want {
						t.Errorf("got %T%+v, want %s", m, m, want)
					}
					if !p.Snapshot().Connected {
						t.Error("not connected any more")
					}
					return
				}
				if got := s.rest(); got != row.want {
					t.Errorf("got %s, want %s", got, row.want)
				}
				if p.Snapshot().Sessions != 0 {
					t.Error("it was admitted")
				}
			})
		})
	}
}

// TestSilence: before the first activation, and from a change of keys to the
// next one, the player says nothing, whatever happens.
func TestSilence(t *testing.T) {
	bubble(t, func(t *testing.T) {
		p, l := sealedPlayer(t, PlayerOptions{Unpaired: true})
		s := open(t, l, newIdentity(t), pairing.Sentinel())
		if got := s.quiet(20 * time.Second); got != "[]" || s.times != 0 {
			t.Errorf("before the activation: got %s and %d questions for the time", got, s.times)
		}
		server := newIdentity(t)
		changed := func() *vault {
			s := open(t, l, server, pairing.Sentinel())
			s.activate(playing)
			expect[protocol.ClientState](s)
			if err := s.rekey(pairing.Sentinel()); err != nil {
				t.Fatal(err)
			}
			s.times = 0
			return s
		}
		s = changed()
		if err := p.SetVolume(t.Context(), 5); err != nil {
			t.Fatal(err)
		}
		if got := s.quiet(20 * time.Second); got != "[]" || s.times != 0 {
			t.Errorf("between two keys: got %s and %d questions for the time", got, s.times)
		}
		s = changed()
		if err := p.SetVolume(t.Context(), 7); err != nil {
			t.Fatal(err)
		}
		s.activate(playing)
		if st := expect[protocol.ClientState](s); *st.Player.Volume != 7 {
			t.Errorf("after the activation: got volume %d, want 7", *st.Player.Volume)
		}
	})
}

// TestNoTimeWhilePairing: servers of G1 take a question for the time that
// crosses their change of keys for an error.
func TestNoTimeWhilePairing(t *testing.T) {
	for _, name := range dialect.Encrypted() {
		bubble(t, func(t *testing.T) {
			m := memory(t, "")
			_, l := sealedPlayer(t, PlayerOptions{Dialect: string(name), Memory: m})
			s := open(t, l, newIdentity(t), m.Token().Credential())
			s.activate(protocol.ServerActivate{Activities: []protocol.Activity{protocol.ActivityPairing}, Pairing: &protocol.PairingChoice{Method: protocol.PairByPSK}})
			expect[protocol.ClientPairFinalize](s)
			s.times = 0
			s.quiet(20 * time.Second)
			if (s.times == 0) != (name == dialect.G1) {
				t.Errorf("%s: %d questions for the time while it pairs", name, s.times)
			}
		})
	}
}

// TestServersThatBreakTheRules are left without a word.
func TestServersThatBreakTheRules(t *testing.T) {
	for _, row := range []struct {
		name string
		do   func(*vault)
		want string // part of the player's reason
	}{
		{"a message before the activation", func(v *vault) { v.send(protocol.GroupUpdate{GroupID: "g"}) }, "before its activation"},
		{"an unknown one before the activation", func(v *vault) { v.frame(dialect.Frame{Data: []byte(`{"type":"server/x","payload":{}}`)}) }, "before its activation"},
		{"an activation without activities", func(v *vault) { v.frame(dialect.Frame{Data: []byte(`{"type":"server/activate","payload":{}}`)}) }, "activities"},
		{"no activation", func(*vault) {}, "no activation within 30s"},
		{"no activation after a change of keys", func(v *vault) {
			v.activate(idle)
			if err := v.rekey(pairing.Sentinel()); err != nil {
				v.t.Error(err)
			}
		}, "no activation within 30s"},
		{"a change of keys before the activation", func(v *vault) { _ = v.rekey(pairing.Sentinel()) }, "before its activation"},
		{"a change to keys that are not there", func(v *vault) {
			v.activate(idle)
			_ = v.rekey(pairing.Credential{PSK: pairing.Sentinel().PSK, Category: pairing.LongTerm})
		}, "not here"},
		{"a message in the clear", func(v *vault) {
			v.raw(websocket.TextMessage, []byte(`{"type":"server/activate","payload":{"activities":[]}}`))
		}, "in the clear"},
		{"a forged frame", func(v *vault) { v.raw(websocket.BinaryMessage, make([]byte, 64)) }, "forged"},
		{"a pairing message that is malformed", func(v *vault) {
			v.activate(idle)
			v.frame(dialect.Frame{Data: []byte(`{"type":"server/pair-auth","payload":{}}`)})
		}, "pake_msg_1"},
	} {
		t.Run(row.name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				l, ended := lone(t, nil)
				s := open(t, l, newIdentity(t), pairing.Sentinel())
				row.do(s)
				if got := s.rest(); got != "cut" {
					t.Errorf("got %s, want the end without a word", got)
				}
				if err := <-ended; err == nil || !strings.Contains(err.Error(), row.want) {
					t.Errorf("got %v, want %q", err, row.want)
				}
			})
		})
	}
}

// TestPairingOutOfTurn: a message that has no place in an attempt ends the
// connection.
func TestPairingOutOfTurn(t *testing.T) {
	bubble(t, func(t *testing.T) {
		p, l := sealedPlayer(t, PlayerOptions{})
		s := open(t, l, newIdentity(t), pairing.Sentinel())
		s.activate(idle)
		s.send(protocol.ServerPairAuth{})
		if got := s.rest(); got != "cut" {
			t.Errorf("got %s, want the end without a word", got)
		}
		synctest.Wait()
		if st := p.Snapshot(); st.Connected || st.LastError != ErrClosed.Error() {
			t.Errorf("got %+v", st)
		}
	})
}

// TestGoodbyeAtAnActivation: a goodbye arrives also if the reader waits for the
// writer at that moment.
func TestGoodbyeAtAnActivation(t *testing.T) {
	for range 50 {
		bubble(t, func(t *testing.T) {
			l, ended := lone(t, func(s *Session, m protocol.ServerMessage) {
				if _, ok := m.(protocol.ServerActivate); ok {
					s.Close(protocol.GoodbyeRestart)
				}
			})
			s := open(t, l, newIdentity(t), pairing.Sentinel())
			for range 5 {
				s.activate(idle)
			}
			if got, want := s.rest(), "protocol.ClientGoodbye{Reason:restart} close restart"; got != want {
				t.Fatalf("got %s, want %s", got, want)
			}
			if err := <-ended; !errors.Is(err, ErrClosed) {
				t.Errorf("ended with %v", err)
			}
		})
	}
}

// TestSealedArbitration has two servers and one player.
func TestSealedArbitration(t *testing.T) {
	pairs := protocol.ServerActivate{Activities: []protocol.Activity{protocol.ActivityPairing}, ActiveRoles: []protocol.Role{}, Pairing: &digits}
	for _, row := range []struct {
		name          string
		first, second protocol.ServerActivate
		one, two      string // how it ends for each; "" stays
	}{
		{"playback takes it", idle, playing, "protocol.ClientGoodbye{Reason:another_server} close another_server", ""},
		{"idle does not", playing, idle, "", "protocol.ClientGoodbye{Reason:concurrent_attempt} close concurrent_attempt"},
		{"pairing takes it", idle, pairs, "protocol.ClientGoodbye{Reason:another_server} close another_server", ""},
		{"pairing does not", playing, pairs, "", "protocol.PairAbort{Reason:concurrent_attempt} close "},
		{"playback does not break an attempt", pairs, playing, "", "protocol.ClientGoodbye{Reason:concurrent_attempt} close concurrent_attempt"},
	} {
		t.Run(row.name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				p, l := sealedPlayer(t, PlayerOptions{Unpaired: true, Dynamic: display})
				ids := []pairing.Identity{newIdentity(t), newIdentity(t)}
				one := open(t, l, ids[0], pairing.Sentinel())
				one.activate(row.first)
				if row.first.Pairing != nil {
					expect[protocol.ClientPairInit](one)
				}
				synctest.Wait()
				two := open(t, l, ids[1], pairing.Sentinel())
				two.activate(row.second)
				holder := ids[0]
				if row.one != "" {
					holder = ids[1]
					if got := one.rest(); got != row.one {
						t.Errorf("the first: got %s, want %s", got, row.one)
					}
				}
				if row.two != "" {
					if got := two.rest(); got != row.two {
						t.Errorf("the second: got %s, want %s", got, row.two)
					}
				}
				synctest.Wait()
				if st := p.Snapshot(); st.ServerID != holder.ID() || !st.Connected {
					t.Errorf("got %+v, want it with %s", st, holder.ID())
				}
			})
		})
	}
}

func TestMemory(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "player")
	m := memory(t, dir)
	r := pairing.Record{Peer: newIdentity(t).Public(), PSK: m.device.PairingKey, Method: protocol.PairByPSK, Paired: time.Unix(1, 0).UTC()}
	if err := m.book.Put(r, nil); err != nil {
		t.Fatal(err)
	}
	m.device.Rounds, m.played = 7, "srv"
	if err := m.saveBook(); err != nil {
		t.Fatal(err)
	}
	if err := m.save(); err != nil {
		t.Fatal(err)
	}
	files, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		info, err := f.Info()
		if err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: mode %v, %v", f.Name(), info.Mode(), err)
		}
	}
	again := memory(t, dir)
	if got, ok := again.book.Get(r.Peer); !ok || !got.PSK.Equal(r.PSK) || again.ID() != m.ID() || again.Token().Reveal() != m.Token().Reveal() {
		t.Errorf("got %v, %v, %s", got, ok, again.ID())
	}
	if again.device.Rounds != 7 || again.played != "srv" {
		t.Errorf("got %d rounds, %q", again.device.Rounds, again.played)
	}
	for _, name := range []string{identityFile, memoryFile, pairingsFile} {
		path := filepath.Join(dir, name)
		good, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, good[:len(good)/2], 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := OpenMemory(dir); err == nil || !strings.Contains(err.Error(), name) && name != identityFile || strings.Contains(err.Error(), string(good[10:20])) {
			t.Errorf("%s damaged: got %v", name, err)
		}
		if err := os.WriteFile(path, good, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Remove(filepath.Join(dir, memoryFile)); err != nil {
		t.Fatal(err)
	}
	if _, err := OpenMemory(dir); err == nil {
		t.Error("an identity without its pairing key was taken")
	}
}

// lone is one session without a player, and why it ended.
func lone(t *testing.T, onMessage func(*Session, protocol.ServerMessage)) (*pipe.Listener, <-chan error) {
	t.Helper()
	l, ended := pipe.NewListener(), make(chan error, 1)
	o := Options{Dialect: "G2", OnMessage: onMessage, Sealing: &Sealing{Identity: newIdentity(t), Keys: func(*Session) Keys { return nil }}}
	srv := &http.Server{ReadHeaderTimeout: time.Second, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s, err := Accept(w, r, o)
		if err == nil {
			<-s.Done()
			err = s.Err()
		}
		ended <- err
	})}
	var wg sync.WaitGroup
	wg.Go(func() { _ = srv.Serve(l) })
	t.Cleanup(func() { _ = srv.Close(); wg.Wait() })
	return l, ended
}
