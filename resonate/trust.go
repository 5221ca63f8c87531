package resonate

import (
	"crypto/rand"
	"log/slog"
	"slices"

	"resonatebridge/resonate/internal/dialect"
	"resonatebridge/resonate/internal/session"
	"resonatebridge/resonate/pairing"
	"resonatebridge/resonate/protocol"
)

// Trust says what protects the connection to a player, in the words that users
// see. It is empty for a player that was never heard to speak.
type Trust string

// The values of [Trust].
const (
	TrustPlaintext Trust = "plaintext" // it speaks unencrypted
	TrustPaired    Trust = "paired"
	TrustApproved  Trust = "approved" // encrypted, not paired, and the operator approved it
	// TrustUnapproved is encrypted, not paired and not approved: nothing is
	// played or controlled. It is [ApprovalRequired], or [PairingRequired] if it
	// gives nobody access without pairing.
	TrustUnapproved Trust = "unapproved"
	TrustMismatch   Trust = "mismatch"   // the record here is not, or no longer, its own: it has to be paired again
	TrustDowngraded Trust = "downgraded" // it was paired and speaks unencrypted now: refused
)

// PairStep is where an attempt to pair stands.
type PairStep string

// The values of [PairStep]. The last two are the ends.
const (
	PairConnecting PairStep = "connecting" // a connection for it is made
	PairWaiting    PairStep = "waiting"    // for the speaker to begin
	PairHeld       PairStep = "held"       // the speaker holds back, see [Pairing.Message]
	PairCode       PairStep = "code"       // a person has to enter the code
	PairChecking   PairStep = "checking"
	PairStoring    PairStep = "storing"
	PairDone       PairStep = "done"
	PairFailed     PairStep = "failed"
)

// Pairing is one attempt to pair. It holds no secret.
type Pairing struct {
	Method  protocol.PairMethod // empty: not chosen yet
	Format  protocol.CodeFormat // of a dynamic code, else empty
	Step    PairStep
	Message string // the speaker's own words, plain text of at most [protocol.PairMessageMax] characters; may be empty
	Round   int    // from 1; higher: the code that was entered before was wrong
	Digits  int    // of the code; 0: unknown, or it has none
	Error   string // with [PairFailed]: a sentence that says what to do
}

// Live reports whether the attempt goes on.
func (p Pairing) Live() bool { return p.Step != PairDone && p.Step != PairFailed }

// WantsCode reports whether a code would be taken now: when it is asked for,
// and, if it is printed on the speaker, already before.
func (p Pairing) WantsCode() bool {
	early := p.Method == protocol.PairByStaticCode && (p.Step == PairWaiting || p.Step == PairHeld)
	return p.Step == PairCode || early
}

// encrypted reports whether c speaks encrypted, or did when it was last heard.
func (c *client) encrypted() bool {
	if c.link != nil {
		return c.link.Encrypted()
	}
	return slices.Contains(dialect.Encrypted(), dialect.Name(c.rec.Dialect)) && !c.downgraded
}

// trust says what protects the connection to c, or would.
func (m *model) trust(c *client) Trust {
	_, record := m.keys.get(c.rec.ClientID)
	switch {
	case c.rec.ClientID == "":
		return ""
	case c.downgraded:
		return TrustDowngraded
	case record && c.mismatch:
		return TrustMismatch
	case record:
		return TrustPaired
	case !c.encrypted():
		return TrustPlaintext
	case c.rec.Approved && (c.link == nil || c.link.Hello().Trust.Unpaired):
		return TrustApproved
	}
	return TrustUnapproved
}

// granted reports whether the live session of c may have roles: plaintext ones
// always do; encrypted ones if they are paired, or if the operator approved the
// speaker and it lets others than those in (spec: unpaired access). One that
// has a record but does not use it plays nothing until it is paired again.
func (m *model) granted(c *client) bool {
	if !c.link.Encrypted() {
		return true
	}
	_, record := m.keys.get(c.rec.ClientID)
	if c.link.Category().Paired() {
		return record // else it was forgotten while it connected
	}
	return !record && c.rec.Approved && c.link.Hello().Trust.Unpaired
}

// wanting says what a connected player that plays nothing waits for.
func wanting(c *client, is Connection) string {
	switch {
	case c.mismatch:
		return c.name() + " no longer has the key that it was paired with: pair it again"
	case is == PairingRequired:
		return c.name() + " wants to be paired: press Pair, or run bridge pair"
	}
	return c.name() + " is not paired: pair it, or approve it to use it as it is"
}

