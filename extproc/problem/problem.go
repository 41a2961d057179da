// Package problem writes refusals as application/problem+json (RFC 9457), for clients of HTTP and for those of gRPC.
package problem

import (
	"net/http"
	"strconv"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/countersign/countersign/extproc/gate"
	"github.com/countersign/countersign/extproc/inspect/web"
)

// ContentType is that of a refusal.
const ContentType = "application/problem+json"

// JSON refuses to clients of HTTP.
type JSON struct{}

// Refuse writes a refusal. One whose problem has no status here says that the gateway is unavailable.
func (JSON) Refuse(r gate.Refusal, requestID, challenge string) web.Reply {
	code, known := statuses[r.Problem]
	if !known {
		r.Problem, code = gate.Unavailable, http.StatusServiceUnavailable
	}
	reply := write(r, code, requestID)
	reply.Fields = append(reply.Fields, web.Field{Name: "cache-control", Value: "no-store"})
	if r.Problem == gate.Unauthenticated {
		reply.Fields = append(reply.Fields, web.Field{Name: "www-authenticate", Value: challenge})
	}
	if wait := retryAfter[r.Problem]; wait != "" {
		reply.Fields = append(reply.Fields, web.Field{Name: "retry-after", Value: wait})
	}
	return reply
}

// Note writes why a body was withheld.
func (JSON) Note(r gate.Refusal, status int, requestID string) (web.Reply, bool) {
	return write(r, status, requestID), true
}

// GRPC refuses to clients of gRPC: it adds the status that they go by. Envoy makes the rest of what they want.
type GRPC struct{}

// Refuse writes a refusal.
func (GRPC) Refuse(r gate.Refusal, requestID, challenge string) web.Reply {
	reply := JSON{}.Refuse(r, requestID, challenge)
	code, known := grpcStatuses[r.Problem]
	if !known {
		code = codes.Unavailable
	}
	reply.Fields = append(reply.Fields, web.Field{Name: "grpc-status", Value: strconv.Itoa(int(code))})
	return reply
}

// Note writes nothing: a client of gRPC goes by a status that comes after the body.
func (GRPC) Note(gate.Refusal, int, string) (web.Reply, bool) { return web.Reply{}, false }

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

// write makes a reply with that status.
func write(r gate.Refusal, status int, requestID string) web.Reply {
	b := append(make([]byte, 0, 512), `{"type":`...)
	b = gate.AppendText(b, r.Problem.Type())
	b = append(b, `,"title":`...)
	b = gate.AppendText(b, r.Problem.Title())
	b = append(b, `,"status":`...)
	b = strconv.AppendInt(b, int64(status), 10)
	b = append(b, `,"detail":`...)
	detail := r.Detail
	if r.Approval != nil {
		detail += " Beside Countersign-Approval with this approval's id such a request is refused instead."
	}
	b = gate.AppendText(b, detail)
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
	return web.Reply{Status: status, Fields: []web.Field{{Name: "content-type", Value: ContentType}}, Body: append(b, "}\n"...)}
}
