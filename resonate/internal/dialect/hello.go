package dialect

import (
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"resonatebridge/resonate/protocol"
)

// Bounds on a hello.
const (
	maxHello    = 64 << 10 // bytes
	maxChannels = 4        // artwork channels
	maxProduct  = 256      // formats that R1's four lists may span
)

// Accept classifies the first frame of a client and decodes its hello. path is
// the HTTP path that the client asked for, "" if we dialled. override names
// the dialect of a client id, "" to detect it; it may be nil. The error is a
// [*RefusedError], and nothing is to be answered but the close frame.
//
// A hello is refused only if the client can't be served by it; what else is
// wrong in it is left out, and told by the first [ServerWire.Decode].
func Accept(first Frame, path string, override func(clientID string) Name) (*ServerWire, protocol.ClientHello, error) {
	var none protocol.ClientHello
	if len(first.Data) > maxHello {
		return nil, none, tooBig("hello", len(first.Data), maxHello)
	}
	if first.Binary {
		return nil, none, badFirst("the first frame is binary; a client begins with client/hello as text")
	}
	n := new(notes)
	typ, p, err := envelope(first.Data, n)
	if err != nil {
		return nil, none, badFirst(err.Error())
	}
	switch {
	case typ == "client/hello" && !isR0(p):
	case typ == "client/hello", typ == "player/hello":
		return nil, none, unsupported("the client speaks Resonate of August 2025, which is older than anything this version serves; update the client")
	case typ == "client/init":
		return nil, none, unsupported("the client insists on encryption, which this server does not offer; let it permit unencrypted servers")
	default:
		return nil, none, badFirst(fmt.Sprintf("the first message is %s; a client begins with client/hello", p.msg))
	}

	h := protocol.ClientHello{}
	if h.Version, err = version(p); err != nil {
		return nil, none, err
	}
	if h.ClientID, err = clientID(p); err != nil {
		return nil, none, err
	}
	ids, err := p.roleIDs()
	if err != nil {
		return nil, none, err
	}
	if err := limits(p); err != nil {
		return nil, none, err
	}

	w := &ServerWire{ids: make(map[protocol.Role]string), notes: n}
	w.class = classify(p, ids, path)
	if override != nil {
		if forced := override(h.ClientID); forced != "" {
			if !slices.Contains(Names(), forced) {
				return nil, none, &RefusedError{
					Code: closeProtocolError, Text: "unsupported dialect",
					Detail: fmt.Sprintf("the dialect that is configured for %.64q is %.64q; the dialects are %v", h.ClientID, string(forced), Names()),
				}
			}
			w.forced = forced
			w.class = forced
		}
	}
	w.decodeHello(p, ids, &h)
	return w, h, nil
}

func badFirst(detail string) *RefusedError {
	return &RefusedError{Code: closeProtocolError, Text: "bad first message", Detail: detail}
}

func unsupported(detail string) *RefusedError {
	return &RefusedError{Code: closeProtocolError, Text: "unsupported dialect", Detail: detail}
}

func tooBig(what string, got, limit int) *RefusedError {
	return &RefusedError{Code: closeTooBig, Text: "hello too large", Detail: fmt.Sprintf("client/hello: %s: %d, at most %d are served", what, got, limit)}
}

// isR0 reports whether a hello is Resonate's of August 2025.
func isR0(p object) bool {
	role, err := p.text("role")
	return err == nil && role != "" && !p.has("supported_roles")
}

func version(p object) (int, error) {
	if !p.has("version") {
		p.note("version", "missing", "missing, taken as 1")
		return 1, nil
	}
	raw, _ := p.get("version")
	if v, err := strconv.ParseFloat(string(raw), 64); err != nil || !isNumber(raw) || v != 1 {
		return 0, &RefusedError{Code: closeProtocolError, Text: "version", Detail: p.bad("version", "1, the only version there is").Error()}
	}
	return 1, nil
}

// clientID is any text; it is compared bytewise.
func clientID(p object) (string, error) {
	id, err := p.text("client_id")
	if err != nil || id == "" || len(id) > maxID {
		return "", &RefusedError{
			Code: closePolicy, Text: "client id",
			Detail: p.bad("client_id", fmt.Sprintf("a text of 1 to %d bytes; give the client an id of its own", maxID)).Error(),
		}
	}
	return id, nil
}

// roleIDs are the offered roles as they were spelled.
func (o object) roleIDs() ([]string, error) {
	raw, ok := o.get("supported_roles")
	if !ok {
		return nil, nil
	}
	var entries []json.RawMessage
	if json.Unmarshal(raw, &entries) != nil {
		return nil, badFirst(o.bad("supported_roles", "a list of texts").Error())
	}
	if len(entries) > maxEntries {
		return nil, tooBig("supported_roles", len(entries), maxEntries)
	}
	return o.texts("supported_roles")
}