// firstActivation is what a session begins with. It is asked for before the
// loop has seen it, which corrects it if it has to.
func (s *Server) firstActivation(l *session.Session, playback bool) protocol.ServerActivate {
	a := protocol.ServerActivate{ActiveRoles: []protocol.Role{}}
	_, record := s.keys.get(l.ID())
	granted := record && l.Category().Paired()
	if !record && !l.Category().Paired() && l.Hello().Trust.Unpaired {
		for _, p := range s.Snapshot().Players {
			granted = granted || p.ClientID == l.ID() && p.Trust == TrustApproved
		}
	}
	if granted {
		a.ActiveRoles = l.Offered()
		if playback {
			a.Activities = []protocol.Activity{protocol.ActivityPlayback}
		}
	}
	return a
}

// activation is what is true of c: its roles, and playback while it plays. A
// speaker that is declared to play is not free for others.
func (m *model) activation(c *client) protocol.ServerActivate {
	a := protocol.ServerActivate{ActiveRoles: []protocol.Role{}}
	if !m.granted(c) {
		return a
	}
	a.ActiveRoles = c.link.Offered()
	if slices.Contains(a.ActiveRoles, protocol.RolePlayer) && (c.group.playback == Playing || m.announcing(c)) {
		a.Activities = []protocol.Activity{protocol.ActivityPlayback}
	}
	return a
}

// declare tells c what is true of it, if that changed. During an attempt to
// pair it waits, since any activation would end that.
func (m *model) declare(c *client) {
	l := c.link
	if !l.Encrypted() || l.rekey != nil || c.attempt != nil {
		return
	}
	if r, paired := m.keys.get(c.rec.ClientID); paired && !l.Category().Paired() && !c.mismatch {
		// An attempt to pair it once more has ended: back to the key that it has.
		m.rekey(c, pairing.Credential{PSK: r.PSK, Category: pairing.LongTerm}, func() {})
		return
	}
	if l.Category() == pairing.PairingKey && l.Wire().OldPairing() {
		m.rekey(c, pairing.Sentinel(), func() {}) // the key of an attempt that is over admits nothing there
		return
	}
	now := m.activation(c)
	if l.declared.Pairing == nil &&
		slices.Equal(now.Activities, l.declared.Activities) && slices.Equal(now.ActiveRoles, l.declared.ActiveRoles) {
		return
	}
	c.declare(now)
	_ = l.Activate(now) // a link that has ended needs none
}

// declare notes an activation that is about to be queued. Roles come and go
// together; with new ones, both sides begin from nothing.
func (c *client) declare(a protocol.ServerActivate) {
	if l := c.link; len(a.ActiveRoles) > len(l.declared.ActiveRoles) {
		l.stated, c.told = false, told{}
		if l.Hello().Artwork == nil {
			c.art = nil
		}
	}
	c.link.declared = a
}

// rekeying is a re-handshake that the loop waits for.
type rekeying struct {
	psk  protocol.PSK
	then func()
}

// rekey moves the link of c to another key, and calls then when that is done.
// If it fails the link ends.
func (m *model) rekey(c *client, to pairing.Credential, then func()) {
	a := protocol.ServerActivate{ActiveRoles: []protocol.Role{}}
	if _, record := m.keys.get(c.rec.ClientID); to.Category.Paired() || !record && m.granted(c) {
		a.ActiveRoles = c.link.Offered()
	}
	m.rekeyInto(c, to, a, then)
}

// rekeyInto is rekey with what is declared under the new key.
func (m *model) rekeyInto(c *client, to pairing.Credential, a protocol.ServerActivate, then func()) {
	l := c.link
	c.declare(a)
	l.rekey = &rekeying{psk: to.PSK, then: then}
	_ = l.Rekey(to, a) // a link that has ended needs none
}

// onRekeyed takes in that the link has new keys, asked for or after a long time.
func (m *model) onRekeyed(l *link, used pairing.Credential) {
	c := m.byID[l.ID()]
	if c == nil || c.link != l {
		return
	}
	queued := l.pair.Status().Phase == pairing.PhaseWaiting && l.rekey == nil && c.attempt != nil
	l.pair.Rekeyed(l.Pairing())
	if queued { // worn keys were replaced in front of the activation that admits the attempt
		if err := l.pair.Activate(m.now(), c.attempt.choice, c.attempt.psk); err != nil {
			m.brokenPairing(c, err)
			return
		}
	}
	c.mismatch = c.mismatch && !l.Category().Paired()
	if r := l.rekey; r != nil && r.psk.Equal(used.PSK) {
		l.rekey = nil
		r.then()
	}
	m.touch(c)
}

