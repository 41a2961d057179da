package console

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/countersign/countersign/extproc/approval"
	"github.com/countersign/countersign/extproc/extproctest"
	"github.com/countersign/countersign/extproc/gate"
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
	for ago, want := range map[time.Duration]string{time.Second: "running", 3 * time.Hour: "no end is known yet"} {
		if got := cameOf(spent(ago, nil).Spent, now); got != want {
			t.Errorf("in the history, after %v: %s, and should be %s", ago, got, want)
		}
	}
}

// TestTheHistorySaysWhatCameOfIt: of each request that let an operation through, and of no other.
func TestTheHistorySaysWhatCameOfIt(t *testing.T) {
	f := newFixture(t, false)
	bob := f.signIn("bob")
	spent := func(o *approval.Outcome) approval.Request {
		r := f.ask()
		f.answer(r, "u-bob", true, "")
		f.spend(r, "op-of-"+r.ID)
		if o != nil {
			f.desk.Ended(r.ID, "op-of-"+r.ID, *o)
			extproctest.Await(t, "the outcome is told", deadline, func(context.Context) error {
				if f.state(r.ID).Spent.Outcome == nil {
					return errors.New("it is not")
				}
				return nil
			})
		}
		return r
	}
	ended := func(result gate.Result, status int) approval.Request {
		return spent(&approval.Outcome{Result: string(result), Status: status, Took: 40 * time.Millisecond})
	}
	want := map[string]string{
		f.ask().ID:                       "—",
		spent(nil).ID:                    "running",
		ended(gate.Completed, 201).ID:    "201 in 40 ms",
		ended(gate.Completed, 500).ID:    "500 in 40 ms",
		ended(gate.WithheldBy, 200).ID:   "answer withheld, 200 in 40 ms",
		ended(gate.ClientGone, 0).ID:     "agent left, in 40 ms",
		ended(gate.TargetFailed, 502).ID: "target failed, 502 in 40 ms",
		ended(gate.Refused, 0).ID:        "refused, in 40 ms",
		ended(gate.Unknown, 0).ID:        "not known, in 40 ms",
	}
	page := f.send(bob, f.request("GET", "/history", "", "")).body
	for _, row := range strings.Split(page, "<tr>")[1:] {
		for id, words := range want {
			if strings.Contains(row, "/approvals/"+id) {
				if cell := `<td data-label="what came of it">` + words + "</td>"; !strings.Contains(row, cell) {
					t.Errorf("want %s in\n%s", cell, row)
				}
				delete(want, id)
			}
		}
	}
	if len(want) > 0 {
		t.Errorf("not in the history: %v", want)
	}
}
