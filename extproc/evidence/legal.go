package evidence

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/countersign/countersign/extproc/gate"
)

// The types of record that package approval writes. It is not imported here; the tests of the whole program check that the two
// agree.
const (
	approvalRequested = "approval.requested"
	approvalDecided   = "approval.decided"
	approvalSpent     = "approval.spent"
	approvalExpired   = "approval.expired"
	approvalVoided    = "approval.voided"
)

// state is the state of an operation, a request for approval or the gateway, by what was recorded. Its text completes
// "the operation …" and "the request …".
type state string

const (
	opUnknown state = "was not decided" // or so long ago that it is forgotten
	opAsked   state = "was asked about"
	opDenied  state = "was denied"
	opAllowed state = "was allowed"
	opEnded   state = "has ended"

	reqUnknown  state = "was never made"
	reqPending  state = "waits for people"
	reqApproved state = "is approved"
	reqRejected state = "was rejected"
	reqExpired  state = "has expired"
	reqVoided   state = "was voided"
	reqSpent    state = "is spent"
	reqUsed     state = "has been used"
	reqWasted   state = "was spent for nothing"

	running state = "runs"
	stopped state = "has stopped"
)

// step is what a record does.
type step string

const (
	deny          step = "a decision that denies"
	ask           step = "a decision that asks"
	allow         step = "a decision that allows"
	noCredential  step = "a refused identity"
	endWithout    step = "an end without the target"
	endWith       step = "an end with the target"
	endUnknown    step = "an unknown end"
	request       step = "a request"
	approve       step = "an approval"
	approveLast   step = "the last approval"
	reject        step = "a rejection"
	expire        step = "an expiry"
	void          step = "a voiding"
	voidForgotten step = "a voiding of what the store had forgotten"
	spend         step = "a spend"
	use           step = "a decision that allows by it"
	begin         step = "a start"
	stop          step = "a stop"
	work          step = "work"
)

// legal says which step may follow which state, and to what state it leads. Anything else is a finding.
var legal = map[state]map[step]state{
	opUnknown: {deny: opDenied, ask: opAsked, allow: opAllowed, noCredential: opEnded},
	opAsked:   {deny: opDenied, ask: opAsked, allow: opAllowed, endWithout: opEnded}, // after a hold it is decided again
	opDenied:  {endWithout: opEnded},
	opAllowed: {endWithout: opEnded, endWith: opEnded, endUnknown: opEnded},
	opEnded:   {},

	// A restored store can have any request in an earlier state; that request is then voided.
	reqUnknown:  {request: reqPending},
	reqPending:  {approve: reqPending, approveLast: reqApproved, reject: reqRejected, expire: reqExpired, void: reqVoided, voidForgotten: reqVoided},
	reqApproved: {spend: reqSpent, expire: reqExpired, void: reqVoided, voidForgotten: reqVoided},
	reqSpent:    {use: reqUsed, voidForgotten: reqVoided},
	reqUsed:     {voidForgotten: reqVoided},
	reqWasted:   {voidForgotten: reqVoided},
	reqRejected: {voidForgotten: reqVoided},
	reqExpired:  {voidForgotten: reqVoided},
	reqVoided:   {voidForgotten: reqVoided},

	running: {begin: running, stop: stopped, work: running}, // begin: after a crash
	stopped: {begin: running, stop: stopped},                // stop: of a start that failed
}

// follow returns the state after what; ok is false if that is not legal.
func follow(from state, what step) (to state, ok bool) {
	to, ok = legal[from][what]
	return to, ok
}

// Bounds of what is remembered, so that the memory of a verification does not grow with the journal. Ended operations are
// remembered for Envoy's access log, which comes seconds later; ended requests, because a start records once more what it does not
// know to be recorded.
const (
	maxEnded    = 1 << 20
	maxRequests = 1 << 15
)

// recordedOp is an operation, as far as it is recorded.
type recordedOp struct {
	state     state
	decided   uint64   // seq of the last decision
	last      decision // until it has ended
	allowed   bool     // at any time
	redacts   bool     // its answer is to be redacted
	transited bool
}

// recordedRequest is a request for approval, as far as it is recorded.
type recordedRequest struct {
	id        string
	state     state
	about     subject
	quorum    int
	own       []string // who must not approve: the agent, and the person that it acts for
	approvers []string
	events    map[string]string // event -> what it said
	spend     spending
}

// subject is what a request is about. Each of its records says that, and all must agree: what was asked about is what was approved,
// spent and used. policy is the rules' digest, or in a journal of an older version, which has none, the digest of all policies.
type subject struct{ digest, resource, agent, policy, card string }

