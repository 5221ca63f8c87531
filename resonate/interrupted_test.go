package resonate

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gorilla/websocket"

	"resonatebridge/resonate/internal/sealtest"
	"resonatebridge/resonate/internal/secretfile"
	"resonatebridge/resonate/pairing"
	"resonatebridge/resonate/protocol"
)

// slowly makes the next write of the records take five seconds once slow is set.
func slowly(dir string, slow *atomic.Bool) func(*Options) {
	return func(o *Options) {
		o.DataDir = dir
		o.replaceFile = func(path string, data []byte) error {
			if filepath.Base(path) == pairingsFile && slow.CompareAndSwap(true, false) {
				time.Sleep(5 * time.Second)
			}
			return secretfile.Replace(path, data)
		}
	}
}

// A speaker that was not told that its new key is stored has not stored it
// either: the pairing is not complete, and the record stays what it was.
func TestPairingIsCutOffWhileItIsStored(t *testing.T) {
	cuts := map[string]func(*house, *speaker){
		"connection lost": func(_ *house, s *speaker) { s.reset() },
		"shut down":       func(h *house, _ *speaker) { h.stop() },
	}
	for name, cut := range cuts {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				var slow atomic.Bool
				dir := t.TempDir()
				h := newHouse(t, slowly(dir, &slow))
				s := h.sealed("a")
				s.join()
				s.pair()
				was, _ := h.keys.get(s.id)
				slow.Store(true)
				h.must(Pair{PID: s.pid(), Secret: Secret(s.sealed.Token())})
				if p := s.pairing(); p.Step != PairStoring {
					t.Fatalf("pairing: %+v", p)
				}
				h.mustFail(Pair{PID: s.pid(), Secret: Secret(s.sealed.Token())}, CodePairingFailed)
				cut(h, s)
				if name != "shut down" {
					pass(time.Minute)
					s.stands(TrustPaired, Connected)
				}
				h.stop()
				h = newHouse(t, func(o *Options) { o.DataDir = dir })
				if now, _ := h.keys.get(s.id); !now.PSK.Equal(was.PSK) {
					t.Error("another key is in the file")
				}
				again := h.speaker("a")
				again.id, again.sealed = s.id, s.sealed
				again.join()
				again.stands(TrustPaired, Connected)
			})
		})
	}
}

// Who was forgotten while it was connecting has a connection with a key that is
// void.
func TestForgottenWhileItConnects(t *testing.T) {
	bubble(t, func(t *testing.T) {
		h := newHouse(t)
		s := h.sealed("a")
		s.join()
		s.pair()
		pid := s.pid()
		s.withdraw()
		s.powerOff()
		pass(time.Second)
		s.powerOn()
		var hello []byte
		l := s.dialIn(func(c *sealtest.Conn) {
			c.Tamper = func(frame []byte) [][]byte { // its first one, later
				hello, c.Tamper = frame, nil
				return nil
			}
		})
		synctest.Wait()
		h.must(RemovePlayer{PID: pid})
		if err := l.seal.Raw(websocket.BinaryMessage, hello); err != nil {
			t.Fatal(err)
		}
		pass(time.Second)
		if _, told := sealtest.Last[protocol.ServerUnpair](l.seal); !told || s.sealed.Book.Len() != 0 {
			t.Errorf("told %v, %d records there", told, s.sealed.Book.Len())
		}
		s.dialIn()
		pass(time.Second)
		s.stands(TrustUnapproved, ApprovalRequired)
	})
}

// Roles go at once with the approval, whatever else is under way.
func TestApprovalIsWithdrawnWhilePairing(t *testing.T) {
	bubble(t, func(t *testing.T) {
		h := newHouse(t)
		s := h.sealed("a", dynamic(protocol.CodeDigits))
		c := s.join()
		pid := s.pid()
		h.must(Approve{PID: pid, On: true})
		h.must(play(pid))
		pass(time.Second)
		h.must(Pair{PID: pid})
		if p := s.pairing(); p.Step != PairCode {
			t.Fatalf("pairing: %+v", p)
		}
		h.must(Approve{PID: pid, On: false})
		synctest.Wait()
		if a := activation(t, c); len(a.Activities)+len(a.ActiveRoles) != 0 {
			t.Errorf("activated %+v", a)
		}
		if p := s.pairing(); p.Step != PairFailed || !strings.Contains(p.Error, "approv") {
			t.Errorf("pairing: %+v", p)
		}
		n := len(sealtest.All[protocol.AudioChunk](c))
		pass(time.Second)
		if more := len(sealtest.All[protocol.AudioChunk](c)) - n; more != 0 {
			t.Errorf("%d chunks after that", more)
		}
		s.stands(TrustUnapproved, ApprovalRequired)
		if got := c.Got(); slices.ContainsFunc(got, func(m protocol.ServerMessage) bool { _, ok := m.(protocol.ServerUnpair); return ok }) || c.Category() != pairing.SentinelID {
			t.Errorf("category %s", c.Category())
		}
	})
}

// A disk that did not take it does not bring back who was forgotten.
func TestForgottenForGood(t *testing.T) {
	ends := map[string]func(*house, *disk){
		"the disk is mended":  func(_ *house, d *disk) { d.breaks(nil); pass(saveAgain) },
		"just before the end": func(h *house, d *disk) { d.breaks(nil); h.stop() },
	}
	for name, end := range ends {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				dir, d := t.TempDir(), new(disk)
				h := newHouse(t, func(o *Options) { o.DataDir, o.replaceFile = dir, d.replace })
				s := h.sealed("a")
				s.join()
				s.pair()
				file := func() bool {
					b, err := os.ReadFile(filepath.Join(dir, pairingsFile))
					if err != nil {
						t.Fatal(err)
					}
					return strings.Contains(string(b), s.id)
				}
				if !file() {
					t.Fatal("no record in the file")
				}
				d.breaks(syscall.EROFS)
				h.must(RemovePlayer{PID: s.pid()})
				pass(3 * saveAgain)
				if got := h.Snapshot().Problems; !slices.ContainsFunc(got, func(p string) bool { return strings.HasPrefix(p, "pairing records can't be saved") }) {
					t.Errorf("problems %q", got)
				}
				end(h, d)
				if file() {
					t.Error("the record is in the file")
				}
				if name != "just before the end" {
					if got := h.Snapshot().Problems; len(got) != 0 {
						t.Errorf("problems %q", got)
					}
				}
			})
		})
	}
}

// What a speaker says at the end counts, also when it is back before anybody
// looked at how it went.
func TestUnpairedAndBackAtOnce(t *testing.T) {
	bubble(t, func(t *testing.T) {
		h := newHouse(t)
		s := h.sealed("a")
		c := s.join()
		s.pair()
		s.withdraw()
		gate := make(chan struct{})
		h.post(nil, func() { <-gate })
		s.sealed.Set(func() { s.sealed.Book = pairing.Book{} })
		if err := c.Send(protocol.ClientGoodbye{Reason: protocol.GoodbyeUnpaired}); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		s.dialIn()
		pass(time.Second)
		close(gate)
		pass(time.Second)
		if _, ok := h.keys.get(s.id); ok {
			t.Error("the record is still here")
		}
		s.stands(TrustUnapproved, ApprovalRequired)
	})
}
