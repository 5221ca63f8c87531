// Package hadoc checks Home Assistant's MQTT device documents as strictly as
// the strictest release would, and where Home Assistant is lenient but drops
// something, as if it were strict.
//
// The rules are those of homeassistant/components/mqtt/{schemas,discovery}.py
// and of its platforms; the floor is Home Assistant 2024.12.
package hadoc

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"unicode/utf8"
)

// maxDocument is the largest document, in bytes; brokers cut the connection
// over packets of 2 MB, and nothing here needs as much.
const maxDocument = 256 << 10

// maxState is the longest state and select option, in characters.
const maxState = 255

// Check returns everything that is wrong with docs, which maps discovery topics
// to payloads of one bridge with this discovery prefix and base topic.
func Check(prefix, base string, docs map[string][]byte) []error {
	c := &checker{base: base, ids: make(map[string]string), devices: make(map[string]string)}
	topic := regexp.MustCompile("^" + regexp.QuoteMeta(prefix) + "/device/[a-zA-Z0-9_-]+/config$")
	for _, t := range slices.Sorted(maps.Keys(docs)) {
		c.where = t
		if !topic.MatchString(t) {
			c.fail("the topic is not %s/device/[a-zA-Z0-9_-]+/config", prefix)
		}
		c.document(docs[t])
	}
	for _, t := range slices.Sorted(maps.Keys(c.via)) {
		if _, ok := c.devices[c.via[t]]; !ok {
			c.where = t
			c.fail("via_device %q is no device of these documents", c.via[t])
		}
	}
	return c.errs
}

type checker struct {
	base    string
	where   string
	ids     map[string]string // unique_id to place
	devices map[string]string // identifier to place
	via     map[string]string // place to via_device
	errs    []error
}

func (c *checker) fail(format string, args ...any) {
	c.errs = append(c.errs, fmt.Errorf("%s: %s", c.where, fmt.Sprintf(format, args...)))
}

// keys splits at white space.
func keys(s string) []string { return strings.Fields(s) }

func rootKeys() []string {
	return keys("device origin components availability availability_mode availability_topic availability_template " +
		"payload_available payload_not_available state_topic command_topic qos encoding")
}

func deviceKeys() []string {
	return keys("identifiers connections manufacturer model model_id name hw_version sw_version serial_number via_device suggested_area configuration_url")
}

// platformKeys are the keys of each platform beyond the common ones.
func platformKeys() map[string][]string {
	return map[string][]string{
		"sensor":        keys("state_topic value_template device_class state_class options unit_of_measurement suggested_display_precision expire_after force_update"),
		"binary_sensor": keys("state_topic value_template device_class payload_on payload_off off_delay expire_after force_update"),
		"number":        keys("state_topic value_template device_class command_topic command_template min max step mode unit_of_measurement payload_reset optimistic retain"),
		"switch":        keys("state_topic value_template device_class command_topic command_template payload_on payload_off state_on state_off optimistic retain"),
		"select":        keys("state_topic value_template command_topic command_template options optimistic retain"),
		"button":        keys("device_class command_topic command_template payload_press retain"),
		"event":         keys("state_topic value_template device_class event_types"),
		"image":         keys("image_topic url_topic url_template content_type image_encoding"),
		"text":          keys("state_topic value_template command_topic command_template min max mode pattern retain"),
		"notify":        keys("command_topic command_template retain"),
	}
}

func commonKeys() []string {
	return keys("platform unique_id name icon entity_category enabled_by_default default_entity_id availability availability_mode availability_topic " +
		"qos encoding json_attributes_topic json_attributes_template")
}

type object = map[string]any

func (c *checker) document(payload []byte) {
	if len(payload) > maxDocument {
		c.fail("%d bytes, want at most %d", len(payload), maxDocument)
	}
	if !utf8.Valid(payload) {
		c.fail("not valid UTF-8")
	}
	var root object
	dec := json.NewDecoder(bytes.NewReader(payload))
	if err := dec.Decode(&root); err != nil {
		c.fail("not a JSON object: %v", err)
		return
	}
	c.allowed("the root", root, rootKeys())
	c.noBlanks("", root)
	device, _ := root["device"].(object)
	c.device(device)
	if origin, ok := root["origin"].(object); !ok {
		c.fail("origin is missing")
	} else {
		c.allowed("origin", origin, keys("name sw_version support_url"))
		if text(origin, "name") == "" {
			c.fail("origin has no name")
		}
		c.url("support_url", origin)
	}
	c.availability("the root", root)
	c.topics("the root", root)
	components, ok := root["components"].(object)
	if !ok || len(components) == 0 {
		c.fail("components is missing or empty")
	}
	mains := 0
	for _, key := range slices.Sorted(maps.Keys(components)) {
		component, ok := components[key].(object)
		if !ok {
			c.fail("component %s is not an object", key)
			continue
		}
		if name, has := component["name"]; has && name == nil {
			mains++
		}
		c.component(key, component, root, text(device, "name"))
	}
	if mains > 1 {
		c.fail("%d components have no name, want at most one main entity", mains)
	}
}

