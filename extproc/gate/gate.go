// Package gate is the one door that every operation of every protocol goes through. [Gate.Decide] asks policy, writes
// the decision to the journal and only then answers; [Gate.Finish] writes how it ended. Nothing else in this program
// can make a [Ruling] that allows.
//
// The package knows no protocol, no policy language and no disk: it imports the standard library and nothing more, and a
// test holds that. Its own interfaces say what it needs of the rest: [Policy], [Recorder], [Approvals], [Detail].
//
// # Canonical input
//
// An operation has one canonical form, [Operation.Input]: RFC 8785 JSON of its principal, its resource and its detail.
// Policy judges it, an approver is shown it, and records and approvals name it by a keyed digest. What changes between two
// attempts at the same operation is not in it: [Context], and [Detail.Volatile], which the target gets too. Policy sees both. We
// depart from RFC 8785 in one place, described at [AppendJSON].
//
// # What a record quotes
//
// Agents, strangers and targets choose much of what a record says, and with it how fast the journal grows. So each text is
// bounded where the record is made ([Recorded]): 2 KiB from somebody known, 256 bytes from a stranger. The journal bounds each
// text again, in case one was forgotten.
//
// # What a kind adds
//
// Records have the same members for every kind of operation. A kind can add one member, under its own name: to a decision
// ([Detail.Recorded]) and to an outcome ([Outcome.Own]).
//
// # Failing
//
// The zero value of every type here refuses. An error of any part refuses. A decision that could not be made durable refuses,
// even if policy allowed.
package gate

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Policy rules on operations.
type Policy interface {
	// Evaluate returns what policy says of op. After an error the verdict is not used. It keeps nothing of op.
	Evaluate(ctx context.Context, op *Operation) (Verdict, error)
}

// Gate decides. Its fields are required unless they say otherwise.
type Gate struct {
	Policy       Policy
	Recorder     Recorder
	DigestKey    []byte // for Operation.Digest; at least 16 bytes
	ConfigDigest string
	Now          func() time.Time

	// Approvals is optional: without it nobody can be asked, and an operation that needs a person is refused.
	Approvals Approvals
}

// Decide rules on op. It returns an allowing Ruling only after policy allowed op and the decision is durable; on every
// other path the Ruling refuses and says why.
//
// An error means that the refusal itself could not be recorded; the Ruling refuses all the same.
func (g *Gate) Decide(ctx context.Context, op *Operation) (Ruling, error) {
	if op == nil {
		op = &Operation{}
	}
	decision := describe(op)
	decision.ConfigDigest = g.ConfigDigest

	verdict, err := g.evaluate(ctx, op, decision)
	if err != nil {
		verdict = verdict.denied()
	}
	refusal := refusalFor(verdict, err)
	var recorded func() error
	if verdict.Effect == Ask && g.Approvals != nil {
		verdict, refusal, recorded, err = g.ask(ctx, op, decision, verdict)
	}

	decision.Effect = verdict.Effect
	decision.PolicyDigest, decision.RulesDigest = verdict.PolicyDigest, verdict.RulesDigest
	decision.Problem = refusal.Problem
	decision.Rules = ids(verdict.Rules)
	decision.Reasons = reasons(verdict.Rules)
	if err != nil {
		decision.Reasons = []string{err.Error()}
	}
	decision.Redact, decision.Limit = verdict.Redactions, verdict.Limits
	ruling, err := g.record(ctx, op.ID, decision, verdict, refusal)
	if recorded == nil {
		return ruling, err
	}
	// The request's record precedes the decision's in the journal, and one sync makes both durable. If only the request's failed,
	// the decision's says that people are asked, and operation.finished says what the agent was told instead.
	if unmade := recorded(); unmade != nil {
		ruling.refusal = unrecorded
		err = errors.Join(err, fmt.Errorf("record the request for approval: %w", unmade))
	}
	return ruling, err
}

