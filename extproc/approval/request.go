package approval

import (
	"cmp"
	"slices"
	"strings"
	"time"

	"golang.org/x/net/idna"
	"golang.org/x/text/cases"
	"golang.org/x/text/unicode/norm"

	"github.com/countersign/countersign/extproc/gate"
)

// State is where a request stands. The zero value is no state, and nothing is spent in it.
type State string

// The states. Pending and Approved are live; the others are final.
const (
	Pending  State = "pending"
	Approved State = "approved"
	Rejected State = "rejected"
	Expired  State = "expired"
	Spent    State = "spent"
	Voided   State = "voided"
)

// Live reports whether a request in this state can still change.
func (s State) Live() bool { return s == Pending || s == Approved }

// Party is a [gate.Party] as it is stored.
type Party struct {
	Issuer  string `json:"issuer"`
	Subject string `json:"subject"`
}

// Named is a Party with the name that its token claims, to be shown. Anybody can claim any name, so Named values are never
// compared: compare Party.
type Named struct {
	Issuer  string `json:"issuer"`
	Name    string `json:"name,omitempty"`
	Subject string `json:"subject"`
}

// Named is p under a name; "" for none.
func (p Party) Named(name string) Named { return Named{p.Issuer, name, p.Subject} }

// Person is a [gate.Person] as it is stored.
type Person struct {
	Directory string `json:"directory"`
	ID        string `json:"id"`
	Shared    bool   `json:"shared"`
	Claim     string `json:"claim"`
}

// is says whether p and q are one human being. It compares claims in whatever way they are spelled, because two issuers may write
// one e-mail address differently, and a person must not approve their own operation by that.
func (p Person) is(q Person) identity {
	inOne := p.Directory != "" && p.Directory == q.Directory && p.ID != "" && q.ID != ""
	claims := p.Claim != "" && q.Claim != ""
	switch {
	case inOne && p.ID == q.ID, claims && spelled(p.Claim) == spelled(q.Claim):
		return one
	case p.Shared && q.Shared && claims, inOne && (!p.Shared || !q.Shared):
		return different
	default:
		return unclear
	}
}

// spelled returns the same text for all spellings of a claim: it folds letter case, composed and full-width letters, Punycode, and
// a dot at a domain's end.
func spelled(claim string) string {
	s := norm.NFKC.String(cases.Fold().String(norm.NFKC.String(claim)))
	at := strings.LastIndexByte(s, '@')
	if at < 0 {
		return s
	}
	domain := strings.TrimSuffix(s[at+1:], ".")
	if ascii, err := idna.Lookup.ToASCII(domain); err == nil {
		domain = ascii
	}
	return s[:at+1] + domain
}

// AskRule is a [gate.AskRule] as it is stored.
type AskRule struct {
	Package   string   `json:"package"`
	ID        string   `json:"id"`
	Reason    string   `json:"reason"`
	Approvers []string `json:"approvers"`
	Quorum    int      `json:"quorum"`
	Summary   string   `json:"summary,omitzero"`
}

// Bounds are [gate.Limits] as they are stored: what is approved is released with no more than these.
type Bounds struct {
	Rows     int64         `json:"rows,omitempty"`
	Bytes    int64         `json:"bytes,omitempty"`
	Time     time.Duration `json:"time,omitempty"`
	ReadOnly bool          `json:"read_only,omitempty"`
}

// Limits are those that r is approved with.
func (r *Request) Limits() gate.Limits {
	if r.Bounds == nil {
		return gate.Limits{}
	}
	return gate.Limits(*r.Bounds)
}

// Demand is what a resource asks of a decision beyond who makes it. The zero value asks nothing.
type Demand struct {
	ACR    []string      `json:"acr,omitempty"`     // authentication contexts that are accepted; any when empty
	MaxAge time.Duration `json:"max_age,omitempty"` // since the approver last authenticated; any when 0
}

// Approver is a person who decides, as their verified token says.
type Approver struct {
	Issuer   string    `json:"issuer"`
	Name     string    `json:"name,omitempty"` // that their token claims: see [Named]
	Subject  string    `json:"subject"`
	Groups   []string  `json:"groups"`
	ACR      string    `json:"acr"`
	AMR      []string  `json:"amr"`
	AuthTime time.Time `json:"auth_time"` // zero if the token has none
	Person   Person    `json:"person"`
}