// trusted takes over what a new link says of trust.
func (m *model) trusted(c *client) {
	l := c.link
	_, record := m.keys.get(c.rec.ClientID)
	c.downgraded, c.mismatch = false, record && l.Mismatch()
	if !record && l.Category().Paired() { // it was forgotten while it connected
		_ = l.Send(protocol.ServerUnpair{}) // a link that has ended needs none
	}
	if !l.Encrypted() {
		c.rec.Methods = nil
		return
	}
	offers := l.Hello().Trust.Methods
	c.rec.Methods = methods(offers)
	l.pair = pairing.NewServer(l.Pairing(), &offers, rand.Reader)
}

// methods lists what a client offers.
func methods(p protocol.PairMethods) []protocol.PairMethod {
	var out []protocol.PairMethod
	for _, x := range []struct {
		there  bool
		method protocol.PairMethod
	}{
		{p.PSK != nil, protocol.PairByPSK},
		{p.Dynamic != nil, protocol.PairByDynamicCode},
		{p.Static != nil, protocol.PairByStaticCode},
	} {
		if x.there {
			out = append(out, x.method)
		}
	}
	return out
}

// onDowngrade notes that a client which was paired spoke unencrypted.
func (m *model) onDowngrade(id string) {
	if c := m.byID[id]; c != nil && !c.downgraded && c.link == nil {
		c.downgraded = true
		m.touch(c)
	}
}

// approve lets c be used unpaired, or no more.
func (m *model) approve(cmd Approve) (map[string]any, *CommandError) {
	c, err := m.findPlayer(cmd.PID)
	if err != nil {
		return nil, err
	}
	switch trust := m.trust(c); {
	case trust == TrustPlaintext || trust == TrustDowngraded || trust == "":
		return nil, Errorf(CodeNotSupported, "%s speaks unencrypted, so it needs no approval", c.name())
	case cmd.On && (trust == TrustPaired || trust == TrustMismatch):
		return nil, Errorf(CodeNotSupported, "%s was paired, so it needs no approval; forget it first to use it unpaired", c.name())
	case cmd.On && c.link != nil && !c.link.Hello().Trust.Unpaired:
		return nil, Errorf(CodeNotSupported, "%s lets nobody in without pairing: pair it", c.name())
	}
	c.rec.Approved = cmd.On
	m.unsaved = true
	m.touchGroup(c.group)
	if c.attempt != nil && c.link != nil && len(c.link.declared.ActiveRoles) > 0 && !m.granted(c) && c.pairing.Step != PairStoring {
		// The attempt would keep the roles until it ends.
		m.failPairing(c, "pairing "+c.name()+" ended with its approval; begin again")
	}
	m.log.Info("approval", slog.String("player", c.rec.PID), slog.String("name", c.name()), slog.Bool("on", cmd.On))
	return map[string]any{"approved": cmd.On}, nil
}

// unpair drops the record of c and tells the speaker.
func (m *model) unpair(c *client) {
	m.endAttempt(c)
	c.rec.Approved = false
	if c.link != nil && c.link.Category().Paired() {
		_ = c.link.Send(protocol.ServerUnpair{}) // a link that has ended needs none
	}
	m.dropRecord(c)
}

// dropRecord drops the record of c, if there is one.
func (m *model) dropRecord(c *client) {
	c.downgraded, c.mismatch = false, false
	if !m.keys.remove(c.rec.ClientID) {
		return
	}
	m.touch(c)
	m.saveKeys()
}

// saveKeys brings the records to the disk, and tries again until it takes them:
// who was forgotten must not be back after the next start.
func (m *model) saveKeys() {
	m.disk(m.keys.save, func(err error) {
		m.setProblem("pairings", pairingsProblem(err))
		if err != nil {
			m.log.Error("pairing records not saved, will try again", slog.Any("err", err), slog.Duration("retry", saveAgain))
			m.resave.Stop()
			m.resave = m.after(saveAgain, m.saveKeys)
		}
	})
}

// disk does what blocks beside the loop, and then the rest on it.
func (m *model) disk(do func() error, then func(error)) {
	m.writes.Go(func() { // owner: the server, which awaits it; blocks on the disk
		err := do()
		m.post(nil, func() { then(err) })
	})
}

func pairingsProblem(err error) string {
	if err == nil {
		return ""
	}
	return "pairing records can't be saved: " + err.Error()
}
