package statement

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// laid is a layout as it reads, with a mark at each token that is not code as it stands.
func laid(list []Token) string {
	var b strings.Builder
	for _, t := range list {
		switch {
		case t.Line:
			b.WriteString("\n" + strings.Repeat("  ", t.Depth))
		case t.Space:
			b.WriteByte(' ')
		}
		switch t.Class {
		case Comment:
			b.WriteString("{" + t.Text + "}")
		case Literal:
			b.WriteString("<" + t.Text + ">")
		default:
			b.WriteString(t.Text)
		}
	}
	return b.String()
}

func TestLayout(t *testing.T) {
	for _, c := range []struct{ name, text, want string }{
		{"clauses", "select id,name from items where id=1 and name like 'a%' order by id", "select id,name\nfrom items\nwhere id=<1> and name like <'a%'>\norder by id"},
		{"a query within", "DELETE FROM items WHERE id IN (SELECT id FROM old WHERE n > $1) RETURNING id", "DELETE\nFROM items\nWHERE id IN (\n  SELECT id\n  FROM old\n  WHERE n > $1\n)\nRETURNING id"},
		{"a function", "SELECT extract(year FROM now()), (1 + 2)", "SELECT extract(year FROM now()), (<1> + <2>)"},
		{"joins", "SELECT 1 FROM a LEFT OUTER JOIN b USING (x) JOIN c ON true", "SELECT <1>\nFROM a\nLEFT OUTER\nJOIN b\nUSING (x)\nJOIN c ON true"},
		{"a comment that looks like code", "UPDATE items SET name = 'x' -- WHERE id = 1\nWHERE true", "UPDATE items\nSET name = <'x'>\n{-- WHERE id = 1}\nWHERE true"},
		{"code after a comment", "SELECT /* harmless */ drop_all() /*/* nested */ SELECT */ , 1", "SELECT\n{/* harmless */}\ndrop_all()\n{/*/* nested */ SELECT */}\n, <1>"},
		{"a literal that looks like code", "SELECT '; DROP TABLE items; --', $q$ -- $q$", "SELECT <'; DROP TABLE items; --'>, <$q$ -- $q$>"},
	} {
		list, err := Layout(c.text)
		if err != nil {
			t.Errorf("%s: %v", c.name, err)
		}
		if diff := cmp.Diff(c.want, laid(list)); diff != "" {
			t.Errorf("%s:\n%s", c.name, diff)
		}
	}
}

// squeezed is a text without white space.
func squeezed(s string) string { return strings.Join(strings.Fields(s), "") }

// FuzzLayout: a layout has every byte of a statement that is not white space between tokens, in order, and nothing else.
func FuzzLayout(f *testing.F) {
	for _, text := range []string{
		"SELECT 1", "select\t'a  b' -- c\r\n from \"x y\"", "SELECT $1::int /* \u202e */", "SELECT U&'\\0041' UESCAPE '!'", "a\u00a0b", "(((", "))", "'", "SELECT E'\\''", "\v1\f2",
	} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		list, err := Layout(text)
		if err != nil {
			return
		}
		var all strings.Builder
		for i, one := range list {
			if one.Text == "" || one.Class == "" || i == 0 && one.Line {
				t.Errorf("%q: token %d is %+v", text, i, one)
			}
			all.WriteString(one.Text)
		}
		if squeezed(all.String()) != squeezed(text) {
			t.Errorf("%q is laid out as %q", text, all.String())
		}
	})
}
