package web

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/countersign/countersign/extproc/inspect/coding"
)

// Response is the head of a target's answer.
type Response struct {
	Status      int
	ContentType string
	HasBody     bool    // a body may follow; false for HEAD, 1xx, 204 and 304 whatever the fields say
	Length      int64   // Content-Length; -1 if there is none
	Fields      []Field // without pseudo-header fields

	tunnel bool // the answer to a CONNECT
}

// Reply is an answer that the gateway writes itself, in place of the target's.
type Reply struct {
	Status int
	Fields []Field
	Body   []byte
}

// Withheld says why an answer is not passed on. The agent reads the reason, so it must quote nothing of the answer.
type Withheld struct {
	Reason string
	OfBody bool // only the body is at fault: the head could pass
}

func (e *Withheld) Error() string { return e.Reason }

// ReadResponse reads the head of the answer to a request of that method. ended says that no body and no trailers follow.
func ReadResponse(method string, fields []Field, ended bool) (*Response, error) {
	r := &Response{Length: -1, Fields: make([]Field, 0, len(fields)), tunnel: method == "CONNECT"}
	for _, f := range fields {
		if !isFieldName(f.Name) {
			return nil, &Withheld{Reason: "the target's answer has a header field whose name is not one in lower case"}
		}
		if f.Name == ":status" {
			n, err := strconv.Atoi(f.Value)
			if err != nil || r.Status != 0 || len(f.Value) != 3 || n < 100 || n > 599 {
				return nil, &Withheld{Reason: "the status of the target's answer is not one from 100 to 599"}
			}
			r.Status = n
			continue
		}
		if f.Name[0] == ':' {
			continue
		}
		if err := r.field(f); err != nil {
			return nil, err
		}
		r.Fields = append(r.Fields, f)
	}
	if r.Status == 0 {
		return nil, &Withheld{Reason: "the target's answer has no status"}
	}
	r.HasBody = !ended && method != "HEAD" && r.Status >= 200 && r.Status != 204 && r.Status != 304
	return r, nil
}

func (r *Response) field(f Field) error {
	switch f.Name {
	case "content-type":
		if slices.ContainsFunc(r.Fields, func(g Field) bool { return g.Name == f.Name }) {
			return &Withheld{Reason: "the target's answer has more than one Content-Type"}
		}
		r.ContentType = f.Value
	case "content-length":
		n, err := strconv.ParseInt(f.Value, 10, 64)
		if err != nil || n < 0 || r.Length >= 0 && r.Length != n {
			return &Withheld{Reason: "the target's answer has a Content-Length that is not a number of bytes, or two that differ"}
		}
		r.Length = n
	}
	return nil
}

// Switched reports whether the bytes that follow are another protocol's. They last as long as the connection.
func (r *Response) Switched() bool { return r.Status == 101 || r.tunnel && r.Status/100 == 2 }

// Redactable says why the body of r can never be redacted, whatever it holds, or returns nil.
func (r *Response) Redactable() error {
	switch {
	case r.Status == 206 || r.Status == 226:
		return &Withheld{Reason: fmt.Sprintf("the target answered with a part of the content (%d), and a part cannot be redacted", r.Status)}
	case r.Switched():
		return &Withheld{Reason: "the target switched to another protocol, and what passes there cannot be redacted"}
	}
	for _, f := range r.Fields {
		if strings.HasPrefix(f.Name, "x-envoy-") { // Envoy's own, which this service cannot remove
			return &Withheld{Reason: "the target's answer has a field x-envoy-*, which only Envoy may write"}
		}
		if f.Name == "content-range" {
			return &Withheld{OfBody: true, Reason: "the target answered with a part of the content (Content-Range), and a part cannot be redacted"}
		}
	}
	return nil
}

// LosesBody reports whether r passes without its body if that cannot be shown. A redirect or an error says by its status what
// to do next. A success without its body would look complete to the agent, so it is withheld.
func (r *Response) LosesBody() bool { return r.HasBody && r.Status >= 300 }

// Completes reports whether the status needs the field of that name: a redirect its Location, a 401 or 407 its challenge.
func (r *Response) Completes(name string) bool {
	switch r.Status {
	case 401:
		return name == "www-authenticate"
	case 407:
		return name == "proxy-authenticate"
	default:
		return r.Status/100 == 3 && name == "location"
	}
}

// Codings returns the content codings of the body, in the order in which they were applied. An answer without a body has
// none, whatever its fields say.
func (r *Response) Codings() ([]coding.Coding, error) {
	if !r.HasBody {
		return nil, nil
	}
	var values []string
	for _, f := range r.Fields {
		if f.Name == "content-encoding" {
			values = append(values, f.Value)
		}
	}
	codings, err := coding.Parse(values)
	if err != nil {
		return nil, Undecoded(err)
	}
	return codings, nil
}

