package policy

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/countersign/countersign/extproc/gate"
)

// TestLimitsOfAKind: a limit that is not kept for a kind does not load where operations of that kind would have it.
func TestLimitsOfAKind(t *testing.T) {
	for _, c := range []struct{ name, payments, global, problem string }{
		{"kept", `limit contains {"rows": 5}`, "", ""},
		{"not kept by the kind", `limit contains {"bytes": 5}`, "", `payments.rego:3:1: nothing can be limited by bytes for resources of kind "tcp"`},
		{"one of several", `limit contains {"rows": 5, "read_only": true}`, "", `limited by read_only for resources of kind "tcp"`},
		{"computed", `limit contains {"bytes": n} if some n in [5]`, "", "limited by bytes"},
		{"global, for a kind that has it not", "", `limit contains {"rows": 5}`, "nothing can be limited by rows for resources of kind \"http\", which package rules.global rules on. Add the condition `input.resource.kind == \"tcp\"`"},
		{"global, on condition of the kind", "", `limit contains {"rows": 5} if input.resource.kind == "tcp"`, ""},
		{"global, on condition of the detail", "", `limit contains {"rows": 5} if input.tcp.port == 5432`, ""},
		{"global, by a rule that says the kind", "", "limit contains {\"rows\": 5} if database\n\ndatabase if input.resource.kind == \"tcp\"", ""},
		{"global, on condition of the other kind", "", `limit contains {"rows": 5} if input.http.method == "GET"`, `nothing can be limited by rows for resources of kind "http"`},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := tryLoad(t, Options{Kinds: twoKinds, Packages: map[string][]string{"payments": {"tcp"}, "web": {"http"}}}, map[string]string{
				"payments.rego": "package rules.payments\n\n" + c.payments + "\n\nallow contains {\"id\": \"x\"}\n",
				"web.rego":      "package rules.web\n\nallow contains {\"id\": \"x\"}\n",
				"global.rego":   "package rules.global\n\n" + c.global + "\n",
			})
			switch {
			case c.problem == "" && err != nil:
				t.Error(err)
			case c.problem != "" && (err == nil || !strings.Contains(err.Error(), c.problem)):
				t.Errorf("the error is %v, not about %q", err, c.problem)
			}
		})
	}
}

// TestLimitsThatAreComputed: what is not written out is looked at when it is evaluated, and what cannot be kept denies.
func TestLimitsThatAreComputed(t *testing.T) {
	element := func(text string) string {
		return "limit contains e if some e in [json.unmarshal(`" + text + "`)]"
	}
	for _, c := range []struct {
		name, rules string
		want        gate.Limits
		problem     string
		unfit       bool
	}{
		{"the least of each", "limit contains {\"rows\": n} if some n in [9, 7, 8]\n\nlimit contains {\"seconds\": 0.25}\n\nlimit contains {\"seconds\": 30}", gate.Limits{Rows: 7, Time: 250 * time.Millisecond}, "", false},
		{"a whole element", element(`{"rows": 3}`), gate.Limits{Rows: 3}, "", false},
		{"false", element(`{"read_only": false}`), gate.Limits{}, "", false},
		{"one that is not kept", element(`{"read_only": true}`), gate.Limits{}, "Policy limits this operation by read_only, which cannot be kept for resources of kind \"tcp\"", true},
		{"no number", element(`{"rows": null}`), gate.Limits{}, "rows of an element of limit is a null, not a number", false},
		{"a negative number", element(`{"rows": -1}`), gate.Limits{}, "is -1, not a whole number", false},
		{"a huge number", element(`{"rows": 1e300}`), gate.Limits{}, "is 1e300, not a whole number", false},
		{"an unknown name", element(`{"lines": 5}`), gate.Limits{}, `unknown name "lines"`, false},
		{"nothing", element(`{}`), gate.Limits{}, "limits nothing", false},
		{"a text", `limit contains lower("X")`, gate.Limits{}, "an element of limit is a string, not an object", false},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := load(t, Options{Kinds: twoKinds, Packages: map[string][]string{"ledger": {"tcp"}}, CacheSize: 10}, map[string]string{
				"ledger.rego": "package rules.ledger\n\nallow contains {\"id\": \"x\"}\n\n" + c.rules + "\n",
			})
			for range 2 { // the second is remembered
				v, err := s.Evaluate(t.Context(), connection("ledger", 1))
				if c.problem == "" {
					if diff := cmp.Diff(c.want, v.Limits); diff != "" || err != nil || v.Effect != gate.Allow {
						t.Errorf("%v, error %v:\n%s", v.Effect, err, diff)
					}
					continue
				}
				if _, unfit := errors.AsType[*gate.Unfit](err); v.Effect != gate.Deny || err == nil || !strings.Contains(err.Error(), c.problem) || unfit != c.unfit {
					t.Errorf("%v, error %v, not about %q", v.Effect, err, c.problem)
				}
			}
		})
	}
}

// TestExplainLimits: an explanation has each limit, and says where one is not kept.
func TestExplainLimits(t *testing.T) {
	s := load(t, Options{Kinds: twoKinds, Packages: map[string][]string{"ledger": {"tcp"}}}, map[string]string{
		"ledger.rego": "package rules.ledger\n\nallow contains {\"id\": \"x\"}\n\nlimit contains {\"rows\": 5}\n\nlimit contains e if {\n\tinput.tcp.port == 9\n\tsome e in [json.unmarshal(`{\"read_only\": true}`)]\n}\n",
	})
	explain := func(port string) string {
		t.Helper()
		x, err := s.Explain(t.Context(), "ledger", []byte(`{"resource": {"kind": "tcp"}, "tcp": {"port": `+port+`}}`))
		if err != nil {
			t.Fatal(err)
		}
		return x.String()
	}
	if got := explain("1"); !strings.Contains(got, "verdict: allow\n") || !strings.Contains(got, "limit   ledger {\"rows\": 5}  ") || !strings.Contains(got, "ledger.rego:5\n") {
		t.Error(got)
	}
	if got := explain("9"); !strings.Contains(got, "verdict: deny\nbecause the evaluation failed: Policy limits this operation by read_only") {
		t.Error(got)
	}
}
