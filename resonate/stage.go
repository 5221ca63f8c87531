package resonate

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"reflect"
	"slices"
	"time"

	"resonatebridge/resonate/audio"
	"resonatebridge/resonate/audio/fetch"
	"resonatebridge/resonate/internal/stream"
	"resonatebridge/resonate/internal/supervisor"
	"resonatebridge/resonate/protocol"
	"resonatebridge/timesync"
)

// stage is what plays to a group. It moves with the music: to the ad-hoc group
// that grows around a speaker, and to the last speaker that is left of one.
type stage struct {
	engine *stream.Engine
	ctx    context.Context //nolint:containedctx // the life of what is made for it
	cancel context.CancelFunc
	cast   []stream.Player // that the engine knows
	crowd  []stream.Viewer // likewise
	status *stream.Status  // newest that the loop has seen
	wall   time.Time       // when status.Position was true
	soon   *time.Timer     // until what comes is told
	art    *art            // the picture of what sounds; nil: nothing did yet
	next   *art            // of what comes, if that is another
}

// stageOf is the stage of g, made if there is none.
func (m *model) stageOf(g *group) *stage {
	if g.stage != nil {
		return g.stage
	}
	ctx, cancel := context.WithCancel(context.Background())
	e := stream.New(stream.Options{
		Clock:   m.opts.Clock,
		Open:    m.openMedia,
		Convert: convert,
		Encode:  encode,
		Changed: m.stages.put,
		Count: func(encoded, missed uint64) {
			m.counters.encoded.Add(encoded)
			m.counters.missed.Add(missed)
		},
		Log: m.log.With(slog.String("group", g.id)),
	})
	g.stage = &stage{engine: e, ctx: ctx, cancel: cancel, status: e.Status(), soon: stoppedTimer()}
	m.engines.Go(func() { // owner: the server; ends with cancel, in silence or stop
		_ = e.Run(ctx) // it has no error of its own
	})
	if r := g.loaded; r != nil {
		e.Load(r.items(), r.Index, r.Repeat, r.Shuffle)
	}
	m.cast(g)
	return g.stage
}

// silence ends what plays to g.
func (m *model) silence(g *group) {
	if g.stage == nil {
		return
	}
	g.stage.cancel()
	g.stage.soon.Stop()
	g.stage, g.playback = nil, Idle
	m.touchGroup(g)
}

// handOver moves what plays from one group to another.
func (m *model) handOver(from, to *group) {
	m.silence(to)
	to.stage, to.playback = from.stage, from.playback
	if from.loaded != nil {
		to.loaded = from.loaded
	}
	from.stage, from.playback = nil, Idle
	m.touchGroup(from)
	m.touchGroup(to)
}

// cast tells the engine of g who is in the group and what they want, if that
// changed.
func (m *model) cast(g *group) {
	if g.stage == nil {
		return
	}
	var cast []stream.Player
	for _, c := range g.players() {
		if p, ok := c.streamed(); ok {
			cast = append(cast, p)
		}
	}
	same := slices.EqualFunc(cast, g.stage.cast, func(a, b stream.Player) bool {
		fa, fb := a.Formats, b.Formats
		a.Formats, b.Formats = nil, nil
		return slices.Equal(fa, fb) && a.Same(b)
	})
	if !same {
		g.stage.cast = cast
		g.stage.engine.SetPlayers(cast)
	}
	var crowd []stream.Viewer
	for _, c := range g.members {
		if c.link != nil && c.visual != nil && c.link.HasRole(protocol.RoleVisualizer) {
			crowd = append(crowd, stream.Viewer{Screen: c.link, Wish: c.visual, Available: c.available})
		}
	}
	if !slices.Equal(crowd, g.stage.crowd) {
		g.stage.crowd = crowd
		g.stage.engine.SetViewers(crowd)
	}
}

// wishVisual changes what the visualizer of c wants.
func (m *model) wishVisual(c *client, v protocol.VisualizerSupport) {
	if !reflect.DeepEqual(*c.visual, v) {
		c.visual, m.dirty = &v, true
	}
}

