package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/tools/txtar"

	"github.com/countersign/countersign/extproc/config"
	"github.com/countersign/countersign/extproc/extproctest"
	"github.com/countersign/countersign/extproc/extproctest/story"
	"github.com/countersign/countersign/extproc/listener"
)

const readOnly = `
-- policy.rego --
package rules.payments

allow contains {"id": "read"} if input.http.method == "GET"

redact contains {"path": "$..ssn"}
`

func start(t testing.TB, archive string, o story.Options) *story.Gateway {
	t.Helper()
	return story.Start(t, txtar.Parse([]byte(archive)), o)
}

// ask sends a request as agent-1 and fails the test where no answer comes.
func ask(t testing.TB, g *story.Gateway, method, target string) *story.Answer {
	t.Helper()
	a, err := tryAsk(t, g, method, target)
	if err != nil {
		t.Fatalf("%s %s: %v", method, target, err)
	}
	return a
}

func tryAsk(t testing.TB, g *story.Gateway, method, target string) (*story.Answer, error) {
	t.Helper()
	token, err := g.Issuer.AgentToken(t.Context(), "agent-1")
	if err != nil {
		t.Fatal(err)
	}
	return g.Send(t.Context(), &story.Request{Method: method, Target: target, Fields: []extproctest.Field{{Name: "Authorization", Value: "Bearer " + token}}})
}

// runCommand runs the program as a user would and returns what it printed and its exit code.
func runCommand(t testing.TB, args ...string) (out string, code int) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), extproctest.Build(t), args...)
	var b bytes.Buffer
	cmd.Stdout, cmd.Stderr = &b, &b
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	return b.String(), cmd.ProcessState.ExitCode()
}

func get(t testing.TB, url string) (int, string) {
	t.Helper()
	resp, err := http.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(text)
}

// TestCollectorGetsEveryRecord follows the journal to a real collector, through a collector and a gateway that go away
// and come back: every record arrives once, finished operations as spans in the agent's own trace.
func TestCollectorGetsEveryRecord(t *testing.T) {
	t.Parallel()
	collector := extproctest.StartCollector(t, extproctest.CollectorOptions{})
	g := start(t, readOnly+fmt.Sprintf("-- config.yaml --\nevidence: {otlp: {endpoint: %q, insecure: true}, heartbeat: 500ms, checkpoint: 500ms}\n", collector.Endpoint()), story.Options{})
	const trace = "4bf92f3577b34da6a3ce929d0e0e4736"
	token, err := g.Issuer.AgentToken(t.Context(), "agent-1")
	if err != nil {
		t.Fatal(err)
	}
	a, err := g.Send(t.Context(), &story.Request{Method: "GET", Target: "/v1/payments/7", Fields: []extproctest.Field{
		{Name: "Authorization", Value: "Bearer " + token}, {Name: "traceparent", Value: "00-" + trace + "-00f067aa0ba902b7-01"},
	}})
	if err != nil || a.Status != 200 {
		t.Fatalf("answer %v, %v", a, err)
	}
	collector.Stop() // a killed one can lose what it has accepted
	if a := ask(t, g, "DELETE", "/v1/payments/7"); a.Status != 403 {
		t.Fatalf("while the collector is down: %d", a.Status)
	}
	g.Process.Stop()
	collector.Start()
	g.Run()
	if a := ask(t, g, "GET", "/v1/payments/7"); a.Status != 200 {
		t.Fatalf("after the restart: %d", a.Status)
	}
	g.Evidence(3)
	g.Process.Stop()

	last := uint64(len(g.Records()))
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	var seen map[uint64]int
	collector.WaitFor(ctx, "every record", func(spans []extproctest.Span, logs []extproctest.LogRecord) bool {
		seen = map[uint64]int{}
		for _, s := range spans {
			if n, ok := number(s.Attributes["countersign.seq"]); ok {
				seen[n]++
			}
		}
		for _, l := range logs {
			if n, ok := number(l.Attributes["countersign.seq"]); ok && l.EventName != "checkpoint" {
				seen[n]++
			}
		}
		return uint64(len(seen)) >= last
	})
	for seq := uint64(1); seq <= last; seq++ {
		if seen[seq] != 1 {
			t.Errorf("record %d of %d came %d times", seq, last, seen[seq])
		}
	}
	inTrace := 0
	for _, s := range collector.Spans() {
		if s.TraceID == trace {
			inTrace++
		}
	}
	if inTrace == 0 {
		t.Error("no span is in the agent's trace")
	}
	if out, code := runCommand(t, "evidence", "verify", "--config", g.Config); code != 0 || !strings.Contains(out, "PASS") {
		t.Errorf("verify: exit %d\n%s", code, out)
	}
}

