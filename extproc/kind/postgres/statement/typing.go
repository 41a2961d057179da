package statement

import (
	"cmp"
	"slices"
	"strings"

	tree "github.com/pganalyze/pg_query_go/v6"
)

// typeName is the OID of a type.
func (a *analyzer) typeName(t *tree.TypeName) uint32 {
	if t == nil {
		return 0
	}
	if t.GetPctType() {
		return 0
	}
	schema, name := a.split(names(t.GetNames()))
	oid := a.findType(schema, name)
	if oid == 0 {
		if _, ok := a.c.Schemas[schema]; schema != "" && !ok {
			a.failAt(t.GetLocation(), "3F000", "schema %q does not exist", schema)
		}
		a.failAt(t.GetLocation(), "42704", "type %q does not exist", strings.Join(names(t.GetNames()), "."))
	}
	if len(t.GetArrayBounds()) > 0 {
		oid = a.c.Types[oid].Array
	}
	a.checks(oid) // whatever becomes one is checked, be it by a cast, a column of JSON or a parameter
	return oid
}

func (a *analyzer) findType(schema, name string) uint32 {
	path := a.path
	if schema != "" {
		path = []string{schema}
	}
	for _, p := range path {
		if isTemp(p) {
			if a.st.Temp[name] != nil || a.st.TempTypes[name] {
				beyond("type %q is the session's temporary one, which is not understood", name)
			}
			if schema != "" {
				beyond("types of the temporary schema are not understood")
			}
			continue
		}
		if oid := a.c.TypeNames[Name{p, name}]; oid != 0 {
			return oid
		}
	}
	return 0
}

func (a *analyzer) typeCast(s *scope, t *tree.TypeCast, in string) value {
	a.mark(t)
	to := a.typeName(t.GetTypeName())
	v := a.expr(s, t.GetArg(), in)
	if base := a.c.base(to); len(t.GetTypeName().GetTypmods()) > 0 && !textual(base) {
		if v.row != nil {
			v = a.made(v.typ, WholeRow, v)
		}
		a.becomes(v.typ, to, 'e')
		out := a.made(to, cmp.Or(in, Expression), v) // numeric(3, 1) has no room for 100
		out.name = v.name
		return out
	}
	return a.cast(v, to, in)
}

// cast is a value as one of another type.
func (a *analyzer) cast(v value, to uint32, in string) value {
	if v.row != nil {
		v = a.made(v.typ, WholeRow, v)
	}
	from := a.c.base(v.typ)
	base := a.c.base(to)
	a.becomes(v.typ, to, 'e')
	if from == base && from != 0 && (!a.restricted(to) || to == v.typ) || textual(from) && textual(base) && !a.restricted(to) {
		return value{typ: to, lineage: v.lineage, plain: v.plain, name: v.name, lazy: v.lazy}
	}
	out := a.made(to, cmp.Or(in, Expression), v)
	out.name = v.name
	return out
}

// restricted says that not each value of the base type may be one of t: a domain has checks, NOT NULL or a length.
func (a *analyzer) restricted(t uint32) bool {
	d := a.c.Types[t]
	return d != nil && d.Kind == 'd'
}

// becomes says that a value of one type is made one of another, where casts of that context may be used.
func (a *analyzer) becomes(from, to uint32, context byte) {
	a.checks(to)
	if from == typeUnknown || from == to {
		return // the type's own input function, which only a superuser can define
	}
	f, t := a.c.base(from), a.c.base(to)
	for pair, c := range a.c.userCasts() {
		if c.Context != 'i' && context == 'i' {
			continue
		}
		src, dst := pair[0], pair[1]
		if (f == 0 || src == f || a.elementOf(f) == src) && (t == 0 || dst == t || a.elementOf(t) == dst) {
			a.implements(c.Function)
		}
	}
}

// converted says that a value of one type is taken for an argument of another.
func (a *analyzer) converted(from, to uint32) {
	if from != to && !polymorphic(to) && to != typeUnknown {
		a.becomes(from, to, 'i')
	}
}