// onRequestVisualizer changes that by a request, in which what is empty stays.
func (m *model) onRequestVisualizer(c *client, r protocol.VisualizerSupport) {
	if c.visual == nil {
		return
	}
	v := *c.visual
	if r.Types != nil {
		v.Types = r.Types
	}
	v.RateMax, v.Spectrum = cmp.Or(r.RateMax, v.RateMax), cmp.Or(r.Spectrum, v.Spectrum)
	m.wishVisual(c, v)
}

// streamed is c as an engine needs it; false if it can't be played to.
func (c *client) streamed() (stream.Player, bool) {
	if c.link == nil || !c.link.HasRole(protocol.RolePlayer) || c.link.Encrypted() && !c.link.stated {
		return stream.Player{}, false
	}
	support := c.link.Hello().Player
	p := stream.Player{
		ID: c.rec.PID, Sink: c.link, Gain: 1, Capacity: support.BufferCapacity,
		MinBufferMs: protocol.DefaultMinBufferMs, RequiredLeadMs: protocol.DefaultRequiredLeadMs, Available: c.available,
	}
	for _, x := range []struct {
		to   *int
		from *int
	}{{&p.MinBufferMs, c.buffer}, {&p.RequiredLeadMs, c.lead}, {&p.OutputDelayMs, c.delay}} {
		if x.from != nil {
			*x.to = *x.from
		}
	}
	if c.gain() {
		p.Gain = c.amplitude()
	}
	p.Formats = offered(support.Formats, c.format)
	return p, len(p.Formats) > 0
}

// playing is the format that c gets while something plays.
func (c *client) playing() *protocol.Format {
	if c.group.playback != Playing {
		return nil
	}
	p, ok := c.streamed()
	if !ok {
		return nil
	}
	return &p.Formats[0]
}

// amplitude is what this server multiplies the samples of c by.
func (c *client) amplitude() float64 {
	switch {
	case c.mute != nil && *c.mute:
		return 0
	case c.volume != nil:
		return stream.VolumeGain(*c.volume)
	}
	return 1
}

// offered are the formats of a player that we can make, in its order, what it
// would like best first (spec: player role, selection). Fields of the wish that
// are empty match anything.
func offered(formats []protocol.Format, wish *protocol.Format) []protocol.Format {
	var out []protocol.Format
	for _, f := range formats {
		if audio.CanEncode(f) {
			out = append(out, f)
		}
	}
	if wish == nil {
		return out
	}
	if i := slices.IndexFunc(out, func(f protocol.Format) bool { return matches(f, *wish) }); i > 0 {
		out[0], out[i] = out[i], out[0]
	}
	return out
}

func matches(f, wish protocol.Format) bool {
	return (wish.Codec == "" || wish.Codec == f.Codec) && (wish.Channels == 0 || wish.Channels == f.Channels) &&
		(wish.SampleRate == 0 || wish.SampleRate == f.SampleRate) && (wish.BitDepth == 0 || wish.BitDepth == f.BitDepth || f.Codec == "opus")
}

// onStages takes in what the engines say. Versions in between are skipped.
func (m *model) onStages() {
	for _, g := range m.groups {
		s := g.stage
		if s == nil {
			continue
		}
		now := s.engine.Status()
		was := s.status
		if !now.Differs(was) {
			if now.Coming.Differs(was.Coming) {
				st := *was // whose position goes with s.wall
				st.Coming = now.Coming
				s.status = &st
				m.illustrate(s)
			}
			continue
		}
		s.status = now
		s.wall = m.now().Add(-time.Duration(m.opts.Clock.Now()-now.At) * time.Microsecond)
		switch now.State {
		case stream.Playing:
			g.playback = Playing
		case stream.Paused:
			g.playback = Paused
		case stream.Idle:
			if g.playback != Stopped {
				g.playback = Idle
			}
		}
		m.illustrate(s)
		switch modes := now.Repeat != was.Repeat || now.Shuffle != was.Shuffle; {
		case now.State != stream.Idle && (now.Current != was.Current || !slices.Equal(now.Items, was.Items) || modes):
			m.remember(g, now)
		case modes && g.loaded != nil: // for the next time
			again := *g.loaded
			again.Repeat, again.Shuffle = now.Repeat, now.Shuffle
			g.loaded, m.unsaved = &again, true
		}
		m.touchGroup(g)
	}
}

// --- commands ---

