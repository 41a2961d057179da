package statement

import (
	"slices"

	tree "github.com/pganalyze/pg_query_go/v6"
)

// A source is what an element of FROM has: its columns for SELECT *, and what may be named.
type source struct {
	columns []value
	items   []*item
}

// fromClause adds what FROM has to s.
func (a *analyzer) fromClause(s *scope, list []*tree.Node) {
	for _, n := range list {
		s.items = append(s.items, a.from(s, s.items, n).items...)
	}
}

// from is an element of FROM. left is what stands before it, which only what is lateral may name.
func (a *analyzer) from(s *scope, left []*item, n *tree.Node) source {
	a.down()
	defer a.up()
	sideways := &scope{parent: s.parent, ctes: s.ctes, items: left}
	switch n := n.GetNode().(type) {
	case *tree.Node_RangeVar:
		return one(a.rangeVar(s, n.RangeVar))
	case *tree.Node_RangeSubselect:
		r := n.RangeSubselect
		if !r.GetLateral() {
			sideways.items = nil
		}
		return one(named(&item{columns: asText(a.query(sideways, r.GetSubquery().GetSelectStmt(), false))}, r.GetAlias()))
	case *tree.Node_RangeFunction:
		return one(a.rangeFunction(sideways, n.RangeFunction))
	case *tree.Node_RangeTableFunc:
		return one(a.xmlTable(sideways, n.RangeTableFunc))
	case *tree.Node_JsonTable:
		return one(a.jsonTable(sideways, n.JsonTable))
	case *tree.Node_RangeTableSample:
		return a.sample(s, left, n.RangeTableSample)
	case *tree.Node_JoinExpr:
		return a.join(s, left, n.JoinExpr)
	}
	beyond("FROM has %T, which is not understood", n.GetNode())
	return source{}
}

func one(it *item) source {
	it.rel, it.cols = it.name != "", true
	return source{it.columns, []*item{it}}
}

// named gives an item an alias, and its columns others.
func named(it *item, alias *tree.Alias) *item {
	if alias == nil {
		return it
	}
	it.name, it.schema = alias.GetAliasname(), ""
	it.columns = renamed(it.columns, names(alias.GetColnames()))
	return it
}

func renamed(columns []value, to []string) []value {
	if len(to) > len(columns) {
		fail("42P10", "there are %d columns, and %d names for them", len(columns), len(to))
	}
	columns = slices.Clone(columns)
	for i, n := range to {
		columns[i].name = n
	}
	return columns
}

func (a *analyzer) rangeVar(s *scope, r *tree.RangeVar) *item {
	a.mark(r)
	if r.GetSchemaname() == "" && r.GetCatalogname() == "" {
		if c := a.cte(s, r.GetRelname()); c != nil {
			it := &item{name: r.GetRelname(), columns: a.cteColumns(c)}
			return named(it, r.GetAlias())
		}
	}
	rel := a.relation(r)
	it := a.table(rel, r.GetInh())
	it.name, it.schema = rel.Name.Name, rel.Name.Schema
	if isTemp(r.GetSchemaname()) {
		it.schema = r.GetSchemaname()
	}
	return named(it, r.GetAlias())
}

// relation is what a name of a relation means.
func (a *analyzer) relation(r *tree.RangeVar) *Relation {
	rel := a.lookup(r)
	if rel == nil {
		a.failAt(r.GetLocation(), "42P01", "relation %q does not exist", qualifiedName(r))
	}
	return rel
}

func qualifiedName(r *tree.RangeVar) string {
	if r.GetSchemaname() == "" {
		return r.GetRelname()
	}
	return r.GetSchemaname() + "." + r.GetRelname()
}

// lookup is nil where there is no such relation.
func (a *analyzer) lookup(r *tree.RangeVar) *Relation {
	if r.GetCatalogname() != "" && r.GetCatalogname() != a.c.Database {
		fail("0A000", "cross-database references are not implemented: %q", r.GetCatalogname())
	}
	return a.find(r.GetSchemaname(), r.GetRelname())
}

func (a *analyzer) find(schema, name string) *Relation {
	path := a.path
	if schema != "" {
		path = []string{schema}
	}
	for _, p := range path {
		if isTemp(p) {
			if rel := a.st.Temp[name]; rel != nil && (p == tempSchema || p == rel.Name.Schema) {
				return rel
			}
			if p == tempSchema {
				continue
			}
		}
		rel, ok := a.st.Fresh[Name{p, name}]
		if !ok {
			rel = a.c.Relations[Name{p, name}]
		}
		if rel != nil {
			return rel
		}
	}
	return nil
}

