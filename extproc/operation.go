package extproc

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/countersign/countersign/extproc/gate"
	"github.com/countersign/countersign/extproc/identity"
	"github.com/countersign/countersign/extproc/inspect/web"
	"github.com/countersign/countersign/extproc/redact"
)

// attempt is one HTTP request on its way to a ruling, the same for ext_proc and ext_authz.
type attempt struct {
	server   *Server
	state    *State
	resource *Resource
	started  time.Time
	call     call // how Envoy asks

	share share  // of the server's memory
	light int64  // what of it is not the body's
	sent  []byte // the body that ext_authz has sent along, until it is read or refused

	op        gate.Operation
	inspector *web.Inspector
	ruling    gate.Ruling
	plan      *redact.Plan // of an allowed operation; nil where nothing is redacted
	asked     web.Asked    // of one whose answer is redacted

	cookie  string   // the Cookie that the target gets, where the agent's was opened
	secrets []string // the values in it

	problem   gate.Problem // of a refusal
	challenge string       // WWW-Authenticate of a refusal
	refused   answer       // what the agent is told, once refused
	isRefused bool
}

// newAttempt begins the operation that Envoy asks about.
func (s *Server) newAttempt(st *State, c call, fields []web.Field) *attempt {
	now := s.opt.Now()
	a := &attempt{server: s, state: st, started: now, call: c}
	a.op.ID = gate.NewID(now)
	a.op.Protocol = "http"
	a.op.Context = contextOf(fields, c.peer, now)
	if r, ok := st.Resources[c.resource]; ok {
		a.resource = r
		a.op.Resource = r.Resource
	} else {
		a.op.Resource.Name = claimed(c.resource)
	}
	return a
}

