package table

import (
	"go/parser"
	"go/token"
	"testing"
)

// TestEveryGuardIsWhereItWas keeps the table from rotting: each guard stands
// once in its file, and what takes its place is Go.
func TestEveryGuardIsWhereItWas(t *testing.T) {
	seen := map[string]bool{}
	for _, m := range All() {
		if seen[m.ID] {
			t.Errorf("mutant %s is there twice", m.ID)
		}
		seen[m.ID] = true
		if m.Row() == m.ID || len(m.Edits) == 0 || m.Test.Package == "" || m.Test.Run == "" {
			t.Errorf("mutant %q: got %d edits and test %+v, want row/guard, an edit and a test", m.ID, len(m.Edits), m.Test)
		}
		files, err := m.Apply("../../../..")
		if err != nil {
			t.Error(err)
			continue
		}
		for name, text := range files {
			if _, err := parser.ParseFile(token.NewFileSet(), name, text, parser.SkipObjectResolution); err != nil {
				t.Errorf("mutant %s: %v", m.ID, err)
			}
		}
	}
}
