package policy

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/countersign/countersign/extproc/gate"
)

// TestRulesHoldForSeveralValues: a rule about one body holds for each of several values, and a rule about several for one, so
// that nothing is hidden from policy by sending it the other way.
func TestRulesHoldForSeveralValues(t *testing.T) {
	const small, large = `{"amount":5}`, `{"amount":500}`
	allow := `allow contains {"id": "all"}` + "\n\n"
	for _, c := range []struct {
		name, rules string
		body        string // of one value; or
		bodies      string
		want        gate.Effect
	}{
		{"a deny about one body, and a large second value", allow + `deny contains {"id": "large"} if input.http.body.amount > 100`, "", "[" + small + "," + large + "]", gate.Deny},
		{"a deny about one body, and small values", allow + `deny contains {"id": "large"} if input.http.body.amount > 100`, "", "[" + small + "," + small + "]", gate.Allow},
		{"a deny about one body, by a helper", allow + "deny contains {\"id\": \"large\"} if large\n\nlarge if input.http.body.amount > 100", "", "[" + large + "]", gate.Deny},
		{"a deny about one body, by the whole request", allow + `deny contains {"id": "large"} if object.get(input.http, ["body", "amount"], 0) > 100`, "", "[" + large + "]", gate.Deny},
		{"an ask about one body", allow + `ask contains {"id": "large", "approvers": ["x"]} if input.http.body.amount > 100`, "", "[" + small + "," + large + "," + large + "]", gate.Ask},
		{"an allow about one body", `allow contains {"id": "small"} if input.http.body.amount < 100`, "", "[" + small + "]", gate.Deny},
		{"an allow about several", `allow contains {"id": "small"} if { every b in input.http.bodies { b.amount < 100 } }`, "", "[" + small + "," + small + "]", gate.Allow},
		{"an allow about several, and a deny about one", "allow contains {\"id\": \"bulk\"} if count(input.http.bodies) == 2\n\n" + `deny contains {"id": "large"} if input.http.body.amount > 100`, "", "[" + small + "," + small + "]", gate.Allow},
		{"an allow that says that there is no body", `allow contains {"id": "none"} if not input.http.body.amount`, "", "[" + large + "]", gate.Deny},
		{"an allow that a helper about one body is not in the way of", "allow contains {\"id\": \"fine\"} if not large\n\nlarge if input.http.body.amount > 100", "", "[" + large + "]", gate.Deny},
		{"an allow with a default", "allow contains {\"id\": \"fine\"} if amount < 100\n\ndefault amount := 0\n\namount := input.http.body.amount", "", "[" + large + "]", gate.Deny},
		{"an allow with an else", "allow contains {\"id\": \"fine\"} if amount < 100\n\namount := input.http.body.amount if true\n\nelse := 0", "", "[" + large + "]", gate.Deny},
		{"an allow that counts", "allow contains {\"id\": \"fine\"} if count([a | a := input.http.body.amount; a > 100]) == 0", "", "[" + large + "]", gate.Deny},
		{"an allow that counts a set", "allow contains {\"id\": \"fine\"} if count(larger) == 0\n\nlarger contains a if {\n\ta := input.http.body.amount\n\ta > 100\n}", "", "[" + large + "]", gate.Deny},
		{"an allow that falls back", `allow contains {"id": "fine"} if object.get(input.http, ["body", "amount"], 0) < 100`, "", "[" + large + "]", gate.Deny},
		{"an allow that negates something else", "allow contains {\"id\": \"fine\"} if {\n\tnot input.http.query.dry\n\tinput.http.method == \"POST\"\n}\n\n" + `allow contains {"id": "small"} if input.http.body.amount < 100`, "", "[" + large + "]", gate.Allow},
		{"a redaction about one body", allow + `redact contains {"path": "$.x"} if input.http.body.amount > 100`, "", "[" + small + "," + large + "]", gate.Allow},

		{"a deny about several, and one", allow + `deny contains {"id": "large"} if input.http.bodies[_].amount > 100`, large, "", gate.Deny},
		{"a deny about several, and a small one", allow + `deny contains {"id": "large"} if input.http.bodies[_].amount > 100`, small, "", gate.Allow},
		{"an allow that says that there are not several", `allow contains {"id": "fine"} if not input.http.bodies[0].amount`, large, "", gate.Deny},
		{"an allow about one, whatever the whole request is", `allow contains {"id": "fine"} if object.get(input.http, ["body", "amount"], 0) > 100`, large, "", gate.Allow},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := load(t, Options{CacheSize: 8}, rego(c.rules))
			call := web{method: "POST", segments: []string{"_bulk"}, bodies: c.bodies}
			if c.body != "" {
				call.body = gate.Raw(c.body)
			}
			for range 2 { // the second time it is remembered
				v, err := s.Evaluate(t.Context(), operation("payments", call))
				if err != nil || v.Effect != c.want {
					t.Errorf("verdict %+v, error %v; want %v", v, err, c.want)
				}
				if strings.Contains(c.rules, "redact") && len(v.Redactions) != 1 {
					t.Errorf("redactions %v", v.Redactions)
				}
				if len(v.Asks) > 1 {
					t.Errorf("asked the same %d times", len(v.Asks))
				}
			}
			x, err := s.Explain(t.Context(), "payments", explainInput(t, call))
			if err != nil || x.Verdict.Effect != c.want {
				t.Errorf("explained as %+v, %v", x.Verdict, err)
			}
			if c.want == gate.Deny && strings.Contains(c.rules, "deny contains") && !strings.Contains(x.String(), `"large"`) {
				t.Errorf("the explanation leaves out what denies:\n%s", x.String())
			}
		})
	}
}

// TestManyValuesTakeBoundedTime: what an agent sends decides how often rules are asked, within a bound.
func TestManyValuesTakeBoundedTime(t *testing.T) {
	now, asked := time.Unix(0, 0), 0
	o := Options{Timeout: time.Second, Now: func() time.Time { asked++; now = now.Add(time.Second / 4); return now }}
	s := load(t, o, rego(`allow contains {"id": "all"} if not input.http.body.admin`))
	var values strings.Builder
	for i := range 1000 {
		fmt.Fprintf(&values, ",%d", i)
	}
	call := web{method: "POST", segments: []string{"_bulk"}, bodies: "[" + values.String()[1:] + "]"}
	if v, err := s.Evaluate(t.Context(), operation("payments", call)); err == nil || v.Effect != gate.Deny || !strings.Contains(err.Error(), "each value of the body") {
		t.Errorf("verdict %+v, error %v after asking the time %d times", v, err, asked)
	}
}
