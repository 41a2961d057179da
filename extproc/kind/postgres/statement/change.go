package statement

import (
	"maps"
	"slices"

	tree "github.com/pganalyze/pg_query_go/v6"
)

// change is an INSERT, UPDATE, DELETE or MERGE; what it answers is what it returns.
func (a *analyzer) change(parent *scope, n *tree.Node) []value {
	a.down()
	defer a.up()
	if n.GetSelectStmt() == nil && !a.dry {
		a.sink.raise(Write)
	}
	switch n := n.GetNode().(type) {
	case *tree.Node_InsertStmt:
		return a.insert(parent, n.InsertStmt)
	case *tree.Node_UpdateStmt:
		return a.update(parent, n.UpdateStmt)
	case *tree.Node_DeleteStmt:
		return a.delete(parent, n.DeleteStmt)
	case *tree.Node_MergeStmt:
		return a.merge(parent, n.MergeStmt)
	case *tree.Node_SelectStmt:
		return a.query(parent, n.SelectStmt, false)
	}
	beyond("%T stands where a query should", n.GetNode())
	return nil
}

// aimed is the relation that a statement changes, as an item that the statement may name.
func (a *analyzer) aimed(r *tree.RangeVar) (*Relation, *item) {
	a.mark(r)
	rel := a.relation(r)
	it := a.quiet(rel, r.GetInh())
	it.name, it.schema, it.rel, it.cols = rel.Name.Name, rel.Name.Schema, true, true
	named(it, r.GetAlias())
	return rel, it
}

// quiet is a relation whose columns may be named, and are read only then.
func (a *analyzer) quiet(rel *Relation, inherited bool) *item {
	it := &item{relation: rel}
	a.policies(rel)
	a.partitioned(rel)
	switch rel.Kind {
	case 'v':
		if rel.own() { // UPDATE pg_settings is SET
			beyond("changing %s is not understood", rel.Name)
		}
		it.columns = a.view(rel).columns
	case 'r', 'p', 'f':
		for i := range rel.Columns {
			it.columns = append(it.columns, a.attribute(rel, &rel.Columns[i], inherited))
		}
	default:
		fail("42809", "relation %q cannot be changed", rel.Name.Name)
	}
	return it
}

func (a *analyzer) insert(parent *scope, q *tree.InsertStmt) []value {
	a.mark(q)
	s := parent.child()
	a.with(s, q.GetWithClause())
	rel, it := a.aimed(q.GetRelation())
	var columns []string
	for _, n := range q.GetCols() {
		r := n.GetResTarget()
		a.mark(r)
		a.assignable(rel, r.GetName(), r.GetLocation())
		columns = append(columns, r.GetName())
		a.indices(s, r.GetIndirection())
	}
	var from []value
	if n := q.GetSelectStmt(); n != nil {
		from = a.query(s, n.GetSelectStmt(), false)
		if columns == nil {
			columns = rel.columnNames()[:min(len(from), len(rel.Columns))]
		}
	}
	for i, v := range from {
		a.use(v, Stored)
		if i < len(columns) {
			a.assigned(rel, columns[i], v)
		}
	}
	a.compared(rel, "insert", columns)
	// What is not named gets its default, so that each column is written.
	a.writes(rel, true, "insert", rel.columnNames()...)
	if c := q.GetOnConflictClause(); c != nil {
		a.onConflict(s, rel, it, c)
	}
	return a.returning(s, it, []*item{it}, q.GetReturningList())
}

func (a *analyzer) onConflict(s *scope, rel *Relation, it *item, c *tree.OnConflictClause) {
	in := &scope{parent: s.parent, ctes: s.ctes, items: []*item{it}}
	for _, n := range c.GetInfer().GetIndexElems() {
		e := n.GetIndexElem()
		switch {
		case e.GetExpr() != nil:
			a.use(a.expr(in, e.GetExpr(), Predicate), Predicate)
		default:
			v, ok := a.column(in, e.GetName())
			if !ok {
				fail("42703", "column %q does not exist", e.GetName())
			}
			a.use(v, Predicate)
		}
	}
	if n := c.GetInfer().GetWhereClause(); n != nil {
		a.use(a.expr(in, n, Predicate), Predicate)
	}
	if c.GetAction() != tree.OnConflictAction_ONCONFLICT_UPDATE {
		return
	}
	excluded := &item{name: "excluded", rel: true, cols: false, relation: rel}
	for _, col := range rel.Columns { // what was to be inserted, and nothing that is stored
		excluded.columns = append(excluded.columns, value{name: col.Name, typ: col.Type, label: true})
	}
	in.items = append(in.items, excluded)
	a.set(in, rel, false, c.GetTargetList())
	if n := c.GetWhereClause(); n != nil {
		a.use(a.expr(in, n, Predicate), Predicate)
	}
}

