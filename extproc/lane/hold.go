package lane

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/countersign/countersign/extproc/gate"
	"github.com/countersign/countersign/extproc/guard"
)

// handOver is how much of a caller's deadline is left for telling it that the operation is pending.
const handOver = 50 * time.Millisecond

// Holder is the kind's side of a hold.
type Holder interface {
	// Wait is called once, when people are asked and before they are waited for. The kind gives up what can be made again, and
	// may tell the agent that p is what it waits for.
	Wait(p *gate.Pending)
	// Resume is called before the gate rules again, when the state and the resource of then have taken the place of those
	// before (was). It is false where nothing can be released from here: what the operation was read by has changed, say, or the
	// kind has refused it. The agent, when it asks again, is looked at afresh, and is told so where the kind has not refused.
	Resume(ctx context.Context, was *Resource) bool
}

// hold waits for people, for as long as the resource lets an operation be held. When they have answered it rules again on the same
// operation, by the configuration and policy of then. Thousands wait in it, so of what calls it and of what it calls, whatever needs
// a large stack frame is in a function that has returned by then (see package memory). Where nobody answered in time, or the agent
// left, the ruling is still pending: the request for approval stays open, and the identical operation joins it.
func (a *Attempt) hold(ctx context.Context, h Holder) {
	ctx, end := a.beginHold(ctx, h)
	if end == nil {
		return
	}
	defer end()
	for id := a.pendingID(); id != ""; id = a.pendingID() {
		err := a.State.Gate.Approvals.Wait(ctx, id)
		if !a.resume(ctx, h, id, err) {
			return
		}
	}
}

// beginHold returns until when people are waited for, and what ends the hold; nil where nobody is.
func (a *Attempt) beginHold(ctx context.Context, h Holder) (until context.Context, end func()) {
	pending := a.Ruling.Pending()
	if pending == nil {
		return ctx, nil
	}
	budget := a.Resource.Hold
	if deadline, ok := ctx.Deadline(); ok {
		budget = min(budget, time.Until(deadline)-handOver)
	}
	if budget <= 0 {
		return ctx, nil
	}
	a.Op.Context.Held = a.lane.Now()
	a.Again() // thousands are held: what was made of the operation is made again when it goes on
	h.Wait(pending)
	a.lane.held.Add(1)
	until, cancel := context.WithTimeout(ctx, budget)
	stop := context.AfterFunc(a.lane.stopping, guard.Func("a hold", cancel)) // a gateway that stops hands over
	return until, func() {
		stop()
		cancel()
		a.lane.held.Add(-1)
	}
}

// pendingID is the request that the ruling waits for, or nothing.
func (a *Attempt) pendingID() string {
	if p := a.Ruling.Pending(); p != nil {
		return p.ID
	}
	return ""
}

// resume rules again with the state of now. It is false where nobody answered (err), or the operation was refused for another
// reason. A person's no is passed on whatever has become of the token and of the configuration.
func (a *Attempt) resume(ctx context.Context, h Holder, id string, err error) bool {
	var answer gate.Answer
	if err == nil {
		answer, err = a.State.Gate.Approvals.Answer(ctx, id)
	}
	if err != nil {
		if ctx.Err() == nil {
			a.lane.Log.Error("a hold was broken off", "operation", a.Op.ID, "approval", id, "error", err)
		}
		return false
	}
	a.Op.Context.Time = a.lane.Now()
	if !answer.Rejected {
		a.approved = &gate.Pending{ID: answer.Approved.ID, URL: a.Ruling.Pending().URL, Expires: answer.Approved.Expires}
		if !a.renew(ctx, h) {
			return false
		}
		a.approved = nil // from here on it may be spent
	}
	if a.Ruling, err = a.lane.State().Gate.Resume(ctx, &a.Op, a.Ruling, answer); err != nil {
		a.unrecorded(err)
	}
	return true
}

// renew takes up the state of now. It refuses where the token is not good any more, or the resource is another.
func (a *Attempt) renew(ctx context.Context, h Holder) bool {
	st, was := a.lane.State(), a.Resource
	if why := a.tokenOver(); why != nil {
		return a.refuseToken(ctx, why)
	}
	r, ok := st.Resources[was.Name]
	if ok && st.Gate.Approvals != nil && st.Identity == a.State.Identity && r.Kind == was.Kind {
		a.State, a.Resource, a.Op.Resource = st, r, r.Resource
		a.Again()
		if h.Resume(ctx, was) {
			return true
		}
	}
	if a.Ruling.Pending() != nil { // the kind has not said why
		a.Refuse(ctx, gate.Refusal{Problem: gate.Unavailable, Detail: "The gateway's configuration was changed while this operation was held, so it has to be looked at afresh. Nothing was done. Send the identical request again."})
	}
	return false
}

// answered tells, with a refusal that comes after people were asked, what they said.
func (a *Attempt) answered(refusal gate.Refusal) gate.Refusal {
	switch {
	case a.approved == nil:
	case a.approved.ID == "":
		refusal.Detail += " The request for approval has ended without an approval, so people are asked anew then."
	default:
		refusal.Approval = a.approved
		refusal.Detail += " A person has approved this operation: the approval stands until " + stamp(a.approved.Expires) + ", and is spent when the identical request comes."
	}
	return refusal
}

// LeftWaiting is for a refused operation whose caller has gone. Where it waited for people it records that it is gone, and
// returns why it ended: then nobody was told anything. The request for approval stays open all the same. ctx is the caller's.
func (a *Attempt) LeftWaiting(ctx context.Context) (reason string, left bool) {
	p := a.Ruling.Pending()
	if p == nil || !errors.Is(ctx.Err(), context.Canceled) {
		return "", false
	}
	if asked := a.State.Gate.Approvals; asked != nil {
		if err := asked.Left(ctx, &a.Op, p.ID); err != nil {
			a.lane.Log.Error("that a client left during a hold could not be recorded as such", "operation", a.Op.ID, "approval", p.ID, "error", err)
		}
	}
	return fmt.Sprintf("the client left while people were being asked; the request for approval stays open until %s", stamp(p.Expires)), true
}
