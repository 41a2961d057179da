package extproc

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"hash"
	"io"
	"strconv"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/countersign/countersign/extproc/gate"
	"github.com/countersign/countersign/extproc/guard"
	"github.com/countersign/countersign/extproc/inspect/cookie"
	"github.com/countersign/countersign/extproc/inspect/echo"
	"github.com/countersign/countersign/extproc/inspect/web"
	"github.com/countersign/countersign/extproc/lane"
	"github.com/countersign/countersign/extproc/wire"
)

// maxPiece is the size of the body pieces that are sent to Envoy, as its documentation recommends.
const maxPiece = 64 << 10

// exchange is one HTTP request and its answer: one ext_proc stream. Envoy sends the request's parts and then the
// answer's, both in FULL_DUPLEX_STREAMED mode, and each direction is answered in order: head, body, trailers.
//
// mu guards everything below it: the stream's own goroutine holds it while it handles a message, and the timer that
// passes on what is kept back of an answer takes it too. It is not locked while a message is sent: see outgoing.
type exchange struct {
	server *Server
	stream grpc.ServerStream

	mu       sync.Mutex
	out      outgoing
	attempt  *attempt
	decided  bool   // allowed, and the request's head was released
	endToken func() // stops the wait for the end of the agent's token; nil before it was decided
	finished bool
	ending   *gate.Outcome // that is to be recorded when the answer has been sent
	late     *time.Timer   // bounds the wait for the rest of the request, and then for the answer to be sent; nil where there is none

	// envoyRefused is true where Envoy refused the request before it came here (an upgrade that no route has, say): the
	// only answer is Envoy's own, and no target saw anything. Its access log tells of it.
	envoyRefused bool

	request struct {
		ended    bool
		headOnly bool      // neither body nor trailers came
		hash     hash.Hash // of a streamed body
	}
	response response
}

// Process serves one HTTP request.
func (s *Server) Process(stream grpc.ServerStream) (err error) {
	st, end, err := s.lane.Begin()
	if err != nil {
		return status.Error(codes.Unavailable, "countersign: "+err.Error())
	}
	defer end()
	if name := metadataValue(stream.Context(), ClockMetadata); name != "" {
		return s.clock(st, stream, name)
	}
	x := &exchange{server: s, stream: stream}
	x.out.moved = sync.NewCond(&x.mu)
	defer x.close()
	defer func() {
		if unsent := x.finishSending(); err == nil {
			err = unsent
		}
	}()
	for {
		var m wire.Request
		err := stream.RecvMsg(&m)
		if errors.Is(err, io.EOF) {
			return nil // Envoy is done with the stream
		}
		if err != nil {
			return err // the client or the target is gone: close tells which
		}
		if done, err := x.handle(st, &m); done || err != nil {
			return err
		}
	}
}

// handle answers one message. done says that nothing more is to be said on this stream.
func (x *exchange) handle(st *lane.State, m *wire.Request) (done bool, err error) {
	x.mu.Lock()
	defer x.mu.Unlock()
	defer guard.Catch("an operation", func(guard.Panic) { done, err = x.failed() })
	if x.out.err != nil {
		return true, x.out.err
	}
	ctx := x.stream.Context()
	switch m.Part {
	case wire.RequestHead:
		return x.requestHead(ctx, st, m)
	case wire.RequestBody:
		return x.requestBody(ctx, m)
	case wire.RequestTrailers:
		return x.requestTrailers(ctx, m)
	case wire.ResponseHead:
		return x.responseHead(m)
	case wire.ResponseBody:
		return x.responseBody(m)
	case wire.ResponseTrailers:
		return x.responseTrailers(m)
	default:
		return true, status.Error(codes.Unimplemented, "countersign: Envoy sent a message that is not known here")
	}
}

// isLocal reports whether an answer is Envoy's own, in the place of one that the target did not give.
func isLocal(details string) bool { return details != "" && details != "via_upstream" }

