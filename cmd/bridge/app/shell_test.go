package app

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"maps"
	"net/netip"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"resonatebridge/discovery"
	"resonatebridge/mqtt"

	"github.com/google/go-cmp/cmp"
)

// fakeBroker holds what a bridge retains and answers like one.
type fakeBroker struct {
	opts     mqtt.Options
	retained map[string]string
	answer   string // to set commands, TRANSACTION is replaced; empty: never
	topic    string // of the last request
	sent     map[string]any
	noEcho   bool
}

func (b *fakeBroker) collect(_ context.Context, filters ...string) ([]mqtt.Message, error) {
	var out []mqtt.Message
	for _, topic := range slices.Sorted(maps.Keys(b.retained)) {
		if slices.ContainsFunc(filters, func(f string) bool {
			ok, err := path.Match(strings.ReplaceAll(f, "+", "*"), topic)
			return ok && err == nil
		}) {
			out = append(out, mqtt.Message{Topic: topic, Payload: []byte(b.retained[topic]), Retained: true})
		}
	}
	return out, nil
}

func (b *fakeBroker) request(_ context.Context, topic string, payload []byte, answers string, match func([]byte) bool) ([]byte, error) {
	if topic == answers { // the self-test
		if b.noEcho || !match(payload) {
			return nil, errors.New("no echo")
		}
		return payload, nil
	}
	b.topic, b.sent = topic, map[string]any{}
	if err := json.Unmarshal(payload, &b.sent); err != nil {
		return nil, err
	}
	transaction, _ := b.sent["transaction"].(string)
	delete(b.sent, "transaction")
	if match([]byte(`{"transaction":"of somebody else","status":"ok"}`)) || match([]byte(`not JSON`)) {
		return nil, errors.New("took the answer to somebody else")
	}
	answer := []byte(strings.ReplaceAll(b.answer, "TRANSACTION", transaction))
	if answers != strings.TrimSuffix(topic, "/set")+"/result" || b.answer == "" || !match(answer) {
		return nil, errors.New("no answer")
	}
	return answer, nil
}

func (b *fakeBroker) watch(context.Context, []string, func(mqtt.Message) bool) error {
	return errors.New("nothing changes here")
}

const okAnswer = `{"transaction":"TRANSACTION","command":"set","status":"ok","data":{},"took_ms":3}`

func newFakeBroker() *fakeBroker {
	return &fakeBroker{answer: okAnswer, retained: map[string]string{
		"resonate/bridge/state": "online",
		"resonate/bridge/info":  `{"version":"1.0","problems":["the clock jumped"]}`,
		"resonate/bridge/devices": `[
			{"id":"kitchen-1","client_id":"AA:BB","name":"Kitchen","connection":"connected","volume":35,"mute":false,"playback":"playing","group":{"name":"Downstairs","option":"Downstairs"},"last_error":null,"held_by":null},
			{"id":"bath-1","client_id":"c2","name":"Bath","connection":"held_by_other_server","volume":null,"mute":null,"playback":"idle","group":{"name":"Bath","option":"Solo"},"held_by":"Music Assistant","last_error":null},
			{"id":"bath-2","client_id":"c3","name":"bath","connection":"approval_required","trust":"unapproved","pairing":{"methods":["pairing_psk"]},"volume":10,"mute":true,"playback":"idle","group":{"name":"bath","option":"Solo"},"last_error":"connection\u001b[31m refused"},
			{"id":null,"client_id":null,"name":"Attic","connection":"searching"}]`,
		"resonate/bridge/groups": `[{"id":"downstairs","name":"Downstairs","kind":"named","members":["kitchen-1"],"online":1,"playback":"playing","volume":35,"mute":false}]`,
	}}
}

func (b *fakeBroker) process(env ...string) Process {
	return Process{Env: env, seams: seams{dial: func(o mqtt.Options) broker { b.opts = o; return b }}}
}

