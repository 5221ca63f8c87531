package app

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"text/tabwriter"
	"time"

	"resonatebridge/discovery"

	"github.com/spf13/pflag"
)

const (
	listenTime   = 3 * time.Second // how long the doctor listens for mDNS
	dialTime     = 2 * time.Second // how long one speaker may take to accept
	selftestTime = 5 * time.Second // how long the broker may take to echo
	maxDials     = 32              // at a time
)

func doctorCommand() command {
	return command{
		name:  "doctor",
		short: "checks network, broker and speakers, and says what to do",
		long:  "Takes a few seconds, changes nothing, and may run beside a running bridge.\nExit status 1 if something fails; a warning is no failure.",
		setup: func(fs *pflag.FlagSet) runFunc {
			AddConfigFlags(fs)
			asJSON := fs.Bool("json", false, "print JSON")
			return func(ctx context.Context, c *call) error {
				if err := c.noArgs(); err != nil {
					return err
				}
				d := &doctor{call: c, Checks: []check{}}
				d.examine(ctx)
				if err := ctx.Err(); err != nil {
					return err
				}
				if err := d.print(*asJSON); err != nil {
					return err
				}
				if !d.OK {
					return errFailed
				}
				return nil
			}
		},
	}
}

// verdict is how one check ended.
type verdict string

const (
	fine verdict = "ok"
	warn verdict = "warn"
	fail verdict = "fail"
)

// check is one row of the doctor's report: what, how it stands, and a sentence
// with what to do about it.
type check struct {
	Name    string  `json:"name"`
	Verdict verdict `json:"status"`
	Text    string  `json:"text"`
}

// doctor examines one after the other what has to work, from the inside out.
type doctor struct {
	*call   `json:"-"`
	OK      bool    `json:"ok"`
	Checks  []check `json:"checks"`
	cfg     Config
	sources Sources
	alive   bool   // a bridge answers at http.listen
	online  *house // what a bridge published, if one is online
}

func (d *doctor) say(name string, v verdict, format string, args ...any) {
	d.Checks = append(d.Checks, check{name, v, plain(fmt.Sprintf(format, args...))})
	if v == fail {
		d.OK = false
	}
}

func (d *doctor) examine(ctx context.Context) {
	d.OK = true
	if !d.configuration() {
		return // every other check would be one of the wrong thing
	}
	d.dataDir()
	d.alive = askHealth(ctx, d.cfg.HTTP.Listen) == nil
	d.broker(ctx)
	d.bridge()
	d.ports(ctx)
	if d.cfg.Discovery.Enabled {
		d.network(ctx)
	} else {
		d.say("mdns", warn, "discovery.enabled is false: only discovery.players and speakers that dial in are found")
	}
	d.dial(ctx, "discovery.players", d.static())
}

func (d *doctor) configuration() bool {
	cfg, sources, err := d.config()
	var wrong *ConfigError
	if errors.As(err, &wrong) {
		for _, p := range wrong.Problems {
			d.say("configuration", fail, "%s", p)
		}
		return false
	}
	if err != nil {
		d.say("configuration", fail, "%v", err)
		return false
	}
	d.cfg, d.sources = cfg, sources
	if len(sources) == 0 {
		d.say("configuration", fine, "nothing is configured; every key has its default")
		return true
	}
	var set []string
	for _, key := range sortedKeys(sources) {
		set = append(set, key+" from "+sources[key])
	}
	d.say("configuration", fine, "%s", strings.Join(set, "; "))
	return true
}

// dataDir finds out whether the directory can be written, without making it.
func (d *doctor) dataDir() {
	const name = "data_dir"
	dir := d.cfg.DataDir
	shown, err := filepath.Abs(dir)
	if err != nil {
		shown = dir
	}
	info, err := os.Stat(dir)
	missing := errors.Is(err, os.ErrNotExist)
	for missing { // the nearest ancestor that exists decides
		dir = filepath.Dir(filepath.Clean(dir))
		info, err = os.Stat(dir)
		missing = errors.Is(err, os.ErrNotExist) && dir != filepath.Dir(dir)
	}
	switch {
	case err != nil:
		d.say(name, fail, "%s: %v; make it accessible for this user, or set data_dir", shown, err)
		return
	case !info.IsDir():
		d.say(name, fail, "%s: %s is not a directory; remove that file, or set data_dir", shown, dir)
		return
	}
	probe, err := os.CreateTemp(dir, ".doctor-*")
	if err != nil {
		d.say(name, fail, "%s can't be written as user %d; change its owner, or set data_dir", shown, os.Getuid())
		return
	}
	err = errors.Join(probe.Close(), os.Remove(probe.Name()))
	if err != nil {
		d.say(name, warn, "%s: the test file could not be removed: %v", shown, err)
		return
	}
	d.say(name, fine, "%s can be written", shown)
}