func (b *approvalBody) subject() subject {
	return subject{b.Digest, b.Resource, b.Agent.key(), cmp.Or(b.RulesDigest, b.PolicyDigest), b.CardDigest}
}

// differs says how x differs from s; "" if it does not.
func (s subject) differs(x subject) string {
	switch {
	case s.digest != x.digest:
		return "another operation (digest)"
	case s.resource != x.resource:
		return "another resource"
	case s.agent != x.agent:
		return "another agent"
	case s.policy != x.policy:
		return "another policy"
	case s.card != x.card:
		return "another card"
	}
	return ""
}

// decision is what verifying reads of an operation.decided record.
type decision struct {
	Approval     string `json:"approval"`
	ConfigDigest string `json:"config_digest"`
	Digest       string `json:"digest"`
	Effect       string `json:"effect"`
	PolicyDigest string `json:"policy_digest"`
	RulesDigest  string `json:"rules_digest"`
	Principal    *party `json:"principal"`
	Resource     string `json:"resource"`
}

func (d *decision) step() step {
	switch d.Effect {
	case "allow":
		return allow
	case "ask":
		return ask
	default:
		return deny
	}
}

// same reports whether d, a second decision, is about the operation of the first, before. Their digests may differ if the
// configuration has changed, because that says what goes into a digest.
func (d *decision) same(before *decision) bool {
	var who, was party
	if d.Principal != nil && before.Principal != nil {
		who, was = *d.Principal, *before.Principal
	}
	return (d.Digest == before.Digest || d.ConfigDigest != before.ConfigDigest) && d.Resource == before.Resource && who == was
}

// spending is a grant on its way from its approval.spent to the decision that uses it.
type spending struct {
	seq   uint64
	op    string
	time  time.Time
	until time.Time // zero if it is not known
	ours  bool      // it was spent in this run of this gateway, so the decision must follow
	why   string    // what can explain that no decision came
}

// grantSlack is how long after a grant's end the decision that uses it may be recorded: the store has another clock, and the disk
// takes its time.
const grantSlack = 5 * time.Minute

// useWithin is the longest time from a spend to its decision. A few milliseconds are usual.
const useWithin = time.Minute

// approvalBody is what verifying reads of an approval.* record.
type approvalBody struct {
	Approval     string `json:"approval"`
	Event        string `json:"event"`
	Gateway      string `json:"gateway"`
	Digest       string `json:"digest"`
	Resource     string `json:"resource"`
	Card         string `json:"card"` // that an answer is about
	CardDigest   string `json:"card_digest"`
	PolicyDigest string `json:"policy_digest"`
	RulesDigest  string `json:"rules_digest"`
	Decision     string `json:"decision"`
	State        string `json:"state"`
	Until        string `json:"granted_until"`
	Agent        party  `json:"agent"`
	Person       *party `json:"on_behalf_of"`
	Approver     party  `json:"approver"`
	Asks         []struct {
		Quorum int `json:"quorum"`
	} `json:"asks"`
	Approvals []party `json:"approvals"`
	Forgotten bool    `json:"forgotten"`
}

type party struct {
	Issuer  string `json:"issuer"`
	Subject string `json:"subject"`
}

func (p party) key() string { return strconv.Quote(p.Issuer) + " " + strconv.Quote(p.Subject) }

// approval takes an approval.* record. The records of a shared store's requests are spread over several journals; then only what
// contradicts this journal is a finding.
func (c *completeness) approval(e *Entry) {
	var b approvalBody
	if err := json.Unmarshal(e.Body, &b); err != nil {
		c.find(e.Seq, e.Op, "it is not what a record of a request for approval says: "+err.Error())
		return
	}
	what, ok := stepOf(e, &b)
	if !ok {
		return
	}
	r := c.requests[b.Approval]
	if r == nil {
		r = &recordedRequest{id: b.Approval, state: reqUnknown, events: map[string]string{}}
		c.keep(r)
	}
	said := e.Type + " " + e.Op + " " + hashText(e.Body)
	if b.Event != "" {
		if before, again := r.events[b.Event]; again && before == said {
			return // a start may record a change again
		} else if again && what != voidForgotten {
			c.find(e.Seq, e.Op, fmt.Sprintf("the change %s of request %s was recorded before, as another", b.Event, r.id))
			return
		}
		r.events[b.Event] = said
	}
	from := r.state
	to, ok := follow(from, what)
	if !ok && c.shared && (from == reqUnknown || from == reqPending) {
		to, ok = afterStep[what], true
	}
	if !ok && c.forgot && from == reqUnknown {
		to, ok = afterStep[what], true
	}
	if !ok {
		c.find(e.Seq, e.Op, fmt.Sprintf("%s of request %s, which %s", what, r.id, from))
		return
	}
	r.state = to
	switch what {
	case approve, approveLast, spend:
		if from == reqUnknown { // another journal has the question
			r.about = b.subject()
		}
		if other := r.about.differs(b.subject()); other != "" {
			c.find(e.Seq, e.Op, fmt.Sprintf("%s of request %s, as one about %s", what, r.id, other))
		}
	default: // says nothing of what it is about, or is the first to say it
	}
	switch what {
	case request:
		r.about = b.subject()
		for _, a := range b.Asks {
			r.quorum = max(r.quorum, a.Quorum, 1)
		}
		r.own = append(r.own, b.Agent.key())
		if b.Person != nil {
			r.own = append(r.own, b.Person.key())
		}
	case approve, approveLast:
		c.approved(e, r, &b)
	case spend:
		c.spent(e, r, &b)
	case voidForgotten:
		c.settled(r)
	default: // changes the state alone
	}
}