func (a *analyzer) update(parent *scope, q *tree.UpdateStmt) []value {
	a.mark(q)
	s := parent.child()
	a.with(s, q.GetWithClause())
	rel, it := a.aimed(q.GetRelation())
	s.items = append(s.items, it)
	a.fromClause(s, q.GetFromClause())
	a.where(s, q.GetWhereClause())
	a.set(s, rel, q.GetRelation().GetInh(), q.GetTargetList())
	return a.returning(s, it, s.items, q.GetReturningList())
}

// where is the WHERE of an UPDATE or DELETE.
func (a *analyzer) where(s *scope, n *tree.Node) {
	a.narrowed(namesColumn(n))
	if n != nil {
		a.use(a.expr(s, n, Predicate), Predicate)
	}
}

// set is SET of an UPDATE.
func (a *analyzer) set(s *scope, rel *Relation, inherited bool, list []*tree.Node) {
	var columns []string
	for _, n := range list {
		r := n.GetResTarget()
		a.mark(r)
		a.assignable(rel, r.GetName(), r.GetLocation())
		columns = append(columns, r.GetName())
		a.indices(s, r.GetIndirection())
		v := a.expr(s, r.GetVal(), "")
		a.assigned(rel, r.GetName(), v)
		a.use(v, Stored)
	}
	a.compared(rel, "update", columns)
	a.writes(rel, inherited, "update", columns...)
}

func (a *analyzer) indices(s *scope, list []*tree.Node) {
	for _, n := range list {
		if i := n.GetAIndices(); i != nil {
			for _, n := range []*tree.Node{i.GetLidx(), i.GetUidx()} {
				if n != nil {
					a.use(a.expr(s, n, Expression), Expression)
				}
			}
		}
	}
}

func (a *analyzer) assignable(rel *Relation, column string, at int32) {
	if rel.column(column) == nil {
		a.failAt(at, "42703", "column %q of relation %q does not exist", column, rel.Name.Name)
	}
}

// assigned says that v becomes what a column has, by a cast if need be. As with triggers, it is the schema that has the cast and the domain.
func (a *analyzer) assigned(rel *Relation, column string, v value) {
	c := rel.column(column)
	if c == nil {
		return
	}
	did := a.in(func() { a.becomes(v.typ, c.Type, 'a') })
	maps.Copy(a.sink.functions, did.functions)
	a.sink.opaque = a.sink.opaque || did.opaque
}

func (a *analyzer) delete(parent *scope, q *tree.DeleteStmt) []value {
	a.mark(q)
	s := parent.child()
	a.with(s, q.GetWithClause())
	rel, it := a.aimed(q.GetRelation())
	s.items = append(s.items, it)
	a.fromClause(s, q.GetUsingClause())
	a.where(s, q.GetWhereClause())
	a.compared(rel, "delete", rel.columnNames())
	a.writes(rel, q.GetRelation().GetInh(), "delete", rel.columnNames()...)
	return a.returning(s, it, s.items, q.GetReturningList())
}

func (a *analyzer) merge(parent *scope, q *tree.MergeStmt) []value {
	a.mark(q)
	s := parent.child()
	a.with(s, q.GetWithClause())
	rel, it := a.aimed(q.GetRelation())
	s.items = append(s.items, it)
	a.fromClause(s, []*tree.Node{q.GetSourceRelation()})
	a.use(a.expr(s, q.GetJoinCondition(), Join), Join)
	a.narrowed(namesColumn(q.GetJoinCondition()))
	for _, n := range q.GetMergeWhenClauses() {
		w := n.GetMergeWhenClause()
		if c := w.GetCondition(); c != nil {
			a.use(a.expr(s, c, Predicate), Predicate)
		}
		switch w.GetCommandType() {
		case tree.CmdType_CMD_UPDATE:
			a.set(s, rel, q.GetRelation().GetInh(), w.GetTargetList())
		case tree.CmdType_CMD_DELETE:
			a.compared(rel, "delete", rel.columnNames())
			a.writes(rel, q.GetRelation().GetInh(), "delete", rel.columnNames()...)
		case tree.CmdType_CMD_INSERT:
			columns := rel.columnNames()
			if list := w.GetTargetList(); len(list) > 0 {
				columns = nil
				for _, n := range list {
					r := n.GetResTarget()
					a.mark(r)
					a.assignable(rel, r.GetName(), r.GetLocation())
					columns = append(columns, r.GetName())
					a.indices(s, r.GetIndirection())
				}
			}
			for i, n := range w.GetValues() {
				v := a.expr(s, n, "")
				a.use(v, Stored)
				if i < len(columns) {
					a.assigned(rel, columns[i], v)
				}
			}
			a.compared(rel, "insert", columns)
			a.writes(rel, true, "insert", rel.columnNames()...)
		case tree.CmdType_CMD_NOTHING:
		default:
			beyond("MERGE does what is not understood")
		}
	}
	return a.returning(s, it, s.items, q.GetReturningList())
}

func (a *analyzer) returning(s *scope, target *item, items []*item, list []*tree.Node) []value {
	if len(list) == 0 {
		return nil
	}
	was := a.answers
	a.answers = target
	defer func() { a.answers = was }()
	return a.targets(&scope{parent: s.parent, ctes: s.ctes, items: items}, list, false)
}