// coerced says that one of two values is made what the other is.
func (a *analyzer) coerced(x, y value) {
	a.converted(x.typ, y.typ)
	a.converted(y.typ, x.typ)
}

// checks are the constraints of a domain, which are looked at whenever a value becomes one of it.
func (a *analyzer) checks(t uint32) {
	for range 32 {
		d := a.c.Types[t]
		if d != nil && (d.Element != 0 || d.Subtype != 0) {
			t = max(d.Element, d.Subtype) // one of them is 0
			continue
		}
		if d != nil && d.Kind == 'c' && d.OID >= firstUser && !a.checkedTypes[t] {
			a.checkedTypes[t] = true
			if rel := a.c.Relations[d.Relation]; rel != nil {
				for _, c := range rel.Columns {
					a.checks(c.Type)
				}
			}
			return
		}
		if d == nil || d.Kind != 'd' {
			return
		}
		for _, text := range d.Checks {
			a.elsewhere(func() {
				a.domain = append(a.domain, a.c.base(t))
				defer func() { a.domain = a.domain[:len(a.domain)-1] }()
				n := definition("SELECT " + text).GetTargetList()
				a.expr(&scope{}, n[0].GetResTarget().GetVal(), Predicate)
			})
		}
		t = d.Base
	}
}

// common is the type of several values that become one; 0 where it is not known.
func (a *analyzer) common(list []value) uint32 {
	t := uint32(typeUnknown)
	var kinds []value // one of each type
	for _, v := range list {
		if slices.ContainsFunc(kinds, func(w value) bool { return w.typ == v.typ }) {
			continue
		}
		for _, w := range kinds {
			a.coerced(w, v)
		}
		kinds = append(kinds, v)
		switch {
		case v.typ == typeUnknown:
		case t == typeUnknown:
			t = v.typ
		default:
			t = a.wider(t, v.typ)
		}
	}
	if t == typeUnknown {
		t = typeText
	}
	return t
}

// wider is the type that values of two types become when they are one column (select_common_type); 0 where it is not known.
func (a *analyzer) wider(x, y uint32) uint32 {
	if x == y {
		return x
	}
	x, y = a.c.base(x), a.c.base(y)
	switch {
	case x == y || y == typeUnknown:
		return x
	case x == typeUnknown:
		return y
	case x == 0 || y == 0 || a.category(x) != a.category(y):
		return 0
	}
	implicit := func(from, to uint32) bool {
		c, ok := a.c.Casts[[2]uint32{from, to}]
		return ok && c.Context == 'i'
	}
	if !a.preferred(x, a.category(x)) && implicit(x, y) && !implicit(y, x) {
		return y
	}
	return x
}

// asText is what the literals of a query's answer are, where nothing in it gave them another type.
func asText(list []value) []value {
	for i := range list {
		if list[i].typ == typeUnknown {
			list[i].typ = typeText
		}
	}
	return list
}

// shownTypes are the types that PostgreSQL names otherwise than it stores them.
var shownTypes = map[string]string{
	"bool": "boolean", "int2": "smallint", "int4": "integer", "int8": "bigint", "float4": "real", "float8": "double precision", "varchar": "character varying",
	"bpchar": "character", "timestamp": "timestamp without time zone", "timestamptz": "timestamp with time zone", "time": "time without time zone",
	"timetz": "time with time zone", "varbit": "bit varying", "char": `"char"`,
}

// typeShown is a type as PostgreSQL's messages name it.
func (a *analyzer) typeShown(t uint32) string {
	d := a.c.Types[t]
	switch {
	case d == nil:
		return "unknown"
	case d.Element != 0:
		return a.typeShown(d.Element) + "[]"
	case d.Name.Schema == "pg_catalog" && shownTypes[d.Name.Name] != "":
		return shownTypes[d.Name.Name]
	case d.Name.Schema == "pg_catalog" || slices.Contains(a.path, d.Name.Schema):
		return d.Name.Name
	}
	return d.Name.String()
}

func (a *analyzer) typesShown(list []value) string {
	shown := make([]string, len(list))
	for i, v := range list {
		shown[i] = a.typeShown(v.typ)
	}
	return strings.Join(shown, ", ")
}
