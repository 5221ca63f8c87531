package app

import (
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"resonatebridge/discovery"
	"resonatebridge/resonate/client"
	"resonatebridge/resonate/pairing"
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

Dialects, old to new: R1 R2 S1 S2 S3 S4, and encrypted G1 G2. In an encrypted one it
keeps an identity and its pairings in --state-dir, and can be paired by the token
that --show-token prints and, in G2, by a code: one that it shows when a server
asks for it, or the 8 digits of --pairing-code after Enter was pressed.`,
		setup: func(fs *pflag.FlagSet) runFunc {
			var f playerFlags
			fs.StringVar(&f.name, "name", "", "what it calls itself (default \"Software speaker on\" and the host's name)")
			fs.StringVar(&f.listen, "listen", playerListen, "`ADDR`ess where servers may dial it")
			fs.StringVar(&f.server, "server", "", "`URL` of a server to dial, ws://host:port/path, instead of listening")
			fs.StringVar(&f.out, "out", "null", "null, `FILE.wav` or -")
			fs.StringVar(&f.dialect, "dialect", "S4", "R1, R2, S1, S2, S3, S4, G1 or G2")
			fs.StringVar(&f.stateDir, "state-dir", "", "`DIR`ectory of an encrypted player (default one by its name in data_dir)")
			fs.StringVar(&f.code, "pairing-code", codeShown, "show, none or a `CODE` of 8 digits")
			fs.BoolVar(&f.aes, "aes-gcm", false, "encrypt with AES-GCM instead of ChaCha20-Poly1305")
			fs.BoolVar(&f.unpaired, "unpaired-access", true, "servers may play without being paired, if they ask a person")
			fs.BoolVar(&f.token, "show-token", false, "print the pairing token, which is a secret")
			AddConfigFlags(fs)
			// Not f.run: that would bind a copy, from before the flags are parsed.
			return func(ctx context.Context, c *call) error { return f.run(ctx, c) }
		},
	}
}

type playerFlags struct {
	name, listen, server, out, dialect string
	stateDir, code                     string // encrypted
	aes, unpaired, token               bool   // encrypted
}

// Values of --pairing-code that are no code.
const (
	codeShown = "show"
	codeNone  = "none"
)

// encrypted reports whether the dialect is.
func (f playerFlags) encrypted() bool { return f.dialect == "G1" || f.dialect == "G2" }

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
	if !f.encrypted() && !slices.Contains([]string{"R1", "R2", "S1", "S2", "S3", "S4"}, f.dialect) {
		return usagef("--dialect %q: want R1, R2, S1, S2, S3, S4, G1 or G2", cut(f.dialect))
	}
	for _, name := range []string{"state-dir", "pairing-code", "aes-gcm", "unpaired-access", "show-token"} {
		if c.flags.Changed(name) && !f.encrypted() {
			return usagef("--%s belongs to the encrypted dialects, G1 and G2", name)
		}
	}
	if c.flags.Changed("pairing-code") && f.dialect == "G1" {
		return usagef("--pairing-code: G1 pairs by token only")
	}
	return nil
}

// trust fills in what an encrypted player has besides.
func (f playerFlags) trust(o *client.PlayerOptions, dataDir string) (err error) {
	if !f.encrypted() {
		return nil
	}
	o.AESGCM, o.Unpaired = f.aes, f.unpaired
	switch {
	case f.dialect == "G1", f.code == codeNone:
	case f.code == codeShown:
		o.Dynamic = &protocol.DynamicCode{Channels: []protocol.CodeChannel{protocol.ChannelDisplay}, Formats: []protocol.CodeFormat{protocol.CodeDigits}}
	default:
		if o.Static, err = pairing.ParseStaticCode(f.code); err != nil {
			return usagef("--pairing-code: want show, none or 8 digits: %v", err)
		}
	}
	dir := f.stateDir
	if dir == "" {
		dir = filepath.Join(dataDir, o.ClientID)
	}
	if o.Memory, err = client.OpenMemory(dir); err != nil {
		return err
	}
	o.ClientID = o.Memory.ID()
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
	if err := f.trust(&o, cfg.DataDir); err != nil {
		return err
	}
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
	if o.Memory == nil {
		return p.Run(ctx)
	}
	people := c.Stdout
	if f.out == "-" {
		people = c.Stderr
	}
	if f.token {
		if _, err := fmt.Fprintln(people, "Pairing token:", o.Memory.Token().Reveal()); err != nil {
			return err
		}
	}
	go gestures(ctx, c.Stdin, p)
	ctx, end := context.WithCancel(ctx)
	var wg sync.WaitGroup
	wg.Go(func() { tellPairing(ctx, p, people) })
	err = p.Run(ctx)
	end()
	wg.Wait()
	return err
}

// gestures takes each line of r, such as Enter on a terminal, for a person's
// deliberate act. It ends with r, or at the first line after ctx.
func gestures(ctx context.Context, r io.Reader, p *client.Player) {
	lines := bufio.NewScanner(r)
	for lines.Scan() {
		if p.Gesture(ctx) != nil {
			return
		}
	}
}

// tellPairing tells people how attempts to pair go, until ctx ends.
func tellPairing(ctx context.Context, p *client.Player, w io.Writer) {
	last := ""
	for {
		st, changed := p.Watch()
		if text := pairingText(st); text != last {
			last = text
			if text != "" {
				fmt.Fprintln(w, text)
			}
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return
		}
	}
}

func pairingText(st client.State) string {
	at := st.Pairing
	switch at.Phase {
	case pairing.PhasePending:
		return "Pairing waits: press Enter to admit it."
	case pairing.PhaseCode:
		if at.Code.IsZero() {
			return "" // it stands on the label
		}
		return fmt.Sprintf("Pairing code %s (round %d)", at.Code.Reveal(), at.Round)
	case pairing.PhaseDone:
		return "Paired with " + plain(st.ServerName) + "."
	case pairing.PhaseEnded:
		return "Pairing ended: " + plain(string(at.Ended)) + "."
	default:
		return ""
	}
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
