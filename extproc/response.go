package extproc

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"net/http"
	"slices"
	"strconv"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/countersign/countersign/extproc/gate"
	"github.com/countersign/countersign/extproc/guard"
	"github.com/countersign/countersign/extproc/identity"
	"github.com/countersign/countersign/extproc/inspect/coding"
	"github.com/countersign/countersign/extproc/inspect/cookie"
	"github.com/countersign/countersign/extproc/inspect/echo"
	"github.com/countersign/countersign/extproc/inspect/web"
	"github.com/countersign/countersign/extproc/redact"
	"github.com/countersign/countersign/extproc/wire"
)

// A redacted answer is kept back until there are keptBytes of it, or for keptTime after its first byte, and then passed on in such
// pieces. Its head is kept back until the first piece: what must be withheld is a 502 until then, and a broken stream after that.
// Answers that are streams by their type are passed on as they come. How much is kept, how long the pieces are, and how far an answer
// gets that is withheld depend on the redacted output alone, so that they tell nothing of the protected values. (Where a compressed
// answer expands too much depends on the original: see package coding. More is kept of one, so that this is a 502 too.)
//
// Header fields that are free text are compared with the values that are taken out of the body. They pass only where the body is
// whole when the head goes, so an answer that has one is kept back for up to fieldsTime.
const (
	keptBytes  = 64 << 10
	keptTime   = 200 * time.Millisecond
	fieldsTime = 3 * time.Second
)

// response is the target's answer on its way to the agent.
type response struct {
	plan *redact.Plan // nil where nothing is redacted
	echo *echo.Finder // of the target's credential; nil where none was sent

	credential string // that was sent to the target

	head     *web.Response
	decoder  *coding.Decoder // undoes its coding; nil where it has none, or passes in it
	within   *within         // looks into one that passes in its coding; nil where nothing is looked for
	searched []int           // the fields of head that pass where they have nothing of the body
	beside   []string        // what of each of them is not the agent's own
	stream   *redact.Stream  // nil until there are bytes to redact, and where no URLs are turned
	counts   []gate.Count    // of header and trailer fields
	turned   []gate.Count    // URLs in header fields
	unturned string          // why URLs of the body are not turned that should be
	made     int64           // bytes for the agent, with those that are kept back
	kept     []byte          // output that was not passed on yet
	timer    *time.Timer
	begun    bool // some of the body came, if only its end
	released bool // the head went to the agent
	ended    bool

	lost   error     // why the agent gets a note in the place of the body; nil where it gets the body
	note   web.Reply // that note
	unread int64     // bytes of a lost body

	local bool // the answer is Envoy's own: the target gave none
	hash  hash.Hash
	out   int64 // bytes to the agent
}

// stop ends what the answer has beside itself. It may be called again.
func (r *response) stop() {
	r.wait()
	r.decoder.Close()
	r.within.close()
}

// wait ends the timer: what it waits for has come.
func (r *response) wait() {
	if r.timer != nil {
		r.timer.Stop()
		r.timer = nil
	}
}

// whole reports whether all of an answer of stated length went to the agent. A client that has what it was promised may
// leave before Envoy says that there is no more.
func (r *response) whole() bool {
	if r.lost != nil {
		return r.released
	}
	return r.plan == nil && r.stream == nil && r.released && r.head.Length >= 0 && (r.out == r.head.Length || !r.head.HasBody)
}

// switched reports whether the connection was given over to another protocol, which ends when either side leaves.
func (r *response) switched() bool { return r.released && r.head.Switched() }

func (r *response) outcome() gate.Outcome {
	var o gate.Outcome
	if r.head != nil && r.released {
		o.Status = r.head.Status
	}
	o.BytesOut = r.out
	if r.hash != nil {
		o.BodySHA256 = hex.EncodeToString(r.hash.Sum(nil))
	}
	if r.lost != nil {
		o.Reason, o.Problem = r.lost.Error(), gate.Withheld
	}
	if !r.released {
		return o // the agent got nothing of it, so nothing of what it got was redacted
	}
	o.Redacted, o.Rewritten, o.Unrewritten = r.counts, r.turned, r.unturned
	if r.stream != nil && r.lost == nil {
		o.Redacted = addCounts(o.Redacted, r.stream.Counts())
		o.Rewritten = addCounts(o.Rewritten, r.stream.Turned())
		o.Unrewritten = cmp.Or(o.Unrewritten, r.stream.Unread())
	}
	return o
}

