package gate_test

import (
	"cmp"
	"context"
	"errors"
	"testing"

	"github.com/countersign/countersign/extproc/gate"
)

// people is an Approvals that opens a request for everything and never answers.
type people struct {
	gate.Approvals
	recorded func() error
}

func (p *people) Granted(context.Context, *gate.Question) (gate.Grant, bool, error) {
	return gate.Grant{}, false, nil
}

func (p *people) Ask(context.Context, *gate.Question) (gate.Pending, func() error, error) {
	return gate.Pending{ID: "request-1"}, p.recorded, nil
}

var asks = gate.Verdict{Effect: gate.Ask, Rules: []gate.Rule{{ID: "refund"}}, Asks: []gate.AskRule{{Approvers: []string{"bob"}}}}

// Nobody is told of a request, and no hold begins, before both its record and the decision's are durable.
func TestNothingIsPendingWithoutBothRecords(t *testing.T) {
	lost := errors.New("no space left on device")
	for _, c := range []struct {
		name              string
		journal, recorded error
		pending           bool
	}{
		{"both are durable", nil, nil, true},
		{"the request's is not", nil, lost, false},
		{"the decision's is not", lost, nil, false},
		{"neither is", lost, lost, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			waited := 0
			g := newGate(rule{verdict: asks}, &journal{fail: c.journal, noReceipt: c.journal != nil})
			g.Approvals = &people{recorded: func() error { waited++; return c.recorded }}
			r, err := g.Decide(t.Context(), operation())
			if waited != 1 {
				t.Errorf("the request's record was waited for %d times", waited)
			}
			if r.Allowed() || (r.Pending() != nil) != c.pending || (err == nil) != c.pending {
				t.Errorf("allowed %t, pending %+v, error %v", r.Allowed(), r.Pending(), err)
			}
			want := gate.Unavailable
			if c.pending {
				want = gate.ApprovalPending
			}
			if got := r.Refusal().Problem; got != want {
				t.Errorf("the agent is told %q, want %q", got, want)
			}
		})
	}
}

// A ruling that refuses because the request has no record is one that can be finished: what the agent was told is in the journal.
func TestARefusalForWantOfARequestsRecordIsFinished(t *testing.T) {
	j := &journal{}
	g := newGate(rule{verdict: asks}, j)
	g.Approvals = &people{recorded: func() error { return errors.New("disk") }}
	r, err := g.Decide(t.Context(), operation())
	if err == nil {
		t.Fatal("no error")
	}
	if err := g.Finish(t.Context(), r, gate.Outcome{Result: gate.Refused, Problem: r.Refusal().Problem}); err != nil || len(j.records) != 2 {
		t.Errorf("%d records, %v", len(j.records), err)
	}
}

// granting is an Approvals that has a grant for everything.
type granting struct{ gate.Approvals }

func (granting) Granted(context.Context, *gate.Question) (gate.Grant, bool, error) {
	return gate.Grant{ID: "request-1"}, true, nil
}

// An operation that cannot be carried out as policy wants it is refused before it is allowed, before people are asked, and
// before what they granted is spent: each would fail the test by being called.
func TestWhatDoesNotFitIsRefusedBeforeAnybodyIsAsked(t *testing.T) {
	for _, c := range []struct {
		name      string
		verdict   gate.Verdict
		approvals gate.Approvals
	}{
		{"allowed", allow, nil},
		{"asked", asks, struct{ gate.Approvals }{}},
		{"granted", asks, granting{}},
	} {
		t.Run(c.name, func(t *testing.T) {
			j := &journal{}
			g := newGate(rule{verdict: c.verdict}, j)
			g.Approvals = c.approvals
			op := operation()
			op.Fits = func(gate.Verdict) error {
				if _, spending := c.approvals.(granting); spending && op.Context.Approval == nil {
					return nil // it does not fit what policy says with the grant
				}
				return &gate.Unfit{Problem: gate.Denied, Detail: "without the condition"}
			}
			r, err := g.Decide(t.Context(), op)
			if err != nil || r.Allowed() || r.Pending() != nil || r.Refusal().Problem != gate.Denied || r.Refusal().Detail != "without the condition" {
				t.Errorf("allowed %t, refusal %+v, error %v", r.Allowed(), r.Refusal(), err)
			}
			if d := j.last(); d.Effect != gate.Deny || d.Problem != gate.Denied || len(d.Reasons) != 1 || d.Reasons[0] != "without the condition" {
				t.Errorf("recorded %+v", d)
			}
		})
	}
}

