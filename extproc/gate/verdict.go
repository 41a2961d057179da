package gate

import (
	"fmt"
	"slices"
	"strings"
)

// Effect is what policy says of an operation. The zero value refuses.
type Effect int

const (
	Deny Effect = iota
	Ask
	Allow
)

func (e Effect) String() string {
	switch e {
	case Deny:
		return "deny"
	case Ask:
		return "ask"
	case Allow:
		return "allow"
	default:
		return fmt.Sprintf("effect(%d)", int(e))
	}
}

// Rule is one element of a policy's allow, ask or deny set.
type Rule struct {
	Package string // "payments" or "global"
	ID      string
	Reason  string // for people and agents; may be empty
}

// AskRule is a rule that wants people to approve.
type AskRule struct {
	Rule
	Approvers []string // names of groups of the people's issuer, or "subject:ID" for one person; see [CutSubject]
	Quorum    int      // distinct approvers needed; at least 1

	// Summary is what will run, in the policy's own words, for those who approve; empty where policy says nothing. It can have
	// values of the operation in it. The agent is not told.
	Summary string
}

// Equal reports whether two rules ask for the same in the same words.
func (a *AskRule) Equal(b *AskRule) bool {
	return a.Rule == b.Rule && a.Summary == b.Summary && a.Quorum == b.Quorum && slices.Equal(a.Approvers, b.Approvers)
}

// CutSubject returns the ID of an approver "subject:ID". Every other approver is a group: the prefix keeps a person from passing
// for a group whose name is their subject. A group whose own name begins with "subject:" cannot be named.
func CutSubject(approver string) (subject string, ok bool) {
	return strings.CutPrefix(approver, "subject:")
}

// CheckApprover says of a name that looks like a person's ("subject:ID"), and is not one, what it is.
func CheckApprover(name string) error {
	before, _, colon := strings.Cut(name, ":")
	subject, person := CutSubject(name)
	switch {
	case person && (subject == "" || subject != strings.TrimSpace(subject)):
		return fmt.Errorf("%.64q, which names nobody: a person is subject:ID, with the ID as the people's issuer writes it", name)
	case !person && colon && strings.EqualFold(strings.TrimSpace(before), "subject"):
		return fmt.Errorf("%.64q, which is the name of a group: a person is subject:ID, without spaces and in lower case", name)
	}
	return nil
}

// Replacement is what stands in the place of a value that was redacted.
type Replacement string

const (
	Mask   Replacement = "mask"   // the string "[redacted]"
	Remove Replacement = "remove" // the member or element goes
	Null   Replacement = "null"   // null
	Token  Replacement = "token"  // a keyed, stable token: equal values stay comparable
)

// Redaction is one element of a policy's redact set: one of Path, Detect and Column is set.
type Redaction struct {
	Path   string // a path of the subset of RFC 9535 that package redact describes
	Detect string // the name of a detector of package redact
	Column string // "SCHEMA.TABLE.COLUMN" of a database, with "*" for any table or any column
	With   Replacement

	// Use lets the values of Column be used otherwise than as a plain column of an answer: in conditions, joins, expressions.
	Use bool

	// OnCard shows the value to those who approve the operation, because they cannot decide without it. Answers are still redacted.
	OnCard bool
}

// Selector says how a redaction finds its values. It is the member's name in policies and records.
type Selector string

const (
	ByPath   Selector = "path"
	ByDetect Selector = "detect"
	ByColumn Selector = "column"
)

// Selector says whether r has a Path, a Column or a Detect.
func (r Redaction) Selector() Selector {
	switch {
	case r.Path != "":
		return ByPath
	case r.Column != "":
		return ByColumn
	default:
		return ByDetect
	}
}

// Name is the redaction's path, column or detector. Records count redactions by it.
func (r Redaction) Name() string {
	switch r.Selector() {
	case ByPath:
		return r.Path
	case ByColumn:
		return r.Column
	default:
		return r.Detect
	}
}

// Verdict is what policy says of one operation. The zero value denies.
type Verdict struct {
	Effect Effect

	// Rules are those that made the effect: deny rules if it denies, ask rules if it asks, allow rules if it allows. A denial by
	// default has none.
	Rules []Rule

	// Asks are the approvals that an Ask wants; every one must be met.
	Asks []AskRule

	// Redactions apply to the answer, if the operation is let through.
	Redactions []Redaction

	// Limits bound the operation, if it is let through.
	Limits Limits

	// PolicyDigest is the SHA-256, in hex, of all policies that are active.
	PolicyDigest string

	// RulesDigest is the SHA-256 of those policies that this verdict can depend on. An approval is bound to it.
	RulesDigest string
}

// denied returns a denial by the same policies, with nothing else of v.
func (v *Verdict) denied() Verdict {
	return Verdict{PolicyDigest: v.PolicyDigest, RulesDigest: v.RulesDigest}
}