func number(v any) (uint64, bool) {
	switch v := v.(type) {
	case int64:
		return uint64(v), true
	case float64:
		return uint64(v), true
	case string:
		var n uint64
		_, err := fmt.Sscan(v, &n)
		return n, err == nil
	}
	return 0, false
}

// TestGapIsVisibleAfterKill kills the gateway while a target holds its answer: the allowed operation becomes an
// operation.unknown at the next start, and the journal verifies (promise 9).
func TestGapIsVisibleAfterKill(t *testing.T) {
	t.Parallel()
	g := start(t, readOnly, story.Options{})
	done := make(chan struct{})
	go func() {
		defer close(done)
		_, _ = tryAsk(t, g, "GET", "/hold/x") // broken off by the kill
	}()
	decided := g.AwaitRecord("the decision", func(r story.Record) bool { return r.Type == "operation.decided" })
	g.Process.Kill()
	<-done
	g.Run()
	unknown := g.AwaitRecord("the unknown outcome", func(r story.Record) bool { return r.Type == "operation.unknown" })
	if unknown.Op != decided.Op {
		t.Errorf("operation.unknown is about %q, and %q was cut off", unknown.Op, decided.Op)
	}
	if a := ask(t, g, "GET", "/v1/payments/7"); a.Status != 200 {
		t.Errorf("after the restart: %d", a.Status)
	}
	g.Process.Stop()
	if out, code := runCommand(t, "evidence", "verify", "--data", g.Data()); code != 0 {
		t.Errorf("verify: exit %d\n%s", code, out)
	}
}

// TestBadReloadKeepsTheOldState breaks the policy and the configuration under a running gateway.
func TestBadReloadKeepsTheOldState(t *testing.T) {
	t.Parallel()
	g := start(t, readOnly, story.Options{})
	g.Write("policies/payments.rego", "package rules.payments\n\nallow contains {\"id\": \"all\"} if input.htp.method == \"GET\"\n")
	rejected := g.AwaitRecord("config.rejected", func(r story.Record) bool { return r.Type == "config.rejected" })
	if text := fmt.Sprint(rejected.Body["problems"]); !strings.Contains(text, "payments.rego:3") {
		t.Errorf("the record names no line: %s", text)
	}
	if a := ask(t, g, "GET", "/v1/payments/7"); a.Status != 200 {
		t.Errorf("with a broken policy beside it: %d", a.Status)
	}
	conf, err := os.ReadFile(g.Config)
	if err != nil {
		t.Fatal(err)
	}
	g.Write("countersign.yaml", string(conf)+"unknown_key: 1\n")
	g.AwaitRecord("a second config.rejected", func(r story.Record) bool {
		return r.Type == "config.rejected" && strings.Contains(fmt.Sprint(r.Body["problems"]), "unknown_key")
	})
	if a := ask(t, g, "DELETE", "/v1/payments/7"); a.Status != 403 {
		t.Errorf("with a broken configuration: %d", a.Status)
	}
	g.Write("policies/payments.rego", "package rules.payments\n\nallow contains {\"id\": \"all\"}\n")
	g.Write("countersign.yaml", string(conf))
	g.AwaitRecord("the good policy", func(r story.Record) bool { return r.Type == "policy.activated" && r.Seq > rejected.Seq })
	if a := ask(t, g, "DELETE", "/v1/payments/7"); a.Status/100 != 2 {
		t.Errorf("after the policy was mended: %d", a.Status)
	}
}

