package app

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"github.com/gofrs/flock"
)

const (
	// lockFile is locked as long as a bridge uses the directory. The kernel lets
	// go of it when the process ends, however that happens.
	lockFile = "bridge.lock"
	// startsFile has the newest starts, for people and against storms.
	startsFile = "starts.json"
	// Three starts within a minute are a boot loop (races: B26).
	stormStarts = 3
	stormTime   = time.Minute
)

// start is one start of a bridge on a data directory.
type start struct {
	At   time.Time `json:"at"` // wall clock
	PID  int       `json:"pid"`
	Host string    `json:"host"`
}

func (s start) String() string {
	return fmt.Sprintf("process %d on %s, started %s", s.PID, s.Host, s.At.Format(time.RFC3339))
}

// dataDir is the use of a data directory by one bridge alone.
type dataDir struct {
	lock   *flock.Flock
	starts []start // the newest ones, this one last
}

// openDataDir claims dir for this process and notes the start. Two bridges that
// write the same records would undo each other's, so that is an error; what
// keeps the lock from being taken at all, such as a read-only directory, is only
// logged: then nobody writes, or the server says what is wrong.
func openDataDir(dir string, now time.Time, log *slog.Logger) (*dataDir, error) {
	path := filepath.Join(dir, lockFile)
	d := &dataDir{lock: flock.New(path)}
	starts := filepath.Join(dir, startsFile)
	if data, err := os.ReadFile(starts); err == nil {
		_ = json.Unmarshal(data, &d.starts) // damaged ones are as good as none
	}
	err := os.MkdirAll(dir, 0o700)
	if err == nil {
		var taken bool
		taken, err = d.lock.TryLock()
		if err == nil && !taken {
			by := "another bridge"
			if n := len(d.starts); n > 0 {
				by += " (" + d.starts[n-1].String() + ")"
			}
			return nil, fmt.Errorf("data_dir: %s is locked by %s: stop that one, or set another data_dir for one of the two", path, by)
		}
	}
	if err != nil {
		log.Warn("data_dir can't be locked; make sure that no other bridge uses it", slog.String("file", path), slog.Any("err", err))
	}
	host, _ := os.Hostname() // for people only
	d.starts = append(d.starts, start{now.Round(0).UTC(), os.Getpid(), host})
	d.starts = d.starts[max(0, len(d.starts)-stormStarts):]
	data, err := json.Marshal(d.starts)
	if err == nil {
		err = os.WriteFile(starts, append(data, '\n'), 0o600)
	}
	if err != nil { // the server says it where people see it
		log.Debug("start not noted", slog.Any("err", err))
	}
	return d, nil
}

// storm reports whether the bridge starts again and again.
func (d *dataDir) storm() bool {
	if len(d.starts) < stormStarts {
		return false
	}
	first, last := d.starts[0].At, d.starts[len(d.starts)-1].At
	took := last.Sub(first)
	return took >= 0 && took < stormTime // a clock that was set back says nothing
}

// close lets the next one in.
func (d *dataDir) close() { _ = d.lock.Close() } // the kernel does it at the latest at the end
