package audio

import (
	"bytes"
	"fmt"
	"math"
	"testing"

	"github.com/mewkiz/flac"

	"resonatebridge/resonate/protocol"
)

// decodeFLAC decodes header and frames with the library and returns stereo,
// full-scale samples.
func decodeFLAC(t testing.TB, data []byte) []int32 {
	t.Helper()
	s, err := flac.New(bytes.NewReader(data))
	if err != nil {
		t.Fatal(err)
	}
	var all []int32
	for {
		f, err := s.ParseNext()
		if err != nil {
			return all
		}
		for i := range f.Subframes[0].NSamples {
			l := f.Subframes[0].Samples[i] << (32 - s.Info.BitsPerSample)
			r := l
			if len(f.Subframes) == 2 {
				r = f.Subframes[1].Samples[i] << (32 - s.Info.BitsPerSample)
			}
			all = append(all, l, r)
		}
	}
}

func encodeAll(t testing.TB, e Encoder, pcm []int32) []byte {
	t.Helper()
	out := bytes.Clone(e.Header())
	for len(pcm) > 0 {
		n := min(len(pcm), e.Frames()*Channels)
		var err error
		if out, err = e.Encode(out, pcm[:n]); err != nil {
			t.Fatal(err)
		}
		pcm = pcm[n:]
	}
	return out
}

// signals are what an encoder of music meets, and what breaks one.
func signals(frames, depth int) map[string][]int32 {
	scale := func(v float64) int32 {
		return int32(math.Round(v*float64(int64(1)<<(depth-1)-1))) << (32 - depth)
	}
	make2 := func(f func(i int) (l, r float64)) []int32 {
		pcm := make([]int32, 2*frames)
		for i := range frames {
			l, r := f(i)
			pcm[2*i], pcm[2*i+1] = scale(l), scale(r)
		}
		return pcm
	}
	rough := noise(frames, depth)
	m := map[string][]int32{
		"noise":   rough,
		"silence": make([]int32, 2*frames),
		"music": make2(func(i int) (float64, float64) {
			x := float64(i)
			a := 0.4*math.Sin(x*0.031) + 0.2*math.Sin(x*0.123) + 0.1*math.Sin(x*0.71)
			return a + 0.05*math.Sin(x*0.2), a
		}),
		"square, full scale":  make2(func(i int) (float64, float64) { s := float64(i/50%2*2 - 1); return s, -s }),
		"only left":           make2(func(i int) (float64, float64) { return math.Sin(float64(i) * 0.05), 0 }),
		"same on both":        make2(func(i int) (float64, float64) { s := math.Sin(float64(i) * 0.5); return s, s }),
		"a click":             make2(func(i int) (float64, float64) { return float64(i / 777 % 2), 0 }),
		"one sample":          make2(func(i int) (float64, float64) { return 0, float64(i/(frames-1)) / 2 }),
		"extremes, alternate": make([]int32, 2*frames),
	}
	for i := range frames {
		m["extremes, alternate"][2*i] = []int32{math.MinInt32, math.MaxInt32 >> (32 - depth) << (32 - depth)}[i%2]
		m["extremes, alternate"][2*i+1] = []int32{math.MaxInt32 >> (32 - depth) << (32 - depth), math.MinInt32}[i%2]
	}
	if depth == 24 {
		m["16 of 24 bits"] = noise(frames, 16)
	}
	return m
}

func TestFLACIsBitExact(t *testing.T) {
	for _, depth := range []int{16, 24} {
		for _, frames := range []int{960, 4608, 16, 17, 882, 4096} {
			for name, pcm := range signals(5000, depth) {
				t.Run(fmt.Sprintf("%d bits/blocks of %d/%s", depth, frames, name), func(t *testing.T) {
					e, err := NewEncoder(protocol.Format{Codec: "flac", Channels: 2, SampleRate: 48000, BitDepth: depth}, frames)
					if err != nil {
						t.Fatal(err)
					}
					pcm := pcm[:2*min(5000, 60*frames)]
					data := encodeAll(t, e, pcm)
					same(t, decodeFLAC(t, data), pcm)
					e.Reset()
					if again := encodeAll(t, e, pcm); !bytes.Equal(again, data) {
						t.Error("the same samples gave other bytes after Reset")
					}
				})
			}
		}
	}
}

func TestFLACFrameNumbersAndRates(t *testing.T) {
	// Numbers of one to six bytes, and rates of every way to say them.
	for _, number := range []uint64{0, 0x7f, 0x80, 0x7ff, 0x800, 0xffff, 0x10000, 0x1fffff, 0x200000, 0x3ffffff, 0x4000000, 0x7fffffff} {
		for _, rate := range []int{48000, 44100, 11025, 37000, 65540, 768000, 123457} {
			e := newFLACEncoder(protocol.Format{Codec: "flac", Channels: 1, SampleRate: rate, BitDepth: 16}, 16)
			e.number = number
			pcm := noise(16, 16)
			s, err := flac.New(bytes.NewReader(encodeAll(t, e, pcm)))
			if err != nil {
				t.Fatal(err)
			}
			f, err := s.ParseNext()
			if err != nil {
				t.Fatalf("frame %#x at %d Hz: %v", number, rate, err)
			}
			if f.Num != number || f.SampleRate != uint32(rate) && f.SampleRate != 0 || s.Info.SampleRate != uint32(rate) {
				t.Errorf("got frame %#x at %d Hz, want %#x at %d", f.Num, f.SampleRate, number, rate)
			}
		}
	}
}

func BenchmarkEncode(b *testing.B) {
	const frames = 960
	pcm := signals(48000, 16)["music"]
	for i, v := range noise(48000, 16) {
		pcm[i] += v / 64 >> 16 << 16 // about what music has
	}
	for _, f := range []protocol.Format{
		{Codec: "pcm", Channels: 2, SampleRate: 48000, BitDepth: 16},
		{Codec: "pcm", Channels: 2, SampleRate: 48000, BitDepth: 24},
		{Codec: "flac", Channels: 2, SampleRate: 48000, BitDepth: 16},
		{Codec: "flac", Channels: 2, SampleRate: 48000, BitDepth: 24},
	} {
		b.Run(fmt.Sprintf("%s-%d", f.Codec, f.BitDepth), func(b *testing.B) {
			e, err := NewEncoder(f, frames)
			if err != nil {
				b.Fatal(err)
			}
			var buf []byte
			bytes := 0
			b.ReportAllocs()
			for b.Loop() { // one second of sound
				for at := 0; at < len(pcm); at += 2 * frames {
					if buf, err = e.Encode(buf[:0], pcm[at:at+2*frames]); err != nil {
						b.Fatal(err)
					}
					bytes += len(buf)
				}
			}
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "x-realtime")
			b.ReportMetric(float64(bytes)/float64(b.N)/float64(len(pcm)*f.BitDepth/8), "of-PCM")
		})
	}
}
