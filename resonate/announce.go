package resonate

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"time"

	"resonatebridge/resonate/audio"
	"resonatebridge/resonate/internal/stream"
	"resonatebridge/resonate/protocol"
	"resonatebridge/timesync"
)

// Announcements are the settings of what is spoken over music.
type Announcements struct {
	Duck  float64       // gain of the music below, 0 to 1; default 0.25 (12 dB)
	Ramp  time.Duration // how long it takes to go down; default 300 ms
	Chime string        // URL or file of what comes before; "": nothing, unless asked for
	Quiet []QuietHours
}

// QuietHours cap the volume of announcements during a part of the day.
type QuietHours struct {
	From, To time.Duration // since midnight, local time; From after To spans midnight
	Volume   int           // 0 to 100
}

// covers reports whether t is within the hours.
func (q QuietHours) covers(t time.Time) bool {
	d := time.Duration(t.Hour())*time.Hour + time.Duration(t.Minute())*time.Minute
	if q.From <= q.To {
		return d >= q.From && d < q.To
	}
	return d >= q.From || d < q.To
}

func (a Announcements) withDefaults() Announcements {
	if a.Duck == 0 {
		a.Duck = audio.Decibels(-12)
	}
	if a.Ramp == 0 {
		a.Ramp = 300 * time.Millisecond
	}
	return a
}

const (
	// maxClip is how long an announcement may be: it is kept in memory, since all
	// speakers have to begin with the same sample.
	maxClip = 3 * time.Minute
	// loadWithin is how long fetching and decoding may take; callers want an
	// answer within 10 s.
	loadWithin = 8 * time.Second
	// waitWithin is how long one waits for others by default, once it is loaded.
	waitWithin = 30 * time.Second
	// maxSpoken is how many announcements may be known at a time; each may take
	// 70 MB.
	maxSpoken = 16
	// volumeLead is how long before the first word volumes are set.
	volumeLead = 100 * time.Millisecond
)

// announcement is one from its command to its end.
type announcement struct {
	Announce
	players []*client
	answer  reply // nil once it was answered
	clip    *stream.Clip
	cancel  context.CancelFunc
	begun   bool
	open    int                // groups that still speak
	before  map[*client]before // volumes to restore
	timers  []*time.Timer
}

// before is the volume of a player before an announcement, and during it.
type before struct{ was, now int }

// announce loads an announcement and begins it when its speakers are free.
func (m *model) announce(cmd Announce, answer reply) {
	players, err := m.audience(cmd)
	if err != nil {
		answer(Result{}, err)
		return
	}
	if cmd.Timeout <= 0 {
		cmd.Timeout = waitWithin
	}
	if len(m.spoken) >= maxSpoken {
		answer(Result{}, Errorf(CodeBusy, "%d announcements wait already; try again when they were said", maxSpoken))
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), loadWithin)
	a := &announcement{Announce: cmd, players: players, answer: answer, cancel: cancel, before: map[*client]before{}}
	m.spoken = append(m.spoken, a)
	m.engines.Go(func() { // owner: the server; ends with ctx, at most loadWithin later
		defer cancel()
		clip, err := m.loadClip(ctx, cmd)
		m.post(nil, func() {
			if err != nil {
				m.endAnnouncement(a, Errorf(mediaCode(err), "%v", err))
				return
			}
			a.clip = clip
			m.nextAnnouncement()
			if !a.begun {
				m.queueAnnouncement(a)
			}
		})
	})
}

// queueAnnouncement has a wait for others, but not for ever.
func (m *model) queueAnnouncement(a *announcement) {
	a.answer(Result{Data: map[string]any{"queued": true, "timeout_s": a.Timeout.Seconds()}}, nil)
	a.answer = nil
	a.timers = append(a.timers, m.after(a.Timeout, func() {
		if !a.begun {
			m.log.Warn("an announcement waited for others for too long, it was not said", slog.Duration("timeout", a.Timeout), slog.Any("players", a.pids()))
			m.endAnnouncement(a, nil)
		}
	}))
}

// audience are the speakers that an announcement means and that are there.
func (m *model) audience(cmd Announce) ([]*client, *CommandError) {
	switch {
	case cmd.URL == "" && cmd.Text == "":
		return nil, Errorf(CodeInvalidValue, "announce: got neither a URL nor a text")
	case cmd.Text != "" && m.opts.Speak == nil:
		return nil, Errorf(CodeNotSupported, "no speech service is configured; set homeassistant.url, token and tts_engine")
	case len(cmd.Targets) == 0:
		return nil, Errorf(CodeInvalidValue, "announce: no speaker was named")
	}
	if err := inRange("volume", cmd.Volume, 0, 100); err != nil {
		return nil, err
	}
	var all []*client
	for _, t := range cmd.Targets {
		if t.GroupID != "" {
			g, err := m.findGroup(t.GroupID)
			if err != nil {
				return nil, err
			}
			all = append(all, g.players()...)
			continue
		}
		c, err := m.findPlayer(t.PID)
		if err != nil {
			return nil, err
		}
		all = append(all, c)
	}
	var out []*client
	for _, c := range all {
		if _, ok := c.streamed(); ok && !slices.Contains(out, c) {
			out = append(out, c)
		}
	}
	if len(out) == 0 {
		return nil, Errorf(CodeNotConnected, "none of the speakers is connected; switch one on and try again")
	}
	return out, nil
}

