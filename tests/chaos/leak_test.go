package chaos

import (
	"bytes"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"path/filepath"
	"runtime/pprof"
	"strings"
	"testing"

	"resonatebridge/tests/internal/facts"
)

// leaked asks the garbage collector for goroutines that wait for what nobody can
// reach any more, while everything runs. It needs the experiment
// goroutineleakprofile of Go 1.26, which make chaos sets.
func leaked(t *testing.T, n *facts.Notes) {
	t.Helper()
	p := pprof.Lookup("goroutineleak")
	if p == nil {
		return
	}
	var stacks bytes.Buffer
	if err := p.WriteTo(&stacks, 1); err != nil { // this looks for them
		t.Fatal(err)
	}
	if got := p.Count(); got != 0 {
		t.Errorf("%d goroutines wait for what nobody can reach:\n%s", got, stacks.String())
	}
	n.Add("goroutines that wait for what nobody can reach, while it runs (Go's leak profile)", p.Count(), "0")
}

// TestEveryPackageLooksForLeaks wants goleak in the tests of each package in
// which, or in whose tests, a goroutine is started.
func TestEveryPackageLooksForLeaks(t *testing.T) {
	type pkg struct{ tested, starts, checked bool }
	pkgs := map[string]*pkg{}
	const root = "../.."
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && path != root && (strings.HasPrefix(d.Name(), ".") || d.Name() == "testdata" || d.Name() == "bin"):
			return fs.SkipDir
		case d.IsDir() || !strings.HasSuffix(path, ".go"):
			return nil
		}
		file, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.SkipObjectResolution)
		if err != nil {
			return err
		}
		p := pkgs[filepath.Dir(path)]
		if p == nil {
			p = &pkg{}
			pkgs[filepath.Dir(path)] = p
		}
		p.tested = p.tested || strings.HasSuffix(path, "_test.go")
		ast.Inspect(file, func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.GoStmt:
				p.starts = true
			case *ast.SelectorExpr:
				p.starts = p.starts || n.Sel.Name == "Go"
				x, _ := n.X.(*ast.Ident)
				p.checked = p.checked || x != nil && x.Name == "goleak" && strings.HasPrefix(n.Sel.Name, "Verify")
			}
			return true
		})
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	checked := 0
	for dir, p := range pkgs {
		if p.checked {
			checked++
		}
		if p.tested && p.starts && !p.checked {
			t.Errorf("%s: goroutines are started here and its tests do not look for leaked ones: want goleak.VerifyTestMain", dir)
		}
	}
	if checked < 10 {
		t.Errorf("got %d packages with goleak, want those that had it", checked)
	}
}
