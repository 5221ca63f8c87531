package app

import (
	"fmt"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/go-viper/mapstructure/v2"
	"github.com/knadh/koanf/providers/confmap"
	"github.com/knadh/koanf/v2"
	"github.com/spf13/pflag"
)

// DefaultOptionsFile is where the Home Assistant Supervisor puts the options of
// an app (add-on). Elsewhere it does not exist, which is normal.
const DefaultOptionsFile = "/data/options.json"

// Config is the whole configuration. [Default] gives the values without any
// source; [Load] reads all sources. The keys of files are the koanf tags.
type Config struct {
	Name          string              `koanf:"name"`     // how the bridge calls itself; 1 to 60 bytes
	DataDir       string              `koanf:"data_dir"` // identity, pairing records, groups, remembered choices
	Log           LogConfig           `koanf:"log"`
	HTTP          HTTPConfig          `koanf:"http"`
	MQTT          MQTTConfig          `koanf:"mqtt"`
	HomeAssistant HomeAssistantConfig `koanf:"homeassistant"`
	Discovery     DiscoveryConfig     `koanf:"discovery"`
	Server        ServerConfig        `koanf:"server"`
	Players       PlayersConfig       `koanf:"players"`
	Audio         AudioConfig         `koanf:"audio"`
}

// LogConfig says what is logged, and how.
type LogConfig struct {
	Level  string `koanf:"level"`  // debug, info, warn or error
	Format string `koanf:"format"` // text or json
}

// HTTPConfig is the address of /healthz, /readyz, /metrics and the dashboard.
type HTTPConfig struct {
	Listen   string `koanf:"listen"`   // host:port; port 0: any free one
	Password Secret `koanf:"password"` // empty: none is asked for
}

// MQTTConfig says which broker is used, and how.
type MQTTConfig struct {
	URL       string         `koanf:"url"` // mqtt, mqtts, ws or wss; empty: the Supervisor's broker, else the embedded one
	Username  string         `koanf:"username"`
	Password  Secret         `koanf:"password"`
	CAFile    string         `koanf:"ca_file"`   // PEM; empty: the system's authorities
	CertFile  string         `koanf:"cert_file"` // PEM, together with KeyFile
	KeyFile   string         `koanf:"key_file"`
	Insecure  bool           `koanf:"insecure"` // the broker's certificate is not checked
	BaseTopic string         `koanf:"base_topic"`
	Embedded  EmbeddedConfig `koanf:"embedded"`
}

// EmbeddedConfig is the broker that the bridge brings along.
type EmbeddedConfig struct {
	Listen string `koanf:"listen"` // host:port; port 0: any free one
}

// HomeAssistantConfig is what Home Assistant is told.
type HomeAssistantConfig struct {
	Enabled         bool   `koanf:"enabled"`
	DiscoveryPrefix string `koanf:"discovery_prefix"`
	StatusTopic     string `koanf:"status_topic"`
	Entities        string `koanf:"entities"`     // full or diagnostic
	MediaPlayer     string `koanf:"media_player"` // off or bkbilly
	URL             string `koanf:"url"`          // http or https; empty: none
	Token           Secret `koanf:"token"`
	TTSEngine       string `koanf:"tts_engine"`
}

// DiscoveryConfig governs mDNS and static addresses; players that dial in are
// accepted whatever it says.
type DiscoveryConfig struct {
	Enabled    bool     `koanf:"enabled"`
	Interfaces []string `koanf:"interfaces"` // empty: every suitable one
	Advertise  bool     `koanf:"advertise"`
	Players    []string `koanf:"players"` // ws://host:port/path
}

// ServerConfig is where players that dial in are served.
type ServerConfig struct {
	Listen    string `koanf:"listen"` // host:port; port 0: any free one
	Path      string `koanf:"path"`
	Plaintext bool   `koanf:"plaintext"` // unencrypted dialects are served
}

// PlayersConfig is what holds for every player, and what for single ones.
type PlayersConfig struct {
	Custody           string              `koanf:"custody"`            // auto, hold, observe or ignore
	MaxVolume         int                 `koanf:"max_volume"`         // 1 to 100
	AvailabilityGrace Duration            `koanf:"availability_grace"` // over 0, at most 1h
	MembershipGrace   Duration            `koanf:"membership_grace"`   // over 0, at most 24h
	Overrides         map[string]Override `koanf:"overrides"`          // by client id
}

// Override is what the configuration says about one player. Zero fields say
// nothing.
type Override struct {
	Name      string `koanf:"name"`
	Custody   string `koanf:"custody"`    // as in [PlayersConfig]
	MaxVolume int    `koanf:"max_volume"` // 1 to 100; 0: not set
	Dialect   string `koanf:"dialect"`    // R1, R2, S1 to S4; empty: detected
}

