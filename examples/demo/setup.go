package main

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/countersign/countersign/extproc/extproctest"
)

// credential is what the payments API wants to see. The agent never has it.
const credential = "Bearer the-api's-own-credential"

// demo is what the steps share.
type demo struct {
	tb     extproctest.TB
	ctx    context.Context
	out    *terminal
	binary string // countersign
	dir    string // a copy of the example

	issuer    *extproctest.Issuer
	target    *extproctest.Target
	collector *extproctest.CollectorProcess
	gateway   *extproctest.Process
	address   string // of the listener
	token     string
	database  database
	card      string // the token that stands for the payment's card
	asked     int    // requests of the agent
	stated    int    // statements of the agent
	seen      int    // requests of the target that were looked at

	console  string // URL
	person   string // bob's access token for the console
	me       bool   // you answer the first refund, in a browser
	rejected bool   // and said no
}

// failf ends the demo. It does not return.
func (d *demo) failf(format string, args ...any) {
	d.tb.Helper()
	d.tb.Fatalf(format, args...)
}

// check ends the demo where something could not be done.
func (d *demo) check(what string, err error) {
	d.tb.Helper()
	if d.ctx.Err() != nil {
		d.failf("%s: %v", what, context.Cause(d.ctx))
	}
	if err != nil {
		d.failf("%s: %v", what, err)
	}
}

// start brings everything up.
func (d *demo) start(getenv func(string) string) {
	d.tb.Helper()
	parts, err := extproctest.NewParts(getenv, io.Discard)
	d.check("find the parts", err)
	envoy, err := parts.FindEnvoy(d.ctx)
	d.check("find Envoy", err)

	d.issuer = extproctest.StartIssuer(d.tb, extproctest.IssuerOptions{})
	d.target = extproctest.NewTarget(d.tb, extproctest.TargetOptions{})
	d.collector = extproctest.StartCollector(d.tb, extproctest.CollectorOptions{})
	d.address = extproctest.FreeAddress(d.tb)
	admin, console := extproctest.FreeAddress(d.tb), extproctest.FreeAddress(d.tb)
	d.check("start the parts", nil)
	d.console = "http://" + console
	d.issuer.AllowRedirect("countersign-console", d.console+"/callback")
	d.person = d.issuer.Mint(extproctest.Mint{Type: "at+jwt", Claims: extproctest.Claims{
		"sub": bob, "aud": "countersign-console", "client_id": "countersign-console", "groups": []string{"payments-oncall", "dba"},
		"auth_time": time.Now().Unix(),
	}})
	d.startDatabase()
	d.copyExample(admin, console)

	d.gateway = extproctest.Start(d.tb, extproctest.Command{
		Name: "countersign", Path: d.binary, Env: []string{"ENVOY=" + envoy},
		Args: []string{"serve", "--envoy", "--config", d.config()},
	})
	d.awaitReady(admin)
	d.token, err = d.issuer.AgentToken(d.ctx, "agent-1")
	d.check("get a token", err)
}

func (d *demo) config() string { return filepath.Join(d.dir, "countersign.yaml") }
func (d *demo) data() string   { return filepath.Join(d.dir, "var") }

// copyExample copies examples/http and the resource of examples/postgres, and puts the addresses that are free here into the configuration.
func (d *demo) copyExample(admin, console string) {
	d.tb.Helper()
	d.dir = extproctest.Dir(d.tb)
	root, err := extproctest.Root()
	d.check("find the example", err)
	folder := filepath.Join(root, "examples", "http")
	d.check("copy the policies", os.CopyFS(filepath.Join(d.dir, "policies"), os.DirFS(filepath.Join(folder, "policies"))))
	d.check("write the target's credential", os.Mkdir(filepath.Join(d.dir, "secrets"), 0o700))
	for _, name := range []string{"payments", "files"} {
		d.check("write the target's credential", os.WriteFile(filepath.Join(d.dir, "secrets", name), []byte(credential+"\n"), 0o600))
	}
	text, err := os.ReadFile(filepath.Join(folder, "countersign.yaml"))
	d.check("read the configuration", err)
	config := d.replaced("examples/http/countersign.yaml", string(text), map[string]string{
		"http://127.0.0.1:9400": d.issuer.URL,
		"http://127.0.0.1:9401": d.target.URL,
		"127.0.0.1:9440":        admin,
		"127.0.0.1:8443":        console,
		"hold: 50s":             "hold: " + d.held().String(),
		"127.0.0.1:8080":        d.address,
		"127.0.0.1:4317":        d.collector.Endpoint(),
	})
	d.check("write the configuration", os.WriteFile(d.config(), []byte(config+"\n"+d.databaseConfig(root)), 0o600))
}

// replaced puts what is ours in the place of what a file of an example says.
func (d *demo) replaced(file, text string, words map[string]string) string {
	d.tb.Helper()
	for example, ours := range words {
		if !strings.Contains(text, example) {
			d.failf("%s does not mention %s", file, example)
		}
		text = strings.ReplaceAll(text, example, ours)
	}
	return text
}

func (d *demo) copyFile(to, from string) {
	d.tb.Helper()
	text, err := os.ReadFile(from)
	if err == nil {
		err = os.WriteFile(to, text, 0o600)
	}
	d.check("copy "+filepath.Base(from), err)
}