// transport carries one operation to what plays to g.
func (m *model) transport(g *group, answer reply, what string, do func(e *stream.Engine, done func(error))) {
	if g.stage == nil && g.loaded == nil {
		answer(Result{}, Errorf(CodeNotSupported, "nothing is loaded in %s, so it can't %s; use play_url", g.label(), what))
		return
	}
	do(m.stageOf(g).engine, m.whenDone(g, answer, map[string]any{}))
}

// whenDone answers when the engine has done what was asked. It comes from the
// engine's goroutine and goes over the loop, so that the answer is not ahead of
// the state.
func (m *model) whenDone(g *group, answer reply, data map[string]any) func(error) {
	return func(err error) {
		m.post(nil, func() { // else the loop has ended, which whoever asked sees
			m.onStages()
			if err != nil {
				answer(Result{}, m.mediaError(g, err))
				return
			}
			answer(Result{Data: data}, nil)
		})
	}
}

// mediaError turns an engine's error into one for users.
func (m *model) mediaError(g *group, err error) *CommandError {
	for _, x := range []struct {
		is   error
		code Code
		text string
	}{
		{stream.ErrNothing, CodeNotSupported, "nothing plays in " + g.label() + "; use play_url, or play for what played last"},
		{stream.ErrLive, CodeNotSupported, "what plays in " + g.label() + " is live, or can't be positioned"},
		{stream.ErrEdge, CodeNotSupported, "the queue of " + g.label() + " has no such item"},
		{stream.ErrSuperseded, CodeBusy, "something else was asked for before it began"},
		{stream.ErrTimeout, CodeMediaUnreachable, "no audio came within 9 s; look at the URL, and whether it can be reached from the bridge"},
		{stream.ErrEmpty, CodeMediaUnsupported, "it holds no audio"},
		{stream.ErrClosed, CodeNotConnected, g.label() + " has just ended; try again"},
	} {
		if errors.Is(err, x.is) {
			return Errorf(x.code, "%s", x.text)
		}
	}
	return Errorf(mediaCode(err), "%v", err)
}

// mediaCode classifies why media can't be played.
func mediaCode(err error) Code {
	switch {
	case errors.Is(err, audio.ErrRefused):
		return CodeInvalidValue
	case errors.Is(err, audio.ErrUnreachable), errors.Is(err, context.DeadlineExceeded):
		return CodeMediaUnreachable
	case errors.Is(err, audio.ErrUnsupported), errors.Is(err, audio.ErrDamaged):
		return CodeMediaUnsupported
	}
	return CodeInternal
}

// reach reports why nothing could be heard in g. A speaker that another server
// holds is taken back: playing on it is what the user just asked for.
func (m *model) reach(g *group) *CommandError {
	held := false
	var untrusted *CommandError
	for _, c := range g.players() {
		if c.link != nil && m.granted(c) {
			return nil
		}
		if c.link != nil {
			untrusted = Errorf(CodePairingRequired, "%s", wanting(c, m.connection(c)))
			continue
		}
		if m.connection(c) == HeldByOtherServer {
			held = true
			m.nudge(c, supervisor.WhyPlayback)
		}
	}
	if held {
		return nil
	}
	if untrusted != nil {
		return untrusted
	}
	if g.kind == SoloGroup && len(g.players()) == 1 && !managed(m.custody(g.players()[0])) {
		c := g.players()[0]
		return Errorf(CodeNotManaged, "custody of %s is %s, so the bridge leaves it alone; set custody to auto or hold first", c.name(), m.custody(c))
	}
	return Errorf(CodeNotConnected, "no speaker of %s is connected; switch it on and try again", g.label())
}

func (m *model) playMedia(cmd PlayMedia, answer reply) {
	g, err := m.findTarget(cmd.Target)
	if err == nil && len(cmd.Items) == 0 {
		err = Errorf(CodeInvalidValue, "play_url: got no URL; give one, or a list")
	}
	for _, i := range cmd.Items {
		if _, bad := fetch.Parse(i.ArtworkURL); err == nil && i.ArtworkURL != "" && bad != nil {
			err = Errorf(CodeInvalidValue, "play_url: artwork_url: %v", bad)
		}
	}
	if err == nil {
		err = m.reach(g)
	}
	if err != nil {
		answer(Result{}, err)
		return
	}
	items := newItems(cmd.Items)
	done := m.whenDone(g, answer, map[string]any{"url": cmd.Items[0].URL, "group": g.id})
	e := m.stageOf(g).engine
	switch {
	case cmd.Enqueue != "" && g.playback != Idle && g.playback != Stopped:
		e.Add(items, cmd.Enqueue == EnqueueNext, done)
	default:
		e.Play(items, cmd.Start, done)
	}
}

