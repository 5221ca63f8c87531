package app

import (
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/pflag"
)

// write puts text into a file of the test.
func write(t *testing.T, name, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func flags(t *testing.T, args ...string) *pflag.FlagSet {
	t.Helper()
	fs := pflag.NewFlagSet("test", pflag.ContinueOnError)
	AddConfigFlags(fs)
	if err := fs.Parse(args); err != nil {
		t.Fatal(err)
	}
	return fs
}

func TestNothingConfigured(t *testing.T) {
	t.Parallel()
	cfg, sources, err := Load(LoadInput{OptionsFile: filepath.Join(t.TempDir(), "none.json"), Env: []string{"PATH=/bin", "MQTT_URL=http://means.nothing"}})
	if err != nil {
		t.Fatalf("Load: %v", err)
	}
	if diff := cmp.Diff(Default(), cfg); diff != "" {
		t.Errorf("without any source (-want +got):\n%s", diff)
	}
	if len(sources) != 0 || !sources.IsDefault("mqtt.url") {
		t.Errorf("sources: got %v, want none", sources)
	}
}

// TestEveryKeyFromEverySource sets each key of the table in each source, so
// that no key can be forgotten in one of them.
func TestEveryKeyFromEverySource(t *testing.T) {
	t.Parallel()
	values := map[string]string{
		"name": "House", "data_dir": "/var/lib/bridge", "log.level": "debug", "log.format": "json", "http.listen": "127.0.0.1:1",
		"http.password": "pw1", "mqtt.url": "mqtts://broker:8883", "mqtt.username": "u", "mqtt.password": "pw2", "mqtt.ca_file": "ca.pem",
		"mqtt.cert_file": "c.pem", "mqtt.key_file": "k.pem", "mqtt.insecure": "true", "mqtt.base_topic": "home/res", "mqtt.embedded.listen": ":1884",
		"homeassistant.enabled": "false", "homeassistant.discovery_prefix": "ha", "homeassistant.status_topic": "ha/status",
		"homeassistant.entities": "diagnostic", "homeassistant.media_player": "bkbilly", "homeassistant.url": "http://ha:8123",
		"homeassistant.token": "tok", "homeassistant.tts_engine": "tts.piper", "discovery.enabled": "false", "discovery.interfaces": "eth0, eth1",
		"discovery.advertise": "false", "discovery.players": "ws://10.0.0.7:8928/sendspin", "server.listen": ":9000", "server.path": "/s",
		"server.plaintext": "false", "players.custody": "observe", "players.max_volume": "60", "players.availability_grace": "5s",
		"players.membership_grace": "1m30s", "players.overrides": "{10.0.0.5: {name: Attic, custody: hold, max_volume: 40, dialect: S1}}",
		"audio.ffmpeg": "/usr/bin/ffmpeg", "audio.duck_db": "20", "audio.duck_ramp": "100ms", "audio.chime": "ding.wav",
		"audio.quiet_hours": "22:00-07:00=30,13:00-14:00",
	}
	want := Config{
		Name: "House", DataDir: "/var/lib/bridge", Log: LogConfig{"debug", "json"}, HTTP: HTTPConfig{"127.0.0.1:1", "pw1"},
		MQTT: MQTTConfig{
			URL: "mqtts://broker:8883", Username: "u", Password: "pw2", CAFile: "ca.pem", CertFile: "c.pem", KeyFile: "k.pem",
			Insecure: true, BaseTopic: "home/res", Embedded: EmbeddedConfig{":1884"},
		},
		HomeAssistant: HomeAssistantConfig{false, "ha", "ha/status", "diagnostic", "bkbilly", "http://ha:8123", "tok", "tts.piper"},
		Discovery:     DiscoveryConfig{false, []string{"eth0", "eth1"}, false, []string{"ws://10.0.0.7:8928/sendspin"}},
		Server:        ServerConfig{":9000", "/s", false},
		Players: PlayersConfig{
			"observe", 60, Duration(5 * time.Second), Duration(90 * time.Second),
			map[string]Override{"10.0.0.5": {"Attic", "hold", 40, "S1"}},
		},
		Audio: AudioConfig{"/usr/bin/ffmpeg", 20, Duration(100 * time.Millisecond), "ding.wav", []string{"22:00-07:00=30", "13:00-14:00"}},
	}

	var env []string
	tree := map[string]any{}
	for _, k := range configKeys() {
		value, ok := values[k.name]
		if !ok {
			t.Fatalf("key %s: no value in this test", k.name)
		}
		env = append(env, k.env()+"="+value)
		at := tree
		parts := strings.Split(k.name, ".")
		for _, p := range parts[:len(parts)-1] {
			if at[p] == nil {
				at[p] = map[string]any{}
			}
			at = at[p].(map[string]any)
		}
		at[parts[len(parts)-1]] = value
	}
	document, err := json.Marshal(tree) // JSON with these values is YAML too
	if err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		name string
		in   LoadInput
		from string // of mqtt.url
	}{
		{"environment", LoadInput{Env: env}, "environment variable RESONATE_MQTT_URL"},
		{"file", LoadInput{File: write(t, "bridge.yaml", string(document))}, "bridge.yaml line 1"},
		{"app options", LoadInput{OptionsFile: write(t, "options.json", string(document))}, "options.json"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			cfg, sources, err := Load(tc.in)
			if err != nil {
				t.Fatalf("Load: %v", err)
			}
			if diff := cmp.Diff(want, cfg); diff != "" {
				t.Errorf("Load (-want +got):\n%s", diff)
			}
			if got := sources.Of("mqtt.url"); !strings.HasSuffix(got, tc.from) {
				t.Errorf("source of mqtt.url: got %q, want one that ends in %q", got, tc.from)
			}
			for _, k := range configKeys() {
				if k.kind != kindOverrides && sources.IsDefault(k.name) {
					t.Errorf("source of %s: got default, want %s", k.name, tc.name)
				}
			}
		})
	}
}

