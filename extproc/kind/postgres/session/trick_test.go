package session_test

import (
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/countersign/countersign/extproc/kind/postgres/session"
	"github.com/countersign/countersign/extproc/lane"
)

// readsOnly lets reads, settings and transactions through.
const readsOnly = `package rules.orders

allow contains {"id": "reads"} if input.postgres.access in {"read", "session", "transaction"}
`

// tricks: a text that hides a statement from one reader is read as the server reads it.
func tricks(t *testing.T, w *world) {
	r := w.start(t, options{policy: readsOnly})
	c := r.raw()
	const hidden = "; DELETE FROM items; --"
	for _, x := range []struct{ text, want string }{
		{"SELECT 1 /* " + hidden + " */", "TDCZ(I)"},
		{"SELECT 1 /* /* */ " + hidden + " */", "TDCZ(I)"},
		{"SELECT 1 /* /* */ */ " + hidden, "E(42501)Z(I)"},
		{"SELECT 1 --" + hidden, "TDCZ(I)"},
		{"SELECT 1 --\n" + hidden, "E(42501)Z(I)"},
		{"SELECT 1 --\r" + hidden, "E(42501)Z(I)"},
		{"SELECT 1 --\v\f\u0085\u2028" + hidden, "TDCZ(I)"},
		{"SELECT $$" + hidden + "$$", "TDCZ(I)"},
		{"SELECT $a$ $b$ $$ " + hidden + " $b$ $a$", "TDCZ(I)"},
		{"SELECT $a$ $b$ $a$" + hidden + " $b$ $a$", "E(42501)Z(I)"},
		{"SELECT $é$ $e$ " + hidden + " $é$", "TDCZ(I)"},
		{"SELECT 'a\\'" + hidden + "'", "E(42501)Z(I)"},
		{"SELECT E'a\\'" + hidden + "'", "TDCZ(I)"},
		{"SELECT e'a\\\\'" + hidden, "E(42501)Z(I)"},
		{"SELECT U&'\\0027" + hidden + "'", "TDCZ(I)"},
		{"SELECT U&'!0027" + hidden + "' UESCAPE '!'", "TDCZ(I)"},
		{"SELECT U&'!0027' UESCAPE '!'" + hidden, "E(42501)Z(I)"},
		{"SELECT 'a'\n'" + hidden + "'", "TDCZ(I)"},
		{"SELECT 'a' -- \n'" + hidden + "'", "E(42601)Z(I)"},
		{"SELECT 1 AS \"a\"\"" + hidden + "\"", "TDCZ(I)"},
		{"SELECT 1 AS U&\"\\0022" + hidden + "\"", "TDCZ(I)"},
		{"SELECT B'1', X'1F', N'" + hidden + "'", "TDCZ(I)"},
		{"\uFEFFSELECT 1", "E(42601)Z(I)"},
		{"SELECT\u00a01" + hidden, "E(42601)Z(I)"},
		{"SELECT 1;;; DELETE FROM items", "E(42501)Z(I)"},
		{"dElEtE/**/fROM/*;*/items", "E(42501)Z(I)"},
		{"SET standard_conforming_strings = off; SELECT 'a\\'" + hidden + "'", "E(42501)Z(I)"}, // a text is read whole before it runs
		{"SET standard_conforming_strings = off", "CZ(I)"},
		{"SELECT 'a\\'" + hidden + "'", "E(0A000)Z(I)"}, // it is not told which of the two it is
		{"SELECT 'a\\\\'" + hidden, "E(0A000)Z(I)"},
		{"SELECT E'a\\'" + hidden + "'", "E(0A000)Z(I)"},
		{"SELECT '" + hidden + "'", "TDCZ(I)"},
		{"SELECT U&'" + hidden + "'", "E(0A000)Z(I)"},
		{"SET standard_conforming_strings = on; SELECT 'a\\'" + hidden + "'", "E(0A000)Z(I)"},
		{"SET standard_conforming_strings = on", "CZ(I)"},
		{"SELECT 'a\\'" + hidden + "'", "E(42501)Z(I)"},
		{"SET backslash_quote = off", "CZ(I)"},
		{"SELECT E'a\\'" + hidden + "'", "E(22P06)Z(I)"},
	} {
		c.send(message('Q', x.text+"\x00"))
		if got := strings.NewReplacer("S", "", "N", "").Replace(c.until('Z')); got != x.want {
			t.Errorf("%s: %s, want %s", x.text, got, x.want)
		}
	}
	if got := w.postgres.SQL("orders", "SELECT count(*) FROM items"); got != "10" {
		t.Errorf("there are %s rows", got)
	}
}

