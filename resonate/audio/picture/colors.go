package picture

import (
	"image"
	"image/color"
	"math"

	"github.com/cenkalti/dominantcolor"
	"golang.org/x/image/draw"
)

// RGB is a colour of the color role: red, green, blue.
type RGB [3]uint8

// Colors are those of a picture, for a display around it (spec: color role).
// Dark backgrounds carry white text and OnDark, light ones black text and
// OnLight; OnDark is itself a background for black text, OnLight for white.
// Each of these pairs has a contrast of at least MinContrast.
type Colors struct {
	BackgroundDark, BackgroundLight, Primary, Accent, OnDark, OnLight RGB
}

// MinContrast is that of WCAG 2 for text, level AA.
const MinContrast = 4.5

// Colors returns the colours of the picture.
func (p *Picture) Colors() Colors { return colorsOf(p.img) }

func colorsOf(img image.Image) Colors {
	const sample = 64 // pixels: enough for colours
	w, h := fit(img.Bounds(), sample, sample)
	small := canvas(w, h)
	draw.ApproxBiLinear.Scale(small, small.Bounds(), img, img.Bounds(), draw.Src, nil)
	found := dominantcolor.FindWeight(small, 6)

	var primary, accent RGB
	best := -1.0
	for _, c := range found {
		// Much of a colour, and colourful.
		if v := math.Sqrt(c.Weight) * (0.2 + chroma(rgb(c.RGBA))); v > best {
			best, primary = v, rgb(c.RGBA)
		}
	}
	accent, best = primary, -1
	for _, c := range found {
		if v := distance(rgb(c.RGBA), primary) * (0.2 + chroma(rgb(c.RGBA))); v > best {
			best, accent = v, rgb(c.RGBA)
		}
	}
	black, white := RGB{}, RGB{255, 255, 255}
	colors := Colors{Primary: primary, Accent: accent}
	colors.BackgroundDark = toward(primary, black, white)
	colors.BackgroundLight = toward(primary, white, black)
	colors.OnDark = toward(accent, white, black, colors.BackgroundDark)
	colors.OnLight = toward(accent, black, white, colors.BackgroundLight)
	return colors
}

func rgb(c color.RGBA) RGB { return RGB{c.R, c.G, c.B} }

// chroma is 0 for grey and 1 for a pure colour.
func chroma(c RGB) float64 {
	return float64(max(c[0], c[1], c[2])-min(c[0], c[1], c[2])) / 255
}

func distance(a, b RGB) float64 {
	var sum float64
	for i := range a {
		d := (float64(a[i]) - float64(b[i])) / 255
		sum += d * d
	}
	return math.Sqrt(sum)
}

// toward is c, moved toward end no further than the contrast to all of the
// others needs.
func toward(c, end RGB, others ...RGB) RGB {
	const steps = 64
	for i := range steps {
		var m RGB
		for k := range m {
			m[k] = uint8(math.Round(float64(c[k]) + (float64(end[k])-float64(c[k]))*float64(i)/steps))
		}
		good := true
		for _, o := range others {
			good = good && Contrast(m, o) >= MinContrast
		}
		if good {
			return m
		}
	}
	return end
}

// Contrast is the ratio of WCAG 2, from 1 to 21.
func Contrast(a, b RGB) float64 {
	la, lb := luminance(a), luminance(b)
	return (max(la, lb) + 0.05) / (min(la, lb) + 0.05)
}

func luminance(c RGB) float64 {
	linear := func(v uint8) float64 {
		s := float64(v) / 255
		if s <= 0.04045 {
			return s / 12.92
		}
		return math.Pow((s+0.055)/1.055, 2.4)
	}
	return 0.2126*linear(c[0]) + 0.7152*linear(c[1]) + 0.0722*linear(c[2])
}