func TestConfigPrecedence(t *testing.T) {
	t.Parallel()
	options := write(t, "options.json", `{"log": {"level": "error"}, "name": "from options", "data_dir": "/options", "discovery": {"interfaces": ["a", "b"]}, "players": {"overrides": {"x": {"name": "options", "max_volume": 10}}}}`)
	file := write(t, "bridge.yaml", "log: {level: warn}\nname: from file\ndiscovery: {interfaces: [c]}\nplayers: {overrides: {x: {name: file}, y: {custody: hold}}}\n")
	env := []string{"RESONATE_LOG_LEVEL=info", "RESONATE_NAME="}
	cfg, sources, err := Load(LoadInput{Flags: flags(t, "--log-level", "debug", "--config", file), Env: env, File: "/not/this/one", OptionsFile: options})
	if err != nil {
		t.Fatalf("Load: %v", err)
	}
	for _, tc := range []struct {
		name      string
		got, want any
	}{
		{"a flag beats all", cfg.Log.Level, "debug"},
		{"source of the flag", sources.Of("log.level"), "flag --log-level"},
		{"an empty variable is unset", cfg.Name, "from file"},
		{"source of the file", sources.Of("name"), "bridge.yaml line 2"},
		{"options beat defaults", cfg.DataDir, "/options"},
		{"lists are replaced", cfg.Discovery.Interfaces, []string{"c"}},
		{"defaults remain beside", cfg.Discovery.Advertise, true},
		{"source of a default", sources.Of("http.listen"), "default"},
		{"overrides merge", cfg.Players.Overrides, map[string]Override{"x": {Name: "file", MaxVolume: 10}, "y": {Custody: "hold"}}},
	} {
		if diff := cmp.Diff(tc.want, tc.got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", tc.name, diff)
		}
	}
	t.Run("environment beats file", func(t *testing.T) {
		t.Parallel()
		cfg, _, err := Load(LoadInput{Env: env, File: file, OptionsFile: options})
		if err != nil || cfg.Log.Level != "info" {
			t.Errorf("log.level: got %q, %v; want info", cfg.Log.Level, err)
		}
	})
}

