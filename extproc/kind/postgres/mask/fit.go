package mask

import (
	"slices"
	"strings"

	"github.com/countersign/countersign/extproc/gate"
	"github.com/countersign/countersign/extproc/kind/postgres/statement"
)

// fits refuses what would tell of a masked column otherwise than by a plain column of the answer.
func fits(redactions []gate.Redaction, a *statement.Analysis) error {
	if !Columns(redactions) {
		return nil
	}
	if len(a.Exposes) > 0 {
		return refuse("The statement reads %s, which can show values that policy masks, so it was refused.", a.Exposes[0])
	}
	for _, u := range a.Uses {
		if r, ok := masks(redactions, u.ColumnRef); ok && !r.Use {
			return refuse("The column %s is masked, and the statement uses it otherwise than as a plain column of its answer (%s), so it was refused. Select it as it is, or leave it out.", u.ColumnRef, u.How)
		}
	}
	if !a.Explain {
		return nil
	}
	for _, t := range a.Reads {
		if r, ok := anyOf(redactions, t); ok && !r.Use {
			return refuse("The statement explains a query of %s.%s, of which %s is masked, and estimates tell of values, so it was refused.", t.Schema, t.Table, r.Column)
		}
	}
	return nil
}

// Guards reports whether an error of a statement can have values of masked columns in it. That of a read of other relations cannot; one that
// commits, or fetches, can have those of statements before it.
func Guards(redactions []gate.Redaction, a *statement.Analysis) bool {
	switch {
	case !Columns(redactions):
		return false
	case a.Access != statement.Read || a.Kind != "select" || RunsCode(a):
		return true
	}
	return slices.ContainsFunc(a.Reads, func(t statement.Table) bool { _, ok := anyOf(redactions, t); return ok })
}

// RunsCode reports whether a statement runs code of somebody's own: what that says may be anything.
func RunsCode(a *statement.Analysis) bool {
	return a.Opaque || slices.ContainsFunc(a.Functions, func(f statement.Function) bool { return f.Schema != "pg_catalog" })
}

// Columns reports whether any column is masked.
func Columns(redactions []gate.Redaction) bool {
	for _, r := range redactions {
		if r.Column != "" {
			return true
		}
	}
	return false
}

// Detects reports whether there are detectors.
func Detects(redactions []gate.Redaction) bool {
	for _, r := range redactions {
		if r.Detect != "" {
			return true
		}
	}
	return false
}

// masks returns the redaction of a column, the one that allows and tells least where there are several.
func masks(redactions []gate.Redaction, c statement.ColumnRef) (found gate.Redaction, ok bool) {
	for _, r := range redactions {
		if !matches(r.Column, c.Schema, c.Table, c.Column) {
			continue
		}
		if !ok {
			found, ok = r, true
			continue
		}
		found.Use = found.Use && r.Use
		found.With = least(found.With, r.With)
	}
	return found, ok
}

// least is the replacement that tells less.
func least(a, b gate.Replacement) gate.Replacement {
	for _, r := range []gate.Replacement{gate.Null, gate.Mask} {
		if a == r || b == r {
			return r
		}
	}
	return a
}

// anyOf returns a redaction of a column of a relation, one that allows no use if there is one.
func anyOf(redactions []gate.Redaction, t statement.Table) (found gate.Redaction, ok bool) {
	for _, r := range redactions {
		schema, rest, _ := strings.Cut(r.Column, ".")
		table, _, _ := strings.Cut(rest, ".")
		if r.Column != "" && schema == t.Schema && (table == "*" || table == t.Table) && (!ok || found.Use) {
			found, ok = r, true
		}
	}
	return found, ok
}

func matches(pattern, schema, table, column string) bool {
	s, rest, _ := strings.Cut(pattern, ".")
	t, c, ok := strings.Cut(rest, ".")
	return ok && s == schema && (t == "*" || t == table) && (c == "*" || c == column)
}
