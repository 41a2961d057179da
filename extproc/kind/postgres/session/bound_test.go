package session_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/countersign/countersign/extproc/kind/postgres/session"
)

// whatIsBound: an approval binds to the digest of an operation. It is the same for the same statement, and another where anything is that
// could make it another act: its text, its values and their types, database, role, search_path, other settings, and what its transaction has
// done.
func whatIsBound(t *testing.T, w *world) {
	w.postgres.SQL("orders", "CREATE SCHEMA other; CREATE TABLE other.things (id int PRIMARY KEY, name text); CREATE TABLE things (id int PRIMARY KEY, name text); GRANT shown TO app; GRANT ALL ON SCHEMA other TO app, shown; GRANT ALL ON other.things, public.things TO app, shown")
	w.postgres.SQL("postgres", "CREATE DATABASE twin TEMPLATE orders")
	defer w.postgres.SQL("postgres", "DROP DATABASE twin WITH (FORCE)")
	defer w.postgres.SQL("orders", "DROP SCHEMA other CASCADE; DROP TABLE things; REVOKE shown FROM app")
	r := w.start(t, options{policy: "package rules.orders\n\nallow contains {\"id\": \"all\"} if input.postgres.access != \"unknown\"\n"})
	ctx := context.Background()
	const text = "UPDATE things SET name = $1 WHERE id = $2"
	// digest is that of the last statement, after some others, in a session of its own.
	digest := func(database, sql string, values []any, before ...string) string {
		t.Helper()
		conf := r.config("app", r.token(nil), "")
		conf.Database = database
		c, err := pgx.ConnectConfig(ctx, conf)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close(ctx)
		for _, one := range before {
			if _, err := c.Exec(ctx, one); err != nil {
				t.Fatalf("%s: %v", one, err)
			}
		}
		if _, err := c.Exec(ctx, sql, append([]any{pgx.QueryExecModeExec}, values...)...); err != nil {
			t.Fatalf("%s: %v", sql, err)
		}
		list := r.records("operation.decided")
		of := func(d map[string]any) bool {
			own, _ := d["postgres"].(map[string]any)
			return d["verb"] == "UPDATE" && own["phase"] == "execute"
		}
		for _, d := range slices.Backward(list) {
			if of(d) {
				return fmt.Sprint(d["digest"])
			}
		}
		t.Fatal("there is no decision")
		return ""
	}
	usual := []any{"x", 3}
	base := digest("orders", text, usual)
	if again := digest("orders", text, usual); again != base || len(base) != 64 {
		t.Errorf("the same statement is bound as %s, and again as %s", base, again)
	}
	inTransaction := digest("orders", text, usual, "BEGIN")
	seen := map[string]string{base: "the statement"}
	for _, x := range []struct {
		name, database, sql string
		values              []any
		before              []string
	}{
		{"another text", "orders", text + " AND id > 0", usual, nil},
		{"a comment", "orders", text + " -- no", usual, nil},
		{"another value", "orders", text, []any{"y", 3}, nil},
		{"another value of the other", "orders", text, []any{"x", 4}, nil},
		{"NULL", "orders", text, []any{nil, 3}, nil},
		{"the word NULL", "orders", text, []any{"NULL", 3}, nil},
		{"no text", "orders", text, []any{"", 3}, nil},
		{"another database", "twin", text, usual, nil},
		{"another role", "orders", text, usual, []string{"SET ROLE shown"}},
		{"another search_path", "orders", text, usual, []string{"SET search_path = other, public"}},
		{"the same relation by another search_path", "orders", text, usual, []string{"SET search_path = public, other"}},
		{"another order of day and month", "orders", text, usual, []string{"SET datestyle = 'SQL, DMY'"}},
		{"another time zone", "orders", text, usual, []string{"SET timezone = 'Asia/Tokyo'"}},
		{"NULL is equal", "orders", text, usual, []string{"SET transform_null_equals = on"}},
		{"a parameter of the agent's own", "orders", text, usual, []string{"SET app.tenant = '1'"}},
		{"another value of it", "orders", text, usual, []string{"SET app.tenant = '2'"}},
		{"in a transaction", "orders", text, usual, []string{"BEGIN"}},
		{"after a write", "orders", text, usual, []string{"BEGIN", "INSERT INTO things VALUES (100, 'a') ON CONFLICT DO NOTHING"}},
		{"after another write", "orders", text, usual, []string{"BEGIN", "INSERT INTO things VALUES (101, 'a') ON CONFLICT DO NOTHING"}},
		{"after both", "orders", text, usual, []string{"BEGIN", "INSERT INTO things VALUES (100, 'a') ON CONFLICT DO NOTHING", "INSERT INTO things VALUES (101, 'a') ON CONFLICT DO NOTHING"}},
		{"after both, the other way round", "orders", text, usual, []string{"BEGIN", "INSERT INTO things VALUES (101, 'a') ON CONFLICT DO NOTHING", "INSERT INTO things VALUES (100, 'a') ON CONFLICT DO NOTHING"}},
		{"after a change of definitions", "orders", text, usual, []string{"BEGIN", "CREATE TABLE fresh (id int)"}},
	} {
		got := digest(x.database, x.sql, x.values, x.before...)
		if other, taken := seen[got]; taken {
			t.Errorf("%s is bound as %s is", x.name, other)
		}
		seen[got] = x.name
	}
	if reads := digest("orders", text, usual, "BEGIN", "SELECT 1", "SELECT id FROM things"); reads != inTransaction {
		t.Error("what has only read is part of what is bound")
	}
}

