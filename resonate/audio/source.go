package audio

import (
	"errors"

	"resonatebridge/resonate/audio/fetch"
	"resonatebridge/resonate/protocol"
)

// Channels is the number of channels of every [Source]; what has another
// number is mixed to it when it is opened.
const Channels = 2

// Source is a stream of samples, see the package comment for their form.
type Source interface {
	// Info describes the source as of the last frame that Read returned. Tags
	// and picture may change with any Read, e.g. with each song of a radio
	// station; then they hold from the first frame of that Read on.
	Info() Info
	// Read fills dst from its start and returns the number of frames, at least
	// one when err is nil. It waits for them as long as it takes; a source that
	// stalls for too long is ErrUnreachable. The end is io.EOF, with no frames.
	// What can still be heard of a damaged source is returned before its
	// ErrDamaged. Any error is final, but SeekFrame may lead away from it.
	Read(dst []int32) (frames int, err error)
	// SeekFrame goes on at the frame with this number, counted at Info.Rate. Past
	// the end is the end. ErrNotSeekable changes nothing.
	SeekFrame(frame int64) error
	// Close releases everything and makes Read return ErrClosed.
	Close() error
}

// Info describes a source.
type Info struct {
	Native   protocol.Format // what it is before any conversion; codec e.g. "mp3"
	Rate     int             // of what Read returns, Hz
	Frames   int64           // in all, at Rate; about, if nothing in an MP3 file says; 0: endless or not known
	Live     bool            // comes at the speed at which it plays: can't be read ahead, has no beginning
	Seekable bool
	Tags     Tags
	Picture  []byte  // front cover as the file has it (JPEG, PNG, ...), nil if none; not to be changed
	Next     []Entry // what follows in the playlist that was opened
}

// Tags say what is heard. Empty and 0 are unknown.
type Tags struct {
	Title, Artist, AlbumArtist, Album string
	Year, Track                       int
	ArtworkURL                        string
}

// Entry is one line of a playlist.
type Entry struct {
	URL   string // absolute
	Title string // "" if the playlist has none
}

// What can go wrong, to be told with errors.Is. The text of an error is a
// sentence for the user.
var (
	ErrRefused     = fetch.ErrRefused                  // not a URL, or one that must not be fetched
	ErrUnreachable = fetch.ErrUnreachable              // no answer, a bad one, or none any more
	ErrUnsupported = errors.New("media not supported") // no audio, or audio that nothing here decodes
	ErrDamaged     = errors.New("media damaged")       // it ends too early, or can't be decoded from here on
	ErrNotSeekable = errors.New("media can't be positioned")
	ErrClosed      = errors.New("source closed")
)
