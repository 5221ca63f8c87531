//go:build linux

package chaos

import (
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"resonatebridge/tests/internal/facts"
	"resonatebridge/tests/internal/scene"
)

const recordsSection = "Faults of the disk"

// disk is a small file system in memory, mounted for the test.
func disk(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	if os.Geteuid() != 0 {
		t.Skip("a disk that is full or read-only takes a mount, and that takes root")
	}
	if err := syscall.Mount("chaos", dir, "tmpfs", 0, "size=64k,mode=0700"); err != nil {
		t.Skipf("no file system can be mounted here: %v", err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(dir, syscall.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	return dir
}

// records reads what the bridge remembers of its speakers: their names by id.
func (h *household) records() (map[string]string, error) {
	data, err := os.ReadFile(filepath.Join(h.dir, "players.json"))
	if err != nil {
		return nil, err
	}
	var doc struct {
		Players []struct {
			ID    string `json:"id"`
			Given string `json:"given_name"`
		} `json:"players"`
	}
	if err := json.Unmarshal(data, &doc); err != nil {
		return nil, fmt.Errorf("%w: %.200q", err, data)
	}
	names := map[string]string{}
	for _, p := range doc.Players {
		names[p.ID] = p.Given
	}
	return names, nil
}

// rename gives a speaker a name, which is a choice to be remembered.
func (h *household) rename(id, name string) {
	h.Helper()
	h.watch.Ask("resonate/bridge/request/device/rename", "resonate/bridge/response/device/rename", map[string]any{"id": id, "name": name})
}

// remembers waits until the name is in the records.
func (h *household) remembers(id, name string) {
	h.Helper()
	h.until("the records have "+name, func() bool {
		names, err := h.records()
		return err == nil && names[id] == name
	})
}

// troubled reports whether the bridge says that its records can't be saved.
func troubled(t scene.Topics) bool {
	problems, _ := t.Object("resonate/bridge/info")["problems"].([]any)
	return slices.ContainsFunc(problems, func(p any) bool { return strings.Contains(fmt.Sprint(p), "can't be saved") })
}

// TestDiskFails fills the disk of the records, or makes it read-only, while the
// bridge runs: it goes on working, says what is wrong, and saves when it can.
func TestDiskFails(t *testing.T) {
	takes(t, "a minute")
	for _, c := range []struct {
		name          string
		breaks, mends func(dir string) error
	}{
		{"full", fill, func(dir string) error { return os.Remove(filepath.Join(dir, "filler")) }},
		{"read-only", remount(syscall.MS_RDONLY), remount(0)},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			notes := facts.Begin(t, recordsSection)
			dir := disk(t)
			h := newHousehold(t, "RESONATE_DATA_DIR="+dir)
			h.dir = dir
			h.rename(h.dialsID, "Before")
			h.remembers(h.dialsID, "Before")
			if err := c.breaks(dir); err != nil {
				t.Fatal(err)
			}
			h.rename(h.dialsID, "Meanwhile")
			began := time.Now()
			h.watch.Until("the bridge says that it can't save", troubled)
			notes.Add("disk "+c.name+", said by the bridge", time.Since(began), "")
			h.converges()
			if names, err := h.records(); err != nil || names[h.dialsID] != "Before" {
				t.Errorf("records on the broken disk: got %v, %v; want them as they were", names, err)
			}
			if err := c.mends(dir); err != nil {
				t.Fatal(err)
			}
			began = time.Now()
			h.remembers(h.dialsID, "Meanwhile")
			notes.Add("disk mended, what was missed is saved", time.Since(began), "10 s")
			h.watch.Until("the bridge has no complaint", func(t scene.Topics) bool { return !troubled(t) })
			if left := leftovers(t, dir); len(left) > 0 {
				t.Errorf("left behind: %v", left)
			}
		})
	}
}

// fill leaves no byte free.
func fill(dir string) error {
	f, err := os.Create(filepath.Join(dir, "filler"))
	if err != nil {
		return err
	}
	for piece := make([]byte, 1<<10); err == nil; {
		_, err = f.Write(piece)
	}
	if !errors.Is(err, syscall.ENOSPC) {
		return err
	}
	return f.Close()
}

func remount(flags uintptr) func(dir string) error {
	return func(dir string) error {
		return syscall.Mount("chaos", dir, "tmpfs", syscall.MS_REMOUNT|flags, "size=64k")
	}
}

// leftovers are files in the records' folder that nobody will read.
func leftovers(t *testing.T, dir string) (names []string) {
	t.Helper()
	files, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		if strings.HasPrefix(f.Name(), ".") {
			names = append(names, f.Name())
		}
	}
	return names
}

