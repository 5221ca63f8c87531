package entities

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"time"

	"resonatebridge/mqtt"
	"resonatebridge/resonate"
	"resonatebridge/resonate/protocol"
)

func TestPrompt(t *testing.T) {
	static := []protocol.PairMethod{protocol.PairByStaticCode}
	dynamic := []protocol.PairMethod{protocol.PairByDynamicCode}
	token := []protocol.PairMethod{protocol.PairByPSK}
	for _, tc := range []struct {
		name       string
		connection resonate.Connection
		trust      resonate.Trust
		methods    []protocol.PairMethod
		attempt    *resonate.Pairing
		want       string // contained; "-": nothing
		code       bool   // may be entered
		button     bool   // Pair is there
	}{
		{"plaintext", resonate.Connected, resonate.TrustPlaintext, nil, nil, "-", false, false},
		{"paired", resonate.Connected, resonate.TrustPaired, static, nil, "-", false, false},
		{"never spoke", resonate.Searching, "", nil, nil, "-", false, false},
		{"label", resonate.PairingRequired, resonate.TrustUnapproved, static, nil, "Hall wants to be paired: press Pair", true, true},
		{"display", resonate.PairingRequired, resonate.TrustUnapproved, dynamic, nil, "press Pair", false, true},
		{"methods unknown", resonate.PairingRequired, "", nil, nil, "press Pair", true, true},
		{"approval", resonate.ApprovalRequired, resonate.TrustUnapproved, dynamic, nil, "or Approve", false, true},
		{"approval of one that can't be paired", resonate.ApprovalRequired, resonate.TrustUnapproved, nil, nil, "can't be paired: press Approve", false, false},
		{"token only", resonate.PairingRequired, resonate.TrustUnapproved, token, nil, "enter its token", true, true},
		{"token or approval", resonate.ApprovalRequired, resonate.TrustUnapproved, token, nil, "enter its token as the pairing code, or press Approve", true, true},
		{"token of an approved one", resonate.Connected, resonate.TrustApproved, token, nil, "-", true, true},
		{"token of a paired one", resonate.Connected, resonate.TrustPaired, token, nil, "-", false, false},
		{"lost record", resonate.Connected, resonate.TrustMismatch, static, nil, "-", false, true},
		{"downgraded", resonate.ConnectionProblem, resonate.TrustDowngraded, nil, nil, "-", false, false},
		{"connecting", resonate.Connecting, resonate.TrustUnapproved, dynamic, &resonate.Pairing{Step: resonate.PairConnecting}, "connecting to Hall", false, true},
		{"waiting", resonate.PairingRequired, resonate.TrustUnapproved, dynamic, &resonate.Pairing{Step: resonate.PairWaiting}, "waiting for Hall", false, true},
		{"label already", resonate.PairingRequired, resonate.TrustUnapproved, static, &resonate.Pairing{Step: resonate.PairWaiting, Method: protocol.PairByStaticCode, Digits: 8}, "enter the 8 digits on the label of Hall", true, true},
		{"held", resonate.PairingRequired, resonate.TrustUnapproved, dynamic, &resonate.Pairing{Step: resonate.PairHeld, Message: "press\nthe button"}, `Hall holds back; it says "press the button"`, false, true},
		{"held without a word", resonate.PairingRequired, resonate.TrustUnapproved, dynamic, &resonate.Pairing{Step: resonate.PairHeld}, "look whether it wants a button pressed", false, true},
		{"code", resonate.PairingRequired, resonate.TrustUnapproved, dynamic, &resonate.Pairing{Step: resonate.PairCode, Digits: 6, Round: 1}, "enter the 6 digits that Hall shows or says", true, true},
		{"code again", resonate.PairingRequired, resonate.TrustUnapproved, dynamic, &resonate.Pairing{Step: resonate.PairCode, Digits: 6, Round: 2}, "the code was wrong: enter the 6 digits that Hall shows or says", true, true},
		{"QR", resonate.PairingRequired, resonate.TrustUnapproved, dynamic, &resonate.Pairing{Step: resonate.PairCode, Format: protocol.CodeQR, Round: 1}, "the text of the QR code that Hall shows", true, true},
		{"code of a usable one", resonate.Connected, resonate.TrustApproved, dynamic, &resonate.Pairing{Step: resonate.PairCode}, "enter the code", true, true},
		{"checking", resonate.PairingRequired, resonate.TrustUnapproved, dynamic, &resonate.Pairing{Step: resonate.PairChecking}, "checking the code", false, true},
		{"checking a token", resonate.PairingRequired, resonate.TrustUnapproved, dynamic, &resonate.Pairing{Step: resonate.PairChecking, Method: protocol.PairByPSK}, "checking the token", false, true},
		{"storing", resonate.PairingRequired, resonate.TrustUnapproved, dynamic, &resonate.Pairing{Step: resonate.PairStoring}, "storing", false, true},
		{"done", resonate.Connected, resonate.TrustPaired, dynamic, &resonate.Pairing{Step: resonate.PairDone}, "Hall is paired", false, false},
		{"unpaired since", resonate.PairingRequired, resonate.TrustMismatch, static, &resonate.Pairing{Step: resonate.PairDone}, "press Pair", true, true},
		{"failed", resonate.PairingRequired, resonate.TrustUnapproved, static, &resonate.Pairing{Step: resonate.PairFailed, Error: "nobody entered a code; pair again"}, "nobody entered a code; pair again", true, true},
	} {
		p := &resonate.Player{PID: "hall", Name: "Hall", Connection: tc.connection, Trust: tc.trust, PairMethods: tc.methods, Pairing: tc.attempt}
		got := prompt(p)
		if tc.want == "-" && got != "" || tc.want != "-" && !strings.Contains(got, tc.want) {
			t.Errorf("%s: got %q, want %q", tc.name, got, tc.want)
		}
		if codeWanted(p) != tc.code || pairable(p) != tc.button {
			t.Errorf("%s: a code is wanted %v, can be paired %v; want %v, %v", tc.name, codeWanted(p), pairable(p), tc.code, tc.button)
		}
	}
}

