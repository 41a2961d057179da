// Package catalog reads a PostgreSQL database's own catalog, as one role sees it, into the form that package
// [github.com/countersign/countersign/extproc/kind/postgres/statement] judges statements by, and keeps it.
//
// It is read in a dozen queries of whole tables, in one read-only transaction with an empty search_path, so that what PostgreSQL
// writes out of its definitions names everything by its schema. Some 3 MB are kept for a database with few relations of its own: most of it is
// PostgreSQL's own functions and types.
//
// Whether it changed is asked with one query, which adds up where each row of interest is stored and by which transaction: any INSERT,
// UPDATE or DELETE of one changes the sum. Of 2,000 tables of 20 columns the catalog is read in 0.1 s, and asked in 0.04 s. So the catalog is right except for what was defined since the last look, [Cache.Fresh] ago
// at most; what the session itself defines is looked at at once ([statement.State.Stale]).
package catalog

import (
	"context"
	"fmt"
	"strconv"
	"strings"

	"github.com/countersign/countersign/extproc/kind/postgres/statement"
)

// Query runs one statement at the server, as the role whose catalog is read, and returns its rows in text format; "" also stands for NULL.
type Query func(ctx context.Context, sql string) ([][]string, error)

// The most that is read of a database. One with more is refused.
const (
	maxRelations = 50_000
	maxColumns   = 1_000_000
	maxFunctions = 100_000
	maxTypes     = 200_000
)

// A TooLargeError says that a database has more definitions than are read.
type TooLargeError struct {
	What string
	Max  int
}

func (e *TooLargeError) Error() string {
	return fmt.Sprintf("the catalog has more than %d %s", e.Max, e.What)
}

// Read reads the catalog. Where the session is in a transaction, inside says so: then a savepoint is made and rolled back, and what the transaction
// has defined itself is in the catalog too. Otherwise Read begins a transaction and ends it.
func Read(ctx context.Context, query Query, inside bool) (c *statement.Catalog, err error) {
	end, err := quiet(ctx, query, inside)
	if err != nil {
		return nil, err
	}
	defer func() {
		if e := end(); err == nil && e != nil {
			c, err = nil, e
		}
	}()
	r := &reader{ctx: ctx, query: query, c: &statement.Catalog{
		Schemas: map[string]bool{}, Relations: map[statement.Name]*statement.Relation{}, Functions: map[statement.Name][]*statement.Routine{},
		Operators: map[statement.Name][]*statement.Operator{}, Types: map[uint32]*statement.Type{}, TypeNames: map[statement.Name]uint32{},
		Routines: map[uint32]*statement.Routine{}, Casts: map[[2]uint32]statement.Cast{},
	}, byOID: map[uint32]*statement.Relation{}, columns: map[uint32]map[int]string{}}
	for _, read := range []func(){
		r.server, r.schemas, r.relations, r.attributes, r.inheritance, r.checks, r.policies, r.triggers, r.rules, r.partitionKeys, r.foreignKeys, r.unique,
		r.types, r.domains, r.functions, r.operators, r.casts,
	} {
		if read(); r.err != nil {
			return nil, fmt.Errorf("read the catalog: %w", r.err)
		}
	}
	return r.c, nil
}

// quiet makes the search_path empty, and returns what gets it back.
func quiet(ctx context.Context, query Query, inside bool) (func() error, error) {
	begin, end := []string{"BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY", "SET LOCAL search_path = ''"}, []string{"ROLLBACK"}
	if inside {
		begin = []string{"SAVEPOINT countersign", "SET LOCAL search_path = ''"}
		end = []string{"ROLLBACK TO SAVEPOINT countersign", "RELEASE SAVEPOINT countersign"}
	}
	run := func(list []string) error {
		for _, sql := range list {
			if _, err := query(ctx, sql); err != nil {
				return fmt.Errorf("%s: %w", sql, err)
			}
		}
		return nil
	}
	if err := run(begin); err != nil {
		return nil, err
	}
	return func() error { return run(end) }, nil
}

// A reader reads one catalog. Its first error ends it.
type reader struct {
	ctx     context.Context //nolint:containedctx // lives as long as one call of Read
	query   Query
	c       *statement.Catalog
	byOID   map[uint32]*statement.Relation
	columns map[uint32]map[int]string // by relation and number
	err     error
}

// each calls f with each row of a query that has so many columns.
func (r *reader) each(what string, limit, columns int, sql string, f func(row []string)) {
	if r.err != nil {
		return
	}
	rows, err := r.query(r.ctx, sql+" LIMIT "+strconv.Itoa(limit+1))
	switch {
	case err != nil:
		r.err = fmt.Errorf("%s: %w", what, err)
		return
	case len(rows) > limit:
		r.err = &TooLargeError{what, limit}
		return
	}
	for _, row := range rows {
		if len(row) != columns {
			r.err = fmt.Errorf("%s: a row has %d columns, not %d", what, len(row), columns)
			return
		}
		f(row)
	}
}