// limits refuses a hello that is too large to be meant.
func limits(p object) error {
	for _, key := range []string{"player@v1_support", "player_support"} {
		player, _, err := p.object(key)
		if err != nil {
			continue
		}
		for _, list := range []string{"supported_formats", "support_formats", "support_codecs", "support_channels", "support_sample_rates", "support_bit_depth"} {
			raw, ok := player.get(list)
			var entries []json.RawMessage
			if ok && json.Unmarshal(raw, &entries) == nil && len(entries) > maxEntries {
				return tooBig(player.path(list), len(entries), maxEntries)
			}
		}
	}
	return nil
}

// classify tells the dialect from a hello; the first match wins. The names
// S1 to S4 differ by features, not by messages, so they are all S2 here and
// [ServerWire.Name] refines that.
func classify(p object, ids []string, path string) Name {
	versioned := func(id string) bool { return strings.Contains(id, "@") }
	if slices.ContainsFunc(ids, versioned) {
		return S2
	}
	player, _, _ := p.object("player_support")
	_, arrays, _ := player.list("support_codecs")
	if arrays || p.has("metadata_support") {
		// Before R2: harperreed/resonate-go sends formats and arrays, and
		// expects the audio type of R1.
		return R1
	}
	if player.has("supported_formats") || player.has("support_formats") || p.has("artwork_support") || slices.Contains(ids, "artwork") {
		return R2
	}
	passive := func(id string) bool { return id == "controller" || id == "metadata" }
	active := func(id string) bool { return !passive(id) }
	if path == "/sendspin" && len(ids) > 0 && !slices.ContainsFunc(ids, active) {
		return R2
	}
	return R1
}

// family is the role that an id offers, "" if it is none that the model knows:
// another version, a draft or an application's own.
func family(id string) protocol.Role {
	role := protocol.Role(id)
	if !strings.Contains(id, "@") {
		role += "@v1"
	}
	switch role {
	case protocol.RolePlayer, protocol.RoleController, protocol.RoleMetadata, protocol.RoleArtwork, protocol.RoleVisualizer, protocol.RoleColor:
		return role
	default:
		return ""
	}
}

// bare is a role without its version.
func bare(r protocol.Role) string {
	name, _, _ := strings.Cut(string(r), "@")
	return name
}

// decodeHello fills h and what w remembers of it.
func (w *ServerWire) decodeHello(p object, ids []string, h *protocol.ClientHello) {
	h.Name = p.label("name")
	for _, id := range ids {
		role := family(id)
		if role == "" {
			p.note("supported_roles", "unknown", "got %q: skipped", cut(id, maxQuoted))
			continue
		}
		if _, twice := w.ids[role]; !twice {
			w.ids[role] = id
			h.Roles = append(h.Roles, role)
		}
	}

	h.Device = decodeDevice(p)
	if h.Device.MACAddress != "" {
		w.learn(learnedS4)
	}
	if h.HasRole(protocol.RoleColor) {
		w.learn(learnedS4 | learnedModern)
	}
	if slices.Contains(ids, "visualizer@_draft_r1") {
		w.learn(learnedS3)
	}
	for _, key := range []string{"trust_level", "supported_pair_methods", "unpaired_access"} {
		if p.has(key) && !w.class.encrypted() {
			w.learn(learnedS4)
			p.note(key, "transition", "belongs to the encrypted protocol: ignored")
		}
	}

	if player, ok := w.support(p, "player"); ok && h.HasRole(protocol.RolePlayer) {
		h.Player = w.decodePlayer(player)
		w.formats = h.Player.Formats
	}
	if artwork, ok := w.support(p, "artwork"); ok && h.HasRole(protocol.RoleArtwork) {
		h.Artwork = decodeArtwork(artwork)
		w.signs.artwork = w.class.encrypted()
	}
	if vis, ok := w.support(p, "visualizer"); ok && vis.has("types") && vis.has("rate_max") {
		w.learn(learnedS4 | learnedModern)
		if v := decodeVisualizer(vis); len(v.Types) > 0 && v.RateMax > 0 && v.BufferCapacity > 0 {
			h.Visual = &v
		}
	}
	if w.class == R1 {
		decodePictures(p, h)
	}
	if w.class.encrypted() {
		w.decodeTrust(p, h)
		return
	}
	w.oldKeys = w.oldKeys && w.class.sendspin() || w.forced == S1
	if w.forced == S4 {
		w.learn(learnedModern)
	}
}

