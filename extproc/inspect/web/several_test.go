package web

import (
	"errors"
	"strings"
	"testing"

	"github.com/countersign/countersign/extproc/gate"
)

const (
	linesType    = "content-type: application/x-ndjson"
	sequenceType = "content-type: application/json-seq"
)

// TestSeveralValues: policy sees the values of a body of several, in order, and no body.
func TestSeveralValues(t *testing.T) {
	bulk := "{\"delete\":{\"_id\":\"1\"}}\n{ \"b\": 2, \"a\": 1e2 }\n"
	want := gate.Raw(`[{"delete":{"_id":"1"}},{"a":100,"b":2}]`)
	for _, c := range []struct {
		name, path, contentType, body string
		want                          gate.Raw
	}{
		{"lines", "/_bulk", linesType, bulk, want},
		{"lines that end with CR LF", "/_bulk", linesType, strings.ReplaceAll(bulk, "\n", "\r\n"), want},
		{"lines whose last one does not end", "/_bulk", linesType, strings.TrimSuffix(bulk, "\n"), want},
		{"lines under a vendor's name", "/x", "content-type: application/vnd.elasticsearch+x-ndjson;compatible-with=8", bulk, want},
		{"one line", "/x", linesType, "{}\n", "[{}]"},
		{"lines of scalars", "/x", "content-type: application/jsonl", "1\n\"a\"\nnull\n", `[1,"a",null]`},
		{"a sequence", "/x", sequenceType, "\x1e{\"a\":\n1}\n\x1e2\n", `[{"a":1},2]`},
		{"lines as JSON, to Elasticsearch", "/logs/_bulk", jsonType, bulk, want},
		{"lines as JSON, to its search", "/_msearch", "content-type: application/json; charset=utf-8", bulk, want},
	} {
		t.Run(c.name, func(t *testing.T) {
			r, _, err := read(limits, head("POST", c.path, c.contentType), c.body)
			if err != nil {
				t.Fatal(err)
			}
			bodies, _ := r.Object().Get("bodies")
			if _, in := r.Object().Get("body"); in || bodies != c.want {
				t.Errorf("policy sees %v, and a body: %v; want %v", bodies, in, c.want)
			}
		})
	}
	for _, c := range []struct{ name, path, contentType, body string }{
		{"lines as JSON, to anybody else", "/logs/bulk", jsonType, bulk},
		{"lines under another name of JSON", "/_bulk", "content-type: application/vnd.api+json", bulk},
		{"lines as text", "/_bulk", textType, bulk},
		{"a list with more after it, to Elasticsearch", "/_bulk", jsonType, "[\n{}\n]\n{}\n"},
	} {
		_, _, err := read(limits, head("POST", c.path, c.contentType), c.body)
		var refused *Error
		if !errors.As(err, &refused) || refused.Problem != gate.Unreadable {
			t.Errorf("%s: %v, want it refused", c.name, err)
		}
	}
}

// TestManyValuesAreCounted: values of lines count as those of one value do.
func TestManyValuesAreCounted(t *testing.T) {
	few := limits
	few.MaxValues = 3
	for body, fits := range map[string]bool{"1\n2\n3\n": true, "1\n2\n3\n4\n": false, "[1]\n2\n": true, "[1]\n[2]\n": false} {
		if _, _, err := read(few, post(linesType), body); (err == nil) != fits {
			t.Errorf("%q: %v", body, err)
		}
	}
}
