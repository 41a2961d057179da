package session_test

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"regexp"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/countersign/countersign/extproc/extproctest"
	"github.com/countersign/countersign/extproc/kind/postgres/session"
	"github.com/countersign/countersign/extproc/lane"
)

// valuesAreTheServersOwn: a parameter in binary is shown to policy as the server itself writes it.
func valuesAreTheServersOwn(t *testing.T, w *world) {
	c, err := pgx.Connect(t.Context(), "host=127.0.0.1 port="+fmt.Sprint(w.postgres.Port)+" user=app password='correct horse' dbname=orders sslmode=disable")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close(context.Background())
	if _, err := c.Exec(t.Context(), "SET TimeZone = 'UTC'"); err != nil {
		t.Fatal(err)
	}
	read := 0
	for _, x := range []string{
		"true::bool", "false::bool", "7::int2", "-7::int4", "9007199254740993::int8", "1.5::float4", "0.1::float8", "'NaN'::float8", "'Infinity'::float8", "1e300::float8",
		"12345678901234567890.0123456789::numeric", "0.00::numeric", "-5::numeric", "1e20::numeric", "'NaN'::numeric",
		"'a''b'::text", "''::text", "'x'::varchar", "'2026-01-31'::date", "'infinity'::date", "'0044-03-15 BC'::date", "'10:11:12.5'::time",
		"'2026-01-31 10:11:12.123456'::timestamp", "'2026-01-31 10:11:12+00'::timestamptz", "'infinity'::timestamptz", "'1 year 2 mons 3 days 04:05:06'::interval",
		"'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11'::uuid", "'\\xdeadbeef'::bytea", "'{\"a\": 1}'::json", "'{\"a\": 1}'::jsonb", "26::oid", "'192.0.2.1/24'::inet",
		"'{1,2,NULL}'::int4[]", "'{a,\"b c\",NULL,\"NULL\"}'::text[]", "'{}'::int4[]",
	} {
		var oid uint32
		var raw, text string
		rows, err := c.Query(t.Context(), "SELECT "+x+", "+x, pgx.QueryResultFormats{1, 0})
		if err != nil {
			t.Fatal(err)
		}
		if rows.Next() {
			oid, raw, text = rows.FieldDescriptions()[0].DataTypeOID, string(rows.RawValues()[0]), string(rows.RawValues()[1])
		}
		rows.Close()
		if rows.Err() != nil {
			t.Fatalf("%s: %v", x, rows.Err())
		}
		got, ok := session.ParameterText(oid, []byte(raw))
		if ok && got != text {
			t.Errorf("%s is shown as %q, and the server writes %q", x, got, text)
		}
		if ok {
			read++
		} else {
			t.Logf("%s is not read", x)
		}
		if _, ok := session.ParameterText(oid, []byte(raw+"\x00")); ok && !strings.Contains(x, "text") && !strings.Contains(x, "varchar") && !strings.Contains(x, "bytea") && !strings.Contains(x, "json") {
			t.Errorf("%s with a byte more is read", x)
		}
	}
	for name, texts := range map[string][]string{
		"int2": {"7", " 7", "+7", "-007", "32767"}, "int4": {"999", "0999", "\t+999\n", "-0", "--9", "9x", ""}, "int8": {"9007199254740993", "-00"},
		"oid": {"26", " 026 ", "-1"}, "bool": {"true", "T", " yes ", "of", "o", "on", "1", "0", "FALSE", "tru", "n", "maybe"},
		"uuid": {"A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11", "{a0eebc999c0b4ef8bb6d6bb9bd380a11}", "a0ee-bc99-9c0b-4ef8-bb6d-6bb9-bd38-0a11", "nope"},
		"text": {" 7 ", "+7"},
	} {
		for _, text := range texts {
			r := c.PgConn().ExecParams(t.Context(), "SELECT $1::"+name+"::text, '"+name+"'::regtype::oid::int8", [][]byte{[]byte(text)}, nil, nil, nil).Read()
			if r.Err != nil {
				continue // the server refuses it
			}
			want := string(r.Rows[0][0])
			if name == "bool" {
				want = want[:1] // as in an answer
			}
			oid, err := strconv.ParseUint(string(r.Rows[0][1]), 10, 32)
			if err != nil {
				t.Fatal(err)
			}
			if got := session.CanonicalText(uint32(oid), text); got != want {
				t.Errorf("%q as %s is shown as %q, and the server writes %q", text, name, got, want)
			}
		}
	}
	if read < 34 {
		t.Errorf("%d are read", read)
	}
}