// AudioConfig governs sources and announcements.
type AudioConfig struct {
	FFmpeg     string   `koanf:"ffmpeg"`      // auto, off, or the program's path
	DuckDB     int      `koanf:"duck_db"`     // how far music is lowered, in dB; 0 to 60
	DuckRamp   Duration `koanf:"duck_ramp"`   // over 0, at most 10s
	Chime      string   `koanf:"chime"`       // file or URL; empty: none
	QuietHours []string `koanf:"quiet_hours"` // local time: "22:00-07:00=20" announcements at volume 20 at most; without a number 30
}

// Default is the configuration without any source. It is valid.
func Default() Config {
	return Config{
		Name:          "Resonate Bridge",
		DataDir:       "./data",
		Log:           LogConfig{Level: "info", Format: "text"},
		HTTP:          HTTPConfig{Listen: "127.0.0.1:8780"},
		MQTT:          MQTTConfig{BaseTopic: "resonate", Embedded: EmbeddedConfig{Listen: "127.0.0.1:1883"}},
		HomeAssistant: HomeAssistantConfig{Enabled: true, DiscoveryPrefix: "homeassistant", StatusTopic: "homeassistant/status", Entities: "full", MediaPlayer: "off"},
		Discovery:     DiscoveryConfig{Enabled: true, Interfaces: []string{}, Advertise: true, Players: []string{}},
		Server:        ServerConfig{Listen: ":8927", Path: "/sendspin", Plaintext: true},
		Players: PlayersConfig{
			Custody: "auto", MaxVolume: 100,
			AvailabilityGrace: Duration(15 * time.Second),
			MembershipGrace:   Duration(180 * time.Second),
			Overrides:         map[string]Override{},
		},
		Audio: AudioConfig{FFmpeg: "auto", DuckDB: 12, DuckRamp: Duration(300 * time.Millisecond), QuietHours: []string{}},
	}
}

// LoadInput names the sources of a configuration, strongest first. All of them
// may be empty.
type LoadInput struct {
	Flags       *pflag.FlagSet // --config, --log-level and --log-format, where they were given; see [AddConfigFlags]
	Env         []string       // NAME=value, as os.Environ gives it
	File        string         // a YAML file, unless Flags names one; it must exist
	OptionsFile string         // as [DefaultOptionsFile]; it may be missing
}

// AddConfigFlags adds the flags that every command shares.
func AddConfigFlags(fs *pflag.FlagSet) {
	fs.String("config", "", "configuration `FILE` (YAML)")
	fs.String("log-level", "", "debug, info, warn or error")
	fs.String("log-format", "", "text or json")
}

// Sources tells for each key where its value came from: "bridge.yaml line 3",
// "environment variable RESONATE_MQTT_URL", "flag --log-level". Keys that have
// their default are absent.
type Sources map[string]string

// IsDefault reports whether nobody set key.
func (s Sources) IsDefault(key string) bool { return s[key] == "" }

// Of says where the value of key came from, "default" if nobody set it.
func (s Sources) Of(key string) string {
	if from := s[key]; from != "" {
		return from
	}
	return "default"
}

// Problem is one thing that is wrong with a configuration.
type Problem struct {
	Key   string // dotted; empty when the whole source is unreadable
	Value string // masked if it is or may be secret; empty if there is none to show
	From  string // where it came from, as in [Sources]
	Text  string // what is wrong and what is allowed
}

// String is the problem in one line.
func (p Problem) String() string {
	var b strings.Builder
	if p.Key != "" {
		b.WriteString(p.Key)
		if p.Value != "" {
			fmt.Fprintf(&b, " = %s", p.Value)
		}
		fmt.Fprintf(&b, " (%s): ", p.From)
	} else if p.From != "" {
		fmt.Fprintf(&b, "%s: ", p.From)
	}
	b.WriteString(p.Text)
	return b.String()
}

// ConfigError lists everything that is wrong with a configuration.
type ConfigError struct{ Problems []Problem }

// Error is one line, or with several problems one line each.
func (e *ConfigError) Error() string {
	if len(e.Problems) == 1 {
		return "configuration: " + e.Problems[0].String()
	}
	var b strings.Builder
	fmt.Fprintf(&b, "configuration: %d problems:", len(e.Problems))
	for _, p := range e.Problems {
		b.WriteString("\n  " + p.String())
	}
	return b.String()
}

// keyDelim cannot occur in a key: client ids below players.overrides hold dots.
const keyDelim = "\x1f"

