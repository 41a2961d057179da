package catalog_test

import (
	"context"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/countersign/countersign/extproc/extproctest"
	"github.com/countersign/countersign/extproc/kind/postgres/catalog"
	"github.com/countersign/countersign/extproc/kind/postgres/statement"
)

func connect(t *testing.T, p *extproctest.Postgres, user string) *pgconn.PgConn {
	t.Helper()
	c, err := pgconn.Connect(t.Context(), "host="+p.Dir+" port="+p.Address[strings.LastIndex(p.Address, ":")+1:]+" user="+user+" dbname=postgres")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close(context.Background()) })
	return c
}

func query(c *pgconn.PgConn) catalog.Query {
	return func(ctx context.Context, sql string) ([][]string, error) { return extproctest.Rows(ctx, c, sql) }
}

const fixture = `
CREATE ROLE agent LOGIN; CREATE ROLE other LOGIN;
CREATE SCHEMA closed; CREATE TABLE closed.t (a integer);
CREATE TABLE base (id integer PRIMARY KEY, v text, g text GENERATED ALWAYS AS (upper(v)) STORED);
ALTER TABLE base DROP COLUMN v CASCADE; ALTER TABLE base ADD COLUMN w text;
CREATE TABLE part (id integer, k integer REFERENCES base ON DELETE CASCADE ON UPDATE SET NULL) PARTITION BY RANGE (id);
CREATE TABLE part_1 PARTITION OF part FOR VALUES FROM (0) TO (10);
CREATE VIEW seen AS SELECT id, closed.t.a FROM base, closed.t;
CREATE FUNCTION f(a integer, OUT b text, VARIADIC c integer[] DEFAULT '{}') LANGUAGE sql AS 'SELECT 1::text';
CREATE DOMAIN small AS integer CHECK (VALUE < 10);
CREATE TABLE mine (owner text); ALTER TABLE mine ENABLE ROW LEVEL SECURITY; CREATE POLICY p ON mine USING (owner = current_user);
`

func name(schema, n string) statement.Name { return statement.Name{Schema: schema, Name: n} }

func TestRead(t *testing.T) {
	for name, bin := range map[string]string{"of the system": "", "18": extproctest.Postgres18(t)} {
		t.Run(name, func(t *testing.T) {
			testRead(t, extproctest.StartPostgres(t, extproctest.PostgresConfig{Bin: bin, HBA: []string{"local all all trust"}, SQL: fixture}))
		})
	}
}

func testRead(t *testing.T, p *extproctest.Postgres) {
	conn := connect(t, p, "agent")
	c, err := catalog.Read(t.Context(), query(conn), false)
	if err != nil {
		t.Fatal(err)
	}
	if c.Role != "agent" || c.Database != "postgres" || c.Version < 150000 {
		t.Errorf("%s %s %d", c.Role, c.Database, c.Version)
	}
	if usage, ok := c.Schemas["closed"]; !ok || usage || !c.Schemas["public"] {
		t.Errorf("schemas: %v", c.Schemas)
	}
	base := c.Relations[name("public", "base")]
	if len(base.Columns) != 2 || base.Columns[1].Name != "w" || len(base.Cascades) < 2 {
		t.Errorf("base: %+v", base)
	}
	if part := c.Relations[name("public", "part")]; len(part.Children) != 1 || c.Relations[name("public", "part_1")].Parents[0] != part.Name {
		t.Errorf("part: %+v", part)
	}
	if part := c.Relations[name("public", "part")]; len(base.Unique) != 1 || base.Unique[0].Columns[0] != "id" || len(part.References) != 1 || part.References[0].Table != base.Name || part.References[0].OnDelete {
		t.Errorf("constraints: %+v %+v", base.Unique, part.References)
	}
	if v := c.Relations[name("public", "seen")]; !strings.Contains(v.Definition, "FROM public.base") || !strings.Contains(v.Definition, "closed.t") {
		t.Errorf("seen: %q", v.Definition)
	}
	f := c.Functions[name("public", "f")][0]
	if len(f.Args) != 2 || f.Variadic == 0 || len(f.Outs) != 1 || f.Outs[0].Name != "b" || strings.Join(f.ArgNames, ",") != "a,c" || f.Defaults != 1 {
		t.Errorf("f: %+v", f)
	}
	if d := c.Types[c.TypeNames[name("public", "small")]]; len(d.Checks) != 1 || !strings.Contains(d.Checks[0], "VALUE") {
		t.Errorf("small: %+v", d)
	}
	if m := c.Relations[name("public", "mine")]; len(m.Policies) != 1 {
		t.Errorf("mine: %+v", m)
	}
	if rows, err := query(conn)(t.Context(), "SHOW search_path"); err != nil || rows[0][0] != `"$user", public` {
		t.Errorf("search_path is %v after it, %v", rows, err)
	}
}