// loadClip fetches and decodes what is said, the chime before it.
func (s *Server) loadClip(ctx context.Context, cmd Announce) (*stream.Clip, error) {
	url := cmd.URL
	if url == "" {
		var err error
		if url, err = s.opts.Speak(ctx, cmd.Text); err != nil {
			return nil, err
		}
	}
	clip, err := s.decodeClip(ctx, url)
	if err != nil {
		return nil, err
	}
	chime := s.opts.Announcements.Chime
	switch {
	case cmd.Chime != nil && !*cmd.Chime, cmd.Chime == nil && chime == "":
		return clip, nil
	case chime == "":
		before := doorbell(clip.Rate)
		clip.PCM = append(before, clip.PCM...)
		return clip, nil
	}
	before, err := s.decodeClip(ctx, chime)
	if err != nil { // what is said matters more
		s.log.Warn("the chime can't be played", slog.String("chime", chime), slog.Any("err", err))
		return clip, nil
	}
	if before.Rate != clip.Rate {
		conv, err := convert(before.Rate, clip.Rate)
		if err != nil {
			return nil, err
		}
		before.PCM = conv.Flush(conv.Convert(nil, before.PCM))
	}
	clip.PCM = append(before.PCM, clip.PCM...)
	return clip, nil
}

// decodeClip reads a whole source.
func (s *Server) decodeClip(ctx context.Context, url string) (*stream.Clip, error) {
	src, err := s.opts.OpenMedia(ctx, url)
	if err != nil {
		return nil, err
	}
	defer src.Close()
	stop := context.AfterFunc(ctx, func() { _ = src.Close() }) // frees a Read that waits
	defer stop()
	rate := src.Info().Rate
	limit := int(maxClip.Seconds()) * rate * audio.Channels
	clip := &stream.Clip{Rate: rate}
	buf := make([]int32, rate/10*audio.Channels)
	for {
		n, err := src.Read(buf)
		clip.PCM = append(clip.PCM, buf[:n*audio.Channels]...)
		switch {
		case ctx.Err() != nil:
			return nil, fmt.Errorf("%w: it took longer than %v to load", audio.ErrUnreachable, loadWithin)
		case errors.Is(err, io.EOF), errors.Is(err, audio.ErrDamaged) && len(clip.PCM) > 0:
			if len(clip.PCM) == 0 {
				return nil, fmt.Errorf("%w: it holds no audio", audio.ErrUnsupported)
			}
			return clip, nil
		case err != nil:
			return nil, err
		case len(clip.PCM) > limit:
			return nil, fmt.Errorf("%w: an announcement lasts %v at most; use play_url", audio.ErrUnsupported, maxClip)
		}
	}
}

// doorbell is the chime for those who ask for one and configured none: two
// tones that fade.
func doorbell(rate int) []int32 {
	var out []int32
	for _, f := range []float64{659.26, 523.25} { // e'', c''
		n := rate * 6 / 10
		pcm := make([]int32, n*audio.Channels)
		_, _ = audio.Tone{Frequency: f, Level: 0.3, Rate: rate}.Source().Read(pcm) // a tone never ends
		for i := range pcm {
			left := 1 - float64(i/audio.Channels)/float64(n)
			pcm[i] = int32(float64(pcm[i]) * left * left)
		}
		out = append(out, pcm...)
	}
	return out
}

// nextAnnouncement begins what can begin: those that are loaded and whose
// groups are free, higher priority first.
func (m *model) nextAnnouncement() {
	for _, a := range m.spoken {
		if a.clip == nil || a.begun {
			continue
		}
		a.players = slices.DeleteFunc(a.players, func(c *client) bool { // forgotten or gone meanwhile
			_, ok := c.streamed()
			return m.clients[c.rec.PID] != c || !ok
		})
		if len(a.players) == 0 {
			m.endAnnouncement(a, Errorf(CodeNotConnected, "none of the speakers is connected any more; nothing was said"))
			return // that has looked at the others
		}
	}
	waiting := slices.Clone(m.spoken)
	slices.SortStableFunc(waiting, func(a, b *announcement) int { return cmp.Compare(b.Priority, a.Priority) })
	taken := map[*group]bool{}
	for _, a := range waiting {
		if a.begun {
			for _, c := range a.players {
				taken[c.group] = true
			}
		}
	}
	for _, a := range waiting {
		free := a.clip != nil && !a.begun
		for _, c := range a.players {
			free = free && !taken[c.group]
		}
		for _, c := range a.players {
			taken[c.group] = true // also if it waits: nobody of lower priority goes before it
		}
		if free {
			m.beginAnnouncement(a)
		}
	}
}