// Decision is one person's answer.
type Decision struct {
	By      Approver      `json:"by"`
	Approve bool          `json:"approve"`
	Reason  string        `json:"reason"`
	Card    string        `json:"card"` // digest of the card that was decided on
	At      time.Time     `json:"at"`
	Think   time.Duration `json:"think"` // from when the card was shown; 0 if that is not known

	Nonce string `json:"nonce"` // of the call that made it: a call that the store's client repeats is recognised by it
}

// Spend says which operation spent a grant.
type Spend struct {
	Op    string    `json:"op"`
	At    time.Time `json:"at"`
	Nonce string    `json:"nonce"`

	Outcome *Outcome `json:"outcome,omitempty"` // nil until the operation has ended, and where nobody could say so
}

// Event is the record of a change. It is in the request's outbox until it is known to be in a journal.
type Event struct {
	Rev  uint64 `json:"rev"` // of the request, after the change
	Node string `json:"node"`
	Type string `json:"type"`
	Op   string `json:"op"`
	Body string `json:"body"` // canonical JSON
}

// Request is one question to people, and its answer.
type Request struct {
	ID  string `json:"id"`
	Rev uint64 `json:"rev"` // counts the changes; the first is 1. Set by the store.

	Digest       string   `json:"digest"`
	PolicyDigest string   `json:"policy_digest"` // of all policies that were active when this was asked
	RulesDigest  string   `json:"rules_digest"`  // of the policies that this depends on; empty in a request of an older version, which nobody can use
	Resource     string   `json:"resource"`
	Verb         string   `json:"verb"`
	Target       string   `json:"target"`
	Agent        Party    `json:"agent"`
	Actors       []Party  `json:"actors"`
	OnBehalfOf   *Party   `json:"on_behalf_of"`
	People       []Person `json:"people"` // whose operation it is; null in a request of an older version, which nobody can approve

	AgentName      string   `json:"agent_name,omitempty"` // what the token claims that they are called: see [Named]
	OnBehalfOfName string   `json:"on_behalf_of_name,omitempty"`
	ActorNames     []string `json:"actor_names,omitempty"` // of Actors, in their order

	Session string    `json:"session"`
	Op      string    `json:"op"`       // id of the attempt that opened it
	TraceID string    `json:"trace_id"` // of that attempt; empty if it has none, and in a request of an older version
	Asks    []AskRule `json:"asks"`
	Demand  Demand    `json:"demand"`
	Bounds  *Bounds   `json:"bounds,omitempty"` // policy's, as they are shown; nil for none

	Card       []byte `json:"-"` // canonical JSON, see [Card]; kept beside the rest and never changed
	CardDigest string `json:"card_digest"`

	Created  time.Time     `json:"created"`
	Expires  time.Time     `json:"expires"`   // of the question
	GrantTTL time.Duration `json:"grant_ttl"` // from the last approval

	State        State      `json:"state"`
	Decisions    []Decision `json:"decisions"`
	GrantExpires time.Time  `json:"grant_expires"` // zero until approved
	Spent        *Spend     `json:"spent"`
	Closed       time.Time  `json:"closed"` // zero while live
	Reason       string     `json:"reason"` // why it was rejected or voided
	Changed      time.Time  `json:"changed"`

	Waiting []Wait `json:"waiting,omitempty"` // agents, by gateway; see [Request.WaitingNow]

	Outbox []Event `json:"outbox"`
}

// Deadline is when the request expires; zero in a final state.
func (r *Request) Deadline() time.Time {
	switch r.State {
	case Pending:
		return r.Expires
	case Approved:
		return r.GrantExpires
	default:
		return time.Time{}
	}
}

// Due reports whether the deadline has passed.
func (r *Request) Due(now time.Time) bool { return r.State.Live() && !now.Before(r.Deadline()) }

// Clone returns a copy that shares only what never changes.
func (r *Request) Clone() Request {
	c := *r
	c.Decisions = slices.Clone(r.Decisions)
	c.Outbox = slices.Clone(r.Outbox)
	c.Waiting = slices.Clone(r.Waiting)
	if r.Spent != nil {
		spent := *r.Spent
		c.Spent = &spent
	}
	return c
}