// TestReadOnlyFromTheStart starts the bridge with records that it can't write.
func TestReadOnlyFromTheStart(t *testing.T) {
	takes(t, "half a minute")
	t.Parallel()
	dir := disk(t)
	h := newHousehold(t, "RESONATE_DATA_DIR="+dir)
	h.dir = dir
	h.rename(h.dialsID, "Before")
	h.remembers(h.dialsID, "Before")
	h.ends(h.bridge, syscall.SIGTERM)
	if err := remount(syscall.MS_RDONLY)(dir); err != nil {
		t.Fatal(err)
	}
	h.bridge.Start()
	h.watch.Until("the name is remembered", func(topics scene.Topics) bool {
		return topics.Object(topic(h.dialsID, "state"))["name"] == "Before"
	})
	h.converges()
	h.rename(h.dialsID, "Meanwhile")
	h.watch.Until("the bridge says that it can't save", troubled)
	h.converges()
}

// TestDamagedRecords starts the bridge with files that are no JSON: they are set
// aside, it says so, and everything comes right without them.
func TestDamagedRecords(t *testing.T) {
	t.Parallel()
	h := newHousehold(t)
	h.ends(h.bridge, syscall.SIGTERM)
	damage := map[string]string{"players.json": `{"version":1,"players":[{"id":"soft`, "groups.json": "\x00\x00\x00"}
	for name, text := range damage {
		if err := os.WriteFile(filepath.Join(h.dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	h.bridge.Start()
	h.converges()
	for name, text := range damage {
		aside, err := filepath.Glob(filepath.Join(h.dir, name+".damaged-*"))
		if err != nil || len(aside) != 1 {
			t.Fatalf("%s: set aside as %v, %v; want one file", name, aside, err)
		}
		if got, err := os.ReadFile(aside[0]); err != nil || string(got) != text {
			t.Errorf("%s: got %q, %v; want it as it was found", name, got, err)
		}
		if !h.printed(h.bridge, aside[0]) {
			t.Errorf("%s: the bridge does not say where it is now", name)
		}
	}
}

// TestKilledWhileSaving kills the bridge at twenty points around the writing of
// its records: each file is always whole, the old one or the new one.
func TestKilledWhileSaving(t *testing.T) {
	takes(t, "a minute")
	t.Parallel()
	notes := facts.Begin(t, recordsSection)
	h := newHousehold(t)
	h.rename(h.dialsID, "Name 0")
	h.remembers(h.dialsID, "Name 0")
	old, torn := 0, 0
	const times = 20
	for i := range times {
		before, after := fmt.Sprintf("Name %d", i), fmt.Sprintf("Name %d", i+1)
		saving := h.saving()
		h.rename(h.dialsID, after)
		saving()
		h.ends(h.bridge, syscall.SIGKILL)
		torn += len(leftovers(t, h.dir))
		names, err := h.records()
		switch {
		case err != nil || names[h.dialsID] != before && names[h.dialsID] != after:
			t.Fatalf("killed for the %dth time: got the records %v, %v; want %q or %q", i+1, names, err, before, after)
		case names[h.dialsID] == before:
			old++
		}
		for _, name := range []string{"groups.json", "identity.key"} {
			data, err := os.ReadFile(filepath.Join(h.dir, name))
			if err != nil || len(data) == 0 || name == "groups.json" && !json.Valid(data) {
				t.Fatalf("killed for the %dth time: %s: got %q, %v", i+1, name, data, err)
			}
		}
		h.bridge.Start()
		life := fmt.Sprint("life ", i+1)
		h.nagging("resonate/bridge/request/device/rename", fmt.Sprintf(`{"id":%q,"name":%q,"transaction":%q}`, h.dialsID, after, life), func(t scene.Topics) bool {
			return t.Object("resonate/bridge/response/device/rename")["transaction"] == life
		})
		h.remembers(h.dialsID, after)
	}
	notes.Add("kills while records were written", fmt.Sprintf("%d: %d times the old file, %d the new one, %d unfinished beside it", times, old, times-old, torn), "always a whole file")
	if left := leftovers(t, h.dir); len(left) > 0 {
		t.Errorf("left behind by earlier lives: %v", left)
	}
}

// saving returns a function that waits for a random moment in or just after the
// next writing of the records, which begins with a new file in their folder.
func (h *household) saving() (wait func()) {
	h.Helper()
	state := func() (s string) {
		files, err := os.ReadDir(h.dir)
		if err != nil {
			h.Fatal(err)
		}
		for _, f := range files {
			if info, err := f.Info(); err == nil { // else it is gone already
				s += fmt.Sprint(f.Name(), info.ModTime().UnixNano(), " ")
			}
		}
		return s
	}
	before := state()
	return func() {
		h.Helper()
		for began := time.Now(); state() == before; { // without a pause: a file is written in less than a millisecond
			if time.Since(began) > h.watch.Patience {
				h.Fatal("the records are not written")
			}
		}
		time.Sleep(rand.N(2 * time.Millisecond))
	}
}
