package session_test

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/countersign/countersign/extproc/extproctest"
	"github.com/countersign/countersign/extproc/kind/postgres/session"
)

// TestSessions has all tests that need a server: they share one.
func TestSessions(t *testing.T) {
	leaks(t)
	w := newWorld(t)
	before := descriptors(t)
	for name, test := range map[string]func(*testing.T, *world){
		"who is let in":         whoIsLetIn,
		"both ways of TLS":      bothWaysOfTLS,
		"the target's login":    theTargetsLogin,
		"simple queries":        simpleQueries,
		"the extended protocol": theExtendedProtocol,
		"pipelines":             pipelines,
		"long pipelines":        longPipelines,
		"copy":                  copies,
		"cancel":                cancels,
		"limits":                limits,
		"policy's rows":         limitsOfRows,
		"policy's time":         limitsOfTime,
		"policy's reading":      limitsToReading,
		"what limits tell":      limitsTellNothing,
		"limits, and no agent":  limitsAndAnAgentThatLeaves,
		"what is bound":         whatIsBound,
		"what is bound before":  whatIsBoundBefore,
		"the server's log":      theServersLog,
		"the token ends":        theTokenEnds,
		"the gateway stops":     theGatewayStops,
		"hostile clients":       hostileClients,
		"egress by Envoy":       egress,
		"no record, no access":  noRecordNoAccess,
		"state":                 stateIsAsked,
		"values":                valuesAreTheServersOwn, "newer protocols": newerProtocols, "reloads": reloads, "preparing": preparing,
		"masks": masks, "names that change": namesThatChange, "slow readers": slowReaders, "both ends go": bothEndsGo, "OAUTHBEARER": oauthBearer, "hidden code": hiddenCode,
		"revoked": revoked, "changes": changes, "tricks": tricks, "encodings": encodings, "foreign bytes": foreignBytes, "sizes": sizes, "cancel keys": cancelKeys, "cancel storm": cancelStorm,
		"slow strangers": slowStrangers, "every parameter": everyParameter, "the drain": theDrain, "a panic": aPanic, "stuck readers": stuckReaders, "leaving a hold": leavingAHold, "what sessions are": whatSessionsAre, "no dial": noDial,
		"the wrong target": theWrongTarget, "passwords by method": passwordsByMethod, "renewed": renewed, "targets that go": targetsThatGo, "clients that go": clientsThatGo, "many": many,
		"masks are as the server writes": masksAsTheServerWrites, "tokens": tokens, "detectors": detectors,
		"interference": interference, "what is said beside rows": saidBeside,
	} {
		t.Run(name, func(t *testing.T) { test(t, w) })
	}
	nothingStays(t, w, before)
}

// Who shows no token of the issuer's gets no further than the gateway, and neither does one who asks for what is not listed.
func whoIsLetIn(t *testing.T, w *world) {
	r := w.start(t, options{edit: func(s *session.Target) { s.Databases = []string{"orders", "nowhere"} }})
	for name, c := range map[string]struct {
		role, token, more, want string
	}{
		"a good token":                {"app", r.token(nil), "", ""},
		"by certificate":              {"shown", r.token(nil), "", ""},
		"none":                        {"app", "", "", "28000"},
		"not a token":                 {"app", "correct horse", "", "28000"},
		"expired":                     {"app", r.token(extproctest.Claims{"exp": time.Now().Add(-time.Hour).Unix()}), "", "28000"},
		"for another":                 {"app", r.token(extproctest.Claims{"aud": []string{"other"}}), "", "28000"},
		"a role that is not listed":   {"postgres", r.token(nil), "", "28000"},
		"a database that is not":      {"app", r.token(nil), "dbname=postgres", "28000"},
		"a role the target refuses":   {"gone", r.token(nil), "", "CS003"},
		"a database the target lacks": {"app", r.token(nil), "dbname=nowhere", "CS003"},
		"options":                     {"app", r.token(nil), "options='-c search_path=pg_temp'", "42501"},
		"replication":                 {"app", r.token(nil), "replication=database", "42501"},
		"another setting":             {"app", r.token(nil), "session_preload_libraries=x", "42501"},
		"another encoding":            {"app", r.token(nil), "client_encoding=SJIS", "42501"},
		"what passes":                 {"app", r.token(nil), "application_name=tests search_path=pg_catalog,public TimeZone=UTC", ""},
	} {
		t.Run(name, func(t *testing.T) {
			conn, err := pgx.ConnectConfig(t.Context(), r.config(c.role, c.token, c.more))
			if got := code(err); got != c.want {
				t.Fatalf("got %q, want %q", got, c.want)
			}
			if err == nil {
				_ = conn.Close(context.Background())
			}
		})
	}
	opened, closed := len(r.await(5, session.RecordOpened)), len(r.await(5, session.RecordClosed))
	if opened != 5 || closed != 5 { // three that were let in, two that the target refused
		t.Errorf("%d sessions were opened, and %d closed", opened, closed)
	}
	if n := len(r.records("identity.refused")); n != 4 {
		t.Errorf("%d credentials were refused", n)
	}
	if n := len(r.records(session.RecordRefused)); n != 6 {
		t.Errorf("%d sessions were refused", n)
	}
}

