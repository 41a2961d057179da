package statement_test

import (
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/countersign/countersign/extproc/kind/postgres/statement"
)

// testAgainstServer holds what the cases are judged to be to what the server does: what is judged read writes nothing, the answer has the columns that
// are said, the server reads nothing that is not said, and values that are masked change no column that is not said to be made of them.
func testAgainstServer(t *testing.T, s *server, files []string, cat *statement.Catalog, st *statement.State) {
	for _, path := range files {
		for _, c := range readCases(t, path) {
			a, after := analyzed(t, c, cat, st)
			// The parser knows the syntax of PostgreSQL 17.
			if newer := cat.Version >= statement.Newer && strings.HasPrefix(path, "testdata/18/"); newer && a.Doubt != nil && a.Doubt.Code == "42601" {
				continue
			}
			if a.Doubt != nil && a.Doubt.Code != "0A000" {
				t.Run(c.name, func(t *testing.T) { testRefused(t, s.connect(t, "one", "agent"), c, a.Doubt) })
			}
			if a.Access == statement.Write && !a.Opaque && a.Doubt == nil && changes[a.Kind] && len(c.setup) == 0 {
				t.Run(c.name, func(t *testing.T) { testWrites(t, s, c, a) })
			}
			if slices.ContainsFunc(c.setup, func(sql string) bool { return strings.HasPrefix(sql, "CREATE") || strings.HasPrefix(sql, "DROP") }) {
				continue // a read-only session cannot get there
			}
			if a.Access != statement.Read || strings.Contains(c.sql, "one.") { // a name of a database
				continue
			}
			t.Run(c.name, func(t *testing.T) {
				one, two := s.connect(t, "one", "agent"), s.connect(t, "two", "agent")
				x, y := runRead(t, one, c), runRead(t, two, c)
				testScans(t, one, c, a)
				if t.Failed() || a.Kind == "execute" || a.Kind == "cursor" && a.Output == nil {
					return
				}
				testColumns(t, one, c, a)
				testInterference(t, a, x, y)
				if a.Kind == "select" && !a.Explain {
					testReads(t, one, c, a, after)
				}
			})
		}
	}
}

// changes are the kinds of statements that can be run in a transaction and rolled back.
var changes = map[string]bool{"select": true, "insert": true, "update": true, "delete": true, "merge": true, "truncate": true}

// testWrites runs a statement that writes, and rolls it back. It writes no relation that is not in its writes, and what it
// answers is the same whatever is masked.
func testWrites(t *testing.T, s *server, c testCase, a statement.Analysis) {
	if slices.ContainsFunc(a.Functions, func(f statement.Function) bool { return f.Volatility == "volatile" }) {
		return // sleeps, locks, files
	}
	var answers [2]*pgconn.Result
	var codes [2]string
	for i, database := range []string{"one", "two"} {
		conn := s.connect(t, database, "agent")
		mustRun(t, conn, "BEGIN")
		results, err := conn.Exec(t.Context(), c.sql).ReadAll()
		var e *pgconn.PgError
		if errors.As(err, &e) && (e.Code == "42501" || e.Code == "0A000") {
			return // the agent may not, or the server does not
		} else if errors.As(err, &e) && strings.HasPrefix(e.Code, "23") {
			codes[i] = e.Code
			continue
		} else if err != nil {
			t.Errorf("%s\n%v", c.sql, err)
			return
		}
		answers[i] = results[len(results)-1]
		for _, row := range mustRun(t, conn, "SELECT schemaname, relname FROM pg_stat_xact_user_tables WHERE n_tup_ins + n_tup_upd + n_tup_del > 0") {
			if !slices.ContainsFunc(a.Writes, func(w statement.Table) bool { return w.Schema == row[0] && w.Table == row[1] }) {
				t.Errorf("%s\nwrites %s, which is not said", c.sql, strings.Join(row, "."))
			}
		}
		mustRun(t, conn, "ROLLBACK")
	}
	told := slices.ContainsFunc(a.Uses, func(u statement.Use) bool { return slices.Contains(masked, u.ColumnRef) })
	if codes[0] != codes[1] && !told {
		t.Errorf("%s\nfails with %q in one database and %q in the other, and no use says so", c.sql, codes[0], codes[1])
	}
	if codes[0] == "" && codes[1] == "" {
		testInterference(t, a, answers[0], answers[1])
	}
}

