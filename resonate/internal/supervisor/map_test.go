package supervisor

import (
	"testing"
	"time"
)

func TestSmoke(t *testing.T) {
	inBubble(t, nil, func(b *bench) {
		b.net.put("a", &device{id: "A", latency: time.Second})
		b.ensure("k", "a")
		b.pass(2 * time.Second)
		b.session("k").fail(errPeer)
		b.pass(5 * time.Second)
		if got, want := b.see.pattern("k"), "UDU"; got != want {
			t.Errorf("edges: got %s, want %s", got, want)
		}
		<-b.m.Remove("k")
		if got, want := b.see.pattern("k"), "UDUD"; got != want {
			t.Errorf("edges: got %s, want %s", got, want)
		}
	})
}
