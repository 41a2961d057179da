package session_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/binary"
	"encoding/json"
	"errors"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/countersign/countersign/extproc/approval"
	"github.com/countersign/countersign/extproc/approval/approvaltest"
	"github.com/countersign/countersign/extproc/approval/embedded"
	"github.com/countersign/countersign/extproc/approval/question"
	"github.com/countersign/countersign/extproc/evidence"
	"github.com/countersign/countersign/extproc/extproctest"
	"github.com/countersign/countersign/extproc/gate"
	"github.com/countersign/countersign/extproc/identity"
	"github.com/countersign/countersign/extproc/kind"
	"github.com/countersign/countersign/extproc/kind/postgres"
	"github.com/countersign/countersign/extproc/kind/postgres/session"
	"github.com/countersign/countersign/extproc/kind/postgres/statement"
	"github.com/countersign/countersign/extproc/lane"
	"github.com/countersign/countersign/extproc/policy"
	"github.com/countersign/countersign/extproc/redact"
)

// The target of these tests is a real PostgreSQL server, and so are the issuer, the policies and the journal. What stands in for
// Envoy is the header that it writes, so that the tests can be clients that Envoy's own would not be.

const rules = `package rules.orders

allow contains {"id": "reads"} if input.postgres.access == "read"

allow contains {"id": "session"} if input.postgres.access in {"session", "transaction"}

allow contains {"id": "writes"} if {
	input.postgres.access == "write"
	not input.postgres.kind == "delete"
}

deny contains {"id": "no-drop", "reason": "nothing is dropped here"} if contains(input.postgres.text, "DROP")

deny contains {"id": "no-seven", "reason": "seven is not for agents"} if {
	some p in input.postgres.parameters
	p.value == "7"
}
`

const tables = `
CREATE ROLE app LOGIN PASSWORD 'correct horse';
CREATE ROLE shown LOGIN;
CREATE DATABASE orders OWNER app;
\connect orders
SET ROLE app;
CREATE TABLE items (id int PRIMARY KEY, name text NOT NULL);
INSERT INTO items SELECT i, 'item ' || i FROM generate_series(1, 10) AS i;
GRANT SELECT ON items TO shown;
RESET ROLE;
CREATE ROLE clear LOGIN PASSWORD 'correct horse';
SET password_encryption = 'md5';
CREATE ROLE hashed LOGIN PASSWORD 'correct horse';
`

// world is what all tests of this package share: starting it takes a second.
type world struct {
	authority *extproctest.Authority
	postgres  *extproctest.Postgres
	issuer    *extproctest.Issuer
}

func newWorld(t extproctest.TB) *world {
	w := &world{authority: extproctest.NewAuthority(t)}
	if _, err := statement.Parse("SELECT 1", true); err != nil { // the parser takes seconds to start, which no test is to wait for
		t.Fatalf("start the parser: %v", err)
	}
	w.issuer = extproctest.StartIssuer(t, extproctest.IssuerOptions{})
	w.postgres = extproctest.StartPostgres(t, extproctest.PostgresConfig{
		Authority: w.authority, SQL: tables,
		HBA: []string{
			"hostssl all shown 127.0.0.1/32 cert", "host all hashed 127.0.0.1/32 md5", "host all clear 127.0.0.1/32 password",
		},
		Lines: []string{"log_line_prefix = '%m [%p] %a '"},
	})
	return w
}

// rig is one server of sessions.
type rig struct {
	*world
	t       *testing.T
	target  *session.Target
	lane    *lane.Lane
	journal *evidence.Journal
	dir     string
	socket  string
	state   *lane.State
	log     *logged
	desk    *approval.Desk // where people are asked
	ahead   atomic.Int64   // of the lane's clock
	stop    func()
}

// logged is what a rig has logged.
type logged struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (l *logged) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(b)
}

func (l *logged) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

type options struct {
	plain  bool // agents connect without TLS
	edit   func(*session.Target)
	policy string
	bound  func(*session.Server)
	people bool // are asked
}

