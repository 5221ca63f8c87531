package scene

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	paho "github.com/eclipse/paho.mqtt.golang"
	"github.com/eclipse/paho.mqtt.golang/packets"
)

// Seen is the newest message on a topic.
type Seen struct {
	Payload string
	At      time.Time
}

// Topics are the newest non-empty messages by topic, as since the watcher's
// last connection.
type Topics map[string]Seen

// Is reports whether topic holds payload.
func (t Topics) Is(topic, payload string) bool { return t[topic].Payload == payload }

// Object is the JSON object on topic; nil if there is none.
func (t Topics) Object(topic string) map[string]any {
	var o map[string]any
	if json.Unmarshal([]byte(t[topic].Payload), &o) != nil {
		return nil
	}
	return o
}

// Speakers are the ids of the speakers that have a state.
func (t Topics) Speakers() []string {
	var ids []string
	for topic := range t {
		if id, ok := strings.CutPrefix(topic, "resonate/player/"); ok {
			if id, ok := strings.CutSuffix(id, "/state"); ok {
				ids = append(ids, id)
			}
		}
	}
	slices.Sort(ids)
	return ids
}

// Watcher is an MQTT client that keeps what it sees.
type Watcher struct {
	Patience time.Duration // before a test gives up waiting; a minute unless changed

	tb     testing.TB
	url    string
	client paho.Client

	mu        sync.Mutex
	topics    Topics
	connected time.Time     // the newest connection
	news      chan struct{} // closed and replaced at each message and connection
	log       []string      // "topic payload", oldest first
	tap       func(topic, payload string, at time.Time)
}

// copies is a store of packets of its own: the one in memory shares them with a
// writer, and marks them as sent again.
type copies struct{ paho.Store }

func (s copies) Put(key string, p packets.ControlPacket) { s.Store.Put(key, own(p)) }

func (s copies) Get(key string) packets.ControlPacket { return own(s.Store.Get(key)) }

func own(p packets.ControlPacket) packets.ControlPacket {
	if publish, ok := p.(*packets.PublishPacket); ok {
		copied := *publish
		return &copied
	}
	return p
}

// again is how long a watcher waits before it tries anything again.
const again = 50 * time.Millisecond

// Watch connects a watcher, which reconnects by itself. tap, unless nil, is told
// of every message; it must not wait.
func Watch(tb testing.TB, url string, tap func(topic, payload string, at time.Time)) *Watcher {
	tb.Helper()
	w := &Watcher{Patience: patience, tb: tb, url: url, topics: Topics{}, news: make(chan struct{}), tap: tap}
	o := paho.NewClientOptions().AddBroker(strings.Replace(url, "mqtt://", "tcp://", 1)).
		SetClientID("watcher").SetAutoReconnect(true).SetMaxReconnectInterval(again).
		SetConnectRetry(true).SetConnectRetryInterval(again).
		SetStore(copies{paho.NewMemoryStore()})
	connected := make(chan struct{}, 1)
	o.SetOnConnectHandler(func(c paho.Client) {
		w.mu.Lock()
		clear(w.topics) // what a broker forgot is not there any more
		w.connected = time.Now()
		close(w.news)
		w.news = make(chan struct{})
		w.mu.Unlock()
		token := c.SubscribeMultiple(map[string]byte{"resonate/#": 1, "homeassistant/#": 1}, w.take)
		go func() { // ends with the token, at the latest with the client
			<-token.Done()
			select {
			case connected <- struct{}{}:
			default:
			}
		}()
	})
	w.client = paho.NewClient(o)
	w.client.Connect()
	tb.Cleanup(func() { w.client.Disconnect(0) })
	select {
	case <-connected:
	case <-time.After(patience):
		tb.Fatalf("watcher: no connection to %s", url)
	}
	return w
}

func (w *Watcher) take(_ paho.Client, m paho.Message) {
	now, payload := time.Now(), string(m.Payload())
	w.mu.Lock()
	defer w.mu.Unlock()
	w.topics[m.Topic()] = Seen{payload, now}
	if payload == "" {
		delete(w.topics, m.Topic())
	}
	w.log = append(w.log, m.Topic()+" "+payload)
	close(w.news)
	w.news = make(chan struct{})
	if w.tap != nil {
		w.tap(m.Topic(), payload, now)
	}
}

// Until waits until what was seen meets ok, and returns a copy of it.
func (w *Watcher) Until(what string, ok func(Topics) bool) Topics {
	w.tb.Helper()
	deadline := time.NewTimer(w.Patience)
	defer deadline.Stop()
	for {
		w.mu.Lock()
		if ok(w.topics) {
			defer w.mu.Unlock()
			return maps.Clone(w.topics)
		}
		news := w.news
		w.mu.Unlock()
		select {
		case <-news:
		case <-deadline.C:
			w.tb.Fatalf("not within %v: %s; the last messages:\n%s", w.Patience, what, w.tail())
		}
	}
}

