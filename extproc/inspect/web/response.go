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

	tunnel bool // the answer to a CONNECT
}

// Withheld says why an answer must not be shown.
type Withheld struct{ Reason string }

func (e *Withheld) Error() string { return e.Reason }

// ReadResponse reads the head of the answer to a request with the given method. ended says that no body and no trailers
// follow.
func ReadResponse(method string, fields []Field, ended bool) (*Response, error) {
	r := &Response{Length: -1, Fields: make([]Field, 0, len(fields)), tunnel: method == "CONNECT"}
	for _, f := range fields {
		if !isFieldName(f.Name) {
			return nil, &Withheld{fmt.Sprintf("the target's answer has a header field with the name %q, which is not a name in lower case", f.Name)}
		}
		if f.Name == ":status" {
			n, err := strconv.Atoi(f.Value)
			if err != nil || r.Status != 0 || len(f.Value) != 3 || n < 100 || n > 599 {
				return nil, &Withheld{fmt.Sprintf("the target's answer has the status %q", f.Value)}
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
		return nil, &Withheld{"the target's answer has no status"}
	}
	r.HasBody = !ended && method != "HEAD" && r.Status >= 200 && r.Status != 204 && r.Status != 304
	return r, nil
}

func (r *Response) field(f Field) error {
	switch f.Name {
	case "content-type":
		if slices.ContainsFunc(r.Fields, func(g Field) bool { return g.Name == f.Name }) {
			return &Withheld{"the target's answer has more than one Content-Type"}
		}
		r.ContentType = f.Value
	case "content-length":
		n, err := strconv.ParseInt(f.Value, 10, 64)
		if err != nil || n < 0 || r.Length >= 0 && r.Length != n {
			return &Withheld{fmt.Sprintf("the target's answer has the Content-Length %q, alone or beside another", f.Value)}
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
		return &Withheld{fmt.Sprintf("the target answered with a part of the content (%d), and a part cannot be redacted", r.Status)}
	case r.Switched():
		return &Withheld{"the target switched to another protocol, and what passes there cannot be redacted"}
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
func DescribesOriginal(name string) bool {
	return slices.Contains(original, name) || slices.ContainsFunc(originalPrefixes, func(p string) bool { return strings.HasPrefix(name, p) })
}

var original = []string{
	"etag", "digest", "content-md5", "content-digest", "repr-digest", "want-digest", "content-length", "accept-ranges",
	"last-modified", "signature", "signature-input", "content-signature", "delta-base", "x-content-digest", "x-content-length",
	"x-original-content-length", "x-uncompressed-content-length", "x-checksum", "x-goog-hash",
}

var originalPrefixes = []string{"x-checksum-", "x-amz-checksum-", "x-goog-stored-content-", "x-ms-content-", "x-ms-blob-content-"}

// Partial reports whether a request field asks for less than the whole answer, or for one that cannot be read. They are
// removed from a request whose answer is redacted.
func Partial(name string) bool { return slices.Contains(partial, name) }

var partial = []string{
	"accept-encoding", "range", "if-range", "if-match", "if-none-match", "if-modified-since", "if-unmodified-since",
	"want-digest", "want-content-digest", "want-repr-digest", "a-im",
}
