package statement_test

import (
	"context"
	"os"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/countersign/countersign/extproc/extproctest"
	"github.com/countersign/countersign/extproc/kind/postgres/catalog"
	"github.com/countersign/countersign/extproc/kind/postgres/statement"
)

// A server is a real PostgreSQL with two databases that differ only in customers' email and ssn.
type server struct {
	*extproctest.Postgres
}

// The masked columns, and that which is made of one.
var masked = []statement.ColumnRef{{Schema: "public", Table: "customers", Column: "email"}, {Schema: "public", Table: "customers", Column: "ssn"}}

// startServer starts the system's server, or another by the directory of its programs; schemas are run after testdata/schema.sql.
func startServer(t *testing.T, bin string, schemas ...string) *server {
	t.Helper()
	text, err := os.ReadFile("testdata/schema.sql")
	if err != nil {
		t.Fatal(err)
	}
	s := &server{extproctest.StartPostgres(t, extproctest.PostgresConfig{Bin: bin, HBA: []string{"local all all trust"}, SQL: "CREATE DATABASE one; CREATE DATABASE two;"})}
	replace := func(values ...string) string {
		var pairs []string
		for i, v := range values {
			pairs = append(pairs, "$"+string(rune('1'+i))+",", v+",", "$"+string(rune('1'+i))+")", v+")")
		}
		head, rest, _ := strings.Cut(string(text), "\nCREATE TABLE orders")
		return strings.NewReplacer(pairs...).Replace(head) + "\nCREATE TABLE orders" + rest
	}
	s.SQL("one", replace("'ada@example.com'", "'bob@example.com'", "NULL", "1", "2", "NULL"))
	s.SQL("two", strings.Replace(replace("'zed@else.org'", "NULL", "'aaa@aaa.aa'", "99", "98", "1"), "CREATE ROLE agent;", "", 1))
	for _, path := range schemas {
		more, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		s.SQL("one", string(more))
		s.SQL("two", string(more))
	}
	return s
}

// connect is a session of a role.
func (s *server) connect(t *testing.T, database, role string) *pgconn.PgConn {
	t.Helper()
	c, err := pgconn.Connect(t.Context(), "host="+s.Dir+" port="+s.port()+" user=postgres dbname="+database)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close(context.Background()) })
	if role != "" {
		mustRun(t, c, "SET SESSION AUTHORIZATION "+role)
	}
	return c
}

func (s *server) port() string { return s.Address[strings.LastIndex(s.Address, ":")+1:] }

// connectTo is a session of the superuser in database postgres.
func connectTo(t *testing.T, p *extproctest.Postgres) (*pgconn.PgConn, error) {
	t.Helper()
	c, err := pgconn.Connect(t.Context(), "host="+p.Dir+" port="+p.Address[strings.LastIndex(p.Address, ":")+1:]+" user=postgres dbname=postgres")
	if err == nil {
		t.Cleanup(func() { _ = c.Close(context.Background()) })
	}
	return c, err
}

// query is the connection as package catalog asks.
func query(c *pgconn.PgConn) catalog.Query {
	return func(ctx context.Context, sql string) ([][]string, error) { return extproctest.Rows(ctx, c, sql) }
}

func mustRun(t *testing.T, c *pgconn.PgConn, sql string) [][]string {
	t.Helper()
	rows, err := query(c)(t.Context(), sql)
	if err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
	return rows
}

// read is the catalog, and the state of a session, of a connection.
func read(t *testing.T, c *pgconn.PgConn) (*statement.Catalog, *statement.State) {
	t.Helper()
	cat, err := catalog.Read(t.Context(), query(c), false)
	if err != nil {
		t.Fatal(err)
	}
	st, err := catalog.Session(t.Context(), query(c))
	if err != nil {
		t.Fatal(err)
	}
	st.Role, st.SessionRole, st.User = cat.Role, cat.Role, cat.Role
	st.Harmless["public.known"] = true
	return cat, st
}
