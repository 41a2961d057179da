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

// noteOf returns what takes the place of the body of an answer that is withheld because of why. It returns false where all of
// the answer is withheld.
func (x *exchange) noteOf(why error) (web.Reply, bool) {
	r := &x.response
	if r.plan == nil || r.released || r.head == nil || !r.head.LosesBody() {
		return web.Reply{}, false
	}
	var body *redact.Withheld
	var head *web.Withheld
	if !errors.As(why, &body) && (!errors.As(why, &head) || !head.OfBody) {
		return web.Reply{}, false
	}
	detail := fmt.Sprintf("The target answered with status %d, which is what counts. The body of its answer was withheld: %s.", r.head.Status, why)
	return x.attempt.refuser.Note(gate.Refusal{Problem: gate.Withheld, Detail: detail}, r.head.Status, x.attempt.Op.Context.RequestID)
}

// loseBody gives the body up. Nothing of it was passed on, and nothing will be. Envoy takes no body for the agent before it has some of
// the target's, so until then the head waits for the note that goes with it.
func (x *exchange) loseBody(why error, note web.Reply) (done bool, err error) {
	r := &x.response
	r.stop()
	r.lost, r.kept, r.note = why, nil, note
	if r.begun {
		x.sendNote(r.ended)
	}
	return false, nil
}

// sendNote passes the head on, with a note for a body.
func (x *exchange) sendNote(last bool) {
	r := &x.response
	length := len(r.note.Body)
	x.release(true, &length)
	x.sendResponseBody(r.note.Body, last)
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
