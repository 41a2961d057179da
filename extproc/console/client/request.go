package client

import (
	"encoding/json"
	"fmt"
	"time"

	"github.com/countersign/countersign/extproc/approval"
	"github.com/countersign/countersign/extproc/terminal"
)

// Request is a request as the API answers it, as far as people are shown it.
type Request struct {
	ID         string     `json:"id"`
	State      string     `json:"state"`
	Created    time.Time  `json:"created"`
	Expires    time.Time  `json:"expires"`
	Grant      *time.Time `json:"grant_expires"`
	Reason     string     `json:"reason"`
	Decisions  []Decision `json:"decisions"`
	Waiting    *Waiting   `json:"waiting"`
	Spent      *Spent     `json:"spent"`
	MayDecide  bool       `json:"may_decide"`
	MayNot     string     `json:"may_not"`
	URL        string     `json:"url"`
	CardDigest string     `json:"card_digest"`

	Card *approval.Card `json:"-"`
}

// Waiting is the agents that wait for the answer.
type Waiting struct {
	Count int       `json:"count"`
	Until time.Time `json:"until"`
}

// Spent is the operation that has used the approval.
type Spent struct {
	Operation string `json:"operation"`
	Outcome   *struct {
		Result  string  `json:"result"`
		Status  int     `json:"status"`
		Seconds float64 `json:"seconds"`
	} `json:"outcome"`
}

// Decision is what somebody answered.
type Decision struct {
	By       approval.Named `json:"by"`
	Decision string         `json:"decision"`
	Reason   string         `json:"reason"`
	At       time.Time      `json:"at"`
}

// Read reads a request and its card, which must be the one that its digest names, and be shown whole.
func Read(raw json.RawMessage) (*Request, error) {
	var r struct {
		Request
		Raw json.RawMessage `json:"card"`
	}
	if err := json.Unmarshal(raw, &r); err != nil {
		return nil, fmt.Errorf("read a request: %w", err)
	}
	if got := approval.CardDigest(r.Raw); got != r.CardDigest {
		return nil, fmt.Errorf("the card of request %s has the digest %s, and the console says %s: do not answer it", terminal.Line(r.ID), got, terminal.Line(r.CardDigest))
	}
	var err error
	if r.Card, err = approval.ReadCard(r.Raw); err != nil {
		return nil, fmt.Errorf("read the card of request %s, which this version of countersign cannot show whole: %w", terminal.Line(r.ID), err)
	}
	return &r.Request, nil
}
