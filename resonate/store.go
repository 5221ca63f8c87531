package resonate

import (
	"context"
	"crypto/ecdh"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"time"

	"resonatebridge/resonate/protocol"
)

// Files in the data directory (design: 4.4).
const (
	identityFile = "identity.key"
	playersFile  = "players.json"
	groupsFile   = "groups.json"
)

// playerRecord is what is remembered of a player.
type playerRecord struct {
	PID       string    `json:"id"`
	ClientID  string    `json:"client_id,omitempty"` // empty: advertised, never met
	Keys      []string  `json:"keys,omitempty"`      // discovery keys that turned out to be this player
	GivenName string    `json:"given_name,omitempty"`
	Name      string    `json:"name,omitempty"` // its own
	Custody   Custody   `json:"custody,omitempty"`
	MaxVolume int       `json:"max_volume,omitempty"`
	Announce  *int      `json:"announce_volume,omitempty"`
	Volume    *int      `json:"volume,omitempty"`
	Mute      *bool     `json:"mute,omitempty"`
	DelayMs   *int      `json:"delay_ms,omitempty"`
	Previous  string    `json:"previous,omitempty"` // group before it was parked alone
	Parked    bool      `json:"parked,omitempty"`   // only switch or a person brings it back there
	Dialect   string    `json:"dialect,omitempty"`
	Roles     []string  `json:"roles,omitempty"`
	Maker     string    `json:"manufacturer,omitempty"`
	Model     string    `json:"model,omitempty"`
	Software  string    `json:"software_version,omitempty"`
	MAC       string    `json:"mac,omitempty"`
	LastSeen  time.Time `json:"last_seen,omitzero"`
	FirstSeen time.Time `json:"first_seen,omitzero"`

	Commands []protocol.PlayerCommandName `json:"commands,omitempty"` // that it accepted in its last session
}

// groupRecord is what is remembered of a group.
type groupRecord struct {
	ID         string    `json:"id"`
	Name       string    `json:"name"`
	Kind       GroupKind `json:"kind"`
	Members    []string  `json:"members"`              // present, in joining order
	Remembered []string  `json:"remembered,omitempty"` // named groups only
	Created    time.Time `json:"created"`
}

// records is one consistent version of everything that is remembered.
type records struct {
	Players []playerRecord
	Groups  []groupRecord
}

type playersDoc struct {
	Version int            `json:"version"`
	Players []playerRecord `json:"players"`
}

type groupsDoc struct {
	Version int           `json:"version"`
	Groups  []groupRecord `json:"groups"`
}

// store keeps records in a directory. save may be called from any goroutine;
// only run writes.
type store struct {
	dir    string // "" keeps nothing
	log    *slog.Logger
	newest atomic.Pointer[records]
	wake   chan struct{}
	failed func(error) // told of each failed or (nil) recovered write
}

func openStore(dir string, log *slog.Logger) (*store, records, error) {
	s := &store{dir: dir, log: log, wake: make(chan struct{}, 1), failed: func(error) {}}
	if dir == "" {
		return s, records{}, nil
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, records{}, fmt.Errorf("data directory: %w; create it or set data_dir", err)
	}
	var players playersDoc
	if err := s.read(playersFile, &players); err != nil {
		return nil, records{}, err
	}
	var groups groupsDoc
	if err := s.read(groupsFile, &groups); err != nil {
		return nil, records{}, err
	}
	return s, records{Players: players.Players, Groups: groups.Groups}, nil
}

// read fills doc from a file. A missing file is no error; a damaged one is set
// aside, so that nothing is lost and the start goes on.
func (s *store) read(name string, doc any) error {
	path := filepath.Join(s.dir, name)
	data, err := os.ReadFile(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return fmt.Errorf("data directory: %w; make it readable for this user or set data_dir", err)
	}
	if err := json.Unmarshal(data, doc); err != nil {
		return s.setAside(path, err)
	}
	return nil
}

func (s *store) setAside(path string, why error) error {
	aside := fmt.Sprintf("%s.damaged-%s", path, time.Now().UTC().Format("20060102T150405.000000000"))
	if err := os.Rename(path, aside); err != nil {
		return fmt.Errorf("data directory: %s is damaged (%w) and can't be set aside: %w", path, why, err)
	}
	s.log.Error("damaged file set aside, starting without it; repair it and put it back to recover",
		slog.String("file", path), slog.String("aside", aside), slog.Any("err", why))
	return nil
}

