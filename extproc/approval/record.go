package approval

import (
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/countersign/countersign/extproc/gate"
)

// The types of record. A refused answer is an approval.decided too, whose decision is "refused". An approval.withdrawn changes
// nothing: the agent of one operation left, and the request stays in the state that the record names.
const (
	RecordRequested = "approval.requested"
	RecordDecided   = "approval.decided"
	RecordSpent     = "approval.spent"
	RecordExpired   = "approval.expired"
	RecordVoided    = "approval.voided"
	RecordWithdrawn = "approval.withdrawn"
)

// line is the body of a record as it was written when the change was made.
type line string

func (l line) AppendJSON(dst []byte) ([]byte, error) { return append(dst, l...), nil }

// attempt is the operation in whose name a record is written.
type attempt struct {
	op    string // its id
	trace string // its trace id; empty where it has none of its own
}

// opener is the attempt that opened r.
func (r *Request) opener() attempt { return attempt{r.Op, r.TraceID} }

// note adds the record of a change of r to r's outbox.
func (d *Desk) note(r *Request, kind string, by attempt, members ...gate.Member) error {
	rev := r.Rev + 1
	body, err := d.body(r, by, strconv.FormatUint(rev, 10), members...)
	if err != nil {
		return err
	}
	r.Outbox = append(r.Outbox, Event{Rev: rev, Node: d.node, Type: kind, Op: by.op, Body: body})
	return nil
}

// body writes a record's body: what every record of a request says, and members. event is unique among those of the request; for a
// change it is the revision.
func (d *Desk) body(r *Request, by attempt, event string, members ...gate.Member) (string, error) {
	o, err := gate.MakeObject(append(members,
		gate.Member{Name: "agent", Value: r.NamedAgent().object()},
		gate.Member{Name: "approval", Value: r.ID},
		gate.Member{Name: "card_digest", Value: r.CardDigest},
		gate.Member{Name: "digest", Value: r.Digest},
		gate.Member{Name: "event", Value: r.ID + "/" + event},
		gate.Member{Name: "gateway", Value: d.node},
		gate.Member{Name: "policy_digest", Value: r.PolicyDigest},
		gate.Member{Name: "resource", Value: valid(r.Resource)},
		gate.Member{Name: "rules_digest", Value: r.RulesDigest},
		gate.Member{Name: "session", Value: valid(r.Session)},
		gate.Member{Name: "state", Value: string(r.State)},
		gate.Member{Name: "trace_id", Value: by.trace},
	)...)
	if err != nil {
		return "", err
	}
	text, err := gate.AppendJSON(nil, o)
	if err != nil {
		return "", fmt.Errorf("write the record of request %s: %w", r.ID, err)
	}
	return string(text), nil
}

func requested(r *Request, requestID string) []gate.Member {
	asks := make([]any, len(r.Asks))
	for i, a := range r.Asks {
		ask := gate.Object{
			{Name: "approvers", Value: validAll(a.Approvers)},
			{Name: "quorum", Value: a.Quorum},
			{Name: "rule", Value: valid(a.Package + "/" + a.ID)},
		}
		if a.Summary != "" {
			ask = append(ask, gate.Member{Name: "summary", Value: valid(a.Summary)})
		}
		asks[i] = ask
	}
	return []gate.Member{
		{Name: "asks", Value: asks},
		{Name: "expires", Value: timeText(r.Expires)},
		{Name: "on_behalf_of", Value: r.NamedPerson().value()},
		{Name: "request_id", Value: valid(requestID)},
		{Name: "target", Value: valid(r.Target)},
		{Name: "verb", Value: valid(r.Verb)},
	}
}

// decided returns what a record says of an answer. card is the digest that the answer named; card_digest is the request's.
func decided(decision, attempted, problem string, d *Decision) []gate.Member {
	members := []gate.Member{
		{Name: "approver", Value: d.By.object()},
		{Name: "card", Value: valid(d.Card)},
		{Name: "decision", Value: decision},
		{Name: "reason", Value: valid(d.Reason)},
		{Name: "think", Value: seconds(d.Think)},
	}
	if problem != "" {
		members = append(members, gate.Member{Name: "attempted", Value: attempted}, gate.Member{Name: "problem", Value: problem})
	}
	return members
}

func spentBy(r *Request) []gate.Member {
	people := []any{}
	for i := range r.Decisions {
		if d := &r.Decisions[i]; d.Approve {
			people = append(people, append(gate.Object{
				{Name: "at", Value: timeText(d.At)},
				{Name: "card", Value: valid(d.Card)},
			}, d.By.Named().object()...))
		}
	}
	return []gate.Member{{Name: "approvals", Value: people}, {Name: "granted_until", Value: timeText(r.GrantExpires)}}
}

func because(reason string) gate.Member { return gate.Member{Name: "reason", Value: valid(reason)} }

// object is a party in a record, which has no name where none is claimed.
func (p Named) object() gate.Object {
	o := gate.Object{{Name: "issuer", Value: valid(p.Issuer)}}
	if p.Name != "" {
		o = append(o, gate.Member{Name: "name", Value: valid(p.Name)})
	}
	return append(o, gate.Member{Name: "subject", Value: valid(p.Subject)})
}

func (p *Named) value() any {
	if p == nil {
		return nil
	}
	return p.object()
}

func (b *Approver) object() gate.Object {
	return append(gate.Object{
		{Name: "acr", Value: valid(b.ACR)},
		{Name: "amr", Value: validAll(b.AMR)},
		{Name: "auth_time", Value: timeText(b.AuthTime)},
	}, b.Named().object()...)
}

// timeText is empty for the zero time.
func timeText(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return string(gate.AppendTime(nil, t))
}

// seconds is null if the time is not known.
func seconds(d time.Duration) any {
	if d <= 0 {
		return nil
	}
	return json.Number(strconv.FormatFloat(d.Seconds(), 'f', 3, 64))
}

// valid replaces bytes that are not UTF-8, with which no record could be written.
func valid(s string) string { return strings.ToValidUTF8(s, "\uFFFD") }

func validAll(list []string) []string {
	out := make([]string, len(list))
	for i, s := range list {
		out[i] = valid(s)
	}
	return out
}
