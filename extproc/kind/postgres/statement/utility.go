package statement

import (
	"cmp"
	"strings"

	tree "github.com/pganalyze/pg_query_go/v6"
)

// statement analyzes the outermost node, or what EXPLAIN and the like have inside.
func (a *analyzer) statement(r *Analysis, n *tree.Node) { //nolint:funlen // one case for each kind of node
	sort := sortOf(n)
	if !a.dry || sort.access != Write {
		a.sink.raise(sort.access)
	}
	switch n := n.GetNode().(type) {
	case nil:
		return
	case *tree.Node_SelectStmt:
		a.selects(r, n.SelectStmt)
	case *tree.Node_InsertStmt, *tree.Node_UpdateStmt, *tree.Node_DeleteStmt, *tree.Node_MergeStmt:
		a.outermost(r, a.change(nil, &tree.Node{Node: n}))
	case *tree.Node_CopyStmt:
		a.copy(r, n.CopyStmt)
	case *tree.Node_ExplainStmt:
		a.explain(r, n.ExplainStmt)
	case *tree.Node_PrepareStmt:
		a.prepare(r, n.PrepareStmt)
	case *tree.Node_ExecuteStmt:
		a.execute(r, n.ExecuteStmt)
	case *tree.Node_DeclareCursorStmt:
		a.declare(r, n.DeclareCursorStmt)
	case *tree.Node_FetchStmt:
		a.fetch(r, n.FetchStmt)
	case *tree.Node_CallStmt:
		a.mark(n.CallStmt.GetFunccall())
		a.callProcedure(n.CallStmt.GetFunccall())
		r.Output = nil
	case *tree.Node_DoStmt, *tree.Node_LoadStmt:
		a.sink.opaque = true
	case *tree.Node_VariableSetStmt:
		a.setVariable(n.VariableSetStmt)
	case *tree.Node_VariableShowStmt:
		r.Output = []Column{{Name: n.VariableShowStmt.GetName()}}
		if strings.EqualFold(n.VariableShowStmt.GetName(), "all") {
			r.Output = []Column{{Name: "name"}, {Name: "setting"}, {Name: "description"}}
		}
	case *tree.Node_TransactionStmt, *tree.Node_DiscardStmt, *tree.Node_DeallocateStmt, *tree.Node_ClosePortalStmt, *tree.Node_ListenStmt, *tree.Node_UnlistenStmt:
		a.session(n)
	case *tree.Node_NotifyStmt, *tree.Node_CheckPointStmt:
	case *tree.Node_ConstraintsSetStmt:
		for _, x := range n.ConstraintsSetStmt.GetConstraints() {
			a.mark(x.GetRangeVar()) // a name of a constraint
		}
	case *tree.Node_LockStmt:
		a.sink.locks = true
		for _, x := range n.LockStmt.GetRelations() {
			a.maintained(x.GetRangeVar())
		}
	case *tree.Node_TruncateStmt:
		for _, x := range n.TruncateStmt.GetRelations() {
			a.mark(x.GetRangeVar())
			rel := a.relation(x.GetRangeVar())
			a.writes(rel, x.GetRangeVar().GetInh(), "truncate", rel.columnNames()...)
		}
		if n.TruncateStmt.GetBehavior() == tree.DropBehavior_DROP_CASCADE {
			a.sink.opaque = true // whatever refers to it, by any foreign key
		}
	case *tree.Node_VacuumStmt, *tree.Node_ClusterStmt, *tree.Node_ReindexStmt, *tree.Node_RefreshMatViewStmt:
		a.maintenance(&tree.Node{Node: n})
		return
	default:
		if sort.access == Schema {
			a.ddl(r, &tree.Node{Node: n})
			return
		}
		if sort.access != Unknown {
			beyond("%s is not understood", commandOf(&tree.Node{Node: n}))
		}
	}
	if m := inner(n); m != nil {
		a.all(m, 0)
	}
}

// outermost is what a query answers the client with.
func (a *analyzer) outermost(r *Analysis, out []value) {
	r.HasWhere = a.conditions > 0 && a.wheres
	for _, v := range out {
		r.Output = append(r.Output, Column{Name: v.name, Type: a.shownAs(v.typ), Lineage: v.lineage, Plain: v.plain})
	}
}

// shownAs is the type that a value has in an answer: that of a domain is what the domain is of, and a literal that nothing gave a type is text.
func (a *analyzer) shownAs(t uint32) uint32 {
	if t = a.c.base(t); t == typeUnknown {
		return typeText
	}
	return t
}

