package session_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/binary"
	"io"
	"net"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/countersign/countersign/extproc/extproctest"
	"github.com/countersign/countersign/extproc/kind/postgres/session"
)

// middle is somebody between the gateway and the server.
type middle struct {
	net.Listener
	heard logged // what the gateway has said to it, once TLS was there if it speaks that

	mu    sync.Mutex
	conns []net.Conn
}

// between has somebody stand there. With a certificate it ends the gateway's TLS and begins its own; turn changes what the server says.
func (w *world) between(t *testing.T, certificate *tls.Certificate, turn func([]byte) []byte) *middle {
	t.Helper()
	m := &middle{}
	var err error
	if m.Listener, err = net.Listen("tcp", "127.0.0.1:0"); err != nil {
		t.Fatal(err)
	}
	var work sync.WaitGroup
	work.Go(func() {
		for {
			c, err := m.Accept()
			if err != nil {
				return
			}
			work.Go(func() { m.relay(c, w.postgres.Address, certificate, turn) })
		}
	})
	t.Cleanup(func() {
		_ = m.Close()
		m.reset()
		work.Wait()
	})
	return m
}

// reset breaks every connection off, as a machine does that has lost power and come back.
func (m *middle) reset() {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, c := range m.conns {
		_ = c.(*net.TCPConn).SetLinger(0)
		_ = c.Close()
	}
	m.conns = nil
}

func (m *middle) relay(from net.Conn, address string, certificate *tls.Certificate, turn func([]byte) []byte) {
	to, err := net.Dial("tcp", address)
	if err != nil {
		_ = from.Close()
		return
	}
	m.mu.Lock()
	m.conns = append(m.conns, from, to)
	m.mu.Unlock()
	defer from.Close()
	defer to.Close()
	if certificate != nil {
		asked := []byte{0, 0, 0, 8, 0x04, 0xd2, 0x16, 0x2f}
		answer := make([]byte, 1)
		if _, err := io.ReadFull(from, make([]byte, 8)); err != nil {
			return
		}
		_, _ = to.Write(asked)
		if _, err := io.ReadFull(to, answer); err != nil {
			return
		}
		_, _ = from.Write(answer)
		inner := tls.Server(from, &tls.Config{Certificates: []tls.Certificate{*certificate}, MinVersion: tls.VersionTLS12})
		if inner.Handshake() != nil {
			return
		}
		from, to = inner, tls.Client(to, &tls.Config{InsecureSkipVerify: true, MinVersion: tls.VersionTLS12}) //nolint:gosec // it is the attacker's
	}
	go func() {
		_, _ = io.Copy(io.MultiWriter(to, &m.heard), from)
		_ = to.Close()
	}()
	b := make([]byte, 64<<10)
	for {
		n, err := to.Read(b)
		if n > 0 {
			said := b[:n]
			if turn != nil {
				said = turn(said)
			}
			if _, err := from.Write(said); err != nil {
				return
			}
		}
		if err != nil {
			return
		}
	}
}

// bindNothing takes SCRAM-SHA-256-PLUS out of what the server offers.
func bindNothing(b []byte) []byte {
	plus := []byte("SCRAM-SHA-256-PLUS\x00")
	if b[0] != 'R' || !bytes.Contains(b, plus) {
		return b
	}
	b = bytes.Replace(bytes.Clone(b), plus, nil, 1)
	binary.BigEndian.PutUint32(b[1:], uint32(len(b)-1))
	return b
}

