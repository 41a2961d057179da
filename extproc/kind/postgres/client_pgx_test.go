package postgres_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

var modes = []pgx.QueryExecMode{pgx.QueryExecModeCacheStatement, pgx.QueryExecModeCacheDescribe, pgx.QueryExecModeDescribeExec, pgx.QueryExecModeExec, pgx.QueryExecModeSimpleProtocol}

func (c *clients) pgx(t *testing.T, gateway bool) *pgx.Conn {
	t.Helper()
	var words []string
	for _, pair := range c.environment(gateway) {
		name, value, _ := strings.Cut(pair, "=")
		if key := map[string]string{"PGHOSTADDR": "host", "PGPORT": "port", "PGUSER": "user", "PGPASSWORD": "password", "PGDATABASE": "dbname", "PGSSLROOTCERT": "sslrootcert"}[name]; key != "" {
			words = append(words, key+"='"+value+"'")
		}
	}
	conf, err := pgx.ParseConfig(strings.Join(words, " ") + " sslmode=verify-ca timezone=UTC")
	if err != nil {
		t.Fatal(err)
	}
	conn, err := pgx.ConnectConfig(t.Context(), conf)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close(context.Background()) })
	return conn
}

func testPgx(t *testing.T, c *clients, r *refusals) {
	var got, want, refused strings.Builder
	pgxWorks(t, c.pgx(t, true), &got)
	pgxWorks(t, c.pgx(t, false), &want)
	if diff := cmp.Diff(want.String(), got.String()); diff != "" || want.Len() == 0 {
		t.Errorf("what it says without the gateway (-) and by it (+):\n%s", diff)
	}
	pgxRefused(t, c.pgx(t, true), &refused)
	r.hold(t, "pgx", refused.String())
}

// printRows prints what a query answers: the format of each column, and the values as pgx reads them.
func printRows(t *testing.T, out io.Writer, rows pgx.Rows, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	defer rows.Close()
	for _, f := range rows.FieldDescriptions() {
		fmt.Fprintf(out, "%s:%d:%d ", f.Name, min(f.DataTypeOID, 16384), f.Format) // above are those of a database's own
	}
	for rows.Next() {
		values, err := rows.Values()
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(out, "%v\n", values)
	}
	fmt.Fprintln(out, rows.CommandTag(), rows.Err())
}

// pgxWorks uses pgx in all the ways that it has: it asks for text and binary formats in one answer.
func pgxWorks(t *testing.T, conn *pgx.Conn, out io.Writer) {
	t.Helper()
	ctx := t.Context()
	for _, mode := range modes {
		for range 2 {
			rows, err := conn.Query(ctx, "SELECT * FROM customers WHERE id < $1 ORDER BY id", mode, 4)
			printRows(t, out, rows, err)
		}
		rows, err := conn.Query(ctx, "SELECT id, iban, name FROM customers WHERE name = $1 OR id = ANY($2) ORDER BY id", mode, "Ada", []int32{2, 3})
		printRows(t, out, rows, err)
	}
	for _, formats := range []pgx.QueryResultFormats{{0}, {1}, {1, 0, 1}} {
		rows, err := conn.Query(ctx, "SELECT iban, id, iban AS again FROM customers ORDER BY id", formats)
		printRows(t, out, rows, err)
	}
	n, err := conn.CopyFrom(ctx, pgx.Identifier{"copied"}, []string{"id", "name"}, pgx.CopyFromSlice(500, func(i int) ([]any, error) { return []any{i, fmt.Sprint("row ", i)}, nil }))
	fmt.Fprintln(out, "copied", n, err)
	var b pgx.Batch
	for i := range 5 {
		b.Queue("UPDATE copied SET name = $1 WHERE id = $2 RETURNING name", fmt.Sprint("new ", i), i)
	}
	b.Queue("SELECT iban FROM customers ORDER BY id")
	b.Queue("DELETE FROM copied WHERE id >= 0")
	results := conn.SendBatch(ctx, &b)
	for range b.Len() {
		rows, err := results.Query()
		printRows(t, out, rows, err)
	}
	if err := results.Close(); err != nil {
		t.Fatal(err)
	}
	err = pgx.BeginTxFunc(ctx, conn, pgx.TxOptions{IsoLevel: pgx.RepeatableRead}, func(tx pgx.Tx) error {
		err := pgx.BeginFunc(ctx, tx, func(inner pgx.Tx) error {
			_, err := inner.Exec(ctx, "INSERT INTO bookings (customer_id, total) VALUES (77, 1)")
			return err
		})
		var e *pgconn.PgError
		errors.As(err, &e)
		fmt.Fprintln(out, e.Code, e.ConstraintName)
		rows, err := tx.Query(ctx, "SELECT count(*) FROM bookings")
		printRows(t, out, rows, err)
		return pgx.ErrTxClosed
	})
	fmt.Fprintln(out, err)
	var copied strings.Builder
	tag, err := conn.PgConn().CopyTo(ctx, &copied, "COPY customers (id, iban) TO STDOUT")
	fmt.Fprintln(out, tag, err, copied.String())
}

// pgxRefused prints what refusals are to pgx.
func pgxRefused(t *testing.T, conn *pgx.Conn, out io.Writer) {
	t.Helper()
	ctx := t.Context()
	say := func(name string, err error) {
		var e *pgconn.PgError
		if !errors.As(err, &e) {
			t.Fatalf("%s: %v", name, err)
		}
		fmt.Fprintln(out, name, e.Code, e.Message, "|", e.Detail, "|", e.Hint)
	}
	for _, mode := range modes {
		_, err := conn.Exec(ctx, "SELECT * FROM closed", mode)
		say(fmt.Sprint("denied, ", mode), err)
		if mode != pgx.QueryExecModeSimpleProtocol { // which has no parameters
			_, err = conn.Exec(ctx, "SELECT name FROM customers WHERE id = $1", mode, 999)
			say(fmt.Sprint("value, ", mode), err)
		}
	}
	_, err := conn.Exec(ctx, "DELETE FROM bookings")
	say("held", err)
	_, err = conn.CopyFrom(ctx, pgx.Identifier{"closed"}, []string{"secret"}, pgx.CopyFromRows([][]any{{"x"}}))
	say("copy", err)
	var b pgx.Batch
	b.Queue("INSERT INTO copied VALUES (1, 'undone')")
	b.Queue("SELECT iban FROM customers WHERE iban = 'DE1'")
	b.Queue("INSERT INTO copied VALUES (2, 'never')")
	say("batch", conn.SendBatch(ctx, &b).Close())
	err = pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error {
		_, err := tx.Exec(ctx, "SELECT * FROM closed")
		say("in a transaction", err)
		_, err = tx.Exec(ctx, "SELECT 1")
		say("failed", err)
		return err
	})
	fmt.Fprintln(out, err != nil, string(conn.PgConn().TxStatus()))
	rows, err := conn.Query(ctx, "TABLE copied")
	printRows(t, out, rows, err)
}
