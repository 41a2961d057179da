package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/countersign/countersign/extproc/approval/webhook"
	"github.com/countersign/countersign/extproc/extproctest"
)

// TestApprovalMetrics: what waits, what people decided, and how long they looked, as Prometheus reads it.
func TestApprovalMetrics(t *testing.T) {
	t.Parallel()
	g := startAsking(t, "20s", "")
	bob := g.person("u-bob", "payments-oncall")
	r, answers := g.held(`{"amount": 10}`, bob)
	g.awaitMetrics("countersign_approvals_pending 1", "countersign_approvals_held 1", "countersign_approvals_oldest_age_seconds 0.")
	if code := g.api("GET", "/api/approvals/"+r.ID, bob, "", nil); code != 200 { // the card is shown to bob
		t.Fatalf("show: %d", code)
	}
	if code := g.decide(g.person("u-carol"), "approve", "", r); code != 403 {
		t.Errorf("carol: %d", code)
	}
	if code := g.decide(bob, "approve", "", r); code != 200 {
		t.Fatalf("approve: %d", code)
	}
	if a := <-answers; a.Status != 201 {
		t.Fatalf("the held request: %d %s", a.Status, a.Body)
	}
	g.awaitMetrics("countersign_approvals_pending 0", "countersign_approvals_held 0", "countersign_approvals_oldest_age_seconds 0\n",
		`countersign_approvals_decisions_total{approver="u-bob",decision="approve"} 1`,
		`countersign_approvals_decisions_total{decision="refused"} 1`,
		`countersign_approvals_think_time_seconds_count{approver="u-bob"} 1`)
}

func (g *askingGateway) awaitMetrics(lines ...string) {
	g.t.Helper()
	extproctest.Await(g.t, "metrics", 20*time.Second, func(context.Context) error {
		_, text := get(g.t, "http://"+g.Admin+"/metrics")
		for _, line := range lines {
			if !strings.Contains(text, line) {
				var approvals []string
				for l := range strings.Lines(text) {
					if strings.HasPrefix(l, "countersign_approvals") {
						approvals = append(approvals, l)
					}
				}
				return fmt.Errorf("no %s in\n%s", line, strings.Join(approvals, ""))
			}
		}
		return nil
	})
}

// TestWebhookTells: a receiver is told of each change, signed; a receiver that hangs holds up nobody.
func TestWebhookTells(t *testing.T) {
	t.Parallel()
	const secret = "only for these tests, and long enough"
	file := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(file, []byte(secret), 0o600); err != nil {
		t.Fatal(err)
	}
	told := make(chan webhook.Event, 100)
	receiver := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		var e webhook.Event
		body, err := io.ReadAll(r.Body)
		if err == nil {
			err = json.Unmarshal(body, &e)
		}
		if err != nil || r.Header.Get(webhook.HeaderSignature) != webhook.Sign([]byte(secret), r.Header.Get(webhook.HeaderTimestamp), body) {
			t.Errorf("not signed, or not an event: %v\n%s", err, body)
		}
		told <- e
		<-r.Context().Done() // and never answers
	}))
	t.Cleanup(receiver.Close) // after the gateway has ended
	g := startAsking(t, "20s", fmt.Sprintf(", webhook: {url: %q, secret_file: %q}", receiver.URL, file))
	bob := g.person("u-bob", "payments-oncall")
	r, answers := g.held(`{"amount": 10}`, bob)
	select {
	case e := <-told:
		if e.Event != "approval.requested" || e.ID != r.ID || e.CardDigest != r.CardDigest || e.URL != "http://"+g.console+"/approvals/"+r.ID || e.Resource != "payments" {
			t.Errorf("told %+v", e)
		}
	case <-time.After(20 * time.Second):
		t.Fatal("nothing was told")
	}
	began := time.Now()
	if code := g.decide(bob, "approve", "", r); code != 200 {
		t.Fatalf("approve: %d", code)
	}
	if a := <-answers; a.Status != 201 {
		t.Fatalf("the held request: %d %s", a.Status, a.Body)
	}
	if took := time.Since(began); took > 5*time.Second {
		t.Errorf("while the receiver hangs a decision takes %v", took)
	}
}
