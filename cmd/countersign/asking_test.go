package main

import (
	"strings"
	"testing"

	"github.com/countersign/countersign/extproc/gate"
	"github.com/countersign/countersign/extproc/inspect/web"
)

// TestACardOfSeveralValuesIsRedacted: to a path each value of a body of several is a document, on a card too.
func TestACardOfSeveralValuesIsRedacted(t *testing.T) {
	i := web.New(web.Options{MaxBody: 1 << 10})
	err := i.Head([]web.Field{
		{Name: ":method", Value: "POST"}, {Name: ":scheme", Value: "https"}, {Name: ":authority", Value: "api.example"},
		{Name: ":path", Value: "/_bulk"}, {Name: "content-type", Value: "application/x-ndjson"},
	})
	if err == nil {
		err = i.Write([]byte("{\"ssn\":\"219-09-9999\"}\n{\"a\":{\"ssn\":\"219-09-9999\",\"n\":1}}\n"))
	}
	if err != nil {
		t.Fatal(err)
	}
	request, err := i.Request()
	if err != nil {
		t.Fatal(err)
	}
	a := &asking{redactKey: []byte("sixteen bytes at least")}
	shown, err := a.shown(&gate.Question{
		Operation: &gate.Operation{Detail: request},
		Verdict:   gate.Verdict{Effect: gate.Ask, Redactions: []gate.Redaction{{Path: "$.ssn"}, {Path: "$.a.ssn", With: gate.Remove}}},
	})
	if err != nil {
		t.Fatal(err)
	}
	bodies, _ := shown.Get("bodies")
	text, err := gate.AppendJSON(nil, bodies)
	if want := `[{"ssn":"[redacted]"},{"a":{"n":1,"ssn":"[redacted]"}}]`; err != nil || string(text) != want || strings.Contains(string(text), "219") {
		t.Errorf("the card has %s, %v; want %s", text, err, want)
	}
}
