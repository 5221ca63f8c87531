package audio

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"math"
	"os"
	"path/filepath"
	"testing"

	"resonatebridge/resonate/protocol"
)

// noise is a signal in which every sample of so many bits matters.
func noise(frames, bits int) []int32 {
	pcm := make([]int32, frames*Channels)
	x := uint32(2463534242)
	for i := range pcm {
		x ^= x << 13
		x ^= x >> 17
		x ^= x << 5
		pcm[i] = int32(x) >> (32 - bits) << (32 - bits)
	}
	pcm[0], pcm[1] = math.MinInt32, math.MaxInt32>>(32-bits)<<(32-bits)
	return pcm
}

// wav is a file with a header of the plain kind.
func wav(t testing.TB, tag uint16, f protocol.Format, data []byte) []byte {
	t.Helper()
	le := binary.LittleEndian
	frame := f.Channels * f.BitDepth / 8
	b := le.AppendUint32([]byte("RIFF"), uint32(36+len(data)))
	b = le.AppendUint32(append(b, "WAVEfmt "...), 16)
	b = le.AppendUint16(le.AppendUint16(b, tag), uint16(f.Channels))
	b = le.AppendUint32(le.AppendUint32(b, uint32(f.SampleRate)), uint32(f.SampleRate*frame))
	b = le.AppendUint16(le.AppendUint16(b, uint16(frame)), uint16(f.BitDepth))
	b = le.AppendUint32(append(b, "data"...), uint32(len(data)))
	return append(b, data...)
}

// openBytes opens b as if it came from a file.
func openBytes(b []byte) (Source, error) {
	return Options{FFmpeg: "off"}.withDefaults().openMedium(context.Background(), &medium{stream: newStream(nopCloser{bytes.NewReader(b)}, int64(len(b)), true)})
}

type nopCloser struct{ io.ReadSeeker }

func (nopCloser) Close() error { return nil }

// readAll reads src to its end, in pieces of odd lengths, and returns what came
// with the error that ended it, nil at the proper end.
func readAll(t testing.TB, src Source) ([]int32, error) {
	t.Helper()
	var all []int32
	buf := make([]int32, 2*1021)
	for size := 1; ; size = size%1021 + 1 {
		n, err := src.Read(buf[:2*size])
		all = append(all, buf[:2*n]...)
		if errors.Is(err, io.EOF) {
			return all, nil
		}
		if err != nil {
			return all, err
		}
		if n == 0 {
			t.Fatal("Read returned no frame and no error")
		}
	}
}

func same(t testing.TB, got, want []int32) {
	t.Helper()
	if len(got) != len(want) {
		t.Errorf("got %d samples, want %d", len(got), len(want))
	}
	for i := range min(len(got), len(want)) {
		if got[i] != want[i] {
			t.Fatalf("sample %d of channel %d: got %d, want %d", i/Channels, i%Channels, got[i], want[i])
		}
	}
}

func TestPCMIsBitExact(t *testing.T) {
	for _, bits := range []int{16, 24, 32} {
		f := protocol.Format{Codec: "pcm", Channels: 2, SampleRate: 44100, BitDepth: bits}
		want := noise(5000, bits)
		e, err := NewEncoder(f, 5000)
		if err != nil {
			t.Fatal(err)
		}
		data, err := e.Encode(nil, want)
		if err != nil {
			t.Fatal(err)
		}
		src, err := openBytes(wav(t, 1, f, data))
		if err != nil {
			t.Fatal(err)
		}
		if i := src.Info(); i.Rate != 44100 || i.Frames != 5000 || i.Native.BitDepth != bits || !i.Seekable {
			t.Errorf("%d bits: got %+v", bits, i)
		}
		got, err := readAll(t, src)
		if err != nil {
			t.Error(err)
		}
		same(t, got, want)

		if err := src.SeekFrame(1234); err != nil {
			t.Fatal(err)
		}
		got, err = readAll(t, src)
		if err != nil {
			t.Error(err)
		}
		same(t, got, want[2*1234:])
	}
}

func TestNarrowRounds(t *testing.T) {
	for _, tc := range []struct {
		in   int32
		bits int
		want int32
	}{
		{0x7fff << 16, 16, 0x7fff},
		{0x7fff<<16 | 0x7fff, 16, 0x7fff},
		{math.MaxInt32, 16, 0x7fff}, // not 0x8000
		{math.MinInt32, 16, -0x8000},
		{1 << 15, 16, 1},
		{1<<15 - 1, 16, 0},
		{-1 << 15, 16, 0},
		{-1<<15 - 1, 16, -1},
		{math.MaxInt32, 24, 0x7fffff},
		{math.MaxInt32, 32, math.MaxInt32},
	} {
		if got := narrow(tc.in, tc.bits); got != tc.want {
			t.Errorf("narrow(%#x, %d) = %#x, want %#x", tc.in, tc.bits, got, tc.want)
		}
	}
}