func (r *reader) oid(s string) uint32 {
	if s == "" || s == "-" {
		return 0
	}
	n, err := strconv.ParseUint(s, 10, 32)
	if err != nil && r.err == nil {
		r.err = fmt.Errorf("an OID is %q", s)
	}
	return uint32(n)
}

func (r *reader) number(s string) int {
	n, err := strconv.Atoi(s)
	if err != nil && r.err == nil {
		r.err = fmt.Errorf("a number is %q", s)
	}
	return n
}

// oids is an oidvector, or an array of OIDs, as text.
func (r *reader) oids(s string) []uint32 {
	var list []uint32
	for f := range strings.FieldsFuncSeq(s, func(c rune) bool { return c == ' ' || c == ',' || c == '{' || c == '}' }) {
		list = append(list, r.oid(f))
	}
	return list
}

func letter(s string) byte {
	if s == "" {
		return 0
	}
	return s[0]
}

func (r *reader) server() {
	r.each("server", 1, 3, "SELECT pg_catalog.current_setting('server_version_num'), pg_catalog.current_database(), current_user", func(row []string) {
		r.c.Version, r.c.Database, r.c.Role = r.number(row[0]), row[1], row[2]
	})
}

func (r *reader) schemas() {
	r.each("schemas", maxRelations, 2, "SELECT nspname, pg_catalog.has_schema_privilege(oid, 'USAGE') FROM pg_catalog.pg_namespace WHERE nspname !~ '^pg_(toast_)?temp_'", func(row []string) {
		r.c.Schemas[row[0]] = row[1] == "t"
	})
}

// selectRelations has what a relation is; the views of PostgreSQL itself are not taken apart.
const selectRelations = `SELECT c.oid, n.nspname, c.relname, c.relkind, c.reltype,
	CASE WHEN c.relkind IN ('v', 'm') AND c.oid >= 16384 THEN pg_catalog.pg_get_viewdef(c.oid) END
	FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
	WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f', 'S', 'c') AND `

const selectAttributes = `SELECT a.attrelid, a.attnum, a.attname, a.atttypid,
	pg_catalog.pg_get_expr(d.adbin, d.adrelid), a.attgenerated
	FROM pg_catalog.pg_attribute a JOIN pg_catalog.pg_class c ON c.oid = a.attrelid
	JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
	LEFT JOIN pg_catalog.pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
	WHERE a.attnum > 0 AND NOT a.attisdropped AND c.relkind IN ('r', 'p', 'v', 'm', 'f', 'S', 'c') AND `

// others leaves out the relations of every session's temporary schema.
const others = `n.nspname !~ '^pg_(toast_)?temp_'`

func (r *reader) relations() { r.relationsWhere(others) }

func (r *reader) relationsWhere(condition string) {
	r.each("relations", maxRelations, 6, selectRelations+condition, func(row []string) {
		rel := &statement.Relation{OID: r.oid(row[0]), Name: statement.Name{Schema: row[1], Name: row[2]}, Kind: letter(row[3]), Type: r.oid(row[4]), Definition: strings.TrimRight(row[5], "; \n")}
		r.byOID[rel.OID] = rel
		r.c.Relations[rel.Name] = rel
	})
}

func (r *reader) attributes() { r.attributesWhere(others) }

func (r *reader) attributesWhere(condition string) {
	r.each("columns", maxColumns, 6, selectAttributes+condition+" ORDER BY a.attrelid, a.attnum", func(row []string) {
		oid := r.oid(row[0])
		rel := r.byOID[oid]
		if rel == nil {
			return
		}
		a := statement.Attribute{Name: row[2], Type: r.oid(row[3])}
		if row[5] != "" {
			a.Generated = row[4]
		} else {
			a.Default = row[4]
		}
		rel.Columns = append(rel.Columns, a)
		if r.columns[oid] == nil {
			r.columns[oid] = map[int]string{}
		}
		r.columns[oid][r.number(row[1])] = row[2]
	})
}

func (r *reader) inheritance() {
	r.each("parents", maxRelations, 2, "SELECT inhrelid, inhparent FROM pg_catalog.pg_inherits ORDER BY inhrelid, inhseqno", func(row []string) {
		child, parent := r.byOID[r.oid(row[0])], r.byOID[r.oid(row[1])]
		if child != nil && parent != nil {
			child.Parents = append(child.Parents, parent.Name)
			parent.Children = append(parent.Children, child.Name)
		}
	})
}

func (r *reader) policies() {
	r.each("policies", maxRelations, 3, `SELECT polrelid, pg_catalog.pg_get_expr(polqual, polrelid), pg_catalog.pg_get_expr(polwithcheck, polrelid)
		FROM pg_catalog.pg_policy JOIN pg_catalog.pg_class ON pg_class.oid = polrelid WHERE relrowsecurity ORDER BY polrelid, polname`, func(row []string) {
		if rel := r.byOID[r.oid(row[0])]; rel != nil {
			for _, text := range row[1:] {
				if text != "" {
					rel.Policies = append(rel.Policies, text)
				}
			}
		}
	})
}

