package extproc

import (
	"context"
	"errors"
	"time"

	"github.com/countersign/countersign/extproc/gate"
)

// outcomeOfHold is how an attempt ended that was refused, perhaps after people had been asked. ctx is the caller's: Envoy
// cancels it when the agent's connection is gone, and then nobody was told anything. The request for approval stays open
// all the same, and a record in the name of this operation says so.
func (a *attempt) outcomeOfHold(ctx context.Context) gate.Outcome {
	o := a.outcomeOfRefusal()
	p := a.ruling.Pending()
	if p == nil || !errors.Is(ctx.Err(), context.Canceled) {
		return o
	}
	o.Result, o.Status, o.BytesOut, o.BodySHA256 = gate.ClientGone, 0, 0, ""
	o.Reason = "the client left while people were being asked; the request for approval stays open until " + p.Expires.UTC().Format(time.RFC3339)
	if asked := a.state.Gate.Approvals; asked != nil {
		if err := asked.Left(context.WithoutCancel(ctx), a.op.ID, p.ID); err != nil {
			a.server.opt.Log.Error("that a client left during a hold could not be recorded as such", "operation", a.op.ID, "approval", p.ID, "error", err)
		}
	}
	return o
}
