package resonate

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"resonatebridge/resonate/internal/secretfile"
	"resonatebridge/resonate/pairing"
	"resonatebridge/resonate/protocol"
)

// Files in the data directory (design: 4.4).
const (
	identityFile = "identity.key"
	pairingsFile = "pairings.json"
	playersFile  = "players.json"
	groupsFile   = "groups.json"
)

// playerRecord is what is remembered of a player.
type playerRecord struct {
	PID       string       `json:"id"`
	ClientID  string       `json:"client_id,omitempty"` // empty: advertised, never met
	Keys      []string     `json:"keys,omitempty"`      // discovery keys that turned out to be this player
	Added     []string     `json:"added,omitempty"`     // of these, addresses that a person added
	GivenName string       `json:"given_name,omitempty"`
	Name      string       `json:"name,omitempty"` // its own
	Custody   Custody      `json:"custody,omitempty"`
	MaxVolume int          `json:"max_volume,omitempty"`
	Announce  *int         `json:"announce_volume,omitempty"`
	Volume    *int         `json:"volume,omitempty"`
	Mute      *bool        `json:"mute,omitempty"`
	DelayMs   *int         `json:"delay_ms,omitempty"`
	Previous  string       `json:"previous,omitempty"` // group before it was parked alone
	Parked    bool         `json:"parked,omitempty"`   // only switch or a person brings it back there
	Dialect   string       `json:"dialect,omitempty"`
	Roles     []string     `json:"roles,omitempty"`
	Maker     string       `json:"manufacturer,omitempty"`
	Model     string       `json:"model,omitempty"`
	Software  string       `json:"software_version,omitempty"`
	MAC       string       `json:"mac,omitempty"`
	Restore   *int         `json:"restore_volume,omitempty"` // what it had before an announcement that is not over
	Media     *mediaRecord `json:"media,omitempty"`          // what it played last, alone
	LastSeen  time.Time    `json:"last_seen,omitzero"`
	FirstSeen time.Time    `json:"first_seen,omitzero"`

	Commands []protocol.PlayerCommandName `json:"commands,omitempty"` // that it accepted in its last session

	Approved bool                  `json:"approved,omitempty"`     // may play unpaired
	Methods  []protocol.PairMethod `json:"pair_methods,omitempty"` // that it offered in its last session
}

// groupRecord is what is remembered of a group.
type groupRecord struct {
	ID         string       `json:"id"`
	Name       string       `json:"name"`
	Kind       GroupKind    `json:"kind"`
	Members    []string     `json:"members"`              // present, in joining order
	Remembered []string     `json:"remembered,omitempty"` // named groups only
	Created    time.Time    `json:"created"`
	Media      *mediaRecord `json:"media,omitempty"` // what it played last
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
	dir     string // "" keeps nothing
	log     *slog.Logger
	newest  atomic.Pointer[records]
	wake    chan struct{}
	failed  func(error)                          // told of each failed or (nil) recovered write
	replace func(path string, data []byte) error // [secretfile.Replace]
}

func openStore(dir string, log *slog.Logger) (*store, records, error) {
	s := &store{dir: dir, log: log, wake: make(chan struct{}, 1), failed: func(error) {}, replace: secretfile.Replace}
	if dir == "" {
		return s, records{}, nil
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, records{}, fmt.Errorf("data directory: %w; create it or set data_dir", err)
	}
	s.sweep()
	var players playersDoc
	if err := s.read(playersFile, &players); err != nil {
		return nil, records{}, err
	}
	var groups groupsDoc
	if err := s.read(groupsFile, &groups); err != nil {
		return nil, records{}, err
	}
	return s, s.usable(records{Players: players.Players, Groups: groups.Groups}), nil
}