func TestSetCommands(t *testing.T) {
	t.Parallel()
	offline := func(b *fakeBroker) { b.retained["resonate/bridge/state"] = "offline" }
	for _, tc := range []struct {
		name   string
		args   []string
		change func(*fakeBroker)
		code   int
		topic  string
		sent   map[string]any
		text   string // contained in stdout or stderr
	}{
		{"volume by id", []string{"volume", "kitchen-1", "25"}, nil, 0, "resonate/player/kitchen-1/set", map[string]any{"volume": 25.0}, "Kitchen: volume 25"},
		{"volume by name", []string{"volume", "Kitchen", "0"}, nil, 0, "resonate/player/kitchen-1/set", map[string]any{"volume": 0.0}, ""},
		{"volume by name in another case", []string{"volume", "KITCHEN", "0"}, nil, 0, "resonate/player/kitchen-1/set", map[string]any{"volume": 0.0}, ""},
		{"volume by client id", []string{"volume", "AA:BB", "0"}, nil, 0, "resonate/player/kitchen-1/set", map[string]any{"volume": 0.0}, ""},
		{"volume up", []string{"volume", "Kitchen", "+5"}, nil, 0, "resonate/player/kitchen-1/set", map[string]any{"volume": "+5"}, "volume +5"},
		{"volume down looks like a flag and is none", []string{"volume", "Kitchen", "-5"}, nil, 0, "resonate/player/kitchen-1/set", map[string]any{"volume": "-5"}, "volume -5"},
		{"volume as the bridge says it became", []string{"volume", "Kitchen", "+90"}, func(b *fakeBroker) {
			b.answer = `{"transaction":"TRANSACTION","status":"ok","data":{"volume":100}}`
		}, 0, "resonate/player/kitchen-1/set", map[string]any{"volume": "+90"}, "Kitchen: volume 100"},
		{"volume of a group", []string{"volume", "downstairs", "30"}, nil, 0, "resonate/group/downstairs/set", map[string]any{"volume": 30.0}, ""},
		{"exact case decides between two names", []string{"volume", "bath", "1"}, nil, 0, "resonate/player/bath-2/set", map[string]any{"volume": 1.0}, ""},
		{"a name of several", []string{"volume", "BATH", "1"}, nil, 1, "", nil, `"BATH" means more than one: player "Bath" (id bath-1), player "bath" (id bath-2); use the id`},
		{"nobody of that name", []string{"volume", "kitchn", "1"}, nil, 1, "", nil, `did you mean "Kitchen"?`},
		{"like nobody", []string{"volume", "zzzzzz", "1"}, nil, 1, "", nil, `there are: player "Kitchen" (id kitchen-1)`},
		{"never met", []string{"volume", "Attic", "1"}, nil, 1, "", nil, `there is no "Attic"`},
		{"mute on", []string{"mute", "Kitchen", "on"}, nil, 0, "resonate/player/kitchen-1/set", map[string]any{"mute": true}, "Kitchen: mute on"},
		{"mute off", []string{"mute", "Kitchen", "OFF"}, nil, 0, "resonate/player/kitchen-1/set", map[string]any{"mute": false}, "mute off"},
		{"mute toggle", []string{"mute", "Kitchen", "toggle"}, nil, 0, "resonate/player/kitchen-1/set", map[string]any{"mute": "TOGGLE"}, ""},
		{"into a group", []string{"group", "bath-1", "Downstairs"}, nil, 0, "resonate/player/bath-1/set", map[string]any{"join": "downstairs"}, "Bath: with Downstairs"},
		{"to a speaker", []string{"group", "bath-1", "Kitchen"}, nil, 0, "resonate/player/bath-1/set", map[string]any{"join": "kitchen-1"}, ""},
		{"solo", []string{"group", "kitchen-1", "solo"}, nil, 0, "resonate/player/kitchen-1/set", map[string]any{"unjoin": true}, "Kitchen: on its own"},
		{"to nobody", []string{"group", "kitchen-1", "zzzzzz"}, nil, 1, "", nil, `there is no "zzzzzz"`},
		{"a group is no speaker", []string{"group", "downstairs", "solo"}, nil, 1, "", nil, `there is no "downstairs"`},
		{"the bridge's own sentence", []string{"volume", "bath-1", "1"}, func(b *fakeBroker) {
			b.answer = `{"transaction":"TRANSACTION","status":"error","error":{"code":"held_by_other_server","message":"Bath is in use by Music Assistant"}}`
		}, 1, "resonate/player/bath-1/set", map[string]any{"volume": 1.0}, "Bath is in use by Music Assistant (held_by_other_server)"},
		{"an error without a reason", []string{"volume", "bath-1", "1"}, func(b *fakeBroker) { b.answer = `{"transaction":"TRANSACTION"}` }, 1, "resonate/player/bath-1/set", map[string]any{"volume": 1.0}, "without a reason"},
		{"no answer", []string{"volume", "bath-1", "1"}, func(b *fakeBroker) { b.answer = "" }, 1, "resonate/player/bath-1/set", map[string]any{"volume": 1.0}, "no answer"},
		{"bridge offline", []string{"volume", "Kitchen", "1"}, offline, 1, "", nil, "the bridge is offline"},
		{"no bridge", []string{"volume", "Kitchen", "1"}, func(b *fakeBroker) { clear(b.retained) }, 1, "", nil, "no bridge is known at mqtt://127.0.0.1:1883 under the topic resonate/"},
		{"another program's topic", []string{"volume", "Kitchen", "1"}, func(b *fakeBroker) { b.retained["resonate/bridge/devices"] = "{" }, 1, "", nil, "is not what a bridge of this version publishes"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			b := newFakeBroker()
			if tc.change != nil {
				tc.change(b)
			}
			code, stdout, stderr := run(t, b.process(), tc.args...)
			if code != tc.code || !strings.Contains(stdout+stderr, tc.text) {
				t.Errorf("bridge %q: got exit %d, %q, %q; want exit %d with %q", tc.args, code, stdout, stderr, tc.code, tc.text)
			}
			if diff := cmp.Diff(tc.sent, b.sent); diff != "" || b.topic != tc.topic {
				t.Errorf("bridge %q: sent to %q, want %q (-want +got):\n%s", tc.args, b.topic, tc.topic, diff)
			}
		})
	}
}

