package xds_test

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/countersign/countersign/extproc/config"
	"github.com/countersign/countersign/extproc/extproctest"
	"github.com/countersign/countersign/xds"
)

// gateway is a real Envoy that has its configuration from our server.
type gateway struct {
	*service
	envoy   *extproctest.EnvoyProcess
	config  *config.Config
	target  *extproctest.Target
	address string
}

// startGateway runs Envoy on resources, which are written with the verbs %[1]s for the listener's address and %[2]s for the
// target's URL.
func startGateway(t *testing.T, resources string) *gateway {
	t.Helper()
	g := launch(t, resources)
	if err := g.xds.Wait(within(t)); err != nil {
		t.Fatal(err)
	}
	return g
}

// launch is startGateway that waits for nothing.
func launch(t *testing.T, resources string) *gateway {
	t.Helper()
	g := &gateway{target: extproctest.NewTarget(t, extproctest.TargetOptions{}), address: extproctest.FreeAddress(t)}
	g.config = parse(t, extproctest.Dir(t), fmt.Sprintf(resources, g.address, g.target.URL))
	g.service = startService(t, g.config)
	boot, err := xds.Bootstrap(g.config)
	if err != nil {
		t.Fatal(err)
	}
	g.envoy = extproctest.StartEnvoy(t, extproctest.EnvoyConfig{Bootstrap: string(boot), Args: []string{"--drain-strategy", "immediate"}})
	return g
}

// answer is what an agent gets.
type answer struct {
	status  int
	header  http.Header
	body    string
	problem struct {
		Type      string `json:"type"`
		Title     string `json:"title"`
		Status    int    `json:"status"`
		Detail    string `json:"detail"`
		RequestID string `json:"request_id"`
		Rules     []string
	}
}

// do sends a request as an agent does. headers are "Name: value".
func (g *gateway) do(t *testing.T, method, path, host, body string, headers ...string) answer {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, "http://"+g.address+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Host = host
	for _, h := range headers {
		name, value, _ := strings.Cut(h, ": ")
		req.Header.Add(name, value)
	}
	resp, err := (&http.Transport{DisableKeepAlives: true}).RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	return read(t, resp)
}

// raw sends bytes as they are and reads one answer.
func (g *gateway) raw(t *testing.T, text string) answer {
	t.Helper()
	conn, err := net.Dial("tcp", g.address)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(20 * time.Second))
	if _, err := io.WriteString(conn, text); err != nil {
		t.Fatal(err)
	}
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatalf("no answer to %.40q: %v", text, err)
	}
	return read(t, resp)
}

func read(t *testing.T, resp *http.Response) answer {
	t.Helper()
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	a := answer{status: resp.StatusCode, header: resp.Header, body: string(text)}
	if resp.Header.Get("Content-Type") == "application/problem+json" {
		if err := json.Unmarshal(text, &a.problem); err != nil {
			t.Fatalf("the problem is not JSON: %v: %s", err, text)
		}
	}
	return a
}

const both = `
  - {name: payments, kind: http, listen: {address: "%[1]s", host: payments.test}, target: "%[2]s"}
  - {name: authz, kind: http, listen: {address: "%[1]s", host: authz.test}, target: "%[2]s", attach: ext_authz, limits: {request_body: 16B}}
  - {name: passing, kind: http, listen: {address: "%[1]s", host: passing.test}, target: "%[2]s", response: pass}
  - {name: streams, kind: http, listen: {address: "%[1]s", host: streams.test}, target: "%[2]s", attach: ext_authz, body: stream}
`