// theWrongTarget: whoever is not the target is not told the credential, and learns nothing to be the gateway by.
func theWrongTarget(t *testing.T, w *world) {
	good := w.authority.Issue("db.test").TLS
	other, expired, foreign := w.authority.Issue("other.test").TLS, w.authority.IssueUntil(time.Now().Add(-time.Minute), "db.test").TLS, extproctest.NewAuthority(t).Issue("db.test").TLS
	for name, c := range map[string]struct {
		certificate *tls.Certificate
		turn        func([]byte) []byte
		logged      string
		hears       bool // something of the login, though not what the credential is
	}{
		"of another name":                      {&other, nil, "db.test", false},
		"expired":                              {&expired, nil, "expired", false},
		"of another authority":                 {&foreign, nil, "unknown authority", false},
		"of the right name, between the two":   {&good, nil, "28000", true},
		"that takes the channel binding out":   {&good, bindNothing, "SCRAM channel binding negotiation error", true},
		"that refuses to speak TLS":            {nil, func(b []byte) []byte { return append([]byte("N"), b[1:]...) }, "does not speak TLS", true},
		"that goes on in the clear behind 'S'": {nil, func(b []byte) []byte { return append([]byte("S"), "R\x00\x00\x00\x08\x00\x00\x00\x03"...) }, "TLS", true},
	} {
		t.Run(name, func(t *testing.T) {
			m := w.between(t, c.certificate, c.turn)
			r := w.start(t, options{edit: func(s *session.Target) { s.Address = m.Addr().String() }})
			_, err := pgx.ConnectConfig(t.Context(), r.config("app", r.token(nil), ""))
			if code(err) != "CS003" {
				t.Fatalf("%v", err)
			}
			if strings.Contains(err.Error(), "db.test") || strings.Contains(err.Error(), "127.0.0.1") || strings.Contains(err.Error(), "28P01") {
				t.Errorf("the agent is told %v", err)
			}
			if heard := m.heard.String(); strings.Contains(heard, "correct horse") || !c.hears && heard != "" {
				t.Errorf("it has heard %q", heard)
			}
			if log := r.log.String(); !strings.Contains(log, c.logged) || strings.Contains(log, "correct horse") {
				t.Errorf("the log says nothing of %q, or too much:\n%s", c.logged, log)
			}
			unwritten(t, r, "correct horse")
		})
	}
}

// passwordsByMethod: a password goes to a server that proves that it knows it, or over TLS to one that must have it in the clear.
func passwordsByMethod(t *testing.T, w *world) {
	for name, c := range map[string]struct {
		role  string
		plain bool
		want  string
		log   string
	}{
		"SCRAM, bound":           {"app", false, "", ""},
		"SCRAM without TLS":      {"app", true, "", ""},
		"in the clear over TLS":  {"clear", false, "", ""},
		"in the clear":           {"clear", true, "CS003", "set target_tls"},
		"MD5 over TLS":           {"hashed", false, "CS003", "asks for the password by MD5: have it ask by scram-sha-256"},
		"MD5":                    {"hashed", true, "CS003", "set target_tls"},
		"a role without a login": {"gone", false, "CS003", "28P01"},
	} {
		t.Run(name, func(t *testing.T) {
			m := w.between(t, nil, nil)
			r := w.start(t, options{edit: func(s *session.Target) {
				if c.plain {
					s.Address, s.TLS = m.Addr().String(), nil
				}
			}})
			conn, err := pgx.ConnectConfig(t.Context(), r.config(c.role, r.token(nil), ""))
			if code(err) != c.want {
				t.Fatalf("%v, want %q", err, c.want)
			}
			if err == nil {
				_ = conn.Close(context.Background())
			}
			if log := r.log.String(); !strings.Contains(log, c.log) {
				t.Errorf("the log says nothing of %q:\n%s", c.log, log)
			}
			if heard := m.heard.String(); strings.Contains(heard, "correct horse") {
				t.Errorf("the password was heard: %q", heard)
			}
		})
	}
}

