package postgres_test

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/tools/txtar"

	"github.com/countersign/countersign/extproc/extproctest"
	"github.com/countersign/countersign/extproc/extproctest/story"
)

// attributes are those of a statement's span that the semantic conventions name, and some of ours.
var attributes = []string{
	"db.system.name", "db.namespace", "db.operation.name", "db.collection.name", "db.query.summary", "db.query.text", "server.address",
	"db.response.status_code", "db.response.returned_rows", "error.type", "countersign.postgres.access", "countersign.limit",
}

// TestSpansOfStatements has statements come to a real collector: their spans have what the conventions for databases say, and no literal of
// any is in a span, a log record, a record of the journal, or what the gateway logs.
func TestSpansOfStatements(t *testing.T) {
	w := newWorld(t)
	collector := extproctest.StartCollector(t, extproctest.CollectorOptions{})
	g := story.Start(t, txtar.Parse([]byte(fmt.Sprintf("-- config.yaml --\nevidence: {checkpoint: 1s, otlp: {endpoint: %q, insecure: true}}\n-- policy.rego --\n%s", collector.Endpoint(), `package rules.payments

allow contains {"id": "most"} if not input.postgres.access in {"schema", "unknown"}

limit contains {"rows": 2} if contains(input.postgres.text, "limited")
`))), story.Options{Kind: w.kind()})
	token, err := g.Issuer.AgentToken(t.Context(), "agent-1")
	if err != nil {
		t.Fatal(err)
	}
	var args []string
	for _, text := range slices.Concat([]string{
		"SELECT name FROM customers WHERE id = 1", "SELECT 1/0", "SELECT id FROM customers /* limited */",
		"SELECT c.id FROM customers c, pg_class p WHERE c.id > 9",
	}, hostile) {
		args = append(args, "--command", text)
	}
	out, _ := w.psql(t.Context(), token, args...).CombinedOutput() // most are refused
	decided := 0
	last := g.AwaitRecord("the last of them", func(r story.Record) bool {
		return r.Type == "operation.finished" && r.Op != "" && strings.Contains(fmt.Sprint(r.Body["postgres"]), "tag:LISTEN")
	})
	ctx, end := context.WithTimeout(t.Context(), 60*time.Second)
	defer end()
	collector.WaitFor(ctx, "all of it", func(spans []extproctest.Span, _ []extproctest.LogRecord) bool {
		return slices.ContainsFunc(spans, func(s extproctest.Span) bool { return s.Attributes["countersign.op"] == last.Op })
	})
	var lines []string
	for _, s := range collector.Spans() {
		if s.Attributes["db.system.name"] == nil || len(lines) == 4 {
			continue
		}
		line := []string{s.Name}
		for _, name := range attributes {
			if v, ok := s.Attributes[name]; ok {
				line = append(line, fmt.Sprintf("%s=%v", name, v))
			}
		}
		if port, _ := s.Attributes["server.port"].(int64); !strings.HasSuffix(w.postgres.Address, fmt.Sprint(":", port)) {
			t.Errorf("server.port is %v", s.Attributes["server.port"])
		}
		lines = append(lines, strings.Join(line, " "))
	}
	golden(t, "spans.txt", strings.Join(lines, "\n")+"\n")
	namesAreKnown(t, collector)

	nowhere := func(where, text string) {
		t.Helper()
		for _, found := range secret.FindAllString(text, -1) {
			t.Errorf("%s has the literal %s", where, found)
		}
	}
	for _, r := range g.Records() {
		text, err := json.Marshal(r.Body)
		if err != nil {
			t.Fatal(err)
		}
		nowhere(fmt.Sprintf("record %d, %s,", r.Seq, r.Type), string(text))
		if r.Type == "operation.decided" {
			decided++
		}
	}
	if decided < len(hostile) {
		t.Errorf("%d decisions are on record:\n%s", decided, out)
	}
	for _, s := range collector.Spans() {
		nowhere("a span", fmt.Sprint(s))
	}
	for _, l := range collector.Logs() {
		nowhere("a log record", fmt.Sprint(l))
	}
	nowhere("the gateway's log", g.Process.Log())
}