func (a *analyzer) selects(r *Analysis, q *tree.SelectStmt) {
	a.mark(q.GetIntoClause())
	a.sets = map[*tree.FuncCall]bool{}
	if q.GetFromClause() == nil && q.GetWhereClause() == nil && q.GetWithClause() == nil && q.GetOp() == tree.SetOperation_SETOP_NONE &&
		q.GetGroupClause() == nil && q.GetHavingClause() == nil && q.GetLimitCount() == nil && q.GetLimitOffset() == nil && q.GetIntoClause() == nil {
		for _, n := range q.GetTargetList() {
			f := n.GetResTarget().GetVal().GetFuncCall()
			if f == nil || last(names(f.GetFuncname())) != "set_config" { // a function beside it may return no rows, and then it does not run
				clear(a.sets)
				break
			}
			a.sets[f] = true
		}
	}
	a.constant = constants(q.GetWhereClause())
	out := a.query(nil, q, false)
	a.narrowed(narrows(q))
	a.outermost(r, out)
	r.HasLimit = limits(q)
	for f := range a.sets {
		a.setConfig(f, true)
	}
	if into := q.GetIntoClause(); into != nil {
		a.sink.raise(Schema)
		a.creates(r, into.GetRel(), out)
	}
}

// constants are the columns that a WHERE of the form column = 'text' lets have one value only. pg_dump sets a parameter by set_config(name, …) FROM
// pg_settings WHERE name = '…', so that it may be missing.
func constants(where *tree.Node) map[string]string {
	e := where.GetAExpr()
	if e.GetKind() != tree.A_Expr_Kind_AEXPR_OP || last(append([]string{""}, names(e.GetName())...)) != "=" {
		return nil
	}
	c := e.GetLexpr().GetColumnRef()
	text, ok := argument(e.GetRexpr())
	if c == nil || len(c.GetFields()) != 1 || !ok {
		return nil
	}
	return map[string]string{c.GetFields()[0].GetString_().GetSval(): text}
}

// narrows says that each SELECT of a query has a WHERE that names a column.
func narrows(q *tree.SelectStmt) bool {
	if q.GetOp() != tree.SetOperation_SETOP_NONE {
		return narrows(q.GetLarg()) && narrows(q.GetRarg())
	}
	return namesColumn(q.GetWhereClause())
}

// limits says that a query has a LIMIT that is one.
func limits(q *tree.SelectStmt) bool {
	n := q.GetLimitCount()
	return n != nil && !n.GetAConst().GetIsnull()
}

// creates says that what a query answers becomes a relation.
func (a *analyzer) creates(r *Analysis, v *tree.RangeVar, out []value) {
	a.mark(v)
	r.Output = nil
	name := a.newName(v)
	a.sink.write(name)
	for _, c := range out {
		a.sink.write(name, c.name)
		a.use(c, Stored)
	}
	a.defines(v)
}

// newName is the name of a relation that is made.
func (a *analyzer) newName(v *tree.RangeVar) Name {
	switch {
	case v.GetRelpersistence() == "t" || isTemp(v.GetSchemaname()):
		return Name{tempSchema, v.GetRelname()}
	case v.GetSchemaname() != "":
		return Name{v.GetSchemaname(), v.GetRelname()}
	}
	for _, s := range a.st.SearchPath {
		if s == "$user" {
			s = a.st.Role
		}
		if isTemp(s) || a.c.Schemas[s] {
			return Name{s, v.GetRelname()}
		}
	}
	return Name{"", v.GetRelname()}
}

func (a *analyzer) defines(v *tree.RangeVar) {
	what := Defined
	if v.GetRelpersistence() == "t" || isTemp(a.newName(v).Schema) {
		what = Temporary
	}
	a.changes = append(a.changes, Change{What: what, Name: v.GetRelname()})
}

func (a *analyzer) copy(r *Analysis, c *tree.CopyStmt) {
	r.Copy = &Copy{In: c.GetIsFrom(), File: c.GetFilename() != "" && !c.GetIsProgram(), Program: c.GetIsProgram(), Format: "text", Options: map[string]string{}}
	for _, n := range c.GetOptions() {
		d := n.GetDefElem()
		text, ok := optionText(d.GetArg())
		if list := names(d.GetArg().GetList().GetItems()); list != nil {
			text = strings.Join(list, ",")
		} else if d.GetArg().GetAStar() != nil {
			text = "*"
		} else if !ok {
			text = ""
		}
		switch r.Copy.Options[d.GetDefname()] = text; d.GetDefname() {
		case "format":
			r.Copy.Format = text
		case "null":
			r.Copy.Null = text
		}
	}
	if r.Copy.Program || r.Copy.File {
		a.sink.opaque = r.Copy.Program
		a.sink.raise(Write)
		if r.Copy.Program {
			a.sink.raise(Unknown)
		}
	}
	var out []value
	if r := c.GetRelation(); r != nil && a.lookup(r) == nil {
		fail("42P01", "relation %q does not exist", qualifiedName(r)) // PostgreSQL does not say where
	}
	switch {
	case c.GetQuery() != nil:
		out = a.change(nil, c.GetQuery())
		if q := c.GetQuery().GetSelectStmt(); q != nil {
			if q.GetIntoClause() != nil {
				beyond("COPY of SELECT INTO is not understood")
			}
			a.narrowed(narrows(q))
			r.HasLimit = limits(q)
		}
	case c.GetIsFrom():
		a.copyFrom(c)
		return
	default:
		out = a.copyTo(c)
	}
	if r.Copy.File || r.Copy.Program {
		for _, v := range out {
			a.use(v, Stored)
		}
		return
	}
	a.outermost(r, out)
}