func addCounts(counts, more []gate.Count) []gate.Count {
next:
	for _, c := range more {
		for i := range counts {
			if counts[i].Name == c.Name {
				counts[i].N += c.N
				continue next
			}
		}
		counts = append(counts, c)
	}
	return counts
}

func (x *exchange) responseHead(m *wire.Request) (done bool, err error) {
	x.response.local = isLocal(m.Details)
	if x.attempt == nil && x.response.local {
		x.envoyRefused = true
		x.say(&x.out.answer, &wire.Answer{To: wire.ResponseHead}, 0)
		return false, nil
	}
	if !x.decided || x.finished || x.response.head != nil {
		return true, outOfOrder("response head")
	}
	a, r := x.attempt, &x.response
	r.hash = sha256.New()
	r.ended = m.Last
	if r.head, err = web.ReadResponse(a.Op.Verb, m.Fields, m.Last); err != nil {
		return x.withhold(err)
	}
	if r.plan == nil && a.http.MaxAnswer > 0 && r.head.HasBody && r.head.Length > a.http.MaxAnswer {
		return x.withhold(tooLong(a.http.MaxAnswer))
	}
	if err := x.responseFields(); err != nil {
		return x.withhold(err)
	}
	if r.plan != nil && r.head.HasBody {
		return false, nil // kept back: see keptBytes
	}
	x.turnsBody()
	x.release(true, nil)
	if r.ended {
		x.finish(x.outcome(x.result()))
	}
	return false, nil
}

// turnsBody begins to turn the URLs in an answer of which nothing is redacted. Nothing secret is at stake: what cannot be read
// passes as it came, and the record says why.
func (x *exchange) turnsBody() {
	a, r := x.attempt, &x.response
	if a.turning == nil || !r.head.HasBody || !redact.Turnable(r.head.ContentType) {
		return
	}
	codings, err := r.head.Codings()
	if err == nil && len(codings) > 0 {
		err = errors.New("the target's answer is compressed, although it was not asked to be")
	}
	if err == nil {
		err = r.head.Redactable()
	}
	if err == nil {
		r.stream, err = a.turning.Stream(r.head.ContentType, redact.Options{Turn: a.turn.URL})
	}
	if err != nil {
		r.unturned = err.Error()
	}
}

// turnBody turns the URLs in the next bytes of the body.
func (x *exchange) turnBody(body []byte, whole bool) []byte {
	s := x.response.stream
	out, _ := s.Write(body) // there is no error where nothing is redacted
	if !x.attempt.redacts(s.Size()) {
		out = append(slices.Clone(out), s.GiveUp("there is no memory left to read the answer")...)
	}
	if whole {
		out = slices.Clone(out)
		tail, _ := s.Close()
		out = append(out, tail...)
	}
	return out
}

// decodes makes ready to undo the codings of an answer that is redacted. It goes on without them.
func (x *exchange) decodes() error {
	codings, err := x.response.head.Codings()
	if err != nil || len(codings) == 0 {
		return err
	}
	if x.attempt.decoding = coding.Memory(codings...); !x.attempt.redacts(0) {
		return errNoMemory
	}
	x.response.decoder = coding.NewDecoder(codings)
	return nil
}

// release sends the head to the agent. whole says that nothing more of the body comes, and length how long it is, where
// that is to be said.
func (x *exchange) release(whole bool, length *int) {
	r := &x.response
	answer := &wire.Answer{To: wire.ResponseHead}
	m := &answer.Change
	x.rewriteFields(r.head.Fields, m, func(i int) bool { return x.clean(i, whole) })
	x.cookies(r.head.Fields, m)
	m.Put(r.note.Fields...)
	if length != nil {
		m.Put(web.Field{Name: "content-length", Value: strconv.Itoa(*length)})
	}
	x.say(&x.out.answer, answer, 0)
	r.released = true
}

func (x *exchange) responseBody(m *wire.Request) (done bool, err error) {
	if err := x.room(&x.out.answer); err != nil {
		return true, err
	}
	if x.envoyRefused {
		x.sendAnswerPieces(m.Body, m.Last)
		return false, nil
	}
	r := &x.response
	if r.head == nil || r.ended || x.finished {
		return true, outOfOrder("response body")
	}
	r.begun, r.ended = true, m.Last
	if done, err := x.decoded(m.Body, m.Last, m.Last); done || err != nil {
		return done, err
	}
	if r.ended {
		x.finish(x.outcome(x.result()))
	}
	return false, nil
}

