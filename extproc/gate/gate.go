// Package gate is the one door that every operation of every protocol goes through. [Gate.Decide] asks policy, writes
// the decision to the journal and only then answers; [Gate.Finish] writes how it ended. Nothing else in this program
// can make a [Ruling] that allows.
//
// The package knows no protocol, no policy language and no disk: it imports the standard library and nothing more, and a
// test holds that. What it needs of the rest it names itself: [Policy], [Recorder], [Detail].
//
// # Canonical input
//
// An operation has one canonical form, [Operation.Input]: RFC 8785 JSON of its principal, its resource and its detail.
// Policy judges it, an approver is shown it, and a keyed digest of it is what a record and an approval name. What
// changes between two attempts at the same operation is not in it: [Context], and of what the target gets
// [Detail.Volatile]. Policy sees both. We depart from RFC 8785 in one place, described at [AppendJSON].
//
// # What a record quotes
//
// Agents, strangers and targets choose much of what a record tells, and with it how fast the journal grows. So each text is
// bounded where the record is made ([Recorded]): 2 KiB of one who is known, 256 bytes of a stranger; a longer one is its
// beginning, its length and its SHA-256. The journal does it again for what was forgotten.
//
// # What a kind adds
//
// Records are the same for every kind of operation. What only one kind has to say stands in one member more, under the kind's
// name: of a decision what its detail says that is to be recorded ([Detail]), and of an end what whoever saw it gives
// ([Outcome]). A kind without such a thing has no such member.
//
// # Failing
//
// The zero value of every type here refuses. An error of any part refuses. A decision that could not be made durable
// refuses, also where policy allowed.
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
	// Evaluate returns what policy says of op. With an error the verdict is not to be used. It keeps nothing of op.
	Evaluate(ctx context.Context, op *Operation) (Verdict, error)
}

// Gate decides. Every field is required, unless it says otherwise.
type Gate struct {
	Policy       Policy
	Recorder     Recorder
	DigestKey    []byte // for Operation.Digest; at least 16 bytes
	ConfigDigest string
	Now          func() time.Time

	// Approvals is optional: without it nobody can be asked, and what wants a person is refused.
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
	decision.Redact = verdict.Redactions
	ruling, err := g.record(ctx, op.ID, decision, verdict, refusal)
	if recorded == nil {
		return ruling, err
	}
	// The request's record stands before the decision's, and both are durable by one sync. Where only the decision's could be
	// written, it says that people are asked, and the operation.finished says what the agent was told.
	if unmade := recorded(); unmade != nil {
		ruling.refusal = unrecorded
		err = errors.Join(err, fmt.Errorf("record the request for approval: %w", unmade))
	}
	return ruling, err
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
		return fmt.Errorf("finish: there is no recorded decision to finish")
	}
	o.Decided = r.receipt.Seq
	return g.Recorder.Post(ctx, &Record{Type: OperationFinished, Op: r.operation, Body: &o})
}

// Unknown records that nobody can say how an allowed operation ended.
func (g *Gate) Unknown(ctx context.Context, r Ruling, reason string) error {
	if r.operation == "" || r.receipt.Seq == 0 {
		return fmt.Errorf("record an unknown outcome: there is no recorded decision")
	}
	body := Object{{"decided", json.Number(strconv.FormatUint(r.receipt.Seq, 10))}, {"reason", reason}}
	return g.Recorder.Post(ctx, &Record{Type: OperationUnknown, Op: r.operation, Body: body})
}

func (g *Gate) evaluate(ctx context.Context, op *Operation, d *Decision) (Verdict, error) {
	if g.Policy == nil {
		return Verdict{}, fmt.Errorf("no policy is loaded")
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

func (g *Gate) record(ctx context.Context, id string, d *Decision, v Verdict, refusal Refusal) (Ruling, error) {
	refused := Ruling{operation: id, digest: d.Digest, effect: Deny, refusal: refusal}
	if g.Recorder == nil || id == "" {
		refused.refusal = unrecorded
		return refused, fmt.Errorf("record the decision: no journal or no operation id")
	}
	// The journal's answer is waited for even where the agent has left: only then is it known what the record says.
	receipt, err := g.Recorder.Append(context.WithoutCancel(ctx), &Record{Type: OperationDecided, Op: id, Body: d})
	if err != nil || receipt.Seq == 0 {
		refused.refusal = unrecorded
		return refused, fmt.Errorf("record the decision: %w", cmp.Or(err, errNoReceipt))
	}
	refused.receipt = receipt
	refused.verdict = v
	if v.Effect == Allow && refusal.Problem == "" { // or an Ask that people have granted: see Gate.ask
		refused.effect = Allow
	}
	return refused, nil
}

var (
	errNoReceipt = fmt.Errorf("the journal gave no receipt")
	unrecorded   = Refusal{
		Problem: Unavailable,
		Detail:  "The gateway could not record this operation, so it did not let it through. Nothing was done. Try again later; if it goes on, tell whoever runs the gateway.",
	}
)

// refusalFor is the table of section 1.2: only a clean Allow refuses nothing.
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

// sentence joins the rules' reasons to what they made: "Policy denies this operation: no bulk export."
func sentence(what string, rules []Rule) string {
	if why := reasons(rules); len(why) > 0 {
		return what + ": " + strings.TrimRight(strings.Join(why, "; "), ".") + "."
	}
	return what + "."
}

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
