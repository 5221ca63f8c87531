package mqtt

import (
	"bytes"
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"
)

// Sweep waits for the broker if need be and returns the retained messages under
// filters, as Collect does. It is for the start, to find what an earlier life
// left behind; the caller decides what of it to clear.
func Sweep(ctx context.Context, o Options, filters []string, settle time.Duration) ([]Message, error) {
	return sweep(ctx, o, filters, settle, defaultTiming())
}

func sweep(ctx context.Context, o Options, filters []string, settle time.Duration, tm timing) ([]Message, error) {
	retry := tm.retryMin
	for {
		found, err := collect(ctx, o, filters, settle, tm)
		var failed *connectError
		if err == nil || ctx.Err() != nil || !errors.As(err, &failed) {
			return found, err
		}
		select {
		case <-ctx.Done():
			return nil, err
		case <-time.After(retry):
		}
		retry = min(2*retry, tm.retryMax)
	}
}

// Collect connects once, under a client id of its own, and returns the retained
// messages under filters, sorted by topic: the newest payload where it changed
// meanwhile, without a topic that was cleared meanwhile. It takes the answer as
// complete when a nonce on o.SelftestTopic has come back and nothing else came
// for settle; without that topic, when nothing came for settle. Payloads larger
// than o.MaxPayload are reported as Oversize. The error names the broker and says
// what to check. o's will and subscriptions are not used.
func Collect(ctx context.Context, o Options, filters []string, settle time.Duration) ([]Message, error) {
	return collect(ctx, o, filters, settle, defaultTiming())
}

func collect(ctx context.Context, o Options, filters []string, settle time.Duration, tm timing) ([]Message, error) {
	v, granted, err := visitBroker(ctx, o, tm, 0, filters, o.SelftestTopic)
	if err != nil {
		return nil, err
	}
	defer v.link.close()

	nonce := []byte(rand.Text())
	if granted {
		v.link.paho.Publish(o.SelftestTopic, 0, false, nonce) // if it is lost, its absence tells
	}
	last := time.Now() // when something came
	quiet := time.NewTimer(settle)
	defer quiet.Stop()
	found := make(map[string]Message)
	marked := !granted
	for {
		select {
		case <-v.news:
			messages, err := v.take()
			if err != nil {
				return nil, err
			}
			for _, m := range messages {
				if m.Topic == o.SelftestTopic {
					marked = marked || bytes.Equal(m.Payload, nonce)
				} else {
					keep(found, m)
				}
			}
			last = time.Now()
			quiet.Reset(settle)
		case <-quiet.C:
			// Without the nonce a busy broker may only be slow; under an access list
			// that forbids to publish it, it never comes.
			if marked || time.Since(last) > tm.selftest {
				return slices.SortedFunc(maps.Values(found), func(a, b Message) int { return cmp.Compare(a.Topic, b.Topic) }), nil
			}
			quiet.Reset(settle)
		case err := <-v.link.lost:
			return nil, fmt.Errorf("mqtt: collect: %w", v.link.ended(err))
		case <-ctx.Done():
			return nil, fmt.Errorf("mqtt: collect from %s: %w", v.name(), context.Cause(ctx))
		}
	}
}

// keep books a received message. A live message on a topic that is known to be
// retained is the stored one by now, and an empty one ends it.
func keep(found map[string]Message, m Message) {
	_, known := found[m.Topic]
	switch {
	case len(m.Payload) == 0 && !m.Oversize:
		delete(found, m.Topic)
	case m.Retained || known:
		m.Retained = true
		found[m.Topic] = m
	}
}
