package session_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/countersign/countersign/extproc/extproctest"
	"github.com/countersign/countersign/extproc/kind/postgres/session"
)

const limitRules = `package rules.orders

allow contains {"id": "all"} if input.postgres.access != "unknown"

limit contains {"rows": 5} if contains(input.postgres.text, "five")

limit contains {"bytes": 300} if contains(input.postgres.text, "bytes")

limit contains {"seconds": 0.4} if contains(input.postgres.text, "clock")

limit contains {"seconds": 7} if contains(input.postgres.text, "seven")

limit contains {"read_only": true} if contains(input.postgres.text, "readers")
`

// simple sends a Query by hand, and returns the types of what is answered.
func (c *raw) simple(text string) string {
	c.t.Helper()
	c.send(message('Q', text+"\x00"))
	return c.until('Z')
}

// execution is a statement as messages of the extended protocol, without Sync.
func execution(text string, most byte) []byte {
	return slices.Concat(message('P', "\x00"+text+"\x00\x00\x00"), message('B', "\x00\x00\x00\x00\x00\x00\x00\x00"), message('E', "\x00\x00\x00\x00"+string(most)))
}

// limitsOfRows: a statement gives no more rows and bytes than policy lets it. What has reached a limit fails as an error of the
// server's would, and the session goes on.
func limitsOfRows(t *testing.T, w *world) {
	leaks(t)
	w.postgres.SQL("orders", "SET ROLE app; CREATE TABLE notes (n int); CREATE TABLE copies (n int, v text)")
	defer w.postgres.SQL("orders", "DROP TABLE notes, copies")
	r := w.start(t, options{policy: limitRules})
	c := r.raw()
	for _, x := range []struct{ name, text, want string }{
		{"as many as it may", "SELECT /* five */ id FROM items WHERE id <= 5", "TDDDDDCZ(I)"},
		{"one more", "SELECT /* five */ id FROM items WHERE id <= 6", "TDDDDDE(CS004)Z(I)"},
		{"many more", "SELECT /* five */ i FROM generate_series(1, 3000000) AS i", "TDDDDDE(CS004)Z(I)"},
		{"the session goes on", "SELECT id FROM items WHERE id <= 2", "TDDCZ(I)"},
		{"a transaction", "BEGIN", "CZ(T)"},
		{"fails", "SELECT /* five */ id FROM items", "TDDDDDE(CS004)Z(E)"},
		{"to its end", "SELECT 1", "E(25P02)Z(E)"},
		{"which undoes it", "COMMIT", "CZ(I)"},
		{"bytes", "SELECT /* bytes */ repeat('x', 100) FROM items", "TDDE(CS004)Z(I)"},
		{"COPY", "COPY /* five */ items TO STDOUT", "HdddddE(CS004)Z(I)"},
		{"COPY of as many", "COPY /* five */ (SELECT * FROM items WHERE id <= 5) TO STDOUT", "HdddddcCZ(I)"},
		{"COPY with a header", "COPY /* five */ (SELECT * FROM items WHERE id <= 5) TO STDOUT WITH (FORMAT csv, HEADER)", "HddddddcCZ(I)"},
		{"EXPLAIN", "EXPLAIN (VERBOSE) /* five */ SELECT a.id, b.name FROM items a JOIN items b USING (id) WHERE a.id > 3 ORDER BY b.name", "TDDDDDE(CS004)Z(I)"},
		{"the next of several", "SELECT /* five */ id FROM items; SELECT id FROM items WHERE id <= 2", "TDDDDDE(CS004)Z(I)"},
		{"one of several that write", "INSERT INTO notes VALUES (1); SELECT /* five */ id FROM items", "E(42501)Z(I)"},
		{"a cursor", "BEGIN", "CZ(T)"},
		{"declared", "DECLARE c CURSOR FOR SELECT id FROM items", "CZ(T)"},
		{"fetched in parts", "FETCH 5 FROM c /* five */", "TDDDDDCZ(T)"},
		{"and more than a part may have", "FETCH ALL FROM c", "TDDDDDCZ(T)"},
		{"end", "ROLLBACK", "CZ(I)"},
	} {
		if got := c.simple(x.text); got != x.want {
			t.Errorf("%s: %s, want %s", x.name, got, x.want)
		}
	}
	c.simple("INSERT /* five */ INTO notes SELECT i FROM generate_series(1, 9) AS i")
	if got := c.simple("BEGIN") + c.simple("DELETE FROM notes /* five */ RETURNING n") + c.simple("COMMIT"); got != "CZ(T)TDDDDDE(CS004)Z(E)CZ(I)" {
		t.Errorf("DELETE … RETURNING: %s", got)
	}
	if got := w.postgres.SQL("orders", "SELECT count(*) FROM notes"); got != "9" {
		t.Errorf("%s rows are left of a transaction that failed", got)
	}
	c.send(message('Q', "DELETE FROM notes WHERE n > 1 /* five */ RETURNING n\x00"))
	var told string
	for kind, body := c.next(); kind != 'Z' && kind != 0; kind, body = c.next() {
		if kind == 'E' {
			told = string(body)
		}
	}
	if got := w.postgres.SQL("orders", "SELECT count(*) FROM notes"); got != "1" || !strings.Contains(told, "CS004") || !strings.Contains(told, "What it changes was carried out.") {
		t.Errorf("%s rows are left of what cannot be undone, and the agent is told %q", got, told)
	}
	limitedPipelines(t, w, c)
	finished := r.await(1, "operation.finished")
	i := slices.IndexFunc(finished, func(f map[string]any) bool { return f["result"] == "withheld" })
	if i < 0 || finished[i]["problem"] != "limit-reached" || finished[i]["reason"] != "it has reached policy's limit of rows (rows 5)" ||
		fmt.Sprint(finished[i]["postgres"]) != "map[bytes:60 masked:map[] rows:5 sqlstate:CS004 tag:]" && fmt.Sprint(finished[i]["postgres"]) != "map[bytes:60 masked:map[] rows:5 sqlstate:CS004 tag:SELECT 6]" {
		t.Errorf("the record says %v", finished[i])
	}
	for _, d := range r.records("operation.decided") {
		if limit := fmt.Sprint(d["limit"]); strings.Contains(limit, "rows") && limit != "map[rows:5]" {
			t.Errorf("the decision says %v", limit)
		}
	}
}