// Look shows what was seen, for the time of the call.
func (w *Watcher) Look(at func(Topics)) {
	w.mu.Lock()
	defer w.mu.Unlock()
	at(w.topics)
}

// Is waits until topic holds payload.
func (w *Watcher) Is(topic, payload string) {
	w.tb.Helper()
	w.Until(topic+" is "+payload, func(t Topics) bool { return t.Is(topic, payload) })
}

// steady leaves out of retained topics what tells a time or counts.
func steady(topics map[string]string) map[string]string {
	out := maps.Clone(topics)
	maps.DeleteFunc(out, func(topic, _ string) bool {
		return strings.HasSuffix(topic, "/diag") || slices.Contains([]string{
			"resonate/bridge/info", "resonate/bridge/devices", "resonate/bridge/lease",
		}, topic)
	})
	return out
}

// differences are what got has else than want.
func differences(want, got map[string]string) []string {
	var out []string
	for topic, payload := range steady(want) {
		if g := got[topic]; g != payload {
			from := 0 // where they begin to differ, and a little before
			for from < min(len(g), len(payload)) && g[from] == payload[from] {
				from++
			}
			from = max(0, from-40)
			out = append(out, fmt.Sprintf("%s: got ...%.120q, want ...%.120q", topic, g[from:], payload[from:]))
		}
	}
	for topic := range want {
		if got[topic] == "" {
			out = append(out, fmt.Sprintf("%s: got nothing", topic))
		}
	}
	for topic, payload := range got {
		if want[topic] == "" {
			out = append(out, fmt.Sprintf("%s: got %.120q, want nothing", topic, payload))
		}
	}
	slices.Sort(out)
	return out
}

// Settles waits until the broker retains want and nothing else: the same
// topics, and the same payloads where they tell no time. The broker may be
// away at first.
func (w *Watcher) Settles(want map[string]string) {
	w.tb.Helper()
	for deadline := time.Now().Add(w.Patience); ; {
		got, err := retained(w.url)
		if err == nil {
			differ := differences(want, got)
			if len(differ) == 0 {
				return
			}
			err = errors.New(strings.Join(differ, "\n"))
		}
		if time.Now().After(deadline) {
			w.tb.Fatalf("not within %v: everything is as before:\n%v", w.Patience, err)
		}
		time.Sleep(100 * time.Millisecond)
	}
}

// Reconnected waits until the watcher has a connection that is newer than
// since: what was seen before may be of a broker that is no more.
func (w *Watcher) Reconnected(since time.Time) {
	w.tb.Helper()
	w.Until("the watcher is connected again", func(Topics) bool { return w.connected.After(since) })
}

// Send publishes a command.
func (w *Watcher) Send(topic, payload string) {
	w.tb.Helper()
	w.publish(topic, payload, false, patience)
}

// Retain publishes a message that is retained.
func (w *Watcher) Retain(topic, payload string) {
	w.tb.Helper()
	w.publish(topic, payload, true, w.Patience)
}

// publish does it again when the connection broke under it.
func (w *Watcher) publish(topic, payload string, retained bool, patience time.Duration) {
	w.tb.Helper()
	for deadline := time.Now().Add(patience); ; time.Sleep(again) {
		token := w.client.Publish(topic, 1, retained, payload)
		done := token.WaitTimeout(time.Until(deadline))
		if done && token.Error() == nil {
			return
		}
		if !done || time.Now().After(deadline) {
			w.tb.Fatalf("publish on %s: %v", topic, token.Error())
		}
	}
}

// Post publishes a command and does not wait for the broker.
func (w *Watcher) Post(topic, payload string) { w.client.Publish(topic, 1, false, payload) }

// Ask sends a JSON request with a transaction and waits for its answer, which
// must be "ok"; it returns the answer's data.
func (w *Watcher) Ask(topic, answer string, request map[string]any) map[string]any {
	w.tb.Helper()
	w.mu.Lock()
	transaction := len(w.log)
	w.mu.Unlock()
	request["transaction"] = transaction
	payload, err := json.Marshal(request)
	if err != nil {
		w.tb.Fatal(err)
	}
	w.Send(topic, string(payload))
	got := w.Until("an answer to "+string(payload), func(t Topics) bool {
		return t.Object(answer)["transaction"] == float64(transaction)
	}).Object(answer)
	if got["status"] != "ok" {
		w.tb.Fatalf("%s %s: got %v, want ok", topic, payload, got)
	}
	data, _ := got["data"].(map[string]any)
	return data
}

// Mark is a place in the log of messages.
func (w *Watcher) Mark() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.log)
}

// Since are the messages after a mark, each as "topic payload".
func (w *Watcher) Since(mark int) []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.log[mark:])
}

func (w *Watcher) tail() string {
	const lines, width = 20, 160
	log := w.Since(max(0, w.Mark()-lines))
	for i, line := range log {
		if len(line) > width {
			log[i] = line[:width] + "..."
		}
	}
	return strings.Join(log, "\n")
}
