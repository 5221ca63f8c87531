package audio

import (
	"encoding/binary"
	"math/bits"
)

// bitWriter appends bits, the highest first.
type bitWriter struct {
	out  []byte
	acc  uint64 // the bits that are not in out yet are its lowest
	held uint   // how many; less than 32 between calls
}

// put appends the n lowest bits of v; n is at most 32.
func (w *bitWriter) put(v uint64, n uint) {
	w.acc = w.acc<<n | v&(1<<n-1)
	if w.held += n; w.held >= 32 {
		w.held -= 32
		w.out = binary.BigEndian.AppendUint32(w.out, uint32(w.acc>>w.held))
	}
}

// rice appends u in Rice code: u>>k zeros, a one, and the k lowest bits.
func (w *bitWriter) rice(u uint32, k uint) {
	zeros := uint(u >> k)
	if zeros+1+k <= 32 {
		w.put(1<<k|uint64(u)&(1<<k-1), zeros+1+k)
		return
	}
	for ; zeros > 32; zeros -= 32 {
		w.put(0, 32)
	}
	w.put(0, zeros)
	w.put(1<<k|uint64(u)&(1<<k-1), 1+k)
}

// flush fills the last byte up with zeros, and leaves nothing to be put into out.
func (w *bitWriter) flush() {
	if w.held%8 > 0 {
		w.put(0, 8-w.held%8)
	}
	for w.held > 0 {
		w.held -= 8
		w.out = append(w.out, byte(w.acc>>w.held))
	}
}

// crc is a table for a cyclic redundancy check over bytes, highest bit first.
type crc[T uint8 | uint16] [256]T

// newCRC makes the table for a polynomial without its highest term.
func newCRC[T uint8 | uint16](poly T) *crc[T] {
	var t crc[T]
	width := bits.Len64(uint64(^T(0)))
	for i := range t {
		v := T(i) << (width - 8)
		for range 8 {
			if v>>(width-1) == 1 {
				v = v<<1 ^ poly
			} else {
				v <<= 1
			}
		}
		t[i] = v
	}
	return &t
}
