package audio

import (
	"encoding/binary"
	"math"
	"math/bits"

	"resonatebridge/resonate/protocol"
)

// What FLAC can say (RFC 9639).
const (
	flacMaxFixed     = 4  // order of the fixed predictors
	flacMaxPartition = 6  // order; more pays only for longer blocks than ours
	flacMaxRice      = 30 // parameter; up to 14 it takes 4 bits, then 5
	flacHeaderSize   = 4 + 4 + 34
	flacMaxRate      = 1<<20 - 1 // Hz
)

// flacEncoder makes one FLAC frame of each chunk, with fixed predictors and the
// best of the four ways to code a pair of channels. It is our own because
// encoding is the largest cost of a group: see the benchmarks for what the
// library that decodes here takes for it.
type flacEncoder struct {
	chunker
	number uint64
	w      bitWriter
	crc8   *crc[uint8]
	crc16  *crc[uint16]
	ch     [4]flacChannel // left, right, middle, side
}

const flacMid, flacSide = 2, 3

// flacChannel is one channel of a block, and how it is coded best.
type flacChannel struct {
	pcm      []int32
	depth    uint // bits of a sample
	wasted   uint // low bits that are zero in all samples, already shifted out
	order    int  // of the fixed predictor; -1: constant, -2: verbatim
	residual []uint32
	parts    uint // order of the partitions
	params   [1 << flacMaxPartition]uint8
	sums     [1 << flacMaxPartition]uint64
	best     [1 << flacMaxPartition]uint8
	bits     uint64 // length of the subframe
}

const flacConstant, flacVerbatim = -1, -2

func newFLACEncoder(f protocol.Format, frames int) *flacEncoder {
	e := &flacEncoder{chunker: chunker{f, frames}, crc8: newCRC[uint8](0x07), crc16: newCRC[uint16](0x8005)}
	for i := range e.ch {
		e.ch[i].pcm = make([]int32, frames)
		e.ch[i].residual = make([]uint32, frames)
	}
	return e
}

// Header is the signature and a STREAMINFO block without length and checksum of
// what is not there yet.
func (e *flacEncoder) Header() []byte {
	b := append(make([]byte, 0, flacHeaderSize), "fLaC\x80\x00\x00\x22"...)
	b = binary.BigEndian.AppendUint16(b, uint16(e.frames))
	b = binary.BigEndian.AppendUint16(b, uint16(e.frames))
	b = append(b, 0, 0, 0, 0, 0, 0) // lengths of frames
	b = binary.BigEndian.AppendUint64(b, uint64(e.format.SampleRate)<<44|
		uint64(e.format.Channels-1)<<41|uint64(e.format.BitDepth-1)<<36)
	return append(b, make([]byte, 16)...) // MD5
}

func (*flacEncoder) Delay() int { return 0 }

func (e *flacEncoder) Reset() { e.number = 0 }

func (e *flacEncoder) Encode(dst []byte, pcm []int32) ([]byte, error) {
	n, err := e.check(pcm)
	if err != nil {
		return dst, err
	}
	start := len(dst)
	e.w = bitWriter{out: dst}
	if e.format.Channels == 1 {
		e.mono(pcm, n, start)
	} else {
		e.stereo(pcm, n, start)
	}
	e.w.flush()
	dst = e.w.out
	e.w.out = nil
	e.number = (e.number + 1) & (1<<31 - 1)
	var sum uint16
	for _, b := range dst[start:] {
		sum = sum<<8 ^ e.crc16[byte(sum>>8)^b]
	}
	return binary.BigEndian.AppendUint16(dst, sum), nil
}

func (e *flacEncoder) mono(pcm []int32, n, start int) {
	c := &e.ch[0]
	c.pcm = c.pcm[:n]
	for i := range n {
		c.pcm[i] = narrow(middle(pcm[2*i], pcm[2*i+1]), e.format.BitDepth)
	}
	c.plan(uint(e.format.BitDepth))
	e.header(n, 0, start)
	c.write(&e.w)
}