// save remembers r; an older version that was not yet written is skipped.
func (s *store) save(r *records) {
	s.newest.Store(r)
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// saveDelay is how long changes are gathered before they are written.
const saveDelay = time.Second

// run writes what save leaves until ctx ends, then once more what is left. A
// failed write is tried again every 10 s.
func (s *store) run(ctx context.Context) {
	const again = 10 * time.Second
	retry := time.NewTimer(again)
	retry.Stop()
	defer retry.Stop()
	for {
		last := false
		select {
		case <-s.wake:
			select { // a knob that turns is one write, not thirty
			case <-time.After(saveDelay):
			case <-ctx.Done():
				last = true
			}
		case <-retry.C:
		case <-ctx.Done():
			last = true
		}
		r := s.newest.Swap(nil)
		if r != nil {
			err := s.write(r)
			if err != nil {
				s.newest.CompareAndSwap(nil, r)
				retry.Reset(again)
				s.log.Error("records not saved, will try again", slog.Any("err", err), slog.Duration("retry", again))
			}
			s.failed(err)
		}
		if last {
			return
		}
	}
}

func (s *store) write(r *records) error {
	if s.dir == "" {
		return nil
	}
	if err := writeJSON(filepath.Join(s.dir, playersFile), playersDoc{Version: 1, Players: r.Players}); err != nil {
		return err
	}
	return writeJSON(filepath.Join(s.dir, groupsFile), groupsDoc{Version: 1, Groups: r.Groups})
}

func writeJSON(path string, doc any) error {
	data, err := json.MarshalIndent(doc, "", "  ")
	if err != nil {
		return fmt.Errorf("encode %s: %w", filepath.Base(path), err)
	}
	return writeFile(path, append(data, '\n'))
}

// writeFile replaces path atomically: temporary file, fsync, rename. A crash
// leaves the old or the new content, never a part.
func writeFile(path string, data []byte) (err error) {
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+"-*") // mode 0600
	if err != nil {
		return fmt.Errorf("save: %w", err)
	}
	defer func() {
		if err != nil {
			_ = f.Close()
			_ = os.Remove(f.Name())
			err = fmt.Errorf("save: %w", err)
		}
	}()
	if _, err = f.Write(data); err != nil {
		return err
	}
	if err = f.Sync(); err != nil {
		return err
	}
	if err = f.Close(); err != nil {
		return err
	}
	return os.Rename(f.Name(), path)
}

// identity returns the server id that the stored key stands for: the
// base64url form of an X25519 public key, as the current protocol wants it.
// The key is made on the first start. A damaged one is set aside and replaced.
func (s *store) identity() (string, error) {
	if s.dir == "" {
		key, err := ecdh.X25519().GenerateKey(rand.Reader)
		if err != nil {
			return "", fmt.Errorf("identity: %w", err)
		}
		return serverID(key), nil
	}
	path := filepath.Join(s.dir, identityFile)
	data, err := os.ReadFile(path)
	if err == nil {
		if err := os.Chmod(path, 0o600); err != nil { // it may have been copied
			return "", fmt.Errorf("identity: %w", err)
		}
		key, err := parseIdentity(data)
		if err == nil {
			return serverID(key), nil
		}
		if err := s.setAside(path, err); err != nil {
			return "", err
		}
	} else if !errors.Is(err, fs.ErrNotExist) {
		return "", fmt.Errorf("identity: %w", err)
	}
	key, err := ecdh.X25519().GenerateKey(rand.Reader)
	if err != nil {
		return "", fmt.Errorf("identity: %w", err)
	}
	text := base64.RawURLEncoding.EncodeToString(key.Bytes()) + "\n"
	if err := writeFile(path, []byte(text)); err != nil {
		return "", fmt.Errorf("identity: %w", err)
	}
	return serverID(key), nil
}

func parseIdentity(data []byte) (*ecdh.PrivateKey, error) {
	raw, err := base64.RawURLEncoding.DecodeString(strings.TrimSpace(string(data)))
	if err != nil {
		return nil, errors.New("not base64url") // never the bytes: this is a secret
	}
	return ecdh.X25519().NewPrivateKey(raw)
}

func serverID(key *ecdh.PrivateKey) string {
	return base64.RawURLEncoding.EncodeToString(key.PublicKey().Bytes())
}
