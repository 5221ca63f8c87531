package mqtt

import (
	"cmp"
	"maps"
	"slices"
	"strings"
	"sync"

	mochi "github.com/mochi-mqtt/server/v2"
	"github.com/mochi-mqtt/server/v2/packets"
)

// hook is what the embedded broker does otherwise than the server it is made of.
//
// It lets everybody do everything; without a hook the server refuses all.
//
// And it delivers the retained messages to new subscribers itself: the server
// looks for them by walking its index of topics without the lock under which
// publishers write there (mochi-mqtt v2.7.9, topics.go, retainPath; found by the
// race detector), and drops what exceeds its queue for one client. The hook
// writes them to the subscriber's connection directly, at QoS 0, on the
// goroutine that serves this subscriber.
type hook struct {
	mochi.HookBase
	retained *packets.Packets // the server's store, safe for concurrent use

	mu   sync.Mutex
	wait map[*mochi.Client][]packets.Subscription // to be served after their SUBACK
}

func newHook(server *mochi.Server) *hook {
	return &hook{retained: server.Topics.Retained, wait: make(map[*mochi.Client][]packets.Subscription)}
}

// never is the Retain Handling with which the server delivers nothing itself
// (MQTT 5, 3.8.3.1).
const never = 2

// ID names the hook.
func (*hook) ID() string { return "resonate" }

// Provides names the events that the hook handles.
func (*hook) Provides(b byte) bool {
	switch b {
	case mochi.OnConnectAuthenticate, mochi.OnACLCheck, mochi.OnSubscribe, mochi.OnPacketSent, mochi.OnDisconnect:
		return true
	}
	return false
}

// OnConnectAuthenticate lets every client in.
func (*hook) OnConnectAuthenticate(*mochi.Client, packets.Packet) bool { return true }

// OnACLCheck allows every topic.
func (*hook) OnACLCheck(*mochi.Client, string, bool) bool { return true }

// OnSubscribe keeps the server from delivering retained messages, and notes what
// is to be delivered.
func (h *hook) OnSubscribe(cl *mochi.Client, pk packets.Packet) packets.Packet {
	filters := slices.Clone(pk.Filters)
	var wait []packets.Subscription
	for i, sub := range filters {
		_, known := cl.State.Subscriptions.Get(sub.Filter)
		valid := mochi.IsValidFilter(sub.Filter, false) && !mochi.IsSharedFilter(sub.Filter)
		if valid && sub.RetainHandling != never && (sub.RetainHandling == 0 || !known) {
			wait = append(wait, sub)
		}
		filters[i].RetainHandling = never
	}
	pk.Filters = filters
	h.mu.Lock()
	h.wait[cl] = wait
	h.mu.Unlock()
	return pk
}

// OnPacketSent delivers the retained messages once the SUBACK is out.
func (h *hook) OnPacketSent(cl *mochi.Client, pk packets.Packet, _ []byte) {
	if pk.FixedHeader.Type != packets.Suback {
		return
	}
	for _, sub := range h.take(cl) {
		for _, stored := range h.find(sub.Filter) {
			if sub.NoLocal && stored.Origin == cl.ID {
				continue
			}
			out := stored.Copy(false)
			out.FixedHeader.Retain = true
			out.FixedHeader.Qos = 0
			if sub.Identifier > 0 {
				out.Properties.SubscriptionIdentifier = []int{sub.Identifier}
			}
			if cl.WritePacket(out) != nil {
				return // the connection is gone, and the server notices by itself
			}
		}
	}
}

// OnDisconnect forgets the client.
func (h *hook) OnDisconnect(cl *mochi.Client, _ error, _ bool) { h.take(cl) }

func (h *hook) take(cl *mochi.Client) []packets.Subscription {
	h.mu.Lock()
	defer h.mu.Unlock()
	wait := h.wait[cl]
	delete(h.wait, cl)
	return wait
}

// find returns the retained messages that a filter covers, by topic.
func (h *hook) find(filter string) []packets.Packet {
	if !strings.ContainsAny(filter, "+#") {
		if pk, ok := h.retained.Get(filter); ok {
			return []packets.Packet{pk}
		}
		return nil
	}
	all := h.retained.GetAll()
	maps.DeleteFunc(all, func(topic string, _ packets.Packet) bool { return !match(filter, topic) })
	return slices.SortedFunc(maps.Values(all), func(a, b packets.Packet) int { return cmp.Compare(a.TopicName, b.TopicName) })
}
