package gate

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
)

// Question is what people are asked: may this operation run, once?
type Question struct {
	Operation *Operation
	Digest    string // of the operation, keyed; the answer binds to it
	Verdict   Verdict
}

// Grant is the yes of enough people to one operation. It is good for one.
type Grant struct {
	ID        string // of the request that was approved
	Approvers []Party
	Approved  time.Time
	Expires   time.Time
}

// Pending is a request that people have not answered yet.
type Pending struct {
	ID      string
	URL     string // where a person looks at it; may be empty
	Expires time.Time
}

// Answer is how a request ended. Where it is neither approved nor rejected it was voided, or its time is over.
type Answer struct {
	Approved Grant  // has an ID where the request is approved and its grant is not spent
	Rejected bool   // a person said no
	Reason   string // the person's own words
}

// Approvals is where people are asked, as the gate needs it. With an error nothing is released.
type Approvals interface {
	// Granted returns the live grant for q: for the same digest, under the same rules, for the same asks. It spends nothing.
	Granted(ctx context.Context, q *Question) (Grant, bool, error)
	// Spend takes the grant for q's operation and no other; q has the verdict of policy now. It is false where another
	// operation was first, the grant's time is over, or it was given to another question.
	Spend(ctx context.Context, q *Question, g Grant) (bool, error)
	// Ask opens a request for q, or joins the one that is open. Where the operation names a request it joins that one, and
	// opens none: its error is ErrNotNamed where that is not open for q. It is an *AskRefused where a bound says no. Without an
	// error recorded is to be called: it waits until the request's own record is durable, and nobody is told of the request
	// before it has returned nil.
	Ask(ctx context.Context, q *Question) (p Pending, recorded func() error, err error)
	// Wait returns when the request has ended. Its error is that of ctx where ctx ends first.
	Wait(ctx context.Context, id string) (Answer, error)
	// Left records, also where ctx has ended, that whoever waited with operation op for the request with this id is gone. The
	// request stays as it is.
	Left(ctx context.Context, op *Operation, id string) error
}

// AskRefused says that nobody was asked, because too much is being asked already.
type AskRefused struct{ Reason string }

func (e *AskRefused) Error() string { return e.Reason }

// ErrNotNamed says that the request which an operation names is not open for it: there is none of that id, it has ended, or
// it is for another operation. Which of them is nothing to tell an agent.
var ErrNotNamed = errors.New("the request for approval that is named is not open for this operation")

// Pending is the request that a ruling waits for, or nil.
func (r Ruling) Pending() *Pending {
	if r.Allowed() || r.refusal.Problem != ApprovalPending {
		return nil
	}
	return r.refusal.Approval
}

// Resume rules again on an operation that was pending, now that its request has ended. g is the gate of now: its policy
// may be another than the one that asked.
func (g *Gate) Resume(ctx context.Context, op *Operation, r Ruling, answer Answer) (Ruling, error) {
	pending := r.Pending()
	if pending == nil || op == nil {
		return r, fmt.Errorf("resume: the ruling waits for nobody")
	}
	op.Context.Time = g.Now()
	if !answer.Rejected {
		return g.Decide(ctx, op)
	}
	decision := describe(op)
	decision.ConfigDigest = g.ConfigDigest
	decision.PolicyDigest, decision.RulesDigest = r.verdict.PolicyDigest, r.verdict.RulesDigest
	decision.Approval = pending.ID
	decision.Digest = r.digest
	decision.Problem = Denied
	decision.Rules, decision.Reasons = ids(r.verdict.Rules), []string{"rejected: " + answer.Reason}
	detail := "A person was asked and rejected this operation."
	if answer.Reason != "" {
		detail = "A person was asked and rejected this operation: " + strings.TrimRight(answer.Reason, ".") + "."
	}
	return g.record(ctx, op.ID, decision, r.verdict.denied(), Refusal{Problem: Denied, Rules: decision.Rules, Detail: detail})
}

