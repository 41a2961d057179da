package statement_test

import (
	"errors"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/countersign/countersign/extproc/kind/postgres/catalog"
	"github.com/countersign/countersign/extproc/kind/postgres/statement"
)

// moves are what a session may do to its state.
var moves = []string{
	"BEGIN", "BEGIN", "COMMIT", "ROLLBACK", "SAVEPOINT a", "SAVEPOINT b", "ROLLBACK TO a", "ROLLBACK TO b", "RELEASE a", "COMMIT AND CHAIN", "ROLLBACK AND CHAIN",
	"SET search_path = shop, public", "SET LOCAL search_path = evil, 'pg_catalog'", "SET search_path TO \"$user\", public", "RESET search_path", "SET search_path TO DEFAULT",
	"SELECT set_config('search_path', 'Shop, \"Evil\"', false)", "SELECT set_config('search_path', 'evil', true)",
	"SET ROLE agent", "SET LOCAL ROLE other", "SET ROLE NONE", "RESET ROLE", "SET SESSION AUTHORIZATION agent", "RESET SESSION AUTHORIZATION",
	"SET standard_conforming_strings = off", "SET LOCAL standard_conforming_strings TO on", "RESET ALL", "DISCARD ALL", "SELECT 1/0", "SELECT 1",
	"SET search_path = shop; SELECT 1/0", "SET search_path = evil; BEGIN; SET ROLE agent; ROLLBACK", "SET LOCAL search_path = shop; SELECT 1", "BEGIN; SET search_path = shop; COMMIT; SELECT 1/0",
	"SET ROLE other; COMMIT; SET search_path = shop; SELECT 1/0",
	"PREPARE p AS SELECT 1", "DEALLOCATE p", "DECLARE c CURSOR FOR SELECT 1", "DECLARE h CURSOR WITH HOLD FOR SELECT 1", "CLOSE c", "CLOSE ALL", "FETCH c", "FETCH h", "EXECUTE p",
}

// testState holds what is followed of a session to what the server says it is, through random moves.
func testState(t *testing.T, s *server) {
	s.SQL("one", "CREATE ROLE other; GRANT other TO agent;")
	catalogs := map[string]*statement.Catalog{}
	for _, role := range []string{"postgres", "agent", "other"} {
		catalogs[role], _ = read(t, s.connect(t, "one", role))
	}
	for seed := range 60 {
		r := rand.New(rand.NewPCG(2, uint64(seed)))
		conn := s.connect(t, "one", "")
		st, err := catalog.Session(t.Context(), query(conn))
		if err != nil {
			t.Fatal(err)
		}
		var done []string
		for range 40 {
			sql := moves[r.IntN(len(moves))]
			done = append(done, sql)
			follow(t, conn, catalogs, st, sql)
			if conn.TxStatus() == 'E' {
				continue
			}
			row := mustRun(t, conn, "SELECT current_setting('search_path'), session_user, current_user, current_setting('standard_conforming_strings')")[0]
			path, _ := statement.SplitPath(row[0])
			if !slices.Equal(path, st.SearchPath) || row[1] != st.SessionRole || row[2] != st.Role || (row[3] == "on") != st.StandardConformingStrings {
				t.Fatalf("after\n%s\nthe server has %q, and the state is %q %s %s %v", strings.Join(done, ";\n"), row, st.SearchPath, st.SessionRole, st.Role, st.StandardConformingStrings)
			}
			if want := map[byte]string{'I': statement.Idle, 'T': statement.Open}[conn.TxStatus()]; st.Transaction != want {
				t.Fatalf("after\n%s\nthe transaction is %s, not %s", strings.Join(done, ";\n"), st.Transaction, want)
			}
			for _, c := range mustRun(t, conn, "SELECT name FROM pg_cursors WHERE name <> ''") {
				if st.Cursors[c[0]] == nil {
					t.Fatalf("after\n%s\ncursor %s is not known", strings.Join(done, ";\n"), c[0])
				}
			}
			if n := len(mustRun(t, conn, "SELECT name FROM pg_prepared_statements")); n != len(st.Prepared) {
				t.Fatalf("after\n%s\n%d statements are prepared, not %d", strings.Join(done, ";\n"), n, len(st.Prepared))
			}
			st.Ready(conn.TxStatus())
		}
		_ = conn.Close(t.Context())
	}
}

// follow runs a text, and does to the state what it has done.
func follow(t *testing.T, conn *pgconn.PgConn, catalogs map[string]*statement.Catalog, st *statement.State, sql string) {
	t.Helper()
	list, err := statement.Parse(sql, st.StandardConformingStrings)
	if err != nil {
		t.Fatal(err)
	}
	ahead, analyses := st.Clone(), []statement.Analysis(nil)
	for _, x := range list {
		a, err := x.Analyze(catalogs[ahead.Role], ahead)
		if err != nil {
			t.Fatal(err)
		}
		if a.Doubt != nil && !strings.HasPrefix(a.Doubt.Code, "0A") {
			a.Changes = nil // the server will say the same
		} else if a.Doubt != nil {
			t.Fatalf("%s: %v", sql, a.Doubt)
		}
		analyses = append(analyses, a)
		ahead.Apply(a.Changes)
	}
	results, err := conn.Exec(t.Context(), sql).ReadAll()
	for i, r := range results {
		if r.Err == nil && i < len(analyses) && (err == nil || i < len(results)) {
			st.Apply(analyses[i].Changes)
		}
	}
	var pgErr *pgconn.PgError
	if errors.As(err, &pgErr) {
		st.Fail()
	} else if err != nil {
		t.Fatal(err)
	}
	st.Ready(conn.TxStatus())
}