func (w *world) start(t *testing.T, o options) *rig {
	t.Helper()
	r := &rig{world: w, t: t, dir: extproctest.Dir(t), log: &logged{}}
	t.Cleanup(func() {
		if t.Failed() {
			t.Log(r.log.String())
		}
	})
	r.socket = filepath.Join(r.dir, "postgres.sock")
	listen := w.authority.Issue("gateway.test")
	password := r.file("password", "correct horse\n")
	shown := w.authority.Issue("shown")
	r.target = &session.Target{
		Address: w.postgres.Address, TLS: &session.TLS{CAFile: w.authority.CAFile, Name: "db.test"},
		Roles: map[string]session.Credential{
			"app":   {PasswordFile: password},
			"shown": {CertificateFile: shown.CertFile, KeyFile: shown.KeyFile},
			"gone":  {PasswordFile: password}, "clear": {PasswordFile: password}, "hashed": {PasswordFile: password},
		},
		Certificate: listen.CertFile, Key: listen.KeyFile, Fingerprint: "f1", Plans: redact.NewPlans(make([]byte, 32)),
		Limits: session.Limits{Statement: 64 << 10, Message: 1 << 20, Sessions: 20, SessionTime: time.Hour, Idle: time.Minute},
	}
	if o.plain {
		r.target.Certificate, r.target.Key = "", ""
	}
	if o.edit != nil {
		o.edit(r.target)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var err error
	if r.journal, err = evidence.Open(ctx, evidence.Options{Dir: filepath.Join(r.dir, "journal"), Node: "gw", CheckpointEvery: time.Hour, Log: slog.New(slog.DiscardHandler)}); err != nil {
		t.Fatal(err)
	}
	verifier, err := identity.New(identity.Options{Issuers: []identity.Issuer{{
		Issuer: w.issuer.URL, Audience: []string{extproctest.Audience}, MaxLifetime: time.Hour, Skew: time.Minute, KeysMaxAge: time.Hour,
	}}, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	verifier.Start(ctx)
	r.lane = lane.New(lane.Options{Log: slog.New(slog.NewTextHandler(r.log, &slog.HandlerOptions{Level: slog.LevelDebug})), Now: r.now, Alarm: func(string, string) {}})
	text := o.policy
	if text == "" {
		text = rules
	}
	r.state = &lane.State{
		Gate:     &gate.Gate{Policy: r.policies(text), Recorder: r.journal, DigestKey: make([]byte, 32), ConfigDigest: "c1", Now: time.Now},
		Identity: verifier, Memory: 64 << 20,
		Resources: map[string]*lane.Resource{"orders": {Resource: gate.Resource{Name: "orders", Kind: "postgres", Policy: "orders"}, EndWithToken: true, Own: r.target}},
	}
	if o.people {
		r.ask(ctx)
	}
	if err := r.journal.Started(ctx, gate.Object{}); err != nil {
		t.Fatal(err)
	}
	if err := r.lane.Swap(r.state, nil); err != nil {
		t.Fatal(err)
	}
	l, err := (&net.ListenConfig{}).Listen(ctx, "unix", r.socket)
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	server := session.New(r.lane)
	if o.bound != nil {
		o.bound(server)
	}
	go func() { served <- server.Serve(ctx, l) }()
	stopped := false
	r.stop = func() {
		if stopped {
			return
		}
		stopped = true
		cancel()
		if err := <-served; err != nil {
			t.Errorf("serve: %v", err)
		}
		if n := r.lane.Memory(); n != 0 {
			t.Errorf("%d bytes of memory are not given back", n)
		}
		verifier.Close()
		if err := r.journal.Close(); err != nil {
			t.Errorf("close the journal: %v", err)
		}
	}
	t.Cleanup(r.stop)
	return r
}

// now is the lane's clock, which can be set ahead.
func (r *rig) now() time.Time { return time.Now().Add(time.Duration(r.ahead.Load())) }

// later sets the lane's clock ahead, and has it look at what ends.
func (r *rig) later(d time.Duration) {
	r.t.Helper()
	r.ahead.Add(int64(d))
	r.swap(func(*lane.State) {})
}

// swap is a reload.
func (r *rig) swap(change func(*lane.State)) {
	r.t.Helper()
	st := *r.lane.State()
	change(&st)
	if err := r.lane.Swap(&st, nil); err != nil {
		r.t.Fatal(err)
	}
}

// retarget is a reload that changes the resource, or removes it where change is nil.
func (r *rig) retarget(change func(*session.Target)) {
	r.t.Helper()
	r.swap(func(st *lane.State) {
		other := *r.target
		of := *st.Resources["orders"]
		of.Own = &other
		st.Resources = map[string]*lane.Resource{"orders": &of}
		if change == nil {
			st.Resources = map[string]*lane.Resource{}
			return
		}
		change(&other)
	})
}

// ask has people be asked, and statements be held for them.
func (r *rig) ask(ctx context.Context) {
	r.t.Helper()
	store, err := embedded.Open(filepath.Join(r.dir, "approvals"), embedded.Options{NoSync: true})
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { _ = store.Close() })
	if r.desk, err = approval.NewDesk(approval.Options{Store: store, Recorder: r.journal, Node: "gw", People: approvaltest.People, TTL: time.Hour}); err != nil {
		r.t.Fatal(err)
	}
	var run sync.WaitGroup
	run.Go(func() { _ = r.desk.Run(ctx) })
	r.t.Cleanup(func() {
		r.stop()
		run.Wait()
	})
	r.state.Gate.Approvals = &question.Asker{Desk: r.desk, History: question.NewHistory(), Kinds: []kind.Kind{postgres.Kind}, RedactKey: make([]byte, 32)}
	r.state.Resources["orders"].Hold = time.Minute
}

// approve approves what is waited for.
func (r *rig) approve() {
	r.t.Helper()
	id := r.await(1, "approval.requested")[0]["approval"]
	one, err := r.desk.Get(r.t.Context(), id.(string))
	if err == nil {
		_, err = r.desk.Decide(r.t.Context(), approvaltest.Oncall("bob"), one.ID, approval.Answer{Approve: true, Card: one.CardDigest, Reason: "it is right"})
	}
	if err != nil {
		r.t.Fatal(err)
	}
}

func (r *rig) file(name, text string) string {
	r.t.Helper()
	path := filepath.Join(r.dir, name)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		r.t.Fatal(err)
	}
	return path
}

func (r *rig) policies(text string) *policy.Set {
	r.t.Helper()
	dir := filepath.Join(r.dir, "policies")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		r.t.Fatal(err)
	}
	r.file("policies/orders.rego", text)
	set, err := policy.Load(context.Background(), policy.Options{
		Path: dir, Timeout: time.Minute, Kinds: []policy.Kind{{Name: "postgres", Doc: "the statement", Detail: session.Schema{}, Redact: []gate.Selector{gate.ByColumn, gate.ByDetect}, Limit: gate.AllLimits}}, CheckRedaction: redact.Check, Packages: map[string][]string{"orders": {"postgres"}},
	})
	if err != nil {
		r.t.Fatal(err)
	}
	return set
}