// encodings: whatever a client does, what it sends is read in the encoding in which the server reads it.
func encodings(t *testing.T, w *world) {
	w.postgres.SQL("orders", "ALTER ROLE app SET client_encoding = 'LATIN1'; ALTER DATABASE orders SET client_encoding = 'SJIS'")
	defer w.postgres.SQL("orders", "ALTER ROLE app RESET client_encoding; ALTER DATABASE orders RESET client_encoding")
	r := w.start(t, options{policy: "package rules.orders\n\nallow contains {\"id\": \"all\"} if input.postgres.access != \"unknown\"\n"})
	// In Shift JIS the backslash is the second half of a letter, and the quote behind it ends the text.
	const trick = "SELECT E'\u7e17\\'; DELETE FROM items; --'"
	for _, set := range []string{
		"SELECT 1", "SET client_encoding = 'SJIS'", "SET NAMES 'SJIS'", "SET CLIENT_ENCODING TO 'shift_jis'", "SET LOCAL client_encoding = 'SJIS'",
		"BEGIN; SET LOCAL client_encoding = 'SJIS'", "SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY", "RESET client_encoding", "RESET ALL", "DISCARD ALL",
		"SET client_encoding TO DEFAULT", "SELECT set_config('client_encoding', 'SJIS', false)", "SELECT set_config('client_' || 'encoding', 'SJIS', false)",
		"UPDATE pg_settings SET setting = 'SJIS' WHERE name = 'client_encoding'", "PREPARE p AS SELECT set_config($1, $2, false); EXECUTE p('client_encoding', 'SJIS')",
		"DO $$ BEGIN SET client_encoding = 'SJIS'; END $$", "ALTER ROLE app SET client_encoding = 'SJIS'", "SET client_encoding = 'utf-8'",
	} {
		c := r.raw()
		c.send(message('Q', set+"\x00"), message('Q', trick+"\x00"))
		first := c.until('Z')
		second := ""
		if strings.HasSuffix(first, ")") && strings.Contains(first, "Z(") {
			second = c.until('Z')
		}
		if strings.Contains(second, "CC") || strings.Contains(second, "CTDC") {
			t.Errorf("%s: %s, and then %s", set, first, second)
		}
		_ = c.Close()
		c = r.raw() // and in one pipeline
		run := func(text string) []byte {
			return append(append(message('P', "\x00"+text+"\x00\x00\x00"), message('B', "\x00\x00\x00\x00\x00\x00\x00\x00")...), message('E', "\x00\x00\x00\x00\x00")...)
		}
		c.send(run(set), run(trick), message('S', ""))
		c.until('Z')
		_ = c.Close()
	}
	if got := w.postgres.SQL("orders", "SELECT count(*) FROM items"); got != "10" {
		t.Errorf("there are %s rows", got)
	}
	c := r.connect("")
	var encoding string
	if err := c.QueryRow(t.Context(), "SHOW client_encoding").Scan(&encoding); err != nil || encoding != "UTF8" {
		t.Errorf("a session begins in %q, %v", encoding, err)
	}
}

