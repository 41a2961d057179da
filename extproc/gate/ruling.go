package gate

// Problem is the kind of a refusal: a closed set, the same in every protocol.
type Problem string

// Type is the problem as the `type` of application/problem+json (RFC 9457).
func (p Problem) Type() string { return "urn:countersign:problem:" + string(p) }

const (
	Unauthenticated     Problem = "unauthenticated"      // no credential, or one that did not verify
	Denied              Problem = "denied"               // policy said no, or could not say yes
	ApprovalUnavailable Problem = "approval-unavailable" // a person must approve and there is nobody to ask
	ApprovalPending     Problem = "approval-pending"     // a person is being asked
	Unreadable          Problem = "unreadable"           // the request could not be read without doubt
	TooLarge            Problem = "too-large"            // the request is over a limit
	Withheld            Problem = "withheld"             // the answer may not be shown, or might hold what may not
	LimitReached        Problem = "limit-reached"        // policy's limit ended what was let through
	Unavailable         Problem = "unavailable"          // the gateway cannot do its work; nothing was let through
)

// Title is one line on the kind of refusal, the same for every refusal of that kind (RFC 9457, section 3.1.3).
func (p Problem) Title() string {
	switch p {
	case Unauthenticated:
		return "The credential is missing or was not accepted"
	case Denied:
		return "Policy does not allow this operation"
	case ApprovalUnavailable:
		return "This operation needs a person's approval, and approvals are not available here"
	case ApprovalPending:
		return "This operation waits for a person's approval"
	case Unreadable:
		return "The request could not be read without doubt"
	case TooLarge:
		return "The request is larger than this resource accepts"
	case Withheld:
		return "The answer was withheld"
	case LimitReached:
		return "The operation has reached a limit and was cancelled"
	case Unavailable:
		return "The gateway cannot decide at the moment; nothing was done"
	default:
		return "The operation was refused"
	}
}

// Refusal is what an agent is told. It names rules and reasons, and nothing else of the policy.
type Refusal struct {
	Problem Problem
	Detail  string   // a sentence that a developer or a language model can act on
	Rules   []string // the ids of the rules that refused

	Approval *Pending // the request that is open, if the problem is ApprovalPending; or one that is approved and not spent
}

// Ruling is a Gate's answer to one operation. Its zero value refuses, and only a Gate makes one that allows.
type Ruling struct {
	operation string
	digest    string // of the operation; empty if policy was not asked
	effect    Effect
	refusal   Refusal
	verdict   Verdict
	receipt   Receipt
	grant     string // id of the one that was spent; empty where none was
}

// Allowed reports whether the operation may go to its target. It is true only for a ruling made by [Gate.Decide] or [Gate.Prepare].
func (r *Ruling) Allowed() bool { return r.effect == Allow && r.operation != "" && r.receipt.Seq != 0 }

// Operation is the id of the operation that was ruled on.
func (r *Ruling) Operation() string { return r.operation }

// Redactions apply to the answer of an allowed operation.
func (r *Ruling) Redactions() []Redaction { return r.verdict.Redactions }

// Limits bound an allowed operation.
func (r *Ruling) Limits() Limits { return r.verdict.Limits }

// Verdict is what policy said.
func (r *Ruling) Verdict() Verdict { return r.verdict }

// Receipt is where the decision stands in the journal.
func (r *Ruling) Receipt() Receipt { return r.receipt }

// Refusal is what to tell the agent. It is empty if the ruling allows, and has a Problem otherwise.
func (r *Ruling) Refusal() Refusal {
	if r.Allowed() {
		return Refusal{}
	}
	if r.refusal.Problem == "" {
		return Refusal{Problem: Unavailable, Detail: "no decision was made"}
	}
	return r.refusal
}
