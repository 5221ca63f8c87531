// Package table lists the guards of the catalogue of races and how to take
// each of them out. It is data for the program above it, and for the test that
// keeps both in step with the catalogue.
package table

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// Mutant is the product without one of its guards, or with a known defect put
// back, and the test that must notice.
type Mutant struct {
	ID    string // "row/guard", e.g. "RC-10/next"
	Edits []Edit // more than one where a second layer would hide the loss of the first
	Test  Test
}

// Row is the row of the catalogue that the guard belongs to.
func (m Mutant) Row() string {
	row, _, _ := strings.Cut(m.ID, "/")
	return row
}

// Edit replaces a text of a file.
type Edit struct {
	File string // from the root of the module
	Old  string // the guard; occurs exactly once
	New  string // what stands there without it; compiles
}

// Test names tests of one package.
type Test struct {
	Package string // directory from the root of the module
	Run     string // for go test -run
	Race    bool   // only the race detector sees it
}

// Apply returns the mutated text of each file of m, by its name from the root
// of the module. The error says which guard is not where the table says.
func (m Mutant) Apply(root string) (map[string]string, error) {
	out := make(map[string]string, len(m.Edits))
	for _, e := range m.Edits {
		text, ok := out[e.File]
		if !ok {
			data, err := os.ReadFile(filepath.Join(root, filepath.FromSlash(e.File)))
			if err != nil {
				return nil, fmt.Errorf("mutant %s: %w", m.ID, err)
			}
			text = string(data)
		}
		if n := strings.Count(text, e.Old); n != 1 {
			return nil, fmt.Errorf("mutant %s: %s has its guard %d times, want once; the text is:\n%s", m.ID, e.File, n, e.Old)
		}
		out[e.File] = strings.Replace(text, e.Old, e.New, 1)
	}
	return out, nil
}
