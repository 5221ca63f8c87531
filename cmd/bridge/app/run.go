package app

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"runtime"
	"strings"
	"time"

	"resonatebridge/discovery"
	"resonatebridge/entities"
	"resonatebridge/mqtt"
	"resonatebridge/resonate"
	"resonatebridge/resonate/audio"

	"github.com/spf13/pflag"
)

func runCommand() command {
	return command{
		name: "run", short: "run the bridge",
		long: `Finds speakers, keeps a connection to each and shows them over MQTT. Without
mqtt.url it brings its own broker, on 127.0.0.1:1883. It ends on SIGINT or
SIGTERM within 5 s.`,
		setup: func(fs *pflag.FlagSet) runFunc {
			AddConfigFlags(fs)
			return runMain
		},
	}
}

func runMain(ctx context.Context, c *call) error {
	if err := c.noArgs(); err != nil {
		return err
	}
	cfg, sources, err := c.config()
	if err != nil {
		return err
	}
	for {
		log, level := newLogger(c.Stderr, cfg.Log, c.Env)
		err := Run(ctx, RunOptions{Config: cfg, Sources: sources, Env: c.Env, Log: log, Level: level, Build: buildOf(c.Process)})
		if !errors.Is(err, errRestart) {
			return err
		}
		if cfg, sources, err = c.config(); err != nil { // it may have changed meanwhile
			return err
		}
	}
}

// errRestart ends Run because somebody asked for a restart.
var errRestart = errors.New("a restart was asked for")

// RunOptions is everything that a whole bridge needs.
type RunOptions struct {
	Config  Config
	Sources Sources  // which keys nobody set; nil: all of them were
	Env     []string // for SUPERVISOR_TOKEN only
	Log     *slog.Logger
	Level   *slog.LevelVar // nil: the log level can't be changed
	Build   Build

	// Services are the mDNS types to browse and advertise; the zero value means
	// the protocol's. Demos and tests use their own, since every process on one
	// machine hears the others.
	Services Services
	// Admit, unless nil, says which endpoints may be dialled.
	Admit func(discovery.Endpoint) bool
	// Started, unless nil, is told once everything listens.
	Started func(Running)

	// Listen and DialContext, unless nil, take the place of this machine's TCP,
	// for players, web and broker. An embedded broker listens by TCP all the same.
	Listen      func(ctx context.Context, addr string) (net.Listener, error)
	DialContext func(ctx context.Context, network, addr string) (net.Conn, error)
}

// Services are mDNS service types.
type Services struct {
	Players []string // browsed
	Servers []string // advertised and browsed
}

// Running is a bridge that was started.
type Running struct {
	Server *resonate.Server
	Broker func() mqtt.Status
	MQTT   string   // URL of the broker
	HTTP   net.Addr // health and metrics
	Listen net.Addr // where players dial in
}

