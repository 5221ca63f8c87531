// Package secretfile replaces files that hold secrets, or that nobody may find
// half written.
package secretfile

import (
	"fmt"
	"os"
	"path/filepath"
)

// Replace writes path atomically, with mode 0600: temporary file, fsync,
// rename. A crash leaves the old or the new content, never a part, and maybe a
// file whose name begins with [Unfinished].
func Replace(path string, data []byte) (err error) {
	f, err := os.CreateTemp(filepath.Dir(path), Unfinished(filepath.Base(path))+"*") // mode 0600
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

// Unfinished is how the name of a file begins while it is written.
func Unfinished(name string) string { return "." + name + "-" }