// office has a grant for every operation, and an open request beside it.
type office struct {
	people
	granted string // "granted" unless set
	spent   int
}

func (o *office) Granted(context.Context, *gate.Question) (gate.Grant, bool, error) {
	return gate.Grant{ID: cmp.Or(o.granted, "granted")}, true, nil
}

func (o *office) Spend(context.Context, *gate.Question, gate.Grant) (bool, error) {
	o.spent++
	return true, nil
}

// A grant is spent by an operation that names it, or names none.
func TestOnlyTheGrantThatIsNamedIsSpent(t *testing.T) {
	for _, c := range []struct {
		named string
		spent int
	}{{"", 1}, {"granted", 1}, {"other", 0}} {
		desk := &office{}
		g := newGate(rule{verdict: asks}, &journal{})
		g.Approvals = desk
		op := operation()
		op.Named = c.named
		r, err := g.Decide(t.Context(), op)
		if err != nil || r.Allowed() != (c.spent == 1) || desk.spent != c.spent {
			t.Errorf("%q is named: allowed %t, spent %d times, %v", c.named, r.Allowed(), desk.spent, err)
		}
		if c.spent == 0 && (r.Refusal().Problem != gate.Denied || r.Pending() != nil) {
			t.Errorf("%q is named: refused with %+v", c.named, r.Refusal())
		}
	}
}

// One that names its request, waits and is approved runs.
func TestAnOperationThatNamesItsRequestIsReleased(t *testing.T) {
	g := newGate(rule{verdict: asks}, &journal{})
	g.Approvals = &people{recorded: func() error { return nil }}
	op := operation()
	op.Named = "request-1"
	pending, err := g.Decide(t.Context(), op)
	if err != nil || pending.Pending() == nil {
		t.Fatalf("pending %+v, %v", pending.Pending(), err)
	}
	for _, c := range []struct {
		granted string
		allowed bool
	}{{"request-2", false}, {"request-1", true}} {
		g.Approvals = &office{granted: c.granted}
		if r, err := g.Resume(t.Context(), op, pending, gate.Answer{}); err != nil || r.Allowed() != c.allowed {
			t.Errorf("%s is granted: allowed %t, %v", c.granted, r.Allowed(), err)
		}
	}
}

// An id that nobody knows, one that has ended and one of another operation are refused in the same words.
func TestARequestThatIsNotTheOperationsIsRefused(t *testing.T) {
	g := newGate(rule{verdict: asks}, &journal{})
	g.Approvals = &strangers{}
	op := operation()
	op.Named = "other"
	r, err := g.Decide(t.Context(), op)
	granted := newGate(rule{verdict: asks}, &journal{})
	granted.Approvals = &office{}
	also, _ := granted.Decide(t.Context(), op)
	if err != nil || r.Allowed() || r.Pending() != nil || r.Refusal().Problem != gate.Denied || r.Refusal().Detail != also.Refusal().Detail {
		t.Errorf("refused with %+v and %+v, %v", r.Refusal(), also.Refusal(), err)
	}
}

type strangers struct{ people }

func (*strangers) Ask(context.Context, *gate.Question) (gate.Pending, func() error, error) {
	return gate.Pending{}, nil, gate.ErrNotNamed
}