// TestDrainFinishesWorkInHand stops the gateway while a target holds its answer.
func TestDrainFinishesWorkInHand(t *testing.T) {
	t.Parallel()
	g := start(t, readOnly, story.Options{})
	type result struct {
		answer *story.Answer
		err    error
	}
	answered := make(chan result, 1)
	go func() {
		a, err := tryAsk(t, g, "GET", "/feed/slow?type=application/json")
		answered <- result{a, err}
	}()
	feed := g.Target.Feed("slow")
	if err := feed.Send(t.Context(), `{"a":`); err != nil {
		t.Fatal(err)
	}
	g.Process.Signal(syscall.SIGTERM)
	if err := g.Process.WaitLog(t.Context(), "draining"); err != nil {
		t.Fatal(err)
	}
	if code, text := get(t, "http://"+g.Admin+"/readyz"); code != 503 || !strings.Contains(text, "stopping") {
		t.Errorf("readyz while draining: %d %s", code, text)
	}
	if a := ask(t, g, "GET", "/v1/payments/7"); a.Status != 503 || a.Problem() != "unavailable" {
		t.Errorf("new work while draining: %d %s", a.Status, a.Problem())
	}
	if err := feed.Send(t.Context(), `1}`); err != nil {
		t.Fatal(err)
	}
	if err := feed.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	if r := <-answered; r.err != nil || r.answer.Status != 200 || string(r.answer.Body) != `{"a":1}` {
		t.Errorf("work in hand: %+v", r)
	}
	if err := g.Process.Wait(t.Context()); err != nil {
		t.Errorf("the gateway ended with %v", err)
	}
	records := g.Records()
	if last := records[len(records)-1]; last.Type != "gateway.stopped" {
		t.Errorf("the last record is %s", last.Type)
	}
	// Envoy tells of what ended last a moment later: a stop waits for it.
	transits := 0
	for _, r := range g.Records() {
		if r.Type == "transit" && r.Body["target"] == "/feed/slow" {
			transits++
		}
	}
	if transits != 1 {
		t.Errorf("the work in hand has %d transit records", transits)
	}
}

// TestCredentialIsReadAgain changes the target's credential in place, and takes it away.
func TestCredentialIsReadAgain(t *testing.T) {
	t.Parallel()
	g := start(t, readOnly, story.Options{})
	ask(t, g, "GET", "/v1/payments/7")
	g.Write("secrets/payments", "Bearer rotated\n")
	ask(t, g, "GET", "/v1/payments/7")
	seen := g.Target.Requests()
	if got := fmt.Sprint(seen[0].Get("Authorization"), seen[1].Get("Authorization")); got != "[Bearer target-credential] [Bearer rotated]" {
		t.Errorf("the target saw %s", got)
	}
	for _, none := range []string{"\n", "  \n", "Bearer \x01\n", "Bearer a\nBearer b\n"} {
		g.Write("secrets/payments", none)
		if a := ask(t, g, "GET", "/v1/payments/7"); a.Status != 503 || a.Problem() != "unavailable" {
			t.Errorf("with %q for a credential: %d %s", none, a.Status, a.Problem())
		}
	}
	records := g.Records()
	for _, r := range records[len(records)-3:] {
		if r.Type == "operation.decided" && r.Body["effect"] == "allow" {
			t.Errorf("allowed without a credential: %v", r.Body)
		}
	}
	if n := len(g.Target.Requests()); n != 2 {
		t.Errorf("the target saw %d requests", n)
	}
}

// TestReadyWhenItCouldAllow starts a gateway whose issuer is down: it runs, refuses, says why it is not ready, and comes
// round when the issuer does.
func TestReadyWhenItCouldAllow(t *testing.T) {
	t.Parallel()
	g := start(t, readOnly, story.Options{})
	token, err := g.Issuer.AgentToken(t.Context(), "agent-1")
	if err != nil {
		t.Fatal(err)
	}
	g.Process.Stop()
	g.Issuer.Stop()
	p := extproctest.Start(t, extproctest.Command{Name: "countersign", Path: extproctest.Build(t), Args: []string{"serve", "--config", g.Config, "--envoy"}})
	extproctest.Await(t, "Envoy", 20*time.Second, func(context.Context) error {
		if _, text := statusOf("http://" + g.Admin + "/readyz"); !strings.Contains(text, "envoy: ok") {
			return fmt.Errorf("%s\n%s", text, p.Log())
		}
		return nil
	})
	if code, text := get(t, "http://"+g.Admin+"/readyz"); code != 503 || !strings.Contains(text, "issuers: ") || strings.Contains(text, "issuers: ok") {
		t.Errorf("readyz while the issuer is down: %d\n%s", code, text)
	}
	if code, _ := get(t, "http://"+g.Admin+"/healthz"); code != 200 {
		t.Errorf("healthz while the issuer is down: %d", code)
	}
	request := &story.Request{Method: "GET", Target: "/v1/payments/7", Fields: []extproctest.Field{{Name: "Authorization", Value: "Bearer " + token}}}
	if a, err := g.Send(t.Context(), request); err != nil || a.Status != 503 {
		t.Errorf("while the issuer is down: %+v, %v", a, err)
	}
	g.Issuer.Start()
	extproctest.Await(t, "readiness", 60*time.Second, func(context.Context) error {
		if code, text := statusOf("http://" + g.Admin + "/readyz"); code != 200 {
			return errors.New(text)
		}
		return nil
	})
	if a, err := g.Send(t.Context(), request); err != nil || a.Status != 200 {
		t.Errorf("when the issuer is back: %+v, %v", a, err)
	}
	if _, text := get(t, "http://"+g.Admin+"/metrics"); !strings.Contains(text, "countersign_operations_total{") {
		t.Errorf("metrics lack countersign_operations_total:\n%s", text)
	}
}

