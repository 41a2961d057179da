package main

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/countersign/countersign/extproc/extproctest"
	"github.com/countersign/countersign/extproc/extproctest/story"
)

// operation is what the journal says of one operation.
type operation struct {
	target  string
	effect  string
	decided uint64
	ended   string // "finished" with its result, or "unknown"; empty while it is open
	status  float64
	bytesIn float64
}

// operations reads the journal's operations by id.
func operations(g *story.Gateway) map[string]*operation {
	all := map[string]*operation{}
	for _, r := range g.Records() {
		switch r.Type {
		case "operation.decided":
			all[r.Op] = &operation{target: fmt.Sprint(r.Body["target"]), effect: fmt.Sprint(r.Body["effect"]), decided: r.Seq}
		case "operation.finished":
			o := all[r.Op]
			o.ended = fmt.Sprint("finished ", r.Body["result"])
			o.status, _ = r.Body["status"].(float64)
			o.bytesIn, _ = r.Body["bytes_in"].(float64)
		case "operation.unknown":
			all[r.Op].ended = "unknown"
		}
	}
	return all
}

// reconcile is the property that every fault must leave standing: what the target saw was allowed in the journal, path by
// path and as often; every allowed operation has an outcome or an operation.unknown; and the journal verifies. It waits for
// outcomes that are still on their way. It returns the operations.
func reconcile(t *testing.T, g *story.Gateway) map[string]*operation {
	t.Helper()
	var all map[string]*operation
	extproctest.Await(t, "the end of every operation", 40*time.Second, func(context.Context) error {
		all = operations(g)
		for id, o := range all {
			if o.ended == "" {
				return fmt.Errorf("operation %s (%s %s, record %d) has no outcome", id, o.effect, o.target, o.decided)
			}
		}
		return nil
	})
	allowed := map[string]int{}
	for _, o := range all {
		if o.effect == "allow" {
			allowed[o.target]++
		}
	}
	for _, s := range g.Target.Requests() {
		path, _, _ := strings.Cut(s.Path, "?")
		if allowed[path]--; allowed[path] < 0 {
			t.Errorf("the target saw %s %s, and the journal does not say that it was allowed", s.Method, path)
		}
	}
	verify(t, g)
	return all
}

// verify holds the journal against its checkpoints, beside the gateway where it runs.
func verify(t *testing.T, g *story.Gateway) {
	t.Helper()
	if out, code := runCommand(t, "evidence", "verify", "--data", g.Data()); code != 0 || !strings.Contains(out, "PASS") {
		t.Errorf("verify: exit %d\n%s", code, out)
	}
}
