package resonate

import (
	"errors"
	"log/slog"
	"time"

	"resonatebridge/resonate/internal/supervisor"
	"resonatebridge/resonate/pairing"
	"resonatebridge/resonate/protocol"
)

// attempt is an attempt to pair a player, from the wish to its end.
type attempt struct {
	cmd    Pair // until it is connected
	choice protocol.PairingChoice
	psk    protocol.PSK // the speaker's pairing key, by token
	timer  *time.Timer  // of the step that it is in
}

// connectFor is how long an attempt waits for a connection.
const connectFor = 15 * time.Second

// pair begins an attempt or enters a code.
func (m *model) pair(cmd Pair) (map[string]any, *CommandError) {
	c, err := m.findPlayer(cmd.PID)
	if err != nil {
		return nil, err
	}
	if p := c.pairing; p != nil && p.WantsCode() && cmd.Secret != "" && (cmd.Method == "" || cmd.Method == p.Method) {
		if _, err := pairing.ParseToken(string(cmd.Secret)); err != nil { // a token begins anew
			return m.enterCode(c, string(cmd.Secret))
		}
	}
	if c.attempt != nil && c.pairing.Step == PairStoring {
		return nil, Errorf(CodePairingFailed, "the pairing of %s is just being stored; wait a moment", c.name())
	}
	if c.link == nil {
		return m.connectToPair(c, cmd)
	}
	a, err := c.plan(cmd)
	if err != nil {
		return nil, err
	}
	m.begin(c, a, string(cmd.Secret))
	return map[string]any{"method": string(a.choice.Method)}, nil
}

// connectToPair keeps what was asked for until c is connected.
func (m *model) connectToPair(c *client, cmd Pair) (map[string]any, *CommandError) {
	switch {
	case m.trust(c) == TrustPlaintext || m.trust(c) == TrustDowngraded:
		return nil, Errorf(CodeNotSupported, "%s speaks unencrypted, so there is nothing to pair", c.name())
	case len(c.endpoints(m)) == 0 || !managed(m.custody(c)):
		return nil, Errorf(CodeNotConnected, "%s is not connected; switch it on and try again", c.name())
	}
	m.endAttempt(c)
	c.attempt = &attempt{cmd: cmd, timer: m.after(connectFor, func() {
		if c.link == nil && c.attempt != nil {
			m.failPairing(c, c.name()+" could not be reached; switch it on and try again")
		}
	})}
	m.showPairing(c, Pairing{Method: cmd.Method, Step: PairConnecting, Round: 1})
	m.nudge(c, supervisor.WhyUser)
	return map[string]any{}, nil
}

// resumePairing begins the attempt that waited for the connection of c.
func (m *model) resumePairing(c *client) {
	if c.attempt == nil {
		return
	}
	cmd := c.attempt.cmd
	a, err := c.plan(cmd)
	if err != nil {
		m.failPairing(c, err.Message)
		return
	}
	m.begin(c, a, string(cmd.Secret))
}