func (m *model) beginAnnouncement(a *announcement) {
	a.begun = true
	groups := map[*group]map[string]bool{}
	for _, c := range a.players {
		if groups[c.group] == nil {
			groups[c.group] = map[string]bool{}
		}
		groups[c.group][c.rec.PID] = true
		m.announceVolume(a, c)
	}
	now := m.opts.Clock.Now()
	at := now
	settings := m.opts.Announcements
	for g := range groups {
		st := m.stageOf(g)
		at = max(at, now+stream.Lead(st.cast, g.playback == Playing, micros(settings.Ramp)))
	}
	a.open = len(groups)
	for g, ids := range groups {
		g.speaking++
		m.touchGroup(g)
		g.stage.engine.Announce(stream.Announcement{
			Clip: *a.clip, Players: ids, At: at, Duck: settings.Duck * a.compensation(ids), Ramp: micros(settings.Ramp),
			Done: func() { m.post(nil, func() { m.spokenIn(a, g) }) },
		})
	}
	wait := time.Duration(at-now) * time.Microsecond
	a.timers = append(a.timers, m.after(max(wait-volumeLead, 0), func() {
		for c, v := range a.before {
			if c.link != nil {
				_ = m.sendVolume(c, v.now) // a link that has ended hears nothing anyway
			}
		}
	}))
	if a.answer != nil {
		length := time.Duration(len(a.clip.PCM)/audio.Channels) * time.Second / time.Duration(a.clip.Rate)
		a.answer(Result{Data: map[string]any{
			"players": a.pids(), "starts_in_ms": wait.Milliseconds(), "duration_ms": length.Milliseconds(),
		}}, nil)
		a.answer = nil
	}
}

func (a *announcement) pids() (out []string) {
	for _, c := range a.players {
		out = append(out, c.rec.PID)
	}
	return out
}

// announceVolume decides how loud a speaker announces.
func (m *model) announceVolume(a *announcement, c *client) {
	was := c.expected(m.now())
	if was == nil || !c.accepts(protocol.CommandVolume) {
		return
	}
	now := *was
	switch {
	case a.Volume != nil:
		now = *a.Volume
	case c.rec.Announce != nil:
		now = *c.rec.Announce
	}
	for _, q := range m.opts.Announcements.Quiet {
		if q.covers(m.now()) {
			now = min(now, q.Volume)
		}
	}
	if now = min(now, c.maxVolume()); now != *was {
		a.before[c] = before{was: *was, now: now}
		update(&c.rec.Restore, was)
		m.unsaved = true
	}
}

// compensation keeps music from getting louder with the announcement's volume.
func (a *announcement) compensation(ids map[string]bool) float64 {
	gain := 1.0
	for c, v := range a.before {
		if ids[c.rec.PID] && v.now > v.was {
			gain = min(gain, stream.VolumeGain(v.was)/stream.VolumeGain(v.now))
		}
	}
	return gain
}

// spokenIn is called when a group has heard an announcement, or lost it.
func (m *model) spokenIn(a *announcement, g *group) {
	g.speaking--
	m.touchGroup(g)
	if a.open--; a.open == 0 {
		m.endAnnouncement(a, nil)
	}
}

// endAnnouncement brings volumes back, whatever the end.
func (m *model) endAnnouncement(a *announcement, err *CommandError) {
	if !slices.Contains(m.spoken, a) {
		return
	}
	m.spoken = slices.DeleteFunc(m.spoken, func(x *announcement) bool { return x == a })
	a.cancel()
	for _, t := range a.timers {
		t.Stop()
	}
	for c, v := range a.before {
		if now := c.expected(m.now()); c.link != nil && now != nil && *now != v.now {
			m.forgetRestore(c) // somebody else has set it meanwhile
		} else {
			m.restoreVolume(c)
		}
	}
	if a.answer != nil {
		a.answer(Result{}, err)
		a.answer = nil
	}
	m.nextAnnouncement()
	m.dirty = true
}

// restoreVolume gives a speaker the volume that it had before an announcement.
// One that is away gets it when it is back, also after a restart.
func (m *model) restoreVolume(c *client) {
	if c.rec.Restore == nil || c.link == nil {
		return
	}
	_ = m.sendVolume(c, *c.rec.Restore) // if the link has just ended, it is done when it is back
	m.forgetRestore(c)
}

func (m *model) forgetRestore(c *client) {
	c.rec.Restore = nil
	m.unsaved = true
}

// announcing reports whether an announcement of c's is under way.
func (m *model) announcing(c *client) bool {
	return slices.ContainsFunc(m.spoken, func(a *announcement) bool { return a.begun && slices.Contains(a.players, c) })
}

func micros(d time.Duration) timesync.Micros { return timesync.Micros(d / time.Microsecond) }