// trustKeys are the components that come and go.
func trustKeys() []string {
	var keys []string
	for _, r := range trustRows() {
		if r.comesAndGoes {
			keys = append(keys, r.key)
		}
	}
	return keys
}

// TestTrustEntitiesComeAndGo: what doesn't apply is announced as gone, also by a
// bridge that has just started and can't know what was there.
func TestTrustEntitiesComeAndGo(t *testing.T) {
	const topic = "homeassistant/device/resonate_kitchen-3f9a1c07/config"
	running(t, options(), func(b *bench) {
		there := func(doc string) string {
			var out []string
			for _, key := range trustKeys() {
				switch got := announced(t, []sent{{payload: doc}}, key); got {
				case "there":
					out = append(out, key)
				case "removed":
				default:
					t.Errorf("%s: got %s, want there or removed", key, got)
				}
			}
			return strings.Join(out, " ")
		}
		first := Render(options(), house())[topic]
		if got := there(string(first)); got != "forget" {
			t.Errorf("paired, at start: got %q, want forget", got)
		}
		for _, step := range []struct {
			name   string
			change func(p *resonate.Player)
			want   string // "": no document
		}{
			{"mismatch", func(p *resonate.Player) {
				p.Trust, p.Connection = resonate.TrustMismatch, resonate.PairingRequired
			}, "pairing pairing_code pair forget"},
			{"being paired", func(p *resonate.Player) { p.Pairing = &resonate.Pairing{Step: resonate.PairWaiting} }, "pairing pairing_code pair cancel_pairing forget"},
			{"next step", func(p *resonate.Player) { p.Pairing = &resonate.Pairing{Step: resonate.PairCode} }, ""},
			{"paired", func(p *resonate.Player) {
				p.Trust, p.Connection, p.Pairing = resonate.TrustPaired, resonate.Connected, &resonate.Pairing{Step: resonate.PairDone}
			}, "pairing forget"},
			{"unapproved", func(p *resonate.Player) {
				p.Trust, p.Connection, p.Pairing = resonate.TrustUnapproved, resonate.ApprovalRequired, nil
			}, "pairing pairing_code pair approve"},
			{"away", func(p *resonate.Player) { p.Connection, p.PairMethods = resonate.Offline, nil }, ""},
			{"approved", func(p *resonate.Player) {
				p.Trust, p.Connection = resonate.TrustApproved, resonate.Connected
				p.PairMethods = []protocol.PairMethod{protocol.PairByPSK}
			}, "pairing pairing_code withdraw_approval"},
			{"approved, with a code", func(p *resonate.Player) {
				p.PairMethods = []protocol.PairMethod{protocol.PairByDynamicCode}
			}, "pairing pairing_code pair withdraw_approval"},
			{"no access without pairing", func(p *resonate.Player) { p.Trust, p.Connection = resonate.TrustUnapproved, resonate.PairingRequired }, "pairing pairing_code pair"},
			{"and away", func(p *resonate.Player) { p.Connection = resonate.Connecting }, ""},
		} {
			b.server.player(kitchenID, step.change)
			b.pass(time.Minute)
			docs := b.broker.take(topic)
			switch {
			case step.want == "" && len(docs) > 0:
				t.Errorf("%s: got the document %s, want none", step.name, docs[0].payload)
			case step.want != "" && len(docs) == 0:
				t.Errorf("%s: got no document", step.name)
			case step.want != "":
				if got := there(docs[len(docs)-1].payload); got != step.want {
					t.Errorf("%s: got %q, want %q", step.name, got, step.want)
				}
			}
		}
	})
}

