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
	for {
		select {
		case <-v.news:
			messages, err := v.take()
			if err != nil {
				return nil, err
			}
			for _, m := range messages {
				if !m.Retained && !m.Oversize && (match == nil || match(m.Payload)) {
					return m.Payload, nil
				}
			}
		case err := <-v.link.lost:
			return nil, fmt.Errorf("mqtt: request on %s: %w", req.Topic, v.link.ended(err))
		case <-ctx.Done():
			return nil, fmt.Errorf("mqtt: request on %s at %s: no answer on %s (%w): is the bridge running, with the same base topic, at this broker?",
				req.Topic, v.name(), responseTopic, context.Cause(ctx))
		}
	}
}
