package extproc_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/countersign/countersign"

type goPackage struct {
	ImportPath                         string
	Doc                                string
	Imports, TestImports, XTestImports []string
}

// packages are those of this module, their paths without the module's.
func packages(t *testing.T) []goPackage {
	t.Helper()
	out := run(t, "go", "list", "-json=ImportPath,Doc,Imports,TestImports,XTestImports", "./...")
	var list []goPackage
	for dec := json.NewDecoder(bytes.NewReader(out)); ; {
		var p goPackage
		if err := dec.Decode(&p); errors.Is(err, io.EOF) {
			return list
		} else if err != nil {
			t.Fatalf("decode go list: %v", err)
		}
		p.ImportPath = inner(p.ImportPath)
		list = append(list, p)
	}
}

func inner(path string) string { return strings.TrimPrefix(path, module+"/") }

// run runs a command in the module's root.
func run(t *testing.T, name string, args ...string) []byte {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), name, args...)
	cmd.Dir = ".."
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, stderr.Bytes())
	}
	return out
}

// mayImport says which packages of this module each may import. What is not named may import nothing of it. A name with
// a slash at its end stands for all below it.
var mayImport = map[string][]string{
	"cmd/countersign":                 {"extproc", "extproc/", "xds", "policies", "envoy"},
	"examples/":                       {"extproc/extproctest", "examples/webhook/receiver"},
	"extproc":                         {"extproc/guard", "extproc/gate", "extproc/identity", "extproc/inspect/", "extproc/lane", "extproc/problem", "extproc/redact", "extproc/wire"},
	"extproc/approval/":               {"extproc/guard", "extproc/gate", "extproc/approval", "extproc/datafile", "extproc/keyfile"},
	"extproc/admin":                   {"extproc/approval", "extproc/approval/webhook", "extproc/evidence/otlp", "extproc/gate", "extproc/guard", "extproc/identity", "extproc/lane", "extproc/supervisor", "xds"},
	"extproc/approval/question":       {"extproc/approval", "extproc/gate", "extproc/kind", "extproc/redact", "extproc/strict"},
	"extproc/approval":                {"extproc/guard", "extproc/gate"},
	"extproc/config":                  {"extproc/yamlfile", "extproc/loopback", "extproc/gate", "extproc/inspect/", "extproc/redact"}, // what cannot be said in a configuration is known where it is read
	"extproc/console":                 {"extproc/terminal", "extproc/keyfile", "extproc/loopback", "extproc/guard", "extproc/gate", "extproc/approval", "extproc/identity"},
	"extproc/console/client":          {"extproc/loopback", "extproc/terminal", "extproc/approval"},
	"extproc/custody":                 {"extproc/config", "extproc/policy"},
	"extproc/evidence":                {"extproc/guard", "extproc/gate", "extproc/datafile", "extproc/strict"},
	"extproc/evidence/otlp":           {"extproc/guard", "extproc/gate", "extproc/evidence", "extproc/datafile", "extproc/keyfile"},
	"extproc/extproctest/":            {"extproc/extproctest"},
	"extproc/kind":                    {"extproc/config", "extproc/evidence/otlp", "extproc/gate", "extproc/lane", "extproc/policy", "extproc/redact", "xds"},
	"extproc/kind/":                   {"extproc/loopback", "extproc", "extproc/config", "extproc/evidence/otlp", "extproc/gate", "extproc/inspect/", "extproc/kind", "extproc/lane", "extproc/policy", "xds", "extproc/keyfile"},
	"extproc/kind/postgres":           {"extproc/loopback", "extproc/config", "extproc/evidence/otlp", "extproc/gate", "extproc/kind", "extproc/kind/postgres/", "extproc/lane", "extproc/policy", "xds", "extproc/keyfile"},
	"extproc/kind/postgres/session":   {"extproc/gate", "extproc/guard", "extproc/identity", "extproc/keyfile", "extproc/kind/postgres/", "extproc/lane", "extproc/redact"},
	"extproc/kind/postgres/mask":      {"extproc/gate", "extproc/kind/postgres/number", "extproc/kind/postgres/statement", "extproc/redact"},
	"extproc/kind/postgres/number":    {},
	"extproc/kind/postgres/statement": {},
	"extproc/kind/postgres/catalog":   {"extproc/kind/postgres/statement"},
	"extproc/lane":                    {"extproc/guard", "extproc/gate", "extproc/identity"},
	"extproc/identity":                {"extproc/keyfile", "extproc/loopback", "extproc/guard", "extproc/gate", "extproc/strict"},
	"extproc/inspect/":                {"extproc/gate", "extproc/media"},
	"extproc/inspect/web":             {"extproc/gate", "extproc/media", "extproc/inspect/coding"},
	"extproc/listener":                {"extproc", "extproc/config", "extproc/guard", "extproc/keyfile", "extproc/wire"},
	"extproc/supervisor":              {"extproc/config", "extproc/datafile", "extproc/guard", "xds"},
	"extproc/terminal":                {"extproc/gate"},
	"extproc/policy":                  {"extproc/yamlfile", "extproc/gate", "extproc/strict"},
	"extproc/problem":                 {"extproc/gate", "extproc/inspect/"},
	"extproc/strict":                  {"extproc/gate"},
	"extproc/redact":                  {"extproc/gate", "extproc/media"},
	"extproc/wire":                    {"extproc/inspect/"},
	"xds":                             {"extproc/yamlfile", "extproc/loopback", "extproc/config", "extproc/guard"},
}