// decoded is answer for bytes in the coding of the answer.
func (x *exchange) decoded(body []byte, whole, last bool) (done bool, err error) {
	r := &x.response
	if r.decoder == nil || r.lost != nil {
		return x.answer(body, whole, last)
	}
	for piece, unread := range r.decoder.Decode(body, whole) {
		if unread != nil {
			return x.withhold(web.Undecoded(unread))
		}
		if done, err := x.answer(piece, false, false); done || err != nil || r.lost != nil {
			return done, err
		}
	}
	return x.answer(nil, whole, last)
}

// answer passes on what may be passed on by now of the target's bytes. whole says that these are the last, and last that
// nothing comes after them either.
func (x *exchange) answer(body []byte, whole, last bool) (done bool, err error) {
	if x.response.lost != nil {
		return x.passOver(body, last)
	}
	out, withheld := x.redactBody(body, whole)
	x.sendAnswer(out, whole && withheld == nil, last && withheld == nil)
	if withheld != nil {
		return x.withhold(withheld)
	}
	return false, nil
}

// redactBody turns the target's bytes into those that the agent may have. With an error come those that are before it: how
// many they are depends on the redacted body alone, and not on how the original was cut.
func (x *exchange) redactBody(body []byte, whole bool) (out []byte, err error) {
	r, limit := &x.response, x.attempt.http.MaxAnswer
	out = body
	switch {
	case r.plan != nil:
		limit = x.attempt.http.MaxRedacted
		out, err = x.redact(body, whole)
	case r.stream != nil:
		out = x.turnBody(body, whole)
	}
	if limit > 0 && r.made+int64(len(out)) > limit {
		out, err = out[:limit-r.made], tooLong(limit)
	}
	r.made += int64(len(out))
	passed, found := r.echo.Write(out, whole && err == nil)
	if !found {
		passed, found = r.within.write(passed, whole && err == nil)
	}
	if found {
		return nil, errEcho
	}
	return passed, err
}

func (x *exchange) redact(body []byte, whole bool) (out []byte, err error) {
	r := &x.response
	if r.stream == nil && len(body) > 0 {
		if r.stream, err = r.plan.Stream(r.head.ContentType, redact.Options{Beside: r.beside, Live: r.head.Length < 0, Turn: x.attempt.turn.URL}); err != nil {
			return nil, err
		}
	}
	if r.stream == nil {
		return nil, nil
	}
	if out, err = r.stream.Write(body); err == nil && !x.attempt.redacts(r.stream.Size()+len(r.kept)) {
		return nil, errNoMemory
	}
	if err != nil || !whole {
		return out, err
	}
	out = slices.Clone(out)
	tail, err := r.stream.Close()
	return append(out, tail...), err
}

func tooLong(limit int64) error {
	return &web.Withheld{OfBody: true, Reason: fmt.Sprintf("the target's answer is larger than the %d bytes that this resource passes on", limit)}
}

// sendAnswer passes output on, or keeps it back: see keptBytes.
func (x *exchange) sendAnswer(out []byte, whole, last bool) {
	r := &x.response
	if r.plan == nil {
		x.sendResponseBody(out, last)
		return
	}
	r.kept = append(r.kept, out...)
	n := len(r.kept)
	switch {
	case whole || r.stream != nil && r.stream.Flows():
	case n > r.keeps():
		n -= n % keptBytes
	default:
		n = 0
	}
	if n == 0 && !whole {
		x.waitForMore()
		return
	}
	x.flush(n, whole, last)
}

// keeps is how many bytes are kept back before they are passed on.
func (r *response) keeps() int {
	if r.decoder != nil && !r.released {
		return keptBytes + coding.Free
	}
	return keptBytes
}

// waitForMore has what is kept back passed on after a while.
func (x *exchange) waitForMore() {
	r := &x.response
	if len(r.kept) == 0 || r.timer != nil {
		return
	}
	wait := keptTime
	if !r.released && len(r.searched) > 0 {
		wait = fieldsTime
	}
	r.timer = time.AfterFunc(wait, guard.Func("an answer that is kept back", x.passKept))
}

// flush passes on n of the bytes that are kept back, after the head.
func (x *exchange) flush(n int, whole, last bool) {
	r := &x.response
	r.wait()
	if !r.released {
		var length *int
		if last {
			length = &n
		}
		x.release(whole, length)
	}
	rest := slices.Clone(r.kept[n:]) // what is passed on must not change until it is sent
	x.sendResponseBody(r.kept[:n], last)
	r.kept = rest
	x.waitForMore()
}