// usable leaves out what no server writes and a person may: a second record of
// one player, ids that topics can't have, values out of their range.
func (s *store) usable(r records) records {
	pids, clients := map[string]bool{}, map[string]bool{}
	r.Players = slices.DeleteFunc(r.Players, func(p playerRecord) bool {
		ok := topicSafe.MatchString(p.PID) && !reservedID(p.PID) && !pids[p.PID] && (p.ClientID == "" || !clients[p.ClientID])
		if !ok {
			s.log.Warn("a record of a player is not usable and left out: its id is not allowed, or another one has it",
				slog.String("id", p.PID), slog.String("client_id", p.ClientID))
			return true
		}
		pids[p.PID], clients[p.ClientID] = true, true
		return false
	})
	for i := range r.Players {
		p := &r.Players[i]
		for value, top := range map[**int]int{
			&p.Volume: protocol.VolumeMax, &p.Announce: protocol.VolumeMax, &p.Restore: protocol.VolumeMax, &p.DelayMs: protocol.OutputDelayMaxMs,
		} {
			if n := *value; n != nil && (*n < 0 || *n > top) {
				*value = nil
			}
		}
		if p.MaxVolume < 0 || p.MaxVolume > protocol.VolumeMax {
			p.MaxVolume = 0
		}
		switch p.Custody {
		case CustodyAuto, CustodyHold, CustodyObserve, CustodyIgnore:
		default:
			p.Custody = ""
		}
	}
	groups := map[string]bool{}
	r.Groups = slices.DeleteFunc(r.Groups, func(g groupRecord) bool {
		ok := topicSafe.MatchString(g.ID) && !reservedID(g.ID) && !groups[g.ID] &&
			(g.Kind == NamedGroup && !strings.HasPrefix(g.ID, soloPrefix) || g.Kind == AdHocGroup && strings.HasPrefix(g.ID, adHocPrefix))
		groups[g.ID] = true
		return !ok
	})
	for i := range r.Groups {
		g := &r.Groups[i]
		seen := map[string]bool{}
		g.Remembered = slices.DeleteFunc(g.Remembered, func(pid string) bool {
			twice := seen[pid]
			seen[pid] = true
			return twice || !pids[pid]
		})
	}
	return r
}

// sweep removes the files that a crash left unfinished, see writeFile.
func (s *store) sweep() {
	files, err := os.ReadDir(s.dir)
	if err != nil {
		return // reading the records says what is wrong
	}
	for _, f := range files {
		for _, name := range []string{identityFile, pairingsFile, playersFile, groupsFile} {
			if strings.HasPrefix(f.Name(), secretfile.Unfinished(name)) {
				if err := os.Remove(filepath.Join(s.dir, f.Name())); err != nil {
					s.log.Debug("unfinished file not removed", slog.Any("err", err))
				}
			}
		}
	}
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

const (
	saveDelay = time.Second      // while changes are gathered before they are written
	saveAgain = 10 * time.Second // after a write that failed
)

// run writes what save leaves until ctx ends, then once more what is left.
func (s *store) run(ctx context.Context) {
	retry := time.NewTimer(saveAgain)
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
				retry.Reset(saveAgain)
				s.log.Error("records not saved, will try again", slog.Any("err", err), slog.Duration("retry", saveAgain))
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
	if err := s.writeJSON(playersFile, playersDoc{Version: 1, Players: r.Players}); err != nil {
		return err
	}
	return s.writeJSON(groupsFile, groupsDoc{Version: 1, Groups: r.Groups})
}

func (s *store) writeJSON(name string, doc any) error {
	data, err := json.MarshalIndent(doc, "", "  ")
	if err != nil {
		return fmt.Errorf("encode %s: %w", name, err)
	}
	return s.replace(filepath.Join(s.dir, name), append(data, '\n'))
}

// identity returns the stored key pair, which is made on the first start. A
// damaged one is set aside and replaced. A new one that can't be saved is an
// error: a server that is another one after each start is a stranger to every
// speaker, each time.
func (s *store) identity() (pairing.Identity, error) {
	path := filepath.Join(s.dir, identityFile)
	if s.dir != "" {
		id, ok, err := s.readIdentity(path)
		if ok || err != nil {
			return id, err
		}
	}
	id, err := pairing.NewIdentity(rand.Reader)
	if err != nil || s.dir == "" {
		return id, err
	}
	private := id.EncodePrivate()
	defer clear(private)
	if err := s.replace(path, private); err != nil {
		return pairing.Identity{}, fmt.Errorf("data directory: the new identity %s can't be kept: %w; make the directory writable or set data_dir", path, err)
	}
	return id, nil
}

// readIdentity reports false if there is no usable key.
func (s *store) readIdentity(path string) (id pairing.Identity, ok bool, err error) {
	data, err := os.ReadFile(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return id, false, nil
	case err != nil:
		return id, false, fmt.Errorf("data directory: %w; make it readable for this user or set data_dir", err)
	}
	defer clear(data)
	if id, err = pairing.ParseIdentity(data); err != nil {
		return id, false, s.setAside(path, err)
	}
	if err := protect(path); err != nil {
		s.log.Warn("others may read the secret identity", slog.String("file", path), slog.Any("err", err))
	}
	return id, true, nil
}

// protect takes a secret from others, who got it with a copy. On a file system
// that is read-only that is not possible, and no reason not to start.
func protect(path string) error {
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() == 0o600 {
		return err
	}
	return os.Chmod(path, 0o600)
}