// theServersLog names the session, so that it can be held against the records.
func theServersLog(t *testing.T, w *world) {
	r := w.start(t, options{})
	c := r.connect("application_name=etl")
	if _, err := c.Exec(t.Context(), "SELECT id FROM items WHERE id = 424242"); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Exec(t.Context(), "SELECT 1/0"); code(err) != "22012" {
		t.Fatal(err)
	}
	id := fmt.Sprint(r.records(session.RecordOpened)[0]["session"])
	for _, d := range r.records("operation.decided") {
		if own, _ := d["postgres"].(map[string]any); own["session"] != id {
			t.Errorf("a decision is of session %v", own["session"])
		}
	}
	if log := w.postgres.Log(); !strings.Contains(log, "etl countersign/"+id+" ERROR:  division by zero") {
		t.Errorf("the server's log has no line of the session:\n%s", log)
	}
}

// whatIsBoundBefore: what the same text or pipeline does before a statement is part of what it binds to, and so is what EXECUTE runs.
func whatIsBoundBefore(t *testing.T, w *world) {
	r := w.start(t, options{})
	query := func(texts ...string) (messages []byte) {
		for _, text := range texts {
			messages = append(messages, message('Q', text+"\x00")...)
		}
		return messages
	}
	for name, x := range map[string]struct {
		one, other []byte
		answers    int // ReadyForQuery
	}{
		"EXECUTE": {
			query("PREPARE q AS UPDATE items SET name = 'a' WHERE id = 900", "EXECUTE q"),
			query("PREPARE q AS UPDATE items SET name = 'b' WHERE id = 900", "EXECUTE q"), 2,
		},
		"EXECUTE of what was parsed": {
			slices.Concat(message('P', "q\x00UPDATE items SET name = 'a' WHERE id = 900\x00\x00\x00"), message('S', ""), query("EXECUTE q")),
			slices.Concat(message('P', "q\x00UPDATE items SET name = 'b' WHERE id = 900\x00\x00\x00"), message('S', ""), query("EXECUTE q")), 2,
		},
		"the same text": {
			query("SET datestyle = 'ISO, MDY'; UPDATE items SET name = '01/02/2026' WHERE id = 900"),
			query("SET datestyle = 'ISO, DMY'; UPDATE items SET name = '01/02/2026' WHERE id = 900"), 1,
		},
		"the same pipeline": {
			slices.Concat(piped("UPDATE items SET name = 'a' WHERE id = 901"), piped("UPDATE items SET name = 'x' WHERE id = 900"), message('S', "")),
			slices.Concat(piped("UPDATE items SET name = 'b' WHERE id = 901"), piped("UPDATE items SET name = 'x' WHERE id = 900"), message('S', "")), 1,
		},
	} {
		t.Run(name, func(t *testing.T) {
			digest := func(messages []byte) any {
				c := r.raw()
				c.send(messages)
				for range x.answers {
					if got := c.until('Z'); strings.Contains(got, "E(") {
						t.Fatal(got)
					}
				}
				list := r.records("operation.decided")
				return list[len(list)-1]["digest"]
			}
			one := digest(x.one)
			if again := digest(x.one); again != one {
				t.Errorf("the same is bound as %v, and again as %v", one, again)
			}
			if other := digest(x.other); other == one {
				t.Error("another act is bound as the same")
			}
		})
	}
}