// foreignBytes: what is no text is no text for policy either.
func foreignBytes(t *testing.T, w *world) {
	r := w.start(t, options{policy: readsOnly})
	for name, parameters := range map[string][]string{
		"a setting":          {"user", "app", "search_path", "\xFF"},
		"the name of one":    {"user", "app", "search\xFFpath", "x"},
		"a role":             {"user", "app\xFF"},
		"a database":         {"user", "app", "database", "\xC0\xAF"},
		"a name of a client": {"user", "app", "application_name", "\xED\xA0\x80"},
	} {
		c := r.secured()
		c.send(startup(3<<16, parameters...))
		if got := c.until(0); got != "E(08P01)0" {
			t.Errorf("%s: %s", name, got)
		}
	}
	c := r.raw()
	for name, x := range map[string]struct{ value, want string }{
		"a parameter that is not UTF-8":  {"\xFF", "E(22021)Z(I)"},
		"a parameter with a NUL in it":   {"a\x00b", "E(22021)Z(I)"},
		"a surrogate":                    {"\xED\xA0\x80", "E(22021)Z(I)"},
		"one that is longer than it is":  {"\xC0\xAF", "E(22021)Z(I)"},
		"one that is as it should be":    {"\u7e17\\'", "12DCZ(I)"},
		"what says it is of another end": {"\u202Eabc", "12DCZ(I)"},
	} {
		c.send(message('P', "\x00SELECT name FROM items WHERE name <> $1 LIMIT 1\x00\x00\x00"),
			message('B', "\x00\x00\x00\x00\x00\x01"+string(binary.BigEndian.AppendUint32(nil, uint32(len(x.value))))+x.value+"\x00\x00"),
			message('E', "\x00\x00\x00\x00\x00"), message('S', ""))
		if got := strings.TrimPrefix(c.until('Z'), "1"); got != strings.TrimPrefix(x.want, "1") {
			t.Errorf("%s: %s, want %s", name, got, x.want)
		}
	}
}

// sizes: what may be large can be.
func sizes(t *testing.T, w *world) {
	const most = 1 << 20
	r := w.start(t, options{edit: func(s *session.Target) { s.Limits.Statement, s.Limits.Message = most, 4<<20 }})
	r.swap(func(st *lane.State) { st.Memory = 1 << 30 })
	c := r.raw()
	const head, tail = "SELECT length('", "')"
	long := head + strings.Repeat("x", most-len(head)-len(tail)) + tail
	c.send(message('Q', long+"\x00"))
	if got := c.until('Z'); got != "TDCZ(I)" {
		t.Errorf("a statement of 1 MiB: %s", got)
	}
	c.send(message('Q', " "+long+"\x00"))
	if got := c.until('Z'); got != "E(54000)Z(I)" {
		t.Errorf("one byte more: %s", got)
	}
	c.send(message('P', "\x00"+long+"\x00\x00\x00"), message('S', ""))
	if got := c.until('Z'); got != "1Z(I)" {
		t.Errorf("a Parse of 1 MiB: %s", got)
	}
	c.send(message('P', "\x00 "+long+"\x00\x00\x00"), message('S', ""))
	if got := c.until('Z'); got != "E(54000)Z(I)" {
		t.Errorf("one byte more: %s", got)
	}
	c.send(message('Q', "COPY items FROM STDIN\x00"))
	c.until('G')
	c.send(message('d', "3000\t"+strings.Repeat("y", 6<<20)+"\n"), message('c', "")) // more than a message may have, but that it is not held
	if got := c.until('Z'); got != "CZ(I)" {
		t.Errorf("COPY data of 6 MiB: %s", got)
	}
	w.postgres.SQL("orders", "DELETE FROM items WHERE id = 3000")
	many := r.connect("")
	for n, denied := range map[int]int{10_000: 7, 65_535: 3} {
		text, values := strings.Builder{}, make([]any, n)
		for i := range n {
			fmt.Fprintf(&text, ",$%d", i+1)
			values[i] = i + 100
		}
		values[n-1] = denied
		arguments := append([]any{pgx.QueryExecModeExec}, values...) // in one message each
		want := map[int]string{3: "", 7: "42501"}[denied]
		var name string
		if err := many.QueryRow(t.Context(), "SELECT name FROM items WHERE id IN ("+text.String()[1:]+")", arguments...).Scan(&name); code(err) != want || want == "" && name != "item 3" {
			t.Errorf("%d parameters: %q, %v", n, name, err)
		}
	}
}

// cancelOf is a CancelRequest of a key.
func cancelOf(key []byte) []byte {
	b := append(startup(80877102)[:8:8], key...)
	binary.BigEndian.PutUint32(b, uint32(len(b)))
	return b
}

