package stream

import (
	"math/rand/v2"
	"slices"

	"resonatebridge/resonate/protocol"
)

// Item is one thing to play.
type Item struct {
	URL   string
	Given any // what the caller knows about it; handed to [Options.Open]

	expanded bool // what followed it in its playlist is in the queue
}

// queue is what is played one after the other. It is a value: a jump that may
// still fail works on a copy.
type queue struct {
	items   []Item
	order   []int // indices into items, in the order of playing
	at      int   // index into order
	repeat  protocol.Repeat
	shuffle bool
}

func newQueue(items []Item, start int, repeat protocol.Repeat, shuffle bool, rnd *rand.Rand) queue {
	q := queue{items: items, repeat: repeat}
	for i := range items {
		q.order = append(q.order, i)
	}
	q.at = min(max(start, 0), max(len(items)-1, 0))
	return q.shuffled(shuffle, rnd)
}

// current is the index of the item that plays; -1 if there is none.
func (q queue) current() int {
	if q.at >= len(q.order) {
		return -1
	}
	return q.order[q.at]
}

// on is the queue with one of its items as the current one.
func (q queue) on(item int) queue {
	q.at = max(slices.Index(q.order, item), 0)
	return q
}

// next is the queue after the current item. natural says that it ended by
// itself, which is when repeat_one applies. ok is false at the end.
func (q queue) next(natural bool) (queue, bool) {
	switch {
	case len(q.order) == 0:
		return q, false
	case natural && q.repeat == protocol.RepeatOne:
	case q.at+1 < len(q.order):
		q.at++
	case q.repeat == protocol.RepeatAll, q.repeat == protocol.RepeatOne:
		q.at = 0
	default:
		return q, false
	}
	return q, true
}

// previous is the queue before the current item; ok is false at the beginning.
func (q queue) previous() (queue, bool) {
	switch {
	case q.at > 0:
		q.at--
	case q.repeat == protocol.RepeatAll && len(q.order) > 0:
		q.at = len(q.order) - 1
	default:
		return q, false
	}
	return q, true
}

// shuffled has the items in random order, the current one first, or in their
// own order again.
func (q queue) shuffled(on bool, rnd *rand.Rand) queue {
	if q.shuffle == on {
		return q
	}
	cur := q.current()
	q.shuffle = on
	order := make([]int, 0, len(q.items))
	for i := range q.items {
		if !on || i != cur {
			order = append(order, i)
		}
	}
	if !on {
		q.order, q.at = order, max(cur, 0)
		return q
	}
	rnd.Shuffle(len(order), func(i, j int) { order[i], order[j] = order[j], order[i] })
	if cur >= 0 {
		order = append([]int{cur}, order...)
	}
	q.order, q.at = order, 0
	return q
}

// expanded has what followed the current item in its playlist behind it; as
// often as the item is played, only once.
func (q queue) expand(next []Item) (queue, bool) {
	cur := q.current()
	if len(next) == 0 || cur < 0 || q.items[cur].expanded {
		return q, false
	}
	q.items = append([]Item(nil), q.items...)
	q.items[cur].expanded = true
	return q.with(next, true), true
}

// with has items added behind the current one or at the end.
func (q queue) with(items []Item, next bool) queue {
	at := len(q.order)
	if next {
		at = min(q.at+1, len(q.order))
	}
	order := append([]int(nil), q.order[:at]...)
	for i := range items {
		order = append(order, len(q.items)+i)
	}
	q.order = append(order, q.order[at:]...)
	q.items = append(append([]Item(nil), q.items...), items...)
	return q
}
