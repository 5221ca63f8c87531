package app

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"strings"
	"sync"
	"time"

	"resonatebridge/discovery"
	"resonatebridge/resonate"
	"resonatebridge/resonate/client"
	"resonatebridge/resonate/protocol"

	"github.com/spf13/pflag"
	"golang.org/x/term"
)

// maxDemoPlayers keeps a typing error from filling the machine.
const maxDemoPlayers = 100

func demoCommand() command {
	return command{
		name: "demo", short: "show everything at work, on this machine only",
		long: `Runs a broker, software speakers and the bridge in one process. Nothing has to
be configured, and nothing leaves this machine: only loopback is used. All but
the last speaker are found by the bridge over mDNS; the last one finds the
bridge and dials in. Choices are kept in a temporary directory, unless data_dir
is set.`,
		setup: func(fs *pflag.FlagSet) runFunc {
			AddConfigFlags(fs)
			players := fs.Int("players", 3, "how many speakers, 1 to 100")
			mqtt := fs.String("mqtt", "", "where the demo's broker listens, `ADDR` host:port (default 127.0.0.1:1883, else a free port)")
			return func(ctx context.Context, c *call) error { return demoMain(ctx, c, *players, *mqtt) }
		},
	}
}

func demoMain(ctx context.Context, c *call, players int, mqttAddr string) error {
	if err := c.noArgs(); err != nil {
		return err
	}
	if players < 1 || players > maxDemoPlayers {
		return usagef("--players %d: want 1 to %d", players, maxDemoPlayers)
	}
	cfg, sources, err := c.config()
	if err != nil {
		return err
	}
	d := &demo{out: c.Stdout, speakers: players}
	if sources.IsDefault("data_dir") {
		dir, err := os.MkdirTemp("", "resonate-demo-")
		if err != nil {
			return fmt.Errorf("demo: %w", err)
		}
		defer os.RemoveAll(dir)
		cfg.DataDir = dir
	}
	if cfg.MQTT.Embedded.Listen, err = demoBrokerAddr(ctx, mqttAddr); err != nil {
		return err
	}
	lo, err := loopback()
	if err != nil {
		return err
	}
	cfg.MQTT.URL = "" // its own broker, always
	cfg.Server.Listen, cfg.HTTP.Listen = "127.0.0.1:0", "127.0.0.1:0"
	cfg.Discovery.Enabled, cfg.Discovery.Advertise = true, true
	cfg.Discovery.Interfaces, cfg.Discovery.Players = []string{lo}, nil

	// Every process on this machine hears the others on loopback: service
	// types of its own keep two demos, and real speakers' tools, apart.
	tag, err := randomTag()
	if err != nil {
		return err
	}
	d.service, d.server, d.lo = "_p"+tag+"._tcp", "_s"+tag+"._tcp", lo

	live := isTerminal(c.Stdout)
	logs := c.Stderr
	if live {
		d.notes = &lastLines{}
		logs = d.notes
		if sources.IsDefault("log.level") {
			cfg.Log.Level = "warn"
		}
	}
	log, level := newLogger(logs, cfg.Log, c.Env)
	d.log = log

	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	started := make(chan Running, 1)
	ended := make(chan error, 1)
	go func() { // owner: demoMain, which takes the result
		ended <- Run(ctx, RunOptions{
			Config: cfg, Log: log, Level: level, Build: buildOf(c.Process),
			Services: Services{Players: []string{d.service}, Servers: []string{d.server}},
			Admit:    d.admit,
			Started:  func(r Running) { started <- r },
		})
	}()
	select {
	case r := <-started:
		err = d.run(ctx, r, live)
		cancel()
		return errors.Join(err, <-ended)
	case err := <-ended:
		return err
	}
}

// demo is the part of the demo that is not the bridge: speakers and display.
type demo struct {
	out             io.Writer
	log             *slog.Logger
	speakers        int
	service, server string // mDNS types of this demo
	lo              string // the loopback interface
	notes           *lastLines
}