// limitedPipelines: limits hold over the parts of a portal, and what is in a pipeline with an answer that is broken off is undone.
func limitedPipelines(t *testing.T, w *world, c *raw) {
	t.Helper()
	answers := func(name, want string, b ...[]byte) {
		t.Helper()
		c.send(b...)
		if got := c.until('Z'); got != want {
			t.Errorf("%s: %s, want %s", name, got, want)
		}
	}
	part := message('E', "\x00\x00\x00\x00\x03")
	answers("a portal in parts", "12DDDsDDE(CS004)Z(I)", execution("SELECT /* five */ id FROM items", 3), part, part, message('S', ""))
	answers("a pipeline", "12C12DDDDDE(CS004)Z(I)",
		execution("INSERT INTO notes VALUES (100)", 0), execution("SELECT /* five */ id FROM items", 0), execution("INSERT INTO notes VALUES (101)", 0), message('S', ""))
	answers("what changes something, by a pipeline", "12DDDDDE(CS004)Z(I)", execution("INSERT /* five */ INTO notes SELECT i FROM generate_series(200, 220) AS i RETURNING n", 0), message('S', ""))
	answers("the next pipeline", "12CZ(I)", execution("INSERT INTO notes VALUES (102)", 0), message('S', ""))
	if got := c.simple("BEGIN") + c.simple("SELECT /* five */ id FROM items"); got != "CZ(T)TDDDDDE(CS004)Z(E)" {
		t.Error(got)
	}
	answers("a pipeline in a transaction that has failed", "E(25P02)Z(E)", execution("INSERT INTO notes VALUES (103)", 0), message('S', ""))
	answers("its end", "12CZ(I)", execution("ROLLBACK", 0), message('S', ""))
	if got := w.postgres.SQL("orders", "SELECT string_agg(n::text, ' ') FROM notes WHERE n >= 100"); got != "102" {
		t.Errorf("there are %s", got)
	}
	row := message('d', "1\t"+strings.Repeat("x", 100)+"\n")
	answers("COPY in", "GE(CS004)Z(I)", message('Q', "COPY /* bytes */ copies FROM STDIN\x00"), row, row, row, row, message('c', ""))
	answers("COPY in of less", "GCZ(I)", message('Q', "COPY /* bytes */ copies FROM STDIN\x00"), row, row, message('c', ""))
	answers("COPY in by a pipeline", "12GE(CS004)Z(I)", execution("COPY /* bytes */ copies FROM STDIN", 0), row, row, row, row, message('c', ""), message('S', ""))
	if got := w.postgres.SQL("orders", "SELECT count(*) FROM copies"); got != "2" {
		t.Errorf("%s rows were copied", got)
	}
}

