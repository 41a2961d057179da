package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/tools/txtar"

	"github.com/countersign/countersign/extproc/extproctest"
	"github.com/countersign/countersign/extproc/extproctest/story"
)

const refundPolicy = `
-- policy.rego --
package rules.payments

allow contains {"id": "read"} if input.http.method == "GET"

ask contains {
	"id": "refund",
	"reason": "refunds need a person",
	"summary": sprintf("Refund %v: %v", [input.http.body.amount, substring(object.get(input.http.body, "note", "no note"), 0, 100)]),
	"approvers": ["payments-oncall"],
} if {
	input.http.method == "POST"
	input.http.segments[3] == "refunds"
}

deny contains {"id": "frozen"} if input.context.approval.approvers[_].subject == "u-alice"
`

// askingGateway is a gateway at which people can be asked, and its console.
type askingGateway struct {
	*story.Gateway
	t       *testing.T
	console string
}

func startAsking(t *testing.T, hold, more string) *askingGateway {
	t.Helper()
	return startAskingBeside(t, nil, hold, more)
}

func startAskingBeside(t *testing.T, other *story.Gateway, hold, more string) *askingGateway {
	t.Helper()
	return startAskingAs(t, other, hold, more, "")
}

// startAskingAs takes more sections of a story.
func startAskingAs(t *testing.T, other *story.Gateway, hold, more, sections string) *askingGateway {
	t.Helper()
	g := &askingGateway{t: t, console: extproctest.FreeAddress(t)}
	archive := fmt.Sprintf("%s%s-- config.yaml --\npeople: {issuer: \"${ISSUER}\", client_id: countersign-console}\napprovals: {hold: %s, console_url: \"http://%s\"%s}\n-- listen --\nconsole: %q\n",
		refundPolicy, sections, hold, g.console, more, g.console)
	g.Gateway = story.Start(t, txtar.Parse([]byte(archive)), story.Options{Beside: other})
	return g
}

// person is an access token of a person, for the console.
func (g *askingGateway) person(subject string, groups ...string) string {
	return g.Issuer.Mint(extproctest.Mint{Type: "at+jwt", Claims: extproctest.Claims{
		"sub": subject, "preferred_username": strings.TrimPrefix(subject, "u-"), "aud": "countersign-console", "client_id": "countersign-console", "groups": groups,
		"auth_time": time.Now().Add(-time.Minute).Unix(), "acr": "phr", "amr": []string{"hwk"},
	}})
}

type apiRequest struct {
	ID         string `json:"id"`
	State      string `json:"state"`
	CardDigest string `json:"card_digest"`
}

func (g *askingGateway) api(method, path, token, body string, out any) int {
	g.t.Helper()
	r, err := http.NewRequestWithContext(g.t.Context(), method, "http://"+g.console+path, strings.NewReader(body))
	if err != nil {
		g.t.Fatal(err)
	}
	r.Header.Set("Authorization", "Bearer "+token)
	if body != "" {
		r.Header.Set("Content-Type", "application/json")
	}
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		g.t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		g.t.Fatal(err)
	}
	if out != nil && resp.StatusCode/100 == 2 {
		if err := json.Unmarshal(text, out); err != nil {
			g.t.Fatalf("%s %s: %v\n%s", method, path, err, text)
		}
	} else if resp.StatusCode/100 != 2 {
		g.t.Logf("%s %s: %d %s", method, path, resp.StatusCode, text)
	}
	return resp.StatusCode
}

// pending waits for a request that is open.
func (g *askingGateway) pending(token string) apiRequest {
	g.t.Helper()
	var found apiRequest
	extproctest.Await(g.t, "a request for approval", 20*time.Second, func(context.Context) error {
		var page struct{ Approvals []apiRequest }
		if code := g.api("GET", "/api/approvals?state=pending", token, "", &page); code != 200 {
			return fmt.Errorf("the console answers %d", code)
		}
		if len(page.Approvals) == 0 {
			return fmt.Errorf("nothing is pending")
		}
		found = page.Approvals[0]
		return nil
	})
	return found
}

func (g *askingGateway) decide(token, decision, reason string, r apiRequest) int {
	g.t.Helper()
	body, _ := json.Marshal(map[string]string{"decision": decision, "reason": reason, "card": r.CardDigest})
	return g.api("POST", "/api/approvals/"+r.ID+"/decisions", token, string(body), nil)
}

