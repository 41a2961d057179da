package policy

import (
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/countersign/countersign/extproc/gate"
)

func explainInput(t *testing.T, call web) []byte {
	t.Helper()
	op := operation("payments", call)
	o, err := op.Object()
	if err != nil {
		t.Fatal(err)
	}
	members := append([]gate.Member{{Name: "context", Value: op.Context.Object(op.Principal)}}, o...)
	full, err := gate.MakeObject(members...)
	if err != nil {
		t.Fatal(err)
	}
	text, err := full.AppendJSON(nil)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

func TestExplain(t *testing.T) {
	files := rego(designPolicy)
	files["global.rego"] = "package rules.global\n\nallow contains rule if {\n\tsome name in input.principal.roles\n\trule := {\"id\": name}\n}\n"
	s := load(t, Options{}, files)
	for _, c := range []struct {
		name string
		call web
		want string
	}{
		{"an outranked allow is shown", get("v1", "exports"), `verdict: deny
allow   payments {"id": "read"}  payments.rego:3
deny    payments {"id": "export", "reason": "no bulk export"}  payments.rego:10
redact  payments {"detect": "email", "with": "mask"}  payments.rego:14
redact  payments {"path": "$..ssn"}  payments.rego:12
allow   global {"id": "reader"}  global.rego:3
`},
		{"an ask", web{method: "POST", segments: []string{"v1", "payments", "7", "refunds"}}, `verdict: ask
ask     payments {"approvers": ["payments-oncall"], "id": "refund", "quorum": 1, "reason": "refunds need a person"}  payments.rego:5
redact  payments {"detect": "email", "with": "mask"}  payments.rego:14
redact  payments {"path": "$..ssn"}  payments.rego:12
allow   global {"id": "reader"}  global.rego:3
`},
	} {
		t.Run(c.name, func(t *testing.T) {
			before, err := s.Evaluate(t.Context(), operation("payments", c.call))
			if err != nil {
				t.Fatal(err)
			}
			x, err := s.Explain(t.Context(), "payments", explainInput(t, c.call))
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(c.want, withoutDirs(x.String())); diff != "" {
				t.Error(diff)
			}
			if diff := cmp.Diff(before, x.Verdict); diff != "" {
				t.Errorf("explained is not evaluated:\n%s", diff)
			}
			// What is being evaluated is shared: explaining must not write into it.
			after, err := s.Evaluate(t.Context(), operation("payments", c.call))
			if diff := cmp.Diff(before, after); diff != "" || err != nil {
				t.Errorf("explaining changed the verdict, error %v:\n%s", err, diff)
			}
		})
	}
}

func withoutDirs(s string) string {
	return regexp.MustCompile(`/[^ :]*/`).ReplaceAllString(s, "")
}

func TestExplainDenials(t *testing.T) {
	s := load(t, Options{}, rego("allow contains {\"id\": \"read\"} if input.http.method == \"GET\"\n\nallow contains {\"id\": \"n\"} if to_number(input.http.host) == 1"))
	x, err := s.Explain(t.Context(), "payments", []byte(`{"http": {"method": "PUT"}, "htp": {}, "principal": {"subjct": "x"}}`))
	if err != nil {
		t.Fatal(err)
	}
	want := "verdict: deny\nbecause nothing was said: no rule allows it\n" +
		"silent  an allow rule that does not hold here  payments.rego:3\nsilent  an allow rule that does not hold here  payments.rego:5\n" +
		"warning: input.htp is nothing that an operation has\nwarning: input.principal.subjct is nothing that an operation has\n"
	if diff := cmp.Diff(want, withoutDirs(x.String())); diff != "" || !x.ByDefault() {
		t.Errorf("by default %v\n%s", x.ByDefault(), diff)
	}
	x, err = s.Explain(t.Context(), "payments", []byte(`{"http": {"method": "GET", "host": "a"}}`))
	if err != nil || !strings.Contains(x.Failure, "to_number") || x.Verdict.Effect != gate.Deny || x.ByDefault() {
		t.Errorf("explanation %v, error %v", &x, err)
	}
}

func TestExplainReadsStrictly(t *testing.T) {
	s := load(t, Options{}, rego(designPolicy))
	for name, input := range map[string]string{
		"a name twice":               `{"http": {"method": "GET", "method": "PUT"}}`,
		"a name twice, once escaped": `{"http": {"method": "GET", "m\u0065thod": "PUT"}}`,
		"a second value":             `{} {}`,
		"not an object":              `[]`,
		"nothing":                    ``,
		"half":                       `{"http": {`,
		"bad UTF-8":                  "{\"a\": \"\xff\"}",
		"a huge number":              `{"http": {"body": 1e99999}}`,
		"too deep":                   strings.Repeat(`{"a":`, 600) + "1" + strings.Repeat("}", 600),
	} {
		if x, err := s.Explain(t.Context(), "payments", []byte(input)); err == nil {
			t.Errorf("%s: explained %v", name, &x)
		}
	}
	if _, err := s.Explain(t.Context(), "payment", []byte("{}")); err == nil || !strings.Contains(err.Error(), `there are ["payments"]`) {
		t.Errorf("error %v", err)
	}
}

func TestRegoTests(t *testing.T) {
	tests := "package rules.payments_test\n\nimport data.rules.payments\n\ntest_read if count(payments.allow) == 1 with input as {\"http\": {\"method\": \"GET\"}}\n"
	for _, c := range []struct {
		name, test string
		passed     bool
		want       []string
	}{
		{"all pass", tests, true, []string{"PASS: 1/1\n"}},
		{
			"one fails", tests + "\ntest_write if {\n\tprint(\"seen\", payments.allow)\n\tcount(payments.allow) == 1 with input as {\"http\": {\"method\": \"PUT\"}}\n}\n", false,
			[]string{"payments_test.rego:7: data.rules.payments_test.test_write: FAIL", "payments_test.rego:9: count(payments.allow) == 1", "seen set()", "FAIL: 1/2\n"},
		},
		{"a built-in error", tests + "\ntest_error if not to_number(\"x\") == 1\n", false, []string{"ERROR", "to_number", "FAIL: 1/2\n"}},
		{"a skipped test is not a pass", tests + "\ntodo_test_x if true\n", false, []string{"SKIP", "FAIL: 1/2\n"}},
		{"no test", "package rules.payments_test\n", false, []string{"has no tests, which are rules whose names begin with test_\n"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			files := rego("allow contains {\"id\": \"read\"} if input.http.method == \"GET\"")
			files["payments_test.rego"] = c.test
			var out strings.Builder
			passed, err := Test(t.Context(), write(t, files), httpKinds, &out, false)
			if err != nil || passed != c.passed {
				t.Errorf("passed %v, error %v", passed, err)
			}
			for _, want := range c.want {
				if !strings.Contains(out.String(), want) {
					t.Errorf("no %q in\n%s", want, out.String())
				}
			}
		})
	}
	t.Run("a test that does not compile", func(t *testing.T) {
		files := rego("allow contains {\"id\": \"read\"}")
		files["payments_test.rego"] = "package rules.payments_test\n\ntest_clock if time.now_ns() > 0\n"
		_, err := Test(t.Context(), write(t, files), httpKinds, &strings.Builder{}, false)
		if err == nil || !strings.Contains(err.Error(), filepath.Base("payments_test.rego:3:15")) {
			t.Errorf("error %v", err)
		}
	})
}

// What package comment and schema promise to the stock tools.
func TestCapabilities(t *testing.T) {
	text, err := capabilitiesFile()
	if err != nil {
		t.Fatal(err)
	}
	for name := range removedBuiltins {
		if strings.Contains(string(text), `"`+name+`"`) {
			t.Errorf("%s is there", name)
		}
	}
	for _, name := range []string{"net.cidr_contains", "time.parse_rfc3339_ns", "regex.match"} {
		if !strings.Contains(string(text), `"`+name+`"`) {
			t.Errorf("%s is not there", name)
		}
	}
	for _, b := range capabilities().Builtins {
		if b.Nondeterministic {
			t.Errorf("%s is not deterministic", b.Name)
		}
	}
}
