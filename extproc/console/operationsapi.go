package console

import (
	"net/http"
	"strconv"
	"time"

	"github.com/countersign/countersign/extproc/approval"
)

// The answer of the API.
type (
	operationList struct {
		Operations []operationAnswer `json:"operations"`
		Next       string            `json:"next"`   // empty on the last page
		Looked     int               `json:"looked"` // records
		Back       *time.Time        `json:"back"`   // when the last of them was written
	}

	operationAnswer struct {
		Record     uint64           `json:"record"`
		Time       time.Time        `json:"time"`
		Node       string           `json:"node"`
		Operation  string           `json:"operation"`
		Effect     string           `json:"effect"`
		Agent      *approval.Named  `json:"agent"`
		OnBehalfOf *approval.Named  `json:"on_behalf_of"`
		Resource   string           `json:"resource"`
		Protocol   string           `json:"protocol"`
		Verb       string           `json:"verb"`
		Target     string           `json:"target"`
		Rules      []string         `json:"rules"`
		Reasons    []string         `json:"reasons"`
		Problem    string           `json:"problem"`
		Approval   string           `json:"approval"`
		ApprovedBy []approval.Named `json:"approved_by"`
		Outcome    *endAnswer       `json:"outcome"`
	}

	endAnswer struct {
		Result string    `json:"result"`
		Reason string    `json:"reason"`
		Status int       `json:"status"`
		Took   float64   `json:"took"` // seconds
		Time   time.Time `json:"time"`
	}
)

func (o *operation) answer() operationAnswer {
	a := operationAnswer{
		Record: o.Seq, Time: o.Time.UTC(), Node: o.Node, Operation: o.Op, Effect: o.Effect, Agent: o.Agent(), OnBehalfOf: o.For(),
		Resource: o.Resource, Protocol: o.Protocol, Verb: o.Verb, Target: o.Target, Rules: o.Rules, Reasons: o.Reasons, Problem: o.Problem,
		Approval: o.Approval, ApprovedBy: o.By,
	}
	if e := o.End; e != nil {
		a.Outcome = &endAnswer{e.Result, e.Reason, e.Status, e.Duration, o.Ended.Time.UTC()}
	}
	return a
}

// apiOperations is GET /api/operations.
func (c *Console) apiOperations(w http.ResponseWriter, r *http.Request, _ *person) {
	f, err := readOperationFilter(r.URL.RawQuery)
	if err != nil {
		writeProblem(w, unreadable("The request cannot be read: "+err.Error()+"."))
		return
	}
	p, err := c.operations(r.Context(), f)
	if err != nil {
		writeProblem(w, c.unread(r.Context(), err))
		return
	}
	list := operationList{Looked: p.Looked, Back: instant(p.Back)}
	if next := p.Next(); next > 0 {
		list.Next = strconv.FormatUint(next, 10)
	}
	for _, o := range p.Rows {
		list.Operations = append(list.Operations, o.answer())
	}
	writeJSON(w, http.StatusOK, "application/json", list)
}
