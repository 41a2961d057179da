package extproc

import (
	"context"
	"reflect"
	"time"

	"github.com/countersign/countersign/extproc/gate"
	"github.com/countersign/countersign/extproc/guard"
	"github.com/countersign/countersign/extproc/inspect/web"
)

// handOver is how much of a caller's deadline is left for telling it that the operation is pending.
const handOver = 50 * time.Millisecond

// hold waits for people, for as long as the resource lets a request be held, and rules again when they have answered. What
// is ruled on is the same operation; the configuration and policy are those of then. It returns with the ruling still
// pending where nobody answered in time or the client left: the request stays open, and the identical operation joins it.
func (a *attempt) hold(ctx context.Context) {
	budget := a.resource.Hold
	if deadline, ok := ctx.Deadline(); ok {
		budget = min(budget, time.Until(deadline)-handOver)
	}
	if a.pendingID() == "" || budget <= 0 {
		return
	}
	a.op.Context.Held = a.server.opt.Now()
	a.again(a.op.Resource) // thousands are held: what was made of the operation is made again when it goes on
	a.share.set(a.light + web.Held(a.inspector.Seen().BodyBytes))
	a.server.held.Add(1)
	defer a.server.held.Add(-1)
	ctx, cancel := context.WithTimeout(ctx, budget)
	defer cancel()
	defer context.AfterFunc(a.server.stopping, guard.Func("a hold", cancel))() // a gateway that stops hands over
	for id := a.pendingID(); id != ""; id = a.pendingID() {
		answer, err := a.state.Gate.Approvals.Wait(ctx, id)
		if err != nil && ctx.Err() == nil {
			a.server.opt.Log.Error("a hold was broken off", "operation", a.op.ID, "approval", id, "error", err)
		}
		if err != nil || !a.resume(ctx, answer) {
			return
		}
	}
}

// pendingID is the request that the ruling waits for, or nothing.
//
//go:noinline
func (a *attempt) pendingID() string {
	if p := a.ruling.Pending(); p != nil {
		return p.ID
	}
	return ""
}

// resume rules again with the state of now. It is false where nothing can be released from here.
//
//go:noinline
func (a *attempt) resume(ctx context.Context, answer gate.Answer) bool {
	if !a.renew() || !a.carriedOut(ctx) || !a.take(ctx, a.light+a.inspector.Weight()) {
		return false
	}
	var err error
	if a.ruling, err = a.state.Gate.Resume(ctx, &a.op, a.ruling, answer); err != nil {
		a.unrecorded(err)
	}
	return true
}

// renew takes up the state of now. It is false where the token may no longer be good, or what the request was read by has
// changed: then nothing is released from here, and the agent, when it sends the request again, is looked at afresh.
func (a *attempt) renew() bool {
	st := a.server.state.Load()
	r, ok := st.Resources[a.resource.Name]
	if !ok || st.Gate.Approvals == nil || st.Identity != a.state.Identity || r.Kind != a.resource.Kind || !reflect.DeepEqual(r.Web, a.resource.Web) {
		return false
	}
	if expires := a.op.Principal.Verified.Expires; !expires.IsZero() && !a.server.opt.Now().Before(expires) {
		return false
	}
	a.state, a.resource = st, r
	a.again(r.Resource)
	return true
}

// again makes the operation anew for a resource, without what was derived from it.
//
//go:noinline
func (a *attempt) again(r gate.Resource) {
	a.op = gate.Operation{
		ID: a.op.ID, Principal: a.op.Principal, Resource: r, Protocol: a.op.Protocol, Verb: a.op.Verb,
		Target: a.op.Target, Detail: a.op.Detail, Context: a.op.Context, Named: a.op.Named, Fits: a.op.Fits,
	}
}
