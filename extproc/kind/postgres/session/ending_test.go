package session_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/countersign/countersign/extproc/extproctest"
	"github.com/countersign/countersign/extproc/gate"
	"github.com/countersign/countersign/extproc/identity"
	"github.com/countersign/countersign/extproc/kind/postgres/session"
	"github.com/countersign/countersign/extproc/lane"
)

// sleeping waits until n sessions of the role app sleep at the server, by a text that begins as given.
func (w *world) sleeping(t *testing.T, n int, text string) {
	t.Helper()
	extproctest.Await(t, "sessions to sleep", 20*time.Second, func(context.Context) error {
		if got := w.postgres.SQL("orders", "SELECT count(*) FROM pg_stat_activity WHERE query LIKE '"+text+"%' AND state = 'active' AND usename = 'app'"); got != fmt.Sprint(n) {
			return errors.New(got)
		}
		return nil
	})
}

// theTokenEnds: once the token's time is over what runs is carried out, the next statement is refused with a hint, and the session ends.
func theTokenEnds(t *testing.T, w *world) {
	r := w.start(t, options{people: true, policy: rules + "\nask contains {\"id\": \"asked\", \"approvers\": [\"payments-oncall\"]} if contains(input.postgres.text, \"asked\")\n"})
	rests, piped, works, held := r.connect(""), r.raw(), r.raw(), r.raw()
	if _, err := rests.Exec(t.Context(), "LISTEN news"); err != nil {
		t.Fatal(err)
	}
	held.send(message('Q', "SELECT 'asked'\x00"))
	works.send(message('Q', "SELECT pg_sleep(1), 'through the end'\x00"))
	piped.send(message('P', "one\x00SELECT 1\x00\x00\x00"), message('S', ""))
	piped.until('Z')
	r.await(1, "approval.requested")
	w.sleeping(t, 1, "SELECT pg_sleep(1)")
	r.later(2 * time.Hour)
	w.postgres.SQL("orders", "NOTIFY news, 'not for this agent any more'")

	if got := works.until('Z'); got != "TDCZ(I)" {
		t.Errorf("what ran: %s", got)
	}
	works.send(message('Q', "SELECT 1\x00"))
	if got := works.until(0); got != "E(28000)0" {
		t.Errorf("after what ran: %s", got)
	}
	_, err := rests.Exec(t.Context(), "SELECT 1")
	var told *pgconn.PgError
	if !errors.As(err, &told) || told.Code != "28000" || told.Severity != "FATAL" || !strings.Contains(told.Hint, "new token") {
		t.Errorf("a session that rests: %v", err)
	}
	ctx, done := context.WithTimeout(t.Context(), 5*time.Second)
	defer done()
	if n, err := rests.WaitForNotification(ctx); err == nil || n != nil {
		t.Errorf("and is told %v", n)
	}
	piped.send(message('B', "\x00one\x00\x00\x00\x00\x00\x00\x00"), message('E', "\x00\x00\x00\x00\x00"), message('S', ""))
	if got := piped.until(0); got != "E(28000)0" {
		t.Errorf("what was prepared: %s", got)
	}
	r.approve()
	if got := held.until(0); got != "NE(28000)0" {
		t.Errorf("what was approved afterwards: %s", got)
	}
	decided := r.await(8, "operation.decided")
	refused := 0
	for _, d := range decided {
		if d["problem"] == "unauthenticated" {
			refused++
		}
	}
	if refused != 4 {
		t.Errorf("%d statements were refused for their token", refused)
	}
	r.await(4, session.RecordClosed)
}

