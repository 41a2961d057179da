package extproc

import (
	"context"
	"strconv"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/countersign/countersign/extproc/gate"
	"github.com/countersign/countersign/extproc/guard"
	"github.com/countersign/countersign/extproc/inspect/web"
	"github.com/countersign/countersign/extproc/lane"
	"github.com/countersign/countersign/extproc/wire"
)

// BodyExtension is the ext_authz context extension in which Envoy's configuration says, with [WholeBody], that it shows the
// bodies of a route's requests. Envoy does not say so by itself, nor that a body follows which it does not show: it takes
// Transfer-Encoding away before it asks, and over HTTP/2 no header field need tell (RFC 9113, section 8.1).
const (
	BodyExtension = "body"
	WholeBody     = "whole"
)

// Check rules on one request for Envoy's ext_authz filter. It sees no answer, so a ruling that redacts is refused, and
// how the operation ended comes from Envoy's access log.
func (s *Server) Check(ctx context.Context, m *wire.Check) (out *wire.Ruling, err error) {
	st, end, err := s.lane.Begin()
	if err != nil {
		return nil, status.Error(codes.Unavailable, "countersign: "+err.Error())
	}
	defer end()
	if !m.HTTP {
		return s.connect(ctx, st, m)
	}
	var a *attempt
	defer guard.Catch("an operation", func(guard.Panic) { out, err = s.failed(a) })

	a = s.asked(ctx, st, m)
	if !s.clocks.arrive(a.Op.Context.RequestID) {
		return nil, status.Error(codes.Aborted, "countersign: the request took too long, and was refused for it")
	}
	a.sent, m.Body = m.Body, nil // m lives until the call is answered
	defer a.Share.Set(0)
	if !a.head(ctx, m.Fields) || !a.body(ctx, m) {
		return a.deny(ctx), nil
	}
	credential, allowed := a.decide(ctx)
	if !allowed {
		return a.deny(ctx), nil
	}
	return a.pass(credential), nil
}

// asked makes the attempt.
func (s *Server) asked(ctx context.Context, st *lane.State, m *wire.Check) *attempt {
	return s.newAttempt(st, call{
		resource: m.Extension(ResourceExtension), fingerprint: m.Extension(FingerprintExtension),
		peer: m.Peer, answers: answersPass, connection: connectionOf(ctx),
	}, m.Fields)
}

// pass releases an allowed attempt.
func (a *attempt) pass(credential web.Field) *wire.Ruling {
	out := &wire.Ruling{HTTP: true, Named: named(&a.Op)}
	for _, name := range a.request.Remove {
		if name != credential.Name { // Envoy removes after it sets
			out.Remove = append(out.Remove, name)
		}
	}
	out.Put(a.request.Set...)
	if credential.Name != "" {
		out.Put(credential)
	}
	a.forward()
	a.Expect()
	a.Await(gate.Outcome{}, true)
	return out
}

// body reads the body that Envoy sent along. One that it did not send, or not all of, is unseen.
func (a *attempt) body(ctx context.Context, m *wire.Check) bool {
	body := a.sent
	a.sent = nil
	if a.streams {
		return true
	}
	declared, cut := int64(-1), false
	for _, f := range m.Fields {
		switch f.Name {
		case "content-length":
			declared, _ = strconv.ParseInt(f.Value, 10, 64)
		case "x-envoy-auth-partial-body":
			cut = cut || f.Value == "true"
		}
	}
	if cut || declared > int64(len(body)) {
		return a.refuse(ctx, gate.Refusal{Problem: gate.TooLarge, Detail: "The request's body did not reach the gateway whole, so it was refused. Send less at a time."})
	}
	if len(body) == 0 && declared < 0 && m.Extension(BodyExtension) != WholeBody {
		return a.refuse(ctx, gate.Refusal{Problem: gate.Unavailable, Detail: "Envoy does not say that it shows the bodies of requests to the gateway, and this one could have a body that was not seen, so it was refused. Nothing was done. Whoever runs Envoy has to change its configuration (countersign check says how)."})
	}
	if !a.take(ctx, a.light+a.reader.Holds(int64(len(body)))) {
		return false
	}
	a.received = int64(len(body))
	if err := a.reader.Write(body); err != nil {
		return a.refuseError(ctx, err)
	}
	return true
}

// deny ends a refused attempt.
func (a *attempt) deny(ctx context.Context) *wire.Ruling {
	a.Finish(a.outcomeOfHold(ctx))
	return a.denied()
}

// denied is what a refused attempt is answered.
func (a *attempt) denied() *wire.Ruling {
	r := a.reply()
	denied := &wire.Ruling{HTTP: true, Code: uint32(codes.PermissionDenied), Status: r.Status, Body: r.Body, Named: named(&a.Op)}
	denied.Put(r.Fields...)
	return denied
}
