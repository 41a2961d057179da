package webhook

import (
	"fmt"
	"strings"
	"time"

	"github.com/countersign/countersign/extproc/approval"
)

// Event is the body of a notification.
type Event struct {
	EventID string         `json:"event_id"`
	Event   string         `json:"event"` // approval.requested, .decided, .spent, .expired or .voided, as the record of it
	Time    time.Time      `json:"time"`
	Gateway string         `json:"gateway"`
	ID      string         `json:"id"`    // of the request for approval
	State   approval.State `json:"state"` // that the event led to

	Resource   string          `json:"resource"`
	Verb       string          `json:"verb"`
	Agent      approval.Named  `json:"agent"` // as is everybody here, with what they are claimed to be called
	OnBehalfOf *approval.Named `json:"on_behalf_of,omitempty"`
	Asks       []Ask           `json:"asks"`
	CardDigest string          `json:"card_digest"`
	Expires    time.Time       `json:"expires"` // of the question
	URL        string          `json:"url,omitempty"`

	Decision *Decision `json:"decision,omitempty"` // of approval.decided
}

// Ask says which rule asks whom.
type Ask struct {
	Rule      string   `json:"rule"`
	Approvers []string `json:"approvers"`
	Quorum    int      `json:"quorum"`
	Summary   string   `json:"summary,omitempty"` // what will run, in the policy's own words
}

// Decision is what one person said, without their words.
type Decision struct {
	Decision string         `json:"decision"` // approve or reject
	Approver approval.Named `json:"approver"`
}

// longest text of an event that others chose: a token's subject, a method.
const longestText = 256

// told says which events of a request were queued.
type told struct {
	requested bool
	decisions int
}

// eventsOf returns the events of r that t does not have, in order.
func (n *Notifier) eventsOf(r *approval.Request, t told) []Event {
	var events []Event
	add := func(kind, id string, at time.Time, state approval.State) *Event {
		events = append(events, n.event(r, kind, id, at, state))
		return &events[len(events)-1]
	}
	if !t.requested {
		add(approval.RecordRequested, "requested", r.Created, approval.Pending)
	}
	for i := t.decisions; i < len(r.Decisions); i++ {
		d := &r.Decisions[i]
		word, state := "approve", approval.Pending
		switch {
		case !d.Approve:
			word, state = "reject", approval.Rejected
		case i == len(r.Decisions)-1 && !r.GrantExpires.IsZero():
			state = approval.Approved
		}
		e := add(approval.RecordDecided, fmt.Sprintf("decided/%d", i+1), d.At, state)
		e.Decision = &Decision{Decision: word, Approver: short(d.By.Named())}
	}
	switch r.State {
	case approval.Pending, approval.Approved, approval.Rejected: // told above
	case approval.Spent, approval.Expired, approval.Voided:
		add("approval."+string(r.State), string(r.State), r.Closed, r.State)
	}
	return events
}

func (n *Notifier) event(r *approval.Request, kind, id string, at time.Time, state approval.State) Event {
	e := Event{
		EventID: r.ID + "/" + id, Event: kind, Time: at.UTC(), Gateway: n.opt.Node, ID: r.ID, State: state,
		Resource: text(r.Resource), Verb: text(r.Verb), Agent: short(r.NamedAgent()),
		CardDigest: r.CardDigest, Expires: r.Expires.UTC(), URL: n.opt.Page(r.ID),
		Asks: make([]Ask, len(r.Asks)),
	}
	if named := r.NamedPerson(); named != nil {
		person := short(*named)
		e.OnBehalfOf = &person
	}
	for i, a := range r.Asks {
		e.Asks[i] = Ask{Rule: a.Package + "/" + a.ID, Approvers: a.Approvers, Quorum: a.Quorum, Summary: a.Summary}
	}
	return e
}

func short(p approval.Named) approval.Named {
	return approval.Named{Issuer: text(p.Issuer), Name: text(p.Name), Subject: text(p.Subject)}
}

func text(s string) string {
	if len(s) > longestText {
		s = s[:longestText] + "…"
	}
	return strings.ToValidUTF8(s, "\uFFFD")
}