func (g *askingGateway) refund(body string) *story.Answer {
	g.t.Helper()
	token, err := g.Issuer.AgentToken(g.t.Context(), "agent-1")
	if err != nil {
		g.t.Fatal(err)
	}
	a, err := g.Send(g.t.Context(), &story.Request{Method: "POST", Target: "/v1/payments/7/refunds", Body: []byte(body), Fields: []extproctest.Field{
		{Name: "Authorization", Value: "Bearer " + token}, {Name: "Content-Type", Value: "application/json"},
	}})
	if err != nil {
		g.t.Fatal(err)
	}
	return a
}

// held sends a refund and returns a channel with its answer, once the request for approval is open.
func (g *askingGateway) held(body, token string) (apiRequest, <-chan *story.Answer) {
	g.t.Helper()
	answers := make(chan *story.Answer, 1)
	var sent sync.WaitGroup
	sent.Go(func() { answers <- g.refund(body) })
	g.t.Cleanup(sent.Wait)
	return g.pending(token), answers
}

// TestApprovedWhileHeld: the same held bytes go on as soon as a person approves, and only once.
func TestApprovedWhileHeld(t *testing.T) {
	t.Parallel()
	g := startAsking(t, "20s", "")
	bob := g.person("u-bob", "payments-oncall")
	r, answers := g.held(`{"amount": 10}`, bob)
	if n := len(g.Target.Requests()); n != 0 {
		t.Fatalf("the target saw %d requests during the hold", n)
	}
	if code := g.decide(bob, "approve", "", r); code != 200 {
		t.Fatalf("approve: %d", code)
	}
	if a := <-answers; a.Status != 201 {
		t.Fatalf("the held request: %d %s", a.Status, a.Body)
	}
	seen := g.Target.Requests()
	if len(seen) != 1 || string(seen[0].Body) != `{"amount": 10}` {
		t.Errorf("the target saw %+v", seen)
	}
	if got := g.Evidence(1); !strings.Contains(got, "approval.requested · operation.decided ask refund · approval.decided approve u-bob · approval.spent · operation.decided allow refund · operation.finished completed 201") {
		t.Errorf("the records are\n%s", got)
	}
	g.Process.Stop()
	if out, code := runCommand(t, "evidence", "verify", "--data", g.Data()); code != 0 {
		t.Errorf("verify: exit %d\n%s", code, out)
	}
}

// TestApprovedAfterHandOver: the hold ends, the request is approved later, and the identical operation runs once; a second
// one is asked about anew, and so is one that differs in a byte.
func TestApprovedAfterHandOver(t *testing.T) {
	t.Parallel()
	g := startAsking(t, "200ms", "")
	bob := g.person("u-bob", "payments-oncall")
	a := g.refund(`{"amount": 10}`)
	if a.Status != 403 || a.Problem() != "approval-pending" {
		t.Fatalf("handed over: %d %s", a.Status, a.Body)
	}
	r := g.pending(bob)
	if code := g.decide(bob, "approve", "fine", r); code != 200 {
		t.Fatalf("approve: %d", code)
	}
	if a := g.refund(`{"amount": 11}`); a.Problem() != "approval-pending" {
		t.Errorf("another amount: %d %s", a.Status, a.Problem())
	}
	if a := g.refund(`{"amount": 10}`); a.Status != 201 {
		t.Errorf("the identical operation: %d %s", a.Status, a.Body)
	}
	if a := g.refund(`{"amount": 10}`); a.Problem() != "approval-pending" {
		t.Errorf("the identical operation again: %d %s", a.Status, a.Problem())
	}
	if n := len(g.Target.Requests()); n != 1 {
		t.Errorf("the target saw %d requests", n)
	}
}

// TestRejectedWhileHeld: the agent is told at once, in the person's words.
func TestRejectedWhileHeld(t *testing.T) {
	t.Parallel()
	g := startAsking(t, "20s", "")
	bob := g.person("u-bob", "payments-oncall")
	r, answers := g.held(`{"amount": 10}`, bob)
	if code := g.decide(bob, "reject", "the customer was refunded yesterday", r); code != 200 {
		t.Fatalf("reject: %d", code)
	}
	if a := <-answers; a.Status != 403 || a.Problem() != "denied" || !strings.Contains(string(a.Body), "refunded yesterday") {
		t.Errorf("the held request: %d %s", a.Status, a.Body)
	}
	if n := len(g.Target.Requests()); n != 0 {
		t.Errorf("the target saw %d requests", n)
	}
}

