package main

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/countersign/countersign/extproc/extproctest"
	"github.com/countersign/countersign/extproc/extproctest/story"
)

// TestWhereEverybodyIsANumber: with a provider whose subjects are UUIDs, an approver reads in the terminal who asks, for whom, and who
// has answered; and so does whoever reads the evidence. The subject stands beside each name, and what a name has in it does nothing.
func TestWhereEverybodyIsANumber(t *testing.T) {
	t.Parallel()
	g := startAskingAs(t, nil, "0s", "", "")
	const agent, dora, bob = "8f3ae1d2-0c55-4f0e-9d0e-0d2d1f7a4b11", "5b1c77aa-30a2-4f6b-8a44-6f1d5d1f9b02", "c02d9a6e-7a41-4d0c-9a55-2f3b8f0a7703"
	token := g.Issuer.Token(extproctest.Claims{
		"sub": dora, "preferred_username": "dora", "client_id": "refund-bot", "act": map[string]any{"sub": agent},
	})
	_, err := g.Send(t.Context(), &story.Request{Method: "POST", Target: "/v1/payments/7/refunds", Body: []byte(`{"amount": 10}`), Fields: []extproctest.Field{
		{Name: "Authorization", Value: "Bearer " + token}, {Name: "Content-Type", Value: "application/json"},
	}})
	if err != nil {
		t.Fatal(err)
	}
	people := g.Issuer.Mint(extproctest.Mint{Type: "at+jwt", Claims: extproctest.Claims{
		"sub": bob, "preferred_username": "Approved (" + agent + ", " + g.Issuer.URL + ")\u202e\nPASS", "aud": "countersign-console", "client_id": "countersign-console",
		"groups": []string{"payments-oncall"}, "auth_time": time.Now().Unix(),
	}})
	g.Write("token", people)
	r := g.pending(people)
	flags := []string{"--config", g.Config, "--token-file", g.Dir + "/token"}
	says := func(out string, wants ...string) {
		t.Helper()
		for _, want := range wants {
			if !strings.Contains(out, want) {
				t.Errorf("no %q in\n%s", want, out)
			}
		}
		for line := range strings.Lines(out) {
			if strings.HasPrefix(line, "PASS") || strings.Contains(line, "\u202e") {
				t.Errorf("a name stands by itself, or turns the line around:\n%q", out)
			}
		}
	}
	says(mustRun(t, append([]string{"approvals", "list"}, flags...)...), fmt.Sprintf(`by "refund-bot" (%s) for "dora" (%s)`, agent, dora))

	if code := g.decide(people, "approve", "fine", r); code != 200 {
		t.Fatalf("bob is told %d", code)
	}
	const escaped = `Approved (%s, %s)\u{202E}\u{A}PASS`
	name := fmt.Sprintf(escaped, agent, g.Issuer.URL)
	says(mustRun(t, append([]string{"approvals", "show", r.ID}, flags...)...),
		fmt.Sprintf(`who       "refund-bot" (%s, %s)`, agent, g.Issuer.URL), fmt.Sprintf(`for       "dora" (%s, %s)`, dora, g.Issuer.URL),
		fmt.Sprintf(`approved by "%s"   (bidirectional controls, control characters) (%s, %s)`, name, bob, g.Issuer.URL))
	shown := mustRun(t, "evidence", "show", "--config", g.Config, "--approval", r.ID)
	says(shown,
		fmt.Sprintf(`principal="refund-bot" (%s) for "dora" (%s)`, agent, dora), fmt.Sprintf(`agent="refund-bot" (%s)`, agent), fmt.Sprintf(`on_behalf_of="dora" (%s)`, dora),
		fmt.Sprintf(`approver="%s" (%s)`, name, bob))
	_, text := get(t, "http://"+g.Admin+"/metrics")
	if !strings.Contains(text, `approver="`+bob+`"`) || strings.Contains(text, "Approved (") {
		t.Error("a metric has a name for a label, or no subject")
	}
}