func bothWaysOfTLS(t *testing.T, w *world) {
	r := w.start(t, options{})
	for _, negotiation := range []string{"postgres", "direct"} {
		c, err := pgx.ConnectConfig(t.Context(), r.config("app", r.token(nil), "sslnegotiation="+negotiation))
		if err != nil {
			t.Fatalf("%s: %v", negotiation, err)
		}
		_ = c.Close(t.Context())
	}
	// without ALPN, for another protocol, in the clear, and GSS
	for _, protocols := range [][]string{nil, {"h2", "http/1.1"}, {"postgresql"}} {
		c := tls.Client(r.dial(), &tls.Config{RootCAs: w.authority.Pool, ServerName: "gateway.test", MinVersion: tls.VersionTLS12, NextProtos: protocols})
		_ = c.Handshake()
		_, _ = c.Write(startup(3<<16, "user", "app", "database", "orders"))
		n, err := io.ReadFull(c, make([]byte, 9)) // what asks for a password
		if timeout := net.Error(nil); asTimeout(err, &timeout) || (n == 9) != (len(protocols) == 1) {
			t.Errorf("direct TLS with ALPN %q was answered by %d bytes, %v", protocols, n, err)
		}
		_ = c.Close()
	}
	plain := &raw{t: t, Conn: r.dial()}
	plain.send([]byte{0, 0, 0, 8, 0x04, 0xd2, 0x16, 0x30}) // GSS
	var answer [1]byte
	if _, err := plain.Read(answer[:]); err != nil || answer[0] != 'N' {
		t.Errorf("GSS was answered %q, %v", answer, err)
	}
	plain.send(startup(3<<16, "user", "app", "database", "orders"))
	if got := plain.until('E'); got != "E(28000)" {
		t.Errorf("in the clear: %s", got)
	}
	if n := len(r.records("identity.refused", session.RecordRefused)); n != 0 {
		t.Errorf("%d refusals were recorded of who has not said who they are", n)
	}
}

// theTargetsLogin: the gateway takes no other server for its target, and tells it nothing of the agent's token.
func theTargetsLogin(t *testing.T, w *world) {
	for name, c := range map[string]struct {
		edit func(*session.Target)
		want string
	}{
		"another name": {func(s *session.Target) { s.TLS = &session.TLS{CAFile: w.authority.CAFile, Name: "other.test"} }, "CS003"},
		"another authority": {func(s *session.Target) {
			s.TLS = &session.TLS{CAFile: extproctest.NewAuthority(t).CAFile, Name: "db.test"}
		}, "CS003"},
		"nobody there": {func(s *session.Target) { s.Address = "127.0.0.1:1" }, "CS003"},
		"a wrong password": {func(s *session.Target) {
			s.Roles = map[string]session.Credential{"app": {PasswordFile: s.Certificate}}
		}, "CS003"},
		"plain": {func(s *session.Target) { s.TLS = nil }, ""},
		"TLS":   {func(*session.Target) {}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			r := w.start(t, options{edit: c.edit})
			conn, err := pgx.ConnectConfig(t.Context(), r.config("app", r.token(nil), "application_name=agent"))
			if got := code(err); got != c.want {
				t.Fatalf("got %q, want %q", got, c.want)
			}
			if err != nil {
				return
			}
			defer conn.Close(t.Context())
			var name string
			if err := conn.QueryRow(t.Context(), "SELECT application_name FROM pg_stat_activity WHERE pid = pg_backend_pid()").Scan(&name); err != nil {
				t.Fatal(err)
			}
			id := r.records(session.RecordOpened)[0]["session"]
			if want := fmt.Sprintf("agent countersign/%s", id); name != want {
				t.Errorf("the session is called %q, want %q", name, want)
			}
		})
	}
}