// mayUse says where a library may be imported. Tests of those packages may as well.
var mayUse = []struct {
	library string
	in      []string
}{
	{"github.com/open-policy-agent/opa", []string{"extproc/policy"}},
	{"github.com/envoyproxy/go-control-plane", []string{"extproc", "extproc/kind/", "extproc/wire", "xds", "extproc/extproctest", "extproc/extproctest/", "envoy"}},
	{"github.com/pganalyze/pg_query_go", []string{"extproc/kind/postgres/statement"}},
	{"github.com/wasilibs/go-pgquery", []string{"extproc/kind/postgres/statement"}},
	{"go.opentelemetry.io/proto/otlp", []string{"extproc/evidence/otlp", "extproc/extproctest", "extproc/extproctest/", "cmd/countersign"}},
}

func in(list []string, path string) bool {
	return slices.ContainsFunc(list, func(x string) bool { return x == path || strings.HasSuffix(x, "/") && strings.HasPrefix(path, x) })
}

func allowed(path string) []string {
	if list, ok := mayImport[path]; ok {
		return list
	}
	for prefix, list := range mayImport {
		if strings.HasSuffix(prefix, "/") && strings.HasPrefix(path, prefix) {
			return list
		}
	}
	return nil
}

func TestImportsGoOneWay(t *testing.T) {
	for _, p := range packages(t) {
		for _, i := range p.Imports {
			if strings.HasPrefix(i, module) && !in(allowed(p.ImportPath), inner(i)) {
				t.Errorf("%s imports %s", p.ImportPath, inner(i))
			}
			if p.ImportPath == "extproc/gate" && strings.Contains(strings.Split(i, "/")[0], ".") {
				t.Errorf("the gate imports %s, which is not of the standard library", i)
			}
		}
		for _, i := range slices.Concat(p.Imports, p.TestImports, p.XTestImports) {
			for _, rule := range mayUse {
				if strings.HasPrefix(i, rule.library) && !in(rule.in, p.ImportPath) {
					t.Errorf("%s imports %s", p.ImportPath, i)
				}
			}
		}
	}
}

func TestEveryPackageHasAComment(t *testing.T) {
	for _, p := range packages(t) {
		if p.Doc == "" {
			t.Errorf("%s has no package comment", p.ImportPath)
		}
	}
}

func tracked(t *testing.T) []string {
	t.Helper()
	return strings.FieldsFunc(string(run(t, "git", "ls-files", "-z")), func(r rune) bool { return r == 0 })
}

func TestTopLevelIsFixed(t *testing.T) {
	fixed := []string{"cmd", "extproc", "xds", "policies", "envoy", "examples", "go.mod", "go.sum", "Makefile", "README.md", "LICENSE", "CONTRIBUTING.md", "SECURITY.md"}
	for _, file := range tracked(t) {
		if top, _, _ := strings.Cut(file, "/"); !strings.HasPrefix(top, ".") && !slices.Contains(fixed, top) {
			t.Errorf("%s: %s does not belong at the top level", file, top)
		}
	}
}

