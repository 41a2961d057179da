package session_test

import (
	"bytes"
	"context"
	"fmt"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/countersign/countersign/extproc/gate"
	"github.com/countersign/countersign/extproc/redact"
)

// direct is a session with the server itself, past the gateway.
func (w *world) direct(t *testing.T) *pgx.Conn {
	t.Helper()
	c, err := pgx.Connect(t.Context(), "host=127.0.0.1 port="+fmt.Sprint(w.postgres.Port)+" user=app password='correct horse' dbname=orders sslmode=disable")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close(context.Background()) })
	return c
}

// directly speaks the protocol with the server itself, message by message.
func (w *world) directly(t *testing.T) *raw {
	t.Helper()
	c, err := pgconn.Connect(t.Context(), "host=127.0.0.1 port="+fmt.Sprint(w.postgres.Port)+" user=app password='correct horse' dbname=orders sslmode=disable")
	if err != nil {
		t.Fatal(err)
	}
	h, err := c.Hijack()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = h.Conn.Close() })
	return &raw{t: t, Conn: h.Conn}
}

// answer is what a client gets, up to ReadyForQuery: messages of these types, written out.
func (c *raw) answer(types string, b ...[]byte) string {
	c.t.Helper()
	c.send(b...)
	var seen strings.Builder
	for {
		kind, body := c.next()
		if kind == 0 {
			c.t.Fatalf("the connection ended: %s", body)
		}
		if strings.IndexByte(types, kind) >= 0 {
			fmt.Fprintf(&seen, "%c %q\n", kind, body)
		}
		if kind == 'Z' {
			return seen.String()
		}
	}
}

// extended is a statement by the extended protocol, its answer in one format.
func extended(sql string, format byte) []byte {
	return bytes.Join([][]byte{
		message('P', "\x00"+sql+"\x00\x00\x00"), message('B', "\x00\x00\x00\x00\x00\x00\x00\x01\x00"+string(format)), message('E', "\x00\x00\x00\x00\x00"), message('S', ""),
	}, nil)
}

// copyOptions are ways to write COPY data, in both syntaxes.
var copyOptions = []string{
	"", "(FORMAT text)", "(HEADER)", "(DELIMITER '|', NULL 'nil')", "(DELIMITER '[')", "(NULL '[redacted]')", "(NULL '')", "WITH DELIMITER AS ';' NULL AS ''", `(NULL 'a\')`,
	"(FORMAT csv)", "(FORMAT csv, HEADER)", "(FORMAT csv, HEADER false)", "(FORMAT csv, FORCE_QUOTE *)", "(FORMAT csv, FORCE_QUOTE (name, note))", "CSV HEADER FORCE QUOTE name",
	"(FORMAT csv, DELIMITER '|', QUOTE '''', ESCAPE '!', NULL 'nil')", "(FORMAT csv, QUOTE 'r')", "(FORMAT csv, DELIMITER 'e')", "(FORMAT csv, NULL '[redacted]')",
	`(FORMAT csv, ESCAPE '\')`, "WITH CSV QUOTE AS '$' NULL AS '-'", "(FORMAT csv, ENCODING 'UTF8')", "(FORMAT binary)", "BINARY",
}