func (c *checker) device(device object) {
	if device == nil {
		c.fail("device is missing")
		return
	}
	c.allowed("device", device, deviceKeys())
	c.url("configuration_url", device)
	ids, _ := device["identifiers"].([]any)
	if len(ids) == 0 {
		c.fail("device has no identifiers")
	}
	for _, id := range ids {
		s, ok := id.(string)
		if !ok || s == "" {
			c.fail("identifier %v is not a text", id)
		}
		if other, taken := c.devices[s]; taken {
			c.fail("identifier %q is that of %s too", s, other)
		}
		c.devices[s] = c.where
	}
	if text(device, "name") == "" {
		c.fail("device has no name")
	}
	if via := text(device, "via_device"); via != "" {
		if c.via == nil {
			c.via = make(map[string]string)
		}
		c.via[c.where] = via
	}
}

func (c *checker) component(key string, component, root object, deviceName string) {
	platform := text(component, "platform")
	own, known := platformKeys()[platform]
	if !known {
		c.fail("component %s: platform %q is not one of the floor release", key, platform)
		return
	}
	if len(component) == 1 {
		return // removes the component
	}
	at := "component " + key
	c.allowed(at, component, append(own, commonKeys()...))
	for k, v := range component {
		if v == nil && k != "name" || v == "" {
			c.fail("%s: %s is empty, leave it out", at, k)
		}
	}
	id := text(component, "unique_id")
	if id == "" {
		c.fail("%s has no unique_id", at)
	} else if other, taken := c.ids[id]; taken {
		c.fail("%s: unique_id %q is that of %s too", at, id, other)
	}
	c.ids[id] = c.where + " " + key
	if name := text(component, "name"); name != "" && deviceName != "" && strings.HasPrefix(strings.ToLower(name), strings.ToLower(deviceName)+" ") {
		c.fail("%s: name %q repeats the device's name", at, name)
	}
	switch category := component["entity_category"]; {
	case category == nil:
	case category != "config" && category != "diagnostic":
		c.fail("%s: entity_category %v is neither config nor diagnostic", at, category)
	case category == "config" && slices.Contains([]string{"sensor", "binary_sensor", "event", "image"}, platform):
		c.fail("%s: a %s can't be of the category config", at, platform)
	}
	c.availability(at, component)
	if _, both := root["availability"]; both && component["availability_topic"] != nil {
		c.fail("%s: availability_topic and the inherited availability exclude each other", at)
	}
	c.topics(at, component)
	for _, k := range []string{"value_template", "command_template", "json_attributes_template"} {
		c.template(at, k, text(component, k))
	}
	if component["retain"] == true {
		c.fail("%s: retained commands would be carried out again at each connect", at)
	}
	if text(component, "command_topic") != "" && component["qos"] != 1.0 {
		c.fail("%s: a command needs qos 1 of its own; the inherited one is not applied before 2026.5", at)
	}
	stateful := slices.Contains(own, "state_topic") && platform != "event"
	if stateful && text(component, "state_topic") == "" {
		if text(root, "state_topic") == "" {
			c.fail("%s has no state_topic", at)
		}
		if text(component, "value_template") == "" {
			c.fail("%s: without value_template its state would be the whole inherited document", at)
		}
	}
	c.platform(at, platform, component)
}