// newerProtocols: what a newer client asks for is negotiated, and its longer key cancels.
func newerProtocols(t *testing.T, w *world) {
	r := w.start(t, options{plain: true})
	c := &raw{t: t, Conn: r.dial()}
	c.send(startup(3<<16|9, "user", "app", "database", "orders", "_pq_.grease", "1"))
	kind, body := c.next()
	if kind != 'v' || binary.BigEndian.Uint32(body) != 3<<16|2 || !strings.Contains(string(body), "_pq_.grease") {
		t.Errorf("%q %q", kind, body)
	}
	c.next()
	c.send(message('p', r.token(nil)+"\x00"))
	var key []byte
	for kind != 'Z' && kind != 0 {
		if kind, body = c.next(); kind == 'K' {
			key = body
		}
	}
	if len(key) != 4+32 {
		t.Fatalf("the key has %d bytes", len(key))
	}
	c.send(message('Q', "SELECT pg_sleep(30)\x00"))
	extproctest.Await(t, "the sleep", 10*time.Second, func(context.Context) error {
		if got := w.postgres.SQL("orders", "SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'SELECT pg_sleep(30%' AND state = 'active'"); got != "1" {
			return errors.New(got)
		}
		return nil
	})
	cancel := append(startup(80877102)[:8:8], key...)
	binary.BigEndian.PutUint32(cancel, uint32(len(cancel)))
	conn := r.dial()
	r.send(conn, cancel)
	_, _ = io.Copy(io.Discard, conn)
	if got := c.until('Z'); !strings.HasSuffix(got, "E(57014)Z(I)") {
		t.Errorf("%s", got)
	}
}

// reloads hold for the next statement; a session whose resource is another now ends.
func reloads(t *testing.T, w *world) {
	r := w.start(t, options{})
	c := r.raw()
	ask := func(want string) {
		t.Helper()
		c.send(message('Q', "SELECT id FROM items WHERE id = 1\x00"))
		if got := c.until('Z'); got != want {
			t.Errorf("%s, want %s", got, want)
		}
	}
	ask("TDCZ(I)")
	r.swap(func(st *lane.State) {
		g := *st.Gate
		g.Policy = r.policies("package rules.orders\n\nallow contains {\"id\": \"none\"} if input.postgres.text == \"\"\n")
		st.Gate = &g
	})
	ask("E(42501)Z(I)")
	r.swap(func(st *lane.State) { st.Gate = r.state.Gate })
	ask("TDCZ(I)")
	r.retarget(func(s *session.Target) { s.Databases = []string{"others"} })
	if got := c.until(0); got != "E(57P01)0" {
		t.Errorf("a session that could not begin now: %s", got)
	}
}

// preparing: a statement may be prepared where only its values decide, and where people would be asked; not where it is denied.
func preparing(t *testing.T, w *world) {
	r := w.start(t, options{policy: `package rules.orders

allow contains {"id": "one"} if {
	some p in input.postgres.parameters
	p.value == "1"
}

deny contains {"id": "no-name"} if {
	some t in input.postgres.reads
	"name" in t.columns
}

ask contains {"id": "writes", "approvers": ["oncall"]} if input.postgres.access == "write"
`})
	c := r.raw()
	for _, x := range []struct{ sent, want string }{
		{"SELECT id FROM items WHERE id = $1", "1Z(I)"},
		{"SELECT name FROM items WHERE id = $1", "E(42501)Z(I)"},
		{"UPDATE items SET id = $1", "1Z(I)"},
	} {
		c.send(message('P', "s\x00"+x.sent+"\x00\x00\x00"), message('S', ""))
		if got := c.until('Z'); got != x.want {
			t.Errorf("%s: %s, want %s", x.sent, got, x.want)
		}
		c.send(message('C', "Ss\x00"), message('S', ""))
		c.until('Z')
	}
	c.send(message('P', "s\x00SELECT id FROM items WHERE id = $1\x00\x00\x00"))
	for _, x := range []struct{ value, want string }{{"1", "12DCZ(I)"}, {"2", "E(42501)Z(I)"}, {"1", "2DCZ(I)"}} {
		c.send(message('B', "\x00s\x00\x00\x00\x00\x01\x00\x00\x00\x01"+x.value+"\x00\x00"), message('E', "\x00\x00\x00\x00\x00"), message('S', ""))
		if got := c.until('Z'); got != x.want {
			t.Errorf("with %s: %s, want %s", x.value, got, x.want)
		}
	}
	// A Parse that is still in the same pipeline as what is refused is undone with it, and the agent is not told that it was done.
	c.send(message('P', "lost\x00SELECT id FROM items WHERE id = $1\x00\x00\x01\x00\x00\x00\x17"))
	for _, x := range []struct{ value, want string }{{"2", "E(42501)Z(I)"}, {"1", "E(26000)Z(I)"}} {
		c.send(message('B', "\x00lost\x00\x00\x00\x00\x01\x00\x00\x00\x01"+x.value+"\x00\x00"), message('E', "\x00\x00\x00\x00\x00"), message('S', ""))
		if got := c.until('Z'); got != x.want {
			t.Errorf("lost, with %s: %s, want %s", x.value, got, x.want)
		}
	}
	// One whose types are not said is prepared before its values are read, and stays, as at the server; and it is judged as it is prepared.
	c.send(message('P', "kept\x00SELECT id FROM items WHERE id = $1\x00\x00\x00"))
	for _, x := range []struct{ value, want string }{{" +2", "12E(42501)Z(I)"}, {" 01", "2DCZ(I)"}} {
		c.send(message('B', "\x00kept\x00\x00\x00\x00\x01\x00\x00\x00\x03"+x.value+"\x00\x00"), message('E', "\x00\x00\x00\x00\x00"), message('S', ""))
		if got := c.until('Z'); got != x.want {
			t.Errorf("kept, with %s: %s, want %s", x.value, got, x.want)
		}
	}
	c.send(message('P', "\x00SELECT name FROM items WHERE id = $1\x00\x00\x00"), message('B', "\x00\x00\x00\x00\x00\x01\x00\x00\x00\x011\x00\x00"), message('E', "\x00\x00\x00\x00\x00"), message('S', ""))
	if got := c.until('Z'); got != "E(42501)Z(I)" {
		t.Errorf("what is not to be prepared, with a value without a type: %s", got)
	}
}

