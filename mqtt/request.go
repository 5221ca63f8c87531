package mqtt

import (
	"context"
	"fmt"
)

// Request connects once, under a client id of its own, subscribes to
// responseTopic, publishes req and returns the first payload there that match
// accepts (nil: any), within ctx. The error names the broker and says what to
// check. o's will and subscriptions are not used.
func Request(ctx context.Context, o Options, req Message, responseTopic string, match func([]byte) bool) ([]byte, error) {
	return request(ctx, o, req, responseTopic, match, defaultTiming())
}

func request(ctx context.Context, o Options, req Message, responseTopic string, match func([]byte) bool, tm timing) ([]byte, error) {
	if err := checkTopic(req.Topic); err != nil {
		return nil, err
	}
	v, _, err := visitBroker(ctx, o, tm, 1, []string{responseTopic}, "")
	if err != nil {
		return nil, err
	}
	defer v.link.close()
	if len(req.Payload) > v.MaxPayload {
		return nil, fmt.Errorf("mqtt: request on %s: payload of %d bytes, at most %d", req.Topic, len(req.Payload), v.MaxPayload)
	}
	if err := v.link.await(ctx, v.link.paho.Publish(req.Topic, 1, req.Retained, req.Payload), "publish on "+req.Topic); err != nil {
		return nil, err
	}
	var answer []byte
	err = v.follow(ctx, func(m Message) bool {
		if m.Retained || m.Oversize || (match != nil && !match(m.Payload)) {
			return true
		}
		answer = m.Payload
		return false
	})
	switch {
	case err == nil:
		return answer, nil
	case ctx.Err() != nil:
		return nil, fmt.Errorf("mqtt: request on %s at %s: no answer on %s (%w): is the bridge running, with the same base topic, at this broker?",
			req.Topic, v.name(), responseTopic, context.Cause(ctx))
	}
	return nil, fmt.Errorf("mqtt: request on %s: %w", req.Topic, err)
}

// Watch connects once, under a client id of its own, and hands each message
// under filters to each, the retained ones first, until it returns false. The
// error says why it ended before that: ctx, or a broker that is gone. o's will
// and subscriptions are not used.
func Watch(ctx context.Context, o Options, filters []string, each func(Message) bool) error {
	v, _, err := visitBroker(ctx, o, defaultTiming(), 1, filters, "")
	if err != nil {
		return err
	}
	defer v.link.close()
	if err := v.follow(ctx, each); err != nil {
		return fmt.Errorf("mqtt: watch at %s: %w", v.name(), err)
	}
	return nil
}
