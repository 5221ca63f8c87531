package client

import (
	"context"
	"log/slog"
	"slices"
	"strings"
	"time"

	"resonatebridge/resonate/pairing"
	"resonatebridge/resonate/protocol"
)

// core is what the owner's goroutine of a player knows.
type core struct {
	p      *Player
	out    *output
	holder *Session // the server that has the player; nil: none
	state  State    // Audio and Clock stay empty: readers look them up
	done   <-chan struct{}

	coming *protocol.Metadata // that takes effect at comes; nil: none does
	comes  time.Time

	// Of encrypted dialects.
	memory *Memory
	links  map[*Session]*link
	rounds int       // of pairing, as they were kept
	turned time.Time // when a knob that was turned is to be kept; zero: none was
}

// loop is the owner. It waits for nobody but its inputs.
func (c *core) loop(ctx context.Context) {
	c.done = ctx.Done()
	due := time.NewTimer(0)
	defer due.Stop()
	c.level()
	c.show()
	for {
		var lost <-chan struct{}
		if c.holder != nil {
			lost = c.holder.Done()
		}
		select {
		case <-ctx.Done():
			c.keepKnobs()
			return
		case a := <-c.p.asks:
			a.result <- a.do(c)
		case e := <-c.p.inbox:
			c.event(e)
		case <-lost:
			c.lost()
		case <-c.p.poke:
			c.settle()
		case <-due.C:
			c.tick()
		}
		if at := c.deadline(); !at.IsZero() {
			due.Reset(time.Until(at))
		}
		c.show()
	}
}

// show publishes the state and wakes those who watch.
func (c *core) show() {
	old := c.p.shown.Swap(&shown{state: c.state, session: c.holder, next: make(chan struct{})})
	close(old.next)
}

// play hands m to the output, which always takes it soon.
func (c *core) play(m any) {
	select {
	case c.out.in <- m:
	case <-c.done:
	}
}

// level tells the output how loud and how early to play.
func (c *core) level() {
	c.play(outputLevel{
		gain:  amplitude(c.state.Volume, c.state.Muted),
		delay: micros(c.state.OutputDelay),
	})
}

// changed makes a changed volume, mute, delay or availability true: for the
// output and for the server.
func (c *core) changed() error {
	c.turn()
	c.level()
	if c.holder == nil || !c.reporting() {
		return nil
	}
	return c.holder.Send(c.report())
}

// reporting reports whether the holder gets what changes; else a complete
// report will follow.
func (c *core) reporting() bool {
	l := c.links[c.holder]
	return l == nil || l.reported
}

// report is the complete state. Dialects that send differences leave out what
// did not change.
func (c *core) report() protocol.ClientState {
	available, fine := c.state.Available, false
	r := protocol.ClientState{Available: &available, SyncError: &fine}
	if c.p.hello.Player == nil {
		return r
	}
	if l := c.links[c.holder]; l != nil && !slices.Contains(l.roles, protocol.RolePlayer) {
		return r
	}
	ms := func(d time.Duration) *int { n := int(d / time.Millisecond); return &n }
	volume, muted, playing := c.state.Volume, c.state.Muted, c.state.Stream != nil
	r.Player = &protocol.PlayerState{
		Volume:           &volume,
		Muted:            &muted,
		OutputDelayMs:    ms(c.state.OutputDelay),
		RequiredLeadMs:   ms(c.p.opts.RequiredLead),
		MinBufferMs:      ms(c.p.opts.MinBuffer),
		Commands:         c.p.opts.Commands,
		PlaybackReported: &playing,
	}
	return r
}

func (c *core) event(e event) {
	switch l := c.links[e.session]; {
	case e.keys != nil:
		e.keys <- c.memory.keys()
		return
	case e.channel != nil:
		c.keyed(e.session, *e.channel)
		return
	case e.gone:
		c.gone(e.session)
		return
	case l != nil:
		c.heard(l, e.message)
		return
	}
	switch e.session {
	case nil:
		c.state.DialPaused = e.paused
		if e.err != nil && e.err.Error() != c.state.LastError { // once for as long as it stays the same
			c.state.LastError = e.err.Error()
			c.p.opts.Log.Warn("not connected", slog.Any("err", e.err))
		}
	case c.holder:
		c.message(e.message)
	default:
		// The first message of a session is its hello. What an old session
		// left behind changes nothing.
		if hello, ok := e.message.(protocol.ServerHello); ok {
			c.arrived(e.session, hello)
		}
	}
}

// arrived decides between the holder and a new server and tells the loser.
func (c *core) arrived(s *Session, hello protocol.ServerHello) {
	now := claim{serverID: hello.ServerID}
	if hello.Reason == protocol.ReasonPlayback {
		now.rank = rankPlayback
	}
	if !c.decide(now, s.Close) {
		return
	}
	c.hold(s, hello.ServerID, hello.Name)
	c.state.Reason = hello.Reason
	if hello.Reason == protocol.ReasonPlayback {
		c.state.LastPlayed = hello.ServerID
	}
	c.tell()
}

