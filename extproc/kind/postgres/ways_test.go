package postgres_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/countersign/countersign/extproc/config"
	"github.com/countersign/countersign/extproc/evidence"
	"github.com/countersign/countersign/extproc/extproctest"
	"github.com/countersign/countersign/extproc/kind/postgres"
	"github.com/countersign/countersign/xds"
)

// crossing is a gateway and an Envoy with a file of its own, `countersign envoy static`, and a resource for each way in which a
// connection can come and go. Each of both can end without the other.
type crossing struct {
	*world
	t              *testing.T
	dir, path      string
	admin, token   string
	conf           *config.Config
	static         string
	gateway, envoy *extproctest.Process
}

// The resources. Those of "plain" are in the clear, so that what passes unseen would be understood; those of "away" have no server.
var crossings = []struct{ name, keys string }{
	{"tcp-direct", "tls target"},
	{"tcp-envoy", "tls target egress: envoy"},
	{"shown-direct", "tls target attach: ext_proc"},
	{"shown-envoy", "tls target attach: ext_proc egress: envoy"},
	{"plain", "plain attach: ext_proc egress: envoy"},
	{"away-envoy", "tls away egress: envoy"},
	{"away-shown", "tls away attach: ext_proc"},
}

const crossingPolicy = `package rules.orders

allow contains {"id": "reads"} if input.postgres.access in {"read", "session", "transaction"}

allow contains {"id": "copied"} if {
	input.postgres.access == "write"
	not contains(input.postgres.text, "attacked")
}

allow contains {"id": "sleep"} if contains(input.postgres.text, "pg_sleep")

redact contains {"column": "public.customers.iban"}
`

func newCrossing(t *testing.T) *crossing {
	c := &crossing{world: newWorld(t), t: t, dir: extproctest.Dir(t), admin: extproctest.FreeAddress(t)}
	c.postgres.SQL("orders", "SET ROLE app; CREATE TABLE attacked (how text); CREATE TABLE copied (id int, fill text)")
	server, issuer := c.authority.Issue("gateway.test"), extproctest.StartIssuer(t, extproctest.IssuerOptions{})
	var err error
	if c.token, err = issuer.AgentToken(t.Context(), "agent-1"); err != nil {
		t.Fatal(err)
	}
	var text strings.Builder
	fmt.Fprintf(&text, "node: ways\ndata: ./var\nlisten: {admin: %q}\nagents: [{issuer: %q, audience: [%s]}]\npolicies: ./policies\nresources:\n", c.admin, issuer.URL, extproctest.Audience)
	for _, one := range crossings {
		fmt.Fprintf(&text, "  - name: %s\n    kind: postgres\n    policy: orders\n    roles: {app: {password_file: ./app}}\n", one.name)
		target := c.postgres.Address
		for key := range strings.SplitSeq(one.keys, " ") {
			switch key {
			case "tls":
				fmt.Fprintf(&text, "    listen: {address: %q, tls: {certificate_file: %q, key_file: %q}}\n    target_tls: {ca_file: %q, server_name: db.test}\n", extproctest.FreeAddress(t), server.CertFile, server.KeyFile, c.authority.CAFile)
			case "plain":
				fmt.Fprintf(&text, "    listen: {address: %q}\n", extproctest.FreeAddress(t))
			case "away":
				target = extproctest.FreeAddress(t)
			case "attach:", "egress:":
				text.WriteString("    " + key + " ")
			case "ext_proc", "envoy":
				text.WriteString(key + "\n")
			}
		}
		fmt.Fprintf(&text, "    target: \"postgres://%s\"\n", target)
	}
	c.write("app", "correct horse\n")
	c.write("policies/orders.rego", crossingPolicy)
	c.path = c.write("countersign.yaml", text.String())
	if c.conf, err = config.Load(c.path, config.KindHTTP, postgres.Kind.Config); err != nil {
		t.Fatalf("%v\n%s", err, text.String())
	}
	file, err := xds.Static(c.conf, postgres.Kind.Envoy)
	if err != nil {
		t.Fatal(err)
	}
	c.static = string(file)
	for _, p := range xds.CheckFileFor(c.conf, "envoy.yaml", file, postgres.Kind.Envoy) {
		t.Errorf("%v", p)
	}
	c.serve()
	c.startEnvoy()
	return c
}

