package extproc

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/countersign/countersign/extproc/gate"
	"github.com/countersign/countersign/extproc/identity"
	"github.com/countersign/countersign/extproc/inspect/web"
	"github.com/countersign/countersign/extproc/lane"
	"github.com/countersign/countersign/extproc/redact"
)

// attempt is one HTTP request on its way to a ruling, the same for ext_proc and ext_authz.
type attempt struct {
	*lane.Attempt
	server *Server
	http   *HTTP // of the resource; nil where there is none
	call   call  // how Envoy asks

	reader   Reader   // until the request is sent on
	streams  bool     // the body passes unseen
	received int64    // bytes of the body
	request  *Request // once it was read, until it is sent on

	judged   int64  // what the request takes of the memory while it is judged, beside light
	light    int64  // what of the operation's share of the memory is not of bodies
	waiting  int64  // what of it waits to be sent to Envoy
	decoding int64  // what it takes to undo the answer's coding
	sent     []byte // the body that ext_authz has sent along, until it is read or refused

	plan    *redact.Plan // of an allowed operation; nil where nothing is redacted
	asked   web.Asked    // of one whose answer is redacted
	turning *redact.Plan // turns URLs in an answer of which nothing is redacted; nil where none are
	turn    web.Turn     // the target's URLs into those of the agent

	secrets []string // of the request that must not come back in the answer

	refuser Refuser
	refused *web.Reply // nil until it was asked for
}

// newAttempt begins the operation that Envoy asks about.
func (s *Server) newAttempt(st *lane.State, c call, fields []web.Field) *attempt {
	a := &attempt{Attempt: s.lane.Attempt(st, "http", c.resource, contextOf(fields, c.peer)), server: s, call: c}
	a.http = httpOf(a.Resource)
	a.refuser = a.http.refuser(fields)
	a.Connection, a.AnswersSeen = c.connection, c.seesAnswers()
	return a
}

// contextOf reads what may differ between two attempts at one operation.
func contextOf(fields []web.Field, peer string) gate.Context {
	c := gate.Context{Peer: peer}
	for _, f := range fields {
		switch f.Name {
		case "x-request-id":
			c.RequestID = gate.Recorded(f.Value, gate.MaxClaimed)
		case "traceparent":
			if c.TraceParent != "" || !validTraceParent(f.Value) {
				c.TraceParent = ""
				continue
			}
			c.TraceParent = f.Value
		}
	}
	return c
}

// validTraceParent follows W3C Trace Context, section 3.2, version 00.
func validTraceParent(s string) bool {
	if len(s) != 55 || s[:3] != "00-" || s[35] != '-' || s[52] != '-' {
		return false
	}
	for i := 3; i < len(s); i++ {
		if c := s[i]; i != 35 && i != 52 && (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return false
		}
	}
	return s[3:35] != "00000000000000000000000000000000" && s[36:52] != "0000000000000000"
}

// head identifies the agent and reads the head of its request. It returns false once the attempt is refused.
func (a *attempt) head(ctx context.Context, fields []web.Field) bool {
	if a.http == nil || a.http.Reader == nil {
		return a.refuse(ctx, gate.Refusal{Problem: gate.Denied, Detail: "This gateway has no resource for this request."})
	}
	a.reader = a.http.Reader(a.Resource.Name)
	if !a.identify(ctx, fields) {
		return false
	}
	head, err := a.reader.Head(fields)
	a.Op.Verb = gate.Recorded(head.Verb, gate.MaxClaimed)
	a.Op.Target = gate.Recorded(redact.MaskText(head.Target), gate.MaxRecorded)
	a.streams = head.Streams
	if most := a.http.MaxHead; most > 0 && headBytes(fields) > most { // Envoy's own limit is that of the listener
		return a.refuse(ctx, gate.Refusal{Problem: gate.TooLarge, Detail: fmt.Sprintf("The request's header fields are larger than the %d bytes that this resource accepts. Send fewer, or shorter ones.", most)})
	}
	if err != nil {
		return a.refuseError(ctx, err)
	}
	return a.carriedOut(ctx) && a.admit(ctx, fields)
}

func headBytes(fields []web.Field) (n int64) {
	for _, f := range fields {
		n += int64(len(f.Name) + len(f.Value))
	}
	return n
}

func (a *attempt) identify(ctx context.Context, fields []web.Field) bool {
	token, refusal := identity.Credential(func(name string) []string {
		var values []string
		for _, f := range fields {
			if strings.EqualFold(f.Name, name) {
				values = append(values, f.Value)
			}
		}
		return values
	})
	if refusal == nil {
		for _, f := range fields {
			if _, query, ok := strings.Cut(f.Value, "?"); f.Name == ":path" && ok && identity.HasQueryCredential(query) {
				refusal = &identity.Refusal{Reason: identity.Multiple, Detail: "the request has a credential in its query; send one, as Authorization: Bearer"}
			}
		}
	}
	return a.Identify(ctx, token, refusal, func() (verb, target string) {
		a.sent = nil // a stranger's, or one that nobody reads: it does not wait for the journal
		for _, f := range fields {
			switch f.Name {
			case ":method":
				verb = f.Value
			case ":path":
				target, _, _ = strings.Cut(f.Value, "?")
			}
		}
		return verb, redact.MaskText(target)
	})
}