// slowReaders: an agent that does not read holds the server back, and not the answer in the gateway.
func slowReaders(t *testing.T, w *world) {
	r := w.start(t, options{})
	c := r.raw()
	c.send(message('Q', "SELECT repeat('x', 1) FROM generate_series(1, 1)\x00")) // the parser is there from here on
	c.until('Z')
	before := heap()
	c.send(message('Q', "SELECT repeat('x', 10000) FROM generate_series(1, 10000)\x00"))
	extproctest.Await(t, "the server to wait for the agent", 20*time.Second, func(context.Context) error {
		if got := w.postgres.SQL("orders", "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'ClientWrite' AND usename = 'app'"); got != "1" {
			return errors.New(got)
		}
		return nil
	})
	if grown := heap() - before; grown > 8<<20 {
		t.Errorf("the gateway holds %d bytes", grown)
	}
	if got := c.until('Z'); len(got) < 10000 || !strings.HasSuffix(got, "CZ(I)") {
		t.Errorf("%d messages came, the last %s", len(got), got[max(0, len(got)-20):])
	}
	finished := r.await(2, "operation.finished")[1]
	if own, _ := finished["postgres"].(map[string]any); own["rows"] != 10000.0 || own["bytes"].(float64) < 1e8 {
		t.Errorf("the record says %v", own)
	}
}

func heap() int64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapInuse)
}

// bothEndsGo: what is under way when one end goes is ended at the other.
func bothEndsGo(t *testing.T, w *world) {
	leaks(t)
	r := w.start(t, options{})
	sleeping := func(n string) {
		t.Helper()
		extproctest.Await(t, n+" to sleep", 10*time.Second, func(context.Context) error {
			if got := w.postgres.SQL("orders", "SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'SELECT pg_sleep(31%' AND state = 'active'"); got != n {
				return errors.New(got)
			}
			return nil
		})
	}
	gone, killed := r.raw(), r.raw()
	gone.send(message('Q', "SELECT pg_sleep(31)\x00"))
	sleeping("1")
	_ = gone.Close()
	sleeping("0")
	killed.send(message('Q', "SELECT pg_sleep(31)\x00"))
	sleeping("1")
	w.postgres.SQL("orders", "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE 'SELECT pg_sleep(31%'")
	if got := killed.until(0); !strings.Contains(got, "E(57P01)") {
		t.Errorf("a session that the server ended: %s", got)
	}
	var results []string
	for _, f := range r.await(2, "operation.finished") {
		results = append(results, fmt.Sprint(f["result"]))
	}
	if fmt.Sprint(results) != "[client_gone completed]" {
		t.Errorf("they ended %v", results)
	}
	r.await(2, session.RecordClosed)
}