// plan chooses the way to pair a connected player.
func (c *client) plan(cmd Pair) (*attempt, *CommandError) {
	if !c.link.Encrypted() {
		return nil, Errorf(CodeNotSupported, "%s speaks unencrypted, so there is nothing to pair", c.name())
	}
	offers := c.link.Hello().Trust.Methods
	secret := string(cmd.Secret)
	token, badToken := pairing.ParseToken(secret)
	method := cmd.Method
	if method == "" {
		switch {
		case secret != "" && badToken == nil:
			method = protocol.PairByPSK
		case offers.Dynamic != nil:
			method = protocol.PairByDynamicCode
		case offers.Static != nil:
			method = protocol.PairByStaticCode
		default:
			method = protocol.PairByPSK
		}
	}
	a := &attempt{choice: protocol.PairingChoice{Method: method}}
	if method == protocol.PairByDynamicCode {
		a.choice.Format = protocol.CodeDigits
		if !offers.Offers(a.choice) {
			a.choice.Format = protocol.CodeQR
		}
	}
	switch {
	case !offers.Offers(a.choice):
		return nil, Errorf(CodeNotSupported, "%s can't be paired by %.40q", c.name(), string(method))
	case c.link.Pairing().Old && method != protocol.PairByPSK:
		return nil, Errorf(CodeNotSupported, "%s pairs by code in a way that is older than Sendspin 1.0: update it, or pair it by its token", c.name())
	}
	switch method {
	case protocol.PairByPSK:
		switch {
		case badToken != nil:
			return nil, Errorf(CodeInvalidValue, "%s is paired by its token: %v", c.name(), badToken)
		case token.Client.ID() != c.rec.ClientID:
			return nil, Errorf(CodeInvalidValue, "the token belongs to another speaker than %s", c.name())
		}
		a.psk = token.PSK
	case protocol.PairByStaticCode:
		if secret != "" {
			if _, err := pairing.ParseStaticCode(secret); err != nil {
				return nil, Errorf(CodeInvalidValue, "%v", err)
			}
		}
	case protocol.PairByDynamicCode:
		if secret != "" {
			return nil, Errorf(CodeInvalidValue, "%s makes its code when pairing begins: begin without one, then enter what it shows or says", c.name())
		}
	}
	return a, nil
}

// begin brings the link to the key that the attempt needs, then declares it.
func (m *model) begin(c *client, a *attempt, code string) {
	m.endAttempt(c)
	c.attempt = a
	a.timer = stoppedTimer()
	m.showPairing(c, Pairing{Method: a.choice.Method, Format: a.choice.Format, Step: PairConnecting, Round: 1, Digits: digits(a.choice)})
	m.log.Info("pairing begins", slog.String("player", c.rec.PID), slog.String("method", string(a.choice.Method)))
	start := func() {
		if c.attempt == a {
			m.activatePairing(c, code)
		}
	}
	need := pairing.Sentinel()
	if a.choice.Method == protocol.PairByPSK {
		need = pairing.Credential{PSK: a.psk, Category: pairing.PairingKey}
	} else if c.link.Category() == need.Category && c.link.rekey == nil {
		start()
		return
	}
	if c.link.Wire().OldPairing() { // there the key admits nothing but the attempt, so that comes first
		m.rekeyInto(c, need, m.attempting(c, a), start)
		return
	}
	m.rekey(c, need, start)
}

// attempting is what is declared during an attempt. The generation before
// 1.0.0-rc1 pairs and does nothing else meanwhile.
func (m *model) attempting(c *client, a *attempt) protocol.ServerActivate {
	now := protocol.ServerActivate{ActiveRoles: []protocol.Role{}}
	if !c.link.Wire().OldPairing() {
		now = m.activation(c)
	}
	now.Activities = append([]protocol.Activity{protocol.ActivityPairing}, now.Activities...)
	now.Pairing = &a.choice
	return now
}

// activatePairing declares the attempt.
func (m *model) activatePairing(c *client, code string) {
	l, a := c.link, c.attempt
	if err := l.pair.Activate(m.now(), a.choice, a.psk); err != nil {
		m.failPairing(c, c.name()+" can't be paired like this: "+err.Error())
		return
	}
	if l.declared.Pairing != &a.choice { // else the new keys began with it
		now := m.attempting(c, a)
		c.declare(now)
		_ = l.Activate(now) // a link that has ended needs none
	}
	if a.choice.Method == protocol.PairByStaticCode && code != "" {
		if _, err := l.pair.Enter(code); err != nil {
			m.failPairing(c, err.Error())
			return
		}
	}
	m.followPairing(c)
}

// enterCode gives a code to the attempt.
func (m *model) enterCode(c *client, code string) (map[string]any, *CommandError) {
	out, err := c.link.pair.Enter(code)
	var input *pairing.InputError
	switch {
	case errors.As(err, &input), errors.Is(err, pairing.ErrNoCode):
		return nil, Errorf(CodeInvalidValue, "%v", err)
	case err != nil:
		m.brokenPairing(c, err)
		return nil, Errorf(CodePairingFailed, "%s", c.pairing.Error)
	}
	m.sendPairing(c, out)
	m.followPairing(c)
	return map[string]any{"method": string(c.pairing.Method)}, nil
}

