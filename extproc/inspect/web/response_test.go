package web

import (
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/countersign/countersign/extproc/gate"
	"github.com/countersign/countersign/extproc/inspect/coding"
)

func answer(status string, more ...string) []Field {
	fields := []Field{{":status", status}}
	for _, m := range more {
		name, value, _ := strings.Cut(m, ": ")
		fields = append(fields, Field{name, value})
	}
	return fields
}

func TestResponsesThatAreWithheld(t *testing.T) {
	for _, c := range []struct {
		name   string
		fields []Field
		say    string
	}{
		{"no status", answer("")[1:], "no status"},
		{"two statuses", answer("200", ":status: 204"), "the status"},
		{"a status that is no number", answer("ok"), "the status"},
		{"a status with a sign", answer("+20"), "the status"},
		{"a status of two digits", answer("99"), "the status"},
		{"a status of four digits", answer("0200"), "the status"},
		{"a status past the known ones", answer("600"), "the status"},
		{"two Content-Types", answer("200", "content-type: application/json", "content-type: text/plain"), "more than one Content-Type"},
		{"two Content-Types, the first of them empty", answer("200", "content-type: ", "content-type: text/plain"), "more than one Content-Type"},
		{"two Content-Lengths that differ", answer("200", "content-length: 1", "content-length: 2"), "Content-Length"},
		{"a Content-Length that is no number", answer("200", "content-length: x"), "Content-Length"},
		{"a name in upper case, which no table here would know", answer("200", "Content-Encoding: gzip"), "lower case"},
	} {
		t.Run(c.name, func(t *testing.T) {
			r, err := ReadResponse("GET", c.fields, false)
			var withheld *Withheld
			if !errors.As(err, &withheld) || !strings.Contains(withheld.Reason, c.say) {
				t.Errorf("%+v, %v; want %q", r, err, c.say)
			}
		})
	}
}

func TestCodingsOfAnAnswer(t *testing.T) {
	for _, c := range []struct {
		name, method string
		fields       []Field
		want         []coding.Coding
		say          string
	}{
		{"none", "GET", answer("200"), nil, ""},
		{"an empty field", "GET", answer("200", "content-encoding: "), nil, ""},
		{"one", "GET", answer("200", "content-encoding: gzip"), []coding.Coding{coding.Gzip}, ""},
		{"one behind identity, in another field", "GET", answer("200", "content-encoding: identity", "content-encoding: br"), []coding.Coding{coding.Brotli}, ""},
		{"one that is not known", "GET", answer("200", "content-encoding: gzip, compress"), nil, "the target's answer is encoded in a way that cannot be read here (Content-Encoding: gzip, compress)"},
		{"one that is not known, of no body", "HEAD", answer("200", "content-encoding: compress"), nil, ""},
		{"of nothing", "GET", answer("204", "content-encoding: gzip"), nil, ""},
		{"of what did not change", "GET", answer("304", "content-encoding: gzip"), nil, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			r, err := ReadResponse(c.method, c.fields, false)
			if err != nil {
				t.Fatal(err)
			}
			got, err := r.Codings()
			if diff := cmp.Diff(c.want, got); diff != "" || (err == nil) != (c.say == "") || err != nil && !strings.Contains(err.Error(), c.say) {
				t.Errorf("%v; want %q\n%s", err, c.say, diff)
			}
			if err := r.Redactable(); err != nil {
				t.Errorf("redactable: %v", err)
			}
		})
	}
}

func TestResponsesThatCannotBeRedacted(t *testing.T) {
	for _, c := range []struct {
		name, method string
		fields       []Field
		say          string
	}{
		{"a part of the content", "GET", answer("206", "content-range: bytes 0-1/2"), "206"},
		{"a part of the content that says 200", "GET", answer("200", "content-range: bytes 0-1/2"), "Content-Range"},
		{"a difference to what the agent has", "GET", answer("226", "im: vcdiff"), "226"},
		{"a switch of protocols", "GET", answer("101", "upgrade: websocket"), "another protocol"},
		{"a tunnel", "CONNECT", answer("200"), "another protocol"},
		{"a plain answer", "GET", answer("200", "content-type: application/json", "content-encoding: Identity"), ""},
		{"an error", "GET", answer("500"), ""},
		{"a tunnel that was not made", "CONNECT", answer("403"), ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			r, err := ReadResponse(c.method, c.fields, false)
			if err != nil {
				t.Fatal(err)
			}
			err = r.Redactable()
			if c.say == "" && err != nil || c.say != "" && (err == nil || !strings.Contains(err.Error(), c.say)) {
				t.Errorf("%v; want %q", err, c.say)
			}
		})
	}
}