func TestRequestsReachTheirResource(t *testing.T) {
	g := startGateway(t, both)
	for _, c := range []struct{ host, by, resource, body string }{
		{"payments.test", "ext_proc", "payments", ""},
		{"payments.test:8080", "ext_proc", "payments", ""},
		{"PAYMENTS.test", "ext_proc", "payments", ""},
		{"authz.test", "ext_authz", "authz", "a body"},
		{"passing.test", "ext_proc", "passing", ""},
		{"streams.test", "ext_authz", "streams", ""},
	} {
		before := g.count()
		g.target.Reset()
		got := g.do(t, "POST", "/v1/echo", c.host, "a body")
		if len(g.target.Requests()) != 1 {
			t.Errorf("%s: %d %s: the target saw %d requests, want 1", c.host, got.status, got.body, len(g.target.Requests()))
			continue
		}
		if seen := g.target.Requests()[0]; seen.Host != g.target.Address || string(seen.Body) != "a body" {
			t.Errorf("%s: the target saw host %q and body %q, want its own host and the body", c.host, seen.Host, seen.Body)
		}
		if g.count() != before+1 {
			t.Errorf("%s: the service was asked %d times, want once", c.host, g.count()-before)
		}
		a := g.last(t)
		if a.by != c.by || a.resource != c.resource || a.body != c.body {
			t.Errorf("%s: asked by %s for %q with body %q, want %s, %q, %q", c.host, a.by, a.resource, a.body, c.by, c.resource, c.body)
		}
		if r, _ := config.Named[*config.HTTP](g.config, c.resource); a.carried != xds.Fingerprint(r) {
			t.Errorf("%s: Envoy says that it carries out %q, want %q", c.host, a.carried, xds.Fingerprint(r))
		}
		if c.by == "ext_proc" && !strings.HasPrefix(a.peer, "127.0.0.1:") {
			t.Errorf("%s: the peer is %q", c.host, a.peer)
		}
	}
}

func TestClientCannotChooseTheResourceOrItsAddress(t *testing.T) {
	g := startGateway(t, both)
	g.do(t, "GET", "/", "payments.test", "", "countersign-resource: other", "countersign-fingerprint: other", "Grpc-Metadata-countersign-resource: other",
		"countersign-peer: 192.0.2.1:7", "X-Forwarded-For: 192.0.2.1", "Forwarded: for=192.0.2.1", "X-Real-IP: 192.0.2.1")
	a := g.last(t)
	if r, _ := config.Named[*config.HTTP](g.config, "payments"); a.resource != "payments" || a.carried != xds.Fingerprint(r) {
		t.Errorf("the resource is %q and its fingerprint %q, want payments and %q", a.resource, a.carried, xds.Fingerprint(r))
	}
	if host, port, err := net.SplitHostPort(a.peer); err != nil || host != "127.0.0.1" || port == "7" {
		t.Errorf("the peer is %q: %v", a.peer, err)
	}
}

func TestUnknownHostIsRefusedByTheService(t *testing.T) {
	g := startGateway(t, both)
	for _, host := range []string{"other.test", "payments.test.", "payments.test.other.test", "x-payments.test"} {
		got := g.do(t, "GET", "/", host, "")
		if got.status != 403 || got.body != refusal || g.last(t).resource != "" {
			t.Errorf("%s: %d %s for resource %q, want the service's own refusal", host, got.status, got.body, g.last(t).resource)
		}
	}
	if n := len(g.target.Requests()); n != 0 {
		t.Errorf("the target saw %d requests, want none", n)
	}
}

func TestRefusalsOfTheServiceKeepTheirBody(t *testing.T) {
	g := startGateway(t, both)
	for _, host := range []string{"payments.test", "authz.test"} {
		for _, verdict := range []string{"refuse", "refuse without details"} {
			got := g.do(t, "GET", "/", host, "", "x-verdict: "+verdict)
			if got.status != 403 || got.body != refusal || got.header.Get("Content-Type") != "application/problem+json" {
				t.Errorf("%s, %s: %d %v %s, want the service's own answer", host, verdict, got.status, got.header, got.body)
			}
		}
	}
}

func TestServiceFailsThenRequestIsRefused(t *testing.T) {
	g := startGateway(t, both)
	check := func(when string) {
		t.Helper()
		for _, host := range []string{"payments.test", "authz.test", "passing.test", "streams.test", "other.test"} {
			if got := g.do(t, "GET", "/v1/payments", host, "", "x-verdict: error"); got.status != 503 {
				t.Errorf("%s, %s: GET: %d %s, want 503", when, host, got.status, got.body)
			}
			got := g.do(t, "POST", "/v1/payments", host, "a body", "x-verdict: error")
			if got.status != 503 || got.problem.Type != "urn:countersign:problem:unavailable" || got.problem.Status != 503 {
				t.Errorf("%s, %s: %d %s, want 503 unavailable", when, host, got.status, got.body)
			}
			if got.problem.Detail == "" || got.problem.Title == "" || got.problem.RequestID == "" || got.problem.RequestID != got.header.Get("X-Request-Id") {
				t.Errorf("%s, %s: %s lacks a detail or the request id", when, host, got.body)
			}
		}
		if n := g.target.BytesIn(); n != 0 {
			t.Errorf("%s: the target saw %d bytes, want none", when, n)
		}
	}
	check("the call fails")
	g.grpc.Stop()
	check("the service is down")
}