// support returns the support object of a role under either of its keys; the
// versioned one wins. Both are ignored if they are no objects.
func (w *ServerWire) support(p object, role string) (object, bool) {
	for _, key := range []string{role + "@v1_support", role + "_support"} {
		o, ok, err := p.object(key)
		if err != nil {
			p.note(key, "no object", "%v: ignored", err)
		}
		if err != nil || !ok {
			continue
		}
		if key == role+"_support" && w.class.sendspin() {
			w.oldKeys = true
			p.note(key, "old key", "taken as %s@v1_support", role)
		}
		return o, true
	}
	return object{}, false
}

func decodeDevice(p object) protocol.DeviceInfo {
	d, _, err := p.object("device_info")
	if err != nil {
		p.note("device_info", "no object", "%v: ignored", err)
	}
	info := protocol.DeviceInfo{
		ProductName:     d.label("product_name"),
		Manufacturer:    d.label("manufacturer"),
		SoftwareVersion: d.label("software_version"),
		MACAddress:      d.label("mac_address"),
	}
	if info.MACAddress == "" {
		info.MACAddress = p.label("mac_address") // sendspin-jvm 0.3.0
	}
	info.MACAddress = strings.ReplaceAll(strings.ToLower(info.MACAddress), "-", ":")
	return info
}

func (w *ServerWire) decodePlayer(o object) *protocol.PlayerSupport {
	s := &protocol.PlayerSupport{Formats: decodeFormats(o, w.class)}
	if capacity, err := o.capacity(); err != nil {
		o.note("buffer_capacity", "type", "%v", err)
	} else {
		s.BufferCapacity = capacity
	}
	names, err := o.texts("supported_commands")
	if err != nil {
		o.note("supported_commands", "type", "%v: ignored", err)
	}
	s.Commands, w.hello = decodeCommands(o, names)
	return s
}

// capacity is the one number that may come in a text.
func (o object) capacity() (int, error) {
	const limit = 1<<31 - 1
	if raw, ok := o.get("buffer_capacity"); ok {
		if s, ok := asText(raw); ok {
			f, err := strconv.ParseFloat(s, 64)
			if err != nil || !(f >= 0 && f <= limit) {
				return 0, o.bad("buffer_capacity", "a number of bytes")
			}
			o.note("buffer_capacity", "number in a text", "got %q, taken as a number", cut(s, maxQuoted))
			return int(f), nil
		}
	}
	n, err := o.number("buffer_capacity", 0, limit)
	if n == nil {
		return 0, err
	}
	return *n, nil
}

// decodeFormats reads the formats of a player in any of the three shapes.
// Those that make no sense are skipped.
func decodeFormats(o object, class Name) []protocol.Format {
	listed := func() []protocol.Format {
		for _, key := range []string{"supported_formats", "support_formats"} {
			entries, err := o.objects(key)
			if err != nil {
				o.note(key, "type", "%v: ignored", err)
			}
			var out []protocol.Format
			for _, e := range entries {
				if f, err := e.format(); err != nil {
					o.note(key, "format", "%v: skipped", err)
				} else {
					out = append(out, f)
				}
			}
			if len(out) > 0 {
				return out
			}
		}
		return nil
	}
	product := func() []protocol.Format { return formatProduct(o) }
	order := []func() []protocol.Format{listed, product}
	if class == R1 {
		slices.Reverse(order)
	}
	for _, decode := range order {
		if out := decode(); len(out) > 0 {
			return out
		}
	}
	return nil
}

// format reads a complete format.
func (o object) format() (protocol.Format, error) {
	f, err := o.partialFormat()
	switch {
	case err != nil:
	case f.Codec == "":
		err = o.bad("codec", `"pcm", "flac" or "opus"`)
	case f.Channels == 0:
		err = o.bad("channels", "a number from 1 to 32")
	case f.SampleRate == 0:
		err = o.bad("sample_rate", "a number from 1 to 768000")
	case f.BitDepth == 0 && f.Codec != "opus":
		err = o.bad("bit_depth", "a number from 1 to 32")
	}
	return f, err
}

