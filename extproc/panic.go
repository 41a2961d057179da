package extproc

import (
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/countersign/countersign/extproc/gate"
	"github.com/countersign/countersign/extproc/guard"
	"github.com/countersign/countersign/extproc/wire"
)

// A panic is one operation's: that is refused, its record says that the gateway failed, and the rest goes on. What was not sent
// to the target by then is not sent, and what was not sent to the agent is withheld.

var errFailed = status.Error(codes.Internal, "countersign: a part of the gateway failed")

// failed ends an attempt in which the gateway failed. passed says that the request may be with the target.
func (a *attempt) failed(passed bool) gate.Outcome {
	a.Failed(passed)
	a.refused = nil
	o := a.outcomeOfRefusal()
	o.Result, o.Reason = gate.GatewayFailed, "a part of the gateway failed (a panic: see the alarm)"
	return o
}

// failed ends an exchange after a panic. Where that fails too, with the journal say, the stream ends with an error, and Envoy
// refuses: at once, or after a timer's panic with Envoy's next message.
func (x *exchange) failed() (done bool, err error) {
	done, err = true, errFailed
	defer func() {
		if err != nil {
			x.out.err = err
		}
	}()
	a := x.attempt
	if a == nil || x.finished && x.ending == nil {
		return done, err
	}
	x.finished, x.ending = false, nil
	defer guard.Catch("the end of an operation in which the gateway failed", func(guard.Panic) { x.finished = true })
	o := a.failed(x.decided)
	if r := &x.response; r.released { // the agent has a part of the answer, and gets no more
		refusal := o
		o = x.outcome(gate.GatewayFailed)
		o.Reason, o.Problem = refusal.Reason, refusal.Problem
	}
	x.finish(o)
	x.say(&x.out.answer, immediate(a.reply(), &a.Op), 0) // resets a stream whose answer has begun
	return true, nil
}

// failed denies after a panic in Check. a is nil where it was not known yet what is asked.
func (s *Server) failed(a *attempt) (out *wire.Ruling, err error) {
	err = errFailed
	if a == nil {
		return nil, err
	}
	defer guard.Catch("the end of an operation in which the gateway failed", nil)
	a.Forget()
	a.Finish(a.failed(false))
	return a.denied(), nil
}

// Guarded keeps a panic in any stream of a gRPC server from ending the process. The one call that is no stream does so itself.
func Guarded() []grpc.ServerOption {
	return []grpc.ServerOption{
		grpc.ChainStreamInterceptor(func(server any, stream grpc.ServerStream, call *grpc.StreamServerInfo, handle grpc.StreamHandler) (err error) {
			defer guard.Catch(call.FullMethod, func(guard.Panic) { err = errFailed })
			return handle(server, stream)
		}),
	}
}