func TestStatus(t *testing.T) {
	t.Parallel()
	b := newFakeBroker()
	code, stdout, stderr := run(t, b.process(), "status")
	want := `Bridge online, version 1.0, 1 of 4 speakers connected
! the clock jumped

SPEAKER  ID         CONNECTION            TRUST       VOLUME  MUTE  GROUP       PLAYBACK  PROBLEM
Kitchen  kitchen-1  connected             -           35      off   Downstairs  playing   -
Bath     bath-1     held_by_other_server  -           -       -     Solo        idle      held by Music Assistant
bath     bath-2     approval_required     unapproved  10      on    Solo        idle      connection?[31m refused
Attic    -          searching             -           -       -     -           -         -

TO DO
bath is neither paired nor approved: bridge pair bath

GROUP       ID          KIND   VOLUME  MUTE  ONLINE  PLAYBACK  MEMBERS
Downstairs  downstairs  named  35      off   1 of 1  playing   kitchen-1
`
	if code != ExitOK || stderr != "" {
		t.Errorf("status: got exit %d, stderr %q; want 0, none", code, stderr)
	}
	if diff := cmp.Diff(want, stdout); diff != "" {
		t.Errorf("status (-want +got):\n%s", diff)
	}
}

// TestStatusIsAsNewAsTheStates: bridge/devices and bridge/groups may be a
// second late, so a status right after a command showed what was before it.
func TestStatusIsAsNewAsTheStates(t *testing.T) {
	t.Parallel()
	b := newFakeBroker()
	b.retained["resonate/player/kitchen-1/state"] = `{"id":"kitchen-1","name":"Kitchen","connection":"connected","volume":20,"mute":true,"playback":"paused","group":{"name":"Kitchen","option":"Solo"}}`
	b.retained["resonate/group/downstairs/state"] = `{"id":"downstairs","name":"Downstairs","kind":"named","members":[],"online":0,"playback":"idle","volume":null,"mute":null}`
	_, stdout, stderr := run(t, b.process(), "status")
	for _, want := range []string{
		"Kitchen  kitchen-1  connected             -           20      on    Solo   paused    -\n",
		"Downstairs  downstairs  named  -       -     0 of 0  idle      -\n",
	} {
		if !strings.Contains(stdout, want) {
			t.Errorf("status: got %s%s, want the line %q", stdout, stderr, want)
		}
	}
	if code, _, _ := run(t, b.process(), "volume", "AA:BB", "5"); code != ExitOK {
		t.Errorf("volume by client id beside a state: got exit %d, want 0", code)
	}
}