// rules on the text of tracked files. An exception is a file and the reason for it.
var textRules = []struct {
	name       string
	files      *regexp.Regexp
	text       *regexp.Regexp
	exceptions map[string]string
}{
	{"a private key", regexp.MustCompile(`.`), regexp.MustCompile(`-----BEGIN [A-Z ]*PRIVATE KEY-----`), map[string]string{
		"extproc/redact/detect_test.go": "the detector of keys is tested on their first line",
		"extproc/redact/fuzz_test.go":   "the detector of keys is fuzzed from their first line",
		"extproc/redact/redact_test.go": "the detector of keys is tested on their first line",
	}},
	{"a token (JWT)", regexp.MustCompile(`.`), regexp.MustCompile(`eyJ[A-Za-z0-9_-]{10,}\.[A-Za-z0-9_-]{5,}\.`), map[string]string{
		"extproc/redact/detect_test.go": "the detector of tokens is tested on a token that says {\"test\":1} and nothing else",
		"extproc/redact/fuzz_test.go":   "the detector of tokens is fuzzed from a token that says {\"test\":1} and nothing else",
	}},
	{"an access key of AWS", regexp.MustCompile(`.`), regexp.MustCompile(`\b(AKIA|ASIA)[0-9A-Z]{16}\b`), nil},
	{"a test that skips", regexp.MustCompile(`_test\.go$`), regexp.MustCompile(`\b[tbf]\.Skip(Now|f)?\(`), nil},
	{"a test that sleeps", regexp.MustCompile(`_test\.go$`), regexp.MustCompile(`(?m)\btime\.Sleep\(|^\s*<-time\.(After|NewTimer|Tick)\(`), map[string]string{
		"extproc/memory/collect_test.go":             "the time of a bubble (testing/synctest) passes at once",
		"extproc/approval/embedded/embedded_test.go": "the time of a bubble",
		"extproc/identity/newer_test.go":             "the time of a bubble",
		"extproc/lane/token_test.go":                 "the time of a bubble",
	}},
	{"a test that looks again and again", regexp.MustCompile(`_test\.go$`), regexp.MustCompile(`case <-time\.After\([0-9]+ \* time\.Millisecond\):`), map[string]string{
		"cmd/countersign/reconcile_test.go":   "a client does not spin while nobody listens",
		"cmd/countersign/sequence_test.go":    "a client does not spin while nobody listens",
		"extproc/extproctest/process_test.go": "that a process of others has ended is told to its parent only",
	}},
	{"a path of somebody's machine", regexp.MustCompile(`.`), regexp.MustCompile(`(^|[\s"'=:(])/(root|home|Users|work)/`), nil},
	{
		"a file of a data directory that package datafile does not open", regexp.MustCompile(`^extproc/(evidence|evidence/otlp|approval/embedded)/[a-z0-9]+(_linux|_other)?\.go$`),
		regexp.MustCompile(`\bos\.(Open|OpenFile|Create|ReadFile|WriteFile)\(`), nil,
	},
	{"the name of a registry's host", regexp.MustCompile(`.`), regexp.MustCompile(`(proxy\.golang|registry\.npmjs|files\.pythonhosted)\.org|\bpypi\.org/simple|\b(ghcr|docker|quay)\.io/`), nil},
}

func TestTextOfTrackedFiles(t *testing.T) {
	for _, file := range tracked(t) {
		text, err := os.ReadFile(filepath.Join("..", file))
		if errors.Is(err, os.ErrNotExist) {
			continue // removed, and not yet committed
		} else if err != nil {
			t.Fatal(err)
		}
		for _, rule := range textRules {
			if !rule.files.MatchString(file) {
				continue
			}
			at, excepted := rule.text.FindIndex(text), rule.exceptions[file] != ""
			if excepted && at == nil {
				t.Errorf("%s has no more of %s: remove the exception", file, rule.name)
			}
			if !excepted && at != nil {
				t.Errorf("%s:%d: %s", file, 1+bytes.Count(text[:at[0]], []byte("\n")), rule.name)
			}
		}
	}
}

// TestAKindIsOneFolder: everything about kind tcp is in its folder, and one line elsewhere names it. It is the kind that
// CONTRIBUTING.md shows.
func TestAKindIsOneFolder(t *testing.T) {
	named := regexp.MustCompile(`"[^"\n]*\btcp\b[^"\n]*"`)
	others := regexp.MustCompile(`"(tcp[46]?|envoy[a-z_.]*tcp[a-z_.]*|github.com/envoyproxy/.*)"`) // a network of package net, a filter of Envoy's
	compared := regexp.MustCompile(`(case|==|!=) "tcp"`)
	var places []string
	for _, file := range tracked(t) {
		if !strings.HasSuffix(file, ".go") || strings.HasSuffix(file, "_test.go") || strings.HasPrefix(file, "extproc/kind/tcp/") {
			continue
		}
		text, err := os.ReadFile(filepath.Join("..", file))
		if errors.Is(err, os.ErrNotExist) {
			continue
		} else if err != nil {
			t.Fatal(err)
		}
		for _, found := range named.FindAllString(string(text), -1) {
			if !others.MatchString(found) {
				places = append(places, file+": "+found)
			}
		}
		if found := compared.Find(text); found != nil {
			places = append(places, file+": "+string(found))
		}
		if n := bytes.Count(text, []byte("tcp.Kind")); n > 0 {
			places = append(places, fmt.Sprintf("%s: %d times", file, n))
		}
	}
	want := []string{`cmd/countersign/kinds.go: "` + module + `/extproc/kind/tcp"`, "cmd/countersign/kinds.go: 1 times"}
	if !slices.Equal(places, want) {
		t.Errorf("kind tcp is named in\n%s", strings.Join(places, "\n"))
	}
}

