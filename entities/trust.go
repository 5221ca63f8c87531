package entities

import (
	"fmt"
	"strings"

	"resonatebridge/resonate"
	"resonatebridge/resonate/protocol"
)

// trusts are the values of the Trust sensor.
func trusts() []string {
	return []string{
		string(resonate.TrustPlaintext), string(resonate.TrustPaired), string(resonate.TrustApproved),
		string(resonate.TrustUnapproved), string(resonate.TrustMismatch), string(resonate.TrustDowngraded),
	}
}

// pairing is how a speaker's pairing stands. What there is no attempt for is
// null.
type pairing struct {
	Methods    []string `json:"methods"` // that the speaker offers
	Step       *string  `json:"step"`
	Method     *string  `json:"method"`
	Format     *string  `json:"format"`
	Digits     *int     `json:"digits"`
	Round      *int     `json:"round"`
	Message    *string  `json:"message"` // the speaker's own words
	Error      *string  `json:"error"`
	CodeWanted bool     `json:"code_wanted"`
	Prompt     *string  `json:"prompt"` // what happens, and what a person has to do
}

func pairingOf(p *resonate.Player) pairing {
	out := pairing{Methods: []string{}, CodeWanted: codeWanted(p), Prompt: optional(prompt(p))}
	for _, m := range p.PairMethods {
		out.Methods = append(out.Methods, string(m))
	}
	if a := p.Pairing; a != nil {
		out.Step, out.Method, out.Format = optional(string(a.Step)), optional(string(a.Method)), optional(string(a.Format))
		out.Message, out.Error = optional(oneLine(a.Message)), optional(a.Error)
		if a.Digits > 0 {
			out.Digits = &a.Digits
		}
		if a.Round > 0 {
			out.Round = &a.Round
		}
	}
	return out
}

// stepOf is the scalar of how pairing stands; empty: it was never tried.
func stepOf(p *resonate.Player) string {
	if p.Pairing == nil {
		return ""
	}
	return string(p.Pairing.Step)
}

// attempts reports whether an attempt to pair p goes on.
func attempts(p *resonate.Player) bool { return p.Pairing != nil && p.Pairing.Live() }

// codeWanted reports whether a code or token can be entered now. Without an
// attempt it may be what begins one, except a code that the speaker has still
// to show.
func codeWanted(p *resonate.Player) bool {
	if attempts(p) {
		return p.Pairing.WantsCode()
	}
	if p.Connection != resonate.PairingRequired {
		return tokenOnly(p) && pairable(p)
	}
	for _, m := range p.PairMethods {
		if m != protocol.PairByDynamicCode {
			return true
		}
	}
	return len(p.PairMethods) == 0
}

// tokenOnly reports whether nothing but its token pairs p: there is no attempt
// to begin without it.
func tokenOnly(p *resonate.Player) bool {
	return len(p.PairMethods) == 1 && p.PairMethods[0] == protocol.PairByPSK
}

// pairable reports whether there is anything to pair.
func pairable(p *resonate.Player) bool {
	switch p.Trust {
	case resonate.TrustUnapproved, resonate.TrustApproved, resonate.TrustMismatch:
		if len(p.PairMethods) > 0 {
			return true
		}
	case resonate.TrustPlaintext, resonate.TrustPaired, resonate.TrustDowngraded:
	}
	return p.Connection == resonate.PairingRequired || attempts(p)
}