func TestStatusJSON(t *testing.T) {
	t.Parallel()
	b := newFakeBroker()
	code, stdout, _ := run(t, b.process(), "status", "--json")
	var got struct {
		Bridge  map[string]any   `json:"bridge"`
		Devices []map[string]any `json:"devices"`
		Groups  []map[string]any `json:"groups"`
	}
	if err := json.Unmarshal([]byte(stdout), &got); err != nil || code != ExitOK {
		t.Fatalf("status --json: got exit %d, %v in %q", code, err, stdout)
	}
	if got.Bridge["state"] != "online" || got.Bridge["version"] != "1.0" || len(got.Devices) != 4 || len(got.Groups) != 1 || got.Devices[0]["client_id"] != "AA:BB" {
		t.Errorf("status --json: got %q, want everything as published", stdout)
	}
}

func TestStatusOfABridgeThatIsOffline(t *testing.T) {
	t.Parallel()
	b := newFakeBroker()
	b.retained["resonate/bridge/state"] = "offline"
	code, stdout, stderr := run(t, b.process(), "status")
	if code != ExitFailure || !strings.Contains(stdout, "Kitchen") || !strings.Contains(stderr, "the bridge is offline; this is what was last known") {
		t.Errorf("got exit %d, %q, %q; want exit 1, the table and a word about it", code, stdout, stderr)
	}
}

func TestWhichBrokerIsAsked(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name string
		env  []string
		url  string
	}{
		{"none configured", nil, "mqtt://127.0.0.1:1883"},
		{"the embedded one elsewhere", []string{"RESONATE_MQTT_EMBEDDED_LISTEN=:1999"}, "mqtt://127.0.0.1:1999"},
		{"configured", []string{"RESONATE_MQTT_URL=mqtts://nas", "RESONATE_MQTT_USERNAME=u", "RESONATE_MQTT_PASSWORD=p"}, "mqtts://nas"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			b := newFakeBroker()
			if code, _, stderr := run(t, b.process(tc.env...), "status"); code != ExitOK {
				t.Fatalf("status: got exit %d, %q", code, stderr)
			}
			if b.opts.URL != tc.url || len(tc.env) == 3 && (b.opts.Username != "u" || b.opts.Password != "p") {
				t.Errorf("broker: got %q of %q, want %q", b.opts.URL, b.opts.Username, tc.url)
			}
		})
	}
}