// Run runs a bridge until ctx ends, then stops it in the reverse order of its
// start, within 5 s: discovery, listeners, connections, entities, broker.
func Run(ctx context.Context, o RunOptions) error {
	cfg, log := o.Config, o.Log
	if len(o.Services.Players) == 0 {
		o.Services = Services{
			Players: []string{discovery.ServicePlayer, discovery.ServicePlayerOld},
			Servers: []string{discovery.ServiceServer, discovery.ServiceServerOld},
		}
	}
	running := newParts(log)
	defer func() { _ = running.stop() }() // after an error below; stop is done twice without harm

	finder, err := newFinder(cfg, o, log)
	if err != nil {
		return err
	}
	players, err := o.listen(ctx, "server.listen", cfg.Server.Listen)
	if err != nil {
		return err
	}
	defer players.Close()
	web, err := o.listen(ctx, "http.listen", cfg.HTTP.Listen)
	if err != nil {
		return err
	}
	defer web.Close()
	for _, l := range []struct {
		key, wanted string
		got         net.Addr
	}{{"server.listen", cfg.Server.Listen, players.Addr()}, {"http.listen", cfg.HTTP.Listen, web.Addr()}} {
		if _, want, _ := net.SplitHostPort(l.wanted); want != "0" && !strings.HasSuffix(l.got.String(), ":"+want) {
			log.Warn("the default port is taken by another program, using the next free one",
				slog.String("key", l.key), slog.String("wanted", l.wanted), slog.String("using", l.got.String()))
		}
	}
	dir, err := openDataDir(cfg.DataDir, time.Now(), log) // after the ports: a start that fails there changes no file
	if err != nil {
		return err
	}
	defer dir.close()
	opt := o.serverOptions(finder.Kick)
	if dir.storm() {
		opt.DialSpread = 4 * time.Second // twice the default
		log.Warn("the bridge has started three times within a minute, so it dials slowly; see why it ended in the log before this")
	}
	server, err := resonate.New(opt)
	if err != nil {
		return err
	}
	opts := o.brokerOptions(ctx, server.Identity().ID)
	if opts.URL == "" {
		embedded, err := mqtt.NewEmbedded(cfg.MQTT.Embedded.Listen, log)
		if err != nil {
			return err
		}
		opts.URL = "mqtt://" + dialable(embedded.Addr())
		running.start("embedded broker", embedded.Run)
		log.Info("no broker is configured, running an embedded one", slog.String("url", opts.URL))
	}
	ents := o.entityOptions()
	opts.Subscriptions = ents.Subscriptions()
	client, err := mqtt.New(opts)
	if err != nil {
		return err
	}
	ents.Cleanup = func(ctx context.Context) ([]string, error) { return clearGhosts(ctx, opts, ents, server, client) }
	started := time.Now()
	ents.Started = started
	restart := make(chan struct{}, 1)
	ents.Restart = func() {
		select {
		case restart <- struct{}{}:
		default: // one is due
		}
	}
	ents.Health = func() map[string]any { return healthFacts(server, client, started) }

	health := NewHealth(HealthOptions{
		Password: cfg.HTTP.Password,
		Ready:    func() error { return ready(client.Status()) },
		Metrics:  newMetrics(server, client.Status),
		Log:      log,
	})
	acceptor := &Health{newWebServer(server, log)}

	running.start("mqtt", client.Run)
	running.start("entities", func(ctx context.Context) error { return entities.Run(ctx, server, client, ents) })
	running.start("server", server.Run)
	running.start("http", func(ctx context.Context) error { return health.Run(ctx, web) })
	running.start("players", func(ctx context.Context) error { return acceptor.Run(ctx, players) })
	running.start("problems", func(ctx context.Context) error { return reportProblems(ctx, server, client) })
	running.start("restart", func(ctx context.Context) error {
		select {
		case <-restart:
			return errRestart
		case <-ctx.Done():
			return nil
		}
	})
	running.start("ghosts", func(ctx context.Context) error {
		removeGhosts(ctx, opts, ents, server, client, log)
		return nil
	})
	for _, service := range finder.advertised(cfg, server.Identity(), players.Addr()) {
		running.start("advertise", func(ctx context.Context) error { return discovery.Advertise(ctx, service) })
	}
	running.start("discovery", func(ctx context.Context) error { return finder.run(ctx, server) })

	log.Info("bridge started", slog.String("version", o.Build.Version), slog.String("broker", opts.LogValue().String()),
		slog.String("http", web.Addr().String()), slog.String("players", players.Addr().String()))
	if o.Started != nil {
		o.Started(Running{Server: server, Broker: client.Status, MQTT: opts.URL, HTTP: web.Addr(), Listen: players.Addr()})
	}
	failed := running.wait(ctx)
	log.Info("bridge stopping")
	return errors.Join(failed, running.stop())
}

// listen opens the address that is configured under key.
func (o RunOptions) listen(ctx context.Context, key, addr string) (l net.Listener, err error) {
	if o.Listen != nil {
		l, err = o.Listen(ctx, addr)
	} else {
		l, err = ListenTCP(ctx, addr, o.Sources.IsDefault(key))
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", key, err)
	}
	return l, nil
}

