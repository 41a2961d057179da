package main

import (
	"context"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/countersign/countersign/extproc/extproctest"
	"github.com/countersign/countersign/extproc/extproctest/story"
)

// attributeName is a name as the semantic conventions want it: lower case, in namespaces that are divided by dots.
var attributeName = regexp.MustCompile(`^[a-z][a-z0-9]*(_[a-z0-9]+)*(\.[a-z][a-z0-9]*(_[a-z0-9]+)*)*$`)

// TestAttributesAreNames has every type of record, and a checkpoint, come to a real collector. The names of attributes are those of
// testdata/attributes.txt, which is how a new one is noticed (-update adds it) and how one that somebody chose by a path or
// a header is. Each record stands in the trace of its operation, and a checkpoint says when, where and up to which record.
func TestAttributesAreNames(t *testing.T) {
	t.Parallel()
	collector := extproctest.StartCollector(t, extproctest.CollectorOptions{})
	console := extproctest.FreeAddress(t)
	const redact = "\n-- redact.rego --\npackage rules.payments\n\nredact contains {\"path\": \"$['Weird Näme']..SSN\"}\n\nredact contains {\"path\": \"$..ssn\"}\n\nredact contains {\"detect\": \"email\"}\n"
	g := &askingGateway{t: t, console: console, Gateway: start(t, refundPolicy+redact+fmt.Sprintf(
		"-- config.yaml --\npeople: {issuer: \"${ISSUER}\", client_id: countersign-console}\napprovals: {hold: 5s, ttl: 5s}\nevidence: {heartbeat: 1s, checkpoint: 1s, otlp: {endpoint: %q, insecure: true}}\n-- listen --\nconsole: %q\n",
		collector.Endpoint(), console), story.Options{})}
	const trace = "0af7651916cd43dd8448eb211c80319c"
	send := func(ctx context.Context, method, target, body, token string) {
		_, err := g.Send(ctx, &story.Request{Method: method, Target: target, Body: []byte(body), Fields: []extproctest.Field{
			{Name: "Authorization", Value: "Bearer " + token},
			{Name: "Content-Type", Value: "application/json"},
			{Name: "Traceparent", Value: "00-" + trace + "-b7ad6b7169203331-01"},
			{Name: "X-Weird", Value: "1"},
		}})
		if err != nil && ctx.Err() == nil {
			t.Errorf("%s %s: %v", method, target, err)
		}
	}
	agent := g.Issuer.Token(extproctest.Claims{"sub": "u-dora", "preferred_username": "dora", "client_id": "agent-1", "act": map[string]any{"sub": "agent-1"}})
	bob := g.person("u-bob", "payments-oncall")
	await := func(kind string, n int) {
		t.Helper()
		g.AwaitRecord(fmt.Sprintf("%s, %d times", kind, n), func(r story.Record) bool {
			if r.Type == kind {
				n--
			}
			return n == 0
		})
	}
	held := func(body string) (answered func(), leave func()) {
		t.Helper()
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() {
			defer close(done)
			send(ctx, "POST", "/v1/payments/7/refunds", body, agent)
		}()
		return func() { <-done }, func() { cancel(); <-done }
	}
	for _, path := range []string{"/v1/payments/7", "/hostile/text", "/nothing"} {
		send(t.Context(), "GET", path, "", agent)
	}
	send(t.Context(), "XPLOIT", "/v1/payments/7", "", agent)
	send(t.Context(), "GET", "/v1/payments/7", "", "nobody's")
	answered, _ := held(`{"amount": 1}`)
	if code := g.decide(bob, "approve", "", g.pending(bob)); code != 200 {
		t.Fatalf("bob is told %d", code)
	}
	answered()
	answered, _ = held(`{"amount": 2}`)
	asked := g.pending(bob)
	if code := g.decide(g.person("u-eve"), "approve", "", asked); code == 200 {
		t.Fatal("eve may approve")
	}
	if code := g.decide(bob, "reject", "no", asked); code != 200 {
		t.Fatalf("bob is told %d", code)
	}
	answered()
	_, leave := held(`{"amount": 3}`)
	g.pending(bob)
	leave()
	await("approval.withdrawn", 1)
	await("approval.expired", 1)
	_, leave = held(`{"amount": 4}`)
	g.pending(bob)
	g.Write("policies/more.rego", "package rules.payments\n\ndeny contains {\"id\": \"never\"} if input.http.method == \"PATCH\"\n")
	await("policy.activated", 2)
	await("approval.voided", 1)
	leave()
	conf, err := os.ReadFile(g.Config)
	must(t, err)
	must(t, os.WriteFile(g.Config, append([]byte("unknown: 1\n"), conf...), 0o600))
	await("config.rejected", 1)
	must(t, os.WriteFile(g.Config, conf, 0o600))
	hanging, cancel := context.WithCancel(t.Context())
	defer cancel()
	decided := len(g.Records())
	go send(hanging, "GET", "/hold/x", "", agent)
	g.AwaitRecord("the decision", func(r story.Record) bool {
		return r.Type == "operation.decided" && r.Body["target"] == "/hold/x" && r.Seq > uint64(decided)
	})
	cancel()
	g.Process.Kill()
	g.Run()
	await("operation.unknown", 1)
	g.Process.Stop()
	g.Run()
	last := g.AwaitRecord("a start after a stop in order", func(r story.Record) bool {
		return r.Type == "gateway.started" && r.Seq > 1 && stopped(g.Gateway) < r.Seq
	}).Seq

	ctx, end := context.WithTimeout(t.Context(), 30*time.Second)
	defer end()
	collector.WaitFor(ctx, "all records up to the last start", func(spans []extproctest.Span, logs []extproctest.LogRecord) bool {
		return slices.ContainsFunc(logs, func(l extproctest.LogRecord) bool { return l.Attributes["countersign.seq"] == int64(last) })
	})
	names := map[string]bool{}
	note := func(attributes map[string]any) {
		for name := range attributes {
			names[name] = true
		}
	}
	traces, types := map[any]string{}, map[string]bool{}
	for _, s := range collector.Spans() {
		note(s.Attributes)
		note(s.Resource)
		if kind, ok := s.Attributes["countersign.type"].(string); ok {
			types[kind] = true
		}
	}
	for _, l := range collector.Logs() {
		note(l.Attributes)
		note(l.Resource)
		types[l.EventName] = true
		if l.EventName == "operation.decided" {
			traces[l.Attributes["countersign.op"]] = l.TraceID
		}
	}
	checkTraces(t, collector.Logs(), traces, trace)
	for kind := range shown { // every type of record that there is
		if !types[kind] {
			t.Errorf("no %s came to the collector, so that its attributes were not looked at", kind)
		}
	}
	checkNames(t, slices.Sorted(maps.Keys(names)))
	checkLabels(t, g.Gateway)
}