func statusOf(url string) (int, string) {
	resp, err := http.Get(url)
	if err != nil {
		return 0, err.Error()
	}
	defer resp.Body.Close()
	text, _ := io.ReadAll(resp.Body)
	return resp.StatusCode, string(text)
}

// TestNoRecordNoAccess takes the room away from the journal: everything is refused in the protocol's own words, the
// target sees nothing, and access comes back with the room (promise 1).
func TestNoRecordNoAccess(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		t.Log("not root: the room is bounded by RLIMIT_FSIZE instead of a small file system")
	}
	g := start(t, readOnly, story.Options{})
	ask(t, g, "GET", "/v1/payments/7")
	g.Process.Stop()
	size := journalSize(t, g)
	// RLIMIT_FSIZE makes a write past the bound fail with EFBIG, as a full disk fails it with ENOSPC.
	p := extproctest.Start(t, extproctest.Command{Name: "countersign", Path: "/bin/bash", Args: []string{
		"-c",
		fmt.Sprintf("ulimit -S -f %d; trap '' XFSZ; exec %q serve --config %q --envoy", size/1024+60, extproctest.Build(t), g.Config),
	}})
	extproctest.Await(t, "readiness", 30*time.Second, func(context.Context) error {
		if code, text := statusOf("http://" + g.Admin + "/readyz"); code != 200 {
			return fmt.Errorf("%s\n%s", text, p.Log())
		}
		return nil
	})
	saw := len(g.Target.Requests())
	allowed, refused := 0, 0
	for refused < 5 && allowed < 500 {
		a := ask(t, g, "GET", "/v1/payments/7")
		switch {
		case a.Status == 200:
			allowed++
		case a.Status == 503 && a.Problem() == "unavailable":
			refused++
		default:
			t.Fatalf("answer %d %s", a.Status, a.Body)
		}
	}
	if refused < 5 || allowed == 0 {
		t.Fatalf("%d allowed, %d refused: the journal never ran out of room", allowed, refused)
	}
	if n := len(g.Target.Requests()) - saw; n != allowed {
		t.Errorf("the target saw %d requests, and %d were allowed", n, allowed)
	}
	if code, text := get(t, "http://"+g.Admin+"/readyz"); code != 503 || strings.Contains(text, "journal: ok") {
		t.Errorf("readyz: %d\n%s", code, text)
	}
	p.Kill()
	g.Run()
	if a := ask(t, g, "GET", "/v1/payments/7"); a.Status != 200 {
		t.Errorf("with room again: %d", a.Status)
	}
	g.Process.Stop()
	decided := 0
	for _, r := range g.Records() {
		if r.Type == "operation.decided" && r.Body["effect"] == "allow" {
			decided++
		}
	}
	if n := len(g.Target.Requests()); decided < n {
		t.Errorf("the target saw %d requests, and %d are recorded as allowed", n, decided)
	}
	if out, code := runCommand(t, "evidence", "verify", "--data", g.Data()); code != 0 {
		t.Errorf("verify: exit %d\n%s", code, out)
	}
}

func journalSize(t *testing.T, g *story.Gateway) int64 {
	t.Helper()
	names, err := filepath.Glob(filepath.Join(g.Data(), "journal", "*"))
	if err != nil {
		t.Fatal(err)
	}
	var most int64
	for _, name := range names {
		info, err := os.Stat(name)
		if err != nil {
			t.Fatal(err)
		}
		most = max(most, info.Size())
	}
	return most
}