// copyFrom is COPY of rows into a table.
func (a *analyzer) copyFrom(c *tree.CopyStmt) {
	rel, it := a.aimed(c.GetRelation())
	columns := names(c.GetAttlist())
	for _, n := range columns {
		a.assignable(rel, n, -1)
	}
	a.sink.raise(Write)
	if columns == nil {
		columns = rel.columnNames()
	}
	a.compared(rel, "insert", columns)
	a.writes(rel, true, "insert", rel.columnNames()...)
	if n := c.GetWhereClause(); n != nil { // of the rows that come, not of those that are there
		for i := range it.columns {
			it.columns[i] = value{name: it.columns[i].name, typ: it.columns[i].typ}
		}
		a.use(a.expr(&scope{items: []*item{it}}, n, Predicate), Predicate)
	}
}

// copyTo is COPY of a table's rows, and returns its columns.
func (a *analyzer) copyTo(c *tree.CopyStmt) []value {
	var out []value
	a.mark(c.GetRelation())
	rel := a.relation(c.GetRelation())
	it := a.table(rel, rel.Kind == 'p' || rel.Kind == 'v' || len(rel.Policies) > 0) // COPY t is of t ONLY
	a.narrowed(false)
	for _, n := range names(c.GetAttlist()) {
		x, ok := a.qualified(it, n)
		if !ok {
			fail("42703", "column %q of relation %q does not exist", n, rel.Name.Name)
		}
		out = append(out, x)
	}
	if c.GetAttlist() == nil {
		for i, x := range a.columns(it) {
			if i < len(rel.Columns) && rel.Columns[i].Generated == "" {
				out = append(out, x)
			}
		}
	}
	return out
}

func optionText(n *tree.Node) (string, bool) {
	switch x := n.GetNode().(type) {
	case *tree.Node_String_:
		return x.String_.GetSval(), true
	case *tree.Node_AConst:
		return constText(x.AConst)
	case *tree.Node_Boolean:
		if x.Boolean.GetBoolval() {
			return "true", true
		}
		return "false", true
	case *tree.Node_Integer:
		if x.Integer.GetIval() != 0 {
			return "true", true
		}
		return "false", true
	}
	return "true", n == nil
}

func (a *analyzer) explain(r *Analysis, e *tree.ExplainStmt) {
	r.Explain = true
	r.Command = "EXPLAIN"
	a.dry = true
	for _, n := range e.GetOptions() {
		d := n.GetDefElem()
		if d.GetDefname() != "analyze" {
			continue
		}
		switch text, _ := optionText(d.GetArg()); strings.ToLower(text) {
		case "false", "off", "0":
		default:
			a.dry = false
		}
	}
	var in Analysis
	a.statement(&in, e.GetQuery())
	r.HasWhere, r.HasLimit = in.HasWhere, in.HasLimit
	if a.dry {
		a.changes = nil
	}
	r.Output = []Column{{Name: "QUERY PLAN"}}
}

func (a *analyzer) prepare(r *Analysis, p *tree.PrepareStmt) {
	var types []uint32
	for _, n := range p.GetArgtypes() {
		types = append(types, a.typeName(n.GetTypeName()))
	}
	a.params = types
	var in Analysis
	a.statement(&in, p.GetQuery())
	r.HasWhere, r.HasLimit = in.HasWhere, in.HasLimit
	a.changes = []Change{{What: Prepared, Name: p.GetName(), Statement: &Statement{Of: 1, Parameters: types, node: p.GetQuery()}}}
}