// TestConfigFileValues has one row for each way in which YAML or a decoder was
// seen to turn one value into another.
func TestConfigFileValues(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name, file string
		want       string // the error contains it; empty: it loads
	}{
		{"empty file", "", ""},
		{"only a comment", "# nothing\n", ""},
		{"section without content keeps defaults", "mqtt:\n", ""},
		{"null is unset", "mqtt: {url: ~}\nplayers: {max_volume: null}\n", ""},
		{"empty text for text", "mqtt: {url: ''}\n", ""},
		{"empty text for a number", "players: {max_volume: ''}\n", "players.max_volume = \"\" (bridge.yaml line 1): is empty"},
		{"fraction for a whole number", "players: {max_volume: 70.9}\n", "players.max_volume = 70.9 (bridge.yaml line 1): is not a whole number"},
		{"leading zero", "players: {max_volume: 0060}\n", "players.max_volume = 0060 (bridge.yaml line 1): starts with 0, which YAML reads as octal; write 60"},
		{"hexadecimal", "players: {max_volume: 0x20}\n", "is not a whole number"},
		{"quoted number", "players: {max_volume: '50'}\n", ""},
		{"out of range", "players:\n  max_volume: 101\n", "players.max_volume = 101 (bridge.yaml line 2): want 1 to 100"},
		{"yes", "mqtt: {insecure: yes}\n", `mqtt.insecure = "yes" (bridge.yaml line 1): want true or false (yes, no, on, off`},
		{"'on'", "mqtt: {insecure: 'on'}\n", "want true or false"},
		{"1 for true", "mqtt: {insecure: 1}\n", "want true or false"},
		{"duration without unit", "players: {availability_grace: 45}\n", "players.availability_grace = 45 (bridge.yaml line 1): has no unit: write 45s"},
		{"quoted duration without unit", "players: {availability_grace: '45'}\n", "has no unit"},
		{"duration of nonsense", "players: {availability_grace: soon}\n", "is not a duration"},
		{"duration of zero", "players: {availability_grace: 0s}\n", "want more than 0s"},
		{"duration too long", "players: {availability_grace: 2h}\n", "at most 1h0m0s"},
		{"other letter case", "MQTT: {url: ''}\n", "MQTT = {...} (bridge.yaml line 1): unknown key; did you mean mqtt?"},
		{"unknown key", "mqtt: {usrname: x}\n", `mqtt.usrname = "x" (bridge.yaml line 1): unknown key; did you mean mqtt.username?`},
		{"unknown key like nothing", "mqtt: {colour: x}\n", "unknown key; valid below mqtt: url, username"},
		{"unknown section", "zigbee: {}\n", "unknown key; valid at the top level: name, data_dir, log"},
		{"dotted key", "mqtt.url: mqtt://x\n", "write mqtt: and, indented below it, url:"},
		{"key twice", "name: a\nname: b\n", "stands twice, first in bridge.yaml line 1"},
		{"section as text", "mqtt: mqtt://x\n", `mqtt = "mqtt://x" (bridge.yaml line 1): is text, want a section with url`},
		{"text as list", "name: [a]\n", "is a list, want a single value"},
		{"list as text", "discovery: {interfaces: 'eth0, eth1'}\n", ""},
		{"list of lists", "discovery: {interfaces: [[a]]}\n", "item 1 is a list, want text"},
		{"list of an empty text", "discovery: {interfaces: ['']}\n", "item 1 is empty"},
		{"list as number", "discovery: {interfaces: 5}\n", "want a list"},
		{"document is a list", "- a\n", "is a list, want a section"},
		{"two documents", "name: a\n---\nname: b\n", "a second document begins"},
		{"anchor", "name: &a x\ndata_dir: *a\n", "anchors and aliases"},
		{"not YAML", "name: [\n", "bridge.yaml: "},
		{"level", "log: {level: inof}\n", `log.level = "inof" (bridge.yaml line 1): did you mean info? Allowed: debug, info, warn, error`},
		{"broker URL scheme", "mqtt: {url: 'http://x'}\n", "begins with http://, want mqtt:// or mqtts:// or ws:// or wss://"},
		{"broker URL without scheme", "mqtt: {url: broker.local}\n", "is not a URL; want one like mqtt://"},
		{"broker URL without host", "mqtt: {url: 'mqtt://'}\n", "names no host"},
		{"broker URL port", "mqtt: {url: 'mqtt://x:70000'}\n", "the port has to be 1 to 65535"},
		{"broker URL with IPv6", "mqtt: {url: 'mqtt://[fe80::1]:1883'}\n", ""},
		{"certificate without key", "mqtt: {cert_file: c.pem}\n", "mqtt.cert_file = \"c.pem\" (bridge.yaml line 1): needs mqtt.key_file"},
		{"topic with wildcard", "mqtt: {base_topic: 'a/#'}\n", "want an MQTT topic"},
		{"topic with two levels", "mqtt: {base_topic: home/resonate}\n", ""},
		{"address without port", "http: {listen: localhost}\n", "want host:port"},
		{"address with a big port", "server: {listen: ':70000'}\n", "want host:port"},
		{"static player", "discovery: {players: ['ws://10.0.0.7:8928/sendspin']}\n", ""},
		{"static player, secure", "discovery: {players: ['wss://10.0.0.7']}\n", "begins with wss://, want ws://"},
		{"media_player off", "homeassistant: {media_player: off}\n", ""},
		{"media_player false", "homeassistant: {media_player: false}\n", "allowed: off, bkbilly"},
		{"custody borrow", "players: {custody: borrow}\n", "borrow comes with a later version"},
		{"quiet hours", "audio: {quiet_hours: ['22:00-07:00', '13:00-14:30=20']}\n", ""},
		{"quiet hours in words", "audio: {quiet_hours: [night]}\n", "audio.quiet_hours = \"night\" (bridge.yaml line 1): want HH:MM-HH:MM"},
		{"quiet hours of no length", "audio: {quiet_hours: ['22:00-22:00']}\n", "want HH:MM-HH:MM"},
		{"quiet hours past midnight", "audio: {quiet_hours: ['22:00-24:00']}\n", "want HH:MM-HH:MM"},
		{"quiet hours too loud", "audio: {quiet_hours: ['22:00-07:00=101']}\n", "want HH:MM-HH:MM"},
		{"override", "players: {overrides: {'aa:bb:cc': {max_volume: 40}}}\n", ""},
		{"override with a number as id", "players: {overrides: {42: {max_volume: 40}}}\n", ""},
		{"override with unknown key", "players: {overrides: {attic: {max_vol: 40}}}\n", "players.overrides.attic.max_vol = 40 (bridge.yaml line 1): unknown key; did you mean max_volume?"},
		{"override with nothing below", "players: {overrides: {attic: }}\n", ""},
		{"override as text", "players: {overrides: {attic: loud}}\n", "players.overrides.attic = \"loud\" (bridge.yaml line 1): is text, want a section with name, custody, max_volume, dialect"},
		{"override of volume 0", "players: {overrides: {attic: {max_volume: 0}}}\n", "want 1 to 100"},
		{"override of dialect", "players: {overrides: {attic: {dialect: G1}}}\n", "Allowed: R1, R2"},
		{"overrides as a list", "players: {overrides: [attic]}\n", "want client ids"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			_, _, err := Load(LoadInput{File: write(t, "bridge.yaml", tc.file)})
			switch {
			case tc.want == "" && err != nil:
				t.Errorf("Load(%q): got %v, want no error", tc.file, err)
			case tc.want != "" && (err == nil || !strings.Contains(err.Error(), tc.want)):
				t.Errorf("Load(%q): got %v, want %q in it", tc.file, err, tc.want)
			}
		})
	}
}