// revoked: who is let in no more is out at once.
func revoked(t *testing.T, w *world) {
	leaks(t)
	r := w.start(t, options{})
	rests, works := r.raw(), r.raw()
	works.send(message('Q', "SELECT pg_sleep(33)\x00"))
	w.sleeping(t, 1, "SELECT pg_sleep(33)")
	subject := r.records(session.RecordOpened)[0]["subject"].(string)
	verifier, err := identity.New(identity.Options{Issuers: []identity.Issuer{{
		Issuer: w.issuer.URL, Audience: []string{extproctest.Audience}, MaxLifetime: time.Hour, Skew: time.Minute, KeysMaxAge: time.Hour, Revoked: []string{subject},
	}}, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	defer verifier.Close()
	r.swap(func(st *lane.State) { st.Identity = verifier })
	for name, c := range map[string]*raw{"a session that rests": rests, "a session that works": works} {
		if got := c.until(0); got != "E(28000)0" {
			t.Errorf("%s: %s", name, got)
		}
	}
	w.sleeping(t, 0, "SELECT pg_sleep(33)")
	r.await(2, session.RecordClosed)
	r.stop()
}

// changes of the resource end the sessions that could not begin under it: at once where they rest, and with what runs otherwise.
func changes(t *testing.T, w *world) {
	for name, change := range map[string]func(*session.Target){
		"a role that is gone":      func(s *session.Target) { s.Roles = map[string]session.Credential{"shown": s.Roles["shown"]} },
		"another credential":       func(s *session.Target) { s.Roles = map[string]session.Credential{"app": {PasswordFile: s.Key}} },
		"a database that is gone":  func(s *session.Target) { s.Databases = []string{"others"} },
		"another target":           func(s *session.Target) { s.Address = "127.0.0.1:1" },
		"another authority":        func(s *session.Target) { s.TLS = &session.TLS{Name: "db.test"} },
		"a listener without TLS":   func(s *session.Target) { s.Certificate, s.Key = "", "" },
		"a resource that is gone":  nil,
		"nothing that matters now": func(s *session.Target) { s.Limits.Sessions, s.Databases = 1, []string{"orders"} },
	} {
		t.Run(name, func(t *testing.T) {
			r := w.start(t, options{})
			rests, works := r.raw(), r.raw()
			works.send(message('Q', "SELECT pg_sleep(0.3)\x00"))
			r.await(1, "operation.decided")
			r.retarget(change)
			if strings.HasPrefix(name, "nothing") {
				for _, c := range []*raw{rests, works} {
					c.send(message('Q', "SELECT 1\x00"))
				}
				if got, also := works.until('Z')+works.until('Z'), rests.until('Z'); got != "TDCZ(I)TDCZ(I)" || also != "TDCZ(I)" {
					t.Errorf("%s and %s", got, also)
				}
				return
			}
			if got := rests.until(0); got != "E(57P01)0" {
				t.Errorf("a session that rests: %s", got)
			}
			if got := works.until(0); got != "TDCZ(I)E(57P01)0" {
				t.Errorf("a session that works: %s", got)
			}
			r.await(2, session.RecordClosed)
		})
	}
}

// theDrain is held up by nobody: neither by who has not said who they are, nor by who waits for people.
func theDrain(t *testing.T, w *world) {
	leaks(t)
	r := w.start(t, options{people: true, policy: rules + "\nask contains {\"id\": \"asked\", \"approvers\": [\"payments-oncall\"]} if contains(input.postgres.text, \"asked\")\n"})
	silent, half := r.dial(), r.secured()
	half.send(startup(3<<16, "user", "app", "database", "orders"))
	half.next()
	held := r.raw()
	held.send(message('Q', "SELECT 'asked'\x00"))
	r.await(1, "approval.requested")
	drained := make(chan error, 1)
	go func() {
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second) // less than the time to say who one is
		defer cancel()
		drained <- r.lane.Drain(ctx)
	}()
	if got := held.until(0); got != "NE(CS001)Z(I)E(57P01)0" {
		t.Errorf("a statement that waits for people: %s", got)
	}
	for _, c := range []net.Conn{silent, half} {
		if n, err := c.Read(make([]byte, 1)); err == nil {
			t.Errorf("who has said nothing hears %d bytes", n)
		}
	}
	if err := <-drained; err != nil {
		t.Errorf("drain: %v", err)
	}
	r.stop()
}

// whatSessionsAre: the records of a session say whose it was, how it came, and what it did.
func whatSessionsAre(t *testing.T, w *world) {
	r := w.start(t, options{})
	c := r.raw()
	c.send(message('Q', "SELECT name FROM items WHERE id <= 3\x00"))
	c.until('Z')
	c.send(message('Q', "DROP TABLE items\x00"))
	c.until('Z')
	c.send(message('X', ""))
	closed := r.await(1, session.RecordClosed)[0]
	opened := r.records(session.RecordOpened)[0]
	for _, of := range []map[string]any{opened, closed} {
		for name, want := range map[string]any{
			"database": "orders", "role": "app", "resource": "orders", "protocol": "postgres", "issuer": w.issuer.URL, "peer": "192.0.2.7:12345",
			"session": opened["session"], "request_id": opened["request_id"], "subject": opened["subject"], "token_id": opened["token_id"],
		} {
			if of[name] != want || want == "" {
				t.Errorf("%s: %s is %v, want %v", of["type"], name, of[name], want)
			}
		}
	}
	if opened["encryption"] != "TLS 1.3" || opened["version"] != "3.0" || opened["config_digest"] != "c1" || opened["application_name"] != "" {
		t.Errorf("%v", opened)
	}
	if closed["statements"] != 2.0 || closed["refused"] != 1.0 || closed["rows"] != 3.0 || closed["reason"] != "the client left" ||
		closed["bytes_in"].(float64) < 60 || closed["bytes_out"].(float64) < 60 || closed["duration"].(float64) <= 0 {
		t.Errorf("%v", closed)
	}
	for _, d := range r.records("operation.decided") {
		if own, _ := d["postgres"].(map[string]any); own["session"] != opened["session"] {
			t.Errorf("a statement is of session %v", own["session"])
		}
	}
}

// noDial: where it cannot be recorded that a session begins, the target is not spoken to.
func noDial(t *testing.T, w *world) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	came := make(chan struct{}, 10)
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			came <- struct{}{}
			_ = c.Close()
		}
	}()
	r := w.start(t, options{edit: func(s *session.Target) { s.Address = l.Addr().String() }})
	try := func() string {
		c := r.secured()
		c.send(startup(3<<16, "user", "app", "database", "orders"))
		c.next()
		c.send(message('p', r.token(nil)+"\x00"))
		return c.until(0)
	}
	if got := try(); got != "E(CS003)0" {
		t.Errorf("a target that says nothing: %s", got)
	}
	<-came
	r.swap(func(st *lane.State) {
		g := *st.Gate
		g.Recorder = full{g.Recorder}
		st.Gate = &g
	})
	if got := try(); got != "E(CS003)0" {
		t.Errorf("a session that cannot be recorded: %s", got)
	}
	if len(came) != 0 {
		t.Error("the target was spoken to")
	}
}

