package main

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"strings"
	"testing"

	"github.com/countersign/countersign/extproc/extproctest"
	"github.com/countersign/countersign/extproc/extproctest/story"
)

// TestACompressedBodyIsApprovedAsItReads: who is asked sees what the body stands for, and the digests of both; what goes on when
// they say yes is what came, byte for byte.
func TestACompressedBodyIsApprovedAsItReads(t *testing.T) {
	t.Parallel()
	g := startAskingAs(t, nil, "30s", "", "")
	body := `{"amount": 10, "note": "` + strings.Repeat("compressed ", 100) + `"}`
	sent, err := extproctest.Encode("gzip", []byte(body))
	must(t, err)
	token, err := g.Issuer.AgentToken(t.Context(), "agent-1")
	must(t, err)
	type end struct {
		answer *story.Answer
		err    error
	}
	ended := make(chan end, 1)
	go func() {
		a, err := g.Send(t.Context(), &story.Request{Method: "POST", Target: "/v1/payments/7/refunds", Body: sent, Fields: []extproctest.Field{
			{Name: "Authorization", Value: "Bearer " + token}, {Name: "Content-Type", Value: "application/json"}, {Name: "Content-Encoding", Value: "gzip"},
		}})
		ended <- end{a, err}
	}()
	bob := g.person("u-bob", "payments-oncall")
	g.Write("token", bob)
	r := g.pending(bob)
	show := mustRun(t, "approvals", "show", r.ID, "--config", g.Config, "--token-file", g.Dir+"/token")
	sum := func(b []byte) string { s := sha256.Sum256(b); return hex.EncodeToString(s[:]) }
	for _, want := range []string{"body.amount = 10", "compressed compressed", sum(sent), sum([]byte(body)), "headers.content-encoding[0] = gzip"} {
		if !strings.Contains(show, want) {
			t.Errorf("no %q in\n%s", want, show)
		}
	}
	if code := g.decide(bob, "approve", "", r); code != 200 {
		t.Fatalf("the decision is answered %d", code)
	}
	if e := <-ended; e.err != nil {
		t.Fatal(e.err)
	}
	if seen := g.Target.Requests(); len(seen) != 1 || !bytes.Equal(seen[0].Body, sent) || strings.Join(seen[0].Get("Content-Encoding"), ",") != "gzip" {
		t.Errorf("the target saw %+v", seen)
	}
}