// namesAreKnown holds the names of attributes to the list that all kinds share.
func namesAreKnown(t *testing.T, collector *extproctest.CollectorProcess) {
	t.Helper()
	root, err := extproctest.Root()
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(root, "cmd", "countersign", "testdata", "attributes.txt")
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	known := strings.Fields(string(text))
	all := slices.Clone(known)
	note := func(attributes map[string]any) {
		for name := range attributes {
			if !slices.Contains(all, name) {
				all = append(all, name)
			}
		}
	}
	for _, s := range collector.Spans() {
		note(s.Attributes)
	}
	for _, l := range collector.Logs() {
		note(l.Attributes)
	}
	if more := all[len(known):]; len(more) > 0 && !*update {
		t.Errorf("%q are not in %s", more, file)
	}
	if *update {
		slices.Sort(all)
		if err := os.WriteFile(file, []byte(strings.Join(all, "\n")+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

// secret is in each of the hostile statements, and nowhere else. In digits it is 4111222233334444, and in hexadecimal 733363723374.
var secret = regexp.MustCompile(`(?i)\S*(s3cr3t|4111222233334444|733363723374)\S*`)

// hostile are statements with literals, in every way in which there are some, and some that nobody can read.
var hostile = []string{
	`CREATE ROLE nobody LOGIN PASSWORD 's3cr3t-role'`,
	`ALTER USER app PASSWORD 's3cr3t-user' VALID UNTIL 's3cr3t-until'`,
	`CREATE USER x WITH ENCRYPTED PASSWORD 's3cr3t-md5`,
	`SELECT name FROM customers WHERE name = 's3cr3t-where'`,
	`SELECT name FROM customers WHERE name = E's3cr3t\'-escape'`,
	`SELECT name FROM customers WHERE name = U&'\0073s3cr3t-unicode'`,
	`SELECT name FROM customers WHERE name = N's3cr3t-national'`,
	"SELECT 's3cr3t-first'\n  's3cr3t-second'",
	`SELECT $tag$s3cr3t-dollar$tag$, $$s3cr3t-dollars$$`,
	`SELECT 4111222233334444, 4111222233334444.5, 0.4111222233334444e3, x'733363723374', b'1'`,
	`SELECT /* s3cr3t-comment /* s3cr3t-nested */ */ 1 -- s3cr3t-end`,
	`SELECT interval 's3cr3t-interval', 's3cr3t-class'::regclass`,
	`SELECT FROM WHERE 's3cr3t-syntax' 'x'`,
	`SELEKT 's3cr3t-word'`,
	`'s3cr3t-alone'`,
	`SELECT 's3cr3t-open`,
	`SELECT $a$s3cr3t-open`,
	`SELECT 1 /* s3cr3t-open`,
	`SELECT 4111222233334444x`,
	`DO $$BEGIN RAISE NOTICE 's3cr3t-do'; END$$`,
	`CREATE FUNCTION f() RETURNS text LANGUAGE sql AS 'SELECT ''s3cr3t-body'''`,
	`INSERT INTO customers VALUES (7, 's3cr3t-insert', 's3cr3t-iban')`,
	`COPY customers FROM PROGRAM 's3cr3t-program'`,
	`COPY customers FROM 's3cr3t-file'`,
	`SET application_name = 's3cr3t-set'`,
	`SET LOCAL work_mem TO 's3cr3t-mem'`,
	`PREPARE p AS SELECT 's3cr3t-prepared'; EXECUTE p`,
	`EXECUTE nothing('s3cr3t-execute')`,
	`NOTIFY c, 's3cr3t-notify'`,
	`CREATE SUBSCRIPTION s CONNECTION 'password=s3cr3t-dsn' PUBLICATION p`,
	`CREATE SERVER s FOREIGN DATA WRAPPER w OPTIONS (password 's3cr3t-option')`,
	`COMMENT ON TABLE customers IS 's3cr3t-comment-on'`,
	`SELECT convert_from(decode('s3cr3t-base', 'base64'), 's3cr3t-encoding')`,
	`SELECT * FROM json_to_record('{"a": "s3cr3t-json"}') AS x(a text)`,
	`SELECT CAST('s3cr3t-cast' AS int)`,
	`SET standard_conforming_strings = off`,
	`SELECT 'x\' s3cr3t_escaped \''`,
	`LISTEN done`,
}

// golden holds text against a file.
func golden(t *testing.T, name, text string) {
	t.Helper()
	file := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if text != string(want) {
		t.Errorf("%s should be\n%s\nand is\n%s", name, want, text)
	}
}
