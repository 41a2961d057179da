package extproc_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"unicode"
)

// places are the packages that the tour names by their last element.
var places = map[string]string{
	"approval": "extproc/approval", "config": "extproc/config", "evidence": "extproc/evidence", "gate": "extproc/gate", "identity": "extproc/identity",
	"policy": "extproc/policy", "redact": "extproc/redact", "web": "extproc/inspect/web", "xds": "xds", "Server": "extproc",
}

var (
	symbol = regexp.MustCompile(`\b(approval|config|evidence|gate|identity|policy|redact|web|xds)\.([A-Z]\w*)(?:\.([A-Z]\w*))?`)
	method = regexp.MustCompile(`\[(Server)\.([A-Z]\w*)\]`)
	tests  = regexp.MustCompile(`\b(?:Test|Fuzz|Benchmark)[A-Z]\w*`)
)

// What the tour names is there.
func TestTheTourNamesWhatIsThere(t *testing.T) {
	text := read(t, "extproc/doc.go")
	for _, m := range symbol.FindAllStringSubmatch(text, -1) {
		names := exported(t, places[m[1]])
		if !names[m[2]] || m[3] != "" && !names[m[2]+"."+m[3]] {
			t.Errorf("doc.go names %s, which is not there", m[0])
		}
	}
	for _, m := range method.FindAllStringSubmatch(text, -1) {
		if !exported(t, "extproc")[m[1]+"."+m[2]] {
			t.Errorf("doc.go names %s, which is not there", m[0])
		}
	}
}

// A test that a text names as proof is there to be run.
func TestNamedTestsAreThere(t *testing.T) {
	there := map[string]bool{}
	err := filepath.WalkDir("..", func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if e.IsDir() && path != ".." && strings.HasPrefix(e.Name(), ".") {
			return fs.SkipDir
		}
		if strings.HasSuffix(path, "_test.go") {
			for name := range functions(t, path) {
				there[name] = true
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range append(documents(t), "extproc/doc.go") {
		for _, name := range tests.FindAllString(read(t, file), -1) {
			if !there[name] {
				t.Errorf("%s names %s, which is not there", file, name)
			}
		}
	}
}

// documents are the tracked Markdown files.
func documents(t *testing.T) []string {
	t.Helper()
	return slices.DeleteFunc(tracked(t), func(file string) bool { return !strings.HasSuffix(file, ".md") })
}

func TestReadmeIsForTheFirstHour(t *testing.T) {
	if lines := strings.Count(read(t, "README.md"), "\n"); lines >= 500 {
		t.Errorf("README.md has %d lines: what is not for the first hour belongs into a document beside its code", lines)
	}
}

var (
	fence   = regexp.MustCompile("(?ms)^ *```.*?^ *```$")
	link    = regexp.MustCompile(`\]\(([^)\s]+)\)`)
	heading = regexp.MustCompile(`(?m)^#+ +(.+)$`)
)

// Every link of a document to a file, a directory or a heading of the repository leads there.
func TestLinksLeadSomewhere(t *testing.T) {
	there := map[string]bool{}
	for _, file := range tracked(t) {
		for ; file != "."; file = path.Dir(file) {
			there[file] = true
		}
	}
	followed := 0
	for _, file := range documents(t) {
		for _, m := range link.FindAllStringSubmatch(fence.ReplaceAllString(read(t, file), ""), -1) {
			if strings.Contains(m[1], "://") {
				continue
			}
			followed++
			to, anchor, _ := strings.Cut(m[1], "#")
			target := file
			if to != "" {
				target = path.Join(path.Dir(file), to)
			}
			if !there[target] || anchor != "" && !slices.Contains(anchors(t, target), anchor) {
				t.Errorf("%s: %s leads nowhere", file, m[1])
			}
		}
	}
	if followed < 50 {
		t.Errorf("only %d links were found", followed)
	}
}

// anchors are the names by which a link reaches the headings of a document: small letters, a hyphen for a space, no punctuation.
func anchors(t *testing.T, file string) []string {
	t.Helper()
	var list []string
	for _, m := range heading.FindAllStringSubmatch(fence.ReplaceAllString(read(t, file), ""), -1) {
		list = append(list, strings.Map(func(r rune) rune {
			switch {
			case r == ' ':
				return '-'
			case r == '-', r == '_', unicode.IsLetter(r), unicode.IsDigit(r):
				return unicode.ToLower(r)
			}
			return -1
		}, m[1]))
	}
	return list
}

func read(t *testing.T, file string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("..", file))
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// exported are the types, functions, constants, methods ("T.M") and fields ("T.F") of a package.
func exported(t *testing.T, dir string) map[string]bool {
	t.Helper()
	files, err := filepath.Glob(filepath.Join("..", dir, "*.go"))
	if err != nil {
		t.Fatal(err)
	}
	names := map[string]bool{}
	for _, file := range files {
		if !strings.HasSuffix(file, "_test.go") {
			for name := range functions(t, file) {
				names[name] = true
			}
		}
	}
	return names
}

func functions(t *testing.T, file string) map[string]bool {
	t.Helper()
	f, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.SkipObjectResolution)
	if err != nil {
		t.Fatal(err)
	}
	names := map[string]bool{}
	for _, d := range f.Decls {
		switch d := d.(type) {
		case *ast.FuncDecl:
			names[receiver(d)+d.Name.Name] = true
		case *ast.GenDecl:
			for _, s := range d.Specs {
				switch s := s.(type) {
				case *ast.TypeSpec:
					names[s.Name.Name] = true
				case *ast.ValueSpec:
					for _, n := range s.Names {
						names[n.Name] = true
					}
				}
			}
		}
	}
	return names
}

// receiver is the type of a method and a dot, or nothing.
func receiver(d *ast.FuncDecl) string {
	if d.Recv == nil || len(d.Recv.List) == 0 {
		return ""
	}
	expr := d.Recv.List[0].Type
	if star, ok := expr.(*ast.StarExpr); ok {
		expr = star.X
	}
	if name, ok := expr.(*ast.Ident); ok {
		return name.Name + "."
	}
	return ""
}