// broker checks that the broker is reached, lets us in and echoes what may be
// published, and reads what a bridge keeps there.
func (d *doctor) broker(ctx context.Context) {
	const name = "broker"
	r, err := d.remoteOf(ctx, d.cfg, d.sources)
	if err != nil {
		d.say(name, fail, "%v", err)
		return
	}
	embedded := r.at == "mqtt://"+reachable(d.cfg.MQTT.Embedded.Listen) && d.cfg.MQTT.URL == ""
	if embedded && d.seams.dial == nil && !accepts(ctx, reachable(d.cfg.MQTT.Embedded.Listen)) {
		d.say(name, fine, "mqtt.url is empty: the bridge brings its own broker, on %s, which runs with it", d.cfg.MQTT.Embedded.Listen)
		return
	}
	if err := r.selftest(ctx); err != nil {
		d.say(name, fail, "%v", err)
		return
	}
	h, err := r.house(ctx)
	switch {
	case err == nil && h.state == "online":
		d.online = h
		d.say(name, fine, "%s lets us in and passes messages on; a bridge is online there", r.at)
	case embedded:
		d.say(name, fail, "mqtt.url is empty, but another broker holds %s: set mqtt.url to %s to use it, or mqtt.embedded.listen to a free port",
			d.cfg.MQTT.Embedded.Listen, r.at)
	default:
		d.say(name, fine, "%s lets us in and passes messages on", r.at)
	}
}

// selftest sends a nonce to ourselves: brokers refuse silently what their
// access list forbids.
func (r *remote) selftest(ctx context.Context) error {
	ctx, cancel := context.WithTimeoutCause(ctx, selftestTime, fmt.Errorf("no answer within %v", selftestTime))
	defer cancel()
	topic, nonce := r.base+"/bridge/selftest", "doctor-"+rand.Text()
	_, err := r.broker.request(ctx, topic, []byte(nonce), topic, func(echo []byte) bool { return string(echo) == nonce })
	if err != nil && ctx.Err() != nil {
		return fmt.Errorf("%w; if the broker runs, its access list (ACL) forbids %s/# to this user, or the network drops packets", err, r.base)
	}
	return err
}

// bridge passes on what a running bridge says about itself.
func (d *doctor) bridge() {
	const name = "bridge"
	if d.online == nil {
		if d.alive {
			d.say(name, fail, "a bridge runs at %s but is not online at the broker; its log says why, and /readyz", reachable(d.cfg.HTTP.Listen))
		} else {
			d.say(name, warn, "no bridge is running; start it with bridge run")
		}
		return
	}
	if !d.alive {
		d.say(name, warn, "a bridge is online at the broker, but not at %s: it runs on another machine, or http.listen was taken when it started", reachable(d.cfg.HTTP.Listen))
	} else {
		d.say(name, fine, "a bridge runs and is online")
	}
	var info struct {
		Problems []string `json:"problems"`
	}
	if json.Unmarshal(d.online.info, &info) == nil {
		for _, p := range info.Problems {
			d.say(name, warn, "%s", p)
		}
	}
	for _, p := range d.online.players {
		if p.Connection == "connected" {
			continue
		}
		text := fmt.Sprintf("%s is %s", p.Name, strings.ReplaceAll(p.Connection, "_", " "))
		if why := cmp.Or(p.todo(d.online), p.problem()); why != "" {
			text += ": " + why
		}
		d.say("speaker", warn, "%s", text)
	}
}

