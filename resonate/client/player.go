package client

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/url"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"resonatebridge/resonate/internal/contain"
	"resonatebridge/resonate/internal/dialect"
	"resonatebridge/resonate/pairing"
	"resonatebridge/resonate/protocol"
	"resonatebridge/timesync"
)

// ErrEnded is returned by the methods of a [Player] whose Run has returned.
var ErrEnded = errors.New("the player has ended")

// PlayerOptions describe a [Player]. Exactly one of Listen, Listener and
// Server is set; what else is zero has the default that its comment says.
type PlayerOptions struct {
	ClientID string // 1 to 128 bytes; required, except with Memory, which has one
	Name     string // for people; default ClientID
	Dialect  string // "R1", "R2", "S1" to "S4"; encrypted "G1", "G2"; default "S4"

	// Memory is required by an encrypted dialect; the others don't want it.
	Memory *Memory
	// AESGCM encrypts with AES-GCM instead of ChaCha20-Poly1305.
	AESGCM bool
	// Unpaired lets servers play that the player is not paired with, if they
	// ask a person first.
	Unpaired bool
	// Static is the code on the player's label, for pairing after a
	// [Player.Gesture]; zero: none. Dynamic is how a code of each attempt is
	// shown, which whoever watches [State.Pairing] has to do; nil: not at all.
	// At most one is set. G1 has neither.
	Static  pairing.Code
	Dynamic *protocol.DynamicCode

	Listen   string       // host:port where servers dial us, e.g. "127.0.0.1:0"
	Listener net.Listener // the same, already open; Run closes it
	Server   string       // ws:// URL of the server that we dial
	// Advertise, if set, runs while the player listens: it should announce the
	// advert until ctx ends. An error ends the player, and so does a panic.
	Advertise func(ctx context.Context, a Advert) error

	Device protocol.DeviceInfo
	Roles  []protocol.Role // default player, controller, metadata
	// Formats in order of preference; default PCM of 48 kHz, 2 channels, 16
	// bits. Chunks of another codec than pcm are counted, not played.
	Formats        []protocol.Format
	BufferCapacity int                          // bytes; default 1,000,000
	Commands       []protocol.PlayerCommandName // that it accepts; default all. Empty, not nil: none
	Volume         *int                         // 0 to 100 at the start; default as Memory has it, else 100
	Muted          bool
	OutputDelay    time.Duration // 0 to 5 s
	RequiredLead   time.Duration // 0 to 30 s
	MinBuffer      time.Duration // 0 to 30 s

	// Goodbye is said when Run is told to end; default shutdown.
	Goodbye protocol.GoodbyeReason
	// LastPlayed is the id of the server that played last, if it is known from
	// an earlier run. It decides between two servers that both don't play.
	LastPlayed string
	// Out gets what is played as a WAV file, at the places of the time stamps;
	// nil: nobody listens. Run does not close it. The player stands still while
	// a Write blocks, and records nothing after one that failed or panicked.
	Out io.Writer

	Clock   *timesync.Clock // nil: a new one
	Log     *slog.Logger    // nil: silent
	NetDial func(ctx context.Context, network, addr string) (net.Conn, error)
}

// Advert is what a listening player announces.
type Advert struct {
	Service string // e.g. "_sendspin._tcp"
	Name    string // for people
	Port    int
	Path    string // begins with "/"
}

// State is what a player knows at one time. It is a value; what it points to
// never changes.
type State struct {
	URL string // where it listens; empty if it dials

	Connected  bool
	ServerID   string // of the live session, else of the last one
	ServerName string
	Reason     protocol.ConnectionReason
	Sessions   uint64         // admitted so far
	Rejected   uint64         // servers turned away so far
	Paired     bool           // the live session is protected by a pairing
	Pairing    pairing.Status // of the live session, with the code to show
	LastError  string         // why the last session or attempt ended; empty: none did
	LastPlayed string         // id of the server that played last

	Group      protocol.GroupUpdate // zero: not told
	Metadata   *protocol.Metadata   // that is in effect
	Controller *protocol.ControllerState
	Stream     *protocol.StreamPlayer // nil: none
	Commands   uint64                 // server commands applied so far

	Available   bool
	Volume      int // 0 to 100
	Muted       bool
	OutputDelay time.Duration

	Audio      AudioCounts
	Clock      *timesync.Model // of the live session; nil: not measured yet
	DialPaused bool            // a goodbye asks us to stay away until Connect
}