// TestShellAgainstARealBroker proves that the fake above is like the real one:
// retained topics are read, and the answer is waited for.
func TestShellAgainstARealBroker(t *testing.T) {
	t.Parallel()
	embedded, err := mqtt.NewEmbedded("127.0.0.1:0", nil)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 2)
	go func() { ended <- embedded.Run(ctx) }()
	url := "mqtt://" + embedded.Addr()
	bridge, err := mqtt.New(mqtt.Options{URL: url, Subscriptions: []string{"resonate/player/+/set/#"}})
	if err != nil {
		t.Fatal(err)
	}
	for topic, payload := range newFakeBroker().retained {
		bridge.Set(topic, []byte(payload), mqtt.ClassState)
	}
	bridgeCtx, stopBridge := context.WithCancel(ctx)
	bridgeEnded := make(chan error, 1)
	go func() { bridgeEnded <- bridge.Run(bridgeCtx) }()
	answered := make(chan struct{})
	go func() {
		defer close(answered)
		select {
		case m := <-bridge.Messages():
			var sent struct {
				Transaction string `json:"transaction"`
			}
			_ = json.Unmarshal(m.Payload, &sent)
			bridge.Publish(strings.TrimSuffix(m.Topic, "/set")+"/result", []byte(strings.ReplaceAll(okAnswer, "TRANSACTION", sent.Transaction)), 1)
		case <-ctx.Done():
		}
	}()
	wait, stopWaiting := context.WithTimeout(ctx, 10*time.Second)
	defer stopWaiting()
	for want := len(newFakeBroker().retained); ; { // what is there now is what the shell will read
		got, err := mqtt.Collect(wait, mqtt.Options{URL: url}, []string{"resonate/#"}, 50*time.Millisecond)
		if err != nil {
			t.Fatalf("the test's bridge did not publish: %v", err)
		}
		if len(got) >= want {
			break
		}
	}
	env := []string{"RESONATE_MQTT_URL=" + url}
	if code, stdout, stderr := run(t, Process{Env: env}, "volume", "Kitchen", "25"); code != ExitOK || stdout != "Kitchen: volume 25\n" {
		t.Errorf("volume: got exit %d, %q, %q", code, stdout, stderr)
	}
	stopBridge()
	if err := <-bridgeEnded; err != nil {
		t.Errorf("the test's bridge: %v", err)
	}
	cancel()
	if err := <-ended; err != nil {
		t.Errorf("the test's broker: %v", err)
	}
	<-answered
}

func TestNoBrokerToAsk(t *testing.T) {
	t.Parallel()
	l := listen(t, "127.0.0.1:0")
	addr := l.Addr().String()
	l.Close()
	code, _, stderr := run(t, Process{Env: []string{"RESONATE_MQTT_URL=mqtt://" + addr}}, "status")
	if code != ExitFailure || !strings.Contains(stderr, addr) {
		t.Errorf("status: got exit %d, %q; want exit 1 and the broker's address", code, stderr)
	}
}

// fakeSource announces endpoints.
type fakeSource []discovery.Event

func (s fakeSource) Run(ctx context.Context, emit func(discovery.Event)) error {
	for _, ev := range s {
		emit(ev)
	}
	<-ctx.Done()
	return nil
}

func endpoint(name, service, addr string) discovery.Event {
	return discovery.Event{Kind: discovery.Announced, Endpoint: discovery.Endpoint{
		Key: name + "." + service, Name: name, Service: service, Path: "/sendspin", Addrs: []netip.AddrPort{netip.MustParseAddrPort(addr)},
	}}
}

func hearing(events ...discovery.Event) func(discovery.MDNSOptions) discovery.Source {
	return func(discovery.MDNSOptions) discovery.Source { return fakeSource(events) }
}

