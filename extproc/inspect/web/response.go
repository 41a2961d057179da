package web

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// Response is the head of an answer that may have to be redacted.
type Response struct {
	Status      int
	ContentType string
	HasBody     bool // a body may follow; false for HEAD, 1xx, 204 and 304 whatever the fields say
	Length      int64
	Fields      []Field // without pseudo-header fields
}

// Withheld says why an answer must not be shown.
type Withheld struct{ Reason string }

func (e *Withheld) Error() string { return e.Reason }

// ReadResponse reads the head of the answer to a request with the given method. ended says that no body and no trailers
// follow.
func ReadResponse(method string, fields []Field, ended bool) (*Response, error) {
	r := &Response{Length: -1, Fields: make([]Field, 0, len(fields))}
	for _, f := range fields {
		switch f.Name {
		case ":status":
			n, err := strconv.Atoi(f.Value)
			if err != nil || r.Status != 0 {
				return nil, &Withheld{fmt.Sprintf("the target's answer has the status %q", f.Value)}
			}
			r.Status = n
			continue
		case "content-type":
			if r.ContentType != "" {
				return nil, &Withheld{"the target's answer has more than one Content-Type"}
			}
			r.ContentType = f.Value
		case "content-length":
			if n, err := strconv.ParseInt(f.Value, 10, 64); err == nil && n >= 0 {
				r.Length = n
			}
		}
		if !strings.HasPrefix(f.Name, ":") {
			r.Fields = append(r.Fields, f)
		}
	}
	if r.Status == 0 {
		return nil, &Withheld{"the target's answer has no status"}
	}
	r.HasBody = !ended && method != "HEAD" && r.Status >= 200 && r.Status != 204 && r.Status != 304
	return r, nil
}

// Redactable says why the body of r could not be redacted whatever is in it, or nil.
func (r *Response) Redactable() error {
	if r.Status == 206 {
		return &Withheld{"the target answered with a part of the content (206), and a part cannot be redacted"}
	}
	for _, f := range r.Fields {
		if f.Name == "content-encoding" && !strings.EqualFold(strings.TrimSpace(f.Value), "identity") {
			return &Withheld{fmt.Sprintf("the target encoded its answer (Content-Encoding: %s) although it was not asked to, and it cannot be read", f.Value)}
		}
		if f.Name == "content-range" {
			return &Withheld{"the target answered with a part of the content (Content-Range), and a part cannot be redacted"}
		}
	}
	return nil
}

// DescribesOriginal reports whether a response field (or trailer) tells of the bytes before redaction: their length, a
// digest of them, or a name for exactly them.
func DescribesOriginal(name string) bool { return slices.Contains(original, name) }

var original = []string{
	"etag", "digest", "content-md5", "content-digest", "repr-digest", "want-digest", "content-length", "accept-ranges",
	"last-modified", "signature", "signature-input", "x-content-digest", "x-checksum", "x-checksum-sha256", "x-amz-checksum-sha256",
	"x-goog-hash", "x-ms-content-crc64", "content-signature",
}

// Partial reports whether a request field asks for less than the whole answer, or for one that cannot be read. They are
// removed from a request whose answer is redacted.
func Partial(name string) bool { return slices.Contains(partial, name) }

var partial = []string{
	"accept-encoding", "range", "if-range", "if-match", "if-none-match", "if-modified-since", "if-unmodified-since",
	"want-digest", "want-content-digest", "want-repr-digest", "a-im",
}