func (c *crossing) write(name, text string) string {
	c.t.Helper()
	path := filepath.Join(c.dir, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		c.t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		c.t.Fatal(err)
	}
	return path
}

func (c *crossing) serve() {
	c.gateway = extproctest.StartCountersign(c.t, extproctest.Countersign{Config: c.path, Admin: c.admin})
}

func (c *crossing) startEnvoy() {
	c.envoy = extproctest.StartEnvoy(c.t, extproctest.EnvoyConfig{Bootstrap: c.static}).Process
}

func (c *crossing) address(resource string) string {
	r, _ := config.Named[*postgres.Resource](c.conf, resource)
	return r.Listen.Address
}

func (c *crossing) config(resource string) *pgx.ConnConfig {
	c.t.Helper()
	_, port, _ := strings.Cut(c.address(resource), ":")
	mode := "sslmode=verify-full sslrootcert=" + c.authority.CAFile
	if resource == "plain" {
		mode = "sslmode=disable"
	}
	conf, err := pgx.ParseConfig("host=localhost port=" + port + " user=app dbname=orders connect_timeout=60 " + mode)
	if err != nil {
		c.t.Fatal(err)
	}
	conf.Password = c.token
	conf.LookupFunc = func(context.Context, string) ([]string, error) { return []string{"127.0.0.1"}, nil }
	return conf
}

func (c *crossing) connect(t *testing.T, resource string) *pgx.Conn {
	t.Helper()
	conn, err := pgx.ConnectConfig(t.Context(), c.config(resource))
	if err != nil {
		t.Fatalf("%s: %v", resource, err)
	}
	t.Cleanup(func() { _ = conn.Close(context.Background()) })
	return conn
}

// records are those of the journal, of one type and for one resource.
func (c *crossing) records(kind, resource string) []map[string]any {
	var list []map[string]any
	for e, err := range evidence.Records(context.Background(), filepath.Join(c.dir, "var", "journal"), evidence.Filter{}) {
		if err != nil {
			c.t.Fatal(err)
		}
		body := map[string]any{}
		if e.Type != kind || json.Unmarshal(e.Body, &body) != nil || body["resource"] != resource {
			continue
		}
		list = append(list, body)
	}
	return list
}

// await waits for a record of which that is so.
func (c *crossing) await(t *testing.T, kind, resource string, so func(map[string]any) bool) (found map[string]any) {
	t.Helper()
	extproctest.Await(t, "a "+kind+" of "+resource, 60*time.Second, func(context.Context) error {
		for _, found = range c.records(kind, resource) {
			if so(found) {
				return nil
			}
		}
		return fmt.Errorf("none of %d", len(c.records(kind, resource)))
	})
	return found
}

func sqlstate(err error) string {
	if pg, ok := errors.AsType[*pgconn.PgError](err); ok {
		return pg.Code
	}
	return fmt.Sprint(err)
}

// TestWays: a session is the same whichever way its connection comes and goes, and Envoy's log tells of each.
func TestWays(t *testing.T) {
	c := newCrossing(t)
	t.Run("ways", func(t *testing.T) {
		for _, resource := range []string{"tcp-direct", "tcp-envoy", "shown-direct", "shown-envoy"} {
			t.Run(resource, func(t *testing.T) {
				t.Parallel()
				t.Run("statements", func(t *testing.T) { c.statements(t, resource) })
				t.Run("a cancel", func(t *testing.T) { c.cancels(t, resource) })
				t.Run("much data", func(t *testing.T) { c.much(t, resource) })
				t.Run("left within a statement", func(t *testing.T) { c.left(t, resource) })
				t.Run("Envoy's log", func(t *testing.T) { c.told(t, resource) })
			})
		}
	})
	if t.Failed() {
		return
	}
	t.Run("a server that is away", c.away)
	t.Run("what passes at the end", c.flooded)
	t.Run("the sockets", c.sockets)
	t.Run("Envoy ends", c.envoyEnds)
	t.Run("the gateway ends", c.gatewayEnds)
	out, err := exec.CommandContext(t.Context(), extproctest.Build(t), "evidence", "verify", "--data", filepath.Join(c.dir, "var")).CombinedOutput()
	if err != nil || strings.Contains(string(out), "FOUND") {
		t.Errorf("verify: %v\n%s", err, out)
	}
}

