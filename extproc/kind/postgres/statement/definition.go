package statement

import (
	"slices"

	tree "github.com/pganalyze/pg_query_go/v6"
)

// redefines says of which columns a change of definitions tells, and which it takes from under their names. A mask is of a column's name: who
// renames it, moves its table or takes a partition out would read it by another one. And what the server checks or computes for rows that are
// there already (a constraint, an index, a new type) fails or not by their values.
//
// What is listed as harmless here is; of everything else, each column of each relation that it names counts.
func (a *analyzer) redefines(n *tree.Node) {
	a.sink.code = a.sink.code || a.definesCode(n)
	switch x := n.GetNode().(type) {
	case *tree.Node_DropStmt, *tree.Node_CommentStmt, *tree.Node_GrantStmt, *tree.Node_AlterOwnerStmt, *tree.Node_CreateSeqStmt, *tree.Node_AlterSeqStmt,
		*tree.Node_CreateStatsStmt, *tree.Node_CreatePolicyStmt, *tree.Node_AlterPolicyStmt:
	case *tree.Node_CreateStmt:
		if x.CreateStmt.GetPartbound() != nil { // rows of the default partition are looked at
			a.redefined(n)
		}
	case *tree.Node_IndexStmt:
		if rel := a.lookup(x.IndexStmt.GetRelation()); rel != nil {
			list := columnsOfNode(n)
			if x.IndexStmt.GetUnique() {
				list = append(list, indexed(x.IndexStmt.GetIndexParams())...)
			}
			a.redefinedColumns(rel, list)
		}
	case *tree.Node_RenameStmt:
		a.renames(n, x.RenameStmt)
	case *tree.Node_AlterTableStmt:
		for _, c := range x.AlterTableStmt.GetCmds() {
			a.alters(n, a.lookup(x.AlterTableStmt.GetRelation()), c.GetAlterTableCmd())
		}
	case *tree.Node_AlterDomainStmt:
		a.altersDomain(a.findType(a.split(names(x.AlterDomainStmt.GetTypeName()))))
	default:
		a.redefined(n)
	}
}

// renames is RENAME of anything.
func (a *analyzer) renames(n *tree.Node, r *tree.RenameStmt) {
	switch rel := a.lookup(r.GetRelation()); {
	case r.GetRenameType() == tree.ObjectType_OBJECT_COLUMN && rel != nil:
		a.redefinedColumns(rel, []string{r.GetSubname()})
	case r.GetRenameType() == tree.ObjectType_OBJECT_SCHEMA:
		for name, rel := range a.c.Relations {
			if name.Schema == r.GetSubname() {
				a.redefinedColumns(rel, rel.columnNames())
			}
		}
	default:
		a.redefined(n)
	}
}

// alters is one of the changes of an ALTER TABLE.
func (a *analyzer) alters(n *tree.Node, rel *Relation, c *tree.AlterTableCmd) {
	if rel == nil {
		return
	}
	var named []string
	switch c.GetSubtype() {
	case tree.AlterTableType_AT_DropColumn, tree.AlterTableType_AT_ColumnDefault, tree.AlterTableType_AT_DropNotNull, tree.AlterTableType_AT_SetStatistics,
		tree.AlterTableType_AT_SetOptions, tree.AlterTableType_AT_ResetOptions, tree.AlterTableType_AT_SetStorage, tree.AlterTableType_AT_SetCompression,
		tree.AlterTableType_AT_DropConstraint, tree.AlterTableType_AT_AlterConstraint, tree.AlterTableType_AT_ChangeOwner,
		tree.AlterTableType_AT_SetRelOptions, tree.AlterTableType_AT_ResetRelOptions,
		tree.AlterTableType_AT_EnableRowSecurity, tree.AlterTableType_AT_DisableRowSecurity,
		tree.AlterTableType_AT_ForceRowSecurity, tree.AlterTableType_AT_NoForceRowSecurity:
		return
	case tree.AlterTableType_AT_AddColumn, tree.AlterTableType_AT_AddConstraint:
	case tree.AlterTableType_AT_SetNotNull, tree.AlterTableType_AT_AlterColumnType:
		named = append(named, c.GetName())
	default:
		a.redefined(n)
		return
	}
	walk(c.GetDef(), func(m any) bool {
		k, ok := m.(*tree.Constraint)
		if !ok {
			return true
		}
		named = append(slices.Concat(named, names(k.GetKeys()), names(k.GetFkAttrs())), indexed(k.GetExclusions())...)
		if pk := k.GetPktable(); pk != nil {
			if other := a.lookup(pk); other != nil {
				columns := names(k.GetPkAttrs())
				if len(columns) == 0 { // its primary key, which is one of these
					for _, u := range other.Unique {
						columns = append(columns, u.Columns...)
					}
				}
				a.redefinedColumns(other, columns)
			}
		}
		return true
	})
	a.redefinedColumns(rel, append(named, columnsOfNode(c.GetDef())...))
}

