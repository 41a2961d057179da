package statement

import (
	"slices"

	tree "github.com/pganalyze/pg_query_go/v6"
)

// compared says of which columns the server tells, by an error or by none, when these of a relation are written: what a unique key has already,
// what a foreign key refers to, and what a check compares them with.
func (a *analyzer) compared(rel *Relation, event string, columns []string) {
	has := func(list []string) bool {
		return slices.ContainsFunc(list, func(c string) bool { return slices.Contains(columns, c) })
	}
	for _, u := range rel.Unique {
		list := append(slices.Clone(u.Columns), columnsIn(u.Expressions)...)
		if event != "delete" && has(list) {
			a.tells(rel, list)
		}
	}
	for _, r := range rel.References {
		if event != "delete" && has(r.Columns) {
			a.tells(a.c.Relations[r.Table], r.Others)
		}
	}
	for _, r := range rel.Referenced {
		if (event == "delete" && r.OnDelete || event == "update" && r.OnUpdate) && has(r.Columns) {
			a.tells(a.c.Relations[r.Table], r.Others)
		}
	}
	for _, text := range rel.Checks {
		list := columnsIn(text)
		if event == "update" && has(list) {
			a.tells(rel, slices.DeleteFunc(list, func(c string) bool { return slices.Contains(columns, c) }))
		}
	}
}

// tells says that columns of a relation are compared.
func (a *analyzer) tells(rel *Relation, columns []string) {
	if rel == nil {
		return
	}
	for _, name := range columns {
		if c := rel.column(name); c != nil {
			a.use(a.attribute(rel, c, true), Compared)
		}
	}
}

// columnsIn are the columns that an expression of the catalog names.
func columnsIn(expression string) []string {
	if expression == "" {
		return nil
	}
	var list []string
	for _, n := range definition("SELECT " + expression).GetTargetList() {
		walk(n, func(m any) bool {
			if c, ok := m.(*tree.ColumnRef); ok {
				list = append(list, last(append([]string{""}, names(c.GetFields())...)))
			}
			return true
		})
	}
	return list
}