func (c *crossing) statements(t *testing.T, resource string) {
	conn := c.connect(t, resource)
	var name string
	var iban *string
	if err := conn.QueryRow(t.Context(), "SELECT name, iban FROM customers WHERE id = $1", 2).Scan(&name, &iban); err != nil || name != "Bob" || iban == nil || *iban != "[redacted]" {
		t.Errorf("%q, %v: %v", name, iban, err)
	}
	if _, err := conn.Exec(t.Context(), "INSERT INTO attacked VALUES ('denied')"); sqlstate(err) != "42501" {
		t.Errorf("what policy does not allow: %v", err)
	}
	if err := conn.QueryRow(t.Context(), "SELECT name FROM customers WHERE id = 1").Scan(&name); err != nil || name != "Ada" {
		t.Errorf("after a refusal: %q, %v", name, err)
	}
}

// cancels has the agent ask for a statement to be cancelled, which the gateway asks of the server by a connection of its own.
func (c *crossing) cancels(t *testing.T, resource string) {
	conn := c.connect(t, resource)
	asked := make(chan error, 1)
	go func() {
		c.sleeping(t, conn)
		asked <- conn.PgConn().CancelRequest(context.WithoutCancel(t.Context()))
	}()
	if _, err := conn.Exec(t.Context(), "SELECT pg_sleep(600)"); sqlstate(err) != "57014" {
		t.Errorf("cancelled: %v", err)
	}
	if err := <-asked; err != nil {
		t.Error(err)
	}
	if _, err := conn.Exec(t.Context(), "SELECT 1"); err != nil {
		t.Errorf("after a cancel: %v", err)
	}
}

// sleeping waits until the server runs the sleep of a session.
func (c *crossing) sleeping(t *testing.T, conn *pgx.Conn) {
	name := conn.PgConn().ParameterStatus("application_name")
	extproctest.Await(t, "the statement at the server", 60*time.Second, func(context.Context) error {
		if c.postgres.SQL("postgres", "SELECT count(*) FROM pg_stat_activity WHERE state = 'active' AND query LIKE '%pg_sleep(600)%' AND application_name = '"+name+"'") != "1" {
			return errors.New("it does not run")
		}
		return nil
	})
}

// much has more go both ways than any buffer on the way holds.
func (c *crossing) much(t *testing.T, resource string) {
	conn := c.connect(t, resource)
	const rows = 40_000
	line := strings.Repeat("x", 200)
	var sent bytes.Buffer
	for i := range rows {
		fmt.Fprintf(&sent, "%d\t%s\n", i, line)
	}
	want := rows * (len(line) + 1)
	if tag, err := conn.PgConn().CopyFrom(t.Context(), &sent, "COPY copied FROM STDIN"); err != nil || tag.RowsAffected() != rows {
		t.Fatalf("COPY in: %v, %v", tag, err)
	}
	var got count
	tag, err := conn.PgConn().CopyTo(t.Context(), &got, fmt.Sprintf("COPY (SELECT fill FROM copied LIMIT %d) TO STDOUT", rows))
	if err != nil || int(got) != want {
		t.Errorf("COPY out: %d bytes of %d, %v, %v", got, want, tag, err)
	}
}

type count int

func (n *count) Write(b []byte) (int, error) {
	*n += count(len(b))
	return len(b), nil
}

// left has the agent leave while the server works for it, and wants that to end.
func (c *crossing) left(t *testing.T, resource string) {
	conn := c.connect(t, resource)
	name := conn.PgConn().ParameterStatus("application_name")
	if err := conn.PgConn().Conn().SetDeadline(time.Now().Add(time.Minute)); err != nil {
		t.Fatal(err)
	}
	conn.PgConn().Frontend().SendQuery(&pgproto3.Query{String: "SELECT pg_sleep(600)"})
	if err := conn.PgConn().Frontend().Flush(); err != nil {
		t.Fatal(err)
	}
	c.sleeping(t, conn)
	if err := conn.PgConn().Conn().Close(); err != nil {
		t.Fatal(err)
	}
	extproctest.Await(t, "the end of the statement at the server", 60*time.Second, func(context.Context) error {
		if n := c.postgres.SQL("postgres", "SELECT count(*) FROM pg_stat_activity WHERE application_name = '"+name+"'"); n != "0" {
			return errors.New("it runs on")
		}
		return nil
	})
}

