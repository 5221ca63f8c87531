package app

import (
	"fmt"
	"maps"
	"net"
	"net/url"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"
)

func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }

func overrideKeys() []configKey { return keysOf(reflect.TypeFor[Override](), "") }

// checker collects what is wrong with values of the right type.
type checker struct {
	sources  Sources
	problems []Problem
}

// problems checks every value; sources may be nil.
func (c Config) problems(sources Sources) []Problem {
	k := &checker{sources: sources}

	if c.Name == "" || len(c.Name) > 60 || strings.ContainsFunc(c.Name, isControl) {
		k.bad("name", c.Name, "want 1 to 60 bytes of text without control characters")
	}
	if c.DataDir == "" {
		k.bad("data_dir", c.DataDir, "want a directory")
	}
	k.oneOf("log.level", c.Log.Level, "debug", "info", "warn", "error")
	k.oneOf("log.format", c.Log.Format, "text", "json")
	k.address("http.listen", c.HTTP.Listen)

	k.brokerURL("mqtt.url", c.MQTT.URL)
	if (c.MQTT.CertFile == "") != (c.MQTT.KeyFile == "") {
		key, value, other := "mqtt.cert_file", c.MQTT.CertFile, "mqtt.key_file"
		if value == "" {
			key, value, other = "mqtt.key_file", c.MQTT.KeyFile, "mqtt.cert_file"
		}
		k.bad(key, value, "needs %s as well", other)
	}
	k.topic("mqtt.base_topic", c.MQTT.BaseTopic)
	k.address("mqtt.embedded.listen", c.MQTT.Embedded.Listen)

	k.topic("homeassistant.discovery_prefix", c.HomeAssistant.DiscoveryPrefix)
	if base, prefix := c.MQTT.BaseTopic+"/", c.HomeAssistant.DiscoveryPrefix+"/"; strings.HasPrefix(base, prefix) || strings.HasPrefix(prefix, base) {
		k.bad("mqtt.base_topic", c.MQTT.BaseTopic, "and homeassistant.discovery_prefix %q must not contain each other: Home Assistant would lose the states", c.HomeAssistant.DiscoveryPrefix)
	}
	k.topic("homeassistant.status_topic", c.HomeAssistant.StatusTopic)
	k.oneOf("homeassistant.entities", c.HomeAssistant.Entities, "full", "diagnostic")
	k.oneOf("homeassistant.media_player", c.HomeAssistant.MediaPlayer, "off", "bkbilly")
	if c.HomeAssistant.URL != "" {
		k.url("homeassistant.url", c.HomeAssistant.URL, "http", "https")
	}

	for _, name := range c.Discovery.Interfaces {
		if strings.TrimSpace(name) == "" || strings.ContainsFunc(name, isControl) {
			k.bad("discovery.interfaces", name, "want names of network interfaces, such as eth0")
		}
	}
	for _, u := range c.Discovery.Players {
		k.url("discovery.players", u, "ws")
	}
	k.address("server.listen", c.Server.Listen)
	if p := c.Server.Path; !strings.HasPrefix(p, "/") || strings.ContainsAny(p, " ?#{}") || strings.ContainsFunc(p, isControl) {
		k.bad("server.path", p, "want a path that begins with /, such as /sendspin")
	}

	k.custody("players.custody", c.Players.Custody)
	k.between("players.max_volume", c.Players.MaxVolume, 1, 100)
	k.span("players.availability_grace", c.Players.AvailabilityGrace, time.Hour)
	k.span("players.membership_grace", c.Players.MembershipGrace, 24*time.Hour)
	for _, id := range sortedKeys(c.Players.Overrides) {
		o, prefix := c.Players.Overrides[id], "players.overrides."+id+"."
		if len(o.Name) > 256 || strings.ContainsFunc(o.Name, isControl) {
			k.bad(prefix+"name", o.Name, "want at most 256 bytes of text without control characters")
		}
		if o.Custody != "" {
			k.custody(prefix+"custody", o.Custody)
		}
		if o.MaxVolume != 0 || k.sources[prefix+"max_volume"] != "" {
			k.between(prefix+"max_volume", o.MaxVolume, 1, 100)
		}
		if o.Dialect != "" {
			k.oneOf(prefix+"dialect", o.Dialect, "R1", "R2", "S1", "S2", "S3", "S4")
		}
	}

	if f := c.Audio.FFmpeg; f != "auto" && f != "off" && !filepath.IsAbs(f) && !strings.ContainsRune(f, filepath.Separator) {
		k.bad("audio.ffmpeg", f, "want auto, off or the path of the program")
	}
	k.between("audio.duck_db", c.Audio.DuckDB, 0, 60)
	k.span("audio.duck_ramp", c.Audio.DuckRamp, 10*time.Second)
	for _, q := range c.Audio.QuietHours {
		if !isQuietHours(q) {
			k.bad("audio.quiet_hours", q, "want HH:MM-HH:MM, or HH:MM-HH:MM=VOLUME with 1 to 100, such as 22:00-07:00=30")
		}
	}
	return k.problems
}