// TestWhoMayNotApprove: each of these is refused, and recorded; the request stays open.
func TestWhoMayNotApprove(t *testing.T) {
	t.Parallel()
	g := startAsking(t, "200ms", "")
	bob := g.person("u-bob", "payments-oncall")
	g.refund(`{"amount": 10}`)
	r := g.pending(bob)
	agent, err := g.Issuer.AgentToken(t.Context(), "agent-1")
	if err != nil {
		t.Fatal(err)
	}
	old := r
	old.CardDigest = strings.Repeat("0", 64)
	for _, c := range []struct {
		name  string
		token string
		r     apiRequest
		want  int
	}{
		{"somebody whom no rule names", g.person("u-carol"), r, 403},
		{"an agent's token", agent, r, 401},
		{"an agent's token for the console", g.Issuer.Token(extproctest.Claims{"aud": "countersign-console", "groups": []string{"payments-oncall"}}), r, 403},
		{"a decision about another card", bob, old, 409},
		{"no token", "", r, 401},
	} {
		if code := g.decide(c.token, "approve", "", c.r); code != c.want {
			t.Errorf("%s: %d, and should be %d", c.name, code, c.want)
		}
	}
	if again := g.pending(bob); again.ID != r.ID {
		t.Errorf("the request is not open any more")
	}
}

// TestNobodyApprovesForThemselves: the person for whom the agent acts cannot approve what it does.
func TestNobodyApprovesForThemselves(t *testing.T) {
	t.Parallel()
	g := startAsking(t, "200ms", "")
	bob := g.person("u-bob", "payments-oncall")
	token := g.Issuer.Token(extproctest.Claims{"sub": "u-bob", "act": map[string]any{"sub": "agent-2"}})
	a, err := g.Send(t.Context(), &story.Request{Method: "POST", Target: "/v1/payments/7/refunds", Body: []byte(`{"amount":1}`), Fields: []extproctest.Field{
		{Name: "Authorization", Value: "Bearer " + token}, {Name: "Content-Type", Value: "application/json"},
	}})
	if err != nil || a.Problem() != "approval-pending" {
		t.Fatalf("%+v, %v", a, err)
	}
	r := g.pending(bob)
	if code := g.decide(bob, "approve", "", r); code != 403 {
		t.Errorf("the person acted for: %d", code)
	}
	if code := g.decide(g.person("u-dora", "payments-oncall"), "approve", "", r); code != 200 {
		t.Errorf("a colleague: %d", code)
	}
}

// TestPolicyRulesAgainAtRelease: policy sees the approval, and can still deny.
func TestPolicyRulesAgainAtRelease(t *testing.T) {
	t.Parallel()
	g := startAsking(t, "20s", "")
	alice := g.person("u-alice", "payments-oncall")
	r, answers := g.held(`{"amount": 10}`, alice)
	if code := g.decide(alice, "approve", "", r); code != 200 {
		t.Fatalf("approve: %d", code)
	}
	if a := <-answers; a.Status != 403 || a.Problem() != "denied" {
		t.Errorf("the held request: %d %s", a.Status, a.Body)
	}
	if n := len(g.Target.Requests()); n != 0 {
		t.Errorf("the target saw %d requests", n)
	}
}

// TestChangedPolicyAsksAgain: what was asked under another policy is void, also when a person approves it later.
func TestChangedPolicyAsksAgain(t *testing.T) {
	t.Parallel()
	g := startAsking(t, "200ms", "")
	bob := g.person("u-bob", "payments-oncall")
	g.refund(`{"amount": 10}`)
	r := g.pending(bob)
	g.Write("policies/more.rego", "package rules.global\n\ndeny contains {\"id\": \"never\"} if input.http.method == \"PATCH\"\n")
	g.AwaitRecord("approval.voided", func(r story.Record) bool { return r.Type == "approval.voided" })
	if code := g.decide(bob, "approve", "", r); code != 409 {
		t.Errorf("a decision on a void request: %d", code)
	}
	if a := g.refund(`{"amount": 10}`); a.Problem() != "approval-pending" {
		t.Errorf("after the change: %d %s", a.Status, a.Problem())
	}
	if again := g.pending(bob); again.ID == r.ID {
		t.Errorf("the void request is still open")
	}
}

