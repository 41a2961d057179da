package session_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/countersign/countersign/extproc/extproctest"
	"github.com/countersign/countersign/extproc/kind/postgres/session"
)

var discovery = &session.OAuth{Discovery: "https://issuer.test/.well-known/openid-configuration", Scope: "openid gateway"}

func bearing(s *session.Target) { s.OAuth = discovery }

// oauthBearer: a token comes by SASL OAUTHBEARER, who has none is told where it is to be had, and none is written down.
func oauthBearer(t *testing.T, w *world) {
	t.Run("pgx", func(t *testing.T) { bearerOfPgx(t, w) })
	t.Run("libpq 18", func(t *testing.T) { bearerOfLibpq(t, w) })
	t.Run("exchanges", func(t *testing.T) { bearerExchanges(t, w) })
	t.Run("malformed", func(t *testing.T) { bearersThatAreNone(t, w) })
	t.Run("unavailable", func(t *testing.T) { bearerUnavailable(t, w) })
}

func bearerOfPgx(t *testing.T, w *world) {
	r := w.start(t, options{edit: bearing})
	with := func(token string) (*pgx.Conn, error) {
		c := r.config("app", "", "require_auth=oauth")
		c.OAuthTokenProvider = func(context.Context) (string, error) { return token, nil }
		return pgx.ConnectConfig(t.Context(), c)
	}
	c, err := with(r.token(nil))
	if err != nil {
		t.Fatal(err)
	}
	var n int
	if err := c.QueryRow(t.Context(), "SELECT count(*) FROM items").Scan(&n); err != nil || n != 10 {
		t.Errorf("%d, %v", n, err)
	}
	_ = c.Close(t.Context())
	expired := r.token(extproctest.Claims{"exp": time.Now().Add(-time.Hour).Unix()})
	if _, err := with(expired); err == nil || !strings.Contains(err.Error(), "invalid_token") {
		t.Errorf("an expired token: %v", err)
	}
	if _, err := pgx.ConnectConfig(t.Context(), r.config("app", r.token(nil), "")); err == nil {
		t.Error("a token is taken for a password")
	}
}

// bearerOfLibpq: libpq 18 has no token at first, asks where to get one, and connects again with what its hook gives it.
func bearerOfLibpq(t *testing.T, w *world) {
	r := w.start(t, options{edit: bearing})
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var work sync.WaitGroup
	work.Go(func() { r.passOn(l, &work) })
	defer work.Wait()
	defer l.Close()
	_, port, _ := net.SplitHostPort(l.Addr().String())
	library := filepath.Join(filepath.Dir(extproctest.Postgres18(t)), "lib", "libpq.so.5")
	connect := func(token, more string) string {
		t.Helper()
		cmd := extproctest.Clients(t).Python(t.Context(), "testdata/oauth.py", library,
			"host=gateway.test hostaddr=127.0.0.1 port="+port+" user=app dbname=orders sslmode=verify-full sslrootcert="+w.authority.CAFile+
				" require_auth=oauth oauth_issuer=https://issuer.test oauth_client_id=agent-1 "+more)
		cmd.Env = append(cmd.Environ(), "TOKEN="+token)
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		return string(out)
	}
	const asked = "asked https://issuer.test/.well-known/openid-configuration openid gateway\n"
	if got := connect(r.token(nil), ""); got != asked+"read item 3 30000\n" {
		t.Errorf("libpq says\n%s", got)
	}
	if got := connect(r.token(nil), "max_protocol_version=latest sslnegotiation=direct"); got != asked+"read item 3 30002\n" {
		t.Errorf("by protocol 3.2, it says\n%s", got)
	}
	got := connect(r.token(extproctest.Claims{"aud": []string{"other"}}), "")
	if !strings.HasPrefix(got, asked) || !strings.Contains(got, "FATAL:  The credential is missing or was not accepted") || !strings.Contains(got, "(audience)") {
		t.Errorf("with a token for others, it says\n%s", got)
	}
	if n := len(r.records("identity.refused")); n != 4 {
		t.Errorf("%d credentials were refused: one for each time that the client asks where to get one, and one for others", n)
	}
}