// Player is a software speaker without a window: it connects, keeps its
// volume, obeys and plays in time, into nothing or into a WAV file. It tells
// the truth about itself at once and in full, as the dialect allows.
//
// Run is its life. One goroutine owns the state; the methods ask it and wait
// until what they ask is done, or ctx ends, or the player has ended. Before Run
// they wait for it.
type Player struct {
	opts    PlayerOptions
	hello   protocol.ClientHello
	service string
	path    string

	started atomic.Bool
	ended   chan struct{}
	asks    chan ask
	inbox   chan event
	poke    chan struct{} // one slot: what Watch looks up changed
	clocked chan struct{} // one slot: the clock's model changed
	connect chan struct{} // one slot: dial again
	counts  counters
	gate    atomic.Pointer[chan struct{}] // set while stalled
	shown   atomic.Pointer[shown]
}

// shown is a published state and the channel that closes when it is replaced.
type shown struct {
	state   State
	session *Session
	next    chan struct{}
}

// event is what a session's reader or the dialling goroutine tells the owner.
type event struct {
	session *Session // nil: an attempt failed
	message protocol.ServerMessage
	err     error // of an attempt; nil with paused
	paused  bool  // no attempt until Connect

	// Of encrypted dialects.
	keys    chan<- Keys // a handshake wants them; one slot
	channel *Channel    // the session has new keys
	gone    bool        // the session has ended
}

