package extproc_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/countersign/countersign/extproc/extproctest"
	"github.com/countersign/countersign/extproc/gate"
	"github.com/countersign/countersign/extproc/inspect/web"
)

// TestSchemaEqualsInput holds policies/input.schema.json to what an operation really gives policy: every member of the
// one is in the other, so that a rule that type-checks looks at something that is there.
func TestSchemaEqualsInput(t *testing.T) {
	compressed, err := extproctest.Encode("gzip", []byte(`{"a":1}`))
	if err != nil {
		t.Fatal(err)
	}
	input := slices.Concat(
		inputOf(t, "application/json", `{"a":1}`), inputOf(t, "application/x-ndjson", "{}\n{}\n"),
		inputOf(t, "application/json", string(compressed), web.Field{Name: "content-encoding", Value: "gzip"}),
		inputOf(t, "multipart/mixed; boundary=x", "--x\r\n\r\na\r\n--x--\r\n"),
	)
	slices.Sort(input)
	text, err := os.ReadFile(filepath.Join("..", "policies", "input.schema.json"))
	if err != nil {
		t.Fatal(err)
	}
	var schema schemaNode
	if err := json.Unmarshal(text, &schema); err != nil {
		t.Fatal(err)
	}
	described := slices.DeleteFunc(schema.paths("input"), func(path string) bool { // the details of other kinds: their own tests hold them
		member, _, _ := strings.Cut(strings.TrimPrefix(path, "input."), ".")
		return path != "input" && !slices.Contains([]string{"context", "http", "principal", "resource"}, member)
	})
	if diff := cmp.Diff(described, slices.Compact(input)); diff != "" {
		t.Errorf("the schema's members (-) and the input's (+):\n%s", diff)
	}
}

// inputOf lists the members that policy sees of a request with such a body.
func inputOf(t *testing.T, contentType, body string, more ...web.Field) []string {
	t.Helper()
	in := web.New(web.Options{MaxBody: 1 << 10})
	err := in.Head(append([]web.Field{
		{Name: ":method", Value: "POST"},
		{Name: ":scheme", Value: "https"},
		{Name: ":authority", Value: "api.example:443"},
		{Name: ":path", Value: "/v1/things?a=1"},
		{Name: "content-type", Value: contentType},
		{Name: "traceparent", Value: "00"},
	}, more...))
	if err == nil {
		err = in.Write([]byte(body))
	}
	if err != nil {
		t.Fatal(err)
	}
	request, err := in.Request()
	if err != nil {
		t.Fatal(err)
	}
	op := gate.Operation{
		Principal: &gate.Principal{Issuer: "https://idp.example", Subject: "s", OnBehalfOf: &gate.Party{Issuer: "https://idp.example", Subject: "p"}},
		Resource:  gate.Resource{Name: "things", Kind: "http"},
		Detail:    request,
		Context:   gate.Context{Time: time.Unix(0, 0), Approval: &gate.Grant{ID: "a"}},
	}
	input, err := op.Seen()
	if err != nil {
		t.Fatal(err)
	}
	return pathsOf("input", append(slices.Clone(input), gate.Member{Name: "context", Value: op.Context.Object(op.Principal)}))
}

type schemaNode struct {
	Properties map[string]schemaNode `json:"properties"`
}

// paths lists the members that the schema names.
func (n schemaNode) paths(at string) []string {
	list := []string{at}
	for name, p := range n.Properties {
		list = append(list, p.paths(at+"."+name)...)
	}
	slices.Sort(list)
	return list
}

// open are objects whose member names are the agent's or the issuer's.
var open = []string{"input.http.body", "input.http.bodies", "input.http.headers", "input.http.query", "input.http.form", "input.http.trailers", "input.principal.claims", "input.resource.labels"}

func pathsOf(at string, v any) []string {
	list := []string{at}
	if o, ok := v.(gate.Object); ok && !slices.Contains(open, at) {
		for _, m := range o {
			list = append(list, pathsOf(at+"."+m.Name, m.Value)...)
		}
	}
	slices.Sort(list)
	return list
}