// TestNotReadyWhereEnvoyCannotListen has another program on the address that agents ask, for a while.
func TestNotReadyWhereEnvoyCannotListen(t *testing.T) {
	t.Parallel()
	g := start(t, readOnly, story.Options{})
	g.Process.Stop()
	l, err := listener.Listen(t.Context(), config.Address(g.Address))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	p := extproctest.Start(t, extproctest.Command{Path: extproctest.Build(t), Args: []string{"serve", "--config", g.Config, "--envoy"}})
	awaitReadyz(t, g, 503, "envoy: Listener refused: ", g.Address, "Address already in use")
	g.AwaitRecord("an alarm", func(r story.Record) bool { return r.Type == "alarm" && r.Body["kind"] == "xds_nack" })
	must(t, l.Close())
	awaitReadyz(t, g, 200, "envoy: ok")
	if a := ask(t, g, "GET", "/v1/payments/7"); a.Status != 200 {
		t.Errorf("when the port is free: %d %s", a.Status, a.Body)
	}
	if n := strings.Count(p.Log(), "\n"); n > 100 {
		t.Errorf("%d lines of log", n)
	}
}

// awaitReadyz waits for a status of /readyz with these parts in it.
func awaitReadyz(t *testing.T, g *story.Gateway, want int, parts ...string) {
	t.Helper()
	extproctest.Await(t, "readiness", 30*time.Second, func(context.Context) error {
		code, text := statusOf("http://" + g.Admin + "/readyz")
		for _, part := range parts {
			if code != want || !strings.Contains(text, part) {
				return fmt.Errorf("readyz: %d, without %q\n%s", code, part, text)
			}
		}
		return nil
	})
}

// TestReadyForThoseWhoCanBeServed: what stops the agents of one issuer is told and turns nobody else away. What Envoy refuses of a
// new configuration turns it red, since that is not in force, and what was there is served on.
func TestReadyForThoseWhoCanBeServed(t *testing.T) {
	t.Parallel()
	g := start(t, readOnly, story.Options{})
	g.Process.Stop()
	taken, err := listener.Listen(t.Context(), "127.0.0.1:0")
	must(t, err)
	defer taken.Close()
	text, err := os.ReadFile(g.Config)
	must(t, err)
	away := "http://" + extproctest.FreeAddress(t)
	g.Write("countersign.yaml", strings.Replace(string(text), "agents:\n", fmt.Sprintf("agents:\n  - {issuer: %q, audience: [x]}\n", away), 1))
	g.Run()
	awaitReadyz(t, g, 200, "issuers: ok", "issuer "+g.Issuer.URL+": ok", "issuer "+away+": there are no keys of the issuer", "envoy: ok")
	if a := ask(t, g, "GET", "/v1/payments/7"); a.Status != 200 {
		t.Errorf("answer %d %s", a.Status, a.Body)
	}
	_, metrics := get(t, "http://"+g.Admin+"/metrics")
	for issuer, ready := range map[string]string{g.Issuer.URL: "1", away: "0"} {
		if want := fmt.Sprintf("countersign_issuer_ready_ratio{issuer=%q} %s\n", issuer, ready); !strings.Contains(metrics, want) {
			t.Errorf("the metrics lack %s", want)
		}
	}
	text, err = os.ReadFile(g.Config)
	must(t, err)
	g.Write("countersign.yaml", string(text)+
		fmt.Sprintf("  - {name: other, kind: http, policy: payments, listen: {address: %q}, target: %q}\n", taken.Addr(), g.Target.URL))
	awaitReadyz(t, g, 503, "envoy: ok", "envoy configuration: Listener refused: ", taken.Addr().String(), "Address already in use")
	if a := ask(t, g, "GET", "/v1/payments/7"); a.Status != 200 {
		t.Errorf("answer %d %s", a.Status, a.Body)
	}
	must(t, taken.Close())
	awaitReadyz(t, g, 200, "envoy: ok")
	conn, err := net.Dial("tcp", taken.Addr().String())
	must(t, err)
	must(t, conn.Close())
	g.Process.Stop()
	g.Issuer.Stop()
	extproctest.Start(t, extproctest.Command{Path: extproctest.Build(t), Args: []string{"serve", "--config", g.Config, "--envoy"}})
	awaitReadyz(t, g, 503, "issuers: issuer ", "issuer "+g.Issuer.URL+": there are no keys of the issuer", "issuer "+away+": there are no keys of the issuer")
}