func TestEnvoysOwnRefusalsAreProblems(t *testing.T) {
	// Beside what streams the service is told of a head first, and what has come of a body by then is the service's to refuse.
	alone, _, _ := strings.Cut(both, "  - {name: streams")
	g := startGateway(t, alone)
	const head = " HTTP/1.1\r\nHost: payments.test\r\nConnection: close\r\n"
	for _, c := range []struct {
		name, send string
		status     int
		kind       string
	}{
		{"bad header name", "GET /" + head + "a b: c\r\n\r\n", 400, "unreadable"},
		{"both lengths", "POST /" + head + "Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400, "unreadable"},
		{"a coding of the transfer that is not known", "POST /" + head + "Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", 400, "unreadable"},
		{"too many headers", "GET /" + head + strings.Repeat("a: b\r\n", 300) + "\r\n", 413, "too-large"},
		{"too large headers", "GET /" + head + "a: " + strings.Repeat("b", 64<<10) + "\r\n\r\n", 413, "too-large"},
		{"absolute form", "GET http://payments.test/" + head + "\r\n", 403, "denied"},
		{"asterisk form", "OPTIONS *" + head + "\r\n", 403, "denied"},
		{"websocket", "GET /" + " HTTP/1.1\r\nHost: payments.test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n", 403, "denied"},
		{"CONNECT", "CONNECT payments.test:80" + head + "\r\n", 403, "denied"},
		{"too large for ext_authz", "POST / HTTP/1.1\r\nHost: authz.test\r\nConnection: close\r\nContent-Length: 20\r\n\r\n" + strings.Repeat("x", 20), 413, "too-large"},
	} {
		got := g.raw(t, c.send)
		if got.status != c.status || c.kind != "" && got.problem.Type != "urn:countersign:problem:"+c.kind {
			t.Errorf("%s: %d %v %s, want %d %s", c.name, got.status, got.header, got.body, c.status, c.kind)
		}
		if theService := got.problem.Detail == ""; !theService && (got.problem.Status != got.status || got.problem.Rules == nil) {
			t.Errorf("%s: %s, want the status %d and rules in it", c.name, got.body, got.status)
		}
	}
}

// TestATargetThatMayHaveActedIsNotCalledUnavailable: unavailable says that nothing was done, and an agent repeats its request.
func TestATargetThatMayHaveActedIsNotCalledUnavailable(t *testing.T) {
	g := startGateway(t, both)
	for _, host := range []string{"payments.test", "authz.test"} {
		got := g.do(t, "POST", "/hostile/two-lengths", host, "")
		if got.status != 502 || got.problem.Type != "urn:countersign:problem:withheld" || got.header.Get("Retry-After") != "" || !strings.Contains(got.problem.Detail, "not known") {
			t.Errorf("%s breaks off: %d %v %s", host, got.status, got.header, got.body)
		}
	}
	if got := g.do(t, "POST", "/status/200", "payments.test", "", "x-verdict: error at the answer"); got.status != 502 || got.problem.Type != "urn:countersign:problem:withheld" || got.header.Get("Retry-After") != "" {
		t.Errorf("the service fails when the target has answered: %d %v %s", got.status, got.header, got.body)
	}
	g.target.Stop()
	for _, host := range []string{"payments.test", "authz.test"} {
		got := g.do(t, "POST", "/", host, "")
		if got.status != 503 || got.problem.Type != "urn:countersign:problem:unavailable" || got.header.Get("Retry-After") == "" || !strings.Contains(got.problem.Detail, "target") {
			t.Errorf("%s is down: %d %v %s", host, got.status, got.header, got.body)
		}
	}
}

func TestEnvoyHeadersOfAClientDoNothing(t *testing.T) {
	g := startGateway(t, both)
	for _, host := range []string{"payments.test", "authz.test"} {
		g.target.Reset()
		got := g.do(t, "GET", "/status/503", host, "",
			"x-envoy-retry-on: 5xx,reset", "x-envoy-max-retries: 3", "X-Envoy-Retry-Grpc-On: unavailable", "x-envoy-upstream-rq-timeout-ms: 1",
			"x-envoy-hedge-on-per-try-timeout: true", "x-envoy-upstream-alt-stat-name: other", "x-envoy-original-path: /other")
		if n := len(g.target.Requests()); n != 1 {
			t.Fatalf("%s: %d %s: the target saw %d requests, want exactly one", host, got.status, got.body, n)
		}
		for _, f := range g.target.Requests()[0].Header {
			if name := strings.ToLower(f.Name); strings.HasPrefix(name, "x-envoy") || name == "x-forwarded-for" {
				t.Errorf("%s: the target saw %s: %s", host, f.Name, f.Value)
			}
		}
		for name := range g.last(t).headers {
			if strings.HasPrefix(name, "x-envoy") && name != "x-envoy-external-address" && name != "x-envoy-auth-partial-body" {
				t.Errorf("%s: the service was shown %s", host, name)
			}
		}
		for name := range got.header {
			if low := strings.ToLower(name); low == "server" || strings.HasPrefix(low, "x-envoy") {
				t.Errorf("%s: the agent saw %s: %s", host, name, got.header.Get(name))
			}
		}
	}
}

func TestRequestIDIsEnvoys(t *testing.T) {
	g := startGateway(t, both)
	const chosen = "11111111-2222-4333-8444-555555555555"
	got := g.do(t, "GET", "/", "payments.test", "", "x-request-id: "+chosen)
	if id := got.header.Get("X-Request-Id"); id == "" || id == chosen || id != g.last(t).headers["x-request-id"] {
		t.Errorf("request id %q, want one that the client did not choose, the same for agent and service", id)
	}
}

func TestPathsArriveAsTheyWereSent(t *testing.T) {
	g := startGateway(t, both)
	for _, path := range []string{"/a//b", "/a/../b", "/a/%2e%2e/b", "/a%2Fb", "/a%5cb", "/a;b=c", "/a/./b"} {
		g.raw(t, "GET "+path+" HTTP/1.1\r\nHost: payments.test\r\nConnection: close\r\n\r\n")
		if got := g.last(t).headers[":path"]; got != path {
			t.Errorf("the service sees %q, want %q", got, path)
		}
	}
}

func TestAccessLogNamesResourceAndRequest(t *testing.T) {
	g := startGateway(t, both)
	var ids []string
	for _, host := range []string{"payments.test", "authz.test", "other.test"} {
		ids = append(ids, g.do(t, "GET", "/x", host, "").header.Get("X-Request-Id"))
	}
	g.await(t, "three entries of the access log", func() bool { return len(g.logged) >= 3 })
	var got []string
	for i, e := range g.logged {
		if e.GetRequest().GetRequestId() != ids[i] {
			t.Errorf("entry %d is of request %q, want %q", i, e.GetRequest().GetRequestId(), ids[i])
		}
		got = append(got, e.GetCommonProperties().GetRouteName())
	}
	if diff := cmp.Diff([]string{"payments", "authz", "countersign.unmatched"}, got); diff != "" {
		t.Errorf("routes in the access log (-want +got):\n%s", diff)
	}
}

func TestWebsocketAndConnectWhereAllowed(t *testing.T) {
	g := startGateway(t, `
  - {name: sockets, kind: http, listen: {address: "%[1]s"}, target: "%[2]s", upgrades: [websocket, connect]}
`)
	before := g.count()
	g.raw(t, "GET /ws HTTP/1.1\r\nHost: any.test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n")
	if g.count() != before+1 || g.last(t).resource != "sockets" || g.last(t).headers["upgrade"] != "websocket" {
		t.Errorf("websocket: asked %d times, last %+v", g.count()-before, g.last(t))
	}
	g.raw(t, "CONNECT db.test:5432 HTTP/1.1\r\nHost: db.test:5432\r\n\r\n")
	if g.count() != before+2 || g.last(t).resource != "sockets" || g.last(t).headers[":authority"] != "db.test:5432" {
		t.Errorf("CONNECT: asked %d times, last %+v", g.count()-before, g.last(t))
	}
	methods := []string{}
	for _, r := range g.target.Requests() {
		methods = append(methods, r.Method+" "+strings.Join(r.Get("Upgrade"), ""))
	}
	if !slices.Equal(methods, []string{"GET websocket", "CONNECT "}) {
		t.Errorf("the target saw %q", methods)
	}
}