// ports says whether the bridge could listen where it is told to. A bridge that
// runs holds its ports itself.
func (d *doctor) ports(ctx context.Context) {
	if d.alive || d.online != nil {
		return
	}
	for _, p := range []struct{ key, addr, holder string }{
		{"server.listen", d.cfg.Server.Listen, ", often Music Assistant on 8927"},
		{"http.listen", d.cfg.HTTP.Listen, ""},
	} {
		var lc net.ListenConfig
		l, err := lc.Listen(ctx, "tcp", p.addr)
		switch {
		case err == nil:
			l.Close()
			d.say(p.key, fine, "%s is free", p.addr)
		case !errors.Is(err, syscall.EADDRINUSE):
			d.say(p.key, fail, "%s can't be used: %v; set %s", p.addr, shortNetError(err), p.key)
		case d.sources.IsDefault(p.key):
			d.say(p.key, warn, "%s is held by another program%s; the bridge will take the next free port", p.addr, p.holder)
		default:
			d.say(p.key, fail, "%s, from %s, is held by another program%s; stop that one or set another port", p.addr, d.sources.Of(p.key), p.holder)
		}
	}
}

// network checks that multicast works, listens, and knocks at every speaker
// that was heard.
func (d *doctor) network(ctx context.Context) {
	test := d.seams.multicast
	if test == nil {
		test = multicast
	}
	text, err := test(d.cfg.Discovery.Interfaces)
	if err != nil {
		d.say("network", fail, "%v", err)
		return
	}
	d.say("network", fine, "%s", text)
	if inDockerNetwork() {
		d.say("network", warn, "this is a container in a network of Docker's own, which multicast does not reach: use network_mode: host, or list the speakers in discovery.players")
	}
	span := cmp.Or(d.seams.listen, listenTime)
	f, err := d.scan(ctx, d.cfg, span, slog.New(slog.DiscardHandler))
	if err != nil {
		d.say("mdns", fail, "%v", err)
		return
	}
	if len(f.Speakers) == 0 {
		d.say("mdns", warn, "no speaker was heard in %v: is one switched on, in the same network (multicast does not cross VLANs or guest Wi-Fi), and does a firewall let UDP 5353 in?", span)
	} else {
		d.say("mdns", fine, "%d speakers heard in %v: %s", len(f.Speakers), span, names(f.Speakers))
	}
	if len(f.Servers) > 0 {
		d.say("servers", fine, "servers heard: %s; a speaker obeys one server at a time, players.custody says how hard the bridge tries", names(f.Servers))
	}
	d.dial(ctx, "mdns", f.speakers)
}

func names(list []heard) string {
	var out []string
	for _, h := range list {
		out = append(out, h.Name)
	}
	return strings.Join(out, ", ")
}

// static are the endpoints of discovery.players.
func (d *doctor) static() []discovery.Endpoint {
	var out []discovery.Endpoint
	for _, u := range d.cfg.Discovery.Players {
		e, err := discovery.ParseStatic(u)
		if err != nil {
			d.say("discovery.players", fail, "%s: %v", showText(u), err)
			continue
		}
		out = append(out, e)
	}
	return out
}

// dial says which of the speakers accept a TCP connection. It sends nothing,
// so that no speaker leaves its server over it.
func (d *doctor) dial(ctx context.Context, from string, speakers []discovery.Endpoint) {
	results := make([]error, len(speakers))
	slots := make(chan struct{}, maxDials)
	var wg sync.WaitGroup
	for i, e := range speakers {
		slots <- struct{}{}
		wg.Go(func() { // owner: dial; ends within dialTime per address
			defer func() { <-slots }()
			results[i] = knock(ctx, e)
		})
	}
	wg.Wait()
	for i, e := range speakers {
		where := strings.Join(e.URLs(), " ")
		if results[i] != nil {
			d.say("speaker", fail, "%s (%s) is known from %s but does not accept connections at %s: %v; is it switched on, and does a firewall or VLAN keep TCP from it?",
				e.Name, e.Service, from, where, shortNetError(results[i]))
			continue
		}
		d.say("speaker", fine, "%s accepts connections at %s", e.Name, where)
	}
}