// masksAsTheServerWrites: what the agent gets is, byte for byte, what the server itself would send if the masks were what is stored.
func masksAsTheServerWrites(t *testing.T, w *world) {
	w.postgres.SQL("orders", `SET ROLE app;
		CREATE DOMAIN post AS varchar(40);
		CREATE TABLE secret (id int, name text, code varchar(12), mail post, born date, tags text[], doc jsonb, note text);
		INSERT INTO secret VALUES (1, 'Ada', 'a1', 'ada@example.com', '1815-12-10', '{a,b}', '{"k": 1}', 'plain'), (2, NULL, NULL, NULL, NULL, NULL, NULL, NULL),
			(3, E'tab\tnew\nline\\ "q" ''x'' , ; | r [ e', '', '[redacted]', 'infinity', '{}', 'null', E'tab\tnew\nline\\ "q" ''x'' , ; | r [ e $'), (4, '\.', 'nil', '\N', '-infinity', '{NULL,"a\"b"}', '[]', '\.'),
			(5, '[redacted]', ' ', '-', '2000-01-01', '{x}', '"x"', ''), (6, 'nil', 'nil', 'nil', NULL, NULL, NULL, 'nil'), (7, 'x', 'x', 'x', NULL, NULL, NULL, ' é a\ ');
		CREATE TABLE shadow (LIKE secret);
		INSERT INTO shadow SELECT id, '[redacted]', '[redacted]', NULL, NULL, NULL, NULL, note FROM secret;`)
	defer w.postgres.SQL("orders", "DROP TABLE secret, shadow; DROP DOMAIN post")
	r := w.start(t, options{policy: `package rules.orders

allow contains {"id": "all"} if input.postgres.access != "unknown"

redact contains {"column": concat(".", ["public.secret", c])} if some c in ["name", "code", "born", "tags", "doc"]

redact contains {"column": "public.secret.mail", "with": "null"}
`})
	agent, server := r.raw(), w.directly(t)
	hold := func(statement string, messages func(sql string) []byte) {
		t.Helper()
		sql := strings.ReplaceAll(statement, "TABLE", "secret")
		got := agent.answer("DdHcCE", messages(sql))
		want := server.answer("DdHcCE", messages(strings.ReplaceAll(statement, "TABLE", "shadow")))
		if got != want || strings.Contains(got, "\nE") {
			t.Errorf("%s\ngives\n%s\nand the server would give\n%s", sql, got, want)
		}
	}
	simple := func(sql string) []byte { return message('Q', sql+"\x00") }
	text := func(sql string) []byte { return extended(sql, 0) }
	inBinary := func(sql string) []byte { return extended(sql, 1) }
	for _, send := range []func(string) []byte{simple, text, inBinary} {
		hold("SELECT * FROM TABLE ORDER BY id", send)
		hold("SELECT note, mail, name FROM TABLE WHERE id > 1 ORDER BY id DESC LIMIT 4", send)
		hold("SELECT name, born FROM TABLE WHERE false", send)
	}
	for _, o := range copyOptions {
		if o == "BINARY" {
			hold("COPY BINARY TABLE TO STDOUT", simple)
			continue
		}
		for _, send := range []func(string) []byte{simple, text, inBinary} {
			hold("COPY TABLE TO STDOUT "+o, send)
		}
		if !strings.Contains(o, "note") {
			hold("COPY (SELECT name, id, mail FROM TABLE ORDER BY id) TO STDOUT "+o, simple)
			hold("COPY (SELECT name, id FROM TABLE WHERE false) TO STDOUT "+o, simple)
		}
		hold("COPY TABLE (note, name, doc) TO STDOUT "+o, simple)
	}
	for o, code := range map[string]string{"(FORMAT csv, ENCODING 'LATIN1')": "42501", "(FORMAT csv, DELIMITER 'ab')": "42501", "(FORMAT nothing)": "42501"} {
		agent.send(simple("COPY secret TO STDOUT " + o))
		if got := agent.until('Z'); got != "E("+code+")Z(I)" {
			t.Errorf("COPY %s: %s", o, got)
		}
	}
	agent.send(simple("BEGIN"), simple("DECLARE c CURSOR FOR SELECT name, id FROM secret ORDER BY id"), simple("DECLARE b BINARY CURSOR FOR SELECT name, born FROM secret"))
	server.send(simple("BEGIN"), simple("DECLARE c CURSOR FOR SELECT name, id FROM shadow ORDER BY id"), simple("DECLARE b BINARY CURSOR FOR SELECT name, born FROM shadow"))
	for range 3 {
		agent.until('Z')
		server.until('Z')
	}
	for _, fetch := range []string{"FETCH 2 FROM c", "FETCH BACKWARD 1 FROM c", "FETCH ALL FROM c", "FETCH 1 FROM b"} {
		hold(fetch, simple)
	}
	hold("FETCH 2 FROM b", inBinary)
	hold("ROLLBACK", simple)
	hold("UPDATE TABLE SET note = 'x' WHERE id = 1 RETURNING *", text)
}

// tokens: equal texts have equal tokens, in every format, and the same from JSON.
func tokens(t *testing.T, w *world) {
	w.postgres.SQL("orders", `SET ROLE app; CREATE TABLE named (id int, name text, born date);
		INSERT INTO named VALUES (1, 'Ada', '1815-12-10'), (2, 'Ada', NULL), (3, NULL, NULL), (4, 'Bob', NULL);`)
	defer w.postgres.SQL("orders", "DROP TABLE named")
	r := w.start(t, options{policy: `package rules.orders

allow contains {"id": "all"}

redact contains {"column": "public.named.name", "with": "token"}

redact contains {"column": "public.named.born", "with": "token"}
`})
	c := r.connect("")
	for _, format := range []int16{0, 1} {
		rows, err := c.Query(t.Context(), "SELECT name, born FROM named ORDER BY id", pgx.QueryResultFormats{format})
		if err != nil {
			t.Fatal(err)
		}
		var list []string
		for rows.Next() {
			if v := rows.RawValues(); v[1] != nil {
				t.Errorf("a date is %q", v[1])
			} else {
				list = append(list, string(v[0]))
			}
		}
		if rows.Err() != nil || len(list) != 4 || list[0] != list[1] || list[1] == list[2] || list[2] == list[3] || list[0] == list[3] {
			t.Fatalf("%q, %v", list, rows.Err())
		}
		for _, token := range list {
			if len(token) != len("tok_")+32 || !strings.HasPrefix(token, "tok_") {
				t.Errorf("a token is %q", token)
			}
		}
		plan, err := r.target.Plans.Plan([]gate.Redaction{{Path: "$.name", With: gate.Token}}, nil)
		if err != nil {
			t.Fatal(err)
		}
		stream, err := plan.Stream("application/json", redact.Options{})
		if err != nil {
			t.Fatal(err)
		}
		if out, err := stream.Write([]byte(`{"name": "Ada"}`)); err != nil || string(out) != `{"name":"`+list[0]+`"}` {
			t.Errorf("in JSON it is %s, %v, and in a row %s", out, err, list[0])
		}
	}
}

