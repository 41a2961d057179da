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

// loseBody gives the body up. Nothing of it was passed on, and nothing will be. Envoy takes no body for the agent before it has some of
// the target's, so until then the head waits for the note that goes with it.
func (x *exchange) loseBody(why error) (done bool, err error) {
	r := &x.response
	r.stop()
	if r.lost, r.held = why, nil; r.begun {
		x.sendNote(r.ended)
	}
	return false, nil
}

// sendNote passes the head on, with a note for a body.
func (x *exchange) sendNote(last bool) {
	a, r := x.attempt, &x.response
	detail := fmt.Sprintf("The target answered with status %d, which is what counts. The body of its answer was withheld: %s.", r.head.Status, r.lost)
	note := problemOf(gate.Refusal{Problem: gate.Withheld, Detail: detail}, r.head.Status, a.Op.Context.RequestID)
	length := len(note)
	x.release(true, &length)
	x.sendResponseBody(note, last)
}

// passOver takes more of a body that was lost.
func (x *exchange) passOver(body []byte, last bool) (done bool, err error) {
	r, limit := &x.response, x.attempt.http.MaxRedacted
	if r.unread += int64(len(body)); limit > 0 && r.unread > limit {
		return x.withhold(tooLong(limit))
	}
	switch {
	case !r.released:
		x.sendNote(last)
	case last:
		x.sendResponseBody(nil, true)
	}
	return false, nil
}
