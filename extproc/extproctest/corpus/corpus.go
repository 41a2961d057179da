// Package corpus writes random queries about the relations of the cases of package statement
// (extproc/kind/postgres/statement/testdata/schema.sql), for tests that hold what is said of a query against what it does.
package corpus

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
)

// A Writer writes random queries about those relations.
type Writer struct {
	r     *rand.Rand
	depth int
	n     int // of aliases
}

// A term is an expression, and its type: 't' for text, 'i' for integer, 'n' for numeric.
type term struct {
	sql string
	typ byte
}

var tables = []struct {
	name    string
	columns []term
}{
	{"customers", []term{{"id", 'i'}, {"name", 't'}, {"email", 't'}, {"ssn", 'i'}, {"note", 't'}, {"domain", 't'}}},
	{"orders", []term{{"id", 'i'}, {"customer_id", 'i'}, {"total", 'n'}, {"note", 't'}}},
	{"shop.items", []term{{"id", 'i'}, {"price", 'n'}}},
	{"customer_mail", []term{{"id", 'i'}, {"mail", 't'}, {"shout", 't'}}},
	{"customer_mail_again", []term{{"id", 'i'}, {"mail", 't'}, {"shout", 't'}}},
	{"customer_names", []term{{"id", 'i'}, {"name", 't'}}},
	{"customer_lower", []term{{"id", 'i'}, {"low", 't'}}},
	{"customer_example", []term{{"id", 'i'}}},
	{"customer_copy", []term{{"id", 'i'}, {"email", 't'}}},
	{"events", []term{{"id", 'i'}, {"secret", 't'}}},
	{"events_2026", []term{{"id", 'i'}, {"secret", 't'}}},
	{"assets", []term{{"id", 'i'}, {"label", 't'}}},
}

func (w *Writer) one(list ...string) string { return list[w.r.IntN(len(list))] }

func (w *Writer) alias() string {
	w.n++
	return fmt.Sprintf("q%d", w.n)
}

// from is what FROM has, and what may be named then.
func (w *Writer) from() (string, []term) {
	w.depth++
	defer func() { w.depth-- }()
	kind := w.r.IntN(8)
	if w.depth > 3 {
		kind = 0
	}
	a := w.alias()
	named := func(columns []term) []term {
		var list []term
		for _, c := range columns {
			list = append(list, term{a + "." + c.sql, c.typ})
		}
		return list
	}
	switch kind {
	case 5:
		sql, columns := w.query(0)
		return "(" + sql + ") AS " + a, named(columns)
	case 6:
		l, lc := w.from()
		r, rc := w.from()
		x, y := w.pick(lc, 'i'), w.pick(rc, 'i')
		return fmt.Sprintf("%s %sJOIN %s ON %s = %s", l, w.one("", "LEFT "), r, x.sql, y.sql), append(lc, rc...)
	case 7:
		t := tables[w.r.IntN(len(tables))]
		u := tables[w.r.IntN(len(tables))]
		b, j := w.alias(), w.alias()
		list := []term{{j + ".id", 'i'}}
		for _, c := range t.columns[1:] {
			if !slices.ContainsFunc(u.columns, func(o term) bool { return o.sql == c.sql }) {
				list = append(list, term{j + "." + c.sql, c.typ})
			}
		}
		return fmt.Sprintf("(%s AS %s JOIN %s AS %s USING (id)) AS %s", t.name, a, u.name, b, j), list
	default:
		t := tables[w.r.IntN(len(tables))]
		return t.name + " AS " + a, named(t.columns)
	}
}

// pick is a term of a type: a column where there is one, else a constant.
func (w *Writer) pick(from []term, typ byte) term {
	var fit []term
	for _, c := range from {
		if c.typ == typ {
			fit = append(fit, c)
		}
	}
	if len(fit) == 0 {
		return term{map[byte]string{'t': "'x'::text", 'i': "1", 'n': "1.5"}[typ], typ}
	}
	return fit[w.r.IntN(len(fit))]
}