func simpleQueries(t *testing.T, w *world) {
	leaks(t)
	r := w.start(t, options{})
	c := r.raw()
	for _, x := range []struct{ text, want string }{
		{"SELECT id, name FROM items ORDER BY id LIMIT 2", "TDDCZ(I)"},
		{"", "IZ(I)"},
		{"SELECT 1; SELECT 2", "TDCTDCZ(I)"},
		{"SELECT 1; DROP TABLE items; SELECT 2", "E(42501)Z(I)"},
		{"SELECT 1; MAKE TEA", "E(42601)Z(I)"},
		{"SELECT nothing FROM items", "E(42703)Z(I)"},
		{"BEGIN", "CZ(T)"},
		{"INSERT INTO items VALUES (100, 'x')", "CZ(T)"},
		{"DROP TABLE items", "E(42501)Z(E)"},
		{"SELECT 1", "E(25P02)Z(E)"},
		{"ROLLBACK", "CZ(I)"},
		{"SELECT 1 FROM items WHERE id = 100", "TCZ(I)"},
		{"DELETE FROM items", "E(42501)Z(I)"},
		{"SELECT 1 FROM pg_class LIMIT 1", "TDCZ(I)"},
		{"SELECT 1/0", "TE(22012)Z(I)"},
	} {
		c.send(message('Q', x.text+"\x00"))
		if got := c.until('Z'); got != x.want && strings.Replace(x.want, "T", "", 1) != got {
			t.Errorf("%s: %s, want %s", x.text, got, x.want)
		}
	}
	c.send(message('X', ""))
	closed := r.await(1, session.RecordClosed)[0]
	if closed["statements"] != 16.0 || closed["reason"] != "the client left" {
		t.Errorf("the session's end is %v", closed)
	}
	var rows []any
	for _, f := range r.await(16, "operation.finished") {
		own, _ := f["postgres"].(map[string]any)
		rows = append(rows, fmt.Sprint(f["result"], " ", own["tag"], " ", own["rows"], " ", own["sqlstate"]))
	}
	if want := []any{
		"completed SELECT 2 2 ", "completed  0 ", "completed SELECT 1 1 ", "completed SELECT 1 1 ",
	}; !reflect.DeepEqual(rows[:4], want) {
		t.Errorf("the first four ended\n%q, want\n%q", rows[:4], want)
	}
	r.stop()
}

func theExtendedProtocol(t *testing.T, w *world) {
	r := w.start(t, options{})
	c := r.connect("")
	var name string
	for i := range 3 {
		if err := c.QueryRow(t.Context(), "SELECT name FROM items WHERE id = $1", i+1).Scan(&name); err != nil || name != fmt.Sprintf("item %d", i+1) {
			t.Fatalf("%q, %v", name, err)
		}
	}
	if err := c.QueryRow(t.Context(), "SELECT name FROM items WHERE id = $1", 7).Scan(&name); code(err) != "42501" {
		t.Errorf("a value that policy denies: %v", err)
	}
	if err := c.QueryRow(t.Context(), "SELECT name FROM items WHERE id = $1", 8).Scan(&name); err != nil || name != "item 8" {
		t.Errorf("after a refusal: %q, %v", name, err)
	}
	if _, err := c.Exec(t.Context(), "DROP TABLE items"); code(err) != "42501" {
		t.Errorf("a statement that policy denies: %v", err)
	}
	tx, err := c.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := tx.QueryRow(t.Context(), "SELECT name FROM items WHERE id = $1", 7).Scan(&name); code(err) != "42501" {
		t.Errorf("in a transaction: %v", err)
	}
	if err := tx.QueryRow(t.Context(), "SELECT name FROM items WHERE id = $1", 8).Scan(&name); code(err) != "25P02" {
		t.Errorf("after a refusal in a transaction: %v", err)
	}
	if err := tx.Rollback(t.Context()); err != nil {
		t.Errorf("%v", err)
	}
	var pgErr *pgconn.PgError
	_, err = c.Exec(t.Context(), "DROP TABLE items")
	_ = errors.As(err, &pgErr)
	denied := r.await(1, "operation.decided")
	last := denied[len(denied)-1]
	if pgErr == nil || !strings.Contains(pgErr.Detail, "nothing is dropped here") || !strings.Contains(pgErr.Detail, "no-drop") ||
		!strings.Contains(pgErr.Detail, fmt.Sprint(last["request_id"])) || !strings.Contains(pgErr.Hint, fmt.Sprint(last["request_id"])) {
		t.Errorf("the refusal says %+v, of %v", pgErr, last["request_id"])
	}
	// what was denied while it was prepared never came to the server
	if got := w.postgres.SQL("orders", "SELECT count(*) FROM pg_stat_activity WHERE query ILIKE '%drop table items%' AND pid <> pg_backend_pid()"); got != "0" {
		t.Errorf("the server has seen it %s times", got)
	}
}