// knock connects to the first address of e that accepts.
func knock(ctx context.Context, e discovery.Endpoint) error {
	err := errors.New("it has no address")
	for _, u := range e.URLs() {
		parsed, parseErr := url.Parse(u)
		if parseErr != nil {
			return parseErr
		}
		var conn net.Conn
		dialer := net.Dialer{Timeout: dialTime}
		if conn, err = dialer.DialContext(ctx, "tcp", parsed.Host); err == nil {
			return conn.Close()
		}
	}
	return err
}

// accepts reports whether somebody listens on addr.
func accepts(ctx context.Context, addr string) bool {
	dialer := net.Dialer{Timeout: dialTime}
	conn, err := dialer.DialContext(ctx, "tcp", addr)
	if err != nil {
		return false
	}
	conn.Close()
	return true
}

// multicast finds interfaces that can do multicast and joins the group of mDNS
// on each. It returns a sentence, or what to do.
func multicast(interfaces []string) (string, error) {
	all, err := net.Interfaces()
	if err != nil {
		return "", fmt.Errorf("the network interfaces can't be listed: %w", err)
	}
	byName := map[string]net.Interface{}
	var chosen []net.Interface
	for _, i := range all {
		byName[i.Name] = i
		const want, never = net.FlagUp | net.FlagMulticast, net.FlagLoopback | net.FlagPointToPoint
		if len(interfaces) == 0 && i.Flags&want == want && i.Flags&never == 0 {
			chosen = append(chosen, i)
		}
	}
	for _, name := range interfaces {
		i, ok := byName[name]
		switch {
		case !ok:
			return "", fmt.Errorf("discovery.interfaces names %q, which does not exist; there are: %s", name, strings.Join(sortedKeys(byName), ", "))
		case i.Flags&net.FlagUp == 0:
			return "", fmt.Errorf("the interface %s of discovery.interfaces is down", name)
		}
		chosen = append(chosen, i)
	}
	if len(chosen) == 0 {
		return "", errors.New("no network interface can do multicast; connect a network, and in Docker use network_mode: host")
	}
	var works []string
	var failed error
	for _, i := range chosen {
		conn, err := net.ListenMulticastUDP("udp4", &i, &net.UDPAddr{IP: net.IPv4(224, 0, 0, 251), Port: 5353})
		if err != nil {
			failed = fmt.Errorf("mDNS can't be heard on %s: %w; does another program hold UDP port 5353 for itself?", i.Name, shortNetError(err))
			continue
		}
		conn.Close()
		works = append(works, i.Name)
	}
	if len(works) == 0 {
		return "", failed
	}
	return "mDNS can be heard on " + strings.Join(works, ", "), nil
}

// inDockerNetwork reports whether this is a container whose addresses are all
// of the range that Docker gives to its own networks.
func inDockerNetwork() bool {
	if _, err := os.Stat("/.dockerenv"); err != nil {
		return false
	}
	_, docker, err := net.ParseCIDR("172.16.0.0/12")
	if err != nil {
		return false
	}
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		return false
	}
	seen := false
	for _, a := range addrs {
		ip, ok := a.(*net.IPNet)
		if !ok || ip.IP.IsLoopback() || ip.IP.To4() == nil {
			continue
		}
		if !docker.Contains(ip.IP) {
			return false
		}
		seen = true
	}
	return seen
}

func (d *doctor) print(asJSON bool) error {
	if asJSON {
		enc := json.NewEncoder(d.Stdout)
		enc.SetIndent("", "  ")
		return enc.Encode(d)
	}
	tw := tabwriter.NewWriter(d.Stdout, 0, 0, 2, ' ', 0)
	counts := map[verdict]int{}
	for _, c := range d.Checks {
		counts[c.Verdict]++
		fmt.Fprintf(tw, "%s\t%s\t%s\n", c.Verdict, c.Name, c.Text)
	}
	if err := tw.Flush(); err != nil {
		return err
	}
	summary := "\nAll is well."
	if counts[fail]+counts[warn] > 0 {
		summary = "\n" + strconv.Itoa(counts[fail]) + " failed, " + strconv.Itoa(counts[warn]) + " to look at."
	}
	_, err := fmt.Fprintln(d.Stdout, summary)
	return err
}