// platform checks what only one platform wants.
func (c *checker) platform(at, platform string, component object) {
	options, _ := component["options"].([]any)
	if slices.Contains([]string{"number", "switch", "select", "button", "text", "notify"}, platform) && text(component, "command_topic") == "" {
		c.fail("%s: a %s needs a command_topic", at, platform)
	}
	switch platform {
	case "select":
		c.options(at, options, true)
	case "sensor":
		enum := text(component, "device_class") == "enum"
		if enum != (len(options) > 0) {
			c.fail("%s: options and the device class enum need each other", at)
		}
		if enum && len(options) > 0 {
			c.options(at, options, false)
			if component["unit_of_measurement"] != nil || component["state_class"] != nil {
				c.fail("%s: an enum has no unit and no state class", at)
			}
		}
	case "number":
		low, okLow := component["min"].(float64)
		high, okHigh := component["max"].(float64)
		step, okStep := component["step"].(float64)
		if !okLow || !okHigh || low >= high {
			c.fail("%s: min %v is not below max %v", at, component["min"], component["max"])
		}
		if !okStep || step < 0.001 {
			c.fail("%s: step %v, want at least 0.001", at, component["step"])
		}
		if !slices.Contains([]string{"slider", "box", "auto"}, text(component, "mode")) {
			c.fail("%s: mode %v", at, component["mode"])
		}
	case "text":
		if high, ok := component["max"].(float64); ok && high > maxState {
			c.fail("%s: max %v, want at most %d", at, high, maxState)
		}
		if mode := component["mode"]; mode != nil && mode != "text" && mode != "password" {
			c.fail("%s: mode %v is neither text nor password", at, mode)
		}
	case "event":
		types, _ := component["event_types"].([]any)
		if text(component, "state_topic") == "" {
			c.fail("%s: an event needs a state_topic of its own", at)
		}
		c.options(at, types, false)
	case "image":
		if component["url_topic"] != nil && component["content_type"] != nil {
			c.fail("%s: content_type and url_topic exclude each other", at)
		}
	}
}

func (c *checker) options(at string, options []any, choice bool) {
	if len(options) == 0 {
		c.fail("%s has no options", at)
	}
	seen := make(map[string]bool)
	for _, o := range options {
		s, ok := o.(string)
		switch {
		case !ok || s == "":
			c.fail("%s: option %v is not a text", at, o)
		case seen[s]:
			c.fail("%s: option %q comes twice", at, s)
		case choice && strings.EqualFold(s, "none"):
			c.fail("%s: option %q means no option", at, s)
		case utf8.RuneCountInString(s) > maxState:
			c.fail("%s: option %q is longer than %d characters", at, s, maxState)
		case strings.ContainsAny(s, "\r\n"):
			c.fail("%s: option %q has more than one line", at, s)
		}
		seen[s] = true
	}
}

func (c *checker) availability(at string, o object) {
	list, has := o["availability"]
	if !has {
		return
	}
	if o["availability_topic"] != nil {
		c.fail("%s: availability and availability_topic exclude each other", at)
	}
	entries, _ := list.([]any)
	if len(entries) == 0 {
		c.fail("%s: availability is not a list of topics", at)
	}
	for _, e := range entries {
		entry, _ := e.(object)
		c.allowed(at+": availability", entry, keys("topic payload_available payload_not_available value_template"))
		c.topic(at+": availability", text(entry, "topic"))
		c.template(at+": availability", "value_template", text(entry, "value_template"))
	}
}

func (c *checker) topics(at string, o object) {
	for _, k := range slices.Sorted(maps.Keys(o)) {
		if strings.HasSuffix(k, "_topic") {
			c.topic(at+": "+k, text(o, k))
		}
	}
}

func (c *checker) topic(at, topic string) {
	if topic == "" || strings.ContainsAny(topic, "+#\x00") || !strings.HasPrefix(topic, c.base+"/") {
		c.fail("%s: topic %q, want one below %s without wildcards", at, topic, c.base)
	}
}

// template is a smoke test: brackets and quotes come in pairs.
func (c *checker) template(at, key, s string) {
	if s == "" {
		return
	}
	opened, closed := strings.Count(s, "{{"), strings.Count(s, "}}")
	if opened == 0 || opened > closed || strings.Count(s, "'")%2 != 0 || strings.Count(s, "(") != strings.Count(s, ")") ||
		strings.Count(s, "{") != strings.Count(s, "}") || strings.Contains(s, "\n") {
		c.fail("%s: %s %q is not a template", at, key, s)
	}
}

func (c *checker) allowed(at string, o object, known []string) {
	for _, k := range slices.Sorted(maps.Keys(o)) {
		if !slices.Contains(known, k) {
			c.fail("%s: key %q is not allowed", at, k)
		}
	}
}

// noBlanks refuses null and "" outside components, which check their own.
func (c *checker) noBlanks(path string, o object) {
	for _, k := range slices.Sorted(maps.Keys(o)) {
		switch v := o[k].(type) {
		case nil:
			c.fail("%s%s is null, leave it out", path, k)
		case string:
			if v == "" {
				c.fail("%s%s is empty, leave it out", path, k)
			}
		case object:
			if path == "" && k != "components" {
				c.noBlanks(k+".", v)
			}
		}
	}
}

func (c *checker) url(key string, o object) {
	if v, has := o[key]; has {
		if s, _ := v.(string); !strings.HasPrefix(s, "http://") && !strings.HasPrefix(s, "https://") {
			c.fail("%s %v is not an http address", key, v)
		}
	}
}

func text(o object, key string) string {
	s, _ := o[key].(string)
	return s
}
