package postgres_test

import (
	"bytes"
	"context"
	"errors"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/tools/txtar"

	"github.com/countersign/countersign/extproc/extproctest"
	"github.com/countersign/countersign/extproc/extproctest/story"
)

// block is the one block of README.md in a language.
func block(t *testing.T, language string) string {
	t.Helper()
	text, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	parts := strings.Split(string(text), "```"+language+"\n")
	if len(parts) != 2 {
		t.Fatalf("README.md has %d blocks of %s", len(parts)-1, language)
	}
	body, _, _ := strings.Cut(parts[1], "```")
	return body
}

// TestReadme does what README.md says to agents and to whoever runs the server: its roles, the lines of pg_hba.conf and of the log, and the
// commands by which an agent connects.
func TestReadme(t *testing.T) {
	sql, conf := block(t, "sql"), block(t, "conf")
	w := &world{tb: t, authority: extproctest.NewAuthority(t)}
	w.postgres = extproctest.StartPostgres(t, extproctest.PostgresConfig{
		Authority: w.authority, Lines: strings.Split(strings.TrimSpace(block(t, "ini")), "\n"),
		HBA: strings.Split(strings.TrimSpace(strings.ReplaceAll(conf, "10.0.0.5/32", "127.0.0.1/32")), "\n"),
	})
	w.postgres.SQL("postgres", "CREATE DATABASE orders;\n\\connect orders\nCREATE TABLE customers (id integer, name text);"+sql+"CREATE TABLE later (id integer);")
	gateway := story.Start(t, txtar.Parse([]byte("-- policy.rego --\npackage rules.payments\n\nallow contains {\"id\": \"all\"} if input.postgres.access != \"unknown\"\n")), story.Options{Kind: &story.Kind{
		Resource: func(g *story.Gateway) string {
			server := w.authority.Issue("gateway.test")
			g.Write("secrets/app_reader", "a long random one\n")
			return "kind: postgres\nlisten: {address: \"" + g.Address + "\", tls: {certificate_file: \"" + server.CertFile + "\", key_file: \"" + server.KeyFile + "\"}}\n" +
				"target: \"postgres://" + w.postgres.Address + "\"\ntarget_tls: {ca_file: \"" + w.authority.CAFile + "\", server_name: db.test}\nroles: {app_reader: {password_file: ./secrets/app_reader}}\n"
		},
	}})
	token, err := gateway.Issuer.AgentToken(t.Context(), "agent-1")
	if err != nil {
		t.Fatal(err)
	}
	_, port, _ := strings.Cut(gateway.Address, ":")
	run := func(commands string) (string, error) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		cmd := exec.CommandContext(ctx, "bash", "-euo", "pipefail", "-c", strings.NewReplacer("gateway", "localhost", "6432", port, "ca.pem", w.authority.CAFile).Replace(commands))
		cmd.Dir = gateway.Dir
		cmd.Env = append(os.Environ(), "TOKEN="+token, "LC_ALL=C.UTF-8", "PSQLRC=/dev/null") //nolint:forbidigo // psql needs its path
		var out bytes.Buffer
		cmd.Stdout, cmd.Stderr = &out, &out
		err := cmd.Run()
		return out.String(), err
	}
	connects := block(t, "sh")
	out, err := run(connects)
	if n := strings.Count(connects, "SELECT 1"); err != nil || n < 4 || strings.Count(out, "(1 row)") != n {
		t.Errorf("%v: of %d commands\n%s", err, n, out)
	}
	first, _, _ := strings.Cut(connects, "\n")
	for statement, want := range map[string]string{
		"SELECT count(*) FROM customers":            "(1 row)",
		"SELECT count(*) FROM later":                "(1 row)",
		"CREATE TABLE t (id integer)":               "cannot execute CREATE TABLE in a read-only transaction",
		"BEGIN READ WRITE; CREATE TABLE t (id int)": "permission denied for schema public",
		"INSERT INTO customers VALUES (1, 'x')":     "read-only transaction",
		"SHOW statement_timeout":                    "30s",
		"SHOW application_name":                     "psql countersign/",
	} {
		if out, _ := run(first + "\nPGPASSWORD=$TOKEN psql -c \"" + statement + "\""); !strings.Contains(out, want) {
			t.Errorf("%s: %s, want %s", statement, out, want)
		}
	}
	// Nobody gets in past the gateway but from its address, and by TLS.
	direct := "PGPASSWORD='a long random one' PGUSER=app_reader PGDATABASE=orders PGPORT=" + strconv.Itoa(w.postgres.Port)
	if out, err := run(direct + " PGHOST=" + w.postgres.Dir + " psql -c 'SELECT 1'"); err == nil || !strings.Contains(out, "pg_hba.conf rejects") {
		t.Errorf("by the socket: %v %s", err, out)
	}
	if out, err := run(direct + " PGHOST=127.0.0.1 PGSSLMODE=disable psql -c 'SELECT 1'"); err == nil || !strings.Contains(out, "pg_hba.conf rejects") {
		t.Errorf("without TLS: %v %s", err, out)
	}
	extproctest.Await(t, "the server's log to say whose session it is", time.Minute, func(context.Context) error {
		if !strings.Contains(w.postgres.Log(), "app_reader@orders psql countersign/") {
			return errors.New("it does not")
		}
		return nil
	})
}