func TestConfigEnvironment(t *testing.T) {
	t.Parallel()
	secret := write(t, "secret", "pa ss\r\n")
	empty := write(t, "empty", "\n")
	for _, tc := range []struct {
		name string
		env  []string
		want string // the error contains it; empty: it loads
	}{
		{"no key of that name", []string{"RESONATE_MQTT_HOST=x"}, "environment variable RESONATE_MQTT_HOST: unknown variable; did you mean RESONATE_MQTT_URL?"},
		{"near nothing", []string{"RESONATE_FROBNICATE_QUITE_A_LOT=x"}, "such as RESONATE_MQTT_URL for mqtt.url"},
		{"the file's name", []string{"RESONATE_CONFIG=x"}, "--config FILE"},
		{"unknown but empty", []string{"RESONATE_FROBNICATE="}, ""},
		{"secret from a file", []string{"RESONATE_MQTT_PASSWORD_FILE=" + secret}, ""},
		{"secret from an empty file", []string{"RESONATE_MQTT_PASSWORD_FILE=" + empty}, "is empty"},
		{"secret from no file", []string{"RESONATE_MQTT_PASSWORD_FILE=/nowhere/x"}, "/nowhere/x"},
		{"secret twice", []string{"RESONATE_MQTT_PASSWORD_FILE=" + secret, "RESONATE_MQTT_PASSWORD=x"}, "sets it as well"},
		{"file of what is no secret", []string{"RESONATE_MQTT_USERNAME_FILE=" + secret}, "unknown variable"},
		{"a key that ends in file", []string{"RESONATE_MQTT_CA_FILE=ca.pem"}, ""},
		{"bad number", []string{"RESONATE_PLAYERS_MAX_VOLUME=loud"}, "players.max_volume = \"loud\" (environment variable RESONATE_PLAYERS_MAX_VOLUME): is not a whole number"},
		{"two problems", []string{"RESONATE_PLAYERS_MAX_VOLUME=loud", "RESONATE_LOG_LEVEL=x"}, "2 problems"},
		{"overrides of nonsense", []string{"RESONATE_PLAYERS_OVERRIDES={"}, "is not valid YAML"},
		{"overrides with a wrong key", []string{"RESONATE_PLAYERS_OVERRIDES={attic: {nme: x}}"}, "(environment variable RESONATE_PLAYERS_OVERRIDES): unknown key; did you mean name?"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			cfg, _, err := Load(LoadInput{Env: tc.env})
			switch {
			case tc.want == "" && err != nil:
				t.Errorf("Load(%q): got %v, want no error", tc.env, err)
			case tc.want != "" && (err == nil || !strings.Contains(err.Error(), tc.want)):
				t.Errorf("Load(%q): got %v, want %q in it", tc.env, err, tc.want)
			}
			if err == nil && tc.name == "secret from a file" && cfg.MQTT.Password.Reveal() != "pa ss" {
				t.Errorf("mqtt.password: got %q, want %q", cfg.MQTT.Password.Reveal(), "pa ss")
			}
		})
	}
}

