package gate

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
)

// Question asks people whether an operation may run, once.
type Question struct {
	Operation *Operation
	Digest    string // of the operation, keyed; the answer binds to it
	Verdict   Verdict
}

// Grant says that enough people approved an operation. It lets that operation through once.
type Grant struct {
	ID        string // of the request that was approved
	Approvers []Party
	Approved  time.Time
	Expires   time.Time
	Limits    Limits // that people were shown: what is released is kept to them, whatever policy says by then
}

// Pending is a request that people have not answered yet.
type Pending struct {
	ID      string
	URL     string // where a person looks at it; may be empty
	Expires time.Time
}

// Answer is how a request ended. If it is neither approved nor rejected, it was voided or has expired.
type Answer struct {
	Approved Grant  // has an ID if the request is approved and its grant is not spent
	Rejected bool   // a person said no
	Reason   string // the person's own words
}

// Approvals is where people are asked. After an error of any method the operation is refused.
type Approvals interface {
	// Granted returns the live grant for q's digest and rules. It does not spend it.
	Granted(ctx context.Context, q *Question) (Grant, bool, error)
	// Spend uses g for q's operation alone. q has the verdict of a policy that saw g. Spend returns false if another operation
	// spent g first, if g has expired, or if it was given to another question.
	Spend(ctx context.Context, q *Question, g Grant) (bool, error)
	// Ask opens a request for q, or joins the one that is open. If the operation names a request, Ask joins that one or returns
	// ErrNotNamed; it opens none. It returns an *AskRefused if a limit forbids another request.
	//
	// Without an error the caller must call recorded, which waits until the request's own record is durable. Until it returns nil
	// nobody is told of the request.
	Ask(ctx context.Context, q *Question) (p Pending, recorded func() error, err error)
	// Wait returns when the request has ended, or with ctx's error when ctx ends first.
	Wait(ctx context.Context, id string) error
	// Answer is what people said about a request that has ended.
	Answer(ctx context.Context, id string) (Answer, error)
	// Left records that the agent of op no longer waits for the request, even if ctx has ended. The request stays open.
	Left(ctx context.Context, op *Operation, id string) error
	// Ended is told how operation op ended, which spent the grant with this id, once that is on record. It does not wait.
	Ended(id, op string, o *Outcome)
}

// AskRefused says why nobody was asked: too many requests are open, or the operation cannot be shown to a person.
type AskRefused struct{ Reason string }

func (e *AskRefused) Error() string { return e.Reason }

// ErrNotNamed says that the request which an operation names is not open for it: it does not exist, it has ended, or it is for
// another operation. An agent is not told which.
var ErrNotNamed = errors.New("the request for approval that is named is not open for this operation")

// Pending is the request that a ruling waits for, or nil.
func (r *Ruling) Pending() *Pending {
	if r.Allowed() || r.refusal.Problem != ApprovalPending {
		return nil
	}
	return r.refusal.Approval
}

// Resume rules again on an operation whose request has ended. After a reload g may be another gate than the one that asked,
// with another policy.
func (g *Gate) Resume(ctx context.Context, op *Operation, r Ruling, answer Answer) (Ruling, error) {
	pending := r.Pending()
	if pending == nil || op == nil {
		return r, errors.New("resume: the ruling waits for nobody")
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

// ask is the part of Decide for a verdict that asks: it spends a grant, or has people asked. after is Allow if a grant was spent.
// recorded is nil unless people are being asked: see [Approvals].
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
		" People are being asked. Send the identical request again later: once it is approved it runs, once. A request that differs in anything is a new one, and they are asked anew."}, recorded, nil
}

// release evaluates policy again, which sees the grant now, and spends the grant unless policy denies. ruled is false if the
// grant does not fit this operation; then people are to be asked.
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
	again.Effect, again.Limits = Allow, again.Limits.Least(grant.Limits)
	return again, Refusal{}, true, nil
}

// notNamed refuses an operation that names a request which is not open for it. Nobody is asked, because the agent believes that
// people were asked already.
func notNamed(v Verdict) Refusal {
	return Refusal{Problem: Denied, Rules: ids(v.Rules), Detail: sentence("This operation needs a person's approval", v.Rules) +
		" Countersign-Approval names a request that is not open for it: that has ended, or was for an operation that differs in something. Nothing was done, and nobody was asked. Send the identical request, or leave Countersign-Approval out to have people asked anew."}
}

var approvalsDown = Refusal{
	Problem: Unavailable,
	Detail:  "This operation needs a person's approval, and the gateway cannot reach its approvals at the moment. Nothing was done. Try again later.",
}

func sameAsks(a, b []AskRule) bool {
	return slices.EqualFunc(a, b, func(x, y AskRule) bool { return x.Equal(&y) })
}

// object is the grant as policy sees it: input.context.approval.
func (g *Grant) object() Object {
	return Object{
		{"approved", string(AppendTime(nil, g.Approved))},
		{"approvers", parties(g.Approvers)},
		{"id", g.ID},
	}
}