func (m *model) control(cmd Transport, answer reply) {
	g, err := m.findTarget(cmd.Target)
	if err == nil && cmd.Action == ActionPlay && g.playback != Playing {
		err = m.reach(g)
	}
	if err != nil {
		answer(Result{}, err)
		return
	}
	m.act(g, cmd, answer)
}

func (m *model) act(g *group, cmd Transport, answer reply) {
	switch cmd.Action {
	case ActionPlay:
		m.transport(g, answer, "play", func(e *stream.Engine, done func(error)) { e.Resume(done) })
	case ActionPause:
		m.transport(g, answer, "pause", func(e *stream.Engine, done func(error)) { e.Pause(done) })
	case ActionStop:
		if g.stage == nil { // it is what was asked for
			answer(Result{Data: map[string]any{}}, nil)
			return
		}
		m.transport(g, answer, "stop", func(e *stream.Engine, done func(error)) {
			e.Hush()
			e.Stop(func(err error) {
				m.post(nil, func() { g.playback = Stopped; m.touchGroup(g) })
				done(err)
			})
		})
	case ActionNext:
		m.transport(g, answer, "go on", func(e *stream.Engine, done func(error)) { e.Next(done) })
	case ActionPrevious:
		m.transport(g, answer, "go back", func(e *stream.Engine, done func(error)) { e.Previous(done) })
	case ActionSeek:
		m.transport(g, answer, "seek", func(e *stream.Engine, done func(error)) { e.Seek(cmd.Position, done) })
	case ActionSeekBy:
		m.transport(g, answer, "seek", func(e *stream.Engine, done func(error)) { e.SeekBy(cmd.Position, done) })
	case ActionRepeat:
		m.transport(g, answer, "repeat", func(e *stream.Engine, done func(error)) { e.SetRepeat(cmd.Repeat, done) })
	case ActionShuffle:
		m.transport(g, answer, "shuffle", func(e *stream.Engine, done func(error)) { e.SetShuffle(cmd.Shuffle, done) })
	default:
		answer(Result{}, Errorf(CodeUnknownCommand, "transport %.40q is not known", string(cmd.Action)))
	}
}

// onTransport carries out a controller's command on its group; one that is not
// offered is ignored (spec: controller).
func (m *model) onTransport(c *client, cmd protocol.ClientCommand) {
	g := c.group
	if !slices.Contains(m.controllerState(g).Commands, cmd.Command) {
		return
	}
	t := Transport{Action: Action(cmd.Command)}
	switch cmd.Command {
	case protocol.ControlSeek:
		t.Action, t.Position = ActionSeek, time.Duration(cmd.PositionMs)*time.Millisecond
		if d := g.stage.status.Info.Duration; t.Position < 0 || t.Position > d {
			return // spec: ignore
		}
	case protocol.ControlSeekRelative:
		t.Action, t.Position = ActionSeekBy, time.Duration(cmd.OffsetMs)*time.Millisecond
	case protocol.ControlRepeatOff, protocol.ControlRepeatOne, protocol.ControlRepeatAll:
		t.Action, t.Repeat = ActionRepeat, protocol.Repeat(cmd.Command[len("repeat_"):])
	case protocol.ControlShuffle, protocol.ControlUnshuffle:
		t.Action, t.Shuffle = ActionShuffle, cmd.Command == protocol.ControlShuffle
	default: // play, pause, stop, next and previous have the same names
	}
	m.act(g, t, func(_ Result, err *CommandError) {
		if err != nil {
			m.log.Info("a controller's command failed", slog.String("player", c.rec.PID), slog.String("command", string(cmd.Command)), slog.String("err", err.Message))
		}
	})
}