// prompt says what the speaker waits for and what to do, in one sentence; ""
// if it waits for nothing.
func prompt(p *resonate.Player) string {
	name := first(oneLine(p.Name), p.PID)
	a := p.Pairing
	switch {
	case a == nil, a.Step == resonate.PairDone && p.Trust != resonate.TrustPaired:
		switch p.Connection {
		case resonate.PairingRequired:
			if tokenOnly(p) {
				return name + " wants to be paired: enter its token as the pairing code"
			}
			return name + " wants to be paired: press Pair, or enter its pairing code or token"
		case resonate.ApprovalRequired:
			switch {
			case len(p.PairMethods) == 0:
				return name + " can't be paired: press Approve to use it as it is"
			case tokenOnly(p):
				return name + " is not paired: enter its token as the pairing code, or press Approve to use it without"
			}
			return name + " is not paired: press Pair, or Approve to use it without"
		case resonate.Searching, resonate.Connecting, resonate.Connected, resonate.Offline, resonate.HeldByOtherServer, resonate.NotManaged, resonate.ConnectionProblem:
		}
		return ""
	case a.Step == resonate.PairFailed:
		return first(a.Error, "pairing failed; try again")
	}
	text := ""
	switch a.Step {
	case resonate.PairConnecting:
		text = "connecting to " + name
	case resonate.PairWaiting:
		text = "waiting for " + name + " to begin"
		if a.WantsCode() {
			text = "enter " + codeOf(a) + " on the label of " + name
		}
	case resonate.PairHeld:
		text = name + " holds back"
		if a.Message == "" {
			text += "; look whether it wants a button pressed"
		}
	case resonate.PairCode:
		where := " that " + name + " shows or says"
		switch {
		case a.Format == protocol.CodeQR:
			where = " that " + name + " shows"
		case a.Method == protocol.PairByStaticCode:
			where = " on the label of " + name
		}
		text = "enter " + codeOf(a) + where
		if a.Round > 1 {
			text = "the code was wrong: " + text
		}
	case resonate.PairChecking:
		text = "checking the code"
		if a.Method == protocol.PairByPSK {
			text = "checking the token"
		}
	case resonate.PairStoring:
		text = "storing the key"
	case resonate.PairDone:
		text = name + " is paired"
	case resonate.PairFailed: // above
	}
	if said := oneLine(a.Message); said != "" {
		text += fmt.Sprintf("; it says %q", said)
	}
	return text
}

// codeOf names the code that is wanted.
func codeOf(a *resonate.Pairing) string {
	switch {
	case a.Format == protocol.CodeQR:
		return "the text of the QR code"
	case a.Digits > 0:
		return fmt.Sprintf("the %d digits", a.Digits)
	}
	return "the code"
}

// trustFields are the fields of a speaker that say whom to trust.
func trustFields() []field {
	return []field{
		{name: "pair", want: "a pairing code, a token, or what a QR code holds, in JSON a text; `PRESS` (in JSON true) begins without one", set: func(d *draft, v value) *resonate.CommandError {
			secret, err := v.secret()
			d.then(resonate.Pair{PID: d.self.PID, Secret: secret})
			return err
		}},
		{name: "cancel_pairing", want: "anything; in JSON true", set: func(d *draft, v value) *resonate.CommandError {
			d.then(resonate.CancelPairing{PID: d.self.PID})
			return v.trigger()
		}},
		{name: "approve", want: "`ON`, `OFF`, `PRESS` for on; in JSON true, false or a text", set: func(d *draft, v value) *resonate.CommandError {
			on, err := v.approval()
			d.then(resonate.Approve{PID: d.self.PID, On: on})
			return err
		}},
		{name: "forget", want: "anything; in JSON true. Forgets the speaker, as `device/remove` does", set: func(d *draft, v value) *resonate.CommandError {
			d.then(resonate.RemovePlayer{PID: d.self.PID})
			return v.trigger()
		}},
	}
}

// press is what a button of Home Assistant sends.
const press = "PRESS"

// secret is what a person entered to pair, empty to begin without. Its errors
// never show it.
func (v value) secret() (resonate.Secret, *resonate.CommandError) {
	text := v.text
	if v.json {
		if text == "true" {
			return "", nil
		}
		s, err := v.string("")
		if err != nil {
			return "", resonate.Errorf(resonate.CodeInvalidValue, "%s: want a text in quotes, also for digits, or true", v.field)
		}
		text = s
	}
	switch text = strings.TrimSpace(text); {
	case strings.EqualFold(text, press):
		return "", nil
	case len(text) > maxSecret:
		return "", resonate.Errorf(resonate.CodeInvalidValue, "%s: got %d bytes, more than any code or token has", v.field, len(text))
	}
	return resonate.Secret(text), nil
}

// maxSecret is the longest code or token that is looked at, in bytes.
const maxSecret = 1 << 10

