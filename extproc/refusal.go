package extproc

import (
	"net/http"
	"strconv"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/countersign/countersign/extproc/gate"
	"github.com/countersign/countersign/extproc/inspect/web"
)

// ProblemPrefix begins the `type` of every refusal (RFC 9457).
const ProblemPrefix = "urn:countersign:problem:"

// answer is a refusal as an HTTP answer.
type answer struct {
	status int
	fields []web.Field
	body   []byte
}

// statuses are the HTTP statuses of refusals.
var statuses = map[gate.Problem]int{
	gate.Unauthenticated:     http.StatusUnauthorized,
	gate.Denied:              http.StatusForbidden,
	gate.ApprovalUnavailable: http.StatusForbidden,
	gate.ApprovalPending:     http.StatusForbidden,
	gate.Unreadable:          http.StatusBadRequest,
	gate.TooLarge:            http.StatusRequestEntityTooLarge,
	gate.Withheld:            http.StatusBadGateway,
	gate.Unavailable:         http.StatusServiceUnavailable,
}

// grpcStatuses are the statuses of refusals to calls of gRPC. Envoy would make one of the HTTP status, and 502 would be
// UNAVAILABLE, which clients take for leave to call again: that is for what was not done. What was withheld may have been
// done, so it is FAILED_PRECONDITION: not to be called again before something is mended.
var grpcStatuses = map[gate.Problem]codes.Code{
	gate.Unauthenticated:     codes.Unauthenticated,
	gate.Denied:              codes.PermissionDenied,
	gate.ApprovalUnavailable: codes.PermissionDenied,
	gate.ApprovalPending:     codes.PermissionDenied,
	gate.Unreadable:          codes.InvalidArgument,
	gate.TooLarge:            codes.InvalidArgument,
	gate.Withheld:            codes.FailedPrecondition,
	gate.Unavailable:         codes.Unavailable,
}

// retryAfter is when an agent may try again, in seconds. People take longer than machines.
var retryAfter = map[gate.Problem]string{gate.Unavailable: "5", gate.ApprovalPending: "15"}

// render writes a refusal as application/problem+json, and for a call of gRPC its status too: Envoy makes the rest of what
// gRPC wants. challenge is the WWW-Authenticate value of an unauthenticated one.
func render(r gate.Refusal, requestID, challenge string, grpc bool) *answer {
	code, known := statuses[r.Problem]
	if !known {
		r.Problem, code = gate.Unavailable, http.StatusServiceUnavailable
	}
	a := &answer{status: code, body: problemOf(r, code, requestID), fields: []web.Field{
		{Name: "content-type", Value: problemType},
		{Name: "cache-control", Value: "no-store"},
	}}
	if r.Problem == gate.Unauthenticated {
		a.fields = append(a.fields, web.Field{Name: "www-authenticate", Value: challenge})
	}
	if grpc {
		a.fields = append(a.fields, web.Field{Name: "grpc-status", Value: strconv.Itoa(int(grpcStatuses[r.Problem]))})
	}
	if wait := retryAfter[r.Problem]; wait != "" {
		a.fields = append(a.fields, web.Field{Name: "retry-after", Value: wait})
	}
	return a
}

const problemType = "application/problem+json"

// problemOf is a refusal as the body of an answer with that status.
func problemOf(r gate.Refusal, code int, requestID string) []byte {
	b := append(make([]byte, 0, 512), `{"type":`...)
	b = gate.AppendText(b, ProblemPrefix+string(r.Problem))
	b = append(b, `,"title":`...)
	b = gate.AppendText(b, r.Problem.Title())
	b = append(b, `,"status":`...)
	b = strconv.AppendInt(b, int64(code), 10)
	b = append(b, `,"detail":`...)
	b = gate.AppendText(b, r.Detail)
	b = append(b, `,"request_id":`...)
	b = gate.AppendText(b, requestID)
	b = append(b, `,"rules":[`...)
	for i, rule := range r.Rules {
		if i > 0 {
			b = append(b, ',')
		}
		b = gate.AppendText(b, rule)
	}
	b = append(b, ']')
	if p := r.Approval; p != nil {
		b = append(b, `,"approval":{"id":`...)
		b = gate.AppendText(b, p.ID)
		b = append(b, `,"url":`...)
		b = gate.AppendText(b, p.URL)
		b = append(b, `,"expires":`...)
		b = gate.AppendText(b, p.Expires.UTC().Format(time.RFC3339))
		b = append(b, '}')
	}
	return append(b, "}\n"...)
}
