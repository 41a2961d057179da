package statement_test

import (
	"bytes"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/countersign/countersign/extproc/kind/postgres/statement"
)

// altered are texts of the same shape as text, with other values.
func altered(text string) (out []string) {
	form := statement.Shape(text)
	if form == "" {
		return nil
	}
	for i, values := range [][3]string{
		{"0", "10000000000", "''"},
		{"7", "99999999999", "'0'"},
		{"123456789", "100000000000000000", "'; DROP TABLE t; --'"},
		{"000000001", "999999999999999999", "'/* '"},
		{"42", "12345678901", "' $$ \" E'"},
		{"1", "99999999999", "'on'"},
	} {
		var b bytes.Buffer
		for j := range len(form) {
			switch c := form[j]; {
			case c <= 3 && (i+j)%5 == 4: // not all the same
				b.WriteString([]string{"2", "20000000000", "'x'"}[c-1])
			case c <= 3:
				b.WriteString(values[c-1])
			default:
				b.WriteByte(c)
			}
		}
		out = append(out, b.String())
	}
	return out
}

// TestShapes holds that a statement that was read by another of its shape is what it is when it is read by itself.
func TestShapes(t *testing.T) {
	cat, st := small(), newState()
	texts := []string{
		"SELECT id FROM t WHERE id = 1", "select id from t where id = 1 ;", "  SELECT email FROM t WHERE (id=5) AND email = 'a' OR id IN (1, 2 ,3) LIMIT 10 OFFSET 5;  ",
		"INSERT INTO t (id, email) VALUES (1, 'x'), (2, 'y')", "UPDATE t SET email = 'x', id = 3 WHERE id = 12345678901", "DELETE FROM t WHERE id BETWEEN 1 AND 2",
		"SELECT id FROM t WHERE id < 3 ORDER BY 1", "SELECT 1", "SELECT id FROM t WHERE email = 'a'\n'b'", "SELECT id FROM t WHERE nothing = 5", "SELECT id FROM nowhere WHERE id = 12 AND x = 1",
		"SELECT set_config(email, 'on', true) FROM t WHERE email = 'role'", "SELECT id FROM t WHERE id = 1; SELECT id FROM t WHERE id = 2", "DECLARE c CURSOR FOR SELECT id FROM t WHERE id = 1",
		"SELECT id FROM t WHERE low = 'x' AND id + 1 = 2", "SELECT id FROM t GROUP BY 1 HAVING id = 1", "SELECT interval '1' FROM t", "SELECT id FROM t WHERE id = int '5'", "SELECT id FROM t WHERE id = (5)",
		"INSERT INTO t VALUES (1, 'x') ON CONFLICT (id) DO UPDATE SET email = 'z' WHERE t.id = 5", "UPDATE t SET id = id + 1 WHERE id = 1 RETURNING id", "SELECT id FROM t WHERE id = - 5", "SELECT id FROM t WHERE 1 = 1",
	}
	for _, path := range caseFiles(t) {
		for _, c := range readCases(t, path) {
			texts = append(texts, c.sql)
		}
	}
	shared := 0
	for _, text := range texts {
		if _, err := statement.Parse(text, true); err != nil {
			continue
		}
		for _, other := range altered(text) {
			got, err := statement.Parse(other, true)
			want, wantErr := statement.ParseAlone(other, true)
			if (err != nil) != (wantErr != nil) || len(got) != len(want) {
				t.Errorf("%q, as %q: %d statements, %v; want %d, %v", other, text, len(got), err, len(want), wantErr)
				continue
			}
			for i := range got {
				a, err := got[i].Analyze(cat, st)
				b, wantErr := want[i].Analyze(cat, st)
				if diff := cmp.Diff(shown(b), shown(a)); diff != "" || (err == nil) != (wantErr == nil) || !cmp.Equal(a.Doubt, b.Doubt) {
					t.Errorf("%q, as %q (-want +got):\n%s%s", other, text, diff, cmp.Diff(b.Doubt, a.Doubt))
				}
				if got[i].Text != want[i].Text || got[i].Index != want[i].Index || got[i].Of != want[i].Of {
					t.Errorf("%q, as %q: is %q, %d of %d; want %q", other, text, got[i].Text, got[i].Index, got[i].Of, want[i].Text)
				}
				for _, f := range []func(statement.Statement) (string, error){statement.Statement.Fingerprint, statement.Statement.Normalized} {
					x, _ := f(got[i])
					y, _ := f(want[i])
					if x != y {
						t.Errorf("%q, as %q: %q, want %q", other, text, x, y)
					}
				}
				if got[i].Shared() {
					shared++
				}
			}
		}
	}
	if shared < 100 {
		t.Errorf("%d statements were read by another's: the test tells nothing", shared)
	}
}

