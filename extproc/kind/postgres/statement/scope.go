package statement

import (
	"fmt"
	"slices"
)

// A value is what an expression has: of which columns it is made, and of which type it is.
type value struct {
	name    string
	typ     uint32 // 0 where it is not known here
	lineage []ColumnRef
	plain   bool

	reads []ColumnRef // of a column: what is read when it is named
	lazy  *sink       // of a view's column: what is done when it is named
	row   *item       // of a row: what it is of
	parts []value     // of ROW(…): what it is made of
	label bool        // of an expression: name is one that PostgreSQL would give, not ?column?
}

// A item is what FROM has added: a relation, a query, a join, a function.
type item struct {
	name      string // alias, or the relation's own name
	schema    string // where a qualified name may mean it: of a relation without alias
	relation  *Relation
	columns   []value
	rel, cols bool // may be named, and its columns may without its name

	// open are of which columns any column is made whose name is not known: of a function that returns what is not known here.
	open *value
}

// A scope has what may be named at one level of a query.
type scope struct {
	parent *scope
	items  []*item
	ctes   []*cte
	// outputs of the query, which ORDER BY and GROUP BY may name.
}

func (s *scope) child() *scope { return &scope{parent: s} }

func ambiguous(what, name string) *Doubt {
	return &Doubt{Code: "42702", Message: fmt.Sprintf("%s reference %q is ambiguous", what, name)}
}

// column finds a column by its name alone. It is false where there is none.
func (a *analyzer) column(s *scope, name string) (value, bool) {
	for ; s != nil; s = s.parent {
		var found []*item
		for _, it := range s.items {
			if it.cols && it.find(name) >= 0 {
				found = append(found, it)
			}
		}
		switch {
		case len(found) > 1:
			panic(ambiguous("column", name))
		case len(found) == 1:
			return a.pick(found[0], name), true
		}
		for _, it := range s.items {
			if it.cols && it.open != nil {
				return a.touch(it.loose(name)), true
			}
		}
		for _, it := range s.items {
			if _, ok := system[name]; ok && it.cols && it.relation != nil {
				return a.systemColumn(it.relation, name), true
			}
		}
	}
	return value{}, false
}

// find is the place of a column; -1 where there is none. A name twice is ambiguous.
func (it *item) find(name string) int {
	i := slices.IndexFunc(it.columns, func(v value) bool { return v.name == name })
	if i >= 0 && slices.ContainsFunc(it.columns[i+1:], func(v value) bool { return v.name == name }) {
		panic(ambiguous("column", name))
	}
	return i
}

func (it *item) loose(name string) value {
	v := *it.open
	v.name, v.plain, v.label = name, false, true
	return v
}

// pick names a column of an item.
func (a *analyzer) pick(it *item, name string) value {
	v := a.touch(it.columns[it.find(name)])
	v.label = true
	return v
}

// system are the columns that each table has.
var system = map[string]uint32{"ctid": typeTid, "xmin": typeXid, "xmax": typeXid, "cmin": typeCid, "cmax": typeCid, "tableoid": typeOID}

// item finds what a name of a relation means.
func (a *analyzer) item(s *scope, schema, name string) *item {
	for ; s != nil; s = s.parent {
		for _, it := range s.items {
			if it.rel && it.name == name && (schema == "" || it.schema == schema) {
				return it
			}
		}
	}
	return nil
}

// missing fails for the name of a table that is not there. PostgreSQL says where one of that name has an alias.
func (a *analyzer) missing(s *scope, location int32, schema, name string) {
	for ; s != nil && schema == ""; s = s.parent {
		for _, it := range s.items {
			if it.relation != nil && it.relation.Name.Name == name && it.name != name && it.rel {
				d := &Doubt{Code: "42P01", Message: fmt.Sprintf("invalid reference to FROM-clause entry for table %q", name), Hint: fmt.Sprintf("Perhaps you meant to reference the table alias %q.", it.name)}
				if a.away == 0 {
					d.Position = a.of.position(location)
				}
				panic(d)
			}
		}
	}
	a.failAt(location, "42P01", "missing FROM-clause entry for table %q", name)
}

// qualified is a column of an item, whichever way it is named; false where the item has none of that name.
func (a *analyzer) qualified(it *item, name string) (value, bool) {
	if it.find(name) >= 0 {
		return a.pick(it, name), true
	}
	if _, ok := system[name]; ok && it.relation != nil {
		return a.systemColumn(it.relation, name), true
	}
	if it.open != nil {
		return a.touch(it.loose(name)), true
	}
	return value{}, false
}

// whole is an item as one value.
func (it *item) whole() value {
	v := value{name: it.name, typ: typeRecord, row: it, label: true}
	if it.relation != nil && it.relation.Type != 0 {
		v.typ = it.relation.Type
	}
	for _, c := range it.columns {
		v.lineage = join(v.lineage, c.lineage)
	}
	if it.open != nil {
		v.lineage = join(v.lineage, it.open.lineage)
	}
	// A function's result of one column is the column: SELECT f FROM f().
	if it.relation == nil && len(it.columns) == 1 && it.open == nil && it.columns[0].name == it.name {
		v.typ = 0
	}
	return v
}

// join is the union of two lineages, the first's first. It changes neither.
func join(a, b []ColumnRef) []ColumnRef {
	if len(a) == 0 {
		return b
	}
	list := a[:len(a):len(a)]
	for _, r := range b {
		if !slices.Contains(a, r) {
			list = append(list, r)
		}
	}
	return list
}

// touch says that a column was named.
func (a *analyzer) touch(v value) value {
	for _, r := range v.reads {
		a.sink.read(Name{r.Schema, r.Table}, r.Column)
	}
	a.sink.add(v.lazy)
	return v
}

// use says that v is used beyond plain output.
func (a *analyzer) use(v value, how string) {
	if v.row != nil {
		for _, c := range v.row.columns {
			a.touch(c)
		}
		how = WholeRow
	}
	a.sink.add(v.lazy)
	for _, r := range v.lineage {
		a.sink.uses[Use{r, how}] = true
	}
}

// made is a value of type t that is made of others, which are used for it.
func (a *analyzer) made(t uint32, how string, of ...value) value {
	v := value{typ: t}
	for _, o := range of {
		a.use(o, how)
		v.lineage = join(v.lineage, o.lineage)
	}
	return v
}

// settled is a value as it leaves a query: a row is used as one.
func (a *analyzer) settled(v value) value {
	if v.row != nil {
		a.use(v, WholeRow)
		v.row, v.plain = nil, false
	}
	return v
}

// merged is one column of two queries, or of a join: the value of one or the other.
func (a *analyzer) merged(x, y value) value {
	v := value{name: x.name, typ: x.typ, lineage: join(x.lineage, y.lineage), label: x.label}
	v.reads, v.lazy = join(x.reads, y.reads), both(x.lazy, y.lazy)
	v.plain = (x.plain || len(x.lineage) == 0) && (y.plain || len(y.lineage) == 0) && (x.plain || y.plain)
	if x.typ != y.typ {
		a.coerced(x, y)
		v.typ = a.wider(x.typ, y.typ)
		if x.typ != typeUnknown && y.typ != typeUnknown && (!textual(a.c.base(x.typ)) || !textual(a.c.base(y.typ))) {
			v.plain = false
			a.use(x, Expression)
			a.use(y, Expression)
		}
	}
	return v
}

func both(x, y *sink) *sink {
	if x == nil || y == nil {
		if x == nil {
			return y
		}
		return x
	}
	s := newSink()
	s.add(x)
	s.add(y)
	return s
}