// pipelines: a statement that is refused undoes what came before it in the same implicit transaction, and what follows is skipped.
func pipelines(t *testing.T, w *world) {
	r := w.start(t, options{})
	c := r.raw()
	run := func(text string, values ...string) []byte {
		bind := "\x00\x00\x00\x00" + string([]byte{0, byte(len(values))})
		for _, v := range values {
			bind += string([]byte{0, 0, 0, byte(len(v))}) + v
		}
		return append(append(message('P', "\x00"+text+"\x00\x00\x00"), message('B', bind+"\x00\x00")...), message('E', "\x00\x00\x00\x00\x00")...)
	}
	c.send(run("INSERT INTO items VALUES (200, $1)", "a"), run("DROP TABLE items"), run("INSERT INTO items VALUES (201, $1)", "b"), message('S', ""))
	if got := c.until('Z'); got != "12CE(42501)Z(I)" {
		t.Errorf("a pipeline with a refusal: %s", got)
	}
	if got := w.postgres.SQL("orders", "SELECT count(*) FROM items WHERE id >= 200"); got != "0" {
		t.Errorf("it left %s rows", got)
	}
	c.send(run("INSERT INTO items VALUES (200, $1)", "a"), run("SELECT name FROM items WHERE id = 200"), message('S', ""))
	if got := c.until('Z'); got != "12C12DCZ(I)" {
		t.Errorf("a pipeline: %s", got)
	}
	c.send(run("SELECT 1/0"), run("SELECT 1"), message('S', ""), run("SELECT 2"), message('S', ""))
	if got := c.until('Z') + c.until('Z'); got != "12E(22012)Z(I)12DCZ(I)" && got != "1E(22012)Z(I)12DCZ(I)" {
		t.Errorf("an error of the server's in a pipeline: %s", got)
	}
	c.send(message('B', "\x00none\x00\x00\x00\x00\x00\x00\x00"), message('E', "\x00\x00\x00\x00\x00"), message('S', ""))
	if got := c.until('Z'); got != "E(26000)Z(I)" {
		t.Errorf("what was not prepared: %s", got)
	}
	c.send(message('P', "countersign_x\x00SELECT 1\x00\x00\x00"), message('S', ""))
	if got := c.until('Z'); got != "E(42602)Z(I)" {
		t.Errorf("a name of the gateway's: %s", got)
	}
	c.send(message('P', "a\x00SELECT 1; SELECT 2\x00\x00\x00"), message('S', ""))
	if got := c.until('Z'); got != "E(42601)Z(I)" {
		t.Errorf("two statements in one: %s", got)
	}
	c.send(message('F', strings.Repeat("\x00", 12)))
	if got := c.until('Z'); got != "E(0A000)Z(I)" {
		t.Errorf("a function call: %s", got)
	}
	w.postgres.SQL("orders", "DELETE FROM items WHERE id >= 100")
}

