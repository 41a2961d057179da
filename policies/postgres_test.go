package policies_test

import (
	"bytes"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/countersign/countersign/extproc/extproctest"
	"github.com/countersign/countersign/extproc/gate"
	"github.com/countersign/countersign/extproc/kind/postgres/catalog"
	"github.com/countersign/countersign/extproc/kind/postgres/session"
	"github.com/countersign/countersign/extproc/kind/postgres/statement"
	"github.com/countersign/countersign/extproc/policy"
	"github.com/countersign/countersign/extproc/redact"
	"github.com/countersign/countersign/policies"
)

var update = flag.Bool("update", false, "write what the library says of the statements in testdata")

// probe has the library say all that it can of a statement, as ids of rules.
const probe = `package rules.probe

import data.countersign.postgres

said contains "reads" if postgres.reads
said contains "writes" if postgres.writes
said contains "transaction" if postgres.transaction
said contains "changes_schema" if postgres.changes_schema
said contains "drops" if postgres.drops
said contains "changes_privileges" if postgres.changes_privileges
said contains "changes_server" if postgres.changes_server
said contains "server_copy" if postgres.server_copy
said contains "harmless_session" if postgres.harmless_session
said contains "reveals" if postgres.reveals
said contains "catalog_only" if postgres.catalog_only
said contains "bulk_reads" if postgres.bulk_reads
said contains "bulk_writes" if postgres.bulk_writes
said contains "reads_only" if postgres.reads_only({"public.*"})
said contains "writes_only" if postgres.writes_only({"public.*"}, {"public.*"})
said contains "uses_sequence" if postgres.uses_sequence
said contains concat(" ", ["setting", name]) if some name in postgres.settings
said contains concat(" ", ["dangerous", name, what]) if some name, what in postgres.dangerous
said contains concat(" ", ["reads_of", name]) if some name in postgres.reads_of({"hr.*", "customers"})
said contains concat(" ", ["reads_beside", name]) if some name in postgres.reads_beside({"public.*", "hr.*"})
said contains concat(" ", ["writes_of", name]) if some name in postgres.writes_of({"hr.*", "customers"})
said contains concat(" ", ["writes_beside", name]) if some name in postgres.writes_beside({"public.*", "hr.*"})
said contains concat(" ", ["columns_of", name]) if some name in postgres.columns_of({"customers.iban", "hr.*.salary"})
said contains concat(" ", ["summary", postgres.summary])

deny contains {"id": id} if some id in said
`

// A library is policies/postgres.rego with the probe, and a real server that tells it what names mean.
type library struct {
	set     *policy.Set
	conn    *pgconn.PgConn
	catalog *statement.Catalog
	state   *statement.State
}

func newLibrary(t *testing.T) *library {
	t.Helper()
	schema, err := os.ReadFile("testdata/postgres.sql")
	if err != nil {
		t.Fatal(err)
	}
	p := extproctest.StartPostgres(t, extproctest.PostgresConfig{SQL: string(schema)})
	l := &library{}
	if l.conn, err = pgconn.Connect(t.Context(), fmt.Sprintf("host=%s port=%d user=postgres dbname=postgres", p.Dir, p.Port)); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.conn.Close(context.Background()) })
	if l.catalog, err = catalog.Read(t.Context(), l.query, false); err != nil {
		t.Fatal(err)
	}
	if l.state, err = catalog.Session(t.Context(), l.query); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"public.known", "public.dblink", "public.crosstab", "pg_catalog.query_to_xml", "pg_catalog.ts_stat"} {
		l.state.Harmless[name] = true // or they are refused before policy is asked
	}
	l.set = loadWith(t, "probe", probe)
	return l
}

// loadWith loads what is shipped, and package rules.NAME, which a resource of kind postgres names.
func loadWith(t *testing.T, name, text string) *policy.Set {
	t.Helper()
	dir := t.TempDir()
	if err := os.CopyFS(dir, policies.Files); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "own.rego"), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	set, err := policy.Load(t.Context(), policy.Options{
		Path: dir, Kinds: kinds, Packages: map[string][]string{name: {session.Protocol}}, CheckRedaction: redact.Check, Timeout: time.Minute,
	})
	if err != nil {
		t.Fatal(err)
	}
	return set
}