// limitsOfTime: the server is told for how long a statement may run, and the session's own statement_timeout stays what it was.
func limitsOfTime(t *testing.T, w *world) {
	leaks(t)
	r := w.start(t, options{policy: limitRules, edit: func(t *session.Target) { t.Harmless = map[string]bool{"pg_catalog.pg_sleep": true} }})
	c := r.connect("")
	shown := func(sql string) (text string) {
		t.Helper()
		if err := c.QueryRow(t.Context(), sql).Scan(&text); err != nil {
			t.Errorf("%s: %v", sql, err)
		}
		return text
	}
	exec := func(sql, want string) {
		t.Helper()
		if _, err := c.Exec(t.Context(), sql); code(err) != want {
			t.Errorf("%s: %v, want %q", sql, err, want)
		}
	}
	exec("SET statement_timeout = '1h'", "")
	for _, mode := range []pgx.QueryExecMode{pgx.QueryExecModeExec, pgx.QueryExecModeSimpleProtocol, pgx.QueryExecModeCacheStatement} {
		var err error
		if _, err = c.Exec(t.Context(), "SELECT /* clock */ pg_sleep(100)", mode); code(err) != "CS004" {
			t.Errorf("%v: %v", mode, err)
		}
		if pg, ok := errors.AsType[*pgconn.PgError](err); !ok || !strings.Contains(pg.Detail, "it took longer than 400ms, so it was cancelled. (request ") || !strings.Contains(pg.Hint, "(request ") {
			t.Errorf("the agent is told %+v", pg)
		}
		if got := shown("SHOW statement_timeout"); got != "1h" {
			t.Errorf("%v: statement_timeout is %s", mode, got)
		}
	}
	if got := shown("SELECT /* seven */ current_setting('statement_timeout')"); got != "7s" {
		t.Errorf("the server was told %s", got)
	}
	if got := shown("SHOW statement_timeout"); got != "1h" {
		t.Errorf("statement_timeout is %s", got)
	}
	exec("SET statement_timeout = '3s'", "")
	if got := shown("SELECT /* seven */ current_setting('statement_timeout')"); got != "3s" {
		t.Errorf("the session's own is less, and %s holds", got)
	}
	exec("BEGIN", "")
	exec("SET LOCAL statement_timeout = '2h'", "")
	exec("SAVEPOINT s", "")
	if got := shown("SELECT /* seven */ current_setting('statement_timeout')") + shown("SHOW statement_timeout"); got != "7s2h" {
		t.Errorf("in a transaction: %s", got)
	}
	exec("SELECT /* clock */ pg_sleep(100)", "CS004")
	exec("SELECT 1", "25P02")
	exec("ROLLBACK TO s", "")
	if got := shown("SELECT current_setting('statement_timeout')") + shown("SELECT /* seven */ current_setting('statement_timeout')"); got != "2h7s" {
		t.Errorf("after the savepoint: %s", got)
	}
	exec("COMMIT", "")
	if got := shown("SHOW statement_timeout") + shown("SELECT current_setting('statement_timeout')"); got != "3s3s" {
		t.Errorf("after the transaction: %s", got)
	}
	exec("DO /* clock */ $$BEGIN PERFORM pg_sleep(100); END$$", "42501")
	finished := r.await(1, "operation.finished")
	n := 0
	for _, f := range finished {
		if f["problem"] == "limit-reached" {
			n++
			if f["reason"] != "it has reached policy's limit of seconds (seconds 0.4)" {
				t.Errorf("the record says %v", f)
			}
		}
	}
	if n != 4 {
		t.Errorf("%d statements have reached a limit", n)
	}
}