// run shows the demo until ctx ends or the user quits.
func (d *demo) run(ctx context.Context, r Running, live bool) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	for i := range d.speakers {
		p, err := d.speaker(i)
		if err != nil {
			return err
		}
		wg.Go(func() { // owner: run; ends with ctx
			if err := p(ctx, r); err != nil && ctx.Err() == nil {
				d.log.Error("speaker ended", slog.Any("err", err))
			}
		})
	}
	wg.Go(func() { d.play(ctx, r) }) // owner: run; ends with ctx
	if live {
		return d.table(ctx, r)
	}
	return d.lines(ctx, r)
}

// play plays something on the first speaker as soon as it is there.
func (d *demo) play(ctx context.Context, r Running) {
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
		for _, p := range r.Server.Snapshot().Players {
			if p.Connection != resonate.Connected {
				continue
			}
			_, err := r.Server.Do(ctx, resonate.PlayMedia{
				Target: resonate.Target{PID: p.PID},
				Items:  []resonate.MediaItem{{URL: "tone:?frequency=440", Title: "Concert pitch", Artist: "The bridge"}},
			})
			if err != nil && ctx.Err() == nil {
				d.log.Error("the demo can't play", slog.Any("err", err))
			}
			return
		}
	}
}

// admit lets only speakers of this demo in: they alone use its service type.
func (d *demo) admit(e discovery.Endpoint) bool { return e.Service == d.service }

// demoRooms name the speakers.
func demoRooms() []string {
	return []string{"Kitchen", "Living Room", "Bath", "Bedroom", "Office", "Garden", "Hall", "Attic"}
}

// speaker makes speaker i; the last one of several dials in.
func (d *demo) speaker(i int) (func(context.Context, Running) error, error) {
	rooms := demoRooms()
	name := rooms[i%len(rooms)]
	if n := i / len(rooms); n > 0 {
		name = fmt.Sprintf("%s %d", name, n+1)
	}
	volume := 30 + i*10%60
	o := client.PlayerOptions{
		ClientID: "demo-" + strings.ReplaceAll(strings.ToLower(name), " ", "-"),
		Name:     name, Volume: &volume, Log: slog.New(slog.DiscardHandler),
		Device: protocol.DeviceInfo{ProductName: "Demo speaker", Manufacturer: "Resonate Bridge"},
	}
	if i > 0 && i == d.speakers-1 {
		return func(ctx context.Context, r Running) error { return d.dialIn(ctx, o, r) }, nil
	}
	o.Listen = "127.0.0.1:0"
	o.Advertise = func(ctx context.Context, a client.Advert) error {
		return discovery.Advertise(ctx, discovery.AdvertiseOptions{
			Instance: o.ClientID, Service: d.service, Port: uint16(a.Port), Path: a.Path, Name: a.Name, //nolint:gosec // a TCP port
			Interfaces: []string{d.lo}, Log: d.log,
		})
	}
	p, err := client.NewPlayer(o)
	if err != nil {
		return nil, fmt.Errorf("demo: %w", err)
	}
	return func(ctx context.Context, r Running) error {
		stop := time.AfterFunc(mdnsPatience, func() { d.introduce(p, o.ClientID, r) })
		defer stop.Stop()
		return p.Run(ctx)
	}, nil
}

// mdnsPatience is how long the demo waits for multicast on loopback, which
// some machines do not have.
const mdnsPatience = 4 * time.Second

// introduce tells the bridge where a speaker is, if it did not hear it.
func (d *demo) introduce(p *client.Player, id string, r Running) {
	if r.Server.Snapshot().Player(id) != nil || p.Snapshot().URL == "" {
		return
	}
	d.log.Warn("no mDNS on loopback here, telling the bridge the address", slog.String("player", id))
	if e, err := discovery.ParseStatic(p.Snapshot().URL); err == nil {
		r.Server.Discover(discovery.Event{Kind: discovery.Announced, Endpoint: e})
	}
}

