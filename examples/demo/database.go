package main

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/countersign/countersign/extproc/extproctest"
)

// database is the second chapter's: a PostgreSQL server behind the same gateway.
type database struct {
	server  *extproctest.Postgres
	address string // of the gateway's listener for it
	psql    string
}

// startDatabase runs a PostgreSQL server with the roles and tables of examples/postgres.
func (d *demo) startDatabase() {
	d.tb.Helper()
	bin, err := extproctest.FindPostgres()
	d.check("find PostgreSQL", err)
	root, err := extproctest.Root()
	d.check("find the example", err)
	schema, err := os.ReadFile(filepath.Join(root, "examples", "postgres", "schema.sql"))
	d.check("read the example's tables", err)
	d.database = database{
		server:  extproctest.StartPostgres(d.tb, extproctest.PostgresConfig{SQL: string(schema)}),
		address: extproctest.FreeAddress(d.tb), psql: filepath.Join(bin, "psql"),
	}
}

// databaseConfig copies the policies of examples/postgres, and returns its resource for the configuration of the gateway.
func (d *demo) databaseConfig(root string) string {
	d.tb.Helper()
	for to, from := range map[string]string{
		"orders.rego": "examples/postgres/policies/orders.rego", "postgres.rego": "policies/postgres.rego",
	} {
		d.copyFile(filepath.Join(d.dir, "policies", to), filepath.Join(root, filepath.FromSlash(from)))
	}
	for role, password := range map[string]string{"app_reader": "reader-password", "app_writer": "writer-password"} {
		d.check("write the role's password", os.WriteFile(filepath.Join(d.dir, "secrets", role), []byte(password+"\n"), 0o600))
	}
	text, err := os.ReadFile(filepath.Join(root, "examples", "postgres", "countersign.yaml"))
	d.check("read the configuration", err)
	_, resource, found := strings.Cut(string(text), "\nresources:\n")
	if !found {
		d.failf("examples/postgres/countersign.yaml has no resources")
	}
	return d.replaced("examples/postgres/countersign.yaml", resource, map[string]string{
		"127.0.0.1:6432":   d.database.address,
		"127.0.0.1:5432":   d.database.server.Address,
		"kind: postgres\n": "kind: postgres\n    hold: " + d.held().String() + "\n", // which stays, where approvals.hold is shortened
	})
}

// sql runs a statement with psql, as an agent does, and shows it.
func (d *demo) sql(role, statement string) string {
	d.tb.Helper()
	return d.sqlHeld(role, statement)()
}

// sqlHeld does so without waiting for the answer, which the function that it returns does.
func (d *demo) sqlHeld(role, statement string) func() string {
	d.tb.Helper()
	d.stated++
	host, port, _ := strings.Cut(d.database.address, ":")
	d.out.command(`psql 'host=gateway user=` + role + ` dbname=orders' -c "` + statement + `"`)
	cmd := exec.CommandContext(d.ctx, d.database.psql, "--no-psqlrc", "--no-password", "--host", host, "--port", port, "--username", role, "--dbname", "orders", "--command", statement)
	cmd.Env = append(os.Environ(), "PGPASSWORD="+d.token, "LC_ALL=C.UTF-8") //nolint:forbidigo // psql reads the token there
	var said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &said, &said
	done := make(chan struct{})
	go func() {
		_ = cmd.Run() // what psql says is looked at, and a refusal is an exit status
		close(done)
	}()
	fmt.Fprintln(d.out.w)
	return func() string {
		<-done
		d.check("run psql", nil)
		for line := range strings.Lines(strings.TrimRight(said.String(), "\n")) {
			d.out.line(plain, 4, "  "+strings.TrimRight(line, "\n"))
		}
		fmt.Fprintln(d.out.w)
		return said.String()
	}
}

// has holds that psql said something, and d.clean that no protected value was in it.
func (d *demo) has(said string, words ...string) {
	d.tb.Helper()
	for _, w := range words {
		if !strings.Contains(said, w) {
			d.failf("psql does not say %q:\n%s", w, said)
		}
	}
	for _, secret := range []string{"GB82WEST", "DE8937", "ada@example.com", "reader-password", "writer-password"} {
		if strings.Contains(said, secret) {
			d.failf("the agent got %q, which is protected:\n%s", secret, said)
		}
	}
}

func (d *demo) selects() {
	d.out.say("The agent's token is the password, in $PGPASSWORD. The server sees the role's own.")
	fmt.Fprintln(d.out.w)
	d.has(d.sql("app_reader", "SELECT id, name, iban FROM customers ORDER BY id"), "Ada Example", "[redacted]", "(3 rows)")
	d.has(d.sql("app_reader", "SELECT name FROM customers WHERE iban LIKE 'GB%'"), "ERROR:", "public.customers.iban is masked")
	d.out.well("account numbers are masked, and cannot be found out by asking in another way either")
}

func (d *demo) drops() {
	d.has(d.sql("app_writer", "DROP TABLE customers"), "ERROR:", "definitions are changed by migrations, and not by agents")
	if got := d.database.server.SQL("orders", "SELECT count(*) FROM customers"); got != "3" {
		d.failf("the table has %s rows, and should have 3", got)
	}
	d.out.well("refused with the rule's own reason; the server saw nothing of it")
}

func (d *demo) updates() {
	const statement = "UPDATE customers SET note = 'called'"
	held := d.sqlHeld("app_writer", statement)
	id := d.pending("orders")
	d.out.say("… it is held, with its connection. bob is a dba too:")
	fmt.Fprintln(d.out.w)
	d.approvals("list")
	card := d.approvalsUntold("show", id)
	d.holds(card, "summary   UPDATE of public.customers, without WHERE", "note = 'called'", "app_writer", "agent-1", "it has no WHERE")
	d.approvals("approve", id, "--card", cardDigest(d, card), "--reason", "they were all called")
	d.out.say("… and the statement that is still held goes on:")
	fmt.Fprintln(d.out.w)
	d.has(held(), "NOTICE:  waiting for a person's approval: "+id, "UPDATE 3")
	if got := d.database.server.SQL("orders", "SELECT count(*) FROM customers WHERE note = 'called'"); got != "3" {
		d.failf("%s rows were changed, and should have been 3", got)
	}
	d.out.well("approved: the statement that was shown ran, once")
}