// onPairing takes a pairing message in.
func (m *model) onPairing(c *client, msg protocol.ClientMessage) {
	if !c.link.Encrypted() {
		return
	}
	out, err := c.link.pair.Receive(m.now(), msg)
	if err != nil {
		m.brokenPairing(c, err)
		return
	}
	m.sendPairing(c, out)
	m.followPairing(c)
}

func (m *model) sendPairing(c *client, out []protocol.ServerMessage) {
	for _, x := range out {
		_ = c.link.Send(x) // a link that has ended needs none
	}
}

// brokenPairing ends the connection, without a word: the speaker did what none
// does (spec: protocol errors in pairing).
func (m *model) brokenPairing(c *client, err error) {
	text := c.name() + " did not keep to the rules of pairing; nothing was stored. Update it, then try again"
	if errors.Is(err, pairing.ErrRelayed) {
		text = "the code does not belong to this connection: something sits between this server and " + c.name() + "; nothing was stored"
	}
	m.log.Warn("pairing ended the connection", slog.String("player", c.rec.PID), slog.Any("err", err))
	if c.attempt != nil {
		m.failPairing(c, text)
	}
	c.link.Kill(err)
}

// followPairing shows where the attempt stands and does what is next.
func (m *model) followPairing(c *client) {
	a := c.attempt
	if a == nil {
		return
	}
	l := c.link
	st := l.pair.Status()
	p := Pairing{
		Method: a.choice.Method, Format: a.choice.Format, Message: st.Message,
		Round: int(max(st.Round, 1)), Digits: digits(a.choice),
	}
	switch st.Phase {
	case pairing.PhaseWaiting:
		p.Step = PairWaiting
	case pairing.PhasePending:
		p.Step = PairHeld
	case pairing.PhaseCode:
		p.Step = PairCode
	case pairing.PhaseChecking:
		p.Step = PairChecking
	case pairing.PhaseStoring:
		p.Step = PairStoring
		m.storePairing(c)
	case pairing.PhaseEnded:
		m.failPairing(c, ended(c, st.Ended))
		return
	case pairing.PhaseNone, pairing.PhaseDone: // an attempt begins before and ends after
		return
	}
	m.showPairing(c, p)
	a.timer.Stop()
	if at := l.pair.Deadline(); !at.IsZero() && p.Step != PairStoring {
		a.timer = m.after(at.Sub(m.now()), func() {
			if c.attempt == a && c.link == l && l.pair.Tick(m.now()) {
				m.followPairing(c)
			}
		})
	}
}

// storePairing stores the record, and only then tells the speaker.
func (m *model) storePairing(c *client) {
	l, a := c.link, c.attempt
	if c.pairing.Step == PairStoring {
		return // it is under way
	}
	peer, err := pairing.ParseID(c.rec.ClientID)
	if err != nil {
		m.brokenPairing(c, err)
		return
	}
	r := pairing.Record{Peer: peer, PSK: l.pair.Result(), Method: a.choice.Method, Paired: m.now()}
	m.disk(func() error { return m.keys.put(r) }, func(err error) { m.stored(c, l, a, r, err) })
}

// stored goes on when the record is on the disk. It holds from when the speaker
// is told, and if it can't be told any more, never: then it has stored none.
func (m *model) stored(c *client, l *link, a *attempt, r pairing.Record, err error) {
	m.setProblem("pairings", pairingsProblem(err))
	told := m.byID[c.rec.ClientID] == c && c.link == l && c.attempt == a
	switch {
	case err != nil && told:
		l.pair.Leave()
		m.failPairing(c, "the pairing of "+c.name()+" can't be saved: "+err.Error())
		return
	case err != nil:
		return // put has left all as it was
	case !told:
		m.keys.discard(r)
		m.saveKeys()
		return
	}
	m.keys.accept(r)
	c.rec.Approved = false // (spec: operator approval)
	m.unsaved = true
	m.sendPairing(c, l.pair.Stored())
	m.rekey(c, pairing.Credential{PSK: r.PSK, Category: pairing.LongTerm}, func() {
		m.endAttempt(c)
		p := *c.pairing
		p.Step = PairDone
		m.showPairing(c, p)
		m.log.Info("paired", slog.String("player", c.rec.PID), slog.String("method", string(r.Method)))
	})
}