func (x *exchange) requestHead(ctx context.Context, st *lane.State, m *wire.Request) (done bool, err error) {
	if x.attempt != nil {
		return true, status.Error(codes.InvalidArgument, "countersign: a second request on one stream")
	}
	x.begin(ctx, st, m)
	if !x.attempt.head(ctx, m.Fields) {
		return x.refuse()
	}
	if m.Last {
		x.request.ended, x.request.headOnly = true, true
		return x.decide(ctx, nil)
	}
	if x.attempt.streams {
		x.request.hash = sha256.New()
		return x.decide(ctx, nil)
	}
	if limit := x.attempt.http.RequestTime; limit > 0 {
		x.late = time.AfterFunc(limit, guard.Func("a request that is late", x.tooLate))
	}
	return false, nil
}

// begin makes the attempt.
func (x *exchange) begin(ctx context.Context, st *lane.State, m *wire.Request) {
	peer := metadataValue(ctx, PeerMetadata)
	if peer == "" {
		peer = m.Source
	}
	x.attempt = x.server.newAttempt(st, call{
		resource: metadataValue(ctx, ResourceMetadata), fingerprint: metadataValues(ctx, FingerprintMetadata), peer: peer,
		answers: answersOf(m.Answers), connection: connectionOf(ctx),
	}, m.Fields)
}

// metadataValue returns the single value of a gRPC metadata key, or "" if it is missing or repeated.
func metadataValue(ctx context.Context, key string) string {
	if values := metadata.ValueFromIncomingContext(ctx, key); len(values) == 1 {
		return values[0]
	}
	return ""
}

// metadataValues returns all values of a gRPC metadata key, joined: a repeated one equals nothing that is right.
func metadataValues(ctx context.Context, key string) string {
	return strings.Join(metadata.ValueFromIncomingContext(ctx, key), ",")
}

// stopLate ends the timer: what it waits for has come, or will not.
func (x *exchange) stopLate() {
	if x.late != nil {
		x.late.Stop()
	}
}

// tooLate is the timer's: a request that trickles in is not waited for for ever. Envoy ends the stream after it.
func (x *exchange) tooLate() {
	x.mu.Lock()
	defer x.mu.Unlock()
	defer guard.Catch("a request that is late", func(guard.Panic) { _, _ = x.failed() })
	if x.request.ended || x.finished {
		return
	}
	x.attempt.tooLate(x.stream.Context())
	_, _ = x.refuse()
}

func (x *exchange) requestBody(ctx context.Context, m *wire.Request) (done bool, err error) {
	if err := x.room(&x.out.request); err != nil {
		return true, err
	}
	if x.attempt == nil || x.request.ended {
		return true, outOfOrder("request body")
	}
	if x.attempt.Refused() {
		return true, nil
	}
	if a := x.attempt; !a.streams && !a.take(ctx, a.light+a.reader.Holds(int64(len(m.Body)))) {
		return x.refuse()
	}
	x.attempt.received += int64(len(m.Body))
	if x.attempt.streams {
		x.request.ended = m.Last
		x.request.hash.Write(m.Body)
		x.sendRequestBody(m.Body, m.Last)
		return false, nil
	}
	if err := x.attempt.reader.Write(m.Body); err != nil {
		x.attempt.refuseError(ctx, err)
		return x.refuse()
	}
	x.request.ended = m.Last
	if m.Last {
		return x.decide(ctx, nil)
	}
	return false, nil
}

func (x *exchange) requestTrailers(ctx context.Context, m *wire.Request) (done bool, err error) {
	if x.attempt == nil || x.request.ended {
		return true, outOfOrder("request trailers")
	}
	if x.attempt.Refused() {
		return true, nil
	}
	x.request.ended = true
	trailers := &wire.Answer{To: wire.RequestTrailers}
	if x.attempt.streams {
		// Policy did not see these, so they do not pass.
		for _, f := range m.Fields {
			trailers.Remove = append(trailers.Remove, f.Name)
		}
		x.say(&x.out.request, trailers, 0)
		return false, nil
	}
	if !x.attempt.trailers(ctx, m.Fields) {
		return x.refuse()
	}
	if err := x.attempt.reader.Trailers(m.Fields); err != nil {
		x.attempt.refuseError(ctx, err)
		return x.refuse()
	}
	return x.decide(ctx, trailers)
}

