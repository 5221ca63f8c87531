package pairing

import (
	"testing"
)

// BenchmarkPairByCode is a whole attempt with a dynamic code, both sides.
func BenchmarkPairByCode(b *testing.B) {
	d := newDevice(b, digitsChoice)
	for b.Loop() {
		p := connect(b, d, channelFor(digitsChoice, 1))
		p.activate(digitsChoice)
		p.pump()
		p.enter(p.client.Status().Code.Reveal())
		p.stored()
		p.wantPaired()
	}
}

func BenchmarkGenerator(b *testing.B) {
	sid := sessionID([32]byte{}, 1, 1)
	for b.Loop() {
		generator([]byte("123456"), nil, sid)
	}
}