// altersDomain is a change of a domain, whose constraints are checked in every column of it.
func (a *analyzer) altersDomain(domain uint32) {
	for _, rel := range a.c.Relations {
		for _, c := range rel.Columns {
			t := c.Type
			for range 32 {
				if t == domain || a.c.Types[t] == nil {
					break
				}
				if d := a.c.Types[t]; d.Element != 0 {
					t = d.Element
				} else {
					t = d.Base
				}
			}
			if t == domain {
				a.redefinedColumns(rel, []string{c.Name})
			}
		}
	}
}

// redefined says that all of each relation that a definition names is meant.
func (a *analyzer) redefined(n *tree.Node) {
	walk(n, func(m any) bool {
		if v, ok := m.(*tree.RangeVar); ok {
			if rel := a.lookup(v); rel != nil {
				a.redefinedColumns(rel, rel.columnNames())
			}
		}
		return true
	})
}

func (a *analyzer) redefinedColumns(rel *Relation, columns []string) {
	if rel.own() {
		return
	}
	for _, name := range columns {
		if c := rel.column(name); c != nil {
			a.use(a.attribute(rel, c, true), Redefined)
		}
	}
}

// indexed are the columns of the elements of an index, less those of expressions.
func indexed(list []*tree.Node) (columns []string) {
	for _, n := range list {
		walk(n, func(m any) bool {
			if e, ok := m.(*tree.IndexElem); ok && e.GetName() != "" {
				columns = append(columns, e.GetName())
			}
			return true
		})
	}
	return columns
}

// columnsOfNode are the columns that expressions in a definition name.
func columnsOfNode(n *tree.Node) (columns []string) {
	walk(n, func(m any) bool {
		if c, ok := m.(*tree.ColumnRef); ok {
			columns = append(columns, last(append([]string{""}, names(c.GetFields())...)))
		}
		return true
	})
	return columns
}

// definesCode says that a definition brings in what runs, or is read, later, where no statement names it and nobody can see into it.
func (a *analyzer) definesCode(n *tree.Node) bool {
	kind := tree.ObjectType_OBJECT_TABLE
	switch x := n.GetNode().(type) {
	case *tree.Node_CreateFunctionStmt, *tree.Node_AlterFunctionStmt, *tree.Node_RuleStmt, *tree.Node_CreateEventTrigStmt, *tree.Node_CreateCastStmt,
		*tree.Node_CreatePlangStmt, *tree.Node_CreateOpClassStmt, *tree.Node_AlterOpFamilyStmt, *tree.Node_AlterOperatorStmt, *tree.Node_CreateTransformStmt,
		*tree.Node_CreateConversionStmt, *tree.Node_CreateRangeStmt,
		*tree.Node_CreateFdwStmt, *tree.Node_AlterFdwStmt, *tree.Node_CreateForeignServerStmt, *tree.Node_AlterForeignServerStmt, *tree.Node_CreateForeignTableStmt,
		*tree.Node_CreateUserMappingStmt, *tree.Node_AlterUserMappingStmt, *tree.Node_ImportForeignSchemaStmt, *tree.Node_CreateSubscriptionStmt, *tree.Node_AlterSubscriptionStmt:
		return true
	case *tree.Node_CreateSchemaStmt:
		return len(x.CreateSchemaStmt.GetSchemaElts()) > 0
	case *tree.Node_CreateTrigStmt:
		schema, name := a.split(names(x.CreateTrigStmt.GetFuncname()))
		return schema == "" || !a.st.Harmless[Name{schema, name}.String()]
	case *tree.Node_DefineStmt:
		kind = x.DefineStmt.GetKind()
	case *tree.Node_RenameStmt:
		kind = x.RenameStmt.GetRenameType()
	case *tree.Node_AlterObjectSchemaStmt:
		kind = x.AlterObjectSchemaStmt.GetObjectType()
	}
	switch kind {
	case tree.ObjectType_OBJECT_FUNCTION, tree.ObjectType_OBJECT_PROCEDURE, tree.ObjectType_OBJECT_ROUTINE, tree.ObjectType_OBJECT_AGGREGATE, tree.ObjectType_OBJECT_OPERATOR:
		return true
	case tree.ObjectType_OBJECT_TYPE:
		_, defines := n.GetNode().(*tree.Node_DefineStmt)
		return defines
	default:
		return false
	}
}
