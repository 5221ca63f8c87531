package stream

import "resonatebridge/timesync"

type micros = timesync.Micros

const second = 1_000_000 // in micros

// timeline maps positions, counted in frames (one sample of each channel), to
// server time. It is a value: a jump makes a new one.
type timeline struct {
	rate int    // frames per second
	pos  int64  // a position ...
	at   micros // ... and the server time at which it sounds
}

// time is when position p sounds, rounded down to a microsecond. It is computed
// from the distance in samples, never by adding durations up.
func (t timeline) time(p int64) micros {
	d := p - t.pos
	whole, part := d/int64(t.rate), d%int64(t.rate)
	if part < 0 {
		whole, part = whole-1, part+int64(t.rate)
	}
	return t.at + micros(whole*second+part*second/int64(t.rate))
}

// position is the first one that sounds at or after at.
func (t timeline) position(at micros) int64 {
	d := int64(at - t.at)
	whole, part := d/second, d%second
	if part < 0 {
		whole, part = whole-1, part+second
	}
	return t.pos + whole*int64(t.rate) + (part*int64(t.rate)+second-1)/second
}

// ChunkFrames is how many frames make a chunk at a rate: 100 ms, or 96 ms for
// the 48 kHz family, so that a chunk lasts a whole number of microseconds and
// is a FLAC frame of the streamable subset (at most 4608 samples up to 48 kHz,
// 16384 above). The protocol asks for 15 to 150 ms.
func ChunkFrames(rate int) int {
	n := rate / 10
	if rate%48_000 == 0 {
		n = rate / 1000 * 96
	}
	switch {
	case rate <= 48_000:
		return min(n, 4608)
	case n > 16_384: // 192 kHz
		return n / 2
	}
	return n
}