// limitsToReading: what policy limits to reading the server does too, whatever the agent sets, and a function that lies writes nothing.
func limitsToReading(t *testing.T, w *world) {
	w.postgres.SQL("orders", `SET ROLE app; CREATE TABLE written (n int);
		CREATE FUNCTION lies() RETURNS int LANGUAGE plpgsql AS $$BEGIN PERFORM set_config('transaction_read_only', 'off', false); INSERT INTO written VALUES (1); RETURN 1; END$$;
		CREATE FUNCTION unsets() RETURNS text LANGUAGE plpgsql AS $$BEGIN RETURN set_config('default_transaction_read_only', 'off', false); END$$;
		CREATE FUNCTION inserts() RETURNS int LANGUAGE sql AS 'INSERT INTO written VALUES (1) RETURNING n'`)
	defer w.postgres.SQL("orders", "DROP TABLE written CASCADE; DROP FUNCTION lies(), inserts(), unsets()")
	r := w.start(t, options{policy: limitRules, edit: func(t *session.Target) {
		t.Harmless = map[string]bool{"public.lies": true, "public.inserts": true, "public.unsets": true}
	}})
	c := r.raw()
	for _, x := range []struct{ text, want string }{
		{"INSERT INTO written VALUES (1) /* readers */", "E(42501)Z(I)"},
		{"SELECT /* readers */ lies()", "TE(25001)Z(I)"},
		{"SELECT /* readers */ inserts()", "TE(25006)Z(I)"},
		{"SELECT /* readers */ unsets()", "TDCSZ(I)"},
		{"SELECT /* readers */ inserts()", "TE(25006)Z(I)"},
		{"SET TRANSACTION READ WRITE /* readers */; SELECT /* readers */ inserts()", "E(42501)Z(I)"},
		{"COMMIT; BEGIN READ WRITE /* readers */; SELECT /* readers */ inserts()", "E(42501)Z(I)"},
		{"SET default_transaction_read_only = off /* readers */", "CZ(I)"},
		{"SET SESSION CHARACTERISTICS AS TRANSACTION READ WRITE /* readers */", "CZ(I)"},
		{"SELECT /* readers */ inserts()", "TE(25006)Z(I)"},
		{"SHOW default_transaction_read_only", "TDCZ(I)"},
		{"BEGIN READ WRITE /* readers */", "CZ(T)"},
		{"SELECT /* readers */ 1", "TDCZ(T)"},
		{"SET TRANSACTION READ WRITE /* readers */", "E(25001)Z(E)"},
		{"ROLLBACK", "CZ(I)"},
		{"BEGIN", "CZ(T)"},
		{"SELECT /* readers */ inserts()", "TE(25006)Z(E)"},
		{"ROLLBACK", "CZ(I)"},
	} {
		if got := c.simple(x.text); got != x.want {
			t.Errorf("%s: %s, want %s", x.text, got, x.want)
		}
	}
	c.send(execution("SELECT /* readers */ 1", 0), execution("SELECT /* readers */ inserts()", 0), message('S', ""))
	if got := c.until('Z'); got != "12DC12E(25006)Z(I)" {
		t.Errorf("a pipeline: %s", got)
	}
	if got := w.postgres.SQL("orders", "SELECT count(*) FROM written"); got != "0" {
		t.Errorf("%s rows were written", got)
	}
	if got := c.simple("SELECT inserts()") + c.simple("INSERT INTO written VALUES (7)"); got != "TDCZ(I)CZ(I)" {
		t.Errorf("what is not limited: %s", got)
	}
}

// limitsTellNothing: whether a limit was reached is the same for two databases that differ in masked values only.
func limitsTellNothing(t *testing.T, w *world) {
	w.postgres.SQL("orders", "SET ROLE app; CREATE TABLE people (id int, name text); INSERT INTO people SELECT i, 'Ada' FROM generate_series(1, 20) AS i")
	defer w.postgres.SQL("orders", "DROP TABLE people")
	r := w.start(t, options{policy: limitRules + "\nredact contains {\"column\": \"public.people.name\"}\n"})
	answers := func() string {
		c := r.raw()
		var seen strings.Builder
		for _, text := range []string{"SELECT /* bytes */ id, name FROM people", "SELECT /* five */ name FROM people", "COPY /* bytes */ people TO STDOUT"} {
			c.send(message('Q', text+"\x00"))
			for kind := byte(1); kind != 'Z' && kind != 0; {
				var body []byte
				kind, body = c.next()
				fmt.Fprintf(&seen, "%c %q\n", max(kind, '0'), body)
			}
		}
		return requests.ReplaceAllString(seen.String(), "request")
	}
	short := answers()
	w.postgres.SQL("orders", "UPDATE people SET name = CASE WHEN id % 2 = 0 THEN repeat('x', 5000) END")
	if long := answers(); long != short || strings.Count(short, "CS004") != 3 {
		t.Errorf("what differs in masked values only was answered\n%s\nand\n%s", short, long)
	}
}

// limitsAndAnAgentThatLeaves: a session whose agent leaves within a pipeline that is limited ends.
func limitsAndAnAgentThatLeaves(t *testing.T, w *world) {
	leaks(t)
	r := w.start(t, options{policy: limitRules, edit: func(t *session.Target) { t.Harmless = map[string]bool{"pg_catalog.pg_sleep": true} }})
	c := r.raw()
	c.send(execution("SELECT pg_sleep(33) /* five */", 0), message('S', ""))
	_ = c.SetReadDeadline(time.Now().Add(200 * time.Millisecond))
	_, _ = io.ReadAll(c)
	_ = c.Close()
	r.await(1, session.RecordClosed)
	extproctest.Await(t, "the statement to end", 10*time.Second, func(context.Context) error {
		if got := w.postgres.SQL("orders", "SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'SELECT pg_sleep(33%' AND state = 'active'"); got != "0" {
			return errors.New(got)
		}
		return nil
	})
}