func TestTrustEvents(t *testing.T) {
	attempt := func(a resonate.Pairing) func(p *resonate.Player) {
		return func(p *resonate.Player) { p.Pairing = &a }
	}
	running(t, Options{}, func(b *bench) {
		for _, step := range []struct {
			name   string
			change func(p *resonate.Player)
			want   []string // of bridge/event: the type and some of its data
		}{
			{"wants to be paired", func(p *resonate.Player) {
				p.Connection, p.Trust = resonate.PairingRequired, resonate.TrustUnapproved
			}, []string{`"pairing_required"`, `"trust":"unapproved"`, `"connection":"pairing_required"`, `"methods":["pairing_psk","static_pairing_code"]`}},
			{"begun", attempt(resonate.Pairing{Step: resonate.PairWaiting, Method: protocol.PairByDynamicCode}), nil},
			{"held", attempt(resonate.Pairing{Step: resonate.PairHeld, Message: "press the button"}), []string{`"pairing_required"`, `"step":"held"`, `"message":"press the button"`, `it says`}},
			{"code", attempt(resonate.Pairing{Step: resonate.PairCode, Round: 1, Digits: 6}), []string{`"pairing_required"`, `"step":"code"`, `"round":1`, `"digits":6`, `"code_wanted":true`}},
			{"checked", attempt(resonate.Pairing{Step: resonate.PairChecking, Round: 1}), nil},
			{"wrong", attempt(resonate.Pairing{Step: resonate.PairCode, Round: 2, Digits: 6}), []string{`"pairing_required"`, `"round":2`}},
			{"failed", attempt(resonate.Pairing{Step: resonate.PairFailed, Error: "too late; pair again"}), []string{`"pairing_finished"`, `"paired":false`, `"error":"too late; pair again"`}},
			{"done", attempt(resonate.Pairing{Step: resonate.PairDone, Method: protocol.PairByPSK}), []string{`"pairing_finished"`, `"paired":true`, `"error":null`}},
			{"something else", func(p *resonate.Player) { p.DelayMs = ptr(7) }, nil},
		} {
			b.server.player(kitchenID, step.change)
			b.pass(time.Second)
			got := b.broker.take("resonate/bridge/event")
			if want := min(len(step.want), 1); len(got) != want {
				t.Errorf("%s: got %v, want %d events", step.name, got, want)
				continue
			}
			for _, w := range step.want {
				if !strings.Contains(got[0].payload, w) {
					t.Errorf("%s: got %s, want %s in it", step.name, got[0].payload, w)
				}
			}
		}
	})
}

// TestRefusedPairingIsTold: in Home Assistant nobody sees the result topic.
func TestRefusedPairingIsTold(t *testing.T) {
	running(t, Options{}, func(b *bench) {
		b.server.do = func(context.Context, resonate.Command) (resonate.Result, error) {
			return resonate.Result{}, resonate.Errorf(resonate.CodeInvalidValue, "the token is not complete")
		}
		b.send("player/"+kitchenID+"/set/volume", "5")
		b.send("player/"+kitchenID+"/set/pair", "SP:0")
		b.pass(time.Second)
		got := b.broker.take(kitchenTopic + "/event")
		const want = `{"code":"invalid_value","error":"the token is not complete","event_type":"pairing_refused","id":"kitchen-3f9a1c07","player":"Kitchen"}`
		if len(got) != 1 || got[0].payload != want {
			t.Errorf("got %v, want one event %s", got, want)
		}
	})
}