// TestApprovalsOnTheCommandLine goes through the client as a person would.
func TestApprovalsOnTheCommandLine(t *testing.T) {
	t.Parallel()
	g := startAsking(t, "200ms", "")
	bob := g.person("u-bob", "payments-oncall")
	g.Write("token", bob)
	g.refund(`{"amount": 10}`)
	r := g.pending(bob)
	flags := []string{"--config", g.Config, "--token-file", g.Dir + "/token"}
	for _, c := range []struct {
		args []string
		code int
		says string
	}{
		{[]string{"approvals", "list"}, 0, r.ID},
		{[]string{"approvals", "show", r.ID}, 0, "refunds need a person"},
		{[]string{"approvals", "approve", r.ID, "--card", strings.Repeat("0", 64)}, 1, "card"},
		{[]string{"approvals", "reject", r.ID, "--card", r.CardDigest}, 2, "--reason"},
		{[]string{"approvals", "approve", r.ID, "--card", r.CardDigest}, 0, "is approved"},
	} {
		out, code := runCommand(t, append(c.args, flags...)...)
		if code != c.code || !strings.Contains(out, c.says) {
			t.Errorf("%v: exit %d\n%s", c.args, code, out)
		}
	}
	if a := g.refund(`{"amount": 10}`); a.Status != 201 {
		t.Errorf("after the approval: %d %s", a.Status, a.Body)
	}
}

// TestTwoGatewaysShareApprovals: what one gateway holds is approved at the other's console, and what was approved is spent by
// one of them alone.
func TestTwoGatewaysShareApprovals(t *testing.T) {
	t.Parallel()
	redis := extproctest.StartRedis(t, extproctest.RedisConfig{})
	store := fmt.Sprintf(", store: \"redis://%s\"", redis.Address)
	one := startAskingBeside(t, nil, "20s", store)
	two := startAskingBeside(t, one.Gateway, "200ms", store)
	bob := one.person("u-bob", "payments-oncall")
	r, answers := one.held(`{"amount": 10}`, bob)
	if code := two.decide(bob, "approve", "", two.pending(bob)); code != 200 {
		t.Fatalf("approve at the other gateway: %d", code)
	}
	if a := <-answers; a.Status != 201 {
		t.Fatalf("the held request: %d %s", a.Status, a.Body)
	}
	if a := two.refund(`{"amount": 10}`); a.Problem() != "approval-pending" {
		t.Errorf("the same operation at the other gateway: %d %s", a.Status, a.Problem())
	}
	if again := two.pending(bob); again.ID == r.ID {
		t.Error("a spent request is open")
	}
	redis.Stop()
	if a := two.refund(`{"amount": 12}`); a.Status != 503 || a.Problem() != "unavailable" {
		t.Errorf("with Redis away: %d %s", a.Status, a.Problem())
	}
	if a := ask(t, two.Gateway, "GET", "/v1/payments/7"); a.Status != 200 {
		t.Errorf("what needs no approval, with Redis away: %d", a.Status)
	}
	if n := len(one.Target.Requests()); n != 2 {
		t.Errorf("the target saw %d requests, and should have seen the refund and the read", n)
	}
}

// TestAStopHandsOver: a gateway that is stopped does not wait for people. The agent is told at once what to repeat, what was asked
// outlives the restart, and the identical operation then uses the approval.
func TestAStopHandsOver(t *testing.T) {
	t.Parallel()
	g := startAsking(t, "10m", "")
	bob := g.person("u-bob", "payments-oncall")
	r, answers := g.held(`{"amount": 10}`, bob)
	began := time.Now()
	g.Process.Stop()
	if a := <-answers; a.Status != 403 || a.Problem() != "approval-pending" || a.Header.Get("Retry-After") == "" || !strings.Contains(string(a.Body), r.ID) {
		t.Fatalf("the held request: %d %s", a.Status, a.Body)
	}
	if took := time.Since(began); took > 15*time.Second {
		t.Errorf("the stop took %v", took)
	}
	g.Run()
	if again := g.pending(bob); again != r {
		t.Fatalf("after the restart %+v is open, and was %+v", again, r)
	}
	if code := g.decide(bob, "approve", "", r); code != 200 {
		t.Fatalf("approve: %d", code)
	}
	if a := g.refund(`{"amount": 10}`); a.Status != 201 {
		t.Errorf("the identical operation: %d %s", a.Status, a.Body)
	}
	if a := g.Evidence(2); !strings.HasPrefix(a, "approval.requested · operation.decided ask refund · operation.finished refused 403") {
		t.Errorf("the records are\n%s", a)
	}
}