func TestScan(t *testing.T) {
	t.Parallel()
	gone := endpoint("Gone", discovery.ServicePlayer, "10.0.0.9:8928")
	withdrawn := gone
	withdrawn.Kind = discovery.Withdrawn
	p := Process{seams: seams{browse: hearing(
		endpoint("Kitchen", discovery.ServicePlayer, "10.0.0.7:8928"), gone,
		endpoint("Music\x1b Assistant", discovery.ServiceServer, "10.0.0.2:8927"),
		endpoint("Attic", discovery.ServicePlayerOld, "10.0.0.8:8928"), withdrawn,
	)}}
	code, stdout, stderr := run(t, p, "scan", "--timeout", "20ms")
	want := `SPEAKER           ADDRESS                      SERVICE
Attic             ws://10.0.0.8:8928/sendspin  _resonate._tcp
Kitchen           ws://10.0.0.7:8928/sendspin  _sendspin._tcp
SERVER            ADDRESS                      SERVICE
Music? Assistant  ws://10.0.0.2:8927/sendspin  _sendspin-server._tcp
`
	if diff := cmp.Diff(want, stdout); diff != "" || code != ExitOK {
		t.Errorf("scan: got exit %d, %q (-want +got):\n%s", code, stderr, diff)
	}
	_, stdout, _ = run(t, p, "scan", "--timeout", "20ms", "--json")
	var got found
	if err := json.Unmarshal([]byte(stdout), &got); err != nil || len(got.Speakers) != 2 || len(got.Servers) != 1 || got.Speakers[0].URLs[0] != "ws://10.0.0.8:8928/sendspin" {
		t.Errorf("scan --json: got %q, %v; want two speakers and a server", stdout, err)
	}
	code, stdout, _ = run(t, Process{seams: seams{browse: hearing()}}, "scan", "--timeout", "20ms")
	if code != ExitOK || !strings.Contains(stdout, "Nothing was heard in 20ms") {
		t.Errorf("scan of silence: got exit %d, %q", code, stdout)
	}
}