// TestPairingCodeFollowsTheState: the text entity is there while a code is
// wanted, told by the state, and its own state is always empty.
func TestPairingCodeFollowsTheState(t *testing.T) {
	var doc struct {
		Components map[string]struct {
			Mode          string `json:"mode"`
			ValueTemplate string `json:"value_template"`
			Availability  []struct {
				Topic    string `json:"topic"`
				Template string `json:"value_template"`
			} `json:"availability"`
		} `json:"components"`
	}
	docs := Render(options(), with(asking()))
	if err := json.Unmarshal(docs["homeassistant/device/resonate_porch/config"], &doc); err != nil {
		t.Fatal(err)
	}
	code := doc.Components["pairing_code"]
	if code.Mode != "password" || code.ValueTemplate != "{{ '' }}" || len(code.Availability) != 2 {
		t.Fatalf("got %+v, want a password that shows nothing, with two conditions", code)
	}
	if a := code.Availability[1]; a.Topic != "resonate/player/porch/state" || !strings.Contains(a.Template, "value_json.pairing.code_wanted") {
		t.Errorf("got %+v, want the state to say it", a)
	}
	if a := doc.Components["pair"].Availability; len(a) != 1 || a[0].Template != "" {
		t.Errorf("Pair: got %+v, want the bridge's state only", a)
	}
	var state struct {
		Pairing struct {
			CodeWanted *bool `json:"code_wanted"`
		} `json:"pairing"`
	}
	if err := json.Unmarshal(docs["resonate/player/porch/state"], &state); err != nil || state.Pairing.CodeWanted == nil || !*state.Pairing.CodeWanted {
		t.Errorf("got %s, %v, want code_wanted", docs["resonate/player/porch/state"], err)
	}
}

// TestCodesAreNeverShown: whatever is wrong with a message, the code in it comes
// back in no answer, event, state or log.
func TestCodesAreNeverShown(t *testing.T) {
	const code = "482913"
	var logged strings.Builder
	running(t, Options{Log: slog.New(slog.NewTextHandler(&logged, &slog.HandlerOptions{Level: slog.LevelDebug}))}, func(b *bench) {
		var got []resonate.Secret
		b.server.do = func(_ context.Context, c resonate.Command) (resonate.Result, error) {
			pair, ok := c.(resonate.Pair)
			if !ok {
				return resonate.Result{}, fmt.Errorf("%+v", c)
			}
			got = append(got, pair.Secret)
			return resonate.Result{}, resonate.Errorf(resonate.CodePairingFailed, "%+v: no", c)
		}
		set, request := "player/"+kitchenID+"/set", "bridge/request/device/pair"
		answers := 0
		for _, m := range []struct{ topic, payload string }{
			{set + "/pair", code},
			{set + "/pair", code + "\x00"},
			{set + "/pair", code + "\xff"},
			{set + "/pair", strings.Repeat(code, 1000)},
			{set, `{"pair": "` + code + `"}`},
			{set, `{"pair": ` + code + `}`},
			{set, `{"pair": ["` + code + `"]}`},
			{set, `{"pair": "` + code + `"`},
			{set, `{"pair": "` + code + `", "pair": 1}`},
			{set, `{"pair": "` + code + `"}{}`},
			{set, `{"pair": "` + code + `", "colour": 1}`},
			{set, `{"pair": "` + code + `", "volume": 500}`},
			{set, "pair " + code},
			{request, code},
			{request, `{"id": "kitchen", "code": "` + code + `"}`},
			{request, `{"id": "kitchen", "code": ` + code + `}`},
			{request, `{"id": "kitchen", "code": "` + code + `"`},
			{request, `{"id": "attic", "code": "` + code + `"}`},
			{request, `{"code": "` + code + `"}`},
		} {
			b.send(m.topic, m.payload)
			answers++
		}
		b.broker.in <- mqtt.Message{Topic: "resonate/" + set + "/pair", Payload: []byte(code), Retained: true}
		answers++
		b.pass(time.Minute)
		all := b.broker.take("")
		results := 0
		for _, s := range all {
			if strings.Contains(s.payload, code) || strings.Contains(s.topic, code) {
				t.Errorf("%s: %s", s.topic, s.payload)
			}
			if strings.HasSuffix(s.topic, "/result") || strings.Contains(s.topic, "/response/") {
				results++
			}
		}
		if results != answers {
			t.Errorf("got %d answers to %d messages", results, answers)
		}
		if want := []resonate.Secret{code, code, code}; !slices.Equal(got, want) {
			t.Errorf("%d codes arrived, want the 3 that were right", len(got))
		}
	})
	if strings.Contains(logged.String(), code) {
		t.Errorf("the log shows it:\n%s", &logged)
	}
	if !strings.Contains(logged.String(), "pairing_failed") {
		t.Errorf("nothing was logged:\n%s", &logged)
	}
}
