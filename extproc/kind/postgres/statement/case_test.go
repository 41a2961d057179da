package statement_test

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/countersign/countersign/extproc/extproctest"
	"github.com/countersign/countersign/extproc/kind/postgres/statement"
)

var update = flag.Bool("update", false, "rewrite what the cases want")

// A testCase is a block of a file of testdata: lines with # that say in English what it shows, statements, and lines with = that say what
// the last statement does. What stands before the last runs before it: the server's session and our state both have it.
type testCase struct {
	name  string
	setup []string
	sql   string
	want  []string
}

// seeds are the statements of a file of cases.
func seeds(tb testing.TB, path string) []string {
	tb.Helper()
	var list []string
	for _, c := range readCases(tb, path) {
		list = append(list, strings.Join(append(c.setup, c.sql), ";"))
	}
	return list
}

func readCases(t testing.TB, path string) []testCase {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var list []testCase
	for block := range strings.SplitSeq(strings.TrimSpace(string(text)), "\n\n") {
		var c testCase
		var sql []string
		for line := range strings.SplitSeq(block, "\n") {
			switch {
			case strings.HasPrefix(line, "# "):
				c.name = strings.TrimSpace(c.name + " " + line[2:])
			case strings.HasPrefix(line, "= "):
				c.want = append(c.want, line)
			case strings.HasPrefix(line, "! "):
				c.setup = append(c.setup, line[2:])
			default:
				sql = append(sql, line)
			}
		}
		c.sql = strings.Join(sql, "\n")
		list = append(list, c)
	}
	return list
}

func writeCases(t *testing.T, path string, list []testCase) {
	t.Helper()
	var b bytes.Buffer
	for i, c := range list {
		if i > 0 {
			b.WriteString("\n")
		}
		fmt.Fprintf(&b, "# %s\n", c.name)
		for _, s := range c.setup {
			fmt.Fprintf(&b, "! %s\n", s)
		}
		fmt.Fprintf(&b, "%s\n%s\n", c.sql, strings.Join(c.want, "\n"))
	}
	if err := os.WriteFile(path, b.Bytes(), 0o644); err != nil {
		t.Fatal(err)
	}
}

func caseFiles(t *testing.T) []string {
	t.Helper()
	files, err := filepath.Glob("testdata/*.cases")
	if err != nil || len(files) == 0 {
		t.Fatal(files, err)
	}
	return files
}

// shown is an analysis as the cases have it.
func shown(a statement.Analysis) []string {
	flags := []string{string(a.Access), a.Kind, "(" + a.Command + ")"}
	for _, f := range []struct {
		is   bool
		name string
	}{{a.HasWhere, "where"}, {a.HasLimit, "limit"}, {a.Locks, "locks"}, {a.Opaque, "opaque"}, {a.Explain, "explain"}, {a.Code, "code"}} {
		if f.is {
			flags = append(flags, f.name)
		}
	}
	out := []string{"= " + strings.Join(flags, " ")}
	add := func(format string, args ...any) { out = append(out, "= "+fmt.Sprintf(format, args...)) }
	if a.Doubt != nil {
		add("doubt %s %s", a.Doubt.Code, a.Doubt.Message)
		return out
	}
	for _, l := range []struct {
		name string
		list []statement.Table
	}{{"reads", a.Reads}, {"writes", a.Writes}} {
		for _, t := range l.list {
			add("%s %s.%s(%s)", l.name, t.Schema, t.Table, strings.Join(t.Columns, " "))
		}
	}
	for _, f := range a.Functions {
		add("calls %s.%s %s", f.Schema, f.Name, f.Volatility)
	}
	for _, u := range a.Uses {
		add("uses %s as %s", u.ColumnRef, u.How)
	}
	for _, e := range a.Exposes {
		add("exposes %s", e)
	}
	for _, c := range a.Output {
		line := "answers " + c.Name
		if c.Plain {
			line += " plain"
		}
		var refs []string
		for _, r := range c.Lineage {
			refs = append(refs, r.String())
		}
		if refs != nil {
			line += " of " + strings.Join(refs, " ")
		}
		add("%s", line)
	}
	for _, c := range a.Changes {
		add("%s", strings.TrimSpace(strings.Join(slices.Concat([]string{"then", c.What, c.Name}, c.Values), " ")))
	}
	return out
}

// analyzed is what a case's last statement does, after the others.
func analyzed(t *testing.T, c testCase, cat *statement.Catalog, st *statement.State) (statement.Analysis, *statement.State) {
	t.Helper()
	st = st.Clone()
	for _, sql := range c.setup {
		list, err := statement.Parse(sql, st.StandardConformingStrings)
		if err != nil {
			t.Fatalf("%s: %v", sql, err)
		}
		for _, s := range list {
			a, err := s.Analyze(cat, st)
			if err != nil || a.Doubt != nil {
				t.Fatalf("%s: %v %v", sql, err, a.Doubt)
			}
			st.Apply(a.Changes)
		}
	}
	list, err := statement.Parse(c.sql, st.StandardConformingStrings)
	if err != nil {
		return statement.Analysis{Access: statement.Unknown, Doubt: syntaxDoubt(err)}, st
	}
	s := statement.Empty(c.sql)
	if len(list) > 1 {
		t.Fatalf("%q is %d statements", c.sql, len(list))
	}
	if len(list) == 1 {
		s = list[0]
	}
	a, err := s.Analyze(cat, st)
	if err != nil {
		t.Fatalf("%s: %v", c.sql, err)
	}
	return a, st
}

// TestStatements holds the cases of testdata to what they say, and to the server.
func TestStatements(t *testing.T) {
	s := startServer(t, "")
	cat, st := read(t, s.connect(t, "one", "agent"))
	testCases(t, caseFiles(t), cat, st)
	t.Run("server", func(t *testing.T) { testAgainstServer(t, s, caseFiles(t), cat, st) })
	t.Run("state", func(t *testing.T) { testState(t, s) })
	t.Run("mutants", func(t *testing.T) { testMutants(t, s, cat, st) })
	t.Run("random", func(t *testing.T) { testRandom(t, s, cat, st) })
}

// TestStatements18 holds the same cases, and those of what is new there, to a newer server.
func TestStatements18(t *testing.T) {
	s := startServer(t, extproctest.Postgres18(t), "testdata/18/schema.sql")
	cat, st := read(t, s.connect(t, "one", "agent"))
	files, err := filepath.Glob("testdata/18/*.cases")
	if err != nil || len(files) == 0 {
		t.Fatal(files, err)
	}
	files = append(files, caseFiles(t)...)
	testCases(t, files, cat, st)
	t.Run("server", func(t *testing.T) { testAgainstServer(t, s, files, cat, st) })
}

func testCases(t *testing.T, files []string, cat *statement.Catalog, st *statement.State) {
	for _, path := range files {
		cases := readCases(t, path)
		for i, c := range cases {
			t.Run(strings.TrimSuffix(filepath.Base(path), ".cases")+"/"+c.name, func(t *testing.T) {
				a, _ := analyzed(t, c, cat, st)
				got := shown(a)
				if cases[i].want = got; *update {
					return
				}
				if diff := cmp.Diff(c.want, got); diff != "" {
					t.Errorf("%s\n%s", c.sql, diff)
				}
			})
		}
		if *update {
			writeCases(t, path, cases)
		}
	}
}

func syntaxDoubt(err error) *statement.Doubt {
	var syntax *statement.SyntaxError
	if !errors.As(err, &syntax) {
		return &statement.Doubt{Message: err.Error()}
	}
	return &statement.Doubt{Code: syntax.Code, Message: syntax.Message, Position: syntax.Position}
}
