package app

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"slices"
	"strings"

	"resonatebridge/discovery"
	"resonatebridge/resonate/client"
	"resonatebridge/resonate/protocol"

	"github.com/spf13/pflag"
)

// playerListen is where a player listens by default (spec: recommended port of
// players).
const playerListen = ":8928"

func playerCommand() command {
	return command{
		name: "player", short: "runs a software speaker",
		long: `Listens for servers, on port 8928 or the next free one, and announces itself over
mDNS; with --server it dials that server instead. An address on loopback is not
announced. It plays into nothing unless --out names a WAV file, which is
overwritten; - is the standard output.

Dialects, old to new: R1 R2 S1 S2 S3 S4. The encrypted ones, G1 and G2, come with
a later version.`,
		setup: func(fs *pflag.FlagSet) runFunc {
			var f playerFlags
			fs.StringVar(&f.name, "name", "", "what it calls itself (default \"Software speaker on\" and the host's name)")
			fs.StringVar(&f.listen, "listen", playerListen, "`ADDR`ess where servers may dial it")
			fs.StringVar(&f.server, "server", "", "`URL` of a server to dial, ws://host:port/path, instead of listening")
			fs.StringVar(&f.out, "out", "null", "null, `FILE.wav` or -")
			fs.StringVar(&f.dialect, "dialect", "S4", "R1, R2, S1, S2, S3 or S4")
			AddConfigFlags(fs)
			// Not f.run: that would bind a copy, from before the flags are parsed.
			return func(ctx context.Context, c *call) error { return f.run(ctx, c) }
		},
	}
}

type playerFlags struct{ name, listen, server, out, dialect string }

func (f playerFlags) check(c *call) error {
	if err := c.noArgs(); err != nil {
		return err
	}
	if f.server != "" && c.flags.Changed("listen") {
		return usagef("--listen and --server exclude each other: it listens, or it dials")
	}
	if f.out != "null" && f.out != "-" && !strings.HasSuffix(strings.ToLower(f.out), ".wav") {
		return usagef("--out %q: want null, a file that ends in .wav, or -", cut(f.out))
	}
	if f.dialect == "G1" || f.dialect == "G2" {
		return usagef("--dialect %s: the encrypted dialects come with a later version; use R1, R2, S1, S2, S3 or S4", f.dialect)
	}
	if !slices.Contains([]string{"R1", "R2", "S1", "S2", "S3", "S4"}, f.dialect) {
		return usagef("--dialect %q: want R1, R2, S1, S2, S3 or S4", cut(f.dialect))
	}
	return nil
}

func (f playerFlags) run(ctx context.Context, c *call) (err error) {
	if err := f.check(c); err != nil {
		return err
	}
	cfg, _, err := c.config()
	if err != nil {
		return err
	}
	log, _ := newLogger(c.Stderr, cfg.Log, c.Env)
	o := f.options(log)
	o.Server = f.server
	if f.server == "" {
		if o.Listener, err = ListenTCP(ctx, f.listen, !c.flags.Changed("listen")); err != nil {
			return err
		}
		defer o.Listener.Close()
		if cfg.Discovery.Enabled && cfg.Discovery.Advertise && !isLoopback(o.Listener.Addr()) {
			o.Advertise = func(ctx context.Context, a client.Advert) error {
				return c.advertise(ctx, discovery.AdvertiseOptions{
					Instance: o.ClientID, Service: a.Service, Port: uint16(a.Port),
					Path: a.Path, Name: a.Name, Interfaces: cfg.Discovery.Interfaces, Log: log,
				})
			}
		}
	}
	// Only options are wrong up to here: a refused one must not have emptied
	// the file.
	if _, err := client.NewPlayer(o); err != nil {
		return usagef("%v", err)
	}
	out, closeOut, err := openOut(f.out, c.Stdout)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, closeOut()) }()
	o.Out = out
	p, err := client.NewPlayer(o)
	if err != nil {
		return err
	}
	if o.Listener != nil {
		log.Info("player listens", slog.String("addr", o.Listener.Addr().String()), slog.String("client_id", o.ClientID),
			slog.String("dialect", o.Dialect), slog.Bool("announced", o.Advertise != nil))
	} else {
		log.Info("player dials", slog.String("server", withoutUser(o.Server)), slog.String("client_id", o.ClientID), slog.String("dialect", o.Dialect))
	}
	return p.Run(ctx)
}

// options describe the player. Its id is the same at each start on this host
// with this name, so that servers know it again.
func (f playerFlags) options(log *slog.Logger) client.PlayerOptions {
	host, err := os.Hostname()
	if err != nil {
		host = "this computer"
	}
	name := f.name
	if name == "" {
		name = "Software speaker on " + host
	}
	sum := sha256.Sum256([]byte(host + "\x00" + name))
	return client.PlayerOptions{
		ClientID: "soft-" + hex.EncodeToString(sum[:4]),
		Name:     name,
		Dialect:  f.dialect,
		Device:   protocol.DeviceInfo{ProductName: "Software speaker", Manufacturer: "Resonate Bridge"},
		Log:      log,
	}
}

// openOut opens what --out names; nil: nobody listens.
func openOut(name string, stdout io.Writer) (io.Writer, func() error, error) {
	switch name {
	case "null":
		return nil, func() error { return nil }, nil
	case "-":
		return stdout, func() error { return nil }, nil
	}
	file, err := os.Create(name)
	if err != nil {
		return nil, nil, fmt.Errorf("--out: %w", err)
	}
	return file, file.Close, nil
}

func isLoopback(a net.Addr) bool {
	tcp, ok := a.(*net.TCPAddr)
	return ok && tcp.IP.IsLoopback()
}