func TestDoctor(t *testing.T) {
	t.Parallel()
	speaker := listen(t, "127.0.0.1:0").Addr().String()
	dead := listen(t, "127.0.0.1:0")
	deadAddr := dead.Addr().String()
	dead.Close()
	taken := listen(t, "127.0.0.1:0").Addr().String()
	good := func(b *fakeBroker) { clear(b.retained) }
	ears := func([]string) (string, error) { return "mDNS can be heard on test0", nil }
	for _, tc := range []struct {
		name   string
		env    []string
		broker func(*fakeBroker)
		seams  seams
		code   int
		rows   []string // "verdict name text", text contained
		never  string   // contained in no row
	}{
		{
			"all is well",
			[]string{"RESONATE_MQTT_URL=mqtt://x"},
			nil,
			seams{multicast: ears, browse: hearing(endpoint("Kitchen", discovery.ServicePlayer, speaker))},
			ExitOK,
			[]string{"ok data_dir can be written", "ok broker a bridge is online there", "ok network test0", "ok mdns 1 speakers heard", "ok speaker Kitchen accepts connections"},
			"fail ",
		},
		{"wrong configuration", []string{"RESONATE_LOG_LEVEL=x"}, good, seams{}, ExitFailure, []string{"fail configuration log.level"}, "broker"},
		{
			"speaker behind a wall",
			[]string{"RESONATE_MQTT_URL=mqtt://x"},
			good,
			seams{multicast: ears, browse: hearing(endpoint("Kitchen", discovery.ServicePlayer, deadAddr))},
			ExitFailure,
			[]string{"fail speaker Kitchen (_sendspin._tcp) is known from mdns but does not accept connections", "warn bridge no bridge is running"},
			"",
		},
		{
			"static speaker that is away",
			[]string{"RESONATE_MQTT_URL=mqtt://x", "RESONATE_DISCOVERY_ENABLED=false", "RESONATE_DISCOVERY_PLAYERS=ws://" + deadAddr + "/sendspin"},
			good,
			seams{},
			ExitFailure,
			[]string{"warn mdns discovery.enabled is false", "fail speaker is known from discovery.players"},
			"",
		},
		{"no multicast", []string{"RESONATE_MQTT_URL=mqtt://x"}, good, seams{multicast: func([]string) (string, error) { return "", errors.New("use network_mode: host") }}, ExitFailure, []string{"fail network network_mode: host"}, "mdns"},
		{"silence", []string{"RESONATE_MQTT_URL=mqtt://x"}, good, seams{multicast: ears, browse: hearing()}, ExitOK, []string{"warn mdns no speaker was heard in 20ms"}, "fail "},
		{"another server", []string{"RESONATE_MQTT_URL=mqtt://x"}, good, seams{multicast: ears, browse: hearing(endpoint("MA", discovery.ServiceServer, speaker))}, ExitOK, []string{"ok servers servers heard: MA"}, "fail "},
		{
			"broker forbids",
			[]string{"RESONATE_MQTT_URL=mqtt://x", "RESONATE_DISCOVERY_ENABLED=false"},
			func(b *fakeBroker) { b.noEcho = true },
			seams{},
			ExitFailure,
			[]string{"fail broker no echo"},
			"",
		},
		{
			"a foreign broker holds the embedded one's port",
			[]string{"RESONATE_DISCOVERY_ENABLED=false"},
			good,
			seams{},
			ExitFailure,
			[]string{"fail broker another broker holds 127.0.0.1:1883: set mqtt.url to mqtt://127.0.0.1:1883 to use it"},
			"",
		},
		{
			"configured port taken",
			[]string{"RESONATE_MQTT_URL=mqtt://x", "RESONATE_DISCOVERY_ENABLED=false", "RESONATE_SERVER_LISTEN=" + taken},
			good,
			seams{},
			ExitFailure,
			[]string{"fail server.listen from environment variable RESONATE_SERVER_LISTEN, is held by another program"},
			"",
		},
		{
			"problems of a running bridge",
			[]string{"RESONATE_MQTT_URL=mqtt://x", "RESONATE_DISCOVERY_ENABLED=false"},
			nil,
			seams{},
			ExitOK,
			[]string{"warn bridge the clock jumped", "warn speaker Bath is held by other server: held by Music Assistant"},
			"fail ",
		},
		{
			"data_dir is a file",
			[]string{"RESONATE_MQTT_URL=mqtt://x", "RESONATE_DISCOVERY_ENABLED=false", "RESONATE_DATA_DIR=" + write(t, "data", "x")},
			good,
			seams{},
			ExitFailure,
			[]string{"fail data_dir is not a directory"},
			"",
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			b := newFakeBroker()
			if tc.broker != nil {
				tc.broker(b)
			}
			p := b.process(append([]string{"RESONATE_DATA_DIR=" + filepath.Join(t.TempDir(), "not", "yet"), "RESONATE_HTTP_LISTEN=" + deadAddr}, tc.env...)...)
			if slices.ContainsFunc(tc.env, func(e string) bool { return strings.HasPrefix(e, "RESONATE_DATA_DIR=") }) {
				p.Env = p.Env[1:]
			}
			tc.seams.dial, tc.seams.listen = p.seams.dial, 20*time.Millisecond
			p.seams = tc.seams
			code, stdout, stderr := run(t, p, "doctor", "--json")
			var got struct {
				OK     bool    `json:"ok"`
				Checks []check `json:"checks"`
			}
			if err := json.Unmarshal([]byte(stdout), &got); err != nil {
				t.Fatalf("doctor --json: got %v in %q, %q", err, stdout, stderr)
			}
			if code != tc.code || got.OK != (tc.code == ExitOK) {
				t.Errorf("doctor: got exit %d, ok %v; want exit %d in %s", code, got.OK, tc.code, stdout)
			}
			for _, want := range tc.rows {
				verdict, rest, _ := strings.Cut(want, " ")
				name, text, _ := strings.Cut(rest, " ")
				if !slices.ContainsFunc(got.Checks, func(c check) bool {
					return string(c.Verdict) == verdict && c.Name == name && strings.Contains(c.Text, text)
				}) {
					t.Errorf("doctor: got no row %q in %s", want, stdout)
				}
			}
			for _, c := range got.Checks {
				if row := string(c.Verdict) + " " + c.Name + " " + c.Text; tc.never != "" && strings.Contains(row, tc.never) {
					t.Errorf("doctor: got the row %q, want none with %q", row, tc.never)
				}
			}
		})
	}
}