// detectors: what detectors find leaves in no format; what stands in its place is what the server would write.
func detectors(t *testing.T, w *world) {
	w.postgres.SQL("orders", `SET ROLE app; CREATE DOMAIN address AS text; CREATE TYPE two AS (a int, b text); CREATE TYPE word AS ENUM ('ada@example.com', 'none');
		CREATE TYPE spans AS RANGE (subtype = text);`)
	defer w.postgres.SQL("orders", "DROP DOMAIN address; DROP TYPE two, word, spans")
	r := w.start(t, options{policy: `package rules.orders

allow contains {"id": "all"} if input.postgres.access != "unknown"

redact contains {"detect": d} if some d in ["email", "card"]
`})
	agent, server := r.connect(""), w.direct(t)
	for _, c := range []struct{ is, want string }{
		{"'write to ada@example.com now'::text", "'write to [redacted] now'::text"},
		{"'ada@example.com'::varchar(20)", "'[redacted]'::varchar(20)"},
		{"'ada@example.com'::name", "'[redacted]'::name"},
		{"'ada@example.com'::address", "'[redacted]'::address"},
		{"'nothing'::text", "'nothing'::text"},
		{"NULL::text", "NULL::text"},
		{"''::text", "''::text"},
		{`'{"m": "ada@example.com", "n": 4111111111111111, "\u0061da@example.com": 1}'::json`, `'{"m":"[redacted]","n":"[redacted]","[redacted]":1}'::json`},
		{`'{"m":  "none"}'::json`, `'{"m":  "none"}'::json`},
		{`'{"a": 1, "a": 2}'::json`, "NULL::json"},
		{`'"ada@example.com"'::jsonb`, `'"[redacted]"'::jsonb`},
		{`'{"m":"none"}'::jsonb`, `'{"m":"none"}'::jsonb`},
		{"'<a>ada&#64;example.com</a>'::xml", "'<a>[redacted]</a>'::xml"},
		{"ARRAY['ada@example.com', 'x,\"y\"', NULL, 'NULL', 'to \"ada@example.com\"']", "ARRAY['[redacted]', 'x,\"y\"', NULL, 'NULL', 'to \"[redacted]\"']"},
		{"ARRAY[['ada@example.com', 'x'], ['y', 'z']]", "ARRAY[['[redacted]', 'x'], ['y', 'z']]"},
		{"'[2:3]={a,ada@example.com}'::text[]", "'[2:3]={a,[redacted]}'::text[]"},
		{"ARRAY['ada@example.com', 'x']::address[]", "ARRAY['[redacted]', 'x']::address[]"},
		{"ARRAY[4111111111111111, 5]", "ARRAY[NULL, 5]::bigint[]"},
		{"ARRAY['{\"m\":\"ada@example.com\"}', '1']::jsonb[]", "ARRAY['{\"m\":\"[redacted]\"}', '1']::json[]"},
		{"ARRAY['a', 'b']", "ARRAY['a', 'b']"},
		{"'{}'::text[]", "'{}'::text[]"},
		{"4111111111111111::bigint", "NULL::bigint"},
		{"4111111111111112::bigint", "4111111111111112::bigint"},
		{"4111111111111111::numeric", "NULL::numeric"},
		{"4111111111111111.00::numeric", "NULL::numeric"},
		{"4111111111111111::float8", "NULL::float8"},
		{"'NaN'::float8", "'NaN'::float8"},
		{"17::int", "17::int"},
		{"convert_to('ada@example.com', 'UTF8')", "NULL::bytea"},
		{"'\\x00ff'::bytea", "'\\x00ff'::bytea"},
		{"ROW(1, 'ada@example.com')", "NULL::record"},
		{"ROW(1, 'x \"y\", (z)', NULL)", "ROW(1, 'x \"y\", (z)', NULL)"},
		{"ROW(4111111111111111, 'ada@example.com')", "NULL::record"},
		{"ROW(1, ARRAY['ada@example.com'])", "NULL::record"},
		{"ARRAY[ROW(1, 'ada@example.com'), ROW(2, 'x')]::two[]", "ARRAY[NULL, ROW(2, 'x')]::two[]"},
		{"ROW(1, 'ada@example.com')::two", "NULL::two"},
		{"'ada@example.com'::word", "NULL::word"},
		{"'none'::word", "'none'::word"},
		{"'[ada@example.com,b)'::spans", "NULL::spans"},
		{"'[a,b)'::spans", "'[a,b)'::spans"},
		{"'empty'::spans", "'empty'::spans"},
		{"'[1,5)'::int4range", "'[1,5)'::int4range"},
		{"true", "true"},
		{"'2026-01-31'::date", "'2026-01-31'::date"},
		{"'41111111-1111-1111-4111-111111111111'::uuid", "'41111111-1111-1111-4111-111111111111'::uuid"},
	} {
		for _, format := range []int16{0, 1} {
			got, want := one(t, agent, c.is, format), one(t, server, c.want, format)
			if format == 1 && strings.HasSuffix(c.is, "::jsonb[]") {
				continue // its elements' type is in it
			}
			if got != strings.ReplaceAll(want, "jsonb: ", "") {
				t.Errorf("%s in format %d is %s, and should be %s", c.is, format, got, want)
			}
		}
		for _, o := range []string{"", "(FORMAT csv)", "(FORMAT csv, FORCE_QUOTE *)", "(FORMAT binary)"} {
			if o == "(FORMAT binary)" && strings.HasSuffix(c.is, "::jsonb[]") {
				continue
			}
			var got, want bytes.Buffer
			if _, err := agent.PgConn().CopyTo(t.Context(), &got, "COPY (SELECT "+c.is+" AS v, 1) TO STDOUT "+o); err != nil {
				t.Fatal(err)
			}
			if _, err := server.PgConn().CopyTo(t.Context(), &want, "COPY (SELECT "+c.want+" AS v, 1) TO STDOUT "+o); err != nil {
				t.Fatal(err)
			}
			if got.String() != want.String() {
				t.Errorf("COPY of %s %s is %q, and should be %q", c.is, o, got.String(), want.String())
			}
		}
	}
	if got := one(t, agent, "'ada@example.com'::tsvector", 1); got != "NULL" {
		t.Errorf("a tsvector in binary is %s", got)
	}
	if got := one(t, agent, "'fat cat'::tsvector", 0); got != `"'cat' 'fat'"` {
		t.Errorf("a tsvector in text is %s", got)
	}
	for _, sql := range []string{"SHOW application_name", "EXPLAIN SELECT 'ada@example.com'", "SELECT query FROM pg_stat_activity WHERE query LIKE '%''ada@example.com'''"} {
		if _, err := agent.Exec(t.Context(), "SET application_name = 'ada@example.com'"); err != nil {
			t.Fatal(err)
		}
		rows, err := agent.Query(t.Context(), sql)
		if err != nil {
			t.Fatal(err)
		}
		for rows.Next() {
			if s := fmt.Sprintf("%s", rows.RawValues()); strings.Contains(s, "ada@example.com") {
				t.Errorf("%s gives %s", sql, s)
			}
		}
		if rows.Err() != nil {
			t.Errorf("%s: %v", sql, rows.Err())
		}
	}
	_, err := agent.Exec(t.Context(), "SELECT 'ada@example.com'::int")
	if err == nil || strings.Contains(err.Error(), "ada@") || !strings.Contains(err.Error(), `invalid input syntax for type integer: "[redacted]"`) {
		t.Errorf("an error says %v", err)
	}
	var found map[string]any
	for _, f := range r.await(5, "operation.finished") {
		if list, ok := f["redacted"].(map[string]any); ok && len(list) > 0 && found == nil {
			found = list
		}
	}
	if fmt.Sprint(found) != "map[email:1]" {
		t.Errorf("the record says %v", found)
	}
}

// one is a value as the server sends it.
func one(t *testing.T, c *pgx.Conn, expression string, format int16) string {
	t.Helper()
	rows, err := c.Query(t.Context(), "SELECT "+expression, pgx.QueryResultFormats{format})
	if err != nil {
		t.Fatal(err)
	}
	defer rows.Close()
	value := "none"
	for rows.Next() {
		if value = "NULL"; rows.RawValues()[0] != nil {
			value = fmt.Sprintf("%q", rows.RawValues()[0])
		}
	}
	if rows.Err() != nil {
		t.Fatalf("%s: %v", expression, rows.Err())
	}
	return value
}