func (d *demo) awaitReady(admin string) {
	d.tb.Helper()
	extproctest.Await(d.tb, "countersign and Envoy to be ready", 30*time.Second, func(ctx context.Context) error {
		select {
		case <-d.gateway.Done():
			d.failf("countersign ended:\n%s", d.gateway.Log())
		case <-d.ctx.Done():
			return nil // told below
		default:
		}
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+admin+"/readyz", nil)
		if err != nil {
			return err
		}
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		if text, err := io.ReadAll(resp.Body); err != nil || resp.StatusCode != http.StatusOK {
			return fmt.Errorf("/readyz says %s: %s", resp.Status, text)
		}
		return nil
	})
	d.check("start countersign", nil)
}

// request is what the agent asks.
type request struct {
	method, host, path string
	token              string // none where it is empty
	body               string
	traceparent        string
}

// answer is what the agent gets.
type answer struct {
	status int
	header http.Header
	body   []byte
}

// headers of answers that are worth a line in a terminal.
var shownHeaders = []string{"Content-Type", "Www-Authenticate", "Retry-After"}

var client = &http.Client{Transport: &http.Transport{DisableCompression: true, DisableKeepAlives: true}}

// send sends r through Envoy and shows both it and the head of the answer. The answer's body is open.
func (d *demo) send(r request) *http.Response {
	d.tb.Helper()
	resp, err := client.Do(d.compose(r))
	d.check(r.method+" "+r.path, err)
	d.head(resp)
	return resp
}

// compose makes the request r and shows it.
func (d *demo) compose(r request) *http.Request {
	d.tb.Helper()
	var body io.Reader
	if r.body != "" {
		body = strings.NewReader(r.body)
	}
	req, err := http.NewRequestWithContext(d.ctx, r.method, "http://"+d.address+r.path, body)
	d.check("make a request", err)
	req.Host = r.host
	d.out.line(bold, 2, fmt.Sprintf("> %s %s HTTP/1.1", r.method, r.path))
	show := func(name, value string) { d.out.line(dim, 4, fmt.Sprintf("> %s: %s", name, value)) }
	show("Host", r.host)
	if r.token != "" {
		req.Header.Set("Authorization", "Bearer "+r.token)
		show("Authorization", "Bearer "+shorten(r.token, 16)+" (of agent-1)")
	}
	if r.traceparent != "" {
		req.Header.Set("Traceparent", r.traceparent)
		show("traceparent", r.traceparent)
	}
	if r.body != "" {
		req.Header.Set("Content-Type", "application/json")
		show("Content-Type", "application/json")
		d.out.line(plain, 4, "> "+r.body)
	}
	d.asked++
	return req
}

// head shows the head of an answer.
func (d *demo) head(resp *http.Response) {
	s := green
	if resp.StatusCode >= 300 {
		s = red
	}
	d.out.line(s, 2, "< HTTP/1.1 "+resp.Status)
	for _, name := range shownHeaders {
		if v := resp.Header.Get(name); v != "" {
			d.out.line(dim, 4, fmt.Sprintf("< %s: %s", strings.ToLower(name), v))
		}
	}
}

// ask sends r and reads the whole answer.
func (d *demo) ask(r request) answer {
	d.tb.Helper()
	resp, err := client.Do(d.compose(r))
	d.check(r.method+" "+r.path, err)
	return d.finish(resp)
}

// finish shows an answer's head and reads the whole of it, of which no protected value may be a part.
func (d *demo) finish(resp *http.Response) answer {
	d.tb.Helper()
	d.head(resp)
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	d.check("read the answer", err)
	d.clean(fmt.Sprint(resp.Header, resp.Trailer, string(body)))
	return answer{resp.StatusCode, resp.Header, body}
}

// clean holds that the agent got no protected value.
func (d *demo) clean(got string) {
	d.tb.Helper()
	p := extproctest.DefaultProtected()
	for _, secret := range []string{p.SSN, p.Email, p.Card, p.IBAN, credential} {
		if strings.Contains(got, secret) {
			d.failf("the agent got %q, which is protected:\n%s", secret, got)
		}
	}
}

// reached are the requests that the target saw since the last time.
func (d *demo) reached() []extproctest.Seen {
	all := d.target.Requests()
	fresh := all[d.seen:]
	d.seen = len(all)
	return fresh
}

// notReached holds that the target saw nothing.
func (d *demo) notReached() {
	d.tb.Helper()
	if got := d.reached(); len(got) > 0 {
		d.failf("the payments API was reached by %s %s, and should not have been", got[0].Method, got[0].Path)
	}
}

// countersign runs a command of the program to its end and returns what it wrote.
func (d *demo) countersign(args ...string) (output string, code int) {
	d.tb.Helper()
	p := extproctest.Start(d.tb, extproctest.Command{Name: "countersign " + args[0], Path: d.binary, Args: args, Env: []string{"COUNTERSIGN_TOKEN=" + d.person}})
	err := p.Wait(d.ctx)
	d.check("run countersign "+strings.Join(args, " "), d.ctx.Err())
	if err != nil {
		code = 1
	}
	return p.Log(), code
}

// events reads an event stream, an event at a time.
type events struct{ r *bufio.Reader }

func (e events) next() (string, error) {
	var b bytes.Buffer
	for {
		line, err := e.r.ReadString('\n')
		if err != nil {
			return b.String(), err
		}
		if line == "\n" && b.Len() > 0 {
			return b.String(), nil
		}
		b.WriteString(line)
	}
}