func (w *Writer) expr(from []term) term {
	typ := "tti"[w.r.IntN(3)]
	c := w.pick(from, typ)
	if typ == 'i' {
		switch w.r.IntN(8) {
		case 0:
			return term{c.sql + " + " + w.pick(from, 'i').sql, 'i'}
		case 1:
			return term{"length(" + w.pick(from, 't').sql + ")", 'i'}
		}
		return c
	}
	switch w.r.IntN(16) {
	case 0:
		return term{"lower(" + c.sql + ")", 't'}
	case 1:
		return term{c.sql + " || " + w.pick(from, 't').sql, 't'}
	case 2:
		return term{"coalesce(" + c.sql + ", 'none')", 't'}
	case 3:
		return term{fmt.Sprintf("CASE WHEN %s THEN %s ELSE %s END", w.predicate(from), c.sql, w.pick(from, 't').sql), 't'}
	case 4:
		return term{c.sql + "::" + w.one("text", "varchar", "name") + "::text", 't'}
	case 5:
		if w.depth < 3 {
			sql, columns := w.query(1)
			return term{"(SELECT s.c1 FROM (" + sql + ") s LIMIT 1)", columns[0].typ}
		}
	case 6:
		return term{"max(" + c.sql + ") OVER (PARTITION BY " + w.pick(from, 'i').sql + ")", 't'}
	case 7:
		return term{"row_to_json(ROW(" + c.sql + "))::text", 't'}
	}
	return c
}

func (w *Writer) predicate(from []term) string {
	switch w.r.IntN(5) {
	case 0:
		return w.pick(from, 'i').sql + " > 1"
	case 1:
		return w.pick(from, 't').sql + " IS NOT NULL"
	case 2:
		return w.pick(from, 't').sql + " LIKE '%a%'"
	case 3:
		if w.depth < 3 {
			t := tables[w.r.IntN(len(tables))]
			a := w.alias()
			return fmt.Sprintf("%s IN (SELECT %s.id FROM %s AS %s)", w.pick(from, 'i').sql, a, t.name, a)
		}
	case 4:
		if w.depth < 3 {
			t := tables[w.r.IntN(len(tables))]
			a := w.alias()
			return fmt.Sprintf("EXISTS (SELECT %s.id FROM %s AS %s WHERE %s.id = %s)", a, t.name, a, a, w.pick(from, 'i').sql)
		}
	}
	return "true"
}

// query is a query, and the columns c1, c2, … that it answers with; n of them where it is not 0.
func (w *Writer) query(n int) (string, []term) {
	w.depth++
	defer func() { w.depth-- }()
	if n == 0 {
		n = 1 + w.r.IntN(3)
	}
	with := ""
	from, columns := w.from()
	if w.depth < 3 && w.r.IntN(6) == 0 {
		sql, inner := w.query(0)
		a := w.alias()
		with = "WITH " + a + " AS (" + sql + ") "
		from += ", " + a
		for _, c := range inner {
			columns = append(columns, term{a + "." + c.sql, c.typ})
		}
	}
	var list []string
	var out []term
	for i := range n {
		e := w.expr(columns)
		name := fmt.Sprintf("c%d", i+1)
		list = append(list, e.sql+" AS "+name)
		out = append(out, term{name, e.typ})
	}
	sql := with + "SELECT " + w.one("", "", "", "DISTINCT ") + strings.Join(list, ", ") + " FROM " + from
	if w.r.IntN(3) == 0 {
		sql += " WHERE " + w.predicate(columns)
	}
	if w.r.IntN(6) == 0 {
		var same []string
		for _, c := range out {
			same = append(same, w.pick(columns, c.typ).sql)
		}
		sql = "(" + sql + ") " + w.one("UNION", "UNION ALL", "EXCEPT", "INTERSECT") + " (SELECT " + strings.Join(same, ", ") + " FROM " + from + ")"
		if with != "" { // what WITH has is not there for the second
			sql = with + strings.Replace(sql, "("+with, "(", 1)
		}
	}
	return sql, out
}

// New returns a writer of which the queries are those of the seed.
func New(seed uint64) *Writer { return &Writer{r: rand.New(rand.NewPCG(1, seed))} }

// Query is one.
func (w *Writer) Query() string {
	sql, _ := w.query(0)
	return sql
}
