package dialect

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"math"
	"strconv"
	"strings"

	"resonatebridge/resonate/protocol"
)

// Pairing messages hold binary values as base64url of an exact length. What is
// wrong in one is an error, after which the connection is closed (spec:
// Protocol Errors); none of their values is ever quoted, since some are keys.

// bytes reads n bytes at key; ok is false if there are none.
func (o object) bytes(key string, n int) (raw []byte, ok bool, err error) {
	if _, there := o.fields[key]; !there {
		return nil, false, nil
	}
	want := &protocol.DecodeError{
		Msg: o.msg, At: o.path(key), Got: "something else",
		Want: fmt.Sprintf("base64url of %d bytes, %d characters", n, base64.RawURLEncoding.EncodedLen(n)),
	}
	s, isText := asText(o.fields[key])
	if !isText || len(s) != base64.RawURLEncoding.EncodedLen(n) || strings.ContainsAny(s, "\r\n") {
		return nil, false, want
	}
	if raw, err = base64.RawURLEncoding.Strict().DecodeString(s); err != nil {
		return nil, false, want
	}
	return raw, true, nil
}

func (o object) needBytes(key string, n int) ([]byte, error) {
	raw, ok, err := o.bytes(key, n)
	if err == nil && !ok {
		err = &protocol.DecodeError{Msg: o.msg, At: o.path(key), Got: "nothing", Want: fmt.Sprintf("base64url of %d bytes", n)}
	}
	return raw, err
}

// index reads a pairing_index, which is exact.
func (o object) index() (uint32, error) {
	v, err := strconv.ParseUint(string(o.fields["pairing_index"]), 10, 32)
	if err != nil {
		return 0, o.bad("pairing_index", fmt.Sprintf("an integer from 0 to %d", uint32(math.MaxUint32)))
	}
	return uint32(v), nil
}

// decodeAbort never fails: whatever is in it, the attempt is over.
func decodeAbort(p object) protocol.PairAbort {
	reason, _ := p.text("reason")
	return protocol.PairAbort{Reason: protocol.AbortReason(clean(reason, maxQuoted))}
}

// decodeClientPairing reads a pairing message of a client; ours is false for
// any other message.
func decodeClientPairing(typ string, p object) (m protocol.ClientMessage, ours bool, err error) {
	switch typ {
	case "client/pair-pending":
		index, err := p.index()
		message, _ := p.text("message")
		return protocol.ClientPairPending{Index: index, Message: clean(message, 4*protocol.PairMessageMax)}, true, err // bytes; characters are counted later
	case "client/pair-init":
		index, err := p.index()
		if err != nil {
			return nil, true, err
		}
		m := protocol.ClientPairInit{Index: index}
		raw, ok, err := p.bytes("commit_B", protocol.CommitmentSize)
		if ok {
			m.Commitment = (*[protocol.CommitmentSize]byte)(raw)
		}
		return m, true, err
	case "client/pair-auth":
		raw, err := p.needBytes("pake_msg_2", protocol.ShareSize)
		if err != nil {
			return nil, true, err
		}
		return protocol.ClientPairAuth{Share: [protocol.ShareSize]byte(raw)}, true, nil
	case "client/pair-retry":
		return protocol.ClientPairRetry{}, true, nil
	case "client/pair-confirm":
		raw, err := p.needBytes("client_kc", protocol.TagSize)
		if err != nil {
			return nil, true, err
		}
		m := protocol.ClientPairConfirm{Tag: [protocol.TagSize]byte(raw)}
		raw, ok, err := p.bytes("wrapped_nonce_B", protocol.WrappedSize)
		if ok {
			m.WrappedNonce = (*[protocol.WrappedSize]byte)(raw)
		}
		return m, true, err
	case "client/pair-finalize":
		m, err := decodeFinalize(p)
		return m, true, err
	case "pair/abort":
		return decodeAbort(p), true, nil
	}
	return nil, false, nil
}