// cancelKeys: what a session does is cancelled by its own key alone, where it was given.
func cancelKeys(t *testing.T, w *world) {
	r := w.start(t, options{plain: true})
	r.swap(func(st *lane.State) {
		of := *st.Resources["orders"]
		of.Name = "others"
		st.Resources = map[string]*lane.Resource{"orders": st.Resources["orders"], "others": &of}
	})
	request := func(resource string, b []byte) {
		t.Helper()
		c, err := net.Dial("unix", r.socket)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		_ = c.SetDeadline(time.Now().Add(20 * time.Second))
		r.send(c, append(header(resource, "f1"), b...))
		if heard, _ := io.ReadAll(c); len(heard) > 0 { // once it is closed, it is done
			t.Errorf("a request to cancel is answered %q", heard)
		}
	}
	one, other := r.raw(), r.raw()
	if len(one.key) != 8 || string(one.key[:4]) == string(other.key[:4]) {
		t.Fatalf("the keys are %x and %x", one.key, other.key)
	}
	one.send(message('Q', "SELECT pg_sleep(36)\x00"))
	w.sleeping(t, 1, "SELECT pg_sleep(36)")
	pid := w.postgres.SQL("orders", "SELECT pid FROM pg_stat_activity WHERE query LIKE 'SELECT pg_sleep(36%'")
	var backend uint32
	_, _ = fmt.Sscan(pid, &backend)
	mixed := append(append([]byte{}, one.key[:4]...), other.key[4:]...)
	request("orders", cancelOf(mixed))
	request("orders", cancelOf(other.key))
	request("others", cancelOf(one.key))
	request("orders", cancelOf(one.key[:7]))
	request("orders", cancelOf(append(append([]byte{}, one.key...), 0)))
	request("orders", cancelOf(append(append([]byte{}, one.key[:4]...), 0, 0, 0, 0)))
	request("orders", cancelOf(append(binary.BigEndian.AppendUint32(nil, backend), one.key[4:]...))) // the server's own number
	w.sleeping(t, 1, "SELECT pg_sleep(36)")
	request("orders", cancelOf(one.key))
	if got := one.until('Z'); got != "TE(57014)Z(I)" && got != "E(57014)Z(I)" {
		t.Errorf("cancelled: %s", got)
	}
	for _, c := range []*raw{one, other} {
		c.send(message('Q', "SELECT 1\x00"))
		if got := c.until('Z'); got != "TDCZ(I)" {
			t.Errorf("after that: %s", got)
		}
	}
}

// cancelStorm: a session whose agent cancels without end goes on, and what the gateway itself asks is not cancelled.
func cancelStorm(t *testing.T, w *world) {
	r := w.start(t, options{plain: true})
	c := r.raw()
	var storm sync.WaitGroup
	over := make(chan struct{})
	for range 4 {
		storm.Go(func() {
			for {
				select {
				case <-over:
					return
				default:
				}
				conn, err := net.Dial("unix", r.socket)
				if err != nil {
					t.Errorf("%v", err)
					return
				}
				_, _ = conn.Write(append(header("orders", "f1"), cancelOf(c.key)...))
				_, _ = io.Copy(io.Discard, conn)
				_ = conn.Close()
			}
		})
	}
	for i := range 150 {
		c.send(message('Q', fmt.Sprintf("SET TimeZone = 'Etc/GMT-%d'\x00", i%12))) // the settings are asked for after each
		if got := strings.ReplaceAll(c.until('Z'), "S", ""); got != "CZ(I)" && got != "E(57014)Z(I)" {
			t.Errorf("in the storm: %s", got)
			break
		}
	}
	close(over)
	storm.Wait()
	c.send(message('Q', "SELECT 1\x00"))
	if got := c.until('Z'); got != "TDCZ(I)" && got != "E(57014)Z(I)" {
		t.Errorf("after it: %s", got)
	}
}

