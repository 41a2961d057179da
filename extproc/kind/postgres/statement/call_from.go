package statement

import (
	"slices"
	"strings"

	tree "github.com/pganalyze/pg_query_go/v6"
)

// rangeFunction is a function in FROM. All its columns are made of all its arguments.
func (a *analyzer) rangeFunction(s *scope, r *tree.RangeFunction) *item {
	a.mark(r)
	it := &item{}
	var all value
	calls := a.unnested(r)
	for _, n := range calls {
		pair := n.GetList().GetItems()
		call := pair[0]
		v := a.settled(a.expr(s, call, ""))
		all.lineage = join(all.lineage, v.lineage)
		name, _ := label(call)
		if it.name == "" {
			it.name = name
		}
		if len(pair) > 1 && len(pair[1].GetList().GetItems()) > 0 {
			it.columns = append(it.columns, a.defined(v, pair[1].GetList().GetItems())...)
			continue
		}
		columns, ok := a.outs(call, v, name)
		if !ok && len(r.GetColdeflist()) == 0 {
			it.open = &value{lineage: v.lineage}
			continue
		}
		it.columns = append(it.columns, columns...)
	}
	if list := r.GetColdeflist(); len(list) > 0 {
		it.columns = a.defined(all, list)
	}
	if r.GetOrdinality() {
		it.columns = append(it.columns, value{name: "ordinality", typ: typeInt8, label: true})
	}
	if alias := r.GetAlias(); alias != nil {
		// The one column of a function that returns one value is called as the function is.
		if len(calls) == 1 && len(it.columns) > 0 && it.open == nil && it.columns[0].name == it.name {
			it.columns[0].name = alias.GetAliasname()
		}
		if it.open != nil && len(it.columns) == 0 {
			it.name = alias.GetAliasname()
			for _, n := range names(alias.GetColnames()) {
				it.columns = append(it.columns, value{name: n, lineage: it.open.lineage, label: true})
			}
			return it
		}
		named(it, alias)
	}
	return it
}

// unnested are the functions of a ROWS FROM; unnest of several arrays is one of each, as PostgreSQL takes it.
func (a *analyzer) unnested(r *tree.RangeFunction) (list []*tree.Node) {
	for _, n := range r.GetFunctions() {
		pair := n.GetList().GetItems()
		f := pair[0].GetFuncCall()
		plain := f != nil && strings.Join(names(f.GetFuncname()), ".") == "unnest" && len(f.GetFuncname()) == 1 && len(f.GetArgs()) > 1 && f.GetAggFilter() == nil &&
			f.GetOver() == nil && len(f.GetAggOrder()) == 0 && !f.GetAggDistinct() && !f.GetAggStar() && !f.GetFuncVariadic() && len(pair[1].GetList().GetItems()) == 0
		if !plain {
			list = append(list, n)
			continue
		}
		a.mark(f)
		for _, arg := range f.GetArgs() {
			one := &tree.FuncCall{Funcname: []*tree.Node{tree.MakeStrNode("pg_catalog"), tree.MakeStrNode("unnest")}, Args: []*tree.Node{arg}, Funcformat: tree.CoercionForm_COERCE_EXPLICIT_CALL, Location: f.GetLocation()}
			list = append(list, tree.MakeListNode([]*tree.Node{{Node: &tree.Node_FuncCall{FuncCall: one}}, pair[1]}))
		}
	}
	return list
}

// defined are columns as AS (name type, …) has them.
func (a *analyzer) defined(of value, list []*tree.Node) []value {
	var out []value
	for _, n := range list {
		d := n.GetColumnDef()
		out = append(out, value{name: d.GetColname(), typ: a.typeName(d.GetTypeName()), lineage: of.lineage, label: true})
	}
	return out
}

// outs are the columns that a function has in FROM; false where they are not known.
func (a *analyzer) outs(call *tree.Node, v value, name string) ([]value, bool) {
	column := func(name string, t uint32) value { return value{name: name, typ: t, lineage: v.lineage, label: true} }
	f := call.GetFuncCall()
	if f == nil { // current_date, CAST(…), COALESCE(…)
		return []value{column(name, v.typ)}, true
	}
	var list [][]value
	for _, r := range a.resolved[f] {
		var got []value
		switch {
		case len(r.Outs) > 0 && (r.Result == typeRecord || len(r.Outs) > 1):
			for _, o := range r.Outs {
				t := o.Type
				if polymorphic(t) {
					t = 0
				}
				got = append(got, column(o.Name, t))
			}
		case len(r.Outs) == 1 && r.Outs[0].Name != "":
			got = append(got, column(r.Outs[0].Name, r.Result))
		case r.Result == typeRecord:
			return nil, false
		default:
			t := a.c.Types[a.c.base(r.Result)]
			if t != nil && t.Kind == 'c' {
				rel := a.c.Relations[t.Relation]
				if rel == nil {
					return nil, false
				}
				for _, c := range rel.Columns {
					got = append(got, column(c.Name, c.Type))
				}
				break
			}
			if polymorphic(r.Result) && v.typ == 0 { // may be a row
				return nil, false
			}
			if w := a.c.Types[a.c.base(v.typ)]; w != nil && w.Kind == 'c' {
				if rel := a.c.Relations[w.Relation]; rel != nil {
					for _, c := range rel.Columns {
						got = append(got, column(c.Name, c.Type))
					}
					break
				}
			}
			got = append(got, column(name, v.typ))
		}
		list = append(list, got)
	}
	if len(list) == 0 {
		return []value{column(name, v.typ)}, true // a cast that is written as a function
	}
	for _, other := range list[1:] {
		if !slices.EqualFunc(list[0], other, func(a, b value) bool { return a.name == b.name }) {
			return nil, false
		}
	}
	return list[0], true
}

func (a *analyzer) xmlTable(s *scope, t *tree.RangeTableFunc) *item {
	a.mark(t)
	of := a.made(0, Called, a.parts(s, t.ProtoReflect(), Called)...)
	it := &item{name: "xmltable"}
	for _, n := range t.GetColumns() {
		c := n.GetRangeTableFuncCol()
		it.columns = append(it.columns, value{name: c.GetColname(), typ: a.typeName(c.GetTypeName()), lineage: of.lineage, label: true})
	}
	return named(it, t.GetAlias())
}

func (a *analyzer) jsonTable(s *scope, t *tree.JsonTable) *item {
	a.mark(t)
	if a.c.Version < 170000 {
		beyond("JSON_TABLE is not known to server version %d", a.c.Version)
	}
	of := a.made(0, Called, a.parts(s, t.ProtoReflect(), Called)...)
	it := &item{name: "json_table"}
	var add func(list []*tree.Node)
	add = func(list []*tree.Node) {
		for _, n := range list {
			c := n.GetJsonTableColumn()
			if len(c.GetColumns()) > 0 {
				add(c.GetColumns())
				continue
			}
			it.columns = append(it.columns, value{name: c.GetName(), typ: a.typeName(c.GetTypeName()), lineage: of.lineage, label: true})
		}
	}
	add(t.GetColumns())
	return named(it, t.GetAlias())
}
