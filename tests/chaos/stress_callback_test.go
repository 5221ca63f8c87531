package chaos

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"resonatebridge/discovery"
	"resonatebridge/resonate"
	"resonatebridge/resonate/client"
	"resonatebridge/resonate/protocol"
)

// rude is a callback of a client that does what callbacks should not do.
type rude struct {
	name string
	do   func(s *stand, session *client.Session)
	ends error // the session; nil: it goes on
}

func rudeCallbacks() []rude {
	return []rude{
		{name: "closes-itself", ends: client.ErrClosed, do: func(_ *stand, c *client.Session) { c.Close(protocol.GoodbyeRestart); c.Abort() }},
		{name: "blocks", do: func(*stand, *client.Session) { time.Sleep(300 * time.Millisecond) }},
		{name: "panics", ends: client.ErrPanic, do: func(*stand, *client.Session) { panic("oh no") }},
		{name: "ends-its-goroutine", ends: client.ErrPanic, do: func(*stand, *client.Session) { runtime.Goexit() }},
		{name: "commands-itself", do: func(s *stand, _ *client.Session) { s.ask("commands-itself", 33) }},
		{name: "commands-another", do: func(s *stand, _ *client.Session) { s.ask("calm", 44) }},
		{name: "forgets-itself", do: func(s *stand, _ *client.Session) { s.do(resonate.RemovePlayer{PID: "forgets-itself"}) }},
		{name: "looks-and-tells", do: func(s *stand, _ *client.Session) {
			s.Snapshot()
			s.SetProblem("rude", "x")
			s.SetProblem("rude", "")
			s.Discover(discovery.Event{Kind: discovery.Withdrawn, Endpoint: discovery.Endpoint{Key: "rude"}})
		}},
		{name: "floods", ends: client.ErrSlow, do: func(_ *stand, c *client.Session) {
			for c.Send(protocol.ClientState{}) == nil { //nolint:revive // until its queue is full
			}
		}},
	}
}

// ask asks for a volume and waits a moment for the answer: that of a speaker
// that is away comes when it is back.
func (s *stand) ask(id string, volume int) {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Millisecond)
	defer cancel()
	_, _ = s.Do(ctx, resonate.SetPlayer{PID: id, Volume: &resonate.VolumeChange{Value: volume}})
}

// TestStressCallbacks has clients whose callbacks close, block, panic, end their
// goroutine, flood, and call back into the server and into themselves. Each
// comes back as often as it can. The server and a calm speaker go on, and a
// session ends for its own reason or not at all.
func TestStressCallbacks(t *testing.T) {
	n := stress(t)
	s := newStand(t)
	calm := s.box("calm")
	ctx, cancel := context.WithCancel(t.Context())
	var wg, rude sync.WaitGroup
	defer wg.Wait()
	defer rude.Wait()
	defer cancel()
	wg.Go(func() { _ = calm.dialIn(ctx) })
	until(t, "the calm one is connected", func() bool { return s.connection("calm") == resonate.Connected })

	over, end := context.WithCancel(ctx)
	defer time.AfterFunc(howLong(500*time.Millisecond), end).Stop()
	var sessions, calls atomic.Int64
	for _, r := range rudeCallbacks() {
		rude.Go(func() {
			for over.Err() == nil {
				c, err := client.Dial(over, "ws://"+s.addr+"/sendspin", client.Options{
					Hello: playerHello(r.name),
					OnMessage: func(c *client.Session, m protocol.ServerMessage) {
						calls.Add(1)
						if _, hello := m.(protocol.ServerHello); hello {
							_ = c.Send(playerState(50))
							return
						}
						r.do(s, c)
					},
				})
				if err != nil { // one that was just forgotten may be turned away
					if over.Err() == nil && r.name != "forgets-itself" {
						t.Errorf("%s: %v", r.name, err)
					}
					continue
				}
				sessions.Add(1)
				if r.ends != nil {
					<-c.Done()
					if !errors.Is(c.Err(), r.ends) {
						t.Errorf("%s: got the end %v, want %v", r.name, c.Err(), r.ends)
					}
					continue
				}
				select {
				case <-c.Done(): // the server's doing, e.g. forgotten
				case <-over.Done():
				}
				c.Abort()
				<-c.Done()
			}
		})
	}
	var answers []time.Duration
	for volume := 0; over.Err() == nil; volume = (volume + 1) % 100 {
		for _, r := range rudeCallbacks() {
			s.ask(r.name, volume)
		}
		began := time.Now()
		s.do(resonate.SetPlayer{PID: "calm", Volume: &resonate.VolumeChange{Value: volume}})
		answers = append(answers, time.Since(began))
	}
	if got := s.edges.ups("calm"); got != 1 || s.connection("calm") != resonate.Connected {
		t.Errorf("the calm speaker: got %d sessions, now %q; want one, connected", got, s.connection("calm"))
	}
	rude.Wait() // else the server's end would be theirs
	cancel()
	s.stop()
	n.Add(fmt.Sprintf("clients whose callbacks do what they should not: %d kinds, sessions", len(rudeCallbacks())), sessions.Load(), "")
	n.Add("calls of their callbacks", calls.Load(), "")
	n.Add("commands to a calm speaker meanwhile: answered after", answers, "its session stays")
}

func playerHello(id string) protocol.ClientHello {
	return protocol.ClientHello{
		ClientID: id, Name: id, Version: 1, Roles: []protocol.Role{protocol.RolePlayer},
		Player: &protocol.PlayerSupport{
			Formats:        []protocol.Format{{Codec: "pcm", Channels: 2, SampleRate: 48000, BitDepth: 16}},
			BufferCapacity: 1_000_000,
			Commands:       []protocol.PlayerCommandName{protocol.CommandVolume, protocol.CommandMute},
		},
	}
}

func playerState(volume int) protocol.ClientState {
	yes, no := true, false
	return protocol.ClientState{Available: &yes, SyncError: &no, Player: &protocol.PlayerState{Volume: &volume, Muted: &no}}
}
