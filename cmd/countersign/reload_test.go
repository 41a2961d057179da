package main

import (
	"testing"

	"github.com/countersign/countersign/extproc/extproctest/story"
)

// TestWhatLiesBesideTheConfigurationReloadsNothing: a log that the gateway writes beside its configuration would be written
// by each reload that it causes, without end.
func TestWhatLiesBesideTheConfigurationReloadsNothing(t *testing.T) {
	t.Parallel()
	g := start(t, readOnly+"-- config.yaml --\nevidence: {heartbeat: 300ms}\n", story.Options{})
	bad := "package rules.payments\n\nallow contains {\"id\": \"all\"} if input.htp.method == \"GET\"\n"
	g.Write("policies/payments.rego", bad)
	rejected := func(r story.Record) bool { return r.Type == "config.rejected" }
	last := g.AwaitRecord("config.rejected", rejected)
	for n := range 3 {
		g.Write("gateway.log", bad[:n])
		g.Write("policies/notes.txt", bad[:n])
		g.Write("policies/payments.rego", bad) // the same again
		last = g.AwaitRecord("a heartbeat", func(r story.Record) bool { return r.Type == "heartbeat" && r.Seq > last.Seq })
	}
	g.Write("policies/payments.rego", "package rules.payments\n\nallow contains {\"id\": \"all\"}\n")
	g.AwaitRecord("the good policy", func(r story.Record) bool { return r.Type == "policy.activated" && r.Seq > last.Seq })
	n := 0
	for _, r := range g.Records() {
		if rejected(r) {
			n++
		}
	}
	if n != 1 {
		t.Errorf("the bad policy was rejected %d times, want once: it changed once", n)
	}
}
