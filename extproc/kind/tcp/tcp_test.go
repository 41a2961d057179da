package tcp_test

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/countersign/countersign/extproc/extproctest"
)

const domain = "spiffe://agents.test"

// target says hello to whoever connects, and then repeats each line.
type target struct {
	address   string
	connected atomic.Int64
}

func startTarget(t *testing.T) *target {
	t.Helper()
	var lc net.ListenConfig
	l, err := lc.Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	out := &target{address: l.Addr().String()}
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			out.connected.Add(1)
			go func() {
				defer c.Close()
				fmt.Fprintln(c, "hello")
				_, _ = io.Copy(c, c)
			}()
		}
	}()
	return out
}

// gateway is one with a resource of kind tcp, behind an Envoy of its own.
type gateway struct {
	*extproctest.Process
	t         *testing.T
	target    *target
	authority *extproctest.Authority
	listen    string
	dir       string
	config    string
}

const policy = `package rules.ledger

import rego.v1

allow contains {"id": "reader"} if {
	endswith(input.principal.subject, "/reader")
	input.tcp.server_name == "ledger.test"
}

deny contains {"id": "banned", "reason": "it is banned"} if endswith(input.principal.subject, "/banned")

ask contains {"id": "writer", "approvers": ["oncall"]} if endswith(input.principal.subject, "/writer")
`

func start(t *testing.T, more string) *gateway {
	t.Helper()
	g := &gateway{t: t, target: startTarget(t), authority: extproctest.NewAuthority(t), listen: extproctest.FreeAddress(t), dir: extproctest.Dir(t)}
	g.config = filepath.Join(g.dir, "countersign.yaml")
	server := g.authority.Issue("ledger.test")
	admin := extproctest.FreeAddress(t)
	g.write("policies/ledger.rego", policy)
	g.write("countersign.yaml", fmt.Sprintf(`
data: ./var
listen: {admin: %q}
envoy: {path: %q, concurrency: 1}
agents:
  - {issuer: %q, kind: mtls, ca_file: %q}
policies: ./policies
resources:
  - name: ledger
    kind: tcp
    listen: {address: %q, tls: {certificate_file: %q, key_file: %q, client_ca_file: %q}}
    target: "tcp://%s"
%s`, admin, extproctest.EnvoyPath(t), domain, g.authority.CAFile, g.listen, server.CertFile, server.KeyFile, g.authority.CAFile, g.target.address, more))
	g.Process = extproctest.StartCountersign(t, extproctest.Countersign{Config: g.config, Admin: admin, Args: []string{"--envoy"}})
	return g
}

func (g *gateway) write(name, text string) {
	g.t.Helper()
	path := filepath.Join(g.dir, name)
	if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o700), os.WriteFile(path, []byte(text), 0o600)); err != nil {
		g.t.Fatal(err)
	}
}

// dial connects as the agent of that path of the trust domain.
func (g *gateway) dial(agent extproctest.Certificate) *tls.Conn {
	g.t.Helper()
	d := tls.Dialer{Config: &tls.Config{RootCAs: g.authority.Pool, ServerName: "ledger.test", Certificates: []tls.Certificate{agent.TLS}, MinVersion: tls.VersionTLS12}}
	c, err := d.DialContext(g.t.Context(), "tcp", g.listen)
	if err != nil {
		g.t.Fatal(err)
	}
	g.t.Cleanup(func() { _ = c.Close() })
	_ = c.SetDeadline(time.Now().Add(20 * time.Second))
	return c.(*tls.Conn) //nolint:forcetypeassert // as the documentation says
}

// records are those of operations.
func (g *gateway) records(kinds ...string) (list []map[string]any) {
	g.t.Helper()
	files, err := filepath.Glob(filepath.Join(g.dir, "var", "journal", "*.jsonl"))
	if err != nil {
		g.t.Fatal(err)
	}
	for _, f := range files {
		text, err := os.ReadFile(f)
		if err != nil {
			g.t.Fatal(err)
		}
		for line := range strings.Lines(string(text)) {
			var r map[string]any
			if json.Unmarshal([]byte(line), &r) != nil {
				continue
			}
			for _, k := range kinds {
				if r["type"] == k {
					list = append(list, r)
				}
			}
		}
	}
	return list
}

func (g *gateway) await(what string, kinds []string, ok func([]map[string]any) bool) []map[string]any {
	g.t.Helper()
	var got []map[string]any
	extproctest.Await(g.t, what, 20*time.Second, func(context.Context) error {
		if got = g.records(kinds...); !ok(got) {
			return fmt.Errorf("records: %v", got)
		}
		return nil
	})
	return got
}

func (g *gateway) verify() {
	g.t.Helper()
	out, err := exec.CommandContext(g.t.Context(), extproctest.Build(g.t), "evidence", "verify", "--config", g.config).CombinedOutput()
	if err != nil {
		g.t.Errorf("evidence verify: %v\n%s", err, out)
	}
}

func body(r map[string]any) map[string]any { b, _ := r["body"].(map[string]any); return b }