// told wants Envoy's log to have told of a session: of its connection to the target where Envoy makes that, and in any case of its own.
func (c *crossing) told(t *testing.T, resource string) {
	conn := c.connect(t, resource)
	name := conn.PgConn().ParameterStatus("application_name")
	_, session, _ := strings.Cut(name, "countersign/")
	peer := conn.PgConn().Conn().LocalAddr().String()
	if err := conn.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	c.await(t, "session.closed", resource, func(b map[string]any) bool { return b["session"] == session && b["peer"] == peer })
	toTarget := func(b map[string]any) bool {
		return b["session"] == session && b["upstream"] == c.postgres.Address && b["peer"] == peer && b["bytes_in"].(float64) > 0 && b["bytes_out"].(float64) > 0
	}
	passedOn := func(b map[string]any) bool { return b["peer"] == peer && b["upstream"] == "" && b["session"] == "" }
	if resource != "tcp-direct" {
		c.await(t, "transit", resource, toTarget)
	}
	if strings.HasPrefix(resource, "tcp-") {
		c.await(t, "transit", resource, passedOn)
	}
}

// away: where the server cannot be reached the agent is told so, or, where Envoy makes the connection by itself, is closed.
func (c *crossing) away(t *testing.T) {
	_, err := pgx.ConnectConfig(t.Context(), c.config("away-envoy"))
	if sqlstate(err) != "CS003" {
		t.Errorf("by Envoy's listener: %v, want CS003", err)
	}
	if _, err = pgx.ConnectConfig(t.Context(), c.config("away-shown")); err == nil {
		t.Error("it was connected")
	}
	for _, resource := range []string{"away-envoy", "away-shown"} {
		c.await(t, "session.closed", resource, func(b map[string]any) bool { return b["reason"] == "the target could not be reached" })
	}
}

// plain begins a session in the clear by hand, and returns its connection.
func (c *crossing) plain(t *testing.T) net.Conn {
	t.Helper()
	conn := c.connect(t, "plain").PgConn()
	raw, err := conn.Hijack()
	if err != nil {
		t.Fatal(err)
	}
	_ = raw.Conn.SetDeadline(time.Now().Add(2 * time.Minute))
	return raw.Conn
}

func query(text string) []byte {
	b := binary.BigEndian.AppendUint32([]byte{'Q'}, uint32(len(text)+5))
	return append(append(b, text...), 0)
}

// flood sends a statement that nobody allowed, again and again, until it cannot, and then reads what came.
func flood(conn net.Conn) {
	denied := bytes.Repeat(query("INSERT INTO attacked VALUES ('flooded')"), 200)
	for {
		if _, err := conn.Write(denied); err != nil {
			break
		}
	}
	_, _ = io.Copy(io.Discard, conn)
}

// flooded: when the gateway ends a session, what the agent sends meanwhile does not reach the server, where it would be understood.
func (c *crossing) flooded(t *testing.T) {
	var work sync.WaitGroup
	for range 8 {
		conn := c.plain(t)
		work.Go(func() {
			go func() { _, _ = io.Copy(io.Discard, conn) }()
			_, _ = conn.Write([]byte{'?', 0, 0, 0, 4}) // ends the session
			flood(conn)
		})
	}
	work.Wait()
	c.untouched(t)
}

func (c *crossing) untouched(t *testing.T) {
	t.Helper()
	extproctest.Await(t, "the end of every session at the server", 60*time.Second, func(context.Context) error {
		if n := c.postgres.SQL("postgres", "SELECT count(*) FROM pg_stat_activity WHERE usename = 'app'"); n != "0" {
			return errors.New(n + " are there")
		}
		return nil
	})
	if n := c.postgres.SQL("orders", "SELECT count(*) FROM attacked"); n != "0" {
		t.Errorf("%s statements that nobody allowed were run", n)
	}
}

