package console

import (
	"context"
	"errors"
	"net/http"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/countersign/countersign/extproc/approval"
	"github.com/countersign/countersign/extproc/gate"
)

// problem is a refusal as application/problem+json (RFC 9457).
type problem struct {
	kind   gate.Problem
	title  string
	status int
	detail string
	reason string // which of the refusals of one type it is; empty where there is one
	at     string // where on the console to go on; its front where it is empty
}

var (
	unrecorded = unavailable("This could not be recorded, so nothing was done. Try again later.")
	notFound   = problem{kind: "not-found", title: "Not found", status: http.StatusNotFound, detail: "There is no such request."}
)

func unauthenticated(detail string) problem {
	return problem{kind: gate.Unauthenticated, title: "Not authenticated", status: http.StatusUnauthorized, detail: detail}
}

func denied(reason, detail string) problem {
	return problem{kind: gate.Denied, title: "Denied", status: http.StatusForbidden, detail: detail, reason: reason}
}

func unreadable(detail string) problem {
	return problem{kind: gate.Unreadable, title: "Not readable", status: http.StatusBadRequest, detail: detail}
}

func unavailable(detail string) problem {
	return problem{kind: gate.Unavailable, title: "Unavailable", status: http.StatusServiceUnavailable, detail: detail}
}

// problemOf is what the desk's error is to the person who asked. known is false for an error that is not theirs.
func problemOf(err error) (p problem, known bool) {
	switch {
	case errors.Is(err, approval.ErrUnrecorded):
		return unavailable("The answer could not be recorded, so it does not count yet. Look at the request again later."), false
	case errors.Is(err, approval.ErrNotFound):
		return notFound, true
	case errors.Is(err, approval.ErrClosed):
		return problem{kind: "closed", title: "Closed", status: http.StatusConflict, detail: "This request is not open any more: it was decided, has expired, or was voided. Nothing was changed."}, true
	case errors.Is(err, approval.ErrOldCard):
		return problem{kind: "old-card", title: "Another card", status: http.StatusConflict, detail: "The answer is about another card than this request's. Nothing was changed. Look at the card again, and decide on what it says now."}, true
	case errors.Is(err, approval.ErrOwnOperation):
		return denied("own-operation", "Nobody approves what they asked for themselves, or what is done for them."), true
	case errors.Is(err, approval.ErrNotApprover):
		return denied("not-approver", "No rule of this request names you, or a group of yours, as an approver."), true
	case errors.Is(err, approval.ErrDecidedAlready):
		return denied("decided-already", "You have decided on this request already. Another person has to."), true
	case errors.Is(err, approval.ErrUnclearPerson):
		return denied("unclear-person", "It cannot be told whether you are the person that this is done for, or one who has decided already: your token does not name you in a way that can be compared with theirs. An administrator can change that: people.kind, or people.claim and agents[].people_claim."), true
	case errors.Is(err, approval.ErrAuthentication):
		return denied("authentication", "This resource demands a stronger or more recent sign-in than yours. Sign in again, and decide then."), true
	default:
		return unavailable("The approvals cannot be reached at the moment. Try again later."), false
	}
}

// problemAnswer is a problem as it is written.
type problemAnswer struct {
	Type   string `json:"type"`
	Title  string `json:"title"`
	Status int    `json:"status"`
	Detail string `json:"detail"`
	Reason string `json:"reason,omitzero"`
}

func writeProblem(w http.ResponseWriter, p problem) {
	if p.status == http.StatusServiceUnavailable {
		w.Header().Set("Retry-After", "5")
	}
	writeJSON(w, p.status, "application/problem+json", problemAnswer{p.kind.Type(), p.title, p.status, p.detail, p.reason})
}

// writeJSON writes texts and numbers as they are, so that the card in an answer has the bytes that its digest is of.
func writeJSON(w http.ResponseWriter, status int, kind string, v any) {
	b, err := json.Marshal(v, jsontext.AllowInvalidUTF8(true))
	if err != nil {
		http.Error(w, "the answer cannot be written", http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", kind)
	w.WriteHeader(status)
	_, _ = w.Write(append(b, '\n'))
}

// failed is problemOf, and tells the operator of what is not the person's doing.
func (c *Console) failed(ctx context.Context, what string, err error) problem {
	p, known := problemOf(err)
	if !known && ctx.Err() == nil {
		c.log.Error("the console could not "+what, "error", err)
	}
	return p
}