// full is a journal that takes nothing of sessions.
type full struct{ gate.Recorder }

func (f full) Append(ctx context.Context, r *gate.Record) (gate.Receipt, error) {
	if strings.HasPrefix(r.Type, "session.") {
		return gate.Receipt{}, errors.New("the disk is full")
	}
	return f.Recorder.Append(ctx, r)
}

// aPanic is one session's: what was being decided is refused, on record, and its agent told; the others go on.
func aPanic(t *testing.T, w *world) {
	leaks(t)
	r := w.start(t, options{people: true, policy: rules + "\nask contains {\"id\": \"asked\", \"approvers\": [\"payments-oncall\"]} if contains(input.postgres.text, \"asked\")\n"})
	r.swap(func(st *lane.State) {
		g := *st.Gate
		g.Approvals = broken{g.Approvals}
		st.Gate = &g
	})
	one, other := r.raw(), r.raw()
	one.send(message('Q', "INSERT INTO items VALUES (400, 'asked')\x00"))
	if got := one.until(0); got != "E(CS003)0" {
		t.Errorf("a session in which the gateway fails: %s", got)
	}
	other.send(message('Q', "SELECT id FROM items WHERE id = 400\x00"))
	if got := other.until('Z'); got != "TCZ(I)" {
		t.Errorf("another one: %s", got)
	}
	if d := r.await(2, "operation.decided"); d[0]["problem"] != "unavailable" {
		t.Errorf("it is on record as %v", d[0])
	}
	if f := r.await(2, "operation.finished"); f[0]["result"] != "refused" {
		t.Errorf("it is on record as %v", f[0])
	}
	_ = other.Close()
	r.await(2, session.RecordClosed)
	r.stop()
}

// broken is a desk that fails.
type broken struct{ gate.Approvals }

func (broken) Ask(context.Context, *gate.Question) (gate.Pending, func() error, error) {
	panic("the desk has fallen")
}

// stuckReaders: an agent that does not read holds up nothing but its own session, and its requests to cancel do not pile up.
func stuckReaders(t *testing.T, w *world) {
	leaks(t)
	r := w.start(t, options{plain: true})
	var stuck []*raw
	for range 3 {
		c := r.raw()
		c.send(message('Q', "SELECT repeat('x', 10000) FROM generate_series(1, 100000)\x00"))
		stuck = append(stuck, c)
	}
	rests := r.raw()
	extproctest.Await(t, "the server to wait for the agents", 20*time.Second, func(context.Context) error {
		if got := w.postgres.SQL("orders", "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'ClientWrite' AND usename = 'app'"); got != "3" {
			return errors.New(got)
		}
		return nil
	})
	var waiting []net.Conn
	for range 20 {
		c := r.dial()
		r.send(c, cancelOf(stuck[0].key))
		waiting = append(waiting, c)
	}
	done := make(chan error, len(waiting))
	for _, c := range waiting {
		go func() {
			_, err := c.Read(make([]byte, 1))
			done <- err
		}()
	}
	for range len(waiting) - 1 { // but for the one that waits
		if err := <-done; err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("a request to cancel is not done: %v", err)
		}
	}
	r.lane.StopAccepting()
	if got := rests.until(0); got != "E(57P01)0" {
		t.Errorf("a session that rests: %s", got)
	}
	r.stop()
}

// leavingAHold: an agent that takes its leave while people are asked is gone, and what it asked for does not run when they say yes.
func leavingAHold(t *testing.T, w *world) {
	leaks(t)
	r := w.start(t, options{people: true, policy: rules + "\nask contains {\"id\": \"asked\", \"approvers\": [\"payments-oncall\"]} if contains(input.postgres.text, \"asked\")\n"})
	c := r.raw(message('Q', "INSERT INTO items VALUES (500, 'asked')\x00"))
	r.await(1, "approval.requested")
	c.send(message('S', ""), message('X', ""))
	_ = c.Close()
	r.await(1, "approval.withdrawn")
	if f := r.await(1, "operation.finished")[0]; f["result"] != "client_gone" {
		t.Errorf("it ended %v", f)
	}
	r.approve()
	r.await(1, session.RecordClosed)
	if got := w.postgres.SQL("orders", "SELECT count(*) FROM items WHERE id = 500"); got != "0" {
		t.Errorf("it left %s rows", got)
	}
	r.stop()
}
