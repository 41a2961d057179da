package lane

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/countersign/countersign/extproc/gate"
	"github.com/countersign/countersign/extproc/guard"
	"github.com/countersign/countersign/extproc/identity"
)

// Attempt is one operation on its way to a ruling, and from there to its end. It is for one goroutine at a time.
type Attempt struct {
	Op       gate.Operation
	State    *State
	Resource *Resource // nil where the state has none of that name
	Ruling   gate.Ruling
	Started  time.Time
	Share    Share // of the memory

	// Connection is the one of Envoy's by which the operation came; nil where that is not watched. AnswersSeen says that the
	// answer comes by here, so that its end is seen here and Envoy's access log only tells why.
	Connection  *Connection
	AnswersSeen bool

	lane      *Lane
	since     time.Time     // when the session began that this is an operation of; Started where it is of none
	approved  *gate.Pending // what people said during a hold; nil where the gate has ruled since
	refused   bool
	refusal   gate.Refusal
	challenge string
}

// Attempt begins an operation of a resource. c has what may differ between two attempts at the same operation.
func (l *Lane) Attempt(st *State, protocol, resource string, c gate.Context) *Attempt {
	now := l.Now()
	c.Time = now
	a := &Attempt{lane: l, State: st, Started: now}
	a.Op.ID = gate.NewID(now)
	a.Op.Protocol = protocol
	a.Op.Context = c
	if r, ok := st.Resources[resource]; ok {
		a.Resource = r
		a.Op.Resource = r.Resource
	} else {
		a.Op.Resource.Name = bounded(resource)
	}
	return a
}

// Follow makes a an operation of the session that first began: who acts is known by first's credential. The session is accepted for as
// long as first was, so that a leeway between two clocks is not given anew to each operation.
func (a *Attempt) Follow(first *Attempt) {
	a.Op.Principal, a.Op.Context.Session, a.since = first.Op.Principal, first.Op.Context.Session, first.Started
}

// bounded is what a stranger chose, as a record has it: what a refused request can add to the journal does not grow with it.
func bounded(s string) string { return gate.Recorded(s, gate.MaxClaimed) }

// Identify verifies the agent's token. fault is what is wrong with how the token was sent; nil where nothing is. claimed says
// what a stranger wants to do; it is asked only where the agent is refused.
func (a *Attempt) Identify(ctx context.Context, token string, fault *identity.Refusal, claimed func() (verb, target string)) bool {
	return a.identify(ctx, fault, claimed, func() (*gate.Principal, error) { return a.State.Identity.Verify(ctx, token) })
}

// IdentifyCertificate is Identify by the certificate that the agent has shown.
func (a *Attempt) IdentifyCertificate(ctx context.Context, leaf *x509.Certificate, fault *identity.Refusal, claimed func() (verb, target string)) bool {
	return a.identify(ctx, fault, claimed, func() (*gate.Principal, error) { return a.State.Identity.VerifyCertificate(leaf) })
}

func (a *Attempt) identify(ctx context.Context, fault *identity.Refusal, claimed func() (verb, target string), verify func() (*gate.Principal, error)) bool {
	if fault == nil {
		p, err := verify()
		if err == nil {
			a.Op.Principal = p
			a.Op.Context.Session = p.Verified.TokenID
			return true
		}
		if !errors.As(err, &fault) {
			fault = &identity.Refusal{Reason: identity.Unavailable, Detail: err.Error()}
		}
	}
	verb, target := claimed()
	a.Op.Verb, a.Op.Target = bounded(verb), bounded(target)
	return a.refuseIdentity(ctx, fault)
}

// refuseIdentity records an identity.refused and refuses. It always returns false.
func (a *Attempt) refuseIdentity(ctx context.Context, why *identity.Refusal) bool {
	body := gate.Object{
		{Name: "claimed_issuer", Value: bounded(why.Issuer)},
		{Name: "claimed_subject", Value: bounded(why.Subject)},
		{Name: "config_digest", Value: a.State.Gate.ConfigDigest},
		{Name: "detail", Value: gate.Recorded(why.Detail, 2*gate.MaxClaimed)}, // quotes what is claimed
		{Name: "peer", Value: bounded(a.Op.Context.Peer)},
		{Name: "protocol", Value: a.Op.Protocol},
		{Name: "reason", Value: why.Reason},
		{Name: "request_id", Value: a.Op.Context.RequestID},
		{Name: "resource", Value: bounded(a.Op.Resource.Name)},
		{Name: "target", Value: a.Op.Target},
		{Name: "trace_id", Value: a.Op.Context.TraceID()},
		{Name: "verb", Value: a.Op.Verb},
	}
	refusal := gate.Refusal{Problem: gate.Unauthenticated, Detail: fmt.Sprintf("The credential was not accepted (%s): %s.", why.Reason, strings.TrimSuffix(why.Detail, "."))}
	if why.Reason == identity.Unavailable {
		refusal = gate.Refusal{Problem: gate.Unavailable, Detail: "The credential could not be verified, because its issuer's keys cannot be had at the moment. Nothing was done. Try again later."}
	}
	_, err := a.State.Gate.Recorder.Append(context.WithoutCancel(ctx), &gate.Record{Type: gate.IdentityRefused, Op: a.Op.ID, Body: body})
	if err != nil {
		a.unrecorded(err)
		refusal = new(gate.Ruling).Refusal()
		refusal.Detail = "The gateway could not record this request, so it was refused. Nothing was done. Try again later."
	}
	a.challenge = why.Challenge()
	a.Tell(refusal)
	return false
}