// table reads a relation; its columns are read when they are named.
func (a *analyzer) table(rel *Relation, inherited bool) *item {
	a.sink.read(rel.Name)
	it := &item{relation: rel}
	switch rel.Kind {
	case 'r', 'p', 'S', 't':
	case 'f':
		a.sink.opaque = true // what another server, file or program does
		a.sink.raise(Write)
	case 'v', 'm':
		if rel.own() {
			break
		}
		v := a.view(rel)
		a.sink.add(v.sink)
		it.columns = v.columns
		return it
	default:
		fail("42809", "relation %q cannot be read", rel.Name.Name)
	}
	if rel.own() && exposing[rel.Name] {
		a.sink.exposes[rel.Name.String()] = true
	}
	a.policies(rel)
	a.partitioned(rel)
	if inherited {
		for _, child := range a.heirs(rel)[1:] {
			a.sink.read(child.Name)
		}
	}
	for i := range rel.Columns {
		it.columns = append(it.columns, a.attribute(rel, &rel.Columns[i], inherited))
	}
	return it
}

// partitioned says that rows of a relation by itself are those of some values of its parents' keys.
func (a *analyzer) partitioned(rel *Relation) {
	for _, name := range rel.Parents {
		parent := a.c.Relations[name]
		if parent == nil {
			continue
		}
		for _, key := range parent.Keys {
			if c := parent.column(key); c != nil {
				a.use(a.attribute(parent, c, true), Predicate)
			}
		}
		a.partitioned(parent)
	}
}

// systemColumn is a column that each table has. tableoid is the partition, which tells of the key.
func (a *analyzer) systemColumn(rel *Relation, name string) value {
	v := value{name: name, typ: system[name], label: true}
	if name != "tableoid" {
		return v
	}
	for _, r := range a.heirs(rel) {
		for _, key := range r.Keys {
			if c := r.column(key); c != nil {
				v.lineage, v.plain = join(v.lineage, a.attribute(r, c, true).lineage), true
			}
		}
	}
	return v
}

// heirs are a relation and all that inherits from it.
func (a *analyzer) heirs(rel *Relation) []*Relation {
	list, ok := a.families[rel]
	if !ok {
		list = a.c.heirs(rel)
		a.families[rel] = list
	}
	return list
}

// attribute is a column of a table, with those of the same data.
func (a *analyzer) attribute(rel *Relation, col *Attribute, inherited bool) value {
	v := value{name: col.Name, typ: col.Type, plain: true, label: true}
	same := []*Relation{rel}
	if inherited {
		same = a.heirs(rel)
	}
	for _, r := range same {
		v.reads = append(v.reads, ColumnRef{r.Name.Schema, r.Name.Name, col.Name})
	}
	for _, r := range slices.Concat(same, a.c.ancestors(rel, col.Name)) {
		v.lineage = append(v.lineage, ColumnRef{r.Name.Schema, r.Name.Name, col.Name})
		if c := r.column(col.Name); c != nil && c.Generated != "" {
			v.lineage = join(v.lineage, a.generated(r, c))
		}
	}
	return v
}

// generated are the columns that a generated column is made of. It cannot be made of another generated one.
func (a *analyzer) generated(rel *Relation, col *Attribute) (list []ColumnRef) {
	a.in(func() {
		a.elsewhere(func() {
			it := &item{name: rel.Name.Name, relation: rel, rel: true, cols: true}
			for _, c := range rel.Columns {
				if c.Generated == "" {
					it.columns = append(it.columns, value{name: c.Name, typ: c.Type, plain: true, lineage: []ColumnRef{{rel.Name.Schema, rel.Name.Name, c.Name}}})
				}
			}
			n := definition("SELECT " + col.Generated).GetTargetList()
			list = a.expr(&scope{items: []*item{it}}, n[0].GetResTarget().GetVal(), "").lineage
		})
	})
	return list
}

// policies do what row security does when the relation is used.
func (a *analyzer) policies(rel *Relation) {
	if len(rel.Policies) == 0 {
		return
	}
	if done, ok := a.guarded[rel]; ok {
		a.sink.add(done) // nil where the relation's policies read it, which PostgreSQL refuses
		return
	}
	a.guarded[rel] = nil
	a.guarded[rel] = a.in(func() {
		it := &item{name: rel.Name.Name, relation: rel, rel: true, cols: true}
		for i := range rel.Columns {
			it.columns = append(it.columns, a.attribute(rel, &rel.Columns[i], false))
		}
		for _, text := range rel.Policies {
			a.elsewhere(func() {
				n := definition("SELECT " + text).GetTargetList()
				a.use(a.expr(&scope{items: []*item{it}}, n[0].GetResTarget().GetVal(), Predicate), Predicate)
			})
		}
	})
	a.sink.add(a.guarded[rel])
}

