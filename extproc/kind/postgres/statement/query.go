package statement

import (
	"strconv"
	"strings"

	tree "github.com/pganalyze/pg_query_go/v6"
)

// query is what a SELECT, VALUES, TABLE or set operation answers. Where it is split, what each column of the answer does is kept
// with it (value.lazy), and is not done unless the column is named: so it is with views.
func (a *analyzer) query(parent *scope, q *tree.SelectStmt, split bool) []value {
	a.down()
	defer a.up()
	if q == nil {
		beyond("a query is not understood")
	}
	a.mark(q)
	s := parent.child()
	a.with(s, q.GetWithClause())
	var out []value
	switch {
	case q.GetOp() != tree.SetOperation_SETOP_NONE:
		out = a.setOperation(s, q, split)
	case len(q.GetValuesLists()) > 0:
		out = a.values(s, q.GetValuesLists())
	default:
		out = a.simple(s, q, split)
	}
	a.order(s, q.GetSortClause(), out)
	for _, n := range []*tree.Node{q.GetLimitCount(), q.GetLimitOffset()} {
		if n != nil {
			a.use(a.expr(s, n, Limit), Limit)
		}
	}
	for _, n := range q.GetLockingClause() {
		a.locking(n.GetLockingClause())
	}
	return out
}

func (a *analyzer) locking(l *tree.LockingClause) {
	a.mark(l)
	for _, r := range l.GetLockedRels() {
		a.mark(r.GetRangeVar())
	}
	a.sink.locks = true
	if !a.dry {
		a.sink.raise(Write)
	}
}

func (a *analyzer) simple(s *scope, q *tree.SelectStmt, split bool) []value {
	a.fromClause(s, q.GetFromClause())
	if n := q.GetWhereClause(); n != nil {
		a.use(a.expr(s, n, Predicate), Predicate)
	}
	out := a.targets(s, q.GetTargetList(), split)
	if q.GetIntoClause() != nil && !a.seen[q.GetIntoClause()] {
		beyond("INTO stands where it is not understood")
	}
	for _, n := range q.GetGroupClause() {
		a.group(s, n, out)
	}
	if n := q.GetHavingClause(); n != nil {
		a.use(a.expr(s, n, Predicate), Predicate)
	}
	for _, n := range q.GetWindowClause() {
		a.window(s, n.GetWindowDef())
	}
	for _, n := range q.GetDistinctClause() {
		if n.GetNode() == nil { // DISTINCT without ON
			for _, v := range out {
				a.use(v, Group)
			}
			continue
		}
		a.byOutput(s, n, out, Group, true)
	}
	return out
}

// targets are what a list of SELECT or RETURNING answers.
func (a *analyzer) targets(s *scope, list []*tree.Node, split bool) []value {
	var out []value
	for _, n := range list {
		r := n.GetResTarget()
		if r == nil {
			beyond("a list of columns has %T", n.GetNode())
		}
		a.mark(r)
		var got []value
		did := a.in(func() { got = a.target(s, r) })
		if !split {
			a.sink.add(did)
		}
		for _, v := range got {
			v.reads, v.lazy = nil, nil
			if split {
				v.lazy = did
			}
			out = append(out, v)
		}
	}
	return out
}

func (a *analyzer) target(s *scope, r *tree.ResTarget) []value {
	if list, ok := a.star(s, r.GetVal()); ok {
		return list
	}
	v := a.settled(a.expr(s, r.GetVal(), ""))
	switch {
	case r.GetName() != "":
		v.name = r.GetName()
	case !v.label:
		v.name, _ = label(r.GetVal())
	}
	v.label = true
	return []value{v}
}

// star is what * stands for, in each of its forms; false where n has none.
func (a *analyzer) star(s *scope, n *tree.Node) ([]value, bool) {
	if c := n.GetColumnRef(); c != nil && isStar(c.GetFields()) {
		a.mark(c)
		parts := names(c.GetFields()[:len(c.GetFields())-1])
		if len(parts) == 0 {
			if s.items == nil {
				fail("42601", "SELECT * with no tables specified is not valid")
			}
			var list []value
			for _, it := range s.items {
				if it.cols {
					list = append(list, a.columns(it)...)
				}
			}
			return list, true
		}
		schema, name := a.split(parts)
		it := a.item(s, schema, name)
		if it == nil {
			a.missing(s, c.GetLocation(), schema, name)
		}
		return a.columns(it), true
	}
	if i := n.GetAIndirection(); i != nil && isStar(i.GetIndirection()) {
		a.mark(i)
		v := a.indirect(s, a.expr(s, i.GetArg(), ""), i.GetIndirection()[:len(i.GetIndirection())-1], "")
		if v.row != nil {
			return a.columns(v.row), true
		}
		t := a.c.Types[a.c.base(v.typ)]
		if t == nil || t.Kind != 'c' {
			beyond("the columns of (…).* are not known")
		}
		rel := a.c.Relations[t.Relation]
		if rel == nil {
			beyond("the columns of (…).* are not known")
		}
		var list []value
		for _, col := range rel.Columns {
			f := a.made(col.Type, Expression, v)
			f.name, f.label = col.Name, true
			list = append(list, f)
		}
		return list, true
	}
	return nil, false
}

