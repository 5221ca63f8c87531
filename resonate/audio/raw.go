package audio

import (
	"io"

	"resonatebridge/resonate/protocol"
)

// openRaw reads samples without any header.
func openRaw(r io.ReadSeekCloser, f protocol.Format) (Source, error) {
	media := newStream(r, -1, false)
	d := &pcm{media: media}
	if err := d.set(f); err != nil {
		media.Close()
		return nil, err
	}
	d.left = -1
	src := newDecoded(d, media)
	src.live = true
	return src, nil
}
