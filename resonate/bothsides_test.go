package resonate

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	player "resonatebridge/resonate/client"
	"resonatebridge/resonate/internal/secretfile"
	"resonatebridge/resonate/pairing"
	"resonatebridge/resonate/protocol"
)

// ourPlayer is the software player, which dials the house.
func (h *house) ourPlayer(o player.PlayerOptions) (p *player.Player, stop func()) {
	h.t.Helper()
	o.Server, o.NetDial = "ws://house/sendspin", h.front.DialContext
	p, err := player.NewPlayer(o)
	if err != nil {
		h.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(h.t.Context())
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := p.Run(ctx); err != nil {
			h.t.Error(err)
		}
	})
	stop = func() { cancel(); wg.Wait() }
	h.t.Cleanup(stop)
	synctest.Wait()
	return p, stop
}

// by is the house's view of a client.
func (h *house) by(id string) *Player {
	h.t.Helper()
	synctest.Wait()
	for _, p := range h.Snapshot().Players {
		if p.ClientID == id {
			return p
		}
	}
	h.t.Fatalf("%s is not known; there are %v", id, h.pids())
	return nil
}

func opened(t *testing.T, dir string) *player.Memory {
	t.Helper()
	m, err := player.OpenMemory(dir)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// TestBothSidesEncrypted has the server and the software player, each as it
// is: strangers, approved, paired in each way, both started again, unpaired.
func TestBothSidesEncrypted(t *testing.T) {
	static, err := pairing.ParseStaticCode("12345678")
	if err != nil {
		t.Fatal(err)
	}
	dynamic := func(f protocol.CodeFormat) *protocol.DynamicCode {
		return &protocol.DynamicCode{Channels: []protocol.CodeChannel{protocol.ChannelDisplay}, Formats: []protocol.CodeFormat{f}}
	}
	for _, row := range []struct {
		name string
		opts player.PlayerOptions
	}{
		{"G2, token", player.PlayerOptions{Dialect: "G2"}},
		{"G1, token", player.PlayerOptions{Dialect: "G1"}},
		{"G2, digits", player.PlayerOptions{Dialect: "G2", Dynamic: dynamic(protocol.CodeDigits)}},
		{"G2, QR code", player.PlayerOptions{Dialect: "G2", Dynamic: dynamic(protocol.CodeQR)}},
		{"G2, static code", player.PlayerOptions{Dialect: "G2", Static: static}},
	} {
		t.Run(row.name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				theirs, ours := t.TempDir(), t.TempDir()
				h := newHouse(t, func(o *Options) { o.DataDir = theirs })
				o := row.opts
				o.Memory, o.Unpaired = opened(t, ours), true
				p, stop := h.ourPlayer(o)
				id := o.Memory.ID()
				stands := func(trust Trust, c Connection) {
					t.Helper()
					pass(5 * time.Second)
					if got := h.by(id); got.Trust != trust || got.Connection != c {
						t.Errorf("got %s, %s (%s); want %s, %s", got.Trust, got.Connection, got.LastError, trust, c)
					}
				}
				plays := func() {
					t.Helper()
					before := p.Snapshot().Audio
					h.must(play(h.by(id).PID))
					pass(5 * time.Second)
					st := p.Snapshot()
					if st.Stream == nil || st.Reason != protocol.ReasonPlayback || st.Audio.Played <= before.Played {
						t.Errorf("playing: got %+v", st)
					}
					if st.Audio.Late != before.Late || st.Audio.Unwanted != before.Unwanted || st.Audio.Overflow != before.Overflow {
						t.Errorf("chunks were lost: got %+v, before %+v", st.Audio, before)
					}
					h.must(setVolume(h.by(id).PID, 33))
					if synctest.Wait(); p.Snapshot().Volume != 33 {
						t.Errorf("volume at the player: got %d, want 33", p.Snapshot().Volume)
					}
				}
				stands(TrustUnapproved, ApprovalRequired)
				pid := h.by(id).PID
				h.must(Approve{PID: pid, On: true})
				stands(TrustApproved, Connected)
				plays()

				if row.opts.Dynamic == nil && row.opts.Static.IsZero() {
					h.must(Pair{PID: pid, Secret: Secret(o.Memory.Token().Reveal())})
				} else {
					if err := p.Gesture(t.Context()); err != nil {
						t.Fatal(err)
					}
					h.must(Pair{PID: pid})
					synctest.Wait()
					code := "1234-5678"
					if row.opts.Dynamic != nil {
						code = p.Snapshot().Pairing.Code.Reveal()
					}
					if p.Snapshot().Stream == nil {
						t.Error("the music ended for the attempt to pair")
					}
					h.must(Pair{PID: pid, Secret: Secret(code)})
				}
				stands(TrustPaired, Connected)
				if st := p.Snapshot(); !st.Paired || st.Sessions != 1 {
					t.Errorf("paired: got %+v, want it on the same connection", st)
				}
				plays()

				stop()
				o.Memory, o.Unpaired = opened(t, ours), false
				p, stop = h.ourPlayer(o)
				stands(TrustPaired, Connected)
				plays()
				stop()
				h.stop()

				h = newHouse(t, func(o *Options) { o.DataDir = theirs })
				o.Memory = opened(t, ours)
				p, _ = h.ourPlayer(o)
				stands(TrustPaired, Connected)
				plays()
				h.must(RemovePlayer{PID: h.by(id).PID})
				pass(time.Second)
				if err := p.Connect(t.Context()); err != nil { // if it took its goodbye for an end
					t.Fatal(err)
				}
				stands(TrustUnapproved, PairingRequired)
			})
		})
	}
}