// Prepare rules on an operation that is made ready and does not run: its values are not known, and it comes to Decide, whole, before
// it runs. So nobody is asked and nothing is spent: what people would be asked about may be made ready. undetermined says that the
// rules look at what is not known yet: then what no rule speaks of may be made ready too. What a rule denies may not.
func (g *Gate) Prepare(ctx context.Context, op *Operation, undetermined bool) (Ruling, error) {
	if op == nil {
		op = &Operation{}
	}
	decision := describe(op)
	decision.ConfigDigest = g.ConfigDigest
	verdict, err := g.evaluate(ctx, op, decision)
	if err != nil {
		verdict = verdict.denied()
	}
	refusal := refusalFor(verdict, err)
	if err == nil && (verdict.Effect == Ask || verdict.Effect == Deny && len(verdict.Rules) == 0 && undetermined) {
		verdict.Effect, verdict.Asks, refusal = Allow, nil, Refusal{}
	}
	decision.Effect = verdict.Effect
	decision.PolicyDigest, decision.RulesDigest = verdict.PolicyDigest, verdict.RulesDigest
	decision.Problem = refusal.Problem
	decision.Rules = ids(verdict.Rules)
	decision.Reasons = reasons(verdict.Rules)
	if err != nil {
		decision.Reasons = []string{err.Error()}
	}
	decision.Redact, decision.Limit = verdict.Redactions, verdict.Limits
	return g.record(ctx, op.ID, decision, verdict, refusal)
}

// Refuse records that op was refused before policy could be asked: it could not be read, it was too large, the gateway
// is stopping. What is known of op by then is recorded. The Ruling always refuses.
func (g *Gate) Refuse(ctx context.Context, op *Operation, refusal Refusal) (Ruling, error) {
	if op == nil {
		op = &Operation{}
	}
	if refusal.Problem == "" {
		refusal.Problem = Unavailable
	}
	decision := describe(op)
	decision.ConfigDigest = g.ConfigDigest
	decision.Problem = refusal.Problem
	decision.Rules = refusal.Rules
	decision.Reasons = []string{refusal.Detail}
	if refusal.Approval != nil {
		decision.Approval = refusal.Approval.ID
	}
	return g.record(ctx, op.ID, decision, Verdict{}, refusal)
}

// Finish records how an operation that was ruled on has ended. It does not wait for the disk: a crash before the record
// is durable leaves a decision without an outcome, which the next start turns into an operation.unknown.
func (g *Gate) Finish(ctx context.Context, r Ruling, o Outcome) error {
	if r.operation == "" || r.receipt.Seq == 0 {
		return errors.New("finish: there is no recorded decision to finish")
	}
	o.Decided = r.receipt.Seq
	return g.ended(r, &o, g.Recorder.Post(ctx, &Record{Type: OperationFinished, Op: r.operation, Body: &o}))
}

// ended tells those who approved r how it ended, unless that could not be recorded.
func (g *Gate) ended(r Ruling, o *Outcome, err error) error {
	if err == nil && r.grant != "" && g.Approvals != nil {
		g.Approvals.Ended(r.grant, r.operation, o)
	}
	return err
}

// Unknown records that nobody can say how an allowed operation ended.
func (g *Gate) Unknown(ctx context.Context, r Ruling, reason string) error {
	if r.operation == "" || r.receipt.Seq == 0 {
		return errors.New("record an unknown outcome: there is no recorded decision")
	}
	body := Object{{"decided", json.Number(strconv.FormatUint(r.receipt.Seq, 10))}, {"reason", reason}}
	return g.ended(r, &Outcome{Result: Unknown, Reason: reason}, g.Recorder.Post(ctx, &Record{Type: OperationUnknown, Op: r.operation, Body: body}))
}

// evaluate sets d.Digest and asks policy.
func (g *Gate) evaluate(ctx context.Context, op *Operation, d *Decision) (Verdict, error) {
	if g.Policy == nil {
		return Verdict{}, errors.New("no policy is loaded")
	}
	digest, err := op.Digest(g.DigestKey)
	if err != nil {
		return Verdict{}, err
	}
	d.Digest = digest
	verdict, err := g.Policy.Evaluate(ctx, op)
	if err == nil && verdict.Effect != Deny && verdict.Effect != Ask && verdict.Effect != Allow {
		err = fmt.Errorf("policy gave an effect that is not known: %v", verdict.Effect)
	}
	if err == nil && verdict.Effect != Deny && op.Fits != nil {
		err = op.Fits(verdict)
	}
	return verdict, err
}