func isStar(list []*tree.Node) bool {
	return len(list) > 0 && list[len(list)-1].GetAStar() != nil
}

// columns names each column of an item.
func (a *analyzer) columns(it *item) []value {
	if it.open != nil && len(it.columns) == 0 {
		beyond("the columns of %q are not known", it.name)
	}
	list := make([]value, len(it.columns))
	for i, v := range it.columns {
		list[i] = a.settled(a.touch(v))
	}
	return list
}

func (a *analyzer) setOperation(s *scope, q *tree.SelectStmt, split bool) []value {
	l := a.query(s, q.GetLarg(), split)
	r := a.query(s, q.GetRarg(), split)
	return a.combined(q, l, r)
}

func (a *analyzer) combined(q *tree.SelectStmt, l, r []value) []value {
	if len(l) != len(r) {
		at := int32(-1)
		if list := q.GetRarg().GetTargetList(); len(list) > 0 {
			at = list[0].GetResTarget().GetLocation()
		}
		a.failAt(at, "42601", "each %s query must have the same number of columns", strings.TrimPrefix(q.GetOp().String(), "SETOP_"))
	}
	out := make([]value, len(l))
	for i := range l {
		out[i] = a.merged(l[i], r[i])
		if !q.GetAll() || q.GetOp() != tree.SetOperation_SETOP_UNION { // EXCEPT ALL and INTERSECT ALL compare too
			a.use(out[i], Group)
		}
	}
	return out
}

func (a *analyzer) values(s *scope, lists []*tree.Node) []value {
	var out []value
	for i, l := range lists {
		row := l.GetList().GetItems()
		if i > 0 && len(row) != len(out) {
			fail("42601", "VALUES lists must all be the same length")
		}
		for j, n := range row {
			v := value{typ: typeUnknown}
			if n.GetSetToDefault() == nil {
				v = a.settled(a.expr(s, n, ""))
			}
			v.name, v.label = "column"+strconv.Itoa(j+1), true
			if i == 0 {
				out = append(out, v)
			} else {
				out[j] = a.merged(out[j], v)
			}
		}
	}
	return out
}

// order is ORDER BY.
func (a *analyzer) order(s *scope, list []*tree.Node, out []value) {
	for _, n := range list {
		b := n.GetSortBy()
		a.mark(b)
		v := a.byOutput(s, b.GetNode(), out, Order, true)
		if op := names(b.GetUseOp()); op != nil {
			a.operator(op, Order, v, v)
		}
	}
}

// byOutput is an expression that may be the name or the number of a column of the answer. In GROUP BY a name of FROM comes first.
func (a *analyzer) byOutput(s *scope, n *tree.Node, out []value, how string, outputFirst bool) value {
	if i := n.GetAConst().GetIval(); n.GetAConst() != nil && n.GetAConst().GetVal() != nil && out != nil {
		if _, ok := n.GetAConst().GetVal().(*tree.A_Const_Ival); ok {
			if i.GetIval() < 1 || int(i.GetIval()) > len(out) {
				fail("42P10", "position %d is not in the select list", i.GetIval())
			}
			a.use(out[i.GetIval()-1], how)
			return out[i.GetIval()-1]
		}
	}
	if c := n.GetColumnRef(); c != nil && len(c.GetFields()) == 1 {
		name := c.GetFields()[0].GetString_().GetSval()
		if !outputFirst {
			if v, ok := a.column(s.alone(), name); ok {
				a.mark(c)
				a.use(v, how)
				return v
			}
		}
		var found *value
		for i, v := range out {
			if v.name == name {
				a.use(v, how)
				found = &out[i]
			}
		}
		if found != nil {
			a.mark(c)
			return *found
		}
	}
	v := a.expr(s, n, how)
	a.use(v, how)
	return v
}

// alone is s without what is around it.
func (s *scope) alone() *scope { return &scope{items: s.items} }

func (a *analyzer) group(s *scope, n *tree.Node, out []value) {
	if g := n.GetGroupingSet(); g != nil {
		for _, n := range g.GetContent() {
			a.group(s, n, out)
		}
		return
	}
	if r := n.GetRowExpr(); r != nil && r.GetRowFormat() == tree.CoercionForm_COERCE_IMPLICIT_CAST {
		for _, n := range r.GetArgs() {
			a.group(s, n, out)
		}
		return
	}
	a.byOutput(s, n, out, Group, false)
}

func (a *analyzer) window(s *scope, w *tree.WindowDef) {
	if w == nil {
		return
	}
	a.mark(w)
	for _, n := range w.GetPartitionClause() {
		a.use(a.expr(s, n, Group), Group)
	}
	a.order(s, w.GetOrderClause(), nil)
	for _, n := range []*tree.Node{w.GetStartOffset(), w.GetEndOffset()} {
		if n != nil {
			a.use(a.expr(s, n, Expression), Expression)
		}
	}
}