func decodeFinalize(p object) (protocol.ClientPairFinalize, error) {
	var m protocol.ClientPairFinalize
	key, ok, err := p.bytes("long_term_psk", protocol.PSKSize)
	defer clear(key)
	if err != nil {
		return m, err
	}
	if ok {
		if m.LongTerm, err = protocol.NewPSK(key); err != nil {
			return m, err
		}
	}
	wrapped, ok, err := p.bytes("wrapped_psk", protocol.WrappedSize)
	if ok {
		m.Wrapped = (*[protocol.WrappedSize]byte)(wrapped)
	}
	if err == nil && m.LongTerm.IsZero() == (m.Wrapped == nil) {
		err = &protocol.DecodeError{Msg: p.msg, At: "payload", Got: "both keys or none", Want: "long_term_psk or wrapped_psk"}
	}
	return m, err
}

func b64(b []byte) string { return base64.RawURLEncoding.EncodeToString(b) }

// encodeServerPairing spells a pairing message of a server; ok is false for any
// other message.
func encodeServerPairing(m protocol.ServerMessage) (f Frame, ok bool) {
	type values map[string]string
	switch m := m.(type) {
	case protocol.ServerPairInit:
		v := values{}
		if m.Nonce != nil {
			v["nonce_A"] = b64(m.Nonce[:])
		}
		return text("server/pair-init", v), true
	case protocol.ServerPairAuth:
		return text("server/pair-auth", values{"pake_msg_1": b64(m.Share[:])}), true
	case protocol.ServerPairConfirm:
		return text("server/pair-confirm", values{"server_kc": b64(m.Tag[:])}), true
	case protocol.ServerPairFinalize:
		return text("server/pair-finalize", values{}), true
	case protocol.PairAbort:
		return text("pair/abort", values{"reason": string(m.Reason)}), true
	}
	return Frame{}, false
}

// encodeClientPairing spells a pairing message of a client.
func encodeClientPairing(m protocol.ClientMessage) (f Frame, ok bool) {
	type values map[string]any
	switch m := m.(type) {
	case protocol.ClientPairPending:
		v := values{"pairing_index": m.Index}
		if m.Message != "" {
			v["message"] = m.Message
		}
		return text("client/pair-pending", v), true
	case protocol.ClientPairInit:
		v := values{"pairing_index": m.Index}
		if m.Commitment != nil {
			v["commit_B"] = b64(m.Commitment[:])
		}
		return text("client/pair-init", v), true
	case protocol.ClientPairAuth:
		return text("client/pair-auth", values{"pake_msg_2": b64(m.Share[:])}), true
	case protocol.ClientPairRetry:
		return text("client/pair-retry", values{}), true
	case protocol.ClientPairConfirm:
		v := values{"client_kc": b64(m.Tag[:])}
		if m.WrappedNonce != nil {
			v["wrapped_nonce_B"] = b64(m.WrappedNonce[:])
		}
		return text("client/pair-confirm", v), true
	case protocol.ClientPairFinalize:
		v := values{}
		if !m.LongTerm.IsZero() {
			key := m.LongTerm.Bytes()
			defer clear(key)
			v["long_term_psk"] = b64(key)
		}
		if m.Wrapped != nil {
			v["wrapped_psk"] = b64(m.Wrapped[:])
		}
		return text("client/pair-finalize", v), true
	case protocol.PairAbort:
		return text("pair/abort", values{"reason": string(m.Reason)}), true
	}
	return Frame{}, false
}

