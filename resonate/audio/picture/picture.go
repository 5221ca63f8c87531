// Package picture prepares cover art for displays: bounded when it is read, in
// the sizes and formats that they ask for, and its colours.
//
// A Picture is immutable; any goroutine may use it.
package picture

import (
	"bytes"
	"errors"
	"fmt"
	"image"
	"image/color"
	"image/gif"
	"image/jpeg"
	"image/png"
	"io"

	"golang.org/x/image/bmp"
	"golang.org/x/image/draw"
	"golang.org/x/image/webp"
)

// Limits of what is taken and made.
const (
	MaxBytes  = 8 << 20  // of a file
	maxSide   = 8192     // pixels
	maxPixels = 16 << 20 // of a file, whatever its size in bytes
	kept      = 1280     // pixels of the longer side that are kept
	MaxSize   = 2048     // pixels of a side that may be asked for
)

// Picture is a decoded picture.
type Picture struct {
	img *image.RGBA // opaque, at most kept pixels long
}

// ErrUnsupported: no picture, or one that is too large.
var ErrUnsupported = errors.New("picture not supported")

// Decode reads JPEG, PNG, GIF, WebP or BMP. What a file says about its size is
// believed only so far that it is refused.
func Decode(data []byte) (*Picture, error) {
	if len(data) > MaxBytes {
		return nil, fmt.Errorf("%w: %d bytes, at most %d are taken", ErrUnsupported, len(data), MaxBytes)
	}
	config, decode := codec(data)
	if decode == nil {
		return nil, fmt.Errorf("%w: neither JPEG, PNG, GIF, WebP nor BMP", ErrUnsupported)
	}
	c, err := config(bytes.NewReader(data))
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrUnsupported, err)
	}
	if c.Width < 1 || c.Height < 1 || c.Width > maxSide || c.Height > maxSide || c.Width*c.Height > maxPixels {
		return nil, fmt.Errorf("%w: %d x %d pixels", ErrUnsupported, c.Width, c.Height)
	}
	img, err := decode(bytes.NewReader(data))
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrUnsupported, err)
	}
	p := new(Picture)
	if b := img.Bounds(); b.Dx() <= kept && b.Dy() <= kept {
		p.img = canvas(b.Dx(), b.Dy())
		draw.Draw(p.img, p.img.Bounds(), img, b.Min, draw.Over)
	} else {
		p.img = canvas(fit(b, kept, kept))
		draw.BiLinear.Scale(p.img, p.img.Bounds(), img, b, draw.Over, nil)
	}
	return p, nil
}

// codec knows a format by its first bytes.
func codec(data []byte) (func(io.Reader) (image.Config, error), func(io.Reader) (image.Image, error)) {
	begins := func(mark string) bool { return bytes.HasPrefix(data, []byte(mark)) }
	switch {
	case begins("\xff\xd8"):
		return jpeg.DecodeConfig, jpeg.Decode
	case begins("\x89PNG"):
		return png.DecodeConfig, png.Decode
	case begins("GIF8"):
		return gif.DecodeConfig, gif.Decode
	case begins("BM"):
		return bmp.DecodeConfig, bmp.Decode
	case begins("RIFF") && len(data) > 12 && string(data[8:12]) == "WEBP":
		return webp.DecodeConfig, webp.Decode
	}
	return nil, nil
}

// canvas is a black picture.
func canvas(w, h int) *image.RGBA {
	img := image.NewRGBA(image.Rect(0, 0, w, h))
	draw.Draw(img, img.Bounds(), image.NewUniform(color.Black), image.Point{}, draw.Src)
	return img
}

// fit is the largest size with the proportions of b within a frame.
func fit(b image.Rectangle, width, height int) (w, h int) {
	w, h = width, b.Dy()*width/b.Dx()
	if h > height {
		w, h = b.Dx()*height/b.Dy(), height
	}
	return max(1, w), max(1, h)
}

const quality = 90 // of JPEG

// Encode returns the picture as "jpeg", "png" or "bmp", exactly as large as asked
// for, 1 to MaxSize pixels: scaled to fit, with black beside it (spec: artwork
// role). It takes a tenth of a second for a screen.
func (p *Picture) Encode(format string, width, height int) ([]byte, error) {
	if width < 1 || height < 1 || width > MaxSize || height > MaxSize {
		return nil, fmt.Errorf("%w: %d x %d pixels were asked for", ErrUnsupported, width, height)
	}
	img := p.scaled(width, height)
	var b bytes.Buffer
	var err error
	switch format {
	case "jpeg":
		err = jpeg.Encode(&b, img, &jpeg.Options{Quality: quality})
	case "png":
		err = png.Encode(&b, img)
	case "bmp":
		err = bmp.Encode(&b, img) // 24 bits, since it is opaque
	default:
		return nil, fmt.Errorf("%w: format %.20q", ErrUnsupported, format)
	}
	if err != nil {
		return nil, fmt.Errorf("picture: %s: %w", format, err)
	}
	return b.Bytes(), nil
}

// scaled is the picture in a frame of this size.
func (p *Picture) scaled(width, height int) *image.RGBA {
	img := canvas(width, height)
	w, h := fit(p.img.Bounds(), width, height)
	at := image.Pt((width-w)/2, (height-h)/2)
	draw.CatmullRom.Scale(img, image.Rectangle{at, at.Add(image.Pt(w, h))}, p.img, p.img.Bounds(), draw.Over, nil)
	return img
}

// JPEG returns the picture with its own proportions, at most side pixels long
// and at most so many bytes, for which it is made worse as far as needed.
func (p *Picture) JPEG(side, most int) ([]byte, error) {
	b := p.img.Bounds()
	for side = min(side, max(b.Dx(), b.Dy())); side > 0; side = side * 3 / 4 {
		img := p.scaled(fit(b, side, side))
		for _, q := range [...]int{quality, 80, 65} {
			var out bytes.Buffer
			if err := jpeg.Encode(&out, img, &jpeg.Options{Quality: q}); err != nil {
				return nil, fmt.Errorf("picture: %w", err)
			}
			if out.Len() <= most {
				return out.Bytes(), nil
			}
		}
	}
	return nil, fmt.Errorf("%w: no picture fits into %d bytes", ErrUnsupported, most)
}