// Names reports whether a names by ("subject:ID"), or a group of theirs.
func (a *AskRule) Names(by *Approver) bool {
	return slices.ContainsFunc(a.Approvers, func(name string) bool {
		if subject, person := gate.CutSubject(name); person {
			return subject != "" && subject == by.Subject
		}
		return name != "" && slices.Contains(by.Groups, name)
	})
}

// Approvals counts the people who approved r and whom a names. Somebody who could be a person that was counted already, or one whose
// operation it is, does not count.
func (r *Request) Approvals(a *AskRule) int {
	var counted []*Approver
	for i := range r.Decisions {
		by := &r.Decisions[i].By
		again := slices.ContainsFunc(counted, func(x *Approver) bool { return by.is(x) != different })
		if r.Decisions[i].Approve && a.Names(by) && r.whose(by) == different && !again {
			counted = append(counted, by)
		}
	}
	return len(counted)
}

func (b *Approver) party() Party { return Party{b.Issuer, b.Subject} }

// Named is who they are, and what they are claimed to be called.
func (b *Approver) Named() Named { return Named{b.Issuer, b.Name, b.Subject} }

// NamedAgent is who asks.
func (r *Request) NamedAgent() Named { return r.Agent.Named(r.AgentName) }

// NamedPerson is for whom; nil where nobody is named.
func (r *Request) NamedPerson() *Named {
	if r.OnBehalfOf == nil {
		return nil
	}
	person := r.OnBehalfOf.Named(r.OnBehalfOfName)
	return &person
}

// NamedActors are those through whom, in the order of Actors.
func (r *Request) NamedActors() []Named {
	list := make([]Named, len(r.Actors))
	for i, a := range r.Actors {
		if list[i] = a.Named(""); i < len(r.ActorNames) {
			list[i].Name = r.ActorNames[i]
		}
	}
	return list
}

// identity says whether two are one person. The zero value says that this cannot be told.
type identity int

const (
	unclear identity = iota
	different
	one
)

// is says whether b and x are one person.
func (b *Approver) is(x *Approver) identity {
	if b.party() == x.party() {
		return one
	}
	return b.Person.is(x.Person)
}

// whose says whether r is b's own operation.
func (r *Request) whose(b *Approver) identity {
	who := b.party()
	if who == r.Agent || slices.Contains(r.Actors, who) || r.OnBehalfOf != nil && who == *r.OnBehalfOf {
		return one
	}
	if r.People == nil || r.OnBehalfOf != nil && len(r.People) == 0 {
		return unclear
	}
	answer := different
	for _, p := range r.People {
		switch b.Person.is(p) {
		case one:
			return one
		case different:
		default:
			answer = unclear
		}
	}
	return answer
}

// quorum reports whether every rule has its approvals. Without a rule it is false.
func (r *Request) quorum() bool {
	for i := range r.Asks {
		if a := &r.Asks[i]; r.Approvals(a) < max(1, a.Quorum) {
			return false
		}
	}
	return len(r.Asks) > 0
}

// asksOf returns what a verdict asks, sorted, so that two equal verdicts compare equal.
func asksOf(v gate.Verdict) []AskRule {
	asks := make([]AskRule, 0, len(v.Asks))
	for _, a := range v.Asks {
		approvers := slices.Clone(a.Approvers)
		slices.Sort(approvers)
		asks = append(asks, AskRule{a.Package, a.ID, a.Reason, slices.Compact(approvers), max(1, a.Quorum), a.Summary})
	}
	slices.SortFunc(asks, compareAsks)
	return slices.CompactFunc(asks, func(a, b AskRule) bool { return compareAsks(a, b) == 0 })
}

func compareAsks(a, b AskRule) int {
	return cmp.Or(
		strings.Compare(a.Package, b.Package), strings.Compare(a.ID, b.ID), strings.Compare(a.Reason, b.Reason),
		strings.Compare(a.Summary, b.Summary),
		slices.Compare(a.Approvers, b.Approvers), a.Quorum-b.Quorum,
	)
}
