package mqtt

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
)

// maxCollected bounds the messages that one visit holds in memory.
const maxCollected = 100_000

// visit is a short stay at a broker: connect once, subscribe, look, leave.
type visit struct {
	*broker
	link *link
	news chan struct{} // cap 1: there is something to take

	mu       sync.Mutex // never held across I/O
	messages []Message
	overflow bool
}

// visitBroker connects once under a client id of its own and subscribes to
// filters, and to extra if the broker lets us (granted). The caller closes the
// link.
func visitBroker(ctx context.Context, o Options, tm timing, qos byte, filters []string, extra string) (v *visit, granted bool, err error) {
	o.Will, o.Online, o.Subscriptions, o.ClientID = Message{}, nil, nil, ""
	if err := checkFilters(filters); err != nil {
		return nil, false, err
	}
	v = &visit{news: make(chan struct{}, 1)}
	if v.broker, err = newBroker(o); err != nil {
		return nil, false, err
	}
	if v.link, err = v.connect(ctx, v.ClientID, tm, v.handle); err != nil {
		return nil, false, err
	}
	all := slices.Clone(filters)
	if extra != "" && !slices.Contains(all, extra) {
		all = append(all, extra)
	}
	refused, err := v.link.subscribe(ctx, qos, all)
	granted = err == nil && extra != "" && !slices.Contains(refused, extra)
	refused = slices.DeleteFunc(refused, func(f string) bool { return !slices.Contains(filters, f) })
	if err == nil && len(refused) > 0 {
		err = fmt.Errorf("mqtt: %s refused the subscription to %s: check the broker's ACL", v.name(), strings.Join(refused, ", "))
	}
	if err != nil {
		v.link.close()
		return nil, false, err
	}
	return v, granted, nil
}

// handle keeps a received message. It runs on the connection's reading goroutine.
func (v *visit) handle(m Message) {
	v.mu.Lock()
	if len(v.messages) < maxCollected {
		v.messages = append(v.messages, m)
	} else {
		v.overflow = true
	}
	v.mu.Unlock()
	nudge(v.news)
}

// follow hands what arrives to each until it returns false, the link is lost or
// ctx ends.
func (v *visit) follow(ctx context.Context, each func(Message) bool) error {
	for {
		select {
		case <-v.news:
			messages, err := v.take()
			if err != nil {
				return err
			}
			for _, m := range messages {
				if !each(m) {
					return nil
				}
			}
		case err := <-v.link.lost:
			return v.link.ended(err)
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// take returns what arrived since the last call.
func (v *visit) take() ([]Message, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.overflow {
		return nil, fmt.Errorf("mqtt: %s: more than %d messages at once: narrow the filters", v.name(), maxCollected)
	}
	m := v.messages
	v.messages = nil
	return m, nil
}