func (o RunOptions) serverOptions(rescan func()) resonate.Options {
	cfg, log := o.Config, o.Log
	media := audio.Options{Roots: mediaRoots(cfg), FFmpeg: cfg.Audio.FFmpeg, Log: log}
	opts := resonate.Options{
		OpenMedia: func(ctx context.Context, url string) (audio.Source, error) { return audio.Open(ctx, url, media) },
		Speak:     newSpeech(cfg.HomeAssistant, getenv(o.Env, "SUPERVISOR_TOKEN")), Announcements: announcements(cfg.Audio),
		Name: cfg.Name, DataDir: cfg.DataDir, Log: log, Rescan: rescan, Path: cfg.Server.Path, DialContext: o.DialContext,
		RefusePlaintext:   !cfg.Server.Plaintext,
		Custody:           resonate.Custody(cfg.Players.Custody),
		MaxVolume:         cfg.Players.MaxVolume,
		AvailabilityGrace: time.Duration(cfg.Players.AvailabilityGrace),
		MembershipGrace:   time.Duration(cfg.Players.MembershipGrace),
		Overrides:         map[string]resonate.Override{},
	}
	for id, x := range cfg.Players.Overrides {
		opts.Overrides[id] = resonate.Override{
			Name: x.Name, Custody: resonate.Custody(x.Custody), MaxVolume: x.MaxVolume, Dialect: x.Dialect,
		}
	}
	return opts
}

// brokerOptions says which broker is used: the configured one, else the one of
// the Home Assistant Supervisor, else none (an empty URL): the embedded one.
func (o RunOptions) brokerOptions(ctx context.Context, serverID string) mqtt.Options {
	c := o.Config.MQTT
	bridge := c.BaseTopic + "/bridge/"
	sum := sha256.Sum256([]byte(serverID + "\n" + c.BaseTopic))
	host, _ := os.Hostname() // for people only
	opts := mqtt.Options{
		URL: c.URL, Username: c.Username, Password: c.Password.Reveal(),
		CAFile: c.CAFile, CertFile: c.CertFile, KeyFile: c.KeyFile, Insecure: c.Insecure,
		// The first part is of the installation and base topic, the second of this
		// start: two clients with one id cut each other off for ever, and a copied
		// data directory makes them alike.
		ClientID:      "resonate-" + hex.EncodeToString(sum[:4]) + "-" + strings.ToLower(rand.Text()[:5]),
		Will:          mqtt.Message{Topic: bridge + "state", Payload: []byte("offline")},
		Online:        []byte("online"),
		SelftestTopic: bridge + "selftest",
		LeaseTopic:    bridge + "lease",
		Holder:        fmt.Sprintf("%s (process %d on %s)", o.Config.Name, os.Getpid(), host),
		Log:           o.Log,
		DialContext:   o.DialContext,
	}
	if c.Insecure {
		o.Log.Warn("mqtt.insecure is set: whoever sits between here and the broker can read and change everything")
	}
	if opts.URL != "" {
		return opts
	}
	token := getenv(o.Env, "SUPERVISOR_TOKEN")
	if token == "" {
		return opts
	}
	s := haSupervisor{url: "http://supervisor", token: token}
	b, err := s.broker(ctx)
	if err != nil {
		o.Log.Warn("the Home Assistant Supervisor offers no broker, running an embedded one; install the Mosquitto app or set mqtt.url", slog.Any("err", err))
		return opts
	}
	opts.URL = b.url()
	opts.Credentials = s.credentials
	return opts
}

func (o RunOptions) entityOptions() entities.Options {
	c := o.Config
	e := entities.Options{
		Speech:    newSpeech(c.HomeAssistant, getenv(o.Env, "SUPERVISOR_TOKEN")) != nil,
		BaseTopic: c.MQTT.BaseTopic, DiscoveryPrefix: c.HomeAssistant.DiscoveryPrefix, StatusTopic: c.HomeAssistant.StatusTopic,
		NoDiscovery: !c.HomeAssistant.Enabled, Entities: c.HomeAssistant.Entities,
		Version: o.Build.Version, Commit: o.Build.Commit,
		Protocols: resonate.Dialects(),
		Config:    c.Public(),
		Log:       o.Log,
	}
	if o.Level != nil {
		e.LogLevel = func() string { return levelName(o.Level.Level()) }
		e.SetLogLevel = func(name string) error { return setLevel(o.Level, name) }
	}
	return e
}

