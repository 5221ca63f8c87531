package app

import (
	"bytes"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// Two bridges never share a data directory, and the second one says who has it.
func TestDataDirIsLocked(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "data") // made on the first start
	silent := slog.New(slog.DiscardHandler)
	one, err := openDataDir(dir, time.Now(), silent)
	if err != nil {
		t.Fatal(err)
	}
	_, err = openDataDir(dir, time.Now(), silent)
	if err == nil {
		t.Fatal("the second bridge got the directory, too")
	}
	for _, want := range []string{filepath.Join(dir, lockFile), "process ", "stop that one", "data_dir"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("the error does not say %q: %v", want, err)
		}
	}
	one.close()
	two, err := openDataDir(dir, time.Now(), silent)
	if err != nil {
		t.Fatalf("after the first one ended: %v", err)
	}
	two.close()
}

// A directory that can't be locked is no reason not to start.
func TestDataDirCantBeLocked(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	var log bytes.Buffer
	d, err := openDataDir(filepath.Join(file, "data"), time.Now(), slog.New(slog.NewTextHandler(&log, nil)))
	if err != nil {
		t.Fatal(err)
	}
	d.close()
	if !strings.Contains(log.String(), "can't be locked") {
		t.Errorf("the log does not say it: %s", log.String())
	}
}

// Three starts within a minute are a storm, whatever the clock does (races: B26).
func TestStartsInARow(t *testing.T) {
	noon := time.Date(2026, 11, 1, 12, 0, 0, 0, time.UTC)
	for _, tc := range []struct {
		name string
		at   []time.Duration
		want bool
	}{
		{"first", []time.Duration{0}, false},
		{"two", []time.Duration{0, time.Second}, false},
		{"three within a minute", []time.Duration{0, 30 * time.Second, 59 * time.Second}, true},
		{"three over a minute", []time.Duration{0, 30 * time.Second, 60 * time.Second}, false},
		{"the last three count", []time.Duration{0, time.Hour, time.Hour + 1, time.Hour + 2}, true},
		{"clock set back", []time.Duration{time.Hour, time.Second, 2 * time.Second}, false},
		{"and on from there", []time.Duration{time.Hour, 1, 2, 3}, true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			dir := t.TempDir()
			got := false
			for _, at := range tc.at {
				d, err := openDataDir(dir, noon.Add(at), slog.New(slog.DiscardHandler))
				if err != nil {
					t.Fatal(err)
				}
				got = d.storm()
				d.close()
			}
			if got != tc.want {
				t.Errorf("got %v, want %v", got, tc.want)
			}
		})
	}
	t.Run("damaged file", func(t *testing.T) {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, startsFile), []byte("[{"), 0o600); err != nil {
			t.Fatal(err)
		}
		d, err := openDataDir(dir, noon, slog.New(slog.DiscardHandler))
		if err != nil || d.storm() || len(d.starts) != 1 {
			t.Errorf("got %+v, %v; want one start", d, err)
		}
		d.close()
	})
}
