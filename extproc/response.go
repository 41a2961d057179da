package extproc

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"slices"
	"strconv"
	"strings"
	"time"

	ext "github.com/envoyproxy/go-control-plane/envoy/service/ext_proc/v3"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/countersign/countersign/extproc/gate"
	"github.com/countersign/countersign/extproc/inspect/web"
	"github.com/countersign/countersign/extproc/redact"
)

// While an answer is redacted, its head is held until the answer is whole, up to heldBytes of output and heldTime after
// the first of it: until then what must be withheld is a 502, later only a broken stream. What is held depends on the
// redacted output and never on the original, so that it tells nothing of the protected values. Answers that are streams
// by their type are released at the first value.
const (
	heldBytes = 64 << 10
	heldTime  = 200 * time.Millisecond
)

// response is the target's answer on its way to the agent.
type response struct {
	plan *redact.Plan // nil where nothing is redacted
	echo *echo        // nil where no credential was sent to the target

	head     *web.Response
	mutation *ext.HeaderMutation
	stream   *redact.Stream // nil until there are bytes to redact
	counts   []gate.Count   // of header and trailer fields
	held     []byte
	timer    *time.Timer
	released bool // the head went to the agent
	ended    bool

	local bool // the answer is Envoy's own: the target gave none
	hash  hash.Hash
	out   int64 // bytes to the agent
}

func (r *response) stop() {
	if r.timer != nil {
		r.timer.Stop()
	}
}

