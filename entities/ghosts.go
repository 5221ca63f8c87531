package entities

import (
	"encoding/json"
	"slices"
	"strings"

	"resonatebridge/mqtt"
)

// GhostFilters are the filters under which retained topics of ours can lie.
func GhostFilters(o Options) []string {
	o = o.withDefaults()
	return []string{o.BaseTopic + "/player/+/+", o.BaseTopic + "/group/+/+", o.configTopic("+")}
}

// Ghosts are the topics among found, retained at the broker, that this bridge
// wrote once and that are not wanted (see [Render]) now: of players and groups that were forgotten while it
// was down, or of other options. Discovery documents come first, since Home Assistant
// should not see their states go. What isn't ours is left alone: commands that
// someone retained, documents of other programs, and other bridges' topics.
func Ghosts(o Options, found []mqtt.Message, wanted map[string][]byte) []string {
	o = o.withDefaults()
	var documents, states []string
	for _, m := range found {
		if _, ok := wanted[m.Topic]; ok || len(m.Payload) == 0 {
			continue
		}
		switch {
		case o.isOurDocument(m):
			documents = append(documents, m.Topic)
		case o.isOurState(m.Topic):
			states = append(states, m.Topic)
		}
	}
	slices.Sort(documents)
	slices.Sort(states)
	return append(documents, states...)
}

// isOurDocument reports whether m is a discovery document that we wrote under
// this base topic.
func (o Options) isOurDocument(m mqtt.Message) bool {
	id, ok := strings.CutPrefix(m.Topic, o.DiscoveryPrefix+"/device/")
	if !ok || !strings.HasPrefix(id, o.idPrefix()) {
		return false
	}
	var doc struct {
		Origin struct {
			Name string `json:"name"`
		} `json:"origin"`
		StateTopic   string `json:"state_topic"`
		Availability []struct {
			Topic string `json:"topic"`
		} `json:"availability"`
	}
	if json.Unmarshal(m.Payload, &doc) != nil || doc.Origin.Name != originName {
		return false
	}
	for _, a := range doc.Availability {
		if a.Topic == o.bridgeTopic()+"/state" {
			return true
		}
	}
	topic, ok := strings.CutPrefix(doc.StateTopic, o.BaseTopic+"/")
	kind, rest, _ := strings.Cut(topic, "/")
	_, leaf, _ := strings.Cut(rest, "/")
	return ok && (topic == "bridge/info" || leaf == "state" && (kind == "player" || kind == "group"))
}

// isOurState reports whether topic is one that only a bridge writes.
func (o Options) isOurState(topic string) bool {
	rest, ok := strings.CutPrefix(topic, o.BaseTopic+"/")
	kind, rest, _ := strings.Cut(rest, "/")
	id, leaf, _ := strings.Cut(rest, "/")
	return ok && id != "" && slices.Contains(leaves(kind), leaf)
}

// leaves are the retained topics of a player or group.
func leaves(kind string) []string {
	common := []string{"availability", "state", "volume", "mute", "playback", "title", "artist", "album", "duration", "position", "art"}
	switch kind {
	case "player":
		return append(common, "group", "connection", "delay", "diag", "trust", "pairing")
	case "group":
		return append(common, "members")
	}
	return nil
}