func (e *flacEncoder) stereo(pcm []int32, n, start int) {
	for i := range e.ch {
		e.ch[i].pcm = e.ch[i].pcm[:n]
	}
	left, right, mid, side := e.ch[0].pcm, e.ch[1].pcm, e.ch[flacMid].pcm, e.ch[flacSide].pcm
	for i := range n {
		l, r := narrow(pcm[2*i], e.format.BitDepth), narrow(pcm[2*i+1], e.format.BitDepth)
		left[i], right[i], mid[i], side[i] = l, r, (l+r)>>1, l-r
	}
	depth := uint(e.format.BitDepth)
	for i := range e.ch {
		d := depth
		if i == flacSide {
			d++
		}
		e.ch[i].plan(d)
	}
	// The pairs, with the numbers that the format gives them.
	mode, first, second := uint64(1), 0, 1
	least := e.ch[0].bits + e.ch[1].bits
	for _, m := range [...]struct {
		mode uint64
		a, b int
	}{{8, 0, flacSide}, {9, flacSide, 1}, {10, flacMid, flacSide}} {
		if b := e.ch[m.a].bits + e.ch[m.b].bits; b < least {
			mode, first, second, least = m.mode, m.a, m.b, b
		}
	}
	e.header(n, mode, start)
	e.ch[first].write(&e.w)
	e.ch[second].write(&e.w)
}

// header writes the frame's header; channels is its number for their assignment.
func (e *flacEncoder) header(n int, channels uint64, start int) {
	w := &e.w
	w.put(0xfff8, 16) // sync, blocks of one size
	w.put(7, 4)       // block size: 16 bits at the end
	rate := uint64(e.format.SampleRate)
	code, extra, width := flacRate(rate)
	w.put(code, 4)
	w.put(channels, 4)
	size := uint64(4) // 16 bits
	if e.format.BitDepth == 24 {
		size = 6
	}
	w.put(size<<1, 4)
	// The number of the frame, coded as UTF-8 would if it went so far.
	if e.number < 0x80 {
		w.put(e.number, 8)
	} else {
		more := uint(bits.Len64(e.number)-2) / 5 // bytes that follow the first
		w.put(0xff<<(7-more-1)&0xff&^(1<<(6-more))|e.number>>(6*more), 8)
		for more > 0 {
			more--
			w.put(0x80|e.number>>(6*more)&0x3f, 8)
		}
	}
	w.put(uint64(n-1), 16)
	w.put(extra, width)
	w.flush()
	var sum uint8
	for _, b := range w.out[start:] {
		sum = e.crc8[sum^b]
	}
	w.put(uint64(sum), 8)
}

// flacRate is how a frame's header says a sample rate: a code of 4 bits, and
// what follows at the end of the header for some codes.
func flacRate(rate uint64) (code, extra uint64, width uint) {
	for i, r := range [...]uint64{1: 88200, 176400, 192000, 8000, 16000, 22050, 24000, 32000, 44100, 48000, 96000} {
		if r == rate {
			return uint64(i), 0, 0
		}
	}
	switch {
	case rate%1000 == 0 && rate/1000 < 1<<8:
		return 12, rate / 1000, 8
	case rate < 1<<16:
		return 13, rate, 16
	case rate%10 == 0 && rate/10 < 1<<16:
		return 14, rate / 10, 16
	}
	return 0, 0, 0 // see STREAMINFO
}

// plan finds out how to code c, of samples of so many bits, and how long that is.
func (c *flacChannel) plan(depth uint) {
	c.depth, c.wasted = depth, 0
	var or uint32
	same := true
	for _, v := range c.pcm {
		or |= uint32(v)
		same = same && v == c.pcm[0]
	}
	if same {
		c.order, c.bits = flacConstant, 8+uint64(depth)
		return
	}
	if c.wasted = uint(bits.TrailingZeros32(or)); c.wasted > 0 {
		for i := range c.pcm {
			c.pcm[i] >>= c.wasted
		}
		c.depth -= c.wasted
	}
	verbatim := uint64(len(c.pcm)) * uint64(c.depth)
	c.order = c.predict()
	if c.order >= len(c.pcm) {
		c.order = 0
	}
	c.residue()
	c.bits = uint64(c.order)*uint64(c.depth) + c.partition()
	if c.bits >= verbatim {
		c.order, c.bits = flacVerbatim, verbatim
	}
	c.bits += 8 + uint64(c.wasted)
}

// predict returns the order of the fixed predictor with the least residual.
func (c *flacChannel) predict() int {
	var sum [flacMaxFixed + 1]uint64
	var d0, d1, d2, d3 int64 // of the sample before, by each order
	for i, v := range c.pcm {
		e0 := int64(v)
		e1 := e0 - d0
		e2 := e1 - d1
		e3 := e2 - d2
		e4 := e3 - d3
		d0, d1, d2, d3 = e0, e1, e2, e3
		if i >= flacMaxFixed { // the first samples have no residual
			sum[0] += abs(e0)
			sum[1] += abs(e1)
			sum[2] += abs(e2)
			sum[3] += abs(e3)
			sum[4] += abs(e4)
		}
	}
	best := 0
	for order, s := range sum {
		if s < sum[best] {
			best = order
		}
	}
	return best
}