// controls are the transport commands that would have an effect on g now.
func (g *group) controls() (names []protocol.ControllerCommandName, repeat protocol.Repeat, shuffle bool, seekMaxMs int) {
	repeat, shuffle = g.modes()
	if repeat == "" {
		repeat = protocol.RepeatOff
	}
	if g.loaded != nil {
		names = append(names, protocol.ControlPlay)
	}
	if g.stage == nil || g.stage.status.State == stream.Idle {
		return names, repeat, shuffle, 0
	}
	st := g.stage.status
	if !slices.Contains(names, protocol.ControlPlay) {
		names = append(names, protocol.ControlPlay)
	}
	names = append(names, protocol.ControlPause, protocol.ControlStop)
	if st.Next {
		names = append(names, protocol.ControlNext)
	}
	if st.Previous {
		names = append(names, protocol.ControlPrevious)
	}
	if len(st.Items) > 1 {
		names = append(names, protocol.ControlShuffle, protocol.ControlUnshuffle)
	}
	names = append(names, protocol.ControlRepeatOff, protocol.ControlRepeatOne, protocol.ControlRepeatAll)
	if st.Info != nil && st.Info.Seekable {
		if ms := int(st.Info.Duration.Milliseconds()); ms > 0 {
			seekMaxMs = ms
			names = append(names, protocol.ControlSeek)
		}
		names = append(names, protocol.ControlSeekRelative)
	}
	return names, repeat, shuffle, seekMaxMs
}

// modes are those of what plays in g, or will on "play"; repeat is empty if
// nothing ever did.
func (g *group) modes() (repeat protocol.Repeat, shuffle bool) {
	switch {
	case g.stage != nil && g.stage.status.State != stream.Idle:
		return g.stage.status.Repeat, g.stage.status.Shuffle
	case g.loaded != nil:
		return g.loaded.Repeat, g.loaded.Shuffle
	}
	return "", false
}

// metadata is what plays in g, for clients, with the time from which on it does:
// what comes is told ahead of its time, if ahead.
func (g *group) metadata(now timesync.Micros, ahead bool) protocol.Metadata {
	md := protocol.Metadata{Timestamp: now, Repeat: protocol.RepeatOff}
	if g.stage == nil || g.stage.status.State == stream.Idle {
		return md
	}
	st := g.stage.status
	x, info, p := mediaOf(st), st.Info, protocol.Progress{}
	switch c := st.Coming; {
	case c != nil && ahead && c.At-now <= micros(showAhead):
		x, info, md.Timestamp = describe(c.Item, c.Info), c.Info, c.At
		p.PositionMs, p.SpeedPermille = int(c.Position.Milliseconds()), 1000
	case st.State == stream.Playing && st.At > now: // it has been begun, and does not sound yet
		if p.PositionMs = int(st.Position.Milliseconds()); ahead {
			md.Timestamp, p.SpeedPermille = st.At, 1000
		}
	default:
		if p.PositionMs = int(st.PositionAt(now).Milliseconds()); st.State == stream.Playing {
			p.SpeedPermille = 1000
		}
	}
	md.Repeat, md.Shuffle = st.Repeat, st.Shuffle
	md.Title, md.Artist, md.AlbumArtist, md.Album = x.Title, x.Artist, x.AlbumArtist, x.Album
	md.ArtworkURL, md.Year, md.Track = x.ArtworkURL, x.Year, x.Track
	if info != nil {
		p.DurationMs = int(info.Duration.Milliseconds())
		md.Progress = &p
	}
	return md
}

// sameMetadata reports whether who was told a knows b: it counts on from there.
func sameMetadata(a, b protocol.Metadata) bool {
	const drift = 100 // ms
	pa, pb := a.Progress, b.Progress
	since := b.Timestamp - a.Timestamp
	a.Timestamp, b.Timestamp, a.Progress, b.Progress = 0, 0, nil, nil
	if a != b || pa == nil || pb == nil {
		return a == b && pa == pb
	}
	passed := int(since) * pa.SpeedPermille / 1_000_000 // ms
	off := pa.PositionMs + passed - pb.PositionMs
	return pa.DurationMs == pb.DurationMs && pa.SpeedPermille == pb.SpeedPermille && off >= -drift && off <= drift
}
