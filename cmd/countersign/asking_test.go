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

// TestACardShowsWhatPolicyPutsOnIt: people see what a redaction has on the card, and nothing that another one hides.
func TestACardShowsWhatPolicyPutsOnIt(t *testing.T) {
	i := web.New(web.Options{MaxBody: 1 << 10})
	err := i.Head([]web.Field{
		{Name: ":method", Value: "POST"}, {Name: ":scheme", Value: "https"}, {Name: ":authority", Value: "api.example"},
		{Name: ":path", Value: "/mails?to=ada@example.com"}, {Name: "content-type", Value: "application/json"},
	})
	if err == nil {
		err = i.Write([]byte(`{"email":"ada@example.com","ssn":"219-09-9999","name":"Ada"}`))
	}
	if err != nil {
		t.Fatal(err)
	}
	request, err := i.Request()
	if err != nil {
		t.Fatal(err)
	}
	a := &asking{redactKey: []byte("sixteen bytes at least")}
	for _, c := range []struct {
		redact []gate.Redaction
		want   string
	}{
		{[]gate.Redaction{{Path: "$.email"}, {Path: "$.ssn"}}, `{"email":"[redacted]","name":"Ada","ssn":"[redacted]"}`},
		{[]gate.Redaction{{Path: "$.email", OnCard: true}, {Path: "$.ssn"}}, `{"email":"ada@example.com","name":"Ada","ssn":"[redacted]"}`},
		{[]gate.Redaction{{Path: "$.email", OnCard: true}, {Detect: "email", OnCard: true}}, `{"email":"ada@example.com","name":"Ada","ssn":"219-09-9999"}`},
		{[]gate.Redaction{{Path: "$.email", OnCard: true}, {Detect: "email"}}, `{"email":"[redacted]","name":"Ada","ssn":"219-09-9999"}`},
		{[]gate.Redaction{{Path: "$.email", OnCard: true}, {Path: "$.*"}}, `{"email":"[redacted]","name":"[redacted]","ssn":"[redacted]"}`},
	} {
		shown, err := a.shown(&gate.Question{Operation: &gate.Operation{Detail: request}, Verdict: gate.Verdict{Effect: gate.Ask, Redactions: c.redact}})
		if err != nil {
			t.Fatal(err)
		}
		body, _ := shown.Get("body")
		if text, err := gate.AppendJSON(nil, body); err != nil || string(text) != c.want {
			t.Errorf("%+v: the card has %s, %v; want %s", c.redact, text, err, c.want)
		}
	}
}