// cancelPairing ends the attempt as a person wishes.
func (m *model) cancelPairing(cmd CancelPairing) (map[string]any, *CommandError) {
	c, err := m.findPlayer(cmd.PID)
	if err != nil {
		return nil, err
	}
	switch {
	case c.attempt == nil && !c.encrypted():
		return nil, Errorf(CodeNotSupported, "%s speaks unencrypted, so no pairing goes on", c.name())
	case c.attempt == nil:
		return map[string]any{}, nil
	case c.pairing.Step == PairStoring:
		return nil, Errorf(CodePairingFailed, "the pairing of %s is just being stored; forget it to undo it", c.name())
	}
	m.failPairing(c, "pairing "+c.name()+" was cancelled")
	return map[string]any{}, nil
}

// pairingLost takes in that link l ended.
func (m *model) pairingLost(c *client, l *link) {
	if l.Category().Paired() && c.verdict.Reason == string(protocol.GoodbyeUnpaired) {
		m.dropRecord(c) // it said so itself, with the key
	}
	a := c.attempt
	if a == nil {
		return
	}
	text := "the connection to " + c.name() + " ended while it was paired; try again"
	switch {
	case c.pairing.Step == PairConnecting && a.choice.Method == protocol.PairByPSK && l.rekey != nil:
		text = c.name() + " did not take the token: look whether it is the right one and try again"
	case c.pairing.Step == PairStoring:
		text = "the connection to " + c.name() + " ended as pairing did; if it wants to be paired when it is back, pair it again"
	}
	m.failPairing(c, text)
}

func (m *model) failPairing(c *client, text string) {
	m.endAttempt(c)
	p := *c.pairing
	p.Step, p.Error = PairFailed, text
	m.showPairing(c, p)
	m.log.Info("pairing failed", slog.String("player", c.rec.PID), slog.String("method", string(p.Method)), slog.String("why", text))
}

// endAttempt ends what goes on. The next declaration tells the speaker.
func (m *model) endAttempt(c *client) {
	if c.attempt == nil {
		return
	}
	if c.attempt.timer.Stop(); c.link != nil && c.link.pair != nil {
		m.sendPairing(c, c.link.pair.Cancel())
	}
	c.attempt = nil
}

func (m *model) showPairing(c *client, p Pairing) {
	if p.Step != PairHeld {
		p.Message = ""
	}
	c.pairing = &p
	m.touch(c)
}

// digits is how many digits the code of a choice has.
func digits(c protocol.PairingChoice) int {
	switch {
	case c.Method == protocol.PairByStaticCode:
		return pairing.StaticDigits
	case c.Method == protocol.PairByDynamicCode && c.Format == protocol.CodeDigits:
		return pairing.DynamicDigits
	}
	return 0
}

// ended says why an attempt ended and what to do.
func ended(c *client, why pairing.End) string {
	name := c.name()
	switch why {
	case pairing.End(protocol.AbortTimeout), pairing.EndNoAnswer:
		return "pairing " + name + " took too long; try again"
	case pairing.End(protocol.AbortConcurrent):
		return name + " is being used or paired by another server; try again later"
	case pairing.End(protocol.AbortMethodNotSupported):
		return name + " can't be paired this way now; try another method"
	case pairing.End(protocol.AbortCodeMismatch):
		return "the code was wrong; try again"
	case pairing.End(protocol.AbortUserCancelled):
		return "pairing was cancelled at " + name
	case pairing.EndLeft, pairing.EndSuperseded, pairing.EndProtocol:
	}
	return "pairing " + name + " ended; try again"
}