// decide rules on the request and, where it is allowed, sends on what came of it: the head, the body, and the trailers.
func (x *exchange) decide(ctx context.Context, trailers *wire.Answer) (done bool, err error) {
	x.stopLate()
	credential, allowed := x.attempt.decide(ctx)
	if !allowed {
		return x.refuse()
	}
	x.sendOn(credential, trailers)
	return false, nil
}

// sendOn sends on an allowed request.
func (x *exchange) sendOn(credential web.Field, trailers *wire.Answer) {
	a := x.attempt
	x.decided = true
	x.endToken = a.EndWithToken(x.tokenOver)
	x.response.plan = a.plan
	if a.call.seesAnswers() {
		x.response.credential = credential.Value
		x.response.echo = echo.New(a.http.forms.Forms(credential.Value, a.cookieSecrets(nil)))
	}
	a.Expect()
	x.say(&x.out.request, &wire.Answer{To: wire.RequestHead, Change: x.requestChange(credential, trailers != nil), Named: named(&a.Op)}, 0)
	body := a.request.Body
	a.forward()
	x.sendRead(body, trailers)
}

// sendRead sends the body that was read, and the trailers after it; nil where there are none.
func (x *exchange) sendRead(body Body, trailers *wire.Answer) {
	if m, ok := body.From.(InMemory); ok || body.Size == 0 {
		if len(m) > 0 || x.request.ended && !x.request.headOnly && trailers == nil {
			x.sendRequestBody(m, trailers == nil)
		}
		if trailers != nil {
			x.say(&x.out.request, trailers, 0)
		}
		return
	}
	go guard.Func("a body that is spooled", func() { x.sendSpool(body, trailers) })()
}

// sendSpool sends a body piece by piece, each when the one before it has gone.
func (x *exchange) sendSpool(body Body, trailers *wire.Answer) {
	x.mu.Lock()
	defer x.mu.Unlock()
	defer guard.Catch("a body that is spooled", func(guard.Panic) { _, _ = x.failed() })
	for at := int64(0); at < body.Size; {
		piece := make([]byte, min(maxPiece, body.Size-at))
		if n, err := body.From.ReadAt(piece, at); n < len(piece) {
			x.server.lane.Log.Error("a body that was judged cannot be read again", "operation", x.attempt.Op.ID, "error", err)
			_, _ = x.failed()
			return
		}
		at += int64(len(piece))
		x.sendRequestBody(piece, at == body.Size && trailers == nil)
		if err := x.room(&x.out.request); err != nil || x.finished {
			return
		}
	}
	if trailers != nil {
		x.say(&x.out.request, trailers, 0)
	}
}

// requestChange is what changes between the head that was judged and the one that the target gets: identity fields
// go, the target's credential comes, and the length of a body that was read whole is stated.
func (x *exchange) requestChange(credential web.Field, trailers bool) wire.Change {
	a := x.attempt
	m := wire.Change{Remove: a.request.Remove}
	if a.plan != nil {
		remove, _ := a.request.Redacted() // fits has seen that there is no error
		m.Remove = append(m.Remove, remove...)
	}
	if a.plan != nil || a.turning != nil || x.response.echo != nil || a.http.Cookies == cookie.Session {
		m.Remove = append(m.Remove, "accept-encoding")
	}
	m.Put(a.request.Set...)
	if credential.Name != "" {
		m.Put(credential)
	}
	if x.request.ended && !x.request.headOnly && !trailers && !a.streams {
		m.Put(web.Field{Name: "content-length", Value: strconv.FormatInt(a.request.Body.Size, 10)})
	}
	return m
}

func (x *exchange) sendRequestBody(body []byte, end bool) {
	x.sayBody(&x.out.request, wire.RequestBody, body, end)
}