func TestConnections(t *testing.T) {
	g := start(t, "")
	c := g.dial(g.authority.Issue(domain + "/reader"))
	fmt.Fprintln(c, "ping")
	r := bufio.NewReader(c)
	for _, want := range []string{"hello\n", "ping\n"} {
		if got, err := r.ReadString('\n'); got != want {
			t.Fatalf("%q, error %v; want %q", got, err, want)
		}
	}
	_ = c.Close()
	finished := g.await("its end", []string{"operation.finished"}, func(l []map[string]any) bool { return len(l) == 1 })
	b := body(finished[0])
	if b["result"] != "completed" || b["bytes_in"] != 5.0 || b["bytes_out"] != 11.0 {
		t.Errorf("it ended as %v", b)
	}
	decided := body(g.records("operation.decided")[0])
	principal, _ := decided["principal"].(map[string]any)
	if decided["effect"] != "allow" || decided["protocol"] != "tcp" || principal["subject"] != domain+"/reader" || decided["target"] != "tcp://"+g.target.address {
		t.Errorf("it was decided as %v", decided)
	}
	if own, _ := decided["tcp"].(map[string]any); len(own) != 1 || own["server_name"] != "ledger.test" {
		t.Errorf("what is recorded of the connection is %v", decided["tcp"])
	}
	g.verify()
}

// Whoever is refused hears nothing, not even what the target says first, and the target is not connected to.
func TestRefusedConnections(t *testing.T) {
	g := start(t, "")
	other := extproctest.NewAuthority(t)
	for name, c := range map[string]struct {
		agent   extproctest.Certificate
		record  string
		problem string
	}{
		"denied":                 {g.authority.Issue(domain + "/banned"), "operation.decided", "denied"},
		"nothing allows it":      {g.authority.Issue(domain + "/nobody"), "operation.decided", "denied"},
		"nobody can be asked":    {g.authority.Issue(domain + "/writer"), "operation.decided", "approval-unavailable"},
		"no SPIFFE id":           {g.authority.Issue("reader"), "identity.refused", ""},
		"another trust domain":   {g.authority.Issue("spiffe://other.test/reader"), "identity.refused", ""},
		"two SPIFFE ids":         {g.authority.Issue(domain+"/reader", domain+"/writer"), "identity.refused", ""},
		"a path of other shapes": {g.authority.Issue(domain + "/a/../reader"), "identity.refused", ""},
	} {
		before := len(g.records(c.record))
		conn := g.dial(c.agent)
		fmt.Fprintln(conn, "ping")
		if got, err := io.ReadAll(conn); len(got) > 0 {
			t.Errorf("%s: heard %q, error %v", name, got, err)
		}
		l := g.await(name, []string{c.record}, func(l []map[string]any) bool { return len(l) > before })
		if got := body(l[len(l)-1])["problem"]; c.problem != "" && got != c.problem {
			t.Errorf("%s: %v, want %s", name, got, c.problem)
		}
	}
	if c := g.dial(other.Issue(domain + "/reader")); true { // Envoy refuses it while TLS is agreed on
		fmt.Fprintln(c, "ping")
		if got, _ := io.ReadAll(c); len(got) > 0 {
			t.Errorf("a certificate of another authority heard %q", got)
		}
	}
	silent := g.dial(g.authority.Issue(domain + "/reader"))
	_ = silent.SetReadDeadline(time.Now().Add(500 * time.Millisecond))
	if got, err := io.ReadAll(silent); len(got) > 0 || !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("an agent that says nothing heard %q, error %v", got, err)
	}
	if n := g.target.connected.Load(); n != 0 {
		t.Errorf("the target was connected to %d times", n)
	}
	_ = silent.Close()
	g.verify()
}

// A connection that was let in ends with the gateway, and with the resource as it was.
func TestConnectionsThatAreCut(t *testing.T) {
	for name, cut := range map[string]func(g *gateway){
		"the gateway stops":     func(g *gateway) { g.Stop() },
		"the target is another": func(g *gateway) { g.rewrite("tcp://"+g.target.address, "tcp://"+startTarget(g.t).address) },
	} {
		t.Run(name, func(t *testing.T) {
			g := start(t, "")
			c := g.dial(g.authority.Issue(domain + "/reader"))
			fmt.Fprintln(c, "ping")
			r := bufio.NewReader(c)
			for range 2 {
				if _, err := r.ReadString('\n'); err != nil {
					t.Fatal(err)
				}
			}
			cut(g)
			extproctest.Await(t, "the end of the connection", 20*time.Second, func(context.Context) error {
				_, _ = fmt.Fprintln(c, "ping")
				if _, err := r.ReadString('\n'); err != nil {
					return nil
				}
				return errors.New("it goes on")
			})
		})
	}
}

// rewrite changes the configuration, which is read again.
func (g *gateway) rewrite(old, text string) {
	g.t.Helper()
	was, err := os.ReadFile(g.config)
	if err != nil {
		g.t.Fatal(err)
	}
	if !strings.Contains(string(was), old) {
		g.t.Fatalf("the configuration has no %s", old)
	}
	g.write("countersign.yaml", strings.ReplaceAll(string(was), old, text))
}