// header is what Envoy writes before an agent's first byte.
func header(resource, fingerprint string) []byte {
	b := append([]byte("\r\n\r\n\x00\r\nQUIT\n"), 0x21, 0x11)
	rest := append([]byte{192, 0, 2, 7, 127, 0, 0, 1}, 0x30, 0x39, 0x19, 0x20)
	for kind, value := range map[byte]string{0xE0: resource, 0xE1: fingerprint} {
		rest = append(binary.BigEndian.AppendUint16(append(rest, kind), uint16(len(value))), value...)
	}
	return append(binary.BigEndian.AppendUint16(b, uint16(len(rest))), rest...)
}

// dial connects as Envoy does.
func (r *rig) dial() net.Conn {
	r.t.Helper()
	c, err := net.Dial("unix", r.socket)
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { _ = c.Close() })
	if _, err := c.Write(header("orders", "f1")); err != nil {
		r.t.Fatal(err)
	}
	_ = c.SetDeadline(time.Now().Add(30 * time.Second))
	return c
}

func (r *rig) token(claims extproctest.Claims) string {
	if claims == nil {
		claims = extproctest.Claims{}
	}
	return r.issuer.Token(claims)
}

// config is how pgx connects, as a role and with a token.
func (r *rig) config(role, token, more string) *pgx.ConnConfig {
	r.t.Helper()
	mode := "sslmode=verify-full sslrootcert=" + r.authority.CAFile
	if r.target.Certificate == "" {
		mode = "sslmode=disable"
	}
	c, err := pgx.ParseConfig("host=gateway.test port=5432 user=" + role + " dbname=orders " + mode + " " + more)
	if err != nil {
		r.t.Fatal(err)
	}
	c.Password = token
	c.LookupFunc = func(_ context.Context, host string) ([]string, error) { return []string{host}, nil }
	c.DialFunc = func(context.Context, string, string) (net.Conn, error) {
		conn, err := net.Dial("unix", r.socket)
		if err == nil {
			_, err = conn.Write(header("orders", "f1"))
		}
		return conn, err
	}
	return c
}

// connect is a session of an agent that is let in.
func (r *rig) connect(more string) *pgx.Conn {
	r.t.Helper()
	c, err := pgx.ConnectConfig(r.t.Context(), r.config("app", r.token(nil), more))
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { _ = c.Close(context.Background()) })
	return c
}

// records are those of the journal, of some types, each as its body.
func (r *rig) records(kinds ...string) []map[string]any {
	r.t.Helper()
	var list []map[string]any
	for e, err := range evidence.Records(context.Background(), filepath.Join(r.dir, "journal"), evidence.Filter{}) {
		if err != nil {
			r.t.Fatal(err)
		}
		if slices.Contains(kinds, e.Type) {
			body := map[string]any{}
			if err := json.Unmarshal(e.Body, &body); err != nil {
				r.t.Fatal(err)
			}
			body["type"] = e.Type
			list = append(list, body)
		}
	}
	return list
}