func TestResponseHead(t *testing.T) {
	r, err := ReadResponse("GET", answer("200", "content-type: text/plain", "content-length: 5", "content-length: 5", "x: y"), false)
	if err != nil {
		t.Fatal(err)
	}
	want := []Field{{"content-type", "text/plain"}, {"content-length", "5"}, {"content-length", "5"}, {"x", "y"}}
	if diff := cmp.Diff(want, r.Fields); diff != "" || r.Status != 200 || r.ContentType != "text/plain" || r.Length != 5 || !r.HasBody {
		t.Errorf("%+v %s", r, diff)
	}
	for _, c := range []struct {
		name, method, status string
		ended, body          bool
	}{
		{"an answer to HEAD", "HEAD", "200", false, false},
		{"no content", "GET", "204", false, false},
		{"not modified", "GET", "304", false, false},
		{"an answer that has ended", "GET", "200", true, false},
		{"an interim answer", "GET", "103", false, false},
		{"an error", "POST", "404", false, true},
	} {
		r, err := ReadResponse(c.method, answer(c.status), c.ended)
		if err != nil || r.HasBody != c.body || r.Length != -1 {
			t.Errorf("%s: %+v, %v", c.name, r, err)
		}
	}
}

// What is not known to say nothing of the body does not pass with a redacted one.
func TestFieldsThatTellOfTheOriginal(t *testing.T) {
	added := []string{"x-total-count", "x-page-*"}
	for want, names := range map[Passage][]string{
		Removed: {
			"etag", "content-length", "content-md5", "digest", "repr-digest", "last-modified", "accept-ranges", "x-amz-checksum-crc32",
			"x-checksum-sha1", "x-goog-stored-content-length", "x-ms-blob-content-md5", "x-bz-content-sha1", "docker-content-digest",
			"x-oss-hash-crc64ecma", "x-content-sha256", "x-amz-meta-ssn", "x-linked-etag", "x-file-size", "content-encoding",
			"set-cookie", "server-timing", "x-anything", "x-page", "ratelimited", "x-ratelimit",
		},
		Passes:   {"content-type", "date", "cache-control", "x-request-id", "retry-after", "ratelimit-remaining", "x-ratelimit-reset", "access-control-allow-origin", "grpc-status"},
		Searched: {"location", "link", "www-authenticate", "content-disposition", "x-total-count", "x-page-next"},
	} {
		for _, name := range names {
			if got := PassageOf(name, added); got != want {
				t.Errorf("%s: passage %d, want %d", name, got, want)
			}
		}
	}
	names := map[string]bool{}
	for _, group := range redactedFields {
		for _, name := range group.names {
			if names[name] || group.why == "" || name != strings.ToLower(name) || strings.Contains(strings.TrimSuffix(name, "-*"), "*") {
				t.Errorf("%s stands in the list twice, without a reason, or is not a name", name)
			}
			names[name] = true
		}
	}
}

// A condition goes from a read, which is then whole, and ends a write, which would be another without it.
func TestConditionsAndRedaction(t *testing.T) {
	conditions := []string{
		"range", "if-range", "if-none-match", "if-modified-since", "if-match", "if-unmodified-since", "if", "if-schedule-tag-match",
		"x-amz-copy-source-if-match", "x-amz-if-match-size", "x-ms-if-tags", "x-ms-source-if-none-match", "x-goog-if-generation-match",
	}
	for _, method := range []string{"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "QUERY", "PROPFIND", "OPTIONS"} {
		read := method == "GET" || method == "HEAD"
		for _, name := range conditions {
			r := &Request{Method: method, Headers: gate.Object{{Name: name, Value: []string{"*"}}}}
			if _, found := r.Condition(); found == read || RemovedForRedaction(method, name) != read {
				t.Errorf("%s with %s: refused %t, removed %t", method, name, found, RemovedForRedaction(method, name))
			}
			r = &Request{Method: method, Trailers: gate.Object{{Name: name, Value: []string{"*"}}}}
			if _, found := r.Condition(); !found {
				t.Errorf("%s with the trailer %s is not refused", method, name)
			}
		}
		for _, name := range []string{"accept-encoding", "want-digest", "want-repr-digest", "a-im"} {
			if !RemovedForRedaction(method, name) {
				t.Errorf("%s with %s: it is sent on", method, name)
			}
		}
		for _, name := range []string{"accept", "prefer", "expect", "content-range", "x-iffy", "notify"} {
			r := &Request{Method: method, Headers: gate.Object{{Name: name, Value: []string{"*"}}}}
			if _, found := r.Condition(); found || RemovedForRedaction(method, name) {
				t.Errorf("%s with %s: refused %t, removed %t", method, name, found, RemovedForRedaction(method, name))
			}
		}
	}
}