func (v value) approval() (bool, *resonate.CommandError) {
	if !v.json && strings.EqualFold(strings.TrimSpace(v.text), press) {
		return true, nil
	}
	on, err := v.mute()
	if err != nil || on.Toggle {
		return false, v.wrong("ON or OFF")
	}
	return on.On, nil
}

// mayHoldSecret reports whether a payload that can't be read must not be shown.
func mayHoldSecret(payload string) bool {
	lower := strings.ToLower(payload)
	return strings.Contains(lower, "pair") || strings.Contains(lower, "code") || strings.Contains(lower, "sp:")
}

// trustActions are the requests that say whom to trust.
func trustActions() []action {
	of := func(name string, keys []string, make func(pid string, in map[string]value) (resonate.Command, *resonate.CommandError)) action {
		return action{name: name, keys: append([]string{"id"}, keys...), read: func(d decoder, c *call, in map[string]value) *resonate.CommandError {
			if v := in["id"]; !v.json && v.text != "" { // it may be a code, and the error shows what was not found
				if _, err := d.findPlayer(v.text); err != nil {
					return resonate.Errorf(err.Code, "%s: the payload names no speaker; bridge/devices lists them", name)
				}
			}
			p, err := d.playerOf(in)
			if err != nil {
				return err
			}
			c.lane = playerKey(p.PID)
			c.command, err = make(p.PID, in)
			return err
		}}
	}
	return []action{
		of("device/pair", []string{"code", "method"}, func(pid string, in map[string]value) (resonate.Command, *resonate.CommandError) {
			cmd := resonate.Pair{PID: pid}
			var err *resonate.CommandError
			if v, ok := in["code"]; ok {
				if cmd.Secret, err = v.secret(); err != nil {
					return nil, err
				}
			}
			if v, ok := in["method"]; ok {
				method, err := v.word(pairMethods())
				if err != nil {
					return nil, err
				}
				cmd.Method = protocol.PairMethod(method)
			}
			return cmd, nil
		}),
		of("device/cancel_pairing", nil, func(pid string, _ map[string]value) (resonate.Command, *resonate.CommandError) {
			return resonate.CancelPairing{PID: pid}, nil
		}),
		of("device/approve", []string{"on"}, func(pid string, in map[string]value) (resonate.Command, *resonate.CommandError) {
			cmd := resonate.Approve{PID: pid, On: true}
			if v, ok := in["on"]; ok {
				on, err := v.approval()
				if err != nil {
					return nil, err
				}
				cmd.On = on
			}
			return cmd, nil
		}),
	}
}

func pairMethods() []string {
	return []string{string(protocol.PairByPSK), string(protocol.PairByDynamicCode), string(protocol.PairByStaticCode)}
}

// trustRows are the entities of a speaker that say whom to trust. Those that
// come and go are announced as gone while they don't apply.
func trustRows() []row {
	const online = "{{ 'online' if value_json.pairing.code_wanted else 'offline' }}"
	return []row{
		{
			key: "trust", platform: "sensor", name: "Trust", icon: "mdi:shield-lock-outline", class: "enum", category: diagnostics, reach: whileRunning,
			value: "{{ value_json.trust }}", options: trusts(), tells: "what protects the connection; unknown: it never spoke",
		},
		{
			key: "pairing", platform: "sensor", name: "Pairing", icon: "mdi:lock-question", category: diagnostics, reach: whileRunning, comesAndGoes: true,
			value: text("value_json.pairing.prompt"), attributes: "{{ value_json.pairing | tojson }}",
			when: func(d *device) bool { return d.pair || d.pairing || d.approve }, tells: "what the speaker waits for and what to do, in words; more as attributes; only speakers that can be paired",
		},
		{
			key: "pairing_code", platform: "text", name: "Pairing code", icon: "mdi:form-textbox-password", category: configuration, reach: whileRunning, comesAndGoes: true,
			available: online, value: "{{ '' }}", command: "set/pair", mode: "password", when: func(d *device) bool { return d.pair },
			tells: "takes the code or token, and never shows it; available while one is wanted",
		},
		{
			key: "pair", platform: "button", name: "Pair", icon: "mdi:lock-plus", category: configuration, reach: whileRunning, comesAndGoes: true,
			command: "set/pair", when: func(d *device) bool { return d.pair && !d.token }, tells: "begins to pair; only speakers that can be paired by more than a token",
		},
		{
			key: "cancel_pairing", platform: "button", name: "Cancel pairing", icon: "mdi:lock-remove", category: configuration, reach: whileRunning, comesAndGoes: true,
			command: "set/cancel_pairing", when: func(d *device) bool { return d.attempt }, tells: "only while it is being paired",
		},
		{
			key: "approve", platform: "button", name: "Approve", icon: "mdi:shield-check", category: configuration, reach: whileRunning, comesAndGoes: true,
			command: "set/approve", when: func(d *device) bool { return d.approve }, tells: "uses the speaker without pairing; only while it waits for that",
		},
		{
			key: "withdraw_approval", platform: "button", name: "Withdraw approval", icon: "mdi:shield-remove", category: configuration, reach: whileRunning, comesAndGoes: true,
			command: "set/approve", payload: "OFF", when: func(d *device) bool { return d.approved }, tells: "only approved speakers",
		},
		{
			key: "forget", platform: "button", name: "Forget", icon: "mdi:delete-forever", category: configuration, reach: whileRunning, comesAndGoes: true,
			command: "set/forget", when: func(d *device) bool { return d.record }, tells: "forgets the speaker and its pairing; only paired ones",
		},
	}
}

