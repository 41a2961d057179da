package catalog

import (
	"strings"

	"github.com/countersign/countersign/extproc/kind/postgres/statement"
)

func (r *reader) types() {
	r.each("types", maxTypes, 11, `SELECT t.oid, n.nspname, t.typname, t.typtype, t.typcategory, t.typispreferred, t.typbasetype,
		CASE WHEN t.typcategory = 'A' AND t.typelem <> 0 AND t.typlen = -1 THEN t.typelem END, t.typarray, t.typrelid,
		(SELECT g.rngsubtype FROM pg_catalog.pg_range g WHERE g.rngtypid = t.oid OR g.rngmultitypid = t.oid)
		FROM pg_catalog.pg_type t JOIN pg_catalog.pg_namespace n ON n.oid = t.typnamespace WHERE `+others, func(row []string) {
		t := &statement.Type{
			OID: r.oid(row[0]), Name: statement.Name{Schema: row[1], Name: row[2]}, Kind: letter(row[3]), Category: letter(row[4]), Preferred: row[5] == "t",
			Base: r.oid(row[6]), Element: r.oid(row[7]), Array: r.oid(row[8]), Subtype: r.oid(row[10]),
		}
		if rel := r.byOID[r.oid(row[9])]; rel != nil {
			t.Relation = rel.Name
		}
		r.c.Types[t.OID] = t
		r.c.TypeNames[t.Name] = t.OID
	})
}

func (r *reader) domains() {
	r.each("constraints of domains", maxTypes, 2, "SELECT contypid, pg_catalog.pg_get_expr(conbin, 0) FROM pg_catalog.pg_constraint WHERE contypid <> 0 AND contype = 'c' AND conbin IS NOT NULL ORDER BY oid", func(row []string) {
		if t := r.c.Types[r.oid(row[0])]; t != nil {
			t.Checks = append(t.Checks, row[1])
		}
	})
}

func (r *reader) functions() {
	r.each("functions", maxFunctions, 14, `SELECT p.oid, n.nspname, p.proname, p.prokind, p.provolatile, l.lanname, p.proargtypes, p.pronargdefaults,
		p.provariadic, p.prorettype, p.proallargtypes, p.proargmodes, pg_catalog.array_to_string(p.proargnames, E'\x01', ''), p.proretset
		FROM pg_catalog.pg_proc p JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace JOIN pg_catalog.pg_language l ON l.oid = p.prolang
		WHERE `+others+` ORDER BY p.oid`, func(row []string) {
		f := &statement.Routine{
			OID: r.oid(row[0]), Name: statement.Name{Schema: row[1], Name: row[2]}, Kind: letter(row[3]), Volatility: letter(row[4]), Language: row[5],
			Args: r.oids(row[6]), Defaults: r.number(row[7]), Variadic: r.oid(row[8]), Result: r.oid(row[9]), Set: row[13] == "t",
		}
		var names []string
		if row[12] != "" {
			names = strings.Split(row[12], "\x01")
		}
		name := func(i int) string {
			if i < len(names) {
				return names[i]
			}
			return ""
		}
		all := r.oids(row[10])
		modes := strings.NewReplacer("{", "", "}", "", ",", "").Replace(row[11])
		if modes == "" {
			for i := range f.Args {
				f.ArgNames = append(f.ArgNames, name(i))
			}
		}
		for i, mode := range []byte(modes) {
			if strings.IndexByte("ibv", mode) >= 0 {
				f.ArgNames = append(f.ArgNames, name(i))
			}
			if strings.IndexByte("obt", mode) >= 0 && i < len(all) {
				f.Outs = append(f.Outs, statement.Attribute{Name: name(i), Type: all[i]})
			}
		}
		r.c.Routines[f.OID] = f
		r.c.Functions[f.Name] = append(r.c.Functions[f.Name], f)
	})
}

func (r *reader) operators() {
	r.each("operators", maxFunctions, 6, `SELECT n.nspname, o.oprname, o.oprleft, o.oprright, o.oprresult, o.oprcode::pg_catalog.oid
		FROM pg_catalog.pg_operator o JOIN pg_catalog.pg_namespace n ON n.oid = o.oprnamespace WHERE `+others+` AND o.oprcode <> 0 ORDER BY o.oid`, func(row []string) {
		o := &statement.Operator{Name: statement.Name{Schema: row[0], Name: row[1]}, Left: r.oid(row[2]), Right: r.oid(row[3]), Result: r.oid(row[4]), Function: r.oid(row[5])}
		r.c.Operators[o.Name] = append(r.c.Operators[o.Name], o)
	})
}

func (r *reader) casts() {
	r.each("casts", maxFunctions, 5, "SELECT castsource, casttarget, castfunc, castcontext, castmethod FROM pg_catalog.pg_cast", func(row []string) {
		r.c.Casts[[2]uint32{r.oid(row[0]), r.oid(row[1])}] = statement.Cast{Function: r.oid(row[2]), Context: letter(row[3]), Method: letter(row[4])}
	})
}