func levelName(l slog.Level) string {
	switch {
	case l < slog.LevelInfo:
		return "debug"
	case l < slog.LevelWarn:
		return "info"
	case l < slog.LevelError:
		return "warn"
	}
	return "error"
}

func healthFacts(s *resonate.Server, c *mqtt.Client, started time.Time) map[string]any {
	var mem runtime.MemStats
	runtime.ReadMemStats(&mem)
	st, counted := c.Status(), s.Counters()
	return map[string]any{
		"uptime_s": int(time.Since(started).Seconds()), "heap_bytes": mem.HeapAlloc, "goroutines": runtime.NumGoroutine(),
		"mqtt": map[string]any{"connected": st.Connected, "generation": st.Generation, "drops": st.Drops},
		"counters": map[string]any{
			"dials": counted.Dials, "sessions": counted.Sessions, "malformed": counted.Malformed,
			"slow_consumers": counted.SlowConsumers, "refused": counted.Refused,
			"encoded_chunks": counted.Encoded, "missed_chunks": counted.Missed,
		},
	}
}

// ready tells what the bridge waits for.
func ready(st mqtt.Status) error {
	switch {
	case st.Connected:
		return nil
	case st.HeldBy != "":
		return errors.New(st.Problem)
	}
	return errors.New("the broker is not connected")
}

// reportProblems shows what is wrong with the broker connection beside the
// other problems.
func reportProblems(ctx context.Context, s *resonate.Server, c *mqtt.Client) error {
	for {
		select {
		case <-c.Changed():
			s.SetProblem("mqtt", c.Status().Problem)
		case <-ctx.Done():
			return nil
		}
	}
}

// sweepTime is how long retained messages are collected at most.
const sweepTime = 5 * time.Second

// clearGhosts removes retained topics of ours that nothing stands for any
// more, for instance of a player that was forgotten while the broker was away.
func clearGhosts(ctx context.Context, opts mqtt.Options, ents entities.Options, s *resonate.Server, c *mqtt.Client) ([]string, error) {
	ctx, cancel := context.WithTimeout(ctx, sweepTime)
	defer cancel()
	found, err := mqtt.Sweep(ctx, opts, entities.GhostFilters(ents), 500*time.Millisecond)
	if err != nil {
		return nil, err
	}
	// Rendered after the sweep: what has come meanwhile is no ghost.
	ghosts := entities.Ghosts(ents, found, entities.Render(ents, s.Snapshot()))
	for _, topic := range ghosts {
		class := mqtt.ClassState
		if strings.HasPrefix(topic, ents.DiscoveryPrefix+"/") {
			class = mqtt.ClassDiscovery
		}
		c.Set(topic, nil, class)
	}
	return ghosts, nil
}

// removeGhosts clears after each new connection to the broker what stands for
// nothing: what an earlier run left behind, and what a broker that lost its last
// minutes remembers again. Failing is no harm: the next connection tries again.
func removeGhosts(ctx context.Context, opts mqtt.Options, ents entities.Options, s *resonate.Server, c *mqtt.Client, log *slog.Logger) {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	var swept uint64 // generation of the connection that was looked at last
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
		st := c.Status()
		if !st.Connected || st.Generation == swept {
			continue
		}
		swept = st.Generation
		topics, err := clearGhosts(ctx, opts, ents, s, c)
		switch {
		case ctx.Err() != nil:
		case err != nil:
			log.Warn("stale topics were not looked for", slog.Any("err", err))
		case len(topics) > 0:
			log.Info("stale retained topics removed", slog.Int("count", len(topics)), slog.Any("topics", topics[:min(len(topics), 10)]))
		}
	}
}

// dialable is an address that a client on this machine can use.
func dialable(addr string) string {
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return addr
	}
	if ip := net.ParseIP(host); ip != nil && ip.IsUnspecified() {
		host = "127.0.0.1"
	}
	return net.JoinHostPort(host, port)
}