// TestBothSidesForgot: a player that has lost its records is still known to the
// server, says so, plays nothing, and can be paired again.
func TestBothSidesForgot(t *testing.T) {
	bubble(t, func(t *testing.T) {
		h := newHouse(t)
		dir := t.TempDir()
		o := player.PlayerOptions{Dialect: "G2", Memory: opened(t, dir), Unpaired: true}
		_, stop := h.ourPlayer(o)
		id, token := o.Memory.ID(), Secret(o.Memory.Token().Reveal())
		pid := h.by(id).PID
		h.must(Pair{PID: pid, Secret: token})
		pass(time.Second)
		if got := h.by(id); got.Trust != TrustPaired {
			t.Fatalf("got %s, want %s", got.Trust, TrustPaired)
		}
		stop()
		if err := os.Remove(filepath.Join(dir, pairingsFile)); err != nil {
			t.Fatal(err)
		}
		o.Memory = opened(t, dir)
		p, _ := h.ourPlayer(o)
		pass(time.Minute)
		if got := h.by(id); got.Trust != TrustMismatch {
			t.Errorf("got %s, want %s", got.Trust, TrustMismatch)
		}
		h.mustFail(play(pid), CodePairingRequired)
		h.must(Pair{PID: pid, Secret: token})
		pass(time.Second)
		if got := h.by(id); got.Trust != TrustPaired || got.Connection != Connected || !p.Snapshot().Paired {
			t.Errorf("paired again: got %s, %s", got.Trust, got.Connection)
		}
	})
}

// TestBothSidesOldAttemptFails: in G1 nothing but the attempt may go on under its
// key, so after one that fails the connection goes on under another.
func TestBothSidesOldAttemptFails(t *testing.T) {
	bubble(t, func(t *testing.T) {
		h := newHouse(t, func(o *Options) {
			o.DataDir = t.TempDir()
			o.replaceFile = func(path string, data []byte) error {
				if filepath.Base(path) == pairingsFile {
					return errors.New("disk full")
				}
				return secretfile.Replace(path, data)
			}
		})
		o := player.PlayerOptions{Dialect: "G1", Memory: opened(t, ""), Unpaired: true}
		p, _ := h.ourPlayer(o)
		pid := h.by(o.Memory.ID()).PID
		h.must(Approve{PID: pid, On: true})
		h.must(Pair{PID: pid, Secret: Secret(o.Memory.Token().Reveal())})
		pass(5 * time.Second)
		if got := h.player(pid); got.Pairing == nil || got.Pairing.Step != PairFailed || got.Trust != TrustApproved || got.Connection != Connected {
			t.Errorf("got %s, %s, %+v", got.Trust, got.Connection, got.Pairing)
		}
		h.must(play(pid))
		pass(5 * time.Second)
		if st := p.Snapshot(); st.Sessions != 1 || st.Audio.Played == 0 {
			t.Errorf("got %+v, want that it plays on the same connection", st)
		}
	})
}
