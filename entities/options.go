package entities

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"log/slog"
	"strings"
	"time"
)

// The values of Options.Entities.
const (
	// Full announces everything that works.
	Full = "full"
	// Diagnostic announces only the entities of the categories configuration
	// and diagnostic: what Music Assistant does not show for the same speaker.
	Diagnostic = "diagnostic"
)

// Options says where to publish and what to say about this process.
type Options struct {
	BaseTopic       string // default "resonate"; levels by "/", no wildcards
	DiscoveryPrefix string // default "homeassistant"; neither above nor below BaseTopic
	StatusTopic     string // default "homeassistant/status": where Home Assistant says "online"
	NoDiscovery     bool   // publish no Home Assistant documents
	Entities        string // Full (default) or Diagnostic

	Version, Commit  string
	Protocols        []string  // wire dialects that are served, for bridge/info
	Started          time.Time // zero: left null
	ConfigurationURL string    // of the dashboard; left out unless http or https
	Config           any       // effective configuration without secrets, for bridge/info; may be nil

	LogLevel    func() string                           // current level; nil: shown as null
	SetLogLevel func(level string) error                // nil: bridge/request/options answers not_supported
	Speech      bool                                    // texts can be spoken: say is offered
	Restart     func()                                  // nil: bridge/request/restart answers not_supported
	Health      func() map[string]any                   // facts for bridge/health, every 5 min; nil: not published
	Cleanup     func(context.Context) ([]string, error) // clears stale topics and names them; nil: not_supported

	Log *slog.Logger // nil: silent
}

// withDefaults fills in what is not set.
func (o Options) withDefaults() Options {
	if o.BaseTopic == "" {
		o.BaseTopic = "resonate"
	}
	if o.DiscoveryPrefix == "" {
		o.DiscoveryPrefix = "homeassistant"
	}
	if o.StatusTopic == "" {
		o.StatusTopic = "homeassistant/status"
	}
	if o.Entities == "" {
		o.Entities = Full
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	return o
}

// Validate says which option can't work, and why.
func (o Options) Validate() error {
	o = o.withDefaults()
	for _, t := range []struct{ name, topic string }{
		{"base topic", o.BaseTopic}, {"discovery prefix", o.DiscoveryPrefix}, {"status topic", o.StatusTopic},
	} {
		if strings.ContainsAny(t.topic, "+#\x00") || strings.HasPrefix(t.topic, "$") {
			return fmt.Errorf("entities: %s %q: want a topic without +, # and a leading $", t.name, t.topic)
		}
		for level := range strings.SplitSeq(t.topic, "/") {
			if level == "" {
				return fmt.Errorf("entities: %s %q: a level between two / is empty", t.name, t.topic)
			}
		}
	}
	base, prefix := o.BaseTopic+"/", o.DiscoveryPrefix+"/"
	if strings.HasPrefix(base, prefix) || strings.HasPrefix(prefix, base) {
		// Home Assistant loses state topics that lie under its discovery prefix
		// (home-assistant/core#180005).
		return fmt.Errorf("entities: base topic %q and discovery prefix %q must not contain each other", o.BaseTopic, o.DiscoveryPrefix)
	}
	if o.Entities != Full && o.Entities != Diagnostic {
		return fmt.Errorf("entities: entities %q: want %q or %q", o.Entities, Full, Diagnostic)
	}
	return nil
}

// Subscriptions are the filters whose messages Run wants. They never overlap:
// a broker may deliver one copy for each filter that matches. "set/#" matches
// "set" too.
func (o Options) Subscriptions() []string {
	o = o.withDefaults()
	filters := []string{
		o.BaseTopic + "/player/+/set/#",
		o.BaseTopic + "/group/+/set/#",
		o.BaseTopic + "/bridge/request/#",
	}
	if !o.NoDiscovery {
		filters = append(filters, o.StatusTopic)
	}
	return filters
}

// idPrefix begins every discovery object id, device identifier and unique_id.
// The base topic is part of it, so that two bridges on one broker don't meet;
// a base topic that doesn't survive as it is adds four digits of its hash.
func (o Options) idPrefix() string {
	if o.BaseTopic == "resonate" {
		return "resonate_"
	}
	slug := strings.Map(func(r rune) rune {
		switch {
		case r >= 'a' && r <= 'z', r >= '0' && r <= '9', r == '-', r == '_':
			return r
		case r >= 'A' && r <= 'Z':
			return r + 'a' - 'A'
		}
		return '_'
	}, o.BaseTopic)
	lossless := slug == o.BaseTopic || slug == strings.ReplaceAll(o.BaseTopic, "/", "_") && !strings.Contains(o.BaseTopic, "_")
	if !lossless || slug == "bridge" || slug == "group" {
		sum := sha256.Sum256([]byte(o.BaseTopic))
		slug += "-" + hex.EncodeToString(sum[:2])
	}
	return "resonate_" + slug + "_"
}

func (o Options) playerTopic(pid string) string { return o.BaseTopic + "/player/" + pid }
func (o Options) groupTopic(gid string) string  { return o.BaseTopic + "/group/" + gid }
func (o Options) bridgeTopic() string           { return o.BaseTopic + "/bridge" }

// objectID names a device for Home Assistant: id is a PID, "group_" + GID, or
// "bridge".
func (o Options) objectID(id string) string { return o.idPrefix() + id }

func (o Options) configTopic(objectID string) string {
	return o.DiscoveryPrefix + "/device/" + objectID + "/config"
}
