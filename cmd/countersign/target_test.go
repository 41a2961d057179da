package main

import (
	"context"
	"fmt"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/countersign/countersign/extproc/extproctest"
	"github.com/countersign/countersign/extproc/extproctest/story"
)

// TestATargetThatFailsIsTold: who runs the gateway learns from the log, the metrics and /readyz which target fails and what of, in
// Envoy's words, and of one operation from its records. The log is not flooded, and says when the target answers again.
func TestATargetThatFailsIsTold(t *testing.T) {
	t.Parallel()
	g := start(t, readOnly, story.Options{})
	theirs := extproctest.NewTarget(t, extproctest.TargetOptions{Authority: extproctest.NewAuthority(t)})
	text, err := os.ReadFile(g.Config)
	must(t, err)
	badly, down := *g, *g
	badly.Address, down.Address = extproctest.FreeAddress(t), extproctest.FreeAddress(t)
	g.Write("countersign.yaml", string(text)+fmt.Sprintf(`
  - {name: badly, kind: http, policy: payments, listen: {address: %q}, target: %q, target_tls: {ca_file: %s}}
  - {name: down, kind: http, policy: payments, listen: {address: %q}, target: %q}
`, badly.Address, theirs.URL, extproctest.NewAuthority(t).CAFile, down.Address, "http://"+extproctest.FreeAddress(t)))
	g.AwaitRecord("the new configuration", func(r story.Record) bool { return r.Type == "config.activated" && r.Body["resources"] == 3.0 })
	const many = 20
	for name, of := range map[string]*story.Gateway{"badly": &badly, "down": &down} {
		extproctest.Await(t, "the listener of "+name, 20*time.Second, func(ctx context.Context) error {
			a, err := of.Send(ctx, &story.Request{Method: "GET", Target: "/v1/payments/7"}) // refused, without a token
			if err == nil && a.Status != 401 {
				err = fmt.Errorf("status %d", a.Status)
			}
			return err
		})
		for range many {
			if a := ask(t, of, "GET", "/v1/payments/7"); a.Status != 503 {
				t.Fatalf("%s: %d %s", name, a.Status, a.Body)
			}
		}
	}
	for resource, words := range map[string]string{"badly": "CERTIFICATE_VERIFY_FAILED", "down": "(?i)connection.refused"} {
		var metrics string
		extproctest.Await(t, "every failure of "+resource, 20*time.Second, func(context.Context) error {
			if _, metrics = get(t, "http://"+g.Admin+"/metrics"); !strings.Contains(metrics, fmt.Sprintf("countersign_target_failures_total{resource=%q} %d\n", resource, many)) {
				return fmt.Errorf("not counted")
			}
			return nil
		})
		lines := regexp.MustCompile(`(?m)^.*level=WARN msg="a target failed" resource=`+resource+` .*$`).FindAllString(g.Process.Log(), -1)
		if len(lines) != 1 || !regexp.MustCompile(words).MatchString(lines[0]) || !strings.Contains(lines[0], "upstream connection failure") {
			t.Errorf("%s: the log has %q, want one line that matches %s", resource, lines, words)
		}
		if code, text := get(t, "http://"+g.Admin+"/readyz"); code != 200 || !regexp.MustCompile("(?m)^target of "+resource+": failed when it was asked last: .*"+words).MatchString(text) {
			t.Errorf("readyz: %d\n%s", code, text)
		}
		r := g.AwaitRecord("the transit of "+resource, func(r story.Record) bool {
			return r.Type == "transit" && r.Body["resource"] == resource && r.Body["status"] == 503.0
		})
		out, code := runCommand(t, "evidence", "show", "--data", g.Data(), "--operation", r.Op)
		for _, part := range []string{`response_flags="?upstream connection failure`, "upstream_host=\"?127.0.0.1:", "(?:details|upstream_failure)=.*" + words} {
			if code != 0 || !regexp.MustCompile(part).MatchString(out) {
				t.Errorf("evidence show: exit %d, without %s\n%s", code, part, out)
			}
		}
	}
	if text := g.Process.Log(); strings.Contains(text, "resource=payments") {
		t.Errorf("the target that works is told of: %s", text)
	}

	// One that answers again is well, at once.
	g.Target.Stop()
	if a := ask(t, g, "GET", "/v1/payments/7"); a.Status != 503 {
		t.Fatalf("%d %s", a.Status, a.Body)
	}
	awaitReadyz(t, g, 200, "target of payments: failed")
	g.Target.Start()
	if a := ask(t, g, "GET", "/v1/payments/7"); a.Status != 200 {
		t.Fatalf("%d %s", a.Status, a.Body)
	}
	must(t, g.Process.WaitLog(t.Context(), `msg="a target answers again" resource=payments`))
	if _, text := get(t, "http://"+g.Admin+"/readyz"); strings.Contains(text, "target of payments") {
		t.Errorf("readyz:\n%s", text)
	}
}

// TestReadyzTellsWhatIsNotInForce: what does not keep the gateway from its work is told and turns nothing red.
func TestReadyzTellsWhatIsNotInForce(t *testing.T) {
	t.Parallel()
	g := start(t, readOnly+"-- config.yaml --\npeople: {issuer: \"${PEOPLE}\", client_id: countersign-console}\n", story.Options{})
	awaitReadyz(t, g, 200, "config: ok", "people's issuer "+g.People.URL+": ok")
	text, err := os.ReadFile(g.Config)
	must(t, err)
	policy, err := os.ReadFile(g.Dir + "/policies/payments.rego")
	must(t, err)
	for _, bad := range []struct{ file, text, good, want string }{
		{"countersign.yaml", string(text) + "nonsense: 1\n", string(text), "nonsense"},
		{"countersign.yaml", strings.Replace(string(text), "node: story", "node: other", 1), string(text), "node has changed, and takes a restart"},
		{"policies/payments.rego", "package rules.payments\n\nallow contains\n", string(policy), "payments.rego"},
	} {
		g.Write(bad.file, bad.text)
		awaitReadyz(t, g, 200, "config: the file on disk is not what is active: it was rejected: ", bad.want, "policies: ok")
		if _, metrics := get(t, "http://"+g.Admin+"/metrics"); !strings.Contains(metrics, "countersign_config_rejected_ratio 1\n") {
			t.Error("the metrics do not say so")
		}
		if a := ask(t, g, "GET", "/v1/payments/7"); a.Status != 200 {
			t.Errorf("with what is active: %d", a.Status)
		}
		g.Write(bad.file, bad.good)
		awaitReadyz(t, g, 200, "config: ok")
	}
	if _, metrics := get(t, "http://"+g.Admin+"/metrics"); !strings.Contains(metrics, "countersign_config_rejected_ratio 0\n") {
		t.Error("the metrics say that something is rejected")
	}

	g.Process.Stop()
	g.People.Stop()
	g.Run() // ready without it
	awaitReadyz(t, g, 200, "people's issuer "+g.People.URL+": there are no keys of the issuer")
	if _, metrics := get(t, "http://"+g.Admin+"/metrics"); !strings.Contains(metrics, fmt.Sprintf("countersign_people_issuer_ready_ratio{issuer=%q} 0\n", g.People.URL)) {
		t.Error("the metrics do not say that people's issuer is away")
	}
	g.People.Start()
	awaitReadyz(t, g, 200, "people's issuer "+g.People.URL+": ok")
}