// passOn does with connections what Envoy does.
func (r *rig) passOn(l net.Listener, work *sync.WaitGroup) {
	for {
		from, err := l.Accept()
		if err != nil {
			return
		}
		to := r.dial()
		work.Go(func() {
			_, _ = io.Copy(to, from)
			_ = to.Close()
		})
		work.Go(func() {
			_, _ = io.Copy(from, to)
			_ = from.Close()
		})
	}
}

// sasl is a SASLInitialResponse.
func sasl(mechanism, text string) []byte {
	return message('p', mechanism+"\x00"+string(binary.BigEndian.AppendUint32(nil, uint32(len(text))))+text)
}

// offered begins a session and reads what it may authenticate by.
func (r *rig) offered(t *testing.T) *raw {
	t.Helper()
	c := r.secured()
	c.send(startup(3<<16, "user", "app", "database", "orders"))
	if kind, body := c.next(); kind != 'R' || string(body) != "\x00\x00\x00\x0aOAUTHBEARER\x00\x00" {
		t.Fatalf("%q %q", kind, body)
	}
	return c
}

// bearerExchanges are those of RFC 7628, section 4.
func bearerExchanges(t *testing.T, w *world) {
	r := w.start(t, options{edit: bearing})
	good, forged := r.token(nil), r.token(nil)
	forged = forged[:len(forged)-8] + strings.Repeat("A", 8)
	for name, x := range map[string]struct{ text, want string }{
		"a token":                      {"n,,\x01auth=Bearer " + good + "\x01\x01", ""},
		"beside what is not asked for": {"y,,\x01host=gateway.test\x01port=5432\x01auth=bearer  " + good + "\x01\x01", ""},
		"none":                         {"n,,\x01auth=\x01\x01", "missing"},
		"a scheme alone":               {"n,,\x01auth=Bearer \x01\x01", "missing"},
		"a forged one":                 {"n,,\x01auth=Bearer " + forged + "\x01\x01", "signature"},
		"something else":               {"n,,\x01auth=Bearer correct horse\x01\x01", ""},
	} {
		c := r.offered(t)
		before := len(r.records("identity.refused"))
		c.send(sasl("OAUTHBEARER", x.text))
		kind, body := c.next()
		if strings.HasPrefix(name, "a token") || strings.HasPrefix(name, "beside") {
			if kind != 'R' || binary.BigEndian.Uint32(body) != 0 || !strings.HasSuffix(c.until('Z'), "Z(I)") {
				t.Errorf("%s: %q %q", name, kind, body)
			}
			continue
		}
		told := map[string]string{}
		if kind != 'R' || binary.BigEndian.Uint32(body) != 11 || json.Unmarshal(body[4:], &told) != nil || len(told) != 3 ||
			told["status"] != "invalid_token" || told["openid-configuration"] != discovery.Discovery || told["scope"] != discovery.Scope {
			t.Errorf("%s: %q %q", name, kind, body)
		}
		c.send(message('p', "\x01"))
		if got := c.until(0); got != "E(28000)0" {
			t.Errorf("%s: and then %s", name, got)
		}
		refused := r.records("identity.refused")
		if len(refused) != before+1 || x.want != "" && refused[before]["reason"] != x.want {
			t.Errorf("%s: the records say %v", name, refused[before:])
		}
	}
	// The first message can be asked for (RFC 4422, section 5).
	c := r.offered(t)
	c.send(message('p', "OAUTHBEARER\x00\xFF\xFF\xFF\xFF"))
	if kind, body := c.next(); kind != 'R' || binary.BigEndian.Uint32(body) != 11 || len(body) != 4 {
		t.Errorf("%q %q", kind, body)
	}
	c.send(message('p', "n,,\x01auth=Bearer "+good+"\x01\x01"))
	if got := c.until('Z'); !strings.HasPrefix(got, "RS") {
		t.Errorf("asked for: %s", got)
	}
	// A client that goes on after a refusal is not let in.
	c = r.offered(t)
	c.send(sasl("OAUTHBEARER", "n,,\x01auth=\x01\x01"), message('p', "n,,\x01auth=Bearer "+good+"\x01\x01"))
	if got := c.until(0); got != "RE(08P01)0" {
		t.Errorf("a token after a refusal: %s", got)
	}
	r.stop()
	unwritten(t, r, good, forged)
}