// many sessions at once leave nothing behind.
func many(t *testing.T, w *world) {
	leaks(t)
	const n = 200
	r := w.start(t, options{edit: func(s *session.Target) { s.Limits.Sessions = n }})
	var ready, work sync.WaitGroup
	ready.Add(n)
	full := make(chan struct{})
	for range n {
		work.Go(func() {
			c, err := pgx.ConnectConfig(context.Background(), r.config("app", r.token(nil), ""))
			ready.Done()
			if err != nil {
				t.Errorf("%v", err)
				return
			}
			<-full
			var n int
			if err := c.QueryRow(context.Background(), "SELECT count(*) FROM items WHERE id <= $1", 5).Scan(&n); err != nil || n != 5 {
				t.Errorf("%d, %v", n, err)
			}
			_ = c.Close(context.Background())
		})
	}
	ready.Wait()
	if _, err := pgx.ConnectConfig(t.Context(), r.config("app", r.token(nil), "")); code(err) != "53300" {
		t.Errorf("one more: %v", err)
	}
	close(full)
	work.Wait()
	r.await(n, session.RecordClosed)
	r.stop()
}

// nothingStays waits until no descriptor is open that was not before, and the server has no session of an agent's.
func nothingStays(t *testing.T, w *world, before []string) {
	t.Helper()
	w.issuer.Stop() // whose connections are kept for the next time
	extproctest.Await(t, "everything to be given back", 20*time.Second, func(context.Context) error {
		if now := descriptors(t); len(now) > len(before)-1 { // the issuer's own
			return fmt.Errorf("open are %q, and were %q", now, before)
		}
		if n := w.postgres.SQL("postgres", "SELECT count(*) FROM pg_stat_activity WHERE usename <> 'postgres'"); n != "0" {
			return fmt.Errorf("the server has %s sessions", n)
		}
		return nil
	})
}

// descriptors are what is open.
func descriptors(t *testing.T) (open []string) {
	t.Helper()
	list, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	for _, one := range list {
		if to, err := os.Readlink("/proc/self/fd/" + one.Name()); err == nil { // not that by which they are listed
			open = append(open, to)
		}
	}
	return open
}

// masks: a masked value reaches the agent in no format and by no message, and two databases that differ in nothing else give it
// the same bytes.
func masks(t *testing.T, w *world) {
	w.postgres.SQL("orders", `SET ROLE app;
		CREATE TABLE people (id int PRIMARY KEY, name text, born date, code varchar(9) CHECK (code <> 'bad'), note text);
		INSERT INTO people VALUES (1, 'Ada', '1815-12-10', 'a1', 'n'), (2, NULL, NULL, NULL, 'n');`)
	r := w.start(t, options{policy: `package rules.orders

allow contains {"id": "all"} if input.postgres.access != "unknown"

redact contains {"column": "public.people.name"}

redact contains {"column": "public.people.born"}

redact contains {"column": "public.people.code", "with": "null"}
`})
	answers := func() string {
		c := r.raw()
		var seen strings.Builder
		take := func() {
			for kind := byte(1); kind != 'Z' && kind != 0; {
				var body []byte
				kind, body = c.next()
				fmt.Fprintf(&seen, "%c %q\n", max(kind, '0'), body)
			}
		}
		c.send(message('Q', "SELECT id, name, born, code, note FROM people ORDER BY id; SELECT name FROM people\x00"))
		take()
		for _, formats := range []string{"\x00\x00", "\x00\x01\x00\x01", "\x00\x03\x00\x01\x00\x00\x00\x01"} { // text, binary, mixed
			c.send(message('P', "\x00SELECT name, born, id FROM people WHERE id = $1\x00\x00\x00"),
				message('B', "\x00\x00\x00\x00\x00\x01\x00\x00\x00\x011"+formats), message('E', "\x00\x00\x00\x00\x00"), message('S', ""))
			take()
		}
		c.send(message('Q', "BEGIN\x00"), message('Q', "DECLARE c CURSOR FOR SELECT name, id FROM people ORDER BY id\x00"))
		take()
		take()
		c.send(message('Q', "FETCH 2 FROM c\x00"), message('Q', "COMMIT\x00"))
		take()
		take()
		c.send(message('Q', "COPY (SELECT * FROM people ORDER BY id) TO STDOUT\x00"))
		take()
		c.send(message('P', "\x00COPY (SELECT note, name, born FROM people ORDER BY id) TO STDOUT\x00\x00\x00"), message('B', "\x00\x00\x00\x00\x00\x00\x00\x00"), message('E', "\x00\x00\x00\x00\x00"), message('S', ""))
		take()
		c.send(message('Q', "INSERT INTO people VALUES (1, 'x', NULL, NULL, NULL)\x00"))
		take()
		c.send(message('Q', "UPDATE people SET code = 'bad' WHERE id = 1\x00"))
		take()
		c.send(message('Q', "SELECT name || '' FROM people\x00"))
		take()
		return requests.ReplaceAllString(seen.String(), "request")
	}
	first := answers()
	if d := r.records("operation.decided")[0]; d["effect"] != "allow" {
		t.Fatalf("%v", d["reasons"])
	}
	for _, secret := range []string{"Ada", "1815", "a1"} {
		if strings.Contains(first, secret) {
			t.Errorf("%s came through:\n%s", secret, first)
		}
	}
	if n := strings.Count(first, "[redacted]"); n != 2+2+3+2+2+2 {
		t.Errorf("[redacted] came %d times:\n%s", n, first)
	}
	w.postgres.SQL("orders", "UPDATE people SET name = 'Somebody much longer', born = '2001-02-03', code = NULL WHERE id = 1")
	if again := answers(); again != first {
		t.Errorf("what differs in masked values only was answered\n%s\nand\n%s", first, again)
	}
	masked := map[string]any{}
	for _, f := range r.await(20, "operation.finished") {
		if own, ok := f["postgres"].(map[string]any); ok && len(masked) == 0 {
			masked, _ = own["masked"].(map[string]any)
		}
	}
	if fmt.Sprint(masked) != "map[public.people.born:2 public.people.code:2 public.people.name:2]" {
		t.Errorf("the record says %v", masked)
	}
	c := r.connect("")
	var name *string
	var born *time.Time
	if err := c.QueryRow(t.Context(), "SELECT name, born FROM people WHERE id = $1", 1).Scan(&name, &born); err != nil || name == nil || *name != "[redacted]" || born != nil {
		t.Errorf("pgx reads %v, %v, error %v", name, born, err)
	}
	w.postgres.SQL("orders", "DROP TABLE people")
}