func copies(t *testing.T, w *world) {
	r := w.start(t, options{})
	c := r.connect("")
	n, err := c.CopyFrom(t.Context(), pgx.Identifier{"items"}, []string{"id", "name"}, pgx.CopyFromSlice(500, func(i int) ([]any, error) { return []any{1000 + i, "copied"}, nil }))
	if err != nil || n != 500 {
		t.Fatalf("%d, %v", n, err)
	}
	var b strings.Builder
	if tag, err := c.PgConn().CopyTo(t.Context(), &b, "COPY items TO STDOUT"); err != nil || tag.RowsAffected() < 500 {
		t.Errorf("%v, %v", tag, err)
	}
	if _, err := c.PgConn().CopyFrom(t.Context(), strings.NewReader("x\ty\n"), "COPY items FROM STDIN"); code(err) != "22P02" {
		t.Errorf("rows that are none: %v", err)
	}
	raw := r.raw()
	raw.send(message('P', "\x00COPY items FROM STDIN\x00\x00\x00"), message('B', "\x00\x00\x00\x00\x00\x00\x00\x00"), message('E', "\x00\x00\x00\x00\x00"), message('S', ""))
	if got := raw.until('G'); got != "12G" {
		t.Errorf("COPY in the extended protocol: %s", got)
	}
	raw.send(message('d', "2000\tx\n"), message('c', ""), message('S', ""))
	if got := raw.until('Z'); got != "CZ(I)" {
		t.Errorf("its end: %s", got)
	}
	raw.send(message('Q', "COPY items FROM STDIN\x00"))
	raw.until('G')
	raw.send(message('Q', "SELECT 1\x00"))
	if got := raw.until(0); !strings.Contains(got, "E(08P01)") {
		t.Errorf("a statement within COPY data: %s", got)
	}
	w.postgres.SQL("orders", "DELETE FROM items WHERE id >= 1000")
}

// cancels: a request to cancel reaches the session of its key, and no other.
func cancels(t *testing.T, w *world) {
	r := w.start(t, options{})
	c, other := r.connect(""), r.connect("")
	sleep := func(c *pgx.Conn) <-chan error {
		done := make(chan error, 1)
		go func() {
			_, err := c.Exec(context.Background(), "SELECT pg_sleep(20)")
			if code(err) != "57014" {
				t.Errorf("a sleep ended with %v", err)
			}
			done <- err
		}()
		return done
	}
	slept, stays := sleep(c), sleep(other)
	extproctest.Await(t, "both to sleep", 10*time.Second, func(context.Context) error {
		if got := w.postgres.SQL("orders", "SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'SELECT pg_sleep(2%' AND state = 'active'"); got != "2" {
			return fmt.Errorf("%s sleep", got)
		}
		return nil
	})
	for range 20 { // a storm, with a key that is wrong and with one that is right
		cancel := startup(80877102)
		cancel = append(cancel[:8:8], 0, 0, 0, 1, 0, 0, 0, 1)
		cancel[3] = byte(len(cancel))
		r.send(r.dial(), cancel)
	}
	for range 5 {
		if err := c.PgConn().CancelRequest(t.Context()); err != nil {
			t.Errorf("cancel: %v", err)
		}
	}
	if err := <-slept; code(err) != "57014" {
		t.Errorf("what was cancelled ended with %v", err)
	}
	select {
	case err := <-stays:
		t.Errorf("what was not cancelled ended with %v", err)
	default:
	}
	if err := c.Ping(t.Context()); err != nil {
		t.Errorf("after a cancel: %v", err)
	}
	if err := other.PgConn().CancelRequest(t.Context()); err != nil {
		t.Errorf("cancel: %v", err)
	}
	<-stays
}