func TestConfigAppOptions(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct{ name, options, want string }{
		{"forms send empty text for what was left out", `{"mqtt": {"url": "", "password": ""}, "players": {"max_volume": "", "custody": ""}, "log": {"level": ""}}`, ""},
		{"null", `{"mqtt": null}`, ""},
		{"a number keeps its digits", `{"players": {"max_volume": 50.5}}`, "options.json): is not a whole number"},
		{"unknown key", `{"log_level": "info"}`, "unknown key; did you mean log.level?"},
		{"not JSON", `{`, "options.json: is not valid JSON"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			cfg, _, err := Load(LoadInput{OptionsFile: write(t, "options.json", tc.options)})
			switch {
			case tc.want == "" && err != nil:
				t.Errorf("Load(%s): got %v, want no error", tc.options, err)
			case tc.want != "" && (err == nil || !strings.Contains(err.Error(), tc.want)):
				t.Errorf("Load(%s): got %v, want %q in it", tc.options, err, tc.want)
			case tc.want == "" && !reflect.DeepEqual(cfg, Default()):
				t.Errorf("Load(%s): got %+v, want the defaults", tc.options, cfg)
			}
		})
	}
}

func TestConfigFileName(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name string
		in   LoadInput
		want string
	}{
		{"missing", LoadInput{File: "/nowhere/bridge.yaml"}, "no such file"},
		{"directory", LoadInput{File: t.TempDir()}, "is a directory"},
		{"too large", LoadInput{File: write(t, "big.yaml", strings.Repeat("#", maxConfigFile+1))}, "want at most"},
		{"empty flag", LoadInput{Flags: flags(t, "--config", "")}, "names no file"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			if _, _, err := Load(tc.in); err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("Load: got %v, want %q in it", err, tc.want)
			}
		})
	}
}