func TestDoctorForPeople(t *testing.T) {
	t.Parallel()
	b := newFakeBroker()
	p := b.process("RESONATE_LOG_LEVEL=x")
	code, stdout, _ := run(t, p, "doctor")
	if code != ExitFailure || !strings.HasPrefix(stdout, "fail  configuration  log.level") || !strings.HasSuffix(stdout, "\n1 failed, 0 to look at.\n") {
		t.Errorf("doctor: got exit %d, %q", code, stdout)
	}
}

// syncBuffer tells when it holds a text.
type syncBuffer struct {
	bytes.Buffer
	until string
	seen  chan struct{}
}

func (b *syncBuffer) Write(p []byte) (int, error) {
	n, err := b.Buffer.Write(p)
	if b.until != "" && strings.Contains(b.String(), b.until) {
		b.until = ""
		close(b.seen)
	}
	return n, err
}

// TestPlayerObeysItsFlags failed when the flags were bound before they were
// parsed: the player then listened everywhere and announced itself.
func TestPlayerObeysItsFlags(t *testing.T) {
	t.Parallel()
	wav := filepath.Join(t.TempDir(), "out.wav")
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	logs := &syncBuffer{until: "player listens", seen: make(chan struct{})}
	done := make(chan int, 1)
	go func() {
		done <- Main(ctx, []string{"player", "--listen", "127.0.0.1:0", "--dialect", "S2", "--out", wav}, Process{
			Stdout: &bytes.Buffer{}, Stderr: logs, seams: offNetwork(t, seams{}),
		})
	}()
	select {
	case <-logs.seen:
	case code := <-done:
		t.Fatalf("player: ended with %d, %s", code, logs)
	}
	cancel()
	if code := <-done; code != ExitOK {
		t.Errorf("player: got exit %d, want 0", code)
	}
	for _, want := range []string{"addr=127.0.0.1:", "dialect=S2", "announced=false"} {
		if !strings.Contains(logs.String(), want) {
			t.Errorf("player: got no %q in %q", want, logs)
		}
	}
	if _, err := os.Stat(wav); err != nil {
		t.Errorf("player --out: got %v, want a file", err)
	}
}

// TestEncryptedPlayerIsTheSame: with its directory a player has its identity and
// its token again, and nobody else may read it.
func TestEncryptedPlayerIsTheSame(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "state")
	start := func() string {
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		defer cancel()
		logs, out := &syncBuffer{until: "player listens", seen: make(chan struct{})}, &syncBuffer{until: "\n", seen: make(chan struct{})}
		done := make(chan int, 1)
		go func() {
			done <- Main(ctx, []string{"player", "--listen", "127.0.0.1:0", "--dialect", "G2", "--state-dir", dir, "--show-token"}, Process{
				Stdin: strings.NewReader(""), Stdout: out, Stderr: logs, seams: offNetwork(t, seams{}),
			})
		}()
		for _, seen := range []chan struct{}{logs.seen, out.seen} {
			select {
			case <-seen:
			case code := <-done:
				t.Fatalf("player: ended with %d, %s", code, logs)
			}
		}
		cancel()
		if code := <-done; code != ExitOK {
			t.Errorf("player: got exit %d, want 0", code)
		}
		if strings.Contains(logs.String(), "SP:0") {
			t.Errorf("the token is in the log: %s", logs)
		}
		return out.String()
	}
	first := start()
	if !strings.HasPrefix(first, "Pairing token: SP:0") || len(strings.TrimSpace(first)) != len("Pairing token: ")+107 {
		t.Errorf("got %q, want a token", first)
	}
	if again := start(); again != first {
		t.Errorf("after a restart: got %q, want %q", again, first)
	}
	if info, err := os.Stat(filepath.Join(dir, "identity.key")); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("identity: got %v, %v", info, err)
	}
}