// await waits for n records of a type.
func (r *rig) await(n int, kinds ...string) []map[string]any {
	r.t.Helper()
	var list []map[string]any
	extproctest.Await(r.t, strings.Join(kinds, ", "), 10*time.Second, func(context.Context) error {
		if list = r.records(kinds...); len(list) < n {
			return errors.New("they are not there")
		}
		return nil
	})
	return list
}

// code is the SQLSTATE of an error, or what else it is.
func code(err error) string {
	var pg *pgconn.PgError
	switch {
	case err == nil:
		return ""
	case errors.As(err, &pg):
		return pg.Code
	default:
		return err.Error()
	}
}

// leaks fails the test if a goroutine of a session is left at its end.
func leaks(t *testing.T) {
	t.Helper()
	t.Cleanup(func() {
		extproctest.Await(t, "the end of every session's goroutines", 10*time.Second, func(context.Context) error {
			buf := make([]byte, 4<<20)
			for stack := range strings.SplitSeq(string(buf[:runtime.Stack(buf, true)]), "\n\n") {
				if strings.Contains(stack, "postgres/session.(") {
					return errors.New(stack)
				}
			}
			return nil
		})
	})
}

// raw speaks the protocol message by message.
type raw struct {
	t *testing.T
	net.Conn
	key []byte // to cancel by
}

// secured is a connection over TLS that was asked for, where the rig has that.
func (r *rig) secured() *raw {
	r.t.Helper()
	c := r.dial()
	if r.target.Certificate != "" {
		r.send(c, []byte{0, 0, 0, 8, 0x04, 0xd2, 0x16, 0x2f})
		var answer [1]byte
		if _, err := c.Read(answer[:]); err != nil || answer[0] != 'S' {
			r.t.Fatalf("asked for TLS and was told %q, %v", answer, err)
		}
		inner := tls.Client(c, &tls.Config{RootCAs: r.authority.Pool, ServerName: "gateway.test", MinVersion: tls.VersionTLS12})
		if err := inner.Handshake(); err != nil {
			r.t.Fatal(err)
		}
		c = inner
	}
	return &raw{t: r.t, Conn: c}
}

// raw logs in by hand. first is sent together with the token.
func (r *rig) raw(first ...[]byte) *raw {
	r.t.Helper()
	out := r.secured()
	out.send(startup(3<<16, "user", "app", "database", "orders"))
	if kind, body := out.next(); kind != 'R' || binary.BigEndian.Uint32(body) != 3 {
		r.t.Fatalf("%q %q", kind, body)
	}
	out.send(append([][]byte{message('p', r.token(nil)+"\x00")}, first...)...)
	for {
		switch kind, body := out.next(); kind {
		case 'E':
			r.t.Fatalf("%q", body)
		case 'K':
			out.key = body
		case 'Z':
			return out
		}
	}
}

func (r *rig) send(c net.Conn, b []byte) {
	r.t.Helper()
	if _, err := c.Write(b); err != nil {
		r.t.Fatal(err)
	}
}

func (c *raw) send(b ...[]byte) {
	c.t.Helper()
	if _, err := c.Write(slices.Concat(b...)); err != nil {
		c.t.Fatal(err)
	}
}

// next is the next message; 0 at the end of the connection.
func (c *raw) next() (byte, []byte) {
	c.t.Helper()
	var h [5]byte
	for n := 0; n < 5; {
		m, err := c.Read(h[n:])
		if err != nil {
			return 0, []byte(err.Error())
		}
		n += m
	}
	body := make([]byte, binary.BigEndian.Uint32(h[1:])-4)
	for n := 0; n < len(body); {
		m, err := c.Read(body[n:])
		if err != nil {
			c.t.Fatal(err)
		}
		n += m
	}
	return h[0], body
}

// until reads up to a message of that type, and returns the types of all, and of an error its code.
func (c *raw) until(last byte) string {
	c.t.Helper()
	var seen strings.Builder
	for {
		kind, body := c.next()
		seen.WriteByte(max(kind, '0'))
		if kind == 'E' {
			_, after, _ := strings.Cut(string(body), "\x00C")
			state, _, _ := strings.Cut(after, "\x00")
			seen.WriteString("(" + state + ")")
		}
		if kind == 'Z' {
			seen.WriteString("(" + string(body) + ")")
		}
		if kind == last || kind == 0 {
			return seen.String()
		}
	}
}

func message(kind byte, body string) []byte {
	return append(binary.BigEndian.AppendUint32([]byte{kind}, uint32(4+len(body))), body...)
}

func startup(version uint32, parameters ...string) []byte {
	body := strings.Join(parameters, "\x00") + "\x00\x00"
	b := binary.BigEndian.AppendUint32(nil, uint32(8+len(body)))
	return append(binary.BigEndian.AppendUint32(b, version), body...)
}
