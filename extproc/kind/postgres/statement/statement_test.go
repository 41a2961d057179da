package statement_test

import (
	"errors"
	"strings"
	"sync"
	"testing"

	"github.com/countersign/countersign/extproc/kind/postgres/statement"
)

func TestParse(t *testing.T) {
	for _, c := range []struct {
		name, text string
		conforming bool
		want       []string // nil where it is refused
	}{
		{"several statements", "SELECT 1; SELECT 2 ;; -- and\n SELECT 3", true, []string{"SELECT 1", "SELECT 2", "-- and\n SELECT 3"}},
		{"a semicolon in a string", "SELECT ';'; SELECT $x$;$x$", true, []string{"SELECT ';'", "SELECT $x$;$x$"}},
		{"no statement", " /* ; */ ; ", true, []string{}},
		{"a NUL", "SELECT 1\x00; DROP TABLE t", true, nil},
		{"bytes that are not UTF-8", "SELECT '\xff'", true, nil},
		{"half a character before a quote", "SELECT '\xe0' OR 1=1 --'", true, nil},
		{"a backslash where it may be an escape", `SELECT '\'' OR 1=1 --'`, false, nil},
		{"no backslash where one would be an escape", "SELECT 'a''b'", false, []string{"SELECT 'a''b'"}},
		{"a string that does not end", "SELECT 'a", true, nil},
		{"a comment that does not end", "SELECT 1 /* /* */", true, nil},
		{"characters of several bytes", "SELECT 'é'; SELECT '日本'", true, []string{"SELECT 'é'", "SELECT '日本'"}},
	} {
		list, err := statement.Parse(c.text, c.conforming)
		if c.want == nil {
			var syntax *statement.SyntaxError
			if !errors.As(err, &syntax) {
				t.Errorf("%s: %v %v", c.name, list, err)
			}
			continue
		}
		if err != nil || len(list) != len(c.want) {
			t.Errorf("%s: %v %v", c.name, list, err)
			continue
		}
		for i, s := range list {
			if s.Text != c.want[i] || s.Index != i || s.Of != len(list) {
				t.Errorf("%s: %q, %d of %d", c.name, s.Text, s.Index, s.Of)
			}
		}
	}
}

func TestNormalized(t *testing.T) {
	for in, want := range map[string]string{
		"SELECT  id -- who\nFROM t WHERE name = 'secret' AND n IN (1, 2.5) /* x */ LIMIT 3": "SELECT id FROM t WHERE name = ? AND n IN (?, ?) LIMIT ?",
		"CREATE ROLE r PASSWORD 'secret'":                           "CREATE ROLE r PASSWORD ?",
		"DO $x$ BEGIN PERFORM 'secret'; END $x$":                    "DO ?",
		"SELECT E'\\x', U&'\\0061', B'1', X'ff', 1e5, $1, \"Name\"": "SELECT ?, ?, ?, ?, ?, $1, \"Name\"",
		"COPY t FROM STDIN WITH (NULL 'secret')":                    "COPY t FROM STDIN WITH (NULL ?)",
		"SELECT 'a'\n'b'":                                           "SELECT ?",
	} {
		list, err := statement.Parse(in, true)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := list[0].Normalized(); err != nil || got != want {
			t.Errorf("%q\n%q, %v\n%q", in, got, err, want)
		}
	}
	a, _ := statement.Parse("SELECT id FROM t WHERE id = 1", true)
	b, _ := statement.Parse("select  id from t where id = 22", true)
	x, err := a[0].Fingerprint()
	if y, _ := b[0].Fingerprint(); err != nil || x != y || x == "" {
		t.Errorf("%q %q %v", x, y, err)
	}
}

// TestLarge holds that what is large or deep is understood or refused, and ends nothing.
func TestLarge(t *testing.T) {
	cat, st := small(), newState()
	for name, text := range map[string]string{
		"brackets":        "SELECT " + strings.Repeat("(", 50_000) + "1" + strings.Repeat(")", 50_000),
		"sub-selects":     strings.Repeat("SELECT * FROM (", 5_000) + "SELECT 1" + strings.Repeat(") s", 5_000),
		"sums":            "SELECT 1" + strings.Repeat(" + 1", 200_000),
		"ANDs":            "SELECT 1 WHERE true" + strings.Repeat(" AND true", 100_000),
		"unions":          "SELECT 1" + strings.Repeat(" UNION ALL SELECT 1", 20_000),
		"a list":          "SELECT id FROM t WHERE id IN (1" + strings.Repeat(",1", 400_000) + ")",
		"values":          "VALUES (1)" + strings.Repeat(", (1)", 100_000),
		"recursive names": "WITH RECURSIVE " + recursion(12) + " SELECT * FROM r0",
	} {
		t.Run(name, func(t *testing.T) {
			list, err := statement.Parse(text, true)
			if err != nil {
				t.Logf("refused: %.80s", err)
				return
			}
			a, err := list[0].Analyze(cat, st)
			if err != nil {
				t.Error(err)
			}
			t.Log(a.Access, a.Doubt)
		})
	}
	if list, err := statement.Parse("SELECT 1", true); err != nil || len(list) != 1 {
		t.Error("nothing can be parsed any more:", err)
	}
}

// recursion is a recursive query whose second half has one, and so on.
func recursion(n int) string {
	if n == 0 {
		return "r0 (a, b, c) AS (SELECT 1, 'x', id FROM t UNION ALL SELECT b::integer, c::text, a FROM r0)"
	}
	return "r0 (a, b, c) AS (SELECT 1, 'x', id FROM t UNION ALL (WITH RECURSIVE " + recursion(n-1) + " SELECT b::integer, c::text, a FROM r0))"
}

// TestZero holds that what was not made refuses.
func TestZero(t *testing.T) {
	var s statement.Statement
	if a, err := s.Analyze(small(), newState()); err == nil || a.Access != statement.Unknown {
		t.Errorf("%v %v", a, err)
	}
	list, _ := statement.Parse("SELECT 1", true)
	if a, err := list[0].Analyze(nil, nil); err == nil || a.Access != statement.Unknown {
		t.Errorf("%v %v", a, err)
	}
	other := small()
	other.Role = "another"
	if a, _ := list[0].Analyze(other, newState()); a.Access != statement.Unknown {
		t.Errorf("the catalog of another role: %v", a)
	}
}

// TestConcurrent holds that sessions that share a catalog and texts do not disturb each other.
func TestConcurrent(t *testing.T) {
	cat := small()
	texts := seeds(t, "testdata/lineage.cases")[:40]
	want := make([]string, len(texts))
	look := func(text string) string {
		list, err := statement.Parse(text, true)
		if err != nil {
			return err.Error()
		}
		var out []string
		st := newState()
		for _, s := range list {
			a, err := s.Analyze(cat, st)
			if err != nil {
				return err.Error()
			}
			out = append(out, shown(a)...)
			st.Apply(a.Changes)
		}
		return strings.Join(out, "\n")
	}
	for i, text := range texts {
		want[i] = look(text)
	}
	var wg sync.WaitGroup
	for g := range 8 {
		wg.Go(func() {
			for i := range texts {
				i = (i + g*5) % len(texts)
				if got := look(texts[i]); got != want[i] {
					t.Errorf("%s\n%s\nand alone it was\n%s", texts[i], got, want[i])
				}
			}
		})
	}
	wg.Wait()
}