// NewPlayer checks the options and starts nothing.
func NewPlayer(o PlayerOptions) (*Player, error) {
	if o.Dialect == "" {
		o.Dialect = string(dialect.S4)
	}
	wire, err := dialect.NewClient(dialect.Name(o.Dialect))
	if err != nil {
		return nil, fmt.Errorf("player: %w", err)
	}
	if wire.Encrypted() != (o.Memory != nil) {
		return nil, errors.New("player: an encrypted dialect needs Memory, the others don't want it")
	}
	if !o.Static.IsZero() && o.Dynamic != nil {
		return nil, errors.New("player: set at most one of Static and Dynamic")
	}
	if o.Memory != nil {
		o.ClientID, o.LastPlayed = o.Memory.ID(), o.Memory.played
		o.recall(o.Memory.knobs)
	}
	service, _, path := dialect.Name(o.Dialect).Service()
	ways := 0
	for _, set := range []bool{o.Listen != "", o.Listener != nil, o.Server != ""} {
		if set {
			ways++
		}
	}
	if ways != 1 {
		return nil, errors.New("player: set exactly one of Listen, Listener and Server")
	}
	if o.Server != "" {
		if u, err := url.Parse(o.Server); err != nil || u.Scheme != "ws" && u.Scheme != "wss" || u.Host == "" {
			return nil, fmt.Errorf("player: Server %q: want ws://host:port/path", o.Server)
		}
	}
	if n := len(o.ClientID); n < 1 || n > 128 {
		return nil, fmt.Errorf("player: ClientID has %d bytes, want 1 to 128", n)
	}
	if o.Volume == nil {
		full := 100
		o.Volume = &full
	}
	if *o.Volume < 0 || *o.Volume > 100 {
		return nil, fmt.Errorf("player: Volume %d: want 0 to 100", *o.Volume)
	}
	for _, d := range []struct {
		name string
		got  time.Duration
		max  time.Duration
	}{
		{"OutputDelay", o.OutputDelay, 5 * time.Second},
		{"RequiredLead", o.RequiredLead, 30 * time.Second},
		{"MinBuffer", o.MinBuffer, 30 * time.Second},
	} {
		if d.got < 0 || d.got > d.max {
			return nil, fmt.Errorf("player: %s %v: want 0 to %v", d.name, d.got, d.max)
		}
	}
	if o.Name == "" {
		o.Name = o.ClientID
	}
	if o.Roles == nil {
		o.Roles = []protocol.Role{protocol.RolePlayer, protocol.RoleController, protocol.RoleMetadata}
	}
	if o.Formats == nil {
		o.Formats = []protocol.Format{{Codec: "pcm", Channels: 2, SampleRate: 48000, BitDepth: 16}}
	}
	if o.BufferCapacity == 0 {
		o.BufferCapacity = 1_000_000
	}
	if o.Commands == nil {
		o.Commands = []protocol.PlayerCommandName{protocol.CommandVolume, protocol.CommandMute, protocol.CommandSetOutputDelay}
	}
	if o.Goodbye == "" {
		o.Goodbye = protocol.GoodbyeShutdown
	}
	if o.Clock == nil {
		o.Clock = timesync.NewClock()
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	o.Log = o.Log.With(slog.String("player", o.ClientID))
	p := &Player{
		opts: o,
		hello: protocol.ClientHello{
			ClientID: o.ClientID,
			Name:     o.Name,
			Version:  1,
			Device:   o.Device,
			Roles:    o.Roles,
		},
		service: service,
		path:    path,
		ended:   make(chan struct{}),
		asks:    make(chan ask),
		inbox:   make(chan event, 64),
		poke:    make(chan struct{}, 1),
		clocked: make(chan struct{}, 1),
		connect: make(chan struct{}, 1),
	}
	if slices.Contains(o.Roles, protocol.RolePlayer) {
		p.hello.Player = &protocol.PlayerSupport{Formats: o.Formats, BufferCapacity: o.BufferCapacity, Commands: o.Commands}
	}
	if m := o.Memory; m != nil {
		offers := pairing.Device{PairingKey: m.device.PairingKey, Static: o.Static, Dynamic: o.Dynamic}
		p.hello.Trust = &protocol.ClientTrust{Methods: *offers.Methods(), Unpaired: o.Unpaired}
	}
	p.shown.Store(&shown{
		state: State{
			Available:   true,
			Volume:      *o.Volume,
			Muted:       o.Muted,
			OutputDelay: o.OutputDelay,
			LastPlayed:  o.LastPlayed,
		},
		next: make(chan struct{}),
	})
	return p, nil
}

// recall takes the knobs as they were left, unless the options turn them.
func (o *PlayerOptions) recall(k knobs) {
	if o.Volume == nil && !o.Muted {
		o.Volume, o.Muted = k.Volume, k.Muted
	}
	if o.OutputDelay == 0 {
		o.OutputDelay = time.Duration(k.DelayMs) * time.Millisecond
	}
}

// Run connects, plays and obeys until ctx ends, then says goodbye and returns
// within about 200 ms: nil, or what went wrong (the listener, the recording,
// the advertising). A player runs once.
func (p *Player) Run(ctx context.Context) error {
	if p.started.Swap(true) {
		return errors.New("player: Run was called twice")
	}
	defer close(p.ended)
	ln := p.opts.Listener
	if p.opts.Listen != "" {
		var err error
		if ln, err = (&net.ListenConfig{}).Listen(ctx, "tcp", p.opts.Listen); err != nil {
			return fmt.Errorf("player: %w", err)
		}
	}

	ctx, end := context.WithCancelCause(ctx)
	defer end(nil)
	var wg sync.WaitGroup
	var errs [3]error // one per goroutine below that can fail
	fail := func(slot int, err error) {
		if err != nil && ctx.Err() == nil {
			errs[slot] = err
			end(err)
		}
	}
	out := newOutput(p)
	wg.Go(func() {
		if err := out.run(ctx); err != nil {
			errs[0] = fmt.Errorf("player: recording: %w", err)
		}
	})
	core := &core{p: p, out: out, state: p.shown.Load().state, links: map[*Session]*link{}}
	if m := p.opts.Memory; m != nil {
		m.device.Static, m.device.Dynamic = p.opts.Static, p.opts.Dynamic
		core.memory, core.rounds = m, m.device.Rounds
	}
	if ln != nil {
		core.state.URL = fmt.Sprintf("ws://%s%s", ln.Addr(), p.path)
		wg.Go(func() { fail(1, p.serve(ctx, ln)) })
		if p.opts.Advertise != nil {
			a := Advert{Service: p.service, Name: p.opts.Name, Path: p.path}
			if tcp, ok := ln.Addr().(*net.TCPAddr); ok {
				a.Port = tcp.Port
			}
			wg.Go(func() {
				contain.Run(p.opts.Log, func() error { return p.opts.Advertise(ctx, a) }, func(err error) { fail(2, err) })
			})
		}
	} else {
		wg.Go(func() { p.dial(ctx) })
	}
	core.loop(ctx)
	wg.Wait()
	core.state.Connected = false
	core.show()
	return errors.Join(errs[:]...)
}

// Snapshot returns the newest state.
func (p *Player) Snapshot() State {
	s, _ := p.Watch()
	return s
}

// Watch returns the newest state and a channel that is closed when there is a
// newer one.
func (p *Player) Watch() (State, <-chan struct{}) {
	sh := p.shown.Load()
	s := sh.state
	s.Audio = p.counts.load()
	if sh.session != nil {
		s.Clock = sh.session.Model()
	}
	return s, sh.next
}

// WaitFor waits until the state meets cond and returns it, or the newest one
// with ctx's cause, or [ErrEnded].
func (p *Player) WaitFor(ctx context.Context, cond func(State) bool) (State, error) {
	for {
		s, changed := p.Watch()
		if cond(s) {
			return s, nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return s, context.Cause(ctx)
		case <-p.ended:
			if s = p.Snapshot(); cond(s) {
				return s, nil
			}
			return s, ErrEnded
		}
	}
}

// touch says that what Watch looks up changed.
func (p *Player) touch() { wake(p.poke) }

// wake fills a one-slot channel.
func wake(c chan<- struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// ask is a call that the owner makes for somebody else.
type ask struct {
	do     func(*core) error
	result chan error // one slot
}

// do runs f on the owner's goroutine and waits for it.
func (p *Player) do(ctx context.Context, f func(*core) error) error {
	a := ask{f, make(chan error, 1)}
	select {
	case p.asks <- a:
		return <-a.result // the owner never waits for anybody, so it answers
	case <-p.ended:
		return ErrEnded
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// SetVolume turns the volume knob to v, 0 to 100; the server is told.
func (p *Player) SetVolume(ctx context.Context, v int) error {
	if v < 0 || v > 100 {
		return fmt.Errorf("player: volume %d: want 0 to 100", v)
	}
	return p.do(ctx, func(c *core) error { c.state.Volume = v; return c.changed() })
}

// SetMute presses the mute button; the server is told.
func (p *Player) SetMute(ctx context.Context, on bool) error {
	return p.do(ctx, func(c *core) error { c.state.Muted = on; return c.changed() })
}

// SetAvailable says whether the player may be used, false while something else
// that will not yield plays on it. Audio is dropped meanwhile.
func (p *Player) SetAvailable(ctx context.Context, on bool) error {
	return p.do(ctx, func(c *core) error {
		c.state.Available = on
		if !on {
			c.play(outputDrop{})
		}
		return c.changed()
	})
}

// Send sends m as this player's session, for controller commands and tests. It
// returns [ErrGone] while no server is connected.
func (p *Player) Send(ctx context.Context, m protocol.ClientMessage) error {
	return p.do(ctx, func(c *core) error {
		if c.holder == nil {
			return ErrGone
		}
		return c.holder.Send(m)
	})
}

// SendCommand asks the group for something, as a controller; see [Player.Send].
func (p *Player) SendCommand(ctx context.Context, cmd protocol.ClientCommand) error {
	return p.Send(ctx, cmd)
}

// Goodbye leaves the server for a reason. A player that listens keeps on
// listening. One that dials comes back by itself after the reason restart, and
// otherwise waits for [Player.Connect].
func (p *Player) Goodbye(ctx context.Context, reason protocol.GoodbyeReason) error {
	return p.do(ctx, func(c *core) error {
		if c.holder == nil || c.holder.Err() != nil {
			return ErrGone
		}
		c.holder.Close(reason)
		return nil
	})
}

// Gesture is a person's deliberate act at the player: it admits attempts to
// pair by a static code for five minutes, and by dynamic codes after too many
// wrong ones. Plaintext dialects have no use for it.
func (p *Player) Gesture(ctx context.Context) error {
	return p.do(ctx, func(c *core) error {
		if c.memory != nil {
			c.memory.device.Gesture(time.Now())
			c.tick()
		}
		return nil
	})
}

// CancelPairing ends an attempt to pair as a person at the player wishes.
func (p *Player) CancelPairing(ctx context.Context) error {
	return p.do(ctx, func(c *core) error {
		if l := c.links[c.holder]; l != nil {
			c.paired(l, l.pairing.Cancel(), nil)
		}
		return nil
	})
}

// Connect makes a player that dials try now, whatever it waits for. It does
// nothing for one that is connected or listens.
func (p *Player) Connect(ctx context.Context) error {
	return p.do(ctx, func(c *core) error {
		if c.holder != nil && c.holder.Err() == nil {
			return nil
		}
		wake(p.connect)
		return nil
	})
}

// Drop cuts the connection without a goodbye, as a crash does.
func (p *Player) Drop(ctx context.Context) error {
	return p.do(ctx, func(c *core) error {
		if c.holder == nil {
			return ErrGone
		}
		c.holder.Abort()
		return nil
	})
}

// Stall stops and resumes the reading of all sessions, as a program that hangs
// does: the socket stays open, its buffers fill.
func (p *Player) Stall(on bool) {
	var gate *chan struct{}
	if on {
		g := make(chan struct{})
		gate = &g
	}
	if old := p.gate.Swap(gate); old != nil {
		close(*old)
	}
}