func (k *checker) bad(key, value, format string, args ...any) {
	k.problems = append(k.problems, Problem{
		Key: key, Value: showText(value), From: k.sources.Of(key), Text: fmt.Sprintf(format, args...),
	})
}

func (k *checker) oneOf(key, value string, allowed ...string) {
	if slices.Contains(allowed, value) {
		return
	}
	if n := nearest(value, allowed); n != "" {
		k.bad(key, value, "did you mean %s? Allowed: %s", n, strings.Join(allowed, ", "))
		return
	}
	k.bad(key, value, "allowed: %s", strings.Join(allowed, ", "))
}

func (k *checker) custody(key, value string) {
	if value == "borrow" {
		k.bad(key, value, "borrow comes with a later version; use hold, observe, ignore or auto")
		return
	}
	k.oneOf(key, value, "auto", "hold", "observe", "ignore")
}

func (k *checker) between(key string, value, low, high int) {
	if value < low || value > high {
		k.problems = append(k.problems, Problem{
			Key: key, Value: strconv.Itoa(value), From: k.sources.Of(key), Text: fmt.Sprintf("want %d to %d", low, high),
		})
	}
}

func (k *checker) span(key string, value Duration, high time.Duration) {
	if value <= 0 || value.Std() > high {
		k.bad(key, value.String(), "want more than 0s and at most %v", high)
	}
}

func (k *checker) address(key, value string) {
	host, port, err := net.SplitHostPort(value)
	_, portErr := strconv.ParseUint(port, 10, 16)
	if err != nil || portErr != nil || strings.ContainsAny(host, " /") {
		k.bad(key, value, "want host:port or :port with a port from 0 to 65535, such as 127.0.0.1:8780; port 0 takes any free one")
	}
}

func (k *checker) brokerURL(key, value string) {
	if value != "" {
		k.url(key, value, "mqtt", "mqtts", "ws", "wss")
	}
}

// url checks an absolute URL without credentials.
func (k *checker) url(key, value string, schemes ...string) {
	example := schemes[0] + "://192.168.1.2"
	u, err := url.Parse(value)
	switch {
	case err != nil || u.Scheme == "":
		k.bad(key, value, "is not a URL; want one like %s", example)
	case !slices.Contains(schemes, u.Scheme):
		k.bad(key, value, "begins with %s://, want %s", cut(u.Scheme), strings.Join(schemes, ":// or ")+"://")
	case u.User != nil:
		k.bad(key, value, "holds a user or password; take them out of the URL%s", userHint(key))
	case u.Hostname() == "":
		k.bad(key, value, "names no host; want one like %s", example)
	case u.Fragment != "":
		k.bad(key, value, "ends in #%s; leave that out", cut(u.Fragment))
	case u.Port() != "":
		if n, err := strconv.ParseUint(u.Port(), 10, 16); err != nil || n == 0 {
			k.bad(key, value, "the port has to be 1 to 65535")
		}
	}
}

func userHint(key string) string {
	if key == "mqtt.url" {
		return " and set mqtt.username and mqtt.password"
	}
	return ""
}

func (k *checker) topic(key, value string) {
	if value == "" || len(value) > 200 || !utf8.ValidString(value) || strings.ContainsAny(value, "+#") || strings.ContainsFunc(value, isControl) ||
		strings.HasPrefix(value, "$") || strings.HasPrefix(value, "/") || strings.HasSuffix(value, "/") || strings.Contains(value, "//") {
		k.bad(key, value, "want an MQTT topic of 1 to 200 bytes without + and #, that does not begin with $ nor begin or end with /")
	}
}

// isQuietHours reports whether s is HH:MM-HH:MM with two different times, and
// perhaps =VOLUME.
func isQuietHours(s string) bool {
	span, volume, hasVolume := strings.Cut(s, "=")
	from, to, ok := strings.Cut(span, "-")
	if !ok || from == to || len(from) != 5 || len(to) != 5 {
		return false
	}
	for _, clock := range []string{from, to} {
		if _, err := time.Parse("15:04", clock); err != nil {
			return false
		}
	}
	if !hasVolume {
		return true
	}
	n, err := strconv.Atoi(volume)
	return err == nil && n >= 1 && n <= 100 && volume == strconv.Itoa(n)
}
