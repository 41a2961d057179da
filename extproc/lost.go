package extproc

import (
	"errors"
	"fmt"

	"github.com/countersign/countersign/extproc/gate"
	"github.com/countersign/countersign/extproc/inspect/web"
	"github.com/countersign/countersign/extproc/redact"
)

// Redirects and errors often come as a page, or as text under the name of JSON, where everything else of a target is JSON.
// Their status is what an agent goes by, so under a plan that cannot read them they keep it, with the fields that a redacted
// answer has, and lose their body. The note in its place is ours.

// losesBody reports whether an answer that may not be shown because of why passes without its body. A client of gRPC goes by
// another status.
func (x *exchange) losesBody(why error) bool {
	r := &x.response
	if r.plan == nil || r.released || x.attempt.grpc || r.head == nil || !r.head.LosesBody() {
		return false
	}
	var body *redact.Withheld
	var head *web.Withheld
	return errors.As(why, &body) || errors.As(why, &head) && head.OfBody
}

// loseBody passes the head on, with a note for a body. Nothing of the target's body was passed on, and nothing will be.
func (x *exchange) loseBody(why error) (done bool, err error) {
	a, r := x.attempt, &x.response
	r.stop()
	r.lost, r.held = why, nil
	detail := fmt.Sprintf("The target answered with status %d, which is what counts. The body of its answer was withheld: %s.", r.head.Status, why)
	note := problemOf(gate.Refusal{Problem: gate.Withheld, Detail: detail}, r.head.Status, a.Op.Context.RequestID)
	length := len(note)
	x.release(true, &length)
	x.sendResponseBody(note, r.ended)
	return false, nil
}

// passOver takes more of a body that was lost. The agent has all that it gets of it.
func (x *exchange) passOver(body []byte, last bool) (done bool, err error) {
	r, limit := &x.response, x.attempt.http.MaxRedacted
	if r.unread += int64(len(body)); limit > 0 && r.unread > limit {
		return x.withhold(tooLong(limit))
	}
	if !last {
		return false, nil
	}
	x.sendResponseBody(nil, true)
	return false, nil
}
