package postgres_test

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/tools/txtar"

	"github.com/countersign/countersign/extproc/extproctest"
	"github.com/countersign/countersign/extproc/extproctest/story"
)

// clients are real clients, which work with two databases of one server that differ in what a masked column holds: in orders numbers, and in
// plain the words that they are masked with. So what a client says of orders by the gateway is what it says of plain past it.
type clients struct {
	world   *world
	gateway *story.Gateway
	token   string
	bin     string // of the server, and of psql, pgbench and pg_dump
	system  string // of those of the system, which are older
	fetched extproctest.PostgresClients
}

func startClients(t *testing.T) *clients {
	t.Helper()
	c := &clients{bin: extproctest.Postgres18(t), fetched: extproctest.Clients(t)}
	var err error
	if c.system, err = extproctest.FindPostgres(); err != nil {
		t.Fatal(err)
	}
	read := func(name string) string {
		text, err := os.ReadFile(filepath.Join("testdata/clients", name))
		if err != nil {
			t.Fatal(err)
		}
		return string(text)
	}
	tables := read("world.sql")
	c.world = &world{tb: t, authority: extproctest.NewAuthority(t)}
	c.world.postgres = extproctest.StartPostgres(t, extproctest.PostgresConfig{
		Bin: c.bin, Authority: c.world.authority, SQL: "CREATE ROLE app LOGIN PASSWORD 'correct horse'; CREATE DATABASE orders OWNER app; CREATE DATABASE plain OWNER app;",
	})
	c.world.postgres.SQL("orders", "SET ROLE app;"+tables)
	c.world.postgres.SQL("plain", "SET ROLE app;"+regexp.MustCompile(`'DE\d'`).ReplaceAllString(tables, "'[redacted]'"))
	c.gateway = story.Start(t, &txtar.Archive{Files: []txtar.File{
		{Name: "policy.rego", Data: []byte(read("policy.rego"))},
		{Name: "config.yaml", Data: []byte("people: {issuer: \"${ISSUER}\", client_id: countersign-console}\napprovals: {hold: 1s}\n")},
	}}, story.Options{Kind: c.world.kind()})
	if c.token, err = c.gateway.Issuer.AgentToken(t.Context(), "agent-1"); err != nil {
		t.Fatal(err)
	}
	return c
}

// environment is what libpq is told of a connection: by the gateway to orders, or past it to plain.
func (c *clients) environment(gateway bool) []string {
	at, password, database := c.world.postgres.Address, "correct horse", "plain"
	if gateway {
		at, password, database = c.gateway.Address, c.token, "orders"
	}
	host, port, _ := strings.Cut(at, ":")
	return []string{
		"PGHOST=localhost", "PGHOSTADDR=" + host, "PGPORT=" + port, "PGUSER=app", "PGPASSWORD=" + password, "PGDATABASE=" + database,
		"PGSSLMODE=verify-full", "PGSSLROOTCERT=" + c.world.authority.CAFile, "PGTZ=UTC", "TZ=UTC", "PGOPTIONS=", "PGGSSENCMODE=disable",
	}
}

// run runs a client, and returns what it says.
func (c *clients) run(gateway bool, cmd *exec.Cmd) (string, error) {
	cmd.Env = append(cmd.Environ(), c.environment(gateway)...)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	err := cmd.Run()
	_, port, _ := strings.Cut(c.world.postgres.Address, ":")
	_, through, _ := strings.Cut(c.gateway.Address, ":")
	return strings.NewReplacer(port, "PORT", through, "PORT", "orders", "plain").Replace(out.String()), err
}

// another is what of a client's words is another each time, and what the gateway adds to an error that it finds itself.
var another = regexp.MustCompile(`(?m)^DETAIL:  The statement was not understood .*\n|^HINT:  (Write the statement in a way|The gateway reads statements as).*\n| \(request [0-9a-f-]{36}\)|PID \d+|restrict \w+|\(every [0-9.]+s\)|[A-Z][a-z]{2} [A-Z][a-z]{2} [ 0-9]{2} [0-9:]{8} \d{4} `)

// same runs a client by the gateway and past it, and holds that it says the same.
func (c *clients) same(t *testing.T, client func() *exec.Cmd) {
	t.Helper()
	var got, want string
	var failed, expected error
	var both sync.WaitGroup
	both.Go(func() { got, failed = c.run(true, client()) })
	both.Go(func() { want, expected = c.run(false, client()) })
	both.Wait()
	if (failed == nil) != (expected == nil) {
		t.Errorf("by the gateway it ends with %v, and without it with %v", failed, expected)
	}
	lines := func(said string) []string { return strings.Split(another.ReplaceAllString(said, ""), "\n") }
	if diff := cmp.Diff(lines(want), lines(got)); diff != "" || want == "" {
		t.Errorf("what it says without the gateway (-) and by it (+):\n%s", diff)
	}
}

