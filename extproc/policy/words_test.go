package policy

import (
	"slices"
	"strings"
	"testing"

	"github.com/countersign/countersign/extproc/gate"
)

// refunds is a policy with a rule that asks for refunds in the words of summary, beside one that allows all.
func refunds(summary string) string {
	return `package rules.payments

allow contains {"id": "any"}

ask contains {"id": "refund", "approvers": ["oncall"], "summary": ` + summary + `} if input.http.segments[3] == "refunds"
`
}

// TestARuleAsksWithoutItsSummary: what an agent leaves out can take the words from a rule that asks, and not the asking.
func TestARuleAsksWithoutItsSummary(t *testing.T) {
	for _, c := range []struct {
		name, rego, want string
	}{
		{"a text", refunds(`"A refund"`), "A refund"},
		{"values that are there", refunds(`sprintf("Refund of payment %s", [input.http.segments[2]])`), "Refund of payment 7"},
		{"a template", refunds(`$"Refund of payment {input.http.segments[2]}"`), "Refund of payment 7"},
		{"a variable of the body", strings.Replace(refunds(`sprintf("Refund of %s", [id])`), `if input`, "if {\n\tid := input.http.segments[2]\n\tinput", 1) + "}\n", "Refund of 7"},
		{"a value that is not there", refunds(`sprintf("Refund %v of payment %s", [input.http.body.amount, input.http.segments[2]])`), ""},
		{"a label that is not there", refunds(`input.resource.labels.what`), ""},
		{"a helper that is undefined", refunds(`words`) + "\nwords := \"x\" if input.http.method == \"PATCH\"\n", ""},
		{"a rule that takes in another package's", "package rules.payments\n\nallow contains {\"id\": \"any\"}\n\nask contains rule if some rule in data.rules.other.ask\n", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			files := rego(c.rego)
			files["other.rego"] = strings.Replace(refunds(`sprintf("%v", [input.http.body.amount])`), "rules.payments", "rules.other", 1)
			s := load(t, Options{}, files)
			call := web{method: "POST", segments: []string{"v1", "payments", "7", "refunds"}}
			v, err := s.Evaluate(t.Context(), operation("payments", call))
			if err != nil || v.Effect != gate.Ask || len(v.Asks) != 1 || v.Asks[0].Summary != c.want {
				t.Errorf("%v of %+v, error %v; want to be asked about %q", v.Effect, v.Asks, err, c.want)
			}
			x, err := s.Explain(t.Context(), "payments", explainInput(t, call))
			if want := `"summary": "` + c.want + `"`; err != nil || !strings.Contains(x.String(), want) || !strings.Contains(x.String(), "payments.rego:") {
				t.Errorf("the explanation has no %s: %v\n%s", want, err, x.String())
			}
		})
	}
}

// TestARuleSpeaksWithoutItsReason: nor does it take a denial, or the asking, that its reason quotes what is not there.
func TestARuleSpeaksWithoutItsReason(t *testing.T) {
	for _, c := range []struct {
		name, rule string
		effect     gate.Effect
		reasons    []string
	}{
		{"a denial", `deny contains {"id": "x", "reason": sprintf("%v is too much", [input.http.body.amount])} if input.http.method == "GET"`, gate.Deny, []string{""}},
		{"a denial in a template", `deny contains {"id": "x", "reason": $"not for {input.principal.claims.team}"} if input.http.method == "GET"`, gate.Deny, []string{"not for <undefined>"}},
		{"a denial with a reason that is there", `deny contains {"id": "x", "reason": sprintf("%s is closed", [input.http.segments[0]])} if input.http.method == "GET"`, gate.Deny, []string{"v1 is closed"}},
		{"a denial for each of several", `deny contains {"id": "x", "reason": input.http.segments[_]} if input.http.method == "GET"`, gate.Deny, []string{"payments", "v1"}},
		{"a denial for each of several by name", `deny contains {"id": "x", "reason": input.http.segments[n]} if input.http.method == "GET"`, gate.Deny, []string{"payments", "v1"}},
		{"a denial for each of none", `deny contains {"id": "x", "reason": input.principal.claims.banned[_]} if input.http.method == "GET"`, gate.Allow, []string{""}},
		{"a denial in which a list is one text", `deny contains {"id": "x", "reason": sprintf("%v of %v", [input.http.body.amount, [s | s := input.http.segments[_]]])} if input.http.method == "GET"`, gate.Deny, []string{""}},
		{"an ask", `ask contains {"id": "x", "approvers": ["a"], "reason": input.http.headers["x-why"][0]} if input.http.method == "GET"`, gate.Ask, []string{""}},
	} {
		s := load(t, Options{}, rego("package rules.payments\n\nallow contains {\"id\": \"any\"}\n\n"+c.rule))
		v, err := s.Evaluate(t.Context(), operation("payments", get("v1", "payments")))
		var reasons []string
		for _, r := range v.Rules {
			reasons = append(reasons, r.Reason)
		}
		if err != nil || v.Effect != c.effect || !slices.Equal(reasons, c.reasons) {
			t.Errorf("%s: %v for %q, error %v", c.name, v.Effect, reasons, err)
		}
	}
}

// TestASummaryOfOneKindOfSeveral: in rules for several kinds a rule that is one kind's may speak of its detail.
func TestASummaryOfOneKindOfSeveral(t *testing.T) {
	files := rego("package rules.payments\n\nallow contains {\"id\": \"any\"}")
	files["global.rego"] = strings.Replace(refunds(`sprintf("%s %s", [input.http.method, input.http.segments[2]])`), "rules.payments\n\nallow contains {\"id\": \"any\"}", "rules.global", 1)
	s := load(t, Options{Kinds: []Kind{httpKinds[0], {Name: "tcp", Detail: struct {
		Port int `json:"port"`
	}{}}}, Packages: map[string][]string{"payments": {"http", "tcp"}}}, files)
	v, err := s.Evaluate(t.Context(), operation("payments", web{method: "POST", segments: []string{"v1", "payments", "7", "refunds"}}))
	if err != nil || len(v.Asks) != 1 || v.Asks[0].Summary != "POST 7" {
		t.Errorf("%+v, %v", v, err)
	}
}
