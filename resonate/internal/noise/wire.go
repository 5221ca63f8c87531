package noise

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"unicode/utf8"

	"resonatebridge/resonate/pairing"
)

// maxText is the most bytes of a message in the clear; the largest that a
// conformant peer sends has about 260.
const maxText = 4096

// Types of the messages in the clear.
const (
	typeClientInit  = "client/init"
	typeServerInit  = "server/init"
	typeServerError = "server/error"
	typeHandshake   = "noise/handshake"
)

// InitReason says why a client/init is refused.
type InitReason string

// The reasons, in the order in which they are looked for.
const (
	ReasonMalformed          InitReason = "malformed"
	ReasonUnsupportedVersion InitReason = "unsupported_version"
	ReasonUnsupportedSuite   InitReason = "unsupported_suite"
)

// InitError refuses a client/init. It is the one failure that is answered.
type InitError struct {
	Reason InitReason
	Detail string // for the log
}

// Error is the detail.
func (e *InitError) Error() string {
	return fmt.Sprintf("noise: client/init: %s: %s", e.Reason, e.Detail)
}

// Answer is the text message to send before the socket is closed.
func (e *InitError) Answer() []byte {
	return fmt.Appendf(nil, `{"type":"server/error","payload":{"reason":"%s"}}`, e.Reason)
}

// RefusedError is a server/error that the client received. Nothing
// authenticates it: it is for the log and for people.
type RefusedError struct{ Reason InitReason }

// Error quotes the reason.
func (e *RefusedError) Error() string {
	return fmt.Sprintf("noise: the server refuses: %.64q", string(e.Reason))
}

// Other failures of a handshake. The socket is closed without a word.
var (
	ErrMalformed  = errors.New("noise: malformed")
	ErrTurn       = errors.New("noise: it is not this side's turn")
	ErrHandshake  = errors.New("noise: the handshake does not authenticate")
	ErrUnknownPSK = errors.New("noise: the server refers to a key that is not here")
	ErrMisbound   = errors.New("noise: the key belongs to another server")
	ErrVersion    = errors.New("noise: server/init: another version of the protocol")
)

func malformed(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrMalformed, fmt.Sprintf(format, args...))
}

// fields is a JSON object. Keys match exactly, unlike in a struct.
type fields map[string]json.RawMessage

func parseObject(data []byte) (fields, bool) {
	var f fields
	if !utf8.Valid(data) || json.Unmarshal(data, &f) != nil || f == nil {
		return nil, false
	}
	return f, true
}

// text is the text at key; ok is false if there is none.
func (f fields) text(key string) (s string, ok bool) {
	raw := f[key]
	if len(raw) == 0 || raw[0] != '"' || json.Unmarshal(raw, &s) != nil {
		return "", false
	}
	return s, true
}

// parseText splits a message in the clear. Its type is not quoted in full: it
// is a stranger's.
func parseText(text []byte) (typ string, payload fields, err error) {
	if len(text) > maxText {
		return "", nil, malformed("a message of %d bytes", len(text))
	}
	f, ok := parseObject(text)
	if !ok {
		return "", nil, malformed("no JSON object")
	}
	if typ, ok = f.text("type"); !ok {
		return "", nil, malformed("no type")
	}
	if payload, ok = parseObject(f["payload"]); !ok {
		return "", nil, malformed("%.32q has no payload", typ)
	}
	return typ, payload, nil
}

// isInteger reports whether raw is a JSON integer, of any size.
func isInteger(raw json.RawMessage) bool {
	digits := strings.TrimPrefix(string(raw), "-")
	return digits != "" && strings.Trim(digits, "0123456789") == ""
}

// clientInit is what a server reads from a client/init.
type clientInit struct {
	client pairing.PublicKey
	suite  Suite
}