// works is same, of a client that must succeed.
func (c *clients) works(t *testing.T, client func() *exec.Cmd) {
	t.Helper()
	c.same(t, client)
	if out, err := c.run(true, client()); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}

// refusals are what clients say of what is refused, by the client: testdata/clients/refusals.txt, which go test -update writes.
type refusals struct {
	path    string
	archive *txtar.Archive
}

func (c *clients) refusals(t *testing.T) *refusals {
	t.Helper()
	r := &refusals{path: "testdata/clients/refusals.txt"}
	var err error
	if r.archive, err = txtar.ParseFile(r.path); err != nil {
		t.Fatal(err)
	}
	return r
}

// hold compares what a client says of refusals.
func (r *refusals) hold(t *testing.T, client, said string) {
	t.Helper()
	var got strings.Builder
	for line := range strings.Lines(said) {
		got.WriteString(strings.TrimSpace(normal(line)) + "\n")
	}
	for i, f := range r.archive.Files {
		if f.Name != client {
			continue
		}
		if *update {
			r.archive.Files[i].Data = []byte(got.String())
			if err := os.WriteFile(r.path, txtar.Format(r.archive), 0o644); err != nil {
				t.Fatal(err)
			}
		} else if diff := cmp.Diff(string(f.Data), got.String()); diff != "" {
			t.Errorf("%s (-) and what it says (+):\n%s", r.path, diff)
		}
		return
	}
	t.Fatalf("%s has no %s", r.path, client)
}

// TestClients has real clients work through Envoy and the gateway, under a policy that allows and masks, and wants of them what they say
// without; and shows what refusals look like in them.
func TestClients(t *testing.T) {
	c := startClients(t)
	r := c.refusals(t)
	t.Run("psql", func(t *testing.T) { testPsql(t, c, r) })
	t.Run("pgbench", func(t *testing.T) { testPgbench(t, c) })
	t.Run("pg_dump", func(t *testing.T) { testDump(t, c) })
	t.Run("pgx", func(t *testing.T) { testPgx(t, c, r) })
	t.Run("regression", func(t *testing.T) { testRegression(t, c) })
	for name, program := range map[string]func(do string) *exec.Cmd{
		"psycopg":       func(do string) *exec.Cmd { return c.fetched.Python(t.Context(), "testdata/clients/psycopg3.py", do) },
		"SQLAlchemy":    func(do string) *exec.Cmd { return c.fetched.Python(t.Context(), "testdata/clients/orm.py", do) },
		"node-postgres": func(do string) *exec.Cmd { return c.fetched.Node(t.Context(), "testdata/clients/node.js", do) },
		"JDBC":          func(do string) *exec.Cmd { return c.fetched.Java(t.Context(), "testdata/clients/Jdbc.java", do) },
	} {
		t.Run(name, func(t *testing.T) {
			c.same(t, func() *exec.Cmd { return program("work") })
			out, err := c.run(true, program("refusals"))
			if err != nil {
				t.Fatalf("%v\n%s", err, out)
			}
			r.hold(t, name, out)
		})
	}
}

// testRegression plays files of SQL, in the spirit of PostgreSQL's own regression tests, by an agent that may do everything, and wants of psql
// what it prints without the gateway.
func testRegression(t *testing.T, c *clients) {
	files, err := filepath.Glob("testdata/regression/*.sql")
	if err != nil || len(files) == 0 {
		t.Fatal(files, err)
	}
	free := *c
	if free.token, err = c.gateway.Issuer.AgentToken(t.Context(), "agent-2"); err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".sql"), func(t *testing.T) {
			free.same(t, free.psql("-a", "-f", file))
		})
	}
}

func (c *clients) psql(args ...string) func() *exec.Cmd {
	return func() *exec.Cmd {
		return exec.CommandContext(context.Background(), filepath.Join(c.bin, "psql"), append([]string{"-X"}, args...)...)
	}
}

