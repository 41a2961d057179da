package http

import (
	"fmt"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/countersign/countersign/extproc/evidence/otlp"
)

// TestAttributesOfARequest: the names are those of the semantic conventions, and a method is one that they know.
func TestAttributesOfARequest(t *testing.T) {
	said := func(f func(otlp.Members, otlp.Say), body string) (all []string) {
		f(otlp.Value(body).Members(nil), func(name string, value otlp.Value) { all = append(all, name+" "+string(value)) })
		return all
	}
	for _, c := range []struct {
		verb, span string
		want       []string
	}{
		{"GET", "GET", []string{`http.request.method "GET"`, `url.path "/a"`}},
		{"XPLOIT-1", "HTTP", []string{`http.request.method "_OTHER"`, `http.request.method_original "XPLOIT-1"`, `url.path "/a"`}},
	} {
		got := said(Kind.OTLP.Operation, fmt.Sprintf(`{"target":"/a","verb":%q}`, c.verb))
		if diff := cmp.Diff(c.want, got); diff != "" || Kind.OTLP.Verb(c.verb) != c.span {
			t.Errorf("%s: a span of %s\n%s", c.verb, Kind.OTLP.Verb(c.verb), diff)
		}
	}
	sizes := []string{"http.request.body.size 3", "http.response.body.size 5"}
	for status, want := range map[string][]string{
		"0":   sizes,
		"201": append([]string{"http.response.status_code 201"}, sizes...),
	} {
		if diff := cmp.Diff(want, said(Kind.OTLP.Result, fmt.Sprintf(`{"bytes_in":3,"bytes_out":5,"status":%s}`, status))); diff != "" {
			t.Errorf("status %s:\n%s", status, diff)
		}
	}
}
