package http

import (
	"encoding/json"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/countersign/countersign/extproc/gate"
)

// TestAttributesOfARequest: the names are those of the semantic conventions, and a method is one that they know.
func TestAttributesOfARequest(t *testing.T) {
	number := func(n string) json.Number { return json.Number(n) }
	for _, c := range []struct {
		verb, span string
		want       gate.Object
	}{
		{"GET", "GET", gate.Object{{Name: "http.request.method", Value: "GET"}, {Name: "url.path", Value: "/a"}}},
		{"XPLOIT-1", "HTTP", gate.Object{{Name: "http.request.method", Value: "_OTHER"}, {Name: "http.request.method_original", Value: "XPLOIT-1"}, {Name: "url.path", Value: "/a"}}},
	} {
		got := Kind.OTLP.Operation(gate.Object{{Name: "target", Value: "/a"}, {Name: "verb", Value: c.verb}})
		if diff := cmp.Diff(c.want, got); diff != "" || Kind.OTLP.Verb(c.verb) != c.span {
			t.Errorf("%s: a span of %s\n%s", c.verb, Kind.OTLP.Verb(c.verb), diff)
		}
	}
	sizes := gate.Object{{Name: "http.request.body.size", Value: number("3")}, {Name: "http.response.body.size", Value: number("5")}}
	for status, want := range map[string]gate.Object{
		"0":   sizes,
		"201": append(gate.Object{{Name: "http.response.status_code", Value: number("201")}}, sizes...),
	} {
		finished := gate.Object{{Name: "bytes_in", Value: number("3")}, {Name: "bytes_out", Value: number("5")}, {Name: "status", Value: number(status)}}
		if diff := cmp.Diff(want, Kind.OTLP.Result(finished)); diff != "" {
			t.Errorf("status %s:\n%s", status, diff)
		}
	}
}