func testPsql(t *testing.T, c *clients, r *refusals) {
	dir := t.TempDir()
	file := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	for name, args := range map[string][]string{
		"what there is":     {"-c", `\d`, "-c", `\dt`, "-c", `\dn`, "-c", `\du`, "-c", `\dT+`, "-c", `\df now`},
		"a table":           {"-c", `\d+ customers`, "-c", `\d bookings`, "-c", `\d+ banked`},
		"rows":              {"-c", "TABLE customers ORDER BY id", "-c", `\x`, "-c", "SELECT * FROM banked ORDER BY id"},
		"a script":          {"-f", "testdata/clients/psql.sql"},
		"\\copy":            {"-f", file("copy.sql", `\copy customers (id, iban) TO '`+dir+`/$$.txt'`+"\n"+`\copy copied FROM '`+file("rows.csv", "1,one\n2,\"t,wo\"\n")+"' CSV\nTABLE copied ORDER BY id;\nDELETE FROM copied WHERE id > 0;\n")},
		"one transaction":   {"-1", "-c", "INSERT INTO copied VALUES (9, 'x')", "-c", "SELECT name FROM copied", "-c", "DELETE FROM copied WHERE id = 9"},
		"a cursor":          {"-v", "FETCH_COUNT=2", "-c", "SELECT id, iban FROM customers ORDER BY id"},
		"a failure":         {"-v", "ON_ERROR_ROLLBACK=on", "-c", "BEGIN", "-c", "SELECT 1/0", "-c", "SELECT 'goes on'", "-c", "COMMIT"},
		"errors, and where": {"-c", "SELEC 1", "-c", "SELECT nothing FROM customers"},
	} {
		t.Run(name, func(t *testing.T) {
			c.same(t, c.psql(args...))
		})
	}
	t.Run("of the system", func(t *testing.T) {
		c.same(t, func() *exec.Cmd {
			return exec.CommandContext(t.Context(), filepath.Join(c.system, "psql"), "-X", "-c", `\d customers`, "-c", "TABLE customers ORDER BY id", "-c", `\copy customers (id, iban) TO STDOUT`)
		})
	})
	out, _ := c.run(true, c.psql("-f", "testdata/clients/refusals.sql")())
	r.hold(t, "psql", out)
}

func testPgbench(t *testing.T, c *clients) {
	pgbench := func(args ...string) *exec.Cmd {
		return exec.CommandContext(t.Context(), filepath.Join(c.bin, "pgbench"), args...)
	}
	_, port, _ := strings.Cut(c.world.postgres.Address, ":")
	if out, err := pgbench("-i", "--quiet", "--scale", "1", "--host", c.world.postgres.Dir, "--port", port, "--username", "postgres", "orders").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	c.world.postgres.SQL("orders", "GRANT ALL ON ALL TABLES IN SCHEMA public TO app")
	for _, mode := range []string{"simple", "extended", "prepared"} {
		for name, args := range map[string][]string{"reads": {"-S"}, "writes": nil, "a pipeline": {"-f", "testdata/clients/pipeline.pgbench"}} {
			if name == "a pipeline" && mode == "simple" {
				continue // there is none
			}
			const clients, transactions = 3, 20
			args = append(args, "-n", "-c", strconv.Itoa(clients), "-t", strconv.Itoa(transactions), "-M", mode)
			out, err := c.run(true, pgbench(args...))
			if err != nil || !strings.Contains(out, "processed: 60/60") || !strings.Contains(out, "failed transactions: 0 ") {
				t.Errorf("%s, %s: %v\n%s", name, mode, err, out)
			}
		}
	}
	if got := c.world.postgres.SQL("orders", "SELECT count(*), sum(delta) = (SELECT sum(abalance) FROM pgbench_accounts) FROM pgbench_history"); got != "180|t" {
		t.Errorf("what it wrote is %s", got)
	}
	c.world.postgres.SQL("orders", "DROP TABLE pgbench_accounts, pgbench_branches, pgbench_tellers, pgbench_history")
}

func testDump(t *testing.T, c *clients) {
	dump := func(args ...string) func() *exec.Cmd {
		return func() *exec.Cmd {
			return exec.CommandContext(t.Context(), filepath.Join(c.bin, "pg_dump"), append(args, "--exclude-table=closed", "--exclude-table=pgbench*", "--exclude-table=copied", "--exclude-table=bookings")...)
		}
	}
	c.works(t, dump())
	c.works(t, dump("--inserts", "--column-inserts"))
	out, err := c.run(true, exec.CommandContext(t.Context(), filepath.Join(c.bin, "pg_dump"), "--table=closed"))
	if err == nil || !strings.Contains(out, "The table is closed.") || !strings.Contains(out, "(request ") {
		t.Errorf("a table that is closed: %v\n%s", err, out)
	}
}
