package main

import (
	"fmt"
	"sync"
	"testing"

	"github.com/countersign/countersign/extproc/extproctest/story"
)

// spends counts the approval.spent records by request, each event once.
func (c *crowded) spends() map[string]int {
	byRequest, seen := map[string]int{}, map[string]bool{}
	for _, r := range c.Records() {
		if event := fmt.Sprint(r.Body["event"]); r.Type == "approval.spent" && !seen[event] {
			seen[event] = true
			byRequest[fmt.Sprint(r.Body["approval"])]++
		}
	}
	return byRequest
}

// refundAll sends that many identical refunds of payment n at once, and counts the answers by status; 0 is a connection
// that broke.
func (c *crowded) refundAll(t *testing.T, n, times int, while func()) map[int]int {
	t.Helper()
	counts := map[int]int{}
	var mu sync.Mutex
	var wg sync.WaitGroup
	begin := make(chan struct{})
	for range times {
		wg.Go(func() {
			<-begin
			w, err := c.send(n)
			a := answered{err: err}
			if err == nil {
				a = <-w.answer
			}
			if w != nil {
				_ = w.conn.Close()
			}
			mu.Lock()
			defer mu.Unlock()
			counts[a.status]++
		})
	}
	close(begin)
	if while != nil {
		while()
	}
	wg.Wait()
	return counts
}

// pendingFor opens a request for payment n and returns it; the operation that opened it is handed over.
func (c *crowded) pendingFor(t *testing.T, n int) apiRequest {
	t.Helper()
	if counts := c.refundAll(t, n, 1, nil); counts[403] != 1 {
		t.Fatalf("the first refund was answered %v", counts)
	}
	var found apiRequest
	c.AwaitRecord("the request for approval", func(r story.Record) bool {
		if r.Type == "approval.requested" && r.Body["target"] == fmt.Sprintf("/v1/payments/%d/refunds", n) {
			found = apiRequest{ID: fmt.Sprint(r.Body["approval"]), CardDigest: fmt.Sprint(r.Body["card_digest"])}
			return true
		}
		return false
	})
	return found
}

// TestAThousandAtOnceSpendOnce: of a thousand identical operations that come at once after one approval, one goes through.
// The others join one new request.
func TestAThousandAtOnceSpendOnce(t *testing.T) {
	t.Parallel()
	c := startCrowded(t, "100ms", story.Options{})
	r := c.pendingFor(t, 7)
	if _, err := c.decide(t.Context(), r, "approve"); err != nil {
		t.Fatal(err)
	}
	counts := c.refundAll(t, 7, 1000, nil)
	if counts[201] != 1 || counts[403] != 999 {
		t.Errorf("a thousand were answered %v", counts)
	}
	if n := len(c.Target.Requests()); n != 1+5 { // watch has asked five times
		t.Errorf("the target saw %d requests", n)
	}
	if spends := c.spends(); len(spends) != 1 || spends[r.ID] != 1 {
		t.Errorf("the journal says spent %v", spends)
	}
	asked := map[string]bool{}
	for _, record := range c.Records() {
		if record.Type == "approval.requested" {
			asked[fmt.Sprint(record.Body["approval"])] = true
		}
	}
	if len(asked) != 2 {
		t.Errorf("%d requests were opened for one operation before, and one after", len(asked))
	}
	c.unharmed(t)
}

// TestAThousandHeldSpendOnce: of a thousand identical operations that are held when a person approves, one goes through.
func TestAThousandHeldSpendOnce(t *testing.T) {
	t.Parallel()
	c := startCrowded(t, "10s", story.Options{})
	counts := c.refundAll(t, 7, 1000, func() {
		var r apiRequest
		c.AwaitRecord("the request for approval", func(record story.Record) bool {
			r = apiRequest{ID: fmt.Sprint(record.Body["approval"]), CardDigest: fmt.Sprint(record.Body["card_digest"])}
			return record.Type == "approval.requested"
		})
		if _, err := c.decide(t.Context(), r, "approve"); err != nil {
			t.Error(err)
		}
	})
	if counts[201] != 1 || counts[403] != 999 {
		t.Errorf("a thousand were answered %v", counts)
	}
	if n := len(c.reached(t)); n != 1 {
		t.Errorf("the target saw %d refunds", n)
	}
	if spends := c.spends(); len(spends) != 1 {
		t.Errorf("the journal says spent %v", spends)
	}
}

// TestKillBetweenApproveAndSpend kills the gateway (-9) around the spend again and again, with twenty identical operations
// in flight: no grant is spent twice, none reaches the target without its spend in the journal, and one that was approved
// and not spent before the kill lets one operation through after it.
func TestKillBetweenApproveAndSpend(t *testing.T) {
	t.Parallel()
	c := startCrowded(t, "100ms", story.Options{})
	// What of the spend is seen to be done when the kill comes. Beside that, chance decides.
	seen := []string{"", "", "approval.spent", "operation.decided", "operation.finished", "approval.spent"}
	for n := range seen {
		r := c.pendingFor(t, n)
		if _, err := c.decide(t.Context(), r, "approve"); err != nil {
			t.Fatal(err)
		}
		if n == 0 { // the kill comes before anything is spent
			c.Process.Kill()
			c.Run()
			if counts := c.refundAll(t, n, 20, nil); counts[201] != 1 {
				t.Errorf("an approval that was acknowledged before the kill let through %v", counts)
			}
			continue
		}
		records := c.Records()
		last := records[len(records)-1].Seq
		counts := c.refundAll(t, n, 20, func() {
			if kind := seen[n]; kind != "" {
				c.AwaitRecord(kind, func(r story.Record) bool { return r.Type == kind && r.Seq > last })
			}
			c.Process.Kill()
		})
		if counts[201] > 1 {
			t.Errorf("round %d was answered %v", n, counts)
		}
		c.Run()
		if after := c.refundAll(t, n, 20, nil); after[201]+counts[201] > 1 {
			t.Errorf("round %d let through %v before the kill and %v after", n, counts, after)
		}
	}
	reached := c.reached(t) // fails where a payment was refunded twice
	spends := c.spends()
	spent := map[string]bool{}
	for _, record := range c.Records() {
		if record.Type == "approval.requested" && spends[fmt.Sprint(record.Body["approval"])] > 0 {
			spent[fmt.Sprint(record.Body["target"])] = true
		}
	}
	for id, times := range spends {
		if times != 1 {
			t.Errorf("request %s was spent %d times", id, times)
		}
	}
	for n := range reached {
		if !spent[fmt.Sprintf("/v1/payments/%d/refunds", n)] {
			t.Errorf("payment %d was refunded, and no grant for it was spent", n)
		}
	}
	t.Logf("%d rounds: %d grants were spent, %d refunds reached the target", len(seen), len(spends), len(reached))
	c.Process.Stop()
	if out, code := runCommand(t, "evidence", "verify", "--data", c.Data()); code != 0 {
		t.Errorf("verify: exit %d\n%s", code, out)
	}
}