// writes says that rows of a relation are written, and what happens then: its triggers, what refers to it, and the relations that are behind a view.
//
// inherited says that the rows of what inherits from it are meant too; an INSERT goes to other relations only where the relation is partitioned.
func (a *analyzer) writes(rel *Relation, inherited bool, event string, columns ...string) {
	list := []*Relation{rel}
	if inherited && event != "insert" || rel.Kind == 'p' {
		list = a.heirs(rel)
	}
	for _, r := range list {
		a.writesOne(r, event, columns)
	}
}

func (a *analyzer) writesOne(rel *Relation, event string, columns []string) {
	key := Name{rel.Name.Schema, rel.Name.Name + "\x00" + event}
	again := a.written[key] && !slices.ContainsFunc(columns, func(c string) bool { return !a.sink.writes[rel.Name][c] })
	a.sink.write(rel.Name, columns...)
	if again {
		return
	}
	a.written[key] = true
	if rel.own() {
		a.sink.raise(Schema) // a superuser changes the catalog by hand
	}
	for _, t := range rel.Triggers {
		if slices.Contains(t.Events, event) {
			a.trigger(t)
		}
	}
	if event == "insert" || event == "update" {
		a.computes(rel, event)
	}
	if rel.Rules { // another statement is carried out beside this one, or in its place, and may answer with rows
		a.sink.raise(Unknown)
	}
	if rel.Rules || rel.Kind == 'f' {
		a.sink.opaque = true
	}
	if rel.Kind == 'v' {
		a.writesView(rel, event, columns)
	}
	for _, c := range rel.Cascades {
		if (event == "delete") != c.OnDelete || event != "delete" && event != "update" {
			continue
		}
		other := a.c.Relations[c.Table]
		if other == nil {
			beyond("%s, which refers to %s, is not known", c.Table, rel.Name)
		}
		if c.Deletes {
			a.compared(other, "delete", other.columnNames())
			a.writes(other, true, "delete", other.columnNames()...)
		} else {
			a.compared(other, "update", c.Columns)
			a.writes(other, true, "update", c.Columns...)
		}
	}
}

// computes says what PostgreSQL computes itself when it writes a row: defaults, generated columns, constraints. As with triggers, it is the schema that
// has it, and not the statement: it makes the statement opaque, and no stronger than it is.
func (a *analyzer) computes(rel *Relation, event string) {
	it := &item{name: rel.Name.Name, relation: rel, rel: true, cols: true}
	var texts []string
	for _, c := range rel.Columns {
		it.columns = append(it.columns, value{name: c.Name, typ: c.Type})
		if event == "insert" && c.Default != "" {
			texts = append(texts, c.Default)
		}
		if c.Generated != "" {
			texts = append(texts, c.Generated)
		}
	}
	did := a.in(func() {
		for _, text := range append(texts, rel.Checks...) {
			a.elsewhere(func() {
				n := definition("SELECT " + text).GetTargetList()
				a.expr(&scope{items: []*item{it}}, n[0].GetResTarget().GetVal(), "")
			})
		}
	})
	maps.Copy(a.sink.functions, did.functions)
	a.sink.opaque = a.sink.opaque || did.opaque
}

// trigger calls a function with a body: what it does is its own.
func (a *analyzer) trigger(t Trigger) {
	for _, r := range a.c.Functions[t.Function] {
		a.sink.functions[Function{r.Name.Schema, r.Name.Name, volatility(r.Volatility)}] = true
	}
	if !a.st.Harmless[t.Function.String()] {
		a.sink.opaque = true
	}
}

// writesView writes through a view, to what its columns are made of.
func (a *analyzer) writesView(rel *Relation, event string, columns []string) {
	v := a.view(rel)
	a.sink.add(v.sink)
	behind := map[Name][]string{}
	for _, c := range v.columns {
		if !slices.Contains(columns, c.name) {
			continue
		}
		for _, ref := range c.lineage {
			if n := (Name{ref.Schema, ref.Table}); n != rel.Name {
				behind[n] = append(behind[n], ref.Column)
			}
		}
	}
	for n, columns := range behind {
		if r := a.c.Relations[n]; r != nil {
			if event == "delete" && r.Kind != 'v' {
				columns = r.columnNames()
			}
			a.compared(r, event, columns)
			a.writesOne(r, event, columns)
		}
	}
}

// narrowed says whether one of the statement's parts has a WHERE.
func (a *analyzer) narrowed(has bool) {
	a.conditions++
	a.wheres = a.wheres && has
}

// namesColumn says that a condition depends on a column. WHERE true is no WHERE.
func namesColumn(n *tree.Node) bool {
	found := false
	walk(n, func(m any) bool {
		switch m.(type) {
		case *tree.ColumnRef, *tree.CurrentOfExpr:
			found = true
		}
		return !found
	})
	return found
}