// contextOf reads what may differ between two attempts at one operation.
func contextOf(fields []web.Field, peer string, now time.Time) gate.Context {
	c := gate.Context{Time: now, Peer: peer}
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
	if a.resource == nil {
		return a.refuse(ctx, gate.Refusal{Problem: gate.Denied, Detail: "This gateway has no resource for this request."})
	}
	a.inspector = web.New(a.resource.Web)
	if !a.identify(ctx, fields) {
		return false
	}
	err := a.inspector.Head(fields)
	a.describe()
	if most := a.resource.MaxHead; most > 0 && headBytes(fields) > most { // Envoy's own limit is that of the listener
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

// describe tells the operation what is known of the request by now, fit for a record.
func (a *attempt) describe() {
	seen := a.inspector.Seen()
	a.op.Verb = gate.Recorded(seen.Method, gate.MaxClaimed)
	a.op.Target = gate.Recorded(redact.MaskText(seen.Path), gate.MaxRecorded)
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
	if refusal == nil {
		p, err := a.state.Identity.Verify(ctx, token)
		if err == nil {
			a.op.Principal = p
			a.op.Context.Session = p.Verified.TokenID
			return true
		}
		if !errors.As(err, &refusal) {
			refusal = &identity.Refusal{Reason: identity.Unavailable, Detail: err.Error()}
		}
	}
	return a.refuseIdentity(ctx, fields, refusal)
}

// refuseIdentity records an identity.refused and refuses.
func (a *attempt) refuseIdentity(ctx context.Context, fields []web.Field, why *identity.Refusal) bool {
	var method, path string
	for _, f := range fields {
		switch f.Name {
		case ":method":
			method = f.Value
		case ":path":
			path, _, _ = strings.Cut(f.Value, "?")
		}
	}
	a.sent = nil // a stranger's, or one that nobody reads: it does not wait for the journal
	a.op.Verb, a.op.Target = claimed(method), claimed(redact.MaskText(path))
	body := gate.Object{
		{Name: "claimed_issuer", Value: claimed(why.Issuer)},
		{Name: "claimed_subject", Value: claimed(why.Subject)},
		{Name: "config_digest", Value: a.state.Gate.ConfigDigest},
		{Name: "detail", Value: gate.Recorded(why.Detail, 2*gate.MaxClaimed)}, // quotes what is claimed
		{Name: "peer", Value: claimed(a.op.Context.Peer)},
		{Name: "protocol", Value: a.op.Protocol},
		{Name: "reason", Value: why.Reason},
		{Name: "request_id", Value: a.op.Context.RequestID},
		{Name: "resource", Value: claimed(a.op.Resource.Name)},
		{Name: "target", Value: a.op.Target},
		{Name: "trace_id", Value: a.op.Context.TraceID()},
		{Name: "verb", Value: a.op.Verb},
	}
	refusal := gate.Refusal{Problem: gate.Unauthenticated, Detail: fmt.Sprintf("The credential was not accepted (%s): %s.", why.Reason, strings.TrimSuffix(why.Detail, "."))}
	if why.Reason == identity.Unavailable {
		refusal = gate.Refusal{Problem: gate.Unavailable, Detail: "The credential could not be verified, because its issuer's keys cannot be had at the moment. Nothing was done. Try again later."}
	}
	_, err := a.state.Gate.Recorder.Append(context.WithoutCancel(ctx), &gate.Record{Type: gate.IdentityRefused, Op: a.op.ID, Body: body})
	if err != nil {
		a.unrecorded(err)
		refusal = gate.Ruling{}.Refusal()
		refusal.Detail = "The gateway could not record this request, so it was refused. Nothing was done. Try again later."
	}
	a.challenge = why.Challenge()
	a.settle(refusal)
	return false
}

// claimed is what a stranger chose, as a record has it: what a refused request can add to the journal does not grow with it.
func claimed(s string) string { return gate.Recorded(s, gate.MaxClaimed) }

// decide asks the gate about the whole request. It returns the credential to forward with and true where the operation
// is allowed.
func (a *attempt) decide(ctx context.Context) (credential web.Field, allowed bool) {
	if !a.take(ctx, a.light+a.inspector.Weight()) {
		return credential, false
	}
	credential, ruled := a.rule(ctx)
	if !ruled {
		return credential, false
	}
	a.hold(ctx)
	return credential, a.released()
}

// rule asks the gate. It is false where the request is refused without it.
//
//go:noinline
func (a *attempt) rule(ctx context.Context) (credential web.Field, ruled bool) {
	request, err := a.inspector.Request()
	if err != nil {
		return credential, a.refuseError(ctx, err)
	}
	if request.HasField("access_token") {
		return credential, a.refuse(ctx, gate.Refusal{Problem: gate.Unreadable, Detail: "The request has an access token in its body beside the one in its header. Send one, as Authorization: Bearer."})
	}
	if err := a.openCookies(request); err != nil {
		return credential, a.refuseError(ctx, err)
	}
	a.op.Detail, a.op.Named, a.op.Fits = request, request.Approval, a.fits
	if a.resource.Credential != nil {
		if credential, err = a.resource.Credential.Field(); err != nil {
			a.server.opt.Log.Error("the target's credential cannot be read", "resource", a.resource.Name, "error", err)
			return credential, a.refuse(ctx, gate.Refusal{Problem: gate.Unavailable, Detail: "The gateway has no credential for this target at the moment, so the operation was refused. Nothing was done. Try again later."})
		}
	}
	a.ruling, err = a.state.Gate.Decide(ctx, &a.op)
	if err != nil {
		a.unrecorded(err)
	}
	a.server.decided(&a.op, a.ruling, a.started)
	return credential, true
}

// released makes ready what the ruling allows, and the refusal where it allows nothing.
//
//go:noinline
func (a *attempt) released() bool {
	if !a.ruling.Allowed() {
		a.settle(a.ruling.Refusal())
		return false
	}
	var err error
	a.plan, err = a.state.plan(a.ruling.Redactions())
	if err != nil {
		// The decision stands in the journal, and nothing of it is carried out.
		a.server.opt.Log.Error("a redaction cannot be applied", "resource", a.resource.Name, "error", err)
		a.settle(gate.Refusal{Problem: gate.Unavailable, Detail: "Policy asks for a redaction that this gateway cannot apply, so the operation was refused. Nothing was done."})
		return false
	}
	if a.plan != nil && !a.share.set(max(a.share.bytes, attemptBytes+answerBytes)) {
		a.settle(noMemory)
		return false
	}
	if r, ok := a.op.Detail.(*web.Request); ok && a.plan != nil {
		a.asked = web.NewAsked(strings.Clone(r.Authority), strings.Clone(r.Target))
	}
	return true
}

// fits is the gate's question before it allows an operation or asks people: can it be carried out as policy wants it?
func (a *attempt) fits(v gate.Verdict) error {
	if len(v.Redactions) == 0 {
		return nil
	}
	if !a.call.seesAnswers() {
		return &gate.Unfit{Problem: gate.Denied, Detail: "Policy redacts the answer to this operation, and answers of this resource do not pass through the gateway, so the operation was refused. Repeating it will not help."}
	}
	request, ok := a.op.Detail.(*web.Request)
	if !ok {
		return &gate.Unfit{Problem: gate.Denied, Detail: "Policy redacts the answer to this operation, which cannot be done, so it was refused."}
	}
	if name, found := request.Condition(); found {
		return &gate.Unfit{Problem: gate.Denied, Detail: fmt.Sprintf(
			"Policy redacts the answer to this operation, so whether the condition in the field %q holds must not show, and without it the request would be another. Nothing was done. Send the request without the condition.", name)}
	}
	return nil
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
	ruling, err := a.state.Gate.Refuse(ctx, &a.op, refusal)
	if err != nil {
		a.unrecorded(err)
	}
	a.ruling = ruling
	a.server.decided(&a.op, ruling, a.started)
	a.settle(ruling.Refusal())
	return false
}

func (a *attempt) unrecorded(err error) {
	a.server.opt.Log.Error("an operation was refused because it could not be recorded", "operation", a.op.ID, "error", err)
}

// settle fixes what the agent is told.
func (a *attempt) settle(refusal gate.Refusal) {
	a.isRefused = true
	a.problem = refusal.Problem
	a.refused = render(refusal, a.op.Context.RequestID, a.challenge)
}

// outcomeOfRefusal is how a refused attempt ended.
func (a *attempt) outcomeOfRefusal() gate.Outcome {
	o := gate.Outcome{Result: gate.Refused, Problem: a.problem, Status: a.refused.status, Duration: a.server.opt.Now().Sub(a.started)}
	if a.inspector != nil {
		o.BytesIn = a.inspector.Seen().BodyBytes
	}
	if a.op.Verb != "HEAD" {
		o.BytesOut = int64(len(a.refused.body))
		o.BodySHA256 = sum(a.refused.body)
	}
	return o
}
