package picture

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"image"
	"image/color"
	"image/gif"
	"image/jpeg"
	"image/png"
	"testing"

	"golang.org/x/image/bmp"
)

// halves is red above blue, wide or high.
func halves(w, h int) image.Image {
	img := image.NewRGBA(image.Rect(0, 0, w, h))
	for y := range h {
		for x := range w {
			c := color.RGBA{255, 0, 0, 255}
			if y >= h/2 {
				c = color.RGBA{0, 0, 255, 255}
			}
			img.SetRGBA(x, y, c)
		}
	}
	return img
}

func encoded(t testing.TB, encode func(*bytes.Buffer) error) []byte {
	t.Helper()
	var b bytes.Buffer
	if err := encode(&b); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func asPNG(t testing.TB, img image.Image) []byte {
	t.Helper()
	return encoded(t, func(b *bytes.Buffer) error { return png.Encode(b, img) })
}

func TestEncodeIsExactlyAsLarge(t *testing.T) {
	img := halves(400, 200)
	for name, data := range map[string][]byte{
		"png":  asPNG(t, img),
		"jpeg": encoded(t, func(b *bytes.Buffer) error { return jpeg.Encode(b, img, nil) }),
		"gif":  encoded(t, func(b *bytes.Buffer) error { return gif.Encode(b, img, nil) }),
		"bmp":  encoded(t, func(b *bytes.Buffer) error { return bmp.Encode(b, img) }),
	} {
		p, err := Decode(data)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		for _, format := range []string{"jpeg", "png", "bmp"} {
			for _, size := range []image.Point{{100, 100}, {64, 128}, {1, 1}, {333, 100}, {800, 480}} {
				out, err := p.Encode(format, size.X, size.Y)
				if err != nil {
					t.Fatal(err)
				}
				got, kind, err := image.Decode(bytes.NewReader(out))
				if err != nil || kind != format || got.Bounds().Size() != size {
					t.Fatalf("%s to %s: got %s of %v, %v, want %v", name, format, kind, got.Bounds(), err, size)
				}
				if size.X != 100 {
					continue
				}
				// Black above and below, red and blue between.
				for y, want := range map[int]color.RGBA{5: {0, 0, 0, 255}, 30: {255, 0, 0, 255}, 70: {0, 0, 255, 255}, 95: {0, 0, 0, 255}} {
					r, g, b, _ := got.At(50, y).RGBA()
					if d := distance(RGB{uint8(r >> 8), uint8(g >> 8), uint8(b >> 8)}, rgb(want)); d > 0.12 {
						t.Errorf("%s to %s: row %d is %d %d %d, want %v", name, format, y, r>>8, g>>8, b>>8, want)
					}
				}
			}
		}
	}
}

func TestEncodeRefuses(t *testing.T) {
	p, err := Decode(asPNG(t, halves(10, 10)))
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range []struct {
		format        string
		width, height int
	}{{"webp", 8, 8}, {"png", 0, 8}, {"png", 8, MaxSize + 1}} {
		if _, err := p.Encode(r.format, r.width, r.height); !errors.Is(err, ErrUnsupported) {
			t.Errorf("%v: got %v", r, err)
		}
	}
}

func TestTransparentIsBlack(t *testing.T) {
	p, err := Decode(asPNG(t, image.NewNRGBA(image.Rect(0, 0, 20, 20))))
	if err != nil {
		t.Fatal(err)
	}
	out, err := p.Encode("bmp", 20, 20)
	if err != nil {
		t.Fatal(err)
	}
	if bits := binary.LittleEndian.Uint16(out[28:]); bits != 24 {
		t.Errorf("got %d bits per pixel", bits)
	}
}

// lying is a PNG whose header says a size and that has nothing more.
func lying(width, height uint32) []byte {
	be := binary.BigEndian
	head := be.AppendUint32([]byte("IHDR"), width)
	head = append(be.AppendUint32(head, height), 8, 6, 0, 0, 0)
	b := append([]byte("\x89PNG\r\n\x1a\n\x00\x00\x00\x0d"), head...)
	return be.AppendUint32(b, crc32.ChecksumIEEE(head))
}

func TestBadPictures(t *testing.T) {
	good := asPNG(t, halves(50, 50))
	for name, b := range map[string][]byte{
		"none":                nil,
		"a web page":          []byte("<html>"),
		"too many bytes":      append(bytes.Clone(good), make([]byte, MaxBytes)...),
		"50 MB":               make([]byte, 50<<20),
		"cut":                 good[:len(good)/2],
		"no pixels":           lying(0, 100),
		"lies: 12000 x 12000": lying(12000, 12000),
		"lies: long":          lying(1<<30, 1),
		"lies: 4000 x 4000":   lying(4000, 4000),
		"JPEG without data":   []byte("\xff\xd8\xff\xd9"),
		"WebP without data":   []byte("RIFF\x00\x00\x00\x00WEBPVP8 \x00\x00"),
	} {
		if _, err := Decode(b); !errors.Is(err, ErrUnsupported) {
			t.Errorf("%s: got %v", name, err)
		}
	}
}

func TestJPEGIsBounded(t *testing.T) {
	img := image.NewRGBA(image.Rect(0, 0, 450, 300))
	x := uint32(1)
	for i := range img.Pix {
		x = x*1664525 + 1013904223
		img.Pix[i] = byte(x >> 24)
	}
	p, err := Decode(asPNG(t, img))
	if err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct{ side, most int }{{5000, 1 << 20}, {300, 1 << 20}, {450, 20_000}, {450, 2_000}} {
		b, err := p.JPEG(tc.side, tc.most)
		if err != nil {
			t.Fatal(err)
		}
		c, err := jpeg.DecodeConfig(bytes.NewReader(b))
		if err != nil || len(b) > tc.most || c.Width > tc.side || c.Width*2 < c.Height*3-9 || c.Width*2 > c.Height*3+9 {
			t.Errorf("%+v: got %d bytes, %d x %d, %v", tc, len(b), c.Width, c.Height, err)
		}
	}
	if _, err := p.JPEG(450, 100); !errors.Is(err, ErrUnsupported) {
		t.Errorf("got %v", err)
	}
}

func TestContrast(t *testing.T) {
	for _, tc := range []struct {
		a, b RGB
		want float64
	}{{RGB{}, RGB{255, 255, 255}, 21}, {RGB{255, 0, 0}, RGB{255, 255, 255}, 3.998}, {RGB{0x77, 0x77, 0x77}, RGB{255, 255, 255}, 4.478}, {RGB{9, 9, 9}, RGB{9, 9, 9}, 1}} {
		if got := Contrast(tc.a, tc.b); got < tc.want-0.002 || got > tc.want+0.002 {
			t.Errorf("Contrast(%v, %v) = %.3f, want %v", tc.a, tc.b, got, tc.want)
		}
	}
}

func TestColors(t *testing.T) {
	uniform := func(c color.Color) image.Image {
		img := image.NewRGBA(image.Rect(0, 0, 30, 30))
		for i := range 900 {
			img.Set(i%30, i/30, c)
		}
		return img
	}
	images := map[string]image.Image{"halves": halves(90, 90), "a line": halves(1, 500)}
	for _, v := range []uint8{0, 60, 128, 200, 255} {
		for _, c := range []color.RGBA{{v, v, v, 255}, {v, 0, 0, 255}, {0, v, 255, 255}, {255, 255, v, 255}, {v, 255, 0, 255}} {
			images[fmt.Sprint(c)] = uniform(c)
		}
	}
	black, white := RGB{}, RGB{255, 255, 255}
	for name, img := range images {
		p, err := Decode(asPNG(t, img))
		if err != nil {
			t.Fatal(err)
		}
		c := p.Colors()
		for what, got := range map[string]float64{
			"dark, white text":  Contrast(c.BackgroundDark, white),
			"dark, on it":       Contrast(c.BackgroundDark, c.OnDark),
			"light, black text": Contrast(c.BackgroundLight, black),
			"light, on it":      Contrast(c.BackgroundLight, c.OnLight),
			"on dark, black":    Contrast(c.OnDark, black),
			"on light, white":   Contrast(c.OnLight, white),
		} {
			if got < MinContrast {
				t.Errorf("%s: %s has a contrast of %.2f: %+v", name, what, got, c)
			}
		}
		if again := colorsOf(p.img); again != c {
			t.Errorf("%s: got %+v and then %+v", name, c, again)
		}
	}
	p, err := Decode(asPNG(t, halves(90, 90)))
	if err != nil {
		t.Fatal(err)
	}
	c := p.Colors()
	if distance(c.Primary, c.Accent) < 0.8 || chroma(c.Primary) < 0.8 || chroma(c.Accent) < 0.8 {
		t.Errorf("red and blue give %v and %v", c.Primary, c.Accent)
	}
}

func FuzzDecode(f *testing.F) {
	f.Add(asPNG(f, halves(8, 8)))
	f.Add(lying(4000, 4000))
	f.Add([]byte("BM"))
	f.Fuzz(func(t *testing.T, b []byte) {
		p, err := Decode(b)
		if err != nil {
			return
		}
		if _, err := p.Encode("jpeg", 16, 16); err != nil {
			t.Error(err)
		}
		p.Colors()
	})
}

func BenchmarkCover(b *testing.B) {
	data := encoded(b, func(w *bytes.Buffer) error { return jpeg.Encode(w, halves(1400, 1400), nil) })
	b.Run("decode", func(b *testing.B) {
		for b.Loop() {
			if _, err := Decode(data); err != nil {
				b.Fatal(err)
			}
		}
	})
	p, err := Decode(data)
	if err != nil {
		b.Fatal(err)
	}
	b.Run("scale to 300", func(b *testing.B) {
		for b.Loop() {
			if _, err := p.Encode("jpeg", 300, 300); err != nil {
				b.Fatal(err)
			}
		}
	})
}
