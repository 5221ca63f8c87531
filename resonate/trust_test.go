package resonate

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"strings"
	"testing"

	"resonatebridge/resonate/protocol"
)

func TestPairingWantsCode(t *testing.T) {
	for _, c := range []struct {
		p           Pairing
		wants, live bool
	}{
		{Pairing{Method: protocol.PairByDynamicCode, Step: PairConnecting}, false, true},
		{Pairing{Method: protocol.PairByDynamicCode, Step: PairWaiting}, false, true},
		{Pairing{Method: protocol.PairByDynamicCode, Step: PairHeld}, false, true},
		{Pairing{Method: protocol.PairByDynamicCode, Step: PairCode}, true, true},
		{Pairing{Method: protocol.PairByDynamicCode, Step: PairChecking}, false, true},
		{Pairing{Method: protocol.PairByStaticCode, Step: PairWaiting}, true, true},
		{Pairing{Method: protocol.PairByStaticCode, Step: PairHeld}, true, true},
		{Pairing{Method: protocol.PairByStaticCode, Step: PairCode}, true, true},
		{Pairing{Method: protocol.PairByStaticCode, Step: PairStoring}, false, true},
		{Pairing{Method: protocol.PairByStaticCode, Step: PairDone}, false, false},
		{Pairing{Method: protocol.PairByDynamicCode, Step: PairFailed}, false, false},
	} {
		if c.p.WantsCode() != c.wants || c.p.Live() != c.live {
			t.Errorf("%s, %s: wants a code %v, live %v", c.p.Method, c.p.Step, c.p.WantsCode(), c.p.Live())
		}
	}
}

func TestSecretIsNotPrinted(t *testing.T) {
	cmd := Pair{PID: "a", Secret: "123-456"}
	var log strings.Builder
	slog.New(slog.NewTextHandler(&log, nil)).Info("x", slog.Any("command", cmd), slog.Any("secret", cmd.Secret))
	text, err := json.Marshal(cmd)
	if err != nil {
		t.Fatal(err)
	}
	out := fmt.Sprintf("%v %+v %#v %s %q %x %d", cmd, cmd, cmd, cmd.Secret, cmd.Secret, cmd.Secret, cmd.Secret) + log.String() + string(text)
	if strings.Contains(out, "123") || strings.Contains(out, fmt.Sprintf("%x", "123")) {
		t.Errorf("the secret is in %s", out)
	}
	if string(cmd.Secret) != "123-456" {
		t.Error("the secret can't be read")
	}
}

func TestTrustOfAPlaintextPlayer(t *testing.T) {
	bubble(t, func(t *testing.T) {
		h := newHouse(t)
		h.online("a")
		if p := h.player("a"); p.Trust != TrustPlaintext || p.Encrypted || p.Pairing != nil {
			t.Errorf("trust %q, encrypted %v, pairing %+v", p.Trust, p.Encrypted, p.Pairing)
		}
		for _, cmd := range []Command{Pair{PID: "a"}, CancelPairing{PID: "a"}, Approve{PID: "a", On: true}} {
			h.mustFail(cmd, CodeNotSupported)
		}
		h.mustFail(Pair{PID: "nobody", Secret: "123456"}, CodeUnknownDevice)
	})
}