func abs(v int64) uint64 {
	s := v >> 63
	return uint64((v ^ s) - s)
}

// residue fills c.residual with what c.order's prediction leaves: at most 25
// bits and one more for each order, which fits.
func (c *flacChannel) residue() {
	p, out := c.pcm, c.residual[:len(c.pcm)]
	switch c.order {
	case 0:
		for i, v := range p {
			out[i] = fold(v)
		}
	case 1:
		for i := 1; i < len(p); i++ {
			out[i] = fold(p[i] - p[i-1])
		}
	case 2:
		for i := 2; i < len(p); i++ {
			out[i] = fold(p[i] - 2*p[i-1] + p[i-2])
		}
	case 3:
		for i := 3; i < len(p); i++ {
			out[i] = fold(p[i] - 3*p[i-1] + 3*p[i-2] - p[i-3])
		}
	case 4:
		for i := 4; i < len(p); i++ {
			out[i] = fold(p[i] - 4*p[i-1] + 6*p[i-2] - 4*p[i-3] + p[i-4])
		}
	}
}

// fold counts 0, -1, 1, -2, ... as 0, 1, 2, 3, ...
func fold(v int32) uint32 { return uint32(v<<1) ^ uint32(v>>31) }

// partition divides the residual into the number of parts, with a Rice
// parameter each, that takes the least bits, and returns these.
func (c *flacChannel) partition() uint64 {
	n := len(c.pcm)
	top := uint(min(flacMaxPartition, bits.TrailingZeros(uint(n))))
	for top > 0 && n>>top <= c.order {
		top--
	}
	for i := range 1 << top {
		var sum uint64
		for _, u := range c.residual[max(c.order, i*(n>>top)) : (i+1)*(n>>top)] {
			sum += uint64(u)
		}
		c.sums[i] = sum
	}
	least := uint64(math.MaxUint64)
	for parts := top; ; parts-- {
		var total uint64
		wide := uint64(4)
		for i := range 1 << parts {
			count := uint64(n >> parts)
			if i == 0 {
				count -= uint64(c.order)
			}
			k, length := riceParameter(c.sums[i], count)
			c.params[i] = k
			total += length
			if k > 14 {
				wide = 5
			}
		}
		if total += wide<<parts + 6; total < least {
			least, c.parts, c.best = total, parts, c.params
		}
		if parts == 0 {
			return least
		}
		for i := range 1 << (parts - 1) {
			c.sums[i] = c.sums[2*i] + c.sums[2*i+1]
		}
	}
}

// riceParameter returns the parameter for count numbers of this sum, and about
// how many bits they take.
func riceParameter(sum, count uint64) (k uint8, length uint64) {
	if count == 0 {
		return 0, 0
	}
	if mean := sum / count; mean > 0 {
		k = uint8(min(bits.Len64(mean)-1, flacMaxRice))
	}
	length = count*(uint64(k)+1) + sum>>k
	if k < flacMaxRice {
		if l := count*(uint64(k)+2) + sum>>(k+1); l < length {
			return k + 1, l
		}
	}
	return k, length
}

// write writes the subframe.
func (c *flacChannel) write(w *bitWriter) {
	kind := uint64(8 + c.order)
	switch c.order {
	case flacConstant:
		kind = 0
	case flacVerbatim:
		kind = 1
	}
	if c.wasted == 0 {
		w.put(kind<<1, 8)
	} else {
		w.put(kind<<1|1, 8)
		w.put(1, c.wasted)
	}
	switch c.order {
	case flacConstant:
		w.put(uint64(c.pcm[0]), c.depth)
		return
	case flacVerbatim:
		for _, v := range c.pcm {
			w.put(uint64(v), c.depth)
		}
		return
	}
	for _, v := range c.pcm[:c.order] {
		w.put(uint64(v), c.depth)
	}
	params := c.best[:1<<c.parts]
	width := uint(4)
	for _, k := range params {
		if k > 14 {
			width = 5
		}
	}
	w.put(uint64(width-4), 2)
	w.put(uint64(c.parts), 4)
	n := len(c.pcm) >> c.parts
	for i, k := range params {
		w.put(uint64(k), width)
		for _, u := range c.residual[max(c.order, i*n) : (i+1)*n] {
			w.rice(u, uint(k))
		}
	}
}