// whole reports whether all of an answer of stated length went to the agent. A client that has what it was promised may
// leave before Envoy has told that there is no more.
func (r *response) whole() bool {
	return r.plan == nil && r.released && r.head.Length >= 0 && (r.out == r.head.Length || !r.head.HasBody)
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
	if !r.released {
		return o // the agent got nothing of it, so nothing of what it got was redacted
	}
	o.Redacted = r.counts
	if r.stream != nil {
		o.Redacted = addCounts(o.Redacted, r.stream.Counts())
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

func (x *exchange) responseHead(m *ext.HttpHeaders) (done bool, err error) {
	if !x.decided || x.finished || x.response.head != nil {
		return true, outOfOrder("response head")
	}
	a, r := x.attempt, &x.response
	r.hash = sha256.New()
	r.ended = m.EndOfStream
	if r.head, err = web.ReadResponse(a.op.Verb, fieldsOf(m.Headers), m.EndOfStream); err != nil {
		return x.withhold(err)
	}
	if a.resource.MaxAnswer > 0 && r.head.HasBody && r.head.Length > a.resource.MaxAnswer {
		return x.withhold(tooLong(a.resource.MaxAnswer))
	}
	r.mutation = &ext.HeaderMutation{}
	if err := x.responseFields(); err != nil {
		return x.withhold(err)
	}
	if r.plan != nil && r.head.HasBody {
		return false, nil // held: see heldBytes
	}
	if err := x.release(); err != nil {
		return true, err
	}
	if r.ended {
		x.finish(x.outcome(x.result()))
	}
	return false, nil
}

// responseFields decides what becomes of the answer's header fields.
func (x *exchange) responseFields() error {
	r := &x.response
	if err := r.echo.fields(r.head.Fields); err != nil {
		return err
	}
	for _, f := range r.head.Fields {
		if f.Name == "set-cookie" { // a credential of the target
			r.mutation.RemoveHeaders = append(r.mutation.RemoveHeaders, f.Name)
			break
		}
	}
	if r.plan == nil {
		return nil
	}
	if err := r.head.Redactable(); err != nil {
		return err
	}
	x.redactFields(r.head.Fields, r.mutation)
	return nil
}

// redactFields removes what describes the original answer and redacts the rest. A name with several values is written
// whole again where one of them changed.
func (x *exchange) redactFields(fields []web.Field, m *ext.HeaderMutation) {
	r := &x.response
	changed := map[string]bool{}
	values := make([]string, len(fields))
	for i, f := range fields {
		if web.DescribesOriginal(f.Name) {
			m.RemoveHeaders = append(m.RemoveHeaders, f.Name)
			continue
		}
		v, counts := r.plan.Text(f.Value)
		values[i] = v
		r.counts = addCounts(r.counts, counts)
		if v != f.Value {
			changed[f.Name] = true
		}
	}
	for i, f := range fields {
		if changed[f.Name] && f.Name != "set-cookie" {
			m.SetHeaders = append(m.SetHeaders, addField(f.Name, values[i]))
		}
	}
	for name := range changed {
		m.RemoveHeaders = append(m.RemoveHeaders, name)
	}
}

// release sends the head to the agent.
func (x *exchange) release() error {
	r := &x.response
	r.released = true
	r.stop()
	return x.stream.Send(&ext.ProcessingResponse{Response: &ext.ProcessingResponse_ResponseHeaders{
		ResponseHeaders: &ext.HeadersResponse{Response: &ext.CommonResponse{HeaderMutation: r.mutation}},
	}})
}

func (x *exchange) responseBody(m *ext.HttpBody) (done bool, err error) {
	r := &x.response
	if r.head == nil || r.ended || x.finished {
		return true, outOfOrder("response body")
	}
	r.ended = m.EndOfStream
	out, err := x.redactBody(m.Body, m.EndOfStream)
	if err != nil {
		return x.withhold(err)
	}
	if err := x.sendAnswer(out, m.EndOfStream); err != nil {
		return true, err
	}
	if r.ended {
		x.finish(x.outcome(x.result()))
	}
	return false, nil
}

// redactBody turns the target's bytes into those that the agent may have.
func (x *exchange) redactBody(body []byte, end bool) (out []byte, err error) {
	r, limits := &x.response, x.attempt.resource
	if r.plan == nil {
		out = body
	} else {
		if r.stream == nil && len(body) > 0 {
			if r.stream, err = r.plan.Stream(r.head.ContentType, redact.Options{}); err != nil {
				return nil, err
			}
		}
		if r.stream != nil {
			if out, err = r.stream.Write(body); err != nil {
				return nil, err
			}
			if !x.attempt.redacts(r.stream.Size() + len(r.held)) {
				return nil, errNoMemory
			}
		}
		if end && r.stream != nil {
			out = append([]byte(nil), out...)
			tail, err := r.stream.Close()
			if err != nil {
				return nil, err
			}
			out = append(out, tail...)
		}
		if limits.MaxRedacted > 0 && r.out+int64(len(r.held)+len(out)) > limits.MaxRedacted {
			return nil, tooLong(limits.MaxRedacted)
		}
	}
	if limits.MaxAnswer > 0 && r.out+int64(len(r.held)+len(out)) > limits.MaxAnswer {
		return nil, tooLong(limits.MaxAnswer)
	}
	return r.echo.write(out, end)
}

func tooLong(limit int64) error {
	return &web.Withheld{Reason: fmt.Sprintf("the target's answer is larger than the %d bytes that this resource passes on", limit)}
}

// sendAnswer passes redacted output on, or holds it while the head is held.
func (x *exchange) sendAnswer(out []byte, end bool) error {
	r := &x.response
	if r.released {
		return x.sendResponseBody(out, end)
	}
	r.held = append(r.held, out...)
	if end {
		r.mutation.SetHeaders = append(r.mutation.SetHeaders, setField("content-length", strconv.Itoa(len(r.held))))
	}
	if !end && len(r.held) <= heldBytes && (len(r.held) == 0 || !flows(r.head.ContentType)) {
		if r.timer == nil && len(r.held) > 0 {
			r.timer = time.AfterFunc(heldTime, x.releaseHeld)
		}
		return nil
	}
	return x.flush(end)
}

func (x *exchange) flush(end bool) error {
	r := &x.response
	if err := x.release(); err != nil {
		return err
	}
	held := r.held
	r.held = nil
	return x.sendResponseBody(held, end)
}

// releaseHeld is the timer's: an answer that comes slowly is not held until its end.
func (x *exchange) releaseHeld() {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.finished || x.response.released {
		return
	}
	if err := x.flush(false); err != nil {
		x.server.opt.Log.Debug("release a held answer", "operation", x.attempt.op.ID, "error", err)
	}
}

// flows reports whether an answer is a stream of values by its type.
func flows(contentType string) bool {
	media, _, _ := strings.Cut(strings.ToLower(contentType), ";")
	switch strings.TrimSpace(media) {
	case "text/event-stream", "application/x-ndjson", "application/jsonl", "application/json-seq", "application/x-jsonlines", "application/stream+json":
		return true
	}
	return false
}

func (x *exchange) sendResponseBody(body []byte, end bool) error {
	r := &x.response
	r.hash.Write(body)
	r.out += int64(len(body))
	return x.sendAnswerPieces(body, end)
}

func (x *exchange) sendAnswerPieces(body []byte, end bool) error {
	return pieces(body, end, func(p *ext.CommonResponse) error {
		return x.stream.Send(&ext.ProcessingResponse{Response: &ext.ProcessingResponse_ResponseBody{ResponseBody: &ext.BodyResponse{Response: p}}})
	})
}

func (x *exchange) responseTrailers(m *ext.HttpTrailers) (done bool, err error) {
	r := &x.response
	if r.head == nil || r.ended || x.finished {
		return true, outOfOrder("response trailers")
	}
	r.ended = true
	fields := fieldsOf(m.Trailers)
	var tail []byte
	if r.stream != nil {
		if tail, err = r.stream.Close(); err != nil {
			return x.withhold(err)
		}
	}
	if tail, err = r.echo.write(tail, true); err == nil {
		err = r.echo.fields(fields)
	}
	if err != nil {
		return x.withhold(err)
	}
	mutation := &ext.HeaderMutation{}
	if r.plan != nil {
		x.redactFields(fields, mutation)
	}
	if slices.ContainsFunc(fields, func(f web.Field) bool { return f.Name == "set-cookie" }) {
		mutation.RemoveHeaders = append(mutation.RemoveHeaders, "set-cookie")
	}
	if r.released {
		err = x.sendResponseBody(tail, false)
	} else {
		r.held = append(r.held, tail...)
		err = x.flush(false)
	}
	if err != nil {
		return true, err
	}
	err = x.stream.Send(&ext.ProcessingResponse{Response: &ext.ProcessingResponse_ResponseTrailers{ResponseTrailers: &ext.TrailersResponse{HeaderMutation: mutation}}})
	if err != nil {
		return true, err
	}
	x.finish(x.outcome(x.result()))
	return false, nil
}

// result is how an answer that came to its end ended.
func (x *exchange) result() gate.Result {
	if x.response.local {
		return gate.TargetFailed
	}
	return gate.Completed
}

// withhold ends the exchange where the answer may not be shown: with a 502 while the head is held, and by breaking the
// stream after that, which Envoy passes on to the agent as a reset.
func (x *exchange) withhold(why error) (done bool, err error) {
	a, r := x.attempt, &x.response
	reason := why.Error()
	if r.released {
		o := x.outcome(gate.WithheldBy)
		o.Reason, o.Problem = reason, gate.Withheld
		x.finish(o)
		return true, status.Error(codes.Aborted, "countersign: the answer was withheld: "+reason)
	}
	told := "The target's answer was withheld"
	var known *web.Withheld
	var unredactable *redact.Withheld
	if errors.As(why, &known) || errors.As(why, &unredactable) {
		told += ": " + reason
	}
	a.settle(gate.Refusal{Problem: gate.Withheld, Detail: told + ". The operation itself may have been carried out."})
	o := x.outcome(gate.WithheldBy)
	o.Reason, o.Problem = reason, gate.Withheld
	o.Status, o.BytesOut, o.BodySHA256 = a.refused.status, int64(len(a.refused.body)), sum(a.refused.body)
	x.finish(o)
	return true, x.stream.Send(immediate(a.refused, a.op.ID))
}