// TestReadInside reads what a transaction itself has defined, and leaves the transaction as it was.
func TestReadInside(t *testing.T) {
	p := extproctest.StartPostgres(t, extproctest.PostgresConfig{HBA: []string{"local all all trust"}})
	q := query(connect(t, p, "postgres"))
	run := func(sql string) [][]string {
		t.Helper()
		rows, err := q(t.Context(), sql)
		if err != nil {
			t.Fatalf("%s: %v", sql, err)
		}
		return rows
	}
	run("BEGIN")
	run("SET LOCAL search_path = pg_temp, public")
	run("CREATE TABLE public.fresh (a integer)")
	run("CREATE TEMPORARY TABLE passing (b integer)")
	c, err := catalog.Read(t.Context(), q, true)
	if err != nil || c.Relations[name("public", "fresh")] == nil {
		t.Fatal(err)
	}
	st, err := catalog.Session(t.Context(), q)
	if err != nil {
		t.Fatal(err)
	}
	if err := catalog.Refresh(t.Context(), q, st, true); err != nil {
		t.Fatal(err)
	}
	if st.Temp["passing"] == nil || len(st.Temp) != 1 || strings.Join(st.SearchPath, ",") != "pg_temp,public" {
		t.Errorf("%+v", st)
	}
	if got := run("SHOW search_path"); got[0][0] != "pg_temp, public" {
		t.Errorf("search_path is %v", got)
	}
	run("COMMIT")
}

// TestMark holds that whatever changes a definition changes the mark, and that nothing else does.
func TestMark(t *testing.T) {
	p := extproctest.StartPostgres(t, extproctest.PostgresConfig{HBA: []string{"local all all trust"}, SQL: fixture})
	q := query(connect(t, p, "agent"))
	mark := func() string {
		t.Helper()
		m, err := catalog.Mark(t.Context(), q)
		if err != nil {
			t.Fatal(err)
		}
		return m
	}
	before := mark()
	for _, sql := range []string{"INSERT INTO base (id) VALUES (1); UPDATE base SET w = 'x'; ANALYZE base", "BEGIN; CREATE TABLE gone (); ROLLBACK"} {
		if p.SQL("postgres", sql); mark() != before {
			t.Errorf("%s changed it", sql)
		}
	}
	for _, sql := range []string{
		"ALTER TABLE base RENAME COLUMN w TO x", "ALTER TABLE base DROP COLUMN x", "CREATE OR REPLACE VIEW seen AS SELECT id, 2 AS a FROM base",
		"CREATE FUNCTION g() RETURNS integer LANGUAGE sql AS 'SELECT 1'", "DROP FUNCTION g()", "GRANT USAGE ON SCHEMA closed TO agent", "GRANT other TO agent",
		"ALTER TABLE part DETACH PARTITION part_1", "ALTER POLICY p ON mine USING (true)", "ALTER TABLE mine DISABLE ROW LEVEL SECURITY",
		"ALTER DOMAIN small DROP CONSTRAINT small_check", "CREATE UNIQUE INDEX later ON base (id)", "ALTER TABLE base SET SCHEMA closed",
	} {
		p.SQL("postgres", sql)
		if after := mark(); after == before {
			t.Errorf("%s did not change it", sql)
		} else {
			before = after
		}
	}
}