// TestShapesOfNothing are texts that say something else with another value, or can.
func TestShapesOfNothing(t *testing.T) {
	for _, x := range [][2]string{
		{"SELECT id, email FROM t ORDER BY 1", "SELECT id, email FROM t ORDER BY 2"},
		{"SELECT id FROM t WHERE email = 'a' -- 'b'", "SELECT id FROM t WHERE email = 'a' -- 'c'"},
		{"SELECT set_config(email, email, true) FROM t WHERE email = 'role'", "SELECT set_config(email, email, true) FROM t WHERE email = 'a'"},
		{"SELECT 't'::regclass", "SELECT 'pg_authid'::regclass"},
		{"SELECT nextval('s')", "SELECT nextval('u')"},
		{"SET role = 'a'", "SET role = 'b'"},
		{"SELECT id FROM t WHERE id = $1", "SELECT id FROM t WHERE id = $2"},
		{"SELECT id FROM t WHERE id = 2147483647", "SELECT id FROM t WHERE id = 2147483648"},
		{"SELECT id FROM t WHERE email = E'a'", "SELECT id FROM t WHERE email = E'b'"},
		{"SELECT id FROM t WHERE email = $$a$$", "SELECT id FROM t WHERE email = $$b$$"},
		{"SELECT id AS \" 1 \" FROM t", "SELECT id AS \" 2 \" FROM t"},
		{"SELECT id FROM t WHERE email = '\\' AND id = 1", "SELECT id FROM t WHERE email = '\\' AND id = 2"},
		{"SELECT id FROM t /* 'a' */", "SELECT id FROM t /* '*/ , pg_authid /*' */"},
		{"SELECT id FROM t WHERE id = 1 AND email = $$ 1 $$", "SELECT id FROM t WHERE id = 1 AND email = $$ 2 $$"},
		{"SELECT id FROM t WHERE email = U&'a' UESCAPE '!'", "SELECT id FROM t WHERE email = U&'a' UESCAPE '?'"},
		{"SELECT id FROM t WHERE email = 'a''b'", "SELECT id FROM t WHERE email = 'a''c'"},
		{"SELECT id FROM t WHERE email = 'é'", "SELECT id FROM t WHERE email = 'è'"},
		{"SELECT id FROM t LIMIT 1 + 1", "SELECT id FROM t LIMIT 1 / 0"},
	} {
		for _, text := range x {
			list, err := statement.Parse(text, true)
			if err != nil {
				t.Fatalf("%q: %v", text, err)
			}
			if list[0].Shared() {
				t.Errorf("%q was read by another's shape", text)
			}
		}
	}
}

// FuzzShape holds that what is read by another's shape has the same tokens, as PostgreSQL's own lexer has them.
func FuzzShape(f *testing.F) {
	for _, path := range []string{"testdata/access.cases", "testdata/attack.cases", "testdata/lineage.cases"} {
		for _, c := range seeds(f, path) {
			f.Add(c)
		}
	}
	f.Fuzz(func(t *testing.T, text string) {
		list := altered(text)
		if len(list) == 0 || len(text) > 2048 || strings.ContainsRune(text, 0) {
			return
		}
		if _, err := statement.Parse(text, true); err != nil {
			return
		}
		want, err := statement.Scanned(text)
		if err != nil {
			t.Fatalf("%q: %v", text, err)
		}
		for _, other := range list {
			if statement.Shape(other) != statement.Shape(text) {
				t.Fatalf("%q and %q are not of the same shape", text, other)
			}
			if s, err := statement.Parse(other, true); err != nil || len(s) != 1 || !s[0].Shared() {
				continue
			}
			got, err := statement.Scanned(other)
			if diff := cmp.Diff(want, got); diff != "" || err != nil {
				t.Errorf("%q and %q: %v %s", text, other, err, diff)
			}
		}
	})
}