// Load reads every source and checks the result. Stronger sources replace
// weaker ones key by key: flags, environment, file, app options, default;
// lists are replaced as a whole, players.overrides are merged. The error is a
// *[ConfigError] with all problems.
func Load(in LoadInput) (Config, Sources, error) {
	r := &reader{keys: configKeys()}
	file := in.File
	fileFrom := ""
	if in.Flags != nil {
		if f := in.Flags.Lookup("config"); f != nil && f.Changed {
			file, fileFrom = f.Value.String(), "flag --config"
		}
	}

	// Weakest first: each layer is a new set, so nothing of an earlier load
	// or of another layer's spelling can linger.
	layers := []layer{
		r.optionsLayer(in.OptionsFile),
		r.fileLayer(file, fileFrom),
		r.envLayer(in.Env),
		r.flagLayer(in.Flags),
	}
	cfg, sources := Default(), Sources{}
	k := koanf.New(keyDelim)
	for _, l := range layers {
		values := map[string]any{}
		for _, s := range l {
			values[s.path] = s.value
			sources[strings.ReplaceAll(s.path, keyDelim, ".")] = s.from
		}
		if err := k.Load(confmap.Provider(values, keyDelim), nil); err != nil {
			r.problems = append(r.problems, Problem{Text: err.Error()})
		}
	}
	if err := decode(k, &cfg); err != nil {
		r.problems = append(r.problems, Problem{Text: err.Error()})
	} else {
		r.problems = append(r.problems, cfg.problems(sources)...)
	}
	if len(r.problems) > 0 {
		return Config{}, nil, &ConfigError{r.problems}
	}
	return cfg, sources, nil
}

// decode fills cfg, which already holds the defaults: koanf-level defaults
// would be wiped by a section without content ("mqtt:").
func decode(k *koanf.Koanf, cfg *Config) error {
	return k.UnmarshalWithConf("", cfg, koanf.UnmarshalConf{DecoderConfig: &mapstructure.DecoderConfig{
		Result:      cfg,
		TagName:     "koanf",
		ErrorUnused: true,
		DecodeHook:  mapstructure.TextUnmarshallerHookFunc(),
	}})
}

// Validate checks the values, as [Load] does. The error is a *[ConfigError].
func (c Config) Validate() error {
	if p := c.problems(nil); len(p) > 0 {
		return &ConfigError{p}
	}
	return nil
}

// Public is the configuration as a file would hold it, for people to see:
// secrets are masked. The caller owns it.
func (c Config) Public() map[string]any { return public(reflect.ValueOf(c)) }

func public(v reflect.Value) map[string]any {
	out := map[string]any{}
	for f, value := range v.Fields() {
		name := f.Tag.Get("koanf")
		switch x := value.Interface().(type) {
		case Secret:
			out[name] = x.String()
		case Duration:
			out[name] = x.String()
		case []string:
			out[name] = append([]string{}, x...)
		case map[string]Override:
			players := map[string]any{}
			for id, o := range x {
				players[id] = public(reflect.ValueOf(o))
			}
			out[name] = players
		default:
			if value.Kind() == reflect.Struct {
				out[name] = public(value)
			} else {
				out[name] = x
			}
		}
	}
	return out
}

// keyKind is how the value of a key is written.
type keyKind uint8

const (
	kindText keyKind = iota
	kindSecret
	kindBool
	kindInt
	kindDuration
	kindList
	kindOverrides
)

// configKey is one key that can be set.
type configKey struct {
	name string // dotted
	kind keyKind
}

func (k configKey) path() string { return strings.ReplaceAll(k.name, ".", keyDelim) }

func (k configKey) env() string {
	return "RESONATE_" + strings.ToUpper(strings.ReplaceAll(k.name, ".", "_"))
}

// configKeys is the table of keys, in the order of [Config]: the struct is the
// only place that lists them.
func configKeys() []configKey { return keysOf(reflect.TypeFor[Config](), "") }

func keysOf(t reflect.Type, prefix string) []configKey {
	var keys []configKey
	for f := range t.Fields() {
		name := prefix + f.Tag.Get("koanf")
		switch {
		case f.Type == reflect.TypeFor[Secret]():
			keys = append(keys, configKey{name, kindSecret})
		case f.Type == reflect.TypeFor[Duration]():
			keys = append(keys, configKey{name, kindDuration})
		case f.Type.Kind() == reflect.Struct:
			keys = append(keys, keysOf(f.Type, name+".")...)
		case f.Type.Kind() == reflect.Bool:
			keys = append(keys, configKey{name, kindBool})
		case f.Type.Kind() == reflect.Int:
			keys = append(keys, configKey{name, kindInt})
		case f.Type.Kind() == reflect.Slice:
			keys = append(keys, configKey{name, kindList})
		case f.Type.Kind() == reflect.Map:
			keys = append(keys, configKey{name, kindOverrides})
		default:
			keys = append(keys, configKey{name, kindText})
		}
	}
	return keys
}

// findKey looks name up in keys.
func findKey(keys []configKey, name string) (configKey, bool) {
	i := slices.IndexFunc(keys, func(k configKey) bool { return k.name == name })
	if i < 0 {
		return configKey{}, false
	}
	return keys[i], true
}