// query is the connection as package catalog asks.
func (l *library) query(ctx context.Context, sql string) ([][]string, error) {
	return extproctest.Rows(ctx, l.conn, sql)
}

// input is a statement as policy sees it, after those that stand before it in the text.
func (l *library) input(t *testing.T, text string) (session.Input, []byte) {
	t.Helper()
	list, err := statement.Parse(text, true)
	if err != nil {
		t.Fatalf("%s: %v", text, err)
	}
	if len(list) == 0 {
		list = []statement.Statement{statement.Empty(text)}
	}
	st := l.state.Clone()
	var in session.Input
	for _, one := range list {
		analysis, err := one.Analyze(l.catalog, st)
		if err != nil || analysis.Doubt != nil {
			t.Fatalf("%s: %v %v", one.Text, err, analysis.Doubt)
		}
		in = session.Input{Statement: one, Analysis: &analysis, State: st.Clone(), Database: "postgres", Phase: "execute"}
		st.Apply(analysis.Changes)
	}
	text2, err := gate.AppendJSON(nil, gate.Object{
		{Name: "context", Value: gate.Object{}},
		{Name: "postgres", Value: in.Object()},
		{Name: "principal", Value: gate.Object{{Name: "issuer", Value: "i"}, {Name: "kind", Value: "agent"}, {Name: "subject", Value: "agent-1"}}},
		{Name: "resource", Value: gate.Object{{Name: "kind", Value: "postgres"}, {Name: "name", Value: "orders"}}},
	})
	if err != nil {
		t.Fatal(err)
	}
	return in, text2
}

// says is what the library says of an input, sorted.
func (l *library) says(t *testing.T, input []byte) []string {
	t.Helper()
	x, err := l.set.Explain(t.Context(), "probe", input)
	if err != nil || x.Failure != "" || len(x.Strange) > 0 {
		t.Fatalf("%v %s %v\n%s", err, x.Failure, x.Strange, input)
	}
	var list []string
	for _, s := range x.Said {
		var element struct {
			ID string `json:"id"`
		}
		if err := json.Unmarshal([]byte(s.Element), &element); err != nil {
			t.Fatal(err)
		}
		if !strings.HasPrefix(element.ID, "global.") {
			list = append(list, element.ID)
		}
	}
	slices.Sort(list)
	return list
}