// trustOf says which of trustRows d has for p.
func (d *device) trustOf(p *resonate.Player) {
	d.pair, d.token, d.attempt, d.pairing = pairable(p), tokenOnly(p), attempts(p), p.Pairing != nil
	switch p.Trust {
	case resonate.TrustUnapproved:
		d.approve = p.Connection != resonate.PairingRequired // that gives no access without pairing
	case resonate.TrustApproved:
		d.approved = true
	case resonate.TrustPaired, resonate.TrustMismatch, resonate.TrustDowngraded:
		d.record = true
	case resonate.TrustPlaintext:
	}
}

// keepTrust keeps what an away player can't say: its last word counts.
func (d *device) keepTrust(p *resonate.Player, was *device) {
	switch p.Connection {
	case resonate.Connected, resonate.PairingRequired, resonate.ApprovalRequired:
		return
	case resonate.Searching, resonate.Connecting, resonate.Offline, resonate.HeldByOtherServer, resonate.NotManaged, resonate.ConnectionProblem:
	}
	d.approve = d.approve && was.approve
	if !d.pair && was.pair && !d.record {
		d.pair, d.token = true, was.token
	}
}

// tellRefused tells those who don't see results, as in Home Assistant, why
// nothing happened.
func (l *loop) tellRefused(pid string, err *resonate.CommandError) {
	if p := l.snap.Player(pid); p != nil {
		l.tell(event{pairingRefused, []string{pid}, map[string]any{"id": pid, "name": p.Name, "code": string(err.Code), "error": err.Message}})
	}
}

// trustEvents tells what a speaker wants of a person, and how pairing ended.
func trustEvents(was, p *resonate.Player, of func(kind string, more map[string]any)) {
	data := func() map[string]any {
		a := pairingOf(p)
		return map[string]any{
			"connection": string(p.Connection), "trust": optional(string(p.Trust)), "methods": a.Methods, "step": a.Step, "method": a.Method,
			"format": a.Format, "digits": a.Digits, "round": a.Round, "message": a.Message, "code_wanted": a.CodeWanted, "prompt": a.Prompt,
		}
	}
	now, before := p.Pairing, was.Pairing
	if before == nil {
		before = &resonate.Pairing{}
	}
	asks := now != nil && *now != *before && (now.Step == resonate.PairCode || now.Step == resonate.PairHeld)
	switch {
	case asks, was.Connection != p.Connection && p.Connection == resonate.PairingRequired:
		of(pairingRequired, data())
	case was.Connection != p.Connection && p.Connection == resonate.ApprovalRequired:
		of(approvalRequired, data())
	}
	if now != nil && !now.Live() && *now != *before {
		of(pairingFinished, map[string]any{"paired": now.Step == resonate.PairDone, "method": optional(string(now.Method)), "error": optional(now.Error)})
	}
}
