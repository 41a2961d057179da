package policy

import (
	"errors"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/open-policy-agent/opa/v1/ast"

	"github.com/countersign/countersign/extproc/gate"
)

func rule(id string) gate.Rule { return gate.Rule{Package: "p", ID: id} }

func askOf(id string, quorum int, approvers ...string) gate.AskRule {
	return gate.AskRule{Rule: rule(id), Approvers: approvers, Quorum: quorum}
}

func TestCombine(t *testing.T) {
	allow := Sets{Allow: []gate.Rule{rule("a")}}
	deny := Sets{Deny: []gate.Rule{rule("d")}}
	ask := Sets{Ask: []gate.AskRule{askOf("b", 1, "x")}}
	ask2 := Sets{Ask: []gate.AskRule{askOf("c", 2, "y", "z")}}
	bad := Sets{Allow: []gate.Rule{rule("a")}, Err: errors.New("bad element")}
	redacts := func(rs ...gate.Redaction) Sets { return Sets{Redact: rs} }
	ssn := gate.Redaction{Path: "$..ssn", With: gate.Mask}
	for _, c := range []struct {
		name  string
		said  []Sets
		want  gate.Verdict
		fails bool
	}{
		{"nobody was asked", nil, gate.Verdict{}, false},
		{"nothing said", []Sets{{}, {}}, gate.Verdict{}, false},
		{"an allow allows", []Sets{allow, {}}, gate.Verdict{Effect: gate.Allow, Rules: allow.Allow}, false},
		{"an allow of either package allows", []Sets{{}, allow}, gate.Verdict{Effect: gate.Allow, Rules: allow.Allow}, false},
		{"deny beats allow", []Sets{allow, deny}, gate.Verdict{Rules: deny.Deny}, false},
		{"deny beats ask and allow", []Sets{deny, ask, allow}, gate.Verdict{Rules: deny.Deny}, false},
		{"ask beats allow", []Sets{allow, ask}, gate.Verdict{Effect: gate.Ask, Rules: []gate.Rule{rule("b")}, Asks: ask.Ask}, false},
		{"every ask must be met", []Sets{ask, ask2}, gate.Verdict{
			Effect: gate.Ask, Rules: []gate.Rule{rule("b"), rule("c")}, Asks: []gate.AskRule{ask.Ask[0], ask2.Ask[0]},
		}, false},
		{"ask without allow asks", []Sets{ask}, gate.Verdict{Effect: gate.Ask, Rules: []gate.Rule{rule("b")}, Asks: ask.Ask}, false},
		{"an error beats allow", []Sets{allow, bad}, gate.Verdict{}, true},
		{"an error beats deny", []Sets{deny, bad}, gate.Verdict{}, true},
		{"redactions alone allow nothing", []Sets{redacts(ssn)}, gate.Verdict{}, false},
		{"redactions go with an allowance", []Sets{allow, redacts(ssn)}, gate.Verdict{Effect: gate.Allow, Rules: allow.Allow, Redactions: []gate.Redaction{ssn}}, false},
		{"a denial has nothing to redact", []Sets{deny, redacts(ssn)}, gate.Verdict{Rules: deny.Deny}, false},
		{"the redaction that leaves less holds", []Sets{
			allow,
			redacts(gate.Redaction{Path: "$.a", With: gate.Token}, gate.Redaction{Path: "$.a", With: gate.Mask}, gate.Redaction{Path: "$.b", With: gate.Null}),
			redacts(gate.Redaction{Path: "$.b", With: gate.Remove}, gate.Redaction{Path: "$.a", With: gate.Token}),
		}, gate.Verdict{Effect: gate.Allow, Rules: allow.Allow, Redactions: []gate.Redaction{{Path: "$.a", With: gate.Mask}, {Path: "$.b", With: gate.Remove}}}, false},
		{"limits alone allow nothing", []Sets{{Limit: gate.Limits{Rows: 5}}}, gate.Verdict{}, false},
		{"a denial has nothing to limit", []Sets{deny, {Limit: gate.Limits{Rows: 5}}}, gate.Verdict{Rules: deny.Deny}, false},
		{"the least of each limit holds", []Sets{
			allow, {Limit: gate.Limits{Rows: 100, Time: time.Second}}, {Limit: gate.Limits{Rows: 7, Bytes: 9, Time: time.Minute, ReadOnly: true}},
		}, gate.Verdict{Effect: gate.Allow, Rules: allow.Allow, Limits: gate.Limits{Rows: 7, Bytes: 9, Time: time.Second, ReadOnly: true}}, false},
		{"limits go with what is asked", []Sets{ask, {Limit: gate.Limits{Rows: 5}}}, gate.Verdict{Effect: gate.Ask, Rules: []gate.Rule{rule("b")}, Asks: ask.Ask, Limits: gate.Limits{Rows: 5}}, false},
		{"a limit that is none", []Sets{allow, {Limit: gate.Limits{Rows: -1}}}, gate.Verdict{}, true},
		{"a zero allow rule", []Sets{{Allow: make([]gate.Rule, 1)}}, gate.Verdict{}, true},
		{"a zero deny rule", []Sets{{Deny: make([]gate.Rule, 1)}}, gate.Verdict{}, true},
		{"a zero ask rule", []Sets{allow, {Ask: make([]gate.AskRule, 1)}}, gate.Verdict{}, true},
		{"an ask without a quorum", []Sets{allow, {Ask: []gate.AskRule{askOf("b", 0, "x")}}}, gate.Verdict{}, true},
		{"an ask without approvers", []Sets{allow, {Ask: []gate.AskRule{askOf("b", 1)}}}, gate.Verdict{}, true},
		{"a zero redaction", []Sets{allow, redacts(gate.Redaction{})}, gate.Verdict{}, true},
		{
			"a value that people see, unless one hides it",
			[]Sets{allow, redacts(gate.Redaction{Path: "$.a", With: gate.Remove, OnCard: true}, gate.Redaction{Path: "$.b", With: gate.Mask, OnCard: true}), redacts(gate.Redaction{Path: "$.a", With: gate.Mask})},
			gate.Verdict{Effect: gate.Allow, Rules: allow.Allow, Redactions: []gate.Redaction{{Path: "$.a", With: gate.Remove}, {Path: "$.b", With: gate.Mask, OnCard: true}}},
			false,
		},
		{"a redaction by nothing", []Sets{allow, redacts(gate.Redaction{Path: "$.a"})}, gate.Verdict{}, true},
		{"a redaction by path and detector", []Sets{allow, redacts(gate.Redaction{Path: "$.a", Detect: "email", With: gate.Mask})}, gate.Verdict{}, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := combine(c.said...)
			if (err != nil) != c.fails {
				t.Errorf("error %v", err)
			}
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// FuzzElements decodes any Rego term as an element of each set. Whatever it is, nothing but a valid allow element without
// a deny, an ask or an error beside it allows.
func FuzzElements(f *testing.F) {
	for _, seed := range []string{
		`{"id": "x"}`, `{"id": ""}`, `{"id": "x", "reason": 7}`, `{"id": "x", "approvers": ["a"], "quorum": 2}`,
		`{"id": "x", "approvers": []}`, `{"path": "$.a", "with": "null"}`, `{"detect": "email"}`, `{"path": "$.a", "detect": "email"}`,
		`"x"`, `["id"]`, `{"id"}`, `{1: 2}`, `null`, `true`, `1e400`, `{"id": {"id": "x"}}`, `{"id": "a\u0000b"}`,
	} {
		f.Add(seed, seed)
	}
	f.Fuzz(func(t *testing.T, one, two string) {
		values := [2]ast.Value{}
		for i, text := range []string{one, two} {
			term, err := ast.ParseTerm(text)
			if err != nil {
				return
			}
			values[i] = term.Value
		}
		for kind := allowSet; kind < setKinds; kind++ {
			checkDecoded(t, kind, values[0], values[1])
		}
	})
}

func checkDecoded(t *testing.T, kind setKind, allowed, other ast.Value) {
	s := &Set{options: Options{CheckRedaction: anyRedaction}, redactions: newGenerations[gate.Redaction, error](1, nil)}
	var sets Sets
	a, errA := decodeElement(allowSet, allowed)
	if errA != nil {
		sets.Err = errA
	} else if err := s.take(&sets, said{pkg: "p", kind: allowSet}, a); err != nil {
		sets.Err = err
	}
	b, errB := decodeElement(kind, other)
	if errB != nil {
		sets.Err = errB
	} else if err := s.take(&sets, said{pkg: "p", kind: kind}, b); err != nil {
		sets.Err = err
	}
	v, err := combine(sets)
	may := errA == nil && errB == nil && (kind == allowSet || kind == redactSet || kind == limitSet)
	if (v.Effect == gate.Allow) != (may && err == nil) {
		t.Errorf("allow %v and %s %v (%v, %v) give %v, error %v", allowed, kind, other, errA, errB, v, err)
	}
	if errA == nil && (a.id == "" || len(a.id) > maxIDBytes) {
		t.Errorf("%v was decoded to the id %q", allowed, a.id)
	}
	if v.Effect == gate.Ask && (len(v.Asks) == 0 || v.Asks[0].Quorum < 1 || len(v.Asks[0].Approvers) == 0) {
		t.Errorf("%v asks for nobody: %v", other, v.Asks)
	}
}