// stopped is the last record of a gateway that stopped in order.
func stopped(g *story.Gateway) (seq uint64) {
	for _, r := range g.Records() {
		if r.Type == "gateway.stopped" {
			seq = r.Seq
		}
	}
	return max(seq, 1)
}

func checkTraces(t *testing.T, logs []extproctest.LogRecord, traces map[any]string, agents string) {
	t.Helper()
	checkpoints := 0
	for _, l := range logs {
		op, _ := l.Attributes["countersign.op"].(string)
		switch {
		case l.EventName == "checkpoint":
			checkpoints++
			if seq, ok := l.Attributes["countersign.seq"].(int64); !ok || seq != l.Attributes["countersign.checkpoint.size"] || l.Attributes["countersign.node"] != "story" ||
				l.Time.IsZero() || l.Time.After(l.Observed) {
				t.Errorf("a checkpoint of %v (observed %v) says %v", l.Time, l.Observed, l.Attributes)
			}
		case l.EventName == "transit":
			if op != "" && (l.TraceID == "" || traces[op] != "" && l.TraceID != traces[op]) {
				t.Errorf("what Envoy says of operation %s is in trace %q, want %q", op, l.TraceID, traces[op])
			}
		case strings.HasPrefix(l.EventName, "approval."), l.EventName == "identity.refused", l.EventName == "operation.unknown":
			if l.TraceID != agents || traces[op] != "" && l.TraceID != traces[op] {
				t.Errorf("%s of operation %s is in trace %q, want %q", l.EventName, op, l.TraceID, agents)
			}
		}
	}
	if checkpoints < 3 {
		t.Errorf("%d checkpoints came", checkpoints)
	}
}

// checkNames holds names, which are sorted, against the file.
func checkNames(t *testing.T, names []string) {
	t.Helper()
	file := filepath.Join("testdata", "attributes.txt")
	text, err := os.ReadFile(file)
	if err != nil && !*update {
		t.Fatal(err)
	}
	known := strings.Fields(string(text))
	for i, name := range names {
		if !attributeName.MatchString(name) {
			t.Errorf("%q is no name of an attribute", name)
		}
		if i+1 < len(names) && slices.ContainsFunc(names[i+1:], func(other string) bool { return strings.HasPrefix(other, name+".") }) {
			t.Errorf("%q is a name and a namespace", name)
		}
		if !*update && !slices.Contains(known, name) {
			t.Errorf("%q is not in %s", name, file)
		}
	}
	if *update {
		all := append(known, names...)
		slices.Sort(all)
		must(t, os.WriteFile(file, []byte(strings.Join(slices.Compact(all), "\n")+"\n"), 0o600))
	}
}

// checkLabels holds the labels of the metrics to what they may be.
func checkLabels(t *testing.T, g *story.Gateway) {
	t.Helper()
	_, text := get(t, "http://"+g.Admin+"/metrics")
	for _, set := range regexp.MustCompile(`(?m)^[a-z_]+\{([^\n]*)\} [^ \n]+$`).FindAllStringSubmatch(text, -1) {
		for _, label := range regexp.MustCompile(`(?:^|,)([^=]+)="(?:[^"\\]|\\.)*"`).FindAllStringSubmatch(set[1], -1) {
			if !slices.Contains([]string{"resource", "effect", "result", "kind", "taken", "issuer", "approver", "decision", "le"}, label[1]) && !attributeName.MatchString(label[1]) {
				t.Errorf("a metric has the label %q", label[1])
			}
		}
	}
}