// slowStrangers: who does not say who they are is sent away, and keeps out nobody who does.
func slowStrangers(t *testing.T, w *world) {
	leaks(t)
	r := w.start(t, options{bound: func(s *session.Server) { s.Bound(time.Second, 1000) }})
	tls := []byte{0, 0, 0, 8, 0x04, 0xd2, 0x16, 0x2f}
	var work sync.WaitGroup
	for name, first := range map[string][]byte{
		"says nothing": {}, "says half of it": startup(3<<16, "user", "app")[:12], "asks for TLS": tls,
		"begins TLS and stops": append(append([]byte{}, tls...), 0x16, 3, 1, 2, 0), "begins with TLS": {0x16, 3, 1, 2, 0, 1},
	} {
		c := r.dial()
		r.send(c, first)
		work.Go(func() { away(t, name, c) })
	}
	c := r.secured()
	c.send(startup(3<<16, "user", "app", "database", "orders"))
	work.Go(func() { away(t, "gives no password", c) })
	drips := r.dial()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	work.Go(func() {
		for _, b := range startup(3<<16, "user", "app", "application_name", strings.Repeat("x", 1000)) {
			<-tick.C
			if _, err := drips.Write([]byte{b}); err != nil {
				break
			}
		}
		away(t, "drips", drips)
	})
	work.Wait()
	r.stop()

	r = w.start(t, options{bound: func(s *session.Server) { s.Bound(time.Minute, 5) }})
	var silent []net.Conn
	for range 20 {
		silent = append(silent, r.dial())
	}
	session := r.raw()
	session.send(message('Q', "SELECT 1\x00"))
	if got := session.until('Z'); got != "TDCZ(I)" {
		t.Errorf("beside them: %s", got)
	}
	for _, c := range silent[:15] {
		away(t, "one of many", c)
	}
	r.stop()
}

// away reads until the connection is closed, and fails where it is not.
func away(t *testing.T, name string, c net.Conn) {
	t.Helper()
	_, err := io.Copy(io.Discard, c)
	if timeout := net.Error(nil); err != nil && asTimeout(err, &timeout) {
		t.Errorf("who %s is not sent away", name)
	}
}

func asTimeout(err error, as *net.Error) bool {
	e, ok := err.(net.Error) //nolint:errorlint // as the connection returns it
	*as = e
	return ok && e.Timeout()
}

// everyParameter: what a client may set at its start does what it does at the server, and nothing else passes.
func everyParameter(t *testing.T, w *world) {
	r := w.start(t, options{})
	for name, value := range map[string]string{
		"DateStyle": "German, DMY", "IntervalStyle": "iso_8601", "TimeZone": "Asia/Tokyo", "extra_float_digits": "2", "search_path": "pg_catalog", "client_encoding": "UTF8",
		"datestyle": "SQL, MDY", "SEARCH_PATH": "public, pg_catalog",
	} {
		c := r.config("app", r.token(nil), "")
		c.RuntimeParams = map[string]string{name: value}
		conn, err := pgx.ConnectConfig(t.Context(), c)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		var got string
		if err := conn.QueryRow(t.Context(), "SHOW "+name).Scan(&got); err != nil || got != value {
			t.Errorf("%s is %q, %v", name, got, err)
		}
		_ = conn.Close(context.Background())
	}
	for name, value := range map[string]string{
		"options": "-c role=postgres", "replication": "true", "role": "postgres", "session_authorization": "postgres", "standard_conforming_strings": "off",
		"default_transaction_read_only": "on", "statement_timeout": "0", "lc_messages": "C", "client_min_messages": "debug5", "row_security": "off", "USER": "postgres",
		"": "x", "application_name ": "x", "client_encoding": "SQL_ASCII",
	} {
		c := r.secured()
		c.send(startup(3<<16, "user", "app", "database", "orders", name, value))
		if kind, _ := c.next(); kind == 'R' {
			c.send(message('p', r.token(nil)+"\x00"))
		}
		if got := c.until(0); got != "E(42501)0" && got != "0" && got != "E(08P01)0" {
			t.Errorf("%q: %s", name, got)
		}
	}
	for name, value := range map[string]string{"DateStyle": "bogus", "extra_float_digits": "99", "search_path": "\"a", "TimeZone": "Atlantis"} {
		c := r.secured()
		c.send(startup(3<<16, "user", "app", "database", "orders", name, value))
		c.next()
		c.send(message('p', r.token(nil)+"\x00"))
		if kind, body := c.next(); kind != 'E' || !strings.Contains(string(body), "C22023\x00") || !strings.Contains(string(body), name) || !strings.Contains(string(body), "(request ") {
			t.Errorf("%s that the database does not take: %q", name, body)
		}
	}
	if n := len(r.records(session.RecordRefused)); n < 12 {
		t.Errorf("%d sessions were refused on record", n)
	}
}