// record makes the decision durable, and only then the ruling that follows from it.
func (g *Gate) record(ctx context.Context, id string, d *Decision, v Verdict, refusal Refusal) (Ruling, error) {
	ruling := Ruling{operation: id, digest: d.Digest, effect: Deny, refusal: refusal}
	if g.Recorder == nil || id == "" {
		ruling.refusal = unrecorded
		return ruling, errors.New("record the decision: no journal or no operation id")
	}
	// Wait for the journal even if the agent has left: without its answer nobody knows whether the record stands.
	receipt, err := g.Recorder.Append(context.WithoutCancel(ctx), &Record{Type: OperationDecided, Op: id, Body: d})
	if err != nil || receipt.Seq == 0 {
		ruling.refusal = unrecorded
		return ruling, fmt.Errorf("record the decision: %w", cmp.Or(err, errNoReceipt))
	}
	ruling.receipt = receipt
	ruling.verdict = v
	if v.Effect == Allow && refusal.Problem == "" {
		ruling.effect, ruling.grant = Allow, d.Approval
	}
	return ruling, nil
}

var (
	errNoReceipt = errors.New("the journal gave no receipt")
	unrecorded   = Refusal{
		Problem: Unavailable,
		Detail:  "The gateway could not record this operation, so it did not let it through. Nothing was done. Try again later; if it goes on, tell whoever runs the gateway.",
	}
)

// refusalFor returns what the agent is told of a verdict. Only an Allow without an error gives none.
func refusalFor(v Verdict, err error) Refusal {
	if unfit, ok := errors.AsType[*Unfit](err); ok {
		return Refusal(*unfit)
	}
	if err != nil {
		return Refusal{Problem: Denied, Detail: "Policy could not be evaluated for this operation, so it was refused. Repeating it will not help; whoever runs the gateway finds the reason in its records."}
	}
	switch v.Effect {
	case Allow:
		return Refusal{}
	case Ask:
		return Refusal{Problem: ApprovalUnavailable, Rules: ids(v.Rules), Detail: sentence("This operation needs a person's approval", v.Rules) + " Approvals are not available on this gateway, so it was refused."}
	case Deny:
		if len(v.Rules) == 0 {
			return Refusal{Problem: Denied, Detail: "No rule allows this operation. Repeating it will not help; ask for a rule that allows it, or do something that is allowed."}
		}
		return Refusal{Problem: Denied, Rules: ids(v.Rules), Detail: sentence("Policy denies this operation", v.Rules) + " Repeating it will not help."}
	default:
		return Refusal{Problem: Denied, Detail: fmt.Sprintf("Policy gave an answer that this gateway does not know (%v), so the operation was refused.", v.Effect)}
	}
}

// sentence adds the rules' reasons to what: "Policy denies this operation: no bulk export."
func sentence(what string, rules []Rule) string {
	if why := reasons(rules); len(why) > 0 {
		return what + ": " + strings.TrimRight(strings.Join(why, "; "), ".") + "."
	}
	return what + "."
}

// describe fills in of a decision what is known of op without policy.
func describe(op *Operation) *Decision {
	var held time.Duration
	if !op.Context.Held.IsZero() {
		held = op.Context.Time.Sub(op.Context.Held)
	}
	var own Member
	if op.Detail != nil {
		if o := op.Detail.Recorded(); len(o) > 0 {
			own = Member{op.Detail.Key(), o}
		}
	}
	return &Decision{
		Own:       own,
		Held:      held,
		Principal: op.Principal,
		Resource:  op.Resource.Name,
		Protocol:  op.Protocol,
		Verb:      op.Verb,
		Target:    op.Target,
		Context:   op.Context,
	}
}

func ids(rules []Rule) []string {
	list := make([]string, 0, len(rules))
	for _, r := range rules {
		if !slices.Contains(list, r.ID) {
			list = append(list, r.ID)
		}
	}
	return list
}

func reasons(rules []Rule) []string {
	list := make([]string, 0, len(rules))
	for _, r := range rules {
		if r.Reason != "" && !slices.Contains(list, r.Reason) {
			list = append(list, r.Reason)
		}
	}
	return list
}

// NewID makes an operation id: a UUID version 7 (RFC 9562), so that ids sort by when they were made.
func NewID(now time.Time) string {
	var u [16]byte
	rand.Read(u[:]) // never fails: crypto/rand ends the program instead
	binary.BigEndian.PutUint64(u[:8], uint64(now.UnixMilli())<<16|uint64(u[6])<<8|uint64(u[7]))
	u[6] = u[6]&0x0F | 0x70
	u[8] = u[8]&0x3F | 0x80
	var text [36]byte
	hex.Encode(text[:8], u[:4])
	hex.Encode(text[9:13], u[4:6])
	hex.Encode(text[14:18], u[6:8])
	hex.Encode(text[19:23], u[8:10])
	hex.Encode(text[24:], u[10:])
	text[8], text[13], text[18], text[23] = '-', '-', '-', '-'
	return string(text[:])
}
