package noise

import (
	"errors"
	"fmt"
	"iter"
)

// Ids of messages that belong to the transport. All others are the roles'.
const (
	JSONID     = 0 // a JSON message in UTF-8
	fragmentID = 1

	// The generation before 1.0.0-rc1 had two ids in place of flags.
	oldMoreID = 2
	oldLastID = 3
)

// Flags of a fragment.
const (
	fragmentLast  = 1 << 0
	fragmentFirst = 1 << 1
)

// DefaultLimit is the most bytes of a message that is put together, unless an
// [Assembler] says otherwise.
const DefaultLimit = 1 << 20

// fragmentsMax bounds the fragments of one message, since they may be empty.
const fragmentsMax = 4096

// ErrFragment says that fragments come as none should; the connection ends.
var ErrFragment = errors.New("noise: malformed fragments")

func fragmentError(what string) error { return fmt.Errorf("%w: %s", ErrFragment, what) }

// inFlight follows a sequence of outgoing messages: whether a fragmented one is
// in flight after message, and whether message has its place here.
func inFlight(open bool, message []byte) (after, ok bool) {
	switch message[0] {
	case fragmentID:
		if len(message) < 2 || open == (message[1]&fragmentFirst != 0) {
			return open, false
		}
		return message[1]&fragmentLast == 0, true
	case oldMoreID:
		return true, true
	case oldLastID:
		return false, open
	}
	return open, !open
}

// Fragments yields the messages that carry a message, in order: itself if it
// fits into a frame, else its fragments. Nothing else may be sealed between
// them. dst is memory for a fragment, which each one uses again; with
// [MaxMessage] bytes of room nothing is allocated. old says that the peer is
// of the generation before 1.0.0-rc1.
func Fragments(dst, message []byte, old bool) iter.Seq[[]byte] {
	return func(yield func([]byte) bool) {
		if len(message) <= MaxMessage {
			yield(message)
			return
		}
		id, data := message[0], message[1:]
		for first := true; len(data) > 0; first = false {
			head := fragmentHead(id, first, len(data), old)
			n := min(len(data), MaxMessage-len(head))
			part := append(append(dst[:0], head...), data[:n]...)
			if dst = part; !yield(part) {
				return
			}
			data = data[n:]
		}
	}
}

// fragmentHead is what stands before the data of a fragment with left bytes to
// go.
func fragmentHead(id byte, first bool, left int, old bool) []byte {
	switch {
	case old && first:
		return []byte{oldMoreID, id}
	case old && left <= MaxMessage-1:
		return []byte{oldLastID}
	case old:
		return []byte{oldMoreID}
	case first:
		return []byte{fragmentID, fragmentFirst, id}
	case left <= MaxMessage-2:
		return []byte{fragmentID, fragmentLast}
	}
	return []byte{fragmentID, 0}
}

// Assembler puts the fragments of one direction together. The zero value is
// ready to use. It outlives a re-handshake, at which nothing is in flight.
type Assembler struct {
	// Limit is the most bytes of a message, its id included; 0 means
	// [DefaultLimit]. A larger one ends the connection.
	Limit int
	// Keep says which ids are implemented; nil means all. A message with
	// another one is followed, but not kept.
	Keep func(id byte) bool
	// Old admits the fragments of the generation before 1.0.0-rc1, too. It is
	// set until the peer's hello tells.
	Old bool

	buf   []byte // the message so far, its id first
	open  bool   // a message is in flight
	old   bool   // in old fragments
	keep  bool
	count int
}

// InFlight reports whether a message is not complete yet.
func (a *Assembler) InFlight() bool { return a.open }

// Feed takes a message as it came out of a frame. It returns the message if
// that was none of a fragment, the whole one after its last fragment, and nil
// otherwise. What it returns is valid until the next call. The error is an
// [ErrFragment].
func (a *Assembler) Feed(message []byte) ([]byte, error) {
	if len(message) == 0 {
		return nil, ErrEmpty
	}
	switch id := message[0]; {
	case id == fragmentID:
		return a.flagged(message[1:])
	case (id == oldMoreID || id == oldLastID) && a.Old:
		return a.oldStyle(message[1:], id == oldLastID)
	case a.open:
		return nil, fragmentError("another message before the last fragment")
	}
	return message, nil
}

// flagged takes what follows the id of a fragment.
func (a *Assembler) flagged(rest []byte) ([]byte, error) {
	if len(rest) == 0 {
		return nil, fragmentError("no flags")
	}
	flags, data := rest[0], rest[1:]
	first := flags&fragmentFirst != 0
	switch {
	case flags&^(fragmentFirst|fragmentLast) != 0:
		return nil, fragmentError("reserved flags")
	case first && a.open:
		return nil, fragmentError("a first one before the last one of another message")
	case !first && (!a.open || a.old):
		return nil, fragmentError("one that continues nothing")
	case first && len(data) == 0:
		return nil, fragmentError("no id of the message")
	case first && data[0] == fragmentID:
		return nil, fragmentError("a message of fragments in fragments")
	case first:
		a.begin(data[0], false)
		data = data[1:]
	}
	return a.take(data, flags&fragmentLast != 0)
}

// oldStyle takes what follows the id of an old fragment.
func (a *Assembler) oldStyle(data []byte, last bool) ([]byte, error) {
	switch {
	case a.open && !a.old:
		return nil, fragmentError("two styles in one message")
	case a.open:
	case last:
		return nil, fragmentError("one that continues nothing")
	case len(data) == 0:
		return nil, fragmentError("no id of the message")
	case data[0] >= fragmentID && data[0] <= oldLastID:
		return nil, fragmentError("a message of fragments in fragments")
	default:
		a.begin(data[0], true)
		data = data[1:]
	}
	return a.take(data, last)
}

func (a *Assembler) begin(id byte, old bool) {
	a.open, a.old, a.count = true, old, 0
	a.keep = a.Keep == nil || a.Keep(id)
	a.buf = append(a.buf[:0], id)
}

func (a *Assembler) take(data []byte, last bool) ([]byte, error) {
	limit := a.Limit
	if limit == 0 {
		limit = DefaultLimit
	}
	a.count++
	switch {
	case a.count > fragmentsMax:
		return nil, fragmentError("too many of one message")
	case a.keep && len(a.buf)+len(data) > limit:
		return nil, fragmentError(fmt.Sprintf("a message of more than %d bytes", limit))
	case a.keep:
		a.buf = append(a.buf, data...)
	}
	if !last {
		return nil, nil
	}
	a.open = false
	message := a.buf
	if cap(a.buf) > 4*MaxFrame {
		a.buf = nil // one large message must not cost memory for ever
	}
	if !a.keep {
		return nil, nil
	}
	return message, nil
}