// sayBody cuts a body into messages. A body of no bytes is one message where it ends the stream, and none otherwise.
func (x *exchange) sayBody(in *line, of wire.Part, body []byte, end bool) {
	for last := len(body) == 0 && !end; !last; {
		n := min(len(body), maxPiece)
		last = n == len(body)
		x.say(in, &wire.Answer{To: of, Body: body[:n], Last: end && last}, n)
		body = body[n:]
	}
}

// refuse tells the agent no, in the place of the target's answer.
func (x *exchange) refuse() (done bool, err error) {
	a := x.attempt
	x.finish(a.outcomeOfHold(x.stream.Context()))
	x.say(&x.out.answer, immediate(a.reply(), &a.Op), 0)
	return true, nil
}

// finish records how the operation ended, once.
func (x *exchange) finish(o gate.Outcome) {
	if x.finished {
		return
	}
	x.finished = true
	x.response.stop()
	x.stopLate()
	if x.decided {
		x.attempt.Forget()
		x.endToken()
	}
	x.ending = &o
	if x.record(); x.ending != nil {
		x.late = time.AfterFunc(unsentTime, guard.Func("the end of an operation", x.recordUnsent))
	}
}

// unsentTime is how long a record of the end waits for the answer to be sent, where Envoy does not take it.
const unsentTime = time.Second

func (x *exchange) recordUnsent() {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.recordNow()
}

// record records how the operation ended, when its answer has been sent.
func (x *exchange) record() {
	if x.out.answer.sent() {
		x.recordNow()
	}
}

// recordNow does so without that. A panic there undoes nothing of what has happened.
func (x *exchange) recordNow() {
	if o := x.ending; o != nil {
		defer guard.Catch("the end of an operation", nil)
		x.ending = nil
		x.stopLate()
		x.attempt.Finish(*o)
	}
}

// close is called when the stream has ended, for whatever reason.
func (x *exchange) close() {
	x.mu.Lock()
	defer x.mu.Unlock()
	defer guard.Catch("the end of an operation", func(guard.Panic) { _, _ = x.failed() })
	x.response.stop()
	a := x.attempt
	if a != nil {
		defer a.Share.Set(0)
	}
	if a == nil || x.finished {
		return
	}
	if !x.decided {
		a.refuse(context.Background(), gate.Refusal{Problem: gate.Unreadable, Detail: "The client left before its request was complete."})
		o := a.outcomeOfRefusal()
		o.Result, o.Reason, o.Status, o.BytesOut, o.BodySHA256 = gate.ClientGone, "the client left before its request was complete", 0, 0, ""
		x.finish(o)
		return
	}
	if x.response.whole() || x.response.switched() {
		x.finish(x.outcome(x.result()))
		return
	}
	x.finished = true
	x.endToken()
	a.Await(x.outcome(gate.ClientGone), !a.call.seesAnswers())
}

// outcome is what is known by now of how an allowed operation ended.
func (x *exchange) outcome(result gate.Result) gate.Outcome {
	o := x.response.outcome()
	o.Result = result
	o.BytesIn = x.attempt.received
	o.Duration = x.server.lane.Now().Sub(x.attempt.Started)
	if x.request.hash != nil {
		o.RequestSHA256 = hex.EncodeToString(x.request.hash.Sum(nil))
	}
	return o
}

func outOfOrder(what string) error {
	return status.Errorf(codes.InvalidArgument, "countersign: Envoy sent a %s where none can be: check the filter's processing_mode", what)
}

// named has Envoy's access log name the operation.
func named(op *gate.Operation) wire.Named {
	return wire.Named{Operation: op.ID, Trace: op.Context.TraceID()}
}

func immediate(a *web.Reply, op *gate.Operation) *wire.Answer {
	answer := &wire.Answer{Status: a.Status, Body: a.Body, Named: named(op)}
	answer.Put(a.Fields...)
	return answer
}

func sum(b []byte) string {
	s := sha256.Sum256(b)
	return hex.EncodeToString(s[:])
}