// passKept is the timer's: an answer that comes slowly is not kept back until its end.
func (x *exchange) passKept() {
	x.mu.Lock()
	defer x.mu.Unlock()
	defer guard.Catch("an answer that is kept back", func(guard.Panic) { _, _ = x.failed() })
	if x.finished || x.response.timer == nil {
		return
	}
	x.flush(len(x.response.kept), false, false)
}

func (x *exchange) sendResponseBody(body []byte, end bool) {
	r := &x.response
	r.hash.Write(body)
	r.out += int64(len(body))
	x.sendAnswerPieces(body, end)
}

func (x *exchange) sendAnswerPieces(body []byte, end bool) {
	x.sayBody(&x.out.answer, wire.ResponseBody, body, end)
}

func (x *exchange) responseTrailers(m *wire.Request) (done bool, err error) {
	r := &x.response
	if r.head == nil || r.ended || x.finished {
		return true, outOfOrder("response trailers")
	}
	r.begun = true
	fields := m.Fields
	if x.echoes(fields) {
		return x.withhold(errEcho)
	}
	if done, err := x.decoded(nil, true, false); done || err != nil {
		return done, err
	}
	r.ended = true
	answer := &wire.Answer{To: wire.ResponseTrailers}
	// What was taken from the body is not kept, so nothing that would have to be searched passes.
	x.rewriteFields(fields, &answer.Change, func(int) bool { return false })
	if x.attempt.http.Cookies != cookie.Pass && slices.ContainsFunc(fields, func(f web.Field) bool { return f.Name == "set-cookie" || f.Name == "set-cookie2" }) {
		answer.Remove = append(answer.Remove, "set-cookie", "set-cookie2")
	}
	x.say(&x.out.answer, answer, 0)
	x.finish(x.outcome(x.result()))
	return false, nil
}

// result is how an answer that came to its end ended.
func (x *exchange) result() gate.Result {
	switch {
	case x.response.local:
		return gate.TargetFailed
	case x.response.lost != nil:
		return gate.WithheldBy
	default:
		return gate.Completed
	}
}

// withhold ends an exchange whose answer the agent may not have: with a 502 while the head is kept back, and after that by breaking
// off the stream, which is a reset for the agent. A redirect or an error whose head is kept back loses its body only.
func (x *exchange) withhold(why error) (done bool, err error) {
	a, r := x.attempt, &x.response
	if note, ok := x.noteOf(why); ok {
		return x.loseBody(why, note)
	}
	reason := why.Error()
	if r.released {
		x.flush(len(r.kept), false, false)
		o := x.outcome(gate.WithheldBy)
		o.Reason, o.Problem = reason, gate.Withheld
		x.finish(o)
		return true, status.Error(codes.Aborted, "countersign: the answer was withheld: "+reason)
	}
	detail := "The target's answer was withheld"
	var known *web.Withheld
	var unredactable *redact.Withheld
	if errors.As(why, &known) || errors.As(why, &unredactable) {
		detail += ": " + reason
	}
	a.Tell(gate.Refusal{Problem: gate.Withheld, Detail: detail + ". The operation itself may have been carried out."})
	o := x.outcome(gate.WithheldBy)
	o.Reason, o.Problem = reason, gate.Withheld
	o.Status, o.BytesOut, o.BodySHA256 = a.reply().Status, int64(len(a.reply().Body)), sum(a.reply().Body)
	x.finish(o)
	x.say(&x.out.answer, immediate(a.reply(), &a.Op), 0)
	return true, nil
}

// tokenOver ends what is under way where the agent's token is not good any more, and the resource ends with it. What follows is
// not passed on, in either direction.
func (x *exchange) tokenOver(why *identity.Refusal) {
	x.mu.Lock()
	defer x.mu.Unlock()
	defer guard.Catch("the end of a token", func(guard.Panic) { _, _ = x.failed() })
	if x.finished {
		return
	}
	x.response.kept = nil
	passed := x.response.released
	_, _ = x.withhold(&web.Withheld{Reason: fmt.Sprintf("the agent's token is not good any more (%s): %s, and this resource ends with it (end_with_token)", why.Reason, why.Detail)})
	if passed { // Envoy breaks off an answer that it is to answer in another way
		x.say(&x.out.answer, immediate(&web.Reply{Status: http.StatusBadGateway}, &x.attempt.Op), 0)
	}
}
