package statement

import (
	"slices"

	tree "github.com/pganalyze/pg_query_go/v6"
)

// A cte is a query of WITH. It is looked at when it is first named, or at the end of WITH, since WITH RECURSIVE lets each name each.
type cte struct {
	node    *tree.CommonTableExpr
	scope   *scope // what its query may name
	state   int
	columns []value // while it is looked at: as far as they are known
	named   bool    // while it is looked at, by itself
}

const (
	waiting = iota
	looking
	done
)

func (a *analyzer) with(s *scope, w *tree.WithClause) {
	if w == nil {
		return
	}
	for _, n := range w.GetCtes() {
		c := &cte{node: n.GetCommonTableExpr()}
		a.mark(c.node)
		if w.GetRecursive() {
			c.scope = s
		} else {
			c.scope = &scope{parent: s.parent, ctes: slices.Clone(s.ctes)} // those before it
		}
		s.ctes = append(s.ctes, c)
	}
	for _, c := range s.ctes {
		a.look(c)
	}
}

// cte finds a query of WITH by its name; nil where there is none.
func (a *analyzer) cte(s *scope, name string) *cte {
	for ; s != nil; s = s.parent {
		for _, c := range s.ctes {
			if c.node.GetCtename() == name {
				return c
			}
		}
	}
	return nil
}

// cteColumns are the columns of a query of WITH that FROM names.
func (a *analyzer) cteColumns(c *cte) []value {
	if c.state == looking {
		if c.columns == nil {
			fail("42P19", "recursive reference to query %q must not appear within its non-recursive term", c.node.GetCtename())
		}
		c.named = true
		return c.columns
	}
	a.look(c)
	return c.columns
}

func (a *analyzer) look(c *cte) {
	if c.state != waiting {
		return
	}
	c.state = looking
	inner := &scope{parent: c.scope}
	switch q := c.node.GetCtequery().GetNode().(type) {
	case *tree.Node_SelectStmt:
		if q.SelectStmt.GetOp() == tree.SetOperation_SETOP_UNION && q.SelectStmt.GetIntoClause() == nil {
			c.columns = a.recursive(inner, c, q.SelectStmt)
		} else {
			c.columns = a.finish(c, asText(a.query(inner, q.SelectStmt, false)))
		}
	default:
		c.columns = a.finish(c, a.change(inner, c.node.GetCtequery()))
	}
	c.state = done
}

// finish gives the columns their names, and adds those of SEARCH and CYCLE.
func (a *analyzer) finish(c *cte, columns []value) []value {
	columns = renamed(columns, names(c.node.GetAliascolnames()))
	pick := func(list []*tree.Node, how string) value {
		var of []value
		for _, n := range names(list) {
			i := slices.IndexFunc(columns, func(v value) bool { return v.name == n })
			if i < 0 {
				fail("42703", "column %q of WITH does not exist", n)
			}
			of = append(of, columns[i])
		}
		return a.made(0, how, of...)
	}
	if x := c.node.GetSearchClause(); x != nil {
		v := pick(x.GetSearchColList(), Order)
		v.name = x.GetSearchSeqColumn()
		columns = append(columns, v)
	}
	if x := c.node.GetCycleClause(); x != nil {
		path := pick(x.GetCycleColList(), Group)
		mark := path
		mark.name, path.name = x.GetCycleMarkColumn(), x.GetCyclePathColumn()
		for _, n := range []*tree.Node{x.GetCycleMarkValue(), x.GetCycleMarkDefault()} {
			if n != nil {
				a.expr(c.scope, n, "")
			}
		}
		columns = append(columns, mark, path)
	}
	return columns
}

// recursive is WITH … AS (x UNION y), where y may name the query itself: y is looked at until the columns do not change.
func (a *analyzer) recursive(s *scope, c *cte, q *tree.SelectStmt) []value {
	a.mark(q)
	a.with(s, q.GetWithClause())
	l := asText(a.query(s, q.GetLarg(), false)) // its types are the query's
	c.columns = a.finish(c, l)
	var out []value
	for range 1000 {
		c.named = false
		before := c.columns
		out = a.combined(q, l, a.query(s, q.GetRarg(), false))
		c.columns = a.finish(c, out)
		if !c.named || slices.EqualFunc(before, c.columns, same) {
			break
		}
		l = out
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
	return c.columns
}

func same(a, b value) bool {
	return a.plain == b.plain && len(a.lineage) == len(b.lineage) && a.typ == b.typ
}