// A view is what reading a view does: sink whichever columns are named, and those of its columns when they are.
type view struct {
	sink    *sink
	columns []value
}

func (a *analyzer) view(rel *Relation) *view {
	if v, ok := a.views[rel]; ok {
		if v == nil {
			beyond("view %s is made of itself", rel.Name)
		}
		return v
	}
	a.views[rel] = nil
	v := &view{}
	v.sink = a.in(func() {
		a.elsewhere(func() { v.columns = a.query(nil, definition(rel.Definition), true) })
	})
	if len(v.columns) != len(rel.Columns) {
		beyond("view %s has %d columns, and its definition %d", rel.Name, len(rel.Columns), len(v.columns))
	}
	for i, col := range rel.Columns {
		ref := ColumnRef{rel.Name.Schema, rel.Name.Name, col.Name}
		c := &v.columns[i]
		// What is computed is a use of what it is made of, which is there already; for a mask of the view's own column it is plain.
		c.name, c.typ, c.reads = col.Name, col.Type, append(c.reads, ref)
		c.plain = c.plain || len(c.lineage) == 0
		c.lineage = join([]ColumnRef{ref}, c.lineage)
		c.label = true
	}
	a.views[rel] = v
	v.settle(rel.Kind == 'm')
	return v
}

// settle moves what happens whether a column is named or not: functions may be called all the same, and one that returns a set decides how many
// rows there are. Reading a materialized view does nothing but read.
func (v *view) settle(materialized bool) {
	for i := range v.columns {
		c := &v.columns[i]
		if c.lazy == nil {
			continue
		}
		if c.lazy.set {
			v.sink.add(c.lazy)
			continue
		}
		effects := *c.lazy
		effects.reads, effects.uses = nil, nil
		v.sink.add(&effects)
		c.lazy = &sink{access: Read, reads: c.lazy.reads, uses: c.lazy.uses}
	}
	if materialized {
		v.sink = &sink{access: Read, reads: v.sink.reads, uses: v.sink.uses}
	}
}

func (a *analyzer) join(s *scope, left []*item, j *tree.JoinExpr) source {
	a.mark(j)
	l := a.from(s, left, j.GetLarg())
	r := a.from(s, append(slices.Clone(left), l.items...), j.GetRarg())
	using := names(j.GetUsingClause())
	if j.GetIsNatural() {
		for _, c := range l.columns {
			if slices.ContainsFunc(r.columns, func(v value) bool { return v.name == c.name }) {
				using = append(using, c.name)
			}
		}
	}
	var out source
	li, ri := &item{columns: l.columns}, &item{columns: r.columns}
	for _, name := range using {
		if li.find(name) < 0 || ri.find(name) < 0 {
			fail("42703", "column %q specified in USING clause does not exist on both sides", name)
		}
		x, y := a.touch(l.columns[li.find(name)]), a.touch(r.columns[ri.find(name)])
		a.operator([]string{"="}, Join, x, y)
		out.columns = append(out.columns, a.merged(x, y))
	}
	merged := out.columns
	for _, c := range slices.Concat(l.columns, r.columns) {
		if !slices.Contains(using, c.name) {
			out.columns = append(out.columns, c)
		}
	}
	out.items = append(l.items, r.items...)
	if q := j.GetQuals(); q != nil {
		on := &scope{parent: s.parent, ctes: s.ctes, items: out.items}
		a.use(a.expr(on, q, Join), Join)
	}
	for _, it := range out.items {
		it.cols = false
		if j.GetAlias() != nil {
			it.rel = false
		}
	}
	it := named(&item{columns: out.columns}, j.GetAlias())
	it.cols, it.rel = true, it.name != ""
	it.open = opened(out.items)
	out.columns = it.columns
	out.items = append(out.items, it)
	if u := j.GetJoinUsingAlias(); u != nil {
		out.items = append(out.items, &item{name: u.GetAliasname(), columns: merged, rel: true})
	}
	return out
}

func opened(items []*item) *value {
	for _, it := range items {
		if it.open != nil {
			return it.open
		}
	}
	return nil
}

func (a *analyzer) sample(s *scope, left []*item, t *tree.RangeTableSample) source {
	a.mark(t)
	src := a.from(s, left, t.GetRelation())
	if m := names(t.GetMethod()); !slices.Contains([]string{"bernoulli", "system"}, last(m)) {
		schema, name := a.split(m)
		a.calls(a.candidates(schema, name, nil))
		a.sink.opaque = true
		a.sink.raise(Unknown)
	}
	for _, n := range append(slices.Clone(t.GetArgs()), t.GetRepeatable()) {
		if n != nil {
			a.use(a.expr(s, n, Limit), Limit)
		}
	}
	return src
}