// decide takes the player from its holder for a server that claims it, or has
// that one sent away.
func (c *core) decide(now claim, reject func(protocol.GoodbyeReason)) bool {
	if c.holder == nil {
		return true
	}
	was := claim{serverID: c.state.ServerID}
	if c.state.Reason == protocol.ReasonPlayback {
		was.rank = rankPlayback
	}
	farewell := c.holder.Close
	if l := c.links[c.holder]; l != nil {
		was = l.claim
		was.attempt = l.pairing.InProgress()
		farewell = func(reason protocol.GoodbyeReason) { c.dismiss(l, reason) }
	}
	switch {
	case !wins(was, now, c.state.LastPlayed):
		c.state.Rejected++
		reject(protocol.GoodbyeConcurrentAttempt)
		return false
	case was.serverID == now.serverID:
		// No goodbye: each reason would tell the server to stay away.
		c.holder.Close("")
	default:
		farewell(protocol.GoodbyeAnotherServer)
	}
	c.detach()
	return true
}

// hold gives the player to a server.
func (c *core) hold(s *Session, serverID, name string) {
	c.holder = s
	c.state.Connected = true
	c.state.Sessions++
	c.state.ServerID, c.state.ServerName = serverID, name
	c.state.DialPaused = false
	c.p.opts.Log.Info("connected", slog.String("server", serverID), slog.String("name", name), slog.String("remote", s.Remote()))
}

// lost takes note of the holder's end.
func (c *core) lost() {
	err := c.holder.Err()
	c.state.LastError = err.Error()
	c.p.opts.Log.Info("disconnected", slog.String("server", c.state.ServerID), slog.Any("err", err))
	c.detach()
}

// detach forgets what belonged to the holder's session alone.
func (c *core) detach() {
	c.holder = nil
	c.state.Connected = false
	c.state.Paired = false
	c.state.Pairing = pairing.Status{}
	c.state.Stream = nil
	c.state.Metadata, c.coming = nil, nil
	c.state.Controller = nil
	c.state.Group = protocol.GroupUpdate{}
	c.play(outputDrop{})
}

func (c *core) message(m protocol.ServerMessage) {
	switch m := m.(type) {
	case protocol.GroupUpdate:
		c.state.Group = m
	case protocol.ServerState:
		if m.Group != nil {
			c.state.Group = *m.Group
		}
		if m.Metadata != nil {
			c.schedule(m.Metadata)
		}
		if m.Controller != nil {
			c.state.Controller = m.Controller
		}
	case protocol.ServerCommand:
		c.command(m)
	case protocol.StreamStart:
		c.start(m)
	case protocol.StreamClear:
		if concernsPlayer(m.Roles) {
			c.play(outputDrop{})
		}
	case protocol.StreamEnd:
		if concernsPlayer(m.Roles) && c.state.Stream != nil {
			c.state.Stream = nil
			c.play(outputDrop{})
			c.tell()
		}
	case protocol.AudioChunk:
		c.chunk(m)
	}
}

// schedule takes metadata, which take effect at their time, and replace what was
// to (spec: metadata role). Before the server's clock is known, they do at once.
func (c *core) schedule(m *protocol.Metadata) {
	if model := c.holder.Model(); model != nil {
		if wait := model.Client(m.Timestamp) - c.p.opts.Clock.Now(); wait > 0 {
			c.coming, c.comes = m, time.Now().Add(time.Duration(wait)*time.Microsecond)
			return
		}
	}
	c.state.Metadata, c.coming = m, nil
}

// concernsPlayer reports whether a list of roles means the player; none means
// all.
func concernsPlayer(roles []protocol.Role) bool {
	return len(roles) == 0 || slices.ContainsFunc(roles, func(r protocol.Role) bool {
		family, _, _ := strings.Cut(string(r), "@")
		return family == "player"
	})
}

// command applies a command that this player accepts and reports the result.
func (c *core) command(m protocol.ServerCommand) {
	if !slices.Contains(c.p.opts.Commands, m.Command) {
		c.p.opts.Log.Warn("command not accepted", slog.String("command", string(m.Command)))
		return
	}
	switch m.Command {
	case protocol.CommandVolume:
		c.state.Volume = min(max(m.Volume, 0), 100)
	case protocol.CommandMute:
		c.state.Muted = m.Mute
	case protocol.CommandSetOutputDelay:
		c.state.OutputDelay = time.Duration(min(max(m.OutputDelayMs, 0), 5000)) * time.Millisecond
	}
	c.state.Commands++
	c.turn()
	c.level()
	c.tell()
}

// tell reports the state to the holder.
func (c *core) tell() {
	if !c.reporting() {
		return
	}
	if err := c.holder.Send(c.report()); err != nil {
		// The session is ending; the next one begins with a full report.
		c.p.opts.Log.Debug("report not sent", slog.Any("err", err))
	}
}

func (c *core) start(m protocol.StreamStart) {
	if m.Player == nil {
		return
	}
	fresh := c.state.Stream == nil
	stream := *m.Player
	c.state.Stream = &stream
	if c.links[c.holder] == nil { // else its activation said so
		c.state.LastPlayed = c.state.ServerID
	}
	c.play(outputStart{fresh: fresh, model: c.holder.Model})
	if fresh {
		c.tell()
	}
}

func (c *core) chunk(m protocol.AudioChunk) {
	c.p.counts.received.Add(1)
	c.p.counts.bytes.Add(uint64(len(m.Data)))
	if c.state.Stream == nil || !c.state.Available {
		c.p.counts.unwanted.Add(1)
		return
	}
	c.play(outputChunk{AudioChunk: m, format: c.state.Stream.Format})
}