var requests = regexp.MustCompile(`request [0-9a-f-]{36}|countersign/[0-9a-f-]{36}`)

// namesThatChange: a name by which a message executes something is judged as what it means when the message comes to the server.
func namesThatChange(t *testing.T, w *world) {
	w.postgres.SQL("orders", "SET ROLE app; CREATE TABLE secrets (v text); INSERT INTO secrets VALUES ('s3cret');")
	r := w.start(t, options{policy: `package rules.orders

allow contains {"id": "all"} if input.postgres.access != "unknown"

redact contains {"column": "public.secrets.v"}
`})
	run := func(text string) []byte {
		return append(append(message('P', "\x00"+text+"\x00\x00\x00"), message('B', "\x00\x00\x00\x00\x00\x00\x00\x00")...), message('E', "\x00\x00\x00\x00\x00")...)
	}
	for name, pipeline := range map[string][][]byte{
		"a statement": {
			message('P', "x\x00SELECT name FROM items WHERE id = 1\x00\x00\x00"), run("DEALLOCATE x"), run("PREPARE x AS SELECT v FROM secrets"),
			message('B', "p\x00x\x00\x00\x00\x00\x00\x00\x00"), message('E', "p\x00\x00\x00\x00\x00"),
		},
		"a cursor": {
			run("BEGIN"), message('P', "y\x00SELECT name FROM items WHERE id = 1\x00\x00\x00"), message('B', "p\x00y\x00\x00\x00\x00\x00\x00\x00"),
			run("CLOSE p"), run("DECLARE p CURSOR FOR SELECT v FROM secrets"), message('E', "p\x00\x00\x00\x00\x00"),
		},
	} {
		c := r.raw()
		c.send(append(pipeline, message('S', ""))...)
		var seen strings.Builder
		for kind := byte(1); kind != 'Z' && kind != 0; {
			var body []byte
			kind, body = c.next()
			fmt.Fprintf(&seen, "%c %q\n", max(kind, '0'), body)
		}
		if strings.Contains(seen.String(), "s3cret") {
			t.Errorf("%s: what is masked came through:\n%s", name, seen.String())
		}
		if !strings.Contains(seen.String(), "E ") {
			t.Errorf("%s: nothing was refused:\n%s", name, seen.String())
		}
	}
	c := r.raw()
	c.send(message('Q', "SET application_name = 'me'\x00"))
	c.until('Z')
	c.send(message('Q', "SELECT name FROM items WHERE id = 1\x00"))
	c.until('Z')
	id := r.records(session.RecordOpened)[2]["session"]
	if got := w.postgres.SQL("orders", fmt.Sprintf("SELECT application_name FROM pg_stat_activity WHERE application_name LIKE '%%countersign/%s'", id)); got != fmt.Sprintf("me countersign/%s", id) {
		t.Errorf("the session is called %q", got)
	}
	w.postgres.SQL("orders", "DROP TABLE secrets")
}
