package console

import (
	"strings"
	"testing"
	"time"

	"github.com/countersign/countersign/extproc/approval"
)

// TestANoticeSaysNoMoreThanIsKnown: an operation whose gateway died is not said to run for ever, an error of the target is not said
// to be done, and where two rules ask other people one is not enough.
func TestANoticeSaysNoMoreThanIsKnown(t *testing.T) {
	now := time.Now()
	spent := func(ago time.Duration, o *approval.Outcome) *approval.Request {
		return &approval.Request{State: approval.Spent, Spent: &approval.Spend{Op: "op", At: now.Add(-ago), Outcome: o}}
	}
	asks := func(quorums ...int) *approval.Request {
		r := &approval.Request{State: approval.Pending, Decisions: []approval.Decision{{Approve: true}}}
		for range quorums {
			r.Asks = append(r.Asks, approval.AskRule{Approvers: []string{"oncall"}})
		}
		for i, q := range quorums {
			r.Asks[i].Quorum = q
		}
		return r
	}
	for _, c := range []struct {
		r          *approval.Request
		kind, want string
	}{
		{spent(time.Second, nil), "good", "Approved, and running"},
		{spent(3*time.Hour, nil), "open", "Approved and let through 3 hours ago. It still runs, or nobody could tell"},
		{spent(3*time.Hour, &approval.Outcome{Result: "completed", Status: 201, Took: 40 * time.Millisecond}), "good", "Approved and done: 201 in 40 ms."},
		{spent(time.Second, &approval.Outcome{Result: "completed", Status: 500, Took: 40 * time.Millisecond}), "bad", "answered with an error: 500 in 40 ms."},
		{asks(1), "open", "; one more person is needed."},
		{asks(2), "open", "; 2 more people are needed."},
		{asks(1, 1), "open", "; at least one more person is needed, for 2 rules."},
	} {
		if n := noticeOf(c.r, &person{}, now); n == nil || n.Kind != c.kind || !strings.Contains(n.Text, c.want) {
			t.Errorf("%+v, and should be %s with %q", n, c.kind, c.want)
		}
	}
}
