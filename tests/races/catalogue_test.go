package races

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"maps"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"resonatebridge/tests/races/mutants/table"
)

// row is one row of the catalogue's tables.
type row struct {
	id      string
	guards  map[string][]string // identifiers by file, as they are written
	tests   []string
	mutants []string
}

var (
	rowID    = regexp.MustCompile(`^(RC-|X|G|B|F|S|T)[0-9]+$`)
	codeSpan = regexp.MustCompile("`([^`]+)`")
)

// readCatalogue parses the tables of the README.
func readCatalogue(t *testing.T) map[string]row {
	t.Helper()
	text, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	rows := map[string]row{}
	for n, line := range strings.Split(string(text), "\n") {
		cells := strings.Split(line, "|")
		for i := range cells {
			cells[i] = strings.TrimSpace(cells[i])
		}
		if len(cells) < 2 || !rowID.MatchString(cells[1]) {
			continue
		}
		where := fmt.Sprintf("README.md:%d: row %s", n+1, cells[1])
		if len(cells) != 9 {
			t.Fatalf("%s: got %d cells, want 7", where, len(cells)-2)
		}
		r := row{id: cells[1], guards: map[string][]string{}, tests: spans(cells[6]), mutants: spans(cells[7])}
		file := ""
		for _, s := range spans(cells[5]) {
			if strings.HasSuffix(s, ".go") {
				file = s
				r.guards[file] = nil
				continue
			}
			r.guards[file] = append(r.guards[file], s)
		}
		for i, what := range []string{"row", "claim or hazard", "view of the user", "invariant", "guard", "tests"} {
			if cells[i+1] == "" {
				t.Errorf("%s: no %s", where, what)
			}
		}
		if _, ok := rows[r.id]; ok {
			t.Errorf("%s: there is another one", where)
		}
		rows[r.id] = r
	}
	return rows
}

// spans are the texts between backquotes.
func spans(cell string) (out []string) {
	for _, m := range codeSpan.FindAllStringSubmatch(cell, -1) {
		out = append(out, m[1])
	}
	return out
}

// TestCatalogue holds the tables of the README against the code: every row is
// there once, and every guard, test and mutant that it names exists.
func TestCatalogue(t *testing.T) {
	const root = "../.."
	rows := readCatalogue(t)
	for _, x := range []struct {
		prefix string
		last   int
	}{{"RC-", 10}, {"X", 6}, {"G", 9}, {"B", 29}, {"S", 18}} {
		for n := range x.last {
			if id := fmt.Sprint(x.prefix, n+1); rows[id].id == "" {
				t.Errorf("there is no row %s", id)
			}
		}
	}
	code := readCode(t, root)
	mutants := map[string]table.Mutant{}
	for _, m := range table.All() {
		mutants[m.ID] = m
	}
	named := map[string]bool{}
	for _, id := range slices.Sorted(maps.Keys(rows)) {
		r := rows[id]
		files := map[string]bool{}
		for file, idents := range r.guards {
			full := code.file(file)
			if len(full) != 1 {
				t.Errorf("%s: guard %s: got files %v, want one", id, file, full)
				continue
			}
			files[full[0]] = true
			if len(idents) == 0 {
				t.Errorf("%s: guard %s: no identifier is named", id, file)
			}
			for _, ident := range idents {
				if !code.idents[full[0]][ident] {
					t.Errorf("%s: guard %s: %s has no %s", id, file, full[0], ident)
				}
			}
		}
		tests := map[string]bool{}
		for _, test := range r.tests {
			tests[test] = true
			if !code.tests[test] {
				t.Errorf("%s: there is no test %s", id, test)
			}
		}
		for _, name := range r.mutants {
			full := name
			if !strings.Contains(name, "/") {
				full = id + "/" + name
			}
			m, ok := mutants[full]
			if !ok {
				t.Errorf("%s: there is no mutant %s", id, full)
				continue
			}
			named[full] = true
			if m.Row() != id {
				continue // its own row says the rest
			}
			for _, e := range m.Edits {
				if !files[e.File] {
					t.Errorf("%s: mutant %s takes something out of %s, which is no guard of the row", id, full, e.File)
				}
			}
			for _, test := range strings.Split(m.Test.Run, "|") {
				test, _, _ = strings.Cut(test, "/")
				if test = path.Base(m.Test.Package) + "." + strings.Trim(test, "^$"); !tests[test] {
					t.Errorf("%s: mutant %s is to be noticed by %s, which the row does not name", id, full, test)
				}
			}
		}
	}
	for _, id := range slices.Sorted(maps.Keys(mutants)) {
		if m := mutants[id]; !named[id] || rows[m.Row()].id == "" {
			t.Errorf("mutant %s stands in no row", id)
		}
	}
}

// code is what the tree declares.
type code struct {
	idents map[string]map[string]bool // by file, from the root: "Func", "Type", "Type.Method", "Type.Field"
	tests  map[string]bool            // "package.TestName"
}

// file finds the files whose name ends with name, as whole path elements.
func (c code) file(name string) (full []string) {
	for f := range c.idents {
		if f == name || strings.HasSuffix(f, "/"+name) {
			full = append(full, f)
		}
	}
	return full
}

func readCode(t *testing.T, root string) code {
	t.Helper()
	c := code{map[string]map[string]bool{}, map[string]bool{}}
	err := filepath.WalkDir(root, func(name string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && (d.Name() == "testdata" || (strings.HasPrefix(d.Name(), ".") && name != root)):
			return filepath.SkipDir
		case d.IsDir() || filepath.Ext(name) != ".go":
			return nil
		}
		f, err := parser.ParseFile(token.NewFileSet(), name, nil, parser.SkipObjectResolution)
		if err != nil {
			return err
		}
		short, err := filepath.Rel(root, name)
		if err != nil {
			return err
		}
		short = filepath.ToSlash(short)
		c.idents[short] = declared(f)
		if strings.HasSuffix(short, "_test.go") {
			for ident := range c.idents[short] {
				if strings.HasPrefix(ident, "Test") || strings.HasPrefix(ident, "Fuzz") {
					c.tests[path.Base(path.Dir(short))+"."+ident] = true
				}
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// declared are the package-level names of f, methods and fields with their type.
func declared(f *ast.File) map[string]bool {
	names := map[string]bool{}
	for _, d := range f.Decls {
		switch d := d.(type) {
		case *ast.FuncDecl:
			name := d.Name.Name
			if d.Recv != nil {
				name = receiver(d.Recv.List[0].Type) + "." + name
			}
			names[name] = true
		case *ast.GenDecl:
			for _, s := range d.Specs {
				switch s := s.(type) {
				case *ast.ValueSpec:
					for _, n := range s.Names {
						names[n.Name] = true
					}
				case *ast.TypeSpec:
					names[s.Name.Name] = true
					if st, ok := s.Type.(*ast.StructType); ok {
						for _, field := range st.Fields.List {
							for _, n := range field.Names {
								names[s.Name.Name+"."+n.Name] = true
							}
						}
					}
				}
			}
		}
	}
	return names
}

// receiver is the type's name of a method, without pointer and parameters.
func receiver(e ast.Expr) string {
	switch e := e.(type) {
	case *ast.StarExpr:
		return receiver(e.X)
	case *ast.IndexExpr:
		return receiver(e.X)
	case *ast.IndexListExpr:
		return receiver(e.X)
	case *ast.Ident:
		return e.Name
	}
	return ""
}