// renewed: certificates and passwords are read for each session, so that new ones need no reload.
func renewed(t *testing.T, w *world) {
	listener := extproctest.Dir(t)
	put := func(name, from string) string {
		t.Helper()
		text, err := os.ReadFile(from)
		if err == nil {
			err = os.WriteFile(listener+"/"+name, text, 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
		return listener + "/" + name
	}
	replace := func(of extproctest.Certificate, name string) (certificate, key string) {
		t.Helper()
		return put(name+".pem", of.CertFile), put(name+".key", of.KeyFile)
	}
	first, second := w.authority.Issue("gateway.test"), w.authority.Issue("gateway.test")
	r := w.start(t, options{edit: func(s *session.Target) {
		s.Certificate, s.Key = replace(first, "listener")
		c := session.Credential{}
		c.CertificateFile, c.KeyFile = replace(w.authority.Issue("shown"), "shown")
		s.Roles = map[string]session.Credential{"app": s.Roles["app"], "shown": c}
	}})
	shows := func() string {
		t.Helper()
		c := r.secured()
		defer c.Close()
		return c.Conn.(*tls.Conn).ConnectionState().PeerCertificates[0].SerialNumber.String()
	}
	connects := func(want string) {
		t.Helper()
		c, err := pgx.ConnectConfig(t.Context(), r.config("shown", r.token(nil), ""))
		if code(err) != want {
			t.Errorf("%v, want %q", err, want)
		}
		if err == nil {
			_ = c.Close(context.Background())
		}
	}
	open := r.raw()
	if got := shows(); got != first.TLS.Leaf.SerialNumber.String() {
		t.Errorf("the listener shows %s", got)
	}
	connects("")
	replace(second, "listener")
	replace(w.authority.Issue("somebody"), "shown")
	if got := shows(); got != second.TLS.Leaf.SerialNumber.String() {
		t.Errorf("the listener shows %s, after it was renewed", got)
	}
	connects("CS003")
	replace(w.authority.Issue("shown"), "shown")
	connects("")
	put("listener.pem", first.CertFile) // of another key
	c := r.dial()
	r.send(c, []byte{0, 0, 0, 8, 0x04, 0xd2, 0x16, 0x2f})
	if heard, err := io.ReadAll(c); err != nil || string(heard) != "S" {
		t.Errorf("a certificate of another key: %q, %v", heard, err)
	}
	extproctest.Await(t, "the log to say why", 10*time.Second, func(context.Context) error {
		if !strings.Contains(r.log.String(), "level=WARN msg=\"agents cannot connect\"") {
			return io.EOF
		}
		return nil
	})
	open.send(message('Q', "SELECT 1\x00"))
	if got := open.until('Z'); got != "TDCZ(I)" {
		t.Errorf("a session from before: %s", got)
	}
}

// targetsThatGo: whatever becomes of the server, the agent is told, what ran is on record, and a new session begins once it is back.
func targetsThatGo(t *testing.T, w *world) {
	leaks(t)
	m := w.between(t, nil, nil)
	r := w.start(t, options{edit: func(s *session.Target) { s.Address = m.Addr().String() }})
	rests, works := r.raw(), r.raw()
	works.send(message('Q', "SELECT pg_sleep(34)\x00"))
	w.sleeping(t, 1, "SELECT pg_sleep(34)")
	m.reset()
	for name, c := range map[string]*raw{"rests": rests, "works": works} {
		if got := c.until(0); got != "E(CS003)0" {
			t.Errorf("a target that is reset while a session %s: %s", name, got)
		}
	}
	r.await(2, session.RecordClosed)
	if got := r.await(1, "operation.finished")[0]["result"]; got != "client_gone" && got != "target_failed" {
		t.Errorf("what ran ended %v", got)
	}
	w.postgres.SQL("orders", "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE 'SELECT pg_sleep(34%'")
	rests, works = r.raw(), r.raw()
	works.send(message('Q', "BEGIN; SELECT pg_sleep(34)\x00"))
	w.sleeping(t, 1, "BEGIN; SELECT pg_sleep(34)")
	w.postgres.Restart()
	for name, c := range map[string]*raw{"rests": rests, "works": works} {
		if got := c.until(0); !strings.HasSuffix(got, "E(57P01)0") && !strings.HasSuffix(got, "E(57P01)E(CS003)0") {
			t.Errorf("a server that stops while a session %s: %s", name, got)
		}
	}
	again := r.raw()
	again.send(message('Q', "SELECT 1\x00"))
	if got := again.until('Z'); got != "TDCZ(I)" {
		t.Errorf("after that: %s", got)
	}
	_ = again.Close()
	r.await(5, session.RecordClosed)
	r.stop()
}

// clientsThatGo: a client that resets or half closes its connection has left, and what it did ends at the server.
func clientsThatGo(t *testing.T, w *world) {
	leaks(t)
	r := w.start(t, options{plain: true, edit: func(s *session.Target) { s.Limits.Sessions = 10 }})
	half, unread, within := r.raw(), r.raw(), r.raw()
	half.send(message('Q', "SELECT pg_sleep(35)\x00"))
	within.send([]byte("Q\x00\x00\x00\x40SELECT 1; DEL")) // in the middle of a message
	unread.send(message('Q', "SELECT repeat('x', 10000) FROM generate_series(1, 10000)\x00"))
	w.sleeping(t, 1, "SELECT pg_sleep(35)")
	extproctest.Await(t, "the server to wait for the agent", 20*time.Second, func(context.Context) error {
		if got := w.postgres.SQL("orders", "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'ClientWrite' AND usename = 'app'"); got != "1" {
			return io.EOF
		}
		return nil
	})
	if err := half.Conn.(*net.UnixConn).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	_ = unread.Close() // with what was not read: a reset
	_ = within.Close()
	if got := half.until(0); got != "0" {
		t.Errorf("who has half closed hears %s", got)
	}
	w.sleeping(t, 0, "SELECT")
	r.await(3, session.RecordClosed)
	for _, f := range r.await(2, "operation.finished") {
		if f["result"] != "client_gone" {
			t.Errorf("what ran ended %v", f["result"])
		}
	}
	r.stop()
}
