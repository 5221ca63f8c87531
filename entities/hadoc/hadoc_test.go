package hadoc

import (
	"strings"
	"testing"
)

const good = `{"device": {"identifiers": ["resonate_a"], "name": "Kitchen"}, "origin": {"name": "resonate"},
 "availability": [{"topic": "resonate/bridge/state"}], "state_topic": "resonate/player/a/state",
 "components": {"volume": {"platform": "number", "unique_id": "a_volume", "name": "Volume", "value_template": "{{ value_json.volume }}",
  "command_topic": "resonate/player/a/set/volume", "qos": 1, "min": 0, "max": 100, "step": 1, "mode": "slider"}}}`

func TestCheck(t *testing.T) {
	sensor := func(rest string) [2]string {
		return [2]string{`"components": {`, `"components": {"x": {"platform": "sensor", "unique_id": "x", "name": "X"` + rest + `}, `}
	}
	const valued = `, "value_template": "{{ value_json.x }}"`
	for _, tc := range []struct {
		name    string
		replace [2]string
		want    string // in the only error; empty: no error
	}{
		{"good", [2]string{}, ""},
		{"root tilde", [2]string{`"device":`, `"~": "resonate", "device":`}, `key "~" is not allowed`},
		{"unknown device key", [2]string{`"name": "Kitchen"`, `"name": "Kitchen", "area": "x"`}, `device: key "area" is not allowed`},
		{"empty device text", [2]string{`"name": "Kitchen"`, `"name": "Kitchen", "model": ""`}, "device.model is empty"},
		{"null device text", [2]string{`"name": "Kitchen"`, `"name": "Kitchen", "model": null`}, "device.model is null"},
		{"no identifiers", [2]string{`["resonate_a"]`, `[]`}, "no identifiers"},
		{"address not http", [2]string{`"name": "Kitchen"`, `"name": "Kitchen", "configuration_url": "kitchen"`}, "not an http address"},
		{"unknown origin key", [2]string{`"name": "resonate"`, `"name": "resonate", "sw": "1"`}, `origin: key "sw"`},
		{"origin without name", [2]string{`"name": "resonate"`, `"sw_version": "1"`}, "origin has no name"},
		{"unknown via", [2]string{`"name": "Kitchen"`, `"name": "Kitchen", "via_device": "b"`}, "via_device"},
		{"unknown platform", [2]string{`"platform": "number"`, `"platform": "media_player"`}, "not one of the floor release"},
		{"no unique id", [2]string{`"unique_id": "a_volume", `, ``}, "no unique_id"},
		{"unique id twice", [2]string{`"components": {`, `"components": {"b": {"platform": "button", "unique_id": "a_volume", "name": "B", "command_topic": "resonate/x", "qos": 1}, `}, "is that of"},
		{"name repeats the device", [2]string{`"name": "Volume"`, `"name": "Kitchen volume"`}, "repeats the device's name"},
		{"component key unknown", [2]string{`"qos": 1`, `"qos": 1, "object_id": "x"`}, `key "object_id" is not allowed`},
		{"bad category", [2]string{`"qos": 1`, `"qos": 1, "entity_category": "diagnostics"`}, "neither config nor diagnostic"},
		{"sensor as config", sensor(valued + `, "entity_category": "config"`), "can't be of the category config"},
		{"whole document as state", sensor(``), "without value_template"},
		{"enum without options", sensor(valued + `, "device_class": "enum"`), "need each other"},
		{"enum with unit", sensor(valued + `, "device_class": "enum", "options": ["a"], "unit_of_measurement": "s"`), "no unit"},
		{"select of none", [2]string{`"components": {`, `"components": {"s": {"platform": "select", "unique_id": "s", "name": "S", "command_topic": "resonate/s", "qos": 1, "value_template": "{{ 1 }}", "options": ["NONE"]}, `}, "means no option"},
		{"option twice", [2]string{`"components": {`, `"components": {"s": {"platform": "select", "unique_id": "s", "name": "S", "command_topic": "resonate/s", "qos": 1, "value_template": "{{ 1 }}", "options": ["a", "a"]}, `}, "comes twice"},
		{"event without topic", [2]string{`"components": {`, `"components": {"e": {"platform": "event", "unique_id": "e", "name": "E", "event_types": ["a"]}, `}, "a state_topic of its own"},
		{"min above max", [2]string{`"min": 0`, `"min": 200`}, "not below max"},
		{"retained command", [2]string{`"qos": 1`, `"qos": 1, "retain": true`}, "retained commands"},
		{"command at qos 0", [2]string{`"qos": 1`, `"qos": 0`}, "needs qos 1"},
		{"foreign topic", [2]string{`resonate/player/a/set/volume`, `other/volume`}, `"other/volume", want one below resonate`},
		{"wildcard", [2]string{`resonate/player/a/set/volume`, `resonate/player/+/set/volume`}, "without wildcards"},
		{"broken template", [2]string{`{{ value_json.volume }}`, `{{ value_json.volume }`}, "is not a template"},
		{"both availabilities", [2]string{`"qos": 1`, `"qos": 1, "availability_topic": "resonate/x"`}, "exclude each other"},
		{"two main entities", [2]string{`"components": {`, `"components": {"x": {"platform": "button", "unique_id": "x", "name": null, "command_topic": "resonate/x", "qos": 1}, "y": {"platform": "button", "unique_id": "y", "name": null, "command_topic": "resonate/y", "qos": 1}, `}, "at most one main entity"},
		{"text of an odd mode", [2]string{`"components": {`, `"components": {"t": {"platform": "text", "unique_id": "t", "name": "T", "command_topic": "resonate/t", "qos": 1, "value_template": "{{ 1 }}", "mode": "secret"}, `}, "neither text nor password"},
		{"broken template of availability", [2]string{`{"topic": "resonate/bridge/state"}`, `{"topic": "resonate/bridge/state", "value_template": "{{ 'x }}"}`}, "is not a template"},
		{"removal", [2]string{`"components": {`, `"components": {"x": {"platform": "switch"}, `}, ""},
		{"not JSON", [2]string{`{"device"`, `"device"`}, "not a JSON object"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			doc := good
			if tc.replace[0] != "" {
				doc = strings.Replace(good, tc.replace[0], tc.replace[1], 1)
				if doc == good {
					t.Fatalf("%q is not in the good document", tc.replace[0])
				}
			}
			got := Check("homeassistant", "resonate", map[string][]byte{"homeassistant/device/resonate_a/config": []byte(doc)})
			switch {
			case tc.want == "" && len(got) > 0:
				t.Errorf("got %v, want no error", got)
			case tc.want != "" && (len(got) != 1 || !strings.Contains(got[0].Error(), tc.want)):
				t.Errorf("got %v, want one error with %q", got, tc.want)
			}
		})
	}
	for _, topic := range []string{"homeassistant/device/a b/config", "homeassistant/device/é/config", "other/device/a/config"} {
		if got := Check("homeassistant", "resonate", map[string][]byte{topic: []byte(good)}); len(got) != 1 {
			t.Errorf("topic %q: got %v, want one error", topic, got)
		}
	}
}
