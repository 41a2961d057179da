package web

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/countersign/countersign/extproc/inspect/coding"
)

// Response is the head of an answer that may have to be redacted.
type Response struct {
	Status      int
	ContentType string
	HasBody     bool // a body may follow; false for HEAD, 1xx, 204 and 304 whatever the fields say
	Length      int64
	Fields      []Field // without pseudo-header fields

	tunnel bool // the answer to a CONNECT
}

// Reply is an answer that the gateway gives itself, in the place of the target's.
type Reply struct {
	Status int
	Fields []Field
	Body   []byte
}

// Withheld says why an answer must not be shown. The agent is told, so the reason has nothing of the answer in it.
type Withheld struct {
	Reason string
	OfBody bool // the reason is the body's alone: the head could pass
}

func (e *Withheld) Error() string { return e.Reason }

// ReadResponse reads the head of the answer to a request with the given method. ended says that no body and no trailers
// follow.
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

// Switched reports whether the bytes that follow are of another protocol: they end with the connection, and no end of them
// is told.
func (r *Response) Switched() bool { return r.Status == 101 || r.tunnel && r.Status/100 == 2 }

// Redactable says why the body of r could not be redacted whatever is in it, or nil.
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

// LosesBody reports whether r, where its body cannot be shown, passes without one. A redirect or an error says by its status
// what is to be done; an agent that took a body for what it asked for could not tell that there was another.
func (r *Response) LosesBody() bool { return r.HasBody && r.Status >= 300 }

// Completes reports whether a field is one without which the status says nothing: where a redirect leads, what a 401 or 407 asks for.
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

// Codings are the content codings of the body, in the order in which they were applied. An answer without a body has none,
// whatever it says.
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

// Passage is how a field of a redacted answer passes.
type Passage uint8

const (
	Removed  Passage = iota // whatever is not known to say nothing of the body
	Searched                // free text: passes where the whole body is known and nothing that was taken from it is in it
	Passes                  // of a closed form, or made without looking at the body
)

// redactedFields are the fields that pass with a redacted answer. A list of what tells of the original would never end (its
// length, a digest, a validator, a size, user metadata, under any vendor's name), so this is a list of what does not. A
// resource may add names, which are searched.
var redactedFields = []struct {
	passage Passage
	why     string
	names   []string // one that ends with "-*" stands for all that begin so
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

// PassageOf says how a field of a redacted answer passes, where a resource adds names to the list.
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

// isNamed reports whether name is in a list of names, in which one that ends with "-*" stands for all that begin so.
func isNamed(list []string, name string) bool {
	return slices.ContainsFunc(list, func(n string) bool {
		if prefix, ok := strings.CutSuffix(n, "*"); ok {
			return strings.HasPrefix(name, prefix)
		}
		return n == name
	})
}

// What a request asks of an answer that is redacted. A field is removed only where that makes a read more complete, or
// changes how the answer is written: what is done must stay what was judged.
//
//   - coded fields have the answer written in a way that cannot be read, or ask for what describes it. Without them the
//     same is done.
//   - conditional fields have it depend on the bytes before redaction whether, or how much of, something comes or is done,
//     and so tell of them. Without them a read is whole. A write would be another write.
var coded = set("accept-encoding", "want-digest", "want-content-digest", "want-repr-digest", "a-im")

// conditional is true for the conditions of HTTP (RFC 9110, section 13), WebDAV (If), CalDAV and the object stores
// (x-amz-copy-source-if-match, x-ms-if-tags, x-goog-if-generation-match), by their shape, and for ranges.
func conditional(name string) bool {
	return name == "if" || name == "range" || strings.HasPrefix(name, "if-") || strings.Contains(name, "-if-")
}

// RemovedForRedaction reports whether a field is removed from a request of that method whose answer is redacted.
func RemovedForRedaction(method, name string) bool {
	return coded[name] || reads(method) && asksLess(name)
}

func asksLess(name string) bool { return coded[name] || conditional(name) || name == "x-ms-range" }

// Condition returns a field without which r would be another request, and whose outcome would tell of an answer that is
// redacted. Trailers are not removed, so there it is any condition.
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

// reads is true for the methods that ask for a representation and do nothing else (RFC 9110, section 9.3).
func reads(method string) bool { return method == "GET" || method == "HEAD" }
