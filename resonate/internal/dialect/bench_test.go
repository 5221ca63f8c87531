package dialect

import (
	"testing"

	"resonatebridge/resonate/protocol"
)

func benchDecode(b *testing.B, frame string) {
	b.Helper()
	w, _, err := Accept(hello(js), "", nil)
	if err != nil {
		b.Fatal(err)
	}
	f := Frame{Data: []byte(frame)}
	b.ReportAllocs()
	for b.Loop() {
		if m, _, err := w.Decode(f); m == nil || err != nil {
			b.Fatal(m, err)
		}
	}
}

func BenchmarkDecodeClientTime(b *testing.B) {
	benchDecode(b, `{"type":"client/time","payload":{"client_transmitted":123456789012}}`)
}

func BenchmarkDecodeState(b *testing.B) {
	benchDecode(b, `{"type":"client/state","payload":{"player":{"state":"synchronized","volume":40,"muted":false,"static_delay_ms":0,"required_lead_time_ms":500,"min_buffer_ms":500}}}`)
}

func BenchmarkAppendTime(b *testing.B) {
	w := new(ServerWire)
	buf := make([]byte, 0, 160)
	b.ReportAllocs()
	for b.Loop() {
		buf = w.AppendTime(buf[:0], protocol.ServerTime{ClientTransmitted: -1 << 62, ServerReceived: 1 << 62, ServerTransmitted: 1 << 62})
	}
}

func BenchmarkAppendAudio(b *testing.B) {
	w := new(ServerWire)
	data := make([]byte, 4800)
	buf := make([]byte, 0, audioHeader+len(data))
	b.ReportAllocs()
	for b.Loop() {
		buf = w.AppendAudio(buf[:0], protocol.AudioChunk{Timestamp: 1, Data: data})
	}
}

// TestAllocs guards the two paths that are hot.
func TestAllocs(t *testing.T) {
	w, _ := accept(t, hello(js), "")
	decode(t, w, `{"type":"client/time","payload":{"client_transmitted":1}}`) // takes the notes of the hello
	f := Frame{Data: []byte(`{"type":"client/time","payload":{"client_transmitted":123456789012}}`)}
	if got := testing.AllocsPerRun(100, func() { _, _, _ = w.Decode(f) }); got > 1 {
		t.Errorf("client/time: got %v allocations, want at most the message itself", got)
	}
	buf := make([]byte, 0, 160)
	m := protocol.ServerTime{ClientTransmitted: -1 << 62, ServerReceived: 1 << 62, ServerTransmitted: 1 << 62}
	if got := testing.AllocsPerRun(100, func() { buf = w.AppendTime(buf[:0], m) }); got != 0 {
		t.Errorf("server/time: got %v allocations, want 0", got)
	}
}