func limits(t *testing.T, w *world) {
	r := w.start(t, options{edit: func(s *session.Target) {
		s.Limits.Sessions, s.Limits.Statement = 2, 1<<10
	}})
	c := r.raw()
	c.send(message('Q', "SELECT '"+strings.Repeat("x", 100<<10)+"'\x00"))
	if got := c.until('Z'); got != "E(54000)Z(I)" {
		t.Errorf("a statement that is too long: %s", got)
	}
	c.send(message('P', "\x00SELECT '"+strings.Repeat("x", 100<<10)+"'\x00\x00\x00"), message('E', "\x00\x00\x00\x00\x00"), message('S', ""))
	if got := c.until('Z'); got != "E(54000)Z(I)" {
		t.Errorf("one that is prepared: %s", got)
	}
	second := r.raw()
	if _, err := pgx.ConnectConfig(t.Context(), r.config("app", r.token(nil), "")); code(err) != "53300" {
		t.Errorf("a third session: %v", err)
	}
	_ = second.Close()
	r.await(1, session.RecordClosed)
	if _, err := pgx.ConnectConfig(t.Context(), r.config("app", r.token(nil), "")); err != nil {
		t.Errorf("a place that was given back: %v", err)
	}
	slow := w.start(t, options{edit: func(s *session.Target) { s.Limits.Idle = time.Second }}).raw(message('Q', "SELECT pg_sleep(1.5)\x00"))
	if got := slow.until(0); got != "TDCZ(I)E(57P05)0" {
		t.Errorf("a statement that takes longer than a session may rest, and then rest: %s", got)
	}
	slow = w.start(t, options{edit: func(s *session.Target) { s.Limits.SessionTime = time.Second }}).raw(message('Q', "SELECT pg_sleep(20)\x00"))
	if got := slow.until(0); !strings.Contains(got, "E(CS004)") {
		t.Errorf("the session's time: %s", got)
	}
}

// theGatewayStops: sessions that rest end at once, and a statement that is under way is answered before its session ends.
func theGatewayStops(t *testing.T, w *world) {
	leaks(t)
	r := w.start(t, options{})
	rests, works := r.raw(), r.raw()
	works.send(message('Q', "SELECT pg_sleep(1)\x00"))
	r.await(1, "operation.decided")
	drained := make(chan error, 1)
	go func() {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		drained <- r.lane.Drain(ctx)
	}()
	if got := rests.until(0); got != "E(57P01)0" {
		t.Errorf("a session that rests: %s", got)
	}
	if got := works.until(0); got != "TDCZ(I)E(57P01)0" {
		t.Errorf("a session that works: %s", got)
	}
	if err := <-drained; err != nil {
		t.Errorf("drain: %v", err)
	}
	r.stop()
}

// noRecordNoAccess: where the journal takes nothing, nothing reaches the target.
func noRecordNoAccess(t *testing.T, w *world) {
	r := w.start(t, options{})
	c := r.raw()
	if err := r.journal.Close(); err != nil {
		t.Fatal(err)
	}
	c.send(message('Q', "INSERT INTO items VALUES (300, 'x')\x00"))
	if got := c.until('Z'); got != "E(CS003)Z(I)" {
		t.Errorf("a statement: %s", got)
	}
	if got := w.postgres.SQL("orders", "SELECT count(*) FROM items WHERE id = 300"); got != "0" {
		t.Errorf("it left %s rows", got)
	}
	before := w.postgres.SQL("orders", "SELECT count(*) FROM pg_stat_activity WHERE usename = 'app'")
	if _, err := pgx.ConnectConfig(t.Context(), r.config("app", r.token(nil), "")); code(err) != "CS003" || !strings.Contains(err.Error(), "record") {
		t.Errorf("a session: %v", err)
	}
	if after := w.postgres.SQL("orders", "SELECT count(*) FROM pg_stat_activity WHERE usename = 'app'"); after != before {
		t.Errorf("the target had %s sessions, and has %s", before, after)
	}
	c.send(message('X', ""))
}

// stateIsAsked: what a statement changed in the session is what the next one is judged by.
func stateIsAsked(t *testing.T, w *world) {
	r := w.start(t, options{policy: `package rules.orders

allow contains {"id": "in-public"} if "public" in input.postgres.search_path

allow contains {"id": "set"} if input.postgres.access == "session"
`})
	c := r.raw()
	for _, x := range []struct{ text, want string }{
		{"SELECT 1", "TDCZ(I)"},
		{"SET search_path = pg_catalog", "CZ(I)"},
		{"SELECT 1", "E(42501)Z(I)"},
		{"SET search_path = \"$user\", public, \"a \"\"b\"\"\"", "CZ(I)"},
		{"SELECT 1", "TDCZ(I)"},
		{"SET client_encoding = 'LATIN1'", "E(0A000)Z(I)"},
	} {
		c.send(message('Q', x.text+"\x00"))
		if got := strings.ReplaceAll(c.until('Z'), "S", ""); got != x.want {
			t.Errorf("%s: %s, want %s", x.text, got, x.want)
		}
	}
}
