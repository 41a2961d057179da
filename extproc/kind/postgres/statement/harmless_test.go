package statement_test

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/countersign/countersign/extproc/extproctest"
)

// samples are values of the types that functions take.
var samples = map[string]string{
	"text": "'1'", "integer": "1", "bigint": "1", "smallint": "1::smallint", "boolean": "true", "name": "'pg_class'", "oid": "1259", "regclass": "'pg_class'", "numeric": "1.5",
	"real": "1", "double precision": "1", "bytea": "'a'", "json": "'{\"a\": 1}'", "jsonb": "'{\"a\": 1}'", "date": "'2026-01-01'", "timestamp without time zone": "'2026-01-01'",
	"timestamp with time zone": "'2026-01-01'", "interval": "'1 day'", "time without time zone": "'10:00'", "uuid": "'6ecd8c99-4036-403d-bf84-cf8400f67836'", "xml": "'<a/>'", "character": "'a'", "character varying": "'a'",
	"inet": "'10.0.0.1'", "cidr": "'10.0.0.0/8'", "macaddr": "'08:00:2b:01:02:03'", "bit": "B'1'", "bit varying": "B'1'", "money": "1::money", "tsvector": "'a'", "tsquery": "'a'", "regconfig": "'simple'", "regdictionary": "'simple'",
	"anyarray": "ARRAY[1]", "anyelement": "1", "anycompatiblearray": "ARRAY[1]", "anycompatible": "1", "text[]": "'{a}'", "integer[]": "'{1}'", "int4range": "'[1,2)'", "anyrange": "'[1,2)'::int4range", "record": "ROW(1)", "\"any\"": "1",
	"point": "'(1,1)'", "box": "'(1,1),(0,0)'", "xid": "'1'", "xid8": "'1'", "pg_lsn": "'0/1'", "cstring": "'1'", "\"char\"": "'a'", "pg_snapshot": "pg_current_snapshot()", "regtype": "'int4'", "regrole": "'postgres'", "regnamespace": "'public'",
	"regproc": "'now'", "regprocedure": "'now()'", "jsonpath": "'$'", "aclitem[]": "'{}'",
}

// TestHarmless runs each function of the list, with arguments of each type that it takes, in a read-only transaction: none needs more, takes a
// transaction id, or keeps a lock of its own.
func TestHarmless(t *testing.T) {
	for name, bin := range map[string]string{"of the system": "", "18": extproctest.Postgres18(t)} {
		t.Run(name, func(t *testing.T) { testHarmless(t, startServer(t, bin)) })
	}
}

func testHarmless(t *testing.T, s *server) {
	list, err := os.ReadFile("harmless.txt")
	if err != nil {
		t.Fatal(err)
	}
	conn := s.connect(t, "one", "")
	names := "'" + strings.Join(strings.Fields(string(list)), "','") + "'"
	rows := mustRun(t, conn, `SELECT p.proname, pg_get_function_identity_arguments(p.oid), p.prokind, coalesce((SELECT string_agg(format_type(a, NULL), ';' ORDER BY n) FROM unnest(p.proargtypes) WITH ORDINALITY AS u(a, n)), '')
		FROM pg_proc p WHERE pronamespace = 'pg_catalog'::regnamespace AND prorettype <> 'trigger'::regtype AND proname IN (`+names+`) ORDER BY 1, 2`)
	mustRun(t, conn, "BEGIN READ ONLY")
	ran := 0
	for _, row := range rows {
		var args []string
		known := true
		for typ := range strings.SplitSeq(row[3], ";") {
			if typ == "" {
				continue
			}
			v, ok := samples[typ]
			known = known && ok
			args = append(args, v)
		}
		switch row[0] {
		case "currval", "lastval", "pg_sequence_last_value", "pg_get_sequence_data": // lock the sequence as a statement that reads it would
			continue
		}
		if !known || row[2] == "p" {
			continue
		}
		over := ""
		if row[2] == "w" {
			over = " OVER ()"
		}
		sql := fmt.Sprintf("SELECT pg_catalog.%q(%s)%s", row[0], strings.Join(args, ", "), over)
		mustRun(t, conn, "SAVEPOINT s")
		_, err := conn.Exec(t.Context(), sql).ReadAll()
		var pgErr *pgconn.PgError
		switch {
		case errors.As(err, &pgErr) && pgErr.Code == "25006":
			t.Errorf("%s writes", sql)
		case err != nil && !errors.As(err, &pgErr):
			t.Fatalf("%s: %v", sql, err)
		case err == nil:
			ran++
		}
		mustRun(t, conn, "ROLLBACK TO s")
		if got := mustRun(t, conn, "SELECT txid_current_if_assigned(), (SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' OR mode NOT IN ('AccessShareLock', 'ExclusiveLock'))")[0]; got[0] != "" || got[1] != "0" {
			t.Errorf("%s left %q", sql, got)
		}
	}
	if ran < 1000 {
		t.Errorf("%d functions ran", ran)
	}
}