func TestCache(t *testing.T) {
	p := extproctest.StartPostgres(t, extproctest.PostgresConfig{HBA: []string{"local all all trust"}, SQL: fixture})
	conn := connect(t, p, "agent")
	asked := 0
	q := func(ctx context.Context, sql string) ([][]string, error) {
		asked++
		return query(conn)(ctx, sql)
	}
	now := time.Unix(0, 0)
	cache := catalog.Cache{Fresh: time.Second, Now: func() time.Time { return now }}
	key := catalog.Key{Database: "postgres", Role: "agent"}
	get := func() *statement.Catalog {
		t.Helper()
		c, err := cache.Get(t.Context(), key, q)
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	first := get()
	if asked = 0; get() != first || asked != 0 {
		t.Errorf("a fresh catalog asked the server %d times", asked)
	}
	now = now.Add(time.Second)
	if get() != first || asked != 1 {
		t.Errorf("one that did not change asked %d times", asked)
	}
	p.SQL("postgres", "CREATE TABLE later ()")
	if get() != first {
		t.Error("a fresh one was read again")
	}
	cache.Changed("postgres")
	if c := get(); c == first || c.Relations[name("public", "later")] == nil {
		t.Error("what changed was not read")
	}
	if _, err := cache.Get(t.Context(), catalog.Key{Database: "postgres", Role: "other"}, q); err == nil {
		t.Error("the catalog of one role was given to another")
	}
}

// BenchmarkCatalog reads a catalog of 2,000 tables of 20 columns, of which 1,000 are partitions of one, and asks whether it changed.
func BenchmarkCatalog(b *testing.B) {
	p := extproctest.StartPostgres(b, extproctest.PostgresConfig{HBA: []string{"local all all trust"}, Lines: []string{"max_locks_per_transaction = 4000"}, SQL: `
DO $$
DECLARE columns text := (SELECT string_agg('c' || i || ' text', ', ') FROM generate_series(2, 20) i);
BEGIN
	EXECUTE 'CREATE TABLE whole (id integer, ' || columns || ') PARTITION BY RANGE (id)';
	FOR i IN 1..1000 LOOP
		EXECUTE format('CREATE TABLE part_%s PARTITION OF whole FOR VALUES FROM (%s) TO (%s)', i, i, i + 1);
		EXECUTE format('CREATE TABLE t_%s (id integer, %s)', i, columns);
	END LOOP;
END $$`})
	conn, err := pgconn.Connect(b.Context(), "host="+p.Dir+" port="+p.Address[strings.LastIndex(p.Address, ":")+1:]+" user=postgres dbname=postgres")
	if err != nil {
		b.Fatal(err)
	}
	defer func() { _ = conn.Close(context.Background()) }()
	var c *statement.Catalog
	b.Run("read", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if c, err = catalog.Read(b.Context(), query(conn), false); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("mark", func(b *testing.B) {
		for b.Loop() {
			if _, err := catalog.Mark(b.Context(), query(conn)); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("partitions", func(b *testing.B) {
		st := statement.NewState("postgres", "postgres", []string{"public"}, true)
		if _, err := statement.Parse("SELECT 1", true); err != nil { // which makes the parser
			b.Fatal(err)
		}
		for i := 0; b.Loop(); i++ {
			list, err := statement.Parse("SELECT * FROM whole WHERE id = 7", true)
			if err != nil {
				b.Fatal(err)
			}
			st.Harmless = map[string]bool{strconv.Itoa(i): true} // so that it is analyzed anew
			if a, err := list[0].Analyze(c, st); err != nil || len(a.Reads) != 1001 {
				b.Fatal(len(a.Reads), err, a.Doubt)
			}
		}
	})
}
