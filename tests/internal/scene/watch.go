package scene

import (
	"encoding/json"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	paho "github.com/eclipse/paho.mqtt.golang"
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
	tb     testing.TB
	client paho.Client

	mu     sync.Mutex
	topics Topics
	news   chan struct{} // closed and replaced at each message
	log    []string      // "topic payload", oldest first
	tap    func(topic, payload string, at time.Time)
}

// Watch connects a watcher, which reconnects by itself. tap, unless nil, is told
// of every message; it must not wait.
func Watch(tb testing.TB, url string, tap func(topic, payload string, at time.Time)) *Watcher {
	tb.Helper()
	w := &Watcher{tb: tb, topics: Topics{}, news: make(chan struct{}), tap: tap}
	const again = 50 * time.Millisecond
	o := paho.NewClientOptions().AddBroker(strings.Replace(url, "mqtt://", "tcp://", 1)).
		SetClientID("watcher").SetAutoReconnect(true).SetMaxReconnectInterval(again).
		SetConnectRetry(true).SetConnectRetryInterval(again)
	connected := make(chan struct{}, 1)
	o.SetOnConnectHandler(func(c paho.Client) {
		w.mu.Lock()
		clear(w.topics) // what a broker forgot is not there any more
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
	deadline := time.NewTimer(patience)
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
			w.tb.Fatalf("not within %v: %s; the last messages:\n%s", patience, what, w.tail())
		}
	}
}

// Is waits until topic holds payload.
func (w *Watcher) Is(topic, payload string) {
	w.tb.Helper()
	w.Until(topic+" is "+payload, func(t Topics) bool { return t.Is(topic, payload) })
}

// Send publishes a command.
func (w *Watcher) Send(topic, payload string) {
	w.tb.Helper()
	if token := w.client.Publish(topic, 1, false, payload); !token.WaitTimeout(patience) || token.Error() != nil {
		w.tb.Fatalf("publish on %s: %v", topic, token.Error())
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