// unwritten fails the test where the journal or the log has one of texts.
func unwritten(t *testing.T, r *rig, texts ...string) {
	t.Helper()
	files := map[string][]byte{"the log": []byte(r.log.String())}
	err := filepath.Walk(filepath.Join(r.dir, "journal"), func(path string, info os.FileInfo, err error) error {
		if err == nil && info.Mode().IsRegular() {
			files[path], err = os.ReadFile(path)
		}
		return err
	})
	if err != nil || len(files) < 2 {
		t.Fatalf("%d files, %v", len(files), err)
	}
	for name, text := range files {
		for _, secret := range texts {
			for _, part := range strings.Split(secret, ".") {
				if len(part) > 8 && bytes.Contains(text, []byte(part)) {
					t.Errorf("%s has %.12q… of a secret", name, part)
				}
			}
		}
	}
}

// bearersThatAreNone: a message that can be read in two ways is not read.
func bearersThatAreNone(t *testing.T, w *world) {
	r := w.start(t, options{edit: bearing})
	token := r.token(nil)
	auth := "auth=Bearer " + token + "\x01"
	for name, sent := range map[string][]byte{
		"another mechanism":       sasl("SCRAM-SHA-256", "n,,n=,r=abc"),
		"PLUS":                    sasl("OAUTHBEARER-PLUS", "n,,\x01"+auth+"\x01"),
		"no mechanism":            message('p', "OAUTHBEARER"),
		"the token as a password": message('p', token+"\x00"),
		"a length that lies":      message('p', "OAUTHBEARER\x00\x00\x00\xFF\xFFn,,\x01"+auth+"\x01"),
		"a length that is less":   message('p', "OAUTHBEARER\x00\x00\x00\x00\x03n,,\x01"+auth+"\x01"),
		"no header":               sasl("OAUTHBEARER", "\x01"+auth+"\x01"),
		"bound to the channel":    sasl("OAUTHBEARER", "p=tls-unique,,\x01"+auth+"\x01"),
		"as somebody else":        sasl("OAUTHBEARER", "n,a=postgres,\x01"+auth+"\x01"),
		"without an end":          sasl("OAUTHBEARER", "n,,\x01"+strings.TrimSuffix(auth, "\x01")),
		"with one end":            sasl("OAUTHBEARER", "n,,\x01"+auth),
		"two tokens":              sasl("OAUTHBEARER", "n,,\x01"+auth+auth+"\x01"),
		"an empty one and a good": sasl("OAUTHBEARER", "n,,\x01auth=\x01"+auth+"\x01"),
		"more behind":             sasl("OAUTHBEARER", "n,,\x01"+auth+"\x01x"),
		"another scheme":          sasl("OAUTHBEARER", "n,,\x01auth=Basic "+token+"\x01\x01"),
		"no auth":                 sasl("OAUTHBEARER", "n,,\x01host=x\x01\x01"),
		"a name that is none":     sasl("OAUTHBEARER", "n,,\x01au_th=x\x01"+auth+"\x01"),
		"a statement":             message('Q', "SELECT 1\x00"),
	} {
		c := r.offered(t)
		c.send(sent)
		kind, body := c.next()
		if kind != 'E' || !bytes.Contains(body, []byte("\x00C08P01\x00")) || bytes.Contains(body, []byte(token)) {
			t.Errorf("%s: %q %q", name, kind, body)
		}
		if got := c.until(0); got != "0" {
			t.Errorf("%s: and then %s", name, got)
		}
	}
	plain := &raw{t: t, Conn: r.dial()}
	plain.send(startup(3<<16, "user", "app", "database", "orders"))
	if got := plain.until(0); got != "E(28000)0" {
		t.Errorf("without TLS: %s", got)
	}
	if n := len(r.records(session.RecordOpened)); n != 0 {
		t.Errorf("%d sessions were opened", n)
	}
	r.stop()
	unwritten(t, r, token)
}

// bearerUnavailable: a token that cannot be verified for the gateway's own sake is not called invalid, or its agent would get another.
func bearerUnavailable(t *testing.T, w *world) {
	r := w.start(t, options{edit: bearing})
	if err := r.journal.Close(); err != nil {
		t.Fatal(err)
	}
	c := r.offered(t)
	c.send(sasl("OAUTHBEARER", "n,,\x01auth=\x01\x01"))
	if got := c.until(0); got != "E(CS003)0" {
		t.Errorf("a refusal that cannot be recorded: %s", got)
	}
}