func (r *reader) checks() {
	r.each("constraints", maxRelations, 2, "SELECT conrelid, pg_catalog.pg_get_expr(conbin, conrelid) FROM pg_catalog.pg_constraint WHERE contype = 'c' AND conrelid <> 0 ORDER BY oid", func(row []string) {
		if rel := r.byOID[r.oid(row[0])]; rel != nil {
			rel.Checks = append(rel.Checks, row[1])
		}
	})
}

func (r *reader) triggers() {
	r.each("triggers", maxRelations, 5, `SELECT t.tgrelid, t.tgname, n.nspname, p.proname, t.tgtype
		FROM pg_catalog.pg_trigger t JOIN pg_catalog.pg_proc p ON p.oid = t.tgfoid JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace
		WHERE NOT t.tgisinternal AND t.tgenabled <> 'D' ORDER BY t.tgrelid, t.tgname`, func(row []string) {
		rel := r.byOID[r.oid(row[0])]
		if rel == nil {
			return
		}
		t := statement.Trigger{Name: row[1], Function: statement.Name{Schema: row[2], Name: row[3]}}
		for bit, event := range map[int]string{4: "insert", 8: "delete", 16: "update", 32: "truncate"} { // pg_trigger.h
			if r.number(row[4])&bit != 0 {
				t.Events = append(t.Events, event)
			}
		}
		rel.Triggers = append(rel.Triggers, t)
	})
}

func (r *reader) rules() {
	r.each("rules", maxRelations, 1, "SELECT ev_class FROM pg_catalog.pg_rewrite WHERE ev_type <> '1' AND ev_class >= 16384", func(row []string) {
		if rel := r.byOID[r.oid(row[0])]; rel != nil {
			rel.Rules = true
		}
	})
}

// partitionKeys are the columns that a partition key names, also in an expression: these depend on their table.
func (r *reader) partitionKeys() {
	r.each("partition keys", maxRelations, 2, `SELECT k.partrelid, a.attname FROM pg_catalog.pg_partitioned_table k JOIN pg_catalog.pg_attribute a ON a.attrelid = k.partrelid
		WHERE a.attnum > 0 AND (a.attnum = ANY (k.partattrs::pg_catalog.int2[]) OR EXISTS (SELECT 1 FROM pg_catalog.pg_depend d
			WHERE d.classid = 1259 AND d.objid = k.partrelid AND d.objsubid = a.attnum
			AND d.refclassid = 1259 AND d.refobjid = k.partrelid AND d.refobjsubid = 0 AND d.deptype = 'i'))
		ORDER BY k.partrelid, a.attnum`, func(row []string) {
		if rel := r.byOID[r.oid(row[0])]; rel != nil {
			rel.Keys = append(rel.Keys, row[1])
		}
	})
}

func (r *reader) foreignKeys() {
	r.each("foreign keys", maxRelations, 6, `SELECT confrelid, conrelid, confdeltype, confupdtype, conkey, confkey FROM pg_catalog.pg_constraint
		WHERE contype = 'f' ORDER BY oid`, func(row []string) {
		rel, other := r.byOID[r.oid(row[0])], r.byOID[r.oid(row[1])]
		if rel == nil || other == nil {
			return
		}
		columns, keys := r.named(other, row[4]), r.named(rel, row[5])
		other.References = append(other.References, statement.Reference{Columns: columns, Table: rel.Name, Others: keys})
		rel.Referenced = append(rel.Referenced, statement.Reference{
			Columns: keys, Table: other.Name, Others: columns, OnDelete: strings.Contains("ar", row[2]), OnUpdate: strings.Contains("ar", row[3]),
		})
		for i, action := range row[2:4] {
			if strings.Contains("cnd", action) {
				rel.Cascades = append(rel.Cascades, statement.Cascade{Table: other.Name, Columns: columns, OnDelete: i == 0, Deletes: i == 0 && action == "c"})
			}
		}
	})
}

// named are columns by their numbers, of which 0 stands for an expression.
func (r *reader) named(rel *statement.Relation, numbers string) []string {
	var list []string
	for _, n := range r.oids(numbers) {
		if name := r.columns[rel.OID][int(n)]; name != "" {
			list = append(list, name)
		}
	}
	return list
}

func (r *reader) unique() {
	r.each("unique indexes", maxRelations, 3, `SELECT indrelid, indkey, pg_catalog.pg_get_expr(indexprs, indrelid) FROM pg_catalog.pg_index
		WHERE (indisunique OR indisexclusion) AND indislive AND indrelid >= 16384 ORDER BY indexrelid`, func(row []string) {
		if rel := r.byOID[r.oid(row[0])]; rel != nil {
			rel.Unique = append(rel.Unique, statement.Unique{Columns: r.named(rel, row[1]), Expressions: row[2]})
		}
	})
}
