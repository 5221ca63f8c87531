package client

import (
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"resonatebridge/resonate/internal/secretfile"
	"resonatebridge/resonate/pairing"
	"resonatebridge/resonate/protocol"
)

// Files of a [Memory]. All hold secrets.
const (
	identityFile = "identity.key"
	pairingsFile = "pairings.json"
	memoryFile   = "player.json"
)

// pairingsMax is how many servers a player knows. More than [maxInbound], so
// that there always is a record without a connection to put aside (spec:
// Pairing Records).
const pairingsMax = 2 * maxInbound

// Memory is what a player of an encrypted dialect keeps over a restart: its
// identity, its pairing key, the servers that it is paired with, how loud and how
// late it plays. One player
// uses it at a time; what is in it is the player's.
type Memory struct {
	dir      string // "" keeps nothing
	identity pairing.Identity
	device   pairing.Device // for the pairing key and the rounds
	book     pairing.Book
	played   string // id of the server that played last
	knobs    knobs
}

// knobs are what people set on the player.
type knobs struct {
	Volume  *int `json:"volume,omitempty"` // nil: never set
	Muted   bool `json:"muted,omitempty"`
	DelayMs int  `json:"output_delay_ms,omitempty"`
}

// memoryDoc is the content of player.json.
type memoryDoc struct {
	Version    int    `json:"version"`
	PairingKey string `json:"pairing_psk"` // base64url: a secret
	Rounds     int    `json:"rounds_without_success,omitempty"`
	Played     string `json:"last_playback_server,omitempty"`
	Knobs      knobs  `json:"knobs"`
}

// OpenMemory reads a directory, which is made, with a new identity, if it is
// not there; "" makes a memory that is forgotten. Files have mode 0600. A file
// that is damaged is an error: a player that became another one is a stranger
// to its servers.
func OpenMemory(dir string) (*Memory, error) {
	m := &Memory{dir: dir}
	if dir != "" {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return nil, fmt.Errorf("player's memory: %w", err)
		}
	}
	fresh, err := m.load()
	if err != nil {
		return nil, fmt.Errorf("player's memory: %w; repair it, or remove the directory to start as another player", err)
	}
	m.book.Capacity = pairingsMax
	if fresh {
		if err := m.born(); err != nil {
			return nil, fmt.Errorf("player's memory: %w", err)
		}
	}
	return m, nil
}

// load reads what there is; fresh says that there is no identity.
func (m *Memory) load() (fresh bool, err error) {
	data, err := m.read(identityFile)
	if data == nil || err != nil {
		return true, err
	}
	defer clear(data)
	if m.identity, err = pairing.ParseIdentity(data); err != nil {
		return false, fmt.Errorf("%s: %w", identityFile, err)
	}
	if data, err = m.read(memoryFile); err != nil {
		return false, err
	}
	defer clear(data)
	var doc memoryDoc
	if json.Unmarshal(data, &doc) != nil || doc.Version != 1 {
		return false, fmt.Errorf("%s: not the JSON that is expected", memoryFile)
	}
	key, err := base64.RawURLEncoding.DecodeString(doc.PairingKey)
	defer clear(key)
	if err != nil {
		return false, fmt.Errorf("%s: the pairing key is not base64url", memoryFile)
	}
	if m.device.PairingKey, err = protocol.NewPSK(key); err != nil {
		return false, fmt.Errorf("%s: %w", memoryFile, err)
	}
	m.device.Rounds, m.played, m.knobs = doc.Rounds, doc.Played, doc.Knobs
	if data, err = m.read(pairingsFile); data == nil || err != nil {
		return false, err
	}
	defer clear(data)
	book, err := pairing.ParseBook(data)
	if err != nil {
		return false, fmt.Errorf("%s: %w", pairingsFile, err)
	}
	m.book = *book
	return false, nil
}

// read returns nil if there is no such file.
func (m *Memory) read(name string) ([]byte, error) {
	if m.dir == "" {
		return nil, nil
	}
	data, err := os.ReadFile(filepath.Join(m.dir, name))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	return data, err
}

// born makes an identity and a pairing key. The identity is written last: one
// without the rest would be a damaged memory.
func (m *Memory) born() (err error) {
	if m.identity, err = pairing.NewIdentity(rand.Reader); err != nil {
		return err
	}
	if m.device.PairingKey, err = protocol.GeneratePSK(rand.Reader); err != nil {
		return err
	}
	if err := m.save(); err != nil {
		return err
	}
	private := m.identity.EncodePrivate()
	defer clear(private)
	return m.write(identityFile, private)
}

// save keeps all but the identity and the records.
func (m *Memory) save() error {
	key := m.device.PairingKey.Bytes()
	defer clear(key)
	data, err := json.MarshalIndent(memoryDoc{
		Version: 1, PairingKey: base64.RawURLEncoding.EncodeToString(key), Rounds: m.device.Rounds, Played: m.played, Knobs: m.knobs,
	}, "", "  ")
	if err != nil {
		return err
	}
	defer clear(data)
	return m.write(memoryFile, append(data, '\n'))
}

// saveBook keeps the records.
func (m *Memory) saveBook() error {
	data, err := m.book.EncodeSecret()
	if err != nil {
		return err
	}
	defer clear(data)
	return m.write(pairingsFile, data)
}

func (m *Memory) write(name string, data []byte) error {
	if m.dir == "" {
		return nil
	}
	return secretfile.Replace(filepath.Join(m.dir, name), data)
}

// ID is the player's client id.
func (m *Memory) ID() string { return m.identity.ID() }

// Token lets a server pair without a code: a secret, see [pairing.Token.Reveal].
func (m *Memory) Token() pairing.Token { return m.device.Token(m.identity.Public()) }

// keys are those that a server may refer to, as of now.
func (m *Memory) keys() Keys {
	token := m.Token().Credential()
	var records []pairing.Record
	for _, peer := range m.book.Peers() {
		if r, ok := m.book.Get(peer); ok {
			records = append(records, r)
		}
	}
	return func(c pairing.Category, id string) (psk protocol.PSK, server pairing.PublicKey, ok bool) {
		switch {
		case c == pairing.PairingKey && token.Is(id):
			return token.PSK, server, true
		case c == pairing.LongTerm:
			for _, r := range records {
				if (pairing.Credential{PSK: r.PSK}).Is(id) {
					return r.PSK, r.Peer, true
				}
			}
		}
		return psk, server, false
	}
}