// TestSecretsAreNeverPrinted tries every way in which a configuration or an
// error about it may reach a log.
func TestSecretsAreNeverPrinted(t *testing.T) {
	t.Parallel()
	const secret = "hunter2"
	cfg := Default()
	cfg.MQTT.Password, cfg.HTTP.Password, cfg.HomeAssistant.Token = secret, secret, secret
	var log strings.Builder
	slog.New(slog.NewJSONHandler(&log, nil)).Info("loaded", slog.Any("config", cfg), slog.Any("password", cfg.MQTT.Password))
	slog.New(slog.NewTextHandler(&log, nil)).Info("loaded", slog.Any("config", cfg), slog.Any("password", cfg.MQTT.Password))
	document, err := json.Marshal(cfg)
	if err != nil {
		t.Fatal(err)
	}
	public, err := json.Marshal(cfg.Public())
	if err != nil {
		t.Fatal(err)
	}
	texts := map[string]string{"slog": log.String(), "json": string(document), "public": string(public)}
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%d"} {
		texts[verb] = fmt.Sprintf(verb, cfg) + fmt.Sprintf(verb, cfg.MQTT.Password)
	}
	for name, file := range map[string]string{
		"a user in the broker's URL":    "mqtt: {url: 'mqtt://me:hunter2@host'}\n",
		"a user in a broken URL":        "mqtt: {url: 'mqtt://me:hunter2@ho st'}\n",
		"a user in a static player":     "discovery: {players: ['ws://me:hunter2@host']}\n",
		"a password as a list":          "mqtt: {password: [hunter2]}\n",
		"a password spelt wrong":        "mqtt: {pasword: hunter2}\n",
		"a password with a dotted key":  "mqtt.password: hunter2\n",
		"a password twice":              "mqtt: {password: a, password: hunter2}\n",
		"a token below the wrong place": "token: hunter2\n",
		"a pass":                        "mqtt: {pass: hunter2}\n",
	} {
		_, _, err := Load(LoadInput{File: write(t, "bridge.yaml", file)})
		if err == nil {
			t.Errorf("%s: got no error", name)
			continue
		}
		texts[name] = err.Error()
	}
	_, _, err = Load(LoadInput{Env: []string{"RESONATE_MQTT_PASWORD=hunter2"}})
	texts["an unknown variable"] = fmt.Sprint(err)
	for name, text := range texts {
		if strings.Contains(text, secret) || strings.Contains(text, fmt.Sprintf("%x", secret)) {
			t.Errorf("%s: got the secret in %q", name, text)
		}
		if text == "" {
			t.Errorf("%s: got nothing to look at", name)
		}
	}
}

func TestConfigErrorListsAll(t *testing.T) {
	t.Parallel()
	_, _, err := Load(LoadInput{File: write(t, "bridge.yaml", "log: {level: x}\nmqtt: {nope: 1, url: 'http://x'}\n")})
	var wrong *ConfigError
	if !errors.As(err, &wrong) {
		t.Fatalf("Load: got %v, want a *ConfigError", err)
	}
	var keys []string
	for _, p := range wrong.Problems {
		keys = append(keys, p.Key)
	}
	if diff := cmp.Diff([]string{"mqtt.nope", "log.level", "mqtt.url"}, keys); diff != "" {
		t.Errorf("problems (-want +got):\n%s", diff)
	}
}

func TestDefaultIsValid(t *testing.T) {
	t.Parallel()
	if err := Default().Validate(); err != nil {
		t.Errorf("Default().Validate: got %v, want nil", err)
	}
}

// FuzzConfigFile says that no file can do worse than an error, and that what
// loads is valid.
func FuzzConfigFile(f *testing.F) {
	for _, seed := range []string{
		"", "mqtt:\n", "name: [a, {b: c}]", "players: {overrides: {x: {name: y}}}", "a: &a [*a]", "? {a: b}\n: c", "<<: {name: x}", "name: !!binary aGk=",
		"\xff", "name: 'x\x00'", "players: {overrides: {\"a\\x1fb\": {name: x}}}", "---\n---\n",
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		cfg, sources, err := Load(LoadInput{File: write(t, "bridge.yaml", string(data))})
		if err != nil {
			var wrong *ConfigError
			if !errors.As(err, &wrong) || len(wrong.Problems) == 0 {
				t.Errorf("Load(%q): got %v, want a *ConfigError with a problem", data, err)
			}
			return
		}
		if err := cfg.Validate(); err != nil || sources == nil {
			t.Errorf("Load(%q): got what is not valid: %v", data, err)
		}
	})
}

// FuzzAppOptions is FuzzConfigFile for the JSON of app options.
func FuzzAppOptions(f *testing.F) {
	for _, seed := range []string{"", "{}", `{"mqtt": {"url": ""}}`, `[1]`, `{"players": {"max_volume": 1e400}}`, `{"name": "\ud800"}`} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		cfg, _, err := Load(LoadInput{OptionsFile: write(t, "options.json", string(data))})
		if err == nil {
			err = cfg.Validate()
		} else {
			var wrong *ConfigError
			if errors.As(err, &wrong) && len(wrong.Problems) > 0 {
				err = nil
			}
		}
		if err != nil {
			t.Errorf("Load(%q): got %v", data, err)
		}
	})
}