// Decide asks the gate about the operation and, where people are asked, holds it. It returns true where the operation is
// allowed.
func (a *Attempt) Decide(ctx context.Context, h Holder) bool {
	if a.Resource.EndWithToken { // the request can have taken longer to come than its token lived
		if why := a.tokenOver(); why != nil {
			return a.refuseToken(ctx, why)
		}
	}
	a.rule(ctx)
	a.hold(ctx, h)
	return a.allowed()
}

// Prepare is Decide for what is only made ready, see [gate.Gate.Prepare]. Nobody is asked, and nothing is held.
func (a *Attempt) Prepare(ctx context.Context, undetermined bool) bool {
	if a.Resource.EndWithToken {
		if why := a.tokenOver(); why != nil {
			return a.refuseToken(ctx, why)
		}
	}
	var err error
	if a.Ruling, err = a.State.Gate.Prepare(ctx, &a.Op, undetermined); err != nil {
		a.unrecorded(err)
	}
	a.decided()
	return a.allowed()
}

// allowed tells the refusal where the operation is not.
func (a *Attempt) allowed() bool {
	if a.Ruling.Allowed() {
		return true
	}
	refusal := a.Ruling.Refusal()
	refusal.Detail += a.pendingNote()
	a.Tell(refusal)
	return false
}

// rule asks the gate.
func (a *Attempt) rule(ctx context.Context) {
	var err error
	if a.Ruling, err = a.State.Gate.Decide(ctx, &a.Op); err != nil {
		a.unrecorded(err)
	}
	a.decided()
}

// Refuse records a refusal that policy was not asked about. It always returns false.
func (a *Attempt) Refuse(ctx context.Context, refusal gate.Refusal) bool {
	ruling, err := a.State.Gate.Refuse(ctx, &a.Op, a.answered(refusal))
	if err != nil {
		a.unrecorded(err)
	}
	a.Ruling = ruling
	a.decided()
	a.Tell(ruling.Refusal())
	return false
}

// Tell fixes what the agent is told in the place of an answer.
func (a *Attempt) Tell(refusal gate.Refusal) { a.refused, a.refusal = true, refusal }

// Refused reports whether the agent is told no.
func (a *Attempt) Refused() bool { return a.refused }

// Refusal is what the agent is told, once it is refused.
func (a *Attempt) Refusal() gate.Refusal { return a.refusal }

// Challenge says how to prove who one is, where the refusal is for want of that: a WWW-Authenticate (RFC 9110, section 11.6.1).
func (a *Attempt) Challenge() string { return a.challenge }

// Failed refuses an operation in which the gateway failed. passed says that it may be with the target already.
func (a *Attempt) Failed(passed bool) {
	refusal := gate.Refusal{Problem: gate.Unavailable, Detail: "A part of the gateway failed while it looked at this request, so it was refused. Nothing was done. Try again later; if it goes on, tell whoever runs the gateway."}
	switch {
	case passed:
		refusal = gate.Refusal{Problem: gate.Withheld, Detail: "A part of the gateway failed, so the target's answer is withheld. The operation itself may have been carried out."}
	case a.Ruling.Receipt().Seq == 0 && !a.refused: // nothing is on record
		ruling, err := a.State.Gate.Refuse(context.Background(), &a.Op, refusal)
		if err != nil {
			a.unrecorded(err)
		}
		a.Ruling = ruling
	}
	a.Tell(refusal)
}

// Again makes the operation anew, without what was derived from it.
func (a *Attempt) Again() {
	a.Op = gate.Operation{
		ID: a.Op.ID, Principal: a.Op.Principal, Resource: a.Op.Resource, Protocol: a.Op.Protocol, Verb: a.Op.Verb,
		Target: a.Op.Target, Detail: a.Op.Detail, Context: a.Op.Context, Named: a.Op.Named, Fits: a.Op.Fits,
	}
}

// Finish records how the operation ended, and counts it.
func (a *Attempt) Finish(o gate.Outcome) {
	defer a.count(o.Result, o.Duration)
	if a.Ruling.Receipt().Seq == 0 {
		return // the decision was not recorded, and the operation was refused for it
	}
	if err := a.State.Gate.Finish(context.Background(), a.Ruling, o); err != nil {
		a.lane.Log.Error("the outcome of an operation could not be recorded", "operation", a.Op.ID, "error", err)
	}
}

// unknown records that nobody can say how the operation ended.
func (a *Attempt) unknown(reason string) {
	if err := a.State.Gate.Unknown(context.Background(), a.Ruling, reason); err != nil {
		a.lane.Log.Error("an unknown outcome could not be recorded", "operation", a.Op.ID, "error", err)
	}
}

func (a *Attempt) unrecorded(err error) {
	a.lane.Log.Error("an operation was refused because it could not be recorded", "operation", a.Op.ID, "error", err)
}

func (a *Attempt) decided() {
	if f := a.lane.Observer.Decided; f != nil {
		f(&a.Op, a.Ruling, a.lane.Now().Sub(a.Started))
	}
}

// count is for metrics, and undoes nothing of what has happened.
func (a *Attempt) count(result gate.Result, took time.Duration) {
	if f := a.lane.Observer.Finished; f != nil {
		defer guard.Catch("the counting of operations", nil)
		f(a.Op.Resource.Name, result, took)
	}
}
