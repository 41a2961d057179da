package session_test

import (
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/countersign/countersign/extproc/extproctest/corpus"
)

// varies are what differs between two databases whatever is masked: OIDs, times, places of rows, what other sessions do.
var varies = regexp.MustCompile(`(?i)now\(|current_|localtime|random|sleep|oid|pid|txid|age\(|zone|clock|regclass|relid|xmin|ctid|pg_|nextval|numbers|information_schema|one\.|interval|analyze|'yesterday`)

// reads are how statements begin that can run in a transaction that is rolled back.
var reads = regexp.MustCompile(`(?i)^\(*(SELECT|WITH|VALUES|TABLE|INSERT|UPDATE|DELETE|MERGE|EXPLAIN|COPY [^;]* TO STDOUT)\b`)

// asked are the statements of the cases of package statement, and random queries.
func asked(t *testing.T) []string {
	t.Helper()
	var list []string
	for _, name := range []string{"lineage", "mask", "attack", "access"} {
		text, err := os.ReadFile(filepath.Join("..", "statement", "testdata", name+".cases"))
		if err != nil {
			t.Fatal(err)
		}
		for block := range strings.SplitSeq(string(text), "\n\n") {
			var sql []string
			for line := range strings.SplitSeq(block, "\n") {
				if !strings.HasPrefix(line, "# ") && !strings.HasPrefix(line, "= ") && !strings.HasPrefix(line, "! ") {
					sql = append(sql, line)
				}
			}
			if one := strings.Join(sql, "\n"); reads.MatchString(one) && !varies.MatchString(one) && !strings.Contains(one, "$1") {
				list = append(list, one)
			}
		}
	}
	for seed := range 80 {
		list = append(list, corpus.New(uint64(10_000+seed)).Query())
	}
	return list
}

// ways are how a query may be asked.
var ways = []func(sql string) []byte{
	func(sql string) []byte { return extended(sql, 1) },
	func(sql string) []byte { return message('Q', "COPY ("+sql+") TO STDOUT (FORMAT csv, HEADER)\x00") },
	func(sql string) []byte { return extended(sql, 0) },
	func(sql string) []byte { return message('Q', "COPY ("+sql+") TO STDOUT (FORMAT binary)\x00") },
	func(sql string) []byte {
		return message('Q', "DECLARE a_cursor CURSOR FOR "+sql+"; FETCH ALL FROM a_cursor\x00")
	},
}

// interference: two databases that differ in masked values only give the agent the same bytes, whatever it asks and in whatever format, and leave
// the same records.
func interference(t *testing.T, w *world) {
	text, err := os.ReadFile(filepath.Join("..", "statement", "testdata", "schema.sql"))
	if err != nil {
		t.Fatal(err)
	}
	script := strings.ReplaceAll(strings.Replace(string(text), "CREATE ROLE agent;", "", 1), "TO agent", "TO app")
	head, rest, _ := strings.Cut(script, "\nCREATE TABLE orders")
	for name, values := range map[string][]string{
		"mask_one": {"'ada@example.com'", "'bob@example.com'", "NULL", "1", "2", "NULL"},
		"mask_two": {"'somebody.much.longer@else.example.org'", "NULL", "'aaa@aaa.aa'", "999999", "98", "1"},
	} {
		var pairs []string
		for i, v := range values {
			pairs = append(pairs, fmt.Sprintf("$%d,", i+1), v+",", fmt.Sprintf("$%d)", i+1), v+")")
		}
		w.postgres.SQL("postgres", "CREATE DATABASE "+name)
		w.postgres.SQL(name, strings.NewReplacer(pairs...).Replace(head)+"\nCREATE TABLE orders"+rest)
	}
	r := w.start(t, options{plain: true, policy: `package rules.orders

allow contains {"id": "all"} if input.postgres.access != "unknown"

redact contains {"column": "public.customers.email"}

redact contains {"column": "public.customers.ssn"}
`})
	list := asked(t)
	var answers [2][]string
	for i, database := range []string{"mask_one", "mask_two"} {
		c := r.session(database)
		for j, sql := range list {
			c.answer("", message('Q', "BEGIN\x00"))
			answers[i] = append(answers[i], c.all(message('Q', sql+"\x00")))
			c.answer("", message('Q', "ROLLBACK\x00"))
			if strings.HasPrefix(sql, "COPY") {
				continue
			}
			c.answer("", message('Q', "BEGIN\x00"))
			answers[i] = append(answers[i], c.all(ways[j%len(ways)](sql)))
			c.answer("", message('Q', "ROLLBACK\x00"))
		}
		_ = c.Close()
	}
	told := 0
	for i := range answers[0] {
		if answers[0][i] != answers[1][i] {
			t.Errorf("what differs in masked values only is answered\n%s\nand\n%s", answers[0][i], answers[1][i])
		}
		if strings.Contains(answers[0][i], "[redacted]") {
			told++
		}
	}
	if told < len(list)/10 {
		t.Errorf("of %d statements %d have a mask in their answers", len(list), told)
	}
	sameRecords(t, r, len(list))
	w.postgres.SQL("postgres", "DROP DATABASE mask_one WITH (FORCE)")
	w.postgres.SQL("postgres", "DROP DATABASE mask_two WITH (FORCE)")
}

// sameRecords holds that what is on record of two sessions that were asked the same is the same, but for names and times.
func sameRecords(t *testing.T, r *rig, least int) {
	t.Helper()
	list := r.await(6*least, "operation.finished")
	if len(list)%2 != 0 {
		t.Fatalf("%d operations ended", len(list))
	}
	for i := range len(list) / 2 {
		a, b := list[i], list[i+len(list)/2]
		for _, member := range []string{"postgres", "redacted", "body_sha256", "bytes_out", "result", "problem"} {
			if diff := cmp.Diff(a[member], b[member]); diff != "" {
				t.Errorf("what is on record of two operations differs: %s\n%s\n%v", member, diff, a)
			}
		}
	}
}

// session logs in to a database, in the clear.
func (r *rig) session(database string) *raw {
	r.t.Helper()
	c := &raw{t: r.t, Conn: r.dial()}
	c.send(startup(3<<16, "user", "app", "database", database))
	c.next()
	c.answer("", message('p', r.token(nil)+"\x00"))
	return c
}

// all is the answer with every message of it, but for OIDs and names that are of the database.
func (c *raw) all(b []byte) string {
	c.t.Helper()
	c.send(b)
	var seen strings.Builder
	for {
		kind, body := c.next()
		switch kind {
		case 0:
			c.t.Fatalf("the connection ended: %s", body)
		case 'T':
			hideOIDs(body)
		}
		fmt.Fprintf(&seen, "%c %s\n", kind, requests.ReplaceAllString(fmt.Sprintf("%q", body), "request"))
		if kind == 'Z' {
			return fmt.Sprintf("%q\n%s", b, seen.String())
		}
	}
}

func hideOIDs(body []byte) {
	for body = body[2:]; len(body) > 0; body = body[18:] {
		for body[0] != 0 {
			body = body[1:]
		}
		body = body[1:]
		copy(body[:4], "same")
		if binary.BigEndian.Uint32(body[6:]) >= 16384 {
			copy(body[6:], "type")
		}
	}
}