func TestMonoIsTheMiddle(t *testing.T) {
	e, err := NewEncoder(protocol.Format{Codec: "pcm", Channels: 1, SampleRate: 48000, BitDepth: 16}, 960)
	if err != nil {
		t.Fatal(err)
	}
	got, err := e.Encode(nil, []int32{100 << 16, 300 << 16, math.MaxInt32, math.MaxInt32})
	if want := []byte{200, 0, 0xff, 0x7f}; err != nil || !bytes.Equal(got, want) {
		t.Errorf("got % x, %v; want % x", got, err, want)
	}
}

func TestTone(t *testing.T) {
	src, err := Open(t.Context(), "tone:?frequency=1000&seconds=0.5", Options{})
	if err != nil {
		t.Fatal(err)
	}
	got, err := readAll(t, src)
	if err != nil || len(got) != 2*24000 {
		t.Fatalf("got %d samples, %v", len(got), err)
	}
	// 1 kHz at 48 kHz repeats every 48 frames, for ever.
	same(t, got[2*48*400:2*48*401], got[:2*48])
	if peak := got[2*12]; math.Abs(float64(peak)/(1<<31)-0.25) > 1e-6 {
		t.Errorf("got a peak of %v, want 0.25", float64(peak)/(1<<31))
	}
	if err := src.Close(); err != nil {
		t.Error(err)
	}
	if _, err := src.Read(make([]int32, 2)); !errors.Is(err, ErrClosed) {
		t.Errorf("after Close: got %v", err)
	}
}

func TestFilesStayBelowTheirRoots(t *testing.T) {
	music, secret := t.TempDir(), t.TempDir()
	data := wav(t, 1, protocol.Format{Channels: 2, SampleRate: 8000, BitDepth: 16}, make([]byte, 400))
	for _, path := range []string{filepath.Join(music, "a b%20c?.wav"), filepath.Join(secret, "s.wav")} {
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink(filepath.Join(secret, "s.wav"), filepath.Join(music, "link.wav")); err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		name, text string
		want       error
	}{
		{"plain path, taken literally", filepath.Join(music, "a b%20c?.wav"), nil},
		{"URL, unescaped", "file://" + music + "/a%20b%2520c%3F.wav", nil},
		{"URL with this host", "file://localhost" + music + "/a%20b%2520c%3F.wav", nil},
		{"elsewhere", filepath.Join(secret, "s.wav"), ErrRefused},
		{"through dots", music + "/../" + filepath.Base(secret) + "/s.wav", ErrRefused},
		{"through a link", filepath.Join(music, "link.wav"), ErrUnreachable},
		{"another host's", "file://nas/x.wav", ErrRefused},
		{"a directory", music, ErrRefused},
		{"nothing", filepath.Join(music, "none.wav"), ErrUnreachable},
		{"relative", "a.wav", ErrRefused},
		{"not ours", "ftp://host/a.wav", ErrRefused},
	} {
		src, err := Open(t.Context(), tc.text, Options{Roots: []string{music}})
		if !errors.Is(err, tc.want) {
			t.Errorf("%s: got %v, want %v", tc.name, err, tc.want)
		}
		if err == nil {
			if got, err := readAll(t, src); err != nil || len(got) != 200 {
				t.Errorf("%s: got %d samples, %v", tc.name, len(got), err)
			}
			src.Close()
		}
	}
	if _, err := Open(t.Context(), filepath.Join(secret, "s.wav"), Options{}); !errors.Is(err, ErrRefused) {
		t.Errorf("without roots: got %v", err)
	}
}

func TestGain(t *testing.T) {
	pcm := noise(1000, 24)
	want := append([]int32(nil), pcm...)
	var g Gain
	g.Apply(pcm)
	same(t, pcm, want)

	// A ramp is the same however it is cut into blocks, and ends where it should.
	whole, parts := make([]int32, 2000), make([]int32, 2000)
	for i := range whole {
		whole[i], parts[i] = 1<<30, 1<<30
	}
	g.Ramp(Decibels(-12), 300)
	h := g
	g.Apply(whole)
	for at, size := 0, 2; at < len(parts); size += 2 {
		end := min(at+size, len(parts))
		h.Apply(parts[at:end])
		at = end
	}
	same(t, parts, whole)
	if whole[0] != 1<<30 || whole[600] != scale(1<<30, Decibels(-12)) || whole[598] <= whole[600] {
		t.Errorf("got %d ... %d, %d", whole[0], whole[598], whole[600])
	}
	step := whole[2] - whole[0]
	for i := 2; i <= 600; i += 2 {
		if d := whole[i] - whole[i-2] - step; d < -1 || d > 1 {
			t.Fatalf("frame %d: a step of %d, want %d", i/2, whole[i]-whole[i-2], step)
		}
	}

	// A new ramp begins where the last one was.
	g.Ramp(1, 100)
	g.Apply(make([]int32, 100))
	half := g.Factor()
	g.Ramp(0, 10)
	if got := g.Factor(); got != half {
		t.Errorf("the factor jumps from %v to %v", half, got)
	}
	g.Apply(whole[:20])
	g.Apply(whole[:20])
	if whole[0] != 0 || g.Factor() != 0 {
		t.Errorf("got %d at a factor of %v", whole[0], g.Factor())
	}
}
