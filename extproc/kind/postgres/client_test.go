package postgres_test

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"golang.org/x/tools/txtar"

	"github.com/countersign/countersign/extproc/extproctest"
	"github.com/countersign/countersign/extproc/extproctest/story"
)

// TestClients has the server's own clients work through Envoy and the gateway, and wants of them what they print without.
func TestClients(t *testing.T) {
	w := newWorld(t)
	g := story.Start(t, txtar.Parse([]byte("-- policy.rego --\npackage rules.payments\n\nallow contains {\"id\": \"all\"} if input.postgres.access != \"unknown\"\n")), story.Options{Kind: w.kind()})
	token, err := g.Issuer.AgentToken(t.Context(), "agent-1")
	if err != nil {
		t.Fatal(err)
	}
	bin, err := extproctest.FindPostgres()
	if err != nil {
		t.Fatal(err)
	}
	host, port, _ := strings.Cut(g.Address, ":")
	// through runs a client with what its environment says of the connection: by the gateway, and past it.
	through := func(gateway bool, program string, args ...string) (string, error) {
		cmd := exec.CommandContext(t.Context(), filepath.Join(bin, program), args...)
		cmd.Env = append(os.Environ(), "PGDATABASE=orders", "PGUSER=app", "PGHOST=localhost", "PGSSLMODE=verify-full", "PGSSLROOTCERT="+w.authority.CAFile, "PGTZ=UTC") //nolint:forbidigo // psql needs its path
		if gateway {
			cmd.Env = append(cmd.Env, "PGHOSTADDR="+host, "PGPORT="+port, "PGPASSWORD="+token)
		} else {
			direct, at, _ := strings.Cut(w.postgres.Address, ":")
			cmd.Env = append(cmd.Env, "PGHOSTADDR="+direct, "PGPORT="+at, "PGPASSWORD=correct horse")
		}
		out, err := cmd.CombinedOutput()
		return string(out), err
	}
	pgbench := exec.CommandContext(context.Background(), filepath.Join(bin, "pgbench"), "-i", "--quiet", "--scale", "1", "--host", w.postgres.Dir, "--port", portOf(w), "--username", "postgres", "orders")
	if out, err := pgbench.CombinedOutput(); err != nil {
		t.Fatalf("pgbench: %v\n%s", err, out)
	}
	w.postgres.SQL("orders", "GRANT ALL ON ALL TABLES IN SCHEMA public TO app; CREATE VIEW named AS SELECT id, name FROM customers; GRANT SELECT ON named TO app; CREATE TABLE copied (LIKE customers); GRANT ALL ON copied TO app;")
	g.Write("script.sql", "SELECT 'SELECT ' || id FROM customers ORDER BY id \\gexec\nSELECT 2 AS a \\gset\nSELECT :a;\nSELECT 1\\; SELECT 2;\n\\echo :SERVER_VERSION_NUM\n")
	rows := filepath.Join(g.Dir, "rows.csv")
	for name, args := range map[string][]string{
		"\\d":             {"psql", "-X", "-c", `\d`},
		"\\d of a table":  {"psql", "-X", "-c", `\d+ customers`},
		"\\d of a view":   {"psql", "-X", "-c", `\d+ named`},
		"\\dt, \\dn":      {"psql", "-X", "-c", `\dt`, "-c", `\dn`},
		"\\df":            {"psql", "-X", "-c", `\df now`},
		"\\du, \\l":       {"psql", "-X", "-c", `\du`},
		"\\copy to":       {"psql", "-X", "-c", `\copy customers TO '` + rows + `' CSV`},
		"\\copy from":     {"psql", "-X", "-c", `\copy copied FROM '` + rows + `' CSV`, "-c", "TABLE copied ORDER BY id", "-c", "DELETE FROM copied WHERE id > 0"},
		"\\gexec, \\gset": {"psql", "-X", "-f", filepath.Join(g.Dir, "script.sql")},
		"a transaction":   {"psql", "-X", "-1", "-c", "INSERT INTO copied VALUES (9, 'x')", "-c", "SELECT name FROM copied", "-c", "DELETE FROM copied WHERE id = 9"},
		"a cursor":        {"psql", "-X", "-v", "FETCH_COUNT=2", "-c", "SELECT * FROM customers ORDER BY id"},
		"an error":        {"psql", "-X", "-c", "SELECT 1/0"},
		"pg_isready":      {"pg_isready"},
	} {
		if name == "\\copy from" {
			if _, err := through(false, "psql", "-X", "-c", `\copy customers TO '`+rows+`' CSV`); err != nil {
				t.Fatal(err)
			}
		}
		want, _ := through(false, args[0], args[1:]...)
		got, _ := through(true, args[0], args[1:]...)
		want, got = strings.ReplaceAll(want, w.postgres.Address[strings.Index(w.postgres.Address, ":")+1:], "PORT"), strings.ReplaceAll(got, port, "PORT")
		if got != want {
			t.Errorf("%s: through the gateway\n%s\nand without it\n%s", name, got, want)
		}
	}
	for _, mode := range []string{"simple", "extended", "prepared"} {
		out, err := through(true, "pgbench", "-n", "-S", "-c", "4", "-t", "100", "-M", mode)
		if err != nil || !strings.Contains(out, "number of transactions actually processed: 400/400") {
			t.Errorf("pgbench -M %s: %v\n%s", mode, err, out)
		}
		t.Log(mode, out[max(0, strings.LastIndex(out, "tps")):])
	}
	if out, err := through(true, "pgbench", "-n", "-c", "2", "-t", "20"); err != nil {
		t.Errorf("pgbench: %v\n%s", err, out)
	}
	want, _ := through(false, "pg_dump", "--table", "customers", "--table", "named")
	got, err := through(true, "pg_dump", "--table", "customers", "--table", "named")
	key := regexp.MustCompile(`restrict \w+`) // another each time
	if want, got = key.ReplaceAllString(want, ""), key.ReplaceAllString(got, ""); err != nil || got != want {
		t.Errorf("pg_dump: %v\n%s\nand without the gateway\n%s", err, got, want)
	}
}

func portOf(w *world) string {
	_, port, _ := strings.Cut(w.postgres.Address, ":")
	return port
}
