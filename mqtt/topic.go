package mqtt

import (
	"errors"
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"
)

// maxTopic is the longest topic in bytes: its length has two bytes on the wire
// (MQTT 3.1.1, 1.5.3).
const maxTopic = 65535

// checkTopic reports why a message can't be published on topic. Brokers answer
// such a message by cutting the connection, which would end every other topic's
// service too.
func checkTopic(topic string) error {
	switch {
	case topic == "":
		return errors.New("mqtt: topic is empty")
	case strings.ContainsAny(topic, "+#"):
		return fmt.Errorf("mqtt: topic %q: the wildcards + and # can't be published to", cut(topic))
	case topic[0] == '$':
		return fmt.Errorf("mqtt: topic %q: topics that begin with $ belong to the broker", cut(topic))
	}
	return checkText(topic)
}

// checkFilter reports why filter can't be subscribed to.
func checkFilter(filter string) error {
	if filter == "" {
		return errors.New("mqtt: filter is empty")
	}
	levels := strings.Split(filter, "/")
	for i, level := range levels {
		if strings.Contains(level, "+") && level != "+" {
			return fmt.Errorf("mqtt: filter %q: + must stand alone between slashes", cut(filter))
		}
		if strings.Contains(level, "#") && (level != "#" || i != len(levels)-1) {
			return fmt.Errorf("mqtt: filter %q: # must stand alone at the end", cut(filter))
		}
	}
	return checkText(filter)
}

// checkText holds what topics and filters share. Control characters and
// noncharacters are merely discouraged by MQTT 3.1.1 (1.5.3), but Mosquitto ends
// the connection over them (util_mosq.c, mosquitto_validate_utf8).
func checkText(s string) error {
	if len(s) > maxTopic {
		return fmt.Errorf("mqtt: topic %q: %d bytes long, at most %d", cut(s), len(s), maxTopic)
	}
	if !utf8.ValidString(s) {
		return fmt.Errorf("mqtt: topic %q: not valid UTF-8", cut(s))
	}
	for _, r := range s {
		if unicode.IsControl(r) || unicode.Is(unicode.Noncharacter_Code_Point, r) {
			return fmt.Errorf("mqtt: topic %q: contains the character %U", cut(s), r)
		}
	}
	return nil
}

// match reports whether a filter covers a topic (MQTT 3.1.1, 4.7).
func match(filter, topic string) bool {
	if strings.HasPrefix(topic, "$") && !strings.HasPrefix(filter, "$") {
		return false // the broker's own topics only by name
	}
	for {
		want, filters, moreFilter := strings.Cut(filter, "/")
		if want == "#" {
			return true
		}
		have, topics, moreTopic := strings.Cut(topic, "/")
		if want != "+" && want != have {
			return false
		}
		switch {
		case moreFilter && moreTopic:
			filter, topic = filters, topics
		case moreFilter:
			return filters == "#" // a/# also covers a
		default:
			return !moreTopic
		}
	}
}

// cut shortens text that came from elsewhere for an error or a log line.
func cut(s string) string {
	const limit = 120
	if len(s) <= limit {
		return s
	}
	return strings.ToValidUTF8(s[:limit], "") + "..."
}
