package extproc

import (
	"context"

	authz "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/countersign/countersign/extproc/gate"
	"github.com/countersign/countersign/extproc/guard"
)

// A panic is one operation's: that is refused, its record says that the gateway failed, and the rest goes on. What was not sent
// to the target by then is not sent, and what was not sent to the agent is withheld.

const (
	failedBefore = "A part of the gateway failed while it looked at this request, so it was refused. Nothing was done. Try again later; if it goes on, tell whoever runs the gateway."
	failedAfter  = "A part of the gateway failed, so the target's answer is withheld. The operation itself may have been carried out."
	failedWhy    = "a part of the gateway failed (a panic: see the alarm)"
)

var errFailed = status.Error(codes.Internal, "countersign: a part of the gateway failed")

// failed ends an attempt in which the gateway failed. passed says that the request may be with the target.
func (a *attempt) failed(passed bool) gate.Outcome {
	refusal := gate.Refusal{Problem: gate.Unavailable, Detail: failedBefore}
	switch {
	case passed:
		refusal = gate.Refusal{Problem: gate.Withheld, Detail: failedAfter}
	case a.ruling.Receipt().Seq == 0 && !a.isRefused: // nothing is on record
		ruling, err := a.state.Gate.Refuse(context.Background(), &a.op, refusal)
		if err != nil {
			a.unrecorded(err)
		}
		a.ruling = ruling
	}
	a.settle(refusal)
	o := a.outcomeOfRefusal()
	o.Result, o.Reason = gate.GatewayFailed, failedWhy
	return o
}

// failed ends an exchange after a panic. Where that fails too, with the journal say, Envoy refuses.
func (x *exchange) failed() (done bool, err error) {
	done, err = true, errFailed
	a := x.attempt
	if a == nil || x.finished {
		return done, err
	}
	defer guard.Catch("the end of an operation in which the gateway failed", func(guard.Panic) { x.finished = true })
	o := a.failed(x.decided)
	if r := &x.response; r.released { // the agent has a part of the answer, and gets no more
		refusal := o
		o = x.outcome(gate.GatewayFailed)
		o.Reason, o.Problem = refusal.Reason, refusal.Problem
	}
	x.finish(o)
	return done, x.stream.Send(immediate(a.refused, a.op.ID)) // resets a stream whose answer has begun
}

// failed denies after a panic in Check. a is nil where it was not known yet what is asked.
func (s *Server) failed(a *attempt) (out *authz.CheckResponse, err error) {
	err = errFailed
	if a == nil {
		return nil, err
	}
	defer guard.Catch("the end of an operation in which the gateway failed", nil)
	s.outcomes.forget(a.op.ID)
	s.finish(a.state.Gate, a.op.Resource.Name, a.ruling, a.failed(false))
	return a.denied(), nil
}

// Guarded keeps a panic in any service of a gRPC server from ending the process.
func Guarded() []grpc.ServerOption {
	return []grpc.ServerOption{
		grpc.ChainUnaryInterceptor(func(ctx context.Context, m any, call *grpc.UnaryServerInfo, handle grpc.UnaryHandler) (out any, err error) {
			defer guard.Catch(call.FullMethod, func(guard.Panic) { out, err = nil, errFailed })
			return handle(ctx, m)
		}),
		grpc.ChainStreamInterceptor(func(server any, stream grpc.ServerStream, call *grpc.StreamServerInfo, handle grpc.StreamHandler) (err error) {
			defer guard.Catch(call.FullMethod, func(guard.Panic) { err = errFailed })
			return handle(server, stream)
		}),
	}
}