// afterStep is the state of a request after a step, if this journal does not have the steps before it.
var afterStep = map[step]state{
	approve: reqPending, approveLast: reqApproved, reject: reqRejected, expire: reqExpired, void: reqVoided, voidForgotten: reqVoided, spend: reqSpent,
}

func stepOf(e *Entry, b *approvalBody) (step, bool) {
	switch e.Type {
	case approvalRequested:
		return request, true
	case approvalDecided:
		switch {
		case b.Decision == "approve" && b.State == "approved":
			return approveLast, true
		case b.Decision == "approve":
			return approve, true
		case b.Decision == "reject":
			return reject, true
		}
	case approvalSpent:
		return spend, true
	case approvalExpired:
		return expire, true
	case approvalVoided:
		if b.Forgotten {
			return voidForgotten, true
		}
		return void, true
	}
	return "", false // a refused answer and an agent that left change nothing
}

func (c *completeness) approved(e *Entry, r *recordedRequest, b *approvalBody) {
	who := b.Approver.key()
	switch {
	case b.Card != b.CardDigest:
		c.find(e.Seq, e.Op, fmt.Sprintf("request %s was approved by %s for another card", r.id, who))
	case slices.Contains(r.own, who):
		c.find(e.Seq, e.Op, fmt.Sprintf("request %s was approved by whom it is for, %s", r.id, who))
	case slices.Contains(r.approvers, who):
		c.find(e.Seq, e.Op, fmt.Sprintf("request %s was approved twice by %s", r.id, who))
	default:
		r.approvers = append(r.approvers, who)
	}
}

// spent checks a spend against the approvals before it: those recorded, and those that it names itself.
func (c *completeness) spent(e *Entry, r *recordedRequest, b *approvalBody) {
	c.Spent++
	var named []string
	for _, p := range b.Approvals {
		if !slices.Contains(named, p.key()) {
			named = append(named, p.key())
		}
	}
	have := len(r.approvers)
	if c.shared || c.forgot {
		have = max(have, len(named))
	}
	if need := max(r.quorum, 1); have < need {
		c.find(e.Seq, e.Op, fmt.Sprintf("request %s was spent with %d of the %d approvals that it needs", r.id, have, need))
	}
	for _, who := range named {
		if !slices.Contains(r.approvers, who) && !c.shared && !c.forgot {
			c.find(e.Seq, e.Op, fmt.Sprintf("request %s was spent on an approval by %s that is not recorded", r.id, who))
		}
	}
	made, known := timeOfID(e.Op)
	before := known && made.Before(c.started.Truncate(time.Millisecond)) // an earlier run spent it, and this one's start recorded it
	ours := b.Gateway == e.Node || !c.shared                             // only this gateway writes to a store that is not shared
	r.spend = spending{seq: e.Seq, op: e.Op, time: e.Time, ours: ours && !before}
	r.spend.until, _ = time.Parse(timeLayout, b.Until)
	switch op := c.operation(e.Op); {
	case op.state == opUnknown || op.state == opAsked:
	case op.allowed:
		c.find(e.Seq, e.Op, fmt.Sprintf("request %s was spent by an operation that had been allowed without it", r.id))
		return
	default:
		r.spend.ours, r.spend.why = false, "the operation was refused"
	}
	if r.spend.why == "" {
		r.spend.why = c.draining
	}
	c.spends = append(c.spends, r)
}