// ask is Decide's part for a verdict that asks. It returns the verdict as it is after people were, or are being, asked. recorded
// is nil where nobody is.
func (g *Gate) ask(ctx context.Context, op *Operation, d *Decision, v Verdict) (after Verdict, refusal Refusal, recorded func() error, err error) {
	q := &Question{Operation: op, Digest: d.Digest, Verdict: v}
	grant, found, err := g.Approvals.Granted(ctx, q)
	if err != nil {
		return v, approvalsDown, nil, fmt.Errorf("look for a grant: %w", err)
	}
	if found && op.Named != "" && op.Named != grant.ID {
		return v, notNamed(v), nil, nil
	}
	if found {
		released, refusal, ruled, err := g.release(ctx, op, d, v, grant)
		if ruled || err != nil {
			return released, refusal, nil, err
		}
		op.Context.Approval = nil
	}
	pending, recorded, err := g.Approvals.Ask(ctx, q)
	var refused *AskRefused
	switch {
	case errors.Is(err, ErrNotNamed):
		return v, notNamed(v), nil, nil
	case errors.As(err, &refused):
		return v, Refusal{Problem: ApprovalUnavailable, Rules: ids(v.Rules), Detail: sentence("This operation needs a person's approval", v.Rules) + " Nobody was asked: " + strings.TrimRight(refused.Reason, ".") + "."}, nil, nil
	case err != nil:
		return v, approvalsDown, nil, fmt.Errorf("ask for approval: %w", err)
	}
	d.Approval = pending.ID
	return v, Refusal{Problem: ApprovalPending, Rules: ids(v.Rules), Approval: &pending, Detail: sentence("This operation needs a person's approval", v.Rules) +
		" People are being asked. Send the identical request again later: once it is approved it runs, once. A request that differs in anything is a new one, and they are asked anew; beside Countersign-Approval with this approval's id it is refused instead."}, recorded, nil
}

// release evaluates policy again, now that there is a grant, and spends the grant where policy still lets it. ruled is
// false where the grant turns out not to be for this.
func (g *Gate) release(ctx context.Context, op *Operation, d *Decision, v Verdict, grant Grant) (again Verdict, refusal Refusal, ruled bool, err error) {
	op.Context.Approval = &grant
	again, err = g.evaluate(ctx, op, d)
	switch {
	case err != nil:
		again = again.denied()
		return again, refusalFor(again, err), true, err
	case again.Effect == Deny:
		return again, refusalFor(again, nil), true, nil
	case again.Effect == Ask && !sameAsks(again.Asks, v.Asks):
		return v, Refusal{}, false, nil
	}
	spent, err := g.Approvals.Spend(ctx, &Question{Operation: op, Digest: d.Digest, Verdict: again}, grant)
	if err != nil {
		return v, approvalsDown, true, fmt.Errorf("spend approval %s: %w", grant.ID, err)
	}
	if !spent {
		return v, Refusal{}, false, nil
	}
	d.Approval = grant.ID
	again.Effect = Allow
	return again, Refusal{}, true, nil
}

// notNamed refuses an operation that needs an approval and names another than its own. Nobody is asked: the agent says that
// people were.
func notNamed(v Verdict) Refusal {
	return Refusal{Problem: Denied, Rules: ids(v.Rules), Detail: sentence("This operation needs a person's approval", v.Rules) +
		" Countersign-Approval names a request that is not open for it: that has ended, or was for an operation that differs in something. Nothing was done, and nobody was asked. Send the identical request, or leave Countersign-Approval out to have people asked anew."}
}

var approvalsDown = Refusal{
	Problem: Unavailable,
	Detail:  "This operation needs a person's approval, and the gateway cannot reach its approvals at the moment. Nothing was done. Try again later.",
}

func sameAsks(a, b []AskRule) bool {
	return slices.EqualFunc(a, b, func(x, y AskRule) bool {
		return x.Rule == y.Rule && x.Quorum == y.Quorum && slices.Equal(x.Approvers, y.Approvers)
	})
}

// object is the grant as policy sees it: input.context.approval.
func (g *Grant) object() Object {
	return Object{
		{"approved", string(AppendTime(nil, g.Approved))},
		{"approvers", parties(g.Approvers)},
		{"id", g.ID},
	}
}