// Undecoded withholds an answer whose codings cannot be undone.
func Undecoded(err error) error {
	return &Withheld{OfBody: true, Reason: "the target's answer " + err.Error()}
}

// Passage says whether a field of a redacted answer passes.
type Passage uint8

const (
	Removed  Passage = iota // may tell of the body
	Searched                // free text: passes if the whole body is known and the field repeats nothing that was redacted
	Passes                  // in a closed form, or written without looking at the body
)

// redactedFields are the fields that pass with a redacted answer. A list of those that tell of the original body would never
// end (a length, a digest, a validator, user metadata, under any vendor's name), so this lists those that do not. A
// resource may add names, which are searched.
var redactedFields = []struct {
	passage Passage
	why     string
	names   []string // "x-*" stands for all names that begin with "x-"
}{
	{Passes, "what the body is: it cannot be read without", []string{"content-type", "content-language"}},
	{Passes, "when it was made and how long it is good: dates, numbers and words of a closed list", []string{"date", "age", "expires", "cache-control", "pragma", "vary", "retry-after", "deprecation", "sunset"}},
	{Passes, "what may be asked: methods and media types", []string{"allow", "accept", "accept-patch", "accept-post", "accept-query"}},
	{Passes, "how often may be asked", []string{"ratelimit", "ratelimit-*", "rate-limit-*", "x-ratelimit-*", "x-rate-limit-*"}},
	{Passes, "which request it was: an id that is made before the body", []string{"x-request-id", "request-id", "x-correlation-id", "x-ms-request-id", "x-ms-correlation-request-id", "x-amz-request-id", "x-amzn-requestid", "x-github-request-id", "traceresponse"}},
	{Passes, "which version of the interface answered", []string{"api-version", "api-supported-versions", "x-api-version", "x-ms-version", "odata-version", "openai-version"}},
	{Passes, "what a browser may do: words of closed lists", []string{"access-control-*", "strict-transport-security", "x-content-type-options", "x-frame-options", "referrer-policy"}},
	{Passes, "how a call of gRPC ended: a number", []string{"grpc-status"}},
	{Searched, "where to go on: a URL", urlFields},
	{Searched, "what to prove: a challenge in words", []string{"www-authenticate", "proxy-authenticate"}},
	{Searched, "what to call it: a file name", []string{"content-disposition"}},
	{Searched, "what went wrong: a sentence", []string{"grpc-message", "warning"}},
}

// PassageOf says whether a field of a redacted answer passes. added are the names that the resource adds.
func PassageOf(name string, added []string) Passage {
	for _, group := range redactedFields {
		if isNamed(group.names, name) {
			return group.passage
		}
	}
	if isNamed(added, name) {
		return Searched
	}
	return Removed
}

// isNamed reports whether name is in a list of names and of prefixes that end with "*".
func isNamed(list []string, name string) bool {
	return slices.ContainsFunc(list, func(n string) bool {
		if prefix, ok := strings.CutSuffix(n, "*"); ok {
			return strings.HasPrefix(name, prefix)
		}
		return n == name
	})
}

// Some fields of a request do not go together with an answer that is redacted:
//
//   - coded fields ask for an encoding that may not be readable here, or for a digest of the original. They are removed from
//     every request: the target does the same without them.
//   - conditional fields make the answer depend on the original bytes, and so tell of them. They are removed from reads, which
//     are then answered whole. A write without its condition would be another write than was judged, so it is refused (see
//     [Request.Condition]).
var coded = set("accept-encoding", "want-digest", "want-content-digest", "want-repr-digest", "a-im")

// conditional reports whether a field is a condition or a range. It recognises those of HTTP (RFC 9110, section 13), WebDAV
// (If), CalDAV and object stores (x-amz-copy-source-if-match, x-ms-if-tags, x-goog-if-generation-match) by their form.
func conditional(name string) bool {
	return name == "if" || name == "range" || strings.HasPrefix(name, "if-") || strings.Contains(name, "-if-")
}

// RemovedForRedaction reports whether a field is removed from a request of that method whose answer is redacted.
func RemovedForRedaction(method, name string) bool {
	return coded[name] || reads(method) && asksLess(name)
}

// asksLess reports whether a field can make the answer to a read less than the whole, or encoded.
func asksLess(name string) bool { return coded[name] || conditional(name) || name == "x-ms-range" }

// Condition returns the first field of r that is a condition and cannot be removed: one of a write, or a trailer. Its outcome
// would tell of an answer that is redacted.
func (r *Request) Condition() (name string, found bool) {
	for _, m := range r.Headers {
		if conditional(m.Name) && !reads(r.Method) {
			return m.Name, true
		}
	}
	for _, m := range r.Trailers {
		if conditional(m.Name) {
			return m.Name, true
		}
	}
	return "", false
}

// reads reports whether a method asks for a representation and does nothing else (RFC 9110, section 9.3).
func reads(method string) bool { return method == "GET" || method == "HEAD" }