// sockets: the gateway's socket, and Envoy's for the gateway, are for nobody else.
func (c *crossing) sockets(t *testing.T) {
	found, err := filepath.Glob(filepath.Join(c.dir, "var", "*.sock"))
	if err != nil {
		t.Fatal(err)
	}
	egress := ""
	for _, socket := range found {
		info, err := os.Stat(socket)
		if err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v, %v", socket, info.Mode(), err)
		}
		if strings.Contains(socket, "egress-") {
			egress = socket
		}
	}
	other, err := extproctest.Unprivileged()
	if err != nil {
		t.Fatal(err)
	}
	self := c.program(t)
	for _, socket := range []string{egress, filepath.Join(c.dir, "var", "postgres.sock")} {
		if other == nil { // not root: there is nobody else to be
			break
		}
		for dir := filepath.Dir(socket); len(dir) >= len(c.dir); dir = filepath.Dir(dir) { // so that the socket's own mode is what counts
			if err := os.Chmod(dir, 0o711); err != nil {
				t.Fatal(err)
			}
		}
		cmd := exec.CommandContext(t.Context(), self, "-test.run=^TestDialAsAnother$", "-test.v")
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: other}
		cmd.Env = []string{"COUNTERSIGN_DIAL=" + socket}
		cmd.Dir = "/"
		out, err := cmd.CombinedOutput()
		if !strings.Contains(string(out), "permission denied") {
			t.Errorf("another user of %s: %v\n%s", socket, err, out)
		}
	}
	// Who is the gateway's user and does not say which session it is for is let go.
	conn, err := net.Dial("unix", egress)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(time.Minute))
	_, _ = conn.Write(query("of somebody without a session"))
	if n, err := conn.Read(make([]byte, 1)); n != 0 || err == nil || os.IsTimeout(err) {
		t.Errorf("without a header: %d bytes, %v", n, err)
	}
}

// program is this one, where other users can run it.
func (c *crossing) program(t *testing.T) string {
	t.Helper()
	text, err := os.ReadFile(os.Args[0])
	if err != nil {
		t.Fatal(err)
	}
	dir := extproctest.Dir(t)
	path := filepath.Join(dir, "another")
	if err := errors.Join(os.Chmod(dir, 0o711), os.WriteFile(path, text, 0o600), os.Chmod(path, 0o755)); err != nil {
		t.Fatal(err)
	}
	return path
}

// TestDialAsAnother is run by TestWays as another user.
func TestDialAsAnother(t *testing.T) {
	socket := os.Getenv("COUNTERSIGN_DIAL") //nolint:forbidigo // its parent sets it
	if socket == "" {
		return
	}
	conn, err := net.Dial("unix", socket)
	t.Log(err)
	if err == nil {
		_ = conn.Close()
	}
}

// envoyEnds: sessions end with their Envoy, and another one takes its place.
func (c *crossing) envoyEnds(t *testing.T) {
	conns := map[string]*pgx.Conn{}
	for _, resource := range []string{"tcp-envoy", "shown-envoy"} {
		conns[resource] = c.connect(t, resource)
	}
	c.envoy.Kill()
	for resource, conn := range conns {
		_, session, _ := strings.Cut(conn.PgConn().ParameterStatus("application_name"), "countersign/")
		c.await(t, "session.closed", resource, func(b map[string]any) bool { return b["session"] == session })
	}
	c.untouched(t)
	c.startEnvoy()
	for resource := range conns {
		c.statements(t, resource)
	}
}

// gatewayEnds: without the gateway, in the middle of a session and after, nothing passes; with it again everything does.
func (c *crossing) gatewayEnds(t *testing.T) {
	var work sync.WaitGroup
	for range 4 {
		conn := c.plain(t)
		work.Go(func() {
			go func() { _, _ = io.Copy(io.Discard, conn) }()
			flood(conn)
		})
	}
	shown := c.connect(t, "shown-direct")
	c.gateway.Kill()
	if _, err := shown.Exec(t.Context(), "SELECT 1"); err == nil {
		t.Error("a session went on without the gateway")
	}
	work.Wait()
	c.untouched(t)
	for _, resource := range []string{"tcp-direct", "shown-direct"} {
		if _, err := pgx.ConnectConfig(t.Context(), c.config(resource)); err == nil {
			t.Errorf("%s: it was connected without the gateway", resource)
		}
	}
	c.serve()
	for _, resource := range []string{"tcp-envoy", "shown-envoy"} {
		c.statements(t, resource)
	}
}
