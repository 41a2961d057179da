package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/countersign/countersign/extproc/extproctest"
	"github.com/countersign/countersign/extproc/extproctest/story"
)

// TestWhatAnAgentIsToldIsFound: every id that an agent or an approver is told of finds the operation with all its records, in
// the journal of a gateway that runs and in a copy. An id that nobody was told of finds nothing, and the exit code is 1.
func TestWhatAnAgentIsToldIsFound(t *testing.T) {
	t.Parallel()
	g := startAskingAs(t, nil, "1ns", "", "-- resource.yaml --\nlimits: {request_body: 1KiB}\n-- redact.rego --\npackage rules.payments\n\nredact contains {\"path\": \"$..ssn\"}\n")
	const trace = "0af7651916cd43dd8448eb211c80319c"
	send := func(method, target, body string, fields ...extproctest.Field) *story.Answer {
		t.Helper()
		if len(fields) == 0 {
			fields = append(fields, extproctest.Field{Name: "Authorization", Value: "Bearer " + g.Issuer.Token(nil)})
		}
		a, err := g.Send(t.Context(), &story.Request{Method: method, Target: target, Body: []byte(body), Fields: append(fields,
			extproctest.Field{Name: "Content-Type", Value: "application/json"}, extproctest.Field{Name: "Traceparent", Value: "00-" + trace + "-b7ad6b7169203331-01"})})
		must(t, err)
		return a
	}
	const decided, finished, transit = "operation.decided", "operation.finished", "transit"
	const requested, answered, spent = "approval.requested", "approval.decided", "approval.spent"
	allowed := send("GET", "/v1/payments/7", "")
	denied := send("DELETE", "/v1/payments/7", "")
	stranger := send("GET", "/v1/payments/7", "", extproctest.Field{Name: "Authorization", Value: "Bearer nobody's"})
	unreadable := send("GET", "/v1/%00", "")
	large := send("POST", "/v1/payments", strings.Repeat(" ", 2048))
	withheld := send("GET", "/hostile/text", "")
	upgrade := send("GET", "/v1/payments/7", "", extproctest.Field{Name: "Connection", Value: "Upgrade"}, extproctest.Field{Name: "Upgrade", Value: "websocket"})
	pending := send("POST", "/v1/payments/7/refunds", `{"amount": 10}`)
	bob := g.person("u-bob", "payments-oncall")
	if code := g.decide(bob, "approve", "", g.pending(bob)); code != 200 {
		t.Fatalf("bob is told %d", code)
	}
	used := send("POST", "/v1/payments/7/refunds", `{"amount": 10}`)

	find := func(data, flag, id string) (types []string, code int) {
		t.Helper()
		out, code := runCommand(t, "evidence", "show", "--data", data, "--json", flag, id)
		for line := range strings.Lines(out) {
			var r story.Record
			if code != 0 {
				break
			} else if err := json.Unmarshal([]byte(line), &r); err != nil {
				t.Fatalf("%v in %q", err, line)
			}
			types = append(types, r.Type)
		}
		slices.Sort(types)
		return types, code
	}
	cases := []struct {
		name, flag, id string
		want           []string
	}{
		{"allowed", "--request", idOf(t, allowed, 200), []string{decided, finished, transit}},
		{"denied", "--request", idOf(t, denied, 403), []string{decided, finished, transit}},
		{"without a good token", "--request", idOf(t, stranger, 401), []string{"identity.refused", transit}},
		{"unreadable", "--request", idOf(t, unreadable, 400), []string{decided, finished, transit}},
		{"too large", "--request", idOf(t, large, 413), []string{decided, finished, transit}},
		{"withheld", "--request", idOf(t, withheld, 502), []string{decided, finished, transit}},
		{"refused by Envoy", "--request", idOf(t, upgrade, 403), []string{transit}},
		{"pending", "--request", idOf(t, pending, 403), []string{answered, requested, decided, finished, transit}},
		{"approved", "--request", idOf(t, used, 201), []string{spent, decided, finished, transit}},
		{"a request for approval", "--approval", pending.Approval(), []string{answered, requested, spent, decided, decided, finished, finished, transit, transit}},
	}
	copied := filepath.Join(t.TempDir(), "copy")
	for _, c := range cases {
		extproctest.Await(t, c.name, 20*time.Second, func(context.Context) error { // Envoy tells of it a little later
			got, code := find(g.Data(), c.flag, c.id)
			if code != 0 || !slices.Equal(got, c.want) {
				return fmt.Errorf("%s %s finds %v and exits %d, want %v", c.flag, c.id, got, code, c.want)
			}
			return nil
		})
	}
	must(t, os.CopyFS(filepath.Join(copied, "journal"), os.DirFS(filepath.Join(g.Data(), "journal"))))
	for _, c := range cases {
		if got, code := find(copied, c.flag, c.id); code != 0 || !slices.Equal(got, c.want) {
			t.Errorf("%s, in a copy: %s %s finds %v and exits %d, want %v", c.name, c.flag, c.id, got, code, c.want)
		}
	}
	if got, _ := find(copied, "--trace", trace); len(got) < len(g.Target.Requests()) || !slices.Contains(got, spent) {
		t.Errorf("the trace has %v", got)
	}
	for _, flag := range []string{"--request", "--approval", "--trace", "--operation"} {
		if got, code := find(copied, flag, "019da1f7-0000-7000-8000-000000000000"); code != 1 || len(got) > 0 {
			t.Errorf("%s of an id that nobody was told finds %v and exits %d", flag, got, code)
		}
	}
}

// idOf is the id that an agent was told of its request: of a refusal the body has it too.
func idOf(t *testing.T, a *story.Answer, status int) string {
	t.Helper()
	id := a.Header.Get("X-Request-Id")
	var problem struct {
		RequestID string `json:"request_id"`
	}
	_ = json.Unmarshal(a.Body, &problem)
	if a.Status != status || id == "" || a.Status >= 400 && problem.RequestID != id {
		t.Fatalf("answer %d %v %s, want %d and a request id", a.Status, a.Header, a.Body, status)
	}
	return id
}