// testRefused holds that what is said not to be there is not there for the server either, and that it would say the same.
func testRefused(t *testing.T, conn *pgconn.PgConn, c testCase, d *statement.Doubt) {
	t.Helper()
	for _, sql := range c.setup {
		mustRun(t, conn, sql)
	}
	_, err := conn.Exec(t.Context(), c.sql).ReadAll()
	var e *pgconn.PgError
	if !errors.As(err, &e) {
		t.Fatalf("%s\nis said to fail with %v, and: %v", c.sql, d, err)
	}
	if got := (statement.Doubt{Code: e.Code, Message: e.Message, Hint: e.Hint, Position: int(e.Position)}); got != *d {
		t.Errorf("%s\n%+v, and the server says\n%+v", c.sql, *d, got)
	}
}

// runRead runs a case in a read-only transaction, and holds that it needs no more.
func runRead(t *testing.T, c *pgconn.PgConn, tc testCase) *pgconn.Result {
	t.Helper()
	mustRun(t, c, "SET default_transaction_read_only = on")
	for _, sql := range tc.setup {
		mustRun(t, c, sql)
	}
	results, err := c.Exec(t.Context(), tc.sql).ReadAll()
	if err != nil {
		t.Errorf("%s\nis judged read, and fails: %v", tc.sql, err)
		return nil
	}
	if strings.Contains(strings.Join(tc.setup, " "), "BEGIN") {
		if got := mustRun(t, c, "SELECT txid_current_if_assigned()"); got[0][0] != "" {
			t.Errorf("%s\nis judged read, and has a transaction id", tc.sql)
		}
	}
	return results[len(results)-1]
}

// testScans holds that a query scans no relation that is not in its reads.
func testScans(t *testing.T, conn *pgconn.PgConn, c testCase, a statement.Analysis) {
	t.Helper()
	if a.Kind != "select" || len(c.setup) > 0 {
		return
	}
	results, err := conn.Exec(t.Context(), "BEGIN; "+c.sql+"; SELECT schemaname, relname FROM pg_stat_xact_user_tables WHERE coalesce(seq_scan, 0) + coalesce(idx_scan, 0) > 0; ROLLBACK").ReadAll()
	if err != nil || len(results) < 2 {
		t.Errorf("%s\n%v", c.sql, err)
		return
	}
	for _, row := range results[len(results)-2].Rows {
		if !slices.ContainsFunc(a.Reads, func(r statement.Table) bool { return r.Schema == string(row[0]) && r.Table == string(row[1]) }) {
			t.Errorf("%s\nscans %s.%s, which is not said", c.sql, row[0], row[1])
		}
	}
}

// testColumns holds that the answer has the columns that are said.
func testColumns(t *testing.T, conn *pgconn.PgConn, tc testCase, a statement.Analysis) {
	t.Helper()
	if a.Kind == "copy" || len(tc.setup) > 0 {
		return
	}
	d, err := conn.Prepare(t.Context(), "", tc.sql, nil)
	if err != nil {
		t.Fatal(err)
	}
	var got, want []string
	for i, c := range a.Output {
		got = append(got, c.Name)
		if i < len(d.Fields) && c.Type != 0 && c.Type != d.Fields[i].DataTypeOID {
			t.Errorf("%s\ncolumn %s has type %d, and the server says %d", tc.sql, c.Name, c.Type, d.Fields[i].DataTypeOID)
		}
	}
	for _, f := range d.Fields {
		want = append(want, f.Name)
	}
	if !slices.Equal(got, want) {
		t.Errorf("columns %q, and the server's are %q", got, want)
	}
}