// partialFormat reads a format of which each part may be absent.
func (o object) partialFormat() (f protocol.Format, err error) {
	if f.Codec, err = o.text("codec"); err != nil {
		return f, err
	}
	if f.Codec != "" && !isCodec(f.Codec) {
		return f, o.bad("codec", `"pcm", "flac" or "opus"`)
	}
	for _, part := range []struct {
		key string
		max int
		dst *int
	}{
		{"channels", 32, &f.Channels},
		{"sample_rate", 768_000, &f.SampleRate},
		{"bit_depth", 32, &f.BitDepth},
	} {
		// No clamping here: another format is not a better guess.
		raw, ok := o.get(part.key)
		if !ok {
			continue
		}
		v, err := strconv.ParseFloat(string(raw), 64)
		if err != nil || !isNumber(raw) || v < 0 || v > float64(part.max) {
			return f, o.bad(part.key, fmt.Sprintf("a number from 1 to %d", part.max))
		}
		*part.dst = int(v + 0.5)
	}
	return f, nil
}

func isCodec(s string) bool { return s == "pcm" || s == "flac" || s == "opus" }

// formatProduct spans R1's four lists: by codec, then rate, bit depth, channels.
func formatProduct(o object) []protocol.Format {
	numbers := func(key string) []int {
		entries, _, err := o.list(key)
		if err != nil {
			o.note(key, "type", "%v: ignored", err)
		}
		var out []int
		for _, raw := range entries {
			if v, err := strconv.ParseFloat(string(raw), 64); err == nil && isNumber(raw) && v >= 1 && v <= 768_000 {
				out = append(out, int(v))
			} else {
				o.note(key, "entry", "got %s, want a positive number: skipped", quoteJSON(raw))
			}
		}
		return out
	}
	codecs, err := o.texts("support_codecs")
	if err != nil {
		o.note("support_codecs", "type", "%v: ignored", err)
	}
	rates, depths, channels := numbers("support_sample_rates"), numbers("support_bit_depth"), numbers("support_channels")
	var out []protocol.Format
	for _, codec := range codecs {
		if !isCodec(codec) {
			o.note("support_codecs", "codec", "got %q: skipped", cut(codec, maxQuoted))
			continue
		}
		for _, rate := range rates {
			for _, depth := range depths {
				for _, ch := range channels {
					if len(out) == maxProduct {
						o.note("support_codecs", "product", "more than %d formats, the rest is ignored", maxProduct)
						return out
					}
					out = append(out, protocol.Format{Codec: codec, Channels: ch, SampleRate: rate, BitDepth: depth})
				}
			}
		}
	}
	return out
}

func decodeArtwork(o object) *protocol.ArtworkSupport {
	entries, err := o.objects("channels")
	if err != nil {
		o.note("channels", "type", "%v: ignored", err)
	}
	if len(entries) > maxChannels {
		o.note("channels", "count", "%d channels, only the first %d count", len(entries), maxChannels)
		entries = entries[:maxChannels]
	}
	s := new(protocol.ArtworkSupport)
	for _, e := range entries {
		s.Channels = append(s.Channels, e.channel())
	}
	return s
}

// channel reads an artwork channel. Channels are positional, so a bad one
// stands as "none".
func (o object) channel() protocol.ArtworkChannel {
	size := func(keys ...string) int {
		for _, key := range keys {
			if n, err := o.number(key, 0, 1<<15); err == nil && n != nil {
				return *n
			}
		}
		return 0
	}
	source, _ := o.text("source")
	format, _ := o.text("format")
	c := protocol.ArtworkChannel{Source: source, Format: format, Width: size("media_width", "width"), Height: size("media_height", "height")}
	sources := []string{"album", "artist"}
	formats := []string{"jpeg", "png", "bmp"}
	if !slices.Contains(sources, c.Source) || !slices.Contains(formats, c.Format) || c.Width == 0 || c.Height == 0 {
		if c.Source != "none" {
			o.note("source", "channel", "a channel without source, format, width or height: taken as none")
		}
		return protocol.ArtworkChannel{Source: "none"}
	}
	return c
}

// decodePictures reads R1's picture wishes, which stand in metadata_support.
func decodePictures(p object, h *protocol.ClientHello) {
	o, ok, err := p.object("metadata_support")
	if err != nil || !ok || !h.HasRole(protocol.RoleMetadata) {
		return
	}
	formats, _ := o.texts("support_picture_formats")
	for _, f := range formats {
		if f != "jpeg" && f != "png" && f != "bmp" {
			continue
		}
		c := protocol.ArtworkChannel{Source: "album", Format: f}
		if n, err := o.number("media_width", 0, 1<<15); err == nil && n != nil {
			c.Width = *n
		}
		if n, err := o.number("media_height", 0, 1<<15); err == nil && n != nil {
			c.Height = *n
		}
		h.Artwork = &protocol.ArtworkSupport{Channels: []protocol.ArtworkChannel{c}}
		h.Roles = append(h.Roles, protocol.RoleArtwork)
		return
	}
}