// decodeServerPairing reads a pairing message of a server; ours is false for any
// other message.
func decodeServerPairing(typ string, p object) (m protocol.ServerMessage, ours bool, err error) {
	switch typ {
	case "server/pair-init":
		var m protocol.ServerPairInit
		raw, ok, err := p.bytes("nonce_A", protocol.NonceSize)
		if ok {
			m.Nonce = (*[protocol.NonceSize]byte)(raw)
		}
		return m, true, err
	case "server/pair-auth":
		raw, err := p.needBytes("pake_msg_1", protocol.ShareSize)
		if err != nil {
			return nil, true, err
		}
		return protocol.ServerPairAuth{Share: [protocol.ShareSize]byte(raw)}, true, nil
	case "server/pair-confirm":
		raw, err := p.needBytes("server_kc", protocol.TagSize)
		if err != nil {
			return nil, true, err
		}
		return protocol.ServerPairConfirm{Tag: [protocol.TagSize]byte(raw)}, true, nil
	case "server/pair-finalize":
		return protocol.ServerPairFinalize{}, true, nil
	case "pair/abort":
		return decodeAbort(p), true, nil
	}
	return nil, false, nil
}

// Names of methods in lists of the generation before.
const (
	oldDynamic = "dynamic_pin"
	oldStatic  = "static_pin"
)

// decodeMethods reads the pair methods of a hello: an object, or the list that
// it was. Unknown methods and values are ignored; a dynamic code that can't be
// shown in a known way counts as unknown. Of two methods with a code the
// dynamic one counts, though there may be only one.
func decodeMethods(p object) (m protocol.PairMethods, list bool) {
	named := map[string]object{}
	if raw, ok := p.get("supported_pair_methods"); ok && raw[0] == '[' {
		list = true
		entries, err := p.objects("supported_pair_methods")
		if err != nil {
			p.note("supported_pair_methods", "type", "%v: ignored", err)
		}
		for _, e := range entries {
			name, _ := e.text("method")
			switch name {
			case oldDynamic:
				name = string(protocol.PairByDynamicCode)
				e.fields["formats"], e.fields["out_channels"] = json.RawMessage(`["digits"]`), json.RawMessage(`["display"]`)
			case oldStatic:
				name = string(protocol.PairByStaticCode)
			}
			named[name] = e
		}
	} else if methods, ok, err := p.object("supported_pair_methods"); err != nil || !ok {
		p.note("supported_pair_methods", "missing", "missing: it can't be paired")
	} else {
		for name := range methods.fields {
			if o, ok, err := methods.object(name); ok && err == nil {
				named[name] = o
			}
		}
	}
	for name, o := range named {
		switch protocol.PairMethod(name) {
		case protocol.PairByPSK:
			m.PSK = decodeLocations(o)
		case protocol.PairByStaticCode:
			m.Static = decodeLocations(o)
		case protocol.PairByDynamicCode:
			m.Dynamic = decodeDynamic(o)
		default:
			p.note("supported_pair_methods", "unknown", "got %q: ignored", cut(name, maxQuoted))
		}
	}
	if m.Dynamic != nil && m.Static != nil {
		p.note("supported_pair_methods", "two codes", "two methods with a code: the static one is ignored")
		m.Static = nil
	}
	return m, list
}

func decodeLocations(o object) *protocol.FixedSecret {
	s := new(protocol.FixedSecret)
	texts, _ := o.texts("locations") // informational
	for _, t := range texts {
		switch l := protocol.SecretLocation(t); l {
		case protocol.LocationDevice, protocol.LocationLeaflet, protocol.LocationOperator:
			s.Locations = append(s.Locations, l)
		}
	}
	return s
}

func decodeDynamic(o object) *protocol.DynamicCode {
	d := new(protocol.DynamicCode)
	formats, _ := o.texts("formats")
	for _, t := range formats {
		if f := protocol.CodeFormat(t); f == protocol.CodeDigits || f == protocol.CodeQR {
			d.Formats = append(d.Formats, f)
		}
	}
	channels, _ := o.texts("out_channels")
	for _, t := range channels {
		if c := protocol.CodeChannel(t); c == protocol.ChannelDisplay || c == protocol.ChannelSpeaker {
			d.Channels = append(d.Channels, c)
		}
	}
	if len(d.Formats) == 0 || len(d.Channels) == 0 {
		return nil
	}
	return d
}
