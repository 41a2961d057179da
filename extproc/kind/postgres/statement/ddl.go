package statement

import (
	"strings"

	tree "github.com/pganalyze/pg_query_go/v6"
)

// ddl is a statement that changes definitions. It can do anything by what it defines, so that nothing weaker than Schema is looked for; what it
// names is named for policy and people: relations that are there are written, those that a query in it reads are read.
func (a *analyzer) ddl(r *Analysis, n *tree.Node) {
	switch x := n.GetNode().(type) {
	case *tree.Node_CreateTableAsStmt:
		a.createAs(r, x.CreateTableAsStmt)
		return
	case *tree.Node_ViewStmt:
		a.mark(x.ViewStmt.GetView())
		out := a.query(nil, x.ViewStmt.GetQuery().GetSelectStmt(), false)
		a.sink.uses = map[Use]bool{} // it is when the view is read that its columns are used
		name := a.newName(x.ViewStmt.GetView())
		a.sink.write(name)
		for _, v := range out {
			a.sink.write(name, v.name)
		}
		a.defines(x.ViewStmt.GetView())
		return
	case *tree.Node_DropStmt:
		a.drop(x.DropStmt)
	case *tree.Node_CreateStmt:
		a.createTable(x.CreateStmt)
	}
	a.redefines(n)
	a.named(n)
	if temporary := len(a.changes) > 0 && a.changes[0].What == Temporary; !temporary {
		a.changes = []Change{{What: Defined, Relations: a.follows(n)}}
	}
}

// follows are the relations that a definition makes or drops; empty where it changes nothing that names mean, and nil where that cannot be told.
func (a *analyzer) follows(n *tree.Node) map[Name]*Relation {
	none := map[Name]*Relation{}
	switch x := n.GetNode().(type) {
	case *tree.Node_CreateStmt:
		c := x.CreateStmt
		if a.sink.opaque || c.GetInhRelations() != nil || c.GetPartbound() != nil || c.GetOfTypename() != nil || a.lookup(c.GetRelation()) != nil {
			return nil
		}
		rel := &Relation{OID: firstUser, Name: a.newName(c.GetRelation()), Kind: 'r'}
		if c.GetPartspec() != nil {
			rel.Kind = 'p'
		}
		for _, e := range c.GetTableElts() {
			if e.GetTableLikeClause() != nil {
				return nil
			}
			d := e.GetColumnDef()
			if d == nil {
				continue // a constraint
			}
			for _, k := range d.GetConstraints() {
				if k.GetConstraint().GetContype() == tree.ConstrType_CONSTR_GENERATED {
					return nil
				}
			}
			rel.Columns = append(rel.Columns, Attribute{Name: d.GetColname(), Type: a.columnType(d.GetTypeName())})
		}
		return map[Name]*Relation{rel.Name: rel}
	case *tree.Node_DropStmt:
		if x.DropStmt.GetRemoveType() != tree.ObjectType_OBJECT_TABLE && x.DropStmt.GetRemoveType() != tree.ObjectType_OBJECT_VIEW {
			return nil
		}
		for _, o := range x.DropStmt.GetObjects() {
			schema, name := a.split(names(o.GetList().GetItems()))
			if rel := a.find(schema, name); rel != nil {
				none[rel.Name] = nil
			}
		}
		return none
	case *tree.Node_IndexStmt, *tree.Node_CommentStmt, *tree.Node_CreateSeqStmt, *tree.Node_CreateStatsStmt:
		return none
	}
	return nil
}

// columnType is the type of a new column; 0 for one that is not known here, as serial is none.
func (a *analyzer) columnType(t *tree.TypeName) uint32 {
	switch list := names(t.GetNames()); last(append([]string{""}, list...)) {
	case "serial", "serial4":
		return typeInt4
	case "bigserial", "serial8":
		return typeInt8
	case "smallserial", "serial2":
		return 0
	}
	return a.typeName(t)
}

func (a *analyzer) createAs(r *Analysis, c *tree.CreateTableAsStmt) {
	a.mark(c.GetInto())
	var in Analysis
	if e := c.GetQuery().GetExecuteStmt(); e != nil {
		a.execute(&in, e)
		a.creates(r, c.GetInto().GetRel(), nil)
		for _, col := range in.Output {
			a.use(value{lineage: col.Lineage}, Stored)
		}
		return
	}
	out := a.query(nil, c.GetQuery().GetSelectStmt(), false)
	a.creates(r, c.GetInto().GetRel(), renamed(out, names(c.GetInto().GetColNames())))
	if m := inner(c.GetQuery()); m != nil {
		a.all(m, 0)
	}
}

func (a *analyzer) createTable(c *tree.CreateStmt) {
	name := a.newName(c.GetRelation())
	a.mark(c.GetRelation())
	a.sink.write(name)
	for _, n := range c.GetTableElts() {
		if d := n.GetColumnDef(); d != nil {
			a.sink.write(name, d.GetColname())
		}
	}
	a.defines(c.GetRelation())
}

// drop names what is dropped, which is a list of names and no RangeVar.
func (a *analyzer) drop(d *tree.DropStmt) {
	switch d.GetRemoveType() {
	case tree.ObjectType_OBJECT_TABLE, tree.ObjectType_OBJECT_VIEW, tree.ObjectType_OBJECT_MATVIEW, tree.ObjectType_OBJECT_FOREIGN_TABLE, tree.ObjectType_OBJECT_SEQUENCE:
	case tree.ObjectType_OBJECT_SCHEMA:
		for _, n := range d.GetObjects() {
			for name, rel := range a.c.Relations {
				if name.Schema == n.GetString_().GetSval() && strings.IndexByte("rpvmf", rel.Kind) >= 0 {
					a.sink.write(name, rel.columnNames()...)
				}
			}
		}
		return
	default:
		return
	}
	for _, n := range d.GetObjects() {
		parts := names(n.GetList().GetItems())
		if len(parts) == 0 {
			continue
		}
		schema, name := a.split(parts)
		if rel := a.find(schema, name); rel != nil {
			for _, r := range a.heirs(rel) {
				a.sink.write(r.Name, r.columnNames()...)
			}
			if isTemp(rel.Name.Schema) {
				a.changes = append(a.changes, Change{What: Temporary, Name: name})
			}
		} else {
			a.sink.write(a.newName(&tree.RangeVar{Schemaname: schema, Relname: name}))
		}
	}
}

// named is every relation and function that a definition names. Functions are those that it may run at once, such as the default of a new column, and
// those that it only stores.
func (a *analyzer) named(n *tree.Node) {
	walk(n, func(m any) bool {
		switch x := m.(type) {
		case *tree.RangeVar:
			if a.seen[x] {
				return true
			}
			a.mark(x)
			if rel := a.lookup(x); rel != nil {
				a.sink.write(rel.Name)
				if isTemp(rel.Name.Schema) {
					a.changes = append(a.changes, Change{What: Temporary, Name: rel.Name.Name})
				}
			} else if x.GetRelname() != "" {
				a.sink.write(a.newName(x))
				a.defines(x)
			}
		case *tree.FuncCall:
			parts := names(x.GetFuncname())
			if len(parts) > 2 {
				return true
			}
			schema, name := a.split(parts)
			path := a.path
			if schema != "" {
				path = []string{schema}
			}
			for _, p := range path {
				for _, f := range a.c.Functions[Name{p, name}] {
					a.sink.functions[Function{f.Name.Schema, f.Name.Name, volatility(f.Volatility)}] = true
					if !f.own() && !a.st.Harmless[f.Name.String()] {
						a.sink.opaque = true
					}
				}
			}
		}
		return true
	})
}