func (a *analyzer) execute(r *Analysis, e *tree.ExecuteStmt) {
	p, ok := a.st.Prepared[e.GetName()]
	if !ok || e.GetName() == "" {
		fail("26000", "prepared statement %q does not exist", e.GetName())
	}
	for _, n := range e.GetParams() {
		a.use(a.expr(nil, n, Expression), Expression)
	}
	a.params = p.Parameters
	a.executes = cmp.Or(p.source, p.Text)
	a.count(p.node)
	command := r.Command
	a.away++ // from this text
	a.statement(r, p.node)
	a.away--
	r.Command = command
}

// cursorHold is CURSOR_OPT_HOLD of PostgreSQL's parsenodes.h.
const cursorHold = 0x20

func (a *analyzer) declare(r *Analysis, d *tree.DeclareCursorStmt) {
	q := d.GetQuery().GetSelectStmt()
	if q.GetIntoClause() != nil {
		beyond("DECLARE of SELECT INTO is not understood")
	}
	out := a.query(nil, q, false)
	a.narrowed(narrows(q))
	a.outermost(r, out)
	r.HasLimit = limits(q)
	a.changes = append(a.changes, Change{What: Declared, Name: d.GetPortalname(), Cursor: &Cursor{Hold: d.GetOptions()&cursorHold != 0, Text: a.of.Text}})
}

// cursor is what a name of a cursor means.
func (a *analyzer) cursor(name string) *Cursor {
	c := a.st.Cursors[name]
	if c == nil {
		fail("34000", "cursor %q does not exist", name)
	}
	return c
}

func (a *analyzer) fetch(r *Analysis, f *tree.FetchStmt) {
	c := a.cursor(f.GetPortalname())
	a.sink.again(&c.Analysis)
	r.HasWhere, r.HasLimit = c.Analysis.HasWhere, c.Analysis.HasLimit
	if !f.GetIsmove() {
		r.Output = c.Analysis.Output
	}
}

// again does once more what was analyzed before.
func (s *sink) again(a *Analysis) {
	s.raise(a.Access)
	s.opaque, s.locks = s.opaque || a.Opaque, s.locks || a.Locks
	for _, t := range a.Reads {
		s.read(Name{t.Schema, t.Table}, t.Columns...)
	}
	for _, t := range a.Writes {
		s.write(Name{t.Schema, t.Table}, t.Columns...)
	}
	for _, f := range a.Functions {
		s.functions[f] = true
	}
	for _, u := range a.Uses {
		s.uses[u] = true
	}
	for _, e := range a.Exposes {
		s.exposes[e] = true
	}
}

func (a *analyzer) callProcedure(f *tree.FuncCall) {
	schema, name := a.split(names(f.GetFuncname()))
	var args []value
	for _, n := range f.GetArgs() {
		args = append(args, a.expr(nil, n, Called))
	}
	path := a.path
	if schema != "" {
		path = []string{schema}
	}
	var list []*Routine // of any number of arguments: OUT arguments count in CALL
	for _, p := range path {
		list = append(list, a.c.Functions[Name{p, name}]...)
	}
	if len(list) == 0 {
		fail("42883", "procedure %s does not exist", name)
	}
	for _, v := range args {
		a.use(v, Called)
	}
	a.calls(list)
}

// maintained is a relation that LOCK, VACUUM and the like are about.
func (a *analyzer) maintained(v *tree.RangeVar) {
	a.mark(v)
	rel := a.relation(v)
	for _, r := range a.heirs(rel) {
		a.sink.write(r.Name)
	}
}

func (a *analyzer) maintenance(n *tree.Node) {
	switch x := n.GetNode().(type) {
	case *tree.Node_VacuumStmt:
		for _, n := range x.VacuumStmt.GetRels() {
			a.maintained(n.GetVacuumRelation().GetRelation())
		}
	case *tree.Node_ClusterStmt:
		if v := x.ClusterStmt.GetRelation(); v != nil {
			a.maintained(v)
			for rel, i := a.relation(v), 0; i < len(rel.Columns); i++ { // the order of rows is an index's after it, whichever
				a.use(a.attribute(rel, &rel.Columns[i], true), Order)
			}
		}
	case *tree.Node_ReindexStmt:
		if v := x.ReindexStmt.GetRelation(); v != nil && x.ReindexStmt.GetKind() == tree.ReindexObjectType_REINDEX_OBJECT_TABLE {
			a.maintained(v)
		}
	case *tree.Node_RefreshMatViewStmt:
		v := x.RefreshMatViewStmt.GetRelation()
		a.mark(v)
		rel := a.relation(v)
		if rel.Kind != 'm' {
			fail("42809", "%q is not a materialized view", rel.Name.Name)
		}
		a.columns(a.table(rel, false))
		a.sink.write(rel.Name, rel.columnNames()...)
	}
}