// allowedBy takes a decision that allows. If it names a request, it uses that one's grant; if it names none, its operation must not
// have spent one.
func (c *completeness) allowedBy(e *Entry, d *decision) {
	named := d.Approval
	if named == "" {
		if i := slices.IndexFunc(c.spends, func(r *recordedRequest) bool { return r.spend.op == e.Op }); i >= 0 {
			c.find(e.Seq, e.Op, fmt.Sprintf("the operation had spent request %s, and was allowed without naming it", c.spends[i].id))
		}
		return
	}
	r := c.requests[named]
	if r == nil {
		c.find(e.Seq, e.Op, fmt.Sprintf("it was allowed by request %s, which %s", named, reqUnknown))
		return
	}
	to, ok := follow(r.state, use)
	switch {
	case !ok:
		c.find(e.Seq, e.Op, fmt.Sprintf("it was allowed by request %s, which %s", named, r.state))
	case r.spend.op != e.Op:
		c.find(e.Seq, e.Op, fmt.Sprintf("it was allowed by request %s, which operation %s has spent", named, r.spend.op))
	default:
		if until := r.spend.until; !until.IsZero() && e.Time.After(until.Add(grantSlack)) && !c.shared {
			c.find(e.Seq, e.Op, fmt.Sprintf("it was allowed by request %s, whose grant had ended at %s", named, until.Format(time.RFC3339)))
		}
		if other := r.about.differs(d.subject(&r.about)); other != "" {
			c.find(e.Seq, e.Op, fmt.Sprintf("it was allowed by request %s, which is about %s", named, other))
		}
		r.state = to
		c.settled(r)
	}
}

// subject returns what d is about. A decision says nothing of a card, so that is like's.
func (d *decision) subject(like *subject) subject {
	var who party
	if d.Principal != nil {
		who = *d.Principal
	}
	return subject{d.Digest, d.Resource, who.key(), cmp.Or(d.RulesDigest, d.PolicyDigest), like.card}
}

// refusedAfter notes that op was refused: a grant that it had spent let nothing through.
func (c *completeness) refusedAfter(op string) {
	for _, r := range c.spends {
		if r.spend.op == op && r.spend.why == "" {
			r.spend.why, r.spend.ours = "the operation was refused", false
		}
	}
}

// explain notes why the decisions of the grants that are spent by now may be missing.
func (c *completeness) explain(why string) {
	for _, r := range c.spends {
		if r.spend.why == "" {
			r.spend.why = why
		}
	}
}

// settled drops a spend that needs no decision any more.
func (c *completeness) settled(r *recordedRequest) {
	c.spends = slices.DeleteFunc(c.spends, func(x *recordedRequest) bool { return x == r })
}

// settleSpends ends the wait for the decisions of spent grants, at a start, a stop, or the journal's end (""). A spend that a crash
// or a failure cut short let nothing through: that is a gap. Any other is a finding, unless its decision may still come.
func (c *completeness) settleSpends(now time.Time, at step) {
	for _, r := range c.spends {
		s := &r.spend
		switch late := now.Sub(s.time) > useWithin; {
		case s.why != "":
		case !s.ours:
			s.why = "the gateway that had spent it was gone"
		case late || at == stop:
			c.find(s.seq, s.op, fmt.Sprintf("request %s was spent for the operation, and no decision allows it", r.id))
		case at == begin:
			s.why = "the gateway stopped before it could decide"
		default:
			c.Spending++
			continue
		}
		r.state = reqWasted
		if s.why != "" {
			c.gap(s.seq, s.op, fmt.Sprintf("request %s was spent, and nothing was let through: %s", r.id, s.why))
		}
	}
	c.spends = nil
}

// keep remembers a request, and forgets the oldest beyond the bound.
func (c *completeness) keep(r *recordedRequest) {
	c.requests[r.id] = r
	c.requestOrder = append(c.requestOrder, r.id)
	if len(c.requestOrder) > c.maxRequests {
		delete(c.requests, c.requestOrder[0])
		c.requestOrder = c.requestOrder[1:]
		c.forgot = true
	}
}

// endOf reads how an operation.finished says that it ended.
func endOf(body []byte) (what step, result string) {
	result = textOf(body, "result")
	switch gate.Result(result) {
	case gate.Refused, gate.ClientGone, gate.GatewayFailed:
		return endWithout, result
	default:
		return endWith, result
	}
}

// inWords describes an operation's record for a finding.
func inWords(e *Entry, what step) string {
	switch e.Type {
	case gate.OperationFinished:
		_, result := endOf(e.Body)
		return fmt.Sprintf("an operation.finished that says %q", result)
	case gate.OperationDecided:
		return string(what)
	default:
		return "an " + e.Type
	}
}

func hashText(b []byte) string {
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:])
}
