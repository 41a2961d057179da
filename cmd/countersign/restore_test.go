package main

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/countersign/countersign/extproc/extproctest/story"
)

// TestApprovalsFileFromABackup puts an approvals file back that is older than the journal: a grant that was spent since is
// not spent again, what was answered since is not asked again, and both are on record.
func TestApprovalsFileFromABackup(t *testing.T) {
	t.Parallel()
	c := startCrowded(t, "100ms", story.Options{})
	file := filepath.Join(c.Data(), "approvals.db")
	restart := func(content []byte) (was []byte) {
		c.Process.Stop()
		was, err := os.ReadFile(file)
		must(t, err)
		if content != nil {
			must(t, os.WriteFile(file, content, 0o600))
		}
		c.Run()
		return was
	}
	count := func(kind string) (n int) {
		for _, r := range c.Records() {
			if r.Type == kind || r.Type == "alarm" && r.Body["kind"] == kind {
				n++
			}
		}
		return n
	}

	r, kept := c.pendingFor(t, 7), c.pendingFor(t, 8)
	whilePending := restart(nil)
	if _, err := c.decide(t.Context(), r, "approve"); err != nil {
		t.Fatal(err)
	}
	whileApproved := restart(nil)
	if counts := c.refundAll(t, 7, 1, nil); counts[201] != 1 {
		t.Fatalf("what was approved was answered %v", counts)
	}
	if n := count("approval_store_rolled_back"); n != 0 {
		t.Errorf("%d alarms before anything was put back", n)
	}

	restart(whileApproved)
	if counts := c.refundAll(t, 7, 20, nil); counts[403] != 20 {
		t.Errorf("with the file of before the grant was spent: %v", counts)
	}
	if count("approval_store_rolled_back") != 1 || count("approval.voided") != 1 {
		t.Errorf("%d alarms, %d voided", count("approval_store_rolled_back"), count("approval.voided"))
	}

	restart(whilePending)
	if _, err := c.decide(t.Context(), r, "approve"); err == nil {
		t.Error("what was approved and spent can be approved again")
	}
	if counts := c.refundAll(t, 7, 1, nil); counts[201] != 0 {
		t.Errorf("with the file of before the grant: %v", counts)
	}
	if _, err := c.decide(t.Context(), kept, "approve"); err != nil {
		t.Errorf("what was not touched since cannot be approved any more: %v", err)
	}
	if counts := c.refundAll(t, 8, 1, nil); counts[201] != 1 {
		t.Errorf("what was not touched since, and approved now, was answered %v", counts)
	}
	if reached := c.reached(t); len(reached) != 2 { // fails where a payment was refunded twice
		t.Errorf("the target saw %v", reached)
	}
	c.Process.Stop()
	if out, code := runCommand(t, "evidence", "verify", "--data", c.Data()); code != 0 {
		t.Errorf("verify: exit %d\n%s", code, out)
	}
}