// TestPostgresLibrary holds what policies/postgres.rego says of real statements, as the gateway reads them with a real server's
// catalog, to what testdata has: a comment, statements, and for the last of them a line with = for each thing that is said.
func TestPostgresLibrary(t *testing.T) {
	l := newLibrary(t)
	const file = "testdata/postgres.cases"
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	for block := range strings.SplitSeq(strings.TrimSpace(string(text)), "\n\n") {
		var name string
		var sql, want []string
		for line := range strings.SplitSeq(block, "\n") {
			switch {
			case strings.HasPrefix(line, "# "):
				name = line[2:]
			case strings.HasPrefix(line, "= "):
				want = append(want, line[2:])
			default:
				sql = append(sql, line)
			}
		}
		t.Run(name, func(t *testing.T) {
			_, input := l.input(t, strings.Join(sql, "\n"))
			got := l.says(t, input)
			if diff := cmp.Diff(want, got); diff != "" && !*update {
				t.Errorf("%s\n%s", strings.Join(sql, "\n"), diff)
			}
			fmt.Fprintf(&out, "# %s\n%s\n= %s\n\n", name, strings.Join(sql, "\n"), strings.Join(got, "\n= "))
		})
	}
	if *update {
		if err := os.WriteFile(file, bytes.TrimSuffix(out.Bytes(), []byte("\n")), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	t.Run("relations of the catalog", l.testRelations)
	t.Run("functions of the server", l.testFunctions)
	t.Run("kinds and commands", l.testWords)
	t.Run("rules of README.md", l.testReadme)
}

// testReadme holds that the rules in README.md load and say what is meant.
func (l *library) testReadme(t *testing.T) {
	readme, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	_, text, _ := strings.Cut(string(readme), "```rego\npackage rules.orders\n")
	text, _, found := strings.Cut(text, "```\n")
	if !found {
		t.Fatal("README.md has no package rules.orders")
	}
	set := loadWith(t, "orders", "package rules.orders\n"+text)
	for sql, want := range map[string]gate.Effect{
		"SELECT relname FROM pg_class":                         gate.Allow,
		"SET extra_float_digits = 3":                           gate.Allow,
		"SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY": gate.Allow,
		"BEGIN":                gate.Allow,
		"SELECT * FROM orders": gate.Allow,
		"SELECT o.id, c.name FROM orders o JOIN customers c ON c.id = o.id": gate.Allow,
		"SELECT name FROM hr.people WHERE id = 1":                           gate.Deny,
		"SELECT id FROM known_customers":                                    gate.Deny, // the view is not named
		"SELECT set_config('timezone', 'UTC', false), name FROM hr.people":  gate.Deny,
		"SELECT query FROM pg_stat_activity":                                gate.Deny,
		"SET ROLE clerk":                                                    gate.Deny,
		"UPDATE orders SET total = 1 WHERE id = 1":                          gate.Allow,
		"UPDATE orders SET total = 1":                                       gate.Ask,
		"UPDATE customers SET name = 'x' WHERE id = 1":                      gate.Deny,
		"INSERT INTO orders SELECT pg_sleep(1)::text::integer":              gate.Deny,
		"SELECT pg_terminate_backend(1)":                                    gate.Deny,
		"DROP TABLE orders":                                                 gate.Deny,
		"INSERT INTO orders SELECT id FROM hr.people":                       gate.Deny,
		"NOTIFY x":                gate.Deny,
		"COPY orders TO '/tmp/x'": gate.Deny,
	} {
		_, input := l.input(t, sql)
		if x, err := set.Explain(t.Context(), "orders", input); err != nil || x.Verdict.Effect != want {
			t.Errorf("%s: %v %s, error %v; want %v\n%v", sql, x.Verdict.Effect, x.Failure, err, want, x.Said)
		}
	}
}

// testRelations holds that the library knows each relation of the catalog that the gateway knows to show what is not the catalog's own.
func (l *library) testRelations(t *testing.T) {
	found := 0
	for _, name := range slices.SortedFunc(maps.Keys(l.catalog.Relations), func(a, b statement.Name) int { return strings.Compare(a.String(), b.String()) }) {
		rel := l.catalog.Relations[name]
		if name.Schema != "pg_catalog" && name.Schema != "information_schema" || !strings.ContainsRune("rv", rune(rel.Kind)) {
			continue
		}
		in, input := l.input(t, fmt.Sprintf("SELECT * FROM %s WHERE false", name))
		said := l.says(t, input)
		reveals, only := slices.Contains(said, "reveals"), slices.Contains(said, "catalog_only")
		if reveals == only {
			t.Errorf("%s: %v", name, said)
		}
		if len(in.Analysis.Exposes) > 0 {
			found++
			if !reveals {
				t.Errorf("%s shows %v, and the library takes it for catalog only", name, in.Analysis.Exposes)
			}
		}
	}
	if found < 8 {
		t.Errorf("%d relations show what is not the catalog's own", found)
	}
}

// testFunctions holds that what the library calls dangerous is there, on this server or where elsewhere says, is not harmless, and has one reason.
func (l *library) testFunctions(t *testing.T) {
	rows, err := l.query(t.Context(), "SELECT DISTINCT proname FROM pg_proc")
	if err != nil {
		t.Fatal(err)
	}
	known := map[string]bool{}
	for _, row := range rows {
		known[row[0]] = true
	}
	names := slices.Sorted(maps.Keys(known))
	said := l.dangerous(t, names)
	for _, name := range []string{"pg_sleep", "pg_terminate_backend", "pg_read_file", "pg_advisory_xact_lock", "lo_export", "pg_logical_emit_message"} {
		if !said[name] {
			t.Errorf("%s is not dangerous", name)
		}
	}
	for name := range said {
		if harmless := l.harmless(t, name); harmless {
			t.Errorf("%s is harmless to the gateway, and dangerous to the library", name)
		}
	}
	text, err := os.ReadFile("postgres.rego")
	if err != nil {
		t.Fatal(err)
	}
	_, list, _ := strings.Cut(string(text), "dangerous_functions := {\n")
	list, _, _ = strings.Cut(list, "\n}\n")
	count := 0
	for _, quoted := range regexp.MustCompile(`"[a-z_0-9]+"`).FindAllString(list, -1) {
		name := strings.Trim(quoted, `"`)
		if count++; !known[name] && !slices.Contains(elsewhere, name) {
			t.Errorf("there is no function %s", name)
		}
	}
	if count < 50 {
		t.Errorf("the library names %d functions", count)
	}
}

// dangerous are those of names that the library calls dangerous. That each has one reason is what Rego wants.
func (l *library) dangerous(t *testing.T, names []string) map[string]bool {
	t.Helper()
	_, input := l.input(t, "SELECT 1")
	list := make([]string, len(names))
	for i, name := range names {
		list[i] = fmt.Sprintf(`{"name":%q,"schema":"pg_catalog","volatility":"volatile"}`, name)
	}
	found := map[string]bool{}
	for _, s := range l.says(t, bytes.Replace(input, []byte(`"functions":[]`), []byte(`"functions":[`+strings.Join(list, ",")+`]`), 1)) {
		if rest, ok := strings.CutPrefix(s, "dangerous "); ok {
			name, _, _ := strings.Cut(rest, " ")
			found[name] = true
		}
	}
	return found
}

// harmless says that to call a function is a read, as the gateway has it.
func (l *library) harmless(t *testing.T, name string) bool {
	t.Helper()
	call := func(args string) (statement.Access, bool) {
		list, err := statement.Parse("SELECT * FROM pg_catalog."+name+"("+args+") AS t", true)
		if err != nil {
			return "", false
		}
		a, err := list[0].Analyze(l.catalog, l.state.Clone())
		return a.Access, err == nil && a.Doubt == nil
	}
	for args := ""; len(args) < 40; args += "NULL, " {
		if access, ok := call(strings.TrimSuffix(args, ", ")); ok {
			return access == statement.Read && !l.state.Harmless["pg_catalog."+name]
		}
	}
	return false
}

// elsewhere are functions of other versions of PostgreSQL than the one that may be here, and of extensions.
var elsewhere = []string{
	"pg_start_backup", "pg_stop_backup", "pg_backup_start", "pg_backup_stop", "pg_rotate_logfile_old", "pg_logfile_rotate", "pg_log_standby_snapshot",
	"pg_log_backend_memory_contexts", "pg_stat_statements_reset", "connectby", "crosstab", "xpath_table", "get_raw_page", "heap_page_items",
	"pg_ident_file_mappings",
}

// testWords holds that the commands and kinds that the library names are those that the reader says.
func (l *library) testWords(t *testing.T) {
	for command, sql := range map[string]string{
		"GRANT": "GRANT SELECT ON customers TO reader", "REVOKE": "REVOKE SELECT ON customers FROM reader",
		"GRANT ROLE": "GRANT reader TO clerk", "REVOKE ROLE": "REVOKE reader FROM clerk",
		"ALTER DEFAULT PRIVILEGES": "ALTER DEFAULT PRIVILEGES GRANT SELECT ON TABLES TO reader",
		"REASSIGN OWNED":           "REASSIGN OWNED BY reader TO clerk", "DROP OWNED": "DROP OWNED BY reader",
		"CREATE ROLE": "CREATE USER other", "ALTER ROLE": "ALTER ROLE reader SUPERUSER", "DROP ROLE": "DROP ROLE reader",
		"CREATE POLICY": "CREATE POLICY p ON customers USING (true)", "ALTER POLICY": "ALTER POLICY p ON customers USING (true)", "DROP POLICY": "DROP POLICY p ON customers",
		"SECURITY LABEL": "SECURITY LABEL ON TABLE customers IS 'x'",
	} {
		in, input := l.input(t, sql)
		if said := l.says(t, input); in.Analysis.Command != command || !slices.Contains(said, "changes_privileges") || !slices.Contains(said, "changes_schema") {
			t.Errorf("%s is %s: %v", sql, in.Analysis.Command, said)
		}
	}
	for command, sql := range map[string]string{
		"ALTER SYSTEM": "ALTER SYSTEM SET log_statement = 'none'", "CHECKPOINT": "CHECKPOINT",
		"CREATE DATABASE": "CREATE DATABASE d", "ALTER DATABASE": "ALTER DATABASE postgres SET search_path = 'x'", "DROP DATABASE": "DROP DATABASE d",
		"CREATE TABLESPACE": "CREATE TABLESPACE s LOCATION '/tmp'", "DROP TABLESPACE": "DROP TABLESPACE s", "ALTER TABLESPACE": "ALTER TABLESPACE s RESET (seq_page_cost)",
		"CREATE EXTENSION": "CREATE EXTENSION file_fdw", "ALTER EXTENSION": "ALTER EXTENSION dblink UPDATE", "DROP EXTENSION": "DROP EXTENSION dblink",
		"CREATE LANGUAGE": "CREATE LANGUAGE l HANDLER h", "DROP LANGUAGE": "DROP LANGUAGE l",
		"CREATE ACCESS METHOD": "CREATE ACCESS METHOD m TYPE TABLE HANDLER h", "DROP ACCESS METHOD": "DROP ACCESS METHOD m",
		"CREATE EVENT TRIGGER": "CREATE EVENT TRIGGER e ON ddl_command_end EXECUTE FUNCTION f()", "ALTER EVENT TRIGGER": "ALTER EVENT TRIGGER e DISABLE", "DROP EVENT TRIGGER": "DROP EVENT TRIGGER e",
		"CREATE CAST": "CREATE CAST (text AS integer) WITH INOUT", "DROP CAST": "DROP CAST (text AS integer)",
		"CREATE FOREIGN DATA WRAPPER": "CREATE FOREIGN DATA WRAPPER w", "ALTER FOREIGN DATA WRAPPER": "ALTER FOREIGN DATA WRAPPER w NO HANDLER", "DROP FOREIGN DATA WRAPPER": "DROP FOREIGN DATA WRAPPER w",
		"CREATE SERVER": "CREATE SERVER s FOREIGN DATA WRAPPER w", "ALTER SERVER": "ALTER SERVER s VERSION '2'", "DROP SERVER": "DROP SERVER s",
		"CREATE FOREIGN TABLE": "CREATE FOREIGN TABLE f (a int) SERVER s", "IMPORT FOREIGN SCHEMA": "IMPORT FOREIGN SCHEMA x FROM SERVER s INTO public",
		"CREATE USER MAPPING": "CREATE USER MAPPING FOR reader SERVER s", "ALTER USER MAPPING": "ALTER USER MAPPING FOR reader SERVER s OPTIONS (SET a 'b')", "DROP USER MAPPING": "DROP USER MAPPING FOR reader SERVER s",
		"CREATE PUBLICATION": "CREATE PUBLICATION p FOR ALL TABLES", "ALTER PUBLICATION": "ALTER PUBLICATION p ADD TABLE customers", "DROP PUBLICATION": "DROP PUBLICATION p",
		"CREATE SUBSCRIPTION": "CREATE SUBSCRIPTION s CONNECTION 'x' PUBLICATION p", "ALTER SUBSCRIPTION": "ALTER SUBSCRIPTION s DISABLE", "DROP SUBSCRIPTION": "DROP SUBSCRIPTION s",
	} {
		in, input := l.input(t, sql)
		if said := l.says(t, input); in.Analysis.Command != command || !slices.Contains(said, "changes_server") {
			t.Errorf("%s is %s: %v", sql, in.Analysis.Command, said)
		}
	}
}