func parseClientInit(binary bool, text []byte) (clientInit, error) {
	refuse := func(r InitReason, format string, args ...any) (clientInit, error) {
		return clientInit{}, &InitError{Reason: r, Detail: fmt.Sprintf(format, args...)}
	}
	if binary {
		return refuse(ReasonMalformed, "the first message is binary")
	}
	typ, p, err := parseText(text)
	switch {
	case err != nil:
		return refuse(ReasonMalformed, "%v", err)
	case typ != typeClientInit:
		return refuse(ReasonMalformed, "the first message is %.32q", typ)
	case !isInteger(p["version"]):
		return refuse(ReasonMalformed, "version is no integer")
	case string(p["version"]) != "1":
		return refuse(ReasonUnsupportedVersion, "version is %.20s, this server has 1", p["version"])
	}
	id, ok := p.text("suite")
	if !ok {
		return refuse(ReasonMalformed, "suite is no text")
	}
	suite, ok := ParseSuite(id)
	if !ok {
		return refuse(ReasonUnsupportedSuite, "suite is %.64q", id)
	}
	id, ok = p.text("client_id")
	if !ok {
		return refuse(ReasonMalformed, "client_id is no text")
	}
	client, err := pairing.ParseID(id)
	if err != nil {
		return refuse(ReasonMalformed, "client_id: %v", err)
	}
	return clientInit{client: client, suite: suite}, nil
}

func formatClientInit(client pairing.PublicKey, s Suite) []byte {
	return fmt.Appendf(nil, `{"type":"client/init","payload":{"client_id":"%s","version":1,"suite":"%s"}}`, client, s)
}

// parseServerInit is what a client reads first: the server's key or its refusal.
func parseServerInit(text []byte) (pairing.PublicKey, error) {
	var none pairing.PublicKey
	typ, p, err := parseText(text)
	if err != nil {
		return none, err
	}
	if typ == typeServerError {
		reason, _ := p.text("reason")
		return none, &RefusedError{Reason: InitReason(reason)}
	}
	if typ != typeServerInit {
		return none, malformed("%.32q in place of server/init", typ)
	}
	if !bytes.Equal(p["version"], []byte("1")) {
		return none, ErrVersion
	}
	id, _ := p.text("server_id")
	key, err := pairing.ParseID(id)
	if err != nil {
		return none, malformed("server_id: %v", err)
	}
	return key, nil
}

func formatServerInit(server pairing.PublicKey) []byte {
	return fmt.Appendf(nil, `{"type":"server/init","payload":{"server_id":"%s","version":1}}`, server)
}

// parseHandshake is the Noise message within a noise/handshake.
func parseHandshake(text []byte) ([]byte, error) {
	typ, p, err := parseText(text)
	switch {
	case err != nil:
		return nil, err
	case typ != typeHandshake:
		return nil, malformed("%.32q in place of noise/handshake", typ)
	}
	data, ok := p.text("data")
	if !ok || strings.ContainsAny(data, "\r\n") { // the decoder would skip them
		return nil, malformed("noise/handshake has no data")
	}
	raw, err := base64.RawURLEncoding.Strict().DecodeString(data)
	if err != nil {
		return nil, malformed("the data of noise/handshake is not base64url")
	}
	return raw, nil
}

func formatHandshake(message []byte) []byte {
	return fmt.Appendf(nil, `{"type":"noise/handshake","payload":{"data":"%s"}}`, base64.RawURLEncoding.EncodeToString(message))
}

// HandshakeText returns the text of a message if it is a noise/handshake, which
// belongs to this package: on the client a re-handshake begins, on the server
// it is the answer to its own.
func HandshakeText(message []byte) (text []byte, ok bool) {
	if len(message) == 0 || message[0] != JSONID || len(message) > maxText || !bytes.Contains(message, []byte("handshake")) {
		return nil, false
	}
	f, ok := parseObject(message[1:])
	if !ok {
		return nil, false
	}
	typ, _ := f.text("type")
	return message[1:], typ == typeHandshake
}

// reference is the payload of Noise message 1: the key that the server uses.
type reference struct {
	id       string
	category pairing.Category // empty in the generation before 1.0.0-rc1
}

func parseReference(payload []byte) (reference, error) {
	p, ok := parseObject(payload)
	if !ok {
		return reference{}, malformed("the payload of Noise message 1 is no JSON object")
	}
	id, ok := p.text("psk_id")
	if !ok {
		return reference{}, malformed("the payload of Noise message 1 has no psk_id")
	}
	ref := reference{id: id}
	if _, there := p["psk_category"]; there {
		category, _ := p.text("psk_category")
		ref.category = pairing.Category(category)
		if !ref.category.Valid() {
			return reference{}, malformed("psk_category is %.16q", category)
		}
	}
	return ref, nil
}

func formatReference(c pairing.Credential) []byte {
	return fmt.Appendf(nil, `{"psk_id":"%s","psk_category":"%s"}`, c.ID(), c.Category)
}