// decide asks the gate about the whole request. It returns the credential to forward with and true where the operation
// is allowed.
func (a *attempt) decide(ctx context.Context) (credential web.Field, allowed bool) {
	credential, ready := a.ready(ctx)
	return credential, ready && a.Decide(ctx, a) && a.prepare()
}

// ready makes the operation of what was read. It is false where the request is refused without the gate.
func (a *attempt) ready(ctx context.Context) (credential web.Field, ready bool) {
	request, err := a.reader.Request(a.Op.Principal, func(bytes int64) bool {
		a.judged = bytes
		return a.take(ctx, a.light+bytes)
	})
	if a.Refused() {
		return credential, false // there was no room
	}
	if err != nil {
		return credential, a.refuseError(ctx, err)
	}
	a.request, a.secrets = request, request.Secrets
	a.Op.Detail, a.Op.Named, a.Op.Fits = request.Detail, request.Approval, a.fits
	if a.http.Credential != nil {
		if credential, err = a.http.Credential.Field(); err != nil {
			a.server.lane.Log.Error("the target's credential cannot be read", "resource", a.Resource.Name, "error", err)
			return credential, a.refuse(ctx, gate.Refusal{Problem: gate.Unavailable, Detail: "The gateway has no credential for this target at the moment, so the operation was refused. Nothing was done. Try again later."})
		}
	}
	return credential, true
}

// prepare makes ready what an allowed operation needs.
func (a *attempt) prepare() bool {
	plan, err := a.http.Plans.Plan(a.Ruling.Redactions(), a.rewrites())
	if err != nil {
		// The decision stands in the journal, and nothing of it is carried out.
		a.server.lane.Log.Error("a redaction cannot be applied", "resource", a.Resource.Name, "error", err)
		a.Tell(gate.Refusal{Problem: gate.Unavailable, Detail: "Policy asks for a redaction that this gateway cannot apply, so the operation was refused. Nothing was done."})
		return false
	}
	if plan != nil {
		if refusal, ok := a.Room(max(a.Share.Taken(), lane.Bytes+answerBytes)); !ok {
			a.Tell(refusal)
			return false
		}
	}
	if a.plan = plan; !plan.Redacts() {
		a.plan, a.turning = nil, plan
	}
	if a.plan != nil {
		a.asked = web.NewAsked(strings.Clone(a.request.Authority), strings.Clone(a.request.Target))
	}
	if a.call.seesAnswers() && a.Op.Verb != "CONNECT" {
		a.turn = a.http.Target.For(a.request.Scheme, a.request.Authority)
	}
	return true
}

// rewrites are the paths of the URLs that are turned in the answer.
func (a *attempt) rewrites() []string {
	if !a.call.seesAnswers() {
		return nil
	}
	return a.http.Rewrite
}

// fits is the gate's question before it allows an operation or asks people: can it be carried out as policy wants it?
func (a *attempt) fits(v gate.Verdict) error {
	if len(v.Redactions) == 0 {
		return nil
	}
	if !a.call.seesAnswers() {
		return &gate.Unfit{Problem: gate.Denied, Detail: "Policy redacts the answer to this operation, and answers of this resource do not pass through the gateway, so the operation was refused. Repeating it will not help."}
	}
	if a.request.Redacted == nil {
		return &gate.Unfit{Problem: gate.Denied, Detail: "Policy redacts the answer to this operation, which cannot be done, so it was refused."}
	}
	_, err := a.request.Redacted()
	return err
}

func (a *attempt) refuseError(ctx context.Context, err error) bool {
	var refused *web.Error
	if errors.As(err, &refused) {
		return a.refuse(ctx, gate.Refusal{Problem: refused.Problem, Detail: redact.MaskText(refused.Detail)})
	}
	return a.refuse(ctx, gate.Refusal{Problem: gate.Unreadable, Detail: "The request could not be read."})
}

// refuse records a refusal that policy was not asked about. It always returns false.
func (a *attempt) refuse(ctx context.Context, refusal gate.Refusal) bool {
	a.sent = nil
	return a.Refuse(ctx, refusal)
}

// reply is what the agent is sent, once the attempt is refused.
func (a *attempt) reply() *web.Reply {
	if a.refused == nil {
		reply := a.refuser.Refuse(a.Refusal(), a.Op.Context.RequestID, a.Challenge())
		a.refused = &reply
	}
	return a.refused
}

// outcomeOfRefusal is how a refused attempt ended.
func (a *attempt) outcomeOfRefusal() gate.Outcome {
	o := gate.Outcome{Result: gate.Refused, Problem: a.Refusal().Problem, Status: a.reply().Status, BytesIn: a.received, Duration: a.server.lane.Now().Sub(a.Started)}
	if a.Op.Verb != "HEAD" {
		o.BytesOut = int64(len(a.reply().Body))
		o.BodySHA256 = sum(a.reply().Body)
	}
	return o
}

// outcomeOfHold is how an attempt ended that was refused, perhaps after people had been asked. ctx is the caller's: Envoy
// cancels it when the agent's connection is gone, and then nobody was told anything.
func (a *attempt) outcomeOfHold(ctx context.Context) gate.Outcome {
	o := a.outcomeOfRefusal()
	if reason, left := a.LeftWaiting(ctx); left {
		o.Result, o.Reason, o.Status, o.BytesOut, o.BodySHA256 = gate.ClientGone, reason, 0, 0, ""
	}
	return o
}