// dialIn runs a speaker that looks for the bridge over mDNS and dials it.
func (d *demo) dialIn(ctx context.Context, o client.PlayerOptions, r Running) error {
	found, cancel := context.WithTimeout(ctx, mdnsPatience)
	defer cancel()
	o.Server = "ws://" + r.Listen.String() + "/sendspin"
	browser := discovery.NewMDNS(discovery.MDNSOptions{Services: []string{d.server}, Interfaces: []string{d.lo}, Log: d.log})
	err := browser.Run(found, func(ev discovery.Event) {
		if s := discovery.ServerOf(ev.Endpoint); ev.Kind == discovery.Announced && s.URL != "" {
			o.Server = s.URL
			cancel()
		}
	})
	if err != nil || ctx.Err() != nil {
		return err
	}
	p, err := client.NewPlayer(o)
	if err != nil {
		return fmt.Errorf("demo: %w", err)
	}
	return p.Run(ctx)
}

// demoBrokerAddr is the address that was asked for, else the usual one, else a
// free one.
func demoBrokerAddr(ctx context.Context, asked string) (string, error) {
	addr := asked
	if addr == "" {
		addr = "127.0.0.1:1883"
	}
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		return "", usagef("--mqtt %q: want host:port, such as 127.0.0.1:1884", asked)
	}
	if ip := net.ParseIP(host); host != "localhost" && (ip == nil || !ip.IsLoopback()) {
		return "", usagef("--mqtt %q: the demo stays on this machine, want a loopback address such as 127.0.0.1:1884", asked)
	}
	var lc net.ListenConfig
	l, err := lc.Listen(ctx, "tcp", addr)
	switch {
	case err == nil:
		return addr, l.Close()
	case asked == "":
		return "127.0.0.1:0", nil
	}
	return "", fmt.Errorf("--mqtt %s: %w; choose another port", addr, shortNetError(err))
}

// loopback is the name of the loopback interface.
func loopback() (string, error) {
	all, err := net.Interfaces()
	if err != nil {
		return "", fmt.Errorf("demo: %w", err)
	}
	for _, i := range all {
		if i.Flags&net.FlagLoopback != 0 && i.Flags&net.FlagUp != 0 {
			return i.Name, nil
		}
	}
	return "", errors.New("demo: this machine has no loopback interface that is up")
}

func randomTag() (string, error) {
	var b [4]byte
	if _, err := rand.Read(b[:]); err != nil {
		return "", fmt.Errorf("demo: %w", err)
	}
	return hex.EncodeToString(b[:]), nil
}

// isTerminal reports whether stream, a reader or writer, is one.
func isTerminal(stream any) bool {
	f, ok := stream.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}

// try lists commands to try; base is how this program was started.
func (d *demo) try(snap *resonate.Snapshot, mqttURL string) []string {
	base := "bridge"
	if exe, err := os.Executable(); err == nil && strings.Contains(exe, "go-build") {
		base = "go run ./cmd/bridge" // it was started like this, so this works again
	}
	env, port := "", ""
	if mqttURL != "mqtt://127.0.0.1:1883" {
		env = "RESONATE_MQTT_URL=" + mqttURL + " "
		port = " -p " + mqttURL[strings.LastIndexByte(mqttURL, ':')+1:]
	}
	out := []string{env + base + " status"}
	if p := snap.Players; len(p) > 0 {
		out = append(out, fmt.Sprintf("%s%s volume %q 25", env, base, p[0].Name))
	}
	if p := snap.Players; len(p) > 1 {
		out = append(out, fmt.Sprintf("%s%s group %q %q", env, base, p[1].Name, p[0].Name))
	}
	if p := snap.Players; len(p) > 0 {
		out = append(out, fmt.Sprintf("%s%s announce %q 'tone:?frequency=880&seconds=1'", env, base, p[len(p)-1].Name))
	}
	return append(out, fmt.Sprintf("mosquitto_sub%s -v -t 'resonate/#'", port))
}