// testInterference holds that a column of the answer is the same whatever is masked, unless it is said to be made of it, or something is used.
func testInterference(t *testing.T, a statement.Analysis, x, y *pgconn.Result) {
	t.Helper()
	isMasked := func(r statement.ColumnRef) bool { return slices.Contains(masked, r) }
	if a.Explain || slices.ContainsFunc(a.Uses, func(u statement.Use) bool { return isMasked(u.ColumnRef) }) || len(a.Exposes) > 0 {
		return
	}
	if len(x.Rows) != len(y.Rows) {
		t.Errorf("%d rows in one database, %d in the other", len(x.Rows), len(y.Rows))
		return
	}
	for i, c := range a.Output {
		if slices.ContainsFunc(c.Lineage, isMasked) {
			if !c.Plain {
				t.Errorf("column %s is made of what is masked, and no use says so", c.Name)
			}
			continue
		}
		for j := range x.Rows {
			if v, w := string(x.Rows[j][i]), string(y.Rows[j][i]); v != w && !variable[c.Name] {
				t.Errorf("column %s is %q in one database and %q in the other", c.Name, v, w)
			}
		}
	}
}

// variable are columns that differ for another reason: OIDs, times.
var variable = map[string]bool{"oid": true, "now": true, "current_database": true, "random": true, "relid": true, "pid": true, "timezone": true, "d": true, "current_timestamp": true, "age": true, "txid_current": true, "definition": true}

// testReads holds that every relation and column that the server needs for a query is in its reads.
func testReads(t *testing.T, c *pgconn.PgConn, tc testCase, a statement.Analysis, _ *statement.State) {
	t.Helper()
	reads := func(schema, table, column string) bool {
		return slices.ContainsFunc(a.Reads, func(r statement.Table) bool {
			return r.Schema == schema && r.Table == table && (column == "" || slices.Contains(r.Columns, column))
		})
	}
	if !strings.Contains(tc.sql, "$") {
		var plan any
		rows := mustRun(t, c, "EXPLAIN (VERBOSE, FORMAT JSON) "+tc.sql)
		if err := json.Unmarshal([]byte(rows[0][0]), &plan); err != nil {
			t.Fatal(err)
		}
		planned(plan, func(schema, table string) {
			if !reads(schema, table, "") && schema != "pg_catalog" {
				t.Errorf("the server's plan has %s.%s, and it is not in the reads", schema, table)
			}
		})
	}
	// A view of the query depends on what the query needs.
	names := make([]string, len(a.Output))
	for i := range names {
		names[i] = "c" + string(rune('a'+i%26)) + string(rune('a'+i/26))
	}
	mustRun(t, c, "RESET default_transaction_read_only")
	mustRun(t, c, "SET default_transaction_read_only = off")
	list := ""
	if len(names) > 0 {
		list = "(" + strings.Join(names, ", ") + ")"
	}
	if _, err := query(c)(t.Context(), "CREATE TEMPORARY VIEW probe "+list+" AS "+tc.sql); err != nil {
		t.Logf("no view: %v", err)
		return
	}
	for _, row := range mustRun(t, c, `SELECT DISTINCT n.nspname, c.relname, coalesce(a.attname, '')
		FROM pg_catalog.pg_rewrite r JOIN pg_catalog.pg_depend d ON d.classid = 'pg_catalog.pg_rewrite'::regclass AND d.objid = r.oid AND d.refclassid = 'pg_catalog.pg_class'::regclass
		JOIN pg_catalog.pg_class c ON c.oid = d.refobjid JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
		LEFT JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid AND a.attnum = d.refobjsubid AND d.refobjsubid > 0
		WHERE r.ev_class = 'pg_temp.probe'::regclass AND c.oid <> r.ev_class`) {
		if !reads(row[0], row[1], row[2]) {
			t.Errorf("the server needs %s, and it is not in the reads", strings.Join(row, "."))
		}
	}
}

// planned calls f with each relation of a plan.
func planned(v any, f func(schema, table string)) {
	switch v := v.(type) {
	case []any:
		for _, x := range v {
			planned(x, f)
		}
	case map[string]any:
		if table, ok := v["Relation Name"].(string); ok {
			schema, _ := v["Schema"].(string)
			f(schema, table)
		}
		for _, x := range v {
			planned(x, f)
		}
	}
}