// TestFunctionsAreExportedForSomebody: what only its own package calls has a small letter. Types and what belongs to them are not
// looked at, since others can have a value without saying its type.
func TestFunctionsAreExportedForSomebody(t *testing.T) {
	exported, used := map[string]token.Position{}, map[string]bool{}
	set := token.NewFileSet()
	for _, file := range tracked(t) {
		if !strings.HasSuffix(file, ".go") {
			continue
		}
		parsed, err := parser.ParseFile(set, filepath.Join("..", file), nil, 0)
		if errors.Is(err, os.ErrNotExist) {
			continue // removed, and not yet committed
		} else if err != nil {
			t.Fatal(err)
		}
		imported := map[string]string{}
		for _, i := range parsed.Imports {
			at := inner(strings.Trim(i.Path.Value, `"`))
			imported[path.Base(at)] = at
			if i.Name != nil {
				imported[i.Name.Name] = at
			}
		}
		ast.Inspect(parsed, func(n ast.Node) bool {
			if s, ok := n.(*ast.SelectorExpr); ok {
				if of, ok := s.X.(*ast.Ident); ok {
					used[imported[of.Name]+"."+s.Sel.Name] = true
				}
			}
			return true
		})
		for _, d := range parsed.Decls {
			if f, ok := d.(*ast.FuncDecl); ok && f.Recv == nil && f.Name.IsExported() && !strings.HasSuffix(file, "_test.go") {
				exported[path.Dir(file)+"."+f.Name.Name] = set.Position(f.Pos())
			}
		}
	}
	if len(exported) < 100 {
		t.Errorf("only %d were found", len(exported))
	}
	for name, at := range exported {
		if !used[name] {
			t.Errorf("%s: nobody else calls %s", at, name)
		}
	}
}

// TestEverythingThatRunsByItselfIsGuarded: a panic in a goroutine or a timer ends the process, unless package guard has it. So
// each is started as guard.Func or guard.Loop.
func TestEverythingThatRunsByItselfIsGuarded(t *testing.T) {
	started := 0
	for _, file := range tracked(t) {
		if !strings.HasSuffix(file, ".go") || strings.HasSuffix(file, "_test.go") || regexp.MustCompile(`^(examples|extproc/extproctest|extproc/approval/approvaltest|extproc/guard)/`).MatchString(file) {
			continue
		}
		set := token.NewFileSet()
		parsed, err := parser.ParseFile(set, filepath.Join("..", file), nil, 0)
		if errors.Is(err, os.ErrNotExist) {
			continue // removed, and not yet committed
		} else if err != nil {
			t.Fatal(err)
		}
		ast.Inspect(parsed, func(n ast.Node) bool {
			var runs ast.Expr
			switch n := n.(type) {
			case *ast.GoStmt:
				runs = n.Call.Fun
			case *ast.CallExpr:
				if name, ok := n.Fun.(*ast.SelectorExpr); ok && (name.Sel.Name == "AfterFunc" || name.Sel.Name == "Go") && len(n.Args) > 0 {
					runs = n.Args[len(n.Args)-1]
				}
			}
			if runs == nil {
				return true
			}
			started++
			if !isGuarded(runs) {
				t.Errorf("%s: it runs by itself, and a panic in it would end the process: use guard.Func or guard.Loop", set.Position(n.Pos()))
			}
			return true
		})
	}
	if started < 30 {
		t.Errorf("only %d were found", started)
	}
}

func isGuarded(e ast.Expr) bool {
	call, ok := e.(*ast.CallExpr)
	if !ok {
		return false
	}
	name, ok := call.Fun.(*ast.SelectorExpr)
	if !ok || name.Sel.Name != "Func" && name.Sel.Name != "Loop" {
		return false
	}
	of, ok := name.X.(*ast.Ident)
	return ok && of.Name == "guard"
}
